//! Everything that happens because time passes, and the upkeep of storage.
//!
//! Owns the ticks, and asks each part for its own deadline. Spurious wakeups are harmless: every
//! deadline is compared with the time that came with the input.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use raft::GetEntriesContext;

use super::request::Wait;
use super::{AutoCompaction, Config, Node, NodeEvent, Output, Wakeup, WakeupReason, snapshot};
use crate::backend::Size;
use crate::command::{Command, Op};
use crate::planted::{self, Bug};
use crate::raft_log::Keep;
use crate::time::Time;
use crate::types::{Index, LeaseId};

const REVISION_COMPACTION_INTERVAL: Duration = Duration::from_secs(300);
const HOUR: Duration = Duration::from_secs(3600);
/// Unflushed changes are written when nothing new has come for this long.
const IDLE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Timers {
    next_tick: Time,
    /// Whether this leader has taken over the leases.
    leases_promoted: bool,
    compaction: Option<Compactor>,
}

#[derive(Debug)]
struct Compactor {
    mode: AutoCompaction,
    next_sample: Time,
    next_compaction: Time,
    /// Revisions, oldest first, one a sample.
    samples: VecDeque<i64>,
}

/// The storage thread's work: one piece at a time, but for flushes, which a compaction lets in between
/// its batches. What is written meanwhile would gather in memory otherwise.
#[derive(Debug, Default)]
pub(super) struct FlushState {
    in_flight: bool,
    compacting: bool,
    defragmenting: bool,
    pub(super) wanted: bool,
    pub(super) defragment_wanted: bool,
    /// The applied index that the flush in flight covers.
    covers: u64,
    flushed: u64,
    oldest: Option<Time>,
    newest: Time,
    entries_seen: usize,
}

impl FlushState {
    fn takes_flush(&self) -> bool {
        !self.in_flight && !self.defragmenting
    }

    fn rests(&self) -> bool {
        self.takes_flush() && !self.compacting
    }

    pub(super) fn reset(&mut self, flushed: u64) {
        *self = Self { flushed, defragment_wanted: self.defragment_wanted, ..Self::default() };
    }

    pub(super) fn flushed(&self) -> u64 {
        self.flushed
    }
}

impl Timers {
    pub(super) fn new(config: &Config, now: Time) -> Self {
        let compaction = config.auto_compaction.map(|mode| Compactor {
            mode,
            next_sample: now,
            next_compaction: match mode {
                AutoCompaction::Periodic(retention) => now + retention,
                AutoCompaction::Revision(_) => now + REVISION_COMPACTION_INTERVAL,
            },
            samples: VecDeque::new(),
        });
        Self { next_tick: now + config.heartbeat, leases_promoted: false, compaction }
    }

    pub(super) fn lost_leadership(&mut self) {
        self.leases_promoted = false;
    }
}

impl Compactor {
    /// The revision to compact to now, if any.
    fn due(&mut self, now: Time, revision: i64) -> Option<i64> {
        match self.mode {
            AutoCompaction::Revision(keep) => {
                if now < self.next_compaction {
                    return None;
                }
                self.next_compaction = now + REVISION_COMPACTION_INTERVAL;
                Some(revision - keep).filter(|target| *target > 0)
            }
            AutoCompaction::Periodic(retention) => {
                if now < self.next_sample {
                    return None;
                }
                let interval = retention.min(HOUR) / 10;
                self.next_sample = now + interval;
                self.samples.push_back(revision);
                let kept = usize::try_from(retention.as_nanos() / interval.as_nanos().max(1)).unwrap_or(1);
                while self.samples.len() > kept + 1 {
                    self.samples.pop_front();
                }
                if now < self.next_compaction {
                    return None;
                }
                self.next_compaction = now + retention.min(HOUR);
                self.samples.front().copied()
            }
        }
    }

    fn next_deadline(&self) -> Time {
        match self.mode {
            AutoCompaction::Revision(_) => self.next_compaction,
            AutoCompaction::Periodic(_) => self.next_sample,
        }
    }
}

