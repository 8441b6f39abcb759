//! Faults of processes, links, disks and clocks, and the operator who changes the membership. Which
//! and how often is the seed's choice.

use cairn_core::api::Request;
use cairn_core::backend::mem::MemBackend;
use cairn_core::node::{Input, Role};
use cairn_core::types::MemberId;
use cairn_core::wal::{HardState, LogStart};

use crate::cluster::{Cluster, Event};
use crate::disk::{LogJob, StorageJob, crash_log};
use crate::options::{MS, SECOND};
use crate::workload::choose;
use crate::workload::member::{Step, step};

impl Cluster {
    fn any(&mut self) -> Option<MemberId> {
        let running: Vec<MemberId> =
            self.members.values().filter(|member| member.process.is_some()).map(|member| member.id).collect();
        if running.is_empty() {
            None
        } else {
            Some(running[self.nemesis.below(running.len() as u64) as usize])
        }
    }

    fn leader(&self) -> Option<MemberId> {
        self.statuses().values().find(|status| status.role == Role::Leader).map(|status| status.member_id)
    }

    /// Some fault begins.
    pub(crate) fn fault(&mut self) {
        if !self.chaotic {
            return;
        }
        let next = 1 + self.nemesis.below(2 * self.options.fault_interval);
        self.schedule(next, Event::Fault);
        let f = self.options.faults;
        let weights = [
            f.crash,
            f.crash_inside,
            f.crash_all,
            f.pause,
            f.partition,
            f.one_way,
            f.isolate_leader,
            f.isolate_one,
            f.clock_step,
            f.move_leader,
            f.slow_disk,
        ];
        let ids: Vec<MemberId> = self.members.keys().copied().collect();
        let Some(one) = self.any() else { return };
        let leader = self.leader();
        // Faults of the leader are the more interesting ones.
        let one = leader.filter(|_| self.nemesis.chance(1, 3)).unwrap_or(one);
        let lasting = if self.nemesis.chance(1, 6) { 12 * SECOND } else { 3 * SECOND };
        let lasting = 10 * MS + self.nemesis.below(lasting);
        self.next_fault += 1;
        let fault = self.next_fault;
        let kind = choose(&mut self.nemesis, &weights);
        let now = self.now;
        self.trace.note(&[7, kind as u64, one, lasting]);
        self.trace.line(now, || format!("{one:16x} FAULT {} for {} ms", NAMES[kind], lasting / MS));
        match kind {
            0 => self.crash(one),
            1 => {
                let outputs = self.nemesis.below(12);
                if let Some(process) = self.members.get_mut(&one).and_then(|member| member.process.as_mut()) {
                    process.outputs_left = Some(outputs);
                }
            }
            2 => {
                for id in &ids {
                    self.crash(*id);
                }
            }
            3 => {
                if let Some(member) = self.members.get_mut(&one) {
                    member.paused = true;
                }
                self.schedule(lasting, Event::Resume { member: one });
            }
            4 | 5 => {
                let side: Vec<bool> = ids.iter().map(|_| self.nemesis.chance(1, 2)).collect();
                for (from, left) in ids.iter().zip(&side) {
                    for (to, right) in ids.iter().zip(&side) {
                        if left != right && (kind == 4 || *left) {
                            self.network.cut(*from, *to, fault);
                        }
                    }
                }
                self.schedule(lasting, Event::Heal { fault });
            }
            6 | 7 => {
                let target = if kind == 6 { leader.unwrap_or(one) } else { one };
                for id in &ids {
                    self.network.cut(*id, target, fault);
                    self.network.cut(target, *id, fault);
                }
                self.schedule(lasting, Event::Heal { fault });
            }
            8 => {
                let by = self.nemesis.below(5 * SECOND);
                self.leases.stepped += by;
                if let Some(process) = self.members.get_mut(&one).and_then(|member| member.process.as_mut()) {
                    process.clock.step(by);
                }
                self.schedule_wakeup(one);
            }
            9 => {
                if let Some(leader) = leader {
                    self.ask(leader, Request::MoveLeader { target: one }, None);
                }
            }
            _ => {
                self.slow.insert(one, fault);
                self.schedule(lasting, Event::Fast { member: one });
            }
        }
    }

