//! Channels and what moves over `/sensora/delivery/1`.

use sensora_chain::contract::RefundHeight;
use sensora_chain::{OutPoint, Satoshis, Txid};
use sensora_protocol::market::channel::message::{
    AskChannel, ChannelReport, ChannelStanding, CloseChannel, OpenChannel,
};
use sensora_protocol::market::channel::offer::{
    ChannelKeys, ChannelOffer, MIN_MARGIN, payout_invoice, signing_invoice,
};
use sensora_protocol::market::channel::seller::SellerChannel;
use sensora_protocol::market::delivery::frame::{Begin, OrderVoucher, ToBuyer, ToSeller};
use sensora_protocol::market::delivery::terms::Offered;
use sensora_protocol::market::delivery::trail::LivePages;
use sensora_protocol::market::live::LiveOffer;
use sensora_protocol::market::price::{Price, Tariff};
use sensora_protocol::market::receipt::ChannelReceipt;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::{Signed, codec};
use serde::Serialize;

use super::{Vector, small, statement, vector};
use crate::world::{NETWORK, World, beef, sat};

pub(super) fn channel_offer(world: &World) -> Signed<ChannelOffer> {
    let offer = ChannelOffer {
        buyer: *world.buyer.public(),
        value: sat(10_000),
        refund_height: RefundHeight::new(300).unwrap(),
        margin: MIN_MARGIN,
        close_fee: sat(27),
        when_mined: false,
        nonce: [6; 16],
        issued_ms: world.now_ms,
        expires_ms: world.now_ms + 600_000,
    };
    Signed::sign(offer, &world.seller, NETWORK).unwrap()
}

fn live_offer(world: &World, tariff: Tariff) -> Signed<LiveOffer> {
    let offer = LiveOffer {
        stream: world.stream.id,
        name: world.stream.name.clone(),
        schema: world.stream.schema.clone(),
        buyer: *world.buyer.public(),
        first: 3,
        tariff,
        licence: "CC-BY-4.0".into(),
        nonce: [7; 16],
        issued_ms: world.now_ms,
        expires_ms: world.now_ms + 600_000,
    };
    Signed::sign(offer, &world.seller, NETWORK).unwrap()
}

/// The golden channel's id.
pub(super) fn id() -> sensora_protocol::ChannelId {
    channel_offer(&small()).channel_id(NETWORK)
}

pub(super) fn live() -> Signed<LiveOffer> {
    live_offer(&small(), Tariff::Reading(Price::from_msat(1500).unwrap()))
}

/// The golden voucher's signature.
pub(super) fn signature() -> sensora_chain::keys::Signature {
    messages().1.signature
}

pub(super) fn open_channel() -> OpenChannel {
    messages().0
}

pub(super) fn close_channel() -> CloseChannel {
    messages().1
}

pub(super) fn report() -> ChannelReport {
    messages().2
}

/// How the golden channel is opened and closed after 5 sat, and what its seller says of it before that.
fn messages() -> (OpenChannel, CloseChannel, ChannelReport) {
    let mut world = small();
    let channel = channel_offer(&world);
    let id = channel.channel_id(NETWORK);
    let keys = ChannelKeys::for_buyer(&id, world.buyer.key(), world.seller.public());
    let coin = world.coin(20_000);
    let locking = channel.value().locking(&keys);
    let funding = world.spend(&coin, vec![sensora_chain::TxOut { value: sat(10_000), locking }]);
    let outpoint = OutPoint { txid: funding.txid(), vout: 0 };
    let contract = channel.value().channel(&keys, outpoint).unwrap();
    let signing = world.buyer.key().child(world.seller.public(), &signing_invoice(&id));
    let voucher = contract.sign_voucher(sat(5), &signing).unwrap();
    let open = OpenChannel { offer: channel.bytes().clone(), funding: beef(&coin, &funding) };
    let mut admitted = SellerChannel::admit(open.clone(), &world.admission()).unwrap();
    assert_eq!(admitted.outpoint, outpoint);
    admitted.earning.highest = sat(5);
    admitted.earning.ended = sat(4);
    admitted.signature = Some(voucher.signature);
    let close = CloseChannel { channel: id, paid: sat(5), signature: voucher.signature };
    let report = admitted.report(ChannelStanding::Open, vec![sat(4)]);
    (open, close, report)
}

