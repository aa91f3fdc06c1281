//! What opens a backup: the words, or a passphrase.

use std::io::{Read as _, Write as _};
use std::iter;

use age::secrecy::SecretString;
use age::{DecryptError, Decryptor, Encryptor, scrypt, x25519};
use bech32::{Bech32, Hrp};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sensora_chain::keys::PrivateKey;
use sensora_chain::wallet::KeySource;
use sensora_protocol::identity::peer_id;
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

use super::{BackupError, MAX_BACKUP};

/// scrypt's cost for a new backup: N = 2^17, r = 8, p = 1. 128 MiB and less than a second, as OWASP advises; a small device still has them.
pub const WORK_FACTOR: u8 = 17;

/// The most that is done to open one: 256 MiB, what the `age` tools themselves use. A file cannot make us do more.
pub const MAX_WORK_FACTOR: u8 = 18;

/// The key that a backup's secret is made from (BRC-43, with ourselves as counterparty). No coin is ever under it.
const INVOICE: &str = "2-sensora backup-1";
/// Separates the secret from the secp256k1 key it is made from.
const LABEL: &[u8] = b"sensora/backup/1 age x25519 identity";
/// How age spells a secret (its specification, "X25519 recipient stanza").
const HRP: &str = "age-secret-key-";

/// What locks a backup and opens it.
#[derive(Clone, Copy)]
pub enum Lock<'a> {
    /// The node's key, hence its words.
    Key(&'a PrivateKey),
    /// A passphrase.
    Passphrase(&'a str),
}

impl std::fmt::Debug for Lock<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Lock::Key(…)",
            Self::Passphrase(_) => "Lock::Passphrase(…)",
        })
    }
}

/// Which of the two a file takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// The words.
    Key,
    /// A passphrase.
    Passphrase,
}

/// Which of the two a file takes, said by its first lines.
///
/// # Errors
/// [`BackupError::NotABackup`].
pub fn lock_of(file: &[u8]) -> Result<LockKind, BackupError> {
    let decryptor = Decryptor::new_buffered(file).map_err(|error| match error {
        DecryptError::UnknownFormat => BackupError::NotABackup("it has a format that is not age version 1"),
        DecryptError::Io(_) | DecryptError::InvalidHeader if file.starts_with(b"age-encryption.org/v1") => {
            BackupError::Damaged("its first lines are not those of an age file".to_owned())
        }
        _ => BackupError::NotABackup("it does not begin like an age file"),
    })?;
    Ok(if decryptor.is_scrypt() { LockKind::Passphrase } else { LockKind::Key })
}

/// The secret that the words give for backups.
fn identity(key: &PrivateKey) -> Result<x25519::Identity, BackupError> {
    let failed = || BackupError::Encrypt("no secret follows from the key".to_owned());
    let child = KeySource::myself(INVOICE).private_key(key);
    let mut mac = Hmac::<Sha256>::new_from_slice(&*child.to_bytes()).map_err(|_| failed())?;
    mac.update(LABEL);
    let mut secret = mac.finalize().into_bytes();
    let hrp = Hrp::parse(HRP).map_err(|_| failed())?;
    let mut lower = Zeroizing::new(bech32::encode::<Bech32>(hrp, &secret).map_err(|_| failed())?);
    secret.as_mut_slice().zeroize();
    lower.make_ascii_uppercase();
    lower.parse().map_err(|_| failed())
}

/// Encrypts; `work_factor` counts with a passphrase only.
pub(super) fn seal(plain: &[u8], lock: Lock<'_>, work_factor: u8) -> Result<Vec<u8>, BackupError> {
    let failed = |error: &dyn std::fmt::Display| BackupError::Encrypt(error.to_string());
    let recipient: Box<dyn age::Recipient> = match lock {
        Lock::Passphrase("") => return Err(BackupError::EmptyPassphrase),
        Lock::Passphrase(passphrase) => {
            let mut recipient = scrypt::Recipient::new(SecretString::from(passphrase.to_owned()));
            recipient.set_work_factor(work_factor.clamp(1, MAX_WORK_FACTOR));
            Box::new(recipient)
        }
        Lock::Key(key) => Box::new(identity(key)?.to_public()),
    };
    let encryptor = Encryptor::with_recipients(iter::once(&*recipient)).map_err(|error| failed(&error))?;
    let mut sealed = Vec::with_capacity(plain.len().saturating_add(1024));
    let mut writer = encryptor.wrap_output(&mut sealed).map_err(|error| failed(&error))?;
    writer.write_all(plain).map_err(|error| failed(&error))?;
    writer.finish().map_err(|error| failed(&error))?;
    Ok(sealed)
}

/// Decrypts, in the memory that the file has and no more.
pub(super) fn open(file: &[u8], lock: Lock<'_>) -> Result<Zeroizing<Vec<u8>>, BackupError> {
    let identity: Box<dyn age::Identity> = match (lock_of(file)?, lock) {
        (LockKind::Passphrase, Lock::Passphrase(passphrase)) => {
            let mut identity = scrypt::Identity::new(SecretString::from(passphrase.to_owned()));
            identity.set_max_work_factor(MAX_WORK_FACTOR);
            Box::new(identity)
        }
        (LockKind::Key, Lock::Key(key)) => Box::new(self::identity(key)?),
        (LockKind::Passphrase, Lock::Key(_)) => return Err(BackupError::PassphraseNeeded),
        (LockKind::Key, Lock::Passphrase(_)) => return Err(BackupError::WordsNeeded),
    };
    let damaged = |what: &str| BackupError::Damaged(what.to_owned());
    let decryptor = Decryptor::new_buffered(file).map_err(|_| damaged("its first lines"))?;
    let reader = decryptor.decrypt(iter::once(&*identity)).map_err(|error| match (error, lock) {
        (DecryptError::ExcessiveWork { required, .. }, _) => BackupError::TooHard { found: required },
        (DecryptError::NoMatchingKeys, Lock::Key(key)) => {
            BackupError::LockedForAnother { of: peer_id(&key.public()) }
        }
        (DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed, Lock::Passphrase(_)) => {
            BackupError::WrongPassphrase
        }
        _ => damaged("its first lines were changed"),
    })?;
    // The plain text is shorter than the file; that is its bound.
    let limit = u64::try_from(file.len().min(MAX_BACKUP)).unwrap_or(u64::MAX);
    let mut plain = Zeroizing::new(Vec::with_capacity(file.len()));
    reader
        .take(limit)
        .read_to_end(&mut plain)
        .map_err(|_| damaged("a part of it is missing or was changed"))?;
    Ok(plain)
}
