//! Targets and work: 256-bit numbers, kept apart so that the larger-is-harder and the smaller-is-harder are not mixed.

use std::fmt;

use crate::id::BlockHash;
use crate::network::Network;

mod wide {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::manual_div_ceil,
        reason = "the type is written by a macro and stays inside `work`"
    )]
    uint::construct_uint! {
        pub struct U256(4);
    }
}
pub(super) use wide::U256;

/// The number that a block's hash must not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target(U256);

impl Target {
    /// The target in a header's short form: one byte of exponent, three of mantissa. `None` if it is zero, negative,
    /// or does not fit 256 bits.
    pub fn from_bits(bits: u32) -> Option<Self> {
        let exponent = bits >> 24;
        let mantissa = bits & 0x007f_ffff;
        if mantissa == 0 || bits & 0x0080_0000 != 0 {
            return None;
        }
        let target = if exponent <= 3 {
            U256::from(mantissa >> 3u32.saturating_sub(exponent).saturating_mul(8))
        } else {
            let shift = exponent.saturating_sub(3).saturating_mul(8);
            let length = u32::BITS.saturating_sub(mantissa.leading_zeros());
            if shift.saturating_add(length) > 256 {
                return None;
            }
            U256::from(mantissa) << shift
        };
        if target.is_zero() { None } else { Some(Target(target)) }
    }

    /// The short form; what does not fit three bytes of mantissa is rounded down.
    pub fn to_bits(self) -> u32 {
        let mut size = u32::try_from(self.0.bits().div_ceil(8)).unwrap_or(0);
        let mut mantissa = if size <= 3 {
            self.0.low_u32() << 3u32.saturating_sub(size).saturating_mul(8)
        } else {
            (self.0 >> size.saturating_sub(3).saturating_mul(8)).low_u32()
        };
        if mantissa & 0x0080_0000 != 0 {
            // The bit would mean a negative number.
            mantissa >>= 8;
            size = size.saturating_add(1);
        }
        mantissa | (size << 24)
    }

    /// The easiest target that a network allows.
    pub fn limit(network: Network) -> Self {
        let shift = match network {
            Network::Main | Network::Test => 32,
            Network::Regtest => 1,
        };
        Target(U256::max_value() >> shift)
    }

    /// Whether a block with this hash meets the target.
    pub fn is_met_by(&self, hash: &BlockHash) -> bool {
        U256::from_little_endian(&hash.0) <= self.0
    }

    /// The expected number of hashes to meet the target: 2²⁵⁶ / (target + 1).
    pub fn work(&self) -> Work {
        // 2^256 does not fit, but 2^256 - (target + 1) = !target does; the quotient is smaller by one.
        let divisor = self.0.saturating_add(U256::one());
        let quotient = (!self.0).checked_div(divisor).unwrap_or_default();
        Work(quotient.saturating_add(U256::one()))
    }

    /// The target that `work` hashes meet once on average: (2²⁵⁶ − work) / work.
    pub(super) fn for_work(work: U256) -> Option<Self> {
        let (negated, _) = work.overflowing_neg();
        negated.checked_div(work).map(Target)
    }
}

/// An amount of work: the expected number of hashes that were tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Work(pub(super) U256);

impl Work {
    /// None.
    pub const ZERO: Work = Work(U256::zero());

    /// Both together. All work there will ever be is far below 2²⁵⁶.
    #[must_use]
    pub fn plus(self, other: Work) -> Work {
        Work(self.0.saturating_add(other.0))
    }

    /// 32 bytes, big-endian.
    pub fn to_be_bytes(self) -> [u8; 32] {
        self.0.to_big_endian()
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
