//! The coin of an order: the contract that it waits in, as both sides derive it, and what is seen of it on the chain.
//!
//! Both keys of the contract follow from buyer, seller and order by BRC-42 with the order's [invoice number](payment::invoice), so
//! that the seller knows the exact locking script before it sees the coin, and no key is ever used for two orders. Claim and refund
//! pay to the same keys, which both wallets can derive again.

#![warn(clippy::arithmetic_side_effects)]

use sensora_chain::contract::key_release::{KeyRelease, KeyReleaseTerms};
use sensora_chain::keys::PrivateKey;
use sensora_chain::{OutPoint, Satoshis, Transaction, Txid};
use serde::{Deserialize, Serialize};

use super::offer::BatchTerms;
use crate::market::order::Order;
use crate::market::payment;
use crate::statement::bytes_or_hex;

/// Confirmations after which a spend of the coin is taken for final: its own block and six on top of it, so that a reorganisation of up to 6 blocks
/// changes no conclusion (I6).
pub const SETTLED: u32 = 7;

/// The coin of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coin {
    /// The transaction that holds it.
    pub txid: Txid,
    /// Its output.
    pub vout: u32,
    /// What that output holds.
    pub value: Satoshis,
    /// The transaction and its unproven ancestors: Atomic BEEF.
    #[serde(with = "bytes_or_hex")]
    pub beef: Vec<u8>,
}

impl Coin {
    /// The contract that it waits in.
    #[must_use]
    pub fn release(&self, contract: &KeyReleaseTerms) -> KeyRelease {
        KeyRelease::new(*contract, OutPoint { txid: self.txid, vout: self.vout }, self.value)
    }
}

/// How firmly the coin stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The network does not know it.
    Unknown,
    /// The network has taken it.
    Seen,
    /// A Merkle path leads from it to the header at this height of the best chain.
    Mined(u32),
}

/// A transaction that spends the coin.
#[derive(Debug, Clone, PartialEq)]
pub struct Spend {
    /// The transaction.
    pub transaction: Transaction,
    /// The height of the block that a Merkle path proves it to be in, if one does.
    pub height: Option<u32>,
}

/// What is known of the coin at one moment. Whoever drives a state machine checks it against headers, and may hand it in as often as it
/// likes: what follows depends on what is, never on what has changed, so a reorganisation needs no event of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct CoinView {
    /// Height of the best chain.
    pub tip: u32,
    /// The coin.
    pub coin: Standing,
    /// What spends it: the mined transaction if there is one, otherwise one that the network has taken.
    pub spend: Option<Spend>,
}

impl CoinView {
    /// Confirmations of what is at `height`.
    #[must_use]
    pub fn confirmations(&self, height: Option<u32>) -> u32 {
        height.and_then(|height| self.tip.checked_sub(height)).map_or(0, |above| above.saturating_add(1))
    }
}

/// The contract of an order, as its buyer derives it, with the key that signs the refund.
#[must_use]
pub fn for_buyer(order: &Order, terms: &BatchTerms, buyer: &PrivateKey) -> (KeyReleaseTerms, PrivateKey) {
    let invoice = payment::invoice(order);
    let own = buyer.child(&terms.seller, &invoice);
    let seller = terms.seller.child(buyer, &invoice);
    let (key_hash, refund_height) = (terms.key_hash.0, terms.refund_height);
    (KeyReleaseTerms { key_hash, seller, buyer: own.public(), refund_height }, own)
}

/// The same contract, as the seller derives it, with the key that signs the claim.
#[must_use]
pub fn for_seller(order: &Order, terms: &BatchTerms, seller: &PrivateKey) -> (KeyReleaseTerms, PrivateKey) {
    let invoice = payment::invoice(order);
    let own = seller.child(&order.buyer, &invoice);
    let buyer = order.buyer.child(seller, &invoice);
    let (key_hash, refund_height) = (terms.key_hash.0, terms.refund_height);
    (KeyReleaseTerms { key_hash, seller: own.public(), buyer, refund_height }, own)
}
