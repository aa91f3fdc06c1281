//! The DHT: what we announce, what we look up, what others may store here.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

use libp2p::{
    core::Endpoint,
    kad::{
        Event, GetClosestPeersError, GetClosestPeersOk, GetProvidersOk, InboundRequest, ProgressStep,
        QueryId, QueryResult, RecordKey, store::RecordStore,
    },
    swarm::{ConnectionId, NetworkBehaviour},
};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use crate::net::{
    FindError, Multiaddr, PROVIDER_RECORD_TTL, PeerId, ProvideError, address,
    command::{Found, answer},
    counters::inc,
    limits::{FIND_DEADLINE, MAX_ADDRESSES_PER_PEER, MAX_FOUND_PROVIDERS, MAX_PROVIDED_KEYS},
    runner::NetRunner,
};

/// Announcements under way at once: a node with many keys takes its time.
const MAX_ANNOUNCING: usize = 4;

/// How long after an announcement the next one of the same key may come.
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(10);

/// Peers in the table up to which each node that comes calls for a new announcement: Kademlia's k, all of whom store it.
const ENOUGH_PEERS: usize = 20;

/// Providers without an address that are looked up one by one at the end of a search.
const MAX_RESOLVED: usize = 8;

/// What one of our queries is for.
#[derive(Debug)]
pub(in crate::net) enum Query {
    /// The providers for this search.
    Providers(u64),
    /// The addresses of one provider for this search.
    Resolve(u64, PeerId),
    /// That we provide this key.
    Announce([u8; 32]),
}

/// A search for providers.
#[derive(Debug)]
pub(in crate::net) struct Find {
    found: BTreeMap<PeerId, Vec<Multiaddr>>,
    /// Queries of this search that have not ended.
    open: usize,
    deadline: Instant,
    reply: oneshot::Sender<Result<Found, FindError>>,
    #[expect(dead_code, reason = "held until the search ends")]
    permit: OwnedSemaphorePermit,
}

/// A key this node provides.
#[derive(Debug, Default)]
pub(in crate::net) struct Provided {
    query: Option<QueryId>,
    announced: Option<Instant>,
    /// Peers in the routing table when it was last announced.
    table: usize,
    /// A node that should have the record may not: it joined, or restarted, since.
    stale: bool,
}

impl Provided {
    fn is_due(&self, now: Instant, table: usize) -> bool {
        let Some(announced) = self.announced else { return true };
        let age = now.saturating_duration_since(announced);
        self.query.is_none()
            && table > 0
            && (self.table == 0 || age >= PROVIDER_RECORD_TTL / 4 || (self.stale && age >= ANNOUNCE_PAUSE))
    }
}

impl NetRunner {
    pub(in crate::net) fn on_kad(&mut self, event: Event) {
        match event {
            Event::InboundRequest { request } => self.on_kad_request(request),
            Event::OutboundQueryProgressed { id, result, step, .. } => self.on_progress(id, result, &step),
            event => tracing::trace!(?event, "kad"),
        }
    }

    fn on_kad_request(&mut self, request: InboundRequest) {
        match request {
            InboundRequest::AddProvider { record: Some(mut record) } => {
                // libp2p has checked that the sender is the provider.
                record.addresses = record
                    .addresses
                    .iter()
                    .filter_map(|address| address::usable(address, &record.provider, self.loopback))
                    .take(MAX_ADDRESSES_PER_PEER)
                    .collect();
                let keyed = record.key.as_ref().len() == 32;
                let stored = keyed && self.swarm.behaviour_mut().kad.store_mut().add_provider(record).is_ok();
                if !stored {
                    inc(&self.counters.records_refused);
                }
            }
            // This DHT holds no values.
            InboundRequest::PutRecord { .. } => inc(&self.counters.records_refused),
            request => tracing::trace!(?request, "kad"),
        }
    }

