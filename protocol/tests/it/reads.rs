//! Single readings: both state machines against each other, whatever network, disks and processes do.

pub(crate) mod pair;

use proptest::prelude::*;
use sensora_protocol::Signed;
use sensora_protocol::market::delivery::frame::ToBuyer as Frame;
use sensora_protocol::market::price::Price;
use sensora_protocol::market::reads::ask::{AskError, Got, Want};
use sensora_protocol::market::reads::asked::MAX_RUNS;
use sensora_protocol::market::reads::frame::{ToBuyer, ToSeller};
use sensora_protocol::market::reads::known::KnownError;
use sensora_protocol::market::reads::serve::ServeEvent;
use sensora_protocol::market::receipt::ChannelReceipt;
use sensora_protocol::market::refusal::Refusal;

use crate::world::{NETWORK, sat};
pub(crate) use pair::offer;
use pair::{Pair, READINGS, Setup, Up};

fn seqs(pair: &Pair, want: Want) -> Vec<u64> {
    let got = pair.got.get(&want).into_iter().flatten();
    got.filter_map(|got| match got {
        Got::Reading(reading) => Some(reading.seq),
        _ => None,
    })
    .collect()
}

fn end(mut pair: Pair) -> Pair {
    pair.stop();
    pair.settle();
    pair.check_ended();
    pair
}

#[test]
fn readings_are_paid_one_by_one_with_few_vouchers_and_fewer_writes() {
    let mut pair = Pair::new(Setup { buyer_limit: 60, seller_limit: 60, ..Setup::default() });
    pair.start();
    for seq in 0..100 {
        pair.want(Want::Seq(seq));
        pair.settle();
        assert_eq!(seqs(&pair, Want::Seq(seq)), [seq]);
    }
    assert!(pair.vouchers < 40, "{} vouchers for 100 readings", pair.vouchers);
    let pair = end(pair);
    assert_eq!(pair.kept(), (0..100).collect::<Vec<_>>());
}

