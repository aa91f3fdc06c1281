//! Delivery: readings and the proof that they are the ones that were ordered ([`Page`]), fetched page by page after a direct payment, or
//! paid while they come over `/sensora/delivery/1`.
//!
//! There neither side goes first with more than it chose. The buyer pays for what it has verified and a little ahead, the seller delivers
//! for what it has been paid and a little ahead; both little amounts are [intervals](crate::market::exposure::Interval) that grow while all
//! goes well. [`supply`] is the seller's state machine, [`receive`] the buyer's, [`frame`] what they say to each other; [`meter`] counts what an order
//! by the second has come to, [`trail`] what of a live stream's proofs is known already.

pub mod frame;
pub mod meter;
pub mod page;
pub mod receive;
pub mod supply;
pub mod terms;
pub mod trail;

pub use page::{DeliveryError, MAX_RUNS, PROOF_UNIT, Page, ProvenPage, salts_of};
