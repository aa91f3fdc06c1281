//! What a node must not forget: one redb file for each home.
//!
//! Everything that belongs together is changed in one [`Store::write`]: an order with the wallet that pays it, a sale with
//! the coin it brings, a batch of readings with the chunk it fills. When `write` has returned, it is on disk; only then does the next message
//! go out. The rooms below own their tables and give functions that work inside such a transaction.

pub mod ads;
pub mod anchors;
pub mod bought;
pub mod headers;
pub mod kinds;
pub mod orders;
pub mod outbox;
pub mod peers;
pub mod streams;
pub mod wallet;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use sensora_chain::Network;
use sensora_chain::keys::PublicKey;
use sensora_protocol::codec::{self, CodecError};
use sensora_protocol::identity::peer_id;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of the tables' layout. A file of a later version is refused, one of an earlier version is brought up to date here.
pub const SCHEMA_VERSION: u64 = 1;

/// Longest record that is read back. A wallet with its history is the longest.
pub const MAX_RECORD: usize = 256 << 20;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Cache of redb in bytes. The default of 1 GiB is far above what a small device has; the hot pages of a node fit in this.
const CACHE_BYTES: usize = 4 << 20;

/// Why the store cannot be opened or a change was not made. Nothing of a failed change is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it open.
    #[error("{path} is in use by another process: stop it first, or give another --home")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: DatabaseError,
    },
    /// Written by a later version of this program.
    #[error(
        "{path} was written by a later version of sensora (layout {found}, this one knows {known}): update sensora"
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Layout of the file.
        found: u64,
        /// Layout of this program.
        known: u64,
    },
    /// Belongs to another network or key.
    #[error("{path} belongs to {what} {found}, this node is {expected}: give the home it was made with")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Network or peer.
        what: &'static str,
        /// What the file says.
        found: String,
        /// What this node is.
        expected: String,
    },
    /// The disk is full.
    #[error("the disk is full: free some space; nothing was changed")]
    DiskFull,
    /// Reading or writing failed.
    #[error("the store failed: {0}")]
    Database(#[from] redb::Error),
    /// A record cannot be read back.
    #[error("a record in table `{table}` cannot be read: {source}")]
    Record {
        /// The table.
        table: &'static str,
        /// What is wrong with it.
        source: CodecError,
    },
    /// Records that contradict each other.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

impl StoreError {
    fn of(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(io) if io.kind() == std::io::ErrorKind::StorageFull => Self::DiskFull,
            other => Self::Database(other),
        }
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::of(error.into())
            }
        }
    )*};
}
from_redb!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError);

/// The store of one home. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    db: Arc<Database>,
}

