//! The multi-version store alone: no log, no consensus, no wire.
//!
//! - `put`: time of 10,000 puts of 128 bytes to random ones of 100,000 keys, with one flush to the
//!   backend at the end, as the node does after 50,000 rows; `elem/s` is puts a second.
//! - `range/1`, `range/100`: time of one range of that many keys, half of them in the overlay.
//! - `txn`: time of 1,000 transactions of one compare, one put and one range, with the same flush;
//! - `compaction`: time of the physical compaction of 10,000 changes that other puts have superseded, in
//!   batches of 1,000 rows; `elem/s` is changes a second.
//!
//! Backends: `mem` (ordered maps) and `redb` (the engine on memory: its code without a disk).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_core::api::{
    Compare, CompareResult, CompareTarget, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use cairn_core::backend::Backend;
use cairn_core::backend::mem::MemBackend;
use cairn_core::backend::redb::{RedbBackend, RedbOptions};
use cairn_core::mvcc::{Store, StoreOptions, compact_batch};
use cairn_core::rng::Rng;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

const KEYS: u64 = 100_000;
const PUTS: u64 = 10_000;
const TXNS: u64 = 1_000;
const COMPACT_ROWS: usize = 1_000;

struct Bench {
    store: Store,
    backend: Arc<dyn Backend>,
    rng: Rng,
    value: Bytes,
}

fn key(number: u64) -> Bytes {
    format!("bench/{number:010}").into()
}

impl Bench {
    /// A store whose keys are in the backend, and every second one again in the overlay.
    fn new(backend: Arc<dyn Backend>) -> Self {
        let store = Store::open(backend.clone(), StoreOptions::default()).expect("an empty store opens");
        let mut bench = Self { store, backend, rng: Rng::new(1), value: vec![7; 128].into() };
        for number in 0..KEYS {
            bench.put(number);
            if number % 25_000 == 24_999 {
                bench.flush();
            }
        }
        for number in (0..KEYS).step_by(2) {
            bench.put(number);
        }
        bench
    }

    fn put_request(&self, number: u64) -> PutRequest {
        PutRequest { key: key(number), value: self.value.clone(), ..PutRequest::default() }
    }

    fn put(&mut self, number: u64) {
        let put = self.put_request(number);
        self.store.put(&put, &|_| true).expect("memory does not fail").result.expect("a sound put");
    }

    fn flush(&mut self) {
        let flush = self.store.take_flush().expect("there is something to flush");
        self.backend.commit(&flush.into_batch()).expect("memory does not fail");
        self.store.flushed().expect("memory does not fail");
    }

    /// Compacts logically, to the newest revision.
    fn start_compaction(&mut self) {
        let newest = self.store.revision();
        self.store.compact(newest).expect("memory does not fail").expect("it is not compacted");
        self.flush();
    }

    /// Removes what is superseded, as the storage thread does.
    fn finish_compaction(&mut self) {
        let due = self.store.compaction_due().expect("its revision is flushed");
        self.store.compaction_started();
        let mut cursor = Some(due.start());
        while let Some(from) = cursor {
            let view = self.backend.view().expect("memory does not fail");
            let (batch, next) =
                compact_batch(&*view, from, due.to, COMPACT_ROWS).expect("memory does not fail");
            self.backend.commit(&batch).expect("memory does not fail");
            cursor = next;
        }
        self.store.compacted(due.to).expect("memory does not fail");
    }

    fn txn(&mut self) {
        let number = self.rng.below(KEYS);
        let exists = Compare {
            result: CompareResult::Greater,
            target: CompareTarget::Version(0),
            key: key(number),
            range_end: Bytes::new(),
        };
        let range = RangeRequest { key: key(number), ..RangeRequest::default() };
        let txn = TxnRequest {
            compare: vec![exists],
            success: vec![RequestOp::Put(self.put_request(number)), RequestOp::Range(range)],
            failure: Vec::new(),
        };
        self.store.txn(&txn, &|_| true).expect("memory does not fail").result.expect("a sound txn");
    }

    fn range(&mut self, rows: u64) {
        let first = self.rng.below(KEYS - rows);
        let range_end = if rows == 1 { Bytes::new() } else { key(first + rows) };
        let range = RangeRequest { key: key(first), range_end, ..RangeRequest::default() };
        let ranged = self.store.view().range(&range, None).expect("memory does not fail");
        ranged.expect("a sound range");
    }
}

fn mvcc(criterion: &mut Criterion) {
    let options = RedbOptions { fsync: false, ..RedbOptions::default() };
    for name in ["mem", "redb"] {
        let backend: Arc<dyn Backend> = match name {
            "mem" => Arc::new(MemBackend::new()),
            _ => Arc::new(RedbBackend::in_memory(options).expect("memory does not fail")),
        };
        let mut bench = Bench::new(backend);
        let mut group = criterion.benchmark_group(format!("mvcc/{name}"));
        group.sample_size(10).warm_up_time(Duration::from_millis(250));
        group.measurement_time(Duration::from_millis(1500));
        // As many runs in each sample: the usual growing numbers make five times as many of long ones.
        group.sampling_mode(SamplingMode::Flat);
        for rows in [1, 100] {
            group.throughput(Throughput::Elements(rows));
            group.bench_function(format!("range/{rows}"), |b| b.iter(|| bench.range(rows)));
        }
        group.throughput(Throughput::Elements(PUTS));
        group.bench_function("put", |b| {
            b.iter(|| {
                for _ in 0..PUTS {
                    let number = bench.rng.below(KEYS);
                    bench.put(number);
                }
                bench.flush();
            });
        });
        group.throughput(Throughput::Elements(TXNS));
        group.bench_function("txn", |b| {
            b.iter(|| {
                for _ in 0..TXNS {
                    bench.txn();
                }
                bench.flush();
            });
        });
        // What the others left behind is not measured.
        bench.start_compaction();
        bench.finish_compaction();
        group.throughput(Throughput::Elements(PUTS));
        group.bench_function("compaction", |b| {
            b.iter_custom(|iterations| {
                let mut time = Duration::ZERO;
                for _ in 0..iterations {
                    for _ in 0..PUTS {
                        let number = bench.rng.below(KEYS);
                        bench.put(number);
                    }
                    bench.start_compaction();
                    let started = Instant::now();
                    bench.finish_compaction();
                    time += started.elapsed();
                }
                time
            });
        });
        group.finish();
    }
}

criterion_group!(benches, mvcc);
criterion_main!(benches);
