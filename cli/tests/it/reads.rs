//! Single readings with real processes.

use serde_json::Value;

use crate::support::World;

fn shown(events: &[Value]) -> Vec<(u64, bool)> {
    let readings = events.iter().filter(|event| event["event"] == "reading");
    readings
        .map(|event| (event["reading"]["seq"].as_u64().unwrap(), event["bought"].as_bool().unwrap()))
        .collect()
}

#[test]
fn readings_are_bought_one_by_one_and_what_is_here_is_free() {
    let world = World::new();
    let recording = world.recording("machine.csv", 1200);
    let (seller, buyer) = (world.home("seller"), world.funded("buyer"));
    let agent = seller.sell(&recording, 1200);

    let first = buyer.run("read machine --seq 3,1100,4 --budget 50 --json").ends_with(0).events();
    assert_eq!(shown(&first), [(3, true), (1100, true), (4, true)]);
    let ended = first.last().unwrap();
    assert_eq!((&ended["event"], &ended["count"]), (&"ended".into(), &3.into()), "{ended:#}");
    // Three at a tenth of a satoshi.
    assert_eq!(ended["paid_sat"], 1);

    let again = buyer.run("read machine --seq 4,5 --budget 50 --json").ends_with(0).events();
    assert_eq!(shown(&again), [(4, false), (5, true)]);
    let missing = buyer.run("read machine --seq 1200 --budget 50 --json").ends_with(3);
    assert!(missing.error()["message"].as_str().unwrap().contains("1200"));

    // The newest, again and again: the recording does not grow.
    let looks = buyer.run("read machine --latest --every 1s --count 4 --budget 50 --json").ends_with(0);
    let looks = looks.events();
    assert_eq!(shown(&looks), [(1199, true)]);
    assert_eq!(looks.iter().filter(|event| event["event"] == "unchanged").count(), 3);
    let mut watching = buyer.spawn("read machine --latest --every 1s --budget 50 --json");
    watching.wait_for(|event| event["event"] == "unchanged");
    assert_eq!(watching.interrupt(), 0);

    // Both sides have the same books, and nothing is reserved any more.
    let orders = buyer.run("orders --json").ends_with(0).json();
    let orders = orders["orders"].as_array().unwrap().clone();
    assert!(orders.iter().all(|order| order["state"] == "ended" && order["single"] == true), "{orders:#?}");
    let counts: Vec<_> = orders.iter().map(|order| order["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, [3, 1, 0, 1, 0]);
    let earned = seller.run("earnings --json").ends_with(0).json();
    let earned = earned["orders"].as_array().unwrap();
    assert_eq!(earned.len(), 3, "what brought nothing is not in the books: {earned:#?}");
    for (order, sold) in orders.iter().filter(|order| order["count"] != 0).zip(earned) {
        assert_eq!(
            (&order["order"], &order["count"], &order["paid_sat"]),
            (&sold["order"], &sold["count"], &sold["paid_sat"])
        );
    }
    let channels = buyer.run("channels --json").ends_with(0).json();
    assert_eq!(channels["channels"].as_array().unwrap().len(), 1);
    assert_eq!(channels["channels"][0]["reserved_sat"], 0, "{channels:#}");

    buyer.run("wallet freeze --json").ends_with(0);
    let frozen = buyer.run("read machine --seq 9 --budget 50 --json").ends_with(11).error();
    assert_eq!(frozen["code"], "frozen", "{frozen:#}");
    buyer.run("wallet unfreeze --json").ends_with(0);
    for wrong in ["read machine", "read machine --latest --seq 3", "read machine --seq 3 --every 1s"] {
        buyer.run(&format!("{wrong} --json")).ends_with(2);
    }
    assert_eq!(agent.interrupt(), 0);
}
