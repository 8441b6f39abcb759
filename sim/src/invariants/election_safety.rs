//! At most one leader in a term.

use std::collections::BTreeMap;

/// The leader of each term.
#[derive(Debug, Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<u64, u64>,
}

impl ElectionSafety {
    /// A member leads in a term; true when that is news.
    ///
    /// # Errors
    /// Another one led in it.
    pub fn leads(&mut self, member: u64, term: u64) -> Result<bool, String> {
        match self.leaders.insert(term, member) {
            None => Ok(true),
            Some(before) if before == member => Ok(false),
            Some(before) => {
                Err(format!("election safety: {before:x} and {member:x} both led in term {term}"))
            }
        }
    }

    /// How many terms had a leader.
    pub fn elections(&self) -> usize {
        self.leaders.len()
    }
}
