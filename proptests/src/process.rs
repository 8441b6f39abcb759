//! Server processes: finds the binaries, starts one-node and three-node clusters on loopback ports.
//!
//! A [`Cluster`] owns its processes and their data directories; dropping it kills with SIGKILL and
//! deletes the data. Readiness is polled over TCP (`GET /health`), never assumed after a pause.
//! Ports come from a range below the kernel's ephemeral ports, so that no outgoing connection can
//! take a port between two starts: a test starts etcd and then the other server on the *same*
//! ports, which makes member and cluster ids (hashes of the peer URLs) equal on both sides.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How long a server may take until it answers `/health` with true.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause between two looks at something that is awaited.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Which of the two compared servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The oracle: etcd from the path.
    Etcd,
    /// The server under test.
    Ours,
}

impl Side {
    /// Both, in the order in which they run.
    pub const BOTH: [Side; 2] = [Side::Etcd, Side::Ours];

    /// The binary of this side. Panics with advice when it is missing.
    pub fn binary(self) -> PathBuf {
        match self {
            Side::Etcd => on_path("etcd", "etcd-server"),
            Side::Ours => our_binary(),
        }
    }
}

/// The path of Debian's `etcdctl`. Panics with advice when it is missing.
pub fn etcdctl() -> PathBuf {
    on_path("etcdctl", "etcd-client")
}

fn on_path(program: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file()).unwrap_or_else(
        || panic!("`{program}` is not on PATH: install Debian's packages etcd-server and etcd-client (`{package}` holds it)"),
    )
}

/// The path of our client, the newest build. Panics with advice when there is none.
pub fn cairnctl() -> PathBuf {
    newest_build("cairnctl")
}

fn our_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("CAIRN_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "CAIRN_BIN={} is not a file", path.display());
        return path;
    }
    newest_build("cairn")
}

fn newest_build(program: &str) -> PathBuf {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
    };
    let built = |profile: &str| {
        let path = target.join(profile).join(program);
        let modified: SystemTime = path.metadata().ok()?.modified().ok()?;
        Some((modified, path))
    };
    let newest = ["release", "debug"].into_iter().filter_map(built).max();
    newest
        .unwrap_or_else(|| {
            panic!("no {program} under {}: build it first: cargo build --release", target.display())
        })
        .1
}

/// Loopback ports of one member.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Serves clients.
    pub client: u16,
    /// Serves peers.
    pub peer: u16,
}

impl Ports {
    /// Two ports that nothing listens on now and that no other call in this process returns.
    pub fn free() -> Ports {
        Ports { client: free_port(), peer: free_port() }
    }

    /// The client URL.
    pub fn client_url(self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    /// The peer URL.
    pub fn peer_url(self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }
}

fn free_port() -> u16 {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 18_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes start at different places, so that two test binaries seldom meet.
    let start = std::process::id().wrapping_mul(2_654_435_761) % COUNT;
    for _ in 0..COUNT {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + (start + offset) % COUNT).expect("the range ends below 65536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free loopback port between {FIRST} and {}", FIRST + COUNT);
}

/// What a member is started with.
#[derive(Clone, Debug)]
pub struct MemberSpec {
    /// `--name`.
    pub name: String,
    /// Where it listens.
    pub ports: Ports,
    /// `--initial-cluster`.
    pub initial_cluster: String,
    /// `--initial-cluster-state existing` instead of `new`.
    pub existing: bool,
    /// Further flags, as given.
    pub flags: Vec<String>,
}

/// One running server process.
#[derive(Debug)]
pub struct Member {
    spec: MemberSpec,
    binary: PathBuf,
    folder: PathBuf,
    child: Child,
}

impl Member {
    /// Starts a member with its data under `folder`; does not wait until it serves.
    pub fn spawn(binary: &Path, folder: &Path, spec: MemberSpec) -> Member {
        let child = Self::launch(binary, folder, &spec);
        Member { binary: binary.to_owned(), folder: folder.to_owned(), spec, child }
    }

