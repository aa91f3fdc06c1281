//! Sending what spends an output of a contract: a close, a claim, a refund.

use sensora_chain::Transaction;
use sensora_chain::beef::{Beef, BeefError, BeefLimits};
use sensora_chain::merkle_path::MerklePath;

use crate::chain_access::{BroadcastError, ChainAccess, TxStanding, malformed};

/// Sends the spend of a channel with what it rests on: with the funding as it came, which may be in no block yet; and where that is not taken, with the
/// funding's own Merkle path. What the funding rests on may have moved to another block with a reorganisation, and may be long.
///
/// # Errors
/// As [`ChainAccess::broadcast`].
pub(crate) async fn send_spend(
    chain: &ChainAccess,
    funding: &[u8],
    spend: &Transaction,
) -> Result<(), BroadcastError> {
    let sent = match beef_of_spend(funding, None, spend.clone()) {
        Ok(beef) => chain.broadcast(&beef).await,
        Err(error) => Err(malformed(&error.to_string())),
    };
    if matches!(sent, Ok(()) | Err(BroadcastError::Rejected { double_spent: true, .. })) {
        return sent;
    }
    let Some(input) = spend.inputs.first() else { return sent };
    let standing = chain.proofs(&[input.previous.txid]).await;
    let Ok([(_, TxStanding::Mined(path))]) = standing.as_deref() else { return sent };
    match beef_of_spend(funding, Some(path), spend.clone()) {
        Ok(beef) => chain.broadcast(&beef).await,
        Err(_) => sent,
    }
}

/// Atomic BEEF of a transaction whose first input spends what is in `held`: with the Merkle path of that where it is in a block, else with all that it came with.
///
/// # Errors
/// [`BeefError`]; only where what is stored was altered.
pub(crate) fn beef_of_spend(
    held: &[u8],
    path: Option<&MerklePath>,
    spend: Transaction,
) -> Result<Vec<u8>, BeefError> {
    let stored = Beef::parse(held, &BeefLimits::DEFAULT)?;
    let holder = spend.inputs.first().and_then(|input| stored.transaction(&input.previous.txid)).cloned();
    let mut beef = match (path, holder) {
        (Some(path), Some(holder)) => {
            let mut proven = Beef::new();
            proven.add(holder, Some(path))?;
            proven
        }
        _ => stored,
    };
    let txid = beef.add(spend, None)?;
    beef.to_atomic(&txid)
}

#[cfg(test)]
mod tests {
    use sensora_chain::contract::data_output;
    use sensora_chain::{OutPoint, Satoshis, Script, TxIn, TxOut, Txid};

    use super::*;

    fn spending(previous: Txid, padding: usize) -> Transaction {
        let output = TxOut { value: Satoshis::from_sat(1_000), locking: Script::p2pkh(&[9; 20]) };
        let input = TxIn::new(OutPoint { txid: previous, vout: 0 });
        Transaction::new(vec![input], vec![output, data_output(&[&vec![0; padding]])])
    }

    #[test]
    fn a_funding_whose_ancestors_leave_no_room_is_sent_with_its_own_path() {
        let ancestor = spending(Txid([1; 32]), 5_000);
        let path = MerklePath::for_block(7, &[ancestor.txid()], 0).unwrap();
        let holder = spending(ancestor.txid(), 60_200);
        let spend = spending(holder.txid(), 100);
        let mut stored = Beef::new();
        stored.add(ancestor, Some(&path)).unwrap();
        stored.add(holder.clone(), None).unwrap();
        let held = stored.to_atomic(&holder.txid()).unwrap();
        assert!(held.len() <= BeefLimits::DEFAULT.max_bytes);
        let with_all = beef_of_spend(&held, None, spend.clone()).unwrap();
        assert!(with_all.len() > BeefLimits::DEFAULT.max_bytes);

        let own = MerklePath::for_block(8, &[holder.txid()], 0).unwrap();
        let sent = beef_of_spend(&held, Some(&own), spend.clone()).unwrap();
        let parsed = Beef::parse(&sent, &BeefLimits::DEFAULT).unwrap();
        assert_eq!((parsed.subject(), parsed.txs().len()), (Some(spend.txid()), 2));
        assert_eq!(parsed.bump_of(&holder.txid()).map(MerklePath::block_height), Some(8));
    }
}
