//! The whole cluster in one thread: the heap of events, the members, the clients and the checkers.
//!
//! **Invariant:** nothing here depends on anything but the options, so a seed always runs the same.
//! A run stops at the first violation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cairn_checkers::Operation;
use cairn_checkers::lease::Leases;
use cairn_core::cluster::Cluster as Membership;
use cairn_core::node::{Status, bootstrap_batch};
use cairn_core::rng::Rng;
use cairn_core::types::MemberId;
use cairn_core::wal::HardState;

use crate::checker::linearizability::Linearizability;
use crate::client::{Client, Watcher};
use crate::coverage::{Coverage, Doing};
use crate::driver::Member;
use crate::invariants::election_safety::ElectionSafety;
use crate::invariants::log_matching::LogMatching;
use crate::invariants::own_term_commit::OwnTermCommit;
use crate::invariants::state_machine_safety::Committed;
use crate::model::Model;
use crate::network::Network;
use crate::options::{Latency, MS, Options, SECOND};
use crate::queue::{Event, Queue};
use crate::runtime::Runtime;
use crate::trace::Trace;
use crate::workload::script;

/// Events in a run; more mean that something spins.
const EVENTS_MAX: u64 = 20_000_000;

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
    pub coverage: Coverage,
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
    queue: Queue,
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
    /// How many faults the seed has drawn, and how many were aimed.
    pub(crate) faults_drawn: u64,
    pub(crate) faults_aimed: u64,
    /// How often a rare state was to be brought about.
    pub(crate) provoked: u64,
    /// The rare state that a fault waits for, and since when.
    pub(crate) target: Option<(Doing, u64)>,
    pub(crate) boots: u64,
    /// Disks that are slow by a factor or stuck until a time.
    pub(crate) slow_disks: BTreeMap<MemberId, (u64, u64)>,
    pub(crate) slow_cpus: BTreeSet<MemberId>,
    /// When the operator last replaced a damaged member.
    pub(crate) mended: u64,
    /// Where the log last changed the membership.
    pub(crate) changed: u64,
    /// When a fault was last aimed.
    pub(crate) aimed: u64,
    pub(crate) coverage: Coverage,
    pub(crate) reported: BTreeMap<(MemberId, u64), u64>,
    pub(crate) chaotic: bool,
    pub(crate) trace: Trace,
    pub(crate) stats: Stats,
    pub(crate) violation: Option<String>,
    pub(crate) model: Model,
    pub(crate) linearizability: Linearizability,
    pub(crate) leases: Leases,
    pub(crate) granted: Vec<i64>,
    pub(crate) committed: Committed,
    pub(crate) election: ElectionSafety,
    pub(crate) matching: LogMatching,
    pub(crate) own_term: OwnTermCommit,
    /// What members say of the membership at each index.
    pub(crate) configurations: BTreeMap<u64, Vec<(u64, bool)>>,
    pub(crate) answers: BTreeMap<u64, crate::history::Answer>,
    /// What clients with a script did.
    pub(crate) scripts: script::Record,
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
            coverage: cluster.coverage(),
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
            queue: Queue::default(),
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
            faults_drawn: 0,
            faults_aimed: 0,
            provoked: 0,
            target: None,
            boots: 0,
            slow_disks: BTreeMap::new(),
            slow_cpus: BTreeSet::new(),
            mended: 0,
            changed: 0,
            aimed: 0,
            coverage: Coverage::default(),
            reported: BTreeMap::new(),
            chaotic: true,
            trace: Trace::new(options.verbose, options.recording.clone()),
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
            scripts: script::Record::default(),
            history: Vec::new(),
            options,
        };
        for member in membership.members() {
            let hard_state = HardState { term: start.term, vote: 0, commit: start.index };
            cluster.create(member.id, member.name.clone(), &batch, start, hard_state);
        }
        cluster.start_clients();
        let first = cluster.options.fault_interval;
        cluster.schedule(first.min(3600 * SECOND), Event::Fault);
        cluster.schedule(500 * MS, Event::Reconcile);
        if cluster.options.rare_states {
            cluster.schedule(SECOND, Event::Provoke);
        }
        if cluster.options.membership {
            cluster.schedule(3 * SECOND, Event::Operate);
        }
        cluster
    }

    pub(crate) fn schedule(&mut self, delay: u64, event: Event) {
        self.queue.push(self.now + delay, event);
    }

    pub(crate) fn fail(&mut self, what: String) {
        if self.violation.is_none() {
            let now = self.now;
            self.trace.line(now, || format!("VIOLATION {what}"));
            self.violation = Some(what);
        }
    }

    pub(crate) fn disk_delay(&mut self, id: MemberId, latency: Latency) -> u64 {
        let (factor, until) = self.slow_disks.get(&id).copied().unwrap_or((1, 0));
        let drawn = latency.draw(&mut self.rng);
        if factor == u64::MAX {
            until.saturating_sub(self.now) + drawn
        } else {
            (drawn * factor).min(5 * SECOND)
        }
    }

    /// What was reached, on all disks too.
    fn coverage(&self) -> Coverage {
        let mut coverage = self.coverage.clone();
        for member in self.members.values() {
            coverage.merge(&member.disk.coverage());
        }
        coverage
    }

    pub(crate) fn run_to(&mut self, end: u64) {
        while self.violation.is_none() {
            if self.queue.next_at().is_none_or(|at| at > end) {
                self.runtime.advance_to(end);
                self.now = self.runtime.now();
                return;
            }
            let Some((at, event)) = self.queue.pop() else { return };
            self.runtime.advance_to(at);
            self.now = self.runtime.now();
            self.stats.events += 1;
            if self.stats.events > EVENTS_MAX {
                return self.fail("too many events: something spins".to_owned());
            }
            self.step(event);
        }
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
            Event::Deliver { from, to, epoch, message } => self.deliver(from, to, epoch, message),
            Event::Drip { from, to } => self.drip(from, to),
            Event::LogDone { member, boot } => self.log_done(member, boot),
            Event::StorageDone { member, boot } => self.storage_done(member, boot),
            Event::Snapshot { from, boot, to, header, view } => {
                self.snapshot_arrived(from, boot, to, header, &view);
            }
            Event::ReadDone { member, boot, request, task } => self.read_done(member, boot, request, &task),
            Event::ClientNext { client } => self.client_next(client),
            Event::ClientTimeout { client, number } => self.client_done(client, number, None),
            Event::WatchOpen { watcher } => self.watch_open(watcher),
            Event::WatchAsk { watcher } => self.watch_ask(watcher),
            Event::Fault => self.fault(),
            Event::Heal { fault } => self.heal(fault),
            Event::Aimed { member } => self.aimed(member),
            Event::Provoke => self.provoke(),
            Event::Cut { member, fault } => self.isolate(member, fault),
            Event::Strobe { member, left } => self.strobe(member, left),
            Event::Storm { member, left } => self.storm(member, left),
            Event::Space { member } => {
                if let Some(member) = self.members.get(&member) {
                    member.disk.leave_space(None);
                }
            }
            Event::Resume { member } => self.resume(member),
            Event::Restart { member } => self.start(member),
            Event::Stop { member, boot } => self.stop(member, boot),
            Event::Fast { member } => {
                self.slow_disks.remove(&member);
                self.slow_cpus.remove(&member);
            }
            Event::Operate => self.operate(),
            Event::Reconcile => {
                self.reconcile();
                self.schedule(500 * MS, Event::Reconcile);
            }
        }
    }
}
