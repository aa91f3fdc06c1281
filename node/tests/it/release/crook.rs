//! Sellers that cheat, and sellers that stop at some step.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::RefundHeight;
use sensora_chain::header::HeaderView as _;
use sensora_chain::keys::PublicKey;
use sensora_chain::{FeeRate, Network, OutPoint, Transaction, TxIn, TxOut, Txid};
use sensora_node::agent::recorder::Recorder;
use sensora_node::buyer::{BuyError, ReleaseLimits, Released};
use sensora_node::chain_access::ChainAccess;
use sensora_node::freeze::Freeze;
use sensora_node::net::{DeliveryStream, StreamKind, public_key_of};
use sensora_node::supervisor::Node;
use sensora_protocol::market::key_release::coin::{self, Coin};
use sensora_protocol::market::key_release::frame::{AtomicBeef, ToBuyer, ToSeller};
use sensora_protocol::market::key_release::key::{BatchKey, BatchSecret};
use sensora_protocol::market::key_release::misbehaviour::MisbehaviourProof;
use sensora_protocol::market::key_release::offer::{BatchTerms, KeyReleaseOffer};
use sensora_protocol::market::key_release::parts::{Part, ProvenPart, Sealer};
use sensora_protocol::market::offer::{Offer, Range};
use sensora_protocol::market::order::Order;
use sensora_protocol::market::payment;
use sensora_protocol::stream::log::{MemoryLog, inclusion_proof};
use sensora_protocol::{Identity, OrderId, Signed};

use super::{COUNT, LONG, NOW, PRICE, lines, mine, purchase, reaches, seq, state};
use crate::double::Double;
use crate::world::{Place, bootstrap_mining, fund, options, until};

/// Up to where the seller does what it should. After that it holds the stream and says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Until {
    Nothing,
    Offer,
    Begun,
    SomeParts,
    Parts,
    Coin,
    Claim,
}

/// What is known of the one order.
#[derive(Default)]
struct Known {
    key: Option<BatchKey>,
    offer: Option<Signed<KeyReleaseOffer>>,
    parts: Vec<ProvenPart>,
    order: Option<Signed<Order>>,
    coin: Option<Coin>,
}

/// A seller of one batch.
#[derive(Clone)]
struct Crook {
    identity: Identity,
    recorder: Recorder,
    chain: ChainAccess,
    /// A part of which a byte is changed after it was sealed.
    spoils: Option<usize>,
    until: Arc<Mutex<Until>>,
    known: Arc<Mutex<Known>>,
    /// Says "alive" when an order begins, and nothing else.
    babbles: Arc<AtomicBool>,
    /// Says that it has a coin, which it has made up.
    invents: Arc<AtomicBool>,
    /// How often an order has begun.
    begun: Arc<AtomicU32>,
}

