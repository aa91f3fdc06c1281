//! What happened to the money: one line for each transaction, and the check that the lines and the coins agree.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::coin::{Balance, CoinState};
use super::{Wallet, WalletError};
use crate::{Satoshis, Txid};

/// Where a transaction stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Signed and complete, but not known to be on the network. Its inputs are reserved.
    Built,
    /// Somebody who passes it on has accepted it.
    Broadcast,
    /// It was reported to wait for a block.
    Seen,
    /// It is in a block.
    Mined {
        /// The block's height.
        height: u32,
    },
    /// The payee refused it; another transaction that spends the same coins back to us is on its way.
    Reclaiming {
        /// That other transaction.
        by: Txid,
    },
    /// It will not be in any block. Its inputs are free again.
    Rejected {
        /// What the network, the payee or the wallet said.
        reason: String,
    },
    /// The network had it, and another transaction that spends one of its coins has taken its place. Its other inputs are free again. It is
    /// still watched: a reorganisation may bring it back.
    Conflicted {
        /// That other transaction.
        by: Txid,
    },
}

impl Status {
    /// Whether the network has it, so that it counts in the balance.
    pub fn is_settled(&self) -> bool {
        matches!(self, Self::Broadcast | Self::Seen | Self::Mined { .. })
    }

    /// Whether it does not stand: what it spends is free or taken by another, and what it makes is nothing.
    pub fn is_dead(&self) -> bool {
        matches!(self, Self::Rejected { .. } | Self::Conflicted { .. })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Built => f.write_str("built"),
            Self::Broadcast => f.write_str("broadcast"),
            Self::Seen => f.write_str("seen by the network"),
            Self::Mined { height } => write!(f, "mined at height {height}"),
            Self::Reclaiming { by } => write!(f, "being reclaimed by {by}"),
            Self::Rejected { reason } => write!(f, "rejected: {reason}"),
            Self::Conflicted { by } => write!(f, "CONFLICTED: {by} was taken in its place"),
        }
    }
}

/// A line of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The transaction.
    pub txid: Txid,
    /// What the caller called it.
    pub label: String,
    /// What it changes in our balance, in satoshis, the fee included. It counts while the status is settled.
    pub delta_sat: i64,
    /// The fee, for transactions the wallet built.
    pub fee: Option<Satoshis>,
    /// When it entered the wallet, in milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Where it stands.
    pub status: Status,
}

/// A line as it is stored, beside the transaction whose state completes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) label: String,
    pub(super) delta_sat: i64,
    pub(super) fee: Option<Satoshis>,
    pub(super) time_ms: i64,
}

impl Entry {
    pub(super) fn add(&mut self, sat: i64) -> Result<(), WalletError> {
        self.delta_sat = self.delta_sat.checked_add(sat).ok_or(WalletError::Overflow)?;
        Ok(())
    }

    pub(super) fn line(&self, txid: Txid, status: Status) -> HistoryEntry {
        HistoryEntry {
            txid,
            label: self.label.clone(),
            delta_sat: self.delta_sat,
            fee: self.fee,
            time_ms: self.time_ms,
            status,
        }
    }
}

/// The wallet contradicts itself. It must not be used further; the error says where to look.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// Coins and history do not add up.
    #[error("the wallet's coins are worth {coins_sat} sat but its history says {history_sat} sat")]
    Balance {
        /// Sum of the coins.
        coins_sat: u64,
        /// Sum of the history, with what was archived.
        history_sat: i64,
    },
    /// One coin is used by two transactions that may both stand.
    #[error("coin {outpoint} is used by {first} and by {second}")]
    SpentTwice {
        /// The coin.
        outpoint: crate::OutPoint,
        /// One transaction.
        first: Txid,
        /// The other.
        second: Txid,
    },
    /// What is looked up about a coin is not what its transactions say.
    #[error("coin {0} is not listed as its transactions say")]
    Listed(crate::OutPoint),
    /// A sum leaves the range of amounts.
    #[error("a sum of the wallet's amounts is out of range")]
    Overflow,
}

impl Wallet {
    /// The money, by what can be done with it.
    ///
    /// # Errors
    /// [`WalletError::Overflow`] if the coins sum to more than there can be, which no honest history reaches.
    pub fn balance(&self) -> Result<Balance, WalletError> {
        let (mut confirmed, mut unconfirmed, mut reserved) = (0u64, 0u64, 0u64);
        for (_, (state, sat)) in self.ledger.index.coins.iter() {
            let part = match state {
                CoinState::Confirmed(_) => &mut confirmed,
                CoinState::Unconfirmed => &mut unconfirmed,
                CoinState::Reserved => &mut reserved,
                CoinState::Pending => continue,
            };
            *part = part.checked_add(*sat).ok_or(WalletError::Overflow)?;
        }
        let total = confirmed
            .checked_add(unconfirmed)
            .and_then(|sum| sum.checked_add(reserved))
            .ok_or(WalletError::Overflow)?;
        Ok(Balance {
            confirmed: Satoshis::new(confirmed)?,
            unconfirmed: Satoshis::new(unconfirmed)?,
            reserved: Satoshis::new(reserved)?,
            total: Satoshis::new(total)?,
        })
    }

    /// Every line since the last archived one, oldest first.
    pub fn history(&self) -> Vec<HistoryEntry> {
        let mut lines: Vec<(u64, HistoryEntry)> = self
            .ledger
            .iter()
            .filter_map(|(txid, record)| {
                let entry = record.entry.as_ref()?;
                Some((entry.sequence, entry.line(*txid, record.status.clone())))
            })
            .collect();
        lines.sort_by_key(|(sequence, _)| *sequence);
        lines.into_iter().map(|(_, line)| line).collect()
    }

    /// Adds the wallet up twice, from its coins and from its history, and compares to the satoshi (invariant I8).
    ///
    /// # Errors
    /// What does not agree.
    pub fn audit(&self) -> Result<Balance, AuditError> {
        let balance = self.balance().map_err(|_| AuditError::Overflow)?;
        let mut history = self.carried_sat;
        for (txid, record) in self.ledger.iter() {
            if let Some(entry) = record.entry.as_ref().filter(|_| record.status.is_settled()) {
                history = history.checked_add(entry.delta_sat).ok_or(AuditError::Overflow)?;
            }
            for input in record.inputs() {
                self.audit_single_use(txid, &record.status, input)?;
            }
            for (vout, owned) in &record.outputs {
                let outpoint = crate::OutPoint { txid: *txid, vout: *vout };
                let now = self.ledger.state(&outpoint).map(|state| (state, owned.value.as_u64()));
                if self.ledger.index.coins.get(&outpoint).copied() != now {
                    return Err(AuditError::Listed(outpoint));
                }
            }
        }
        if i64::try_from(balance.total.as_u64()) != Ok(history) {
            return Err(AuditError::Balance { coins_sat: balance.total.as_u64(), history_sat: history });
        }
        Ok(balance)
    }

    /// Of the transactions that use a coin at most one may stand; a payment and what reclaims it count as one.
    fn audit_single_use(
        &self,
        txid: &Txid,
        status: &Status,
        outpoint: &crate::OutPoint,
    ) -> Result<(), AuditError> {
        if status.is_dead() {
            return Ok(());
        }
        for (other, record) in self.ledger.spenders(outpoint) {
            let paired = *status == (Status::Reclaiming { by: *other })
                || record.status == (Status::Reclaiming { by: *txid });
            if other != txid && !paired && !record.status.is_dead() {
                return Err(AuditError::SpentTwice { outpoint: *outpoint, first: *txid, second: *other });
            }
        }
        Ok(())
    }
}
