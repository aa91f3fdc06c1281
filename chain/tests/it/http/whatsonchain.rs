//! WhatsOnChain: a block of three headers, a few transactions, and every way to ask about them.

use sensora_chain::header::{Header, Tip};
use sensora_chain::merkle_path::{MerklePath, parent};
use sensora_chain::sources::service::{Report, Service, ServiceKind, SourceError, Spender, Unspent};
use sensora_chain::sources::whatsonchain::MAX_HEADERS;
use sensora_chain::{BlockHash, OutPoint, Satoshis, Script, Txid};
use serde_json::{Value, json};

use super::server::{Reply, Request, Server};
use super::{block_with, parent_and_child, service};

const TXID: Txid = Txid([7; 32]);

fn headers(count: u32) -> Vec<Header> {
    let mut headers = vec![Header::regtest_genesis()];
    while headers.len() < count as usize {
        let previous = headers[headers.len() - 1].hash();
        headers.push(Header::new(0xe000_0000, previous, [5; 32], 1, 0x207f_ffff, 9));
    }
    headers
}

fn header_json(header: &Header, height: u32) -> Value {
    // As nodes write it: a version with its highest bit set is negative.
    json!({ "hash": header.hash(), "height": height, "version": header.version().cast_signed(),
        "merkleroot": BlockHash(header.merkle_root()), "time": header.time(), "nonce": header.nonce(),
        "bits": format!("{:08x}", header.bits()), "confirmations": 1, "difficulty": 1.5,
        "previousblockhash": if height == 0 { String::new() } else { header.previous().to_string() } })
}

fn chain_info(tip: u32, hash: BlockHash) -> Reply {
    Reply::json(json!({ "chain": "main", "blocks": tip, "headers": tip, "bestblockhash": hash }).to_string())
}

/// A server with these headers, the last of which is its tip.
async fn with_headers(count: u32) -> (Server, Service, Vec<Header>) {
    let headers = headers(count);
    let all = headers.clone();
    let server = Server::start(move |request| {
        let path = request.path();
        if path == "/chain/info" {
            return chain_info(count - 1, all[all.len() - 1].hash());
        }
        let height = path.strip_prefix("/block/").and_then(|path| path.strip_suffix("/header"));
        let height: usize = height.unwrap().parse().unwrap();
        Reply::json(header_json(&all[height], height as u32).to_string())
    })
    .await;
    let service = service(ServiceKind::WhatsOnChain, &server.url);
    (server, service, headers)
}

fn status(fields: Value) -> Reply {
    let mut status = json!({ "txid": TXID });
    status.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Reply::json(json!([status]).to_string())
}

/// A proof for ours in a block of five, with copies written out.
fn proof(block: BlockHash) -> Value {
    let txids = block_with(TXID, 5, 4);
    let pair = |a: usize| parent(&txids[a].0, &txids[a + 1].0);
    let ours = parent(&TXID.0, &TXID.0);
    let nodes = [TXID, Txid(ours), Txid(parent(&pair(0), &pair(2)))];
    json!([{ "index": 4, "txOrId": TXID, "target": block, "nodes": nodes }])
}

