//! A few members in memory: a driver of about the smallest kind, with messages that are delivered in
//! order at once, lost, or doubled, and appends that become durable when the test says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Config, Input, Node, NodeEvent, Output, Recovered, Role, bootstrap_batch, force_new_cluster};
use crate::api::{
    AlarmAction, AlarmKind, AlarmRequest, PutRequest, RangeRequest, Request, Response, ResponseBody,
    WatchCreateRequest, WatchResponse,
};
use crate::backend::mem::MemBackend;
use crate::backend::{Backend, Batch};
use crate::cluster::Cluster;
use crate::error::{Error, Fatal};
use crate::mvcc::{StoreView, compact_batch};
use crate::time::Time;
use crate::types::Revision;
use crate::wal::{Append, Damaged, HardState, LogEntry, LogStart, Metadata};

mod failover;
mod force;
mod propose;
mod removed;
mod repair;
mod upkeep;

/// A log in memory; appends are durable at once.
#[derive(Clone, Debug, Default)]
struct Log {
    start: LogStart,
    hard_state: HardState,
    entries: Vec<LogEntry>,
    damaged: BTreeMap<u64, Damaged>,
}

impl Log {
    fn append(&mut self, append: &Append) {
        if let Some(start) = append.log_start {
            self.start = start;
            self.entries.clear();
            self.damaged.clear();
        }
        if let Some(first) = append.entries.first() {
            self.damaged.split_off(&first.index);
            self.entries.truncate(usize::try_from(first.index - self.start.index - 1).unwrap());
        }
        self.entries.extend(append.entries.iter().cloned());
        self.hard_state = append.hard_state.unwrap_or(self.hard_state);
    }

    fn recovered(&self) -> Recovered {
        let damaged = self.damaged.values().cloned().collect();
        let (log_start, hard_state) = (self.start, self.hard_state);
        let mut entries = self.entries.clone();
        for entry in entries.iter_mut().filter(|entry| self.damaged.contains_key(&entry.index)) {
            (entry.kind, entry.data) = Default::default();
        }
        Recovered { log_start, hard_state, entries, damaged }
    }

    /// The entry's bytes rot; its identity does not.
    fn rot(&mut self, index: u64) {
        let entry = self.entries.iter().find(|entry| entry.index == index).unwrap();
        self.damaged.insert(index, Damaged::of(entry, "log", 0));
    }
}

struct Member {
    id: u64,
    node: Node,
    log: Log,
    backend: Arc<MemBackend>,
    incoming: Option<(u64, Bytes, StoreView)>,
}

struct World {
    now: Time,
    cluster: Cluster,
    members: BTreeMap<u64, Member>,
    messages: VecDeque<(u64, u64, Bytes)>,
    replies: BTreeMap<(u64, u64), Result<Response, Error>>,
    watch: Vec<(u64, u64, WatchResponse)>,
    events: Vec<(u64, NodeEvent)>,
    /// Bytes of messages that reached each member.
    bytes: BTreeMap<u64, usize>,
    cut: BTreeSet<u64>,
    double: bool,
    /// Compactions that are done and not reported, while the test wants it so.
    held: Option<Vec<Input>>,
    flushes: usize,
    next_id: u64,
    boots: u64,
    configure: fn(&mut Config),
}

impl World {
    fn new(size: usize, configure: fn(&mut Config)) -> Self {
        let initial: Vec<(String, Vec<String>)> =
            (0..size).map(|i| (format!("m{i}"), vec![format!("http://127.0.0.1:{}", 2380 + i)])).collect();
        let cluster = Cluster::from_initial("token", &initial).unwrap();
        let mut world = Self {
            now: Time(0),
            cluster: cluster.clone(),
            members: BTreeMap::new(),
            messages: VecDeque::new(),
            replies: BTreeMap::new(),
            watch: Vec::new(),
            events: Vec::new(),
            bytes: BTreeMap::new(),
            cut: BTreeSet::new(),
            double: false,
            held: None,
            flushes: 0,
            next_id: 0,
            boots: 0,
            configure,
        };
        for member in cluster.members() {
            let backend = Arc::new(MemBackend::new());
            let (batch, start) = bootstrap_batch(&cluster);
            backend.commit(&batch).unwrap();
            let hard_state = HardState { term: 1, vote: 0, commit: start.index };
            let log = Log { start, hard_state, ..Log::default() };
            world.start(member.id, log, backend);
        }
        world
    }

