//! The development chain from outside: what it takes, what it refuses, and that it stays one chain through restarts
//! and reorganisations. `bsv-rs` is the second opinion on its blocks.

pub(crate) mod contracts;

use std::sync::Arc;

use bsv_rs::primitives::bsv::sighash::{TxInput, TxOutput, TxSighashCache};
use bsv_rs::script::{LockingScript, ProtocolEra, ScriptFlags, Spend, TxSpendParams, UnlockingScript};
use proptest::prelude::*;
use redb::Database;
use redb::backends::InMemoryBackend;
use sensora_chain::contract::payment::{pay_to_hash, sign_input};
use sensora_chain::contract::{data_output, parse_data_output};
use sensora_chain::encode::{Reader, sha256d};
use sensora_chain::header::{Header, HeaderView};
use sensora_chain::sources::dev::{
    COINBASE_MATURITY, DataPlace, DevChain, DevChainConfig, DevChainError, MAX_CHAIN, OnReorg, Reject,
    SUBSIDY, Submitted, TxStatus,
};
use sensora_chain::wallet::{CoinState, PaymentSpec, Received, Status, Wallet};
use sensora_chain::{
    FeeRate, Network, OutPoint, PrivateKey, Satoshis, Script, Transaction, TxIn, TxOut, Txid,
};

pub(crate) const NOW: i64 = 1_790_000_000_000;

fn memory() -> Arc<Database> {
    Arc::new(Database::builder().create_with_backend(InMemoryBackend::new()).unwrap())
}

pub(crate) fn chain() -> DevChain {
    let chain = DevChain::open(memory(), DevChainConfig::default()).unwrap();
    chain.ensure_funded(NOW).unwrap();
    chain
}

pub(crate) fn key(tag: u8) -> PrivateKey {
    PrivateKey::from_bytes([tag.saturating_add(1); 32]).unwrap()
}

pub(crate) fn sat(value: u64) -> Satoshis {
    Satoshis::from_sat(value)
}

pub(crate) fn lock(tag: u8) -> Script {
    Script::p2pkh(&key(tag).public().hash160())
}

/// A coin for `key(tag)` out of the faucet.
pub(crate) fn coin(chain: &DevChain, tag: u8, value: u64) -> (OutPoint, TxOut) {
    let tx = chain.faucet(&lock(tag), sat(value)).unwrap();
    (OutPoint { txid: tx.txid(), vout: 0 }, tx.outputs[0].clone())
}

/// A signed transaction that spends coins of `key(tag)`.
pub(crate) fn spend(coins: &[(OutPoint, TxOut)], tag: u8, outputs: Vec<TxOut>) -> Transaction {
    signed(Transaction::new(coins.iter().map(|(at, _)| TxIn::new(*at)).collect(), outputs), coins, tag)
}

pub(crate) fn signed(mut tx: Transaction, coins: &[(OutPoint, TxOut)], tag: u8) -> Transaction {
    for (index, (_, spent)) in coins.iter().enumerate() {
        sign_input(&mut tx, index, spent, &key(tag)).unwrap();
    }
    tx
}

pub(crate) fn pay(value: u64) -> TxOut {
    pay_to_hash(&[5; 20], sat(value))
}

