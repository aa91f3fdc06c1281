//! Transactions of our own that still have to reach the network: anchors, ads, transfers, coins taken back.
//!
//! An entry stays until the network is known to have the transaction (somebody reports it to wait for a block, or it is mined) or never will.
//!
//! Payments of orders are never here: it is the seller who broadcasts them.

use redb::{ReadTransaction, WriteTransaction};
use sensora_chain::Txid;
use sensora_protocol::statement::bytes_or_hex;
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::kinds::Records;

const OUTBOX: Records = Records { name: "outbox" };

/// A transaction that waits to be taken by the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// The transaction.
    pub txid: Txid,
    /// It and its unproven ancestors: Atomic BEEF, as it was when it was built.
    #[serde(with = "bytes_or_hex")]
    pub beef: Vec<u8>,
}

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    OUTBOX.create(tx)
}

/// Adds a transaction.
///
/// # Errors
/// [`StoreError`].
pub fn put(tx: &WriteTransaction, outgoing: &Outgoing) -> Result<(), StoreError> {
    OUTBOX.put(tx, &outgoing.txid.0, outgoing)
}

/// Removes a transaction: the network has it, or will never have it.
///
/// # Errors
/// [`StoreError`].
pub fn remove(tx: &WriteTransaction, txid: &Txid) -> Result<(), StoreError> {
    OUTBOX.remove(tx, &txid.0)
}

/// All that wait.
///
/// # Errors
/// [`StoreError`].
pub fn all(tx: &ReadTransaction) -> Result<Vec<Outgoing>, StoreError> {
    OUTBOX.all(tx)
}
