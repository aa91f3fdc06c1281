//! The template verification against the node's script engine (`verifyscript`) on 10,000 generated and mutated spends.
//!
//! What is accepted here the node accepts, also under the rules of relay; what the node refuses is refused here. Where
//! more is refused here than by the rules of blocks, it is one of the classes that say so, and all of them counted. Here
//! are payments; [`contracts`] does the same with the spends of contracts.

mod contracts;

use std::collections::{BTreeMap, BTreeSet};

use sensora_chain::contract::{TemplateError, verify_input};
use sensora_chain::encode::{hash160, sha256d};
use sensora_chain::{OutPoint, PrivateKey, Script, SighashCache, Transaction, TxIn, TxOut, Txid};
use serde_json::{Value, json};

use super::super::dev_chain::sat;
use super::super::support::{bytes, text, vectors};
use super::node::Node;

const SPENDS: usize = 10_000;
const IN_BATCH: usize = 200;

/// The flags of relay (`STANDARD_SCRIPT_VERIFY_FLAGS`) beside those of blocks: minimal pushes, nothing left over, no
/// reserved NOPs, empty dummies. The lowest, P2SH, is void for outputs since Genesis, and without it the node ends
/// itself where nothing may be left over.
const RELAY_FLAGS: u64 = 1 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8;

/// Numbers that are the same in every run (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        [(); N].map(|()| self.next() as u8)
    }

    fn key(&mut self) -> PrivateKey {
        loop {
            if let Ok(key) = PrivateKey::from_bytes(self.bytes()) {
                return key;
            }
        }
    }

    fn flip(&mut self, bytes: &mut [u8]) {
        let at = self.below(bytes.len() * 8);
        bytes[at / 8] ^= 1 << (at % 8);
    }
}

/// A transaction, what its inputs spend, and which of them is looked at.
#[derive(Clone)]
struct Spend {
    tx: Transaction,
    spent: Vec<TxOut>,
    keys: Vec<PrivateKey>,
    public: Vec<Vec<u8>>,
    index: usize,
}

/// The key as 65 bytes, the first 4; 6 or 7 for the "hybrid" form.
fn uncompressed(key: &PrivateKey) -> Vec<u8> {
    let point = secp256k1::PublicKey::from_slice(&key.public().to_bytes()).unwrap();
    point.serialize_uncompressed().to_vec()
}

/// The same signature with the other S: n − s.
fn high_s(der: &[u8]) -> Vec<u8> {
    let order = hex::decode("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141").unwrap();
    let r_len = usize::from(der[3]);
    let (r, s) = (&der[4..4 + r_len], &der[6 + r_len..]);
    let mut padded = vec![0u8; 32 - s.len().min(32)];
    padded.extend(&s[s.len() - s.len().min(32)..]);
    let (mut high, mut borrow) = (vec![0u8; 32], 0i16);
    for i in (0..32).rev() {
        let digit = i16::from(order[i]) - i16::from(padded[i]) - borrow;
        borrow = i16::from(digit < 0);
        high[i] = digit.rem_euclid(256) as u8;
    }
    if high[0] & 0x80 != 0 {
        high.insert(0, 0);
    }
    let body = [&[2, r.len() as u8], r, &[2, high.len() as u8], &high].concat();
    [&[0x30, body.len() as u8], body.as_slice()].concat()
}

