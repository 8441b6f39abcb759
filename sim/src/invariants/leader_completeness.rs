//! A leader has every entry that was committed before its election.

use super::LogMirror;
use super::state_machine_safety::Committed;

/// Checks a new leader's log.
///
/// # Errors
/// A committed entry is missing or another one is in its place.
pub fn elected(member: u64, term: u64, log: &LogMirror, committed: &Committed) -> Result<(), String> {
    for index in log.start() + 1..=committed.last() {
        let Some(expected) = committed.get(index) else { continue };
        if expected.term < term && log.get(index).map(|entry| entry.term) != Some(expected.term) {
            return Err(format!(
                "leader completeness: {member:x} leads in term {term} without the committed entry {index} of \
                 term {}: it has {:?}",
                expected.term,
                log.get(index).map(|entry| entry.term)
            ));
        }
    }
    Ok(())
}
