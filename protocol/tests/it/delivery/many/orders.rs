//! Three orders beside each other on one channel: one account, one exposure on each side, and three streams that break one by one.

use std::collections::VecDeque;

use sensora_chain::Satoshis;
use sensora_chain::contract::channel::{Channel, Voucher};
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
use sensora_protocol::market::delivery::terms::Terms;
use sensora_protocol::market::delivery::trail::LivePages;
use sensora_protocol::market::exposure::{Interval, Stakes};
use sensora_protocol::market::receipt::ChannelReceipt;
use sensora_protocol::market::refusal::Refusal;

use crate::delivery::pair::{CAPACITY, Goods, READINGS, accuses, channel_id, funded, offered, price_of};
use crate::world::{NETWORK, World, sat};

/// One order, at both sides.
pub(crate) struct One {
    terms: Terms,
    // The buyer: what is stored, and what is not.
    stored: ChannelPurchase,
    kept: u64,
    receive: Receive,
    reservation: Option<Reservation>,
    // The seller.
    sale: Option<ChannelSale>,
    supply: Option<Supply>,
    /// Sequence number after the last reading that ever went out.
    sent: u64,
    pages: LivePages,
    connected: bool,
    to_seller: VecDeque<ToSeller>,
    to_buyer: VecDeque<ToBuyer>,
}

pub(crate) struct Many {
    world: World,
    channel: Channel,
    size: u64,
    limits: (u64, u64),
    orders: Vec<One>,
    spending: Spending,
    stored_spending: SpendingRecord,
    buyer_stakes: Stakes,
    /// The buyer has crashed, and not asked what was paid.
    asks: bool,
    /// The seller takes no vouchers any more.
    closed: bool,
    pub(crate) earning: Earning,
    stored_earning: Earning,
    seller_stakes: Stakes,
    /// The highest amount that was ever signed.
    signed: Satoshis,
    errors: Vec<ReceiveError>,
    refusals: Vec<Refusal>,
}

fn interval(limit: u64, terms: &Terms) -> Interval {
    Interval::new(sat(1), sat(limit), terms.unit().unwrap()).unwrap_or(Interval::none())
}

impl Many {
    pub(crate) fn new(goods: &[(Goods, Option<u64>, u64)], limits: (u64, u64), size: u64) -> Self {
        let world = World::uneven(READINGS);
        let channel = funded(&world);
        let spending = Spending::new(SpendingRecord::new(channel.capacity()));
        let orders = goods.iter().zip(1u8..).map(|(&(goods, budget, msat), nonce)| {
            let (offer, budget) = offered(&world, goods, msat, budget);
            let (seller, buyer, now) = (world.seller.public(), &world.buyer, world.now_ms);
            let nonce = [nonce; 16];
            let (stored, terms) =
                ChannelPurchase::agree(offer, seller, channel_id(), budget, nonce, buyer, NETWORK, now)
                    .unwrap();
            let reserved = spending.reserve(stored.id, stored.budget, |_| Ok::<_, SpendingError>(()));
            One {
                kept: terms.first,
                sent: terms.first,
                receive: Receive::new(stored.clone(), terms.clone(), interval(limits.0, &terms)),
                reservation: Some(reserved.unwrap()),
                stored,
                terms,
                sale: None,
                supply: None,
                pages: LivePages::new(),
                connected: false,
                to_seller: VecDeque::new(),
                to_buyer: VecDeque::new(),
            }
        });
        let orders = orders.collect();
        let earning = Earning::new(channel.capacity());
        Self {
            orders,
            stored_spending: spending.record(),
            spending,
            buyer_stakes: Stakes::new(sat(limits.0)),
            seller_stakes: Stakes::new(sat(limits.1)),
            asks: false,
            closed: false,
            stored_earning: earning.clone(),
            earning,
            signed: Satoshis::ZERO,
            errors: Vec::new(),
            refusals: Vec::new(),
            limits,
            size,
            channel,
            world,
        }
    }

