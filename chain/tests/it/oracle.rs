//! What is made here against an independent implementation (`bsv-rs`), and the other way round.

use bsv_rs::primitives::bsv::sighash::{TxInput, TxOutput, TxSighashCache};
use bsv_rs::script::{LockingScript, ProtocolEra, ScriptFlags, Spend, TxSpendParams, UnlockingScript};
use bsv_rs::transaction as theirs;
use proptest::prelude::*;
use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::key_release::KeyReleaseSpend;
use sensora_chain::contract::payment::{pay_to_hash, sign_input};
use sensora_chain::contract::push_tx::Preimage;
use sensora_chain::contract::{
    Channel, ChannelTerms, CloseTerms, KeyRelease, KeyReleaseTerms, RefundHeight, data_output, verify_input,
    verify_p2pkh,
};
use sensora_chain::encode::{hash160, sha256};
use sensora_chain::keys::brc29_invoice;
use sensora_chain::merkle_path::{MerklePath, merkle_root};
use sensora_chain::{
    FeeRate, Network, OutPoint, PrivateKey, Satoshis, Script, SighashCache, Transaction, TxIn, TxOut, Txid,
    spv,
};

use crate::support::Roots;

/// What their interpreter says of one input under the rules of a node's mempool or of a block.
fn spend_is_valid(tx: &Transaction, index: usize, spent: &TxOut, flags: ScriptFlags) -> bool {
    let inputs = tx.inputs.iter().map(|input| TxInput {
        txid: input.previous.txid.0,
        output_index: input.previous.vout,
        script: input.unlocking.as_bytes().to_vec(),
        sequence: input.sequence,
    });
    let outputs = tx.outputs.iter().map(|output| TxOutput {
        satoshis: output.value.as_u64(),
        script: output.locking.as_bytes().to_vec(),
    });
    let cache = TxSighashCache::new(tx.version as i32, inputs.collect(), outputs.collect(), tx.lock_time);
    let mut spend = Spend::with_transaction(TxSpendParams {
        transaction: cache.into(),
        input_index: index,
        source_satoshis: spent.value.as_u64(),
        locking_script: LockingScript::from_binary(spent.locking.as_bytes()).unwrap(),
        unlocking_script: UnlockingScript::from_binary(tx.inputs[index].unlocking.as_bytes()).unwrap(),
        memory_limit: None,
        work_limit: None,
    })
    .unwrap();
    spend.set_flags(flags);
    spend.validate().unwrap_or(false)
}

fn standard() -> ScriptFlags {
    ScriptFlags::standard(ProtocolEra::PostChronicle)
}

fn their_key(key: &PrivateKey) -> bsv_rs::primitives::PrivateKey {
    bsv_rs::primitives::PrivateKey::from_bytes(key.to_bytes().as_slice()).unwrap()
}

fn any_key() -> impl Strategy<Value = PrivateKey> {
    any::<[u8; 32]>().prop_filter_map("in range", |bytes| PrivateKey::from_bytes(bytes).ok())
}

/// A signed transaction with the outputs it spends.
fn any_signed() -> impl Strategy<Value = (Transaction, Vec<TxOut>)> {
    let coin = (any_key(), any::<[u8; 32]>(), 0u32..5, 1u64..1_000_000);
    let output =
        (any::<[u8; 20]>(), 1u64..10_000).prop_map(|(hash, sat)| pay_to_hash(&hash, Satoshis::from_sat(sat)));
    let data = prop::collection::vec(any::<u8>(), 0..300).prop_map(|data| data_output(&[b"sensora", &data]));
    (
        prop::collection::vec(coin, 1..4),
        prop::collection::vec(prop_oneof![3 => output, 1 => data], 1..4),
        any::<u32>(),
    )
        .prop_map(|(coins, outputs, lock_time)| {
            let input = |(_, txid, vout, _): &(PrivateKey, [u8; 32], u32, u64)| {
                TxIn::new(OutPoint { txid: Txid(*txid), vout: *vout })
            };
            let mut tx = Transaction::new(coins.iter().map(input).collect(), outputs);
            tx.lock_time = lock_time;
            let mut spent = Vec::new();
            for (index, (key, _, _, sat)) in coins.iter().enumerate() {
                let coin = pay_to_hash(&key.public().hash160(), Satoshis::from_sat(*sat));
                sign_input(&mut tx, index, &coin, key).unwrap();
                spent.push(coin);
            }
            (tx, spent)
        })
}

