//! Single readings: their offer, and what is said under an order of them.

use sensora_chain::keys::Signature;
use sensora_protocol::Signed;
use sensora_protocol::market::delivery::frame::OrderVoucher;
use sensora_protocol::market::reads::frame::{Row, Signing, ToBuyer, ToSeller};
use sensora_protocol::market::reads::offer::ReadsOffer;
use sensora_protocol::stream::Nodes;

use super::{Vector, small, statement, vector};
use crate::reads::offer;
use crate::world::{World, sat};

pub(super) fn golden_offer() -> Signed<ReadsOffer> {
    offer(&small(), 1500)
}

fn row(world: &World, seq: u64, nodes: &[(u8, u64)]) -> Row {
    let reading = world.stream.readings[seq as usize].clone();
    let hashes = nodes.iter().map(|(level, index)| world.stream.log.node(*level, *index).unwrap()).collect();
    Row { step: reading.time, values: reading.values, salt: world.stream.secret.chunk(0).salt(seq), hashes }
}

pub(super) fn vectors() -> Vec<Vector> {
    let world = small();
    let mut all = statement("reads-offer", "single readings at 1.5 satoshis each", &offer(&world, 1500));
    let checkpoint = world.stream.checkpoint(&world.seller, 5);
    let signature = Signature::from_compact(&checkpoint.bytes().signature).unwrap();
    let signing = Signing { size: 5, issued_ms: checkpoint.value().issued_ms, signature };
    let voucher = OrderVoucher { paid: sat(5), amount: sat(5), signature: super::delivery::signature() };
    let to_seller = [
        (
            "read",
            "reading 2, up to the subtree of the first four",
            ToSeller::Read { id: 7, step: 2, levels: 2 },
        ),
        (
            "latest",
            "the newest, by who knows four and lacks the last of them",
            ToSeller::Latest { id: 8, size: 4, levels: Some(0) },
        ),
        (
            "latest again",
            "the newest, by who has it unless there are more than five",
            ToSeller::Latest { id: 9, size: 5, levels: None },
        ),
        ("grow", "all of the log, by who knows nothing of it", ToSeller::Grow { id: 0, size: 0 }),
        ("voucher", "5 sat", ToSeller::Voucher(voucher)),
        ("stop", "no more", ToSeller::Stop),
        ("alive", "nothing", ToSeller::Alive),
    ];
    let root = |level, index| world.stream.log.node(level, index).unwrap();
    let to_buyer = [
        ("row", "reading 2", ToBuyer::Row { id: 7, row: row(&world, 2, &[(0, 3), (1, 0)]) }),
        (
            "newest",
            "reading 4, for who knows the four before",
            ToBuyer::Newest { id: 8, signing: signing.clone(), row: row(&world, 4, &[]) },
        ),
        ("same", "there are five still", ToBuyer::Same { id: 9 }),
        (
            "grown",
            "the subtrees of four and of one",
            ToBuyer::Grown { id: 0, signing, hashes: vec![root(2, 0), root(0, 4)] },
        ),
        ("owed", "readings 2 and 3, and then 0", ToBuyer::Owed(vec![(2, 2), (0, 1)])),
    ];
    all.extend(to_seller.into_iter().map(|(name, about, frame)| {
        vector(&format!("reads to seller {name}"), "reads-to-seller", about, frame.to_bytes().unwrap())
    }));
    all.extend(to_buyer.into_iter().map(|(name, about, frame)| {
        vector(&format!("reads to buyer {name}"), "reads-to-buyer", about, frame.to_bytes().unwrap())
    }));
    all
}
