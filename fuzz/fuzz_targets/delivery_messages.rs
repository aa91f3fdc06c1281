//! What moves over `/sensora/delivery/1`, and the durable records of channels and of orders on them: what is read is written the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_chain::{Network, PrivateKey};
use sensora_protocol::codec;
use sensora_protocol::market::channel::buyer::BuyerChannel;
use sensora_protocol::market::channel::message::{AskChannel, ChannelReport, CloseChannel, OpenChannel};
use sensora_protocol::market::channel::offer::ChannelOffer;
use sensora_protocol::market::channel::seller::SellerChannel;
use sensora_protocol::market::delivery::frame::{ToBuyer, ToSeller};
use sensora_protocol::market::delivery::receive::ChannelPurchase;
use sensora_protocol::market::delivery::supply::ChannelSale;
use sensora_protocol::market::live::LiveOffer;
use sensora_protocol::market::reads::frame as reads;
use sensora_protocol::market::reads::offer::ReadsOffer;
use sensora_protocol::market::reads::serve::Question;
use sensora_protocol::market::receipt::ChannelReceipt;

const MAX: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let peer = PrivateKey::from_bytes([2; 32]).unwrap().public();
    if let Ok(frame) = ToSeller::from_bytes(bytes) {
        assert_eq!(frame.to_bytes().unwrap(), bytes);
        if let ToSeller::Begin(begin) = frame {
            let _ = begin.offer.terms(Network::Regtest, &peer);
        }
    }
    if let Ok(frame) = ToBuyer::from_bytes(bytes) {
        // The words of a refusal are tamed: they may be written otherwise.
        if !matches!(frame, ToBuyer::Refused(_)) {
            assert_eq!(frame.to_bytes().unwrap(), bytes);
        }
    }
    if let Ok(frame) = reads::ToSeller::from_bytes(bytes) {
        assert_eq!(frame.to_bytes().unwrap(), bytes);
        for size in [0, 1, 5, 1 << 20, u64::MAX] {
            if let Ok(Some(question)) = Question::of(&frame, size, &mut reads::Cursor::default()) {
                let _ = question.what.hashes(size);
            }
        }
    }
    if let Ok(frame) = reads::ToBuyer::from_bytes(bytes)
        && !matches!(frame, reads::ToBuyer::Order(ToBuyer::Refused(_)))
    {
        assert_eq!(frame.to_bytes().unwrap(), bytes);
    }
    macro_rules! same {
        ($($kind:ty),*) => { $(
            if let Ok(value) = codec::decode_exact::<$kind>(bytes, MAX) {
                assert_eq!(codec::encode(&value).unwrap(), bytes);
            }
        )* };
    }
    same!(ChannelOffer, LiveOffer, ReadsOffer, ChannelReceipt, OpenChannel, CloseChannel, AskChannel, ChannelReport);
    same!(ChannelSale, ChannelPurchase);
    if let Ok(channel) = codec::decode_exact::<SellerChannel>(bytes, MAX) {
        let _ = (channel.earning.paid(), channel.earning.capacity);
    }
    if let Ok(channel) = codec::decode_exact::<BuyerChannel>(bytes, MAX) {
        let _ = (channel.spending.promised(), channel.spending.free(), channel.question());
    }
});
