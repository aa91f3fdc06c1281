//! A delivery stream as the application holds it.

use std::{
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    DeliveryError, StreamKind,
    frame::{Encoder, Item, Malformed, REFUSED},
    progress::{Alarm, Progress, TooSlow},
    shared::Shared,
};
use crate::net::{PeerId, limits::MAX_DELIVERY_FRAME};

/// A long-lived stream of frames to and from one peer.
///
/// Dropping it resets the stream at once, as does dropping one of its halves before that direction has ended: a stream with half an application behind it would only keep the
/// peer waiting.
#[must_use = "dropping a stream resets it"]
pub struct DeliveryStream {
    sender: DeliverySender,
    receiver: DeliveryReceiver,
}

impl DeliveryStream {
    pub(in crate::net) fn new(shared: Arc<Shared>) -> Self {
        let first_by = (!shared.outbound).then(|| Instant::now() + shared.first_frame());
        let receiver = DeliveryReceiver {
            shared: shared.clone(),
            max: MAX_DELIVERY_FRAME,
            first_by,
            waiting_since: None,
            progress: Progress::default(),
            alarm: Alarm::default(),
        };
        let sender = DeliverySender {
            shared,
            encoder: Encoder::default(),
            ending: false,
            ended: false,
            failure: None,
            progress: Progress::default(),
            alarm: Alarm::default(),
        };
        Self { sender, receiver }
    }

    /// The application takes it out of the queue. False when it came too late.
    pub(in crate::net) fn take(&self) -> bool {
        self.receiver.shared.take()
    }

    /// The peer at the other end. Proven by the connection.
    pub fn peer(&self) -> PeerId {
        self.receiver.shared.peer
    }

    /// What it is for.
    pub fn kind(&self) -> StreamKind {
        self.receiver.shared.kind
    }

    /// Whether this node opened it.
    pub fn is_outbound(&self) -> bool {
        self.receiver.shared.outbound
    }

    /// The two directions, for two tasks.
    pub fn split(self) -> (DeliverySender, DeliveryReceiver) {
        (self.sender, self.receiver)
    }

    /// Ends a stream that a peer opened and on which nothing was sent yet, and says so: the peer sees [`DeliveryError::Refused`].
    pub fn refuse(self) {
        self.receiver.shared.refuse();
    }

    /// See [`DeliverySender::send`].
    ///
    /// # Errors
    /// See [`DeliverySender::send`].
    pub async fn send(&mut self, frame: Bytes) -> Result<(), DeliveryError> {
        self.sender.send(frame).await
    }

    /// See [`DeliverySender::send_all`].
    ///
    /// # Errors
    /// See [`DeliverySender::send`].
    pub async fn send_all(&mut self, frames: impl IntoIterator<Item = Bytes>) -> Result<(), DeliveryError> {
        self.sender.send_all(frames).await
    }

    /// See [`DeliverySender::feed`].
    ///
    /// # Errors
    /// See [`DeliverySender::send`].
    pub async fn feed(&mut self, frame: Bytes) -> Result<(), DeliveryError> {
        self.sender.feed(frame).await
    }

    /// See [`DeliverySender::flush`].
    ///
    /// # Errors
    /// See [`DeliverySender::send`].
    pub async fn flush(&mut self) -> Result<(), DeliveryError> {
        self.sender.flush().await
    }

    /// See [`DeliverySender::finish`].
    ///
    /// # Errors
    /// See [`DeliverySender::send`].
    pub async fn finish(&mut self) -> Result<(), DeliveryError> {
        self.sender.finish().await
    }

    /// See [`DeliveryReceiver::next`].
    ///
    /// # Errors
    /// See [`DeliveryReceiver::next`].
    pub async fn next(&mut self, patience: Duration) -> Result<Option<Bytes>, DeliveryError> {
        self.receiver.next(patience).await
    }

    /// See [`DeliveryReceiver::limit_frames`].
    pub fn limit_frames(&mut self, max: usize) {
        self.receiver.limit_frames(max);
    }
}

impl fmt::Debug for DeliveryStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, "DeliveryStream", &self.receiver.shared)
    }
}

fn debug(f: &mut fmt::Formatter<'_>, name: &str, shared: &Shared) -> fmt::Result {
    f.debug_struct(name)
        .field("peer", &shared.peer)
        .field("outbound", &shared.outbound)
        .finish_non_exhaustive()
}

/// The half of a [`DeliveryStream`] that sends.
///
/// All its futures can be dropped and called again: a frame that was taken goes out whole, with whatever is called next, before anything that follows it.
#[must_use = "dropping a sender that has not finished resets the stream"]
pub struct DeliverySender {
    shared: Arc<Shared>,
    encoder: Encoder,
    /// The end is among what is to be written.
    ending: bool,
    /// It is written.
    ended: bool,
    /// The peer takes no more, for this reason.
    failure: Option<DeliveryError>,
    progress: Progress,
    alarm: Alarm,
}

