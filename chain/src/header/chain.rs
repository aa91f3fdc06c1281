//! The chain of headers with the most work, and the branches beside it that may overtake it.

use std::collections::{BinaryHeap, HashMap};

use super::rules::{self, Ancestor, CHECKPOINT_HEADERS};
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
#[derive(Clone, Debug)]
pub struct HeaderChain {
    network: Network,
    base_height: u32,
    best: Vec<Header>,
    /// For each header of `best` all work since the first.
    works: Vec<Work>,
    heights: HashMap<BlockHash, u32>,
    side: HashMap<BlockHash, Node>,
}

impl HeaderChain {
    /// The chain of a network from its first block.
    ///
    /// # Errors
    /// [`HeaderError::NeedsCheckpoint`] for all but [`Network::Regtest`].
    pub fn genesis(network: Network) -> Result<Self, HeaderError> {
        match network {
            Network::Regtest => Ok(Self::from_base(network, 0, &[Header::regtest_genesis()])),
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
        if headers.len() < need {
            return Err(HeaderError::CheckpointTooShort { found: headers.len(), need });
        }
        let mut previous: Option<BlockHash> = None;
        for header in headers {
            let hash = header.hash();
            if previous.is_some_and(|previous| previous != header.previous()) {
                return Err(HeaderError::UnknownParent { hash, previous: header.previous() });
            }
            if !header.meets_target(network) {
                return Err(HeaderError::ProofOfWork(hash));
            }
            previous = Some(hash);
        }
        let last = u32::try_from(headers.len()).ok().and_then(|len| height.checked_add(len));
        if last.is_none() {
            return Err(HeaderError::Height(previous.unwrap_or_default()));
        }
        Ok(Self::from_base(network, height, headers))
    }

    /// `headers` is not empty, and the heights fit 32 bits.
    fn from_base(network: Network, base_height: u32, headers: &[Header]) -> Self {
        let mut chain = HeaderChain {
            network,
            base_height,
            best: Vec::with_capacity(headers.len()),
            works: Vec::with_capacity(headers.len()),
            heights: HashMap::with_capacity(headers.len()),
            side: HashMap::new(),
        };
        let mut work = Work::ZERO;
        for header in headers {
            work = work.plus(header.work());
            chain.push_best(header.hash(), *header, work);
        }
        chain
    }

    /// The network whose rules are followed.
    pub const fn network(&self) -> Network {
        self.network
    }

    /// The height of the first header that is kept.
    pub const fn base_height(&self) -> u32 {
        self.base_height
    }

    /// The last header of the best chain.
    pub fn tip(&self) -> Tip {
        Tip { height: self.tip_height(), hash: self.best.last().map(Header::hash).unwrap_or_default() }
    }

    /// All work of the best chain since the first header that is kept.
    pub fn work(&self) -> Work {
        self.works.last().copied().unwrap_or_default()
    }

    /// The header at `height` of the best chain.
    pub fn at(&self, height: u32) -> Option<Header> {
        let index = usize::try_from(height.checked_sub(self.base_height)?).ok()?;
        self.best.get(index).copied()
    }

    /// The height of a header of the best chain.
    pub fn height_of(&self, hash: &BlockHash) -> Option<u32> {
        self.heights.get(hash).copied()
    }

    /// How many blocks of the best chain confirm what is at `height`, its own block included; 0 above the tip.
    pub fn confirmations(&self, height: u32) -> u32 {
        confirmations(self.tip_height(), height)
    }

    /// Whether a block at `height` has at least `depth` confirmations.
    pub fn is_buried(&self, height: u32, depth: u32) -> bool {
        height >= self.base_height && self.confirmations(height) >= depth.max(1)
    }

    /// The median time of the eleven headers up to `height`: what lock times are compared with.
    pub fn median_time_past(&self, height: u32) -> Option<u32> {
        self.at(height)?;
        rules::median_time((self.base_height..=height).rev().filter_map(|h| self.at(h)))
    }

    /// Hashes of the best chain from the tip back in growing steps, for a peer to find the last one it shares.
    pub fn locator(&self) -> Vec<BlockHash> {
        let mut locator = Vec::new();
        let mut height = self.tip_height();
        let mut step = 1u32;
        while height > self.base_height {
            locator.extend(self.at(height).map(|header| header.hash()));
            if locator.len() >= 10 {
                step = step.saturating_mul(2);
            }
            height = height.saturating_sub(step).max(self.base_height);
        }
        locator.extend(self.at(self.base_height).map(|header| header.hash()));
        locator
    }

    /// Up to `max` headers of the best chain after the first of `locator` that is on it; without one, after the
    /// first header that is kept.
    pub fn after(&self, locator: &[BlockHash], max: usize) -> Vec<Header> {
        let shared = locator.iter().find_map(|hash| self.height_of(hash)).unwrap_or(self.base_height);
        let start = usize::try_from(shared.saturating_sub(self.base_height)).unwrap_or(usize::MAX);
        self.best.iter().skip(start.saturating_add(1)).take(max).copied().collect()
    }

    /// Headers of the best chain from `height` on, at most `max`.
    pub fn run(&self, height: u32, max: usize) -> &[Header] {
        let start = height.checked_sub(self.base_height).and_then(|h| usize::try_from(h).ok());
        let rest = start.and_then(|start| self.best.get(start..)).unwrap_or_default();
        rest.get(..max).unwrap_or(rest)
    }

    /// The best chain as a run of 80-byte headers, the first at [`HeaderChain::base_height`].
    pub fn to_bytes(&self) -> Vec<u8> {
        self.best.iter().flat_map(|header| header.0).collect()
    }

    /// Takes headers in, each after its parent; those that are known are skipped. Afterwards the best chain is the one
    /// with the most work, and among equals the one seen first. Forks may start at any height that is kept.
    ///
    /// # Errors
    /// [`HeaderError`] for the first header that breaks a rule; then none of them is taken.
    pub fn connect(&mut self, headers: &[Header]) -> Result<Connected, HeaderError> {
        let mut added = Vec::new();
        for header in headers {
            match self.admit(header) {
                Ok(Some(hash)) => added.push(hash),
                Ok(None) => {}
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
        let reorged = match strongest {
            Some((hash, work)) if work > self.work() => self.adopt(hash),
            _ => None,
        };
        self.forget_weak_branches();
        Ok(Connected { tip: self.tip(), added: added.len(), reorged })
    }

    /// Checks one header and keeps it beside the best chain. `None` if it is known.
    fn admit(&mut self, header: &Header) -> Result<Option<BlockHash>, HeaderError> {
        let hash = header.hash();
        if self.heights.contains_key(&hash) || self.side.contains_key(&hash) {
            return Ok(None);
        }
        let previous = header.previous();
        let parent = self.node(&previous).ok_or(HeaderError::UnknownParent { hash, previous })?;
        rules::check(self.network, &self.ancestors(parent), header, hash)?;
        let height = parent.height.checked_add(1).ok_or(HeaderError::Height(hash))?;
        let work = parent.work.plus(header.work());
        self.side.insert(hash, Node { header: *header, height, work });
        Ok(Some(hash))
    }

    fn node(&self, hash: &BlockHash) -> Option<Node> {
        match self.heights.get(hash) {
            Some(height) => self.best_node(*height),
            None => self.side.get(hash).copied(),
        }
    }

    fn best_node(&self, height: u32) -> Option<Node> {
        let index = usize::try_from(height.checked_sub(self.base_height)?).ok()?;
        Some(Node { header: *self.best.get(index)?, height, work: *self.works.get(index)? })
    }

    /// The headers up to and with `newest` that the rules look at, newest first.
    fn ancestors(&self, newest: Node) -> Vec<Ancestor> {
        let span = rules::span(self.network);
        let mut found = Vec::with_capacity(span);
        let mut next = Some(newest);
        while let Some(node) = next
            && found.len() < span
        {
            found.push(Ancestor { header: node.header, work: node.work });
            next = self.node(&node.header.previous());
        }
        found
    }

    /// Makes the branch that ends with `tip` the best chain.
    fn adopt(&mut self, tip: BlockHash) -> Option<Reorg> {
        // From the new tip back to where the branch leaves the best chain.
        let mut branch = Vec::new();
        let mut hash = tip;
        let fork_height = loop {
            if let Some(height) = self.heights.get(&hash) {
                break *height;
            }
            let node = self.side.remove(&hash)?;
            branch.push((hash, node));
            hash = node.header.previous();
        };

        let kept =
            usize::try_from(fork_height.saturating_sub(self.base_height)).map_or(0, |n| n.saturating_add(1));
        let headers = self.best.split_off(kept.min(self.best.len()));
        let works = self.works.split_off(kept.min(self.works.len()));
        let mut disconnected = Vec::with_capacity(headers.len());
        for ((header, work), height) in headers.into_iter().zip(works).zip(fork_height.saturating_add(1)..) {
            let hash = header.hash();
            self.heights.remove(&hash);
            self.side.insert(hash, Node { header, height, work });
            disconnected.push(hash);
        }
        for (hash, node) in branch.into_iter().rev() {
            self.push_best(hash, node.header, node.work);
        }
        if disconnected.is_empty() { None } else { Some(Reorg { fork_height, disconnected }) }
    }

    fn push_best(&mut self, hash: BlockHash, header: Header, work: Work) {
        let height = u32::try_from(self.best.len()).unwrap_or(u32::MAX).saturating_add(self.base_height);
        self.best.push(header);
        self.works.push(work);
        self.heights.insert(hash, height);
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
        // Checked when the chain was made and for each header after it.
        u32::try_from(self.best.len()).unwrap_or(u32::MAX).saturating_sub(1).saturating_add(self.base_height)
    }
}

/// How many blocks up to `tip` confirm what is at `height`, its own block included.
pub(crate) fn confirmations(tip: u32, height: u32) -> u32 {
    tip.checked_sub(height).map_or(0, |above| above.saturating_add(1))
}
