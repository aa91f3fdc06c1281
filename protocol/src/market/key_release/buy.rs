//! The buyer's side of a batch, as a state machine.
//!
//! ```text
//!         agree            the last part           Paid              the network has the coin
//!  offer ──────▶ Receiving ────────────▶ Received ──────▶ Locking ─────────────────────────────▶ Waiting
//!                   │ ▲                    │                │  ▲                                 │   │
//!                   │ └ each part,         │ GiveUp         │  └ not taken back: the network     │   │ the refund height,
//!            GiveUp │   checked            │        refused,│    has it all the same             │   │ and nobody has claimed
//!                   ▼                      ▼        GiveUp  ▼                                    │   ▼
//!                Dropped ◀─────────────────┘           TakingBack ──▶ TakenBack                  │ Refunding ──▶ Refunded
//!                                                                                                │   │
//!      whatever shows the key, in any state with all parts:                                      │   │
//!                                                                  ┌─────────────────────────────┘   │
//!                 the last part opened             the key         ▼                                 │
//!  Complete ◀────────────────────────── Revealed ◀────────────────────────────────────────────────────┘
//!                                          │
//!  Cheated: the proof is kept ◀────────────┘ a part that is not what was sold
//! ```
//!
//! The driver stores the changed purchase, with what the actions do to wallet, parts and bought data, as one step, and only then sends.
//! After a crash [`BatchPurchase::resume`] says what to do: the very same coin goes out again, so the order is charged once.
//!
//! Invariant I1: nothing is signed away before all parts are here and checked, and then the price and no more. A key that is not
//! shown costs nothing but time: the refund goes out by itself. A part that does not open as it was sold is a proof that anybody checks.

#![warn(clippy::arithmetic_side_effects)]

mod chain;
mod open;

use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::RefundError;
use sensora_chain::contract::key_release::KeyReleaseTerms;
use sensora_chain::keys::{PrivateKey, PublicKey};
use sensora_chain::{FeeRate, Network, Satoshis, Script, Transaction, Txid};
use serde::{Deserialize, Serialize};

use super::coin::{self, Coin, CoinView};
use super::frame::{Begin, ToBuyer, ToSeller};
use super::key::BatchKey;
use super::misbehaviour::{MisbehaviourError, MisbehaviourProof};
use super::offer::{BatchTerms, KeyReleaseOffer, KeyReleaseOfferError};
use super::parts::{Arrivals, PartError, ProvenPart};
use crate::id::OrderId;
use crate::identity::Identity;
use crate::market::delivery::ProvenPage;
use crate::market::order::Order;
use crate::market::payment;
use crate::market::purchase::SignedPayment;
use crate::market::refusal::Refusal;
use crate::statement::{Signed, SignedBytes, StatementError, bytes_or_hex};

/// One order of a batch at its buyer. This is the durable record; the encrypted parts are kept beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchPurchase {
    /// The order's id.
    pub id: OrderId,
    /// Who sells.
    pub seller: PublicKey,
    /// The offer that was accepted.
    pub offer: SignedBytes,
    /// The order.
    pub order: SignedBytes,
    /// The encrypted parts that are here.
    pub arrivals: Arrivals,
    /// The coin, once signed.
    pub coin: Option<Coin>,
    /// Whether the network has had the coin.
    pub taken: bool,
    /// The key, once shown.
    pub key: Option<BatchKey>,
    /// The seller's receipt, once here. Nothing depends on it.
    pub receipt: Option<SignedBytes>,
    /// The mined refund that the wallet was told of.
    pub credited: Option<Txid>,
    /// When it was agreed, milliseconds since the Unix epoch.
    pub agreed_ms: i64,
    /// How far it has come.
    pub state: BatchPurchaseState,
}

