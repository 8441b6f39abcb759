//! The full stack for ten simulated seconds: three members on redb over simulated disks, 50 operations
//! a second, every check on. `cargo sim speed` prints the same on madsim, as cluster-hours.

use cairn_sim::{Options, run};
use criterion::{Criterion, criterion_group, criterion_main};

fn ten_seconds(c: &mut Criterion) {
    let mut group = c.benchmark_group("simulator");
    group.sample_size(10);
    let mut seed = 0;
    group.bench_function("ten_seconds", |bencher| {
        bencher.iter(|| {
            seed += 1;
            let report = run(Options::steady(seed, 10, 50));
            assert_eq!(report.violation, None);
            report.hash
        });
    });
    group.finish();
}

criterion_group!(benches, ten_seconds);
criterion_main!(benches);
