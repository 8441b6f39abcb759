//! A serializable read may be old, but it is exact: it equals the replay at the revision that it names,
//! and that revision exists.

use crate::history::{Operation, Outcome, Violation};
use crate::replay::Replay;
use crate::revision_order::contradiction;

/// The rule's name.
pub const RULE: &str = "serializable read";

/// Checks every serializable read; how many there were.
///
/// # Errors
/// One of them saw what never was.
pub fn check(ops: &[Operation], replay: &Replay) -> Result<usize, Violation> {
    let mut checked = 0;
    for op in ops.iter().filter(|op| op.action.serializable()) {
        let Outcome::Ok { revision, body } = &op.outcome else { continue };
        checked += 1;
        if *revision > replay.revision() {
            let what = format!("revision {revision} does not exist, the last is {}", replay.revision());
            return Err(Violation::new(RULE, what, &[op.number]));
        }
        if let Some(expected) = contradiction(&op.action, body, *revision, replay) {
            let what = format!("at revision {revision} there is {expected:?}, not {body:?}");
            return Err(Violation::new(RULE, what, &[op.number]));
        }
    }
    Ok(checked)
}
