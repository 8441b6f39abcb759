//! Server processes of one's own: etcd or Cairn, one member or several, in a fresh directory.
//!
//! Invariant: the processes and their directory are gone when the value is dropped.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cairn_net::proto::etcdserverpb::kv_client::KvClient;
use cairn_net::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use cairn_net::proto::etcdserverpb::{PutRequest, RangeRequest, StatusRequest};
use tempfile::TempDir;

use crate::connection::{BenchError, connect};

/// How long a server may take until it answers.
const START_MAX: Duration = Duration::from_secs(60);
/// Where servers listen.
const PORTS: Range<u16> = 10_000..32_000;
/// How often it is asked meanwhile: a start may be over in milliseconds.
const START_POLL: Duration = Duration::from_millis(2);

/// Members of one cluster.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    directory: TempDir,
}

#[derive(Debug)]
struct Member {
    program: PathBuf,
    arguments: Vec<String>,
    endpoint: String,
    child: Option<Child>,
}

impl Cluster {
    /// Starts `size` members of `program` below `parent` and waits until each accepts a write.
    ///
    /// # Errors
    /// One does not start, or not in time; the error holds the end of its log.
    pub async fn start(program: &Path, parent: &Path, size: usize) -> Result<Self, BenchError> {
        let io = |doing: &str| BenchError::io(format!("{doing} {}", program.display()));
        let directory = tempfile::Builder::new()
            .prefix("cairn-bench-")
            .tempdir_in(parent)
            .map_err(io("making a directory for"))?;
        let mut urls = Vec::new();
        for number in 0..size {
            let url = || Ok(format!("http://127.0.0.1:{}", free_port()?));
            let (client, peer) =
                url().and_then(|client| Ok((client, url()?))).map_err(io("finding a port for"))?;
            urls.push((format!("m{number}"), client, peer));
        }
        let initial: Vec<String> = urls.iter().map(|(name, _, peer)| format!("{name}={peer}")).collect();
        let members = urls
            .iter()
            .map(|(name, client, peer)| {
                let data = directory.path().join(name).display().to_string();
                let arguments = [
                    ("--name", name),
                    ("--data-dir", &data),
                    ("--listen-client-urls", client),
                    ("--advertise-client-urls", client),
                    ("--listen-peer-urls", peer),
                    ("--initial-advertise-peer-urls", peer),
                    ("--initial-cluster", &initial.join(",")),
                    // The quota of 2 GiB is below ten million keys.
                    ("--quota-backend-bytes", &(32_u64 << 30).to_string()),
                ];
                let arguments =
                    arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value.clone()]);
                Member {
                    program: program.to_owned(),
                    arguments: arguments.collect(),
                    endpoint: client.clone(),
                    child: None,
                }
            })
            .collect();
        let mut cluster = Self { members, directory };
        for number in 0..size {
            cluster.spawn(number)?;
        }
        for number in 0..size {
            cluster.wait_until_it_answers(number, true).await?;
        }
        Ok(cluster)
    }

    /// The first member's endpoint.
    pub fn endpoint(&self) -> &str {
        self.endpoint_of(0)
    }

    /// A member's endpoint.
    pub fn endpoint_of(&self, number: usize) -> &str {
        &self.members[number].endpoint
    }

    /// The running processes.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| member.child.as_ref().map(Child::id)).collect()
    }

    /// The member that leads.
    ///
    /// # Errors
    /// None says so.
    pub async fn leader(&self) -> Result<usize, BenchError> {
        for number in 0..self.members.len() {
            let channel = connect(self.endpoint_of(number)).await?;
            let status = MaintenanceClient::new(channel).status(StatusRequest {}).await;
            let status = status.map_err(BenchError::prepare("asking for the leader"))?.into_inner();
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                return Ok(number);
            }
        }
        Err(BenchError::Options("no member leads".to_owned()))
    }

    /// Kills a member with a signal that it cannot catch.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.members[number].child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts a killed member again; the time from its start to the first successful read.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn restart(&mut self, number: usize) -> Result<Duration, BenchError> {
        let started = Instant::now();
        self.spawn(number)?;
        self.wait_until_it_answers(number, false).await?;
        Ok(started.elapsed())
    }

    fn spawn(&mut self, number: usize) -> Result<(), BenchError> {
        let log = self.log(number);
        let member = &mut self.members[number];
        let io = |doing: &str| BenchError::io(format!("{doing} {}", member.program.display()));
        let log = OpenOptions::new().append(true).create(true).open(log).map_err(io("making a log for"))?;
        let again = log.try_clone().map_err(io("making a log for"))?;
        let child = Command::new(&member.program)
            .args(&member.arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            .spawn()
            .map_err(io("starting"))?;
        member.child = Some(child);
        Ok(())
    }

    fn log(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("log{number}"))
    }

    async fn wait_until_it_answers(&mut self, number: usize, write: bool) -> Result<(), BenchError> {
        let started = Instant::now();
        let ended =
            |member: &mut Member| !matches!(member.child.as_mut().map(Child::try_wait), Some(Ok(None)));
        while started.elapsed() < START_MAX && !ended(&mut self.members[number]) {
            if answers(self.endpoint_of(number), write).await {
                return Ok(());
            }
            tokio::time::sleep(START_POLL).await;
        }
        let log = std::fs::read_to_string(self.log(number)).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Err(BenchError::Options(format!(
            "{} does not answer after {} s; the end of its log:\n{}",
            self.members[number].program.display(),
            started.elapsed().as_secs(),
            tail.join("\n")
        )))
    }
}

async fn answers(endpoint: &str, write: bool) -> bool {
    let Ok(channel) = connect(endpoint).await else { return false };
    let mut kv = KvClient::new(channel);
    if write {
        return kv.put(PutRequest { key: "ready".into(), ..PutRequest::default() }).await.is_ok();
    }
    kv.range(RangeRequest { key: "ready".into(), ..RangeRequest::default() }).await.is_ok()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            self.kill(number);
        }
    }
}

/// A port that nobody listens on, below those that the system gives to outgoing connections: one of these
/// may be in a server's way when it starts, or starts again.
fn free_port() -> std::io::Result<u16> {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(PORTS.end - PORTS.start);
    loop {
        // Other processes that look for ports begin elsewhere.
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (std::process::id().wrapping_mul(61).wrapping_add(tried) % count) as u16;
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(error) if tried < count && error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}