/// How far a purchase has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchPurchaseState {
    /// Encrypted parts come in. Nothing is signed away.
    Receiving,
    /// All parts are here. Nothing is signed away.
    Received,
    /// The coin is signed and reserved. It is sent until the network has it.
    Locking,
    /// The network has the coin; the key is to be shown.
    Waiting,
    /// The coin is not wanted any more, or not by the seller; its inputs are being taken back.
    TakingBack {
        /// What the seller said, if it was the seller.
        refusal: Option<Refusal>,
    },
    /// The coin's inputs are back.
    TakenBack {
        /// What the seller said, if it was the seller.
        refusal: Option<Refusal>,
    },
    /// The refund height has come and nobody has claimed.
    Refunding {
        /// The refund.
        #[serde(with = "bytes_or_hex")]
        refund: Vec<u8>,
    },
    /// The refund is settled.
    Refunded,
    /// The key is here; parts are being opened.
    Revealed {
        /// The part that is opened next.
        opened: u32,
    },
    /// Everything is here and verified.
    Complete,
    /// A part was not what was sold.
    Cheated {
        /// For anybody to check.
        proof: Box<MisbehaviourProof>,
    },
    /// The coin is gone, settled, to the seller, and the key is not to be seen in how: it is the result of opcodes there. Whoever runs
    /// the script finds it; [`BuyEvent::Key`] brings it.
    Unreadable {
        /// The transaction that took the coin.
        #[serde(with = "bytes_or_hex")]
        claim: Vec<u8>,
    },
    /// Given up before anything was signed away.
    Dropped,
}

/// What a buyer acts with.
#[derive(Debug, Clone, Copy)]
pub struct BuyerAt<'a> {
    /// The buyer.
    pub buyer: &'a Identity,
    /// The network.
    pub network: Network,
    /// What a refund pays its miner.
    pub rate: FeeRate,
}

/// What has happened outside.
#[derive(Debug, Clone, PartialEq)]
pub enum BuyEvent {
    /// The seller has sent a frame.
    Frame(Box<ToBuyer>),
    /// The wallet has built and reserved the coin, in the same stored step.
    Paid(SignedPayment),
    /// What is seen of the coin; before there is one, only how far the chain is.
    View(Box<CoinView>),
    /// Nobody can be asked about the coin; the best chain has this height all the same.
    Blind {
        /// Height of the best chain.
        tip: u32,
    },
    /// The stored part that [`BuyAction::Open`] has asked for; `None` where it is lost.
    Stored(Option<Box<ProvenPart>>),
    /// The key, read out of the claim by whoever runs its script.
    Key(BatchKey),
    /// The buyer does not want to go on.
    GiveUp,
    /// The network has taken the transaction that takes the coin's inputs back, or has never been able to get the coin.
    TakenBack,
    /// They cannot be taken back: the network has the coin.
    NotTakenBack,
}

/// What the driver is to do, after storing the purchase.
#[derive(Debug, Clone, PartialEq)]
pub enum BuyAction {
    /// Send this frame.
    Send(ToSeller),
    /// Keep this encrypted part, in the same stored step as the purchase.
    KeepPart(Box<ProvenPart>),
    /// Build and reserve a transaction with this output, and come back with [`BuyEvent::Paid`].
    Lock {
        /// The locking script.
        locking: Script,
        /// What the output holds.
        value: Satoshis,
    },
    /// The network has the coin: tell the wallet, in the same stored step.
    PaymentTaken(Txid),
    /// Spend the coin's inputs back to ourselves, so that it can never be taken later.
    TakeBack(Txid),
    /// Give the coin (Atomic BEEF) to the network.
    Broadcast(Vec<u8>),
    /// Give the refund to the network, now and until a view shows it.
    Refund(Vec<u8>),
    /// Take the mined refund's output into the wallet, in the same stored step as the purchase.
    Credit {
        /// The refund as it was mined.
        transaction: Transaction,
        /// BRC-29 invoice number under which our key is derived; the counterparty is [`BatchPurchase::seller`].
        invoice: String,
    },
    /// Read this stored part and come back with [`BuyEvent::Stored`].
    Open(u32),
    /// Keep these verified readings, in the same stored step as the purchase.
    Keep(Box<ProvenPage>),
    /// The seller has cheated, and this shows it.
    Accuse(Box<MisbehaviourProof>),
    /// Try the last frame again later.
    Wait {
        /// Not before so many milliseconds.
        retry_ms: u64,
        /// Why.
        refusal: Refusal,
    },
    /// Everything is here.
    Finished,
}

