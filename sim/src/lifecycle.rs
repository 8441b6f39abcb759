//! The life of a member's process: created, started on what its disk holds, stopped by itself or by a
//! crash, started again.
//!
//! **Invariant:** a process stops by itself only for an error that its disk gave it, and names what
//! failed; what it finds at its start is what it had promised.

use cairn_checkers::page::Kind;
use cairn_core::backend::Batch;
use cairn_core::backend::mem::MemBackend;
use cairn_core::mvcc::{Store as Mvcc, StoreOptions};
use cairn_core::node::{Input, Node, Recovered};
use cairn_core::rng::Rng;
use cairn_core::types::MemberId;
use cairn_core::wal::{Append, HardState, LogStart, Metadata, TailReport, Wal, WalOptions};

use crate::checker::durability::Durable;
use crate::cluster::Cluster;
use crate::coverage::Point;
use crate::disk::{LogJob, SimDisk, Store, WalDir, crash_log, crash_store};
use crate::driver::{Clock, Member, Process};
use crate::invariants::LogMirror;
use crate::options::{MS, SECOND};
use crate::queue::Event;

/// How an error names what it is about.
const NAMES: [&str; 5] = ["write-ahead log: ", "the state database", "snap/db", "the backend", "the log "];

impl Cluster {
    pub(crate) fn wal_options(&self) -> WalOptions {
        WalOptions { segment_bytes: self.options.segment_bytes, fsync: true }
    }

    /// A member's first start.
    pub(crate) fn create(
        &mut self,
        id: MemberId,
        name: String,
        batch: &Batch,
        start: LogStart,
        hard_state: HardState,
    ) {
        let disk = SimDisk::new(Rng::derive(self.options.seed, &[0xd15c, id]));
        disk.garble(self.options.garble);
        let power = disk.clone();
        let machine = self.runtime.create_machine(&name, Box::new(move || power.power_off()));
        let metadata = Metadata { cluster_id: self.membership.id(), member_id: id };
        let first = Append { log_start: Some(start), entries: Vec::new(), hard_state: Some(hard_state) };
        let generation = disk.begin();
        let memory = MemBackend::new();
        if let Err(fatal) = Store::create(self.options.engine, &disk, generation, &memory, batch) {
            return self.fail(format!("{id:x}: {fatal}"));
        }
        let wal = Wal::create(WalDir::new(disk.clone(), generation), metadata, &first, self.wal_options());
        if let Err(error) = wal {
            return self.fail(format!("{id:x}: {error}"));
        }
        let mut durable = Durable::default();
        durable.appended(&first);
        let member = Member {
            id,
            name,
            machine,
            disk,
            memory,
            durable,
            process: None,
            paused: false,
            removed: false,
            damaged: None,
            broken: None,
            older: None,
        };
        self.trace.record(|recorded| recorded.member(&member));
        self.members.insert(id, member);
        self.start(id);
    }

    /// Starts a member's process on what its disk holds.
    pub(crate) fn start(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.process.is_some() || member.removed || member.broken.is_some() {
            return;
        }
        self.boots += 1;
        if let Err(what) = self.try_start(id) {
            self.refused(id, &what);
        }
    }

    /// # Errors
    /// What the process says before it gives up.
    fn try_start(&mut self, id: MemberId) -> Result<(), String> {
        let (wal_options, engine, boot, now) =
            (self.wal_options(), self.options.engine, self.boots, self.now);
        let keep = self.options.damage && (self.nemesis.chance(1, 4) || self.options.rare_states);
        let rate = 1_000_000 - self.options.drift + self.nemesis.below(2 * self.options.drift + 1);
        let clock = Clock::new(now, self.nemesis.below(1000 * SECOND), rate);
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        if keep {
            member.older = Some((self.now, member.disk.duplicate()));
        }
        let generation = member.disk.begin();
        let directory = WalDir::new(member.disk.clone(), generation);
        let (wal, found) = Wal::open(directory, wal_options).map_err(|error| error.to_string())?;
        if let Err(what) = member.durable.recovered(id, &found) {
            self.fail(what);
            return Ok(());
        }
        let store = Store::open(engine, &member.disk, generation, &member.memory).map_err(|fatal| fatal.0)?;
        let config = self.options.config(id, self.membership.id(), boot, &member.name);
        let mut log = LogMirror::new(found.log_start.index, found.entries.clone());
        let torn = matches!(found.tail, TailReport::Torn { .. });
        self.coverage.add(Point::TornTailCut, u64::from(torn));
        self.coverage.add(Point::Replayed, u64::from(!found.entries.is_empty()));
        self.coverage.add(Point::ClockDrifts, u64::from(rate != 1_000_000));
        let damaged: Vec<u64> = found.damaged.iter().map(|damaged| damaged.id.index).collect();
        let recovered = Recovered::from(found);
        self.trace.line(now, || {
            let (start, state) = (recovered.log_start, recovered.hard_state);
            format!("{id:16x} starts (boot {boot}): log after {start:?} to {}, {state:?}", log.last())
        });
        self.trace
            .record(|recorded| recorded.mark(now, id, Kind::Up, boot, format!("follower, boot {boot}")));
        let flushed = Mvcc::open(store.backend(), StoreOptions::default()).map_err(|fatal| fatal.0)?;
        let node =
            Node::start(config, recovered, store.backend(), clock.local(now)).map_err(|fatal| fatal.0)?;
        let status = node.status();
        if node.is_repairing() {
            // It has no log yet but the one that it found, which begins after damage that is applied.
            let needless = damaged.iter().rfind(|index| **index <= status.applied);
            log.keep(needless.copied().unwrap_or(log.start()) + 1, log.last());
        } else if status.first - 1 > log.start() {
            // A snapshot had been installed and the log not been told, or damage ended at what is applied.
            log.keep(status.first, status.last);
        }
        member.paused = false;
        member.process = Some(Process {
            boot,
            node,
            wal,
            store,
            clock,
            started: now,
            inbox: Default::default(),
            scheduled: true,
            wake_at: 0,
            log_jobs: Default::default(),
            storage_jobs: Default::default(),
            reopen: false,
            incoming: None,
            connected: Default::default(),
            next_request: 0,
            outstanding: Default::default(),
            streams: Default::default(),
            outputs_left: None,
            log,
            committed: 0,
            observed: None,
            installing: false,
            sending: 0,
            reading: 0,
            nowhere: false,
            recently: Default::default(),
        });
        self.schedule(1, Event::Process { member: id, boot });
        if let Err(what) = self.observe_start(id, &flushed.view(), status.applied)? {
            self.fail(what);
        }
        Ok(())
    }

