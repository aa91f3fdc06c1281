//! How far this node is with following the chain.

use std::sync::{Mutex, PoisonError};

use sensora_chain::Network;
use sensora_chain::header::{HeaderChain, HeaderView};
use sensora_protocol::chain_access::sync::MAX_CHAIN_HEADERS;
use tokio::sync::watch;

/// Seconds between blocks that the public networks aim at.
const SPACING_SECS: u64 = 600;

/// Blocks by which a chain may be ahead of its pace: a day on the public networks.
const SLACK: u64 = 144;

/// How far this node is with following the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncProgress {
    /// The height of the last header it has checked.
    pub height: u32,
    /// The height at which the chain is said to end: `height` when nothing is being caught up. The word of whoever is asked, as far as the
    /// time that has passed since our own last header supports it; good for a bar, and for nothing else.
    pub target: u32,
    /// The height at which this catching up began: where the bar begins.
    pub from: u32,
}

impl SyncProgress {
    /// Whether nothing is being caught up. It is also true before anybody was asked.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.height >= self.target
    }
}

/// Keeps the progress for all conversations together.
#[derive(Debug)]
pub(super) struct Progress {
    watched: watch::Sender<SyncProgress>,
    /// Conversations that are catching up now, and the highest end that one of them has claimed.
    claims: Mutex<Claims>,
}

#[derive(Debug, Default)]
struct Claims {
    conversations: usize,
    height: u32,
}

impl Progress {
    pub(super) fn new(height: u32) -> Self {
        let start = SyncProgress { height, target: height, from: height };
        Self { watched: watch::Sender::new(start), claims: Mutex::default() }
    }

    pub(super) fn watch(&self) -> watch::Receiver<SyncProgress> {
        self.watched.subscribe()
    }

    /// Somebody claims that the chain ends at `claimed`, and is followed until the result is dropped.
    pub(super) fn begin(&self, chain: &HeaderChain, claimed: u32, now_secs: i64) -> Catching<'_> {
        {
            let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
            claims.conversations = claims.conversations.saturating_add(1);
            claims.height = claims.height.max(plausible(chain, claimed, now_secs));
            self.set(chain.tip_height(), claims.height);
        }
        Catching { progress: self }
    }

    /// The chain ends at `height` now.
    pub(super) fn reached(&self, height: u32) {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        self.set(height, claims.height);
    }

    fn set(&self, height: u32, claimed: u32) {
        self.watched.send_if_modified(|progress| {
            let was_done = progress.is_done();
            let target = claimed.max(height);
            // A bar begins where something new is to be caught up, and does not jump while it runs or when it is through.
            let begins = was_done && target > height;
            let from = if begins { height } else { progress.from.min(height) };
            let next = SyncProgress { height, target, from };
            let changed = *progress != next;
            *progress = next;
            changed
        });
    }
}

/// A conversation that is catching up. When the last one ends, whatever was claimed is forgotten.
pub(super) struct Catching<'a> {
    progress: &'a Progress,
}

impl Drop for Catching<'_> {
    fn drop(&mut self) {
        let mut claims = self.progress.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.conversations = claims.conversations.saturating_sub(1);
        if claims.conversations == 0 {
            claims.height = 0;
            let height = self.progress.watched.borrow().height;
            self.progress.set(height, 0);
        }
    }
}

/// What of a claim can be: blocks come every ten minutes since our last one, with slack, and twice as many where miners have come.
/// On regtest blocks come when they like, but not more of them than are kept.
fn plausible(chain: &HeaderChain, claimed: u32, now_secs: i64) -> u32 {
    let tip = chain.tip_height();
    let most = match (chain.network(), chain.at(tip)) {
        (Network::Main | Network::Test, Some(last)) => {
            let passed = now_secs.saturating_sub(i64::from(last.time()));
            let blocks = u64::try_from(passed).unwrap_or(0).saturating_mul(2) / SPACING_SECS;
            u32::try_from(blocks.saturating_add(SLACK)).unwrap_or(u32::MAX)
        }
        _ => MAX_CHAIN_HEADERS,
    };
    claimed.min(tip.saturating_add(most.min(MAX_CHAIN_HEADERS)))
}

#[cfg(test)]
mod tests {
    use sensora_chain::header::Header;

    use super::*;

    #[test]
    fn a_bar_begins_with_a_claim_and_ends_with_the_last_conversation() {
        let chain = HeaderChain::genesis(Network::Regtest).unwrap();
        let progress = Progress::new(0);
        let watch = progress.watch();
        let now = || *watch.borrow();
        assert!(now().is_done());
        let first = progress.begin(&chain, 5_000, 0);
        assert_eq!(now(), SyncProgress { height: 0, target: 5_000, from: 0 });
        progress.reached(2_000);
        let second = progress.begin(&chain, 4_000, 0);
        assert_eq!((now().target, now().from), (5_000, 0), "the highest claim");
        progress.reached(5_100);
        assert_eq!(now(), SyncProgress { height: 5_100, target: 5_100, from: 0 });
        drop(first);
        // A block more, while nobody claims anything: done before and after.
        progress.reached(5_101);
        assert!(now().is_done());
        drop(second);
        let liar = progress.begin(&chain, u32::MAX, 0);
        assert_eq!(now().target, MAX_CHAIN_HEADERS);
        drop(liar);
        assert!(now().is_done(), "a claim that brought nothing is forgotten");
    }

    #[test]
    fn a_claim_counts_as_far_as_time_supports_it() {
        let chain = HeaderChain::checkpoint(Network::Main).unwrap();
        let (tip, last) =
            (chain.tip_height(), chain.at(chain.tip_height()).map(|h: Header| h.time()).unwrap());
        let at = |days: i64, claimed| plausible(&chain, claimed, i64::from(last) + days * 86_400);
        assert_eq!(at(10, tip + 1_440), tip + 1_440);
        assert_eq!(at(10, u32::MAX), tip + 2 * 1_440 + 144);
        assert_eq!(at(-10, u32::MAX), tip + 144, "our clock is wrong");
        assert_eq!(at(10, tip - 5), tip - 5);
    }
}
