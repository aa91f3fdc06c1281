//! To which key an order is paid.
//!
//! The key follows from buyer, seller and order by BRC-42 with the invoice number of BRC-29: derivation prefix = base64 of the offer's
//! digest, derivation suffix = base64 of the order's nonce. Nobody but the two can tell that an output belongs to this order, no key
//! is ever used twice, and a payment seen on chain is of no use to anybody else as a claim.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sensora_chain::keys::{BRC29_PROTOCOL, PrivateKey, PublicKey};
use sensora_chain::{Satoshis, Script, Transaction};

use crate::market::order::Order;

/// The BRC-29 invoice number of an order's payment.
#[must_use]
pub fn invoice(order: &Order) -> String {
    let (prefix, suffix) = (STANDARD.encode(order.offer.as_bytes()), STANDARD.encode(order.nonce));
    format!("2-{BRC29_PROTOCOL}-{prefix} {suffix}")
}

/// The locking script that the buyer pays to.
#[must_use]
pub fn script_for_buyer(order: &Order, buyer: &PrivateKey, seller: &PublicKey) -> Script {
    Script::p2pkh(&seller.child(buyer, &invoice(order)).hash160())
}

/// The same locking script, as the seller derives it.
#[must_use]
pub fn script_for_seller(order: &Order, seller: &PrivateKey) -> Script {
    Script::p2pkh(&seller.child(&order.buyer, &invoice(order)).public().hash160())
}

/// The output of `transaction` that pays to `script` with the greatest value: its index and value.
#[must_use]
pub fn find(transaction: &Transaction, script: &Script) -> Option<(u32, Satoshis)> {
    let paying = transaction.outputs.iter().enumerate().filter(|(_, output)| &output.locking == script);
    let (index, output) = paying.max_by_key(|(_, output)| output.value)?;
    Some((u32::try_from(index).ok()?, output.value))
}
