//! etcd and Cairn in turn on the same disk, by the rows of one table: what must hold and what is aimed at.
//!
//! Each row runs etcd, then Cairn, and does so again in each round, so that a machine that slows down hits
//! both. Every run begins with an empty directory. A figure is the median over the rounds; its verdict is
//! the ratio of the medians, Cairn's to etcd's, against the row's bounds. How fast the disk syncs is
//! measured beside it: a comparison on a disk that lies says nothing. A run that was disturbed by other
//! processes is repeated, and told of if it stays so.
//!
//! Invariant: a run that fails is a failure of its row in the outcome, and no other row's.

mod lifecycle;
mod loads;
mod machine;
mod others;
mod outcome;
mod plot;
mod rows;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use crate::connection::BenchError;
use crate::options::seconds;

/// A run that takes longer hangs. Loading ten million keys takes minutes.
const RUN_MAX: Duration = Duration::from_secs(1_200);

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
    /// Begin no row, and no repetition, that would not be over after so many minutes, going by how long it
    /// took before. The first round comes first, with the plot.
    #[arg(long, value_name = "MINUTES", value_parser = minutes)]
    pub budget: Option<Duration>,
    /// How often a run that others disturbed is repeated.
    #[arg(long, default_value_t = 2)]
    pub repeats: usize,
    /// Seconds of each load.
    #[arg(long, value_parser = seconds, default_value = "5")]
    pub duration: Duration,
    /// The rows to run, by name; all but `ten-million` and `scale` without it.
    #[arg(long, value_delimiter = ',')]
    pub rows: Vec<String>,
    /// Run `ten-million` and `scale` as well.
    #[arg(long)]
    pub long: bool,
    /// Keys of the row `million`.
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: u64,
    /// One round of short loads and few keys: shows that everything runs, and proves nothing.
    #[arg(long)]
    pub quick: bool,
    /// Also measure latency against offered load, for the plot.
    #[arg(long)]
    pub plot: bool,
    /// A folder for the results: a text, JSON and the plot, named by date and commit. They are written after
    /// each round.
    #[arg(long)]
    pub results: Option<PathBuf>,
}

impl CompareOptions {
    fn settled(&self) -> Self {
        let mut settled = self.clone();
        if self.quick {
            settled.rounds = 1;
            settled.repeats = 0;
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
            true => self.long || !row.long,
            false => self.rows.iter().any(|name| name == row.name),
        };
        Ok(ROWS.iter().filter(wanted).collect())
    }
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| format!("{text} is no number of minutes"))?;
    Duration::try_from_secs_f64(minutes * 60.0).map_err(|error| error.to_string())
}

/// Runs it; tells `progress` after each step.
///
/// # Errors
/// There is no such row, or the results cannot be written. What fails later is in the outcome.
pub async fn compare(options: &CompareOptions, progress: impl Fn(&str)) -> Result<Outcome, BenchError> {
    let options = options.settled();
    let rows = options.rows()?;
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let machine = Machine::look(&options.etcd, &options.cairn);
    let sites = [("etcd", &options.etcd), ("cairn", &options.cairn)].map(|(server, program)| loads::Site {
        server,
        program,
        parent: &parent,
        options: &options,
    });
    let mut comparison = Comparison {
        options: &options,
        outcome: Outcome::new(machine, options.clone()),
        started: Instant::now(),
        last: BTreeMap::new(),
        repeating: Duration::ZERO,
        progress,
    };
    for round in 1..=options.rounds {
        let sync = machine::sync_time(&parent).map_err(BenchError::io("measuring the disk"))?;
        comparison.outcome.sync_us.push(sync);
        for row in rows.iter().filter(|row| round == 1 || !row.long) {
            if !comparison.has_time_for(row.name) {
                comparison.tell(&format!("round {round} {:12} left out: the time is up", row.name));
                continue;
            }
            let began = Instant::now();
            for site in sites {
                // etcd keeps an index of all keys in memory: ten million would measure the swap.
                if !(row.long && site.server == "etcd") {
                    comparison.run(round, row, site).await;
                }
            }
            comparison.last.insert(row.name, began.elapsed());
        }
        if options.plot && round == 1 {
            comparison.plot(sites).await;
        }
        if let Some(folder) = &options.results {
            let stem = comparison.outcome.write(folder)?;
            comparison.tell(&format!("round {round} written: {}.*", stem.display()));
        }
    }
    Ok(comparison.outcome)
}

