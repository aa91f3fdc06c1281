//! The channels that we pay with: opened, learned of again after a restart, watched, closed and taken back.
//!
//! What a channel may do is decided by [`sensora_protocol::market::channel::buyer`]; this room stores each change before anything follows
//! from it. What each order may pay out of a channel is in its [`Spending`], which all orders on it share.

mod chain;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sensora_chain::contract::channel::{Channel, Voucher};
use sensora_chain::header::HeaderView as _;
use sensora_chain::keys::PublicKey;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::wallet::{OwnedOutput, Purpose, Received};
use sensora_chain::{Satoshis, Transaction, TxOut};
use sensora_protocol::market::channel::buyer::{
    BuyerChannel, BuyerChannelAction, BuyerChannelEvent, BuyerChannelState,
};
use sensora_protocol::market::channel::message::{AskChannel, ChannelReport, ChannelStanding};
use sensora_protocol::market::channel::offer::{ChannelKeys, ChannelLimits, ChannelOffer, ChannelOfferError};
use sensora_protocol::market::channel::spending::{Reservation, Spending, SpendingRecord};
use sensora_protocol::market::message::{Answer, Request, Response};
use sensora_protocol::market::offer::OfferError;
use sensora_protocol::market::purchase::SignedPayment;
use sensora_protocol::{ChannelId, Identity, OrderId, Signed};
use tokio::sync::watch;

use super::{BuyError, Buyer, BuyerParts, unexpected};
use crate::chain_access::BroadcastError;
use crate::outgoing::send_spend;
use crate::store::channels::{self as records, Of};
use crate::wallet::{Fate, WalletHandleError};
use crate::watching::{BURIED, block_of};

/// One channel in use.
pub(super) struct Open {
    record: Mutex<BuyerChannel>,
    contract: Channel,
    offer: ChannelOffer,
    /// What orders have been promised and have paid. The one in `record` is what is on disk.
    spending: Mutex<Spending>,
    /// Whether the seller has said, since the start, what has been paid. Before that nothing is paid.
    learned: tokio::sync::Mutex<bool>,
    /// Held by whoever changes what is on disk, from reading it to having stored it.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Whether its seller waits for a block with the funding before it takes orders. Not on disk: after a start it is as the offer says, until the
    /// seller is asked.
    waits_for_block: AtomicBool,
    /// Counts how often it has come further.
    changed: watch::Sender<u64>,
}

/// What a channel is to the orders that run on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ToOrders {
    /// They run.
    Open,
    /// They come to their end.
    Closing,
    /// No receipt will come.
    Closed,
}

impl Open {
    /// The account that all orders on the channel share.
    pub(super) fn spending(&self) -> Spending {
        lock(&self.spending).clone()
    }

    /// Whether the seller has said, since the start, what has been paid.
    pub(super) fn is_learned(&self) -> bool {
        // Whoever asks just now does not know it yet.
        self.learned.try_lock().is_ok_and(|learned| *learned)
    }

    /// What it is to the orders on it when the newest block is at `tip`.
    pub(super) fn to_orders(&self, tip: u32) -> ToOrders {
        let record = lock(&self.record);
        if record.leaves_orders() {
            ToOrders::Closed
        } else if record.is_open() && tip < self.offer.orders_end_at() {
            ToOrders::Open
        } else {
            ToOrders::Closing
        }
    }

    /// Whether it is open, and orders on it are refused until its funding is in a block, as far as is known.
    pub(super) fn waits_for_block(&self) -> bool {
        self.waits_for_block.load(Ordering::Relaxed) && lock(&self.record).is_open()
    }

    fn take_standing(&self, standing: ChannelStanding) {
        self.waits_for_block.store(standing == ChannelStanding::WaitsForBlock, Ordering::Relaxed);
    }

    /// Hears of each time that it has come further.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The channel's id.
    pub(super) fn id(&self) -> ChannelId {
        lock(&self.record).id
    }

