//! What the wallet does for itself with each block: it gathers small coins, and sends what exceeds a bound to a cold address. The node's key is
//! online, so it should hold little.
//!
//! Both are built by the wallet, stored with their place in the outbox in one step, and known by the wallet itself afterwards: a crash at any point
//! leaves either none or one under way, never two.

use std::sync::PoisonError;

use sensora_chain::header::HeaderView;
use sensora_chain::keys::Address;
use sensora_chain::wallet::{Built, TidySpec, Wallet, WalletError};
use sensora_chain::{PrivateKey, Satoshis};

use super::{WalletHandle, WalletHandleError};
use crate::store;
use crate::store::outbox::Outgoing;

/// Where the excess goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SweepPolicy {
    /// The cold address; `None`: nothing is swept.
    pub to: Option<Address>,
    /// What stays in this wallet whatever happens.
    pub keep: Satoshis,
}

impl WalletHandle {
    /// Where the excess goes from now on.
    ///
    /// # Errors
    /// [`WalletHandleError::ForeignAddress`].
    pub fn set_sweep(&self, policy: SweepPolicy) -> Result<(), WalletHandleError> {
        let network = self.inner.network;
        if let Some(address) = policy.to.filter(|address| !address.belongs_to(network)) {
            return Err(WalletHandleError::ForeignAddress { address, network });
        }
        *self.inner.sweep.lock().unwrap_or_else(PoisonError::into_inner) = policy;
        Ok(())
    }

    /// Where the excess goes.
    #[must_use]
    pub fn sweep_policy(&self) -> SweepPolicy {
        *self.inner.sweep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the excess to the cold address now, and waits until the network has taken it. `None` when it is not worth it, or when an earlier
    /// sweep is in no block yet.
    ///
    /// # Errors
    /// [`WalletHandleError::NoSweepAddress`]. When the network cannot be reached the sweep stays in the outbox and goes out later.
    pub async fn sweep_now(&self) -> Result<Option<Built>, WalletHandleError> {
        let Some(built) = self.post_sweep()? else { return Ok(None) };
        self.deliver(&built.txid, &built.beef).await?;
        Ok(Some(built))
    }

    /// Gathers and sweeps, once for each new block. What comes of it is in the outbox.
    pub(super) fn tidy(&self) {
        let tip = self.inner.chain.headers().tip().hash;
        if self.watch(|watch| watch.tidied.replace(tip)) == Some(tip) {
            return;
        }
        // With each block the same; a person who wonders why finds it in the log.
        let told = |what: &str, done: Result<Option<Built>, WalletHandleError>| match done {
            Ok(None) | Err(WalletHandleError::NoSweepAddress | WalletHandleError::Frozen(_)) => {}
            Ok(Some(built)) => tracing::info!(txid = %built.txid, fee = %built.fee, "{what}"),
            Err(error) => tracing::warn!(%error, "not done: {what}"),
        };
        told("many small coins become one", self.post_consolidation());
        told("the excess goes to the cold address", self.post_sweep());
    }

    fn post_consolidation(&self) -> Result<Option<Built>, WalletHandleError> {
        self.post_task(|wallet, key, spec| wallet.consolidate(key, spec))
    }

    fn post_sweep(&self) -> Result<Option<Built>, WalletHandleError> {
        let SweepPolicy { to, keep } = self.sweep_policy();
        let to = to.ok_or(WalletHandleError::NoSweepAddress)?;
        let label = format!("sweep to {to}");
        self.post_task(|wallet, key, spec| wallet.sweep(key, to.locking_script(), keep, &label, spec))
    }

    fn post_task(
        &self,
        task: impl Fn(&mut Wallet, &PrivateKey, &TidySpec) -> Result<Option<Built>, WalletError>,
    ) -> Result<Option<Built>, WalletHandleError> {
        self.inner.freeze.check()?;
        let (fees, key) = (self.fees(), self.inner.identity.key());
        let spec = TidySpec {
            tip_height: self.inner.chain.headers().tip_height(),
            fee: fees.rate,
            max_fee: fees.max,
            now_ms: self.inner.clock.now_ms(),
        };
        // Mostly there is nothing to do, which is seen on a copy, without writing anything.
        let mut copy = self.read(Wallet::clone);
        if task(&mut copy, key, &spec)?.is_none() {
            return Ok(None);
        }
        let built = self.update(|wallet, tx| {
            let built = task(wallet, key, &spec)?;
            if let Some(built) = &built {
                let outgoing = Outgoing { txid: built.txid, beef: built.beef.clone() };
                store::outbox::put(tx, &outgoing)?;
            }
            Ok::<_, WalletHandleError>(built)
        })?;
        self.inner.outbox.notify_one();
        Ok(built)
    }
}
