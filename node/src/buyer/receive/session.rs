//! One order on one stream: what is verified is stored, and what follows from it is done when it is on disk.
//!
//! The state machine says what is to be done; the session keeps that in order. Whatever is stored goes to the disk in the background, several pages
//! at a time, and the voucher or frame behind it waits for it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use sensora_chain::Satoshis;
use sensora_chain::header::HeaderView as _;
use sensora_protocol::SignedBytes;
use sensora_protocol::market::channel::spending::Reservation;
use sensora_protocol::market::delivery::ProvenPage;
use sensora_protocol::market::delivery::frame::{OrderVoucher, ToBuyer, ToSeller};
use sensora_protocol::market::delivery::page::bytes_of;
use sensora_protocol::market::delivery::receive::{
    ChannelPurchase, ChannelPurchaseState, Receive, ReceiveAction, ReceiveError, ReceiveEvent,
};
use sensora_protocol::stream::Reading;
use tokio::sync::OwnedMutexGuard;

use super::super::channels::{Open, ToOrders};
use super::super::drive::keep;
use super::super::{BuyError, Buyer};
use super::{BYTES_AHEAD, Broken, Course, Listener, PAGES_AHEAD, Told};
use crate::net::DeliverySender;
use crate::stakes::SharedStakes;
use crate::store::StoreError;
use crate::store::channels::{self as records, Wants};

/// What a session works with, as long as it lasts.
pub(super) struct SessionParts {
    pub(super) buyer: Buyer,
    pub(super) open: Arc<Open>,
    pub(super) stakes: Arc<SharedStakes>,
    /// Most that the order pays ahead.
    pub(super) exposure: Satoshis,
    /// Goes along with each change on its way to the disk, so that whoever takes the order next comes after it.
    pub(super) turn: Arc<OwnedMutexGuard<()>>,
}

/// One order on one stream.
pub(super) struct Session {
    parts: SessionParts,
    receive: Receive,
    reservation: Option<Reservation>,
    /// What is to be done, in order. Each stored step holds the purchase as it was when the step was planned.
    plan: VecDeque<Step>,
    /// The stored step under way, and the purchase as it leaves it.
    storing: Option<Storing>,
    /// The purchase as it is on disk.
    stands: ChannelPurchase,
    /// Readings that are verified and not told yet; none where nobody wants them.
    verified: Option<Vec<Reading>>,
}

/// Something to be done.
enum Step {
    /// Store the purchase.
    Store(Box<ChannelPurchase>),
    /// Keep verified readings with it.
    Keep(Box<Kept>, Box<ChannelPurchase>),
    /// Pay.
    Voucher { paid: Satoshis, amount: Satoshis },
    /// Send this frame.
    Send(ToSeller),
    /// End the order's lane, with what it has paid, and store the purchase.
    End(Satoshis, Box<ChannelPurchase>),
}

/// A verified page as it is kept.
struct Kept {
    first: u64,
    page: ProvenPage,
    /// What its runs take.
    bytes: usize,
    /// The checkpoint that it came with.
    checkpoint: Option<SignedBytes>,
}

struct Storing {
    stored: Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>,
    purchase: ChannelPurchase,
}

impl Drop for Session {
    /// What is reserved for an order that has not ended stays reserved: the next stream pays out of it.
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            reservation.leave();
        }
    }
}

/// Whether the machine may answer with a voucher.
fn may_pay(event: &ReceiveEvent) -> bool {
    match event {
        ReceiveEvent::Frame(frame) => match **frame {
            ToBuyer::Begun { .. } | ToBuyer::Page(_) | ToBuyer::Live { .. } | ToBuyer::Stopped { .. } => true,
            ToBuyer::Ended { .. } | ToBuyer::Refused(_) | ToBuyer::Alive => false,
        },
        ReceiveEvent::Room => true,
        ReceiveEvent::Pause
        | ReceiveEvent::Resume
        | ReceiveEvent::Stop
        | ReceiveEvent::Closing
        | ReceiveEvent::Closed
        | ReceiveEvent::GiveUp => false,
    }
}

async fn send(frame: &ToSeller, sender: &mut DeliverySender) -> Result<(), Broken> {
    let bytes = frame.to_bytes().map_err(BuyError::from)?;
    Ok(sender.send(Bytes::from(bytes)).await?)
}

impl Session {
    /// The opening of the order is planned, and nothing done yet.
    pub(super) fn new(
        parts: SessionParts,
        mut receive: Receive,
        reservation: Reservation,
        wants_readings: bool,
    ) -> Self {
        let begin = receive.start();
        let mut session = Self {
            parts,
            stands: receive.purchase().clone(),
            receive,
            reservation: Some(reservation),
            plan: VecDeque::new(),
            storing: None,
            verified: wants_readings.then(Vec::new),
        };
        session.plan(vec![begin]);
        session
    }

