//! The crate against the world: published vectors and an independent implementation.

#[cfg(feature = "sources")]
mod dev_chain;
#[cfg(feature = "sources")]
mod real_node;
mod wallet;
mod oracle;
mod support;
mod vectors;
