//! What a peer may do wrong, and how much of it is tolerated.
//!
//! Each offence adds points to the peer's score, which halves every [`HALF_LIFE`]. At [`BAN_AT`] points the peer is
//! banned for [`BAN_FOR`]: its connections are closed and new ones refused until the ban ends by itself.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{
    PeerId,
    limits::{MAX_BANS, MAX_SCORED_PEERS},
};

/// A score halves in this time: ten minutes after its last offence a peer with a passing fault is half forgiven.
pub const HALF_LIFE: Duration = Duration::from_secs(10 * 60);

/// The score at which a peer is banned: a little below five serious offences, so that five within a minute are enough
/// although the first has begun to fade.
pub const BAN_AT: f64 = 95.0;

/// How long a ban lasts. Long against an attack, short against a fault its operator repairs.
pub const BAN_FOR: Duration = Duration::from_secs(60 * 60);

/// How grave an offence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// 1 point: about a hundred in a short time lead to a ban. Things that also happen to honest peers under load.
    Minor,
    /// 5 points: about 20 in a short time lead to a ban. Things an honest peer does by accident now and then.
    Moderate,
    /// 20 points: 5 in a short time lead to a ban. Things only a faulty or hostile peer does.
    Serious,
    /// 100 points: the first leads to a ban. Things nobody does by accident.
    Fatal,
}

impl Severity {
    /// The points of one offence.
    pub const fn points(self) -> f64 {
        match self {
            Self::Minor => 1.0,
            Self::Moderate => 5.0,
            Self::Serious => 20.0,
            Self::Fatal => 100.0,
        }
    }
}

/// A named thing a peer did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Offence {
    /// More requests, or more delivery streams, than its quota. [`Severity::Minor`]: a burst after a stall looks the same.
    QuotaExceeded,
    /// It did not answer in time. [`Severity::Minor`]: most often it is just slow or gone.
    Timeout,
    /// It opened a substream and did not send its request in time, or did not read the answer. [`Severity::Moderate`].
    Stalled,
    /// It sends a frame of a delivery stream too slowly. [`Severity::Moderate`]: a bad link looks the same.
    SlowSending,
    /// It takes what is sent to it on a delivery stream too slowly. [`Severity::Moderate`]: the same.
    SlowReading,
    /// A request or response that does not decode. [`Severity::Serious`].
    Malformed,
    /// A request, a response or a frame of a delivery stream over the size limit. [`Severity::Serious`].
    Oversize,
    /// A gossip message that fails validation. [`Severity::Serious`]: an honest node validates before it forwards.
    InvalidGossip,
    /// A proof, signature or payment that is false. [`Severity::Serious`].
    InvalidProof,
    /// Proven fraud. [`Severity::Fatal`].
    Fraud,
}

impl Offence {
    /// All offences, in a fixed order.
    pub const ALL: [Self; 10] = [
        Self::QuotaExceeded,
        Self::Timeout,
        Self::Stalled,
        Self::SlowSending,
        Self::SlowReading,
        Self::Malformed,
        Self::Oversize,
        Self::InvalidGossip,
        Self::InvalidProof,
        Self::Fraud,
    ];

    /// How grave it is.
    pub const fn severity(self) -> Severity {
        match self {
            Self::QuotaExceeded | Self::Timeout => Severity::Minor,
            Self::Stalled | Self::SlowSending | Self::SlowReading => Severity::Moderate,
            Self::Malformed | Self::Oversize | Self::InvalidGossip | Self::InvalidProof => Severity::Serious,
            Self::Fraud => Severity::Fatal,
        }
    }

    /// The metrics label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::QuotaExceeded => "quota_exceeded",
            Self::Timeout => "timeout",
            Self::Stalled => "stalled",
            Self::SlowSending => "slow_sending",
            Self::SlowReading => "slow_reading",
            Self::Malformed => "malformed",
            Self::Oversize => "oversize",
            Self::InvalidGossip => "invalid_gossip",
            Self::InvalidProof => "invalid_proof",
            Self::Fraud => "fraud",
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Score {
    points: f64,
    at: Instant,
}

impl Score {
    fn at(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64();
        self.points * 0.5_f64.powf(age / HALF_LIFE.as_secs_f64())
    }
}

/// The scores and bans of all peers.
#[derive(Debug, Default)]
pub(super) struct Offenders {
    scores: HashMap<PeerId, Score>,
    bans: HashMap<PeerId, Instant>,
}

/// What follows from an offence.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// It is remembered.
    Noted,
    /// The peer is banned from now on; `pardoned` lost its ban to make room.
    Banned { pardoned: Option<PeerId> },
}

