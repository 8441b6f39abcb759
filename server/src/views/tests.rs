use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use cairn_core::api::{AlarmKind, DeleteRangeRequest, Member, PutRequest, RequestOp, TxnRequest};
use cairn_core::backend::mem::MemBackend;
use cairn_core::backend::{Backend, Batch, Row, Size, View};
use cairn_core::bolt::read::{ReadAt, Reader};
use cairn_core::cluster::{Cluster, encode_member};
use cairn_core::mvcc::{Store, StoreOptions, compact_batch};
use cairn_core::node::bootstrap_batch;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::config::Features;

const LEASE: i64 = 0x1234_5678_9abc_def0;
const APPLIED: u64 = 1;
const SNAPSHOTS: &str = "etcd_disk_backend_snapshot_duration_seconds_count";

fn views() -> (StoreViews, Arc<Mutex<Vec<Fatal>>>) {
    let fatals = Arc::new(Mutex::new(Vec::new()));
    let told = fatals.clone();
    let on_fatal = Arc::new(move |fatal| told.lock().unwrap().push(fatal));
    (StoreViews::new(on_fatal, Arc::new(Metrics::new("3.7.1", false, &Features::default()))), fatals)
}

fn put(store: &mut Store, key: &str, value: impl Into<Bytes>, lease: i64) {
    let request =
        PutRequest { key: key.to_owned().into(), value: value.into(), lease, ..PutRequest::default() };
    store.put(&request, &|_| true).unwrap().result.unwrap();
}

fn delete(store: &mut Store, key: &str) {
    let request = DeleteRangeRequest { key: key.to_owned().into(), ..DeleteRangeRequest::default() };
    store.delete_range(&request).unwrap().result.unwrap();
}

fn flush(store: &mut Store, backend: &MemBackend) {
    if let Some(flush) = store.take_flush() {
        backend.commit(&flush.into_batch()).unwrap();
        store.flushed().unwrap();
    }
}

fn compact(store: &mut Store, backend: &MemBackend, revision: i64) {
    store.compact(revision).unwrap().unwrap();
    flush(store, backend);
}

/// One batch of physical compaction, of `rows_max` rows; whether it was the last.
fn compact_physically(store: &mut Store, backend: &MemBackend, rows_max: usize) -> bool {
    let due = store.compaction_due().unwrap();
    let view = backend.view().unwrap();
    let (batch, next) = compact_batch(view.as_ref(), Revision::new(due.from, 0), due.to, rows_max).unwrap();
    backend.commit(&batch).unwrap();
    match next {
        None => {
            store.compaction_started();
            store.compacted(due.to).unwrap();
        }
        Some(_) => store.refresh().unwrap(),
    }
    next.is_none()
}

fn member() -> Member {
    Member {
        id: 0xabc,
        name: "m".to_owned(),
        peer_urls: vec!["http://127.0.0.1:1".to_owned()],
        client_urls: vec!["http://127.0.0.1:2".to_owned()],
        is_learner: false,
    }
}

