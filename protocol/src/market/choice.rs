//! Which way of paying is taken for an order: the cheapest whose exposure is within the buyer's limits.
//!
//! What the ways cost beside the price of the readings is fees of transactions; what they risk is told in `docs/payments.md`. The choice
//! says why, and why none of the others, because it is made for a person.

use std::fmt;

use sensora_chain::Satoshis;
use serde::Serialize;

/// A way of paying for a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One transaction before delivery.
    Direct,
    /// Vouchers while the readings come.
    Channel,
    /// The coin that is taken by showing the key.
    KeyRelease,
}

impl Mode {
    /// All, the ones that take least time first.
    pub const ALL: [Self; 3] = [Self::Direct, Self::Channel, Self::KeyRelease];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Channel => "channel",
            Self::KeyRelease => "key release",
        })
    }
}

/// What a way would mean for one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The way.
    pub mode: Mode,
    /// Fees that the buyer pays beside the price, or the reason why the way is closed.
    pub fees: Result<Satoshis, Closed>,
    /// The most that is paid and not received at any moment.
    pub exposure: Satoshis,
}

/// Why a way is closed, whatever the limits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Closed {
    /// The seller's ad does not name it.
    #[error("the seller does not take it")]
    NotTaken,
    /// The order is below what the way is made for.
    #[error("the order is worth less than {least}, for which it is not done")]
    BelowLeast {
        /// The least.
        least: Satoshis,
    },
    /// A channel would hold less than the order costs.
    #[error(
        "the order costs more than {most}, which is the most that goes into a channel: raise buyer.channel_sat"
    )]
    AboveMost {
        /// The most.
        most: Satoshis,
    },
}

/// Why a way is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NotTaken {
    /// It is closed.
    #[error(transparent)]
    Closed(Closed),
    /// It risks more than is allowed.
    #[error(
        "it risks {exposure}, more than the exposure of {limit} that buyer.exposure_sat or --exposure allow"
    )]
    Exposure {
        /// What it risks.
        exposure: Satoshis,
        /// The limit.
        limit: Satoshis,
    },
    /// Another one costs less.
    #[error("it costs {fees} in fees, {less} is enough")]
    Dearer {
        /// Its fees.
        fees: Satoshis,
        /// Those of the way that is taken.
        less: Satoshis,
    },
    /// Another one was asked for.
    #[error("another was asked for")]
    NotAsked,
}

/// A choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The way.
    pub mode: Mode,
    /// What it costs in fees.
    pub fees: Satoshis,
    /// What it risks.
    pub exposure: Satoshis,
    /// The others, and why not.
    pub others: Vec<(Mode, NotTaken)>,
}

/// No way is open within the limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no way to pay within the limits: {}", list(.0))]
pub struct NoWay(pub Vec<(Mode, NotTaken)>);

fn list(others: &[(Mode, NotTaken)]) -> String {
    let texts: Vec<String> = others.iter().map(|(mode, why)| format!("{mode}: {why}")).collect();
    texts.join("; ")
}

impl Choice {
    /// Takes the cheapest of the `ways` that risks at most `limit`, or the `asked` one if it may be taken at all. Of two that cost the same it is
    /// the one that risks less, then the one that stands first in [`Mode::ALL`].
    ///
    /// # Errors
    /// [`NoWay`] with the reason for each.
    pub fn of(ways: &[Way], limit: Satoshis, asked: Option<Mode>) -> Result<Self, NoWay> {
        let judged = |way: &Way| match way.fees {
            _ if asked.is_some_and(|asked| asked != way.mode) => Err(NotTaken::NotAsked),
            Err(closed) => Err(NotTaken::Closed(closed)),
            Ok(_) if way.exposure > limit => Err(NotTaken::Exposure { exposure: way.exposure, limit }),
            Ok(fees) => Ok(fees),
        };
        let open = ways.iter().filter_map(|way| judged(way).ok().map(|fees| (fees, way.exposure, way.mode)));
        let best = open.min();
        let others = ways.iter().filter(|way| best.is_none_or(|(_, _, mode)| mode != way.mode));
        let others = others.map(|way| {
            let less = best.map_or(Satoshis::ZERO, |(fees, ..)| fees);
            (way.mode, judged(way).map_or_else(|why| why, |fees| NotTaken::Dearer { fees, less }))
        });
        let others = others.collect();
        match best {
            Some((fees, exposure, mode)) => Ok(Self { mode, fees, exposure, others }),
            None => Err(NoWay(others)),
        }
    }

