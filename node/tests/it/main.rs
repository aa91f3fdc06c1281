//! The crate as others use it.

#![cfg(test)]

mod backup;
mod bad_input;
mod chain_access;
mod channels;
mod config;
mod crash;
mod disk;
mod double;
mod freeze;
mod keystore;
mod live;
mod live_seller;
mod market;
mod money;
mod net;
mod real_node;
mod source;
mod wallet;
mod world;