    /// The purchase as it is in memory: ahead of the disk by what is planned.
    pub(super) fn purchase(&self) -> &ChannelPurchase {
        self.receive.purchase()
    }

    /// Sends a frame when all before it is done.
    pub(super) fn plan_frame(&mut self, frame: ToSeller) {
        self.plan.push_back(Step::Send(frame));
    }

    /// Waits for the stored step under way; for ever where there is none. Safe to cancel.
    pub(super) async fn stored(&mut self) -> Result<(), StoreError> {
        match &mut self.storing {
            Some(storing) => storing.stored.as_mut().await,
            None => std::future::pending().await,
        }
    }

    /// How far the order has come: it can come no further for ever.
    pub(super) fn comes_to(&self) -> (u64, bool) {
        let purchase = self.receive.purchase();
        (purchase.next, purchase.state == ChannelPurchaseState::Running)
    }

    /// Gives an event to the state machine, and plans what follows from it.
    pub(super) fn handle(&mut self, event: ReceiveEvent) -> Result<(), Broken> {
        // The machine counts as paid what it asks to be signed: it is not asked where nothing may be.
        if may_pay(&event) {
            self.parts.buyer.inner.wallet.freeze().check().map_err(BuyError::from)?;
        }
        let order = self.receive.purchase().id;
        let Some(reservation) = self.reservation.as_mut() else { return Ok(()) };
        let (network, now_ms) = (self.parts.buyer.inner.network, self.parts.buyer.inner.clock.now_ms());
        let handled = self
            .parts
            .stakes
            .change(|stakes| self.receive.handle(event, reservation, stakes, network, now_ms));
        let actions = handled.map_err(|error| match error {
            ReceiveError::Refused(refusal) if refusal.is_temporary() => Broken::Later(refusal.to_string()),
            bad @ (ReceiveError::Delivery(_)
            | ReceiveError::OtherStream
            | ReceiveError::OlderCheckpoint { .. }) => Broken::Bad(Box::new(bad)),
            source => Broken::Failed(BuyError::Receive { order, source: Box::new(source) }),
        })?;
        self.plan(actions);
        Ok(())
    }

    fn plan(&mut self, actions: Vec<ReceiveAction>) {
        let purchase = || Box::new(self.receive.purchase().clone());
        let steps = actions.into_iter().map(|action| match action {
            ReceiveAction::Keep { page, checkpoint } => {
                let mut page = *page;
                let first = page.readings.first().map_or(0, |reading| reading.seq);
                let (order, count) = (self.stands.id, page.readings.len());
                tracing::debug!(%order, first, count, "readings are verified");
                // The runs are what is kept; the opened readings take many times their room.
                let readings = std::mem::take(&mut page.readings);
                if let Some(verified) = &mut self.verified {
                    verified.extend(readings);
                }
                let bytes = page.runs.iter().map(bytes_of).sum();
                Step::Keep(Box::new(Kept { first, page, bytes, checkpoint }), purchase())
            }
            ReceiveAction::Store => Step::Store(purchase()),
            ReceiveAction::Voucher { paid, amount } => Step::Voucher { paid, amount },
            ReceiveAction::Send(frame) => Step::Send(frame),
            ReceiveAction::End(paid) => Step::End(paid, purchase()),
        });
        self.plan.extend(steps);
    }

    /// Does what is planned up to the next stored step, and begins that.
    pub(super) async fn work(&mut self, sender: &mut DeliverySender) -> Result<(), Broken> {
        while self.storing.is_none() {
            if let Some((stored, voucher)) = self.next_stored() {
                self.storing = Some(stored);
                if let Some(voucher) = voucher {
                    self.plan.push_front(voucher);
                }
                return Ok(());
            }
            match self.plan.pop_front() {
                None => return Ok(()),
                Some(Step::Voucher { paid, amount }) => {
                    self.parts.buyer.inner.wallet.freeze().check().map_err(BuyError::from)?;
                    let voucher = self.parts.open.sign(amount, &self.parts.buyer.inner.identity)?;
                    let frame =
                        ToSeller::Voucher(OrderVoucher { paid, amount, signature: voucher.signature });
                    send(&frame, sender).await?;
                }
                Some(Step::Send(frame)) => send(&frame, sender).await?,
                Some(Step::End(paid, purchase)) => self.end(paid, *purchase).await?,
                // These are stored steps.
                Some(Step::Store(_) | Step::Keep(..)) => {}
            }
        }
        Ok(())
    }