impl Spend {
    /// One to three inputs of keys in either form, one to three outputs, all signed.
    fn new(random: &mut Random) -> Self {
        let inputs = 1 + random.below(3);
        let keys: Vec<PrivateKey> = (0..inputs).map(|_| random.key()).collect();
        let short = random.below(3) > 0;
        let public: Vec<Vec<u8>> = keys
            .iter()
            .map(|key| if short { key.public().to_bytes().to_vec() } else { uncompressed(key) })
            .collect();
        let spent = public
            .iter()
            .map(|key| TxOut {
                value: sat(1_000 + random.next() % 1_000_000_000),
                locking: Script::p2pkh(&hash160(key)),
            })
            .collect();
        let coin =
            |random: &mut Random| OutPoint { txid: Txid(random.bytes()), vout: random.below(5) as u32 };
        let mut ins = Vec::new();
        for _ in 0..inputs {
            let mut input = TxIn::new(coin(random));
            if random.below(4) == 0 {
                input.sequence = random.next() as u32;
            }
            ins.push(input);
        }
        let outs = (0..1 + random.below(3))
            .map(|_| TxOut { value: sat(random.next() % 1_000_000), locking: Script::p2pkh(&random.bytes()) })
            .collect();
        let mut tx = Transaction::new(ins, outs);
        if random.below(4) == 0 {
            tx.lock_time = random.next() as u32;
        }
        let mut spend = Spend { tx, spent, keys, public, index: random.below(inputs) };
        spend.sign();
        spend
    }

    fn digest(&self, index: usize, sighash_type: u8) -> [u8; 32] {
        let (cache, spent) = (SighashCache::new(&self.tx), &self.spent[index]);
        cache
            .digest_with_type(index, &spent.locking, spent.value, sighash_type.into())
            // Types without FORKID or with the bit above it have no digest here: that of their other bits.
            .unwrap_or_else(|| {
                let bits = cache.preimage(index, &spent.locking, spent.value, sighash_type.into());
                sha256d(&bits.unwrap())
            })
    }

    /// Signature with its type, for one input.
    fn signature(&self, index: usize, sighash_type: u8) -> Vec<u8> {
        let mut signature = self.keys[index].sign(&self.digest(index, sighash_type)).der();
        signature.push(sighash_type);
        signature
    }

    fn sign(&mut self) {
        for index in 0..self.keys.len() {
            let unlocking = Script::builder().push(&self.signature(index, 0x41)).push(&self.public[index]);
            self.tx.inputs[index].unlocking = unlocking.build();
        }
    }

    /// Replaces the unlocking script of the input that is looked at.
    fn unlock(&mut self, unlocking: Script) {
        self.tx.inputs[self.index].unlocking = unlocking;
    }

    fn pushes(&self) -> (Vec<u8>, Vec<u8>) {
        (self.signature(self.index, 0x41), self.public[self.index].clone())
    }

    fn ours(&self) -> Result<(), TemplateError> {
        verify_input(&self.tx, &SighashCache::new(&self.tx), self.index, &self.spent[self.index])
    }

    fn question(&self, relay: bool, block_flags: u64) -> Value {
        let spent = &self.spent[self.index];
        let txo = json!({
            "lock": spent.locking.to_string(), "value": spent.value.as_u64(), "height": 100,
        });
        let mut question = json!({ "tx": self.tx.to_string(), "n": self.index, "txo": txo });
        if relay {
            question["flags"] = json!(block_flags | RELAY_FLAGS);
        }
        question
    }
}

type Mutation = fn(&mut Spend, &mut Random);