    fn start(&mut self, id: u64, log: Log, backend: Arc<MemBackend>) {
        self.boots += 1;
        let mut config = Config::new(id, self.cluster.id(), self.boots, 7);
        config.name = self.cluster.member(id).map_or_else(|| "joined".to_owned(), |m| m.name.clone());
        config.client_urls = vec![format!("http://client-{id:x}")];
        (self.configure)(&mut config);
        let node = Node::start(config, log.recovered(), backend.clone(), self.now).unwrap();
        self.members.insert(id, Member { id, node, log, backend, incoming: None });
        self.drain(id);
    }

    /// Starts the member as a cluster of its own; how many entries that took.
    fn force(&mut self, id: u64) -> Result<usize, Fatal> {
        let Member { mut log, backend, .. } = self.members.remove(&id).unwrap();
        let ids = Metadata { cluster_id: self.cluster.id(), member_id: id };
        let mut recovered = log.recovered();
        let append = force_new_cluster(ids, &mut recovered, backend.clone())?;
        log.append(&append);
        assert_eq!(log.recovered(), recovered, "the log and the member start from the same");
        self.start(id, log, backend);
        Ok(append.entries.len())
    }

    /// Ends a process: what was not durable is gone (here, only what was never flushed or appended).
    fn restart(&mut self, id: u64) {
        let member = self.members.remove(&id).unwrap();
        self.messages.retain(|(_, to, _)| *to != id);
        self.start(id, member.log, member.backend);
    }

    fn input(&mut self, id: u64, input: Input) {
        let now = self.now;
        self.members.get_mut(&id).unwrap().node.handle(now, input);
        self.drain(id);
    }

    fn drain(&mut self, id: u64) {
        let now = self.now;
        let mut later = VecDeque::new();
        loop {
            let member = self.members.get_mut(&id).unwrap();
            let Some(output) = member.node.poll() else {
                match later.pop_front() {
                    Some(input) => member.node.handle(now, input),
                    None => return,
                }
                continue;
            };
            match output {
                Output::Append { seq, append } => {
                    member.log.append(&append);
                    later.push_back(Input::Appended { seq });
                }
                Output::Repair { seq, entries } => {
                    for (damaged, entry) in entries {
                        assert_eq!(member.log.damaged.remove(&entry.index).as_ref(), Some(&damaged));
                        assert!(damaged.is(&entry) && member.log.entries.contains(&entry));
                    }
                    later.push_back(Input::Appended { seq });
                }
                Output::Send { to, message } => {
                    if self.double {
                        self.messages.push_back((id, to, message.clone()));
                    }
                    self.messages.push_back((id, to, message));
                }
                Output::Reply { id: request, result } => {
                    let before = self.replies.insert((id, request), result);
                    assert!(before.is_none(), "a request was answered twice");
                }
                Output::StartRead { id: request } => {
                    let result = member.node.take_read(request).unwrap().run().unwrap();
                    self.replies.insert((id, request), result);
                }
                Output::Watch { stream, batch } => {
                    for response in batch.responses() {
                        self.watch.push((id, stream, response));
                        later.push_back(Input::WatchCredit { stream, responses: 1 });
                    }
                }
                Output::Flush { flush } => {
                    self.flushes += 1;
                    member.backend.commit(&flush.into_batch()).unwrap();
                    later.push_back(Input::Flushed { size: member.backend.size() });
                }
                Output::Compact { from, to } => {
                    let mut cursor = Some(Revision::new(from, 0));
                    while let Some(at) = cursor {
                        let view = member.backend.view().unwrap();
                        let (batch, next) = compact_batch(view.as_ref(), at, to, 10).unwrap();
                        member.backend.commit(&batch).unwrap();
                        cursor = next;
                    }
                    let compacted = Input::Compacted { to, size: member.backend.size() };
                    match &mut self.held {
                        Some(held) => held.push(compacted),
                        None => later.push_back(compacted),
                    }
                }
                Output::Defragment => {
                    later.push_back(Input::Defragmented { result: Ok(()), size: member.backend.size() });
                }
                Output::SendSnapshot { to, view, header } => {
                    let view = member.node.take_view(view).unwrap();
                    let ok = !self.cut.contains(&to) && !self.cut.contains(&id);
                    later.push_back(Input::SnapshotSent { to, ok });
                    if ok {
                        let target = self.members.get_mut(&to).unwrap();
                        target.incoming = Some((id, header.clone(), view));
                        target.node.handle(now, Input::SnapshotReceived { from: id, header });
                        self.messages.push_back((0, to, Bytes::new()));
                    }
                }
                Output::InstallSnapshot => {
                    let (_, _, view) = member.incoming.take().unwrap();
                    let rows: Vec<_> = view.rows(None).map(|row| row.unwrap()).collect();
                    let fresh = MemBackend::new();
                    let changes = rows.into_iter().map(|(t, k, v)| (t, k, Some(v))).collect();
                    fresh.commit(&Batch { changes }).unwrap();
                    member.backend.replace(fresh);
                    later.push_back(Input::SnapshotInstalled { size: member.backend.size() });
                }
                Output::DiscardSnapshot => member.incoming = None,
                Output::SetPeer { id: peer, .. } => {
                    later.push_back(Input::PeerConnected { peer });
                }
                Output::ReleaseLog { .. } | Output::RemovePeer { .. } | Output::CloseWatch { .. } => {}
                Output::Event(event) => self.events.push((id, event)),
                Output::Fatal(fatal) => panic!("member {id:x} failed: {fatal}"),
            }
        }
    }

