//! The rules by which a node follows the header chain of peers whom it does not trust.
//!
//! A [`Walk`] is one conversation with one peer: it says what to ask next and takes the answers into our own
//! [`HeaderChain`], which checks the proof of work and follows the most of it. Nothing is read or sent here. A walk
//! keeps no headers of its own, so its memory is the chain's.
//!
//! A peer with less work than we have is not at fault: it may be behind, or on a branch that loses. A peer whose headers
//! do not follow the locator, do not follow each other or lack the work they claim is ([`Fault::is_hostile`]).

use sensora_chain::header::{Connected, Header, HeaderChain, HeaderError, MAX_SIDE_HEADERS};
use sensora_chain::{BlockHash, Network};

use crate::chain_access::Request;
use crate::chain_access::message::{MAX_HEADERS, MAX_LOCATOR, Tip};

/// Most headers kept on the best chain. At some 90 bytes each in memory this is 95 MB; with a block every ten minutes they
/// last for twenty years after the first one kept. It bounds what a stranger can do where work is cheap.
pub const MAX_CHAIN_HEADERS: u32 = 1 << 20;

/// How far a header's time may lie ahead of our clock, in seconds: the rule of every node. It is not applied to regtest, where
/// blocks that are mined in a burst are dated one second after the other.
pub const MAX_AHEAD_SECS: i64 = 2 * 60 * 60;

/// Runs in a row that may bring nothing new: the longest branch that is kept beside the best chain, and the run after it.
pub const MAX_IDLE_RUNS: usize = MAX_SIDE_HEADERS.div_ceil(MAX_HEADERS) + 1;

/// Why a conversation ends without the peer's headers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Not a run of headers, or more than were asked for.
    #[error("{len} bytes are not a run of at most {asked} headers")]
    Length {
        /// Bytes received.
        len: usize,
        /// Headers asked for.
        asked: u32,
    },
    /// The first header does not follow a block of the locator, or one does not follow the one before it.
    #[error("header {0} does not follow the header before it")]
    NotAChain(BlockHash),
    /// A header breaks a rule: its work, its difficulty, its time.
    #[error(transparent)]
    Invalid(HeaderError),
    /// The same headers again and again.
    #[error("{0} answers in a row brought nothing new")]
    NoProgress(usize),
    /// Dated after our own time: its clock or ours is wrong.
    #[error(
        "header {hash} is dated {ahead_secs} s ahead of this node's clock; check the time of this machine"
    )]
    TooNew {
        /// The header.
        hash: BlockHash,
        /// Seconds.
        ahead_secs: i64,
    },
    /// More headers than are kept.
    #[error("the chain would have more than {MAX_CHAIN_HEADERS} headers: start from a later checkpoint")]
    TooLong,
}

impl Fault {
    /// Whether only a faulty or hostile peer does this.
    #[must_use]
    pub fn is_hostile(&self) -> bool {
        !matches!(self, Self::TooNew { .. } | Self::TooLong)
    }
}

/// What an answer changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// What the chain did with it.
    pub connected: Connected,
    /// The lowest height at which the best chain is another one now; `None` if it is the same.
    pub changed_from: Option<u32>,
    /// Whether there may be more: ask again.
    pub more: bool,
}

/// Whether a peer that says so has nothing that we do not have.
#[must_use]
pub fn is_known(chain: &HeaderChain, tip: &Tip) -> bool {
    chain.height_of(&tip.hash).is_some()
}

/// One conversation with one peer about its headers.
#[derive(Debug, Clone, Default)]
pub struct Walk {
    locator: Vec<BlockHash>,
    last: Option<BlockHash>,
    idle_runs: usize,
}

impl Walk {
    /// Starts at the tip of our own chain.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What to ask: the headers after the last one received, or else after the last one that the peer shares.
    pub fn ask(&mut self, chain: &HeaderChain) -> Request {
        let mut locator: Vec<BlockHash> = self.last.into_iter().chain(chain.locator()).collect();
        if locator.len() > MAX_LOCATOR
            && let Some(base) = locator.pop()
        {
            // The first block stays: it is the one that any peer of this network has.
            locator.truncate(MAX_LOCATOR.saturating_sub(1));
            locator.push(base);
        }
        self.locator.clone_from(&locator);
        Request::Headers { locator, count: self.count() }
    }

    fn count(&self) -> u32 {
        u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX)
    }

    /// Takes the answer into the chain. `now_secs` is our own time in seconds since the Unix epoch.
    ///
    /// # Errors
    /// [`Fault`]; the chain is then as it was before this answer.
    pub fn take(&mut self, chain: &mut HeaderChain, answer: &[u8], now_secs: i64) -> Result<Taken, Fault> {
        let asked = self.count();
        let wrong_length = || Fault::Length { len: answer.len(), asked };
        let headers = Header::parse_run(answer).map_err(|_| wrong_length())?;
        if headers.len() > MAX_HEADERS {
            return Err(wrong_length());
        }
        self.check_start(&headers)?;
        if chain.network() != Network::Regtest {
            check_time(&headers, now_secs)?;
        }
        let before = chain.tip();
        let kept = before.height.saturating_sub(chain.base_height());
        if kept as usize + headers.len() >= MAX_CHAIN_HEADERS as usize {
            return Err(Fault::TooLong);
        }
        let connected = chain.connect_run(&headers).map_err(|error| match error {
            HeaderError::NotInARow(hash) => Fault::NotAChain(hash),
            error => Fault::Invalid(error),
        })?;
        self.idle_runs = if connected.added > 0 { 0 } else { self.idle_runs.saturating_add(1) };
        let more = headers.len() >= MAX_HEADERS;
        if more && self.idle_runs >= MAX_IDLE_RUNS {
            return Err(Fault::NoProgress(self.idle_runs));
        }
        self.last = headers.last().map(Header::hash).or(self.last);
        let changed_from = (connected.tip != before).then(|| {
            let shared = connected.reorged.as_ref().map_or(before.height, |reorg| reorg.fork_height);
            shared.saturating_add(1)
        });
        Ok(Taken { connected, changed_from, more })
    }

    /// The first header follows a block that we named. That each other one follows the one before it, the chain checks.
    fn check_start(&self, headers: &[Header]) -> Result<(), Fault> {
        match headers.first() {
            Some(first) if !self.locator.contains(&first.previous()) => Err(Fault::NotAChain(first.hash())),
            _ => Ok(()),
        }
    }
}

fn check_time(headers: &[Header], now_secs: i64) -> Result<(), Fault> {
    for header in headers {
        let ahead_secs = i64::from(header.time()).saturating_sub(now_secs);
        if ahead_secs > MAX_AHEAD_SECS {
            return Err(Fault::TooNew { hash: header.hash(), ahead_secs });
        }
    }
    Ok(())
}

/// The headers of the best chain from `height` up, as they are stored.
pub fn flat_from(chain: &HeaderChain, height: u32) -> Vec<[u8; Header::SIZE]> {
    chain.run(height, usize::MAX).into_iter().map(|header| header.0).collect()
}

#[cfg(test)]
mod tests;