    /// Signs the voucher for `amount`.
    pub(super) fn sign(&self, amount: Satoshis, buyer: &Identity) -> Result<Voucher, BuyError> {
        let record = lock(&self.record);
        record.sign(&self.contract, amount, buyer).map_err(|error| BuyError::Channel(Box::new(error.into())))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The channels of one buyer, as they are in use.
#[derive(Default)]
pub(super) struct Channels {
    open: Mutex<BTreeMap<ChannelId, Arc<Open>>>,
}

/// A channel, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelSummary {
    /// The channel.
    pub id: ChannelId,
    /// Who is paid with it.
    pub seller: PublicKey,
    /// What was put into it.
    pub value: Satoshis,
    /// What was paid.
    pub paid: Satoshis,
    /// What orders that run may still pay.
    pub reserved: Satoshis,
    /// What is free.
    pub free: Satoshis,
    /// From when on it can be taken back without the seller.
    pub refund_height: u32,
    /// How far it has come.
    pub state: BuyerChannelState,
}

enum Next {
    Ask(Box<Request>),
    TakeBack,
    Refund(Box<Transaction>),
}

impl Buyer {
    /// Reads the channels that are not settled from the store.
    ///
    /// # Errors
    /// [`BuyError`].
    pub fn load_channels(&self) -> Result<(), BuyError> {
        for record in self.inner.store.read(records::open_buyer)? {
            self.channel_in_use(record, false)?;
        }
        Ok(())
    }

    fn channel_in_use(&self, record: BuyerChannel, learned: bool) -> Result<Arc<Open>, BuyError> {
        let (offer, contract) = record.contract(&self.inner.identity, self.inner.network)?;
        let spending = Mutex::new(Spending::new(record.spending.clone()));
        let (id, learned) = (record.id, tokio::sync::Mutex::new(learned));
        let waits_for_block = AtomicBool::new(offer.when_mined);
        let (record, turn, changed) = (Mutex::new(record), Arc::default(), watch::Sender::new(0));
        let open =
            Arc::new(Open { record, contract, offer, spending, learned, turn, waits_for_block, changed });
        lock(&self.channels.open).insert(id, open.clone());
        Ok(open)
    }

    pub(super) fn channel(&self, id: &ChannelId) -> Result<Arc<Open>, BuyError> {
        lock(&self.channels.open).get(id).cloned().ok_or(BuyError::UnknownChannel(*id))
    }

    /// All channels, those that have ended included.
    ///
    /// # Errors
    /// [`BuyError`].
    pub fn channels(&self) -> Result<Vec<ChannelSummary>, BuyError> {
        let mut all = Vec::new();
        for record in self.inner.store.read(records::all_buyer)? {
            let in_use = lock(&self.channels.open).get(&record.id).cloned();
            let (state, spending) = match in_use {
                Some(open) => {
                    let spending = open.spending().record();
                    (lock(&open.record).state.clone(), spending)
                }
                None => (record.state.clone(), record.spending.clone()),
            };
            let (offer, _) = record.contract(&self.inner.identity, self.inner.network)?;
            all.push(ChannelSummary {
                id: record.id,
                seller: record.seller,
                value: offer.value,
                paid: spending.paid()?,
                reserved: spending.reserved()?,
                free: spending.free()?,
                refund_height: offer.refund_height.get(),
                state,
            });
        }
        Ok(all)
    }

    /// The open channel with a seller that has at least `amount` free: one that waits for no block if there is one, and of those the one that ends first.
    pub(super) fn channel_with(&self, seller: &PublicKey, amount: Satoshis) -> Option<Arc<Open>> {
        let tip = self.inner.chain.headers().tip_height();
        let all: Vec<_> = lock(&self.channels.open).values().cloned().collect();
        let usable = |open: &Arc<Open>| {
            // Not under the lock of the record: whoever reserves takes the two the other way round.
            let free = open.spending().record().free();
            let record = lock(&open.record);
            record.takes_orders(&open.offer, tip)
                && &record.seller == seller
                && free.is_ok_and(|free| free >= amount)
        };
        all.into_iter().filter(usable).min_by_key(|open| (open.waits_for_block(), open.offer.refund_height))
    }

