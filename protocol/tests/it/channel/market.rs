//! Both parties of one channel, the messages between them, and the chain.

use std::collections::{BTreeMap, BTreeSet};

use sensora_chain::beef::Beef;
use sensora_chain::contract::RefundHeight;
use sensora_chain::contract::channel::{Channel, ChannelSpend};
use sensora_chain::header::HeaderView as _;
use sensora_chain::{FeeRate, OutPoint, Satoshis, TxOut};
use sensora_protocol::market::channel::buyer::{
    BuyerChannel, BuyerChannelAction, BuyerChannelEvent, BuyerChannelState,
};
use sensora_protocol::market::channel::earning::EarningError;
use sensora_protocol::market::channel::message::{ChannelReport, CloseChannel, OpenChannel};
use sensora_protocol::market::channel::offer::{ChannelKeys, ChannelLimits, ChannelOffer, MIN_MARGIN};
use sensora_protocol::market::channel::seller::{
    BookError, Loss, SellerChannel, SellerChannelAction, SellerChannelEvent, SellerChannelState,
};
use sensora_protocol::market::channel::spending::{Spending, SpendingError};
use sensora_protocol::market::delivery::frame::OrderVoucher;
use sensora_protocol::market::purchase::SignedPayment;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::{OrderId, Signed};

use super::chain::{Chain, Refused};
use crate::world::{NETWORK, NOW_MS, World, beef, sat};

pub(crate) const VALUE: u64 = 10_000;
pub(crate) const FEE: u64 = 40;
pub(crate) const CAPACITY: u64 = VALUE - FEE;
/// Blocks from the opening to the refund height.
pub(crate) const BLOCKS: u32 = 60;

/// What goes from one to the other.
#[derive(Debug, Clone)]
pub(crate) enum ToSeller {
    Open(Box<OpenChannel>),
    Close(CloseChannel),
    Voucher(OrderId, OrderVoucher),
    Ask(Vec<OrderId>),
}

#[derive(Debug, Clone)]
pub(crate) enum ToBuyer {
    Report(ChannelReport),
    Learned(Vec<OrderId>, ChannelReport),
    Refused(Refusal),
}

#[derive(Clone)]
pub(crate) struct BuyerSide {
    pub(crate) channel: BuyerChannel,
    /// What our part of a mined close or refund brought.
    pub(crate) credited: Satoshis,
}

#[derive(Clone, Default)]
pub(crate) struct SellerSide {
    pub(crate) channel: Option<SellerChannel>,
    pub(crate) credited: Satoshis,
    /// What orders that have ended have paid by its receipts.
    pub(crate) receipts: BTreeMap<OrderId, Satoshis>,
    /// The least that it must get: the highest voucher of those that it took, counted beside its record.
    pub(crate) sure: Satoshis,
}

pub(crate) struct Market {
    pub(crate) world: World,
    pub(crate) offer: Signed<ChannelOffer>,
    pub(crate) contract: Channel,
    pub(crate) chain: Chain,
    pub(crate) take_back: sensora_chain::Transaction,
    pub(crate) buyer: BuyerSide,
    pub(crate) spending: Spending,
    pub(crate) seller: SellerSide,
    /// Old backups of either.
    pub(crate) backups: (BuyerSide, SellerSide),
    pub(crate) to_seller: Vec<ToSeller>,
    pub(crate) to_buyer: Vec<ToBuyer>,
    pub(crate) alarms: Vec<Loss>,
    /// What the seller took beyond what orders have paid, as the buyer is told.
    pub(crate) overcharged: Satoshis,
    /// The most that each order's vouchers have paid: a crash of the buyer may forget one that is still under way.
    pub(crate) paid_to: BTreeMap<OrderId, Satoshis>,
    /// What orders have paid by their receipts, whoever has forgotten them.
    pub(crate) receipts: BTreeMap<OrderId, Satoshis>,
    /// Orders that run once more in an old backup of either side, though they have ended.
    pub(crate) reopened: BTreeSet<OrderId>,
    /// The seller's record was replaced by an older one.
    pub(crate) seller_restored: bool,
    /// The least that a close of the seller's pays which was out already when it was forgotten.
    pub(crate) forgotten_close: Option<Satoshis>,
    /// The buyer's record was replaced by an older one.
    pub(crate) restored: bool,
    /// When, the last time.
    pub(crate) restored_ms: i64,
    /// The buyer has started again and not heard from the seller yet: it does not pay before.
    pub(crate) asks: bool,
    /// The order that is paid: another one after an old backup, which may not know it.
    pub(crate) order: OrderId,
    /// The highest voucher that was ever signed.
    pub(crate) signed: Satoshis,
}

