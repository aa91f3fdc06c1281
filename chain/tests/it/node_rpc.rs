//! The node client against a node that misbehaves on purpose: each fault has its name, nothing false is believed, and
//! nothing is reserved on its word.

use std::sync::Arc;
use std::time::Duration;

use sensora_chain::encode::write_varint;
use sensora_chain::header::Header;
use sensora_chain::merkle_path::merkle_root;
use sensora_chain::sources::service::{
    Need, Report, Service, ServiceConfig, ServiceKind, SourceError, Spender, Submission,
};
use sensora_chain::{BlockHash, Network, OutPoint, Script, Transaction, TxIn, TxOut, Txid};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::dev_chain::sat;

/// What the fake node does with one question.
enum Act {
    Result(Value),
    Fault(i64, &'static str),
    /// Leaves it out of the batch.
    Nothing,
}

type Answers = Arc<dyn Fn(&str, &Value) -> Act + Send + Sync>;

/// Reads one request; the answer is its body.
async fn request(stream: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    loop {
        let mut some = [0; 4096];
        let read = stream.read(&mut some).await.unwrap_or(0);
        heard.extend(&some[..read]);
        let text = String::from_utf8_lossy(&heard).to_ascii_lowercase();
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
            if heard.len() >= head.len() + 4 + length {
                return heard.split_off(head.len() + 4);
            }
        }
        if read == 0 {
            return Vec::new();
        }
    }
}

fn service(url: String, timeout: Duration) -> Service {
    let config = ServiceConfig {
        name: "liar".to_owned(),
        kind: ServiceKind::NodeRpc,
        network: Network::Regtest,
        url,
        key: None,
        requests_per_second: None,
        zmq: None,
        timeout,
    };
    Service::new(config).unwrap()
}

/// A server that says `raw` to every connection once it has heard the request, and then `more` again and again until
/// the other side has enough.
async fn raw(raw: &'static str, more: &'static str) -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://u:hidden@{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                request(&mut stream).await;
                let mut open = stream.write_all(raw.as_bytes()).await.is_ok();
                while open && !more.is_empty() {
                    open = stream.write_all(more.as_bytes()).await.is_ok();
                }
                let _ = stream.shutdown().await;
            });
        }
    });
    service(url, Duration::from_secs(20))
}

