//! The crate as others use it.

#![cfg(test)]

mod chain_access;
mod config;
mod crash;
mod disk;
mod keystore;
mod market;
mod net;
mod source;
mod world;
