//! One member's process, and the loop around its node: the same as the server's, with the threads
//! for the log and the backend replaced by events. It decides nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use cairn_core::api::ResponseBody;
use cairn_core::backend::Batch;
use cairn_core::backend::mem::MemBackend;
use cairn_core::mvcc::StoreView;
use cairn_core::node::{Input, Node, NodeEvent, Output, ReadTask};
use cairn_core::time::Time;
use cairn_core::types::{MemberId, Revision};
use cairn_core::wal::Wal;

use crate::checker::durability::Durable;
use crate::cluster::Cluster;
use crate::coverage::{Doing, Point};
use crate::disk::{Folder, Incoming, LogJob, SimDisk, StorageJob, Store, WalDir, perform_log};
use crate::fault::Fault;
use crate::history::Op;
use crate::invariants::LogMirror;
use crate::options::SECOND;
use crate::queue::Event;
use crate::runtime::Machine;

/// A process's clock: how it maps the true time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: u64,
    offset: u64,
    /// Millionths of the true speed.
    rate: u64,
}

impl Clock {
    /// A clock that shows `offset` now.
    pub fn new(base: u64, offset: u64, rate: u64) -> Self {
        Self { base, offset, rate }
    }

    /// What it shows.
    pub fn local(&self, now: u64) -> Time {
        let passed = u128::from(now - self.base) * u128::from(self.rate) / 1_000_000;
        Time(self.offset + passed as u64)
    }

    /// When it will show `local`.
    pub fn when(&self, local: Time) -> u64 {
        let ahead = u128::from(local.0.saturating_sub(self.offset));
        self.base
            .saturating_add(u64::try_from(ahead * 1_000_000 / u128::from(self.rate)).unwrap_or(u64::MAX / 2))
            + 1
    }

    /// Sets it forward.
    pub fn step(&mut self, by: u64) {
        self.offset += by;
    }
}

/// A running process.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Process {
    pub boot: u64,
    pub node: Node,
    pub wal: Wal<WalDir>,
    pub store: Store,
    pub clock: Clock,
    pub started: u64,
    pub inbox: VecDeque<Input>,
    pub scheduled: bool,
    pub wake_at: u64,
    pub log_jobs: VecDeque<LogJob>,
    pub storage_jobs: VecDeque<StorageJob>,
    /// The engine gave its database up for want of space and is to be opened anew.
    pub reopen: bool,
    pub incoming: Option<Incoming>,
    pub connected: BTreeSet<MemberId>,
    pub next_request: u64,
    pub outstanding: BTreeMap<u64, Op>,
    pub streams: BTreeMap<u64, usize>,
    /// The process dies when it has performed that many more outputs.
    pub outputs_left: Option<u64>,
    pub log: LogMirror,
    pub committed: u64,
    /// The applied index at which its state was last compared.
    pub observed: Option<u64>,
    /// A snapshot is being installed: the log is told later.
    pub installing: bool,
    /// Snapshots on their way to others, and reads on other threads.
    pub sending: u64,
    pub reading: u64,
    /// It has said that nobody has an entry that its log misses.
    pub nowhere: bool,
    /// When it last began something that takes no time.
    pub recently: BTreeMap<Doing, u64>,
}

impl Process {
    fn at_work(&self, is: impl Fn(&StorageJob) -> bool) -> bool {
        self.storage_jobs.front().is_some_and(is)
    }

    /// Whether the engine's thread is at a flush.
    pub fn flushing(&self) -> bool {
        self.at_work(|job| matches!(job, StorageJob::Flush { .. }))
    }

    /// Whether it is at a compaction.
    pub fn compacting(&self) -> bool {
        self.at_work(|job| matches!(job, StorageJob::Compact { .. }))
    }

    /// Whether it is at a defragmentation.
    pub fn defragmenting(&self) -> bool {
        self.at_work(|job| matches!(job, StorageJob::Defragment))
    }
}

/// What was done to a member's data.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Damage {
    pub at: u64,
    pub fault: Fault,
    pub folder: Folder,
    pub what: String,
}

