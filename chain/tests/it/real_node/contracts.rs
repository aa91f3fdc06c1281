//! The life of both contracts on the node, with the attacks that their scripts are there for: what the node refuses is
//! refused here, and nothing that is made here is refused by the node.

use sensora_chain::contract::channel::ChannelSpend;
use sensora_chain::contract::key_release::KeyReleaseSpend;
use sensora_chain::contract::payment::sign_input;
use sensora_chain::contract::push_tx::{self, Preimage};
use sensora_chain::contract::{
    Channel, ChannelTerms, CloseTerms, KeyRelease, KeyReleaseTerms, RefundHeight, TemplateError,
    VoucherError, verify_input,
};
use sensora_chain::encode::{hash160, sha256};
use sensora_chain::sources::node_rpc::Regtest;
use sensora_chain::sources::service::{Report, Service};
use sensora_chain::{FeeRate, OutPoint, PrivateKey, Script, SighashCache, Transaction, TxIn, TxOut};
use serde_json::json;

use super::super::dev_chain::{lock, sat};
use super::kinds::coin;
use super::node::{Node, RATE, submit};

const RATE_HERE: FeeRate = FeeRate::new(RATE);
const VALUE: u64 = 100_000;
/// The code for scripts that are not satisfied.
const SCRIPTS: u16 = 461;

fn buyer() -> PrivateKey {
    PrivateKey::from_bytes([0xb1; 32]).unwrap()
}

fn seller() -> PrivateKey {
    PrivateKey::from_bytes([0x5e; 32]).unwrap()
}

fn hash_of(mark: u8) -> [u8; 20] {
    hash160(&[mark])
}

/// A node, its miner and its service.
struct World {
    node: Node,
    miner: Regtest,
    service: Service,
}

impl World {
    async fn start() -> Option<Self> {
        // How often it looks whether what waits apart is final, in milliseconds.
        let node = Node::start(&["-checknonfinalfreq=100"]).await?;
        let (miner, service) = (node.miner().await, node.service());
        Some(World { node, miner, service })
    }

    async fn tip(&self) -> u32 {
        self.service.tip().await.unwrap().height
    }

    /// A refund height this many blocks above the tip.
    async fn ahead(&self, blocks: u32) -> RefundHeight {
        RefundHeight::new(self.tip().await + blocks).unwrap()
    }

    /// Funds a locking script.
    async fn fund(&self, locking: &Script) -> OutPoint {
        let tx = self.miner.faucet(locking, sat(VALUE)).await.unwrap();
        assert_eq!((&tx.outputs[0].locking, tx.outputs[0].value), (locking, sat(VALUE)));
        OutPoint { txid: tx.txid(), vout: 0 }
    }

    async fn channel(&self, refund_height: RefundHeight) -> Channel {
        let terms = ChannelTerms { buyer: buyer().public(), seller: seller().public(), refund_height };
        let (seller_hash, buyer_hash) = (hash_of(1), hash_of(2));
        let close = CloseTerms { seller_hash, buyer_hash, fee: CloseTerms::fee_at(RATE_HERE) };
        let outpoint = self.fund(&terms.locking()).await;
        Channel::new(terms, close, outpoint, sat(VALUE)).unwrap()
    }

    async fn key_release(&self, secret: &[u8], refund_height: RefundHeight) -> KeyRelease {
        let (seller, buyer) = (seller().public(), buyer().public());
        let terms = KeyReleaseTerms { key_hash: sha256(secret), seller, buyer, refund_height };
        let outpoint = self.fund(&terms.locking()).await;
        KeyRelease::new(terms, outpoint, sat(VALUE))
    }

    /// Sends it, mines a block, and finds it there.
    async fn mined(&self, tx: &Transaction) {
        assert_eq!(submit(&self.service, tx).await, Report::Seen);
        self.in_next_block(tx).await;
    }

    async fn in_next_block(&self, tx: &Transaction) {
        let tip = self.miner.mine(1).await.unwrap();
        match self.service.report(&tx.txid()).await.unwrap() {
            Report::Mined(path) => assert_eq!(path.block_height(), tip.height),
            other => panic!("not mined: {other:?}"),
        }
    }

    /// The node keeps a refund that comes early apart, has it in no block up to the refund height, and in the next.
    async fn mined_late(&self, refund: &Transaction, height: RefundHeight) {
        assert_eq!(submit(&self.service, refund).await, Report::Pending);
        assert_eq!(self.waiting_apart().await, [refund.txid().to_string()]);
        while self.tip().await < height.get() {
            assert!(!refund.is_final_at(self.tip().await + 1));
            self.miner.mine(1).await.unwrap();
            let report = self.service.report(&refund.txid()).await.unwrap();
            assert!(!matches!(report, Report::Mined(_)), "too early");
        }
        assert!(refund.is_final_at(self.tip().await + 1));
        let seen = async |_: &Node| self.service.report(&refund.txid()).await.unwrap() == Report::Seen;
        self.node.until("the refund among what it mines", seen).await;
        self.in_next_block(refund).await;
    }

