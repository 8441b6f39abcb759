//! The numbers that operators watch, under etcd's names.
//!
//! Names, types, label names and buckets are etcd's, so that dashboards and alert rules work unchanged;
//! what etcd has no name for is called `cairn_*`. A family is here only if something feeds it: a constant
//! zero would hide that nobody counts. The threads of the driver count through the methods of
//! [`Metrics`], services through [`GrpcMetricsLayer`], the transport through [`PeerMetrics`]; state that
//! the node publishes is taken over by [`Metrics::observe`].
//!
//! Invariant: counting never blocks and never fails; [`Metrics::encode`] may be called at any time.

mod grpc;
mod peer;
mod process;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cairn_core::api::AlarmKind;
use cairn_core::node::{NodeEvent, Role, Status};
use cairn_core::types::MemberId;

pub use grpc::{Counted, GrpcMetricsLayer, GrpcMetricsService};
pub use peer::PeerMetrics;
pub use text::{Counter, Gauge, Histogram};

use grpc::GrpcMetrics;
use text::{Kind, Page};

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    server_version: String,
    wal_sync_seconds: Histogram,
    wal_bytes: Gauge,
    commit_seconds: Histogram,
    defrag_seconds: Histogram,
    defrags: Gauge,
    snapshot_seconds: Histogram,
    compaction_milliseconds: Histogram,
    compaction_last: Gauge,
    leader_changes: Counter,
    proposals_failed: Counter,
    slow_reads: Counter,
    failed_reads: Counter,
    leases_expired: Counter,
    promotions: Counter,
    installs: Gauge,
    health_success: Counter,
    health_failures: Counter,
    grpc: Arc<GrpcMetrics>,
    peers: Mutex<BTreeMap<MemberId, Arc<PeerMetrics>>>,
    status: Mutex<Option<Status>>,
}

impl Metrics {
    /// `server_version` is etcd's version that the server answers as; `extensive` (`--metrics
    /// extensive`) adds how long gRPC calls take.
    pub fn new(server_version: &str, extensive: bool) -> Self {
        Self {
            server_version: server_version.to_owned(),
            wal_sync_seconds: Histogram::exponential(0.001, 2.0, 14),
            wal_bytes: Gauge::default(),
            commit_seconds: Histogram::exponential(0.001, 2.0, 14),
            defrag_seconds: Histogram::exponential(0.1, 2.0, 13),
            defrags: Gauge::default(),
            snapshot_seconds: Histogram::exponential(0.01, 2.0, 17),
            compaction_milliseconds: Histogram::exponential(100.0, 2.0, 14),
            compaction_last: Gauge::default(),
            leader_changes: Counter::default(),
            proposals_failed: Counter::default(),
            slow_reads: Counter::default(),
            failed_reads: Counter::default(),
            leases_expired: Counter::default(),
            promotions: Counter::default(),
            installs: Gauge::default(),
            health_success: Counter::default(),
            health_failures: Counter::default(),
            grpc: Arc::new(GrpcMetrics::new(extensive)),
            peers: Mutex::default(),
            status: Mutex::default(),
        }
    }

