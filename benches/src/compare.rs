//! etcd and Cairn in turn on the same disk: A B A B, so that a machine that slows down hits both.
//!
//! Every run of a server begins with an empty directory and a warm-up; a case's number is the median
//! over the rounds. How fast the disk syncs is measured beside it: a comparison on a disk that lies, or
//! on one that is slower by the hour, says nothing.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::connection::BenchError;
use crate::load;
use crate::options::{Consistency, Kind, LoadOptions, seconds};
use crate::report::{Report, mebibytes, plain_table, right};
use crate::server::Server;

/// Syncs in the disk's measurement.
const SYNCS: usize = 200;

/// How to compare.
#[derive(Args, Clone, Debug)]
pub struct CompareOptions {
    /// etcd's program.
    #[arg(long, default_value = "etcd")]
    pub etcd: PathBuf,
    /// Cairn's program.
    #[arg(long, env = "CAIRN_BIN", default_value = "target/release/cairn")]
    pub cairn: PathBuf,
    /// Where both keep their data, one after the other [default: the directory for temporary files].
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Rounds; each runs both servers.
    #[arg(long, default_value_t = 2)]
    pub rounds: usize,
    /// Seconds of each load.
    #[arg(long, value_parser = seconds, default_value = "5")]
    pub duration: Duration,
    /// Seconds of the puts that warm a server up.
    #[arg(long, value_parser = seconds, default_value = "2")]
    pub warm_up: Duration,
    /// Also write every report to this file, as JSON.
    #[arg(long)]
    pub output: Option<PathBuf>,
}

/// One load of the comparison.
struct Case {
    name: &'static str,
    kind: Kind,
    conns: usize,
    clients: usize,
}

const LINEARIZABLE: Kind = Kind::Range { consistency: Consistency::L, rows: 1 };

const CASES: [Case; 4] = [
    Case { name: "put 1/1", kind: Kind::Put, conns: 1, clients: 1 },
    Case { name: "put 10/100", kind: Kind::Put, conns: 10, clients: 100 },
    Case { name: "put 100/1000", kind: Kind::Put, conns: 100, clients: 1000 },
    Case { name: "get linearizable 100/1000", kind: LINEARIZABLE, conns: 100, clients: 1000 },
];

/// One load of one server in one round.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// `etcd` or `cairn`.
    pub server: &'static str,
    /// From 1.
    pub round: usize,
    /// The load's name with connections/clients.
    pub case: &'static str,
    /// What was measured.
    pub report: Report,
}

/// All of a comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The median of a write of 4 KiB and its fdatasync before each server's run, in microseconds.
    pub sync_us: Vec<u64>,
    /// Every run.
    pub runs: Vec<Run>,
}

/// Runs it; tells `progress` after each load.
///
/// # Errors
/// A server or a load could not be started.
pub async fn compare(
    options: &CompareOptions,
    mut progress: impl FnMut(&Run),
) -> Result<Comparison, BenchError> {
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut comparison = Comparison { sync_us: Vec::new(), runs: Vec::new() };
    for round in 1..=options.rounds {
        for (name, program) in [("etcd", &options.etcd), ("cairn", &options.cairn)] {
            let sync = sync_time(&parent).map_err(BenchError::io("measuring the disk"))?;
            comparison.sync_us.push(sync);
            let server = Server::start(program, &parent).await?;
            let base = LoadOptions {
                endpoints: vec![server.endpoint().to_owned()],
                server_pid: Some(server.pid()),
                ..LoadOptions::default()
            };
            let warm_up = Some(options.warm_up);
            load::run(Kind::Put, &LoadOptions { conns: 10, clients: 100, duration: warm_up, ..base.clone() })
                .await?;
            for Case { name: case, kind, conns, clients } in CASES {
                let duration = Some(options.duration);
                let report =
                    load::run(kind, &LoadOptions { conns, clients, duration, ..base.clone() }).await?;
                let run = Run { server: name, round, case, report };
                progress(&run);
                comparison.runs.push(run);
            }
        }
    }
    Ok(comparison)
}