pub(crate) const ORDER: OrderId = OrderId([0x0d; 32]);

pub(crate) fn offer(world: &World, tip: u32) -> ChannelOffer {
    ChannelOffer {
        buyer: *world.buyer.public(),
        value: sat(VALUE),
        refund_height: RefundHeight::new(tip + BLOCKS).unwrap(),
        margin: MIN_MARGIN,
        close_fee: sat(FEE),
        when_mined: false,
        nonce: [6; 16],
        issued_ms: NOW_MS,
        expires_ms: NOW_MS + 600_000,
    }
}

pub(crate) fn limits() -> ChannelLimits {
    ChannelLimits { max_value: sat(VALUE), max_blocks: BLOCKS, max_close_fee: sat(FEE) }
}

impl Market {
    pub(crate) fn new() -> Self {
        let mut world = World::new(1);
        let coin = world.coin(VALUE + 5_000);
        let tip = world.chain.headers.tip_height();
        let offer = Signed::sign(offer(&world, tip), &world.seller, NETWORK).unwrap();
        ChannelOffer::accept(&offer, NETWORK, world.buyer.key(), sat(VALUE), limits(), tip, NOW_MS).unwrap();
        let id = offer.channel_id(NETWORK);
        let keys = ChannelKeys::for_buyer(&id, world.buyer.key(), world.seller.public());
        assert_eq!(keys, ChannelKeys::for_seller(&id, world.seller.key(), world.buyer.public()));
        let back = TxOut { value: sat(4_900), locking: coin.transaction.outputs[0].locking.clone() };
        let locking = offer.value().locking(&keys);
        let funding = world.spend(&coin, vec![TxOut { value: sat(VALUE), locking }, back]);
        let all_back =
            TxOut { value: sat(VALUE + 4_900), locking: coin.transaction.outputs[0].locking.clone() };
        let take_back = world.spend(&coin, vec![all_back]);
        let mut chain = Chain::new(tip);
        chain.give(OutPoint { txid: coin.transaction.txid(), vout: 0 }, coin.transaction.outputs[0].clone());
        let payment = SignedPayment { txid: funding.txid(), beef: beef(&coin, &funding) };
        let channel = BuyerChannel::new(&offer, payment, 0, NETWORK, NOW_MS);
        let (_, contract) = channel.contract(&world.buyer, NETWORK).unwrap();
        let spending = Spending::new(channel.spending.clone());
        let buyer = BuyerSide { channel, credited: Satoshis::ZERO };
        let mut market = Self {
            backups: (buyer.clone(), SellerSide::default()),
            seller: SellerSide::default(),
            to_seller: Vec::new(),
            to_buyer: Vec::new(),
            alarms: Vec::new(),
            overcharged: Satoshis::ZERO,
            paid_to: BTreeMap::new(),
            receipts: BTreeMap::new(),
            reopened: BTreeSet::new(),
            seller_restored: false,
            forgotten_close: None,
            restored: false,
            restored_ms: NOW_MS,
            asks: false,
            order: ORDER,
            signed: Satoshis::ZERO,
            world,
            offer,
            contract,
            chain,
            take_back,
            buyer,
            spending,
        };
        market.resume_buyer();
        market
    }

