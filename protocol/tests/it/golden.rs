//! Golden bytes: what each message, statement, record and proof looks like on the wire, for ever.
//!
//! The files under `tests/vectors` are what another implementation is held against; `docs/protocol.md` quotes them. A change here is a
//! change of the protocol. `SENSORA_WRITE_GOLDEN=1` writes the files anew instead of comparing them.

mod delivery;
mod key_release;
mod reads;

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use sensora_chain::contract::payment::pay_to_hash;
use sensora_chain::contract::{Channel, ChannelTerms, CloseTerms, KeyRelease, KeyReleaseTerms, RefundHeight};
use sensora_chain::encode::sha256;
use sensora_chain::{BlockHash, FeeRate, OutPoint, PrivateKey, Script, Transaction, Txid};
use sensora_protocol::ad::{self, Ad, PaymentMode};
use sensora_protocol::anchor::{AnchorPayload, AnchorProof, AnchorTree, ProofV1};
use sensora_protocol::chain_access::{self, message as chain};
use sensora_protocol::codec::{self, MAX_FRAME, decode_exact};
use sensora_protocol::market::channel::message::{AskChannel, ChannelReport, CloseChannel, OpenChannel};
use sensora_protocol::market::channel::offer::ChannelOffer;
use sensora_protocol::market::delivery::Page;
use sensora_protocol::market::delivery::frame::{ToBuyer, ToSeller};
use sensora_protocol::market::key_release::frame as release;
use sensora_protocol::market::key_release::misbehaviour::MisbehaviourProof;
use sensora_protocol::market::key_release::offer::KeyReleaseOffer;
use sensora_protocol::market::key_release::parts::ProvenPart;
use sensora_protocol::market::live::LiveOffer;
use sensora_protocol::market::message::{AnchoredProof, Answer, LiveFrom, Request, Response, Sample};
use sensora_protocol::market::offer::{Offer, Range};
use sensora_protocol::market::order::Order;
use sensora_protocol::market::payment;
use sensora_protocol::market::price::Metered;
use sensora_protocol::market::reads::frame as single;
use sensora_protocol::market::reads::offer::ReadsOffer;
use sensora_protocol::market::receipt::{ChannelReceipt, Receipt};
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::market::sale::{Sale, SaleEvent};
use sensora_protocol::statement::{Signed, SignedBytes, Statement, digest};
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::stream::log::{
    ConsistencyProof, InclusionProof, RangeProof, consistency_proof, inclusion_proof,
};
use sensora_protocol::stream::{Run, Salting, StreamSecret, columns, leaf};
use sensora_protocol::{Hash, OrderId, StreamId};
use serde::{Deserialize, Serialize};

use crate::world::{NETWORK, World, reading, sat, schema};

/// One line of a file of golden bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Vector {
    /// Unique in its file.
    pub(crate) name: String,
    /// What the bytes are: the type after `hex` in the document.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// In words.
    pub(crate) about: String,
    /// The bytes.
    #[serde(with = "sensora_protocol::statement::bytes_or_hex")]
    pub(crate) bytes: Vec<u8>,
    /// What follows from them.
    #[serde(flatten)]
    pub(crate) more: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct File {
    about: String,
    vectors: Vec<Vector>,
}

fn vector(name: &str, kind: &str, about: &str, bytes: Vec<u8>) -> Vector {
    Vector { name: name.into(), kind: kind.into(), about: about.into(), bytes, more: BTreeMap::new() }
}

impl Vector {
    fn with(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.more.insert(key.into(), value.to_string());
        self
    }
}

/// Five readings: small enough to be read by eye.
fn small() -> World {
    World::new(5)
}

fn statement<T: Statement + Clone>(name: &str, about: &str, signed: &Signed<T>) -> Vec<Vector> {
    let body = &signed.bytes().body;
    let hash = digest(T::NAME, T::VERSION, NETWORK, body);
    let preimage = codec::encode(&(T::NAME, T::VERSION, NETWORK, serde_bytes::Bytes::new(body))).unwrap();
    assert_eq!(Hash::of(&preimage), hash);
    let bytes = codec::encode(signed.bytes()).unwrap();
    vec![
        vector(&format!("{name} body"), name, about, body.clone()),
        vector(&format!("{name} signed"), "signed", "the signed statement as it travels", bytes)
            .with("statement", T::NAME)
            .with("preimage", hex::encode(preimage))
            .with("digest", hash)
            .with("key", signed.key())
            .with("signature", hex::encode(&signed.bytes().signature)),
    ]
}

