//! A buyer and a seller with one order on one channel, and a network between them that does as it is told.

use std::collections::VecDeque;

use sensora_chain::contract::channel::{Channel, ChannelTerms, CloseTerms, Voucher};
use sensora_chain::contract::height_lock::RefundHeight;
use sensora_chain::{OutPoint, Satoshis, Txid};
use sensora_protocol::market::channel::earning::Earning;
use sensora_protocol::market::channel::spending::{
    Claim, Reservation, Spending, SpendingError, SpendingRecord,
};
use sensora_protocol::market::delivery::frame::{OrderVoucher, ToBuyer, ToSeller};
use sensora_protocol::market::delivery::receive::{
    ChannelPurchase, ChannelPurchaseState, Receive, ReceiveAction, ReceiveError, ReceiveEvent,
};
use sensora_protocol::market::delivery::supply::{
    ChannelSale, ChannelSaleState, ChannelView, Supply, SupplyAction, SupplyAdmission, SupplyEvent,
};
use sensora_protocol::market::delivery::terms::{Offered, Terms};
use sensora_protocol::market::exposure::{Interval, Stakes};
use sensora_protocol::market::live::LiveOffer;
use sensora_protocol::market::price::{Price, Tariff};
use sensora_protocol::market::receipt::ChannelReceipt;
use sensora_protocol::market::refusal::Refusal;
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
}

impl Default for Setup {
    fn default() -> Self {
        let goods = Goods::Range { first: 0, count: 10 };
        Self { goods, buyer_limit: 8, seller_limit: 8, msat: 1_500, size: READINGS, budget: None }
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
    connected: bool,
    active_ms: u64,
    /// What the seller has counted beyond that.
    seller_ahead_ms: u64,
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
            LiveOffer::accept(&signed, NETWORK, world.buyer.public(), world.stream.id, None, world.now_ms)
                .unwrap();
            (Offered::Live(signed.into_bytes()), sat(budget))
        }
    }
}

