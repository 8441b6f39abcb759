//! What the log promises, against a disk that loses, tears and rots.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;

use super::codec::{BATCHES_OFFSET, BatchHead, batch_len, sectors};
use super::log::{parse_segment_name, segment_name, segment_names};
use super::*;
use crate::rng::Rng;

const METADATA: Metadata = Metadata { cluster_id: 0xc1, member_id: 0xa1 };

mod repair;

fn options(segment_bytes: u64) -> WalOptions {
    WalOptions { segment_bytes, fsync: true }
}

fn entry(term: u64, index: u64, data: &[u8]) -> LogEntry {
    LogEntry { term, index, kind: EntryKind::Normal, data: Bytes::copy_from_slice(data) }
}

fn entries(term: u64, indexes: std::ops::RangeInclusive<u64>, len: usize) -> Append {
    let data = |index| vec![index as u8; len];
    Append { entries: indexes.map(|index| entry(term, index, &data(index))).collect(), ..Append::default() }
}

fn hard_state(term: u64, vote: u64, commit: u64) -> Append {
    Append { hard_state: Some(HardState { term, vote, commit }), ..Append::default() }
}

/// What the log must hold: the same rules, with none of the machinery.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    start: LogStart,
    entries: Vec<LogEntry>,
    hard_state: HardState,
    released: u64,
}

impl Model {
    fn with(appends: &[Append]) -> Self {
        let mut model = Self::default();
        appends.iter().for_each(|append| model.apply(append));
        model
    }

    fn last(&self) -> u64 {
        self.start.index + self.entries.len() as u64
    }

    fn apply(&mut self, append: &Append) {
        if let Some(start) = append.log_start {
            self.start = start;
            self.entries.clear();
        }
        if let Some(first) = append.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend(append.entries.iter().cloned());
        }
        self.hard_state = append.hard_state.unwrap_or(self.hard_state);
    }

    /// The log may begin later than the model, by what was released.
    fn matches(&self, recovered: &Recovered) -> bool {
        let start = recovered.log_start;
        let dropped = start.index.wrapping_sub(self.start.index) as usize;
        let start_known = if dropped == 0 {
            start == self.start
        } else {
            start.index > self.start.index
                && start.index <= self.released
                && self.entries.get(dropped - 1).is_some_and(|entry| entry.term == start.term)
        };
        start_known
            && recovered.entries == self.entries[dropped..]
            && recovered.hard_state == self.hard_state
            && recovered.metadata == METADATA
    }
}

fn write(disk: &MemDisk, options: WalOptions, appends: &[Append]) -> Wal<MemDisk> {
    let mut wal = Wal::create(disk.clone(), METADATA, &appends[0], options).unwrap();
    for append in &appends[1..] {
        wal.append(append).unwrap();
    }
    wal
}

fn reopen(disk: &MemDisk, options: WalOptions) -> Recovered {
    Wal::open(disk.clone(), options).unwrap().1
}

/// Where the segment's batches are, without the filling after each.
fn batches(bytes: &[u8]) -> Vec<Range<usize>> {
    let (mut found, mut offset) = (Vec::new(), BATCHES_OFFSET as usize);
    while let Some(head) = BatchHead::decode(&bytes[offset..]) {
        found.push(offset..offset + head.len as usize);
        offset += sectors(head.len) as usize;
    }
    found
}

#[test]
fn holds_what_was_appended() {
    let disk = MemDisk::new();
    let snapshot = Append { log_start: Some(LogStart { index: 20, term: 4 }), ..hard_state(4, 0, 20) };
    let conf = LogEntry { kind: EntryKind::ConfChange, ..entry(5, 21, b"") };
    let appends = [
        hard_state(1, 7, 0),
        entries(1, 1..=9, 100),
        entries(2, 5..=6, 3),
        hard_state(2, 0, 5),
        snapshot,
        Append { entries: vec![conf, entry(5, 22, b"x")], ..hard_state(5, 7, 21) },
    ];
    for upto in 1..=appends.len() {
        let disk = MemDisk::new();
        assert!(!Wal::exists(&disk).unwrap());
        write(&disk, WalOptions::default(), &appends[..upto]);
        assert!(Wal::exists(&disk).unwrap());
        let recovered = reopen(&disk, WalOptions::default());
        assert_eq!(recovered.tail, TailReport::Clean);
        assert!(Model::with(&appends[..upto]).matches(&recovered), "{upto}: {recovered:?}");
    }
    assert_eq!(Wal::open(disk, WalOptions::default()).unwrap_err(), WalError::Missing);
}