/// What a server that answers so says of `TXID`.
async fn report(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Result<Report, SourceError> {
    let server = Server::start(answer).await;
    service(ServiceKind::WhatsOnChain, &server.url).report(&TXID).await
}

#[tokio::test]
async fn headers_are_put_together_up_to_the_tip() {
    let (server, service, all) = with_headers(4).await;
    assert_eq!(service.tip().await, Ok(Tip { height: 3, hash: all[3].hash() }));
    assert_eq!(service.headers(0, 2).await.as_deref(), Ok(&all[..2]));
    assert_eq!(service.headers(2, 100).await.as_deref(), Ok(&all[2..]));
    assert_eq!(service.headers(4, 100).await, Ok(vec![]));
    assert_eq!(service.headers(u32::MAX, 100).await, Ok(vec![]));
    assert!(server.lines().iter().all(|line| !line.contains("/block/4/")));
    let (_server, service, all) = with_headers(40).await;
    assert_eq!(service.headers(1, 1000).await.as_deref(), Ok(&all[1..=MAX_HEADERS]));
}

#[tokio::test]
async fn a_header_that_is_not_the_one_asked_for_is_refused() {
    let all = headers(3);
    for (body, reason) in [
        (header_json(&all[2], 2), "header 1 was asked for"),
        (
            {
                let mut json = header_json(&all[1], 1);
                json["nonce"] = json!(10);
                json
            },
            "has the hash",
        ),
    ] {
        let tip = all[2].hash();
        let server = Server::start(move |request| match request.path() {
            "/chain/info" => chain_info(2, tip),
            _ => Reply::json(body.to_string()),
        })
        .await;
        let error = service(ServiceKind::WhatsOnChain, &server.url).headers(1, 1).await.unwrap_err();
        assert!(matches!(&error, SourceError::Malformed { reason: r, .. } if r.contains(reason)), "{error}");
    }
}

#[tokio::test]
async fn what_was_got_before_the_service_wants_rest_is_kept() {
    let all = headers(5);
    let known = all.clone();
    let server = Server::start(move |request| match request.path() {
        "/chain/info" => chain_info(4, known[4].hash()),
        "/block/1/header" => Reply::json(header_json(&known[1], 1).to_string()),
        _ => Reply::status(429, "").with("retry-after: 5"),
    })
    .await;
    let service = service(ServiceKind::WhatsOnChain, &server.url);
    assert_eq!(service.headers(1, 4).await.as_deref(), Ok(&all[1..2]));
    assert_eq!(service.headers(2, 4).await.unwrap_err().label(), "limited");
}

#[tokio::test]
async fn a_service_of_another_network_is_a_mistake_of_the_configuration() {
    let info = json!({ "chain": "test", "blocks": 1, "bestblockhash": BlockHash([1; 32]) });
    let server = Server::always(Reply::json(info.to_string())).await;
    let error = service(ServiceKind::WhatsOnChain, &server.url).tip().await.unwrap_err();
    assert_eq!(error.label(), "config");
    assert!(error.to_string().contains("\"test\""), "{error}");
}

#[tokio::test]
async fn a_transaction_is_the_one_that_was_asked_for() {
    let [parent, child] = parent_and_child();
    let (id, hex) = (child.tx.txid(), child.tx.to_string());
    let server = Server::start(move |request| match request.path().split('/').nth(2).unwrap().parse() {
        Ok(TXID) => Reply::status(404, "Not Found"),
        _ => Reply::status(200, hex.clone()),
    })
    .await;
    let service = service(ServiceKind::WhatsOnChain, &server.url);
    assert_eq!(service.transaction(&id).await, Ok(Some(child.tx)));
    assert_eq!(service.transaction(&TXID).await, Ok(None));
    let error = service.transaction(&parent.tx.txid()).await.unwrap_err();
    assert!(error.to_string().contains("asked for"), "{error}");
    assert_eq!(server.lines()[0], format!("GET /tx/{id}/hex"));
}

#[tokio::test]
async fn a_transaction_is_unknown_waiting_or_mined() {
    assert_eq!(report(|_| status(json!({ "error": "unknown" }))).await, Ok(Report::Unknown));
    assert_eq!(report(|_| Reply::status(404, "")).await, Ok(Report::Unknown));
    assert_eq!(report(|_| status(json!({}))).await, Ok(Report::Seen));

    let block = BlockHash([6; 32]);
    let mined = json!({ "blockhash": block, "blockheight": 900, "confirmations": 3 });
    let expected = MerklePath::for_block(900, &block_with(TXID, 5, 4), 4).unwrap();
    for starred in [false, true] {
        let (mined, mut proof) = (mined.clone(), proof(block));
        if starred {
            proof[0]["nodes"][0] = json!("*");
            proof[0]["nodes"][1] = json!("*");
        }
        let said = report(move |request| match request.line.as_str() {
            "POST /txs/status" => {
                let body: Value = serde_json::from_slice(&request.body).unwrap();
                assert_eq!(body, json!({ "txids": [TXID] }));
                status(mined.clone())
            }
            _ => Reply::json(proof.to_string()),
        })
        .await;
        assert_eq!(said, Ok(Report::Mined(expected.clone())));
    }

    // No proof yet, or one of a block that has lost.
    for reply in
        [Reply::status(404, ""), Reply::json("null"), Reply::json(proof(BlockHash([9; 32])).to_string())]
    {
        let mined = mined.clone();
        let said = report(move |request| match request.line.as_str() {
            "POST /txs/status" => status(mined.clone()),
            _ => reply.clone(),
        })
        .await;
        assert_eq!(said, Ok(Report::MinedUnproven { height: Some(900) }));
    }
}

#[tokio::test]
async fn the_height_of_a_block_is_looked_up_where_it_is_not_said() {
    let all = headers(3);
    let block = all[2].hash();
    for (header, expected) in [
        (
            header_json(&all[2], 2),
            Report::Mined(MerklePath::for_block(2, &block_with(TXID, 5, 4), 4).unwrap()),
        ),
        (header_json(&all[1], 1), Report::MinedUnproven { height: None }),
    ] {
        let said = report(move |request| match request.path() {
            "/txs/status" => status(json!({ "blockhash": block, "confirmations": 1 })),
            path if path.starts_with("/tx/") => Reply::json(proof(block).to_string()),
            path => {
                assert_eq!(path, format!("/block/{block}/header"));
                Reply::json(header.to_string())
            }
        })
        .await;
        assert_eq!(said, Ok(expected));
    }
}

#[tokio::test]
async fn a_proof_of_something_else_is_malformed() {
    for change in [
        (|proof: &mut Value| proof[0]["txOrId"] = json!(Txid([8; 32]))) as fn(&mut Value),
        |proof| proof[0]["index"] = json!(64),
        |proof| proof[0]["index"] = json!(-1),
        |proof| proof[0]["nodes"][0] = json!("xyz"),
        |proof| proof[0]["nodes"] = json!(vec!["*"; 1000]),
        |proof| proof[0]["target"] = json!("nowhere"),
    ] {
        let block = BlockHash([6; 32]);
        let mut proof = proof(block);
        change(&mut proof);
        let said = report(move |request| match request.path() {
            "/txs/status" => status(json!({ "blockhash": block, "blockheight": 900 })),
            _ => Reply::json(proof.to_string()),
        })
        .await;
        assert_eq!(said.unwrap_err().label(), "malformed");
    }
}

/// Answers questions for a spender: `spent` is what it says of the output, `status` of the spender.
async fn spender(spent: Reply, spender_status: Value) -> (Result<Spender, SourceError>, OutPoint) {
    let family = parent_and_child();
    let outpoint = OutPoint { txid: family[0].tx.txid(), vout: 0 };
    let ids: Vec<_> = family.iter().map(|submission| submission.tx.txid()).collect();
    let hex: Vec<_> = family.iter().map(|submission| submission.tx.to_string()).collect();
    let server = Server::start(move |request| {
        let path = request.path();
        if path.ends_with("/spent") {
            return spent.clone();
        }
        match ids.iter().position(|id| path == format!("/tx/{id}/hex")) {
            Some(at) => Reply::status(200, hex[at].clone()),
            None if path == "/txs/status" => {
                let mut status = json!({ "txid": ids[1] });
                status.as_object_mut().unwrap().extend(spender_status.as_object().unwrap().clone());
                Reply::json(json!([status]).to_string())
            }
            None if path.ends_with("/proof/tsc") => {
                let target = BlockHash([6; 32]);
                Reply::json(
                    json!([{ "index": 0, "txOrId": ids[1], "target": target, "nodes": [] }]).to_string(),
                )
            }
            None => Reply::status(404, ""),
        }
    })
    .await;
    let spender = service(ServiceKind::WhatsOnChain, &server.url).spender(&outpoint).await;
    assert_eq!(server.lines()[0], format!("GET /tx/{}/0/spent", outpoint.txid));
    (spender, outpoint)
}

#[tokio::test]
async fn what_spends_an_output_comes_with_its_path() {
    let [_, child] = parent_and_child();
    let spent =
        |id: Txid, status: &str| Reply::json(json!({ "txid": id, "vin": 0, "status": status }).to_string());
    let (said, _) = spender(spent(child.tx.txid(), "unconfirmed"), json!({})).await;
    assert_eq!(said, Ok(Spender::SpentBy { tx: child.tx.clone(), path: None }));

    let mined = json!({ "blockhash": BlockHash([6; 32]), "blockheight": 901 });
    let (said, _) = spender(spent(child.tx.txid(), "confirmed"), mined).await;
    let path = Some(MerklePath::for_block(901, &[child.tx.txid()], 0).unwrap());
    assert_eq!(said, Ok(Spender::SpentBy { tx: child.tx.clone(), path }));

    // It is not said that the output is unspent, only that nothing is known of a spender.
    let (said, _) = spender(Reply::status(404, ""), json!({})).await;
    assert_eq!(said, Ok(Spender::Unspent));
    let server = Server::always(Reply::status(404, "")).await;
    let nowhere =
        service(ServiceKind::WhatsOnChain, &server.url).spender(&OutPoint { txid: TXID, vout: 0 }).await;
    assert_eq!(nowhere, Ok(Spender::Unknown));

    // The transaction that it names spends something else.
    let (said, outpoint) = spender(spent(parent_and_child()[0].tx.txid(), "confirmed"), json!({})).await;
    assert!(said.unwrap_err().to_string().contains(&outpoint.to_string()));
}

#[tokio::test]
async fn an_output_beyond_the_last_is_unknown() {
    let [parent, _] = parent_and_child();
    let hex = parent.tx.to_string();
    let server = Server::start(move |request| match request.path().ends_with("/hex") {
        true => Reply::status(200, hex.clone()),
        false => Reply::status(404, ""),
    })
    .await;
    let outpoint = OutPoint { txid: parent.tx.txid(), vout: 1 };
    assert_eq!(
        service(ServiceKind::WhatsOnChain, &server.url).spender(&outpoint).await,
        Ok(Spender::Unknown)
    );
}

#[tokio::test]
async fn unspent_outputs_come_from_all_pages() {
    let script = Script::new(hex::decode("76a914d0a69b53d9a1e229b51a60cc24814f8750b7446188ac").unwrap());
    let hash = "b3005d46af31c4b5675b73c17579b7bd366dfe10635b7b43ac111aea5226efb6";
    let entry = |pos: u32, height: u32, status: &str| json!({ "height": height, "tx_pos": pos, "tx_hash": TXID, "value": 100, "isSpentInMempoolTx": false, "status": status });
    let first =
        json!({ "script": hash, "result": [entry(0, 5, "confirmed")], "error": "", "nextPageToken": "a&b" });
    let second =
        json!({ "script": hash, "result": [entry(1, 0, "unconfirmed")], "error": "", "nextPageToken": "" });
    let server = Server::start(move |request| {
        Reply::json(if request.path().contains('?') { second.to_string() } else { first.to_string() })
    })
    .await;
    let unspent = |vout, height| Unspent {
        outpoint: OutPoint { txid: TXID, vout },
        value: Satoshis::from_sat(100),
        height,
    };
    let service = service(ServiceKind::WhatsOnChain, &server.url);
    assert_eq!(service.unspent(&script).await, Ok(vec![unspent(0, Some(5)), unspent(1, None)]));
    let path = format!("GET /script/{hash}/unspent/all");
    assert_eq!(server.lines(), [path.clone(), format!("{path}?token=a%26b")]);

    let server = Server::always(Reply::status(404, "")).await;
    assert_eq!(super::service(ServiceKind::WhatsOnChain, &server.url).unspent(&script).await, Ok(vec![]));
}

#[tokio::test]
async fn pages_without_end_are_not_followed() {
    let page = json!({ "result": [], "error": "", "nextPageToken": "again" }).to_string();
    let server = Server::always(Reply::json(page)).await;
    let error =
        service(ServiceKind::WhatsOnChain, &server.url).unspent(&Script::default()).await.unwrap_err();
    assert_eq!(error.label(), "too_large");
    assert_eq!(server.lines().len(), 20);
}

#[tokio::test]
async fn whether_a_script_was_ever_used() {
    let script = Script::new(vec![0x51]);
    for used in [true, false] {
        let server = Server::always(Reply::json(used.to_string())).await;
        assert_eq!(service(ServiceKind::WhatsOnChain, &server.url).is_used(&script).await, Ok(used));
        assert!(server.lines()[0].ends_with("/used"));
    }
    let server = Server::always(Reply::status(404, "")).await;
    assert_eq!(service(ServiceKind::WhatsOnChain, &server.url).is_used(&script).await, Ok(false));
}

#[tokio::test]
async fn transactions_are_sent_raw_and_taken_as_seen() {
    let family = parent_and_child();
    let server = Server::start(|request| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let tx =
            sensora_chain::Transaction::from_bytes(&hex::decode(body["txhex"].as_str().unwrap()).unwrap());
        Reply::status(200, format!("\"{}\"\n", tx.unwrap().txid()))
    })
    .await;
    assert_eq!(service(ServiceKind::WhatsOnChain, &server.url).submit(&family).await, Ok(Report::Seen));
    assert_eq!(server.lines(), ["POST /tx/raw", "POST /tx/raw"]);

    let server = Server::always(Reply::status(200, format!("\"{TXID}\""))).await;
    let error = service(ServiceKind::WhatsOnChain, &server.url).submit(&family).await.unwrap_err();
    assert_eq!(error.label(), "malformed", "another id");
}

