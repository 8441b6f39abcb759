//! Nothing that was acknowledged is lost: what a restart finds is checked against what the member had
//! been promised was durable.

use cairn_core::wal::{Append, HardState, Recovered};

/// What the log of a member has acknowledged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Durable {
    hard_state: HardState,
    /// The last entry, as index and term.
    last: (u64, u64),
}

impl Durable {
    /// An append was reported as durable.
    pub fn appended(&mut self, append: &Append) {
        if let Some(hard_state) = append.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(start) = append.log_start {
            self.last = (start.index, start.term);
        }
        if let Some(entry) = append.entries.last() {
            self.last = (entry.index, entry.term);
        }
    }

    /// The commit index that a restart is certain to find.
    pub fn commit(&self) -> u64 {
        self.hard_state.commit
    }

    /// Compares what a restart found; then that is what counts.
    ///
    /// # Errors
    /// Something that was reported as durable is gone.
    pub fn recovered(&mut self, member: u64, found: &Recovered) -> Result<(), String> {
        let (before, after) = (self.hard_state, found.hard_state);
        let last = found.entries.last().map_or(found.log_start.index, |entry| entry.index);
        let went_back = after.term < before.term
            || after.commit < before.commit
            || (after.term == before.term && before.vote != 0 && after.vote != before.vote);
        // A batch that was not reported may have replaced the end of the log.
        let replaced = after.term > before.term
            || found.entries.last().map_or(found.log_start.term, |entry| entry.term) > self.last.1;
        if went_back || (last < self.last.0 && !replaced) {
            return Err(format!(
                "durability: {member:x} had {before:?} and entries up to {:?}, recovered {after:?} and {last}",
                self.last
            ));
        }
        self.hard_state = after;
        self.last = (last, found.entries.last().map_or(found.log_start.term, |entry| entry.term));
        Ok(())
    }
}
