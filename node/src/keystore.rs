//! The one secret of a node, from the words on paper to the file on disk.
//!
//! # From words to key
//! A key starts as BIP39 words (English list). The BIP39 seed with the *empty* BIP39 passphrase gives the BIP32
//! master key, and the secp256k1 key at [`DERIVATION_PATH`] (`m/44'/236'/0'/0/0`) is the node's key: its peer id, its
//! signature and the root from which its BSV keys are derived by BRC-42. Any wallet tool that knows BIP39 and BIP32
//! can redo this with the words alone.
//!
//! # The file
//! `key` in the home is TOML, mode 0600, and is written once. It keeps the entropy of the words, so that they can be
//! shown again, in one of two forms:
//!
//! ```toml
//! version = 1
//! path = "m/44'/236'/0'/0/0"
//! public_key = "03ded5…"      # of the derived key: checked when the file is opened
//! entropy = "0000…"           # hexadecimal; only where no passphrase was chosen
//!
//! [sealed]                    # else this
//! kdf = "argon2id"            # RFC 9106, version 0x13; the passphrase's UTF-8 bytes as typed
//! memory_kib = 65536
//! passes = 3
//! lanes = 4
//! salt = "…"                  # 16 bytes
//! cipher = "xchacha20poly1305"
//! nonce = "…"                 # 24 bytes
//! ciphertext = "…"            # the entropy, with its 16-byte tag
//! ```
//!
//! The associated data of the cipher is `sensora/key-file/1` ‖ public key (33 bytes), which ties the secret to the
//! name it is shown under.

