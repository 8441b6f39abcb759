//! The member as a state machine: inputs in, outputs out, with time and randomness passed in.
//!
//! [`Node::handle`] takes one input and never fails, waits or does IO. [`Node::poll`] hands out what
//! is to be done; a driver feeds all the inputs that it has, then drains `poll` to `None`: that drain
//! is one group commit. The parts:
//!
//! - `ready`: the `raft` crate's Ready, turned into appends, messages and applies;
//! - `propose`, `read`, `member`, `forward`: the ways of a request through the member;
//! - `apply`: the only place where replicated state changes;
//! - `repair`: log entries that rotted are fetched from peers before Raft starts;
//! - `failover`: an early election when the leader's process has ended;
//! - `timers`: ticks, deadlines, lease expiry, flushes, automatic compaction;
//! - `snapshot`: a follower's catch-up by bulk transfer;
//! - `force`: the last member of a lost cluster becomes one of its own, before the start.
//!
//! **Invariant:** an emitted output is safe to perform at once. Messages that promise something wait
//! here until the append that backs the promise is durable.
//!
//! **Invariant:** `compacted <= flushed <= applied <= min(committed, persisted) <= last`.

mod applied;
mod apply;
mod config;
mod failover;
mod force;
mod forward;
mod input;
mod invariants;
pub(crate) mod member;
mod output;
mod peer_message;
mod propose;
mod read;
mod ready;
mod repair;
mod request;
mod snapshot;
mod status;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use raft::eraftpb::MessageType;
use raft::{RawNode, StateRole};

use crate::api::{AlarmMember, WatchCreateRequest};
use crate::backend::{Backend, Size, Table};
use crate::cluster::Cluster;
use crate::command::CommandId;
use crate::error::Fatal;
use crate::lease::{Lessor, LessorOptions};
use crate::mvcc::{Store, StoreOptions, StoreView};
use crate::planted::{self, Bug};
use crate::raft_log::RaftLog;
use crate::rng::Rng;
use crate::time::Time;
use crate::types::{ClusterId, Index, MemberId, Term};
use crate::wal::{self, Damaged, HardState, LogEntry, LogStart};
use crate::watch::WatchHub;

pub use applied::{APPLIED_OPS, AppliedOps};
pub use apply::decode_alarms;
pub use config::{AutoCompaction, Config};
pub use force::force_new_cluster;
pub use input::Input;
pub use output::{NodeEvent, Output};
pub use read::ReadTask;
pub use snapshot::{applied_position, bootstrap_batch};
pub use status::{Progress, Role, Status, Wakeup, WakeupReason};

use peer_message::{PeerMessage, RaftMessage};
use request::Requests;

/// What a driver found in the write-ahead log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Where the log begins.
    pub log_start: LogStart,
    /// The newest term, vote and commit index.
    pub hard_state: HardState,
    /// The entries after `log_start`.
    pub entries: Vec<LogEntry>,
    /// Those of them whose bytes are gone.
    pub damaged: Vec<Damaged>,
}

impl From<wal::Recovered> for Recovered {
    fn from(found: wal::Recovered) -> Self {
        let wal::Recovered { log_start, hard_state, entries, damaged, .. } = found;
        Self { log_start, hard_state, entries, damaged }
    }
}

/// A member. See the module's documentation for the manner of use.
pub struct Node {
    config: Config,
    now: Time,
    raw: RawNode<RaftLog>,
    backend: Arc<dyn Backend>,
    store: Store,
    watch: WatchHub,
    lessor: Lessor,
    cluster: Cluster,
    alarms: BTreeSet<AlarmMember>,
    outputs: VecDeque<Output>,
    dirty: bool,
    failed: bool,
    removed: bool,
    /// When this member stops at the latest, if the only voter that is left may not know that it was removed.
    leaving: Option<Time>,

    /// Raft's role, leader and term as last seen, to notice changes.
    role: StateRole,
    leader: MemberId,
    term: Term,
    applied: Index,
    applied_term: Term,

