//! What a node must not forget: one redb file for each home, and beside it the block headers in one of their own
//! ([`headers`]), which can be fetched again.
//!
//! Everything that belongs together is changed in one [`Store::write`]: an order with the wallet that pays it, a sale with
//! the coin it brings, a batch of readings with the chunk it fills. When `write` has returned, it is on disk; only then does the next message
//! go out. The rooms below own their tables and give functions that work inside such a transaction.
//!
//! A disk that fails or is full fails the change at hand and nothing else: the store opens itself anew with the next call, so it works
//! again as soon as the disk does. Each change carries a number, so that after a failed commit it is known, and not guessed,
//! whether the change is there; an error always means that it is not.

pub mod ads;
pub mod anchors;
mod backend;
pub mod bought;
pub mod budget;
pub mod channels;
pub mod fees;
mod group;
pub mod headers;
pub mod kinds;
pub mod orders;
pub mod outbox;
pub mod peers;
pub mod reads;
pub mod release;
pub mod restored;
pub mod streams;
pub mod tables;
pub mod wallet;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, WriteTransaction,
};
use sensora_chain::Network;
use sensora_chain::keys::PublicKey;
use sensora_protocol::codec::{self, CodecError};
use sensora_protocol::identity::peer_id;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::backend::{Health, Watched};

/// Version of the tables' layout. A file of a later version is refused, one of an earlier version is brought up to date here.
pub const SCHEMA_VERSION: u64 = 2;

