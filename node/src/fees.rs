//! What our own transactions pay to miners: the rate that the chain's services ask for now, within the bounds that a person has set.
//!
//! A service's word is only a word: it moves the rate between a floor and a cap and never beyond, and no transaction pays more than the
//! highest fee, whatever the rate.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sensora_chain::{FeeRate, Satoshis};
use tokio_util::sync::CancellationToken;

use crate::chain_access::{ChainAccess, ChainError};
use crate::clock::Clock;
use crate::store::fees::{self, StoredQuote};
use crate::store::{Store, StoreError};

/// How often services are asked what miners take: policies change in days, and each question is a request.
pub const POLL_EVERY: Duration = Duration::from_secs(10 * 60);

/// How soon it is asked again while nobody has answered since the start.
const FIRST_AGAIN: Duration = Duration::from_secs(30);

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

impl FeeLimits {
    /// The highest fee of one transaction where nothing else is said: a wrong rate must not empty a wallet.
    pub const MAX: Satoshis = Satoshis::from_sat(10_000);

    /// One rate that no quote changes.
    #[must_use]
    pub const fn fixed(rate: FeeRate, max: Satoshis) -> Self {
        Self { floor: rate, cap: rate, max }
    }
}

impl Default for FeeLimits {
    /// From the rate that broadcasters ask for today to ten times as much.
    fn default() -> Self {
        let cap = FeeRate::new(FeeRate::DEFAULT.sat_per_kb.saturating_mul(10));
        Self { floor: FeeRate::DEFAULT, cap, max: Self::MAX }
    }
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

    /// Begins with the quote that was stored last, within the limits.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn restored(limits: FeeLimits, store: &Store) -> Result<Self, StoreError> {
        let fees = Self::new(limits);
        if let Some(StoredQuote { by, rate, at_ms }) = store.read(fees::get)? {
            fees.quote(&by, rate, at_ms);
        }
        Ok(fees)
    }

    /// Asks the chain's services what miners take, now and every [`POLL_EVERY`], until cancelled. While nobody answers, the last quote
    /// holds. Ends at once where no service can be asked.
    pub async fn follow(self, chain: ChainAccess, store: Store, clock: Clock, cancel: CancellationToken) {
        let mut answered = false;
        loop {
            match cancel.run_until_cancelled(chain.fee_quote()).await {
                None | Some(Err(ChainError::NoService { .. } | ChainError::Stopped)) => return,
                Some(Ok((by, quote))) => {
                    answered = true;
                    self.take(StoredQuote { by, rate: quote.rate, at_ms: clock.now_ms() }, &store);
                }
                Some(Err(error)) => tracing::debug!(%error, "no service says what miners take"),
            }
            let wait = if answered { POLL_EVERY } else { FIRST_AGAIN };
            if cancel.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    fn take(&self, quote: StoredQuote, store: &Store) {
        let before = self.now().rate;
        self.quote(&quote.by, quote.rate, quote.at_ms);
        let (now, state) = (self.now().rate, self.state());
        if now != before {
            tracing::info!(by = %quote.by, rate = now.sat_per_kb, before = before.sat_per_kb, "the fee rate has changed");
        }
        if quote.rate > state.limits.cap {
            tracing::warn!(
                by = %quote.by, asks = quote.rate.sat_per_kb, cap = state.limits.cap.sat_per_kb,
                "a service asks for a higher fee rate than chain.fee_cap_sat_per_kb allows; transactions may wait long"
            );
        }
        if let Err(error) = store.write(|tx| fees::put(tx, &quote)) {
            tracing::warn!(%error, "the fee rate was not written down");
        }
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
        let store = crate::store::Store::in_memory(
            sensora_chain::Network::Regtest,
            &sensora_chain::PrivateKey::from_bytes([1; 32]).unwrap().public(),
        );
        let store = store.unwrap();
        assert_eq!(Fees::restored(limits, &store).unwrap().state().quoted, None);
        fees.take(StoredQuote { by: "somebody".into(), rate: FeeRate::new(130), at_ms: 5 }, &store);
        let again = Fees::restored(limits, &store).unwrap();
        assert_eq!(again.state().quoted, Some(("somebody".to_owned(), FeeRate::new(130), 5)));
        assert_eq!(again.now().rate, FeeRate::new(130), "a restart begins with the last quote");
        let fixed = Fees::fixed(FeePolicy { rate: FeeRate::new(7), max: Satoshis::from_sat(9) });
        fixed.quote("somebody", FeeRate::new(100), 1);
        assert_eq!(fixed.now().rate, FeeRate::new(7));
    }
}
