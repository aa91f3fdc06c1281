//! The embedded development chain: a whole regtest chain in one database, so that everything which touches money can
//! be run on a plain machine, offline, and still be real.
//!
//! It is a chain and not a mock. Headers have proof of work, blocks are accepted by a BSV node in regtest
//! (`-genesisactivationheight=1`, see [`DevChain::block_bytes`]), and what [`DevChain::submit`] takes such a node
//! takes, too. The reverse does not hold: it refuses what is legal but unsafe to make (see [`Reject`]) and it spends
//! only pay-to-public-key-hash, since it has no script interpreter.
//!
//! Every answer is durable before it is given: an accepted transaction and a mined block survive `kill -9`. Nothing
//! but the caches of the database is held in memory. The handle is cheap to clone and safe to share; each change is
//! one write transaction of the database, so a caller that holds one of his own on the same database must finish it
//! first.
//!
//! ```
//! use std::sync::Arc;
//! use sensora_chain::{Satoshis, Script};
//! use sensora_chain::sources::dev::{DevChain, DevChainConfig, TxStatus};
//!
//! let db = redb::Database::builder().create_with_backend(redb::backends::InMemoryBackend::new())?;
//! let chain = DevChain::open(Arc::new(db), DevChainConfig::default())?;
//! let now_ms = 1_790_000_000_000;
//! chain.ensure_funded(now_ms)?;
//! let payment = chain.faucet(&Script::p2pkh(&[7; 20]), Satoshis::from_sat(50_000))?;
//! let block = chain.mine(now_ms)?;
//! assert_eq!(chain.status(&payment.txid())?, TxStatus::Mined { height: block.height, block: block.hash });
//! let path = chain.merkle_path(&payment.txid())?.expect("it is mined");
//! assert_eq!(path.root_for(&payment.txid()), Some(block.header.merkle_root()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(clippy::arithmetic_side_effects)]

mod admit;
mod blocks;
mod faucet;
mod query;
mod reject;
mod reorg;
mod store;

use std::fmt;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable};

pub use query::{DataPlace, ScannedOutput, Supply, Tip, TxStatus};
pub use reject::Reject;

use crate::encode::DecodeError;
use crate::header::Header;
use crate::{BlockHash, FeeRate, PrivateKey, Satoshis, Script, Transaction, Txid};
use store::Tables;

/// The layout of the tables. A program refuses a layout it does not know.
const SCHEMA: u64 = 1;

/// Blocks before a coinbase may be spent (consensus).
pub const COINBASE_MATURITY: u32 = 100;
/// Regtest halves the subsidy every 150 blocks.
pub const HALVING_INTERVAL: u32 = 150;
/// The subsidy of the first block: 50 BSV.
pub const SUBSIDY: Satoshis = Satoshis::from_sat(5_000_000_000);
/// The easiest target there is: every second hash meets it.
pub const REGTEST_BITS: u32 = 0x207f_ffff;
/// The version of every block: BIP9 with no deployment signalled.
pub const BLOCK_VERSION: u32 = 0x2000_0000;
/// The largest transaction taken. Nodes take ten times as much; here it bounds what one call can cost.
pub const MAX_TX_BYTES: usize = 1_000_000;
/// The most bytes that wait for a block, so that one block takes them all and stays easy to handle.
pub const MAX_MEMPOOL_BYTES: u64 = 32_000_000;
/// The most generations of unmined transactions. Nodes allow 10,000; a BEEF that deep could not be sent.
pub const MAX_CHAIN: u32 = 1_000;
/// A node's limit against fees that can only be a mistake: 0.1 BSV.
pub const MAX_FEE: Satoshis = Satoshis::from_sat(10_000_000);
/// The most headers of one answer, as in the Bitcoin protocol.
pub const MAX_HEADERS: usize = 2_000;
/// Change of the faucet from 1 BSV up is cut …
const SPREAD_ABOVE: u64 = 100_000_000;
/// … into this many coins: enough for a swarm of newcomers between two blocks.
const SPREAD_INTO: usize = 25;

/// What can be set on a development chain.
#[derive(Debug, Clone, Default)]
pub struct DevChainConfig {
    /// The fee below which its miner takes nothing.
    pub fee: FeeRate,
}

