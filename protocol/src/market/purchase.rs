//! The buyer's side of a direct purchase, as a state machine.
//!
//! ```text
//!          Paid             Receipt               last page
//!  Agreed ──────▶ Paying ───────────▶ Delivering ───────────▶ Complete
//!                 │   ▲                  │  ▲
//!                 │   └─ no answer:      └──┘ each verified page
//!         Refused │      send again
//!                 ▼        TakenBack                Outdone
//!              Refused ──────────────▶ TakenBack ───────────▶ the same, for good
//!                 │                      │
//!                 │ NotTakenBack         │ NotTakenBack (the seller has the money all the same)
//!                 ▼                      ▼
//!              Withheld ── a later Receipt ──▶ Delivering
//!                 │
//!                 └─ TakenBack ──▶ TakenBack     what the network has changed once more, and the coins are back
//!
//!  Paying ── GiveUp ──▶ GivingUp ── TakenBack ──▶ GivenUp         a seller that stays silent binds no coins for ever
//!                          │                       │
//!                          └──── NotTakenBack ─────┴──▶ Paying    the seller has the money: ask on
//!                                                   ▲           │
//!                                                   └─ TakenBack ┘
//! ```
//!
//! From `NotTakenBack` on the order is [revived](Purchase::revived): nobody may be waiting for it any more, so the driver asks its seller until it is over.
//! A payment that is in a block goes to the seller with its Merkle path ([`PurchaseEvent::Proven`]): so proven, it is taken although its offer is over.
//!
//! That the network has what takes the coins back is no block: until that is [`SETTLED`] blocks deep a reorganisation may bring the payment back
//! (I6), and the order is kept in view.
//!
//! The driver stores the changed purchase, with what the actions do to wallet and bought data, as one step, and only then sends.
//! After a crash [`Purchase::resume`] says what to do: the very same bytes go out again, so the order is charged once.
//!
//! Invariant I1: the buyer signs for at most its exposure ([`Offer::accept`] checks it) and, in this mode, for one payment.

use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Satoshis, Txid};
use serde::{Deserialize, Serialize};

use crate::id::OrderId;
use crate::identity::Identity;
use crate::market::delivery::{DeliveryError, Page, ProvenPage};
#[cfg(doc)]
use crate::market::key_release::coin::SETTLED;
use crate::market::message::{Answer, Request, Response};
use crate::market::offer::Offer;
use crate::market::order::Order;
use crate::market::receipt::{HOLD_MS, Receipt};
use crate::market::refusal::Refusal;
use crate::market::sale::PurchaseRequest;
use crate::statement::{Signed, SignedBytes, StatementError, bytes_or_hex};

/// How far a purchase has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PurchaseState {
    /// The offer is accepted; nothing is signed away.
    Agreed,
    /// The payment is signed and its coins are reserved. It is sent until it is answered.
    Paying,
    /// Paid; readings come in.
    Delivering {
        /// The seller's receipt.
        receipt: SignedBytes,
    },
    /// Everything is here and verified.
    Complete {
        /// The seller's receipt.
        receipt: SignedBytes,
    },
    /// The seller refused the payment; the coins are being taken back.
    Refused {
        /// Why.
        refusal: Refusal,
    },
    /// The coins are back.
    TakenBack {
        /// Why the seller refused.
        refusal: Refusal,
    },
    /// The buyer waits no longer for an answer; the coins are being taken back.
    GivingUp,
    /// The buyer gave up, and the coins are back.
    GivenUp,
    /// The seller refused and has the money all the same. A retry may still bring the receipt; the stored record is the evidence.
    Withheld {
        /// What the seller said.
        refusal: Refusal,
    },
}

/// The signed payment of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPayment {
    /// The transaction.
    pub txid: Txid,
    /// It and its unproven ancestors: Atomic BEEF.
    #[serde(with = "bytes_or_hex")]
    pub beef: Vec<u8>,
}

/// One order at its buyer. This is the durable record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Purchase {
    /// The order's id.
    pub id: OrderId,
    /// Who sells.
    pub seller: PublicKey,
    /// The offer that was accepted.
    pub offer: SignedBytes,
    /// The order.
    pub order: SignedBytes,
    /// The payment, once signed.
    pub payment: Option<SignedPayment>,
    /// Next sequence number that is missing.
    pub next: u64,
    /// When it was agreed, milliseconds since the Unix epoch.
    pub agreed_ms: i64,
    /// Whether the payment can never be taken any more: what spends its coins instead is [`SETTLED`] blocks deep.
    #[serde(default)]
    pub outdone: bool,
    /// Whether the network had the payment when its coins were to be taken back, or after they were.
    #[serde(default)]
    pub revived: bool,
    /// How far it has come.
    pub state: PurchaseState,
}

