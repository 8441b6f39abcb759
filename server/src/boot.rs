//! From a configuration and a data directory to a node that can start: inventory C-BOOT.
//!
//! A log that exists decides everything: `--initial-*` is then ignored. Without one the member is new:
//! of a new cluster, which the flags describe, or of an existing one, which its peers describe.
//!
//! Invariant: the log is created last. A process that dies during its first start leaves no log, and
//! the next start begins again.

use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cairn_core::api::Member;
use cairn_core::backend::redb::RedbBackend;
use cairn_core::backend::{Backend, Batch};
use cairn_core::cluster::Cluster;
use cairn_core::node::{Recovered, bootstrap_batch, force_new_cluster};
use cairn_core::wal::{Append, HardState, LogStart, Metadata, TailReport, Wal, WalOptions};
use cairn_net::http::fetch::fetch_members;

use crate::backend_file::{self, BackendFile, FileState};
use crate::config::{ClusterState, Config, Url, resolve_host, same_endpoints};
use crate::data_dir::{self, DataDir};
use crate::driver::hex;
use crate::wal_disk::{DiskTimes, FsDisk};

/// How long one peer may take to describe the cluster.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for the founding of a cluster, whose members all start together: each has bound its port, and
/// none serves it before it has asked the others.
const FOUND_TIMEOUT: Duration = Duration::from_secs(1);

/// How long peers may disagree with the flags of a member that joins, and how often they are asked.
const JOIN_PATIENCE: Duration = Duration::from_secs(2);
const JOIN_RETRY: Duration = Duration::from_millis(100);

/// Everything that a node starts from.
pub(crate) struct Booted {
    pub(crate) metadata: Metadata,
    pub(crate) wal: Wal<FsDisk>,
    pub(crate) wal_times: Arc<DiskTimes>,
    pub(crate) recovered: Recovered,
    pub(crate) backend: Arc<RedbBackend>,
    pub(crate) backend_file: FileState,
    /// Members to connect to before the replicated state names them.
    pub(crate) peers: Vec<Member>,
    /// Whether the member existed before this start.
    pub(crate) restarted: bool,
    /// A number that no earlier start of this member used.
    pub(crate) boot: u64,
}

/// Opens or creates the member.
///
/// # Errors
/// What is wrong and what to do, for the operator.
pub(crate) async fn boot(config: &Config, dir: &DataDir) -> Result<Booted, String> {
    let disk = FsDisk::open(dir.wal()).map_err(|error| format!("{}: {error}", dir.wal().display()))?;
    let exists = Wal::exists(&disk).map_err(|error| format!("{}: {error}", dir.wal().display()))?;
    for leftover in ["incoming", "defrag"] {
        let _ = fs::remove_file(dir.backend_with_suffix(leftover));
    }
    if exists {
        restart(config, dir, disk)
    } else {
        if config.force_new_cluster {
            tracing::warn!(
                data_dir = %dir.root().display(),
                "there is no data to force a new cluster with, starting as a new member"
            );
        }
        match config.initial_cluster_state {
            ClusterState::New => found(config, dir, disk).await,
            ClusterState::Existing => join(config, dir, disk).await,
        }
    }
}

fn restart(config: &Config, dir: &DataDir, disk: FsDisk) -> Result<Booted, String> {
    let wal_times = disk.times();
    tracing::info!(
        data_dir = %dir.root().display(),
        "the server is already initialized as member before, starting as etcd member"
    );
    let (mut wal, found) = Wal::open(disk, wal_options(config)).map_err(|error| error.to_string())?;
    if let TailReport::Torn { .. } = &found.tail {
        tracing::warn!(tail = ?found.tail, "repaired the torn end of the log");
    }
    if !dir.backend().exists() {
        return Err(format!(
            "{} is missing although the log exists; remove this member and add it again with an empty data \
             directory",
            dir.backend().display()
        ));
    }
    let (backend, backend_file) = open_backend(config, dir)?;
    let metadata = found.metadata;
    let mut recovered = Recovered::from(found);
    if config.force_new_cluster {
        force(metadata, &mut wal, &mut recovered, backend.clone())?;
    }
    Ok(Booted {
        metadata,
        wal,
        wal_times,
        recovered,
        backend,
        backend_file,
        peers: Vec::new(),
        restarted: true,
        boot: boot_number(),
    })
}

