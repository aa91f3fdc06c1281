//! The flags of the commands that find, buy, keep and check.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use sensora_protocol::market::choice::Mode;
use sensora_protocol::market::price::Price;
use sensora_protocol::place::Place;

use super::{NetworkArgs, SeqRange};

/// A way by which an ad is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Way {
    /// Ads that peers pass on.
    Gossip,
    /// Provider records in the DHT, then the ad from its author.
    Dht,
    /// Ads on chain.
    Chain,
}

/// Find streams for sale.
#[derive(Args, Debug)]
pub(crate) struct SearchArgs {
    /// Words that the name or a kind of the stream contains
    #[arg(value_name = "TEXT")]
    pub(crate) text: Option<String>,
    /// What is measured, such as temperature
    #[arg(long, value_name = "WORD")]
    pub(crate) kind: Option<String>,
    /// Near this place: LAT,LON or a geohash
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
    pub(crate) near: Option<Place>,
    /// How far from there, in kilometres
    #[arg(long, value_name = "KM", default_value_t = 25.0, requires = "near")]
    pub(crate) radius: f64,
    /// At most this price for a reading, in satoshis
    #[arg(long, value_name = "SAT")]
    pub(crate) max_price: Option<Price>,
    /// Only from this seller, by peer id
    #[arg(long, value_name = "PEER")]
    pub(crate) seller: Option<String>,
    /// Only by these ways; may be repeated
    #[arg(long, value_enum, value_name = "WAY")]
    pub(crate) way: Vec<Way>,
    /// How long to search, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub(crate) within: u64,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Which stream: by name, id or the beginning of its id, narrowed by its seller.
#[derive(Args, Clone, Debug)]
pub(crate) struct StreamArgs {
    /// The stream: its name, its id, or as much of the id's beginning as is unique
    #[arg(value_name = "STREAM")]
    pub(crate) stream: String,
    /// Its seller, by peer id; also finds the stream fastest
    #[arg(long, value_name = "PEER")]
    pub(crate) seller: Option<String>,
    /// How long to search for it, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) within: u64,
}

/// Show one stream: its seller, schema, place, price and licence.
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Which stream.
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Get a few free readings of a stream.
#[derive(Args, Debug)]
pub(crate) struct SampleArgs {
    /// Which stream.
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    /// How many of the newest readings
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) count: u32,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Rows as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RowFormat {
    /// Comma-separated values (RFC 4180) with a header.
    #[default]
    Csv,
    /// One JSON object for each reading.
    Jsonl,
}

/// How long a key is waited for where nothing is said, in seconds: some blocks of a development chain. On a real network it takes
/// an hour, and nobody has to wait for it.
const KEY_WAIT_S: u64 = 30;

/// How a purchase is paid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// The cheapest way within the limits.
    #[default]
    Auto,
    /// One transaction before delivery.
    Direct,
    /// Vouchers of a payment channel, while the readings come.
    Channel,
    /// A coin that the seller can take only by showing the key of what it delivered encrypted.
    KeyRelease,
}

impl ModeArg {
    /// The way that was asked for; none where it is to be chosen.
    pub(crate) const fn asked(self) -> Option<Mode> {
        match self {
            Self::Auto => None,
            Self::Direct => Some(Mode::Direct),
            Self::Channel => Some(Mode::Channel),
            Self::KeyRelease => Some(Mode::KeyRelease),
        }
    }
}

/// Buy readings: quote, pay, receive, verify, keep.
///
/// Readings that were bought are kept in the home; the same range is never paid twice. An order that was interrupted, by
/// Ctrl-C or by a crash, is finished first.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("range").required(true).args(["latest", "last", "seq", "from"]))]
#[command(after_long_help = "Examples:
  sensora buy machine-1 --latest
  sensora buy machine-1 --last 1000 --max-price 500 --out machine.csv --evidence machine.json
  sensora buy machine-1 --from 2013-12-02 --to 2013-12-09 --format jsonl")]
