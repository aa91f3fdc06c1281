//! Blocks made here instead of by the node: without what waits, with what is wanted, on whatever block.

use super::{Regtest, RegtestError};
use crate::encode::{sha256, write_varint};
use crate::header::{Header, Tip};
use crate::merkle_path::merkle_root;
use crate::sources::dev::{BLOCK_VERSION, HALVING_INTERVAL, REGTEST_BITS, SUBSIDY};
use crate::sources::service::SourceError;
use crate::{BlockHash, Network, OutPoint, Satoshis, Script, Transaction, TxIn, TxOut, Txid};

/// Whom the blocks of a branch pay: nobody has the key. The faucet must not count on coins that the next longer branch
/// takes away again.
const NOBODY: &[u8] = b"sensora regtest: blocks of a branch pay nobody";

/// What a block of this height brings.
pub(super) fn subsidy(height: u32) -> Satoshis {
    let halvings = height.checked_div(HALVING_INTERVAL).unwrap_or_default();
    Satoshis::from_sat(SUBSIDY.as_u64().checked_shr(halvings).unwrap_or(0))
}

impl Regtest {
    /// Puts `count` blocks on the one at `fork`, the first with `first`, and gives the tip that the node has then.
    pub(super) async fn branch(
        &self,
        fork: u32,
        count: u32,
        first: &[Transaction],
    ) -> Result<Tip, RegtestError> {
        let headers = self.node.headers(fork, 1).await?;
        let missing = || SourceError::Malformed {
            service: self.node.config().name.clone(),
            reason: format!("it has no header at height {fork}, below its tip"),
        };
        let mut previous = *headers.first().ok_or_else(missing)?;
        // Another branch from the same block must have other hashes.
        let old = self.node.tip().await?.hash;
        let mut height = fork;
        for n in 0..count {
            height = height.saturating_add(1);
            let txs = if n == 0 { first } else { &[] };
            let (header, bytes) = block(&previous, height, &old, txs);
            self.submit_block(&bytes).await?;
            previous = header;
        }
        let tip = self.node.tip().await?;
        if tip.hash != previous.hash() {
            let reason = format!("its tip is {} and not {}", tip.hash, previous.hash());
            return Err(RegtestError::Refused { what: "a longer branch", reason });
        }
        Ok(tip)
    }
}

/// A block on `previous`, one second after it: that is always after the median time of the eleven before.
fn block(previous: &Header, height: u32, mark: &BlockHash, txs: &[Transaction]) -> (Header, Vec<u8>) {
    let unlocking = Script::builder().push_int(i64::from(height)).push(&mark.0).build();
    let input = TxIn { previous: OutPoint::NULL, unlocking, sequence: u32::MAX };
    let [hash @ .., _, _, _, _, _, _, _, _, _, _, _, _] = sha256(NOBODY);
    let paid = TxOut { value: subsidy(height), locking: Script::p2pkh(&hash) };
    let coinbase = Transaction::new(vec![input], vec![paid]);
    let txids: Vec<Txid> = std::iter::once(&coinbase).chain(txs).map(Transaction::txid).collect();
    let time = previous.time().saturating_add(1);
    let open = Header::new(BLOCK_VERSION, previous.hash(), merkle_root(&txids), time, REGTEST_BITS, 0);
    // Every second nonce will do; the last is never reached.
    let header = (0..=u32::MAX)
        .map(|nonce| open.with_nonce(nonce))
        .find(|header| header.meets_target(Network::Regtest))
        .unwrap_or(open);
    let mut bytes = header.0.to_vec();
    write_varint(&mut bytes, txids.len() as u64);
    coinbase.write(&mut bytes);
    txs.iter().for_each(|tx| tx.write(&mut bytes));
    (header, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_block_brings_halves_and_ends() {
        assert_eq!(subsidy(149), SUBSIDY);
        assert_eq!(subsidy(150).as_u64(), SUBSIDY.as_u64() / 2);
        assert_eq!(subsidy(150 * 70), Satoshis::ZERO);
    }

    #[test]
    fn a_block_has_work_follows_its_parent_and_differs_with_its_mark() {
        let genesis = Header::regtest_genesis();
        let (header, bytes) = block(&genesis, 1, &BlockHash([1; 32]), &[]);
        assert!(header.meets_target(Network::Regtest));
        assert_eq!((header.previous(), header.time()), (genesis.hash(), genesis.time() + 1));
        let read = super::super::super::parse_block(&bytes).unwrap();
        assert_eq!(read.header, header);
        assert_eq!(merkle_root(&[read.txs[0].txid()]), header.merkle_root());
        assert_ne!(block(&genesis, 1, &BlockHash([2; 32]), &[]).0.hash(), header.hash());
    }
}
