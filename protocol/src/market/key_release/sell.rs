//! The seller's side of a batch, as a state machine.
//!
//! ```text
//!             admit               lock                    the coin is firm                 7 confirmations
//!  (offered) ───────▶ Delivering ──────▶ Locked ─────────────────────────▶ Claimed ──────────────────────▶ Done
//!                         ▲               │  │                              │   ▲
//!                         └───────────────┘  │ the refund height is near    │   └ a reorganisation took coin or claim:
//!                       the network refuses  ▼                              │     the same bytes go out again
//!                       the coin          Lapsed: the key is never shown    │
//!                                            │                              │
//!                                            └──────▶ TakenBack ◀───────────┘ the refund is mined all the same
//! ```
//!
//! An offer is not stored: the buyer sends it back, and the key follows from it ([`BatchSecret`]). The driver stores a changed sale before
//! it carries out the actions that come with it, keeps one sale for each order id, and lets [`BatchSale::view`] know what it sees of the
//! coin, after a restart too. So an order is charged once, whatever coin a repeat carries.
//!
//! Showing the key cannot be undone. It is shown only when the coin is as deep in the chain as the seller wants it, and not when the
//! refund height is nearer than [`CLAIM_MARGIN`](super::offer::CLAIM_MARGIN); once it is shown, the claim goes out until it is settled.

#![warn(clippy::arithmetic_side_effects)]

use std::ops::Range;

use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::key_release::{ClaimError, KeyRelease, KeyReleaseSpend, KeyReleaseTerms};
use sensora_chain::contract::verify_input;
use sensora_chain::header::HeaderView;
use sensora_chain::keys::{PrivateKey, PublicKey};
use sensora_chain::spv;
use sensora_chain::{FeeRate, Network, SighashCache, Transaction, Txid};
use serde::{Deserialize, Serialize};

use super::coin::{self, Coin, CoinView, SETTLED, Spend, Standing};
use super::frame::{AtomicBeef, Begin, ToBuyer};
use super::key::BatchSecret;
use super::offer::{BatchTerms, KeyReleaseOffer, KeyReleaseOfferError};
use crate::id::OrderId;
use crate::identity::Identity;
use crate::market::order::Order;
use crate::market::payment;
use crate::market::receipt::Receipt;
use crate::market::refusal::Refusal;
use crate::statement::{Signed, SignedBytes, StatementError, bytes_or_hex};

/// Confirmations of the coin before the key is shown, where the seller says nothing else: deeper than a reorganisation that changes
/// nothing (I6). With fewer, a buyer that has miners could take the coin away under a claim that has shown the key.
pub const DEFAULT_CONFIRMATIONS: u32 = SETTLED;

/// One order of a batch at its seller. This is the durable record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchSale {
    /// The order's id.
    pub order: OrderId,
    /// Who buys.
    pub buyer: PublicKey,
    /// The offer that is ordered.
    pub offer: SignedBytes,
    /// The buyer's signed order.
    pub signed_order: SignedBytes,
    /// When it was admitted, milliseconds since the Unix epoch.
    pub admitted_ms: i64,
    /// How far it has come.
    pub state: BatchSaleState,
}

/// How far a sale has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchSaleState {
    /// Encrypted parts go out. Nothing is owed by anybody.
    Delivering,
    /// The coin is verified; the key is not shown.
    Locked {
        /// The coin.
        coin: Coin,
        /// Whether the network has had it.
        taken: bool,
    },
    /// The key is shown.
    Claimed {
        /// The coin.
        coin: Coin,
        /// The transaction that takes it.
        #[serde(with = "bytes_or_hex")]
        claim: Vec<u8>,
        /// The seller's signed receipt.
        receipt: SignedBytes,
        /// Whether the network has had the claim. Before that the buyer is not sent it: were it lost here, the key would be given away.
        seen: bool,
        /// The mined claim that the wallet was told of.
        credited: Option<Txid>,
    },
    /// The claim is settled.
    Done {
        /// The coin.
        coin: Coin,
        /// The transaction that took it.
        #[serde(with = "bytes_or_hex")]
        claim: Vec<u8>,
        /// The seller's signed receipt.
        receipt: SignedBytes,
    },
    /// The coin came, or became firm, too near to its refund height. The key is not shown any more.
    Lapsed {
        /// The coin.
        coin: Coin,
    },
    /// The buyer has its coin back, settled.
    TakenBack {
        /// Whether the key was shown before: then the batch is lost.
        shown: bool,
    },
}

