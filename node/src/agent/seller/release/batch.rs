//! Sealed batches. Of each the tree over its parts and where they begin is kept for a while; the parts themselves are made from the log when
//! they are sent, some at a time, so that a batch of a gigabyte takes no more memory than a frame.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use sensora_protocol::codec;
use sensora_protocol::market::delivery::Page;
use sensora_protocol::market::key_release::frame::MAX_FRAME_PARTS;
use sensora_protocol::market::key_release::key::BatchKey;
use sensora_protocol::market::key_release::parts::{Batch, Part, ProvenPart, SealError, Sealer};
use sensora_protocol::stream::Schema;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::{Hash, StreamId};

use crate::agent::recorder::{Recorder, RecorderError};

/// Parts of all batches that are kept in memory: four of the longest, or hundreds of usual ones; 72 bytes for each part make 19 MB.
const MAX_KEPT_PARTS: usize = 1 << 18;

/// Where the readings of a batch are.
#[derive(Clone)]
pub(super) struct Goods {
    pub(super) recorder: Recorder,
    pub(super) stream: StreamId,
    pub(super) schema: Schema,
    pub(super) checkpoint: Checkpoint,
    pub(super) range: Range<u64>,
    pub(super) key: BatchKey,
}

impl Goods {
    fn page(&self, readings: Range<u64>) -> Result<Page, RecorderError> {
        self.recorder.page(&self.stream, readings.start, readings.end, self.checkpoint.size)
    }
}

/// A batch that has been sealed: every part was opened again under the offer's checkpoint.
pub(super) struct Sealed {
    pub(super) batch: Batch,
    /// First reading of each part.
    begins: Vec<u64>,
}

impl Sealed {
    /// Seals a whole batch. It takes some milliseconds for each part.
    pub(super) fn make(goods: &Goods) -> Result<Self, SealError<RecorderError>> {
        let mut sealer = Sealer::new(&goods.key, &goods.schema, &goods.checkpoint, goods.range.clone());
        let mut begins = Vec::new();
        while let Some(part) = sealer.seal(|readings| goods.page(readings))? {
            begins.push(part.first);
        }
        Ok(Self { batch: sealer.finish(), begins })
    }

    /// The parts from `from` on that go into one frame, as they were offered; none after the last.
    pub(super) fn parts(
        &self,
        goods: &Goods,
        wanted: Range<u32>,
    ) -> Result<Vec<ProvenPart>, SealError<RecorderError>> {
        let mut parts = Vec::new();
        for index in wanted.take(MAX_FRAME_PARTS) {
            let at = usize::try_from(index).unwrap_or(usize::MAX);
            let Some(first) = self.begins.get(at).copied() else { break };
            let end = self.begins.get(at.saturating_add(1)).copied().unwrap_or(goods.range.end);
            let page = goods.page(first..end).map_err(SealError::Readings)?;
            let mut bytes = codec::encode(&page)?;
            goods.key.apply(index, &mut bytes);
            parts.push(self.batch.prove(Part { index, first, count: end.saturating_sub(first), bytes })?);
        }
        Ok(parts)
    }
}

/// The batches that are kept, those used last at the end.
#[derive(Default)]
pub(super) struct Batches {
    kept: VecDeque<(Hash, Arc<Sealed>)>,
}

impl Batches {
    /// The batch of an offer, if it is kept.
    pub(super) fn get(&mut self, offer: &Hash) -> Option<Arc<Sealed>> {
        let at = self.kept.iter().position(|(of, _)| of == offer)?;
        let found = self.kept.remove(at)?;
        let sealed = found.1.clone();
        self.kept.push_back(found);
        Some(sealed)
    }

    /// Keeps a batch, and lets those go that were not used for longest.
    pub(super) fn keep(&mut self, offer: Hash, sealed: Arc<Sealed>) {
        self.kept.retain(|(of, _)| *of != offer);
        self.kept.push_back((offer, sealed));
        let parts = |kept: &VecDeque<(Hash, Arc<Sealed>)>| -> usize {
            kept.iter().map(|(_, sealed)| sealed.begins.len()).sum()
        };
        while self.kept.len() > 1 && parts(&self.kept) > MAX_KEPT_PARTS {
            self.kept.pop_front();
        }
    }
}
