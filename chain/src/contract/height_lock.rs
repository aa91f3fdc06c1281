//! A lock to a height: the part of a script that lets the buyer have its money back, but not before.
//!
//! It reads the preimage that [`push_tx`](super::push_tx) has checked, and asks for two things. The lock time is a height
//! from the refund height on: without the bound above, a Unix time of the past would pass for a large height. And the
//! input's sequence number is not final: otherwise miners would not look at the lock time at all.

#![warn(clippy::arithmetic_side_effects)]

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::script::{Op, Ops, Script, op};
use crate::tx::{LOCK_TIME_IS_TIME, SEQUENCE_FINAL, Transaction};

/// Takes the preimage and leaves its lock time as a number.
#[rustfmt::skip]
const READ_LOCK_TIME: [u8; 28] = [
    // The last 44 bytes: sequence, hash of the outputs, lock time, type.
    op::SIZE, 1, 44, op::SUB, op::SPLIT, op::NIP,
    // The sequence number is not the final one.
    op::N4, op::SPLIT, op::SWAP, 4, 0xff, 0xff, 0xff, 0xff, op::EQUAL, op::NOT, op::VERIFY,
    // The lock time alone, with a zero byte so that it counts as positive.
    1, 32, op::SPLIT, op::NIP, op::N4, op::SPLIT, op::DROP,
    1, 0, op::CAT, op::BIN2NUM,
];

/// After the refund height: not below it, and below 500,000,000.
const CHECK_BOUNDS: [u8; 7] = [4, 0x00, 0x65, 0xcd, 0x1d, op::WITHIN, op::VERIFY];

/// Bytes of the lock beside the push of the height.
pub(super) const LOCK_OVERHEAD: usize = 28 + 7;

/// From when on the buyer alone may take back what is in a contract: the lowest lock time that its refund may have,
/// so the refund can be in the block after this height. From 1 to 499,999,999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct RefundHeight(u32);

/// The number is no height that a transaction can be locked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a refund height is from 1 to 499,999,999, this is {0}; larger lock times are Unix times")]
pub struct RefundHeightError(pub u32);

/// Why a refund does not respect the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeightLockError {
    /// The lock time is lower, so the refund could be mined too early; or it is a Unix time.
    #[error("the lock time is {found}, a refund needs a height from {needed} on")]
    LockTime {
        /// The transaction's lock time.
        found: u32,
        /// The refund height.
        needed: RefundHeight,
    },
    /// The sequence number makes the lock time void.
    #[error("the sequence number of input {0} is the final one, which makes the lock time void")]
    FinalSequence(usize),
    /// The transaction has no such input.
    #[error("the transaction has no input {0}")]
    NoInput(usize),
}

impl RefundHeight {
    /// The lowest. A lock time of 0 is none.
    pub const MIN: RefundHeight = RefundHeight(1);
    /// The highest: what is above is a time.
    pub const MAX: RefundHeight = RefundHeight(LOCK_TIME_IS_TIME - 1);

    /// A refund height.
    ///
    /// # Errors
    /// [`RefundHeightError`] out of the range.
    pub const fn new(height: u32) -> Result<Self, RefundHeightError> {
        if Self::MIN.0 <= height && height <= Self::MAX.0 {
            Ok(RefundHeight(height))
        } else {
            Err(RefundHeightError(height))
        }
    }

    /// The height as a number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The push of the height as a script writes it: 1 to 5 bytes.
    pub(super) fn push(self) -> Script {
        Script::builder().push_int(i64::from(self.0)).build()
    }

    /// The script of the lock: takes the preimage from the stack, or ends the script.
    pub(super) fn locking(self) -> Vec<u8> {
        [READ_LOCK_TIME.as_slice(), self.push().as_bytes(), &CHECK_BOUNDS].concat()
    }

    /// Reads exactly what [`RefundHeight::locking`] writes, and what comes after it.
    pub(super) fn strip(script: &[u8]) -> Option<(Self, &[u8])> {
        let script = script.strip_prefix(&READ_LOCK_TIME)?;
        let Some(Ok(Op::Push { data, .. })) = Ops::new(script).next() else { return None };
        let mut number = [0; 4];
        number.get_mut(..data.len())?.copy_from_slice(data);
        let height = RefundHeight::new(u32::from_le_bytes(number)).ok()?;
        // The same number has longer forms; only ours counts.
        let script = script.strip_prefix(height.push().as_bytes())?.strip_prefix(&CHECK_BOUNDS)?;
        Some((height, script))
    }

    /// Checks what the script checks, for the input at `index`.
    ///
    /// # Errors
    /// [`HeightLockError`].
    pub(super) fn verify(self, tx: &Transaction, index: usize) -> Result<(), HeightLockError> {
        let input = tx.inputs.get(index).ok_or(HeightLockError::NoInput(index))?;
        if input.sequence == SEQUENCE_FINAL {
            return Err(HeightLockError::FinalSequence(index));
        }
        match RefundHeight::new(tx.lock_time) {
            Ok(height) if height >= self => Ok(()),
            _ => Err(HeightLockError::LockTime { found: tx.lock_time, needed: self }),
        }
    }
}

