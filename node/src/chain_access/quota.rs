//! What a faucet has paid to whom today.

use std::collections::HashMap;

use sensora_chain::Satoshis;
use sensora_protocol::chain_access::Refusal;
use sensora_protocol::chain_access::message::{MAX_FAUCET_PAYMENTS_PER_DAY, MAX_FAUCET_PER_DAY};

use crate::net::PeerId;

/// Peers whose payments are counted. A crowd of throw-away keys beyond it waits for the next day: the coins are worth
/// nothing, but each payment stays on the chain for ever.
pub const MAX_FAUCET_PEERS: usize = 10_000;

/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Counts payments for each peer and day (UTC).
#[derive(Debug, Default)]
pub(super) struct FaucetQuota {
    day: i64,
    paid: HashMap<PeerId, Paid>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Paid {
    sat: Satoshis,
    payments: u32,
}

impl FaucetQuota {
    /// Counts a payment of `sat` to `peer`. Where the payment fails, [`FaucetQuota::give_back`] undoes it.
    pub(super) fn take(&mut self, peer: PeerId, sat: Satoshis, now_ms: i64) -> Result<(), Refusal> {
        let day = now_ms.div_euclid(DAY_MS);
        if day != self.day {
            self.day = day;
            self.paid.clear();
        }
        let known = self.paid.get(&peer).copied();
        if known.is_none() && self.paid.len() >= MAX_FAUCET_PEERS {
            return Err(Refusal::FaucetDry { asked: sat.as_u64() });
        }
        let paid = known.unwrap_or_default();
        let left = MAX_FAUCET_PER_DAY.saturating_sub(paid.sat);
        if sat > left || paid.payments >= MAX_FAUCET_PAYMENTS_PER_DAY {
            let left = if paid.payments >= MAX_FAUCET_PAYMENTS_PER_DAY { Satoshis::ZERO } else { left };
            return Err(Refusal::FaucetUsedUp { per_day: MAX_FAUCET_PER_DAY, left });
        }
        let sum = MAX_FAUCET_PER_DAY.saturating_sub(left.saturating_sub(sat));
        self.paid.insert(peer, Paid { sat: sum, payments: paid.payments.saturating_add(1) });
        Ok(())
    }

    /// Undoes [`FaucetQuota::take`] for a payment that was not made.
    pub(super) fn give_back(&mut self, peer: PeerId, sat: Satoshis) {
        if let Some(paid) = self.paid.get_mut(&peer) {
            paid.sat = paid.sat.saturating_sub(sat);
            paid.payments = paid.payments.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_gets_so_much_a_day_and_again_the_next() {
        let (mut quota, peer, other) = (FaucetQuota::default(), PeerId::random(), PeerId::random());
        let tenth = Satoshis::from_sat(MAX_FAUCET_PER_DAY.as_u64() / 10);
        for _ in 0..10 {
            quota.take(peer, tenth, 0).unwrap();
        }
        let one = Satoshis::from_sat(1);
        let used_up = Refusal::FaucetUsedUp { per_day: MAX_FAUCET_PER_DAY, left: Satoshis::ZERO };
        assert_eq!(quota.take(peer, one, DAY_MS - 1), Err(used_up));
        quota.take(other, one, DAY_MS - 1).unwrap();
        quota.give_back(peer, tenth);
        quota.take(peer, one, DAY_MS - 1).unwrap();
        quota.take(peer, tenth, DAY_MS).unwrap();
    }

    #[test]
    fn small_payments_are_counted_too() {
        let (mut quota, peer) = (FaucetQuota::default(), PeerId::random());
        for _ in 0..MAX_FAUCET_PAYMENTS_PER_DAY {
            quota.take(peer, Satoshis::from_sat(1), -1).unwrap();
        }
        let refused = quota.take(peer, Satoshis::from_sat(1), -1);
        assert!(matches!(refused, Err(Refusal::FaucetUsedUp { left: Satoshis::ZERO, .. })), "{refused:?}");
    }
}
