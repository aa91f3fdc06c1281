//! The block headers we have checked, in a file of their own: 80 bytes each, in the order of the chain.
//!
//! ```text
//! at 0    80 bytes   what it is: magic, network, height and hash of the header that the first one builds on, checksum
//! at 80   80 bytes   the header after that
//! at 160  80 bytes   the next …
//! ```
//!
//! What is new is appended; after a reorganisation the file is cut where the branches part, and goes on from there. Nothing
//! is synced to the disk: headers can be fetched again, and whoever reads the file checks all of it by the rules of the network.
//! So a crash or a full disk can cost headers at the end (what does not hold there is cut off and fetched again), but never make a wrong
//! chain: whatever mixture of old and new is found, it is followed as far as it is a chain with the work that it claims.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sensora_chain::header::{Header, HeaderChain, Tip};
use sensora_chain::{BlockHash, Network};
use sha2::{Digest, Sha256};

use crate::chain_access::{HeaderStore, HeaderStoreError};

/// The file begins with this; the last byte is the version of its format.
const MAGIC: &[u8; 16] = b"sensora headers\x01";

/// Room for the network's name, filled up with zeros.
const NAME_SIZE: usize = 8;

/// Bytes of a header, and of what stands before the first.
const SIZE: u64 = Header::SIZE as u64;

/// Most headers that are read: four times as many as a chain may have, [`sensora_protocol::chain_access::sync::MAX_CHAIN_HEADERS`].
/// A file that is longer (335 MB) is not ours.
const MAX_READ: u64 = 1 << 22;

/// Why the headers cannot be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderFileError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There would be a gap in the file.
    #[error("headers from height {height} on do not follow those in {}, which end at {end}", path.display())]
    Gap {
        /// The file.
        path: PathBuf,
        /// Where the new ones begin.
        height: u32,
        /// The last height there.
        end: u64,
    },
}

impl From<HeaderFileError> for HeaderStoreError {
    fn from(error: HeaderFileError) -> Self {
        Self(Box::new(error))
    }
}

/// The file. It is made with the first header.
#[derive(Debug)]
pub struct FileHeaderStore {
    path: PathBuf,
    network: Network,
    /// What the first header builds on.
    base: Tip,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: Option<File>,
    /// Whole headers that the file has above the base; `None` if it begins elsewhere or is no such file, so that it is written anew.
    count: Option<u64>,
}

