//! The seller's side: which orders and coins it takes, and what it does at each moment.

use sensora_chain::beef::Beef;
use sensora_chain::contract::payment::pay_to_hash;
use sensora_chain::header::HeaderView;
use sensora_chain::keys::PublicKey;
use sensora_chain::{FeeRate, Script, Transaction, TxOut};
use sensora_protocol::Signed;
use sensora_protocol::market::key_release::coin::{self, CoinView, Spend, Standing};
use sensora_protocol::market::key_release::frame::{Begin, ToBuyer};
use sensora_protocol::market::key_release::key::BatchSecret;
use sensora_protocol::market::key_release::offer::CLAIM_MARGIN;
use sensora_protocol::market::key_release::sell::{
    BatchSale, BatchSaleState, CoinVerdict, SellAction, SellError, SellerAt,
};
use sensora_protocol::market::order::Order;
use sensora_protocol::market::receipt::Receipt;
use sensora_protocol::market::refusal::Refusal;

use super::chain::Headers;
use super::goods::{Goods, LOCK};
use super::honest;
use crate::world::{NETWORK, beef, identity, sat};

/// Blocks after which a coin that needs one confirmation comes too late.
const LATE: u32 = LOCK - CLAIM_MARGIN - 1;

fn at(goods: &Goods) -> SellerAt<'_> {
    SellerAt {
        seller: &goods.world.seller,
        secret: &goods.secret,
        network: NETWORK,
        rate: FeeRate::DEFAULT,
        confirmations: 1,
        now_ms: goods.world.now_ms,
    }
}

fn order(goods: &Goods) -> Signed<Order> {
    let buyer = &goods.world.buyer;
    let order = Order { offer: goods.terms.offer, buyer: *buyer.public(), nonce: [5; 16] };
    Signed::sign(order, buyer, NETWORK).unwrap()
}

fn begin(goods: &Goods) -> Begin {
    Begin { offer: goods.offer.bytes().clone(), order: order(goods).into_bytes(), next: 0 }
}

fn tip(goods: &Goods) -> u32 {
    goods.terms.refund_height.get() - LOCK
}

fn admitted() -> BatchSale {
    let goods = honest();
    let peer = goods.world.buyer.public();
    BatchSale::admit(&begin(goods), peer, tip(goods), &at(goods)).unwrap().0
}

fn paying(goods: &Goods, locking: Script, value: u64) -> Transaction {
    let back = pay_to_hash(&[7; 20], sat(1_000));
    goods.world.spend(&goods.funds, vec![back, TxOut { value: sat(value), locking }])
}

fn contract(goods: &Goods) -> Script {
    coin::for_buyer(order(goods).value(), &goods.terms, goods.world.buyer.key()).0.locking()
}

fn lock(sale: &mut BatchSale, beef: &[u8], tip: u32) -> Result<Vec<SellAction>, Refusal> {
    let goods = honest();
    let headers = Headers { real: &goods.world.chain.headers, tip };
    sale.lock(beef, &goods.terms, &headers, &at(goods))
}

#[test]
fn both_sides_derive_the_same_contract() {
    let goods = honest();
    let order = order(goods);
    let (by_buyer, refunds) = coin::for_buyer(order.value(), &goods.terms, goods.world.buyer.key());
    let (by_seller, claims) = coin::for_seller(order.value(), &goods.terms, goods.world.seller.key());
    assert_eq!(by_buyer, by_seller);
    assert_eq!((refunds.public(), claims.public()), (by_buyer.buyer, by_buyer.seller));
    assert_ne!(&by_buyer.seller, goods.world.seller.public(), "no key is used twice");
    assert_ne!(by_buyer.seller, by_buyer.buyer);
}