/// Why the development chain did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevChainError {
    /// The transaction breaks a rule.
    #[error("the development chain refuses the transaction: {0}")]
    Reject(#[from] Reject),
    /// The faucet does not have as much.
    #[error("the faucet can pay at most {available} in one payment now; mine blocks, or ask for less")]
    FaucetEmpty {
        /// What its usable coins are worth.
        available: Satoshis,
    },
    /// There are not that many blocks to replace.
    #[error(
        "{depth} blocks cannot be replaced on a chain of height {height}; at least 1 and not the genesis block"
    )]
    ReorgDepth {
        /// What was asked for.
        depth: u32,
        /// The height of the tip.
        height: u32,
    },
    /// The tables were written by another program.
    #[error(
        "the development chain in this database has layout {found}, this program reads {SCHEMA}; use another home"
    )]
    Schema {
        /// The layout found.
        found: u64,
    },
    /// The tables contradict each other.
    #[error("the development chain in this database is damaged ({0}); remove the home and start anew")]
    Corrupt(&'static str),
    /// The database failed.
    #[error("the database of the development chain failed: {0}")]
    Store(#[source] Box<redb::Error>),
}

macro_rules! from_redb {
    ($($error:ty),*) => {
        $(impl From<$error> for DevChainError {
            fn from(error: $error) -> Self {
                Self::Store(Box::new(error.into()))
            }
        })*
    };
}
from_redb!(redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

impl From<DecodeError> for DevChainError {
    fn from(_: DecodeError) -> Self {
        Self::Corrupt("stored bytes cannot be read")
    }
}

/// Whether a submitted transaction was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// It waits for a block now.
    Accepted {
        /// What it pays to the miner.
        fee: Satoshis,
    },
    /// It was accepted before; nothing changed.
    Known,
}

/// A block that was mined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSummary {
    /// Its height.
    pub height: u32,
    /// Its hash.
    pub hash: BlockHash,
    /// Its header.
    pub header: Header,
    /// Its transactions in order, the coinbase first.
    pub txids: Vec<Txid>,
    /// What they paid to the miner.
    pub fees: Satoshis,
    /// Bytes of all its transactions.
    pub bytes: usize,
}

/// What becomes of the transactions in replaced blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnReorg {
    /// They wait for a block again, as on a real chain.
    Requeue,
    /// They are forgotten with all that depends on them, as if the other branch contradicted them.
    Forget,
}

/// What a reorganisation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reorged {
    /// Every block from this height up is another one now.
    pub first_height: u32,
    /// The new blocks, lowest first. They hold nothing but their coinbase.
    pub blocks: Vec<BlockSummary>,
    /// Transactions that were mined and wait again.
    pub returned: Vec<Txid>,
    /// Transactions that were mined and are gone.
    pub forgotten: Vec<Txid>,
}

/// A handle on the development chain in a database. Clones share it.
#[derive(Clone)]
pub struct DevChain {
    inner: Arc<Inner>,
}

struct Inner {
    db: Arc<Database>,
    config: DevChainConfig,
    key: PrivateKey,
    reward: Script,
}

impl DevChain {
    /// Opens the chain in `db`, or starts one with the regtest genesis block. All its tables begin with `dev_`.
    ///
    /// # Errors
    /// [`DevChainError::Schema`], [`DevChainError::Corrupt`], [`DevChainError::Store`].
    pub fn open(db: Arc<Database>, config: DevChainConfig) -> Result<Self, DevChainError> {
        let key = faucet::key()?;
        let reward = Script::p2pkh(&key.public().hash160());
        let chain = Self { inner: Arc::new(Inner { db, config, key, reward }) };
        chain.write(|tables| {
            let found = tables.meta.get("schema")?.map(|guard| guard.value());
            match found {
                None => {
                    let genesis = Header::regtest_genesis();
                    tables.meta.insert("schema", SCHEMA)?;
                    tables.headers.insert(0, &genesis.0)?;
                    tables.heights.insert(&genesis.hash().0, 0)?;
                    tables.blocks.insert(0, [].as_slice())?;
                    Ok(())
                }
                Some(SCHEMA) => store::tip(&tables.headers).map(|_| ()),
                Some(found) => Err(DevChainError::Schema { found }),
            }
        })?;
        Ok(chain)
    }

    /// Offers a transaction for the next block. Offering it again is no error.
    ///
    /// # Errors
    /// [`DevChainError::Reject`] says which rule it breaks.
    pub fn submit(&self, tx: &Transaction) -> Result<Submitted, DevChainError> {
        let txid = tx.txid();
        if self.knows(&txid)? {
            return Ok(Submitted::Known);
        }
        admit::check_alone(tx)?;
        self.write(|tables| self.admit(tables, &txid, tx))
    }