    /// The buyer asks what was paid, before any order goes on.
    fn learn(&mut self) {
        let claims: Vec<Claim> = self
            .orders
            .iter()
            .filter(|one| !one.stored.is_final())
            .map(|one| {
                let order = one.stored.id;
                let finally = one.sale.as_ref().and_then(|sale| sale.finally_paid(NETWORK));
                let paid = finally.unwrap_or_else(|| self.earning.paid_by(&order));
                Claim { order, paid, due: one.stored.due(&one.terms).unwrap() }
            })
            .collect();
        let record = &mut self.stored_spending;
        let booked = self.earning.paid().unwrap();
        let unclaimed = record.learn(self.earning.highest, booked, &claims, sat(self.limits.0), true);
        assert_eq!(unclaimed, Ok(Satoshis::ZERO), "nothing is booked to nobody");
        self.spending = Spending::new(record.clone());
        self.buyer_stakes = Stakes::new(sat(self.limits.0));
        for one in self.orders.iter_mut().filter(|one| !one.stored.is_final()) {
            one.receive =
                Receive::new(one.stored.clone(), one.terms.clone(), interval(self.limits.0, &one.terms));
            one.reservation = self.spending.take_up(one.stored.id);
            let paid = one.reservation.as_ref().map_or(Satoshis::ZERO, Reservation::paid);
            self.buyer_stakes.note(one.stored.id, one.stored.open(&one.terms, paid).unwrap());
        }
        self.asks = false;
    }

    fn start(&mut self, at: usize) {
        if self.orders[at].connected || self.orders[at].stored.is_final() {
            return;
        }
        if self.asks {
            self.learn();
        }
        let one = &mut self.orders[at];
        one.connected = true;
        let begin = one.receive.start();
        self.follow_buyer(at, vec![begin]);
    }

    fn disconnect(&mut self, at: usize) {
        let one = &mut self.orders[at];
        one.connected = false;
        one.to_seller.clear();
        one.to_buyer.clear();
        one.receive.interrupted();
        one.supply = None;
    }

    fn deliver_to_seller(&mut self, at: usize) -> bool {
        let Some(frame) = self.orders[at].to_seller.pop_front() else { return false };
        self.at_seller(at, frame);
        self.check();
        true
    }

    fn deliver_to_buyer(&mut self, at: usize) -> bool {
        let Some(frame) = self.orders[at].to_buyer.pop_front() else { return false };
        self.buyer_event(at, ReceiveEvent::Frame(Box::new(frame)));
        self.check();
        true
    }

    fn buyer_event(&mut self, at: usize, event: ReceiveEvent) {
        let open = self.buyer_stakes.open();
        self.at_buyer(at, event);
        if self.buyer_stakes.open() < open {
            (0..self.orders.len()).filter(|other| *other != at).for_each(|other| {
                if self.orders[other].connected {
                    self.at_buyer(other, ReceiveEvent::Room);
                }
            });
        }
    }

    fn at_buyer(&mut self, at: usize, event: ReceiveEvent) {
        let one = &mut self.orders[at];
        let Some(reservation) = one.reservation.as_mut() else { return };
        match one.receive.handle(event, reservation, &mut self.buyer_stakes, NETWORK, self.world.now_ms) {
            Ok(actions) => self.follow_buyer(at, actions),
            Err(error) => {
                self.errors.push(error);
                self.disconnect(at);
            }
        }
    }

    fn follow_buyer(&mut self, at: usize, actions: Vec<ReceiveAction>) {
        let one = &mut self.orders[at];
        for action in actions {
            match action {
                ReceiveAction::Keep { page, .. } => {
                    assert_eq!(page.readings[0].seq, one.kept, "no reading is passed over");
                    one.kept = page.end();
                    one.stored = one.receive.purchase().clone();
                }
                ReceiveAction::Store => one.stored = one.receive.purchase().clone(),
                ReceiveAction::Voucher { paid, amount } => {
                    self.signed = self.signed.max(amount);
                    let signature =
                        self.channel.sign_voucher(amount, self.world.buyer.key()).unwrap().signature;
                    one.to_seller.push_back(ToSeller::Voucher(OrderVoucher { paid, amount, signature }));
                }
                ReceiveAction::Send(frame) => one.to_seller.push_back(frame),
                ReceiveAction::End(paid) => {
                    one.stored = one.receive.purchase().clone();
                    one.reservation.take().unwrap().end(paid).unwrap();
                    self.stored_spending = self.spending.record();
                }
            }
        }
    }

    fn refuse(&mut self, at: usize, refusal: Refusal) {
        self.refusals.push(refusal.clone());
        self.orders[at].to_buyer.push_back(ToBuyer::Refused(refusal));
        self.orders[at].supply = None;
    }

