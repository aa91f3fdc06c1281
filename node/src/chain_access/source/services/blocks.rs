//! Looking for data outputs in the blocks of a node: no other service answers "everything that begins with this".

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use sensora_chain::contract::parse_data_output;
use sensora_chain::header::HeaderView as _;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::sources::service::{Block, Need, Service};
use sensora_chain::{BlockHash, Network, Txid};
use sensora_protocol::chain_access::message::{
    MAX_BEEF_LEN, MAX_RESPONSE_LEN, ScanPage, ScanPosition, ScannedOutput,
};
use sensora_protocol::chain_access::{Answer, Request};
use tokio::time::{Instant, timeout_at};

use super::{ServicesSource, lock};
use crate::chain_access::dev::history;
use crate::chain_access::error::{ChainError, Failure, Tried};
use crate::chain_access::headers::Headers;
use crate::chain_access::source::swarm::ASK_DEADLINE;
use crate::chain_access::{HeaderSnapshot, Scanned, blocking, check};

/// Blocks whose matches are remembered. Nearly all have none and take some hundred bytes: 2 MB.
const MAX_BLOCKS: usize = 20_000;

/// Bytes of matches that are remembered.
const MAX_BYTES: usize = 16 << 20;

/// On a public network only the newest so many blocks are read, four weeks: what is older is no ad any more, and reading a year of
/// blocks for it would take days.
const SCAN_WINDOW: u32 = 4 * 7 * 144;

/// Bytes of one page: what fits a frame beside the maps around it.
const PAGE_BYTES: usize = MAX_RESPONSE_LEN - 64 * 1024;

/// What was found in which block under which prefix.
#[derive(Debug, Default)]
pub(super) struct Matches {
    found: HashMap<Key, Arc<[ScannedOutput]>>,
    /// The keys in the order in which they came.
    order: VecDeque<Key>,
    bytes: usize,
}

type Key = (BlockHash, Arc<[u8]>);

impl Matches {
    fn get(&self, key: &Key) -> Option<Arc<[ScannedOutput]>> {
        self.found.get(key).cloned()
    }

    fn put(&mut self, key: Key, outputs: Arc<[ScannedOutput]>) {
        let size = |outputs: &[ScannedOutput]| outputs.iter().map(|output| output.beef.len()).sum::<usize>();
        self.bytes = self.bytes.saturating_add(size(&outputs));
        if let Some(before) = self.found.insert(key.clone(), outputs) {
            self.bytes = self.bytes.saturating_sub(size(&before));
        } else {
            self.order.push_back(key);
        }
        while self.order.len() > MAX_BLOCKS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(gone) = self.found.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(size(&gone));
            }
        }
    }
}