    /// A process stops by itself and says why.
    pub(crate) fn stopped(&mut self, id: MemberId, what: &str) {
        let Some(member) = self.members.get(&id) else { return };
        if !member.disk.is_dead() {
            self.judge(id, what);
        }
        self.crash(id);
    }

    /// A process does not start and says why.
    fn refused(&mut self, id: MemberId, what: &str) {
        self.judge(id, what);
        let Some(member) = self.members.get(&id) else { return };
        member.disk.end();
        if member.broken.is_none() {
            self.schedule(SECOND, Event::Restart { member: id });
        }
    }

    /// Whether a process may stop for this: its disk gave it that error, or its data is damaged.
    fn judge(&mut self, id: MemberId, what: &str) {
        let now = self.now;
        self.trace.line(now, || format!("{id:16x} STOPS {what}"));
        let Some(member) = self.members.get_mut(&id) else { return };
        let errors = member.disk.errors();
        // What is said counts: an input/output error while the disk happens to be full is none of space.
        let full = what.contains("no space left");
        let caused = if full { errors.full } else { errors.io || member.damaged.is_some() };
        if !caused {
            return self.fail(format!("{id:x} stops without a cause: {what}"));
        }
        if !NAMES.iter().any(|name| what.contains(name)) {
            return self.fail(format!("{id:x} does not name what failed: {what}"));
        }
        if !full && !errors.io || what.contains("cannot be read") && member.damaged.is_some() {
            self.coverage.hit(Point::DamageFound);
            member.broken = Some(what.to_owned());
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
        self.trace.record(|recorded| recorded.mark(now, id, Kind::Down, u64::from(power), "crash"));
        let jobs: Vec<LogJob> = process.log_jobs.drain(..).collect();
        let disk = &member.disk;
        if !disk.is_dead() {
            crash_log(disk, &mut process.wal, jobs.into_iter(), &mut self.nemesis);
            disk.end_after(None);
            let (job, incoming) = (process.storage_jobs.pop_front(), process.incoming.take());
            crash_store(disk, &mut process.store, job, incoming, &mut self.nemesis);
        }
        disk.end();
        if power {
            self.coverage.hit(Point::PowerLost);
            self.runtime.power_off(&member.machine);
        }
        member.paused = false;
        let (outstanding, streams) =
            (std::mem::take(&mut process.outstanding), std::mem::take(&mut process.streams));
        drop(process);
        self.forget_backlog(id);
        self.connections_break(id);
        for op in outstanding.into_values() {
            if let Some(client) = op.client {
                self.schedule(MS, Event::ClientTimeout { client, number: op.number });
            }
        }
        for watcher in streams.into_values() {
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
        let running = member.process.as_ref().map(|process| process.boot);
        if running.is_some_and(|running| running != boot) {
            // It has restarted since, perhaps without the knowledge: the operator stops it (seed 40635).
            return;
        }
        member.removed = true;
        if running.is_some() {
            self.crash(id);
        }
    }

    /// A paused process goes on.
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

    /// The disk was full when a flush was due: the node hears of it, and the flush is tried again.
    pub(crate) fn wait_for_space(&mut self, id: MemberId, boot: u64) {
        self.schedule(SECOND, Event::StorageDone { member: id, boot });
        self.feed_later(id, boot, Input::StorageFull);
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::wal::Damaged;

    use super::*;
    use crate::disk::{Engine, Folder};
    use crate::fault::Fault;
    use crate::options::Options;
    use crate::runtime::Runtime;

    /// The entries that a start on a disk would miss.
    fn damaged(cluster: &Cluster, disk: &SimDisk) -> Vec<Damaged> {
        let copy = disk.duplicate();
        let generation = copy.begin();
        let found = Wal::open(WalDir::new(copy, generation), cluster.wal_options());
        found.map(|(_, found)| found.damaged).unwrap_or_default()
    }

    /// Damages more entries of a log, as long as others can repair it.
    fn rot_more(cluster: &Cluster, id: MemberId) {
        let disk = &cluster.members[&id].disk;
        for _ in 0..100 {
            let copy = disk.duplicate();
            copy.damage(Fault::BitRot, Folder::Wal);
            if damaged(cluster, &copy).len() > damaged(cluster, disk).len() {
                disk.damage(Fault::BitRot, Folder::Wal);
            } else {
                disk.draw();
            }
        }
    }

    /// Sim seed 40116 of 60 s: the copy of a log that was being repaired was emptied, and its member's
    /// leadership looked like one without committed entries.
    #[test]
    fn the_copy_of_a_log_that_is_repaired_stays_whole() {
        let mut repaired = 0;
        for seed in 1..17 {
            Runtime::run(seed, |runtime| {
                let options =
                    Options { damage: true, segment_bytes: 64 << 10, ..Options::steady(seed, 8, 50) };
                let mut cluster = Cluster::new(options, runtime);
                cluster.run_to(5 * SECOND);
                let id = cluster.running()[0];
                if !cluster.damage(Fault::BitRot, id) {
                    return;
                }
                let committed = cluster.members[&id].process.as_ref().map_or(0, |process| process.committed);
                cluster.crash(id);
                cluster.start(id);
                if let Some(process) = &cluster.members[&id].process
                    && process.node.is_repairing()
                {
                    assert!(process.log.last() >= committed, "{} of {committed}", process.log.last());
                    repaired += 1;
                }
                cluster.run();
                assert_eq!(cluster.violation, None, "seed {seed}");
            });
        }
        assert!(repaired > 2, "only {repaired} logs had to be repaired: this proves nothing");
    }

    /// While a member is down, the others forget the entry that it lost.
    #[test]
    fn a_state_takes_the_place_of_damage_that_nobody_else_has_in_its_log() {
        let mut repaired = 0;
        for seed in 1..10 {
            Runtime::run(seed, |runtime| {
                let options = Options {
                    damage: true,
                    engine: Engine::Memory,
                    snapshot_count: 20,
                    catchup_entries: 5,
                    ..Options::steady(seed, 8, 50)
                };
                let mut cluster = Cluster::new(options, runtime);
                cluster.run_to(5 * SECOND);
                let id = cluster.running()[0];
                if !cluster.damage(Fault::BitRot, id) {
                    return;
                }
                cluster.crash(id);
                rot_more(&cluster, id);
                let waits = |cluster: &Cluster| {
                    let process = cluster.members[&id].process.as_ref();
                    process.is_none_or(|process| process.node.is_repairing())
                };
                let before = cluster.stats.snapshots;
                while waits(&cluster) && cluster.now < 8 * SECOND {
                    cluster.run_to(cluster.now + MS);
                }
                repaired += cluster.stats.snapshots - before;
                cluster.run();
                assert_eq!(cluster.violation, None, "seed {seed}");
            });
        }
        assert!(repaired > 2, "only {repaired} logs were repaired in this way: this proves nothing");
    }

    /// Sim seed 61005 of 60 s: damage on both sides of what was applied. The node begins after the one
    /// and repairs the other; the copy of its log began before both.
    #[test]
    fn the_copy_of_a_log_that_is_repaired_begins_where_the_log_does() {
        let mut both = 0;
        for seed in 1..10 {
            Runtime::run(seed, |runtime| {
                let options = Options {
                    damage: true,
                    engine: Engine::Memory,
                    flush_entries_max: 120,
                    ..Options::steady(seed, 8, 50)
                };
                let mut cluster = Cluster::new(options, runtime);
                cluster.run_to(5 * SECOND);
                let id = cluster.running()[0];
                if !cluster.damage(Fault::BitRot, id) {
                    return;
                }
                cluster.crash(id);
                rot_more(&cluster, id);
                let first = damaged(&cluster, &cluster.members[&id].disk);
                let first = first.first().map_or(u64::MAX, |damaged| damaged.id.index);
                cluster.start(id);
                if let Some(process) = &cluster.members[&id].process
                    && process.node.is_repairing()
                    && first <= process.node.status().applied
                {
                    both += 1;
                    cluster.run();
                    assert_eq!(cluster.violation, None, "seed {seed}");
                }
            });
        }
        assert!(both > 2, "only {both} logs were damaged on both sides: this proves nothing");
    }
}
