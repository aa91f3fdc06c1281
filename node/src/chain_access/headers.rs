//! The node's own header chain: what every proof is checked against, shared by all and written by the sync alone.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use sensora_chain::header::{Header, HeaderChain, HeaderError, HeaderView, Tip};
use sensora_chain::{BlockHash, Network};
use sensora_protocol::chain_access::Request;
use sensora_protocol::chain_access::message::Tip as ClaimedTip;
use sensora_protocol::chain_access::sync::{self, Fault, Taken, Walk};
use tokio::sync::watch;

use super::error::HeaderStoreError;
use super::progress::{Catching, Progress, SyncProgress};
use crate::clock::Clock;

/// How far below our tip the end of a chain may be that confirms ours: its owner is a few blocks behind.
const NEAR: u32 = 6;
/// How old the newest header of the main network is at the most, in seconds: six hours are 36 blocks' time.
pub(super) const STALE_AFTER_SECS: i64 = 6 * 3600;

/// Where block headers survive a restart. Calls block, and come from a thread that may.
pub trait HeaderStore: Send + Sync + 'static {
    /// All headers that are kept, lowest first, each the child of the one before it.
    ///
    /// # Errors
    /// When they cannot be read.
    fn load(&self) -> Result<Vec<[u8; Header::SIZE]>, HeaderStoreError>;

    /// Replaces everything from `height` upwards by `headers`, the first of which is at `height`; none: it ends below.
    ///
    /// # Errors
    /// When they cannot be written; what was there below `height` then still is, and whatever is there above is no header that was not
    /// given here.
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

/// Headers that are checked at once when they are read from the store.
const READ_AT_ONCE: usize = 2_000;

/// A chain as it was stored.
#[derive(Debug)]
pub struct Restored {
    /// The chain.
    pub chain: HeaderChain,
    /// The lowest height from which on the store has something else than the chain; `None` if it has just that.
    pub differs_from: Option<u32>,
    /// Why what comes then was left, if something was: it is damaged. It can be fetched again.
    pub damaged: Option<HeaderError>,
}

/// The chain of `base` and of what `store` has above it, checked by the rules as if a stranger had sent it. That takes a microsecond or
/// two a header, so there is no reason to believe the disk. What comes after the first header that does not hold is left.
///
/// # Errors
/// When the store cannot be read.
pub fn restore(base: HeaderChain, store: &dyn HeaderStore) -> Result<Restored, HeaderStoreError> {
    let stored: Vec<Header> = store.load()?.into_iter().map(Header).collect();
    let mut chain = base;
    let start = chain.tip();
    // An older release may have kept headers that come with the program now.
    let first = stored.iter().position(|header| header.previous() == start.hash);
    let above = first.and_then(|first| stored.get(first..)).unwrap_or_default();
    let mut damaged = None;
    for run in above.chunks(READ_AT_ONCE) {
        if chain.connect_run(run).is_ok() {
            continue;
        }
        // One of them does not hold: as far as it goes.
        damaged = run.iter().find_map(|header| chain.connect_run(&[*header]).err());
        break;
    }
    // Without a fault all are in a row above the start, so they are the best chain.
    let whole = damaged.is_none() && first.unwrap_or(0) == 0 && above.len() == stored.len();
    let differs_from = match first {
        Some(0) => (!whole).then(|| chain.tip_height().saturating_add(1)),
        Some(_) => Some(start.height.saturating_add(1)),
        None => (!stored.is_empty()).then(|| start.height.saturating_add(1)),
    };
    Ok(Restored { chain, differs_from, damaged })
}

/// The header chain and its store. Readers never wait: neither for the store nor for headers that are being checked.
pub(super) struct Headers {
    /// The best chain, shared with the writer's piece by piece.
    published: RwLock<Arc<HeaderChain>>,
    tip: watch::Sender<Tip>,
    progress: Progress,
    followed: watch::Sender<bool>,
    /// Held by whoever changes the chain, so that the store sees the changes in their order.
    writer: Mutex<Writer>,
    clock: Clock,
}

struct Writer {
    /// With the branches beside the best one.
    chain: HeaderChain,
    /// The lowest height that the store does not have yet.
    unsaved: Option<u32>,
    store: Box<dyn HeaderStore>,
}

impl Writer {
    /// Stores what it does not have. A store that fails is told of, and written to again with the next change: the chain in
    /// memory is right all the same.
    fn save(&mut self) {
        let Some(height) = self.unsaved else { return };
        match self.store.replace_from(height, &sync::flat_from(&self.chain, height)) {
            Ok(()) => self.unsaved = None,
            Err(error) => {
                tracing::warn!(%error, height, "block headers were not stored; trying again with the next");
            }
        }
    }
}

impl Headers {
    /// Reads the headers that are kept above those of `base`. What does not hold is left and cut off; the sync replaces it.
    pub(super) fn open(
        base: HeaderChain,
        store: Box<dyn HeaderStore>,
        clock: Clock,
    ) -> Result<Self, HeaderStoreError> {
        let Restored { chain, differs_from, damaged } = restore(base, &*store)?;
        if let Some(error) = damaged {
            let height = chain.tip_height();
            tracing::warn!(%error, height, "the stored block headers are damaged after this height; they are read from peers again");
        }
        let mut writer = Writer { chain, unsaved: differs_from, store };
        writer.save();
        let tip = writer.chain.tip();
        Ok(Self {
            published: RwLock::new(Arc::new(writer.chain.snapshot())),
            tip: watch::Sender::new(tip),
            progress: Progress::new(tip.height),
            followed: watch::Sender::new(false),
            writer: Mutex::new(writer),
            clock,
        })
    }