/// Cuts the cluster down to this member, for good: it is in the log when this returns.
fn force(
    ids: Metadata,
    wal: &mut Wal<FsDisk>,
    recovered: &mut Recovered,
    backend: Arc<RedbBackend>,
) -> Result<(), String> {
    let append = force_new_cluster(ids, recovered, backend).map_err(|fatal| fatal.0)?;
    wal.append(&append).map_err(|error| error.to_string())?;
    tracing::info!(
        "cluster-id" = hex(ids.cluster_id),
        "local-member-id" = hex(ids.member_id),
        "commit-index" = recovered.hard_state.commit,
        "forcing restart member"
    );
    Ok(())
}

/// The first start of a member of a new cluster.
async fn found(config: &Config, dir: &DataDir, disk: FsDisk) -> Result<Booted, String> {
    let (cluster, local) = configured_cluster(config)?;
    if cluster.members().len() > 1 {
        refuse_second_bootstrap(&cluster, &local).await?;
    }
    let (batch, start) = bootstrap_batch(&cluster);
    let metadata = Metadata { cluster_id: cluster.id(), member_id: local.id };
    let hard_state = HardState { term: start.term, vote: 0, commit: start.index };
    create(config, dir, disk, metadata, &batch, start, hard_state, Vec::new())
}

/// The first start of a member that was added to a running cluster: state comes from the leader.
async fn join(config: &Config, dir: &DataDir, disk: FsDisk) -> Result<Booted, String> {
    let (cluster, local) = configured_cluster(config)?;
    let urls: Vec<String> = cluster
        .members()
        .filter(|member| member.id != local.id)
        .flat_map(|member| member.peer_urls.clone())
        .collect();
    let (id, joined) = describe_cluster(&cluster, &urls).await?;
    let own = joined
        .members()
        .find(|member| member.peer_urls == local.peer_urls)
        .cloned()
        .ok_or_else(|| "this member's peer URLs are not among the cluster's members".to_owned())?;
    let metadata = Metadata { cluster_id: id, member_id: own.id };
    let peers = joined.members().filter(|member| member.id != own.id).cloned().collect();
    let nothing = LogStart { index: 0, term: 0 };
    create(config, dir, disk, metadata, &Batch::default(), nothing, HardState::default(), peers)
}

/// Asks the peers in turn until one describes the cluster that the flags describe. A peer that has
/// just not heard of the newest member gets a little time to.
async fn describe_cluster(cluster: &Cluster, urls: &[String]) -> Result<(u64, Cluster), String> {
    let deadline = Instant::now() + JOIN_PATIENCE;
    loop {
        let mut refused = None;
        let mut silent = String::new();
        for url in urls {
            match fetch_members(std::slice::from_ref(url), FETCH_TIMEOUT).await {
                Err(error) => silent = error.to_string(),
                Ok((id, members)) => match cluster.join(id, &members, same_urls) {
                    Ok(joined) => return Ok((id, joined)),
                    Err(error) => {
                        let listed: Vec<String> = members.iter().map(describe).collect();
                        refused = Some((id, listed, error));
                    }
                },
            }
        }
        let Some((id, listed, error)) = refused else {
            return Err(format!("cannot fetch cluster info from peer urls: {silent}"));
        };
        if Instant::now() >= deadline {
            return Err(format!(
                "error validating peerURLs {{ClusterID:{id:x} Members:[{}] RemovedMemberIDs:[]}}: {error}",
                listed.join(" ")
            ));
        }
        tokio::time::sleep(JOIN_RETRY).await;
    }
}

