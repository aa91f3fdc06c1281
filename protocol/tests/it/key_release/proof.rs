//! Proofs of misbehaviour: whoever cheats is convicted, whoever does not never is.

use proptest::prelude::*;
use sensora_chain::Network;
use sensora_protocol::market::key_release::key::BatchKey;
use sensora_protocol::market::key_release::misbehaviour::{
    MAX_JSON_LEN, MAX_PROOF_LEN, MisbehaviourError, MisbehaviourProof,
};
use sensora_protocol::market::key_release::offer::KeyReleaseOffer;
use sensora_protocol::market::key_release::parts::{Part, ProvenPart};
use sensora_protocol::{Hash, codec};

use super::goods::{CHEATS, Goods, prove};
use super::{cheats, honest};
use crate::world::{NETWORK, identity};

fn accuse(goods: &Goods, part: usize) -> MisbehaviourProof {
    let offer = goods.offer.bytes().clone();
    MisbehaviourProof::new(NETWORK, offer, goods.parts[part].clone(), goods.key.clone())
}

/// The wrong part convicts, and only that one. Bytes and file say the same.
#[test]
fn every_cheat_is_convicted_by_the_part_that_is_wrong() {
    for (at, (goods, cheat)) in cheats().iter().zip(CHEATS).enumerate() {
        for part in 0..3 {
            let proof = accuse(goods, part);
            let bytes = proof.to_bytes().unwrap();
            assert!(bytes.len() <= MAX_PROOF_LEN);
            assert_eq!(MisbehaviourProof::from_bytes(&bytes).unwrap(), proof);
            let file = proof.to_json().unwrap();
            assert!(file.len() <= MAX_JSON_LEN);
            assert_eq!(MisbehaviourProof::from_json(file.as_bytes()).unwrap(), proof);
            let verdict = proof.verify();
            if part == at % 3 {
                let conviction = verdict.unwrap_or_else(|error| panic!("{cheat:?}: {error}"));
                assert_eq!(conviction.seller, goods.world.seller.peer_id());
                assert_eq!((conviction.offer, conviction.part), (goods.terms.offer, part as u32));
                assert!(conviction.fault.len() > 20, "{cheat:?}: {}", conviction.fault);
                println!("{cheat:?}: {} ({} bytes)", conviction.fault, bytes.len());
            } else {
                assert!(matches!(verdict, Err(MisbehaviourError::Innocent { .. })), "{cheat:?} {verdict:?}");
            }
        }
    }
}

#[test]
fn whatever_is_not_the_sellers_shows_nothing_against_it() {
    let proof = accuse(&cheats()[0], 0);
    let verdict = |change: &dyn Fn(&mut MisbehaviourProof)| {
        let mut changed = proof.clone();
        change(&mut changed);
        changed.verify().unwrap_err()
    };
    use MisbehaviourError as E;
    assert!(matches!(verdict(&|p| p.format.push('x')), E::Format { .. }));
    assert!(matches!(verdict(&|p| p.version = 2), E::Format { version: 2, .. }));
    assert!(matches!(verdict(&|p| p.network = Network::Main), E::Statement(_)));
    assert!(matches!(verdict(&|p| p.seller = *identity(2).public()), E::Statement(_)));
    assert!(matches!(verdict(&|p| p.offer.signature[9] ^= 1), E::Statement(_)));
    assert!(matches!(verdict(&|p| p.offer = p.part_of_another_statement()), E::Statement(_)));
    assert!(matches!(verdict(&|p| p.key = BatchKey::from_bytes([9; 32])), E::Key { .. }));
    assert!(matches!(verdict(&|p| p.part.part.bytes[3] ^= 1), E::Part(_)));
    assert!(matches!(verdict(&|p| p.part.part.bytes = vec![0; 1 << 15]), E::Part(_)));
    assert!(matches!(verdict(&|p| p.part.part.first += 1), E::Part(_)));
    assert!(matches!(verdict(&|p| p.part.part.count -= 1), E::Part(_)));
    assert!(matches!(verdict(&|p| p.part.part.index += 1), E::Part(_)));
    assert!(matches!(verdict(&|p| p.part.part.index = u32::MAX), E::Part(_)));
    assert!(matches!(verdict(&|p| p.part.path.hashes.truncate(0)), E::Part(_)));
}

trait Foreign {
    fn part_of_another_statement(&self) -> sensora_protocol::SignedBytes;
}