pub(crate) fn refused(chain: &DevChain, tx: &Transaction) -> Reject {
    match chain.submit(tx) {
        Err(DevChainError::Reject(reject)) => {
            assert_eq!(chain.status(&tx.txid()).unwrap(), TxStatus::Unknown);
            reject
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_new_chain_is_funded_once() {
    let chain = DevChain::open(memory(), DevChainConfig::default()).unwrap();
    assert_eq!(chain.tip().unwrap().header, Header::regtest_genesis());
    chain.ensure_funded(NOW).unwrap();
    let tip = chain.tip().unwrap();
    assert_eq!(tip.height, COINBASE_MATURITY + 2);
    chain.ensure_funded(NOW).unwrap();
    assert_eq!(chain.tip().unwrap(), tip);
    let supply = chain.supply().unwrap();
    assert_eq!(supply.issued, SUBSIDY.checked_mul(u64::from(tip.height)).unwrap());
    assert_eq!(supply.issued, supply.unspent);
}

#[test]
fn many_faucet_payments_fit_between_two_blocks() {
    let chain = chain();
    let paid: Vec<Txid> = (0..120).map(|n| chain.faucet(&lock(n), sat(5_000_000)).unwrap().txid()).collect();
    assert_eq!(chain.mempool().unwrap(), paid);
    let block = chain.mine(NOW).unwrap();
    assert_eq!(block.txids[1..], paid[..]);
    assert!(chain.mempool().unwrap().is_empty());
    let all = chain.faucet(&lock(1), Satoshis::MAX);
    assert!(matches!(all, Err(DevChainError::FaucetEmpty { available }) if available > SUBSIDY));
    chain.faucet(&lock(1), sat(6_000_000_000)).unwrap();
}

#[test]
fn what_is_submitted_is_mined_and_proven() {
    let chain = chain();
    let from = coin(&chain, 1, 10_000);
    let tx =
        spend(std::slice::from_ref(&from), 1, vec![pay(9_000), data_output(&[b"SENSORA_TEST", b"body"])]);
    assert!(matches!(chain.submit(&tx).unwrap(), Submitted::Accepted { fee } if fee == sat(1_000)));
    assert_eq!(chain.submit(&tx).unwrap(), Submitted::Known);
    assert_eq!(chain.status(&tx.txid()).unwrap(), TxStatus::Mempool);
    assert_eq!(chain.spent_by(&from.0).unwrap(), Some(tx.txid()));
    assert_eq!(chain.merkle_path(&tx.txid()).unwrap(), None);
    let empty = chain.mine_empty(NOW).unwrap();
    assert_eq!(empty.txids.len(), 1);
    assert_eq!(chain.status(&tx.txid()).unwrap(), TxStatus::Mempool);

    let block = chain.mine(NOW).unwrap();
    assert_eq!(
        chain.status(&tx.txid()).unwrap(),
        TxStatus::Mined { height: block.height, block: block.hash }
    );
    assert_eq!(chain.submit(&tx).unwrap(), Submitted::Known);
    assert_eq!(chain.transaction(&tx.txid()).unwrap(), Some(tx.clone()));
    assert_eq!(chain.output(&OutPoint { txid: tx.txid(), vout: 0 }).unwrap(), Some(pay(9_000)));
    assert_eq!(chain.height_of(&block.hash).unwrap(), Some(block.height));
    assert!(block.fees >= sat(1_000));
    let coinbase = chain.transaction(&block.txids[0]).unwrap().unwrap();
    assert_eq!(coinbase.output_sum().unwrap(), SUBSIDY.checked_add(block.fees).unwrap());
    for txid in &block.txids {
        let path = chain.merkle_path(txid).unwrap().unwrap();
        assert_eq!(path.block_height(), block.height);
        assert_eq!(path.root_for(txid), Some(chain.header_at(block.height).unwrap().merkle_root()));
    }
}

#[test]
fn each_rule_refuses_what_breaks_it() {
    let chain = chain();
    let coins: Vec<_> = (0..4).map(|_| coin(&chain, 1, 10_000)).collect();
    let one = &coins[..1];
    let good = spend(one, 1, vec![pay(9_000)]);
    let edit = |edit: &dyn Fn(&mut Transaction)| {
        let mut tx = good.clone();
        edit(&mut tx);
        signed(tx, one, 1)
    };
    let with_output = |value, script: Vec<u8>| {
        edit(&|tx| tx.outputs.push(TxOut { value: sat(value), locking: Script::new(script.clone()) }))
    };

    let tiny = Transaction::new(vec![], vec![pay(1)]);
    assert!(matches!(refused(&chain, &tiny), Reject::TooSmall { size: 44 }));
    let huge = with_output(0, [&[0, 0x6a, 0x4e, 0, 0, 16, 0], vec![0; 1 << 20].as_slice()].concat());
    assert!(matches!(refused(&chain, &huge), Reject::TooLarge { .. }));
    assert_eq!(refused(&chain, &edit(&|tx| tx.version = 2)), Reject::Version(2));
    let nothing_in = Transaction::new(vec![], vec![pay(1), pay(2)]);
    assert_eq!(refused(&chain, &nothing_in), Reject::NoInputs);
    assert_eq!(refused(&chain, &edit(&|tx| tx.outputs.clear())), Reject::NoOutputs);
    let mut coinbase = good.clone();
    coinbase.inputs[0].previous = OutPoint::NULL;
    assert_eq!(refused(&chain, &coinbase), Reject::Coinbase);
    coinbase.inputs.insert(0, good.inputs[0].clone());
    assert_eq!(refused(&chain, &coinbase), Reject::NullInput(1));
    let twice = edit(&|tx| tx.inputs.push(tx.inputs[0].clone()));
    assert_eq!(refused(&chain, &twice), Reject::DuplicateInput(one[0].0));
    let all = Satoshis::MAX.as_u64();
    assert_eq!(refused(&chain, &spend(one, 1, vec![pay(all), pay(all)])), Reject::OutputSum);
    assert_eq!(refused(&chain, &with_output(0, lock(2).into_bytes())), Reject::Dust(1));
    assert_eq!(
        refused(&chain, &with_output(0, vec![0x6a, 1, 1])),
        Reject::Dust(1),
        "spendable since Genesis"
    );
    assert_eq!(refused(&chain, &with_output(1, vec![0, 0x6a, 1, 1])), Reject::DataValue(1));
    let p2sh = [&[0xa9, 20], [1; 20].as_slice(), &[0x87]].concat();
    assert_eq!(refused(&chain, &with_output(500, p2sh)), Reject::PayToScriptHash(1));

    let height = chain.tip().unwrap().height + 1;
    let locked = |lock_time, sequence| {
        edit(&|tx| {
            tx.lock_time = lock_time;
            tx.inputs[0].sequence = sequence;
        })
    };
    assert!(matches!(refused(&chain, &locked(height, 0)), Reject::NotFinal { height: h, .. } if h == height));
    let (now, past) = ((NOW / 1_000) as u32, (NOW / 1_000) as u32 - 1_000);
    assert!(matches!(refused(&chain, &locked(now + 7_200, 0)), Reject::NotFinal { .. }));

    let mut nowhere = good.clone();
    nowhere.inputs[0].previous = OutPoint { txid: Txid([9; 32]), vout: 0 };
    assert!(matches!(refused(&chain, &nowhere), Reject::MissingInputs { input: 0, .. }));
    let missing_output = OutPoint { vout: 99, ..one[0].0 };
    let no_output = spend(&[(missing_output, one[0].1.clone())], 1, vec![pay(1)]);
    assert_eq!(refused(&chain, &no_output), Reject::MissingInputs { input: 0, outpoint: missing_output });

    assert!(matches!(refused(&chain, &spend(one, 1, vec![pay(10_001)])), Reject::InBelowOut { .. }));
    let fee = |fee: u64| spend(one, 1, vec![pay(10_000 - fee)]);
    let needed = FeeRate::DEFAULT.fee(fee(20).size());
    assert_eq!(refused(&chain, &fee(0)), Reject::FeeTooLow { fee: sat(0), needed });
    let short = needed.as_u64() - 1;
    assert_eq!(refused(&chain, &fee(short)), Reject::FeeTooLow { fee: sat(short), needed });
    let rich = [coin(&chain, 1, 20_000_000)];
    assert!(matches!(refused(&chain, &spend(&rich, 1, vec![pay(1)])), Reject::AbsurdFee { .. }));

    let mut forged = good.clone();
    forged.outputs[0].value = sat(8_000);
    assert!(matches!(refused(&chain, &forged), Reject::Script(_)));
    assert_eq!(refused(&chain, &forged).reason(), "mandatory-script-verify-flag-failed");
    let anyone = spend(&coins[1..2], 1, vec![TxOut { value: sat(9_000), locking: Script::new(vec![0x51]) }]);
    chain.submit(&anyone).unwrap();
    let taken = OutPoint { txid: anyone.txid(), vout: 0 };
    let take = Transaction::new(vec![TxIn::new(taken)], vec![pay(8_000)]);
    assert_eq!(refused(&chain, &take), Reject::UnsupportedScript { input: 0 });

    for (lock_time, sequence) in [(height - 1, 0), (past - 100_000, 0), (height + 5, u32::MAX)] {
        let fresh = [coin(&chain, 1, 10_000)];
        let mut tx = spend(&fresh, 1, vec![pay(9_000)]);
        tx.lock_time = lock_time;
        tx.inputs[0].sequence = sequence;
        chain.submit(&signed(tx, &fresh, 1)).unwrap();
    }
    // None of the refused ones used the coin up.
    chain.submit(&good).unwrap();
    let double = spend(one, 1, vec![pay(8_000)]);
    assert_eq!(refused(&chain, &double), Reject::MempoolConflict { outpoint: one[0].0, by: good.txid() });
    chain.mine(NOW).unwrap();
    assert_eq!(refused(&chain, &double), Reject::MissingInputs { input: 0, outpoint: one[0].0 });
}

#[test]
fn a_coinbase_matures_after_100_blocks() {
    // The faucet's key is public: derived from the text in its module.
    let faucet = PrivateKey::from_bytes(sensora_chain::encode::sha256(
        b"sensora development chain faucet: worthless on purpose",
    ))
    .unwrap();
    let chain = chain();
    let young = chain.mine(NOW).unwrap();
    let coinbase = chain.transaction(&young.txids[0]).unwrap().unwrap();
    let mut tx = Transaction::new(
        vec![TxIn::new(OutPoint { txid: young.txids[0], vout: 0 })],
        vec![pay(coinbase.outputs[0].value.as_u64() - 1_000)],
    );
    sign_input(&mut tx, 0, &coinbase.outputs[0], &faucet).unwrap();
    let mature = young.height + COINBASE_MATURITY;
    while chain.tip().unwrap().height + 1 < mature {
        let reject = refused(&chain, &tx);
        assert_eq!(reject, Reject::ImmatureCoinbase { input: 0, height: young.height, mature });
        chain.mine(NOW).unwrap();
    }
    chain.submit(&tx).unwrap();
}

#[test]
fn chains_of_unmined_transactions_have_an_end() {
    let chain = chain();
    let mut from = coin(&chain, 1, 1_000_000);
    let parents = 1;
    let mut depth = parents;
    let reject = loop {
        let value = from.1.value.as_u64() - 20;
        let tx = spend(std::slice::from_ref(&from), 1, vec![TxOut { value: sat(value), locking: lock(1) }]);
        match chain.submit(&tx) {
            Ok(_) => from = (OutPoint { txid: tx.txid(), vout: 0 }, tx.outputs[0].clone()),
            Err(DevChainError::Reject(reject)) => break reject,
            Err(other) => panic!("{other}"),
        }
        depth += 1;
    };
    assert_eq!((reject, depth), (Reject::TooLongChain { depth: MAX_CHAIN + 1, limit: MAX_CHAIN }, MAX_CHAIN));
    let block = chain.mine(NOW).unwrap();
    assert_eq!(block.txids.len() as u32, 1 + MAX_CHAIN, "one block takes them all, parents first");
}

#[test]
fn data_outputs_are_found_by_their_first_push() {
    let chain = chain();
    let publish = |tag: &str, body: &str| {
        let from = coin(&chain, 1, 10_000);
        let tx = spend(&[from], 1, vec![pay(9_000), data_output(&[tag.as_bytes(), body.as_bytes()])]);
        chain.submit(&tx).unwrap();
        tx.txid()
    };
    let mut all = Vec::new();
    for n in 0..6 {
        all.push(publish(["APP_A", "APP_B", "APP_A2"][n % 3], &n.to_string()));
        publish("OTHER", "x");
        if n % 2 == 1 {
            chain.mine(NOW).unwrap();
        }
    }
    let waiting = publish("APP_A", "unmined");
    let scan = |prefix: &str, from, limit| {
        let found = chain.scan_data(prefix.as_bytes(), from, limit).unwrap();
        found
            .into_iter()
            .map(|output| (output.height, output.txid, output.pushes[1].clone()))
            .collect::<Vec<_>>()
    };
    let found = scan("APP_", 0, 100);
    assert_eq!(found.iter().map(|f| f.1).collect::<Vec<_>>(), all);
    assert!(found.iter().all(|f| f.1 != waiting));
    assert_eq!(scan("APP_A2", 0, 100).len(), 2);
    assert_eq!(scan("APP_A", 0, 100).len(), 4);
    assert_eq!(scan("APP_C", 0, 100).len(), 0);
    assert_eq!(scan("", 0, 100).len(), 12);
    let (mut paged, mut from) = (Vec::new(), 0);
    loop {
        let page = scan("APP_", from, 1);
        let Some(last) = page.last() else { break };
        assert_eq!(page.len(), 2, "a block is never cut in two");
        from = last.0 + 1;
        paged.extend(page);
    }
    assert_eq!(paged, found);
    let whole = chain.scan_data(b"APP_", 0, 100).unwrap();
    let (mut places, mut from) = (Vec::new(), DataPlace::default());
    while let [place] = chain.data_places(b"APP_", from, 1).unwrap()[..] {
        places.push((
            place.height,
            chain.block_txids(place.height).unwrap().unwrap()[place.index as usize],
            place.vout,
        ));
        from = DataPlace { vout: place.vout + 1, ..place };
    }
    assert_eq!(places, whole.iter().map(|f| (f.height, f.txid, f.vout)).collect::<Vec<_>>());
    let one = &chain.scan_data(b"APP_B", 0, 1).unwrap()[0];
    assert_eq!(parse_data_output(&one.tx.outputs[one.vout as usize].locking).unwrap(), one.pushes);
}

#[test]
fn a_reorganisation_returns_transactions_to_the_queue() {
    let chain = chain();
    let from = coin(&chain, 1, 10_000);
    chain.mine(NOW).unwrap();
    let first = spend(&[from], 1, vec![TxOut { value: sat(9_000), locking: lock(1) }]);
    chain.submit(&first).unwrap();
    let old = chain.mine(NOW).unwrap();
    let middle = (OutPoint { txid: first.txid(), vout: 0 }, first.outputs[0].clone());
    let second = spend(&[middle], 1, vec![pay(8_000), data_output(&[b"TAG"])]);
    chain.submit(&second).unwrap();
    chain.mine(NOW).unwrap();
    assert_eq!(chain.scan_data(b"TAG", 0, 9).unwrap().len(), 1);

    let reorged = chain.reorg(2, NOW, OnReorg::Requeue).unwrap();
    assert_eq!((reorged.first_height, reorged.blocks.len()), (old.height, 3));
    assert_eq!(reorged.returned, vec![first.txid(), second.txid()]);
    assert_eq!(chain.mempool().unwrap(), reorged.returned);
    assert_eq!(chain.height_of(&old.hash).unwrap(), None);
    assert_eq!(chain.scan_data(b"TAG", 0, 9).unwrap().len(), 0);
    assert_eq!(chain.merkle_path(&first.txid()).unwrap(), None);
    let block = chain.mine(NOW).unwrap();
    assert_eq!(block.txids[1..], reorged.returned[..]);
    check_chain(&chain);
    let tip = chain.tip().unwrap().height;
    assert!(matches!(chain.reorg(tip + 1, NOW, OnReorg::Requeue), Err(DevChainError::ReorgDepth { .. })));
    assert!(matches!(chain.reorg(0, NOW, OnReorg::Requeue), Err(DevChainError::ReorgDepth { .. })));
}

#[test]
fn a_reorganisation_can_make_room_for_a_double_spend() {
    let chain = chain();
    let from = coin(&chain, 1, 10_000);
    chain.mine(NOW).unwrap();
    let first = spend(std::slice::from_ref(&from), 1, vec![TxOut { value: sat(9_000), locking: lock(1) }]);
    chain.submit(&first).unwrap();
    chain.mine(NOW).unwrap();
    let middle = (OutPoint { txid: first.txid(), vout: 0 }, first.outputs[0].clone());
    let second = spend(&[middle], 1, vec![pay(8_000)]);
    chain.submit(&second).unwrap();

    let reorged = chain.reorg(1, NOW, OnReorg::Forget).unwrap();
    assert_eq!(reorged.forgotten, vec![first.txid()]);
    assert_eq!(chain.status(&first.txid()).unwrap(), TxStatus::Unknown);
    assert_eq!(chain.status(&second.txid()).unwrap(), TxStatus::Conflicted, "its parent is gone");
    let rival = spend(&[from], 1, vec![pay(7_000)]);
    chain.submit(&rival).unwrap();
    assert_eq!(chain.status(&first.txid()).unwrap(), TxStatus::Conflicted);
    chain.mine(NOW).unwrap();
    let error = chain.submit(&first).unwrap_err();
    assert!(matches!(error, DevChainError::Reject(Reject::MissingInputs { .. })));
    check_chain(&chain);
}

#[test]
fn a_chain_survives_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chain.redb");
    let open =
        || DevChain::open(Arc::new(Database::create(&path).unwrap()), DevChainConfig::default()).unwrap();
    let chain = open();
    chain.ensure_funded(NOW).unwrap();
    let mined = chain.faucet(&lock(1), sat(5_000)).unwrap().txid();
    let block = chain.mine(NOW).unwrap();
    let waiting = chain.faucet(&lock(1), sat(6_000)).unwrap().txid();
    let (tip, supply) = (chain.tip().unwrap(), chain.supply().unwrap());
    drop(chain);
    let chain = open();
    chain.ensure_funded(NOW).unwrap();
    assert_eq!((chain.tip().unwrap(), chain.supply().unwrap()), (tip, supply));
    assert_eq!(chain.status(&mined).unwrap(), TxStatus::Mined { height: block.height, block: block.hash });
    assert_eq!(chain.mempool().unwrap(), vec![waiting]);
    assert_eq!(chain.mine(NOW).unwrap().txids[1], waiting);
    check_chain(&chain);
}

/// Names the database of the process that is to be killed.
const VICTIM: &str = "SENSORA_TEST_DEV_CHAIN_VICTIM";

/// Not a test by itself: the process that `what_was_answered_survives_kill_9` kills. Tells every answer it got.
#[test]
fn victim() {
    let Some(path) = std::env::var_os(VICTIM) else { return };
    let chain = DevChain::open(Arc::new(Database::create(path).unwrap()), DevChainConfig::default()).unwrap();
    chain.ensure_funded(NOW).unwrap();
    for round in 1u64.. {
        println!("answer {}", chain.faucet(&lock(1), sat(20_000 + round)).unwrap().txid());
        if round.is_multiple_of(4) {
            println!("answer {}", chain.mine(NOW).unwrap().txids[0]);
        }
    }
}

#[test]
fn what_was_answered_survives_kill_9() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chain.redb");
    for round in 0..3 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "dev_chain::victim", "--nocapture"])
            .env(VICTIM, &path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let answers = lines.filter_map(|line| line.strip_prefix("answer ").map(str::to_owned));
        let answered: Vec<Txid> = answers.take(9 + round).map(|txid| txid.parse().unwrap()).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        let db = Arc::new(Database::create(&path).unwrap());
        let chain = DevChain::open(db, DevChainConfig::default()).unwrap();
        assert!(answered.len() >= 9);
        for txid in answered {
            assert_ne!(chain.status(&txid).unwrap(), TxStatus::Unknown, "{txid} was lost");
        }
        check_chain(&chain);
    }
}

