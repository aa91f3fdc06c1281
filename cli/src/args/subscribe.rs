//! The flags of `sensora subscribe`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use sensora_protocol::market::price::{Metered, Price};

use super::trade::RowFormat;
use super::values::parse_span;
use super::{NetworkArgs, StreamArgs};

/// What is counted, and the most that one may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Readings or seconds.
    pub(crate) by: Metered,
    /// The most that one may cost; by the ad where not given.
    pub(crate) most: Option<Price>,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (by, most) = text.split_once('=').map_or((text, None), |(by, most)| (by, Some(most)));
        let by = match by.trim() {
            "reading" => Metered::Reading,
            "second" => Metered::Second,
            _ => {
                return Err(format!(
                    "`{text}` is not a rate: write reading or second, or the most one may cost, such as second=0.5"
                ));
            }
        };
        let most = most.map(|most| most.parse().map_err(|error| format!("{error}"))).transpose()?;
        Ok(Self { by, most })
    }
}

/// Receive a stream as it comes, and pay while it does.
///
/// What is there of it from --from on comes first, then each reading as it is measured, all in one order that is paid through a channel:
/// neither side risks more than its exposure. It ends with --budget, --count or --for, with Ctrl-C, or when the seller ends it, and then
/// shows the receipt. Where it was interrupted, the same command goes on with the first missing reading; nothing is paid twice. What must miss
/// nothing, even after a kill, notes the last number it has and says --from with the next: that shows what is here from there on, and goes on. On a
/// terminal `p` and Enter pause, `r` and Enter resume, `q` and Enter end it.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  sensora subscribe machine-1
  sensora subscribe machine-1 --from 2013-12-02 --budget 500 --out machine.csv
  sensora subscribe machine-1 --rate second=0.5 --for 10m --format jsonl")]
pub(crate) struct SubscribeArgs {
    /// Which stream.
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    /// From where on: latest (with the next reading), a sequence number, or a time as for `buy --from`. What is here already from
    /// there on is shown, too, and not paid again; but where the command goes on with an order, only after a sequence number
    #[arg(long, value_name = "WHERE", default_value = "latest", help_heading = "Range")]
    pub(crate) from: String,
    /// End after so many readings that were not here before
    #[arg(long, value_name = "N", help_heading = "Range", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// End after so long, such as 90s, 10m or 1h
    #[arg(long = "for", value_name = "SPAN", help_heading = "Range", value_parser = parse_span)]
    pub(crate) span: Option<Duration>,
    /// Most to pay in all, in satoshis; so much of a channel is reserved for it [default: buyer.max_price_sat]
    #[arg(long, value_name = "SAT", help_heading = "Limits")]
    pub(crate) budget: Option<u64>,
    /// Most to pay ahead of verified readings, in satoshis [default: buyer.exposure_sat]
    #[arg(long, value_name = "SAT", help_heading = "Limits")]
    pub(crate) exposure: Option<u64>,
    /// What is counted: reading or second; with =PRICE the most satoshis that one may cost
    #[arg(long, value_name = "RATE", default_value = "reading", help_heading = "Limits")]
    pub(crate) rate: Rate,
    /// Write the readings to a file, which is replaced (- for standard output) [default: standard output]
    #[arg(long, short, value_name = "FILE", help_heading = "Result")]
    pub(crate) out: Option<PathBuf>,
    /// How the readings are written
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", help_heading = "Result")]
    pub(crate) format: RowFormat,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_word_and_perhaps_the_most_it_may_cost() {
        let price = Price::from_msat(500).unwrap();
        assert_eq!("reading".parse(), Ok(Rate { by: Metered::Reading, most: None }));
        assert_eq!("second=0.5".parse(), Ok(Rate { by: Metered::Second, most: Some(price) }));
        for text in ["", "hour", "second=", "second=x", "=1", "reading=0"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
