//! What an order may cost and what of it is at risk, as `buy`, `subscribe` and `read` say it, with real processes.

use serde_json::Value;

use crate::support::World;

/// Rows of the recording.
const ROWS: u32 = 1200;

#[test]
fn what_is_at_risk_is_said_before_anything_is_signed() {
    let world = World::new();
    let recording = world.recording("machine.csv", ROWS);
    let (seller, buyer) = (world.home("seller"), world.funded("buyer"));
    let agent = seller.sell(&recording, u64::from(ROWS));
    let terms = |line: &str, code: i32| -> Value {
        let ran = buyer.run(line).ends_with(code);
        let said: Vec<Value> =
            ran.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let terms: Vec<_> = said.iter().filter_map(|line| line.get("terms")).collect();
        assert_eq!(terms.len(), 1, "{ran:#?}");
        terms[0].clone()
    };
    // Frozen, nothing is signed: so what is said was said before.
    buyer.run("wallet freeze --json").ends_with(0);
    let direct = terms("buy machine --seq 0..100 --mode direct --json", 11);
    assert_eq!((&direct["mode"], &direct["budget_sat"]), (&"direct".into(), &10.into()), "{direct:#}");
    assert_eq!(direct["exposure_sat"], 10);
    let live = terms("subscribe machine --from 100 --budget 20 --exposure 7 --json", 11);
    assert_eq!((&live["budget_sat"], &live["exposure_sat"]), (&20.into(), &7.into()), "{live:#}");
    let reads = terms("read machine --seq 5 --budget 20 --exposure 7 --json", 11);
    assert_eq!((&reads["mode"], &reads["exposure_sat"]), (&"channel".into(), &7.into()), "{reads:#}");
    // The same in text.
    for line in [
        "buy machine --seq 0..100 --mode channel --exposure 7",
        "subscribe machine --from 100 --budget 20 --exposure 7",
        "read machine --seq 5 --budget 20 --exposure 7",
    ] {
        let ran = buyer.run(line).ends_with(11);
        assert!(
            ran.stderr.contains("by channel: ") && ran.stderr.contains("at most 7 sat at risk"),
            "{ran:#?}"
        );
    }
    assert_eq!(agent.interrupt(), 0);
}
