//! The crate against a real BSV node, started for the test in regtest with the rules of the main network.
//!
//! Runs where `SENSORA_BITCOIND` names a node's `bitcoind`; see `docs/testing.md`. Elsewhere each test says by its name
//! that it is skipped, or fails if `SENSORA_REQUIRE_NODE=1`.

mod contracts;
mod dev_blocks;
mod kinds;
mod node;
mod notify;
mod reorg;
mod rpc;
mod scripts;
