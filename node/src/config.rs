//! What a person has decided about a node: `config.toml` in its home.
//!
//! Every key has a default and the generated file ([`DEFAULT_TEXT`]) explains each. A key that is not known is an error
//! that names the line and the key that was probably meant: a misspelt `exposure_sat` that silently kept its default would
//! be money.

mod chain;
mod error;
mod licence;
mod streams;

use std::fs;
use std::path::Path;
use std::time::Duration;

use sensora_chain::keys::Address;
use sensora_chain::{Network, Satoshis};
use sensora_protocol::market::budget::Budgets;
use sensora_protocol::market::channel::offer::{ChannelLimits, MIN_MARGIN};
use sensora_protocol::market::key_release::offer::{CLAIM_MARGIN, DEFAULT_REFUND_AFTER};
use sensora_protocol::market::price::Price;
use serde::{Deserialize, Serialize};

pub use chain::{ChainSection, ChainSource, KindName, OrderSection, Serve, ServiceSection};
pub use error::ConfigError;
pub use licence::{LicenceError, validate_licence};
pub use streams::{PlaceText, StreamConfig};

use crate::agent::anchorer::AnchorPolicy;
use crate::agent::seller::channels::ChannelPolicy;
use crate::agent::seller::release::ReleasePolicy;
use crate::agent::seller::supply::Credit;
use crate::agent::{AgentOptions, SourceOptions, Terms};
use crate::net::Multiaddr;
use crate::wallet::SweepPolicy;

/// The configuration that `sensora init` writes: every key with its explanation, each commented out.
pub const DEFAULT_TEXT: &str = include_str!("config/default.toml");

/// No configuration is longer; what is longer is another file.
const MAX_FILE: u64 = 1024 * 1024;

/// The longest life of a channel that makes sense, in blocks: a year.
const MAX_BLOCKS: u32 = 365 * 144;

/// The configuration of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The BSV network.
    pub network: Network,
    /// What is logged, as a filter of `tracing-subscriber`.
    pub log: String,
    /// How others are reached.
    pub net: NetSection,
    /// Where the chain is.
    pub chain: ChainSection,
    /// What happens to its money.
    pub wallet: WalletSection,
    /// How this node sells.
    pub agent: AgentSection,
    /// How it is paid.
    pub selling: SellingSection,
    /// When readings are put on chain.
    pub anchor: AnchorSection,
    /// What this node lets itself in for when it buys.
    pub buyer: BuyerSection,
    /// What it sells.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamConfig>,
}

/// `[net]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetSection {
    /// Where to listen.
    pub listen: Vec<Multiaddr>,
    /// Under which addresses others reach this node, where that is known.
    pub external: Vec<Multiaddr>,
    /// Whom to meet first.
    pub bootstrap: Vec<Multiaddr>,
    /// Whether to find nodes on the local network.
    pub mdns: bool,
}

/// `[agent]`: what this node calls itself, and what holds for every stream that does not say otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentSection {
    /// Its name in the ad.
    pub name: String,
    /// Price of one reading in thousandths of a satoshi.
    pub price_msat: Price,
    /// Licence of the data.
    pub licence: String,
    /// Where it is measured.
    pub place: PlaceText,
    /// Free readings for each buyer and day.
    pub sample: u32,
    /// Most readings in one order.
    pub max_readings: u64,
}

/// `[wallet]`: what happens to money that this node need not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WalletSection {
    /// The address that earnings go to; empty: they stay.
    pub sweep_to: String,
    /// What stays in any case.
    pub keep_sat: Satoshis,
    /// Where an encrypted backup is kept up to date; empty: nowhere.
    pub backup_to: String,
}

/// `[anchor]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnchorSection {
    /// At latest so many seconds after a reading was recorded.
    pub every_s: u64,
    /// As soon as so many readings wait.
    pub readings: u64,
}

