#![allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]

use proptest::prelude::*;

use super::*;

fn sat(amount: u64) -> Satoshis {
    Satoshis::from_sat(amount)
}

fn order(tag: u8) -> OrderId {
    OrderId([tag; 32])
}

fn stored(_: &SpendingRecord) -> Result<(), SpendingError> {
    Ok(())
}

#[test]
fn an_order_pays_out_of_its_own_reservation_only() {
    let spending = Spending::new(SpendingRecord::new(sat(100)));
    let mut a = spending.reserve(order(1), sat(60), stored).unwrap();
    let mut b = spending.reserve(order(2), sat(40), stored).unwrap();
    let refused = spending.reserve(order(3), sat(1), stored).unwrap_err();
    assert_eq!(refused, SpendingError::Insufficient { asked: sat(1), free: Satoshis::ZERO });
    assert_eq!(a.pay_to(sat(10)), Ok(sat(10)));
    assert_eq!(b.pay_to(sat(40)), Ok(sat(50)));
    assert_eq!(a.pay_to(sat(61)), Err(SpendingError::AboveReservation { asked: sat(61), limit: sat(60) }));
    assert_eq!(a.pay_to(sat(9)), Err(SpendingError::Lower { asked: sat(9), paid: sat(10) }));
    assert_eq!(a.pay_to(sat(10)), Ok(sat(50)), "paying nothing more is the same voucher");
    assert_eq!(b.end(sat(40)), Ok(()));
    drop(a);
    let record = spending.record();
    assert_eq!((record.paid(), record.free()), (Ok(sat(50)), Ok(sat(50))));
}

#[test]
fn an_order_whose_last_voucher_was_lost_has_paid_what_its_receipt_says() {
    let spending = Spending::new(SpendingRecord::new(sat(100)));
    let mut a = spending.reserve(order(1), sat(60), stored).unwrap();
    a.pay_to(sat(30)).unwrap();
    assert_eq!(a.end(sat(25)), Ok(()));
    let record = spending.record();
    assert_eq!((record.ended, record.highest, record.free()), (sat(25), sat(30), Ok(sat(75))));
    let mut b = spending.reserve(order(2), sat(10), stored).unwrap();
    assert_eq!(b.pay_to(sat(3)), Ok(sat(28)));
    let more = SpendingError::Claims { claimed: sat(4), highest: sat(3) };
    assert_eq!(b.end(sat(4)), Err(more));
}

#[test]
fn nothing_is_reserved_that_is_not_stored() {
    let spending = Spending::new(SpendingRecord::new(sat(100)));
    let before = spending.record();
    let failed = spending.reserve(order(1), sat(60), |_| Err(SpendingError::TooManyOrders));
    assert_eq!(failed.unwrap_err(), SpendingError::TooManyOrders);
    assert_eq!(spending.record(), before);
    let mut seen = None;
    let reservation = spending.reserve(order(1), sat(60), |record| {
        seen = Some(record.clone());
        Ok::<_, SpendingError>(())
    });
    assert_eq!(seen, Some(spending.record()));
    drop(reservation);
    assert_eq!(spending.record(), before);
}

#[test]
fn a_channel_carries_so_many_orders_and_no_more() {
    let spending = Spending::new(SpendingRecord::new(sat(10_000)));
    let id = |n: usize| OrderId([(n / 256) as u8, (n % 256) as u8].repeat(16).try_into().unwrap());
    let held: Vec<_> = (0..MAX_LANES).map(|n| spending.reserve(id(n), sat(1), stored).unwrap()).collect();
    let refused = spending.reserve(id(MAX_LANES), sat(1), stored).unwrap_err();
    assert_eq!(refused, SpendingError::TooManyOrders);
    assert_eq!(spending.reserve(id(0), sat(1), stored).unwrap_err(), SpendingError::AlreadyReserved(id(0)));
    drop(held);
    assert!(spending.reserve(id(MAX_LANES), sat(1), stored).is_ok());
}

#[test]
fn after_a_crash_the_sellers_word_is_believed_within_what_was_reserved() {
    let spending = Spending::new(SpendingRecord::new(sat(100)));
    let mut a = spending.reserve(order(1), sat(60), stored).unwrap();
    let record = spending.record();
    a.pay_to(sat(25)).unwrap();
    // The crash: what is on disk knows nothing of the 25.
    std::mem::forget(a);
    let claims = Err(SpendingError::Claims { claimed: sat(30), highest: sat(25) });
    let cases = [
        (25, 25, Ok(0), 25),
        (80, 80, Ok(20), 60),
        (0, 25, Ok(0), 0),
        (30, 25, claims, 0),
        (60, 60, Ok(0), 60),
    ];
    for (claimed, highest, unclaimed, paid) in cases {
        let mut again = record.clone();
        let claim = Claim { order: order(1), paid: sat(claimed), due: Satoshis::ZERO };
        let learned = again.learn(sat(highest), sat(highest), &[claim], Satoshis::MAX, false);
        assert_eq!(learned, unclaimed.map(sat));
        let again = Spending::new(again);
        assert_eq!(again.take_up(order(1)).unwrap().paid(), sat(paid), "{claimed} of {highest}");
    }
    assert!(Spending::new(record).take_up(order(2)).is_none());
}

