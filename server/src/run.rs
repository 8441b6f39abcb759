//! The process from configuration to exit: files, node, threads, listeners, signals.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use cairn_core::error::{Error, Fatal};
use cairn_core::mvcc::{Store, StoreOptions};
use cairn_core::node::{self, Node, NodeEvent, Status};
use cairn_core::time::Time;
use cairn_net::handle::{Handle, MemberStatus};
use cairn_net::http::{client, peer};
use cairn_net::listener::{Grpc, Listener, ListenerOptions, Serving, SocketOptions};
use cairn_net::peer::{PeerConfig, Transport};
use cairn_net::services::{self, Direct, ServerInfo};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tonic::service::Routes;

use crate::boot;
use crate::config::{AutoCompaction, Config, Url};
use crate::corruption::Checks;
use crate::data_dir::DataDir;
use crate::debug_vars;
use crate::driver::{
    self, Driver, Event, Inbox, Notice, Pace, Peers, ReadPool, Receiver, Stopped, Storage, Workers, hex,
};
use crate::events;
use crate::metrics::Metrics;
use crate::peer_calls;
use crate::version::{API_VERSION, CLUSTER_VERSION};
use crate::views::StoreViews;

/// How long open requests may take to end when the process stops.
const GRACE: Duration = Duration::from_secs(2);
/// How long a removed member goes on, so that its peers learn the commit index from it.
const REMOVED_LINGER: Duration = Duration::from_secs(1);

/// Why the process ends.
enum End {
    Signal(i32),
    Removed,
    Fatal(Fatal),
}

/// Runs a member until it ends; the exit code is etcd's.
pub async fn run(config: Config) -> ExitCode {
    match start(config).await {
        Ok(code) => code,
        Err(text) => {
            tracing::error!(zap_level = "fatal", error = text, "failed to start etcd");
            ExitCode::FAILURE
        }
    }
}