    /// A process dies, with or without its machine.
    pub(crate) fn crash(&mut self, id: MemberId) {
        let power = self.nemesis.below(100) < self.options.power_loss;
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(mut process) = member.process.take() else { return };
        self.stats.crashes += 1;
        let now = self.now;
        self.trace.line(now, || format!("{id:16x} crashes{}", if power { " and loses power" } else { "" }));
        let jobs: Vec<LogJob> = process.log_jobs.drain(..).collect();
        crash_log(&member.disk, &mut process.wal, jobs.into_iter(), &mut self.nemesis);
        if power {
            self.runtime.power_off(&member.machine);
        }
        if let Some(StorageJob::Flush { batch }) = process.storage_jobs.pop_front()
            && self.nemesis.chance(1, 2)
        {
            use cairn_core::backend::Backend;
            member.backend.commit(&batch).expect("memory never fails");
        } else if let Some(StorageJob::Install) = process.storage_jobs.front()
            && self.nemesis.chance(1, 2)
            && let Some(incoming) = process.incoming.take()
        {
            member.backend.replace(incoming);
        }
        member.paused = false;
        self.connections_break(id);
        for op in process.outstanding.into_values() {
            if let Some(client) = op.client {
                self.schedule(MS, Event::ClientTimeout { client, number: op.number });
            }
        }
        for watcher in process.streams.into_values() {
            self.schedule(50 * MS, Event::WatchOpen { watcher });
        }
        let down = if self.nemesis.chance(1, 8) { 10 * SECOND } else { 2 * SECOND };
        let delay = MS + self.nemesis.below(down);
        if self.members.get(&id).is_some_and(|member| !member.removed) {
            self.schedule(delay, Event::Restart { member: id });
        }
    }

    /// The kernel closes what a process that ended had open; hosts that a link is cut to do not hear.
    fn connections_break(&mut self, id: MemberId) {
        let told: Vec<(MemberId, u64)> = self
            .members
            .values()
            .filter(|other| self.network.open(id, other.id) && self.network.open(other.id, id))
            .filter_map(|other| Some((other.id, other.process.as_ref()?.boot)))
            .collect();
        for (other, boot) in told {
            let delay = self.options.network.draw(&mut self.network.rng);
            self.schedule(delay, Event::Feed { member: other, boot, input: Input::PeerLost { peer: id } });
        }
    }

    /// A removed member's process ends.
    pub(crate) fn stop(&mut self, id: MemberId, boot: u64) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.removed = true;
        if member.process.as_ref().is_some_and(|process| process.boot == boot) {
            self.crash(id);
        }
    }

    pub(crate) fn resume(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if !std::mem::take(&mut member.paused) {
            return;
        }
        if let Some(process) = &mut member.process {
            let boot = process.boot;
            process.scheduled = true;
            self.schedule(1, Event::Process { member: id, boot });
        }
    }

    /// The faults end: everything runs and every link carries.
    pub(crate) fn calm(&mut self) {
        self.chaotic = false;
        let now = self.now;
        self.trace.line(now, || "the faults end".to_owned());
        self.network.heal_all();
        self.slow.clear();
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
            if let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) {
                process.outputs_left = None;
            }
            self.resume(id);
            self.start(id);
        }
    }

    /// Starts members that were added, stops those that were removed.
    pub(crate) fn reconcile(&mut self) {
        let statuses = self.statuses();
        let Some(newest) = statuses.values().max_by_key(|status| status.applied) else { return };
        for id in &newest.removed_members {
            if let Some(member) = self.members.get(id).filter(|member| !member.removed)
                && let Some(boot) = member.process.as_ref().map(|process| process.boot)
                && self.nemesis.chance(1, 8)
            {
                self.stop(*id, boot);
            } else if let Some(member) = self.members.get_mut(id).filter(|member| member.process.is_none()) {
                member.removed = true;
            }
        }
        for member in &newest.members {
            if !self.members.contains_key(&member.id) && (!self.chaotic || self.nemesis.chance(1, 2)) {
                let name = format!("joined{}", self.members.len());
                let (start, hard_state) = (LogStart::default(), HardState::default());
                self.create(member.id, name, MemBackend::new(), start, hard_state);
            }
        }
    }

    /// The operator's next step.
    pub(crate) fn operate(&mut self) {
        if !self.chaotic {
            return;
        }
        let delay = 300 * MS + self.nemesis.below(4 * SECOND);
        self.schedule(delay, Event::Operate);
        let statuses = self.statuses();
        let Some(newest) = statuses.values().max_by_key(|status| status.applied) else { return };
        let voters: Vec<u64> = newest.members.iter().filter(|m| !m.is_learner).map(|m| m.id).collect();
        let learners: Vec<u64> = newest.members.iter().filter(|m| m.is_learner).map(|m| m.id).collect();
        self.next_fault += 1;
        let wanted = self.options.members;
        if let Step::Ask(request) = step(&mut self.nemesis, &voters, &learners, self.next_fault, wanted)
            && let Some(id) = self.any()
        {
            self.ask(id, request, None);
        }
    }
}

const NAMES: [&str; 11] = [
    "crash",
    "crash inside a drain",
    "crash of all",
    "pause",
    "partition",
    "one-way partition",
    "isolate the leader",
    "isolate one",
    "clock step",
    "move leader",
    "slow disk",
];