/// What is done to a spend, by name; "as made" comes again, so that what both accept is a good part of all.
const MUTATIONS: [(&str, Mutation); 43] = [
    ("as made", |_, _| {}),
    ("as made", |_, _| {}),
    ("as made", |_, _| {}),
    ("as made", |_, _| {}),
    ("as made", |_, _| {}),
    ("as made", |_, _| {}),
    ("as made", |_, _| {}),
    ("as made", |_, _| {}),
    ("as made", |_, _| {}),
    ("as made", |_, _| {}),
    ("as made", |_, _| {}),
    ("as made", |_, _| {}),
    ("another input's outpoint or sequence signed anew", |spend, random| {
        let other = random.below(spend.keys.len());
        spend.tx.inputs[other].previous.vout ^= 1;
        spend.tx.inputs[other].sequence ^= 1;
        spend.sign();
    }),
    ("signature bit", |spend, random| {
        let (mut signature, key) = spend.pushes();
        let end = signature.len() - 1;
        random.flip(&mut signature[..end]);
        spend.unlock(Script::builder().push(&signature).push(&key).build());
    }),
    ("type bit, not signed", |spend, random| {
        let (mut signature, key) = spend.pushes();
        let end = signature.len() - 1;
        random.flip(&mut signature[end..]);
        spend.unlock(Script::builder().push(&signature).push(&key).build());
    }),
    ("other type, signed", |spend, random| {
        const TYPES: [u8; 5] = [0x42, 0x43, 0xc1, 0xc2, 0xc3];
        let signature = spend.signature(spend.index, TYPES[random.below(5)]);
        let key = spend.public[spend.index].clone();
        spend.unlock(Script::builder().push(&signature).push(&key).build());
    }),
    ("type without FORKID or undefined, signed", |spend, random| {
        const TYPES: [u8; 8] = [0x01, 0x02, 0x81, 0x00, 0x40, 0x44, 0x5f, 0xff];
        let signature = spend.signature(spend.index, TYPES[random.below(8)]);
        let key = spend.public[spend.index].clone();
        spend.unlock(Script::builder().push(&signature).push(&key).build());
    }),
    ("key bit", |spend, random| {
        let (signature, mut key) = spend.pushes();
        random.flip(&mut key);
        spend.unlock(Script::builder().push(&signature).push(&key).build());
    }),
    ("key bit, locked to it", |spend, random| {
        let (_, mut key) = spend.pushes();
        random.flip(&mut key);
        spend.spent[spend.index].locking = Script::p2pkh(&hash160(&key));
        let signature = spend.signature(spend.index, 0x41);
        spend.unlock(Script::builder().push(&signature).push(&key).build());
    }),
    ("hybrid key, locked to it", |spend, _| {
        let mut key = uncompressed(&spend.keys[spend.index]);
        key[0] = 6 | (key[64] & 1);
        spend.spent[spend.index].locking = Script::p2pkh(&hash160(&key));
        let signature = spend.signature(spend.index, 0x41);
        spend.unlock(Script::builder().push(&signature).push(&key).build());
    }),
    ("another's key and signature", |spend, random| {
        let other = random.key();
        let mut signature = other.sign(&spend.digest(spend.index, 0x41)).der();
        signature.push(0x41);
        spend.unlock(Script::builder().push(&signature).push(&other.public().to_bytes()).build());
    }),
    ("locking hash bit", |spend, random| {
        let mut locking = spend.spent[spend.index].locking.as_bytes().to_vec();
        random.flip(&mut locking[3..23]);
        spend.spent[spend.index].locking = Script::new(locking);
    }),
    ("locking opcode bit, signed", |spend, random| {
        let mut locking = spend.spent[spend.index].locking.as_bytes().to_vec();
        let at = [0, 1, 2, 23, 24][random.below(5)];
        random.flip(&mut locking[at..=at]);
        spend.spent[spend.index].locking = Script::new(locking);
        spend.sign();
    }),
    ("locking script longer, signed", |spend, random| {
        let mut locking = spend.spent[spend.index].locking.as_bytes().to_vec();
        locking.push([0x61, 0x51, 0x69, 0x00][random.below(4)]);
        spend.spent[spend.index].locking = Script::new(locking);
        spend.sign();
    }),
    ("high S", |spend, _| {
        let (signature, key) = spend.pushes();
        let mut high = high_s(&signature[..signature.len() - 1]);
        high.push(0x41);
        spend.unlock(Script::builder().push(&high).push(&key).build());
    }),
    ("DER with a byte too many", |spend, random| {
        let (mut signature, key) = spend.pushes();
        match random.below(3) {
            // After S, inside R, and inside the length.
            0 => signature.insert(signature.len() - 1, 0),
            1 => {
                signature[1] += 1;
                signature[3] += 1;
                signature.insert(4, 0);
            }
            _ => {
                signature.insert(1, 0x81);
            }
        }
        spend.unlock(Script::builder().push(&signature).push(&key).build());
    }),
    ("DER too short", |spend, random| {
        let (mut signature, key) = spend.pushes();
        signature.remove(random.below(signature.len()));
        spend.unlock(Script::builder().push(&signature).push(&key).build());
    }),
    ("R or S zero", |spend, random| {
        let (_, key) = spend.pushes();
        let zero = match random.below(2) {
            0 => vec![0x30, 6, 2, 1, 0, 2, 1, 1, 0x41],
            _ => vec![0x30, 6, 2, 1, 1, 2, 1, 0, 0x41],
        };
        spend.unlock(Script::builder().push(&zero).push(&key).build());
    }),
    ("no signature", |spend, _| {
        let (_, key) = spend.pushes();
        spend.unlock(Script::builder().push(&[]).push(&key).build());
    }),
    ("other value", |spend, random| {
        let value = spend.spent[spend.index].value.as_u64();
        spend.spent[spend.index].value = sat(value ^ (1 << random.below(30)));
    }),
    ("output changed", |spend, random| {
        let at = random.below(spend.tx.outputs.len());
        let output = &mut spend.tx.outputs[at];
        match random.below(2) {
            0 => output.value = sat(output.value.as_u64() ^ 1),
            _ => output.locking = Script::p2pkh(&random.bytes()),
        }
    }),
    ("output more or less", |spend, random| match random.below(2) {
        0 => spend.tx.outputs.push(TxOut { value: sat(1), locking: Script::p2pkh(&random.bytes()) }),
        _ => drop(spend.tx.outputs.remove(0)),
    }),
    ("sequence, lock time or version, not signed", |spend, random| match random.below(3) {
        0 => spend.tx.inputs[spend.index].sequence ^= 1 << random.below(32),
        1 => spend.tx.lock_time ^= 1 << random.below(32),
        _ => spend.tx.version ^= 1 << random.below(32),
    }),
    ("version 2, signed", |spend, _| {
        spend.tx.version = 2;
        spend.sign();
    }),
    ("input more or less", |spend, random| {
        if spend.keys.len() > 1 && random.below(2) == 0 {
            let other = (spend.index + 1) % spend.keys.len();
            spend.tx.inputs.remove(other);
            spend.spent.remove(other);
            spend.keys.remove(other);
            spend.public.remove(other);
            spend.index -= usize::from(other < spend.index);
        } else {
            spend.tx.inputs.push(TxIn::new(OutPoint { txid: Txid(random.bytes()), vout: 0 }));
        }
    }),
    ("unlocking scripts swapped", |spend, _| {
        let other = (spend.index + 1) % spend.keys.len();
        let swapped = spend.tx.inputs[other].unlocking.clone();
        // With one input there is none to swap with: signature and key then.
        let (signature, key) = spend.pushes();
        match other == spend.index {
            true => spend.unlock(Script::builder().push(&key).push(&signature).build()),
            false => spend.unlock(swapped),
        }
    }),
    ("a push more in front", |spend, random| {
        let (signature, key) = spend.pushes();
        let junk = random.bytes::<4>();
        spend.unlock(Script::builder().push(&junk).push(&signature).push(&key).build());
    }),
    ("a push more behind", |spend, random| {
        let (signature, key) = spend.pushes();
        let junk = random.bytes::<4>();
        spend.unlock(Script::builder().push(&signature).push(&key).push(&junk).build());
    }),
    ("longer push", |spend, random| {
        let (signature, key) = spend.pushes();
        let long = |data: &[u8], form: usize| match form {
            0 => [&[0x4c, data.len() as u8], data].concat(),
            1 => [&[0x4d, data.len() as u8, 0], data].concat(),
            _ => [&[0x4e, data.len() as u8, 0, 0, 0], data].concat(),
        };
        let (signature, form) = (signature, random.below(3));
        let script = match random.below(2) {
            0 => Script::builder().raw(&long(&signature, form)).push(&key),
            _ => Script::builder().push(&signature).raw(&long(&key, form)),
        };
        spend.unlock(script.build());
    }),
    ("not only pushes", |spend, random| {
        let (signature, key) = spend.pushes();
        let op = [0x61, 0x76, 0x77, 0x6a, 0xac][random.below(5)];
        let script = match random.below(3) {
            0 => Script::builder().op(op).push(&signature).push(&key),
            1 => Script::builder().push(&signature).op(op).push(&key),
            _ => Script::builder().push(&signature).push(&key).op(op),
        };
        spend.unlock(script.build());
    }),
    ("truncated", |spend, random| {
        let script = spend.tx.inputs[spend.index].unlocking.as_bytes().to_vec();
        let end = random.below(script.len());
        spend.unlock(Script::new(script[..end].to_vec()));
    }),
    ("a push that swallows the locking script", |spend, random| {
        let ending = [&[0x1a][..], &[0x4c, 0x1a], &[0x4d], &[0x4e, 1]][random.below(4)];
        let script = match random.below(2) {
            0 => Vec::new(),
            _ => spend.tx.inputs[spend.index].unlocking.as_bytes().to_vec(),
        };
        spend.unlock(Script::new([&script, ending].concat()));
    }),
    ("any bit of the unlocking script", |spend, random| {
        let mut script = spend.tx.inputs[spend.index].unlocking.as_bytes().to_vec();
        random.flip(&mut script);
        spend.unlock(Script::new(script));
    }),
];

