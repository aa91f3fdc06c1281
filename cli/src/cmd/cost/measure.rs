//! The transactions that selling takes, built by the code that makes them when an agent runs, and measured.
//!
//! Nothing is estimated: sizes and fees are those of transactions that are signed here, by a key that nobody uses, and thrown away.

use sensora_chain::header::{Header, HeaderView};
use sensora_chain::keys::PrivateKey;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::wallet::{Built, PaymentSpec, Received, TARGET_COINS, Wallet};
use sensora_chain::{
    BlockHash, FeeRate, Network, OutPoint, Satoshis, Script, Transaction, TxIn, TxOut, Txid,
};
use sensora_node::store::anchors::AnchorRecord;
use sensora_protocol::ad::{self, Ad, AdError, Limits, MAX_STREAMS, PaymentMode, StreamAd};
use sensora_protocol::anchor::AnchorTree;
use sensora_protocol::codec::{self, CodecError};
use sensora_protocol::statement::StatementError;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::stream::{Field, Kind, Schema, Unit};
use sensora_protocol::{Hash, Identity, Signed, StreamId};

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// Sizes do not depend on the network.
const NETWORK: Network = Network::Regtest;
/// Coins that are joined in the transaction that shows what one more coin costs.
const JOINED: usize = 100;
/// Transactions in the block that a stored proof leads to. Twice as many add 34 bytes to each proof.
const BLOCK_TXS: usize = 4096;
/// Every amount here is far above what the fees take.
const PLENTY: u64 = 1_000_000_000;

/// A transaction of a kind: its bytes and what it pays to miners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) bytes: u64,
    pub(super) fee: u64,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Measures {
    /// Streams that one node advertises and anchors together.
    pub(super) streams: u32,
    /// An anchor of so many streams, made by a wallet that has made some before.
    pub(super) anchor: Measured,
    /// Their ad on chain.
    pub(super) ad: Measured,
    /// A buyer's payment.
    pub(super) payment: Measured,
    /// What one more coin adds to a transaction that joins coins.
    pub(super) per_coin: Measured,
    /// Bytes on disk of an anchor with its proof.
    pub(super) anchor_record: u64,
}

/// A chain on which everything is mined at once.
#[derive(Default)]
struct Mined(Vec<Header>);

impl HeaderView for Mined {
    fn header_at(&self, height: u32) -> Option<Header> {
        self.0.get(usize::try_from(height).ok()?).copied()
    }

    fn tip_height(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX).saturating_sub(1)
    }
}

impl Mined {
    /// The path of a transaction among `txs` in a new block.
    fn block(&mut self, txid: Txid, txs: usize) -> Outcome<MerklePath> {
        let height = u32::try_from(self.0.len()).map_err(|_| wrong(&"too many blocks"))?;
        let mut txids = vec![txid];
        txids.extend((1..txs).map(|n| Txid(Hash::of(&n.to_be_bytes()).0)));
        let path = MerklePath::for_block(height, &txids, 0).map_err(|error| wrong(&error))?;
        self.0.push(Header::new(1, BlockHash::default(), *path.root(), 0, 0, 0));
        Ok(path)
    }
}

fn wrong(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failure, format!("the costs cannot be worked out: {error}"))
}

/// A wallet with money, and the chain it is on.
struct Bench {
    identity: Identity,
    wallet: Wallet,
    chain: Mined,
    rate: FeeRate,
}

impl Bench {
    fn new(rate: FeeRate, coins: &[u64]) -> Outcome<Self> {
        let key = PrivateKey::from_bytes([0x5e; 32]).map_err(|error| wrong(&error))?;
        let mut bench =
            Self { identity: Identity::new(key), wallet: Wallet::new(), chain: Mined::default(), rate };
        for (number, sat) in (1_u32..).zip(coins) {
            let key = bench.identity.key().clone();
            let address = bench.wallet.funding_address(&key, NETWORK).map_err(|error| wrong(&error))?;
            let value = Satoshis::new(*sat).map_err(|error| wrong(&error))?;
            let from = OutPoint { txid: Txid(Hash::of(&number.to_be_bytes()).0), vout: 0 };
            let outputs = vec![TxOut { value, locking: address.locking_script() }];
            let tx = Transaction::new(vec![TxIn::new(from)], outputs);
            let path = Some(bench.chain.block(tx.txid(), 1)?);
            let outputs = bench.wallet.recognise(&tx);
            let received = Received {
                tx,
                outputs,
                ancestors: None,
                path,
                broadcast: true,
                label: String::new(),
                now_ms: 0,
            };
            bench.wallet.receive(&key, received).map_err(|error| wrong(&error))?;
        }
        Ok(bench)
    }

