//! The life of a channel: both state machines and a chain, whatever comes in between.

pub(crate) mod chain;
mod invariants;
pub(crate) mod market;

use proptest::prelude::*;
use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::{RefundHeight, data_output};
use sensora_chain::header::HeaderView as _;
use sensora_chain::{Satoshis, TxOut};
use sensora_protocol::Signed;
use sensora_protocol::market::channel::buyer::BuyerChannelEvent;
use sensora_protocol::market::channel::message::{ChannelReport, ChannelStanding, CloseChannel, OpenChannel};
use sensora_protocol::market::channel::offer::{
    ChannelKeys, ChannelOffer, ChannelOfferError, MIN_MARGIN, signing_invoice,
};
use sensora_protocol::market::channel::seller::{
    BookError, SellerChannel, SellerChannelAction, SellerChannelEvent, SellerChannelState,
};
use sensora_protocol::market::delivery::frame::OrderVoucher;
use sensora_protocol::market::refusal::Refusal;

use crate::world::{NETWORK, NOW_MS, World, beef, identity, sat};
use market::{BLOCKS, CAPACITY, FEE, Market, ORDER, ToBuyer, ToSeller, VALUE, limits, offer};

#[test]
fn a_channel_is_opened_paid_and_closed_with_two_transactions() {
    let mut market = Market::new();
    let deliver = |market: &mut Market| {
        while let Some(message) = market.to_seller.pop() {
            market.deliver_to_seller(message);
        }
        while let Some(message) = market.to_buyer.pop() {
            market.deliver_to_buyer(message);
        }
    };
    deliver(&mut market);
    assert!(market.buyer.channel.is_open());
    for _ in 0..100 {
        market.pay(7);
        deliver(&mut market);
    }
    assert_eq!(market.seller.channel.as_ref().unwrap().earning.highest, sat(700));
    market.chain.mine();
    market.look();
    market.buyer_event(BuyerChannelEvent::CloseAsked);
    deliver(&mut market);
    market.chain.mine();
    market.look();
    assert_eq!(market.buyer.channel.state.name(), "ended");
    assert_eq!(market.seller.channel.as_ref().unwrap().state.name(), "closed");
    assert_eq!((market.seller.credited, market.buyer.credited), (sat(700), sat(CAPACITY - 700)));
    market.check_end();
}

#[test]
fn a_channel_whose_funding_nobody_answered_is_forgotten_when_it_would_be_closed() {
    let mut market = Market::new();
    let open = market.to_seller.pop().unwrap();
    market.deliver_to_seller(open);
    let mut channel = market.seller.channel.clone().unwrap();
    channel.state = SellerChannelState::Admitted;
    let end = market.offer.value().closes_at();
    let seller = &market.world.seller;
    let before = channel.handle(SellerChannelEvent::Tip(end - 1), seller, NETWORK).unwrap();
    assert_eq!((before, channel.state.name()), (Vec::new(), "admitted"));
    let at_end = channel.handle(SellerChannelEvent::Tip(end), seller, NETWORK).unwrap();
    assert_eq!(at_end, [SellerChannelAction::Forget]);
    // One that is open is closed there, and kept.
    let mut open = market.seller.channel.clone().unwrap();
    assert_eq!(open.state.name(), "open");
    let at_end = open.handle(SellerChannelEvent::Tip(end), seller, NETWORK).unwrap();
    assert!(!at_end.contains(&SellerChannelAction::Forget), "{at_end:?}");
    assert_eq!(open.state.name(), "closing");
}

/// A funding that is long because of what else is in it, as a buyer would make it that wants its seller's close to be too long to send.
fn padded_funding(world: &mut World, offer: &Signed<ChannelOffer>, padding: usize) -> OpenChannel {
    let coin = world.coin(VALUE + 50_000);
    let keys = ChannelKeys::for_buyer(&offer.channel_id(NETWORK), world.buyer.key(), world.seller.public());
    let channel = TxOut { value: sat(VALUE), locking: offer.value().locking(&keys) };
    let funding = world.spend(&coin, vec![channel, data_output(&[&vec![0; padding]])]);
    OpenChannel { offer: offer.bytes().clone(), funding: beef(&coin, &funding) }
}

