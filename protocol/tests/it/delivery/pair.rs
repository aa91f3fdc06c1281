//! A buyer and a seller with one order on one channel, and a network between them that does as it is told.

use std::collections::VecDeque;

use sensora_chain::contract::channel::{Channel, ChannelTerms, CloseTerms, Voucher};
use sensora_chain::contract::height_lock::RefundHeight;
use sensora_chain::{OutPoint, Satoshis, Txid};
use sensora_protocol::market::channel::earning::Earning;
use sensora_protocol::market::channel::spending::{
    Claim, Reservation, Spending, SpendingError, SpendingRecord,
};
use sensora_protocol::market::delivery::Page;
use sensora_protocol::market::delivery::frame::{OrderVoucher, ToBuyer, ToSeller};
use sensora_protocol::market::delivery::meter::Meter;
use sensora_protocol::market::delivery::receive::{
    ChannelPurchase, ChannelPurchaseState, Receive, ReceiveAction, ReceiveError, ReceiveEvent,
};
use sensora_protocol::market::delivery::supply::{
    ChannelSale, ChannelSaleState, ChannelView, LOOK_AHEAD, Supply, SupplyAction, SupplyAdmission,
    SupplyEvent,
};
use sensora_protocol::market::delivery::terms::{Offered, Terms};
use sensora_protocol::market::delivery::trail::LivePages;
use sensora_protocol::market::exposure::{Interval, Stakes};
use sensora_protocol::market::live::{LiveOffer, LiveQuestion};
use sensora_protocol::market::message::LiveFrom;
use sensora_protocol::market::price::{Price, Tariff};
use sensora_protocol::market::receipt::ChannelReceipt;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::{ChannelId, Signed};

use crate::world::{NETWORK, World, sat};

pub(crate) const CAPACITY: u64 = 1_000;
pub(crate) const READINGS: u64 = 64;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Goods {
    Range { first: u64, count: u64 },
    Live { first: u64, tariff: Tariff, budget: u64 },
}

#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) goods: Goods,
    pub(crate) buyer_limit: u64,
    pub(crate) seller_limit: u64,
    pub(crate) msat: u64,
    /// Readings that are there in the beginning.
    pub(crate) size: u64,
    /// What a range may cost, where that is not its price.
    pub(crate) budget: Option<u64>,
    /// Whether actions may also close the channel, or give the order up.
    pub(crate) endings: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let goods = Goods::Range { first: 0, count: 10 };
        Self {
            goods,
            buyer_limit: 8,
            seller_limit: 8,
            msat: 1_500,
            size: READINGS,
            budget: None,
            endings: false,
        }
    }
}

/// What a side has on disk.
#[derive(Clone)]
struct BuyerDisk {
    purchase: ChannelPurchase,
    spending: SpendingRecord,
    /// Sequence number after the last reading that is kept.
    kept: u64,
}

#[derive(Clone)]
struct SellerDisk {
    sale: Option<ChannelSale>,
    earning: Earning,
}

pub(crate) struct Pair {
    setup: Setup,
    world: World,
    terms: Terms,
    channel: Channel,
    size: u64,
    buyer_disk: BuyerDisk,
    seller_disk: SellerDisk,
    spending: Spending,
    reservation: Option<Reservation>,
    receive: Receive,
    buyer_stakes: Stakes,
    supply: Option<Supply>,
    seller_stakes: Stakes,
    earning: Earning,
    /// How many time stamps the seller's store answers at a time.
    answers: usize,
    /// The buyer's clock.
    pub(crate) clock_ms: i64,
    /// What the seller has said of a live stream on this connection.
    pages: LivePages,
    connected: bool,
    /// Whether the channel takes nothing any more, as the seller and the buyer know.
    closed: (bool, bool),
    /// Whether no test has spoken in the seller's place.
    pub(crate) honest: bool,
    /// Whether the seller gives credit.
    trusted: bool,
    pub(crate) to_seller: VecDeque<ToSeller>,
    pub(crate) to_buyer: VecDeque<ToBuyer>,
    pub(crate) errors: Vec<ReceiveError>,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) vouchers: u64,
    /// Sequence number after the last reading that ever went out.
    sent: u64,
    /// The most that the order has paid with any voucher that was ever signed.
    signed: Satoshis,
}

pub(crate) fn channel_id() -> ChannelId {
    ChannelId([9; 32])
}