    pub(crate) fn resume_buyer(&mut self) {
        let action = self.buyer.channel.resume(&self.world.buyer, NETWORK).unwrap();
        self.follow_buyer(action.into_iter().collect());
    }

    pub(crate) fn buyer_event(&mut self, event: BuyerChannelEvent) {
        self.buyer.channel.spending = self.spending.record();
        let actions = self.buyer.channel.handle(event, &self.world.buyer, NETWORK).unwrap();
        self.follow_buyer(actions);
    }

    pub(crate) fn follow_buyer(&mut self, actions: Vec<BuyerChannelAction>) {
        for action in actions {
            match action {
                BuyerChannelAction::Open(open) => self.to_seller.push(ToSeller::Open(open)),
                BuyerChannelAction::Close(close) => {
                    self.signed = self.signed.max(close.paid);
                    self.to_seller.push(ToSeller::Close(close));
                }
                BuyerChannelAction::TakeBack(_) => {
                    let taken = self.chain.submit(&self.take_back.clone()).is_ok();
                    self.buyer_event(if taken {
                        BuyerChannelEvent::TakenBack
                    } else {
                        BuyerChannelEvent::NotTakenBack
                    });
                }
                BuyerChannelAction::FundingTaken(_) => {}
                BuyerChannelAction::BroadcastRefund(refund) => {
                    // It goes out with its funding, which a reorganisation may have lost, and the seller forgotten.
                    let beef = Beef::parse(&self.buyer.channel.funding.beef, &Default::default()).unwrap();
                    let txid = self.buyer.channel.funding.txid;
                    drop(self.chain.submit(beef.transaction(&txid).unwrap()));
                    match self.chain.submit(&refund) {
                        Ok(()) | Err(Refused::DoubleSpent) => {}
                        Err(other) => panic!("the refund is not taken: {other:?}"),
                    }
                }
                BuyerChannelAction::Credit { transaction, .. } => {
                    let rest = &self.contract.close_terms().buyer_hash;
                    let ours = transaction
                        .outputs
                        .iter()
                        .filter(|output| output.locking.p2pkh_hash().as_ref() == Some(rest));
                    self.buyer.credited = Satoshis::sum(ours.map(|output| output.value)).unwrap();
                }
                BuyerChannelAction::Uncredit(_) => self.buyer.credited = Satoshis::ZERO,
                BuyerChannelAction::Overcharged { taken, paid } => {
                    self.overcharged = taken.checked_sub(paid).unwrap();
                }
            }
        }
    }

    pub(crate) fn seller_event(&mut self, event: SellerChannelEvent) {
        let Some(channel) = self.seller.channel.as_mut() else { return };
        let actions = channel.handle(event, &self.world.seller, NETWORK).unwrap();
        self.follow_seller(actions);
    }

    /// The seller's owner wants something; that it cannot be done is said to nobody else.
    fn owner_asks(&mut self, wish: SellerChannelEvent) {
        let Some(channel) = self.seller.channel.as_mut() else { return };
        let mut actions = channel.handle(wish, &self.world.seller, NETWORK).unwrap();
        actions.retain(|action| !matches!(action, SellerChannelAction::Refuse(_)));
        self.follow_seller(actions);
    }

    pub(crate) fn report(&self, orders: &[OrderId]) -> ChannelReport {
        let channel = self.seller.channel.as_ref().unwrap();
        let paid = |order| self.seller.receipts.get(order).copied().unwrap_or(channel.earning.paid_by(order));
        let paid = orders.iter().map(paid).collect();
        channel.report(channel.standing(self.offer.value(), self.chain.tip()), paid)
    }

