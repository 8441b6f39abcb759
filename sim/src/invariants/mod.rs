//! Raft's safety properties (Ongaro and Ousterhout, figure 3), one in a file, each checked over all
//! members after every step, from what drivers see: appends, roles and commit indexes.

pub mod committed_immutable;
pub mod election_safety;
pub mod leader_completeness;
pub mod log_matching;
pub mod own_term_commit;
pub mod state_machine_safety;

use std::collections::VecDeque;

use cairn_core::wal::{Append, LogEntry};

/// A member's log as its appends made it.
#[derive(Clone, Debug, Default)]
pub struct LogMirror {
    start: u64,
    entries: VecDeque<LogEntry>,
}

impl LogMirror {
    /// The log of a member that starts.
    pub fn new(start: u64, entries: Vec<LogEntry>) -> Self {
        Self { start, entries: entries.into() }
    }

    /// Takes an append.
    pub fn append(&mut self, append: &Append) {
        if let Some(start) = append.log_start {
            *self = Self { start: start.index, entries: VecDeque::new() };
        }
        if let Some(first) = append.entries.first() {
            let keep = first.index.saturating_sub(self.start + 1);
            self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
            self.entries.extend(append.entries.iter().cloned());
        }
    }

    /// Takes the entries of a repair, which stood in the log without their bytes.
    pub fn repair<'a>(&mut self, entries: impl IntoIterator<Item = &'a LogEntry>) {
        for entry in entries {
            let place = entry.index.checked_sub(self.start + 1).and_then(|at| usize::try_from(at).ok());
            if let Some(known) = place.and_then(|at| self.entries.get_mut(at)) {
                known.clone_from(entry);
            }
        }
    }

    /// The entry at an index, if the log still has it.
    pub fn get(&self, index: u64) -> Option<&LogEntry> {
        self.entries.get(usize::try_from(index.checked_sub(self.start + 1)?).ok()?)
    }

    /// The index before the first entry.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The index of the last entry.
    pub fn last(&self) -> u64 {
        self.start + self.entries.len() as u64
    }
}
