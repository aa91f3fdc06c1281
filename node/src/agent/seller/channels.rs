//! The channels that buyers pay with: offered, opened, booked on, watched and closed.
//!
//! What a channel may do is decided by [`sensora_protocol::market::channel::seller`]; this room stores each change before anything follows
//! from it, asks the chain, and gives the close to the network. Every change of one channel is made in turn, and its record in memory is never ahead of
//! the one on disk. Vouchers of orders beside each other that wait for the disk go to it together.

mod chain;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::RefundHeight;
use sensora_chain::contract::channel::{Channel, CloseTerms};
use sensora_chain::header::HeaderView as _;
use sensora_chain::keys::PublicKey;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::wallet::{OwnedOutput, Purpose, Received};
use sensora_chain::{Network, Satoshis, Transaction};
use sensora_protocol::market::channel::message::{
    AskChannel, ChannelReport, ChannelStanding, CloseChannel, OpenChannel,
};
use sensora_protocol::market::channel::offer::{ChannelKeys, ChannelOffer, MIN_MARGIN};
use sensora_protocol::market::channel::seller::{
    SellerChannel, SellerChannelAction, SellerChannelEvent, SellerChannelState,
};
use sensora_protocol::market::channel::spending::MAX_LANES;
use sensora_protocol::market::delivery::frame::OrderVoucher;
use sensora_protocol::market::delivery::supply::{ChannelSale, ChannelView};
use sensora_protocol::market::offer::DEFAULT_LIFETIME_MS;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::market::sale::Admission;
use sensora_protocol::statement::StatementError;
use sensora_protocol::{ChannelId, Identity, OrderId, Signed};
use tokio::sync::{oneshot, watch};

use crate::chain_access::{BroadcastError, ChainAccess};
use crate::clock::Clock;
use crate::store::channels::{self, Of};
use crate::store::{Store, StoreError};
use crate::wallet::{WalletHandle, WalletHandleError};
use crate::watching::{BURIED, block_of};

/// Most channels that are offered, opened or watched at a time. Each is a few KiB and one question for each block.
const MAX_CHANNELS: usize = 10_000;

/// Which channels are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelPolicy {
    /// The least that is put into one: below this its two transactions are not worth it.
    pub min_value: Satoshis,
    /// The most that is put into one.
    pub max_value: Satoshis,
    /// Up to this value vouchers are taken at once; above it, when the funding is in a block.
    pub unmined_up_to: Satoshis,
    /// The longest time until the refund height, in blocks.
    pub max_blocks: u32,
    /// How many blocks before the refund height it is closed.
    pub margin: u32,
    /// When the vouchers of a channel come to so much, it is closed, and the money is in the wallet: what a lost disk could cost.
    pub settle_at: Option<Satoshis>,
    /// When a channel on which something was paid is so old, it is closed.
    pub settle_after: Option<Duration>,
}

impl ChannelPolicy {
    /// No channels are taken.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            min_value: Satoshis::ZERO,
            max_value: Satoshis::ZERO,
            unmined_up_to: Satoshis::ZERO,
            max_blocks: 0,
            margin: MIN_MARGIN,
            settle_at: None,
            settle_after: None,
        }
    }

    /// Whether any are taken.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        !self.max_value.is_zero()
    }
}

impl Default for ChannelPolicy {
    /// 1,000 sat to 0.1 BSV, up to 50,000 sat at once, for a month at most, closed six hours before.
    fn default() -> Self {
        Self {
            min_value: Satoshis::from_sat(1_000),
            max_value: Satoshis::from_sat(10_000_000),
            unmined_up_to: Satoshis::from_sat(50_000),
            max_blocks: 30 * 144,
            margin: MIN_MARGIN,
            settle_at: None,
            settle_after: None,
        }
    }
}

/// What the room works with.
pub struct ChannelsParts {
    /// Takes what closes pay.
    pub wallet: WalletHandle,
    /// Broadcasts, and says what is in blocks.
    pub chain: ChainAccess,
    /// Keeps the channels.
    pub store: Store,
    /// Signs.
    pub identity: Identity,
    /// The network.
    pub network: Network,
    /// The time.
    pub clock: Clock,
    /// Which channels are taken.
    pub policy: ChannelPolicy,
}

