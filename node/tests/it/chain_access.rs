//! Chain access between peers: a node with the development chain serves, one without asks; and liars are not believed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the helpers of a test may fail like the test itself; the lints only see that in functions marked as tests"
)]

mod hostile;
pub(crate) mod http;
mod services;
mod swarm;
mod world;
