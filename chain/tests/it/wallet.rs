//! The wallet from outside: payments that verify, and the rules about money in any order of events.

mod life;
mod model;
mod records;
mod tidy;

use proptest::prelude::*;
use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::{data_output, verify_p2pkh};
use sensora_chain::header::{Header, HeaderView};
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::wallet::{
    AuditError, Built, CoinState, HISTORY_KEPT, KeySource, MAX_CHANGE, MIN_SPLIT, OwnedOutput, PRUNE_DEPTH,
    PaymentSpec, Purpose, Received, Status, TARGET_COINS, Wallet, WalletError,
};
use sensora_chain::{
    FeeRate, Network, OutPoint, PrivateKey, Satoshis, Script, SighashCache, Transaction, TxIn, TxOut, Txid,
};

const NOW: i64 = 1_790_000_000_000;

fn root() -> PrivateKey {
    PrivateKey::from_bytes([7; 32]).unwrap()
}

fn sat(value: u64) -> Satoshis {
    Satoshis::from_sat(value)
}

/// A chain whose blocks hold one transaction each.
#[derive(Default, Clone)]
struct Blocks(Vec<Txid>);

impl Blocks {
    fn mine(&mut self, txid: Txid) -> MerklePath {
        self.0.push(txid);
        MerklePath::for_block(self.0.len() as u32 - 1, &[txid], 0).unwrap()
    }

    fn path(&self, txid: &Txid) -> Option<MerklePath> {
        let height = self.0.iter().position(|mined| mined == txid)?;
        Some(MerklePath::for_block(height as u32, &[*txid], 0).unwrap())
    }

    fn tip(&self) -> u32 {
        self.0.len().saturating_sub(1) as u32
    }
}

impl HeaderView for Blocks {
    fn header_at(&self, height: u32) -> Option<Header> {
        let txid = self.0.get(height as usize)?;
        let mut bytes = [0; 80];
        bytes[36..68].copy_from_slice(&txid.0);
        Some(Header(bytes))
    }

    fn tip_height(&self) -> u32 {
        self.tip()
    }
}

/// A stranger's transaction that pays `amounts` to fresh funding addresses.
fn funding(wallet: &mut Wallet, tag: u64, amounts: &[u64]) -> Transaction {
    let mut id = [0xfe; 32];
    id[..8].copy_from_slice(&tag.to_le_bytes());
    let pay = |amount: &u64| {
        let address = wallet.funding_address(&root(), Network::Regtest).unwrap();
        TxOut { value: sat(*amount), locking: address.locking_script() }
    };
    let outputs = amounts.iter().map(pay).collect();
    Transaction::new(vec![TxIn::new(OutPoint { txid: Txid(id), vout: 0 })], outputs)
}

fn receive(wallet: &mut Wallet, tx: &Transaction, path: Option<MerklePath>) -> Result<Satoshis, WalletError> {
    let outputs = wallet.recognise(tx);
    let received = Received {
        tx: tx.clone(),
        outputs,
        ancestors: None,
        path,
        broadcast: true,
        label: "funding".into(),
        now_ms: NOW,
    };
    wallet.receive(&root(), received)
}

/// A wallet with one mined coin for each amount, each in a block of its own.
fn funded(amounts: &[u64]) -> (Wallet, Blocks) {
    let (mut wallet, mut blocks) = (Wallet::new(), Blocks::default());
    for (tag, amount) in amounts.iter().enumerate() {
        let tx = funding(&mut wallet, tag as u64, &[*amount]);
        let path = blocks.mine(tx.txid());
        receive(&mut wallet, &tx, Some(path)).unwrap();
    }
    (wallet, blocks)
}

fn spec(amount: u64) -> PaymentSpec {
    let outputs = vec![TxOut { value: sat(amount), locking: Script::p2pkh(&[9; 20]) }];
    PaymentSpec {
        outputs,
        label: "a payment".into(),
        fee: FeeRate::DEFAULT,
        max_fee: sat(10_000),
        spends: Vec::new(),
    }
}

fn pay(wallet: &mut Wallet, amount: u64) -> Result<Built, WalletError> {
    wallet.build(&root(), spec(amount), NOW)
}