    fn launch(binary: &Path, folder: &Path, spec: &MemberSpec) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join(format!("{}.log", spec.name)))
            .expect("the temporary folder is writable");
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("ETCD_") || name.starts_with("CAIRN_") {
                command.env_remove(name);
            }
        }
        let (client, peer) = (spec.ports.client_url(), spec.ports.peer_url());
        command.args(["--name", &spec.name]);
        command.arg("--data-dir").arg(folder.join(format!("{}.data", spec.name)));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &spec.initial_cluster]);
        command.args(["--initial-cluster-token", "proptests"]);
        command.args(["--initial-cluster-state", if spec.existing { "existing" } else { "new" }]);
        command.args(&spec.flags);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log file can be shared")).stderr(log);
        command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", binary.display()))
    }

    /// Where it listens.
    pub fn ports(&self) -> Ports {
        self.spec.ports
    }

    /// What it was started with.
    pub fn spec(&self) -> &MemberSpec {
        &self.spec
    }

    /// Waits until `/health` says true; panics with the log's end when it does not in time.
    pub fn await_ready(&mut self) {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let answer = http_get(self.spec.ports.client, "/health").unwrap_or_default();
            if answer.contains("200 OK") && answer.contains("true") {
                return;
            }
            if let Some(status) = self.exit_status() {
                panic!(
                    "{} ({}) exited early: {status}\n{}",
                    self.spec.name,
                    self.binary.display(),
                    self.log_tail()
                );
            }
            assert!(
                Instant::now() < deadline,
                "{} ({}) is not healthy after {READY_TIMEOUT:?}, /health says {answer:?}\n{}",
                self.spec.name,
                self.binary.display(),
                self.log_tail()
            );
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// The exit status, when the process has ended by itself.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Kills the process (SIGKILL) and starts it again with the same flags on the same data.
    pub fn restart(&mut self) {
        self.kill();
        self.child = Self::launch(&self.binary, &self.folder, &self.spec);
        self.await_ready();
    }

    fn kill(&mut self) {
        // Both fail only when the process has ended before, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        const LINES: usize = 40;
        let path = self.folder.join(format!("{}.log", self.spec.name));
        let log = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LINES)..];
        format!("--- log of {} (last {} lines)\n{}", self.spec.name, tail.len(), tail.join("\n"))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The answer to one HTTP/1.0 GET (a later version may cut it into chunks), headers included; None when nobody listens.
pub fn http_get(port: u16, path: &str) -> Option<String> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(8))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    // A read that times out leaves what has come so far.
    let _ = stream.read_to_end(&mut answer);
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// A statically bootstrapped cluster of server processes of one side.
#[derive(Debug)]
pub struct Cluster {
    // Dropped before the folder, so that no process writes into a deleted one.
    members: Vec<Member>,
    folder: tempfile::TempDir,
    binary: PathBuf,
}

impl Cluster {
    /// Starts a cluster of `side` with one member per entry of `ports` and waits until each serves.
    pub fn start(side: Side, ports: &[Ports], flags: &[String]) -> Cluster {
        let binary = side.binary();
        let folder = tempfile::Builder::new().prefix("proptests").tempdir().expect("a temporary folder");
        let initial_cluster = ports
            .iter()
            .enumerate()
            .map(|(number, ports)| format!("m{number}={}", ports.peer_url()))
            .collect::<Vec<_>>()
            .join(",");
        let mut members: Vec<Member> = ports
            .iter()
            .enumerate()
            .map(|(number, ports)| {
                let spec = MemberSpec {
                    name: format!("m{number}"),
                    ports: *ports,
                    initial_cluster: initial_cluster.clone(),
                    existing: false,
                    flags: flags.to_vec(),
                };
                Member::spawn(&binary, folder.path(), spec)
            })
            .collect();
        for member in &mut members {
            member.await_ready();
        }
        Cluster { members, folder, binary }
    }

    /// Its members, in the order of their names.
    pub fn members(&mut self) -> &mut Vec<Member> {
        &mut self.members
    }

    /// The client URL of a member.
    pub fn client_url(&self, member: usize) -> String {
        self.members[member].ports().client_url()
    }

    /// Starts one more member that joins the running cluster, and waits until it serves when asked.
    pub fn join(&mut self, ports: Ports, await_ready: bool) {
        let name = format!("m{}", self.members.len());
        let initial_cluster =
            format!("{},{name}={}", self.members[0].spec().initial_cluster, ports.peer_url());
        let flags = self.members[0].spec().flags.clone();
        let spec = MemberSpec { name, ports, initial_cluster, existing: true, flags };
        let mut member = Member::spawn(&self.binary, self.folder.path(), spec);
        if await_ready {
            member.await_ready();
        }
        self.members.push(member);
    }

    /// A folder for files of the test, deleted with the cluster.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The ends of all members' logs.
    pub fn log_tails(&self) -> String {
        self.members.iter().map(Member::log_tail).collect::<Vec<_>>().join("\n")
    }
}
