//! The JSON-RPC of a BSV node of one's own, and what it publishes over ZMQ.
//!
//! It answers every need: the node has all blocks. Two things it does not have: an index from scripts to outputs
//! (scripts are found by scanning blocks), and one from outputs to what spends them (the newest blocks are indexed
//! here as far as they are asked for). With `-txindex=1` it knows every transaction; without, those that wait, that
//! have an unspent output, and that are in the newest blocks.
//!
//! Checked against v1.0.13 in regtest (see `docs/testing.md`).

mod client;
mod notify;
mod recent;
mod regtest;
mod status;
mod submit;
mod zmtp;

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::service::{
    Block, FeeQuote, Need, Report, ServiceConfig, ServiceKind, SourceError, Spender, Submission,
};
use crate::encode::{DecodeError, Reader};
use crate::header::{Header, Tip};
use crate::merkle_path::merkle_root;
use crate::{BlockHash, FeeRate, OutPoint, Transaction, Txid};
use client::{CallError, Client, code};
use notify::Endpoint;
use recent::Recent;

pub use notify::{Event, Notifications};
pub use regtest::{MAX_MINED, Regtest, RegtestError};

/// The most bytes of an answer that is a number, a hash or a small record. The longest, `getsettings` and
/// `getblockchaininfo`, have 2 kB.
const SMALL: usize = 64 * 1024;

/// The most headers of one batch. A node works through a batch in one go, and 500 take it a few milliseconds.
const HEADERS_IN_BATCH: usize = 500;

/// The most headers of one call, as in the Bitcoin protocol.
const MAX_HEADERS: usize = 2_000;

/// The most bytes of the answer to a batch about headers: 160 digits and the frame around them, for each.
const HEADERS_ANSWER: usize = HEADERS_IN_BATCH * 512;

/// The largest block that is taken into memory, in bytes. Its hex is twice as long, and its parsed form another time
/// as long. Blocks of the network can be larger; whoever needs those reads them otherwise.
pub const MAX_BLOCK_BYTES: usize = 32 * 1024 * 1024;

/// The largest transaction that is taken, in bytes: the size above which nodes do not relay one
/// (`maxtxsizepolicy`, 10 MB unless set).
pub const MAX_TX_BYTES: usize = 10_000_000;

/// What a JSON answer has around its hex.
const FRAME: usize = 1024;

/// The least bytes of a transaction: version, one input, one output, lock time.
const MIN_TX_BYTES: usize = 60;

/// Satoshis in the unit of a node's JSON.
const SAT_PER_BSV: f64 = 1e8;

/// The JSON-RPC of a BSV node; see the [module](self).
pub struct NodeRpc {
    config: ServiceConfig,
    /// Boxed, as is the index: a service of any kind is to take about the same room.
    client: Box<Client>,
    zmq: Option<Endpoint>,
    /// Whether the node has said that it is on our network, since it was last out of reach.
    known_network: AtomicBool,
    recent: Box<Mutex<Recent>>,
}

impl fmt::Debug for NodeRpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeRpc").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Where a block is.
#[derive(Deserialize)]
struct Placed {
    height: u32,
    /// −1 for a block that is not on the best chain.
    confirmations: i64,
    /// A block's Merkle root is written like a transaction's id.
    merkleroot: Txid,
}

impl NodeRpc {
    /// A client. Nothing is sent yet.
    ///
    /// Name and password come from the address, or from the key in the form `USER:PASSWORD`. An address without a
    /// port means 8332 on the main network and 18332 on the others.
    ///
    /// # Errors
    /// [`SourceError::Config`].
    pub fn new(config: ServiceConfig) -> Result<Self, SourceError> {
        let client = Box::new(Client::new(&config)?);
        let zmq = config.zmq.as_deref().map(str::parse).transpose();
        let zmq = zmq.map_err(|_| SourceError::Config {
            service: config.name.clone(),
            reason: "chain.services.zmq has to be tcp://HOST:PORT, as in the node's -zmqpubhashblock"
                .to_owned(),
        })?;
        let (known_network, recent) = (AtomicBool::new(false), Box::default());
        Ok(Self { config, client, zmq, known_network, recent })
    }