/// Every input of a built transaction is signed, and it pays what it says at the rate it should.
fn check_built(wallet: &Wallet, built: &Built, rate: FeeRate) {
    let cache = SighashCache::new(&built.tx);
    let mut brought = 0;
    for (index, input) in built.tx.inputs.iter().enumerate() {
        let parent = wallet.transaction(&input.previous.txid).expect("the parent is in the wallet");
        let spent = &parent.outputs[input.previous.vout as usize];
        verify_p2pkh(&built.tx, &cache, index, spent).unwrap();
        brought += spent.value.as_u64();
    }
    let fee = brought - built.tx.output_sum().unwrap().as_u64();
    assert_eq!(fee, built.fee.as_u64());
    assert!(built.fee >= rate.fee(built.tx.size()), "{} for {} bytes", built.fee, built.tx.size());
    let beef = Beef::parse(&built.beef, &BeefLimits::DEFAULT).unwrap();
    assert_eq!(beef.subject(), Some(built.txid));
    assert!(built.tx.outputs.iter().all(|out| out.locking.is_unspendable() != (out.value.as_u64() > 0)));
}

#[test]
fn a_payment_leaves_exactly_what_it_should() {
    let (mut wallet, mut blocks) = funded(&[100_000]);
    let built = pay(&mut wallet, 1_000).unwrap();
    check_built(&wallet, &built, FeeRate::DEFAULT);
    assert_eq!(built.tx.outputs[0].value, sat(1_000));
    let balance = wallet.audit().unwrap();
    assert_eq!((balance.reserved, balance.confirmed, balance.total), (sat(100_000), sat(0), sat(100_000)));
    assert!(matches!(pay(&mut wallet, 1_000), Err(WalletError::Funds { available: 0, .. })));

    wallet.mark_broadcast(&built.txid).unwrap();
    let left = 100_000 - 1_000 - built.fee.as_u64();
    let balance = wallet.audit().unwrap();
    assert_eq!((balance.unconfirmed, balance.reserved, balance.total), (sat(left), sat(0), sat(left)));

    let path = blocks.mine(built.txid);
    wallet.mark_mined(&built.txid, path, &blocks).unwrap();
    assert_eq!(wallet.audit().unwrap().confirmed, sat(left));
    let line = wallet.history().pop().unwrap();
    assert_eq!((line.txid, line.delta_sat, line.fee), (built.txid, left as i64 - 100_000, Some(built.fee)));
    assert_eq!(line.status, Status::Mined { height: 1 });
    assert!(wallet.unproven().is_empty());
}

#[test]
fn change_is_split_while_the_pool_is_small() {
    let (mut wallet, _) = funded(&[1_000_000]);
    let built = pay(&mut wallet, 1_000).unwrap();
    assert_eq!(built.tx.outputs.len(), 1 + MAX_CHANGE);
    let (mut wallet, _) = funded(&[2_000 + 2 * MIN_SPLIT]);
    let built = pay(&mut wallet, 1_000).unwrap();
    assert_eq!(built.tx.outputs.len(), 3, "no piece below the least");
    let (mut wallet, _) = funded(&[100_000; TARGET_COINS + 1]);
    let built = pay(&mut wallet, 1_000).unwrap();
    assert_eq!(built.tx.outputs.len(), 2, "the pool is full");
}

#[test]
fn dust_goes_to_the_miner_and_the_fee_limit_holds() {
    let (mut wallet, _) = funded(&[1_030]);
    let built = pay(&mut wallet, 1_000).unwrap();
    assert_eq!((built.tx.outputs.len(), built.fee), (1, sat(30)));
    let (mut wallet, _) = funded(&[100_000]);
    let before = wallet.clone();
    let tight = PaymentSpec { max_fee: sat(23), ..spec(1_000) };
    assert_eq!(wallet.clone().build(&root(), tight, NOW).unwrap().tx.outputs.len(), 2, "fewer pieces fit");
    let too_tight = PaymentSpec { max_fee: sat(22), ..spec(1_000) };
    let error = wallet.build(&root(), too_tight, NOW).unwrap_err();
    assert!(matches!(error, WalletError::FeeAboveLimit { fee, .. } if fee == sat(23)), "{error}");
    assert_eq!(wallet, before);
}

#[test]
fn payments_in_a_row_use_unrelated_coins() {
    let (mut wallet, mut blocks) = funded(&[1_000_000]);
    let first = pay(&mut wallet, 500).unwrap();
    wallet.mark_broadcast(&first.txid).unwrap();
    let path = blocks.mine(first.txid);
    wallet.mark_mined(&first.txid, path, &blocks).unwrap();
    for _ in 0..MAX_CHANGE {
        let built = pay(&mut wallet, 500).unwrap();
        let beef = Beef::parse(&built.beef, &BeefLimits::DEFAULT).unwrap();
        assert_eq!(beef.txs().len(), 2, "one proven parent and the payment");
        wallet.mark_broadcast(&built.txid).unwrap();
    }
    let built = pay(&mut wallet, 500).unwrap();
    let beef = Beef::parse(&built.beef, &BeefLimits::DEFAULT).unwrap();
    assert_eq!(beef.txs().len(), 3, "then one generation deeper");
}