/// A member: what outlives its process, and the process.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Member {
    pub id: MemberId,
    pub name: String,
    pub machine: Machine,
    pub disk: SimDisk,
    /// The rows of an engine in memory.
    pub memory: MemBackend,
    pub durable: Durable,
    pub process: Option<Process>,
    pub paused: bool,
    pub removed: bool,
    pub damaged: Option<Damage>,
    /// Why it cannot be started; the operator replaces it.
    pub broken: Option<String>,
    /// What its disk held at an earlier start.
    pub older: Option<(u64, SimDisk)>,
}

impl Cluster {
    /// Hands an input to a process now, or when it is no longer paused.
    pub(crate) fn feed(&mut self, id: MemberId, boot: u64, input: Input) {
        let slow = if self.slow_cpus.contains(&id) { 100 } else { 1 };
        let delay = self.options.process.draw(&mut self.rng) * slow;
        let Some(member) = self.members.get_mut(&id) else { return };
        let paused = member.paused;
        let Some(process) = member.process.as_mut().filter(|process| process.boot == boot) else { return };
        process.inbox.push_back(input);
        if !process.scheduled && !paused {
            process.scheduled = true;
            self.schedule(delay, Event::Process { member: id, boot });
        }
    }

    pub(crate) fn feed_later(&mut self, id: MemberId, boot: u64, input: Input) {
        let delay = self.options.feedback.draw(&mut self.rng);
        self.schedule(delay, Event::Feed { member: id, boot, input });
    }

    /// One turn of a process's loop: all inputs, then all outputs.
    pub(crate) fn turn(&mut self, id: MemberId, boot: u64, wakeup: bool) {
        let now = self.now;
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.paused {
            if let Some(process) = &mut member.process {
                process.scheduled = false;
            }
            return;
        }
        let Some(process) = member.process.as_mut().filter(|process| process.boot == boot) else { return };
        if wakeup && process.wake_at > now {
            return;
        }
        process.scheduled = process.scheduled && wakeup;
        let local = process.clock.local(now);
        self.trace.note(&[1, now, id, local.0, process.inbox.len() as u64]);
        let mut inputs = 0;
        while let Some(input) = process.inbox.pop_front() {
            process.node.handle(local, input);
            inputs += 1;
        }
        if inputs == 0 {
            process.node.handle(local, Input::Wakeup);
        }
        let mut outputs = Vec::new();
        while let Some(output) = process.node.poll() {
            outputs.push(output);
        }
        if let Err(what) = self.observe(id, &outputs) {
            return self.fail(what);
        }
        for output in outputs {
            let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else {
                return;
            };
            match &mut process.outputs_left {
                Some(0) => return self.crash(id),
                Some(left) => *left -= 1,
                None => {}
            }
            self.perform(id, boot, output);
            if self.violation.is_some() {
                return;
            }
        }
        self.schedule_wakeup(id);
    }

    pub(crate) fn schedule_wakeup(&mut self, id: MemberId) {
        let now = self.now;
        let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else {
            return;
        };
        let Some(wakeup) = process.node.next_wakeup() else { return };
        let at = process.clock.when(wakeup.at).max(now + 20_000);
        let boot = process.boot;
        if at != process.wake_at {
            process.wake_at = at;
            self.schedule(at - now, Event::Wake { member: id, boot });
        }
    }

