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

/// A header with what its place in the chain adds to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ancestor {
    pub(super) header: Header,
    /// All work up to and with this header; only differences count.
    pub(super) work: Work,
}

/// How many headers before a new one [`check`] looks at.
pub(super) const fn span(network: Network) -> usize {
    match network {
        Network::Main | Network::Test => CHECKPOINT_HEADERS,
        Network::Regtest => MEDIAN_SPAN,
    }
}

/// Checks a header against its ancestors, the newest first; there are [`span`] of them unless the chain is shorter.
pub(super) fn check(
    network: Network,
    ancestors: &[Ancestor],
    header: &Header,
    hash: BlockHash,
) -> Result<(), HeaderError> {
    let found = header.bits();
    match required_bits(network, ancestors, header.time()) {
        Some(expected) if expected == found => {}
        Some(expected) => return Err(HeaderError::Bits { hash, expected, found }),
        None => {
            return Err(HeaderError::CheckpointTooShort { found: ancestors.len(), need: CHECKPOINT_HEADERS });
        }
    }
    if !header.meets_target(network) {
        return Err(HeaderError::ProofOfWork(hash));
    }
    if median_time(ancestors.iter().map(|a| a.header)).is_some_and(|median| header.time() <= median) {
        return Err(HeaderError::TimeTooOld(hash));
    }
    Ok(())
}

/// The median time of up to eleven headers, the newest first.
pub(super) fn median_time(newest_first: impl Iterator<Item = Header>) -> Option<u32> {
    let mut times: Vec<u32> = newest_first.take(MEDIAN_SPAN).map(|header| header.time()).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// The difficulty of the header after `ancestors`, dated `time`; `None` if they are too few to say.
fn required_bits(network: Network, ancestors: &[Ancestor], time: u32) -> Option<u32> {
    let parent = ancestors.first()?;
    match network {
        Network::Regtest => Some(parent.header.bits()),
        Network::Main => cw_144(network, ancestors),
        Network::Test => {
            // After twenty minutes without a block the test network takes one of the lowest difficulty.
            let late = parent.header.time().saturating_add(SPACING.saturating_mul(2));
            if time > late { Some(Target::limit(network).to_bits()) } else { cw_144(network, ancestors) }
        }
    }
}

/// The target that the work of the last 144 blocks would meet once in ten minutes.
fn cw_144(network: Network, ancestors: &[Ancestor]) -> Option<u32> {
    let last = median_of_three(ancestors.get(..3)?)?;
    let first = median_of_three(ancestors.get(WINDOW..)?.get(..3)?)?;
    let elapsed = i64::from(last.header.time()).saturating_sub(i64::from(first.header.time()));
    let spacing = i64::from(SPACING);
    let elapsed = elapsed.clamp(spacing.saturating_mul(72), spacing.saturating_mul(288));
    let work = last.work.0.checked_sub(first.work.0)?;
    let work =
        work.checked_mul(U256::from(SPACING))?.checked_div(U256::from(u64::try_from(elapsed).ok()?))?;
    let limit = Target::limit(network);
    Some(Target::for_work(work).map_or(limit, |target| target.min(limit)).to_bits())
}

/// The one with the median time of three headers in a row, the newest first. Among equal times the order of the
/// exchanges decides, so they are made exactly as nodes make them.
fn median_of_three(newest_first: &[Ancestor]) -> Option<Ancestor> {
    let [c, b, a] = newest_first else { return None };
    let (mut a, mut b, mut c) = (*a, *b, *c);
    if a.header.time() > c.header.time() {
        std::mem::swap(&mut a, &mut c);
    }
    if a.header.time() > b.header.time() {
        std::mem::swap(&mut a, &mut b);
    }
    if b.header.time() > c.header.time() {
        std::mem::swap(&mut b, &mut c);
    }
    Some(b)
}