#[test]
fn outputs_that_nobody_would_relay_are_refused() {
    let (mut wallet, _) = funded(&[100_000]);
    let mut with = |outputs| wallet.build(&root(), PaymentSpec { outputs, ..spec(1) }, NOW).map(|_| ());
    let output =
        |value, script: &[u8]| vec![TxOut { value: sat(value), locking: Script::new(script.to_vec()) }];
    let p2sh = [&[0xa9, 0x14], [1u8; 20].as_slice(), &[0x87]].concat();
    for refused in [output(0, &[0x51]), output(1, &[0, 0x6a, 1, 1]), output(5, &p2sh), output(0, &[0x6a])] {
        assert!(matches!(with(refused), Err(WalletError::Output { index: 0, .. })));
    }
    assert!(matches!(with(vec![]), Err(WalletError::OutputCount { count: 0 })));
    with(vec![data_output(&[b"data"])]).unwrap();
}

#[test]
fn a_peers_payment_is_ours_only_with_the_right_key() {
    let payer = PrivateKey::from_bytes([8; 32]).unwrap();
    let invoice = "2-3241645161d8-cHJlZml4 c3VmZml4";
    let key = root().public().child(&payer, invoice);
    let output = TxOut { value: sat(700), locking: Script::p2pkh(&key.hash160()) };
    let tx = Transaction::new(vec![TxIn::new(OutPoint { txid: Txid([3; 32]), vout: 4 })], vec![output]);
    let receive = |wallet: &mut Wallet, key: KeySource, broadcast| {
        let purpose = Purpose::Payment { label: "order 1".into() };
        let outputs = vec![OwnedOutput { vout: 0, key, purpose }];
        let (tx, label) = (tx.clone(), "order 1".to_owned());
        let received = Received { tx, outputs, ancestors: None, path: None, broadcast, label, now_ms: NOW };
        wallet.receive(&root(), received)
    };
    let mut wallet = Wallet::new();
    let wrong = receive(&mut wallet, KeySource::peer(payer.public(), "2-3241645161d8-x y"), true);
    assert!(matches!(wrong, Err(WalletError::NotOurs(_))));
    assert_eq!(wallet, Wallet::new());

    let right = KeySource::peer(payer.public(), invoice);
    assert_eq!(receive(&mut wallet, right.clone(), false).unwrap(), sat(700));
    assert_eq!(wallet.audit().unwrap().total, sat(0), "it waits for the broadcast");
    assert_eq!(wallet.coins()[0].state, CoinState::Pending);
    let before = wallet.clone();
    assert_eq!(receive(&mut wallet, right, false).unwrap(), sat(0));
    assert_eq!(wallet, before, "receiving twice changes nothing");
    wallet.mark_broadcast(&tx.txid()).unwrap();
    assert_eq!(wallet.audit().unwrap().unconfirmed, sat(700));
    let built = pay(&mut wallet, 100).err();
    assert!(
        matches!(built, Some(WalletError::MissingAncestor { .. })),
        "no payee could verify it: {built:?}"
    );
}

#[test]
fn a_refused_payment_is_taken_back_for_good() {
    let (mut wallet, mut blocks) = funded(&[50_000]);
    let payment = pay(&mut wallet, 20_000).unwrap();
    let reclaim = wallet.reclaim(&root(), &payment.txid, FeeRate::DEFAULT, sat(1_000), NOW).unwrap();
    check_built(&wallet, &reclaim, FeeRate::DEFAULT);
    assert_eq!(reclaim.tx.inputs[0].previous, payment.tx.inputs[0].previous);
    assert_eq!(wallet.status(&payment.txid), Some(&Status::Reclaiming { by: reclaim.txid }));
    assert_eq!(wallet.audit().unwrap().reserved, sat(50_000), "nothing is free before the network has it");
    let again = wallet.reclaim(&root(), &payment.txid, FeeRate::DEFAULT, sat(1_000), NOW).unwrap();
    assert_eq!(again, reclaim);

    let mut accepted = wallet.clone();
    accepted.mark_broadcast(&reclaim.txid).unwrap();
    assert!(matches!(accepted.status(&payment.txid), Some(Status::Rejected { .. })));
    assert_eq!(accepted.audit().unwrap().total.as_u64(), 50_000 - reclaim.fee.as_u64());
    assert!(matches!(accepted.mark_broadcast(&payment.txid), Err(WalletError::Conflict { .. })));

    // The payee was faster after all.
    let path = blocks.mine(payment.txid);
    accepted.mark_mined(&payment.txid, path.clone(), &blocks).unwrap();
    wallet.mark_mined(&payment.txid, path, &blocks).unwrap();
    let outdone = Status::Conflicted { by: payment.txid };
    assert_eq!(accepted.status(&reclaim.txid), Some(&outdone), "the network had it");
    assert!(
        matches!(wallet.status(&reclaim.txid), Some(Status::Rejected { .. })),
        "the network never had it"
    );
    for wallet in [&accepted, &wallet] {
        assert_eq!(wallet.audit().unwrap().total.as_u64(), 30_000 - payment.fee.as_u64());
    }
}

