//! The key index on disk: how the cost of one key depends on how many there are.
//!
//! - `index/get/KEYS`: time of one read of a random key among KEYS; `elem/s` is reads a second;
//! - `index/put/KEYS`: time of 10,000 puts of 16 bytes to random ones of KEYS keys, with the flush of all
//!   of them into the file at the end (the syncs do nothing); `elem/s` is puts a second.
//!
//! The engine has its usual cache, so with 10,000,000 keys most reads miss it and are served by
//! the kernel's. Writing those keys takes minutes: they are written once, into a folder
//! `cairn-bench-index-*` in the directory for temporary files (1 to 2 GB), and kept there for the next run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::api::{PutRequest, RangeRequest};
use cairn_core::backend::Backend;
use cairn_core::backend::redb::{RedbBackend, RedbOptions};
use cairn_core::mvcc::{Store, StoreOptions};
use cairn_core::rng::Rng;
use cairn_server::backend_file::BackendFile;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

const SIZES: [u64; 4] = [10_000, 100_000, 1_000_000, 10_000_000];
/// With fewer keys the file is made anew for each run.
const KEPT_FROM: u64 = 10_000_000;
/// Another layout of the keys or of the file needs another number.
const VERSION: u32 = 1;
const PUTS: u64 = 10_000;
/// Rows of one flush while the keys are written: more than the node's, because they come in order.
const FILL_ROWS: u64 = 500_000;

struct Bench {
    store: Store,
    backend: Arc<dyn Backend>,
    rng: Rng,
    keys: u64,
}

fn key(number: u64) -> Bytes {
    format!("bench/{number:010}").into()
}

impl Bench {
    fn open(file: &Path, keys: u64) -> Self {
        let (file, _) = BackendFile::open(file).expect("the directory for temporary files is writable");
        let options = RedbOptions { fsync: false, ..RedbOptions::default() };
        let backend: Arc<dyn Backend> =
            Arc::new(RedbBackend::open(file, options).expect("the file is sound"));
        let store = Store::open(backend.clone(), StoreOptions::default()).expect("the store opens");
        Self { store, backend, rng: Rng::new(1), keys }
    }

    fn put(&mut self, number: u64) {
        let put = PutRequest { key: key(number), value: vec![7; 16].into(), ..PutRequest::default() };
        self.store.put(&put, &|_| true).expect("the disk works").result.expect("a sound put");
    }

    fn flush(&mut self) {
        let flush = self.store.take_flush().expect("there is something to flush");
        self.backend.commit(&flush.into_batch()).expect("the disk works");
        self.store.flushed().expect("the disk works");
    }

    fn fill(&mut self) {
        for number in 0..self.keys {
            self.put(number);
            if (number + 1) % FILL_ROWS == 0 || number + 1 == self.keys {
                self.flush();
            }
        }
    }

    fn puts(&mut self) {
        for _ in 0..PUTS {
            let number = self.rng.below(self.keys);
            self.put(number);
        }
        self.flush();
    }

    fn get(&mut self) {
        let range = RangeRequest { key: key(self.rng.below(self.keys)), ..RangeRequest::default() };
        let ranged = self.store.view().range(&range, None).expect("the disk works");
        ranged.expect("a sound range");
    }
}

/// The file with the keys, written if it is not there.
fn kept(keys: u64) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("cairn-bench-index-{keys}-v{VERSION}"));
    let (file, complete) = (folder.join("db"), folder.join("complete"));
    if !complete.exists() {
        eprintln!("index: writing {keys} keys into {}, once", folder.display());
        // What is there was not finished.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("the directory for temporary files is writable");
        Bench::open(&file, keys).fill();
        std::fs::write(&complete, "").expect("the directory for temporary files is writable");
    }
    file
}

fn index(criterion: &mut Criterion) {
    // `cargo test --benches` only tries whether everything runs.
    let tried = std::env::args().any(|argument| argument == "--test");
    let mut group = criterion.benchmark_group("index");
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));
    // As many runs in each sample: the usual growing numbers make five times as many of long ones.
    group.sampling_mode(SamplingMode::Flat);
    let sizes = if tried { &SIZES[..1] } else { &SIZES };
    for &keys in sizes {
        let directory = tempfile::tempdir().expect("there is a directory for temporary files");
        let mut bench = if keys >= KEPT_FROM {
            Bench::open(&kept(keys), keys)
        } else {
            let mut bench = Bench::open(&directory.path().join("db"), keys);
            bench.fill();
            bench
        };
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("get/{keys}"), |b| b.iter(|| bench.get()));
        group.throughput(Throughput::Elements(PUTS));
        group.bench_function(format!("put/{keys}"), |b| b.iter(|| bench.puts()));
    }
    group.finish();
}

criterion_group!(benches, index);
criterion_main!(benches);
