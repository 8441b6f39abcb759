//! The write-ahead log alone: time of one group commit of 1, 16 or 256 entries of 256 bytes, its
//! release and the preparation of the next segment included; `elem/s` is entries a second.
//!
//! - `mem`: on `MemDisk`, the log's own work (encoding, checksums) and a map's;
//! - `file`: real files in the directory for temporary files, without syncs: plus the kernel's copy;
//! - `fsync`: real files with syncs, which is what a put waits for. It measures the disk.

use std::time::Duration;

use cairn_core::wal::{Append, Disk, HardState, LogEntry, MemDisk, Metadata, Wal, WalOptions};
use cairn_server::wal_disk::FsDisk;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};

/// Entries that are kept before the log is released behind them.
const KEPT: u64 = 20_000;
const GROUPS: [u64; 3] = [1, 16, 256];

fn append(first: u64, count: u64) -> Append {
    let entries = (first..first + count)
        .map(|index| LogEntry { term: 1, index, data: vec![7; 256].into(), ..LogEntry::default() })
        .collect();
    let hard_state = Some(HardState { term: 1, vote: 1, commit: first - 1 });
    Append { log_start: None, entries, hard_state }
}

fn group<D: Disk>(group: &mut BenchmarkGroup<'_, WallTime>, disk: impl Fn() -> D, fsync: bool) {
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(3));
    for count in GROUPS {
        let metadata = Metadata { cluster_id: 1, member_id: 1 };
        let options = WalOptions { fsync, ..WalOptions::default() };
        let mut wal = Wal::create(disk(), metadata, &append(1, 1), options).expect("the disk works");
        let mut next = 2;
        group.throughput(Throughput::Elements(count));
        group.bench_function(count.to_string(), |b| {
            b.iter(|| {
                wal.append(&append(next, count)).expect("the disk works");
                next += count;
                if next / KEPT != (next - count) / KEPT {
                    wal.release(next.saturating_sub(KEPT)).expect("the disk works");
                }
                wal.prepare_next().expect("the disk works");
            });
        });
    }
}

fn wal(criterion: &mut Criterion) {
    let mut mem = criterion.benchmark_group("wal/mem");
    group(&mut mem, MemDisk::new, true);
    mem.finish();
    for (name, fsync) in [("wal/file", false), ("wal/fsync", true)] {
        let directory = tempfile::tempdir().expect("there is a directory for temporary files");
        let number = std::cell::Cell::new(0);
        let open = || {
            number.set(number.get() + 1);
            FsDisk::open(&directory.path().join(number.get().to_string())).expect("the disk works")
        };
        let mut files = criterion.benchmark_group(name);
        group(&mut files, open, fsync);
        files.finish();
    }
}

criterion_group!(benches, wal);
criterion_main!(benches);