    pub(super) fn config(&self) -> &ServiceConfig {
        &self.config
    }

    /// What the node publishes over ZMQ, if `chain.services.zmq` is set. The connection is made, and made again, in the
    /// background until the value is dropped; a Tokio runtime has to be running.
    #[must_use]
    pub fn notifications(&self) -> Option<Notifications> {
        self.zmq.clone().map(|endpoint| Notifications::start(self.config.name.clone(), endpoint))
    }

    /// Asks the node anything, for what has no method here. The answer has at most `limit` bytes and is as the node
    /// gives it: nothing in it is checked.
    ///
    /// # Errors
    /// [`SourceError`]; [`SourceError::Server`] with the node's code where it answers with an error.
    pub async fn call(&self, method: &str, params: Value, limit: usize) -> Result<Value, SourceError> {
        self.within(async {
            self.check_network().await?;
            Ok(self.client.ask(method, params, limit).await?.unwrap_or(Value::Null))
        })
        .await
    }

    pub(super) async fn tip(&self) -> Result<Tip, SourceError> {
        self.within(async {
            self.check_network().await?;
            self.best().await
        })
        .await
    }

    pub(super) async fn headers(&self, height: u32, count: usize) -> Result<Vec<Header>, SourceError> {
        self.within(async {
            self.check_network().await?;
            let mut headers: Vec<Header> = Vec::new();
            let wanted = count.min(MAX_HEADERS);
            while headers.len() < wanted {
                let first = u32::try_from(headers.len()).ok().and_then(|done| height.checked_add(done));
                let batch = HEADERS_IN_BATCH.min(wanted.saturating_sub(headers.len()));
                let more = match first {
                    Some(first) => self.header_run(first, batch).await?,
                    None => Vec::new(),
                };
                let end = more.len() < batch;
                headers.extend(more);
                if end {
                    break;
                }
            }
            Ok(headers)
        })
        .await
    }

    pub(super) async fn submit(&self, txs: &[Submission]) -> Result<Report, SourceError> {
        self.within(Box::pin(async {
            self.check_network().await?;
            self.submit_now(txs).await
        }))
        .await
    }

    pub(super) async fn report(&self, txid: &Txid) -> Result<Report, SourceError> {
        self.within(Box::pin(async {
            self.check_network().await?;
            self.report_now(txid).await
        }))
        .await
    }

    pub(super) async fn transaction(&self, txid: &Txid) -> Result<Option<Transaction>, SourceError> {
        self.within(Box::pin(async {
            self.check_network().await?;
            self.transaction_now(txid).await
        }))
        .await
    }

    pub(super) async fn spender(&self, outpoint: &OutPoint) -> Result<Spender, SourceError> {
        self.within(Box::pin(async {
            self.check_network().await?;
            self.spender_now(outpoint, recent::MAX_BLOCKS).await
        }))
        .await
    }

    /// The rate below which this node puts nothing in its own blocks (`minminingtxfee`): what one's own node is set to
    /// is the best it knows of what miners take.
    pub(super) async fn fee_quote(&self) -> Result<FeeQuote, SourceError> {
        #[derive(Deserialize)]
        struct Settings {
            minminingtxfee: f64,
            maxtxsizepolicy: Option<u64>,
        }
        self.within(async {
            self.check_network().await?;
            let settings: Settings = match self.client.call("getsettings", json!([]), SMALL).await {
                Err(CallError::Fault(fault)) if fault.code == code::NO_METHOD => {
                    return Err(SourceError::Unsupported {
                        service: self.config.name.clone(),
                        kind: ServiceKind::NodeRpc,
                        need: Need::Fees,
                    }
                    .into());
                }
                other => other?,
            };
            let rate = sat_per_kb(settings.minminingtxfee).ok_or_else(|| {
                self.client.malformed(format!("minminingtxfee is {}", settings.minminingtxfee))
            })?;
            Ok(FeeQuote { rate, max_tx_size: settings.maxtxsizepolicy })
        })
        .await
    }

    pub(super) async fn block(&self, height: u32) -> Result<Option<Block>, SourceError> {
        self.within(async {
            self.check_network().await?;
            let Some(hash) = self.hash_at(height).await? else { return Ok(None) };
            self.read_block(&hash).await.map(Some)
        })
        .await
    }