    requests: Requests,
    routing: propose::Routing,
    reads: read::Reads,
    append: ready::Appends,
    timers: timers::Timers,
    snapshots: snapshot::Snapshots,
    /// Where the other members listen, as the driver was told.
    peers: BTreeMap<MemberId, Vec<String>>,
    /// Since when the connections to peers have been up.
    connected: BTreeMap<MemberId, Time>,
    size: Size,
    flush: timers::FlushState,
    publish: member::Publish,
    /// Requests of followers that this leader answers, by the id that they have here.
    forwarded: BTreeMap<u64, CommandId>,
    failover: Option<failover::Failover>,
    repair: Option<repair::Repair>,
    /// Lease ids chosen since the start.
    lease_ids: u64,
    applied_ops: AppliedOps,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Node {
    /// A member that continues from its log and its backend.
    ///
    /// # Errors
    /// The backend cannot be read, or the log and the backend do not belong together.
    pub fn start(
        config: Config,
        recovered: Recovered,
        backend: Arc<dyn Backend>,
        now: Time,
    ) -> Result<Node, Fatal> {
        let store = Store::open(backend.clone(), StoreOptions::default())?;
        let position = snapshot::Position::load(&store)?;
        let (recovered, first_append) = snapshot::recover_log(recovered, &position)?;
        let damaged = recovered.damaged.first().cloned();
        let (log, repair) = if damaged.is_some() {
            let repair = repair::Repair::new(recovered, now);
            (repair.log_meanwhile(&position), Some(repair))
        } else {
            let Recovered { log_start, hard_state, entries, .. } = recovered;
            let (applied, voters) = (position.applied, position.voters.clone());
            (RaftLog::new(log_start, entries, hard_state, voters, applied), None)
        };
        let raft_config = raft_config(&config, position.applied.index);
        let raw = RawNode::new(&raft_config, log, &quiet_logger())
            .map_err(|error| Fatal(format!("the Raft state cannot be loaded: {error}")))?;
        let watch = WatchHub::new(
            crate::watch::WatchOptions {
                progress_interval: config.watch_progress_interval,
                fragment_bytes_max: config.request_bytes_max + (512 << 10),
                ..crate::watch::WatchOptions::default()
            },
            config.seed ^ config.boot,
        );
        let size = backend.size();
        let mut node = Node {
            timers: timers::Timers::new(&config, now),
            reads: read::Reads::default(),
            now,
            raw,
            backend,
            store,
            watch,
            lessor: Lessor::new(min_lease_ttl(&config), LessorOptions::default()),
            cluster: Cluster::default(),
            alarms: BTreeSet::new(),
            outputs: VecDeque::new(),
            dirty: true,
            failed: false,
            removed: false,
            leaving: None,
            role: StateRole::Follower,
            leader: 0,
            term: 0,
            applied: position.applied.index,
            applied_term: position.applied.term,
            requests: Requests::default(),
            routing: propose::Routing::default(),
            append: ready::Appends::default(),
            snapshots: snapshot::Snapshots::default(),
            peers: BTreeMap::new(),
            connected: BTreeMap::new(),
            size,
            flush: timers::FlushState::default(),
            publish: member::Publish::default(),
            forwarded: BTreeMap::new(),
            failover: None,
            repair,
            lease_ids: 0,
            applied_ops: AppliedOps::default(),
            config,
        };
        node.load_replicated_state()?;
        node.term = node.raw.raft.term;
        if let Some(append) = first_append {
            node.append.emitted += 1;
            node.emit(Output::Append { seq: node.append.emitted, append });
        }
        node.spread_election_timeout();
        match damaged {
            Some(damaged) if node.peers.is_empty() => return Err(Fatal(damaged.error().to_string())),
            Some(_) => node.tell_damage(),
            None => node.first_election(),
        }
        Ok(node)
    }

    /// Takes one input. Total: whatever is wrong becomes a reply, an event or [`Output::Fatal`].
    pub fn handle(&mut self, now: Time, input: Input) {
        self.now = self.now.max(now);
        if self.failed {
            return;
        }
        self.dirty = true;
        match input {
            Input::Wakeup => {}
            Input::Request { id, request, timeout } => self.handle_request(id, request, timeout),
            Input::WatchOpen { stream } => self.watch.open(stream),
            Input::WatchCreate { stream, request } => self.create_watcher(stream, &request),
            Input::WatchCancel { stream, watch_id } => self.watch.cancel(stream, watch_id),
            Input::WatchProgress { stream } => self.watch.request_progress(stream),
            Input::WatchCredit { stream, responses } => self.watch.credit(stream, responses),
            Input::WatchClose { stream } => self.watch.close(stream),
            Input::Peer { from, message } => self.handle_peer(from, &message),
            Input::PeerConnected { peer } => self.handle_peer_connected(peer),
            Input::PeerUnreachable { peer } => self.handle_peer_unreachable(peer),
            Input::PeerLost { peer } => self.handle_peer_lost(peer),
            Input::Removed => self.handle_removed(),
            Input::Appended { seq } => self.handle_appended(seq),
            Input::Flushed { size } => self.handle_flushed(size),
            Input::Compacted { to, size } => self.handle_compacted(to, size),
            Input::StorageFull => self.handle_storage_full(),
            Input::Defragmented { result, size } => self.handle_defragmented(result, size),
            Input::SnapshotSent { to, ok } => self.handle_snapshot_sent(to, ok),
            Input::SnapshotReceived { from, header } => self.handle_snapshot_received(from, &header),
            Input::SnapshotInstalled { size } => self.handle_snapshot_installed(size),
            Input::Resign => self.resign(),
        }
    }

    /// The next output; `None` when everything has been handed out.
    pub fn poll(&mut self) -> Option<Output> {
        if self.dirty && !self.failed {
            self.dirty = false;
            self.pump();
        }
        self.outputs.pop_front()
    }

    /// Takes a view that an output or a reply named. Each can be taken once.
    pub fn take_view(&mut self, view: u64) -> Option<StoreView> {
        self.snapshots.views.remove(&view)
    }

    /// Takes the read that [`Output::StartRead`] named. Each can be taken once.
    pub fn take_read(&mut self, id: u64) -> Option<ReadTask> {
        self.reads.tasks.remove(&id)
    }

    fn pump(&mut self) {
        self.advance_time();
        loop {
            self.process_ready();
            self.spread_election_timeout();
            self.notice_role();
            self.route_waiting();
            self.start_read_round();
            if self.failed || !self.can_process_ready() {
                break;
            }
        }
        self.after_apply();
        self.work_watch();
        self.maintain_storage();
        self.invariants();
    }

    /// A member that has failed says nothing after that: what it was in the middle of may be half done.
    fn emit(&mut self, output: Output) {
        if !self.failed {
            self.outputs.push_back(output);
        }
    }

    fn event(&mut self, event: NodeEvent) {
        self.emit(Output::Event(event));
    }

    /// Stops the member: nothing that is emitted after this may be a promise.
    fn fail(&mut self, fatal: Fatal) {
        if !self.failed {
            self.failed = true;
            self.outputs.clear();
            self.outputs.push_back(Output::Fatal(fatal));
        }
    }

    fn send(&mut self, to: MemberId, message: &PeerMessage) {
        if to != self.config.member_id && to != 0 {
            self.emit(Output::Send { to, message: message.encode() });
        }
    }

    fn is_leader(&self) -> bool {
        self.role == StateRole::Leader
    }

    fn handle_peer(&mut self, from: MemberId, bytes: &[u8]) {
        if self.cluster.is_removed(from) {
            return;
        }
        let Some(message) = PeerMessage::decode(bytes) else { return };
        // After a queue overflowed, nobody else says that the peer is well again.
        self.handle_peer_connected(from);
        match message {
            PeerMessage::Raft(message) => self.step(from, message),
            PeerMessage::Propose { term, id, kind, data } => {
                self.handle_propose(from, term, id, kind, data);
            }
            PeerMessage::ProposeRefused { term, id, refusal } => {
                self.handle_propose_refused(term, id, refusal);
            }
            PeerMessage::ReadIndex { context } => self.handle_read_index(from, context),
            PeerMessage::ReadIndexReply { context, index } => {
                self.handle_read_index_reply(context, index);
            }
            PeerMessage::Forward { id, request } => self.handle_forward(from, id, request),
            PeerMessage::ForwardReply { id, result } => self.handle_forward_reply(id, result),
            PeerMessage::RepairAsk { entries } => self.handle_repair_ask(from, entries),
            PeerMessage::RepairReply { term, answers } => self.handle_repair_reply(from, term, answers),
            PeerMessage::RepairOffer { applied } => self.handle_repair_offer(from, applied),
            PeerMessage::RepairState { index } => self.handle_repair_state(from, index),
            // Comes with its rows, never alone.
            PeerMessage::RepairSnapshot { .. } => {}
        }
    }

    fn create_watcher(&mut self, stream: u64, request: &WatchCreateRequest) {
        let view = self.store.view();
        if self.watch.create(stream, request, self.now, &view).is_err() {
            // The client asks and does not read: its stream ends.
            self.watch.close(stream);
            self.emit(Output::CloseWatch { stream });
        }
    }

    fn step(&mut self, from: MemberId, message: RaftMessage) {
        // Reliability row 32: an address may have changed hands.
        if message.from != from || message.to != self.config.member_id || message.is_snapshot() {
            return;
        }
        if self.repair.is_some() {
            return;
        }
        let Some(message) = message.into_raft() else { return };
        if message.get_msg_type() == MessageType::MsgTimeoutNow && self.snapshots.replacing() {
            return;
        }
        // An unknown peer or a stale response: the crate says so, and there is nothing to do.
        let _ = self.raw.step(message);
        self.plant_commit();
        self.spread_election_timeout();
    }

    /// What a leader commits too early when that is planted.
    fn plant_commit(&mut self) {
        let raft = &mut self.raw.raft;
        let index = if planted::on(Bug::CommitOldTerm) {
            raft.mut_prs().maximal_committed_index().0
        } else if planted::on(Bug::CommitWithoutQuorum) {
            raft.raft_log.persisted
        } else {
            return;
        };
        if raft.state == StateRole::Leader {
            raft.raft_log.commit_to(index);
        }
    }

    /// Draws the election timeout as a pure function of seed, member, term and role, because the
    /// crate draws it from the operating system.
    fn spread_election_timeout(&mut self) {
        let base = self.config.election_ticks as u64;
        let mut rng = Rng::derive(
            self.config.seed,
            &[self.config.member_id, self.raw.raft.term, self.raw.raft.state as u64],
        );
        let ticks = base + rng.below(base);
        self.raw.raft.set_randomized_election_timeout(usize::try_from(ticks).unwrap_or(usize::MAX));
    }

    /// Shortens the wait for the first leader (`--initial-election-tick-advance`).
    fn first_election(&mut self) {
        let voters = self.raw.raft.prs().conf().voters().ids();
        if voters.len() == 1 && voters.contains(self.config.member_id) {
            let _ = self.raw.campaign();
            self.spread_election_timeout();
        } else if self.config.initial_election_tick_advance {
            self.raw.raft.election_elapsed = self.config.election_ticks.saturating_sub(1);
        }
    }

    /// Reads everything that is replicated from the store: at the start, and after a snapshot.
    fn load_replicated_state(&mut self) -> Result<(), Fatal> {
        let leases = self.store.scan(Table::Leases)?;
        let counts = self.lessor.counts();
        self.lessor = Lessor::new(min_lease_ttl(&self.config), LessorOptions::default());
        self.lessor.count_from(counts);
        self.lessor.load(leases)?;
        self.cluster = load_cluster(&self.store, self.config.cluster_id)?;
        self.alarms = apply::decode_alarms(&self.store.scan(Table::Alarms)?)?;
        self.update_peers();
        Ok(())
    }
}

/// The membership that the store holds.
fn load_cluster(store: &Store, id: ClusterId) -> Result<Cluster, Fatal> {
    let mut rows = Vec::new();
    for table in [Table::Members, Table::Removed, Table::Meta] {
        rows.extend(store.scan(table)?.into_iter().map(|(key, value)| (table, key, value)));
    }
    Cluster::load(id, rows).map_err(|what| Fatal(format!("the backend's membership is damaged: {what}")))
}

/// A lease lives at least one and a half election timeouts, in whole seconds (A-L-01).
fn min_lease_ttl(config: &Config) -> i64 {
    let millis = config.election_timeout().as_millis() * 3;
    i64::try_from(millis.div_ceil(2000)).unwrap_or(i64::MAX)
}

fn raft_config(config: &Config, applied: Index) -> raft::Config {
    raft::Config {
        id: config.member_id,
        election_tick: config.election_ticks,
        heartbeat_tick: 1,
        applied,
        // Entry by entry, old ones reach a quorum before the one of the leader's own term.
        max_size_per_msg: if planted::on(Bug::CommitOldTerm) { 1 } else { 1 << 20 },
        max_inflight_msgs: 256,
        check_quorum: true,
        pre_vote: config.pre_vote,
        max_uncommitted_size: 256 << 20,
        max_committed_size_per_ready: 16 << 20,
        ..raft::Config::default()
    }
}

/// The crate wants a logger; what matters is told by [`NodeEvent`]s instead.
fn quiet_logger() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}
