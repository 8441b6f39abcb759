use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use cairn_core::api::{AlarmKind, AlarmMember, Member};
use cairn_core::lease::LeaseCounts;
use cairn_core::mvcc::StoreCounts;

use super::*;

/// Of newer lines of etcd than the one that is installed, and Cairn's own.
const NOT_IN_3_4: [&str; 8] = [
    "cairn_backend_flushed_index",
    "cairn_leases",
    "cairn_raft_term",
    "etcd_debugging_mvcc_db_compaction_last",
    "etcd_debugging_server_alarms",
    "etcd_disk_wal_write_duration_seconds",
    "etcd_network_known_peers",
    "etcd_server_feature_enabled",
];

/// Of Go's own, which nothing here could feed.
const NOT_OURS: [&str; 3] = ["go_gc_", "go_info", "go_memstats_"];

/// What a lone etcd with the basic metrics has no samples of.
const NEEDS_PEERS: &str = "etcd_network_";
const EXTENSIVE: &str = "grpc_server_handling_seconds";

/// What the alert rules that come with etcd read, and its dashboard, as far as the core tells it.
const ALERTS: [&str; 16] = [
    "etcd_network_peer_sent_failures_total",
    "etcd_network_peer_round_trip_time_seconds",
    "etcd_server_has_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_quota_backend_bytes",
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_debugging_mvcc_watcher_total",
    "etcd_debugging_mvcc_watch_stream_total",
    "etcd_network_client_grpc_received_bytes_total",
    "grpc_server_handled_total",
    "grpc_server_started_total",
    "process_resident_memory_bytes",
];

fn status() -> Status {
    let member = |id| Member { id, ..Member::default() };
    Status {
        cluster_id: 1,
        member_id: 0xab,
        role: Role::Leader,
        leader: 0xab,
        term: 3,
        first: 1,
        last: 20,
        committed: 19,
        applied: 18,
        flushed: 10,
        revision: 42,
        compact_revision: -1,
        requests: 2,
        db_size: 8192,
        db_size_in_use: 4096,
        quota_bytes: 2 << 30,
        watch_streams: 4,
        watchers: 5,
        slow_watchers: 1,
        pending_events: 3,
        sent_events: 9,
        leases: 6,
        lease_counts: LeaseCounts { granted: 8, ..LeaseCounts::default() },
        store_counts: StoreCounts { keys: 11, puts: 12, ..StoreCounts::default() },
        published: true,
        removed: false,
        cluster_version: Some("3.7.0".to_owned()),
        alarms: vec![AlarmMember { member_id: 0xcd, alarm: AlarmKind::NoSpace }],
        members: vec![member(0xab), member(0xcd)],
        removed_members: Vec::new(),
    }
}

/// A family as a scraper sees it: its type, and of each sample the name, labels and value.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Family {
    fn label_names(&self) -> BTreeSet<&str> {
        self.samples.iter().flat_map(|(_, labels, _)| labels.keys().map(String::as_str)).collect()
    }

    fn bounds(&self) -> BTreeSet<&str> {
        self.samples.iter().filter_map(|(_, labels, _)| labels.get("le").map(String::as_str)).collect()
    }
}

/// Reads text format 0.0.4 and fails at whatever a scraper would refuse.
fn parse(page: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut current = String::new();
    assert!(page.ends_with('\n'));
    for line in page.lines() {
        if let Some(header) = line.strip_prefix("# TYPE ") {
            let (name, kind) = header.split_once(' ').unwrap();
            let family = Family { kind: kind.to_owned(), samples: Vec::new() };
            assert!(families.insert(name.to_owned(), family).is_none(), "{name} comes twice");
            current = name.to_owned();
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        assert!(!line.starts_with('#'), "{line}");
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap();
        let labels: BTreeMap<_, _> = labels
            .split_terminator("\",")
            .map(|label| label.split_once("=\"").unwrap())
            .map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()))
            .collect();
        let family = families.get_mut(&current).unwrap();
        let suffix = name.strip_prefix(&current).unwrap_or_else(|| panic!("{line} is not of {current}"));
        let allowed: &[&str] = match family.kind.as_str() {
            "histogram" => &["_bucket", "_sum", "_count"],
            "summary" => &["", "_sum", "_count"],
            _ => &[""],
        };
        assert!(allowed.contains(&suffix), "{line} is not of a {}", family.kind);
        let same = |sample: &(String, BTreeMap<String, String>, f64)| sample.0 == name && sample.1 == labels;
        assert!(!family.samples.iter().any(same), "{line} comes twice");
        family.samples.push((name.to_owned(), labels, value));
    }
    families
}

