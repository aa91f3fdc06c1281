//! The spends of channels and key releases against the node's script engine: 10,000 of them, made and mutated.

use std::collections::BTreeSet;

use sensora_chain::contract::height_lock::RefundHeight;
use sensora_chain::contract::push_tx::{self, Preimage};
use sensora_chain::contract::{ChannelTerms, KeyReleaseTerms};
use sensora_chain::encode::sha256;
use sensora_chain::{OutPoint, PrivateKey, Script, SighashCache, Transaction, TxIn, TxOut, Txid};

use super::super::super::dev_chain::sat;
use super::super::node::Node;
use super::{Count, Random, SPENDS, Spend, high_s, judge};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Close,
    ChannelRefund,
    Claim,
    KeyReleaseRefund,
}

use Kind::{ChannelRefund, Claim, Close, KeyReleaseRefund};

const KINDS: [Kind; 4] = [Close, ChannelRefund, Claim, KeyReleaseRefund];
const REFUNDS: [Kind; 2] = [ChannelRefund, KeyReleaseRefund];

/// The spend of a contract's output by one input of a transaction.
struct Made {
    kind: Kind,
    tx: Transaction,
    index: usize,
    spent: TxOut,
    buyer: PrivateKey,
    seller: PrivateKey,
    height: u32,
    secret: Vec<u8>,
}

impl Made {
    fn new(kind: Kind, random: &mut Random) -> Self {
        let inputs = 1 + random.below(2);
        let ins = (0..inputs)
            .map(|_| TxIn::new(OutPoint { txid: Txid(random.bytes()), vout: random.below(3) as u32 }))
            .collect();
        let outs = (0..1 + random.below(3))
            .map(|_| TxOut {
                value: sat(10_000 + random.next() % 1_000_000),
                locking: Script::p2pkh(&random.bytes()),
            })
            .collect();
        // A push of one to five bytes.
        let bits = [4, 6, 12, 20, 28][random.below(5)];
        let mut made = Made {
            kind,
            tx: Transaction::new(ins, outs),
            index: random.below(inputs),
            spent: TxOut { value: sat(1_000 + random.next() % 1_000_000_000), locking: Script::default() },
            buyer: random.key(),
            seller: random.key(),
            height: 1 + random.below((1 << bits) - 1) as u32,
            secret: random.bytes::<32>().to_vec(),
        };
        made.lock();
        if made.is_refund() {
            made.tx.lock_time = made.height + random.below(1_000) as u32;
        } else if random.below(4) == 0 {
            made.tx.lock_time = random.next() as u32;
            made.tx.inputs[made.index].sequence = random.next() as u32;
        }
        made.sign();
        made
    }

    fn is_refund(&self) -> bool {
        REFUNDS.contains(&self.kind)
    }

    /// The locking script of the terms as they are now.
    fn lock(&mut self) {
        let (buyer, seller) = (self.buyer.public(), self.seller.public());
        let refund_height = RefundHeight::new(self.height).unwrap();
        self.spent.locking = match self.kind {
            Close | ChannelRefund => ChannelTerms { buyer, seller, refund_height }.locking(),
            Claim | KeyReleaseRefund => {
                KeyReleaseTerms { key_hash: sha256(&self.secret), seller, buyer, refund_height }.locking()
            }
        };
    }

    fn preimage(&self) -> Preimage {
        Preimage::new(&SighashCache::new(&self.tx), self.index, &self.spent).unwrap()
    }

    fn signature(&self, key: &PrivateKey, sighash_type: u8) -> Vec<u8> {
        let cache = SighashCache::new(&self.tx);
        let locking = &self.spent.locking;
        let digest = cache.digest_with_type(self.index, locking, self.spent.value, sighash_type.into());
        let mut signature = key.sign(&digest.unwrap()).der();
        signature.push(sighash_type);
        signature
    }

    /// What unlocks it as the transaction is now: signatures first, and a selector last.
    fn parts(&self, sighash_type: u8) -> Vec<Vec<u8>> {
        let buyers = || self.signature(&self.buyer, sighash_type);
        let sellers = || self.signature(&self.seller, sighash_type);
        match self.kind {
            Close => vec![vec![], buyers(), sellers(), vec![1]],
            Claim => vec![sellers(), self.secret.clone(), vec![1]],
            ChannelRefund | KeyReleaseRefund => vec![buyers(), self.preimage().bytes, vec![]],
        }
    }

    fn unlock(&mut self, script: Script) {
        self.tx.inputs[self.index].unlocking = script;
    }

    fn put(&mut self, parts: &[Vec<u8>]) {
        self.unlock(parts.iter().fold(Script::builder(), |script, part| script.push(part)).build());
    }

    /// Signs the transaction as it is; a refund gets a sequence number that fits.
    fn sign(&mut self) {
        if self.is_refund() {
            push_tx::grind(&mut self.tx, self.index, &self.spent).unwrap();
        }
        self.put(&self.parts(0x41));
    }