#[test]
fn of_a_payment_that_was_taken_back_and_one_that_excludes_it_only_one_is_ever_taken() {
    // A coin beside it, which alone would pay as well.
    let (mut wallet, mut blocks) = funded(&[50_000, 30_000]);
    let first = pay(&mut wallet, 40_000).unwrap();
    assert_eq!(wallet.excluding(&first.txid), None, "its coins are reserved for it");
    let reclaim = wallet.reclaim(&root(), &first.txid, FeeRate::DEFAULT, sat(1_000), NOW).unwrap();
    assert_eq!(wallet.excluding(&first.txid), None, "the network has nothing of it yet");
    wallet.mark_broadcast(&reclaim.txid).unwrap();
    // What came back goes on to somebody else, and its change excludes the first as well.
    let coin = wallet.excluding(&first.txid).unwrap();
    assert_eq!(coin.txid, reclaim.txid);
    let on = wallet.build(&root(), PaymentSpec { spends: vec![coin], ..spec(100) }, NOW).unwrap();
    wallet.mark_broadcast(&on.txid).unwrap();
    let change = wallet.excluding(&first.txid).unwrap();
    let second =
        wallet.build(&root(), PaymentSpec { spends: vec![change, change], ..spec(1_000) }, NOW).unwrap();
    check_built(&wallet, &second, FeeRate::DEFAULT);
    assert_eq!(second.tx.inputs.iter().filter(|input| input.previous == change).count(), 1);
    wallet.mark_broadcast(&second.txid).unwrap();
    let spent = wallet.build(&root(), PaymentSpec { spends: vec![change], ..spec(1_000) }, NOW);
    assert_eq!(spent, Err(WalletError::NotSpendable(change)));

    let deeper = |blocks: &mut Blocks, more: u8| {
        for block in 0..more {
            blocks.mine(Txid([0xb0 + block; 32]));
        }
    };
    // The second and all that it rests on may be mined …
    let mut paid = wallet.clone();
    {
        let mut blocks = blocks.clone();
        let path = blocks.mine(reclaim.txid);
        let height = path.block_height();
        paid.mark_mined(&reclaim.txid, path, &blocks).unwrap();
        deeper(&mut blocks, 4);
        assert!(!paid.is_outdone(&first.txid, 6, &blocks));
        deeper(&mut blocks, 1);
        assert!(paid.is_outdone(&first.txid, 6, &blocks));
        // A reorganisation that the wallet has not been told of has replaced all of them, with one more.
        blocks.0[height as usize] = first.txid;
        deeper(&mut blocks, 1);
        assert!(!paid.is_outdone(&first.txid, 6, &blocks), "what took its place is in no block any more");
    }
    // … or the first, and then none of them.
    let path = blocks.mine(first.txid);
    wallet.mark_mined(&first.txid, path, &blocks).unwrap();
    deeper(&mut blocks, 5);
    for dead in [&reclaim, &on, &second] {
        assert!(wallet.status(&dead.txid).is_some_and(Status::is_dead), "{:?}", wallet.status(&dead.txid));
        assert!(wallet.is_outdone(&dead.txid, 6, &blocks), "what builds on the dead is dead");
    }
    wallet.audit().unwrap();
}