    /// Neither the node takes it nor our templates.
    async fn refused(&self, what: &str, tx: &Transaction, spent: &TxOut) {
        match submit(&self.service, tx).await {
            Report::Rejected { code, reason, .. } => assert_eq!(code, SCRIPTS, "{what}: {reason}"),
            other => panic!("{what}: {other:?}"),
        }
        let ours = verify_input(tx, &SighashCache::new(tx), 0, spent);
        assert!(matches!(ours, Err(TemplateError::Contract(_))), "{what}: {ours:?}");
    }

    async fn waiting_apart(&self) -> Vec<String> {
        let answer = self.node.call("getrawnonfinalmempool", json!([])).await;
        answer.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    }
}

fn accepted(tx: &Transaction, spent: &TxOut) {
    assert_eq!(verify_input(tx, &SighashCache::new(tx), 0, spent), Ok(()));
}

fn signed(key: &PrivateKey, digest: &[u8; 32]) -> Vec<u8> {
    [key.sign(digest).der(), vec![0x41]].concat()
}

/// A refund as somebody makes it that does not keep to the lock: with this lock time and, if asked for, the final
/// sequence number. All else in it is right.
fn forged_refund(outpoint: OutPoint, spent: &TxOut, lock_time: u32, last: bool) -> Transaction {
    let out = TxOut { value: sat(VALUE - 1_000), locking: lock(3) };
    let mut tx = Transaction::new(vec![TxIn::new(outpoint)], vec![out]);
    tx.lock_time = lock_time;
    let preimage = loop {
        if !last {
            break push_tx::grind(&mut tx, 0, spent).unwrap();
        }
        let preimage = Preimage::new(&SighashCache::new(&tx), 0, spent).unwrap();
        if preimage.is_ground() {
            break preimage;
        }
        tx.outputs[0].value = sat(tx.outputs[0].value.as_u64() - 1);
    };
    let script = Script::builder().push(&signed(&buyer(), &preimage.digest)).push(&preimage.bytes).push(&[]);
    tx.inputs[0].unlocking = script.build();
    tx
}

/// Adds an input that brings `value` for the miner, and signs all again with what both parties of a channel have.
fn with_fee_input(
    channel: &Channel,
    mut close: Transaction,
    fee: (OutPoint, TxOut),
    key: &PrivateKey,
) -> Transaction {
    close.inputs.push(TxIn::new(fee.0));
    let digest = SighashCache::new(&close).digest(0, &channel.output().locking, channel.output().value);
    let script =
        Script::builder().push(&[]).push(&signed(&buyer(), &digest)).push(&signed(&seller(), &digest));
    close.inputs[0].unlocking = script.push(&[1]).build();
    sign_input(&mut close, 1, &fee.1, key).unwrap();
    close
}

/// The attacks on the lock, each against an output that the honest refund can spend afterwards.
async fn attack_the_lock(world: &World, outpoint: OutPoint, spent: &TxOut, height: RefundHeight) {
    let height = height.get();
    assert!(world.tip().await >= height, "lock times are over, so that only the script can refuse");
    for (what, lock_time, last) in [
        ("an early lock time", height - 1, false),
        ("lock time 0", 0, false),
        ("a time instead of a height", 1_000_000_000, false),
        ("the final sequence number", height, true),
        ("the final sequence number, no lock time", 0, true),
    ] {
        world.refused(what, &forged_refund(outpoint, spent, lock_time, last), spent).await;
    }
}

#[tokio::test]
async fn ten_thousand_vouchers_are_one_close() {
    let Some(world) = World::start().await else { return };
    let height = world.ahead(100).await;
    let channel = world.channel(height).await;
    let mut highest = None;
    for n in 1..=10_000 {
        let voucher = channel.sign_voucher(sat(n * 9), &buyer()).unwrap();
        assert_eq!(channel.verify_voucher(&voucher), Ok(()));
        highest = Some(voucher);
    }
    let close = channel.complete(&highest.unwrap(), &seller()).unwrap();
    accepted(&close, channel.output());
    // The funding waits for a block as well: the close does not need to wait for it.
    assert_eq!(submit(&world.service, &close).await, Report::Seen);
    world.in_next_block(&close).await;
    assert_eq!(channel.spend_in(&close), Some(ChannelSpend::Close { paid: sat(90_000) }));

    // Nothing and everything: one output each.
    for paid in [sat(0), channel.capacity()] {
        let channel = world.channel(height).await;
        let close = channel.complete(&channel.sign_voucher(paid, &buyer()).unwrap(), &seller()).unwrap();
        assert_eq!(close.outputs.len(), 1);
        world.mined(&close).await;
    }
}