/// What has happened outside.
#[derive(Debug, Clone, PartialEq)]
pub enum PurchaseEvent {
    /// The wallet has built and reserved the payment.
    Paid(SignedPayment),
    /// The seller has answered the last request.
    Response(Box<Response>),
    /// The buyer does not want to wait for an answer to its payment any longer.
    GiveUp,
    /// The network has taken the transaction that takes the coins back.
    TakenBack,
    /// The coins cannot be taken back, or are not any more: the network has the payment.
    NotTakenBack,
    /// What spends the coins of the payment instead is [`SETTLED`] blocks deep.
    Outdone,
    /// The same payment as it is proven now, as Atomic BEEF: with its Merkle path where it is in a block, with its ancestors where it was in one that was
    /// replaced.
    Proven(Vec<u8>),
}

/// What the driver is to do, after storing the purchase.
#[derive(Debug, Clone, PartialEq)]
pub enum PurchaseAction {
    /// Send this to the seller.
    Send(Box<Request>),
    /// Keep these verified readings, in the same stored step as the purchase.
    Keep(Box<ProvenPage>),
    /// The network has the payment: tell the wallet, in the same stored step.
    PaymentTaken(Txid),
    /// Spend the payment's inputs back to ourselves, so that the refused payment can never be taken later.
    TakeBack(Txid),
    /// Try the last request again later.
    Wait {
        /// Not before so many milliseconds.
        retry_ms: u64,
        /// Why.
        refusal: Refusal,
    },
    /// Everything is here.
    Finished,
}

/// Why an event does not fit. The purchase is unchanged.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PurchaseError {
    /// The answer is not one to what was asked.
    #[error("the seller answered {got} while the purchase is {state}")]
    UnexpectedAnswer {
        /// Kind of answer.
        got: &'static str,
        /// State of the purchase.
        state: &'static str,
    },
    /// A signature does not hold.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The receipt is for something else.
    #[error("the receipt does not fit the order: its {field} differs")]
    Receipt {
        /// First field that differs.
        field: &'static str,
    },
    /// The delivery does not verify.
    #[error("the delivery does not verify: {0}")]
    Delivery(#[from] DeliveryError),
    /// The seller does not deliver what it was paid for.
    #[error("the order is paid and the seller refuses to deliver: {0}")]
    NotDelivered(Refusal),
}

/// How long to wait after an answer that says only "later".
const RETRY_MS: u64 = 500;

impl Purchase {
    /// Takes an offer that [`Offer::accept`] has passed: signs the order. Nothing is owed yet.
    ///
    /// # Errors
    /// Only when the order cannot be signed.
    pub fn agree(
        offer: &Signed<Offer>,
        nonce: [u8; 16],
        buyer: &Identity,
        network: Network,
        now_ms: i64,
    ) -> Result<Self, StatementError> {
        let order = Order { offer: offer.digest(network), buyer: *buyer.public(), nonce };
        let order = Signed::sign(order, buyer, network)?;
        Ok(Self {
            id: order.id(network),
            seller: *offer.key(),
            next: offer.value().first,
            offer: offer.bytes().clone(),
            order: order.into_bytes(),
            payment: None,
            agreed_ms: now_ms,
            outdone: false,
            revived: false,
            state: PurchaseState::Agreed,
        })
    }

    /// The accepted offer.
    ///
    /// # Errors
    /// Only when the stored record was altered.
    pub fn terms(&self, network: Network) -> Result<Signed<Offer>, StatementError> {
        self.offer.clone().verify_by::<Offer>(network, &self.seller)
    }

    /// What is paid, or may be taken, and not delivered: the price of the readings that are missing.
    ///
    /// # Errors
    /// Only when the stored record was altered.
    pub fn at_risk(&self, network: Network) -> Result<Satoshis, StatementError> {
        if self.payment.is_none() || self.state.is_final() {
            return Ok(Satoshis::ZERO);
        }
        let offer = self.terms(network)?;
        let terms = offer.value();
        let missing = terms.first.saturating_add(terms.count).saturating_sub(self.next);
        // The price of a part is rounded up, and never more than that of the whole.
        Ok(terms.price.total(missing).map_or(terms.total, |part| part.min(terms.total)))
    }

    /// The order.
    ///
    /// # Errors
    /// Only when the stored record was altered.
    pub fn signed_order(&self, network: Network) -> Result<Signed<Order>, StatementError> {
        self.order.clone().verify::<Order>(network)
    }

