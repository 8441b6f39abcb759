//! Which entries the log covers, and the term of each: what an append must fit on to.
//!
//! Appending and replaying move it by the same rules, so a log that was written in order is read in
//! order. Terms are kept as runs: their number is that of elections, not of entries.

use super::{Append, LogStart};

/// The log from after `start` up to and with `last`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: LogStart,
    pub(super) last: LogStart,
    /// (first index, term), ascending.
    runs: Vec<(u64, u64)>,
}

impl Extent {
    /// A log that holds nothing after `start`.
    pub(super) fn empty(start: LogStart) -> Self {
        Self { start, last: start, runs: Vec::new() }
    }

    fn term(&self, index: u64) -> Option<u64> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        let run = self.runs.partition_point(|(first, _)| *first <= index).checked_sub(1)?;
        (index <= self.last.index).then(|| self.runs[run].1)
    }

    /// The term of the entry before the append's first; `None` when the log does not reach there.
    pub(super) fn previous_term(&self, append: &Append) -> Option<u64> {
        let Some(first) = append.entries.first() else {
            return Some(append.log_start.map_or(self.last.term, |start| start.term));
        };
        let previous = first.index.checked_sub(1)?;
        match append.log_start {
            Some(start) => (start.index == previous).then_some(start.term),
            None => self.term(previous),
        }
    }

    /// Takes the append in. `previous_term` is asked for only when it replaces the log from `start`
    /// or before, which a replay sees whose first segments were released.
    pub(super) fn apply(&mut self, append: &Append, previous_term: u64) {
        if let Some(start) = append.log_start {
            *self = Self::empty(start);
        }
        let Some(first) = append.entries.first() else { return };
        if first.index <= self.start.index {
            *self = Self::empty(LogStart { index: first.index - 1, term: previous_term });
        }
        self.runs.retain(|(run, _)| *run < first.index);
        for entry in &append.entries {
            if self.runs.last().is_none_or(|(_, term)| *term != entry.term) {
                self.runs.push((entry.index, entry.term));
            }
            self.last = LogStart { index: entry.index, term: entry.term };
        }
    }
}