/// A node on regtest that answers as told.
async fn node(answers: impl Fn(&str, &Value) -> Act + Send + Sync + 'static) -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://u:hidden@{}", listener.local_addr().unwrap());
    let answers: Answers = Arc::new(answers);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answers = Arc::clone(&answers);
            tokio::spawn(async move {
                let question: Value = serde_json::from_slice(&request(&mut stream).await).unwrap();
                let one = |question: &Value| {
                    let (method, id) = (question["method"].as_str().unwrap(), &question["id"]);
                    match (method, answers(method, &question["params"])) {
                        (_, Act::Result(result)) => {
                            Some(json!({ "result": result, "error": null, "id": id }))
                        }
                        ("getblockchaininfo", Act::Nothing) => {
                            Some(json!({ "result": { "chain": "regtest" }, "error": null, "id": id }))
                        }
                        (_, Act::Fault(code, message)) => {
                            let error = json!({ "code": code, "message": message });
                            Some(json!({ "result": null, "error": error, "id": id }))
                        }
                        (_, Act::Nothing) => None,
                    }
                };
                let body = match question.as_array() {
                    Some(batch) => Value::Array(batch.iter().filter_map(one).collect()),
                    None => one(&question).unwrap_or_default(),
                };
                let failed = body.get("error").is_some_and(|error| !error.is_null());
                let status = if failed { "500 Internal Server Error" } else { "200 OK" };
                let body = body.to_string();
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                // Who has enough closes early.
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    service(url, Duration::from_secs(20))
}

fn malformed<T: std::fmt::Debug>(answer: Result<T, SourceError>, names: &str) {
    match answer {
        Err(SourceError::Malformed { service, reason }) => {
            assert_eq!(service, "liar");
            assert!(reason.contains(names) && reason.len() < 600, "{reason}");
        }
        other => panic!("{names}: {other:?}"),
    }
}

fn tx(n: u8) -> Transaction {
    let spent = TxIn::new(OutPoint { txid: Txid([n; 32]), vout: 0 });
    Transaction::new(vec![spent], vec![TxOut { value: sat(1), locking: Script::p2pkh(&[n; 20]) }])
}

/// What a node says that has never heard of a transaction.
fn nowhere(method: &str) -> Act {
    match method {
        "getmempoolentry" => Act::Fault(-5, "Transaction not in mempool"),
        "getmerkleproof2" => Act::Fault(-5, "Transaction(s) not found in provided block"),
        "getrawtransaction" => Act::Fault(-5, "No such mempool or blockchain transaction."),
        "getrawnonfinalmempool" => Act::Result(json!([])),
        _ => Act::Nothing,
    }
}

fn block(root: [u8; 32], txs: &[Transaction]) -> (BlockHash, String) {
    let header = Header::new(1, BlockHash([0; 32]), root, 1, 0x207f_ffff, 0);
    let mut bytes = header.0.to_vec();
    write_varint(&mut bytes, txs.len() as u64);
    txs.iter().for_each(|tx| tx.write(&mut bytes));
    (header.hash(), hex::encode(bytes))
}

#[tokio::test]
async fn broken_http_has_a_name_each() {
    let endless = raw("HTTP/1.1 200 OK\r\n\r\n[", "                                        ").await;
    assert_eq!(endless.tip().await, Err(SourceError::TooLarge { service: "liar".into(), max: 65_536 }));
    let chunked = raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "8\r\n        \r\n").await;
    assert!(matches!(chunked.tip().await, Err(SourceError::TooLarge { .. })));
    let promise = raw("HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n{", "").await;
    assert!(matches!(promise.tip().await, Err(SourceError::TooLarge { .. })));
    let cut = raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"result\":", "").await;
    assert!(matches!(cut.tip().await, Err(SourceError::Unreachable { .. })));
    let silent = raw("", "").await;
    assert!(matches!(silent.tip().await, Err(SourceError::Unreachable { .. })));
    malformed(raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "").await.tip().await, "expected");
    malformed(raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "").await.tip().await, "nothing");

    let full = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 25\r\n\r\nWork queue depth exceeded";
    for busy in [full, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"] {
        assert!(matches!(raw(busy, "").await.tip().await, Err(SourceError::Limited { .. })));
    }
    let html = raw("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 8\r\n\r\n<h1>\nno\n", "").await;
    let reason = "<h1> no".to_owned();
    assert_eq!(html.tip().await, Err(SourceError::Server { service: "liar".into(), status: 502, reason }));
    // Whoever redirects would get the password.
    let moved = "HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let error = raw(moved, "").await.tip().await.unwrap_err();
    assert!(matches!(error, SourceError::Server { status: 307, .. }), "{error}");
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let head: &'static str = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").leak();
        let error = raw(head, "").await.tip().await.unwrap_err();
        assert!(matches!(error, SourceError::Unauthorized { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("hidden"));
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_is_left_at_the_end_of_the_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://u:hidden@{}", listener.local_addr().unwrap());
    let after = Duration::from_secs(7);
    let silent = service(url, after);
    let held = async {
        std::future::pending::<()>().await;
        drop(listener);
    };
    let timeout = SourceError::Timeout { service: "liar".into(), after };
    tokio::select! {
        answer = silent.tip() => assert_eq!(answer, Err(timeout)),
        () = held => {}
    }
    assert!(!format!("{silent:?}").contains("hidden"));
}

#[tokio::test]
async fn a_node_that_starts_or_lacks_a_method_is_named() {
    let starting = node(|_, _| Act::Fault(-28, "Loading block index...")).await;
    match starting.tip().await {
        Err(SourceError::Unreachable { reason, .. }) => assert!(reason.contains("Loading block index")),
        other => panic!("{other:?}"),
    }
    let old = node(|method, _| match method {
        "getsettings" => Act::Fault(-32601, "Method not found"),
        _ => Act::Nothing,
    })
    .await;
    assert!(matches!(old.fee_quote().await, Err(SourceError::Unsupported { need: Need::Fees, .. })));
    for (fee, ok) in [(json!(-1.0), false), (json!(1e300), false), (json!("1"), false), (json!(1e-8), true)] {
        let settings = json!({ "minminingtxfee": fee });
        let quoting = node(move |method, _| match method {
            "getsettings" => Act::Result(settings.clone()),
            _ => Act::Nothing,
        });
        assert_eq!(quoting.await.fee_quote().await.is_ok(), ok);
    }
    let other = node(|_, _| Act::Result(json!({ "chain": "x\n".repeat(500) }))).await;
    match other.tip().await {
        Err(SourceError::Config { reason, .. }) => {
            assert!(reason.contains("network regtest") && !reason.contains('\n') && reason.len() < 500);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn other_transactions_than_were_asked_for_are_not_believed() {
    let other = node(|method, _| match method {
        "getrawtransaction" => Act::Result(json!(tx(2).to_string())),
        _ => Act::Nothing,
    })
    .await;
    malformed(other.transaction(&tx(1).txid()).await, "asked for transaction");
    assert_eq!(other.transaction(&tx(2).txid()).await.unwrap(), Some(tx(2)));
    for bytes in ["00", "zz", "0100000001", &format!("{}00", tx(1))] {
        let bytes = bytes.to_owned();
        let broken = node(move |method, _| match method {
            "getrawtransaction" => Act::Result(json!(bytes)),
            _ => Act::Nothing,
        });
        malformed(broken.await.transaction(&tx(1).txid()).await, "");
    }
    // A transaction of the mempool that spends something else is no spender.
    let pool = node(|method, params| match method {
        "gettxout" => Act::Result(Value::Null),
        "getrawmempool" => Act::Result(json!([tx(2).txid()])),
        "getrawtransaction" if *params == json!([tx(2).txid()]) => Act::Result(json!(tx(2).to_string())),
        "getbestblockhash" => Act::Result(json!(block([0; 32], &[]).0)),
        "getblockheader" => {
            Act::Result(json!({ "height": 0, "confirmations": 1, "merkleroot": Txid([0; 32]) }))
        }
        "getblock" => Act::Result(json!(block([0; 32], &[]).1)),
        _ => Act::Nothing,
    })
    .await;
    let spent = OutPoint { txid: Txid([2; 32]), vout: 0 };
    assert_eq!(pool.spender(&spent).await.unwrap(), Spender::SpentBy { tx: tx(2), path: None });
    let unspent = OutPoint { txid: Txid([2; 32]), vout: 1 };
    assert_eq!(pool.spender(&unspent).await.unwrap(), Spender::Unknown);
}

#[tokio::test]
async fn blocks_have_the_hash_and_root_that_they_are_asked_for() {
    let txs = [tx(1), tx(2)];
    let ids: Vec<Txid> = txs.iter().map(Transaction::txid).collect();
    let (hash, good) = block(merkle_root(&ids), &txs);
    let (other_hash, other) = block([9; 32], &txs);
    // With the last one written twice the root is the same.
    let odd = [tx(1), tx(2), tx(3)];
    let odd_ids: Vec<Txid> = odd.iter().map(Transaction::txid).collect();
    let (twice_hash, twice) = block(merkle_root(&odd_ids), &[tx(1), tx(2), tx(3), tx(3)]);
    let greedy = format!("{}feffffff7f", &good[..160]);
    let at = |hash: BlockHash, block: String| {
        node(move |method, _| match method {
            "getblockhash" => Act::Result(json!(hash)),
            "getblock" => Act::Result(json!(block)),
            _ => Act::Nothing,
        })
    };
    let read = at(hash, good.clone()).await.block(1).await.unwrap().unwrap();
    assert_eq!((read.header.hash(), read.txs.as_slice()), (hash, &txs[..]));
    malformed(at(other_hash, good.clone()).await.block(1).await, "it has the header of");
    malformed(at(other_hash, other).await.block(1).await, "root");
    malformed(at(twice_hash, twice).await.block(1).await, "twice");
    malformed(at(hash, greedy).await.block(1).await, "transactions are announced");
    malformed(at(hash, good[..good.len() - 2].to_owned()).await.block(1).await, "the bytes end");
    malformed(at(hash, format!("{good}00")).await.block(1).await, "follow after the end");
}

#[tokio::test]
async fn proofs_lead_to_the_root_of_their_block() {
    let ids = [tx(1).txid(), tx(2).txid()];
    let (txid, root) = (ids[0], Txid(merkle_root(&ids)));
    let target = BlockHash([5; 32]);
    let with = |proof: Value, confirmations: i64| {
        node(move |method, _| match method {
            "getmempoolentry" => Act::Fault(-5, "Transaction not in mempool"),
            "getmerkleproof2" => Act::Result(proof.clone()),
            "getrawnonfinalmempool" => Act::Result(json!([])),
            "getrawtransaction" => Act::Fault(-5, "No such mempool or blockchain transaction."),
            "getblockheader" => {
                Act::Result(json!({ "height": 9, "confirmations": confirmations, "merkleroot": root }))
            }
            _ => Act::Nothing,
        })
    };
    let proof = |index: u64, txid: Txid, nodes: Vec<String>| json!({ "index": index, "txOrId": txid, "target": target, "nodes": nodes });
    let beside = vec![ids[1].to_string()];
    match with(proof(0, txid, beside.clone()), 3).await.report(&txid).await.unwrap() {
        Report::Mined(path) => assert_eq!((path.block_height(), path.root_for(&txid)), (9, Some(root.0))),
        other => panic!("{other:?}"),
    }
    // On a block that left the chain it is worth nothing.
    let stale = with(proof(0, txid, beside.clone()), -1).await;
    assert_eq!(stale.report(&txid).await.unwrap(), Report::Unknown);
    for lie in [
        proof(1, txid, beside.clone()),
        proof(7, txid, beside.clone()),
        proof(0, ids[1], beside.clone()),
        proof(0, txid, vec!["*".into()]),
        proof(0, txid, Vec::new()),
        proof(0, txid, vec!["nonsense".into()]),
        proof(0, txid, vec!["*".into(); 65]),
        proof(u64::MAX, txid, vec![ids[1].to_string(); 64]),
    ] {
        let answer = with(lie, 3).await.report(&txid).await;
        assert!(matches!(answer, Err(SourceError::Malformed { .. })), "{answer:?}");
    }
}

#[tokio::test]
async fn a_batch_has_every_answer_and_headers_have_eighty_bytes() {
    let header = Header::regtest_genesis();
    let with = |header: Value, leave_out: bool| {
        node(move |method, params| match method {
            "getblockhash" if leave_out && params[0] == json!(6) => Act::Nothing,
            "getblockhash" if params[0].as_u64() > Some(7) => Act::Fault(-8, "Block height out of range"),
            "getblockhash" => Act::Result(json!(BlockHash([1; 32]))),
            "getblockheader" => Act::Result(header.clone()),
            _ => Act::Nothing,
        })
    };
    assert_eq!(with(json!(header), false).await.headers(5, 100).await.unwrap(), [header; 3]);
    malformed(with(json!(header), true).await.headers(5, 100).await, "not every getblockhash");
    let short = hex::encode(&header.0[..79]);
    for wrong in [json!(short), json!(7), Value::Null, json!({})] {
        malformed(with(wrong, false).await.headers(5, 100).await, "getblockheader");
    }
}

#[tokio::test]
async fn an_answer_full_of_strangers_transactions_is_asked_for_in_another_form() {
    let answering = node(|method, _| match method {
        "sendrawtransactions" => {
            let huge = "00".repeat(3_000_000);
            let collided = json!([{ "txid": tx(9).txid(), "size": 3_000_000, "hex": huge }]);
            let invalid = json!({
                "txid": tx(1).txid(), "reject_code": 258, "reject_reason": "txn-mempool-conflict",
                "collidedWith": collided,
            });
            Act::Result(json!({ "invalid": [invalid] }))
        }
        "sendrawtransaction" => Act::Fault(-26, "258: txn-mempool-conflict"),
        other => nowhere(other),
    })
    .await;
    let sent = [Submission { tx: tx(1), spent: Vec::new() }];
    let double = Report::DoubleSpent { competing: Vec::new() };
    assert_eq!(answering.submit(&sent).await.unwrap(), double);
}

/// A node that checks a transaction calls the same one, sent by somebody else meanwhile, a conflict: seen on a real one.
#[tokio::test]
async fn a_transaction_that_collides_with_itself_is_no_double_spend() {
    let sent = [Submission { tx: tx(1), spent: Vec::new() }];
    let colliding = |with: Vec<u8>, waits: bool| {
        node(move |method, params| match method {
            "sendrawtransactions" => {
                let with: Vec<_> = with.iter().map(|n| json!({ "txid": tx(*n).txid() })).collect();
                let invalid = json!({
                    "txid": tx(1).txid(), "reject_code": 258, "reject_reason": "txn-mempool-conflict", "collidedWith": with,
                });
                Act::Result(json!({ "invalid": [invalid] }))
            }
            "getmempoolentry" if waits && *params == json!([tx(1).txid()]) => Act::Result(json!({})),
            other => nowhere(other),
        })
    };
    for with in [vec![1], vec![]] {
        let taken = colliding(with, true).await.submit(&sent).await;
        assert_eq!(taken.unwrap(), Report::Seen, "the other one was this one");
    }
    match colliding(vec![1], false).await.submit(&sent).await {
        Err(SourceError::Server { status: -26, reason, .. }) => assert_eq!(reason, "txn-mempool-conflict"),
        other => panic!("{other:?}"),
    }
    let other = Report::DoubleSpent { competing: vec![tx(2).txid()] };
    assert_eq!(colliding(vec![1, 2], false).await.submit(&sent).await.unwrap(), other);
    let unnamed = Report::DoubleSpent { competing: Vec::new() };
    assert_eq!(colliding(vec![], false).await.submit(&sent).await.unwrap(), unnamed);
}

#[tokio::test]
async fn a_node_that_takes_one_at_a_time_is_sent_one_at_a_time() {
    let one = node(|method, params| match method {
        "sendrawtransactions" => Act::Fault(-32601, "Method not found"),
        "sendrawtransaction" if *params == json!([tx(1).to_string()]) => {
            Act::Fault(-27, "Transaction already in the mempool")
        }
        "sendrawtransaction" if *params == json!([tx(2).to_string()]) => Act::Result(json!(tx(2).txid())),
        "sendrawtransaction" => Act::Fault(-26, "64: dust"),
        _ => Act::Nothing,
    })
    .await;
    let sent = [1, 2, 3].map(|n| Submission { tx: tx(n), spent: Vec::new() });
    assert_eq!(one.submit(&sent[..2]).await.unwrap(), Report::Seen);
    let refused = Report::Rejected { txid: tx(3).txid(), code: 464, reason: "64: dust".to_owned() };
    assert_eq!(one.submit(&sent).await.unwrap(), refused);
}

#[tokio::test]
async fn a_refusal_that_passes_is_no_verdict() {
    let busy = node(|method, _| match method {
        "sendrawtransactions" => Act::Result(json!({ "invalid": [{
            "txid": tx(1).txid(), "reject_code": 64, "reject_reason": "too-long-validation-time",
        }] })),
        _ => Act::Nothing,
    })
    .await;
    let sent = [Submission { tx: tx(1), spent: Vec::new() }];
    match busy.submit(&sent).await {
        Err(SourceError::Server { status: -26, reason, .. }) => {
            assert_eq!(reason, "too-long-validation-time");
        }
        other => panic!("{other:?}"),
    }
}