    pub(crate) fn follow_seller(&mut self, actions: Vec<SellerChannelAction>) {
        for action in actions {
            match action {
                SellerChannelAction::BroadcastFunding => {
                    let beef = self.seller.channel.as_ref().unwrap().funding.clone();
                    let funding = Beef::parse(&beef, &Default::default()).unwrap();
                    let txid = funding.subject().unwrap();
                    let event = match self.chain.submit(funding.transaction(&txid).unwrap()) {
                        Ok(()) => SellerChannelEvent::Accepted,
                        Err(refused) => SellerChannelEvent::Rejected {
                            double_spent: refused == Refused::DoubleSpent,
                            reason: "refused".into(),
                        },
                    };
                    self.seller_event(event);
                }
                SellerChannelAction::BroadcastClose(close) => match self.chain.submit(&close) {
                    // The funding may be out of the chain for the moment, or the refund was first.
                    Ok(()) | Err(Refused::DoubleSpent) => {}
                    Err(other) => panic!("the close is not taken: {other:?}"),
                },
                SellerChannelAction::Report => {
                    let report = self.report(&[]);
                    self.to_buyer.push(ToBuyer::Report(report));
                }
                SellerChannelAction::Refuse(refusal) => self.to_buyer.push(ToBuyer::Refused(refusal)),
                SellerChannelAction::Forget => self.seller.channel = None,
                SellerChannelAction::Credit { transaction, paid, .. } => {
                    let ours = &self.contract.close_terms().seller_hash;
                    assert_eq!(transaction.outputs[0].locking.p2pkh_hash().as_ref(), Some(ours));
                    self.seller.credited = paid;
                }
                SellerChannelAction::Uncredit(_) => self.seller.credited = Satoshis::ZERO,
                SellerChannelAction::Alarm(loss) => self.alarms.push(loss),
            }
        }
    }

    pub(crate) fn deliver_to_seller(&mut self, message: ToSeller) {
        match message {
            ToSeller::Open(open) => {
                if self.seller.channel.is_none() {
                    match SellerChannel::admit(*open, &self.world.admission()) {
                        Ok(channel) => self.seller.channel = Some(channel),
                        Err(refusal) => return self.to_buyer.push(ToBuyer::Refused(refusal)),
                    }
                }
                let channel = self.seller.channel.as_mut().unwrap();
                let actions = channel.resume(&self.world.seller, NETWORK).unwrap();
                if actions.is_empty() {
                    let report = self.report(&[]);
                    self.to_buyer.push(ToBuyer::Report(report));
                }
                self.follow_seller(actions);
                if self.seller_restored {
                    // What is admitted once more may have come to its end meanwhile.
                    self.look_as_seller();
                }
            }
            ToSeller::Close(close) => {
                if let Some(channel) = &self.seller.channel {
                    // The buyer has back what it paid ahead, and a seller that did not know its highest voucher has it here. Once a close is
                    // out it is the one.
                    let first = channel.state == SellerChannelState::Open
                        || channel.state == SellerChannelState::Closing && channel.signature.is_none();
                    if first && close.paid >= channel.earning.paid().unwrap() {
                        self.seller.sure = close.paid;
                    }
                }
                self.seller_event(SellerChannelEvent::CloseAsked(Some(close)));
            }
            ToSeller::Voucher(order, voucher) => self.take_voucher(order, voucher),
            ToSeller::Ask(orders) => {
                if self.seller.channel.is_some() {
                    let report = self.report(&orders);
                    self.to_buyer.push(ToBuyer::Learned(orders, report));
                }
            }
        }
    }

    fn take_voucher(&mut self, order: OrderId, voucher: OrderVoucher) {
        let (tip, stale) = (self.chain.tip(), self.stale());
        let offer = self.offer.value().clone();
        let Some(channel) = self.seller.channel.as_mut() else { return };
        let standing = channel.standing(&offer, tip);
        let runs = channel.earning.lanes.contains_key(&order);
        let taken = if runs { channel.takes_vouchers(standing) } else { channel.view(standing).map(drop) };
        if taken.is_err() || self.seller.receipts.contains_key(&order) {
            return;
        }
        channel.earning.begin(order).unwrap();
        match channel.book(&self.contract, &order, &voucher) {
            Ok(booked) => {
                *channel = booked;
                self.seller.sure = self.seller.sure.max(voucher.amount);
                // I6: near the refund height nothing is taken that its close might come too late for.
                assert!(tip < offer.closes_at(), "a voucher is taken at {tip}");
            }
            Err(BookError::Earning(EarningError::NotHigher { .. }) | BookError::NotOpen) => {}
            // One side counts with orders as if they ran that the other has a receipt for.
            Err(BookError::Earning(EarningError::NotCovered { .. }))
                if self.restored || self.seller_restored || !stale.is_zero() => {}
            Err(error) => panic!("an honest voucher is not taken: {error}"),
        }
    }