#[test]
fn a_funding_that_leaves_no_room_for_its_close_opens_nothing() {
    let mut world = World::new(1);
    let tip = world.chain.headers.tip_height();
    let offer = Signed::sign(offer(&world, tip), &world.seller, NETWORK).unwrap();
    let most = BeefLimits::PAYMENT.max_bytes;
    // A signature has a byte or two more or less.
    let frame = padded_funding(&mut world, &offer, 60_000).funding.len() - 60_000 + 4;
    let open = padded_funding(&mut world, &offer, most - frame);
    assert!((most - 8..=most).contains(&open.funding.len()), "{}", open.funding.len());
    let channel = SellerChannel::admit(open.clone(), &world.admission()).unwrap();
    // What is taken can be sent with its close to whoever takes a BEEF.
    let (_, contract) = channel.contract(&world.seller, NETWORK).unwrap();
    let mut with_close = Beef::parse(&open.funding, &BeefLimits::DEFAULT).unwrap();
    let key = world.buyer.key().child(world.seller.public(), &signing_invoice(&channel.id));
    let voucher = contract.sign_voucher(sat(5), &key).unwrap();
    let key = world.seller.key().child(world.buyer.public(), &signing_invoice(&channel.id));
    let close = contract.complete(&voucher, &key).unwrap();
    let txid = with_close.add(close, None).unwrap();
    let sent = with_close.to_atomic(&txid).unwrap();
    assert!(Beef::parse(&sent, &BeefLimits::DEFAULT).is_ok(), "{} bytes", sent.len());

    for more in [10, 4 * 1024] {
        let open = padded_funding(&mut world, &offer, most - frame + more);
        let refused = SellerChannel::admit(open, &world.admission()).map(|channel| channel.id);
        let is_said = matches!(&refused, Err(Refusal::PaymentInvalid { reason }) if reason.contains("bytes"));
        assert!(is_said, "{refused:?}");
    }
}

#[test]
fn a_seller_that_never_answers_costs_the_buyer_time_and_a_fee() {
    let mut market = Market::new();
    let open = market.to_seller.pop().unwrap();
    market.deliver_to_seller(open);
    let report = market.to_buyer.pop().unwrap();
    market.deliver_to_buyer(report);
    market.chain.mine();
    market.seller.channel = None;
    for _ in 0..=BLOCKS {
        assert_eq!(market.buyer.channel.state.name(), "open");
        market.chain.mine();
        market.look();
        if market.chain.tip() >= market.offer.value().refund_height.get() {
            break;
        }
    }
    assert_eq!(market.buyer.channel.state.name(), "refunding");
    market.chain.mine();
    market.look();
    assert_eq!(market.buyer.channel.state.name(), "ended");
    assert!(market.buyer.credited >= sat(VALUE - 60), "{}", market.buyer.credited);
}

#[test]
fn a_seller_closes_by_itself_before_the_buyer_could_take_everything_back() {
    let mut market = Market::new();
    for _ in 0..2 {
        let message = market.to_seller.pop().unwrap();
        market.deliver_to_seller(message);
        while let Some(message) = market.to_buyer.pop() {
            market.deliver_to_buyer(message);
        }
        market.pay(500);
    }
    market.to_seller.clear();
    let closes_at = market.offer.value().closes_at();
    while market.chain.tip() + 1 < closes_at {
        market.chain.mine();
        market.look();
        assert_eq!(market.seller.channel.as_ref().unwrap().state.name(), "open");
    }
    market.chain.mine();
    market.look();
    assert_eq!(market.seller.channel.as_ref().unwrap().state.name(), "closing");
    let channel = market.seller.channel.as_mut().unwrap();
    let voucher = OrderVoucher { paid: sat(501), amount: sat(501), signature: channel.signature.unwrap() };
    assert_eq!(channel.book(&market.contract, &ORDER, &voucher), Err(BookError::NotOpen));
    assert!(matches!(channel.view(ChannelStanding::Closing), Err(Refusal::ChannelClosed { .. })));
    market.chain.mine();
    market.look();
    assert_eq!(market.seller.credited, sat(500));
    market.check_end();
}