pub(crate) fn funded(world: &World) -> Channel {
    let terms = ChannelTerms {
        buyer: *world.buyer.public(),
        seller: *world.seller.public(),
        refund_height: RefundHeight::new(500).unwrap(),
    };
    let close = CloseTerms { seller_hash: [1; 20], buyer_hash: [2; 20], fee: sat(40) };
    Channel::new(terms, close, OutPoint { txid: Txid([7; 32]), vout: 0 }, sat(CAPACITY + 40)).unwrap()
}

/// An offer of these goods, and what its order may cost: a range what its price is, unless `budget` says less.
pub(crate) fn offered(world: &World, goods: Goods, msat: u64, budget: Option<u64>) -> (Offered, Satoshis) {
    match goods {
        Goods::Range { first, count } => {
            let price = Price::from_msat(msat).unwrap();
            let total = price.total(count).unwrap();
            let offer = sensora_protocol::market::offer::Offer { price, total, ..world.offer(first, count) };
            (Offered::Range(world.sign(offer).into_bytes()), budget.map_or(total, sat))
        }
        Goods::Live { first, tariff, budget } => {
            let offer = LiveOffer {
                stream: world.stream.id,
                name: world.stream.name.clone(),
                schema: world.stream.schema.clone(),
                buyer: *world.buyer.public(),
                first,
                tariff,
                licence: "CC-BY-4.0".into(),
                nonce: [4; 16],
                issued_ms: world.now_ms,
                expires_ms: world.now_ms + 600_000,
            };
            let signed = Signed::sign(offer, &world.seller, NETWORK).unwrap();
            let asked = LiveQuestion {
                stream: world.stream.id,
                from: LiveFrom::Seq(first),
                known_size: 0,
                max_reading: None,
                max_second: Some(Price::MAX),
            };
            LiveOffer::accept(&signed, NETWORK, world.buyer.public(), &asked, None, world.now_ms).unwrap();
            (Offered::Live(signed.into_bytes()), sat(budget))
        }
    }
}

impl Pair {
    pub(crate) fn new(setup: Setup) -> Self {
        let world = World::uneven(READINGS);
        let (offer, budget) = offered(&world, setup.goods, setup.msat, setup.budget);
        let (purchase, terms) = ChannelPurchase::agree(
            offer,
            world.seller.public(),
            channel_id(),
            budget,
            [5; 16],
            &world.buyer,
            NETWORK,
            world.now_ms,
        )
        .unwrap();
        let channel = funded(&world);
        let earning = Earning::new(channel.capacity());
        let spending = Spending::new(SpendingRecord::new(channel.capacity()));
        let mut stored = spending.record();
        let reservation = spending
            .reserve(purchase.id, purchase.budget, |record| {
                stored = record.clone();
                Ok::<_, SpendingError>(())
            })
            .unwrap();
        let receive = Receive::new(purchase.clone(), terms.clone(), buyer_interval(&setup, &terms));
        Self {
            size: setup.size,
            buyer_disk: BuyerDisk { purchase, spending: stored, kept: terms.first },
            seller_disk: SellerDisk { sale: None, earning: earning.clone() },
            spending,
            reservation: Some(reservation),
            receive,
            buyer_stakes: Stakes::new(sat(setup.buyer_limit)),
            supply: None,
            seller_stakes: Stakes::new(sat(setup.seller_limit)),
            earning,
            answers: 5,
            clock_ms: world.now_ms,
            pages: LivePages::new(),
            connected: false,
            closed: (false, false),
            honest: true,
            trusted: true,
            to_seller: VecDeque::new(),
            to_buyer: VecDeque::new(),
            errors: Vec::new(),
            refusals: Vec::new(),
            vouchers: 0,
            sent: terms.first,
            signed: Satoshis::ZERO,
            setup,
            world,
            terms,
            channel,
        }
    }

    pub(crate) fn purchase(&self) -> &ChannelPurchase {
        &self.buyer_disk.purchase
    }

    pub(crate) fn sale(&self) -> &ChannelSale {
        self.seller_disk.sale.as_ref().unwrap()
    }

    /// Readings that the buyer has.
    pub(crate) fn kept(&self) -> u64 {
        self.buyer_disk.kept - self.terms.first
    }

    pub(crate) fn sent_readings(&self) -> u64 {
        self.sent - self.terms.first
    }

    /// What the seller has a voucher for.
    pub(crate) fn paid(&self) -> Satoshis {
        self.seller_disk.earning.highest
    }

    /// What the order has paid at the seller, or had when it ended.
    pub(crate) fn booked(&self) -> Satoshis {
        self.seller_disk.earning.paid().unwrap()
    }

