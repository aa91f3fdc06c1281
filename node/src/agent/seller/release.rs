//! Batches whose key is released on the chain: `/sensora/release/1`.
//!
//! What may go out, when the key is shown and what follows a reorganisation is decided by
//! [`sensora_protocol::market::key_release::sell`]; here batches are sealed, each change of a sale is stored before anything follows
//! from it, and the chain is watched.
//!
//! | room | what it is for |
//! |---|---|
//! | `batch` | sealed batches: what an offer says of them, and their parts, made again when they are sent |
//! | `offers` | quotes, of which a stranger gets a bounded number |
//! | `serve` | one stream: a quote, or an order |
//! | `watch` | coins and claims on the chain |

mod batch;
mod offers;
mod serve;
mod watch;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::keys::PublicKey;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::wallet::Purpose;
use sensora_protocol::OrderId;
use sensora_protocol::market::key_release::frame::{Begin, ToBuyer};
use sensora_protocol::market::key_release::key::BatchSecret;
use sensora_protocol::market::key_release::offer::{BatchTerms, CLAIM_MARGIN, DEFAULT_REFUND_AFTER};
use sensora_protocol::market::key_release::sell::{
    BatchSale, BatchSaleState, CoinVerdict, DEFAULT_CONFIRMATIONS, SellAction, SellerAt,
};
use sensora_protocol::market::refusal::Refusal;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{KEEP_SOLD_MS, Seller, SellerParts, damaged, failed};
use crate::agent::anchorer::MIN_FREE_SPACE;
use crate::chain_access::{BroadcastError, HeaderSnapshot};
use crate::outgoing::beef_of_spend;
use crate::release::{Earned, credit};
use crate::store::{StoreError, release as records};
use crate::stripes::Stripes;
use crate::wallet::WalletHandleError;

/// Most orders that are begun, or paid and not settled. Each is one question to the chain for each block and up to 64 KiB on disk; to begin
/// one costs a stranger nothing, so there must be an end.
const MAX_OPEN_SALES: usize = 256;
/// Most of them of one buyer: enough to fetch a long history in pieces, and few enough that it takes many buyers to fill all places.
const MAX_OPEN_OF_BUYER: usize = 8;
/// How many blocks after its refund height a coin whose key was never shown is still watched: a week. Its buyer has taken it back by then, or
/// lost its key; to this side it is the same.
const LAPSED_FOR: u32 = 7 * 144;
/// Quotes that wait to be sealed. One takes seconds at the most, and who comes after them is told to try again.
const MAX_WAITING: usize = 8;
/// Things to say that wait for one stream: an order has three at a time at most, and what is lost is said again when it begins anew.
const MAX_OUT: usize = 32;

/// Whether and how batches are sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleasePolicy {
    /// Whether new ones are offered. Orders that are there are served in any case.
    pub offered: bool,
    /// Confirmations of a coin before its key is shown. With fewer than [`DEFAULT_CONFIRMATIONS`] a reorganisation may take the coin from under
    /// a key that is shown; 0 shows it as soon as the network has the coin.
    pub confirmations: u32,
    /// How many blocks after an offer the buyer may take its coin back. What is more than 36 (the time a claim is given) and the confirmations
    /// is the buyer's time to pay.
    pub refund_after: u32,
}

impl ReleasePolicy {
    /// None are offered.
    #[must_use]
    pub const fn none() -> Self {
        Self { offered: false, confirmations: DEFAULT_CONFIRMATIONS, refund_after: DEFAULT_REFUND_AFTER }
    }

    /// Whether a coin that is paid at once can be claimed in time.
    #[must_use]
    pub const fn can_be_paid(&self) -> bool {
        self.refund_after > CLAIM_MARGIN.saturating_add(self.confirmations)
    }
}

impl Default for ReleasePolicy {
    /// Offered; the key is shown when the coin is seven deep, and the buyer may take it back after a day.
    fn default() -> Self {
        Self { offered: true, ..Self::none() }
    }
}

