//! The whole history at the end of a run, judged from outside: by what clients were told and the list of
//! changes, without a look into any member. Where this and the checks after each step disagree, one of
//! them is wrong.

use cairn_checkers::{
    Operation, Replay, Violation, append, durability, hash, lock, monotone, register, revision_order,
    serializable,
};

use crate::workload::script::Record;

/// Steps of the search for a linearization of one key.
const SEARCH_STEPS: u64 = 50_000;

/// Judges a history; `search` also looks for a linearization of each key.
///
/// # Errors
/// The first contradiction.
pub fn check(ops: &[Operation], replay: &Replay, search: bool) -> Result<(), Violation> {
    let effects = durability::effects(ops, replay)?;
    revision_order::check(ops, &effects, replay)?;
    serializable::check(ops, replay)?;
    monotone::check(ops)?;
    hash::check(ops)?;
    if search {
        register::check(ops, SEARCH_STEPS)?;
    }
    Ok(())
}

/// Judges what clients with a script did.
///
/// # Errors
/// The first contradiction.
pub fn check_scripts(record: &Record) -> Result<(), Violation> {
    append::check(&record.appends)?;
    lock::check(&record.lock.in_order())?;
    lock::check(&record.election.in_order())
}