/// What a seller acts with.
#[derive(Debug, Clone, Copy)]
pub struct SellerAt<'a> {
    /// The seller.
    pub seller: &'a Identity,
    /// From which its keys follow.
    pub secret: &'a BatchSecret,
    /// The network.
    pub network: Network,
    /// What a claim pays its miner.
    pub rate: FeeRate,
    /// Confirmations of a coin before its key is shown: [`DEFAULT_CONFIRMATIONS`], or by value fewer. 0 shows it as soon as the network
    /// has the coin, and is for amounts that may be lost to a double spend.
    pub confirmations: u32,
    /// Now, milliseconds since the Unix epoch.
    pub now_ms: i64,
}

/// What the network says to the coin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoinVerdict {
    /// It has taken it, or had it already.
    Accepted,
    /// It refuses it.
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
pub enum SellAction {
    /// Send this frame.
    Frame(ToBuyer),
    /// Send these parts, as many to a frame as fit.
    SendParts(Range<u32>),
    /// Give the coin (Atomic BEEF) to the network and come back with a [`CoinVerdict`].
    Broadcast(Vec<u8>),
    /// Give the claim to the network, now and until a view shows it.
    Claim(Vec<u8>),
    /// Take the mined claim's output into the wallet, in the same stored step as the sale.
    Credit {
        /// The claim as it was mined.
        transaction: Transaction,
        /// BRC-29 invoice number under which our key is derived; the counterparty is [`BatchSale::buyer`].
        invoice: String,
    },
    /// Remove the stored sale: it was not paid, and cannot be any more.
    Forget,
}

/// Why an event is not followed. The sale is as it was.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SellError {
    /// The stored record was altered, or the receipt cannot be signed.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The claim cannot be made now.
    #[error("the coin of order {order} cannot be claimed: {source}")]
    Claim {
        /// The order.
        order: OrderId,
        /// Why.
        source: ClaimError,
    },
}

impl BatchSale {
    /// Admits an order that begins: the offer is ours, for this peer, and its key is one that we can show; the order is of it, and there
    /// is time to pay it. Answers the sale to store.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing is to be stored then.
    pub fn admit(
        begin: &Begin,
        peer: &PublicKey,
        tip: u32,
        at: &SellerAt<'_>,
    ) -> Result<(Self, BatchTerms), Refusal> {
        let invalid = |reason: String| Refusal::InvalidOrder { reason };
        let foreign = |reason: String| Refusal::ForeignOffer { reason };
        let order = begin.order.clone().verify_by::<Order>(at.network, peer);
        let order = order.map_err(|error| invalid(error.to_string()))?;
        if &order.value().buyer != peer {
            return Err(invalid("the buyer in it is not who sends it".into()));
        }
        let offer = begin.offer.clone().verify_by::<KeyReleaseOffer>(at.network, at.seller.public());
        let offer = offer.map_err(|error| foreign(error.to_string()))?;
        let terms = BatchTerms::of(&offer, at.network);
        let terms = terms.map_err(|error: KeyReleaseOfferError| foreign(error.to_string()))?;
        if order.value().offer != terms.offer {
            return Err(invalid("it is for another offer".into()));
        }
        if &terms.buyer != peer {
            return Err(foreign("it was made to another buyer".into()));
        }
        if terms.expires_ms <= at.now_ms {
            return Err(Refusal::OfferExpired { expires_ms: terms.expires_ms });
        }
        if !terms.may_claim(tip.saturating_add(at.confirmations)) {
            return Err(too_late(&terms, tip));
        }
        if offer.value().key(at.secret).hash() != terms.key_hash {
            return Err(foreign("its key is not one of this seller's any more: ask for a new offer".into()));
        }
        let sale = Self {
            order: order.id(at.network),
            buyer: *peer,
            offer: begin.offer.clone(),
            signed_order: begin.order.clone(),
            admitted_ms: at.now_ms,
            state: BatchSaleState::Delivering,
        };
        Ok((sale, terms))
    }

    /// The terms of the offer.
    ///
    /// # Errors
    /// Only when the stored record was altered.
    pub fn terms(&self, network: Network) -> Result<BatchTerms, KeyReleaseOfferError> {
        BatchTerms::of(&self.offer.clone().verify(network)?, network)
    }