struct Comparison<'a, P> {
    options: &'a CompareOptions,
    outcome: Outcome,
    started: Instant,
    /// How long each row took, both servers together.
    last: BTreeMap<&'static str, Duration>,
    /// What runs took that were repeated.
    repeating: Duration,
    progress: P,
}

impl<P: Fn(&str)> Comparison<'_, P> {
    fn tell(&self, step: &str) {
        let seconds = self.started.elapsed().as_secs();
        (self.progress)(&format!("{:3}:{:02} {step}", seconds / 60, seconds % 60));
    }

    /// Whether something that takes so long would be over in time.
    fn fits(&self, time: Duration) -> bool {
        self.options.budget.is_none_or(|budget| self.started.elapsed() + time <= budget)
    }

    fn has_time_for(&self, row: &str) -> bool {
        self.fits(self.last.get(row).copied().unwrap_or_default())
    }

    /// Runs a row on one server until nothing disturbs it, or often enough.
    async fn run(&mut self, round: usize, row: &'static Row, site: loads::Site<'_>) {
        let server = site.server;
        for repeat in 0..=self.options.repeats {
            let began = Instant::now();
            let watch = others::Others::watch();
            let taken = match tokio::time::timeout(RUN_MAX, (row.measure)(site)).await {
                Ok(taken) => taken,
                Err(_) => Err(BenchError::Options(format!("not over after {} s", RUN_MAX.as_secs()))),
            };
            let (others, took) = (watch.share(), began.elapsed());
            let head = format!("round {round} {:12} {server:5} {:5.1} s", row.name, took.as_secs_f64());
            let taken = match taken {
                Ok(taken) => taken,
                Err(error) => {
                    self.tell(&format!("{head} FAILED: {error}"));
                    self.outcome.fail(row, server, error.to_string());
                    return;
                }
            };
            let disturbed = others > others::SHARE_MAX;
            let note = if disturbed { format!("; others used {others:.2} cores") } else { String::new() };
            if disturbed && repeat < self.options.repeats && self.may_repeat(round, row, took) {
                self.tell(&format!("{head} {:.1?}{note}: again", taken.values));
                self.outcome.repeated += 1;
                continue;
            }
            self.tell(&format!("{head} {:.1?}{note}", taken.values));
            self.outcome.add(row, server, &taken, others);
            return;
        }
    }

    /// Repetitions may use a fifth of the time: they must not cost the rounds that a median needs.
    fn may_repeat(&mut self, round: usize, row: &Row, took: Duration) -> bool {
        let Some(budget) = self.options.budget else { return true };
        let spent = self.repeating + took;
        let may = spent <= budget / 5 && self.fits(took) && !(round == 1 && row.long);
        if may {
            self.repeating = spent;
        }
        may
    }

    async fn plot(&mut self, sites: [loads::Site<'_>; 2]) {
        let watch = others::Others::watch();
        match loads::offered(sites).await {
            Ok([etcd, cairn]) => {
                let counts = (etcd.len(), cairn.len());
                self.tell(&format!("latency against offered load: {} and {} points", counts.0, counts.1));
                self.outcome.offered = vec![("etcd", etcd), ("cairn", cairn)];
                self.outcome.offered_others = watch.share();
            }
            Err(error) => {
                self.tell(&format!("latency against offered load FAILED: {error}"));
                self.outcome.failed.push(("plot", "both", error.to_string()));
            }
        }
    }
}
