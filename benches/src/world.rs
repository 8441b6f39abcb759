//! Members in memory: nodes without threads, disks or sockets, so that what is measured is the core.
//!
//! Appends are durable and messages arrive as soon as they are emitted; flushes go to a
//! [`MemBackend`]. Time moves a little with each round of work, so that ticks and heartbeats happen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::api::Request;
use cairn_core::backend::Backend;
use cairn_core::backend::mem::MemBackend;
use cairn_core::cluster::Cluster;
use cairn_core::node::{Config, Input, Node, Output, Recovered, Role, bootstrap_batch};
use cairn_core::time::Time;
use cairn_core::wal::HardState;

/// How far time moves with each round.
const ROUND: Duration = Duration::from_micros(100);
/// Rounds without a leader, or without a reply, after which something is broken.
const ROUNDS_MAX: usize = 1_000_000;

#[derive(Debug)]
struct Member {
    node: Node,
    backend: Arc<MemBackend>,
}

/// A cluster.
#[derive(Debug)]
pub struct World {
    now: Time,
    members: BTreeMap<u64, Member>,
    messages: VecDeque<(u64, u64, Bytes)>,
    leader: u64,
    next_id: u64,
    replies: usize,
}

impl World {
    /// A cluster of `size` members that has a leader.
    ///
    /// # Panics
    /// The members cannot agree on a leader: a bug.
    pub fn new(size: usize) -> Self {
        let initial: Vec<(String, Vec<String>)> =
            (0..size).map(|i| (format!("m{i}"), vec![format!("http://127.0.0.1:{}", 2380 + i)])).collect();
        let cluster = Cluster::from_initial("bench", &initial).expect("the members differ");
        let now = Time(0);
        let mut members = BTreeMap::new();
        for member in cluster.members() {
            let backend = Arc::new(MemBackend::new());
            let (batch, log_start) = bootstrap_batch(&cluster);
            backend.commit(&batch).expect("memory takes it");
            let hard_state = HardState { term: 1, vote: 0, commit: log_start.index };
            let recovered = Recovered { log_start, hard_state, ..Recovered::default() };
            let mut config = Config::new(member.id, cluster.id(), 1, 7);
            config.name.clone_from(&member.name);
            config.client_urls = vec!["http://127.0.0.1:2379".to_owned()];
            let node = Node::start(config, recovered, backend.clone(), now).expect("a fresh member starts");
            members.insert(member.id, Member { node, backend });
        }
        let messages = VecDeque::new();
        let mut world = Self { now, members, messages, leader: 0, next_id: 0, replies: 0 };
        for _ in 0..ROUNDS_MAX {
            world.round();
            if let Some(leader) = world.find_leader() {
                world.leader = leader;
                return world;
            }
        }
        panic!("no leader");
    }

    fn find_leader(&self) -> Option<u64> {
        let leads = |(_, member): &(&u64, &Member)| member.node.status().role == Role::Leader;
        self.members.iter().find(leads).map(|(id, _)| *id)
    }

    /// Gives the leader all of `requests` at once and runs until all are answered.
    ///
    /// # Panics
    /// One was refused or never answered: a bug.
    pub fn call(&mut self, requests: impl IntoIterator<Item = Request>) {
        self.replies = 0;
        let mut asked = 0;
        let leader = self.members.get_mut(&self.leader).expect("the leader is a member");
        for request in requests {
            self.next_id += 1;
            asked += 1;
            leader.node.handle(self.now, Input::Request { id: self.next_id, request, timeout: None });
        }
        for _ in 0..ROUNDS_MAX {
            self.round();
            if self.replies == asked {
                return;
            }
        }
        panic!("{} of {asked} requests were answered", self.replies);
    }

    /// Wakes everyone and delivers until nothing is left to do.
    fn round(&mut self) {
        self.now = self.now + ROUND;
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for id in ids {
            self.input(id, Input::Wakeup);
        }
        while let Some((from, to, message)) = self.messages.pop_front() {
            self.input(to, Input::Peer { from, message });
        }
    }

    fn input(&mut self, id: u64, input: Input) {
        let Self { now, members, messages, replies, .. } = self;
        let member = members.get_mut(&id).expect("messages name members");
        member.node.handle(*now, input);
        let mut later = VecDeque::new();
        loop {
            let Some(output) = member.node.poll() else {
                match later.pop_front() {
                    Some(input) => member.node.handle(*now, input),
                    None => return,
                }
                continue;
            };
            match output {
                Output::Append { seq, .. } | Output::Repair { seq, .. } => {
                    later.push_back(Input::Appended { seq })
                }
                Output::Send { to, message } => messages.push_back((id, to, message)),
                Output::Reply { result, .. } => {
                    result.expect("the requests are sound");
                    *replies += 1;
                }
                Output::StartRead { id } => {
                    let read = member.node.take_read(id).expect("just announced").run();
                    read.expect("memory does not fail").expect("the requests are sound");
                    *replies += 1;
                }
                Output::Flush { flush } => {
                    member.backend.commit(&flush.into_batch()).expect("memory takes it");
                    later.push_back(Input::Flushed { size: member.backend.size() });
                }
                Output::SetPeer { id: peer, .. } => later.push_back(Input::PeerConnected { peer }),
                Output::Fatal(fatal) => panic!("member {id:x} failed: {fatal}"),
                Output::ReleaseLog { .. } | Output::RemovePeer { .. } | Output::Event(_) => {}
                other => panic!("nothing here causes {other:?}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::api::{PutRequest, RangeRequest};

    use super::*;

    #[test]
    fn every_request_is_answered_with_one_member_and_with_three() {
        for size in [1, 3] {
            let mut world = World::new(size);
            let put = |i: u64| PutRequest { key: i.to_string().into(), ..PutRequest::default() };
            world.call((0..500).map(|i| Request::Put(put(i))));
            assert_eq!(world.replies, 500);
            world.call([Request::Range(RangeRequest { key: "7".into(), ..RangeRequest::default() })]);
            assert_eq!(world.replies, 1);
            assert!(world.members.values().all(|member| member.node.status().applied >= 500));
        }
    }
}
