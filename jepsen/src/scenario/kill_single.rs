//! Kills a single member again and again under writers.
//!
//! With one member there is nobody to copy from: each acknowledged write has to come back from this
//! disk, and each start has to be clean, whatever the last write before the kill was.

use std::time::Duration;

use crate::cluster::{Cluster, EVENTUALLY};
use crate::load::{Load, Plan, Rng};
use crate::process::Binary;
use crate::scenario::{ms, percentile};
use crate::{Failure, Figures};

/// A restart that takes longer than this is not clean.
const READY: Duration = Duration::from_secs(10);

/// The flags of `kill-single`.
#[derive(Clone, Debug, clap::Args)]
pub struct KillSingle {
    /// How often the member is killed.
    #[arg(long, default_value_t = 100)]
    pub kills: u32,
    /// Concurrent writers.
    #[arg(long, default_value_t = 16)]
    pub writers: u32,
    /// At most this many operations between two kills.
    #[arg(long, default_value_t = 400)]
    pub between: u64,
    /// `--snapshot-count` of the member: so low that snapshots are cut short by kills, too.
    #[arg(long, default_value_t = 1_000)]
    pub snapshot_count: u64,
    /// The seed of the writers' choices and of the moments of the kills.
    #[arg(long, default_value_t = 4)]
    pub seed: u64,
}

impl KillSingle {
    /// Runs the scenario.
    ///
    /// # Errors
    /// A write was lost, or a restart is not clean.
    pub async fn run(&self, binary: &Binary) -> Result<Figures, Failure> {
        let count = self.snapshot_count.to_string();
        let mut cluster = Cluster::start(binary, 1, &["--snapshot-count", &count]).await?;
        let plan = Plan {
            writers: self.writers,
            keys: 64,
            value_bytes: 128,
            pause: Duration::ZERO,
            seed: self.seed,
        };
        let load = Load::start(&cluster.endpoints, &plan);
        let outcome = self.faults(&mut cluster, &load).await;
        cluster.conclude(load, self.seed, outcome).await
    }

    async fn faults(&self, cluster: &mut Cluster, load: &Load) -> Result<Figures, Failure> {
        let mut rng = Rng(self.seed);
        let mut starts = Vec::new();
        for kill in 1..=self.kills {
            let count = usize::try_from(1 + rng.below(self.between)).expect("a count of operations fits");
            if !load.progress(count, EVENTUALLY).await {
                return Err(Failure::new(format!("no load before kill {kill}")));
            }
            let member = &mut cluster.members[0];
            member.kill();
            member.start()?;
            starts.push(member.healthy(READY).await.map_err(|failure| failure.note(format!("kill {kill}")))?);
            let complaints = member.complaints();
            if let Some(first) = complaints.first() {
                return Err(Failure::new(format!("restart {kill} is not clean: {first}")));
            }
        }
        let longest = starts.iter().max().copied().unwrap_or_default();
        let mut figures = Figures::default();
        figures.add("kills, all followed by a clean restart", self.kills);
        figures.add(
            "exec to healthy: median, longest",
            format!("{}, {}", ms(percentile(&mut starts, 50)), ms(longest)),
        );
        Ok(figures)
    }
}
