//! `sensora wallet`: backups that are locked, checked, put back; coins found again; and what goes wrong with each.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Ran, World, run, run_with_input, sensora};

/// The passphrase of backups in these tests.
const PASSPHRASE: &str = "correct horse battery staple";

/// Runs a command with `SENSORA_BACKUP_PASSPHRASE`.
fn with_passphrase(line: &str, passphrase: &str) -> Ran {
    let mut command = sensora();
    command.args(line.split(' ')).env("SENSORA_BACKUP_PASSPHRASE", passphrase).stdin(Stdio::null());
    Ran::of(command)
}

/// A home on no network, with a key and nothing else.
fn home(dir: &Path, name: &str, more: &str) -> String {
    let path = dir.join(name);
    let line = format!("--json --home {} init{more}", path.display());
    run(&line).ends_with(0);
    path.display().to_string()
}

fn words(home: &str) -> String {
    run(&format!("--json --home {home} wallet words")).ends_with(0).json()["words"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn message(ran: Ran, code: i32) -> String {
    let error = ran.ends_with(code).error();
    format!("{} {}", error["message"].as_str().unwrap(), error["hint"].as_str().unwrap_or_default())
}

/// Every file of a home but the lock, with its bytes.
fn files(home: &str) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(home) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name() != "lock")
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn an_old_backup_is_put_back_and_catches_up_with_the_chain() {
    let world = World::new();
    let recording = world.recording("machine.csv", 400);
    let (seller, buyer) = (world.home("seller"), world.funded("buyer"));
    let agent = seller.sell(&recording, 400);
    let file = world.path("buyer.age").display().to_string();
    let made = buyer.run(&format!("wallet backup {file} --json")).ends_with(0).json();
    assert_eq!((made["locked_with"].as_str(), made["has_words"].as_bool()), (Some("words"), Some(false)));
    assert_eq!(made.pointer("/balance/total_sat").and_then(Value::as_i64), Some(1_000_000));
    let fresh = buyer.run(&format!("wallet verify-backup {file} --json")).ends_with(0).json();
    assert_eq!(fresh["of_this_home"], true);
    assert_eq!(fresh.pointer("/behind/transactions"), Some(&0.into()));

    for n in 0..5 {
        buyer.run(&format!("buy machine --seq {}..{} --json", n * 40, n * 40 + 40)).ends_with(0);
    }
    let behind = buyer.run(&format!("wallet verify-backup {file} --json")).ends_with(0).json();
    assert!(behind.pointer("/behind/transactions").and_then(Value::as_i64) >= Some(5), "{behind:#}");
    // Until everything is mined, so that both homes see the same.
    let settled = (0..50).find_map(|_| {
        let balance = buyer.run("wallet balance --refresh --json").ends_with(0).json();
        (balance["unconfirmed_sat"] == 0).then(|| balance["total_sat"].as_i64().unwrap())
    });
    let total = settled.expect("the payments are mined");

    // Elsewhere, with the file and the words.
    let again = world.path("again");
    let phrase = words(&buyer.path.display().to_string());
    let config = fs::read_to_string(buyer.path.join("config.toml")).unwrap();
    let restore = format!("--json --home {} wallet restore {file}", again.display());
    let restored = run_with_input(&restore, &phrase).ends_with(0).json();
    assert_eq!(restored["peer_id"], made["peer_id"]);
    fs::write(again.join("config.toml"), config).unwrap();
    let elsewhere = buyer.elsewhere(&again);
    let old = elsewhere.number("wallet balance --json", "/total_sat");
    assert_eq!(old, 1_000_000, "it is an old backup");
    let found = elsewhere.run("wallet recover --json").ends_with(0).json();
    assert!(found.pointer("/followed/spending").and_then(Value::as_i64) >= Some(5), "{found:#}");
    assert_eq!(found.pointer("/balance/total_sat").and_then(Value::as_i64), Some(total), "{found:#}");
    let audit = elsewhere.run("wallet audit --on-chain --json").ends_with(0).json();
    assert_eq!((audit["ok"].as_bool(), audit["differences"].as_array().map(Vec::len)), (Some(true), Some(0)));
    assert!(audit["coins"].as_i64() > Some(1) && audit["transactions"].as_i64() > Some(1), "{audit:#}");
    // It buys on, and nothing is paid twice.
    elsewhere.run("buy machine --seq 200..240 --json").ends_with(0);
    elsewhere.run("wallet audit").ends_with(0);

    // Words alone, by the peers that serve the chain: a buyer has made no anchors, so nothing is found, and that is said.
    let bare = world.path("bare");
    run_with_input(&format!("--json --home {} init --restore", bare.display()), &phrase).ends_with(0);
    fs::copy(buyer.path.join("config.toml"), bare.join("config.toml")).unwrap();
    let found = buyer.elsewhere(&bare).run("wallet recover --json").ends_with(0).json();
    assert_eq!((found["way"].as_str(), found["coins"].as_i64()), (Some("anchors and ads"), Some(0)));
    assert_eq!(agent.interrupt(), 0);
    // A seller has: its change comes back.
    let bare = world.path("bare-seller");
    let seller_home = seller.path.display().to_string();
    run_with_input(&format!("--json --home {} init --restore", bare.display()), &words(&seller_home))
        .ends_with(0);
    fs::copy(seller.path.join("config.toml"), bare.join("config.toml")).unwrap();
    let bare = buyer.elsewhere(&bare);
    let mined = (0..50).find_map(|_| {
        let found = bare.run("wallet recover --json").ends_with(0).json();
        (found.pointer("/balance/total_sat").and_then(Value::as_i64) > Some(90_000)).then_some(found)
    });
    assert!(mined.is_some());
    bare.run("wallet audit").ends_with(0);
}

#[test]
fn a_passphrase_and_the_file_are_a_whole_node() {
    let dir = tempfile::tempdir().unwrap();
    let one = home(dir.path(), "one", "");
    let address = run(&format!("--json --home {one} wallet address")).ends_with(0).json();
    let file = dir.path().join("one.age").display().to_string();
    let made =
        with_passphrase(&format!("--json --home {one} wallet backup {file}"), PASSPHRASE).ends_with(0).json();
    assert_eq!((made["locked_with"].as_str(), made["has_words"].as_bool()), (Some("passphrase"), Some(true)));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // A later backup of the same node takes its place; one of another node does not, and neither does one with another passphrase.
    with_passphrase(&format!("--json --home {one} wallet backup {file}"), PASSPHRASE).ends_with(0);
    let text = message(with_passphrase(&format!("--json --home {one} wallet backup {file}"), "other"), 2);
    assert!(text.contains("--force"), "{text}");
    let other = home(dir.path(), "other", "");
    let text =
        message(with_passphrase(&format!("--json --home {other} wallet backup {file}"), PASSPHRASE), 2);
    assert!(text.contains("--force"), "{text}");

    let two = dir.path().join("two").display().to_string();
    let line = format!("--json --home {two} wallet restore {file}");
    let restored = with_passphrase(&line, PASSPHRASE).ends_with(0).json();
    assert_eq!(restored["peer_id"], made["peer_id"]);
    assert_eq!(words(&two), words(&one));
    // Addresses go on where they were: none is given out twice.
    let next = run(&format!("--json --home {two} wallet address")).ends_with(0).json();
    assert_ne!(next["address"], address["address"]);
    let text = message(with_passphrase(&line, PASSPHRASE), 8);
    assert!(text.contains("nothing is overwritten") && text.contains("store.redb"), "{text}");
}

#[test]
fn what_is_wrong_with_a_backup_is_said_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (home(dir.path(), "one", ""), home(dir.path(), "other", ""));
    run(&format!("--home {one} wallet address")).ends_with(0);
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (by_words, by_passphrase) = (path("words.age"), path("passphrase.age"));
    run(&format!("--home {one} wallet backup {by_words}")).ends_with(0);
    with_passphrase(&format!("--home {one} wallet backup {by_passphrase}"), PASSPHRASE).ends_with(0);
    let before = (files(&one), files(&other));
    let bytes = fs::read(&by_words).unwrap();
    let sealed = fs::read(&by_passphrase).unwrap();
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(path("flipped"), flipped).unwrap();
    fs::write(path("cut"), &bytes[..bytes.len() - 40]).unwrap();
    fs::write(path("cut-sealed"), &sealed[..sealed.len() - 40]).unwrap();
    fs::write(path("text"), "not a backup at all\n").unwrap();
    fs::write(path("empty"), "").unwrap();
    let new = path("new");
    let verify = |home: &str, file: &str| run(&format!("--json --home {home} wallet verify-backup {file}"));
    let restore = |home: &str, file: &str| run(&format!("--json --home {home} wallet restore {file}"));

    let missing = path("missing");
    for ran in [verify(&one, &missing), restore(&new, &missing)] {
        assert!(message(ran, 3).contains("there is no file"));
    }
    for file in ["text", "empty"] {
        for ran in [verify(&one, &path(file)), restore(&new, &path(file))] {
            assert!(message(ran, 6).contains("not a backup"), "{file}");
        }
    }
    for file in ["flipped", "cut"] {
        assert!(message(verify(&one, &path(file)), 6).contains("damaged"), "{file}");
    }
    let text = message(
        with_passphrase(&format!("--json --home {new} wallet restore {}", path("cut-sealed")), PASSPHRASE),
        6,
    );
    assert!(text.contains("damaged"), "{text}");
    // Of another key: the home's key does not open it, and a passphrase does not make it this home's.
    let text = message(verify(&other, &by_words), 8);
    assert!(text.contains("words of another node"), "{text}");
    assert!(message(restore(&other, &by_words), 8).contains("words of another node"));
    let text = message(
        with_passphrase(&format!("--json --home {other} wallet restore {by_passphrase}"), PASSPHRASE),
        8,
    );
    assert!(text.contains("home of its own"), "{text}");
    let seen =
        with_passphrase(&format!("--json --home {other} wallet verify-backup {by_passphrase}"), PASSPHRASE);
    assert_eq!(seen.ends_with(0).json()["of_this_home"], false);
    // Of another network.
    let text = message(
        with_passphrase(
            &format!("--json --network main --home {new} wallet restore {by_passphrase}"),
            PASSPHRASE,
        ),
        8,
    );
    assert!(text.contains("network regtest") && text.contains("main"), "{text}");
    // A wrong passphrase, none, and nobody to ask.
    let text =
        message(with_passphrase(&format!("--json --home {new} wallet restore {by_passphrase}"), "wrong"), 8);
    assert!(text.contains("does not open"), "{text}");
    assert!(message(restore(&new, &by_passphrase), 8).contains("SENSORA_BACKUP_PASSPHRASE"));
    let text = message(run(&format!("--json --home {one} wallet backup {} --passphrase", path("x"))), 2);
    assert!(text.contains("SENSORA_BACKUP_PASSPHRASE"), "{text}");
    let text = message(with_passphrase(&format!("--json --home {one} wallet backup {}", path("x")), ""), 2);
    assert!(text.contains("empty passphrase"), "{text}");
    // The words of another node.
    let phrase = words(&other);
    let text = message(run_with_input(&format!("--json --home {new} wallet restore {by_words}"), &phrase), 8);
    assert!(text.contains("words of another node"), "{text}");
    // Into a used home.
    assert!(message(restore(&one, &by_words), 8).contains("nothing is overwritten"));
    // What is there and is no backup of ours stays.
    let text = message(run(&format!("--json --home {one} wallet backup {}", path("text"))), 2);
    assert!(text.contains("--force"), "{text}");
    assert_eq!(fs::read_to_string(path("text")).unwrap(), "not a backup at all\n");
    run(&format!("--home {one} wallet backup {} --force", path("text"))).ends_with(0);

    assert!(!Path::new(&new).exists(), "no home was made for a backup that could not be put back");
    assert!(!Path::new(&path("x")).exists());
    // Nothing but what the store does with itself when it is opened.
    let keys = |files: &[(String, Vec<u8>)]| -> Vec<(String, Vec<u8>)> {
        files.iter().filter(|(name, _)| name != "store.redb").cloned().collect()
    };
    assert_eq!(keys(&files(&one)), keys(&before.0));
    assert_eq!(keys(&files(&other)), keys(&before.1));
    assert_eq!(verify(&one, &by_words).ends_with(0).json().pointer("/behind/transactions"), Some(&0.into()));
    // And the true ones go where they belong.
    run_with_input(&format!("--json --home {new} wallet restore {by_words}"), &words(&one)).ends_with(0);
}

