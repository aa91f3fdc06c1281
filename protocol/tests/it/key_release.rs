//! Key release: batches, proofs of misbehaviour, and both state machines against each other, whatever network, disks and chain do.

mod chain;
pub(crate) mod goods;
mod offer;
pub(crate) mod pair;
mod parts;
mod proof;
mod sale;

use std::sync::OnceLock;

use proptest::prelude::*;
use sensora_chain::script::op;
use sensora_chain::{FeeRate, OutPoint, Script, Transaction, TxIn};
use sensora_protocol::market::key_release::buy::{
    BatchPurchaseState, BuyAction, BuyError, BuyEvent, BuyerAt,
};
use sensora_protocol::market::key_release::coin::{CoinView, Spend, Standing};
use sensora_protocol::market::key_release::frame::{AtomicBeef, ToBuyer, ToSeller};
use sensora_protocol::market::key_release::sell::BatchSaleState;

use crate::world::{NETWORK, sat};
use goods::{CHEATS, END, FIRST, Goods, LOCK};
use pair::{CONFIRMATIONS, Pair};

fn honest() -> &'static Goods {
    static GOODS: OnceLock<Goods> = OnceLock::new();
    GOODS.get_or_init(Goods::honest)
}

/// One batch for each way to cheat, each in another part.
fn cheats() -> &'static [Goods] {
    static GOODS: OnceLock<Vec<Goods>> = OnceLock::new();
    GOODS.get_or_init(|| {
        CHEATS.iter().enumerate().map(|(at, cheat)| Goods::new(Some((*cheat, at % 3)))).collect()
    })
}

#[test]
fn a_batch_is_paid_once_its_key_is_shown_and_all_of_it_opens() {
    let mut pair = Pair::new(honest());
    pair.settle();
    pair.check_over(true);
    assert_eq!((pair.purchase().state.name(), pair.outcome()), ("complete", "paid"));
    assert_eq!(pair.kept(), END - FIRST);
    assert!(matches!(pair.sale().unwrap().state, BatchSaleState::Done { .. }));
    assert!(pair.purchase().receipt.is_some());
    assert_eq!(pair.purchase().at_risk(), sat(0));
}

#[test]
fn nothing_is_shown_before_the_coin_is_firm() {
    let mut pair = Pair::new(honest());
    for confirmations in 0..CONFIRMATIONS {
        pair.quiet();
        let state = &pair.sale().unwrap().state;
        assert!(matches!(state, BatchSaleState::Locked { .. }), "{confirmations}: {state:?}");
        assert!(pair.purchase().key.is_none());
        assert_eq!(pair.purchase().at_risk(), sat(1650));
        pair.mine(true);
    }
    pair.quiet();
    assert!(pair.sale().unwrap().state.is_shown());
    assert_eq!(pair.purchase().state, BatchPurchaseState::Complete);
}

#[test]
fn whichever_part_is_wrong_in_whatever_way_the_buyer_holds_a_proof() {
    for (goods, cheat) in cheats().iter().zip(CHEATS) {
        let mut pair = Pair::new(goods);
        pair.settle();
        pair.check_over(false);
        assert_eq!((pair.purchase().state.name(), pair.outcome()), ("cheated", "paid"), "{cheat:?}");
    }
}

#[test]
fn a_seller_that_never_shows_the_key_costs_nothing_but_time() {
    let mut pair = Pair::new(honest());
    pair.quiet();
    pair.offline = true;
    assert_eq!(pair.outcome(), "locked");
    while !pair.goods.terms.may_refund(pair.chain.tip()) {
        pair.buyer_looks();
        assert_eq!(pair.purchase().state, BatchPurchaseState::Waiting);
        pair.mine(true);
    }
    for _ in 0..8 {
        pair.buyer_looks();
        pair.mine(true);
    }
    assert_eq!((pair.purchase().state.name(), pair.outcome()), ("refunded", "back"));
    pair.settle();
    pair.check_over(true);
    assert_eq!(pair.sale().unwrap().state, BatchSaleState::TakenBack { shown: false });
}