fn statements() -> Vec<Vector> {
    let mut world = small();
    let ad = Signed::sign(world.ad(), &world.seller, NETWORK).unwrap();
    let withdrawn = Ad { withdrawn: true, streams: vec![], version: world.ad().version + 1, ..world.ad() };
    let withdrawn = Signed::sign(withdrawn, &world.seller, NETWORK).unwrap();
    let checkpoint = world.stream.checkpoint(&world.seller, 5);
    let offer = world.sign(world.offer(1, 3));
    let order = world.order(&offer, 4);
    let receipt = receipt(&mut world, &offer);
    let script = payment::script_for_buyer(order.value(), world.buyer.key(), world.seller.public());
    let mut all = Vec::new();
    all.extend(statement("ad", "an ad with one stream", &ad));
    let mut gone = statement("ad", "a withdrawn ad", &withdrawn);
    gone.iter_mut().for_each(|vector| vector.name.insert_str(0, "withdrawn "));
    all.extend(gone);
    all.extend(statement("checkpoint", "a log of five readings", &checkpoint));
    all.extend(statement("offer", "three readings from 1 on, at 1.5 satoshis each", &offer));
    all.extend(statement("order", "of that offer", &order));
    if let Some(signed) = all.last_mut() {
        *signed = signed
            .clone()
            .with("order_id", order.id(NETWORK))
            .with("invoice", payment::invoice(order.value()))
            .with("locking_script", hex::encode(script.as_bytes()));
    }
    all.extend(statement("receipt", "for that order", &receipt));
    #[derive(Serialize)]
    struct Genesis<'a> {
        name: &'a str,
        schema: &'a sensora_protocol::stream::Schema,
        seller: &'a sensora_chain::PublicKey,
    }
    let body = Genesis { name: "roof", schema: &world.stream.schema, seller: world.seller.public() };
    let body = codec::encode(&body).unwrap();
    let hash = digest("sensora/stream", 1, NETWORK, &body);
    assert_eq!(hash.as_bytes()[..16], world.stream.id.0);
    all.push(
        vector("stream", "stream-genesis", "what a stream's id is the hash of; nobody signs it", body)
            .with("digest", hash)
            .with("stream_id", world.stream.id),
    );
    all
}

