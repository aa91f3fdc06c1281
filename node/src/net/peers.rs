//! The address book: peers worth connecting to, where they were last reached, and when to try again.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{
    Multiaddr, PeerId,
    limits::{FOREIGN_FOR, MAX_ADDRESSES_PER_PEER, MAX_FOREIGN_PEERS, MAX_KNOWN_PEERS},
};

/// The wait after the first failed dial. A restarting neighbour is back in about this time.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// The longest wait between two dials: an outage of any length is noticed to be over within this time.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(5 * 60);

/// A connection that ends before this counts as a failed dial: a peer that takes connections only to close them must not
/// be dialled every second.
pub(super) const LASTING: Duration = Duration::from_secs(60);

/// Failed dials in a row after which a peer that was once connected is forgotten: about a day of [`MAX_BACKOFF`].
const FORGET_AFTER: u32 = 300;

/// The same for a peer that never was.
const FORGET_UNPROVEN_AFTER: u32 = 5;

/// How long to wait after so many failures in a row: doubles up to [`MAX_BACKOFF`], less up to half of it by `jitter` (0 to
/// 255), so that peers that lost the same neighbour do not come back at the same moment.
pub(super) fn backoff(failures: u32, jitter: u8) -> Duration {
    let full = FIRST_BACKOFF
        .saturating_mul(1_u32.checked_shl(failures.min(16)).unwrap_or(u32::MAX))
        .min(MAX_BACKOFF);
    full - full.mul_f64(f64::from(jitter) / 512.0)
}

/// One byte of randomness for [`backoff`]. Without an entropy source there is simply no jitter.
pub(super) fn jitter() -> u8 {
    let mut byte = [0];
    match getrandom::fill(&mut byte) {
        Ok(()) => u8::from_ne_bytes(byte),
        Err(_) => 0,
    }
}

#[derive(Debug)]
struct Entry {
    /// Best first.
    addresses: Vec<Multiaddr>,
    /// It was once connected and of our network.
    proven: bool,
    failures: u32,
    due: Instant,
    /// When it was last connected, or first heard of.
    seen: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Book {
    entries: HashMap<PeerId, Entry>,
    foreign: HashMap<PeerId, (String, Instant)>,
}

impl Book {
    /// Notes addresses somebody else says of a peer. They stand behind those that are known.
    pub(super) fn hint(
        &mut self,
        peer: PeerId,
        addresses: impl IntoIterator<Item = Multiaddr>,
        now: Instant,
    ) {
        let entry = self.entry(peer, now);
        for address in addresses {
            if entry.addresses.len() >= MAX_ADDRESSES_PER_PEER {
                break;
            }
            if !entry.addresses.contains(&address) {
                entry.addresses.push(address);
            }
        }
    }

    /// Notes what a connected peer of our network says of itself. It replaces what was known, but for the address it was reached at.
    pub(super) fn identified(
        &mut self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        reached: Option<Multiaddr>,
        now: Instant,
    ) {
        self.foreign.remove(&peer);
        let entry = self.entry(peer, now);
        entry.proven = true;
        entry.seen = now;
        let mut all: Vec<Multiaddr> = reached.into_iter().collect();
        for address in addresses {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all.truncate(MAX_ADDRESSES_PER_PEER);
        if !all.is_empty() {
            entry.addresses = all;
        }
    }

    /// Notes that a dial failed, or that the connection did not last.
    pub(super) fn failed(&mut self, peer: &PeerId, now: Instant) {
        let Some(entry) = self.entries.get_mut(peer) else { return };
        entry.due = now + backoff(entry.failures, jitter());
        entry.failures = entry.failures.saturating_add(1);
        if entry.failures >= if entry.proven { FORGET_AFTER } else { FORGET_UNPROVEN_AFTER } {
            self.entries.remove(peer);
        }
    }

    /// Notes that a connection ended that had lasted.
    pub(super) fn disconnected(&mut self, peer: &PeerId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.failures = 0;
            entry.seen = now;
            entry.due = now + backoff(0, jitter());
        }
    }

    /// Notes that the peer is of another network: it is not offered for some time.
    pub(super) fn foreign(&mut self, peer: PeerId, agent: String, now: Instant) {
        self.entries.remove(&peer);
        if self.foreign.len() >= MAX_FOREIGN_PEERS {
            let oldest = self.foreign.iter().min_by_key(|(_, (_, until))| *until).map(|(peer, _)| *peer);
            if let Some(oldest) = oldest {
                self.foreign.remove(&oldest);
            }
        }
        self.foreign.insert(peer, (agent, now + FOREIGN_FOR));
    }

    /// The agent string of a peer known to be of another network.
    pub(super) fn foreign_agent(&self, peer: &PeerId, now: Instant) -> Option<&str> {
        self.foreign.get(peer).filter(|(_, until)| *until > now).map(|(agent, _)| agent.as_str())
    }

    /// The known addresses of a peer, best first.
    pub(super) fn addresses(&self, peer: &PeerId) -> &[Multiaddr] {
        self.entries.get(peer).map_or(&[], |entry| entry.addresses.as_slice())
    }

