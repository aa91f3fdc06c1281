//! The exit codes: an interface for scripts, so a number keeps its meaning for ever.

use std::fmt::Write as _;

/// What the process says to its parent when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// Something failed that has no code of its own.
    Failure = 1,
    /// The command line or the configuration cannot be understood.
    Usage = 2,
    /// No such stream, seller, order or file.
    NotFound = 3,
    /// The seller refused.
    Refused = 4,
    /// The price is over a limit the buyer has set.
    OverLimit = 5,
    /// Something does not verify: data, a proof, a signature or the wallet's sums.
    Unverified = 6,
    /// The wallet does not hold enough.
    NotEnoughMoney = 7,
    /// The home is missing, in use by another process, locked by a passphrase, damaged, or its disk is full.
    Home = 8,
    /// No peer or no chain could be reached in time.
    Unreachable = 9,
    /// Verified, but the proof is not anchored in a block yet.
    NotAnchored = 10,
    /// The wallet is frozen: nothing was paid.
    Frozen = 11,
    /// An order is under way and waits for its seller or for blocks: it goes on by itself, and nothing is lost.
    Waiting = 12,
    /// Stopped by Ctrl-C before the work was done; what was done is kept.
    Interrupted = 130,
}

impl Exit {
    /// All of them, in order.
    pub(crate) const ALL: [Self; 14] = [
        Self::Ok,
        Self::Failure,
        Self::Usage,
        Self::NotFound,
        Self::Refused,
        Self::OverLimit,
        Self::Unverified,
        Self::NotEnoughMoney,
        Self::Home,
        Self::Unreachable,
        Self::NotAnchored,
        Self::Frozen,
        Self::Waiting,
        Self::Interrupted,
    ];

    /// The number the parent process sees.
    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    /// The name in `--json` errors.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failure => "failure",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::OverLimit => "over_limit",
            Self::Unverified => "unverified",
            Self::NotEnoughMoney => "not_enough_money",
            Self::Home => "home",
            Self::Unreachable => "unreachable",
            Self::NotAnchored => "not_anchored",
            Self::Frozen => "frozen",
            Self::Waiting => "waiting",
            Self::Interrupted => "interrupted",
        }
    }

    /// What it means, in one line.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Failure => "something failed that has no code of its own",
            Self::Usage => "the command line or the configuration cannot be understood",
            Self::NotFound => "no such stream, seller, order or file",
            Self::Refused => "the seller refused",
            Self::OverLimit => "the price is over a limit of the buyer (--max-price, --exposure)",
            Self::Unverified => "something does not verify: data, proof, signature, or the wallet's sums",
            Self::NotEnoughMoney => "the wallet does not hold enough",
            Self::Home => "the home is missing, in use, locked, damaged or full",
            Self::Unreachable => "no peer or no chain could be reached in time",
            Self::NotAnchored => "verified, but not anchored in a block yet",
            Self::Frozen => "the wallet is frozen: nothing was paid",
            Self::Waiting => "begun, and goes on by itself: nothing is lost",
            Self::Interrupted => "stopped by Ctrl-C; what was done is kept",
        }
    }
}

/// The list of exit codes for `--help` and the man page.
pub(crate) fn help() -> String {
    let mut text = String::from("Exit codes:");
    for exit in Exit::ALL {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {:>3}  {}", exit.number(), exit.meaning());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_distinct_and_documented() {
        let documentation = include_str!("../../docs/cli.md");
        for (at, exit) in Exit::ALL.iter().enumerate() {
            assert!(Exit::ALL[..at].iter().all(|e| e.number() < exit.number() && e.name() != exit.name()));
            let row = format!("| {} | `{}` | {} |", exit.number(), exit.name(), exit.meaning());
            assert!(documentation.contains(&row), "docs/cli.md lacks the row\n{row}");
        }
    }
}
