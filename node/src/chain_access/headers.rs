//! The node's own header chain: what every proof is checked against, shared by all and written by the sync alone.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use sensora_chain::BlockHash;
use sensora_chain::header::{Header, HeaderChain, HeaderError, HeaderView, Tip};
use sensora_protocol::chain_access::Request;
use sensora_protocol::chain_access::message::Tip as ClaimedTip;
use sensora_protocol::chain_access::sync::{self, Fault, Taken, Walk};
use tokio::sync::watch;

use super::error::HeaderStoreError;
use crate::clock::Clock;

/// Where block headers survive a restart. Calls block, and come from a thread that may.
pub trait HeaderStore: Send + Sync + 'static {
    /// All headers that are kept, lowest first, each the child of the one before it.
    ///
    /// # Errors
    /// When they cannot be read.
    fn load(&self) -> Result<Vec<[u8; Header::SIZE]>, HeaderStoreError>;

    /// Replaces everything from `height` upwards by `headers`, the first of which is at `height`, at once or not at all.
    ///
    /// # Errors
    /// When they cannot be written; what was there before then still is.
    fn replace_from(&self, height: u32, headers: &[[u8; Header::SIZE]]) -> Result<(), HeaderStoreError>;
}

/// Headers in memory: for tests, and for nodes that read them anew at each start.
#[derive(Debug, Default)]
pub struct MemoryHeaderStore {
    headers: Mutex<std::collections::BTreeMap<u32, [u8; Header::SIZE]>>,
}

impl HeaderStore for MemoryHeaderStore {
    fn load(&self) -> Result<Vec<[u8; Header::SIZE]>, HeaderStoreError> {
        Ok(lock(&self.headers).values().copied().collect())
    }

    fn replace_from(&self, height: u32, headers: &[[u8; Header::SIZE]]) -> Result<(), HeaderStoreError> {
        let mut kept = lock(&self.headers);
        kept.split_off(&height);
        kept.extend((height..).zip(headers.iter().copied()));
        Ok(())
    }
}

/// The header chain as it was at one moment. Cheap to clone; what is checked against it does not change underneath.
#[derive(Clone)]
pub struct HeaderSnapshot(Arc<HeaderChain>);

impl HeaderSnapshot {
    /// The last header of the best chain.
    #[must_use]
    pub fn tip(&self) -> Tip {
        self.0.tip()
    }

    /// The whole chain.
    #[must_use]
    pub fn chain(&self) -> &HeaderChain {
        &self.0
    }

    /// The height of a block of the best chain.
    #[must_use]
    pub fn height_of(&self, hash: &BlockHash) -> Option<u32> {
        self.0.height_of(hash)
    }
}

impl HeaderView for HeaderSnapshot {
    fn header_at(&self, height: u32) -> Option<Header> {
        self.0.header_at(height)
    }

    fn tip_height(&self) -> u32 {
        self.0.tip_height()
    }
}

impl fmt::Debug for HeaderSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeaderSnapshot").field(&self.0.tip()).finish()
    }
}

/// The header chain and its store. Readers never wait for the store.
pub(super) struct Headers {
    chain: RwLock<Arc<HeaderChain>>,
    tip: watch::Sender<Tip>,
    /// Held by whoever changes the chain, so that the store sees the changes in their order. The lowest height that the
    /// store does not have yet.
    unsaved: Mutex<Option<u32>>,
    store: Box<dyn HeaderStore>,
    clock: Clock,
}

impl Headers {
    /// Reads the headers that are kept above those of `base`. What does not follow is left; the sync replaces it.
    pub(super) fn open(
        mut base: HeaderChain,
        store: Box<dyn HeaderStore>,
        clock: Clock,
    ) -> Result<Self, HeaderStoreError> {
        let stored: Vec<Header> = store.load()?.into_iter().map(Header).collect();
        let start = base.tip();
        let first = stored.iter().position(|header| header.previous() == start.hash);
        let stored = first.and_then(|first| stored.get(first..)).unwrap_or_default();
        let mut unsaved = Some(start.height.saturating_add(1));
        match base.connect(stored) {
            Ok(_) if !stored.is_empty() => unsaved = None,
            Ok(_) => {}
            Err(error) => warn_damaged(&error),
        }
        let tip = watch::Sender::new(base.tip());
        Ok(Self { chain: RwLock::new(Arc::new(base)), tip, unsaved: Mutex::new(unsaved), store, clock })
    }