    /// The log has written and synchronised `bytes`.
    pub fn wal_synced(&self, took: Duration, bytes: u64) {
        self.wal_sync_seconds.seconds(took);
        self.wal_bytes.add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// The backend has committed a batch.
    pub fn backend_committed(&self, took: Duration) {
        self.commit_seconds.seconds(took);
    }

    /// The backend begins to rewrite its file; [`Metrics::defragmented`] follows.
    pub fn defragment_started(&self) {
        self.defrags.set(1);
    }

    /// The backend has rewritten its file, or has failed to.
    pub fn defragmented(&self, took: Duration) {
        self.defrags.set(0);
        self.defrag_seconds.seconds(took);
    }

    /// A physical compaction has ended.
    pub fn compacted(&self, took: Duration) {
        self.compaction_milliseconds.observe(took.as_secs_f64() * 1000.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.compaction_last.set(now.as_secs());
    }

    /// A snapshot of the backend was streamed to its reader.
    pub fn snapshot_streamed(&self, took: Duration) {
        self.snapshot_seconds.seconds(took);
    }

    /// The backend's state begins to be replaced by a received snapshot; the node's event
    /// `SnapshotInstalled` is the end of it.
    pub fn snapshot_install_started(&self) {
        self.installs.set(1);
    }

    /// A probe of `/health` was answered.
    pub fn health_checked(&self, healthy: bool) {
        if healthy { self.health_success.inc() } else { self.health_failures.inc() }
    }

    /// Counts what the node tells.
    pub fn event(&self, event: &NodeEvent) {
        match event {
            NodeEvent::LeaderElected { .. } => self.leader_changes.inc(),
            NodeEvent::ProposalFailed => self.proposals_failed.inc(),
            NodeEvent::ReadIndexSlow => self.slow_reads.inc(),
            NodeEvent::ReadIndexFailed => self.failed_reads.inc(),
            NodeEvent::LeaseExpired { .. } => self.leases_expired.inc(),
            // Promotions are the leader's work, and only the leader counts them.
            NodeEvent::MemberPromoted { .. } if self.leads() => self.promotions.inc(),
            NodeEvent::SnapshotInstalled { .. } => self.installs.set(0),
            NodeEvent::MemberRemoved { id } => {
                self.peers.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
            }
            _ => {}
        }
    }

    fn leads(&self) -> bool {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.as_ref().is_some_and(|status| status.role == Role::Leader)
    }

    /// Takes over the node's state; the last one is what is shown.
    pub fn observe(&self, status: &Status) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status.clone());
    }

    /// A peer's counters, to be kept by whoever counts. They are shown until the peer is removed.
    pub fn peer(&self, id: MemberId) -> Arc<PeerMetrics> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.entry(id).or_insert_with(|| Arc::new(PeerMetrics::new())).clone()
    }

    /// The layer that counts gRPC calls; put it around everything else that handles a call.
    pub fn grpc_layer(&self) -> GrpcMetricsLayer {
        GrpcMetricsLayer::new(self.grpc.clone())
    }

    /// The page that Prometheus scrapes, in text format 0.0.4.
    pub fn encode(&self) -> String {
        let mut page = Page::default();
        self.encode_storage(&mut page);
        self.encode_server(&mut page);
        self.grpc.encode(&mut page);
        process::encode(&mut page);
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let local = status.as_ref().map_or(0, |status| status.member_id);
        if let Some(status) = &status {
            encode_status(&mut page, status);
        }
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (id, peer) in peers {
            peer.encode(&mut page, &format!("{local:x}"), &format!("{id:x}"));
        }
        page.finish()
    }

    fn encode_storage(&self, page: &mut Page) {
        let help = "How long a write to the log took until it was durable, in seconds.";
        page.histogram("etcd_disk_wal_fsync_duration_seconds", help, &[], &self.wal_sync_seconds);
        let help = "Total number of bytes written to the log.";
        page.gauge("etcd_disk_wal_write_bytes_total", help, &[], &self.wal_bytes);
        let help = "How long the backend took to commit a batch, in seconds.";
        page.histogram("etcd_disk_backend_commit_duration_seconds", help, &[], &self.commit_seconds);
        let help = "How long the backend took to rewrite its file, in seconds.";
        page.histogram("etcd_disk_backend_defrag_duration_seconds", help, &[], &self.defrag_seconds);
        let help = "Whether the backend is rewriting its file.";
        page.gauge("etcd_disk_defrag_inflight", help, &[], &self.defrags);
        let help = "How long the streaming of a snapshot took, in seconds.";
        page.histogram("etcd_disk_backend_snapshot_duration_seconds", help, &[], &self.snapshot_seconds);
        let help = "How long physical compactions took, in milliseconds.";
        let name = "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds";
        page.histogram(name, help, &[], &self.compaction_milliseconds);
        let help = "The unix time of the last physical compaction.";
        page.gauge("etcd_debugging_mvcc_db_compaction_last", help, &[], &self.compaction_last);
    }

    fn encode_server(&self, page: &mut Page) {
        let labels = [("server_version", self.server_version.as_str())];
        page.sample("etcd_server_version", Kind::Gauge, "Which version is running.", &labels, 1);
        let mut counter = |name, help: &str, counter| page.counter(name, help, &[], counter);
        let help = "The number of leader changes seen.";
        counter("etcd_server_leader_changes_seen_total", help, &self.leader_changes);
        let help = "The total number of failed proposals seen.";
        counter("etcd_server_proposals_failed_total", help, &self.proposals_failed);
        let help = "The total number of linearizable reads that waited long for the leader.";
        counter("etcd_server_slow_read_indexes_total", help, &self.slow_reads);
        let help = "The total number of linearizable reads that the leader did not confirm.";
        counter("etcd_server_read_indexes_failed_total", help, &self.failed_reads);
        let help = "The total number of expired leases.";
        counter("etcd_debugging_server_lease_expired_total", help, &self.leases_expired);
        let help = "The total number of learners promoted while this member led.";
        counter("etcd_server_learner_promote_successes", help, &self.promotions);
        let help = "The total number of health checks that succeeded.";
        counter("etcd_server_health_success", help, &self.health_success);
        let help = "The total number of health checks that failed.";
        counter("etcd_server_health_failures", help, &self.health_failures);
        let help = "Whether a received snapshot is replacing the state.";
        page.gauge("etcd_server_snapshot_apply_in_progress_total", help, &[], &self.installs);
    }
}