/// Why an event is not followed. The purchase is as it was.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuyError {
    /// The frame is not one for now.
    #[error("the seller sent `{frame}` while the order is {state}")]
    Unexpected {
        /// The frame.
        frame: &'static str,
        /// How far the order is.
        state: &'static str,
    },
    /// A part is not the one that was offered. Nothing is paid.
    #[error("the delivery does not verify, nothing is paid: {0}")]
    Part(#[from] PartError),
    /// The stored record was altered.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The coin is not the one of this order.
    #[error("this is not the coin of order {order}: {reason}")]
    Coin {
        /// The order.
        order: OrderId,
        /// What does not fit.
        reason: String,
    },
    /// The seller has another coin for the order.
    #[error(
        "the seller has coin {found} for this order, ours is {own}: give this one up, the other one pays"
    )]
    OtherCoin {
        /// What the seller has.
        found: Txid,
        /// What we have.
        own: Txid,
    },
    /// What was sent as the claim does not show the key.
    #[error("the seller sent a claim that does not show the key; the chain is watched for the true one")]
    NoKey,
    /// The seller refuses.
    #[error("the seller refuses: {0}")]
    Refused(Refusal),
    /// The refund cannot be made now.
    #[error("the coin of order {order} cannot be taken back: {source}")]
    Refund {
        /// The order.
        order: OrderId,
        /// Why.
        source: RefundError,
    },
    /// A part does not open, and the proof of that does not hold. The seller is not accused.
    #[error("part {index} does not open, and that does not convict the seller: {source}")]
    NotProven {
        /// Which part.
        index: u32,
        /// What is wrong with the proof.
        source: Box<MisbehaviourError>,
    },
}

/// How long to wait after an answer that says only "later".
const RETRY_MS: u64 = 500;

type Actions = Result<Vec<BuyAction>, BuyError>;

