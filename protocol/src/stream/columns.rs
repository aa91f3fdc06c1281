//! Readings column by column, which is how they are stored and sent: about a tenth of their size as rows.
//!
//! Layout (integers little-endian, lengths as LEB128 varints):
//! ```text
//! columns  := version (1 byte, 1) · count (2 bytes, 1..=1024) · ints (the times) · column for each field of the schema
//! column   := presence (1 byte) · [bitmap, when presence is 1] · values, only those that are present
//! presence := 0 all · 1 those whose bit is set (bit 0 of byte 0 is the first reading) · 2 none (and no values follow)
//! ints     := 0 · varint for each: zigzag of the difference to the one before, the first to 0
//!           | 1 · length · pco chunk metadata and one page of i64 (format 4.1; modes and delta encodings: see `numbers`)
//! floats   := 0 · ints (the bits, so mapped that their order is that of the numbers)
//!           | 1 · exponent e (1 byte, 0..=22) · ints n · ulps       value = n / 10^e, moved by so many steps of the last place
//! ulps     := 0 (all are 0) | 1 · ints
//! bools    := bits, as in the bitmap
//! texts    := 0 · (length · bytes) for each
//!           | 1 · entries (length) · (length · bytes) for each entry · indices, each of the fewest bits that hold entries - 1
//! ```
//! Nothing here is hashed or signed: what counts is that the readings lead to the leaves of the log, so several encodings of the
//! same readings are all right, and [`decode`] takes bytes from strangers. It checks every length before it allocates, and gives
//! out only readings that [`Schema::check`] accepts.

mod bytes;
mod numbers;
mod texts;

use self::bytes::Cursor;
use super::chunk::CHUNK_LEN;
use super::reading::{Reading, ReadingError, Value};
use super::schema::{Kind, Schema};

/// Most readings in one run: those of a whole chunk.
#[expect(clippy::cast_possible_truncation, reason = "1024 fits in any usize")]
pub const MAX_COUNT: usize = CHUNK_LEN as usize;

/// Longest encoding, in bytes. The longest rows a schema allows, in their worst columns, take less, and a run with a
/// salt for each reading still fits into a frame of 1 MiB.
pub const MAX_COLUMNS_LEN: usize = 960 * 1024;

const VERSION: u8 = 1;

/// Length of the version and the count.
const HEADER_LEN: usize = 3;

/// Why readings cannot be encoded, or bytes are not readings.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ColumnsError {
    /// No reading, or more than fit in one run.
    #[error("a run has 1 to {MAX_COUNT} readings, this one has {count}")]
    Count {
        /// How many.
        count: usize,
    },
    /// More readings than were asked for.
    #[error("the bytes hold {count} readings, at most {max} are expected")]
    TooMany {
        /// How many they say they hold.
        count: usize,
        /// How many may come.
        max: usize,
    },
    /// Sequence numbers that do not follow each other.
    #[error("reading {expected} is missing: {found} comes after the one before it")]
    NotConsecutive {
        /// The sequence number that is missing.
        expected: u64,
        /// The one that is there.
        found: u64,
    },
    /// A reading that does not fit the schema.
    #[error("reading {seq} does not fit the schema")]
    Reading {
        /// Its sequence number.
        seq: u64,
        /// What is wrong with it.
        #[source]
        error: ReadingError,
    },
    /// Longer than [`MAX_COLUMNS_LEN`].
    #[error("columns of {len} bytes exceed the limit of {MAX_COLUMNS_LEN}")]
    TooLong {
        /// The length.
        len: usize,
    },
    /// Another version of this encoding.
    #[error("columns of version {version} cannot be read; this program reads version {VERSION}")]
    Version {
        /// The version.
        version: u8,
    },
    /// The bytes end inside something.
    #[error("the columns end early")]
    Truncated,
    /// Bytes after the last column.
    #[error("{extra} bytes follow the last column")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// The bytes are no encoding of readings.
    #[error("the columns are damaged: {what}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
}

/// Encodes consecutive readings.
///
/// # Errors
/// When there are none or more than [`MAX_COUNT`], they are not consecutive, or one does not fit the schema.
pub fn encode(schema: &Schema, readings: &[Reading]) -> Result<Vec<u8>, ColumnsError> {
    let count = readings.len();
    let header = u16::try_from(count).ok().filter(|_| (1..=MAX_COUNT).contains(&count));
    let (Some(header), Some(first)) = (header, readings.first()) else {
        return Err(ColumnsError::Count { count });
    };
    for (expected, reading) in (first.seq..=u64::MAX).zip(readings) {
        if reading.seq != expected {
            return Err(ColumnsError::NotConsecutive { expected, found: reading.seq });
        }
        schema.check(reading).map_err(|error| ColumnsError::Reading { seq: reading.seq, error })?;
    }

    let mut out = vec![VERSION];
    out.extend_from_slice(&header.to_le_bytes());
    let times: Vec<i64> = readings.iter().map(|reading| reading.time).collect();
    numbers::write_ints(&times, &mut out);
    for (position, field) in schema.fields.iter().enumerate() {
        let values = readings.iter().map(|reading| reading.values.get(position).unwrap_or(&Value::Null));
        write_column(field.kind, values, &mut out);
    }
    if out.len() > MAX_COLUMNS_LEN {
        return Err(ColumnsError::TooLong { len: out.len() });
    }
    Ok(out)
}