pub(super) fn vectors() -> Vec<Vector> {
    let world = small();
    let channel = channel_offer(&world);
    let id = channel.channel_id(NETWORK);
    let keys = ChannelKeys::for_buyer(&id, world.buyer.key(), world.seller.public());
    let locking = channel.value().locking(&keys);
    let price = Price::from_msat(1500).unwrap();
    let live = live_offer(&world, Tariff::Reading(price));
    let by_second = live_offer(&world, Tariff::Second { price, longest_gap_ms: 60_000 });
    let offer = world.sign(world.offer(1, 3));
    let order = world.order(&offer, 4);
    let receipt = ChannelReceipt {
        order: order.id(NETWORK),
        offer: offer.digest(NETWORK),
        stream: world.stream.id,
        first: 1,
        count: 3,
        paid: sat(5),
        channel: id,
        issued_ms: world.now_ms,
    };
    let receipt = Signed::sign(receipt, &world.seller, NETWORK).unwrap();

    let mut all = statement("channel-offer", "a channel of 10,000 sat until height 300", &channel);
    if let Some(signed) = all.last_mut() {
        *signed = signed
            .clone()
            .with("channel_id", id)
            .with("signing_invoice", signing_invoice(&id))
            .with("payout_invoice", payout_invoice(&id))
            .with("buyer_key", keys.buyer)
            .with("seller_key", keys.seller)
            .with("seller_pays", keys.seller_pays)
            .with("buyer_rest", keys.buyer_rest)
            .with("locking_script", hex::encode(locking.as_bytes()));
    }
    all.extend(statement("live-offer", "a stream from reading 3 on, at 1.5 satoshis each", &live));
    let mut seconds = statement("live-offer", "the same, at 1.5 satoshis a second", &by_second);
    seconds.iter_mut().for_each(|vector| vector.name.push_str(" by the second"));
    all.extend(seconds);
    all.extend(statement("channel-receipt", "for the golden order, paid through the channel", &receipt));

    let (open, close, report) = messages();
    all.push(message("open channel", "open-channel", "the offer, and what funds it", &open));
    all.push(message("close channel", "close-channel", "after 5 sat", &close));
    let ask = AskChannel { channel: id, orders: vec![order.id(NETWORK)] };
    all.push(message("ask channel", "ask-channel", "what the golden order has paid", &ask));
    all.push(message("channel report", "channel-report", "the answer", &report));
    let nothing = ChannelReport {
        standing: ChannelStanding::WaitsForBlock,
        highest: Satoshis::ZERO,
        booked: Satoshis::ZERO,
        signature: None,
        paid: Vec::new(),
    };
    all.push(message("channel report of nothing", "channel-report", "nothing is paid", &nothing));
    let ending = ChannelReport { standing: ChannelStanding::Ending, ..nothing };
    all.push(message("channel report ending", "channel-report", "no order begins any more", &ending));
    all.extend(frames(&world, offer, live, order, receipt, close.signature, id));
    all
}

fn message<T: Serialize>(name: &str, kind: &str, about: &str, value: &T) -> Vector {
    vector(name, kind, about, codec::encode(value).unwrap())
}

fn frames(
    world: &World,
    offer: Signed<sensora_protocol::market::offer::Offer>,
    live_offer: Signed<LiveOffer>,
    order: Signed<sensora_protocol::market::order::Order>,
    receipt: Signed<ChannelReceipt>,
    signature: sensora_chain::keys::Signature,
    channel: sensora_protocol::ChannelId,
) -> Vec<Vector> {
    let begin = |offer, budget| {
        let order = order.bytes().clone();
        ToSeller::Begin(Box::new(Begin { offer, order, channel, next: 1, budget }))
    };
    let to_seller = [
        ("begin", begin(Offered::Range(offer.into_bytes()), sat(5))),
        ("begin live", begin(Offered::Live(live_offer.into_bytes()), sat(500))),
        ("voucher", ToSeller::Voucher(OrderVoucher { paid: sat(5), amount: sat(5), signature })),
        ("pause", ToSeller::Pause),
        ("resume", ToSeller::Resume),
        ("stop", ToSeller::Stop),
        ("alive", ToSeller::Alive),
    ];
    let checkpoint = world.stream.checkpoint(&world.seller, 5);
    let mut live_pages = LivePages::new();
    let live = live_pages.frame(&checkpoint, world.stream.page(3, 4, 5));
    let live_again = live_pages.frame(&checkpoint, world.stream.page(4, 5, 5));
    let to_buyer = [
        ("begun", ToBuyer::Begun { paid: Satoshis::ZERO, credit: sat(2) }),
        ("page", ToBuyer::Page(world.stream.page(1, 4, 5))),
        ("live", live),
        ("live, the next page", live_again),
        ("stopped", ToBuyer::Stopped { end: 4, due: sat(5) }),
        ("ended", ToBuyer::Ended { receipt: receipt.into_bytes() }),
        ("refused", ToBuyer::Refused(Refusal::UnknownChannel { channel })),
        ("alive", ToBuyer::Alive),
    ];
    let seller = to_seller.into_iter().map(|(name, frame)| {
        let about = format!("the frame `{}`", frame.name());
        vector(&format!("to seller {name}"), "to-seller", &about, frame.to_bytes().unwrap())
    });
    let buyer = to_buyer.into_iter().map(|(name, frame)| {
        let about = format!("the frame `{}`", frame.name());
        vector(&format!("to buyer {name}"), "to-buyer", &about, frame.to_bytes().unwrap())
    });
    seller.chain(buyer).collect()
}

/// The channel and the transaction in refusals.
pub(super) fn refusals() -> Vec<Refusal> {
    let channel = sensora_protocol::ChannelId(Txid([7; 32]).0);
    vec![
        Refusal::UnknownChannel { channel },
        Refusal::ChannelNotOffered {
            min: sat(1_000),
            max: sat(10_000_000),
            min_blocks: 72,
            max_blocks: 4_320,
        },
        Refusal::ChannelClosed { channel },
        Refusal::ChannelNotMined { channel },
        Refusal::ChannelTooSmall { channel, price: sat(5), free: sat(4) },
        Refusal::VoucherInvalid { reason: "it is for less than the one before".into() },
        Refusal::NotPaid { open: sat(12), limit: sat(10) },
    ]
}
