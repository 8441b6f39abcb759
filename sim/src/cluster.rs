//! The whole cluster in one thread: the heap of events, the members, the clients and the checkers.
//!
//! **Invariant:** nothing here depends on anything but the options, so a seed always runs the same.
//! A run stops at the first violation.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;

use bytes::Bytes;
use cairn_checkers::Operation;
use cairn_checkers::lease::Leases;
use cairn_core::backend::Backend;
use cairn_core::backend::mem::MemBackend;
use cairn_core::cluster::Cluster as Membership;
use cairn_core::command::Op as CommandOp;
use cairn_core::mvcc::StoreView;
use cairn_core::node::{Input, Node, Output, ReadTask, Recovered, Role, Status, bootstrap_batch};
use cairn_core::rng::Rng;
use cairn_core::types::MemberId;
use cairn_core::wal::{Append, HardState, LogStart, MemDisk, Metadata, Wal, WalOptions};

use crate::checker::durability::Durable;
use crate::checker::linearizability::Linearizability;
use crate::checker::{convergence, history, lease};
use crate::client::{Client, Watcher};
use crate::disk::power_off;
use crate::driver::{Clock, Member, Process};
use crate::invariants::election_safety::ElectionSafety;
use crate::invariants::log_matching::LogMatching;
use crate::invariants::own_term_commit::OwnTermCommit;
use crate::invariants::state_machine_safety::Committed;
use crate::invariants::{LogMirror, committed_immutable, leader_completeness};
use crate::model::Model;
use crate::network::Network;
use crate::options::{Latency, MS, Options, SECOND};
use crate::runtime::Runtime;
use crate::trace::Trace;

/// Ids at or above this are a node's own commands.
const INTERNAL_ID: u64 = 1 << 63;
/// The end of the liveness phase, from its beginning.
const LIVENESS: u64 = 90 * SECOND;
/// One seed in this many is searched for linearizations, besides the faster checks.
const SEARCHED: u64 = 16;
/// Events in a run; more mean that something spins.
const EVENTS_MAX: u64 = 20_000_000;

/// Everything that can happen.
#[derive(Debug)]
#[allow(missing_docs)]
pub(crate) enum Event {
    Process { member: MemberId, boot: u64 },
    Wake { member: MemberId, boot: u64 },
    Feed { member: MemberId, boot: u64, input: Input },
    Deliver { from: MemberId, to: MemberId, message: Bytes },
    LogDone { member: MemberId, boot: u64 },
    StorageDone { member: MemberId, boot: u64 },
    Snapshot { from: MemberId, boot: u64, to: MemberId, header: Bytes, view: Box<StoreView> },
    ReadDone { member: MemberId, boot: u64, request: u64, task: Box<ReadTask> },
    ClientNext { client: usize },
    ClientTimeout { client: usize, number: u64 },
    WatchOpen { watcher: usize },
    WatchAsk { watcher: usize },
    Fault,
    Heal { fault: u64 },
    Resume { member: MemberId },
    Restart { member: MemberId },
    Stop { member: MemberId, boot: u64 },
    Fast { member: MemberId },
    Operate,
    Reconcile,
}

/// An event's time, its turn among those of the same time, and where it waits: events are large, and
/// the heap moves what is in it.
struct Scheduled {
    at: u64,
    seq: u64,
    slot: usize,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// What a run did, in numbers.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Stats {
    pub operations: u64,
    pub answered: u64,
    pub messages: u64,
    pub crashes: u64,
    pub snapshots: u64,
    pub expired: u64,
    pub compactions: u64,
    pub events: u64,
    pub elections: u64,
    pub membership: u64,
}

/// The end of a run.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Report {
    pub seed: u64,
    pub hash: u64,
    pub simulated: u64,
    pub revision: i64,
    pub stats: Stats,
    pub violation: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.simulated as f64 / 1e9;
        write!(f, "seed {} hash {:016x} simulated {seconds:.1} s ", self.seed, self.hash)?;
        write!(f, "revision {} {:?}", self.revision, self.stats)
    }
}

