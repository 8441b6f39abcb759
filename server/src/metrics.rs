//! The numbers that operators watch, under etcd's names.
//!
//! Names, types, label names and buckets are etcd's, so that dashboards and alert rules work unchanged;
//! what etcd has no name for is called `cairn_*`. A family is here only if something feeds it, or if what it
//! counts does not exist (`absent`); etcd's durations of the watch streams' send loop and its `go_gc_*` and
//! `go_memstats_*` are left out, because nothing here could feed them. The threads of the driver count through the methods of
//! [`Metrics`], services through [`GrpcMetricsLayer`], the transport through [`PeerMetrics`]; state that
//! the node publishes is taken over by [`Metrics::observe`].
//!
//! Invariant: counting never blocks and never fails; [`Metrics::encode`] may be called at any time.

mod absent;
mod applies;
mod grpc;
mod health;
mod peer;
mod process;
mod state;
mod storage;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cairn_core::node::{AppliedOps, NodeEvent, Role, Status};
use cairn_core::types::MemberId;
use cairn_net::http::client::HealthCheck;
use tokio::runtime::Handle;

pub use grpc::{Counted, GrpcMetricsLayer, GrpcMetricsService};
pub use peer::PeerMetrics;
pub use storage::LogTimes;
pub use text::{Counter, Gauge, Histogram};

use applies::ApplyMetrics;
use cairn_net::services::Calls;
use grpc::GrpcMetrics;
use health::HealthMetrics;
use storage::StorageMetrics;
use text::{Kind, Page};

use crate::config::{Features, Stage};

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    server_version: String,
    features: Vec<(&'static str, &'static str, bool)>,
    storage: StorageMetrics,
    applies: ApplyMetrics,
    health: HealthMetrics,
    leader_changes: Counter,
    proposals_failed: Counter,
    slow_reads: Counter,
    failed_reads: Counter,
    late_heartbeats: Counter,
    leases_expired: Counter,
    promotions: Counter,
    installs: Gauge,
    scrapes: Counter,
    grpc: Arc<GrpcMetrics>,
    peers: Mutex<BTreeMap<MemberId, Arc<PeerMetrics>>>,
    status: Mutex<Option<Status>>,
    runtimes: Mutex<Vec<Handle>>,
}

impl Metrics {
    /// `server_version` is etcd's version that the server answers as; `extensive` (`--metrics
    /// extensive`) adds how long gRPC calls take; `features` are the feature gates.
    pub fn new(server_version: &str, extensive: bool, features: &Features) -> Self {
        let stage = |stage| if stage == Stage::Alpha { "ALPHA" } else { "BETA" };
        Self {
            server_version: server_version.to_owned(),
            features: features.iter().map(|(name, ripe, on)| (name, stage(ripe), on)).collect(),
            storage: StorageMetrics::new(),
            applies: ApplyMetrics::new(),
            health: HealthMetrics::default(),
            leader_changes: Counter::default(),
            proposals_failed: Counter::default(),
            slow_reads: Counter::default(),
            failed_reads: Counter::default(),
            late_heartbeats: Counter::default(),
            leases_expired: Counter::default(),
            promotions: Counter::default(),
            installs: Gauge::default(),
            scrapes: Counter::default(),
            grpc: Arc::new(GrpcMetrics::new(extensive)),
            peers: Mutex::default(),
            status: Mutex::default(),
            runtimes: Mutex::default(),
        }
    }