#[tokio::test]
async fn the_words_of_its_node_become_reports() {
    let [_, child] = parent_and_child();
    let txid = child.tx.txid();
    let alone = [child];
    for (words, expected) in [
        ("unexpected response code 500: 257: txn-already-known", Ok(Report::Seen)),
        ("unexpected response code 500: Transaction already in the mempool", Ok(Report::Seen)),
        (
            "unexpected response code 500: 258: txn-mempool-conflict",
            Ok(Report::DoubleSpent { competing: vec![] }),
        ),
        (
            "66: mempool min fee not met",
            Ok(Report::Rejected { txid, code: 465, reason: "66: mempool min fee not met".into() }),
        ),
        ("mempool full", Err("server")),
    ] {
        for status in [400, 500] {
            let server = Server::always(Reply::status(status, words)).await;
            let said = service(ServiceKind::WhatsOnChain, &server.url).submit(&alone).await;
            assert_eq!(said.map_err(|error| error.label()), expected, "{words}");
        }
    }
}

/// A node lacks what a transaction spends before its parent comes, and again after it was mined itself.
#[tokio::test]
async fn missing_inputs_are_looked_into() {
    let [_, child] = parent_and_child();
    let txid = child.tx.txid();
    let alone = [child];
    for (standing, expected) in [
        (json!([{ "txid": txid, "error": "unknown" }]), Report::Orphan),
        (
            json!([{ "txid": txid, "blockhash": BlockHash([6; 32]), "blockheight": 5 }]),
            Report::MinedUnproven { height: Some(5) },
        ),
    ] {
        let server = Server::start(move |request| match request.path() {
            "/tx/raw" => Reply::status(400, "unexpected response code 500: Missing inputs"),
            "/txs/status" => Reply::json(standing.to_string()),
            _ => Reply::status(404, ""),
        })
        .await;
        let said = service(ServiceKind::WhatsOnChain, &server.url).submit(&alone).await;
        assert_eq!(said, Ok(expected));
    }
}
