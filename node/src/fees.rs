//! What our own transactions pay to miners: the rate that the chain's services ask for now, within the bounds that a person has set.
//!
//! A service's word is only a word: it moves the rate between a floor and a cap and never beyond, and no transaction pays more than the
//! highest fee, whatever the rate.

use std::sync::{Arc, PoisonError, RwLock};

use sensora_chain::{FeeRate, Satoshis};

/// What a transaction of ours pays to miners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeePolicy {
    /// Fee rate.
    pub rate: FeeRate,
    /// Highest fee of one transaction.
    pub max: Satoshis,
}

/// What a person allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeeLimits {
    /// Never less, so that what is built is mined even where a service asks for nothing.
    pub floor: FeeRate,
    /// Never more, whatever a service asks for.
    pub cap: FeeRate,
    /// Highest fee of one transaction.
    pub max: Satoshis,
}

/// The rate in force, and whose word it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeeState {
    /// The policy in force.
    pub policy: FeePolicy,
    /// The limits.
    pub limits: FeeLimits,
    /// The last quote, before the limits: who gave it, what it was, and when (milliseconds since the Unix epoch).
    pub quoted: Option<(String, FeeRate, i64)>,
}

/// The fee policy of a node, shared by all that pay. A cheap clone.
#[derive(Debug, Clone)]
pub struct Fees {
    state: Arc<RwLock<FeeState>>,
}

impl Fees {
    /// Begins with the default rate within the limits.
    #[must_use]
    pub fn new(limits: FeeLimits) -> Self {
        let policy = FeePolicy { rate: within(FeeRate::DEFAULT, limits), max: limits.max };
        Self { state: Arc::new(RwLock::new(FeeState { policy, limits, quoted: None })) }
    }

    /// A policy that no quote changes.
    #[must_use]
    pub fn fixed(policy: FeePolicy) -> Self {
        let limits = FeeLimits { floor: policy.rate, cap: policy.rate, max: policy.max };
        Self { state: Arc::new(RwLock::new(FeeState { policy, limits, quoted: None })) }
    }

    /// What a transaction built now pays.
    #[must_use]
    pub fn now(&self) -> FeePolicy {
        self.state.read().unwrap_or_else(PoisonError::into_inner).policy
    }

    /// The policy with its limits and where it comes from.
    #[must_use]
    pub fn state(&self) -> FeeState {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a quote, within the limits.
    pub fn quote(&self, by: &str, rate: FeeRate, at_ms: i64) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.policy.rate = within(rate, state.limits);
        state.quoted = Some((by.to_owned(), rate, at_ms));
    }
}

fn within(rate: FeeRate, limits: FeeLimits) -> FeeRate {
    // A cap below the floor is the person's mistake; the cap is what protects the money.
    rate.max(limits.floor).min(limits.cap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_moves_the_rate_only_between_floor_and_cap() {
        let limits =
            FeeLimits { floor: FeeRate::new(50), cap: FeeRate::new(500), max: Satoshis::from_sat(1_000) };
        let fees = Fees::new(limits);
        assert_eq!(fees.now().rate, FeeRate::DEFAULT);
        for (quoted, rate) in [(1, 50), (0, 50), (120, 120), (u64::MAX, 500)] {
            fees.quote("somebody", FeeRate::new(quoted), 1);
            assert_eq!(fees.now(), FeePolicy { rate: FeeRate::new(rate), max: Satoshis::from_sat(1_000) });
        }
        let fixed = Fees::fixed(FeePolicy { rate: FeeRate::new(7), max: Satoshis::from_sat(9) });
        fixed.quote("somebody", FeeRate::new(100), 1);
        assert_eq!(fixed.now().rate, FeeRate::new(7));
    }
}
