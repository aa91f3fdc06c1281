//! A disk that stops, fills up and forgets on command.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex};

use redb::StorageBackend;
use sensora_chain::Network;
use sensora_node::store::ads::{self, OwnAd};
use sensora_node::store::peers::{self, KnownPeer};
use sensora_node::store::{Store, StoreError};
use tokio::sync::watch;

use crate::world::identity;

/// What of a disk is there after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// What was synced: the power went, and nothing else had reached the disk.
    Synced,
    /// All that was written: the process was killed, the machine went on.
    Written,
    /// What was synced and, by the bits of this number, some of what was written after it: the power went in the middle.
    Torn(u64),
}

/// What a full disk still takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// What was written before can be written again.
    ForMore,
    /// Nothing.
    ForAll,
}

/// Bytes of a block.
const BLOCK: usize = 4096;

/// A storage that lives as long as one of its clones.
#[derive(Clone)]
pub(crate) struct Disk(Arc<Shared>);

struct Shared {
    image: Mutex<Image>,
    frozen: watch::Sender<bool>,
}

#[derive(Default)]
struct Image {
    live: Vec<u8>,
    synced: Vec<u8>,
    since: Vec<Change>,
    syncs: u64,
    freeze_at: Option<u64>,
    full: Option<Full>,
    /// Blocks that have been written, which most file systems can write again without more space.
    blocks: BTreeSet<usize>,
    /// How many more syncs report a failure although all is written.
    lying_syncs: u32,
}

#[derive(Clone)]
enum Change {
    Len(usize),
    Write(usize, Vec<u8>),
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Len(len) => image.resize(*len, 0),
            Self::Write(at, data) => {
                if image.len() < at + data.len() {
                    image.resize(at + data.len(), 0);
                }
                image[*at..at + data.len()].copy_from_slice(data);
            }
        }
    }
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self::of(Image::default())
    }

    fn of(image: Image) -> Self {
        Self(Arc::new(Shared { image: Mutex::new(image), frozen: watch::Sender::new(false) }))
    }

    /// From the `n`th sync from now on nothing works any more, that sync included.
    pub(crate) fn freeze_at_sync(&self, n: u64) {
        let mut image = self.image();
        image.freeze_at = Some(image.syncs + n);
    }

    /// It does not freeze from here on. Answers whether it has: asked apart, it could freeze in between.
    pub(crate) fn disarm(&self) -> bool {
        self.image().freeze_at = None;
        self.is_frozen()
    }

    pub(crate) fn is_frozen(&self) -> bool {
        *self.0.frozen.borrow()
    }

    /// Waits until it is frozen.
    pub(crate) async fn frozen(&self) {
        let mut frozen = self.0.frozen.subscribe();
        frozen.wait_for(|frozen| *frozen).await.unwrap();
    }

    /// Whether writing fails for lack of space.
    pub(crate) fn set_full(&self, full: Option<Full>) {
        self.image().full = full;
    }

    /// The next sync is done and says that it failed.
    pub(crate) fn lie_at_next_sync(&self) {
        self.image().lying_syncs = 1;
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.image().syncs
    }

    /// What is there when the machine starts again.
    pub(crate) fn after_crash(&self, kept: Kept) -> Self {
        let image = self.image();
        let mut found = image.synced.clone();
        for (index, change) in image.since.iter().enumerate() {
            let survives = match kept {
                Kept::Synced => false,
                Kept::Written => true,
                Kept::Torn(bits) => bits >> (index % 64) & 1 == 1,
            };
            if survives {
                change.apply(&mut found);
            }
        }
        Self::of(Image { live: found.clone(), synced: found, ..Image::default() })
    }

    pub(crate) fn store(&self, seed: u8) -> Result<Store, StoreError> {
        Store::with_backend(self.clone(), Network::Regtest, identity(seed).public())
    }

    fn image(&self) -> std::sync::MutexGuard<'_, Image> {
        self.0.image.lock().unwrap()
    }

    fn works(&self) -> Result<std::sync::MutexGuard<'_, Image>, Error> {
        if self.is_frozen() { Err(Error::other("the disk is frozen")) } else { Ok(self.image()) }
    }

    fn change(&self, change: Change) -> Result<(), Error> {
        let mut image = self.works()?;
        let blocks = match &change {
            Change::Len(len) => (0..0, *len > image.live.len()),
            Change::Write(at, data) => (at / BLOCK..(at + data.len()).div_ceil(BLOCK), false),
        };
        let more = blocks.1 || blocks.0.clone().any(|block| !image.blocks.contains(&block));
        match image.full {
            Some(Full::ForAll) => return Err(ErrorKind::StorageFull.into()),
            Some(Full::ForMore) if more => return Err(ErrorKind::StorageFull.into()),
            _ => image.blocks.extend(blocks.0),
        }
        change.apply(&mut image.live);
        image.since.push(change);
        Ok(())
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("syncs", &self.syncs()).finish_non_exhaustive()
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.works()?.live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let image = self.works()?;
        let found = image.live.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.change(Change::Len(len as usize))
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut image = self.works()?;
        image.syncs += 1;
        if image.freeze_at.is_some_and(|at| image.syncs >= at) {
            self.0.frozen.send_replace(true);
            return Err(Error::other("the disk is frozen"));
        }
        let since = std::mem::take(&mut image.since);
        since.iter().for_each(|change| change.apply(&mut image.synced));
        if image.lying_syncs > 0 {
            image.lying_syncs -= 1;
            return Err(Error::other("the sync failed"));
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.change(Change::Write(offset as usize, data.to_vec()))
    }
}