#[test]
fn keys_are_printed_only_to_who_knows_what_they_are() {
    let world = World::new();
    let home = world.funded("home");
    let text = message(home.run("wallet export-keys --json"), 2);
    assert!(text.contains("--i-know-these-are-secrets"), "{text}");
    let ran = home.run("wallet export-keys --i-know-these-are-secrets --json").ends_with(0);
    assert!(ran.stderr.contains("private keys"), "{ran:#?}");
    let keys = ran.json()["keys"].as_array().unwrap().clone();
    assert_eq!(keys.len(), 1);
    assert_eq!(
        (keys[0]["value_sat"].as_i64(), keys[0]["invoice"].as_str()),
        (Some(1_000_000), Some("2-sensora funding-0"))
    );
    // The key is the address's, as any tool computes it; it is not the root.
    let network = sensora_chain::Network::Regtest;
    let key = sensora_chain::PrivateKey::from_wif(keys[0]["wif"].as_str().unwrap(), network).unwrap();
    assert_eq!(key.public().address(network).to_string(), keys[0]["address"].as_str().unwrap());
    let peer = home.run("status --json").ends_with(0).json()["peer_id"].as_str().unwrap().to_owned();
    assert_ne!(sensora_protocol::identity::peer_id(&key.public()), peer);
    home.run("wallet address").ends_with(0);
    let all = home.run("wallet export-keys --all --i-know-these-are-secrets --json").ends_with(0).json();
    assert_eq!(
        all["keys"].as_array().unwrap().len(),
        3,
        "the coin's, and both addresses that were given out"
    );

    // Watching takes no key.
    let file = world.path("watch.json").display().to_string();
    home.run(&format!("wallet export-watch {file}")).ends_with(0);
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains(keys[0]["wif"].as_str().unwrap()));
    assert!(message(home.run(&format!("wallet export-watch {file} --json")), 2).contains("--force"));
    let watcher = world.home("watcher");
    let seen = watcher.run(&format!("wallet watch {file} --json")).ends_with(0).json();
    assert_eq!((seen["total_sat"].as_i64(), seen["coins"].as_i64()), (Some(1_000_000), Some(1)));
    // A sender of another network's address, a file of another network, and one that is none.
    let text = message(home.run("wallet send 1BoatSLRHtKNngkdXEeobR76b53LETtpyT 1000 --json"), 2);
    assert!(text.contains("does not belong to the regtest network"), "{text}");
    fs::write(&file, &text).unwrap();
    assert!(message(watcher.run(&format!("wallet watch {file} --json")), 6).contains("not a watch file"));
    home.run(&format!("wallet export-watch {file} --force")).ends_with(0);
    let main = fs::read_to_string(&file).unwrap().replace("\"regtest\"", "\"main\"");
    fs::write(&file, main).unwrap();
    assert!(message(watcher.run(&format!("wallet watch {file} --json")), 2).contains("network main"));
    assert!(message(watcher.run("wallet watch /nonexistent --json"), 3).contains("/nonexistent"));
}

