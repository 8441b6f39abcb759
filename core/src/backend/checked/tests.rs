use std::sync::Mutex;

use bytes::Bytes;

use super::*;
use crate::backend::redb::{RedbBackend, RedbOptions};
use crate::backend::{Backend, Batch, Table};
use crate::error::Fatal;
use crate::rng::Rng;

#[derive(Clone, Debug)]
enum Op {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

fn apply(image: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write(offset, data) => image[*offset as usize..][..data.len()].copy_from_slice(data),
        Op::SetLen(len) => image.resize(*len as usize, 0),
        Op::Sync => {}
    }
}

/// A file in memory that can be looked at, damaged, and watched.
#[derive(Clone, Debug, Default)]
struct Disk {
    image: Arc<Mutex<Vec<u8>>>,
    ops: Arc<Mutex<Vec<Op>>>,
}

impl Disk {
    fn holding(image: &[u8]) -> Self {
        Self { image: Arc::new(Mutex::new(image.to_vec())), ops: Arc::default() }
    }

    fn image(&self) -> Vec<u8> {
        self.image.lock().unwrap().clone()
    }

    fn flip(&self, at: usize, bits: u8) {
        self.image.lock().unwrap()[at] ^= bits;
    }

    fn change(&self, op: Op) -> io::Result<()> {
        apply(&mut self.image.lock().unwrap(), &op);
        self.ops.lock().unwrap().push(op);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.image.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.image.lock().unwrap();
        let data = image.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(data.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Op::SetLen(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(Op::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Op::Write(offset, data.to_vec()))
    }
}

type Rows = Vec<(Table, Bytes, Bytes)>;

fn open(disk: &Disk) -> Result<RedbBackend, Fatal> {
    RedbBackend::open(disk.clone(), RedbOptions { cache_bytes: 0, ..RedbOptions::default() })
}

fn commit(backend: &RedbBackend, step: u8) {
    let mut changes = Vec::new();
    for table in Table::ALL {
        for number in 0..40_u8 {
            let key = Bytes::from(format!("{table:?}-{number:03}"));
            let value = vec![step; if number == 7 { 9000 } else { 60 }];
            changes.push((table, key, (number % 8 != step).then(|| Bytes::from(value))));
        }
    }
    backend.commit(&Batch { changes }).unwrap();
}

fn commit_empty(backend: &RedbBackend) -> Result<(), Fatal> {
    backend.commit(&Batch { changes: vec![(Table::Meta, Bytes::from_static(b"empty"), Some(Bytes::new()))] })
}

/// Every row, by the ranges and again one by one.
fn read_all(backend: &RedbBackend) -> Result<Rows, Fatal> {
    let view = backend.view()?;
    let mut rows = Vec::new();
    for table in Table::ALL {
        for row in view.range(table, Bound::Unbounded, Bound::Unbounded)? {
            let (key, value) = row?;
            assert_eq!(view.get(table, &key)?.as_ref(), Some(&value));
            rows.push((table, key, value));
        }
    }
    Ok(rows)
}

fn open_and_read(image: &[u8]) -> Result<Rows, Fatal> {
    open(&Disk::holding(image)).and_then(|backend| read_all(&backend))
}

/// Bytes that no check covers: what is left of the first block, and of the head's block.
fn is_unused(at: u64) -> bool {
    let record = RECORD as u64..(RECORD + RECORD_LEN) as u64;
    ((12..BLOCK).contains(&at) && !record.contains(&at)) || (place(0) + HEAD as u64..place(1)).contains(&at)
}

fn flips_are_told(image: &[u8], expected: &Rows, step: usize) {
    let block_size = BLOCK as usize;
    let (mut told, mut harmless) = (0, 0);
    for (number, block) in image.chunks(block_size).enumerate() {
        // Most of a young file is empty: one look at every tenth such block is enough.
        let empty = block.iter().all(|byte| *byte == 0);
        if empty && number % 10 != 0 {
            continue;
        }
        for within in (number % step..block_size).step_by(if empty { block_size } else { step }) {
            let at = number * block_size + within;
            let mut damaged = image.to_vec();
            damaged[at] ^= 1 << (at % 8);
            match open_and_read(&damaged) {
                Ok(rows) => {
                    assert!(rows == *expected, "the flip at {at} changed what is read");
                    harmless += 1;
                }
                Err(fatal) => {
                    assert!(!is_unused(at as u64), "{at}: {fatal}");
                    assert!(fatal.0.contains("offset") && fatal.0.contains("snapshot"), "{at}: {fatal}");
                    told += 1;
                }
            }
        }
    }
    assert!(told > 100 && harmless > 0, "{told} told, {harmless} harmless");
}

#[test]
fn a_flipped_byte_is_never_served() {
    let disk = Disk::default();
    let backend = open(&disk).unwrap();
    for step in 0..3 {
        commit(&backend, step);
    }
    let expected = read_all(&backend).unwrap();
    // As the loss of the process leaves the file, and as an orderly stop does.
    let killed = disk.image();
    drop(backend);
    flips_are_told(&killed, &expected, 307);
    flips_are_told(&disk.image(), &expected, 331);
}

#[test]
fn the_heads_are_checked_to_their_ends() {
    let disk = Disk::default();
    let backend = open(&disk).unwrap();
    commit(&backend, 1);
    commit(&backend, 2);
    let expected = read_all(&backend).unwrap();
    drop(backend);
    let image = disk.image();
    let head = place(0) as usize;
    for at in (0..12).chain((head..head + HEAD).step_by(3)) {
        let mut damaged = image.clone();
        damaged[at] ^= 1 << (at % 8);
        let fatal = open_and_read(&damaged).expect_err("a damaged head");
        assert!(fatal.0.contains("offset"), "{at}: {fatal}");
    }
    assert_eq!(open_and_read(&image).unwrap(), expected);
}

#[test]
fn damage_under_an_open_database_names_the_table_and_the_key() {
    let disk = Disk::default();
    let backend = open(&disk).unwrap();
    commit(&backend, 1);
    drop(backend);
    let image = disk.image();
    let rows: Vec<usize> = (0..image.len() - 9).filter(|at| image[*at..].starts_with(b"Index-002")).collect();
    assert!(!rows.is_empty());
    // In the key, and in what lies behind the keys: the values.
    for (ahead, bits) in [(3, 0x20), (600, 1)] {
        let disk = Disk::holding(&image);
        let backend = open(&disk).unwrap();
        let view = backend.view().unwrap();
        rows.iter().for_each(|at| disk.flip(at + ahead, bits));
        // The engine reads no more after an error, and the first is told again.
        for key in [b"Index-002", b"Index-003"] {
            let fatal = view.get(Table::Index, key).unwrap_err();
            let named = format!("table Index, key {}:", key.escape_ascii());
            assert!(fatal.0.contains(&named) && fatal.0.contains("at offset"), "{fatal}");
        }
        let fatal = commit_empty(&backend).unwrap_err();
        assert!(fatal.0.contains("committing") && fatal.0.contains("at offset"), "{fatal}");
    }
}

#[test]
fn what_is_of_another_format_is_refused() {
    let plain = Disk::default();
    drop(redb::Builder::new().create_with_backend(plain.clone()).unwrap());
    let fatal = open(&plain).unwrap_err();
    assert!(fatal.0.contains("magic number is \"redb"), "{fatal}");
    let disk = Disk::default();
    drop(open(&disk).unwrap());
    disk.flip(8, 2);
    let fatal = open(&disk).unwrap_err();
    assert!(fatal.0.contains("its format is 3, and this program reads format 1 only"), "{fatal}");
    let image = disk.image();
    for len in [100, 5000, image.len() - 1, image.len() - 4096] {
        disk.flip(8, 2);
        let fatal = open_and_read(&disk.image()[..len]).unwrap_err();
        assert!(len == image.len() - 4096 || fatal.0.contains("truncated"), "{len}: {fatal}");
        disk.flip(8, 2);
    }
}

/// A process may end, and a machine stop, between any two operations: of those that no sync has
/// confirmed any may be missing. What was committed before is there, or what was being committed.
/// The engine takes a file that ends early for one that was about to grow, and then meets what is not
/// there (simulated, seed 204).
#[test]
fn a_file_that_was_cut_off_is_refused() {
    let disk = Disk::default();
    let backend = open(&disk).unwrap();
    commit(&backend, 1);
    commit(&backend, 2);
    drop(backend);
    let image = disk.image();
    for blocks in 1..image.len() / BLOCK as usize {
        let error = open(&Disk::holding(&image[..blocks * BLOCK as usize])).unwrap_err();
        assert!(error.0.contains("truncated"), "{blocks}: {error}");
    }
    // A file that was written before it told its length is read as before.
    let mut old = image;
    old[RECORD..RECORD + RECORD_LEN].fill(0);
    assert!(!open_and_read(&old).unwrap().is_empty());
}

#[test]
fn a_crash_at_any_operation_leaves_a_sound_file() {
    let disk = Disk::default();
    let backend = open(&disk).unwrap();
    commit(&backend, 0);
    let mut states = vec![read_all(&backend).unwrap()];
    let base = disk.image();
    disk.ops.lock().unwrap().clear();
    for step in 1..4 {
        commit(&backend, step);
        states.push(read_all(&backend).unwrap());
    }
    drop(backend);
    let ops = std::mem::take(&mut *disk.ops.lock().unwrap());
    let mut rng = Rng::new(7);
    let mut synced = base;
    let mut since: Vec<Op> = Vec::new();
    let mut oldest = 0;
    for op in &ops {
        since.push(op.clone());
        let mut whole = synced.clone();
        since.iter().for_each(|op| apply(&mut whole, op));
        let found = open_and_read(&whole).unwrap();
        let position = states.iter().position(|state| *state == found).expect("a committed state");
        assert!(position >= oldest, "a commit is gone");
        for _ in 0..3 {
            let mut torn = synced.clone();
            for op in &since {
                if matches!(op, Op::SetLen(_)) || rng.chance(1, 2) {
                    apply(&mut torn, op);
                }
            }
            let found = open_and_read(&torn).unwrap();
            assert!(states[oldest..].contains(&found), "a commit is gone with the power");
        }
        if matches!(op, Op::Sync) {
            (synced, oldest) = (whole, position);
            since.clear();
        }
    }
    assert_eq!(oldest, 3, "the last commit was seen");
}

#[test]
fn blocks_find_their_places_across_groups() {
    let disk = Disk::default();
    let checked = Checked::new(disk.clone(), Arc::default(), true).unwrap();
    let blocks = 2 * GROUP + 10;
    checked.set_len(blocks * BLOCK).unwrap();
    let data: Vec<u8> = (0..20 * BLOCK).map(|at| (at / 100) as u8).collect();
    for first in [GROUP - 10, 2 * GROUP - 10] {
        checked.write(first * BLOCK, &data).unwrap();
    }
    checked.sync_data().unwrap();
    let again = Checked::new(disk.clone(), Arc::default(), true).unwrap();
    assert_eq!(StorageBackend::len(&again).unwrap(), blocks * BLOCK);
    let mut out = vec![0; data.len()];
    for first in [GROUP - 10, 2 * GROUP - 10] {
        again.read(first * BLOCK, &mut out).unwrap();
        assert!(out == data);
    }
    // What is cut off and grown again is empty.
    again.set_len((2 * GROUP - 5) * BLOCK).unwrap();
    again.set_len(blocks * BLOCK).unwrap();
    let mut block = vec![1; BLOCK as usize];
    again.read(2 * GROUP * BLOCK, &mut block).unwrap();
    assert!(block.iter().all(|byte| *byte == 0));
    // A block in another's place is noticed though it is whole.
    let mut image = disk.image();
    let (from, to) = (place(GROUP - 10) as usize, place(GROUP + 3) as usize);
    image.copy_within(from..from + BLOCK as usize, to);
    let moved = Checked::new(Disk::holding(&image), Arc::default(), true).unwrap();
    assert!(moved.read((GROUP + 3) * BLOCK, &mut block).is_err());
}
