//! The order: a buyer's signed word that it takes an offer.
//!
//! An order's id is the digest of the order, so a retry of the same order is the same order: it is paid once and answered the same
//! each time.

use sensora_chain::Network;
use sensora_chain::keys::PublicKey;
use serde::{Deserialize, Serialize};

use crate::id::{Hash, OrderId};
use crate::statement::{Signed, Statement, bytes_or_hex};

/// A buyer takes an offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Digest of the signed offer.
    pub offer: Hash,
    /// The buyer; the same key signs.
    pub buyer: PublicKey,
    /// Chosen at random by the buyer: two orders of one offer differ in it, and it is half of the payment key's name.
    #[serde(with = "bytes_or_hex")]
    pub nonce: [u8; 16],
}

impl Statement for Order {
    const NAME: &'static str = "sensora/order";
    const MAX_LEN: usize = 160;
}

impl Signed<Order> {
    /// The order's id: the digest that the buyer signs.
    #[must_use]
    pub fn id(&self, network: Network) -> OrderId {
        OrderId(self.digest(network).0)
    }
}
