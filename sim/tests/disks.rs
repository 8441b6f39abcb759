//! What the simulated disk promises and what its faults do, and that the log and the engine on it tell
//! every damage or are not hurt by it.

use cairn_core::backend::mem::MemBackend;
use cairn_core::backend::{Batch, Table};
use cairn_core::rng::Rng;
use cairn_core::wal::{Append, Disk, DiskFile, HardState, LogEntry, Metadata, Recovered, Wal, WalOptions};
use cairn_sim::disk::{Engine, Folder, SimDisk, Store, WalDir};
use cairn_sim::fault::Fault;

const OPTIONS: WalOptions = WalOptions { segment_bytes: 8 << 10, fsync: true };
const ENGINE: Engine = Engine::Redb { cache_bytes: 0 };

fn append(index: u64) -> Append {
    let data = vec![index as u8; 100 + (index as usize * 37) % 900];
    let entry = LogEntry { term: 1, index, data: data.into(), ..LogEntry::default() };
    let hard_state = HardState { term: 1, vote: 2, commit: index - 1 };
    Append { entries: vec![entry], hard_state: Some(hard_state), ..Append::default() }
}

fn directory(disk: &SimDisk) -> WalDir {
    WalDir::new(disk.clone(), disk.begin())
}

fn log(disk: &SimDisk, entries: u64) -> Wal<WalDir> {
    let mut wal =
        Wal::create(directory(disk), Metadata::default(), &append(1), OPTIONS).expect("the disk is empty");
    for index in 2..=entries {
        wal.append(&append(index)).expect("the disk is sound");
    }
    wal
}

fn open(disk: &SimDisk) -> Result<Recovered, String> {
    Wal::open(directory(disk), OPTIONS).map(|(_, found)| found).map_err(|error| error.to_string())
}

fn batch(step: u8) -> Batch {
    let row = |number: u8| {
        let key = format!("key {number:03}").into_bytes().into();
        (Table::Index, key, Some(vec![step; 50 + usize::from(number)].into()))
    };
    Batch { changes: (0..60).map(row).collect() }
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn rows(disk: &SimDisk) -> Result<Rows, String> {
    let store = Store::open(ENGINE, disk, disk.begin(), &MemBackend::new()).map_err(|fatal| fatal.0)?;
    let view = store.backend().view().map_err(|fatal| fatal.0)?;
    let (from, to) = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    let rows = view.range(Table::Index, from, to).map_err(|fatal| fatal.0)?;
    rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(|fatal| fatal.0)).collect()
}

#[test]
fn what_the_log_acknowledged_survives_the_loss_of_power_at_any_change() {
    let mut torn = 0;
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::new(Rng::derive(seed, &[1]));
        disk.garble(seed % 2 == 0);
        let mut wal = log(&disk, 10);
        disk.end_after(Some(rng.below(60)));
        let mut acknowledged = 10;
        while wal.append(&append(acknowledged + 1)).is_ok() {
            acknowledged += 1;
        }
        disk.end();
        disk.power_off();
        let found = open(&disk).unwrap();
        let expected: Vec<LogEntry> = (1..=acknowledged).flat_map(|index| append(index).entries).collect();
        assert_eq!(found.entries[..expected.len()], expected, "seed {seed}");
        assert!(found.entries.len() <= expected.len() + 1, "seed {seed}");
        torn += u64::from(found.tail != cairn_core::wal::TailReport::Clean);
    }
    assert!(torn > 10, "only {torn} batches were torn: this proves nothing");
}

#[test]
fn what_the_engine_committed_survives_the_loss_of_power_at_any_change() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::new(Rng::derive(seed, &[2]));
        Store::create(ENGINE, &disk, disk.begin(), &MemBackend::new(), &batch(0)).unwrap();
        let store = Store::open(ENGINE, &disk, disk.begin(), &MemBackend::new()).unwrap();
        disk.end_after(Some(rng.below(120)));
        let mut committed = 0;
        while store.commit(&batch(committed + 1)).is_ok() {
            committed += 1;
        }
        disk.end();
        disk.power_off();
        let found = rows(&disk).unwrap();
        let step = found[0].1[0];
        assert!(step == committed || step == committed + 1, "seed {seed}: {step}, {committed} was committed");
        assert!(found.len() == 60 && found.iter().all(|(_, value)| value[0] == step), "seed {seed}");
    }
}

#[test]
fn a_name_is_durable_once_its_folder_was_synced() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..40 {
        let disk = SimDisk::new(Rng::new(seed));
        let folder = directory(&disk);
        folder.create("synced").unwrap();
        folder.sync_dir().unwrap();
        folder.create("created").unwrap();
        disk.power_off();
        let names = disk.list(Folder::Wal);
        assert!(names.contains(&"synced".to_owned()));
        *if names.contains(&"created".to_owned()) { &mut kept } else { &mut lost } += 1;
    }
    assert!(kept > 5 && lost > 5, "{kept} {lost}");
}

#[test]
fn a_sync_that_failed_leaves_the_cache_new_the_disk_old_and_the_next_sync_content() {
    let disk = SimDisk::new(Rng::new(1));
    let folder = directory(&disk);
    let file = folder.create("f").unwrap();
    folder.sync_dir().unwrap();
    file.write_all_at(0, &[1; 2048]).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(0, &[2; 2048]).unwrap();
    disk.fail_syncs(1);
    assert!(!disk.errors().io);
    file.sync_data().unwrap_err();
    assert!(disk.errors().io && !disk.errors().full);
    file.sync_data().unwrap();
    assert_eq!(disk.bytes(Folder::Wal, "f").unwrap(), [2; 2048]);
    disk.power_off();
    assert_eq!(disk.bytes(Folder::Wal, "f").unwrap(), [1; 2048]);
}

