//! How fast histories are judged. The history is right, so all of it is looked at: puts and linearizable
//! reads, as many of one as of the other, of 20 keys, three at any time, every hundredth put unanswered.
//!
//! - `checkers/revisions/OPERATIONS`: the order that revisions give, with the search for each write's
//!   effect; `elem/s` is operations a second;
//! - `checkers/search/OPERATIONS`: Wing and Gong's search, key by key; `elem/s` is operations a second.

use std::time::Duration;

use cairn_checkers::history::NEVER;
use cairn_checkers::{
    Action, Body, Change, Keys, Operation, Outcome, Replay, durability, register, revision_order,
};
use cairn_core::rng::Rng;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const KEYS: u64 = 20;
/// Steps of the search of one key: more than it needs.
const STEPS: u64 = 10_000_000;
/// Between two calls, and from a call to its return: operations overlap those before and after.
const PACE: u64 = 10;
const TIME: u64 = 25;

fn history(operations: u64) -> (Vec<Operation>, Replay) {
    let (mut rng, mut ops) = (Rng::new(1), Vec::new());
    let mut replay = Replay::new(&[]).expect("nothing contradicts itself");
    for number in 0..operations {
        let key = format!("key{}", rng.below(KEYS));
        let read = rng.chance(1, 2);
        let lost = !read && rng.chance(1, 100);
        let action = match read {
            true => Action::Range {
                keys: Keys::One(key),
                revision: 0,
                limit: 0,
                serializable: false,
                count_only: false,
                keys_only: false,
            },
            false => Action::Put { key, value: format!("value{number}"), lease: 0, prev_kv: false },
        };
        let at = replay.revision() + i64::from(!read);
        let (body, changes): (Body, Vec<Change>) = replay.evaluate(&action, replay.revision());
        for change in changes {
            replay.push(change).expect("revisions follow each other");
        }
        let outcome = match lost {
            true => Outcome::Unknown { why: "the connection broke".to_owned() },
            false => Outcome::Ok { revision: at, body },
        };
        let call = number * PACE;
        ops.push(Operation {
            number,
            client: number % 3,
            member: 1,
            boot: 1,
            call,
            ret: if lost { NEVER } else { call + TIME },
            action,
            outcome,
        });
    }
    (ops, replay)
}

fn checkers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checkers");
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(3));
    for operations in [1_000, 10_000] {
        let (ops, replay) = history(operations);
        group.throughput(Throughput::Elements(operations));
        group.bench_with_input(BenchmarkId::new("revisions", operations), &ops, |b, ops| {
            b.iter(|| {
                let effects = durability::effects(ops, &replay).expect("no write is lost");
                revision_order::check(ops, &effects, &replay).expect("the history is linearizable")
            });
        });
        group.bench_with_input(BenchmarkId::new("search", operations), &ops, |b, ops| {
            b.iter(|| {
                let summary = register::check(ops, STEPS).expect("the history is linearizable");
                assert_eq!(summary.unknown, 0, "the budget is large enough");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, checkers);
criterion_main!(benches);
