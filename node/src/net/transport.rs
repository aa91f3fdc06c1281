//! The swarm on its transports.

use std::error::Error;

use libp2p::{
    Swarm, SwarmBuilder, Transport as _,
    core::{transport::MemoryTransport, upgrade::Version},
    identity::Keypair,
    noise, swarm, tcp, yamux,
};

use super::{NetConfig, NetError, Transport, behaviour::Behaviour};

/// Builds the swarm. Must be called inside a tokio runtime.
pub(super) fn swarm(
    config: &NetConfig,
    key: Keypair,
    behaviour: Behaviour,
) -> Result<Swarm<Behaviour>, NetError> {
    let idle = config.limits.idle;
    let settings = move |settings: swarm::Config| {
        settings
            .with_idle_connection_timeout(idle)
            // Sends a request together with the protocol's name: one round trip instead of two.
            .with_substream_upgrade_protocol_override(Version::V1Lazy)
    };
    let tokio = |key| SwarmBuilder::with_existing_identity(key).with_tokio();
    let internet = |key| {
        tokio(key)
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
            .map(|builder| builder.with_quic())
            .map_err(setup)
    };
    let swarm = match config.transport {
        Transport::Memory => tokio(key)
            .with_other_transport(|key| {
                Ok::<_, Box<dyn Error + Send + Sync>>(
                    MemoryTransport::default()
                        .upgrade(Version::V1Lazy)
                        .authenticate(noise::Config::new(key)?)
                        .multiplex(yamux::Config::default()),
                )
            })
            .map_err(setup)?
            .with_behaviour(|_| behaviour)
            .map_err(setup)?
            .with_swarm_config(settings)
            .build(),
        Transport::Real => match internet(key.clone())?.with_dns() {
            Ok(builder) => {
                builder.with_behaviour(|_| behaviour).map_err(setup)?.with_swarm_config(settings).build()
            }
            // A machine without a resolver still reaches numeric addresses.
            Err(error) => {
                tracing::warn!(%error, "no name resolver: addresses with a DNS name cannot be reached");
                internet(key)?
                    .with_behaviour(|_| behaviour)
                    .map_err(setup)?
                    .with_swarm_config(settings)
                    .build()
            }
        },
    };
    Ok(swarm)
}

fn setup(error: impl std::fmt::Display) -> NetError {
    NetError::Setup(error.to_string())
}