/// The cluster.
pub struct Cluster {
    pub(crate) options: Options,
    pub(crate) runtime: Runtime,
    /// The runtime's clock at the event that is handled.
    pub(crate) now: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    seq: u64,
    pub(crate) rng: Rng,
    pub(crate) nemesis: Rng,
    pub(crate) network: Network,
    pub(crate) membership: Membership,
    pub(crate) members: BTreeMap<MemberId, Member>,
    pub(crate) clients: Vec<Client>,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) next_number: u64,
    pub(crate) next_stream: u64,
    pub(crate) next_fault: u64,
    boots: u64,
    pub(crate) slow: BTreeMap<MemberId, u64>,
    pub(crate) reported: BTreeMap<(MemberId, u64), u64>,
    pub(crate) chaotic: bool,
    pub(crate) trace: Trace,
    pub(crate) stats: Stats,
    pub(crate) violation: Option<String>,
    pub(crate) model: Model,
    pub(crate) linearizability: Linearizability,
    pub(crate) leases: Leases,
    pub(crate) granted: Vec<i64>,
    committed: Committed,
    election: ElectionSafety,
    matching: LogMatching,
    own_term: OwnTermCommit,
    /// What members say of the membership at each index.
    configurations: BTreeMap<u64, Vec<(u64, bool)>>,
    pub(crate) answers: BTreeMap<u64, crate::history::Answer>,
    /// What clients asked and were told, by the operations' numbers from 1.
    pub(crate) history: Vec<Operation>,
}

/// Runs a seed to its end.
pub fn run(options: Options) -> Report {
    Runtime::run(options.seed, |runtime| {
        #[cfg(feature = "planted")]
        cairn_core::planted::plant(options.planted);
        let mut cluster = Cluster::new(options, runtime);
        cluster.run();
        Report {
            seed: cluster.options.seed,
            hash: cluster.trace.hash(),
            simulated: cluster.now,
            revision: cluster.model.revision,
            stats: Stats { elections: cluster.election.elections() as u64, ..cluster.stats },
            violation: cluster.violation,
        }
    })
}

impl Cluster {
    /// A new cluster whose members have just been founded.
    pub fn new(options: Options, runtime: Runtime) -> Self {
        let initial: Vec<(String, Vec<String>)> = (0..options.members)
            .map(|i| (format!("m{i}"), vec![format!("http://10.1.0.{}:2380", i + 1)]))
            .collect();
        let membership = Membership::from_initial("sim", &initial).expect("the list is well formed");
        let (batch, start) = bootstrap_batch(&membership);
        let election = options.heartbeat * options.election_ticks as u32;
        let min_ttl = (election.as_millis() as i64 * 3 + 1999) / 2000;
        let seed = runtime.seed();
        let mut cluster = Self {
            now: runtime.now(),
            runtime,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            seq: 0,
            rng: Rng::derive(seed, &[1]),
            nemesis: Rng::derive(seed, &[2]),
            network: Network::new(seed),
            membership: membership.clone(),
            members: BTreeMap::new(),
            clients: Vec::new(),
            watchers: Vec::new(),
            next_number: 0,
            next_stream: 0,
            next_fault: 0,
            boots: 0,
            slow: BTreeMap::new(),
            reported: BTreeMap::new(),
            chaotic: true,
            trace: Trace::new(options.verbose),
            stats: Stats::default(),
            violation: None,
            model: Model::new(start.index, min_ttl),
            linearizability: Linearizability::default(),
            leases: Leases::new(options.drift),
            granted: Vec::new(),
            committed: Committed::new(start.index),
            election: ElectionSafety::default(),
            matching: LogMatching::default(),
            own_term: OwnTermCommit::default(),
            configurations: BTreeMap::new(),
            answers: BTreeMap::new(),
            history: Vec::new(),
            options,
        };
        for member in membership.members() {
            let backend = MemBackend::new();
            backend.commit(&batch).expect("memory never fails");
            let hard_state = HardState { term: start.term, vote: 0, commit: start.index };
            cluster.create(member.id, member.name.clone(), backend, start, hard_state);
        }
        cluster.start_clients();
        let first = cluster.options.fault_interval;
        cluster.schedule(first.min(LIVENESS * 10), Event::Fault);
        cluster.schedule(500 * MS, Event::Reconcile);
        if cluster.options.membership {
            cluster.schedule(3 * SECOND, Event::Operate);
        }
        cluster
    }