/// The classes that both accept, with how many there are of each.
const BOTH_ACCEPT: [(&str, usize); 2] =
    [("as made", 2_796), ("another input's outpoint or sequence signed anew", 233)];

/// The classes of which blocks may hold some that are refused here by design, with how many, how many of them nodes
/// relay, and why they are refused.
const STRICTER: [(&str, usize, usize, &str); 6] = [
    ("a push more in front", 232, 0, "anybody can change the id so"),
    ("longer push", 232, 0, "anybody can change the id so"),
    ("version 2, signed", 232, 232, "since Chronicle anybody can change the id of such a transaction"),
    ("other type, signed", 233, 233, "the signature does not sign everything"),
    ("locking opcode bit, signed", 21, 9, "the script is none of ours: it needs a Merkle proof"),
    ("locking script longer, signed", 114, 49, "the script is none of ours: it needs a Merkle proof"),
];

/// What became of the spends of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    all: usize,
    ours: usize,
    blocks: usize,
    relay: usize,
}

/// What the node says to each question.
async fn verdicts(node: &Node, questions: Vec<Value>) -> Vec<bool> {
    let mut verdicts = Vec::with_capacity(questions.len());
    for batch in questions.chunks(IN_BATCH) {
        let answer = node.call("verifyscript", json!([batch, false, 60_000])).await;
        for one in answer.as_array().unwrap() {
            match text(&one["result"]) {
                "ok" => verdicts.push(true),
                "error" => verdicts.push(false),
                other => panic!("{other}: {one}"),
            }
        }
    }
    assert_eq!(verdicts.len(), questions.len());
    verdicts
}