#[test]
fn many_in_flight_need_fewer_writes_still() {
    let mut pair = Pair::new(Setup { buyer_limit: 60, seller_limit: 60, ..Setup::default() });
    pair.start();
    for seq in 0..100 {
        pair.want(Want::Seq(seq));
    }
    pair.settle();
    assert!(pair.stores < 20 && pair.pieces < 20, "{} and {} writes", pair.stores, pair.pieces);
    assert_eq!(end(pair).kept(), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_reading_that_is_asked_for_twice_is_paid_once() {
    let mut pair = Pair::new(Setup::default());
    pair.start();
    for _ in 0..64 {
        pair.want(Want::Seq(7));
    }
    pair.settle();
    pair.want(Want::Seq(7));
    pair.settle();
    let got = &pair.got[&Want::Seq(7)];
    assert_eq!(got.iter().filter(|got| matches!(got, Got::Reading(_))).count(), 1);
    assert_eq!(got.iter().filter(|got| **got == Got::Same { seq: 7 }).count(), 64);
    // A buyer that asks the seller itself again has its answer, and no further place is taken.
    pair.to_seller.push_back(Up::Frame(ToSeller::Read { id: 9, step: 0, levels: 3 }));
    pair.deliver_to_seller();
    assert!(matches!(pair.to_buyer.back(), Some(ToBuyer::Row { id: 9, .. })));
    pair.to_buyer.clear();
    let pair = end(pair);
    assert_eq!(pair.kept(), [7]);
}

#[test]
fn the_newest_is_paid_when_it_is_new() {
    let mut pair = Pair::new(Setup { size: 50, ..Setup::default() });
    pair.start();
    for (size, count) in [(50, 1), (50, 1), (51, 2), (60, 3), (60, 3)] {
        pair.size = size;
        pair.want(Want::Latest);
        pair.settle();
        assert_eq!(seqs(&pair, Want::Latest).len(), count);
    }
    assert_eq!(seqs(&pair, Want::Latest), [49, 50, 59]);
    assert_eq!(pair.got[&Want::Latest].iter().filter(|got| **got == Got::Same { seq: 59 }).count(), 1);
    pair.want(Want::Seq(55));
    pair.want(Want::Seq(60));
    pair.settle();
    assert_eq!(pair.got[&Want::Seq(60)], [Got::Absent { size: 60 }]);
    pair.size = 61;
    pair.want(Want::Seq(60));
    pair.settle();
    assert_eq!(end(pair).kept(), [49, 50, 59, 55, 60]);
}

#[test]
fn either_side_may_go_first_alone() {
    for (buyer, seller) in [(0, 12), (12, 0), (2, 2), (2, 0), (0, 2), (1000, 1000)] {
        let mut pair = Pair::new(Setup { buyer_limit: buyer, seller_limit: seller, ..Setup::default() });
        pair.start();
        for seq in 0..40 {
            pair.want(Want::Seq(seq * 2));
        }
        pair.settle();
        assert_eq!(end(pair).kept().len(), 40, "exposures of {buyer} and {seller}");
    }
}

#[test]
fn where_nobody_can_go_first_it_is_said() {
    let mut pair = Pair::new(Setup { buyer_limit: 1, seller_limit: 1, ..Setup::default() });
    pair.want(Want::Seq(1));
    pair.settle();
    assert!(matches!(pair.errors.first(), Some(AskError::NobodyBegins { .. })), "{:?}", pair.errors);
    assert_eq!((pair.signed(), pair.kept().len()), (sat(0), 0));
}

#[test]
fn a_reading_that_does_not_verify_is_followed_by_no_voucher() {
    let mut pair = Pair::new(Setup::default());
    pair.start();
    for seq in 0..30 {
        pair.want(Want::Seq(seq));
    }
    let mut rows = 0;
    while rows < 5 {
        let is_row = matches!(pair.to_buyer.front(), Some(ToBuyer::Row { .. }));
        rows += u64::from(is_row);
        if rows == 5 {
            break;
        }
        assert!(
            pair.deliver_to_buyer()
                || pair.deliver_to_seller()
                || pair.store_completes()
                || pair.keep_completes()
        );
    }
    let signed = pair.signed();
    let Some(ToBuyer::Row { row, .. }) = pair.to_buyer.front_mut() else { unreachable!() };
    row.step += 1;
    pair.deliver_to_buyer();
    assert!(
        matches!(pair.errors.last(), Some(AskError::Known(KnownError::Wrong { .. }))),
        "{:?}",
        pair.errors
    );
    assert_eq!(pair.signed(), signed);
    assert!(!pair.is_connected());
    pair.settle();
    assert_eq!(end(pair).kept().len(), 30, "what was in flight is asked for again");
}

#[test]
fn a_budget_is_never_passed() {
    let mut pair = Pair::new(Setup { budget: 31, ..Setup::default() });
    pair.start();
    for seq in 0..40 {
        pair.want(Want::Seq(seq));
    }
    pair.settle();
    let pair = end(pair);
    // Twenty at 1.5 sat.
    assert_eq!(pair.kept().len(), 20);
    assert_eq!(pair.got[&Want::Seq(20)], [Got::Spent]);
}

#[test]
fn a_crash_of_the_buyer_loses_nothing_while_the_seller_remembers() {
    let mut pair = Pair::new(Setup { buyer_limit: 100, seller_limit: 100, ..Setup::default() });
    pair.start();
    for seq in 0..60 {
        pair.want(Want::Seq(seq * 3 % 61));
    }
    while pair.got.len() < 40 {
        assert!(
            pair.deliver_to_buyer()
                || pair.deliver_to_seller()
                || pair.store_completes()
                || (pair.kept().len() < 20 && pair.keep_completes())
        );
    }
    assert!(pair.kept().len() < 30);
    pair.buyer_crashes();
    pair.settle();
    let pair = end(pair);
    assert!(pair.kept().len() >= 40, "{}", pair.kept().len());
}

#[test]
fn what_no_buyer_asks_is_refused() {
    let frames = [
        ToSeller::Read { id: 0, step: 100, levels: 0 },
        ToSeller::Read { id: 0, step: 99, levels: 7 },
        ToSeller::Read { id: 0, step: 1, levels: 255 },
        ToSeller::Latest { id: 0, size: 101, levels: None },
        ToSeller::Grow { id: 0, size: u64::MAX },
    ];
    for frame in frames {
        let mut pair = Pair::new(Setup::default());
        pair.start();
        pair.deliver_to_seller();
        pair.to_seller.push_front(Up::Frame(frame));
        pair.deliver_to_seller();
        assert!(
            matches!(
                pair.refusals.last(),
                Some(Refusal::RangeNotAvailable { size: 100 } | Refusal::Malformed { .. })
            ),
            "{frame:?}"
        );
    }
    let mut pair = Pair::new(Setup { seller_limit: 0, ..Setup::default() });
    pair.start();
    pair.deliver_to_seller();
    for seq in 0..300 {
        pair.to_seller.push_back(Up::Frame(ToSeller::Read { id: 0, step: i64::from(seq == 0), levels: 0 }));
        pair.deliver_to_seller();
    }
    assert!(matches!(pair.refusals.last(), Some(Refusal::Malformed { .. })), "questions without end");
}

#[test]
fn a_grant_that_is_not_used_is_taken_back() {
    let mut pair = Pair::new(Setup { buyer_limit: 0, seller_limit: 50, ..Setup::default() });
    pair.start();
    for seq in 0..20 {
        pair.want(Want::Seq(seq));
        pair.settle();
    }
    pair.seller_event(ServeEvent::Idle);
    pair.settle();
    pair.want(Want::Seq(30));
    pair.settle();
    assert_eq!(end(pair).kept().len(), 21);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Bytes choose what happens; the invariants are checked after each action. When all is quiet and everything works again, the order ends, and each reading was
    /// charged once.
    #[test]
    fn whatever_happens_neither_side_risks_more_than_it_chose(
        actions in prop::collection::vec(any::<u8>(), 0..300),
        buyer_limit in 0u64..30,
        seller_limit in 0u64..30,
        msat in 1u64..9_000,
        size in 1u64..READINGS,
    ) {
        let mut pair = Pair::new(Setup { buyer_limit, seller_limit, msat, size, budget: 300, endings: false });
        for action in actions {
            pair.act(action);
        }
        let unit = Price::from_msat(msat).unwrap().total(1).unwrap();
        if buyer_limit.max(seller_limit) >= unit.as_u64() {
            pair.settle();
            end(pair);
        }
    }

    /// The same, and somewhere in between the channel comes to its end.
    #[test]
    fn an_order_ends_with_its_channel_whatever_happens(
        actions in prop::collection::vec(any::<u8>(), 0..300),
        buyer_limit in 0u64..30,
        seller_limit in 0u64..30,
        msat in 1u64..9_000,
        size in 1u64..READINGS,
    ) {
        let mut pair = Pair::new(Setup { buyer_limit, seller_limit, msat, size, budget: 300, endings: true });
        for action in actions {
            pair.act(action);
        }
        pair.come_to_an_end();
    }
}

#[test]
fn questions_that_cross_the_end_of_the_channel_are_told_of_it() {
    let mut pair = Pair::new(Setup { buyer_limit: 60, seller_limit: 60, ..Setup::default() });
    pair.start();
    pair.want(Want::Seq(3));
    pair.settle();
    pair.seller_event(ServeEvent::Closing);
    for seq in 10..20 {
        pair.want(Want::Seq(seq));
    }
    pair.want(Want::Latest);
    pair.settle();
    for seq in 10..20 {
        assert_eq!(pair.got[&Want::Seq(seq)], [Got::Ending]);
    }
    assert_eq!(pair.got[&Want::Latest], [Got::Ending]);
    assert!(pair.errors.is_empty() && pair.refusals.is_empty(), "{:?} {:?}", pair.errors, pair.refusals);
    pair.check_ended();
    assert_eq!(pair.kept(), [3]);
}

#[test]
fn what_is_verified_is_kept_when_the_channel_closes_before_the_receipt() {
    let mut pair = Pair::new(Setup { buyer_limit: 6, seller_limit: 60, ..Setup::default() });
    pair.start();
    for seq in 0..4 {
        pair.want(Want::Seq(seq));
    }
    while pair.got.len() < 4 {
        assert!(pair.deliver_to_buyer() || pair.deliver_to_seller() || pair.store_completes());
    }
    pair.come_to_an_end();
    assert_eq!(pair.kept(), [0, 1, 2, 3]);
}

/// A new stream, on which the seller says that it has answered with `runs`.
fn owes(pair: &mut Pair, runs: Vec<(u64, u64)>) -> Option<&AskError> {
    pair.start();
    pair.deliver_to_seller();
    pair.to_buyer.retain(|frame| !matches!(frame, ToBuyer::Owed(_)));
    pair.to_buyer.insert(1, ToBuyer::Owed(runs));
    pair.deliver_to_buyer();
    pair.deliver_to_buyer();
    pair.errors.last()
}

#[test]
fn a_seller_sells_no_reading_that_was_not_asked_for() {
    let mut pair = Pair::new(Setup { buyer_limit: 60, seller_limit: 60, ..Setup::default() });
    let error = owes(&mut pair, vec![(0, 50)]).cloned();
    assert_eq!(error, Some(AskError::Counts { said: 50, here: 0 }), "nothing was asked for yet");

    let mut pair = Pair::new(Setup { buyer_limit: 60, seller_limit: 60, ..Setup::default() });
    pair.start();
    pair.settle();
    for seq in [3, 4, 9] {
        pair.want(Want::Seq(seq));
    }
    pair.disconnect();
    assert_eq!(owes(&mut pair, vec![(3, 4)]), Some(&AskError::Counts { said: 4, here: 0 }));
    for (runs, seq) in [(vec![(3, 3)], 5), (vec![(3, 1), (3, 1)], 3), (vec![(4, 2)], 5)] {
        assert_eq!(owes(&mut pair, runs), Some(&AskError::NotAsked { seq }));
    }
    assert!(pair.kept().is_empty());
    pair.settle();
    let mut kept = end(pair).kept().to_vec();
    kept.sort_unstable();
    assert_eq!(kept, [3, 4, 9]);
}

#[test]
fn the_newest_that_was_asked_for_may_be_owed_once() {
    let mut pair = Pair::new(Setup { buyer_limit: 60, seller_limit: 60, ..Setup::default() });
    pair.start();
    pair.settle();
    pair.want(Want::Latest);
    pair.disconnect();
    assert_eq!(owes(&mut pair, vec![(98, 1)]), Some(&AskError::NotAsked { seq: 98 }));
    let errors = pair.errors.len();
    owes(&mut pair, vec![(99, 1)]);
    assert_eq!(pair.errors.len(), errors);
}

#[test]
fn after_a_crash_a_seller_sells_no_more_than_can_have_been_asked_for() {
    let setup = Setup { buyer_limit: 8, seller_limit: 8, ..Setup::default() };
    let mut pair = Pair::new(setup);
    pair.buyer_crashes();
    // 18 sat: twice the exposure, and one reading.
    assert_eq!(owes(&mut pair, vec![(0, 13)]), Some(&AskError::Due { asked: sat(20), due: sat(18) }));
    let errors = pair.errors.len();
    owes(&mut pair, vec![(0, 12)]);
    assert_eq!(pair.errors.len(), errors);

    let mut pair = Pair::new(Setup { buyer_limit: 1000, budget: 1000, msat: 1, ..setup });
    pair.buyer_crashes();
    assert!(matches!(owes(&mut pair, vec![(0, 2305)]), Some(AskError::Counts { said: 2305, here: 0 })));
}

#[test]
fn what_was_paid_ahead_is_not_taken_with_the_receipt() {
    let mut pair = Pair::new(Setup { buyer_limit: 60, seller_limit: 60, ..Setup::default() });
    pair.start();
    for seq in 0..20 {
        pair.want(Want::Seq(seq));
    }
    pair.settle();
    pair.stop();
    while !matches!(pair.to_buyer.front(), Some(ToBuyer::Order(Frame::Ended { .. }))) {
        assert!(
            pair.deliver_to_buyer()
                || pair.deliver_to_seller()
                || pair.store_completes()
                || pair.keep_completes()
        );
    }
    let Some(ToBuyer::Order(Frame::Ended { receipt })) = pair.to_buyer.pop_front() else { unreachable!() };
    let honest = receipt.verify::<ChannelReceipt>(NETWORK).unwrap().value().clone();
    assert!(pair.signed() > honest.paid, "something is paid ahead");
    let greedy = ChannelReceipt { paid: pair.signed(), ..honest };
    let receipt = Signed::sign(greedy, &pair.world.seller, NETWORK).unwrap().into_bytes();
    pair.to_buyer.push_front(ToBuyer::Order(Frame::Ended { receipt }));
    pair.deliver_to_buyer();
    assert_eq!(pair.errors, [AskError::Receipt { field: "paid" }]);
    pair.settle();
    pair.check_ended();
}

#[test]
fn scattered_readings_in_flight_never_pass_the_runs_of_an_order() {
    let more = MAX_RUNS as u64 + 40;
    let setup = Setup {
        buyer_limit: 1000,
        seller_limit: 1000,
        msat: 10,
        budget: 1000,
        size: 2 * more,
        endings: false,
    };
    let mut pair = Pair::new(setup);
    pair.start();
    for seq in (0..more).map(|n| 2 * n) {
        if !pair.ask.has_room() {
            pair.settle();
        }
        pair.want(Want::Seq(seq));
    }
    pair.settle();
    assert!(pair.errors.is_empty() && pair.refusals.is_empty(), "{:?} {:?}", pair.errors, pair.refusals);
    let full = |seq| pair.got[&Want::Seq(seq)] == [Got::Full];
    assert_eq!((0..more).filter(|n| full(2 * n)).count(), 40);
    assert_eq!(end(pair).kept().len(), MAX_RUNS);
}

#[test]
fn what_nobody_pays_for_is_answered_without_end_only_slowly() {
    let mut pair = Pair::new(Setup { buyer_limit: 0, seller_limit: 60, ..Setup::default() });
    pair.settle();
    let ask = |pair: &mut Pair, frame: ToSeller| {
        pair.to_seller.push_back(Up::Frame(frame));
        pair.deliver_to_seller();
        while pair.store_completes() {}
    };
    let grow = ToSeller::Grow { id: 0, size: 0 };
    for _ in 0..255 {
        ask(&mut pair, grow);
    }
    assert_eq!(pair.to_buyer.len(), 255, "one was given when the stream began");
    // A reading that takes a place brings sixteen more.
    ask(&mut pair, ToSeller::Read { id: 1, step: 5, levels: 0 });
    for n in 0..20 {
        let again = ToSeller::Read { id: 2, step: 0, levels: 0 };
        ask(&mut pair, if n % 2 == 0 { again } else { grow });
    }
    // And the first one in its time.
    let mut answers = 256 + 16 + 1;
    for (passed_ms, more) in [(0, 0), (999, 0), (1, 1), (500, 0), (-4000, 1), (1000, 1)] {
        pair.world.now_ms += passed_ms;
        pair.seller_event(ServeEvent::Rest);
        answers += more;
        assert_eq!(pair.to_buyer.len(), answers, "after {passed_ms} ms");
    }
    assert!(pair.refusals.is_empty(), "{:?}", pair.refusals);
}
