//! The wallet's records (a head, the funding addresses, one for each transaction), and the lines of history that have left it.

use redb::{ReadTransaction, WriteTransaction};
use sensora_chain::Txid;
use sensora_chain::wallet::{Changes, HistoryEntry, Wallet, WalletError};

use super::StoreError;
use super::kinds::Records;

const WALLET: Records = Records { name: "wallet" };
const TRANSACTIONS: Records = Records { name: "wallet_transactions" };
const ARCHIVE: Records = Records { name: "wallet_archive" };
const HEAD: &[u8] = b"head";
const FUNDING: &[u8] = b"funding";

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    WALLET.create(tx)?;
    TRANSACTIONS.create(tx)?;
    ARCHIVE.create(tx)
}

/// Stores what has changed of the wallet since it was read or last stored.
///
/// # Errors
/// [`StoreError`].
pub fn put(tx: &WriteTransaction, wallet: &Wallet) -> Result<(), StoreError> {
    put_changes(tx, &wallet.changes().map_err(|error| damaged(&error))?)
}

/// Stores changes that were taken from a wallet.
///
/// # Errors
/// [`StoreError`].
pub fn put_changes(tx: &WriteTransaction, changes: &Changes) -> Result<(), StoreError> {
    for (key, record) in [(HEAD, &changes.head), (FUNDING, &changes.funding)] {
        if let Some(record) = record {
            WALLET.put_bytes(tx, key, record)?;
        }
    }
    for (txid, record) in &changes.put {
        TRANSACTIONS.put_bytes(tx, &txid.0, record)?;
    }
    changes.removed.iter().try_for_each(|txid| TRANSACTIONS.remove(tx, &txid.0))
}

/// Stores a wallet in place of the one that is there, as after a restore.
///
/// # Errors
/// [`StoreError`].
pub fn replace(tx: &WriteTransaction, wallet: &Wallet) -> Result<(), StoreError> {
    for table in [&WALLET, &TRANSACTIONS] {
        table.clear(tx)?;
    }
    put_changes(tx, &wallet.everything().map_err(|error| damaged(&error))?)
}

/// The wallet's state; an empty wallet if there is none yet.
///
/// # Errors
/// [`StoreError::Damaged`] names the transaction whose record cannot be read.
pub fn get(tx: &ReadTransaction) -> Result<Wallet, StoreError> {
    let (head, funding) = (WALLET.get_bytes(tx, HEAD)?, WALLET.get_bytes(tx, FUNDING)?);
    let rows = TRANSACTIONS.scan(tx, &[], &[], usize::MAX)?;
    let rows = rows.into_iter().map(|(key, record)| {
        let txid = key.try_into().map(Txid);
        txid.map(|txid| (txid, record)).map_err(|_| {
            StoreError::Damaged("a key of table `wallet_transactions` has not 32 bytes".to_owned())
        })
    });
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    Wallet::from_records(head.as_deref(), funding.as_deref(), rows).map_err(|error| damaged(&error))
}

fn damaged(error: &WalletError) -> StoreError {
    StoreError::Damaged(error.to_string())
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

/// The line of a transaction that the wallet has let go.
///
/// # Errors
/// [`StoreError`].
pub fn archived_line(tx: &ReadTransaction, txid: &Txid) -> Result<Option<HistoryEntry>, StoreError> {
    ARCHIVE.get(tx, &txid.0)
}

/// Whether the wallet has had this transaction and let it go, as this change sees it.
///
/// # Errors
/// [`StoreError`].
pub fn is_archived_in(tx: &WriteTransaction, txid: &Txid) -> Result<bool, StoreError> {
    Ok(ARCHIVE.get_in::<HistoryEntry>(tx, &txid.0)?.is_some())
}
