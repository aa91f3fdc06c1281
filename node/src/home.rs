//! A node's directory: which files live there, and that only one process at a time uses them.
//!
//! One home is one node: its key, configuration and store. Two processes on one store would sell the same coin
//! twice, so [`Home::open`] takes a lock that the operating system releases when the process ends, however it ends.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// The environment variable that names the home.
pub const HOME_VARIABLE: &str = "SENSORA_HOME";

/// The least free space with which new work is taken on: enough for the store to finish what it has begun, to
/// close channels and to write its log, on the small cards that sensors run from.
pub const RESERVED_SPACE: u64 = 64 * 1024 * 1024;

/// A home that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// Neither `SENSORA_HOME` nor the user's home directory is known.
    #[error("no home directory is known: set {HOME_VARIABLE} or pass --home")]
    Unknown,
    /// There is no such directory.
    #[error("there is no Sensora home at {}: run `sensora init` to make one, or name another with --home", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The path is taken by something else.
    #[error("{} is not a directory: name another with --home", path.display())]
    NotADirectory {
        /// What is in the way.
        path: PathBuf,
    },
    /// Other users may change the home's files.
    #[error("other users can write to {} (mode {mode:o}), so they could replace the key: run `chmod 700 {}`", path.display(), path.display())]
    TooOpen {
        /// The home.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process has it open.
    #[error("{} is in use by {}: stop it first, or name another home with --home", path.display(), holder(*pid))]
    InUse {
        /// The home.
        path: PathBuf,
        /// The process that holds it, where it could be read.
        pid: Option<u32>,
    },
    /// Too little space is left to begin something new.
    #[error("only {free} bytes are free on the disk of {}, {wanted} are needed to go on safely: free some space", path.display())]
    DiskFull {
        /// The home.
        path: PathBuf,
        /// Bytes free for this user.
        free: u64,
        /// Bytes wanted.
        wanted: u64,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// The names of the files in a home, whether or not this process holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HomePaths {
    root: PathBuf,
}

impl HomePaths {
    /// The names below `root`; nothing is read or made.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The home to use when none was named: `$SENSORA_HOME`, else `.sensora` in the user's home directory.
    ///
    /// # Errors
    /// [`HomeError::Unknown`] where the environment tells neither.
    pub fn default_location() -> Result<Self, HomeError> {
        Self::from_variables(std::env::var_os(HOME_VARIABLE), std::env::home_dir())
    }

    fn from_variables(sensora: Option<OsString>, user: Option<PathBuf>) -> Result<Self, HomeError> {
        match (sensora.filter(|value| !value.is_empty()), user.filter(|path| !path.as_os_str().is_empty())) {
            (Some(named), _) => Ok(Self::new(named)),
            (None, Some(user)) => Ok(Self::new(user.join(".sensora"))),
            (None, None) => Err(HomeError::Unknown),
        }
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The configuration, `config.toml`.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The key file, `key`.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.root.join("key")
    }

    /// The node's store, `store.redb`.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.root.join("store.redb")
    }

    /// The block headers that were checked, `headers.bin`. They are fetched again where the file is lost.
    #[must_use]
    pub fn headers(&self) -> PathBuf {
        self.root.join("headers.bin")
    }

    /// The embedded development chain, `dev-chain.redb`.
    #[must_use]
    pub fn dev_chain(&self) -> PathBuf {
        self.root.join("dev-chain.redb")
    }

    /// The lock, `lock`; it holds the pid of the process that has the home open.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    fn io(&self, action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError + use<> {
        let path = path.to_owned();
        move |source| HomeError::Io { action, path, source }
    }
}

/// A home that this process holds; dropping it releases the lock.
#[derive(Debug)]
pub struct Home {
    paths: HomePaths,
    /// Held for its lock.
    _lock: File,
}

impl Home {
    /// Makes the directory if it is not there (mode 0700) and opens it.
    ///
    /// # Errors
    /// As [`Home::open`], and where the directory cannot be made.
    pub fn create(paths: HomePaths) -> Result<Self, HomeError> {
        make_private_directory(paths.root()).map_err(paths.io("make", paths.root()))?;
        Self::open(paths)
    }

    /// Opens an existing home and locks it for this process.
    ///
    /// # Errors
    /// [`HomeError::Missing`], [`HomeError::NotADirectory`], [`HomeError::TooOpen`] where other users may write to it,
    /// [`HomeError::InUse`] where another process (or another part of this one) holds it.
    pub fn open(paths: HomePaths) -> Result<Self, HomeError> {
        let metadata = match fs::metadata(paths.root()) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(HomeError::Missing { path: paths.root });
            }
            Err(error) => return Err(paths.io("read", paths.root())(error)),
        };
        if !metadata.is_dir() {
            return Err(HomeError::NotADirectory { path: paths.root });
        }
        if let Some(mode) = mode_of(&metadata).filter(|mode| mode & 0o022 != 0) {
            return Err(HomeError::TooOpen { path: paths.root, mode });
        }
        let lock = take_lock(&paths)?;
        Ok(Self { paths, _lock: lock })
    }

    /// The names of the files in it.
    #[must_use]
    pub fn paths(&self) -> &HomePaths {
        &self.paths
    }

    /// Bytes that this user may still write on the home's disk.
    ///
    /// # Errors
    /// Where the operating system does not tell.
    pub fn free_space(&self) -> Result<u64, HomeError> {
        free_space(self.paths.root()).map_err(self.paths.io("read the free space of", self.paths.root()))
    }

    /// Says whether new work of about `bytes` may be taken on, leaving [`RESERVED_SPACE`] for what is under way.
    ///
    /// # Errors
    /// [`HomeError::DiskFull`] where it may not. A disk that does not tell its free space is not held against the node.
    pub fn require_space(&self, bytes: u64) -> Result<(), HomeError> {
        let wanted = bytes.saturating_add(RESERVED_SPACE);
        match self.free_space() {
            Ok(free) if free < wanted => {
                Err(HomeError::DiskFull { path: self.paths.root.clone(), free, wanted })
            }
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::debug!(%error, "the free space is not known");
                Ok(())
            }
        }
    }
}

