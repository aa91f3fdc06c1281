//! The file on disk: whole or not at all, for its owner's eyes, never in the place of something else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::{Backup, BackupError, Lock, MAX_BACKUP};
use crate::home::private;

/// What may stand where the backup is to be.
#[derive(Clone, Copy, Debug)]
pub enum Overwrite<'a> {
    /// Nothing, or an earlier backup of the same node that this opens.
    Own(Lock<'a>),
    /// Anything.
    Anything,
}

/// Reads a backup's file.
///
/// # Errors
/// [`BackupError::Missing`], [`BackupError::TooLong`], [`BackupError::Io`].
pub fn read_file(path: &Path) -> Result<Vec<u8>, BackupError> {
    let io = |action| move |source| BackupError::Io { action, path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BackupError::Missing { path: path.to_owned() });
        }
        Err(error) => return Err(io("open")(error)),
    };
    let limit = u64::try_from(MAX_BACKUP).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(io("read"))?;
    match u64::try_from(bytes.len()) {
        Ok(len) if len <= limit => Ok(bytes),
        len => Err(BackupError::TooLong { len: len.unwrap_or(u64::MAX) }),
    }
}

/// Refuses to put `backup` in the place of one of the same node that knows of more: a new home, or one that was put back from an older backup,
/// must not take the place of what it still has to learn from. Where nothing of this node is that `lock` opens there is nothing to refuse.
///
/// # Errors
/// [`BackupError::KnowsMore`].
pub fn refuse_richer(path: &Path, backup: &Backup, lock: Lock<'_>) -> Result<(), BackupError> {
    let found = read_file(path).and_then(|file| Backup::open(&file, lock));
    let Ok(found) = found else { return Ok(()) };
    if !found.is_of(backup) {
        return Ok(());
    }
    let missing = found.transactions()?.difference(&backup.transactions()?).count();
    if missing > 0 { Err(BackupError::KnowsMore { path: path.to_owned(), missing }) } else { Ok(()) }
}

/// Writes a sealed backup of `backup`'s node to `path`, mode 0600: after a crash there is the old file or the new one.
///
/// # Errors
/// [`BackupError::Exists`], [`BackupError::Io`].
pub fn write_file(
    path: &Path,
    sealed: &[u8],
    backup: &Backup,
    overwrite: Overwrite<'_>,
) -> Result<(), BackupError> {
    if let Overwrite::Own(lock) = overwrite
        && fs::symlink_metadata(path).is_ok()
    {
        let found = read_file(path).and_then(|file| Backup::open(&file, lock));
        if !found.is_ok_and(|found| found.is_of(backup)) {
            return Err(BackupError::Exists { path: path.to_owned() });
        }
    }
    let beside = beside(path)?;
    let written = write_beside(&beside, sealed).and_then(|()| {
        fs::rename(&beside, path).map_err(|source| BackupError::Io {
            action: "replace",
            path: path.to_owned(),
            source,
        })
    });
    if written.is_err() {
        // What is half written is of no use to anybody; that it cannot be removed changes nothing.
        let _ = fs::remove_file(&beside);
        return written;
    }
    // Makes the new name itself durable; file systems that cannot do so are no reason to fail.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(directory) = File::open(directory) {
        directory.sync_all().ok();
    }
    Ok(())
}

/// A name in the same directory that nobody else has: the rename must stay on one file system.
fn beside(path: &Path) -> Result<PathBuf, BackupError> {
    let name = path.file_name().ok_or_else(|| BackupError::Io {
        action: "write",
        path: path.to_owned(),
        source: io::Error::from(io::ErrorKind::IsADirectory),
    })?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.new", std::process::id()));
    Ok(path.with_file_name(beside))
}

fn write_beside(beside: &Path, sealed: &[u8]) -> Result<(), BackupError> {
    let io = |action| move |source| BackupError::Io { action, path: beside.to_owned(), source };
    // What an interrupted attempt of a process with our number left was never in use.
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io("remove")(error)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    private(&mut options);
    let mut file = options.open(beside).map_err(io("make"))?;
    file.write_all(sealed).and_then(|()| file.sync_all()).map_err(io("write"))
}