/// `[buyer]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BuyerSection {
    /// The most that one order may cost.
    pub max_price_sat: Satoshis,
    /// The most that may be paid before the goods are there.
    pub exposure_sat: Satoshis,
    /// The most that the orders of any 24 hours with one seller may cost.
    pub seller_day_sat: Satoshis,
    /// The most that the orders of any 24 hours may cost in all.
    pub day_sat: Satoshis,
    /// What is put into a channel that a purchase opens by itself; zero: none is opened by itself.
    pub channel_sat: Satoshis,
    /// How many blocks a channel is to last.
    pub channel_blocks: u32,
    /// The most that the close of a channel may cost.
    pub max_close_fee_sat: Satoshis,
}

/// `[selling]`: how this node is paid while it delivers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SellingSection {
    /// Whether channels are taken.
    pub channels: bool,
    /// What may be delivered ahead of payment, for each buyer.
    pub exposure_sat: Satoshis,
    /// What of it is given in the beginning of an order.
    pub first_exposure_sat: Satoshis,
    /// The least that a buyer puts into a channel.
    pub min_channel_sat: Satoshis,
    /// The most.
    pub max_channel_sat: Satoshis,
    /// Up to which value vouchers are taken before the funding is in a block.
    pub unmined_sat: Satoshis,
    /// The longest time until a channel's refund height, in blocks.
    pub max_blocks: u32,
    /// A channel is closed when so much is earned on it; zero: only when its time has come.
    pub settle_sat: Satoshis,
    /// Whether batches are sold whose key is released on the chain.
    pub key_release: bool,
    /// Blocks on a buyer's coin before its key is shown.
    pub confirmations: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            network: Network::Regtest,
            log: "warn,sensora=info,sensora_node=info,libp2p_kad=error".to_owned(),
            net: NetSection::default(),
            chain: ChainSection::default(),
            wallet: WalletSection::default(),
            agent: AgentSection::default(),
            selling: SellingSection::default(),
            anchor: AnchorSection::default(),
            buyer: BuyerSection::default(),
            streams: Vec::new(),
        }
    }
}

impl Default for NetSection {
    fn default() -> Self {
        let any = ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"];
        // That none is lost here is shown by the test that reads the default file.
        let listen = any.iter().filter_map(|address| address.parse().ok()).collect();
        Self { listen, external: Vec::new(), bootstrap: Vec::new(), mdns: true }
    }
}

impl Default for WalletSection {
    fn default() -> Self {
        Self { sweep_to: String::new(), keep_sat: Satoshis::from_sat(200_000), backup_to: String::new() }
    }
}

impl Default for AgentSection {
    fn default() -> Self {
        Self {
            name: String::new(),
            price_msat: streams::default_price(),
            licence: "CC-BY-4.0".to_owned(),
            place: PlaceText::default(),
            sample: 10,
            max_readings: 1_000_000,
        }
    }
}

impl Default for AnchorSection {
    fn default() -> Self {
        Self { every_s: 600, readings: 100_000 }
    }
}

impl Default for BuyerSection {
    fn default() -> Self {
        Self {
            max_price_sat: Satoshis::from_sat(10_000),
            exposure_sat: Satoshis::from_sat(10_000),
            seller_day_sat: Satoshis::from_sat(50_000),
            day_sat: Satoshis::from_sat(100_000),
            channel_sat: Satoshis::from_sat(20_000),
            channel_blocks: 1_008,
            max_close_fee_sat: Satoshis::from_sat(500),
        }
    }
}

impl Default for SellingSection {
    fn default() -> Self {
        let (channels, credit, releases) =
            (ChannelPolicy::default(), Credit::default(), ReleasePolicy::default());
        Self {
            channels: true,
            exposure_sat: credit.limit,
            first_exposure_sat: credit.first,
            min_channel_sat: channels.min_value,
            max_channel_sat: channels.max_value,
            unmined_sat: channels.unmined_up_to,
            max_blocks: channels.max_blocks,
            settle_sat: Satoshis::ZERO,
            key_release: releases.offered,
            confirmations: releases.confirmations,
        }
    }
}

impl AnchorSection {
    /// As the anchorer takes it.
    #[must_use]
    pub const fn policy(&self) -> AnchorPolicy {
        AnchorPolicy { every: Duration::from_secs(self.every_s), readings: self.readings }
    }
}

