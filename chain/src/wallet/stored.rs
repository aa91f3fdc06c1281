//! The wallet as durable records: a small head, the funding addresses, and one record for each transaction. Each is a version byte, then CBOR.
//! Equal wallets have equal records, and a change touches only the records it is about.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::coin::{KeySource, Purpose};
use super::history::{Entry, Status};
use super::index::{Map, Set};
use super::ledger::{Ledger, Owned, Record};
use super::{Task, Wallet, WalletError};
use crate::merkle_path::MerklePath;
use crate::{Satoshis, Transaction, Txid};

/// The layout written here. A program refuses versions it does not know rather than guess about money.
const VERSION: u8 = 2;

/// What is stored already.
#[derive(Debug, Clone, Default)]
pub(super) struct Saved {
    head: Option<Arc<[u8]>>,
    pub(super) funding_changed: bool,
}

/// What has to be stored so that the stored wallet is this one: all of it in one database transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The head record, if it changed.
    pub head: Option<Vec<u8>>,
    /// The record of funding addresses, if one was given out.
    pub funding: Option<Vec<u8>>,
    /// Records of transactions to be written, in the order of their ids.
    pub put: Vec<(Txid, Vec<u8>)>,
    /// Transactions whose records are to be removed.
    pub removed: Vec<Txid>,
    /// Transactions that the network had and that another one, the second, has outdone: a person should know of each.
    pub outdone: Vec<(Txid, Txid)>,
}

impl Changes {
    /// Whether there is nothing to be stored.
    pub fn is_empty(&self) -> bool {
        self.head.is_none() && self.funding.is_none() && self.put.is_empty() && self.removed.is_empty()
    }
}

#[derive(Serialize, Deserialize)]
struct StoredHead {
    next_change: u64,
    next_funding: u64,
    next_sequence: u64,
    carried_sat: i64,
    /// How many transactions there are, so that a lost record is noticed.
    records: u64,
}

/// Short names, and nothing for what is not there: there is one of these for each line of history.
#[derive(Serialize, Deserialize)]
struct StoredRecord {
    #[serde(rename = "id")]
    txid: Txid,
    #[serde(rename = "st")]
    status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tx: Option<ByteBuf>,
    #[serde(rename = "mp", default, skip_serializing_if = "Option::is_none")]
    path: Option<ByteBuf>,
    #[serde(rename = "en", default, skip_serializing_if = "Option::is_none")]
    entry: Option<Entry>,
    #[serde(rename = "out", default, skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<StoredOutput>,
    #[serde(rename = "rec", default, skip_serializing_if = "Option::is_none")]
    reclaims: Option<Txid>,
    #[serde(rename = "seal", default, skip_serializing_if = "std::ops::Not::not")]
    sealed: bool,
    #[serde(rename = "ht", default, skip_serializing_if = "Option::is_none")]
    since: Option<u32>,
    #[serde(rename = "task", default, skip_serializing_if = "Option::is_none")]
    task: Option<Task>,
}

#[derive(Serialize, Deserialize)]
struct StoredOutput {
    vout: u32,
    value: Satoshis,
    key: KeySource,
    purpose: Purpose,
    gone: bool,
}

/// All records in one.
#[derive(Serialize, Deserialize)]
struct StoredWallet {
    head: ByteBuf,
    funding: Option<ByteBuf>,
    records: Vec<(Txid, ByteBuf)>,
}

impl Wallet {
    /// What has changed since the changes were last taken, in records. It costs as much as the change, not as the wallet.
    ///
    /// # Errors
    /// [`WalletError::Stored`] only if memory for the bytes cannot be had.
    pub fn changes(&self) -> Result<Changes, WalletError> {
        let head = self.head()?;
        let mut changes = Changes {
            head: (self.saved.head.as_deref() != Some(&head)).then_some(head),
            funding: self.saved.funding_changed.then(|| self.funding_record()).transpose()?,
            outdone: self.ledger.outdone.iter().map(|(txid, by)| (*txid, *by)).collect(),
            ..Changes::default()
        };
        for txid in self.ledger.changed.iter() {
            match self.ledger.get(txid) {
                Some(record) => changes.put.push((*txid, encode(&store(txid, record))?)),
                None => changes.removed.push(*txid),
            }
        }
        Ok(changes)
    }

