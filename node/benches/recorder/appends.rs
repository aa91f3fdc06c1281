//! Durable appends in turn with what they are made of, so that whatever else the disk has to do meanwhile falls on all alike.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use redb::{Database, TableDefinition};

use super::Recording;

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
/// Bytes of the record of one reading in the open chunk, without its key.
const ROW: [u8; 40] = [7; 40];

/// Prints how long appending takes, beside the same number of rows in the bare store, and one page that is written to a file and synced.
pub(super) fn print_times(rounds: u32) {
    println!("durable appends, {rounds} rounds, in turn with the bare store and the bare disk");
    println!(
        "{:<32} {:>9} {:>9} {:>9} {:>14} {:>12}",
        "readings", "p50 ms", "p90", "p99", "readings/s", "to the store"
    );
    for count in [1, 100, 1000, 4096] {
        let (mut recording, bare, disk) = (Recording::new(), Bare::new(), Disk::new());
        let mut took: [Vec<Duration>; 3] = Default::default();
        for round in 0..rounds {
            let readings = recording.sensor.readings(count);
            let began = Instant::now();
            recording.recorder.append(vec![(recording.stream, readings)]).unwrap();
            let appended = Instant::now();
            bare.append(u64::from(round) * count as u64, count as u64);
            let committed = Instant::now();
            disk.sync();
            let synced = committed.elapsed();
            let times = [appended - began, committed - appended, synced];
            took.iter_mut().zip(times).for_each(|(all, one)| all.push(one));
        }
        took.iter_mut().for_each(|all| all.sort_unstable());
        let sums = took.each_ref().map(|all| all.iter().sum::<Duration>().as_secs_f64());
        let at = |which: usize, part: f64| {
            took[which][((rounds - 1) as f64 * part).round() as usize].as_secs_f64()
        };
        for (which, name) in ["recorder", "bare store", "bare disk"].into_iter().enumerate() {
            println!(
                "{:<32} {:>9.2} {:>9.2} {:>9.2} {:>14.0} {:>12.2}",
                format!("{count:>4} {name}"),
                at(which, 0.5) * 1000.0,
                at(which, 0.9) * 1000.0,
                at(which, 0.99) * 1000.0,
                (count * rounds as usize) as f64 / sums[which],
                at(which, 0.5) / at(1, 0.5),
            );
        }
    }
    println!();
}

/// The store without anything of ours: rows as long as those of the open chunk.
struct Bare {
    db: Database,
    _folder: tempfile::TempDir,
}

impl Bare {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let db = Database::builder().set_cache_size(4 << 20).create(folder.path().join("bare.redb")).unwrap();
        Self { db, _folder: folder }
    }

    fn append(&self, first: u64, count: u64) {
        let tx = self.db.begin_write().unwrap();
        {
            let mut table = tx.open_table(ROWS).unwrap();
            for number in first..first + count {
                let key = [[0; 16].as_slice(), &number.to_be_bytes()].concat();
                table.insert(key.as_slice(), ROW.as_slice()).unwrap();
            }
        }
        tx.commit().unwrap();
    }
}

/// A file of a mebibyte.
struct Disk(File);

impl Disk {
    fn new() -> Self {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![0; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        Self(file)
    }

    fn sync(&self) {
        let mut file = &self.0;
        file.seek(SeekFrom::Start(4096)).unwrap();
        file.write_all(&[1; 4096]).unwrap();
        file.sync_data().unwrap();
    }
}