/// How many readings the bytes say they hold, without decoding them.
///
/// # Errors
/// When the header is not that of an encoding by [`encode`].
pub fn count(bytes: &[u8]) -> Result<usize, ColumnsError> {
    if bytes.len() > MAX_COLUMNS_LEN {
        return Err(ColumnsError::TooLong { len: bytes.len() });
    }
    let [version, low, high, ..] = *bytes else { return Err(ColumnsError::Truncated) };
    if version != VERSION {
        return Err(ColumnsError::Version { version });
    }
    let count = usize::from(u16::from_le_bytes([low, high]));
    if (1..=MAX_COUNT).contains(&count) { Ok(count) } else { Err(ColumnsError::Count { count }) }
}

/// Decodes at most `count_max` readings, numbered from `first` on.
///
/// # Errors
/// When the bytes are anything but an encoding of so many readings that fit the schema.
pub fn decode(
    schema: &Schema,
    bytes: &[u8],
    first: u64,
    count_max: usize,
) -> Result<Vec<Reading>, ColumnsError> {
    let count = count(bytes)?;
    if count > count_max {
        return Err(ColumnsError::TooMany { count, max: count_max });
    }
    if first.checked_add(count as u64).is_none() {
        return Err(ColumnsError::Damaged { what: "its sequence numbers are beyond the largest" });
    }
    let mut cursor = Cursor::new(bytes.get(HEADER_LEN..).unwrap_or_default());
    let times = numbers::read_ints(&mut cursor, count)?;
    let fields = schema.fields.len();
    let mut readings: Vec<Reading> = (first..=u64::MAX)
        .zip(times)
        .map(|(seq, time)| Reading { seq, time, values: Vec::with_capacity(fields) })
        .collect();
    for field in &schema.fields {
        read_column(field.kind, &mut cursor, &mut readings)?;
    }
    match cursor.left() {
        0 => {}
        extra => return Err(ColumnsError::Trailing { extra }),
    }
    for reading in &readings {
        schema.check(reading).map_err(|error| ColumnsError::Reading { seq: reading.seq, error })?;
    }
    Ok(readings)
}

/// Which readings have a value, in the byte before each column.
mod presence {
    pub(super) const ALL: u8 = 0;
    pub(super) const SOME: u8 = 1;
    pub(super) const NONE: u8 = 2;
}

fn write_column<'a>(kind: Kind, values: impl Iterator<Item = &'a Value> + Clone, out: &mut Vec<u8>) {
    let present: Vec<bool> = values.clone().map(|value| !value.is_null()).collect();
    if !present.contains(&true) {
        out.push(presence::NONE);
        return;
    }
    if present.contains(&false) {
        out.push(presence::SOME);
        bytes::write_bits(&present, out);
    } else {
        out.push(presence::ALL);
    }
    // The readings passed the schema's check, so that each value is of the field's kind or missing.
    match kind {
        Kind::Float => {
            let floats = values.filter_map(|value| if let Value::Float(v) = value { Some(*v) } else { None });
            numbers::write_floats(&floats.collect::<Vec<_>>(), out);
        }
        Kind::Int => {
            let ints = values.filter_map(|value| if let Value::Int(v) = value { Some(*v) } else { None });
            numbers::write_ints(&ints.collect::<Vec<_>>(), out);
        }
        Kind::Bool => {
            let bools = values.filter_map(|value| if let Value::Bool(v) = value { Some(*v) } else { None });
            bytes::write_bits(&bools.collect::<Vec<_>>(), out);
        }
        Kind::Text => {
            let texts =
                values.filter_map(|value| if let Value::Text(v) = value { Some(v.as_str()) } else { None });
            texts::write_texts(&texts.collect::<Vec<_>>(), out);
        }
    }
}

fn read_column(kind: Kind, cursor: &mut Cursor<'_>, readings: &mut [Reading]) -> Result<(), ColumnsError> {
    let count = readings.len();
    let present = match cursor.byte()? {
        presence::ALL => None,
        presence::SOME => Some(bytes::read_bits(cursor, count)?),
        presence::NONE => Some(vec![false; count]),
        _ => return Err(ColumnsError::Damaged { what: "unknown presence of a column" }),
    };
    let values = match &present {
        None => count,
        Some(bits) => bits.iter().filter(|bit| **bit).count(),
    };
    if values == 0 {
        for reading in readings {
            reading.values.push(Value::Null);
        }
        return Ok(());
    }
    let present = present.as_deref();
    match kind {
        Kind::Float => fill(readings, present, numbers::read_floats(cursor, values)?, Value::Float),
        Kind::Int => fill(readings, present, numbers::read_ints(cursor, values)?, Value::Int),
        Kind::Bool => fill(readings, present, bytes::read_bits(cursor, values)?, Value::Bool),
        Kind::Text => fill(readings, present, texts::read_texts(cursor, values)?, Value::Text),
    }
    Ok(())
}

/// Gives each reading its value: the next one where one is present.
fn fill<T>(readings: &mut [Reading], present: Option<&[bool]>, values: Vec<T>, wrap: fn(T) -> Value) {
    let mut values = values.into_iter();
    match present {
        None => {
            for (reading, value) in readings.iter_mut().zip(values) {
                reading.values.push(wrap(value));
            }
        }
        Some(present) => {
            for (reading, present) in readings.iter_mut().zip(present) {
                let value = if *present { values.next().map(wrap) } else { None };
                reading.values.push(value.unwrap_or_default());
            }
        }
    }
}