impl Crook {
    fn new(double: &Double, spoils: Option<usize>, until: Until) -> Self {
        let crook = Self {
            identity: double.identity.clone(),
            recorder: double.recorder.clone(),
            chain: double.chain.clone(),
            spoils,
            until: Arc::new(Mutex::new(until)),
            known: Arc::default(),
            babbles: Arc::default(),
            invents: Arc::default(),
            begun: Arc::default(),
        };
        let (mut streams, serving) = (double.takes_streams(), crook.clone());
        tokio::spawn(async move {
            while let Some(stream) = streams.recv().await {
                assert_eq!(stream.kind(), StreamKind::Release);
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });
        crook
    }

    fn goes_on(&self, step: Until) -> bool {
        *self.until.lock().unwrap() >= step
    }

    async fn serve(self, mut stream: DeliveryStream) {
        let buyer = PublicKey::from_bytes(&public_key_of(&stream.peer()).unwrap()).unwrap();
        while let Ok(Some(bytes)) = stream.next(Duration::from_secs(600)).await {
            let frame = ToSeller::from_bytes(&bytes).unwrap();
            if matches!(frame, ToSeller::Begin(_)) {
                self.begun.fetch_add(1, Ordering::Relaxed);
                while self.babbles.load(Ordering::Relaxed) {
                    if stream.send(ToBuyer::Alive.to_bytes().unwrap().into()).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
            let answers = self.answers(&buyer, frame).await;
            for frame in answers {
                if stream.send(frame.to_bytes().unwrap().into()).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn answers(&self, buyer: &PublicKey, frame: ToSeller) -> Vec<ToBuyer> {
        match frame {
            ToSeller::Quote { stream, range: Range::Seq { first, count } } if self.goes_on(Until::Offer) => {
                let offer = self.offer(buyer, stream, first, count);
                vec![ToBuyer::Offer(offer)]
            }
            ToSeller::Begin(begin) if self.goes_on(Until::Begun) => {
                let order = begin.order.clone().verify_by::<Order>(Network::Regtest, buyer).unwrap();
                self.known.lock().unwrap().order = Some(order);
                let invented = self.invents.load(Ordering::Relaxed).then(|| AtomicBeef(self.invented()));
                let known = self.known.lock().unwrap();
                let coin = invented.or(known.coin.as_ref().map(|coin| AtomicBeef(coin.beef.clone())));
                let mut frames = vec![ToBuyer::Begun { coin }];
                let missing = known.parts.iter().skip(begin.next as usize).cloned();
                let sent: Vec<_> = match self.goes_on(Until::Parts) {
                    true => missing.collect(),
                    false => missing.take(usize::from(self.goes_on(Until::SomeParts))).collect(),
                };
                frames.push(ToBuyer::Parts(sent));
                frames
            }
            ToSeller::Lock(beef) if self.goes_on(Until::Coin) => {
                let parsed = Beef::parse(&beef, &BeefLimits::default()).unwrap();
                let txid = parsed.subject().unwrap();
                let (terms, order) = self.terms();
                let (contract, _) = coin::for_seller(order.value(), &terms, self.identity.key());
                let holder = parsed.transaction(&txid).unwrap();
                let (vout, value) = payment::find(holder, &contract.locking()).unwrap();
                self.chain.broadcast(&beef).await.unwrap();
                self.known.lock().unwrap().coin = Some(Coin { txid, vout, value, beef });
                vec![ToBuyer::Locked { txid }]
            }
            _ => Vec::new(),
        }
    }

    fn terms(&self) -> (BatchTerms, Signed<Order>) {
        let known = self.known.lock().unwrap();
        let terms = BatchTerms::of(known.offer.as_ref().unwrap(), Network::Regtest).unwrap();
        (terms, known.order.clone().unwrap())
    }

    /// A coin of the order's contract that spends nothing there is.
    fn invented(&self) -> Vec<u8> {
        let (terms, order) = self.terms();
        let (contract, _) = coin::for_seller(order.value(), &terms, self.identity.key());
        let nothing = TxIn::new(OutPoint { txid: Txid([7; 32]), vout: 0 });
        let output = TxOut { value: terms.total, locking: contract.locking() };
        let mut beef = Beef::new();
        let txid = beef.add(Transaction::new(vec![nothing], vec![output]), None).unwrap();
        beef.to_atomic(&txid).unwrap()
    }

    fn offer(
        &self,
        buyer: &PublicKey,
        stream: sensora_protocol::StreamId,
        first: u64,
        count: u64,
    ) -> sensora_protocol::SignedBytes {
        let summary = self.recorder.summary(&stream).unwrap();
        let checkpoint = self.recorder.checkpoint(&stream).unwrap().unwrap();
        let price: sensora_protocol::market::price::Price = "2".parse().unwrap();
        let now_ms = sensora_node::clock::Clock::system().now_ms();
        let plain = Offer {
            stream,
            name: summary.name,
            schema: summary.schema.clone(),
            buyer: *buyer,
            first,
            count,
            checkpoint: checkpoint.bytes().clone(),
            price,
            total: price.total(count).unwrap(),
            mode: sensora_protocol::ad::PaymentMode::Direct,
            licence: "CC0-1.0".into(),
            nonce: [7; 16],
            issued_ms: now_ms,
            expires_ms: now_ms + 600_000,
        };
        let secret = BatchSecret::from_bytes([9; 32]);
        let key = secret.key(buyer, &plain.checkpoint, first..first + count, &plain.nonce);
        let size = checkpoint.value().size;
        let mut sealer = Sealer::new(&key, &summary.schema, checkpoint.value(), first..first + count);
        let mut sealed: Vec<Part> = Vec::new();
        while let Some(part) =
            sealer.seal(|readings| self.recorder.page(&stream, readings.start, readings.end, size)).unwrap()
        {
            sealed.push(part);
        }
        let batch = sealer.finish();
        let height = RefundHeight::new(self.chain.headers().tip_height() + 144).unwrap();
        let mut offer =
            KeyReleaseOffer::of(plain, &batch, height, self.identity.public(), Network::Regtest).unwrap();
        if let Some(at) = self.spoils {
            let middle = sealed[at].bytes.len() / 2;
            sealed[at].bytes[middle] ^= 1;
        }
        let tree = MemoryLog::from_leaves(sealed.iter().map(Part::leaf));
        offer.root = tree.root();
        let prove = |part: &Part| {
            let path = inclusion_proof(&tree, part.index.into(), tree.size()).unwrap();
            ProvenPart { part: part.clone(), path }
        };
        let offer = Signed::sign(offer, &self.identity, Network::Regtest).unwrap();
        let bytes = offer.bytes().clone();
        let mut known = self.known.lock().unwrap();
        known.parts = sealed.iter().map(prove).collect();
        (known.key, known.offer) = (Some(key), Some(offer));
        bytes
    }

    /// Takes the coin, and shows the key by that.
    async fn claim(&self) {
        let (terms, order) = self.terms();
        let (coin, key) = {
            let known = self.known.lock().unwrap();
            (known.coin.clone().unwrap(), known.key.clone().unwrap())
        };
        let (contract, own) = coin::for_seller(order.value(), &terms, self.identity.key());
        let to = own.public().hash160();
        let claim = coin.release(&contract).claim(key.as_bytes(), &own, &to, FeeRate::DEFAULT).unwrap();
        let mut beef = Beef::parse(&coin.beef, &BeefLimits::default()).unwrap();
        let txid = beef.add(claim, None).unwrap();
        self.chain.broadcast(&beef.to_atomic(&txid).unwrap()).await.unwrap();
    }
}

/// The refund of an order, as its buyer would sign it now.
pub(super) fn refund(buyer: &Node, id: &OrderId) -> Vec<u8> {
    let purchase = purchase(buyer, id);
    let terms = purchase.terms(Network::Regtest).unwrap();
    let order = purchase.order.clone().verify::<Order>(Network::Regtest).unwrap();
    let (contract, own) = coin::for_buyer(order.value(), &terms, buyer.identity().key());
    let coin = purchase.coin.unwrap();
    let refund = coin.release(&contract).refund(&own, &own.public().hash160(), FeeRate::DEFAULT).unwrap();
    let mut beef = Beef::parse(&coin.beef, &BeefLimits::default()).unwrap();
    let txid = beef.add(refund, None).unwrap();
    beef.to_atomic(&txid).unwrap()
}

struct Scene {
    bootstrap: Node,
    buyer: Node,
    double: Double,
    crook: Crook,
}

impl Scene {
    async fn new(spoils: Option<usize>, until: Until) -> Self {
        Self::in_home(None, spoils, until).await
    }

    async fn in_home(home: Option<&Path>, spoils: Option<usize>, until: Until) -> Self {
        let (bootstrap, addresses) = bootstrap_mining(Duration::from_secs(3600)).await;
        let mut config = options(3, &Place::Memory);
        config.bootstrap.clone_from(&addresses);
        config.home = home.map(Path::to_owned);
        let buyer = Node::start(config).await.unwrap();
        fund(&buyer, 100_000).await;
        mine(&bootstrap, &[&buyer], 1).await;
        let double = Double::new(40, &bootstrap, 3000).await;
        let crook = Crook::new(&double, spoils, until);
        Self { bootstrap, buyer, double, crook }
    }

    async fn mine(&self, blocks: u32) {
        mine(&self.bootstrap, &[&self.buyer], blocks).await;
        self.double.chain.refresh().await.unwrap();
    }

    /// Buys for a while, or until there is an outcome.
    async fn buy(&self, patience: Duration) -> Option<Result<Released, BuyError>> {
        let request = self.double.meet(&self.buyer, seq(0, COUNT)).await;
        let limits = ReleaseLimits::default();
        let buying = self.buyer.buyer().buy_by_key_release(&request, limits, patience, |_| {});
        tokio::time::timeout(Duration::from_millis(1500), buying).await.ok()
    }

    fn order(&self) -> OrderId {
        self.buyer.buyer().releases().unwrap()[0].order
    }

    async fn stop(self) {
        self.buyer.shutdown().await;
        self.bootstrap.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seller_of_garbage_is_convicted_by_its_own_signature() {
    for spoils in [0, 1] {
        let scene = Scene::new(Some(spoils), Until::Claim).await;
        let bought = scene.buy(NOW).await.unwrap().unwrap();
        assert!(matches!(bought, Released::Waiting { .. }), "{bought:?}");
        let order = scene.order();
        scene.mine(7).await;
        scene.crook.claim().await;
        reaches(&scene.buyer, &order, "cheated").await;
        let proof = scene.buyer.buyer().misbehaviour(&order).unwrap().unwrap();
        let read = MisbehaviourProof::from_json(proof.to_json().unwrap().as_bytes()).unwrap();
        let conviction = read.verify().unwrap();
        assert_eq!(conviction.part as usize, spoils);
        assert_eq!(conviction.seller, scene.double.peer().to_string());
        // What was good before the lie is kept, and nothing is opened after it.
        let kept = scene.buyer.buyer().readings(
            &conviction.stream,
            &crate::double::schema(),
            0,
            COUNT,
            usize::MAX - 1,
        );
        assert_eq!(kept.unwrap().len() as u64, conviction.first);
        assert_eq!(scene.buyer.buyer().releases().unwrap().len(), 1, "nothing was ordered beside it");
        // The swarm hears of it right after the proof is stored.
        until("the offence to be counted", || async {
            let counters = scene.buyer.net().counters();
            counters.offences.get("invalid_proof").is_some_and(|count| *count > 0).then_some(())
        })
        .await;
        scene.mine(8).await;
        until("the claim to be settled", || async {
            scene.buyer.buyer().look_at_releases().await;
            let watched = scene.buyer.store().read(sensora_node::store::release::watched_purchases);
            watched.unwrap().is_empty().then_some(())
        })
        .await;
        scene.stop().await;
    }
}

/// A cheat whose claim never gets into a block before the refund height loses the race.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cheat_that_does_not_take_the_coin_loses_it() {
    let scene = Scene::new(Some(0), Until::Claim).await;
    scene.buy(NOW).await.unwrap().unwrap();
    let order = scene.order();
    scene.mine(1).await;
    scene.crook.claim().await;
    reaches(&scene.buyer, &order, "cheated").await;
    // Miners do not take it, and then the network forgets it.
    let chain = scene.bootstrap.chain().dev_chain().unwrap();
    let now = sensora_node::clock::Clock::system().now_ms();
    let height = scene.buyer.buyer().releases().unwrap()[0].refund_height;
    chain.mine(now).unwrap();
    chain.reorg(1, now, sensora_chain::sources::dev::OnReorg::Forget).unwrap();
    scene.bootstrap.chain().refresh().await.unwrap();
    while scene.bootstrap.chain().headers().tip_height() < height {
        scene.bootstrap.chain().mine().await.unwrap();
    }
    scene.mine(1).await;
    until("the refund", || async {
        scene.buyer.buyer().look_at_releases().await;
        scene.mine(1).await;
        (lines(&scene.buyer, &format!("order {order}, taken back")).len() == 1).then_some(())
    })
    .await;
    assert_eq!(state(&scene.buyer, &order), "cheated", "and the proof is kept");
    scene.buyer.wallet().audit().unwrap();
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seller_that_goes_silent_before_the_coin_is_out_costs_nothing() {
    let silences = [Until::Nothing, Until::Offer, Until::Begun, Until::SomeParts, Until::Parts];
    for silence in silences {
        let scene = Scene::new(None, silence).await;
        assert!(scene.buy(LONG).await.is_none(), "{silence:?}: there is nothing to be had");
        let all = scene.buyer.buyer().releases().unwrap();
        if silence == Until::Nothing {
            assert!(all.is_empty());
            scene.stop().await;
            continue;
        }
        let order = all[0].order;
        let expected = if silence == Until::Parts { "locking" } else { "receiving" };
        assert_eq!(state(&scene.buyer, &order), expected, "{silence:?}");
        let given_up = scene.buyer.buyer().give_up_release(&order).await;
        if silence == Until::Parts {
            let Err(BuyError::GivenUp { taken_back: true, .. }) = given_up else { panic!("{given_up:?}") };
            assert_eq!(state(&scene.buyer, &order), "taken back");
            let seller = *scene.double.identity.public();
            let used = || scene.buyer.buyer().budgets(&seller).unwrap().1.day.as_u64();
            scene.mine(6).await;
            scene.buyer.buyer().look_at_releases().await;
            assert_eq!(used(), PRICE, "six blocks are not seven");
        } else {
            given_up.unwrap();
            assert_eq!(state(&scene.buyer, &order), "dropped");
        }
        scene.mine(1).await;
        until("nothing to be looked after", || async {
            scene.buyer.buyer().look_at_releases().await;
            let watched = scene.buyer.store().read(sensora_node::store::release::watched_purchases);
            watched.unwrap().is_empty().then_some(())
        })
        .await;
        let used = scene.buyer.buyer().budgets(scene.double.identity.public()).unwrap().1.day;
        assert_eq!(used.as_u64(), 0, "{silence:?}");
        let balance = scene.buyer.wallet().audit().unwrap();
        let fee = 100_000 - balance.total.as_u64();
        assert!(fee < 60, "{silence:?}: {fee}");
        assert_eq!(balance.reserved.as_u64(), 0, "{silence:?}");
        // The seller finds its tongue, and the same readings can be bought.
        *scene.crook.until.lock().unwrap() = Until::Claim;
        let bought = scene.buy(NOW).await.unwrap().unwrap();
        assert!(matches!(bought, Released::Waiting { .. }), "{bought:?}");
        scene.stop().await;
    }
}

/// That the network has the conflicting transaction is no block: here the seller wins the race, and shows the key for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coin_that_was_taken_back_and_is_mined_all_the_same_opens_its_batch() {
    let scene = Scene::new(None, Until::Parts).await;
    assert!(scene.buy(LONG).await.is_none());
    let order = scene.order();
    let buyer = scene.buyer.buyer();
    let given_up = buyer.give_up_release(&order).await;
    assert!(matches!(given_up, Err(BuyError::GivenUp { taken_back: true, .. })), "{given_up:?}");
    buyer.look_at_releases().await;
    let used = buyer.budgets(scene.double.identity.public()).unwrap().1.day;
    assert_eq!((state(&scene.buyer, &order), used.as_u64()), ("taken back", PRICE));
    let again = scene.buy(NOW).await.unwrap();
    assert!(matches!(again, Err(BuyError::GivenUp { taken_back: false, .. })), "{again:?}");
    assert_eq!(buyer.releases().unwrap().len(), 1, "nothing is ordered beside it");
    // The network forgets what took the coin's inputs back.
    let chain = scene.bootstrap.chain().dev_chain().unwrap();
    let now = sensora_node::clock::Clock::system().now_ms();
    chain.mine(now).unwrap();
    chain.reorg(1, now, sensora_chain::sources::dev::OnReorg::Forget).unwrap();
    let coin = purchase(&scene.buyer, &order).coin.unwrap();
    scene.bootstrap.chain().broadcast(&coin.beef).await.unwrap();
    scene.crook.known.lock().unwrap().coin = Some(coin);
    scene.bootstrap.chain().refresh().await.unwrap();
    scene.mine(7).await;
    scene.crook.claim().await;
    reaches(&scene.buyer, &order, "complete").await;
    scene.stop().await;
}

/// A seller that says "alive" for ever and sends no part holds one round of the chain task, and not all that come after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seller_that_only_says_that_it_is_there_does_not_stop_the_chain_task() {
    let scene = Scene::new(None, Until::Claim).await;
    scene.buy(NOW).await.unwrap().unwrap();
    let order = scene.order();
    scene.buyer.store().write(|tx| sensora_node::store::release::remove_parts(tx, &order, 1)).unwrap();
    scene.crook.babbles.store(true, Ordering::Relaxed);
    let before = scene.crook.begun.load(Ordering::Relaxed);
    scene.mine(7).await;
    scene.crook.claim().await;
    let begun_again = async {
        while scene.crook.begun.load(Ordering::Relaxed) < before + 2 {
            // Each block is an occasion for another round.
            scene.mine(1).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(50), begun_again).await.expect("the first round has no end");
    assert_eq!(state(&scene.buyer, &order), "revealed");
    scene.stop().await;
}

/// The seller has put a coin into the order's beginning that no wallet has built and no chain has seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coin_that_nobody_has_built_does_not_hold_its_readings_for_ever() {
    let scene = Scene::new(None, Until::Parts).await;
    scene.crook.invents.store(true, Ordering::Relaxed);
    assert!(scene.buy(LONG).await.is_none());
    let order = scene.order();
    assert_eq!(state(&scene.buyer, &order), "locking");
    let height = scene.buyer.buyer().releases().unwrap()[0].refund_height;
    while scene.bootstrap.chain().headers().tip_height() < height {
        scene.bootstrap.chain().mine().await.unwrap();
    }
    scene.mine(1).await;
    reaches(&scene.buyer, &order, "taken back").await;
    until("nothing to be looked after", || async {
        scene.buyer.buyer().look_at_releases().await;
        let watched = scene.buyer.store().read(sensora_node::store::release::watched_purchases);
        watched.unwrap().is_empty().then_some(())
    })
    .await;
    assert_eq!(scene.buyer.wallet().audit().unwrap().total.as_u64(), 100_000);
    scene.crook.invents.store(false, Ordering::Relaxed);
    *scene.crook.until.lock().unwrap() = Until::Claim;
    let bought = scene.buy(NOW).await.unwrap().unwrap();
    assert!(matches!(bought, Released::Waiting { .. }), "{bought:?}");
    scene.stop().await;
}

/// The coin was signed and its seller said nothing. It is back, and reading the key later is not paid for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coin_that_was_sent_and_not_answered_is_brought_again_by_itself() {
    let scene = Scene::new(None, Until::Parts).await;
    assert!(scene.buy(LONG).await.is_none());
    let order = scene.order();
    assert_eq!(state(&scene.buyer, &order), "locking");
    *scene.crook.until.lock().unwrap() = Until::Claim;
    reaches(&scene.buyer, &order, "waiting").await;
    scene.mine(7).await;
    scene.crook.claim().await;
    reaches(&scene.buyer, &order, "complete").await;
    assert_eq!(lines(&scene.buyer, &format!("order {order}")).len(), 1, "paid once");
    let paid: i64 = lines(&scene.buyer, &format!("order {order}")).iter().sum();
    assert!(paid.unsigned_abs() >= PRICE && paid.unsigned_abs() < PRICE + 60, "{paid}");
    scene.stop().await;
}

/// A coin that the network does not have is not brought to it while nothing is to be paid.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coin_of_a_frozen_home_goes_out_when_that_is_lifted() {
    let home = tempfile::tempdir().unwrap();
    let scene = Scene::in_home(Some(home.path()), None, Until::Parts).await;
    assert!(scene.buy(LONG).await.is_none());
    let order = scene.order();
    assert_eq!(state(&scene.buyer, &order), "locking");
    let freeze = Freeze::of(Some(home.path()));
    freeze.set().unwrap();
    *scene.crook.until.lock().unwrap() = Until::Claim;
    let resumed = scene.buyer.buyer().resume_releases(NOW, |_| {}).await.unwrap();
    assert!(matches!(resumed[..], [(_, Err(BuyError::Frozen(_)))]), "{resumed:?}");
    scene.buyer.buyer().look_at_releases().await;
    assert_eq!(state(&scene.buyer, &order), "locking");
    assert!(scene.crook.known.lock().unwrap().coin.is_none(), "nothing was sent");
    assert!(freeze.lift().unwrap());
    reaches(&scene.buyer, &order, "waiting").await;
    scene.stop().await;
}
