//! Payment channels: many payments, two transactions.
//!
//! A buyer puts money into an output that both must sign for ([`sensora_chain::contract::channel`]) and pays out of it by vouchers, each of
//! which pays for all before it. [`offer`] says on which terms, [`buyer`] and [`seller`] are the life of a channel on both sides, and
//! [`spending`] and [`earning`] their accounts: what each order on it has been promised and has paid.

pub mod buyer;
pub mod earning;
pub mod message;
pub mod offer;
pub mod seller;
pub mod spending;