    /// Signs after trying values of an output until the preimage is as wanted; the sequence stays.
    fn sign_where(&mut self, wanted: impl Fn(&Preimage) -> bool) {
        while !wanted(&self.preimage()) {
            let value = &mut self.tx.outputs[0].value;
            *value = sat(value.as_u64() + 1);
        }
        self.put(&self.parts(0x41));
    }

    /// One of the signatures.
    fn a_signature(&self, random: &mut Random) -> usize {
        if self.kind == Close { 1 + random.below(2) } else { 0 }
    }

    /// Changes one signature after all is signed.
    fn with_signature(&mut self, random: &mut Random, change: impl FnOnce(&mut Vec<u8>, &mut Random)) {
        let (mut parts, at) = (self.parts(0x41), self.a_signature(random));
        change(&mut parts[at], random);
        self.put(&parts);
    }

    fn into_spend(self) -> Spend {
        // Only one input is looked at.
        let spent = vec![self.spent; self.tx.inputs.len()];
        Spend { tx: self.tx, spent, keys: Vec::new(), public: Vec::new(), index: self.index }
    }
}

/// A digest that the script can use although it is not in the range that we ask for: `s` is still canonical.
fn is_beyond_our_range(preimage: &Preimage) -> bool {
    preimage.digest[0] == 0x7f && (1..0x7f).contains(&preimage.digest[31])
}

/// A digest whose last byte is counted up from 0, which is no minimal number.
fn is_not_minimal(preimage: &Preimage) -> bool {
    (1..0x7f).contains(&preimage.digest[0]) && preimage.digest[31] == 0
}

/// A digest that the script can make no signature from.
fn is_useless(preimage: &Preimage) -> bool {
    matches!(preimage.digest[0], 0x80..) || matches!(preimage.digest[31], 0x7f..)
}

type Mutation = fn(&mut Made, &mut Random);

