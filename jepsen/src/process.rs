//! One server process: its binary, its command line, its signals, its log and its memory.
//!
//! A [`Server`] outlives the processes it starts: kill and start again keep the ports, the data
//! directory and the command line, and each start writes a log file of its own, so that a check can
//! look at one run alone. Dropping it kills the process; nothing is left behind by a failed test.
//!
//! Ports are taken below the range that the kernel hands to outgoing connections; otherwise a
//! client's own socket could take the port of a server that is down for a moment.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Failure;

/// Time between two looks at something that is polled.
pub const POLL: Duration = Duration::from_millis(10);

/// The server binary under test.
#[derive(Clone, Debug)]
pub struct Binary {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is ours; the contract that only Cairn promises is asserted then.
    pub cairn: bool,
}

impl Binary {
    /// `CAIRN_BIN`, or else the newest build in the target directory.
    ///
    /// # Errors
    /// There is none, or it does not run.
    pub fn find() -> Result<Self, Failure> {
        if let Some(path) = std::env::var_os("CAIRN_BIN") {
            return Self::at(PathBuf::from(path));
        }
        let mut targets = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target"))];
        targets.extend(std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from));
        if let Ok(own) = std::env::current_exe() {
            targets.extend(own.ancestors().skip(1).take(3).map(Path::to_path_buf));
        }
        let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
        for target in targets {
            for profile in ["release", "debug"] {
                let path = target.join(profile).join("cairn");
                if let Ok(modified) = fs::metadata(&path).and_then(|meta| meta.modified()) {
                    found.push((modified, path));
                }
            }
        }
        match found.into_iter().max() {
            Some((_, path)) => Self::at(path),
            None => Err(Failure::new(
                "no server binary: run `cargo build -p cairn-server`, or name one with CAIRN_BIN",
            )),
        }
    }

    /// The binary at `path`.
    ///
    /// # Errors
    /// It does not run.
    pub fn at(path: PathBuf) -> Result<Self, Failure> {
        let output = Command::new(&path)
            .arg("--version")
            .output()
            .map_err(|error| Failure::new(format!("{} does not run: {error}", path.display())))?;
        let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
        Ok(Self { path, cairn: text.contains("cairn") })
    }

    /// The real etcd on the path, to measure beside ours.
    pub fn etcd() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let path = std::env::split_paths(&path).map(|dir| dir.join("etcd")).find(|path| path.is_file())?;
        Self::at(path).ok()
    }

    /// A short name for figures.
    pub fn label(&self) -> &'static str {
        if self.cairn { "cairn" } else { "etcd" }
    }
}

/// A loopback port that nothing listens on and that this process has not handed out before.
///
/// # Panics
/// When no port below the ephemeral range is free.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().expect("no holder of this lock can panic");
    let first = std::process::id() % 20_000;
    (0..20_000u32)
        .map(|step| 11_000 + ((first * 7 + step) % 20_000) as u16)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok() && taken.insert(*port))
        .expect("20,000 ports are not all in use")
}

/// One member's process and everything it keeps between two starts.
#[derive(Debug)]
pub struct Server {
    /// The member's name.
    pub name: String,
    /// Its client address.
    pub client_url: String,
    /// Its peer address.
    pub peer_url: String,
    /// Its data directory.
    pub data: PathBuf,
    binary: PathBuf,
    args: Vec<String>,
    logs: PathBuf,
    starts: usize,
    child: Option<Child>,
}

