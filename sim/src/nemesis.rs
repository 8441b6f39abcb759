//! Faults of processes, links, disks and clocks: which and how often is the seed's choice. Some are aimed
//! (`aim.rs`).

use cairn_checkers::page::Kind as Mark;
use cairn_core::api::Request;
use cairn_core::node::Role;
use cairn_core::rng::Rng;
use cairn_core::types::MemberId;

use crate::cluster::Cluster;
use crate::coverage::Doing;
use crate::fault::Fault;
use crate::network::Trouble;
use crate::options::{MS, SECOND};
use crate::queue::Event;

impl Cluster {
    pub(crate) fn any(&mut self) -> Option<MemberId> {
        let running = self.running();
        (!running.is_empty()).then(|| running[self.nemesis.below(running.len() as u64) as usize])
    }

    pub(crate) fn leader(&self) -> Option<MemberId> {
        self.members
            .values()
            .filter(|member| !member.removed)
            .find(|member| member.process.as_ref().is_some_and(|p| p.node.progress().role == Role::Leader))
            .map(|member| member.id)
    }

    /// Some fault begins.
    pub(crate) fn fault(&mut self) {
        if !self.chaotic {
            return;
        }
        let name = self.faults_drawn;
        self.faults_drawn += 1;
        self.as_fault(name, |cluster| {
            let next = 1 + cluster.nemesis.below(2 * cluster.options.fault_interval);
            cluster.schedule(next, Event::Fault);
            let Some(one) = cluster.any() else { return };
            // Faults of the leader are the more interesting ones.
            let leader = cluster.leader();
            let one = leader.filter(|_| cluster.nemesis.chance(1, 3)).unwrap_or(one);
            let Some(kind) = cluster.options.faults.choose(&mut cluster.nemesis) else { return };
            cluster.strike(name, kind, one);
        });
    }

    /// Everything that a fault draws comes from its name, so that others are the same without it.
    pub(crate) fn as_fault(&mut self, name: u64, begin: impl FnOnce(&mut Self)) {
        let own = Rng::derive(self.options.seed, &[0xfa17, name]);
        let others = std::mem::replace(&mut self.nemesis, own);
        begin(self);
        self.nemesis = others;
    }

    /// A fault begins; `one` is its target where it has one.
    pub(crate) fn strike(&mut self, name: u64, kind: Fault, one: MemberId) {
        // A fault that was aimed in the last moment comes too late.
        if !self.chaotic || !self.options.kept.fault(name) {
            return;
        }
        if kind.damages() && !self.may_damage(one) {
            return;
        }
        let lasting = if self.nemesis.chance(1, 6) { 12 * SECOND } else { 3 * SECOND };
        let lasting = 10 * MS + self.nemesis.below(lasting);
        self.next_fault += 1;
        let doing = self.doing(one);
        let now = self.now;
        self.trace.note(&[7, kind as u64, one, lasting]);
        self.trace.line(now, || format!("{one:16x} FAULT {kind:?} for {} ms", lasting / MS));
        self.trace.record(|recorded| {
            recorded.mark(now, one, Mark::Fault, lasting, format!("{kind:?}, number {name}"));
            recorded.faults.push(name);
        });
        if self.begin(kind, one, lasting) {
            self.coverage.strike(kind, &doing);
        }
    }

    fn begin(&mut self, kind: Fault, one: MemberId, lasting: u64) -> bool {
        match kind {
            Fault::Crash
            | Fault::CrashInDrain
            | Fault::CrashAtSync
            | Fault::CrashAll
            | Fault::RestartStorm => {
                self.begin_crash(kind, one);
            }
            Fault::Pause => {
                if let Some(member) = self.members.get_mut(&one) {
                    member.paused = true;
                }
                self.schedule(lasting, Event::Resume { member: one });
            }
            Fault::SlowCpu => {
                self.slow_cpus.insert(one);
                self.schedule(lasting, Event::Fast { member: one });
            }
            Fault::ClockStep => {
                let by = self.nemesis.below(5 * SECOND);
                self.step_clock(one, by);
            }
            Fault::ClockStrobe => {
                let times = 1 + self.nemesis.below(200);
                self.strobe(one, times);
            }
            Fault::MoveLeader => {
                let Some(leader) = self.leader() else { return false };
                self.ask(leader, Request::MoveLeader { target: one }, None);
                self.note_doing(leader, Doing::TransferringLeadership);
            }
            Fault::SlowDisk | Fault::StuckDisk => {
                let factor = if kind == Fault::SlowDisk { 20 } else { u64::MAX };
                let until = if kind == Fault::SlowDisk { 0 } else { self.now + lasting };
                self.slow_disks.insert(one, (factor, until));
                self.schedule(lasting, Event::Fast { member: one });
            }
            Fault::FullDisk => {
                let left = self.nemesis.below(200_000);
                let Some(member) = self.members.get(&one) else { return false };
                member.disk.leave_space(Some(left));
                self.schedule(lasting, Event::Space { member: one });
            }
            Fault::SyncFails | Fault::ReadMisdirected => {
                let Some(member) = self.members.get(&one) else { return false };
                if kind == Fault::SyncFails {
                    member.disk.fail_syncs(1);
                } else {
                    member.disk.misdirect_reads(1);
                }
            }
            kind if kind.damages() => return self.damage(kind, one),
            kind => self.begin_network(kind, one, lasting),
        }
        true
    }