/// The median of a small write with its sync, in microseconds.
fn sync_time(parent: &Path) -> std::io::Result<u64> {
    let directory = tempfile::tempdir_in(parent)?;
    let path = directory.path().join("sync");
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let page = [7; 4096];
    // The file is written before, so that a sync has no metadata to write.
    for at in 0..SYNCS as u64 {
        file.write_all_at(&page, at * 4096)?;
    }
    file.sync_all()?;
    let mut times = Vec::with_capacity(SYNCS);
    for at in 0..SYNCS as u64 {
        let started = Instant::now();
        file.write_all_at(&page, at * 4096)?;
        file.sync_data()?;
        times.push(started.elapsed().as_micros() as f64);
    }
    Ok(median(times) as u64)
}

/// The middle, or the mean of the two in the middle; 0 for nothing.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    match (numbers.len() / 2, numbers.len() % 2) {
        (0, 0) => 0.0,
        (half, 0) => f64::midpoint(numbers[half - 1], numbers[half]),
        (half, _) => numbers[half],
    }
}

impl Comparison {
    fn median(&self, server: &str, case: &str, number: impl Fn(&Report) -> f64) -> f64 {
        let of = |run: &&Run| run.server == server && run.case == case;
        median(self.runs.iter().filter(of).map(|run| number(&run.report)).collect())
    }

    /// Failed operations of all runs.
    pub fn failures(&self) -> u64 {
        self.runs.iter().map(|run| run.report.failures()).sum()
    }

    /// Medians with their ratios, Cairn to etcd.
    pub fn table(&self) -> String {
        let header = ["case", "number", "etcd", "cairn", "cairn/etcd", "better"];
        let mut table = plain_table(&header);
        type Number = fn(&Report) -> f64;
        let numbers: [(&str, bool, Number); 8] = [
            ("ops/s", true, |report| report.throughput),
            ("p50 us", false, |report| report.latency_us.p50 as f64),
            ("p99 us", false, |report| report.latency_us.p99 as f64),
            ("p99.9 us", false, |report| report.latency_us.p999 as f64),
            ("max us", false, |report| report.latency_us.max as f64),
            ("CPU us/op", false, |report| report.server.map_or(0.0, |used| used.cpu_us_per_op)),
            ("B dirtied/op", false, |report| report.server.map_or(0.0, |used| used.dirtied_bytes_per_op)),
            ("RSS MiB", false, |report| report.server.map_or(0.0, |used| mebibytes(used.rss_bytes))),
        ];
        for Case { name: case, .. } in CASES {
            for (index, (name, more_is_better, number)) in numbers.into_iter().enumerate() {
                let [etcd, cairn] = ["etcd", "cairn"].map(|server| self.median(server, case, number));
                let better = match (cairn > etcd) == more_is_better {
                    _ if cairn == etcd => "",
                    true => "cairn",
                    false => "etcd",
                };
                let ratio = if etcd > 0.0 { format!("{:.2}", cairn / etcd) } else { "-".to_owned() };
                let case = if index == 0 { case } else { "" };
                table.add_row([case, name, &figure(etcd), &figure(cairn), &ratio, better]);
            }
        }
        right(&mut table);
        let sync = median(self.sync_us.iter().map(|time| *time as f64).collect());
        format!(
            "{table}\ndisk: a write of 4 KiB and its sync take {sync:.0} us (median of {:?})\n",
            self.sync_us
        )
    }
}

/// Three digits or more.
fn figure(number: f64) -> String {
    if number < 100.0 { format!("{number:.1}") } else { format!("{number:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    #[test]
    fn a_sync_takes_time() {
        let directory = tempfile::tempdir().unwrap();
        sync_time(directory.path()).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