    pub(crate) fn deliver_to_buyer(&mut self, message: ToBuyer) {
        match message {
            ToBuyer::Report(report) => self.buyer_event(BuyerChannelEvent::Report(report)),
            ToBuyer::Refused(refusal) => self.buyer_event(BuyerChannelEvent::Refused(refusal)),
            ToBuyer::Learned(orders, report) => {
                let mut channel = self.buyer.channel.clone();
                channel.spending = self.spending.record();
                let orders: Vec<_> = orders.into_iter().map(|order| (order, Satoshis::ZERO)).collect();
                let restored = self.restored.then_some(self.restored_ms);
                match channel.learn(&orders, &report, sat(CAPACITY), restored, &self.contract) {
                    Ok(_) => {
                        self.spending = Spending::new(channel.spending.clone());
                        self.buyer.channel = channel;
                        self.asks = false;
                    }
                    // Vouchers of before an old backup came after the question: both accounts cannot be brought together, but closed.
                    Err(error) => {
                        assert!(self.restored, "{error}");
                        self.buyer_event(BuyerChannelEvent::CloseAsked);
                    }
                }
            }
        }
    }

    /// The buyer starts again with what is stored: what was asked before is lost, and it asks before it pays.
    pub(crate) fn restart_buyer(&mut self) {
        self.spending = Spending::new(self.buyer.channel.spending.clone());
        self.to_buyer.clear();
        self.to_seller.retain(|message| !matches!(message, ToSeller::Ask(_)));
        self.asks = true;
        self.ask();
    }

    pub(crate) fn ask(&mut self) {
        if self.asks {
            self.to_seller.push(ToSeller::Ask(self.buyer.channel.question().orders));
        }
    }

    /// The buyer pays `more` for the order, out of a reservation that is stored first.
    pub(crate) fn pay(&mut self, more: u64) {
        if !self.buyer.channel.is_open() || self.asks {
            return;
        }
        let stored = &mut self.buyer.channel.spending;
        let reserved = self.spending.reserve(self.order, sat(more), |record| {
            *stored = record.clone();
            Ok::<_, SpendingError>(())
        });
        let Ok(mut reservation) = reserved else { return };
        let paid = sat(reservation.paid().as_u64() + more);
        let amount = reservation.pay_to(paid).unwrap();
        drop(reservation);
        self.signed = self.signed.max(amount);
        let most = self.paid_to.entry(self.order).or_default();
        *most = paid.max(*most);
        let signature = self.buyer.channel.sign(&self.contract, amount, &self.world.buyer).unwrap().signature;
        let voucher = OrderVoucher { paid, amount, signature };
        self.to_seller.push(ToSeller::Voucher(self.order, voucher));
    }

    /// The order's stream begins anew: the buyer hears what its vouchers have paid, and sends the newest again where one is missing.
    pub(crate) fn begin_again(&mut self) {
        let lane = self.spending.record().lanes.get(&self.order).copied().unwrap_or_default();
        if !self.buyer.channel.is_open() || self.asks || lane.paid.is_zero() {
            return;
        }
        let (paid, amount) = (lane.paid, self.spending.record().paid().unwrap());
        self.signed = self.signed.max(amount);
        let signature = self.buyer.channel.sign(&self.contract, amount, &self.world.buyer).unwrap().signature;
        self.to_seller.push(ToSeller::Voucher(self.order, OrderVoucher { paid, amount, signature }));
    }