impl Node {
    /// When the node wants to be woken if nothing else happens.
    pub fn next_wakeup(&self) -> Option<Wakeup> {
        if self.failed {
            return None;
        }
        if self.dirty {
            // A slice of work ended without an output that would have brought the driver back.
            return Some(Wakeup { at: self.now, reason: WakeupReason::Watch });
        }
        let flush = self
            .flush
            .oldest
            .map(|oldest| (oldest + self.config.flush_age_max).min(self.flush.newest + IDLE).max(self.now));
        let candidates = [
            (WakeupReason::Tick, Some(self.timers.next_tick)),
            (WakeupReason::Failover, self.next_failover()),
            (WakeupReason::Repair, self.next_repair()),
            (WakeupReason::Deadline, self.requests.next_deadline()),
            (WakeupReason::ReadRetry, self.reads.next_deadline()),
            (WakeupReason::Lease, self.lessor.next_deadline()),
            (WakeupReason::Watch, self.watch.next_deadline()),
            (WakeupReason::Flush, flush.filter(|_| self.flush.takes_flush())),
            (WakeupReason::Publish, (self.leader != 0).then_some(self.publish.due)),
            (WakeupReason::Compaction, self.timers.compaction.as_ref().map(Compactor::next_deadline)),
        ];
        candidates
            .into_iter()
            .filter_map(|(reason, at)| at.map(|at| Wakeup { at, reason }))
            .min_by_key(|wakeup| wakeup.at)
    }

    pub(super) fn advance_time(&mut self) {
        self.tick();
        self.work_failover();
        self.work_repair();
        self.expire_requests();
        self.retry_reads();
        self.publish_attributes();
        self.work_leases();
        self.compact_automatically();
    }

    /// Ticks for the time that has passed. After a pause it is enough to make up one election timeout.
    fn tick(&mut self) {
        let mut ticks = 0;
        while self.timers.next_tick <= self.now && ticks < self.config.election_ticks {
            ticks += 1;
            self.timers.next_tick = self.timers.next_tick + self.config.heartbeat;
            // A campaign looks through the committed entries that are not applied: while a snapshot
            // takes their place, the crate would ask for entries that no longer exist.
            if !self.snapshots.replacing() && self.repair.is_none() {
                self.raw.tick();
                self.spread_election_timeout();
            }
        }
        if self.timers.next_tick <= self.now {
            self.timers.next_tick = self.now + self.config.heartbeat;
        }
        if ticks > 0 {
            self.ask_again();
            self.work_leaving();
        }
    }

    fn work_leases(&mut self) {
        let revokes = planted::on(Bug::OldLeaderRevokes) && self.lessor.is_primary();
        if !self.is_leader() && !revokes {
            return;
        }
        if !self.timers.leases_promoted && self.is_leader() {
            // Only once everything that earlier leaders decided is applied.
            if !self.raw.raft.apply_to_current_term() {
                return;
            }
            self.timers.leases_promoted = true;
            self.lessor.promote(self.now);
        }
        let due = self.lessor.due(self.now);
        // What expired is the lease of this id that is applied here. When a revocation of it is in the
        // log already, a new lease of the same id may be too, and would be revoked in its place. What
        // follows in the log begins with this proposal, so what is not in the log now cannot come
        // before it.
        let ending = if due.is_empty() { BTreeSet::new() } else { self.leases_ending() };
        for id in due.into_iter().filter(|id| !ending.contains(id)) {
            self.event(NodeEvent::LeaseExpired { id });
            self.propose_internal(Op::LeaseRevoke { id });
        }
        let checkpoints = self.lessor.checkpoints_due(self.now);
        if !checkpoints.is_empty() {
            self.propose_internal(Op::LeaseCheckpoint(checkpoints));
        }
    }

    /// The leases that entries revoke which are in the log and not applied.
    fn leases_ending(&self) -> BTreeSet<LeaseId> {
        let log = &self.raw.raft.raft_log;
        let entries = log.entries(self.applied + 1, None, GetEntriesContext::empty(false));
        let entries = entries.expect("what is not applied is in memory");
        let revoked = |data: &[u8]| match Command::decode(data).ok()?.op {
            Op::LeaseRevoke { id } => Some(id),
            _ => None,
        };
        entries.iter().filter_map(|entry| revoked(&entry.data)).collect()
    }

    fn compact_automatically(&mut self) {
        let revision = self.store.revision();
        let Some(compactor) = &mut self.timers.compaction else { return };
        let Some(target) = compactor.due(self.now, revision) else { return };
        if self.is_leader() && target > self.store.compact_revision() {
            self.propose_internal(Op::Compact { revision: target });
        }
    }

    /// What follows from newly applied entries.
    pub(super) fn after_apply(&mut self) {
        if self.failed {
            return;
        }
        // A lease is renewed by a read: the lessor must have taken over before the first one runs.
        self.work_leases();
        self.run_confirmed_reads();
        self.run_rested_hashes();
        let keep = Keep {
            entries: self.config.catchup_entries,
            slack: self.config.snapshot_count,
            bytes: self.config.log_bytes_max,
            everywhere_bytes: self.config.log_shared_bytes_max,
            everywhere: self.everywhere(),
        };
        if self.raw.mut_store().compact(&keep) {
            let index = self.raw.store().first();
            self.event(NodeEvent::LogCompacted { index });
        }
    }

