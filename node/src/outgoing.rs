//! Sending what spends the output of a channel: its close, or its refund.

use sensora_chain::Transaction;
use sensora_chain::beef::{Beef, BeefError, BeefLimits};
use sensora_chain::merkle_path::MerklePath;

use crate::chain_access::{BroadcastError, ChainAccess, TxStanding, malformed};

/// Sends `spend` with what it rests on: with the funding as it came, which may be in no block yet; and where that is not taken, with the funding's own Merkle
/// path. What the funding rests on may have moved to another block with a reorganisation, and may be long.
///
/// # Errors
/// As [`ChainAccess::broadcast`].
pub(crate) async fn send_spend(
    chain: &ChainAccess,
    funding: &[u8],
    spend: &Transaction,
) -> Result<(), BroadcastError> {
    let stored = Beef::parse(funding, &BeefLimits::DEFAULT).map_err(|error| malformed(&error.to_string()))?;
    let sent = match with(stored.clone(), spend) {
        Ok(beef) => chain.broadcast(&beef).await,
        Err(error) => Err(malformed(&error.to_string())),
    };
    if matches!(sent, Ok(()) | Err(BroadcastError::Rejected { double_spent: true, .. })) {
        return sent;
    }
    let Some((txid, holder)) = stored.subject().and_then(|txid| Some((txid, stored.transaction(&txid)?)))
    else {
        return sent;
    };
    let standing = chain.proofs(&[txid]).await;
    let Ok([(_, TxStanding::Mined(path))]) = standing.as_deref() else { return sent };
    match proven(holder, path).and_then(|beef| with(beef, spend)) {
        Ok(beef) => chain.broadcast(&beef).await,
        Err(_) => sent,
    }
}

fn proven(holder: &Transaction, path: &MerklePath) -> Result<Beef, BeefError> {
    let mut beef = Beef::new();
    beef.add(holder.clone(), Some(path))?;
    Ok(beef)
}

fn with(mut beef: Beef, spend: &Transaction) -> Result<Vec<u8>, BeefError> {
    let txid = beef.add(spend.clone(), None)?;
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
        assert!(with(stored.clone(), &spend).unwrap().len() > BeefLimits::DEFAULT.max_bytes);
        assert!(stored.to_atomic(&holder.txid()).unwrap().len() <= BeefLimits::DEFAULT.max_bytes);

        let own = MerklePath::for_block(8, &[holder.txid()], 0).unwrap();
        let sent = with(proven(&holder, &own).unwrap(), &spend).unwrap();
        let parsed = Beef::parse(&sent, &BeefLimits::DEFAULT).unwrap();
        assert_eq!((parsed.subject(), parsed.txs().len()), (Some(spend.txid()), 2));
        assert_eq!(parsed.bump_of(&holder.txid()).map(MerklePath::block_height), Some(8));
    }
}