    /// The buyer comes back with an old backup: it knows the orders of then, and begins another one.
    fn restore_buyer(&mut self) {
        self.restored = true;
        self.restored_ms += 1;
        self.buyer = self.backups.0.clone();
        let lanes = self.buyer.channel.spending.lanes.keys();
        self.reopened.extend(lanes.filter(|order| self.receipts.contains_key(*order)));
        self.next_order();
        self.restart_buyer();
    }

    /// The seller comes back with an old backup, which may be older than the channel, and looks at the chain.
    pub(crate) fn restore_seller(&mut self) {
        self.seller_restored = true;
        self.seller = self.backups.1.clone();
        let forgotten = self.receipts.keys().filter(|order| !self.seller.receipts.contains_key(*order));
        self.reopened.extend(forgotten);
        let out = self.chain.spender(&self.contract.outpoint()).and_then(|tx| self.contract.spend_in(tx));
        if let Some(ChannelSpend::Close { paid }) = out {
            self.forgotten_close = Some(self.forgotten_close.map_or(paid, |least| least.min(paid)));
        }
        if let Some(channel) = self.seller.channel.as_mut() {
            let actions = channel.resume(&self.world.seller, NETWORK).unwrap();
            self.follow_seller(actions);
        }
        self.look_as_seller();
    }

    /// The order ends on both sides with a receipt over a part of what it has paid; another one follows.
    pub(crate) fn end_order(&mut self, part: u64) {
        let order = self.order;
        let Some(channel) = self.seller.channel.as_mut().filter(|_| !self.asks) else { return };
        let Some(reservation) = self.spending.take_up(order) else { return };
        let booked = channel.earning.paid_by(&order);
        let receipted = sat(booked.as_u64() / 8 * part.min(8)).min(reservation.paid());
        assert_eq!(channel.earning.end(&order, receipted), Ok(receipted));
        reservation.end(receipted).unwrap();
        self.receipts.insert(order, receipted);
        self.seller.receipts.insert(order, receipted);
        self.buyer.channel.spending = self.spending.record();
        self.next_order();
    }

    fn next_order(&mut self) {
        let OrderId(mut order) = self.order;
        order[0] = order[0].wrapping_add(1);
        self.order = OrderId(order);
    }

    /// Both look at the chain.
    pub(crate) fn look(&mut self) {
        self.look_as_seller();
        self.look_as_buyer();
    }

    pub(crate) fn look_as_seller(&mut self) {
        let outpoint = self.contract.outpoint();
        let (tip, funded) = (self.chain.tip(), self.chain.height_of(&outpoint.txid));
        let spent = self.chain.spent(&outpoint);
        if let Some(channel) = &self.seller.channel {
            let (mined, state) = (channel.mined, channel.state.clone());
            let seen = match state {
                SellerChannelState::Closed { txid, height } => Some((txid, height)),
                SellerChannelState::Gone { reason: Loss::Refunded(txid) | Loss::Spent(txid) } => {
                    Some((txid, 0))
                }
                _ => None,
            };
            if let Some((txid, height)) = seen
                && !spent.as_ref().is_some_and(|(tx, at)| tx.txid() == txid && (height == 0 || *at == height))
            {
                self.seller_event(SellerChannelEvent::Unspent);
            }
            if mined != funded {
                self.seller_event(SellerChannelEvent::Mined(funded));
            }
            if let Some((tx, height)) = spent {
                self.seller_event(SellerChannelEvent::Spent { transaction: Box::new(tx), height });
            }
            self.seller_event(SellerChannelEvent::Tip(tip));
            // What its owner wants ended is not open for longer than its last orders may take.
            let ends = self.seller.channel.as_ref().is_some_and(|channel| channel.has_ended(tip));
            assert!(!ends, "open at {tip}, and was to end");
        }
    }