/// A top-up is one more output of the same terms: one relation, two closes.
#[tokio::test]
async fn a_top_up_is_a_second_output_of_the_same_terms() {
    let Some(world) = World::start().await else { return };
    let height = world.ahead(100).await;
    let (first, top_up) = (world.channel(height).await, world.channel(height).await);
    assert_eq!(first.terms(), top_up.terms());
    assert_ne!(first.outpoint(), top_up.outpoint());
    let all = first.sign_voucher(first.capacity(), &buyer()).unwrap();
    let more = top_up.sign_voucher(sat(10), &buyer()).unwrap();
    assert_eq!(top_up.verify_voucher(&all), Err(VoucherError::BadSignature(all.paid)));
    let closes = [first.complete(&all, &seller()).unwrap(), top_up.complete(&more, &seller()).unwrap()];
    for close in &closes {
        assert_eq!(submit(&world.service, close).await, Report::Seen);
    }
    world.miner.mine(1).await.unwrap();
    for close in &closes {
        assert!(matches!(world.service.report(&close.txid()).await.unwrap(), Report::Mined(_)));
    }
}

#[tokio::test]
async fn a_channels_refund_waits_for_its_height() {
    let Some(world) = World::start().await else { return };
    let height = world.ahead(4).await;
    let channel = world.channel(height).await;
    let refund = channel.refund(&buyer(), RATE_HERE).unwrap();
    accepted(&refund, channel.output());
    world.miner.mine(1).await.unwrap();
    world.mined_late(&refund, height).await;

    let other = world.channel(height).await;
    attack_the_lock(&world, other.outpoint(), other.output(), height).await;
    world.mined(&other.refund(&buyer(), RATE_HERE).unwrap()).await;
}

/// A refund that waits apart blocks everything but the close, and the close everything.
#[tokio::test]
async fn only_the_close_replaces_a_refund_that_waits() {
    let Some(world) = World::start().await else { return };
    let channel = world.channel(world.ahead(50).await).await;
    let fee_key = PrivateKey::from_bytes([2; 32]).unwrap();
    let fee = coin(&world.miner, 1, 5_000).await;
    world.miner.mine(1).await.unwrap();
    let refund = channel.refund(&buyer(), RATE_HERE).unwrap();
    assert_eq!(submit(&world.service, &refund).await, Report::Pending);

    let voucher = channel.sign_voucher(sat(40_000), &buyer()).unwrap();
    let close = channel.complete(&voucher, &seller()).unwrap();
    // Valid by its scripts, but no close of this channel, and not what the node lets replace the refund.
    let more = with_fee_input(&channel, close.clone(), fee.clone(), &fee_key);
    accepted(&more, channel.output());
    assert_eq!(channel.voucher_of(&more), Err(VoucherError::NotTheClose(channel.outpoint())));
    assert_eq!(channel.spend_in(&more), Some(ChannelSpend::Other));
    assert!(matches!(submit(&world.service, &more).await, Report::DoubleSpent { .. }));

    assert_eq!(submit(&world.service, &close).await, Report::Seen);
    assert!(world.waiting_apart().await.is_empty());
    world.in_next_block(&close).await;
    assert!(matches!(submit(&world.service, &refund).await, Report::DoubleSpent { .. }));
}

/// Whoever sees a spend can change its id and nothing else: the selector is signed by nobody.
#[tokio::test]
async fn anybody_can_change_the_id_of_a_spend_by_its_selector() {
    let Some(world) = World::start().await else { return };
    let height = world.ahead(1).await;
    let secret = [7; 32];
    let (channel, back) = (world.channel(height).await, world.channel(height).await);
    let release = world.key_release(&secret, height).await;
    world.miner.mine(2).await.unwrap();
    let close = channel.complete(&channel.sign_voucher(sat(9), &buyer()).unwrap(), &seller()).unwrap();
    let claim = release.claim(&secret, &seller(), &hash_of(1), RATE_HERE).unwrap();
    let refund = back.refund(&buyer(), RATE_HERE).unwrap();
    for (tx, spent, selector) in [
        (&close, channel.output(), &[0x52][..]),
        (&claim, release.output(), &[0x52]),
        (&refund, back.output(), &[1, 0]),
    ] {
        let mut changed = tx.clone();
        let script = tx.inputs[0].unlocking.as_bytes();
        changed.inputs[0].unlocking = Script::new([&script[..script.len() - 1], selector].concat());
        // Not believed before it is mined …
        assert!(verify_input(&changed, &SighashCache::new(&changed), 0, spent).is_err());
        // … and mined under another id.
        world.mined(&changed).await;
        assert_eq!((changed.outputs == tx.outputs, changed.txid() == tx.txid()), (true, false));
        assert_eq!(channel.spend_in(&changed), channel.spend_in(tx));
        assert_eq!(back.spend_in(&changed), back.spend_in(tx));
        assert_eq!(release.spend_in(&changed), release.spend_in(tx));
        assert!(matches!(submit(&world.service, tx).await, Report::DoubleSpent { .. }));
    }
}