impl FileHeaderStore {
    /// Headers above the last one of `base`, in the file at `path`. A file that begins elsewhere (an older release had an older
    /// checkpoint) is read, too, and written anew with the next change.
    ///
    /// # Errors
    /// [`HeaderFileError::Io`] where there is something that cannot be opened.
    pub fn open(path: impl Into<PathBuf>, base: &HeaderChain) -> Result<Self, HeaderFileError> {
        let (path, network, base) = (path.into(), base.network(), base.tip());
        let opened = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(HeaderFileError::Io { action: "open", path, source }),
        };
        let store = Self { path, network, base, state: Mutex::new(State { file: opened, count: None }) };
        store.look()?;
        Ok(store)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn io(&self, action: &'static str) -> impl FnOnce(io::Error) -> HeaderFileError + use<'_> {
        move |source| HeaderFileError::Io { action, path: self.path.clone(), source }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns what the file has.
    fn look(&self) -> Result<(), HeaderFileError> {
        let mut state = self.lock();
        let State { file: Some(file), count } = &mut *state else { return Ok(()) };
        let length = file.seek(SeekFrom::End(0)).map_err(self.io("read"))?;
        *count = match read_prefix(file).map_err(self.io("read"))? {
            Some(prefix) if prefix == self.prefix() => Some((length / SIZE).saturating_sub(1)),
            _ => None,
        };
        Ok(())
    }

    fn prefix(&self) -> [u8; Header::SIZE] {
        prefix(self.network, self.base.height, &self.base.hash)
    }

    fn read(&self) -> Result<Vec<[u8; Header::SIZE]>, HeaderFileError> {
        let mut state = self.lock();
        let Some(file) = &mut state.file else { return Ok(Vec::new()) };
        match read_prefix(file).map_err(self.io("read"))? {
            Some(prefix) if is_of(self.network, &prefix) => {}
            Some(_) => {
                tracing::warn!(path = %self.path.display(), network = %self.network,
                    "the file of block headers is of another network or damaged; they are fetched again");
                return Ok(Vec::new());
            }
            None => return Ok(Vec::new()),
        }
        // What follows the last whole header was being written when the machine stopped.
        let length = file.metadata().map_err(self.io("read"))?.len();
        let count = (length / SIZE).saturating_sub(1).min(MAX_READ);
        let mut headers = vec![[0; Header::SIZE]; usize::try_from(count).unwrap_or(0)];
        file.read_exact(headers.as_flattened_mut()).map_err(self.io("read"))?;
        Ok(headers)
    }

    fn write(&self, height: u32, headers: &[[u8; Header::SIZE]]) -> Result<(), HeaderFileError> {
        let mut state = self.lock();
        let kept = u64::from(height)
            .checked_sub(u64::from(self.base.height).saturating_add(1))
            .filter(|kept| *kept <= state.count.unwrap_or(0));
        let Some(kept) = kept else {
            let end = u64::from(self.base.height).saturating_add(state.count.unwrap_or(0));
            return Err(HeaderFileError::Gap { path: self.path.clone(), height, end });
        };
        if state.file.is_none() {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            state.file = Some(options.open(&self.path).map_err(self.io("make"))?);
        }
        let State { file: Some(file), count } = &mut *state else { return Ok(()) };
        // Until this has gone well, only what is not touched counts.
        let fresh = count.is_none();
        *count = count.map(|_| kept);
        if fresh {
            file.set_len(0).and_then(|()| file.rewind()).map_err(self.io("empty"))?;
            file.write_all(&self.prefix()).map_err(self.io("write"))?;
        } else {
            let end = kept.saturating_add(1).saturating_mul(SIZE);
            file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).map_err(self.io("cut"))?;
        }
        file.write_all(headers.as_flattened()).map_err(self.io("write"))?;
        *count = Some(kept.saturating_add(u64::try_from(headers.len()).unwrap_or(u64::MAX)));
        Ok(())
    }
}

impl HeaderStore for FileHeaderStore {
    fn load(&self) -> Result<Vec<[u8; Header::SIZE]>, HeaderStoreError> {
        Ok(self.read()?)
    }

    fn replace_from(&self, height: u32, headers: &[[u8; Header::SIZE]]) -> Result<(), HeaderStoreError> {
        Ok(self.write(height, headers)?)
    }
}

fn prefix(network: Network, height: u32, hash: &BlockHash) -> [u8; Header::SIZE] {
    let mut bytes = Vec::with_capacity(Header::SIZE);
    bytes.extend_from_slice(MAGIC);
    bytes.extend(network.name().bytes().chain(std::iter::repeat(0)).take(NAME_SIZE));
    bytes.extend_from_slice(&height.to_le_bytes());
    bytes.extend_from_slice(&hash.0);
    let sum = Sha256::digest(&bytes);
    bytes.extend(sum.into_iter().take(Header::SIZE.saturating_sub(bytes.len())));
    // The parts have 80 bytes in all.
    bytes.try_into().unwrap_or([0; Header::SIZE])
}

/// Whether these are the first bytes of a file of headers of this network, wherever it begins.
fn is_of(network: Network, bytes: &[u8; Header::SIZE]) -> bool {
    const HEIGHT: usize = MAGIC.len() + NAME_SIZE;
    let number = bytes.get(HEIGHT..).and_then(<[u8]>::first_chunk::<4>);
    let hash = bytes.get(HEIGHT.saturating_add(4)..).and_then(<[u8]>::first_chunk::<32>);
    match (number, hash) {
        (Some(height), Some(hash)) => {
            prefix(network, u32::from_le_bytes(*height), &BlockHash(*hash)) == *bytes
        }
        _ => false,
    }
}

/// The first bytes, from the start of the file; `None` if it is shorter.
fn read_prefix(file: &mut File) -> io::Result<Option<[u8; Header::SIZE]>> {
    let mut bytes = [0; Header::SIZE];
    file.rewind()?;
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
