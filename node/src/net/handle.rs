//! The application's side of the swarm.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

use super::{
    Counters, CountersSnapshot, DeliveryError, DeliveryStream, DialError, FindError, Multiaddr, NetStatus,
    Offence, PeerId, Protocol, ProvideError, PublishError, RequestError, StreamKind, Topic,
    command::{Command, OutboundRequest},
    delivery::Open,
    limits::{
        CONTROL_DEADLINE, DIAL_DEADLINE, FIND_DEADLINE, MAX_DIALS, MAX_GOSSIP, MAX_OUTBOUND_DELIVERIES,
        MAX_OUTBOUND_DELIVERIES_PER_PEER, MAX_OUTBOUND_REQUESTS, MAX_OUTBOUND_REQUESTS_PER_PEER,
        MAX_PENDING_DELIVERIES, MAX_QUERIES, MAX_REQUEST, PUBLISH_DEADLINE,
    },
    quota::{Opens, Pace, Quotas},
};

/// Connections as they come to be, whichever side opened them: who waits for a peer that is gone need not wait longer.
#[must_use = "it tells of nothing before it was made"]
pub struct Arrivals {
    peers: broadcast::Receiver<PeerId>,
}

impl Arrivals {
    /// Waits until this peer is connected anew; for ever where the runner has ended. Who is too slow to look at all connections is told at once, because the
    /// peer may have been among them. Safe to cancel.
    pub async fn of(&mut self, peer: PeerId) {
        loop {
            match self.peers.recv().await {
                Ok(other) if other != peer => {}
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

/// A cheap clone that sends commands to the [`NetRunner`](super::NetRunner). Every method ends by its deadline; all are safe to
/// cancel. When the runner has ended they fail with `Stopped` or give nothing.
#[derive(Clone)]
pub struct Net {
    inner: Arc<Inner>,
}

struct Inner {
    peer_id: PeerId,
    network: String,
    commands: mpsc::Sender<Command>,
    requests: Arc<Semaphore>,
    requests_by_peer: ByPeer,
    deliveries: Arc<Semaphore>,
    deliveries_by_peer: ByPeer,
    pending_deliveries: Arc<Semaphore>,
    dials: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    quotas: Quotas,
    opens: Opens,
    pace: Pace,
    counters: Arc<Counters>,
    arrivals: broadcast::Sender<PeerId>,
}

/// Peers for which a semaphore is kept; those nobody holds are dropped when there are more.
const MAX_SEMAPHORES: usize = 1024;

/// A semaphore for each peer, with so many permits.
struct ByPeer {
    permits: usize,
    semaphores: Mutex<HashMap<PeerId, Arc<Semaphore>>>,
}

impl ByPeer {
    fn new(permits: usize) -> Self {
        Self { permits, semaphores: Mutex::default() }
    }

    /// The peer's; `sweep` is called now and then, when others are forgotten.
    fn of(&self, peer: PeerId, sweep: impl FnOnce()) -> Arc<Semaphore> {
        let mut map = self.semaphores.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= MAX_SEMAPHORES {
            // Whoever waits for or holds a permit also holds the semaphore.
            map.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
            sweep();
        }
        map.entry(peer).or_insert_with(|| Arc::new(Semaphore::new(self.permits))).clone()
    }
}

impl Net {
    pub(super) fn from_parts(
        peer_id: PeerId,
        network: String,
        commands: mpsc::Sender<Command>,
        counters: Arc<Counters>,
        arrivals: broadcast::Sender<PeerId>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                peer_id,
                network,
                commands,
                requests: Arc::new(Semaphore::new(MAX_OUTBOUND_REQUESTS)),
                requests_by_peer: ByPeer::new(MAX_OUTBOUND_REQUESTS_PER_PEER),
                deliveries: Arc::new(Semaphore::new(MAX_OUTBOUND_DELIVERIES)),
                deliveries_by_peer: ByPeer::new(MAX_OUTBOUND_DELIVERIES_PER_PEER),
                pending_deliveries: Arc::new(Semaphore::new(MAX_PENDING_DELIVERIES)),
                dials: Arc::new(Semaphore::new(MAX_DIALS)),
                queries: Arc::new(Semaphore::new(MAX_QUERIES)),
                quotas: Quotas::outbound(),
                opens: Opens::outbound(),
                pace: Pace::publishing(),
                counters,
                arrivals,
            }),
        }
    }

    /// This node.
    pub fn peer_id(&self) -> PeerId {
        self.inner.peer_id
    }

    /// The name of the network.
    pub fn network(&self) -> &str {
        &self.inner.network
    }

    /// Counts since the start.
    pub fn counters(&self) -> CountersSnapshot {
        self.inner.counters.snapshot()
    }

    /// How many peers of our network are connected and identified.
    pub fn peer_count(&self) -> usize {
        usize::try_from(self.inner.counters.peers.load(Relaxed)).unwrap_or(usize::MAX)
    }

    /// The addresses this node listens on, without `/p2p`. Waits until every listener has one. Empty when it listens
    /// nowhere or the runner has ended.
    pub async fn listen_addrs(&self) -> Vec<Multiaddr> {
        self.ask(|reply| Command::ListenAddrs { reply }).await.unwrap_or_default()
    }

    /// The peers of our network that are connected and identified.
    pub async fn connected_peers(&self) -> Vec<PeerId> {
        self.ask(|reply| Command::ConnectedPeers { reply }).await.unwrap_or_default()
    }

    /// Who connects from now on.
    pub fn arrivals(&self) -> Arrivals {
        Arrivals { peers: self.inner.arrivals.subscribe() }
    }

    /// Waits for `pause`, or until this peer connects anew: what has failed before may work at once then. Safe to cancel.
    pub async fn rest(&self, peer: PeerId, pause: Duration) {
        let mut arrivals = self.arrivals();
        tokio::select! {
            () = sleep(pause) => {}
            () = arrivals.of(peer) => {}
        }
    }

    /// The peers worth remembering for the next start, with the addresses at which they were last reached, best
    /// first. Give them back as [`NetConfig::known_peers`](super::NetConfig::known_peers).
    pub async fn known_peers(&self) -> Vec<(PeerId, Vec<Multiaddr>)> {
        self.ask(|reply| Command::KnownPeers { reply }).await.unwrap_or_default()
    }

    /// A picture of the swarm; `None` when the runner has ended.
    pub async fn status(&self) -> Option<NetStatus> {
        self.ask(|reply| Command::Status { reply }).await
    }

    /// Charges a peer with an offence the application found. See [`Offence`] for what follows.
    pub async fn report(&self, peer: PeerId, offence: Offence) {
        let deadline = Instant::now() + CONTROL_DEADLINE;
        let _ = timeout_at(deadline, self.inner.commands.send(Command::Report { peer, offence })).await;
    }

    /// Connects to a peer at these addresses and those known of it. Does nothing where it is connected already.
    ///
    /// # Errors
    /// See [`DialError`]; ends after [`DIAL_DEADLINE`] at the latest.
    pub async fn dial(&self, peer: PeerId, addresses: Vec<Multiaddr>) -> Result<(), DialError> {
        let work = async {
            let permit = permit(&self.inner.dials).await.ok_or(DialError::Stopped)?;
            let (reply, answer) = oneshot::channel();
            let command = Command::Dial { peer, addresses, reply, permit };
            self.inner.commands.send(command).await.map_err(|_| DialError::Stopped)?;
            answer.await.map_err(|_| DialError::Stopped)?
        };
        timeout_at(Instant::now() + DIAL_DEADLINE, work)
            .await
            .unwrap_or(Err(DialError::Timeout { peer, after: DIAL_DEADLINE }))
    }

    /// Sends a request and waits for the answer; connects first, with these addresses and those known, where needed.
    /// The body must be 1 to [`MAX_REQUEST`] bytes. Waits for its turn where
    /// the peer's quota or our own bounds ask for it. A `timeout` above
    /// [`MAX_REQUEST_TIME`](super::limits::MAX_REQUEST_TIME) has no effect once the request is sent.
    ///
    /// # Errors
    /// See [`RequestError`]. Where [`RequestError::not_sent`] is false the peer may have acted on the request.
    pub async fn request(
        &self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        protocol: Protocol,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        let work = self.request_in_turn(peer, addresses, protocol, body);
        let outcome = timeout_at(Instant::now() + timeout, work)
            .await
            .unwrap_or(Err(RequestError::Timeout { peer, after: timeout }));
        if let Err(error) = &outcome {
            self.inner.counters.request_error(error.label());
        }
        outcome
    }

    async fn request_in_turn(
        &self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        protocol: Protocol,
        body: Bytes,
    ) -> Result<Bytes, RequestError> {
        if body.is_empty() {
            return Err(RequestError::Empty);
        }
        if body.len() > MAX_REQUEST {
            return Err(RequestError::TooLarge { len: body.len() });
        }
        let of_peer = self.inner.requests_by_peer.of(peer, || self.inner.quotas.sweep());
        let of_peer = permit(&of_peer).await.ok_or(RequestError::Stopped)?;
        while let Err(wait) = self.inner.quotas.take(&peer, protocol) {
            sleep(wait).await;
        }
        let of_all = permit(&self.inner.requests).await.ok_or(RequestError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        let request = OutboundRequest { peer, protocol, body, reply, permits: [of_peer, of_all] };
        let command = Command::Request { request, addresses };
        self.inner.commands.send(command).await.map_err(|_| RequestError::Stopped)?;
        answer.await.map_err(|_| RequestError::Stopped)?
    }

    /// Opens a stream of [`StreamKind::Delivery`]; see [`Net::open_stream`].
    ///
    /// # Errors
    /// See [`DeliveryError`].
    pub async fn open_delivery(
        &self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        timeout: Duration,
    ) -> Result<DeliveryStream, DeliveryError> {
        self.open_stream(StreamKind::Delivery, peer, addresses, timeout).await
    }

    /// Opens a stream; connects first, with these addresses and those known, where needed. It returns before the peer has heard of it: the stream reaches the
    /// peer together with the first frame, and whether the peer takes it shows with the first [`next`](DeliveryStream::next). Waits for its turn where
    /// the peer's quota asks for it, but not for other streams to end.
    ///
    /// # Errors
    /// See [`DeliveryError`].
    pub async fn open_stream(
        &self,
        kind: StreamKind,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        timeout: Duration,
    ) -> Result<DeliveryStream, DeliveryError> {
        let work = self.open_in_turn(kind, peer, addresses);
        let outcome = timeout_at(Instant::now() + timeout, work)
            .await
            .unwrap_or(Err(DeliveryError::Timeout { peer, after: timeout }));
        if let Err(error) = &outcome {
            self.inner.counters.delivery_error(error.label());
        }
        outcome
    }

    async fn open_in_turn(
        &self,
        kind: StreamKind,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
    ) -> Result<DeliveryStream, DeliveryError> {
        let inner = &self.inner;
        let of_peer = inner.deliveries_by_peer.of(peer, || inner.opens.sweep()).try_acquire_owned();
        let limit = MAX_OUTBOUND_DELIVERIES_PER_PEER;
        let of_peer = of_peer.map_err(|_| DeliveryError::TooManyToPeer { peer, limit })?;
        let of_all = inner.deliveries.clone().try_acquire_owned();
        let of_all = of_all.map_err(|_| DeliveryError::TooMany { limit: MAX_OUTBOUND_DELIVERIES })?;
        let pending = permit(&inner.pending_deliveries).await.ok_or(DeliveryError::Stopped)?;
        while let Err(wait) = inner.opens.take(&peer) {
            sleep(wait).await;
        }
        let (reply, answer) = oneshot::channel();
        let open = Open { peer, kind, reply, permits: [of_peer, of_all], pending };
        let command = Command::OpenDelivery { open, addresses };
        inner.commands.send(command).await.map_err(|_| DeliveryError::Stopped)?;
        answer.await.map_err(|_| DeliveryError::Stopped)?
    }

    /// Publishes a gossip message of at most [`MAX_GOSSIP`] bytes. It waits for its turn (see
    /// [`PUBLISH_PER_SECOND`](super::quota::PUBLISH_PER_SECOND)). Where nobody has subscribed yet it is kept and
    /// goes out to the first who does; that counts as published.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish(&self, topic: Topic, data: Bytes) -> Result<(), PublishError> {
        if data.len() > MAX_GOSSIP {
            return Err(PublishError::TooLarge { len: data.len() });
        }
        let work = async {
            while let Err(wait) = self.inner.pace.take() {
                sleep(wait).await;
            }
            let (reply, answer) = oneshot::channel();
            let command = Command::Publish { topic, data, reply };
            self.inner.commands.send(command).await.map_err(|_| PublishError::Stopped)?;
            answer.await.map_err(|_| PublishError::Stopped)?
        };
        timeout_at(Instant::now() + PUBLISH_DEADLINE, work)
            .await
            .unwrap_or(Err(PublishError::Timeout { after: PUBLISH_DEADLINE }))
    }

    /// Announces in the DHT that this node provides `key`, now and again while the node runs, until
    /// [`Net::stop_providing`]. Returns once it is noted; without peers the announcement follows when there are some.
    ///
    /// # Errors
    /// See [`ProvideError`].
    pub async fn provide(&self, key: [u8; 32]) -> Result<(), ProvideError> {
        self.ask(|reply| Command::Provide { key, reply }).await.unwrap_or(Err(ProvideError::Stopped))
    }

    /// Announces `key` no more. What other nodes have stored ends by itself within
    /// [`PROVIDER_RECORD_TTL`](super::PROVIDER_RECORD_TTL).
    pub async fn stop_providing(&self, key: [u8; 32]) {
        self.ask(|reply| Command::StopProviding { key, reply }).await;
    }

    /// Looks up who provides `key`: at most [`MAX_FOUND_PROVIDERS`](super::limits::MAX_FOUND_PROVIDERS) peers, never
    /// this node, with the addresses known of each (possibly none). They are hints: a provider may be long gone, and
    /// anybody may call himself one. An empty list means that the query ended without a provider.
    ///
    /// # Errors
    /// [`FindError::Timeout`] where nothing was found within [`FIND_DEADLINE`] and the query had not ended.
    pub async fn find_providers(&self, key: [u8; 32]) -> Result<Vec<(PeerId, Vec<Multiaddr>)>, FindError> {
        let deadline = Instant::now() + FIND_DEADLINE;
        let work = async {
            let permit = permit(&self.inner.queries).await.ok_or(FindError::Stopped)?;
            let (reply, answer) = oneshot::channel();
            let command = Command::FindProviders { key, deadline, reply, permit };
            self.inner.commands.send(command).await.map_err(|_| FindError::Stopped)?;
            answer.await.map_err(|_| FindError::Stopped)?
        };
        // The runner answers with what it has at the deadline; give it a moment to do so.
        timeout_at(deadline + Duration::from_secs(3), work)
            .await
            .unwrap_or(Err(FindError::Timeout { after: FIND_DEADLINE }))
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let work = async {
            self.inner.commands.send(command(reply)).await.ok()?;
            answer.await.ok()
        };
        timeout_at(Instant::now() + CONTROL_DEADLINE, work).await.ok().flatten()
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("peer_id", &self.inner.peer_id)
            .field("network", &self.inner.network)
            .finish_non_exhaustive()
    }
}

async fn permit(semaphore: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    semaphore.clone().acquire_owned().await.ok()
}