/// Stores a version, and each time a little more.
fn put(store: &Store, version: u64) -> Result<(), StoreError> {
    let peer = KnownPeer { peer: "x".repeat(8000), addresses: Vec::new() };
    let peers = vec![peer; usize::try_from(version % 1000).unwrap()];
    store.write(|tx| {
        peers::put(tx, &peers)?;
        ads::put_own(tx, &OwnAd { version, ..OwnAd::default() })
    })
}

fn version(store: &Store) -> u64 {
    store.read(ads::own).unwrap().version
}

#[test]
fn a_full_disk_fails_what_is_written_and_nothing_else() {
    for full in [Full::ForMore, Full::ForAll] {
        let disk = Disk::new();
        let store = disk.store(1).unwrap();
        put(&store, 1).unwrap();
        disk.set_full(Some(full));
        let failed = (2..500).find_map(|version| put(&store, version).err().map(|error| (version, error)));
        let (failed_at, error) = failed.unwrap();
        assert!(matches!(error, StoreError::DiskFull), "{error}");
        if full == Full::ForMore {
            assert_eq!(version(&store), failed_at - 1, "what is there can be read");
        }
        assert!(matches!(put(&store, 1000), Err(StoreError::DiskFull)));
        disk.set_full(None);
        assert_eq!(version(&store), failed_at - 1);
        put(&store, 1001).unwrap();
        assert_eq!(version(&store), 1001);
    }
}

#[test]
fn a_commit_that_reached_the_disk_before_its_sync_failed_is_no_failure() {
    for version_before in 1..20 {
        let disk = Disk::new();
        let store = disk.store(1).unwrap();
        put(&store, version_before).unwrap();
        disk.lie_at_next_sync();
        let reported = put(&store, 100).is_ok();
        assert_eq!(version(&store) == 100, reported, "the store says what is so");
        put(&store, 101).unwrap();
        drop(store);
        assert_eq!(version(&disk.store(1).unwrap()), 101);
    }
}

#[test]
fn every_crash_leaves_the_last_change_or_the_one_before() {
    for n in 1..12 {
        for kept in [Kept::Synced, Kept::Written, Kept::Torn(0x5555_5555), Kept::Torn(!0 >> 1), Kept::Torn(n)]
        {
            let disk = Disk::new();
            let store = disk.store(1).unwrap();
            disk.freeze_at_sync(n);
            let mut acknowledged = 0;
            for version in 1..100 {
                match put(&store, version) {
                    Ok(()) => acknowledged = version,
                    Err(_) => break,
                }
            }
            assert!(disk.is_frozen());
            let found = version(&disk.after_crash(kept).store(1).unwrap());
            assert!(found == acknowledged || found == acknowledged + 1, "{found} after {acknowledged}");
        }
    }
}