/// The flags with which the node judges blocks.
async fn block_flags(node: &Node, spend: &Spend) -> u64 {
    let mut question = spend.question(false, 0);
    question["reportflags"] = json!(true);
    let answer = node.call("verifyscript", json!([[question], false, 60_000])).await;
    answer[0]["flags"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

/// What becomes of the spends, by class. Accepted here and not there must never be.
async fn judge(node: &Node, spends: &[(&'static str, Spend)]) -> BTreeMap<&'static str, Count> {
    let flags = block_flags(node, &spends[0].1).await;
    let blocks = verdicts(node, spends.iter().map(|(_, s)| s.question(false, flags)).collect()).await;
    let relay = verdicts(node, spends.iter().map(|(_, s)| s.question(true, flags)).collect()).await;
    let mut counts = BTreeMap::<&str, Count>::new();
    for (((class, spend), block), relay) in spends.iter().zip(blocks).zip(relay) {
        let ours = spend.ours();
        let shown = || format!("{class}: {ours:?}, input {} of {}", spend.index, spend.tx);
        assert!(ours.is_ok() <= block, "a block may not hold what is accepted here: {}", shown());
        assert!(ours.is_ok() <= relay, "nodes do not relay what is accepted here: {}", shown());
        assert!(relay <= block, "what is relayed can be mined: {}", shown());
        let count = counts.entry(class).or_default();
        count.all += 1;
        count.ours += usize::from(ours.is_ok());
        count.blocks += usize::from(block);
        count.relay += usize::from(relay);
    }
    counts
}

#[tokio::test]
async fn the_nodes_script_engine_agrees_on_ten_thousand_spends() {
    let Some(node) = Node::start(&[]).await else { return };
    let mut random = Random(0x5e05_07a0);
    let mut spends = Vec::with_capacity(SPENDS);
    for n in 0..SPENDS {
        let mut spend = Spend::new(&mut random);
        let (class, mutate) = MUTATIONS[n % MUTATIONS.len()];
        mutate(&mut spend, &mut random);
        spends.push((class, spend));
    }
    let counts = judge(&node, &spends).await;
    let mut accepted = 0;
    for (class, count) in &counts {
        let both = BOTH_ACCEPT.iter().find(|(name, _)| name == class);
        let stricter = STRICTER.iter().find(|(name, ..)| name == class);
        let (ours, blocks, relay, why) = match (both, stricter) {
            (Some((_, n)), _) => (*n, *n, *n, "both accept all"),
            (None, Some((_, blocks, relay, why))) => (0, *blocks, *relay, *why),
            (None, None) => (0, 0, 0, "both refuse all"),
        };
        let expected = Count { all: count.all, ours, blocks, relay };
        assert_eq!(*count, expected, "{class} ({why})");
        accepted += count.ours;
    }
    assert_eq!(counts.len(), MUTATIONS.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len());
    assert_eq!(counts.values().map(|count| count.all).sum::<usize>(), SPENDS);
    assert_eq!(accepted, 3_029, "three of ten are accepted by both");
}

/// The published third-party edits of one spend, and the key-release scripts, which are none of ours: they do not ask
/// for the length of the key.
#[tokio::test]
async fn the_published_edits_are_judged_alike() {
    let Some(node) = Node::start(&[]).await else { return };
    let Some(edits) = vectors("malleability.json") else { return };
    let Some(release) = vectors("key_release_scripts.json") else { return };
    let spent = |of: &Value| TxOut {
        value: sat(of["sats"].as_u64().unwrap()),
        locking: Script::new(bytes(&of["lock"])),
    };
    let mut spends = Vec::new();
    for (name, tx) in edits["tx"].as_object().unwrap() {
        spends.push((name.clone(), tx.clone(), spent(&edits)));
    }
    for name in ["claim", "refund"] {
        spends.push((name.to_owned(), release[name].clone(), spent(&release)));
    }
    let spends: Vec<(String, Spend)> = spends
        .into_iter()
        .map(|(name, tx, spent)| {
            let tx = Transaction::from_bytes(&bytes(&tx)).unwrap();
            (name, Spend { tx, spent: vec![spent], keys: Vec::new(), public: Vec::new(), index: 0 })
        })
        .collect();
    let blocks = verdicts(&node, spends.iter().map(|(_, s)| s.question(false, 0)).collect()).await;
    let mut accepted = Vec::new();
    for ((name, spend), block) in spends.iter().zip(blocks) {
        match spend.ours() {
            Ok(()) => {
                assert!(block, "{name}");
                accepted.push(name.as_str());
            }
            Err(TemplateError::UnknownScript { .. }) => {
                assert!(block && (name == "claim" || name == "refund"), "{name}");
            }
            Err(_) => {}
        }
    }
    assert_eq!(accepted, ["v1_plain"]);
}
