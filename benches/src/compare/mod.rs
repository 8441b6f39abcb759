//! etcd and Cairn in turn on the same disk, by the rows of one table: what must hold and what is aimed at.
//!
//! Each row runs etcd, then Cairn, and does so again in each round, so that a machine that slows down hits
//! both. Every run begins with an empty directory. A figure is the median over the rounds; its verdict is
//! the ratio of the medians, Cairn's to etcd's, against the row's bounds. How fast the disk syncs is
//! measured beside it: a comparison on a disk that lies says nothing.

mod lifecycle;
mod loads;
mod machine;
mod outcome;
mod plot;
mod rows;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::connection::BenchError;
use crate::options::seconds;

pub use machine::Machine;
pub use outcome::Outcome;
pub use rows::{Bound, Figure, ROWS, Row};

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
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Seconds of each load.
    #[arg(long, value_parser = seconds, default_value = "5")]
    pub duration: Duration,
    /// The rows to run, by name; all but `ten-million` and `scale` without it.
    #[arg(long, value_delimiter = ',')]
    pub rows: Vec<String>,
    /// Keys of the row `million`.
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: u64,
    /// One round of short loads and few keys: shows that everything runs, and proves nothing.
    #[arg(long)]
    pub quick: bool,
    /// Also measure latency against offered load, for the plot.
    #[arg(long)]
    pub plot: bool,
    /// A folder for the results: a text, JSON and the plot, named by date and commit.
    #[arg(long)]
    pub results: Option<PathBuf>,
}

impl CompareOptions {
    fn settled(&self) -> Self {
        let mut settled = self.clone();
        if self.quick {
            settled.rounds = 1;
            settled.duration = Duration::from_millis(700);
            settled.keys = self.keys.min(50_000);
        }
        settled
    }

    fn rows(&self) -> Result<Vec<&'static Row>, BenchError> {
        if let Some(unknown) = self.rows.iter().find(|name| ROWS.iter().all(|row| row.name != **name)) {
            let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
            return Err(BenchError::Options(format!("no row {unknown}; there are {}", names.join(", "))));
        }
        let wanted = |row: &&Row| match self.rows.is_empty() {
            true => !row.long,
            false => self.rows.iter().any(|name| name == row.name),
        };
        Ok(ROWS.iter().filter(wanted).collect())
    }
}

/// Runs it; tells `progress` after each step.
///
/// # Errors
/// A server or a load could not be started.
pub async fn compare(options: &CompareOptions, progress: impl Fn(&str)) -> Result<Outcome, BenchError> {
    let options = options.settled();
    let rows = options.rows()?;
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut outcome = Outcome::new(Machine::look(&options.etcd, &options.cairn), options.clone());
    for round in 1..=options.rounds {
        outcome.sync_us.push(machine::sync_time(&parent).map_err(BenchError::io("measuring the disk"))?);
        for row in &rows {
            for (server, program) in [("etcd", &options.etcd), ("cairn", &options.cairn)] {
                // etcd keeps an index of all keys in memory: ten million would measure the swap.
                if row.long && server == "etcd" {
                    continue;
                }
                let site = loads::Site { program, parent: &parent, options: &options };
                let values = (row.measure)(site).await?;
                progress(&format!("round {round} {:12} {server:5} {values:.1?}", row.name));
                outcome.add(row, server, &values);
            }
        }
    }
    if options.plot {
        for (server, program) in [("etcd", &options.etcd), ("cairn", &options.cairn)] {
            let site = loads::Site { program, parent: &parent, options: &options };
            let points = loads::offered(site).await?;
            progress(&format!("latency against offered load of {server}: {} points", points.len()));
            outcome.offered.push((server, points));
        }
    }
    Ok(outcome)
}