    fn deliver(&mut self) {
        while let Some((from, to, message)) = self.messages.pop_front() {
            if self.cut.contains(&from) || self.cut.contains(&to) || !self.members.contains_key(&to) {
                continue;
            }
            if from == 0 {
                self.drain(to);
            } else {
                *self.bytes.entry(to).or_default() += message.len();
                self.input(to, Input::Peer { from, message });
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(10);
            for id in self.members.keys().copied().collect::<Vec<_>>() {
                self.input(id, Input::Wakeup);
            }
            self.deliver();
        }
    }

    fn leader(&self) -> Option<u64> {
        self.members
            .values()
            .filter(|member| !self.cut.contains(&member.id))
            .find(|member| member.node.status().role == Role::Leader)
            .map(|member| member.id)
    }

    fn follower(&self) -> u64 {
        let leader = self.leader();
        *self.members.keys().find(|id| Some(**id) != leader && !self.cut.contains(id)).unwrap()
    }

    fn ask(&mut self, at: u64, request: Request) -> u64 {
        self.next_id += 1;
        let id = self.next_id;
        self.input(at, Input::Request { id, request, timeout: None });
        self.deliver();
        id
    }

    fn call(&mut self, at: u64, request: Request) -> Result<ResponseBody, Error> {
        let id = self.ask(at, request);
        for _ in 0..1000 {
            if let Some(result) = self.replies.remove(&(at, id)) {
                return result.map(|response| response.body);
            }
            self.run(Duration::from_millis(10));
        }
        panic!("request {id} was never answered");
    }

    fn put(&mut self, at: u64, key: &str, value: &str) -> Result<ResponseBody, Error> {
        self.call(at, put(key, value))
    }

    fn value(&mut self, at: u64, key: &str) -> Option<String> {
        let request = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
        match self.call(at, Request::Range(request)) {
            Ok(ResponseBody::Range(range)) => {
                range.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
            }
            other => panic!("{other:?}"),
        }
    }

    fn hashes(&mut self) -> BTreeSet<String> {
        let ids: Vec<u64> = self.members.keys().copied().collect();
        ids.into_iter().map(|id| format!("{:?}", self.call(id, Request::HashKv { revision: 0 }))).collect()
    }
}

fn put(key: &str, value: &str) -> Request {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    Request::Put(PutRequest { key, value, ..PutRequest::default() })
}

#[test]
fn a_single_member_answers_what_etcd_answers_after_its_start() {
    let mut world = World::new(1, |_| {});
    world.run(Duration::from_millis(50));
    let id = world.leader().expect("one member elects itself at once");
    let ResponseBody::Status(status) = world.call(id, Request::Status).unwrap() else { panic!() };
    // Seed 004 shows term 2, index 4, applied index 4 for a fresh member.
    assert_eq!((status.raft_term, status.raft_index, status.raft_applied_index), (2, 4, 4));
    world.put(id, "a", "1").unwrap();
    assert_eq!(world.value(id, "a").as_deref(), Some("1"));
}

#[test]
fn a_restart_keeps_what_was_acknowledged() {
    for flushed in [false, true] {
        let mut world = World::new(1, |_| {});
        world.run(Duration::from_millis(50));
        let id = world.leader().unwrap();
        for i in 0..20 {
            world.put(id, &format!("k{i}"), "v").unwrap();
        }
        if flushed {
            world.run(Duration::from_secs(2));
        }
        world.put(id, "last", "v").unwrap();
        world.restart(id);
        world.run(Duration::from_millis(50));
        assert_eq!(world.value(id, "k7").as_deref(), Some("v"));
        assert_eq!(world.value(id, "last").as_deref(), Some("v"));
    }
}

#[test]
fn three_members_agree_and_followers_serve() {
    let mut world = World::new(3, |_| {});
    world.run(Duration::from_secs(4));
    let leader = world.leader().expect("a leader within four seconds");
    let follower = world.follower();
    world.put(follower, "a", "1").unwrap();
    assert_eq!(world.value(leader, "a").as_deref(), Some("1"));
    assert_eq!(world.value(follower, "a").as_deref(), Some("1"));
    world.run(Duration::from_secs(1));
    assert_eq!(world.hashes().len(), 1);
    let members = world.members.values().map(|member| member.node.status().members).collect::<Vec<_>>();
    assert!(members.iter().all(|list| list.iter().all(|member| !member.client_urls.is_empty())));
}

#[test]
fn doubled_messages_do_not_double_writes() {
    let mut world = World::new(3, |_| {});
    world.double = true;
    world.run(Duration::from_secs(4));
    let follower = world.follower();
    for i in 0..50 {
        world.put(follower, "counter", &i.to_string()).unwrap();
    }
    let range = RangeRequest { key: "counter".into(), ..RangeRequest::default() };
    let ResponseBody::Range(range) = world.call(follower, Request::Range(range)).unwrap() else { panic!() };
    assert_eq!(range.kvs[0].version, 50);
}

#[test]
fn a_cut_off_leader_is_replaced_and_its_unfinished_write_times_out() {
    let mut world = World::new(3, |_| {});
    world.run(Duration::from_secs(4));
    let old = world.leader().unwrap();
    world.put(old, "a", "1").unwrap();
    world.cut.insert(old);
    let lost = world.ask(old, put("a", "lost"));
    world.run(Duration::from_secs(4));
    let new = world.leader().expect("the others elect a leader");
    assert_ne!(new, old);
    world.put(new, "a", "2").unwrap();
    world.run(Duration::from_secs(8));
    let error = world.replies.remove(&(old, lost)).expect("answered by its deadline").unwrap_err();
    assert!(error.to_string().starts_with("etcdserver: request timed out"), "{error}");
    world.cut.clear();
    world.run(Duration::from_secs(3));
    assert_eq!(world.value(old, "a").as_deref(), Some("2"));
    assert_eq!(world.hashes().len(), 1);
}

#[test]
fn a_member_that_the_log_cannot_reach_gets_a_snapshot() {
    let mut world = World::new(3, |config| {
        config.snapshot_count = 10;
        config.catchup_entries = 5;
    });
    world.run(Duration::from_secs(4));
    let behind = world.follower();
    world.cut.insert(behind);
    let leader = world.leader().unwrap();
    for i in 0..100 {
        world.put(leader, &format!("k{i}"), "v").unwrap();
    }
    world.cut.clear();
    world.run(Duration::from_secs(5));
    assert_eq!(world.value(behind, "k99").as_deref(), Some("v"));
    assert_eq!(world.hashes().len(), 1);
    world.restart(behind);
    world.run(Duration::from_secs(3));
    assert_eq!(world.value(behind, "k3").as_deref(), Some("v"));
    assert_eq!(world.hashes().len(), 1);
}

#[test]
fn a_watcher_sees_writes_in_order() {
    let mut world = World::new(1, |_| {});
    world.run(Duration::from_millis(50));
    let id = world.leader().unwrap();
    world.put(id, "a", "0").unwrap();
    world.input(id, Input::WatchOpen { stream: 1 });
    let request = WatchCreateRequest { key: "a".into(), start_revision: 2, ..WatchCreateRequest::default() };
    world.input(id, Input::WatchCreate { stream: 1, request });
    for i in 1..5 {
        world.put(id, "a", &i.to_string()).unwrap();
    }
    world.run(Duration::from_millis(100));
    let revisions: Vec<i64> = world
        .watch
        .iter()
        .flat_map(|(_, _, response)| response.events.iter().map(|event| event.kv.mod_revision))
        .collect();
    assert_eq!(revisions, [2, 3, 4, 5, 6]);
}

#[test]
fn a_watcher_catches_up_without_time_passing() {
    let mut world = World::new(1, |_| {});
    world.run(Duration::from_millis(50));
    let id = world.leader().unwrap();
    // Several windows of history without anything for the watcher, and its event at the end.
    for i in 0..5_000 {
        world.put(id, &format!("other{i}"), "").unwrap();
    }
    world.put(id, "a", "1").unwrap();
    world.run(Duration::from_millis(200));
    world.input(id, Input::WatchOpen { stream: 1 });
    let request = WatchCreateRequest { key: "a".into(), start_revision: 2, ..WatchCreateRequest::default() };
    world.input(id, Input::WatchCreate { stream: 1, request });
    let now = world.now;
    let mut slices = 0;
    while world.members[&id].node.next_wakeup().is_some_and(|wakeup| wakeup.at <= now) {
        world.input(id, Input::Wakeup);
        slices += 1;
        assert!(slices < 20, "it works without an end");
    }
    assert!(slices >= 3, "one slice is bounded");
    assert_eq!(world.watch.iter().map(|(_, _, response)| response.events.len()).sum::<usize>(), 1);
}

#[test]
fn a_lease_ends_with_its_keys() {
    let mut world = World::new(3, |_| {});
    world.run(Duration::from_secs(4));
    let follower = world.follower();
    let ResponseBody::LeaseGrant { id, ttl } =
        world.call(follower, Request::LeaseGrant { id: 0, ttl: 3 }).unwrap()
    else {
        panic!()
    };
    assert_eq!(ttl, 3);
    let request = PutRequest { key: "l".into(), lease: id, ..PutRequest::default() };
    world.call(follower, Request::Put(request)).unwrap();
    world.run(Duration::from_secs(2));
    let renewed = world.call(follower, Request::LeaseKeepAlive { id }).unwrap();
    assert_eq!(renewed, ResponseBody::LeaseKeepAlive { id, ttl: 3 });
    world.run(Duration::from_secs(2));
    assert_eq!(world.value(follower, "l").as_deref(), Some(""));
    world.run(Duration::from_secs(3));
    assert_eq!(world.value(follower, "l"), None);
    let gone = world.call(follower, Request::LeaseKeepAlive { id }).unwrap();
    assert_eq!(gone, ResponseBody::LeaseKeepAlive { id, ttl: 0 });
}

#[test]
fn an_expiry_does_not_hit_a_later_lease_of_the_same_id() {
    let mut world = World::new(3, |_| {});
    world.run(Duration::from_secs(4));
    let leader = world.leader().unwrap();
    world.call(leader, Request::LeaseGrant { id: 7, ttl: 2 }).unwrap();
    world.run(Duration::from_millis(1_900));
    // Both are in the leader's log, and not committed, when the first lease expires.
    for (id, request) in
        [(1_001, Request::LeaseRevoke { id: 7 }), (1_002, Request::LeaseGrant { id: 7, ttl: 100 })]
    {
        world.input(leader, Input::Request { id, request, timeout: None });
    }
    world.now = world.now + Duration::from_millis(300);
    world.input(leader, Input::Wakeup);
    world.deliver();
    world.run(Duration::from_secs(6));
    for id in [1_001, 1_002] {
        assert!(world.replies[&(leader, id)].is_ok());
    }
    let left = world.call(leader, Request::LeaseTimeToLive { id: 7, keys: false }).unwrap();
    assert!(matches!(left, ResponseBody::LeaseTimeToLive { granted_ttl: 100, .. }), "{left:?}");
}

#[test]
fn members_come_and_go() {
    let mut world = World::new(1, |_| {});
    world.run(Duration::from_secs(6));
    let first = world.leader().unwrap();
    world.put(first, "a", "1").unwrap();
    let add = Request::MemberAdd {
        peer_urls: vec!["http://127.0.0.1:9999".to_owned()],
        is_learner: true,
        unix_seconds: 1,
    };
    let ResponseBody::MemberAdd { member, members } = world.call(first, add).unwrap() else { panic!() };
    assert_eq!(members.len(), 2);
    let log = Log { start: LogStart::default(), ..Log::default() };
    world.start(member.id, log, Arc::new(MemBackend::new()));
    world.run(Duration::from_secs(3));
    let range = RangeRequest { key: "a".into(), serializable: true, ..RangeRequest::default() };
    let ResponseBody::Range(range) = world.call(member.id, Request::Range(range)).unwrap() else { panic!() };
    assert_eq!(range.kvs[0].value.as_ref(), b"1");
    // Asked at the learner, answered by the leader.
    world.call(member.id, Request::MemberPromote { id: member.id }).unwrap();
    world.put(member.id, "b", "2").unwrap();
    // The leader removes itself: the other takes over first.
    world.call(first, Request::MemberRemove { id: first }).unwrap();
    assert!(world.members[&first].node.status().removed);
    world.members.remove(&first);
    world.run(Duration::from_secs(4));
    assert_eq!(world.value(member.id, "b").as_deref(), Some("2"));
}

#[test]
fn a_full_store_says_so_until_the_alarm_is_cleared() {
    let mut world = World::new(1, |config| config.quota_bytes = Some(20_000));
    world.run(Duration::from_millis(50));
    let id = world.leader().unwrap();
    let big = "x".repeat(1000);
    let error = (0..100).find_map(|i| world.put(id, &format!("k{i}"), &big).err()).expect("it fills");
    assert_eq!(error, Error::NoSpace);
    assert_eq!(world.put(id, "small", ""), Err(Error::NoSpace));
    let alarm = |action, alarm| Request::Alarm(AlarmRequest { action, member_id: 0, alarm });
    let ResponseBody::Alarm { alarms } = world.call(id, alarm(AlarmAction::Get, None)).unwrap() else {
        panic!()
    };
    assert_eq!(alarms.len(), 1);
    let delete = crate::api::DeleteRangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..crate::api::DeleteRangeRequest::default()
    };
    world.call(id, Request::DeleteRange(delete)).unwrap();
    let revision = world.members[&id].node.status().revision;
    world.call(id, Request::Compact { revision, physical: true }).unwrap();
    let clear = Request::Alarm(AlarmRequest {
        action: AlarmAction::Deactivate,
        member_id: id,
        alarm: Some(AlarmKind::NoSpace),
    });
    world.call(id, clear).unwrap();
    world.put(id, "small", "").unwrap();
}

#[test]
fn leadership_moves_when_asked() {
    let mut world = World::new(3, |_| {});
    world.run(Duration::from_secs(4));
    let (old, target) = (world.leader().unwrap(), world.follower());
    assert_eq!(world.call(target, Request::MoveLeader { target }), Err(Error::NotLeader));
    assert_eq!(world.call(old, Request::MoveLeader { target: 5 }), Err(Error::BadLeaderTransferee));
    assert_eq!(world.call(old, Request::MoveLeader { target }), Ok(ResponseBody::MoveLeader));
    assert_eq!(world.leader(), Some(target));
}