    /// Opens a channel of `value` with a seller for about `blocks` blocks: the funding is built, reserved and stored, and then sent until the
    /// seller answers.
    ///
    /// # Errors
    /// [`BuyError`]. A channel whose seller does not answer is kept, and [`Buyer::resume_channels`] goes on with it.
    pub async fn open_channel(
        &self,
        seller: &PublicKey,
        value: Satoshis,
        blocks: u32,
        limits: ChannelLimits,
    ) -> Result<ChannelId, BuyError> {
        let BuyerParts { wallet, identity, network, clock, chain, .. } = &*self.inner;
        let question = Request::QuoteChannel { value, blocks };
        let offer = match self.ask(seller, &question).await? {
            Response::Ok(Answer::ChannelOffer(offer)) => offer,
            other => return Err(unexpected(&question, other)),
        };
        let offer: Signed<ChannelOffer> = offer.verify_by(*network, seller)?;
        let accept = || {
            let tip = chain.headers().tip_height();
            ChannelOffer::accept(&offer, *network, identity.key(), value, limits, tip, clock.now_ms())
        };
        let accepted = match accept() {
            // The seller counts from its own tip: ours may be what is behind. Look, and judge again.
            Err(ChannelOfferError::Height { .. }) => {
                if let Err(error) = chain.refresh().await {
                    tracing::debug!(%error, "the headers could not be brought up to date");
                }
                accept()
            }
            accepted => accepted,
        };
        accepted.map_err(Box::new)?;
        let id = offer.channel_id(*network);
        let keys = ChannelKeys::for_buyer(&id, identity.key(), seller);
        let locking = offer.value().locking(&keys);
        let spec = wallet.spec(vec![TxOut { value, locking: locking.clone() }], &format!("channel {id}"))?;
        let record = wallet.update(|wallet, tx| {
            let built =
                wallet.build(identity.key(), spec, clock.now_ms()).map_err(WalletHandleError::from)?;
            let transaction = wallet.transaction(&built.txid);
            let outputs = transaction.map(|tx| tx.outputs.as_slice()).unwrap_or_default();
            let vout = outputs.iter().position(|output| output.locking == locking);
            let vout = vout.and_then(|at| u32::try_from(at).ok()).ok_or(WalletHandleError::NoTransaction)?;
            let funding = SignedPayment { txid: built.txid, beef: built.beef };
            let record = BuyerChannel::new(&offer, funding, vout, *network, clock.now_ms());
            records::put_buyer(tx, &record, false)?;
            Ok::<_, BuyError>(record)
        })?;
        // A new channel has no past that its seller could know of.
        let open = self.channel_in_use(record, true)?;
        self.resume_channel(&open).await?;
        Ok(id)
    }

    /// Asks the seller to close a channel now.
    ///
    /// # Errors
    /// [`BuyError`]; the seller's silence changes nothing: from the refund height on the money is taken back without it.
    pub async fn close_channel(&self, id: &ChannelId) -> Result<(), BuyError> {
        let open = self.channel(id)?;
        self.learn(&open, Satoshis::ZERO).await?;
        let running = open.spending().record().reserved()?;
        if !running.is_zero() {
            return Err(BuyError::ChannelInUse { channel: *id, reserved: running });
        }
        self.channel_event(&open, BuyerChannelEvent::CloseAsked, None).await
    }

    /// Goes on with every channel that waits for its seller. Returns what became of each.
    pub async fn resume_channels(&self) -> Vec<(ChannelId, Result<(), BuyError>)> {
        let all: Vec<_> = lock(&self.channels.open).iter().map(|(id, open)| (*id, open.clone())).collect();
        let mut outcomes = Vec::new();
        for (id, open) in all {
            outcomes.push((id, self.resume_channel(&open).await));
        }
        outcomes
    }

