//! What a node is told once, at its start.

use std::time::Duration;

use crate::types::{ClusterId, MemberId};

/// When old revisions are compacted without being asked (inventory A-KV-52).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Keep about this much time of history.
    Periodic(Duration),
    /// Keep this many revisions; checked every five minutes.
    Revision(i64),
}

/// A node's settings. Every queue that a peer or a client can fill has its bound here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This member.
    pub member_id: MemberId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// The name that it publishes.
    pub name: String,
    /// The client URLs that it publishes.
    pub client_urls: Vec<String>,
    /// A number that no earlier start of this member used: the top of every command id.
    pub boot: u64,
    /// The seed of all randomness.
    pub seed: u64,
    /// The time of one tick: the heartbeat interval.
    pub heartbeat: Duration,
    /// Ticks without a leader before a campaign; the actual number is drawn between this and twice it.
    pub election_ticks: usize,
    /// Count as if most of the first election timeout had passed already.
    pub initial_election_tick_advance: bool,
    /// Ask before campaigning (Raft thesis 9.6).
    pub pre_vote: bool,
    /// Applied entries that gather beyond `catchup_entries` before they are dropped from memory.
    pub snapshot_count: u64,
    /// Applied entries that stay in memory for slow followers.
    pub catchup_entries: u64,
    /// Bytes of log entries that may stay in memory, whatever the two numbers above say.
    pub log_bytes_max: usize,
    /// The same for entries that no member is known to lack.
    pub log_shared_bytes_max: usize,
    /// Backend bytes above which writes are refused; `None` for no limit.
    pub quota_bytes: Option<u64>,
    /// Operations in one transaction.
    pub txn_ops_max: usize,
    /// Bytes of one request.
    pub request_bytes_max: usize,
    /// Requests that wait for an answer.
    pub requests_max: usize,
    /// Refuse membership changes that would endanger the quorum.
    pub strict_reconfig: bool,
    /// Learners in the cluster.
    pub learners_max: usize,
    /// Automatic compaction.
    pub auto_compaction: Option<AutoCompaction>,
    /// Index rows that a range may visit on the node's own thread before it is moved to another.
    pub inline_rows_max: usize,
    /// Overlay entries that start a flush.
    pub flush_entries_max: usize,
    /// Overlay bytes that start a flush.
    pub flush_bytes_max: usize,
    /// The longest that applied changes stay unflushed.
    pub flush_age_max: Duration,
    /// How often a watcher that asked for it hears of progress.
    pub watch_progress_interval: Duration,
    /// The version that the first leader gives to the cluster.
    pub cluster_version: String,
}

impl Config {
    /// etcd's defaults for a member.
    pub fn new(member_id: MemberId, cluster_id: ClusterId, boot: u64, seed: u64) -> Self {
        Self {
            member_id,
            cluster_id,
            name: "default".to_owned(),
            client_urls: Vec::new(),
            boot,
            seed,
            heartbeat: Duration::from_millis(100),
            election_ticks: 10,
            initial_election_tick_advance: true,
            pre_vote: true,
            snapshot_count: 10_000,
            catchup_entries: 5_000,
            log_bytes_max: 128 << 20,
            log_shared_bytes_max: 16 << 20,
            quota_bytes: Some(2 << 30),
            txn_ops_max: 128,
            request_bytes_max: 1_572_864,
            requests_max: 50_000,
            strict_reconfig: true,
            learners_max: 1,
            auto_compaction: None,
            inline_rows_max: 256,
            flush_entries_max: 50_000,
            flush_bytes_max: 32 << 20,
            flush_age_max: Duration::from_secs(10),
            watch_progress_interval: Duration::from_secs(600),
            cluster_version: "3.7.0".to_owned(),
        }
    }

    /// The election timeout.
    pub fn election_timeout(&self) -> Duration {
        self.heartbeat * u32::try_from(self.election_ticks).unwrap_or(u32::MAX)
    }

    /// How long a request may wait: 5 s and two election timeouts (A-GEN-06).
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout()
    }
}
