//! ARC and Arcade: what is sent to them, and what their answers are taken for.

use sensora_chain::merkle_path::{MerklePath, merkle_root};
use sensora_chain::sources::service::{Report, ServiceKind, SourceError, Submission};
use sensora_chain::{FeeRate, Transaction, Txid};
use serde_json::{Value, json};

use super::server::{Reply, Request, Server};
use super::{block_with, parent_and_child, service};
use crate::support::{text, vectors};

const TXID: Txid = Txid([7; 32]);

/// The id of the transaction in a request with Extended Format.
fn sent_id(request: &Request) -> Txid {
    Transaction::from_extended(&request.body).unwrap().0.txid()
}

fn body(txid: &Txid, status: &str) -> Value {
    json!({ "txid": txid, "status": 200, "txStatus": status, "extraInfo": "", "blockHash": "",
        "blockHeight": 0, "merklePath": "", "competingTxs": null, "title": "OK" })
}

/// A server that takes everything with this status.
async fn taking(status: &'static str) -> Server {
    Server::start(move |request| Reply::json(body(&sent_id(request), status).to_string())).await
}

/// What a question for `TXID` comes to when the service answers with `fields` in its usual answer.
async fn report_with(fields: Value) -> Result<Report, SourceError> {
    let mut answer = body(&TXID, "SEEN_ON_NETWORK");
    answer.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let server = Server::always(Reply::json(answer.to_string())).await;
    service(ServiceKind::Arc, &server.url).report(&TXID).await
}

#[tokio::test]
async fn transactions_go_out_in_extended_format_after_their_parents() {
    for (kind, path, waits) in [(ServiceKind::Arc, "/v1/tx", true), (ServiceKind::Arcade, "/tx", false)] {
        let server = taking("SEEN_ON_NETWORK").await;
        let family = parent_and_child();
        assert_eq!(service(kind, &server.url).submit(&family).await, Ok(Report::Seen));
        let seen = server.seen();
        assert_eq!(seen.len(), 2);
        for (request, Submission { tx, spent }) in seen.iter().zip(&family) {
            assert_eq!(request.line, format!("POST {path}"));
            assert_eq!(request.header("content-type").as_deref(), Some("application/octet-stream"));
            assert_eq!(Transaction::from_extended(&request.body).unwrap(), (tx.clone(), spent.clone()));
            assert_eq!(request.header("x-maxtimeout").is_some(), waits);
        }
    }
    let server = taking("RECEIVED").await;
    // With the version in the address, or without.
    let url = format!("{}/v1/", server.url);
    assert_eq!(service(ServiceKind::Arc, &url).submit(&parent_and_child()).await, Ok(Report::Pending));
    assert_eq!(server.lines(), ["POST /v1/tx", "POST /v1/tx"]);
    assert_eq!(service(ServiceKind::Arc, &url).submit(&[]).await, Ok(Report::Unknown));
}

#[tokio::test]
async fn arcade_answers_202_and_repeats_what_it_knows() {
    let server = Server::start(|request| {
        let answer = json!({ "txid": sent_id(request), "status": 202, "txStatus": "SEEN_MULTIPLE_NODES" });
        Reply::status(202, answer.to_string())
    })
    .await;
    let family = parent_and_child();
    let service = service(ServiceKind::Arcade, &server.url);
    for _ in 0..2 {
        assert_eq!(service.submit(&family).await, Ok(Report::Seen));
    }
}

