//! A chain service for tests: ARC, WhatsOnChain and chaintracks in one small HTTP server over a development chain, which misbehaves as it is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sensora_chain::header::Header;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::sources::dev::{DevChain, DevChainError, Reject, TxStatus};
use sensora_chain::sources::service::{ServiceConfig, ServiceKind};
use sensora_chain::{BlockHash, Network, OutPoint, Transaction, Txid};
use sensora_node::chain_access::ServicesOptions;
use sensora_node::supervisor::{ChainRole, ServicesRole};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// How a service behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should.
    Fair,
    /// It takes the question and says nothing.
    Silent,
    /// It answers 429, with this `Retry-After`.
    Limited(u64),
    /// It answers 503.
    Failing,
    /// It cuts its answers off.
    Truncated,
    /// Its answers do not end.
    Huge,
    /// Its answers about this transaction do not end.
    HugeAbout(Txid),
    /// Its Merkle paths lead to no header.
    WrongRoot,
    /// It has headers without work above the others'.
    NoWork,
    /// Whatever it is sent was seen and is never mined.
    SeenForever,
    /// Whatever it is asked about is rejected, and what it is sent goes nowhere.
    Denies,
    /// Whatever it is sent is a double spend, in its word, and goes nowhere.
    CallsItDoubleSpent,
    /// Whatever it is sent is taken, and a double spend of nothing that it names: what a node says of the second of two copies that come at once.
    CollidesWithItself,
    /// Nothing is ever spent, in its word.
    HidesSpends,
}

/// A running service.
pub(crate) struct Fake {
    url: String,
    mood: Arc<Mutex<Mood>>,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    pub(crate) async fn start(chain: &DevChain, mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (mood, seen) = (Arc::new(Mutex::new(mood)), Arc::<Mutex<Vec<String>>>::default());
        let (chain, moods, lines) = (chain.clone(), mood.clone(), seen.clone());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (chain, mood, lines) = (chain.clone(), moods.clone(), lines.clone());
                connections.spawn(async move {
                    let mut stream = stream;
                    let Some((line, body)) = read(&mut stream).await else { return };
                    lines.lock().unwrap().push(line.clone());
                    let mood = *mood.lock().unwrap();
                    answer(&mut stream, &chain, mood, &line, &body).await;
                });
            }
        });
        Self { url, mood, seen, task }
    }

    /// Behaves like this from now on.
    pub(crate) fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Requests so far whose line begins like this.
    pub(crate) fn asked(&self, beginning: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|line| line.starts_with(beginning)).count()
    }

    pub(crate) fn arc(&self, name: &str) -> ServiceConfig {
        self.config(name, ServiceKind::Arc)
    }

    pub(crate) fn whatsonchain(&self, name: &str) -> ServiceConfig {
        self.config(name, ServiceKind::WhatsOnChain)
    }

    pub(crate) fn chaintracks(&self, name: &str) -> ServiceConfig {
        self.config(name, ServiceKind::Chaintracks)
    }

    /// The role of a node that has headers from here and sends here, and that nobody tells what spends an output.
    pub(crate) fn blind_to_outputs(&self) -> ChainRole {
        let services = vec![self.chaintracks("tracks"), self.arc("arc")];
        let services = ServicesOptions { services, ..ServicesOptions::default() };
        ChainRole::Services(ServicesRole { services, peers: Vec::new(), serve: false, mine: None })
    }

    fn config(&self, name: &str, kind: ServiceKind) -> ServiceConfig {
        ServiceConfig {
            name: name.to_owned(),
            kind,
            network: Network::Regtest,
            url: self.url.clone(),
            key: None,
            requests_per_second: Some(1000.0),
            zmq: None,
            timeout: Duration::from_secs(2),
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |text| text.trim().parse().unwrap());
    let first = String::from_utf8_lossy(&bytes[..end]).lines().next()?.to_owned();
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        body.extend_from_slice(&buffer[..count]);
    }
    Some((first.strip_suffix(" HTTP/1.1")?.to_owned(), body))
}