    /// Counts the tasks of these runtimes too.
    pub fn count_tasks(&self, runtimes: impl IntoIterator<Item = Handle>) {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner).extend(runtimes);
    }

    /// The log has written and synchronised `bytes`.
    pub fn wal_synced(&self, times: LogTimes, bytes: u64) {
        self.storage.wal_synced(times, bytes);
    }

    /// The backend has committed a batch, and was in its file for a part of the time.
    pub fn backend_committed(&self, took: Duration, in_file: Duration) {
        self.storage.committed(took, in_file);
    }

    /// The backend begins to rewrite its file; [`Metrics::defragmented`] follows.
    pub fn defragment_started(&self) {
        self.storage.defragment_started();
    }

    /// The backend has rewritten its file, or has failed to.
    pub fn defragmented(&self, took: Duration) {
        self.storage.defragmented(took);
    }

    /// A batch of a physical compaction was committed, which removed that many changes.
    pub fn compacted_batch(&self, took: Duration, keys: u64) {
        self.storage.compacted_batch(took, keys);
    }

    /// A physical compaction has ended.
    pub fn compacted(&self, took: Duration) {
        self.storage.compacted(took);
    }

    /// A snapshot of the backend was streamed to its reader.
    pub fn snapshot_streamed(&self, took: Duration) {
        self.storage.snapshot_streamed(took);
    }

    /// A peer's snapshot is complete on disk; a part of the time made it durable.
    pub fn snapshot_saved(&self, took: Duration, sync: Duration) {
        self.storage.snapshot_saved(took, sync);
    }

    /// A received snapshot is in the place of the state; a part of the time made that durable.
    pub fn snapshot_placed(&self, took: Duration, sync: Duration) {
        self.storage.snapshot_placed(took, sync);
    }

    /// A view of the backend is being read, until the answer is dropped.
    pub fn view_opened(&self) -> OpenView<'_> {
        self.storage.open_views.add(1);
        OpenView(&self.storage.open_views)
    }

    /// The backend's state begins to be replaced by a received snapshot; the node's event
    /// `SnapshotInstalled` is the end of it.
    pub fn snapshot_install_started(&self) {
        self.installs.set(1);
    }

    /// A probe over HTTP was answered.
    pub fn health_checked(&self, check: HealthCheck) {
        self.health.checked(check);
    }

    /// A turn of the node's thread has applied what lies between the two counts.
    pub fn applied(&self, before: &AppliedOps, now: &AppliedOps, took: Duration, slow: bool) {
        self.applies.turn(before, now, took, slow);
    }

    /// A leader's heartbeats are due for long.
    pub fn heartbeat_late(&self) {
        self.late_heartbeats.inc();
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

    /// The same counts for calls that pass no layer.
    pub fn calls(&self) -> Arc<dyn Calls> {
        self.grpc.clone()
    }

    /// The layer that counts gRPC calls; put it around everything else that handles a call.
    pub fn grpc_layer(&self) -> GrpcMetricsLayer {
        GrpcMetricsLayer::new(self.grpc.clone())
    }

    /// The page that Prometheus scrapes, in text format 0.0.4.
    pub fn encode(&self) -> String {
        let mut page = Page::default();
        self.storage.encode(&mut page);
        self.applies.encode(&mut page);
        self.health.encode(&mut page);
        self.encode_server(&mut page);
        self.encode_scrapes(&mut page);
        self.grpc.encode(&mut page);
        process::encode(&mut page, &self.runtimes.lock().unwrap_or_else(PoisonError::into_inner));
        absent::encode(&mut page);
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let local = status.as_ref().map_or(0, |status| status.member_id);
        if let Some(status) = &status {
            state::encode(&mut page, status);
        }
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (id, peer) in peers {
            peer.encode(&mut page, &format!("{local:x}"), &format!("{id:x}"));
        }
        page.finish()
    }

    fn encode_server(&self, page: &mut Page) {
        let labels = [("server_version", self.server_version.as_str())];
        page.sample("etcd_server_version", Kind::Gauge, "Which version is running.", &labels, 1);
        let help = "Which version of Go the server runs on.";
        let labels = [("server_go_version", "none")];
        page.sample("etcd_server_go_version", Kind::Gauge, help, &labels, 1);
        for (name, stage, on) in &self.features {
            let labels = [("name", *name), ("stage", *stage)];
            let help = "Whether a feature is enabled.";
            page.sample("etcd_server_feature_enabled", Kind::Gauge, help, &labels, u8::from(*on));
        }
        let mut counter = |name, help: &str, counter| page.counter(name, help, &[], counter);
        let help = "The number of leader changes seen.";
        counter("etcd_server_leader_changes_seen_total", help, &self.leader_changes);
        let help = "The total number of failed proposals seen.";
        counter("etcd_server_proposals_failed_total", help, &self.proposals_failed);
        let help = "The total number of linearizable reads that waited long for the leader.";
        counter("etcd_server_slow_read_indexes_total", help, &self.slow_reads);
        let help = "The total number of linearizable reads that the leader did not confirm.";
        counter("etcd_server_read_indexes_failed_total", help, &self.failed_reads);
        let help = "The total number of heartbeats that this leader was late to send.";
        counter("etcd_server_heartbeat_send_failures_total", help, &self.late_heartbeats);
        let help = "The total number of expired leases.";
        counter("etcd_debugging_server_lease_expired_total", help, &self.leases_expired);
        let help = "The total number of learners promoted while this member led.";
        counter("etcd_server_learner_promote_successes", help, &self.promotions);
        let help = "Whether a received snapshot is replacing the state.";
        page.gauge("etcd_server_snapshot_apply_in_progress_total", help, &[], &self.installs);
    }

    /// Scrapes always succeed, and are so short that this one is the only one under way.
    fn encode_scrapes(&self, page: &mut Page) {
        let help = "Current number of scrapes being served.";
        page.sample("promhttp_metric_handler_requests_in_flight", Kind::Gauge, help, &[], 1);
        for (code, count) in [("200", self.scrapes.value()), ("500", 0), ("503", 0)] {
            let help = "Total number of scrapes by HTTP status code.";
            let labels = [("code", code)];
            page.sample("promhttp_metric_handler_requests_total", Kind::Counter, help, &labels, count);
        }
        self.scrapes.inc();
    }
}

/// Counts a view as open until it is dropped.
#[derive(Debug)]
pub struct OpenView<'a>(&'a Gauge);

impl Drop for OpenView<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}
