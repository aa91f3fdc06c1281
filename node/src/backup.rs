//! One encrypted file with everything that is needed to go on elsewhere, or to get all coins back.
//!
//! # What is in it
//! The wallet with its coins' derivations, its history and archive; orders of both sides with their payments; the outbox; the newest
//! [`ANCHORS_KEPT`] anchors; the version of the own ad; and the *names* of the streams that were recorded. With a passphrase also
//! the entropy of the key's words, so that file and passphrase are enough.
//!
//! Not in it: readings (recorded and bought), headers, ads and peers. Because the readings of a stream are not in it, a restored home does not
//! go on with the stream: two logs under one id would be two histories, each signed ([`crate::store::streams::is_closed`]).
//!
//! # The file
//! An age v1 file (<https://age-encryption.org/v1>) that is opened by one of two things, and not by both, since age lets a passphrase stand alone only:
//! - **the words** ([`Lock::Key`]): an X25519 recipient whose secret is derived from the node's key. No passphrase has to be
//!   kept anywhere, so a node can write such backups by itself ([`Keeper`]), and words on paper open them;
//! - **a passphrase** ([`Lock::Passphrase`]): scrypt with [`WORK_FACTOR`]. Any `age` tool opens it.
//!
//! Inside is one deterministic CBOR document, `{format, version, sha256, content}`; `content` is another one, whose SHA-256 is beside it.
//! A file of which one bit is changed or one byte is missing is refused.
//!
//! # An old backup
//! loses at most what came in since, and spends nothing twice: a coin that was spent since is refused by the network, and
//! [`crate::recovery::catch_up`] finds out what became of it.

mod content;
mod file;
mod keeper;
mod lock;

use std::io;
use std::path::PathBuf;

use sensora_chain::Network;
use sensora_protocol::codec::CodecError;

pub use content::{ANCHORS_KEPT, Backup, LEFT_OUT, Summary};
pub use file::{Overwrite, read_file, refuse_richer, write_file};
pub use keeper::{EVERY, Keeper, KeeperParts, KeeperTask};
pub use lock::{Lock, LockKind, MAX_WORK_FACTOR, WORK_FACTOR, lock_of};

use crate::keystore::KeystoreError;
use crate::store::StoreError;

/// The version of the document that is written, and the newest that is read.
pub const VERSION: u64 = 1;

/// The longest backup that is written or read, in bytes: as long as the longest record of a store.
pub const MAX_BACKUP: usize = crate::store::MAX_RECORD;

/// Why a backup was not made, not read or not put back. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The file is something else.
    #[error("it is not a backup: {0}")]
    NotABackup(&'static str),
    /// The file was a backup once.
    #[error("the backup is damaged or incomplete ({0}): use another copy of it")]
    Damaged(String),
    /// It is opened with a passphrase.
    #[error(
        "the backup is locked with a passphrase: give it (SENSORA_BACKUP_PASSPHRASE, or type it when asked)"
    )]
    PassphraseNeeded,
    /// It is opened with the words.
    #[error(
        "the backup is locked with its node's words, not with a passphrase: give the words, or use the home with that key"
    )]
    WordsNeeded,
    /// The passphrase does not open it.
    #[error(
        "the passphrase does not open the backup: try again (a backup whose first lines were changed gives the same answer)"
    )]
    WrongPassphrase,
    /// The key does not open it.
    #[error(
        "the backup is locked with the words of another node than {of}: give those words, or name the home with that key"
    )]
    LockedForAnother {
        /// Peer id of the key that was tried.
        of: String,
    },
    /// An empty passphrase protects nothing.
    #[error(
        "an empty passphrase protects nothing: choose one, or leave it out to lock the backup with the words"
    )]
    EmptyPassphrase,
    /// Opening it would take more memory and time than is sensible.
    #[error(
        "opening the backup would take scrypt with work factor {found}, at most {MAX_WORK_FACTOR} is done: it was not made by sensora"
    )]
    TooHard {
        /// Its work factor.
        found: u8,
    },
    /// A newer program wrote it.
    #[error("the backup has version {found}, this program reads up to {known}: use a newer sensora")]
    Newer {
        /// Its version.
        found: u64,
        /// What is read here.
        known: u64,
    },
    /// It belongs to another network.
    #[error(
        "the backup is of network {found}, this home of {expected}: restore it with --network {found}, into a home of its own"
    )]
    Network {
        /// The backup's.
        found: Network,
        /// The home's.
        expected: Network,
    },
    /// It belongs to another key.
    #[error(
        "the backup is of node {found}, this home has the key of {expected}: restore it into a home of its own (--home)"
    )]
    Key {
        /// Peer id of the backup.
        found: String,
        /// Peer id of the home.
        expected: String,
    },
    /// There is money where it should go.
    #[error(
        "the home has a wallet already ({rows} records): nothing is overwritten; restore into an empty home (--home), or move its store.redb away first"
    )]
    Used {
        /// How many records stand in the way.
        rows: u64,
    },
    /// Longer than a backup may be.
    #[error("the backup has {len} bytes, over the limit of {MAX_BACKUP}")]
    TooLong {
        /// Its length.
        len: u64,
    },
    /// The file is there.
    #[error("{} exists and is not a backup of this node that can be opened here: it is never overwritten without --force", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file knows of more than the home does.
    #[error("{} knows of {missing} transactions that this home does not: put it back first with `sensora wallet restore` into a new home, or name another file", path.display())]
    KnowsMore {
        /// The file.
        path: PathBuf,
        /// How many.
        missing: usize,
    },
    /// There is no such file.
    #[error("there is no file {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The document cannot be written.
    #[error("the backup cannot be written as CBOR: {0}")]
    Encoding(#[from] CodecError),
    /// The encryption failed, which only a lack of memory explains.
    #[error("the backup cannot be encrypted: {0}")]
    Encrypt(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
}

#[cfg(test)]
mod tests;