/// Near the refund height claim and refund would race, so the key stays where it is.
#[test]
fn the_key_is_not_shown_near_the_refund_height() {
    let mut pair = Pair::new(honest());
    pair.quiet();
    pair.offline = true;
    while pair.goods.terms.may_claim(pair.chain.tip()) {
        pair.mine(true);
    }
    pair.offline = false;
    pair.seller_looks();
    assert!(matches!(pair.sale().unwrap().state, BatchSaleState::Lapsed { .. }));
    pair.settle();
    pair.check_over(true);
    assert_eq!(pair.purchase().state, BatchPurchaseState::Refunded);
}

#[test]
fn a_reorganisation_that_takes_the_claim_or_the_coin_is_answered_by_sending_it_again() {
    for (blocks, depth, keep) in [(1, 1, true), (1, 1, false), (2, 2, false), (2, 2, true)] {
        let mut pair = Pair::new(honest());
        pair.quiet();
        (0..CONFIRMATIONS).for_each(|_| pair.mine(true));
        pair.quiet();
        assert!(pair.sale().unwrap().state.is_shown());
        (0..blocks).for_each(|_| pair.mine(true));
        assert_eq!(pair.outcome(), "paid");
        pair.reorganise(depth, keep);
        if !keep {
            assert_eq!(pair.outcome(), "locked", "the claim is forgotten");
        }
        pair.settle();
        pair.check_over(true);
        assert_eq!((pair.purchase().state.name(), pair.outcome()), ("complete", "paid"));
    }
    // The coin itself, before its key is shown.
    let mut pair = Pair::new(honest());
    pair.quiet();
    pair.mine(true);
    pair.reorganise(1, false);
    assert_eq!(pair.outcome(), "none");
    pair.settle();
    pair.check_over(true);
    assert_eq!(pair.outcome(), "paid");
}

#[test]
fn a_coin_that_is_spent_elsewhere_before_it_is_firm_shows_no_key() {
    let mut pair = Pair::new(honest());
    pair.quiet();
    pair.mine(true);
    pair.reorganise(1, false);
    pair.double_spend();
    assert!(pair.has_double_spent);
    pair.settle();
    pair.check_over(true);
    assert_eq!(pair.kept(), 0);
    assert!(!pair.sale().is_some_and(|sale| sale.state.is_shown()));
}

/// What is lost when either side goes silent for good at each step. The other goes on.
#[test]
fn whoever_goes_silent_at_whatever_step_nobody_loses_more_than_it_chose() {
    let mut rows = Vec::new();
    for step in 0..18 {
        for seller_is_silent in [true, false] {
            let mut pair = Pair::new(honest());
            pair.connect();
            for _ in 0..step {
                if !(pair.deliver_to_seller() || pair.deliver_to_buyer()) {
                    pair.pay();
                    pair.seller_looks();
                    pair.buyer_looks();
                    pair.mine(true);
                }
            }
            let before = pair.purchase().state.name();
            for _ in 0..LOCK + 20 {
                pair.mine(true);
                if seller_is_silent {
                    pair.buyer_looks();
                    pair.buyer_event(BuyEvent::GiveUp);
                    pair.take_back();
                } else {
                    pair.seller_looks();
                }
                pair.check();
            }
            let (kept, outcome) = (pair.kept(), pair.outcome());
            let shown = pair.sale().is_some_and(|sale| sale.state.is_shown());
            let who = if seller_is_silent { "seller" } else { "buyer" };
            rows.push(format!(
                "{step:4}  {who:6}  {before:9}  {:10}  {outcome:6}",
                pair.purchase().state.name()
            ));
            if seller_is_silent {
                assert!(outcome == "none" || outcome == "back" || kept == END - FIRST, "{rows:#?}");
            } else {
                assert!(!shown || outcome == "paid", "{rows:#?}");
            }
        }
    }
    println!("step  silent  was        becomes     coin");
    rows.iter().for_each(|row| println!("{row}"));
}

