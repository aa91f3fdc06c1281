//! What a change of the wallet costs when it holds ten coins and when it holds ten thousand: it should be the same.
//!
//! `cargo bench -p sensora-node --bench wallet`. The store is in the folder for temporary files (TMPDIR): on a RAM disk a durable write costs nothing.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails may stop")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use redb::Database;
use redb::backends::InMemoryBackend;
use sensora_chain::header::HeaderChain;
use sensora_chain::keys::PrivateKey;
use sensora_chain::sources::dev::{DevChain, DevChainConfig};
use sensora_chain::wallet::{KeySource, OwnedOutput, Purpose, Received, Wallet};
use sensora_chain::{FeeRate, Network, OutPoint, Satoshis, Script, Transaction, TxIn, TxOut, Txid};
use sensora_node::chain_access::{self, ChainOptions, MemoryHeaderStore, SourceOptions};
use sensora_node::clock::Clock;
use sensora_node::fees::{FeePolicy, Fees};
use sensora_node::freeze::Freeze;
use sensora_node::store::Store;
use sensora_node::wallet::{WalletHandle, WalletHandleError};
use sensora_protocol::Identity;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const COINS: [u64; 2] = [10, 10_000];
const INVOICE: &str = "2-3241645161d8-cHJlZml4 c3VmZml4";

fn main() {
    divan::main();
}

fn identity() -> Identity {
    Identity::new(PrivateKey::from_bytes([7; 32]).unwrap())
}

/// Sales of one buyer. All are locked to one key, so that making them takes no time; no wallet minds.
struct Sales {
    locking: Script,
    key: KeySource,
    made: u64,
}

impl Sales {
    fn new() -> Self {
        let key = KeySource::peer(PrivateKey::from_bytes([8; 32]).unwrap().public(), INVOICE);
        Self { locking: key.locking_script(identity().key()), key, made: 0 }
    }

    fn next(&mut self) -> Received<'static> {
        self.made += 1;
        let mut id = [0xab; 32];
        for (to, from) in id.iter_mut().zip(self.made.to_le_bytes()) {
            *to = from;
        }
        let output = TxOut { value: Satoshis::from_sat(1_000), locking: self.locking.clone() };
        let input = TxIn::new(OutPoint { txid: Txid(id), vout: 0 });
        let label = format!("sale {}", self.made);
        let purpose = Purpose::Payment { label: label.clone() };
        Received {
            tx: Transaction::new(vec![input], vec![output]),
            outputs: vec![OwnedOutput { vout: 0, key: self.key.clone(), purpose }],
            ancestors: None,
            path: None,
            broadcast: true,
            label,
            now_ms: 0,
        }
    }
}

/// A wallet on disk with so many coins. Nobody follows the chain for it.
fn wallet(runtime: &Runtime, folder: &Path, coins: u64, sales: &mut Sales) -> WalletHandle {
    let (network, identity, clock) = (Network::Regtest, identity(), Clock::system());
    let store = Store::open(&folder.join("node.redb"), network, identity.public()).unwrap();
    let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
    let never = Duration::from_secs(3_600);
    let chain = ChainOptions {
        base: HeaderChain::genesis(network).unwrap(),
        source: SourceOptions::Dev {
            chain: DevChain::open(Arc::new(database), DevChainConfig::default()).unwrap(),
            block_interval: never,
        },
        store: Box::new(MemoryHeaderStore::default()),
        clock: clock.clone(),
        poll_interval: never,
    };
    let (chain, _tasks) = runtime.block_on(chain_access::start(chain, CancellationToken::new())).unwrap();
    let fees = Fees::fixed(FeePolicy { rate: FeeRate::DEFAULT, max: Satoshis::from_sat(10_000) });
    let wallet = WalletHandle::open(store, identity, network, chain, clock, fees, Freeze::default()).unwrap();
    wallet.update(|wallet, _| (0..coins).try_for_each(|_| credit(wallet, sales.next()))).unwrap();
    assert_eq!(wallet.coins().len() as u64, coins);
    wallet
}

fn credit(wallet: &mut Wallet, sale: Received<'static>) -> Result<(), WalletHandleError> {
    wallet.receive(identity().key(), sale)?;
    Ok(())
}

/// A sale is credited and on disk.
#[divan::bench(args = COINS, sample_count = 200, sample_size = 1)]
fn a_durable_sale(bencher: Bencher<'_, '_>, coins: u64) {
    let (runtime, folder, mut sales) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap(), Sales::new());
    let wallet = wallet(&runtime, folder.path(), coins, &mut sales);
    bencher
        .with_inputs(|| sales.next())
        .bench_local_values(|sale| wallet.update(|wallet, _| credit(wallet, sale)).unwrap());
}

/// The same without the disk: a copy of the wallet, the sale, and the records that would be written.
#[divan::bench(args = COINS, sample_count = 200, sample_size = 1)]
fn a_sale_in_memory(bencher: Bencher<'_, '_>, coins: u64) {
    let mut sales = Sales::new();
    let mut wallet = Wallet::new();
    (0..coins).try_for_each(|_| credit(&mut wallet, sales.next())).unwrap();
    wallet.take_changes().unwrap();
    bencher.with_inputs(|| sales.next()).bench_local_values(|sale| {
        let mut next = wallet.clone();
        credit(&mut next, sale).unwrap();
        next.take_changes().unwrap()
    });
}

/// The durable commit alone, without any change of the wallet.
#[divan::bench(sample_count = 200, sample_size = 1)]
fn an_empty_commit(bencher: Bencher<'_, '_>) {
    let (runtime, folder, mut sales) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap(), Sales::new());
    let wallet = wallet(&runtime, folder.path(), 10, &mut sales);
    bencher.bench_local(|| wallet.update(|_, _| Ok::<_, WalletHandleError>(())).unwrap());
}