/// A store with every kind of row: revision 2 on are puts, an update, a deletion, a transaction, a
/// lease, large values, an alarm, members; part of it is not flushed yet.
fn sample() -> (Store, Arc<MemBackend>) {
    let backend = Arc::new(MemBackend::new());
    let cluster = Cluster::load(
        0xc1,
        [(Table::Members, Bytes::from(0xabc_u64.to_be_bytes().to_vec()), encode_member(&member()))],
    )
    .unwrap();
    let (batch, start) = bootstrap_batch(&cluster);
    assert_eq!(start.index, APPLIED);
    backend.commit(&batch).unwrap();
    let mut store = Store::open(backend.clone(), StoreOptions::default()).unwrap();
    let set = |store: &mut Store, table, key: &[u8], value: &[u8]| {
        store.set(table, Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(value)));
    };
    let lease = Lease { id: LEASE, ttl: 100_000, remaining_ttl: 0 };
    set(&mut store, Table::Leases, &Lease::key(LEASE), &lease.encode());
    set(&mut store, Table::Removed, &0xdef_u64.to_be_bytes(), b"");
    set(&mut store, Table::Meta, VERSION_KEY, b"3.4.0");
    let mut alarm = 0xabc_u64.to_be_bytes().to_vec();
    alarm.push(1);
    set(&mut store, Table::Alarms, &alarm, b"");
    for i in 0..300 {
        put(&mut store, &format!("k{i:03}"), vec![b'v'; if i % 100 == 99 { 50_000 } else { i }], 0);
    }
    flush(&mut store, &backend);
    put(&mut store, "k007", "updated", LEASE);
    delete(&mut store, "k008");
    let put_op = |key: &'static str| {
        let request = PutRequest { key: key.into(), value: "t".into(), ..PutRequest::default() };
        RequestOp::Put(request)
    };
    let delete = DeleteRangeRequest { key: "k009".into(), ..DeleteRangeRequest::default() };
    let ops = vec![put_op("t1"), RequestOp::DeleteRange(delete), put_op("t2")];
    let txn = TxnRequest { success: ops, ..TxnRequest::default() };
    store.txn(&txn, &|_| true).unwrap().result.unwrap();
    (store, backend)
}

fn export(view: StoreView) -> Vec<u8> {
    let (views, fatals) = views();
    let (size, mut reader) = views.export(view).unwrap();
    let mut file = Vec::new();
    reader.read_to_end(&mut file).unwrap();
    assert_eq!(file.len() as u64, size);
    assert_eq!(size % 512, 0);
    assert!(fatals.lock().unwrap().is_empty());
    assert!(views.metrics.encode().contains(&format!("{SNAPSHOTS} 1\n")));
    file
}

struct InMemory(Vec<u8>);

impl ReadAt for InMemory {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), String> {
        let offset = usize::try_from(offset).unwrap();
        out.copy_from_slice(self.0.get(offset..offset + out.len()).ok_or("beyond the end")?);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.0.len() as u64
    }
}