#[test]
fn an_order_is_admitted_or_the_reason_is_named() {
    let goods = honest();
    let (peer, now) = (goods.world.buyer.public(), tip(goods));
    let stranger = *identity(3).public();
    let admit = |begin: &Begin, peer: &PublicKey, tip, at: &SellerAt<'_>| {
        BatchSale::admit(begin, peer, tip, at).unwrap_err()
    };
    assert_eq!(admitted().state, BatchSaleState::Delivering);
    let mut other = begin(goods);
    other.order.signature[5] ^= 1;
    assert!(matches!(admit(&other, peer, now, &at(goods)), Refusal::InvalidOrder { .. }));
    assert!(matches!(admit(&begin(goods), &stranger, now, &at(goods)), Refusal::InvalidOrder { .. }));
    let changed = goods.sign(|offer| offer.nonce = [4; 16]).into_bytes();
    let other = Begin { offer: changed, ..begin(goods) };
    assert!(matches!(admit(&other, peer, now, &at(goods)), Refusal::InvalidOrder { .. }), "another offer");
    let foreign = SellerAt { seller: &goods.world.buyer, ..at(goods) };
    assert!(matches!(admit(&begin(goods), peer, now, &foreign), Refusal::ForeignOffer { .. }));
    let late = SellerAt { now_ms: goods.terms.expires_ms, ..at(goods) };
    assert!(matches!(admit(&begin(goods), peer, now, &late), Refusal::OfferExpired { .. }));
    let secret = BatchSecret::from_bytes([99; 32]);
    let forgot = SellerAt { secret: &secret, ..at(goods) };
    assert!(matches!(admit(&begin(goods), peer, now, &forgot), Refusal::ForeignOffer { .. }));
    assert!(
        matches!(admit(&begin(goods), peer, now + LATE, &at(goods)), Refusal::InvalidOrder { .. }),
        "too late"
    );
    assert!(BatchSale::admit(&begin(goods), peer, now + LATE - 1, &at(goods)).is_ok());
}

#[test]
fn a_coin_that_is_none_is_refused_and_nothing_is_kept() {
    let goods = honest();
    let now = goods.world.chain.headers.tip_height();
    let refused = |bytes: &[u8], tip| {
        let mut sale = admitted();
        let refusal = lock(&mut sale, bytes, tip).unwrap_err();
        assert_eq!(sale, admitted());
        refusal
    };
    let pay = |locking, value| beef(&goods.funds, &paying(goods, locking, value));
    assert!(matches!(refused(&[1, 2, 3], now), Refusal::PaymentInvalid { .. }));
    assert!(matches!(refused(&vec![0; 1 << 17], now), Refusal::PaymentInvalid { .. }));
    assert!(matches!(refused(&pay(Script::p2pkh(&[1; 20]), 1650), now), Refusal::PaymentInvalid { .. }));
    let refusal = refused(&pay(contract(goods), 1649), now);
    assert!(
        matches!(refusal, Refusal::PaymentTooSmall { paid, price, .. } if (paid, price) == (sat(1649), sat(1650)))
    );
    // The contract with another key, another height, another buyer.
    let order = order(goods);
    let (terms, _) = coin::for_buyer(order.value(), &goods.terms, goods.world.buyer.key());
    let mut others = [terms; 3];
    others[0].key_hash[0] ^= 1;
    others[1].refund_height = sensora_chain::contract::RefundHeight::new(1).unwrap();
    others[2].buyer = *identity(4).public();
    for other in others {
        assert!(matches!(refused(&pay(other.locking(), 1650), now), Refusal::PaymentInvalid { .. }));
    }
    let mut unsigned = paying(goods, contract(goods), 1650);
    unsigned.inputs[0].unlocking = Script::default();
    assert!(matches!(refused(&beef(&goods.funds, &unsigned), now), Refusal::PaymentInvalid { .. }));
    let good = pay(contract(goods), 1650);
    let behind = refused_behind(&good);
    assert!(matches!(behind, Refusal::HeadersBehind { .. }) && behind.is_temporary());
    assert!(
        matches!(refused(&good, now + LATE), Refusal::InvalidOrder { .. }),
        "too near to the refund height"
    );
    assert!(lock(&mut admitted(), &good, now + LATE - 1).is_ok());
}

fn refused_behind(good: &[u8]) -> Refusal {
    let goods = honest();
    let genesis = crate::world::no_headers();
    let headers = Headers { real: &genesis, tip: 0 };
    admitted().lock(good, &goods.terms, &headers, &at(goods)).unwrap_err()
}

#[test]
fn the_first_coin_is_the_orders_whatever_comes_after_it() {
    let goods = honest();
    let now = goods.world.chain.headers.tip_height();
    let first = beef(&goods.funds, &paying(goods, contract(goods), 1650));
    let second = beef(&goods.funds, &paying(goods, contract(goods), 1700));
    let mut sale = admitted();
    assert_eq!(lock(&mut sale, &first, now).unwrap(), [SellAction::Broadcast(first.clone())]);
    let stored = sale.clone();
    for again in [&first, &second, &vec![1]] {
        assert_eq!(lock(&mut sale, again, now).unwrap(), [SellAction::Broadcast(first.clone())]);
        assert_eq!(sale, stored);
    }
    assert_eq!(sale.coin().unwrap().value, sat(1650));
}

