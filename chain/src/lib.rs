//! BSV for Sensora, without a BSV library at run time: the nouns (amounts, transactions, keys, scripts), the proofs
//! (Merkle paths, BEEF, headers, simplified payment verification) and what is built on them.
//!
//! Nothing here does I/O, reads a clock or draws randomness; all three are handed in. The exception is the module
//! `sources` (behind the feature of the same name), where the chain is reached.
//!
//! Everything that is parsed may come from a stranger. No decoder allocates on the word of a length field, recurses
//! as deep as its input asks, or panics; see [`encode::Reader`].
//!
//! The order of ideas: [`amount`], [`id`], [`script`] and [`tx`] say what a transaction is; [`sighash`], [`keys`] and
//! [`contract`] how a coin is spent; [`fee`] what that costs; [`merkle_path`], [`beef`], [`header`] and [`spv`] why
//! to believe it.

pub mod amount;
pub mod beef;
pub mod contract;
pub mod encode;
pub mod fee;
pub mod header;
pub mod id;
pub mod keys;
pub mod merkle_path;
pub mod network;
pub mod script;
pub mod sighash;
#[cfg(feature = "sources")]
pub mod sources;
pub mod spv;
pub mod tx;
pub mod wallet;

mod bytes_serde;

pub use amount::{AmountError, Satoshis};
pub use fee::FeeRate;
pub use id::{BlockHash, OutPoint, Txid};
pub use keys::{Address, PrivateKey, PublicKey, Signature};
pub use network::Network;
pub use script::Script;
pub use sighash::SighashCache;
pub use tx::{Transaction, TxIn, TxOut};
