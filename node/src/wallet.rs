//! The node's money: the wallet, its durable record, and what keeps it in step with the chain.
//!
//! [`WalletHandle::update`] is the only way in: it changes a copy, stores what has changed of it in one transaction together with whatever the
//! caller stores (an order, a sale, an anchor), and only then shows it to others. A copy shares everything with the original, and only the records
//! of changed transactions are written, so a change costs the same in a wallet of ten coins and in one of ten thousand.
//!
//! A transaction of our own that the network has to take goes into the outbox in the same step and stays there until the network is known to have
//! it or has refused it, across restarts (`outbox`). `watch` follows what the chain makes of it all; `tidy` gathers small coins and sweeps what
//! exceeds a bound to a cold address; `audit` lays the wallet beside the chain.
//!
//! What peers paid us is locked to keys that the words alone do not find. Gathering turns such coins into change, which they do find; see
//! [`sensora_chain::wallet`].

mod audit;
mod outbox;
mod tidy;
mod watch;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use redb::WriteTransaction;
use sensora_chain::beef::{Beef, BeefError, BeefLimits};
use sensora_chain::keys::Address;
use sensora_chain::spv::{self, SpvError};
use sensora_chain::wallet::{
    AuditError, Balance, Built, Coin, HistoryEntry, PaymentSpec, Received, Status, Wallet, WalletError,
};
use sensora_chain::{Network, Satoshis, TxOut, Txid};
use sensora_protocol::Identity;
use tokio::sync::Notify;

pub use self::audit::ChainAudit;
pub use self::tidy::SweepPolicy;
use self::watch::Watch;
pub use self::watch::{Fate, Stuck};
use crate::chain_access::{BroadcastError, ChainAccess, ChainError};
use crate::clock::Clock;
pub use crate::fees::FeePolicy;
use crate::fees::Fees;
use crate::freeze::{Freeze, Frozen};
pub use crate::pace::{FIRST_AGAIN, LONGEST_AGAIN};
use crate::store::outbox::Outgoing;
use crate::store::{self, Store, StoreError};