    /// All pages and states of the purchase that come next, as one stored step, and the last voucher among them, which pays for them all. None where
    /// something else comes next.
    fn next_stored(&mut self) -> Option<(Storing, Option<Step>)> {
        let (mut pages, mut newest, mut voucher) = (Vec::new(), None, None);
        loop {
            match self.plan.pop_front() {
                Some(Step::Store(purchase)) => newest = Some(purchase),
                Some(Step::Keep(kept, purchase)) => {
                    pages.push(kept);
                    newest = Some(purchase);
                }
                Some(step @ Step::Voucher { .. }) if newest.is_some() => voucher = Some(step),
                other => {
                    if let Some(step) = other {
                        self.plan.push_front(step);
                    }
                    break;
                }
            }
        }
        let purchase = *newest?;
        let terms = self.receive.terms();
        let (stream, begins, turn) = (terms.stream, terms.first, self.parts.turn.clone());
        let (store, change) = (self.parts.buyer.inner.store.clone(), purchase.clone());
        let stored = Box::pin(async move {
            let stored = store.commit(move |tx| {
                let _turn = &turn;
                for Kept { first, page, checkpoint, .. } in pages.iter().map(|kept| &**kept) {
                    keep(tx, &change.id, &stream, begins, *first, page)?;
                    if let Some(checkpoint) = checkpoint {
                        records::put_checkpoint(tx, &change.id, checkpoint)?;
                    }
                }
                records::put_purchase(tx, &change)
            });
            stored.await
        });
        Some((Storing { stored, purchase }, voucher))
    }

    /// The stored step under way is on disk.
    pub(super) fn is_stored(&mut self) {
        if let Some(storing) = self.storing.take() {
            self.stands = storing.purchase;
        }
    }

    /// Whether another page may wait for the disk.
    pub(super) fn has_room(&self) -> bool {
        let (mut pages, mut bytes) = (0_usize, 0_usize);
        for step in &self.plan {
            pages += usize::from(matches!(step, Step::Keep(..) | Step::Store(_)));
            if let Step::Keep(kept, _) = step {
                bytes = bytes.saturating_add(kept.bytes);
            }
        }
        pages < PAGES_AHEAD && bytes < BYTES_AHEAD
    }

    /// Whether the order has ended, and all that follows from that is done.
    pub(super) fn is_done(&self) -> bool {
        self.storing.is_none() && self.plan.is_empty() && self.receive.purchase().is_final()
    }

    /// Keeps what was verified, and does nothing else of what is planned.
    pub(super) async fn keep_rest(&mut self) -> Result<(), Broken> {
        loop {
            if self.storing.is_some() {
                self.stored().await?;
                self.is_stored();
            }
            self.plan.retain(|step| matches!(step, Step::Store(_) | Step::Keep(..)));
            match self.next_stored() {
                Some((storing, _)) => self.storing = Some(storing),
                None => return Ok(()),
            }
        }
    }

    /// What the newest block means for the order.
    pub(super) fn at_block(&mut self) -> Result<(), Broken> {
        let tip = self.parts.buyer.inner.chain.headers().tip_height();
        match self.parts.open.to_orders(tip) {
            ToOrders::Open => Ok(()),
            ToOrders::Closing => self.handle(ReceiveEvent::Closing),
            ToOrders::Closed => self.handle(ReceiveEvent::Closed),
        }
    }

    /// The order ends, and with it its lane.
    async fn end(&mut self, paid: Satoshis, purchase: ChannelPurchase) -> Result<(), Broken> {
        let Some(reservation) = self.reservation.take() else { return Ok(()) };
        self.stands = purchase.clone();
        let SessionParts { buyer, open, exposure, turn, .. } = &self.parts;
        Ok(buyer.end_lane(open, reservation, purchase, (paid, *exposure), turn.clone()).await?)
    }

    /// Whether so many readings are here as were wanted.
    pub(super) fn has_enough(&self, wants: &Wants) -> bool {
        let here = self.receive.purchase().next.saturating_sub(self.receive.terms().first);
        self.receive.terms().end.is_none() && wants.readings.is_some_and(|most| here >= most)
    }

    pub(super) fn tell_verified(&mut self, listener: &mut impl Listener) {
        if let Some(verified) = self.verified.as_mut().filter(|verified| !verified.is_empty()) {
            listener.tell(Told::Verified(std::mem::take(verified)));
        }
    }

    pub(super) fn show(&self, course: &Course, listener: &mut impl Listener) {
        let (purchase, terms) = (&self.stands, self.receive.terms());
        let paid = match &self.reservation {
            Some(reservation) => reservation.paid(),
            // It has ended: the receipt says it.
            None => Satoshis::ZERO,
        };
        listener.tell(Told::Stands { purchase, terms, paid, paused: course.paused });
    }
}