    fn look_as_buyer(&mut self) {
        let outpoint = self.contract.outpoint();
        let (tip, funded) = (self.chain.tip(), self.chain.height_of(&outpoint.txid));
        let spent = self.chain.spent(&outpoint);
        if let BuyerChannelState::Ended { txid, height, .. } = self.buyer.channel.state
            && !spent.as_ref().is_some_and(|(tx, at)| tx.txid() == txid && *at == height)
        {
            self.buyer_event(BuyerChannelEvent::Unspent);
        }
        if let BuyerChannelState::TakenBack { .. } = self.buyer.channel.state {
            // The wallet sends its own again until it is in a block.
            drop(self.chain.submit(&self.take_back.clone()));
            if funded.is_some() {
                self.buyer_event(BuyerChannelEvent::Mined);
            }
        }
        if let Some((tx, height)) = spent {
            self.buyer_event(BuyerChannelEvent::Spent { transaction: Box::new(tx), height });
        }
        let rate = FeeRate::new(100);
        self.buyer_event(BuyerChannelEvent::Tip { height: tip, rate });
    }

    pub(crate) fn act(&mut self, byte: u8) {
        crate::world::count_action();
        let pick = usize::from(byte / 20);
        match byte % 20 {
            0..=2 if !self.to_seller.is_empty() => {
                let message = self.to_seller.remove(pick % self.to_seller.len());
                self.deliver_to_seller(message);
            }
            3..=5 if !self.to_buyer.is_empty() => {
                let message = self.to_buyer.remove(pick % self.to_buyer.len());
                self.deliver_to_buyer(message);
            }
            6 => drop(self.to_seller.pop()),
            7 => drop(self.to_buyer.pop()),
            8 => self.to_seller.extend(self.to_seller.last().cloned()),
            9 | 10 => self.pay(u64::from(byte) * 7),
            11 => {
                self.chain.mine();
                self.look();
            }
            12 => {
                self.chain.reorganise(1 + pick % 6, byte.is_multiple_of(2));
                self.look();
            }
            13 => {
                // The buyer crashes, comes back with what is stored, and asks before it pays.
                self.restart_buyer();
                self.resume_buyer();
            }
            14 => {
                if let Some(channel) = self.seller.channel.as_mut() {
                    let actions = channel.resume(&self.world.seller, NETWORK).unwrap();
                    self.follow_seller(actions);
                }
            }
            15 if pick == 5 => self.begin_again(),
            15 if pick == 3 => self.buyer_event(BuyerChannelEvent::CloseAsked),
            16 if pick == 3 => self.seller_event(SellerChannelEvent::CloseAsked(None)),
            16 if pick == 4 => self.owner_asks(SellerChannelEvent::EndAsked(self.chain.tip())),
            16 if pick == 5 => self.owner_asks(SellerChannelEvent::EndOrder(self.order)),
            16 if pick > 6 => self.end_order(pick as u64 - 7),
            17 if pick == 3 => self.buyer_event(BuyerChannelEvent::GiveUp),
            18 => self.backups = (self.buyer.clone(), self.seller.clone()),
            19 if pick < 2 && self.backups.0.channel.state == self.buyer.channel.state => {
                self.restore_buyer();
            }
            19 if pick == 2 || pick == 3 => {
                self.restore_seller();
                if pick == 3 {
                    self.begin_again();
                }
            }
            _ => {
                self.ask();
                self.look();
            }
        }
        self.check();
    }

    /// Everything works from here on, until long after the refund height.
    pub(crate) fn end(&mut self) {
        for _ in 0..u32::from(u8::MAX) {
            while let Some(message) = self.to_seller.pop() {
                self.deliver_to_seller(message);
            }
            while let Some(message) = self.to_buyer.pop() {
                self.deliver_to_buyer(message);
            }
            self.resume_buyer();
            self.chain.mine();
            self.look();
            let done = self.buyer.channel.state.is_final()
                && self.seller.channel.as_ref().is_none_or(|channel| channel.state.is_final());
            if done && self.chain.tip() > self.offer.value().refund_height.get() + 8 {
                return;
            }
        }
        panic!("{:?}, {:?}", self.buyer.channel.state, self.seller.channel.as_ref().map(|c| &c.state));
    }
}
