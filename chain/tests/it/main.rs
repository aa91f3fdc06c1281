//! The crate against the world: published vectors, an independent implementation, and a real node.

#![cfg(test)]

mod bad_input;
#[cfg(feature = "sources")]
mod dev_chain;
mod headers;
#[cfg(feature = "sources")]
mod http;
#[cfg(feature = "sources")]
mod node_rpc;
mod oracle;
#[cfg(feature = "sources")]
mod real_node;
mod support;
mod vectors;
mod wallet;
