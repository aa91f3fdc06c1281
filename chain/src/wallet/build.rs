//! Making payments: coins in, the caller's outputs and change out, every input signed for everything (type `0x41`).

use super::coin::Purpose;
use super::history::{Entry, Status};
use super::ledger::{Ledger, Owned, Record};
use super::selection::{self, Candidate, MAX_BEEF_DEPTH, Short, Taken};
use super::{MAX_BEEF_BYTES, Task, Wallet, WalletError};
use crate::beef::BeefLimits;
use crate::contract::payment;
use crate::fee::FeeRate;
use crate::keys::PrivateKey;
use crate::sighash::SighashCache;
use crate::{OutPoint, Satoshis, Script, Transaction, TxIn, TxOut, Txid};

/// How many spendable coins the wallet tries to have. A coin that was just spent comes back as unmined change, so
/// this is how many payments can be made between two blocks before a payee has to check more than one unproven
/// transaction. Each further coin costs 18 sat at 100 sat/kB (34 bytes to make, 148 to spend).
pub const TARGET_COINS: usize = 16;

/// The smallest piece into which change is cut: 2,000 sat are worth a hundred times what cutting them off costs.
pub const MIN_SPLIT: u64 = 2_000;

/// The most change outputs of one payment, so that no single payment bears the whole cost of filling the wallet.
pub const MAX_CHANGE: usize = 4;

/// The most outputs a caller may ask for in one transaction.
pub const MAX_OUTPUTS: usize = 1_000;

/// Version, lock time and the widest counts the wallet uses (3 bytes each).
const FRAME_BYTES: usize = 4 + 3 + 3 + 4;

/// What is to be paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentSpec {
    /// The outputs, which keep their order and positions; change comes after them.
    pub outputs: Vec<TxOut>,
    /// The line of history, at most [`MAX_LABEL`](super::MAX_LABEL) bytes.
    pub label: String,
    /// What miners take.
    pub fee: FeeRate,
    /// Above this fee the payment is not made.
    pub max_fee: Satoshis,
    /// Coins that it spends whatever else it spends, each spendable: [`Wallet::excluding`] finds those with which only one of two payments can ever
    /// be taken.
    pub spends: Vec<OutPoint>,
}

/// A payment, signed and complete. Its coins are reserved until the wallet learns what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The id under which the wallet knows it.
    pub txid: Txid,
    /// The transaction.
    pub tx: Transaction,
    /// What it pays to miners.
    pub fee: Satoshis,
    /// The transaction with its proof, as the payee wants it: Atomic BEEF (BRC-95).
    pub beef: Vec<u8>,
}

/// How a transaction is to be put together.
pub(super) struct Plan {
    pub(super) inputs: Vec<Candidate>,
    pub(super) change: Vec<u64>,
    pub(super) fee: u64,
}

/// What a transaction is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    Payment,
    Reclaim(Txid),
    Task(Task),
}

impl Wallet {
    /// Builds, signs and records a payment, and reserves its coins.
    ///
    /// The result depends on nothing but the wallet's state and the arguments. Store the wallet before the payment
    /// leaves the process: an unstored reservation is a coin that is spent twice after a crash.
    ///
    /// # Errors
    /// [`WalletError::Funds`], [`WalletError::FeeAboveLimit`], [`WalletError::Output`], [`WalletError::AncestryTooDeep`],
    /// [`WalletError::NotSpendable`] and what [`Wallet::beef_for`] returns. The wallet is unchanged then.
    pub fn build(&mut self, root: &PrivateKey, spec: PaymentSpec, now_ms: i64) -> Result<Built, WalletError> {
        super::check_label(&spec.label)?;
        check_outputs(&spec.outputs)?;
        let mut forced: Vec<Candidate> = Vec::with_capacity(spec.spends.len());
        for outpoint in &spec.spends {
            let coin = selection::spendable(&self.ledger, *outpoint);
            let coin = coin.ok_or(WalletError::NotSpendable(*outpoint))?;
            if !forced.contains(&coin) {
                forced.push(coin);
            }
        }
        let with = |wallet: &mut Self, taken| {
            let plan = plan(&wallet.ledger, &forced, &spec, taken)?;
            wallet.assemble(root, plan, spec.outputs.clone(), spec.label.clone(), now_ms, Made::Payment)
        };
        // Where light coins are not enough, or rest on what is too long themselves, any of them are.
        match with(self, Taken::Light) {
            Err(
                WalletError::Funds { .. }
                | WalletError::AncestryTooDeep { .. }
                | WalletError::BeefTooLarge { .. }
                | WalletError::FeeAboveLimit { .. },
            ) => with(self, Taken::All),
            built => built,
        }
    }

