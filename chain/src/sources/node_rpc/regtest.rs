//! Mining and free coins on a node of one's own in regtest, so that everything which touches money can be run against a
//! real node as it is on the development chain.
//!
//! The node's wallet is not used (it can be off). What is mined pays a key that is handed in; the faucet cuts it into
//! coins and remembers nothing durable: after a restart it finds its coins again in the newest blocks, or mines new
//! ones. It pays only from mined coins that are no coinbases, so whoever is paid can prove every parent with one path.

mod blocks;
mod coins;

use serde_json::json;
use tokio::sync::Mutex;

use super::{FRAME, NodeRpc, SMALL};
use crate::header::Tip;
use crate::sources::service::{Report, SourceError, Submission};
use crate::{FeeRate, Network, PrivateKey, Satoshis, Script, Transaction};
use coins::Coins;

/// The most blocks of one call of [`Regtest::mine`]: they are mined within the time of one request.
pub const MAX_MINED: u32 = 1_000;

/// How many blocks are asked of the node at a time. A hundred take it about 0.1 s.
const MINED_AT_ONCE: u32 = 100;

/// Why the miner or the faucet did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegtestError {
    /// The node did not answer as it has to.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Blocks are made only where they are worth nothing.
    #[error("{service} is configured for network {network}; blocks and free coins exist only on regtest")]
    NotRegtest {
        /// The service.
        service: String,
        /// Its network.
        network: Network,
    },
    /// There is not as much.
    #[error(
        "the faucet of the regtest node has {available} and cannot pay {wanted}; regtest halves what a block \
         brings every 150 blocks, so start the node with a new -datadir"
    )]
    FaucetEmpty {
        /// What its coins are worth.
        available: Satoshis,
        /// What is to be paid, with the fee.
        wanted: Satoshis,
    },
    /// The node refuses what was made here.
    #[error("the regtest node refuses {what}: {reason}")]
    Refused {
        /// A block or a payment.
        what: &'static str,
        /// What it says.
        reason: String,
    },
    /// There are not that many blocks to replace or to make.
    #[error("{count} blocks cannot be {what} at height {height}; use 1 to {max}")]
    Count {
        /// What was asked for.
        count: u32,
        /// What was to be done with them.
        what: &'static str,
        /// The height of the tip.
        height: u32,
        /// The most there can be.
        max: u32,
    },
}

/// The miner and faucet of a regtest node; see the [module](self). All calls wait for each other.
#[derive(Debug)]
pub struct Regtest {
    node: NodeRpc,
    key: PrivateKey,
    own: Script,
    /// What payments cost here.
    rate: FeeRate,
    coins: Mutex<Coins>,
}

impl Regtest {
    /// A miner that is paid to `key`, which belongs to the faucet alone.
    ///
    /// # Errors
    /// [`RegtestError::NotRegtest`], or [`SourceError`] if the node cannot be asked or is on another network than it is
    /// configured for.
    pub async fn new(node: NodeRpc, key: PrivateKey) -> Result<Self, RegtestError> {
        let network = node.config().network;
        if network != Network::Regtest {
            return Err(RegtestError::NotRegtest { service: node.config().name.clone(), network });
        }
        let asked = node.fee_quote().await?.rate;
        let own = Script::p2pkh(&key.public().hash160());
        let rate = asked.max(FeeRate::DEFAULT);
        Ok(Self { node, key, own, rate, coins: Mutex::default() })
    }

    /// The node.
    pub fn node(&self) -> &NodeRpc {
        &self.node
    }

    /// Mines `count` blocks, 1 to [`MAX_MINED`], with everything that waits, and gives the new tip.
    ///
    /// # Errors
    /// [`RegtestError`].
    pub async fn mine(&self, count: u32) -> Result<Tip, RegtestError> {
        let _turn = self.coins.lock().await;
        self.mine_now(count).await
    }

    /// Makes sure that the faucet can pay `amount` at once, in many small payments as well as in one, and mines and cuts
    /// coins where it cannot. On a new chain that are about a hundred blocks.
    ///
    /// # Errors
    /// [`RegtestError`].
    pub async fn ensure_funded(&self, amount: Satoshis) -> Result<(), RegtestError> {
        let mut coins = self.coins.lock().await;
        self.fund(&mut coins, amount).await
    }