fn any_height() -> impl Strategy<Value = RefundHeight> {
    prop_oneof![
        1u32..=17,
        100u32..=300,
        30_000u32..=40_000,
        1_000_000u32..10_000_000,
        499_999_000u32..500_000_000
    ]
    .prop_map(|height| RefundHeight::new(height).unwrap())
}

/// Every spend of both contracts with the output it spends: close, claim, and both refunds.
fn any_contract_spends() -> impl Strategy<Value = Vec<(Transaction, TxOut)>> {
    let terms = (any_key(), any_key(), any_height(), any::<[u8; 32]>());
    (terms, any::<[u8; 32]>(), 1_000u64..1_000_000, 0u64..=973).prop_map(
        |((buyer, seller, refund_height, secret), txid, value, paid)| {
            let (outpoint, value, rate) =
                (OutPoint { txid: Txid(txid), vout: 1 }, Satoshis::from_sat(value), FeeRate::DEFAULT);
            let (of_buyer, of_seller) = (buyer.public(), seller.public());
            let terms = ChannelTerms { buyer: of_buyer, seller: of_seller, refund_height };
            let close =
                CloseTerms { seller_hash: [1; 20], buyer_hash: [2; 20], fee: CloseTerms::fee_at(rate) };
            let channel = Channel::new(terms, close, outpoint, value).unwrap();
            let voucher = channel.sign_voucher(Satoshis::from_sat(paid), &buyer).unwrap();
            let key_hash = sha256(&secret);
            let terms = KeyReleaseTerms { key_hash, seller: of_seller, buyer: of_buyer, refund_height };
            let release = KeyRelease::new(terms, outpoint, value);
            vec![
                (channel.complete(&voucher, &seller).unwrap(), channel.output().clone()),
                (channel.refund(&buyer, rate).unwrap(), channel.output().clone()),
                (release.claim(&secret, &seller, &[1; 20], rate).unwrap(), release.output().clone()),
                (release.refund(&buyer, &[2; 20], rate).unwrap(), release.output().clone()),
            ]
        },
    )
}

/// A block of some transactions, of which one pays `key`; then two payments in a row that no block holds.
fn payment(key: &PrivateKey, others: usize, index: usize) -> (Beef, Txid, Roots) {
    let funding = Transaction::new(
        vec![TxIn::new(OutPoint { txid: Txid([9; 32]), vout: 0 })],
        vec![pay_to_hash(&key.public().hash160(), Satoshis::from_sat(10_000))],
    );
    let mut txids: Vec<Txid> = (0..others).map(|n| Txid([n as u8 + 1; 32])).collect();
    txids.insert(index, funding.txid());
    let bump = MerklePath::for_block(500, &txids, index).unwrap();

    let step = |parent: &Transaction, sat| {
        let mut tx = Transaction::new(
            vec![TxIn::new(OutPoint { txid: parent.txid(), vout: 0 })],
            vec![pay_to_hash(&key.public().hash160(), Satoshis::from_sat(sat)), data_output(&[b"note"])],
        );
        sign_input(&mut tx, 0, &parent.outputs[0], key).unwrap();
        tx
    };
    let first = step(&funding, 9_000);
    let second = step(&first, 8_000);
    let subject = second.txid();
    let mut beef = Beef::new();
    beef.add(funding, Some(&bump)).unwrap();
    beef.add(first, None).unwrap();
    beef.add(second, None).unwrap();
    (beef, subject, Roots { roots: [(500, merkle_root(&txids))].into(), tip: 700 })
}

struct TheirHeaders<'a>(&'a Roots);

impl theirs::Headers for TheirHeaders<'_> {
    fn carries(&self, height: u64, root: &[u8; 32]) -> bool {
        self.0.roots.get(&(height as u32)) == Some(root)
    }
}

#[test]
fn addresses_and_wif_are_theirs() {
    for seed in 1..=32u8 {
        let key = PrivateKey::from_bytes([seed; 32]).unwrap();
        let other = their_key(&key);
        assert_eq!(key.wif(Network::Main).as_str(), other.to_wif());
        assert_eq!(key.wif(Network::Test).as_str(), other.to_wif_with_prefix(0xef));
        assert_eq!(key.public().address(Network::Main).to_string(), other.public_key().to_address());
        let test = other.public_key().to_address_with_prefix(0x6f);
        assert_eq!(key.public().address(Network::Regtest).to_string(), test);
    }
}