    fn on_progress(&mut self, id: QueryId, result: QueryResult, step: &ProgressStep) {
        match result {
            QueryResult::GetProviders(result) => {
                let Some(Query::Providers(find)) = self.queries.get(&id) else { return };
                let find = *find;
                if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = result {
                    for peer in providers {
                        self.found(find, peer);
                    }
                    self.end_if_enough(find, id);
                }
                if step.last {
                    self.queries.remove(&id);
                    self.resolve_unknown(find);
                    self.query_ended(find);
                }
            }
            QueryResult::GetClosestPeers(result) => {
                let Some(Query::Resolve(find, peer)) = self.queries.get(&id) else { return };
                let (find, peer) = (*find, *peer);
                let (Ok(GetClosestPeersOk { peers, .. }) | Err(GetClosestPeersError::Timeout { peers, .. })) =
                    result;
                let addresses =
                    peers.into_iter().filter(|info| info.peer_id == peer).flat_map(|info| info.addrs);
                let addresses: Vec<_> = addresses.collect();
                self.add_addresses(find, peer, addresses);
                if step.last {
                    self.queries.remove(&id);
                    self.query_ended(find);
                }
            }
            QueryResult::StartProviding(result) => {
                let Some(Query::Announce(key)) = self.queries.remove(&id) else { return };
                if let Some(provided) = self.provided.get_mut(&key) {
                    provided.query = None;
                }
                if let Err(error) = result {
                    tracing::debug!(%error, "an announcement was cut short");
                }
                self.announce(Instant::now());
            }
            result => tracing::trace!(?result, "kad"),
        }
    }

    pub(in crate::net) fn provide(&mut self, key: [u8; 32]) -> Result<(), ProvideError> {
        if self.provided.len() >= MAX_PROVIDED_KEYS && !self.provided.contains_key(&key) {
            return Err(ProvideError::TooMany);
        }
        self.provided.entry(key).or_default();
        self.announce(Instant::now());
        Ok(())
    }

    pub(in crate::net) fn stop_providing(&mut self, key: &[u8; 32]) {
        self.provided.remove(key);
        self.swarm.behaviour_mut().kad.stop_providing(&RecordKey::new(key));
    }

    /// A node of the DHT has come. In a small network it belongs to those that should have our records; in a large one the
    /// regular announcement is soon enough.
    pub(in crate::net) fn dht_node_came(&mut self) {
        if self.routing_table() <= ENOUGH_PEERS {
            self.provided.values_mut().for_each(|provided| provided.stale = true);
        }
        self.announce(Instant::now());
    }

    /// Peers in the routing table.
    pub(in crate::net) fn routing_table(&mut self) -> usize {
        self.swarm.behaviour_mut().kad.kbuckets().map(|bucket| bucket.num_entries()).sum()
    }

    /// Announces the keys that are due, a few at a time.
    pub(in crate::net) fn announce(&mut self, now: Instant) {
        if self.provided.is_empty() {
            return;
        }
        let table = self.routing_table();
        let running = self.provided.values().filter(|provided| provided.query.is_some()).count();
        let due: Vec<_> = self
            .provided
            .iter()
            .filter(|(_, provided)| provided.query.is_none() && provided.is_due(now, table))
            .map(|(key, _)| *key)
            .take(MAX_ANNOUNCING.saturating_sub(running))
            .collect();
        for key in due {
            match self.swarm.behaviour_mut().kad.start_providing(RecordKey::new(&key)) {
                Ok(query) => {
                    self.queries.insert(query, Query::Announce(key));
                    self.provided.insert(
                        key,
                        Provided { query: Some(query), announced: Some(now), table, stale: false },
                    );
                }
                Err(error) => tracing::warn!(%error, "a key cannot be announced"),
            }
        }
    }

