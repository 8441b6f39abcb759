//! The bolt codec against etcd itself: etcd must accept, restore, serve and change a file that Cairn
//! wrote, and Cairn must read the file that etcd then saves. Needs `etcd` and `etcdctl` on the PATH;
//! under `CI=true` their absence is a failure.
#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use cairn_core::bolt::has_checksum;
use cairn_core::bolt::read::{ReadAt, Reader};
use cairn_core::bolt::rows::{self, BUCKETS, LeaseRow};
use cairn_core::bolt::write::{EachRow, Plan, Rows, WriteError};
use cairn_core::types::{KeyValue, Revision};
use sha2::{Digest as _, Sha256};

const KEYS: i64 = 5_000;
const LEASE: i64 = 0x1234_5678_9abc_def0;

/// Keys `k00000..`, one revision each from 2; every 500th is large; then an update and a deletion.
struct Sample;

fn sample_value(i: i64) -> Vec<u8> {
    let len = if i % 500 == 499 { 100_000 } else { 10 + usize::try_from(i % 90).unwrap() };
    vec![b'a' + u8::try_from(i % 26).unwrap(); len]
}

fn sample_kv(i: i64, revision: i64, version: i64, value: Vec<u8>) -> KeyValue {
    KeyValue {
        key: format!("k{i:05}").into(),
        create_revision: i + 2,
        mod_revision: revision,
        version,
        value: value.into(),
        lease: if i == 0 { LEASE } else { 0 },
    }
}

impl Rows for Sample {
    fn for_each(&self, bucket: &str, each: &mut EachRow<'_>) -> Result<(), WriteError> {
        match bucket {
            "auth" => each(rows::AUTH_REVISION, &1u64.to_be_bytes()),
            "cluster" => each(rows::CLUSTER_VERSION, b"3.4.0"),
            "meta" => each(rows::CONSISTENT_INDEX, &9u64.to_be_bytes()),
            "lease" => {
                let row = LeaseRow { id: LEASE, ttl: 100_000, remaining: 0 };
                each(&rows::lease_key(LEASE), &rows::encode_lease(row))
            }
            "key" => {
                let mut put = |kv: KeyValue| {
                    let key = rows::revision_key(Revision::new(kv.mod_revision, 0), false);
                    each(&key, &rows::encode_key_value(&kv))
                };
                (0..KEYS).try_for_each(|i| put(sample_kv(i, i + 2, 1, sample_value(i))))?;
                put(sample_kv(7, KEYS + 2, 2, b"updated".to_vec()))?;
                let gone = KeyValue { key: "k00008".into(), ..KeyValue::default() };
                let key = rows::revision_key(Revision::new(KEYS + 3, 0), true);
                each(&key, &rows::encode_key_value(&gone))
            }
            _ => Ok(()),
        }
    }
}

struct OnDisk(File);

impl ReadAt for OnDisk {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), String> {
        self.0.read_exact_at(out, offset).map_err(|error| error.to_string())
    }

    fn size(&self) -> u64 {
        self.0.metadata().map_or(0, |metadata| metadata.len())
    }
}

