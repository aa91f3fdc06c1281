//! The seller's side of a direct purchase, as a state machine.
//!
//! ```text
//!              admit                    Event::Accepted
//!  purchase ─────────▶ Admitted ───────────────────────▶ Sold ──▶ the receipt, for 30 days
//!     │                 │   ▲
//!     │ Refusal         │   └── Event::Unavailable, a retry, a restart: broadcast again
//!     ▼                 │ Event::Rejected
//!  nothing kept         ▼
//!                    forgotten (the order was not charged)
//! ```
//!
//! The driver stores a sale before it carries out the actions that come with it. It keeps one sale for each order id, and answers a
//! repeated request from the stored sale ([`Sale::resume`]), whatever payment the repeat carries: an order is charged once.

use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::header::HeaderView;
use sensora_chain::keys::PublicKey;
use sensora_chain::spv;
use sensora_chain::{Network, Satoshis, Transaction, Txid};
use serde::{Deserialize, Serialize};

use crate::id::OrderId;
use crate::identity::Identity;
use crate::market::offer::Offer;
use crate::market::order::Order;
use crate::market::payment;
use crate::market::receipt::{HOLD_MS, Receipt};
use crate::market::refusal::Refusal;
use crate::statement::{Signed, SignedBytes, StatementError, bytes_or_hex};

/// What a buyer sends to buy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurchaseRequest {
    /// The seller's signed offer, as it was received.
    pub offer: SignedBytes,
    /// The buyer's signed order.
    pub order: SignedBytes,
    /// The payment: Atomic BEEF (BRC-95), within [`BeefLimits::PAYMENT`].
    #[serde(with = "bytes_or_hex")]
    pub payment: Vec<u8>,
}

/// How far a sale has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaleState {
    /// The payment verifies; the network has not answered yet.
    Admitted,
    /// Paid: the seller owes the readings.
    Sold {
        /// The seller's signed receipt.
        receipt: SignedBytes,
    },
}

/// One order at its seller. This is the durable record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sale {
    /// What the buyer sent.
    pub request: PurchaseRequest,
    /// The order's id.
    pub order: OrderId,
    /// Who buys.
    pub buyer: PublicKey,
    /// The paying transaction.
    pub txid: Txid,
    /// Its output that pays us.
    pub vout: u32,
    /// What that output holds.
    pub paid: Satoshis,
    /// When it was admitted, milliseconds since the Unix epoch.
    pub admitted_ms: i64,
    /// How far it has come.
    pub state: SaleState,
}

/// What has happened outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SaleEvent {
    /// The network has taken the payment (or had it already).
    Accepted,
    /// The network refuses the payment.
    Rejected {
        /// Another transaction has spent an input.
        double_spent: bool,
        /// What the network says.
        reason: String,
    },
    /// No chain source answered: nothing is known.
    Unavailable,
}

/// What the driver is to do, after storing the sale.
#[derive(Debug, Clone, PartialEq)]
pub enum SaleAction {
    /// Give the payment to the network and come back with a [`SaleEvent`].
    Broadcast,
    /// Take the coin into the wallet, in the same stored step as the sale.
    Credit {
        /// BRC-29 invoice number under which our key is derived; the counterparty is [`Sale::buyer`].
        invoice: String,
    },
    /// Answer the buyer with this receipt.
    Receipt(SignedBytes),
    /// Answer the buyer with this refusal.
    Refuse(Refusal),
    /// Remove the stored sale: the order was not charged.
    Forget,
}

/// What a purchase is held against.
pub struct Admission<'a, H> {
    /// The seller.
    pub seller: &'a Identity,
    /// The network.
    pub network: Network,
    /// Who sent the request, as the transport knows it.
    pub peer: &'a PublicKey,
    /// Our header chain.
    pub headers: &'a H,
    /// Now, milliseconds since the Unix epoch.
    pub now_ms: i64,
}

fn foreign(reason: &StatementError) -> Refusal {
    Refusal::ForeignOffer { reason: reason.to_string() }
}