impl BuyerSection {
    /// What may be spent in a day.
    #[must_use]
    pub const fn budgets(&self) -> Budgets {
        Budgets { seller_day: self.seller_day_sat, day: self.day_sat }
    }

    /// What a channel may hold, for how long, and what its close may cost.
    #[must_use]
    pub const fn channel_limits(&self) -> ChannelLimits {
        ChannelLimits {
            max_value: self.channel_sat,
            max_blocks: self.channel_blocks,
            max_close_fee: self.max_close_fee_sat,
        }
    }
}

impl SellingSection {
    /// Which channels are taken.
    #[must_use]
    pub fn channels(&self) -> ChannelPolicy {
        if !self.channels {
            return ChannelPolicy::none();
        }
        ChannelPolicy {
            min_value: self.min_channel_sat,
            max_value: self.max_channel_sat,
            unmined_up_to: self.unmined_sat,
            max_blocks: self.max_blocks,
            settle_at: Some(self.settle_sat).filter(|sat| !sat.is_zero()),
            ..ChannelPolicy::default()
        }
    }

    /// What may stand open with a buyer.
    #[must_use]
    pub const fn credit(&self) -> Credit {
        Credit { limit: self.exposure_sat, first: self.first_exposure_sat }
    }

    /// Whether and how batches are sold whose key is released on the chain.
    #[must_use]
    pub const fn releases(&self) -> ReleasePolicy {
        ReleasePolicy {
            offered: self.key_release,
            confirmations: self.confirmations,
            ..ReleasePolicy::none()
        }
    }
}

impl WalletSection {
    /// Where coins above [`WalletSection::keep_sat`] go; `None`: they stay.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for what is no address of the network.
    pub fn sweep_to(&self, network: Network) -> Result<Option<Address>, ConfigError> {
        if self.sweep_to.is_empty() {
            return Ok(None);
        }
        let parsed = Address::parse(&self.sweep_to, network);
        parsed.map(Some).map_err(|error| ConfigError::invalid("wallet", "sweep_to", error.to_string()))
    }

    /// The directory or file for backups; `None`: none is made by itself.
    #[must_use]
    pub fn backup_to(&self) -> Option<&Path> {
        (!self.backup_to.is_empty()).then(|| Path::new(&self.backup_to))
    }
}

