//! The one encoding of everything peers say: deterministic CBOR (RFC 8949 §4.2), refused when it is anything else.
//!
//! There is exactly one byte string for each value, so that a hash or a signature over the bytes is a hash or a signature over
//! the value: what peers say is read with [`decode_exact`], which refuses everything that [`encode`] would not have written,
//! keys that the type does not have among it. Types are ordinary serde types; [`encode`] puts their map keys in order, [`decode`] walks the bytes once
//! before serde sees them and refuses: indefinite lengths, non-minimal heads, unsorted or repeated keys, tags, half and single
//! floats (floats are always 64 bit, the choice RFC 8949 §4.2.2 leaves to the protocol), simple values other than false,
//! true and null, invalid UTF-8, too much depth and trailing bytes.
//!
//! Nothing is allocated on the word of a length field: a declared length is first compared with the bytes that are there.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Deepest nesting of arrays and maps that is read.
pub const MAX_DEPTH: usize = 16;

/// Largest frame on the wire, in bytes. A whole chunk of readings of the greatest length fits.
pub const MAX_FRAME: usize = 1 << 20;

/// Why bytes are not a value of the expected type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// More bytes than this kind of message may have.
    #[error("message of {len} bytes is over the limit of {max} bytes")]
    TooLong {
        /// Length that was received.
        len: usize,
        /// Longest length that is accepted.
        max: usize,
    },
    /// The bytes end inside an item.
    #[error("CBOR ends early at byte {at}")]
    Truncated {
        /// Offset at which more bytes were needed.
        at: usize,
    },
    /// Well-formed, but not the one deterministic encoding.
    #[error("CBOR is not deterministic at byte {at}: {rule}")]
    NotDeterministic {
        /// Offset of the offending item.
        at: usize,
        /// The rule of RFC 8949 §4.2 that is broken.
        rule: &'static str,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("CBOR is nested deeper than {MAX_DEPTH} levels at byte {at}")]
    TooDeep {
        /// Offset of the item that goes too deep.
        at: usize,
    },
    /// Bytes after the value.
    #[error("{extra} bytes follow the CBOR value")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// Deterministic CBOR, but not of the expected type.
    #[error("not a valid {what}: {reason}")]
    Type {
        /// The expected Rust type.
        what: &'static str,
        /// What serde says.
        reason: String,
    },
}

/// Encodes `value` as deterministic CBOR.
///
/// # Errors
/// Only when the value's own `Serialize` fails or it is nested deeper than [`MAX_DEPTH`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let unsorted = cbor4ii::serde::to_vec(Vec::new(), value)
        .map_err(|e| CodecError::Type { what: std::any::type_name::<T>(), reason: e.to_string() })?;
    let mut sorted = Vec::with_capacity(unsorted.len());
    let end = sort_item(&unsorted, 0, 0, &mut sorted)?;
    debug_assert_eq!(end, unsorted.len(), "serde wrote one item");
    Ok(sorted)
}

/// Decodes exactly one value of at most `max_len` bytes, refusing everything but the deterministic encoding.
///
/// # Errors
/// [`CodecError`] names the first rule that is broken and where.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], max_len: usize) -> Result<T, CodecError> {
    check(bytes, max_len)?;
    cbor4ii::serde::from_slice(bytes)
        .map_err(|e| CodecError::Type { what: std::any::type_name::<T>(), reason: e.to_string() })
}

/// As [`decode`], and the bytes must be the ones that [`encode`] gives for the value.
///
/// serde skips map keys that a type does not have, takes a missing key for `null`, and reads the alternatives of an enum more than one
/// way. Each would be a second spelling of the same value with another hash: a second name for the same order.
///
/// # Errors
/// [`CodecError`] names the first rule that is broken.
pub fn decode_exact<T: Serialize + DeserializeOwned>(bytes: &[u8], max_len: usize) -> Result<T, CodecError> {
    let value = decode::<T>(bytes, max_len)?;
    let written = encode(&value)?;
    if written == bytes {
        return Ok(value);
    }
    let at = written.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(written.len().min(bytes.len()));
    Err(CodecError::NotDeterministic { at, rule: "exactly the keys of its type, each written one way" })
}

