//! Delivery through a channel: both state machines against each other, whatever the network and the disks do.

mod bad_pages;
mod endings;
mod hostile;
mod liars;
mod live;
mod many;
pub(crate) mod pair;

use proptest::prelude::*;
use sensora_chain::Satoshis;
use sensora_protocol::market::delivery::frame::{ToBuyer, ToSeller};
use sensora_protocol::market::delivery::receive::{ChannelPurchaseState, ReceiveError};
use sensora_protocol::market::delivery::supply::ChannelSaleState;
use sensora_protocol::market::delivery::{DeliveryError, Page};
use sensora_protocol::market::price::{Price, Tariff};

use crate::world::sat;
use pair::{Goods, Pair, Setup};

fn range() -> Setup {
    Setup { goods: Goods::Range { first: 5, count: 40 }, ..Setup::default() }
}

#[test]
fn a_range_is_paid_while_it_comes_and_ends_with_a_receipt() {
    let mut pair = Pair::new(range());
    pair.settle();
    pair.check_ended(40);
    // 40 readings at 1.5 sat.
    assert_eq!(pair.paid(), sat(60));
    assert!(pair.vouchers > 3, "not in one piece: {}", pair.vouchers);
    assert!(pair.vouchers < 40, "not for each reading: {}", pair.vouchers);
}

#[test]
fn either_side_may_go_first_alone() {
    for (buyer, seller) in [(0, 12), (12, 0), (2, 2), (2, 0), (0, 2), (1000, 1000)] {
        let mut pair = Pair::new(Setup { buyer_limit: buyer, seller_limit: seller, ..range() });
        pair.settle();
        pair.check_ended(40);
        assert_eq!(pair.paid(), sat(60), "exposures of {buyer} and {seller}");
    }
}

#[test]
fn where_nobody_can_go_first_it_is_said_before_anything_moves() {
    let mut pair = Pair::new(Setup { buyer_limit: 1, seller_limit: 1, ..range() });
    pair.settle();
    let error = pair.errors.first().unwrap();
    assert_eq!(error, &ReceiveError::NobodyBegins { unit: sat(2), limit: Satoshis::ZERO });
    assert_eq!((pair.paid(), pair.sent_readings()), (Satoshis::ZERO, 0));
    assert!(error.to_string().contains("buyer.exposure_sat"), "{error}");
}

#[test]
fn a_page_that_does_not_verify_is_followed_by_no_voucher() {
    let mut pair = Pair::new(range());
    pair.start();
    while pair.kept() < 4 {
        assert!(pair.deliver_to_seller() || pair.deliver_to_buyer());
    }
    let before = (pair.paid(), pair.kept());
    while !matches!(pair.to_buyer.front(), Some(ToBuyer::Page(_))) {
        assert!(pair.deliver_to_seller() || pair.deliver_to_buyer());
    }
    let (paid, kept) = (pair.signed(), pair.kept());
    let Some(ToBuyer::Page(Page { runs, .. })) = pair.to_buyer.front_mut() else { unreachable!() };
    runs[0].columns[4] ^= 1;
    pair.deliver_to_buyer();
    assert!(matches!(pair.errors.last(), Some(ReceiveError::Delivery(DeliveryError::NotProven { .. }))));
    assert_eq!((pair.signed(), pair.kept()), (paid, kept), "from {before:?}");
    assert!(!pair.is_connected(), "the stream ends");
    pair.settle();
    pair.check_ended(40);
}

#[test]
fn a_live_stream_follows_the_log_and_ends_within_its_budget() {
    let goods =
        Goods::Live { first: 5, tariff: Tariff::Reading(Price::from_msat(2_000).unwrap()), budget: 31 };
    let mut pair = Pair::new(Setup { goods, size: 10, ..Setup::default() });
    pair.settle();
    assert_eq!(pair.kept(), 5, "what is there comes first");
    for size in 11..40 {
        pair.grow(size);
        pair.settle();
        assert_eq!(pair.kept(), (size - 5).min(15), "and then each as it is measured");
    }
    pair.check_ended(15);
    assert_eq!(pair.paid(), sat(30));
}

#[test]
fn a_live_stream_is_stopped_by_the_buyer_and_what_came_is_paid() {
    let goods =
        Goods::Live { first: 0, tariff: Tariff::Reading(Price::from_msat(700).unwrap()), budget: 500 };
    let mut pair = Pair::new(Setup { goods, size: 50, ..Setup::default() });
    pair.start();
    while pair.kept() < 20 {
        assert!(pair.deliver_to_seller() || pair.deliver_to_buyer());
    }
    pair.stop();
    pair.settle();
    let kept = pair.kept();
    assert!((20..50).contains(&kept), "{kept}");
    pair.check_ended(kept);
    assert_eq!(pair.booked(), Price::from_msat(700).unwrap().due(kept).unwrap());
}

