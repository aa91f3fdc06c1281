//! Watching channels on the chain: what both of their sides ask at each block, and what they believe of the answers.
//!
//! That something is in a block is proven. That it is not is only somebody's word, and nobody's word takes a block away: what was proven to be in
//! a block is there as long as our headers have that block.

use std::time::Duration;

use sensora_chain::header::{HeaderView as _, Tip};
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::{OutPoint, Transaction};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::chain_access::{ChainAccess, ChainError, SpentBy, TxStanding};
use crate::store::channels::MinedIn;

/// How long a channel is watched after its end is in a block: deeper reorganisations than this change nothing any more.
pub(crate) const BURIED: u32 = 12;
/// Outpoints and transactions asked for at a time.
pub(crate) const ASK_AT_ONCE: usize = 32;
/// How often the chain is asked when no new block is announced.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The blocks, as they come.
pub(crate) struct Blocks {
    tips: watch::Receiver<Tip>,
    cancel: CancellationToken,
}

impl Blocks {
    /// From now on, until cancelled.
    pub(crate) fn of(chain: &ChainAccess, cancel: CancellationToken) -> Self {
        Self { tips: chain.tip_watch(), cancel }
    }

    /// Works unless cancelled, and then waits for the next block, or for long enough. Whether to go on.
    pub(crate) async fn after(&mut self, work: impl Future<Output = ()>) -> bool {
        if self.cancel.run_until_cancelled(work).await.is_none() {
            return false;
        }
        tokio::select! {
            () = self.cancel.cancelled() => false,
            changed = self.tips.changed() => changed.is_ok(),
            () = tokio::time::sleep(LOOK_EVERY) => true,
        }
    }
}

/// What is proven of a channel's output.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// What spends it, in a block.
    pub(crate) spender: Option<(Transaction, MerklePath)>,
    /// The block of the transaction that it is in; always none where that was not asked for.
    pub(crate) funding: Option<MerklePath>,
}

/// Asks the chain about outputs, and about their transactions where `and_funding` says so. One answer for each, in their order.
pub(crate) async fn look(
    chain: &ChainAccess,
    outpoints: &[(OutPoint, bool)],
) -> Result<Vec<Sight>, ChainError> {
    let asked: Vec<OutPoint> = outpoints.iter().map(|(outpoint, _)| *outpoint).collect();
    let funding: Vec<_> =
        outpoints.iter().filter(|(_, ask)| *ask).map(|(outpoint, _)| outpoint.txid).collect();
    let spent = chain.spent(&asked).await?;
    let funded = if funding.is_empty() { Vec::new() } else { chain.proofs(&funding).await? };
    Ok(outpoints
        .iter()
        .map(|(outpoint, ask)| {
            let spent = spent.iter().find(|(of, _)| of == outpoint).map(|(_, by)| by);
            let funded = funded.iter().find(|(of, _)| *ask && *of == outpoint.txid);
            Sight {
                spender: match spent {
                    Some(SpentBy::Transaction { tx, mined: Some(path) }) => Some((tx.clone(), path.clone())),
                    _ => None,
                },
                funding: match funded {
                    Some((_, TxStanding::Mined(path))) => Some(path.clone()),
                    _ => None,
                },
            }
        })
        .collect())
}

/// The block that a path leads to.
pub(crate) fn block_of(path: &MerklePath) -> MinedIn {
    MinedIn { height: path.block_height(), root: *path.root() }
}

/// Whether our best chain has this block.
pub(crate) fn stands(chain: &ChainAccess, block: &MinedIn) -> bool {
    chain.headers().header_at(block.height).is_some_and(|header| header.merkle_root() == block.root)
}
