//! The file under the store, watched: after one failed access redb does nothing more with it, so the store has to know that it
//! must open itself anew.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{BackendError, StorageBackend};

/// Whether an access has failed since the store was last opened.
#[derive(Debug, Clone, Default)]
pub(super) struct Health(Arc<AtomicBool>);

impl Health {
    pub(super) fn has_failed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn fail(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn reset(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn note<T, E>(&self, outcome: Result<T, E>) -> Result<T, E> {
        if outcome.is_err() {
            self.fail();
        }
        outcome
    }
}

/// A backend that notes what fails. Locks are not accesses: that somebody else has the file open says nothing of the disk.
#[derive(Debug)]
pub(super) struct Watched<B> {
    inner: B,
    health: Health,
}

impl<B> Watched<B> {
    pub(super) fn new(inner: B, health: Health) -> Self {
        Self { inner, health }
    }
}

impl<B: StorageBackend> StorageBackend for Watched<B> {
    fn len(&self) -> Result<u64, io::Error> {
        self.health.note(self.inner.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.health.note(self.inner.read(offset, out))
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.health.note(self.inner.set_len(len))
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.health.note(self.inner.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.health.note(self.inner.write(offset, data))
    }

    fn close(&self) -> Result<(), io::Error> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