async fn answer(stream: &mut TcpStream, chain: &DevChain, mood: Mood, line: &str, body: &[u8]) {
    let (status, extra, answer) = match mood {
        Mood::HugeAbout(txid) if line.ends_with(&txid.to_string()) => return endless(stream).await,
        Mood::Silent => {
            let _ = stream.read(&mut [0; 1]).await;
            return;
        }
        Mood::Limited(seconds) => (429, format!("retry-after: {seconds}\r\n"), b"{}".to_vec()),
        Mood::Failing => (503, String::new(), b"down".to_vec()),
        Mood::Huge => return endless(stream).await,
        mood => {
            let (chain, line, body) = (chain.clone(), line.to_owned(), body.to_vec());
            let (status, answer) =
                tokio::task::spawn_blocking(move || respond(&chain, mood, &line, &body)).await.unwrap();
            (status, String::new(), answer)
        }
    };
    let length = answer.len();
    let sent = if mood == Mood::Truncated { &answer[..length / 2] } else { &answer[..] };
    let head = format!("HTTP/1.1 {status} X\r\n{extra}content-length: {length}\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(&[head.as_bytes(), sent].concat()).await;
}

async fn endless(stream: &mut TcpStream) {
    let head = "HTTP/1.1 200 X\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let _ = stream.write_all(head.as_bytes()).await;
    let chunk = [b"10000\r\n".as_slice(), &[b'0'; 0x10000], b"\r\n"].concat();
    while stream.write_all(&chunk).await.is_ok() {}
}

fn respond(chain: &DevChain, mood: Mood, line: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let json = |status: u16, text: String| (status, text.into_bytes());
    if line == "GET /chaintracks/v2/tip" {
        let (height, hash) = match mood {
            Mood::NoWork => (chain.tip().unwrap().height + 1, worthless(chain).hash()),
            _ => (chain.tip().unwrap().height, chain.tip().unwrap().hash),
        };
        return json(200, format!(r#"{{"height":{height},"hash":"{hash}"}}"#));
    }
    if let Some(query) = line.strip_prefix("GET /chaintracks/v2/headers?") {
        let value = |key: &str| {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')).unwrap();
            pair.parse::<u32>().unwrap()
        };
        let (height, count) = (value("height"), usize::try_from(value("count")).unwrap());
        let mut headers = chain.headers(height, count).unwrap();
        if mood == Mood::NoWork && headers.len() < count && height <= chain.tip().unwrap().height + 1 {
            headers.push(worthless(chain));
        }
        return (200, headers.iter().flat_map(|header| header.0).collect());
    }
    if line == "GET /v1/policy" {
        return json(200, r#"{"policy":{"miningFee":{"satoshis":120,"bytes":1000}}}"#.to_owned());
    }
    if line == "POST /v1/tx" {
        let (tx, _) = Transaction::from_extended(body).unwrap();
        return json(200, sent(chain, mood, &tx));
    }
    if let Some(question) = line.strip_prefix("GET /tx/") {
        return match explorer(chain, mood, question) {
            Some(text) => json(200, text),
            None => json(404, "{}".to_owned()),
        };
    }
    let Some(txid) = line.strip_prefix("GET /v1/tx/").map(|text| text.parse::<Txid>().unwrap()) else {
        return json(404, "{}".to_owned());
    };
    match said(chain, mood, &txid) {
        Some(text) => json(200, text),
        None => json(404, "{}".to_owned()),
    }
}

/// What WhatsOnChain says of a transaction or an output.
fn explorer(chain: &DevChain, mood: Mood, question: &str) -> Option<String> {
    let mut parts = question.split('/');
    let txid: Txid = parts.next()?.parse().ok()?;
    match (parts.next()?, parts.next()) {
        ("hex", None) => Some(hex::encode(chain.transaction(&txid).unwrap()?.to_bytes())),
        (vout, Some("spent")) if mood != Mood::HidesSpends => {
            let outpoint = OutPoint { txid, vout: vout.parse().ok()? };
            let by = chain.spent_by(&outpoint).unwrap()?;
            Some(format!(r#"{{"txid":"{by}","vin":0,"status":"unconfirmed"}}"#))
        }
        _ => None,
    }
}

fn says(txid: &Txid, status: &str, more: &str) -> String {
    format!(r#"{{"txid":"{txid}","txStatus":"{status}"{more}}}"#)
}

const NO: &str = r#","extraInfo":"it is not liked","status":461"#;

fn sent(chain: &DevChain, mood: Mood, tx: &Transaction) -> String {
    let txid = tx.txid();
    match mood {
        Mood::Denies => return says(&txid, "REJECTED", NO),
        Mood::CallsItDoubleSpent => return says(&txid, "DOUBLE_SPEND_ATTEMPTED", ""),
        Mood::SeenForever => return says(&txid, "SEEN_ON_NETWORK", ""),
        Mood::CollidesWithItself => {
            chain.submit(tx).unwrap();
            return says(&txid, "DOUBLE_SPEND_ATTEMPTED", "");
        }
        _ => {}
    }
    match chain.submit(tx) {
        Ok(_) => says(&txid, "SEEN_ON_NETWORK", ""),
        Err(DevChainError::Reject(Reject::MempoolConflict { .. })) => {
            says(&txid, "DOUBLE_SPEND_ATTEMPTED", "")
        }
        Err(error) => says(&txid, "REJECTED", &format!(r#","status":461,"extraInfo":"{error}""#)),
    }
}

fn said(chain: &DevChain, mood: Mood, txid: &Txid) -> Option<String> {
    match mood {
        Mood::Denies => return Some(says(txid, "REJECTED", NO)),
        Mood::SeenForever => return Some(says(txid, "SEEN_ON_NETWORK", "")),
        _ => {}
    }
    match chain.status(txid).unwrap() {
        TxStatus::Mempool => Some(says(txid, "SEEN_ON_NETWORK", "")),
        TxStatus::Mined { .. } => {
            let path = chain.merkle_path(txid).unwrap()?;
            let path = match mood {
                Mood::WrongRoot => {
                    MerklePath::for_block(path.block_height(), &[*txid, Txid([7; 32])], 0).unwrap()
                }
                _ => path,
            };
            let more = format!(
                r#","blockHeight":{},"merklePath":"{}""#,
                path.block_height(),
                hex::encode(path.to_bytes())
            );
            Some(says(txid, "MINED", &more))
        }
        _ => None,
    }
}

/// A header on the tip that nobody has worked for.
fn worthless(chain: &DevChain) -> Header {
    let tip = chain.tip().unwrap();
    let last = chain.header(tip.height).unwrap().unwrap();
    let previous: BlockHash = last.hash();
    let header = Header::new(1, previous, [3; 32], last.time() + 1, 0x207f_ffff, 0);
    let headers = (0..).map(|nonce| header.with_nonce(nonce));
    headers.into_iter().find(|header| !header.meets_target(Network::Regtest)).unwrap()
}
