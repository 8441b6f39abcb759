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

    /// Keeps the entries from `first` to `last`: what a start has made of the log that it found.
    pub fn keep(&mut self, first: u64, last: u64) {
        let kept = (first..=last).filter_map(|index| self.get(index).cloned()).collect();
        *self = Self { start: first - 1, entries: kept };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror() -> LogMirror {
        let entry = |index| LogEntry { term: 1, index, ..LogEntry::default() };
        LogMirror::new(3, (4..=10).map(entry).collect())
    }

    /// Sim seed 30141: the log's damage ended at what was applied, and the copy forgot all that follows.
    #[test]
    fn what_follows_damage_that_is_applied_stays() {
        let mut log = mirror();
        log.keep(7, 10);
        assert_eq!((log.start(), log.last()), (6, 10));
        assert!(log.get(6).is_none());
        assert!((7..=10).all(|index| log.get(index).is_some_and(|entry| entry.index == index)));
    }

    #[test]
    fn nothing_stays_of_a_log_that_a_snapshot_replaced() {
        let mut log = mirror();
        log.keep(9, 8);
        assert_eq!((log.start(), log.last()), (8, 8));
        assert!(log.get(9).is_none());
    }
}