#[test]
fn a_seller_with_an_old_memory_gets_the_highest_voucher_from_an_honest_close() {
    let mut market = Market::new();
    let open = market.to_seller.pop().unwrap();
    market.deliver_to_seller(open);
    let report = market.to_buyer.pop().unwrap();
    market.deliver_to_buyer(report);
    let backup = market.seller.clone();
    market.pay(300);
    let voucher = market.to_seller.pop().unwrap();
    market.deliver_to_seller(voucher);
    market.seller = backup;
    market.buyer_event(BuyerChannelEvent::CloseAsked);
    let close = market.to_seller.pop().unwrap();
    market.deliver_to_seller(close);
    market.chain.mine();
    market.look();
    assert_eq!(market.seller.credited, sat(300));
    market.check_end();
}

/// A channel whose seller has come back with a backup of when 300 of 500 were paid.
fn restored_seller() -> Market {
    let mut market = Market::new();
    let open = market.to_seller.pop().unwrap();
    market.deliver_to_seller(open);
    let report = market.to_buyer.pop().unwrap();
    market.deliver_to_buyer(report);
    for more in [300, 200] {
        market.pay(more);
        market.backups.1 = market.seller.clone();
        let voucher = market.to_seller.pop().unwrap();
        market.deliver_to_seller(voucher);
    }
    assert_eq!(market.seller.channel.as_ref().unwrap().earning.highest, sat(500));
    market.restore_seller();
    assert_eq!(market.seller.channel.as_ref().unwrap().earning.highest, sat(300));
    market
}

#[test]
fn an_old_backup_costs_a_seller_the_vouchers_that_nobody_tells_it_again() {
    let mut market = restored_seller();
    market.end();
    market.check_end();
    assert_eq!((market.seller.credited, market.buyer.credited), (sat(300), sat(CAPACITY - 300)));
}

#[test]
fn a_seller_with_an_old_backup_has_all_back_with_the_stream_that_begins_anew_or_the_next_payment() {
    for (more, paid) in [(0, 500), (1, 501)] {
        let mut market = restored_seller();
        if more == 0 {
            market.begin_again();
        } else {
            market.pay(more);
        }
        let voucher = market.to_seller.pop().unwrap();
        market.deliver_to_seller(voucher);
        market.check();
        market.end();
        market.check_end();
        assert_eq!(market.seller.credited, sat(paid));
    }
}