    /// In a sentence for a person.
    #[must_use]
    pub fn why(&self) -> String {
        let Self { mode, fees, exposure, others } = self;
        let mut text = format!("{mode}: {fees} in fees, at most {exposure} at risk");
        let told: Vec<_> =
            others.iter().filter(|(_, why)| !matches!(why, NotTaken::NotAsked)).copied().collect();
        if !told.is_empty() {
            text.push_str("; not ");
            text.push_str(&list(&told));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sat(amount: u64) -> Satoshis {
        Satoshis::from_sat(amount)
    }

    fn way(mode: Mode, fees: u64, exposure: u64) -> Way {
        Way { mode, fees: Ok(sat(fees)), exposure: sat(exposure) }
    }

    #[test]
    fn the_cheapest_way_within_the_exposure_is_taken_and_the_others_are_told() {
        let ways = [way(Mode::Direct, 23, 500), way(Mode::Channel, 0, 100), way(Mode::KeyRelease, 45, 0)];
        let choice = Choice::of(&ways, sat(500), None).unwrap();
        assert_eq!((choice.mode, choice.fees), (Mode::Channel, sat(0)));
        assert_eq!(choice.others[0], (Mode::Direct, NotTaken::Dearer { fees: sat(23), less: sat(0) }));
        let choice = Choice::of(&ways, sat(99), None).unwrap();
        assert_eq!(choice.mode, Mode::KeyRelease);
        assert_eq!(
            choice.others[1],
            (Mode::Channel, NotTaken::Exposure { exposure: sat(100), limit: sat(99) })
        );
        let asked = Choice::of(&ways, sat(500), Some(Mode::Direct)).unwrap();
        assert_eq!(asked.mode, Mode::Direct);
        assert!(
            asked.why().starts_with("direct: 23 sat in fees, at most 500 sat at risk"),
            "{}",
            asked.why()
        );
    }

    #[test]
    fn where_no_way_is_open_each_says_why() {
        let closed = Way { fees: Err(Closed::NotTaken), ..way(Mode::Channel, 0, 0) };
        let none = Choice::of(&[way(Mode::Direct, 1, 10), closed], sat(9), None).unwrap_err();
        let text = none.to_string();
        assert!(text.contains("direct: it risks 10 sat") && text.contains("channel: the seller"), "{text}");
        assert!(Choice::of(&[closed], sat(9), Some(Mode::Channel)).is_err(), "asking opens nothing");
    }

    proptest! {
        #[test]
        fn nothing_that_is_open_and_within_the_limit_is_cheaper(
            fees in prop::array::uniform3(prop::option::of(0u64..50)),
            exposures in prop::array::uniform3(0u64..50),
            limit in 0u64..50,
        ) {
            let ways: Vec<Way> = (0..3).map(|at| Way {
                mode: Mode::ALL[at],
                fees: fees[at].map(sat).ok_or(Closed::NotTaken),
                exposure: sat(exposures[at]),
            }).collect();
            let open = |way: &&Way| way.fees.is_ok() && way.exposure <= sat(limit);
            let least = ways.iter().filter(open).filter_map(|way| way.fees.ok()).min();
            let choice = Choice::of(&ways, sat(limit), None);
            prop_assert_eq!(choice.as_ref().ok().map(|choice| choice.fees), least);
            let told = choice.map_or_else(|none| none.0.len(), |choice| choice.others.len() + 1);
            prop_assert_eq!(told, 3);
        }
    }
}