#[tokio::test]
async fn a_refused_parent_is_named_and_its_child_not_sent() {
    let family = parent_and_child();
    let parent = family[0].tx.txid();
    for (reply, code) in [
        (Reply::status(465, r#"{"status":465,"title":"Fee too low","detail":"Fees are too low"}"#), 465),
        (Reply::status(473, r#"{"status":473,"title":"Cumulative fee too low"}"#), 473),
        (Reply::status(475, r#"{"status":475}"#), 475),
        (
            Reply::status(
                400,
                r#"{"error":"transaction failed validation","reason":"not final","status":476}"#,
            ),
            476,
        ),
        (Reply::status(461, "<html>"), 461),
        (Reply::json(body(&parent, "REJECTED").to_string()), 467),
        // As a double spend it would be taken for a report about the child.
        (Reply::status(466, r#"{"status":466,"title":"Conflicting tx found"}"#), 466),
        (Reply::json(body(&parent, "DOUBLE_SPEND_ATTEMPTED").to_string()), 466),
    ] {
        let server = Server::always(reply).await;
        match service(ServiceKind::Arc, &server.url).submit(&family).await {
            Ok(Report::Rejected { txid, code: found, .. }) => assert_eq!((txid, found), (parent, code)),
            other => panic!("{code}: {other:?}"),
        }
        assert_eq!(server.seen().len(), 1);
    }
    let server = taking("SEEN_IN_ORPHAN_MEMPOOL").await;
    assert_eq!(service(ServiceKind::Arc, &server.url).submit(&family).await, Ok(Report::Orphan));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_parent_that_is_mined_already_holds_nothing_up() {
    let family = parent_and_child();
    let (parent, child, rival) = (family[0].tx.txid(), family[1].tx.txid(), Txid([4; 32]));
    let server = Server::start(move |request| {
        let id = sent_id(request);
        let mut answer = body(&id, if id == parent { "MINED" } else { "DOUBLE_SPEND_ATTEMPTED" });
        answer["competingTxs"] = json!([rival, child]);
        Reply::json(answer.to_string())
    })
    .await;
    let report = service(ServiceKind::Arc, &server.url).submit(&family).await;
    assert_eq!(report, Ok(Report::DoubleSpent { competing: vec![rival] }));
}

#[tokio::test]
async fn without_what_it_spends_a_transaction_is_not_sent() {
    let server = taking("SEEN_ON_NETWORK").await;
    let [mut parent, _] = parent_and_child();
    parent.spent.clear();
    let txid = parent.tx.txid();
    match service(ServiceKind::Arc, &server.url).submit(&[parent]).await {
        Ok(Report::Rejected { txid: found, code: 460, .. }) => assert_eq!(found, txid),
        other => panic!("{other:?}"),
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn an_answer_about_another_transaction_is_none() {
    let other = Txid([8; 32]);
    let server = Server::always(Reply::json(body(&other, "MINED").to_string())).await;
    let service = service(ServiceKind::Arc, &server.url);
    let submitted = service.submit(&parent_and_child()).await;
    for error in [service.report(&TXID).await.unwrap_err(), submitted.unwrap_err()] {
        assert!(
            matches!(&error, SourceError::Malformed { reason, .. } if reason.contains("asked about")),
            "{error}"
        );
    }
    let refusal = json!({ "txid": other, "status": 465 }).to_string();
    let server = Server::always(Reply::status(465, refusal)).await;
    let refused = super::service(ServiceKind::Arc, &server.url).submit(&parent_and_child()).await;
    assert_eq!(refused.unwrap_err().label(), "malformed");
}

#[tokio::test]
async fn a_path_comes_out_for_our_transaction_alone() {
    let txids = block_with(TXID, 9, 4);
    let mut bump = MerklePath::for_block(1000, &txids, 4).unwrap();
    bump.merge(&MerklePath::for_block(1000, &txids, 0).unwrap()).unwrap();
    let report =
        report_with(json!({ "txStatus": "MINED", "merklePath": hex::encode(bump.to_bytes()) })).await;
    let Ok(Report::Mined(path)) = report else { panic!("{report:?}") };
    assert_eq!(path, MerklePath::for_block(1000, &txids, 4).unwrap());

    // A path for others only.
    let foreign = MerklePath::for_block(1000, &txids, 0).unwrap();
    let report =
        report_with(json!({ "txStatus": "MINED", "merklePath": hex::encode(foreign.to_bytes()) })).await;
    assert_eq!(report.unwrap_err().label(), "malformed");

    // A path of a block that never was: nothing here can know, and the caller compares the root.
    let mut lie = block_with(TXID, 9, 4);
    lie[5] = Txid([0xee; 32]);
    let bump = MerklePath::for_block(1000, &lie, 4).unwrap();
    let report =
        report_with(json!({ "txStatus": "MINED", "merklePath": hex::encode(bump.to_bytes()) })).await;
    let Ok(Report::Mined(path)) = report else { panic!("{report:?}") };
    assert_ne!(path.root(), &merkle_root(&txids));
}

#[tokio::test]
async fn mined_without_a_path_is_said_so() {
    let report =
        report_with(json!({ "txStatus": "MINED", "blockHeight": 850_000, "merklePath": null })).await;
    assert_eq!(report, Ok(Report::MinedUnproven { height: Some(850_000) }));
    let report = report_with(json!({ "txStatus": "MINED_IN_STALE_BLOCK", "blockHeight": 850_000 })).await;
    assert_eq!(report, Ok(Report::Pending));
}

#[tokio::test]
async fn the_policy_becomes_a_rate_for_a_kilobyte() {
    let policy = |fee: Value| {
        json!({ "policy": { "maxscriptsizepolicy": 100_000_000, "maxtxsigopscountspolicy": 4_294_967_295u32,
            "maxtxsizepolicy": 100_000_000, "miningFee": fee, "standardFormatSupported": true },
            "timestamp": "2026-11-25T00:00:00Z" })
    };
    for (kind, line) in [(ServiceKind::Arc, "GET /v1/policy"), (ServiceKind::Arcade, "GET /policy")] {
        let answer = policy(json!({ "satoshis": 100, "bytes": 1000 })).to_string();
        let server = Server::always(Reply::json(answer)).await;
        let quote = service(kind, &server.url).fee_quote().await.unwrap();
        assert_eq!((quote.rate, quote.max_tx_size), (FeeRate::new(100), Some(100_000_000)));
        assert_eq!(server.lines(), [line]);
    }
    for fee in [json!({ "satoshis": 1, "bytes": 0 }), json!({ "satoshis": -1, "bytes": 1000 }), json!(null)] {
        let server = Server::always(Reply::json(policy(fee).to_string())).await;
        let error = service(ServiceKind::Arc, &server.url).fee_quote().await.unwrap_err();
        assert_eq!(error.label(), "malformed");
    }
}

/// The published answers of a broadcaster, each to a question of ours.
#[tokio::test]
async fn the_published_answers_are_understood() {
    let mut checked = 0;
    for file in ["arc-submit.json", "merkle-path-validation.json"] {
        let Some(file) = vectors(file) else { return };
        for row in file["vectors"].as_array().unwrap() {
            let (input, expected) = (&row["input"], &row["expected"]);
            let answer = &expected["body"];
            let path = input["path"].as_str().unwrap_or_default();
            if !path.starts_with("/v1/tx") || path == "/v1/txs" || answer.is_null() {
                continue;
            }
            let status = u16::try_from(expected["status"].as_u64().unwrap()).unwrap();
            let txid: Txid = answer["txid"].as_str().map_or(TXID, |id| id.parse().unwrap());
            let server = Server::always(Reply::status(status, answer.to_string())).await;
            let report = service(ServiceKind::Arc, &server.url).report(&txid).await;
            let name = text(&row["id"]);
            match (status, answer["txStatus"].as_str()) {
                (404, _) => assert_eq!(report, Ok(Report::Unknown), "{name}"),
                (401, _) => assert_eq!(report.unwrap_err().label(), "unauthorized", "{name}"),
                (422, _) => assert_eq!(report.unwrap_err().label(), "server", "{name}"),
                (429, _) => assert_eq!(report.unwrap_err().label(), "limited", "{name}"),
                (200, Some("MINED")) => {
                    assert_eq!(report, Ok(Report::MinedUnproven { height: None }), "{name}");
                }
                (200, Some("ACCEPTED_BY_NETWORK")) => assert_eq!(report, Ok(Report::Seen), "{name}"),
                (200, Some("SENT_TO_NETWORK" | "STORED" | "MINED_IN_STALE_BLOCK")) => {
                    assert_eq!(report, Ok(Report::Pending), "{name}");
                }
                (200, Some("SEEN_IN_ORPHAN_MEMPOOL")) => assert_eq!(report, Ok(Report::Orphan), "{name}"),
                (200, Some("DOUBLE_SPEND_ATTEMPTED")) => {
                    let competing = vec![text(&answer["competingTxs"][0]).parse().unwrap()];
                    assert_eq!(report, Ok(Report::DoubleSpent { competing }), "{name}");
                }
                (200, Some("REJECTED")) => {
                    let reason = text(&answer["extraInfo"]).to_owned();
                    assert_eq!(report, Ok(Report::Rejected { txid, code: 467, reason }), "{name}");
                }
                other => panic!("{name}: {other:?}"),
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 14);
}
