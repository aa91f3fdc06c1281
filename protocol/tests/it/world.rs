//! A market in memory: a seller with a stream, a buyer with coins, and a regtest chain with real work, blocks and Merkle paths.

use std::collections::HashMap;

use sensora_chain::beef::Beef;
use sensora_chain::contract::payment::{pay_to_hash, sign_input};
use sensora_chain::header::{Header, HeaderChain, HeaderView};
use sensora_chain::keys::PrivateKey;
use sensora_chain::merkle_path::{MerklePath, merkle_root};
use sensora_chain::{Network, OutPoint, Satoshis, Script, Transaction, TxIn, TxOut, Txid};
use sensora_protocol::ad::{Ad, Limits, PaymentMode, StreamAd};
use sensora_protocol::anchor::{AnchorProof, AnchorTree};
use sensora_protocol::evidence::{
    self, Evidence, EvidenceAnchor, EvidenceCheckpoint, EvidenceReading, EvidenceStream,
};
use sensora_protocol::market::delivery::Page;
use sensora_protocol::market::offer::Offer;
use sensora_protocol::market::order::Order;
use sensora_protocol::market::payment::{find, script_for_buyer};
use sensora_protocol::market::price::Price;
use sensora_protocol::market::purchase::SignedPayment;
use sensora_protocol::market::sale::{Admission, PurchaseRequest};
use sensora_protocol::place::Place;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::stream::log::{RangeProof, range_proof};
use sensora_protocol::stream::{
    CHUNK_LEN, Field, Kind, MemoryLog, Reading, Run, Schema, StreamSecret, Unit, Value, chunk,
};
use sensora_protocol::{Identity, Signed, Statement, StreamId};

pub(crate) const NETWORK: Network = Network::Regtest;
/// 2026-09-21T14:13:20Z.
pub(crate) const NOW_MS: i64 = 1_790_000_000_000;
/// Time of the first reading.
pub(crate) const FIRST_TIME: i64 = 1_789_000_000_000_000_000;
/// The easiest target there is: every second hash meets it.
const BITS: u32 = 0x207f_ffff;

pub(crate) fn identity(seed: u8) -> Identity {
    Identity::new(PrivateKey::from_bytes([seed; 32]).unwrap())
}

pub(crate) fn sat(amount: u64) -> Satoshis {
    Satoshis::from_sat(amount)
}

/// Counts the actions of the models that are driven by bytes, and says now and then how many this process has run.
pub(crate) fn count_action() {
    static ACTIONS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let run = 1 + ACTIONS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    if run.is_multiple_of(10_000) {
        println!("{run} actions");
    }
}

/// A regtest chain, and what its network takes.
#[derive(Clone)]
pub(crate) struct Chain {
    pub(crate) headers: HeaderChain,
    spent: HashMap<OutPoint, Txid>,
}

impl Chain {
    pub(crate) fn new() -> Self {
        Self { headers: HeaderChain::genesis(NETWORK).unwrap(), spent: HashMap::new() }
    }

    /// Mines a block of a coinbase and these transactions; returns their Merkle paths.
    pub(crate) fn mine(&mut self, transactions: &[&Transaction]) -> Vec<MerklePath> {
        let height = self.headers.tip_height() + 1;
        let mut coinbase = TxIn::new(OutPoint::NULL);
        coinbase.unlocking = Script::builder().push(&height.to_le_bytes()).build();
        let reward = pay_to_hash(&[0; 20], sat(5_000_000_000));
        let coinbase = Transaction::new(vec![coinbase], vec![reward]);
        let txids: Vec<Txid> =
            std::iter::once(&coinbase).chain(transactions.iter().copied()).map(Transaction::txid).collect();
        let tip = self.headers.at(height - 1).unwrap();
        let root = merkle_root(&txids);
        let header = Header::new(0x2000_0000, tip.hash(), root, tip.time() + 600, BITS, 0);
        let header = (0..).map(|nonce| header.with_nonce(nonce)).find(|h| h.meets_target(NETWORK)).unwrap();
        self.headers.connect(&[header]).unwrap();
        (1..txids.len()).map(|index| MerklePath::for_block(height, &txids, index).unwrap()).collect()
    }

    /// What the network says to a transaction: taken (or had already), or its coin is spent.
    pub(crate) fn submit(&mut self, transaction: &Transaction) -> bool {
        let txid = transaction.txid();
        let free = |input: &TxIn| self.spent.get(&input.previous).is_none_or(|by| *by == txid);
        if !transaction.inputs.iter().all(free) {
            return false;
        }
        self.spent.extend(transaction.inputs.iter().map(|input| (input.previous, txid)));
        true
    }

