//! One stream of an order of single readings: asks, takes what comes, and pays, as the state machine says.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libp2p::futures::FutureExt as _;
use sensora_chain::Satoshis;
use sensora_chain::header::HeaderView as _;
use sensora_protocol::OrderId;
use sensora_protocol::codec::CodecError;
use sensora_protocol::market::channel::spending::Reservation;
use sensora_protocol::market::delivery::frame::{OrderVoucher, ToSeller as Opening};
use sensora_protocol::market::delivery::receive::ChannelPurchaseState;
use sensora_protocol::market::offer::OfferError;
use sensora_protocol::market::reads::ask::{AskAction, AskError, AskEvent, Want};
use sensora_protocol::market::reads::frame::{MAX_TO_BUYER_LEN, ToBuyer, ToSeller};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::Command;
use super::piece::{done, keep};
use super::{Broken, Session, Turn};
use crate::buyer::channels::{Open, ToOrders};
use crate::buyer::{BuyError, BuyerParts};
use crate::net::{DeliveryError, DeliveryReceiver, DeliverySender, Offence, PeerId};
use crate::stakes::SharedStakes;
use crate::store::channels as records;

/// How long the seller may take to answer the opening of a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the seller may send nothing while an answer is awaited.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked whether anything has come: after one quiet round what is verified is kept.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After so many rounds it is kept in any case.
const KEEP_ROUNDS: u32 = 10;
/// After so many quiet rounds the seller is told that we are there: it gives up after 90 s.
const ALIVE_ROUNDS: u32 = 300;

/// What is behind an order while it has a stream.
pub(super) struct Line {
    open: Arc<Open>,
    stakes: Arc<SharedStakes>,
    reservation: Option<Reservation>,
    sender: DeliverySender,
    /// Goes along with each change on its way to the disk, so that whoever takes the order next comes after it.
    turn: Turn,
}

impl Drop for Line {
    /// What is reserved for an order that has not ended stays reserved: the next stream pays out of it. Also where whoever settles the order is
    /// dropped in the middle of it: released, the rest would be promised to other orders.
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            reservation.leave();
        }
    }
}

impl Session {
    pub(super) async fn one_stream(&mut self, peer: PeerId, turn: &Turn) -> Result<(), Broken> {
        let buyer = self.buyer.clone();
        let BuyerParts { net, discovery, .. } = &*buyer.inner;
        let purchase = self.ask.purchase().clone();
        let open = buyer.channel(&purchase.channel)?;
        buyer.learn(&open, self.exposure).await.map_err(later)?;
        let stakes = buyer.stakes_of(&purchase.seller, self.exposure)?;
        let addresses = discovery.addresses(&purchase.seller);
        let order = purchase.id;
        let stream = net.open_delivery(peer, addresses, OPEN_TIMEOUT).await;
        let mut stream = stream.map_err(|error| broken(order, error))?;
        stream.limit_frames(MAX_TO_BUYER_LEN);
        let (sender, mut receiver) = stream.split();
        let due = purchase.due(self.ask.terms()).map_err(OfferError::from).map_err(BuyError::from)?;
        let reservation = Some(buyer.take_up(&open, &purchase, due).await?);
        let mut line = Line { open, stakes, reservation, sender, turn: turn.clone() };
        let outcome = self.talk(&mut line, &mut receiver, peer).await;
        if outcome.is_ok() {
            drop(line.sender.finish().await);
        }
        outcome
    }

