//! Some members, their files and the questions that concern all of them.
//!
//! Members are started by the commands of etcd's clustering guide, on loopback ports. The files are
//! in a temporary directory that goes away with the cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::check::{Op, check};
use crate::client::{Client, Outcome, kv, member_id, prefix_range, revision};
use crate::load::{Endpoints, Load, PREFIX};
use crate::process::{Binary, POLL, Server};
use crate::{Failure, Figures};

/// How long anything that has to happen in the end may take.
pub const EVENTUALLY: Duration = Duration::from_secs(60);

/// How long one attempt of a writer may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Members that run the same binary.
#[derive(Debug)]
pub struct Cluster {
    /// The members, in the order in which they were added; a removed one is taken out.
    pub members: Vec<Server>,
    /// What the load talks to.
    pub endpoints: Endpoints,
    binary: Binary,
    extra: Vec<String>,
    root: TempDir,
}

impl Cluster {
    /// Starts `size` new members with `extra` flags and waits until all are healthy.
    ///
    /// # Errors
    /// One of them does not become healthy.
    pub async fn start(binary: &Binary, size: usize, extra: &[&str]) -> Result<Self, Failure> {
        let root = TempDir::with_prefix("cairn-jepsen-")?;
        let extra: Vec<String> = extra.iter().map(|flag| (*flag).to_owned()).collect();
        let members: Vec<Server> =
            (0..size).map(|i| Server::new(binary, root.path(), &format!("etcd{i}"))).collect();
        let endpoints: Endpoints = Arc::new(RwLock::new(Vec::new()));
        let mut cluster = Self { members, endpoints, binary: binary.clone(), extra, root };
        let initial = cluster.initial_cluster();
        for member in &mut cluster.members {
            member.configure(&initial, "new", &cluster.extra);
            member.start()?;
        }
        if let Err(failure) = cluster.all_healthy(EVENTUALLY).await {
            return Err(cluster.explain(failure));
        }
        cluster.refresh_endpoints();
        Ok(cluster)
    }

    /// `--initial-cluster` for the members there are.
    pub fn initial_cluster(&self) -> String {
        let pairs: Vec<String> = self.members.iter().map(|m| format!("{}={}", m.name, m.peer_url)).collect();
        pairs.join(",")
    }

    /// Makes the load talk to exactly the present members.
    pub fn refresh_endpoints(&self) {
        let clients = self.members.iter().map(|member| Client::new(&member.client_url, ATTEMPT)).collect();
        *self.endpoints.write().expect("no holder of this lock can panic") = clients;
    }

    /// A client of one member.
    pub fn client(&self, member: usize) -> Client {
        Client::new(&self.members[member].client_url, ATTEMPT)
    }

