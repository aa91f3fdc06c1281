//! The script templates that are written and recognised here, each with how it is spent and how a spend is checked.

pub mod data_output;
pub mod payment;

pub use data_output::{data_output, parse_data_output};
pub use payment::{PaymentError, sign_p2pkh, verify_p2pkh};

use crate::sighash::SighashCache;
use crate::tx::{Transaction, TxOut};

/// Why an input is not accepted without a Merkle proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A script that only miners can be asked about.
    #[error(
        "input {index} spends an output whose script is none that can be checked here; it needs a Merkle proof"
    )]
    UnknownScript {
        /// The input.
        index: usize,
    },
    /// A payment that is not spent as it has to be.
    #[error(transparent)]
    Payment(#[from] PaymentError),
}

/// Checks that the input at `index` of `tx` spends `spent`, by the template of the spent output. `cache` is the one
/// of `tx`.
///
/// # Errors
/// [`TemplateError::UnknownScript`] where there is no template for it, otherwise what is wrong.
pub fn verify_input(
    tx: &Transaction,
    cache: &SighashCache<'_>,
    index: usize,
    spent: &TxOut,
) -> Result<(), TemplateError> {
    match verify_p2pkh(tx, cache, index, spent) {
        Err(PaymentError::NotP2pkh) => Err(TemplateError::UnknownScript { index }),
        other => Ok(other?),
    }
}
