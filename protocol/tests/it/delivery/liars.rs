//! Sellers and buyers that follow no rule: whatever they say and send, the other side loses no more than it chose.

use proptest::prelude::*;
use sensora_chain::Satoshis;
use sensora_protocol::ad::CLOCK_TOLERANCE_MS;
use sensora_protocol::market::channel::spending::{
    Claim, Reservation, Spending, SpendingError, SpendingRecord,
};
use sensora_protocol::market::delivery::frame::{Begin, ToBuyer, ToSeller};
use sensora_protocol::market::delivery::receive::{
    Bound, ChannelPurchase, ChannelPurchaseState, Receive, ReceiveAction, ReceiveError, ReceiveEvent,
};
use sensora_protocol::market::delivery::terms::Terms;
use sensora_protocol::market::exposure::{Interval, Stakes};
use sensora_protocol::market::price::{Price, Tariff};
use sensora_protocol::market::refusal::Refusal;

use super::pair::{Goods, Pair, READINGS, Setup, channel_id, funded, offered, page, price_of, receipt};
use super::range;
use crate::world::{NETWORK, World, sat};

fn live(tariff: fn(Price) -> Tariff, msat: u64, budget: u64) -> Goods {
    Goods::Live { first: 3, tariff: tariff(Price::from_msat(msat).unwrap()), budget }
}

fn by_second(price: Price) -> Tariff {
    Tariff::Second { price, longest_gap_ms: 2_500 }
}

fn run_until(pair: &mut Pair, kept: u64) {
    pair.start();
    while pair.kept() < kept {
        assert!(pair.deliver_to_seller() || pair.deliver_to_buyer());
    }
}

#[test]
fn an_order_that_was_stopped_does_not_go_on_at_the_buyers_cost() {
    for tariff in [Tariff::Reading, by_second] {
        let mut pair = Pair::new(Setup { goods: live(tariff, 1_500, 500), ..Setup::default() });
        run_until(&mut pair, 12);
        pair.stop();
        let at_once = pair.signed().max(pair.price_of(3 + pair.kept()));
        while pair.errors.is_empty() {
            pair.say_page(1);
            assert!(pair.signed() <= at_once, "nothing is paid before it is known where the order ends");
        }
        let Some(ReceiveError::AfterStop { most, .. }) = pair.errors.last() else {
            panic!("{:?}", pair.errors)
        };
        assert_eq!(*most, at_once.checked_add(sat(8)).unwrap(), "and the seller's credit of 8");
        assert!(pair.price_of(3 + pair.kept()) <= *most);
        // Another connection and another credit change nothing.
        let (kept, most) = (pair.kept(), *most);
        pair.start();
        pair.say(ToBuyer::Begun { paid: most, credit: sat(400) });
        pair.say_page(1);
        assert!(matches!(pair.errors.last(), Some(ReceiveError::AfterStop { .. })), "{:?}", pair.errors);
        assert_eq!((pair.kept(), pair.signed()), (kept, at_once));
    }
}

#[test]
fn a_seller_does_not_say_that_a_stopped_order_ends_far_away_or_later_than_it_said() {
    for tariff in [Tariff::Reading, by_second] {
        let mut pair = Pair::new(Setup { goods: live(tariff, 1_500, 500), ..Setup::default() });
        run_until(&mut pair, 12);
        let next = 3 + pair.kept();
        let signed = pair.signed();
        pair.stop();
        pair.say(ToBuyer::Stopped { end: next + 40, due: signed.checked_add(sat(9)).unwrap() });
        assert!(matches!(pair.errors.last(), Some(ReceiveError::AfterStop { .. })), "{:?}", pair.errors);
        pair.start();
        pair.say(ToBuyer::Begun { paid: signed, credit: sat(8) });
        pair.say(ToBuyer::Stopped { end: next + 1, due: pair.price_of(next + 1) });
        assert_eq!(pair.errors.len(), 1, "{:?}", pair.errors);
        pair.say(ToBuyer::Stopped { end: next + 2, due: pair.price_of(next + 2) });
        assert_eq!(pair.errors.last(), Some(&ReceiveError::LaterEnd { said: next + 2, before: next + 1 }));
    }
}

