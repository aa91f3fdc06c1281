//! The sale: what is asked, offered, ordered, paid, delivered and receipted.
//!
//! The rules of both sides are state machines without I/O: [`purchase`] for the buyer, [`sale`] for the seller. They take
//! events and return what is to be done; whoever drives them stores the new state before doing it. [`message`] is what
//! moves between them over `/sensora/market/1`.

pub mod budget;
pub mod channel;
pub mod choice;
pub mod delivery;
pub mod exposure;
pub mod key_release;
pub mod live;
pub mod message;
pub mod offer;
pub mod order;
pub mod payment;
pub mod price;
pub mod purchase;
pub mod reads;
pub mod receipt;
pub mod refusal;
pub mod sale;
