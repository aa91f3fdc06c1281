//! What is asked for, how far it has come, and what came of it.

use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Satoshis, Txid};
use sensora_protocol::ad::StreamAd;
use sensora_protocol::identity::peer_id;
use sensora_protocol::market::channel::spending::Lane;
use sensora_protocol::market::delivery::receive::{ChannelPurchase, ChannelPurchaseState};
use sensora_protocol::market::delivery::terms::Offered;
use sensora_protocol::market::key_release::buy::{BatchPurchase, BatchPurchaseState};
use sensora_protocol::market::key_release::offer::{BatchTerms, KeyReleaseOffer};
use sensora_protocol::market::live::LiveOffer;
use sensora_protocol::market::offer::{BuyerLimits, Offer, OfferError, Range};
use sensora_protocol::market::purchase::{Purchase, PurchaseState};
use sensora_protocol::market::reads::offer::ReadsOffer;
use sensora_protocol::market::receipt::{ChannelReceipt, Receipt};
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::{ChannelId, OrderId, Signed, SignedBytes, StreamId};

use super::BuyError;
use crate::store::channels::{self, Wants};
use crate::store::{Store, orders, release};

/// What to buy.
#[derive(Debug, Clone, PartialEq)]
pub struct BuyRequest {
    /// From whom.
    pub seller: PublicKey,
    /// Which stream.
    pub stream: StreamId,
    /// Which readings.
    pub range: Range,
    /// What may be spent.
    pub limits: BuyerLimits,
    /// The seller's ad of the stream: no offer dearer than it is taken.
    pub ad: Option<StreamAd>,
}

/// How far a purchase has come, for a person who waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The seller's price is known and within the limits.
    Quoted {
        /// Readings.
        count: u64,
        /// Price of all.
        total: Satoshis,
    },
    /// The payment is signed and stored.
    Paying {
        /// The order.
        order: OrderId,
        /// The payment.
        txid: Txid,
    },
    /// Readings have come in and are verified.
    Received {
        /// So many of this order.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// Waiting for the seller.
    Waiting {
        /// Why.
        reason: String,
    },
}

/// What was bought.
#[derive(Debug, Clone, PartialEq)]
pub struct Bought {
    /// The stream.
    pub stream: StreamId,
    /// First sequence number.
    pub first: u64,
    /// Number of readings.
    pub count: u64,
    /// Orders that were made for it; none when all was there.
    pub orders: Vec<OrderId>,
    /// Readings that were here before and were not paid again.
    pub kept: u64,
    /// What was paid to the seller.
    pub paid: Satoshis,
}

/// How an order is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaidBy {
    /// With a transaction of its own.
    Transaction {
        /// The payment, once signed.
        txid: Option<Txid>,
    },
    /// By vouchers of a channel.
    Channel {
        /// The channel.
        channel: ChannelId,
    },
    /// By a coin that its seller can take only by showing the key.
    Coin {
        /// What holds the coin, once signed.
        txid: Option<Txid>,
    },
}

/// How far an order has come.
#[derive(Debug, Clone, PartialEq)]
pub enum OrderState {
    /// One that is paid with a transaction of its own.
    Direct(PurchaseState),
    /// One that is paid through a channel.
    Channel(ChannelPurchaseState),
    /// One whose key is released on the chain.
    Release(BatchPurchaseState),
}

impl OrderState {
    /// Whether nothing more is to be done.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Direct(state) => state.is_final(),
            Self::Channel(state) => {
                !matches!(state, ChannelPurchaseState::Running | ChannelPurchaseState::Stopping { .. })
            }
            // There is nobody to ask for the key of an unreadable claim.
            Self::Release(state) => {
                state.is_final() || matches!(state, BatchPurchaseState::Unreadable { .. })
            }
        }
    }

    /// Whether all that was ordered is here and paid.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        match self {
            Self::Direct(state) => matches!(state, PurchaseState::Complete { .. }),
            Self::Channel(state) => state.is_complete(),
            Self::Release(state) => matches!(state, BatchPurchaseState::Complete),
        }
    }

    /// The state's name in lower case, for people and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Direct(state) => state.name(),
            Self::Channel(state) => state.name(),
            Self::Release(state) => state.name(),
        }
    }

    /// What the seller said where it refused.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Direct(
                PurchaseState::Refused { refusal }
                | PurchaseState::TakenBack { refusal }
                | PurchaseState::Withheld { refusal },
            )
            | Self::Channel(ChannelPurchaseState::Refused { refusal }) => Some(refusal),
            Self::Release(
                BatchPurchaseState::TakingBack { refusal } | BatchPurchaseState::TakenBack { refusal },
            ) => refusal.as_ref(),
            _ => None,
        }
    }
}