    async fn resume_channel(&self, open: &Arc<Open>) -> Result<(), BuyError> {
        let action = lock(&open.record).resume(&self.inner.identity, self.inner.network)?;
        let mut next = Vec::new();
        self.after(open, action.into_iter().collect(), &mut next);
        self.carry_out(open, next).await
    }

    /// Asks the seller of an open channel whether it still waits for a block with the funding. What the seller sees of the chain counts, for it is what refuses
    /// orders.
    pub(super) async fn ask_standing(&self, open: &Open) -> Result<(), BuyError> {
        let (seller, channel) = {
            let record = lock(&open.record);
            (record.seller, record.id)
        };
        let question = Request::AskChannel(AskChannel { channel, orders: Vec::new() });
        match self.ask(&seller, &question).await? {
            Response::Ok(Answer::Channel(report)) => open.take_standing(report.standing),
            other => return Err(unexpected(&question, other)),
        }
        Ok(())
    }

    /// Before the first payment after a start: what has been paid, from the seller, proven by our own signature.
    pub(super) async fn learn(&self, open: &Arc<Open>, exposure: Satoshis) -> Result<(), BuyError> {
        let mut learned = open.learned.lock().await;
        if *learned {
            return Ok(());
        }
        let (seller, question) = {
            let record = lock(&open.record);
            (record.seller, record.question())
        };
        let mut exposure = exposure;
        for order in &question.orders {
            exposure = exposure.max(self.inner.store.read(|tx| records::wants(tx, order))?.exposure);
        }
        let request = Request::AskChannel(question.clone());
        let report: ChannelReport = match self.ask(&seller, &request).await? {
            Response::Ok(Answer::Channel(report)) => report,
            other => return Err(unexpected(&request, other)),
        };
        open.take_standing(report.standing);
        let mut asked = Vec::with_capacity(question.orders.len());
        for order in question.orders {
            let due = match self.inner.store.read(|tx| records::purchase(tx, &order))? {
                Some(purchase) => {
                    let terms = purchase.offer.terms(self.inner.network, &seller)?;
                    purchase.due(&terms).map_err(OfferError::from)?
                }
                None => Satoshis::ZERO,
            };
            asked.push((order, due));
        }
        let of = open.clone();
        self.in_turn(open, move |buyer| {
            let mut next = lock(&of.record).clone();
            let restored = buyer.inner.store.read(crate::store::restored::get)?.map(|note| note.restored_ms);
            let unclaimed = next.learn(&asked, &report, exposure, restored, &of.contract)?;
            if !unclaimed.is_zero() {
                tracing::warn!(channel = %next.id, %unclaimed, "was paid by orders that this home does not know: it was restored from an old backup");
            }
            buyer.inner.store.write(|tx| records::put_buyer(tx, &next, false))?;
            *lock(&of.spending) = Spending::new(next.spending.clone());
            *lock(&of.record) = next;
            Ok(())
        })
        .await?;
        *learned = true;
        Ok(())
    }

    /// Works on a channel's records on the blocking pool, one at a time, to the end also where the caller is dropped.
    pub(super) async fn in_turn<T: Send + 'static>(
        &self,
        open: &Arc<Open>,
        work: impl FnOnce(&Self) -> Result<T, BuyError> + Send + 'static,
    ) -> Result<T, BuyError> {
        let turn = open.turn.clone().lock_owned().await;
        self.blocking(move |buyer| {
            let _turn = turn;
            work(buyer)
        })
        .await
    }

    /// Reserves what an order may cost; on disk, with whatever `f` stores, before the reservation exists. In turn.
    pub(super) fn reserve(
        &self,
        open: &Open,
        order: OrderId,
        amount: Satoshis,
        f: impl FnOnce(&redb::WriteTransaction) -> Result<(), BuyError>,
    ) -> Result<Reservation, BuyError> {
        open.spending().reserve(order, amount, |next| self.store_spending(open, next, f))
    }