impl DeliverySender {
    /// The peer at the other end.
    pub fn peer(&self) -> PeerId {
        self.shared.peer
    }

    /// Sends a frame of 1 to [`MAX_DELIVERY_FRAME`] bytes: [`feed`](Self::feed) and [`flush`](Self::flush). Returns once the connection has it; whether the
    /// peer does, only an answer of the peer's tells.
    ///
    /// When the future is dropped the frame may have been taken or not. Where that matters, use `feed`.
    ///
    /// # Errors
    /// See [`DeliveryError`]. After an error for which [`DeliveryError::goes_on`] is false nothing more can be sent, but what the peer had sent before can be received.
    pub async fn send(&mut self, frame: Bytes) -> Result<(), DeliveryError> {
        self.feed(frame).await?;
        self.flush().await
    }

    /// Sends many frames in as few writes as their sizes allow.
    ///
    /// When the future is dropped some of the frames have been taken.
    ///
    /// # Errors
    /// See [`DeliverySender::send`].
    pub async fn send_all(&mut self, frames: impl IntoIterator<Item = Bytes>) -> Result<(), DeliveryError> {
        for frame in frames {
            self.feed(frame).await?;
        }
        self.flush().await
    }

    /// Waits for room and takes a frame. Small frames are gathered, and go out when there is a good piece of them or with [`flush`](Self::flush).
    ///
    /// When the future is dropped the frame was not taken; once it has returned, it was.
    ///
    /// # Errors
    /// See [`DeliverySender::send`].
    pub async fn feed(&mut self, frame: Bytes) -> Result<(), DeliveryError> {
        if frame.is_empty() {
            return Err(DeliveryError::FrameEmpty);
        }
        if frame.len() > MAX_DELIVERY_FRAME {
            return Err(DeliveryError::FrameTooLarge { len: frame.len() });
        }
        if self.ending {
            return Err(DeliveryError::Finished { peer: self.shared.peer });
        }
        poll_fn(|cx| self.poll_written(cx, Encoder::has_room)).await?;
        self.encoder.push(frame);
        Ok(())
    }

    /// Gives all frames that were taken to the connection. Safe to cancel.
    ///
    /// # Errors
    /// See [`DeliverySender::send`].
    pub async fn flush(&mut self) -> Result<(), DeliveryError> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Says that nothing follows: the peer's [`next`](DeliveryReceiver::next) gives `None` after the last frame. The other direction goes on. Safe to cancel, and to call again.
    ///
    /// # Errors
    /// See [`DeliverySender::send`].
    pub async fn finish(&mut self) -> Result<(), DeliveryError> {
        if self.ended {
            return Ok(());
        }
        if !self.ending {
            poll_fn(|cx| self.poll_written(cx, Encoder::has_room)).await?;
            self.encoder.push_end();
            self.ending = true;
        }
        self.flush().await?;
        self.ended = true;
        self.shared.said_end();
        Ok(())
    }

    /// Writes until the encoder is as wanted.
    fn poll_written(
        &mut self,
        cx: &mut Context<'_>,
        wanted: fn(&Encoder) -> bool,
    ) -> Poll<Result<(), DeliveryError>> {
        loop {
            if let Some(failure) = &self.failure {
                return Poll::Ready(Err(failure.clone()));
            }
            if wanted(&self.encoder) {
                self.progress.rest();
                return Poll::Ready(Ok(()));
            }
            match self.shared.poll_write(cx, self.encoder.chunk()) {
                Poll::Ready(Ok(written)) => {
                    self.encoder.advance(written);
                    self.progress.moved(written);
                }
                Poll::Ready(Err(failure)) => self.failure = Some(failure),
                Poll::Pending => ready!(self.poll_waited(cx)),
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DeliveryError>> {
        ready!(self.poll_written(cx, Encoder::is_empty))?;
        loop {
            if let Some(failure) = &self.failure {
                return Poll::Ready(Err(failure.clone()));
            }
            match self.shared.poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.progress.rest();
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(failure)) => self.failure = Some(failure),
                Poll::Pending => ready!(self.poll_waited(cx)),
            }
        }
    }

    /// Nothing can be written now. Ready when something is to be done again.
    fn poll_waited(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.progress.wait(Instant::now()) {
            Ok(at) => self.alarm.poll(cx, at),
            Err(TooSlow) => {
                let error = DeliveryError::SlowReading { peer: self.shared.peer };
                self.failure = Some(self.shared.end(&mut self.shared.state(), error));
                Poll::Ready(())
            }
        }
    }
}

impl Drop for DeliverySender {
    fn drop(&mut self) {
        // Where the peer takes no more, what it said before is still to be received.
        if !self.ended && self.failure.is_none() {
            self.shared.abandon();
        }
    }
}

impl fmt::Debug for DeliverySender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, "DeliverySender", &self.shared)
    }
}