#[test]
fn create_refuses_a_directory_with_a_log() {
    let disk = MemDisk::new();
    write(&disk, WalOptions::default(), &[Append::default()]);
    let refused = Wal::create(disk, METADATA, &Append::default(), WalOptions::default()).unwrap_err();
    assert_eq!(refused, WalError::Exists { file: segment_name(1, 1) });
}

#[test]
fn starting_costs_little_and_preparing_is_done_in_steps() {
    let disk = MemDisk::new();
    let mut wal = write(&disk, WalOptions::default(), &[Append::default()]);
    assert!(disk.bytes(&segment_name(1, 1)).unwrap().len() <= 2 << 20);
    let mut steps = 1;
    while wal.prepare_next().unwrap() {
        steps += 1;
    }
    assert_eq!(steps, 16);
    assert!(!wal.prepare_next().unwrap(), "there is nothing more to prepare");
}

#[test]
fn segments_are_cut_released_and_recycled() {
    let disk = MemDisk::new();
    let options = options(8192);
    let mut wal = write(&disk, options, &[Append::default()]);
    let mut appended = Vec::new();
    for index in 1..=400 {
        let append = entries(1, index..=index, 700);
        let stats = wal.append(&append).unwrap();
        assert_eq!(stats.bytes, sectors(batch_len(&append)));
        appended.push(append);
        if index % 40 == 0 {
            while wal.prepare_next().unwrap() {}
        }
        if index % 100 == 0 {
            wal.release(index - 10).unwrap();
        }
    }
    let names = disk.list().unwrap();
    let spares = names.iter().filter(|name| name.ends_with(".spare")).count();
    assert!((1..=4).contains(&spares), "{names:?}");
    assert!(names.len() <= 4 + 4, "{names:?}");
    assert!(names.iter().all(|name| disk.bytes(name).unwrap().len() as u64 <= options.segment_bytes));
    let model = Model { released: 390, ..Model::with(&appended) };
    let recovered = reopen(&disk, options);
    assert!(recovered.log_start.index > 370 && model.matches(&recovered), "{:?}", recovered.log_start);
}

#[test]
fn an_append_may_be_larger_than_a_segment() {
    let disk = MemDisk::new();
    let appends = [entries(1, 1..=3, 10), entries(1, 4..=5, 50_000), entries(1, 6..=6, 10)];
    let mut wal = write(&disk, options(4096), &appends);
    assert!(Model::with(&appends).matches(&reopen(&disk, options(4096))));
    wal.append(&hard_state(1, 0, 6)).unwrap();
    wal.release(6).unwrap();
    assert!(disk.list().unwrap().iter().all(|name| disk.bytes(name).unwrap().len() <= 4096));
}

#[test]
fn release_after_a_replaced_tail_keeps_the_right_start() {
    let disk = MemDisk::new();
    let mut appends = vec![entries(1, 1..=4, 700), entries(1, 5..=8, 500), entries(1, 9..=9, 3000)];
    appends.push(entries(2, 7..=7, 10));
    appends.push(hard_state(2, 0, 7));
    let mut wal = write(&disk, options(6144), &appends);
    let before = segment_names(&disk).unwrap().len();
    wal.release(6).unwrap();
    assert!(segment_names(&disk).unwrap().len() < before);
    let recovered = reopen(&disk, options(6144));
    assert_eq!(recovered.log_start, LogStart { index: 6, term: 1 });
    assert_eq!(recovered.entries, appends[3].entries);
}

