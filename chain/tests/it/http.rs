//! The clients of chain services against answers in the shapes that their documentation shows, and against servers
//! that misbehave on purpose. Everything happens in this process, on loopback.

mod arc;
mod chaintracks;
mod garbage;
mod misbehaving;
mod pace;
mod secrets;
mod server;
mod whatsonchain;

use std::time::Duration;

use sensora_chain::contract::payment::{pay_to_hash, sign_input};
use sensora_chain::sources::service::{Service, ServiceConfig, ServiceKind, Submission};
use sensora_chain::{Network, OutPoint, PrivateKey, Satoshis, Transaction, TxIn, Txid};

/// Long enough that only a test that is meant to ends by it.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(kind: ServiceKind, url: &str) -> ServiceConfig {
    ServiceConfig {
        name: "the-service".into(),
        kind,
        network: Network::Main,
        url: url.into(),
        key: None,
        requests_per_second: Some(1000.0),
        zmq: None,
        timeout: PATIENCE,
    }
}

fn service(kind: ServiceKind, url: &str) -> Service {
    Service::new(config(kind, url)).unwrap()
}

/// A signed payment and what it spends.
fn submission(source: OutPoint, amount: u64) -> Submission {
    let key = PrivateKey::from_bytes([3; 32]).unwrap();
    let pay = |amount| pay_to_hash(&key.public().hash160(), Satoshis::from_sat(amount));
    let spent = pay(amount);
    let mut tx = Transaction::new(vec![TxIn::new(source)], vec![pay(amount - 100)]);
    sign_input(&mut tx, 0, &spent, &key).unwrap();
    Submission { tx, spent: vec![spent] }
}

/// A payment, and another that spends it.
fn parent_and_child() -> [Submission; 2] {
    let parent = submission(OutPoint { txid: Txid([9; 32]), vout: 0 }, 10_000);
    let child = submission(OutPoint { txid: parent.tx.txid(), vout: 0 }, 9_900);
    [parent, child]
}

/// Ids of the transactions of a block, ours at a place in it.
fn block_with(txid: Txid, count: u8, at: usize) -> Vec<Txid> {
    let mut txids: Vec<Txid> = (0..count).map(|n| Txid([n.wrapping_add(100); 32])).collect();
    txids[at] = txid;
    txids
}
