//! What a member knows to be committed is never replaced in its log.

use cairn_core::wal::Append;

use super::state_machine_safety::Committed;

/// Checks an append of a member that knows everything up to `known` to be committed.
///
/// # Errors
/// It replaces a committed entry by another one.
pub fn appends(member: u64, known: u64, append: &Append, committed: &Committed) -> Result<(), String> {
    if let Some(start) = append.log_start
        && start.index < known
    {
        return Err(format!("committed immutable: {member:x} goes back to {} from {known}", start.index));
    }
    for entry in append.entries.iter().take_while(|entry| entry.index <= known) {
        if committed.get(entry.index).is_some_and(|there| there != entry) {
            return Err(format!(
                "committed immutable: {member:x} replaces the committed entry {} by one of term {}",
                entry.index, entry.term
            ));
        }
    }
    Ok(())
}