/// The order in a request, checked to be the peer's own. Cheap: done before a stored sale is looked up by its id.
///
/// # Errors
/// [`Refusal::InvalidOrder`].
pub fn order_of(
    request: &PurchaseRequest,
    network: Network,
    peer: &PublicKey,
) -> Result<Signed<Order>, Refusal> {
    let order = request.order.clone().verify_by::<Order>(network, peer);
    let order = order.map_err(|error| Refusal::InvalidOrder { reason: error.to_string() })?;
    if &order.value().buyer != peer {
        return Err(Refusal::InvalidOrder { reason: "the buyer in it is not who sends it".into() });
    }
    Ok(order)
}

/// What a payment that verifies stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProofKind {
    /// A Merkle path of its own: it is in a block.
    Path,
    /// Its ancestors, down to proven ones.
    Ancestors,
}

/// How this payment of an order is proven by these headers; `None` where it does not verify or is not `txid`.
fn proof_of<H: HeaderView>(payment: &[u8], txid: &Txid, headers: &H) -> Option<ProofKind> {
    let beef = Beef::parse(payment, &BeefLimits::PAYMENT).ok()?;
    let is_it = beef.subject().as_ref() == Some(txid) && spv::verify(&beef, txid, headers).is_ok();
    let kind = if beef.bump_of(txid).is_some() { ProofKind::Path } else { ProofKind::Ancestors };
    is_it.then_some(kind)
}

impl Sale {
    /// Admits a first purchase request: the offer is ours, for this peer and still holds; the order is of it; the payment pays
    /// the order's key enough and verifies down to block headers. Answers the sale to store and then broadcast.
    ///
    /// A payment that is proven to be in a block is taken for [`HOLD_MS`] after the end of its offer.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing is to be stored then.
    pub fn admit<H: HeaderView>(request: PurchaseRequest, at: &Admission<'_, H>) -> Result<Self, Refusal> {
        let signed_order = order_of(&request, at.network, at.peer)?;
        let order = signed_order.value();
        let offer = request.offer.clone().verify_by::<Offer>(at.network, at.seller.public());
        let offer = offer.map_err(|error| foreign(&error))?;
        if order.offer != offer.digest(at.network) {
            return Err(Refusal::InvalidOrder { reason: "it is for another offer".into() });
        }
        let terms = offer.value();
        if &terms.buyer != at.peer {
            return Err(Refusal::ForeignOffer { reason: "it was made to another buyer".into() });
        }
        let is_over = terms.expires_ms <= at.now_ms;
        let expired = || Refusal::OfferExpired { expires_ms: terms.expires_ms };
        if terms.expires_ms.saturating_add(HOLD_MS) <= at.now_ms {
            return Err(expired());
        }
        let invalid = |reason: String| Refusal::PaymentInvalid { reason };
        let beef = Beef::parse(&request.payment, &BeefLimits::PAYMENT).map_err(|e| invalid(e.to_string()))?;
        let txid = beef.subject().ok_or_else(|| invalid("it holds no transaction".into()))?;
        // What is in a block is paid, whatever was said of it: whoever refused it, and has forgotten the order, gives what was bought all the same.
        if is_over && beef.bump_of(&txid).is_none() {
            return Err(expired());
        }
        let payment =
            beef.transaction(&txid).ok_or_else(|| invalid("it has no subject transaction".into()))?;
        let script = payment::script_for_seller(order, at.seller.key());
        let (vout, paid) = payment::find(payment, &script).ok_or(Refusal::PaymentToWrongKey { txid })?;
        if paid < terms.total {
            return Err(Refusal::PaymentTooSmall { txid, paid, price: terms.total });
        }
        spv::verify(&beef, &txid, at.headers)
            .map_err(|error| Refusal::unverified(&error, at.headers.tip_height()))?;
        let order = signed_order.id(at.network);
        let (buyer, admitted_ms) = (*at.peer, at.now_ms);
        Ok(Self { request, order, buyer, txid, vout, paid, admitted_ms, state: SaleState::Admitted })
    }

    /// What to do for a stored sale when its request comes again or the seller has restarted.
    #[must_use]
    pub fn resume(&self) -> SaleAction {
        match &self.state {
            SaleState::Admitted => SaleAction::Broadcast,
            SaleState::Sold { receipt } => SaleAction::Receipt(receipt.clone()),
        }
    }