/// Checks that `bytes` are one deterministic CBOR item of at most `max_len` bytes.
///
/// # Errors
/// As for [`decode`].
pub fn check(bytes: &[u8], max_len: usize) -> Result<(), CodecError> {
    if bytes.len() > max_len {
        return Err(CodecError::TooLong { len: bytes.len(), max: max_len });
    }
    let end = check_item(bytes, 0, 0)?;
    match bytes.len().saturating_sub(end) {
        0 => Ok(()),
        extra => Err(CodecError::Trailing { extra }),
    }
}

/// Major types of RFC 8949 §3.1 that this protocol uses.
mod major {
    pub(super) const UNSIGNED: u8 = 0;
    pub(super) const NEGATIVE: u8 = 1;
    pub(super) const BYTES: u8 = 2;
    pub(super) const TEXT: u8 = 3;
    pub(super) const ARRAY: u8 = 4;
    pub(super) const MAP: u8 = 5;
    pub(super) const SIMPLE: u8 = 7;
}

/// Head of an item: major type, additional information, argument, and where the content begins.
struct Head {
    major: u8,
    info: u8,
    argument: u64,
    content: usize,
}

fn head(bytes: &[u8], at: usize) -> Result<Head, CodecError> {
    let truncated = CodecError::Truncated { at: bytes.len() };
    let first = *bytes.get(at).ok_or(truncated.clone())?;
    let (major, info) = (first >> 5, first & 0x1f);
    let width = match info {
        0..=23 => 0_usize,
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        31 => return Err(CodecError::NotDeterministic { at, rule: "indefinite length" }),
        _ => return Err(CodecError::NotDeterministic { at, rule: "reserved additional information" }),
    };
    let start = at.saturating_add(1);
    let content = start.saturating_add(width);
    let argument = if width == 0 {
        u64::from(info)
    } else {
        let raw = bytes.get(start..content).ok_or(truncated)?;
        raw.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
    };
    Ok(Head { major, info, argument, content })
}

impl Head {
    /// The shortest head for the argument (floats and simple values have rules of their own).
    fn is_minimal(&self) -> bool {
        match self.info {
            24 => self.argument >= 24,
            25 => self.argument > u64::from(u8::MAX),
            26 => self.argument > u64::from(u16::MAX),
            27 => self.argument > u64::from(u32::MAX),
            _ => true,
        }
    }
}

/// End of a string of `len` bytes that starts at `start`, or where the input is too short.
fn string_end(bytes: &[u8], start: usize, len: u64) -> Result<usize, CodecError> {
    let truncated = CodecError::Truncated { at: bytes.len() };
    let len = usize::try_from(len).map_err(|_| truncated.clone())?;
    start.checked_add(len).filter(|end| *end <= bytes.len()).ok_or(truncated)
}

