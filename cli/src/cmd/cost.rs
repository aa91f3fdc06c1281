//! `sensora cost`: what selling costs, and when it pays.

mod measure;
mod sum;

use sensora_chain::{FeeRate, Satoshis};
use sensora_node::agent::advertiser::{LIFETIME_ON_CHAIN_MS, RENEW_ON_CHAIN_MS};
use serde_json::json;

use self::measure::{Measured, Measures, measure};
use self::sum::{Costs, NOISY_CENTIBYTES, Question, SAT_PER_BSV, TIDY_CENTIBYTES, sum};
use crate::args::CostArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Table, counted, duration};

/// Works it out and shows it.
pub(super) fn run(args: &CostArgs, context: &Context) -> Outcome<Exit> {
    let configured = context.paths().ok().and_then(|paths| context.config(&paths).ok()).unwrap_or_default();
    let rate = args.fee_rate.map_or(FeeRate::DEFAULT, FeeRate::new);
    let every_ms = u64::try_from(args.every.as_millis()).unwrap_or(u64::MAX);
    let measures = measure(args.sensors, rate, every_ms)?;
    let ad_every_ms = u64::try_from(LIFETIME_ON_CHAIN_MS.saturating_sub(RENEW_ON_CHAIN_MS)).unwrap_or(0);
    let question = Question {
        sensors: u64::from(args.sensors),
        every_s: args.every.as_secs(),
        span_s: args.span.as_secs(),
        anchor_every_s: args.anchor_every.map_or(configured.anchor.every_s, |every| every.as_secs()),
        anchor_readings: configured.anchor.readings,
        ad_every_s: ad_every_ms / 1_000,
        sales_per_day: u64::from(args.sales_per_day),
        price_sat: args.price,
    };
    if question.span_s < question.every_s {
        return Err(Failure::usage("--for is shorter than --every: there would be no reading"));
    }
    let costs = sum(&question, &measures).ok_or_else(|| {
        Failure::usage("the numbers are too large to be worked out: ask for a shorter time or fewer sensors")
    })?;
    let report = Report { args, rate, question, measures, costs };
    if context.out.is_json() {
        context.out.document(&report.json())?;
    } else {
        report.show(context)?;
    }
    Ok(Exit::Ok)
}

struct Report<'a> {
    args: &'a CostArgs,
    rate: FeeRate,
    question: Question,
    measures: Measures,
    costs: Costs,
}

