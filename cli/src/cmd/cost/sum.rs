//! From the bytes of one transaction to what a year takes. Whole numbers throughout: satoshis are not rounded before the end.

#![warn(clippy::arithmetic_side_effects)]

use super::measure::Measures;

/// Bytes on disk of one reading with one value, when a real sensor's noise does not compress (docs/performance.md: NAB, all tables), in hundredths.
pub(super) const NOISY_CENTIBYTES: u64 = 433;
/// The same when the values have the digits that the sensor measures (docs/performance.md: thermometer with one decimal, all tables).
pub(super) const TIDY_CENTIBYTES: u64 = 36;
/// Satoshis in one BSV.
pub(super) const SAT_PER_BSV: u64 = 100_000_000;

const DAY_S: u64 = 86_400;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) sensors: u64,
    pub(super) every_s: u64,
    pub(super) span_s: u64,
    pub(super) anchor_every_s: u64,
    /// An anchor is made as soon as so many readings wait.
    pub(super) anchor_readings: u64,
    /// An ad on chain is renewed so often.
    pub(super) ad_every_s: u64,
    pub(super) sales_per_day: u64,
    pub(super) price_sat: u64,
}

/// What it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Costs {
    /// Nodes, each with an ad, anchors and a wallet of its own.
    pub(super) nodes: u64,
    pub(super) readings: u64,
    /// Seconds between two anchors of a node.
    pub(super) anchor_interval_s: u64,
    pub(super) anchors: u64,
    pub(super) anchor_sat: u64,
    pub(super) ads: u64,
    pub(super) ad_sat: u64,
    /// Anchors and ads.
    pub(super) total_sat: u64,
    pub(super) per_year_sat: u64,
    pub(super) per_sensor_year_sat: u64,
    /// Thousandths of a satoshi for each reading, rounded up: the price at which everything, sold once, pays for the chain.
    pub(super) per_reading_msat: u64,
    pub(super) chain_bytes: u64,
    pub(super) disk_tidy_bytes: u64,
    pub(super) disk_noisy_bytes: u64,
    pub(super) disk_anchor_bytes: u64,
    pub(super) sales: u64,
    pub(super) income_sat: u64,
    /// Spending the coins that the sales brought.
    pub(super) moving_sat: u64,
    /// Income less everything that the seller pays; negative: it does not pay.
    pub(super) profit_sat: i64,
    /// Orders in a day, rounded up, at which the income pays for everything; `None` where one order brings less than spending its coin takes.
    pub(super) break_even_per_day: Option<u64>,
}