/// A running etcd, killed at the end.
struct Etcd {
    process: Child,
    endpoint: String,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Etcd {
    /// Restores the file into a new directory and serves it.
    fn restore(file: &Path, dir: &Path) -> Self {
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let peer = format!("http://127.0.0.1:{}", port());
        let client = format!("http://127.0.0.1:{}", port());
        let data = dir.join("data").display().to_string();
        let cluster = format!("m={peer}");
        let file = file.display().to_string();
        let common = ["--name=m", "--data-dir", &data, "--initial-cluster", &cluster];
        let advertise = ["--initial-advertise-peer-urls", &peer];
        etcdctl(&[&["snapshot", "restore", &file], &common[..], &advertise].concat());
        let process = Command::new("etcd")
            .args(common)
            .args(advertise)
            .args(["--listen-peer-urls", &peer, "--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .stdout(Stdio::null())
            .stderr(File::create(dir.join("etcd.log")).unwrap())
            .spawn()
            .unwrap();
        let etcd = Self { process, endpoint: client };
        // Each attempt waits by itself until it is answered or its time is over.
        let healthy = (0..20).any(|_| run(&etcd.args(&["get", "k00000"])).is_ok());
        let log = std::fs::read_to_string(dir.join("etcd.log")).unwrap();
        assert!(healthy, "etcd does not serve the restored file:\n{log}");
        etcd
    }

    fn args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [args, &["--command-timeout=10s", "--endpoints", &self.endpoint]].concat()
    }

    fn ctl(&self, args: &[&str]) -> String {
        etcdctl(&self.args(args))
    }
}

fn run(args: &[&str]) -> Result<String, String> {
    let output = Command::new("etcdctl").env("ETCDCTL_API", "3").args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn etcdctl(args: &[&str]) -> String {
    run(args).unwrap_or_else(|error| panic!("etcdctl {args:?}: {error}"))
}

/// Whether the oracle is there; in CI it must be.
fn oracle_is_installed() -> bool {
    let installed =
        |tool| Command::new(tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let found = ["etcd", "etcdctl"].into_iter().all(|tool| installed(tool).is_ok());
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(found || !ci, "etcd and etcdctl must be on the PATH in CI");
    found
}

#[test]
fn etcd_serves_what_cairn_wrote_and_cairn_reads_what_etcd_saved() {
    if !oracle_is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ours = dir.path().join("ours.db");
    let plan = Plan::new(&BUCKETS, &Sample).unwrap();
    let mut file = File::create(&ours).unwrap();
    let mut hash = Sha256::new();
    plan.write(&BUCKETS, &Sample, &mut |bytes| {
        hash.update(bytes);
        file.write_all(bytes).map_err(|error| WriteError::Sink(error.to_string()))
    })
    .unwrap();
    file.write_all(&hash.finalize()).unwrap();
    drop(file);

    let path = ours.display().to_string();
    let status = etcdctl(&["snapshot", "status", &path, "-w", "json"]);
    // Rows of all buckets: the keys, an update, a deletion, a lease, one each in auth, cluster and meta.
    assert!(status.contains(&format!("\"revision\":{}", KEYS + 3)), "{status}");
    assert!(status.contains(&format!("\"totalKey\":{}", KEYS + 6)), "{status}");
    assert!(status.contains(&format!("\"totalSize\":{}", plan.size())), "{status}");

    let etcd = Etcd::restore(&ours, dir.path());
    let value = |key: &str| etcd.ctl(&["get", key, "--print-value-only"]);
    for i in [0, 1, 499, 2_500, 4_999] {
        assert_eq!(value(&format!("k{i:05}")).trim_end().as_bytes(), sample_value(i), "{i}");
    }
    assert_eq!(value("k00007"), "updated\n");
    assert_eq!(value("k00008"), "");
    let fields = etcd.ctl(&["get", "k00007", "-w", "fields"]);
    for field in ["\"CreateRevision\" : 9", "\"ModRevision\" : 5002", "\"Version\" : 2"] {
        assert!(fields.contains(field), "{fields}");
    }
    let old = etcd.ctl(&["get", "k00008", "--rev", "5001", "--print-value-only"]);
    assert_eq!(old.trim_end().as_bytes(), sample_value(8));
    let lease = etcd.ctl(&["lease", "timetolive", &format!("{LEASE:x}"), "--keys"]);
    assert!(lease.contains("granted with TTL(100000s)") && lease.contains("k00000"), "{lease}");

    // Deletions and a compaction make bbolt rebalance the trees that we built.
    assert_eq!(etcd.ctl(&["del", "k01000", "k04000"]), "3000\n");
    etcd.ctl(&["put", "new", "n"]);
    etcd.ctl(&["compact", &(KEYS + 4).to_string(), "--physical"]);
    let theirs = dir.path().join("theirs.db");
    etcd.ctl(&["snapshot", "save", &theirs.display().to_string()]);

    let theirs = OnDisk(File::open(theirs).unwrap());
    assert!(has_checksum(theirs.size()));
    let reader = Reader::open(&theirs).unwrap();
    assert_eq!(reader.database_size(), theirs.size() - 32);
    assert_eq!(reader.buckets().unwrap(), BUCKETS);
    let bucket = |name: &str| -> Vec<(Bytes, Bytes)> {
        reader.bucket(name).unwrap().unwrap().collect::<Result<_, _>>().unwrap()
    };
    let mut found = Vec::new();
    for (key, value) in bucket("key") {
        let (revision, tombstone) = rows::parse_revision_key(&key).unwrap();
        let kv = rows::decode_key_value(&value).unwrap();
        assert!(!tombstone, "{kv:?} outlived the compaction");
        assert_eq!(kv.mod_revision, revision.main);
        found.push(kv);
    }
    let kept = (0..1_000).chain(4_000..KEYS).filter(|i| ![7, 8].contains(i));
    let mut expected: Vec<KeyValue> = kept.map(|i| sample_kv(i, i + 2, 1, sample_value(i))).collect();
    expected.push(sample_kv(7, KEYS + 2, 2, b"updated".to_vec()));
    expected.push(KeyValue {
        key: "new".into(),
        create_revision: KEYS + 5,
        mod_revision: KEYS + 5,
        version: 1,
        value: "n".into(),
        lease: 0,
    });
    assert!(found == expected, "{} rows are there, {} were expected", found.len(), expected.len());
    let leases: Vec<_> = bucket("lease").iter().map(|(_, row)| rows::decode_lease(row).unwrap().id).collect();
    assert_eq!(leases, [LEASE]);
    let members = bucket("members");
    assert_eq!(rows::decode_member(&members[0].1).unwrap().name, "m");
    let compacted = rows::revision_key(Revision::new(KEYS + 4, 0), false);
    assert!(bucket("meta").iter().any(|(key, value)| key == rows::FINISHED_COMPACT && *value == compacted));
}
