//! One key as a sequential object, and the projection of a history onto each key. A linearizable store is
//! linearizable key by key (locality, Herlihy and Wing 1990), so keys can be searched one by one: it is
//! what keeps a search over a long history short.
//!
//! This asks the history alone, without the cluster's list of changes: where it contradicts
//! `revision_order`, one of the two is wrong. Revisions still help, because a state that is newer than an
//! answer's revision cannot have given it.
//!
//! **Invariant:** a projection only forgets. Whatever is illegal here is illegal in the whole history.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Action, Body, Keys, Kv, Operation, Outcome, Violation};
use crate::wgl::{Call, Spec, Verdict, search};

/// The rule's name.
pub const RULE: &str = "linearizability of a key";

/// What one operation does to one key, and what it was told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It wrote this value with this lease.
    Put(String, i64),
    /// It deleted the key; `Some`: the key was there, or was not.
    Delete(Option<bool>),
    /// It saw this.
    Saw(Option<Kv>),
    /// The key's lease ended, if it still had this one.
    Expire(i64),
}

/// One of the ways in which an operation may have gone: its effects in order.
pub type Way = Vec<Effect>;

/// An operation on a key.
#[derive(Clone, Debug)]
pub struct KeyOp {
    ways: Vec<Way>,
    revision: Option<i64>,
}

/// A key's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct State {
    value: Option<String>,
    version: i64,
    lease: i64,
    /// The state is of this revision, or a newer one.
    least: i64,
}

/// A key of the store.
#[derive(Clone, Copy, Debug)]
pub struct Key;

impl Spec for Key {
    type State = State;
    type Op = KeyOp;

    fn initial(&self) -> State {
        State { least: 1, ..State::default() }
    }

    fn step(&self, state: &State, op: &KeyOp) -> Vec<State> {
        let mut states: Vec<State> = Vec::new();
        for way in &op.ways {
            let Some(mut next) = way.iter().try_fold(state.clone(), effect) else { continue };
            let changed = (&next.value, next.version) != (&state.value, state.version);
            let least = state.least + i64::from(changed);
            next.least = match op.revision {
                Some(revision) if revision < least => continue,
                Some(revision) => revision,
                None => least,
            };
            if !states.contains(&next) {
                states.push(next);
            }
        }
        states
    }
}

fn effect(mut state: State, effect: &Effect) -> Option<State> {
    let gone = |state: State| State { least: state.least, ..State::default() };
    match effect {
        Effect::Put(value, lease) => {
            state.value = Some(value.clone());
            state.version += 1;
            state.lease = *lease;
            Some(state)
        }
        Effect::Delete(existed) => match existed {
            Some(existed) if *existed != state.value.is_some() => None,
            _ => Some(gone(state)),
        },
        Effect::Saw(None) => state.value.is_none().then_some(state),
        Effect::Saw(Some(kv)) => {
            let same = state.value.as_ref() == Some(&kv.value) && state.version == kv.version;
            (same && state.lease == kv.lease).then_some(state)
        }
        Effect::Expire(lease) => (state.value.is_some() && state.lease == *lease).then(|| gone(state)),
    }
}

/// What a search over all keys found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Keys that were shown to be linearizable.
    pub linearizable: usize,
    /// Keys whose budget was spent.
    pub unknown: usize,
}

/// Searches each key of a history, with a budget in steps for each.
///
/// # Errors
/// A key has no linearization.
pub fn check(ops: &[Operation], budget: u64) -> Result<Summary, Violation> {
    let mut summary = Summary::default();
    for (key, calls) in partition(ops) {
        let (numbers, calls): (Vec<u64>, Vec<Call<KeyOp>>) = calls.into_iter().unzip();
        match search(&Key, &calls, budget) {
            Verdict::Linearizable(_) => summary.linearizable += 1,
            Verdict::Unknown => summary.unknown += 1,
            Verdict::Illegal(longest, blocked) => {
                let last = longest.last().map(|at| numbers[*at]);
                let blocked: Vec<u64> = blocked.into_iter().map(|at| numbers[at]).collect();
                let what = format!("{key:?} has no order beyond #{last:?}: none of {blocked:?} can follow");
                return Err(Violation::new(RULE, what, &blocked));
            }
        }
    }
    Ok(summary)
}

