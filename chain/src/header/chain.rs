//! The chain of headers with the most work, and the branches beside it that may overtake it.

use std::collections::{BinaryHeap, HashMap};

use super::best::{Adder, Best};
use super::rules::{self, Ancestor, CHECKPOINT_HEADERS, Window};
use super::work::Work;
use super::{Header, HeaderError, HeaderView};
use crate::id::BlockHash;
use crate::network::Network;

/// How many headers beside the best chain are kept, about 15 MB. Where work is cheap (regtest) a stranger could send
/// branches without end; above this number the weakest ends go. A branch that is to overtake can be far longer: its
/// headers are taken in one go, and are the best chain then.
pub const MAX_SIDE_HEADERS: usize = 65_536;

/// The last header of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Its height.
    pub height: u32,
    /// Its hash.
    pub hash: BlockHash,
}

/// The best chain left a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reorg {
    /// The last height that both branches share.
    pub fork_height: u32,
    /// The headers that are no longer on the best chain, from below.
    pub disconnected: Vec<BlockHash>,
}

/// What [`HeaderChain::connect`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The last header of the best chain now.
    pub tip: Tip,
    /// How many headers were new, on whatever branch.
    pub added: usize,
    /// Whether headers left the best chain.
    pub reorged: Option<Reorg>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    header: Header,
    height: u32,
    work: Work,
}

/// All headers from a first one on, which is believed; see [`HeaderChain::connect`].
///
/// It takes about 90 bytes for each header of the best chain. A copy shares them with the original, see
/// [`HeaderChain::snapshot`].
#[derive(Clone, Debug)]
pub struct HeaderChain {
    network: Network,
    best: Best,
    side: HashMap<BlockHash, Node>,
}

impl HeaderChain {
    /// The chain of a network from its first block.
    ///
    /// # Errors
    /// [`HeaderError::NeedsCheckpoint`] for all but [`Network::Regtest`].
    pub fn genesis(network: Network) -> Result<Self, HeaderError> {
        match network {
            Network::Regtest => Ok(Self::begin(network, 0, Header::regtest_genesis())),
            Network::Main | Network::Test => Err(HeaderError::NeedsCheckpoint(network)),
        }
    }

    /// The chain of a network from headers that are known to be on it, the first at `height`. Their links and proof
    /// of work are checked, their difficulty is believed.
    ///
    /// # Errors
    /// [`HeaderError::CheckpointTooShort`] if the next difficulty could not be computed, otherwise what is wrong.
    pub fn from_checkpoint(network: Network, height: u32, headers: &[Header]) -> Result<Self, HeaderError> {
        let need = if network == Network::Regtest { 1 } else { CHECKPOINT_HEADERS };
        let short = HeaderError::CheckpointTooShort { found: headers.len(), need };
        let (first, rest) = headers.split_first().ok_or(short)?;
        if headers.len() < need {
            return Err(short);
        }
        let mut chain = Self::begin(network, height, *first);
        let hash = chain.tip().hash;
        if !first.meets_target_with(network, &hash) {
            return Err(HeaderError::ProofOfWork(hash));
        }
        let mut adder = Adder::new(chain.work());
        for header in rest {
            let (hash, previous) = (header.hash(), header.previous());
            if previous != chain.tip().hash {
                return Err(HeaderError::UnknownParent { hash, previous });
            }
            if !header.meets_target_with(network, &hash) {
                return Err(HeaderError::ProofOfWork(hash));
            }
            if !chain.best.push(hash, *header, adder.add(header)) {
                return Err(HeaderError::Height(hash));
            }
        }
        Ok(chain)
    }

    fn begin(network: Network, height: u32, first: Header) -> Self {
        Self { network, best: Best::new(height, first), side: HashMap::new() }
    }