fn encode_status(page: &mut Page, status: &Status) {
    let id = format!("{:x}", status.member_id);
    let one = |condition: bool| u64::from(condition);
    page.sample(
        "etcd_server_id",
        Kind::Gauge,
        "Server or member ID in hexadecimal format.",
        &[("server_id", &id)],
        1,
    );
    if let Some(version) = &status.cluster_version {
        // As etcd shows it, without the patch number.
        let short = version.rsplit_once('.').map_or(version.as_str(), |(short, _)| short);
        let help = "Which cluster version is running.";
        page.sample("etcd_cluster_version", Kind::Gauge, help, &[("cluster_version", short)], 1);
    }
    for alarm in &status.alarms {
        let kind = match alarm.alarm {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        };
        let member = format!("{:x}", alarm.member_id);
        let labels = [("server_id", member.as_str()), ("alarm_type", kind)];
        page.sample("etcd_debugging_server_alarms", Kind::Gauge, "Active alarms.", &labels, 1);
    }
    for member in status.members.iter().filter(|member| member.id != status.member_id) {
        let remote = format!("{:x}", member.id);
        let labels = [("Local", id.as_str()), ("Remote", &remote)];
        page.sample("etcd_network_known_peers", Kind::Gauge, "The members that are known.", &labels, 1);
    }
    let mut gauge = |name, help: &str, value: u64| page.sample(name, Kind::Gauge, help, &[], value);
    let count = |count: usize| count as u64;
    gauge("etcd_server_has_leader", "Whether a leader exists.", one(status.leader != 0));
    gauge("etcd_server_is_leader", "Whether this member leads.", one(status.role == Role::Leader));
    gauge("etcd_server_is_learner", "Whether this member is a learner.", one(status.role == Role::Learner));
    gauge("etcd_server_proposals_committed_total", "The last committed index.", status.committed);
    gauge("etcd_server_proposals_applied_total", "The last applied index.", status.applied);
    gauge("etcd_server_proposals_pending", "Requests that are not answered yet.", count(status.requests));
    gauge("etcd_server_quota_backend_bytes", "The backend's quota in bytes.", status.quota_bytes);
    gauge("etcd_mvcc_db_total_size_in_bytes", "The size of the backend's file in bytes.", status.db_size);
    // 3.4's name of the same, which its dashboards use.
    let help = "The size of the backend's file in bytes.";
    gauge("etcd_debugging_mvcc_db_total_size_in_bytes", help, status.db_size);
    let help = "The part of the backend's file that is in use, in bytes.";
    gauge("etcd_mvcc_db_total_size_in_use_in_bytes", help, status.db_size_in_use);
    gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", count(status.watch_streams));
    gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", count(status.watchers));
    let help = "Watchers that are behind and catch up.";
    gauge("etcd_debugging_mvcc_slow_watcher_total", help, count(status.slow_watchers));
    gauge("cairn_leases", "Leases that exist.", count(status.leases));
    gauge("cairn_raft_term", "Raft's term.", status.term);
    gauge(
        "cairn_backend_flushed_index",
        "The last index whose effects are in the backend's file.",
        status.flushed,
    );
    let mut signed = |name, help: &str, value: i64| page.sample(name, Kind::Gauge, help, &[], value);
    signed("etcd_debugging_mvcc_current_revision", "The store's revision.", status.revision);
    signed("etcd_debugging_mvcc_compact_revision", "The compact revision.", status.compact_revision);
}