    /// [`Wallet::changes`], which count as stored from now on. To be called on a copy that replaces the wallet once they really are.
    ///
    /// # Errors
    /// As [`Wallet::changes`].
    pub fn take_changes(&mut self) -> Result<Changes, WalletError> {
        let changes = self.changes()?;
        self.mark_saved(changes.head.as_deref());
        Ok(changes)
    }

    fn mark_saved(&mut self, head: Option<&[u8]>) {
        if let Some(head) = head {
            self.saved.head = Some(head.into());
        }
        self.saved.funding_changed = false;
        (self.ledger.changed, self.ledger.outdone) = (Set::default(), Map::default());
    }

    /// Every record of the wallet, as [`Changes`] to an empty store.
    ///
    /// # Errors
    /// As [`Wallet::changes`].
    pub fn everything(&self) -> Result<Changes, WalletError> {
        let records = self.ledger.iter().map(|(txid, record)| Ok((*txid, encode(&store(txid, record))?)));
        Ok(Changes {
            head: Some(self.head()?),
            funding: if self.funding.is_empty() { None } else { Some(self.funding_record()?) },
            put: records.collect::<Result<_, WalletError>>()?,
            ..Changes::default()
        })
    }

    /// Restores a wallet from its records: the head, the funding addresses if there are any, and those of all transactions, each with the
    /// id it is stored under. No head and no records are an empty wallet.
    ///
    /// # Errors
    /// [`WalletError::StoredRecord`] names the transaction whose record is torn or another one's; [`WalletError::Stored`] says what is wrong
    /// with the rest, a record that is missing included.
    pub fn from_records<B: AsRef<[u8]>>(
        head: Option<&[u8]>,
        funding: Option<&[u8]>,
        records: impl IntoIterator<Item = (Txid, B)>,
    ) -> Result<Self, WalletError> {
        let refuse = |what: String| WalletError::Stored(what);
        let mut ledger = Ledger::default();
        for (txid, bytes) in records {
            let refuse = |reason: String| WalletError::StoredRecord { txid, reason };
            let stored: StoredRecord = decode(bytes.as_ref()).map_err(refuse)?;
            if stored.txid != txid {
                return Err(refuse(format!("it is the one of {}", stored.txid)));
            }
            if ledger.get(&txid).is_some() {
                return Err(refuse("it is there twice".to_owned()));
            }
            ledger.put(&txid, Some(restore(stored).map_err(refuse)?));
        }
        let Some(head) = head else {
            return if ledger.len() == 0 && funding.is_none() {
                Ok(Self::new())
            } else {
                Err(refuse("its head is missing; restore a backup of this home".to_owned()))
            };
        };
        let stored: StoredHead = decode(head).map_err(|reason| refuse(format!("its head: {reason}")))?;
        if u64::try_from(ledger.len()) != Ok(stored.records) {
            let found = ledger.len();
            return Err(refuse(format!(
                "it has {} transactions, {found} are there; restore a backup of this home",
                stored.records
            )));
        }
        let mut wallet = Self {
            next_change: stored.next_change,
            next_funding: stored.next_funding,
            next_sequence: stored.next_sequence,
            funding: Arc::new(funding.map(restore_funding).transpose()?.unwrap_or_default()),
            carried_sat: stored.carried_sat,
            ledger,
            saved: Saved::default(),
        };
        wallet.mark_saved(Some(head));
        Ok(wallet)
    }

