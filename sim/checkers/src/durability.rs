//! Acknowledged writes are never lost, refused ones never happen, and every change was asked for.
//!
//! Writes carry values that no other operation writes, so a change names its operation; a write without
//! a value (a deletion) is found at the revision that its answer names. What comes out is the revision
//! at which each operation took effect, which the other checkers build on.

use std::collections::BTreeMap;

use crate::history::{Action, Body, Kv, Operation, Outcome, Violation};
use crate::replay::Replay;

/// The rule's name.
pub const RULE: &str = "durability";

/// The revision at which each operation changed something; `None` where it changed nothing.
///
/// # Errors
/// A write is lost, moved, done twice, done in part, done although it was refused, or was never asked for.
pub fn effects(ops: &[Operation], replay: &Replay) -> Result<Vec<Option<i64>>, Violation> {
    let mut effects = by_value(ops, replay)?;
    let mut claimed: BTreeMap<i64, usize> = BTreeMap::new();
    for (at, op) in ops.iter().enumerate() {
        let fail = |what: String| Err(Violation::new(RULE, what, &[op.number]));
        match &op.outcome {
            Outcome::Ok { revision, body } if op.action.writes() => {
                let acknowledged = acknowledged(op, *revision, body, replay);
                match (acknowledged, effects[at]) {
                    (Some(effect), None) => effects[at] = effect,
                    (Some(Some(effect)), Some(found)) if effect == found => {}
                    (None, None) => return fail(format!("acknowledged write lost: revision {revision}")),
                    (_, Some(found)) if found != *revision => {
                        return fail(format!("acknowledged at {revision}, done at {found}"));
                    }
                    _ => {
                        return fail(format!("done in part, or with more than was asked for: at {revision}"));
                    }
                }
            }
            Outcome::Ok { .. } | Outcome::Refused { .. } => {
                if let Some(found) = effects[at] {
                    return fail(format!("took effect at {found} although it was refused"));
                }
            }
            Outcome::Unknown { .. } => {
                if let Some(found) = effects[at]
                    && replay.evaluate(&op.action, found - 1).1 != replay.between(found - 1, found)
                {
                    return fail(format!("done in part, or with more than was asked for: at {found}"));
                }
            }
        }
        if let Some(effect) = effects[at]
            && let Some(other) = claimed.insert(effect, at)
        {
            let what = format!("two operations made revision {effect}");
            return Err(Violation::new(RULE, what, &[op.number, ops[other].number]));
        }
    }
    Ok(effects)
}

/// What the changes' values say: the revision of each operation that wrote one of them.
fn by_value(ops: &[Operation], replay: &Replay) -> Result<Vec<Option<i64>>, Violation> {
    let mut writers: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, op) in ops.iter().enumerate() {
        for value in op.action.values() {
            let before = writers.insert(value, at);
            assert!(before.is_none_or(|before| before == at), "the load used the value {value} twice");
        }
    }
    let mut effects: Vec<Option<i64>> = vec![None; ops.len()];
    for change in replay.changes() {
        let Some(value) = &change.value else { continue };
        let Some(at) = writers.get(value.as_str()).copied() else {
            return Err(Violation::new(RULE, format!("nobody wrote {change:?}"), &[]));
        };
        match effects[at].replace(change.revision) {
            Some(before) if before != change.revision => {
                let what = format!("written twice: at {before} and by {change:?}");
                return Err(Violation::new(RULE, what, &[ops[at].number]));
            }
            _ => {}
        }
    }
    Ok(effects)
}

/// Where an acknowledged write changed something, `Some(None)` if nowhere; `None` if that cannot be.
fn acknowledged(op: &Operation, revision: i64, body: &Body, replay: &Replay) -> Option<Option<i64>> {
    if matches!(op.action, Action::Revoke { .. }) {
        // Its answer does not tell whether it deleted the keys or found them deleted.
        return replay.evaluate(&op.action, revision).1.is_empty().then_some(None);
    }
    let (said, changes) = replay.evaluate(&op.action, revision - 1);
    let made = !changes.is_empty() && changes == replay.between(revision - 1, revision);
    if made && said == *body {
        return Some(Some(revision));
    }
    let (_, now) = replay.evaluate(&op.action, revision);
    if now.is_empty() { Some(None) } else { made.then_some(Some(revision)) }
}

/// The state that a member ends with is the one that the changes make.
///
/// # Errors
/// A key is missing, has another value, or should not be there.
pub fn state(kvs: &[Kv], replay: &Replay) -> Result<(), Violation> {
    let expected = replay.range(&crate::Keys::From(String::new()), i64::MAX);
    let found: BTreeMap<&str, &Kv> = kvs.iter().map(|kv| (kv.key.as_str(), kv)).collect();
    for kv in &expected {
        if found.get(kv.key.as_str()) != Some(&kv) {
            let found = found.get(kv.key.as_str());
            let what = format!("the final state has {found:?} instead of {kv:?}");
            return Err(Violation::new(RULE, what, &[]));
        }
    }
    let known: BTreeMap<&str, &Kv> = expected.iter().map(|kv| (kv.key.as_str(), kv)).collect();
    match kvs.iter().find(|kv| !known.contains_key(kv.key.as_str())) {
        Some(extra) => {
            let what = format!("the final state has {extra:?}, which is deleted or never was");
            Err(Violation::new(RULE, what, &[]))
        }
        None => Ok(()),
    }
}