pub(crate) struct BuyArgs {
    /// Which stream.
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    /// The newest reading
    #[arg(long, help_heading = "Range")]
    pub(crate) latest: bool,
    /// The newest N readings
    #[arg(long, value_name = "N", help_heading = "Range", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) last: Option<u64>,
    /// The readings with these sequence numbers: FIRST..END (without END) or FIRST..=LAST
    #[arg(long, value_name = "RANGE", help_heading = "Range")]
    pub(crate) seq: Option<SeqRange>,
    /// The readings from this time on: RFC 3339, a date (UTC), or how long ago, such as "2h ago"
    #[arg(long, value_name = "TIME", help_heading = "Range")]
    pub(crate) from: Option<String>,
    /// Up to this time, without it [default: now]
    #[arg(long, value_name = "TIME", help_heading = "Range", requires = "from")]
    pub(crate) to: Option<String>,
    /// Most to pay for the order, in satoshis [default: buyer.max_price_sat]
    #[arg(long, value_name = "SAT", help_heading = "Limits")]
    pub(crate) max_price: Option<u64>,
    /// Most to pay before anything is delivered, in satoshis [default: buyer.exposure_sat]
    #[arg(long, value_name = "SAT", help_heading = "Limits")]
    pub(crate) exposure: Option<u64>,
    /// How to pay: auto takes the cheapest way whose exposure is within the limits, and says why
    #[arg(long, value_enum, default_value_t, value_name = "MODE", help_heading = "Limits")]
    pub(crate) mode: ModeArg,
    /// With key-release: how long to wait for the seller to show the key, in seconds. It does so when the coin is some
    /// blocks deep; afterwards `sensora orders --resume` goes on with the order
    #[arg(long, value_name = "SECONDS", default_value_t = KEY_WAIT_S, help_heading = "Limits")]
    pub(crate) wait: u64,
    /// Write the readings to a file (- for standard output)
    #[arg(long, short, value_name = "FILE", help_heading = "Result")]
    pub(crate) out: Option<PathBuf>,
    /// How the readings are written
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", help_heading = "Result")]
    pub(crate) format: RowFormat,
    /// Write a file with which anybody can check the readings
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub(crate) evidence: Option<PathBuf>,
    /// Wait so long for the anchor on chain, in seconds
    #[arg(long, value_name = "SECONDS", help_heading = "Result")]
    pub(crate) wait_anchor: Option<u64>,
    /// Ask the price and stop
    #[arg(long, help_heading = "Limits")]
    pub(crate) dry_run: bool,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// List what was ordered, or finish what was interrupted.
#[derive(Args, Debug)]
pub(crate) struct OrdersArgs {
    /// Only this order: its id, or as much of its beginning as is unique
    #[arg(value_name = "ORDER")]
    pub(crate) order: Option<String>,
    /// Finish the orders that were interrupted
    #[arg(long, conflicts_with = "order")]
    pub(crate) resume: bool,
    /// With --resume: how long to wait for the keys of coins that are locked, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = KEY_WAIT_S, requires = "resume")]
    pub(crate) wait: u64,
    /// Wait no longer for a seller that does not answer the order's payment: take the coins back
    #[arg(long, requires = "order", conflicts_with_all = ["resume", "evidence"])]
    pub(crate) give_up: bool,
    /// As its seller, end an order that is paid through a channel: no more readings go out than are paid, its buyer pays what is due, and it ends with a receipt
    #[arg(long, requires = "order", conflicts_with_all = ["resume", "give_up", "evidence", "misbehaviour"])]
    pub(crate) end: bool,
    /// Write the evidence of the order to a file; where not all of its readings are anchored yet, those that are not go into a second one, FILE-2
    #[arg(long, value_name = "FILE", requires = "order")]
    pub(crate) evidence: Option<PathBuf>,
    /// Where the seller has cheated with a key release: write the proof to a file, for `verify --misbehaviour`
    #[arg(long, value_name = "FILE", requires = "order", conflicts_with_all = ["give_up", "evidence"])]
    pub(crate) misbehaviour: Option<PathBuf>,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Write readings that were bought, as CSV or JSON lines; or the block headers to check evidence against.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// A stream (name, id or its beginning) or an order (id or its beginning)
    #[arg(value_name = "STREAM|ORDER", required_unless_present = "headers")]
    pub(crate) what: Option<String>,
    /// Write the block headers this home has checked instead, 80 bytes each, for `verify --headers`
    #[arg(long, conflicts_with_all = ["what", "from", "to", "spreadsheet_safe"])]
    pub(crate) headers: bool,
    /// How they are written
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: RowFormat,
    /// Write to a file [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Only readings from this time on
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Only readings before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// Put ' before texts that a spreadsheet would run as a formula (= + - @)
    #[arg(long)]
    pub(crate) spreadsheet_safe: bool,
}

/// Check an evidence file, trusting nobody.
///
/// Recomputes every leaf, the root, the seller's signature, the anchoring transaction and its Merkle path to a block
/// header. Works offline, against the headers this home has checked or those in a file. With --misbehaviour it checks
/// instead whether a seller has signed an offer of readings that it did not deliver, which needs no headers at all.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// The evidence files (- for standard input): one, or those of an order whose readings stand differently
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The file is a proof that a seller has cheated: JSON or CBOR
    #[arg(long, conflicts_with_all = ["headers", "sync"])]
    pub(crate) misbehaviour: bool,
    /// Block headers to check against: a file of 80-byte headers as `export --headers` writes it, raw or as hex lines
    #[arg(long, value_name = "FILE", conflicts_with = "sync")]
    pub(crate) headers: Option<PathBuf>,
    /// Height of the first header in that file, where it is none that comes with this program
    #[arg(long, value_name = "HEIGHT", default_value_t = 0, requires = "headers")]
    pub(crate) first_height: u32,
    /// Bring this home's headers up to date first, over the network
    #[arg(long)]
    pub(crate) sync: bool,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}
