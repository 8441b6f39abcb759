//! Two of three members are lost for good; the third becomes a cluster of its own and grows again.
//!
//! The writers pause before the loss until the survivor has everything that was acknowledged: what
//! the lost members alone had is lost by the nature of the thing. Last comes a write outside of the
//! history, because etcd drops the entries above the commit index that its log holds, and that is
//! behind by one entry when nothing follows it. Cairn keeps that write too.

use std::fs;
use std::time::Duration;

use crate::client::member_id;
use crate::cluster::{Cluster, EVENTUALLY};
use crate::load::{Load, Plan};
use crate::process::Binary;
use crate::scenario::{insist, ms};
use crate::{Failure, Figures};

/// The key of the write that comes last; no writer's.
const LAST: &str = "last";

/// The flags of `force-new`.
#[derive(Clone, Debug, clap::Args)]
pub struct ForceNew {
    /// Concurrent writers.
    #[arg(long, default_value_t = 8)]
    pub writers: u32,
    /// Operations before the loss, and before each new member.
    #[arg(long, default_value_t = 3_000)]
    pub between: usize,
    /// The seed of the writers' choices.
    #[arg(long, default_value_t = 5)]
    pub seed: u64,
}

impl ForceNew {
    /// Runs the scenario.
    ///
    /// # Errors
    /// A write was lost, the member does not come up alone, or the cluster does not grow.
    pub async fn run(&self, binary: &Binary) -> Result<Figures, Failure> {
        let mut cluster = Cluster::start(binary, 3, &[]).await?;
        let plan = Plan {
            writers: self.writers,
            keys: 500,
            value_bytes: 256,
            pause: Duration::from_millis(2),
            seed: self.seed,
        };
        let mut load = Load::start(&cluster.endpoints, &plan);
        let outcome = self.faults(&mut cluster, &mut load, binary.cairn).await;
        cluster.conclude(load, self.seed, outcome).await
    }

    async fn faults(
        &self,
        cluster: &mut Cluster,
        load: &mut Load,
        keeps_last: bool,
    ) -> Result<Figures, Failure> {
        let mut figures = Figures::default();
        self.let_work(load, "the loss").await?;
        load.hold(EVENTUALLY).await?;
        let (leader, ..) = cluster.leader(EVENTUALLY).await?;
        cluster.client(leader).put(LAST, "").await.or_fail("the last write")?;
        let survivor = (leader + 1) % 3;
        cluster.caught_up(survivor, leader, EVENTUALLY).await?;
        let id =
            member_id(&cluster.client(survivor).status().await.or_fail("status of the survivor")?.header);

        let mut server = cluster.members.swap_remove(survivor);
        server.kill();
        for mut lost in cluster.members.drain(..) {
            lost.kill();
            fs::remove_dir_all(&lost.data)?;
        }
        let begin = load.now();
        server.start_with(&["--force-new-cluster"])?;
        cluster.members.push(server);
        cluster.refresh_endpoints();
        cluster.members[0].healthy(EVENTUALLY).await?;
        let took = Duration::from_nanos(load.now() - begin);
        figures.add(format!("{} alone and healthy after", cluster.members[0].name), ms(took));
        let listed = cluster.client(0).member_list().await.or_fail("member list")?;
        if listed.members.len() != 1 || listed.members[0].id != id {
            return Err(Failure::new(format!("{id:x} alone expected: {:?}", listed.members)));
        }
        let kept = !cluster.client(0).read(LAST).await.or_fail("read the last write")?.kvs.is_empty();
        figures.add("the write that came last was kept", kept);
        if keeps_last && !kept {
            return Err(Failure::new("the write that came last is lost"));
        }
        load.resume();
        self.let_work(load, "the start without the flag").await?;

        cluster.members[0].kill();
        cluster.members[0].start()?;
        cluster.members[0].healthy(EVENTUALLY).await?;
        for name in ["new1", "new2"] {
            self.let_work(load, name).await?;
            let server = cluster.spare(name);
            let (leader, ..) = cluster.leader(EVENTUALLY).await?;
            let client = cluster.client(leader);
            insist("member add", EVENTUALLY, || client.member_add(&server.peer_url, false)).await?;
            cluster.join(server)?;
            let joined = cluster.members.len() - 1;
            cluster.members[joined].healthy(EVENTUALLY).await?;
            cluster.caught_up(joined, 0, EVENTUALLY).await?;
            cluster.refresh_endpoints();
        }
        self.let_work(load, "the end").await?;
        Ok(figures)
    }

    async fn let_work(&self, load: &Load, before: &str) -> Result<(), Failure> {
        match load.progress(self.between, EVENTUALLY).await {
            true => Ok(()),
            false => Err(Failure::new(format!("no load before {before}"))),
        }
    }
}