    /// What the readings before this one cost.
    pub(crate) fn price_of(&self, next: u64) -> Satoshis {
        price_of(&self.world, &self.terms, next)
    }

    pub(crate) fn signed(&self) -> Satoshis {
        self.signed
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// The buyer connects: it learns what the channel has paid, and begins.
    pub(crate) fn start(&mut self) {
        if self.connected || self.buyer_disk.purchase.is_final() {
            return;
        }
        self.to_seller.clear();
        self.to_buyer.clear();
        self.connected = true;
        if self.reservation.is_none() {
            let order = self.receive.purchase().id;
            let mut record = self.buyer_disk.spending.clone();
            let due = self.receive.due().unwrap();
            let claim = Claim { order, paid: self.claim(), due };
            let booked = self.earning.paid().unwrap();
            let limit = sat(self.setup.buyer_limit);
            let unclaimed = record.learn(self.earning.highest, booked, &[claim], limit, true);
            assert_eq!(unclaimed, Ok(Satoshis::ZERO), "nothing is booked to nobody");
            self.spending = Spending::new(record.clone());
            self.buyer_disk.spending = record;
            self.reservation = self.spending.take_up(order);
        }
        let begin = self.receive.start();
        self.follow_buyer(vec![begin]);
    }

    /// What the seller says that the order has paid.
    fn claim(&self) -> Satoshis {
        let order = self.receive.purchase().id;
        let finally = self.seller_disk.sale.as_ref().and_then(|sale| sale.finally_paid(NETWORK));
        finally.unwrap_or_else(|| self.earning.paid_by(&order))
    }

    pub(crate) fn disconnect(&mut self) {
        self.connected = false;
        self.to_seller.clear();
        self.to_buyer.clear();
        self.receive.interrupted();
        self.supply = None;
    }

    pub(crate) fn deliver_to_seller(&mut self) -> bool {
        let Some(frame) = self.to_seller.pop_front() else { return false };
        let frame = ToSeller::from_bytes(&frame.to_bytes().unwrap()).unwrap();
        self.at_seller(frame);
        self.check();
        true
    }

    pub(crate) fn deliver_to_buyer(&mut self) -> bool {
        let Some(frame) = self.to_buyer.pop_front() else { return false };
        let frame = ToBuyer::from_bytes(&frame.to_bytes().unwrap()).unwrap();
        self.buyer_event(ReceiveEvent::Frame(Box::new(frame)));
        self.check();
        true
    }

    pub(crate) fn buyer_event(&mut self, event: ReceiveEvent) {
        let Some(reservation) = self.reservation.as_mut() else { return };
        match self.receive.handle(event, reservation, &mut self.buyer_stakes, NETWORK, self.clock_ms) {
            Ok(actions) => self.follow_buyer(actions),
            Err(error) => {
                self.errors.push(error);
                self.disconnect();
            }
        }
    }

    fn follow_buyer(&mut self, actions: Vec<ReceiveAction>) {
        for action in actions {
            match action {
                ReceiveAction::Keep { page, checkpoint } => {
                    // What is kept shows by itself that it is in the log.
                    let under = checkpoint.map_or_else(
                        || self.terms.checkpoint.clone().unwrap(),
                        |signed| signed.verify::<Checkpoint>(NETWORK).unwrap().value().clone(),
                    );
                    let whole = Page { runs: page.runs.clone(), proof: page.proof.clone() };
                    let first = page.readings[0].seq;
                    assert_eq!(
                        whole.open(&self.terms.schema, &under, first, under.size).as_ref(),
                        Ok(&*page)
                    );
                    assert_eq!(page.readings[0].seq, self.buyer_disk.kept, "no reading is passed over");
                    self.buyer_disk.kept = page.end();
                    self.buyer_disk.purchase = self.receive.purchase().clone();
                }
                ReceiveAction::Store => self.buyer_disk.purchase = self.receive.purchase().clone(),
                ReceiveAction::Voucher { paid, amount } => {
                    self.vouchers += 1;
                    self.signed = self.signed.max(paid);
                    let voucher = self.channel.sign_voucher(amount, self.world.buyer.key()).unwrap();
                    let signature = voucher.signature;
                    self.to_seller.push_back(ToSeller::Voucher(OrderVoucher { paid, amount, signature }));
                }
                ReceiveAction::Send(frame) => self.to_seller.push_back(frame),
                ReceiveAction::End(paid) => {
                    self.buyer_disk.purchase = self.receive.purchase().clone();
                    if let Some(reservation) = self.reservation.take() {
                        reservation.end(paid).unwrap();
                    }
                    self.buyer_disk.spending = self.spending.record();
                }
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusals.push(refusal.clone());
        self.to_buyer.push_back(ToBuyer::Refused(refusal));
        self.supply = None;
    }

    fn at_seller(&mut self, frame: ToSeller) {
        match frame {
            ToSeller::Begin(begin) => {
                let view = ChannelView {
                    id: channel_id(),
                    buyer: *self.world.buyer.public(),
                    free: self.earning.capacity.saturating_sub(self.earning.paid().unwrap()),
                };
                let admission = SupplyAdmission {
                    seller: &self.world.seller,
                    network: NETWORK,
                    peer: self.world.buyer.public(),
                    channel: view,
                    now_ms: self.world.now_ms,
                };
                if self.closed.0 && self.seller_disk.sale.is_none() {
                    return self.refuse(Refusal::ChannelClosed { channel: channel_id() });
                }
                let admitted = match self.seller_disk.sale.clone() {
                    Some(sale) => sale.go_on(&begin, NETWORK, &self.world.seller).map(|terms| (sale, terms)),
                    None => ChannelSale::admit(&begin, &admission),
                };
                let sale = match admitted {
                    Ok((sale, _)) => sale,
                    Err(refusal) => return self.refuse(refusal),
                };
                if !matches!(sale.state, ChannelSaleState::Ended { .. }) {
                    self.earning.begin(sale.order).unwrap();
                }
                let paid = self.earning.paid_by(&sale.order);
                let interval =
                    if self.trusted { seller_interval(&self.setup, &self.terms) } else { Interval::none() };
                let supply = Supply::new(sale, self.terms.clone(), interval, paid, &begin, self.size);
                self.supply = Some(supply);
                self.pages = LivePages::new();
                let now = self.world.now_ms;
                let supply = self.supply.as_mut().unwrap();
                let actions = supply.start(&mut self.seller_stakes, &self.world.seller, NETWORK, now);
                self.follow_seller(actions.unwrap());
            }
            ToSeller::Voucher(voucher) => {
                let Some(order) = self.supply.as_ref().map(|supply| supply.sale().order) else { return };
                if self.supply.as_ref().is_some_and(Supply::is_ended) {
                    return;
                }
                if self.closed.0 {
                    return self.refuse(Refusal::ChannelClosed { channel: channel_id() });
                }
                let signed = Voucher { paid: voucher.amount, signature: voucher.signature };
                let booked = self.earning.with(&order, voucher.paid, voucher.amount);
                match (booked, self.channel.verify_voucher(&signed)) {
                    (Ok(next), Ok(())) => {
                        self.earning = next;
                        self.seller_event(SupplyEvent::Paid(voucher.paid));
                    }
                    (Err(error), _) => self.refuse(Refusal::VoucherInvalid { reason: error.to_string() }),
                    (_, Err(error)) => self.refuse(Refusal::VoucherInvalid { reason: error.to_string() }),
                }
            }
            ToSeller::Pause => self.seller_event(SupplyEvent::Pause),
            ToSeller::Resume => self.seller_event(SupplyEvent::Resume),
            ToSeller::Stop => self.seller_event(SupplyEvent::Stop),
            ToSeller::Alive => {}
        }
    }

    pub(crate) fn seller_event(&mut self, event: SupplyEvent) {
        let Some(supply) = self.supply.as_mut() else { return };
        let now = self.world.now_ms;
        let actions = supply.handle(event, &mut self.seller_stakes, &self.world.seller, NETWORK, now);
        self.follow_seller(actions.unwrap());
    }

    fn store_seller(&mut self) {
        let sale = self.supply.as_ref().map(|supply| supply.sale().clone());
        self.seller_disk = SellerDisk { sale, earning: self.earning.clone() };
    }

    fn follow_seller(&mut self, actions: Vec<SupplyAction>) {
        for action in actions {
            match action {
                SupplyAction::Store => self.store_seller(),
                SupplyAction::Frame(frame) => self.to_buyer.push_back(frame),
                SupplyAction::Send(readings) => {
                    // As much as fits: here three readings in a page.
                    let mut at = readings.start;
                    while at < readings.end {
                        let mut to = (at + 3).min(readings.end);
                        let stream = &self.world.stream;
                        let frame = match self.terms.end {
                            Some(_) => ToBuyer::Page(stream.page(at, to, READINGS)),
                            None => {
                                let newest = || stream.checkpoint(&self.world.seller, self.size);
                                let checkpoint = self.pages.checkpoint(at).cloned().unwrap_or_else(newest);
                                to = to.min(checkpoint.value().size);
                                let page = stream.page(at, to, checkpoint.value().size);
                                self.pages.frame(&checkpoint, page)
                            }
                        };
                        self.to_buyer.push_back(frame);
                        at = to;
                    }
                    self.sent = self.sent.max(readings.end);
                    self.seller_event(SupplyEvent::Sent(readings.end));
                }
                SupplyAction::Times(readings) => {
                    assert!(readings.end <= self.size && readings.end - readings.start <= LOOK_AHEAD);
                    let times = self.world.stream.slice(readings.start, readings.end);
                    // A few at a time, as a store may answer.
                    let times = times.iter().take(self.answers).map(|reading| reading.time).collect();
                    self.seller_event(SupplyEvent::Times { first: readings.start, times });
                }
                SupplyAction::End(paid) => {
                    let order = self.supply.as_ref().unwrap().sale().order;
                    assert_eq!(self.earning.end(&order, paid), Ok(paid));
                    self.store_seller();
                }
            }
        }
    }

    pub(crate) fn grow(&mut self, size: u64) {
        self.size = self.size.max(size.min(READINGS));
        self.seller_event(SupplyEvent::Size(self.size));
        self.check();
    }

    pub(crate) fn silent_store(&mut self, silent: bool) {
        self.answers = if silent { 0 } else { 5 };
    }

    /// The seller gives no credit any more.
    pub(crate) fn no_more_credit(&mut self) {
        self.trusted = false;
    }

    pub(crate) fn pause(&mut self, paused: bool) {
        self.buyer_event(if paused { ReceiveEvent::Pause } else { ReceiveEvent::Resume });
    }

    /// The last blocks of the channel's orders have come.
    pub(crate) fn closing(&mut self) {
        self.seller_event(SupplyEvent::Closing);
        self.buyer_event(ReceiveEvent::Closing);
    }

    /// The seller takes no vouchers any more.
    pub(crate) fn close_at_seller(&mut self) {
        self.closed.0 = true;
        self.seller_event(SupplyEvent::Closed);
        let served = self.supply.as_ref().is_some_and(|supply| !supply.is_ended());
        if served {
            return;
        }
        if let Some(sale) = self.seller_disk.sale.as_mut()
            && let Some(paid) = sale.leave(self.earning.paid_by(&sale.order))
        {
            self.earning.end(&sale.order, paid).unwrap();
            self.seller_stakes.note(sale.order, Satoshis::ZERO);
            self.seller_disk.earning = self.earning.clone();
        }
    }

    /// The channel is spent, as the buyer sees it.
    pub(crate) fn close_at_buyer(&mut self) {
        self.closed.1 = true;
        self.leave(ReceiveEvent::Closed);
    }

    pub(crate) fn give_up(&mut self) {
        self.leave(ReceiveEvent::GiveUp);
    }

    fn leave(&mut self, event: ReceiveEvent) {
        if self.reservation.is_some() {
            return self.buyer_event(event);
        }
        // Nobody has been asked since the crash.
        let spending = Spending::new(self.buyer_disk.spending.clone());
        let purchase = &mut self.buyer_disk.purchase;
        if purchase.is_final() {
            return;
        }
        let paid = spending.take_up(purchase.id).unwrap().forfeit().unwrap();
        let left = match event {
            ReceiveEvent::GiveUp => purchase.give_up(&self.terms, paid),
            _ => purchase.channel_closed(&self.terms, paid),
        };
        assert_eq!(left, Ok(true));
        self.buyer_disk.spending = spending.record();
        self.receive = Receive::new(purchase.clone(), self.terms.clone(), Interval::none());
        self.spending = spending;
        self.disconnect();
    }

    pub(crate) fn stop(&mut self) {
        self.buyer_event(ReceiveEvent::Stop);
    }

    pub(crate) fn stop_if_live(&mut self) {
        if self.terms.end.is_none() {
            if self.reservation.is_none() {
                self.start();
            }
            self.stop();
        }
    }

    /// The buyer comes back with another exposure, and so much of its reservation.
    pub(crate) fn come_back(&mut self, buyer_limit: u64, reserved: u64) {
        self.disconnect();
        self.buyer_stakes = Stakes::new(sat(buyer_limit));
        let interval = buyer_interval(&Setup { buyer_limit, ..self.setup }, &self.terms);
        self.receive = Receive::new(self.buyer_disk.purchase.clone(), self.terms.clone(), interval);
        let mut record = self.spending.record();
        record.lanes.get_mut(&self.buyer_disk.purchase.id).unwrap().reserved = sat(reserved);
        std::mem::forget(self.reservation.take());
        self.spending = Spending::new(record);
        self.reservation = self.spending.take_up(self.buyer_disk.purchase.id);
    }

    /// The buyer reserves more for the order.
    pub(crate) fn extend(&mut self, amount: u64) {
        let stored = &mut self.buyer_disk.spending;
        let reservation = self.reservation.as_mut().unwrap();
        let store = |record: &SpendingRecord| {
            *stored = record.clone();
            Ok::<_, SpendingError>(())
        };
        reservation.extend(sat(amount), store).unwrap();
    }

    /// The seller has an old backup, from before the order, and the order's offer is over.
    pub(crate) fn forget_at_seller(&mut self) {
        self.disconnect();
        self.earning = Earning::new(self.channel.capacity());
        self.seller_disk = SellerDisk { sale: None, earning: self.earning.clone() };
        self.seller_stakes = Stakes::new(sat(self.setup.seller_limit));
        self.world.now_ms += 3_600_000;
        // What it does not remember it cannot be owed.
        self.sent = self.terms.first;
    }

    pub(crate) fn stakes(&self) -> (Satoshis, Satoshis) {
        (self.buyer_stakes.open().amount(), self.seller_stakes.open().amount())
    }

    pub(crate) fn spending(&self) -> &SpendingRecord {
        &self.buyer_disk.spending
    }

    /// The receipt was lost on its way.
    pub(crate) fn forget_the_end(&mut self) {
        self.buyer_disk.purchase.state = ChannelPurchaseState::Running;
        let terms = self.terms.clone();
        let interval = buyer_interval(&self.setup, &terms);
        self.receive = Receive::new(self.buyer_disk.purchase.clone(), terms, interval);
        let order = self.buyer_disk.purchase.id;
        let paid = self.spending.record().ended;
        let mut record = SpendingRecord::new(self.channel.capacity());
        record
            .lanes
            .insert(order, sensora_protocol::market::channel::spending::Lane { paid, reserved: sat(0) });
        self.spending = Spending::new(record);
        self.reservation = self.spending.take_up(order);
        self.disconnect();
    }

    /// One action, chosen by a byte.
    pub(crate) fn act(&mut self, byte: u8) {
        crate::world::count_action();
        match byte % 16 {
            0..=4 => drop(self.deliver_to_seller()),
            5..=9 => drop(self.deliver_to_buyer()),
            10 | 11 => self.start(),
            12 => self.disconnect(),
            13 => {
                // The buyer crashes.
                self.disconnect();
                if let Some(reservation) = self.reservation.take() {
                    std::mem::forget(reservation);
                }
                self.buyer_stakes = Stakes::new(sat(self.setup.buyer_limit));
                let interval = buyer_interval(&self.setup, &self.terms);
                self.receive = Receive::new(self.buyer_disk.purchase.clone(), self.terms.clone(), interval);
            }
            14 => {
                // The seller crashes, and comes back with what it has stored.
                self.disconnect();
                self.earning = self.seller_disk.earning.clone();
                self.seller_stakes = Stakes::new(sat(self.setup.seller_limit));
                if let Some(sale) = &self.seller_disk.sale {
                    self.seller_stakes.note(sale.order, sale.open(self.earning.paid_by(&sale.order)));
                }
            }
            _ if self.setup.endings && byte == 0xff => self.closing(),
            _ if self.setup.endings && byte == 0xef => self.close_at_seller(),
            // A channel is spent when its seller has closed it, or could not any more.
            _ if self.setup.endings && byte == 0xdf && self.closed.0 => self.close_at_buyer(),
            _ if self.setup.endings && byte == 0xcf => self.give_up(),
            _ => self.grow(self.size + 1),
        }
        self.check();
    }

    /// The network works, until nothing more happens.
    pub(crate) fn settle(&mut self) {
        for _ in 0..4 {
            self.start();
            for _ in 0..2_000 {
                if !(self.deliver_to_seller() || self.deliver_to_buyer()) {
                    break;
                }
            }
        }
    }

    /// The invariants.
    pub(crate) fn check(&self) {
        if self.honest {
            assert!(!self.errors.iter().any(accuses), "an honest seller is accused: {:?}", self.errors);
        }
        // I1: signed for what is verified, and the exposure.
        let verified = self.price_of(self.receive.purchase().next);
        assert_eq!(self.receive.due(), Ok(verified));
        let most = verified.checked_add(sat(self.setup.buyer_limit)).unwrap();
        assert!(self.signed <= most, "signed {}, verified {verified}", self.signed);
        // I2: delivered for what is paid, and the exposure. Vouchers that are booked are all that is paid.
        let order = self.receive.purchase().id;
        let paid = self.seller_disk.earning.paid_by(&order).max(self.seller_disk.earning.ended);
        let delivered = self.price_of(self.sent);
        let most = paid.checked_add(sat(self.setup.seller_limit)).unwrap();
        assert!(delivered <= most, "delivered {delivered}, paid {paid}");
        assert!(self.buyer_stakes.open().amount() <= sat(self.setup.buyer_limit));
        // I4, and that nobody has a voucher for more than there is.
        assert!(self.earning.highest <= self.channel.capacity());
        assert!(self.earning.paid().unwrap() <= self.earning.highest);
    }

    /// Both have the order as ended, the receipt says what is true, and it was charged once.
    pub(crate) fn check_ended(&self, count: u64) {
        let (purchase, sale) = (self.purchase(), self.sale());
        let ChannelPurchaseState::Ended { receipt, missing } = &purchase.state else {
            panic!("{:?}\n{:?}\n{:?}", purchase.state, sale.state, self.errors)
        };
        assert_eq!(*missing, self.terms.end.map_or(0, |end| end - self.terms.first - count));
        assert_eq!(sale.state, ChannelSaleState::Ended { receipt: receipt.clone() });
        let receipt =
            receipt.clone().verify_by::<ChannelReceipt>(NETWORK, self.world.seller.public()).unwrap();
        assert_eq!((receipt.value().count, self.kept()), (count, count));
        // I8: the order's ledger and the channel agree on both sides, and the order was charged once and exactly, whatever was paid ahead.
        let (spending, earning) = (&self.buyer_disk.spending, &self.seller_disk.earning);
        let price = self.price_of(self.terms.first + count);
        assert_eq!((receipt.value().paid, earning.ended, spending.ended), (price, price, price));
        assert!(earning.lanes.is_empty() && spending.lanes.is_empty());
        assert!(earning.highest >= price && earning.highest <= self.signed);
        assert_eq!(self.seller_stakes.open().amount(), Satoshis::ZERO);
        assert_eq!(self.buyer_stakes.open().amount(), Satoshis::ZERO);
    }
}

/// Whether an error says that the seller goes on after a stop.
pub(crate) fn accuses(error: &ReceiveError) -> bool {
    matches!(error, ReceiveError::AfterStop { .. } | ReceiveError::LaterEnd { .. })
}

/// A frame with these readings, and all that proves them.
pub(crate) fn page(world: &World, terms: &Terms, first: u64, end: u64) -> ToBuyer {
    let page = world.stream.page(first, end, READINGS);
    match terms.end {
        Some(_) => ToBuyer::Page(page),
        None => {
            let checkpoint = world.stream.checkpoint(&world.seller, READINGS);
            ToBuyer::Live { checkpoint: Some(checkpoint.into_bytes()), page }
        }
    }
}

/// The receipt that fits an order at this point, but for what it has paid.
pub(crate) fn receipt(world: &World, purchase: &ChannelPurchase, terms: &Terms, paid: Satoshis) -> ToBuyer {
    let receipt = ChannelReceipt {
        order: purchase.id,
        offer: terms.offer,
        stream: terms.stream,
        first: terms.first,
        count: purchase.next - terms.first,
        paid,
        channel: purchase.channel,
        issued_ms: world.now_ms,
    };
    ToBuyer::Ended { receipt: Signed::sign(receipt, &world.seller, NETWORK).unwrap().into_bytes() }
}

impl Pair {
    /// A frame in the seller's place.
    pub(crate) fn say(&mut self, frame: ToBuyer) {
        self.honest = false;
        self.to_seller.clear();
        self.to_buyer.clear();
        self.to_buyer.push_back(frame);
        self.deliver_to_buyer();
    }

    /// The next readings in the seller's place.
    pub(crate) fn say_page(&mut self, readings: u64) {
        let next = self.receive.purchase().next;
        self.say(page(&self.world, &self.terms, next, next + readings));
    }

    /// The end in the seller's place.
    pub(crate) fn say_ended(&mut self) {
        let due = self.receive.due().unwrap();
        self.say(receipt(&self.world, self.receive.purchase(), &self.terms, due));
    }

    /// A voucher that the buyer signs, whatever its account says; none where it is for more than there is.
    pub(crate) fn sign(&self, paid: Satoshis, amount: Satoshis) -> Option<ToSeller> {
        let voucher = self.channel.sign_voucher(amount, self.world.buyer.key()).ok()?;
        Some(ToSeller::Voucher(OrderVoucher { paid, amount, signature: voucher.signature }))
    }

    /// When a reading was measured, milliseconds since the Unix epoch.
    pub(crate) fn time_ms(&self, seq: u64) -> i64 {
        self.world.stream.readings[seq as usize].time / 1_000_000
    }

    /// Whether either side trusts the other with one reading.
    pub(crate) fn can_begin(&self) -> bool {
        let unit = self.terms.unit().unwrap().as_u64();
        self.setup.buyer_limit.max(self.setup.seller_limit) >= unit
    }

    /// From here on everything works. Where nothing was closed or given up the order ends with a receipt; else it does when the channel has closed.
    pub(crate) fn come_to_an_end(&mut self) {
        if self.can_begin() {
            self.grow(60);
            self.stop_if_live();
            self.settle();
        }
        if self.setup.endings {
            self.close_at_seller();
            self.settle();
            self.close_at_seller();
            self.close_at_buyer();
            self.check();
            self.check_over();
        } else if self.can_begin() {
            self.check_ended(self.kept());
        }
    }

    /// The order has ended on both sides, with a receipt or without: nothing is open with either, and the books say what is true.
    pub(crate) fn check_over(&self) {
        let (purchase, spending) = (&self.buyer_disk.purchase, &self.buyer_disk.spending);
        let due = self.price_of(purchase.next);
        match purchase.state {
            ChannelPurchaseState::Ended { .. } => return self.check_ended(self.kept()),
            ChannelPurchaseState::Refused { .. } => {
                assert_eq!((spending.ended, due), (Satoshis::ZERO, Satoshis::ZERO));
            }
            ChannelPurchaseState::LeftUnpaid { paid, due: said }
            | ChannelPurchaseState::GivenUp { paid, due: said } => {
                assert_eq!((spending.ended, said), (paid, due));
                assert!(paid >= self.signed.min(paid) && self.earning.ended <= paid, "{paid}");
            }
            ref open => panic!("{open:?}: {:?} {:?}", self.errors, self.refusals),
        }
        assert!(spending.lanes.is_empty());
        assert_eq!(self.buyer_stakes.open().amount(), Satoshis::ZERO);
        let Some(sale) = &self.seller_disk.sale else { return };
        match sale.state {
            ChannelSaleState::Ended { .. } => {
                assert_eq!(sale.finally_paid(NETWORK), Some(self.earning.ended));
            }
            ChannelSaleState::LeftUnpaid { paid, unpaid } => {
                assert_eq!(paid, self.earning.ended);
                assert!(unpaid <= sat(self.setup.seller_limit), "{unpaid}");
                let delivered = self.price_of(self.sent);
                assert!(delivered <= paid.checked_add(unpaid).unwrap(), "{delivered}: {paid} and {unpaid}");
            }
            ref open => panic!("{open:?}"),
        }
        assert!(self.earning.lanes.is_empty());
        assert_eq!(self.seller_stakes.open().amount(), Satoshis::ZERO);
    }
}

/// What the readings of an order before this one cost, counted anew.
pub(crate) fn price_of(world: &World, terms: &Terms, next: u64) -> Satoshis {
    let times = world.stream.slice(terms.first, next.max(terms.first)).iter().map(|reading| reading.time);
    let meter = times.fold(Meter::default(), |meter, time| meter.after(terms.tariff, time));
    terms.due(next, meter.charged_ms).unwrap()
}

fn buyer_interval(setup: &Setup, terms: &Terms) -> Interval {
    let unit = terms.unit().unwrap();
    Interval::new(sat(1), sat(setup.buyer_limit), unit).unwrap_or(Interval::none())
}

fn seller_interval(setup: &Setup, terms: &Terms) -> Interval {
    let unit = terms.unit().unwrap();
    Interval::new(sat(1), sat(setup.seller_limit), unit).unwrap_or(Interval::none())
}