#[test]
fn a_seller_that_denies_what_it_was_paid_is_not_paid_again() {
    // Two orders have brought readings for 60 each and paid for them, one of them 4 ahead; the crash has forgotten all of it.
    let spending = Spending::new(SpendingRecord::new(sat(300)));
    let a = spending.reserve(order(1), sat(100), stored).unwrap();
    let b = spending.reserve(order(2), sat(100), stored).unwrap();
    let record = spending.record();
    std::mem::forget((a, b));
    let learned = |highest, exposure, said: [u64; 2]| {
        let mut again = record.clone();
        let claim = |tag: u8, paid| Claim { order: order(tag), paid: sat(paid), due: sat(60) };
        let claims = [claim(1, said[0]), claim(2, said[1])];
        let mut restored = record.clone();
        let unclaimed = restored.learn(sat(highest), sat(highest), &claims, sat(exposure), true).unwrap();
        assert_eq!(restored.paid(), Ok(sat(highest)));
        let nothing = again.learn(sat(highest), sat(highest), &claims, sat(exposure), false);
        assert_eq!((nothing, &again.lanes), (Ok(Satoshis::ZERO), &restored.lanes));
        assert_eq!(again.ended, Satoshis::ZERO, "no order is unknown where nothing was restored");
        ([1, 2].map(|tag| again.lanes[&order(tag)].paid.as_u64()), unclaimed.as_u64())
    };
    assert_eq!(learned(124, 8, [60, 64]), ([60, 64], 0), "the truth is believed");
    assert_eq!(
        learned(124, 8, [60, 50]),
        ([60, 60], 4),
        "a lost voucher was for what is due, or a little ahead"
    );
    assert_eq!(learned(124, 8, [0, 0]), ([60, 60], 4), "denied");
    assert_eq!(learned(124, 8, [100, 24]), ([68, 56], 0), "moved: by no more than the exposure");
    assert_eq!(learned(120, 8, [60, 60]), ([60, 60], 0));
    assert_eq!(learned(115, 8, [51, 64]), ([51, 64], 0), "the voucher for the last readings was lost");
}

#[test]
fn a_lost_voucher_that_another_orders_covers_is_booked_to_no_order() {
    let spending = Spending::new(SpendingRecord::new(sat(100)));
    let mut a = spending.reserve(order(1), sat(40), stored).unwrap();
    let mut b = spending.reserve(order(2), sat(40), stored).unwrap();
    let record = spending.record();
    // The voucher of the first is lost, the one of the second covers it; both are forgotten in the crash.
    assert_eq!((a.pay_to(sat(10)), b.pay_to(sat(5))), (Ok(sat(10)), Ok(sat(15))));
    std::mem::forget((a, b));
    let claim = |tag: u8, paid, due| Claim { order: order(tag), paid: sat(paid), due: sat(due) };
    let learn = |booked, claims: &[Claim]| {
        let mut again = record.clone();
        again
            .learn(sat(15), sat(booked), claims, sat(8), true)
            .map(|unclaimed| (unclaimed, again.paid().unwrap()))
    };
    let nothing = Satoshis::ZERO;
    assert_eq!(
        learn(5, &[claim(1, 0, 0), claim(2, 5, 4)]),
        Ok((nothing, sat(5))),
        "the 10 pay for what comes"
    );
    assert_eq!(learn(5, &[claim(1, 0, 8), claim(2, 5, 4)]), Ok((nothing, sat(13))), "what is due goes first");
    assert_eq!(
        learn(15, &[claim(1, 0, 0), claim(2, 5, 4)]),
        Ok((sat(10), sat(15))),
        "an order that is not known"
    );
    let more = Err(SpendingError::Claims { claimed: sat(16), highest: sat(15) });
    assert_eq!(learn(16, &[claim(1, 0, 0), claim(2, 5, 4)]), more);
}

#[test]
fn an_order_that_is_given_up_unasked_has_paid_all_that_it_had_reserved() {
    let spending = Spending::new(SpendingRecord::new(sat(100)));
    let mut a = spending.reserve(order(1), sat(40), stored).unwrap();
    a.pay_to(sat(10)).unwrap();
    assert_eq!(a.forfeit(), Ok(sat(40)));
    let record = spending.record();
    assert_eq!((record.ended, record.lanes.len(), record.free()), (sat(40), 0, Ok(sat(60))));
}