    /// A reorganisation: this transaction is in place of what has spent its coins.
    pub(crate) fn replace(&mut self, transaction: &Transaction) {
        let txid = transaction.txid();
        self.spent.extend(transaction.inputs.iter().map(|input| (input.previous, txid)));
    }

    pub(crate) fn is_taken(&self, transaction: &Transaction) -> bool {
        let txid = transaction.txid();
        transaction.inputs.iter().all(|input| self.spent.get(&input.previous) == Some(&txid))
    }
}

/// A coin of the buyer's own key, with its proof.
#[derive(Clone)]
pub(crate) struct Coin {
    pub(crate) transaction: Transaction,
    pub(crate) path: MerklePath,
}

/// A seller's stream with everything that is derived from it.
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) name: String,
    pub(crate) schema: Schema,
    pub(crate) secret: StreamSecret,
    pub(crate) readings: Vec<Reading>,
    pub(crate) log: MemoryLog,
}

pub(crate) fn schema() -> Schema {
    Schema::new(vec![
        Field::new("temperature", Kind::Float).with_unit(Unit::new("Cel").unwrap()),
        Field::new("count", Kind::Int),
        Field::new("door", Kind::Bool),
        Field::new("note", Kind::Text),
    ])
    .unwrap()
}

pub(crate) fn reading(seq: u64) -> Reading {
    let swing = (seq * 37) % 100;
    Reading {
        seq,
        time: FIRST_TIME + seq as i64 * 1_000_000_000,
        values: vec![
            Value::Float(20.0 + swing as f64 / 10.0),
            if seq % 10 == 9 { Value::Null } else { Value::Int(swing as i64 - 50) },
            Value::Bool(seq.is_multiple_of(3)),
            Value::Text(["calm", "windy", "storm"][(swing % 3) as usize].into()),
        ],
    }
}

/// Steps of a clock that rests, runs, stands still and goes back, in microseconds.
const UNEVEN_US: [i64; 12] =
    [1_000_000, 250_000, 400, 400, 7_000_000, 0, -3_000_000, 2_900_000, 600_000, 90_000_000, -1, 1_500_000];

impl Stream {
    pub(crate) fn new(seller: &Identity, name: &str, size: u64) -> Self {
        Self::of(seller, name, (0..size).map(reading).collect())
    }

    /// A stream whose time stamps are as bad as they may be.
    pub(crate) fn uneven(seller: &Identity, name: &str, size: u64) -> Self {
        let mut time = FIRST_TIME;
        let readings = (0..size).map(|seq| {
            time += UNEVEN_US[(seq % 12) as usize] * 1_000;
            Reading { time, ..reading(seq) }
        });
        Self::of(seller, name, readings.collect())
    }

    /// The log of [`Stream::uneven`], but for readings from `at` on, which are others.
    pub(crate) fn rewritten(seller: &Identity, name: &str, size: u64, at: u64) -> Self {
        let mut readings = Self::uneven(seller, name, size).readings;
        readings.iter_mut().skip(at as usize).for_each(|reading| reading.time += 1);
        Self::of(seller, name, readings)
    }

    fn of(seller: &Identity, name: &str, readings: Vec<Reading>) -> Self {
        let schema = schema();
        let id = StreamId::derive(NETWORK, seller.public(), name, &schema).unwrap();
        let secret = StreamSecret::from_bytes([name.len() as u8; 32]);
        let log = MemoryLog::from_leaves(chunk::salted_leaves(&readings, &secret));
        Self { id, name: name.into(), schema, secret, readings, log }
    }

    pub(crate) fn checkpoint(&self, seller: &Identity, size: u64) -> Signed<Checkpoint> {
        let root = sensora_protocol::stream::log::root(&self.log, size).unwrap();
        let checkpoint = Checkpoint { stream: self.id, size, root, issued_ms: NOW_MS };
        Signed::sign(checkpoint, seller, NETWORK).unwrap()
    }

    pub(crate) fn slice(&self, first: u64, end: u64) -> &[Reading] {
        &self.readings[first as usize..end as usize]
    }

    pub(crate) fn range_proof(&self, first: u64, end: u64, size: u64) -> RangeProof {
        range_proof(&self.log, first, end - first, size).unwrap()
    }

    /// The readings `first..end` in runs that end at chunks, with their proof under the checkpoint of `size`.
    pub(crate) fn page(&self, first: u64, end: u64, size: u64) -> Page {
        let mut runs = Vec::new();
        let mut at = first;
        while at < end {
            let stop = end.min((at / CHUNK_LEN + 1) * CHUNK_LEN);
            runs.push(Run::new(&self.schema, self.slice(at, stop), &self.secret).unwrap());
            at = stop;
        }
        Page { runs, proof: self.range_proof(first, end, size) }
    }

