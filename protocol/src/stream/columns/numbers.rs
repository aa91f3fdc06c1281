//! Columns of numbers, compressed with `pco`.
//!
//! Everything becomes 64 bit integers first. Sensors print decimal numbers, and their doubles look random: 23.7 and 23.8
//! differ in 48 bits. So a column of floats is tried as decimals n / 10^e, which is exact wherever a number was printed with so
//! many digits (a quotient of two integers below 2^53 and 10^22 is correctly rounded, and so is what was parsed), and a
//! number that is not is still exact: the steps between it and n / 10^e, in units of the last place, are kept beside n.
//!
//! `pco` trusts its input more than we may, so [`guard`] walks the metadata first.

mod guard;

use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec, ModeSpec};

use super::ColumnsError;
use super::bytes::{Cursor, write_varint};

const VARINTS: u8 = 0;
const PCO: u8 = 1;

const BITS: u8 = 0;
const DECIMAL: u8 = 1;

const NO_ULPS: u8 = 0;
const ULPS: u8 = 1;

/// The header that `pco` would put before each chunk: its format version. All of our columns have the same one, so
/// it is not repeated in them.
const PCO_FORMAT: [u8; 2] = [4, 1];

/// What we tell `pco` of effort (0 to 12): higher levels gained nothing on runs of 1024.
const PCO_LEVEL: usize = 8;

/// Highest order of differences that is tried: 0 for noise, 1 for what drifts, 2 for what grows evenly (times).
const MAX_DELTA_ORDER: usize = 2;

/// The powers of ten that are exact in a double.
const POWERS_OF_TEN: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Up to this exponent a column that is decimals, all of it, was printed so. Above it, numbers of another kind are decimals, too: those of a 24 bit
/// device, widened, whose bits have a common factor.
const MAX_PRINTED: u8 = 9;

/// Above this not every integer is a double.
const MAX_EXACT_INT: f64 = (1_u64 << 53) as f64;

/// Writes integers, the shorter of the two ways.
pub(super) fn write_ints(ints: &[i64], out: &mut Vec<u8>) {
    let mut varints = vec![VARINTS];
    let mut previous = 0_i64;
    for int in ints {
        write_varint(zigzag(int.wrapping_sub(previous)), &mut varints);
        previous = *int;
    }
    // pco's metadata alone takes more than this.
    const PCO_MIN_LEN: usize = 24;
    let compressed = if varints.len() > PCO_MIN_LEN { compress(ints) } else { None };
    match compressed {
        Some(bytes) if bytes.len() + 2 < varints.len() => {
            out.push(PCO);
            write_varint(bytes.len() as u64, out);
            out.extend(bytes);
        }
        _ => out.extend(varints),
    }
}

