use sensora_chain::contract::RefundHeight;
use sensora_chain::keys::PrivateKey;

use super::*;
use crate::statement::Signed;

const NETWORK: Network = Network::Regtest;
/// The height of the chain.
const TIP: u32 = 100;

fn sat(amount: u64) -> Satoshis {
    Satoshis::from_sat(amount)
}

fn order(tag: u8) -> OrderId {
    OrderId([tag; 32])
}

/// A channel that is open, with these orders on it.
struct Opened {
    seller: Identity,
    buyer: Identity,
    channel: SellerChannel,
}

impl Opened {
    fn with(orders: &[u8]) -> Self {
        let key = |byte| Identity::new(PrivateKey::from_bytes([byte; 32]).unwrap());
        let (seller, buyer) = (key(7), key(8));
        let offer = ChannelOffer {
            buyer: *buyer.public(),
            value: sat(10_000),
            refund_height: RefundHeight::new(TIP + 144).unwrap(),
            margin: 36,
            close_fee: sat(100),
            when_mined: false,
            nonce: [1; 16],
            issued_ms: 0,
            expires_ms: 60_000,
        };
        let offer = Signed::sign(offer, &seller, NETWORK).unwrap();
        let mut channel = SellerChannel {
            id: offer.channel_id(NETWORK),
            buyer: *buyer.public(),
            offer: offer.into_bytes(),
            funding: Vec::new(),
            outpoint: OutPoint { txid: sensora_chain::Txid([9; 32]), vout: 0 },
            earning: Earning::new(sat(9_900)),
            signature: None,
            mined: None,
            ends_from: None,
            admitted_ms: 0,
            state: SellerChannelState::Open,
        };
        for tag in orders {
            channel.earning.begin(order(*tag)).unwrap();
        }
        Self { seller, buyer, channel }
    }

    fn standing(&self, tip: u32) -> ChannelStanding {
        let (offer, _) = self.channel.contract(&self.seller, NETWORK).unwrap();
        self.channel.standing(&offer, tip)
    }

    fn take(&mut self, event: SellerChannelEvent) -> Vec<SellerChannelAction> {
        self.channel.handle(event, &self.seller, NETWORK).unwrap()
    }

    /// An order has paid so much by a voucher for `amount`.
    fn pay(&mut self, tag: u8, paid: u64, amount: u64) {
        let (_, contract) = self.channel.contract(&self.seller, NETWORK).unwrap();
        let key = self.buyer.key().child(self.seller.public(), &signing_invoice(&self.channel.id));
        let Voucher { signature, .. } = contract.sign_voucher(sat(amount), &key).unwrap();
        let voucher = OrderVoucher { paid: sat(paid), amount: sat(amount), signature };
        self.channel = self.channel.book(&contract, &order(tag), &voucher).unwrap();
    }
}

fn closes(actions: &[SellerChannelAction]) -> bool {
    actions.iter().any(|action| matches!(action, SellerChannelAction::BroadcastClose(_)))
}

#[test]
fn a_channel_that_is_to_end_closes_with_its_last_order() {
    let mut opened = Opened::with(&[1, 2]);
    opened.pay(1, 30, 30);
    assert!(!closes(&opened.take(SellerChannelEvent::EndAsked(TIP))));
    assert_eq!(opened.standing(TIP), ChannelStanding::Ending, "no order begins");
    assert!(opened.channel.takes_vouchers(opened.standing(TIP)).is_ok(), "what is due is paid still");
    opened.pay(2, 5, 35);
    opened.channel.earning.end(&order(1), sat(30)).unwrap();
    assert!(!opened.channel.has_ended(TIP), "one runs");
    assert!(!closes(&opened.take(SellerChannelEvent::Tip(TIP))));
    opened.channel.earning.end(&order(2), sat(5)).unwrap();
    assert!(opened.channel.has_ended(TIP));
    assert!(closes(&opened.take(SellerChannelEvent::Tip(TIP))));
    assert_eq!(opened.channel.state, SellerChannelState::Closing);
}

#[test]
fn a_channel_that_is_to_end_does_not_wait_for_ever() {
    let mut opened = Opened::with(&[1]);
    opened.pay(1, 30, 30);
    opened.take(SellerChannelEvent::EndAsked(TIP));
    // Asked again later it waits no longer than from the first time on.
    opened.take(SellerChannelEvent::EndAsked(TIP + LAST_ORDERS - 1));
    assert!(!closes(&opened.take(SellerChannelEvent::Tip(TIP + LAST_ORDERS - 1))));
    assert!(closes(&opened.take(SellerChannelEvent::Tip(TIP + LAST_ORDERS))));
}

#[test]
fn a_channel_without_orders_closes_at_once_and_one_that_is_over_stays_as_it_is() {
    let mut opened = Opened::with(&[1]);
    opened.pay(1, 30, 30);
    opened.channel.earning.end(&order(1), sat(30)).unwrap();
    assert!(closes(&opened.take(SellerChannelEvent::EndAsked(TIP))));
    let closing = opened.channel.clone();
    assert_eq!(opened.take(SellerChannelEvent::EndAsked(TIP + 1)), []);
    assert_eq!(opened.channel, closing);
    // Nothing was paid: there is no close to send, and no order is taken.
    let mut unpaid = Opened::with(&[]);
    assert_eq!(unpaid.take(SellerChannelEvent::EndAsked(TIP)), []);
    assert_eq!((unpaid.channel.state.name(), unpaid.standing(TIP)), ("closing", ChannelStanding::Closing));
    // Whether it is one is not known yet.
    let mut admitted = Opened::with(&[]);
    admitted.channel.state = SellerChannelState::Admitted;
    let id = admitted.channel.id;
    let refused = SellerChannelAction::Refuse(Refusal::ChannelNotMined { channel: id });
    assert_eq!(admitted.take(SellerChannelEvent::EndAsked(TIP)), [refused]);
    assert_eq!(admitted.channel.ends_from, None);
}

#[test]
fn one_order_is_ended_and_those_beside_it_run() {
    let mut opened = Opened::with(&[1, 2]);
    assert_eq!(opened.take(SellerChannelEvent::EndOrder(order(1))), []);
    assert!(opened.channel.earning.is_to_end(&order(1)) && !opened.channel.earning.is_to_end(&order(2)));
    assert_eq!(opened.standing(TIP), ChannelStanding::Open, "the channel goes on");
    let unknown = SellerChannelAction::Refuse(Refusal::UnknownOrder { order: order(3) });
    assert_eq!(opened.take(SellerChannelEvent::EndOrder(order(3))), [unknown]);
    opened.take(SellerChannelEvent::CloseAsked(None));
    let channel = opened.channel.id;
    let closed = SellerChannelAction::Refuse(Refusal::ChannelClosed { channel });
    assert_eq!(opened.take(SellerChannelEvent::EndOrder(order(2))), [closed]);
}
