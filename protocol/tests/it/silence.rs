//! Silence: either side stops saying anything, at every step there is, and what it costs the other is counted on the chain.
//!
//! A step is a message that somebody sends. Each purchase runs once for every message of the buyer and once for every message of the
//! seller, and that message and all after it never arrive. Who is silent still reads all that it is sent, and goes on doing on the chain
//! whatever is to its advantage. Then blocks are mined until long after every refund height. What either side has lost is counted
//! from outputs that are not spent, and from the readings that left the one and were verified by the other.

mod delivery;
mod direct;
mod opening;
mod reads;
mod release;

use std::fmt::Write as _;

/// Who says nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Buyer,
    Seller,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Buyer, Self::Seller];

    const fn name(self) -> &'static str {
        match self {
            Self::Buyer => "buyer",
            Self::Seller => "seller",
        }
    }
}

/// Lets messages through until one side falls silent.
struct Gate {
    silent: Side,
    left: usize,
    /// The first message that does not arrive.
    withheld: Option<String>,
}

impl Gate {
    /// `silent` says so many messages, and then nothing.
    fn new(silent: Side, messages: usize) -> Self {
        Self { silent, left: messages, withheld: None }
    }

    /// Whether this message arrives.
    fn passes(&mut self, from: Side, name: &str) -> bool {
        if from != self.silent {
            return true;
        }
        match (self.left.checked_sub(1), &self.withheld) {
            (Some(left), None) => {
                self.left = left;
                true
            }
            _ => {
                self.withheld.get_or_insert_with(|| name.to_owned());
                false
            }
        }
    }
}

/// What it came to, in satoshis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Outcome {
    /// What the seller got beyond the readings that the buyer has.
    buyer_lost: u64,
    /// What the readings cost that left the seller, beyond what it got.
    seller_lost: u64,
    /// The exposures that they chose.
    limits: (u64, u64),
    /// What miners got.
    fees: u64,
}

/// One silence.
struct Cut {
    what: &'static str,
    silent: Side,
    step: usize,
    /// The first message that does not arrive.
    withheld: String,
    outcome: Outcome,
}

/// Runs `case` once for each message of these sides, and once without any silence.
fn every_step(what: &'static str, sides: &[Side], cuts: &mut Vec<Cut>, case: impl Fn(&mut Gate) -> Outcome) {
    for &silent in sides {
        for step in 0.. {
            let mut gate = Gate::new(silent, step);
            let outcome = case(&mut gate);
            let Some(withheld) = gate.withheld else {
                assert!(step > 1, "{what}: the {} said next to nothing", silent.name());
                // What an order that is stopped has paid ahead stays in the channel for the next one. Here it is closed at once.
                assert_eq!(outcome.seller_lost, 0, "{what}: nobody was silent");
                assert!(outcome.buyer_lost <= outcome.limits.0, "{what}: nobody was silent");
                break;
            };
            cuts.push(Cut { what, silent, step: step + 1, withheld, outcome });
        }
    }
}

fn all() -> Vec<Cut> {
    let (mut cuts, both, seller) = (Vec::new(), &Side::BOTH[..], &[Side::Seller][..]);
    every_step("a direct payment", both, &mut cuts, direct::run);
    every_step("a channel opened, and closed unused", both, &mut cuts, |gate| opening::run(gate, true));
    every_step("a channel whose seller is gone for good", seller, &mut cuts, |gate| {
        opening::run(gate, false)
    });
    for (what, setup) in delivery::cases() {
        every_step(what, both, &mut cuts, |gate| delivery::run(gate, setup));
    }
    every_step("single readings", both, &mut cuts, reads::run);
    every_step("a key release", both, &mut cuts, |gate| release::run(gate, true));
    every_step("a key release whose seller is gone for good", seller, &mut cuts, |gate| {
        release::run(gate, false)
    });
    cuts
}

/// The table of all steps, for whoever reads the test's output.
fn steps(cuts: &[Cut]) -> String {
    let mut text = String::new();
    for cut in cuts {
        let Outcome { buyer_lost, seller_lost, limits, fees } = cut.outcome;
        writeln!(
            text,
            "{:44} {:6} silent from message {:3} ({:9}) on: buyer loses {buyer_lost:4} of {:4}, seller {seller_lost:4} of {:4}, miners {fees:3}",
            cut.what, cut.silent.name(), cut.step, cut.withheld, limits.0, limits.1,
        )
        .unwrap();
    }
    text
}

/// The table of the document: the worst of all steps.
fn table(cuts: &[Cut]) -> String {
    let mut text = String::from(
        "| | silent | steps | the buyer loses, at most | of its exposure | the seller loses, at most | of its exposure | miners get, at most |\n|---|---|---|---|---|---|---|---|\n",
    );
    let mut rest = cuts;
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|cut| (cut.what, cut.silent) == (first.what, first.silent)).count();
        let (group, after) = rest.split_at(same);
        rest = after;
        let worst = |of: fn(&Outcome) -> u64| group.iter().map(|cut| of(&cut.outcome)).max().unwrap();
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            first.what,
            first.silent.name(),
            group.len(),
            worst(|outcome| outcome.buyer_lost),
            worst(|outcome| outcome.limits.0),
            worst(|outcome| outcome.seller_lost),
            worst(|outcome| outcome.limits.1),
            worst(|outcome| outcome.fees),
        )
        .unwrap();
    }
    text
}

const BEGIN: &str = "<!-- written by the test `silence` -->\n";
const END: &str = "<!-- end -->\n";

#[test]
fn whoever_falls_silent_at_whatever_step_costs_the_other_no_more_than_it_chose() {
    let cuts = all();
    println!("{}", steps(&cuts));
    for cut in &cuts {
        let Outcome { buyer_lost, seller_lost, limits, .. } = cut.outcome;
        let story = || steps(std::slice::from_ref(cut));
        assert!(buyer_lost <= limits.0 && seller_lost <= limits.1, "{}", story());
    }
    // The limits are reached: the test would see it if they were passed.
    let worst = |of: fn(&Outcome) -> u64| cuts.iter().map(|cut| of(&cut.outcome)).max();
    assert!(worst(|outcome| outcome.buyer_lost) > Some(0) && worst(|outcome| outcome.seller_lost) > Some(0));

    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/payments.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("docs/payments.md has a place for the table");
    let (written, after) = rest.split_once(END).expect("and an end of it");
    if std::env::var("SENSORA_WRITE_GOLDEN").is_ok_and(|value| value == "1") {
        std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", table(&cuts))).unwrap();
    } else {
        assert_eq!(written, table(&cuts), "write docs/payments.md anew with SENSORA_WRITE_GOLDEN=1");
    }
}
