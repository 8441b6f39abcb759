//! The recent part of the Raft log, in memory, as the `raft` crate's storage.
//!
//! Owns the entries after `start` and what the crate asks of a storage: hard state at start,
//! configuration, and the position of a snapshot that could be sent now. Durability is not its
//! business: the node emits appends, the write-ahead log keeps them.
//!
//! Invariant: entries are contiguous from `start.index + 1`, and never above them is anything unknown
//! to the write-ahead log's in-order appends.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, EntryType, HardState as RaftHardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::types::{Index, Term};
use crate::wal::{EntryKind, HardState, LogEntry, LogStart};

/// How much of what is applied stays in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// About so many entries,
    pub(crate) entries: u64,
    /// once more than so many have gathered beyond them,
    pub(crate) slack: u64,
    /// and at most about so many bytes,
    pub(crate) bytes: usize,
    /// or so many of what every member is known to have,
    pub(crate) everywhere_bytes: usize,
    /// which is what is not above this index.
    pub(crate) everywhere: Index,
}

/// The log and its surroundings.
#[derive(Debug)]
pub(crate) struct RaftLog {
    start: LogStart,
    entries: VecDeque<LogEntry>,
    bytes: usize,
    hard_state: HardState,
    conf_state: ConfState,
    applied: LogStart,
}

impl RaftLog {
    pub(crate) fn new(
        start: LogStart,
        entries: Vec<LogEntry>,
        hard_state: HardState,
        conf_state: ConfState,
        applied: LogStart,
    ) -> Self {
        let bytes = entries.iter().map(LogEntry::size).sum();
        Self { start, entries: entries.into(), bytes, hard_state, conf_state, applied }
    }

    /// Adds entries, replacing any at or after the first one's index (Raft 5.3).
    pub(crate) fn append(&mut self, entries: &[LogEntry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.start.index && first.index <= self.last() + 1,
            "append at {} to a log that holds {}..={}",
            first.index,
            self.start.index + 1,
            self.last()
        );
        while self.last() >= first.index {
            let dropped = self.entries.pop_back().expect("the log reaches past its start");
            self.bytes -= dropped.size();
        }
        self.bytes += entries.iter().map(LogEntry::size).sum::<usize>();
        self.entries.extend(entries.iter().cloned());
    }

    /// Voids everything: the log now begins after `start`, which a snapshot covers.
    pub(crate) fn reset(&mut self, start: LogStart, conf_state: ConfState) {
        self.entries.clear();
        self.bytes = 0;
        self.start = start;
        self.applied = start;
        self.conf_state = conf_state;
    }

    /// Notes what a snapshot taken now would cover.
    pub(crate) fn applied(&mut self, index: Index, term: Term) {
        self.applied = LogStart { index, term };
    }

    pub(crate) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    pub(crate) fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// Forgets applied entries that nobody is expected to ask for, in batches. Returns whether anything
    /// was dropped.
    pub(crate) fn compact(&mut self, keep: &Keep) -> bool {
        let held = |log: &Self| log.applied.index.saturating_sub(log.start.index);
        let over = |log: &Self, share: usize| {
            let bound = if log.start.index < keep.everywhere { keep.everywhere_bytes } else { keep.bytes };
            log.bytes > bound / 4 * share
        };
        let many = held(self) > keep.entries + keep.slack;
        if !many && !over(self, 4) {
            return false;
        }
        let before = self.start.index;
        while many && held(self) > keep.entries || held(self) > 0 && over(self, 3) {
            let entry = self.entries.pop_front().expect("applied entries are in the log");
            self.bytes -= entry.size();
            self.start = LogStart { index: entry.index, term: entry.term };
        }
        self.start.index != before
    }

    pub(crate) fn first(&self) -> Index {
        self.start.index + 1
    }

    pub(crate) fn last(&self) -> Index {
        self.start.index + self.entries.len() as u64
    }

    /// The entry at an index, if it is in memory.
    pub(crate) fn entry(&self, index: Index) -> Option<&LogEntry> {
        self.at(index)
    }

    fn at(&self, index: Index) -> Option<&LogEntry> {
        self.entries.get(usize::try_from(index.checked_sub(self.start.index + 1)?).ok()?)
    }
}

/// The crate's form of an entry.
pub(crate) fn to_raft(entry: &LogEntry) -> Entry {
    let mut out = Entry::default();
    out.term = entry.term;
    out.index = entry.index;
    match entry.kind {
        EntryKind::Normal => out.data = entry.data.clone(),
        EntryKind::ConfChange => {
            out.set_entry_type(EntryType::EntryConfChangeV2);
            out.context = entry.data.clone();
            out.data = crate::node::member::conf_change_bytes(&entry.data);
        }
    }
    out
}

/// Our form of an entry. Membership changes keep only their command: the crate's own encoding of
/// the change is derived from it again.
pub(crate) fn from_raft(entry: Entry) -> LogEntry {
    let (kind, data) = match entry.get_entry_type() {
        EntryType::EntryNormal => (EntryKind::Normal, entry.data),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => (EntryKind::ConfChange, entry.context),
    };
    LogEntry { term: entry.term, index: entry.index, kind, data }
}

impl Storage for RaftLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let mut hard_state = RaftHardState::default();
        hard_state.term = self.hard_state.term;
        hard_state.vote = self.hard_state.vote;
        hard_state.commit = self.hard_state.commit;
        Ok(RaftState::new(hard_state, self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "entries up to {high} asked of a log that ends at {}", self.last());
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let mut out = Vec::new();
        for index in low..high {
            let entry = self.at(index).expect("the range was checked");
            size += entry.size() as u64;
            if size > max_size && !out.is_empty() {
                break;
            }
            out.push(to_raft(entry));
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.start.index {
            return Ok(self.start.term);
        }
        if index < self.start.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        self.at(index).map(|entry| entry.term).ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.applied.index < request_index || self.applied.index == 0 {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = self.applied.index;
        metadata.term = self.applied.term;
        *metadata.mut_conf_state() = self.conf_state.clone();
        Ok(snapshot)
    }
}
