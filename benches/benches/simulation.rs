//! How fast the simulator runs: three members on the real engine over simulated disks, 50 operations a
//! second, every check on, no faults.
//!
//! `simulation/steady` is the time of ten simulated seconds; `elem/s` is simulated seconds a second. It runs
//! without madsim; `cargo sim speed` measures the same on it, as cluster-hours in a minute of CPU.

use std::time::Duration;

use cairn_sim::{Options, run};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SECONDS: u64 = 10;
const OPERATIONS: u64 = 50;

fn simulation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("simulation");
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(10));
    group.throughput(Throughput::Elements(SECONDS));
    let mut seed = 0;
    group.bench_function("steady", |b| {
        b.iter(|| {
            seed += 1;
            let report = run(Options::steady(seed, SECONDS, OPERATIONS));
            assert_eq!(report.violation, None);
            report.hash
        });
    });
    group.finish();
}

criterion_group!(benches, simulation);
criterion_main!(benches);