/// What the room keeps in memory. All of it is bounded, and none of it is missed after a restart.
pub(super) struct Releases {
    /// One buyer's quotes are made one after the other.
    quoting: Stripes,
    turns: Turns,
    offers: Mutex<offers::Offers>,
    batches: Mutex<batch::Batches>,
    /// Sales that have something before them.
    open: Mutex<BTreeMap<OrderId, OpenSale>>,
    /// Orders with a stream.
    running: Mutex<BTreeMap<OrderId, Running>>,
    /// The chain is to be looked at now.
    look: Notify,
}

impl Default for Releases {
    fn default() -> Self {
        Self {
            quoting: Stripes::default(),
            turns: Turns::default(),
            offers: Mutex::default(),
            batches: Mutex::default(),
            open: Mutex::default(),
            running: Mutex::default(),
            look: Notify::new(),
        }
    }
}

/// Who seals when.
struct Turns {
    /// Those that wait or seal.
    waiting: Arc<Semaphore>,
    /// One batch is sealed at a time, so that strangers' questions take one core at the most.
    sealing: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { waiting: Arc::new(Semaphore::new(MAX_WAITING)), sealing: Arc::new(Semaphore::new(1)) }
    }
}

impl Turns {
    /// Works when it is its turn. The turn goes along to the thread that works: that one goes on when whoever asked has gone.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let busy = || Refusal::Busy { retry_ms: 2_000 };
        let waiting = self.waiting.clone().try_acquire_owned().map_err(|_| busy())?;
        let sealing = self.sealing.clone().acquire_owned().await.map_err(|_| busy())?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = (waiting, sealing);
            work()
        });
        done.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a batch could not be sealed");
            Err(Refusal::StorageUnavailable)
        })
    }
}

/// A sale that counts against the bounds.
struct OpenSale {
    buyer: PublicKey,
    /// Until when its offer holds, if nothing is paid yet: after that it gives way to others.
    unpaid_until: Option<i64>,
}

/// The streams of one order: one is served, and those that come after it wait until it has ended.
#[derive(Clone)]
struct Running {
    /// Ends the one that is served when the buyer comes with another.
    cancel: CancellationToken,
    /// Held by the one that is served.
    served: Arc<tokio::sync::Mutex<()>>,
    /// Coins that came on all of them.
    coins: Arc<AtomicU32>,
    /// What is to be said on it.
    out: mpsc::Sender<Out>,
}