mod derive;
mod sealed;
mod words;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use sensora_chain::keys::{PrivateKey, PublicKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use derive::DERIVATION_PATH;
pub use sealed::PassphraseCost;
pub use words::{WordCount, Words};

use crate::home::{mode_of, private};
use sealed::Sealed;

/// The version of the key file that this program writes and the newest it reads.
const VERSION: u32 = 1;

/// No key file is longer; what is longer is another file.
const MAX_FILE: u64 = 16 * 1024;

/// A key that cannot be made, kept or read. No text of it contains any part of a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeystoreError {
    /// The number of words does not exist.
    #[error("{found} words were given: a key has 12, 15, 18, 21 or 24")]
    WordCount {
        /// How many there were.
        found: usize,
    },
    /// A word is not in the list.
    #[error("word {position} is not in the English BIP39 list: check its spelling")]
    UnknownWord {
        /// Which one, counted from 1.
        position: usize,
    },
    /// All words exist, but not together.
    #[error(
        "these words do not belong together (their checksum is wrong): check for a wrong or misplaced word"
    )]
    WordChecksum,
    /// BIP32 gives no key for these words.
    #[error("these words give no key at {DERIVATION_PATH}: make new ones")]
    Derivation,
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(getrandom::Error),
    /// There is a key already.
    #[error("there is a key at {} already: it is never overwritten; move it away if you mean to use another", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// There is no key.
    #[error("there is no key at {}: run `sensora init` to make one", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Other users can read it.
    #[error("the key {} has mode {mode:04o}, so other users can read it: run `chmod 600 {}`", path.display(), path.display())]
    TooOpen {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A newer program wrote it.
    #[error("the key {} has version {version}, this program reads up to {VERSION}: use a newer sensora", path.display())]
    Newer {
        /// The key file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// It is not a key file, or no longer a whole one.
    #[error("{} is not a sound key file ({detail}): restore it from a copy or from its words", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// The key is sealed and no passphrase was given.
    #[error("the key {} is sealed: give its passphrase (SENSORA_PASSPHRASE, or type it when asked)", path.display())]
    PassphraseNeeded {
        /// The key file.
        path: PathBuf,
    },
    /// The passphrase does not open it.
    #[error("the passphrase does not open {}: try again, or restore the key from its words", path.display())]
    WrongPassphrase {
        /// The key file.
        path: PathBuf,
    },
    /// An empty passphrase protects nothing.
    #[error("an empty passphrase protects nothing: choose one, or none at all")]
    EmptyPassphrase,
    /// The cost parameters are outside what Argon2id allows, or the memory is not there.
    #[error("the passphrase cannot be hashed at this cost: choose other parameters")]
    PassphraseCost,
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
}

/// A node's key, unlocked: the words and the private key they stand for.
pub struct Key {
    words: Words,
    private: PrivateKey,
}

impl Key {
    /// A new key of `count` words.
    ///
    /// # Errors
    /// [`KeystoreError::Randomness`].
    pub fn generate(count: WordCount) -> Result<Self, KeystoreError> {
        Self::from_words(Words::generate(count)?)
    }

    /// The key that `words` stand for.
    ///
    /// # Errors
    /// [`KeystoreError::Derivation`], which no words are known to meet.
    pub fn from_words(words: Words) -> Result<Self, KeystoreError> {
        let secret = derive::node_key(&*words.seed()).ok_or(KeystoreError::Derivation)?;
        let private = PrivateKey::from_bytes(*secret).map_err(|_| KeystoreError::Derivation)?;
        Ok(Self { words, private })
    }

    /// The words, for their owner's eyes.
    #[must_use]
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// The private key.
    #[must_use]
    pub fn private_key(&self) -> &PrivateKey {
        &self.private
    }

    /// The private key alone, forgetting the words.
    #[must_use]
    pub fn into_private_key(self) -> PrivateKey {
        self.private
    }

    /// The public key: the node's name.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.private.public()
    }

    /// Writes the key to a new file at `path`, sealed under `passphrase` where one is given.
    ///
    /// # Errors
    /// [`KeystoreError::Exists`]: a key is never overwritten; [`KeystoreError::EmptyPassphrase`];
    /// [`KeystoreError::Io`].
    pub fn create(&self, path: &Path, passphrase: Option<&str>) -> Result<(), KeystoreError> {
        self.create_at_cost(path, passphrase, PassphraseCost::RECOMMENDED)
    }

    /// As [`Key::create`], with another cost of guessing the passphrase.
    ///
    /// # Errors
    /// As [`Key::create`]; [`KeystoreError::PassphraseCost`] for parameters that Argon2id does not allow.
    pub fn create_at_cost(
        &self,
        path: &Path,
        passphrase: Option<&str>,
        cost: PassphraseCost,
    ) -> Result<(), KeystoreError> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(KeystoreError::Exists { path: path.to_owned() });
        }
        let text = self.to_file_text(passphrase, cost)?;
        write_private(path, &text)
    }

    /// Reads the key at `path`. A passphrase given for a key that is not sealed is not used.
    ///
    /// # Errors
    /// [`KeystoreError::Missing`], [`KeystoreError::TooOpen`] with the command that mends it,
    /// [`KeystoreError::PassphraseNeeded`], [`KeystoreError::WrongPassphrase`], [`KeystoreError::Damaged`],
    /// [`KeystoreError::Newer`].
    pub fn open(path: &Path, passphrase: Option<&str>) -> Result<Self, KeystoreError> {
        let file = KeyFile::read(path)?;
        let damaged = |detail| KeystoreError::Damaged { path: path.to_owned(), detail };
        let entropy = match (&file.entropy, &file.sealed) {
            (Some(entropy), None) => Zeroizing::new(
                hex::decode(&**entropy).map_err(|_| damaged("its entropy is not hexadecimal"))?,
            ),
            (None, Some(sealed)) => {
                let passphrase =
                    passphrase.ok_or_else(|| KeystoreError::PassphraseNeeded { path: path.to_owned() })?;
                sealed
                    .open(passphrase, &context(&file.public_key))
                    .ok_or_else(|| damaged("its sealed part is malformed"))?
                    .ok_or_else(|| KeystoreError::WrongPassphrase { path: path.to_owned() })?
            }
            _ => return Err(damaged("it has not exactly one of `entropy` and `sealed`")),
        };
        let words = Words::from_entropy(&entropy).map_err(|_| damaged("its entropy has a wrong length"))?;
        let key = Self::from_words(words)?;
        if key.public_key() != file.public_key {
            return Err(damaged("its public key is that of another secret"));
        }
        Ok(key)
    }

    /// Replaces the file at `path` by one under another passphrase, or under none.
    ///
    /// The change is atomic: after a crash there is the old file or the new one.
    ///
    /// # Errors
    /// As [`Key::open`] for the old passphrase and [`Key::create`] for the new one.
    pub fn change_passphrase(path: &Path, old: Option<&str>, new: Option<&str>) -> Result<(), KeystoreError> {
        let text = Self::open(path, old)?.to_file_text(new, PassphraseCost::RECOMMENDED)?;
        write_private(path, &text)
    }

    fn to_file_text(
        &self,
        passphrase: Option<&str>,
        cost: PassphraseCost,
    ) -> Result<Zeroizing<String>, KeystoreError> {
        let public_key = self.public_key();
        let entropy = self.words.entropy();
        let (entropy, sealed) = match passphrase {
            Some("") => return Err(KeystoreError::EmptyPassphrase),
            Some(passphrase) => {
                (None, Some(Sealed::seal(&entropy, passphrase, &context(&public_key), cost)?))
            }
            None => (Some(Zeroizing::new(hex::encode(&*entropy))), None),
        };
        let mut text = Zeroizing::new(String::with_capacity(1024));
        text.push_str(
            "# The key of a Sensora node. Whoever has this file (and its passphrase, if it has one) has the node's money\n\
             # and its name. Keep it to yourself; its words on paper are its backup.\n",
        );
        let file =
            KeyFile { version: VERSION, path: DERIVATION_PATH.to_owned(), public_key, entropy, sealed };
        let body = toml::to_string(&file).map(Zeroizing::new).map_err(|_| KeystoreError::Derivation)?;
        text.push_str(&body);
        Ok(text)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("public_key", &self.public_key()).finish_non_exhaustive()
    }
}

