//! The rows that are loads: each starts a server, prepares, runs and picks its figures.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::{CompareOptions, others};
use crate::connection::BenchError;
use crate::load;
use crate::options::{Consistency, Kind, LoadOptions};
use crate::report::{Report, Summary, mebibytes};
use crate::server::Cluster;

/// Puts before the row that measures what they leave behind.
const PUTS_BEFORE: u64 = 100_000;
/// How fast each point of the plot is offered.
const RATES: [f64; 10] =
    [500.0, 2_000.0, 5_000.0, 10_000.0, 15_000.0, 20_000.0, 25_000.0, 30_000.0, 40_000.0, 50_000.0];

const LINEARIZABLE: Kind = Kind::Range { consistency: Consistency::L, rows: 1 };

/// After so long without requests both servers have handed to the kernel what they hold back.
const REST: Duration = Duration::from_secs(1);

/// What is measured of every load.
pub(super) const COLUMNS: [&str; 7] =
    ["ops/s", "p50 us", "p99 us", "p99.9 us", "server CPU us/op", "server RSS MiB", "disk B/op"];

/// The columns' values, where there are any.
pub(super) type Columns = [Option<f64>; COLUMNS.len()];

/// What one run of one server gave.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    /// The row's figures, in their order.
    pub(super) values: Vec<f64>,
    /// The loads that were run for them.
    pub(super) loads: Vec<(&'static str, Columns)>,
}

impl From<Vec<f64>> for Taken {
    fn from(values: Vec<f64>) -> Self {
        Self { values, loads: Vec::new() }
    }
}

/// Which server runs where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site<'a> {
    pub(super) server: &'static str,
    pub(super) program: &'a Path,
    pub(super) parent: &'a Path,
    pub(super) options: &'a CompareOptions,
}

impl Site<'_> {
    pub(super) async fn start(&self, members: usize) -> Result<Cluster, BenchError> {
        Cluster::start(self.program, self.parent, members).await
    }

    /// A load of the usual duration on one member.
    pub(super) fn load(&self, cluster: &Cluster, conns: usize, clients: usize) -> LoadOptions {
        LoadOptions {
            endpoints: vec![cluster.endpoint().to_owned()],
            conns,
            clients,
            duration: Some(self.options.duration),
            server_pids: cluster.pids(),
            ..LoadOptions::default()
        }
    }

    /// Writes the keys that are needed and runs the load: the report, and the columns of the second table.
    /// The keys' writing is no part of it.
    async fn measure(&self, kind: Kind, load: &LoadOptions) -> Result<(Report, Columns), BenchError> {
        load::fill(kind, load).await?;
        let before = match kind.writes_keys() {
            true => self.settled_disk_bytes().await,
            false => None,
        };
        let load = LoadOptions { filled: true, ..load.clone() };
        let report = sound(load::run(kind, &load).await?)?;
        let latency = report.watch_us.unwrap_or(report.latency_us);
        let mut columns = [None; COLUMNS.len()];
        columns[0] = Some(report.throughput);
        columns[1] = Some(latency.p50 as f64);
        columns[2] = Some(latency.p99 as f64);
        columns[3] = Some(latency.p999 as f64);
        columns[4] = report.server.map(|used| used.cpu_us_per_op);
        columns[5] = report.server.map(|used| mebibytes(used.rss_bytes));
        if let Some(before) = before
            && let Some(after) = self.settled_disk_bytes().await
        {
            columns[6] = Some(after.saturating_sub(before) as f64 / report.operations.max(1) as f64);
        }
        Ok((report, columns))
    }

    /// What the disk has written once the server rests and nothing waits in the page cache, so that what
    /// a server puts off is counted as well.
    async fn settled_disk_bytes(&self) -> Option<u64> {
        tokio::time::sleep(REST).await;
        let sync = tokio::process::Command::new("sync").arg("-f").arg(self.parent).status().await;
        sync.ok().filter(std::process::ExitStatus::success)?;
        others::disk_bytes(self.parent)
    }

    /// Short puts, so that neither connections nor files are met for the first time.
    async fn warm_up(&self, load: &LoadOptions) -> Result<(), BenchError> {
        let duration = Some(self.options.duration.min(Duration::from_secs(1)));
        let warm_up = LoadOptions { conns: 10, clients: 100, duration, rate: None, ..load.clone() };
        load::run(Kind::Put, &warm_up).await.map(drop)
    }
}