async fn start(config: Config) -> Result<ExitCode, String> {
    let dir = DataDir::new(&config.data_dir, config.wal_dir.as_deref());
    let locked = dir.open()?;
    // As Go does for every listener, addresses are taken while old connections to them linger.
    // Ports first: a second server on this machine must not touch anything.
    let sockets = SocketOptions { reuse_port: config.socket_reuse_port, reuse_address: true };
    let peer_listeners = bind(&config.listen_peer_urls, &sockets)?;
    let client_listeners = bind(&config.listen_client_urls, &sockets)?;
    let http_listeners = bind(&config.listen_client_http_urls, &sockets)?;
    let metrics_listeners = bind(&config.listen_metrics_urls, &sockets)?;

    let booted = boot::boot(&config, &dir).await?;
    let member_id = booted.metadata.member_id;
    let cluster_id = booted.metadata.cluster_id;
    tracing::info!(
        "local-member-id" = hex(member_id),
        "cluster-id" = hex(cluster_id),
        "name" = config.name,
        "starting member"
    );
    let metrics = Arc::new(Metrics::new(API_VERSION, config.metrics_extensive, &config.features));
    let inbox = Inbox::new();
    let (notice_tx, mut notices) = mpsc::unbounded_channel();
    let (removed_tx, mut removed_rx) = watch::channel(false);
    let removed_ids = Arc::new(RwLock::new(BTreeSet::new()));
    let incoming = Arc::new(Mutex::new(None));

    let receiver = Arc::new(Receiver {
        events: inbox.clone(),
        dir: dir.clone(),
        incoming: incoming.clone(),
        removed: removed_ids.clone(),
        metrics: metrics.clone(),
        removed_self: removed_tx,
    });
    let runtime = tokio::runtime::Handle::current();
    let transport = Transport::new(PeerConfig::new(cluster_id, member_id), receiver, runtime);
    for member in &booted.peers {
        transport.set_peer(member.id, member.peer_urls.clone());
    }
    let peers = Arc::new(Peers::new(transport, inbox.clone(), metrics.clone()));

    let started = Instant::now();
    let backend = booted.backend.clone();
    let node = Node::start(node_config(&config, &booted), booted.recovered, backend.clone(), Time(0))
        .map_err(|fatal| fatal.0)?;
    let (status_tx, status_rx) = watch::channel(node.status());
    let checks = Checks {
        peers: peers.clone(),
        status: status_rx.clone(),
        timeout: Duration::from_secs(5) + 2 * Duration::from_millis(config.election_ms),
    };
    if booted.restarted && config.features.enabled("InitialCorruptCheck") {
        for member in status_rx.borrow().members.iter() {
            peers.set_peer(member.id, member.peer_urls.clone());
        }
        let store = Store::open(backend.clone(), StoreOptions::default()).map_err(|fatal| fatal.0)?;
        checks.initial(&store.view()).await?;
    }
    let (log_tx, log_rx) = crossbeam_channel::unbounded();
    let (storage_tx, storage_rx) = crossbeam_channel::unbounded();
    let spawned = |error: std::io::Error| format!("cannot start a thread: {error}");
    let log_thread = driver::spawn_log(booted.wal, log_rx, inbox.clone(), booted.wal_times, metrics.clone())
        .map_err(spawned)?;
    let storage = Storage {
        backend,
        file: booted.backend_file,
        fsync: !config.unsafe_no_fsync,
        dir: dir.clone(),
        incoming,
        compaction_rows_max: usize::try_from(config.compaction_batch_limit).unwrap_or(1000).max(1),
        compaction_pause: config.compaction_sleep_interval,
        metrics: metrics.clone(),
    };
    let storage_thread = driver::spawn_storage(storage, storage_rx, inbox.clone()).map_err(spawned)?;
    let workers = Workers {
        log: log_tx,
        storage: storage_tx,
        reads: ReadPool::start_threads(2, &inbox, &metrics).map_err(spawned)?,
        peers: peers.clone(),
        pace: Pace::new(
            metrics.clone(),
            Duration::from_millis(config.heartbeat_ms),
            config.warning_apply_duration,
        ),
        notices: notice_tx,
        status: status_tx,
    };
    let node_thread = inbox.start("node", Driver::new(node, started, workers)).map_err(spawned)?;

    let (member_tx, member_rx) = watch::channel(MemberStatus::default());
    let handle = {
        let events = inbox.clone();
        Handle::new(
            Arc::new(move |call| events.send(Event::Call(call)).map_err(|Stopped| Error::Stopped)),
            member_rx,
        )
    };
    let fatal_events = inbox.clone();
    let on_fatal = Arc::new(move |fatal| {
        let _ = fatal_events.send(Event::Fatal(fatal));
    });
    let views = StoreViews::new(on_fatal, metrics.clone());
    let (serving_tx, serving_rx) = watch::channel(true);
    let info = ServerInfo {
        api_version: API_VERSION.to_owned(),
        storage_version: CLUSTER_VERSION.to_owned(),
        max_request_bytes: usize::try_from(config.max_request_bytes).unwrap_or(usize::MAX),
        election_timeout: Duration::from_millis(config.election_ms),
        views: Arc::new(views),
        serving: serving_rx,
    };
    let http = http_state(&config, handle.clone(), metrics.clone(), status_rx.clone());
    publish(&status_rx.borrow(), &member_tx, &removed_ids);

    // Peers first: nothing can be served before there is a quorum.
    let options = listener_options(&config);
    let (mut peer_servings, mut servings) = (Vec::new(), Vec::new());
    for listener in peer_listeners {
        let routes = Routes::new(peers.transport().service().into_server());
        serve(&mut peer_servings, listener, peer::router(handle.clone()), routes, options.clone())?;
    }
    let mut status_task = tokio::spawn({
        let (mut status_rx, removed_ids, metrics) = (status_rx.clone(), removed_ids.clone(), metrics.clone());
        async move {
            while status_rx.changed().await.is_ok() {
                let status = status_rx.borrow_and_update().clone();
                metrics.observe(&status);
                publish(&status, &member_tx, &removed_ids);
            }
        }
    });

    let checks = spawn_checks(&config, checks, &handle);
    let probes = tokio::spawn(peer_calls::probe(peers.clone(), status_rx.clone(), metrics.clone()));
    let options = ListenerOptions { keepalive_min_time: Some(pings_min_time(&config)), ..options };
    let mut clients = Some((client_listeners, http_listeners, metrics_listeners));
    let mut signals = Signals::new().map_err(|error| format!("cannot listen for signals: {error}"))?;
    let end = loop {
        tokio::select! {
            notice = notices.recv() => match notice {
                None => break End::Fatal(Fatal("the node's thread ended".to_owned())),
                Some(Notice::Fatal(fatal)) => break End::Fatal(fatal),
                Some(Notice::Node(event)) => {
                    metrics.event(&event);
                    events::log(&event, member_id, cluster_id);
                    match event {
                        NodeEvent::Published { .. } => {
                            if let Some((grpc, http_only, metrics_only)) = clients.take() {
                                let split = !http_only.is_empty();
                                for listener in grpc {
                                    log_serving(&listener);
                                    let routes = services::router(handle.clone(), info.clone());
                                    let pages = if split { axum_none() } else { client::router(http.clone()) };
                                    let direct = Direct::new(handle.clone(), info.clone(), metrics.calls());
                                    let routes = metrics.grpc_layer().around(routes);
                                    let grpc = Grpc { routes, direct: Some(direct) };
                                    serve(&mut servings, listener, pages, grpc, options.clone())?;
                                }
                                for listener in http_only {
                                    let pages = client::router(http.clone());
                                    serve(&mut servings, listener, pages, Routes::default(), options.clone())?;
                                }
                                for listener in metrics_only {
                                    let pages = client::metrics_router(http.clone());
                                    serve(&mut servings, listener, pages, Routes::default(), options.clone())?;
                                }
                                tracing::info!("ready to serve client requests");
                                let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
                            }
                        }
                        NodeEvent::RemovedSelf => break End::Removed,
                        _ => {}
                    }
                }
            },
            signal = signals.next() => break End::Signal(signal),
            _ = removed_rx.wait_for(|removed| *removed) => {
                events::log(&NodeEvent::RemovedSelf, member_id, cluster_id);
                break End::Removed;
            }
        }
    };

    let code = match &end {
        End::Signal(signal) => {
            tracing::info!(signal = signal_name(*signal), "received signal; shutting down");
            tracing::info!("closing etcd server");
            resign(&inbox, Duration::from_millis(config.election_ms)).await;
            None
        }
        End::Removed => {
            tokio::time::sleep(REMOVED_LINGER).await;
            Some(ExitCode::SUCCESS)
        }
        End::Fatal(fatal) => {
            tracing::error!(zap_level = "fatal", error = fatal.0, "the member cannot go on");
            // Whatever is still open must not look alive: no grace, no goodbye.
            std::process::exit(1);
        }
    };
    // Streams end by this; requests may still be answered, which takes the peers.
    serving_tx.send_replace(false);
    futures::future::join_all(servings.into_iter().map(|serving| serving.shutdown(GRACE))).await;
    peers.transport().stop();
    // Peers never close their streams.
    futures::future::join_all(peer_servings.into_iter().map(|serving| serving.shutdown(Duration::ZERO)))
        .await;
    let _ = inbox.send(Event::Stop);
    drop(handle);
    status_task.abort();
    probes.abort();
    checks.iter().for_each(AbortHandle::abort);
    let _ = (&mut status_task).await;
    for thread in [node_thread, log_thread, storage_thread] {
        let _ = thread.join();
    }
    drop(locked);
    tracing::info!("closed etcd server");
    match (code, end) {
        (Some(code), _) => Ok(code),
        (None, End::Signal(signal)) => Ok(die_of(signal)),
        (None, _) => Ok(ExitCode::FAILURE),
    }
}

