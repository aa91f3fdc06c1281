//! What spends of the contracts have in common: exact unlocking scripts, and signatures in their one form.

use super::height_lock::HeightLockError;
use super::push_tx::PushTxError;
use crate::keys::{KeyError, PrivateKey, PublicKey, Signature};
use crate::script::{Op, Script};
use crate::sighash::ALL_FORKID;
use crate::tx::{Transaction, VERSION};

/// The most bytes of a pushed signature: its length, 71 for DER with a high R and a low S, and the type.
pub(super) const SIGNATURE_PUSH: usize = 1 + 72;

/// Version, lock time, and the numbers of inputs and outputs.
pub(super) const TX_OVERHEAD: usize = 4 + 4 + 1 + 1;

/// The most pushes that a spend of a contract has: those of a close.
const MAX_PUSHES: usize = 4;

/// Who has to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// Whoever funded the contract.
    Buyer,
    /// Whoever is paid by it.
    Seller,
}

impl std::fmt::Display for Party {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Party::Buyer => "buyer",
            Party::Seller => "seller",
        })
    }
}

/// Why an input does not spend the output of a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpendError {
    /// The transaction has no such input.
    #[error("the transaction has no input {0}")]
    NoInput(usize),
    /// The version gives up the rules against malleability.
    #[error("the transaction has version {0}; only version 1 keeps its id on the way to a miner")]
    Version(u32),
    /// No spend has this form, or it is not the canonical one.
    #[error(
        "the unlocking script of input {0} is no spend of this contract in its one form with minimal pushes"
    )]
    Unlocking(usize),
    /// The signature signs less than everything.
    #[error("the {party}'s signature in input {index} has type {found:#04x} instead of 0x41")]
    SighashType {
        /// The input.
        index: usize,
        /// Whose signature it should be.
        party: Party,
        /// The type found.
        found: u8,
    },
    /// The encoding of the signature is not the canonical one.
    #[error("the {party}'s signature in input {index}: {source}")]
    Encoding {
        /// The input.
        index: usize,
        /// Whose signature it should be.
        party: Party,
        /// What is wrong with it.
        source: KeyError,
    },
    /// The signature is for something else, or another's.
    #[error("the {party}'s signature in input {index} does not sign this transaction")]
    BadSignature {
        /// The input.
        index: usize,
        /// Whose signature it should be.
        party: Party,
    },
    /// A refund that comes too early or could.
    #[error(transparent)]
    Lock(#[from] HeightLockError),
    /// A refund that does not show its transaction to the script.
    #[error(transparent)]
    PushTx(#[from] PushTxError),
    /// A claim with a key of another length.
    #[error("input {index} reveals {found} bytes, a key has 32")]
    KeyLength {
        /// The input.
        index: usize,
        /// Their number.
        found: usize,
    },
    /// A claim with another key.
    #[error("the key that input {0} reveals is not the one that was sold")]
    WrongKey(usize),
}

/// A signature as scripts carry it: DER and the type.
pub(super) fn signature_push(signature: &Signature) -> Vec<u8> {
    let mut push = signature.der();
    push.push(ALL_FORKID);
    push
}

/// Signs a digest for a script.
pub(super) fn sign(key: &PrivateKey, digest: &[u8; 32]) -> Vec<u8> {
    signature_push(&key.sign(digest))
}

/// Why a pushed signature is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignatureFault {
    Type(u8),
    Encoding(KeyError),
}

/// A signature of type 0x41 from its push, in the one encoding it has.
pub(super) fn read_signature(push: &[u8]) -> Result<Signature, SignatureFault> {
    let (&found, der) = push.split_last().ok_or(SignatureFault::Encoding(KeyError::Signature))?;
    if found != ALL_FORKID {
        return Err(SignatureFault::Type(found));
    }
    Signature::from_der_strict(der).map_err(SignatureFault::Encoding)
}

/// Checks the signature that an input carries for one of the parties.
pub(super) fn verify_signature(
    index: usize,
    party: Party,
    key: &PublicKey,
    digest: &[u8; 32],
    push: &[u8],
) -> Result<(), SpendError> {
    let signature = read_signature(push).map_err(|fault| match fault {
        SignatureFault::Type(found) => SpendError::SighashType { index, party, found },
        SignatureFault::Encoding(source) => SpendError::Encoding { index, party, source },
    })?;
    if key.verify(digest, &signature) { Ok(()) } else { Err(SpendError::BadSignature { index, party }) }
}

/// What the unlocking script of an input of a version 1 transaction pushes, if it does nothing else and every push is
/// minimal.
pub(super) fn pushes(tx: &Transaction, index: usize) -> Result<Vec<&[u8]>, SpendError> {
    if tx.version != VERSION {
        return Err(SpendError::Version(tx.version));
    }
    let input = tx.inputs.get(index).ok_or(SpendError::NoInput(index))?;
    minimal_pushes(&input.unlocking).ok_or(SpendError::Unlocking(index))
}

/// The pushes of a script that is nothing but a few minimal ones.
pub(super) fn minimal_pushes(script: &Script) -> Option<Vec<&[u8]>> {
    let mut pushes = Vec::with_capacity(MAX_PUSHES);
    for step in script.pushes() {
        match step {
            Ok(step @ Op::Push { data, .. }) if step.is_minimal_push() && pushes.len() < MAX_PUSHES => {
                pushes.push(data);
            }
            _ => return None,
        }
    }
    Some(pushes)
}
