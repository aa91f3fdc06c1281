//! Where the chain is reached: the part of this crate that does I/O, behind the feature `sources`.
//!
//! Whatever a source says is checked by its user against his own headers; a source is believed in nothing but what it
//! can prove.
//!
//! [`dev`] is a chain of its own in this process. All others are services of somebody else, or a node of one's own:
//! [`service::Service`] is what can be asked of any of them, and each has a file: [`arc`], [`whatsonchain`],
//! [`chaintracks`], [`node_rpc`]. What they share is in `http` (the way to a service, in bounded time and memory) and
//! `reject` (the words of nodes that do not take a transaction). Each keeps the parsers of its answers apart from the
//! asking, as pure functions that [`answers`] drives for the fuzzer.

pub mod answers;
pub mod arc;
pub mod chaintracks;
pub mod dev;
mod http;
pub mod node_rpc;
mod reject;
pub mod service;
pub mod whatsonchain;
