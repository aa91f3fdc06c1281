//! Chain access for peers that have none: what is asked and answered over `/sensora/chain/1`, and the rules by which a
//! node follows the header chain of peers whom it does not trust.
//!
//! Everything that can be checked is checked by the one who asks: headers by their proof of work ([`sync`]), Merkle paths
//! against those headers, transactions and scanned outputs by simplified payment verification. What cannot be checked
//! (that something does *not* exist: an output unspent, a transaction unknown, a page complete) is a hint, and its type says so.

pub mod message;
pub mod refusal;
pub mod sync;

pub use message::{Answer, PROTOCOL, Request, Response};
pub use refusal::Refusal;
