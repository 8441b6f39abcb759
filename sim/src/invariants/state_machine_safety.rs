//! No two members commit different entries at one index. Owns the one committed log that all of them
//! share.

use cairn_core::wal::LogEntry;

use super::LogMirror;

/// The committed log.
#[derive(Debug, Default)]
pub struct Committed {
    base: u64,
    entries: Vec<LogEntry>,
}

impl Committed {
    /// Of a cluster whose log begins after `base`.
    pub fn new(base: u64) -> Self {
        Self { base, entries: Vec::new() }
    }

    /// The last index.
    pub fn last(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// An entry.
    pub fn get(&self, index: u64) -> Option<&LogEntry> {
        self.entries.get(usize::try_from(index.checked_sub(self.base + 1)?).ok()?)
    }

    /// A member's commit index went from `before` to `now`; returns the entries that are news.
    ///
    /// # Errors
    /// It differs from what others committed.
    pub fn advance(
        &mut self,
        member: u64,
        before: u64,
        now: u64,
        log: &LogMirror,
    ) -> Result<Vec<LogEntry>, String> {
        let mut news = Vec::new();
        for index in before + 1..=now {
            match (self.get(index), log.get(index)) {
                (Some(expected), Some(entry)) if expected != entry => {
                    return Err(format!(
                        "state machine safety: at {index} {member:x} commits term {} where others have term {}",
                        entry.term, expected.term
                    ));
                }
                (Some(_), _) => {}
                (None, Some(entry)) => {
                    self.entries.push(entry.clone());
                    news.push(entry.clone());
                }
                (None, None) if index <= self.base => {}
                (None, None) => {
                    return Err(format!("{member:x} says that {index} is committed, but nobody has it"));
                }
            }
        }
        Ok(news)
    }
}
