//! The channels that buyers pay with: offered, opened, booked on, watched and closed.
//!
//! What a channel may do is decided by [`sensora_protocol::market::channel::seller`]; this room stores each change before anything follows
//! from it, asks the chain, and gives the close to the network. Every change of one channel is made in turn, and its record in memory is never ahead of
//! the one on disk. Vouchers of orders beside each other that wait for the disk go to it together.

mod booking;
mod chain;
mod opening;
pub mod owner;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use sensora_chain::contract::channel::Channel;
use sensora_chain::header::HeaderView as _;
use sensora_chain::keys::PublicKey;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::wallet::{OwnedOutput, Purpose, Received};
use sensora_chain::{Network, Satoshis, Transaction};
use sensora_protocol::market::channel::message::{AskChannel, ChannelReport, ChannelStanding, CloseChannel};
use sensora_protocol::market::channel::offer::{ChannelKeys, ChannelOffer, MIN_MARGIN};
use sensora_protocol::market::channel::seller::{
    SellerChannel, SellerChannelAction, SellerChannelEvent, SellerChannelState,
};
use sensora_protocol::market::channel::spending::MAX_LANES;
use sensora_protocol::market::delivery::frame::OrderVoucher;
use sensora_protocol::market::delivery::supply::ChannelView;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::statement::StatementError;
use sensora_protocol::{ChannelId, Identity, OrderId};
use tokio::sync::watch;

use crate::chain_access::{BroadcastError, ChainAccess};
use crate::clock::Clock;
use crate::outgoing::send_spend;
use crate::store::channels::{self, Of};
use crate::store::{Store, StoreError};
use crate::stripes::Stripes;
use crate::wallet::{WalletHandle, WalletHandleError};
use crate::watching::{BURIED, block_of};

use booking::Waiting;
pub(super) use booking::{Checked, Entry};

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
    /// The shortest time until the refund height, in blocks: as long as it is open it is to be used for at least as long as the margin.
    #[must_use]
    pub const fn least_blocks(&self) -> u32 {
        self.margin.saturating_mul(2)
    }

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
    /// Where the store is, to see how full the disk is.
    pub home: Option<PathBuf>,
}

/// One channel in use: its record, and what follows from it.
struct InUse {
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
    /// Vouchers that were checked and are not booked yet: at most one for each lane.
    checked: Mutex<BTreeMap<OrderId, OrderVoucher>>,
    /// Counts the changes that are no bookings.
    changed: watch::Sender<u64>,
}

/// What one order has of its channel.
pub(super) struct Live {
    channel: Arc<InUse>,
    /// The order, known from its first step on that is stored or brings a voucher: one that is asked to end hears of it with that step.
    order: OnceLock<OrderId>,
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

impl InUse {
    /// The record, as it is on disk.
    fn record(&self) -> SellerChannel {
        lock(&self.record).clone()
    }

    /// Orders hear of a change.
    fn tell(&self) {
        self.changed.send_modify(|times| *times = times.wrapping_add(1));
    }
}

impl Live {
    /// It is this order that has it.
    fn is_of(&self, order: OrderId) {
        if self.order.set(order).is_ok() && lock(&self.channel.record).earning.is_to_end(&order) {
            self.channel.tell();
        }
    }

    /// What an order that wants to be paid through it is held against.
    pub(super) fn view(&self, tip: u32) -> Result<ChannelView, Refusal> {
        let record = lock(&self.channel.record);
        record.view(record.standing(&self.channel.offer, tip))
    }

    /// What it is to the order that has it.
    ///
    /// # Errors
    /// [`Refusal::ChannelNotMined`] where nothing is delivered until its funding is in a block.
    pub(super) fn to_orders(&self, tip: u32) -> Result<ToOrders, Refusal> {
        let record = lock(&self.channel.record);
        let standing = record.standing(&self.channel.offer, tip);
        if record.leaves_orders() {
            return Ok(ToOrders::Closed);
        }
        let is_to_end = self.order.get().is_some_and(|order| record.earning.is_to_end(order));
        match standing {
            ChannelStanding::Open if !is_to_end => Ok(ToOrders::Open),
            ChannelStanding::WaitsForBlock => Err(Refusal::ChannelNotMined { channel: record.id }),
            _ => Ok(ToOrders::Closing),
        }
    }

    /// Whether a voucher for an order that runs is taken.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub(super) fn takes_vouchers(&self, tip: u32) -> Result<(), Refusal> {
        let record = lock(&self.channel.record);
        record.takes_vouchers(record.standing(&self.channel.offer, tip))
    }

    /// Hears of changes that are no bookings.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.channel.changed.subscribe()
    }
}

/// The seller's channels. Cheap to clone.
#[derive(Clone)]
pub struct Channels {
    inner: Arc<Inner>,
}