    pub(super) fn snapshot(&self) -> HeaderSnapshot {
        HeaderSnapshot(self.chain.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub(super) fn watch(&self) -> watch::Receiver<Tip> {
        self.tip.subscribe()
    }

    pub(super) fn knows(&self, tip: &ClaimedTip) -> bool {
        sync::is_known(&self.chain.read().unwrap_or_else(PoisonError::into_inner), tip)
    }

    pub(super) fn ask(&self, walk: &mut Walk) -> Request {
        walk.ask(&self.chain.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes headers in, stores what changed and tells those who watch. Blocks on the store. A store that fails is told of
    /// and written to again with the next change: the chain in memory is right all the same.
    pub(super) fn take(&self, walk: &mut Walk, answer: &[u8]) -> Result<Taken, Fault> {
        let mut unsaved = lock(&self.unsaved);
        let now_secs = self.clock.now_ms().div_euclid(1000);
        let (taken, changed) = {
            let mut chain = self.chain.write().unwrap_or_else(PoisonError::into_inner);
            let taken = walk.take(Arc::make_mut(&mut chain), answer, now_secs)?;
            *unsaved = match (*unsaved, taken.changed_from) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let changed = unsaved.filter(|_| taken.changed_from.is_some());
            (taken, changed.map(|height| (height, sync::flat_from(&chain, height))))
        };
        if let Some((height, headers)) = changed {
            match self.store.replace_from(height, &headers) {
                Ok(()) => *unsaved = None,
                Err(error) => {
                    tracing::warn!(%error, height, "block headers were not stored; trying again with the next");
                }
            }
            self.tip.send_replace(taken.connected.tip);
        }
        Ok(taken)
    }
}

fn warn_damaged(error: &HeaderError) {
    tracing::warn!(%error, "the stored block headers are damaged; they are read from peers again");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use sensora_chain::Network;

    use super::*;

    fn mine(previous: &Header, salt: u8) -> Header {
        let header = Header::new(1, previous.hash(), [salt; 32], previous.time() + 1, 0x207f_ffff, 0);
        (0..)
            .map(|nonce| header.with_nonce(nonce))
            .find(|header| header.meets_target(Network::Regtest))
            .unwrap()
    }

    fn branch(from: &Header, count: usize, salt: u8) -> Vec<Header> {
        let mut headers: Vec<Header> = Vec::new();
        for _ in 0..count {
            headers.push(mine(headers.last().unwrap_or(from), salt));
        }
        headers
    }

    fn open(store: Arc<MemoryHeaderStore>) -> Headers {
        let base = HeaderChain::genesis(Network::Regtest).unwrap();
        Headers::open(base, Box::new(store), Clock::fixed(0)).unwrap()
    }

    fn take(headers: &Headers, run: &[Header]) -> Taken {
        let mut walk = Walk::new();
        headers.ask(&mut walk);
        let bytes: Vec<u8> = run.iter().flat_map(|header| header.0).collect();
        headers.take(&mut walk, &bytes).unwrap()
    }

    impl HeaderStore for Arc<MemoryHeaderStore> {
        fn load(&self) -> Result<Vec<[u8; Header::SIZE]>, HeaderStoreError> {
            (**self).load()
        }

        fn replace_from(&self, height: u32, headers: &[[u8; Header::SIZE]]) -> Result<(), HeaderStoreError> {
            (**self).replace_from(height, headers)
        }
    }

    #[test]
    fn headers_survive_a_restart_also_after_a_reorganisation() {
        let store = Arc::new(MemoryHeaderStore::default());
        let headers = open(store.clone());
        let mut watch = headers.watch();
        let first = branch(&Header::regtest_genesis(), 5, 1);
        take(&headers, &first);
        assert_eq!(watch.borrow_and_update().height, 5);
        let before = headers.snapshot();
        let second = branch(&first[1], 4, 2);
        assert_eq!(take(&headers, &second).changed_from, Some(3));
        assert_eq!(watch.borrow_and_update().height, 6);
        assert_eq!(before.tip().height, 5, "a snapshot stays as it was");
        let tip = headers.snapshot().tip();
        drop(headers);
        assert_eq!(store.load().unwrap().len(), 6);
        assert_eq!(open(store).snapshot().tip(), tip);
    }

    #[test]
    fn damaged_headers_are_replaced() {
        let store = Arc::new(MemoryHeaderStore::default());
        let good = branch(&Header::regtest_genesis(), 3, 1);
        store.replace_from(1, &[good[0].0, [7; 80], good[2].0]).unwrap();
        let headers = open(store.clone());
        assert_eq!(headers.snapshot().tip().height, 0);
        take(&headers, &good);
        assert_eq!(store.load().unwrap(), good.iter().map(|header| header.0).collect::<Vec<_>>());
    }
}
