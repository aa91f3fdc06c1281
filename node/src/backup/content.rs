//! What a backup holds, and its way out of a store and into another.

use std::collections::BTreeSet;

use redb::ReadTransaction;
use sensora_chain::keys::PublicKey;
use sensora_chain::wallet::Balance;
use sensora_chain::{Network, Txid};
use sensora_protocol::codec;
use sensora_protocol::identity::peer_id;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::lock::{self, Lock, WORK_FACTOR};
use super::{BackupError, MAX_BACKUP, VERSION};
use crate::keystore::{Key, Words};
use crate::store::restored::{self, Restored};
use crate::store::{self, SCHEMA_VERSION, Store, StoreError, streams, tables};

/// What the document calls itself.
const FORMAT: &str = "sensora-backup";

/// The newest anchors that are kept: those whose transactions may still wait for a block or meet a reorganisation. Older ones prove
/// readings, which are not in a backup.
pub const ANCHORS_KEPT: usize = 256;

/// The tables that are not in a backup, because they are large and can be had again, or are of no use without what is not here. Any
/// other table is in it: one that is added later is not forgotten.
pub const LEFT_OUT: [&str; 16] = [
    "ads",
    "anchors_by_stream",
    "bought_anchored",
    "bought_proofs",
    "bought_runs",
    "bought_spans",
    "bought_streams",
    "chunk_index",
    "chunks",
    "fees",
    "peers",
    "release_parts",
    "restored",
    "samples",
    "streams",
    "tail",
];

/// The document around the content, which every version has.
#[derive(Serialize, Deserialize)]
struct Envelope {
    format: String,
    version: u64,
    sha256: ByteBuf,
    content: ByteBuf,
}

/// The part of the envelope by which a newer one is known.
#[derive(Deserialize)]
struct Announced {
    format: String,
    version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    network: Network,
    public_key: PublicKey,
    created_ms: i64,
    /// Version of the program that wrote it.
    program: String,
    /// Layout of the store's tables.
    schema: u64,
    entropy: Option<ByteBuf>,
    tables: Vec<Table>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    rows: Vec<(ByteBuf, ByteBuf)>,
}

/// What is in a backup.
pub struct Backup {
    network: Network,
    public_key: PublicKey,
    created_ms: i64,
    program: String,
    entropy: Option<Zeroizing<Vec<u8>>>,
    tables: Vec<Table>,
}

/// What a backup holds, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its network.
    pub network: Network,
    /// Peer id of its node.
    pub peer_id: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Version of the program that made it.
    pub program: String,
    /// Whether it holds the key's words.
    pub has_words: bool,
    /// The money.
    pub balance: Balance,
    /// Unspent outputs.
    pub coins: usize,
    /// Lines of history, archived ones included.
    pub transactions: usize,
    /// Purchases.
    pub purchases: usize,
    /// Sales.
    pub sales: usize,
    /// Transactions that wait to go out.
    pub waiting: usize,
    /// Streams that were recorded, whose readings are not in it.
    pub streams: usize,
}

impl Backup {
    /// What the store holds now, in one consistent view. `key` gives its words to the backup, which then has to be locked with a
    /// passphrase; without it whoever opens the backup needs the words anyway.
    ///
    /// # Errors
    /// [`BackupError::Store`].
    pub fn take(
        store: &Store,
        network: Network,
        public_key: &PublicKey,
        key: Option<&Key>,
        now_ms: i64,
    ) -> Result<Self, BackupError> {
        Ok(Self {
            network,
            public_key: *public_key,
            created_ms: now_ms,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            entropy: key.map(|key| key.words().entropy()),
            tables: store.read(all_tables)?,
        })
    }

    /// The encrypted file.
    ///
    /// # Errors
    /// [`BackupError::TooLong`], [`BackupError::EmptyPassphrase`], [`BackupError::Encrypt`].
    pub fn seal(&self, lock: Lock<'_>) -> Result<Vec<u8>, BackupError> {
        self.seal_at(lock, WORK_FACTOR)
    }

