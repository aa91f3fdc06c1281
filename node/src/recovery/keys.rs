//! The keys that are looked for: both rows, as far as they were used and a gap beyond.

use std::collections::BTreeMap;

use sensora_chain::keys::PrivateKey;
use sensora_chain::wallet::{KeyRow, OwnedOutput};
use sensora_chain::{Script, Transaction};

/// How many keys in a row must be unused before it is believed that no higher one is used. Each payment of ours uses up to four, and those
/// that never reached the network leave a hole; a hundred are 25 such payments one after the other.
pub const DEFAULT_GAP: u64 = 100;

/// The largest gap: deriving a key takes about 50 µs, so looking this far costs a second.
pub const MAX_GAP: u64 = 20_000;

/// Both rows of keys, from the first number to a gap above the highest one that is known to be in use.
pub struct KeyWindow {
    root: PrivateKey,
    gap: u64,
    known: BTreeMap<[u8; 20], (KeyRow, u64)>,
    change: Row,
    funding: Row,
}

#[derive(Clone, Copy, Default)]
struct Row {
    /// One above the highest number in use.
    next: u64,
    /// One above the highest number that is derived.
    end: u64,
}

impl std::fmt::Debug for KeyWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyWindow").field("gap", &self.gap).finish_non_exhaustive()
    }
}

impl KeyWindow {
    /// All keys from the first on, with `gap` (at least 1, at most [`MAX_GAP`]) beyond the last one in use.
    #[must_use]
    pub fn new(root: &PrivateKey, gap: u64) -> Self {
        Self::above(root, gap, 0, 0)
    }

    /// Only the keys from a gap below these numbers on: for a wallet that knows the coins of those below.
    #[must_use]
    pub fn above(root: &PrivateKey, gap: u64, change: u64, funding: u64) -> Self {
        let gap = gap.clamp(1, MAX_GAP);
        let row = |next: u64| Row { next, end: next.saturating_sub(gap) };
        let (change, funding) = (row(change), row(funding));
        let mut window = Self { root: root.clone(), gap, known: BTreeMap::new(), change, funding };
        for row in KeyRow::ALL {
            window.derive(row);
        }
        window
    }

    /// The root key.
    #[must_use]
    pub fn root(&self) -> &PrivateKey {
        &self.root
    }

    /// One above the highest number in use.
    #[must_use]
    pub fn next(&self, row: KeyRow) -> u64 {
        self.row(row).next
    }

    /// One above the highest number that is looked for.
    #[must_use]
    pub fn end(&self, row: KeyRow) -> u64 {
        self.row(row).end
    }

    /// The locking script of a key.
    #[must_use]
    pub fn script(&self, row: KeyRow, number: u64) -> Script {
        row.key(number).locking_script(&self.root)
    }

    /// Whose script it is, if it is one of these keys'.
    #[must_use]
    pub fn find(&self, locking: &Script) -> Option<(KeyRow, u64)> {
        self.known.get(&locking.p2pkh_hash()?).copied()
    }

    /// Takes note that a key is in use, and looks a gap further.
    pub fn used(&mut self, row: KeyRow, number: u64) {
        let next = number.saturating_add(1);
        let line = self.row_mut(row);
        if next > line.next {
            line.next = next;
            self.derive(row);
        }
    }

    /// The outputs that pay one of these keys, each of which is then known to be in use.
    pub fn recognise(&mut self, tx: &Transaction) -> Vec<OwnedOutput> {
        let mut found = Vec::new();
        for (vout, output) in (0_u32..).zip(&tx.outputs) {
            let Some((row, number)) = self.find(&output.locking) else { continue };
            self.used(row, number);
            found.push(OwnedOutput { vout, key: row.key(number), purpose: row.purpose() });
        }
        found
    }

    fn row(&self, row: KeyRow) -> Row {
        match row {
            KeyRow::Change => self.change,
            KeyRow::Funding => self.funding,
        }
    }

    fn row_mut(&mut self, row: KeyRow) -> &mut Row {
        match row {
            KeyRow::Change => &mut self.change,
            KeyRow::Funding => &mut self.funding,
        }
    }

    fn derive(&mut self, row: KeyRow) {
        let Row { next, end } = self.row(row);
        let to = next.saturating_add(self.gap);
        for number in end..to {
            let hash = row.key(number).private_key(&self.root).public().hash160();
            self.known.insert(hash, (row, number));
        }
        self.row_mut(row).end = to.max(end);
    }
}