    /// Stores what orders have been promised and have paid, with whatever `f` stores. In turn.
    pub(super) fn store_spending(
        &self,
        open: &Open,
        spending: &SpendingRecord,
        f: impl FnOnce(&redb::WriteTransaction) -> Result<(), BuyError>,
    ) -> Result<(), BuyError> {
        let mut next = lock(&open.record).clone();
        next.spending = spending.clone();
        self.inner.store.write(|tx| {
            f(tx)?;
            records::put_buyer(tx, &next, false)?;
            Ok::<_, BuyError>(())
        })?;
        *lock(&open.record) = next;
        Ok(())
    }

    async fn channel_event(
        &self,
        open: &Arc<Open>,
        event: BuyerChannelEvent,
        path: Option<(Of, MerklePath)>,
    ) -> Result<(), BuyError> {
        let of = open.clone();
        let next = self.in_turn(open, move |buyer| buyer.take_channel_event(&of, event, path)).await?;
        self.carry_out(open, next).await
    }

    /// Gives an event to a channel and stores what it makes of it. In turn.
    fn take_channel_event(
        &self,
        open: &Arc<Open>,
        event: BuyerChannelEvent,
        path: Option<(Of, MerklePath)>,
    ) -> Result<Vec<Next>, BuyError> {
        let BuyerParts { wallet, identity, network, clock, .. } = &*self.inner;
        let mut next = lock(&open.record).clone();
        let before = next.state.clone();
        next.spending = open.spending().record();
        let actions = next.handle(event, identity, *network)?;
        let settled = self.is_settled(&next);
        let mut steps = Vec::new();
        // At most ticks of the chain nothing changes, and then nothing is written.
        if actions.is_empty() && next.state == before && !settled {
            return Ok(steps);
        }
        let (id, seller) = (next.id, next.seller);
        wallet.update(|wallet, tx| {
            for action in &actions {
                match action {
                    BuyerChannelAction::FundingTaken(txid) => {
                        wallet.mark_broadcast(txid).map_err(WalletHandleError::from)?;
                    }
                    BuyerChannelAction::Credit { transaction, .. } => {
                        let key = ChannelKeys::payout_source(&id, &seller);
                        let script = key.locking_script(identity.key());
                        let at = transaction.outputs.iter().position(|output| output.locking == script);
                        let Some(vout) = at.and_then(|at| u32::try_from(at).ok()) else { continue };
                        if crate::store::wallet::is_archived_in(tx, &transaction.txid())? {
                            continue;
                        }
                        let label = format!("channel {id}, what was not paid");
                        let received = Received {
                            tx: (**transaction).clone(),
                            outputs: vec![OwnedOutput { vout, key, purpose: Purpose::Reclaimed }],
                            ancestors: None,
                            path: path.as_ref().map(|(_, path)| path.clone()),
                            broadcast: true,
                            label,
                            now_ms: clock.now_ms(),
                        };
                        wallet.receive(identity.key(), received).map_err(WalletHandleError::from)?;
                    }
                    _ => {}
                }
            }
            if let Some((of, path)) = &path {
                records::put_block(tx, &id, *of, &block_of(path))?;
            }
            records::put_buyer(tx, &next, settled)?;
            Ok::<_, BuyError>(())
        })?;
        *lock(&open.record) = next;
        open.changed.send_modify(|times| *times = times.wrapping_add(1));
        if settled {
            lock(&self.channels.open).remove(&id);
        }
        self.after(open, actions, &mut steps);
        Ok(steps)
    }

    fn is_settled(&self, record: &BuyerChannel) -> bool {
        match record.state {
            BuyerChannelState::Ended { height, .. } => {
                self.inner.chain.headers().tip_height() >= height.saturating_add(BURIED)
            }
            _ => false,
        }
    }