#[test]
fn a_buyer_restored_from_before_it_paid_pays_no_second_time() {
    let mut pair = Pair::new(honest());
    pair.quiet();
    pair.restore_buyer();
    pair.settle();
    pair.check_over(true);
    assert_eq!((pair.purchase().state.name(), pair.outcome()), ("complete", "paid"));
}

#[test]
fn a_seller_restored_from_before_the_order_is_paid_all_the_same() {
    for shown in [false, true] {
        let mut pair = Pair::new(honest());
        pair.quiet();
        if shown {
            (0..CONFIRMATIONS).for_each(|_| pair.mine(true));
            pair.seller_looks();
            assert!(pair.sale().unwrap().state.is_shown());
        }
        pair.restore_seller();
        assert!(pair.sale().is_none());
        // The buyer sends offer, order and coin again as long as it has no key.
        pair.connect();
        pair.settle();
        assert_eq!((pair.purchase().state.name(), pair.outcome()), ("complete", "paid"), "{shown}");
    }
}

#[test]
fn a_part_that_is_damaged_or_lost_on_our_own_disk_convicts_nobody() {
    for index in 0..6 {
        let mut pair = Pair::new(honest());
        pair.quiet();
        if index < 3 {
            pair.damage(index);
        } else {
            pair.lose(index - 3);
        }
        pair.settle();
        pair.check_over(true);
        assert_eq!(pair.purchase().state, BatchPurchaseState::Complete);
    }
}

#[test]
fn frames_of_the_wrong_moment_are_errors_and_change_nothing() {
    let goods = honest();
    let part = |index: usize| ToBuyer::Parts(vec![goods.parts[index].clone()]);
    let mut other = goods.parts[0].clone();
    other.part.bytes[7] ^= 1;
    let receipt = goods.offer.bytes().clone();
    let frames = [
        part(1),
        ToBuyer::Parts(vec![goods.parts[0].clone(), goods.parts[2].clone()]),
        ToBuyer::Parts(vec![other]),
        ToBuyer::Offer(goods.offer.bytes().clone()),
        ToBuyer::Locked { txid: goods.funds.transaction.txid() },
        ToBuyer::Claimed { claim: vec![1, 2], receipt: receipt.clone() },
        ToBuyer::Claimed { claim: goods.funds.transaction.to_bytes(), receipt },
        ToBuyer::Refused(sensora_protocol::market::refusal::Refusal::NotSelling),
    ];
    for frame in frames {
        let mut pair = Pair::new(goods);
        let before = pair.purchase().clone();
        pair.buyer_event(BuyEvent::Frame(Box::new(frame.clone())));
        assert_eq!(pair.errors.len(), 1, "{}", frame.name());
        assert_eq!(pair.purchase(), &before, "{}", frame.name());
    }
    // What is here already comes again, and is passed over.
    let mut pair = Pair::new(goods);
    pair.buyer_event(BuyEvent::Frame(Box::new(part(0))));
    pair.buyer_event(BuyEvent::Frame(Box::new(part(0))));
    assert_eq!((pair.purchase().arrivals.next, pair.errors.len()), (1, 0));
}

#[test]
fn another_key_opens_nothing() {
    let mut pair = Pair::new(honest());
    pair.quiet();
    let key = sensora_protocol::market::key_release::key::BatchKey::from_bytes([1; 32]);
    pair.buyer_event(BuyEvent::Key(key));
    assert_eq!(pair.errors.last(), Some(&BuyError::NoKey));
    pair.buyer_event(BuyEvent::Key(honest().key.clone()));
    assert_eq!(pair.purchase().state, BatchPurchaseState::Complete);
}