fn check_item(bytes: &[u8], at: usize, depth: usize) -> Result<usize, CodecError> {
    let head = head(bytes, at)?;
    if head.major == major::SIMPLE {
        return match head.info {
            20..=22 => Ok(head.content),
            27 => Ok(head.content),
            25 | 26 => Err(CodecError::NotDeterministic { at, rule: "floats are 64 bit" }),
            _ => Err(CodecError::NotDeterministic { at, rule: "only false, true and null are used" }),
        };
    }
    if !head.is_minimal() {
        return Err(CodecError::NotDeterministic { at, rule: "shortest form of integers and lengths" });
    }
    match head.major {
        major::UNSIGNED | major::NEGATIVE => Ok(head.content),
        major::BYTES => string_end(bytes, head.content, head.argument),
        major::TEXT => {
            let end = string_end(bytes, head.content, head.argument)?;
            let text = bytes.get(head.content..end).unwrap_or_default();
            match std::str::from_utf8(text) {
                Ok(_) => Ok(end),
                Err(_) => Err(CodecError::NotDeterministic { at, rule: "text is UTF-8" }),
            }
        }
        major::ARRAY | major::MAP => {
            if depth >= MAX_DEPTH {
                return Err(CodecError::TooDeep { at });
            }
            let mut position = head.content;
            let mut previous_key: Option<&[u8]> = None;
            // A false count ends with `Truncated`: each turn reads at least one byte.
            for _ in 0..head.argument {
                if head.major == major::MAP {
                    let key_end = check_item(bytes, position, depth + 1)?;
                    let key = bytes.get(position..key_end).unwrap_or_default();
                    if previous_key.is_some_and(|previous| previous >= key) {
                        let rule = "map keys are sorted and unique";
                        return Err(CodecError::NotDeterministic { at: position, rule });
                    }
                    previous_key = Some(key);
                    position = key_end;
                }
                position = check_item(bytes, position, depth + 1)?;
            }
            Ok(position)
        }
        _ => Err(CodecError::NotDeterministic { at, rule: "tags are not used" }),
    }
}

/// Where the item at `at` ends.
fn item_end(bytes: &[u8], at: usize, depth: usize) -> Result<usize, CodecError> {
    if depth > MAX_DEPTH {
        return Err(CodecError::TooDeep { at });
    }
    let head = head(bytes, at)?;
    let items = match head.major {
        major::BYTES | major::TEXT => return string_end(bytes, head.content, head.argument),
        major::ARRAY => head.argument,
        major::MAP => head.argument.saturating_mul(2),
        _ => 0,
    };
    (0..items).try_fold(head.content, |position, _| item_end(bytes, position, depth + 1))
}

