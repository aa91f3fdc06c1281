//! Counts of what happened in the swarm since the start, cheap enough to keep always.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{Offence, Protocol, delivery::LABELS as DELIVERY_LABELS};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The live counts; read them with [`Counters::snapshot`].
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub(super) $name: AtomicU64,)*
            requests_in: [AtomicU64; Protocol::ALL.len()],
            requests_out: [AtomicU64; Protocol::ALL.len()],
            offences: [AtomicU64; Offence::ALL.len()],
            request_errors: [AtomicU64; ERROR_LABELS.len()],
            delivery_errors: [AtomicU64; DELIVERY_LABELS.len()],
        }

        /// The counts at one moment.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct CountersSnapshot {
            $($(#[$doc])* pub $name: u64,)*
            /// Requests received, by protocol id.
            pub requests_in: BTreeMap<&'static str, u64>,
            /// Requests sent, by protocol id.
            pub requests_out: BTreeMap<&'static str, u64>,
            /// Offences of peers, by label.
            pub offences: BTreeMap<&'static str, u64>,
            /// Our requests that failed, by label of the error.
            pub request_errors: BTreeMap<&'static str, u64>,
            /// Delivery streams that were not opened or ended too early, by label of the error.
            pub delivery_errors: BTreeMap<&'static str, u64>,
        }

        impl Counters {
            /// All counts now. They are read one by one, so sums may be off by what happens meanwhile.
            pub fn snapshot(&self) -> CountersSnapshot {
                CountersSnapshot {
                    $($name: self.$name.load(Relaxed),)*
                    requests_in: labelled(Protocol::ALL.iter().map(|p| p.id()), &self.requests_in),
                    requests_out: labelled(Protocol::ALL.iter().map(|p| p.id()), &self.requests_out),
                    offences: labelled(Offence::ALL.iter().map(|o| o.label()), &self.offences),
                    request_errors: labelled(ERROR_LABELS.into_iter(), &self.request_errors),
                    delivery_errors: labelled(DELIVERY_LABELS.into_iter(), &self.delivery_errors),
                }
            }
        }
    };
}

counters! {
    /// Peers of our network that are connected and identified now.
    peers,
    /// Connections established.
    connections_opened,
    /// Connections closed.
    connections_closed,
    /// Connections refused by a limit or a ban, or broken while being set up.
    connections_refused,
    /// Spare parallel connections closed by us.
    connections_surplus,
    /// Dials that failed.
    dial_failures,
    /// Nodes of other networks let go.
    foreign_peers,
    /// Answers received.
    responses_in,
    /// Answers sent by the application.
    responses_out,
    /// Requests refused because the application or the memory for requests was full.
    refused_busy,
    /// Requests refused because of a peer's quota.
    refused_quota,
    /// Requests refused as empty, stalled or too large.
    refused_malformed,
    /// Requests the application let go without an answer.
    unanswered,
    /// Delivery streams that we opened.
    deliveries_opened,
    /// Delivery streams that peers opened and the application took.
    deliveries_accepted,
    /// Delivery streams of peers refused because there were too many.
    deliveries_refused,
    /// Delivery streams of peers refused because the application did not take them in time.
    deliveries_unaccepted,
    /// Gossip messages received for the first time.
    gossip_in,
    /// Gossip messages accepted and forwarded.
    gossip_accepted,
    /// Gossip messages not forwarded, without blame.
    gossip_ignored,
    /// Gossip messages rejected as invalid.
    gossip_rejected,
    /// Messages of ours that went out.
    published,
    /// Events the application missed because it was behind.
    events_dropped,
    /// DHT records others wanted us to store that were refused.
    records_refused,
    /// Peers banned.
    bans,
}

/// The labels of [`RequestError`](super::RequestError), of which each is a counter.
const ERROR_LABELS: [&str; 17] = [
    "banned",
    "connection_closed",
    "dial_timeout",
    "empty",
    "io",
    "limit",
    "no_addresses",
    "no_answer",
    "other_network",
    "response_too_large",
    "stopped",
    "timeout",
    "to_self",
    "too_large",
    "unreachable",
    "unsupported",
    "wrong_peer",
];

fn labelled(labels: impl Iterator<Item = &'static str>, counts: &[AtomicU64]) -> BTreeMap<&'static str, u64> {
    labels
        .zip(counts)
        .map(|(label, count)| (label, count.load(Relaxed)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

fn bump(counts: &[AtomicU64], index: usize) {
    if let Some(count) = counts.get(index) {
        count.fetch_add(1, Relaxed);
    }
}

impl Counters {
    pub(super) fn request_in(&self, protocol: Protocol) {
        bump(&self.requests_in, protocol as usize);
    }

    pub(super) fn request_out(&self, protocol: Protocol) {
        bump(&self.requests_out, protocol as usize);
    }

    pub(super) fn offence(&self, offence: Offence) {
        if let Some(index) = Offence::ALL.iter().position(|o| *o == offence) {
            bump(&self.offences, index);
        }
    }

    pub(super) fn request_error(&self, label: &str) {
        if let Some(index) = ERROR_LABELS.iter().position(|l| *l == label) {
            bump(&self.request_errors, index);
        }
    }

    pub(super) fn delivery_error(&self, label: &str) {
        if let Some(index) = DELIVERY_LABELS.iter().position(|l| *l == label) {
            bump(&self.delivery_errors, index);
        }
    }
}

/// Adds one.
pub(super) fn inc(count: &AtomicU64) {
    count.fetch_add(1, Relaxed);
}