    /// The best chain as it is now, without the branches beside it: for readers, while this one goes on. It shares the
    /// headers with this one, so it costs some microseconds and, as the chain grows, some kilobytes.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        Self { network: self.network, best: self.best.clone(), side: HashMap::new() }
    }

    /// The network whose rules are followed.
    pub const fn network(&self) -> Network {
        self.network
    }

    /// The height of the first header that is kept.
    pub const fn base_height(&self) -> u32 {
        self.best.base_height()
    }

    /// The last header of the best chain.
    pub const fn tip(&self) -> Tip {
        self.best.tip()
    }

    /// All work of the best chain since the first header that is kept.
    pub const fn work(&self) -> Work {
        self.best.work()
    }

    /// The header at `height` of the best chain.
    pub fn at(&self, height: u32) -> Option<Header> {
        self.best.at(height)
    }

    /// The hash of the header at `height` of the best chain. Cheaper than to hash it.
    pub fn hash_at(&self, height: u32) -> Option<BlockHash> {
        self.best.hash_at(height)
    }

    /// The height of a header of the best chain.
    pub fn height_of(&self, hash: &BlockHash) -> Option<u32> {
        self.best.height_of(hash)
    }

    /// How many blocks of the best chain confirm what is at `height`, its own block included; 0 above the tip.
    pub fn confirmations(&self, height: u32) -> u32 {
        confirmations(self.tip_height(), height)
    }

    /// Whether a block at `height` has at least `depth` confirmations.
    pub fn is_buried(&self, height: u32, depth: u32) -> bool {
        height >= self.base_height() && self.confirmations(height) >= depth.max(1)
    }

    /// The median time of the eleven headers up to `height`: what lock times are compared with.
    pub fn median_time_past(&self, height: u32) -> Option<u32> {
        self.at(height)?;
        rules::median_time((self.base_height()..=height).rev().map_while(|h| Some(self.at(h)?.time())))
    }

    /// Hashes of the best chain from the tip back in growing steps, for a peer to find the last one it shares.
    pub fn locator(&self) -> Vec<BlockHash> {
        let mut locator = Vec::new();
        let mut height = self.tip_height();
        let mut step = 1u32;
        while height > self.base_height() {
            locator.extend(self.hash_at(height));
            if locator.len() >= 10 {
                step = step.saturating_mul(2);
            }
            height = height.saturating_sub(step).max(self.base_height());
        }
        locator.extend(self.hash_at(self.base_height()));
        locator
    }

    /// Up to `max` headers of the best chain after the first of `locator` that is on it; without one, after the
    /// first header that is kept.
    pub fn after(&self, locator: &[BlockHash], max: usize) -> Vec<Header> {
        let shared = locator.iter().find_map(|hash| self.height_of(hash)).unwrap_or(self.base_height());
        self.run(shared.saturating_add(1), max)
    }

    /// Headers of the best chain from `height` on, at most `max`; none if the first of them is not kept.
    pub fn run(&self, height: u32, max: usize) -> Vec<Header> {
        if height < self.base_height() {
            return Vec::new();
        }
        self.best.from(height).take(max).copied().collect()
    }

    /// The best chain as a run of 80-byte headers, the first at [`HeaderChain::base_height`].
    pub fn to_bytes(&self) -> Vec<u8> {
        self.best.from(self.base_height()).flat_map(|header| header.0).collect()
    }

    /// Takes headers in, each after its parent; those that are known are skipped. Afterwards the best chain is the one
    /// with the most work, and among equals the one seen first. Forks may start at any height that is kept.
    ///
    /// # Errors
    /// [`HeaderError`] for the first header that breaks a rule; then none of them is taken.
    pub fn connect(&mut self, headers: &[Header]) -> Result<Connected, HeaderError> {
        self.connect_hashed(&hashed(headers))
    }

    /// As [`HeaderChain::connect`], for headers that must be in a row, as a peer is to send them.
    ///
    /// # Errors
    /// [`HeaderError::NotInARow`] for the first that does not follow the one before it, otherwise as there.
    pub fn connect_run(&mut self, headers: &[Header]) -> Result<Connected, HeaderError> {
        let headers = hashed(headers);
        match runs(&headers).nth(1).and_then(<[_]>::first) {
            Some((hash, _)) => Err(HeaderError::NotInARow(*hash)),
            None => self.connect_hashed(&headers),
        }
    }

    fn connect_hashed(&mut self, headers: &[(BlockHash, Header)]) -> Result<Connected, HeaderError> {
        let mut added: Vec<BlockHash> = Vec::new();
        let mut reorged = None;
        for run in runs(headers) {
            match self.check_run(run) {
                // The usual case: the chain has grown, and nothing else is to be looked at.
                Ok(new) if new.len() == headers.len() && self.extends(&new) => {
                    for (hash, node) in new {
                        self.best.push(hash, node.header, node.work);
                        added.push(hash);
                    }
                    return Ok(Connected { tip: self.tip(), added: added.len(), reorged });
                }
                Ok(new) => {
                    added.extend(new.iter().map(|(hash, _)| *hash));
                    self.side.extend(new);
                }
                Err(error) => {
                    for hash in &added {
                        self.side.remove(hash);
                    }
                    return Err(error);
                }
            }
        }
        let strongest = added.iter().filter_map(|hash| Some((*hash, self.side.get(hash)?.work)));
        // `max_by_key` gives the last of equals; the first seen is to win.
        let strongest = strongest.rev().max_by_key(|(_, work)| *work);
        if let Some((hash, work)) = strongest
            && work > self.work()
        {
            reorged = self.adopt(hash);
        }
        self.forget_weak_branches();
        Ok(Connected { tip: self.tip(), added: added.len(), reorged })
    }

    fn extends(&self, new: &[(BlockHash, Node)]) -> bool {
        new.first().is_some_and(|(_, first)| first.header.previous() == self.tip().hash)
    }

    /// Checks headers in a row against the rules. Gives those that are not known; changes nothing.
    fn check_run(&self, run: &[(BlockHash, Header)]) -> Result<Vec<(BlockHash, Node)>, HeaderError> {
        // What is known has known parents, so that the unknown ones are at the end.
        let known = run
            .partition_point(|(hash, _)| self.best.height_of(hash).is_some() || self.side.contains_key(hash));
        let run = run.get(known..).unwrap_or_default();
        let Some((hash, first)) = run.first() else { return Ok(Vec::new()) };
        let (mut window, mut height) = self.window(*hash, first.previous(), run.len())?;
        let mut new = Vec::with_capacity(run.len());
        for (hash, header) in run {
            let work = window.take(header, *hash)?;
            height = height.checked_add(1).ok_or(HeaderError::Height(*hash))?;
            new.push((*hash, Node { header: *header, height, work }));
        }
        Ok(new)
    }

    /// What the rules look at for the child `hash` of `parent` and `more` after it, and the parent's height.
    fn window(&self, hash: BlockHash, parent: BlockHash, more: usize) -> Result<(Window, u32), HeaderError> {
        let span = rules::span(self.network);
        let mut found = Vec::with_capacity(span.saturating_add(more));
        let mut parent_height = None;
        let mut next = parent;
        while found.len() < span
            && let Some(node) = self.side.get(&next)
        {
            found.push(Ancestor { time: node.header.time(), bits: node.header.bits(), work: node.work });
            parent_height = parent_height.or(Some(node.height));
            next = node.header.previous();
        }
        found.reverse();
        let missing = u32::try_from(span.saturating_sub(found.len())).unwrap_or(u32::MAX);
        if missing > 0 {
            let Some(last) = self.best.height_of(&next) else {
                return Err(self.without_parent(hash, parent));
            };
            parent_height = parent_height.or(Some(last));
            let first = last.saturating_sub(missing.saturating_sub(1)).max(self.base_height());
            // From the work before the first of them on.
            let before = first.checked_sub(1).and_then(|height| self.best.work_at(height));
            let mut adder = Adder::new(before.unwrap_or_default());
            let shared = self.best.from(first).zip(first..=last);
            let shared = shared.map(|(header, _)| Ancestor {
                time: header.time(),
                bits: header.bits(),
                work: adder.add(header),
            });
            let beside = std::mem::replace(&mut found, Vec::with_capacity(span.saturating_add(more)));
            found.extend(shared);
            found.extend(beside);
        }
        let height = parent_height.ok_or_else(|| self.without_parent(hash, parent))?;
        Ok((Window::new(self.network, found), height))
    }

    fn without_parent(&self, hash: BlockHash, previous: BlockHash) -> HeaderError {
        match self.at(self.base_height()) {
            Some(base) if base.previous() == previous => {
                HeaderError::BesideBase { hash, height: self.base_height() }
            }
            _ => HeaderError::UnknownParent { hash, previous },
        }
    }

    /// Makes the branch that ends with `tip` the best chain.
    fn adopt(&mut self, tip: BlockHash) -> Option<Reorg> {
        // From the new tip back to where the branch leaves the best chain.
        let mut branch = Vec::new();
        let mut hash = tip;
        let fork_height = loop {
            if let Some(height) = self.height_of(&hash) {
                break height;
            }
            let node = self.side.remove(&hash)?;
            branch.push((hash, node));
            hash = node.header.previous();
        };

        let mut disconnected = Vec::new();
        let left = self.best.truncate(fork_height);
        for ((hash, header, work), height) in left.into_iter().zip(fork_height.saturating_add(1)..) {
            self.side.insert(hash, Node { header, height, work });
            disconnected.push(hash);
        }
        for (hash, node) in branch.into_iter().rev() {
            self.best.push(hash, node.header, node.work);
        }
        if disconnected.is_empty() { None } else { Some(Reorg { fork_height, disconnected }) }
    }

    /// Drops the ends of branches with the least work until few enough remain. A header goes only after all that
    /// build on it, so what remains is still attached.
    fn forget_weak_branches(&mut self) {
        if self.side.len() <= MAX_SIDE_HEADERS {
            return;
        }
        let mut children: HashMap<BlockHash, usize> = HashMap::new();
        for node in self.side.values() {
            let count = children.entry(node.header.previous()).or_default();
            *count = count.saturating_add(1);
        }
        let ends = self.side.iter().filter(|(hash, _)| !children.contains_key(hash));
        let mut weakest: BinaryHeap<_> =
            ends.map(|(hash, node)| (std::cmp::Reverse(node.work), *hash)).collect();
        // Some room, so that the next header does not start all this again.
        while self.side.len() > MAX_SIDE_HEADERS / 4 * 3
            && let Some((_, hash)) = weakest.pop()
        {
            let Some(node) = self.side.remove(&hash) else { continue };
            let parent = node.header.previous();
            if let Some(count) = children.get_mut(&parent) {
                *count = count.saturating_sub(1);
                if *count == 0
                    && let Some(node) = self.side.get(&parent)
                {
                    weakest.push((std::cmp::Reverse(node.work), parent));
                }
            }
        }
    }
}

impl HeaderView for HeaderChain {
    fn header_at(&self, height: u32) -> Option<Header> {
        self.at(height)
    }

    fn tip_height(&self) -> u32 {
        self.tip().height
    }
}

fn hashed(headers: &[Header]) -> Vec<(BlockHash, Header)> {
    headers.iter().map(|header| (header.hash(), *header)).collect()
}

/// The headers in pieces in which each follows the one before it.
fn runs(headers: &[(BlockHash, Header)]) -> impl Iterator<Item = &[(BlockHash, Header)]> {
    headers.chunk_by(|(hash, _), (_, next)| next.previous() == *hash)
}

/// How many blocks up to `tip` confirm what is at `height`, its own block included.
pub(crate) fn confirmations(tip: u32, height: u32) -> u32 {
    tip.checked_sub(height).map_or(0, |above| above.saturating_add(1))
}