#[test]
fn an_old_record_never_pays_more_than_there_is() {
    let spending = Spending::new(SpendingRecord::new(sat(100)));
    std::mem::forget(spending.reserve(order(1), sat(60), stored).unwrap());
    let mut record = spending.record();
    // Orders that the record does not know have paid 70.
    assert_eq!(record.learn(sat(70), sat(70), &[], Satoshis::ZERO, false), Ok(sat(70)));
    let mut a = Spending::new(record).take_up(order(1)).unwrap();
    assert_eq!(a.pay_to(sat(30)), Ok(sat(100)));
    let nothing = SpendingError::Insufficient { asked: sat(1), free: Satoshis::ZERO };
    assert_eq!(a.pay_to(sat(31)), Err(nothing));
}

#[test]
fn what_an_order_had_paid_ahead_is_not_taken_again_at_the_next_start() {
    let spending = Spending::new(SpendingRecord::new(sat(100)));
    let mut a = spending.reserve(order(1), sat(60), stored).unwrap();
    a.pay_to(sat(50)).unwrap();
    a.end(sat(30)).unwrap();
    let mut record = spending.record();
    for _ in 0..3 {
        // The seller says that the 20 which are free again were paid by somebody.
        let learned = record.learn(sat(50), sat(50), &[], sat(20), false);
        assert_eq!((learned, record.ended, record.free()), (Ok(Satoshis::ZERO), sat(30), Ok(sat(70))));
    }
    assert_eq!(
        record.learn(sat(50), sat(50), &[], sat(20), true),
        Ok(sat(20)),
        "after an old backup it may be so"
    );
}

#[test]
fn a_voucher_that_was_kept_back_does_not_prove_later_that_a_record_is_old() {
    let spending = Spending::new(SpendingRecord::new(sat(100)));
    let mut a = spending.reserve(order(1), sat(60), stored).unwrap();
    let mut record = spending.record();
    a.pay_to(sat(50)).unwrap();
    // The crash; the seller shows nothing of the 50, and the order ends with 42.
    std::mem::forget(a);
    let claim = Claim { order: order(1), paid: Satoshis::ZERO, due: sat(42) };
    record.learn(Satoshis::ZERO, Satoshis::ZERO, &[claim], sat(8), false).unwrap();
    let spending = Spending::new(record);
    let mut a = spending.take_up(order(1)).unwrap();
    a.pay_to(sat(42)).unwrap();
    a.end(sat(42)).unwrap();
    let mut record = spending.record();
    assert_eq!(record.learn(sat(50), sat(50), &[], sat(8), false), Ok(Satoshis::ZERO));
    assert_eq!(record.paid(), Ok(sat(42)));
}

#[test]
fn sixty_four_orders_at_once_never_reserve_more_than_there_is() {
    let spending = Spending::new(SpendingRecord::new(sat(1_000)));
    std::thread::scope(|scope| {
        for tag in 0..64 {
            let spending = spending.clone();
            scope.spawn(move || {
                for round in 0..50 {
                    let Ok(mut mine) = spending.reserve(order(tag), sat(40), stored) else { continue };
                    let before = mine.paid().as_u64();
                    let to = sat(before + (round % 3));
                    let voucher = mine.pay_to(to).unwrap();
                    let record = spending.record();
                    assert!(voucher <= record.paid().unwrap());
                    assert!(record.promised().unwrap() <= record.capacity);
                }
            });
        }
    });
    let record = spending.record();
    assert_eq!(record.reserved(), Ok(Satoshis::ZERO));
    assert!(record.paid().unwrap() <= record.capacity);
}

proptest! {
    #[test]
    fn vouchers_only_grow_and_nothing_is_promised_twice(
        capacity in 0u64..500,
        steps in prop::collection::vec((0u8..5, 0u8..4, 0u64..200), 1..80),
    ) {
        let spending = Spending::new(SpendingRecord::new(sat(capacity)));
        let mut held: BTreeMap<u8, Reservation> = BTreeMap::new();
        let (mut highest, mut disk) = (0, spending.record());
        for (what, tag, amount) in steps {
            match what {
                0 => {
                    let result = spending.reserve(order(tag), sat(amount), |record| {
                        disk = record.clone();
                        Ok::<_, SpendingError>(())
                    });
                    if let Ok(reservation) = result {
                        held.insert(tag, reservation);
                    }
                }
                1 | 2 => {
                    if let Some(reservation) = held.get_mut(&tag)
                        && let Ok(voucher) = reservation.pay_to(sat(amount))
                    {
                        prop_assert!(voucher.as_u64() >= highest);
                        highest = voucher.as_u64();
                    }
                }
                3 => drop(held.remove(&tag)),
                _ => if let Some(reservation) = held.remove(&tag) {
                    let paid = reservation.paid();
                    reservation.end(paid).unwrap();
                },
            }
            let record = spending.record();
            prop_assert!(record.promised().unwrap() <= sat(capacity));
            prop_assert_eq!(record.paid().unwrap().as_u64(), highest);
            // What a crash would leave covers every voucher that is out.
            prop_assert!(disk.promised().unwrap().max(disk.highest).as_u64() >= highest);
        }
    }
}