/// A seller's receipt, as it was signed.
#[derive(Debug, Clone, PartialEq)]
pub enum OrderReceipt {
    /// Of an order that was paid with a transaction of its own: a payment, or a coin whose key was shown.
    Direct(Box<Signed<Receipt>>),
    /// Of one that was paid through a channel.
    Channel(Box<Signed<ChannelReceipt>>),
}

impl OrderReceipt {
    /// The signed bytes.
    #[must_use]
    pub fn bytes(&self) -> &SignedBytes {
        match self {
            Self::Direct(receipt) => receipt.bytes(),
            Self::Channel(receipt) => receipt.bytes(),
        }
    }

    /// What was paid.
    #[must_use]
    pub fn paid(&self) -> Satoshis {
        match self {
            Self::Direct(receipt) => receipt.value().paid,
            Self::Channel(receipt) => receipt.value().paid,
        }
    }
}

/// An order, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderSummary {
    /// The order.
    pub order: OrderId,
    /// Peer id of the seller.
    pub seller: String,
    /// The stream.
    pub stream: StreamId,
    /// Its name.
    pub name: String,
    /// First sequence number.
    pub first: u64,
    /// Number of readings; of a live stream and of single readings, those that have come.
    pub count: u64,
    /// Whether it is a live stream.
    pub is_live: bool,
    /// Whether it is of single readings, which need not follow each other: `first` says nothing of them.
    pub is_reads: bool,
    /// Readings that are here.
    pub received: u64,
    /// Price of all; of a live stream and of single readings, of what has come.
    pub total: Satoshis,
    /// The most that it may cost.
    pub budget: Satoshis,
    /// What the seller has, as far as is known here.
    pub paid: Satoshis,
    /// How it is paid.
    pub by: PaidBy,
    /// Most that may be paid ahead; none for an order of before this was stored.
    pub exposure: Option<Satoshis>,
    /// State of the purchase.
    pub state: OrderState,
    /// Why it is not paid, or not complete.
    pub why: Option<String>,
    /// When it was made, milliseconds since the Unix epoch.
    pub agreed_ms: i64,
}

impl OrderSummary {
    /// The payment or coin, where it is a transaction of its own and signed.
    #[must_use]
    pub const fn txid(&self) -> Option<Txid> {
        match self.by {
            PaidBy::Transaction { txid } | PaidBy::Coin { txid } => txid,
            PaidBy::Channel { .. } => None,
        }
    }

    /// All orders of a store, oldest first, as they are on disk: for a home on which no node runs.
    ///
    /// # Errors
    /// [`BuyError`] for a record that is damaged.
    pub fn stored(store: &Store, network: Network) -> Result<Vec<Self>, BuyError> {
        let mut all = Vec::new();
        for purchase in store.read(orders::purchases)? {
            all.push(Self::of_direct(&purchase, network)?);
        }
        for purchase in store.read(channels::purchases)? {
            let channel = store.read(|tx| channels::buyer(tx, &purchase.channel))?;
            let lane = channel.and_then(|channel| channel.spending.lanes.get(&purchase.id).copied());
            let wants = store.read(|tx| channels::wants(tx, &purchase.id))?;
            all.push(Self::of_channel(&purchase, lane.unwrap_or_default(), wants, network)?);
        }
        for purchase in store.read(release::purchases)? {
            all.push(Self::of_release(&purchase, network)?);
        }
        all.sort_by_key(|order| order.agreed_ms);
        Ok(all)
    }

