//! Whole members in memory: the core's cost of a put from the request to the reply, without wire,
//! disk and threads.
//!
//! `node/MEMBERS/put/VALUE_BYTES/BATCH` is the time in which BATCH puts that arrive together are
//! answered, with one group commit; `elem/s` is puts a second. With three members it is the work of all
//! three, one after the other. `range` is the same with linearizable reads of one key.

use std::time::Duration;

use bytes::Bytes;
use cairn_benches::world::World;
use cairn_core::api::{PutRequest, RangeRequest, Request};
use cairn_core::rng::Rng;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const KEYS: u64 = 10_000;

fn key(rng: &mut Rng) -> Bytes {
    format!("bench/{:010}", rng.below(KEYS)).into()
}

fn node(criterion: &mut Criterion) {
    for members in [1, 3] {
        let mut group = criterion.benchmark_group(format!("node/{members}"));
        group.sample_size(10).warm_up_time(Duration::from_millis(300));
        group.measurement_time(Duration::from_secs(1));
        let mut rng = Rng::new(1);
        for size in [16, 256, 4096] {
            let value = Bytes::from(vec![7; size]);
            for batch in [1_u64, 16, 256] {
                let mut world = World::new(members);
                group.throughput(Throughput::Elements(batch));
                group.bench_function(format!("put/{size}/{batch}"), |b| {
                    b.iter(|| {
                        world.call((0..batch).map(|_| {
                            let key = key(&mut rng);
                            Request::Put(PutRequest { key, value: value.clone(), ..PutRequest::default() })
                        }));
                    });
                });
            }
        }
        for batch in [1_u64, 256] {
            let mut world = World::new(members);
            group.throughput(Throughput::Elements(batch));
            group.bench_function(format!("range/{batch}"), |b| {
                b.iter(|| {
                    world.call((0..batch).map(|_| {
                        Request::Range(RangeRequest { key: key(&mut rng), ..RangeRequest::default() })
                    }));
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, node);
criterion_main!(benches);