    fn at_seller(&mut self, at: usize, frame: ToSeller) {
        match frame {
            ToSeller::Begin(begin) => {
                let buyer = *self.world.buyer.public();
                let free = self.earning.capacity.saturating_sub(self.earning.paid().unwrap());
                let admission = SupplyAdmission {
                    seller: &self.world.seller,
                    network: NETWORK,
                    peer: &buyer,
                    channel: ChannelView { id: channel_id(), buyer, free },
                    now_ms: self.world.now_ms,
                };
                if self.closed && self.orders[at].sale.is_none() {
                    return self.refuse(at, Refusal::ChannelClosed { channel: channel_id() });
                }
                let admitted = match self.orders[at].sale.clone() {
                    Some(sale) => sale.go_on(&begin, NETWORK, &self.world.seller).map(|terms| (sale, terms)),
                    None => ChannelSale::admit(&begin, &admission),
                };
                let (sale, terms) = match admitted {
                    Ok(admitted) => admitted,
                    Err(refusal) => return self.refuse(at, refusal),
                };
                if !matches!(sale.state, ChannelSaleState::Ended { .. }) {
                    self.earning.begin(sale.order).unwrap();
                }
                let paid = self.earning.paid_by(&sale.order);
                let one = &mut self.orders[at];
                one.pages = LivePages::new();
                let interval = interval(self.limits.1, &terms);
                let supply = one.supply.insert(Supply::new(sale, terms, interval, paid, &begin, self.size));
                let now = self.world.now_ms;
                let actions =
                    supply.start(&mut self.seller_stakes, &self.world.seller, NETWORK, now).unwrap();
                self.follow_seller(at, actions);
            }
            ToSeller::Voucher(voucher) => {
                let Some(supply) = self.orders[at].supply.as_ref().filter(|supply| !supply.is_ended()) else {
                    return;
                };
                if self.closed {
                    return self.refuse(at, Refusal::ChannelClosed { channel: channel_id() });
                }
                let signed = Voucher { paid: voucher.amount, signature: voucher.signature };
                self.channel.verify_voucher(&signed).unwrap();
                match self.earning.with(&supply.sale().order, voucher.paid, voucher.amount) {
                    Ok(next) => {
                        self.earning = next;
                        self.seller_event(at, SupplyEvent::Paid(voucher.paid));
                    }
                    Err(error) => self.refuse(at, Refusal::VoucherInvalid { reason: error.to_string() }),
                }
            }
            ToSeller::Pause => self.seller_event(at, SupplyEvent::Pause),
            ToSeller::Resume => self.seller_event(at, SupplyEvent::Resume),
            ToSeller::Stop => self.seller_event(at, SupplyEvent::Stop),
            ToSeller::Alive => {}
        }
    }

    fn seller_event(&mut self, at: usize, event: SupplyEvent) {
        let open = self.seller_stakes.open();
        self.supply_event(at, event);
        if self.seller_stakes.open() < open {
            (0..self.orders.len())
                .filter(|other| *other != at)
                .for_each(|other| self.supply_event(other, SupplyEvent::Room));
        }
    }

    fn supply_event(&mut self, at: usize, event: SupplyEvent) {
        let Some(supply) = self.orders[at].supply.as_mut() else { return };
        let now = self.world.now_ms;
        let actions = supply.handle(event, &mut self.seller_stakes, &self.world.seller, NETWORK, now);
        self.follow_seller(at, actions.unwrap());
    }

    fn store_seller(&mut self, at: usize) {
        self.orders[at].sale = self.orders[at].supply.as_ref().map(|supply| supply.sale().clone());
        self.stored_earning = self.earning.clone();
    }

    fn follow_seller(&mut self, at: usize, actions: Vec<SupplyAction>) {
        for action in actions {
            match action {
                SupplyAction::Store => self.store_seller(at),
                SupplyAction::Frame(frame) => self.orders[at].to_buyer.push_back(frame),
                SupplyAction::Send(readings) => {
                    let one = &mut self.orders[at];
                    let mut from = readings.start;
                    let stream = &self.world.stream;
                    while from < readings.end {
                        let mut to = (from + 3).min(readings.end);
                        one.to_buyer.push_back(match one.terms.end {
                            Some(_) => ToBuyer::Page(stream.page(from, to, READINGS)),
                            None => {
                                let newest = || stream.checkpoint(&self.world.seller, self.size);
                                let checkpoint = one.pages.checkpoint(from).cloned().unwrap_or_else(newest);
                                to = to.min(checkpoint.value().size);
                                let page = stream.page(from, to, checkpoint.value().size);
                                one.pages.frame(&checkpoint, page)
                            }
                        });
                        from = to;
                    }
                    one.sent = one.sent.max(readings.end);
                    self.supply_event(at, SupplyEvent::Sent(readings.end));
                }
                SupplyAction::Times(readings) => {
                    let times = self.world.stream.slice(readings.start, readings.end);
                    let times = times.iter().map(|reading| reading.time).collect();
                    self.supply_event(at, SupplyEvent::Times { first: readings.start, times });
                }
                SupplyAction::End(paid) => {
                    let order = self.orders[at].stored.id;
                    assert_eq!(self.earning.end(&order, paid), Ok(paid));
                    self.store_seller(at);
                }
            }
        }
    }

