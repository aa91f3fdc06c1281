//! Single readings, bought one by one through an open channel: one order, one stream, any number of questions in flight.
//!
//! What is asked, paid and kept when is decided by [`sensora_protocol::market::reads::ask`]. This room has one task for each order, which opens streams, keeps
//! what was verified in pieces while it goes on asking, signs vouchers, and answers whoever waits: those that want the same reading are told
//! together, and what is here already is not asked for. A reading is told as soon as it is verified; a crash forgets those that are not kept yet, which were
//! paid with at most the exposure, and the seller shows them again when the order is brought to its end.

mod session;

use std::sync::Arc;

use sensora_chain::Satoshis;
use sensora_chain::keys::PublicKey;
use sensora_protocol::ad::StreamAd;
use sensora_protocol::anchor::Standing;
use sensora_protocol::market::delivery::receive::ChannelPurchase;
use sensora_protocol::market::delivery::terms::{Offered, Terms};
use sensora_protocol::market::message::{Answer, Request, Response};
use sensora_protocol::market::offer::OfferError;
use sensora_protocol::market::price::Price;
use sensora_protocol::market::reads::ask::MAX_WANTED;
pub use sensora_protocol::market::reads::ask::Want;
use sensora_protocol::market::reads::offer::ReadsOffer;
use sensora_protocol::stream::{Reading, Schema};
use sensora_protocol::{OrderId, StreamId};
use tokio::sync::{mpsc, oneshot};

use super::{BuyError, Buyer, BuyerParts, unexpected};
use crate::store::bought::BoughtStream;
use crate::store::channels::{self as records, Wants};
use session::Session;

/// Which readings are to be bought one by one.
#[derive(Debug, Clone)]
pub struct ReadsRequest {
    /// Who sells them.
    pub seller: PublicKey,
    /// Of which stream.
    pub stream: StreamId,
    /// The most that all of them may cost. So much of the channel is reserved until the order has ended.
    pub budget: Satoshis,
    /// The most that may be paid ahead of what is kept, with this seller in all orders.
    pub exposure: Satoshis,
    /// The seller's ad of the stream, to hold the offer against.
    pub ad: Option<StreamAd>,
}

/// A reading, verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// The reading.
    pub reading: Reading,
    /// Whether it was bought for this answer: false where it was here already, and where the newest has not changed.
    pub bought: bool,
    /// How firmly it stands: single readings stand under the seller's signed checkpoint.
    pub standing: Standing,
}

/// What became of it all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadsReport {
    /// The orders: more than one where readings were asked for here and there many thousand times. Their receipts are kept with them.
    pub orders: Vec<OrderId>,
    /// Readings that were bought.
    pub count: u64,
    /// What they cost, by the seller's receipts.
    pub paid: Satoshis,
}

/// Why a reading was not had.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadsError {
    /// The stream ends before it.
    #[error("the stream has no reading {seq}: it holds {size}, numbered from 0")]
    Absent {
        /// The reading.
        seq: u64,
        /// Readings in the stream.
        size: u64,
    },
    /// The budget is spent.
    #[error(
        "the budget of {budget} holds no further reading: close this order, and open another with --budget"
    )]
    Spent {
        /// The budget.
        budget: Satoshis,
    },
    /// The order has ended, or is ending.
    #[error("the order is closed: open another")]
    Closed,
    /// Something else went wrong.
    #[error(transparent)]
    Failed(Arc<BuyError>),
}

impl From<BuyError> for ReadsError {
    fn from(error: BuyError) -> Self {
        Self::Failed(Arc::new(error))
    }
}

type Told<T> = oneshot::Sender<Result<T, ReadsError>>;

/// What is asked of the task of an order.
enum Command {
    Read(Want, Told<Read>),
    Close(Told<ReadsReport>),
}

/// Readings of one stream, bought one by one. Cheap to clone; when the last clone is dropped, the order is brought to its end in the background.
#[derive(Clone)]
pub struct Reads {
    commands: mpsc::Sender<Command>,
    terms: Arc<Terms>,
    order: OrderId,
}

impl std::fmt::Debug for Reads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reads").field("order", &self.order).field("stream", &self.terms.stream).finish()
    }
}

impl Reads {
    /// The reading that is wanted. Any number of calls may wait at a time; those that want the same reading are answered with one.
    ///
    /// # Errors
    /// [`ReadsError`].
    pub async fn read(&self, want: Want) -> Result<Read, ReadsError> {
        self.tell(|told| Command::Read(want, told)).await
    }

