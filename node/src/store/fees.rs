//! The last word of a service on what miners ask for, so that a restart begins with it.

use redb::{ReadTransaction, WriteTransaction};
use sensora_chain::FeeRate;
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::kinds::Records;

const FEES: Records = Records { name: "fees" };
const KEY: &[u8] = b"quote";

/// A fee rate in a service's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredQuote {
    /// The service's name.
    pub by: String,
    /// What it says, before our limits.
    pub rate: FeeRate,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    FEES.create(tx)
}

/// Replaces the quote.
///
/// # Errors
/// [`StoreError`].
pub fn put(tx: &WriteTransaction, quote: &StoredQuote) -> Result<(), StoreError> {
    FEES.put(tx, KEY, quote)
}

/// The last quote.
///
/// # Errors
/// [`StoreError`].
pub fn get(tx: &ReadTransaction) -> Result<Option<StoredQuote>, StoreError> {
    FEES.get(tx, KEY)
}
