//! Every load against a real server, in both loops: nothing fails, and as much is done as was asked for.
//!
//! The server is the one that `CAIRN_BIN` names, or the build beside this test.

use std::path::PathBuf;

use cairn_benches::load;
use cairn_benches::options::{Consistency, Kind, LoadOptions};
use cairn_benches::server::Cluster;

const OPERATIONS: u64 = 200;

fn cairn() -> PathBuf {
    if let Some(path) = std::env::var_os("CAIRN_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().expect("a test knows its path");
    let target = own.ancestors().nth(2).expect("tests are built into a folder of the target directory");
    target.join("cairn")
}

async fn start(members: usize) -> Cluster {
    let started = Cluster::start(&cairn(), &std::env::temp_dir(), members).await;
    started.unwrap_or_else(|error| panic!("{error}"))
}

fn options(cluster: &Cluster) -> LoadOptions {
    LoadOptions {
        endpoints: vec![cluster.endpoint().to_owned()],
        conns: 3,
        clients: 7,
        keys: 50,
        total: Some(OPERATIONS),
        server_pids: cluster.pids(),
        ..LoadOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_load_does_what_it_was_asked_for_in_both_loops() {
    let cluster = start(1).await;
    let (linearizable, serializable) = (Consistency::L, Consistency::S);
    let kinds = [
        Kind::Put,
        Kind::Range { consistency: linearizable, rows: 1 },
        Kind::Range { consistency: serializable, rows: 20 },
        Kind::Txn { reads: 2, writes: 3 },
        Kind::Mixed { consistency: linearizable, read_percent: 50 },
        Kind::Stm,
        Kind::Watch { streams: 2, watchers: 3 },
        Kind::Lease { ttl: 60 },
        Kind::Lock,
    ];
    for kind in kinds {
        for rate in [None, Some(2_000.0)] {
            let options = LoadOptions { rate, ..options(&cluster) };
            let report = load::run(kind, &options).await.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            assert_eq!((report.operations, report.failures()), (OPERATIONS, 0), "{}", report.table());
            assert_eq!(report.latency_us.count, OPERATIONS, "{kind:?}");
            assert_eq!(report.corrected_us.is_some(), rate.is_none(), "{kind:?}");
            let events = if matches!(kind, Kind::Watch { .. }) { OPERATIONS * 2 * 3 } else { 0 };
            assert_eq!(report.watch_us.map_or(0, |watch| watch.count), events, "{kind:?}");
            assert!(report.server.is_some_and(|used| used.rss_bytes > 0), "{kind:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_values_of_many_sizes_are_found_again() {
    let cluster = start(1).await;
    let options = LoadOptions {
        key_size: "10-64".parse().expect("a size"),
        val_size: "0-2000:0.9".parse().expect("a size"),
        zipf: Some(0.99),
        ..options(&cluster)
    };
    for kind in [
        Kind::Range { consistency: Consistency::L, rows: 50 },
        Kind::Mixed { consistency: Consistency::L, read_percent: 50 },
        Kind::Put,
    ] {
        let report = load::run(kind, &options).await.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        assert_eq!((report.operations, report.failures()), (OPERATIONS, 0), "{}", report.table());
    }
    let watch = Kind::Watch { streams: 1, watchers: 1 };
    let refused = load::run(watch, &options).await.map(drop);
    assert!(refused.is_err_and(|error| error.to_string().contains("8 bytes")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_tells_its_leader_and_goes_on_without_it() {
    let mut cluster = start(3).await;
    let leader = cluster.leader().await.unwrap_or_else(|error| panic!("{error}"));
    cluster.kill(leader);
    assert_eq!(cluster.pids().len(), 2);
    let restarted = cluster.restart(leader).await;
    restarted.unwrap_or_else(|error| panic!("{error}"));
    let options = LoadOptions {
        endpoints: (0..3).map(|number| cluster.endpoint_of(number).to_owned()).collect(),
        ..options(&cluster)
    };
    let report = load::run(Kind::Put, &options).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((report.operations, report.failures()), (OPERATIONS, 0), "{}", report.table());
}
