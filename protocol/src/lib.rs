//! What Sensora peers say to each other, and how each statement is checked.
//!
//! This crate is pure: no sockets, no clock, no randomness of its own. Whatever it needs of the world is handed in as a
//! value, so that every rule about money or proof can be run in a test.
//!
//! The way of a sale through the rooms:
//!
//! 1. A seller describes its [`stream`]s in a signed [`ad`].
//! 2. A buyer asks for a price and gets a signed [`market::offer::Offer`]; it answers with a signed [`market::order::Order`] and a payment.
//! 3. The seller delivers readings in [`stream::chunk::Run`]s with a range proof under a signed [`stream::checkpoint::Checkpoint`].
//! 4. The checkpoint is bound to the chain by an [`anchor`]; all of it together is portable [`evidence`].

pub mod ad;
pub mod anchor;
pub mod chain_access;
pub mod codec;
pub mod evidence;
pub mod id;
pub mod identity;
pub mod market;
pub mod place;
pub mod statement;
pub mod stream;

pub use id::{ChannelId, Hash, OrderId, StreamId};
pub use identity::Identity;
pub use statement::{Signed, SignedBytes, Statement};