/// One channel in use: its record, and what follows from it.
pub(super) struct Live {
    /// The record, as it is on disk.
    record: Mutex<SellerChannel>,
    /// Its offer.
    offer: ChannelOffer,
    /// What the chain knows of it.
    contract: Channel,
    /// Held by whoever changes the record, from reading it to having stored it.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Vouchers and sales that wait for their turn: all that wait go to the disk together.
    waiting: Mutex<Vec<Waiting>>,
    /// Counts the changes that are no bookings.
    changed: watch::Sender<u64>,
    /// The tip at which it was decided that it is to be closed for what it has earned: its orders come to their end first.
    settles_from: Mutex<Option<u32>>,
}

/// What a channel is to the orders that run on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ToOrders {
    /// They run.
    Open,
    /// They come to their end.
    Closing,
    /// No voucher is taken any more.
    Closed,
}

impl Live {
    /// The record, as it is on disk.
    pub(super) fn record(&self) -> SellerChannel {
        lock(&self.record).clone()
    }

    /// What an order that wants to be paid through it is held against.
    pub(super) fn view(&self, tip: u32) -> Result<ChannelView, Refusal> {
        let record = lock(&self.record);
        if lock(&self.settles_from).is_some() {
            return Err(Refusal::ChannelClosed { channel: record.id });
        }
        record.view(record.standing(&self.offer, tip))
    }

    /// What it is to the orders that run on it.
    ///
    /// # Errors
    /// [`Refusal::ChannelNotMined`] where nothing is delivered until its funding is in a block.
    pub(super) fn to_orders(&self, tip: u32) -> Result<ToOrders, Refusal> {
        let record = lock(&self.record);
        let standing = record.standing(&self.offer, tip);
        if record.leaves_orders() {
            return Ok(ToOrders::Closed);
        }
        match standing {
            ChannelStanding::Open if lock(&self.settles_from).is_none() => Ok(ToOrders::Open),
            ChannelStanding::WaitsForBlock => Err(Refusal::ChannelNotMined { channel: record.id }),
            _ => Ok(ToOrders::Closing),
        }
    }

    /// Whether a voucher for an order that runs is taken.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub(super) fn takes_vouchers(&self, tip: u32) -> Result<(), Refusal> {
        let record = lock(&self.record);
        record.takes_vouchers(record.standing(&self.offer, tip))
    }

    /// What an order that runs on it has paid.
    pub(super) fn paid_by(&self, order: &OrderId) -> Satoshis {
        lock(&self.record).earning.paid_by(order)
    }

    /// Hears of changes that are no bookings.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// What an order changes on its channel, together with itself.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The sale to store.
    pub(super) sale: ChannelSale,
    /// The voucher that pays for it.
    pub(super) voucher: Option<OrderVoucher>,
    /// With what it has paid the order ends, where it does.
    pub(super) ends: Option<Satoshis>,
}

struct Waiting {
    entry: Entry,
    done: oneshot::Sender<Result<(), Refusal>>,
}

/// The seller's channels. Cheap to clone.
#[derive(Clone)]
pub struct Channels {
    inner: Arc<Inner>,
}

struct Inner {
    parts: ChannelsParts,
    live: Mutex<BTreeMap<ChannelId, Arc<Live>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: &dyn std::error::Error) -> Refusal {
    tracing::error!(%error, "a channel could not be stored or read");
    Refusal::StorageUnavailable
}

/// What follows a stored change.
enum Next {
    Funding,
    Close(Box<Transaction>),
}

impl Channels {
    /// The channels in the store that are not settled.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Damaged`] for a record that does not verify any more.
    pub fn open(parts: ChannelsParts) -> Result<Self, StoreError> {
        let stored = parts.store.read(channels::open_seller)?;
        let channels = Self { inner: Arc::new(Inner { parts, live: Mutex::default() }) };
        for record in stored {
            channels.take_in(record)?;
        }
        Ok(channels)
    }

