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

/// Buckets for each peer and protocol, bounded in number.
pub(super) struct Quotas {
    clock: DefaultClock,
    buckets: [DefaultKeyedRateLimiter<PeerId>; Protocol::ALL.len()],
    /// When there are too many peers, the rest share this bucket: a crowd of throw-away keys slows itself down.
    crowd: [DefaultDirectRateLimiter; Protocol::ALL.len()],
}

impl Quotas {
    pub(super) fn inbound() -> Self {
        Self::new(inbound)
    }

    pub(super) fn outbound() -> Self {
        Self::new(outbound)
    }

    fn new(rate: fn(Protocol) -> (u32, u32)) -> Self {
        Self {
            clock: DefaultClock::default(),
            buckets: Protocol::ALL.map(|protocol| RateLimiter::keyed(quota(rate(protocol)))),
            crowd: Protocol::ALL.map(|protocol| RateLimiter::direct(quota(rate(protocol)))),
        }
    }

    /// Takes one request from the peer's bucket, or says how long to wait for it.
    pub(super) fn take(&self, peer: &PeerId, protocol: Protocol) -> Result<(), Duration> {
        let index = protocol as usize;
        let (Some(buckets), Some(crowd)) = (self.buckets.get(index), self.crowd.get(index)) else {
            return Ok(());
        };
        let outcome = if buckets.len() < MAX_QUOTA_KEYS { buckets.check_key(peer) } else { crowd.check() };
        outcome.map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    /// Forgets peers whose bucket is full again.
    pub(super) fn sweep(&self) {
        for buckets in &self.buckets {
            buckets.retain_recent();
            buckets.shrink_to_fit();
        }
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
        for protocol in Protocol::ALL {
            let ((burst_in, rate_in), (burst_out, rate_out)) = (inbound(protocol), outbound(protocol));
            assert!(burst_out > 0 && rate_out > 0);
            // One second of our requests, held back and delivered at once, still fits.
            assert!(burst_out + rate_out <= burst_in, "{protocol}");
            assert!(rate_out < rate_in, "{protocol}");
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
        assert!(quotas.buckets.iter().all(|buckets| buckets.len() <= MAX_QUOTA_KEYS));
    }
}