#[test]
fn by_the_second_no_reading_is_paid_that_is_stamped_after_now() {
    for (tariff, is_refused) in [(by_second as fn(Price) -> Tariff, true), (Tariff::Reading, false)] {
        let mut pair = Pair::new(Setup { goods: live(tariff, 1_500, 500), ..Setup::default() });
        // The clock of the buyer says that reading 20 is as far ahead as two clocks may differ.
        pair.clock_ms = pair.time_ms(20) - CLOCK_TOLERANCE_MS;
        pair.settle();
        if is_refused {
            let ahead = |error: &ReceiveError| matches!(error, ReceiveError::Ahead { seq, .. } if *seq > 20);
            assert!(pair.errors.iter().all(ahead) && !pair.errors.is_empty(), "{:?}", pair.errors);
            assert!((15..=18).contains(&pair.kept()), "{}", pair.kept());
        } else {
            assert_eq!((pair.errors.len(), pair.kept()), (0, READINGS - 3));
        }
    }
}

#[test]
fn a_range_that_its_seller_ends_early_is_not_complete() {
    let mut pair = Pair::new(range());
    run_until(&mut pair, 12);
    let kept = pair.kept();
    pair.say_ended();
    let state = &pair.purchase().state;
    assert!(
        matches!(state, ChannelPurchaseState::Ended { missing, .. } if *missing == 40 - kept),
        "{state:?}"
    );
    assert!(!state.is_complete());
    assert_eq!(state.name(), "ended early");
    assert_eq!(pair.spending().ended, pair.price_of(5 + kept), "and costs what came");
    let mut pair = Pair::new(range());
    pair.settle();
    assert!(pair.purchase().state.is_complete());
}

#[test]
fn a_buyer_that_says_what_it_has_and_stops_is_not_given_that_when_it_comes_back() {
    for (goods, first) in
        [(range().goods, 5), (live(Tariff::Reading, 1_500, 500), 3), (live(by_second, 1_500, 500), 3)]
    {
        let mut pair = Pair::new(Setup { goods, ..Setup::default() });
        pair.start();
        let Some(ToSeller::Begin(begin)) = pair.to_seller.pop_front() else { unreachable!() };
        let at = |next| ToSeller::Begin(Box::new(Begin { next, budget: sat(400), ..(*begin).clone() }));
        // The invariants are checked with each frame: what goes out is paid, or within the exposure.
        for frame in [at(45), ToSeller::Stop, at(first), ToSeller::Stop] {
            pair.to_seller.push_back(frame);
            pair.deliver_to_seller();
        }
        assert!(pair.price_of(first + pair.sent_readings()) <= sat(8));
    }
}

/// A buyer with one order after the other on one channel, and a seller whose frames and answers are chosen by bytes. Only its readings are real, and it
/// shows vouchers that were signed.
struct Prey {
    world: World,
    goods: Goods,
    msat: u64,
    limit: u64,
    clock_ms: i64,
    nonce: u8,
    spending: Spending,
    stored_spending: SpendingRecord,
    stored: ChannelPurchase,
    terms: Terms,
    receive: Receive,
    reservation: Option<Reservation>,
    stakes: Stakes,
    connected: bool,
    /// It has crashed, and the seller has not said what was paid.
    asks: bool,
    /// All amounts that were ever signed.
    vouchers: Vec<Satoshis>,
    /// What the order has paid with any voucher since the last crash, or had paid before as the seller says.
    paid: Satoshis,
    /// What it had paid before the last crash, as the seller says.
    learned: Satoshis,
    /// What orders were due by their receipts.
    receipted: Satoshis,
    /// What the seller says in its first frame.
    begun: (Satoshis, Satoshis),
    /// The most that the order may come to since it was stopped.
    most: Option<Satoshis>,
}