#[test]
fn a_full_disk_says_so_and_has_space_again() {
    let disk = SimDisk::new(Rng::new(1));
    let file = directory(&disk).create("f").unwrap();
    file.write_all_at(0, &[0; 1000]).unwrap();
    disk.leave_space(Some(500));
    file.write_all_at(500, &[0; 1000]).unwrap();
    let error = file.write_all_at(1500, &[0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert!(disk.errors().full && !disk.errors().io);
    disk.leave_space(None);
    file.write_all_at(1500, &[0; 1]).unwrap();
}

#[test]
fn a_sector_that_cannot_be_read_can_be_written() {
    let disk = SimDisk::new(Rng::new(3));
    let folder = directory(&disk);
    let file = folder.create("0000000000000001-0000000000000001.wal").unwrap();
    file.write_all_at(0, &[7; 512]).unwrap();
    file.sync_data().unwrap();
    disk.damage(Fault::ReadFails, Folder::Wal).unwrap();
    let mut bytes = [0; 512];
    assert!(file.read_at(0, &mut bytes).is_err() && file.read_at(0, &mut bytes).is_err());
    assert!(!disk.is_readable());
    file.write_all_at(0, &[8; 512]).unwrap();
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), 512);
    assert_eq!(bytes, [8; 512]);
}

#[test]
fn a_process_that_ended_reaches_nothing() {
    let disk = SimDisk::new(Rng::new(1));
    let folder = directory(&disk);
    let file = folder.create("f").unwrap();
    disk.end();
    assert!(file.write_all_at(0, &[1]).is_err() && file.len().is_err());
    assert!(folder.create("g").is_err() && folder.rename("f", "h").is_err());
}

/// The log either tells the damage, be it of a few entries, or gives everything back.
#[test]
fn the_log_tells_every_damage() {
    let kinds: Vec<Fault> = Fault::ALL.into_iter().filter(|fault| fault.damages()).collect();
    let mut told = 0;
    for fault in kinds {
        for seed in 0..25 {
            let disk = SimDisk::new(Rng::derive(seed, &[4, fault as u64]));
            let mut wal = log(&disk, 40);
            wal.seal().unwrap();
            drop(wal);
            disk.end();
            if fault == Fault::Wipe {
                disk.wipe();
            } else if disk.damage(fault, Folder::Wal).is_none() {
                continue;
            }
            match open(&disk) {
                Err(text) => {
                    assert!(text.starts_with("write-ahead log: "), "{fault:?} {seed}: {text}");
                    told += 1;
                }
                // A file that was cut off after a whole batch looks like one that ended there.
                Ok(_) if fault == Fault::FileTruncated => {}
                Ok(found) => {
                    let expected: Vec<LogEntry> = (1..=40).flat_map(|index| append(index).entries).collect();
                    // Segments that are missing at the front are the engine's to miss.
                    let start = found.log_start.index as usize;
                    assert_eq!(found.entries.len(), expected[start..].len(), "{fault:?} {seed}");
                    for (entry, expected) in found.entries.iter().zip(&expected[start..]) {
                        let damaged = found.damaged.iter().any(|damaged| damaged.id.index == expected.index);
                        assert!(damaged || entry == expected, "{fault:?} {seed}: entry {}", expected.index);
                    }
                    told += usize::from(!found.damaged.is_empty());
                }
            }
        }
    }
    assert!(told > 60, "{told}");
}

#[test]
fn the_engine_tells_every_damage() {
    let mut told = 0;
    for fault in Fault::ALL.into_iter().filter(|fault| fault.damages()) {
        for seed in 0..25 {
            let disk = SimDisk::new(Rng::derive(seed, &[5, fault as u64]));
            Store::create(ENGINE, &disk, disk.begin(), &MemBackend::new(), &batch(0)).unwrap();
            let store = Store::open(ENGINE, &disk, disk.begin(), &MemBackend::new()).unwrap();
            let older = disk.duplicate();
            for step in 1..=5 {
                store.commit(&batch(step)).unwrap();
            }
            disk.end();
            drop(store);
            let done = match fault {
                Fault::Wipe => {
                    disk.wipe();
                    true
                }
                Fault::Rollback => disk.roll_back(&older),
                _ => disk.damage(fault, Folder::Snap).is_some(),
            };
            match rows(&disk) {
                Err(text) => {
                    assert!(done, "{text}");
                    assert!(text.contains("snap/db") || text.contains("state database"), "{fault:?}: {text}");
                    told += 1;
                }
                Ok(found) => {
                    // A file that was put back as a whole, or without its last write, is an older state.
                    let step = found[0].1[0];
                    let whole = found.len() == 60 && found.iter().all(|(_, value)| value[0] == step);
                    let older = matches!(fault, Fault::Rollback | Fault::WriteLost | Fault::WriteMisdirected);
                    assert!(whole && (step == 5 || older), "{fault:?} {seed}: {step} of 5 commits");
                }
            }
        }
    }
    assert!(told > 60, "{told}");
}
