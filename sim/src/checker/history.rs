//! The whole history at the end of a run, judged from outside: by what clients were told and the list of
//! changes, without a look into any member. Where this and the checks after each step disagree, one of
//! them is wrong.

use cairn_checkers::{
    Operation, Replay, Violation, durability, hash, monotone, register, revision_order, serializable,
};

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