    /// The last entry that no member lacks, as far as this one knows. A follower's entries are for the
    /// case that it leads next: others then lack as much as it keeps of what it thinks they have.
    fn everywhere(&self) -> Index {
        if !self.is_leader() {
            return self.applied;
        }
        self.raw.raft.prs().iter().map(|(_, progress)| progress.matched).min().unwrap_or(0)
    }

    pub(super) fn work_watch(&mut self) {
        if self.failed {
            return;
        }
        let view = self.store.view();
        match self.watch.work(self.now, &view) {
            Ok(more) => self.dirty |= more,
            Err(fatal) => return self.fail(fatal),
        }
        while let Some((stream, batch)) = self.watch.poll() {
            self.emit(Output::Watch { stream, batch });
        }
    }

    /// Starts a flush, a compaction or a defragmentation when one is due.
    pub(super) fn maintain_storage(&mut self) {
        if self.failed || self.snapshots.installing.is_some() {
            return;
        }
        let pending = self.store.pending();
        if pending.entries == 0 {
            self.flush.oldest = None;
            self.flush.entries_seen = 0;
        } else if pending.entries != self.flush.entries_seen {
            self.flush.entries_seen = pending.entries;
            self.flush.newest = self.now;
            self.flush.oldest.get_or_insert(self.now);
        }
        if !self.flush.takes_flush() {
            return;
        }
        let aged = self.flush.oldest.is_some_and(|oldest| {
            self.now.since(oldest) >= self.config.flush_age_max || self.now.since(self.flush.newest) >= IDLE
        });
        let full =
            pending.entries >= self.config.flush_entries_max || pending.bytes >= self.config.flush_bytes_max;
        let early = planted::on(Bug::CompactBeforeFlush) && self.store.compaction_due().is_some();
        if (full || aged || self.flush.wanted) && !early && self.applied > self.flush.flushed {
            return self.start_flush();
        }
        if !self.flush.rests() {
            return;
        }
        self.flush.wanted = false;
        if let Some(compaction) = self.store.compaction_due() {
            self.store.compaction_started();
            self.flush.compacting = true;
            return self.emit(Output::Compact { from: compaction.from, to: compaction.to });
        }
        if self.flush.defragment_wanted {
            self.flush.defragment_wanted = false;
            self.flush.defragmenting = true;
            self.emit(Output::Defragment);
        }
    }

    fn start_flush(&mut self) {
        let mut position = self.log_start();
        if planted::on(Bug::AppliedBehindData) && position.index > self.raw.store().first() {
            position.index -= 1;
        }
        snapshot::store_position(&mut self.store, position);
        let Some(flush) = self.store.take_flush() else { return };
        self.flush.in_flight = true;
        self.flush.wanted = false;
        self.flush.covers = self.applied;
        self.flush.oldest = None;
        self.emit(Output::Flush { flush });
    }

    pub(super) fn handle_flushed(&mut self, size: Size) {
        self.size = size;
        if self.snapshots.installing.is_some() {
            // The backend may be another already; the store that goes with it is about to be opened.
            return;
        }
        self.flush.in_flight = false;
        self.flush.flushed = self.flush.covers;
        if let Err(fatal) = self.store.flushed() {
            return self.fail(fatal);
        }
        let released = if planted::on(Bug::ReleaseUnflushed) { self.applied } else { self.flush.flushed };
        self.emit(Output::ReleaseLog { index: released });
    }

    pub(super) fn handle_compacted(&mut self, to: i64, size: Size) {
        self.size = size;
        if self.snapshots.installing.is_some() {
            return;
        }
        self.flush.compacting = false;
        if let Err(fatal) = self.store.compacted(to) {
            return self.fail(fatal);
        }
        self.event(NodeEvent::CompactionFinished { revision: to });
        self.answer_compacted();
    }

    /// Answers who waits for a physical compaction that is over.
    pub(super) fn answer_compacted(&mut self) {
        let to = self.store.compacted_revision();
        for id in self.requests.waiting(|wait| matches!(wait, Wait::Compaction(at) if *at <= to)) {
            self.finish(id, Ok(crate::api::ResponseBody::Compact));
        }
    }

    pub(super) fn handle_defragmented(&mut self, result: Result<(), String>, size: Size) {
        self.size = size;
        self.flush.defragmenting = false;
        if self.snapshots.installing.is_none()
            && let Err(fatal) = self.store.refresh()
        {
            return self.fail(fatal);
        }
        for id in self.requests.waiting(|wait| *wait == Wait::Defragment) {
            let result = result.clone().map(|()| crate::api::ResponseBody::Defragment);
            self.finish(id, result.map_err(crate::error::Error::Other));
        }
    }
}