    fn begin_crash(&mut self, kind: Fault, one: MemberId) {
        let changes = self.nemesis.below(12);
        let Some(member) = self.members.get_mut(&one) else { return };
        match (kind, &mut member.process) {
            (Fault::CrashInDrain, Some(process)) => process.outputs_left = Some(changes),
            (Fault::CrashAtSync, Some(_)) => member.disk.end_after(Some(changes)),
            (Fault::CrashAll, _) => {
                for id in self.members.keys().copied().collect::<Vec<_>>() {
                    self.crash(id);
                }
            }
            (Fault::RestartStorm, _) => self.storm(one, 3 + changes),
            _ => self.crash(one),
        }
    }

    /// One process dies again and again, soon after each start.
    pub(crate) fn storm(&mut self, member: MemberId, left: u64) {
        if !self.chaotic || left == 0 {
            return;
        }
        self.crash(member);
        let delay = 2 * MS + self.nemesis.below(20 * MS);
        self.schedule(delay, Event::Restart { member });
        let next = delay + self.nemesis.below(500 * MS);
        self.schedule(next, Event::Storm { member, left: left - 1 });
    }

    fn begin_network(&mut self, kind: Fault, one: MemberId, lasting: u64) {
        let fault = self.next_fault;
        let ids: Vec<MemberId> =
            self.members.values().filter(|member| !member.removed).map(|member| member.id).collect();
        let other = ids[self.nemesis.below(ids.len() as u64) as usize];
        let trouble = match kind {
            Fault::Clog => Trouble::Clog,
            Fault::HalfOpen => Trouble::HalfOpen,
            Fault::Throttle => Trouble::Throttle(1_000 << self.nemesis.below(8)),
            _ => Trouble::Cut,
        };
        match kind {
            Fault::Reset => return self.reset(one, other),
            Fault::Swizzle => {
                // Links are stopped one after another and come back in another order.
                for id in &ids {
                    if self.nemesis.chance(1, 2) {
                        self.next_fault += 1;
                        let fault = self.next_fault;
                        let (cut, heal) = (self.nemesis.below(SECOND), self.nemesis.below(lasting));
                        self.schedule(cut, Event::Cut { member: *id, fault });
                        self.schedule(SECOND + heal, Event::Heal { fault });
                    }
                }
                return;
            }
            Fault::IsolateLeader | Fault::IsolateOne => {
                let target = self.leader().filter(|_| kind == Fault::IsolateLeader).unwrap_or(one);
                self.isolate(target, fault);
            }
            Fault::NonTransitive => {
                // Two that reach everybody else do not reach each other.
                self.network.trouble(one, other, fault, trouble);
                self.network.trouble(other, one, fault, trouble);
            }
            _ => {
                let side: Vec<bool> = ids.iter().map(|_| self.nemesis.chance(1, 2)).collect();
                for (from, left) in ids.iter().zip(&side) {
                    for (to, right) in ids.iter().zip(&side) {
                        if left != right && (kind != Fault::OneWay && kind != Fault::HalfOpen || *left) {
                            self.network.trouble(*from, *to, fault, trouble);
                        }
                    }
                }
            }
        }
        self.schedule(lasting, Event::Heal { fault });
    }

    /// Nobody reaches a member, and it reaches nobody.
    pub(crate) fn isolate(&mut self, target: MemberId, fault: u64) {
        if !self.chaotic {
            return;
        }
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            self.network.trouble(id, target, fault, Trouble::Cut);
            self.network.trouble(target, id, fault, Trouble::Cut);
        }
    }

    fn step_clock(&mut self, id: MemberId, by: u64) {
        self.leases.stepped += by;
        if let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) {
            process.clock.step(by);
        }
        self.schedule_wakeup(id);
    }

    /// A clock jumps again and again by up to 200 ms.
    pub(crate) fn strobe(&mut self, id: MemberId, left: u64) {
        if !self.chaotic || left == 0 {
            return;
        }
        let by = self.nemesis.below(200 * MS);
        self.step_clock(id, by);
        let delay = MS + self.nemesis.below(20 * MS);
        self.schedule(delay, Event::Strobe { member: id, left: left - 1 });
    }

    /// The faults end: everything runs, every link carries, every disk has space.
    pub(crate) fn calm(&mut self) {
        self.chaotic = false;
        let now = self.now;
        self.trace.line(now, || "the faults end".to_owned());
        self.heal_all();
        self.slow_disks.clear();
        self.slow_cpus.clear();
        for latency in [
            &mut self.options.network,
            &mut self.options.append,
            &mut self.options.flush,
            &mut self.options.transfer,
            &mut self.options.process,
            &mut self.options.feedback,
        ] {
            latency.slow = 0;
        }
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            if self.members.get(&id).is_some_and(|member| member.disk.is_dead()) {
                self.crash(id);
            }
            if let Some(member) = self.members.get_mut(&id) {
                member.disk.leave_space(None);
                if let Some(process) = &mut member.process {
                    process.outputs_left = None;
                    member.disk.calm();
                }
            }
            self.resume(id);
            self.start(id);
            // What a stuck disk was to finish later it finishes now.
            if let Some(boot) = self.members.get(&id).and_then(|m| m.process.as_ref()).map(|p| p.boot) {
                self.schedule(MS, Event::LogDone { member: id, boot });
                self.schedule(MS, Event::StorageDone { member: id, boot });
            }
        }
    }
}
