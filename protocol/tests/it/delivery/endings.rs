//! Orders that end otherwise than with their last reading: before their channel closes, when it has closed, and when their seller has forgotten them.

use sensora_chain::Satoshis;
use sensora_protocol::market::delivery::frame::ToBuyer;
use sensora_protocol::market::delivery::receive::{ChannelPurchaseState, ReceiveError};
use sensora_protocol::market::delivery::supply::ChannelSaleState;
use sensora_protocol::market::price::{Price, Tariff};
use sensora_protocol::market::refusal::Refusal;

use super::pair::{Goods, Pair, Setup};
use super::range;
use crate::world::sat;

fn live(budget: u64) -> Setup {
    let goods = Goods::Live { first: 0, tariff: Tariff::Reading(Price::from_msat(1_500).unwrap()), budget };
    Setup { goods, size: 50, ..Setup::default() }
}

fn run_until(pair: &mut Pair, kept: u64) {
    pair.start();
    while pair.kept() < kept {
        assert!(pair.deliver_to_seller() || pair.deliver_to_buyer());
    }
}

#[test]
fn orders_are_brought_to_their_end_before_their_channel_closes() {
    for setup in [live(500), range()] {
        let mut pair = Pair::new(setup);
        run_until(&mut pair, 12);
        pair.closing();
        pair.settle();
        let kept = pair.kept();
        assert!((12..40).contains(&kept), "{kept}");
        pair.check_ended(kept);
        pair.grow(60);
        pair.close_at_seller();
        pair.close_at_buyer();
        pair.check_ended(kept);
    }
}

#[test]
fn either_side_alone_ends_an_order_whose_channel_closes() {
    use sensora_protocol::market::delivery::receive::ReceiveEvent;
    use sensora_protocol::market::delivery::supply::SupplyEvent;
    for seller in [true, false] {
        let mut pair = Pair::new(live(500));
        run_until(&mut pair, 12);
        match seller {
            true => pair.seller_event(SupplyEvent::Closing),
            false => pair.buyer_event(ReceiveEvent::Closing),
        }
        pair.settle();
        pair.check_ended(pair.kept());
    }
}

#[test]
fn what_a_closed_channel_leaves_unpaid_is_on_the_books_and_blocks_nobody() {
    for crashed in [false, true] {
        let mut pair = Pair::new(Setup { buyer_limit: 0, ..range() });
        run_until(&mut pair, 12);
        // Readings are here, and the voucher for them is lost.
        pair.disconnect();
        assert!(!pair.stakes().1.is_zero(), "the buyer owes");
        if crashed {
            pair.act(13);
        }
        pair.close_at_seller();
        pair.settle();
        let closed =
            |error: &ReceiveError| matches!(error, ReceiveError::Refused(Refusal::ChannelClosed { .. }));
        assert!(pair.errors.iter().any(|error| closed(error) && error.is_forgotten()), "{:?}", pair.errors);
        pair.close_at_buyer();
        pair.check_over();
        let ChannelSaleState::LeftUnpaid { paid, unpaid } = pair.sale().state else { panic!() };
        assert!(!unpaid.is_zero() && unpaid <= sat(8));
        let ChannelPurchaseState::LeftUnpaid { paid: said, due } = pair.purchase().state else { panic!() };
        assert!(said >= paid && due > paid, "{said} {due} {paid}");
        assert_eq!(pair.stakes(), (Satoshis::ZERO, Satoshis::ZERO));
        pair.start();
        assert!(pair.to_seller.is_empty(), "it is never begun or paid again");
    }
}

#[test]
fn an_order_that_was_paid_when_its_channel_closed_still_gets_its_readings_and_receipt() {
    let mut pair = Pair::new(Setup { buyer_limit: 100, ..range() });
    pair.start();
    while pair.signed() < sat(60) || !pair.to_seller.is_empty() {
        assert!(pair.deliver_to_seller() || pair.deliver_to_buyer());
    }
    assert!(pair.kept() < 40);
    pair.close_at_seller();
    pair.settle();
    pair.check_ended(40);
}

#[test]
fn what_was_paid_ahead_is_free_again_when_an_order_is_stopped() {
    for lost in [false, true] {
        let mut pair = Pair::new(Setup { buyer_limit: 64, seller_limit: 0, ..live(500) });
        run_until(&mut pair, 30);
        pair.stop();
        if lost {
            pair.disconnect();
        }
        pair.settle();
        let kept = pair.kept();
        pair.check_ended(kept);
        let price = pair.price_of(kept);
        assert_eq!((pair.booked(), pair.spending().ended), (price, price));
        assert!(pair.signed() >= price);
        assert_eq!(pair.spending().free(), Ok(pair.spending().capacity.checked_sub(price).unwrap()));
    }
}

#[test]
fn an_order_that_its_seller_has_forgotten_can_be_given_up_and_is_never_paid_again() {
    for crashed in [false, true] {
        let mut pair = Pair::new(live(100));
        run_until(&mut pair, 12);
        let signed = pair.signed();
        pair.forget_at_seller();
        if crashed {
            pair.act(13);
        } else {
            pair.start();
            while pair.deliver_to_seller() || pair.deliver_to_buyer() {}
            let last = pair.errors.last().unwrap();
            assert!(matches!(last, ReceiveError::Refused(Refusal::OfferExpired { .. })), "{last}");
            assert!(last.is_forgotten());
        }
        pair.give_up();
        let ChannelPurchaseState::GivenUp { paid, due } = pair.purchase().state else { panic!() };
        // Where nobody could be asked, all that was reserved may have been paid.
        assert_eq!(paid, if crashed { sat(100) } else { signed });
        assert_eq!((pair.spending().ended, due), (paid, pair.price_of(pair.kept())));
        assert_eq!(pair.stakes().0, Satoshis::ZERO);
        pair.start();
        assert!(pair.to_seller.is_empty());
        pair.to_buyer.push_back(ToBuyer::Begun { paid: Satoshis::ZERO, credit: sat(8) });
        pair.deliver_to_buyer();
        assert_eq!((pair.signed(), pair.to_seller.len()), (signed, 0));
    }
}
