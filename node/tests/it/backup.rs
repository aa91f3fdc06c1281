//! Old backups, words alone, and watching: what a node finds again on the chain, to the satoshi.

use std::collections::BTreeMap;

use sensora_chain::sources::dev::DevChain;
use sensora_chain::{OutPoint, Satoshis, Script, TxOut};
use sensora_node::backup::{Backup, Keeper, KeeperParts, Lock, read_file};
use sensora_node::clock::Clock;
use sensora_node::recovery::{BlockScan, DEFAULT_GAP, catch_up, find_signposts, scan_dev_chain};
use sensora_node::store::{Store, orders};
use sensora_node::supervisor::{Node, NodeOptions};
use sensora_node::watch_only::{WatchError, WatchFile, WatchWallet};
use sensora_protocol::market::offer::Range;
use sensora_protocol::market::purchase::Purchase;

use crate::world::{Place, World, fund, options, until};

fn seq(first: u64, count: u64) -> Range {
    Range::Seq { first, count }
}

fn coins(node: &Node) -> BTreeMap<OutPoint, Satoshis> {
    node.wallet().coins().into_iter().map(|coin| (coin.outpoint, coin.value)).collect()
}

/// That every coin of the wallet is one on the chain: there, of that value, and unspent.
fn equals_chain(node: &Node, dev: &DevChain) {
    let balance = node.wallet().audit().unwrap();
    let coins = coins(node);
    for (outpoint, value) in &coins {
        assert_eq!(dev.output(outpoint).unwrap().map(|output| output.value), Some(*value), "{outpoint}");
        assert_eq!(dev.spent_by(outpoint).unwrap(), None, "{outpoint} is spent on the chain");
    }
    let sum: u64 = coins.values().map(|value| value.as_u64()).sum();
    assert_eq!(sum, balance.total.as_u64());
}

/// A node of the same key on the same chain, with what `store` holds.
async fn second_home(world: &World, seed: u8, store: Store) -> Node {
    let config = options(seed, &Place::Memory);
    let config = NodeOptions { store, bootstrap: world.addresses.clone(), ..config };
    let node = Node::start(config).await.unwrap();
    until("the chain", || async {
        let tip = world.bootstrap.chain().headers().tip();
        (node.chain().refresh().await.is_ok() && node.chain().headers().tip().height >= tip.height)
            .then_some(())
    })
    .await;
    node
}

fn empty(node: &Node) -> Store {
    Store::in_memory(node.network(), node.identity().public()).unwrap()
}