    /// Builds the transaction that takes back the coins of a payment the payee refused, so that the refused payment
    /// can never be taken later. The coins stay reserved until this transaction is marked broadcast. Asking again
    /// returns the same transaction.
    ///
    /// # Errors
    /// [`WalletError::NotReclaimable`] unless the payment is still only built; otherwise like [`Wallet::build`].
    pub fn reclaim(
        &mut self,
        root: &PrivateKey,
        payment: &Txid,
        fee: FeeRate,
        max_fee: Satoshis,
        now_ms: i64,
    ) -> Result<Built, WalletError> {
        let record = self.ledger.require(payment)?;
        if let Status::Reclaiming { by } = record.status {
            return self.built(&by);
        }
        let tx = record.tx.as_ref().filter(|_| record.status == Status::Built && record.reclaims.is_none());
        let Some(tx) = tx else {
            return Err(WalletError::NotReclaimable { txid: *payment, status: record.status.clone() });
        };
        let mut inputs = Vec::new();
        for input in &tx.inputs {
            let Some(coin) = selection::candidate(&self.ledger, input.previous) else {
                return Err(WalletError::NotReclaimable { txid: *payment, status: Status::Built });
            };
            inputs.push(coin);
        }
        let label = super::bounded(&format!("reclaim {payment}"));
        let spec = PaymentSpec { outputs: Vec::new(), label, fee, max_fee, spends: Vec::new() };
        let plan = plan(&self.ledger, &inputs, &spec, Taken::All)?;
        self.assemble(root, plan, spec.outputs, spec.label, now_ms, Made::Reclaim(*payment))
    }

    /// A transaction the wallet built earlier, with a BEEF as short as its state allows now.
    ///
    /// # Errors
    /// [`WalletError::UnknownTransaction`] when it never was or is pruned, and what [`Wallet::beef_for`] returns.
    pub fn built(&self, txid: &Txid) -> Result<Built, WalletError> {
        let record = self.ledger.require(txid)?;
        let tx = record.tx.as_deref().cloned().ok_or(WalletError::Pruned(*txid))?;
        let fee = record.entry.as_ref().and_then(|entry| entry.fee).unwrap_or(Satoshis::ZERO);
        Ok(Built { txid: *txid, tx, fee, beef: self.beef_for(txid)? })
    }

    pub(super) fn assemble(
        &mut self,
        root: &PrivateKey,
        plan: Plan,
        mut outputs: Vec<TxOut>,
        label: String,
        now_ms: i64,
        made: Made,
    ) -> Result<Built, WalletError> {
        let (reclaims, task) = match made {
            Made::Payment => (None, None),
            Made::Reclaim(payment) => (Some(payment), None),
            Made::Task(task) => (None, Some(task)),
        };
        let purpose = if reclaims.is_some() { Purpose::Reclaimed } else { Purpose::Change };
        let mut owned = std::collections::BTreeMap::new();
        let mut next_change = self.next_change;
        let mut returned = 0u64;
        for sat in &plan.change {
            let key = super::change_key(next_change);
            next_change = next_change.checked_add(1).ok_or(WalletError::Overflow)?;
            let value = Satoshis::new(*sat)?;
            returned = returned.checked_add(*sat).ok_or(WalletError::Overflow)?;
            let vout = u32::try_from(outputs.len()).map_err(|_| WalletError::Overflow)?;
            outputs.push(TxOut { value, locking: key.locking_script(root) });
            owned.insert(vout, Owned { value, key, purpose: purpose.clone(), gone: false });
        }
        let inputs = plan.inputs.iter().map(|coin| TxIn::new(coin.outpoint)).collect();
        let mut tx = Transaction::new(inputs, outputs);
        sign(root, &mut tx, &plan.inputs)?;
        let txid = tx.txid();
        let limit = if made == Made::Payment { BeefLimits::PAYMENT.max_bytes } else { MAX_BEEF_BYTES };
        let beef = self.assemble_beef(&tx, &txid, limit)?;

        let mut spent = 0u64;
        for coin in &plan.inputs {
            spent = spent.checked_add(coin.sat).ok_or(WalletError::Overflow)?;
        }
        let delta_sat =
            returned.cast_signed().checked_sub(spent.cast_signed()).ok_or(WalletError::Overflow)?;
        let fee = Satoshis::new(plan.fee)?;
        let sequence = self.take_sequence()?;
        let entry = Entry { sequence, label, delta_sat, fee: Some(fee), time_ms: now_ms };
        self.next_change = next_change;
        if let Some(payment) = reclaims {
            self.ledger.change(&payment, |payment| payment.status = Status::Reclaiming { by: txid });
        }
        let record = Record { outputs: owned, reclaims, task, ..Record::new(tx.clone(), Some(entry)) };
        self.ledger.put(&txid, Some(record));
        Ok(Built { txid, tx, fee, beef })
    }
}

/// Signs every input with the key of its coin.
fn sign(root: &PrivateKey, tx: &mut Transaction, coins: &[Candidate]) -> Result<(), WalletError> {
    let mut unlocking = Vec::with_capacity(coins.len());
    let cache = SighashCache::new(tx);
    for (index, coin) in coins.iter().enumerate() {
        let key = coin.key.private_key(root);
        let locking = Script::p2pkh(&key.public().hash160());
        let digest = cache.digest(index, &locking, Satoshis::new(coin.sat)?);
        unlocking.push(payment::sign_p2pkh(&key, digest));
    }
    for (input, script) in tx.inputs.iter_mut().zip(unlocking) {
        input.unlocking = script;
    }
    Ok(())
}

