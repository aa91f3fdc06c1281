//! The crate as others use it.

#![cfg(test)]

mod backup;
mod bad_input;
mod chain_access;
mod channels;
mod channels_hostile;
mod config;
mod crash;
mod crowd;
mod disk;
mod double;
mod expiry;
mod freeze;
mod hostile_buyer;
mod keystore;
mod live;
mod live_seller;
mod market;
mod money;
mod net;
mod real_node;
mod release;
mod source;
mod wallet;
mod world;
