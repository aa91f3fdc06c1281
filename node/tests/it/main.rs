//! The crate as others use it.

#![cfg(test)]

mod backup;
mod bad_input;
mod chain_access;
mod channels;
mod channels_hostile;
mod config;
mod crash;
mod disk;
mod double;
mod keystore;
mod live;
mod market;
mod money;
mod net;
mod real_node;
mod source;
mod wallet;
mod world;