/// Why a change of the wallet was not made. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalletHandleError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The wallet refuses.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// The chain cannot be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A transaction did not reach the network; it is kept and goes out later.
    #[error(transparent)]
    Broadcast(BroadcastError),
    /// The network refuses a transaction.
    #[error("the network refuses {txid}: {reason}")]
    Rejected {
        /// The transaction.
        txid: Txid,
        /// What the network says.
        reason: String,
    },
    /// What the chain source handed us does not verify.
    #[error("the chain source's answer does not verify: {0}")]
    Spv(#[from] SpvError),
    /// What the chain source handed us is no BEEF.
    #[error("the chain source's answer is malformed: {0}")]
    Beef(#[from] BeefError),
    /// The BEEF has no transaction in it.
    #[error("the BEEF has no transaction in it")]
    NoTransaction,
    /// The address that the excess is to go to is one of another network.
    #[error("{address} is not an address of network {network}: set wallet.sweep_to to one that is")]
    ForeignAddress {
        /// The address.
        address: Address,
        /// The network of this node.
        network: Network,
    },
    /// A person has frozen the home.
    #[error(transparent)]
    Frozen(#[from] Frozen),
    /// No address to sweep to is set.
    #[error("there is no address to sweep to: set wallet.sweep_to")]
    NoSweepAddress,
    /// An answer pays nobody here.
    #[error("transaction {0} pays no address of this wallet")]
    NotOurs(Txid),
}

/// The wallet of a running node. Cheap to clone.
#[derive(Clone)]
pub struct WalletHandle {
    inner: Arc<Inner>,
}

struct Inner {
    wallet: Mutex<Wallet>,
    store: Store,
    identity: Identity,
    network: Network,
    chain: ChainAccess,
    clock: Clock,
    fees: Fees,
    freeze: Freeze,
    outbox: Notify,
    sweep: Mutex<SweepPolicy>,
    watch: Mutex<Watch>,
}

impl WalletHandle {
    /// Reads the wallet's record from the store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(
        store: Store,
        identity: Identity,
        network: Network,
        chain: ChainAccess,
        clock: Clock,
        fees: Fees,
        freeze: Freeze,
    ) -> Result<Self, StoreError> {
        let wallet = Mutex::new(store.read(store::wallet::get)?);
        let (outbox, sweep, watch) = (Notify::new(), Mutex::default(), Mutex::default());
        let inner =
            Inner { wallet, store, identity, network, chain, clock, fees, freeze, outbox, sweep, watch };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Changes the wallet and the store together, or neither. On disk when this returns. It costs as much as the change, not as the wallet.
    ///
    /// # Errors
    /// The closure's; [`StoreError`].
    pub fn update<T, E: From<StoreError>>(
        &self,
        f: impl FnOnce(&mut Wallet, &WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut wallet = self.inner.wallet.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = wallet.clone();
        let (value, outdone) = self.inner.store.write(|tx| {
            let value = f(&mut next, tx)?;
            let changes = next.take_changes().map_err(|error| StoreError::Damaged(error.to_string()))?;
            store::wallet::put_changes(tx, &changes)?;
            Ok::<_, E>((value, changes.outdone))
        })?;
        *wallet = next;
        drop(wallet);
        for (txid, by) in outdone {
            tracing::error!(
                %txid, %by,
                "a transaction that the network had is conflicted: another one that spends the same coin was taken in its place; see `sensora wallet history`"
            );
        }
        Ok(value)
    }

    /// Looks at the wallet.
    pub fn read<T>(&self, f: impl FnOnce(&Wallet) -> T) -> T {
        f(&self.inner.wallet.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The fee policy in force.
    #[must_use]
    pub fn fees(&self) -> FeePolicy {
        self.inner.fees.now()
    }

    /// What is there.
    ///
    /// # Errors
    /// [`WalletError::Overflow`].
    pub fn balance(&self) -> Result<Balance, WalletError> {
        self.read(Wallet::balance)
    }

    /// Whether there is too little for a few transactions even when nothing is reserved: reserved coins come back by themselves.
    #[must_use]
    pub fn is_poor(&self) -> bool {
        const A_FEW_FEES: u64 = 5_000;
        self.balance().is_ok_and(|balance| balance.total.as_u64() < A_FEW_FEES)
    }

    /// The coins.
    #[must_use]
    pub fn coins(&self) -> Vec<Coin> {
        self.read(Wallet::coins)
    }

    /// Every line of history, oldest first, those that have left the wallet's record included.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn history(&self) -> Result<Vec<HistoryEntry>, StoreError> {
        // In this order: a line that leaves the record between the two is in both, and never in none.
        let recent = self.read(Wallet::history);
        let mut lines = self.inner.store.read(store::wallet::archived)?;
        let here: BTreeSet<Txid> = recent.iter().map(|line| line.txid).collect();
        lines.retain(|line| !here.contains(&line.txid));
        lines.sort_by_key(|line| line.time_ms);
        lines.extend(recent);
        Ok(lines)
    }

    /// Recomputes the balance from coins and history.
    ///
    /// # Errors
    /// [`AuditError`] when they disagree.
    pub fn audit(&self) -> Result<Balance, AuditError> {
        self.read(Wallet::audit)
    }

    /// A fresh address to be funded at. Each is given out once.
    ///
    /// # Errors
    /// [`WalletHandleError`].
    pub fn address(&self) -> Result<Address, WalletHandleError> {
        let (key, network) = (self.inner.identity.key(), self.inner.network);
        self.update(|wallet, _| Ok(wallet.funding_address(key, network)?))
    }

    /// Takes `amount` from the development chain's faucet.
    ///
    /// # Errors
    /// [`WalletHandleError`]: the network has no faucet, or it is dry.
    pub async fn fund_from_faucet(&self, amount: Satoshis) -> Result<Txid, WalletHandleError> {
        let script = self.address()?.locking_script();
        let beef = self.inner.chain.faucet(&script, amount).await?;
        self.receive_funds(&beef, "faucet")
    }

    /// Takes in a transaction that pays one of our funding addresses, after verifying it.
    ///
    /// # Errors
    /// [`WalletHandleError`].
    pub fn receive_funds(&self, beef: &[u8], label: &str) -> Result<Txid, WalletHandleError> {
        let beef = Beef::parse(beef, &BeefLimits::default())?;
        let txid = beef.subject().ok_or(WalletHandleError::NoTransaction)?;
        spv::verify(&beef, &txid, &self.inner.chain.headers())?;
        let tx = beef.transaction(&txid).cloned().ok_or(WalletHandleError::NoTransaction)?;
        let (key, now_ms) = (self.inner.identity.key(), self.inner.clock.now_ms());
        self.update(|wallet, _| {
            let outputs = wallet.recognise(&tx);
            if outputs.is_empty() {
                return Err(WalletHandleError::NotOurs(txid));
            }
            let path = beef.bump_of(&txid).cloned();
            let label = label.to_owned();
            let received =
                Received { tx, outputs, ancestors: Some(&beef), path, broadcast: true, label, now_ms };
            wallet.receive(key, received)?;
            Ok(txid)
        })
    }

    /// Pays `amount` to an address and waits until the network has taken it.
    ///
    /// # Errors
    /// [`WalletHandleError`]. When the network cannot be reached the payment stays in the outbox and goes out later.
    pub async fn send(&self, address: &Address, amount: Satoshis) -> Result<Built, WalletHandleError> {
        let outputs = vec![TxOut { value: amount, locking: address.locking_script() }];
        let built = self.post(outputs, &format!("send to {address}"), |_, _| Ok(()))?;
        self.deliver(&built.txid, &built.beef).await?;
        Ok(built)
    }

    /// Builds a transaction of our own, and stores it, its reservation, its place in the outbox and what `f` stores in one step. The
    /// outbox brings it to the network; [`WalletHandle::deliver`] does it now.
    ///
    /// # Errors
    /// [`WalletHandleError`].
    pub fn post(
        &self,
        outputs: Vec<TxOut>,
        label: &str,
        f: impl FnOnce(&Built, &WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<Built, WalletHandleError> {
        let Inner { identity, clock, outbox, .. } = &*self.inner;
        let spec = self.spec(outputs, label)?;
        let built = self.update(|wallet, tx| {
            let built = wallet.build(identity.key(), spec, clock.now_ms())?;
            store::outbox::put(tx, &Outgoing { txid: built.txid, beef: built.beef.clone() })?;
            f(&built, tx)?;
            Ok::<_, WalletHandleError>(built)
        })?;
        outbox.notify_one();
        Ok(built)
    }

    /// What [`Wallet::build`] takes for a payment under our fee policy. Without it nothing is built that leaves the wallet.
    ///
    /// # Errors
    /// [`Frozen`].
    pub fn spec(&self, outputs: Vec<TxOut>, label: &str) -> Result<PaymentSpec, Frozen> {
        self.inner.freeze.check()?;
        let FeePolicy { rate, max } = self.fees();
        Ok(PaymentSpec { outputs, label: label.to_owned(), fee: rate, max_fee: max, spends: Vec::new() })
    }

    /// The kill switch.
    #[must_use]
    pub fn freeze(&self) -> &Freeze {
        &self.inner.freeze
    }

    /// Takes back the coins of a payment that its payee refused, and waits for the network's word.
    ///
    /// # Errors
    /// [`WalletHandleError::Rejected`] when the network refuses that: [`WalletHandle::fate`] says whether the payee took the payment after all.
    pub async fn take_back(&self, payment: &Txid) -> Result<Built, WalletHandleError> {
        let (Inner { identity, clock, .. }, fees) = (&*self.inner, self.fees());
        let built = self.update(|wallet, tx| {
            let built = wallet.reclaim(identity.key(), payment, fees.rate, fees.max, clock.now_ms())?;
            store::outbox::put(tx, &Outgoing { txid: built.txid, beef: built.beef.clone() })?;
            Ok::<_, WalletHandleError>(built)
        })?;
        self.deliver(&built.txid, &built.beef).await?;
        Ok(built)
    }

    /// Our transactions that the network had and that another one, the second, has outdone.
    #[must_use]
    pub fn conflicted(&self) -> Vec<(Txid, Txid)> {
        self.read(Wallet::conflicted)
    }

    /// Whether a transaction of ours can never be taken any more: what spends its coins instead is at least `depth` blocks deep in our best chain.
    /// One that the wallet has let go is, unless it was settled then; it lets none go before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn is_outdone(&self, txid: &Txid, depth: u32) -> Result<bool, StoreError> {
        self.read(|wallet| self.is_outdone_in(wallet, txid, depth))
    }

    /// As [`WalletHandle::is_outdone`], as a change of the wallet sees it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn is_outdone_in(&self, wallet: &Wallet, txid: &Txid, depth: u32) -> Result<bool, StoreError> {
        if wallet.status(txid).is_some() {
            return Ok(wallet.is_outdone(txid, depth, &self.inner.chain.headers()));
        }
        let archived = self.inner.store.read(|tx| store::wallet::archived_line(tx, txid))?;
        Ok(archived.is_none_or(|line| !line.status.is_settled()))
    }

    /// Where one of the wallet's transactions stands, or stood when the wallet let it go.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn last_status(&self, txid: &Txid) -> Result<Option<Status>, StoreError> {
        let Some(status) = self.status(txid) else {
            let archived = self.inner.store.read(|tx| store::wallet::archived_line(tx, txid))?;
            return Ok(archived.map(|line| line.status));
        };
        Ok(Some(status))
    }

    /// Where one of the wallet's transactions stands.
    #[must_use]
    pub fn status(&self, txid: &Txid) -> Option<Status> {
        self.read(|wallet| wallet.status(txid).cloned())
    }

    /// The BEEF of one of the wallet's transactions, with its Merkle path once it is mined.
    ///
    /// # Errors
    /// [`WalletError`].
    pub fn beef_for(&self, txid: &Txid) -> Result<Vec<u8>, WalletError> {
        self.read(|wallet| wallet.beef_for(txid))
    }
}
