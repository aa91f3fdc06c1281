//! The flags of `sensora read`.

use std::time::Duration;

use clap::{ArgGroup, Args};

use super::trade::RowFormat;
use super::values::parse_span;
use super::{NetworkArgs, StreamArgs};

/// Read single readings, each paid by itself.
///
/// All of them are one order that is paid through a channel: each is verified and shown at once, and one voucher may pay for many. What is
/// here already is shown and not paid again. With --every the newest reading is asked for again and again; where it has not changed, that is
/// said and costs nothing. It ends with --count, with Ctrl-C, or when all is read, and then shows what the seller's receipt says.
#[derive(Args, Debug)]
#[command(
    group(ArgGroup::new("which").required(true).args(["latest", "seq"])),
    after_long_help = "Examples:
  sensora read machine-1 --latest
  sensora read machine-1 --seq 17,1023,4000 --format jsonl
  sensora read machine-1 --latest --every 10s --count 6 --budget 20"
)]
pub(crate) struct ReadArgs {
    /// Which stream.
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    /// The newest reading
    #[arg(long, help_heading = "Range")]
    pub(crate) latest: bool,
    /// The readings with these sequence numbers
    #[arg(long, value_name = "N", value_delimiter = ',', help_heading = "Range")]
    pub(crate) seq: Vec<u64>,
    /// Ask for the newest again after each such time, such as 500ms, 10s or 5m
    #[arg(long, value_name = "SPAN", requires = "latest", conflicts_with = "seq", help_heading = "Range", value_parser = parse_span)]
    pub(crate) every: Option<Duration>,
    /// End when it was asked for so many times
    #[arg(long, value_name = "N", requires = "every", help_heading = "Range", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Most to pay in all, in satoshis; so much of a channel is reserved for it [default: buyer.max_price_sat]
    #[arg(long, value_name = "SAT", help_heading = "Limits")]
    pub(crate) budget: Option<u64>,
    /// Most to pay ahead of verified readings, in satoshis [default: buyer.exposure_sat]
    #[arg(long, value_name = "SAT", help_heading = "Limits")]
    pub(crate) exposure: Option<u64>,
    /// How the readings are written
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", help_heading = "Result")]
    pub(crate) format: RowFormat,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}