    /// Mines a block with everything that waits, in the order of arrival (parents first).
    ///
    /// # Errors
    /// [`DevChainError::Store`], [`DevChainError::Corrupt`].
    pub fn mine(&self, now_ms: i64) -> Result<BlockSummary, DevChainError> {
        self.write(|tables| tables.mine(seconds(now_ms), true, &self.inner.reward))
    }

    /// Mines a block with nothing but its coinbase.
    ///
    /// # Errors
    /// As [`DevChain::mine`].
    pub fn mine_empty(&self, now_ms: i64) -> Result<BlockSummary, DevChainError> {
        self.write(|tables| tables.mine(seconds(now_ms), false, &self.inner.reward))
    }

    /// Mines the first blocks of a new chain, so that the faucet has mature and spread coins. Does nothing on a chain
    /// that has them.
    ///
    /// # Errors
    /// As [`DevChain::mine`].
    pub fn ensure_funded(&self, now_ms: i64) -> Result<(), DevChainError> {
        let now = seconds(now_ms);
        self.write(|tables| {
            let (tip, _) = store::tip(&tables.headers)?;
            // Two mature coinbases: one to spread now, one that stays whole for a large payment.
            for _ in tip..=COINBASE_MATURITY {
                tables.mine(now, false, &self.inner.reward)?;
            }
            if tip <= COINBASE_MATURITY {
                let least = Satoshis::from_sat(store::FAUCET_LEAST);
                let spread = tables.faucet_payment(
                    &self.inner.key,
                    &self.inner.reward,
                    least,
                    self.inner.config.fee,
                )?;
                self.admit(tables, &spread.txid(), &spread)?;
                tables.mine(now, true, &self.inner.reward)?;
            }
            Ok(())
        })
    }

    /// Pays `amount` to `locking` out of what the chain's miner earned. The payment waits for the next block; it can
    /// be spent at once. Anybody can take the faucet's coins: its key is public and worth nothing.
    ///
    /// # Errors
    /// [`DevChainError::FaucetEmpty`]; [`DevChainError::Reject`] if the output itself breaks a rule.
    pub fn faucet(&self, locking: &Script, amount: Satoshis) -> Result<Transaction, DevChainError> {
        self.write(|tables| {
            let tx = tables.faucet_payment(&self.inner.key, locking, amount, self.inner.config.fee)?;
            admit::check_alone(&tx)?;
            self.admit(tables, &tx.txid(), &tx)?;
            Ok(tx)
        })
    }

    /// Replaces the newest `depth` blocks by `depth + 1` empty ones. For tests: this is what the network may do to a
    /// program at any time.
    ///
    /// # Errors
    /// [`DevChainError::ReorgDepth`] unless 1 ≤ `depth` ≤ height.
    pub fn reorg(&self, depth: u32, now_ms: i64, dropped: OnReorg) -> Result<Reorged, DevChainError> {
        self.write(|tables| tables.reorg(depth, seconds(now_ms), dropped, &self.inner.reward))
    }

    fn admit(
        &self,
        tables: &mut Tables<'_>,
        txid: &Txid,
        tx: &Transaction,
    ) -> Result<Submitted, DevChainError> {
        if tables.txs.get(&txid.0)?.is_some() {
            return Ok(Submitted::Known);
        }
        let waiting = admit::check_against(tables, tx, self.inner.config.fee)?;
        tables.enter(txid, tx)?;
        tables.enqueue(txid, tx.size(), waiting)?;
        Ok(Submitted::Accepted { fee: store::sat(waiting.fee)? })
    }

    /// Runs a change; it is durable when this returns, or has not happened.
    fn write<T>(
        &self,
        change: impl FnOnce(&mut Tables<'_>) -> Result<T, DevChainError>,
    ) -> Result<T, DevChainError> {
        let txn = self.inner.db.begin_write()?;
        let mut tables = Tables::open(&txn, self.inner.reward.clone())?;
        let answer = change(&mut tables);
        drop(tables);
        match answer {
            Ok(answer) => {
                txn.commit()?;
                Ok(answer)
            }
            Err(error) => {
                txn.abort()?;
                Err(error)
            }
        }
    }

    fn read(&self) -> Result<redb::ReadTransaction, DevChainError> {
        Ok(self.inner.db.begin_read()?)
    }
}

impl fmt::Debug for DevChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevChain").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

/// Block times are whole seconds, 32 bits.
fn seconds(now_ms: i64) -> u32 {
    u32::try_from(now_ms.max(0) / 1_000).unwrap_or(u32::MAX)
}
