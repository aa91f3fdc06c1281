//! Transactions together with what it takes to believe them.

use std::collections::HashSet;

use sensora_chain::beef::{Beef, BeefError, BeefLimits};
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::sources::dev::{DevChain, DevChainError};
use sensora_chain::{Transaction, Txid};

/// Atomic BEEF of a mined transaction: itself and its Merkle path.
pub(in crate::chain_access) fn proven(tx: Transaction, path: &MerklePath) -> Result<Vec<u8>, BeefError> {
    let mut beef = Beef::new();
    let txid = beef.add(tx, Some(path))?;
    beef.to_atomic(&txid)
}

/// Atomic BEEF of a transaction, with all its ancestors back to mined ones. At most
/// [`BeefLimits::DEFAULT`]`.max_txs` of them: nobody would read more.
pub(super) fn atomic(chain: &DevChain, subject: &Transaction) -> Result<Vec<u8>, DevChainError> {
    const BROKEN: DevChainError = DevChainError::Corrupt("the ancestors of a transaction are incomplete");
    let mut beef = Beef::new();
    let mut seen: HashSet<Txid> = HashSet::new();
    // Each transaction is met twice: first its parents are put on the stack above it, then it is added itself.
    let mut stack = vec![(subject.clone(), false)];
    while let Some((tx, parents_done)) = stack.pop() {
        let txid = tx.txid();
        if parents_done {
            beef.add(tx, None).map_err(|_| BROKEN)?;
            continue;
        }
        if !seen.insert(txid) {
            continue;
        }
        if seen.len() > BeefLimits::DEFAULT.max_txs {
            return Err(DevChainError::Corrupt(
                "a transaction has more unmined ancestors than a BEEF may hold",
            ));
        }
        if let Some(path) = chain.merkle_path(&txid)? {
            beef.add(tx, Some(&path)).map_err(|_| BROKEN)?;
            continue;
        }
        let parents: Vec<Txid> = tx.inputs.iter().map(|input| input.previous.txid).collect();
        stack.push((tx, true));
        for parent in parents {
            if !seen.contains(&parent) {
                stack.push((chain.transaction(&parent)?.ok_or(BROKEN)?, false));
            }
        }
    }
    beef.to_atomic(&subject.txid()).map_err(|_| BROKEN)
}
