//! Breaks at the worst moment, records that lie, and budgets that nothing fits into: nobody loses what was paid or delivered, and nobody
//! waits for ever.

use sensora_chain::Satoshis;
use sensora_protocol::market::delivery::frame::{Begin, ToBuyer, ToSeller};
use sensora_protocol::market::delivery::receive::ReceiveError;
use sensora_protocol::market::delivery::supply::ChannelSale;
use sensora_protocol::market::price::{Price, Tariff};
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::{ChannelId, OrderId};

use super::pair::{Goods, Pair, READINGS, Setup};
use super::range;
use crate::world::{NETWORK, identity, sat};

fn live(msat: u64, budget: u64) -> Goods {
    Goods::Live { first: 5, tariff: Tariff::Reading(Price::from_msat(msat).unwrap()), budget }
}

fn by_second(msat: u64, budget: u64) -> Goods {
    let price = Price::from_msat(msat).unwrap();
    Goods::Live { first: 0, tariff: Tariff::Second { price, longest_gap_ms: 2_000 }, budget }
}

#[test]
fn readings_that_were_lost_after_all_was_paid_are_delivered_before_the_receipt() {
    let mut pair = Pair::new(Setup { buyer_limit: 100, ..range() });
    pair.start();
    while !pair.to_buyer.iter().any(|frame| matches!(frame, ToBuyer::Ended { .. })) {
        assert!(pair.deliver_to_seller() || pair.deliver_to_buyer());
    }
    assert!(pair.kept() < 40, "the last readings are under way");
    pair.disconnect();
    pair.settle();
    assert_eq!(pair.errors, []);
    pair.check_ended(40);
}

#[test]
fn a_range_ends_where_its_budget_does() {
    for (budget, readings) in [(0, 0), (1, 0), (2, 1), (30, 20), (59, 39)] {
        let mut pair = Pair::new(Setup { budget: Some(budget), ..range() });
        pair.settle();
        pair.check_ended(readings);
        assert!(pair.paid() <= sat(budget));
    }
}

#[test]
fn a_live_stream_whose_budget_holds_no_reading_ends_at_once() {
    for budget in [0, 1] {
        let mut pair = Pair::new(Setup { goods: live(2_000, budget), ..Setup::default() });
        pair.settle();
        pair.check_ended(0);
        assert_eq!(pair.paid(), Satoshis::ZERO);
    }
}

#[test]
fn a_stream_by_the_second_ends_within_its_budget() {
    for (buyer_limit, seller_limit) in [(8, 8), (0, 8), (8, 0), (0, 6), (6, 0)] {
        for budget in [0, 2, 3, 31, 400] {
            let goods = by_second(3_000, budget);
            let mut pair =
                Pair::new(Setup { goods, buyer_limit, seller_limit, size: 10, ..Setup::default() });
            for size in 11..READINGS {
                pair.settle();
                pair.grow(size);
            }
            pair.settle();
            if budget < 400 {
                pair.check_ended(pair.kept());
                let next = pair.price_of(pair.kept() + 1);
                assert!(next >= sat(budget), "the next reading would make it {next} of {budget}");
            }
            assert!(pair.booked() <= sat(budget), "{}", pair.booked());
        }
    }
}

#[test]
fn a_store_that_does_not_know_a_time_is_asked_again_later_and_not_for_ever() {
    let mut pair = Pair::new(Setup { goods: by_second(3_000, 400), size: 10, ..Setup::default() });
    pair.silent_store(true);
    pair.settle();
    assert_eq!(pair.kept(), 0);
    pair.silent_store(false);
    pair.grow(11);
    pair.settle();
    assert_eq!(pair.kept(), 11);
}

#[test]
fn a_page_that_cannot_be_paid_is_not_passed_over() {
    let mut pair = Pair::new(Setup { buyer_limit: 0, ..range() });
    pair.start();
    while pair.kept() < 9 {
        assert!(pair.deliver_to_seller() || pair.deliver_to_buyer());
    }
    // The channel's account has less left for the order than it may cost.
    pair.come_back(0, 5);
    pair.settle();
    assert!(matches!(pair.errors.last(), Some(ReceiveError::Spending(_))), "{:?}", pair.errors);
    assert!(pair.kept() < 40);
    pair.extend(60);
    pair.settle();
    pair.check_ended(40);
}

#[test]
fn who_only_owes_or_waits_for_what_is_paid_needs_no_trust() {
    // All is here, and only the last voucher was lost.
    let mut pair = Pair::new(Setup { buyer_limit: 0, ..range() });
    pair.start();
    while pair.kept() < 40 {
        assert!(pair.deliver_to_seller() || pair.deliver_to_buyer());
    }
    pair.come_back(0, 20);
    pair.no_more_credit();
    pair.settle();
    assert_eq!(pair.errors, []);
    pair.check_ended(40);
    // All is paid, and the last pages were lost.
    let mut pair = Pair::new(Setup { buyer_limit: 100, seller_limit: 0, ..range() });
    pair.start();
    while pair.signed() < sat(60) {
        assert!(pair.deliver_to_seller() || pair.deliver_to_buyer());
    }
    assert!(pair.kept() < 40);
    pair.come_back(0, 0);
    pair.settle();
    assert_eq!(pair.errors, []);
    pair.check_ended(40);
}

#[test]
fn a_pause_outlives_the_connection() {
    let mut pair = Pair::new(Setup { goods: live(2_000, 100), size: 10, ..Setup::default() });
    pair.settle();
    pair.pause(true);
    pair.settle();
    pair.disconnect();
    pair.settle();
    pair.grow(20);
    pair.settle();
    assert_eq!(pair.kept(), 5);
    pair.pause(false);
    pair.settle();
    assert_eq!(pair.kept(), 15);
}

#[test]
fn an_order_goes_on_with_its_buyer_and_on_its_channel_only() {
    let mut pair = Pair::new(range());
    pair.start();
    let Some(ToSeller::Begin(begin)) = pair.to_seller.front().cloned() else { panic!() };
    pair.settle();
    let sale = pair.sale();
    let go_on = |begin: &Begin, sale: &ChannelSale| sale.go_on(begin, NETWORK, &identity(1)).map(|_| ());
    assert_eq!(go_on(&begin, sale), Ok(()));
    let other = Begin { channel: ChannelId([1; 32]), ..(*begin).clone() };
    assert!(matches!(go_on(&other, sale), Err(Refusal::InvalidOrder { .. })));
    let stranger = ChannelSale { buyer: *identity(7).public(), ..sale.clone() };
    assert!(matches!(go_on(&begin, &stranger), Err(Refusal::InvalidOrder { .. })));
    let another = ChannelSale { order: OrderId([3; 32]), ..sale.clone() };
    assert!(matches!(go_on(&begin, &another), Err(Refusal::UnknownOrder { .. })));
    assert_eq!(begin.order_id(NETWORK, identity(2).public()), Ok(sale.order));
    assert!(begin.order_id(NETWORK, identity(7).public()).is_err());
}
