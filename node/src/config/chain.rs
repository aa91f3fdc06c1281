//! `[chain]`: where the chain is, which services are asked for what, and what may be paid to miners.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use sensora_chain::sources::service::{Need, ServiceConfig, ServiceKind};
use sensora_chain::{FeeRate, Network, Satoshis};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::ConfigError;
use crate::chain_access::{MAX_SERVICES, ServicesOptions};
use crate::fees::FeeLimits;
use crate::net::Multiaddr;

/// Longest name of a service, in characters: it stands in logs and tables.
const MAX_SERVICE_NAME: usize = 32;

/// Longest time for one request to a service, in seconds.
const MAX_TIMEOUT_S: u64 = 120;

/// The highest fee rate that may be configured, in satoshis for 1,000 bytes: what is more is a slip of the finger.
const MAX_RATE: u64 = 1_000_000;

/// `[chain]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChainSection {
    /// Where headers, proofs and broadcasts come from.
    pub source: ChainSource,
    /// Which peers to ask first.
    pub peers: Vec<Multiaddr>,
    /// With [`ChainSource::Services`]: whether peers' questions are answered from the services.
    pub serve: Serve,
    /// With [`ChainSource::Dev`]: seconds until a block is made while transactions wait.
    pub block_interval_s: u64,
    /// The least that our own transactions pay, satoshis for 1,000 bytes.
    pub fee_floor_sat_per_kb: u64,
    /// The most that a service can make them pay, satoshis for 1,000 bytes.
    pub fee_cap_sat_per_kb: u64,
    /// The most that one transaction may pay to miners.
    pub max_fee_sat: Satoshis,
    /// Other orders of the services, for single needs.
    pub order: OrderSection,
    /// The services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceSection>,
}

/// Where a node's chain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ChainSource {
    /// At its peers; what they say is checked.
    #[default]
    Peers,
    /// In the node itself: the embedded development chain.
    Dev,
    /// At the services in `[[chain.services]]`; what they say is checked.
    Services,
}

/// Whether peers are answered from the services of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serve {
    /// On regtest only, where it costs nothing.
    #[default]
    Auto,
    /// As it says.
    Is(bool),
}

impl Serve {
    /// Whether they are, on this network.
    #[must_use]
    pub fn on(self, network: Network) -> bool {
        match self {
            Self::Auto => network == Network::Regtest,
            Self::Is(serve) => serve,
        }
    }
}

impl Serialize for Serve {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Is(serve) => serializer.serialize_bool(*serve),
        }
    }
}

impl<'de> Deserialize<'de> for Serve {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = Serve;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or \"auto\"")
            }

            fn visit_bool<E: de::Error>(self, serve: bool) -> Result<Serve, E> {
                Ok(Serve::Is(serve))
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Serve, E> {
                match word {
                    "auto" => Ok(Serve::Auto),
                    word => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }
        }
        deserializer.deserialize_any(Word)
    }
}

/// `[chain.order]`: names of services, for each need. An empty list is the order in which they are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OrderSection {
    /// For tip and headers.
    pub headers: Vec<String>,
    /// For sending transactions; all of them are sent to.
    pub broadcast: Vec<String>,
    /// For Merkle paths.
    pub proofs: Vec<String>,
    /// For what spends an output.
    pub outputs: Vec<String>,
    /// For whole blocks.
    pub blocks: Vec<String>,
    /// For the fee rate.
    pub fees: Vec<String>,
}

impl OrderSection {
    fn of(&self, need: Need) -> &[String] {
        match need {
            Need::Headers => &self.headers,
            Need::Broadcast => &self.broadcast,
            Need::Proofs => &self.proofs,
            Need::Outputs => &self.outputs,
            Need::Blocks => &self.blocks,
            Need::Fees => &self.fees,
            _ => &[],
        }
    }
}