    fn perform(&mut self, id: MemberId, boot: u64, output: Output) {
        self.trace.note(&[2, id, kind(&output)]);
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(process) = member.process.as_mut() else { return };
        match output {
            Output::Append { seq, append } => {
                self.trace.note(&[seq, append.entries.len() as u64]);
                let now = self.now;
                self.trace.line(now, || {
                    let ids: Vec<String> = append
                        .entries
                        .iter()
                        .map(|entry| format!("{}.{}", entry.term, entry.index))
                        .collect();
                    format!("{id:16x} append {seq}: {:?} {ids:?} {:?}", append.log_start, append.hard_state)
                });
                self.log_job(id, LogJob::Append { seq, append });
            }
            Output::Repair { seq, entries } => self.log_job(id, LogJob::Repair { seq, entries }),
            Output::ReleaseLog { index } => self.log_job(id, LogJob::Release { index }),
            Output::Send { to, message } => self.send(id, to, message),
            Output::Reply { id: request, result } => {
                if let Ok(response) = &result
                    && let ResponseBody::Snapshot { view } = response.body
                {
                    process.node.take_view(view);
                }
                self.answer(id, request, result);
            }
            Output::StartRead { id: request } => {
                let Some(task) = process.node.take_read(request) else {
                    return self.fail(format!("{id:x} started read {request} without a task"));
                };
                process.reading += 1;
                let delay = self.disk_delay(id, self.options.flush);
                self.schedule(delay, Event::ReadDone { member: id, boot, request, task: Box::new(task) });
            }
            Output::Watch { stream, batch } => {
                for response in batch.responses() {
                    self.watch_response(id, boot, stream, &response);
                }
            }
            Output::CloseWatch { stream } => self.watch_closed(id, stream),
            Output::Flush { flush } => {
                let batch = flush.into_batch();
                let now = self.now;
                self.trace.line(now, || format!("{id:16x} flush of {} rows", batch.changes.len()));
                self.storage_job(id, StorageJob::Flush { batch });
            }
            Output::Compact { from, to } => {
                let now = self.now;
                self.trace.line(now, || format!("{id:16x} compaction from {from} to {to}"));
                self.note_doing(id, Doing::Compacting);
                self.storage_job(id, StorageJob::Compact { cursor: Revision::new(from, 0), to });
            }
            Output::Defragment => {
                self.note_doing(id, Doing::Defragmenting);
                self.storage_job(id, StorageJob::Defragment);
            }
            Output::InstallSnapshot => {
                self.note_doing(id, Doing::InstallingSnapshot);
                self.storage_job(id, StorageJob::Install);
            }
            Output::DiscardSnapshot => self.storage_job(id, StorageJob::Discard),
            Output::SendSnapshot { to, view, header } => {
                let Some(view) = process.node.take_view(view) else {
                    return self.fail(format!("{id:x} sends a snapshot without a view"));
                };
                process.sending += 1;
                let delay = self.options.transfer.draw(&mut self.rng);
                self.note_doing(id, Doing::SendingSnapshot);
                self.schedule(delay, Event::Snapshot { from: id, boot, to, header, view: Box::new(view) });
            }
            Output::SetPeer { id: peer, .. } => {
                if self.network.open(id, peer) {
                    process.connected.insert(peer);
                    self.feed_later(id, boot, Input::PeerConnected { peer });
                }
            }
            Output::RemovePeer { id: peer } => {
                process.connected.remove(&peer);
            }
            Output::Event(event) => {
                let now = self.now;
                self.trace.line(now, || format!("{id:16x} {event:?}"));
                self.trace.record(|recorded| recorded.event(now, id, &event));
                self.note_event(id, boot, &event);
            }
            Output::Fatal(fatal) => self.stopped(id, &fatal.0),
        }
    }

    fn note_event(&mut self, id: MemberId, boot: u64, event: &NodeEvent) {
        match event {
            NodeEvent::RemovedSelf => {
                let delay = self.rng.below(2 * SECOND);
                self.schedule(delay, Event::Stop { member: id, boot });
            }
            NodeEvent::SnapshotInstalled { .. } => {
                self.stats.snapshots += 1;
                self.coverage.hit(Point::SnapshotInstalled);
            }
            NodeEvent::LeaseExpired { .. } => {
                self.stats.expired += 1;
                self.note_doing(id, Doing::ExpiringLease);
            }
            NodeEvent::BecameCandidate { .. } => self.note_doing(id, Doing::Campaigning),
            NodeEvent::AlarmRaised { .. } => self.note_doing(id, Doing::NoSpace),
            NodeEvent::CompactionFinished { .. } => self.stats.compactions += 1,
            NodeEvent::LogEntryNowhere(_) => {
                let process = self.members.get_mut(&id).and_then(|member| member.process.as_mut());
                if let Some(process) = process {
                    process.nowhere = true;
                }
            }
            _ => {}
        }
    }

    /// A read on another thread has come to its end.
    pub(crate) fn read_done(&mut self, id: MemberId, boot: u64, request: u64, task: &ReadTask) {
        let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else {
            return;
        };
        if process.boot != boot {
            return;
        }
        process.reading -= 1;
        match task.run() {
            Ok(result) => self.answer(id, request, result),
            Err(fatal) => self.stopped(id, &fatal.0),
        }
    }

