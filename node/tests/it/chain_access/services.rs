//! Services that time out, limit, fail, lie and contradict each other: nothing false is believed, and nothing is paid twice.

use std::collections::BTreeMap;
use std::time::Duration;

use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::header::HeaderView as _;
use sensora_chain::sources::dev::{DevChain, OnReorg};
use sensora_chain::sources::service::{Need, ServiceConfig};
use sensora_chain::{FeeRate, Satoshis, Txid};
use sensora_node::chain_access::{
    Asked, BroadcastError, ChainAccess, ChainError, ChainService, ChainTasks, Failure, MemoryHeaderStore,
    ServiceState, ServicesOptions, SourceOptions, SpentBy, TipWord, TxStanding, start,
};
use sensora_node::fees::{FeeLimits, Fees};
use sensora_node::supervisor::{ChainRole, Node, ServicesRole};
use sensora_protocol::chain_access::Refusal;
use sensora_protocol::market::offer::Range;
use tokio_util::sync::CancellationToken;

use super::http::{Fake, Mood};
use super::world::{
    Client, NOW_MS, Peer, clock, coin, fair_fee, key, new_chain, options, script_of, spend, within,
};
use crate::world::{self, Place, World, agent, bootstrap, fund, sim, until};

/// Chain access over services.
struct Access {
    chain: ChainAccess,
    cancel: CancellationToken,
    _tasks: ChainTasks,
    /// The node behind it, where peers are asked, too.
    _peer: Option<Peer>,
}

impl Drop for Access {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn access(services: Vec<ServiceConfig>) -> Access {
    ordered(services, BTreeMap::new(), &[]).await
}

async fn ordered(
    services: Vec<ServiceConfig>,
    order: BTreeMap<Need, Vec<String>>,
    servers: &[&Peer],
) -> Access {
    let peer = if servers.is_empty() { None } else { Some(Peer::plain().await) };
    let swarm = peer.as_ref().map(|peer| {
        (peer.net.clone(), servers.iter().map(|server| server.as_chain_peer()).collect::<Vec<_>>())
    });
    let services = ServicesOptions { services, order, faucet_key: None };
    let source = SourceOptions::Services { services, swarm, mine: None };
    let cancel = CancellationToken::new();
    let store = Box::new(MemoryHeaderStore::default());
    let (chain, tasks) = within(start(options(source, store), cancel.clone())).await.unwrap();
    Access { chain, cancel, _tasks: tasks, _peer: peer }
}

impl Access {
    async fn follows(&self, dev: &DevChain) {
        let mut watch = self.chain.tip_watch();
        within(watch.wait_for(|tip| tip.hash == dev.tip().unwrap().hash)).await.unwrap();
    }

    fn state(&self, name: &str) -> ServiceState {
        self.chain.services().into_iter().find(|state| state.name == name).unwrap()
    }

    async fn standing(&self, txid: Txid) -> TxStanding {
        within(self.chain.proofs(&[txid])).await.unwrap().remove(0).1
    }

