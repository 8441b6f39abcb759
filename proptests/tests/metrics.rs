//! Every metric family of etcd's, after the same use of both servers: same name, type and labels; and
//! what the use counts has counted the same, or has moved where the number is the server's own affair.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proptests::process::{Cluster, Ports, Side, etcdctl, http_get};

/// Of Go's own runtime, which nothing in ours could feed.
const GO_ONLY: [&str; 3] = ["go_gc_", "go_info", "go_memstats_"];

/// Command lines of etcdctl with what they read.
const USE: [(&str, &str); 20] = [
    ("put a 1", ""),
    ("put b 22", ""),
    ("put a 333", ""),
    ("get a", ""),
    ("get '' --prefix", ""),
    ("get a --consistency=s", ""),
    ("del b", ""),
    ("del none", ""),
    ("txn", "val(\"a\") = \"333\"\n\nput c 1\nput d 2\nget a\n\nput never 1\n\n"),
    ("txn", "\nget a\nget c\n\n\n"),
    ("lease grant 100", ""),
    ("lease grant 2000", ""),
    ("compaction 5 --physical", ""),
    ("defrag", ""),
    ("endpoint hashkv", ""),
    ("endpoint status", ""),
    ("member list", ""),
    ("alarm list", ""),
    ("move-leader 1", ""),
    ("snapshot save snapshot.db", ""),
];

/// Both servers count the same.
const EQUAL: [&str; 18] = [
    "etcd_mvcc_put_total",
    "etcd_mvcc_delete_total",
    "etcd_mvcc_txn_total",
    "etcd_debugging_mvcc_put_total",
    "etcd_debugging_mvcc_delete_total",
    "etcd_debugging_mvcc_txn_total",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_total_put_size_in_bytes",
    "etcd_debugging_mvcc_current_revision",
    "etcd_debugging_mvcc_compact_revision",
    "etcd_debugging_lease_granted_total",
    "etcd_debugging_lease_revoked_total",
    "etcd_debugging_lease_ttl_total",
    "etcd_debugging_auth_revision",
    "etcd_server_has_leader",
    "etcd_server_is_leader",
    "etcd_server_is_learner",
    "etcd_server_quota_backend_bytes",
];

/// How much or how often is the server's own affair; that it counts is not.
const MOVED: [&str; 27] = [
    "etcd_mvcc_range_total",
    "etcd_debugging_mvcc_range_total",
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_disk_wal_write_bytes_total",
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_disk_backend_defrag_duration_seconds",
    "etcd_disk_backend_snapshot_duration_seconds",
    "etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
    "etcd_debugging_disk_backend_commit_spill_duration_seconds",
    "etcd_debugging_disk_backend_commit_write_duration_seconds",
    // 3.4.23 also removes the tombstone at the compact revision (A-KV-50).
    "etcd_debugging_mvcc_db_compaction_keys_total",
    "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
    "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
    "etcd_mvcc_hash_rev_duration_seconds",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_server_client_requests_total",
    "etcd_server_health_success",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "grpc_server_handled_total",
    "process_resident_memory_bytes",
    "promhttp_metric_handler_requests_total",
    "go_threads",
];

/// What only ours counts: names of later releases, and a batch that etcd counts if another follows.
const ONLY_OURS: [&str; 8] = [
    "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
    "etcd_debugging_mvcc_db_compaction_last",
    "etcd_disk_wal_write_duration_seconds",
    "etcd_server_apply_duration_seconds",
    "etcd_server_feature_enabled",
    "etcd_server_range_duration_seconds",
    "etcd_server_request_duration_seconds",
    "etcd_server_healthchecks_total",
];

#[derive(Debug, Default)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
    /// The sum of all samples but buckets and sums: counts of histograms, values of the rest.
    total: f64,
}

fn families(page: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut current = String::new();
    for line in page.lines().filter(|line| !line.starts_with("# HELP")) {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|header| header.split_once(' ')) {
            current = name.to_owned();
            families.entry(current.clone()).or_default().kind = kind.to_owned();
            continue;
        }
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Some(family) = families.get_mut(&current) else { continue };
        let labels = series.split_once('{').map_or("", |(_, labels)| labels);
        family.labels.extend(labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned())));
        let counted = !series.contains("_bucket{") && !series.starts_with(&format!("{current}_sum"));
        if counted {
            family.total += value.parse::<f64>().unwrap_or_default();
        }
    }
    families
}

/// Uses a server and reads its metrics.
fn used(side: Side) -> BTreeMap<String, Family> {
    let ports = Ports::free();
    let cluster = Cluster::start(side, &[ports], &[]);
    let run = |line: &str, stdin: &str| {
        let mut command = std::process::Command::new(etcdctl());
        command.env("ETCDCTL_API", "3").current_dir(cluster.folder());
        command.args(["--endpoints", &cluster.client_url(0)]).args(cairn_proptests::script::split(line));
        let input = cluster.folder().join("stdin");
        std::fs::write(&input, stdin).expect("the folder is writable");
        command.stdin(std::fs::File::open(&input).expect("it was just written"));
        command.output().expect("etcdctl runs")
    };
    for (line, stdin) in USE {
        run(line, stdin);
    }
    if side == Side::Ours {
        http_get(ports.client, "/readyz");
    }
    http_get(ports.client, "/metrics");
    let page = http_get(ports.client, "/metrics").expect("the server answers");
    families(page.split_once("\r\n\r\n").expect("headers end").1)
}

#[test]
fn what_etcd_counts_is_counted() {
    let [etcd, ours] = Side::BOTH.map(used);
    let mut wrong = Vec::new();
    for (name, theirs) in &etcd {
        if GO_ONLY.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        match ours.get(name) {
            None => wrong.push(format!("{name} is missing")),
            Some(family) if (&family.kind, &family.labels) != (&theirs.kind, &theirs.labels) => {
                wrong.push(format!("{name}: etcd {theirs:?}, ours {family:?}"));
            }
            Some(_) => {}
        }
    }
    let total = |families: &BTreeMap<String, Family>, name: &str| families.get(name).map(|found| found.total);
    for name in EQUAL {
        let (theirs, ours) = (total(&etcd, name), total(&ours, name));
        if theirs != ours || theirs.is_none() {
            wrong.push(format!("{name}: etcd {theirs:?}, ours {ours:?}"));
        }
    }
    for name in MOVED {
        for (side, families) in [("etcd", &etcd), ("ours", &ours)] {
            if total(families, name).is_none_or(|total| total <= 0.0) {
                wrong.push(format!("{name} of {side} has not moved: {:?}", total(families, name)));
            }
        }
    }
    let still = ONLY_OURS.iter().filter(|name| total(&ours, name).is_none_or(|total| total <= 0.0));
    wrong.extend(still.map(|name| format!("{name} has not moved")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
