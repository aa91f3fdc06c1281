//! What an order may come to, said before anything is signed for it: `buy`, `subscribe` and `read` say it alike.

use sensora_chain::Satoshis;
use sensora_protocol::market::choice::{Choice, Mode};
use serde::Serialize;
use serde_json::json;

use crate::context::Context;
use crate::output::{printable, sat};

/// What is about to be ordered.
#[derive(Debug, Serialize)]
pub(super) struct Terms {
    /// What it is, for a person.
    what: String,
    /// The most that it may cost.
    budget_sat: Satoshis,
    /// How it is paid.
    mode: Mode,
    /// The most that is paid and not received at any moment.
    exposure_sat: Satoshis,
    /// Why it is paid so, with what is at risk.
    why: String,
}

impl Terms {
    /// Of a range.
    pub(super) fn chosen(what: String, budget_sat: Satoshis, choice: &Choice) -> Self {
        Self { what, budget_sat, mode: choice.mode, exposure_sat: choice.exposure, why: choice.why() }
    }

    /// Of what is paid while it comes: only vouchers can.
    pub(super) fn while_it_comes(what: String, budget: Satoshis, exposure: Satoshis) -> Self {
        let (mode, exposure_sat) = (Mode::Channel, exposure.min(budget));
        let why = format!(
            "{mode}: at most {} at risk; only vouchers pay for what comes bit by bit",
            sat(exposure_sat)
        );
        Self { what, budget_sat: budget, mode, exposure_sat, why }
    }

    /// Says it, on standard error; with `--json` as a JSON line.
    pub(super) fn tell(&self, context: &Context) {
        if context.out.is_json() {
            eprintln!("{}", json!({ "terms": self }));
            return;
        }
        let (what, budget) = (printable(&self.what), sat(self.budget_sat));
        context.out.note(format!("{what} for at most {budget} by {}", self.why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_at_risk_than_may_be_paid_at_all() {
        let sat = Satoshis::from_sat;
        let terms = Terms::while_it_comes("machine as it comes".to_owned(), sat(5), sat(100));
        assert_eq!((terms.exposure_sat, terms.budget_sat), (sat(5), sat(5)));
        assert!(terms.why.starts_with("channel: at most 5 sat at risk"), "{}", terms.why);
    }
}