    pub(super) fn of_direct(purchase: &Purchase, network: Network) -> Result<Self, BuyError> {
        let offer = purchase.terms(network)?;
        let terms = offer.value();
        let is_paid = matches!(
            purchase.state,
            PurchaseState::Delivering { .. }
                | PurchaseState::Complete { .. }
                | PurchaseState::Withheld { .. }
        );
        let why = match &purchase.state {
            PurchaseState::Agreed => Some("no payment is signed".to_owned()),
            PurchaseState::Paying => Some("the seller has not answered the payment".to_owned()),
            PurchaseState::Delivering { .. } => Some("readings are still to come".to_owned()),
            PurchaseState::Complete { .. } => None,
            PurchaseState::Refused { refusal } => {
                Some(format!("refused, and the coins are still being taken back: {refusal}"))
            }
            PurchaseState::TakenBack { refusal } => {
                Some(format!("refused, and the coins are back{}: {refusal}", not_deep(purchase)))
            }
            PurchaseState::GivingUp => Some("given up; the coins are still being taken back".to_owned()),
            PurchaseState::GivenUp => Some(format!("given up; the coins are back{}", not_deep(purchase))),
            PurchaseState::Withheld { refusal } => {
                Some(format!("the seller has the money and does not deliver: {refusal}"))
            }
        };
        Ok(Self {
            order: purchase.id,
            seller: peer_id(&purchase.seller),
            stream: terms.stream,
            name: terms.name.clone(),
            first: terms.first,
            count: terms.count,
            is_live: false,
            is_reads: false,
            received: purchase.next.saturating_sub(terms.first),
            total: terms.total,
            budget: terms.total,
            paid: if is_paid { terms.total } else { Satoshis::ZERO },
            by: PaidBy::Transaction { txid: purchase.payment.as_ref().map(|payment| payment.txid) },
            exposure: None,
            state: OrderState::Direct(purchase.state.clone()),
            why,
            agreed_ms: purchase.agreed_ms,
        })
    }

    pub(super) fn of_channel(
        purchase: &ChannelPurchase,
        lane: Lane,
        wants: Wants,
        network: Network,
    ) -> Result<Self, BuyError> {
        let terms = purchase.offer.terms(network, &purchase.seller)?;
        let (name, is_live) = match &purchase.offer {
            Offered::Range(offer) => {
                (offer.clone().verify_by::<Offer>(network, &purchase.seller)?.value().name.clone(), false)
            }
            Offered::Live(offer) => {
                (offer.clone().verify_by::<LiveOffer>(network, &purchase.seller)?.value().name.clone(), true)
            }
            Offered::Reads(offer) => (
                offer.clone().verify_by::<ReadsOffer>(network, &purchase.seller)?.value().name.clone(),
                false,
            ),
        };
        let received = purchase.next.saturating_sub(terms.first);
        let due = purchase.due(&terms).map_err(OfferError::from)?;
        let (paid, why) = match &purchase.state {
            ChannelPurchaseState::Ended { receipt, missing } => {
                let receipt = receipt.clone().verify_by::<ChannelReceipt>(network, &purchase.seller)?;
                let short = (*missing > 0).then(|| format!("it has ended {missing} readings early"));
                (receipt.value().paid, short)
            }
            ChannelPurchaseState::LeftUnpaid { paid, due } => {
                (*paid, Some(format!("its channel was closed before it had ended; {due} was due")))
            }
            ChannelPurchaseState::GivenUp { paid, due } => {
                (*paid, Some(format!("given up; {due} was due for what is here")))
            }
            ChannelPurchaseState::Refused { refusal } => {
                (Satoshis::ZERO, Some(format!("refused before anything was paid: {refusal}")))
            }
            ChannelPurchaseState::Running if lane.paid < due => {
                (lane.paid, Some(format!("{due} is due for what is here and not paid yet")))
            }
            ChannelPurchaseState::Running if purchase.offer.is_reads() => {
                (lane.paid, Some("more may be asked for, and the receipt is still to come".to_owned()))
            }
            ChannelPurchaseState::Running => (lane.paid, Some("readings are still to come".to_owned())),
            ChannelPurchaseState::Stopping { .. } => {
                (lane.paid, Some("it is stopped, and the receipt is still to come".to_owned()))
            }
        };
        Ok(Self {
            order: purchase.id,
            seller: peer_id(&purchase.seller),
            stream: terms.stream,
            name,
            first: terms.first,
            count: terms.end.map_or(received, |end| end.saturating_sub(terms.first)),
            is_live,
            is_reads: purchase.offer.is_reads(),
            received,
            total: terms.total().unwrap_or(due),
            budget: purchase.budget,
            paid,
            by: PaidBy::Channel { channel: purchase.channel },
            exposure: Some(wants.exposure),
            state: OrderState::Channel(purchase.state.clone()),
            why,
            agreed_ms: purchase.agreed_ms,
        })
    }