impl Store {
    /// Opens (or makes) the store of the node `key` on `network`.
    ///
    /// # Errors
    /// [`StoreError`]: in use, not readable, of a later version, of another node.
    pub fn open(path: &Path, network: Network, key: &PublicKey) -> Result<Self, StoreError> {
        let db =
            Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|source| match source {
                DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
                source => StoreError::Open { path: path.to_owned(), source },
            })?;
        Self::bind(db, path, network, key)
    }

    /// A store in memory, for tests and for looking around without a home.
    ///
    /// # Errors
    /// Only when memory is short.
    pub fn in_memory(network: Network, key: &PublicKey) -> Result<Self, StoreError> {
        let path = Path::new("memory");
        let backend = redb::backends::InMemoryBackend::new();
        let db = Database::builder()
            .create_with_backend(backend)
            .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        Self::bind(db, path, network, key)
    }

    fn bind(db: Database, path: &Path, network: Network, key: &PublicKey) -> Result<Self, StoreError> {
        let store = Self { db: Arc::new(db) };
        let expected = [("network", network.name().to_owned()), ("peer", peer_id(key))];
        store.write(|tx| {
            let mut meta = tx.open_table(META)?;
            let found = meta.get("schema")?.map(|value| be_u64(value.value()));
            match found {
                None => {
                    meta.insert("schema", SCHEMA_VERSION.to_be_bytes().as_slice())?;
                }
                Some(found) if found > SCHEMA_VERSION => {
                    return Err(StoreError::TooNew { path: path.to_owned(), found, known: SCHEMA_VERSION });
                }
                Some(_) => {}
            }
            for (what, expected) in expected {
                let found = meta.get(what)?.map(|value| String::from_utf8_lossy(value.value()).into_owned());
                match found {
                    None => {
                        meta.insert(what, expected.as_bytes())?;
                    }
                    Some(found) if found != expected => {
                        return Err(StoreError::Foreign { path: path.to_owned(), what, found, expected });
                    }
                    Some(_) => {}
                }
            }
            drop(meta);
            ads::create(tx)?;
            anchors::create(tx)?;
            bought::create(tx)?;
            headers::create(tx)?;
            orders::create(tx)?;
            outbox::create(tx)?;
            peers::create(tx)?;
            streams::create(tx)?;
            wallet::create(tx)
        })?;
        Ok(store)
    }

    /// Reads one consistent state.
    ///
    /// # Errors
    /// The closure's, and [`StoreError`] when the store fails.
    pub fn read<T, E: From<StoreError>>(
        &self,
        f: impl FnOnce(&ReadTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let tx = self.db.begin_read().map_err(StoreError::from)?;
        f(&tx)
    }

    /// Changes everything in `f`, or nothing. On disk when this returns.
    ///
    /// # Errors
    /// The closure's (nothing is changed then), and [`StoreError`] when the store fails.
    pub fn write<T, E: From<StoreError>>(
        &self,
        f: impl FnOnce(&WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let tx = self.db.begin_write().map_err(StoreError::from)?;
        let value = f(&tx)?;
        tx.commit().map_err(StoreError::from)?;
        Ok(value)
    }
}

/// A record's bytes.
pub(crate) fn to_record<T: Serialize>(table: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    codec::encode(value).map_err(|source| StoreError::Record { table, source })
}

/// A record from its bytes.
pub(crate) fn from_record<T: DeserializeOwned>(table: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    codec::decode(bytes, MAX_RECORD).map_err(|source| StoreError::Record { table, source })
}

fn be_u64(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(u64::MAX, u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensora_chain::keys::PrivateKey;

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from_bytes([seed; 32]).unwrap().public()
    }

    #[test]
    fn a_store_opens_once_and_only_for_its_node() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.redb");
        let open = |network, seed| Store::open(&path, network, &key(seed));
        let store = open(Network::Regtest, 1).unwrap();
        assert!(matches!(open(Network::Regtest, 1), Err(StoreError::InUse { .. })));
        drop(store);
        assert!(matches!(open(Network::Main, 1), Err(StoreError::Foreign { what: "network", .. })));
        assert!(matches!(open(Network::Regtest, 2), Err(StoreError::Foreign { what: "peer", .. })));
        let store = open(Network::Regtest, 1).unwrap();
        store
            .write(|tx| {
                let later = (SCHEMA_VERSION + 1).to_be_bytes();
                tx.open_table(META)?.insert("schema", later.as_slice())?;
                Ok::<_, StoreError>(())
            })
            .unwrap();
        drop(store);
        assert!(matches!(open(Network::Regtest, 1), Err(StoreError::TooNew { .. })));
    }

    #[test]
    fn a_failed_change_changes_nothing() {
        let store = Store::in_memory(Network::Regtest, &key(1)).unwrap();
        let failed: Result<(), StoreError> = store.write(|tx| {
            tx.open_table(META)?.insert("x", b"y".as_slice())?;
            Err(StoreError::DiskFull)
        });
        assert!(failed.is_err());
        let found = store.read(|tx| {
            let table = tx.open_table(META)?;
            Ok::<_, StoreError>(table.get("x")?.is_some())
        });
        assert!(!found.unwrap());
    }
}
