//! The script templates that are written and recognised here, each with how it is spent and how a spend is checked.

pub mod data_output;
pub mod payment;

pub use data_output::{data_output, parse_data_output};
pub use payment::{PaymentError, sign_p2pkh, verify_p2pkh};