fn bind(urls: &[Url], options: &SocketOptions) -> Result<Vec<Listener>, String> {
    urls.iter()
        .map(|url| Listener::bind(&url.to_string(), options).map_err(|error| error.to_string()))
        .collect()
}

fn serve(
    servings: &mut Vec<Serving>,
    listener: Listener,
    http: axum::Router,
    grpc: impl Into<Grpc>,
    options: ListenerOptions,
) -> Result<(), String> {
    servings.push(listener.serve(http, grpc, options).map_err(|error| error.to_string())?);
    Ok(())
}

/// A port that speaks gRPC only.
fn axum_none() -> axum::Router {
    axum::Router::new()
}

fn log_serving(listener: &Listener) {
    let address = listener.local_addr().map_or_else(|| "a unix socket".to_owned(), |addr| addr.to_string());
    tracing::info!(address, "serving client traffic insecurely; this is strongly discouraged!");
}

fn listener_options(config: &Config) -> ListenerOptions {
    ListenerOptions {
        max_concurrent_streams: config.max_concurrent_streams,
        keepalive_interval: (!config.grpc_keepalive_interval.is_zero())
            .then_some(config.grpc_keepalive_interval),
        keepalive_timeout: config.grpc_keepalive_timeout,
        ..ListenerOptions::default()
    }
}