    fn take_in(&self, record: SellerChannel) -> Result<Arc<Live>, StoreError> {
        let ChannelsParts { identity, network, .. } = &self.inner.parts;
        let (offer, contract) =
            record.contract(identity, *network).map_err(|error| StoreError::Damaged(error.to_string()))?;
        let id = record.id;
        let live = Arc::new(Live {
            record: Mutex::new(record),
            offer,
            contract,
            turn: Arc::default(),
            waiting: Mutex::default(),
            changed: watch::Sender::new(0),
            settles_from: Mutex::default(),
        });
        lock(&self.inner.live).insert(id, live.clone());
        Ok(live)
    }

    /// A channel of this buyer that is not settled.
    ///
    /// # Errors
    /// [`Refusal::UnknownChannel`].
    pub(super) fn get(&self, buyer: &PublicKey, id: &ChannelId) -> Result<Arc<Live>, Refusal> {
        let live = lock(&self.inner.live).get(id).cloned();
        let live = live.filter(|live| &lock(&live.record).buyer == buyer);
        live.ok_or(Refusal::UnknownChannel { channel: *id })
    }

    /// Whether deliveries may be paid through channels: new ones are taken, or there are some.
    #[must_use]
    pub fn are_served(&self) -> bool {
        !self.inner.parts.policy.max_value.is_zero() || !lock(&self.inner.live).is_empty()
    }

    /// The height of the newest block.
    #[must_use]
    pub fn tip(&self) -> u32 {
        self.inner.parts.chain.headers().tip_height()
    }