    /// A member's first start.
    pub(crate) fn create(
        &mut self,
        id: MemberId,
        name: String,
        backend: MemBackend,
        start: LogStart,
        hard_state: HardState,
    ) {
        let disk = MemDisk::new();
        let machine = self.runtime.create_machine(&name, power_off(&disk, self.options.seed, id));
        let metadata = Metadata { cluster_id: self.membership.id(), member_id: id };
        let first = Append { log_start: Some(start), entries: Vec::new(), hard_state: Some(hard_state) };
        if let Err(error) = Wal::create(disk.clone(), metadata, &first, self.wal_options()) {
            return self.fail(format!("{id:x}: {error}"));
        }
        let mut durable = Durable::default();
        durable.appended(&first);
        let member = Member {
            id,
            name,
            machine,
            disk,
            backend,
            durable,
            process: None,
            paused: false,
            removed: false,
        };
        self.members.insert(id, member);
        self.start(id);
    }

    fn wal_options(&self) -> WalOptions {
        WalOptions { segment_bytes: self.options.segment_bytes, fsync: true }
    }

    /// Starts a member's process on what its disk holds.
    pub(crate) fn start(&mut self, id: MemberId) {
        let wal_options = self.wal_options();
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.process.is_some() || member.removed {
            return;
        }
        self.boots += 1;
        let boot = self.boots;
        let (wal, found) = match Wal::open(member.disk.clone(), wal_options) {
            Ok(opened) => opened,
            Err(error) => return self.fail(format!("{id:x} does not start: {error}")),
        };
        if let Err(what) = member.durable.recovered(id, &found) {
            return self.fail(what);
        }
        let drift = self.options.drift;
        let rate = 1_000_000 - drift + self.nemesis.below(2 * drift + 1);
        let clock = Clock::new(self.now, self.nemesis.below(1000 * SECOND), rate);
        let config = self.options.config(id, self.membership.id(), boot, &member.name);
        let mut log = LogMirror::new(found.log_start.index, found.entries.clone());
        let recovered =
            Recovered { log_start: found.log_start, hard_state: found.hard_state, entries: found.entries };
        let now = self.now;
        self.trace.line(now, || {
            format!(
                "{id:16x} starts (boot {boot}): log after {:?} to {}, {:?}",
                recovered.log_start,
                log.last(),
                recovered.hard_state
            )
        });
        let backend = std::sync::Arc::new(member.backend.clone());
        let node = match Node::start(config, recovered, backend, clock.local(now)) {
            Ok(node) => node,
            Err(fatal) => return self.fail(format!("{id:x} does not start: {fatal}")),
        };
        let status = node.status();
        if status.first - 1 > log.start() {
            // A snapshot had been installed, and the log not been told.
            log = LogMirror::new(status.first - 1, Vec::new());
        }
        member.paused = false;
        member.process = Some(Process {
            boot,
            node,
            wal,
            clock,
            inbox: Default::default(),
            scheduled: true,
            wake_at: 0,
            log_jobs: Default::default(),
            storage_jobs: Default::default(),
            incoming: None,
            connected: Default::default(),
            next_request: 0,
            outstanding: BTreeMap::new(),
            streams: BTreeMap::new(),
            outputs_left: None,
            log,
            committed: 0,
            observed: None,
            installing: false,
        });
        self.schedule(1, Event::Process { member: id, boot });
    }

    pub(crate) fn schedule(&mut self, delay: u64, event: Event) {
        self.seq += 1;
        let slot = self.free.pop().unwrap_or(self.events.len());
        if slot == self.events.len() {
            self.events.push(None);
        }
        self.events[slot] = Some(event);
        self.queue.push(Reverse(Scheduled { at: self.now + delay, seq: self.seq, slot }));
    }

