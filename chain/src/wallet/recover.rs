//! What the words alone can find again: the two numbered rows of keys, and how a wallet is told how far they were used.

use std::sync::Arc;

use super::{FUNDING_WATCHED, KeySource, Purpose, Wallet, change_key, funding_key};
use crate::keys::PrivateKey;

/// The keys that follow from the root key and a number. Every other key takes somebody else's public key to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyRow {
    /// What is left of our own payments: `2-sensora wallet-N`, with ourselves as counterparty (BRC-42, BRC-43).
    Change,
    /// Addresses given out to be paid at: `2-sensora funding-N`, likewise.
    Funding,
}

impl KeyRow {
    /// Both, in the order in which they are looked through.
    pub const ALL: [KeyRow; 2] = [Self::Funding, Self::Change];

    /// How the key with this number is derived.
    pub fn key(self, number: u64) -> KeySource {
        match self {
            Self::Change => change_key(number),
            Self::Funding => funding_key(number),
        }
    }

    /// Why a coin under one of these keys is in the wallet.
    pub fn purpose(self) -> Purpose {
        match self {
            Self::Change => Purpose::Change,
            Self::Funding => Purpose::Funding,
        }
    }
}

impl Wallet {
    /// The number of the next key of a row; every key below it may have been used.
    pub fn next_number(&self, row: KeyRow) -> u64 {
        match row {
            KeyRow::Change => self.next_change,
            KeyRow::Funding => self.next_funding,
        }
    }

    /// Leaves out the keys below these numbers from now on, because they were found in use: an address is used once, by
    /// every copy of the wallet. The newest funding addresses among them are watched as if given out here. A number below
    /// the present one changes nothing.
    pub fn advance_counters(&mut self, root: &PrivateKey, change: u64, funding: u64) {
        self.next_change = self.next_change.max(change);
        let watched = u64::try_from(FUNDING_WATCHED).unwrap_or(u64::MAX);
        let new = self.next_funding.max(funding.saturating_sub(watched))..funding;
        if !new.is_empty() {
            self.saved.funding_changed = true;
            let watched = Arc::make_mut(&mut self.funding);
            for number in new {
                while watched.len() >= FUNDING_WATCHED {
                    watched.pop_front();
                }
                watched.push_back((number, funding_key(number).private_key(root).public().hash160()));
            }
        }
        self.next_funding = self.next_funding.max(funding);
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use super::*;
    use crate::{Network, Satoshis, Transaction, TxOut};

    #[test]
    fn a_number_is_used_once_and_what_was_given_out_before_is_recognised() {
        let root = PrivateKey::from_bytes([7; 32]).unwrap();
        let mut lost = Wallet::new();
        let given: Vec<_> = (0..5).map(|_| lost.funding_address(&root, Network::Main).unwrap()).collect();
        let mut found = Wallet::new();
        found.advance_counters(&root, 12, 5);
        assert_eq!((found.next_number(KeyRow::Change), found.next_number(KeyRow::Funding)), (12, 5));
        assert!(!given.contains(&found.funding_address(&root, Network::Main).unwrap()));
        let pays = given
            .iter()
            .map(|address| TxOut { value: Satoshis::from_sat(1), locking: address.locking_script() });
        assert_eq!(found.recognise(&Transaction::new(Vec::new(), pays.collect())).len(), 5);
        let stored = Wallet::from_bytes(&found.to_bytes().unwrap()).unwrap();
        assert_eq!(stored, found);
        assert!(found.changes().unwrap().funding.is_some(), "what is watched is stored");
        found.advance_counters(&root, 3, 2);
        assert_eq!((found.next_number(KeyRow::Change), found.next_number(KeyRow::Funding)), (12, 6));
        // Only as many as are watched are derived, however far it goes.
        found.advance_counters(&root, 12, 1_000_000);
        assert_eq!(found.next_number(KeyRow::Funding), 1_000_000);
        assert_eq!(KeyRow::Funding.key(3), KeySource::myself("2-sensora funding-3"));
        assert_eq!(KeyRow::Change.key(3), KeySource::myself("2-sensora wallet-3"));
    }
}