    /// Builds a transaction, which is in a block when this returns.
    fn make(&mut self, outputs: Vec<TxOut>, txs: usize) -> Outcome<Built> {
        let spec = PaymentSpec {
            outputs,
            label: String::new(),
            fee: self.rate,
            max_fee: Satoshis::MAX,
            spends: Vec::new(),
        };
        let built = self.wallet.build(self.identity.key(), spec, 0).map_err(|error| wrong(&error))?;
        let path = self.chain.block(built.txid, txs)?;
        let mined = self.wallet.mark_mined(&built.txid, path, &self.chain);
        mined.map_err(|error| wrong(&error))?;
        Ok(built)
    }
}

fn measured(built: &Built) -> Measured {
    Measured { bytes: u64::try_from(built.tx.size()).unwrap_or(u64::MAX), fee: built.fee.as_u64() }
}

/// Measures what selling `sensors` streams takes at a fee rate.
pub(super) fn measure(sensors: u32, rate: FeeRate, every_ms: u64) -> Outcome<Measures> {
    let mut bench = Bench::new(rate, &[PLENTY])?;
    let (streams, ad_output) = largest_ad(&bench.identity, sensors, every_ms)?;
    let anchor_output = |bench: &Bench| {
        let checkpoints = checkpoints(&bench.identity, streams)?;
        let output = AnchorTree::new(&checkpoints, NETWORK).payload(bench.identity.public()).to_output();
        Ok::<_, Failure>((checkpoints, output))
    };
    // The first transactions cut the money into coins, which costs more once; what counts is how it goes on.
    for _ in 0..TARGET_COINS {
        let (_, output) = anchor_output(&bench)?;
        bench.make(vec![output], 1)?;
    }
    let (checkpoints, output) = anchor_output(&bench)?;
    let anchor = bench.make(vec![output], BLOCK_TXS)?;
    let record = AnchorRecord {
        number: 1,
        txid: anchor.txid,
        checkpoints: checkpoints.into_iter().map(Signed::into_bytes).collect(),
        beef: bench.wallet.beef_for(&anchor.txid).map_err(|error| wrong(&error))?,
        height: Some(1),
        made_ms: 0,
    };
    let record = codec::encode(&record).map_err(|error| wrong(&error))?;
    let ad = bench.make(vec![ad_output], 1)?;
    let pays = TxOut { value: Satoshis::from_sat(100), locking: Script::p2pkh(&[1; 20]) };
    let payment = bench.make(vec![pays], 1)?;
    Ok(Measures {
        streams,
        anchor: measured(&anchor),
        ad: measured(&ad),
        payment: measured(&payment),
        per_coin: per_coin(rate)?,
        anchor_record: u64::try_from(record.len()).unwrap_or(u64::MAX),
    })
}

/// What one more coin adds: the difference between a transaction that joins many and one of a single coin, shared among them.
fn per_coin(rate: FeeRate) -> Outcome<Measured> {
    let joined = |count: usize| {
        let mut bench = Bench::new(rate, &vec![PLENTY; count])?;
        // All but one coin's worth: it takes all of them.
        let coins = u64::try_from(count).unwrap_or(u64::MAX);
        let sat = PLENTY.saturating_mul(coins).saturating_sub(PLENTY / 2);
        let pays = TxOut { value: Satoshis::from_sat(sat), locking: Script::p2pkh(&[1; 20]) };
        let built = bench.make(vec![pays], 1)?;
        if built.tx.inputs.len() != count {
            return Err(wrong(&"the coins are not joined as expected"));
        }
        Ok(measured(&built))
    };
    let (one, many) = (joined(1)?, joined(JOINED)?);
    let more = u64::try_from(JOINED).unwrap_or(u64::MAX).saturating_sub(1).max(1);
    Ok(Measured {
        bytes: many.bytes.saturating_sub(one.bytes).div_ceil(more),
        fee: many.fee.saturating_sub(one.fee).div_ceil(more),
    })
}