/// Copies the item at `at` to `out` with the keys of every map in bytewise order; returns where the item ends.
fn sort_item(bytes: &[u8], at: usize, depth: usize, out: &mut Vec<u8>) -> Result<usize, CodecError> {
    if depth > MAX_DEPTH {
        return Err(CodecError::TooDeep { at });
    }
    let head = head(bytes, at)?;
    let copy = |from: usize, to: usize, out: &mut Vec<u8>| {
        out.extend_from_slice(bytes.get(from..to).unwrap_or_default());
    };
    match head.major {
        major::BYTES | major::TEXT => {
            let end = string_end(bytes, head.content, head.argument)?;
            copy(at, end, out);
            Ok(end)
        }
        major::ARRAY => {
            copy(at, head.content, out);
            let mut position = head.content;
            for _ in 0..head.argument {
                position = sort_item(bytes, position, depth + 1, out)?;
            }
            Ok(position)
        }
        major::MAP => {
            copy(at, head.content, out);
            let mut position = head.content;
            // Values may be long: they are passed over, and copied once, where they belong.
            let mut entries: Vec<(Vec<u8>, usize)> = Vec::new();
            for _ in 0..head.argument {
                let mut key = Vec::new();
                let value = sort_item(bytes, position, depth + 1, &mut key)?;
                position = item_end(bytes, value, depth + 1)?;
                entries.push((key, value));
            }
            entries.sort();
            for (key, value) in entries {
                out.extend_from_slice(&key);
                sort_item(bytes, value, depth + 1, out)?;
            }
            Ok(position)
        }
        _ => {
            copy(at, head.content, out);
            Ok(head.content)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        zeta: u64,
        a: Option<i64>,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        map: BTreeMap<String, f64>,
        list: Vec<bool>,
    }

    fn sample() -> impl Strategy<Value = Sample> {
        (
            any::<u64>(),
            any::<Option<i64>>(),
            any::<Vec<u8>>(),
            proptest::collection::btree_map(".{0,6}", -1e9..1e9, 0..5),
            any::<Vec<bool>>(),
        )
            .prop_map(|(zeta, a, bytes, map, list)| Sample { zeta, a, bytes, map, list })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_deterministic_and_decodes(value in sample()) {
            let bytes = encode(&value).unwrap();
            prop_assert_eq!(check(&bytes, MAX_FRAME), Ok(()));
            prop_assert_eq!(decode::<Sample>(&bytes, MAX_FRAME).unwrap(), value);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Sample>(&bytes, MAX_FRAME);
        }

        #[test]
        fn a_changed_byte_is_another_value_or_refused(value in sample(), at in any::<prop::sample::Index>(), bit in 0..8) {
            let mut changed = encode(&value).unwrap();
            let at = at.index(changed.len());
            changed[at] ^= 1_u8 << bit;
            if let Ok(other) = decode_exact::<Sample>(&changed, MAX_FRAME) {
                prop_assert_eq!(encode(&other).unwrap(), changed);
            }
        }
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Choice {
        Plain,
        Number(u8),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Small {
        a: Option<u8>,
        b: Choice,
    }

    /// An unknown key, a key left out for null, an alternative as a map instead of a text: all are refused.
    #[test]
    fn a_second_spelling_of_a_value_is_refused() {
        let exact = |hex: &str| decode_exact::<Small>(&hex::decode(hex).unwrap(), MAX_FRAME);
        assert_eq!(exact("a26161f6616265706c61696e"), Ok(Small { a: None, b: Choice::Plain }));
        assert_eq!(exact("a26161016162a1666e756d62657207"), Ok(Small { a: Some(1), b: Choice::Number(7) }));
        let others = [
            "a1616265706c61696e",
            "a36161f6616265706c61696e617a00",
            "a26161f66162a165706c61696e6162",
            "a26161f66162a165706c61696ef6",
        ];
        for other in others {
            assert!(check(&hex::decode(other).unwrap(), MAX_FRAME).is_ok(), "{other} is well-formed");
            assert!(exact(other).is_err(), "{other}");
        }
    }

    fn refused(hex: &str) -> CodecError {
        check(&hex::decode(hex).unwrap(), MAX_FRAME).unwrap_err()
    }

    #[test]
    fn every_way_of_saying_it_otherwise_is_refused() {
        assert!(
            matches!(refused("1817"), CodecError::NotDeterministic { rule, .. } if rule.contains("shortest"))
        );
        assert!(matches!(refused("190017"), CodecError::NotDeterministic { .. }));
        assert!(matches!(refused("9fff"), CodecError::NotDeterministic { rule: "indefinite length", .. }));
        assert!(
            matches!(refused("a2616201616102"), CodecError::NotDeterministic { rule, .. } if rule.contains("sorted"))
        );
        assert!(matches!(refused("a2616101616102"), CodecError::NotDeterministic { .. }));
        assert!(matches!(refused("c000"), CodecError::NotDeterministic { rule: "tags are not used", .. }));
        assert!(matches!(refused("f93c00"), CodecError::NotDeterministic { rule: "floats are 64 bit", .. }));
        assert!(matches!(refused("f7"), CodecError::NotDeterministic { .. }));
        assert!(matches!(refused("62c328"), CodecError::NotDeterministic { rule: "text is UTF-8", .. }));
        assert_eq!(refused("0000"), CodecError::Trailing { extra: 1 });
        assert!(matches!(refused("6261"), CodecError::Truncated { .. }));
        assert!(matches!(refused("5b7fffffffffffffff00"), CodecError::Truncated { .. }));
        assert!(matches!(refused("9bffffffffffffffff00"), CodecError::Truncated { .. }));
        assert!(matches!(refused(&"81".repeat(40)), CodecError::TooDeep { .. }));
        assert!(matches!(check(&[0x40; 9], 8), Err(CodecError::TooLong { len: 9, max: 8 })));
    }
}