    /// Starts one more member, which must have been added to the cluster with its peer URL.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn join(&mut self, server: Server) -> Result<(), Failure> {
        self.members.push(server);
        let initial = self.initial_cluster();
        let member = self.members.last_mut().expect("just pushed");
        member.configure(&initial, "existing", &self.extra);
        member.start()
    }

    /// A server that is no member yet.
    pub fn spare(&self, name: &str) -> Server {
        Server::new(&self.binary, self.root.path(), name)
    }

    /// Waits until every member's `/health` says true.
    ///
    /// # Errors
    /// One of them does not in time.
    pub async fn all_healthy(&mut self, limit: Duration) -> Result<(), Failure> {
        for member in &mut self.members {
            member.healthy(limit).await?;
        }
        Ok(())
    }

    /// The place of the leader among the members, its id and its term, once they agree.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn leader(&self, limit: Duration) -> Result<(usize, u64, u64), Failure> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            let mut newest: Option<(u64, usize, u64)> = None;
            for place in 0..self.members.len() {
                let Outcome::Ok(status) = self.client(place).status().await else { continue };
                if status.leader != 0 && status.leader == member_id(&status.header) {
                    newest = newest.max(Some((status.raft_term, place, status.leader)));
                }
            }
            if let Some((term, place, id)) = newest {
                return Ok((place, id, term));
            }
            tokio::time::sleep(POLL).await;
        }
        Err(Failure::new(format!("no leader within {limit:?}")))
    }

    /// Waits until a member has applied all that another one has applied by now.
    ///
    /// # Errors
    /// It has not in time.
    pub async fn caught_up(&self, member: usize, with: usize, limit: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + limit;
        let mut goal = None;
        while Instant::now() < deadline {
            if goal.is_none() {
                goal = self.client(with).status().await.ok().map(|status| status.raft_index);
            }
            let applied = self.client(member).status().await.ok().map(|status| status.raft_applied_index);
            if let (Some(goal), Some(applied)) = (goal, applied)
                && applied >= goal
            {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        let name = &self.members[member].name;
        Err(Failure::new(format!("{name} has not caught up to index {goal:?} within {limit:?}")))
    }

    /// Waits until all members are at one revision with one hash; the two.
    ///
    /// # Errors
    /// They are not in time: the answers are in the failure.
    pub async fn equal_data(&self, limit: Duration) -> Result<(i64, u32), Failure> {
        let deadline = Instant::now() + limit;
        loop {
            let mut answers = BTreeMap::new();
            let mut readings = Vec::new();
            for (place, member) in self.members.iter().enumerate() {
                let answer = self.client(place).hash_kv(0).await;
                if let Outcome::Ok(response) = &answer {
                    let reading = (revision(&response.header), response.hash, response.compact_revision);
                    answers.insert(member.name.clone(), format!("{reading:?}"));
                    readings.push(reading);
                } else {
                    answers.insert(member.name.clone(), format!("{answer:?}"));
                }
            }
            if readings.len() == self.members.len() && readings.windows(2).all(|pair| pair[0] == pair[1]) {
                return Ok((readings[0].0, readings[0].1));
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "members differ (revision, hash, compacted): {answers:#?}"
                )));
            }
            tokio::time::sleep(10 * POLL).await;
        }
    }

    /// Checks a whole history against what every member holds, once all hold the same.
    ///
    /// # Errors
    /// The first contradiction, with the operations around it.
    pub async fn verify(&self, ops: &[Op]) -> Result<Figures, Failure> {
        let (last, hash) = self.equal_data(EVENTUALLY).await?;
        let mut states = Vec::new();
        for place in 0..self.members.len() {
            let mut request = prefix_range(PREFIX);
            request.serializable = true;
            let limit = Duration::from_secs(30);
            let response = Client::new(&self.members[place].client_url, limit).range(request).await;
            let response = response.or_fail("read the final state")?;
            states.push(response.kvs.iter().map(kv).collect::<Vec<_>>());
        }
        if let Some(place) = (1..states.len()).find(|place| states[*place] != states[0]) {
            return Err(Failure::new(format!("{} has another final state", self.members[place].name)));
        }
        let newest = states[0].iter().map(|kv| kv.mod_revision).max().unwrap_or(0);
        // The member that started last has recovered, or copied, most of what it tells.
        let events = self.client(self.members.len() - 1).events(PREFIX, newest, EVENTUALLY).await?;
        let summary = check(ops, &events, &states[0]).map_err(|violation| {
            let path = std::env::temp_dir().join(format!("cairn-jepsen-{}.html", std::process::id()));
            let page = match std::fs::write(&path, violation.page) {
                Ok(()) => format!("the whole history: {}", path.display()),
                Err(error) => format!("no page of the history: {error}"),
            };
            Failure::new(violation.what).note(violation.around).note(page)
        })?;
        let mut figures = Figures::default();
        figures.add("writes acknowledged, all present", summary.wrote);
        figures.add("reads answered, all correct", summary.saw);
        let unknown = format!("{} ({} took effect)", summary.unknown, summary.unknown_effective);
        figures.add("unknown outcomes", unknown);
        figures.add("refused", summary.refused);
        figures.add("final revision, hash of all members", format!("{last}, {hash:08x}"));
        Ok(figures)
    }

    /// Adds the members' log tails to a failure, and keeps the whole logs.
    pub fn explain(&self, failure: Failure) -> Failure {
        let kept = match self.keep_logs() {
            Ok(path) => format!("the whole logs: {}", path.display()),
            Err(error) => format!("the whole logs could not be kept: {error}"),
        };
        let failure = self.members.iter().fold(failure, |failure, member| failure.note(member.log_tail(25)));
        failure.note(kept)
    }

    fn keep_logs(&self) -> std::io::Result<PathBuf> {
        let kept = TempDir::with_prefix("cairn-jepsen-logs-")?.keep();
        for entry in std::fs::read_dir(self.root.path())? {
            let path = entry?.path();
            if let (Some(name), true) = (path.file_name(), path.extension().is_some_and(|ext| ext == "log")) {
                std::fs::copy(&path, kept.join(name))?;
            }
        }
        Ok(kept)
    }

    /// Ends a scenario: the history is checked if the faults went as planned, else explained.
    ///
    /// # Errors
    /// The failure, with the seed, the log tails and the last operations.
    pub async fn conclude(
        self,
        mut load: Load,
        seed: u64,
        outcome: Result<Figures, Failure>,
    ) -> Result<Figures, Failure> {
        let tail = load.tail(40);
        let ops = load.stop().await;
        let checked = match outcome {
            Ok(mut figures) => self.verify(&ops).await.map(|more| {
                figures.add("seed", seed);
                figures.extend(more);
                figures
            }),
            Err(failure) => Err(failure.note(format!("the last operations:\n{tail}"))),
        };
        checked.map_err(|failure| self.explain(failure.note(format!("seed {seed}"))))
    }
}
