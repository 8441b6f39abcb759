//! Kills the leader of three members again and again under writers.
//!
//! Each time it measures from the kill to the acknowledgement of a write that began after it, then
//! starts the member again and waits for it: two of three have to be there for the next kill.

use std::time::Duration;

use crate::cluster::{Cluster, EVENTUALLY};
use crate::load::{Load, Plan};
use crate::process::Binary;
use crate::scenario::{ms, percentile};
use crate::{Failure, Figures};

/// The flags of `kill-leader`.
#[derive(Clone, Debug, clap::Args)]
pub struct KillLeader {
    /// How often the leader is killed.
    #[arg(long, default_value_t = 20)]
    pub kills: u32,
    /// Concurrent writers.
    #[arg(long, default_value_t = 32)]
    pub writers: u32,
    /// Writes must resume within this time; two election timeouts by default.
    #[arg(long, default_value_t = 2_000)]
    pub resume_ms: u64,
    /// Operations between two kills.
    #[arg(long, default_value_t = 500)]
    pub between: usize,
    /// The seed of the writers' choices.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl KillLeader {
    /// Runs the scenario.
    ///
    /// # Errors
    /// A write was lost, members differ, or writes resumed too late.
    pub async fn run(&self, binary: &Binary) -> Result<Figures, Failure> {
        let mut cluster = Cluster::start(binary, 3, &[]).await?;
        let plan = Plan {
            writers: self.writers,
            keys: 64,
            value_bytes: 64,
            pause: Duration::from_millis(2),
            seed: self.seed,
        };
        let mut load = Load::start(&cluster.endpoints, &plan);
        let outcome = self.faults(&mut cluster, &mut load).await;
        cluster.conclude(load, self.seed, outcome).await
    }

    async fn faults(&self, cluster: &mut Cluster, load: &mut Load) -> Result<Figures, Failure> {
        let mut figures = Figures::default();
        let mut gaps = Vec::new();
        for kill in 1..=self.kills {
            if !load.progress(self.between, EVENTUALLY).await {
                return Err(Failure::new(format!("no load before kill {kill}")));
            }
            let (leader, _, term) = cluster.leader(EVENTUALLY).await?;
            cluster.members[leader].kill();
            let at = load.now();
            let gap = load.acked_after(at, EVENTUALLY).await;
            let gap = gap.ok_or_else(|| Failure::new(format!("writes never resumed after kill {kill}")))?;
            let name = &cluster.members[leader].name;
            figures.add(format!("kill {kill}: {name}, term {term}; next ack after"), ms(gap));
            gaps.push(gap);
            if gap.as_millis() > u128::from(self.resume_ms) {
                // At once, while the logs still end with what took so long.
                let what = format!("writes resumed later than {} ms after kill {kill}", self.resume_ms);
                return Err(Failure::new(what).note(figures.to_string()));
            }
            cluster.members[leader].start()?;
            cluster.members[leader].healthy(EVENTUALLY).await?;
            cluster.caught_up(leader, (leader + 1) % 3, EVENTUALLY).await?;
        }
        let longest = gaps.iter().max().copied().unwrap_or_default();
        figures.add(
            "time to the next ack: median, longest",
            format!("{}, {}", ms(percentile(&mut gaps, 50)), ms(longest)),
        );
        Ok(figures)
    }
}
