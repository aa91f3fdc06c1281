//! The crate against the world: published vectors and an independent implementation.

#[cfg(all(test, feature = "sources"))]
mod dev_chain;
#[cfg(all(test, feature = "sources"))]
mod real_node;
#[cfg(test)]
mod wallet;
mod oracle;
mod support;
mod vectors;