fn receipt(world: &mut World, offer: &Signed<Offer>) -> Signed<Receipt> {
    let mut sale = Sale::admit(world.purchase(offer, 4), &world.admission()).unwrap();
    sale.handle(SaleEvent::Accepted, &world.seller, NETWORK, world.now_ms);
    match sale.resume() {
        sensora_protocol::market::sale::SaleAction::Receipt(receipt) => receipt.verify(NETWORK).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn market() -> Vec<Vector> {
    let mut world = small();
    let stream = world.stream.id;
    let offer = world.sign(world.offer(1, 3));
    let order = world.order(&offer, 4).id(NETWORK);
    let purchase = world.purchase(&offer, 4);
    let receipt = receipt(&mut small(), &offer);
    let checkpoint = world.stream.checkpoint(&world.seller, 5);
    let ad = Signed::sign(world.ad(), &world.seller, NETWORK).unwrap();
    let seller = world.seller.clone();
    let anchor = world.anchor(&seller, std::slice::from_ref(&checkpoint), 0, true);
    let quote = |range| Request::Quote { stream, range, mode: PaymentMode::Direct };
    let requests = [
        ("ad", Request::Ad),
        ("sample", Request::Sample { stream, count: 10 }),
        ("quote latest", quote(Range::Latest)),
        ("quote last", quote(Range::Last(3))),
        ("quote seq", quote(Range::Seq { first: 1, count: 3 })),
        ("quote time", quote(Range::Time { from: -1, to: 1_789_000_003_000_000_000 })),
        (
            "quote through channel",
            Request::Quote { stream, range: Range::Latest, mode: PaymentMode::Channel },
        ),
        ("quote live latest", Request::QuoteLive { stream, from: LiveFrom::Latest, by: Metered::Reading }),
        ("quote live seq", Request::QuoteLive { stream, from: LiveFrom::Seq(3), by: Metered::Second }),
        (
            "quote live time",
            Request::QuoteLive {
                stream,
                from: LiveFrom::Time(1_789_000_003_000_000_000),
                by: Metered::Reading,
            },
        ),
        ("quote reads", Request::QuoteReads { stream }),
        ("quote channel", Request::QuoteChannel { value: sat(10_000), blocks: 299 }),
        ("open channel", Request::OpenChannel(delivery::open_channel())),
        ("close channel", Request::CloseChannel(delivery::close_channel())),
        ("ask channel", Request::AskChannel(AskChannel { channel: delivery::id(), orders: vec![order] })),
        ("purchase", Request::Purchase(purchase)),
        ("fetch", Request::Fetch { order, first: 1 }),
        ("receipt", Request::Receipt { order }),
        ("proof", Request::Proof { stream, first: 1, count: 3, size: 5 }),
    ];
    let proof = AnchoredProof {
        checkpoint: checkpoint.bytes().clone(),
        range: world.stream.range_proof(1, 4, 5),
        consistency: consistency_proof(&world.stream.log, 3, 5).unwrap(),
        anchor,
    };
    let sample = Sample { checkpoint: checkpoint.into_bytes(), page: world.stream.page(3, 5, 5) };
    let answers = [
        ("ad", Answer::Ad(ad.into_bytes())),
        ("sample", Answer::Sample(sample)),
        ("offer", Answer::Offer(offer.into_bytes())),
        ("live offer", Answer::LiveOffer(delivery::live().into_bytes())),
        ("reads offer", Answer::ReadsOffer(reads::golden_offer().into_bytes())),
        ("channel offer", Answer::ChannelOffer(delivery::channel_offer(&small()).into_bytes())),
        ("channel", Answer::Channel(delivery::report())),
        ("receipt", Answer::Receipt(receipt.into_bytes())),
        ("page", Answer::Page(world.stream.page(1, 4, 5))),
        ("proof", Answer::Proof(Box::new(proof))),
    ];
    let request = |(name, request): (&str, Request)| {
        let about = format!("the request `{}`", request.name());
        vector(&format!("request {name}"), "market-request", &about, request.to_bytes().unwrap())
    };
    let answer = |(name, answer): (&str, Answer)| {
        let response = Response::Ok(answer);
        let about = format!("the answer `{}`", response.name());
        vector(&format!("answer {name}"), "market-response", &about, response.to_bytes().unwrap())
    };
    let refused = market_refusals().into_iter().map(|refusal| {
        let (code, about) = (refusal.code(), refusal.to_string());
        let bytes = Response::Refused(refusal).to_bytes().unwrap();
        vector(&format!("refused {code}"), "market-response", &about, bytes)
    });
    requests.into_iter().map(request).chain(answers.into_iter().map(answer)).chain(refused).collect()
}

/// One of each refusal.
pub(crate) fn market_refusals() -> Vec<Refusal> {
    let (txid, stream, order) = (Txid([7; 32]), StreamId([5; 16]), OrderId([6; 32]));
    vec![
        Refusal::Malformed { reason: "3 bytes follow the CBOR value".into() },
        Refusal::Busy { retry_ms: 500 },
        Refusal::NotSelling,
        Refusal::NotBySecond,
        Refusal::UnknownStream { stream },
        Refusal::RangeNotAvailable { size: 5 },
        Refusal::TooManyReadings { asked: 100_001, max: 100_000 },
        Refusal::SampleUsedUp { allowance: 10 },
        Refusal::ForeignOffer { reason: "it was made to another buyer".into() },
        Refusal::OfferExpired { expires_ms: 1_790_000_600_000 },
        Refusal::InvalidOrder { reason: "it is for another offer".into() },
        Refusal::PaymentToWrongKey { txid },
        Refusal::PaymentTooSmall { txid, paid: sat(4), price: sat(5) },
        Refusal::PaymentInvalid { reason: "it holds no transaction".into() },
        Refusal::HeadersBehind { height: 101, tip: 100 },
        Refusal::PaymentRejected { txid, reason: "the fee is too low".into() },
        Refusal::DoubleSpent { txid },
        Refusal::ChainUnavailable,
        Refusal::StorageUnavailable,
        Refusal::UnknownOrder { order },
        Refusal::NotAnchored { size: 3, due_ms: 60_000 },
    ]
    .into_iter()
    .chain(delivery::refusals())
    .collect()
}

/// One of each refusal.
pub(crate) fn chain_refusals() -> Vec<chain_access::Refusal> {
    use chain_access::Refusal;
    vec![
        Refusal::Malformed { reason: "headers: none is asked for".into() },
        Refusal::NotServed,
        Refusal::Busy { retry_ms: 500 },
        Refusal::TooMany { what: "transactions".into(), asked: 65, max: 64 },
        Refusal::NoCommonBlock,
        Refusal::Rejected { double_spent: true, code: 466, reason: "a coin is spent".into() },
        Refusal::AnswerTooLarge,
        Refusal::FaucetDry { asked: 1000 },
        Refusal::FaucetUsedUp { per_day: sat(100_000_000), left: sat(0) },
        Refusal::Unavailable,
    ]
}

fn chain_messages() -> Vec<Vector> {
    use chain::{ScanPage, ScanPosition, ScannedOutput, Spending, Standing, Tip};
    let (txid, hash) = (Txid([7; 32]), BlockHash([8; 32]));
    let outpoint = OutPoint { txid, vout: 1 };
    let locking = pay_to_hash(&[9; 20], sat(1)).locking;
    let from = ScanPosition::at_height(100);
    let requests = [
        chain::Request::Tip,
        chain::Request::Headers { locator: vec![hash, BlockHash([0; 32])], count: 2000 },
        chain::Request::Broadcast { beef: vec![1, 2, 3] },
        chain::Request::Proof { txids: vec![txid] },
        chain::Request::Spent { outpoints: vec![outpoint] },
        chain::Request::Scan { prefix: b"SENSORA_ADV".to_vec(), from, limit: 256 },
        chain::Request::Faucet { locking, sat: sat(100_000) },
    ];
    let genesis = sensora_chain::header::Header::regtest_genesis();
    let spent = |path| Spending::Spent { transaction: vec![1, 2, 3], path };
    let scanned = ScannedOutput { at: ScanPosition { height: 101, index: 1, vout: 0 }, beef: vec![1, 2, 3] };
    let answers = [
        chain::Answer::Tip(Tip { height: 100, hash }),
        chain::Answer::Headers { headers: genesis.0.to_vec() },
        chain::Answer::Accepted { txid },
        chain::Answer::Proof {
            standings: vec![Standing::Unknown, Standing::Mempool, Standing::Mined { path: vec![1, 2, 3] }],
        },
        chain::Answer::Spent {
            spendings: vec![Spending::Unknown, Spending::Unspent, spent(None), spent(Some(vec![4, 5]))],
        },
        chain::Answer::Scan(ScanPage {
            outputs: vec![scanned],
            next: Some(ScanPosition { height: 101, index: 1, vout: 1 }),
        }),
        chain::Answer::Funded { beef: vec![1, 2, 3] },
    ];
    let request = |request: chain::Request| {
        let name = request.name();
        let bytes = request.to_bytes().unwrap();
        vector(&format!("request {name}"), "chain-request", &format!("the request `{name}`"), bytes)
    };
    let answer = |answer: chain::Answer| {
        let response = chain::Response::Ok(answer);
        let name = response.name();
        let bytes = response.to_bytes().unwrap();
        vector(&format!("answer {name}"), "chain-response", &format!("the answer `{name}`"), bytes)
    };
    let refused = chain_refusals().into_iter().map(|refusal| {
        let (code, about) = (refusal.code(), refusal.to_string());
        let bytes = chain::Response::Refused(refusal).to_bytes().unwrap();
        vector(&format!("refused {code}"), "chain-response", &about, bytes)
    });
    requests.into_iter().map(request).chain(answers.into_iter().map(answer)).chain(refused).collect()
}

fn onchain() -> Vec<Vector> {
    let mut world = small();
    let ad = Signed::sign(world.ad(), &world.seller, NETWORK).unwrap();
    let adv = ad::to_output(&ad).unwrap();
    let checkpoints = [world.stream.checkpoint(&world.seller, 3), world.stream.checkpoint(&world.seller, 5)];
    let tree = AnchorTree::new(&checkpoints, NETWORK);
    let payload = tree.payload(world.seller.public());
    let output = payload.to_output();
    let mut v1 = b"SENSORA_PROOF\x01\x01".to_vec();
    v1.extend_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
    v1.extend_from_slice(&1_750_000_000_u64.to_be_bytes());
    v1.extend_from_slice(&1_u16.to_be_bytes());
    v1.extend_from_slice(Hash::of(b"1750000000:21.5:48.2").as_bytes());
    let offer = world.sign(world.offer(1, 3));
    let order = world.order(&offer, 4);
    let purchase = world.purchase(&offer, 4);
    let script = payment::script_for_seller(order.value(), world.seller.key());
    let signer = world.seller.clone();
    let anchor = world.anchor(&signer, &checkpoints, 1, true);
    vec![
        vector(
            "anchor payload",
            "proof-v2",
            "SENSORA_PROOF version 2 over two checkpoints",
            payload.to_bytes(),
        )
        .with("seller", world.seller.public())
        .with("leaf_0", sensora_protocol::anchor::leaf(&checkpoints[0], NETWORK))
        .with("leaf_1", sensora_protocol::anchor::leaf(&checkpoints[1], NETWORK))
        .with("root", payload.root),
        vector(
            "anchor output",
            "script",
            "the locking script that carries it",
            output.locking.as_bytes().to_vec(),
        ),
        vector(
            "anchor proof",
            "anchor-proof",
            "that the second checkpoint is under it, with the mined transaction",
            codec::encode(&anchor).unwrap(),
        ),
        vector("proof v1", "proof-v1", "SENSORA_PROOF version 1: 21.5 °C and 48.2 % at 1750000000", v1),
        vector(
            "advertisement output",
            "script",
            "SENSORA_ADV version 2: the signed ad as a data output",
            adv.locking.as_bytes().to_vec(),
        ),
        vector("payment output", "script", "what pays the golden order", script.as_bytes().to_vec())
            .with("invoice", payment::invoice(order.value())),
        vector(
            "payment",
            "beef",
            "the payment of the golden order in Atomic BEEF: its parent is proven",
            purchase.payment,
        ),
    ]
    .into_iter()
    .chain(contracts(world.buyer.key(), world.seller.key()))
    .collect()
}

/// A channel and a key release of 100,000 sat, and what spends them.
fn contracts(buyer: &PrivateKey, seller: &PrivateKey) -> Vec<Vector> {
    let refund_height = RefundHeight::new(950_000).unwrap();
    let outpoint = OutPoint { txid: Txid([1; 32]), vout: 0 };
    let (rate, value, secret) = (FeeRate::DEFAULT, sat(100_000), [7; 32]);
    let hashes = [seller, buyer].map(|key| key.public().hash160());
    let [seller_hash, buyer_hash] = hashes;
    let terms = ChannelTerms { buyer: buyer.public(), seller: seller.public(), refund_height };
    let close = CloseTerms { seller_hash, buyer_hash, fee: CloseTerms::fee_at(rate) };
    let channel = Channel::new(terms, close, outpoint, value).unwrap();
    let voucher = channel.sign_voucher(sat(25_000), buyer).unwrap();
    let (seller_key, buyer_key) = (seller.public(), buyer.public());
    let terms =
        KeyReleaseTerms { key_hash: sha256(&secret), seller: seller_key, buyer: buyer_key, refund_height };
    let release = KeyRelease::new(terms, outpoint, value);
    let tx = |name: &str, about: &str, tx: Transaction| {
        vector(name, "transaction", about, tx.to_bytes()).with("txid", tx.txid())
    };
    vec![
        vector(
            "channel output",
            "channel",
            "a channel of the golden buyer and seller until height 950,000",
            channel.output().locking.as_bytes().to_vec(),
        )
        .with("buyer", buyer_key)
        .with("seller", seller_key)
        .with("push_tx", hex::encode(sensora_chain::contract::push_tx::BLOCK)),
        tx("channel close", "its close that pays 25,000 sat", channel.complete(&voucher, seller).unwrap())
            .with("voucher", hex::encode(voucher.script_signature())),
        tx("channel refund", "its refund", channel.refund(buyer, rate).unwrap()),
        vector(
            "key release output",
            "key-release",
            "the key of 32 bytes 07, sold until height 950,000",
            release.output().locking.as_bytes().to_vec(),
        )
        .with("key_hash", hex::encode(terms.key_hash)),
        tx("key release claim", "its claim", release.claim(&secret, seller, &seller_hash, rate).unwrap()),
        tx("key release refund", "its refund", release.refund(buyer, &buyer_hash, rate).unwrap()),
    ]
}

fn streams() -> Vec<Vector> {
    let world = small();
    let (stream, log) = (&world.stream, &world.stream.log);
    let size = 5;
    let root = sensora_protocol::stream::log::root(log, size).unwrap();
    let chunk = stream.secret.chunk(0);
    let salts = chunk.salts(0, 5);
    let tree = StreamSecret::new([4; 32], Salting::Tree);
    let grown = tree.chunk(0);
    let seeds = grown.seeds(1, 7).unwrap();
    let rows = (0..size).map(|seq| {
        let reading = reading(seq);
        let salt = chunk.salt(seq);
        let row = leaf::row(&reading, &salt);
        let about = format!("the row of reading {seq}: CBOR of [seq, time, values, salt]");
        vector(&format!("row {seq}"), "row", &about, row).with("leaf", leaf::hash(&reading, &salt))
    });
    let readings = stream.slice(1, 4);
    let run = Run::new(&stream.schema, readings, &stream.secret).unwrap();
    let seeded = Run::new(&stream.schema, readings, &tree).unwrap();
    let whole: Vec<_> = (0..1024).map(reading).collect();
    let full = Run::new(&stream.schema, &whole, &stream.secret).unwrap();
    let page = stream.page(1, 4, size);
    let hashes = |hashes: &[Hash]| hashes.iter().map(Hash::to_string).collect::<Vec<_>>().join(" ");
    let inclusion = inclusion_proof(log, 2, size).unwrap();
    let consistency = consistency_proof(log, 3, size).unwrap();
    let old = sensora_protocol::stream::log::root(log, 3).unwrap();
    let mut all = vec![
        vector("schema", "schema", "the schema of the golden stream", codec::encode(&schema()).unwrap()),
        vector(
            "salts",
            "salts",
            "salts of the first five readings of chunk 0: the ChaCha20 keystream under the chunk's secret",
            salts.as_flattened().to_vec(),
        )
        .with("stream_secret", hex::encode(StreamSecret::from_bytes([4; 32]).as_bytes()))
        .with("chunk_secret", hex::encode(chunk.as_bytes())),
        vector(
            "seeds of readings 1 to 7",
            "salts",
            "the seeds that the salts of readings 1 to 7 of a chunk grow from: three salts, and the seed of four",
            seeds.as_flattened().to_vec(),
        )
        .with("chunk_seed", hex::encode(grown.as_bytes()))
        .with("salts", hex::encode(grown.salts(1, 7).as_flattened())),
    ];
    all.extend(rows);
    all.extend([
        vector("columns", "columns", "readings 1, 2 and 3 in columns", run.columns.clone()),
        vector("run", "run", "the same with a salt for each", codec::encode(&run).unwrap()),
        vector(
            "seeded run",
            "run",
            "readings 1, 2 and 3 of a stream with a tree of seeds",
            codec::encode(&seeded).unwrap(),
        ),
        vector("full run", "run", "chunk 0 whole, with its secret", codec::encode(&full).unwrap()),
        vector(
            "page",
            "page",
            "readings 1, 2 and 3 with their proof in the log of five",
            codec::encode(&page).unwrap(),
        )
        .with("first", 1)
        .with("count", 3)
        .with("size", size)
        .with("root", root),
        vector(
            "range proof",
            "range-proof",
            "of readings 1, 2 and 3 in the log of five",
            codec::encode(&page.proof).unwrap(),
        )
        .with("hashes", hashes(&page.proof.hashes))
        .with("root", root),
        vector(
            "inclusion proof",
            "inclusion-proof",
            "of reading 2 in the log of five",
            codec::encode(&inclusion).unwrap(),
        )
        .with("hashes", hashes(&inclusion.hashes)),
        vector(
            "consistency proof",
            "consistency-proof",
            "that the log of five continues the log of three",
            codec::encode(&consistency).unwrap(),
        )
        .with("hashes", hashes(&consistency.hashes))
        .with("old_root", old)
        .with("root", root),
    ]);
    all
}

fn files() -> [(&'static str, &'static str, Vec<Vector>); 8] {
    [
        (
            "statements.json",
            "Statements and who signs them. Seller's key: 01 × 32; buyer's: 02 × 32; network regtest.",
            statements(),
        ),
        ("market.json", "Messages of /sensora/market/1.", market()),
        ("chain.json", "Messages of /sensora/chain/1.", chain_messages()),
        ("onchain.json", "What is written into transactions.", onchain()),
        ("delivery.json", "Channels, and what moves over /sensora/delivery/1.", delivery::vectors()),
        (
            "reads.json",
            "Single readings: their offer, and the frames under an order of them.",
            reads::vectors(),
        ),
        (
            "key_release.json",
            "A batch whose key is released on the chain, frames of /sensora/release/1, and a proof of misbehaviour.",
            key_release::vectors(),
        ),
        ("proofs.json", "Readings, leaves, columns, runs and the proofs of a log.", streams()),
    ]
}

/// All golden bytes, as this program writes them now.
pub(crate) fn all() -> Vec<Vector> {
    static ALL: std::sync::OnceLock<Vec<Vector>> = std::sync::OnceLock::new();
    ALL.get_or_init(|| files().into_iter().flat_map(|(_, _, vectors)| vectors).collect()).clone()
}

/// Reads the bytes as what they are said to be and writes them again; `None` for a type that is not known.
pub(crate) fn rewrite(kind: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    fn exact<T: Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) -> Vec<u8> {
        codec::encode(&decode_exact::<T>(bytes, MAX_FRAME).unwrap()).unwrap()
    }
    Some(match kind {
        "market-request" => Request::from_bytes(bytes).unwrap().to_bytes().unwrap(),
        "market-response" => Response::from_bytes(bytes).unwrap().to_bytes().unwrap(),
        "chain-request" => chain::Request::from_bytes(bytes).unwrap().to_bytes().unwrap(),
        "chain-response" => chain::Response::from_bytes(bytes).unwrap().to_bytes().unwrap(),
        "release-to-seller" => release::ToSeller::from_bytes(bytes).unwrap().to_bytes().unwrap(),
        "release-to-buyer" => release::ToBuyer::from_bytes(bytes).unwrap().to_bytes().unwrap(),
        "key-release-offer" => exact::<KeyReleaseOffer>(bytes),
        "part" => exact::<ProvenPart>(bytes),
        "misbehaviour" => {
            let proof = MisbehaviourProof::from_bytes(bytes).unwrap();
            assert!(proof.verify().is_ok());
            proof.to_bytes().unwrap()
        }
        "signed" => exact::<SignedBytes>(bytes),
        "ad" => exact::<Ad>(bytes),
        "offer" => exact::<Offer>(bytes),
        "order" => exact::<Order>(bytes),
        "checkpoint" => exact::<Checkpoint>(bytes),
        "receipt" => exact::<Receipt>(bytes),
        "channel-offer" => exact::<ChannelOffer>(bytes),
        "live-offer" => exact::<LiveOffer>(bytes),
        "reads-offer" => exact::<ReadsOffer>(bytes),
        "reads-to-seller" => single::ToSeller::from_bytes(bytes).unwrap().to_bytes().unwrap(),
        "reads-to-buyer" => single::ToBuyer::from_bytes(bytes).unwrap().to_bytes().unwrap(),
        "channel-receipt" => exact::<ChannelReceipt>(bytes),
        "open-channel" => exact::<OpenChannel>(bytes),
        "close-channel" => exact::<CloseChannel>(bytes),
        "ask-channel" => exact::<AskChannel>(bytes),
        "channel-report" => exact::<ChannelReport>(bytes),
        "to-seller" => ToSeller::from_bytes(bytes).unwrap().to_bytes().unwrap(),
        "to-buyer" => ToBuyer::from_bytes(bytes).unwrap().to_bytes().unwrap(),
        "schema" => exact::<sensora_protocol::stream::Schema>(bytes),
        "run" => exact::<Run>(bytes),
        "page" => exact::<Page>(bytes),
        "range-proof" => exact::<RangeProof>(bytes),
        "inclusion-proof" => exact::<InclusionProof>(bytes),
        "consistency-proof" => exact::<ConsistencyProof>(bytes),
        "anchor-proof" => exact::<AnchorProof>(bytes),
        "proof-v2" => AnchorPayload::from_bytes(bytes).unwrap().to_bytes(),
        "proof-v1" => {
            let proof = ProofV1::from_bytes(bytes).unwrap();
            assert!(proof.matches(21.5, 48.2));
            bytes.to_vec()
        }
        "columns" => {
            let readings = columns::decode(&schema(), bytes, 1, columns::MAX_COUNT).unwrap();
            columns::encode(&schema(), &readings).unwrap()
        }
        "script" => {
            let script = Script::new(bytes.to_vec());
            assert!(script.pushes().all(|op| op.is_ok()));
            bytes.to_vec()
        }
        "channel" => {
            let terms = ChannelTerms::parse(&Script::new(bytes.to_vec())).unwrap();
            terms.locking().into_bytes()
        }
        "key-release" => {
            let terms = KeyReleaseTerms::parse(&Script::new(bytes.to_vec())).unwrap();
            terms.locking().into_bytes()
        }
        "transaction" => Transaction::from_bytes(bytes).unwrap().to_bytes(),
        "beef" => {
            let beef = sensora_chain::beef::Beef::parse(bytes, &Default::default()).unwrap();
            beef.to_atomic(&beef.subject().unwrap()).unwrap()
        }
        // Of these the codec reads the shape, and the golden test the meaning.
        "row" | "stream-genesis" | "preimage" => {
            codec::check(bytes, MAX_FRAME).unwrap();
            bytes.to_vec()
        }
        "salts" => bytes.to_vec(),
        _ => return None,
    })
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

#[test]
fn golden_bytes_are_what_is_written() {
    let write = std::env::var("SENSORA_WRITE_GOLDEN").is_ok_and(|value| value == "1");
    for (name, about, vectors) in files() {
        let path = folder().join(name);
        if write {
            let file = File { about: about.into(), vectors };
            std::fs::write(&path, serde_json::to_string_pretty(&file).unwrap() + "\n").unwrap();
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let golden: File = serde_json::from_str(&text).unwrap();
        let names = |vectors: &[Vector]| vectors.iter().map(|v| v.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&golden.vectors), names(&vectors), "{name}");
        for (golden, found) in golden.vectors.iter().zip(&vectors) {
            assert_eq!(golden, found, "{name}: {} has changed, and with it the protocol", golden.name);
        }
    }
}

#[test]
fn golden_bytes_are_read_and_written_the_same() {
    for vector in all() {
        let written = rewrite(&vector.kind, &vector.bytes);
        let written = written.unwrap_or_else(|| panic!("{}: unknown type {}", vector.name, vector.kind));
        assert_eq!(hex::encode(written), hex::encode(&vector.bytes), "{}", vector.name);
    }
}

/// The codes in the source of an enum of refusals.
pub(crate) fn codes_in(source: &str) -> Vec<&str> {
    let arms =
        source.lines().filter(|line| line.trim_start().starts_with("Self::") && line.contains("=> \""));
    let codes: Vec<&str> = arms.filter_map(|line| line.split('"').nth(1)).collect();
    assert!(codes.len() >= 10, "the codes are no longer found");
    codes
}

pub(crate) const MARKET_REFUSALS: &str = include_str!("../../src/market/refusal.rs");
pub(crate) const CHAIN_REFUSALS: &str = include_str!("../../src/chain_access/refusal.rs");

/// Every refusal has one golden line, so that none is forgotten here or in the document.
#[test]
fn every_refusal_is_golden() {
    let market: Vec<&str> = market_refusals().iter().map(Refusal::code).collect();
    assert_eq!(market, codes_in(MARKET_REFUSALS));
    let chain: Vec<&str> = chain_refusals().iter().map(chain_access::Refusal::code).collect();
    assert_eq!(chain, codes_in(CHAIN_REFUSALS));
}