type Numbered = (u64, Call<KeyOp>);

/// The operations of each key that a client named.
pub fn partition(ops: &[Operation]) -> BTreeMap<String, Vec<Numbered>> {
    let mut keys = BTreeSet::new();
    ops.iter().for_each(|op| name_keys(&op.action, &mut keys));
    let mut partition: BTreeMap<String, Vec<Numbered>> = BTreeMap::new();
    for key in keys {
        let calls: Vec<Numbered> = ops.iter().flat_map(|op| project(op, &key)).collect();
        partition.insert(key, calls);
    }
    partition
}

fn name_keys(action: &Action, keys: &mut BTreeSet<String>) {
    match action {
        Action::Put { key, .. } => {
            keys.insert(key.clone());
        }
        Action::Txn { success, failure, .. } => {
            success.iter().chain(failure).for_each(|action| name_keys(action, keys));
        }
        _ => {}
    }
}

/// What an operation is to one key: nothing, or a call, and another for each lease that may end.
fn project(op: &Operation, key: &str) -> Vec<Numbered> {
    let mut found = Vec::new();
    if op.action.serializable() {
        return found;
    }
    let (ways, revision) = match &op.outcome {
        Outcome::Refused { .. } => return found,
        Outcome::Ok { revision, body } => (vec![told(&op.action, body, key)], Some(*revision)),
        Outcome::Unknown { .. } => (possible(&op.action, key), None),
    };
    if ways.iter().all(Vec::is_empty) {
        return found;
    }
    // Whether and when a lease ends is not in the history: it may end at any time after the write.
    for effect in ways.iter().flatten() {
        if let Effect::Put(_, lease) = effect
            && *lease != 0
        {
            let ways = vec![vec![Effect::Expire(*lease)]];
            let expire =
                Call { call: op.call, ret: crate::history::NEVER, op: KeyOp { ways, revision: None } };
            found.push((op.number, expire));
        }
    }
    let ret = if revision.is_some() { op.ret } else { crate::history::NEVER };
    found.insert(0, (op.number, Call { call: op.call, ret, op: KeyOp { ways, revision } }));
    found
}

/// What an answered action did to a key.
fn told(action: &Action, body: &Body, key: &str) -> Way {
    match (action, body) {
        (Action::Put { key: written, value, lease, .. }, _) if written == key => {
            vec![Effect::Put(value.clone(), *lease)]
        }
        (Action::Delete { keys, prev_kv }, Body::Delete { deleted, prev }) if keys.contains(key) => {
            let existed = match keys {
                Keys::One(_) => Some(*deleted > 0),
                _ => prev_kv.then(|| prev.iter().any(|kv| kv.key == key)),
            };
            vec![Effect::Delete(existed)]
        }
        (Action::Range { keys, revision, limit, count_only, keys_only, .. }, Body::Range { kvs, .. })
            if keys.contains(key) && *revision == 0 && *limit == 0 && !count_only && !keys_only =>
        {
            vec![Effect::Saw(kvs.iter().find(|kv| kv.key == key).cloned())]
        }
        (Action::Txn { success, failure, .. }, Body::Txn { succeeded, bodies }) => {
            let branch = if *succeeded { success } else { failure };
            branch.iter().zip(bodies).flat_map(|(action, body)| told(action, body, key)).collect()
        }
        _ => Vec::new(),
    }
}

/// What an action of unknown outcome may have done to a key.
fn possible(action: &Action, key: &str) -> Vec<Way> {
    match action {
        Action::Put { key: written, value, lease, .. } if written == key => {
            vec![vec![Effect::Put(value.clone(), *lease)]]
        }
        Action::Delete { keys, .. } if keys.contains(key) => vec![vec![Effect::Delete(None)]],
        Action::Txn { success, failure, .. } => [success, failure]
            .map(|branch| branch.iter().flat_map(|action| possible(action, key)).flatten().collect())
            .to_vec(),
        _ => Vec::new(),
    }
}