    pub(crate) fn ad(&self) -> StreamAd {
        StreamAd {
            id: self.id,
            name: self.name.clone(),
            schema: self.schema.clone(),
            kinds: vec!["temperature".into(), "door".into()],
            place: Some(Place::of_cell("u33db").unwrap()),
            cadence_ms: Some(1000),
            price: Price::from_msat(1500).unwrap(),
            second: None,
            licence: "CC-BY-4.0".into(),
            sample: 10,
            modes: vec![PaymentMode::Direct],
            limits: Limits { max_readings: 100_000 },
            size: self.readings.len() as u64,
            first_time: self.readings.first().map(|reading| reading.time),
            last_time: self.readings.last().map(|reading| reading.time),
        }
    }
}

/// Everything together.
pub(crate) struct World {
    pub(crate) seller: Identity,
    pub(crate) buyer: Identity,
    pub(crate) stream: Stream,
    pub(crate) chain: Chain,
    pub(crate) now_ms: i64,
    funded: u8,
}

impl World {
    /// A seller with a stream of `size` readings.
    pub(crate) fn new(size: u64) -> Self {
        let seller = identity(1);
        let stream = Stream::new(&seller, "roof", size);
        Self { stream, seller, buyer: identity(2), chain: Chain::new(), now_ms: NOW_MS, funded: 0 }
    }

    /// The same, with time stamps of a bad clock.
    pub(crate) fn uneven(size: u64) -> Self {
        let world = Self::new(0);
        Self { stream: Stream::uneven(&world.seller, "roof", size), ..world }
    }

    pub(crate) fn size(&self) -> u64 {
        self.stream.readings.len() as u64
    }

    pub(crate) fn ad(&self) -> Ad {
        Ad {
            name: "Weather on the roof".into(),
            version: NOW_MS as u64,
            issued_ms: NOW_MS,
            expires_ms: NOW_MS + 24 * 3600 * 1000,
            withdrawn: false,
            addresses: vec!["/ip4/127.0.0.1/tcp/4001".into()],
            streams: vec![self.stream.ad()],
        }
    }

    /// The seller's offer of `count` readings from `first` on.
    pub(crate) fn offer(&self, first: u64, count: u64) -> Offer {
        let price = Price::from_msat(1500).unwrap();
        Offer {
            stream: self.stream.id,
            name: self.stream.name.clone(),
            schema: self.stream.schema.clone(),
            buyer: *self.buyer.public(),
            first,
            count,
            checkpoint: self.stream.checkpoint(&self.seller, self.size()).into_bytes(),
            price,
            total: price.total(count).unwrap(),
            mode: PaymentMode::Direct,
            licence: "CC-BY-4.0".into(),
            nonce: [3; 16],
            issued_ms: self.now_ms,
            expires_ms: self.now_ms + 600_000,
        }
    }

    pub(crate) fn sign(&self, offer: Offer) -> Signed<Offer> {
        Signed::sign(offer, &self.seller, NETWORK).unwrap()
    }

    pub(crate) fn order<T: Statement>(&self, offer: &Signed<T>, nonce: u8) -> Signed<Order> {
        let order = Order { offer: offer.digest(NETWORK), buyer: *self.buyer.public(), nonce: [nonce; 16] };
        Signed::sign(order, &self.buyer, NETWORK).unwrap()
    }

    /// A mined coin for the buyer.
    pub(crate) fn coin(&mut self, amount: u64) -> Coin {
        self.funded += 1;
        let source = OutPoint { txid: Txid([self.funded; 32]), vout: 0 };
        let output = pay_to_hash(&self.buyer.public().hash160(), sat(amount));
        let transaction = Transaction::new(vec![TxIn::new(source)], vec![output]);
        let path = self.chain.mine(&[&transaction]).remove(0);
        Coin { transaction, path }
    }

    /// A signed transaction of the buyer that spends its coin to these outputs.
    pub(crate) fn spend(&self, coin: &Coin, outputs: Vec<TxOut>) -> Transaction {
        let previous = OutPoint { txid: coin.transaction.txid(), vout: 0 };
        let mut transaction = Transaction::new(vec![TxIn::new(previous)], outputs);
        sign_input(&mut transaction, 0, &coin.transaction.outputs[0], self.buyer.key()).unwrap();
        transaction
    }