#[test]
fn what_is_above_the_bound_goes_to_a_cold_address() {
    let world = World::new();
    let (home, cold) = (world.funded("home"), world.home("cold"));
    let address =
        cold.run("wallet address --json").ends_with(0).json()["address"].as_str().unwrap().to_owned();
    let text = message(home.run("wallet sweep --json"), 2);
    assert!(text.contains("wallet.sweep_to"), "{text}");
    let text = message(home.run("wallet sweep --to 1BoatSLRHtKNngkdXEeobR76b53LETtpyT --json"), 2);
    assert!(text.contains("does not belong to the regtest network"), "{text}");
    // Not deep enough in the chain yet.
    world.mine(1);
    let none = home.run(&format!("wallet sweep --to {address} --keep 200000 --json")).ends_with(0).json();
    assert_eq!((none["txid"].as_str(), none["swept_sat"].as_i64()), (None, Some(0)), "{none:#}");
    world.mine(8);
    let swept = home.run(&format!("wallet sweep --to {address} --keep 200000 --json")).ends_with(0).json();
    let (sat, fee) = (swept["swept_sat"].as_i64().unwrap(), swept["fee_sat"].as_i64().unwrap());
    assert_eq!(sat + fee, 800_000, "{swept:#}");
    assert_eq!(home.number("wallet balance --json", "/total_sat"), 200_000);
    home.run("wallet audit --on-chain").ends_with(0);
}

