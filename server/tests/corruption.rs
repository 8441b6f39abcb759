//! A member whose data differs from its peers': it does not start when it is asked to compare itself, and
//! the leader raises the alarm for it otherwise. Members that agree, or do not answer, are not accused.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cairn_core::backend::redb::{RedbBackend, RedbOptions};
use cairn_core::backend::{Backend, Batch, Table};
use cairn_server::backend_file::BackendFile;

const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

struct Member {
    name: String,
    client: String,
    peer: String,
    process: Option<Child>,
}

struct Cluster {
    folder: tempfile::TempDir,
    members: Vec<Member>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }
}

fn until<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(POLL);
    }
}

impl Cluster {
    fn new() -> Self {
        // Bound together, so that they differ; free again before they are used.
        let ports: Vec<TcpListener> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let urls: Vec<String> =
            ports.iter().map(|port| format!("http://{}", port.local_addr().unwrap())).collect();
        let members = urls.chunks(2).enumerate().map(|(number, urls)| Member {
            name: format!("m{number}"),
            client: urls[0].clone(),
            peer: urls[1].clone(),
            process: None,
        });
        Self { folder: tempfile::tempdir().unwrap(), members: members.collect() }
    }

    fn path(&self, member: usize, ending: &str) -> PathBuf {
        self.folder.path().join(format!("{}{ending}", self.members[member].name))
    }

    fn start(&mut self, member: usize, flags: &[&str]) {
        let cluster: Vec<String> =
            self.members.iter().map(|member| format!("{}={}", member.name, member.peer)).collect();
        let log = OpenOptions::new().create(true).append(true).open(self.path(member, ".log")).unwrap();
        let data = self.path(member, ".etcd");
        let Member { name, client, peer, process } = &mut self.members[member];
        let child = Command::new(env!("CARGO_BIN_EXE_cairn"))
            .args(["--name", name, "--initial-cluster", &cluster.join(",")])
            .args(["--listen-client-urls", client, "--advertise-client-urls", client])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .arg("--data-dir")
            .arg(data)
            .args(flags)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        *process = Some(child);
    }

    fn kill(&mut self, member: usize) {
        if let Some(mut process) = self.members[member].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn log(&self, member: usize) -> String {
        fs::read_to_string(self.path(member, ".log")).unwrap_or_default()
    }

    fn etcdctl(&self, member: usize, line: &str) -> Result<String, String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.members[member].client])
            .args(line.split(' '))
            .output()
            .expect("etcdctl must be on the PATH");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn await_put(&self, member: usize) {
        until("a put", || self.etcdctl(member, "put key value").ok());
    }
}

/// Changes the last byte of the first change of a member that does not run.
fn damage(data: &Path) {
    let (storage, _) = BackendFile::open(&data.join("member/snap/db")).unwrap();
    let backend = RedbBackend::open(storage, RedbOptions::default()).unwrap();
    let view = backend.view().unwrap();
    let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    let (key, row) = view.range(Table::History, all.0, all.1).unwrap().next().unwrap().unwrap();
    let mut row = row.to_vec();
    *row.last_mut().unwrap() ^= 1;
    backend.commit(&Batch { changes: vec![(Table::History, key, Some(row.into()))] }).unwrap();
}

#[test]
fn a_member_that_differs_is_found() {
    let mut cluster = Cluster::new();
    let checked = ["--corrupt-check-time=200ms", "--feature-gates=CompactHashCheck=true"];
    let checked = [&checked[..], &["--compact-hash-check-time=200ms"]].concat();
    (0..3).for_each(|member| cluster.start(member, &checked));
    cluster.await_put(0);
    // Members that agree, two of three asked while one is away, and after compactions.
    cluster.etcdctl(0, "put key again").unwrap();
    let all_checked = |cluster: &Cluster| {
        (0..3).find(|member| cluster.log(*member).contains(r#""number-of-peers-checked":2"#))
    };
    until("a comparison of all members", || all_checked(&cluster));
    let victim = 2;
    cluster.etcdctl(victim, "defrag").expect("it flushes what is applied");
    cluster.kill(victim);
    let left_alone = |cluster: &Cluster| {
        (0..2).find(|member| cluster.log(*member).contains(r#""number-of-peers-checked":1"#))
    };
    until("a comparison without the third", || left_alone(&cluster));
    assert_eq!(cluster.etcdctl(0, "alarm list").unwrap(), "");

    damage(&cluster.path(victim, ".etcd"));
    cluster.start(victim, &["--experimental-initial-corrupt-check"]);
    let mut refused = cluster.members[victim].process.take().unwrap();
    let status = until("the end of the start", || refused.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    let log = cluster.log(victim);
    assert!(log.contains("found different hash values from remote peer"), "{log}");
    assert!(log.contains("found data inconsistency with peers"), "{log}");
    assert_eq!(cluster.etcdctl(0, "alarm list").unwrap(), "");

    cluster.start(victim, &[]);
    let alarms = until("an alarm", || {
        cluster.etcdctl(0, "alarm list").ok().filter(|alarms| alarms.contains("CORRUPT"))
    });
    assert_eq!(alarms.lines().count(), 1, "{alarms}");
    let refusal = cluster.etcdctl(0, "put key value").unwrap_err();
    assert!(refusal.contains("etcdserver: corrupt cluster"), "{refusal}");
    let accused: u64 = alarms.trim_start_matches("memberID:").split(' ').next().unwrap().parse().unwrap();
    let members = cluster.etcdctl(0, "member list").unwrap();
    let line = members.lines().find(|line| line.starts_with(&format!("{accused:x},"))).unwrap();
    assert!(line.contains(&cluster.members[victim].peer), "the alarm is for {line}");
}

/// The whole cluster starts at once: nobody can be asked, and everybody starts.
#[test]
fn a_cluster_that_starts_as_a_whole_is_not_held_up() {
    let mut cluster = Cluster::new();
    let flags = ["--feature-gates=InitialCorruptCheck=true"];
    (0..3).for_each(|member| cluster.start(member, &flags));
    cluster.await_put(0);
    (0..3).for_each(|member| cluster.kill(member));
    (0..3).for_each(|member| drop(File::create(cluster.path(member, ".log")).unwrap()));
    (0..3).for_each(|member| cluster.start(member, &flags));
    cluster.await_put(1);
    assert!(cluster.log(0).contains("initial corruption checking passed; no corruption"));
}