impl TryFrom<u32> for RefundHeight {
    type Error = RefundHeightError;

    fn try_from(height: u32) -> Result<Self, Self::Error> {
        Self::new(height)
    }
}

impl From<RefundHeight> for u32 {
    fn from(height: RefundHeight) -> u32 {
        height.0
    }
}

impl fmt::Display for RefundHeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::OutPoint;
    use crate::tx::TxIn;

    /// Heights of every length of push, their edges often.
    pub(crate) fn any_height() -> impl Strategy<Value = RefundHeight> {
        let edges =
            vec![1, 16, 17, 127, 128, 255, 256, 32_767, 32_768, 8_388_607, 8_388_608, RefundHeight::MAX.0];
        prop_oneof![
            prop::sample::select(edges),
            1u32..=16,
            17u32..=127,
            128u32..=32_767,
            32_768u32..=8_388_607,
            8_388_608u32..=RefundHeight::MAX.0,
        ]
        .prop_map(|height| RefundHeight::new(height).unwrap())
    }

    #[test]
    fn heights_are_pushed_in_their_shortest_form() {
        let cases: [(u32, &[u8]); 9] = [
            (1, &[0x51]),
            (16, &[0x60]),
            (17, &[1, 17]),
            (127, &[1, 0x7f]),
            (128, &[2, 0x80, 0]),
            (170, &[2, 0xaa, 0]),
            (32_768, &[3, 0, 0x80, 0]),
            (8_388_608, &[4, 0, 0, 0x80, 0]),
            (499_999_999, &[4, 0xff, 0x64, 0xcd, 0x1d]),
        ];
        for (height, push) in cases {
            assert_eq!(RefundHeight::new(height).unwrap().push().as_bytes(), push, "{height}");
        }
    }

    #[test]
    fn the_lock_is_the_published_one() {
        let lock = RefundHeight::new(170).unwrap().locking();
        let published = "82012c947f77547f7c04ffffffff87916901207f77547f7501007e8102aa00040065cd1da569";
        assert_eq!(hex::encode(lock), published);
    }

    #[test]
    fn only_heights_are_heights() {
        for other in [0, 500_000_000, u32::MAX] {
            assert_eq!(RefundHeight::new(other), Err(RefundHeightError(other)));
            assert!(serde_json::from_str::<RefundHeight>(&other.to_string()).is_err());
        }
        assert_eq!(serde_json::from_str::<RefundHeight>("7").unwrap().get(), 7);
    }

    #[test]
    fn other_forms_of_a_height_are_not_read() {
        let pushes: [&[u8]; 11] = [
            &[0x00],
            &[0x4f],
            &[1, 5],
            &[1, 0x80],
            &[2, 17, 0],
            &[2, 0xaa, 0x80],
            &[1, 0xaa],
            &[0x4c, 1, 17],
            &[4, 0x00, 0x65, 0xcd, 0x1d],
            &[5, 1, 0, 0, 0, 1],
            &[0x76],
        ];
        for push in pushes {
            let script = [READ_LOCK_TIME.as_slice(), push, &CHECK_BOUNDS].concat();
            assert_eq!(RefundHeight::strip(&script), None, "{push:?}");
        }
    }

    #[test]
    fn both_guards_matter() {
        let lock = RefundHeight::new(170).unwrap();
        let verdict = |lock_time, sequence| {
            let mut tx = Transaction::new(vec![TxIn::new(OutPoint::default())], vec![]);
            (tx.lock_time, tx.inputs[0].sequence) = (lock_time, sequence);
            lock.verify(&tx, 0)
        };
        let wrong = |found| Err(HeightLockError::LockTime { found, needed: lock });
        assert_eq!(verdict(170, 0), Ok(()));
        assert_eq!(verdict(499_999_999, 0xffff_fffe), Ok(()));
        assert_eq!(verdict(169, 0), wrong(169));
        assert_eq!(verdict(0, 0), wrong(0));
        assert_eq!(verdict(500_000_000, 0), wrong(500_000_000));
        assert_eq!(verdict(1_000_000_000, 0), wrong(1_000_000_000));
        assert_eq!(verdict(170, SEQUENCE_FINAL), Err(HeightLockError::FinalSequence(0)));
        assert_eq!(lock.verify(&Transaction::default(), 0), Err(HeightLockError::NoInput(0)));
    }

    proptest! {
        #[test]
        fn locks_round_trip(height in any_height(), rest in prop::collection::vec(any::<u8>(), 0..9)) {
            let script = [height.locking(), rest.clone()].concat();
            prop_assert_eq!(RefundHeight::strip(&script), Some((height, rest.as_slice())));
            prop_assert_eq!(height.locking().len(), LOCK_OVERHEAD + height.push().len());
        }

        #[test]
        fn what_is_read_is_what_is_written(height in any_height(), at: prop::sample::Index, mask in 1u8..) {
            let mut script = height.locking();
            let at = at.index(script.len());
            script[at] ^= mask;
            if let Some((read, rest)) = RefundHeight::strip(&script) {
                prop_assert_eq!([read.locking().as_slice(), rest].concat(), script);
            }
        }
    }
}