#[test]
fn a_reclaim_that_the_network_refuses_leaves_the_payment_open() {
    let (mut wallet, _) = funded(&[50_000]);
    let payment = pay(&mut wallet, 20_000).unwrap();
    let reclaim = wallet.reclaim(&root(), &payment.txid, FeeRate::DEFAULT, sat(1_000), NOW).unwrap();
    wallet.mark_rejected(&reclaim.txid, "txn-mempool-conflict").unwrap();
    assert_eq!(wallet.status(&payment.txid), Some(&Status::Built));
    assert_eq!(wallet.audit().unwrap().reserved, sat(50_000));
    wallet.mark_broadcast(&payment.txid).unwrap();
    assert_eq!(wallet.audit().unwrap().total.as_u64(), 30_000 - payment.fee.as_u64());
    let late = wallet.reclaim(&root(), &payment.txid, FeeRate::DEFAULT, sat(1_000), NOW);
    assert!(matches!(late, Err(WalletError::NotReclaimable { .. })));
}

#[test]
fn rejection_takes_what_builds_on_it_along() {
    let (mut wallet, _) = funded(&[50_000]);
    let first = pay(&mut wallet, 1_000).unwrap();
    wallet.mark_broadcast(&first.txid).unwrap();
    let second = pay(&mut wallet, 40_000).unwrap();
    wallet.mark_broadcast(&second.txid).unwrap();
    wallet.mark_rejected(&first.txid, "double spend").unwrap();
    assert!(matches!(wallet.status(&second.txid), Some(Status::Rejected { .. })));
    assert_eq!(wallet.audit().unwrap().confirmed, sat(50_000));
    // The network takes them after all, the child first.
    wallet.mark_broadcast(&second.txid).unwrap();
    assert_eq!(wallet.status(&first.txid), Some(&Status::Broadcast));
    wallet.audit().unwrap();
}

#[test]
fn what_builds_on_a_forgotten_rejection_cannot_come_back() {
    let (mut wallet, mut blocks) = funded(&[100_000]);
    let first = pay(&mut wallet, 1_000).unwrap();
    wallet.mark_broadcast(&first.txid).unwrap();
    let second = pay(&mut wallet, 90_000).unwrap();
    wallet.mark_rejected(&first.txid, "lost in a reorganisation").unwrap();
    let third = pay(&mut wallet, 2_000).unwrap();
    let path = blocks.mine(third.txid);
    wallet.mark_mined(&third.txid, path, &blocks).unwrap();
    wallet.prune(blocks.tip() + PRUNE_DEPTH).unwrap();
    let before = wallet.clone();
    let error = wallet.mark_broadcast(&second.txid).unwrap_err();
    assert_eq!(error, WalletError::Pruned(first.txid));
    assert_eq!(wallet, before);
    wallet.prune(blocks.tip() + PRUNE_DEPTH).unwrap();
    assert_eq!(wallet.transaction(&second.txid), None);
    wallet.audit().unwrap();
}

#[test]
fn a_false_proof_changes_nothing() {
    let (mut wallet, mut blocks) = funded(&[50_000]);
    let built = pay(&mut wallet, 1_000).unwrap();
    let before = wallet.clone();
    let other = MerklePath::for_block(0, &[built.txid], 0).unwrap();
    let wrong = wallet.mark_mined(&built.txid, other, &blocks);
    assert!(matches!(wrong, Err(WalletError::WrongProof { height: 0, .. })));
    let future = MerklePath::for_block(9, &[built.txid], 0).unwrap();
    assert!(matches!(wallet.mark_mined(&built.txid, future, &blocks), Err(WalletError::NoHeader { .. })));
    let foreign = blocks.mine(Txid([1; 32]));
    assert!(matches!(
        wallet.mark_mined(&built.txid, foreign, &blocks),
        Err(WalletError::WrongProof { height: 1, .. })
    ));
    assert_eq!(wallet, before);
}

#[test]
fn a_reorganisation_is_noticed_and_undone() {
    let (mut wallet, mut blocks) = funded(&[50_000]);
    let built = pay(&mut wallet, 1_000).unwrap();
    let path = blocks.mine(built.txid);
    wallet.mark_mined(&built.txid, path, &blocks).unwrap();
    assert_eq!(wallet.lowest_stale_proof(&blocks), None);
    blocks.0[1] = Txid([4; 32]);
    assert_eq!(wallet.lowest_stale_proof(&blocks), Some(1));
    assert_eq!(wallet.unmined(1), vec![built.txid]);
    assert_eq!(wallet.lowest_stale_proof(&blocks), None);
    assert_eq!(wallet.status(&built.txid), Some(&Status::Broadcast));
    assert_eq!(wallet.unproven(), vec![built.txid]);
    wallet.audit().unwrap();
    blocks.0.truncate(1);
    assert_eq!(wallet.unmined(0).len(), 1);
}

/// Headers that begin above the first blocks, as with a newer checkpoint.
struct Above<'a>(&'a Blocks, u32);