/// The kind of a service, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KindName {
    /// [`ServiceKind::Arcade`]
    #[serde(rename = "arcade")]
    Arcade,
    /// [`ServiceKind::Arc`]
    #[serde(rename = "arc")]
    Arc,
    /// [`ServiceKind::WhatsOnChain`]
    #[serde(rename = "whatsonchain")]
    WhatsOnChain,
    /// [`ServiceKind::Chaintracks`]
    #[serde(rename = "chaintracks")]
    Chaintracks,
    /// [`ServiceKind::NodeRpc`]
    #[serde(rename = "node-rpc")]
    NodeRpc,
}

impl KindName {
    /// The kind.
    #[must_use]
    pub const fn kind(self) -> ServiceKind {
        match self {
            Self::Arcade => ServiceKind::Arcade,
            Self::Arc => ServiceKind::Arc,
            Self::WhatsOnChain => ServiceKind::WhatsOnChain,
            Self::Chaintracks => ServiceKind::Chaintracks,
            Self::NodeRpc => ServiceKind::NodeRpc,
        }
    }

    /// How it is written.
    #[must_use]
    pub fn of(kind: ServiceKind) -> Option<Self> {
        let all = [Self::Arcade, Self::Arc, Self::WhatsOnChain, Self::Chaintracks, Self::NodeRpc];
        all.into_iter().find(|name| name.kind() == kind)
    }
}

/// `[[chain.services]]`: one service.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSection {
    /// What it is called; its kind where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it speaks.
    pub kind: KindName,
    /// Where it is: `http://…` or `https://…`, with `USER:PASSWORD@` for a node.
    pub url: String,
    /// The environment variable that holds its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_env: Option<String>,
    /// With a node: where it publishes blocks, as `tcp://HOST:PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zmq: Option<String>,
    /// The most requests in a second; what the kind is known to allow where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<f64>,
    /// Seconds that one request may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u64>,
}

impl fmt::Debug for ServiceSection {
    /// Without the address, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceSection")
            .field("name", &self.name())
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl ServiceSection {
    /// A service of which only this is known.
    #[must_use]
    pub fn new(kind: KindName, url: &str) -> Self {
        Self {
            name: None,
            kind,
            url: url.to_owned(),
            key_env: None,
            zmq: None,
            requests_per_second: None,
            timeout_s: None,
        }
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.kind.kind().name())
    }

    fn validate(&self, section: &str) -> Result<(), ConfigError> {
        let invalid = |key: &str, reason: String| Err(ConfigError::invalid(section, key, reason));
        let strange = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        let name = self.name();
        if name.is_empty() || name.len() > MAX_SERVICE_NAME || name.contains(strange) {
            return invalid("name", format!("it has 1 to {MAX_SERVICE_NAME} of A-Z, a-z, 0-9, . - and _"));
        }
        let rest = self.url.strip_prefix("http://").or_else(|| self.url.strip_prefix("https://"));
        if rest.is_none_or(str::is_empty) {
            let like = match self.kind {
                KindName::NodeRpc => "http://USER:PASSWORD@127.0.0.1:8332",
                _ => "https://HOST",
            };
            return invalid("url", format!("it begins with http:// or https://, like {like}"));
        }
        if self.key_env.as_deref().is_some_and(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return invalid("key_env", "it is the name of an environment variable".to_owned());
        }
        if self.zmq.is_some() && self.kind != KindName::NodeRpc {
            return invalid("zmq", format!("only a node-rpc publishes over ZMQ, not {}", self.kind.kind()));
        }
        if self.zmq.as_deref().is_some_and(|zmq| !zmq.starts_with("tcp://")) {
            return invalid("zmq", "it is like tcp://127.0.0.1:28332".to_owned());
        }
        if self.requests_per_second.is_some_and(|rate| !(rate > 0.0 && rate <= 1000.0)) {
            return invalid("requests_per_second", "it is above 0 and at most 1000".to_owned());
        }
        if self.timeout_s.is_some_and(|seconds| !(1..=MAX_TIMEOUT_S).contains(&seconds)) {
            return invalid("timeout_s", format!("it is 1 to {MAX_TIMEOUT_S} seconds"));
        }
        Ok(())
    }

