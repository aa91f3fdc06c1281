//! Payment channels: many payments, two transactions.

pub mod earning;
pub mod spending;