    /// What to do now, given the state alone: at the beginning, after a crash, and to try again. `None` where nothing is to be done or only the wallet can
    /// act (`Agreed`: pay or drop it).
    #[must_use]
    pub fn resume(&self) -> Option<PurchaseAction> {
        match (&self.state, &self.payment) {
            (PurchaseState::Paying | PurchaseState::Withheld { .. }, Some(payment)) => {
                let (offer, order) = (self.offer.clone(), self.order.clone());
                let request = PurchaseRequest { offer, order, payment: payment.beef.clone() };
                Some(PurchaseAction::Send(Box::new(Request::Purchase(request))))
            }
            (PurchaseState::Delivering { .. }, _) => Some(self.fetch()),
            (PurchaseState::Refused { .. } | PurchaseState::GivingUp, Some(payment)) => {
                Some(PurchaseAction::TakeBack(payment.txid))
            }
            _ => None,
        }
    }

    fn fetch(&self) -> PurchaseAction {
        PurchaseAction::Send(Box::new(Request::Fetch { order: self.id, first: self.next }))
    }

    /// Takes an event; see the module for the states.
    ///
    /// # Errors
    /// [`PurchaseError`]: the event does not fit or does not verify; the purchase is as it was.
    pub fn handle(
        &mut self,
        event: PurchaseEvent,
        network: Network,
    ) -> Result<Vec<PurchaseAction>, PurchaseError> {
        match (event, self.state.clone()) {
            (PurchaseEvent::Paid(payment), PurchaseState::Agreed) => {
                self.payment = Some(payment);
                self.state = PurchaseState::Paying;
                Ok(self.resume().into_iter().collect())
            }
            (PurchaseEvent::GiveUp, PurchaseState::Paying) => {
                self.state = PurchaseState::GivingUp;
                Ok(self.resume().into_iter().collect())
            }
            (PurchaseEvent::TakenBack, PurchaseState::GivingUp) => {
                self.state = PurchaseState::GivenUp;
                Ok(Vec::new())
            }
            (PurchaseEvent::NotTakenBack, PurchaseState::GivingUp | PurchaseState::GivenUp)
                if !self.outdone =>
            {
                (self.state, self.revived) = (PurchaseState::Paying, true);
                Ok(self.taken().into_iter().chain(self.resume()).collect())
            }
            // The network has changed its mind once more.
            (PurchaseEvent::TakenBack, PurchaseState::Paying) if self.revived => {
                self.state = PurchaseState::GivenUp;
                Ok(Vec::new())
            }
            (
                PurchaseEvent::TakenBack,
                PurchaseState::Refused { refusal } | PurchaseState::Withheld { refusal },
            ) => {
                self.state = PurchaseState::TakenBack { refusal };
                Ok(Vec::new())
            }
            (
                PurchaseEvent::NotTakenBack,
                PurchaseState::Refused { refusal } | PurchaseState::TakenBack { refusal },
            ) if !self.outdone => {
                (self.state, self.revived) = (PurchaseState::Withheld { refusal }, true);
                Ok(self.taken().into_iter().collect())
            }
            (PurchaseEvent::Outdone, PurchaseState::TakenBack { .. } | PurchaseState::GivenUp) => {
                self.outdone = true;
                Ok(Vec::new())
            }
            (PurchaseEvent::Proven(beef), PurchaseState::Paying | PurchaseState::Withheld { .. }) => {
                if let Some(payment) = self.payment.as_mut() {
                    payment.beef = beef;
                }
                Ok(self.resume().into_iter().collect())
            }
            (PurchaseEvent::Response(response), state) => self.response(*response, &state, network),
            (
                PurchaseEvent::Paid(_)
                | PurchaseEvent::GiveUp
                | PurchaseEvent::TakenBack
                | PurchaseEvent::NotTakenBack
                | PurchaseEvent::Outdone
                | PurchaseEvent::Proven(_),
                _,
            ) => Ok(Vec::new()),
        }
    }

    /// Whether the coins are back, and may still be lost to the payment: until then the same readings are ordered anew only with a payment that
    /// excludes this one.
    #[must_use]
    pub const fn may_return(&self) -> bool {
        matches!(self.state, PurchaseState::TakenBack { .. } | PurchaseState::GivenUp) && !self.outdone
    }