    fn resolve(
        &self,
        section: &str,
        network: Network,
        env: &impl Fn(&str) -> Option<String>,
    ) -> Result<ServiceConfig, ConfigError> {
        let key = match &self.key_env {
            None => None,
            Some(variable) => Some(env(variable).filter(|key| !key.is_empty()).ok_or_else(|| {
                let reason = format!(
                    "the environment variable {variable} is not set: put the key of {} there",
                    self.name()
                );
                ConfigError::invalid(section, "key_env", reason)
            })?),
        };
        Ok(ServiceConfig {
            name: self.name().to_owned(),
            kind: self.kind.kind(),
            network,
            url: self.url.clone(),
            key,
            requests_per_second: self.requests_per_second,
            zmq: self.zmq.clone(),
            timeout: self.timeout_s.map_or(ServiceConfig::TIMEOUT, Duration::from_secs),
        })
    }
}

impl Default for ChainSection {
    fn default() -> Self {
        let FeeLimits { floor, cap, max } = FeeLimits::default();
        Self {
            source: ChainSource::default(),
            peers: Vec::new(),
            serve: Serve::default(),
            block_interval_s: 2,
            fee_floor_sat_per_kb: floor.sat_per_kb,
            fee_cap_sat_per_kb: cap.sat_per_kb,
            max_fee_sat: max,
            order: OrderSection::default(),
            services: Vec::new(),
        }
    }
}

impl ChainSection {
    /// With [`ChainSource::Dev`]: how long until a block is made while transactions wait.
    #[must_use]
    pub const fn block_interval(&self) -> Duration {
        Duration::from_secs(self.block_interval_s)
    }

    /// What our own transactions may pay to miners.
    #[must_use]
    pub const fn fees(&self) -> FeeLimits {
        FeeLimits {
            floor: FeeRate { sat_per_kb: self.fee_floor_sat_per_kb },
            cap: FeeRate { sat_per_kb: self.fee_cap_sat_per_kb },
            max: self.max_fee_sat,
        }
    }

    /// Puts services in the place of whatever was configured, as `--chain KIND=URL` does. A service of the configuration with the same
    /// kind and address keeps its other settings.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] names what is wrong with which text.
    pub fn use_services(&mut self, texts: &[String]) -> Result<(), ConfigError> {
        let mut services: Vec<ServiceSection> = Vec::new();
        for text in texts {
            let mut service = parse_service(text)?;
            let known =
                self.services.iter().find(|known| known.kind == service.kind && known.url == service.url);
            if let Some(known) = known {
                service.clone_from(known);
            }
            let taken = |name: &str, services: &[ServiceSection]| services.iter().any(|s| s.name() == name);
            if taken(service.name(), &services) {
                let free = (2..).map(|n| format!("{}-{n}", service.kind.kind()));
                service.name = free.take(MAX_SERVICES).find(|name| !taken(name, &services));
            }
            services.push(service);
        }
        self.source = ChainSource::Services;
        self.services = services;
        self.order = OrderSection::default();
        Ok(())
    }