    fn grow(&mut self, size: u64) {
        self.size = self.size.max(size.min(READINGS));
        (0..self.orders.len()).for_each(|at| self.seller_event(at, SupplyEvent::Size(self.size)));
    }

    fn pause(&mut self, at: usize, paused: bool) {
        self.buyer_event(at, if paused { ReceiveEvent::Pause } else { ReceiveEvent::Resume });
    }

    /// The seller takes no vouchers any more.
    fn close_at_seller(&mut self) {
        self.closed = true;
        for at in 0..self.orders.len() {
            self.seller_event(at, SupplyEvent::Closed);
            let one = &mut self.orders[at];
            if one.supply.as_ref().is_some_and(|supply| !supply.is_ended()) {
                continue;
            }
            if let Some(sale) = one.sale.as_mut()
                && let Some(paid) = sale.leave(self.earning.paid_by(&sale.order))
            {
                self.earning.end(&sale.order, paid).unwrap();
                self.seller_stakes.note(sale.order, Satoshis::ZERO);
                self.stored_earning = self.earning.clone();
            }
        }
    }

    /// The buyer leaves an order, after it has asked what was paid.
    fn leave(&mut self, at: usize, event: ReceiveEvent) {
        if self.asks {
            self.learn();
        }
        self.buyer_event(at, event);
    }

    fn crash_buyer(&mut self) {
        for at in 0..self.orders.len() {
            self.disconnect(at);
            std::mem::forget(self.orders[at].reservation.take());
        }
        self.asks = true;
    }

    fn crash_seller(&mut self) {
        (0..self.orders.len()).for_each(|at| self.disconnect(at));
        self.earning = self.stored_earning.clone();
        self.seller_stakes = Stakes::new(sat(self.limits.1));
        for sale in self.orders.iter().filter_map(|one| one.sale.as_ref()) {
            self.seller_stakes.note(sale.order, sale.open(self.earning.paid_by(&sale.order)));
        }
    }

    pub(crate) fn act(&mut self, byte: u8) {
        crate::world::count_action();
        let at = usize::from(byte / 16) % self.orders.len();
        match byte % 16 {
            0..=4 => drop(self.deliver_to_seller(at)),
            5..=8 => drop(self.deliver_to_buyer(at)),
            9 | 10 => self.start(at),
            11 => self.disconnect(at),
            12 if byte < 16 => self.close_at_seller(),
            12 if byte > 240 => self.leave(at, ReceiveEvent::GiveUp),
            12 if byte > 224 => self.supply_event(at, SupplyEvent::Closing),
            12 => self.buyer_event(at, ReceiveEvent::Room),
            13 if byte > 128 => self.crash_buyer(),
            14 if byte > 128 => self.crash_seller(),
            13 => self.pause(at, true),
            14 => self.pause(at, false),
            15 => self.grow(self.size + 1),
            _ => {
                self.start(at);
                while self.deliver_to_seller(at) || self.deliver_to_buyer(at) {}
            }
        }
        self.check();
    }

    /// The network works, until nothing more happens.
    pub(crate) fn settle(&mut self) {
        for _ in 0..4 {
            (0..self.orders.len()).for_each(|at| self.start(at));
            loop {
                let moved = (0..self.orders.len())
                    .map(|at| self.deliver_to_seller(at) | self.deliver_to_buyer(at))
                    .fold(false, |any, one| any | one);
                if !moved {
                    break;
                }
            }
        }
    }