fn take_lock(paths: &HomePaths) -> Result<File, HomeError> {
    let path = paths.lock();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    private(&mut options);
    let mut file = options.open(&path).map_err(paths.io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // What is there may be half written or foreign; then the holder is simply not named.
            let read = (&file).take(32).read_to_string(&mut text);
            let pid = read.ok().and_then(|_| text.trim().parse().ok());
            return Err(HomeError::InUse { path: paths.root.clone(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(paths.io("lock", &path)(error)),
    }
    // The lock alone excludes; the pid is for whoever reads the error, so a full disk does not matter here.
    let written =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = written {
        tracing::debug!(%error, "the pid is not written to the lock");
    }
    Ok(file)
}

/// Bytes that this user may still write on the disk of `path`.
///
/// # Errors
/// Where the operating system does not tell.
#[cfg(unix)]
pub fn free_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes that this user may still write on the disk of `path`.
///
/// # Errors
/// Where the operating system does not tell.
#[cfg(not(unix))]
pub fn free_space(path: &Path) -> io::Result<u64> {
    let path = path.canonicalize()?;
    let disks = sysinfo::Disks::new_with_refreshed_list().map_err(io::Error::other)?;
    disks
        .iter()
        .filter(|disk| path.starts_with(disk.mount_point()))
        .max_by_key(|disk| disk.mount_point().as_os_str().len())
        .map(sysinfo::Disk::available_space)
        .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(unix)]
fn make_private_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(not(unix))]
fn make_private_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// The permission bits, where the system has them.
#[cfg(unix)]
pub(crate) fn mode_of(metadata: &fs::Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    Some(metadata.permissions().mode() & 0o7777)
}

/// The permission bits, where the system has them.
#[cfg(not(unix))]
pub(crate) fn mode_of(_metadata: &fs::Metadata) -> Option<u32> {
    None
}

/// Lets only the owner read and write the file about to be made.
#[cfg(unix)]
pub fn private(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt as _;
    options.mode(0o600);
}

/// Lets only the owner read and write the file about to be made.
#[cfg(not(unix))]
pub fn private(_options: &mut OpenOptions) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_made_private_and_held_by_one() {
        let directory = tempfile::tempdir().unwrap();
        let paths = HomePaths::new(directory.path().join("a/b"));
        assert!(matches!(Home::open(paths.clone()), Err(HomeError::Missing { .. })));

        let home = Home::create(paths.clone()).unwrap();
        #[cfg(unix)]
        assert_eq!(mode_of(&fs::metadata(paths.root()).unwrap()), Some(0o700));
        let error = Home::open(paths.clone()).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, HomeError::InUse { pid: Some(pid), .. } if pid == std::process::id()),
            "{text}"
        );
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        drop(home);
        drop(Home::open(paths.clone()).unwrap());

        // A lock file left by a process that is gone does not lock, whatever it holds.
        fs::write(paths.lock(), b"\xff\xfenot a pid at all, and rather longer than one").unwrap();
        let _home = Home::open(paths.clone()).unwrap();
        assert_eq!(fs::read_to_string(paths.lock()).unwrap().trim(), std::process::id().to_string());
    }

    #[cfg(unix)]
    #[test]
    fn a_home_that_others_can_change_is_refused_with_the_command_that_mends_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = Home::open(HomePaths::new(directory.path())).unwrap_err();
        assert!(error.to_string().contains(&format!("chmod 700 {}", directory.path().display())), "{error}");
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Home::open(HomePaths::new(file)), Err(HomeError::NotADirectory { .. })));
    }

    #[test]
    fn space_is_refused_before_it_runs_out() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::create(HomePaths::new(directory.path().join("home"))).unwrap();
        assert!(home.free_space().unwrap() > 0);
        assert!(matches!(home.require_space(u64::MAX), Err(HomeError::DiskFull { .. })));
    }

    #[test]
    fn the_variable_comes_before_the_users_directory() {
        let user = Some(PathBuf::from("/u"));
        let paths = HomePaths::from_variables(Some("/x".into()), user.clone()).unwrap();
        assert_eq!(paths.root(), Path::new("/x"));
        let paths = HomePaths::from_variables(Some(OsString::new()), user).unwrap();
        assert_eq!(paths.root(), Path::new("/u/.sensora"));
        assert!(matches!(HomePaths::from_variables(None, None), Err(HomeError::Unknown)));
    }
}