impl Config {
    /// Reads and validates the configuration at `path`; where there is no file, all defaults hold.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the line and the key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let io = |source| ConfigError::Io { path: path.to_owned(), source };
        let length = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(io(error)),
        };
        if length > MAX_FILE {
            return Err(ConfigError::TooLong { path: path.to_owned(), length });
        }
        let text = fs::read_to_string(path).map_err(io)?;
        Self::parse(&text).map_err(|error| error.in_file(path))
    }

    /// Reads and validates a configuration.
    ///
    /// # Errors
    /// [`ConfigError`] names the line and the key.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::from_toml(text, &error))?;
        config.validate()?;
        Ok(config)
    }

    /// [`DEFAULT_TEXT`]: every key with its default and its explanation, commented out.
    #[must_use]
    pub fn default_toml() -> String {
        DEFAULT_TEXT.to_owned()
    }

    /// [`DEFAULT_TEXT`] with some keys set, each as `(section, key, value in TOML)`; the section of keys at the top is
    /// empty.
    ///
    /// # Errors
    /// [`ConfigError`] where a key is not in the file or a value is not valid.
    pub fn default_toml_with(set: &[(&str, &str, &str)]) -> Result<String, ConfigError> {
        let mut missing: Vec<_> = set.to_vec();
        let mut section = "";
        let mut text = String::with_capacity(DEFAULT_TEXT.len());
        for line in DEFAULT_TEXT.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name;
            }
            let key = line.strip_prefix('#').and_then(|line| line.split_once(" = ")).map(|(key, _)| key);
            match missing.iter().position(|(of, name, _)| *of == section && Some(*name) == key) {
                Some(found) => {
                    let (_, name, value) = missing.swap_remove(found);
                    text.push_str(&format!("{name} = {value}\n"));
                }
                None => {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
        if let Some((section, key, _)) = missing.first() {
            return Err(ConfigError::invalid(*section, *key, "there is no such key to set".to_owned()));
        }
        Self::parse(&text).map(|_| text)
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] names the first key whose value cannot be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |section: &str, key: &str, reason: &str| {
            Err(ConfigError::invalid(section, key, reason.to_owned()))
        };
        self.chain.validate(self.network)?;
        self.wallet.sweep_to(self.network)?;
        if self.log.trim().is_empty() {
            return invalid("", "log", "it is error, warn, info, debug, trace, or a filter");
        }
        if !(1..=7 * 86_400).contains(&self.anchor.every_s) {
            return invalid("anchor", "every_s", "it is 1 second to 7 days");
        }
        if self.anchor.readings == 0 {
            return invalid("anchor", "readings", "it is 1 at least");
        }
        let selling = &self.selling;
        if selling.channels && selling.min_channel_sat > selling.max_channel_sat {
            return invalid("selling", "min_channel_sat", "it is at most max_channel_sat");
        }
        if selling.first_exposure_sat > selling.exposure_sat {
            return invalid("selling", "first_exposure_sat", "it is at most exposure_sat");
        }
        if selling.channels && !(2 * MIN_MARGIN..=MAX_BLOCKS).contains(&selling.max_blocks) {
            let reason = format!("it is {} to {MAX_BLOCKS} blocks", 2 * MIN_MARGIN);
            return invalid("selling", "max_blocks", &reason);
        }
        if selling.key_release && !selling.releases().can_be_paid() {
            let most = DEFAULT_REFUND_AFTER - CLAIM_MARGIN - 1;
            return invalid("selling", "confirmations", &format!("it is at most {most}"));
        }
        if !(2 * MIN_MARGIN..=MAX_BLOCKS).contains(&self.buyer.channel_blocks) {
            let reason = format!("it is {} to {MAX_BLOCKS} blocks", 2 * MIN_MARGIN);
            return invalid("buyer", "channel_blocks", &reason);
        }
        if self.buyer.seller_day_sat > self.buyer.day_sat {
            return invalid("buyer", "seller_day_sat", "it is at most day_sat");
        }
        streams::check_text(&self.agent.name)
            .map_err(|reason| ConfigError::invalid("agent", "name", reason))?;
        streams::check_terms("agent", &self.terms())?;
        let mut names: Vec<&str> = Vec::new();
        for (index, stream) in self.streams.iter().enumerate() {
            let section = format!("streams {}", index.saturating_add(1));
            stream.validate(&section)?;
            streams::check_terms(&section, &stream.terms(self))?;
            if let Some(name) = stream.name.as_deref() {
                if names.contains(&name) {
                    let reason = format!("`{name}` is the name of another stream as well");
                    return Err(ConfigError::invalid(section, "name", reason));
                }
                names.push(name);
            }
        }
        Ok(())
    }

    /// What the agent is to do: every stream with its terms.
    #[must_use]
    pub fn agent_options(&self) -> AgentOptions {
        let source = |stream: &StreamConfig| SourceOptions {
            spec: stream.source.clone(),
            name: stream.name.clone(),
            terms: stream.terms(self),
        };
        AgentOptions {
            name: self.agent.name.clone(),
            anchors: self.anchor.policy(),
            sources: self.streams.iter().map(source).collect(),
            channels: self.selling.channels(),
            credit: self.selling.credit(),
            releases: self.selling.releases(),
        }
    }

    /// Where the wallet's excess goes.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for an address of another network.
    pub fn sweep_policy(&self) -> Result<SweepPolicy, ConfigError> {
        Ok(SweepPolicy { to: self.wallet.sweep_to(self.network)?, keep: self.wallet.keep_sat })
    }

    /// The terms of a stream that says nothing else.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            price: self.agent.price_msat,
            second: None,
            licence: self.agent.licence.clone(),
            place: self.agent.place.place().cloned(),
            sample: self.agent.sample,
            max_readings: self.agent.max_readings,
            kinds: Vec::new(),
            cadence: None,
        }
    }
}
