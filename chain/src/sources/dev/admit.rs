//! Which transactions the chain takes: what a BSV node with mainnet standardness takes after Genesis, less what is
//! not safe to make (other versions than 1, data outputs with value, fees that no miner takes) and less the scripts
//! that only an interpreter could check: coins are spent by the templates of [`crate::contract`], each in its one form.
//!
//! A transaction whose lock time lies ahead is refused, as broadcasters do. A node keeps such a one apart until its time
//! comes, and replaces it by a final one with the same inputs; a refund that is sent too early to this chain is sent
//! again, and a close meets nothing to replace.

use std::collections::BTreeSet;

use redb::ReadableTable;

use super::reject::Reject;
use super::store::{self, Tables, Waiting};
use super::{COINBASE_MATURITY, DevChainError, MAX_CHAIN, MAX_FEE, MAX_MEMPOOL_BYTES, MAX_TX_BYTES};
use crate::contract::{TemplateError, verify_input};
use crate::tx::{LOCK_TIME_IS_TIME, SEQUENCE_FINAL};
use crate::{FeeRate, OutPoint, Satoshis, SighashCache, Transaction, TxOut, Txid};

/// Broadcasters refuse anything shorter.
const MIN_TX_BYTES: usize = 61;

/// The rules that need nothing but the transaction itself.
pub(super) fn check_alone(tx: &Transaction) -> Result<(), Reject> {
    let size = tx.size();
    if size < MIN_TX_BYTES {
        return Err(Reject::TooSmall { size });
    }
    if size > MAX_TX_BYTES {
        return Err(Reject::TooLarge { size, limit: MAX_TX_BYTES });
    }
    if tx.version != crate::tx::VERSION {
        return Err(Reject::Version(tx.version));
    }
    if tx.inputs.is_empty() {
        return Err(Reject::NoInputs);
    }
    if tx.outputs.is_empty() {
        return Err(Reject::NoOutputs);
    }
    if tx.is_coinbase() {
        return Err(Reject::Coinbase);
    }
    let mut seen = BTreeSet::new();
    for (index, input) in tx.inputs.iter().enumerate() {
        if input.previous == OutPoint::NULL {
            return Err(Reject::NullInput(index));
        }
        if !seen.insert(input.previous) {
            return Err(Reject::DuplicateInput(input.previous));
        }
    }
    for (index, output) in tx.outputs.iter().enumerate() {
        check_output(index, output)?;
    }
    tx.output_sum().map(|_| ()).map_err(|_| Reject::OutputSum)
}

fn check_output(index: usize, output: &TxOut) -> Result<(), Reject> {
    let script = output.locking.as_bytes();
    if output.locking.is_unspendable() {
        return if output.value.is_zero() { Ok(()) } else { Err(Reject::DataValue(index)) };
    }
    if output.value.is_zero() {
        return Err(Reject::Dust(index));
    }
    // HASH160 <20 bytes> EQUAL
    if script.len() == 23 && script.starts_with(&[0xa9, 20]) && script.ends_with(&[0x87]) {
        return Err(Reject::PayToScriptHash(index));
    }
    Ok(())
}

/// Whether the transaction may be in the block at `height` that follows a block of this median time.
pub(super) fn check_final(tx: &Transaction, height: u32, median_time: u32) -> Result<(), Reject> {
    let limit = if tx.lock_time < LOCK_TIME_IS_TIME { height } else { median_time };
    let opted_out = tx.inputs.iter().all(|input| input.sequence == SEQUENCE_FINAL);
    if tx.lock_time == 0 || tx.lock_time < limit || opted_out {
        Ok(())
    } else {
        Err(Reject::NotFinal { lock_time: tx.lock_time, height, median_time })
    }
}

/// Every rule that depends on the chain, for the next block.
pub(super) fn check_against(
    tables: &Tables<'_>,
    tx: &Transaction,
    rate: FeeRate,
) -> Result<Waiting, DevChainError> {
    let (tip, _) = store::tip(&tables.headers)?;
    let height = tip.saturating_add(1);
    check_final(tx, height, store::median_time(&tables.headers, tip)?)?;
    let size = tx.size();
    if tables.waiting_bytes()?.saturating_add(size as u64) > MAX_MEMPOOL_BYTES {
        return Err(Reject::MempoolFull.into());
    }
    let mut spent = Vec::with_capacity(tx.inputs.len());
    let mut depth = 1u32;
    for (index, input) in tx.inputs.iter().enumerate() {
        let (output, parent_depth) = spendable(tables, index, &input.previous, height)?;
        depth = depth.max(parent_depth.saturating_add(1));
        spent.push(output);
    }
    if depth > MAX_CHAIN {
        return Err(Reject::TooLongChain { depth, limit: MAX_CHAIN }.into());
    }
    let inputs = Satoshis::sum(spent.iter().map(|output| output.value)).map_err(|_| store::MISSING)?;
    let outputs = tx.output_sum().map_err(|_| Reject::OutputSum)?;
    let fee = inputs.checked_sub(outputs).map_err(|_| Reject::InBelowOut { inputs, outputs })?;
    let cache = SighashCache::new(tx);
    for (index, output) in spent.iter().enumerate() {
        verify_input(tx, &cache, index, output).map_err(|error| match error {
            TemplateError::UnknownScript { index } => Reject::UnsupportedScript { input: index },
            other => Reject::Script(other),
        })?;
    }
    let needed = rate.fee(size);
    if fee < needed {
        return Err(Reject::FeeTooLow { fee, needed }.into());
    }
    if fee > MAX_FEE {
        return Err(Reject::AbsurdFee { fee, limit: MAX_FEE }.into());
    }
    Ok(Waiting { fee: fee.as_u64(), depth })
}

/// The output at `outpoint`, if a transaction in the block at `height` may spend it, and its unmined generation.
fn spendable(
    tables: &Tables<'_>,
    input: usize,
    outpoint: &OutPoint,
    height: u32,
) -> Result<(TxOut, u32), DevChainError> {
    let missing = || Reject::MissingInputs { input, outpoint: *outpoint };
    let parent = store::transaction(&tables.txs, &outpoint.txid)?.ok_or_else(missing)?;
    let output = store::output_of(&parent, outpoint.vout).ok_or_else(missing)?;
    if let Some(by) = tables.spent.get(&store::outpoint_key(outpoint))? {
        let by = Txid(*by.value());
        let waits = tables.waiting.get(&by.0)?.is_some();
        return Err(if waits {
            Reject::MempoolConflict { outpoint: *outpoint, by }.into()
        } else {
            missing().into()
        });
    }
    let Some(place) = tables.places.get(&outpoint.txid.0)? else {
        let line = tables.waiting.get(&outpoint.txid.0)?.ok_or(store::MISSING)?;
        return Ok((output.clone(), line.value().2));
    };
    let (mined, _) = place.value();
    let mature = mined.saturating_add(COINBASE_MATURITY);
    if parent.is_coinbase() && height < mature {
        return Err(Reject::ImmatureCoinbase { input, height: mined, mature }.into());
    }
    Ok((output.clone(), 0))
}