impl Foreign for MisbehaviourProof {
    /// Something else that the seller has signed.
    fn part_of_another_statement(&self) -> sensora_protocol::SignedBytes {
        honest().offer.value().checkpoint.clone()
    }
}

/// An offer that no buyer could have taken is nobody's loss.
#[test]
fn an_offer_that_nobody_could_take_convicts_nobody() {
    let goods = &cheats()[0];
    for change in [
        |offer: &mut KeyReleaseOffer| offer.total = sensora_chain::Satoshis::from_sat(5_000),
        |offer: &mut KeyReleaseOffer| offer.count = 0,
        |offer: &mut KeyReleaseOffer| offer.parts = 0,
        |offer: &mut KeyReleaseOffer| offer.length = 1,
        |offer: &mut KeyReleaseOffer| offer.name = "cellar".into(),
    ] {
        let offer = goods.sign(change).into_bytes();
        let proof = MisbehaviourProof { offer, ..accuse(goods, 0) };
        assert!(matches!(proof.verify(), Err(MisbehaviourError::Offer(_))));
    }
}

/// What a part decrypts to is a stranger's: none of it reaches a terminal as it is.
#[test]
fn the_words_of_a_conviction_are_tame() {
    let goods = honest();
    let name = format!("\u{1b}[31m{}", "x".repeat(2000));
    let run = std::collections::BTreeMap::from([(name, 1)]);
    let page = std::collections::BTreeMap::from([("runs", vec![run])]);
    let mut bytes = codec::encode(&page).unwrap();
    goods.key.apply(0, &mut bytes);
    let mut parts: Vec<Part> = goods.parts.iter().map(|proven| proven.part.clone()).collect();
    parts[0].bytes = bytes;
    let (proven, root, length) = prove(&parts);
    let offer = goods.sign(|offer| (offer.root, offer.length) = (root, length)).into_bytes();
    let proof = MisbehaviourProof::new(NETWORK, offer, proven[0].clone(), goods.key.clone());
    let fault = proof.verify().unwrap().fault;
    assert!(fault.chars().count() <= 256 && !fault.contains('\u{1b}'), "{fault}");
}

#[test]
fn files_that_are_no_proofs_are_named() {
    let file = accuse(&cheats()[0], 0).to_json().unwrap();
    for text in ["", "{}", "[]", &file[..file.len() - 2], &file.replace("\"key\"", "\"kez\"")] {
        let error = MisbehaviourProof::from_json(text.as_bytes()).unwrap_err();
        assert!(matches!(error, MisbehaviourError::Encoding(_)), "{error}");
    }
    assert!(MisbehaviourProof::from_json(&vec![b' '; MAX_JSON_LEN + 1]).is_err());
    assert!(MisbehaviourProof::from_bytes(&vec![0; MAX_PROOF_LEN + 1]).is_err());
}

