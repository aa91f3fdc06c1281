//! What several of the tests need: the published vectors, and headers that hold given roots.

use std::collections::BTreeMap;

use sensora_chain::BlockHash;
use sensora_chain::header::{Header, HeaderView};
use serde_json::Value;

/// Reads a file of the folder that `SENSORA_VECTORS` names; without it the test says so and has nothing to check.
pub(crate) fn vectors(file: &str) -> Option<Value> {
    let Ok(folder) = std::env::var("SENSORA_VECTORS") else {
        eprintln!("SENSORA_VECTORS is not set: {file} is not checked");
        return None;
    };
    let path = std::path::Path::new(&folder).join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Some(serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap_or_else(|e| panic!("{value}: {e}"))
}

/// Headers that hold the given Merkle roots, and a tip above them.
#[derive(Default)]
pub(crate) struct Roots {
    pub(crate) roots: BTreeMap<u32, [u8; 32]>,
    pub(crate) tip: u32,
}

impl HeaderView for Roots {
    fn header_at(&self, height: u32) -> Option<Header> {
        let root = self.roots.get(&height)?;
        Some(Header::new(1, BlockHash([0; 32]), *root, 0, 0, 0))
    }

    fn tip_height(&self) -> u32 {
        self.tip
    }
}
