//! Single readings under one order, asked for and answered one by one.

use sensora_chain::contract::channel::Voucher;
use sensora_chain::script::Script;
use sensora_protocol::market::delivery::frame as delivery;
use sensora_protocol::market::reads::ask::Want;
use sensora_protocol::market::reads::frame::{ToBuyer, ToSeller};

use super::{Gate, Outcome, Side};
use crate::channel::chain::Chain;
use crate::delivery::pair::funded;
use crate::reads::pair::{Pair, READINGS, Setup, Up};
use crate::world::World;

/// How many readings are asked for, and beside them the newest.
const WANTED: u64 = 20;

/// What went over the wire.
#[derive(Default)]
struct Seen {
    highest: Option<Voucher>,
    /// Readings that left the seller.
    sent: u64,
}

pub(super) fn run(gate: &mut Gate) -> Outcome {
    let setup = Setup::default();
    let mut pair = Pair::new(setup);
    let mut seen = Seen::default();
    pair.start();
    exchange(&mut pair, gate, &mut seen);
    (0..WANTED).for_each(|n| pair.want(Want::Seq(10 + 3 * n)));
    pair.want(Want::Latest);
    exchange(&mut pair, gate, &mut seen);
    if gate.withheld.is_none() {
        pair.stop();
        exchange(&mut pair, gate, &mut seen);
    }

    // The seller closes with what it has.
    let world = World::new(READINGS);
    let contract = funded(&world);
    let mut chain = Chain::new(1);
    chain.give(contract.outpoint(), contract.output().clone());
    if let Some(voucher) = seen.highest {
        chain.submit(&contract.complete(&voucher, world.seller.key()).unwrap()).unwrap();
    }
    chain.mine();
    let terms = contract.close_terms();
    let paid = chain.balance(&Script::p2pkh(&terms.seller_hash));
    let back = chain.balance(&Script::p2pkh(&terms.buyer_hash));
    let closed = seen.highest.is_some();
    Outcome {
        buyer_lost: paid.saturating_sub(pair.due(pair.kept().len() as u64)).as_u64(),
        seller_lost: pair.due(seen.sent).saturating_sub(paid).as_u64(),
        limits: (setup.buyer_limit, setup.seller_limit),
        fees: if closed { contract.output().value.as_u64() - paid.as_u64() - back.as_u64() } else { 0 },
    }
}

/// Messages go to and fro, and both disks write, until nothing more happens.
fn exchange(pair: &mut Pair, gate: &mut Gate, seen: &mut Seen) {
    loop {
        let mut moved = pair.store_completes() | pair.keep_completes();
        if let Some(up) = pair.to_seller.front() {
            moved = true;
            let (name, voucher) = match up {
                Up::Begin(_) => ("begin", None),
                Up::Frame(ToSeller::Voucher(voucher)) => ("voucher", Some(*voucher)),
                Up::Frame(ToSeller::Stop) => ("stop", None),
                Up::Frame(_) => ("question", None),
            };
            if gate.passes(Side::Buyer, name) {
                pair.deliver_to_seller();
                if let Some(voucher) = voucher {
                    seen.highest = Some(Voucher { paid: voucher.amount, signature: voucher.signature });
                }
            } else {
                pair.to_seller.pop_front();
            }
        }
        if let Some(frame) = pair.to_buyer.front() {
            moved = true;
            let name = match frame {
                ToBuyer::Row { .. } | ToBuyer::Newest { .. } => "reading",
                ToBuyer::Order(delivery::ToBuyer::Begun { .. }) => "begun",
                ToBuyer::Order(delivery::ToBuyer::Stopped { .. }) => "stopped",
                ToBuyer::Order(delivery::ToBuyer::Ended { .. }) => "ended",
                _ => "answer",
            };
            seen.sent += u64::from(name == "reading");
            if gate.passes(Side::Seller, name) {
                pair.deliver_to_buyer();
            } else {
                pair.to_buyer.pop_front();
            }
        }
        if !moved {
            return;
        }
    }
}
