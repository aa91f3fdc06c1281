//! Backups that a running node writes by itself: `wallet.backup_to`.

use std::path::PathBuf;
use std::time::Duration;

use sensora_chain::Network;
use sensora_protocol::Identity;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Backup, BackupError, Lock, Overwrite, refuse_richer, write_file};
use crate::clock::{Clock, Stopwatch};
use crate::store::Store;

/// How often it is looked whether anything has changed: a backup that is a minute old loses at most what came in during that minute.
pub const EVERY: Duration = Duration::from_secs(60);

/// A backup takes at most one part in this many of the time, however large the store has become.
const IDLE_PARTS: u32 = 50;

/// What a keeper works with.
#[derive(Clone)]
pub struct KeeperParts {
    /// Where the backup goes: another disk than the home's, or it is lost with it.
    pub path: PathBuf,
    /// What is kept.
    pub store: Store,
    /// Whose it is; its key locks the backup, so that the words open it.
    pub identity: Identity,
    /// The network.
    pub network: Network,
    /// The time.
    pub clock: Clock,
}

impl KeeperParts {
    /// Keeps the backup fresh in the background, until the task is stopped.
    pub fn start(self) -> KeeperTask {
        let cancel = CancellationToken::new();
        let task = tokio::spawn(Keeper::new(self).run(cancel.clone()));
        KeeperTask { cancel, task }
    }
}

/// A keeper at work.
#[must_use]
pub struct KeeperTask {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl KeeperTask {
    /// Writes what has changed one more time, and stops. To be called when nothing changes any more.
    pub async fn stop(self) {
        self.cancel.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the last backup was not written");
        }
    }
}

/// Writes a fresh backup after changes, at most each [`EVERY`], and a last one when the node stops. Locked with the node's own key: no passphrase
/// lies about, and the words open it.
pub struct Keeper {
    parts: KeeperParts,
    written: Option<[u8; 32]>,
}

impl Keeper {
    /// A keeper that has written nothing yet.
    #[must_use]
    pub fn new(parts: KeeperParts) -> Self {
        Self { parts, written: None }
    }

    /// Writes the backup if there is something that the last one does not have. Whether it was written.
    ///
    /// # Errors
    /// [`BackupError`]; [`BackupError::Exists`] where the path is taken by something that is no backup of this node,
    /// [`BackupError::KnowsMore`] by one that knows of more than the home does.
    pub fn write(&mut self) -> Result<bool, BackupError> {
        let KeeperParts { path, store, identity, network, clock } = &self.parts;
        let backup = Backup::take(store, *network, identity.public(), None, clock.now_ms())?;
        let fingerprint = backup.fingerprint()?;
        if self.written == Some(fingerprint) {
            return Ok(false);
        }
        let lock = Lock::Key(identity.key());
        // Later ones take the place of our own.
        if self.written.is_none() {
            refuse_richer(path, &backup, lock)?;
        }
        write_file(path, &backup.seal(lock)?, &backup, Overwrite::Own(lock))?;
        self.written = Some(fingerprint);
        Ok(true)
    }

    /// Keeps the backup fresh until cancelled. What fails is said once a minute and tried again.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            let (took, last) = (Stopwatch::start(), cancel.is_cancelled());
            // Reading and hashing take milliseconds, the disk may take longer: not on the runtime's own threads.
            let Ok((keeper, outcome)) = tokio::task::spawn_blocking(move || {
                let outcome = self.write();
                (self, outcome)
            })
            .await
            else {
                return;
            };
            self = keeper;
            match outcome {
                Ok(true) => tracing::debug!(path = %self.parts.path.display(), "the backup is fresh"),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(path = %self.parts.path.display(), %error, "no backup is written (wallet.backup_to)");
                }
            }
            if last {
                return;
            }
            let pause = EVERY.max(took.elapsed().saturating_mul(IDLE_PARTS));
            // One more time when the node stops, so that the file holds the last word.
            let _ = cancel.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
    }
}
