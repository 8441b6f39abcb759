//! The experiment of *Protocol-Aware Recovery* (CTRL, FAST'18, section 5.1) on this log: three members,
//! four committed entries, and every way in which the twelve copies can rot. Whatever has a good copy
//! somewhere must be recovered; whatever has none must be missed openly, by a cluster that does not
//! answer, and never by one that answers without it.
//!
//! The logs are real ones, byte for byte, on disks in memory; the rot is a bit of the entry in the file.
//! Members, messages and time are as simple as can be: every message arrives, and nothing else fails.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::api::{PutRequest, RangeRequest, Request, ResponseBody};
use cairn_core::backend::mem::MemBackend;
use cairn_core::backend::{Backend, Batch};
use cairn_core::cluster::Cluster;
use cairn_core::command::{Command, CommandId, Op};
use cairn_core::node::{Config, Input, Node, Output, bootstrap_batch};
use cairn_core::time::Time;
use cairn_core::wal::{Append, EntryKind, HardState, LogEntry, LogStart, MemDisk, Metadata, Wal, WalOptions};

/// Members and entries of the experiment.
pub const MEMBERS: usize = 3;
/// Entries whose copies may rot.
pub const ENTRIES: usize = 4;
/// How long a cluster is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(50);
const OPTIONS: WalOptions = WalOptions { segment_bytes: 64 << 10, fsync: true };

/// What all cases came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// A good copy of each entry was left: recovered, and not.
    pub recovered: usize,
    /// Unavailable although it could have been recovered.
    pub given_up: usize,
    /// No copy was left of an entry: openly unavailable.
    pub unavailable: usize,
    /// Answered without an entry, or wrongly.
    pub unsafe_cases: usize,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recoverable = self.recovered + self.given_up;
        writeln!(f, "CTRL's targeted corruption: {MEMBERS} members, {ENTRIES} entries, all cases\n")?;
        writeln!(f, "| Cases | | Recovered | Unavailable | Unsafe |")?;
        writeln!(f, "|---|---|---|---|---|")?;
        writeln!(f, "| recoverable | {recoverable} | {} | {} | |", self.recovered, self.given_up)?;
        writeln!(f, "| not recoverable | {} | | {} | |", self.unavailable, self.unavailable)?;
        write!(f, "| all | {} | | | {} |", self.all(), self.unsafe_cases)
    }
}

impl Table {
    fn all(&self) -> usize {
        self.recovered + self.given_up + self.unavailable + self.unsafe_cases
    }

    /// Whether everything is as it has to be.
    pub fn is_right(&self) -> bool {
        let all = 1 << (MEMBERS * ENTRIES);
        self.all() == all && self.given_up == 0 && self.unsafe_cases == 0
    }
}

fn value(entry: usize) -> String {
    format!("the value of entry {entry}")
}

/// The members' logs and backends as a cluster leaves them that has committed the entries.
struct Image {
    cluster: Cluster,
    batch: Batch,
    disks: BTreeMap<u64, MemDisk>,
}

impl Image {
    fn new() -> Self {
        let members: Vec<(String, Vec<String>)> = (0..MEMBERS)
            .map(|member| (format!("m{member}"), vec![format!("http://10.1.0.{}:2380", member + 1)]))
            .collect();
        let cluster = Cluster::from_initial("ctrl", &members).expect("the list is well formed");
        let (batch, start) = bootstrap_batch(&cluster);
        let ids: Vec<u64> = cluster.members().map(|member| member.id).collect();
        let disks = ids.iter().map(|id| (*id, log(*id, cluster.id(), ids[0], start))).collect();
        Self { cluster, batch, disks }
    }

    /// Starts the members of a case, with rot where its bits say so.
    fn start(&self, case: u32) -> World {
        let mut world = World::default();
        for (member, (id, disk)) in self.disks.iter().enumerate() {
            let disk = disk.duplicate();
            for entry in (0..ENTRIES).filter(|entry| rotten(case, member, *entry)) {
                rot(&disk, entry);
            }
            // A member that cannot make sense of its log does not start.
            let Ok((wal, found)) = Wal::open(disk, OPTIONS) else { continue };
            let backend = MemBackend::new();
            backend.commit(&self.batch).expect("memory never fails");
            let config = Config::new(*id, self.cluster.id(), 2, u64::from(case));
            let started = Node::start(config, found.into(), Arc::new(backend.clone()), Time(0));
            let Ok(node) = started else { continue };
            world.members.insert(*id, Member { node, wal, backend });
        }
        world
    }
}

fn rotten(case: u32, member: usize, entry: usize) -> bool {
    case >> (member * ENTRIES + entry) & 1 == 1
}

