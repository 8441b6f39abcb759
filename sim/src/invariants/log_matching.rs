//! Two logs that hold an entry of the same index and term hold the same entries up to there: by
//! induction, the same data and the same term before it.

use std::collections::BTreeMap;

use cairn_core::wal::LogEntry;

/// Every entry that was ever in a log, by index and term.
#[derive(Debug, Default)]
pub struct LogMatching {
    seen: BTreeMap<(u64, u64), (LogEntry, Option<u64>)>,
}

impl LogMatching {
    /// An entry was appended after one of the term `before` (unknown at the start of a log).
    ///
    /// # Errors
    /// Another log has something else there.
    pub fn appended(&mut self, entry: &LogEntry, before: Option<u64>) -> Result<(), String> {
        let key = (entry.index, entry.term);
        let (known, known_before) = self.seen.entry(key).or_insert_with(|| (entry.clone(), before));
        if known != entry {
            return Err(format!("log matching: two entries at {key:?}: {known:?} and {entry:?}"));
        }
        match (*known_before, before) {
            (Some(left), Some(right)) if left != right => {
                Err(format!("log matching: before {key:?} one log has term {left}, another {right}"))
            }
            (None, Some(_)) => {
                *known_before = before;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