    /// Does all of it within the time that one question may take.
    async fn within<T>(&self, answer: impl Future<Output = Result<T, CallError>>) -> Result<T, SourceError> {
        let answer = match tokio::time::timeout(self.config.timeout, answer).await {
            Ok(answer) => answer.map_err(SourceError::from),
            Err(_) => {
                Err(SourceError::Timeout { service: self.config.name.clone(), after: self.config.timeout })
            }
        };
        if matches!(answer, Err(SourceError::Unreachable { .. })) {
            // Whatever answers there next time may be another node.
            self.known_network.store(false, Ordering::Relaxed);
        }
        answer
    }

    async fn check_network(&self) -> Result<(), CallError> {
        #[derive(Deserialize)]
        struct Info {
            chain: String,
        }
        if self.known_network.load(Ordering::Relaxed) {
            return Ok(());
        }
        let info: Info = self.client.call("getblockchaininfo", json!([]), SMALL).await?;
        if info.chain != self.config.network.name() {
            let reason = format!(
                "the node is on network {}, but network {} is wanted; correct chain.services.url or --network",
                client::clip(&info.chain),
                self.config.network
            );
            return Err(SourceError::Config { service: self.config.name.clone(), reason }.into());
        }
        self.known_network.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn best(&self) -> Result<Tip, CallError> {
        let hash: BlockHash = self.client.call("getbestblockhash", json!([]), SMALL).await?;
        // The height of this hash, whatever has become the best since.
        let height = self.placed(&hash).await?.height;
        Ok(Tip { height, hash })
    }

    async fn placed(&self, hash: &BlockHash) -> Result<Placed, CallError> {
        self.client.call("getblockheader", json!([hash, true]), SMALL).await
    }

    async fn hash_at(&self, height: u32) -> Result<Option<BlockHash>, CallError> {
        // The node refuses numbers that do not fit 31 bits with another error.
        if i32::try_from(height).is_err() {
            return Ok(None);
        }
        match self.client.call("getblockhash", json!([height]), SMALL).await {
            Ok(hash) => Ok(Some(hash)),
            Err(CallError::Fault(fault)) if fault.code == code::OUT_OF_RANGE => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn header_run(&self, first: u32, count: usize) -> Result<Vec<Header>, CallError> {
        let heights = (first..=i32::MAX.unsigned_abs()).take(count).map(|height| json!([height])).collect();
        let mut hashes = Vec::with_capacity(count);
        for answer in self.client.batch::<BlockHash>("getblockhash", heights, HEADERS_ANSWER).await? {
            match answer {
                Ok(Some(hash)) => hashes.push(json!([hash, false])),
                Err(fault) if fault.code == code::OUT_OF_RANGE => break,
                Err(fault) => return Err(fault.into()),
                Ok(None) => return Err(self.client.malformed("getblockhash answers nothing").into()),
            }
        }
        let mut headers = Vec::with_capacity(hashes.len());
        for answer in self.client.batch::<Header>("getblockheader", hashes, HEADERS_ANSWER).await? {
            headers.push(answer?.ok_or_else(|| self.client.malformed("getblockheader answers nothing"))?);
        }
        Ok(headers)
    }

    /// A block by its hash. Its header has that hash and the Merkle root of its transactions.
    async fn read_block(&self, hash: &BlockHash) -> Result<Block, CallError> {
        let limit = MAX_BLOCK_BYTES * 2 + FRAME;
        let bytes = self.client.call_hex("getblock", json!([hash, 0]), limit).await?;
        // Reading tens of megabytes and hashing them twice must not keep others from running.
        let wanted = *hash;
        let checked = tokio::task::spawn_blocking(move || check_block(&bytes, &wanted)).await;
        match checked {
            Ok(block) => Ok(block.map_err(|e| self.client.malformed(format!("block {hash}: {e}")))?),
            Err(_) => Err(self.client.malformed(format!("block {hash} cannot be read")).into()),
        }
    }

    /// What the node itself finds by id.
    async fn raw_transaction(&self, txid: &Txid) -> Result<Option<Transaction>, CallError> {
        let limit = MAX_TX_BYTES * 2 + FRAME;
        let bytes = match self.client.call_hex("getrawtransaction", json!([txid]), limit).await {
            Err(CallError::Fault(fault)) if fault.code == code::NOT_FOUND => return Ok(None),
            other => other?,
        };
        self.parse_transaction(txid, &bytes).map(Some).map_err(CallError::from)
    }

    fn parse_transaction(&self, txid: &Txid, bytes: &[u8]) -> Result<Transaction, SourceError> {
        let tx = Transaction::from_bytes(bytes)
            .map_err(|e| self.client.malformed(format!("transaction {txid}: {e}")))?;
        match tx.txid() {
            id if id == *txid => Ok(tx),
            id => Err(self.client.malformed(format!("asked for transaction {txid}, it gives {id}"))),
        }
    }
}

fn check_block(bytes: &[u8], hash: &BlockHash) -> Result<Block, String> {
    let block = parse_block(bytes).map_err(|e| e.to_string())?;
    if block.header.hash() != *hash {
        return Err(format!("it has the header of {}", block.header.hash()));
    }
    let txids: Vec<Txid> = block.txs.iter().map(Transaction::txid).collect();
    // A tree with its last transactions written twice has the same root.
    let different: HashSet<&Txid> = txids.iter().collect();
    if different.len() != txids.len() {
        return Err("it holds a transaction twice".to_owned());
    }
    if merkle_root(&txids) != block.header.merkle_root() {
        return Err("its transactions do not have the root in its header".to_owned());
    }
    Ok(block)
}

fn parse_block(bytes: &[u8]) -> Result<Block, DecodeError> {
    let mut reader = Reader::new(bytes);
    let header = Header(reader.array("a block header")?);
    let count = reader.count(MIN_TX_BYTES, "transactions")?;
    let mut txs = Vec::with_capacity(count);
    for _ in 0..count {
        txs.push(Transaction::read(&mut reader)?);
    }
    reader.finish("the block")?;
    Ok(Block { header, txs })
}

/// A rate in BSV for each 1,000 bytes, which JSON carries as a decimal fraction, in whole satoshis.
fn sat_per_kb(bsv: f64) -> Option<FeeRate> {
    let sat = (bsv * SAT_PER_BSV).round();
    // Every whole number up to here is exact.
    (0.0..=SAT_PER_BSV * SAT_PER_BSV / 10.0).contains(&sat).then(|| FeeRate::new(sat as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Satoshis, Script, TxIn, TxOut};

    #[test]
    fn fee_rates_are_read_to_the_satoshi() {
        let rate = |text: &str| sat_per_kb(serde_json::from_str(text).unwrap()).map(|r| r.sat_per_kb);
        assert_eq!(rate("0.00000001"), Some(1));
        assert_eq!(rate("0.00000100"), Some(100));
        assert_eq!(rate("0.00000249"), Some(249));
        assert_eq!(rate("0"), Some(0));
        assert_eq!(rate("-0.5"), None);
        assert_eq!(rate("1e300"), None);
    }

    #[test]
    fn a_block_is_read_to_its_last_byte_and_not_beyond() {
        let spend = TxIn::new(OutPoint { txid: Txid([3; 32]), vout: 0 });
        let paid = TxOut { value: Satoshis::from_sat(1), locking: Script::p2pkh(&[1; 20]) };
        let tx = Transaction::new(vec![spend], vec![paid]);
        let mut bytes = Header::regtest_genesis().0.to_vec();
        bytes.push(2);
        bytes.extend(tx.to_bytes());
        bytes.extend(tx.to_bytes());
        assert_eq!(parse_block(&bytes).unwrap().txs, [tx.clone(), tx]);
        for end in 0..bytes.len() {
            assert!(parse_block(&bytes[..end]).is_err());
        }
        bytes.push(0);
        assert!(parse_block(&bytes).is_err());
        // A count is held against the bytes that follow before anything is reserved for it.
        let greedy = [&Header::regtest_genesis().0[..], &[0xfe, 0xff, 0xff, 0xff, 0x7f]].concat();
        assert!(matches!(parse_block(&greedy), Err(DecodeError::TooMany { .. })));
    }
}