    /// Up to `limit` peers to dial now, the longest overdue first.
    pub(super) fn due(&self, now: Instant, limit: usize, skip: impl Fn(&PeerId) -> bool) -> Vec<PeerId> {
        let mut due: Vec<_> = self
            .entries
            .iter()
            .filter(|(peer, entry)| {
                entry.due <= now && !entry.addresses.is_empty() && !self.is_foreign(peer, now) && !skip(peer)
            })
            .map(|(peer, entry)| (!entry.proven, entry.due, *peer))
            .collect();
        due.sort_unstable();
        due.into_iter().take(limit).map(|(_, _, peer)| peer).collect()
    }

    /// Peers that were connected once, with their addresses, most recently seen first.
    pub(super) fn export(&self) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let mut known: Vec<_> =
            self.entries.iter().filter(|(_, entry)| entry.proven && !entry.addresses.is_empty()).collect();
        known.sort_unstable_by_key(|(peer, entry)| (std::cmp::Reverse(entry.seen), **peer));
        known.into_iter().map(|(peer, entry)| (*peer, entry.addresses.clone())).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets which peers are of another network once their time is over.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.foreign.retain(|_, (_, until)| *until > now);
    }

    fn is_foreign(&self, peer: &PeerId, now: Instant) -> bool {
        self.foreign_agent(peer, now).is_some()
    }

    fn entry(&mut self, peer: PeerId, now: Instant) -> &mut Entry {
        if self.entries.len() >= MAX_KNOWN_PEERS && !self.entries.contains_key(&peer) {
            // Hearsay goes before experience, and what fails most goes first.
            let worst = self
                .entries
                .iter()
                .max_by_key(|(_, entry)| (!entry.proven, entry.failures, std::cmp::Reverse(entry.seen)))
                .map(|(peer, _)| *peer);
            if let Some(worst) = worst {
                self.entries.remove(&worst);
            }
        }
        self.entries.entry(peer).or_insert(Entry {
            addresses: Vec::new(),
            proven: false,
            failures: 0,
            due: now,
            seen: now,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: usize) -> Multiaddr {
        format!("/ip4/203.0.113.{}/tcp/{}", n % 250 + 1, n + 1).parse().unwrap()
    }

    #[test]
    fn backoff_grows_to_its_cap_and_keeps_half() {
        assert_eq!(backoff(0, 0), FIRST_BACKOFF);
        assert_eq!(backoff(3, 0), FIRST_BACKOFF * 8);
        for failures in [9, 16, 17, 40, u32::MAX] {
            assert_eq!(backoff(failures, 0), MAX_BACKOFF);
            assert!(backoff(failures, 255) >= MAX_BACKOFF / 2);
        }
    }

    #[test]
    fn the_reached_address_stands_first_and_survives() {
        let (mut book, peer, now) = (Book::default(), PeerId::random(), Instant::now());
        book.hint(peer, (0..20).map(addr), now);
        assert_eq!(book.addresses(&peer).len(), MAX_ADDRESSES_PER_PEER);
        assert!(book.export().is_empty(), "hearsay is not exported");
        book.identified(peer, (30..50).map(addr).collect(), Some(addr(3)), now);
        assert_eq!(book.addresses(&peer)[..2], [addr(3), addr(30)]);
        assert_eq!(book.export()[0].1.len(), MAX_ADDRESSES_PER_PEER);
    }

    #[test]
    fn failures_wait_and_then_forget() {
        let (mut book, peer, now) = (Book::default(), PeerId::random(), Instant::now());
        book.hint(peer, [addr(1)], now);
        assert_eq!(book.due(now, 9, |_| false), vec![peer]);
        book.failed(&peer, now);
        assert!(book.due(now, 9, |_| false).is_empty());
        assert_eq!(book.due(now + FIRST_BACKOFF, 9, |_| false), vec![peer]);
        for _ in 1..FORGET_UNPROVEN_AFTER {
            book.failed(&peer, now);
        }
        assert_eq!(book.len(), 0);
    }

    #[test]
    fn a_foreign_peer_is_left_alone_for_a_while() {
        let (mut book, peer, now) = (Book::default(), PeerId::random(), Instant::now());
        book.hint(peer, [addr(1)], now);
        book.foreign(peer, "sensora/1/main".into(), now);
        book.hint(peer, [addr(1)], now);
        assert!(book.due(now, 9, |_| false).is_empty());
        assert_eq!(book.foreign_agent(&peer, now), Some("sensora/1/main"));
        book.sweep(now + FOREIGN_FOR);
        assert_eq!(book.due(now + FOREIGN_FOR, 9, |_| false), vec![peer]);
        for _ in 0..2 * MAX_FOREIGN_PEERS {
            book.foreign(PeerId::random(), String::new(), now);
        }
        assert_eq!(book.foreign.len(), MAX_FOREIGN_PEERS);
    }

    #[test]
    fn the_book_is_bounded_and_keeps_proven_peers() {
        let (mut book, good, now) = (Book::default(), PeerId::random(), Instant::now());
        book.identified(good, vec![addr(1)], None, now);
        for n in 0..2 * MAX_KNOWN_PEERS {
            book.hint(PeerId::random(), [addr(n)], now);
        }
        assert_eq!(book.len(), MAX_KNOWN_PEERS);
        assert_eq!(book.addresses(&good), [addr(1)]);
    }
}