/// Longest record that is read back: far above any that is written, so that a damaged length allocates nothing absurd.
pub const MAX_RECORD: usize = 256 << 20;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Under which the number of the last change stands.
const CHANGES: &str = "changes";

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
    /// A change that was reported as failed, while the disk could not be read, turns out to be stored.
    #[error(
        "{path} holds a change that had been given up when the disk failed: restart the node, so that it goes on from what is stored"
    )]
    Outdated {
        /// The file.
        path: PathBuf,
    },
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
    /// Nobody works on the store any more: the node is stopping.
    #[error("a change of {path} was not made: the node is stopping")]
    Stopped {
        /// The file.
        path: PathBuf,
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
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

type Opener = Box<dyn Fn(Health) -> Result<Database, DatabaseError> + Send + Sync>;

struct Inner {
    path: PathBuf,
    open: Opener,
    health: Health,
    /// `None` while it could not be opened again after a failure. Replaced only by who holds `writer`.
    db: RwLock<Option<Database>>,
    writer: Mutex<Writer>,
    group: group::Group,
}

/// What is known of the changes so far. Whoever holds it is the one that changes something.
#[derive(Debug, Default)]
struct Writer {
    /// Number of the last change that is stored.
    stored: u64,
    /// Number of a change of which nothing is known: its commit failed, and the store could not be opened since.
    doubtful: Option<u64>,
    /// The doubtful change was stored; what the node knows in memory is older than the store.
    outdated: bool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens (or makes) the store of the node `key` on `network`.
    ///
    /// # Errors
    /// [`StoreError`]: in use, not readable, of a later version, of another node.
    pub fn open(path: &Path, network: Network, key: &PublicKey) -> Result<Self, StoreError> {
        let file = path.to_owned();
        let open = move |health| {
            let file = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&file)
                .map_err(redb::StorageError::from)?;
            database(Watched::new(FileBackend::new(file)?, health))
        };
        Self::start(path, Box::new(open), network, key)
    }

    /// A store in memory, for tests and for looking around without a home.
    ///
    /// # Errors
    /// Only when memory is short.
    pub fn in_memory(network: Network, key: &PublicKey) -> Result<Self, StoreError> {
        let open = |health| database(Watched::new(InMemoryBackend::new(), health));
        Self::start(Path::new("memory"), Box::new(open), network, key)
    }

    /// A store on a backend of the caller's: for tests of what happens when a disk fails. Clones of the backend are the same storage;
    /// the store opens another one after a failure.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn with_backend<B: StorageBackend + Clone>(
        backend: B,
        network: Network,
        key: &PublicKey,
    ) -> Result<Self, StoreError> {
        let open = move |health| database(Watched::new(backend.clone(), health));
        Self::start(Path::new("backend"), Box::new(open), network, key)
    }

    fn start(path: &Path, open: Opener, network: Network, key: &PublicKey) -> Result<Self, StoreError> {
        let health = Health::default();
        let db = open(health.clone()).map_err(|source| open_error(path, source))?;
        let (db, writer, group) = (RwLock::new(Some(db)), Mutex::default(), group::Group::default());
        let path_of = path.to_owned();
        let store = Self { inner: Arc::new(Inner { path: path_of, open, health, db, writer, group }) };
        store.bind(path, network, key)?;
        Ok(store)
    }

    /// Makes the tables, and checks that the store is this node's.
    fn bind(&self, path: &Path, network: Network, key: &PublicKey) -> Result<(), StoreError> {
        let expected = [("network", network.name().to_owned()), ("peer", peer_id(key))];
        let changes = self.read(|tx| match tx.open_table(META) {
            Ok(meta) => Ok(meta.get(CHANGES)?.map_or(0, |value| be_u64(value.value()))),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(0),
            Err(error) => Err(StoreError::from(error)),
        })?;
        self.writer().stored = changes;
        self.write(|tx| {
            let mut meta = tx.open_table(META)?;
            let written = meta.get("schema")?.map(|value| be_u64(value.value()));
            if let Some(found) = written.filter(|found| *found > SCHEMA_VERSION) {
                return Err(StoreError::TooNew { path: path.to_owned(), found, known: SCHEMA_VERSION });
            }
            meta.insert("schema", SCHEMA_VERSION.to_be_bytes().as_slice())?;
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
            if written == Some(1) {
                bought::note_spans(tx)?;
                streams::gather_tails(tx)?;
            }
            budget::create(tx)?;
            fees::create(tx)?;
            channels::create(tx)?;
            orders::create(tx)?;
            outbox::create(tx)?;
            peers::create(tx)?;
            reads::create(tx)?;
            release::create(tx)?;
            restored::create(tx)?;
            streams::create(tx)?;
            wallet::create(tx)
        })
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads one consistent state. Not to be called from within another `read`.
    ///
    /// # Errors
    /// The closure's, and [`StoreError`] when the store fails.
    pub fn read<T, E: From<StoreError>>(
        &self,
        f: impl FnOnce(&ReadTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        // A writer that is busy sees the failure itself, and opens the store anew when it is done.
        if self.inner.health.has_failed()
            && let Ok(mut writer) = self.inner.writer.try_lock()
        {
            self.reopen(&mut writer)?;
        }
        let db = self.inner.db.read().unwrap_or_else(PoisonError::into_inner);
        let tx = db.as_ref().ok_or_else(closed)?.begin_read().map_err(StoreError::from)?;
        f(&tx)
    }

    /// Changes everything in `f`, or nothing. On disk when this returns.
    ///
    /// # Errors
    /// The closure's, and [`StoreError`] when the store fails. Nothing is changed then.
    pub fn write<T, E: From<StoreError>>(
        &self,
        f: impl FnOnce(&WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut writer = self.writer();
        if self.inner.health.has_failed() {
            self.reopen(&mut writer)?;
        }
        if writer.outdated {
            return Err(StoreError::Outdated { path: self.inner.path.clone() }.into());
        }
        let number = writer.stored.saturating_add(1);
        let db = self.inner.db.read().unwrap_or_else(PoisonError::into_inner);
        let tx = db.as_ref().ok_or_else(closed)?.begin_write().map_err(StoreError::from)?;
        let value = f(&tx)?;
        put_change(&tx, number)?;
        let error = match tx.commit() {
            Ok(()) => {
                writer.stored = number;
                return Ok(value);
            }
            Err(error) => StoreError::from(error),
        };
        drop(db);
        self.inner.health.fail();
        writer.doubtful = Some(number);
        match self.reopen(&mut writer) {
            // The commit had reached the disk before it failed.
            Ok(()) if writer.outdated => {
                writer.outdated = false;
                Ok(value)
            }
            _ => Err(error.into()),
        }
    }

    /// Opens the store anew after a failure, and finds out what became of a change that was under way.
    fn reopen(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let Inner { path, open, health, db, .. } = &*self.inner;
        let mut db = db.write().unwrap_or_else(PoisonError::into_inner);
        if !health.has_failed() {
            return Ok(());
        }
        // The old one holds the file's lock.
        *db = None;
        health.reset();
        let opened = open(health.clone()).map_err(|source| open_error(path, source));
        let opened = opened.and_then(|opened| Ok((last_change(&opened)?, opened)));
        match opened {
            Ok((found, opened)) => {
                tracing::warn!(path = %path.display(), "the store had failed and is open again");
                if writer.doubtful.take() == Some(found) {
                    writer.outdated = true;
                }
                writer.stored = found;
                *db = Some(opened);
                Ok(())
            }
            Err(error) => {
                health.fail();
                Err(error)
            }
        }
    }
}

fn database<B: StorageBackend>(backend: Watched<B>) -> Result<Database, DatabaseError> {
    Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)
}

fn open_error(path: &Path, source: DatabaseError) -> StoreError {
    match source {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
        DatabaseError::Storage(redb::StorageError::Io(io))
            if io.kind() == std::io::ErrorKind::StorageFull =>
        {
            StoreError::DiskFull
        }
        source => StoreError::Open { path: path.to_owned(), source },
    }
}

/// What is said while the store could not be opened again.
fn closed() -> StoreError {
    StoreError::Database(redb::Error::PreviousIo)
}

fn put_change(tx: &WriteTransaction, number: u64) -> Result<(), StoreError> {
    tx.open_table(META)?.insert(CHANGES, number.to_be_bytes().as_slice())?;
    Ok(())
}

fn last_change(db: &Database) -> Result<u64, StoreError> {
    let tx = db.begin_read()?;
    let meta = tx.open_table(META)?;
    Ok(meta.get(CHANGES)?.map_or(0, |value| be_u64(value.value())))
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
    fn a_store_of_the_first_version_is_brought_up_to_date() {
        use streams::tests::{STREAM, put_alone, reading};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.redb");
        let open = || Store::open(&path, Network::Regtest, &key(1)).unwrap();
        let version_1 = |tx: &WriteTransaction| {
            tx.open_table(META)?.insert("schema", 1_u64.to_be_bytes().as_slice())?;
            put_alone(tx, 3..6)
        };
        open().write(version_1).unwrap();
        let tail = |store: &Store| store.read(|tx| streams::tail(tx, &STREAM)).unwrap();
        let store = open();
        assert_eq!(tail(&store), [3, 4, 5].map(reading));
        store.write(|tx| streams::put_tail(tx, &STREAM, &[6, 7].map(reading))).unwrap();
        drop(store);
        // Once is enough.
        assert_eq!(tail(&open()), [3, 4, 5, 6, 7].map(reading));
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
