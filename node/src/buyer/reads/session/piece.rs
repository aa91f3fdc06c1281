//! Verified readings on their way to the disk.

use sensora_protocol::market::delivery::terms::Terms;
use sensora_protocol::market::reads::ask::Piece;
use sensora_protocol::stream::leaf::Salt;
use sensora_protocol::stream::reading::Reading;
use sensora_protocol::stream::{CHUNK_LEN, Run, Salts, columns};
use sensora_protocol::{OrderId, StreamId};
use tokio::task::JoinHandle;

use super::Turn;
use crate::buyer::BuyError;
use crate::store::bought::{self, BoughtRun};
use crate::store::{Store, StoreError, channels as records, reads};

/// Ends when what is being kept is; never where nothing is. Nothing is lost where it is dropped.
pub(super) async fn done(keeping: &mut Option<JoinHandle<Result<(), BuyError>>>) -> Result<(), BuyError> {
    let Some(handle) = keeping.as_mut() else { return std::future::pending().await };
    let kept = handle.await.unwrap_or_else(|error| Err(StoreError::Damaged(error.to_string()).into()));
    *keeping = None;
    kept
}

/// Keeps a piece: readings as runs, with their salts; the newest checkpoint; and how far the order is.
pub(super) async fn keep(store: Store, terms: Terms, piece: Piece, turn: Turn) -> Result<(), BuyError> {
    let Piece { readings, checkpoint, purchase } = piece;
    let (stream, order): (StreamId, OrderId) = (terms.stream, purchase.id);
    let made = tokio::task::spawn_blocking(move || runs(&terms, order, readings)).await;
    let runs = made.unwrap_or_else(|error| Err(StoreError::Damaged(error.to_string())))?;
    let stored = store.commit(move |tx| {
        let _turn = &turn;
        runs.iter().try_for_each(|run| bought::put_run(tx, &stream, run))?;
        if let Some(checkpoint) = &checkpoint {
            reads::put_checkpoint(tx, &order, checkpoint)?;
        }
        records::put_purchase(tx, &purchase)
    });
    Ok(stored.await?)
}

/// Readings that follow each other in a chunk are kept as one run.
fn runs(
    terms: &Terms,
    order: OrderId,
    mut readings: Vec<(Reading, Salt)>,
) -> Result<Vec<BoughtRun>, StoreError> {
    readings.sort_unstable_by_key(|(reading, _)| reading.seq);
    let mut runs = Vec::new();
    let follows = |(a, _): &(Reading, Salt), (b, _): &(Reading, Salt)| {
        a.seq.checked_add(1) == Some(b.seq) && a.seq / CHUNK_LEN == b.seq / CHUNK_LEN
    };
    for run in readings.chunk_by(follows) {
        let (readings, salts): (Vec<Reading>, Vec<Salt>) = run.iter().cloned().unzip();
        let first = readings.first().map_or(0, |reading| reading.seq);
        let columns = columns::encode(&terms.schema, &readings).map_err(|error| {
            StoreError::Damaged(format!("readings from {first} on cannot be kept: {error}"))
        })?;
        let count = readings.len() as u64;
        runs.push(BoughtRun { run: Run { first, columns, salts: Salts::Each(salts) }, count, order });
    }
    Ok(runs)
}
