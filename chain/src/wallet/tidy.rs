//! What the wallet does for itself: many small coins become one, and what exceeds a bound goes to a cold address.
//!
//! Both take coins only that are deep enough in the chain that no ordinary reorganisation moves them, and that no transaction of ours claims. One
//! of each kind is under way at a time, and it is a record like every other: after a crash the wallet knows of it.
//!
//! Consolidation has a second use: what peers paid is locked to keys that the words alone do not find, and it comes back as change, which they do.

use serde::{Deserialize, Serialize};

use super::build::{Built, Made, Plan, fee_of};
use super::coin::CoinState;
use super::selection::{Candidate, FIRST_OUTPOINT, MAX_INPUTS, candidate};
use super::{MAX_BEEF_BYTES, Wallet, WalletError};
use crate::contract::payment;
use crate::fee::FeeRate;
use crate::keys::PrivateKey;
use crate::{OutPoint, Satoshis, Script, TxOut, Txid};

/// A coin is used here when its block has at least five on top: six blocks are what a reorganisation is expected to stay below.
pub const TIDY_DEPTH: u32 = 6;

/// Small coins are gathered when there are more than this many. Fewer do not hurt anybody: a payment takes a few more inputs. Many times
/// [`TARGET_COINS`](super::TARGET_COINS), so that gathering and fanning out never chase each other.
pub const CONSOLIDATE_ABOVE: usize = 100;

/// The least excess that is swept, in satoshis: at the usual rate its fee is well below a hundredth.
pub const MIN_SWEEP: u64 = 10_000;

/// Of a BEEF, what the proofs of the coins may take: the rest is for the transaction itself and the frame.
const PROOF_BUDGET: usize = MAX_BEEF_BYTES / 4 * 3;

/// A transaction that the wallet makes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Small coins become one.
    Consolidation,
    /// The excess goes to the cold address.
    Sweep,
}

/// What tidying has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TidySpec {
    /// Height of the chain.
    pub tip_height: u32,
    /// What miners take.
    pub fee: FeeRate,
    /// Above this fee nothing is done.
    pub max_fee: Satoshis,
    /// The time, in milliseconds since the Unix epoch.
    pub now_ms: i64,
}

impl Wallet {
    /// The transaction of this kind that is built or on the network and in no block yet.
    pub fn under_way(&self, task: Task) -> Option<Txid> {
        let is_it = |txid: &&Txid| {
            let record = self.ledger.get(txid).filter(|record| record.task == Some(task));
            record.is_some_and(|record| !record.status.is_dead())
        };
        self.ledger.index.open.iter().find(is_it).copied()
    }

    /// Makes one coin of many small ones. `None` when there are not more than [`CONSOLIDATE_ABOVE`] that are worth more than spending them costs,
    /// when it would cost more than it brings, or when one is under way.
    ///
    /// # Errors
    /// As [`Wallet::build`]. The wallet is unchanged then.
    pub fn consolidate(&mut self, root: &PrivateKey, spec: &TidySpec) -> Result<Option<Built>, WalletError> {
        if self.under_way(Task::Consolidation).is_some() {
            return Ok(None);
        }
        // What is worth less than its own input stays where it is: at a lower rate it may be worth something.
        let worth = spec.fee.fee(payment::INPUT_SIZE).as_u64().saturating_add(1);
        let small = || self.ledger.index.mined.range((worth, FIRST_OUTPOINT)..).map(|(_, coin)| *coin);
        let buried = |coin: &OutPoint| self.is_buried(coin, spec.tip_height);
        if small().filter(buried).nth(CONSOLIDATE_ABOVE).is_none() {
            return Ok(None);
        }
        let inputs = self.inputs(small().filter(buried), |_| false);
        let sum = worth_of(&inputs);
        let fee = fee_of(spec.fee, &[], inputs.len(), 1);
        let Some(brings) = sum.checked_sub(fee).filter(|brings| *brings >= fee && inputs.len() > 1) else {
            return Ok(None);
        };
        if fee > spec.max_fee.as_u64() {
            return Err(WalletError::FeeAboveLimit { fee: Satoshis::new(fee)?, limit: spec.max_fee });
        }
        let label = format!("{} small coins into one", inputs.len());
        let plan = Plan { inputs, change: vec![brings], fee };
        let made = Made::Task(Task::Consolidation);
        self.assemble(root, plan, Vec::new(), label, spec.now_ms, made).map(Some)
    }