/// The half of a [`DeliveryStream`] that receives.
#[must_use = "dropping a receiver that has not seen the end resets the stream"]
pub struct DeliveryReceiver {
    shared: Arc<Shared>,
    max: usize,
    /// The peer opened the stream and must begin its first frame by then.
    first_by: Option<Instant>,
    /// Since when a frame is waited for.
    waiting_since: Option<Instant>,
    progress: Progress,
    alarm: Alarm,
}

impl DeliveryReceiver {
    /// The peer at the other end.
    pub fn peer(&self) -> PeerId {
        self.shared.peer
    }

    /// Takes frames of up to `max` bytes from the next one on; the peer ends the stream by a longer one. For who expects only vouchers, say: it bounds what a peer can make us keep.
    pub fn limit_frames(&mut self, max: usize) {
        self.max = max.min(MAX_DELIVERY_FRAME);
        self.shared.state().decoder.set_max(self.max);
    }

    /// The next frame; `None` when the peer has said that nothing follows. Frames that came before the stream broke off are given first.
    ///
    /// `patience` is how long there may be no frame; a frame that has begun has the rate of
    /// [`MIN_DELIVERY_RATE`](crate::net::limits::MIN_DELIVERY_RATE) instead. It counts from the first call since the last frame, so a call that is dropped and made
    /// again does not begin anew. The stream goes on after [`DeliveryError::Idle`]. Safe to cancel: no byte is lost.
    ///
    /// # Errors
    /// See [`DeliveryError`].
    pub async fn next(&mut self, patience: Duration) -> Result<Option<Bytes>, DeliveryError> {
        poll_fn(|cx| self.poll_next(cx, patience)).await
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        patience: Duration,
    ) -> Poll<Result<Option<Bytes>, DeliveryError>> {
        let (shared, peer) = (&*self.shared, self.shared.peer);
        let state = &mut *shared.state();
        loop {
            if state.heard_end() {
                return Poll::Ready(Ok(None));
            }
            let error = match state.decoder.next() {
                Ok(Some(Item::Frame(frame))) => {
                    self.waiting_since = None;
                    return Poll::Ready(Ok(Some(frame)));
                }
                Ok(Some(Item::End)) => {
                    state.hear_end();
                    continue;
                }
                // Who opens a stream has nothing to refuse.
                Ok(Some(Item::Refused)) if shared.outbound => DeliveryError::Refused { peer },
                Ok(Some(Item::Refused)) => DeliveryError::Oversize { peer, len: REFUSED, max: self.max },
                Err(Malformed::TooLong(len)) => DeliveryError::Oversize { peer, len, max: self.max },
                Err(Malformed::Empty) => DeliveryError::ZeroLength { peer },
                Ok(None) => match shared.poll_read(state, cx) {
                    Poll::Ready(read) => {
                        self.progress.moved(read?);
                        self.first_by = None;
                        continue;
                    }
                    Poll::Pending => {
                        let now = Instant::now();
                        let at = if state.decoder.is_mid_frame() {
                            self.progress.wait(now).map_err(|TooSlow| DeliveryError::SlowSending { peer })
                        } else {
                            self.progress.rest();
                            let waiting_since = *self.waiting_since.get_or_insert(now);
                            // A time that cannot be told never comes.
                            let idle_at = waiting_since.checked_add(patience);
                            match self.first_by {
                                Some(by) if now >= by => {
                                    Err(DeliveryError::NoFirstFrame { peer, after: shared.first_frame() })
                                }
                                _ if idle_at.is_some_and(|at| now >= at) => {
                                    self.waiting_since = None;
                                    return Poll::Ready(Err(DeliveryError::Idle { peer, after: patience }));
                                }
                                by => match by.into_iter().chain(idle_at).min() {
                                    Some(at) => Ok(at),
                                    None => return Poll::Pending,
                                },
                            }
                        };
                        match at {
                            Ok(at) => {
                                ready!(self.alarm.poll(cx, at));
                                continue;
                            }
                            Err(error) => error,
                        }
                    }
                },
            };
            return Poll::Ready(Err(shared.end(state, error)));
        }
    }
}

impl Drop for DeliveryReceiver {
    fn drop(&mut self) {
        if !self.shared.state().heard_end() {
            self.shared.abandon();
        }
    }
}

impl fmt::Debug for DeliveryReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, "DeliveryReceiver", &self.shared)
    }
}