impl Server {
    /// A member that has not been started, with ports of its own and files under `root`.
    pub fn new(binary: &Binary, root: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            client_url: format!("http://127.0.0.1:{}", free_port()),
            peer_url: format!("http://127.0.0.1:{}", free_port()),
            data: root.join(format!("{name}.data")),
            binary: binary.path.clone(),
            args: Vec::new(),
            logs: root.to_owned(),
            starts: 0,
            child: None,
        }
    }

    /// Sets the rest of the command line, in the words of etcd's clustering guide.
    pub fn configure(&mut self, initial_cluster: &str, state: &str, extra: &[String]) {
        let flags: [(&str, &str); 9] = [
            ("--name", &self.name),
            ("--initial-advertise-peer-urls", &self.peer_url),
            ("--listen-peer-urls", &self.peer_url),
            ("--listen-client-urls", &self.client_url),
            ("--advertise-client-urls", &self.client_url),
            ("--initial-cluster-token", "etcd-cluster-2"),
            ("--initial-cluster", initial_cluster),
            ("--initial-cluster-state", state),
            ("--data-dir", &self.data.to_string_lossy()),
        ];
        self.args =
            flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]).collect();
        self.args.extend(extra.iter().cloned());
    }

    /// Starts a process; the one before it must have ended.
    ///
    /// # Errors
    /// It is still running, or the new one cannot be started.
    pub fn start(&mut self) -> Result<(), Failure> {
        self.start_with(&[])
    }

    /// The same with flags for this start only.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(&mut self, once: &[&str]) -> Result<(), Failure> {
        if self.running() {
            return Err(Failure::new(format!("{} is already running", self.name)));
        }
        self.starts += 1;
        let log = File::create(self.log_path())?;
        let mut command = Command::new(&self.binary);
        command.args(&self.args).args(once).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        for (name, _) in std::env::vars_os() {
            // An ETCD_ variable of the caller's would change the member under test.
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// Whether the process is there.
    pub fn running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The process id of the latest start.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // Both fail only when the process has been waited for already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for a clean end.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus, Failure> {
        signal(self.pid(), "TERM");
        self.exited(limit).await
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn exited(&mut self, limit: Duration) -> Result<ExitStatus, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!("{} did not end within {limit:?}", self.name)));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until `/health` says true; how long that took.
    ///
    /// # Errors
    /// The process ends, or it is not healthy in time.
    pub async fn healthy(&mut self, limit: Duration) -> Result<Duration, Failure> {
        let begin = Instant::now();
        while begin.elapsed() < limit {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Err(Failure::new(format!("{} ended with {status} while starting", self.name)));
            }
            if http_get(&self.client_url, "/health").await.is_some_and(|body| body.contains("\"true\"")) {
                return Ok(begin.elapsed());
            }
            tokio::time::sleep(POLL).await;
        }
        Err(Failure::new(format!("{} is not healthy after {limit:?}", self.name)))
    }

    /// What the latest start has written.
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of the latest start, or of the one before it when the latest said little.
    pub fn log_tail(&self, lines: usize) -> String {
        let mut text = String::new();
        for start in self.starts.saturating_sub(1)..=self.starts {
            let path = self.logs.join(format!("{}.{start}.log", self.name));
            let Ok(bytes) = fs::read(&path) else { continue };
            let all = String::from_utf8_lossy(&bytes).into_owned();
            let all: Vec<&str> = all.lines().collect();
            let shown = all.iter().enumerate().filter(|(number, line)| {
                // A backtrace would push what went wrong out of the tail, so complaints always show,
                // with the line after them: a panic gives its message there.
                let backtrace = line.starts_with("   ") || line.starts_with('\t');
                let before = number.checked_sub(1).map_or("", |before| all[before]);
                number + lines >= all.len() && !backtrace || complains(line) || complains(before)
            });
            text += &format!("--- {} start {start}, its complaints and its last {lines} lines\n", self.name);
            for (_, line) in shown {
                text += line.get(..400).unwrap_or(line);
                text.push('\n');
            }
        }
        text
    }

    /// Lines of the latest start that report an error, a panic or worse, in etcd's formats or ours.
    pub fn complaints(&self) -> Vec<String> {
        self.log().lines().filter(|line| complains(line)).map(str::to_owned).collect()
    }

    /// Resident memory in bytes: now and at its highest.
    pub fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
            kib.unwrap_or(0) * 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// Bytes that the data directory takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let mut total = 0;
        let mut folders = vec![self.data.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                    // Blocks rather than length: a log segment may be longer than what it holds.
                    Ok(meta) => total += meta.blocks() * 512,
                    Err(_) => {}
                }
            }
        }
        total
    }

    fn log_path(&self) -> PathBuf {
        self.logs.join(format!("{}.{}.log", self.name, self.starts))
    }
}

fn complains(line: &str) -> bool {
    let marks = [
        "\"level\":\"error\"",
        "\"level\":\"fatal\"",
        "\"level\":\"panic\"",
        "\"level\":\"dpanic\"",
        " E | ",
        " C | ",
        "panicked at",
        "panic:",
        " ERROR ",
    ];
    marks.iter().any(|mark| line.contains(mark))
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal by its name; a process that is gone already is no error.
pub fn signal(pid: u32, name: &str) {
    // The standard library sends only SIGKILL, and calling libc would need unsafe code.
    let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).stderr(Stdio::null()).status();
}

/// The body of a plain HTTP GET, when the answer's status is 200.
pub async fn http_get(url: &str, path: &str) -> Option<String> {
    let address = url.strip_prefix("http://")?;
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(answer)
    };
    tokio::time::timeout(Duration::from_secs(2), exchange).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_not_handed_out_twice() {
        let ports: BTreeSet<u16> = (0..50).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 50);
        assert!(ports.iter().all(|port| *port < 32_768), "below the ephemeral range");
    }

    #[test]
    fn a_complaint_is_found_in_either_format() {
        let root = tempfile::tempdir().unwrap();
        let binary = Binary { path: PathBuf::from("unused"), cairn: false };
        let server = Server::new(&binary, root.path(), "m");
        let lines = "{\"level\":\"info\"}\n{\"level\":\"error\",\"a\":1}\n2026 E | raft: x\nthread 'a' panicked at b\n";
        fs::write(root.path().join("m.0.log"), lines).unwrap();
        assert_eq!(server.complaints().len(), 3);
    }
}
