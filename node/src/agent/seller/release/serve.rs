//! One stream of a buyer: a quote, or an order.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sensora_chain::keys::PublicKey;
use sensora_protocol::OrderId;
use sensora_protocol::market::key_release::frame::{Begin, MAX_TO_SELLER_LEN, ToBuyer, ToSeller};
use sensora_protocol::market::key_release::offer::{BatchTerms, KeyReleaseOffer};
use sensora_protocol::market::order::Order;
use sensora_protocol::market::refusal::Refusal;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::batch::Goods;
use super::offers::cannot_seal;
use super::{MAX_OUT, Out, Running, lock};
use crate::agent::seller::room::{BATCH_UNPAID_FOR, FIRST_PATIENCE, Place};
use crate::agent::seller::{Seller, SellerParts, damaged, failed};
use crate::net::{DeliveryError, DeliveryReceiver, DeliverySender, DeliveryStream, Offence};

/// How long a buyer may say nothing. It says `alive` while it waits for the key.
const PATIENCE: Duration = Duration::from_secs(90);

/// Coins that are taken of one order as they come, on however many streams that follow each other; each is given to the network, and more than one happens when the network was away.
const FREE_COINS: u32 = 3;
/// How long nothing is read after each that follows: whoever repeats itself costs our chain services a question a second at most.
const COIN_PAUSE: Duration = Duration::from_secs(1);

/// Why a stream ended before its buyer did.
enum Ended {
    /// The stream did.
    Stream(DeliveryError),
    /// The buyer has gone, or came with another stream for the same order.
    Gone,
    /// The buyer is told why.
    Refused(Refusal),
}

impl From<DeliveryError> for Ended {
    fn from(error: DeliveryError) -> Self {
        Self::Stream(error)
    }
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn frame(frame: &ToBuyer) -> Result<Bytes, Refusal> {
    frame.to_bytes().map(Bytes::from).map_err(|error| failed(&error))
}

impl Seller {
    /// Serves one stream of `/sensora/release/1` until it ends.
    pub async fn release(&self, buyer: PublicKey, mut stream: DeliveryStream, cancel: CancellationToken) {
        let peer = stream.peer();
        stream.limit_frames(MAX_TO_SELLER_LEN);
        let (mut sender, mut receiver) = stream.split();
        let place = self.inner.room.enter();
        let first = tokio::select! {
            () = cancel.cancelled() => return,
            _ = place.is_needed() => return,
            first = receiver.next(FIRST_PATIENCE) => first,
        };
        let Ok(Some(bytes)) = first else { return };
        let outcome = match ToSeller::from_bytes(&bytes) {
            Ok(ToSeller::Quote { stream, range }) => {
                let quote = self.quote_release(buyer, stream, range);
                match cancel.run_until_cancelled(quote).await {
                    Some(Ok(offer)) => match frame(&ToBuyer::Offer(offer)) {
                        Ok(bytes) => sender.send(bytes).await.map_err(Ended::from),
                        Err(refusal) => Err(refusal.into()),
                    },
                    Some(Err(refusal)) => Err(refusal.into()),
                    None => Err(Ended::Gone),
                }
            }
            Ok(ToSeller::Begin(begin)) => {
                place.begins(BATCH_UNPAID_FOR);
                self.serve_order(buyer, *begin, (&mut sender, &mut receiver), (&place, &cancel)).await
            }
            Ok(ToSeller::Lock(_) | ToSeller::Alive) | Err(_) => {
                self.inner.parts.net.report(peer, Offence::Malformed).await;
                return;
            }
        };
        match outcome {
            Ok(()) => drop(sender.finish().await),
            Err(Ended::Refused(refusal)) => {
                tracing::debug!(code = refusal.code(), %refusal, "a batch is refused");
                let malformed = matches!(refusal, Refusal::Malformed { .. });
                if let Ok(bytes) = frame(&ToBuyer::Refused(refusal)) {
                    drop(sender.send(bytes).await);
                    drop(sender.finish().await);
                }
                if malformed {
                    self.inner.parts.net.report(peer, Offence::Malformed).await;
                }
            }
            Err(Ended::Stream(error)) => tracing::debug!(%error, "the stream of a batch was interrupted"),
            Err(Ended::Gone) => {}
        }
    }

    /// Serves an order on this stream alone: one that is served already for the same order ends first.
    async fn serve_order(
        &self,
        buyer: PublicKey,
        begin: Begin,
        stream: (&mut DeliverySender, &mut DeliveryReceiver),
        (place, cancel): (&Place, &CancellationToken),
    ) -> Result<(), Ended> {
        let network = self.inner.parts.network;
        let order = begin.order.clone().verify_by::<Order>(network, &buyer);
        let order = order.map_err(|error| Refusal::InvalidOrder { reason: error.to_string() })?;
        let id = order.id(network);
        let (mine, (out, outs)) = (cancel.child_token(), mpsc::channel(MAX_OUT));
        let (served, coins) = {
            let mut running = lock(&self.inner.releases.running);
            let before = running.get(&id).cloned();
            if let Some(before) = &before {
                before.cancel.cancel();
            }
            let (served, coins) =
                before.map_or_else(Default::default, |before| (before.served, before.coins));
            let new = Running { cancel: mine.clone(), served: served.clone(), coins: coins.clone(), out };
            running.insert(id, new);
            (served, coins)
        };
        let guard = served.lock().await;
        let outcome = match mine.is_cancelled() {
            true => Err(Ended::Gone),
            false => self.run_order(buyer, id, begin, stream, (outs, &coins), (place, &mine)).await,
        };
        drop(guard);
        let mut running = lock(&self.inner.releases.running);
        // Whoever came in the meantime has put its own in place.
        if !mine.is_cancelled() || cancel.is_cancelled() {
            running.remove(&id);
        }
        outcome
    }

