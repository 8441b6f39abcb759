//! Faults that are aimed: a state that is rare is struck in the moment in which it begins, and a run that
//! is about rare states brings them about.
//!
//! **Invariant:** which kind strikes which state is drawn from the seed alone. What other seeds have
//! reached never counts, or a seed would not be the same in every swarm.

use cairn_core::api::Request;
use cairn_core::node::{Input, Role};
use cairn_core::rng::Rng;
use cairn_core::types::MemberId;

use crate::cluster::Cluster;
use crate::coverage::Doing;
use crate::disk::Engine;
use crate::fault::Fault;
use crate::network::Trouble;
use crate::options::{MS, SECOND};
use crate::queue::Event;

/// How long after its beginning a state that takes no time counts as one that a fault can strike.
const RECENTLY: u64 = 300 * MS;
/// How often a fault strikes a rare state at once: once in so many.
const AIMED: u64 = 3;
/// Where the names of faults that are aimed, and of what brings a state about, begin.
const AIMED_NAMES: u64 = 1_000_000;
const PROVOKED_NAMES: u64 = 2_000_000;
/// How often the next fault would be aimed at most.
const AIMED_PAUSE: u64 = 100 * MS;
/// How often a rare state is brought about, at the least, and how long it is waited for until another is.
const PROVOKED: u64 = 300 * MS;
const WAITED: u64 = 3 * SECOND;
/// Once in so many, a proposal that comes twice and late is brought about instead.
const LATE: u64 = 4;

/// The states that a run about rare states brings about, more often those that are seldom met.
const RARE: [Doing; 9] = [
    Doing::Defragmenting,
    Doing::SendingSnapshot,
    Doing::SendingSnapshot,
    Doing::ReceivingSnapshot,
    Doing::InstallingSnapshot,
    Doing::InstallingSnapshot,
    Doing::TransferringLeadership,
    Doing::ExpiringLease,
    Doing::NoSpace,
];
/// How often another kind is drawn where there is no image to roll a disk back to.
const DRAWS: usize = 4;

impl Cluster {
    /// A fault that is aimed at a member begins, of a kind that seldom meets the state it is in.
    pub(crate) fn aimed(&mut self, one: MemberId) {
        self.faults_aimed += 1;
        let name = AIMED_NAMES + self.faults_aimed;
        self.as_fault(name, |cluster| {
            let usual = !cluster.options.rare_states && cluster.nemesis.chance(1, 2);
            let older = cluster.members.get(&one).is_some_and(|member| member.older.is_some());
            let older = older && cluster.options.engine != Engine::Memory;
            let faults = &cluster.options.faults;
            let rng = &mut cluster.nemesis;
            let kind = if usual {
                faults.choose(rng)
            } else {
                (0..DRAWS)
                    .map_while(|_| faults.choose_aimed(rng))
                    .find(|kind| older || *kind != Fault::Rollback)
            };
            if let Some(kind) = kind {
                cluster.strike(name, kind, one);
            }
        });
    }

    /// A member begins something that faults seldom meet.
    pub(crate) fn note_doing(&mut self, id: MemberId, doing: Doing) {
        let now = self.now;
        let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else {
            return;
        };
        process.recently.insert(doing, now);
        let rested = now >= self.aimed + AIMED_PAUSE && self.options.fault_interval < 60 * SECOND;
        let mut rng = Rng::derive(self.options.seed, &[0xa13d, self.faults_aimed, id, doing as u64]);
        let wanted = self.target.is_some_and(|(target, _)| target == doing);
        // Damage to one member is enough for a while: it is kept for the state that it waits for.
        let saved = self.options.damage && self.options.rare_states;
        if self.chaotic && rested && (wanted || !saved && rng.chance(1, AIMED)) {
            self.aimed = now;
            self.target = self.target.filter(|_| !wanted);
            let delay = if wanted || rng.chance(1, 2) { 1 } else { rng.below(RECENTLY) };
            self.schedule(delay, Event::Aimed { member: id });
        }
    }

