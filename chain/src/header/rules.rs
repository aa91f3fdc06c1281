//! What a header must fulfil given the headers before it: difficulty and time.

use super::work::{Target, U256, Work};
use super::{Header, HeaderError};
use crate::id::BlockHash;
use crate::network::Network;

/// How many headers in a row a checkpoint needs on a network whose difficulty moves: the window of 144 blocks, and
/// the two before it among which the median is taken.
pub const CHECKPOINT_HEADERS: usize = WINDOW + 3;

/// Blocks over which work and time are measured (cw-144, in force since November 2017).
const WINDOW: usize = 144;
/// Seconds between blocks that the difficulty aims at.
const SPACING: u32 = 600;
/// Headers whose median time the next header must exceed.
const MEDIAN_SPAN: usize = 11;

/// What the rules look at of a header that is already there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ancestor {
    pub(super) time: u32,
    pub(super) bits: u32,
    /// All work up to and with this header; only differences count.
    pub(super) work: Work,
}

/// How many headers before a new one [`Window::take`] looks at.
pub(super) const fn span(network: Network) -> usize {
    match network {
        Network::Main | Network::Test => CHECKPOINT_HEADERS,
        Network::Regtest => MEDIAN_SPAN,
    }
}

/// The end of a branch, as far back as the rules look, and what is taken onto it. It grows with the run that it
/// checks and is gone afterwards.
#[derive(Debug)]
pub(super) struct Window {
    network: Network,
    limit: Target,
    /// Oldest first, never empty.
    ancestors: Vec<Ancestor>,
    /// The last target that was read: on a quiet network one follows another a thousand times.
    read: Option<(u32, Target, Work)>,
}

impl Window {
    /// Of `ancestors`, the oldest first: [`span`] of them unless the chain is shorter, and room for `more`.
    pub(super) fn new(network: Network, ancestors: Vec<Ancestor>) -> Self {
        Self { network, limit: Target::limit(network), ancestors, read: None }
    }

    /// Checks a header that builds on the last one, and is the last one then. Gives all work up to and with it.
    pub(super) fn take(&mut self, header: &Header, hash: BlockHash) -> Result<Work, HeaderError> {
        let (found, time) = (header.bits(), header.time());
        match self.required_bits(time) {
            Some(expected) if expected == found => {}
            Some(expected) => return Err(HeaderError::Bits { hash, expected, found }),
            None => {
                let found = self.ancestors.len();
                return Err(HeaderError::CheckpointTooShort { found, need: CHECKPOINT_HEADERS });
            }
        }
        let Some((target, own)) = self.read(found).filter(|(target, _)| target.is_met_by(&hash)) else {
            return Err(HeaderError::ProofOfWork(hash));
        };
        if target > self.limit {
            return Err(HeaderError::ProofOfWork(hash));
        }
        let newest_first = self.ancestors.iter().rev().map(|ancestor| ancestor.time);
        if median_time(newest_first).is_some_and(|median| time <= median) {
            return Err(HeaderError::TimeTooOld(hash));
        }
        let work = self.ancestors.last().map_or(Work::ZERO, |parent| parent.work).plus(own);
        self.ancestors.push(Ancestor { time, bits: found, work });
        Ok(work)
    }

    fn read(&mut self, bits: u32) -> Option<(Target, Work)> {
        if let Some((_, target, work)) = self.read.filter(|(last, ..)| *last == bits) {
            return Some((target, work));
        }
        let target = Target::from_bits(bits)?;
        let work = target.work();
        self.read = Some((bits, target, work));
        Some((target, work))
    }

    /// The difficulty of the next header, dated `time`; `None` if there are too few before it to say.
    pub(super) fn required_bits(&self, time: u32) -> Option<u32> {
        let parent = self.ancestors.last()?;
        match self.network {
            Network::Regtest => Some(parent.bits),
            Network::Main => self.cw_144(),
            Network::Test => {
                // After twenty minutes without a block the test network takes one of the lowest difficulty.
                let late = parent.time.saturating_add(SPACING.saturating_mul(2));
                if time > late { Some(self.limit.to_bits()) } else { self.cw_144() }
            }
        }
    }

    /// The target that the work of the last 144 blocks would meet once in ten minutes.
    fn cw_144(&self) -> Option<u32> {
        let start = self.ancestors.len().checked_sub(CHECKPOINT_HEADERS)?;
        let window = self.ancestors.get(start..)?;
        let first = median_of_three(*window.first_chunk()?);
        let last = median_of_three(*window.last_chunk()?);
        let elapsed = i64::from(last.time).saturating_sub(i64::from(first.time));
        let spacing = i64::from(SPACING);
        let elapsed = elapsed.clamp(spacing.saturating_mul(72), spacing.saturating_mul(288));
        let work = last.work.0.checked_sub(first.work.0)?;
        let work =
            work.checked_mul(U256::from(SPACING))?.checked_div(U256::from(u64::try_from(elapsed).ok()?))?;
        Some(Target::for_work(work).map_or(self.limit, |target| target.min(self.limit)).to_bits())
    }
}

/// The median of up to eleven times, the newest first.
pub(super) fn median_time(newest_first: impl Iterator<Item = u32>) -> Option<u32> {
    let mut room = [0u32; MEDIAN_SPAN];
    let mut count = 0usize;
    for (place, time) in room.iter_mut().zip(newest_first) {
        *place = time;
        count = count.saturating_add(1);
    }
    let times = room.get_mut(..count)?;
    times.sort_unstable();
    times.get(count / 2).copied()
}

/// The one with the median time of three headers in a row, the oldest first. Among equal times the order of the
/// exchanges decides, so they are made exactly as nodes make them.
fn median_of_three([mut a, mut b, mut c]: [Ancestor; 3]) -> Ancestor {
    if a.time > c.time {
        std::mem::swap(&mut a, &mut c);
    }
    if a.time > b.time {
        std::mem::swap(&mut a, &mut b);
    }
    if b.time > c.time {
        std::mem::swap(&mut b, &mut c);
    }
    b
}