    pub(in crate::net) fn find_providers(
        &mut self,
        key: [u8; 32],
        deadline: Instant,
        reply: oneshot::Sender<Result<Found, FindError>>,
        permit: OwnedSemaphorePermit,
    ) {
        let query = self.swarm.behaviour_mut().kad.get_providers(RecordKey::new(&key));
        let find = self.next_find;
        self.next_find = self.next_find.wrapping_add(1);
        self.queries.insert(query, Query::Providers(find));
        self.finds.insert(find, Find { found: BTreeMap::new(), open: 1, deadline, reply, permit });
    }

    /// Notes a provider with the addresses known now: those of the book, and those the DHT keeps while the query runs.
    fn found(&mut self, find: u64, peer: PeerId) {
        let Some(search) = self.finds.get_mut(&find) else { return };
        if peer == self.local
            || (search.found.len() >= MAX_FOUND_PROVIDERS && !search.found.contains_key(&peer))
        {
            return;
        }
        if let Entry::Vacant(new) = search.found.entry(peer) {
            new.insert(self.book.addresses(&peer).to_vec());
        }
        // The behaviour gives the addresses it has for a dial; asking for them starts none.
        let id = ConnectionId::new_unchecked(usize::MAX);
        let kad = &mut self.swarm.behaviour_mut().kad;
        let addresses = kad.handle_pending_outbound_connection(id, Some(peer), &[], Endpoint::Dialer);
        self.add_addresses(find, peer, addresses.unwrap_or_default());
    }

    fn add_addresses(&mut self, find: u64, peer: PeerId, addresses: Vec<Multiaddr>) {
        let Some(known) = self.finds.get_mut(&find).and_then(|search| search.found.get_mut(&peer)) else {
            return;
        };
        for address in addresses {
            if let Some(address) = address::usable(&address, &peer, self.loopback)
                && known.len() < MAX_ADDRESSES_PER_PEER
                && !known.contains(&address)
            {
                known.push(address);
            }
        }
    }

    fn end_if_enough(&mut self, find: u64, query: QueryId) {
        let enough = self
            .finds
            .get(&find)
            .is_none_or(|search| search.found.len() >= MAX_FOUND_PROVIDERS || search.reply.is_closed());
        if enough && let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&query) {
            query.finish();
        }
    }

    /// Looks up some of the providers nobody gave an address of.
    fn resolve_unknown(&mut self, find: u64) {
        let Some(search) = self.finds.get_mut(&find) else { return };
        let unknown: Vec<_> = search
            .found
            .iter()
            .filter(|(peer, addresses)| addresses.is_empty() && !self.live.contains_key(*peer))
            .map(|(peer, _)| *peer)
            .take(MAX_RESOLVED)
            .collect();
        search.open = search.open.saturating_add(unknown.len());
        for peer in unknown {
            let query = self.swarm.behaviour_mut().kad.get_closest_peers(peer);
            self.queries.insert(query, Query::Resolve(find, peer));
        }
    }

    fn query_ended(&mut self, find: u64) {
        let Some(search) = self.finds.get_mut(&find) else { return };
        search.open = search.open.saturating_sub(1);
        if search.open == 0
            && let Some(search) = self.finds.remove(&find)
        {
            answer(search.reply, Ok(search.found.into_iter().collect()));
        }
    }

    /// Answers searches at their deadline with what they have, and drops those nobody waits for.
    pub(in crate::net) fn end_overdue_finds(&mut self, now: Instant) {
        let over: Vec<_> = self
            .finds
            .iter()
            .filter(|(_, search)| search.deadline <= now || search.reply.is_closed())
            .map(|(find, _)| *find)
            .collect();
        for find in over {
            for (id, query) in &self.queries {
                if matches!(query, Query::Providers(of) | Query::Resolve(of, _) if *of == find)
                    && let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(id)
                {
                    query.finish();
                }
            }
            let Some(search) = self.finds.remove(&find) else { continue };
            let outcome = if search.found.is_empty() {
                Err(FindError::Timeout { after: FIND_DEADLINE })
            } else {
                Ok(search.found.into_iter().collect())
            };
            answer(search.reply, outcome);
        }
    }
}