impl Offenders {
    pub(super) fn record(&mut self, peer: PeerId, offence: Offence, now: Instant) -> Consequence {
        if self.is_banned(&peer, now) {
            return Consequence::Noted;
        }
        let points = self.score(&peer, now) + offence.severity().points();
        if points >= BAN_AT {
            self.scores.remove(&peer);
            let pardoned = if self.bans.len() >= MAX_BANS { self.first_to_end() } else { None };
            if let Some(pardoned) = pardoned {
                self.bans.remove(&pardoned);
            }
            self.bans.insert(peer, now + BAN_FOR);
            return Consequence::Banned { pardoned };
        }
        if self.scores.len() >= MAX_SCORED_PEERS && !self.scores.contains_key(&peer) {
            self.forget_least(now);
        }
        self.scores.insert(peer, Score { points, at: now });
        Consequence::Noted
    }

    pub(super) fn score(&self, peer: &PeerId, now: Instant) -> f64 {
        self.scores.get(peer).map_or(0.0, |score| score.at(now))
    }

    pub(super) fn is_banned(&self, peer: &PeerId, now: Instant) -> bool {
        self.bans.get(peer).is_some_and(|until| *until > now)
    }

    pub(super) fn banned(&self) -> usize {
        self.bans.len()
    }

    /// Ends the bans that are over and forgets scores below a tenth of a point. Returns whom to let in again.
    pub(super) fn sweep(&mut self, now: Instant) -> Vec<PeerId> {
        self.scores.retain(|_, score| score.at(now) >= 0.1);
        let over: Vec<PeerId> =
            self.bans.iter().filter(|(_, until)| **until <= now).map(|(peer, _)| *peer).collect();
        for peer in &over {
            self.bans.remove(peer);
        }
        over
    }

    fn first_to_end(&self) -> Option<PeerId> {
        self.bans.iter().min_by_key(|(_, until)| **until).map(|(peer, _)| *peer)
    }

    fn forget_least(&mut self, now: Instant) {
        let least =
            self.scores.iter().min_by(|a, b| a.1.at(now).total_cmp(&b.1.at(now))).map(|(peer, _)| *peer);
        if let Some(peer) = least {
            self.scores.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_decays_and_a_ban_ends() {
        let (mut offenders, peer, start) = (Offenders::default(), PeerId::random(), Instant::now());
        for _ in 0..4 {
            assert_eq!(offenders.record(peer, Offence::Malformed, start), Consequence::Noted);
        }
        let later = start + HALF_LIFE;
        assert!((offenders.score(&peer, later) - 40.0).abs() < 0.001);
        assert_eq!(offenders.record(peer, Offence::Fraud, later), Consequence::Banned { pardoned: None });
        assert!(offenders.is_banned(&peer, later));
        assert!(offenders.sweep(later + BAN_FOR / 2).is_empty());
        assert_eq!(offenders.sweep(later + BAN_FOR), vec![peer]);
        assert!(!offenders.is_banned(&peer, later + BAN_FOR));
    }

    #[test]
    fn scores_and_bans_are_bounded() {
        let (mut offenders, now) = (Offenders::default(), Instant::now());
        let grave = PeerId::random();
        offenders.record(grave, Offence::Malformed, now);
        for _ in 0..MAX_SCORED_PEERS + 8 {
            offenders.record(PeerId::random(), Offence::Timeout, now);
        }
        assert_eq!(offenders.scores.len(), MAX_SCORED_PEERS);
        assert!(offenders.score(&grave, now) > 19.0, "the gravest is kept");
        for _ in 0..MAX_BANS + 8 {
            offenders.record(PeerId::random(), Offence::Fraud, now);
        }
        assert_eq!(offenders.banned(), MAX_BANS);
    }
}
