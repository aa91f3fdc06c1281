//! The wallet as one durable record: a version byte, then CBOR. Equal wallets have equal bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::coin::{KeySource, Purpose};
use super::history::{Entry, Status};
use super::ledger::{Ledger, Owned, Record};
use super::{Wallet, WalletError};
use crate::merkle_path::MerklePath;
use crate::{Satoshis, Transaction, Txid};

/// The layout written here. A program refuses versions it does not know rather than guess about money.
const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct StoredWallet {
    next_change: u64,
    next_funding: u64,
    next_sequence: u64,
    funding: Vec<(u64, ByteBuf)>,
    carried_sat: i64,
    records: Vec<StoredRecord>,
}

#[derive(Serialize, Deserialize)]
struct StoredRecord {
    txid: Txid,
    tx: Option<ByteBuf>,
    path: Option<ByteBuf>,
    status: Status,
    entry: Option<Entry>,
    outputs: Vec<StoredOutput>,
    reclaims: Option<Txid>,
    sealed: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredOutput {
    vout: u32,
    value: Satoshis,
    key: KeySource,
    purpose: Purpose,
    gone: bool,
}

impl Wallet {
    /// The wallet's whole state. The same state always gives the same bytes.
    ///
    /// # Errors
    /// [`WalletError::Stored`] only if memory for the bytes cannot be had.
    pub fn to_bytes(&self) -> Result<Vec<u8>, WalletError> {
        let stored = StoredWallet {
            next_change: self.next_change,
            next_funding: self.next_funding,
            next_sequence: self.next_sequence,
            funding: self.funding.iter().map(|(n, hash)| (*n, ByteBuf::from(hash.to_vec()))).collect(),
            carried_sat: self.carried_sat,
            records: self.ledger.iter().map(|(txid, record)| store(txid, record)).collect(),
        };
        cbor4ii::serde::to_vec(vec![VERSION], &stored).map_err(|error| WalletError::Stored(error.to_string()))
    }

    /// Restores what [`Wallet::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`WalletError::Stored`] says what is wrong with the bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WalletError> {
        let refuse = |what: String| WalletError::Stored(what);
        let body = match bytes.split_first() {
            Some((&VERSION, body)) => body,
            Some((version, _)) => {
                return Err(refuse(format!(
                    "it has layout {version}, this program reads {VERSION}; use a newer program"
                )));
            }
            None => return Err(refuse("it is empty".to_owned())),
        };
        let stored: StoredWallet =
            cbor4ii::serde::from_slice(body).map_err(|error| refuse(error.to_string()))?;
        let mut ledger = Ledger::default();
        for record in stored.records {
            let (txid, record) = restore(record)?;
            ledger.insert(txid, record);
        }
        let funding = stored.funding.into_iter().map(|(number, hash)| {
            let hash = hash.as_slice().try_into();
            hash.map(|hash| (number, hash)).map_err(|_| refuse("a funding hash has not 20 bytes".to_owned()))
        });
        Ok(Self {
            next_change: stored.next_change,
            next_funding: stored.next_funding,
            next_sequence: stored.next_sequence,
            funding: funding.collect::<Result<_, _>>()?,
            carried_sat: stored.carried_sat,
            ledger,
        })
    }
}

fn store(txid: &Txid, record: &Record) -> StoredRecord {
    let outputs = record.outputs.iter().map(|(vout, owned)| StoredOutput {
        vout: *vout,
        value: owned.value,
        key: owned.key.clone(),
        purpose: owned.purpose.clone(),
        gone: owned.gone,
    });
    StoredRecord {
        txid: *txid,
        tx: record.tx.as_ref().map(|tx| ByteBuf::from(tx.to_bytes())),
        path: record.path.as_ref().map(|path| ByteBuf::from(path.to_bytes())),
        status: record.status.clone(),
        entry: record.entry.clone(),
        outputs: outputs.collect(),
        reclaims: record.reclaims,
        sealed: record.sealed,
    }
}

fn restore(stored: StoredRecord) -> Result<(Txid, Record), WalletError> {
    let txid = stored.txid;
    let refuse = |what: String| WalletError::Stored(format!("transaction {txid}: {what}"));
    let tx = stored.tx.map(|bytes| Transaction::from_bytes(&bytes)).transpose();
    let tx = tx.map_err(|error| refuse(error.to_string()))?;
    if tx.as_ref().is_some_and(|tx| tx.txid() != txid) {
        return Err(refuse("its bytes have another id".to_owned()));
    }
    let path = stored.path.map(|bytes| MerklePath::parse(&bytes)).transpose();
    let path = path.map_err(|error| refuse(error.to_string()))?;
    let outputs: BTreeMap<u32, Owned> = stored
        .outputs
        .into_iter()
        .map(|o| (o.vout, Owned { value: o.value, key: o.key, purpose: o.purpose, gone: o.gone }))
        .collect();
    let record = Record {
        tx,
        path,
        status: stored.status,
        entry: stored.entry,
        outputs,
        reclaims: stored.reclaims,
        sealed: stored.sealed,
    };
    Ok((txid, record))
}
