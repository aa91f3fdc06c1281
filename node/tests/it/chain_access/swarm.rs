//! What an honest server and its client do.

use std::sync::Arc;

use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::data_output;
use sensora_chain::header::{Header, HeaderView};
use sensora_chain::sources::dev::OnReorg;
use sensora_chain::{OutPoint, Satoshis, Txid, spv};
use sensora_node::chain_access::{
    BroadcastError, ChainError, Failure, HeaderStore, HeaderStoreError, MemoryHeaderStore, SourceOptions,
    SpentBy, TxStanding, start,
};
use sensora_protocol::chain_access::Refusal;
use sensora_protocol::chain_access::message::{MAX_FAUCET_PAYMENT, MAX_FAUCET_PER_DAY, MAX_SCANNED};
use tokio_util::sync::CancellationToken;

use super::world::{
    Client, NOW_MS, Peer, clock, coin, fair_fee, key, new_chain, options, script_of, spend, with_data, within,
};

const SAT: fn(u64) -> Satoshis = Satoshis::from_sat;

#[derive(Clone, Default)]
struct Shared(Arc<MemoryHeaderStore>);

impl HeaderStore for Shared {
    fn load(&self) -> Result<Vec<[u8; Header::SIZE]>, HeaderStoreError> {
        self.0.load()
    }

