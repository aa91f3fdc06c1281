//! Orders of single readings: what was answered in each at which place, and the checkpoint that a buyer has its readings under.

use redb::{ReadTransaction, WriteTransaction};
use sensora_protocol::market::reads::asked::AskedRun;
use sensora_protocol::{OrderId, SignedBytes};

use super::StoreError;
use super::kinds::Records;

const ANSWERED: Records = Records { name: "reads_answered" };
const CHECKPOINTS: Records = Records { name: "reads_checkpoints" };

pub(super) fn create(tx: &WriteTransaction) -> Result<(), StoreError> {
    ANSWERED.create(tx)?;
    CHECKPOINTS.create(tx)
}

/// Stores what was answered in an order of ours as seller.
///
/// # Errors
/// [`StoreError`].
pub fn put_answered(tx: &WriteTransaction, order: &OrderId, runs: &[AskedRun]) -> Result<(), StoreError> {
    let runs: Vec<(Option<u64>, u64)> = runs.iter().map(|run| (run.first, run.count)).collect();
    ANSWERED.put(tx, order.as_bytes(), &runs)
}

/// Forgets what was answered in an order of ours as seller, where it was one of single readings.
///
/// # Errors
/// [`StoreError`].
pub(super) fn remove_answered(tx: &WriteTransaction, order: &OrderId) -> Result<(), StoreError> {
    ANSWERED.remove(tx, order.as_bytes())
}

/// What was answered in an order of ours as seller.
///
/// # Errors
/// [`StoreError`].
pub fn answered(tx: &ReadTransaction, order: &OrderId) -> Result<Vec<AskedRun>, StoreError> {
    let runs: Option<Vec<(Option<u64>, u64)>> = ANSWERED.get(tx, order.as_bytes())?;
    Ok(runs.unwrap_or_default().into_iter().map(|(first, count)| AskedRun { first, count }).collect())
}

/// Stores the newest checkpoint that an order's readings are proven under.
///
/// # Errors
/// [`StoreError`].
pub fn put_checkpoint(
    tx: &WriteTransaction,
    order: &OrderId,
    signed: &SignedBytes,
) -> Result<(), StoreError> {
    CHECKPOINTS.put(tx, order.as_bytes(), signed)
}

/// The newest checkpoint that an order's readings are proven under.
///
/// # Errors
/// [`StoreError`].
pub fn checkpoint(tx: &ReadTransaction, order: &OrderId) -> Result<Option<SignedBytes>, StoreError> {
    CHECKPOINTS.get(tx, order.as_bytes())
}