#[test]
fn a_failed_sync_poisons_the_log_and_is_not_trusted_after_a_restart() {
    let disk = MemDisk::new();
    let appends = [entries(1, 1..=3, 10), entries(1, 4..=4, 2000)];
    let mut wal = write(&disk, WalOptions::default(), &appends[..1]);
    disk.fail_syncs(1);
    let failed = wal.append(&appends[1]).unwrap_err();
    assert!(matches!(&failed, WalError::Io { op: "sync", .. }), "{failed:?}");
    let poisoned = WalError::Poisoned { cause: failed.to_string() };
    assert_eq!(wal.append(&appends[1]).unwrap_err(), poisoned);
    assert_eq!(wal.seal().unwrap_err(), poisoned);
    assert_eq!(wal.release(1).unwrap_err(), poisoned);
    assert_eq!(wal.prepare_next().unwrap_err(), poisoned);
    drop(wal);

    // The cache still shows the batch and calls it clean; opening must make it durable again.
    let lost = disk.duplicate();
    lost.crash(&mut Rng::new(1));
    assert!(Model::with(&appends[..1]).matches(&reopen(&lost, WalOptions::default())));
    assert!(Model::with(&appends).matches(&reopen(&disk, WalOptions::default())));
    disk.crash(&mut Rng::new(1));
    assert!(Model::with(&appends).matches(&reopen(&disk, WalOptions::default())));
}

#[test]
fn rot_before_a_later_batch_is_not_cut_but_told() {
    let disk = MemDisk::new();
    let mut wal = write(&disk, WalOptions::default(), &[entries(3, 1..=4, 900)]);
    let name = segment_name(1, 1);
    let rot =
        |disk: &MemDisk| disk.damage(&name, |bytes| bytes[BATCHES_OFFSET as usize + 96 + 932 + 500] ^= 1);

    let unsealed = disk.duplicate();
    rot(&unsealed);
    let recovered = reopen(&unsealed, WalOptions::default());
    assert_eq!(recovered.entries, []);
    assert!(matches!(recovered.tail, TailReport::Torn { offset: BATCHES_OFFSET, .. }));
    assert_eq!(reopen(&unsealed, WalOptions::default()).tail, TailReport::Clean, "it was cut for good");

    let syncs = disk.syncs();
    wal.seal().unwrap();
    wal.seal().unwrap();
    assert_eq!(disk.syncs(), syncs + 1, "a sealed log stays as it is");
    rot(&disk);
    let recovered = reopen(&disk, WalOptions::default());
    assert_eq!((recovered.entries.len(), recovered.damaged.len(), recovered.tail), (4, 1, TailReport::Clean));
    let damaged = &recovered.damaged[0];
    assert_eq!((damaged.id, damaged.data_len), (EntryId { term: 3, index: 2 }, 900));
    assert_eq!((&damaged.file, damaged.offset), (&name, BATCHES_OFFSET + 96 + 932));
    let text = damaged.error().to_string();
    assert!(
        text.contains(&name) && text.contains("index 2, term 3") && text.contains("remove this member"),
        "{text}"
    );
    assert_eq!(reopen(&disk, WalOptions::default()).damaged, recovered.damaged, "it stays until repaired");
}

#[test]
fn missing_and_foreign_segments_are_refused() {
    let disk = MemDisk::new();
    let appends: Vec<Append> = (1..=12).map(|index| entries(1, index..=index, 1500)).collect();
    write(&disk, options(4096), &appends);
    let names = segment_names(&disk).unwrap();
    assert!(names.len() >= 4);
    for gone in &names[1..] {
        let copy = disk.duplicate();
        copy.remove(gone).unwrap();
        let refused = Wal::open(copy, options(4096)).unwrap_err();
        assert!(matches!(refused, WalError::Corrupt { .. }), "{gone}: {refused:?}");
    }
    // Without the first, the log only begins later, which the caller compares with what it applied.
    let copy = disk.duplicate();
    copy.remove(&names[0]).unwrap();
    let (_, first) = parse_segment_name(&names[1]).unwrap();
    assert_eq!(reopen(&copy, options(4096)).log_start.index + 1, first);

    let copy = disk.duplicate();
    copy.rename(&names[3], &segment_name(9, 1)).unwrap();
    assert!(matches!(Wal::open(copy, options(4096)).unwrap_err(), WalError::Corrupt { offset: 0, .. }));

    let other = MemDisk::new();
    let foreign = Metadata { member_id: 0xb2, ..METADATA };
    let mut wal = Wal::create(other.clone(), foreign, &appends[0], options(4096)).unwrap();
    for append in &appends[1..] {
        wal.append(append).unwrap();
    }
    let bytes = other.bytes(&names[2]).unwrap();
    disk.damage(&names[2], |old| old.clone_from(&bytes));
    let refused = Wal::open(disk, options(4096)).unwrap_err();
    assert_eq!(
        refused,
        WalError::MetadataMismatch { file: names[2].clone(), expected: METADATA, found: foreign }
    );
}

