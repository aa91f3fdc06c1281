//! A home: made once, kept private, used by one process.

use std::fs;

use serde_json::Value;

use crate::support::{run, run_with_input, sensora};

const WORDS: &str =
    "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";

#[test]
fn a_key_is_made_once_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let line = |rest: &str| format!("--json --home {} {rest}", home.display());
    let made = run(&line("init")).ends_with(0).json();
    assert_eq!(made["words"].as_str().unwrap().split(' ').count(), 12);
    assert_eq!((made["network"].as_str(), made["sealed"].as_bool()), (Some("regtest"), Some(false)));
    let key = fs::read(home.join("key")).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&home.join("key")), mode(&home)), (0o600, 0o700));
    }
    let error = run(&line("init")).ends_with(8).error();
    assert_eq!(error["code"], "home");
    assert!(error["message"].as_str().unwrap().contains("never overwritten"), "{error:#}");
    assert_eq!(fs::read(home.join("key")).unwrap(), key);

    // The words bring the same node back elsewhere.
    let words = run(&line("wallet words")).ends_with(0).json()["words"].as_str().unwrap().to_owned();
    assert_eq!(made["words"], words.as_str());
    let other = dir.path().join("other");
    let restored = run_with_input(&format!("--json --home {} init --restore", other.display()), &words);
    let restored = restored.ends_with(0).json();
    assert_eq!(restored["peer_id"], made["peer_id"]);
    assert_eq!(restored["words"], Value::Null);
    assert_eq!(run(&line("config check")).ends_with(0).json()["ok"], true);
}

#[test]
fn wrong_words_are_refused_by_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let line = format!("--json --home {} init --restore", dir.path().join("home").display());
    for (words, says) in [
        (WORDS.replacen("abandon", "abandom", 1), "word 1"),
        (WORDS.replace("about", "abandon"), "do not belong together"),
        ("abandon abandon".to_owned(), "2 words"),
    ] {
        let error = run_with_input(&line, &words).ends_with(2).error();
        assert!(error["message"].as_str().unwrap().contains(says), "{error:#}");
        assert!(!error.to_string().contains("abandom"), "a word of the key is in the error");
    }
    run_with_input(&line, WORDS).ends_with(0);
}

#[test]
fn a_sealed_key_opens_with_its_passphrase_alone() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let with = |passphrase: Option<&str>, line: &str| {
        let mut command = sensora();
        command.arg("--json").arg("--home").arg(&home).args(line.split(' '));
        if let Some(passphrase) = passphrase {
            command.env("SENSORA_PASSPHRASE", passphrase);
        }
        let output = command.output().unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(with(Some("correct horse"), "init").0, 0);
    assert_eq!(with(Some("correct horse"), "wallet address").0, 0);
    let (code, text) = with(Some("wrong"), "wallet address");
    assert!(code == 8 && text.contains("passphrase"), "{text}");
    let (code, text) = with(None, "wallet address");
    assert!(code == 8 && text.contains("SENSORA_PASSPHRASE"), "{text}");
    // What needs no secret needs no passphrase.
    assert_eq!(with(None, "wallet balance").0, 0);
    assert_eq!(with(None, "status").0, 0);
}

#[test]
fn a_home_that_is_not_there_says_how_to_make_one() {
    for command in ["status", "wallet balance", "orders", "agent --sim", "search", "export x", "doctor"] {
        let ran = run(&format!("--home /nonexistent/home {command}"));
        let expected = if command == "doctor" { 1 } else { 8 };
        let text = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code == expected && text.contains("sensora init"), "{command}: {ran:#?}");
    }
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_key_that_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().display();
    run(&format!("--home {home} init")).ends_with(0);
    fs::write(dir.path().join("config.toml"), "[buyer]\nexposure_sats = 5\n").unwrap();
    for command in ["config check", "agent --sim", "wallet balance"] {
        let error = run(&format!("--json --home {home} {command}")).ends_with(2).error();
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("exposure_sat") && message.contains('2'), "{message}");
    }
}

#[test]
fn addresses_are_checked_before_they_are_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let line = |rest: &str| format!("--home {} init {rest}", home.display());
    run(&line("--bootstrap nonsense")).ends_with(2);
    run(&line("--words 13")).ends_with(2);
    run(&line("--bootstrap /ip4/192.0.2.7/tcp/4001 --network test --words 24")).ends_with(0);
    let config = fs::read_to_string(home.join("config.toml")).unwrap();
    assert!(
        config.contains("bootstrap = [\"/ip4/192.0.2.7/tcp/4001\"]") && config.contains("network = \"test\"")
    );
}

#[test]
fn each_address_is_fresh() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().display();
    run(&format!("--home {home} init")).ends_with(0);
    let address = || run(&format!("--home {home} wallet address")).ends_with(0).stdout;
    assert_ne!(address(), address());
}
