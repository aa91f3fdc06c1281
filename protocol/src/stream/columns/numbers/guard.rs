//! Bounds on what a stranger's `pco` metadata may ask for, before `pco` sees it.
//!
//! `pco` 1.1 checks that what it reads is consistent, but allocates for some of it first: up to 256 MiB for a dictionary, 128
//! MiB for a lookback window, and tables of 2^14 states. A run has at most 1024 numbers, for which its encoder needs none of
//! that. So the metadata is walked as its format (4.1) lays it out, least significant bit first, and must be:
//!
//! | bits | what | accepted |
//! |---|---|---|
//! | 4 | mode | 0 classic, or 1 integer multiple (64 bits of base follow) |
//! | 4 | delta encoding | 0 none, or 1 consecutive (3 bits of order, 1 to 7, and 1 bit for the secondary follow) |
//! | 4 | log2 of the states | at most 10 for each latent variable: the numbers, and for mode 1 the remainders |
//! | 15 | bins | no more than there are states; each has its weight, 64 bits of bound, 7 bits of width |

use super::ColumnsError;

/// Largest log2 of the number of states: the encoder has no more states than numbers.
const MAX_STATES_LOG: u32 = 10;

const CLASSIC: u64 = 0;
const INT_MULT: u64 = 1;

const NO_DELTA: u64 = 0;
const CONSECUTIVE: u64 = 1;

/// Bits of a bin beside its weight: lower bound and offset width of a 64 bit number.
const BIN_BITS: usize = 64 + 7;

/// Checks that the metadata asks for no more than a run needs.
pub(super) fn check(bytes: &[u8]) -> Result<(), ColumnsError> {
    let mut bits = Bits { bytes, at: 0 };
    let latent_variables = match bits.take(4)? {
        CLASSIC => 1,
        INT_MULT => {
            bits.skip(64)?;
            2
        }
        _ => return Err(ColumnsError::Damaged { what: "a pco mode that is not used here" }),
    };
    match bits.take(4)? {
        NO_DELTA => {}
        CONSECUTIVE => bits.skip(4)?,
        _ => return Err(ColumnsError::Damaged { what: "a pco delta encoding that is not used here" }),
    }
    for _ in 0..latent_variables {
        let states_log = bits.take(4)?;
        let bins = bits.take(15)?;
        if states_log > u64::from(MAX_STATES_LOG) || bins > 1 << states_log {
            return Err(ColumnsError::Damaged { what: "more pco bins or states than a run has numbers" });
        }
        // Both are at most 1024 here.
        let (states_log, bins) = (usize::try_from(states_log), usize::try_from(bins));
        let (Ok(states_log), Ok(bins)) = (states_log, bins) else { return Err(ColumnsError::Truncated) };
        bits.skip(bins * (states_log + BIN_BITS))?;
    }
    Ok(())
}

/// Reads bits, the least significant of each byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// The next `count` bits, at most 16.
    fn take(&mut self, count: usize) -> Result<u64, ColumnsError> {
        let window = self.bytes.get(self.at / 8..).ok_or(ColumnsError::Truncated)?;
        if window.len().saturating_mul(8) < self.at % 8 + count {
            return Err(ColumnsError::Truncated);
        }
        let word = window.iter().take(4).rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let taken = word >> (self.at % 8) & ((1 << count) - 1);
        self.at += count;
        Ok(taken)
    }

    fn skip(&mut self, count: usize) -> Result<(), ColumnsError> {
        self.at = self.at.checked_add(count).ok_or(ColumnsError::Truncated)?;
        if self.at > self.bytes.len().saturating_mul(8) { Err(ColumnsError::Truncated) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use pco::wrapped::FileCompressor;
    use pco::{ChunkConfig, DeltaSpec, ModeSpec};

    use super::*;

    fn compressed(config: &ChunkConfig) -> Vec<u8> {
        let numbers: Vec<i64> = (0..1024).map(|i| 7 * ((i * i * 31) % 1009) + i % 3).collect();
        let mut compressor = FileCompressor::default().chunk_compressor(&numbers, config).unwrap();
        let bytes = compressor.write_meta(Vec::new()).unwrap();
        compressor.write_page(0, bytes).unwrap()
    }

    #[test]
    fn what_the_encoder_uses_passes() {
        for level in [0, 8, 12] {
            for order in 0..=7 {
                for mode in [ModeSpec::Auto, ModeSpec::Classic, ModeSpec::TryIntMult(7)] {
                    let config = ChunkConfig::default()
                        .with_compression_level(level)
                        .with_mode_spec(mode)
                        .with_delta_spec(DeltaSpec::TryConsecutive(order));
                    assert_eq!(check(&compressed(&config)), Ok(()));
                }
            }
        }
    }

    #[test]
    fn modes_that_allocate_on_a_strangers_word_are_refused() {
        let lookback = ChunkConfig::default().with_delta_spec(DeltaSpec::TryLookback);
        assert!(check(&compressed(&lookback)).is_err());
        // A dictionary of 2^25 - 1 numbers.
        assert!(check(&[4 | 0xf0, 0xff, 0xff, 0x1f]).is_err());
        // 2^14 states.
        assert!(check(&[0, 14 | 0x20, 0, 0, 0, 0, 0, 0]).is_err());
        assert_eq!(check(&[]), Err(ColumnsError::Truncated));
        // 1024 bins, and no bytes for them.
        assert_eq!(check(&[0, 10, 0x40, 0, 0]), Err(ColumnsError::Truncated));
    }
}