#[test]
fn a_recovery_says_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let one = home(dir.path(), "one", "");
    run(&format!("--home {one} wallet recover --gap 0")).ends_with(2);
    let text = message(run(&format!("--json --home {one} wallet recover --chain moon=http://127.0.0.1")), 2);
    assert!(text.contains("moon"), "{text}");
    // A service that is not there: an end, and not for ever.
    let ran = run(&format!("--json --home {one} wallet recover --chain node-rpc=http://u:p@127.0.0.1:1"));
    let text = message(ran, 9);
    assert!(!text.contains("u:p"), "{text}");
}

#[test]
fn a_running_node_keeps_its_backup_fresh() {
    let world = World::new();
    let home = world.home("home");
    let config = home.path.join("config.toml");
    let text = fs::read_to_string(&config).unwrap().replace("#backup_to = \"\"", "backup_to = \"kept.age\"");
    fs::write(&config, text).unwrap();
    home.run("wallet fund 1000000 --json").ends_with(0);
    let file = home.path.join("kept.age").display().to_string();
    let kept = home.run(&format!("wallet verify-backup {file} --json")).ends_with(0).json();
    assert_eq!(
        kept.pointer("/balance/total_sat").and_then(Value::as_i64),
        Some(1_000_000),
        "the last word is in it"
    );
    assert_eq!(kept.pointer("/behind/transactions"), Some(&0.into()));
    // The words alone open it.
    let phrase = words(&home.path.display().to_string());
    let again = world.path("again");
    run_with_input(&format!("--json --home {} wallet restore {file}", again.display()), &phrase).ends_with(0);
}