impl BatchPurchase {
    /// Takes an offer that [`KeyReleaseOffer::accept`] has passed: signs the order. Nothing is owed yet.
    ///
    /// # Errors
    /// Only when the order cannot be signed.
    pub fn agree(
        offer: &Signed<KeyReleaseOffer>,
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
            offer: offer.bytes().clone(),
            order: order.into_bytes(),
            arrivals: Arrivals::default(),
            coin: None,
            taken: false,
            key: None,
            receipt: None,
            credited: None,
            agreed_ms: now_ms,
            state: BatchPurchaseState::Receiving,
        })
    }

    /// The terms of the accepted offer.
    ///
    /// # Errors
    /// Only when the stored record was altered.
    pub fn terms(&self, network: Network) -> Result<BatchTerms, KeyReleaseOfferError> {
        BatchTerms::read(&self.offer, network, &self.seller)
    }

    /// What may be lost: the coin, until the readings or the money are here.
    #[must_use]
    pub fn at_risk(&self) -> Satoshis {
        match &self.coin {
            Some(coin) if !self.state.is_final() => coin.value,
            _ => Satoshis::ZERO,
        }
    }

    /// What to do now, given the state alone: at the beginning, on each new stream, after a crash, and to try again. Beside it the driver
    /// hands in a [`BuyEvent::View`] with each block.
    #[must_use]
    pub fn resume(&self) -> Vec<BuyAction> {
        match (&self.state, &self.coin) {
            (
                BatchPurchaseState::Receiving
                | BatchPurchaseState::Received
                | BatchPurchaseState::Locking
                | BatchPurchaseState::Waiting,
                _,
            ) => vec![self.begin(self.arrivals.next)],
            (BatchPurchaseState::TakingBack { .. }, Some(coin)) => vec![BuyAction::TakeBack(coin.txid)],
            (BatchPurchaseState::Refunding { refund }, _) => vec![BuyAction::Refund(refund.clone())],
            (BatchPurchaseState::Revealed { opened }, _) => vec![BuyAction::Open(*opened)],
            _ => Vec::new(),
        }
    }

    fn begin(&self, next: u32) -> BuyAction {
        let (offer, order) = (self.offer.clone(), self.order.clone());
        BuyAction::Send(ToSeller::Begin(Box::new(Begin { offer, order, next })))
    }

    /// Takes an event; see the module for the states.
    ///
    /// # Errors
    /// [`BuyError`].
    pub fn handle(
        &mut self,
        event: BuyEvent,
        terms: &BatchTerms,
        at: &BuyerAt<'_>,
    ) -> Result<Vec<BuyAction>, BuyError> {
        // What fails half way has changed nothing.
        let mut next = self.clone();
        let actions = next.follow(event, terms, at)?;
        *self = next;
        Ok(actions)
    }

    fn follow(&mut self, event: BuyEvent, terms: &BatchTerms, at: &BuyerAt<'_>) -> Actions {
        match event {
            BuyEvent::Frame(frame) => self.frame(*frame, terms, at),
            BuyEvent::View(view) => self.view(&view, terms, at),
            BuyEvent::Blind { tip } => self.blind(tip, terms, at),
            BuyEvent::Stored(part) => self.stored(part.as_deref(), terms, at.network),
            BuyEvent::Key(key) if key.hash() == terms.key_hash => Ok(self.reveal(key, terms)),
            BuyEvent::Key(_) => Err(BuyError::NoKey),
            BuyEvent::Paid(payment) => self.paid(&payment.beef, terms, at),
            BuyEvent::GiveUp => Ok(self.give_up(None)),
            BuyEvent::TakenBack => {
                if let BatchPurchaseState::TakingBack { refusal } = &self.state {
                    self.state = BatchPurchaseState::TakenBack { refusal: refusal.clone() };
                }
                Ok(Vec::new())
            }
            BuyEvent::NotTakenBack if matches!(self.state, BatchPurchaseState::TakingBack { .. }) => {
                self.state = BatchPurchaseState::Waiting;
                Ok(self.note_taken().into_iter().collect())
            }
            BuyEvent::NotTakenBack => Ok(Vec::new()),
        }
    }

    fn paid(&mut self, beef: &[u8], terms: &BatchTerms, at: &BuyerAt<'_>) -> Actions {
        if self.state != BatchPurchaseState::Received {
            return Ok(Vec::new());
        }
        self.coin = Some(self.coin_in(beef, terms, at)?);
        self.state = BatchPurchaseState::Locking;
        Ok(vec![BuyAction::Send(ToSeller::Lock(beef.to_vec()))])
    }

    fn give_up(&mut self, refusal: Option<Refusal>) -> Vec<BuyAction> {
        let early = matches!(
            self.state,
            BatchPurchaseState::Receiving | BatchPurchaseState::Received | BatchPurchaseState::Locking
        );
        if !early || self.taken {
            return Vec::new();
        }
        self.state = match &self.coin {
            None => BatchPurchaseState::Dropped,
            Some(_) => BatchPurchaseState::TakingBack { refusal },
        };
        self.resume()
    }

    fn frame(&mut self, frame: ToBuyer, terms: &BatchTerms, at: &BuyerAt<'_>) -> Actions {
        let name = frame.name();
        match frame {
            ToBuyer::Alive => Ok(Vec::new()),
            ToBuyer::Begun { coin } => self.begun(coin.as_ref().map(|beef| beef.0.as_slice()), terms, at),
            ToBuyer::Parts(parts) => self.parts(parts, terms, at),
            ToBuyer::Locked { txid } => match &self.coin {
                // It is the seller's word; the chain says when it is true.
                Some(coin) if coin.txid == txid => Ok(Vec::new()),
                Some(coin) => Err(BuyError::OtherCoin { found: txid, own: coin.txid }),
                None => Err(BuyError::Unexpected { frame: name, state: self.state.name() }),
            },
            ToBuyer::Claimed { claim, receipt } => {
                let key = Transaction::from_bytes(&claim).ok().and_then(|claim| chain::key_in(&claim, terms));
                let key = key.ok_or(BuyError::NoKey)?;
                if self.receipt.is_none() {
                    self.receipt = self.fitting(receipt, terms, at.network);
                }
                Ok(self.reveal(key, terms))
            }
            ToBuyer::Refused(refusal) if refusal.is_temporary() => {
                let retry_ms = match refusal {
                    Refusal::Busy { retry_ms } => retry_ms.clamp(1, 60_000),
                    _ => RETRY_MS,
                };
                Ok(vec![BuyAction::Wait { retry_ms, refusal }])
            }
            ToBuyer::Refused(refusal) => match self.state {
                BatchPurchaseState::Locking if !self.taken => Ok(self.give_up(Some(refusal))),
                _ => Err(BuyError::Refused(refusal)),
            },
            ToBuyer::Offer(_) => Err(BuyError::Unexpected { frame: name, state: self.state.name() }),
        }
    }

    /// The seller has taken the order. If it has a coin of ours that we do not know, our old backup was restored: that coin pays. If we
    /// have one that it does not know, it has not come yet, or its backup was restored.
    fn begun(&mut self, coin: Option<&[u8]>, terms: &BatchTerms, at: &BuyerAt<'_>) -> Actions {
        match (&self.state, &self.coin, coin) {
            (BatchPurchaseState::Receiving | BatchPurchaseState::Received, None, Some(beef)) => {
                self.coin = Some(self.coin_in(beef, terms, at)?);
            }
            (BatchPurchaseState::Locking | BatchPurchaseState::Waiting, Some(own), None) => {
                return Ok(vec![BuyAction::Send(ToSeller::Lock(own.beef.clone()))]);
            }
            _ => {}
        }
        if self.state == BatchPurchaseState::Received { self.pay(terms, at) } else { Ok(Vec::new()) }
    }

    fn parts(&mut self, parts: Vec<ProvenPart>, terms: &BatchTerms, at: &BuyerAt<'_>) -> Actions {
        if matches!(self.state, BatchPurchaseState::Revealed { .. }) {
            return self.sent_again(parts, terms, at.network);
        }
        if self.state != BatchPurchaseState::Receiving {
            return Ok(Vec::new());
        }
        let mut arrivals = self.arrivals;
        let mut actions = Vec::new();
        // What is here already comes again after a break, and is passed over.
        for part in parts.into_iter().filter(|part| part.part.index >= self.arrivals.next) {
            arrivals.take(&part, terms)?;
            actions.push(BuyAction::KeepPart(Box::new(part)));
        }
        self.arrivals = arrivals;
        if self.arrivals.is_complete(terms) {
            self.state = BatchPurchaseState::Received;
            actions.extend(self.pay(terms, at)?);
        }
        Ok(actions)
    }

    /// All parts are here: the order is to be paid, unless it is.
    fn pay(&mut self, terms: &BatchTerms, at: &BuyerAt<'_>) -> Actions {
        if let Some(key) = self.key.clone() {
            return Ok(self.reveal(key, terms));
        }
        if let Some(coin) = &self.coin {
            let lock = BuyAction::Send(ToSeller::Lock(coin.beef.clone()));
            self.state = BatchPurchaseState::Locking;
            return Ok(vec![lock]);
        }
        let (contract, _) = self.contract(terms, at)?;
        Ok(vec![BuyAction::Lock { locking: contract.locking(), value: terms.total }])
    }

    fn coin_in(&self, beef: &[u8], terms: &BatchTerms, at: &BuyerAt<'_>) -> Result<Coin, BuyError> {
        let wrong = |reason: String| BuyError::Coin { order: self.id, reason };
        let (contract, _) = self.contract(terms, at)?;
        let parsed = Beef::parse(beef, &BeefLimits::DEFAULT).map_err(|error| wrong(error.to_string()))?;
        let txid = parsed.subject().ok_or_else(|| wrong("it holds no transaction".into()))?;
        let found = parsed.transaction(&txid).and_then(|tx| payment::find(tx, &contract.locking()));
        let (vout, value) = found.ok_or_else(|| wrong(format!("no output of {txid} is its key release")))?;
        if value < terms.total {
            return Err(wrong(format!("it holds {value}, the price is {}", terms.total)));
        }
        Ok(Coin { txid, vout, value, beef: beef.to_vec() })
    }

    fn contract(
        &self,
        terms: &BatchTerms,
        at: &BuyerAt<'_>,
    ) -> Result<(KeyReleaseTerms, PrivateKey), StatementError> {
        let order = self.order.clone().verify_by::<Order>(at.network, at.buyer.public())?;
        Ok(coin::for_buyer(order.value(), terms, at.buyer.key()))
    }
}

impl BatchPurchaseState {
    /// The state's name in lower case, for people and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Received => "received",
            Self::Locking => "locking",
            Self::Waiting => "waiting",
            Self::TakingBack { .. } => "taking back",
            Self::TakenBack { .. } => "taken back",
            Self::Refunding { .. } => "refunding",
            Self::Refunded => "refunded",
            Self::Revealed { .. } => "revealed",
            Self::Complete => "complete",
            Self::Cheated { .. } => "cheated",
            Self::Unreadable { .. } => "unreadable",
            Self::Dropped => "dropped",
        }
    }

    /// Whether nothing more is to be done.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::TakenBack { .. } | Self::Refunded | Self::Complete | Self::Cheated { .. } | Self::Dropped
        )
    }
}