fn checkpoints(identity: &Identity, streams: u32) -> Outcome<Vec<Signed<Checkpoint>>> {
    let sign = |number: u32| {
        let mut id = [0; StreamId::LEN];
        for (to, from) in id.iter_mut().zip(number.to_be_bytes()) {
            *to = from;
        }
        // A year of readings: the numbers are as long as they will be.
        let root = Hash::of(&number.to_be_bytes());
        let checkpoint =
            Checkpoint { stream: StreamId(id), size: 525_600, root, issued_ms: 1_800_000_000_000 };
        Signed::sign(checkpoint, identity, NETWORK).map_err(|error| wrong(&error))
    };
    (0..streams).map(sign).collect()
}

/// The ad of as many of the streams as one ad holds.
fn largest_ad(identity: &Identity, sensors: u32, every_ms: u64) -> Outcome<(u32, TxOut)> {
    let most = u32::try_from(MAX_STREAMS).unwrap_or(u32::MAX);
    for streams in (1..=sensors.min(most)).rev() {
        let Some(signed) = signed_ad(identity, streams, every_ms)? else { continue };
        match ad::to_output(&signed) {
            Ok(output) => return Ok((streams, output)),
            Err(AdError::TooLong { .. }) => {}
            Err(error) => return Err(wrong(&error)),
        }
    }
    Err(wrong(&"not even one stream fits in an ad"))
}

/// The ad of so many streams; `None` where it would be too long.
fn signed_ad(identity: &Identity, streams: u32, every_ms: u64) -> Outcome<Option<Signed<Ad>>> {
    let unit = Unit::new("Cel").map_err(|error| wrong(&error))?;
    let schema = Schema::new(vec![Field::new("temperature", Kind::Float).with_unit(unit)]);
    let schema = schema.map_err(|error| wrong(&error))?;
    let mut listed = Vec::new();
    for number in 1..=streams {
        let name = format!("thermometer {number}");
        let id =
            StreamId::derive(NETWORK, identity.public(), &name, &schema).map_err(|error| wrong(&error))?;
        listed.push(StreamAd {
            id,
            name,
            schema: schema.clone(),
            kinds: vec!["temperature".to_owned()],
            place: Some("52.52,13.40,5".parse().map_err(|error| wrong(&error))?),
            cadence_ms: Some(every_ms),
            price: "0.1".parse().map_err(|error| wrong(&error))?,
            second: None,
            licence: "CC-BY-4.0".to_owned(),
            sample: 10,
            modes: vec![PaymentMode::Direct],
            limits: Limits { max_readings: 1_000_000 },
            size: 525_600,
            first_time: Some(1_790_000_000_000_000_000),
            last_time: Some(1_800_000_000_000_000_000),
        });
    }
    let peer = identity.peer_id();
    let ad = Ad {
        name: "greenhouse".to_owned(),
        version: 1_800_000_000_000,
        issued_ms: 1_800_000_000_000,
        expires_ms: 1_800_600_000_000,
        withdrawn: false,
        addresses: vec![
            format!("/ip4/203.0.113.7/tcp/4001/p2p/{peer}"),
            format!("/ip4/203.0.113.7/udp/4001/quic-v1/p2p/{peer}"),
        ],
        streams: listed,
    };
    match Signed::sign(ad, identity, NETWORK) {
        Ok(signed) => Ok(Some(signed)),
        Err(StatementError::Body { source: CodecError::TooLong { .. }, .. }) => Ok(None),
        Err(error) => Err(wrong(&error)),
    }
}