/// A report without failures, or what failed.
pub(super) fn sound(report: Report) -> Result<Report, BenchError> {
    match report.errors.iter().next() {
        None => Ok(report),
        Some((text, count)) => {
            Err(BenchError::Options(format!("{count} operations of the load {} failed: {text}", report.load)))
        }
    }
}

pub(super) fn cpu_us(report: &Report) -> f64 {
    report.server.map_or(0.0, |used| used.cpu_us_per_op)
}

pub(super) async fn put(site: Site<'_>, members: usize) -> Result<Taken, BenchError> {
    let cluster = site.start(members).await?;
    let endpoints = vec![cluster.endpoint_of(cluster.leader().await?).to_owned()];
    let load = LoadOptions { endpoints, ..site.load(&cluster, 100, 1000) };
    site.warm_up(&load).await?;
    let (report, columns) = site.measure(Kind::Put, &load).await?;
    let values = vec![cpu_us(&report), report.throughput, report.latency_us.p99 as f64];
    Ok(Taken { values, loads: vec![("put", columns)] })
}

pub(super) async fn put_alone(site: Site<'_>) -> Result<Taken, BenchError> {
    let cluster = site.start(1).await?;
    let load = site.load(&cluster, 1, 1);
    site.warm_up(&load).await?;
    let (report, columns) = site.measure(Kind::Put, &load).await?;
    Ok(Taken { values: vec![report.throughput], loads: vec![("put", columns)] })
}

pub(super) async fn get(site: Site<'_>) -> Result<Taken, BenchError> {
    let cluster = site.start(1).await?;
    let load = LoadOptions { keys: 100, ..site.load(&cluster, 100, 1000) };
    let (report, columns) = site.measure(LINEARIZABLE, &load).await?;
    Ok(Taken { values: vec![cpu_us(&report), report.throughput], loads: vec![("get", columns)] })
}

pub(super) async fn after_puts(site: Site<'_>) -> Result<Taken, BenchError> {
    let cluster = site.start(1).await?;
    let load = site.load(&cluster, 100, 1000);
    let puts = LoadOptions { duration: None, total: Some(PUTS_BEFORE), ..load.clone() };
    sound(load::run(Kind::Put, &puts).await?)?;
    let (gets, get_columns) = site.measure(LINEARIZABLE, &load).await?;
    let load = LoadOptions { conns: 10, clients: 100, ..load };
    let (txns, txn_columns) = site.measure(Kind::Txn { reads: 0, writes: 1 }, &load).await?;
    let loads = vec![("get", get_columns), ("txn", txn_columns)];
    Ok(Taken { values: vec![gets.throughput, txns.throughput], loads })
}

pub(super) async fn range(site: Site<'_>) -> Result<Taken, BenchError> {
    let cluster = site.start(1).await?;
    let load = site.load(&cluster, 1, 1);
    let kind = Kind::Range { consistency: Consistency::S, rows: 10_000 };
    let (report, columns) = site.measure(kind, &load).await?;
    Ok(Taken { values: vec![report.latency_us.p50 as f64], loads: vec![("range", columns)] })
}

pub(super) async fn txn(site: Site<'_>) -> Result<Taken, BenchError> {
    let cluster = site.start(1).await?;
    let load = site.load(&cluster, 10, 100);
    site.warm_up(&load).await?;
    let (report, columns) = site.measure(Kind::Txn { reads: 0, writes: 10 }, &load).await?;
    Ok(Taken { values: vec![report.throughput], loads: vec![("txn", columns)] })
}

