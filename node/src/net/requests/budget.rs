//! One account of the memory that inbound request bodies take, for all peers together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;

/// The account.
#[derive(Debug)]
pub(in crate::net) struct Budget {
    free: AtomicUsize,
}

impl Budget {
    pub(in crate::net) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { free: AtomicUsize::new(bytes) })
    }

    /// A share of nothing yet.
    pub(in crate::net) fn share(self: &Arc<Self>) -> Share {
        Share { budget: self.clone(), held: 0 }
    }

    #[cfg(test)]
    pub(in crate::net) fn free(&self) -> usize {
        self.free.load(Relaxed)
    }
}

/// What one body has taken; given back on drop.
#[derive(Debug)]
pub(in crate::net) struct Share {
    budget: Arc<Budget>,
    held: usize,
}

impl Share {
    /// Takes more until `total` is held. Takes nothing and returns false where the account does not have it.
    pub(in crate::net) fn grow_to(&mut self, total: usize) -> bool {
        let more = total.saturating_sub(self.held);
        let taken = self.budget.free.fetch_update(Relaxed, Relaxed, |free| free.checked_sub(more)).is_ok();
        if taken {
            self.held = self.held.saturating_add(more);
        }
        taken
    }

    /// Ties the share to the bytes it was taken for: it is given back when the last clone of them is gone.
    pub(in crate::net) fn cover(self, body: Vec<u8>) -> Bytes {
        struct Covered(Vec<u8>, #[expect(dead_code, reason = "held for its drop")] Share);
        impl AsRef<[u8]> for Covered {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        if self.held == 0 { body.into() } else { Bytes::from_owner(Covered(body, self)) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.free.fetch_add(self.held, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_lives_as_long_as_its_bytes() {
        let budget = Budget::new(100);
        let (mut a, mut b) = (budget.share(), budget.share());
        assert!(a.grow_to(60) && a.grow_to(50));
        assert!(!b.grow_to(41));
        assert!(b.grow_to(40));
        drop(b);
        assert_eq!(budget.free(), 40);
        let body = a.cover(vec![1, 2, 3]);
        let clone = body.slice(1..);
        drop(body);
        assert_eq!((budget.free(), &clone[..]), (40, &[2, 3][..]));
        drop(clone);
        assert_eq!(budget.free(), 100);
    }
}
