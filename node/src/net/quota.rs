//! How often a peer may ask, and how often we ask a peer.
//!
//! Inbound requests pass a bucket (GCRA) for each peer and protocol. Our own requests pass a smaller bucket of the same
//! kind before they leave, and wait there: a node that runs this code is never over another one's quota, so that being
//! over it says something about a peer.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};

use super::{PeerId, Protocol, limits::MAX_QUOTA_KEYS};

/// Messages of ours that may go out at once over gossip: the ads of one node and some observations.
pub const PUBLISH_BURST: u32 = 20;

/// Messages of ours for each second after that. Ads are rare; this is far below what fills a peer's send queue.
pub const PUBLISH_PER_SECOND: u32 = 5;

/// Requests a peer may send us: a burst, and so many for each second.
///
/// Market: a purchase is a handful of requests, a buyer of many ranges sends a few for each second. Chain: a newcomer
/// asks for headers in batches, one after the other, as fast as the round trip allows.
pub const fn inbound(protocol: Protocol) -> (u32, u32) {
    match protocol {
        Protocol::Market => (60, 30),
        Protocol::Chain => (120, 60),
    }
}

/// Delivery streams a peer may open. One is opened for each purchase and lives long; a buyer who comes back after its line was down opens all of its 64 at once, and once
/// more when that was too early.
pub const INBOUND_OPENS: (u32, u32) = (160, 40);

/// Delivery streams we open to a peer, with the same distance as for requests.
pub const OUTBOUND_OPENS: (u32, u32) = (80, 30);

/// Requests we send a peer: half the burst and three quarters of the rate it allows. With this distance the network may
/// hold back a second of our requests and deliver them together without an honest node being over the quota.
pub const fn outbound(protocol: Protocol) -> (u32, u32) {
    let (burst, rate) = inbound(protocol);
    (burst / 2, rate / 4 * 3)
}

fn quota((burst, per_second): (u32, u32)) -> Quota {
    let at_least_one = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(at_least_one(per_second)).allow_burst(at_least_one(burst))
}

/// A bucket for each peer, bounded in number.
struct Buckets {
    clock: DefaultClock,
    keyed: DefaultKeyedRateLimiter<PeerId>,
    /// When there are too many peers, the rest share this bucket: a crowd of throw-away keys slows itself down.
    crowd: DefaultDirectRateLimiter,
}

impl Buckets {
    fn new(rate: (u32, u32)) -> Self {
        Self {
            clock: DefaultClock::default(),
            keyed: RateLimiter::keyed(quota(rate)),
            crowd: RateLimiter::direct(quota(rate)),
        }
    }

    fn take(&self, peer: &PeerId) -> Result<(), Duration> {
        let outcome =
            if self.keyed.len() < MAX_QUOTA_KEYS { self.keyed.check_key(peer) } else { self.crowd.check() };
        outcome.map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    fn sweep(&self) {
        self.keyed.retain_recent();
        self.keyed.shrink_to_fit();
    }
}

/// Buckets for each peer and protocol.
pub(super) struct Quotas([Buckets; Protocol::ALL.len()]);

impl Quotas {
    pub(super) fn inbound() -> Self {
        Self::new(inbound)
    }

    pub(super) fn outbound() -> Self {
        Self::new(outbound)
    }

    fn new(rate: fn(Protocol) -> (u32, u32)) -> Self {
        Self(Protocol::ALL.map(|protocol| Buckets::new(rate(protocol))))
    }

    /// Takes one request from the peer's bucket, or says how long to wait for it.
    pub(super) fn take(&self, peer: &PeerId, protocol: Protocol) -> Result<(), Duration> {
        self.0.get(protocol as usize).map_or(Ok(()), |buckets| buckets.take(peer))
    }

    /// Forgets peers whose bucket is full again.
    pub(super) fn sweep(&self) {
        self.0.iter().for_each(Buckets::sweep);
    }
}

/// Buckets for the delivery streams that each peer opens, or that we open to it.
pub(super) struct Opens(Buckets);

impl Opens {
    pub(super) fn inbound() -> Self {
        Self(Buckets::new(INBOUND_OPENS))
    }

    pub(super) fn outbound() -> Self {
        Self(Buckets::new(OUTBOUND_OPENS))
    }

    /// Takes one stream from the peer's bucket, or says how long to wait for it.
    pub(super) fn take(&self, peer: &PeerId) -> Result<(), Duration> {
        self.0.take(peer)
    }

    /// Forgets peers whose bucket is full again.
    pub(super) fn sweep(&self) {
        self.0.sweep();
    }
}

/// The pace of our own gossip.
pub(super) struct Pace {
    clock: DefaultClock,
    bucket: DefaultDirectRateLimiter,
}

impl Pace {
    pub(super) fn publishing() -> Self {
        Self {
            clock: DefaultClock::default(),
            bucket: RateLimiter::direct(quota((PUBLISH_BURST, PUBLISH_PER_SECOND))),
        }
    }

    /// Takes one turn, or says how long to wait for it.
    pub(super) fn take(&self) -> Result<(), Duration> {
        self.bucket.check().map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_limit_is_below_what_others_allow() {
        let requests = Protocol::ALL.map(|protocol| (inbound(protocol), outbound(protocol)));
        for ((burst_in, rate_in), (burst_out, rate_out)) in
            requests.into_iter().chain([(INBOUND_OPENS, OUTBOUND_OPENS)])
        {
            assert!(burst_out > 0 && rate_out > 0);
            // One second of ours, held back and delivered at once, still fits.
            assert!(burst_out + rate_out <= burst_in);
            assert!(rate_out < rate_in);
        }
    }

    #[test]
    fn each_peer_and_protocol_has_its_own_bucket() {
        let (quotas, a, b) = (Quotas::inbound(), PeerId::random(), PeerId::random());
        let (burst, _) = inbound(Protocol::Market);
        let taken = (0..burst * 2).filter(|_| quotas.take(&a, Protocol::Market).is_ok()).count();
        assert!((burst as usize..burst as usize * 2).contains(&taken), "{taken}");
        assert!(quotas.take(&b, Protocol::Market).is_ok());
        assert!(quotas.take(&a, Protocol::Chain).is_ok());
    }

    #[test]
    fn a_crowd_of_keys_shares_one_bucket() {
        let quotas = Quotas::inbound();
        for _ in 0..MAX_QUOTA_KEYS {
            assert!(quotas.take(&PeerId::random(), Protocol::Chain).is_ok());
        }
        let (burst, _) = inbound(Protocol::Chain);
        let taken =
            (0..burst * 3).filter(|_| quotas.take(&PeerId::random(), Protocol::Chain).is_ok()).count();
        assert!(taken < burst as usize * 3, "{taken}");
        assert!(quotas.0.iter().all(|buckets| buckets.keyed.len() <= MAX_QUOTA_KEYS));
    }
}
