//! Every bound of the swarm in one place, each with the reason for its value.

use std::time::Duration;

/// Largest request body in bytes, either way. An order with its payment in BEEF is a few tens of KiB; eight times
/// that leaves room for a deep ancestry and still lets a hundred peers send at once in 25 MiB.
pub const MAX_REQUEST: usize = 256 * 1024;

/// Largest response body in bytes: the 1 MiB of payload a protocol frame may carry plus 64 KiB for the proof, signature
/// and map keys around it.
pub const MAX_RESPONSE: usize = 1024 * 1024 + 64 * 1024;

/// Largest gossip payload in bytes. An ad is at most 4 KiB; a second 4 KiB covers the envelope of later topics.
pub const MAX_GOSSIP: usize = 8 * 1024;

/// Largest gossipsub RPC in bytes: one payload with its author, key and signature, plus some control messages. It bounds
/// what a peer makes us buffer before we look at it.
pub const MAX_GOSSIP_RPC: usize = MAX_GOSSIP + 2 * 1024;

/// How long a peer may take to send its request once it opened a substream, where nothing else is configured. A quarter megabyte at 0.3 Mbit/s, the
/// slowest uplink worth serving, takes 7 s.
pub const READ_REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// The longest a request may live from its first byte to the last byte of the answer, on either side. Longer than
/// [`READ_REQUEST_DEADLINE`] plus the time a seller takes to assemble a proof from a slow disk.
pub const MAX_REQUEST_TIME: Duration = Duration::from_secs(60);

/// Requests in either direction on one connection. The caller's permits keep honest peers far below; over it libp2p
/// drops the substream without a word.
pub const MAX_STREAMS_PER_CONNECTION: usize = 32;

/// Memory for inbound request bodies that are larger than [`FREE_REQUEST_BYTES`], for all peers together. A sender over it
/// gets [`Refusal::Busy`](super::Refusal::Busy); small requests always pass.
pub const INBOUND_BODY_BUDGET: usize = 32 * 1024 * 1024;

/// The part of each inbound request that is not counted against [`INBOUND_BODY_BUDGET`]: quotes and most orders fit, so
/// peers that fill the budget cannot lock out ordinary trade.
pub const FREE_REQUEST_BYTES: usize = 8 * 1024;

/// Inbound requests that are not answered to the last byte, for all peers together. If each asks for the largest
/// answer and reads nothing, 128 of them hold 136 MiB.
pub const MAX_INBOUND_REQUESTS: usize = 128;

/// Inbound requests of one peer that are not answered to the last byte: a slow peer must not use up everybody's places,
/// nor memory by asking much and reading little. More than [`MAX_OUTBOUND_REQUESTS_PER_PEER`], so that an honest
/// peer never meets it, and less than [`MAX_STREAMS_PER_CONNECTION`], so that it is told.
pub const MAX_INBOUND_REQUESTS_PER_PEER: usize = 24;

/// Largest frame on a delivery stream in bytes: the same chunk with the same proof around it as in an answer, [`MAX_RESPONSE`].
pub const MAX_DELIVERY_FRAME: usize = MAX_RESPONSE;

/// Delivery streams that peers have opened, for all together, where nothing else is configured. A stream that carries payments holds some KiB. If each brings us the largest frame to within
/// its last byte, 256 of them hold 272 MiB, and as many windows of the transport another 64 MiB; [`limit_frames`](super::DeliveryReceiver::limit_frames) is for who expects less.
pub const MAX_INBOUND_DELIVERIES: usize = 256;

/// The same for one peer, where nothing else is configured. More than [`MAX_OUTBOUND_DELIVERIES_PER_PEER`], so that an honest peer never meets it, also while it opens new
/// streams in place of some that have not ended here.
pub const MAX_INBOUND_DELIVERIES_PER_PEER: usize = 96;

/// Delivery streams of our own. Each may bring [`MAX_DELIVERY_FRAME`] into memory: 128 of them are 136 MiB at the very worst.
pub const MAX_OUTBOUND_DELIVERIES: usize = 128;