    pub(crate) fn fail(&mut self, what: String) {
        if self.violation.is_none() {
            let now = self.now;
            self.trace.line(now, || format!("VIOLATION {what}"));
            self.violation = Some(what);
        }
    }

    pub(crate) fn disk_delay(&mut self, id: MemberId, latency: Latency) -> u64 {
        let factor = if self.slow.contains_key(&id) { 20 } else { 1 };
        (latency.draw(&mut self.rng) * factor).min(5 * SECOND)
    }

    fn run(&mut self) {
        self.run_to(self.options.chaos);
        if self.violation.is_some() {
            return;
        }
        self.calm();
        let end = self.now + LIVENESS;
        if !self.converge(end) {
            return;
        }
        // Leases expire, deadlines pass, watchers catch up.
        self.run_to(self.now + 25 * SECOND);
        let end = self.now + LIVENESS;
        if self.converge(end)
            && let Err(what) = self.final_checks()
        {
            self.fail(what);
        }
        if self.violation.is_none() {
            let search = self.options.seed.is_multiple_of(SEARCHED);
            if let Err(violation) = history::check(&self.history, &self.model.replay, search) {
                self.fail(violation.to_string());
            }
        }
    }

    pub(crate) fn run_to(&mut self, end: u64) {
        while self.violation.is_none() {
            if self.queue.peek().is_none_or(|next| next.0.at > end) {
                self.runtime.advance_to(end);
                self.now = self.runtime.now();
                return;
            }
            let Some(Reverse(next)) = self.queue.pop() else { return };
            self.runtime.advance_to(next.at);
            self.now = self.runtime.now();
            self.stats.events += 1;
            if self.stats.events > EVENTS_MAX {
                return self.fail("too many events: something spins".to_owned());
            }
            self.free.push(next.slot);
            if let Some(event) = self.events[next.slot].take() {
                self.step(event);
            }
        }
    }

    fn converge(&mut self, end: u64) -> bool {
        let mut obstacle = None;
        while self.now < end && self.violation.is_none() {
            self.run_to(self.now + 100 * MS);
            obstacle = convergence::obstacle(&self.statuses(), self.committed.last());
            if obstacle.is_none() {
                return self.violation.is_none();
            }
        }
        if let Some(what) = obstacle {
            self.fail(format!("liveness: {what}"));
        }
        false
    }

