//! Vouchers: what the buyer signs, what the seller checks and keeps.

use serde::{Deserialize, Serialize};

use super::Channel;
use crate::amount::Satoshis;
use crate::contract::spend::{self, SignatureFault, minimal_pushes, read_signature};
use crate::id::OutPoint;
use crate::keys::{KeyError, PrivateKey, PublicKey, Signature};
use crate::script::{Script, op};
use crate::tx::Transaction;

/// The buyer's half of a close: all that a payment in a channel is. It says nothing of which channel; the signature
/// verifies for one only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Voucher {
    /// What the seller gets in all, this payment and those before it.
    pub paid: Satoshis,
    /// The buyer's signature of the close with this amount, of type 0x41.
    pub signature: Signature,
}

/// Why a voucher is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VoucherError {
    /// More than there is.
    #[error("a voucher of {paid} is more than the channel's {capacity}; open another")]
    TooMuch {
        /// What it would pay.
        paid: Satoshis,
        /// What the channel can pay.
        capacity: Satoshis,
    },
    /// The transaction is not a close at all.
    #[error(
        "this transaction is no close of the channel {0}: that has version 1, no lock time, and the channel as its one input, final"
    )]
    NotTheClose(OutPoint),
    /// The transaction pays somebody else, or another sum.
    #[error(
        "the outputs are not those of a close of the channel {0}: what is paid to the seller's hash, then the rest less the agreed fee to the buyer's"
    )]
    Outputs(OutPoint),
    /// Not the unlocking script of a close.
    #[error("the close does not carry exactly two signatures in minimal pushes")]
    Unlocking,
    /// The signature signs less than everything.
    #[error("the buyer's signature has type {0:#04x} instead of 0x41")]
    SighashType(u8),
    /// The encoding of the signature is not the canonical one.
    #[error("the buyer's signature is not canonical: {0}")]
    NotCanonical(#[source] KeyError),
    /// The signature is of another amount, of another channel, or another's.
    #[error("the buyer's signature does not sign the close of this channel that pays {0}")]
    BadSignature(Satoshis),
    /// The key is not the one that has to sign.
    #[error("this key cannot sign here: the channel needs that of {0}")]
    WrongKey(PublicKey),
}

impl Voucher {
    /// A voucher from its signature as scripts carry it: DER and the type.
    ///
    /// # Errors
    /// [`VoucherError::SighashType`], [`VoucherError::NotCanonical`].
    pub fn from_script_signature(paid: Satoshis, push: &[u8]) -> Result<Self, VoucherError> {
        match read_signature(push) {
            Ok(signature) => Ok(Voucher { paid, signature }),
            Err(SignatureFault::Type(found)) => Err(VoucherError::SighashType(found)),
            Err(SignatureFault::Encoding(source)) => Err(VoucherError::NotCanonical(source)),
        }
    }

    /// The signature as scripts carry it: DER and the type.
    pub fn script_signature(&self) -> Vec<u8> {
        spend::signature_push(&self.signature)
    }
}

impl Channel {
    /// Signs the buyer's half of the close that pays `paid` in all.
    ///
    /// # Errors
    /// [`VoucherError::TooMuch`]; [`VoucherError::WrongKey`] if `buyer` is not the key of the terms.
    pub fn sign_voucher(&self, paid: Satoshis, buyer: &PrivateKey) -> Result<Voucher, VoucherError> {
        if buyer.public() != self.terms.buyer {
            return Err(VoucherError::WrongKey(self.terms.buyer));
        }
        Ok(Voucher { paid, signature: buyer.sign(&self.close_digest(paid)?) })
    }

    /// Checks that with this voucher the seller alone can have its amount. One signature verification and little else.
    ///
    /// # Errors
    /// [`VoucherError::TooMuch`], [`VoucherError::BadSignature`].
    pub fn verify_voucher(&self, voucher: &Voucher) -> Result<(), VoucherError> {
        match self.terms.buyer.verify(&self.close_digest(voucher.paid)?, &voucher.signature) {
            true => Ok(()),
            false => Err(VoucherError::BadSignature(voucher.paid)),
        }
    }

    /// Makes the close out of a voucher, ready to be sent. The voucher is verified once more, so that what comes out
    /// is valid.
    ///
    /// # Errors
    /// [`VoucherError::WrongKey`] if `seller` is not the key of the terms, and as [`Channel::verify_voucher`].
    pub fn complete(&self, voucher: &Voucher, seller: &PrivateKey) -> Result<Transaction, VoucherError> {
        if seller.public() != self.terms.seller {
            return Err(VoucherError::WrongKey(self.terms.seller));
        }
        self.verify_voucher(voucher)?;
        let signature = spend::sign(seller, &self.close_digest(voucher.paid)?);
        let mut tx = self.close(voucher.paid)?;
        if let Some(input) = tx.inputs.first_mut() {
            input.unlocking = Script::builder()
                .op(op::FALSE)
                .push(&voucher.script_signature())
                .push(&signature)
                .op(op::TRUE)
                .build();
        }
        Ok(tx)
    }

    /// The voucher that a signed close was made from, verified: the highest amount that is known to have been paid, for
    /// a seller whose memory is older than its close.
    ///
    /// # Errors
    /// [`VoucherError`] if it is no close of this channel, or not signed by the buyer in the one form.
    pub fn voucher_of(&self, close: &Transaction) -> Result<Voucher, VoucherError> {
        let paid = self.paid_by(close)?;
        let pushes = close.inputs.first().and_then(|input| minimal_pushes(&input.unlocking));
        let [[], buyer, _, [1]] = pushes.unwrap_or_default()[..] else {
            return Err(VoucherError::Unlocking);
        };
        let voucher = Voucher::from_script_signature(paid, buyer)?;
        self.verify_voucher(&voucher)?;
        Ok(voucher)
    }
}