#[test]
fn what_the_network_says_to_the_coin_is_passed_on() {
    let goods = honest();
    let coin = paying(goods, contract(goods), 1650);
    let (txid, bytes) = (coin.txid(), beef(&goods.funds, &coin));
    let locked = || {
        let mut sale = admitted();
        lock(&mut sale, &bytes, goods.world.chain.headers.tip_height()).unwrap();
        sale
    };
    let refuse = |refusal| vec![SellAction::Frame(ToBuyer::Refused(refusal))];
    let rejected = |double_spent| CoinVerdict::Rejected { double_spent, reason: "no".into() };
    let mut sale = locked();
    assert_eq!(sale.verdict(&txid, CoinVerdict::Unavailable), refuse(Refusal::ChainUnavailable));
    assert_eq!(sale, locked(), "it is tried again");
    assert_eq!(sale.verdict(&txid, rejected(true)), refuse(Refusal::DoubleSpent { txid }));
    assert_eq!(sale, admitted());
    assert_eq!(sale.verdict(&txid, CoinVerdict::Accepted), []);
    let mut sale = locked();
    assert_eq!(
        sale.verdict(&txid, rejected(false)),
        refuse(Refusal::PaymentRejected { txid, reason: "no".into() })
    );
    let mut sale = locked();
    let told = vec![SellAction::Frame(ToBuyer::Locked { txid })];
    assert_eq!(sale.verdict(&txid, CoinVerdict::Accepted), told);
    assert_eq!(sale.verdict(&txid, rejected(true)), [], "only the chain has a say now");
    assert_eq!(sale.coin().unwrap().txid, txid);
}