impl ServicesSource {
    /// A page of mined data outputs, from the first service that has blocks, or from peers.
    pub(in crate::chain_access::source) async fn scan(
        &self,
        headers: &Arc<Headers>,
        prefix: Arc<[u8]>,
        from: ScanPosition,
        max: usize,
    ) -> Result<(Vec<Scanned>, Option<ScanPosition>), ChainError> {
        let deadline = Instant::now() + ASK_DEADLINE;
        let mut tried = Vec::new();
        for index in self.candidates(Need::Blocks) {
            let scanning = self.scan_with(headers, index, &prefix, from, max);
            let outcome = timeout_at(deadline, scanning).await.unwrap_or_else(|_| Err(self.too_late(index)));
            self.note(index, &outcome);
            match outcome {
                Ok(page) => return Ok(page),
                Err(failure) if failure.is_stopped() => return Err(ChainError::Stopped),
                Err(failure) => tried.push(Tried { asked: self.asked(index), failure }),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        let Some(swarm) = &self.swarm else { return Err(self.nobody(Need::Blocks, tried, None)) };
        let limit = u32::try_from(max).unwrap_or(u32::MAX);
        let request = Request::Scan { prefix: prefix.to_vec(), from, limit };
        let check = move |chain: &_, answer| check::scan(chain, &prefix, from, max, answer);
        let asked = swarm.ask(headers, &request, check).await;
        asked.map_err(|error| self.nobody(Need::Blocks, tried, Some(error)))
    }

    async fn scan_with(
        &self,
        headers: &Arc<Headers>,
        index: usize,
        prefix: &Arc<[u8]>,
        from: ScanPosition,
        max: usize,
    ) -> Result<(Vec<Scanned>, Option<ScanPosition>), Failure> {
        let service = self.service(index)?.clone();
        let page = match self.page(&service, headers.snapshot(), prefix, from, max).await {
            // It has another block there: ours may be the old one.
            Err(Failure::OutOfReach { .. }) => {
                self.walk(headers, index).await?;
                self.page(&service, headers.snapshot(), prefix, from, max).await?
            }
            page => page?,
        };
        let (snapshot, prefix) = (headers.snapshot(), prefix.clone());
        let checked =
            blocking(move || check::scan(snapshot.chain(), &prefix, from, max, Answer::Scan(page))).await;
        checked.ok_or(Failure::Stopped)?
    }

    async fn page(
        &self,
        service: &Arc<Service>,
        own: HeaderSnapshot,
        prefix: &Arc<[u8]>,
        from: ScanPosition,
        max: usize,
    ) -> Result<ScanPage, Failure> {
        let mut page = ScanPage { outputs: Vec::new(), next: None };
        let mut bytes = 0usize;
        for height in first_height(&own, from)..=own.tip_height() {
            let Some(hash) = own.header_at(height).map(|header| header.hash()) else { continue };
            // A service that is behind has no more to show.
            let Some(found) = self.matches(service, height, hash, prefix).await? else { return Ok(page) };
            for output in found.iter().filter(|output| output.at >= from) {
                bytes = bytes.saturating_add(output.beef.len());
                if page.outputs.len() >= max || bytes > PAGE_BYTES {
                    page.next = Some(output.at);
                    return Ok(page);
                }
                page.outputs.push(output.clone());
            }
        }
        Ok(page)
    }

    /// What the block at `height` has, which is to be the one with this hash.
    async fn matches(
        &self,
        service: &Arc<Service>,
        height: u32,
        hash: BlockHash,
        prefix: &Arc<[u8]>,
    ) -> Result<Option<Arc<[ScannedOutput]>>, Failure> {
        let key = (hash, prefix.clone());
        let known = lock(&self.inner.matches).get(&key);
        if known.is_some() {
            return Ok(known);
        }
        let Some(block) = service.block(height).await? else { return Ok(None) };
        if block.header.hash() != hash {
            return Err(Failure::OutOfReach { height });
        }
        let wanted = prefix.clone();
        let found = blocking(move || find(&block, height, &wanted)).await.ok_or(Failure::Stopped)?;
        let found: Arc<[ScannedOutput]> = found.into();
        lock(&self.inner.matches).put(key, found.clone());
        Ok(Some(found))
    }
}

/// Where to begin: blocks below the first header that is kept cannot be proven.
fn first_height(own: &HeaderSnapshot, from: ScanPosition) -> u32 {
    let chain = own.chain();
    let first = from.height.max(chain.base_height());
    if chain.network() == Network::Regtest {
        return first;
    }
    first.max(own.tip_height().saturating_sub(SCAN_WINDOW.saturating_sub(1)))
}

/// The data outputs of a block whose first push begins with `prefix`. What is too large for anybody to ask for is left out.
fn find(block: &Block, height: u32, prefix: &[u8]) -> Vec<ScannedOutput> {
    let mut txids: Vec<Txid> = Vec::new();
    let mut found = Vec::new();
    for (tx, index) in block.txs.iter().zip(0u32..) {
        for (output, vout) in tx.outputs.iter().zip(0u32..) {
            let begins = |pushes: Vec<Vec<u8>>| pushes.first().is_some_and(|first| first.starts_with(prefix));
            if !parse_data_output(&output.locking).is_some_and(begins) {
                continue;
            }
            if txids.is_empty() {
                txids = block.txs.iter().map(sensora_chain::Transaction::txid).collect();
            }
            let path =
                usize::try_from(index).ok().and_then(|at| MerklePath::for_block(height, &txids, at).ok());
            let beef = path.and_then(|path| history::proven(tx.clone(), &path).ok());
            if let Some(beef) = beef.filter(|beef| beef.len() <= MAX_BEEF_LEN) {
                found.push(ScannedOutput { at: ScanPosition { height, index, vout }, beef });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut matches = Matches::default();
        let prefix: Arc<[u8]> = b"S".as_slice().into();
        let key = |n: usize| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            (BlockHash(hash), prefix.clone())
        };
        for n in 0..MAX_BLOCKS + 5 {
            matches.put(key(n), Vec::new().into());
        }
        assert_eq!((matches.found.len(), matches.order.len()), (MAX_BLOCKS, MAX_BLOCKS));
        assert!(matches.get(&key(4)).is_none() && matches.get(&key(5)).is_some());
        let large = ScannedOutput { at: ScanPosition::default(), beef: vec![0; 1 << 20] };
        for n in 0..40 {
            matches.put(key(1_000_000 + n), vec![large.clone()].into());
            matches.put(key(1_000_000 + n), vec![large.clone()].into());
        }
        assert!(matches.bytes <= MAX_BYTES, "{}", matches.bytes);
        let held: usize = matches.found.values().flat_map(|found| found.iter()).map(|o| o.beef.len()).sum();
        assert_eq!(matches.bytes, held);
    }
}