#[test]
fn costs_need_no_home_and_add_up() {
    let ran = run(
        "--home /nonexistent cost --sensors 10 --every 1m --for 1y --sales-per-day 20 --price 100 --bsv-price 20 --json",
    );
    let costs = ran.ends_with(0).json();
    let number = |key: &str| costs[key].as_i64().unwrap_or_else(|| panic!("{key} in {costs:#}"));
    assert_eq!((number("readings"), number("anchors"), number("sales")), (5_256_000, 52_560, 7_300));
    let fee = costs.pointer("/anchor/fee_sat").and_then(Value::as_i64).unwrap();
    assert_eq!(number("anchors_sat"), 52_560 * fee);
    assert_eq!(number("total_sat"), number("anchors_sat") + number("ads_sat"));
    assert_eq!(number("profit_sat"), number("income_sat") - number("spending_sat") - number("total_sat"));
    let usd = costs["total_usd"].as_f64().unwrap();
    assert!((usd - f64::from(i32::try_from(number("total_sat")).unwrap()) * 20.0 / 1e8).abs() < 1e-6);
    let text = run("cost").ends_with(0).stdout;
    for part in ["anchors", "ads", "a reading", "on disk", "for the buyer"] {
        assert!(text.contains(part), "{text}");
    }
    for wrong in ["--sensors 0", "--every 0s", "--every 1", "--for 1s", "--fee-rate 0", "--bsv-price -1"] {
        run(&format!("cost {wrong}")).ends_with(2);
    }
}

#[test]
fn a_sealed_home_is_backed_up_with_its_passphrase() {
    let dir = tempfile::tempdir().unwrap();
    let sealed = dir.path().join("sealed");
    let with = |passphrase: Option<&str>, line: &str| {
        let mut command: Command = sensora();
        command.args(["--json", "--home"]).arg(&sealed).args(line.split(' ')).stdin(Stdio::null());
        if let Some(passphrase) = passphrase {
            command.env("SENSORA_PASSPHRASE", passphrase);
        }
        Ran::of(command)
    };
    with(Some("home"), "init").ends_with(0);
    let file = dir.path().join("sealed.age").display().to_string();
    assert!(message(with(None, &format!("wallet backup {file}")), 8).contains("SENSORA_PASSPHRASE"));
    with(Some("home"), &format!("wallet backup {file}")).ends_with(0);
    with(Some("home"), &format!("wallet verify-backup {file}")).ends_with(0);
}
