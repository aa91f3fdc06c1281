//! Three processes: a device sells, a buyer finds, pays, receives, verifies and keeps.

use std::fs;

use serde_json::{Value, json};

use crate::support::{World, run};

#[test]
fn a_recording_is_sold_whole_and_proven_to_anybody() {
    const ROWS: u64 = 3000;
    let world = World::new();
    let recording = world.recording("machine.csv", 3000);
    let (seller, buyer) = (world.home("seller"), world.funded("buyer"));
    let agent = seller.sell(&recording, ROWS);

    let found = buyer.run("search --json machine").ends_with(0).json();
    assert_eq!(found.pointer("/streams/0/name"), Some(&json!("machine")), "{found:#}");
    let id = found["streams"][0]["id"].as_str().unwrap().to_owned();
    let peer = found["streams"][0]["seller"].as_str().unwrap().to_owned();
    let shown = buyer.run(&format!("show {} --json", &id[..8])).ends_with(0).json();
    assert_eq!((shown["price_msat"].as_u64(), shown["id"].as_str()), (Some(100), Some(id.as_str())));
    let sample = buyer.run(&format!("sample machine --seller {peer} --count 3 --json")).ends_with(0).json();
    assert_eq!(sample["readings"].as_array().unwrap().len(), 3);

    let quote = buyer.run("buy machine --last 100 --dry-run --json").ends_with(0).json();
    assert_eq!((quote["price_sat"].as_u64(), quote["count"].as_u64()), (Some(10), Some(100)));
    assert_eq!(buyer.run("orders --json").ends_with(0).json()["orders"], json!([]));

    let line = "buy machine --seq 0..3000 --out all.csv --evidence all.json --wait-anchor 30 --json";
    let bought = buyer.run(line).ends_with(0).json();
    assert_eq!(
        (bought["count"].as_u64(), bought["paid_sat"].as_u64(), bought["anchored"].as_bool()),
        (Some(ROWS), Some(300), Some(true)),
        "{bought:#}"
    );
    let rows = fs::read_to_string(world.path("all.csv")).unwrap();
    let source = fs::read_to_string(&recording).unwrap();
    for (row, (got, sent)) in rows.lines().zip(source.lines()).enumerate().skip(1) {
        assert_eq!(got, format!("{},{sent}", row - 1));
    }
    assert_eq!(rows.lines().count(), source.lines().count());

    // The same again costs nothing.
    let again = buyer.run("buy machine --seq 0..3000 --json").ends_with(0).json();
    assert_eq!((again["paid_sat"].as_u64(), again["kept"].as_u64()), (Some(0), Some(ROWS)));

    // Anybody with the headers can check it, and a changed file is refused.
    buyer.run("export --headers --out headers.bin").ends_with(0);
    let (evidence, headers) = (world.path("all.json"), world.path("headers.bin"));
    let check = |file: &std::path::Path| {
        run(&format!("--home /nonexistent verify {} --headers {} --json", file.display(), headers.display()))
    };
    assert_eq!(check(&evidence).ends_with(0).json()["count"], ROWS);
    let mut forged: Value = serde_json::from_slice(&fs::read(&evidence).unwrap()).unwrap();
    forged["readings"][1500]["values"][0] = json!(0.123);
    let path = world.path("forged.json");
    fs::write(&path, forged.to_string()).unwrap();
    assert_eq!(check(&path).ends_with(6).error()["code"], "unverified");
    // Any number of files at a time, each with how its readings stand; the one that does not hold is named.
    let order = bought["orders"][0]["order"].as_str().unwrap();
    let written = buyer.run(&format!("orders {order} --evidence one.json --json")).ends_with(0).json();
    assert_eq!(written["evidence"], json!(["one.json"]), "{written:#}");
    let both = buyer.run("verify all.json one.json --json").ends_with(0).json();
    for (file, name) in both["files"].as_array().unwrap().iter().zip(["all.json", "one.json"]) {
        assert_eq!((&file["file"], &file["standing"]), (&json!(name), &json!("mined")), "{both:#}");
        assert_eq!((file["first"].as_u64(), file["count"].as_u64()), (Some(0), Some(ROWS)));
    }
    let refused = buyer.run("verify all.json forged.json --json").ends_with(6).error();
    assert!(refused["message"].as_str().unwrap().contains("forged.json"), "{refused:#}");
    fs::write(&path, "{}").unwrap();
    check(&path).ends_with(6);
    check(&world.path("missing.json")).ends_with(3);

    let lines = buyer.run("export machine --format jsonl").ends_with(0).stdout;
    assert_eq!(lines.lines().count(), 3000);
    let order = bought["orders"][0]["order"].as_str().unwrap();
    let part = buyer.run(&format!("export {} --from 2020-09-13T13:00:00Z", &order[..10])).ends_with(0).stdout;
    assert!(part.lines().count() < 3001 && part.starts_with("seq,time,value\r\n"));

    let price_and_fees = 1_000_000 - buyer.number("wallet balance --json", "/total_sat");
    let history = buyer.run("wallet history --json").ends_with(0).json();
    let lines = history["history"].as_array().unwrap();
    let fees: i64 = lines.iter().filter_map(|line| line["fee_sat"].as_i64()).sum();
    assert_eq!(price_and_fees, 300 + fees);
    buyer.run("wallet audit").ends_with(0);

    // A home in use names the process that uses it; its status is told all the same.
    let error = seller.run("wallet balance --json").ends_with(8).error();
    assert!(error["message"].as_str().unwrap().contains("in use by process"), "{error:#}");
    assert_eq!(agent.interrupt(), 0);
    assert_eq!(seller.number("status --json", "/sales/sat"), 300);
    seller.run("wallet audit").ends_with(0);
}