/// Delivery streams of our own to one peer: a buyer of many streams of one seller has a few; 64 is what one channel is meant to carry at a time.
pub const MAX_OUTBOUND_DELIVERIES_PER_PEER: usize = 64;

/// Delivery streams of our own that are being opened; the others wait for their turn. Opening takes a dial at the longest.
pub const MAX_PENDING_DELIVERIES: usize = 32;

/// Delivery streams that peers have opened and the application has not taken. It takes them in microseconds; more than this means that it does not. More than
/// [`MAX_INBOUND_DELIVERIES_PER_PEER`], so that one peer alone cannot fill it.
pub const MAX_QUEUED_DELIVERIES: usize = 128;

/// How long a delivery stream waits for the application to take it, where nothing else is configured. Who opened it waits for an answer meanwhile.
pub const ACCEPT_DELIVERY_DEADLINE: Duration = Duration::from_secs(10);

/// How long a peer may take to begin the first frame on a delivery stream it opened, where nothing else is configured. It opens a stream because it has something to say, and the first
/// frame comes with the opening.
pub const FIRST_FRAME_DEADLINE: Duration = Duration::from_secs(10);

/// How long the connection may take to open a delivery stream: there is nothing to wait for but room among the streams of the connection.
pub const OPEN_DELIVERY_DEADLINE: Duration = Duration::from_secs(10);

/// The span over which the progress of a delivery stream is looked at: longer than any pause a lossy mobile link makes.
pub const PROGRESS_WINDOW: Duration = Duration::from_secs(10);

/// The least a delivery stream must move while a frame is under way, in bytes for each second, over each [`PROGRESS_WINDOW`]. 0.3 Mbit/s, the slowest uplink worth serving, moves this for
/// 36 streams at once; whoever is slower holds a place and a frame's memory for a quarter of an hour or more.
pub const MIN_DELIVERY_RATE: u64 = 1024;

/// Events that wait for the application. Half a second of the fastest gossip a node should ever see.
pub const EVENT_QUEUE: usize = 512;

/// Connections that whoever waits for a peer may be behind; who is further behind is told to look at once.
pub const ARRIVAL_QUEUE: usize = 64;

/// Commands that wait for the runner. Commands are small and the runner takes them first.
pub const COMMAND_QUEUE: usize = 256;

/// Our own requests in flight. Each may bring [`MAX_RESPONSE`] into memory: 64 of them are 68 MiB at the very worst.
pub const MAX_OUTBOUND_REQUESTS: usize = 64;

/// Our own requests in flight to one peer: a stalled peer must not hold all of [`MAX_OUTBOUND_REQUESTS`].
pub const MAX_OUTBOUND_REQUESTS_PER_PEER: usize = 16;

/// Dials asked for by the application that are under way (with those waiting on the same dial).
pub const MAX_DIALS: usize = 64;

/// Gossip messages whose verdict is still owed by the application. gossipsub keeps a message for five heartbeats; what
/// is older cannot be forwarded anyway.
pub const MAX_PENDING_VERDICTS: usize = 512;

/// Messages of ours that wait for the first subscriber. A node publishes a few ads, not a history.
pub const MAX_QUEUED_PUBLISHES: usize = 64;

/// DHT queries under way on behalf of the application.
pub const MAX_QUERIES: usize = 32;

/// Keys this node provides. Its streams times the cells and kinds they are announced under.
pub const MAX_PROVIDED_KEYS: usize = 1024;

/// Providers returned for one key. A buyer asks a handful; the DHT stores at most twenty for each key at each node.
pub const MAX_FOUND_PROVIDERS: usize = 64;

/// Provider records kept for others. At about 300 bytes each this is 5 MiB.
pub const MAX_PROVIDER_RECORDS: usize = 16 * 1024;

/// Provider records kept for one key: Kademlia's k.
pub const MAX_PROVIDERS_PER_KEY: usize = 20;

