//! The script templates that are written and recognised here, each with how it is spent and how a spend is checked.

pub mod channel;
pub mod data_output;
pub mod height_lock;
pub mod key_release;
pub mod payment;
pub mod push_tx;
pub mod refund;
pub mod spend;

pub use channel::{Channel, ChannelTerms, CloseTerms, Voucher, VoucherError};
pub use data_output::{data_output, parse_data_output};
pub use height_lock::RefundHeight;
pub use key_release::{KeyRelease, KeyReleaseTerms};
pub use payment::{PaymentError, sign_p2pkh, verify_p2pkh};
pub use refund::RefundError;
pub use spend::SpendError;

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
    /// A channel or key release that is not spent as it has to be.
    #[error(transparent)]
    Contract(#[from] SpendError),
}

/// Checks that the input at `index` of `tx` spends `spent`, by the template of the spent output and in the one form
/// that each of its spends has. `cache` is the one of `tx`.
///
/// Whether the transaction may be mined yet, a refund above all, is not said here: see
/// [`Transaction::is_final_at`].
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
        Err(PaymentError::NotP2pkh) => {}
        other => return Ok(other?),
    }
    if let Some(terms) = ChannelTerms::parse(&spent.locking) {
        return Ok(channel::verify_channel_spend(cache, index, spent, &terms)?);
    }
    match KeyReleaseTerms::parse(&spent.locking) {
        Some(terms) => Ok(key_release::verify_key_release_spend(cache, index, spent, &terms)?),
        None => Err(TemplateError::UnknownScript { index }),
    }
}
