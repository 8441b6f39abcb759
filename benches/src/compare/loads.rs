//! The rows that are loads: each starts a server, prepares, runs and picks its figures.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::CompareOptions;
use crate::connection::BenchError;
use crate::load;
use crate::options::{Consistency, Kind, LoadOptions};
use crate::report::Report;
use crate::server::Cluster;

/// Puts before the row that measures what they leave behind.
const PUTS_BEFORE: u64 = 100_000;
/// How fast each point of the plot is offered.
const RATES: [f64; 9] = [500.0, 2_000.0, 5_000.0, 10_000.0, 15_000.0, 20_000.0, 25_000.0, 30_000.0, 40_000.0];

const LINEARIZABLE: Kind = Kind::Range { consistency: Consistency::L, rows: 1 };

/// Which server runs where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site<'a> {
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

pub(super) async fn put(site: Site<'_>, members: usize) -> Result<Vec<f64>, BenchError> {
    let cluster = site.start(members).await?;
    let endpoints = vec![cluster.endpoint_of(cluster.leader().await?).to_owned()];
    let load = LoadOptions { endpoints, ..site.load(&cluster, 100, 1000) };
    site.warm_up(&load).await?;
    let report = sound(load::run(Kind::Put, &load).await?)?;
    Ok(vec![cpu_us(&report), report.throughput, report.latency_us.p99 as f64])
}

pub(super) async fn put_alone(site: Site<'_>) -> Result<Vec<f64>, BenchError> {
    let cluster = site.start(1).await?;
    let load = site.load(&cluster, 1, 1);
    site.warm_up(&load).await?;
    Ok(vec![sound(load::run(Kind::Put, &load).await?)?.throughput])
}

pub(super) async fn get(site: Site<'_>) -> Result<Vec<f64>, BenchError> {
    let cluster = site.start(1).await?;
    let load = LoadOptions { keys: 100, ..site.load(&cluster, 100, 1000) };
    let report = sound(load::run(LINEARIZABLE, &load).await?)?;
    Ok(vec![cpu_us(&report), report.throughput])
}

pub(super) async fn after_puts(site: Site<'_>) -> Result<Vec<f64>, BenchError> {
    let cluster = site.start(1).await?;
    let load = site.load(&cluster, 100, 1000);
    let puts = LoadOptions { duration: None, total: Some(PUTS_BEFORE), ..load.clone() };
    sound(load::run(Kind::Put, &puts).await?)?;
    let gets = sound(load::run(LINEARIZABLE, &load).await?)?.throughput;
    let load = LoadOptions { conns: 10, clients: 100, ..load };
    let txns = sound(load::run(Kind::Txn { reads: 0, writes: 1 }, &load).await?)?.throughput;
    Ok(vec![gets, txns])
}

pub(super) async fn range(site: Site<'_>) -> Result<Vec<f64>, BenchError> {
    let cluster = site.start(1).await?;
    let load = site.load(&cluster, 1, 1);
    let kind = Kind::Range { consistency: Consistency::S, rows: 10_000 };
    Ok(vec![sound(load::run(kind, &load).await?)?.latency_us.p50 as f64])
}

pub(super) async fn txn(site: Site<'_>) -> Result<Vec<f64>, BenchError> {
    let cluster = site.start(1).await?;
    let load = site.load(&cluster, 10, 100);
    site.warm_up(&load).await?;
    Ok(vec![sound(load::run(Kind::Txn { reads: 0, writes: 10 }, &load).await?)?.throughput])
}

pub(super) async fn stm(site: Site<'_>) -> Result<Vec<f64>, BenchError> {
    let cluster = site.start(1).await?;
    let load = LoadOptions { keys: 1_000, ..site.load(&cluster, 10, 100) };
    site.warm_up(&load).await?;
    Ok(vec![sound(load::run(Kind::Stm, &load).await?)?.throughput])
}

pub(super) async fn lease(site: Site<'_>) -> Result<Vec<f64>, BenchError> {
    let cluster = site.start(1).await?;
    let report = sound(load::run(Kind::Lease { ttl: 60 }, &site.load(&cluster, 10, 100)).await?)?;
    Ok(vec![cpu_us(&report)])
}

pub(super) async fn watch(site: Site<'_>) -> Result<Vec<f64>, BenchError> {
    let cluster = site.start(1).await?;
    let load = LoadOptions { rate: Some(100.0), ..site.load(&cluster, 10, 10) };
    let report = sound(load::run(Kind::Watch { streams: 10, watchers: 10 }, &load).await?)?;
    Ok(vec![report.watch_us.map_or(0.0, |watch| watch.p99 as f64)])
}

pub(super) async fn watch_many(site: Site<'_>) -> Result<Vec<f64>, BenchError> {
    let cluster = site.start(1).await?;
    let load = LoadOptions { keys: 1, rate: Some(1.0), ..site.load(&cluster, 10, 1) };
    let report = sound(load::run(Kind::Watch { streams: 10, watchers: 1_000 }, &load).await?)?;
    Ok(vec![report.watch_us.map_or(0.0, |watch| watch.max as f64)])
}

pub(super) async fn fan_out(site: Site<'_>) -> Result<Vec<f64>, BenchError> {
    const WATCHERS: usize = 1_000;
    let cluster = site.start(1).await?;
    let load = site.load(&cluster, 10, 10);
    let report = sound(load::run(Kind::Watch { streams: 10, watchers: WATCHERS / 10 }, &load).await?)?;
    Ok(vec![WATCHERS as f64 * 1e6 / cpu_us(&report)])
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
}

/// Latency against offered load, until the server can keep up no more.
pub(super) async fn offered(site: Site<'_>) -> Result<Vec<Point>, BenchError> {
    let cluster = site.start(1).await?;
    let load = site.load(&cluster, 100, 1000);
    site.warm_up(&load).await?;
    let mut points = Vec::new();
    for rate in RATES {
        let report = load::run(Kind::Put, &LoadOptions { rate: Some(rate), ..load.clone() }).await?;
        let (p50_us, p99_us) = (report.latency_us.p50, report.latency_us.p99);
        points.push(Point { offered: rate, done: report.throughput, p50_us, p99_us });
        if report.throughput < rate * 0.9 {
            break;
        }
    }
    Ok(points)
}