/// The comparisons of members' data that are configured.
fn spawn_checks(config: &Config, checks: Checks, handle: &Handle) -> Vec<AbortHandle> {
    let mut tasks = Vec::new();
    if !config.corrupt_check_time.is_zero() {
        let monitor = checks.clone().monitor(handle.clone(), config.corrupt_check_time);
        tasks.push(tokio::spawn(monitor).abort_handle());
    }
    if config.features.enabled("CompactHashCheck") {
        let monitor = checks.monitor_compactions(handle.clone(), config.compact_hash_check_time);
        tasks.push(tokio::spawn(monitor).abort_handle());
    }
    tasks
}

/// 0 leaves it to gRPC, whose own limit is five minutes.
fn pings_min_time(config: &Config) -> Duration {
    let chosen = config.grpc_keepalive_min_time;
    if chosen.is_zero() { Duration::from_secs(5 * 60) } else { chosen }
}

fn http_state(
    config: &Config,
    handle: Handle,
    metrics: Arc<Metrics>,
    status: watch::Receiver<Status>,
) -> client::ClientHttp {
    client::ClientHttp {
        handle,
        vars: Arc::new(move || debug_vars::page(&status.borrow())),
        checked: {
            let metrics = metrics.clone();
            Arc::new(move |check| metrics.health_checked(check))
        },
        metrics: Arc::new(move || metrics.encode()),
        probe_timeout: Duration::from_secs(5) + 2 * Duration::from_millis(config.election_ms),
        cors: config.cors.clone(),
        host_whitelist: config.host_whitelist.clone(),
    }
}

fn node_config(config: &Config, booted: &boot::Booted) -> node::Config {
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
        ..node::Config::new(ids.member_id, ids.cluster_id, booted.boot, booted.boot)
    }
}

/// Passes a status on to the services, and to the transport who was removed.
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
    *removed.write().unwrap_or_else(std::sync::PoisonError::into_inner) = ids;
}

/// Gives leadership away, if this member has it and another can take it, within one election timeout.
async fn resign(inbox: &Inbox, limit: Duration) {
    let (done, resigned) = oneshot::channel();
    if inbox.send(Event::Resign(done)).is_ok() {
        let _ = tokio::time::timeout(limit, resigned).await;
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => 15,
            _ = self.interrupt.recv() => 2,
        }
    }
}

fn signal_name(signal: i32) -> &'static str {
    if signal == 15 { "terminated" } else { "interrupt" }
}

/// What a shell reports for a process that a signal ended: 143 or 130.
fn die_of(signal: i32) -> ExitCode {
    ExitCode::from(128 + u8::try_from(signal).unwrap_or(0))
}