impl Prey {
    fn new(goods: Goods, msat: u64, limit: u64, newest: u64) -> Self {
        let world = World::uneven(READINGS);
        let spending = Spending::new(SpendingRecord::new(funded(&world).capacity()));
        let clock_ms = world.stream.readings[newest as usize].time / 1_000_000 - CLOCK_TOLERANCE_MS;
        let (stored, terms) = Self::agree(&world, goods, msat, 0, Satoshis::MAX);
        let mut prey = Self {
            receive: Receive::new(stored.clone(), terms.clone(), Interval::none()),
            stored_spending: spending.record(),
            stakes: Stakes::new(sat(limit)),
            reservation: None,
            connected: false,
            asks: false,
            vouchers: vec![Satoshis::ZERO],
            paid: Satoshis::ZERO,
            learned: Satoshis::ZERO,
            receipted: Satoshis::ZERO,
            begun: (Satoshis::ZERO, Satoshis::ZERO),
            most: None,
            nonce: 0,
            world,
            goods,
            msat,
            limit,
            clock_ms,
            spending,
            stored,
            terms,
        };
        prey.order();
        prey
    }

    fn agree(world: &World, goods: Goods, msat: u64, nonce: u8, most: Satoshis) -> (ChannelPurchase, Terms) {
        let (offer, budget) = offered(world, goods, msat, None);
        let (seller, buyer, now) = (world.seller.public(), &world.buyer, world.now_ms);
        let budget = budget.min(most);
        ChannelPurchase::agree(offer, seller, channel_id(), budget, [nonce; 16], buyer, NETWORK, now).unwrap()
    }

    fn interval(&self) -> Interval {
        Interval::new(sat(1), sat(self.limit), self.terms.unit().unwrap()).unwrap_or(Interval::none())
    }

    /// The next order, with what the channel has left.
    fn order(&mut self) {
        if self.asks {
            return;
        }
        self.nonce = self.nonce.wrapping_add(1);
        let free = self.spending.record().free().unwrap();
        let (stored, terms) = Self::agree(&self.world, self.goods, self.msat, self.nonce, free);
        let disk = &mut self.stored_spending;
        let reserved = self.spending.reserve(stored.id, stored.budget, |record| {
            *disk = record.clone();
            Ok::<_, SpendingError>(())
        });
        (self.reservation, self.stored, self.terms) = (reserved.ok(), stored, terms);
        self.receive = Receive::new(self.stored.clone(), self.terms.clone(), self.interval());
        (self.paid, self.learned) = (Satoshis::ZERO, Satoshis::ZERO);
        (self.most, self.connected) = (None, false);
    }

    fn crash(&mut self) {
        (self.connected, self.asks, self.paid) = (false, true, Satoshis::ZERO);
        std::mem::forget(self.reservation.take());
        self.spending = Spending::new(self.stored_spending.clone());
        self.stakes = Stakes::new(sat(self.limit));
        self.receive = Receive::new(self.stored.clone(), self.terms.clone(), self.interval());
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.receive.interrupted();
    }

    /// The seller answers what was paid: any voucher that it has, any sum that it says.
    fn start(&mut self, (voucher, booked, claimed): (u8, u8, u8)) {
        if self.asks {
            let highest = self.vouchers[self.vouchers.len().saturating_sub(1 + usize::from(voucher % 8))];
            let booked = highest.min(sat(u64::from(booked) * 4));
            let order = self.stored.id;
            let due = self.stored.due(&self.terms).unwrap();
            let claim = Claim { order, paid: sat(u64::from(claimed)), due };
            let claims = if self.stored.is_final() { Vec::new() } else { vec![claim] };
            let mut record = self.stored_spending.clone();
            if let Ok(unclaimed) = record.learn(highest, booked, &claims, sat(self.limit), false) {
                assert_eq!(unclaimed, Satoshis::ZERO, "every order is known");
                self.stored_spending = record.clone();
                self.spending = Spending::new(record);
                self.reservation = self.spending.take_up(order);
                self.paid = self.reservation.as_ref().map_or(Satoshis::ZERO, Reservation::paid);
                self.learned = self.paid;
                self.asks = false;
            }
        }
        let Some(reservation) = &self.reservation else { return };
        let open = self.stored.open(&self.terms, reservation.paid()).unwrap();
        self.stakes.note(self.stored.id, open);
        self.connected = true;
        drop(self.receive.start());
    }

