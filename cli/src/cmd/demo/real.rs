//! The chain that the demo stands on: the development chain, or a regtest node that somebody runs.

use std::time::Duration;

use sensora_chain::FeeRate;
use sensora_chain::sources::service::{Service, ServiceConfig, ServiceKind};
use sensora_node::chain_access::ServicesOptions;
use sensora_node::config::ChainSection;
use sensora_node::fees::FeeLimits;
use sensora_node::supervisor::{ChainRole, ServicesRole};

use super::peers::{self, BLOCK_INTERVAL, NETWORK, Place};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// How long the node may take for one answer: mining a hundred blocks is one.
const NODE_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the demo's money is mined.
pub(super) enum Ground {
    /// In the bootstrap node's home.
    DevChain,
    /// On a regtest node, which takes this rate.
    Node {
        /// How the bootstrap node reaches it.
        config: ServiceConfig,
        /// What its miner asks for.
        rate: FeeRate,
    },
}

impl Ground {
    /// The chain of the bootstrap node; the others have it from there.
    pub(super) fn role(&self, bootstrap: &Place) -> ChainRole {
        match self {
            Self::DevChain => peers::dev_chain(bootstrap),
            Self::Node { config, .. } => ChainRole::Services(ServicesRole {
                services: ServicesOptions { services: vec![config.clone()], ..ServicesOptions::default() },
                peers: Vec::new(),
                serve: true,
                mine: Some(BLOCK_INTERVAL),
            }),
        }
    }

    /// What all three pay to miners: the agent and the buyer see the node only through the bootstrap node, which passes no prices on.
    pub(super) fn fees(&self) -> FeeLimits {
        let limits = FeeLimits::default();
        match self {
            Self::DevChain => limits,
            Self::Node { rate, .. } => {
                let floor = limits.floor.max(*rate).min(limits.cap);
                FeeLimits { floor, ..limits }
            }
        }
    }

    /// What the bootstrap node mines.
    pub(super) const fn words(&self) -> &'static str {
        match self {
            Self::DevChain => "a development chain",
            Self::Node { .. } => "on the regtest node",
        }
    }
}

/// Reads `--chain`.
pub(super) fn service(text: &str) -> Outcome<ServiceConfig> {
    let usage = |error: sensora_node::config::ConfigError| Failure::from_error(Exit::Usage, &error);
    let mut chain = ChainSection::default();
    chain.use_services(&[text.to_owned()]).map_err(usage)?;
    let mut services = chain.services(NETWORK, |name| std::env::var(name).ok()).map_err(usage)?.services;
    match services.pop() {
        Some(config) if config.kind == ServiceKind::NodeRpc => {
            Ok(ServiceConfig { timeout: NODE_TIMEOUT, ..config })
        }
        _ => Err(Failure::usage("the demo mines its own coins, which only a node does")
            .hint("give --chain node-rpc=http://USER:PASSWORD@HOST:PORT of a regtest node")),
    }
}

/// Looks whether the node answers, before anything else is started.
pub(super) async fn chain(config: ServiceConfig) -> Outcome<Ground> {
    let unusable = |error: sensora_chain::sources::service::SourceError| {
        let text = format!("the demo cannot use the regtest node: {error}");
        Failure::new(Exit::Unreachable, text)
            .hint("is it running with -regtest -server, and are name, password and port those of its configuration?")
    };
    let node = Service::new(config.clone()).map_err(unusable)?;
    node.tip().await.map_err(unusable)?;
    let rate = node.fee_quote().await.map_err(unusable)?.rate;
    Ok(Ground::Node { config, rate })
}
