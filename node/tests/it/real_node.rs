//! Whole markets on a real BSV node, started for the test in regtest with the rules of the main network.
//!
//! Runs where `SENSORA_BITCOIND` names a node's `bitcoind`; see `docs/testing.md`. Elsewhere each test says by its name
//! that it is skipped, or fails if `SENSORA_REQUIRE_NODE=1`.

mod channels;
mod crash;
mod market;
#[path = "../../../chain/tests/it/real_node/node.rs"]
#[allow(dead_code, reason = "the tests of the crate below use all of it")]
mod node;
mod release;
mod reorg;
mod stage;