    /// The statuses of the members of the present configuration.
    pub(crate) fn statuses(&self) -> BTreeMap<u64, Status> {
        let running = self.members.values().filter(|member| !member.removed);
        running.filter_map(|member| Some((member.id, member.process.as_ref()?.node.status()))).collect()
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Process { member, boot } => self.turn(member, boot, false),
            Event::Wake { member, boot } => self.turn(member, boot, true),
            Event::Feed { member, boot, input } => self.feed(member, boot, input),
            Event::Deliver { from, to, message } => {
                let boot = self.members.get(&to).and_then(|member| member.process.as_ref()).map(|p| p.boot);
                if let Some(boot) = boot {
                    self.feed(to, boot, Input::Peer { from, message });
                }
            }
            Event::LogDone { member, boot } => self.log_done(member, boot),
            Event::StorageDone { member, boot } => self.storage_done(member, boot),
            Event::Snapshot { from, boot, to, header, view } => {
                self.snapshot_arrived(from, boot, to, header, &view);
            }
            Event::ReadDone { member, boot, request, task } => {
                let alive = self.members.get(&member).and_then(|member| member.process.as_ref());
                if alive.is_some_and(|process| process.boot == boot) {
                    match task.run() {
                        Ok(result) => self.answer(member, request, result),
                        Err(fatal) => self.fail(format!("{member:x} cannot read: {fatal}")),
                    }
                }
            }
            Event::ClientNext { client } => self.client_next(client),
            Event::ClientTimeout { client, number } => self.client_done(client, number),
            Event::WatchOpen { watcher } => self.watch_open(watcher),
            Event::WatchAsk { watcher } => self.watch_ask(watcher),
            Event::Fault => self.fault(),
            Event::Heal { fault } => self.network.heal(fault),
            Event::Resume { member } => self.resume(member),
            Event::Restart { member } => self.start(member),
            Event::Stop { member, boot } => self.stop(member, boot),
            Event::Fast { member } => {
                self.slow.remove(&member);
            }
            Event::Operate => self.operate(),
            Event::Reconcile => {
                self.reconcile();
                self.schedule(500 * MS, Event::Reconcile);
            }
        }
    }

    /// Checks what a member is about to do, and what it says of itself, against all others.
    pub(crate) fn observe(&mut self, id: MemberId, outputs: &[Output]) -> Result<(), String> {
        let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else {
            return Ok(());
        };
        let status = process.node.progress();
        for output in outputs {
            let Output::Append { append, .. } = output else {
                process.installing |= *output == Output::InstallSnapshot;
                continue;
            };
            process.installing &= append.log_start.is_none();
            committed_immutable::appends(id, process.committed, append, &self.committed)?;
            let leads = status.role == Role::Leader;
            for entry in &append.entries {
                let own = append.entries.iter().find(|before| before.index + 1 == entry.index);
                let before = own.or_else(|| process.log.get(entry.index - 1)).map(|before| before.term);
                // A single voter may use a term again if it was lost before anybody heard of it.
                if self.options.members > 1 {
                    self.matching.appended(entry, before)?;
                }
                if leads && entry.term == status.term && !entry.data.is_empty() {
                    let command = cairn_core::command::Command::decode(&entry.data)?;
                    if matches!(command.op, CommandOp::LeaseRevoke { .. }) {
                        self.leases.decided(self.now, (entry.index, entry.term));
                    }
                }
            }
            process.log.append(append);
        }
        let process = &*process;
        if status.role == Role::Leader && self.election.leads(id, status.term)? {
            leader_completeness::elected(id, status.term, &process.log, &self.committed)?;
        }
        if process.installing {
            return self.observe_applied(id, status.applied);
        }
        let log = &process.log;
        let leads = (status.role == Role::Leader).then_some(status.term);
        self.own_term.committed(id, leads, status.committed, log)?;
        let news = self.committed.advance(id, process.committed, status.committed, log)?;
        for entry in news {
            let Some(command) = self.model.apply(&entry)? else { continue };
            let internal = command.id.seq >= INTERNAL_ID;
            self.linearizability.committed(command.id)?;
            let place = (entry.index, entry.term);
            lease::committed(&mut self.leases, self.now, place, &command.op, internal)
                .map_err(|violation| violation.to_string())?;
            if matches!(command.op, CommandOp::Member(_)) {
                self.stats.membership += 1;
            }
            let now = self.now;
            self.trace.note(&[4, entry.index, entry.term]);
            self.trace.line(now, || {
                format!(
                    "{:16} committed {}.{} {:?} {:?}",
                    "", entry.term, entry.index, command.id, command.op
                )
            });
        }
        if let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) {
            process.committed = process.committed.max(status.committed);
        }
        self.observe_applied(id, status.applied)
    }

    /// The apply streams of all members are equal, and equal to the model's.
    fn observe_applied(&mut self, id: MemberId, applied: u64) -> Result<(), String> {
        let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else {
            return Ok(());
        };
        if process.observed == Some(applied) {
            return Ok(());
        }
        process.observed = Some(applied);
        let status = process.node.status();
        let Some(expected) = self.model.at(status.applied) else {
            return if status.applied <= self.committed.last() {
                Ok(())
            } else {
                Err(format!("{id:x} has applied {}, which is not committed", status.applied))
            };
        };
        let found = (status.revision, status.compact_revision, status.leases);
        if found != (expected.revision, expected.compact, expected.leases) {
            return Err(format!(
                "apply: {id:x} is {found:?} at index {}, expected {expected:?}",
                status.applied
            ));
        }
        let members = status.members.iter().map(|member| (member.id, member.is_learner)).collect::<Vec<_>>();
        let known = self.configurations.entry(status.applied).or_insert_with(|| members.clone());
        if *known != members {
            return Err(format!("apply: at {} {id:x} has {members:x?}, others {known:x?}", status.applied));
        }
        Ok(())
    }
}
