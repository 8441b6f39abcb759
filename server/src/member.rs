//! A running member: the node in its inbox, the threads that perform what it asks for, the way to its
//! peers, and the handle by which services reach it. It wires them up and takes them down; the loop
//! itself is the driver's.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use cairn_core::error::Error;
use cairn_core::mvcc::{Store, StoreOptions};
use cairn_core::node::{self, Node, Status};
use cairn_core::time::Time;
use cairn_core::types::MemberId;
use cairn_net::handle::{Handle, MemberStatus};
use cairn_net::peer::{PeerConfig, Transport};
use cairn_net::services::ServerInfo;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::boot::Booted;
use crate::config::{AutoCompaction, Config};
use crate::corruption::Checks;
use crate::data_dir::DataDir;
use crate::driver::{
    self, Driver, Event, Inbox, LogLane, Notice, Pace, Peers, ReadPool, Receiver, Stopped, Storage,
    Transfers, Workers,
};
use crate::metrics::Metrics;
use crate::peer_calls;
use crate::ports::{self, Offer};
use crate::version::{API_VERSION, CLUSTER_VERSION};
use crate::views::StoreViews;

/// See the module.
pub(crate) struct Member {
    pub(crate) member_id: MemberId,
    pub(crate) cluster_id: u64,
    pub(crate) peers: Arc<Peers>,
    pub(crate) offer: Offer,
    /// What the node tells of.
    pub(crate) notices: mpsc::UnboundedReceiver<Notice>,
    inbox: Inbox,
    serving: watch::Sender<bool>,
    threads: Vec<thread::JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Member {
    /// Starts it on what the boot found. Nobody is served yet.
    pub(crate) async fn start(config: &Config, dir: &DataDir, booted: Booted) -> Result<Self, String> {
        let (member_id, cluster_id) = (booted.metadata.member_id, booted.metadata.cluster_id);
        let metrics = Arc::new(Metrics::new(API_VERSION, config.metrics_extensive, &config.features));
        let inbox = Inbox::new();
        let incoming = Arc::new(Mutex::new(Transfers::default()));
        let removed_members = Arc::new(RwLock::new(BTreeSet::new()));
        let receiver = Arc::new(Receiver {
            events: inbox.clone(),
            dir: dir.clone(),
            incoming: incoming.clone(),
            removed: removed_members.clone(),
            metrics: metrics.clone(),
        });
        let runtime = tokio::runtime::Handle::current();
        let transport = Transport::new(PeerConfig::new(cluster_id, member_id), receiver, runtime);
        for member in &booted.peers {
            transport.set_peer(member.id, member.peer_urls.clone());
        }
        let peers = Arc::new(Peers::new(transport, inbox.clone(), metrics.clone()));

        let started = Instant::now();
        let node_config = node_config(config, &booted);
        let node = Node::start(node_config, booted.recovered, booted.backend.clone(), Time(0))
            .map_err(|fatal| fatal.0)?;
        let (status_sender, status) = watch::channel(node.status());
        let checks = Checks {
            peers: peers.clone(),
            status: status.clone(),
            timeout: Duration::from_secs(5) + 2 * Duration::from_millis(config.election_ms),
        };
        if booted.restarted && config.features.enabled("InitialCorruptCheck") {
            for member in &status.borrow().members {
                peers.set_peer(member.id, member.peer_urls.clone());
            }
            let store = Store::open(booted.backend.clone(), StoreOptions::default());
            checks.initial(&store.map_err(|fatal| fatal.0)?.view()).await?;
        }

        let spawned = |error: std::io::Error| format!("cannot start a thread: {error}");
        let (lane, log, log_thread) =
            driver::spawn_log(booted.wal, inbox.clone(), booted.wal_times, metrics.clone())
                .map_err(spawned)?;
        let (storage, storage_jobs) = crossbeam_channel::unbounded();
        let (notice_sender, notices) = mpsc::unbounded_channel();
        let disk = Storage {
            backend: booted.backend,
            file: booted.backend_file,
            fsync: !config.unsafe_no_fsync,
            dir: dir.clone(),
            incoming,
            compaction_rows_max: usize::try_from(config.compaction_batch_limit).unwrap_or(1000).max(1),
            compaction_pause: config.compaction_sleep_interval,
            put_off: None,
            metrics: metrics.clone(),
        };
        let heartbeat = Duration::from_millis(config.heartbeat_ms);
        let workers = Workers {
            log,
            storage,
            reads: ReadPool::start_threads(2, &inbox, &metrics).map_err(spawned)?,
            peers: peers.clone(),
            pace: Pace::new(metrics.clone(), heartbeat, config.warning_apply_duration),
            notices: notice_sender,
            status: status_sender,
        };
        let threads = vec![
            log_thread,
            driver::spawn_storage(disk, storage_jobs, inbox.clone()).map_err(spawned)?,
            inbox.start("node", Driver::new(node, started, workers)).map_err(spawned)?,
        ];

        let (member_status, handle) = handle(&inbox, &lane);
        publish(&status.borrow(), &member_status, &removed_members);
        let (serving, serving_status) = watch::channel(true);
        let offer = Offer {
            info: server_info(config, &inbox, &metrics, serving_status),
            http: ports::pages(config, handle.clone(), metrics.clone(), status.clone()),
            handle,
            metrics,
        };
        let mut tasks = checks.spawn(config, &offer.handle);
        tasks.push(tokio::spawn(peer_calls::probe(peers.clone(), status.clone(), offer.metrics.clone())));
        tasks.push(tokio::spawn(follow_status(
            status,
            member_status,
            removed_members,
            offer.metrics.clone(),
        )));
        Ok(Self { member_id, cluster_id, peers, offer, notices, inbox, serving, threads, tasks })
    }

    /// Gives leadership away, if this member has it and another can take it, within `limit`.
    pub(crate) async fn resign(&self, limit: Duration) {
        let (done, resigned) = oneshot::channel();
        if self.inbox.send(Event::Resign(done)).is_ok() {
            let _ = tokio::time::timeout(limit, resigned).await;
        }
    }

    /// Ends every stream; requests may still be answered.
    pub(crate) fn end_streams(&self) {
        self.serving.send_replace(false);
    }

    /// Stops the node, its threads and its tasks, in that order.
    pub(crate) async fn stop(self) {
        let _ = self.inbox.send(Event::Stop);
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// A way for services into the inbox, and where they see the member's status.
fn handle(inbox: &Inbox, log: &LogLane) -> (watch::Sender<MemberStatus>, Handle) {
    let (sender, receiver) = watch::channel(MemberStatus::default());
    let (calls, call_log) = (inbox.clone(), log.clone());
    let submit = move |call| {
        let mut sent = Ok(());
        call_log.offer(|| sent = calls.send(Event::Call(call)));
        sent.map_err(|Stopped| Error::Stopped)
    };
    let (batches, batch_log) = (inbox.clone(), log.clone());
    let gather = move |work: &mut dyn FnMut()| batch_log.offer(|| batches.gather(work));
    (sender, Handle::new(Arc::new(submit), receiver).gathering(Arc::new(gather)))
}

fn server_info(
    config: &Config,
    inbox: &Inbox,
    metrics: &Arc<Metrics>,
    serving: watch::Receiver<bool>,
) -> ServerInfo {
    let inbox = inbox.clone();
    let on_fatal = Arc::new(move |fatal| {
        let _ = inbox.send(Event::Fatal(fatal));
    });
    ServerInfo {
        api_version: API_VERSION.to_owned(),
        storage_version: CLUSTER_VERSION.to_owned(),
        max_request_bytes: usize::try_from(config.max_request_bytes).unwrap_or(usize::MAX),
        election_timeout: Duration::from_millis(config.election_ms),
        views: Arc::new(StoreViews::new(on_fatal, metrics.clone())),
        serving,
    }
}

fn node_config(config: &Config, booted: &Booted) -> node::Config {
    let ids = booted.metadata;
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    node::Config {
        name: config.name.clone(),
        client_urls: config.advertise_client_urls.iter().map(ToString::to_string).collect(),
        heartbeat: Duration::from_millis(config.heartbeat_ms),
        election_ticks: size(config.election_ms / config.heartbeat_ms.max(1)),
        initial_election_tick_advance: config.initial_election_tick_advance,
        pre_vote: config.pre_vote,
        snapshot_count: config.snapshot_count,
        catchup_entries: config.snapshot_catchup_entries,
        quota_bytes: config.quota_backend_bytes,
        txn_ops_max: size(config.max_txn_ops),
        request_bytes_max: size(config.max_request_bytes),
        strict_reconfig: config.strict_reconfig_check,
        learners_max: usize::try_from(config.max_learners).unwrap_or(0),
        auto_compaction: match config.auto_compaction {
            AutoCompaction::Off => None,
            AutoCompaction::Periodic(retention) => Some(node::AutoCompaction::Periodic(retention)),
            AutoCompaction::Revision(keep) => Some(node::AutoCompaction::Revision(keep)),
        },
        watch_progress_interval: config.watch_progress_notify_interval,
        cluster_version: CLUSTER_VERSION.to_owned(),
        flush_entries_max: flush_entries_max(ids.member_id),
        ..node::Config::new(ids.member_id, ids.cluster_id, booted.boot, booted.boot)
    }
}

/// After how many changes a member flushes them. All members apply the same changes, and no quorum is fast
/// while they all flush at once; so not all have the same number.
fn flush_entries_max(member: MemberId) -> usize {
    50_000 - 5_000 * (member % 4) as usize
}

/// Passes each status on until the node is gone.
async fn follow_status(
    mut status: watch::Receiver<Status>,
    member: watch::Sender<MemberStatus>,
    removed: Arc<RwLock<BTreeSet<u64>>>,
    metrics: Arc<Metrics>,
) {
    while status.changed().await.is_ok() {
        let status = status.borrow_and_update().clone();
        metrics.observe(&status);
        publish(&status, &member, &removed);
    }
}

/// Tells the services of a status, and the transport who was removed.
fn publish(status: &Status, member: &watch::Sender<MemberStatus>, removed: &RwLock<BTreeSet<u64>>) {
    let next = MemberStatus {
        cluster_id: status.cluster_id,
        member_id: status.member_id,
        leader: status.leader,
        term: status.term,
        is_learner: status.role == node::Role::Learner,
        cluster_version: status.cluster_version.clone().unwrap_or_default(),
        alarms: status.alarms.clone(),
        members: status.members.clone(),
    };
    member.send_if_modified(|current| {
        let changed = *current != next;
        *current = next;
        changed
    });
    let ids: BTreeSet<u64> = status.removed_members.iter().copied().collect();
    *removed.write().unwrap_or_else(PoisonError::into_inner) = ids;
}
