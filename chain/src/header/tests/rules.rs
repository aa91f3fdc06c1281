//! Difficulty and time: edges, real series, and two other implementations that must agree.

use super::super::rules::{Ancestor, CHECKPOINT_HEADERS, Window};
use super::*;

/// What the rules see of headers with these times and bits, the oldest first.
fn window(network: Network, rows: &[(u32, u32)]) -> Window {
    let mut work = Work::ZERO;
    let ancestors = rows.iter().map(|(time, bits)| {
        work = work.plus(Target::from_bits(*bits).unwrap().work());
        Ancestor { time: *time, bits: *bits, work }
    });
    let ancestors = ancestors.collect();
    Window::new(network, ancestors)
}

fn next_bits(network: Network, rows: &[(u32, u32)], time: u32) -> u32 {
    window(network, rows).required_bits(time).unwrap()
}

/// As many headers as a checkpoint needs, all of one difficulty and at one pace.
fn even(bits: u32, seconds: u32) -> Vec<(u32, u32)> {
    (0..CHECKPOINT_HEADERS as u32).map(|i| (1_600_000_000 + i * seconds, bits)).collect()
}

/// The rules once more, written from their description with numbers of single bits: nothing in it is shared with the
/// one that is tested.
mod naive {
    /// Bits, the lowest first.
    type Number = Vec<bool>;

    fn from(value: u64) -> Number {
        (0..64).map(|bit| value >> bit & 1 == 1).collect()
    }

    fn at(number: &Number, bit: usize) -> bool {
        number.get(bit).copied().unwrap_or(false)
    }

    fn less(a: &Number, b: &Number) -> bool {
        let length = a.len().max(b.len());
        (0..length).rev().find(|bit| at(a, *bit) != at(b, *bit)).is_some_and(|bit| at(b, bit))
    }

    fn add(a: &Number, b: &Number) -> Number {
        let mut carry = false;
        (0..=a.len().max(b.len()))
            .map(|bit| {
                let sum = u8::from(at(a, bit)) + u8::from(at(b, bit)) + u8::from(carry);
                carry = sum > 1;
                sum % 2 == 1
            })
            .collect()
    }

    fn subtract(a: &Number, b: &Number) -> Number {
        assert!(!less(a, b));
        let mut borrow = false;
        (0..a.len())
            .map(|bit| {
                let difference = i8::from(at(a, bit)) - i8::from(at(b, bit)) - i8::from(borrow);
                borrow = difference < 0;
                difference.rem_euclid(2) == 1
            })
            .collect()
    }

    fn shift(number: &Number, by: usize) -> Number {
        [vec![false; by], number.clone()].concat()
    }

    fn divide(a: &Number, b: &Number) -> Number {
        let mut rest: Number = Vec::new();
        let mut quotient = vec![false; a.len()];
        for bit in (0..a.len()).rev() {
            rest.insert(0, at(a, bit));
            while rest.last() == Some(&false) {
                rest.pop();
            }
            if !less(&rest, b) {
                rest = subtract(&rest, b);
                quotient[bit] = true;
            }
        }
        quotient
    }

    fn times(a: &Number, small: u64) -> Number {
        (0..64).filter(|bit| small >> bit & 1 == 1).fold(Vec::new(), |sum, bit| add(&sum, &shift(a, bit)))
    }

    fn target(bits: u32) -> Number {
        let mantissa = from(u64::from(bits & 0x007f_ffff));
        match (bits >> 24) as usize {
            exponent @ 3.. => shift(&mantissa, 8 * (exponent - 3)),
            exponent => mantissa[8 * (3 - exponent)..].to_vec(),
        }
    }

    fn compact(target: &Number) -> u32 {
        let bytes: Vec<u8> = target
            .chunks(8)
            .map(|bits| bits.iter().enumerate().map(|(i, bit)| u8::from(*bit) << i).sum())
            .collect();
        let mut size = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let byte =
            |index: isize| usize::try_from(index).ok().and_then(|i| bytes.get(i)).copied().unwrap_or(0);
        let top = size as isize;
        let mut mantissa = u32::from_be_bytes([0, byte(top - 1), byte(top - 2), byte(top - 3)]);
        if mantissa >= 0x0080_0000 {
            mantissa /= 256;
            size += 1;
        }
        (size as u32) << 24 | mantissa
    }

    fn power(exponent: usize) -> Number {
        shift(&from(1), exponent)
    }

    /// Of three, where the one with the middle time is after sorting as nodes sort.
    fn suitable(times: [u32; 3]) -> usize {
        let mut order = [0usize, 1, 2];
        for (a, b) in [(0, 2), (0, 1), (1, 2)] {
            if times[order[a]] > times[order[b]] {
                order.swap(a, b);
            }
        }
        order[1]
    }