pub(super) async fn stm(site: Site<'_>) -> Result<Taken, BenchError> {
    let cluster = site.start(1).await?;
    let load = LoadOptions { keys: 1_000, ..site.load(&cluster, 10, 100) };
    site.warm_up(&load).await?;
    let (report, columns) = site.measure(Kind::Stm, &load).await?;
    Ok(Taken { values: vec![report.throughput], loads: vec![("stm", columns)] })
}

pub(super) async fn lease(site: Site<'_>) -> Result<Taken, BenchError> {
    let cluster = site.start(1).await?;
    let (report, columns) = site.measure(Kind::Lease { ttl: 60 }, &site.load(&cluster, 10, 100)).await?;
    Ok(Taken { values: vec![cpu_us(&report)], loads: vec![("keepalive", columns)] })
}

pub(super) async fn watch(site: Site<'_>) -> Result<Taken, BenchError> {
    let cluster = site.start(1).await?;
    let load = LoadOptions { rate: Some(100.0), ..site.load(&cluster, 10, 10) };
    let (report, columns) = site.measure(Kind::Watch { streams: 10, watchers: 10 }, &load).await?;
    let p99 = report.watch_us.map_or(0.0, |watch| watch.p99 as f64);
    Ok(Taken { values: vec![p99], loads: vec![("put to event", columns)] })
}

pub(super) async fn watch_many(site: Site<'_>) -> Result<Taken, BenchError> {
    let cluster = site.start(1).await?;
    let load = LoadOptions { keys: 1, rate: Some(1.0), ..site.load(&cluster, 10, 1) };
    let (report, columns) = site.measure(Kind::Watch { streams: 10, watchers: 1_000 }, &load).await?;
    let last = report.watch_us.map_or(0.0, |watch| watch.max as f64);
    Ok(Taken { values: vec![last], loads: vec![("put to event", columns)] })
}

pub(super) async fn fan_out(site: Site<'_>) -> Result<Taken, BenchError> {
    const WATCHERS: usize = 1_000;
    let cluster = site.start(1).await?;
    let load = site.load(&cluster, 10, 10);
    let kind = Kind::Watch { streams: 10, watchers: WATCHERS / 10 };
    let (report, columns) = site.measure(kind, &load).await?;
    Ok(Taken {
        values: vec![WATCHERS as f64 * 1e6 / cpu_us(&report)],
        loads: vec![("put to event", columns)],
    })
}

/// Latency at one offered rate of puts.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Point {
    /// Puts offered a second.
    pub(super) offered: f64,
    /// Puts done a second.
    pub(super) done: f64,
    /// From when a put was due to its reply, in microseconds.
    pub(super) p50_us: u64,
    /// The same.
    pub(super) p99_us: u64,
    /// The same.
    pub(super) p999_us: u64,
}

/// Latency against offered load for both servers, each until it can keep up no more. Both run all the time
/// and are asked in turn, point by point; the one that waits uses next to nothing.
pub(super) async fn offered(sites: [Site<'_>; 2]) -> Result<[Vec<Point>; 2], BenchError> {
    let mut points = [Vec::new(), Vec::new()];
    let mut clusters = Vec::new();
    for site in &sites {
        let cluster = site.start(1).await?;
        site.warm_up(&site.load(&cluster, 100, 1000)).await?;
        clusters.push(cluster);
    }
    let mut keep_up = [true; 2];
    for rate in RATES {
        for (server, site) in sites.iter().enumerate() {
            if !keep_up[server] {
                continue;
            }
            let load = LoadOptions { rate: Some(rate), ..site.load(&clusters[server], 100, 1000) };
            let report = load::run(Kind::Put, &load).await?;
            let Summary { p50, p99, p999, .. } = report.latency_us;
            let done = report.throughput;
            points[server].push(Point { offered: rate, done, p50_us: p50, p99_us: p99, p999_us: p999 });
            keep_up[server] = done >= rate * 0.9;
        }
    }
    Ok(points)
}