    /// What follows a stored change.
    fn after(&self, open: &Open, actions: Vec<BuyerChannelAction>, next: &mut Vec<Next>) {
        for action in actions {
            match action {
                BuyerChannelAction::Open(request) => {
                    next.push(Next::Ask(Box::new(Request::OpenChannel(*request))));
                }
                BuyerChannelAction::Close(request) => {
                    next.push(Next::Ask(Box::new(Request::CloseChannel(request))));
                }
                BuyerChannelAction::TakeBack(_) => next.push(Next::TakeBack),
                BuyerChannelAction::BroadcastRefund(refund) => next.push(Next::Refund(refund)),
                BuyerChannelAction::Overcharged { taken, paid } => {
                    tracing::warn!(channel = %lock(&open.record).id, %taken, %paid, "a seller has taken more out of a channel than orders have paid by their receipts");
                }
                BuyerChannelAction::FundingTaken(_)
                | BuyerChannelAction::Credit { .. }
                | BuyerChannelAction::Uncredit(_) => {}
            }
        }
    }

    async fn carry_out(&self, open: &Arc<Open>, next: Vec<Next>) -> Result<(), BuyError> {
        for step in next {
            match step {
                Next::Ask(request) => {
                    let (seller, funding) = {
                        let record = lock(&open.record);
                        (record.seller, record.funding.txid)
                    };
                    if let Request::OpenChannel(_) = &*request {
                        self.inner.wallet.may_go_out(&funding)?;
                    }
                    let event = match self.ask(&seller, &request).await? {
                        Response::Ok(Answer::Channel(report)) => {
                            open.take_standing(report.standing);
                            BuyerChannelEvent::Report(report)
                        }
                        Response::Refused(refusal) => BuyerChannelEvent::Refused(refusal),
                        other => return Err(unexpected(&request, other)),
                    };
                    let refusal = match &event {
                        BuyerChannelEvent::Refused(refusal) => Some(refusal.clone()),
                        _ => None,
                    };
                    let followed = Box::pin(self.channel_event(open, event, None)).await;
                    if let Some(refusal) = refusal {
                        // What follows from it may fail, too, and is tried again; the refusal is why.
                        if let Err(error) = followed {
                            tracing::warn!(channel = %lock(&open.record).id, %error, "what follows from a refusal waits");
                        }
                        return Err(BuyError::Refused(refusal));
                    }
                    followed?;
                }
                Next::TakeBack => self.take_back_funding(open).await?,
                Next::Refund(refund) => {
                    let funding = lock(&open.record).funding.beef.clone();
                    match send_spend(&self.inner.chain, &funding, &refund).await {
                        Ok(()) => {
                            tracing::info!(channel = %lock(&open.record).id, txid = %refund.txid(), "a channel's refund is out");
                        }
                        Err(error @ BroadcastError::Rejected { .. }) => {
                            tracing::warn!(channel = %lock(&open.record).id, %error, "a channel's refund is not taken");
                        }
                        Err(error) => {
                            tracing::debug!(channel = %lock(&open.record).id, %error, "a channel's refund goes out again with the next block");
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn take_back_funding(&self, open: &Arc<Open>) -> Result<(), BuyError> {
        let txid = lock(&open.record).funding.txid;
        let wallet = &self.inner.wallet;
        let event = match wallet.take_back(&txid).await {
            Ok(_) => BuyerChannelEvent::TakenBack,
            Err(error @ WalletHandleError::Rejected { .. }) => match wallet.fate(&txid).await? {
                Fate::Taken => BuyerChannelEvent::NotTakenBack,
                Fate::Impossible => BuyerChannelEvent::TakenBack,
                Fate::Open => return Err(error.into()),
            },
            Err(error) => match wallet.status(&txid) {
                Some(status) if status.is_dead() => BuyerChannelEvent::TakenBack,
                Some(status) if status.is_settled() => BuyerChannelEvent::NotTakenBack,
                _ => return Err(error.into()),
            },
        };
        Box::pin(self.channel_event(open, event, None)).await
    }
}