#[test]
fn old_coins_of_uncompressed_keys_are_spent_as_they_spend_them() {
    let key = PrivateKey::from_bytes([5; 32]).unwrap();
    let uncompressed = hex::decode(their_key(&key).public_key().to_hex_uncompressed()).unwrap();
    let coin = pay_to_hash(&hash160(&uncompressed), Satoshis::from_sat(1_000));
    let input = TxIn::new(OutPoint { txid: Txid([1; 32]), vout: 0 });
    let mut tx = Transaction::new(vec![input], vec![pay_to_hash(&[2; 20], Satoshis::from_sat(900))]);
    let digest = SighashCache::new(&tx).digest(0, &coin.locking, coin.value);
    let mut signature = key.sign(&digest).der();
    signature.push(0x41);
    tx.inputs[0].unlocking = Script::builder().push(&signature).push(&uncompressed).build();
    assert!(spend_is_valid(&tx, 0, &coin, standard()));
    assert_eq!(verify_p2pkh(&tx, &SighashCache::new(&tx), 0, &coin), Ok(()));

    // The "hybrid" form of the same key, which the rules forbid.
    let mut hybrid = uncompressed;
    hybrid[0] = 0x06 | (hybrid[64] & 1);
    let coin = pay_to_hash(&hash160(&hybrid), Satoshis::from_sat(1_000));
    let digest = SighashCache::new(&tx).digest(0, &coin.locking, coin.value);
    let mut signature = key.sign(&digest).der();
    signature.push(0x41);
    tx.inputs[0].unlocking = Script::builder().push(&signature).push(&hybrid).build();
    assert!(!spend_is_valid(&tx, 0, &coin, standard()));
    assert!(verify_p2pkh(&tx, &SighashCache::new(&tx), 0, &coin).is_err());
}

/// Since Chronicle the unlocking script of a version 2 transaction may compute, so a claim can be valid without pushing
/// the key whole. It is not believed unmined; mined, it takes an interpreter to read the key.
#[test]
fn a_claim_of_version_2_can_hide_its_key_behind_opcodes() {
    let [buyer, seller] = [1, 2].map(|mark| PrivateKey::from_bytes([mark; 32]).unwrap());
    let (secret, refund_height) = ([7; 32], RefundHeight::new(170).unwrap());
    let key_hash = sha256(&secret);
    let terms = KeyReleaseTerms { key_hash, seller: seller.public(), buyer: buyer.public(), refund_height };
    let release = KeyRelease::new(terms, OutPoint::default(), Satoshis::from_sat(5_000));
    let mut tx = release.claim(&secret, &seller, &[1; 20], FeeRate::DEFAULT).unwrap();
    tx.version = 2;
    let digest = SighashCache::new(&tx).digest(0, &release.output().locking, release.output().value);
    let signature = [seller.sign(&digest).der(), vec![0x41]].concat();
    let halves = Script::builder().push(&signature).push(&secret[..16]).push(&secret[16..]);
    // CAT, and the selector.
    tx.inputs[0].unlocking = halves.op(0x7e).push(&[1]).build();
    assert!(spend_is_valid(&tx, 0, release.output(), standard()));
    assert!(verify_input(&tx, &SighashCache::new(&tx), 0, release.output()).is_err());
    assert_eq!(release.spend_in(&tx), Some(KeyReleaseSpend::Other));
}

