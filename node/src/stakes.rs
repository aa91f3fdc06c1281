//! What is open with one counterparty, shared by the orders that run with it at the same time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sensora_chain::Satoshis;
use sensora_chain::keys::PublicKey;
use sensora_protocol::market::exposure::Stakes;
use tokio::sync::watch;

/// From so many counterparties on, those with whom nothing is open and no order runs are let go when another one comes. About 200 bytes each.
const MANY_PARTIES: usize = 1_000;

/// [`Stakes`] that several tasks change, and that tell the others when there is more room.
#[derive(Debug)]
pub(crate) struct SharedStakes {
    stakes: Mutex<Stakes>,
    /// Counts how often less was open than before.
    less: watch::Sender<u64>,
}

/// Hears of each time that less is open, also of one between two questions.
#[derive(Debug)]
pub(crate) struct Room(watch::Receiver<u64>);

impl Room {
    /// Waits until less is open than when this was last asked.
    pub(crate) async fn more(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl SharedStakes {
    /// Nothing is open.
    pub(crate) fn new(limit: Satoshis) -> Self {
        Self { stakes: Mutex::new(Stakes::new(limit)), less: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Stakes> {
        self.stakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To look at.
    pub(crate) fn read<T>(&self, f: impl FnOnce(&Stakes) -> T) -> T {
        f(&self.lock())
    }

    /// Changes what is open. Where it has become less, whoever waits for [`Room::more`] hears of it.
    pub(crate) fn change<T>(&self, f: impl FnOnce(&mut Stakes) -> T) -> T {
        let mut stakes = self.lock();
        let (before, limit) = (stakes.open(), stakes.limit());
        let value = f(&mut stakes);
        let has_room = stakes.open() < before || stakes.limit() > limit;
        drop(stakes);
        if has_room {
            self.less.send_modify(|times| *times = times.wrapping_add(1));
        }
        value
    }

    /// Hears of more room from here on.
    pub(crate) fn room(&self) -> Room {
        Room(self.less.subscribe())
    }
}

/// What is open with each counterparty.
#[derive(Debug, Default)]
pub(crate) struct AllStakes {
    parties: Mutex<BTreeMap<PublicKey, Arc<SharedStakes>>>,
}

impl AllStakes {
    /// Those of one counterparty. Where there are none, `make` says what is open from before.
    pub(crate) fn of<E>(
        &self,
        party: &PublicKey,
        make: impl FnOnce() -> Result<SharedStakes, E>,
    ) -> Result<Arc<SharedStakes>, E> {
        let mut parties = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = parties.get(party) {
            return Ok(known.clone());
        }
        if parties.len() >= MANY_PARTIES {
            let is_idle = |stakes: &Arc<SharedStakes>| {
                Arc::strong_count(stakes) == 1 && stakes.read(|stakes| stakes.open().amount().is_zero())
            };
            parties.retain(|_, stakes| !is_idle(stakes));
        }
        let made = Arc::new(make()?);
        parties.insert(*party, made.clone());
        Ok(made)
    }

    /// Those of one counterparty, where they are in use.
    pub(crate) fn known(&self, party: &PublicKey) -> Option<Arc<SharedStakes>> {
        self.parties.lock().unwrap_or_else(PoisonError::into_inner).get(party).cloned()
    }
}

#[cfg(test)]
mod tests {
    use sensora_protocol::OrderId;

    use super::*;

    #[tokio::test]
    async fn room_that_came_between_two_questions_is_heard_of() {
        let stakes = SharedStakes::new(Satoshis::from_sat(10));
        let order = OrderId([1; 32]);
        stakes.change(|stakes| stakes.note(order, Satoshis::from_sat(10)));
        let mut room = stakes.room();
        // Nobody waits at this moment.
        stakes.change(|stakes| stakes.note(order, Satoshis::from_sat(3)));
        tokio::time::timeout(std::time::Duration::from_secs(5), room.more()).await.unwrap();
    }

    #[test]
    fn counterparties_with_whom_nothing_is_open_are_let_go() {
        let all = AllStakes::default();
        let key = |n: u32| {
            let mut secret = [1; 32];
            secret[..4].copy_from_slice(&n.to_be_bytes());
            sensora_chain::keys::PrivateKey::from_bytes(secret).unwrap().public()
        };
        let made = || Ok::<_, ()>(SharedStakes::new(Satoshis::from_sat(10)));
        let owing = key(0);
        let stakes = all.of(&owing, made).unwrap();
        stakes.change(|stakes| stakes.note(OrderId([1; 32]), Satoshis::from_sat(3)));
        drop(stakes);
        for n in 1..=MANY_PARTIES as u32 {
            all.of(&key(n), made).unwrap();
        }
        assert!(all.parties.lock().unwrap().len() < 10);
        let kept = all.of(&owing, made).unwrap();
        assert_eq!(kept.read(|stakes| stakes.open().amount()), Satoshis::from_sat(3), "what is open is kept");
    }
}
