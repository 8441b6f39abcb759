//! The watch hub alone: from a change to the responses that the transport would take, without a wire.
//!
//! - `watch/fan-out/WATCHERS`: time of 100 changes of a key that WATCHERS watchers on up to ten streams
//!   watch, until all responses are taken and their credit is back; `elem/s` is events a second;
//! - `watch/match/WATCHERS`: time of 100 changes of random ones of WATCHERS keys, each watched by one
//!   watcher: what it costs to find that one among all others; `elem/s` is events a second.

use std::time::Duration;

use bytes::Bytes;
use cairn_core::api::WatchCreateRequest;
use cairn_core::error::Fatal;
use cairn_core::mvcc::Change;
use cairn_core::rng::Rng;
use cairn_core::time::Time;
use cairn_core::types::{EventKind, KeyValue, Revision};
use cairn_core::watch::{HistoryReader, WatchHub, WatchOptions};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const CHANGES: u64 = 100;
const STREAMS: u64 = 10;

/// A store that only has a revision: nobody here catches up or asks for previous values.
struct Newest(i64);

impl HistoryReader for Newest {
    fn revision(&self) -> i64 {
        self.0
    }

    fn compact_revision(&self) -> i64 {
        -1
    }

    fn changes(&self, _: Revision, _: usize) -> Result<(Vec<Change>, Option<Revision>), Fatal> {
        Ok((Vec::new(), None))
    }

    fn prev_kv(&self, _: &Change) -> Result<Option<KeyValue>, Fatal> {
        Ok(None)
    }
}

struct Bench {
    hub: WatchHub,
    store: Newest,
    rng: Rng,
    value: Bytes,
}

fn key(number: u64) -> Bytes {
    format!("bench/{number:010}").into()
}

impl Bench {
    /// Watcher `n` watches key `n % keys`.
    fn new(watchers: u64, keys: u64) -> Self {
        let hub = WatchHub::new(WatchOptions::default(), 1);
        let mut bench = Self { hub, store: Newest(1), rng: Rng::new(1), value: vec![7; 256].into() };
        for stream in 0..STREAMS.min(watchers) {
            bench.hub.open(stream);
        }
        for watcher in 0..watchers {
            let create = WatchCreateRequest { key: key(watcher % keys), ..WatchCreateRequest::default() };
            let stream = watcher % STREAMS.min(watchers);
            bench.hub.create(stream, &create, Time(0), &bench.store).expect("the responses are taken");
            bench.take();
        }
        bench
    }

    /// Takes all responses; how many events they had.
    fn take(&mut self) -> u64 {
        let mut events = 0;
        while let Some((stream, batch)) = self.hub.poll() {
            events += (batch.watch_ids.len() * batch.response.events.len()) as u64;
            self.hub.credit(stream, u32::try_from(batch.watch_ids.len()).expect("few watchers"));
        }
        events
    }

    fn change(&mut self, number: u64) {
        self.store.0 += 1;
        let revision = self.store.0;
        let kv = KeyValue {
            key: key(number),
            create_revision: 1,
            mod_revision: revision,
            version: revision,
            value: self.value.clone(),
            ..KeyValue::default()
        };
        let prev = Some(Revision::new(revision - 1, 0));
        let change = Change { revision: Revision::new(revision, 0), kind: EventKind::Put, kv, prev };
        self.hub.notify(&[change], &self.store).expect("nothing is read");
    }

    fn run(&mut self, keys: u64, events: u64) {
        let mut taken = 0;
        for _ in 0..CHANGES {
            let number = self.rng.below(keys);
            self.change(number);
            taken += self.take();
        }
        assert_eq!(taken, events, "every watcher hears of every change");
    }
}

fn watch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("watch");
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(3));
    for watchers in [1, 100, 1_000, 10_000] {
        let mut bench = Bench::new(watchers, 1);
        group.throughput(Throughput::Elements(CHANGES * watchers));
        group.bench_function(format!("fan-out/{watchers}"), |b| b.iter(|| bench.run(1, CHANGES * watchers)));
    }
    for watchers in [1_000, 100_000] {
        let mut bench = Bench::new(watchers, watchers);
        group.throughput(Throughput::Elements(CHANGES));
        group.bench_function(format!("match/{watchers}"), |b| b.iter(|| bench.run(watchers, CHANGES)));
    }
    group.finish();
}

criterion_group!(benches, watch);
criterion_main!(benches);