    fn event(&mut self, event: ReceiveEvent) {
        let Some(reservation) = self.reservation.as_mut() else { return };
        match self.receive.handle(event, reservation, &mut self.stakes, NETWORK, self.clock_ms) {
            Ok(actions) => actions.into_iter().for_each(|action| self.follow(action)),
            Err(_) => self.disconnect(),
        }
    }

    fn say(&mut self, frame: ToBuyer) {
        if self.connected {
            self.event(ReceiveEvent::Frame(Box::new(frame)));
        }
    }

    fn follow(&mut self, action: ReceiveAction) {
        match action {
            ReceiveAction::Keep { page, .. } => {
                if let Tariff::Second { .. } = self.terms.tariff {
                    let latest = page.readings.iter().map(|reading| reading.time / 1_000_000).max().unwrap();
                    assert!(latest <= self.clock_ms + CLOCK_TOLERANCE_MS, "it was not measured yet");
                }
                self.stored = self.receive.purchase().clone();
            }
            ReceiveAction::Store => self.stored = self.receive.purchase().clone(),
            ReceiveAction::Voucher { paid, amount } => {
                self.paid = self.paid.max(paid);
                self.vouchers.push(amount);
            }
            ReceiveAction::Send(_) => {}
            ReceiveAction::End(paid) => {
                self.stored = self.receive.purchase().clone();
                self.reservation.take().unwrap().end(paid).unwrap();
                self.stored_spending = self.spending.record();
                self.receipted = self.receipted.checked_add(paid).unwrap();
                if let ChannelPurchaseState::Ended { missing, .. } = self.stored.state {
                    assert_eq!(missing, self.terms.end.map_or(0, |end| end - self.stored.next));
                }
            }
        }
    }

    fn act(&mut self, (what, how, more): (u8, u8, u8)) {
        crate::world::count_action();
        let next = self.receive.purchase().next;
        match what % 16 {
            0 => self.start((how, more, how ^ more)),
            1 => {
                self.start((0, how, more));
                let (paid, credit) = (sat(u64::from(how) / 4), sat(u64::from(more) % 40));
                if self.connected {
                    self.begun = (paid, credit);
                    self.say(ToBuyer::Begun { paid, credit });
                }
            }
            2..=6 => {
                let end = (next + 1 + u64::from(how) % 5).min(READINGS);
                if next < end {
                    self.say(page(&self.world, &self.terms, next, end));
                }
            }
            7 => {
                let end = (next + u64::from(how) % 20).saturating_sub(u64::from(more) % 3);
                self.say(ToBuyer::Stopped { end, due: sat(u64::from(more)) });
            }
            8 => {
                let due = self.receive.due().unwrap();
                let paid = due.checked_add(sat(u64::from(how % 4 / 3))).unwrap();
                self.say(receipt(&self.world, self.receive.purchase(), &self.terms, paid));
            }
            9 => self.say(ToBuyer::Refused(Refusal::Busy { retry_ms: 1 })),
            10 => self.disconnect(),
            11 => self.crash(),
            12 => self.event(ReceiveEvent::Stop),
            13 => self.event(if how % 2 == 0 { ReceiveEvent::Pause } else { ReceiveEvent::Resume }),
            14 if how > 128 => self.event(ReceiveEvent::Closing),
            14 => self.event(ReceiveEvent::Room),
            _ if self.stored.is_final() => self.order(),
            _ => {}
        }
        self.check();
    }