impl HeaderView for Above<'_> {
    fn header_at(&self, height: u32) -> Option<Header> {
        self.0.header_at(height).filter(|_| height >= self.1)
    }

    fn tip_height(&self) -> u32 {
        self.0.tip_height()
    }
}

#[test]
fn a_proof_below_the_first_header_that_is_known_is_not_stale() {
    let (mut wallet, mut blocks) = funded(&[50_000]);
    let built = pay(&mut wallet, 1_000).unwrap();
    let path = blocks.mine(built.txid);
    wallet.mark_mined(&built.txid, path, &blocks).unwrap();
    blocks.mine(Txid([5; 32]));
    assert_eq!(wallet.lowest_stale_proof(&Above(&blocks, 2)), None);
    assert_eq!(wallet.compare(&[], &[], &Above(&blocks, 2)), []);
    blocks.0[1] = Txid([4; 32]);
    assert_eq!(wallet.lowest_stale_proof(&Above(&blocks, 1)), Some(1), "what is known still counts");
}

#[test]
fn what_was_refused_is_asked_about_still_and_stands_when_it_is_mined_after_all() {
    let (mut wallet, mut blocks) = funded(&[50_000]);
    let built = pay(&mut wallet, 1_000).unwrap();
    // On somebody's word alone; he may keep the transaction and send it on later.
    wallet.mark_rejected(&built.txid, "no").unwrap();
    assert!(wallet.unproven().contains(&built.txid));
    let path = blocks.mine(built.txid);
    wallet.mark_mined(&built.txid, path, &blocks).unwrap();
    assert!(matches!(wallet.status(&built.txid), Some(Status::Mined { .. })));
    assert!(!wallet.unproven().contains(&built.txid));
    wallet.audit().unwrap();
}

#[test]
fn pruning_forgets_transactions_but_no_money() {
    let (mut wallet, mut blocks) = funded(&[1_000_000]);
    for _ in 0..60 {
        let built = pay(&mut wallet, 500).unwrap();
        let path = blocks.mine(built.txid);
        wallet.mark_mined(&built.txid, path, &blocks).unwrap();
    }
    let (balance, history, size) =
        (wallet.audit().unwrap(), wallet.history(), wallet.to_bytes().unwrap().len());
    let pruned = wallet.prune(blocks.tip() + PRUNE_DEPTH).unwrap();
    assert!(pruned.transactions > 30 && pruned.archived.is_empty(), "{pruned:?}");
    assert_eq!((wallet.audit().unwrap(), wallet.history()), (balance, history));
    assert!(wallet.to_bytes().unwrap().len() < size / 2);
    assert_eq!(wallet.prune(blocks.tip() + PRUNE_DEPTH).unwrap().transactions, 0);
    let built = pay(&mut wallet, 500).unwrap();
    check_built(&wallet, &built, FeeRate::DEFAULT);
}

#[test]
fn strangers_cannot_fill_the_wallet_with_payments_that_are_never_mined() {
    let (mut wallet, blocks) = funded(&[1_000]);
    let payments: Vec<_> = (1..20u64).map(|tag| funding(&mut wallet, tag, &[500])).collect();
    let kept = wallet.to_bytes().unwrap().len();
    let mut received_ids = Vec::new();
    for tx in &payments {
        let mut ancestors = Beef::new();
        let outputs = vec![tx.outputs[0].clone(), data_output(&[&[1; 5_000]])];
        let parent = Transaction::new(tx.inputs.clone(), outputs);
        let mut tx = tx.clone();
        tx.inputs[0].previous = OutPoint { txid: parent.txid(), vout: 0 };
        ancestors.add(parent, None).unwrap();
        ancestors.add(tx.clone(), None).unwrap();
        received_ids.push(tx.txid());
        let (outputs, label) = (wallet.recognise(&tx), String::new());
        let received = Received {
            tx,
            outputs,
            ancestors: Some(&ancestors),
            path: None,
            broadcast: false,
            label,
            now_ms: NOW,
        };
        wallet.receive(&root(), received).unwrap();
    }
    let first = wallet.transaction(&received_ids[0]).cloned().unwrap();
    for txid in &received_ids {
        wallet.mark_rejected(txid, "txn-mempool-conflict").unwrap();
    }
    assert_eq!(wallet.prune(blocks.tip()).unwrap().transactions, 2 * payments.len());
    assert!(wallet.to_bytes().unwrap().len() < kept + 250 * payments.len());
    let revived = receive(&mut wallet, &first, None).unwrap();
    assert_eq!(revived, sat(500), "one was mined after all");
    assert_eq!(wallet.audit().unwrap().unconfirmed, sat(500));
}

