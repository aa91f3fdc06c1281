use super::*;

fn txid() -> Txid {
    "b68b064b336b9a4abdb173f3e32f27b38a222cb2102f51b8c92563e816b12b4a".parse().unwrap()
}

/// The path in the example of `arc.yaml`, which proves [`txid`].
const BUMP: &str = "fe54251800020400028d97f9ebeddd9f9aa8e0e953b3a76f316298ab05e9834aa811716e9d397564e501025f64aa8e012e26a5c5803c9f94d1c2c8ea68ecef1415011e1c2e26b9c966b6ad02021f5fa39607ca3b48d53c902bd5bb4bbf6a7ac99cf9fda45cc21b71e6e2f7889603024a2bb116e86325c9b8512f10b22c228ab3272fe3f373b1bd4a9a6b334b068bb602000061793b278303101a1390ceae5a713de0eabd9cda63702fe84c928970acf7c45e0100a567e3d066e38638b27897559302eabc85eb69b202c2e86d4338bab73008f460";

fn with(fields: &str) -> Read<Report> {
    status(format!(r#"{{"txid":"{}",{fields}}}"#, txid()).as_bytes(), &txid())
}

fn of(status: &str) -> Report {
    with(&format!(r#""txStatus":"{status}","extraInfo":"","competingTxs":null,"merklePath":null"#)).unwrap()
}

#[test]
fn every_status_has_its_report() {
    for pending in [
        "UNKNOWN",
        "QUEUED",
        "RECEIVED",
        "STORED",
        "ANNOUNCED_TO_NETWORK",
        "REQUESTED_BY_NETWORK",
        "SENT_TO_NETWORK",
        "PENDING_RETRY",
        "MINED_IN_STALE_BLOCK",
        "SOMETHING_NEW",
        "",
    ] {
        assert_eq!(of(pending), Report::Pending, "{pending}");
    }
    for seen in ["ACCEPTED_BY_NETWORK", "SEEN_ON_NETWORK", "SEEN_MULTIPLE_NODES"] {
        assert_eq!(of(seen), Report::Seen, "{seen}");
    }
    for mined in ["MINED", "IMMUTABLE", "CONFIRMED", "STUMP_PROCESSING"] {
        assert_eq!(of(mined), Report::MinedUnproven { height: None }, "{mined}");
    }
    assert_eq!(of("SEEN_IN_ORPHAN_MEMPOOL"), Report::Orphan);
    assert_eq!(of("DOUBLE_SPEND_ATTEMPTED"), Report::DoubleSpent { competing: vec![] });
    assert!(matches!(of("REJECTED"), Report::Rejected { code: GENERIC, .. }));
}

#[test]
fn a_mined_transaction_comes_with_its_path_alone() {
    let fields = format!(r#""txStatus":"MINED","blockHeight":1582420,"merklePath":"{BUMP}""#);
    let Report::Mined(path) = with(&fields).unwrap() else { panic!("not mined") };
    assert_eq!((path.block_height(), path.txids()), (1_582_420, vec![txid()]));
    assert_eq!(path.root(), MerklePath::parse(&hex::decode(BUMP).unwrap()).unwrap().root());
    let without = with(r#""txStatus":"MINED","blockHeight":761868,"merklePath":"""#).unwrap();
    assert_eq!(without, Report::MinedUnproven { height: Some(761_868) });
    assert_eq!(
        with(r#""txStatus":"MINED","blockHeight":0"#).unwrap(),
        Report::MinedUnproven { height: None }
    );
}

#[test]
fn a_path_that_proves_nothing_of_ours_is_no_answer() {
    let other: Txid = "11".repeat(32).parse().unwrap();
    let json = format!(r#"{{"txid":"{other}","txStatus":"MINED","merklePath":"{BUMP}"}}"#);
    assert!(status(json.as_bytes(), &other).unwrap_err().contains("does not prove"));
    for broken in ["zz", "fe5", &BUMP[..BUMP.len() - 2], "01020304"] {
        let error = with(&format!(r#""txStatus":"MINED","merklePath":"{broken}""#)).unwrap_err();
        assert!(error.contains("merklePath"), "{broken}: {error}");
    }
}

#[test]
fn an_answer_about_another_transaction_is_none() {
    let json = format!(r#"{{"txid":"{}","txStatus":"SEEN_ON_NETWORK"}}"#, "22".repeat(32));
    assert!(status(json.as_bytes(), &txid()).unwrap_err().contains("asked about"));
    assert!(status(br#"{"txStatus":"SEEN_ON_NETWORK"}"#, &txid()).is_err());
    assert!(status(br#"{"txid":"","txStatus":"SEEN_ON_NETWORK"}"#, &txid()).is_err());
    assert!(with(r#""status":200"#).is_err());
    let refused = format!(r#"{{"txid":"{}","status":465}}"#, "22".repeat(32));
    assert!(refusal(465, refused.as_bytes(), &txid()).is_err());
}

#[test]
fn a_refusal_has_a_code_and_a_reason() {
    let code = |report: Report| match report {
        Report::Rejected { txid: which, code, reason } if which == txid() => (code, reason),
        other => panic!("{other:?}"),
    };
    let of = |fields: &str| code(with(&format!(r#""txStatus":"REJECTED",{fields}"#)).unwrap());
    assert_eq!(of(r#""extraInfo":"arc error 463: output 0 satoshis is invalid""#).0, 463);
    assert_eq!(of(r#""status":476,"extraInfo":"not final""#), (476, "not final".into()));
    assert_eq!(of(r#""status":200,"title":"OK","extraInfo":"64: dust""#), (464, "64: dust".into()));
    assert_eq!(of(r#""status":999,"extraInfo":"Script\u0000 \u001b[31mfailed\n""#).1, "Script [31mfailed");
    assert_eq!(of(r#""extraInfo":"arc error 9""#).0, GENERIC, "cut short");
    assert_eq!(of(&format!(r#""extraInfo":"{}""#, "x".repeat(9000))).1.len(), 256);
    // What a node says may mean less than that the transaction is bad.
    let said = |words: &str| with(&format!(r#""txStatus":"REJECTED","extraInfo":"{words}""#)).unwrap();
    assert_eq!(said("16: missing-inputs"), Report::Orphan);
    assert_eq!(said("257: txn-already-known"), Report::Seen);
    let conflict = with(r#""txStatus":"REJECTED","extraInfo":"258: txn-mempool-conflict""#).unwrap();
    assert_eq!(conflict, Report::DoubleSpent { competing: vec![] });
}

/// As in an example of `arc.yaml`.
#[test]
fn a_refusal_inside_a_good_answer_is_one() {
    let report =
        with(r#""status":463,"title":"Invalid outputs","detail":"d","extraInfo":"e","instance":null"#);
    let reason = "Invalid outputs: e".to_owned();
    assert_eq!(report, Ok(Report::Rejected { txid: txid(), code: 463, reason }));
}

#[test]
fn rivals_are_named_but_not_without_end() {
    let one: Txid = "dead".repeat(16).parse().unwrap();
    let many = vec![format!("\"{one}\""); 1000].join(",");
    let fields =
        format!(r#""txStatus":"DOUBLE_SPEND_ATTEMPTED","competingTxs":["{}","no id",{many}]"#, txid());
    assert_eq!(with(&fields).unwrap(), Report::DoubleSpent { competing: vec![one; MAX_COMPETING] });
}

#[test]
fn http_codes_of_arc_are_verdicts_and_others_are_not() {
    let refused = |http, body: &str| refusal(http, body.as_bytes(), &txid()).unwrap();
    let fee = r#"{"detail":"Fees are too low","extraInfo":"minimum expected fee: 23, actual fee: 1","instance":null,"status":465,"title":"Fee too low","txid":null,"type":"https://bitcoin-sv.github.io/arc/#/errors?id=_465"}"#;
    let Some(Report::Rejected { code: 465, reason, .. }) = refused(465, fee) else { panic!("no verdict") };
    assert_eq!(reason, "Fee too low: minimum expected fee: 23, actual fee: 1");
    for code in CODES.filter(|code| *code != CONFLICT) {
        let report = refused(code, &format!(r#"{{"status":{code},"title":"t"}}"#));
        assert!(matches!(report, Some(Report::Rejected { code: found, .. }) if found == code));
        assert!(
            matches!(refused(code, "<html>"), Some(Report::Rejected { code: found, .. }) if found == code)
        );
    }
    assert_eq!(refused(466, r#"{"status":466}"#), Some(Report::DoubleSpent { competing: vec![] }));
    // Arcade: a 400 with the code, or only the reason, in its body.
    let arcade = r#"{"error":"transaction failed validation","reason":"transaction is not final","status":476,"title":"Transaction not final"}"#;
    assert!(matches!(refused(400, arcade), Some(Report::Rejected { code: 476, .. })));
    let plain = r#"{"error":"transaction failed validation","reason":"script evaluation failed"}"#;
    assert!(matches!(refused(400, plain), Some(Report::Rejected { code: GENERIC, .. })));
    for (http, body) in [
        (400, r#"{"detail":"The request seems to be malformed","status":400,"title":"Bad request"}"#),
        (409, r#"{"detail":"Transaction could not be processed","status":409,"title":"Generic error"}"#),
        (422, r#"{"detail":"invalid transaction hex","status":422,"title":"Unprocessable Entity"}"#),
        (500, "oops"),
        (502, "<html>"),
    ] {
        assert_eq!(refused(http, body), None, "{http}");
    }
}

#[test]
fn the_fee_is_rounded_up_to_a_kilobyte() {
    let policy = |fee: &str| {
        policy(
            format!(
                r#"{{"policy":{{"maxscriptsizepolicy":500000,"maxtxsigopscountspolicy":4294967295,"maxtxsizepolicy":10000000,"miningFee":{fee},"standardFormatSupported":true}},"timestamp":"2026-01-01T00:00:00Z"}}"#
            )
            .as_bytes(),
        )
    };
    let rate = |fee| policy(fee).map(|quote| quote.rate.sat_per_kb);
    assert_eq!(policy(r#"{"satoshis":1,"bytes":1000}"#).unwrap().max_tx_size, Some(10_000_000));
    assert_eq!(rate(r#"{"satoshis":1,"bytes":1000}"#), Ok(1));
    assert_eq!(rate(r#"{"satoshis":50,"bytes":1000}"#), Ok(50));
    assert_eq!(rate(r#"{"satoshis":1,"bytes":3}"#), Ok(334));
    assert_eq!(rate(r#"{"satoshis":1,"bytes":100000}"#), Ok(1));
    assert_eq!(rate(r#"{"satoshis":0,"bytes":1000}"#), Ok(0));
    for absurd in [
        r#"{"satoshis":1,"bytes":0}"#,
        r#"{"satoshis":-1,"bytes":1000}"#,
        r#"{"satoshis":18446744073709551615,"bytes":1}"#,
        r#"{"satoshis":18446744073709551616,"bytes":1}"#,
        r#"{"satoshis":1001,"bytes":1}"#,
        r#"{"satoshis":0.5,"bytes":1000}"#,
        r#"{"satoshis":"1","bytes":1000}"#,
        r#"{"bytes":1000}"#,
        "null",
    ] {
        assert!(rate(absurd).is_err(), "{absurd}");
    }
}