    /// The payment of an order: `amount` to the key that belongs to it, the rest back but for a fee of 30.
    pub(crate) fn pay(&self, coin: &Coin, order: &Order, amount: u64) -> SignedPayment {
        let locking = script_for_buyer(order, self.buyer.key(), self.seller.public());
        let change = coin.transaction.outputs[0].value.as_u64() - amount - 30;
        let back = pay_to_hash(&self.buyer.public().hash160(), sat(change));
        let paying = self.spend(coin, vec![TxOut { value: sat(amount), locking: locking.clone() }, back]);
        assert_eq!(find(&paying, &locking), Some((0, sat(amount))));
        SignedPayment { txid: paying.txid(), beef: beef(coin, &paying) }
    }

    /// A purchase request with its paid transaction.
    pub(crate) fn purchase(&mut self, offer: &Signed<Offer>, nonce: u8) -> PurchaseRequest {
        let order = self.order(offer, nonce);
        let coin = self.coin(100_000);
        let payment = self.pay(&coin, order.value(), offer.value().total.as_u64());
        PurchaseRequest { offer: offer.bytes().clone(), order: order.into_bytes(), payment: payment.beef }
    }

    pub(crate) fn admission(&self) -> Admission<'_, HeaderChain> {
        Admission {
            seller: &self.seller,
            network: NETWORK,
            peer: self.buyer.public(),
            headers: &self.chain.headers,
            now_ms: self.now_ms,
        }
    }

    /// The anchor of these checkpoints of a seller: the transaction, and its block where it is mined.
    pub(crate) fn anchor(
        &mut self,
        seller: &Identity,
        checkpoints: &[Signed<Checkpoint>],
        index: u32,
        mined: bool,
    ) -> AnchorProof {
        let tree = AnchorTree::new(checkpoints, NETWORK);
        let coin = self.coin(10_000);
        let back = pay_to_hash(&self.buyer.public().hash160(), sat(9_900));
        let anchoring = self.spend(&coin, vec![tree.payload(seller.public()).to_output(), back]);
        let mut whole = Beef::new();
        if mined {
            let path = self.chain.mine(&[&anchoring]).remove(0);
            whole.add(anchoring.clone(), Some(&path)).unwrap();
        } else {
            whole.add(coin.transaction, Some(&coin.path)).unwrap();
            whole.add(anchoring.clone(), None).unwrap();
        }
        AnchorProof {
            index,
            count: checkpoints.len() as u32,
            path: tree.inclusion(index).unwrap(),
            beef: whole.to_atomic(&anchoring.txid()).unwrap(),
        }
    }

    /// Evidence of the readings `first..end`.
    pub(crate) fn evidence(&mut self, first: u64, end: u64, anchored: Option<bool>) -> Evidence {
        let size = self.size();
        let checkpoint = self.stream.checkpoint(&self.seller, size);
        let other = Stream::new(&self.seller, "cellar", 3).checkpoint(&self.seller, 3);
        let anchor = anchored.map(|mined| {
            let seller = self.seller.clone();
            let proof = self.anchor(&seller, &[other, checkpoint.clone()], 1, mined);
            let subject = Beef::parse(&proof.beef, &Default::default()).unwrap().subject().unwrap();
            let height = mined.then(|| self.chain.headers.tip_height());
            let header = height.map(|height| self.chain.headers.at(height).unwrap().to_string());
            EvidenceAnchor { txid: subject, height, header, proof }
        });
        let salt = |seq: u64| self.stream.secret.chunk(seq / CHUNK_LEN).salt(seq);
        Evidence {
            format: evidence::FORMAT.into(),
            version: evidence::VERSION,
            network: NETWORK,
            seller: *self.seller.public(),
            stream: EvidenceStream {
                id: self.stream.id,
                name: self.stream.name.clone(),
                schema: self.stream.schema.clone(),
            },
            readings: self
                .stream
                .slice(first, end)
                .iter()
                .map(|reading| EvidenceReading::new(reading, &salt(reading.seq)))
                .collect(),
            range_proof: self.stream.range_proof(first, end, size),
            checkpoint: EvidenceCheckpoint {
                size,
                root: checkpoint.value().root,
                signed: checkpoint.into_bytes(),
            },
            anchor,
        }
    }
}

/// Atomic BEEF of a transaction that spends a proven coin.
pub(crate) fn beef(coin: &Coin, spending: &Transaction) -> Vec<u8> {
    let mut beef = Beef::new();
    beef.add(coin.transaction.clone(), Some(&coin.path)).unwrap();
    beef.add(spending.clone(), None).unwrap();
    beef.to_atomic(&spending.txid()).unwrap()
}

/// Headers that follow nothing but the genesis block.
pub(crate) fn no_headers() -> HeaderChain {
    HeaderChain::genesis(NETWORK).unwrap()
}
