//! What the log, the backend and snapshots cost.
//!
//! etcd's backend splits a commit into rebalance, spill and write. Here pages are merged and split in one
//! step while rows are put into the tables, which is all counted as spill; rebalance is a true zero.
//! A compaction removes index rows in the batches of the history, so the index itself is never paused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::text::{Counter, Gauge, Histogram, Page};

/// How long an append to the log took, and where the time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogTimes {
    /// Writing.
    pub write: Duration,
    /// Synchronising.
    pub sync: Duration,
}

#[derive(Debug)]
pub(super) struct StorageMetrics {
    wal_sync: Histogram,
    wal_write: Histogram,
    wal_bytes: Gauge,
    commit: Histogram,
    rebalance: Histogram,
    spill: Histogram,
    write: Histogram,
    defrag: Histogram,
    defrags: Gauge,
    snapshot: Histogram,
    compaction: Histogram,
    compaction_pause: Histogram,
    index_pause: Histogram,
    compaction_keys: Counter,
    compaction_last: Gauge,
    snapshot_db_save: Histogram,
    snapshot_db_sync: Histogram,
    snapshot_save: Histogram,
    snapshot_sync: Histogram,
    pub(super) open_views: Gauge,
}

impl StorageMetrics {
    pub(super) fn new() -> Self {
        let disk = || Histogram::exponential(0.001, 2.0, 14);
        Self {
            wal_sync: disk(),
            wal_write: disk(),
            wal_bytes: Gauge::default(),
            commit: disk(),
            rebalance: disk(),
            spill: disk(),
            write: disk(),
            defrag: Histogram::exponential(0.1, 2.0, 13),
            defrags: Gauge::default(),
            snapshot: Histogram::exponential(0.01, 2.0, 17),
            compaction: Histogram::exponential(100.0, 2.0, 14),
            compaction_pause: Histogram::exponential(1.0, 2.0, 13),
            index_pause: Histogram::exponential(0.5, 2.0, 14),
            compaction_keys: Counter::default(),
            compaction_last: Gauge::default(),
            snapshot_db_save: Histogram::exponential(0.1, 2.0, 10),
            snapshot_db_sync: disk(),
            snapshot_save: disk(),
            snapshot_sync: disk(),
            open_views: Gauge::default(),
        }
    }

    pub(super) fn wal_synced(&self, times: LogTimes, bytes: u64) {
        self.wal_write.seconds(times.write);
        self.wal_sync.seconds(times.sync);
        self.wal_bytes.add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn committed(&self, took: Duration, in_file: Duration) {
        self.commit.seconds(took);
        self.write.seconds(in_file.min(took));
        self.spill.seconds(took.saturating_sub(in_file));
        self.rebalance.observe(0.0);
    }

    pub(super) fn defragment_started(&self) {
        self.defrags.set(1);
    }

    pub(super) fn defragmented(&self, took: Duration) {
        self.defrags.set(0);
        self.defrag.seconds(took);
    }

    pub(super) fn compacted_batch(&self, took: Duration, keys: u64) {
        self.compaction_pause.observe(milliseconds(took));
        self.compaction_keys.add(keys);
    }

    pub(super) fn compacted(&self, took: Duration) {
        self.compaction.observe(milliseconds(took));
        self.index_pause.observe(0.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.compaction_last.set(now.as_secs());
    }

    pub(super) fn snapshot_streamed(&self, took: Duration) {
        self.snapshot.seconds(took);
    }

    pub(super) fn snapshot_saved(&self, took: Duration, sync: Duration) {
        self.snapshot_db_save.seconds(took);
        self.snapshot_db_sync.seconds(sync);
    }

    pub(super) fn snapshot_placed(&self, took: Duration, sync: Duration) {
        self.snapshot_save.seconds(took);
        self.snapshot_sync.seconds(sync);
    }

    pub(super) fn encode(&self, page: &mut Page) {
        let mut histogram = |name, help: &str, histogram| page.histogram(name, help, &[], histogram);
        let help = "How long the log took to make what was written durable, in seconds.";
        histogram("etcd_disk_wal_fsync_duration_seconds", help, &self.wal_sync);
        let help = "How long a write to the log took before it was made durable, in seconds.";
        histogram("etcd_disk_wal_write_duration_seconds", help, &self.wal_write);
        let help = "How long the backend took to commit a batch, in seconds.";
        histogram("etcd_disk_backend_commit_duration_seconds", help, &self.commit);
        let help = "The part of a commit that merged pages, in seconds: it belongs to spill here.";
        histogram("etcd_debugging_disk_backend_commit_rebalance_duration_seconds", help, &self.rebalance);
        let help = "The part of a commit that put rows into tables, in seconds.";
        histogram("etcd_debugging_disk_backend_commit_spill_duration_seconds", help, &self.spill);
        let help = "The part of a commit that wrote and synchronised the file, in seconds.";
        histogram("etcd_debugging_disk_backend_commit_write_duration_seconds", help, &self.write);
        let help = "How long the backend took to rewrite its file, in seconds.";
        histogram("etcd_disk_backend_defrag_duration_seconds", help, &self.defrag);
        let help = "How long the streaming of a snapshot took, in seconds.";
        histogram("etcd_disk_backend_snapshot_duration_seconds", help, &self.snapshot);
        let help = "How long physical compactions took, in milliseconds.";
        let name = "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds";
        histogram(name, help, &self.compaction);
        let help = "How long each batch of a physical compaction kept the backend, in milliseconds.";
        let name = "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds";
        histogram(name, help, &self.compaction_pause);
        let help = "How long compactions kept the index, in milliseconds: they do not.";
        let name = "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds";
        histogram(name, help, &self.index_pause);
        let help = "How long a peer's snapshot took until it was complete on disk, in seconds.";
        histogram("etcd_snap_db_save_total_duration_seconds", help, &self.snapshot_db_save);
        let help = "How long a received snapshot took to be made durable, in seconds.";
        histogram("etcd_snap_db_fsync_duration_seconds", help, &self.snapshot_db_sync);
        let help = "How long a received snapshot took to replace the state, in seconds.";
        histogram("etcd_debugging_snap_save_total_duration_seconds", help, &self.snapshot_save);
        let help = "The part of it that made the replacement durable, in seconds.";
        histogram("etcd_snap_fsync_duration_seconds", help, &self.snapshot_sync);
        let help = "Total number of bytes written to the log.";
        page.gauge("etcd_disk_wal_write_bytes_total", help, &[], &self.wal_bytes);
        let help = "Whether the backend is rewriting its file.";
        page.gauge("etcd_disk_defrag_inflight", help, &[], &self.defrags);
        let help = "Total number of db keys compacted.";
        page.counter("etcd_debugging_mvcc_db_compaction_keys_total", help, &[], &self.compaction_keys);
        let help = "The unix time of the last physical compaction.";
        page.gauge("etcd_debugging_mvcc_db_compaction_last", help, &[], &self.compaction_last);
        let help = "The number of currently open read transactions.";
        // The one below the overlay is always open.
        let open = 1 + self.open_views.value();
        page.sample("etcd_mvcc_db_open_read_transactions", super::Kind::Gauge, help, &[], open);
    }
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}
