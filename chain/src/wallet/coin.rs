//! What the wallet owns and how each key is found again: coins carry the *derivation* of their key, never the key.

use serde::{Deserialize, Serialize};

use crate::keys::{PrivateKey, PublicKey};
use crate::{OutPoint, Satoshis, Script};

/// The other party of a BRC-42 derivation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Counterparty {
    /// The wallet's own root key: change and funding addresses.
    Myself,
    /// A peer's identity key: payments that peer made to us (BRC-29).
    Peer(PublicKey),
}

/// How the private key of a coin is derived from the root key (BRC-42). It is no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySource {
    /// Whose public key entered the derivation.
    pub counterparty: Counterparty,
    /// The BRC-43 invoice number, for example `2-sensora wallet-7`.
    pub invoice: String,
}

impl KeySource {
    /// A key derived with ourselves as counterparty.
    pub fn myself(invoice: impl Into<String>) -> Self {
        Self { counterparty: Counterparty::Myself, invoice: invoice.into() }
    }

    /// A key to which `payer` can pay, under the invoice number both agreed on.
    pub fn peer(payer: PublicKey, invoice: impl Into<String>) -> Self {
        Self { counterparty: Counterparty::Peer(payer), invoice: invoice.into() }
    }

    /// The private key of a coin with this source.
    pub fn private_key(&self, root: &PrivateKey) -> PrivateKey {
        match &self.counterparty {
            Counterparty::Myself => root.child(&root.public(), &self.invoice),
            Counterparty::Peer(payer) => root.child(payer, &self.invoice),
        }
    }

    /// The P2PKH locking script of a coin with this source.
    pub fn locking_script(&self, root: &PrivateKey) -> Script {
        Script::p2pkh(&self.private_key(root).public().hash160())
    }
}

/// Why a coin is in the wallet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Purpose {
    /// Paid to one of our funding addresses.
    Funding,
    /// What was left of our own payment.
    Change,
    /// Taken back from a payment the payee refused.
    Reclaimed,
    /// A peer paid us; the label says for what (an order id, for example).
    Payment {
        /// Free text of the caller, at most [`MAX_LABEL`](super::MAX_LABEL) bytes.
        label: String,
    },
}

/// An output of a received transaction that belongs to the wallet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedOutput {
    /// Position among the transaction's outputs.
    pub vout: u32,
    /// How its key is derived; checked against the locking script when it is received.
    pub key: KeySource,
    /// Why it is ours.
    pub purpose: Purpose,
}

/// One unspent output of the wallet, as [`Wallet::coins`](super::Wallet::coins) lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coin {
    /// Where it is.
    pub outpoint: OutPoint,
    /// What it is worth.
    pub value: Satoshis,
    /// How its key is derived.
    pub key: KeySource,
    /// Why it is ours.
    pub purpose: Purpose,
    /// Whether it can be used now.
    pub state: CoinState,
}

/// Whether a coin can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoinState {
    /// Its transaction is in a block at this height.
    Confirmed(u32),
    /// Its transaction is on the network but in no block yet. It can be spent.
    Unconfirmed,
    /// Bound to a transaction of ours that the network has not seen yet.
    Reserved,
    /// Made by a transaction the network has not seen yet. It does not count and cannot be spent.
    Pending,
}

/// The wallet's money in satoshis. `total` is always the sum of the other three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Spendable, in blocks.
    pub confirmed: Satoshis,
    /// Spendable, on the network, in no block yet.
    pub unconfirmed: Satoshis,
    /// Bound to transactions the network has not seen yet.
    pub reserved: Satoshis,
    /// Everything that is ours as far as the network knows.
    pub total: Satoshis,
}