    fn log_job(&mut self, id: MemberId, job: LogJob) {
        let delay = self.disk_delay(id, self.options.append);
        let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else {
            return;
        };
        process.log_jobs.push_back(job);
        let boot = process.boot;
        if process.log_jobs.len() == 1 {
            self.schedule(delay, Event::LogDone { member: id, boot });
        }
    }

    fn storage_job(&mut self, id: MemberId, job: StorageJob) {
        let delay = self.disk_delay(id, self.options.flush);
        let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else {
            return;
        };
        process.storage_jobs.push_back(job);
        let boot = process.boot;
        if process.storage_jobs.len() == 1 {
            self.schedule(delay, Event::StorageDone { member: id, boot });
        }
    }

    /// The log's thread has finished its job, and what had gathered behind it sometimes too.
    pub(crate) fn log_done(&mut self, id: MemberId, boot: u64) {
        let together = if self.rng.chance(1, 3) { 16 } else { 1 };
        let delay = self.disk_delay(id, self.options.append);
        let idle = self.rng.below(16);
        let mut done = Vec::new();
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(process) = member.process.as_mut().filter(|process| process.boot == boot) else { return };
        for _ in 0..together {
            let Some(job) = process.log_jobs.pop_front() else { break };
            match perform_log(&mut process.wal, &job) {
                Ok(input) => done.extend(input),
                Err(error) => return self.stopped(id, &error.to_string()),
            }
            if let LogJob::Append { append, .. } = &job {
                member.durable.appended(append);
            }
        }
        if process.log_jobs.is_empty() && idle < 2 {
            process.log_jobs.push_back(if idle == 0 { LogJob::Seal } else { LogJob::Prepare });
        }
        if !process.log_jobs.is_empty() {
            self.schedule(delay, Event::LogDone { member: id, boot });
        }
        for input in done {
            self.feed_later(id, boot, input);
        }
    }

    /// The backend's thread has finished its job, or a step of it.
    pub(crate) fn storage_done(&mut self, id: MemberId, boot: u64) {
        let compacting =
            self.members.get(&id).and_then(|member| member.process.as_ref()).is_some_and(|process| {
                matches!(process.storage_jobs.front(), Some(StorageJob::Compact { .. }))
            });
        let latency = if compacting { self.options.append } else { self.options.flush };
        let delay = self.disk_delay(id, latency);
        let (rows, engine) = (self.options.compact_rows, self.options.engine);
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(process) = member.process.as_mut().filter(|process| process.boot == boot) else { return };
        if std::mem::take(&mut process.reopen)
            && let Err(fatal) = process.store.reopen(engine)
        {
            return self.storage_failed(id, boot, fatal.0);
        }
        let Some(job) = process.storage_jobs.pop_front() else { return };
        let store = &mut process.store;
        let done = match job {
            StorageJob::Flush { batch } => match store.commit(&batch) {
                Ok(()) => Ok(Some(Input::Flushed { size: store.size() })),
                Err(fatal) => Err((Some(StorageJob::Flush { batch }), fatal)),
            },
            StorageJob::Compact { cursor, to } => match store.compact(cursor, to, rows) {
                Ok(Some(cursor)) => {
                    // A flush comes between two batches.
                    let flush = matches!(process.storage_jobs.front(), Some(StorageJob::Flush { .. }));
                    let rest = StorageJob::Compact { cursor, to };
                    process.storage_jobs.insert(usize::from(flush), rest);
                    Ok(None)
                }
                Ok(None) => Ok(Some(Input::Compacted { to, size: store.size() })),
                Err(fatal) => Err((Some(StorageJob::Compact { cursor, to }), fatal)),
            },
            StorageJob::Defragment => {
                let result = store.defragment().map_err(|fatal| fatal.0);
                Ok(Some(Input::Defragmented { result, size: store.size() }))
            }
            StorageJob::Install => match process.incoming.take() {
                Some(incoming) => match store.install(incoming) {
                    Ok(()) => Ok(Some(Input::SnapshotInstalled { size: store.size() })),
                    Err(fatal) => Err((None, fatal)),
                },
                None => return self.fail(format!("{id:x} installs a snapshot that it does not have")),
            },
            StorageJob::Discard => {
                process.incoming = None;
                store.discard();
                Ok(None)
            }
        };
        let input = match done {
            Ok(input) => input,
            Err((again, fatal)) => {
                if let Some(job) = again {
                    process.storage_jobs.push_front(job);
                }
                return self.storage_failed(id, boot, fatal.0);
            }
        };
        if !process.storage_jobs.is_empty() {
            self.schedule(delay, Event::StorageDone { member: id, boot });
        }
        if let Some(input) = input {
            self.feed_in_order(id, boot, input);
        }
    }