    /// Takes an event. The driver stores the changed sale (or removes it, on [`SaleAction::Forget`]) and what `Credit` does to the wallet as one
    /// step, then answers.
    pub fn handle(
        &mut self,
        event: SaleEvent,
        seller: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Vec<SaleAction> {
        if let SaleState::Sold { receipt } = &self.state {
            // A late word of the network on a payment that was taken changes nothing: the wallet watches the chain.
            return vec![SaleAction::Receipt(receipt.clone())];
        }
        match event {
            SaleEvent::Accepted => match self.receipt(seller, network, now_ms) {
                Ok((receipt, invoice)) => {
                    self.state = SaleState::Sold { receipt: receipt.clone() };
                    vec![SaleAction::Credit { invoice }, SaleAction::Receipt(receipt)]
                }
                Err(error) => vec![SaleAction::Refuse(foreign(&error))],
            },
            SaleEvent::Rejected { double_spent: true, .. } => {
                vec![SaleAction::Forget, SaleAction::Refuse(Refusal::DoubleSpent { txid: self.txid })]
            }
            SaleEvent::Rejected { double_spent: false, reason } => {
                let refusal = Refusal::PaymentRejected { txid: self.txid, reason };
                vec![SaleAction::Forget, SaleAction::Refuse(refusal)]
            }
            SaleEvent::Unavailable => vec![SaleAction::Refuse(Refusal::ChainUnavailable)],
        }
    }

    fn receipt(
        &self,
        seller: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<(SignedBytes, String), StatementError> {
        let offer = self.offer(network)?;
        let order = self.request.order.clone().verify::<Order>(network)?;
        let terms = offer.value();
        let receipt = Receipt {
            order: self.order,
            offer: offer.digest(network),
            stream: terms.stream,
            first: terms.first,
            count: terms.count,
            paid: self.paid,
            txid: self.txid,
            issued_ms: now_ms,
        };
        let signed = Signed::sign(receipt, seller, network)?;
        Ok((signed.into_bytes(), payment::invoice(order.value())))
    }

    /// The offer that was ordered.
    ///
    /// # Errors
    /// Only when the stored record was altered.
    pub fn offer(&self, network: Network) -> Result<Signed<Offer>, StatementError> {
        self.request.offer.clone().verify::<Offer>(network)
    }

    /// Takes the same payment as it comes with a later request, where the network has not answered yet: with its Merkle path, or with its ancestors
    /// where the block of its path was replaced. Says whether the sale has changed.
    pub fn prove<H: HeaderView>(&mut self, payment: Vec<u8>, headers: &H) -> bool {
        if self.is_sold() || self.request.payment == payment {
            return false;
        }
        let proof = proof_of(&payment, &self.txid, headers);
        let is_better = match proof {
            Some(ProofKind::Path) => true,
            Some(ProofKind::Ancestors) => self.proof(headers).is_none(),
            None => false,
        };
        if is_better {
            self.request.payment = payment;
        }
        is_better
    }

    /// Whether the payment is proven to be in a block of these headers, so that the network need not be asked.
    #[must_use]
    pub fn is_mined<H: HeaderView>(&self, headers: &H) -> bool {
        self.proof(headers) == Some(ProofKind::Path)
    }

    /// Whether the payment does not verify by these headers, as the block that proved it or an ancestor of it was replaced. What the network says to it is no
    /// word on the transaction then.
    #[must_use]
    pub fn is_unproven<H: HeaderView>(&self, headers: &H) -> bool {
        self.proof(headers).is_none()
    }

    fn proof<H: HeaderView>(&self, headers: &H) -> Option<ProofKind> {
        proof_of(&self.request.payment, &self.txid, headers)
    }

    /// Whether the readings are owed.
    #[must_use]
    pub fn is_sold(&self) -> bool {
        matches!(self.state, SaleState::Sold { .. })
    }

    /// The paying transaction.
    #[must_use]
    pub fn transaction(&self) -> Option<Transaction> {
        let beef = Beef::parse(&self.request.payment, &BeefLimits::default()).ok()?;
        beef.transaction(&self.txid).cloned()
    }
}
