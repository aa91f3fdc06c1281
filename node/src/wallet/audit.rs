//! The wallet beside the chain: whether every coin is unspent there and every transaction where the wallet believes it to be.

use sensora_chain::wallet::{Coin, Difference, OnChain, Place};

use super::{WalletHandle, WalletHandleError};
use crate::chain_access::{SpentBy, TxStanding};

/// Coins or transactions asked for at a time: their answers fit into one frame even with long proofs.
const AT_A_TIME: usize = 32;

/// What an audit against the chain has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainAudit {
    /// How many coins were compared.
    pub coins: usize,
    /// How many transactions were compared.
    pub transactions: usize,
    /// On what wallet and chain disagree; empty when they agree. What is only said and not proven by a block may be the mistake of whoever was
    /// asked: ask another service before believing it.
    pub differences: Vec<Difference>,
}

impl WalletHandle {
    /// Compares every coin and every kept transaction with the chain. It changes nothing. What changes meanwhile, a payment for example, may show as a
    /// difference: ask again.
    ///
    /// # Errors
    /// [`WalletHandleError::Chain`]: the chain cannot be asked.
    pub async fn audit_chain(&self) -> Result<ChainAudit, WalletHandleError> {
        let chain = &self.inner.chain;
        let (coins, transactions) = self.read(|wallet| (wallet.coins_on_chain(), wallet.settled()));
        let outpoints: Vec<_> = coins.iter().map(|Coin { outpoint, .. }| *outpoint).collect();
        let mut words = Vec::with_capacity(outpoints.len());
        for some in outpoints.chunks(AT_A_TIME) {
            for (outpoint, spent) in chain.spent(some).await? {
                let word = match spent {
                    SpentBy::Unknown => OnChain::Unknown,
                    SpentBy::Nothing => OnChain::Unspent,
                    SpentBy::Transaction { tx, mined } => {
                        OnChain::Spent { by: tx.txid(), mined: mined.is_some() }
                    }
                };
                words.push((outpoint, word));
            }
        }
        let mut places = Vec::with_capacity(transactions.len());
        for some in transactions.chunks(AT_A_TIME) {
            for (txid, standing) in chain.proofs(some).await? {
                let place = match standing {
                    TxStanding::Unknown => Place::Unknown,
                    TxStanding::Mempool => Place::Waiting,
                    TxStanding::Mined(path) => Place::Mined(path.block_height()),
                };
                places.push((txid, place));
            }
        }
        let headers = chain.headers();
        let differences = self.read(|wallet| wallet.compare(&words, &places, &headers));
        Ok(ChainAudit { coins: words.len(), transactions: places.len(), differences })
    }
}