fn bucket(file: &InMemory, name: &str) -> Vec<(Bytes, Bytes)> {
    Reader::open(file).unwrap().bucket(name).unwrap().unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn every_row_of_the_store_is_in_the_file() {
    let (mut store, backend) = sample();
    let file = InMemory(export(store.view()));
    assert_eq!(Reader::open(&file).unwrap().buckets().unwrap(), BUCKETS);
    let keys = bucket(&file, "key");
    assert_eq!(keys.len(), 300 + 2 + 3);
    let (last, tombstone) = rows::parse_revision_key(&keys.last().unwrap().0).unwrap();
    assert_eq!((last, tombstone), (Revision::new(store.revision(), 2), false));
    let deleted = &keys[301];
    assert_eq!(rows::parse_revision_key(&deleted.0).unwrap(), (Revision::new(303, 0), true));
    assert_eq!(
        rows::decode_key_value(&deleted.1).unwrap(),
        KeyValue { key: "k008".into(), ..KeyValue::default() }
    );
    let updated = rows::decode_key_value(&keys[300].1).unwrap();
    assert_eq!(
        (updated.create_revision, updated.mod_revision, updated.version, updated.lease),
        (9, 302, 2, LEASE)
    );

    let leases = bucket(&file, "lease");
    let lease = LeaseRow { id: LEASE, ttl: 100_000, remaining: 0 };
    assert_eq!((leases.len(), rows::decode_lease(&leases[0].1).unwrap()), (1, lease));
    assert_eq!(rows::decode_member(&bucket(&file, "members")[0].1).unwrap(), member());
    assert_eq!(bucket(&file, "members_removed"), [("def".into(), "removed".into())]);
    assert_eq!(bucket(&file, "cluster"), [(rows::CLUSTER_VERSION.into(), "3.4.0".into())]);
    let alarm = rows::parse_alarm_key(&bucket(&file, "alarm")[0].0).unwrap();
    assert_eq!(alarm, (0xabc, AlarmKind::NoSpace));
    let number = |n: u64| Bytes::copy_from_slice(&n.to_be_bytes());
    let meta = bucket(&file, "meta");
    assert_eq!(meta, [(rows::CONSISTENT_INDEX.into(), number(APPLIED))], "no compaction has happened");

    // A scheduled compaction is named at once, a finished one when it is.
    compact(&mut store, &backend, 303);
    let names = |file: &InMemory| bucket(file, "meta").into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    let file = InMemory(export(store.view()));
    assert_eq!(names(&file), [rows::CONSISTENT_INDEX, rows::SCHEDULED_COMPACT]);
    assert_eq!(bucket(&file, "key").len(), 305, "nothing is removed yet");
    assert!(compact_physically(&mut store, &backend, 1000));
    let file = InMemory(export(store.view()));
    let finished = rows::revision_key(Revision::new(303, 0), false);
    assert!(bucket(&file, "meta").contains(&(rows::FINISHED_COMPACT.into(), finished.into())));
    assert!(bucket(&file, "key").len() < 305);
}

#[test]
fn a_reader_that_goes_away_ends_the_writer_and_nothing_else() {
    let (store, _) = sample();
    let (views, fatals) = views();
    // More chunks than may wait, so that the writer is still at it.
    let mut store = store;
    for i in 0..8 {
        put(&mut store, "large", vec![i; 2 * CHUNK_BYTES], 0);
    }
    let (_, mut reader) = views.export(store.view()).unwrap();
    reader.read_exact(&mut [0; 4096]).unwrap();
    drop(reader);
    // The thread holds a handle of the callback until it has ended.
    let StoreViews { on_fatal, metrics } = views;
    while Arc::strong_count(&on_fatal) > 1 {
        std::thread::yield_now();
    }
    let counted = |count| metrics.encode().contains(&format!("{SNAPSHOTS} {count}\n"));
    assert!(counted(0), "a snapshot that was given up is not a snapshot that was sent");
    assert!(fatals.lock().unwrap().is_empty());
}

#[test]
fn a_lost_writer_is_an_error_and_not_the_end_of_the_file() {
    let (sender, chunks) = mpsc::channel(1);
    sender.try_send(Ok(Bytes::from_static(b"abc"))).unwrap();
    drop(sender);
    let mut reader = Chunks { chunks, chunk: Bytes::new(), left: 4 };
    let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

/// A backend whose history cannot be read.
#[derive(Debug)]
struct Broken;

impl View for Broken {
    fn get(&self, _: Table, _: &[u8]) -> Result<Option<Bytes>, Fatal> {
        Ok(None)
    }

    fn range<'a>(
        &'a self,
        table: Table,
        _: std::ops::Bound<&[u8]>,
        _: std::ops::Bound<&[u8]>,
    ) -> Result<Box<dyn Iterator<Item = Row> + 'a>, Fatal> {
        match table {
            Table::History | Table::Index => Err(Fatal("the disk is gone".to_owned())),
            _ => Ok(Box::new(std::iter::empty())),
        }
    }
}

impl Backend for Broken {
    fn view(&self) -> Result<Arc<dyn View>, Fatal> {
        Ok(Arc::new(Broken))
    }

    fn commit(&self, _: &Batch) -> Result<(), Fatal> {
        Ok(())
    }

    fn size(&self) -> Size {
        Size::default()
    }
}

#[test]
fn an_unreadable_view_reaches_the_process() {
    let store = Store::open(Arc::new(Broken), StoreOptions::default()).unwrap();
    let (views, fatals) = views();
    let request = RangeRequest { key: "a".into(), range_end: "b".into(), ..RangeRequest::default() };
    assert_eq!(views.range(&store.view(), &request), Err(Error::Stopped));
    assert!(views.export(store.view()).is_err());
    let fatals = fatals.lock().unwrap();
    assert_eq!(fatals.len(), 2);
    assert!(fatals.iter().all(|fatal| fatal.0.contains("the disk is gone")), "{fatals:?}");
}