fn value(metrics: &Metrics, name: &str) -> f64 {
    let families = parse(&metrics.encode());
    let family = &families[name];
    assert_eq!(family.samples.len(), 1, "{name}");
    family.samples[0].2
}

/// Metrics to which everything has happened.
fn full() -> Metrics {
    let metrics = Metrics::new("3.7.1", true, &Features::default());
    metrics.observe(&status());
    metrics.peer(0xcd).connected();
    metrics
}

#[test]
fn counters_move_with_what_is_told() {
    let metrics = full();
    assert_eq!(value(&metrics, "etcd_server_leader_changes_seen_total"), 0.0);
    let events = [
        (NodeEvent::LeaderElected { leader: 1, term: 2 }, "etcd_server_leader_changes_seen_total"),
        (NodeEvent::ProposalFailed, "etcd_server_proposals_failed_total"),
        (NodeEvent::ReadIndexSlow, "etcd_server_slow_read_indexes_total"),
        (NodeEvent::ReadIndexFailed, "etcd_server_read_indexes_failed_total"),
        (NodeEvent::LeaseExpired { id: 7 }, "etcd_debugging_server_lease_expired_total"),
        (NodeEvent::MemberPromoted { id: 7 }, "etcd_server_learner_promote_successes"),
    ];
    for (event, name) in &events {
        metrics.event(event);
        metrics.event(event);
        assert_eq!(value(&metrics, name), 2.0, "{name}");
    }
    metrics.observe(&Status { role: Role::Follower, ..status() });
    metrics.event(&NodeEvent::MemberPromoted { id: 8 });
    assert_eq!(value(&metrics, "etcd_server_learner_promote_successes"), 2.0, "a follower does not count");

    let times = LogTimes { write: Duration::from_millis(1), sync: Duration::from_millis(3) };
    metrics.wal_synced(times, 512);
    metrics.wal_synced(times, 512);
    assert_eq!(value(&metrics, "etcd_disk_wal_write_bytes_total"), 1024.0);
    metrics.backend_committed(Duration::from_millis(3), Duration::from_millis(1));
    metrics.defragment_started();
    assert_eq!(value(&metrics, "etcd_disk_defrag_inflight"), 1.0);
    metrics.defragmented(Duration::from_secs(1));
    assert_eq!(value(&metrics, "etcd_disk_defrag_inflight"), 0.0);
    metrics.compacted(Duration::from_millis(150));
    assert!(value(&metrics, "etcd_debugging_mvcc_db_compaction_last") > 1e9);
    metrics.snapshot_streamed(Duration::from_millis(1));
    metrics.snapshot_install_started();
    assert_eq!(value(&metrics, "etcd_server_snapshot_apply_in_progress_total"), 1.0);
    metrics.event(&NodeEvent::SnapshotInstalled { index: 9 });
    assert_eq!(value(&metrics, "etcd_server_snapshot_apply_in_progress_total"), 0.0);
    metrics.health_checked(HealthCheck::Health { healthy: true });
    metrics.health_checked(HealthCheck::Health { healthy: false });
    metrics.health_checked(HealthCheck::Named { kind: "livez", name: "serializable_read", healthy: true });
    let before = AppliedOps::default();
    let mut applied = before;
    applied[0] = [1, 3];
    metrics.applied(&before, &applied, Duration::from_millis(400), true);
    assert_eq!(value(&metrics, "etcd_server_slow_apply_total"), 1.0);
    metrics.compacted_batch(Duration::from_millis(2), 7);
    assert_eq!(value(&metrics, "etcd_debugging_mvcc_db_compaction_keys_total"), 7.0);
    assert_eq!(value(&metrics, "etcd_mvcc_db_open_read_transactions"), 1.0);
    let open = metrics.view_opened();
    assert_eq!(value(&metrics, "etcd_mvcc_db_open_read_transactions"), 2.0);
    drop(open);
    assert_eq!(value(&metrics, "etcd_server_health_success"), 1.0);
    assert_eq!(value(&metrics, "etcd_server_health_failures"), 1.0);

    let page = metrics.encode();
    for line in [
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 0",
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.004\"} 2",
        "etcd_disk_backend_commit_duration_seconds_count 1",
        "etcd_disk_backend_defrag_duration_seconds_sum 1",
        "etcd_disk_backend_snapshot_duration_seconds_count 1",
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_bucket{le=\"200\"} 1",
        "etcd_server_apply_duration_seconds_bucket{op=\"Put\",success=\"true\",version=\"v3\",le=\"0.0512\"} 0",
        "etcd_server_apply_duration_seconds_bucket{op=\"Put\",success=\"true\",version=\"v3\",le=\"0.1024\"} 3",
        "etcd_server_apply_duration_seconds_count{op=\"Put\",success=\"false\",version=\"v3\"} 1",
        "etcd_server_healthcheck{name=\"serializable_read\",type=\"livez\"} 1",
        "etcd_server_healthchecks_total{name=\"serializable_read\",status=\"success\",type=\"livez\"} 1",
        "etcd_disk_wal_write_duration_seconds_bucket{le=\"0.001\"} 2",
        "etcd_debugging_disk_backend_commit_spill_duration_seconds_bucket{le=\"0.002\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
}

#[test]
fn the_nodes_status_is_shown() {
    let metrics = Metrics::new("3.7.1", false, &Features::default());
    assert!(!metrics.encode().contains("etcd_server_has_leader"), "nothing is known yet");
    metrics.observe(&status());
    for (name, expected) in [
        ("etcd_server_has_leader", 1.0),
        ("etcd_server_is_leader", 1.0),
        ("etcd_server_is_learner", 0.0),
        ("etcd_server_proposals_committed_total", 19.0),
        ("etcd_server_proposals_applied_total", 18.0),
        ("etcd_server_proposals_pending", 2.0),
        ("etcd_server_quota_backend_bytes", 2_147_483_648.0),
        ("etcd_mvcc_db_total_size_in_bytes", 8192.0),
        ("etcd_mvcc_db_total_size_in_use_in_bytes", 4096.0),
        ("etcd_debugging_mvcc_current_revision", 42.0),
        ("etcd_debugging_mvcc_compact_revision", -1.0),
        ("etcd_debugging_mvcc_watch_stream_total", 4.0),
        ("etcd_debugging_mvcc_watcher_total", 5.0),
        ("etcd_debugging_mvcc_slow_watcher_total", 1.0),
        ("cairn_leases", 6.0),
        ("etcd_debugging_mvcc_keys_total", 11.0),
        ("etcd_mvcc_put_total", 12.0),
        ("etcd_debugging_mvcc_put_total", 12.0),
        ("etcd_debugging_mvcc_pending_events_total", 3.0),
        ("etcd_debugging_mvcc_events_total", 9.0),
        ("etcd_debugging_lease_granted_total", 8.0),
    ] {
        assert_eq!(value(&metrics, name), expected, "{name}");
    }
    let page = metrics.encode();
    for line in [
        "etcd_server_id{server_id=\"ab\"} 1",
        "etcd_server_version{server_version=\"3.7.1\"} 1",
        "etcd_cluster_version{cluster_version=\"3.7\"} 1",
        "etcd_debugging_server_alarms{server_id=\"cd\",alarm_type=\"NOSPACE\"} 1",
        "etcd_network_known_peers{Local=\"ab\",Remote=\"cd\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    assert!(!page.contains(EXTENSIVE), "not asked for");
    metrics.observe(&Status { leader: 0, role: Role::Learner, ..status() });
    assert_eq!(value(&metrics, "etcd_server_has_leader"), 0.0);
    assert_eq!(value(&metrics, "etcd_server_is_learner"), 1.0);
}

#[test]
fn a_peers_counters_are_shown_until_it_is_removed() {
    let metrics = full();
    let peer = metrics.peer(0xcd);
    peer.sent_bytes.add(100);
    peer.round_trip.seconds(Duration::from_micros(300));
    assert_eq!(value(&metrics, "etcd_network_active_peers"), 1.0);
    peer.unreachable();
    peer.unreachable();
    assert_eq!(value(&metrics, "etcd_network_active_peers"), 0.0);
    assert_eq!(value(&metrics, "etcd_network_disconnected_peers_total"), 1.0);
    assert_eq!(value(&metrics, "etcd_network_peer_sent_failures_total"), 2.0);
    let page = metrics.encode();
    for line in [
        "etcd_network_active_peers{Local=\"ab\",Remote=\"cd\"} 0",
        "etcd_network_peer_sent_bytes_total{To=\"cd\"} 100",
        "etcd_network_peer_round_trip_time_seconds_bucket{To=\"cd\",le=\"0.0004\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    metrics.event(&NodeEvent::MemberRemoved { id: 0xcd });
    assert!(!metrics.encode().contains("etcd_network_active_peers"));
}

/// A running etcd, killed at the end.
struct Etcd {
    process: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Etcd {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let address = free();
        let (client, peer) = (format!("http://{address}"), format!("http://{}", free()));
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(dir.path())
            .args(["--metrics", "extensive", "--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client, "--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer, "--initial-cluster"])
            .arg(format!("default={peer}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd must be on the PATH");
        let etcd = Self { process, address, _dir: dir };
        // Each attempt waits by itself until it is answered or its time is over; only a member that
        // serves has a cluster version to show.
        let put = || {
            let arguments = ["put", "a", "b", "--command-timeout=10s", "--endpoints", &client];
            let output = Command::new("etcdctl").env("ETCDCTL_API", "3").args(arguments).output();
            output.expect("etcdctl must be on the PATH").status.success()
        };
        assert!((0..20).any(|_| put()), "etcd does not serve");
        etcd
    }

    fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }
}

/// What we show under etcd's names is of the same type and has the same labels and buckets there.
#[tokio::test]
async fn etcd_shows_the_same_families() {
    let etcd = Etcd::start();
    let theirs = parse(&etcd.metrics());
    let metrics = full();
    metrics.grpc_layer();
    let ours = parse(&metrics.encode());
    let mut compared = 0;
    for (name, family) in &ours {
        let Some(their) = theirs.get(name) else {
            let excused = NOT_IN_3_4.contains(&name.as_str()) || name.starts_with(NEEDS_PEERS);
            assert!(excused, "etcd has no {name}");
            continue;
        };
        assert!(!NOT_IN_3_4.contains(&name.as_str()), "{name}");
        assert_eq!(family.kind, their.kind, "{name}");
        // A family without samples, such as durations of calls before any, has no labels to compare.
        if !family.samples.is_empty() && !their.samples.is_empty() {
            assert_eq!(family.label_names(), their.label_names(), "{name}");
            assert_eq!(family.bounds(), their.bounds(), "{name}");
            compared += 1;
        }
    }
    assert!(compared > 85, "only {compared} families were compared");
    for name in theirs.keys().filter(|name| !NOT_OURS.iter().any(|prefix| name.starts_with(prefix))) {
        // Clients make up its samples, and there are none here.
        let excused = name == "etcd_server_client_requests_total";
        assert!(excused || ours.contains_key(name), "{name} is missing");
    }
    for name in ALERTS {
        assert!(ours.contains_key(name), "{name}");
    }
    // Every call that etcd counts is counted here.
    let calls = |families: &BTreeMap<String, Family>| -> BTreeSet<BTreeMap<String, String>> {
        families["grpc_server_handled_total"].samples.iter().map(|(_, labels, _)| labels.clone()).collect()
    };
    let (ours, theirs) = (calls(&ours), calls(&theirs));
    let missing: Vec<_> = theirs.difference(&ours).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn tasks_of_all_runtimes_are_counted_whichever_serves_the_page() {
    let runtimes = [(); 2].map(|()| tokio::runtime::Builder::new_current_thread().build().unwrap());
    let metrics = Metrics::new("3.7.1", false, &Features::default());
    metrics.count_tasks(runtimes.iter().map(|runtime| runtime.handle().clone()));
    for runtime in [&runtimes[0], &runtimes[1], &runtimes[1]] {
        runtime.spawn(std::future::pending::<()>());
    }
    let page = runtimes[0].block_on(async { metrics.encode() });
    assert!(page.contains("\ngo_goroutines 3\n"), "{page}");
}
