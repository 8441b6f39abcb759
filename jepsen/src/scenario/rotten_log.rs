//! Bytes of a follower's log rot while it is down; it gets the entries again from the others.
//!
//! The rot is in one of the last entries, under load, so that the backend does not hold it yet.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::{Cluster, EVENTUALLY};
use crate::load::{Load, Plan};
use crate::process::Binary;
use crate::scenario::ms;
use crate::{Failure, Figures};

const VALUE_BYTES: usize = 512;
/// What the server says when every entry is whole again.
const REPAIRED: &str = "repaired the log from other members";
const DAMAGED: &str = "an entry of the log is damaged";

/// The flags of `rotten-log`.
#[derive(Clone, Debug, clap::Args)]
pub struct RottenLog {
    /// How often a log rots.
    #[arg(long, default_value_t = 10)]
    pub rounds: u32,
    /// Concurrent writers.
    #[arg(long, default_value_t = 8)]
    pub writers: u32,
    /// Operations before each rot.
    #[arg(long, default_value_t = 1_000)]
    pub between: usize,
    /// The seed of the writers' choices.
    #[arg(long, default_value_t = 6)]
    pub seed: u64,
}

impl RottenLog {
    /// Runs the scenario.
    ///
    /// # Errors
    /// A write was lost, members differ, or a member does not repair its log.
    pub async fn run(&self, binary: &Binary) -> Result<Figures, Failure> {
        let mut cluster = Cluster::start(binary, 3, &[]).await?;
        let plan = Plan {
            writers: self.writers,
            keys: 500,
            value_bytes: VALUE_BYTES,
            pause: Duration::from_millis(1),
            seed: self.seed,
        };
        let load = Load::start(&cluster.endpoints, &plan);
        let outcome = self.faults(&mut cluster, &load).await;
        cluster.conclude(load, self.seed, outcome).await
    }

    async fn faults(&self, cluster: &mut Cluster, load: &Load) -> Result<Figures, Failure> {
        let mut figures = Figures::default();
        let mut repaired = 0;
        for round in 1..=self.rounds {
            if !load.progress(self.between, EVENTUALLY).await {
                return Err(Failure::new(format!("no load before round {round}")));
            }
            let (leader, ..) = cluster.leader(EVENTUALLY).await?;
            let rotten = (leader + 1) % 3;
            let server = &mut cluster.members[rotten];
            server.kill();
            rot(&server.data)?;
            server.start()?;
            server.healthy(EVENTUALLY).await?;
            let (name, log) = (server.name.clone(), server.log());
            cluster.caught_up(rotten, leader, EVENTUALLY).await?;
            // The backend may have been written just before the end: then nothing is missing.
            if let (Some(damaged), Some(whole)) = (time_of(&log, DAMAGED), time_of(&log, REPAIRED)) {
                repaired += 1;
                figures
                    .add(format!("round {round}: {name} repaired after"), ms(whole.saturating_sub(damaged)));
            }
        }
        if repaired * 2 < self.rounds {
            return Err(Failure::new(format!("only {repaired} of {} logs were repaired", self.rounds)));
        }
        Ok(figures)
    }
}

/// Flips a bit in one of the last values of the log.
fn rot(data: &Path) -> Result<(), Failure> {
    let mut segments: Vec<PathBuf> = fs::read_dir(data.join("member/wal"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    segments.sort();
    let segment = segments.last().ok_or_else(|| Failure::new("no log to rot"))?;
    let mut bytes = fs::read(segment)?;
    let padding = [b'.'; VALUE_BYTES];
    // Not the last: without a batch after it, that would be a torn one.
    let place = (0..bytes.len()).rev().filter(|at| bytes[*at..].starts_with(&padding)).nth(20);
    let place = place.ok_or_else(|| Failure::new("no values in the log"))?;
    bytes[place + 5] ^= 4;
    fs::write(segment, bytes)?;
    Ok(())
}

/// When the first line that says `what` was written.
fn time_of(log: &str, what: &str) -> Option<Duration> {
    let line = log.lines().find(|line| line.contains(what))?;
    let (_, rest) = line.split_once("\"ts\":\"")?;
    let clock = rest.get(11..23)?;
    let mut parts = clock.split([':', '.']).map(|part| part.parse::<u64>().ok());
    let (hours, minutes, seconds, millis) = (parts.next()??, parts.next()??, parts.next()??, parts.next()??);
    Some(Duration::from_millis(((hours * 60 + minutes) * 60 + seconds) * 1000 + millis))
}
