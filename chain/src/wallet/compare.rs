//! The wallet against the chain: what others say of our coins and transactions, laid beside what the wallet believes. It changes nothing.

use std::fmt;

use super::coin::CoinState;
use super::history::Status;
use super::{Coin, Wallet};
use crate::header::HeaderView;
use crate::{OutPoint, Satoshis, Txid};

/// What the chain says of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChain {
    /// Whoever was asked does not know the output.
    Unknown,
    /// Nothing is known to spend it.
    Unspent,
    /// This transaction spends it.
    Spent {
        /// The transaction.
        by: Txid,
        /// Whether that is proven by a block, and not only said.
        mined: bool,
    },
}

/// Where the chain has a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Whoever was asked does not know it.
    Unknown,
    /// It is said to wait for a block.
    Waiting,
    /// It is proven to be in the block at this height.
    Mined(u32),
}

/// Something on which wallet and chain disagree.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// A coin that can be spent here is spent there, by a transaction that does not stand in this wallet.
    SpentElsewhere {
        /// The coin.
        outpoint: OutPoint,
        /// What it is worth.
        value: Satoshis,
        /// What spends it.
        by: Txid,
        /// Whether that is proven.
        mined: bool,
    },
    /// A coin that can be spent here is not known there.
    UnknownCoin {
        /// The coin.
        outpoint: OutPoint,
        /// What it is worth.
        value: Satoshis,
    },
    /// A kept proof does not lead to a header of the best chain.
    StaleProof {
        /// The transaction.
        txid: Txid,
        /// Height of the block it names.
        height: u32,
    },
    /// The chain has a transaction elsewhere than the wallet believes.
    Misplaced {
        /// The transaction.
        txid: Txid,
        /// What the wallet believes.
        status: Status,
        /// What the chain says.
        place: Place,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SpentElsewhere { outpoint, value, by, mined } => {
                let how = if *mined { "is spent in a block" } else { "is said to be spent" };
                write!(f, "coin {outpoint} of {value} {how} by {by}, which this wallet did not make")
            }
            Self::UnknownCoin { outpoint, value } => {
                write!(f, "coin {outpoint} of {value} is not known to the chain service that was asked")
            }
            Self::StaleProof { txid, height } => {
                write!(f, "the proof of {txid} does not lead to the block at height {height}")
            }
            Self::Misplaced { txid, status, place } => {
                let place = match place {
                    Place::Unknown => "does not know it".to_owned(),
                    Place::Waiting => "says it waits for a block".to_owned(),
                    Place::Mined(height) => format!("has it in the block at height {height}"),
                };
                write!(f, "transaction {txid} is {status} here; the chain {place}")
            }
        }
    }
}

impl Wallet {
    /// The coins that the chain should have unspent: those that can be spent, and those that a transaction of ours which has not gone out claims.
    pub fn coins_on_chain(&self) -> Vec<Coin> {
        self.coins().into_iter().filter(|coin| coin.state != CoinState::Pending).collect()
    }

    /// The transactions that the chain should have: settled ones whose body is kept.
    pub fn settled(&self) -> Vec<Txid> {
        let kept = self.ledger.iter().filter(|(_, r)| r.tx.is_some() && r.status.is_settled());
        kept.map(|(txid, _)| *txid).collect()
    }

    /// Lists where the chain disagrees: with a coin of ours, with a transaction of ours, with a kept proof. What was not asked for is not compared.
    pub fn compare(
        &self,
        coins: &[(OutPoint, OnChain)],
        places: &[(Txid, Place)],
        headers: &impl HeaderView,
    ) -> Vec<Difference> {
        let coins = coins.iter().filter_map(|(outpoint, word)| self.compare_coin(outpoint, *word));
        let proofs = self
            .ledger
            .index
            .proofs
            .iter()
            .filter(|((height, _), root)| super::is_stale(*height, root, headers));
        let stale = proofs.map(|((height, txid), _)| Difference::StaleProof { txid: *txid, height: *height });
        let misplaced = places.iter().filter_map(|(txid, place)| {
            let status = self.status(txid)?;
            let agrees = match (status, place) {
                (Status::Mined { height }, Place::Mined(found)) => height == found,
                (Status::Broadcast | Status::Seen, Place::Waiting) => true,
                _ => false,
            };
            (!agrees).then(|| Difference::Misplaced { txid: *txid, status: status.clone(), place: *place })
        });
        coins.chain(stale).chain(misplaced).collect()
    }

    fn compare_coin(&self, outpoint: &OutPoint, word: OnChain) -> Option<Difference> {
        let coin = self.coin(outpoint).filter(|coin| coin.state != CoinState::Pending)?;
        let value = coin.value;
        match word {
            OnChain::Unspent => None,
            OnChain::Unknown => Some(Difference::UnknownCoin { outpoint: *outpoint, value }),
            OnChain::Spent { by, mined } => {
                // A payment of ours that its payee has brought to the chain: the wallet learns of it by its proof.
                let ours = self.status(&by).is_some_and(|status| !status.is_dead());
                (mined || !ours).then_some(Difference::SpentElsewhere {
                    outpoint: *outpoint,
                    value,
                    by,
                    mined,
                })
            }
        }
    }
}
