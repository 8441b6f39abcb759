//! A leader commits by counting copies only what is of its own term; what is older comes with it (Raft
//! 5.4.2, figure 8).

use std::collections::BTreeMap;

use super::LogMirror;

/// The term that each member led in, and how far it had committed, when it was last looked at.
#[derive(Debug, Default)]
pub struct OwnTermCommit {
    leaders: BTreeMap<u64, (u64, u64)>,
}

impl OwnTermCommit {
    /// A member says how far it has committed; `leads` is the term that it leads in.
    ///
    /// # Errors
    /// It has led all the while, and stopped at an entry of another term.
    pub fn committed(
        &mut self,
        member: u64,
        leads: Option<u64>,
        now: u64,
        log: &LogMirror,
    ) -> Result<(), String> {
        let before = match leads {
            Some(term) => self.leaders.insert(member, (term, now)).filter(|(before, _)| *before == term),
            None => {
                self.leaders.remove(&member);
                None
            }
        };
        match (before, log.get(now)) {
            (Some((term, before)), Some(entry)) if now > before && entry.term != term => Err(format!(
                "own term commit: {member:x} leads in term {term} and commits up to {now}, which is of term {}",
                entry.term
            )),
            _ => Ok(()),
        }
    }
}