/// The claim goes to the network first, and to the buyer when the network has it; in whatever form it is mined, it is ours.
#[test]
fn a_claim_is_followed_until_it_is_settled() {
    let goods = honest();
    let now = goods.world.chain.headers.tip_height();
    let coin = paying(goods, contract(goods), 1650);
    let mut sale = admitted();
    lock(&mut sale, &beef(&goods.funds, &coin), now).unwrap();
    let see = |sale: &mut BatchSale, tip, coin, spend| {
        sale.view(&CoinView { tip, coin, spend }, &goods.terms, &at(goods)).unwrap()
    };
    assert!(matches!(see(&mut sale, now, Standing::Unknown, None)[..], [SellAction::Broadcast(_)]));
    assert!(matches!(
        see(&mut sale, now, Standing::Seen, None)[..],
        [SellAction::Frame(ToBuyer::Locked { .. })]
    ));
    assert_eq!(see(&mut sale, now, Standing::Seen, None), []);
    let mined = Standing::Mined(now + 1);
    let actions = see(&mut sale, now + 1, mined, None);
    let [SellAction::Claim(claim)] = &actions[..] else { panic!("{actions:?}") };
    let claim = Transaction::from_bytes(claim).unwrap();
    assert_eq!(sale.resume(), Some(SellAction::Claim(claim.to_bytes())), "the same after a restart");
    let begun = sale.begin(3, &goods.terms);
    assert!(begun.iter().any(|action| matches!(action, SellAction::Frame(ToBuyer::Locked { .. }))));
    // Not taken yet: again, and the coin with it if that is gone.
    assert_eq!(see(&mut sale, now + 1, mined, None), [SellAction::Claim(claim.to_bytes())]);
    assert!(matches!(
        see(&mut sale, now + 1, Standing::Unknown, None)[..],
        [SellAction::Broadcast(_), SellAction::Claim(_)]
    ));
    let spend = |transaction: &Transaction, height| Some(Spend { transaction: transaction.clone(), height });
    let actions = see(&mut sale, now + 1, mined, spend(&claim, None));
    let [SellAction::Frame(ToBuyer::Claimed { receipt, .. })] = &actions[..] else { panic!("{actions:?}") };
    let receipt = receipt.clone().verify_by::<Receipt>(NETWORK, goods.world.seller.public()).unwrap();
    assert_eq!((receipt.value().txid, receipt.value().paid), (coin.txid(), sat(1650)));
    assert_eq!(see(&mut sale, now + 1, mined, spend(&claim, None)), []);
    // A miner has put another true selector there: another id, the same payment.
    let mut mutated = claim.clone();
    let script = claim.inputs[0].unlocking.as_bytes();
    mutated.inputs[0].unlocking = Script::new([&script[..script.len() - 1], &[0x52]].concat());
    let actions = see(&mut sale, now + 2, mined, spend(&mutated, Some(now + 2)));
    let [SellAction::Credit { transaction, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(transaction, &mutated);
    assert_eq!(see(&mut sale, now + 2, mined, spend(&mutated, Some(now + 2))), [], "credited once");
    assert_eq!(see(&mut sale, now + 7, mined, spend(&mutated, Some(now + 2))), []);
    assert!(matches!(sale.state, BatchSaleState::Claimed { .. }));
    assert_eq!(see(&mut sale, now + 8, mined, spend(&mutated, Some(now + 2))), []);
    assert!(matches!(&sale.state, BatchSaleState::Done { claim, .. } if claim == &mutated.to_bytes()));
    let again = sale.begin(0, &goods.terms);
    assert!(again.contains(&SellAction::SendParts(0..3)), "for thirty days");
    assert!(again.iter().any(|action| matches!(action, SellAction::Frame(ToBuyer::Claimed { .. }))));
}

#[test]
fn a_claim_that_cannot_be_paid_for_shows_nothing() {
    let goods = honest();
    let now = goods.world.chain.headers.tip_height();
    let coin = paying(goods, contract(goods), 1650);
    let mut sale = admitted();
    let bytes = beef(&goods.funds, &coin);
    assert!(Beef::parse(&bytes, &Default::default()).is_ok());
    lock(&mut sale, &bytes, now).unwrap();
    let before = sale.clone();
    let dear = SellerAt { rate: FeeRate::new(100_000), ..at(goods) };
    let view = CoinView { tip: now + 1, coin: Standing::Mined(now + 1), spend: None };
    assert!(matches!(sale.view(&view, &goods.terms, &dear), Err(SellError::Claim { .. })));
    assert_eq!(sale, before);
}

/// The network's word on a refused coin comes after the order has another one.
#[test]
fn a_late_verdict_on_another_coin_says_nothing_of_this_one() {
    let goods = honest();
    let now = goods.world.chain.headers.tip_height();
    let (first, second) = (paying(goods, contract(goods), 1650), paying(goods, contract(goods), 1700));
    let mut sale = admitted();
    lock(&mut sale, &beef(&goods.funds, &first), now).unwrap();
    let rejected = CoinVerdict::Rejected { double_spent: true, reason: "no".into() };
    assert_eq!(sale.verdict(&first.txid(), rejected.clone()).len(), 1);
    lock(&mut sale, &beef(&goods.funds, &second), now).unwrap();
    let before = sale.clone();
    for late in [CoinVerdict::Accepted, rejected, CoinVerdict::Unavailable] {
        assert_eq!(sale.verdict(&first.txid(), late), []);
        assert_eq!(sale, before);
    }
}

/// Whoever has read the key can write it into a transaction that no miner takes.
#[test]
fn a_claim_that_no_miner_would_take_does_not_replace_the_stored_one() {
    let goods = honest();
    let now = goods.world.chain.headers.tip_height();
    let coin = paying(goods, contract(goods), 1650);
    let mut sale = admitted();
    lock(&mut sale, &beef(&goods.funds, &coin), now).unwrap();
    let see = |sale: &mut BatchSale, spend| {
        let view = CoinView { tip: now + 1, coin: Standing::Mined(now + 1), spend };
        sale.view(&view, &goods.terms, &at(goods)).unwrap()
    };
    let actions = see(&mut sale, None);
    let [SellAction::Claim(claim)] = &actions[..] else { panic!("{actions:?}") };
    let mut forged = Transaction::from_bytes(claim).unwrap();
    forged.outputs[0].locking = Script::p2pkh(&[1; 20]);
    let before = sale.clone();
    let spend = Spend { transaction: forged, height: None };
    assert_eq!(see(&mut sale, Some(spend)), [SellAction::Claim(claim.clone())], "ours goes out again");
    assert_eq!(sale, before);
}