#[allow(clippy::too_many_arguments)]
fn create(
    config: &Config,
    dir: &DataDir,
    disk: FsDisk,
    metadata: Metadata,
    batch: &Batch,
    log_start: LogStart,
    hard_state: HardState,
    peers: Vec<Member>,
) -> Result<Booted, String> {
    // Left by a start that died before it created the log: nothing in it was ever acknowledged.
    match fs::remove_file(dir.backend()) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(format!("cannot remove {}: {error}", dir.backend().display()));
        }
        _ => {}
    }
    let (backend, backend_file) = open_backend(config, dir)?;
    backend.commit(batch).map_err(|fatal| fatal.0)?;
    let first = Append { log_start: Some(log_start), entries: Vec::new(), hard_state: Some(hard_state) };
    let wal_times = disk.times();
    let wal = Wal::create(disk, metadata, &first, wal_options(config)).map_err(|error| error.to_string())?;
    let recovered = Recovered { log_start, hard_state, ..Recovered::default() };
    Ok(Booted {
        metadata,
        wal,
        wal_times,
        recovered,
        backend,
        backend_file,
        peers,
        restarted: false,
        boot: boot_number(),
    })
}

fn wal_options(config: &Config) -> WalOptions {
    WalOptions { fsync: !config.unsafe_no_fsync, ..WalOptions::default() }
}

fn open_backend(config: &Config, dir: &DataDir) -> Result<(Arc<RedbBackend>, FileState), String> {
    let path = dir.backend();
    let (file, state) = BackendFile::open(&path)
        .map_err(|error| format!("cannot open backend {}: {error}", path.display()))?;
    if !config.unsafe_no_fsync {
        // A name that was seen, perhaps that of a snapshot installed just before a crash, must not be gone
        // after the next one.
        data_dir::sync_dir(&dir.snap()).map_err(|error| format!("{}: {error}", dir.snap().display()))?;
    }
    RedbBackend::open(file, backend_file::options(!config.unsafe_no_fsync))
        .map(|backend| (Arc::new(backend), state))
        .map_err(|fatal| format!("cannot open backend {}: {}", path.display(), fatal.0))
}

/// Wall-clock nanoseconds: later starts have larger numbers, and two starts never share one.
fn boot_number() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The cluster that the flags describe, and this member in it. Names are resolved only where the
/// texts differ.
fn configured_cluster(config: &Config) -> Result<(Cluster, Member), String> {
    let initial = config.bootstrap_cluster(&resolve_host).map_err(|error| {
        let mut text = error.text;
        for note in error.notes {
            text.push_str("; ");
            text.push_str(&note);
        }
        text
    })?;
    let texts = |urls: &[Url]| urls.iter().map(ToString::to_string).collect();
    let initial: Vec<(String, Vec<String>)> =
        initial.iter().map(|(name, urls)| (name.clone(), texts(urls))).collect();
    let cluster =
        Cluster::from_initial(&config.initial_cluster_token, &initial).map_err(|error| error.to_string())?;
    let local = cluster.members().find(|member| member.name == config.name).cloned();
    let local = local.ok_or("this member is not in its own initial cluster")?;
    Ok((cluster, local))
}

/// Whether two lists of URLs name the same places, by their text or else by what their hosts
/// resolve to.
fn same_urls(left: &[String], right: &[String]) -> Result<(), String> {
    let parse = |urls: &[String]| urls.iter().map(|url| Url::parse(url)).collect::<Result<Vec<_>, _>>();
    same_endpoints(&parse(left)?, &parse(right)?, &resolve_host)
}

/// A cluster that runs already must be joined, not founded again (C-VAL-17).
async fn refuse_second_bootstrap(cluster: &Cluster, local: &Member) -> Result<(), String> {
    let urls: Vec<String> = cluster
        .members()
        .filter(|member| member.id != local.id)
        .flat_map(|member| member.peer_urls.clone())
        .collect();
    // No answer means that the peers have not started yet, as it should be.
    let Ok((id, members)) = fetch_members(&urls, FOUND_TIMEOUT).await else { return Ok(()) };
    let known = members.iter().find(|member| member.id == local.id);
    if id == cluster.id() && known.is_some_and(|member| !member.client_urls.is_empty()) {
        return Err(format!("member {:x} has already been bootstrapped", local.id));
    }
    Ok(())
}

fn describe(member: &Member) -> String {
    format!(
        "&{{ID:{:x} RaftAttributes:{{PeerURLs:[{}] IsLearner:{}}} Attributes:{{Name:{} ClientURLs:[{}]}}}}",
        member.id,
        member.peer_urls.join(" "),
        member.is_learner,
        member.name,
        member.client_urls.join(" ")
    )
}