#[test]
fn concurrent_callers_cannot_spend_a_coin_twice() {
    let chain = chain();
    let from = coin(&chain, 1, 10_000);
    let rivals: Vec<_> =
        (0..8).map(|n| spend(std::slice::from_ref(&from), 1, vec![pay(9_000 - n)])).collect();
    let accepted = std::thread::scope(|scope| {
        let threads: Vec<_> = rivals
            .iter()
            .map(|tx| {
                let chain = chain.clone();
                scope.spawn(move || chain.submit(tx).is_ok())
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).filter(|ok| *ok).count()
    });
    assert_eq!(accepted, 1);
}

#[test]
fn block_times_follow_the_clock_and_never_the_median() {
    let chain = chain();
    let later = NOW + 600_000;
    assert_eq!(i64::from(chain.mine(later).unwrap().header.time()) * 1_000, later);
    for _ in 0..30 {
        chain.mine(0).unwrap();
    }
    let headers = chain.headers(0, 5_000).unwrap();
    for window in headers.windows(12) {
        let mut times: Vec<u32> = window[..11].iter().map(Header::time).collect();
        times.sort_unstable();
        assert!(window[11].time() > times[5]);
    }
    assert_eq!(chain.headers(5, 3).unwrap(), headers[5..8]);
}

/// Everything that must hold of a chain at any time.
fn check_chain(chain: &DevChain) {
    let supply = chain.supply().unwrap();
    let accounted = supply.unspent.checked_add(supply.waiting_fees).unwrap();
    assert_eq!(supply.issued, accounted, "no money is made or lost");
    let tip = chain.tip().unwrap();
    let mut previous = Header::regtest_genesis();
    for height in 1..=tip.height {
        let header = chain.header_at(height).unwrap();
        assert_eq!(header.previous(), previous.hash());
        assert!(header.meets_target(Network::Regtest));
        for txid in chain.block_txids(height).unwrap().unwrap() {
            let path = chain.merkle_path(&txid).unwrap().unwrap();
            assert_eq!(path.root_for(&txid), Some(header.merkle_root()));
            assert!(matches!(chain.status(&txid).unwrap(), TxStatus::Mined { height: h, .. } if h == height));
        }
        previous = header;
    }
    assert_eq!(previous.hash(), tip.hash);
    for txid in chain.mempool().unwrap() {
        assert_eq!(chain.status(&txid).unwrap(), TxStatus::Mempool);
    }
}

#[test]
fn an_independent_implementation_accepts_the_blocks() {
    let chain = chain();
    let limit = bsv_rs::block::ChainParams::regtest().pow_limit;
    let mut odd = 0;
    for round in 0..7u8 {
        for n in 0..=round {
            let from = coin(&chain, n, 10_000);
            let outputs = vec![pay(5_000), data_output(&[b"TAG", &[n; 200]])];
            chain.submit(&spend(&[from], n, outputs)).unwrap();
        }
        chain.mine(NOW).unwrap();
    }
    let tip = chain.tip().unwrap().height;
    for height in 1..=tip {
        let bytes = chain.block_bytes(height).unwrap().unwrap();
        let header = bsv_rs::block::BlockHeader::from_binary(&bytes[..80]).unwrap();
        header.check_proof_of_work(&limit).unwrap();
        let mut reader = Reader::new(&bytes[80..]);
        let count = reader.varint("the count").unwrap();
        odd += usize::from(count % 2 == 1 && count > 1);
        let mut txs = Vec::new();
        for _ in 0..count {
            let ours = Transaction::read(&mut reader).unwrap();
            let theirs = bsv_rs::transaction::Transaction::from_binary(&ours.to_bytes()).unwrap();
            assert_eq!(theirs.id(), ours.txid().to_string());
            if !ours.is_coinbase() {
                for index in 0..ours.inputs.len() {
                    check_script(&chain, &ours, index);
                }
            }
            txs.push(theirs);
        }
        reader.finish("the block").unwrap();
        let root = bsv_rs::block::block_merkle_root(&txs);
        assert!(!root.mutated);
        assert_eq!(root.root, chain.header_at(height).unwrap().merkle_root());
        assert_eq!(sha256d(&bytes[..80]), chain.header_at(height).unwrap().hash().0);
    }
    assert!(odd > 0, "no block had an odd number of transactions");
}

/// An interpreter with the flags of a relaying node accepts the input.
fn check_script(chain: &DevChain, tx: &Transaction, index: usize) {
    let spent = chain.output(&tx.inputs[index].previous).unwrap().unwrap();
    let inputs = tx.inputs.iter().map(|input| TxInput {
        txid: input.previous.txid.0,
        output_index: input.previous.vout,
        script: vec![],
        sequence: input.sequence,
    });
    let outputs = tx.outputs.iter().map(|output| TxOutput {
        satoshis: output.value.as_u64(),
        script: output.locking.as_bytes().to_vec(),
    });
    let cache = TxSighashCache::new(tx.version as i32, inputs.collect(), outputs.collect(), tx.lock_time);
    let mut spend = Spend::with_transaction(TxSpendParams {
        transaction: Arc::new(cache),
        input_index: index,
        source_satoshis: spent.value.as_u64(),
        locking_script: LockingScript::from_binary(spent.locking.as_bytes()).unwrap(),
        unlocking_script: UnlockingScript::from_binary(tx.inputs[index].unlocking.as_bytes()).unwrap(),
        memory_limit: None,
        work_limit: None,
    })
    .unwrap();
    spend.set_flags(ScriptFlags::standard(ProtocolEra::PostChronicle));
    assert!(spend.validate().unwrap());
}

#[test]
fn a_wallet_lives_on_the_chain() {
    let (chain, root) = (chain(), key(42));
    let mut wallet = Wallet::new();
    for _ in 0..3 {
        let address = wallet.funding_address(&root, Network::Regtest).unwrap();
        let tx = chain.faucet(&address.locking_script(), sat(400_000)).unwrap();
        chain.mine(NOW).unwrap();
        let outputs = wallet.recognise(&tx);
        let path = chain.merkle_path(&tx.txid()).unwrap();
        let label = "faucet".to_owned();
        let received = Received { tx, outputs, ancestors: None, path, broadcast: true, label, now_ms: NOW };
        assert_eq!(wallet.receive(&root, received).unwrap(), sat(400_000));
    }
    for round in 0..40u64 {
        let spec = PaymentSpec {
            outputs: vec![pay(1_000 + round), data_output(&[b"TAG", &round.to_le_bytes()])],
            label: format!("payment {round}"),
            fee: FeeRate::DEFAULT,
            max_fee: sat(1_000),
            spends: Vec::new(),
        };
        let built = wallet.build(&root, spec, NOW).unwrap();
        chain.submit(&built.tx).unwrap();
        wallet.mark_broadcast(&built.txid).unwrap();
        if round % 5 == 4 {
            chain.mine(NOW).unwrap();
            for txid in wallet.unproven() {
                let path = chain.merkle_path(&txid).unwrap().unwrap();
                wallet.mark_mined(&txid, path, &chain).unwrap();
            }
            wallet.prune(chain.tip_height()).unwrap();
        }
        if round == 22 {
            chain.reorg(2, NOW, OnReorg::Requeue).unwrap();
            let stale = wallet.lowest_stale_proof(&chain).unwrap();
            assert!(!wallet.unmined(stale).is_empty());
        }
    }
    let balance = wallet.audit().unwrap();
    for coin in wallet.coins() {
        assert!(matches!(coin.state, CoinState::Confirmed(_) | CoinState::Unconfirmed));
        assert_eq!(chain.output(&coin.outpoint).unwrap().unwrap().value, coin.value);
        assert_eq!(chain.spent_by(&coin.outpoint).unwrap(), None);
    }
    let spent: u64 = wallet.history().iter().filter_map(|line| line.fee).map(Satoshis::as_u64).sum();
    let paid: u64 = (0..40).map(|round| 1_000 + round).sum();
    assert_eq!(balance.total.as_u64(), 1_200_000 - spent - paid);
    assert!(wallet.history().iter().all(|line| line.status != Status::Built));
}

#[derive(Debug, Clone)]
enum Step {
    Faucet(u8),
    Spend { from: usize, rival: bool, split: u8 },
    Mine,
    Reorg { depth: u32, forget: bool },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1u8..4).prop_map(Step::Faucet),
        8 => (any::<usize>(), prop::bool::weighted(0.2), 1u8..4)
            .prop_map(|(from, rival, split)| Step::Spend { from, rival, split }),
        3 => Just(Step::Mine),
        1 => (1u32..5, any::<bool>()).prop_map(|(depth, forget)| Step::Reorg { depth, forget }),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_keep_every_satoshi(steps in prop::collection::vec(step(), 1..50)) {
        let db = memory();
        let mut chain = DevChain::open(db.clone(), DevChainConfig::default()).unwrap();
        chain.ensure_funded(NOW).unwrap();
        let mut coins: Vec<(OutPoint, TxOut)> = Vec::new();
        for step in steps {
            match step {
                Step::Faucet(count) => coins.extend((0..count).map(|_| coin(&chain, 1, 50_000))),
                Step::Spend { from, rival, split } if !coins.is_empty() => {
                    let at = from % coins.len();
                    let value = (coins[at].1.value.as_u64().saturating_sub(100)) / u64::from(split);
                    if value == 0 {
                        continue;
                    }
                    let output = TxOut { value: sat(value), locking: lock(1) };
                    let tx = spend(&coins[at..=at], 1, vec![output; usize::from(split)]);
                    let before = chain.spent_by(&coins[at].0).unwrap();
                    let accepted = chain.submit(&tx).is_ok();
                    if accepted {
                        prop_assert!(before.is_none() || before == Some(tx.txid()));
                        coins.extend((0..).zip(&tx.outputs).map(|(vout, output)| {
                            (OutPoint { txid: tx.txid(), vout }, output.clone())
                        }));
                        if !rival {
                            coins.swap_remove(at);
                        }
                    }
                }
                Step::Spend { .. } => {}
                Step::Mine => drop(chain.mine(NOW).unwrap()),
                Step::Reorg { depth, forget } => {
                    let dropped = if forget { OnReorg::Forget } else { OnReorg::Requeue };
                    chain.reorg(depth, NOW, dropped).unwrap();
                }
                Step::Reopen => chain = DevChain::open(db.clone(), DevChainConfig::default()).unwrap(),
            }
            let supply = chain.supply().unwrap();
            prop_assert_eq!(supply.issued, supply.unspent.checked_add(supply.waiting_fees).unwrap());
        }
        chain.mine(NOW).unwrap();
        prop_assert!(chain.mempool().unwrap().is_empty());
        check_chain(&chain);
    }
}
