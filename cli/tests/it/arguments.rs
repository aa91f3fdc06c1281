//! What was typed: refused with a reason and a code, or answered.

use crate::support::run;

#[test]
fn help_and_version_are_answers() {
    let help = run("--help").ends_with(0);
    assert!(help.stdout.contains("Exit codes:") && help.stderr.is_empty(), "{help:#?}");
    let version = run("--version").ends_with(0);
    assert_eq!(version.stdout.trim(), concat!("sensora ", env!("CARGO_PKG_VERSION")));
    assert!(run("buy --help").ends_with(0).stdout.contains("--max-price"));
}

#[test]
fn a_wrong_word_is_a_usage_error_in_text_and_in_json() {
    for line in [
        "",
        "stauts",
        "buy",
        "buy x",
        "buy x --latest --last 2",
        "agent --csv a --stdin",
        "--network moon status",
    ] {
        let ran = run(line).ends_with(2);
        assert!(ran.stdout.is_empty() && !ran.stderr.is_empty(), "{line}: {ran:#?}");
    }
    let error = run("--json stauts").ends_with(2).error();
    assert_eq!(error["code"], "usage");
    assert!(error["message"].as_str().unwrap().contains("stauts"), "{error:#}");
    assert!(error["hint"].as_str().unwrap().contains("status"), "{error:#}");
}

#[test]
fn what_makes_no_sense_is_said_before_a_home_is_touched() {
    let home = "--home /nonexistent --json";
    for (line, says) in [
        ("agent --name x", "--host"),
        ("agent --host --replay at-once", "--csv"),
        ("agent --host --interval 0s", "above zero"),
        ("buy s --from 2020-01-02 --to 2020-01-01", "later"),
        ("buy s --from yesterday", "not a time"),
        ("demo --network main", "regtest"),
    ] {
        let error = run(&format!("{home} {line}")).ends_with(2).error();
        let text = format!("{} {}", error["message"], error["hint"]);
        assert!(text.contains(says), "{line}: {text}");
    }
}

#[test]
fn every_shell_has_a_completion_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&format!("completions {shell}")).ends_with(0).stdout;
        assert!(script.contains("sensora") && script.contains("doctor"), "{shell}");
    }
    run("completions csh").ends_with(2);
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let dir = tempfile::tempdir().unwrap();
    run(&format!("man {}", dir.path().display())).ends_with(0);
    for page in ["sensora", "sensora-buy", "sensora-wallet", "sensora-wallet-send", "sensora-config-check"] {
        let text = std::fs::read_to_string(dir.path().join(format!("{page}.1"))).unwrap();
        assert!(text.contains(".TH") && text.contains(&page.replace('-', "\\-")), "{page}: {text}");
    }
    assert!(run("man").ends_with(0).stdout.contains(".TH"));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    use std::process::Stdio;
    let mut child = crate::support::sensora()
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