#[test]
fn a_stream_by_the_second_costs_what_its_time_stamps_say_and_a_pause_changes_nothing() {
    let price = Price::from_msat(3_000).unwrap();
    let goods =
        Goods::Live { first: 0, tariff: Tariff::Second { price, longest_gap_ms: 2_000 }, budget: 500 };
    let mut paid = Vec::new();
    for pauses in [false, true] {
        let mut pair = Pair::new(Setup { goods, size: 10, ..Setup::default() });
        pair.settle();
        for size in 11..=40 {
            if pauses && size % 7 == 0 {
                pair.pause(size % 14 == 0);
            }
            pair.grow(size);
            pair.settle();
        }
        pair.pause(false);
        pair.settle();
        assert_eq!(pair.kept(), 40);
        pair.stop();
        pair.settle();
        pair.check_ended(40);
        paid.push(pair.booked());
    }
    assert_eq!(paid[0], paid[1]);
    assert!(paid[0] > sat(60), "{paid:?}");
}

#[test]
fn an_order_that_has_ended_is_answered_with_the_same_receipt() {
    let mut pair = Pair::new(range());
    pair.settle();
    let ChannelSaleState::Ended { receipt } = pair.sale().state.clone() else { panic!() };
    pair.forget_the_end();
    pair.settle();
    pair.check_ended(40);
    let ChannelPurchaseState::Ended { receipt: again, .. } = pair.purchase().state.clone() else { panic!() };
    assert_eq!(receipt, again);
}

#[test]
fn frames_of_the_wrong_moment_are_errors_and_change_nothing() {
    let mut pair = Pair::new(range());
    pair.start();
    pair.to_buyer.push_back(ToBuyer::Stopped { end: 9, due: sat(6) });
    pair.deliver_to_buyer();
    assert!(matches!(pair.errors.last(), Some(ReceiveError::Unexpected { frame: "stopped", .. })));
    for (end, due) in [(4, 0), (9, 7), (9, u64::MAX / 2_000)] {
        let mut pair = Pair::new(range());
        pair.start();
        while pair.kept() < 2 {
            assert!(pair.deliver_to_seller() || pair.deliver_to_buyer());
        }
        let signed = pair.signed();
        pair.to_buyer.push_front(ToBuyer::Stopped { end, due: sat(due) });
        pair.deliver_to_buyer();
        assert!(!pair.errors.is_empty(), "{end} {due}");
        assert_eq!(pair.signed(), signed);
    }
    // A voucher that is not higher than the last one is refused, by name.
    let mut pair = Pair::new(range());
    pair.start();
    while !matches!(pair.to_seller.front(), Some(ToSeller::Voucher(_))) {
        assert!(pair.deliver_to_seller() || pair.deliver_to_buyer());
    }
    let voucher = pair.to_seller.front().cloned().unwrap();
    pair.deliver_to_seller();
    pair.to_seller.push_front(voucher);
    pair.deliver_to_seller();
    assert!(
        pair.refusals.iter().any(|refusal| refusal.to_string().contains("already")),
        "{:?}",
        pair.refusals
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Bytes choose what happens: frames arrive or are lost, connections break, both crash and come back with what was stored. The invariants
    /// are checked after each action; when all is quiet and the network works, the order ends, charged once.
    #[test]
    fn whatever_happens_neither_side_risks_more_than_it_chose(
        actions in prop::collection::vec(any::<u8>(), 0..250),
        buyer_limit in 0u64..30,
        seller_limit in 0u64..30,
        msat in 1u64..9_000,
        kind in 0u8..3,
        endings in prop::bool::weighted(0.4),
    ) {
        let price = Price::from_msat(msat).unwrap();
        let goods = match kind {
            0 => Goods::Range { first: 3, count: 50 },
            1 => Goods::Live { first: 3, tariff: Tariff::Reading(price), budget: 200 },
            _ => Goods::Live { first: 3, tariff: Tariff::Second { price, longest_gap_ms: 2_500 }, budget: 200 },
        };
        let setup = Setup { goods, buyer_limit, seller_limit, msat, size: 20, budget: None, endings };
        let mut pair = Pair::new(setup);
        for action in actions {
            pair.act(action);
        }
        pair.come_to_an_end();
        if kind == 0 && !endings && pair.can_begin() {
            prop_assert_eq!(pair.kept(), 50);
        }
    }
}
