//! Nothing was left out: the readings of a delivery are those that were bought, each once.
//!
//! Sequence numbers have no holes, and the signed checkpoint says how many there are. So a range is complete when the runs of
//! the delivery, in order, begin where it begins, follow each other, and end where it ends.

/// The runs of a delivery are not the range that was bought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompletenessError {
    /// A reading was left out.
    #[error("reading {seq} is missing")]
    Missing {
        /// The first sequence number that is not there.
        seq: u64,
    },
    /// A reading was delivered before.
    #[error("reading {seq} comes twice or out of order")]
    Repeated {
        /// The sequence number that comes again.
        seq: u64,
    },
    /// A reading that was not bought.
    #[error("reading {seq} is not in the range that was bought")]
    Outside {
        /// The first sequence number that is not in the range.
        seq: u64,
    },
    /// A range beyond the largest sequence number.
    #[error("{count} readings from {first} on exceed the largest sequence number")]
    Overflow {
        /// First sequence number.
        first: u64,
        /// How many.
        count: u64,
    },
}

/// How much of a range `[first, first + count)` has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    first: u64,
    next: u64,
    end: u64,
}

impl Coverage {
    /// Nothing yet of the `count` readings from `first` on.
    ///
    /// # Errors
    /// [`CompletenessError::Overflow`] when there are no such sequence numbers.
    pub fn new(first: u64, count: u64) -> Result<Self, CompletenessError> {
        let end = first.checked_add(count).ok_or(CompletenessError::Overflow { first, count })?;
        Ok(Self { first, next: first, end })
    }

    /// Takes the next run: `count` readings from `first` on.
    ///
    /// # Errors
    /// Names the first sequence number that is missing, repeated or outside the range. The coverage stays as it was.
    pub fn add(&mut self, first: u64, count: u64) -> Result<(), CompletenessError> {
        if count == 0 {
            return Ok(());
        }
        let end = first.checked_add(count).ok_or(CompletenessError::Overflow { first, count })?;
        if first < self.first {
            return Err(CompletenessError::Outside { seq: first });
        }
        if first < self.next {
            return Err(CompletenessError::Repeated { seq: first });
        }
        if first > self.next && self.next < self.end {
            return Err(CompletenessError::Missing { seq: self.next });
        }
        if end > self.end {
            return Err(CompletenessError::Outside { seq: first.max(self.end) });
        }
        self.next = end;
        Ok(())
    }

    /// The sequence number that is expected next; the end of the range when all have come.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// True when all readings have come.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.next == self.end
    }

    /// Checks that all readings have come.
    ///
    /// # Errors
    /// [`CompletenessError::Missing`] names the first that has not.
    pub const fn finish(&self) -> Result<(), CompletenessError> {
        if self.is_complete() { Ok(()) } else { Err(CompletenessError::Missing { seq: self.next }) }
    }
}

/// Checks that `runs`, each a first sequence number and a count, are the `count` readings from `first` on.
///
/// # Errors
/// Names the first sequence number that is missing, repeated or outside the range.
pub fn check_complete(
    runs: impl IntoIterator<Item = (u64, u64)>,
    first: u64,
    count: u64,
) -> Result<(), CompletenessError> {
    let mut coverage = Coverage::new(first, count)?;
    for (first, count) in runs {
        coverage.add(first, count)?;
    }
    coverage.finish()
}

#[cfg(test)]
mod tests {
    use super::CompletenessError::{Missing, Outside, Overflow, Repeated};
    use super::*;

    #[test]
    fn runs_cover_the_range_exactly() {
        let check = |runs: &[(u64, u64)]| check_complete(runs.iter().copied(), 100, 50);
        assert_eq!(check(&[(100, 50)]), Ok(()));
        assert_eq!(check(&[(100, 20), (120, 0), (120, 30)]), Ok(()));
        assert_eq!(check(&[]), Err(Missing { seq: 100 }));
        assert_eq!(check(&[(100, 20)]), Err(Missing { seq: 120 }));
        assert_eq!(check(&[(101, 49)]), Err(Missing { seq: 100 }));
        assert_eq!(check(&[(100, 20), (121, 29)]), Err(Missing { seq: 120 }));
        assert_eq!(check(&[(100, 20), (119, 31)]), Err(Repeated { seq: 119 }));
        assert_eq!(check(&[(120, 30), (100, 20)]), Err(Missing { seq: 100 }));
        assert_eq!(check(&[(99, 51)]), Err(Outside { seq: 99 }));
        assert_eq!(check(&[(100, 51)]), Err(Outside { seq: 150 }));
        assert_eq!(check(&[(100, 50), (200, 1)]), Err(Outside { seq: 200 }));
        assert_eq!(check(&[(u64::MAX, 2)]), Err(Overflow { first: u64::MAX, count: 2 }));
        assert_eq!(check_complete([], u64::MAX, 1), Err(Overflow { first: u64::MAX, count: 1 }));
    }
}