/// Reads `count` integers.
pub(super) fn read_ints(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<i64>, ColumnsError> {
    match cursor.byte()? {
        VARINTS => {
            let mut previous = 0_i64;
            (0..count)
                .map(|_| {
                    previous = previous.wrapping_add(unzigzag(cursor.varint()?));
                    Ok(previous)
                })
                .collect()
        }
        PCO => {
            let len = cursor.len()?;
            decompress(cursor.take(len)?, count)
        }
        _ => Err(ColumnsError::Damaged { what: "unknown encoding of integers" }),
    }
}

/// Writes floats, the shortest of the ways that are promising.
pub(super) fn write_floats(floats: &[f64], out: &mut Vec<u8>) {
    let (exponents, is_printed) = promising_exponents(floats);
    let decimals = exponents.into_iter().map(|exponent| {
        let mut decimal = vec![DECIMAL, exponent];
        write_decimal(floats, exponent, &mut decimal);
        decimal
    });
    // The bits of what was printed with so many digits look random: they are not worth trying.
    let bits = (!is_printed).then(|| {
        let mut bits = vec![BITS];
        write_ints(&floats.iter().map(|float| ordered(*float)).collect::<Vec<_>>(), &mut bits);
        bits
    });
    out.extend(bits.into_iter().chain(decimals).min_by_key(Vec::len).unwrap_or_default());
}

fn write_decimal(floats: &[f64], exponent: u8, out: &mut Vec<u8>) {
    let power = power_of_ten(exponent);
    let (ints, ulps): (Vec<i64>, Vec<i64>) = floats
        .iter()
        .map(|float| {
            let int = decimal(*float, power);
            (int, ordered(*float).wrapping_sub(ordered(quotient(int, power))))
        })
        .unzip();
    write_ints(&ints, out);
    if ulps.iter().all(|ulps| *ulps == 0) {
        out.push(NO_ULPS);
    } else {
        out.push(ULPS);
        write_ints(&ulps, out);
    }
}

/// Reads `count` floats. They may be any bits; the schema's check refuses what is not finite.
pub(super) fn read_floats(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<f64>, ColumnsError> {
    match cursor.byte()? {
        BITS => Ok(read_ints(cursor, count)?.into_iter().map(unordered).collect()),
        DECIMAL => {
            let exponent = cursor.byte()?;
            if usize::from(exponent) >= POWERS_OF_TEN.len() {
                return Err(ColumnsError::Damaged { what: "a decimal exponent is too large" });
            }
            let power = power_of_ten(exponent);
            let ints = read_ints(cursor, count)?;
            let floats = ints.into_iter().map(|int| quotient(int, power));
            match cursor.byte()? {
                NO_ULPS => Ok(floats.collect()),
                ULPS => {
                    let ulps = read_ints(cursor, count)?;
                    let moved =
                        floats.zip(ulps).map(|(float, ulps)| unordered(ordered(float).wrapping_add(ulps)));
                    Ok(moved.collect())
                }
                _ => Err(ColumnsError::Damaged { what: "unknown encoding of steps" }),
            }
        }
        _ => Err(ColumnsError::Damaged { what: "unknown encoding of floats" }),
    }
}

/// Exponents worth trying: the smallest that is exact for some, for most, and for as many numbers as any is; and whether the numbers were printed with so many digits.
fn promising_exponents(floats: &[f64]) -> (Vec<u8>, bool) {
    let mut exact = Vec::with_capacity(POWERS_OF_TEN.len());
    for power in POWERS_OF_TEN {
        let is_exact = |float: &&f64| quotient(decimal(**float, power), power).to_bits() == float.to_bits();
        exact.push(floats.iter().filter(is_exact).count());
        // None can be exact for more.
        if exact.last() == Some(&floats.len()) {
            break;
        }
    }
    let most = exact.iter().copied().max().unwrap_or(0);
    let mut exponents: Vec<u8> = [floats.len() / 2, floats.len() * 9 / 10, most]
        .into_iter()
        .filter_map(|enough| (0..).zip(&exact).find(|(_, exact)| **exact > 0 && **exact >= enough))
        .map(|(exponent, _)| exponent)
        .collect();
    exponents.dedup();
    let is_printed =
        most == floats.len() && exponents.last().is_some_and(|exponent| *exponent <= MAX_PRINTED);
    (exponents, is_printed)
}

/// The integer n for which n / 10^e is nearest to the number; 0 where n would not be exact.
#[expect(clippy::cast_possible_truncation, reason = "below 2^53")]
fn decimal(float: f64, power: f64) -> i64 {
    let scaled = float * power;
    if scaled.abs() < MAX_EXACT_INT { scaled.round() as i64 } else { 0 }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "beyond 2^53 the steps make up for it, in both directions alike"
)]
fn quotient(int: i64, power: f64) -> f64 {
    int as f64 / power
}

fn power_of_ten(exponent: u8) -> f64 {
    POWERS_OF_TEN.get(usize::from(exponent)).copied().unwrap_or(1.0)
}

/// The bits of a float as an integer of the same order; neighbours differ by one.
const fn ordered(float: f64) -> i64 {
    let bits = float.to_bits().cast_signed();
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

/// The inverse of [`ordered`].
const fn unordered(int: i64) -> f64 {
    f64::from_bits((int ^ ((int >> 63).cast_unsigned() >> 1).cast_signed()).cast_unsigned())
}

const fn zigzag(int: i64) -> u64 {
    ((int << 1) ^ (int >> 63)).cast_unsigned()
}

const fn unzigzag(int: u64) -> i64 {
    (int >> 1).cast_signed() ^ -((int & 1).cast_signed())
}

/// `None` where `pco` fails or writes what we would not read; the caller has another way.
fn compress(ints: &[i64]) -> Option<Vec<u8>> {
    let config = ChunkConfig::default()
        .with_compression_level(PCO_LEVEL)
        .with_mode_spec(ModeSpec::Auto)
        .with_delta_spec(DeltaSpec::TryConsecutive(best_delta_order(ints)));
    let mut compressor = FileCompressor::default().chunk_compressor(ints, &config).ok()?;
    let bytes = compressor.write_meta(Vec::new()).ok()?;
    let bytes = compressor.write_page(0, bytes).ok()?;
    guard::check(&bytes).ok()?;
    Some(bytes)
}

fn decompress(bytes: &[u8], count: usize) -> Result<Vec<i64>, ColumnsError> {
    guard::check(bytes)?;
    let damaged = |_| ColumnsError::Damaged { what: "pco refuses a column" };
    let (file, _) = FileDecompressor::new(PCO_FORMAT.as_slice()).map_err(damaged)?;
    let (mut chunk, page) = file.chunk_decompressor::<i64, _>(bytes).map_err(damaged)?;
    let mut page = chunk.page_decompressor(page, count).map_err(damaged)?;
    let mut ints = vec![0; count];
    let progress = page.read(&mut ints).map_err(damaged)?;
    if progress.n_processed != count || !progress.finished || !page.into_src().is_empty() {
        return Err(ColumnsError::Damaged { what: "a column has another length than the run" });
    }
    Ok(ints)
}

/// The order of differences that leaves the fewest bits.
fn best_delta_order(ints: &[i64]) -> usize {
    let mut deltas = ints.to_vec();
    let mut best = (0, u64::MAX);
    for order in 0..=MAX_DELTA_ORDER {
        if order > 0 {
            deltas = deltas
                .windows(2)
                .filter_map(|pair| Some(pair.last()?.wrapping_sub(*pair.first()?)))
                .collect();
        }
        let Some(spread) = spread(&deltas) else { break };
        if spread < best.1 {
            best = (order, spread);
        }
    }
    best.0
}

/// How many bits it takes to tell the numbers apart from their median.
fn spread(ints: &[i64]) -> Option<u64> {
    let mut sorted = ints.to_vec();
    let middle = sorted.len() / 2;
    let (_, median, _) = (middle < sorted.len()).then(|| sorted.select_nth_unstable(middle))?;
    let median = *median;
    Some(ints.iter().map(|int| u64::from(u64::BITS - int.abs_diff(median).leading_zeros())).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip_ints(ints: &[i64]) -> usize {
        let mut out = Vec::new();
        write_ints(ints, &mut out);
        let mut cursor = Cursor::new(&out);
        assert_eq!(read_ints(&mut cursor, ints.len()).unwrap(), ints);
        assert_eq!(cursor.left(), 0);
        out.len()
    }

    fn round_trip_floats(floats: &[f64]) -> usize {
        let mut out = Vec::new();
        write_floats(floats, &mut out);
        let mut cursor = Cursor::new(&out);
        let back = read_floats(&mut cursor, floats.len()).unwrap();
        assert!(back.iter().zip(floats).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert_eq!(cursor.left(), 0);
        out.len()
    }

    #[test]
    fn the_format_version_is_the_one_pco_writes() {
        assert_eq!(FileCompressor::default().write_header(Vec::new()).unwrap(), PCO_FORMAT);
    }

    #[test]
    fn regular_times_take_almost_nothing() {
        let times: Vec<i64> = (0..1024).map(|i| 1_386_018_900_000_000_000 + i * 300_000_000_000).collect();
        assert!(round_trip_ints(&times) < 64);
    }

    #[test]
    fn extreme_integers_come_back() {
        round_trip_ints(&[i64::MIN, i64::MAX, 0, -1, 1, i64::MAX, i64::MIN]);
        round_trip_ints(&(0..1024).map(|i: i64| i.wrapping_mul(0x1234_5678_9abc_def1)).collect::<Vec<_>>());
        round_trip_ints(&[7; 1024]);
        round_trip_ints(&[7]);
    }

    #[test]
    fn decimals_take_the_bits_of_their_digits() {
        let floats: Vec<f64> = (0..1024).map(|i| f64::from(200 + (i * 7919) % 64) / 10.0).collect();
        let len = round_trip_floats(&floats);
        assert!(len < 1024 * 6 / 8 + 96, "{len} bytes for 1024 values of 6 bits");
    }

    #[test]
    fn widened_singles_take_the_bits_of_a_single() {
        // Singles from 64 to 90: all of them are decimals of fourteen digits, too.
        let mixed = |i: u32| (i.wrapping_mul(0x9e37_79b9) ^ (i << 7)).wrapping_pow(3) >> 9;
        let single = |i: u32| f32::from_bits(0x4280_0000 + mixed(i) % 3_400_000);
        let floats: Vec<f64> = (0..1024).map(|i| f64::from(single(i))).collect();
        assert!(floats.iter().all(|float| *float < 90.0));
        let len = round_trip_floats(&floats);
        assert!(len < 1024 * 24 / 8 + 96, "{len} bytes for 1024 singles");
    }

    #[test]
    fn every_finite_float_comes_back() {
        let special =
            [0.0, -0.0, f64::MIN, f64::MAX, f64::MIN_POSITIVE, 5e-324, -5e-324, 0.1, -0.1, 1e300, 23.7];
        round_trip_floats(&special);
        let mixed: Vec<f64> =
            (0..1024).map(|i| if i % 10 == 0 { special[i % 11] } else { i as f64 / 8.0 }).collect();
        round_trip_floats(&mixed);
    }

    #[test]
    fn order_is_kept_by_the_mapping() {
        let rising = [f64::MIN, -1.0, -5e-324, -0.0, 0.0, 5e-324, 1.0, f64::MAX];
        assert!(rising.windows(2).all(|pair| ordered(pair[0]) < ordered(pair[1])));
        assert_eq!(ordered(0.0) - ordered(-0.0), 1);
        assert!(rising.iter().all(|float| unordered(ordered(*float)).to_bits() == float.to_bits()));
    }
}
