//! What this node stores of the DHT for others: provider records, bounded in every direction.
//!
//! libp2p's own store has no bound for one provider and forgets an expired record only when somebody asks for its key. A
//! single peer could fill it with keys nobody asks for and keep it full. Here a provider has a share, and expired records
//! make room. Values are never stored.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    time::Instant,
};

use libp2p::kad::{
    ProviderRecord, Record, RecordKey,
    store::{Error, RecordStore, Result},
};

use super::{
    PeerId,
    limits::{MAX_PROVIDED_KEYS, MAX_PROVIDER_RECORDS, MAX_PROVIDERS_PER_KEY, MAX_RECORDS_PER_PROVIDER},
};

/// The records, by key. Our own are apart, so that others cannot displace them.
#[derive(Debug)]
pub(super) struct ProviderStore {
    local: PeerId,
    others: HashMap<RecordKey, Vec<ProviderRecord>>,
    shares: Shares,
    own: HashSet<ProviderRecord>,
}

/// How many records each provider has, and all together.
#[derive(Debug, Default)]
struct Shares {
    by_provider: HashMap<PeerId, usize>,
    total: usize,
}

impl Shares {
    fn of(&self, provider: &PeerId) -> usize {
        self.by_provider.get(provider).copied().unwrap_or(0)
    }

    fn take(&mut self, provider: PeerId) {
        *self.by_provider.entry(provider).or_default() += 1;
        self.total += 1;
    }

    fn give_back(&mut self, provider: &PeerId) {
        if let Some(share) = self.by_provider.get_mut(provider) {
            *share = share.saturating_sub(1);
            self.total = self.total.saturating_sub(1);
            if *share == 0 {
                self.by_provider.remove(provider);
            }
        }
    }
}

impl ProviderStore {
    pub(super) fn new(local: PeerId) -> Self {
        Self { local, others: HashMap::new(), shares: Shares::default(), own: HashSet::new() }
    }

    /// Records kept for others.
    pub(super) fn len(&self) -> usize {
        self.shares.total
    }

    /// Drops what has expired.
    pub(super) fn sweep(&mut self, now: Instant) {
        let shares = &mut self.shares;
        self.others.retain(|_, records| {
            records.retain(|record| {
                let keep = !record.is_expired(now);
                if !keep {
                    shares.give_back(&record.provider);
                }
                keep
            });
            !records.is_empty()
        });
    }
}

impl RecordStore for ProviderStore {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::iter::Map<
        std::collections::hash_set::Iter<'a, ProviderRecord>,
        fn(&'a ProviderRecord) -> Cow<'a, ProviderRecord>,
    >;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        if record.provider == self.local {
            if self.own.len() >= MAX_PROVIDED_KEYS && !self.own.contains(&record) {
                return Err(Error::MaxProvidedKeys);
            }
            self.own.replace(record);
            return Ok(());
        }
        if let Some(known) = self
            .others
            .get_mut(&record.key)
            .and_then(|records| records.iter_mut().find(|known| known.provider == record.provider))
        {
            *known = record;
            return Ok(());
        }
        let share = self.shares.of(&record.provider);
        let at_key = self.others.get(&record.key).map_or(0, Vec::len);
        // Who came first stays: a flood of new providers must not displace the old ones.
        if share >= MAX_RECORDS_PER_PROVIDER
            || at_key >= MAX_PROVIDERS_PER_KEY
            || self.len() >= MAX_PROVIDER_RECORDS
        {
            return Err(Error::MaxProvidedKeys);
        }
        self.shares.take(record.provider);
        self.others.entry(record.key.clone()).or_default().push(record);
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let own = ProviderRecord::new(key.clone(), self.local, Vec::new());
        let mut records: Vec<_> = self.own.get(&own).cloned().into_iter().collect();
        records.extend(self.others.get(key).into_iter().flatten().cloned());
        records
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.own.iter().map(Cow::Borrowed)
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if *provider == self.local {
            self.own.remove(&ProviderRecord::new(key.clone(), self.local, Vec::new()));
            return;
        }
        if let Some(records) = self.others.get_mut(key) {
            let before = records.len();
            records.retain(|record| record.provider != *provider);
            if records.len() < before {
                self.shares.give_back(provider);
            }
            if records.is_empty() {
                self.others.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(n: usize) -> RecordKey {
        RecordKey::new(&n.to_be_bytes())
    }

    fn record(n: usize, provider: PeerId, expires: Option<Instant>) -> ProviderRecord {
        ProviderRecord { expires, ..ProviderRecord::new(key(n), provider, Vec::new()) }
    }

    #[test]
    fn a_provider_has_a_share_and_a_key_has_places() {
        let mut store = ProviderStore::new(PeerId::random());
        let greedy = PeerId::random();
        let stored = (0..2 * MAX_RECORDS_PER_PROVIDER)
            .filter(|n| store.add_provider(record(*n, greedy, None)).is_ok())
            .count();
        assert_eq!((stored, store.len()), (MAX_RECORDS_PER_PROVIDER, MAX_RECORDS_PER_PROVIDER));
        for _ in 0..2 * MAX_PROVIDERS_PER_KEY {
            let _ = store.add_provider(record(0, PeerId::random(), None));
        }
        assert_eq!(store.providers(&key(0)).len(), MAX_PROVIDERS_PER_KEY);
        // Renewal is not a new record.
        assert!(store.add_provider(record(0, greedy, None)).is_ok());
        store.remove_provider(&key(0), &greedy);
        assert!(store.add_provider(record(usize::MAX, greedy, None)).is_ok());
    }

    #[test]
    fn the_store_is_bounded_and_expired_records_make_room() {
        let mut store = ProviderStore::new(PeerId::random());
        let now = Instant::now();
        let mut n = 0;
        while store.len() < MAX_PROVIDER_RECORDS {
            assert!(store.add_provider(record(n, PeerId::random(), Some(now))).is_ok());
            n += 1;
        }
        let late = record(n, PeerId::random(), Some(now + Duration::from_secs(1)));
        assert!(store.add_provider(late.clone()).is_err());
        store.sweep(now);
        assert_eq!((store.len(), store.others.len(), store.shares.by_provider.len()), (0, 0, 0));
        assert!(store.add_provider(late).is_ok());
    }

    #[test]
    fn our_own_records_are_apart() {
        let local = PeerId::random();
        let mut store = ProviderStore::new(local);
        for n in 0..MAX_PROVIDED_KEYS {
            store.add_provider(record(n, local, None)).unwrap();
        }
        assert!(store.add_provider(record(MAX_PROVIDED_KEYS, local, None)).is_err());
        assert!(store.add_provider(record(0, local, None)).is_ok());
        assert_eq!((store.provided().count(), store.len()), (MAX_PROVIDED_KEYS, 0));
        assert_eq!(store.providers(&key(3)).len(), 1);
        store.remove_provider(&key(3), &local);
        assert!(store.providers(&key(3)).is_empty());
    }
}
