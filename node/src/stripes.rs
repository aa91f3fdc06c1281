//! Locks for things that are named and too many to hold a lock each: what is done to one of them is done one after the other.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

/// Two names share a lock by chance once in so many; they wait for each other then, and nothing else happens.
const COUNT: usize = 256;

/// A fixed number of locks, one for each name. Nobody may hold two at a time.
#[derive(Debug)]
pub(crate) struct Stripes {
    locks: Vec<Arc<Mutex<()>>>,
}

impl Default for Stripes {
    fn default() -> Self {
        Self { locks: (0..COUNT).map(|_| Arc::default()).collect() }
    }
}

impl Stripes {
    /// Waits until nobody else works on what is named so. The guard may go along with work on another thread, that outlives whoever has begun it.
    pub(crate) async fn lock(&self, name: &impl Hash) -> OwnedMutexGuard<()> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % (COUNT as u64)).unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "`at` is below COUNT, which is the length")]
        let lock = self.locks[at].clone();
        lock.lock_owned().await
    }
}
