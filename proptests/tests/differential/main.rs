//! The same random operations against etcd and against our server: equal answers, errors and events.
//!
//! `CAIRN_DIFF_SEED` (default 1) and `CAIRN_DIFF_OPS` (default 20000) choose the run. What may differ
//! is listed in [`exceptions::EXCEPTIONS`].

#![allow(clippy::unwrap_used)]

mod exceptions;
mod generate;
mod run;
mod watches;

use cairn_proptests::process::{Cluster, Ports, Side};
use generate::Generator;
use run::Run;

fn variable(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")),
        Err(_) => default,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_have_equal_answers() {
    let seed = variable("CAIRN_DIFF_SEED", 1);
    let ops = usize::try_from(variable("CAIRN_DIFF_OPS", 20_000)).unwrap();
    let etcd = Cluster::start(Side::Etcd, &[Ports::free()], &[]);
    let ours = Cluster::start(Side::Ours, &[Ports::free()], &[]);
    let mut run = Run::new(&etcd.client_url(0), &ours.client_url(0)).await;
    run.play(&mut Generator::new(seed), ops).await;
    println!("seed {seed}, {ops} operations; succeeded on etcd: {:?}", run.succeeded);
    let known: Vec<String> =
        exceptions::EXCEPTIONS.iter().map(|(id, what, place)| format!("{id}: {what} [{place}]")).collect();
    assert!(
        run.divergences.is_empty(),
        "CAIRN_DIFF_SEED={seed} CAIRN_DIFF_OPS={ops}: {} divergences\n\n{}\n\nallowed differences:\n{}\n{}",
        run.divergences.len(),
        run.divergences.join("\n"),
        known.join("\n"),
        ours.log_tails(),
    );
}

/// The test of the test: one write that only one side gets is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_write_is_found() {
    let left = Cluster::start(Side::Etcd, &[Ports::free()], &[]);
    let right = Cluster::start(Side::Etcd, &[Ports::free()], &[]);
    let mut run = Run::new(&left.client_url(0), &right.client_url(0)).await;
    let mut generator = Generator::new(7);
    run.play(&mut generator, 100).await;
    assert!(run.divergences.is_empty(), "equal servers differ:\n{}", run.divergences.join("\n"));
    run.plant(b"a/1").await;
    run.play(&mut generator, 100).await;
    assert!(!run.divergences.is_empty(), "a planted write went unseen");
}
