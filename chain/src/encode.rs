//! Reading and writing bytes the way Bitcoin lays them out, with bounds that hold against a stranger's input.
//!
//! A [`Reader`] never allocates on the word of a length field: a count is checked against the bytes that are left
//! before anything is reserved for it. Numbers are little-endian; a compact size ("varint") must be in its shortest
//! form, so that each value has exactly one encoding.

use sha2::{Digest, Sha256};

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside an item.
    #[error("the bytes end {missing} bytes before the end of {what}")]
    UnexpectedEnd {
        /// The item that was being read.
        what: &'static str,
        /// How many more bytes it needs at least.
        missing: usize,
    },
    /// Bytes follow after the end of the item.
    #[error("{extra} bytes follow after the end of {what}")]
    TrailingBytes {
        /// The item that was read.
        what: &'static str,
        /// How many bytes are left over.
        extra: usize,
    },
    /// A compact size is longer than it has to be.
    #[error("a length is written in more bytes than it needs")]
    NonMinimalVarint,
    /// A count promises more items than the remaining bytes could hold, or than the format allows.
    #[error("{count} {what} are announced, at most {max} can be there")]
    TooMany {
        /// The items.
        what: &'static str,
        /// The announced count.
        count: u64,
        /// The most that could be there.
        max: u64,
    },
    /// A value is outside its range.
    #[error("{what} is not allowed to be {value}")]
    OutOfRange {
        /// The field.
        what: &'static str,
        /// The value found.
        value: u64,
    },
}

/// A cursor over bytes that a stranger may have written.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// How many bytes are left.
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The bytes that are left, without moving.
    pub const fn peek(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes the next `len` bytes.
    ///
    /// # Errors
    /// [`DecodeError::UnexpectedEnd`] if fewer are left.
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(DecodeError::UnexpectedEnd { what, missing: len.saturating_sub(self.rest.len()) })?;
        self.rest = rest;
        Ok(head)
    }

    /// Takes the next `N` bytes as an array.
    ///
    /// # Errors
    /// [`DecodeError::UnexpectedEnd`] if fewer are left.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::UnexpectedEnd { what, missing: N.saturating_sub(self.rest.len()) })?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DecodeError::UnexpectedEnd`] if none is left.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array(what).map(u8::from_le_bytes)
    }

    /// A 16-bit little-endian number.
    ///
    /// # Errors
    /// [`DecodeError::UnexpectedEnd`] if the bytes end first.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.array(what).map(u16::from_le_bytes)
    }

    /// A 32-bit little-endian number.
    ///
    /// # Errors
    /// [`DecodeError::UnexpectedEnd`] if the bytes end first.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// A 64-bit little-endian number.
    ///
    /// # Errors
    /// [`DecodeError::UnexpectedEnd`] if the bytes end first.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A compact size in its shortest form.
    ///
    /// # Errors
    /// [`DecodeError::NonMinimalVarint`] if a shorter form exists, [`DecodeError::UnexpectedEnd`] if the bytes end.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let (value, least) = match self.u8(what)? {
            0xfd => (u64::from(self.u16(what)?), 0xfd),
            0xfe => (u64::from(self.u32(what)?), 0x1_0000),
            0xff => (self.u64(what)?, 0x1_0000_0000),
            small => (u64::from(small), 0),
        };
        if value < least { Err(DecodeError::NonMinimalVarint) } else { Ok(value) }
    }

    /// A count of items that take at least `min_item_size` bytes each. It is never larger than what the remaining
    /// bytes could hold, so memory may be reserved for it.
    ///
    /// # Errors
    /// [`DecodeError::TooMany`] if the items could not fit, and those of [`Reader::varint`].
    pub fn count(&mut self, min_item_size: usize, what: &'static str) -> Result<usize, DecodeError> {
        let count = self.varint(what)?;
        let max = self.remaining().checked_div(min_item_size).unwrap_or(self.remaining());
        match usize::try_from(count) {
            Ok(fits) if fits <= max => Ok(fits),
            _ => Err(DecodeError::TooMany { what, count, max: max as u64 }),
        }
    }

    /// A byte string with its length before it.
    ///
    /// # Errors
    /// [`DecodeError::TooMany`] if the length is more than what is left, and those of [`Reader::varint`].
    pub fn var_bytes(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.count(1, what)?;
        self.take(len, what)
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`DecodeError::TrailingBytes`] if bytes are left.
    pub fn finish(self, what: &'static str) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::TrailingBytes { what, extra: self.rest.len() })
        }
    }
}

/// Appends a compact size in its shortest form.
pub fn write_varint(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_le_bytes();
    let [a, b, c, d, ..] = bytes;
    match value {
        0..=0xfc => out.push(a),
        0xfd..=0xffff => out.extend([0xfd, a, b]),
        0x1_0000..=0xffff_ffff => out.extend([0xfe, a, b, c, d]),
        _ => {
            out.push(0xff);
            out.extend(bytes);
        }
    }
}

/// Appends a byte string with its length before it.
pub fn write_var_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// How many bytes [`write_varint`] writes for `value`.
pub const fn varint_len(value: u64) -> usize {
    match value {
        0..=0xfc => 1,
        0xfd..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// SHA-256 of SHA-256: transaction ids, block hashes, Merkle nodes and signature digests.
pub fn sha256d(bytes: &[u8]) -> [u8; 32] {
    sha256(&sha256(bytes))
}

/// RIPEMD-160 of SHA-256: the hash of a public key in an address.
pub fn hash160(bytes: &[u8]) -> [u8; 20] {
    ripemd::Ripemd160::digest(Sha256::digest(bytes)).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_length_longer_than_the_bytes_is_refused_before_anything_is_reserved() {
        let mut reader = Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
        assert_eq!(
            reader.var_bytes("script"),
            Err(DecodeError::TooMany { what: "script", count: u64::MAX, max: 3 })
        );
    }

    #[test]
    fn long_forms_of_small_numbers_are_refused() {
        for bytes in
            [&[0xfd, 0xfc, 0][..], &[0xfe, 0xff, 0xff, 0, 0], &[0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]]
        {
            assert_eq!(Reader::new(bytes).varint("count"), Err(DecodeError::NonMinimalVarint));
        }
    }

    proptest! {
        #[test]
        fn varint_round_trips(value: u64, shift in 0u32..64) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            write_varint(&mut bytes, value);
            prop_assert_eq!(bytes.len(), varint_len(value));
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint("count"), Ok(value));
            prop_assert!(reader.finish("count").is_ok());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, size in 0usize..50) {
            let mut reader = Reader::new(&bytes);
            while reader.remaining() > 0 {
                if let Ok(count) = reader.count(size, "items") {
                    prop_assert!(count * size <= reader.remaining());
                }
                let _ = reader.u8("byte");
            }
        }
    }
}