    /// The bits after these headers, the oldest first.
    pub(super) fn next(rows: &[(u32, u32)]) -> u32 {
        let len = rows.len();
        let middle = |start: usize| start + suitable([rows[start].0, rows[start + 1].0, rows[start + 2].0]);
        let (first, last) = (middle(len - 147), middle(len - 3));
        let work = rows[first + 1..=last].iter().fold(Vec::new(), |sum, (_, bits)| {
            add(&sum, &divide(&power(256), &add(&target(*bits), &from(1))))
        });
        let elapsed = (i64::from(rows[last].0) - i64::from(rows[first].0)).clamp(72 * 600, 288 * 600);
        let work = divide(&times(&work, 600), &from(elapsed as u64));
        let found = divide(&subtract(&power(256), &work), &work);
        let limit = target(0x1d00_ffff);
        compact(if less(&limit, &found) { &limit } else { &found })
    }
}

/// Times and bits from a table `height,time,bits`.
fn series(table: &str) -> Vec<(u32, u32)> {
    let rows = table.lines().skip(1).map(|line| {
        let mut fields = line.split(',').skip(1);
        let time = fields.next().unwrap().parse().unwrap();
        (time, u32::from_str_radix(fields.next().unwrap(), 16).unwrap())
    });
    rows.collect()
}

/// How many headers of a series had enough before them, all of which have the bits that the rules ask for.
fn follows(network: Network, rows: &[(u32, u32)]) -> usize {
    let checked = rows.windows(CHECKPOINT_HEADERS + 1).map(|rows| {
        let ((time, bits), before) = rows.split_last().unwrap();
        assert_eq!(next_bits(network, before, *time), *bits, "time {time}");
    });
    checked.count()
}

#[test]
fn a_real_series_of_main_follows_the_rules() {
    // 544,120 to 544,320.
    let rows = series(include_str!("../../../tests/data/main-544120.csv"));
    assert_eq!(follows(Network::Main, &rows), 54);
}

#[test]
fn a_real_series_of_test_follows_the_rules_and_the_one_of_twenty_minutes() {
    // 1,200,001 to 1,200,343: almost only blocks of the lowest difficulty, until somebody mined in earnest.
    let rows = series(include_str!("../../../tests/data/test-1200001.csv"));
    assert_eq!(follows(Network::Test, &rows), 196);
    let easy = |(time, bits): &(u32, u32), last: u32| *bits == 0x1d00_ffff && *time > last + 1_200;
    let late = rows.windows(2).skip(CHECKPOINT_HEADERS - 1).filter(|pair| easy(&pair[1], pair[0].0)).count();
    let other = rows.iter().skip(CHECKPOINT_HEADERS).filter(|(_, bits)| *bits != 0x1d00_ffff).count();
    assert!(late > 10 && other > 10, "{late} {other}");
}

#[test]
fn the_difficulty_follows_the_pace_of_the_blocks() {
    let bits = 0x1807_1234;
    let target = Target::from_bits(bits).unwrap();
    let time = 1_700_000_000;
    let even_pace = Target::from_bits(next_bits(Network::Main, &even(bits, 600), time)).unwrap();
    // Rounding to the short form and of the division cost a little.
    assert!(even_pace <= target && even_pace.to_bits() >= bits - 1, "{:08x}", even_pace.to_bits());
    let slow = Target::from_bits(next_bits(Network::Main, &even(bits, 900), time)).unwrap();
    let fast = Target::from_bits(next_bits(Network::Main, &even(bits, 400), time)).unwrap();
    assert!(fast < target && target < slow);
    assert_eq!(window(Network::Main, &even(bits, 600)[1..]).required_bits(time), None);
}

#[test]
fn the_difficulty_at_most_doubles_or_halves() {
    let bits = |seconds| next_bits(Network::Main, &even(0x1807_1234, seconds), 1_700_000_000);
    // 144 blocks in the time of 72, in that of 288, and beside.
    for (edge, beyond, within) in
        [(300, 299, 301), (300, 0, 302), (1_200, 1_201, 1_199), (1_200, 60_000, 1_190)]
    {
        assert_eq!(bits(edge), bits(beyond));
        assert_ne!(bits(edge), bits(within));
    }
    let half = Target::from_bits(bits(300)).unwrap().work().0;
    let double = Target::from_bits(bits(1_200)).unwrap().work().0;
    assert!((half / double).low_u32().abs_diff(4) <= 1, "{half} {double}");
    // Also where the clocks of the miners run backwards.
    let rows: Vec<_> =
        even(0x1807_1234, 0).iter().zip(0..).map(|((time, bits), i)| (time - i, *bits)).collect();
    assert_eq!(next_bits(Network::Main, &rows, 1_700_000_000), bits(0));
}