    /// As [`Backup::seal`], with another cost of guessing the passphrase: scrypt's N as a power of two, at most
    /// [`super::MAX_WORK_FACTOR`].
    ///
    /// # Errors
    /// As [`Backup::seal`].
    pub fn seal_at(&self, lock: Lock<'_>, work_factor: u8) -> Result<Vec<u8>, BackupError> {
        let content = Zeroizing::new(codec::encode(&self.content())?);
        let envelope = Envelope {
            format: FORMAT.to_owned(),
            version: VERSION,
            sha256: ByteBuf::from(Sha256::digest(content.as_slice()).to_vec()),
            content: ByteBuf::from(content.to_vec()),
        };
        let plain = Zeroizing::new(codec::encode(&envelope)?);
        // With room for what the encryption adds, so that what is written can be read.
        if plain.len() > MAX_BACKUP / 2 {
            return Err(BackupError::TooLong { len: u64::try_from(plain.len()).unwrap_or(u64::MAX) });
        }
        lock::seal(&plain, lock, work_factor)
    }

    /// Opens and checks an encrypted file.
    ///
    /// # Errors
    /// [`BackupError`] says whether it is no backup, damaged, of a newer program, or locked with something else.
    pub fn open(file: &[u8], lock: Lock<'_>) -> Result<Self, BackupError> {
        let plain = lock::open(file, lock)?;
        let damaged = |what: String| BackupError::Damaged(what);
        let announced: Announced = codec::decode(&plain, MAX_BACKUP)
            .map_err(|_| BackupError::NotABackup("what is encrypted in it was not written by sensora"))?;
        if announced.format != FORMAT {
            return Err(BackupError::NotABackup("what is encrypted in it was not written by sensora"));
        }
        if announced.version > VERSION {
            return Err(BackupError::Newer { found: announced.version, known: VERSION });
        }
        let envelope: Envelope =
            codec::decode(&plain, MAX_BACKUP).map_err(|error| damaged(error.to_string()))?;
        if Sha256::digest(&envelope.content).as_slice() != envelope.sha256.as_slice() {
            return Err(damaged("its SHA-256 is another".to_owned()));
        }
        let content: Content =
            codec::decode(&envelope.content, MAX_BACKUP).map_err(|error| damaged(error.to_string()))?;
        if content.schema > SCHEMA_VERSION {
            return Err(BackupError::Newer { found: content.schema, known: SCHEMA_VERSION });
        }
        let entropy = content.entropy.map(|entropy| Zeroizing::new(entropy.into_vec()));
        let backup = Self {
            network: content.network,
            public_key: content.public_key,
            created_ms: content.created_ms,
            program: content.program,
            entropy,
            tables: content.tables,
        };
        // Its words are the words of its key, or it is not what was written.
        if let Some(key) = backup.key()?
            && key.public_key() != backup.public_key
        {
            return Err(damaged("its words are those of another key".to_owned()));
        }
        Ok(backup)
    }

    fn content(&self) -> Content {
        Content {
            network: self.network,
            public_key: self.public_key,
            created_ms: self.created_ms,
            program: self.program.clone(),
            schema: SCHEMA_VERSION,
            entropy: self.entropy.as_ref().map(|entropy| ByteBuf::from(entropy.to_vec())),
            tables: self.tables.clone(),
        }
    }

    /// Its network.
    #[must_use]
    pub fn network(&self) -> Network {
        self.network
    }

    /// The key of its node.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// When it was made, milliseconds since the Unix epoch.
    #[must_use]
    pub fn created_ms(&self) -> i64 {
        self.created_ms
    }

    /// The key, where its words are in the backup.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] where they are no words.
    pub fn key(&self) -> Result<Option<Key>, BackupError> {
        let Some(entropy) = &self.entropy else { return Ok(None) };
        let words = Words::from_entropy(entropy);
        let words = words.map_err(|_| BackupError::Damaged("its entropy has a wrong length".to_owned()))?;
        Ok(Some(Key::from_words(words)?))
    }

    /// Whether both are of one node on one network.
    #[must_use]
    pub fn is_of(&self, other: &Self) -> bool {
        self.network == other.network && self.public_key == other.public_key
    }

    /// A digest of what is kept, whenever it was kept: equal backups need not be written twice.
    ///
    /// # Errors
    /// [`BackupError::Encoding`].
    pub fn fingerprint(&self) -> Result<[u8; 32], BackupError> {
        Ok(Sha256::digest(codec::encode(&self.tables)?).into())
    }