#[test]
fn ranges_answer_and_refuse_like_the_store() {
    let (mut store, backend) = sample();
    compact(&mut store, &backend, 303);
    let (views, fatals) = views();
    let range = |revision| RangeRequest { key: "k007".into(), revision, ..RangeRequest::default() };
    let response = views.range(&store.view(), &range(0)).unwrap();
    assert_eq!(response.kvs[0].value, "updated");
    assert_eq!(views.range(&store.view(), &range(2)), Err(Error::Compacted));
    assert!(fatals.lock().unwrap().is_empty());
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

fn run(args: &[&str]) -> Result<String, String> {
    let output = Command::new("etcdctl").env("ETCDCTL_API", "3").args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn etcdctl(args: &[&str]) -> String {
    run(args).unwrap_or_else(|error| panic!("etcdctl {args:?}: {error}"))
}

impl Etcd {
    /// Restores the file into a new directory and serves it.
    fn restore(file: &str, dir: &Path) -> Self {
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (peer, client) = (format!("http://127.0.0.1:{}", port()), format!("http://127.0.0.1:{}", port()));
        let data = dir.join("data").display().to_string();
        let cluster = format!("m={peer}");
        let common = ["--name=m", "--data-dir", &data, "--initial-cluster", &cluster];
        let advertise = ["--initial-advertise-peer-urls", &peer];
        etcdctl(&[&["snapshot", "restore", file], &common[..], &advertise].concat());
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
        let healthy = (0..20).any(|_| run(&etcd.args(&["get", "k000"])).is_ok());
        assert!(healthy, "{}", fs::read_to_string(dir.join("etcd.log")).unwrap());
        etcd
    }

    fn args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [args, &["--command-timeout=10s", "--endpoints", &self.endpoint]].concat()
    }

    fn ctl(&self, args: &[&str]) -> String {
        etcdctl(&self.args(args))
    }
}

/// The file with its digest, as `etcdctl snapshot save` leaves it, restored and served by etcd: with
/// a compaction that is half done.
#[test]
fn etcd_restores_and_serves_an_export() {
    let (mut store, backend) = sample();
    for i in 100..200 {
        put(&mut store, &format!("k{i}"), "second", 0);
    }
    compact(&mut store, &backend, 350);
    assert!(!compact_physically(&mut store, &backend, 320), "the compaction is to be half done");
    let file = export(store.view());
    let rows: usize = BUCKETS.iter().map(|name| bucket(&InMemory(file.clone()), name).len()).sum();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ours.db").display().to_string();
    let mut out = File::create(&path).unwrap();
    out.write_all(&file).unwrap();
    out.write_all(&Sha256::digest(&file)).unwrap();
    drop(out);
    let status: serde_json::Value =
        serde_json::from_str(&etcdctl(&["snapshot", "status", &path, "-w", "json"])).unwrap();
    assert_eq!(status["revision"], store.revision());
    assert_eq!(status["totalKey"], rows);
    assert_eq!(status["totalSize"], file.len());

    let etcd = Etcd::restore(&path, dir.path());
    let request = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() };
    let ours = views().0.range(&store.view(), &request).unwrap();
    let listing = etcd.ctl(&["get", "", "--prefix"]);
    let expected: String = ours
        .kvs
        .iter()
        .map(|kv| format!("{}\n{}\n", kv.key.escape_ascii(), kv.value.escape_ascii()))
        .collect();
    assert!(listing == expected, "{} and {} bytes differ", listing.len(), expected.len());
    assert_eq!(ours.kvs.len(), 300);
    let old = etcd.ctl(&["get", "k199", "--rev", "360", "--print-value-only"]);
    assert_eq!(old.trim_end().len(), 50_000, "the value before the update");
    let compacted = run(&etcd.args(&["get", "k199", "--rev", "349"])).unwrap_err();
    assert!(compacted.contains("required revision has been compacted"), "{compacted}");
    let fields = etcd.ctl(&["get", "k007", "-w", "fields"]);
    for field in ["\"CreateRevision\" : 9", "\"ModRevision\" : 302", "\"Version\" : 2"] {
        assert!(fields.contains(field), "{fields}");
    }
    let lease = etcd.ctl(&["lease", "timetolive", &format!("{LEASE:x}"), "--keys"]);
    assert!(lease.contains("granted with TTL(100000s)") && lease.contains("k007"), "{lease}");
}