    fn replace_from(&self, height: u32, headers: &[[u8; Header::SIZE]]) -> Result<(), HeaderStoreError> {
        self.0.replace_from(height, headers)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_followed_from_the_first_through_a_reorganisation_and_a_restart() {
    let dev = new_chain();
    while dev.tip().unwrap().height < 2_500 {
        dev.mine_empty(NOW_MS).unwrap();
    }
    let server = Peer::serving(&dev).await;
    let store = Shared::default();
    let client = Client::with_store(&[&server], Box::new(store.clone())).await;
    client.follows(&dev).await;
    assert_eq!(client.chain.headers().tip().height, 2_500);
    assert_eq!(client.chain.headers().header_at(1_234), dev.header(1_234).unwrap());

    let old = client.chain.headers();
    let reorged = dev.reorg(3, NOW_MS, OnReorg::Requeue).unwrap();
    client.follows(&dev).await;
    let new = client.chain.headers();
    assert_eq!((old.tip().height, new.tip().height), (2_500, 2_501));
    assert_eq!(new.header_at(2_497), old.header_at(2_497));
    assert_ne!(new.header_at(2_498), old.header_at(2_498));
    assert_eq!(new.header_at(2_498).unwrap(), reorged.blocks[0].header);

    let tip = new.tip();
    client.cancel.cancel();
    within(client.tasks.finished()).await;
    let again = Client::with_store(&[], Box::new(store)).await;
    assert_eq!(again.chain.headers().tip(), tip, "what was followed is there without asking anybody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_is_broadcast_once_and_a_double_spend_or_a_bad_fee_never() {
    let (dev, owner) = (new_chain(), key(3));
    let server = Peer::serving(&dev).await;
    let client = Client::of(&[&server]).await;
    let funding = within(client.chain.faucet(&script_of(&owner), SAT(50_000))).await.unwrap();
    let coin = coin(&funding, &owner);
    let (beef, tx) = spend(&coin, &owner, vec![], fair_fee(0));

    let (cheap, _) = spend(&coin, &owner, vec![], 1);
    let refused = within(client.chain.broadcast(&cheap)).await.unwrap_err();
    assert!(matches!(refused, BroadcastError::Rejected { double_spent: false, code: 465, .. }), "{refused}");

    within(client.chain.broadcast(&beef)).await.unwrap();
    within(client.chain.broadcast(&beef)).await.expect("sending it again is no error");
    assert_eq!(dev.mempool().unwrap().last(), Some(&tx.txid()));

    let (rival, _) = spend(&coin, &owner, vec![], fair_fee(0) + 1);
    let refused = within(client.chain.broadcast(&rival)).await.unwrap_err();
    assert!(matches!(refused, BroadcastError::Rejected { double_spent: true, code: 466, .. }), "{refused}");
    dev.mine(NOW_MS).unwrap();
    let refused = within(client.chain.broadcast(&rival)).await.unwrap_err();
    assert!(matches!(refused, BroadcastError::Rejected { double_spent: true, code: 466, .. }), "{refused}");

    let junk = within(client.chain.broadcast(b"no BEEF")).await.unwrap_err();
    assert!(matches!(junk, BroadcastError::Failed(ChainError::Invalid(_))), "{junk}");
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_and_spendings_hold_against_the_clients_own_headers() {
    let (dev, owner) = (new_chain(), key(4));
    let server = Peer::serving(&dev).await;
    let client = Client::of(&[&server]).await;
    let funding = within(client.chain.faucet(&script_of(&owner), SAT(50_000))).await.unwrap();
    let coin = coin(&funding, &owner);
    let (beef, tx) = spend(&coin, &owner, vec![], fair_fee(0));
    within(client.chain.broadcast(&beef)).await.unwrap();

    let (txid, other) = (tx.txid(), Txid([9; 32]));
    let lines = within(client.chain.proofs(&[txid, other])).await.unwrap();
    assert_eq!(lines, [(txid, TxStanding::Mempool), (other, TxStanding::Unknown)]);

    let block = dev.mine(NOW_MS).unwrap();
    // The client may not have seen the block yet: it follows the peer that says so before it judges.
    let lines = within(client.chain.proofs(&[txid, coin.outpoint.txid])).await.unwrap();
    for (txid, standing) in &lines {
        let TxStanding::Mined(path) = standing else { panic!("{standing:?}") };
        assert_eq!(path.root_for(txid), Some(block.header.merkle_root()));
        assert_eq!(path.block_height(), block.height);
    }

    let change = OutPoint { txid, vout: 0 };
    let nowhere = OutPoint { txid: other, vout: 0 };
    let spent = within(client.chain.spent(&[coin.outpoint, change, nowhere])).await.unwrap();
    assert!(matches!(&spent[0].1, SpentBy::Transaction { tx: by, mined: Some(_) } if *by == tx));
    assert_eq!(spent[1], (change, SpentBy::Nothing));
    assert_eq!(spent[2], (nowhere, SpentBy::Unknown));
    let many = vec![nowhere; 150];
    assert_eq!(within(client.chain.spent(&many)).await.unwrap().len(), 150, "asked in several requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spend_that_is_too_large_for_an_answer_hides_no_other() {
    let (dev, owner) = (new_chain(), key(5));
    let server = Peer::serving(&dev).await;
    let client = Client::of(&[&server]).await;
    let mut outpoints = Vec::new();
    for size in [0, 0, 990_000, 0, 0] {
        let funded = dev.faucet(&script_of(&owner), SAT(500_000)).unwrap();
        dev.mine(NOW_MS).unwrap();
        let (mut beef, path) = (Beef::new(), dev.merkle_path(&funded.txid()).unwrap());
        let txid = beef.add(funded, path.as_ref()).unwrap();
        let coin = coin(&beef.to_atomic(&txid).unwrap(), &owner);
        let (_, tx) = spend(&coin, &owner, vec![data_output(&[&vec![7; size]])], fair_fee(size));
        dev.submit(&tx).unwrap();
        outpoints.push(coin.outpoint);
    }
    dev.mine(NOW_MS).unwrap();
    let source =
        SourceOptions::Dev { chain: dev.clone(), block_interval: std::time::Duration::from_secs(3600) };
    let (store, cancel) = (Box::new(MemoryHeaderStore::default()), CancellationToken::new());
    let (own, _tasks) = within(start(options(source, store), cancel.clone())).await.unwrap();
    for chain in [&client.chain, &own] {
        let lines = within(chain.spent(&outpoints)).await.unwrap();
        assert!(lines.iter().map(|(of, _)| of).eq(&outpoints), "a line for each, in their order");
        for (at, (_, spent)) in lines.iter().enumerate() {
            let is_proven = matches!(spent, SpentBy::Transaction { mined: Some(_), .. });
            assert_eq!((is_proven, *spent == SpentBy::Unknown), (at != 2, at == 2), "{at}");
        }
    }
    cancel.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_finds_each_data_output_once_page_by_page() {
    let (dev, owner) = (new_chain(), key(5));
    let server = Peer::serving(&dev).await;
    let client = Client::of(&[&server]).await;
    let mut made = Vec::new();
    let start_height = dev.tip().unwrap().height;
    for block in 0u32..3 {
        let funding = within(client.chain.faucet(&script_of(&owner), SAT(100_000))).await.unwrap();
        let tags: Vec<Vec<u8>> = (0..5u32).map(|n| format!("SENSORA_ADV {block} {n}").into_bytes()).collect();
        let mut tags: Vec<&[u8]> = tags.iter().map(Vec::as_slice).collect();
        tags.push(b"something else");
        let (beef, tx) = with_data(&coin(&funding, &owner), &owner, &tags);
        within(client.chain.broadcast(&beef)).await.unwrap();
        let mined = dev.mine(NOW_MS).unwrap();
        made.extend((0..5).map(|vout| (mined.height, tx.txid(), vout)));
    }
    let found = within(client.chain.scan(b"SENSORA_ADV", start_height, 1000)).await.unwrap();
    let places: Vec<_> = found.iter().map(|output| (output.height, output.txid, output.vout)).collect();
    assert_eq!(places, made);
    assert_eq!(found[0].pushes, [b"SENSORA_ADV 0 0".to_vec(), b"payload".to_vec()]);
    let beef = Beef::parse(&found[0].beef, &BeefLimits::DEFAULT).unwrap();
    assert!(spv::verify(&beef, &found[0].txid, &client.chain.headers()).unwrap().is_mined().is_some());

    // Pages that end inside a block go on there.
    let mut paged = Vec::new();
    let mut next = Some(sensora_protocol::chain_access::message::ScanPosition::at_height(0));
    while let Some(from) = next {
        let (page, then) = within(client.chain.scan_page(b"SENSORA_ADV", from, 2)).await.unwrap();
        assert!(page.len() <= 2);
        paged.extend(page);
        next = then;
    }
    assert_eq!(paged, found);
    let later = within(client.chain.scan(b"SENSORA_ADV", made[5].0, MAX_SCANNED)).await.unwrap();
    assert_eq!(later, found[5..]);
    assert_eq!(within(client.chain.scan(b"SENSORA_ADV", 0, 7)).await.unwrap(), found[..7]);
    assert!(within(client.chain.scan(b"nobody writes this", 0, 10)).await.unwrap().is_empty());
    let no_prefix = within(client.chain.scan(b"", 0, 10)).await.unwrap_err();
    assert!(matches!(no_prefix, ChainError::Invalid(Refusal::Malformed { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_faucet_pays_until_the_days_quota_is_used_up() {
    let (dev, owner) = (new_chain(), key(6));
    let server = Peer::serving(&dev).await;
    let (client, neighbour) = (Client::of(&[&server]).await, Client::of(&[&server]).await);
    let script = script_of(&owner);
    let too_much = SAT(MAX_FAUCET_PAYMENT.as_u64() + 1);
    let refused = within(client.chain.faucet(&script, too_much)).await.unwrap_err();
    assert!(matches!(refused, ChainError::Invalid(Refusal::TooMany { .. })), "{refused}");
    for _ in 0..MAX_FAUCET_PER_DAY.as_u64() / MAX_FAUCET_PAYMENT.as_u64() {
        let funding = within(client.chain.faucet(&script, MAX_FAUCET_PAYMENT)).await.unwrap();
        assert_eq!(coin(&funding, &owner).output.value, MAX_FAUCET_PAYMENT);
    }
    let refused = within(client.chain.faucet(&script, SAT(1_000))).await.unwrap_err();
    assert!(
        matches!(refused.refusal(), Some(Refusal::FaucetUsedUp { left: Satoshis::ZERO, .. })),
        "{refused}"
    );
    within(neighbour.chain.faucet(&script, SAT(1_000))).await.expect("others have their own quota");
    let refused = within(client.chain.proofs(&[Txid([1; 32])])).await;
    assert!(refused.is_ok(), "a peer without quota is still answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_chain_serves_none_and_is_passed_over() {
    let dev = new_chain();
    let (plain, server) = (Peer::plain().await, Peer::serving(&dev).await);
    let lonely = Client::of(&[]).await;
    let nobody = within(lonely.chain.proofs(&[Txid([1; 32])])).await.unwrap_err();
    assert!(matches!(nobody, ChainError::NoSource), "{nobody}");
    let misled = Client::of(&[&plain]).await;
    let refused = within(misled.chain.proofs(&[Txid([1; 32])])).await.unwrap_err();
    let ChainError::Unavailable { tried } = &refused else { panic!("{refused}") };
    assert_eq!(tried[0].failure, Failure::Refused(Refusal::NotServed));
    let client = Client::of(&[&plain, &server]).await;
    client.follows(&dev).await;
    // A server that is connected without being configured is found, too.
    within(lonely.peer.net.dial(server.id(), server.addresses.clone())).await.unwrap();
    lonely.follows(&dev).await;
    within(lonely.chain.faucet(&script_of(&key(7)), SAT(1_000))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_of_the_development_chain_has_the_same_access() {
    let (dev, owner) = (new_chain(), key(8));
    let source =
        SourceOptions::Dev { chain: dev.clone(), block_interval: std::time::Duration::from_millis(20) };
    let cancel = CancellationToken::new();
    let store = Box::new(MemoryHeaderStore::default());
    let (chain, tasks) = within(start(options(source, store), cancel.clone())).await.unwrap();
    assert_eq!(chain.headers().tip().hash, dev.tip().unwrap().hash);
    let funding = within(chain.faucet(&script_of(&owner), SAT(50_000))).await.unwrap();
    let coin = coin(&funding, &owner);
    let (beef, tx) = with_data(&coin, &owner, &[b"SENSORA_PROOF"]);
    within(chain.broadcast(&beef)).await.unwrap();
    let (rival, _) = spend(&coin, &owner, vec![], fair_fee(0));
    let refused = within(chain.broadcast(&rival)).await.unwrap_err();
    assert!(matches!(refused, BroadcastError::Rejected { double_spent: true, .. }), "{refused}");
    // It is mined because it waits, without anybody asking for it.
    let mut watch = chain.tip_watch();
    within(async {
        while !matches!(chain.proofs(&[tx.txid()]).await.unwrap()[0].1, TxStanding::Mined(_)) {
            watch.changed().await.unwrap();
        }
    })
    .await;
    assert_eq!(within(chain.scan(b"SENSORA", 0, 10)).await.unwrap()[0].txid, tx.txid());
    let before = chain.headers().tip().height;
    assert!(within(chain.mine()).await.unwrap().height > before);
    dev.reorg(2, NOW_MS, OnReorg::Requeue).unwrap();
    within(watch.wait_for(|tip| tip.hash == dev.tip().unwrap().hash)).await.unwrap();
    assert!(chain.dev_chain().is_some() && clock().now_ms() == NOW_MS);
    cancel.cancel();
    within(tasks.finished()).await;
}