async fn all_mined(node: &Node) {
    until("every transaction to be mined", || async {
        let balance = node.wallet().balance().ok()?;
        (balance.unconfirmed == Satoshis::ZERO && balance.reserved == Satoshis::ZERO).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_backup_loses_nothing_that_the_chain_knows_and_spends_nothing_twice() {
    let world = World::new(400).await;
    let dev = world.bootstrap.chain().dev_chain().unwrap().clone();
    let (key, clock) = (world.buyer.identity().key().clone(), Clock::system());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("buyer.age");
    let parts = KeeperParts {
        path: path.clone(),
        store: world.buyer.store().clone(),
        identity: world.buyer.identity().clone(),
        network: world.buyer.network(),
        clock: clock.clone(),
    };
    Keeper::new(parts).write().unwrap();

    // Five purchases that the backup knows nothing of, some of them from coins that it knows.
    for n in 0..5 {
        let request = world.request(seq(n * 20, 20)).await;
        world.buyer.buyer().buy(&request, |_| {}).await.unwrap();
    }
    all_mined(&world.buyer).await;
    let truth = coins(&world.buyer);
    let paid = world.buyer.wallet().balance().unwrap().total;
    // The disk is gone; what remains is the file, and the words that open it.
    world.buyer.shutdown().await;

    let backup = Backup::open(&read_file(&path).unwrap(), Lock::Key(&key)).unwrap();
    let store = empty(&world.buyer);
    backup.restore(&store, clock.now_ms()).unwrap();
    let restored = second_home(&world, 3, store).await;
    assert_ne!(coins(&restored), truth, "the backup is an old one");
    let (wallet, chain, identity) = (restored.wallet(), restored.chain(), restored.identity());
    let followed = catch_up(wallet, chain, identity, &clock, DEFAULT_GAP).await.unwrap();
    assert!(followed.spending >= 5 && followed.came_back >= 1, "{followed:?}");
    all_mined(&restored).await;
    assert_eq!(coins(&restored), truth);
    assert_eq!(restored.wallet().balance().unwrap().total, paid);
    equals_chain(&restored, &dev);
    // Again: nothing new.
    let again = catch_up(wallet, chain, identity, &clock, DEFAULT_GAP).await.unwrap();
    assert_eq!((again.spending, again.came_back), (0, 0), "{again:?}");

    // It goes on: buys what it has not, under change keys that were never used.
    let before = coins(&restored);
    let request = world.request(seq(100, 20)).await;
    restored.buyer().buy(&request, |_| {}).await.unwrap();
    for (outpoint, _) in coins(&restored).into_iter().filter(|(outpoint, _)| !before.contains_key(outpoint)) {
        let script = dev.output(&outpoint).unwrap().unwrap().locking;
        let mut used = 0;
        for height in 1..=dev.tip().unwrap().height {
            for txid in dev.block_txids(height).unwrap().unwrap() {
                let tx = dev.transaction(&txid).unwrap().unwrap();
                used += tx.outputs.iter().filter(|output| output.locking == script).count();
            }
        }
        assert!(used <= 1, "an address was used twice");
    }
    all_mined(&restored).await;
    equals_chain(&restored, &dev);
    restored.shutdown().await;
    world.agent.shutdown().await;
    world.bootstrap.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coin_that_an_old_backup_takes_for_its_own_is_refused_and_noticed() {
    let world = World::new(50).await;
    let dev = world.bootstrap.chain().dev_chain().unwrap().clone();
    let key = world.buyer.identity().key().clone();
    let (network, public) = (world.buyer.network(), *world.buyer.identity().public());
    let backup = Backup::take(world.buyer.store(), network, &public, None, 0).unwrap();
    let backup = Backup::open(&backup.seal(Lock::Key(&key)).unwrap(), Lock::Key(&key)).unwrap();
    // While the buyer that knows the ad is still there.
    let request = world.request(seq(0, 10)).await;
    // Since the backup everything went elsewhere.
    let all = world.buyer.wallet().balance().unwrap().total.as_u64();
    let out = TxOut { value: Satoshis::from_sat(all - 200), locking: Script::p2pkh(&[7; 20]) };
    let sent = world.buyer.wallet().post(vec![out], "sweep", |_, _| Ok(())).unwrap();
    world.buyer.wallet().deliver(&sent.txid, &sent.beef).await.unwrap();
    world.buyer.shutdown().await;
    let store = empty(&world.buyer);
    backup.restore(&store, 0).unwrap();
    let restored = second_home(&world, 3, store).await;
    // It has not followed the chain yet, and orders with coins that are gone.
    restored.buyer().buy(&request, |_| {}).await.unwrap_err();
    let open = restored.store().read(orders::open_purchases).unwrap();
    assert!(open.iter().all(Purchase::may_return), "the order has ended, as far as the blocks say: {open:?}");
    catch_up(restored.wallet(), restored.chain(), restored.identity(), &Clock::system(), 50).await.unwrap();
    equals_chain(&restored, &dev);
    assert!(restored.wallet().status(&sent.txid).is_some_and(|status| status.is_settled()));
    restored.shutdown().await;
    world.agent.shutdown().await;
    world.bootstrap.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_alone_find_what_follows_from_a_number_and_anchors_and_ads_lead_to_it() {
    let world = World::new(100).await;
    let dev = world.bootstrap.chain().dev_chain().unwrap().clone();
    let clock = Clock::system();
    world.buyer.buyer().buy(&world.request(seq(0, 40)).await, |_| {}).await.unwrap();
    let anchorer = world.agent.agent().unwrap().anchorer().clone();
    until("anchors", || async { (!anchorer.newest_anchors(1).ok()?.is_empty()).then_some(()) }).await;
    all_mined(&world.buyer).await;
    all_mined(&world.agent).await;
    world.buyer.shutdown().await;
    world.agent.shutdown().await;

    // The buyer: every coin of it is an address or change.
    let node = second_home(&world, 3, empty(&world.buyer)).await;
    let scan = BlockScan::new(node.identity().key(), DEFAULT_GAP, 0);
    let found = scan_dev_chain(scan, &dev, &node.chain().headers()).unwrap();
    found.credit_to(node.wallet(), node.identity().key(), 0).unwrap();
    assert_eq!(coins(&node), coins(&world.buyer));
    equals_chain(&node, &dev);
    node.shutdown().await;

    // The seller, over peers and without any index of scripts: its anchors and ads are signposts. What the buyer paid is under a key that the words do not
    // give, and everything else is there.
    let node = second_home(&world, 2, empty(&world.agent)).await;
    let found = find_signposts(node.chain(), node.identity(), DEFAULT_GAP, 0).await.unwrap();
    assert!(found.coins().0 > 0);
    found.credit_to(node.wallet(), node.identity().key(), 0).unwrap();
    catch_up(node.wallet(), node.chain(), node.identity(), &clock, DEFAULT_GAP).await.unwrap();
    let (had, found) = (coins(&world.agent), coins(&node));
    let sales: u64 = world
        .agent
        .wallet()
        .coins()
        .iter()
        .filter(|coin| matches!(coin.purpose, sensora_chain::wallet::Purpose::Payment { .. }))
        .map(|coin| coin.value.as_u64())
        .sum();
    assert!(found.iter().all(|coin| had.get(coin.0) == Some(coin.1)));
    let (had, found): (u64, u64) =
        (had.values().map(|v| v.as_u64()).sum(), found.values().map(|v| v.as_u64()).sum());
    // An anchor may have been paid with what the buyer paid: then that is change by now, and found.
    assert_eq!(had - found, sales);
    assert!(found > 90_000 && sales <= 80, "{found} {sales}");
    equals_chain(&node, &dev);
    node.shutdown().await;
    world.bootstrap.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_file_shows_the_money_and_can_spend_none_of_it() {
    let world = World::new(50).await;
    let buyer = &world.buyer;
    fund(buyer, 70_000).await;
    let (network, root) = (buyer.network(), buyer.identity().key());
    let file = buyer.wallet().read(|wallet| WatchFile::of(wallet, root, network, 0)).unwrap();
    let text = serde_json::to_vec_pretty(&file).unwrap();
    assert_eq!(WatchFile::parse(&text).unwrap(), file);
    let mut watch = WatchWallet::new(&file, network).unwrap();
    assert_eq!(watch.balance().unconfirmed.as_u64(), 1_070_000, "nothing is known of the chain yet");
    // Somebody else's node follows it: what is bought goes, what comes back to unknown change is not the watcher's to know.
    buyer.buyer().buy(&world.request(seq(0, 30)).await, |_| {}).await.unwrap();
    all_mined(buyer).await;
    let observer = second_home(&world, 77, {
        let key = crate::world::identity(77);
        Store::in_memory(network, key.public()).unwrap()
    })
    .await;
    watch.refresh(observer.chain()).await.unwrap();
    assert_eq!((watch.spent().len(), watch.balance().unconfirmed), (1, Satoshis::ZERO));
    let kept: u64 = watch.balance().confirmed.as_u64();
    assert!(kept == 70_000 || kept == 1_000_000, "{kept}");
    // A newer file knows the change.
    let file = buyer.wallet().read(|wallet| WatchFile::of(wallet, root, network, 0)).unwrap();
    let mut watch = WatchWallet::new(&file, network).unwrap();
    watch.refresh(observer.chain()).await.unwrap();
    assert_eq!(watch.balance().confirmed, buyer.wallet().balance().unwrap().total);

    // A coin that was made up is no money; a file of another network is refused.
    let mut forged = file.clone();
    forged.coins[0].tx = forged.coins[0].tx.replace("00000000", "00000001");
    let outcome = WatchWallet::new(&forged, network);
    if let Ok(mut watch) = outcome {
        watch.refresh(observer.chain()).await.unwrap();
        assert!(watch.balance().confirmed < buyer.wallet().balance().unwrap().total);
    }
    forged.coins[0].tx = "zz".into();
    assert!(matches!(WatchWallet::new(&forged, network), Err(WatchError::Coin { number: 1, .. })));
    let main = WatchWallet::new(&file, sensora_chain::Network::Main);
    assert!(matches!(main, Err(WatchError::Network { .. })));
    observer.shutdown().await;
    world.shutdown().await;
}
