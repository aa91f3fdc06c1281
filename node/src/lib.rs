//! The Sensora peer: configuration, sources of readings, storage, swarm and the roles built on them.

pub mod clock;
pub mod home;
pub mod keystore;