    /// Pays `amount` to `locking`, sends the payment, and gives it. It waits for a block then; all its parents are
    /// mined. The payment is the first output.
    ///
    /// # Errors
    /// [`RegtestError`].
    pub async fn faucet(&self, locking: &Script, amount: Satoshis) -> Result<Transaction, RegtestError> {
        let mut coins = self.coins.lock().await;
        self.pay(&mut coins, locking, amount).await
    }

    /// Replaces the newest `depth` blocks by one more, as the network does it: a branch from below them overtakes. The
    /// new blocks hold `first`, in their first, and nothing else; what the old ones held waits again where it does not
    /// contradict `first`.
    ///
    /// # Errors
    /// [`RegtestError`].
    pub async fn reorg(&self, depth: u32, first: &[Transaction]) -> Result<Tip, RegtestError> {
        let _turn = self.coins.lock().await;
        let tip = self.node.tip().await?;
        let max = tip.height.min(MAX_MINED);
        if depth == 0 || depth > max {
            return Err(RegtestError::Count { count: depth, what: "replaced", height: tip.height, max });
        }
        self.branch(tip.height.saturating_sub(depth), depth.saturating_add(1), first).await
    }

    /// Mines `count` blocks on the tip that leave out what waits.
    ///
    /// # Errors
    /// [`RegtestError`].
    pub async fn mine_empty(&self, count: u32) -> Result<Tip, RegtestError> {
        let _turn = self.coins.lock().await;
        let tip = self.node.tip().await?;
        if count == 0 || count > MAX_MINED {
            let (height, max) = (tip.height, MAX_MINED);
            return Err(RegtestError::Count { count, what: "mined", height, max });
        }
        self.branch(tip.height, count, &[]).await
    }

    /// Gives the node a whole block. A block on a branch that is not the longest yet is taken, too.
    ///
    /// # Errors
    /// [`RegtestError::Refused`] with the node's reason.
    pub async fn submit_block(&self, block: &[u8]) -> Result<(), RegtestError> {
        let said = self.node.call("submitblock", json!([hex::encode(block)]), SMALL).await?;
        match said.as_str() {
            // A block that is not the best, and one that is known, are no faults.
            None | Some("inconclusive" | "duplicate") => Ok(()),
            Some(reason) => {
                Err(RegtestError::Refused { what: "a block", reason: super::client::clip(reason) })
            }
        }
    }

    async fn mine_now(&self, count: u32) -> Result<Tip, RegtestError> {
        if count == 0 || count > MAX_MINED {
            let height = self.node.tip().await?.height;
            return Err(RegtestError::Count { count, what: "mined", height, max: MAX_MINED });
        }
        let address = self.key.public().address(Network::Regtest).to_string();
        let mut left = count;
        while left > 0 {
            let now = left.min(MINED_AT_ONCE);
            let answer = self.node.call("generatetoaddress", json!([now, address]), SMALL).await?;
            let mined = answer.as_array().map_or(0, Vec::len);
            if mined != now as usize {
                let reason = format!("{mined} of {now} blocks were made");
                return Err(RegtestError::Refused { what: "to mine", reason });
            }
            left = left.saturating_sub(now);
        }
        Ok(self.node.tip().await?)
    }

    /// Sends a payment of the faucet's.
    async fn send(&self, tx: &Transaction) -> Result<(), RegtestError> {
        let submission = Submission { tx: tx.clone(), spent: Vec::new() };
        match self.node.submit(&[submission]).await? {
            Report::Seen | Report::Mined(_) | Report::MinedUnproven { .. } => Ok(()),
            Report::Rejected { reason, .. } => {
                Err(RegtestError::Refused { what: "a payment of the faucet", reason })
            }
            other => {
                let reason = format!("it says {other:?}");
                Err(RegtestError::Refused { what: "a payment of the faucet", reason })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Futures of the miner and of a service may be spawned.
    #[allow(dead_code, reason = "that it compiles is the test")]
    fn futures_are_send(miner: &Regtest, service: &crate::sources::service::Service, tx: &Transaction) {
        fn send<T: Send>(_: T) {}
        send(miner.mine(1));
        send(miner.ensure_funded(Satoshis::ZERO));
        send(miner.faucet(&tx.outputs[0].locking, Satoshis::ZERO));
        send(miner.reorg(1, &[]));
        send(service.tip());
        send(service.block(1));
        send(service.submit(&[]));
        send(service.spender(&crate::OutPoint::NULL));
    }
}
