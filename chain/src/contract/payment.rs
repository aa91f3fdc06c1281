//! Pay to public key hash: the coin that a single signature spends.
//!
//! Only one form of a spend is accepted: version 1, exactly one minimal push of a strict DER, low-S signature of type
//! 0x41, and one of the public key. So the id of a transaction that passes cannot be changed by anybody on its way.

use crate::encode::hash160;
use crate::keys::{KeyError, PrivateKey, Signature, verify_encoded};
use crate::script::{Op, Script};
use crate::sighash::{ALL_FORKID, SighashCache};
use crate::tx::{Transaction, TxOut, VERSION};

/// The most bytes an unlocking script takes: 1 + 72 for the signature with its type, 1 + 33 for the key.
pub const UNLOCKING_SIZE: usize = 107;

/// The most bytes an input takes once it is signed.
pub const INPUT_SIZE: usize = 36 + 1 + UNLOCKING_SIZE + 4;

/// Bytes of an output.
pub const OUTPUT_SIZE: usize = 8 + 1 + 25;

/// Why an input does not spend its coin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PaymentError {
    /// The coin's script is another.
    #[error("the spent output is not pay-to-public-key-hash")]
    NotP2pkh,
    /// The transaction has no such input.
    #[error("the transaction has no input {0}")]
    NoInput(usize),
    /// The version gives up the rules against malleability.
    #[error("the transaction has version {0}; only version 1 keeps its id on the way to a miner")]
    Version(u32),
    /// Something else than signature and key in minimal pushes.
    #[error("the unlocking script of input {0} is not exactly one signature and one public key")]
    Unlocking(usize),
    /// The public key hashes to something else.
    #[error("the public key of input {0} is not the one the coin is locked to")]
    WrongKey(usize),
    /// The signature signs less than everything.
    #[error("the signature of input {index} has type {found:#04x} instead of 0x41")]
    SighashType {
        /// The input.
        index: usize,
        /// The type found.
        found: u8,
    },
    /// The encoding of signature or key is not the canonical one.
    #[error("input {index}: {source}")]
    Encoding {
        /// The input.
        index: usize,
        /// What is wrong with it.
        source: KeyError,
    },
    /// The signature is for something else.
    #[error("the signature of input {0} does not sign this transaction")]
    BadSignature(usize),
}

/// The output that pays `value` to the owner of a public key with this hash.
pub fn pay_to_hash(hash: &[u8; 20], value: crate::Satoshis) -> TxOut {
    TxOut { value, locking: Script::p2pkh(hash) }
}

/// The unlocking script of a coin that is locked to `key`, for the digest of its input.
pub fn sign_p2pkh(key: &PrivateKey, digest: [u8; 32]) -> Script {
    let mut signature = key.sign(&digest).der();
    signature.push(ALL_FORKID);
    Script::builder().push(&signature).push(&key.public().to_bytes()).build()
}

/// Signs the input at `index`, which spends `spent`, and puts the unlocking script in place.
///
/// # Errors
/// [`PaymentError::NoInput`], [`PaymentError::NotP2pkh`], or [`PaymentError::WrongKey`] if `key` cannot spend it.
pub fn sign_input(
    tx: &mut Transaction,
    index: usize,
    spent: &TxOut,
    key: &PrivateKey,
) -> Result<(), PaymentError> {
    let hash = spent.locking.p2pkh_hash().ok_or(PaymentError::NotP2pkh)?;
    if hash != key.public().hash160() {
        return Err(PaymentError::WrongKey(index));
    }
    let digest = SighashCache::new(tx).digest(index, &spent.locking, spent.value);
    let input = tx.inputs.get_mut(index).ok_or(PaymentError::NoInput(index))?;
    input.unlocking = sign_p2pkh(key, digest);
    Ok(())
}

