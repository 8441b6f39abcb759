//! Linearizability by the order that revisions give (Herlihy and Wing 1990).
//!
//! An acknowledged operation names its revision, so its place among all others is known and nothing is
//! searched for: each answer is what the changes say at its place, and places agree with real time. An
//! operation of unknown outcome has the place of its change, if there is one. O(n log n).
//!
//! Serializable reads promise less and have a file of their own.

use crate::history::{Action, Body, Keys, Operation, Outcome, Violation};
use crate::replay::Replay;

/// The rule's name.
pub const RULE: &str = "linearizability";

/// Checks a history; `effects` is what [`crate::durability::effects`] found. Returns how many answers
/// were compared.
///
/// # Errors
/// An answer is not what was there, or is older than something that had ended before it was asked for.
pub fn check(ops: &[Operation], effects: &[Option<i64>], replay: &Replay) -> Result<usize, Violation> {
    let mut compared = 0;
    for (op, effect) in ops.iter().zip(effects) {
        let Outcome::Ok { revision, body } = &op.outcome else { continue };
        if !judged(&op.action) {
            continue;
        }
        compared += 1;
        let state = effect.map_or(*revision, |effect| effect - 1);
        if let Some(expected) = contradiction(&op.action, body, state, replay) {
            let what = format!("at revision {state} the answer is {expected:?}, not {body:?}");
            return Err(Violation::new(RULE, what, &[op.number]));
        }
    }
    real_time(ops, effects)?;
    Ok(compared)
}

/// Whether the answer follows from keys alone, and has to be recent.
fn judged(action: &Action) -> bool {
    match action {
        Action::Put { .. } | Action::Delete { .. } | Action::Revoke { .. } => true,
        Action::Range { .. } | Action::Txn { .. } => !action.serializable(),
        _ => false,
    }
}

/// The right answer on the state at a revision, if another one was given.
pub(crate) fn contradiction(action: &Action, body: &Body, state: i64, replay: &Replay) -> Option<Body> {
    if matches!(action, Action::Revoke { .. }) {
        return None;
    }
    if let (Action::Range { keys: Keys::One(key), revision, .. }, Body::Range { kvs, count, .. }) =
        (action, body)
    {
        // The common case, without building an answer.
        let at = if *revision > 0 { *revision } else { state };
        let there = replay.at(key, at);
        if kvs.first() == there && kvs.len() == usize::from(there.is_some()) && *count == kvs.len() as i64 {
            return None;
        }
    }
    let expected = replay.evaluate(action, state).0;
    (expected != *body).then_some(expected)
}

/// Every operation stands after all operations that had ended before it began.
fn real_time(ops: &[Operation], effects: &[Option<i64>]) -> Result<(), Violation> {
    let mut by_call: Vec<usize> = (0..ops.len()).collect();
    by_call.sort_by_key(|at| ops[*at].call);
    let mut by_return: Vec<usize> = (0..ops.len()).filter(|at| place(&ops[*at]).is_some()).collect();
    by_return.sort_by_key(|at| ops[*at].ret);
    let mut ended = by_return.into_iter().peekable();
    let mut newest = (0, None);
    for at in by_call {
        while let Some(before) = ended.next_if(|before| ops[*before].ret < ops[at].call) {
            newest = newest.max((place(&ops[before]).unwrap_or(0), Some(before)));
        }
        // A write needs a revision of its own; a read may share one.
        let (revision, least) = match (effects[at], place(&ops[at])) {
            (Some(effect), _) => (effect, newest.0 + 1),
            (None, Some(revision)) if judged(&ops[at].action) => (revision, newest.0),
            _ => continue,
        };
        if revision < least {
            let before = newest.1.map_or(0, |before| ops[before].number);
            let what = format!(
                "stale: stands at revision {revision}, yet began after #{before} had ended at {}",
                newest.0
            );
            return Err(Violation::new(RULE, what, &[ops[at].number, before]));
        }
    }
    Ok(())
}

/// The revision of an answer that proves that this revision existed.
fn place(op: &Operation) -> Option<i64> {
    match op.action {
        Action::Put { .. }
        | Action::Delete { .. }
        | Action::Range { .. }
        | Action::Txn { .. }
        | Action::Revoke { .. }
        | Action::Grant { .. } => op.revision(),
        _ => None,
    }
}