    /// What to do when the buyer begins a stream and misses the parts from `next` on. The readings of an order are sent again to whoever
    /// ordered them, paid or not: without the key they are noise.
    #[must_use]
    pub fn begin(&self, next: u32, terms: &BatchTerms) -> Vec<SellAction> {
        let coin = self.coin().map(|coin| AtomicBeef(coin.beef.clone()));
        let mut actions = vec![SellAction::Frame(ToBuyer::Begun { coin })];
        if next < terms.parts {
            actions.push(SellAction::SendParts(next..terms.parts));
        }
        actions.extend(self.answer().map(SellAction::Frame));
        actions.extend(self.resume());
        actions
    }

    /// What to do given the state alone, after a restart: what the network may not have goes out again.
    #[must_use]
    pub fn resume(&self) -> Option<SellAction> {
        match &self.state {
            BatchSaleState::Locked { coin, .. } => Some(SellAction::Broadcast(coin.beef.clone())),
            BatchSaleState::Claimed { claim, .. } => Some(SellAction::Claim(claim.clone())),
            _ => None,
        }
    }

    /// Takes the buyer's coin: it pays the order's contract enough and verifies down to block headers. A sale that has a coin
    /// answers from that one, whatever comes.
    ///
    /// # Errors
    /// A [`Refusal`]; the sale is as it was.
    pub fn lock<H: HeaderView>(
        &mut self,
        beef: &[u8],
        terms: &BatchTerms,
        headers: &H,
        at: &SellerAt<'_>,
    ) -> Result<Vec<SellAction>, Refusal> {
        let tip = headers.tip_height();
        if self.state != BatchSaleState::Delivering {
            let answer = self.answer().map(SellAction::Frame);
            return Ok(answer.into_iter().chain(self.resume()).collect());
        }
        if !terms.may_claim(tip.saturating_add(at.confirmations)) {
            return Err(too_late(terms, tip));
        }
        let invalid = |reason: String| Refusal::PaymentInvalid { reason };
        let (contract, _) = self.contract(terms, at).map_err(|error| invalid(error.to_string()))?;
        let parsed = Beef::parse(beef, &BeefLimits::PAYMENT).map_err(|error| invalid(error.to_string()))?;
        let txid = parsed.subject().ok_or_else(|| invalid("it holds no transaction".into()))?;
        let transaction = parsed.transaction(&txid);
        let transaction = transaction.ok_or_else(|| invalid("it has no subject transaction".into()))?;
        let (vout, value) = payment::find(transaction, &contract.locking())
            .ok_or_else(|| invalid(format!("no output of {txid} is the key release of this order")))?;
        if value < terms.total {
            return Err(Refusal::PaymentTooSmall { txid, paid: value, price: terms.total });
        }
        spv::verify(&parsed, &txid, headers)
            .map_err(|error| Refusal::unverified(&error, headers.tip_height()))?;
        let coin = Coin { txid, vout, value, beef: beef.to_vec() };
        self.state = BatchSaleState::Locked { coin, taken: false };
        Ok(self.resume().into_iter().collect())
    }

    /// Takes what the network says to the coin `of`. Where the order has another one meanwhile, it is nothing to that.
    pub fn verdict(&mut self, of: &Txid, verdict: CoinVerdict) -> Vec<SellAction> {
        let BatchSaleState::Locked { coin, taken } = &mut self.state else { return Vec::new() };
        let txid = coin.txid;
        if of != &txid {
            return Vec::new();
        }
        let refusal = match verdict {
            CoinVerdict::Accepted => {
                *taken = true;
                return vec![SellAction::Frame(ToBuyer::Locked { txid })];
            }
            // Once it was taken, only the chain has a say.
            _ if *taken => return Vec::new(),
            CoinVerdict::Unavailable => {
                return vec![SellAction::Frame(ToBuyer::Refused(Refusal::ChainUnavailable))];
            }
            CoinVerdict::Rejected { double_spent: true, .. } => Refusal::DoubleSpent { txid },
            CoinVerdict::Rejected { reason, .. } => Refusal::PaymentRejected { txid, reason },
        };
        self.state = BatchSaleState::Delivering;
        vec![SellAction::Frame(ToBuyer::Refused(refusal))]
    }

