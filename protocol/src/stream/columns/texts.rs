//! Columns of texts: each as it is, or a dictionary where they repeat.

use std::collections::BTreeMap;

use super::ColumnsError;
use super::bytes::{Cursor, read_packed, write_packed, write_varint};
use crate::stream::reading::MAX_TEXT_LEN;

const PLAIN: u8 = 0;
const DICTIONARY: u8 = 1;

pub(super) fn write_texts(texts: &[&str], out: &mut Vec<u8>) {
    let mut plain = vec![PLAIN];
    for text in texts {
        write_text(text, &mut plain);
    }

    let mut entries: Vec<&str> = Vec::new();
    let mut positions: BTreeMap<&str, u16> = BTreeMap::new();
    let indices: Vec<u16> = texts
        .iter()
        .map(|text| {
            *positions.entry(text).or_insert_with(|| {
                entries.push(text);
                // A run has at most 1024 readings, so an entry's position always fits.
                u16::try_from(entries.len() - 1).unwrap_or(u16::MAX)
            })
        })
        .collect();
    let mut dictionary = vec![DICTIONARY];
    write_varint(entries.len() as u64, &mut dictionary);
    for entry in &entries {
        write_text(entry, &mut dictionary);
    }
    write_packed(indices.into_iter(), index_width(entries.len()), &mut dictionary);

    out.extend(if dictionary.len() < plain.len() { dictionary } else { plain });
}

pub(super) fn read_texts(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<String>, ColumnsError> {
    match cursor.byte()? {
        PLAIN => (0..count).map(|_| Ok(read_text(cursor)?.to_owned())).collect(),
        DICTIONARY => {
            let len = cursor.len()?;
            if len == 0 || len > count {
                return Err(ColumnsError::Damaged {
                    what: "a dictionary has an entry for each text at most",
                });
            }
            let entries = (0..len).map(|_| read_text(cursor)).collect::<Result<Vec<_>, _>>()?;
            let indices = read_packed(cursor, count, index_width(len))?;
            let text = |index: u16| entries.get(usize::from(index)).map(|text| (*text).to_owned());
            let texts: Option<Vec<String>> = indices.into_iter().map(text).collect();
            texts.ok_or(ColumnsError::Damaged { what: "an index points beyond the dictionary" })
        }
        _ => Err(ColumnsError::Damaged { what: "unknown encoding of texts" }),
    }
}

/// Bits that hold the largest index into so many entries: none for a single one.
fn index_width(entries: usize) -> u32 {
    entries.saturating_sub(1).checked_ilog2().map_or(0, |log| log + 1)
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write_varint(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn read_text<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str, ColumnsError> {
    let len = cursor.len()?;
    if len > MAX_TEXT_LEN {
        return Err(ColumnsError::Damaged { what: "a text is too long" });
    }
    std::str::from_utf8(cursor.take(len)?).map_err(|_| ColumnsError::Damaged { what: "a text is not UTF-8" })
}
