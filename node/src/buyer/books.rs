//! What was ordered and what is here: orders with their receipts, and the readings that they brought.

use sensora_protocol::market::delivery::receive::{ChannelPurchase, ChannelPurchaseState};
use sensora_protocol::market::message::{Answer, Request, Response};
use sensora_protocol::market::purchase::{Purchase, PurchaseError, PurchaseState};
use sensora_protocol::stream::{Reading, Schema};
use sensora_protocol::{OrderId, StreamId};

use super::error::ProofFailure;
use super::order::{OrderReceipt, OrderSummary};
use super::{BuyError, Buyer, unexpected};
use crate::store::bought::{self, BoughtStream};
use crate::store::{channels as records, orders, release as releases};

impl Buyer {
    /// The stored purchase of an order that is paid with a transaction of its own.
    ///
    /// # Errors
    /// [`BuyError::UnknownOrder`].
    pub fn purchase(&self, id: &OrderId) -> Result<Purchase, BuyError> {
        self.inner.store.read(|tx| orders::purchase(tx, id))?.ok_or(BuyError::UnknownOrder(*id))
    }

    /// All orders, whichever way they are paid, oldest first.
    ///
    /// # Errors
    /// [`BuyError`].
    pub fn orders(&self) -> Result<Vec<OrderSummary>, BuyError> {
        let network = self.inner.network;
        let mut summaries = Vec::new();
        for purchase in self.inner.store.read(orders::purchases)? {
            summaries.push(OrderSummary::of_direct(&purchase, network)?);
        }
        for purchase in self.inner.store.read(records::purchases)? {
            summaries.push(self.summary_on_channel(&purchase)?);
        }
        for purchase in self.inner.store.read(releases::purchases)? {
            summaries.push(OrderSummary::of_release(&purchase, network)?);
        }
        summaries.sort_by_key(|summary| summary.agreed_ms);
        Ok(summaries)
    }

    /// One order, for people.
    ///
    /// # Errors
    /// [`BuyError::UnknownOrder`].
    pub fn summary(&self, id: &OrderId) -> Result<OrderSummary, BuyError> {
        if let Some(purchase) = self.inner.store.read(|tx| records::purchase(tx, id))? {
            return self.summary_on_channel(&purchase);
        }
        if let Some(purchase) = self.inner.store.read(|tx| releases::purchase(tx, id))? {
            return OrderSummary::of_release(&purchase, self.inner.network);
        }
        OrderSummary::of_direct(&self.purchase(id)?, self.inner.network)
    }

    pub(super) fn summary_on_channel(&self, purchase: &ChannelPurchase) -> Result<OrderSummary, BuyError> {
        let lane = match self.channel(&purchase.channel) {
            Ok(open) => open.spending().record().lanes.get(&purchase.id).copied(),
            // It is settled.
            Err(_) => self
                .inner
                .store
                .read(|tx| records::buyer(tx, &purchase.channel))?
                .and_then(|channel| channel.spending.lanes.get(&purchase.id).copied()),
        };
        let wants = self.inner.store.read(|tx| records::wants(tx, &purchase.id))?;
        OrderSummary::of_channel(purchase, lane.unwrap_or_default(), wants, self.inner.network)
    }

    /// Asks the seller for its receipt of a paid order again; it must be the same. Of a key release it is the one that came with the key.
    ///
    /// # Errors
    /// [`BuyError`].
    pub async fn receipt(&self, id: &OrderId) -> Result<OrderReceipt, BuyError> {
        let network = self.inner.network;
        if let Some(release) = self.inner.store.read(|tx| releases::purchase(tx, id))? {
            let none = BuyError::NotComplete { order: *id, state: "without a receipt" };
            let receipt = release.receipt.ok_or(none)?.verify_by(network, &release.seller)?;
            return Ok(OrderReceipt::Direct(Box::new(receipt)));
        }
        let on_channel = self.inner.store.read(|tx| records::purchase(tx, id))?;
        let (seller, stored) = match &on_channel {
            Some(purchase) => match &purchase.state {
                ChannelPurchaseState::Ended { receipt, .. } => (purchase.seller, Some(receipt.clone())),
                state => return Err(BuyError::NotComplete { order: *id, state: state.name() }),
            },
            None => {
                let purchase = self.purchase(id)?;
                let stored = match purchase.state {
                    PurchaseState::Delivering { receipt } | PurchaseState::Complete { receipt } => {
                        Some(receipt)
                    }
                    _ => None,
                };
                (purchase.seller, stored)
            }
        };
        let request = Request::Receipt { order: *id };
        let receipt = match self.ask(&seller, &request).await? {
            Response::Ok(Answer::Receipt(receipt)) => receipt,
            other => return Err(unexpected(&request, other)),
        };
        let wrong = |source| BuyError::Purchase { order: *id, source: Box::new(source) };
        if stored.is_some_and(|stored| stored != receipt) {
            return Err(wrong(PurchaseError::Receipt { field: "signed text" }));
        }
        let verified = match on_channel {
            Some(_) => {
                receipt.verify_by(network, &seller).map(|receipt| OrderReceipt::Channel(Box::new(receipt)))
            }
            None => {
                receipt.verify_by(network, &seller).map(|receipt| OrderReceipt::Direct(Box::new(receipt)))
            }
        };
        verified.map_err(|error| wrong(PurchaseError::Statement(error)))
    }

    /// Streams of which readings are here.
    ///
    /// # Errors
    /// [`BuyError`].
    pub fn streams(&self) -> Result<Vec<BoughtStream>, BuyError> {
        Ok(self.inner.store.read(bought::streams)?)
    }

    /// At most `limit` runs of the readings `[first, end)` that are here, in order, each opened. Call again from the end of the last one for more.
    ///
    /// # Errors
    /// [`BuyError`].
    pub fn readings(
        &self,
        stream: &StreamId,
        schema: &Schema,
        first: u64,
        end: u64,
        limit: usize,
    ) -> Result<Vec<Reading>, BuyError> {
        let runs = self.inner.store.read(|tx| bought::runs(tx, stream, first, end, limit))?;
        let mut readings = Vec::new();
        let mut at = first;
        for bought in runs {
            let open = bought.run.open(schema).map_err(ProofFailure::Chunk)?;
            // Two orders may have brought the same readings.
            let more = open.readings.into_iter().filter(|reading| (at..end).contains(&reading.seq));
            let before = readings.len();
            readings.extend(more);
            if let Some(last) = readings.get(before..).and_then(<[Reading]>::last) {
                at = last.seq.saturating_add(1);
            }
        }
        Ok(readings)
    }
}