/// What is to be said on a stream.
enum Out {
    Frame(ToBuyer),
    Parts(Range<u32>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Releases {
    /// Says something on the stream of an order, if it has one.
    fn say(&self, order: &OrderId, out: Out) {
        let running = lock(&self.running).get(order).map(|running| running.out.clone());
        if let Some(to) = running
            && to.try_send(out).is_err()
        {
            tracing::debug!(%order, "a buyer does not take what it is told");
        }
    }

    fn note(&self, sale: &BatchSale, expires_ms: i64, is_open: bool) {
        let mut open = lock(&self.open);
        if is_open {
            let unpaid_until = (sale.state == BatchSaleState::Delivering).then_some(expires_ms);
            open.insert(sale.order, OpenSale { buyer: sale.buyer, unpaid_until });
        } else {
            open.remove(&sale.order);
        }
    }

    /// Whether there is room for another order of this buyer; and the unpaid order whose time is over that gives way to it.
    fn room_for(&self, buyer: &PublicKey, now_ms: i64) -> Result<Option<OrderId>, Refusal> {
        let open = lock(&self.open);
        let of_buyer = open.values().filter(|sale| &sale.buyer == buyer).count();
        let own_only = of_buyer >= MAX_OPEN_OF_BUYER;
        if !own_only && open.len() < MAX_OPEN_SALES {
            return Ok(None);
        }
        let running = lock(&self.running);
        let over = open
            .iter()
            .filter(|(id, sale)| (!own_only || &sale.buyer == buyer) && !running.contains_key(id))
            .filter_map(|(id, sale)| Some((sale.unpaid_until.filter(|until| *until <= now_ms)?, *id)))
            .min();
        over.map(|(_, id)| Some(id)).ok_or(Refusal::Busy { retry_ms: 60_000 })
    }
}

/// Whether a sale has something before it, when `tip` is the newest block.
fn is_open(sale: &BatchSale, terms: &BatchTerms, tip: u32) -> bool {
    match sale.state {
        BatchSaleState::Delivering | BatchSaleState::Locked { .. } | BatchSaleState::Claimed { .. } => true,
        BatchSaleState::Lapsed { .. } => tip < terms.refund_height.get().saturating_add(LAPSED_FOR),
        BatchSaleState::Done { .. } | BatchSaleState::TakenBack { .. } => false,
    }
}

impl Seller {
    /// Whether streams of `/sensora/release/1` are taken: batches are offered, or there are orders.
    #[must_use]
    pub fn releases(&self) -> bool {
        self.inner.parts.releases.offered || !lock(&self.inner.releases.open).is_empty()
    }

    /// Reads from the store which orders have something before them.
    pub(super) fn load_releases(&self) -> Result<(), StoreError> {
        let SellerParts { store, network, .. } = &self.inner.parts;
        for sale in store.read(records::open_sales)? {
            let terms = sale.terms(*network).map_err(|error| StoreError::Damaged(error.to_string()))?;
            self.inner.releases.note(&sale, terms.expires_ms, true);
        }
        Ok(())
    }

    /// The secret from which the keys of all batches follow; made when it is first needed.
    fn batch_secret(&self) -> Result<BatchSecret, Refusal> {
        let store = &self.inner.parts.store;
        let stored = store.read(records::secret).map_err(|error| failed(&error))?;
        let secret = match stored {
            Some(secret) => secret,
            None => {
                let mut fresh = zeroize::Zeroizing::new([0; 32]);
                getrandom::fill(fresh.as_mut()).map_err(|_| Refusal::Busy { retry_ms: 1000 })?;
                let kept = store.write(|tx| records::secret_or(tx, &fresh));
                kept.map_err(|error: StoreError| failed(&error))?
            }
        };
        Ok(BatchSecret::from_bytes(*secret))
    }

    /// What a sale is acted on with.
    fn with_at<T>(&self, f: impl FnOnce(&SellerAt<'_>) -> T) -> Result<T, Refusal> {
        let SellerParts { identity, network, wallet, clock, releases, .. } = &self.inner.parts;
        let secret = self.batch_secret()?;
        Ok(f(&SellerAt {
            seller: identity,
            secret: &secret,
            network: *network,
            rate: wallet.fees().rate,
            confirmations: releases.confirmations,
            now_ms: clock.now_ms(),
        }))
    }

    /// The stored sale of an order that begins, or a new one, stored.
    fn begin_release(
        &self,
        id: &OrderId,
        buyer: &PublicKey,
        begin: &Begin,
    ) -> Result<(BatchSale, BatchTerms), Refusal> {
        let SellerParts { store, network, clock, home, chain, .. } = &self.inner.parts;
        let stored = store.read(|tx| records::sale(tx, id)).map_err(|error| failed(&error))?;
        if let Some(sale) = stored.filter(|sale| &sale.buyer == buyer) {
            let terms = sale.terms(*network).map_err(|error| damaged(&error))?;
            return Ok((sale, terms));
        }
        let full =
            |home: &std::path::PathBuf| crate::home::free_space(home).is_ok_and(|free| free < MIN_FREE_SPACE);
        if home.as_ref().is_some_and(full) {
            return Err(Refusal::StorageUnavailable);
        }
        let tip = chain.headers().tip().height;
        let (sale, terms) = self.with_at(|at| BatchSale::admit(begin, buyer, tip, at))??;
        let releases = &self.inner.releases;
        let gives_way = releases.room_for(buyer, clock.now_ms())?;
        let stored = store.write(|tx| {
            if let Some(old) = &gives_way
                && !records::remove_unpaid_sale(tx, old)?
            {
                return Ok(false);
            }
            records::put_sale(tx, &sale, true).map(|()| true)
        });
        if !stored.map_err(|error: StoreError| failed(&error))? {
            return Err(Refusal::Busy { retry_ms: 2_000 });
        }
        if let Some(old) = gives_way {
            lock(&releases.open).remove(&old);
        }
        releases.note(&sale, terms.expires_ms, true);
        // From here on the order counts, and the same question gets another offer: one key for one order.
        lock(&releases.offers).forget(&terms.offer);
        Ok((sale, terms))
    }

    /// Changes a stored sale: what the change asks for comes back when it is on disk, together with what it does to the wallet. An order is
    /// changed by one task at a time.
    async fn change_release(
        &self,
        id: OrderId,
        path: Option<MerklePath>,
        f: impl FnOnce(
            &mut BatchSale,
            &BatchTerms,
            &HeaderSnapshot,
            &SellerAt<'_>,
        ) -> Result<Vec<SellAction>, Refusal>
        + Send
        + 'static,
    ) -> Result<Vec<SellAction>, Refusal> {
        let turn = self.inner.orders.lock(&id).await;
        self.blocking(move |seller| {
            // Held here: the work goes on when whoever asked has gone, and the next change has to come after it.
            let _turn = turn;
            let SellerParts { store, network, chain, .. } = &seller.inner.parts;
            let stored = store.read(|tx| records::sale(tx, &id)).map_err(|error| failed(&error))?;
            let mut sale = stored.ok_or(Refusal::UnknownOrder { order: id })?;
            let terms = sale.terms(*network).map_err(|error| damaged(&error))?;
            let (before, headers) = (sale.clone(), chain.headers());
            let actions = seller.with_at(|at| f(&mut sale, &terms, &headers, at))??;
            let open = is_open(&sale, &terms, headers.tip().height);
            seller.store_release((&before, &sale), open, &actions, path).map_err(|error| failed(&error))?;
            let forgotten = actions.contains(&SellAction::Forget);
            seller.inner.releases.note(&sale, terms.expires_ms, open && !forgotten);
            Ok(actions)
        })
        .await
    }

    fn store_release(
        &self,
        (before, sale): (&BatchSale, &BatchSale),
        open: bool,
        actions: &[SellAction],
        path: Option<MerklePath>,
    ) -> Result<(), WalletHandleError> {
        let SellerParts { store, wallet, identity, clock, .. } = &self.inner.parts;
        let stores = |action: &SellAction| matches!(action, SellAction::Forget | SellAction::Credit { .. });
        let was_open = store.read(|tx| records::is_open_sale(tx, &sale.order))?;
        if sale == before && open == was_open && !actions.iter().any(stores) {
            return Ok(());
        }
        wallet.update(|wallet, tx| {
            if actions.contains(&SellAction::Forget) {
                return Ok(records::remove_sale(tx, &sale.order)?);
            }
            records::put_sale(tx, sale, open)?;
            for action in actions {
                let SellAction::Credit { transaction, invoice } = action else { continue };
                let label = format!("sale {}", sale.order);
                let earned = Earned {
                    transaction: transaction.clone(),
                    path: path.clone(),
                    counterparty: sale.buyer,
                    invoice: invoice.clone(),
                    purpose: Purpose::Payment { label: label.clone() },
                    label,
                    now_ms: clock.now_ms(),
                };
                credit(wallet, tx, identity.key(), earned)?;
            }
            Ok(())
        })
    }

    /// Does what stored changes ask for. Answers whether the network has taken a claim.
    async fn carry_out_release(
        &self,
        id: OrderId,
        actions: Vec<SellAction>,
        coin_path: Option<&MerklePath>,
    ) -> Result<bool, Refusal> {
        let mut claimed = false;
        let mut actions = std::collections::VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                SellAction::Frame(frame) => self.inner.releases.say(&id, Out::Frame(frame)),
                SellAction::SendParts(parts) => self.inner.releases.say(&id, Out::Parts(parts)),
                SellAction::Broadcast(coin) => {
                    let verdict = self.offer_coin(&id, &coin).await;
                    let subject =
                        Beef::parse(&coin, &BeefLimits::default()).ok().and_then(|beef| beef.subject());
                    let Some(txid) = subject else { continue };
                    let after =
                        self.change_release(id, None, move |sale, _, _, _| Ok(sale.verdict(&txid, verdict)));
                    actions.extend(after.await?);
                }
                SellAction::Claim(claim) => claimed |= self.send_claim(&id, &claim, coin_path).await?,
                SellAction::Credit { transaction, .. } => {
                    self.inner.sold.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(order = %id, txid = %transaction.txid(), "the claim of a batch is in a block");
                }
                SellAction::Forget => tracing::debug!(order = %id, "an order that was not paid is forgotten"),
            }
        }
        Ok(claimed)
    }

    async fn offer_coin(&self, id: &OrderId, coin: &[u8]) -> CoinVerdict {
        match self.inner.parts.chain.broadcast(coin).await {
            Ok(()) => CoinVerdict::Accepted,
            Err(BroadcastError::Rejected { double_spent, reason, .. }) => {
                CoinVerdict::Rejected { double_spent, reason }
            }
            Err(error) => {
                tracing::warn!(order = %id, %error, "the coin of a batch could not be broadcast yet");
                CoinVerdict::Unavailable
            }
        }
    }

    /// Gives a claim to the network. Answers whether it has it.
    async fn send_claim(
        &self,
        id: &OrderId,
        claim: &[u8],
        coin_path: Option<&MerklePath>,
    ) -> Result<bool, Refusal> {
        let SellerParts { store, chain, .. } = &self.inner.parts;
        let sale = store.read(|tx| records::sale(tx, id)).map_err(|error| failed(&error))?;
        let Some(coin) = sale.as_ref().and_then(BatchSale::coin) else { return Ok(false) };
        let claim = sensora_chain::Transaction::from_bytes(claim).map_err(|error| damaged(&error))?;
        let txid = claim.txid();
        let beef = beef_of_spend(&coin.beef, coin_path, claim).map_err(|error| damaged(&error))?;
        match chain.broadcast(&beef).await {
            Ok(()) => {
                tracing::info!(order = %id, %txid, "the claim of a batch is out");
                Ok(true)
            }
            Err(error) => {
                tracing::warn!(order = %id, %txid, %error, "the claim of a batch is not taken yet; it goes out again with the next block");
                Ok(false)
            }
        }
    }

    /// Forgets orders that have been answered for long enough and have nothing before them.
    fn forget_old_releases(&self) -> Result<(), StoreError> {
        let SellerParts { store, clock, .. } = &self.inner.parts;
        let before = clock.now_ms().saturating_sub(KEEP_SOLD_MS);
        let old = store.read(|tx| {
            let old = records::sales_admitted_before(tx, before, super::FORGET_AT_ONCE)?;
            let mut over = Vec::new();
            for id in old {
                if !records::is_open_sale(tx, &id)? {
                    over.push(id);
                }
            }
            Ok::<_, StoreError>(over)
        })?;
        if old.is_empty() {
            return Ok(());
        }
        store.write(|tx| old.iter().try_for_each(|id| records::remove_sale(tx, id)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::Turns;

    /// Whoever asks can go away while its batch is being sealed, as often as it likes.
    #[tokio::test]
    async fn a_batch_whose_buyer_has_gone_is_sealed_to_its_end_before_another_begins() {
        let turns = Arc::new(Turns::default());
        let (go_on, held) = mpsc::channel::<()>();
        let (first, begun) = (turns.clone(), Arc::new(Notify::new()));
        let begins = begun.clone();
        let asking = tokio::spawn(async move {
            first
                .run(move || {
                    begins.notify_one();
                    let _ = held.recv();
                    Ok(())
                })
                .await
        });
        begun.notified().await;
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
        let second = tokio::time::timeout(Duration::from_millis(100), turns.run(|| Ok(()))).await;
        assert!(second.is_err(), "two batches are sealed at a time");
        go_on.send(()).unwrap();
        turns.run(|| Ok(())).await.unwrap();
    }
}