#[test]
fn headers_are_theirs() {
    let genesis = sensora_chain::header::Header::regtest_genesis();
    let other = bsv_rs::block::BlockHeader::from_binary(&genesis.0).unwrap();
    assert_eq!(genesis.hash().0, other.hash());
    assert_eq!(genesis.work().to_be_bytes(), other.work().to_be_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn their_interpreter_accepts_what_we_sign((tx, spent) in any_signed()) {
        let cache = SighashCache::new(&tx);
        for (index, coin) in spent.iter().enumerate() {
            prop_assert!(verify_p2pkh(&tx, &cache, index, coin).is_ok());
            prop_assert!(spend_is_valid(&tx, index, coin, standard()));
            prop_assert!(spend_is_valid(&tx, index, coin, ScriptFlags::block(ProtocolEra::PostChronicle)));
        }
    }

    #[test]
    fn what_we_accept_their_interpreter_accepts((tx, spent) in any_signed(), at: prop::sample::Index, mask in 1u8..) {
        // One changed byte, anywhere: we may refuse more than they do, never less.
        let mut raw = tx.to_bytes();
        let at = at.index(raw.len());
        raw[at] ^= mask;
        let Ok(changed) = Transaction::from_bytes(&raw) else { return Ok(()) };
        let cache = SighashCache::new(&changed);
        for (index, coin) in spent.iter().enumerate() {
            if verify_p2pkh(&changed, &cache, index, coin).is_ok() {
                prop_assert!(spend_is_valid(&changed, index, coin, standard()));
            }
        }
    }

    #[test]
    fn their_interpreter_accepts_what_contracts_make(spends in any_contract_spends()) {
        for (tx, coin) in &spends {
            prop_assert_eq!(verify_input(tx, &SighashCache::new(tx), 0, coin), Ok(()));
            prop_assert!(spend_is_valid(tx, 0, coin, standard()));
            prop_assert!(spend_is_valid(tx, 0, coin, ScriptFlags::block(ProtocolEra::PostChronicle)));
        }
    }

    #[test]
    fn what_we_accept_of_contracts_their_interpreter_accepts(
        spends in any_contract_spends(), at: prop::sample::Index, mask in 1u8.., locked_at: prop::sample::Index,
    ) {
        for (tx, coin) in &spends {
            // One changed byte in the transaction, or in the locking script.
            let mut raw = tx.to_bytes();
            let at = at.index(raw.len());
            raw[at] ^= mask;
            let mut locking = coin.locking.as_bytes().to_vec();
            let at = locked_at.index(locking.len());
            locking[at] ^= mask;
            let other = TxOut { value: coin.value, locking: Script::new(locking) };
            let changed = Transaction::from_bytes(&raw).ok().filter(|tx| !tx.inputs.is_empty());
            for (tx, coin) in changed.iter().map(|changed| (changed, coin)).chain([(tx, &other)]) {
                let accepted = verify_input(tx, &SighashCache::new(tx), 0, coin).is_ok();
                prop_assert!(!accepted || spend_is_valid(tx, 0, coin, standard()));
            }
        }
    }

    /// The lock, held against theirs at the edges: lock times around the refund height and the bound, and the sequence.
    #[test]
    fn the_lock_of_a_refund_is_theirs(
        key in any_key(), height in any_height(), lock_time in prop::sample::select(vec![-1i64, 0, 1, 499_999_999, 500_000_000]),
        sequence in prop::sample::select(vec![u32::MAX, u32::MAX - 1, 0]),
    ) {
        let terms = ChannelTerms { buyer: key.public(), seller: key.public(), refund_height: height };
        let coin = TxOut { value: Satoshis::from_sat(5_000), locking: terms.locking() };
        let mut tx = Transaction::new(vec![TxIn::new(OutPoint::default())], vec![pay_to_hash(&[1; 20], Satoshis::from_sat(4_000))]);
        tx.lock_time = if lock_time < 2 { (i64::from(height.get()) + lock_time) as u32 } else { lock_time as u32 };
        tx.inputs[0].sequence = sequence;
        let preimage = loop {
            let preimage = Preimage::new(&SighashCache::new(&tx), 0, &coin).unwrap();
            if preimage.is_ground() {
                break preimage;
            }
            tx.outputs[0].value = Satoshis::from_sat(tx.outputs[0].value.as_u64() - 1);
        };
        let signature = [key.sign(&preimage.digest).der(), vec![0x41]].concat();
        tx.inputs[0].unlocking = Script::builder().push(&signature).push(&preimage.bytes).push(&[]).build();
        let ours = verify_input(&tx, &SighashCache::new(&tx), 0, &coin).is_ok();
        prop_assert_eq!(ours, spend_is_valid(&tx, 0, &coin, standard()));
        let kept = (height.get()..500_000_000).contains(&tx.lock_time) && sequence != u32::MAX;
        prop_assert_eq!(ours, kept);
    }

    #[test]
    fn transactions_and_extended_format_are_theirs((tx, spent) in any_signed()) {
        let other = theirs::Transaction::from_binary(&tx.to_bytes()).unwrap();
        prop_assert_eq!(other.to_binary(), tx.to_bytes());
        prop_assert_eq!(other.id(), tx.txid().to_string());
        let extended = tx.to_extended(&spent).unwrap();
        let other = theirs::Transaction::from_ef(&extended).unwrap();
        prop_assert_eq!(other.to_ef().unwrap(), extended);
    }

    #[test]
    fn brc42_is_theirs(a in any_key(), b in any_key(), prefix in "[A-Za-z0-9+/]{8,20}", suffix in ".{1,40}") {
        for invoice in [brc29_invoice(&prefix, &suffix).unwrap().to_string(), suffix] {
            let ours = b.child(&a.public(), &invoice);
            let other = their_key(&b).derive_child(&their_key(&a).public_key(), &invoice).unwrap();
            prop_assert_eq!(*ours.to_bytes(), other.to_bytes());
            let ours = b.public().child(&a, &invoice);
            let other = their_key(&b).public_key().derive_child(&their_key(&a), &invoice).unwrap();
            prop_assert_eq!(ours.to_bytes(), other.to_compressed());
        }
    }

    #[test]
    fn signatures_are_theirs(key in any_key(), digest: [u8; 32]) {
        let ours = key.sign(&digest);
        let other = their_key(&key).sign(&digest).unwrap();
        prop_assert_eq!(ours.der(), other.to_der());
        prop_assert!(their_key(&key).public_key().verify(&digest, &other));
    }

    #[test]
    fn merkle_paths_are_theirs(count in 1usize..30, picks in prop::collection::vec(any::<prop::sample::Index>(), 1..5)) {
        let txids: Vec<Txid> = (0..count).map(|n| Txid([n as u8 + 1; 32])).collect();
        let mut ours: Option<MerklePath> = None;
        let mut other: Option<theirs::MerklePath> = None;
        for pick in picks {
            let index = pick.index(count);
            let path = MerklePath::for_block(77, &txids, index).unwrap();
            let theirs = theirs::MerklePath::from_binary(&path.to_bytes()).unwrap();
            let root = theirs.compute_root(Some(&txids[index].to_string())).unwrap();
            prop_assert_eq!(root, Txid(*path.root()).to_string());
            prop_assert_eq!(theirs.to_binary(), path.to_bytes());
            match (&mut ours, &mut other) {
                (Some(ours), Some(other)) => {
                    ours.merge(&path).unwrap();
                    other.combine(&theirs).unwrap();
                }
                _ => (ours, other) = (Some(path), Some(theirs)),
            }
        }
        let (ours, other) = (ours.unwrap(), other.unwrap());
        prop_assert_eq!(&MerklePath::parse(&other.to_binary()).unwrap(), &ours);
        prop_assert_eq!(ours.to_bytes(), other.to_binary());
    }

    #[test]
    fn beefs_are_theirs(key in any_key(), others in 0usize..12, at: prop::sample::Index) {
        // A transaction at place 0 would count as the coinbase.
        let (beef, subject, headers) = payment(&key, others + 1, 1 + at.index(others + 1));
        for bytes in [beef.to_bytes_v1().unwrap(), beef.to_bytes_v2(), beef.to_atomic(&subject).unwrap()] {
            let parsed = Beef::parse(&bytes, &BeefLimits::DEFAULT).unwrap();
            prop_assert!(spv::verify(&parsed, &subject, &headers).is_ok());
            // They run all scripts and check roots, amounts and order.
            let verdict = theirs::verify_stream(bytes.as_slice(), TheirHeaders(&headers), None).unwrap();
            prop_assert!(verdict.is_valid(), "{:?}", verdict);
            let mut other = theirs::Beef::from_binary(&bytes).unwrap();
            prop_assert!(other.is_valid(false));
            let again = other.to_binary();
            let again = Beef::parse(&again, &BeefLimits::DEFAULT).unwrap();
            prop_assert_eq!(again.txs(), parsed.txs());
            let atomic = other.to_binary_atomic(&subject.to_string()).unwrap();
            let atomic = Beef::parse(&atomic, &BeefLimits::DEFAULT).unwrap();
            prop_assert!(spv::verify(&atomic, &subject, &headers).is_ok());
        }
    }

    #[test]
    fn a_beef_we_believe_they_believe(key in any_key(), at: prop::sample::Index, mask in 1u8..) {
        let (beef, subject, headers) = payment(&key, 5, 3);
        let mut bytes = beef.to_atomic(&subject).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        let Ok(changed) = Beef::parse(&bytes, &BeefLimits::DEFAULT) else { return Ok(()) };
        let Some(subject) = changed.subject() else { return Ok(()) };
        if spv::verify(&changed, &subject, &headers).is_ok() {
            let verdict = theirs::verify_stream(bytes.as_slice(), TheirHeaders(&headers), None).unwrap();
            prop_assert!(verdict.is_valid(), "{:?}", verdict);
        }
    }
}