    fn check(&mut self) {
        let purchase = self.receive.purchase();
        let due = price_of(&self.world, &self.terms, purchase.next);
        // I1: signed for what is verified, and the exposure, over all orders.
        let open = if purchase.is_final() { Satoshis::ZERO } else { due };
        let verified = self.receipted.checked_add(open).unwrap();
        let signed = self.vouchers.iter().max().unwrap();
        assert!(
            *signed <= verified.checked_add(sat(self.limit)).unwrap(),
            "signed {signed}, verified {verified}"
        );
        // What has ended is what receipts say, whatever the seller claims at whatever start.
        let (now, disk) = (self.spending.record(), &self.stored_spending);
        assert_eq!((now.ended, disk.ended), (self.receipted, self.receipted));
        assert!(
            *signed <= disk.highest.max(disk.promised().unwrap()),
            "no voucher proves that memory was lost"
        );
        // A stop is one.
        if let ChannelPurchaseState::Stopping { end, bound: Some(Bound { at_once, in_all }) } = purchase.state
        {
            let (said, credit) = self.begun;
            let most =
                *self.most.get_or_insert_with(|| due.max(self.paid).max(said).checked_add(credit).unwrap());
            assert!(in_all <= most && due <= in_all, "{due} of {in_all}: {most}");
            assert!(self.paid <= in_all.max(self.learned), "{} of {in_all}", self.paid);
            assert!(
                end.is_some() || self.paid <= at_once.max(self.learned),
                "paid before it is known where the order ends"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Bytes choose what a seller says, in its frames and when it is asked what was paid, over connections that break, crashes of the buyer and several
    /// orders on one channel.
    #[test]
    fn whatever_happens_at_a_seller_that_lies_its_buyer_pays_for_what_it_has_verified(
        actions in prop::collection::vec(any::<(u8, u8, u8)>(), 0..200),
        limit in 0u64..30,
        msat in 1u64..6_000,
        kind in 0u8..3,
        newest in 10u64..64,
    ) {
        let goods = match kind {
            0 => Goods::Range { first: 3, count: 50 },
            1 => live(Tariff::Reading, msat, 200),
            _ => live(by_second, msat, 200),
        };
        let mut prey = Prey::new(goods, msat, limit, newest);
        for action in actions {
            prey.act(action);
        }
    }

    /// Bytes choose what a buyer sends: any beginning, any voucher that it can sign, in any order, while the seller crashes and its channel closes.
    #[test]
    fn whatever_happens_at_a_buyer_that_lies_its_seller_delivers_for_what_is_paid_and_its_exposure(
        actions in prop::collection::vec(any::<(u8, u8, u8)>(), 0..150),
        seller_limit in 0u64..30,
        msat in 1u64..6_000,
        kind in 0u8..3,
    ) {
        let goods = match kind {
            0 => Goods::Range { first: 3, count: 50 },
            1 => live(Tariff::Reading, msat, 200),
            _ => live(by_second, msat, 200),
        };
        let setup = Setup { goods, buyer_limit: 0, seller_limit, msat, size: 20, budget: None, endings: true };
        let mut pair = Pair::new(setup);
        pair.start();
        let Some(ToSeller::Begin(begin)) = pair.to_seller.pop_front() else { unreachable!() };
        for (what, how, more) in actions {
            crate::world::count_action();
            let frame = match what % 12 {
                0 | 1 => {
                    let (next, budget) = (u64::from(how) % 80, sat(u64::from(more) * 2));
                    Some(ToSeller::Begin(Box::new(Begin { next, budget, ..(*begin).clone() })))
                }
                2..=5 => pair.sign(sat(u64::from(how) / 2), sat(u64::from(more) * 4)),
                6 => Some(ToSeller::Pause),
                7 => Some(ToSeller::Resume),
                8 => Some(ToSeller::Stop),
                9 => {
                    pair.act(14);
                    None
                }
                10 if how > 250 => {
                    pair.close_at_seller();
                    None
                }
                _ => {
                    pair.grow(20 + u64::from(how) % 44);
                    None
                }
            };
            pair.to_buyer.clear();
            if let Some(frame) = frame {
                pair.to_seller.push_back(frame);
                pair.deliver_to_seller();
            }
            pair.check();
        }
    }
}
