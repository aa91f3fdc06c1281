//! Locks for things that are named and too many to hold a lock each: what is done to one of them is done one after the other.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::{Mutex, MutexGuard};

/// Two names share a lock by chance once in so many; they wait for each other then, and nothing else happens.
const COUNT: usize = 256;

/// A fixed number of locks, one for each name. Nobody may hold two at a time.
#[derive(Debug)]
pub(crate) struct Stripes {
    locks: Vec<Mutex<()>>,
}

impl Default for Stripes {
    fn default() -> Self {
        Self { locks: (0..COUNT).map(|_| Mutex::new(())).collect() }
    }
}

impl Stripes {
    /// Waits until nobody else works on what is named so.
    pub(crate) async fn lock(&self, name: &impl Hash) -> MutexGuard<'_, ()> {
        self.of(name).lock().await
    }

    /// Where nobody else works on what is named so.
    pub(crate) fn try_lock(&self, name: &impl Hash) -> Option<MutexGuard<'_, ()>> {
        self.of(name).try_lock().ok()
    }

    fn of(&self, name: &impl Hash) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % (COUNT as u64)).unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "`at` is below COUNT, which is the length")]
        &self.locks[at]
    }
}