fn push_key(release: &KeyRelease, tx: &mut Transaction, secret: &[u8], selector: &[u8]) {
    let digest = SighashCache::new(tx).digest(0, &release.output().locking, release.output().value);
    let script = Script::builder().push(&signed(&seller(), &digest)).push(secret).push(selector);
    tx.inputs[0].unlocking = script.build();
}

#[tokio::test]
async fn a_key_is_sold_for_its_price() {
    let Some(world) = World::start().await else { return };
    let height = world.ahead(50).await;
    let secret = [7; 32];
    let release = world.key_release(&secret, height).await;
    let claim = release.claim(&secret, &seller(), &hash_of(1), RATE_HERE).unwrap();
    accepted(&claim, release.output());

    // Neither another key nor none, nor the key by another than the seller.
    for (what, wrong) in [("another key", vec![8; 32]), ("a shorter one", vec![7; 31]), ("none", vec![])] {
        let mut tx = claim.clone();
        push_key(&release, &mut tx, &wrong, &[1]);
        world.refused(what, &tx, release.output()).await;
    }
    let digest = SighashCache::new(&claim).digest(0, &release.output().locking, release.output().value);
    let mut stolen = claim.clone();
    let script = Script::builder().push(&signed(&buyer(), &digest)).push(&secret).push(&[1]);
    stolen.inputs[0].unlocking = script.build();
    world.refused("the buyer's claim", &stolen, release.output()).await;

    // The hash of a longer or shorter secret is no way around its length.
    for len in [31, 33] {
        let long = vec![7; len];
        let odd = world.key_release(&long, height).await;
        let output = TxOut { value: sat(VALUE - 100), locking: lock(3) };
        let mut tx = Transaction::new(vec![TxIn::new(odd.outpoint())], vec![output]);
        push_key(&odd, &mut tx, &long, &[1]);
        world.refused("a secret of another length", &tx, odd.output()).await;
    }

    // The claim is taken although a refund waits apart, and shows the key to whoever reads the chain.
    let refund = release.refund(&buyer(), &hash_of(2), RATE_HERE).unwrap();
    assert_eq!(submit(&world.service, &refund).await, Report::Pending);
    world.mined(&claim).await;
    let read = world.node.call("getrawtransaction", json!([claim.txid()])).await;
    let read = Transaction::from_bytes(&hex::decode(read.as_str().unwrap()).unwrap()).unwrap();
    assert_eq!(release.spend_in(&read), Some(KeyReleaseSpend::Claim { key: secret }));
}

#[tokio::test]
async fn a_key_releases_refund_waits_for_its_height() {
    let Some(world) = World::start().await else { return };
    let height = world.ahead(4).await;
    let release = world.key_release(&[7; 32], height).await;
    let refund = release.refund(&buyer(), &hash_of(2), RATE_HERE).unwrap();
    world.mined_late(&refund, height).await;
    let other = world.key_release(&[7; 32], height).await;
    attack_the_lock(&world, other.outpoint(), other.output(), height).await;
    let refund = other.refund(&buyer(), &hash_of(2), RATE_HERE).unwrap();
    world.mined(&refund).await;
    assert_eq!(other.spend_in(&refund), Some(KeyReleaseSpend::Refund));
}

/// Heights whose push has any length from one to four bytes, as far as a chain in a test goes.
#[tokio::test]
async fn refunds_of_small_heights_are_mined() {
    let Some(world) = World::start().await else { return };
    for height in [1, 16, 17, 100].map(|height| RefundHeight::new(height).unwrap()) {
        let channel = world.channel(height).await;
        world.mined(&channel.refund(&buyer(), RATE_HERE).unwrap()).await;
        let release = world.key_release(&[7; 32], height).await;
        world.mined(&release.refund(&buyer(), &hash_of(2), RATE_HERE).unwrap()).await;
    }
}