#[test]
fn old_history_is_handed_over_and_still_counts() {
    let (mut wallet, mut blocks) = funded(&[100_000_000]);
    let count = HISTORY_KEPT + 40;
    for _ in 0..count {
        let built = pay(&mut wallet, 500).unwrap();
        let path = blocks.mine(built.txid);
        wallet.mark_mined(&built.txid, path, &blocks).unwrap();
        wallet.prune(blocks.tip()).unwrap();
    }
    let balance = wallet.audit().unwrap();
    assert!(wallet.history().len() <= HISTORY_KEPT + TARGET_COINS + PRUNE_DEPTH as usize + 2);
    assert!(wallet.to_bytes().unwrap().len() < 400 * (HISTORY_KEPT + 100));
    assert_eq!(Wallet::from_bytes(&wallet.to_bytes().unwrap()).unwrap().audit().unwrap(), balance);
}

#[test]
fn a_deep_chain_of_unmined_payments_is_refused_with_a_reason() {
    let (mut wallet, _) = funded(&[100_000_000]);
    let error = loop {
        match wallet.build(&root(), PaymentSpec { max_fee: sat(100_000), ..spec(90_000_000 / 400) }, NOW) {
            Ok(built) => wallet.mark_broadcast(&built.txid).unwrap(),
            Err(error) => break error,
        }
    };
    let refused = matches!(error, WalletError::AncestryTooDeep { .. } | WalletError::BeefTooLarge { .. });
    assert!(refused, "{error}");
    assert!(error.to_string().contains("wait for a block"), "{error}");
    wallet.audit().unwrap();
}

#[test]
fn bytes_that_are_no_wallet_are_refused() {
    let (wallet, _) = funded(&[1_000, 2_000]);
    let bytes = wallet.to_bytes().unwrap();
    assert_eq!(Wallet::from_bytes(&bytes).unwrap(), wallet);
    for end in 0..bytes.len() {
        assert!(matches!(Wallet::from_bytes(&bytes[..end]), Err(WalletError::Stored(_))));
    }
    let newer = [&[bytes[0] + 1], &bytes[1..]].concat();
    assert!(Wallet::from_bytes(&newer).unwrap_err().to_string().contains("newer program"));
}

#[test]
fn a_spend_made_elsewhere_is_seen_and_counted() {
    // The same wallet restored from a backup: the other copy spent the coin.
    let (mut restored, mut blocks) = funded(&[50_000]);
    let built = pay(&mut restored.clone(), 1_000).unwrap();
    let own = restored.clone();
    let path = blocks.mine(built.txid);
    let received = |path| Received {
        tx: built.tx.clone(),
        outputs: vec![],
        ancestors: None,
        path,
        broadcast: true,
        label: "found on the chain".into(),
        now_ms: NOW,
    };
    restored.receive(&root(), received(Some(path))).unwrap();
    assert_eq!(restored.audit().unwrap().total, sat(0));
    assert_eq!(restored.history().pop().unwrap().delta_sat, -50_000);
    let mut reserved = own;
    let mine = pay(&mut reserved, 2_000).unwrap();
    let conflict = Received { broadcast: false, ..received(None) };
    assert!(matches!(reserved.receive(&root(), conflict), Err(WalletError::Conflict { .. })));
    reserved.receive(&root(), received(None)).unwrap();
    assert!(matches!(reserved.status(&mine.txid), Some(Status::Rejected { .. })));
    reserved.audit().unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Fund { amounts: Vec<u64>, mined: bool },
    Build { amount: u64, data: usize },
    Broadcast(usize),
    Reject(usize),
    Mine(usize),
    Unmine(usize),
    Reclaim(usize),
    ReceiveAgain(usize),
    Prune(u32),
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (prop::collection::vec(1u64..200_000, 1..4), any::<bool>())
            .prop_map(|(amounts, mined)| Step::Fund { amounts, mined }),
        4 => (1u64..60_000, 0usize..300).prop_map(|(amount, data)| Step::Build { amount, data }),
        4 => any::<usize>().prop_map(Step::Broadcast),
        1 => any::<usize>().prop_map(Step::Reject),
        4 => any::<usize>().prop_map(Step::Mine),
        1 => any::<usize>().prop_map(Step::Unmine),
        2 => any::<usize>().prop_map(Step::Reclaim),
        1 => any::<usize>().prop_map(Step::ReceiveAgain),
        1 => (0u32..30).prop_map(Step::Prune),
        1 => Just(Step::Restore),
    ]
}

