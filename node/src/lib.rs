//! The Sensora peer: configuration, sources of readings, storage, swarm and the roles built on them.
//!
//! [`supervisor::Node`] is where to begin: it starts the parts of one node and gives handles to them. Money and proofs are decided in
//! `sensora-protocol` and `sensora-chain`; here is the I/O that they need, and the order in which things become durable.

pub mod agent;
pub mod backup;
pub mod buyer;
pub mod chain_access;
pub mod clock;
pub mod config;
pub mod discovery;
pub mod fees;
pub mod freeze;
pub mod home;
pub mod keystore;
pub mod net;
mod outgoing;
mod pace;
pub mod recovery;
mod release;
pub mod signals;
mod stakes;
pub mod store;
mod stripes;
pub mod supervisor;
pub mod wallet;
pub mod watch_only;
mod watching;