    /// Whether the seller is asked for what it was paid for although nobody may be waiting for it.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        let is_withheld = matches!(self.state, PurchaseState::Withheld { .. });
        is_withheld || (self.revived && !self.state.is_final())
    }

    /// Whether the seller takes the payment no more, however well it is proven: its offer has been over for [`HOLD_MS`]. The record stays, as evidence.
    ///
    /// # Errors
    /// Only when the stored record was altered.
    pub fn is_lapsed(&self, network: Network, now_ms: i64) -> Result<bool, StatementError> {
        let unanswered = matches!(self.state, PurchaseState::Paying | PurchaseState::Withheld { .. });
        Ok(unanswered && self.terms(network)?.value().expires_ms.saturating_add(HOLD_MS) <= now_ms)
    }

    /// Whether the network was seen to have a payment that was to be taken back, and may turn out not to have it.
    #[must_use]
    pub const fn may_be_back(&self) -> bool {
        matches!(self.state, PurchaseState::Withheld { .. })
            || (self.revived && matches!(self.state, PurchaseState::Paying))
    }

    /// Whether nothing can change any more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.state.is_final() && !self.may_return()
    }

    fn taken(&self) -> Option<PurchaseAction> {
        self.payment.as_ref().map(|payment| PurchaseAction::PaymentTaken(payment.txid))
    }

    fn response(
        &mut self,
        response: Response,
        state: &PurchaseState,
        network: Network,
    ) -> Result<Vec<PurchaseAction>, PurchaseError> {
        let paying = matches!(state, PurchaseState::Paying | PurchaseState::Withheld { .. });
        match (response, state) {
            (Response::Refused(refusal), PurchaseState::Paying) if !refusal.is_temporary() => {
                self.state = PurchaseState::Refused { refusal };
                Ok(self.resume().into_iter().collect())
            }
            (Response::Refused(refusal), PurchaseState::Withheld { .. }) if !refusal.is_temporary() => {
                Ok(Vec::new())
            }
            (Response::Refused(refusal), _) if refusal.is_temporary() => {
                let retry_ms = match refusal {
                    Refusal::Busy { retry_ms } => retry_ms.clamp(1, 60_000),
                    _ => RETRY_MS,
                };
                Ok(vec![PurchaseAction::Wait { retry_ms, refusal }])
            }
            (Response::Refused(refusal), PurchaseState::Delivering { .. }) => {
                Err(PurchaseError::NotDelivered(refusal))
            }
            (Response::Ok(Answer::Receipt(receipt)), _) if paying => {
                self.check_receipt(&receipt, network)?;
                self.state = PurchaseState::Delivering { receipt };
                Ok(self.taken().into_iter().chain([self.fetch()]).collect())
            }
            (Response::Ok(Answer::Page(page)), PurchaseState::Delivering { receipt }) => {
                let receipt = receipt.clone();
                self.page(&page, receipt, network)
            }
            (response, state) => {
                Err(PurchaseError::UnexpectedAnswer { got: response.name(), state: state.name() })
            }
        }
    }

    fn check_receipt(&self, receipt: &SignedBytes, network: Network) -> Result<(), PurchaseError> {
        let receipt = receipt.clone().verify_by::<Receipt>(network, &self.seller)?;
        let offer = self.terms(network)?;
        let (receipt, terms) = (receipt.value(), offer.value());
        let txid = self.payment.as_ref().map(|payment| payment.txid);
        let differs = [
            ("order", receipt.order != self.id),
            ("offer", receipt.offer != offer.digest(network)),
            ("stream", receipt.stream != terms.stream),
            ("first", receipt.first != terms.first),
            ("count", receipt.count != terms.count),
            ("paid", receipt.paid < terms.total),
            ("txid", Some(receipt.txid) != txid),
        ];
        match differs.into_iter().find(|(_, differs)| *differs) {
            Some((field, _)) => Err(PurchaseError::Receipt { field }),
            None => Ok(()),
        }
    }

    fn page(
        &mut self,
        page: &Page,
        receipt: SignedBytes,
        network: Network,
    ) -> Result<Vec<PurchaseAction>, PurchaseError> {
        let offer = self.terms(network)?;
        let terms = offer.value();
        let checkpoint = terms.checkpoint.clone().verify_by(network, &self.seller)?;
        let end = terms.first.saturating_add(terms.count);
        let proven = page.open(&terms.schema, checkpoint.value(), self.next, end)?;
        self.next = proven.end();
        let keep = PurchaseAction::Keep(Box::new(proven));
        if self.next == end {
            self.state = PurchaseState::Complete { receipt };
            return Ok(vec![keep, PurchaseAction::Finished]);
        }
        Ok(vec![keep, self.fetch()])
    }
}

impl PurchaseState {
    /// The state's name in lower case, for people and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Agreed => "agreed",
            Self::Paying => "paying",
            Self::Delivering { .. } => "delivering",
            Self::Complete { .. } => "complete",
            Self::Refused { .. } => "refused",
            Self::GivingUp => "giving up",
            Self::GivenUp => "given up",
            Self::TakenBack { .. } => "taken back",
            Self::Withheld { .. } => "withheld",
        }
    }

    /// Whether nothing more is to be done. The coins of an order that is taken back may still be lost, see [`Purchase::may_return`].
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Complete { .. } | Self::TakenBack { .. } | Self::GivenUp)
    }
}