struct World {
    wallet: Wallet,
    blocks: Blocks,
    fundings: Vec<Transaction>,
    txids: Vec<Txid>,
}

impl World {
    fn pick(&self, index: usize) -> Option<Txid> {
        self.txids.get(index.checked_rem(self.txids.len())?).copied()
    }

    fn take(&mut self, step: Step) -> Result<(), WalletError> {
        match step {
            Step::Fund { amounts, mined } => {
                let tx = funding(&mut self.wallet, self.fundings.len() as u64, &amounts);
                let path = mined.then(|| self.blocks.mine(tx.txid()));
                receive(&mut self.wallet, &tx, path)?;
                self.txids.push(tx.txid());
                self.fundings.push(tx);
            }
            Step::Build { amount, data } => {
                let mut payment = spec(amount);
                payment.outputs.push(data_output(&[&vec![5; data]]));
                let built = self.wallet.build(&root(), payment, NOW)?;
                check_built(&self.wallet, &built, FeeRate::DEFAULT);
                self.txids.push(built.txid);
            }
            Step::Reclaim(index) => {
                let Some(txid) = self.pick(index) else { return Ok(()) };
                let built = self.wallet.reclaim(&root(), &txid, FeeRate::DEFAULT, sat(10_000), NOW)?;
                check_built(&self.wallet, &built, FeeRate::DEFAULT);
                if !self.txids.contains(&built.txid) {
                    self.txids.push(built.txid);
                }
            }
            Step::Broadcast(index) => {
                let Some(txid) = self.pick(index) else { return Ok(()) };
                self.wallet.mark_broadcast(&txid)?;
            }
            Step::Reject(index) => {
                let Some(txid) = self.pick(index) else { return Ok(()) };
                self.wallet.mark_rejected(&txid, "no")?;
            }
            Step::Mine(index) => {
                let Some(txid) = self.pick(index) else { return Ok(()) };
                let mut blocks = self.blocks.clone();
                let path = blocks.path(&txid).unwrap_or_else(|| blocks.mine(txid));
                self.wallet.mark_mined(&txid, path.clone(), &blocks)?;
                self.blocks = blocks;
                let once = self.wallet.clone();
                self.wallet.mark_mined(&txid, path, &self.blocks)?;
                assert_eq!(self.wallet, once);
            }
            Step::Unmine(index) => {
                let Some(height) = index.checked_rem(self.blocks.0.len()) else { return Ok(()) };
                let gone = self.blocks.0.len() - height;
                if gone <= PRUNE_DEPTH as usize {
                    self.blocks.0.truncate(height);
                    self.wallet.unmined(height as u32);
                }
            }
            Step::ReceiveAgain(index) => {
                let Some(at) = index.checked_rem(self.fundings.len()) else { return Ok(()) };
                let (tx, before) = (self.fundings[at].clone(), self.wallet.clone());
                if self.wallet.status(&tx.txid()).is_some_and(Status::is_settled) {
                    assert_eq!(receive(&mut self.wallet, &tx, None)?, sat(0));
                    assert_eq!(self.wallet, before);
                }
            }
            Step::Prune(more) => drop(self.wallet.prune(self.blocks.tip() + more)?),
            Step::Restore => {
                let bytes = self.wallet.to_bytes()?;
                let restored = Wallet::from_bytes(&bytes)?;
                assert_eq!(restored, self.wallet);
                assert_eq!(restored.to_bytes()?, bytes);
                self.wallet = restored;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), AuditError> {
        let balance = self.wallet.audit()?;
        let settled = self.wallet.history().into_iter().filter(|line| line.status.is_settled());
        let history: i64 = settled.map(|line| line.delta_sat).sum();
        assert_eq!(history, balance.total.as_u64() as i64, "few steps archive nothing");
        let coins = self.wallet.coins().into_iter().filter(|coin| coin.state != CoinState::Pending);
        assert_eq!(coins.map(|coin| coin.value.as_u64()).sum::<u64>(), balance.total.as_u64());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn in_any_order_of_events_coins_and_history_agree(steps in prop::collection::vec(step(), 1..70)) {
        let (wallet, blocks) = (Wallet::new(), Blocks::default());
        let mut world = World { wallet, blocks, fundings: vec![], txids: vec![] };
        for step in steps {
            let addresses_used = matches!(step, Step::Fund { .. });
            let before = world.wallet.clone();
            if let Err(error) = world.take(step) {
                prop_assert!(addresses_used || world.wallet == before, "an error changed the wallet: {error}");
            }
            world.check().unwrap();
        }
    }
}