    fn check(&self) {
        assert!(!self.errors.iter().any(accuses), "{:?}", self.errors);
        let sum = |parts: Vec<Satoshis>| Satoshis::sum(parts).unwrap();
        // I1 over all orders, whatever crashed or was lost. What was paid ahead is the seller's only where the order has no receipt.
        let price = |one: &One, next| price_of(&self.world, &one.terms, next);
        let verified = |one: &One| {
            let due = price(one, one.receive.purchase().next);
            assert_eq!(one.receive.due(), Ok(due));
            match &one.stored.state {
                ChannelPurchaseState::LeftUnpaid { paid, .. }
                | ChannelPurchaseState::GivenUp { paid, .. } => due.max(*paid),
                _ => due,
            }
        };
        let verified = sum(self.orders.iter().map(verified).collect());
        let most = verified.as_u64() + self.limits.0;
        assert!(self.signed.as_u64() <= most, "signed {}, verified {verified}", self.signed);
        assert!(self.buyer_stakes.open().amount() <= sat(self.limits.0), "{:?}", self.buyer_stakes);
        // I2 over all orders; what was left unpaid when the channel closed is on the books, and open no more.
        let mut open = Satoshis::ZERO;
        for one in &self.orders {
            let finally = one.sale.as_ref().and_then(|sale| sale.finally_paid(NETWORK));
            let paid = finally.unwrap_or_else(|| self.stored_earning.paid_by(&one.stored.id));
            let unpaid = price(one, one.sent).saturating_sub(paid);
            match one.sale.as_ref().map(|sale| &sale.state) {
                Some(ChannelSaleState::LeftUnpaid { unpaid: said, .. }) => assert!(unpaid <= *said),
                _ => open = open.checked_add(unpaid).unwrap(),
            }
        }
        assert!(open <= sat(self.limits.1), "{open} are delivered and not paid");
        // I4, and that nobody has a voucher for more than there is.
        assert!(self.earning.highest <= self.channel.capacity() && self.signed <= sat(CAPACITY));
        assert!(self.earning.paid().unwrap() <= self.earning.highest);
    }

    /// All orders have ended on both sides, and both books say the same, as far as there are receipts.
    pub(crate) fn check_ended(&self) {
        let (mut bought, mut sold) = (Satoshis::ZERO, Satoshis::ZERO);
        for one in &self.orders {
            let paid = match &one.stored.state {
                ChannelPurchaseState::Ended { receipt, .. } => {
                    let receipt = receipt.clone().verify::<ChannelReceipt>(NETWORK).unwrap().value().clone();
                    assert_eq!(receipt.count, one.kept - one.terms.first);
                    assert!(receipt.paid <= one.stored.budget);
                    assert_eq!(receipt.paid, one.receive.due().unwrap());
                    receipt.paid
                }
                ChannelPurchaseState::LeftUnpaid { paid, .. }
                | ChannelPurchaseState::GivenUp { paid, .. } => *paid,
                ChannelPurchaseState::Refused { .. } => Satoshis::ZERO,
                open => panic!("{open:?}\n{:?}\n{:?}\n{:?}", self.errors, self.refusals, one.terms.tariff),
            };
            bought = bought.checked_add(paid).unwrap();
            if let Some(sale) = &one.sale {
                assert!(sale.is_final(), "{:?}", sale.state);
                sold = sold.checked_add(sale.finally_paid(NETWORK).unwrap()).unwrap();
            }
        }
        // I8: orders and both accounts agree.
        assert_eq!((self.earning.ended, self.earning.lanes.len()), (sold, 0));
        let spending = self.spending.record();
        assert_eq!((spending.ended, spending.lanes.len()), (bought, 0));
        assert!(sold <= bought);
        let receipted = |one: &One| matches!(one.stored.state, ChannelPurchaseState::Ended { .. });
        if self.orders.iter().all(receipted) {
            assert_eq!(sold, bought);
        }
        assert_eq!(self.seller_stakes.open().amount(), Satoshis::ZERO);
        assert_eq!(self.buyer_stakes.open().amount(), Satoshis::ZERO);
    }

    /// The network works again, and all orders end, where either side's exposure holds what comes next of each.
    pub(crate) fn come_to_an_end(&mut self) {
        let unit = |one: &One| one.terms.unit().unwrap().as_u64();
        if self.limits.0.max(self.limits.1) < self.orders.iter().map(unit).max().unwrap() {
            return;
        }
        self.grow(READINGS);
        (0..self.orders.len()).for_each(|at| self.pause(at, false));
        self.settle();
        for at in 0..self.orders.len() {
            if self.orders[at].terms.end.is_none() {
                self.buyer_event(at, ReceiveEvent::Stop);
            }
        }
        self.settle();
        let given_up = |one: &One| matches!(one.stored.state, ChannelPurchaseState::GivenUp { .. });
        if self.closed || self.orders.iter().any(given_up) {
            self.close_at_seller();
            self.settle();
            self.close_at_seller();
            (0..self.orders.len()).for_each(|at| self.leave(at, ReceiveEvent::Closed));
        }
        self.check();
        self.check_ended();
    }
}