/// What is done to a spend, by name, and to which kinds.
const MUTATIONS: [(&str, &[Kind], Mutation); 47] = [
    ("as made", &KINDS, |_, _| {}),
    ("as made", &KINDS, |_, _| {}),
    ("as made", &KINDS, |_, _| {}),
    ("as made", &KINDS, |_, _| {}),
    ("as made", &KINDS, |_, _| {}),
    ("as made", &KINDS, |_, _| {}),
    ("as made", &KINDS, |_, _| {}),
    ("as made", &KINDS, |_, _| {}),
    ("outputs changed, signed anew", &KINDS, |made, random| {
        made.tx.outputs.push(TxOut { value: sat(1), locking: Script::p2pkh(&random.bytes()) });
        made.sign();
    }),
    ("locking script bit, signed anew", &KINDS, |made, random| {
        let mut locking = made.spent.locking.as_bytes().to_vec();
        random.flip(&mut locking);
        made.spent.locking = Script::new(locking);
        made.sign();
    }),
    ("signature bit", &KINDS, |made, random| {
        made.with_signature(random, |signature, random| {
            let end = signature.len() - 1;
            random.flip(&mut signature[..end]);
        });
    }),
    ("type bit, not signed", &KINDS, |made, random| {
        made.with_signature(random, |signature, random| {
            let end = signature.len() - 1;
            random.flip(&mut signature[end..]);
        });
    }),
    ("other type, signed", &KINDS, |made, random| {
        let sighash_type = [0x42, 0x43, 0xc1, 0xc2, 0xc3][random.below(5)];
        made.put(&made.parts(sighash_type));
    }),
    ("high S", &KINDS, |made, random| {
        made.with_signature(random, |signature, _| {
            *signature = high_s(&signature[..signature.len() - 1]);
            signature.push(0x41);
        });
    }),
    ("DER with a byte too many or too few", &KINDS, |made, random| {
        made.with_signature(random, |signature, random| match random.below(2) {
            0 => signature.insert(signature.len() - 1, 0),
            _ => drop(signature.remove(random.below(signature.len()))),
        });
    }),
    ("another's signature", &KINDS, |made, random| {
        let (mut parts, at) = (made.parts(0x41), made.a_signature(random));
        parts[at] = made.signature(&random.key(), 0x41);
        made.put(&parts);
    }),
    ("the counterparty's signature", &[ChannelRefund, Claim, KeyReleaseRefund], |made, _| {
        let other = if made.kind == Claim { &made.buyer } else { &made.seller };
        let mut parts = made.parts(0x41);
        parts[0] = made.signature(other, 0x41);
        made.put(&parts);
    }),
    ("no signature", &KINDS, |made, random| made.with_signature(random, |signature, _| signature.clear())),
    ("other value", &KINDS, |made, random| {
        made.spent.value = sat(made.spent.value.as_u64() ^ (1 << random.below(30)));
    }),
    ("output changed", &KINDS, |made, random| {
        let at = random.below(made.tx.outputs.len());
        match random.below(2) {
            0 => made.tx.outputs[at].value = sat(made.tx.outputs[at].value.as_u64() ^ 1),
            _ => made.tx.outputs[at].locking = Script::p2pkh(&random.bytes()),
        }
    }),
    ("input or output more", &KINDS, |made, random| match random.below(2) {
        0 => made.tx.inputs.push(TxIn::new(OutPoint { txid: Txid(random.bytes()), vout: 0 })),
        _ => made.tx.outputs.push(TxOut { value: sat(1), locking: Script::p2pkh(&random.bytes()) }),
    }),
    ("sequence, lock time or version, not signed", &KINDS, |made, random| match random.below(3) {
        0 => made.tx.inputs[made.index].sequence ^= 1 << random.below(32),
        1 => made.tx.lock_time ^= 1 << random.below(32),
        _ => made.tx.version ^= 1 << random.below(32),
    }),
    ("version 2, signed", &KINDS, |made, _| {
        made.tx.version = 2;
        made.sign();
    }),
    ("a push more in front", &KINDS, |made, random| {
        let junk = random.bytes::<4>().to_vec();
        made.put(&[vec![junk], made.parts(0x41)].concat());
    }),
    ("a push more behind", &KINDS, |made, random| {
        let junk = random.bytes::<4>().to_vec();
        made.put(&[made.parts(0x41), vec![junk]].concat());
    }),
    ("longer push", &KINDS, |made, random| {
        let parts = made.parts(0x41);
        let longer = random.below(parts.len());
        let mut script = Script::builder();
        for (at, part) in parts.iter().enumerate() {
            let [low, high, ..] = part.len().to_le_bytes();
            script = match at == longer {
                true => script.raw(&[0x4e, low, high, 0, 0]).raw(part),
                false => script.push(part),
            };
        }
        made.unlock(script.build());
    }),
    ("another selector of the same branch", &KINDS, |made, random| {
        let mut parts = made.parts(0x41);
        let selector = parts.last_mut().unwrap();
        let (yes, no) =
            ([vec![2], vec![16], vec![0x81], vec![7; 80]], [vec![0], vec![0x80], vec![0, 0], vec![0; 80]]);
        *selector = if selector.is_empty() { &no } else { &yes }[random.below(4)].clone();
        made.put(&parts);
    }),
    ("the selector of the other branch", &KINDS, |made, _| {
        let mut parts = made.parts(0x41);
        let selector = parts.last_mut().unwrap();
        *selector = if selector.is_empty() { vec![1] } else { vec![] };
        made.put(&parts);
    }),
    ("a push less", &KINDS, |made, random| {
        let mut parts = made.parts(0x41);
        parts.remove(random.below(parts.len()));
        made.put(&parts);
    }),
    ("pushes swapped", &KINDS, |made, random| {
        let mut parts = made.parts(0x41);
        let at = random.below(parts.len() - 1);
        parts.swap(at, at + 1);
        made.put(&parts);
    }),
    ("not only pushes", &KINDS, |made, random| {
        let op = [0x61, 0x76, 0x6a, 0xac][random.below(4)];
        let parts = made.parts(0x41);
        let before = random.below(parts.len() + 1);
        let mut script = Script::builder();
        for (at, part) in parts.iter().enumerate() {
            script = if at == before { script.op(op) } else { script }.push(part);
        }
        made.unlock(if before == parts.len() { script.op(op) } else { script }.build());
    }),
    ("truncated", &KINDS, |made, random| {
        let script = made.tx.inputs[made.index].unlocking.as_bytes().to_vec();
        made.unlock(Script::new(script[..random.below(script.len())].to_vec()));
    }),
    ("any bit before the selector", &KINDS, |made, random| {
        let mut script = made.tx.inputs[made.index].unlocking.as_bytes().to_vec();
        let end = script.len() - 1;
        // The first byte of a close is its dummy, of which the next class is.
        random.flip(&mut script[1..end]);
        made.unlock(Script::new(script));
    }),
    ("another dummy", &[Close], |made, random| {
        let mut parts = made.parts(0x41);
        parts[0] = vec![1 + random.below(255) as u8];
        made.put(&parts);
    }),
    ("one party's signature twice", &[Close], |made, random| {
        let mut parts = made.parts(0x41);
        let at = 1 + random.below(2);
        parts[at] = parts[3 - at].clone();
        made.put(&parts);
    }),
    ("another key", &[Claim], |made, random| {
        made.secret = random.bytes::<32>().to_vec();
        made.sign();
    }),
    ("a key of another length, locked to it", &[Claim], |made, random| {
        let len = [0, 1, 31, 33, 64, 520][random.below(6)];
        made.secret = (0..len).map(|_| random.next() as u8).collect();
        made.lock();
        made.sign();
    }),
    ("lock time below the refund height, signed", &REFUNDS, |made, random| {
        made.tx.lock_time = random.below(made.height as usize) as u32;
        made.sign();
    }),
    ("no lock time, signed", &REFUNDS, |made, _| {
        made.tx.lock_time = 0;
        made.sign();
    }),
    ("a time for a lock time, signed", &REFUNDS, |made, random| {
        made.tx.lock_time = [500_000_000, 1_000_000_000, u32::MAX][random.below(3)];
        made.sign();
    }),
    ("the final sequence, signed", &REFUNDS, |made, _| {
        made.tx.inputs[made.index].sequence = u32::MAX;
        made.sign_where(Preimage::is_ground);
    }),
    ("the lowest and the highest lock time, signed anew", &REFUNDS, |made, random| {
        made.tx.lock_time = [made.height, 499_999_999][random.below(2)];
        made.sign();
    }),
    ("the preimage of another transaction", &REFUNDS, |made, _| {
        let mut parts = made.parts(0x41);
        made.tx.outputs[0].value = sat(made.tx.outputs[0].value.as_u64() + 1);
        made.sign();
        parts[0] = made.parts(0x41)[0].clone();
        made.put(&parts);
    }),
    ("a preimage of another type", &REFUNDS, |made, random| {
        let sighash_type = [0x42, 0x43, 0xc1, 0x01][random.below(4)];
        let (mut parts, cache) = (made.parts(0x41), SighashCache::new(&made.tx));
        parts[1] = cache.preimage(made.index, &made.spent.locking, made.spent.value, sighash_type).unwrap();
        made.put(&parts);
    }),
    ("a digest that the script cannot use, signed", &REFUNDS, |made, _| made.sign_where(is_useless)),
    ("a digest just beyond our range, signed", &REFUNDS, |made, _| made.sign_where(is_beyond_our_range)),
    ("a digest with a zero at its end, signed", &REFUNDS, |made, _| made.sign_where(is_not_minimal)),
];