    pub(super) fn of_release(purchase: &BatchPurchase, network: Network) -> Result<Self, BuyError> {
        let terms = purchase.terms(network).map_err(|error| BuyError::ReleaseOffer(Box::new(error)))?;
        let offer = purchase.offer.clone().verify_by::<KeyReleaseOffer>(network, &purchase.seller)?;
        let count = terms.end.saturating_sub(terms.first);
        let received = match &purchase.state {
            BatchPurchaseState::Complete => count,
            // What opens before the part that does not is kept.
            BatchPurchaseState::Cheated { proof } => proof.part.part.first.saturating_sub(terms.first),
            _ => 0,
        };
        let is_paid = match &purchase.state {
            BatchPurchaseState::Revealed { .. }
            | BatchPurchaseState::Complete
            | BatchPurchaseState::Unreadable { .. } => true,
            BatchPurchaseState::Cheated { .. } => purchase.credited.is_none(),
            _ => false,
        };
        Ok(Self {
            order: purchase.id,
            seller: peer_id(&purchase.seller),
            stream: terms.stream,
            name: offer.value().name.clone(),
            first: terms.first,
            count,
            is_live: false,
            is_reads: false,
            received,
            total: terms.total,
            budget: terms.total,
            paid: if is_paid { terms.total } else { Satoshis::ZERO },
            by: PaidBy::Coin { txid: purchase.coin.as_ref().map(|coin| coin.txid) },
            exposure: None,
            state: OrderState::Release(purchase.state.clone()),
            why: why_not(purchase, &terms),
            agreed_ms: purchase.agreed_ms,
        })
    }
}

fn not_deep(purchase: &Purchase) -> &'static str {
    if purchase.may_return() { ", for good once that is 7 blocks deep" } else { "" }
}

/// Why a batch is not complete.
fn why_not(purchase: &BatchPurchase, terms: &BatchTerms) -> Option<String> {
    let height = terms.refund_height.get();
    Some(match &purchase.state {
        BatchPurchaseState::Complete => return None,
        BatchPurchaseState::Receiving => {
            format!("{} of {} encrypted parts are here; nothing is paid", purchase.arrivals.next, terms.parts)
        }
        BatchPurchaseState::Received => "all encrypted parts are here; nothing is paid".to_owned(),
        BatchPurchaseState::Locking => "the coin is signed, and the network does not have it yet".to_owned(),
        BatchPurchaseState::Waiting => {
            format!(
                "the coin is locked until the seller shows the key; without it it comes back at height {height}"
            )
        }
        BatchPurchaseState::TakingBack { .. } => "the coins are still being taken back".to_owned(),
        BatchPurchaseState::TakenBack { .. } => "the coins are back".to_owned(),
        BatchPurchaseState::Refunding { .. } => {
            "the key was not shown, and the coin is on its way back".to_owned()
        }
        BatchPurchaseState::Refunded => "the key was not shown, and the coin is back".to_owned(),
        BatchPurchaseState::Revealed { opened } => {
            format!("the key is here; {opened} of {} parts are opened", terms.parts)
        }
        BatchPurchaseState::Cheated { proof } => {
            let part = proof.part.part.index;
            format!(
                "part {part} is not what was sold; `sensora orders ORDER --misbehaviour FILE` writes the proof"
            )
        }
        BatchPurchaseState::Unreadable { .. } => {
            "the seller took the coin with a script that computes the key instead of showing it".to_owned()
        }
        BatchPurchaseState::Dropped => "given up before anything was paid".to_owned(),
    })
}