    /// What is in it. It is put into a store in memory for that, so that whatever cannot be read back shows here.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] where the wallet does not add up, [`BackupError::Store`] where a record cannot be read.
    pub fn summary(&self) -> Result<Summary, BackupError> {
        let store = self.in_memory()?;
        let wallet = store.read(store::wallet::get)?;
        let damaged = |error: &dyn std::fmt::Display| BackupError::Damaged(error.to_string());
        let archived = store.read(store::wallet::archived)?;
        let closed = self.tables.iter().find(|table| table.name == streams::CLOSED.name);
        Ok(Summary {
            network: self.network,
            peer_id: peer_id(&self.public_key),
            created_ms: self.created_ms,
            program: self.program.clone(),
            has_words: self.entropy.is_some(),
            balance: wallet.audit().map_err(|error| damaged(&error))?,
            coins: wallet.coins().len(),
            transactions: archived.len().saturating_add(wallet.history().len()),
            purchases: store.read(store::orders::purchases)?.len(),
            sales: store.read(store::orders::sales)?.len(),
            waiting: store.read(store::outbox::all)?.len(),
            streams: closed.map_or(0, |table| table.rows.len()),
        })
    }

    /// The transactions that the backup knows of, those of the archive included.
    ///
    /// # Errors
    /// As [`Backup::restore`].
    pub fn transactions(&self) -> Result<BTreeSet<Txid>, BackupError> {
        let store = self.in_memory()?;
        let archived = store.read(store::wallet::archived)?;
        let wallet = store.read(store::wallet::get)?;
        Ok(archived.into_iter().chain(wallet.history()).map(|line| line.txid).collect())
    }

    /// Refuses a store that holds something already.
    ///
    /// # Errors
    /// [`BackupError::Used`].
    pub fn refuse_used(store: &Store) -> Result<(), BackupError> {
        match store.read(used_rows)? {
            0 => Ok(()),
            rows => Err(BackupError::Used { rows }),
        }
    }

    /// A store in memory with what is in the backup.
    ///
    /// # Errors
    /// As [`Backup::restore`].
    pub fn in_memory(&self) -> Result<Store, BackupError> {
        let store = Store::in_memory(self.network, &self.public_key)?;
        self.restore(&store, self.created_ms)?;
        Ok(store)
    }

    /// Puts everything into an empty store of the same node: all of it, or nothing. The store remembers that what happened
    /// since has to be looked up on the chain ([`crate::recovery::catch_up`]).
    ///
    /// # Errors
    /// [`BackupError::Used`] where there is something already, [`BackupError::Newer`] for a table that this program does not have.
    pub fn restore(&self, store: &Store, now_ms: i64) -> Result<(), BackupError> {
        Self::refuse_used(store)?;
        let known = store.read(tables::names)?;
        if self.tables.iter().any(|table| !known.contains(&table.name)) {
            return Err(BackupError::Newer { found: VERSION.saturating_add(1), known: VERSION });
        }
        store.write(|tx| {
            for Table { name, rows } in &self.tables {
                tables::fill(tx, name, rows.iter().map(|(key, value)| (key.as_slice(), value.as_slice())))?;
            }
            let note = Restored { backup_ms: self.created_ms, restored_ms: now_ms, followed: false };
            restored::put(tx, &note)?;
            Ok::<_, BackupError>(())
        })?;
        Ok(())
    }
}

impl std::fmt::Debug for Backup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backup")
            .field("network", &self.network)
            .field("public_key", &self.public_key)
            .field("created_ms", &self.created_ms)
            .finish_non_exhaustive()
    }
}

fn kept(name: &str) -> bool {
    !LEFT_OUT.contains(&name)
}

fn all_tables(tx: &ReadTransaction) -> Result<Vec<Table>, StoreError> {
    let mut all = Vec::new();
    for name in tables::names(tx)?.into_iter().filter(|name| kept(name)) {
        let limit = if name == "anchors" { ANCHORS_KEPT } else { usize::MAX };
        let mut rows = tables::rows(tx, &name, limit)?;
        if name == streams::CLOSED.name {
            for stream in streams::all(tx)? {
                let line = store::to_record(streams::CLOSED.name, &stream.name)?;
                rows.push((stream.id.as_bytes().to_vec(), line));
            }
            rows.sort_unstable();
        }
        let rows = rows.into_iter().map(|(key, value)| (ByteBuf::from(key), ByteBuf::from(value)));
        all.push(Table { name, rows: rows.collect() });
    }
    Ok(all)
}

/// How many records stand where a backup would go.
fn used_rows(tx: &ReadTransaction) -> Result<u64, StoreError> {
    let mut used = 0_u64;
    for table in all_tables(tx)? {
        used = used.saturating_add(u64::try_from(table.rows.len()).unwrap_or(u64::MAX));
    }
    Ok(used)
}
