//! The rows about what a server goes through: many keys, a restart, the loss of a leader, upkeep.

use std::time::{Duration, Instant};

use cairn_net::proto::etcdserverpb::kv_client::KvClient;
use cairn_net::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use cairn_net::proto::etcdserverpb::{
    CompactionRequest, DefragmentRequest, PutRequest, RangeRequest, SnapshotRequest,
};
use tokio::task::JoinHandle;
use tonic::Status;

use super::loads::{Site, Taken, cpu_us, sound};
use super::outcome::median;
use crate::connection::{BenchError, Connection, Connections, connect};
use crate::load;
use crate::options::{Consistency, Kind, LoadOptions};
use crate::process;
use crate::report::mebibytes;
use crate::server::Cluster;
use crate::workload::{Keys, KvWorker};

/// Clients that write the keys.
const FILLERS: u64 = 8;
/// Puts a second while storage works.
const STALL_RATE: f64 = 1_000.0;
/// Starts after a kill of which the median counts.
const STARTS: usize = 5;
/// The same where two medians of a few dozen milliseconds are compared.
const STARTS_COMPARED: usize = 11;
/// Keys that are written again before each of those kills: what is not flushed has to be applied again.
const KEYS_BEFORE_KILL: u64 = 20_000;
/// Until a server that was loaded has written what it puts off.
const REST: Duration = Duration::from_secs(2);
/// Leaders that are killed in a round.
const FAILOVERS: usize = 3;
/// How often a write is tried after a leader's death.
const FAILOVER_POLL: Duration = Duration::from_millis(10);
/// How long a cluster may take to take writes again.
const FAILOVER_MAX: Duration = Duration::from_secs(20);

/// Writes `keys` keys, each once.
async fn fill(cluster: &Cluster, keys: u64) -> Result<(), BenchError> {
    let endpoints = vec![cluster.endpoint().to_owned()];
    let connections = Connections::open(&endpoints, FILLERS as usize).await?;
    let options = LoadOptions { keys, endpoints, ..LoadOptions::default() };
    let names = Keys::new(&options)?;
    let share = keys.div_ceil(FILLERS);
    let fillers: Vec<_> = (0..FILLERS)
        .map(|filler| {
            let channel = connections.of(filler as usize);
            let mut worker =
                KvWorker::new(channel, Kind::Put, names.clone(), &options, filler, Instant::now());
            tokio::spawn(async move { worker.fill(filler * share..keys.min((filler + 1) * share)).await })
        })
        .collect();
    for filler in fillers {
        filler.await.expect("a client does not panic")?;
    }
    Ok(())
}

fn rss_mib(cluster: &Cluster) -> Result<f64, BenchError> {
    let pid = cluster.pids()[0];
    let usage = process::usage(pid).map_err(BenchError::io("reading what the server uses"))?;
    Ok(mebibytes(usage.rss_bytes))
}

/// Memory after loading and after restarts, the times of a restart and of a full snapshot in
/// milliseconds.
async fn loaded(site: &Site<'_>, keys: u64, starts: usize) -> Result<Vec<f64>, BenchError> {
    let mut cluster = site.start(1).await?;
    fill(&cluster, keys).await?;
    let rss = rss_mib(&cluster)?;
    // From here on what is not flushed at a kill does not depend on the number of keys.
    tokio::time::sleep(REST).await;
    let (mut started, mut after_restart) = (Vec::with_capacity(starts), Vec::with_capacity(starts));
    for _ in 0..starts {
        fill(&cluster, keys.min(KEYS_BEFORE_KILL)).await?;
        cluster.kill(0);
        started.push(cluster.restart(0).await?.as_secs_f64() * 1e3);
        // One range over all keys counts them, so nothing is missing that a smaller server would lack.
        count(&cluster, keys).await?;
        after_restart.push(rss_mib(&cluster)?);
    }
    let asked = Instant::now();
    let maintenance = MaintenanceClient::new(connect(cluster.endpoint()).await?);
    snapshot(maintenance).await.map_err(BenchError::prepare("the snapshot"))?;
    let snapshot = asked.elapsed().as_secs_f64() * 1e3;
    Ok(vec![rss, median(&after_restart), median(&started), snapshot])
}

/// Counts the keys, which must be so many.
async fn count(cluster: &Cluster, keys: u64) -> Result<(), BenchError> {
    let mut kv = KvClient::new(connect(cluster.endpoint()).await?);
    let (key, range_end) = Keys::new(&LoadOptions { keys, ..LoadOptions::default() })?.all();
    let all = RangeRequest { key, range_end, count_only: true, ..RangeRequest::default() };
    let found = kv.range(all).await.map_err(BenchError::prepare("counting the keys"))?.into_inner().count;
    if found == i64::try_from(keys).unwrap_or(i64::MAX) {
        return Ok(());
    }
    Err(BenchError::Options(format!("{found} of {keys} keys are there after the restart")))
}

pub(super) async fn million(site: Site<'_>) -> Result<Taken, BenchError> {
    Ok(loaded(&site, site.options.keys, STARTS).await?.into())
}

pub(super) async fn ten_times(site: Site<'_>) -> Result<Taken, BenchError> {
    let small = loaded(&site, site.options.keys, STARTS_COMPARED).await?;
    let large = loaded(&site, 10 * site.options.keys, STARTS_COMPARED).await?;
    Ok(vec![large[1] / small[1], large[2] / small[2]].into())
}