    /// Ends the order: what was asked for is awaited, what was delivered is paid, and the receipt is kept.
    ///
    /// # Errors
    /// [`ReadsError::Failed`] where the seller does not answer: [`Buyer::resume`] goes on with it.
    pub async fn close(&self) -> Result<ReadsReport, ReadsError> {
        self.tell(Command::Close).await
    }

    async fn tell<T>(&self, command: impl FnOnce(Told<T>) -> Command) -> Result<T, ReadsError> {
        let (told, answer) = oneshot::channel();
        self.commands.send(command(told)).await.map_err(|_| ReadsError::Closed)?;
        answer.await.unwrap_or(Err(ReadsError::Closed))
    }

    /// The first order of these readings.
    #[must_use]
    pub const fn order(&self) -> OrderId {
        self.order
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.terms.stream
    }

    /// How its readings look.
    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.terms.schema
    }

    /// What one costs.
    #[must_use]
    pub fn price(&self) -> Price {
        self.terms.tariff.price()
    }
}

impl Buyer {
    /// Opens an order of single readings on an open channel with the seller. Order and reservation are on disk when this returns; the seller hears of
    /// it right after.
    ///
    /// # Errors
    /// [`BuyError::NoChannel`] where no channel with the seller has the budget left; the others as for [`Buyer::buy`].
    pub async fn open_reads(&self, request: ReadsRequest) -> Result<Reads, BuyError> {
        let (purchase, terms) = self.order_reads(&request, request.budget).await?;
        let order = purchase.id;
        let (commands, received) = mpsc::channel(MAX_WANTED);
        let session = Session::new(self.clone(), request.exposure, purchase, terms.clone());
        let session = session.with_request(request, received);
        tokio::spawn(session.run());
        Ok(Reads { commands, terms: Arc::new(terms), order })
    }

    /// Brings one order of single readings to its end, that was left open by a crash, or by a seller that did not answer. What the seller has delivered and is
    /// not here is received, what is due is paid, and nothing new is bought.
    ///
    /// # Errors
    /// [`BuyError`]; [`BuyError::Busy`] for one that is in use.
    pub async fn settle_reads(&self, order: &OrderId) -> Result<ChannelPurchase, BuyError> {
        let purchase = self.channel_purchase(order)?;
        if !purchase.is_final() && self.channel(&purchase.channel).is_err() {
            // Its channel was settled while nobody worked on it.
            let turn = self.turns.try_take(order).ok_or(BuyError::Busy { order: *order })?;
            self.leave_order(order, turn, ChannelPurchase::channel_closed).await?;
            let state = self.channel_purchase(order)?.state.name();
            return Err(BuyError::Over { order: *order, state });
        }
        if !purchase.is_final() {
            let exposure = self.inner.store.read(|tx| records::wants(tx, order))?.exposure;
            let terms = purchase.offer.terms(self.inner.network, &purchase.seller)?;
            Session::new(self.clone(), exposure, purchase, terms).settle().await?;
        }
        self.channel_purchase(order)
    }

    /// Orders single readings: order, reservation and what the stream is are on disk when this returns, and nothing has been sent yet.
    async fn order_reads(
        &self,
        request: &ReadsRequest,
        budget: Satoshis,
    ) -> Result<(ChannelPurchase, Terms), BuyError> {
        let BuyerParts { identity, network, clock, .. } = &*self.inner;
        let seller = request.seller;
        let question = Request::QuoteReads { stream: request.stream };
        let offer = match self.ask(&seller, &question).await? {
            Response::Ok(Answer::ReadsOffer(offer)) => {
                offer.verify_by::<ReadsOffer>(*network, &seller).map_err(OfferError::from)?
            }
            other => return Err(unexpected(&question, other)),
        };
        let now_ms = clock.now_ms();
        ReadsOffer::accept(&offer, *network, identity.public(), request.stream, request.ad.as_ref(), now_ms)?;
        let value = offer.value();
        let stream = BoughtStream {
            id: value.stream,
            seller,
            name: value.name.clone(),
            schema: value.schema.clone(),
            licence: value.licence.clone(),
        };
        let wants = Wants { exposure: request.exposure, ..Wants::default() };
        let offered = Offered::Reads(offer.bytes().clone());
        let purchase = self.order_through_channel(offered, stream, budget, wants, None).await?;
        let terms = purchase.offer.terms(*network, &seller)?;
        Ok((purchase, terms))
    }
}