/// What an accuser may do to the material of a seller.
#[derive(Debug, Clone)]
enum Forgery {
    Byte(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Grow(Vec<u8>),
    Index(u32),
    First(u64),
    Count(u64),
    PartOf(usize),
    PathOf(usize),
    PathHash(prop::sample::Index, [u8; 32]),
    Key([u8; 32]),
    PartInPlain,
    /// A tree of the accuser's own, which no offer signs.
    OwnTree(Vec<u8>),
    OfferByte(prop::sample::Index, u8),
    OfferOfAccuser([u8; 32]),
}

fn forgery() -> impl Strategy<Value = Forgery> {
    use Forgery as F;
    prop_oneof![
        any::<(prop::sample::Index, u8)>().prop_map(|(at, byte)| F::Byte(at, byte)),
        any::<prop::sample::Index>().prop_map(F::Cut),
        any::<Vec<u8>>().prop_map(F::Grow),
        (0..5_u32).prop_map(F::Index),
        (0..4000_u64).prop_map(F::First),
        prop_oneof![0..2000_u64, Just(u64::MAX)].prop_map(F::Count),
        (0..3_usize).prop_map(F::PartOf),
        (0..3_usize).prop_map(F::PathOf),
        any::<(prop::sample::Index, [u8; 32])>().prop_map(|(at, hash)| F::PathHash(at, hash)),
        any::<[u8; 32]>().prop_map(F::Key),
        Just(F::PartInPlain),
        prop::collection::vec(any::<u8>(), 1..200).prop_map(F::OwnTree),
        any::<(prop::sample::Index, u8)>().prop_map(|(at, byte)| F::OfferByte(at, byte)),
        any::<[u8; 32]>().prop_map(F::OfferOfAccuser),
    ]
}

fn forge(proof: &mut MisbehaviourProof, forgery: Forgery) {
    let goods = honest();
    let part: &mut Part = &mut proof.part.part;
    match forgery {
        Forgery::Byte(at, byte) if !part.bytes.is_empty() => {
            let at = at.index(part.bytes.len());
            part.bytes[at] = byte;
        }
        Forgery::Byte(..) => {}
        Forgery::Cut(at) => part.bytes.truncate(at.index(part.bytes.len() + 1)),
        Forgery::Grow(bytes) => part.bytes.extend(bytes),
        Forgery::Index(index) => part.index = index,
        Forgery::First(first) => part.first = first,
        Forgery::Count(count) => part.count = count,
        Forgery::PartOf(at) => *part = goods.parts[at].part.clone(),
        Forgery::PathOf(at) => proof.part.path = goods.parts[at].path.clone(),
        Forgery::PathHash(at, hash) => {
            let hashes = &mut proof.part.path.hashes;
            if !hashes.is_empty() {
                let at = at.index(hashes.len());
                hashes[at] = Hash(hash);
            }
        }
        Forgery::Key(key) => proof.key = BatchKey::from_bytes(key),
        Forgery::PartInPlain => goods.key.apply(part.index, &mut part.bytes),
        Forgery::OwnTree(bytes) => {
            let mut parts: Vec<Part> = goods.parts.iter().map(|proven| proven.part.clone()).collect();
            let at = part.index as usize % parts.len();
            parts[at].bytes = bytes;
            proof.part = prove(&parts).0.swap_remove(at);
        }
        Forgery::OfferByte(at, byte) => {
            let at = at.index(proof.offer.body.len());
            proof.offer.body[at] = byte;
        }
        Forgery::OfferOfAccuser(root) => {
            let mut offer = goods.offer.value().clone();
            offer.root = Hash(root);
            let offer = sensora_protocol::Signed::sign(offer, &identity(9), NETWORK).unwrap().into_bytes();
            proof.offer = sensora_protocol::SignedBytes { key: proof.offer.key, ..offer };
        }
    }
}

proptest! {
    /// An honest seller's offer, parts and key, changed in whatever way: no proof against it comes out.
    #[test]
    fn no_proof_from_an_honest_sellers_material_verifies(
        part in 0..3_usize,
        forgeries in prop::collection::vec(forgery(), 0..5),
    ) {
        let mut proof = accuse(honest(), part);
        for one in forgeries {
            forge(&mut proof, one);
        }
        prop_assert_eq!(&proof.seller, honest().world.seller.public());
        let verdict = proof.verify();
        prop_assert!(verdict.is_err(), "{:?}", verdict);
    }

    /// The same with bytes that an accuser chooses freely in the encoded proof.
    #[test]
    fn no_change_of_the_bytes_of_a_proof_convicts_an_honest_seller(
        part in 0..3_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = accuse(honest(), part).to_bytes().unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(proof) = MisbehaviourProof::from_bytes(&bytes) {
            prop_assert_eq!(proof.to_bytes().unwrap(), bytes);
            prop_assert!(proof.verify().is_err());
        }
    }

    /// A seller that offers whatever bytes as a part is convicted, unless they are the right ones by chance.
    #[test]
    fn whatever_bytes_a_seller_offers_as_a_part_convict_it(
        at in 0..3_usize,
        bytes in prop::collection::vec(any::<u8>(), 1..300),
    ) {
        let goods = honest();
        let mut parts: Vec<Part> = goods.parts.iter().map(|proven| proven.part.clone()).collect();
        parts[at].bytes = bytes;
        let (proven, root, length) = prove(&parts);
        let offer = goods.sign(|offer| (offer.root, offer.length) = (root, length)).into_bytes();
        let part: ProvenPart = proven[at].clone();
        let proof = MisbehaviourProof::new(NETWORK, offer, part, goods.key.clone());
        prop_assert_eq!(proof.verify().unwrap().part, at as u32);
        let bytes = codec::encode(&proof).unwrap();
        prop_assert_eq!(proof.to_bytes().unwrap(), bytes);
    }
}