    /// Takes what is seen of the coin; see the module for what follows.
    ///
    /// # Errors
    /// [`SellError`].
    pub fn view(
        &mut self,
        view: &CoinView,
        terms: &BatchTerms,
        at: &SellerAt<'_>,
    ) -> Result<Vec<SellAction>, SellError> {
        // What fails half way has changed nothing.
        let mut next = self.clone();
        let actions = next.see(view, terms, at)?;
        *self = next;
        Ok(actions)
    }

    fn see(
        &mut self,
        view: &CoinView,
        terms: &BatchTerms,
        at: &SellerAt<'_>,
    ) -> Result<Vec<SellAction>, SellError> {
        let Some(coin) = self.coin().cloned() else {
            let is_over = self.state == BatchSaleState::Delivering && !terms.may_claim(view.tip);
            return Ok(if is_over { vec![SellAction::Forget] } else { Vec::new() });
        };
        let (contract, own) = self.contract(terms, at)?;
        let release = coin.release(&contract);
        let spend = view.spend.as_ref();
        let spend = spend.and_then(|spend| Some((release.spend_in(&spend.transaction)?, spend)));
        // What is in no block counts where miners would take it: whoever knows the key can write something that only looks like a claim.
        let spend =
            spend.filter(|(_, spend)| spend.height.is_some() || is_valid(&release, &spend.transaction));
        let settled = |spend: &Spend| view.confirmations(spend.height) >= SETTLED;
        match (&self.state, spend) {
            (BatchSaleState::Done { .. }, _) => Ok(Vec::new()),
            // Only we can make one: if it is not stored, we were restored from an older backup.
            (_, Some((KeyReleaseSpend::Claim { .. }, spend))) => self.follow(coin, spend, view, terms, at),
            (state, Some((_, spend))) if settled(spend) => {
                let shown = matches!(state, BatchSaleState::Claimed { .. });
                self.state = BatchSaleState::TakenBack { shown };
                Ok(Vec::new())
            }
            (BatchSaleState::Claimed { claim, .. }, _) => {
                let again = SellAction::Claim(claim.clone());
                let coin = (view.coin == Standing::Unknown).then_some(SellAction::Broadcast(coin.beef));
                Ok(coin.into_iter().chain([again]).collect())
            }
            (BatchSaleState::Locked { taken, .. }, None) => {
                let taken = *taken;
                self.locked(coin, taken, (&contract, &own), view, terms, at)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The coin is there and nothing spends it.
    fn locked(
        &mut self,
        coin: Coin,
        taken: bool,
        (contract, own): (&KeyReleaseTerms, &PrivateKey),
        view: &CoinView,
        terms: &BatchTerms,
        at: &SellerAt<'_>,
    ) -> Result<Vec<SellAction>, SellError> {
        if !terms.may_claim(view.tip) {
            self.state = BatchSaleState::Lapsed { coin };
            return Ok(vec![SellAction::Frame(ToBuyer::Refused(too_late(terms, view.tip)))]);
        }
        let confirmations = match view.coin {
            Standing::Unknown => return Ok(vec![SellAction::Broadcast(coin.beef)]),
            Standing::Seen => 0,
            Standing::Mined(height) => view.confirmations(Some(height)),
        };
        if confirmations < at.confirmations {
            let txid = coin.txid;
            self.state = BatchSaleState::Locked { coin, taken: true };
            return Ok(if taken { Vec::new() } else { vec![SellAction::Frame(ToBuyer::Locked { txid })] });
        }
        let key = self.offer.clone().verify::<KeyReleaseOffer>(at.network)?.value().key(at.secret);
        let to = own.public().hash160();
        let claim = coin.release(contract).claim(key.as_bytes(), own, &to, at.rate);
        let claim = claim.map_err(|source| SellError::Claim { order: self.order, source })?.to_bytes();
        let receipt = self.receipt(&coin, terms, at)?;
        self.state = BatchSaleState::Claimed { coin, claim, receipt, seen: false, credited: None };
        Ok(self.resume().into_iter().collect())
    }

    /// The network has a claim, in whatever form a miner has put it into a block.
    fn follow(
        &mut self,
        coin: Coin,
        spend: &Spend,
        view: &CoinView,
        terms: &BatchTerms,
        at: &SellerAt<'_>,
    ) -> Result<Vec<SellAction>, SellError> {
        let (txid, claim) = (spend.transaction.txid(), spend.transaction.to_bytes());
        let (receipt, told, before) = match &self.state {
            BatchSaleState::Claimed { receipt, seen, credited, .. } => (receipt.clone(), *seen, *credited),
            _ => (self.receipt(&coin, terms, at)?, false, None),
        };
        let credited = spend.height.map(|_| txid).or(before);
        let mut actions = Vec::new();
        if credited != before {
            let order = self.signed_order.clone().verify::<Order>(at.network)?;
            let (transaction, invoice) = (spend.transaction.clone(), payment::invoice(order.value()));
            actions.push(SellAction::Credit { transaction, invoice });
        }
        self.state = if view.confirmations(spend.height) >= SETTLED {
            BatchSaleState::Done { coin, claim, receipt }
        } else {
            BatchSaleState::Claimed { coin, claim, receipt, seen: true, credited }
        };
        if !told {
            actions.extend(self.answer().map(SellAction::Frame));
        }
        Ok(actions)
    }

    /// The coin, where there is one.
    #[must_use]
    pub const fn coin(&self) -> Option<&Coin> {
        match &self.state {
            BatchSaleState::Delivering | BatchSaleState::TakenBack { .. } => None,
            BatchSaleState::Locked { coin, .. }
            | BatchSaleState::Claimed { coin, .. }
            | BatchSaleState::Done { coin, .. }
            | BatchSaleState::Lapsed { coin } => Some(coin),
        }
    }

    /// What the buyer is told, given the state.
    fn answer(&self) -> Option<ToBuyer> {
        let over = |reason: &str| Some(ToBuyer::Refused(Refusal::InvalidOrder { reason: reason.into() }));
        match &self.state {
            BatchSaleState::Delivering | BatchSaleState::Locked { taken: false, .. } => None,
            BatchSaleState::Locked { coin, taken: true }
            | BatchSaleState::Claimed { coin, seen: false, .. } => Some(ToBuyer::Locked { txid: coin.txid }),
            BatchSaleState::Claimed { claim, receipt, .. } | BatchSaleState::Done { claim, receipt, .. } => {
                Some(ToBuyer::Claimed { claim: claim.clone(), receipt: receipt.clone() })
            }
            BatchSaleState::Lapsed { .. } => {
                over("its coin came too late, the key is not shown: take it back")
            }
            BatchSaleState::TakenBack { .. } => over("its coin was taken back"),
        }
    }

    fn contract(
        &self,
        terms: &BatchTerms,
        at: &SellerAt<'_>,
    ) -> Result<(KeyReleaseTerms, PrivateKey), StatementError> {
        let order = self.signed_order.clone().verify_by::<Order>(at.network, &self.buyer)?;
        Ok(coin::for_seller(order.value(), terms, at.seller.key()))
    }

    fn receipt(
        &self,
        coin: &Coin,
        terms: &BatchTerms,
        at: &SellerAt<'_>,
    ) -> Result<SignedBytes, StatementError> {
        let receipt = Receipt {
            order: self.order,
            offer: terms.offer,
            stream: terms.stream,
            first: terms.first,
            count: terms.end.saturating_sub(terms.first),
            paid: coin.value,
            txid: coin.txid,
            issued_ms: at.now_ms,
        };
        Ok(Signed::sign(receipt, at.seller, at.network)?.into_bytes())
    }
}

impl BatchSaleState {
    /// The state's name in lower case, for people and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Delivering => "delivering",
            Self::Locked { .. } => "locked",
            Self::Claimed { .. } => "claimed",
            Self::Done { .. } => "done",
            Self::Lapsed { .. } => "lapsed",
            Self::TakenBack { .. } => "taken back",
        }
    }

    /// Whether the key may have left the seller.
    #[must_use]
    pub const fn is_shown(&self) -> bool {
        matches!(self, Self::Claimed { .. } | Self::Done { .. } | Self::TakenBack { shown: true })
    }
}

fn is_valid(release: &KeyRelease, spend: &Transaction) -> bool {
    let index = spend.inputs.iter().position(|input| input.previous == release.outpoint());
    let valid = |index| verify_input(spend, &SighashCache::new(spend), index, release.output()).is_ok();
    index.is_some_and(valid)
}

fn too_late(terms: &BatchTerms, tip: u32) -> Refusal {
    let height = terms.refund_height;
    let reason = format!("block {tip} is too near to its refund height {height}: ask for a new offer");
    Refusal::InvalidOrder { reason }
}