/// A log with the entries, each in a batch of its own, all committed.
fn log(id: u64, cluster: u64, leader: u64, start: LogStart) -> MemDisk {
    let disk = MemDisk::new();
    let metadata = Metadata { cluster_id: cluster, member_id: id };
    let state = |commit| HardState { term: 2, vote: leader, commit };
    let first = Append { log_start: Some(start), entries: Vec::new(), hard_state: Some(state(start.index)) };
    let mut wal = Wal::create(disk.clone(), metadata, &first, OPTIONS).expect("the disk is empty");
    for entry in 0..ENTRIES {
        let put = PutRequest {
            key: format!("k{entry}").into(),
            value: value(entry).into(),
            ..PutRequest::default()
        };
        let command = CommandId { origin: leader, boot: 1, seq: entry as u64 + 1 };
        let data = Command { id: command, op: Op::Put(put) }.encode().into();
        let index = start.index + 1 + entry as u64;
        let entries = vec![LogEntry { term: 2, index, kind: EntryKind::Normal, data }];
        let append = Append { log_start: None, entries, hard_state: Some(state(index)) };
        wal.append(&append).expect("memory never fails");
    }
    wal.seal().expect("memory never fails");
    disk
}

/// A bit of the entry's value turns over in every file that holds it.
fn rot(disk: &MemDisk, entry: usize) {
    let value = value(entry).into_bytes();
    let name = format!("{:016x}-{:016x}.wal", 1, 1);
    disk.damage(&name, |bytes| {
        let at = bytes.windows(value.len()).position(|window| window == value);
        bytes[at.expect("the log holds the entry") + 4] ^= 1;
    });
}

struct Member {
    node: Node,
    wal: Wal<MemDisk>,
    backend: MemBackend,
}

#[derive(Default)]
struct World {
    now: Time,
    members: BTreeMap<u64, Member>,
    messages: VecDeque<(u64, u64, Bytes)>,
    answers: BTreeMap<u64, Option<Bytes>>,
    asked: u64,
}

impl World {
    /// Feeds a member and carries out what it says.
    fn feed(&mut self, id: u64, input: Input) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let mut inputs = VecDeque::from([input]);
        let mut stops = false;
        while let Some(input) = inputs.pop_front() {
            member.node.handle(self.now, input);
            while let Some(output) = member.node.poll() {
                match output {
                    Output::Append { seq, append } => {
                        member.wal.append(&append).expect("memory never fails");
                        inputs.push_back(Input::Appended { seq });
                    }
                    Output::Repair { seq, entries } => {
                        member.wal.repair(&entries).expect("memory never fails");
                        inputs.push_back(Input::Appended { seq });
                    }
                    Output::Flush { flush } => {
                        member.backend.commit(&flush.into_batch()).expect("memory never fails");
                        inputs.push_back(Input::Flushed { size: member.backend.size() });
                    }
                    Output::SetPeer { id: peer, .. } => inputs.push_back(Input::PeerConnected { peer }),
                    Output::Send { to, message } => self.messages.push_back((id, to, message)),
                    Output::Reply { id: request, result } => {
                        let body = result.ok().map(|response| response.body);
                        if let Some(ResponseBody::Range(range)) = body {
                            let value = range.kvs.into_iter().next().map(|kv| kv.value);
                            self.answers.insert(request, value);
                        }
                    }
                    Output::Fatal(_) => stops = true,
                    _ => {}
                }
            }
        }
        if stops {
            self.members.remove(&id);
        }
    }

    fn step(&mut self) {
        self.now = self.now + STEP;
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            self.feed(id, Input::Wakeup);
        }
        while let Some((from, to, message)) = self.messages.pop_front() {
            self.feed(to, Input::Peer { from, message });
        }
    }

    /// What every member answers to linearizable reads of all entries; `None` if one does not answer
    /// in time.
    fn read_all(&mut self) -> Option<Vec<Option<Bytes>>> {
        let mut asked = Vec::new();
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            for entry in 0..ENTRIES {
                self.asked += 1;
                asked.push(self.asked);
                let range = RangeRequest { key: format!("k{entry}").into(), ..RangeRequest::default() };
                let (id_of, request) = (self.asked, Request::Range(range));
                self.feed(id, Input::Request { id: id_of, request, timeout: Some(PATIENCE) });
            }
        }
        let end = self.now + PATIENCE;
        while self.now < end && asked.iter().any(|request| !self.answers.contains_key(request)) {
            self.step();
        }
        if asked.is_empty() {
            None
        } else {
            asked.iter().map(|request| self.answers.remove(request)).collect()
        }
    }
}

/// Runs all cases.
pub fn run() -> Table {
    let image = Image::new();
    let mut table = Table::default();
    for case in 0..1 << (MEMBERS * ENTRIES) {
        let lost = (0..ENTRIES).any(|entry| (0..MEMBERS).all(|member| rotten(case, member, entry)));
        let mut world = image.start(case);
        let answers = world.read_all();
        let right =
            |(at, answer): (usize, &Option<Bytes>)| answer.as_deref() == Some(value(at % ENTRIES).as_bytes());
        match answers {
            // Every member that answers must have everything.
            Some(answers) if !lost && answers.iter().enumerate().all(right) => {
                if world.members.len() == MEMBERS {
                    table.recovered += 1;
                } else {
                    table.given_up += 1;
                }
            }
            Some(_) => table.unsafe_cases += 1,
            None if world.answers.values().any(Option::is_none) => table.unsafe_cases += 1,
            None if lost => table.unavailable += 1,
            None => table.given_up += 1,
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_has_a_good_copy_is_recovered_and_nothing_else_is_served() {
        let table = run();
        assert!(table.is_right(), "{table}");
        assert_eq!((table.recovered, table.unavailable), (2401, 1695));
    }
}
