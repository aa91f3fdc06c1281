//! The flags of `sensora cost`.

use clap::Args;

/// Work out what selling costs and when it pays.
///
/// The transactions are built by the very code that makes them when an agent runs, and measured; nothing is sent and no home is needed.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Examples:\n  sensora cost --sensors 10 --every 1m --for 1y\n  sensora cost --sensors 3 --every 10s --sales-per-day 40 --price 50 --bsv-price 40"
)]
pub(crate) struct CostArgs {
    /// How many sensors, each a stream of its own
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) sensors: u32,
    /// Time between two readings of a sensor: 10s, 1m, 1h
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = super::values::parse_span)]
    pub(crate) every: std::time::Duration,
    /// For how long: 30d, 1y
    #[arg(long = "for", value_name = "TIME", default_value = "1y", value_parser = super::values::parse_span)]
    pub(crate) span: std::time::Duration,
    /// Time between two anchors on chain [default: the home's anchor.every_s, else 10m]
    #[arg(long, value_name = "TIME", value_parser = super::values::parse_span)]
    pub(crate) anchor_every: Option<std::time::Duration>,
    /// What miners take, in satoshis for 1,000 bytes [default: as configured, else 100]
    #[arg(long, value_name = "SAT_PER_KB", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) fee_rate: Option<u64>,
    /// Orders sold in a day, all sensors together
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(crate) sales_per_day: u32,
    /// What one order brings, in satoshis
    #[arg(long, value_name = "SAT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) price: u64,
    /// Price of one BSV in US dollars, to show amounts in dollars too
    #[arg(long, value_name = "USD", value_parser = super::values::parse_positive)]
    pub(crate) bsv_price: Option<f64>,
}
