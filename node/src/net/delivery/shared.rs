//! What the two halves of a stream share: the substream, what has arrived of it, and why it ended.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use libp2p::{
    Stream,
    core::upgrade::NegotiationError,
    futures::{AsyncRead, AsyncWrite, task::AtomicWaker},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::coop,
};

use super::{
    DeliveryError, StreamKind,
    frame::{Decoder, REFUSED},
    places::{Place, Places},
};
use crate::net::{Counters, Offence, PeerId, counters::inc, limits::MAX_DELIVERY_FRAME};

/// What all streams of a node share.
pub(in crate::net) struct Node {
    pub(super) places: Arc<Places>,
    pub(super) counters: Arc<Counters>,
    /// To the behaviour: who has done what wrong on a stream.
    pub(super) faults: mpsc::Sender<(PeerId, Offence)>,
    /// The runner has ended, and all streams with it.
    pub(super) stopped: AtomicBool,
    /// How long a peer may take to begin the first frame on a stream of its own.
    pub(super) first_frame: Duration,
}

/// Wakes whoever waits on either half. While the protocol is being agreed upon, reading a substream also writes, so each half may take the place
/// where the transport keeps the other one's waker; and a spurious wake costs less than a lost one.
#[derive(Debug, Default)]
struct Halves {
    receiver: AtomicWaker,
    sender: AtomicWaker,
}

impl Wake for Halves {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.receiver.wake();
        self.sender.wake();
    }
}

/// One stream. Where the last of those who hold it lets go, it is reset.
pub(in crate::net) struct Shared {
    pub(super) peer: PeerId,
    pub(super) kind: StreamKind,
    /// Whether this node opened it.
    pub(super) outbound: bool,
    node: Arc<Node>,
    halves: Arc<Halves>,
    waker: Waker,
    state: Mutex<State>,
}

/// The state of a stream.
pub(super) struct State {
    /// Gone once both directions have ended, or the stream has.
    io: Option<(Stream, Place)>,
    pub(super) decoder: Decoder,
    /// Why the stream ended too early.
    failure: Option<DeliveryError>,
    /// A failure of it has been counted.
    counted: bool,
    /// Something was written.
    spoke: bool,
    /// This side has said everything.
    said_end: bool,
    /// The peer has.
    heard_end: bool,
    /// Its place in the queue to the application, until that takes it.
    queued: Option<OwnedSemaphorePermit>,
}

/// Which half a task works on.
#[derive(Debug, Clone, Copy)]
enum Half {
    Receiver,
    Sender,
}