    /// Brings a rare state about. Where damage is to meet it, all members must be whole.
    pub(crate) fn provoke(&mut self) {
        if !self.chaotic {
            return;
        }
        self.provoked += 1;
        let name = PROVOKED_NAMES + self.provoked;
        self.as_fault(name, |cluster| {
            let next = PROVOKED + cluster.nemesis.below(700 * MS);
            cluster.schedule(next, Event::Provoke);
            let Some(one) = cluster.any() else { return };
            let now = cluster.now;
            let other = RARE[cluster.nemesis.below(RARE.len() as u64) as usize];
            let waited = cluster.target.filter(|(_, since)| now < since + WAITED);
            let (target, since) = waited.unwrap_or((other, now));
            cluster.target = Some((target, since));
            if !cluster.options.kept.fault(name) {
                return;
            }
            let late = cluster.nemesis.chance(1, LATE) && cluster.propose_late(one);
            if !late && cluster.options.damage && !cluster.may_damage(one) {
                return;
            }
            cluster.trace.record(|recorded| recorded.faults.push(name));
            if late {
                return;
            }
            match target {
                Doing::Defragmenting => {
                    cluster.ask(one, Request::Defragment, None);
                }
                Doing::TransferringLeadership => {
                    let Some(leader) = cluster.leader() else { return };
                    cluster.ask(leader, Request::MoveLeader { target: one }, None);
                    cluster.note_doing(leader, Doing::TransferringLeadership);
                }
                Doing::ExpiringLease => {
                    cluster.ask(one, Request::LeaseGrant { id: 0, ttl: 1 }, None);
                }
                Doing::NoSpace => {
                    let Some(member) = cluster.members.get(&one) else { return };
                    member.disk.leave_space(Some(0));
                    cluster.schedule(2 * SECOND, Event::Space { member: one });
                }
                _ => {
                    // Who misses entries that the others have let go of needs a snapshot.
                    cluster.next_fault += 1;
                    let fault = cluster.next_fault;
                    let lasting = 200 * MS + cluster.nemesis.below(SECOND);
                    cluster.isolate(one, fault);
                    cluster.schedule(lasting, Event::Heal { fault });
                }
            }
        });
    }

    /// A follower's proposal comes to the leader twice, the second time when it has resigned. What the
    /// follower is sent comes late: first what the old leader said, then the rest. False where it cannot be,
    /// for want of a third member or because the network is in trouble already.
    fn propose_late(&mut self, follower: MemberId) -> bool {
        let running = self.running();
        let Some(leader) = self.leader().filter(|leader| *leader != follower) else { return false };
        let process = |id| self.members.get(&id).and_then(|member| member.process.as_ref());
        let follows = process(follower).is_some_and(|process| process.node.status().leader == leader);
        let open = |id: &MemberId| self.network.open(*id, leader) && self.network.open(leader, *id);
        let Some(boot) = process(leader).map(|process| process.boot) else { return false };
        if running.len() < 3 || !follows || !running.iter().all(open) {
            return false;
        }
        let far = if self.options.far_links { 4 } else { 1 };
        let travels = 10 * MS + 2 * far * self.options.network.max + self.options.append.max;
        let [echo, old, new] = [1, 2, 3].map(|number| self.next_fault + number);
        self.next_fault = new;
        self.network.trouble(follower, leader, echo, Trouble::Echo);
        for id in running {
            self.network.trouble(id, follower, if id == leader { old } else { new }, Trouble::Clog);
        }
        self.ask(follower, Request::LeaseGrant { id: 0, ttl: 1 }, None);
        self.schedule(2 * travels, Event::Feed { member: leader, boot, input: Input::Resign });
        for (after, fault) in [(4, echo), (5, old), (6, new)] {
            self.schedule(after * travels, Event::Heal { fault });
        }
        true
    }

    /// What a member is in the middle of.
    pub(crate) fn doing(&self, id: MemberId) -> Vec<Doing> {
        let Some(process) = self.members.get(&id).and_then(|member| member.process.as_ref()) else {
            return Vec::new();
        };
        let status = process.node.status();
        let mut doing = vec![match status.role {
            Role::Leader => Doing::Leading,
            Role::Follower => Doing::Following,
            Role::Candidate | Role::PreCandidate => Doing::Campaigning,
            Role::Learner => Doing::Learning,
        }];
        let mut add = |is: bool, what: Doing| doing.extend(is.then_some(what));
        add(self.now < process.started + RECENTLY, Doing::Starting);
        add(!process.log_jobs.is_empty(), Doing::Appending);
        add(process.flushing(), Doing::Flushing);
        add(process.compacting(), Doing::Compacting);
        add(process.defragmenting(), Doing::Defragmenting);
        add(process.sending > 0, Doing::SendingSnapshot);
        add(process.incoming.is_some(), Doing::ReceivingSnapshot);
        add(process.installing, Doing::InstallingSnapshot);
        add(!status.alarms.is_empty(), Doing::NoSpace);
        add(status.slow_watchers > 0, Doing::CatchingUpWatcher);
        add(process.reading > 0, Doing::Reading);
        for (what, at) in &process.recently {
            add(self.now < at + RECENTLY, *what);
        }
        doing.sort_unstable();
        doing.dedup();
        doing
    }
}
