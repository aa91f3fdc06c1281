//! The wallet's one record, and the lines of history that have left it.

use redb::{ReadTransaction, WriteTransaction};
use sensora_chain::wallet::{HistoryEntry, Wallet};

use super::StoreError;
use super::kinds::Records;

const WALLET: Records = Records { name: "wallet" };
const ARCHIVE: Records = Records { name: "wallet_archive" };
const KEY: &[u8] = b"wallet";

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    WALLET.create(tx)?;
    ARCHIVE.create(tx)
}

/// Stores the wallet's state.
///
/// # Errors
/// [`StoreError`].
pub fn put(tx: &WriteTransaction, wallet: &Wallet) -> Result<(), StoreError> {
    let bytes = wallet.to_bytes().map_err(|error| StoreError::Damaged(error.to_string()))?;
    WALLET.put_bytes(tx, KEY, &bytes)
}

/// The wallet's state; an empty wallet if there is none yet.
///
/// # Errors
/// [`StoreError`].
pub fn get(tx: &ReadTransaction) -> Result<Wallet, StoreError> {
    match WALLET.get_bytes(tx, KEY)? {
        Some(bytes) => Wallet::from_bytes(&bytes).map_err(|error| StoreError::Damaged(error.to_string())),
        None => Ok(Wallet::new()),
    }
}

/// Keeps lines of history that the wallet has let go.
///
/// # Errors
/// [`StoreError`].
pub fn archive(tx: &WriteTransaction, entries: &[HistoryEntry]) -> Result<(), StoreError> {
    for entry in entries {
        ARCHIVE.put(tx, &entry.txid.0, entry)?;
    }
    Ok(())
}

/// The lines of history that the wallet has let go.
///
/// # Errors
/// [`StoreError`].
pub fn archived(tx: &ReadTransaction) -> Result<Vec<HistoryEntry>, StoreError> {
    ARCHIVE.all(tx)
}

/// Whether the wallet has had this transaction and let it go, as this change sees it.
///
/// # Errors
/// [`StoreError`].
pub fn is_archived_in(tx: &WriteTransaction, txid: &sensora_chain::Txid) -> Result<bool, StoreError> {
    Ok(ARCHIVE.get_in::<HistoryEntry>(tx, &txid.0)?.is_some())
}