impl Report<'_> {
    fn show(&self, context: &Context) -> Outcome {
        let (out, costs, measures) = (&context.out, &self.costs, &self.measures);
        let every = duration(self.args.every);
        out.line(format!(
            "{}, a reading every {every} each, for {}: {} readings",
            counted(self.question.sensors, "sensor"),
            duration(self.args.span),
            number(costs.readings)
        ))?;
        if costs.nodes > 1 {
            out.line(format!(
                "{} nodes, for one ad holds {} streams like these",
                costs.nodes, measures.streams
            ))?;
        }
        out.line("")?;
        let headings = ["what goes on chain", "#times", "#bytes each", "#fee each", "#together"];
        let dollars = self.args.bsv_price.map(|_| "#USD".to_owned());
        let mut table = Table::with_headings(headings.map(str::to_owned).into_iter().chain(dollars));
        let mut row = |name: String, times: u64, each: Option<Measured>, sat: u64| {
            let size = each.map(|each| number(each.bytes)).unwrap_or_default();
            let fee = each.map(|each| sat_text(each.fee)).unwrap_or_default();
            let dollars = self.args.bsv_price.map(|price| format!("{:.2}", usd(sat, price)));
            table.push([name, number(times), size, fee, sat_text(sat)].into_iter().chain(dollars));
        };
        let interval = duration(std::time::Duration::from_secs(costs.anchor_interval_s));
        row(format!("anchors, one each {interval}"), costs.anchors, Some(measures.anchor), costs.anchor_sat);
        row("ads, renewed each 6.9 days".to_owned(), costs.ads, Some(measures.ad), costs.ad_sat);
        row("all".to_owned(), costs.anchors.saturating_add(costs.ads), None, costs.total_sat);
        out.table(&table)?;
        out.line("")?;
        let wide = |name: &str, value: String| out.line(format!("{name:<34} {value}"));
        let money = |sat: u64| format!("{}{}", sat_text(sat), self.usd_after(sat));
        wide("a year", money(costs.per_year_sat))?;
        wide("a year and sensor", money(costs.per_sensor_year_sat))?;
        wide("a reading", format!("{} sat", thousandths(costs.per_reading_msat)))?;
        wide("bytes on chain", number(costs.chain_bytes))?;
        wide("fee of one purchase, for the buyer", money(measures.payment.fee))?;
        wide("spending what one purchase brought", money(measures.per_coin.fee))?;
        wide(
            "readings on disk",
            format!(
                "{} (digits as measured) to {} (noise)",
                bytes(costs.disk_tidy_bytes),
                bytes(costs.disk_noisy_bytes)
            ),
        )?;
        wide("anchors with their proofs on disk", bytes(costs.disk_anchor_bytes))?;
        wide(
            "price that pays, each sold once",
            format!("{} sat a reading", thousandths(costs.per_reading_msat)),
        )?;
        if self.question.sales_per_day > 0 {
            out.line("")?;
            wide("orders sold", number(costs.sales))?;
            wide("they bring", money(costs.income_sat))?;
            wide("spending their coins takes", money(costs.moving_sat))?;
            let profit = costs.profit_sat.unsigned_abs();
            wide(if costs.profit_sat < 0 { "loss" } else { "profit" }, money(profit))?;
        }
        let orders = match costs.break_even_per_day {
            Some(orders) => {
                format!("{} of {} a day", counted(orders, "order"), sat_text(self.question.price_sat))
            }
            None => format!(
                "never: an order of {} brings less than spending its coin takes",
                sat_text(self.question.price_sat)
            ),
        };
        wide("orders that pay for all of it", orders)?;
        out.note(format!(
            "\nAt {} sat for 1,000 bytes. Sizes are those of transactions built and signed just now; bytes on disk per reading are those of docs/performance.md.",
            self.rate.sat_per_kb
        ));
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let Self { question, measures, costs, .. } = self;
        let each = |measured: Measured| json!({"bytes": measured.bytes, "fee_sat": measured.fee});
        json!({
            "sensors": question.sensors,
            "every_s": question.every_s,
            "for_s": question.span_s,
            "fee_sat_per_kb": self.rate.sat_per_kb,
            "bsv_price_usd": self.args.bsv_price,
            "nodes": costs.nodes,
            "streams_per_node": measures.streams,
            "readings": costs.readings,
            "anchor": each(measures.anchor),
            "anchor_every_s": costs.anchor_interval_s,
            "anchors": costs.anchors,
            "anchors_sat": costs.anchor_sat,
            "ad": each(measures.ad),
            "ad_every_s": question.ad_every_s,
            "ads": costs.ads,
            "ads_sat": costs.ad_sat,
            "total_sat": costs.total_sat,
            "total_usd": self.args.bsv_price.map(|price| usd(costs.total_sat, price)),
            "per_year_sat": costs.per_year_sat,
            "per_sensor_year_sat": costs.per_sensor_year_sat,
            "per_reading_msat": costs.per_reading_msat,
            "chain_bytes": costs.chain_bytes,
            "purchase": each(measures.payment),
            "spending_a_coin": each(measures.per_coin),
            "disk_readings_min_bytes": costs.disk_tidy_bytes,
            "disk_readings_max_bytes": costs.disk_noisy_bytes,
            "disk_bytes_per_reading": [centi(TIDY_CENTIBYTES), centi(NOISY_CENTIBYTES)],
            "disk_anchor_bytes": costs.disk_anchor_bytes,
            "sales": costs.sales,
            "price_sat": question.price_sat,
            "income_sat": costs.income_sat,
            "spending_sat": costs.moving_sat,
            "profit_sat": costs.profit_sat,
            "break_even_orders_per_day": costs.break_even_per_day,
        })
    }

    fn usd_after(&self, sat: u64) -> String {
        self.args.bsv_price.map(|price| format!(" ({:.4} USD)", usd(sat, price))).unwrap_or_default()
    }
}

#[expect(clippy::cast_precision_loss, reason = "dollars for people, from amounts below 2^53")]
fn usd(sat: u64, price: f64) -> f64 {
    sat as f64 / SAT_PER_BSV as f64 * price
}

fn centi(hundredths: u64) -> f64 {
    // Small constants.
    f64::from(u32::try_from(hundredths).unwrap_or(u32::MAX)) / 100.0
}

/// `1,234 sat`, for amounts that may be more than there is money.
fn sat_text(sat: u64) -> String {
    Satoshis::new(sat).map_or_else(|_| format!("{} sat", number(sat)), |sat| sat.to_string())
}

fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len().saturating_mul(2));
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && digits.len().saturating_sub(at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Thousandths as a decimal number.
fn thousandths(number: u64) -> String {
    format!("{}.{:03}", number / 1_000, number % 1_000)
}

/// Bytes in the unit that reads best.
fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    for (unit, size) in UNITS {
        if bytes >= size {
            return format!("{}.{} {unit}", bytes / size, bytes % size / (size / 10));
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (number(0), number(999), number(1_000), number(5_256_000)),
            ("0".into(), "999".into(), "1,000".into(), "5,256,000".into())
        );
        assert_eq!((thousandths(25), thousandths(1_250)), ("0.025".into(), "1.250".into()));
        assert_eq!(
            (bytes(12), bytes(1_990), bytes(22_758_480)),
            ("12 bytes".into(), "1.9 kB".into(), "22.7 MB".into())
        );
        assert!((usd(50_000_000, 40.0) - 20.0).abs() < 1e-9);
    }
}