    /// Sends what exceeds `keep` to `to`, as far as it is deep enough in the chain. `None` when that is less than [`MIN_SWEEP`], or when a sweep is
    /// under way. So much as `keep` stays to be spent: the fee comes out of the
    /// excess, and what payments have reserved counts for neither.
    ///
    /// # Errors
    /// As [`Wallet::build`]. The wallet is unchanged then.
    pub fn sweep(
        &mut self,
        root: &PrivateKey,
        to: Script,
        keep: Satoshis,
        label: &str,
        spec: &TidySpec,
    ) -> Result<Option<Built>, WalletError> {
        super::check_label(label)?;
        if self.under_way(Task::Sweep).is_some() {
            return Ok(None);
        }
        // What payments have reserved will leave, and what is in no block may still be taken back: neither counts as kept.
        let excess = self.balance()?.confirmed.saturating_sub(keep).as_u64();
        if excess < MIN_SWEEP {
            return Ok(None);
        }
        let worth = spec.fee.fee(payment::INPUT_SIZE).as_u64();
        let largest = self.ledger.index.mined.iter().rev();
        let coins = largest.take_while(|(sat, _)| *sat > worth).map(|(_, coin)| *coin);
        let coins = coins.filter(|coin| self.is_buried(coin, spec.tip_height));
        let inputs = self.inputs(coins, |sum| sum >= excess);
        let sum = worth_of(&inputs);
        let swept = sum.min(excess);
        if swept < MIN_SWEEP {
            return Ok(None);
        }
        let out = |sat| -> Result<TxOut, WalletError> {
            Ok(TxOut { value: Satoshis::new(sat)?, locking: to.clone() })
        };
        let outputs = [out(swept)?];
        let rest = sum.saturating_sub(swept);
        let change = if rest > 0 { vec![rest] } else { Vec::new() };
        let fee = fee_of(spec.fee, &outputs, inputs.len(), change.len());
        if fee > spec.max_fee.as_u64() {
            return Err(WalletError::FeeAboveLimit { fee: Satoshis::new(fee)?, limit: spec.max_fee });
        }
        let Some(arrives) = swept.checked_sub(fee).filter(|arrives| *arrives >= fee) else { return Ok(None) };
        let plan = Plan { inputs, change, fee };
        let (outputs, made) = (vec![out(arrives)?], Made::Task(Task::Sweep));
        self.assemble(root, plan, outputs, label.to_owned(), spec.now_ms, made).map(Some)
    }

    fn is_buried(&self, coin: &OutPoint, tip_height: u32) -> bool {
        let Some((CoinState::Confirmed(height), _)) = self.ledger.index.coins.get(coin) else { return false };
        tip_height.checked_sub(*height).is_some_and(|above| above.saturating_add(1) >= TIDY_DEPTH)
    }

    /// Coins in this order until they are enough, or as many as a BEEF can prove.
    fn inputs(&self, coins: impl Iterator<Item = OutPoint>, enough: impl Fn(u64) -> bool) -> Vec<Candidate> {
        let (mut sum, mut bytes) = (0u64, 0usize);
        let mut chosen = Vec::new();
        for coin in coins.take(MAX_INPUTS) {
            let Some(record) = self.ledger.get(&coin.txid) else { continue };
            let (Some(tx), Some(path)) = (&record.tx, &record.path) else { continue };
            let proof = tx.size().saturating_add(path.to_bytes().len()).saturating_add(payment::INPUT_SIZE);
            // Whoever pays decides how long a proof is: one that does not fit must not stand in the way of those after it.
            let Some(input) =
                candidate(&self.ledger, coin).filter(|_| bytes.saturating_add(proof) <= PROOF_BUDGET)
            else {
                continue;
            };
            bytes = bytes.saturating_add(proof);
            sum = sum.saturating_add(input.sat);
            chosen.push(input);
            if enough(sum) {
                break;
            }
        }
        chosen
    }
}

fn worth_of(inputs: &[Candidate]) -> u64 {
    inputs.iter().fold(0, |sum, coin| sum.saturating_add(coin.sat))
}