/// What a key file tells without its secret: for asking for a passphrase only where one is needed.
#[derive(Clone, Debug)]
pub struct KeyInfo {
    /// The node's public key.
    pub public_key: PublicKey,
    /// Whether opening it takes a passphrase.
    pub is_sealed: bool,
}

/// Reads what the key file at `path` tells without its secret.
///
/// # Errors
/// As [`Key::open`], but for the passphrase.
pub fn inspect(path: &Path) -> Result<KeyInfo, KeystoreError> {
    let file = KeyFile::read(path)?;
    Ok(KeyInfo { public_key: file.public_key, is_sealed: file.sealed.is_some() })
}

/// The file as it stands on disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    version: u32,
    path: String,
    public_key: PublicKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entropy: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<Sealed>,
}

impl KeyFile {
    fn read(path: &Path) -> Result<Self, KeystoreError> {
        let io = |action| move |source| KeystoreError::Io { action, path: path.to_owned(), source };
        let damaged = |detail| KeystoreError::Damaged { path: path.to_owned(), detail };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(KeystoreError::Missing { path: path.to_owned() });
            }
            Err(error) => return Err(io("open")(error)),
        };
        // Of the open file, so that it cannot be exchanged in between.
        let metadata = file.metadata().map_err(io("read"))?;
        if let Some(mode) = mode_of(&metadata).filter(|mode| mode & 0o177 != 0) {
            return Err(KeystoreError::TooOpen { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(String::with_capacity(4096));
        match file.take(MAX_FILE).read_to_string(&mut text) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(damaged("it is not text"));
            }
            Err(error) => return Err(io("read")(error)),
        }
        let version: FileVersion =
            toml::from_str(&text).map_err(|_| damaged("it is not TOML with a `version`"))?;
        if version.version > VERSION {
            return Err(KeystoreError::Newer { path: path.to_owned(), version: version.version });
        }
        let file: Self =
            toml::from_str(&text).map_err(|_| damaged("a field is missing, unknown or malformed"))?;
        if file.version != VERSION || file.path != DERIVATION_PATH {
            return Err(damaged("its version or derivation path is not one that was ever written"));
        }
        Ok(file)
    }
}

/// The part of the file that every version has.
#[derive(Deserialize)]
struct FileVersion {
    version: u32,
}

fn context(public_key: &PublicKey) -> Vec<u8> {
    let mut context = b"sensora/key-file/1".to_vec();
    context.extend_from_slice(&public_key.to_bytes());
    context
}

/// Writes `text` to `path` with mode 0600, whole or not at all.
fn write_private(path: &Path, text: &str) -> Result<(), KeystoreError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let io = |action| {
        let beside = beside.clone();
        move |source| KeystoreError::Io { action, path: beside, source }
    };
    // What an interrupted attempt left was never in use.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io("remove")(error)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    private(&mut options);
    let mut file = options.open(&beside).map_err(io("make"))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io("write"))?;
    drop(file);
    fs::rename(&beside, path).map_err(io("rename"))?;
    // Makes the new name itself durable; file systems that cannot do so are no reason to fail.
    if let Some(directory) = path.parent().and_then(|parent| File::open(parent).ok()) {
        directory.sync_all().ok();
    }
    Ok(())
}