#[test]
fn one_copy_of_a_header_is_enough_and_the_other_is_restored() {
    let disk = MemDisk::new();
    let appends = [entries(1, 1..=3, 10)];
    write(&disk, WalOptions::default(), &appends);
    let name = segment_name(1, 1);
    for start in [0, 512] {
        disk.damage(&name, |bytes| bytes[start..start + 512].fill(0xff));
        assert!(Model::with(&appends).matches(&reopen(&disk, WalOptions::default())));
    }
    disk.damage(&name, |bytes| bytes[..1024].fill(0));
    let refused = Wal::open(disk, WalOptions::default()).unwrap_err();
    assert!(matches!(refused, WalError::Corrupt { offset: 0, .. }));
}

/// A change of these bytes is a change of the format: it needs a new version number, and code that
/// still reads the old one.
#[test]
fn the_format_is_pinned() {
    let disk = MemDisk::new();
    let conf = LogEntry { kind: EntryKind::ConfChange, ..entry(2, 6, b"conf") };
    let first = Append { log_start: Some(LogStart { index: 5, term: 1 }), ..hard_state(1, 0xa1, 5) };
    let second = Append { entries: vec![conf, entry(2, 7, b"")], ..hard_state(2, 0xb2, 6) };
    write(&disk, WalOptions::default(), &[first, second]).seal().unwrap();
    assert_eq!(disk.list().unwrap(), ["0000000000000001-0000000000000001.wal"]);
    let bytes = disk.bytes(&segment_name(1, 1)).unwrap();
    let hex = |range: Range<usize>| bytes[range].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let parts = [0..92, 512..604, 1024..1156, 1536..1792, 2048..2180];
    let found: Vec<String> = parts.iter().map(|part| hex(part.clone())).collect();
    assert_eq!(found, GOLDEN);
    let rest = (0..bytes.len()).filter(|at| !parts.iter().any(|part| part.contains(at)));
    assert!(rest.into_iter().all(|at| bytes[at] == 0));
}

const GOLDEN: [&str; 5] = [
    "434149524e57414c010000000100000000000000c100000000000000a100000000000000000000000000000000000000\
     000000000000000000000000000000000000000000000000000000000000000000000000000000008d3ea0d1",
    "434149524e57414c010000000100000000000000c100000000000000a100000000000000000000000000000000000000\
     000000000000000000000000000000000000000000000000000000000000000000000000000000008d3ea0d1",
    "4342415470e7186a010000000000000000000000000000008d3ea0d18d3ea0d101000000000000008400000000000000\
     0500000000000000010000000000000001000000000000000100000000000000a1000000000000000500000000000000\
     0100000000000000a10000000000000005000000000000000000000043454e447006e313",
    "43424154e2fe5ba2010000000000000001000000000000007006e3138d3ea0d100000000020000000001000000000000\
     0000000000000000000000000000000001000000000000000200000000000000b2000000000000000600000000000000\
     020000000000000006000000000000000400000000000000010000004510debc636f6e66020000000000000007000000\
     00000000000000000000000000000000402b5f620200000000000000060000000000000060000000000000004510debc\
     020000000000000007000000000000008400000000000000402b5f620200000000000000b20000000000000006000000\
     000000000200000043454e44d682d204",
    "43424154d3bede3c01000000000000000200000000000000d682d2048d3ea0d100000000000000008400000000000000\
     0000000000000000000000000000000002000000000000000200000000000000b2000000000000000600000000000000\
     0200000000000000b20000000000000006000000000000000000000043454e444781b64f",
];