/// A claim of version 2 may compute the key: only whoever runs the script sees it, and then all goes on.
#[test]
fn a_claim_that_hides_the_key_is_said_and_the_key_is_taken_from_whoever_finds_it() {
    let mut pair = Pair::new(honest());
    pair.quiet();
    let coin = pair.purchase().coin.clone().unwrap();
    let key = honest().key.as_bytes();
    let halves = Script::builder().push(&[2; 71]).push(&key[..16]).push(&key[16..]).op(op::CAT).op(op::TRUE);
    let mut input = TxIn::new(OutPoint { txid: coin.txid, vout: coin.vout });
    input.unlocking = halves.build();
    let claim = Transaction::new(vec![input], vec![]);
    let tip = pair.chain.tip() + 10;
    for (height, settled) in [(None, false), (Some(tip - 5), false), (Some(tip - 6), true)] {
        let spend = Some(Spend { transaction: claim.clone(), height });
        let view = CoinView { tip, coin: Standing::Mined(tip - 6), spend };
        pair.buyer_event(BuyEvent::View(Box::new(view)));
        let found = matches!(pair.purchase().state, BatchPurchaseState::Unreadable { .. });
        assert_eq!(found, settled, "{height:?} {:?}", pair.purchase().state);
    }
    assert_eq!(pair.purchase().at_risk(), sat(1650));
    pair.buyer_event(BuyEvent::Key(honest().key.clone()));
    assert_eq!(pair.purchase().state, BatchPurchaseState::Complete);
}

/// Who was cheated takes its coin back if it can. Who has what it paid for does not.
#[test]
fn only_a_buyer_that_was_cheated_takes_back_what_nobody_has_claimed() {
    for (goods, cheated) in [(honest(), false), (&cheats()[0], true)] {
        let mut pair = Pair::new(goods);
        pair.quiet();
        pair.buyer_event(BuyEvent::Key(goods.key.clone()));
        assert_eq!(pair.purchase().state.name(), if cheated { "cheated" } else { "complete" });
        let height = goods.terms.refund_height.get();
        for tip in [height - 1, height, height + 1] {
            let view = CoinView { tip, coin: Standing::Mined(height - 50), spend: None };
            let world = &goods.world;
            let at = BuyerAt { buyer: &world.buyer, network: NETWORK, rate: FeeRate::DEFAULT };
            let mut purchase = pair.purchase().clone();
            let actions = purchase.handle(BuyEvent::View(Box::new(view)), &goods.terms, &at).unwrap();
            let goes_out = actions.iter().any(|action| matches!(action, BuyAction::Refund(_)));
            assert_eq!(goes_out, cheated && tip >= height, "{tip}");
        }
    }
}