impl Pair {
    pub(crate) fn new(setup: Setup) -> Self {
        let world = World::new(READINGS);
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
            connected: false,
            active_ms: 0,
            seller_ahead_ms: 0,
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

    pub(crate) fn signed(&self) -> Satoshis {
        self.signed
    }

    pub(crate) fn due(&self) -> Satoshis {
        self.receive.due().unwrap()
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
            record.learn(self.earning.highest, &[claim], sat(self.setup.buyer_limit)).unwrap();
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
        match self.seller_disk.sale.as_ref().map(|sale| &sale.state) {
            Some(ChannelSaleState::Ended { receipt }) => {
                receipt.clone().verify::<ChannelReceipt>(NETWORK).unwrap().value().paid
            }
            _ => self.earning.paid_by(&order),
        }
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

    fn buyer_event(&mut self, event: ReceiveEvent) {
        let Some(reservation) = self.reservation.as_mut() else { return };
        match self.receive.handle(event, reservation, &mut self.buyer_stakes, NETWORK) {
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
                ReceiveAction::Keep { page, .. } => {
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
                    free: self.earning.capacity.saturating_sub(self.earning.highest),
                };
                let admission = SupplyAdmission {
                    seller: &self.world.seller,
                    network: NETWORK,
                    peer: self.world.buyer.public(),
                    channel: view,
                    now_ms: self.world.now_ms,
                };
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
            ToSeller::Stop => {
                self.seller_event(SupplyEvent::Active(self.active_ms + self.seller_ahead_ms));
                self.seller_event(SupplyEvent::Stop);
            }
            ToSeller::Alive => {}
        }
    }

    fn seller_event(&mut self, event: SupplyEvent) {
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
                        let to = (at + 3).min(readings.end);
                        let frame = match self.terms.end {
                            Some(_) => ToBuyer::Page(self.world.stream.page(at, to, READINGS)),
                            None => ToBuyer::Live {
                                checkpoint: self
                                    .world
                                    .stream
                                    .checkpoint(&self.world.seller, self.size)
                                    .into_bytes(),
                                page: self.world.stream.page(at, to, self.size),
                            },
                        };
                        self.to_buyer.push_back(frame);
                        at = to;
                    }
                    self.sent = self.sent.max(readings.end);
                    self.seller_event(SupplyEvent::Sent(readings.end));
                }
                SupplyAction::End => {
                    let order = self.supply.as_ref().unwrap().sale().order;
                    let paid = self.earning.paid_by(&order);
                    self.earning.end(&order, paid).unwrap();
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

    pub(crate) fn run_for(&mut self, ms: u64) {
        self.active_ms += ms;
        self.seller_event(SupplyEvent::Active(self.active_ms + self.seller_ahead_ms));
        self.buyer_event(ReceiveEvent::Active(self.active_ms));
        self.check();
    }

    /// The seller alone has counted so much.
    pub(crate) fn seller_runs_for(&mut self, ms: u64) {
        self.seller_ahead_ms += ms;
        self.seller_event(SupplyEvent::Active(self.active_ms + self.seller_ahead_ms));
        self.check();
    }

    /// The seller gives no credit any more.
    pub(crate) fn no_more_credit(&mut self) {
        self.trusted = false;
    }

    pub(crate) fn pause(&mut self, paused: bool) {
        self.buyer_event(if paused { ReceiveEvent::Pause } else { ReceiveEvent::Resume });
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
        let ms = self.active_ms;
        // I1: signed for what is verified, and the exposure.
        let verified = self.terms.due(self.receive.purchase().next, ms).unwrap();
        let most = verified.checked_add(sat(self.setup.buyer_limit)).unwrap();
        assert!(self.signed <= most, "signed {}, verified {verified}", self.signed);
        // I2: delivered for what is paid, and the exposure. Vouchers that are booked are all that is paid.
        let order = self.receive.purchase().id;
        let paid = self.seller_disk.earning.paid_by(&order).max(self.seller_disk.earning.ended);
        let delivered = self.terms.tariff.due(self.sent - self.terms.first, 0);
        if let (Tariff::Reading(_), Ok(delivered)) = (self.terms.tariff, delivered) {
            let most = paid.checked_add(sat(self.setup.seller_limit)).unwrap();
            assert!(delivered <= most, "delivered {delivered}, paid {paid}");
        }
        // I4, and that nobody has a voucher for more than there is.
        assert!(self.earning.highest <= self.channel.capacity());
        assert!(self.earning.paid().unwrap() <= self.earning.highest);
    }

    /// Both have the order as ended, the receipt says what is true, and it was charged once.
    pub(crate) fn check_ended(&self, count: u64) {
        let (purchase, sale) = (self.purchase(), self.sale());
        let ChannelPurchaseState::Ended { receipt } = &purchase.state else {
            panic!("{:?}\n{:?}\n{:?}", purchase.state, sale.state, self.errors)
        };
        assert_eq!(sale.state, ChannelSaleState::Ended { receipt: receipt.clone() });
        let receipt =
            receipt.clone().verify_by::<ChannelReceipt>(NETWORK, self.world.seller.public()).unwrap();
        assert_eq!((receipt.value().count, self.kept()), (count, count));
        // I8: the order's ledger and the channel agree on both sides.
        let (spending, earning) = (&self.buyer_disk.spending, &self.seller_disk.earning);
        assert_eq!(receipt.value().paid, earning.ended);
        assert_eq!((spending.ended, earning.highest), (earning.ended, earning.ended));
        assert_eq!(spending.reserved(), Ok(Satoshis::ZERO));
        if let (Tariff::Reading(price), Some(_)) = (self.terms.tariff, self.terms.end) {
            assert_eq!(earning.ended, price.due(count).unwrap(), "charged once, and exactly");
        }
        assert_eq!(self.seller_stakes.open().amount(), Satoshis::ZERO);
        assert_eq!(self.buyer_stakes.open().amount(), Satoshis::ZERO);
    }
}

fn buyer_interval(setup: &Setup, terms: &Terms) -> Interval {
    let unit = terms.unit().unwrap();
    Interval::new(sat(1), sat(setup.buyer_limit), unit).unwrap_or(Interval::none())
}

fn seller_interval(setup: &Setup, terms: &Terms) -> Interval {
    let unit = terms.unit().unwrap();
    Interval::new(sat(1), sat(setup.seller_limit), unit).unwrap_or(Interval::none())
}