/// Every byte of a log of two segments, flipped one at a time.
#[test]
fn no_flipped_bit_goes_unnoticed() {
    let appends = [
        Append { entries: entries(1, 1..=3, 120).entries, ..hard_state(1, 7, 0) },
        entries(1, 4..=4, 900),
        hard_state(2, 9, 3),
        entries(2, 4..=5, 700),
        Append { entries: entries(2, 6..=7, 30).entries, ..hard_state(3, 0, 5) },
    ];
    for sealed in [false, true] {
        let disk = MemDisk::new();
        let mut wal = write(&disk, options(5120), &appends);
        if sealed {
            wal.seal().unwrap();
        }
        let names = segment_names(&disk).unwrap();
        assert_eq!(names.len(), 2);
        let (all, but_last) = (Model::with(&appends), Model::with(&appends[..appends.len() - 1]));
        let (mut repaired, mut mended, mut cut, mut harmless) = (0, 0, 0, 0);
        for name in &names {
            let bytes = disk.bytes(name).unwrap();
            let mut needed = batches(&bytes);
            let end = sectors(needed.last().unwrap().end as u64) as usize;
            if sealed || name == &names[0] {
                needed.pop().expect("the seal or the end marker");
            }
            let last_batch = needed.last().unwrap().start;
            for (at, byte) in bytes.iter().enumerate().take(end) {
                let copy = disk.duplicate();
                copy.damage(name, |bytes| bytes[at] ^= 1 << (at % 8));
                let is_needed = needed.iter().any(|batch| batch.contains(&at));
                let (mut wal, recovered) =
                    Wal::open(copy.clone(), options(5120)).unwrap_or_else(|error| panic!("{at}: {error}"));
                match recovered.damaged.first() {
                    Some(damaged) => {
                        assert!(is_needed, "{name} {at}: nothing was damaged");
                        let entry = all.entries.iter().find(|entry| damaged.is(entry)).unwrap();
                        wal.repair(&[(damaged.clone(), entry.clone())]).unwrap();
                        assert!(all.matches(&reopen(&copy, options(5120))), "{name} {at}");
                        assert_eq!(copy.bytes(name).unwrap()[at], *byte, "{name} {at}");
                        repaired += 1;
                    }
                    // Another copy said the same, or the entry was replaced later.
                    None if all.matches(&recovered) && is_needed => mended += 1,
                    None if all.matches(&recovered) => harmless += 1,
                    None => {
                        assert!(
                            !sealed && name == &names[1] && at >= last_batch,
                            "{name} {at}: cut what was durable"
                        );
                        assert!(but_last.matches(&recovered), "{name} {at}: {recovered:?}");
                        assert_ne!(recovered.tail, TailReport::Clean, "{name} {at}");
                        cut += 1;
                    }
                }
            }
        }
        let counts = format!("{repaired} {mended} {cut} {harmless}");
        assert!(repaired > 1500 && mended > 1000 && harmless > 2048 && (cut > 0) != sealed, "{counts}");
    }
}

/// The power goes at every step of creating a log.
#[test]
fn a_log_is_created_whole_or_not_at_all() {
    let first = Append { entries: entries(1, 1..=5, 400).entries, ..hard_state(1, 7, 0) };
    let mut outcomes = BTreeSet::new();
    for changes in 0..12 {
        for seed in 0..40 {
            let disk = MemDisk::new();
            disk.stop_after(changes);
            let created = Wal::create(disk.clone(), METADATA, &first, options(8192)).is_ok();
            disk.crash(&mut Rng::derive(seed, &[changes]));
            let exists = Wal::exists(&disk).unwrap();
            assert!(exists || !created);
            if exists {
                assert!(Model::with(std::slice::from_ref(&first)).matches(&reopen(&disk, options(8192))));
            } else {
                write(&disk, options(8192), std::slice::from_ref(&first));
            }
            outcomes.insert((created, exists));
        }
    }
    assert_eq!(outcomes.len(), 3, "neither, named but not returned, returned");
}