/// Checks that the input at `index` of `tx` spends `spent`. `cache` is the one of `tx`.
///
/// # Errors
/// [`PaymentError`] with what is wrong.
pub fn verify_p2pkh(
    tx: &Transaction,
    cache: &SighashCache<'_>,
    index: usize,
    spent: &TxOut,
) -> Result<(), PaymentError> {
    let hash = spent.locking.p2pkh_hash().ok_or(PaymentError::NotP2pkh)?;
    if tx.version != VERSION {
        return Err(PaymentError::Version(tx.version));
    }
    let input = tx.inputs.get(index).ok_or(PaymentError::NoInput(index))?;
    let mut steps = input.unlocking.pushes();
    let mut next_push = || match steps.next() {
        Some(Ok(step @ Op::Push { data, .. })) if step.is_minimal_push() => Ok(data),
        _ => Err(PaymentError::Unlocking(index)),
    };
    let (signature, key) = (next_push()?, next_push()?);
    if steps.next().is_some() {
        return Err(PaymentError::Unlocking(index));
    }

    if hash160(key) != hash {
        return Err(PaymentError::WrongKey(index));
    }
    let (&found, der) = signature.split_last().ok_or(PaymentError::Unlocking(index))?;
    if found != ALL_FORKID {
        return Err(PaymentError::SighashType { index, found });
    }
    let encoding = |source| PaymentError::Encoding { index, source };
    let signature = Signature::from_der_strict(der).map_err(encoding)?;
    let digest = cache.digest(index, &spent.locking, spent.value);
    match verify_encoded(key, &digest, &signature).map_err(encoding)? {
        true => Ok(()),
        false => Err(PaymentError::BadSignature(index)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::Satoshis;
    use crate::id::{OutPoint, Txid};
    use crate::tx::TxIn;

    fn signed() -> (Transaction, TxOut, PrivateKey) {
        let key = PrivateKey::from_bytes([3; 32]).unwrap();
        let spent = pay_to_hash(&key.public().hash160(), Satoshis::from_sat(1000));
        let input = TxIn::new(OutPoint { txid: Txid([9; 32]), vout: 1 });
        let mut tx = Transaction::new(vec![input], vec![pay_to_hash(&[1; 20], Satoshis::from_sat(900))]);
        sign_input(&mut tx, 0, &spent, &key).unwrap();
        (tx, spent, key)
    }

    fn check(tx: &Transaction, spent: &TxOut) -> Result<(), PaymentError> {
        verify_p2pkh(tx, &SighashCache::new(tx), 0, spent)
    }

    #[test]
    fn a_signed_input_spends_its_coin() {
        let (tx, spent, _) = signed();
        assert_eq!(check(&tx, &spent), Ok(()));
        assert!(tx.inputs[0].unlocking.len() <= UNLOCKING_SIZE);
    }

    #[test]
    fn any_change_of_what_is_signed_is_seen() {
        let (tx, spent, _) = signed();
        let changed = [
            |tx: &mut Transaction| tx.outputs[0].value = Satoshis::from_sat(901),
            |tx: &mut Transaction| tx.lock_time = 1,
            |tx: &mut Transaction| tx.inputs[0].previous.vout = 2,
            |tx: &mut Transaction| tx.inputs[0].sequence = 0,
        ];
        for change in changed {
            let mut tx = tx.clone();
            change(&mut tx);
            assert_eq!(check(&tx, &spent), Err(PaymentError::BadSignature(0)));
        }
        let other_value = TxOut { value: Satoshis::from_sat(1001), ..spent };
        assert_eq!(check(&tx, &other_value), Err(PaymentError::BadSignature(0)));
    }

    #[test]
    fn other_forms_of_the_same_spend_are_refused() {
        let (tx, spent, key) = signed();
        let unlock = |script: Script| {
            let mut tx = tx.clone();
            tx.inputs[0].unlocking = script;
            check(&tx, &spent)
        };
        let digest = SighashCache::new(&tx).digest(0, &spent.locking, spent.value);
        let der = key.sign(&digest).der();
        let with = |t: u8| [der.clone(), vec![t]].concat();
        let public = key.public().to_bytes();

        let junk = Script::builder().push(b"junk").push(&with(0x41)).push(&public).build();
        assert_eq!(unlock(junk), Err(PaymentError::Unlocking(0)));
        let nop = Script::builder().push(&with(0x41)).push(&public).op(0x61).build();
        assert_eq!(unlock(nop), Err(PaymentError::Unlocking(0)));
        let long_push =
            Script::builder().raw(&[0x4c, der.len() as u8 + 1]).raw(&with(0x41)).push(&public).build();
        assert_eq!(unlock(long_push), Err(PaymentError::Unlocking(0)));
        let none = Script::builder().push(&with(0x42)).push(&public).build();
        assert_eq!(unlock(none), Err(PaymentError::SighashType { index: 0, found: 0x42 }));
        let other_key = Script::builder()
            .push(&with(0x41))
            .push(&PrivateKey::from_bytes([4; 32]).unwrap().public().to_bytes());
        assert_eq!(unlock(other_key.build()), Err(PaymentError::WrongKey(0)));
        assert_eq!(unlock(Script::new(vec![0x4c])), Err(PaymentError::Unlocking(0)));
        assert_eq!(unlock(Script::default()), Err(PaymentError::Unlocking(0)));

        let mut version_2 = tx.clone();
        version_2.version = 2;
        assert_eq!(check(&version_2, &spent), Err(PaymentError::Version(2)));
    }

    #[test]
    fn a_key_that_cannot_spend_does_not_sign() {
        let (mut tx, spent, _) = signed();
        let other = PrivateKey::from_bytes([4; 32]).unwrap();
        assert_eq!(sign_input(&mut tx, 0, &spent, &other), Err(PaymentError::WrongKey(0)));
    }
}