    /// The services with their keys, which `env` has by name.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] where a variable is not set.
    pub fn services(
        &self,
        network: Network,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<ServicesOptions, ConfigError> {
        let resolve = |(service, n): (&ServiceSection, usize)| {
            service.resolve(&format!("chain.services {n}"), network, &env)
        };
        let services = self.services.iter().zip(1..).map(resolve).collect::<Result<_, _>>()?;
        let named = |need: Need| (need, self.order.of(need).to_vec());
        let order: BTreeMap<Need, Vec<String>> =
            Need::ALL.into_iter().map(named).filter(|(_, names)| !names.is_empty()).collect();
        Ok(ServicesOptions { services, order, faucet_key: None })
    }

    pub(super) fn validate(&self, network: Network) -> Result<(), ConfigError> {
        let invalid = |key: &str, reason: String| Err(ConfigError::invalid("chain", key, reason));
        if self.source == ChainSource::Dev && network != Network::Regtest {
            return invalid("source", "the development chain is for network = \"regtest\" only".to_owned());
        }
        if !(1..=3600).contains(&self.block_interval_s) {
            return invalid("block_interval_s", "it is 1 to 3600 seconds".to_owned());
        }
        let rates = [
            ("fee_floor_sat_per_kb", self.fee_floor_sat_per_kb),
            ("fee_cap_sat_per_kb", self.fee_cap_sat_per_kb),
        ];
        for (key, rate) in rates {
            if rate == 0 || rate > MAX_RATE {
                return invalid(key, format!("it is 1 to {MAX_RATE} satoshis for 1,000 bytes"));
            }
        }
        if self.fee_cap_sat_per_kb < self.fee_floor_sat_per_kb {
            let reason =
                format!("it is at least fee_floor_sat_per_kb, which is {}", self.fee_floor_sat_per_kb);
            return invalid("fee_cap_sat_per_kb", reason);
        }
        self.validate_services()
    }

    fn validate_services(&self) -> Result<(), ConfigError> {
        let invalid = |key: &str, reason: String| Err(ConfigError::invalid("chain", key, reason));
        match (self.source, self.services.len()) {
            (ChainSource::Services, 0) => {
                let reason = "services are to be asked, but none is there: add [[chain.services]], or give --chain KIND=URL";
                return invalid("source", reason.to_owned());
            }
            (ChainSource::Services, n) if n > MAX_SERVICES => {
                return invalid("services", format!("{n} are too many, {MAX_SERVICES} at most"));
            }
            (ChainSource::Services, _) | (_, 0) => {}
            _ => {
                let reason = "[[chain.services]] are there, but nobody asks them: write source = \"services\", or take them out";
                return invalid("source", reason.to_owned());
            }
        }
        let mut names: Vec<&str> = Vec::new();
        for (service, n) in self.services.iter().zip(1..) {
            let section = format!("chain.services {n}");
            service.validate(&section)?;
            if names.contains(&service.name()) {
                let reason = format!("`{}` is the name of another service as well", service.name());
                return Err(ConfigError::invalid(section, "name", reason));
            }
            names.push(service.name());
        }
        for need in Need::ALL {
            self.validate_order(need)?;
        }
        Ok(())
    }

    fn validate_order(&self, need: Need) -> Result<(), ConfigError> {
        let invalid = |reason: String| Err(ConfigError::invalid("chain.order", need.name(), reason));
        let order = self.order.of(need);
        for (name, at) in order.iter().zip(0usize..) {
            let Some(service) = self.services.iter().find(|service| service.name() == name) else {
                let names: Vec<&str> = self.services.iter().map(ServiceSection::name).collect();
                let there = if names.is_empty() {
                    "there is none".to_owned()
                } else {
                    format!("there are {}", names.join(", "))
                };
                return invalid(format!("`{name}` is the name of no service; {there}"));
            };
            if !service.kind.kind().can(need) {
                return invalid(format!(
                    "`{name}` is of kind {}, which cannot be asked for {need}",
                    service.kind.kind()
                ));
            }
            if order.iter().take(at).any(|before| before == name) {
                return invalid(format!("`{name}` is there twice"));
            }
        }
        Ok(())
    }
}

/// Reads `KIND=URL`.
fn parse_service(text: &str) -> Result<ServiceSection, ConfigError> {
    let invalid = |reason: String| ConfigError::invalid("", "--chain", reason);
    let Some((kind, url)) = text.split_once('=') else {
        return Err(invalid("it is KIND=URL, like node-rpc=http://USER:PASSWORD@127.0.0.1:8332".to_owned()));
    };
    let kind: ServiceKind = kind
        .trim()
        .parse()
        .map_err(|error: sensora_chain::sources::service::UnknownServiceKind| invalid(error.to_string()))?;
    let kind = KindName::of(kind).ok_or_else(|| invalid(format!("{kind} is not known here")))?;
    let service = ServiceSection::new(kind, url.trim());
    service.validate("--chain")?;
    Ok(service)
}
