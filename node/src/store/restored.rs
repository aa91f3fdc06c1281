//! That this home was restored from a backup, and whether what happened since has been looked up on the chain.

use redb::{ReadTransaction, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::kinds::Records;

const RESTORED: Records = Records { name: "restored" };
const KEY: &[u8] = b"last";

/// The last restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// When the backup was made, milliseconds since the Unix epoch.
    pub backup_ms: i64,
    /// When it was put back.
    pub restored_ms: i64,
    /// Whether the chain has been asked what became of the coins since.
    pub followed: bool,
}

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    RESTORED.create(tx)
}

/// Notes a restore, or that it has been followed up.
///
/// # Errors
/// [`StoreError`].
pub fn put(tx: &WriteTransaction, restored: &Restored) -> Result<(), StoreError> {
    RESTORED.put(tx, KEY, restored)
}

/// The last restore, if there was one.
///
/// # Errors
/// [`StoreError`].
pub fn get(tx: &ReadTransaction) -> Result<Option<Restored>, StoreError> {
    RESTORED.get(tx, KEY)
}