    /// An offer of a channel.
    ///
    /// # Errors
    /// [`Refusal::ChannelNotOffered`] for a value or a time that is not taken.
    pub fn quote(
        &self,
        buyer: &PublicKey,
        value: Satoshis,
        blocks: u32,
    ) -> Result<Signed<ChannelOffer>, Refusal> {
        let ChannelsParts { identity, network, clock, wallet, policy, .. } = &self.inner.parts;
        let least = policy.margin.saturating_mul(2);
        let fits = (policy.min_value..=policy.max_value).contains(&value)
            && (least..=policy.max_blocks).contains(&blocks);
        let height = RefundHeight::new(self.tip().saturating_add(blocks)).ok().filter(|_| fits);
        let Some(refund_height) = height else {
            return Err(Refusal::ChannelNotOffered {
                min: policy.min_value,
                max: policy.max_value,
                min_blocks: least,
                max_blocks: policy.max_blocks,
            });
        };
        if lock(&self.inner.live).len() >= MAX_CHANNELS {
            return Err(Refusal::Busy { retry_ms: 60_000 });
        }
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| Refusal::Busy { retry_ms: 1000 })?;
        let issued_ms = clock.now_ms();
        // Rates may rise before it is closed, and its fee cannot: half as much again.
        let fee = CloseTerms::fee_at(wallet.fees().rate).as_u64();
        let close_fee = Satoshis::from_sat(fee.saturating_add(fee.div_ceil(2)));
        let offer = ChannelOffer {
            buyer: *buyer,
            value,
            refund_height,
            margin: policy.margin,
            close_fee,
            when_mined: value > policy.unmined_up_to,
            nonce,
            issued_ms,
            expires_ms: issued_ms.saturating_add(DEFAULT_LIFETIME_MS),
        };
        Signed::sign(offer, identity, *network).map_err(|error| failed(&error))
    }

    /// Opens a channel: verified, stored, then given to the network. The same request again has the same answer.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub async fn open_channel(
        &self,
        buyer: &PublicKey,
        request: OpenChannel,
    ) -> Result<ChannelReport, Refusal> {
        let ChannelsParts { identity, network, chain, store, clock, .. } = &self.inner.parts;
        let offer = request.offer.clone().verify_by::<ChannelOffer>(*network, identity.public());
        let offer = offer.map_err(|error| Refusal::ForeignOffer { reason: error.to_string() })?;
        let id = offer.channel_id(*network);
        let live = match self.get(buyer, &id) {
            Ok(live) => live,
            Err(_) => {
                let known = store.read(|tx| channels::seller(tx, &id)).map_err(|error| failed(&error))?;
                if known.is_some() {
                    return Err(Refusal::ChannelClosed { channel: id });
                }
                let headers = chain.headers();
                let now_ms = clock.now_ms();
                let at =
                    Admission { seller: identity, network: *network, peer: buyer, headers: &headers, now_ms };
                let record = SellerChannel::admit(request, &at)?;
                let stored = record.clone();
                let stored = store.commit(move |tx| channels::put_seller(tx, &stored, false)).await;
                stored.map_err(|error| failed(&error))?;
                self.take_in(record).map_err(|error| failed(&error))?
            }
        };
        let resumed = self.change(&live, |record, seller, network| record.resume(seller, network), None);
        if let Some(refusal) = resumed.await {
            return Err(refusal);
        }
        Ok(self.report(&live, Vec::new()))
    }

    /// Closes a channel now.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub async fn close_channel(
        &self,
        buyer: &PublicKey,
        request: CloseChannel,
    ) -> Result<ChannelReport, Refusal> {
        let live = self.get(buyer, &request.channel)?;
        let event = SellerChannelEvent::CloseAsked(Some(request));
        match self.take(&live, event, None).await {
            Some(refusal) => Err(refusal),
            None => Ok(self.report(&live, Vec::new())),
        }
    }

    /// What was paid on a channel, for each of the orders that are asked for.
    ///
    /// # Errors
    /// [`Refusal::UnknownChannel`].
    pub fn ask(&self, buyer: &PublicKey, request: &AskChannel) -> Result<ChannelReport, Refusal> {
        if request.orders.len() > MAX_LANES {
            return Err(Refusal::Malformed { reason: format!("more than {MAX_LANES} orders are asked for") });
        }
        let live = self.get(buyer, &request.channel)?;
        let paid = request.orders.iter().map(|order| self.paid_by(&live, order)).collect::<Result<_, _>>();
        let paid = paid.map_err(|error| failed(&error))?;
        Ok(self.report(&live, paid))
    }

    /// What an order has paid: in its lane while it runs, by its receipt afterwards.
    fn paid_by(&self, live: &Live, order: &OrderId) -> Result<Satoshis, StoreError> {
        let ChannelsParts { store, network, .. } = &self.inner.parts;
        let (running, id) = {
            let record = lock(&live.record);
            (record.earning.lanes.get(order).copied(), record.id)
        };
        match running {
            Some(paid) => Ok(paid),
            None => {
                let sale = store.read(|tx| channels::sale(tx, order))?.filter(|sale| sale.channel == id);
                let paid = sale.and_then(|sale| sale.finally_paid(*network));
                Ok(paid.unwrap_or(Satoshis::ZERO))
            }
        }
    }

    fn report(&self, live: &Live, paid: Vec<Satoshis>) -> ChannelReport {
        let tip = self.tip();
        let record = lock(&live.record);
        record.report(record.standing(&live.offer, tip), paid)
    }

    /// Books what an order changes on its channel: on disk when this returns, with all that waits for the same channel.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing has changed then.
    pub(super) async fn book(&self, live: &Arc<Live>, entry: Entry) -> Result<(), Refusal> {
        let (done, outcome) = oneshot::channel();
        lock(&live.waiting).push(Waiting { entry, done });
        let turn = live.turn.clone().lock_owned().await;
        let some = std::mem::take(&mut *lock(&live.waiting));
        if !some.is_empty() {
            let (channels, live) = (self.clone(), live.clone());
            // To its end, also where whoever has come first is dropped.
            tokio::spawn(async move {
                channels.book_all(&live, some).await;
                drop(turn);
            });
        }
        outcome.await.unwrap_or(Err(Refusal::StorageUnavailable))
    }

    /// Books one after the other, in turn, and stores all at once.
    async fn book_all(&self, live: &Live, mut some: Vec<Waiting>) {
        // The highest voucher first: its signature covers the others.
        some.sort_by_key(|waiting| std::cmp::Reverse(waiting.entry.voucher.map(|voucher| voucher.amount)));
        let mut next = live.record();
        let mut good = Vec::with_capacity(some.len());
        for waiting in some {
            match enter(&mut next, &live.contract, &waiting.entry) {
                Ok(()) => good.push(waiting),
                Err(refusal) => drop(waiting.done.send(Err(refusal))),
            }
        }
        if good.is_empty() {
            return;
        }
        let sales: Vec<_> = good.iter().map(|waiting| waiting.entry.sale.clone()).collect();
        let record = next.clone();
        let stored = self.inner.parts.store.commit(move |tx| {
            channels::put_seller(tx, &record, false)?;
            sales.iter().try_for_each(|sale| channels::put_sale(tx, sale))
        });
        let stored = stored.await.map_err(|error| failed(&error));
        if stored.is_ok() {
            *lock(&live.record) = next;
        }
        for waiting in good {
            drop(waiting.done.send(stored.clone()));
        }
    }

    /// Gives an event to a channel, stores what it makes of it, and does what follows. A refusal is for whoever asked.
    async fn take(
        &self,
        live: &Arc<Live>,
        event: SellerChannelEvent,
        path: Option<(Of, MerklePath)>,
    ) -> Option<Refusal> {
        self.change(live, |record, seller, network| record.handle(event, seller, network), path).await
    }

    async fn change(
        &self,
        live: &Arc<Live>,
        f: impl FnOnce(&mut SellerChannel, &Identity, Network) -> Result<Vec<SellerChannelAction>, StatementError>
        + Send
        + 'static,
        path: Option<(Of, MerklePath)>,
    ) -> Option<Refusal> {
        let turn = live.turn.clone().lock_owned().await;
        let (channels, of) = (self.clone(), live.clone());
        let changed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let ChannelsParts { identity, network, .. } = &channels.inner.parts;
            let before = of.record();
            let mut next = before.clone();
            let actions = f(&mut next, identity, *network).map_err(|error| failed(&error))?;
            // At most ticks of the chain nothing changes, and then nothing is written.
            if actions.is_empty() && next == before && !channels.is_settled(&before) {
                return Ok((Vec::new(), None));
            }
            channels.follow(&of, next, actions, path).map_err(|error| failed(&error))
        });
        let next = match changed.await.unwrap_or_else(|error| Err(failed(&error))) {
            Ok((next, None)) => next,
            Ok((_, Some(refusal))) | Err(refusal) => return Some(refusal),
        };
        Box::pin(self.carry_out(live, next)).await
    }

    /// Stores a channel that has changed, with what becomes of the money, and says what follows.
    fn follow(
        &self,
        live: &Live,
        record: SellerChannel,
        actions: Vec<SellerChannelAction>,
        path: Option<(Of, MerklePath)>,
    ) -> Result<(Vec<Next>, Option<Refusal>), WalletHandleError> {
        let ChannelsParts { wallet, identity, clock, .. } = &self.inner.parts;
        let (mut next, mut refusal, mut forget) = (Vec::new(), None, false);
        let mut credits = Vec::new();
        for action in actions {
            match action {
                SellerChannelAction::BroadcastFunding => next.push(Next::Funding),
                SellerChannelAction::BroadcastClose(close) => next.push(Next::Close(close)),
                SellerChannelAction::Refuse(with) => refusal = Some(with),
                SellerChannelAction::Forget => forget = true,
                SellerChannelAction::Credit { transaction, .. } => credits.push(*transaction),
                SellerChannelAction::Alarm(loss) => {
                    tracing::error!(channel = %record.id, paid = %record.earning.highest, "a channel is lost: {loss}");
                }
                // The wallet follows reorganisations by itself.
                SellerChannelAction::Report | SellerChannelAction::Uncredit(_) => {}
            }
        }
        let (id, buyer, settled) = (record.id, record.buyer, self.is_settled(&record));
        wallet.update(|wallet, tx| {
            if forget {
                channels::remove_seller(tx, &id)?;
            } else {
                channels::put_seller(tx, &record, settled)?;
            }
            if let Some((of, path)) = &path {
                channels::put_block(tx, &id, *of, &block_of(path))?;
            }
            for close in credits {
                let label = format!("channel {id}");
                let key = ChannelKeys::payout_source(&id, &buyer);
                let script = key.locking_script(identity.key());
                let at = close.outputs.iter().position(|output| output.locking == script);
                let Some(vout) = at.and_then(|at| u32::try_from(at).ok()) else { continue };
                if crate::store::wallet::is_archived_in(tx, &close.txid())? {
                    continue;
                }
                let purpose = Purpose::Payment { label: label.clone() };
                let received = Received {
                    tx: close,
                    outputs: vec![OwnedOutput { vout, key, purpose }],
                    ancestors: None,
                    path: path.as_ref().map(|(_, path)| path.clone()),
                    broadcast: true,
                    label,
                    now_ms: clock.now_ms(),
                };
                wallet.receive(identity.key(), received)?;
            }
            Ok::<_, WalletHandleError>(())
        })?;
        *lock(&live.record) = record;
        if forget || settled {
            lock(&self.inner.live).remove(&id);
        }
        live.changed.send_modify(|times| *times = times.wrapping_add(1));
        Ok((next, refusal))
    }

    fn is_settled(&self, record: &SellerChannel) -> bool {
        match record.state {
            SellerChannelState::Closed { height, .. } => self.tip() >= height.saturating_add(BURIED),
            // A lost channel stays in sight: what was lost may come back with a reorganisation, until its refund height is far behind.
            _ => false,
        }
    }

    async fn carry_out(&self, live: &Arc<Live>, next: Vec<Next>) -> Option<Refusal> {
        let ChannelsParts { chain, .. } = &self.inner.parts;
        for step in next {
            match step {
                Next::Funding => {
                    let funding = lock(&live.record).funding.clone();
                    let event = match chain.broadcast(&funding).await {
                        Ok(()) => SellerChannelEvent::Accepted,
                        Err(BroadcastError::Rejected { double_spent, reason, .. }) => {
                            SellerChannelEvent::Rejected { double_spent, reason }
                        }
                        Err(error) => {
                            tracing::warn!(channel = %lock(&live.record).id, %error, "a channel's funding could not be broadcast yet");
                            SellerChannelEvent::Unavailable
                        }
                    };
                    let refusal = self.take(live, event, None).await;
                    if refusal.is_some() {
                        return refusal;
                    }
                }
                Next::Close(close) => {
                    let beef = self.beef_of(live, &close);
                    match chain.broadcast(&beef).await {
                        Ok(()) => {
                            tracing::info!(channel = %lock(&live.record).id, txid = %close.txid(), "a channel's close is out");
                        }
                        Err(error) => {
                            tracing::warn!(channel = %lock(&live.record).id, %error, "a channel's close is not taken yet; it goes out again with the next block");
                        }
                    }
                }
            }
        }
        None
    }

    /// The close with the funding it spends, which may not be mined.
    fn beef_of(&self, live: &Live, close: &Transaction) -> Vec<u8> {
        let funding = lock(&live.record).funding.clone();
        let made = Beef::parse(&funding, &BeefLimits::default()).and_then(|mut beef| {
            let txid = beef.add(close.clone(), None)?;
            beef.to_atomic(&txid)
        });
        made.unwrap_or_else(|error| {
            tracing::error!(%error, "a close does not fit its funding");
            Vec::new()
        })
    }
}

/// Enters what an order changes into its channel's record.
fn enter(record: &mut SellerChannel, contract: &Channel, entry: &Entry) -> Result<(), Refusal> {
    let Entry { sale, voucher, ends } = entry;
    let mut next = record.clone();
    next.earning.begin(sale.order).map_err(|_| Refusal::Busy { retry_ms: 1_000 })?;
    if let Some(voucher) = voucher {
        let booked = next.book(contract, &sale.order, voucher);
        next = booked.map_err(|error| Refusal::VoucherInvalid { reason: error.to_string() })?;
    }
    if let Some(paid) = ends {
        next.earning.end(&sale.order, *paid).map_err(|error| failed(&error))?;
    }
    *record = next;
    Ok(())
}