/// Provider records kept of one provider, so that no single key pair fills the store.
pub const MAX_RECORDS_PER_PROVIDER: usize = 1024;

/// Addresses kept for one peer: TCP and QUIC over IPv4 and IPv6, on two networks.
pub const MAX_ADDRESSES_PER_PEER: usize = 8;

/// Longest address in bytes that is kept or dialled. A DNS name is at most 253 bytes.
pub const MAX_ADDRESS_LEN: usize = 320;

/// Peers in the address book. At about a kilobyte each.
pub const MAX_KNOWN_PEERS: usize = 1024;

/// Peers whose offences are remembered.
pub const MAX_SCORED_PEERS: usize = 4096;

/// Bans in force at once; the one that ends first makes room.
pub const MAX_BANS: usize = 1024;

/// Nodes of other networks that are remembered so as not to dial them.
pub const MAX_FOREIGN_PEERS: usize = 1024;

/// How long a node of another network is left alone: long enough not to be a nuisance, short enough for an operator who
/// corrects his configuration.
pub const FOREIGN_FOR: Duration = Duration::from_secs(10 * 60);

/// Peers with a quota bucket. A bucket that is full again is dropped first.
pub const MAX_QUOTA_KEYS: usize = 8192;

/// Connections a node keeps as long as it knows enough peers; below it, known peers are dialled.
pub const TARGET_PEERS: usize = 12;

/// How long a question about the swarm itself may take. The runner answers such a command in microseconds; longer means it
/// is gone or the machine is.
pub const CONTROL_DEADLINE: Duration = Duration::from_secs(10);

/// How long a dial may take: a QUIC or TCP handshake through a slow DNS, with one address after the other.
pub const DIAL_DEADLINE: Duration = Duration::from_secs(20);

/// How long a DHT lookup may take. Lookups end in under a second where peers answer; this waits for some that do not.
pub const FIND_DEADLINE: Duration = Duration::from_secs(20);

/// How long a gossip message may wait for its turn.
pub const PUBLISH_DEADLINE: Duration = Duration::from_secs(30);

/// Longest agent string that is looked at, in bytes.
pub const MAX_AGENT_LEN: usize = 128;

/// Bounds that an operator may want to change; the defaults suit a small machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Connections being set up by others at once.
    pub pending_incoming: u32,
    /// Connections being set up by us at once.
    pub pending_outgoing: u32,
    /// Established connections opened by others. An idle one costs about 70 KiB.
    pub incoming: u32,
    /// Established connections opened by us. Smaller than the total so that not all can be inbound (eclipse).
    pub outgoing: u32,
    /// Connections to one peer. Not below 8: reachability tests and hole punching open some beside the first.
    pub per_peer: u32,
    /// No new connection is taken while the process uses more bytes than this.
    pub memory_bytes: usize,
    /// A connection without a substream is closed after this.
    pub idle: Duration,
    /// How long a peer may take to send its request.
    pub read_request: Duration,
    /// Delivery streams that peers have opened, for all together.
    pub deliveries: usize,
    /// The same for one peer.
    pub deliveries_per_peer: usize,
    /// How long a delivery stream waits for the application to take it; looked at once a second.
    pub accept_delivery: Duration,
    /// How long a peer may take to begin the first frame on a delivery stream it opened.
    pub first_frame: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending_incoming: 64,
            pending_outgoing: 64,
            incoming: 256,
            outgoing: 128,
            per_peer: 8,
            memory_bytes: 1024 * 1024 * 1024,
            idle: Duration::from_secs(5 * 60),
            read_request: READ_REQUEST_DEADLINE,
            deliveries: MAX_INBOUND_DELIVERIES,
            deliveries_per_peer: MAX_INBOUND_DELIVERIES_PER_PEER,
            accept_delivery: ACCEPT_DELIVERY_DEADLINE,
            first_frame: FIRST_FRAME_DEADLINE,
        }
    }
}