#[test]
fn each_reason_not_to_buy_has_its_exit_code() {
    let world = World::new();
    let recording = world.recording("machine.csv", 1200);
    let (seller, buyer) = (world.home("seller"), world.home("buyer"));
    let agent = seller.sell(&recording, 1200);
    let peer =
        buyer.run("search --json").ends_with(0).json()["streams"][0]["seller"].as_str().unwrap().to_owned();

    let error = buyer.run("buy machine --latest --json").ends_with(7).error();
    assert!(error["hint"].as_str().unwrap().contains("wallet fund"), "{error:#}");
    let error = buyer.run("buy machine --last 1000 --max-price 99 --json").ends_with(5).error();
    assert!(error["message"].as_str().unwrap().contains("--max-price"), "{error:#}");
    let error = buyer.run("buy machine --last 1000 --exposure 99 --mode direct --json").ends_with(5).error();
    assert!(error["message"].as_str().unwrap().contains("--exposure"), "{error:#}");
    buyer.run("buy machine --seq 5000..5001 --json").ends_with(3);
    buyer.run("buy nothing --latest --within 1 --json").ends_with(3);
    buyer.run(&format!("buy nothing --seller {peer} --latest --json")).ends_with(3);
    buyer.run("buy machine --seller nonsense --latest --json").ends_with(2);
    buyer.run("wallet send nonsense 5 --json").ends_with(2);
    buyer.run("export machine --json").ends_with(3);
    buyer.run("orders abcd --json").ends_with(3);
    assert_eq!(buyer.number("wallet balance --json", "/total_sat"), 0);

    // Nobody answers at a port that nobody listens on, and a new home knows nobody else.
    let lonely = world.home("lonely");
    let nobody = format!("search --json --bootstrap /ip4/127.0.0.1/tcp/9/p2p/{peer}");
    assert_eq!(lonely.run(&nobody).ends_with(9).error()["code"], "unreachable");
    assert_eq!(agent.interrupt(), 0);
}

#[test]
fn a_withdrawn_ad_is_found_no_more() {
    let world = World::new();
    let recording = world.recording("machine.csv", 1200);
    let (seller, buyer) = (world.home("seller"), world.home("buyer"));
    let agent = seller.sell(&recording, 1200);
    assert_eq!(buyer.run("search --json").ends_with(0).json()["streams"][0]["name"], "machine");
    assert_eq!(agent.interrupt(), 0);
    assert_eq!(seller.run("agent --withdraw --json").ends_with(0).json()["withdrawn"], true);
    // The withdrawal is on chain, where it is found by whoever has not heard it.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while buyer.run("search --json --within 3").json()["streams"] != serde_json::json!([]) {
        assert!(std::time::Instant::now() < deadline, "the withdrawn ad is still found");
    }
    buyer.run("buy machine --latest --within 1 --json").ends_with(3);
}

#[test]
fn money_goes_where_it_is_sent() {
    let world = World::new();
    let (from, to) = (world.funded("from"), world.home("to"));
    let address = to.run("wallet address").ends_with(0).stdout.trim().to_owned();
    let sent = from.run(&format!("wallet send {address} 1234 --json")).ends_with(0).json();
    let fee = sent["fee_sat"].as_i64().unwrap();
    assert_eq!(from.number("wallet balance --json", "/total_sat"), 1_000_000 - 1234 - fee);
    let poor = from.run(&format!("wallet send {address} 2000000 --json")).ends_with(7).error();
    assert_eq!(poor["code"], "not_enough_money");
    let main = "1BgGZ9tcN4rm9KBzDn7KprQz87SZ26SAMH";
    from.run(&format!("wallet send {main} 5 --json")).ends_with(2);
    from.run("wallet audit").ends_with(0);
    let checks = from.run("doctor --json").ends_with(0).json();
    assert_eq!(checks["ok"], true, "{checks:#}");
}

#[cfg(unix)]
#[test]
fn a_program_sells_what_it_prints() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    let (seller, buyer) = (world.home("seller"), world.funded("buyer"));
    let script = world.path("sensor.sh");
    fs::write(&script, "#!/bin/sh\nfor i in 1 2 3 4 5; do echo \"{\\\"t\\\": $i.5}\"; done\nsleep 600\n")
        .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let line =
        format!("agent --json --exec {} --name porch --value-column t:float:Cel --price 1", script.display());
    let mut agent = seller.spawn(&line);
    agent.wait_for(|event| event["event"] == "ready");
    let bought = buyer.run("buy porch --seq 0..5 --json").ends_with(0).json();
    let values: Vec<_> =
        bought["readings"].as_array().unwrap().iter().map(|r| r["values"]["t"].clone()).collect();
    assert_eq!(values, [1.5, 2.5, 3.5, 4.5, 5.5].map(|t| json!(t)));
    assert_eq!(agent.interrupt(), 0);
}

#[test]
fn a_recording_whose_rows_are_no_readings_says_so_at_its_end() {
    let world = World::new();
    let path = world.path("broken.csv");
    fs::write(&path, "timestamp,value\n2024-01-01T00:00:00Z,1\nyesterday,2\n2024-01-01T00:10:00Z,many\n")
        .unwrap();
    let seller = world.home("seller");
    let line = "agent --json --csv broken.csv --name broken --listen /ip4/127.0.0.1/tcp/0";
    let mut agent = seller.spawn(line);
    let ended = agent.wait_for(|event| event["event"] == "source_ended");
    assert_eq!((ended["rows"].as_u64(), ended["refused"].as_u64()), (Some(1), Some(2)), "{ended:#}");
    assert!(ended["last_refused"].as_str().unwrap().contains("line 4"), "{ended:#}");
    assert_eq!(agent.interrupt(), 0);
}
