//! One member becomes three, five, and three again while writers run.
//!
//! One of the new members comes as a learner and is promoted. The removed ones, the leader among
//! them, have to end by themselves, cleanly, and say why.

use std::time::{Duration, Instant};

use crate::client::Client;
use crate::cluster::{Cluster, EVENTUALLY};
use crate::load::{Load, Plan};
use crate::process::{Binary, POLL, Server};
use crate::scenario::{insist, ms};
use crate::{Failure, Figures};

/// What a removed member's log has to say.
const REMOVED: &str = "permanently removed from the cluster";

/// The flags of `grow-shrink`.
#[derive(Clone, Debug, clap::Args)]
pub struct GrowShrink {
    /// Concurrent writers.
    #[arg(long, default_value_t = 8)]
    pub writers: u32,
    /// Operations between two changes.
    #[arg(long, default_value_t = 300)]
    pub between: usize,
    /// The seed of the writers' choices.
    #[arg(long, default_value_t = 3)]
    pub seed: u64,
}

impl GrowShrink {
    /// Runs the scenario.
    ///
    /// # Errors
    /// A write was lost, members differ, or a change does not succeed.
    pub async fn run(&self, binary: &Binary) -> Result<Figures, Failure> {
        let mut cluster = Cluster::start(binary, 1, &[]).await?;
        let plan = Plan {
            writers: self.writers,
            keys: 64,
            value_bytes: 64,
            pause: Duration::from_millis(5),
            seed: self.seed,
        };
        let load = Load::start(&cluster.endpoints, &plan);
        let mut removed = Vec::new();
        let mut outcome = self.changes(&mut cluster, &load, &mut removed).await;
        if let Err(failure) = outcome {
            outcome = Err(removed.iter().fold(failure, |failure, server| failure.note(server.log_tail(25))));
        }
        cluster.conclude(load, self.seed, outcome).await
    }

    async fn changes(
        &self,
        cluster: &mut Cluster,
        load: &Load,
        removed: &mut Vec<Server>,
    ) -> Result<Figures, Failure> {
        let mut figures = Figures::default();
        for (name, learner) in [("etcd1", false), ("etcd2", true), ("etcd3", false), ("etcd4", false)] {
            self.let_work(load, name).await?;
            let took = grow(cluster, name, learner).await?;
            let how = if learner { "added as a learner and promoted" } else { "added" };
            figures.add(format!("{name} {how}, caught up after"), ms(took));
        }
        for step in ["a follower", "the leader"] {
            self.let_work(load, step).await?;
            let (leader, leader_id, _) = cluster.leader(EVENTUALLY).await?;
            let place = if step == "the leader" { leader } else { (leader + 1) % cluster.members.len() };
            let client = cluster.client(leader);
            let id = if place == leader {
                leader_id
            } else {
                let listed = client.member_list().await.or_fail("member list")?;
                let name = &cluster.members[place].name;
                let member = listed.members.iter().find(|member| member.name == *name);
                member.ok_or_else(|| Failure::new(format!("{name} is not listed: {listed:?}")))?.id
            };
            let begin = Instant::now();
            remove(&client, id).await?;
            removed.push(cluster.members.remove(place));
            cluster.refresh_endpoints();
            let server = removed.last_mut().expect("just pushed");
            let status = server.exited(EVENTUALLY).await?;
            figures.add(format!("{step} ({}) removed, ended after", server.name), ms(begin.elapsed()));
            if !status.success() || !server.log().contains(REMOVED) {
                let what =
                    format!("removed {} ended with {status}; its log must contain {REMOVED:?}", server.name);
                return Err(Failure::new(what));
            }
        }
        self.let_work(load, "the end").await?;
        let (leader, ..) = cluster.leader(EVENTUALLY).await?;
        let listed = cluster.client(leader).member_list().await.or_fail("member list")?;
        if listed.members.len() != 3 || listed.members.iter().any(|member| member.is_learner) {
            return Err(Failure::new(format!("three voting members expected: {:?}", listed.members)));
        }
        Ok(figures)
    }

    async fn let_work(&self, load: &Load, before: &str) -> Result<(), Failure> {
        match load.progress(self.between, EVENTUALLY).await {
            true => Ok(()),
            false => Err(Failure::new(format!("no load before {before}"))),
        }
    }
}

async fn grow(cluster: &mut Cluster, name: &str, learner: bool) -> Result<Duration, Failure> {
    let server = cluster.spare(name);
    let (leader, ..) = cluster.leader(EVENTUALLY).await?;
    let client = cluster.client(leader);
    let what = format!("member add {name}");
    let added = insist(&what, EVENTUALLY, || add_once(&client, &server.peer_url, learner)).await?;
    let begin = Instant::now();
    cluster.join(server)?;
    let place = cluster.members.len() - 1;
    if learner {
        // A learner refuses linearizable reads, so its own /health may stay false.
        insist(&format!("promote {name}"), EVENTUALLY, || client.member_promote(added)).await?;
    }
    cluster.members[place].healthy(EVENTUALLY).await?;
    cluster.caught_up(place, leader, EVENTUALLY).await?;
    cluster.refresh_endpoints();
    Ok(begin.elapsed())
}

/// Adds a member unless an attempt whose answer was lost has added it; its id.
async fn add_once(client: &Client, peer_url: &str, learner: bool) -> crate::client::Outcome<u64> {
    use crate::client::Outcome;
    let known = match client.member_list().await {
        Outcome::Ok(listed) => {
            listed.members.into_iter().find(|m| m.peer_ur_ls.iter().any(|url| url == peer_url))
        }
        Outcome::Refused(error) => return Outcome::Refused(error),
        Outcome::Unknown(error) => return Outcome::Unknown(error),
    };
    if let Some(member) = known {
        return Outcome::Ok(member.id);
    }
    match client.member_add(peer_url, learner).await {
        Outcome::Ok(response) => match response.member {
            Some(member) => Outcome::Ok(member.id),
            None => Outcome::Unknown("the answer names no member".to_owned()),
        },
        Outcome::Refused(error) => Outcome::Refused(error),
        Outcome::Unknown(error) => Outcome::Unknown(error),
    }
}

/// Removes a member; a leader that removes itself may go before it answers.
async fn remove(client: &Client, id: u64) -> Result<(), Failure> {
    use crate::client::Outcome;
    let deadline = Instant::now() + EVENTUALLY;
    loop {
        match client.member_remove(id).await {
            Outcome::Ok(_) => return Ok(()),
            Outcome::Unknown(error) if !error.contains("unhealthy cluster") => return Ok(()),
            other if Instant::now() > deadline => return other.or_fail("member remove").map(drop),
            Outcome::Refused(_) | Outcome::Unknown(_) => tokio::time::sleep(10 * POLL).await,
        }
    }
}