    pub(super) fn snapshot(&self) -> HeaderSnapshot {
        HeaderSnapshot(self.published.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub(super) fn watch(&self) -> watch::Receiver<Tip> {
        self.tip.subscribe()
    }

    pub(super) fn progress(&self) -> watch::Receiver<SyncProgress> {
        self.progress.watch()
    }

    /// Somebody claims that the chain ends at `claimed` and is followed until the result is dropped.
    pub(super) fn catching_up(&self, claimed: &ClaimedTip) -> Catching<'_> {
        self.progress.begin(self.snapshot().chain(), claimed.height, self.now_secs())
    }

    pub(super) fn knows(&self, tip: &ClaimedTip) -> bool {
        sync::is_known(self.snapshot().chain(), tip)
    }

    pub(super) fn ask(&self, walk: &mut Walk) -> Request {
        walk.ask(self.snapshot().chain())
    }

    /// Somebody who claims that the chain ends at `claimed` was followed to there. Where that is no block of ours, or far below our tip, it says nothing
    /// about where the chain ends.
    pub(super) fn followed_to(&self, claimed: &ClaimedTip) {
        let headers = self.snapshot();
        let known = headers.height_of(&claimed.hash);
        if known.is_some_and(|height| headers.tip_height().saturating_sub(height) <= NEAR) {
            self.followed.send_if_modified(|followed| !std::mem::replace(followed, true));
        }
    }

    pub(super) fn is_followed(&self) -> bool {
        *self.followed.borrow()
    }

    pub(super) fn followed(&self) -> watch::Receiver<bool> {
        self.followed.subscribe()
    }

    /// Whether the newest header is older than the main network is ever without one. Other networks rest for days.
    pub(super) fn is_stale(&self) -> bool {
        let headers = self.snapshot();
        let chain = headers.chain();
        let newest = headers.header_at(headers.tip_height()).map_or(0, |header| i64::from(header.time()));
        chain.network() == Network::Main && self.now_secs().saturating_sub(newest) > STALE_AFTER_SECS
    }

    fn now_secs(&self) -> i64 {
        self.clock.now_ms().div_euclid(1000)
    }

    /// Takes headers in, stores what changed and tells those who watch. Blocks on the store.
    pub(super) fn take(&self, walk: &mut Walk, answer: &[u8]) -> Result<Taken, Fault> {
        let mut writer = lock(&self.writer);
        let taken = walk.take(&mut writer.chain, answer, self.now_secs())?;
        if let Some(height) = taken.changed_from {
            let snapshot = Arc::new(writer.chain.snapshot());
            *self.published.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
            writer.unsaved = Some(writer.unsaved.map_or(height, |unsaved| unsaved.min(height)));
            writer.save();
            self.tip.send_replace(taken.connected.tip);
            self.progress.reached(taken.connected.tip.height);
        }
        Ok(taken)
    }
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
    fn damaged_headers_are_cut_off_and_replaced() {
        for (broken, left) in [(0, 0), (1, 1), (2, 2)] {
            let store = Arc::new(MemoryHeaderStore::default());
            let good = branch(&Header::regtest_genesis(), 4, 1);
            let mut kept: Vec<_> = good.iter().map(|header| header.0).collect();
            kept[broken] = [7; 80];
            store.replace_from(1, &kept).unwrap();
            let restored = restore(HeaderChain::genesis(Network::Regtest).unwrap(), &store).unwrap();
            let differs = if broken == 0 { 1 } else { left + 1 };
            assert_eq!((restored.chain.tip_height(), restored.differs_from), (left, Some(differs)));
            let headers = open(store.clone());
            assert_eq!(headers.snapshot().tip().height, left);
            assert_eq!(store.load().unwrap().len(), left as usize, "they are gone from the store at once");
            take(&headers, &good);
            assert_eq!(store.load().unwrap(), good.iter().map(|header| header.0).collect::<Vec<_>>());
        }
    }

    /// A store that fails as often as it is told.
    struct Failing {
        kept: Arc<MemoryHeaderStore>,
        failures: std::sync::atomic::AtomicUsize,
    }

    impl HeaderStore for Failing {
        fn load(&self) -> Result<Vec<[u8; Header::SIZE]>, HeaderStoreError> {
            self.kept.load()
        }

        fn replace_from(&self, height: u32, headers: &[[u8; Header::SIZE]]) -> Result<(), HeaderStoreError> {
            use std::sync::atomic::Ordering::Relaxed;
            if self.failures.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                return Err(HeaderStoreError("the disk is full".into()));
            }
            self.kept.replace_from(height, headers)
        }
    }

    #[test]
    fn what_could_not_be_stored_is_stored_with_the_next_headers() {
        let kept = Arc::new(MemoryHeaderStore::default());
        let store = Failing { kept: kept.clone(), failures: 2.into() };
        let base = HeaderChain::genesis(Network::Regtest).unwrap();
        let headers = Headers::open(base, Box::new(store), Clock::fixed(0)).unwrap();
        let first = branch(&Header::regtest_genesis(), 6, 1);
        take(&headers, &first[..4]);
        let second = branch(&first[1], 5, 2);
        take(&headers, &second);
        assert!(kept.load().unwrap().is_empty());
        assert_eq!(headers.snapshot().tip().height, 7, "the chain goes on all the same");
        take(&headers, &branch(&second[4], 1, 2));
        assert_eq!(kept.load().unwrap().len(), 8);
        assert_eq!(open(kept).snapshot().tip(), headers.snapshot().tip());
    }
}