    async fn run_order(
        &self,
        buyer: PublicKey,
        id: OrderId,
        begin: Begin,
        (sender, receiver): (&mut DeliverySender, &mut DeliveryReceiver),
        (mut outs, coins): (mpsc::Receiver<Out>, &AtomicU32),
        (place, cancel): (&Place, &CancellationToken),
    ) -> Result<(), Ended> {
        let next = begin.next;
        let begun = {
            let turn = self.inner.orders.lock(&id).await;
            let beginning = self.blocking(move |seller| {
                // Held here: the work goes on when the stream has gone.
                let _turn = turn;
                seller.begin_release(&id, &buyer, &begin)
            });
            beginning.await
        };
        let (sale, terms) = begun?;
        self.carry_out_release(id, sale.begin(next, &terms), None).await?;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Err(Ended::Gone),
                refusal = place.is_needed() => return Err(refusal.into()),
                Some(out) = outs.recv() => match out {
                    Out::Frame(what) => sender.send(frame(&what)?).await?,
                    Out::Parts(parts) => {
                        self.send_parts(&id, &terms, parts, sender, (place, cancel)).await?;
                    }
                },
                bytes = receiver.next(PATIENCE) => {
                    let Some(bytes) = bytes? else { return Ok(()) };
                    match ToSeller::from_bytes(&bytes) {
                        Ok(ToSeller::Alive) => {}
                        Ok(ToSeller::Lock(beef)) => {
                            self.take_coin(id, beef, sender, place).await?;
                            if coins.fetch_add(1, Ordering::Relaxed) >= FREE_COINS {
                                tokio::time::sleep(COIN_PAUSE).await;
                            }
                        }
                        Ok(ToSeller::Begin(_) | ToSeller::Quote { .. }) => {
                            let reason = "the stream has begun already".into();
                            return Err(Refusal::Malformed { reason }.into());
                        }
                        Err(error) => return Err(Refusal::Malformed { reason: error.to_string() }.into()),
                    }
                }
            }
        }
    }

    /// Takes a buyer's coin. A coin that is refused ends nothing: the buyer may send the right one.
    async fn take_coin(
        &self,
        id: OrderId,
        beef: Vec<u8>,
        sender: &mut DeliverySender,
        place: &Place,
    ) -> Result<(), Ended> {
        let again = beef.clone();
        let taken = self
            .change_release(id, None, move |sale, terms, headers, at| sale.lock(&beef, terms, headers, at));
        let taken = match taken.await {
            // Our headers are what is behind, not the buyer: look, and judge again.
            Err(Refusal::HeadersBehind { .. }) if self.may_look() => {
                if let Err(error) = self.inner.parts.chain.refresh().await {
                    tracing::debug!(%error, "the headers could not be brought up to date");
                }
                let judged = self.change_release(id, None, move |sale, terms, headers, at| {
                    sale.lock(&again, terms, headers, at)
                });
                judged.await
            }
            taken => taken,
        };
        match taken {
            Ok(actions) => {
                place.paid();
                self.carry_out_release(id, actions, None).await?;
                self.inner.releases.look.notify_one();
                Ok(())
            }
            Err(refusal) => {
                tracing::debug!(order = %id, code = refusal.code(), %refusal, "a coin is refused");
                Ok(sender.send(frame(&ToBuyer::Refused(refusal))?).await?)
            }
        }
    }

    /// Sends parts, a frame at a time, each made when the one before it is on its way.
    async fn send_parts(
        &self,
        id: &OrderId,
        terms: &BatchTerms,
        parts: Range<u32>,
        sender: &mut DeliverySender,
        (place, cancel): (&Place, &CancellationToken),
    ) -> Result<(), Ended> {
        let SellerParts { recorder, network, store, .. } = &self.inner.parts;
        let sale = store.read(|tx| crate::store::release::sale(tx, id)).map_err(|error| failed(&error))?;
        let sale = sale.ok_or(Refusal::UnknownOrder { order: *id })?;
        let offer = sale.offer.verify::<KeyReleaseOffer>(*network).map_err(|error| damaged(&error))?;
        let key = offer.value().key(&self.batch_secret()?);
        let goods = Goods {
            recorder: recorder.clone(),
            stream: terms.stream,
            schema: terms.schema.clone(),
            checkpoint: terms.checkpoint.clone(),
            range: terms.first..terms.end,
            key,
        };
        let mut at = parts.start;
        while at < parts.end {
            let sealed = tokio::select! {
                () = cancel.cancelled() => return Err(Ended::Gone),
                refusal = place.is_needed() => return Err(refusal.into()),
                sealed = self.batch_of(terms, &goods) => sealed?,
            };
            let (goods, wanted) = (goods.clone(), at..parts.end);
            let made = self.blocking(move |_| sealed.parts(&goods, wanted).map_err(cannot_seal)).await?;
            let Some(last) = made.last() else { return Err(Refusal::StorageUnavailable.into()) };
            at = last.part.index.saturating_add(1);
            let bytes = frame(&ToBuyer::Parts(made))?;
            // Nothing is said after half a frame.
            tokio::select! {
                () = cancel.cancelled() => return Err(Ended::Gone),
                _ = place.is_needed() => return Err(Ended::Gone),
                sent = sender.send(bytes) => sent?,
            }
        }
        Ok(())
    }
}
