//! Who drives a scan: services that know scripts, nodes that give blocks, the development chain.

use std::time::Duration;

use sensora_chain::header::HeaderView;
use sensora_chain::sources::dev::DevChain;
use sensora_chain::sources::service::{Block, Need, Report, Service, SourceError};
use sensora_chain::wallet::KeyRow;

use super::{Ask, BlockScan, Found, RecoveryError, Scan, Told};

/// How often a question is put to the services in turn before the scan stops. With the pauses between that is about five minutes, which outlasts
/// a restart and most limits.
const ATTEMPTS: u32 = 8;
/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause, whatever a service asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// How far a scan is, for whoever waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// This key is asked for.
    Key(KeyRow, u64),
    /// This block is read, of as many.
    Block(u32, u32),
}

/// Drives a [`Scan`] with services, each question to the first that answers it truly.
///
/// # Errors
/// [`RecoveryError::Source`] when none answers for minutes; [`RecoveryError::False`] when all of them lie.
pub async fn scan_scripts(
    mut scan: Scan,
    services: &[Service],
    headers: &impl HeaderView,
    mut progress: impl FnMut(Progress),
) -> Result<Found, RecoveryError> {
    while let Some(ask) = scan.ask() {
        if let Some((row, number)) = scan.at() {
            progress(Progress::Key(row, number));
        }
        let need = match ask {
            Ask::Path(_) => Need::Proofs,
            _ => Need::Outputs,
        };
        in_turn(services, need, async |service| {
            let told = answer(service, &ask).await?;
            scan.told(told, headers)
        })
        .await?;
    }
    Ok(scan.finish())
}

async fn answer(service: &Service, ask: &Ask) -> Result<Told, RecoveryError> {
    Ok(match ask {
        Ask::Used(script) => Told::Used(service.is_used(script).await?),
        Ask::Unspent(script) => Told::Unspent(service.unspent(script).await?),
        Ask::Transaction(txid) => Told::Transaction(service.transaction(txid).await?),
        Ask::Path(txid) => match service.report(txid).await? {
            Report::Mined(path) => Told::Path(Some(path)),
            // Its path is not made yet; the coin is found when it is.
            _ => Told::Path(None),
        },
    })
}

/// Drives a [`BlockScan`] up to the tip of our headers with services that give blocks.
///
/// # Errors
/// As [`scan_scripts`]; [`RecoveryError::NoBlock`] where no service has a block of our chain.
pub async fn scan_blocks(
    mut scan: BlockScan,
    services: &[Service],
    headers: &impl HeaderView,
    mut progress: impl FnMut(Progress),
) -> Result<Found, RecoveryError> {
    let tip = headers.tip_height();
    while scan.next() <= tip {
        let height = scan.next();
        progress(Progress::Block(height, tip));
        in_turn(services, Need::Blocks, async |service| {
            let block = service.block(height).await?.ok_or(RecoveryError::NoBlock { height })?;
            scan.block(&block, headers)
        })
        .await?;
    }
    Ok(scan.finish())
}

/// Reads the development chain of this process.
///
/// # Errors
/// [`RecoveryError`].
pub fn scan_dev_chain(
    mut scan: BlockScan,
    chain: &DevChain,
    headers: &impl HeaderView,
) -> Result<Found, RecoveryError> {
    let tip = headers.tip_height();
    while scan.next() <= tip {
        let height = scan.next();
        let missing = RecoveryError::NoBlock { height };
        let (Some(header), Some(txids)) = (chain.header(height)?, chain.block_txids(height)?) else {
            return Err(missing);
        };
        // The genesis block is part of the rules: it pays nobody, and its transaction is not kept.
        if height == 0 {
            scan = scan.above_genesis();
            continue;
        }
        let mut txs = Vec::with_capacity(txids.len());
        for txid in &txids {
            txs.push(chain.transaction(txid)?.ok_or(RecoveryError::NoBlock { height })?);
        }
        scan.block(&Block { header, txs }, headers)?;
    }
    Ok(scan.finish())
}

/// Puts a question to the services in turn until one answers it truly, with longer and longer pauses.
async fn in_turn(
    services: &[Service],
    need: Need,
    mut ask: impl AsyncFnMut(&Service) -> Result<(), RecoveryError>,
) -> Result<(), RecoveryError> {
    let mut last = None;
    let mut pause = FIRST_PAUSE;
    for _ in 0..ATTEMPTS {
        let mut wanted = Duration::ZERO;
        for service in services.iter().filter(|service| service.config().kind.can(need)) {
            match ask(service).await {
                Ok(()) => return Ok(()),
                Err(error @ (RecoveryError::TooMany | RecoveryError::OutOfTurn)) => return Err(error),
                Err(error) => {
                    // A service that knows no scripts at all is no reason to wait.
                    if let RecoveryError::Source(SourceError::Limited { retry_after, .. }) = &error {
                        wanted = wanted.max(*retry_after);
                    }
                    tracing::debug!(service = service.name(), %error, "a service gives no answer that holds");
                    if !matches!(error, RecoveryError::Source(SourceError::Unsupported { .. }))
                        || last.is_none()
                    {
                        last = Some(error);
                    }
                }
            }
        }
        if matches!(last, None | Some(RecoveryError::Source(SourceError::Unsupported { .. }))) {
            break;
        }
        tokio::time::sleep(pause.max(wanted).min(LONGEST_PAUSE)).await;
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
    Err(last.unwrap_or_else(|| {
        let (service, kind) = services.first().map_or_else(
            || ("nobody".to_owned(), sensora_chain::sources::service::ServiceKind::Arc),
            |service| (service.name().to_owned(), service.config().kind),
        );
        RecoveryError::Source(SourceError::Unsupported { service, kind, need })
    }))
}
