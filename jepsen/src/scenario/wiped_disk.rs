//! A member loses its disk and comes back as a new member with an empty one.

use std::fs;
use std::time::Duration;

use crate::client::member_id;
use crate::cluster::{Cluster, EVENTUALLY};
use crate::load::{Load, Plan};
use crate::process::Binary;
use crate::scenario::{insist, ms};
use crate::{Failure, Figures};

/// The flags of `wiped-disk`.
#[derive(Clone, Debug, clap::Args)]
pub struct WipedDisk {
    /// How often a member loses its disk.
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// Concurrent writers.
    #[arg(long, default_value_t = 8)]
    pub writers: u32,
    /// Operations before each loss.
    #[arg(long, default_value_t = 3_000)]
    pub between: usize,
    /// `--snapshot-count` of the members: so low that a new member needs a snapshot.
    #[arg(long, default_value_t = 500)]
    pub snapshot_count: u64,
    /// The seed of the writers' choices.
    #[arg(long, default_value_t = 2)]
    pub seed: u64,
}

impl WipedDisk {
    /// Runs the scenario.
    ///
    /// # Errors
    /// A write was lost, members differ, or the member does not come back.
    pub async fn run(&self, binary: &Binary) -> Result<Figures, Failure> {
        let count = self.snapshot_count.to_string();
        let mut cluster = Cluster::start(binary, 3, &["--snapshot-count", &count]).await?;
        let plan = Plan {
            writers: self.writers,
            keys: 500,
            value_bytes: 512,
            pause: Duration::from_millis(2),
            seed: self.seed,
        };
        let load = Load::start(&cluster.endpoints, &plan);
        let outcome = self.faults(&mut cluster, &load).await;
        cluster.conclude(load, self.seed, outcome).await
    }

    async fn faults(&self, cluster: &mut Cluster, load: &Load) -> Result<Figures, Failure> {
        let mut figures = Figures::default();
        for round in 1..=self.rounds {
            if !load.progress(self.between, EVENTUALLY).await {
                return Err(Failure::new(format!("no load before round {round}")));
            }
            // The first loss hits a follower, the second the leader, and so on.
            let (leader, ..) = cluster.leader(EVENTUALLY).await?;
            let lost = if round % 2 == 1 { (leader + 1) % 3 } else { leader };
            let status = cluster.client(lost).status().await.or_fail("status of the member to wipe")?;
            let id = member_id(&status.header);
            let mut server = cluster.members.remove(lost);
            server.kill();
            fs::remove_dir_all(&server.data)?;
            cluster.refresh_endpoints();
            let (leader, ..) = cluster.leader(EVENTUALLY).await?;
            let client = cluster.client(leader);
            insist("member remove", EVENTUALLY, || client.member_remove(id)).await?;
            insist("member add", EVENTUALLY, || client.member_add(&server.peer_url, false)).await?;
            let begin = load.now();
            cluster.join(server)?;
            let joined = cluster.members.len() - 1;
            cluster.members[joined].healthy(EVENTUALLY).await?;
            cluster.caught_up(joined, 0, EVENTUALLY).await?;
            cluster.refresh_endpoints();
            let took = Duration::from_nanos(load.now() - begin);
            let name = &cluster.members[joined].name;
            figures.add(format!("round {round}: {name} back and caught up after"), ms(took));
        }
        Ok(figures)
    }
}
