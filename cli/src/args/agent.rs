//! The flags of `sensora agent`.

use std::path::PathBuf;

use clap::Args;
use sensora_node::agent::source::{ColumnRef, ColumnSpec, Replay, TimeFormat, Zone};
use sensora_protocol::market::price::Price;
use sensora_protocol::place::Place;

use super::NetworkArgs;

/// Sell readings until Ctrl-C.
///
/// With one of the source flags the agent sells that source; without any it sells the streams of `config.toml`. Readings
/// are recorded durably and go on where they stopped after a restart.
#[derive(Args, Debug, Default)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct AgentArgs {
    /// Sell this machine's own sensors
    #[arg(long, help_heading = "Source")]
    pub(crate) host: bool,
    /// Sell the recording in a CSV file (- for standard input)
    #[arg(long, value_name = "FILE", help_heading = "Source", conflicts_with_all = ["exec", "stdin", "sim"])]
    pub(crate) csv: Option<PathBuf>,
    /// Sell what a program prints: one line, JSON or CSV, for each reading
    #[arg(long, value_name = "CMD", help_heading = "Source", conflicts_with_all = ["stdin", "sim"])]
    pub(crate) exec: Option<String>,
    /// Sell the lines that come on standard input, JSON or CSV
    #[arg(long, help_heading = "Source", conflicts_with = "sim")]
    pub(crate) stdin: bool,
    /// Sell a simulated sensor, for first steps
    #[arg(long, help_heading = "Source")]
    pub(crate) sim: bool,

    /// The stream's name [default: from the source]
    #[arg(long, value_name = "NAME", help_heading = "Stream")]
    pub(crate) name: Option<String>,
    /// The column of times, by its name or as #1 for the first [default: recognised]
    #[arg(long, value_name = "COLUMN", help_heading = "Stream")]
    pub(crate) time_column: Option<ColumnRef>,
    /// How times are written: rfc3339, unix, unix_ms, unix_us, unix_ns, or a pattern such as '%d.%m.%Y %H:%M' [default: recognised]
    #[arg(long, value_name = "FORMAT", help_heading = "Stream")]
    pub(crate) time_format: Option<TimeFormat>,
    /// The zone of times written without an offset: UTC, +02:00, a name such as Europe/Berlin, or local [default: UTC]
    #[arg(long, value_name = "ZONE", allow_hyphen_values = true, help_heading = "Stream")]
    pub(crate) time_zone: Option<Zone>,
    /// A column to sell, as COLUMN, COLUMN:KIND or COLUMN:KIND:UNIT with FIELD= before it to name the field, such as T1:float:Cel; may be repeated [default: all numbers]
    #[arg(long, value_name = "COLUMN", help_heading = "Stream")]
    pub(crate) value_column: Vec<ColumnSpec>,
    /// How fast a recording is played: at-once, real-time, or faster=N
    #[arg(long, value_name = "HOW", help_heading = "Stream")]
    pub(crate) replay: Option<Replay>,
    /// Time between two readings of the machine's own or simulated sensors, such as 10s
    #[arg(long, value_name = "TIME", help_heading = "Stream")]
    pub(crate) interval: Option<jiff::SignedDuration>,

    /// Price of one reading in satoshis, with at most three decimals
    #[arg(long, value_name = "SAT", help_heading = "Terms")]
    pub(crate) price: Option<Price>,
    /// Sell the stream as it comes by the second, too, at this price in satoshis
    #[arg(long, value_name = "SAT", help_heading = "Terms")]
    pub(crate) second: Option<Price>,
    /// Licence of the data: an SPDX or Creative Commons id
    #[arg(long, value_name = "ID", help_heading = "Terms")]
    pub(crate) licence: Option<String>,
    /// Where it is measured, as exactly as buyers may know: LAT,LON or LAT,LON,PRECISION or a geohash
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true, help_heading = "Terms")]
    pub(crate) place: Option<Place>,
    /// Readings that each buyer may have free of charge in a day
    #[arg(long, value_name = "N", help_heading = "Terms")]
    pub(crate) sample: Option<u32>,
    /// Put the streams' checkpoints on chain so often, in seconds
    #[arg(long, value_name = "SECONDS", help_heading = "Terms")]
    pub(crate) anchor_every: Option<u64>,

    /// Withdraw the ad everywhere and stop; what is recorded and what was ordered stays
    #[arg(long, help_heading = "Terms", conflicts_with_all = ["host", "csv", "exec", "stdin", "sim"])]
    pub(crate) withdraw: bool,

    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

const EXAMPLES: &str = "Examples:
  sensora agent --host --interval 10s
  sensora agent --csv machine.csv --name machine-1 --price 0.25 --licence CC-BY-4.0 --place 52.52,13.40,5
  sensora agent --exec 'read-sensor --json' --name greenhouse --value-column t:float:Cel --value-column h:float:%RH";
