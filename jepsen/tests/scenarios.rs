//! Every scenario with small counts, against the binary that `CAIRN_BIN` names or the newest build.
//!
//! They run one after the other: each starts several processes, and the machine is part of what a
//! fault is measured on. The release counts are the defaults of the `cairn-jepsen` binary.

use std::path::PathBuf;

use cairn_jepsen::process::Binary;
use cairn_jepsen::scenario::{
    Big, Environment, ForceNew, GrowShrink, KillLeader, KillSingle, RottenLog, Watchers, WipedDisk,
};
use cairn_jepsen::{Failure, Figures};

static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn binary() -> Binary {
    Binary::find().unwrap_or_else(|failure| panic!("{failure}"))
}

fn holds(outcome: Result<Figures, Failure>) {
    match outcome {
        Ok(figures) => println!("{figures}"),
        Err(failure) => panic!("{failure}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_leader() {
    let _alone = ONE_AT_A_TIME.lock().await;
    // Twice the limit of a release run: a shared machine may be busy with other tests.
    let scenario = KillLeader { kills: 3, writers: 16, resume_ms: 4_000, between: 300, seed: 1 };
    holds(scenario.run(&binary()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn wiped_disk() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let scenario = WipedDisk { rounds: 2, writers: 8, between: 1_000, snapshot_count: 200, seed: 2 };
    holds(scenario.run(&binary()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn force_new() {
    let _alone = ONE_AT_A_TIME.lock().await;
    holds(ForceNew { writers: 8, between: 500, seed: 5 }.run(&binary()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn grow_shrink() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let scenario = GrowShrink { writers: 8, between: 100, seed: 3 };
    holds(scenario.run(&binary()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_single() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let scenario = KillSingle { kills: 15, writers: 16, between: 400, snapshot_count: 500, seed: 4 };
    holds(scenario.run(&binary()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn rotten_log() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let binary = binary();
    // etcd does not start on such a log.
    if binary.cairn {
        holds(RottenLog { rounds: 3, writers: 8, between: 400, seed: 6 }.run(&binary).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let scenario = Watchers {
        streams: 20,
        keys: 50,
        events: 5_000,
        value_bytes: 1_024,
        growth_mib: 256,
        compact: false,
    };
    let own = PathBuf::from(env!("CARGO_BIN_EXE_cairn-jepsen"));
    holds(scenario.run(&binary(), Some(own)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_stall_over_a_compaction() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let scenario =
        Watchers { streams: 4, keys: 50, events: 10_000, value_bytes: 2_048, growth_mib: 256, compact: true };
    let own = PathBuf::from(env!("CARGO_BIN_EXE_cairn-jepsen"));
    holds(scenario.run(&binary(), Some(own)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn big() {
    let _alone = ONE_AT_A_TIME.lock().await;
    // Other tests have the cores as well: here a latency says nothing.
    let p99_ratio_max = f64::INFINITY;
    let scenario = Big {
        keys: 20_000,
        value_bytes: 256,
        members: 3,
        seconds: 3,
        putters: 4,
        p99_ratio_max,
        alone: true,
    };
    holds(scenario.run(&binary()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn environment() {
    let _alone = ONE_AT_A_TIME.lock().await;
    holds(Environment { disk_mib: 160, written_mib: 80 }.run(&binary()).await);
}