pub(super) async fn scale(site: Site<'_>) -> Result<Taken, BenchError> {
    let mut costs = Vec::new();
    for keys in [10_000, 10 * site.options.keys] {
        let cluster = site.start(1).await?;
        fill(&cluster, keys).await?;
        let load = LoadOptions { keys, ..site.load(&cluster, 10, 100) };
        let put = cpu_us(&sound(load::run(Kind::Put, &load).await?)?);
        let load = LoadOptions { filled: true, ..load };
        let get = Kind::Mixed { consistency: Consistency::L, read_percent: 100 };
        let get = cpu_us(&sound(load::run(get, &load).await?)?);
        costs.push([put, get]);
    }
    Ok(vec![costs[1][0] / costs[0][0], costs[1][1] / costs[0][1]].into())
}

/// From the leader's death to the first write that was sent after it and succeeded, in milliseconds.
pub(super) async fn failover(site: Site<'_>) -> Result<Taken, BenchError> {
    let mut times = Vec::new();
    for _ in 0..FAILOVERS {
        let mut cluster = site.start(3).await?;
        let leader = cluster.leader().await?;
        let survivor = connect(cluster.endpoint_of((leader + 1) % 3)).await?;
        let (done, mut first) = tokio::sync::mpsc::unbounded_channel();
        cluster.kill(leader);
        let killed = Instant::now();
        let mut tries = tokio::time::interval(FAILOVER_POLL);
        let recovered = loop {
            tokio::select! {
                time = first.recv() => break time,
                _ = tries.tick() => {
                    if killed.elapsed() > FAILOVER_MAX {
                        break None;
                    }
                    let (mut kv, done) = (KvClient::new(survivor.clone()), done.clone());
                    tokio::spawn(async move {
                        let put = PutRequest { key: "failover".into(), ..PutRequest::default() };
                        if kv.put(put).await.is_ok() {
                            // Only the first one is waited for.
                            let _ = done.send(killed.elapsed());
                        }
                    });
                }
            }
        };
        let Some(time) = recovered else {
            return Err(BenchError::Options("no write succeeds after the leader's death".to_owned()));
        };
        times.push(time.as_secs_f64() * 1e3);
    }
    Ok(vec![median(&times)].into())
}

/// The p99 of puts at a fixed rate while storage works, in multiples of quiet, and how long its work took.
pub(super) async fn stalls(site: Site<'_>) -> Result<Taken, BenchError> {
    let cluster = site.start(1).await?;
    for _ in 0..4 {
        fill(&cluster, site.options.keys / 4).await?;
    }
    let load = LoadOptions { rate: Some(STALL_RATE), ..site.load(&cluster, 10, 100) };
    let puts = async || Ok::<_, BenchError>(sound(load::run(Kind::Put, &load).await?)?.latency_us.p99 as f64);
    let quiet = puts().await?;
    let channel = connect(cluster.endpoint()).await?;

    let mut kv = KvClient::new(channel.clone());
    let newest = kv.range(RangeRequest { key: "ready".into(), ..RangeRequest::default() }).await;
    let header = newest.map_err(BenchError::prepare("asking for the revision"))?.into_inner().header;
    let revision = header.map_or(0, |header| header.revision);
    let compact = CompactionRequest { revision, physical: true };
    let compaction = tokio::spawn(async move {
        let started = Instant::now();
        kv.compact(compact).await.map(|_| started.elapsed())
    });
    let compacting = (puts().await?, joined(compaction).await?);

    // The other two are short on a small database, so they are repeated for as long as the load lasts.
    let until = Instant::now() + site.options.duration;
    let maintenance = MaintenanceClient::new(channel.clone());
    let defragment = tokio::spawn(repeated(until, move || {
        let mut maintenance = maintenance.clone();
        async move { maintenance.defragment(DefragmentRequest {}).await.map(drop) }
    }));
    let defragmenting = (puts().await?, joined(defragment).await?);

    let until = Instant::now() + site.options.duration;
    let maintenance = MaintenanceClient::new(channel);
    let snapshots = tokio::spawn(repeated(until, move || snapshot(maintenance.clone())));
    let sending = (puts().await?, joined(snapshots).await?);
    let all = [compacting, defragmenting, sending];
    let times = all.map(|(_, time)| time.as_secs_f64() * 1e3);
    Ok([&all.map(|(p99, _)| p99 / quiet)[..], &times, &[quiet / 1e3]].concat().into())
}

/// Reads a whole snapshot and throws it away.
async fn snapshot(maintenance: MaintenanceClient<Connection>) -> Result<(), Status> {
    let mut maintenance = maintenance.max_decoding_message_size(usize::MAX);
    let mut chunks = maintenance.snapshot(SnapshotRequest {}).await?.into_inner();
    while chunks.message().await?.is_some() {}
    Ok(())
}

/// Does it at least once, and again if that will be over by then; the longest time.
async fn repeated<W: Future<Output = Result<(), Status>>>(
    until: Instant,
    work: impl Fn() -> W,
) -> Result<Duration, Status> {
    let mut longest = Duration::ZERO;
    loop {
        let started = Instant::now();
        work().await?;
        longest = longest.max(started.elapsed());
        if Instant::now() + longest >= until {
            return Ok(longest);
        }
    }
}

async fn joined(task: JoinHandle<Result<Duration, Status>>) -> Result<Duration, BenchError> {
    task.await.expect("a client does not panic").map_err(BenchError::prepare("the storage's work"))
}