/// The fee of a transaction with so many inputs and change outputs beside `outputs`.
pub(super) fn fee_of(rate: FeeRate, outputs: &[TxOut], inputs: usize, change: usize) -> u64 {
    let fixed = outputs.iter().fold(FRAME_BYTES, |sum, output| sum.saturating_add(output.size()));
    let size = inputs
        .saturating_mul(payment::INPUT_SIZE)
        .saturating_add(change.saturating_mul(payment::OUTPUT_SIZE));
    rate.fee(fixed.saturating_add(size)).as_u64()
}

/// Chooses inputs (all of `forced`, then whatever else is needed) and change.
fn plan(
    ledger: &Ledger,
    forced: &[Candidate],
    spec: &PaymentSpec,
    taken: Taken,
) -> Result<Plan, WalletError> {
    let paid = Satoshis::sum(spec.outputs.iter().map(|output| output.value))?.as_u64();
    let fee_of = |inputs: usize, change: usize| fee_of(spec.fee, &spec.outputs, inputs, change);
    // A transaction needs an output: where the caller gives none, the change is it.
    let least_change = usize::from(spec.outputs.is_empty());
    let least = u64::from(spec.outputs.is_empty());
    let held: u64 = forced.iter().fold(0, |sum, coin| sum.saturating_add(coin.sat));
    let needed = |more: usize| {
        let inputs = forced.len().saturating_add(more);
        paid.saturating_add(fee_of(inputs, least_change)).saturating_add(least)
    };
    let mut inputs = forced.to_vec();
    if forced.is_empty() || held < needed(0) {
        let chosen = selection::select(ledger, taken, forced, |more| needed(more).saturating_sub(held));
        inputs.extend(chosen.map_err(|short| match short {
            Short::Depth => WalletError::AncestryTooDeep { limit: MAX_BEEF_DEPTH },
            Short::Funds => {
                let available = held.saturating_add(selection::available(ledger));
                WalletError::Funds { needed: needed(1), available }
            }
        })?);
    }
    let total = inputs.iter().fold(0u64, |sum, coin| sum.saturating_add(coin.sat));
    let over = total.checked_sub(paid).ok_or(WalletError::Overflow)?;
    // A reclaim's coins are reserved, and not among the spendable ones.
    let taken = inputs.iter().filter(|coin| selection::spendable(ledger, coin.outpoint).is_some()).count();
    let left = ledger.index.spendable().saturating_sub(taken);
    let most = TARGET_COINS.saturating_sub(left).clamp(1, MAX_CHANGE);
    let mut lowest = over;
    for pieces in (least_change..=most).rev() {
        let fee = fee_of(inputs.len(), pieces);
        let Some(change) = over.checked_sub(fee) else { continue };
        if pieces > 1 && change < MIN_SPLIT.saturating_mul(pieces as u64) {
            continue;
        }
        if pieces == 1 && least_change == 0 {
            // A coin that costs more to spend than it is worth is better left to the miner.
            let spending = spec.fee.fee(payment::INPUT_SIZE).as_u64();
            if change == 0 || (change <= spending && over <= spec.max_fee.as_u64()) {
                continue;
            }
        }
        if pieces == 1 && change == 0 {
            continue;
        }
        let (fee, change) = if pieces == 0 { (over, Vec::new()) } else { (fee, cut(change, pieces)) };
        if fee <= spec.max_fee.as_u64() {
            return Ok(Plan { inputs, change, fee });
        }
        lowest = lowest.min(fee);
    }
    Err(WalletError::FeeAboveLimit { fee: Satoshis::new(lowest)?, limit: spec.max_fee })
}

/// Cuts `sat` into equal pieces; the first one takes the remainder.
fn cut(sat: u64, pieces: usize) -> Vec<u64> {
    let count = (pieces as u64).max(1);
    let (piece, rest) = (sat.checked_div(count).unwrap_or(0), sat.checked_rem(count).unwrap_or(0));
    (0..count).map(|n| if n == 0 { piece.saturating_add(rest) } else { piece }).collect()
}

/// Refuses outputs that relays or broadcasters would refuse later.
fn check_outputs(outputs: &[TxOut]) -> Result<(), WalletError> {
    if outputs.is_empty() || outputs.len() > MAX_OUTPUTS {
        return Err(WalletError::OutputCount { count: outputs.len() });
    }
    for (index, output) in outputs.iter().enumerate() {
        let data = output.locking.is_unspendable();
        let reason = match output.value.as_u64() {
            0 if !data => "a spendable output carries at least 1 sat",
            1.. if data => "a data output carries exactly 0 sat",
            _ if is_p2sh(output.locking.as_bytes()) => "pay-to-script-hash is not allowed on this chain",
            _ => continue,
        };
        return Err(WalletError::Output { index, reason });
    }
    Ok(())
}

/// `HASH160 <20> EQUAL`, which no block may create since Genesis.
fn is_p2sh(script: &[u8]) -> bool {
    script.len() == 23 && script.starts_with(&[0xa9, 0x14]) && script.ends_with(&[0x87])
}