    /// Asks and pays until the order has ended.
    async fn talk(
        &mut self,
        line: &mut Line,
        receiver: &mut DeliveryReceiver,
        peer: PeerId,
    ) -> Result<(), Broken> {
        let order = self.ask.purchase().id;
        let chain = self.buyer.inner.chain.clone();
        let (mut room, mut changes, mut tips) = (line.stakes.room(), line.open.changes(), chain.tip_watch());
        let begin = self.ask.start();
        self.follow(vec![begin], line).await?;
        self.at_block(line).await?;
        for want in self.waiting.keys().copied().collect::<Vec<_>>() {
            if !self.ask.is_wanted(want) {
                self.want(want, line).await?;
            }
        }
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut rounds, mut quiet) = (0_u32, 0_u32);
        loop {
            if self.ask.purchase().is_final() {
                return Ok(());
            }
            if self.keeping.as_ref().is_some_and(JoinHandle::is_finished) {
                done(&mut self.keeping).await?;
                self.kept_on(line).await?;
            }
            self.close_when_done(line).await?;
            if let Some(command) = self.ready() {
                quiet = 0;
                self.command(command, line).await?;
                continue;
            }
            let bytes = match receiver.next(PATIENCE).now_or_never() {
                Some(bytes) => bytes,
                None => {
                    line.sender.flush().await.map_err(|error| broken(order, error))?;
                    tokio::select! {
                        biased;
                        bytes = receiver.next(PATIENCE) => bytes,
                        command = next(&mut self.commands), if !self.closes && self.ask.has_room() => {
                            quiet = 0;
                            match command {
                                Some(command) => self.command(command, line).await?,
                                None => self.closes = true,
                            }
                            continue;
                        }
                        kept = done(&mut self.keeping) => {
                            kept?;
                            self.kept_on(line).await?;
                            continue;
                        }
                        () = room.more() => {
                            self.event(AskEvent::Room, line).await?;
                            continue;
                        }
                        Ok(()) = changes.changed() => {
                            self.at_block(line).await?;
                            continue;
                        }
                        Ok(()) = tips.changed() => {
                            self.at_block(line).await?;
                            continue;
                        }
                        _ = looks.tick() => {
                            (rounds, quiet) = (rounds.wrapping_add(1), quiet.saturating_add(1));
                            if self.ask.has_unkept() && (quiet > 1 || rounds.is_multiple_of(KEEP_ROUNDS)) {
                                self.event(AskEvent::Rest, line).await?;
                            } else if quiet.is_multiple_of(ALIVE_ROUNDS) {
                                self.send(&ToSeller::Alive, line).await?;
                            } else if quiet.is_multiple_of(KEEP_ROUNDS) {
                                // There may be room that was not told of.
                                self.event(AskEvent::Room, line).await?;
                            }
                            continue;
                        }
                    }
                }
            };
            let bytes = match bytes {
                // Nobody has asked anything.
                Err(DeliveryError::Idle { .. }) if !self.ask.waits() => continue,
                bytes => bytes.map_err(|error| broken(order, error))?,
            };
            let Some(bytes) = bytes else {
                return Err(Broken::Later(BuyError::NotComplete { order, state: "left by the seller" }));
            };
            quiet = 0;
            let frame = match ToBuyer::from_bytes(&bytes) {
                Ok(frame) => frame,
                Err(error) => {
                    self.buyer.inner.net.report(peer, Offence::Malformed).await;
                    return Err(Broken::Later(error.into()));
                }
            };
            self.event(AskEvent::Frame(Box::new(frame)), line).await?;
        }
    }

    /// What the newest block means for the order.
    async fn at_block(&mut self, line: &mut Line) -> Result<(), Broken> {
        let tip = self.buyer.inner.chain.headers().tip_height();
        match line.open.to_orders(tip) {
            ToOrders::Open => Ok(()),
            ToOrders::Closing => self.event(AskEvent::Closing, line).await,
            ToOrders::Closed => self.event(AskEvent::Closed, line).await,
        }
    }

    /// When nobody waits for anything any more, an order that closes is stopped.
    async fn close_when_done(&mut self, line: &mut Line) -> Result<(), Broken> {
        let runs = self.ask.purchase().state == ChannelPurchaseState::Running;
        let waits = !self.waiting.is_empty() || !self.next_latest.is_empty();
        if runs && (self.renews || (self.closes && !waits)) {
            self.event(AskEvent::Stop, line).await?;
        }
        Ok(())
    }

    pub(super) async fn event(&mut self, event: AskEvent, line: &mut Line) -> Result<(), Broken> {
        // Before the machine counts a voucher as paid.
        if may_pay(&event) {
            self.buyer.inner.wallet.freeze().check().map_err(BuyError::from)?;
        }
        let order = self.ask.purchase().id;
        let Some(reservation) = line.reservation.as_mut() else { return Ok(()) };
        let network = self.buyer.inner.network;
        let (ask, stakes) = (&mut self.ask, &line.stakes);
        let handled = stakes.change(|stakes| ask.handle(event, reservation, stakes, network));
        let actions = handled.map_err(|error| match error {
            AskError::Refused(refusal) if refusal.is_temporary() => Broken::Later(BuyError::Refused(refusal)),
            bad @ (AskError::Known(_)
            | AskError::Reading(_)
            | AskError::Statement(_)
            | AskError::NotAsked { .. }
            | AskError::Unexpected { .. }) => Broken::Bad(Box::new(bad)),
            source => Broken::Failed(BuyError::Reads { order, source: Box::new(source) }),
        })?;
        self.follow(actions, line).await
    }

    async fn follow(&mut self, actions: Vec<AskAction>, line: &mut Line) -> Result<(), Broken> {
        let mut again = false;
        for action in actions {
            match action {
                AskAction::Keep(piece) => {
                    let (store, terms) = (self.buyer.inner.store.clone(), self.ask.terms().clone());
                    self.piece = piece.readings.iter().map(|(reading, _)| reading.seq).collect();
                    self.keeping = Some(tokio::spawn(keep(store, terms, *piece, line.turn.clone())));
                }
                AskAction::Store => {
                    let (purchase, turn) = (self.ask.purchase().clone(), line.turn.clone());
                    let stored = self.buyer.inner.store.commit(move |tx| {
                        let _turn = &turn;
                        records::put_purchase(tx, &purchase)
                    });
                    stored.await?;
                }
                AskAction::Voucher { paid, amount } => {
                    self.buyer.inner.wallet.freeze().check().map_err(BuyError::from)?;
                    let voucher = line.open.sign(amount, &self.buyer.inner.identity)?;
                    let voucher = OrderVoucher { paid, amount, signature: voucher.signature };
                    self.send(&ToSeller::Voucher(voucher), line).await?;
                }
                AskAction::Begin(begin) => {
                    let bytes = Opening::Begin(begin).to_bytes().map_err(BuyError::from)?;
                    self.send_bytes(bytes, line).await?;
                }
                AskAction::Send(frame) => self.send(&frame, line).await?,
                AskAction::Got(want, got) => again |= self.got(want, got)?,
                AskAction::End(paid) => self.end(paid, line).await?,
            }
        }
        if again {
            let latest = std::mem::take(&mut self.next_latest);
            self.waiting.insert(Want::Latest, latest);
            Box::pin(self.want(Want::Latest, line)).await?;
        }
        Ok(())
    }

    async fn send(&self, frame: &ToSeller, line: &mut Line) -> Result<(), Broken> {
        let bytes = frame.to_bytes().map_err(|error: CodecError| BuyError::from(error))?;
        self.send_bytes(bytes, line).await
    }

    async fn send_bytes(&self, bytes: Vec<u8>, line: &mut Line) -> Result<(), Broken> {
        let order = self.ask.purchase().id;
        line.sender.feed(Bytes::from(bytes)).await.map_err(|error| broken(order, error))
    }

    async fn kept_on(&mut self, line: &mut Line) -> Result<(), Broken> {
        self.forget_recent();
        self.event(AskEvent::Kept, line).await
    }

    /// The order ends, and with it its lane.
    async fn end(&mut self, paid: Satoshis, line: &mut Line) -> Result<(), Broken> {
        let Some(reservation) = line.reservation.take() else { return Ok(()) };
        let (purchase, turn) = (self.ask.purchase().clone(), line.turn.clone());
        Ok(self.buyer.end_lane(&line.open, reservation, purchase, (paid, self.exposure), turn).await?)
    }
}

/// Whether the machine may answer with a voucher. What ends an order may, too, but mostly does not.
fn may_pay(event: &AskEvent) -> bool {
    use sensora_protocol::market::delivery::frame::ToBuyer::{Alive, Ended, Refused};
    match event {
        AskEvent::Frame(frame) => !matches!(**frame, ToBuyer::Order(Ended { .. } | Refused(_) | Alive)),
        AskEvent::Want(_) | AskEvent::Kept | AskEvent::Room | AskEvent::Rest => true,
        AskEvent::Stop | AskEvent::Closing | AskEvent::Closed => false,
    }
}

fn later(error: BuyError) -> Broken {
    match error {
        error @ BuyError::Request { .. } => Broken::Later(error),
        error => Broken::Failed(error),
    }
}

fn broken(order: OrderId, error: DeliveryError) -> Broken {
    let error = BuyError::Stream { order, source: Box::new(error) };
    Broken::Later(error)
}

async fn next(commands: &mut Option<mpsc::Receiver<Command>>) -> Option<Command> {
    match commands {
        Some(commands) => commands.recv().await,
        None => std::future::pending().await,
    }
}