    fn disagreement(&self, one: &str, says: &str) -> bool {
        let is = |asked: &Asked| *asked == Asked::Service(one.into());
        self.chain.disagreements().iter().any(|d| is(&d.one) && d.what.contains(says))
    }
}

/// A payment of a coin of this key, as Atomic BEEF.
fn payment(dev: &DevChain, seed: u8) -> (Vec<u8>, Txid) {
    let owner = key(seed);
    let funded = dev.faucet(&script_of(&owner), Satoshis::from_sat(50_000)).unwrap();
    let mut beef = sensora_chain::beef::Beef::new();
    dev.mine(NOW_MS).unwrap();
    let path = dev.merkle_path(&funded.txid()).unwrap().unwrap();
    let txid = beef.add(funded, Some(&path)).unwrap();
    let coin = coin(&beef.to_atomic(&txid).unwrap(), &owner);
    let (beef, tx) = spend(&coin, &owner, vec![], fair_fee(0));
    (beef, tx.txid())
}

fn names(error: &ChainError) -> Vec<String> {
    let ChainError::Unavailable { tried } = error else { panic!("{error}") };
    tried.iter().map(|tried| tried.asked.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_followed_sent_to_and_asked_and_their_proofs_hold() {
    let dev = new_chain();
    let fake = Fake::start(&dev, Mood::Fair).await;
    let access = access(vec![fake.chaintracks("tracks"), fake.arc("arc")]).await;
    access.follows(&dev).await;
    let (beef, txid) = payment(&dev, 1);
    within(access.chain.broadcast(&beef)).await.unwrap();
    within(access.chain.broadcast(&beef)).await.expect("sending it again is no error");
    assert_eq!(dev.mempool().unwrap(), [txid]);
    assert_eq!(access.standing(txid).await, TxStanding::Mempool);
    assert_eq!(access.standing(Txid([9; 32])).await, TxStanding::Unknown);
    let block = dev.mine(NOW_MS).unwrap();
    // It follows the new header before it judges.
    let TxStanding::Mined(path) = access.standing(txid).await else { panic!("it is mined") };
    assert_eq!(path.root_for(&txid), Some(block.header.merkle_root()));

    let before = access.chain.headers().tip();
    dev.reorg(12, NOW_MS, OnReorg::Requeue).unwrap();
    access.follows(&dev).await;
    assert!(access.chain.headers().height_of(&before.hash).is_none(), "a deep reorganisation is followed");
    let quote = within(access.chain.fee_quote()).await.unwrap();
    assert_eq!((quote.0.as_str(), quote.1.rate), ("arc", FeeRate::new(120)));
    let checks = within(access.chain.check_services()).await;
    assert!(matches!(checks[0].stands, Some(TipWord::Agrees { behind: 0 })), "{checks:?}");
    assert!(checks[1].tip.is_none() && matches!(&checks[1].quote, Some(Ok(_))), "{checks:?}");
    let scan = within(access.chain.scan(b"SENSORA", 0, 10)).await.unwrap_err();
    assert!(matches!(scan, ChainError::NoService { need: Need::Blocks }), "{scan}");
    let faucet = within(access.chain.faucet(&script_of(&key(1)), Satoshis::from_sat(1))).await.unwrap_err();
    assert!(matches!(faucet, ChainError::NotDev), "{faucet}");
    assert!(access.chain.disagreements().is_empty(), "{:?}", access.chain.disagreements());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_is_left_for_the_next() {
    for mood in [Mood::Silent, Mood::Limited(30), Mood::Failing, Mood::Truncated, Mood::Huge] {
        let dev = new_chain();
        let (bad, good) = (Fake::start(&dev, mood).await, Fake::start(&dev, Mood::Fair).await);
        let services =
            vec![bad.chaintracks("bad-tracks"), bad.arc("bad"), good.chaintracks("tracks"), good.arc("good")];
        let access = access(services).await;
        access.follows(&dev).await;
        let (beef, txid) = payment(&dev, 2);
        within(access.chain.broadcast(&beef)).await.unwrap_or_else(|error| panic!("{mood:?}: {error}"));
        dev.mine(NOW_MS).unwrap();
        assert!(matches!(access.standing(txid).await, TxStanding::Mined(_)), "{mood:?}");
        assert_eq!(within(access.chain.fee_quote()).await.unwrap().0, "good", "{mood:?}");
        let state = access.state("bad");
        assert!(state.failed > 0 && state.lies == 0 && state.last_failure.is_some(), "{mood:?}: {state:?}");
        assert!(!state.is_distrusted, "to fail is no lie: {mood:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_says_nothing_is_spent_hides_no_spend() {
    let dev = new_chain();
    let (bad, good) = (Fake::start(&dev, Mood::HidesSpends).await, Fake::start(&dev, Mood::Fair).await);
    let services = vec![good.chaintracks("tracks"), bad.whatsonchain("bad"), good.whatsonchain("good")];
    let access = access(services).await;
    let (beef, txid) = payment(&dev, 1);
    access.follows(&dev).await;
    let parsed = Beef::parse(&beef, &BeefLimits::default()).unwrap();
    let payment = parsed.transaction(&txid).unwrap().clone();
    let coin = payment.inputs[0].previous;
    let spent = || async { within(access.chain.spent(&[coin])).await.unwrap().remove(0).1 };
    assert!(matches!(spent().await, SpentBy::Nothing));
    let asked = |of: &Fake| of.asked(&format!("GET /tx/{}/{}/spent", coin.txid, coin.vout));
    assert!(matches!(spent().await, SpentBy::Nothing));
    assert_eq!((asked(&bad), asked(&good)), (2, 1), "the second is asked once for each block");

    dev.submit(&payment).unwrap();
    dev.mine(NOW_MS).unwrap();
    access.follows(&dev).await;
    let SpentBy::Transaction { tx, .. } = spent().await else { panic!("it is hidden") };
    assert_eq!(tx.txid(), txid);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_hides_no_other() {
    let dev = new_chain();
    let funded = dev.faucet(&script_of(&key(2)), Satoshis::from_sat(1_000)).unwrap().txid();
    dev.mine(NOW_MS).unwrap();
    let unknown: Vec<Txid> = (1..=8).map(|n| Txid([n; 32])).collect();
    let (large, txids) = (unknown[2], [&unknown[..], &[funded]].concat());
    let fake = Fake::start(&dev, Mood::HugeAbout(large)).await;
    let access = access(vec![fake.chaintracks("tracks"), fake.arc("arc")]).await;
    access.follows(&dev).await;
    let lines = within(access.chain.proofs(&txids)).await.unwrap();
    assert!(lines.iter().map(|(of, _)| of).eq(&txids), "a line for each, in their order");
    assert!(matches!(lines[8].1, TxStanding::Mined(_)), "{lines:?}");
    // Nor does it make an error of what is no more than somebody's word.
    let lines = within(access.chain.proofs(&unknown)).await.unwrap();
    assert!(lines.iter().all(|(_, standing)| *standing == TxStanding::Unknown), "{lines:?}");
    assert_eq!(access.state("arc").failed, 0, "it has done its part");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_to_wait_is_not_asked_meanwhile() {
    let dev = new_chain();
    let (busy, good) = (Fake::start(&dev, Mood::Limited(600)).await, Fake::start(&dev, Mood::Fair).await);
    let access = access(vec![busy.arc("busy"), good.chaintracks("tracks"), good.arc("good")]).await;
    for _ in 0..5 {
        assert_eq!(access.standing(Txid([1; 32])).await, TxStanding::Unknown);
    }
    assert_eq!(busy.asked("GET /v1/tx/"), 1, "after its Retry-After it is left alone");
    let rests = access.state("busy").rests_for.unwrap();
    assert!(rests > Duration::from_secs(300) && rests <= Duration::from_secs(600), "{rests:?}");
    let (beef, _) = payment(&dev, 3);
    within(access.chain.broadcast(&beef)).await.unwrap();
    assert_eq!(busy.asked("POST"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_does_not_hold_is_believed_nobody_and_its_service_distrusted() {
    let dev = new_chain();
    let (liar, good) = (Fake::start(&dev, Mood::WrongRoot).await, Fake::start(&dev, Mood::Fair).await);
    let (_, txid) = {
        let (beef, txid) = payment(&dev, 4);
        let access = access(vec![good.arc("good")]).await;
        within(access.chain.broadcast(&beef)).await.unwrap();
        dev.mine(NOW_MS).unwrap();
        // Nearer to the tip it could be of a branch that competes with ours.
        for _ in 0..6 {
            dev.mine_empty(NOW_MS).unwrap();
        }
        (beef, txid)
    };
    let alone = access(vec![good.chaintracks("tracks"), liar.arc("liar")]).await;
    alone.follows(&dev).await;
    let error = within(alone.chain.proofs(&[txid])).await.unwrap_err();
    let ChainError::Unavailable { tried } = &error else { panic!("{error}") };
    assert!(matches!(tried[0].failure, Failure::False(_)), "{error}");
    let error = within(alone.chain.proofs(&[txid])).await.unwrap_err();
    let ChainError::Unavailable { tried } = &error else { panic!("{error}") };
    assert!(matches!(tried[0].failure, Failure::Resting(_)), "a liar is not asked again: {error}");

    let both = access(vec![good.chaintracks("tracks"), liar.arc("liar"), good.arc("good")]).await;
    both.follows(&dev).await;
    assert!(matches!(both.standing(txid).await, TxStanding::Mined(_)));
    let state = both.state("liar");
    assert!(state.is_distrusted && state.lies == 1, "{state:?}");
    let asked = liar.asked("");
    assert!(matches!(both.standing(txid).await, TxStanding::Mined(_)));
    assert_eq!(liar.asked(""), asked, "its word counts for nothing now");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_work_are_not_followed() {
    let dev = new_chain();
    let (liar, good) = (Fake::start(&dev, Mood::NoWork).await, Fake::start(&dev, Mood::Fair).await);
    let access = access(vec![liar.chaintracks("liar"), good.chaintracks("good")]).await;
    access.follows(&dev).await;
    until("the liar to be found out", || async { access.state("liar").is_distrusted.then_some(()) }).await;
    assert_eq!(access.chain.headers().tip().hash, dev.tip().unwrap().hash);
    for _ in 0..3 {
        dev.mine_empty(NOW_MS).unwrap();
    }
    access.follows(&dev).await;
    assert_eq!(access.chain.headers().tip_height(), dev.tip().unwrap().height);
}

#[tokio::test(flavor = "multi_thread")]
async fn seen_is_nothing_to_believe_when_it_is_never_mined() {
    let dev = new_chain();
    let (dreamer, good) = (Fake::start(&dev, Mood::SeenForever).await, Fake::start(&dev, Mood::Fair).await);
    let access = access(vec![good.chaintracks("tracks"), dreamer.arc("dreamer"), good.arc("good")]).await;
    let (beef, txid) = payment(&dev, 5);
    access.follows(&dev).await;
    within(access.chain.broadcast(&beef)).await.unwrap();
    assert_eq!(dev.mempool().unwrap(), [txid], "it went to all, so it has arrived");
    assert_eq!(access.standing(txid).await, TxStanding::Mempool);
    assert_eq!(good.asked("GET /v1/tx/"), 0, "one word is enough for a while");
    dev.mine(NOW_MS).unwrap();
    dev.mine_empty(NOW_MS).unwrap();
    access.follows(&dev).await;
    assert!(
        matches!(access.standing(txid).await, TxStanding::Mined(_)),
        "then others are asked for the proof"
    );

    let alone = super::services::access(vec![good.chaintracks("tracks"), dreamer.arc("dreamer")]).await;
    alone.follows(&dev).await;
    for _ in 0..3 {
        assert_eq!(alone.standing(txid).await, TxStanding::Mempool, "a word stays a word");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_disagree_are_named() {
    let (dev, other) = (new_chain(), new_chain());
    // It leaves the common chain two blocks before its end, and has less work.
    other.reorg(2, NOW_MS, OnReorg::Requeue).unwrap();
    while other.tip().unwrap().height + 5 > dev.tip().unwrap().height {
        dev.mine_empty(NOW_MS).unwrap();
    }
    let (good, branch) = (Fake::start(&dev, Mood::Fair).await, Fake::start(&other, Mood::Fair).await);
    let denier = Fake::start(&dev, Mood::Denies).await;
    let services = vec![
        branch.chaintracks("branch"),
        good.chaintracks("tracks"),
        denier.arc("denier"),
        good.arc("good"),
    ];
    let access = access(services).await;
    access.follows(&dev).await;
    until("the branch to be named", || async {
        access.disagreement("branch", "tracks has another one").then_some(())
    })
    .await;
    let checks = within(access.chain.check_services()).await;
    assert_eq!(checks[0].stands, Some(TipWord::Differs), "{checks:?}");

    let (beef, txid) = payment(&dev, 6);
    within(access.chain.broadcast(&beef)).await.expect("one that accepts is enough");
    assert!(access.disagreement("denier", "good accepts"), "{:?}", access.chain.disagreements());
    dev.mine(NOW_MS).unwrap();
    assert!(matches!(access.standing(txid).await, TxStanding::Mined(_)));
    assert!(
        access.disagreement("denier", "good proves that it is mined"),
        "{:?}",
        access.chain.disagreements()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn that_it_is_a_double_spend_has_to_be_shown_where_others_accept() {
    let dev = new_chain();
    let (claims, good) =
        (Fake::start(&dev, Mood::CallsItDoubleSpent).await, Fake::start(&dev, Mood::Fair).await);
    let access = access(vec![claims.arc("claims"), good.chaintracks("tracks"), good.arc("good")]).await;
    let (beef, txid) = payment(&dev, 7);
    within(access.chain.broadcast(&beef)).await.expect("a claim alone does not undo what is accepted");
    assert_eq!(dev.mempool().unwrap(), [txid]);
    // Where nobody accepts, it is what it is said to be.
    good.becomes(Mood::Denies);
    let (beef, _) = payment(&dev, 8);
    let refused = within(access.chain.broadcast(&beef)).await.unwrap_err();
    assert!(matches!(refused, BroadcastError::Rejected { double_spent: true, code: 466, .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_a_service_has_did_not_lose_to_another() {
    let dev = new_chain();
    let only = Fake::start(&dev, Mood::CollidesWithItself).await;
    let access = access(vec![only.chaintracks("tracks"), only.arc("only")]).await;
    let (beef, txid) = payment(&dev, 7);
    within(access.chain.broadcast(&beef)).await.expect("a second copy of it is no other transaction");
    assert_eq!(dev.mempool().unwrap(), [txid]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_for_one_need_is_kept() {
    let dev = new_chain();
    let (first, second) = (Fake::start(&dev, Mood::Fair).await, Fake::start(&dev, Mood::Fair).await);
    let order = BTreeMap::from([(Need::Proofs, vec!["second".to_owned()])]);
    let services = vec![first.arc("first"), second.arc("second")];
    let access = ordered(services.clone(), order, &[]).await;
    assert_eq!(access.standing(Txid([1; 32])).await, TxStanding::Unknown);
    assert_eq!((first.asked("GET /v1/tx/"), second.asked("GET /v1/tx/")), (0, 1));
    assert_eq!(within(access.chain.fee_quote()).await.unwrap().0, "first");
    let order = BTreeMap::from([(Need::Fees, vec!["third".to_owned()])]);
    let services = ServicesOptions { services, order, faucet_key: None };
    let source = SourceOptions::Services { services, swarm: None, mine: None };
    let unknown =
        start(options(source, Box::new(MemoryHeaderStore::default())), CancellationToken::new()).await;
    let Err(ChainError::UnknownService { need: Need::Fees, name }) = unknown else {
        panic!("it is not there")
    };
    assert_eq!(name, "third");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_may_be_down_and_come_back() {
    let dev = new_chain();
    let (one, two) = (Fake::start(&dev, Mood::Failing).await, Fake::start(&dev, Mood::Silent).await);
    let access = access(vec![one.chaintracks("tracks"), one.arc("one"), two.arc("two")]).await;
    let (beef, txid) = payment(&dev, 9);
    let error = within(access.chain.proofs(&[txid])).await.unwrap_err();
    assert_eq!(names(&error), ["one", "two"]);
    let refused = within(access.chain.broadcast(&beef)).await.unwrap_err();
    let BroadcastError::Unavailable { tried } = &refused else { panic!("{refused}") };
    assert_eq!(tried.len(), 2, "{refused}");
    assert!(refused.to_string().contains("one has failed (503)"), "{refused}");
    assert!(within(access.chain.refresh()).await.is_err());
    one.becomes(Mood::Fair);
    two.becomes(Mood::Fair);
    within(access.chain.broadcast(&beef)).await.unwrap();
    dev.mine(NOW_MS).unwrap();
    access.follows(&dev).await;
    assert!(matches!(access.standing(txid).await, TxStanding::Mined(_)));
    assert_eq!(access.state("one").rests_for, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_answer_where_no_service_does() {
    let dev = new_chain();
    let server = Peer::serving(&dev).await;
    let down = Fake::start(&dev, Mood::Failing).await;
    let services = vec![down.chaintracks("tracks"), down.arc("arc")];
    let access = ordered(services, BTreeMap::new(), &[&server]).await;
    access.follows(&dev).await;
    let (beef, txid) = payment(&dev, 10);
    within(access.chain.broadcast(&beef)).await.unwrap();
    dev.mine(NOW_MS).unwrap();
    assert!(matches!(access.standing(txid).await, TxStanding::Mined(_)));
    assert!(within(access.chain.scan(b"SENSORA", 0, 10)).await.unwrap().is_empty());
    within(access.chain.faucet(&script_of(&key(1)), Satoshis::from_sat(1000))).await.unwrap();
    within(access.chain.refresh()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_accepts_everything_makes_no_payment_of_what_a_service_refuses() {
    let dev = new_chain();
    // It takes it at once; the payer may have asked it to.
    let friend = Peer::serving(&dev).await;
    let own = Fake::start(&dev, Mood::Denies).await;
    let services = vec![own.chaintracks("tracks"), own.arc("own")];
    let access = ordered(services, BTreeMap::new(), &[&friend]).await;
    access.follows(&dev).await;
    let (beef, _) = payment(&dev, 12);
    let refused = within(access.chain.broadcast(&beef)).await.unwrap_err();
    assert!(matches!(refused, BroadcastError::Rejected { double_spent: false, code: 461, .. }), "{refused}");
    // A service that says nothing leaves the word to peers.
    own.becomes(Mood::Failing);
    let (beef, txid) = payment(&dev, 13);
    within(access.chain.broadcast(&beef)).await.unwrap();
    assert!(dev.mempool().unwrap().contains(&txid));
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_answered_from_services_and_headers_by_everybody() {
    let dev = new_chain();
    let fake = Fake::start(&dev, Mood::Fair).await;
    let access = access(vec![fake.chaintracks("tracks"), fake.arc("arc")]).await;
    access.follows(&dev).await;
    let serving = |with_services: bool| {
        let service = ChainService::for_node(None, &access.chain, with_services, clock());
        let runtime = tokio::runtime::Handle::current();
        Peer::answering(move |peer, body| {
            if with_services {
                runtime.block_on(service.answer_from_services(peer, body))
            } else {
                service.answer(peer, body)
            }
        })
    };
    let (full, only_headers) = (serving(true).await, serving(false).await);

    let modest = Client::of(&[&only_headers]).await;
    modest.follows(&dev).await;
    let refused = within(modest.chain.proofs(&[Txid([1; 32])])).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(&Refusal::NotServed));
    dev.mine_empty(NOW_MS).unwrap();
    modest.follows(&dev).await;

    let client = Client::of(&[&only_headers, &full]).await;
    client.follows(&dev).await;
    let (beef, txid) = payment(&dev, 11);
    within(client.chain.broadcast(&beef)).await.unwrap();
    dev.mine(NOW_MS).unwrap();
    let lines = within(client.chain.proofs(&[txid])).await.unwrap();
    assert!(matches!(lines[0].1, TxStanding::Mined(_)));

    // What costs our services requests is limited for each peer; headers go on.
    let many: Vec<Txid> = (0..64).map(|n| Txid([n; 32])).collect();
    let before = fake.asked("GET /v1/tx/");
    let mut refused = 0;
    for _ in 0..4 {
        refused += usize::from(within(client.chain.proofs(&many)).await.is_err());
    }
    assert!(refused >= 3, "{refused}");
    assert!(fake.asked("GET /v1/tx/") - before <= 64, "a peer cannot use up our quota");
    dev.mine_empty(NOW_MS).unwrap();
    client.follows(&dev).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fee_rate_follows_the_services_and_survives_a_restart() {
    let dev = new_chain();
    let fake = Fake::start(&dev, Mood::Fair).await;
    let access = access(vec![fake.arc("arc")]).await;
    let public = key(1).public();
    let store = sensora_node::store::Store::in_memory(sensora_chain::Network::Regtest, &public).unwrap();
    let limits = FeeLimits::default();
    let fees = Fees::restored(limits, &store).unwrap();
    assert_eq!(fees.now().rate, FeeRate::DEFAULT);
    let cancel = CancellationToken::new();
    let following =
        tokio::spawn(fees.clone().follow(access.chain.clone(), store.clone(), clock(), cancel.clone()));
    until("the quote", || async { fees.state().quoted.is_some().then_some(()) }).await;
    assert_eq!(fees.now().rate, FeeRate::new(120));
    cancel.cancel();
    within(following).await.unwrap();
    let again = Fees::restored(FeeLimits { cap: FeeRate::new(110), ..limits }, &store).unwrap();
    assert_eq!(again.now().rate, FeeRate::new(110), "the last quote, within the limits of now");
    assert_eq!(again.state().quoted, Some(("arc".to_owned(), FeeRate::new(120), NOW_MS)));
}

/// The role of a node over these services, with the bootstrap node's chain behind them.
fn role(services: Vec<ServiceConfig>, world_addresses: &[sensora_node::net::Multiaddr]) -> ChainRole {
    ChainRole::Services(ServicesRole {
        services: ServicesOptions { services, ..ServicesOptions::default() },
        peers: world_addresses.to_vec(),
        serve: false,
        mine: None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_are_sold_and_bought_over_services_of_which_some_misbehave() {
    let (bootstrap, addresses) = bootstrap().await;
    let dev = bootstrap.chain().dev_chain().unwrap().clone();
    let good = Fake::start(&dev, Mood::Fair).await;
    let bad = Fake::start(&dev, Mood::WrongRoot).await;
    let denier = Fake::start(&dev, Mood::Denies).await;
    let services = || {
        vec![
            bad.chaintracks("bad-tracks"),
            bad.arc("bad"),
            denier.arc("denier"),
            good.chaintracks("tracks"),
            good.arc("good"),
        ]
    };
    let mut config = world::options(2, &Place::Memory);
    config.bootstrap.clone_from(&addresses);
    config.chain = role(services(), &addresses);
    config.agent = Some(agent(vec![sim(500)]));
    let agent = Node::start(config).await.unwrap();
    let mut config = world::options(3, &Place::Memory);
    config.bootstrap.clone_from(&addresses);
    config.chain = role(services(), &addresses);
    let buyer = Node::start(config).await.unwrap();
    fund(&buyer, 1_000_000).await;
    let world = World { bootstrap, agent, buyer, addresses };
    world.recorded().await;

    let before = world.buyer.wallet().balance().unwrap().total.as_u64();
    let mut paid = 0;
    for (mood, count) in
        [(Mood::WrongRoot, 50), (Mood::Failing, 60), (Mood::SeenForever, 70), (Mood::Truncated, 80)]
    {
        bad.becomes(mood);
        let first = paid / 2;
        let request = world.request(Range::Seq { first, count }).await;
        let bought = world
            .buyer
            .buyer()
            .buy(&request, |_| {})
            .await
            .unwrap_or_else(|error| panic!("{mood:?}: {error}"));
        assert_eq!((bought.count, bought.paid.as_u64()), (count, count * 2), "{mood:?}");
        paid += count * 2;
    }
    // Every satoshi that is gone is a price or a fee, once.
    until("all to be mined", || async {
        world.buyer.wallet().read(sensora_chain::wallet::Wallet::unproven).is_empty().then_some(())
    })
    .await;
    let fees: u64 = world
        .buyer
        .wallet()
        .history()
        .unwrap()
        .iter()
        .filter_map(|line| line.fee)
        .map(|fee| fee.as_u64())
        .sum();
    assert_eq!(before - world.buyer.wallet().balance().unwrap().total.as_u64(), paid + fees);
    let sold: i64 = world
        .agent
        .wallet()
        .history()
        .unwrap()
        .iter()
        .filter(|line| line.label.starts_with("sale "))
        .map(|line| line.delta_sat)
        .sum();
    assert_eq!(u64::try_from(sold).unwrap(), paid, "the seller has each price once");
    world.buyer.wallet().audit().unwrap();
    world.agent.wallet().audit().unwrap();
    world.shutdown().await;
}