impl Shared {
    pub(super) fn new(
        node: Arc<Node>,
        peer: PeerId,
        kind: StreamKind,
        outbound: bool,
        stream: Stream,
        place: Place,
    ) -> Arc<Self> {
        let halves = Arc::new(Halves::default());
        Arc::new(Self {
            peer,
            kind,
            outbound,
            node,
            waker: halves.clone().into(),
            halves,
            state: Mutex::new(State {
                io: Some((stream, place)),
                decoder: Decoder::new(MAX_DELIVERY_FRAME),
                failure: None,
                counted: false,
                spoke: false,
                said_end: false,
                heard_end: false,
                queued: None,
            }),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn first_frame(&self) -> Duration {
        self.node.first_frame
    }

    /// The task of this half is woken when the substream has something for either, until it is taken off again.
    fn register(&self, half: Half, cx: &Context<'_>) {
        match half {
            Half::Receiver => self.halves.receiver.register(cx.waker()),
            Half::Sender => self.halves.sender.register(cx.waker()),
        }
    }

    /// Reads what there is into the decoder, which must have nothing more to give. Returns how much that was.
    pub(super) fn poll_read(
        &self,
        state: &mut State,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, DeliveryError>> {
        let turn = ready!(coop::poll_proceed(cx));
        self.register(Half::Receiver, cx);
        let Some((stream, _)) = &mut state.io else { return Poll::Ready(Err(self.gone(state))) };
        let space = state.decoder.space();
        let read = ready!(Pin::new(stream).poll_read(&mut Context::from_waker(&self.waker), space));
        self.halves.receiver.take();
        turn.made_progress();
        Poll::Ready(match read {
            Ok(0) => {
                let error = self.broke_off(state.decoder.is_mid_frame());
                Err(self.end(state, error))
            }
            Ok(read) => {
                state.decoder.filled(read);
                Ok(read)
            }
            Err(error) => {
                let error = self.explain(&error);
                Err(self.end(state, error))
            }
        })
    }

    /// Writes some of it. An error ends this direction only: what the peer sent before it broke off can still be read.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, DeliveryError>> {
        let turn = ready!(coop::poll_proceed(cx));
        self.register(Half::Sender, cx);
        let state = &mut *self.state();
        let Some((stream, _)) = &mut state.io else { return Poll::Ready(Err(self.gone(state))) };
        let written = ready!(Pin::new(stream).poll_write(&mut Context::from_waker(&self.waker), bytes));
        self.halves.sender.take();
        turn.made_progress();
        Poll::Ready(match written {
            Ok(0) => Err(self.write_failed(state, &io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                state.spoke = true;
                Ok(written)
            }
            Err(error) => Err(self.write_failed(state, &error)),
        })
    }

    /// Gives all that is written to the connection.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<Result<(), DeliveryError>> {
        self.register(Half::Sender, cx);
        let state = &mut *self.state();
        let Some((stream, _)) = &mut state.io else { return Poll::Ready(Err(self.gone(state))) };
        let flushed = ready!(Pin::new(stream).poll_flush(&mut Context::from_waker(&self.waker)));
        self.halves.sender.take();
        Poll::Ready(flushed.map_err(|error| self.write_failed(state, &error)))
    }

    /// Why nothing can be written. The cause comes in place of the peer's answer.
    fn write_failed(&self, state: &mut State, error: &io::Error) -> DeliveryError {
        if let (true, Some((stream, _))) = (state.decoder.is_fresh(), &mut state.io) {
            let space = state.decoder.space();
            match Pin::new(stream).poll_read(&mut Context::from_waker(&self.waker), space) {
                Poll::Ready(Ok(read)) => state.decoder.filled(read),
                Poll::Ready(Err(error)) => {
                    let error = self.explain(&error);
                    return self.end(state, error);
                }
                Poll::Pending => {}
            }
        }
        if state.decoder.is_refusal() {
            return self.end(state, DeliveryError::Refused { peer: self.peer });
        }
        let error = self.explain(error);
        self.count(state, &error);
        error
    }

    /// What an error of the substream means.
    fn explain(&self, error: &io::Error) -> DeliveryError {
        let peer = self.peer;
        // The first frame travels with the proposal of its protocol, so the refusal comes in place of the answer.
        if error.get_ref().is_some_and(|inner| inner.is::<NegotiationError>()) {
            return DeliveryError::Unsupported { peer, protocol: self.kind };
        }
        match error.kind() {
            io::ErrorKind::WriteZero
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted => self.broke_off(false),
            _ => DeliveryError::Io { peer, reason: error.to_string() },
        }
    }

    /// The substream is at its end, and the stream is not.
    fn broke_off(&self, mid_frame: bool) -> DeliveryError {
        let peer = self.peer;
        match mid_frame {
            _ if self.node.stopped.load(Relaxed) => DeliveryError::Stopped,
            true => DeliveryError::ClosedMidFrame { peer },
            false => DeliveryError::Reset { peer },
        }
    }

    /// Ends the stream, once: the substream is reset, its place is free, and both halves learn why.
    pub(super) fn end(&self, state: &mut State, error: DeliveryError) -> DeliveryError {
        if let Some(failure) = &state.failure {
            return failure.clone();
        }
        self.count(state, &error);
        if let Some(offence) = error.offence() {
            // As many places as there can be streams; each has one fault at most.
            let _ = self.node.faults.try_send((self.peer, offence));
        }
        tracing::debug!(peer = %self.peer, %error, "a delivery stream ended");
        state.failure = Some(error.clone());
        state.io = None;
        self.halves.wake_by_ref();
        error
    }

    fn count(&self, state: &mut State, error: &DeliveryError) {
        if !std::mem::replace(&mut state.counted, true) {
            self.node.counters.delivery_error(error.label());
        }
    }

    /// Why there is no substream.
    fn gone(&self, state: &State) -> DeliveryError {
        state.failure.clone().unwrap_or(DeliveryError::Finished { peer: self.peer })
    }

    /// This side has said everything, to the last byte.
    pub(super) fn said_end(&self) {
        let state = &mut *self.state();
        state.said_end = true;
        state.close_if_done();
    }

    /// A half is dropped before its direction has ended.
    pub(super) fn abandon(&self) {
        let state = &mut *self.state();
        if state.failure.is_none() {
            state.failure = Some(DeliveryError::Abandoned { peer: self.peer });
        }
        state.io = None;
        self.halves.wake_by_ref();
    }

    /// Puts it into the queue to the application.
    pub(in crate::net) fn queue(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Weak<Self> {
        self.state().queued = Some(permit);
        Arc::downgrade(self)
    }

    /// Whether the application has not taken it yet.
    pub(in crate::net) fn is_queued(&self) -> bool {
        self.state().queued.is_some()
    }

    /// The application takes it. False when it came too late.
    pub(super) fn take(&self) -> bool {
        let state = &mut *self.state();
        let in_time = state.queued.take().is_some() && state.io.is_some();
        if in_time {
            inc(&self.node.counters.deliveries_accepted);
        }
        in_time
    }

    /// Ends the stream and, where nothing else was said on it, tells the peer that it is not taken.
    pub(in crate::net) fn refuse(&self) {
        let state = &mut *self.state();
        if let (false, Some((stream, _))) = (state.spoke || self.outbound, &mut state.io) {
            refuse(stream);
        }
        state.failure.get_or_insert(DeliveryError::Abandoned { peer: self.peer });
        state.io = None;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("peer", &self.peer)
            .field("outbound", &self.outbound)
            .finish_non_exhaustive()
    }
}

impl State {
    /// Whether the peer has said everything.
    pub(super) fn heard_end(&self) -> bool {
        self.heard_end
    }

    /// The peer has said everything.
    pub(super) fn hear_end(&mut self) {
        self.heard_end = true;
        self.close_if_done();
    }

    fn close_if_done(&mut self) {
        if self.said_end
            && self.heard_end
            && let Some((mut stream, _place)) = self.io.take()
        {
            // Both sides know that it is over: what becomes of this is of no interest to anybody.
            let _ = Pin::new(&mut stream).poll_close(&mut Context::from_waker(Waker::noop()));
        }
    }
}

/// Tells the peer that its stream is not taken, as far as that can be done at once: on a fresh substream it can.
pub(super) fn refuse(stream: &mut Stream) {
    let cx = &mut Context::from_waker(Waker::noop());
    if let Poll::Ready(Ok(_)) = Pin::new(&mut *stream).poll_write(cx, &REFUSED.to_be_bytes()) {
        let _ = Pin::new(stream).poll_flush(cx);
    }
}
