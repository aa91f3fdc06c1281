//! Several orders beside each other on one channel.

pub(crate) mod orders;

use proptest::prelude::*;
use sensora_protocol::market::price::{Price, Tariff};

use super::pair::{Goods, READINGS};
use crate::world::sat;
use orders::Many;

#[test]
fn orders_that_share_one_exposure_do_not_wait_for_each_other_for_ever() {
    // Each needs 2 at a time, and 2 are all there is, on one side alone.
    let range = |first| (Goods::Range { first, count: 20 }, None, 1_500);
    for limits in [(0, 2), (2, 0), (2, 2), (3, 0), (0, 3), (5, 5)] {
        let mut many = Many::new(&[range(0), range(20), range(40)], limits, READINGS);
        many.settle();
        many.check_ended();
        assert_eq!(many.earning.highest, sat(90), "{limits:?}");
    }
}

fn any_goods() -> impl Strategy<Value = (Goods, Option<u64>, u64)> {
    let budget = prop::option::of(0u64..150);
    (0u8..4, 0u64..8, 1u64..5_000, 0u64..150, budget).prop_map(|(kind, first, msat, live, budget)| {
        let price = Price::from_msat(msat).unwrap();
        let by_second = Tariff::Second { price, longest_gap_ms: 2_500 };
        let tariff = if kind == 3 { by_second } else { Tariff::Reading(price) };
        match kind {
            0 | 1 => (Goods::Range { first, count: 30 }, budget, msat),
            _ => (Goods::Live { first, tariff, budget: live }, None, msat),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Bytes choose what happens to three orders: frames arrive, streams break, time passes, both crash. In the end all have ended,
    /// each charged once.
    #[test]
    fn whatever_happens_to_many_orders_the_exposure_is_shared(
        actions in prop::collection::vec(any::<u8>(), 0..300),
        goods in prop::collection::vec(any_goods(), 2..=3),
        buyer_limit in 0u64..30,
        seller_limit in 0u64..30,
        size in 10u64..64,
    ) {
        let mut many = Many::new(&goods, (buyer_limit, seller_limit), size);
        for action in actions {
            many.act(action);
        }
        many.come_to_an_end();
    }
}