    /// The wallet's whole state in one record. The same state always gives the same bytes.
    ///
    /// # Errors
    /// As [`Wallet::changes`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, WalletError> {
        let Changes { head, funding, put, .. } = self.everything()?;
        encode(&StoredWallet {
            head: ByteBuf::from(head.unwrap_or_default()),
            funding: funding.map(ByteBuf::from),
            records: put.into_iter().map(|(txid, bytes)| (txid, ByteBuf::from(bytes))).collect(),
        })
    }

    /// Restores what [`Wallet::to_bytes`] wrote.
    ///
    /// # Errors
    /// As [`Wallet::from_records`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WalletError> {
        let stored: StoredWallet = decode(bytes).map_err(WalletError::Stored)?;
        let funding = stored.funding.as_deref().map(Vec::as_slice);
        Self::from_records(Some(&stored.head), funding, stored.records)
    }

    fn head(&self) -> Result<Vec<u8>, WalletError> {
        encode(&StoredHead {
            next_change: self.next_change,
            next_funding: self.next_funding,
            next_sequence: self.next_sequence,
            carried_sat: self.carried_sat,
            records: u64::try_from(self.ledger.len()).map_err(|_| WalletError::Overflow)?,
        })
    }

    fn funding_record(&self) -> Result<Vec<u8>, WalletError> {
        let addresses = self.funding.iter().map(|(number, hash)| (*number, ByteBuf::from(hash.to_vec())));
        encode(&addresses.collect::<Vec<_>>())
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, WalletError> {
    cbor4ii::serde::to_vec(vec![VERSION], value).map_err(|error| WalletError::Stored(error.to_string()))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&VERSION, body)) => cbor4ii::serde::from_slice(body).map_err(|error| error.to_string()),
        Some((version, _)) => {
            Err(format!("it has layout {version}, this program reads {VERSION}; use a newer program"))
        }
        None => Err("it is empty".to_owned()),
    }
}

fn restore_funding(bytes: &[u8]) -> Result<VecDeque<(u64, [u8; 20])>, WalletError> {
    let refuse = |reason: String| WalletError::Stored(format!("its funding addresses: {reason}"));
    let stored: Vec<(u64, ByteBuf)> = decode(bytes).map_err(refuse)?;
    let addresses = stored.into_iter().map(|(number, hash)| {
        let hash = hash.as_slice().try_into();
        hash.map(|hash| (number, hash)).map_err(|_| refuse("a hash has not 20 bytes".to_owned()))
    });
    addresses.collect()
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
        status: record.status.clone(),
        tx: record.tx.as_ref().map(|tx| ByteBuf::from(tx.to_bytes())),
        path: record.path.as_ref().map(|path| ByteBuf::from(path.to_bytes())),
        entry: record.entry.clone(),
        outputs: outputs.collect(),
        reclaims: record.reclaims,
        sealed: record.sealed,
        since: record.since,
        task: record.task,
    }
}

fn restore(stored: StoredRecord) -> Result<Record, String> {
    let tx = stored.tx.map(|bytes| Transaction::from_bytes(&bytes)).transpose();
    let tx = tx.map_err(|error| error.to_string())?;
    if tx.as_ref().is_some_and(|tx| tx.txid() != stored.txid) {
        return Err("its transaction has another id".to_owned());
    }
    let path = stored.path.map(|bytes| MerklePath::parse(&bytes)).transpose();
    let path = path.map_err(|error| error.to_string())?;
    let proven = path.as_ref().map(|path| (path.block_height(), path.offset_of(&stored.txid).is_some()));
    let fits = match (&tx, &stored.status) {
        (Some(_), Status::Mined { height }) => proven == Some((*height, true)),
        _ => proven.is_none(),
    };
    if !fits {
        return Err("its Merkle path does not fit its state".to_owned());
    }
    let mut outputs = BTreeMap::new();
    for StoredOutput { vout, value, key, purpose, gone } in stored.outputs {
        let there = tx.as_ref().and_then(|tx| tx.outputs.get(usize::try_from(vout).ok()?));
        if there.map(|output| output.value) != Some(value) {
            return Err(format!("its output {vout} is not what the transaction says"));
        }
        outputs.insert(vout, Owned { value, key, purpose, gone });
    }
    Ok(Record {
        tx: tx.map(Arc::new),
        path: path.map(Arc::new),
        status: stored.status,
        entry: stored.entry,
        outputs,
        reclaims: stored.reclaims,
        sealed: stored.sealed,
        since: stored.since,
        task: stored.task,
    })
}