#[test]
fn an_offer_that_asks_too_much_is_not_taken() {
    let world = World::new(1);
    let good = offer(&world, 10);
    let accept = |offer: ChannelOffer| {
        let signed = Signed::sign(offer, &world.seller, NETWORK).unwrap();
        ChannelOffer::accept(&signed, NETWORK, world.buyer.key(), sat(VALUE), limits(), 10, NOW_MS)
    };
    accept(good.clone()).unwrap();
    let height = |height| RefundHeight::new(height).unwrap();
    type Fits = fn(&ChannelOfferError) -> bool;
    let cases: [(ChannelOffer, Fits); 10] = [
        (ChannelOffer { buyer: *identity(9).public(), ..good.clone() }, |e| {
            matches!(e, ChannelOfferError::Buyer(_))
        }),
        (ChannelOffer { value: sat(VALUE + 1), ..good.clone() }, |e| {
            matches!(e, ChannelOfferError::Value { .. })
        }),
        (ChannelOffer { refund_height: height(10 + BLOCKS + 1), ..good.clone() }, |e| {
            matches!(e, ChannelOfferError::Height { .. })
        }),
        (ChannelOffer { refund_height: height(10 + MIN_MARGIN), ..good.clone() }, |e| {
            matches!(e, ChannelOfferError::Height { .. })
        }),
        (ChannelOffer { margin: MIN_MARGIN - 1, ..good.clone() }, |e| {
            matches!(e, ChannelOfferError::Height { .. })
        }),
        (ChannelOffer { margin: u32::MAX, ..good.clone() }, |e| {
            matches!(e, ChannelOfferError::Height { .. })
        }),
        (ChannelOffer { close_fee: sat(FEE + 1), ..good.clone() }, |e| {
            matches!(e, ChannelOfferError::CloseFee { .. })
        }),
        (ChannelOffer { close_fee: Satoshis::ZERO, ..good.clone() }, |e| {
            matches!(e, ChannelOfferError::Channel(_))
        }),
        (ChannelOffer { expires_ms: NOW_MS, ..good.clone() }, |e| {
            matches!(e, ChannelOfferError::Lifetime { .. })
        }),
        (ChannelOffer { expires_ms: NOW_MS + 7_200_000, ..good }, |e| {
            matches!(e, ChannelOfferError::Lifetime { .. })
        }),
    ];
    for (index, (offer, fits)) in cases.into_iter().enumerate() {
        let error = accept(offer).unwrap_err();
        assert!(fits(&error), "{index}: {error:?}");
    }
}

#[test]
fn a_report_without_our_signature_is_not_believed() {
    let mut market = Market::new();
    let open = market.to_seller.pop().unwrap();
    market.deliver_to_seller(open);
    let report = market.to_buyer.pop().unwrap();
    market.deliver_to_buyer(report);
    market.pay(300);
    let voucher = market.to_seller.pop().unwrap();
    market.deliver_to_seller(voucher);
    let good = market.report(&[ORDER]);
    let mut channel = market.buyer.channel.clone();
    assert_eq!(
        channel.learn(&[(ORDER, sat(300))], &good, Satoshis::ZERO, None, &market.contract),
        Ok(Satoshis::ZERO)
    );
    assert_eq!(channel.spending.paid(), Ok(sat(300)));
    let lies = [
        ChannelReport { highest: sat(301), ..good.clone() },
        ChannelReport { signature: None, ..good.clone() },
        ChannelReport { paid: vec![sat(300)], highest: sat(299), ..good },
    ];
    for lie in lies {
        let mut channel = market.buyer.channel.clone();
        let before = channel.clone();
        assert!(
            channel.learn(&[(ORDER, sat(300))], &lie, Satoshis::ZERO, None, &market.contract).is_err(),
            "{lie:?}"
        );
        assert_eq!(channel, before);
    }
}

/// A market with a channel that is open, on which an order has paid 300 and ended with 100.
fn paid_ahead() -> Market {
    let mut market = Market::new();
    let open = market.to_seller.pop().unwrap();
    market.deliver_to_seller(open);
    let report = market.to_buyer.pop().unwrap();
    market.deliver_to_buyer(report);
    market.pay(800);
    let voucher = market.to_seller.pop().unwrap();
    market.deliver_to_seller(voucher);
    market.end_order(1);
    assert_eq!(market.spending.record().ended, sat(100));
    market
}

#[test]
fn a_seller_is_not_paid_again_at_each_start_what_an_order_had_paid_ahead() {
    let market = paid_ahead();
    let lie = ChannelReport { booked: sat(800), ..market.report(&[]) };
    let mut channel = market.buyer.channel.clone();
    for _ in 0..2 {
        let learned = channel.learn(&[], &lie, sat(800), None, &market.contract);
        assert_eq!((learned, channel.spending.ended), (Ok(Satoshis::ZERO), sat(100)));
    }
    // Put back from a backup of after the channel was opened: orders may be missing, and the seller is asked once.
    for (restored, unclaimed) in [(NOW_MS - 1, 0), (NOW_MS + 1, 700), (NOW_MS + 1, 0), (NOW_MS + 2, 0)] {
        let learned = channel.learn(&[], &lie, sat(800), Some(restored), &market.contract);
        assert_eq!(learned, Ok(sat(unclaimed)), "{restored}");
    }
    let mut channel = market.buyer.channel.clone();
    let honest = market.report(&[]);
    assert_eq!(channel.learn(&[], &honest, sat(800), Some(NOW_MS + 1), &market.contract), Ok(Satoshis::ZERO));
    let later = channel.learn(&[], &lie, sat(800), Some(NOW_MS + 1), &market.contract);
    assert_eq!(
        (later, channel.spending.ended),
        (Ok(Satoshis::ZERO), sat(100)),
        "only the first answer counts"
    );
}