/// Sums up. `None` where a number leaves its range.
pub(super) fn sum(question: &Question, measures: &Measures) -> Option<Costs> {
    let Question { sensors, every_s, span_s, .. } = *question;
    let per_node = u64::from(measures.streams).max(1);
    let nodes = sensors.div_ceil(per_node);
    let readings = span_s.checked_div(every_s)?.checked_mul(sensors)?;
    // An anchor waits for something to anchor, and does not wait longer than for its number of readings.
    let until_full = question.anchor_readings.checked_mul(every_s)?.checked_div(sensors.min(per_node))?;
    let anchor_interval_s = question.anchor_every_s.min(until_full).max(every_s).max(1);
    let anchors = span_s.checked_div(anchor_interval_s)?.max(1).checked_mul(nodes)?;
    let ads = span_s.div_ceil(question.ad_every_s.max(1)).max(1).checked_mul(nodes)?;
    let anchor_sat = anchors.checked_mul(measures.anchor.fee)?;
    let ad_sat = ads.checked_mul(measures.ad.fee)?;
    let total_sat = anchor_sat.checked_add(ad_sat)?;
    let per_year = |sat: u64| {
        let year = u128::from(sat).checked_mul(u128::from(DAY_S.checked_mul(365)?))?;
        u64::try_from(year.div_ceil(u128::from(span_s.max(1)))).ok()
    };
    let per_year_sat = per_year(total_sat)?;
    let per_reading_msat = u128::from(total_sat).checked_mul(1_000)?.div_ceil(u128::from(readings.max(1)));
    let disk = |centibytes: u64| Some(readings.checked_mul(centibytes)?.div_ceil(100));
    let sales =
        u128::from(question.sales_per_day).checked_mul(u128::from(span_s))?.checked_div(u128::from(DAY_S))?;
    let sales = u64::try_from(sales).ok()?;
    let income_sat = sales.checked_mul(question.price_sat)?;
    let moving_sat = sales.checked_mul(measures.per_coin.fee)?;
    let profit =
        i128::from(income_sat).checked_sub(i128::from(moving_sat))?.checked_sub(i128::from(total_sat))?;
    let kept = question.price_sat.checked_sub(measures.per_coin.fee).filter(|kept| *kept > 0);
    let break_even_per_day = kept.and_then(|kept| {
        let a_day = u128::from(total_sat).checked_mul(u128::from(DAY_S))?;
        u64::try_from(a_day.div_ceil(u128::from(span_s.max(1)).checked_mul(u128::from(kept))?)).ok()
    });
    Some(Costs {
        nodes,
        readings,
        anchor_interval_s,
        anchors,
        anchor_sat,
        ads,
        ad_sat,
        total_sat,
        per_year_sat,
        per_sensor_year_sat: per_year_sat.div_ceil(sensors.max(1)),
        per_reading_msat: u64::try_from(per_reading_msat).ok()?,
        chain_bytes: anchors
            .checked_mul(measures.anchor.bytes)?
            .checked_add(ads.checked_mul(measures.ad.bytes)?)?,
        disk_tidy_bytes: disk(TIDY_CENTIBYTES)?,
        disk_noisy_bytes: disk(NOISY_CENTIBYTES)?,
        disk_anchor_bytes: anchors.checked_mul(measures.anchor_record)?,
        sales,
        income_sat,
        moving_sat,
        profit_sat: i64::try_from(profit).ok()?,
        break_even_per_day,
    })
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use sensora_chain::FeeRate;

    use super::super::measure::measure;
    use super::*;

    const YEAR_S: u64 = 365 * DAY_S;

    fn example() -> Question {
        Question {
            sensors: 10,
            every_s: 60,
            span_s: YEAR_S,
            anchor_every_s: 600,
            anchor_readings: 100_000,
            ad_every_s: 166 * 3_600,
            sales_per_day: 20,
            price_sat: 100,
        }
    }

    /// The example of docs/mainnet.md, worked out again from the formats alone: BRC-30 and docs/onchain.md, no code of ours.
    #[test]
    fn ten_sensors_for_a_year_cost_what_their_bytes_cost() {
        let measures = measure(10, FeeRate::new(100), 60_000).unwrap();
        let costs = sum(&example(), &measures).unwrap();
        // Version, counts and lock time; one input with a signature of 71 or 72 bytes, its type and a key; the anchor's push; change.
        let frame = 4 + 1 + 1 + 4;
        let input = |signature: u64| 32 + 4 + 1 + (1 + signature + 1) + (1 + 33) + 4;
        let anchor_output = 8 + 1 + (1 + 1 + 2 + 83);
        let change = 8 + 1 + 25;
        let size = |signature| frame + input(signature) + anchor_output + change;
        assert!((size(70)..=size(72)).contains(&measures.anchor.bytes), "{}", measures.anchor.bytes);
        // A tenth of a satoshi for a byte, rounded up, with counts of three bytes and the longest signature foreseen.
        let fee = (size(72) + 4).div_ceil(10);
        assert_eq!(measures.anchor.fee, fee);
        assert_eq!(costs.readings, 10 * 365 * 24 * 60);
        assert_eq!(costs.anchors, 365 * 24 * 6);
        assert_eq!(costs.ads, (365_u64 * 24).div_ceil(166));
        assert_eq!(costs.anchor_sat, 52_560 * fee);
        assert_eq!(costs.ad_sat, costs.ads * measures.ad.fee);
        assert_eq!(costs.total_sat, costs.per_year_sat);
        assert_eq!(costs.per_sensor_year_sat, costs.total_sat.div_ceil(10));
        assert_eq!(costs.per_reading_msat, (costs.total_sat * 1_000).div_ceil(5_256_000));
        let per_byte = measures.ad.bytes.div_ceil(10);
        assert!((per_byte..=per_byte + 1).contains(&measures.ad.fee));
        assert_eq!(costs.nodes, 1);
        // Sales: 20 a day at 100 sat, and 14.8 sat to spend each coin.
        assert_eq!((costs.sales, costs.income_sat), (7_300, 730_000));
        assert!((14..=15).contains(&measures.per_coin.fee) && (146..=149).contains(&measures.per_coin.bytes));
        assert_eq!(costs.moving_sat, 7_300 * measures.per_coin.fee);
        let profit = 730_000 - i64::try_from(costs.moving_sat + costs.total_sat).unwrap();
        assert_eq!(costs.profit_sat, profit);
        let kept = 100 - measures.per_coin.fee;
        let needed = costs.break_even_per_day.unwrap();
        assert!(needed * 365 * kept >= costs.total_sat && (needed - 1) * 365 * kept < costs.total_sat);
    }

    #[test]
    fn costs_follow_the_fee_rate_and_anchors_wait_for_readings() {
        let cheap = measure(10, FeeRate::new(1), 60_000).unwrap();
        let dear = measure(10, FeeRate::new(1_000), 60_000).unwrap();
        assert!(cheap.anchor.fee == 1 && dear.anchor.fee > 280, "{cheap:?} {dear:?}");
        // A sensor that speaks once an hour is anchored once an hour.
        let hourly = Question { every_s: 3_600, ..example() };
        assert_eq!(sum(&hourly, &cheap).unwrap().anchors, 365 * 24);
        // Many readings are anchored before the time is over.
        let busy = Question { every_s: 1, anchor_every_s: 86_400, anchor_readings: 36_000, ..example() };
        assert_eq!(sum(&busy, &cheap).unwrap().anchor_interval_s, 3_600);
    }

    #[test]
    fn what_does_not_fit_in_one_ad_takes_more_nodes() {
        let measures = measure(256, FeeRate::new(100), 60_000).unwrap();
        assert!(measures.streams < 64);
        let costs = sum(&Question { sensors: 256, ..example() }, &measures).unwrap();
        assert_eq!(costs.nodes, 256_u64.div_ceil(u64::from(measures.streams)));
        assert_eq!(costs.anchors, 52_560 * costs.nodes);
    }

    #[test]
    fn an_order_that_brings_less_than_its_coin_takes_never_pays() {
        let measures = measure(1, FeeRate::new(100), 60_000).unwrap();
        let costs = sum(&Question { price_sat: 10, ..example() }, &measures).unwrap();
        assert_eq!(costs.break_even_per_day, None);
        let absurd = Question { sensors: u64::MAX, ..example() };
        assert_eq!(sum(&absurd, &measures), None);
    }
}