    /// The engine failed: a full disk is waited for, anything else stops the process.
    fn storage_failed(&mut self, id: MemberId, boot: u64, what: String) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let dead = member.disk.is_dead();
        let engine = self.options.engine;
        match &mut member.process {
            Some(process) if what.contains("no space left") && !dead => {
                process.reopen = process.store.reopen(engine).is_err();
                self.wait_for_space(id, boot);
            }
            _ => self.stopped(id, &what),
        }
    }

    /// The backend's reports keep their order.
    fn feed_in_order(&mut self, id: MemberId, boot: u64, input: Input) {
        let delay = self.options.feedback.draw(&mut self.rng);
        let at = (self.now + delay).max(self.reported.get(&(id, boot)).copied().unwrap_or(0));
        self.reported.insert((id, boot), at);
        self.schedule(at - self.now, Event::Feed { member: id, boot, input });
    }

    /// A transfer has come to its end.
    pub(crate) fn snapshot_arrived(
        &mut self,
        from: MemberId,
        boot: u64,
        to: MemberId,
        header: Bytes,
        view: &StoreView,
    ) {
        let open = self.network.open(from, to) && !(self.chaotic && self.network.rng.chance(1, 10));
        let sender = self.members.get_mut(&from).and_then(|member| member.process.as_mut());
        let Some(sender) = sender.filter(|process| process.boot == boot) else { return };
        sender.sending -= 1;
        let receiver = self.members.get_mut(&to).filter(|member| !member.paused);
        let receiver = receiver.and_then(|member| member.process.as_mut());
        let mut ok = false;
        if let Some(process) = receiver.filter(|process| open && process.incoming.is_none()) {
            let rows: Result<Vec<_>, _> = view.rows(None).collect();
            let rows = match rows {
                Ok(rows) => rows,
                Err(fatal) => return self.stopped(from, &fatal.0),
            };
            let changes = rows.into_iter().map(|(table, key, value)| (table, key, Some(value))).collect();
            // Without space for it, it has not arrived.
            match process.store.receive(self.options.engine, &Batch { changes }) {
                Ok(incoming) => {
                    process.incoming = Some(incoming);
                    ok = true;
                    let boot = process.boot;
                    self.feed(to, boot, Input::SnapshotReceived { from, header });
                    self.note_doing(to, Doing::ReceivingSnapshot);
                }
                Err(fatal) => {
                    if self.members.get(&to).is_some_and(|member| member.disk.is_dead()) {
                        self.stopped(to, &fatal.0);
                    }
                }
            }
        }
        self.feed_later(from, boot, Input::SnapshotSent { to, ok });
    }
}

fn kind(output: &Output) -> u64 {
    match output {
        Output::Append { .. } => 0,
        Output::Send { .. } => 1,
        Output::SendSnapshot { .. } => 2,
        Output::Reply { .. } => 3,
        Output::StartRead { .. } => 4,
        Output::Watch { .. } => 5,
        Output::CloseWatch { .. } => 6,
        Output::Flush { .. } => 7,
        Output::Compact { .. } => 8,
        Output::Defragment => 9,
        Output::InstallSnapshot => 10,
        Output::DiscardSnapshot => 11,
        Output::ReleaseLog { .. } => 12,
        Output::SetPeer { .. } => 13,
        Output::RemovePeer { .. } => 14,
        Output::Event(_) => 15,
        Output::Fatal(_) => 16,
        Output::Repair { .. } => 17,
    }
}