#[test]
fn no_target_is_easier_than_the_limit_of_the_network() {
    assert_eq!(next_bits(Network::Main, &even(0x1d00_ffff, 6_000), 1_700_000_000), 0x1d00_ffff);
    assert_ne!(next_bits(Network::Main, &even(0x1d00_ffff, 500), 1_700_000_000), 0x1d00_ffff);
    for network in [Network::Main, Network::Test] {
        let mut window = window(network, &even(0x1d00_ffff, 6_000));
        // The bits of regtest, one step above the limit, far above what fits 256 bits, negative, nothing.
        for bits in [0x207f_ffff, 0x1d01_0000, 0xff7f_ffff, 0x2200_ffff, 0x1d80_ffff, 0x1d80_0000, 0] {
            let header = Header::new(4, BlockHash([0; 32]), [0; 32], 1_700_000_000, bits, 0);
            let hash = BlockHash([0; 32]);
            let refused = HeaderError::Bits { hash, expected: 0x1d00_ffff, found: bits };
            assert_eq!(window.take(&header, hash), Err(refused));
            assert!(!header.meets_target(network) && !header.meets_target_with(network, &hash), "{bits:08x}");
        }
        let header = Header::new(4, BlockHash([0; 32]), [0; 32], 1_700_000_000, 0x1d00_ffff, 0);
        assert_eq!(
            window.take(&header, BlockHash([255; 32])),
            Err(HeaderError::ProofOfWork(BlockHash([255; 32])))
        );
        assert!(window.take(&header, BlockHash([0; 32])).is_ok());
    }
}

#[test]
fn the_test_network_allows_an_easy_block_after_twenty_minutes() {
    let rows = even(0x1807_1234, 600);
    let last = rows.last().unwrap().0;
    assert_eq!(next_bits(Network::Test, &rows, last + 1_201), 0x1d00_ffff);
    assert_ne!(next_bits(Network::Test, &rows, last + 1_200), 0x1d00_ffff);
    assert_ne!(next_bits(Network::Test, &rows, last - 1_201), 0x1d00_ffff);
    assert_ne!(next_bits(Network::Main, &rows, last + 1_201), 0x1d00_ffff);
}

#[test]
fn a_header_is_later_than_the_median_of_eleven() {
    let times = [9, 1, 8, 2, 7, 3, 6, 4, 5, 11, 10].map(|minutes| 1_600_000_000 + minutes * 60);
    let rows = times.map(|time| (time, 0x207f_ffff));
    let take = |time: u32| {
        let header = Header::new(4, BlockHash([0; 32]), [0; 32], time, 0x207f_ffff, 0);
        window(Network::Regtest, &rows).take(&header, BlockHash([0; 32]))
    };
    let median = 1_600_000_000 + 6 * 60;
    assert_eq!(take(median), Err(HeaderError::TimeTooOld(BlockHash([0; 32]))));
    assert_eq!(take(median + 1).unwrap().to_string(), "24");
    // Earlier than its parent is no fault.
    assert!(take(times[10] - 1).is_ok());
    // Of an even number, as at the start of a chain, the later of both in the middle.
    let header = |time| Header::new(4, BlockHash([0; 32]), [0; 32], time, 0x207f_ffff, 0);
    let two = [(100, 0x207f_ffff), (200, 0x207f_ffff)];
    assert!(window(Network::Regtest, &two).take(&header(200), BlockHash([0; 32])).is_err());
    assert!(window(Network::Regtest, &two).take(&header(201), BlockHash([0; 32])).is_ok());
}

/// Headers with the given pauses and any difficulties.
fn any_history(pause: impl Strategy<Value = i64>) -> impl Strategy<Value = Vec<(u32, u32)>> {
    let bits =
        prop_oneof![Just(0x1807_1234u32), Just(0x1800_9645), Just(0x1d00_ffff), 0x1700_8000u32..0x1d00_ffff];
    prop::collection::vec((pause, bits), CHECKPOINT_HEADERS).prop_map(|steps| {
        let mut time = 1_600_000_000i64;
        let rows = steps.into_iter().map(|(pause, bits)| {
            // Mantissas with the sign bit are no targets.
            let bits = if bits & 0x0080_0000 != 0 && bits >> 24 < 0x1d {
                bits ^ 0x0080_0000 | 0x0000_8000
            } else {
                bits
            };
            time += pause;
            (time as u32, bits)
        });
        rows.collect()
    })
}

fn agree(rows: &[(u32, u32)], late: u32) -> Result<(), TestCaseError> {
    use bsv_rs::block::{ChainParams, HeaderLink, next_cash_work_required};
    let links = rows.iter().zip(900_000..).map(|((time, bits), height)| HeaderLink {
        height,
        time: *time,
        bits: *bits,
    });
    let links: Vec<_> = links.collect();
    let last = links.last().unwrap();
    let time = last.time + late;
    for (network, params) in [(Network::Main, ChainParams::main()), (Network::Test, ChainParams::test())] {
        let ours = next_bits(network, rows, time);
        prop_assert_eq!(ours, next_cash_work_required(&params, &links[..], last.height, time).unwrap());
        let easy = network == Network::Test && late > 1_200;
        prop_assert_eq!(ours, if easy { 0x1d00_ffff } else { naive::next(rows) });
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn three_implementations_agree(rows in any_history(-2_000i64..5_000), late in 0u32..3_000) {
        agree(&rows, late)?;
    }

    /// Where two of the three have the same time, which is taken shows in the work.
    #[test]
    fn three_implementations_agree_about_equal_times(rows in any_history(-1i64..2), late in 0u32..3_000) {
        agree(&rows, late)?;
    }
}
