//! A server process of one's own: etcd or Cairn, alone in its cluster, in a fresh directory.
//!
//! Invariant: the process and its directory are gone when the value is dropped.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cairn_net::proto::etcdserverpb::PutRequest;
use cairn_net::proto::etcdserverpb::kv_client::KvClient;
use tempfile::TempDir;

use crate::connection::{BenchError, Connections};

/// How long a server may take until it accepts a write.
const START_MAX: Duration = Duration::from_secs(20);

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    endpoint: String,
    directory: TempDir,
}

impl Server {
    /// Starts `program` below `parent` and waits until it accepts a write.
    ///
    /// # Errors
    /// It does not start, or not in time; the error holds the end of its log.
    pub async fn start(program: &Path, parent: &Path) -> Result<Self, BenchError> {
        let io = |doing: &str| BenchError::io(format!("{doing} {}", program.display()));
        let directory = tempfile::Builder::new()
            .prefix("cairn-bench-")
            .tempdir_in(parent)
            .map_err(io("making a directory for"))?;
        let log_path = directory.path().join("log");
        let log = File::create(&log_path).map_err(io("making a log for"))?;
        let again = log.try_clone().map_err(io("making a log for"))?;
        let client = format!("http://127.0.0.1:{}", free_port().map_err(io("finding a port for"))?);
        let peer = format!("http://127.0.0.1:{}", free_port().map_err(io("finding a port for"))?);
        let child = Command::new(program)
            .args(["--name", "default", "--initial-cluster", &format!("default={peer}")])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            .spawn()
            .map_err(io("starting"))?;
        let mut server = Self { child, endpoint: client, directory };
        server.wait_until_ready(program, &log_path).await?;
        Ok(server)
    }

    /// Where it listens for clients.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its data and its log are.
    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    async fn wait_until_ready(&mut self, program: &Path, log: &Path) -> Result<(), BenchError> {
        let started = Instant::now();
        while started.elapsed() < START_MAX && matches!(self.child.try_wait(), Ok(None)) {
            if let Ok(connections) = Connections::open(std::slice::from_ref(&self.endpoint), 1).await {
                let put = PutRequest { key: "ready".into(), ..PutRequest::default() };
                if KvClient::new(connections.of(0)).put(put).await.is_ok() {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let log = std::fs::read_to_string(log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Err(BenchError::Options(format!(
            "{} does not accept a write after {} s; the end of its log:\n{}",
            program.display(),
            started.elapsed().as_secs(),
            tail.join("\n")
        )))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already, and nothing more can be done if not.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