/// A restored buyer learns of its coin from the seller, which then sends no parts.
#[test]
fn a_coin_that_was_learned_while_parts_are_missing_comes_back_at_the_refund_height() {
    let mut pair = Pair::new(honest());
    pair.quiet();
    let coin = pair.purchase().coin.clone().unwrap();
    let goods = honest();
    let at = BuyerAt { buyer: &goods.world.buyer, network: NETWORK, rate: FeeRate::DEFAULT };
    let mut purchase = pair.purchase().clone();
    purchase.state = BatchPurchaseState::Receiving;
    (purchase.arrivals, purchase.coin, purchase.taken) = (Default::default(), None, false);
    let begun = ToBuyer::Begun { coin: Some(AtomicBeef(coin.beef)) };
    purchase.handle(BuyEvent::Frame(Box::new(begun)), &goods.terms, &at).unwrap();
    let height = goods.terms.refund_height.get();
    let mut see = |tip, spend: Option<Spend>| {
        let view = CoinView { tip, coin: Standing::Mined(height - 50), spend };
        let actions = purchase.handle(BuyEvent::View(Box::new(view)), &goods.terms, &at).unwrap();
        (actions, purchase.state.name())
    };
    assert_eq!(see(height - 1, None).1, "receiving", "its parts may still come");
    let (actions, state) = see(height, None);
    let [BuyAction::Refund(refund)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(state, "refunding");
    let spend = Spend { transaction: Transaction::from_bytes(refund).unwrap(), height: Some(height + 1) };
    let (actions, state) = see(height + 7, Some(spend));
    assert!(matches!(actions[..], [BuyAction::Credit { .. }]), "{actions:?}");
    assert_eq!(state, "refunded");
}

/// Nobody says what spends the coin. The refund goes out at its height all the same, and as the key may have been shown before, its seller is still
/// asked for it.
#[test]
fn a_refund_that_goes_out_blindly_does_not_end_the_wait_for_the_key() {
    let mut pair = Pair::new(honest());
    pair.quiet();
    let goods = honest();
    let at = BuyerAt { buyer: &goods.world.buyer, network: NETWORK, rate: FeeRate::DEFAULT };
    let mut purchase = pair.purchase().clone();
    let height = goods.terms.refund_height.get();
    let mut blind = |tip| purchase.handle(BuyEvent::Blind { tip }, &goods.terms, &at).unwrap();
    assert_eq!(blind(height - 1), vec![]);
    let first = blind(height);
    let [BuyAction::Refund(_)] = &first[..] else { panic!("{first:?}") };
    assert_eq!(blind(height + 1), first, "the same again with each block");
    assert_eq!(purchase, *pair.purchase(), "nothing is concluded");
    assert!(matches!(&purchase.resume()[..], [BuyAction::Send(ToSeller::Begin(_))]));
    purchase.handle(BuyEvent::Key(goods.key.clone()), &goods.terms, &at).unwrap();
    assert_eq!(purchase.state, BatchPurchaseState::Revealed { opened: 0 });
    let after = purchase.handle(BuyEvent::Blind { tip: height + 2 }, &goods.terms, &at).unwrap();
    assert_eq!(after, vec![], "what is paid for is not taken back");
}

/// The seller's word shows the key; nobody has given the coin to the network.
#[test]
fn a_key_that_is_shown_without_its_coin_on_the_network_still_pays_the_seller() {
    let mut pair = Pair::new(honest());
    pair.quiet();
    pair.buyer_event(BuyEvent::Key(honest().key.clone()));
    assert_eq!(pair.purchase().state, BatchPurchaseState::Complete);
    let goods = honest();
    let at = BuyerAt { buyer: &goods.world.buyer, network: NETWORK, rate: FeeRate::DEFAULT };
    let mut purchase = pair.purchase().clone();
    let beef = purchase.coin.clone().unwrap().beef;
    for (coin, expected) in [(Standing::Unknown, vec![BuyAction::Broadcast(beef)]), (Standing::Seen, vec![])]
    {
        let view = CoinView { tip: pair.chain.tip(), coin, spend: None };
        let actions = purchase.handle(BuyEvent::View(Box::new(view)), &goods.terms, &at).unwrap();
        assert_eq!(actions, expected);
    }
}

/// The model below is worth nothing if its bytes never lead to an end.
#[test]
fn random_actions_lead_to_every_end() {
    let mut ends = std::collections::BTreeMap::new();
    let mut seed = 7_u64;
    for run in 0..160 {
        let goods = if run % 4 == 3 { &cheats()[run % CHEATS.len()] } else { honest() };
        let mut pair = Pair::new(goods);
        for _ in 0..run % 5 * 60 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            pair.act((seed >> 56) as u8);
        }
        pair.settle();
        pair.check_over(run % 4 != 3);
        *ends.entry(pair.purchase().state.name()).or_insert(0) += 1;
    }
    println!("{ends:?}");
    for end in ["complete", "cheated", "refunded", "taken back", "dropped"] {
        assert!(ends.contains_key(end), "{end}: {ends:?}");
    }
}

proptest! {
    /// Bytes choose what happens: frames arrive, twice or never, both crash and come back with what was stored, blocks come and go, the refund
    /// height passes. The invariants are checked after each action; when all is quiet, everybody has what it is owed.
    #[test]
    fn whatever_happens_nobody_loses_more_than_it_chose(
        actions in prop::collection::vec(any::<u8>(), 0..400),
        cheat in prop::option::weighted(0.3, 0..CHEATS.len()),
        double_spend_after in prop::option::weighted(0.2, 0..400_usize),
    ) {
        let goods = cheat.map_or_else(honest, |at| &cheats()[at]);
        let mut pair = Pair::new(goods);
        for (at, action) in actions.into_iter().enumerate() {
            pair.act(action);
            if double_spend_after.is_some_and(|after| at >= after) {
                pair.double_spend();
            }
        }
        pair.settle();
        pair.check_over(cheat.is_none());
    }
}
