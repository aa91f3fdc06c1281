//! A batch whose key is released on the chain.

use sensora_chain::Txid;
use sensora_protocol::codec;
use sensora_protocol::market::key_release::frame::{AtomicBeef, Begin, ToBuyer, ToSeller};
use sensora_protocol::market::key_release::misbehaviour::MisbehaviourProof;
use sensora_protocol::market::offer::Range;
use sensora_protocol::market::refusal::Refusal;

use crate::key_release::goods::{Cheat, Goods};

use super::{Vector, receipt, small, statement, vector};
use crate::world::NETWORK;

/// A batch of three readings in one part, whose part is once as sold and once not.
pub(super) fn vectors() -> Vec<Vector> {
    let goods = Goods::of(5, 1..4, 400_000, None);
    let cheat = Goods::of(5, 1..4, 400_000, Some((Cheat::Value, 0)));
    let order = goods.world.order(&goods.offer, 4);
    let receipt = receipt(&mut small(), &small().sign(small().offer(1, 3))).into_bytes();
    let begin = Begin { offer: goods.offer.bytes().clone(), order: order.into_bytes(), next: 0 };
    let range = Range::Seq { first: 1, count: 3 };
    let to_seller = [
        ToSeller::Quote { stream: goods.terms.stream, range },
        ToSeller::Begin(Box::new(begin)),
        ToSeller::Lock(vec![1, 2, 3]),
        ToSeller::Alive,
    ];
    let to_buyer = [
        ToBuyer::Offer(goods.offer.bytes().clone()),
        ToBuyer::Begun { coin: None },
        ToBuyer::Begun { coin: Some(AtomicBeef(vec![1, 2, 3])) },
        ToBuyer::Parts(goods.parts.clone()),
        ToBuyer::Locked { txid: Txid([7; 32]) },
        ToBuyer::Claimed { claim: vec![1, 2, 3], receipt },
        ToBuyer::Refused(Refusal::ChainUnavailable),
        ToBuyer::Alive,
    ];
    let part = &goods.parts[0];
    let mut plain = part.part.bytes.clone();
    goods.key.apply(0, &mut plain);
    let offer = cheat.offer.bytes().clone();
    let proof = MisbehaviourProof::new(NETWORK, offer, cheat.parts[0].clone(), cheat.key.clone());
    let conviction = proof.verify().unwrap();
    let mut all = statement("key-release-offer", "readings 1, 2 and 3 as a batch", &goods.offer);
    all.push(
        vector("part", "part", "the one part of the batch, encrypted", codec::encode(part).unwrap())
            .with("batch_secret", hex::encode([8; 32]))
            .with("key", hex::encode(goods.key.as_bytes()))
            .with("plaintext", hex::encode(plain))
            .with("leaf", part.part.leaf()),
    );
    all.extend(to_seller.iter().enumerate().map(|(at, frame)| {
        let (name, about) =
            (format!("to seller {at} {}", frame.name()), format!("the frame `{}`", frame.name()));
        vector(&name, "release-to-seller", &about, frame.to_bytes().unwrap())
    }));
    all.extend(to_buyer.iter().enumerate().map(|(at, frame)| {
        let (name, about) =
            (format!("to buyer {at} {}", frame.name()), format!("the frame `{}`", frame.name()));
        vector(&name, "release-to-buyer", &about, frame.to_bytes().unwrap())
    }));
    all.push(
        vector(
            "misbehaviour",
            "misbehaviour",
            "one value of one reading is another",
            proof.to_bytes().unwrap(),
        )
        .with("fault", conviction.fault),
    );
    all
}