fn random_append(rng: &mut Rng, model: &Model) -> Append {
    let mut state = model.hard_state;
    let (mut first, mut log_start) = (model.last() + 1, None);
    if rng.chance(1, 12) {
        let index = state.commit + rng.below(12);
        let term = model.entries.last().map_or(model.start.term, |entry| entry.term).max(state.term);
        log_start = Some(LogStart { index, term });
        state = HardState { term: state.term.max(term), vote: state.vote, commit: index };
        first = index + 1;
    } else if rng.chance(1, 4) && model.last() > state.commit {
        first = state.commit + 1 + rng.below(model.last() - state.commit);
        state = HardState { term: state.term + 1, vote: rng.below(4), commit: state.commit };
    }
    let most = [0, 1, 2, 6][rng.below(4) as usize];
    let count = if most == 0 { 0 } else { 1 + rng.below(most) };
    let entries = (first..first + count).map(|index| {
        let len = if rng.chance(1, 30) { 9000 } else { rng.below(500) };
        let data: Vec<u8> = (0..len).map(|_| rng.next_u64() as u8).collect();
        let kind = if rng.chance(1, 8) { EntryKind::ConfChange } else { EntryKind::Normal };
        LogEntry { kind, ..entry(state.term, index, &data) }
    });
    let entries: Vec<LogEntry> = entries.collect();
    let last = if entries.is_empty() && log_start.is_none() { model.last() } else { first + count - 1 };
    if rng.chance(1, 2) && last > state.commit {
        state.commit += rng.below(last - state.commit + 1);
    }
    let changed = state != model.hard_state || rng.chance(1, 4);
    Append { log_start, entries, hard_state: changed.then_some(state) }
}

/// Random use with the power failing at random steps, while the log is opened too.
fn survive(seed: u64) -> (usize, usize) {
    let mut rng = Rng::new(seed);
    let options = options(4096 << rng.below(3));
    let disk = MemDisk::new();
    let mut model = Model::default();
    let mut wal = Wal::create(disk.clone(), METADATA, &Append::default(), options).unwrap();
    let (mut torn, mut recycled) = (0, 0);
    for _ in 0..8 {
        disk.stop_after(rng.below(120));
        let mut after = model.clone();
        for _ in 0..200 {
            let done = match rng.below(12) {
                0 => wal.seal(),
                1 => wal.prepare_next().map(drop),
                2 => {
                    let index = rng.below(model.hard_state.commit + 1);
                    model.released = model.released.max(index);
                    after.released = model.released;
                    wal.release(index)
                }
                _ => {
                    let append = random_append(&mut rng, &model);
                    after.apply(&append);
                    wal.append(&append).map(drop)
                }
            };
            if done.is_err() {
                break;
            }
            model = after.clone();
        }
        recycled += disk.list().unwrap().iter().filter(|name| name.ends_with(".spare")).count();
        drop(wal);
        // A process that dies alone leaves the cache as it is.
        if rng.chance(5, 6) {
            disk.crash(&mut rng);
        } else {
            disk.stop_after(u64::MAX);
        }
        let recovered;
        (wal, recovered) = loop {
            if rng.chance(1, 3) {
                disk.stop_after(rng.below(4));
                match Wal::open(disk.clone(), options) {
                    Ok(_) | Err(WalError::Io { .. }) => {}
                    Err(other) => panic!("seed {seed}: {other}"),
                }
                disk.crash(&mut rng);
            } else {
                break Wal::open(disk.clone(), options)
                    .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            }
        };
        torn += usize::from(recovered.tail != TailReport::Clean);
        if after.matches(&recovered) {
            model = after;
        }
        assert!(model.matches(&recovered), "seed {seed}:\n{model:?}\n{recovered:?}");
    }
    (torn, recycled)
}

const SEEDS: u64 = 300;

#[test]
fn every_returned_append_survives_crashes() {
    let (mut torn, mut recycled) = (0, 0);
    for seed in 0..SEEDS {
        let seen = survive(seed);
        torn += seen.0;
        recycled += seen.1;
    }
    assert!(torn > 20 && recycled > 100, "the runs did not reach what they are for: {torn} {recycled}");
}

#[test]
#[should_panic(expected = "leaves no gap")]
fn a_gap_is_refused() {
    let mut wal = write(&MemDisk::new(), WalOptions::default(), &[entries(1, 1..=3, 1)]);
    let _ = wal.append(&entries(1, 5..=5, 1));
}

#[test]
#[should_panic(expected = "the hard state would go back")]
fn a_second_vote_in_a_term_is_refused() {
    let mut wal = write(&MemDisk::new(), WalOptions::default(), &[hard_state(2, 7, 0)]);
    let _ = wal.append(&hard_state(2, 8, 0));
}
