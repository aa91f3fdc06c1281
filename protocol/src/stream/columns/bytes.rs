//! Bytes, varints and bits, read without trust.

use super::ColumnsError;

/// Bytes that are left to read.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) const fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], ColumnsError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(ColumnsError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, ColumnsError> {
        let (byte, rest) = self.rest.split_first().ok_or(ColumnsError::Truncated)?;
        self.rest = rest;
        Ok(*byte)
    }

    /// A LEB128 varint of at most 64 bits.
    pub(super) fn varint(&mut self) -> Result<u64, ColumnsError> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ColumnsError::Damaged { what: "a varint of more than 64 bits" })
    }

    /// A length, which is never more than the bytes that are left.
    pub(super) fn len(&mut self) -> Result<usize, ColumnsError> {
        let len = usize::try_from(self.varint()?).map_err(|_| ColumnsError::Truncated)?;
        if len > self.left() { Err(ColumnsError::Truncated) } else { Ok(len) }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low seven bits are meant")]
pub(super) fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// One bit for each, the first in bit 0 of the first byte.
pub(super) fn write_bits(bits: &[bool], out: &mut Vec<u8>) {
    for eight in bits.chunks(8) {
        out.push(eight.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
    }
}

pub(super) fn read_bits(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<bool>, ColumnsError> {
    let bytes = cursor.take(count.div_ceil(8))?;
    let all = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    if all.clone().skip(count).any(|bit| bit) {
        return Err(ColumnsError::Damaged { what: "bits are set after the last one" });
    }
    Ok(all.take(count).collect())
}

/// Numbers of `width` bits each (at most 16), the first in the low bits of the first byte.
pub(super) fn write_packed(numbers: impl Iterator<Item = u16>, width: u32, out: &mut Vec<u8>) {
    let (mut pending, mut filled) = (0_u32, 0);
    for number in numbers {
        pending |= u32::from(number) << filled;
        filled += width;
        while filled >= 8 {
            out.push(pending.to_le_bytes()[0]);
            pending >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        out.push(pending.to_le_bytes()[0]);
    }
}

pub(super) fn read_packed(
    cursor: &mut Cursor<'_>,
    count: usize,
    width: u32,
) -> Result<Vec<u16>, ColumnsError> {
    let len = (count * width as usize).div_ceil(8);
    let mut bytes = cursor.take(len)?.iter();
    let (mut pending, mut filled) = (0_u32, 0);
    let mut numbers = Vec::with_capacity(count);
    for _ in 0..count {
        while filled < width {
            pending |= u32::from(*bytes.next().ok_or(ColumnsError::Truncated)?) << filled;
            filled += 8;
        }
        let number = pending & ((1 << width) - 1);
        numbers.push(u16::try_from(number).unwrap_or(u16::MAX));
        pending >>= width;
        filled -= width;
    }
    if pending != 0 {
        return Err(ColumnsError::Damaged { what: "bits are set after the last one" });
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_bounded() {
        for value in [0, 1, 127, 128, 1 << 62, u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            write_varint(value, &mut out);
            let mut cursor = Cursor::new(&out);
            assert_eq!(cursor.varint(), Ok(value));
            assert_eq!(cursor.left(), 0);
        }
        assert!(Cursor::new(&[0xff; 9]).varint().is_err());
        assert!(Cursor::new(&[0xff; 11]).varint().is_err());
        assert!(Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).varint().is_err());
        assert_eq!(Cursor::new(&[5, 1, 2]).len(), Err(ColumnsError::Truncated));
    }

    #[test]
    fn packed_numbers_come_back() {
        for width in 1..=10 {
            let numbers: Vec<u16> =
                (0..777_u16).map(|i| i.wrapping_mul(40_503) & ((1 << width) - 1)).collect();
            let mut out = Vec::new();
            write_packed(numbers.iter().copied(), width, &mut out);
            assert_eq!(out.len(), (777 * width as usize).div_ceil(8));
            assert_eq!(read_packed(&mut Cursor::new(&out), 777, width), Ok(numbers));
        }
        assert!(read_packed(&mut Cursor::new(&[0x80]), 1, 3).is_err());
    }
}
