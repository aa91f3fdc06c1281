//! The kill switch: while a home is frozen, no money leaves it.
//!
//! It is a file in the home, so that it can be set while another process works with the home, and holds across restarts until somebody lifts it.
//! What was signed before and has not gone out stays here as well, payments to sellers and fundings of channels among it. What brings money back still
//! runs: taking back a refused payment, refunds and closes of channels, claims.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Name of the file in the home.
const FILE: &str = "frozen";

/// Nothing is paid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Frozen {
    /// A person said so.
    #[error("the wallet is frozen: nothing is paid until `sensora wallet unfreeze`")]
    ByPerson,
    /// Whether it is frozen cannot be told, so it counts as frozen.
    #[error("whether the wallet is frozen cannot be read from {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The switch of one home. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Freeze {
    /// None for a node without a home: it cannot be frozen.
    file: Option<PathBuf>,
}

impl Freeze {
    /// The switch of the home at `root`.
    #[must_use]
    pub fn of(root: Option<&Path>) -> Self {
        Self { file: root.map(|root| root.join(FILE)) }
    }

    /// Nothing is to be paid while this fails. Asked for each payment, voucher or transaction: it is one look at the directory.
    ///
    /// # Errors
    /// [`Frozen`].
    pub fn check(&self) -> Result<(), Frozen> {
        let Some(path) = &self.file else { return Ok(()) };
        match fs::symlink_metadata(path) {
            Ok(_) => Err(Frozen::ByPerson),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(Frozen::Unreadable { path: path.clone(), source }),
        }
    }

    /// Freezes. Holds across a power cut when this returns.
    ///
    /// # Errors
    /// [`io::Error`].
    pub fn set(&self) -> io::Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
        file.write_all(
            b"No money leaves this home while this file is here: `sensora wallet unfreeze` takes it away.\n",
        )?;
        file.sync_all()?;
        sync_directory(path)
    }

    /// Lifts it. Says whether it was frozen.
    ///
    /// # Errors
    /// [`io::Error`].
    pub fn lift(&self) -> io::Result<bool> {
        let Some(path) = &self.file else { return Ok(false) };
        match fs::remove_file(path) {
            Ok(()) => sync_directory(path).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// A name in a directory is durable when the directory is.
fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_frozen_until_somebody_lifts_it() {
        let home = tempfile::tempdir().unwrap();
        let (here, elsewhere) = (Freeze::of(Some(home.path())), Freeze::of(Some(home.path())));
        here.check().unwrap();
        here.set().unwrap();
        here.set().unwrap();
        assert!(matches!(elsewhere.check(), Err(Frozen::ByPerson)));
        assert!(elsewhere.lift().unwrap());
        assert!(!here.lift().unwrap());
        here.check().unwrap();
    }

    #[test]
    fn where_it_cannot_be_told_it_is_frozen() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("no-directory");
        fs::write(&file, "").unwrap();
        assert!(matches!(Freeze::of(Some(&file)).check(), Err(Frozen::Unreadable { .. })));
    }

    #[test]
    fn without_a_home_nothing_is_frozen() {
        Freeze::default().check().unwrap();
    }
}