/// The classes of which some are accepted: how many here, how many may be in blocks, how many of those nodes relay, and
/// why it is not the same. Of all others nobody accepts any.
const ACCEPTED: [(&str, usize, usize, usize, &str); 12] = [
    ("as made", 1_704, 1_704, 1_704, "all accept all"),
    ("outputs changed, signed anew", 213, 213, 213, "all accept all"),
    ("the lowest and the highest lock time, signed anew", 212, 212, 212, "all accept all"),
    (
        "locking script bit, signed anew",
        15,
        93,
        93,
        "other terms are accepted, other scripts need a Merkle proof",
    ),
    ("a push more in front", 0, 213, 0, "a miner can change the id so"),
    ("longer push", 0, 213, 0, "a miner can change the id so"),
    ("another dummy", 0, 213, 0, "a miner can change the id so"),
    ("another selector of the same branch", 0, 213, 213, "anybody can change the id so"),
    ("version 2, signed", 0, 213, 213, "since Chronicle anybody can change the id of such a transaction"),
    ("other type, signed", 0, 213, 213, "the signature does not sign everything"),
    ("a digest just beyond our range, signed", 0, 212, 212, "one range is enough"),
    ("a digest with a zero at its end, signed", 0, 212, 0, "nodes do not relay it"),
];

#[tokio::test]
async fn the_nodes_script_engine_agrees_on_ten_thousand_spends_of_contracts() {
    let Some(node) = Node::start(&[]).await else { return };
    let mut random = Random(0x5e05_07a1);
    let mut spends = Vec::with_capacity(SPENDS);
    for n in 0..SPENDS {
        let (class, kinds, mutate) = MUTATIONS[n % MUTATIONS.len()];
        let mut made = Made::new(kinds[random.below(kinds.len())], &mut random);
        mutate(&mut made, &mut random);
        spends.push((class, made.into_spend()));
    }
    let counts = judge(&node, &spends).await;

    let mut accepted = 0;
    for (class, count) in &counts {
        let (ours, blocks, relay, why) = ACCEPTED
            .iter()
            .find(|(name, ..)| name == class)
            .map_or((0, 0, 0, "nobody accepts any"), |(_, ours, blocks, relay, why)| {
                (*ours, *blocks, *relay, *why)
            });
        let expected = Count { all: count.all, ours, blocks, relay };
        assert_eq!(*count, expected, "{class} ({why})");
        accepted += count.ours;
    }
    assert_eq!(counts.len(), MUTATIONS.iter().map(|(name, ..)| name).collect::<BTreeSet<_>>().len());
    assert_eq!(counts.values().map(|count| count.all).sum::<usize>(), SPENDS);
    assert_eq!(accepted, 2_144, "one of five is accepted by all");
}
