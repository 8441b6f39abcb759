//! One load from its options to its report.

use std::time::Instant;

use cairn_core::rng::Rng;

use crate::connection::{BenchError, Connections, connect};
use crate::drive::{Plan, drive};
use crate::options::{Kind, LoadOptions};
use crate::process::{self, Usage};
use crate::report::{Report, Used};
use crate::session::{LeaseWorker, LockWorker};
use crate::watch::Watchers;
use crate::workload::{Keys, KvWorker};

/// Operations of a load that has neither a total nor a duration.
const TOTAL: u64 = 10_000;

/// Connects, prepares, runs and measures.
///
/// # Errors
/// The load could not begin. What fails later is in the report.
pub async fn run(kind: Kind, options: &LoadOptions) -> Result<Report, BenchError> {
    check(kind, options)?;
    if !options.filled {
        fill(kind, options).await?;
    }
    let keys = Keys::new(options)?;
    let connections = Connections::open(&options.endpoints, options.conns).await?;
    connections.warm_up().await?;
    let epoch = Instant::now();
    let worker = |client: usize| {
        KvWorker::new(connections.of(client), kind, keys.clone(), options, client as u64, epoch)
    };
    let total = options.total.or(options.duration.is_none().then_some(TOTAL));
    let plan = Plan { total, duration: options.duration, rate: options.rate };
    let clients = 0..options.clients;
    let runtime = |client| connections.runtime(client);

    if let Kind::Lease { ttl } = kind {
        let mut workers = Vec::with_capacity(options.clients);
        for client in clients {
            workers.push(LeaseWorker::open(connections.of(client), ttl).await?);
        }
        let before = usage(options)?;
        let measured = drive(workers, runtime, plan).await;
        return Ok(Report::new(kind, options, &measured, used(options, before, measured.done())?));
    }
    if kind == Kind::Lock {
        let mut workers = Vec::with_capacity(options.clients);
        for client in clients {
            let rng = Rng::derive(options.seed, &[client as u64]);
            workers.push(LockWorker::open(connections.of(client), keys.clone(), rng).await?);
        }
        let before = usage(options)?;
        let measured = drive(workers, runtime, plan).await;
        return Ok(Report::new(kind, options, &measured, used(options, before, measured.done())?));
    }
    let workers: Vec<KvWorker> = clients.map(worker).collect();
    let watchers = match kind {
        Kind::Watch { streams, watchers } => {
            Some(Watchers::open(&connections, streams, watchers, keys.all(), epoch).await?)
        }
        _ => None,
    };
    let before = usage(options)?;
    let measured = drive(workers, runtime, plan).await;
    let watched = match (watchers, kind) {
        (Some(open), Kind::Watch { streams, watchers }) => {
            Some(open.finish(measured.done() * (streams * watchers) as u64).await)
        }
        _ => None,
    };
    let mut report = Report::new(kind, options, &measured, used(options, before, measured.done())?);
    if let Some(watched) = watched {
        report.add_watched(watched);
    }
    Ok(report)
}

/// Writes the keys that a load reads, if it reads any.
///
/// # Errors
/// As [`run`].
pub async fn fill(kind: Kind, options: &LoadOptions) -> Result<(), BenchError> {
    check(kind, options)?;
    if kind.reads_keys() {
        let channel = connect(&options.endpoints[0]).await?;
        let mut worker = KvWorker::new(channel, kind, Keys::new(options)?, options, 0, Instant::now());
        worker.fill(0..options.keys).await?;
    }
    Ok(())
}

fn check(kind: Kind, options: &LoadOptions) -> Result<(), BenchError> {
    let wrong = |text: &str| Err(BenchError::Options(text.to_owned()));
    if options.clients == 0 || options.conns == 0 || options.endpoints.is_empty() {
        return wrong("a load needs a client, a connection and an endpoint");
    }
    if options.rate.is_some_and(|rate| rate <= 0.0 || !rate.is_finite()) {
        return wrong("--rate must be above zero");
    }
    match kind {
        Kind::Watch { .. } if options.val_size.least() < 8 => {
            wrong("a watch load needs values of 8 bytes or more, which hold the time")
        }
        Kind::Range { rows, .. } if rows == 0 || rows > options.keys => {
            wrong("--rows must be between 1 and --keys")
        }
        Kind::Stm if options.keys < 2 => wrong("--keys must be 2 or more"),
        Kind::Txn { writes, .. } if u64::from(writes) > options.keys => {
            wrong("--writes must not exceed --keys")
        }
        _ => Ok(()),
    }
}

/// This process and the server.
fn usage(options: &LoadOptions) -> Result<(Usage, Option<Usage>), BenchError> {
    let of =
        |pid| process::usage(pid).map_err(BenchError::io(format!("reading what process {pid} has used")));
    let servers = options.server_pids.iter().map(|pid| of(*pid)).collect::<Result<Vec<_>, _>>()?;
    Ok((of(std::process::id())?, servers.into_iter().reduce(|sum, one| sum + one)))
}

fn used(
    options: &LoadOptions,
    before: (Usage, Option<Usage>),
    operations: u64,
) -> Result<(Used, Option<Used>), BenchError> {
    let after = usage(options)?;
    let server = before.1.zip(after.1).map(|(before, after)| Used::new(before, after, operations));
    Ok((Used::new(before.0, after.0, operations), server))
}