#[test]
fn an_order_that_fits_is_not_refused_for_what_others_had_paid_ahead() {
    let market = paid_ahead();
    let view = market.seller.channel.as_ref().unwrap().view(ChannelStanding::Open).unwrap();
    assert_eq!(view.free, sat(market::CAPACITY - 100));
    assert_eq!(market.spending.record().free(), Ok(view.free));
}

#[test]
fn only_the_buyer_of_a_channel_has_it_closed() {
    let mut market = Market::new();
    let open = market.to_seller.pop().unwrap();
    market.deliver_to_seller(open);
    let report = market.to_buyer.pop().unwrap();
    market.deliver_to_buyer(report);
    market.pay(300);
    let voucher = market.to_seller.pop().unwrap();
    market.deliver_to_seller(voucher);
    let signature =
        market.buyer.channel.sign(&market.contract, sat(200), &market.world.buyer).unwrap().signature;
    let good = CloseChannel { channel: market.buyer.channel.id, paid: sat(200), signature };
    let other = CloseChannel { channel: sensora_protocol::ChannelId([1; 32]), ..good };
    let forged = CloseChannel { paid: sat(199), ..good };
    for close in [other, forged] {
        market.deliver_to_seller(ToSeller::Close(close));
        assert!(matches!(market.to_buyer.pop(), Some(ToBuyer::Refused(_))));
        assert_eq!(market.seller.channel.as_ref().unwrap().state.name(), "open");
    }
    market.deliver_to_seller(ToSeller::Close(good));
    market.chain.mine();
    market.look();
    assert_eq!(market.seller.credited, sat(300), "the highest voucher, whatever the buyer says");
}

#[test]
fn a_channel_that_was_never_answered_is_had_back_from_the_refund_height_on() {
    let mut market = Market::new();
    let open = market.to_seller.pop().unwrap();
    market.deliver_to_seller(open);
    market.to_buyer.clear();
    market.seller.channel = None;
    while market.chain.tip() < market.offer.value().refund_height.get() + 2 {
        market.chain.mine();
        market.look();
    }
    assert_eq!(market.buyer.channel.state.name(), "ended");
    assert!(market.buyer.credited >= sat(VALUE - 60), "{}", market.buyer.credited);
}

/// The buyer crashes, is told that nothing was paid, and then a voucher of before the crash arrives, which was paid ahead.
#[test]
fn a_voucher_that_a_restart_overtook_costs_what_was_paid_ahead_and_no_more() {
    let mut market = Market::new();
    for action in [140, 183, 9, 53, 220, 3, 20, 156] {
        market.act(action);
    }
    assert_eq!(market.spending.record().highest, sat(63), "it is not forgotten that it may be taken");
    market.end();
    market.check_end();
    assert_eq!((market.seller.credited, market.overcharged), (sat(63), sat(63)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Bytes choose what happens to messages, blocks and memories. The invariants are checked after each action; in the end the seller has what its
    /// highest voucher says, the buyer the rest, and the miner the fee.
    #[test]
    fn whatever_happens_every_satoshi_of_a_channel_is_where_it_belongs(
        actions in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut market = Market::new();
        for action in actions {
            market.act(action);
        }
        market.end();
        market.check_end();
    }
}