struct Inner {
    parts: ChannelsParts,
    live: Mutex<BTreeMap<ChannelId, Arc<InUse>>>,
    /// A channel is opened by one task at a time.
    opening: Stripes,
    /// Held while a new channel takes its place, from looking whether there is one.
    places: Mutex<()>,
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
        let channels = Self {
            inner: Arc::new(Inner {
                parts,
                live: Mutex::default(),
                opening: Stripes::default(),
                places: Mutex::default(),
            }),
        };
        for record in stored {
            channels.take_in(record)?;
        }
        Ok(channels)
    }

    fn take_in(&self, record: SellerChannel) -> Result<Arc<InUse>, StoreError> {
        let ChannelsParts { identity, network, .. } = &self.inner.parts;
        let (offer, contract) =
            record.contract(identity, *network).map_err(|error| StoreError::Damaged(error.to_string()))?;
        let id = record.id;
        let live = Arc::new(InUse {
            record: Mutex::new(record),
            offer,
            contract,
            turn: Arc::default(),
            waiting: Mutex::default(),
            checked: Mutex::default(),
            changed: watch::Sender::new(0),
        });
        lock(&self.inner.live).insert(id, live.clone());
        Ok(live)
    }

    /// A channel of this buyer that is not settled, for an order.
    ///
    /// # Errors
    /// [`Refusal::UnknownChannel`].
    pub(super) fn get(&self, buyer: &PublicKey, id: &ChannelId) -> Result<Arc<Live>, Refusal> {
        let channel = self.in_use(buyer, id)?;
        Ok(Arc::new(Live { channel, order: OnceLock::new() }))
    }

    fn in_use(&self, buyer: &PublicKey, id: &ChannelId) -> Result<Arc<InUse>, Refusal> {
        let live = lock(&self.inner.live).get(id).cloned();
        let live = live.filter(|live| &lock(&live.record).buyer == buyer);
        live.ok_or(Refusal::UnknownChannel { channel: *id })
    }

    /// What an order that has not ended has paid: on a channel that is settled, too.
    pub(super) fn paid_in_lane(&self, channel: &ChannelId, order: &OrderId) -> Result<Satoshis, StoreError> {
        if let Some(live) = lock(&self.inner.live).get(channel) {
            return Ok(lock(&live.record).earning.paid_by(order));
        }
        let record = self.inner.parts.store.read(|tx| channels::seller(tx, channel))?;
        Ok(record.map(|record| record.earning.paid_by(order)).unwrap_or_default())
    }

    /// Whether this is what its channel's changes go through: not where it was forgotten or is settled.
    fn is_current(&self, live: &Arc<InUse>) -> bool {
        let id = lock(&live.record).id;
        lock(&self.inner.live).get(&id).is_some_and(|current| Arc::ptr_eq(current, live))
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

    /// Closes a channel now.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub async fn close_channel(
        &self,
        buyer: &PublicKey,
        request: CloseChannel,
    ) -> Result<ChannelReport, Refusal> {
        let live = self.in_use(buyer, &request.channel)?;
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
        let live = self.in_use(buyer, &request.channel)?;
        let paid = request.orders.iter().map(|order| self.paid_by(&live, order)).collect::<Result<_, _>>();
        let paid = paid.map_err(|error| failed(&error))?;
        Ok(self.report(&live, paid))
    }

    /// What an order has paid: in its lane while it runs, by its receipt afterwards.
    fn paid_by(&self, live: &InUse, order: &OrderId) -> Result<Satoshis, StoreError> {
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

    fn report(&self, live: &InUse, paid: Vec<Satoshis>) -> ChannelReport {
        let tip = self.tip();
        let record = lock(&live.record);
        record.report(record.standing(&live.offer, tip), paid)
    }

    /// Gives an event to a channel, stores what it makes of it, and does what follows. A refusal is for whoever asked.
    async fn take(
        &self,
        live: &Arc<InUse>,
        event: SellerChannelEvent,
        path: Option<(Of, MerklePath)>,
    ) -> Option<Refusal> {
        self.change(live, |record, seller, network| record.handle(event, seller, network), path).await
    }

    async fn change(
        &self,
        live: &Arc<InUse>,
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
            // Whoever has waited for its turn may find the channel forgotten, and opened anew.
            if !channels.is_current(&of) {
                return Err(Refusal::UnknownChannel { channel: before.id });
            }
            let mut next = before.clone();
            let actions = f(&mut next, identity, *network).map_err(|error| failed(&error))?;
            // At most ticks of the chain nothing changes, and then nothing is written.
            if actions.is_empty() && next == before && !channels.is_settled(&of, &before) {
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
        live: &InUse,
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
        let (id, buyer, settled) = (record.id, record.buyer, self.is_settled(live, &record));
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
        live.tell();
        Ok((next, refusal))
    }

    /// Whether nothing more comes of it, whatever the chain does.
    fn is_settled(&self, live: &InUse, record: &SellerChannel) -> bool {
        let end = match record.state {
            SellerChannelState::Closed { height, .. } => height,
            // It stays in sight for so long, for what was lost may come back with a reorganisation.
            SellerChannelState::Gone { .. } => live.offer.refund_height.get(),
            // All of it is the buyer's, to be had back whenever it likes.
            SellerChannelState::Closing if record.signature.is_none() => live.offer.refund_height.get(),
            _ => return false,
        };
        self.tip() >= end.saturating_add(BURIED)
    }

    async fn carry_out(&self, live: &Arc<InUse>, next: Vec<Next>) -> Option<Refusal> {
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
                    let funding = lock(&live.record).funding.clone();
                    match send_spend(chain, &funding, &close).await {
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
}
