//! Many small changes at once: each waits for the disk, and all that wait together go to it in one transaction.
//!
//! A sync takes as long for one change as for a hundred. Deliveries store a voucher or a page at a time, and many run beside each other; so
//! whoever comes while the disk is busy is put on a list, and the next transaction takes the whole list. It runs on the blocking pool: no
//! thread of the runtime waits for a disk.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::WriteTransaction;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Store, StoreError};

/// Most changes in one transaction: what one sync is shared by. More would make the first wait for the last.
const MAX_GROUP: usize = 256;
/// Most changes that wait. Each may hold a page of up to a megabyte; whoever comes after them waits before it makes one.
const MAX_WAITING: usize = 512;

/// A change; it may be made a second time where another one of its group has failed.
type Change = Box<dyn Fn(&WriteTransaction) -> Result<(), StoreError> + Send>;

struct Job {
    change: Change,
    done: oneshot::Sender<Result<(), StoreError>>,
    _place: OwnedSemaphorePermit,
}

/// The list of one store.
pub(super) struct Group {
    places: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// A thread works on the list, and will come back to it.
    is_led: bool,
}

impl Default for Group {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_WAITING)), waiting: Mutex::default() }
    }
}

impl Group {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Makes a change together with those of others that wait; all of it or nothing. On disk when this returns. Where the caller is dropped
    /// meanwhile, the change is made all the same.
    ///
    /// # Errors
    /// The closure's, and [`StoreError`] when the store fails. Nothing of this change is kept then, whatever became of the others.
    pub async fn commit(
        &self,
        change: impl Fn(&WriteTransaction) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let group = &self.inner.group;
        let stopped = || StoreError::Stopped { path: self.inner.path.clone() };
        let place = group.places.clone().acquire_owned().await.map_err(|_| stopped())?;
        let (done, outcome) = oneshot::channel();
        let lead = {
            let mut waiting = group.waiting();
            waiting.jobs.push_back(Job { change: Box::new(change), done, _place: place });
            !std::mem::replace(&mut waiting.is_led, true)
        };
        if lead {
            let store = self.clone();
            drop(tokio::task::spawn_blocking(move || store.lead()));
        }
        outcome.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Makes a change. One that panics is an error of its own: the list is worked on, whoever waits on it.
    fn make(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        // Nothing is left half done: a transaction that is not committed is none.
        let made = catch_unwind(AssertUnwindSafe(|| self.write(change)));
        made.unwrap_or_else(|_| Err(StoreError::Stopped { path: self.inner.path.clone() }))
    }

    /// Works on the list until it is empty.
    fn lead(&self) {
        let group = &self.inner.group;
        loop {
            let jobs: Vec<Job> = {
                let mut waiting = group.waiting();
                let some = waiting.jobs.len().min(MAX_GROUP);
                if some == 0 {
                    // Under the same lock: whoever comes next sees that nobody leads.
                    waiting.is_led = false;
                    return;
                }
                waiting.jobs.drain(..some).collect()
            };
            let all = self.make(|tx| jobs.iter().try_for_each(|job| (job.change)(tx)));
            match (all, jobs.as_slice()) {
                (Ok(()), _) => {
                    for job in jobs {
                        // Whoever has gone does not want to know.
                        let _ = job.done.send(Ok(()));
                    }
                }
                (Err(error), [_]) => {
                    if let Some(job) = jobs.into_iter().next() {
                        let _ = job.done.send(Err(error));
                    }
                }
                // One of them does not go; which, is seen when each is made alone.
                (Err(_), _) => {
                    for job in jobs {
                        let outcome = self.make(|tx| (job.change)(tx));
                        let _ = job.done.send(outcome);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sensora_chain::Network;
    use sensora_chain::keys::PrivateKey;

    use super::*;
    use crate::store::kinds::Records;

    const TABLE: Records = Records { name: "group_test" };

    fn store() -> Store {
        let key = PrivateKey::from_bytes([1; 32]).unwrap().public();
        let store = Store::in_memory(Network::Regtest, &key).unwrap();
        store.write(|tx| TABLE.create(tx)).unwrap();
        store
    }

    fn has(store: &Store, key: u16) -> bool {
        store.read(|tx| TABLE.get_bytes(tx, &key.to_be_bytes())).unwrap().is_some()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_change_that_fails_takes_none_of_its_group_with_it() {
        let store = store();
        let mut tasks = Vec::new();
        for key in 0..1000_u16 {
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                let made = store.commit(move |tx| {
                    TABLE.put_bytes(tx, &key.to_be_bytes(), &[1])?;
                    if key % 7 == 3 { Err(StoreError::Damaged("on purpose".into())) } else { Ok(()) }
                });
                (key, made.await.is_ok())
            }));
        }
        for task in tasks {
            let (key, made) = task.await.unwrap();
            assert_eq!((made, has(&store, key)), (key % 7 != 3, key % 7 != 3), "{key}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_change_that_panics_is_an_error_and_those_beside_and_behind_it_are_made() {
        let store = store();
        let mut tasks = Vec::new();
        for key in 0..300_u16 {
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                let made = store.commit(move |tx| {
                    assert!(key % 50 != 9, "on purpose");
                    TABLE.put_bytes(tx, &key.to_be_bytes(), &[1])
                });
                (key, made.await.is_ok())
            }));
        }
        for task in tasks {
            let (key, made) = task.await.unwrap();
            assert_eq!((made, has(&store, key)), (key % 50 != 9, key % 50 != 9), "{key}");
        }
        let broken = store.commit(|_| panic!("on purpose")).await;
        assert!(matches!(broken, Err(StoreError::Stopped { .. })), "{broken:?}");
        store.commit(|tx| TABLE.put_bytes(tx, &1_u16.to_be_bytes(), &[1])).await.unwrap();
        assert!(has(&store, 1));
    }
}
