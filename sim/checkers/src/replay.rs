//! The store as the list of changes makes it, at every revision: what a reply has to be compared with.
//!
//! It derives versions and creations itself, so a reply's metadata is checked too. It never forgets:
//! compaction is no matter of this module.
//!
//! **Invariant:** changes come in the order of their revisions, from the first.

use std::collections::BTreeMap;

use crate::history::{Action, Body, Change, Compare, Keys, Kv, Relation, Target, Violation};

/// Every version of every key.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    keys: BTreeMap<String, Vec<(i64, Option<Kv>)>>,
    /// The changes, in order.
    changes: Vec<Change>,
}

impl Replay {
    /// Replays a list of changes.
    ///
    /// # Errors
    /// They are not in the order of their revisions.
    pub fn new(changes: &[Change]) -> Result<Self, Violation> {
        let mut replay = Self::default();
        for change in changes {
            replay.push(change.clone())?;
        }
        Ok(replay)
    }

    /// Takes the next change.
    ///
    /// # Errors
    /// It is older than the one before it.
    pub fn push(&mut self, change: Change) -> Result<(), Violation> {
        if let Some(last) = self.changes.last()
            && change.revision < last.revision
        {
            let what = format!("changes out of order: {last:?} before {change:?}");
            return Err(Violation::new("order of changes", what, &[]));
        }
        let versions = self.keys.entry(change.key.clone()).or_default();
        let before = versions.last().and_then(|(_, kv)| kv.as_ref());
        let kv = after(before, &change);
        versions.push((change.revision, kv));
        self.changes.push(change);
        Ok(())
    }

    /// The revision of the last change; 1 for an empty store.
    pub fn revision(&self) -> i64 {
        self.changes.last().map_or(1, |change| change.revision)
    }

    /// All changes.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The changes after one revision, up to and with another.
    pub fn between(&self, after: i64, to: i64) -> &[Change] {
        let first = self.changes.partition_point(|change| change.revision <= after);
        let end = self.changes.partition_point(|change| change.revision <= to);
        &self.changes[first.min(end)..end]
    }

    /// A key at a revision.
    pub fn at(&self, key: &str, revision: i64) -> Option<&Kv> {
        let versions = self.keys.get(key)?;
        let seen = versions.partition_point(|(at, _)| *at <= revision);
        versions[seen.checked_sub(1)?].1.as_ref()
    }

    /// The keys of a set that exist at a revision, in order.
    pub fn range(&self, keys: &Keys, revision: i64) -> Vec<Kv> {
        match keys {
            Keys::One(key) => self.at(key, revision).cloned().into_iter().collect(),
            Keys::Span(start, _) | Keys::From(start) => {
                let from = self.keys.range(start.clone()..);
                let inside = from.map(|(key, _)| key).take_while(|key| keys.contains(key));
                inside.filter_map(|key| self.at(key, revision).cloned()).collect()
            }
        }
    }

    /// What an action would answer and change, done on the state at a revision, as the next one.
    pub fn evaluate(&self, action: &Action, revision: i64) -> (Body, Vec<Change>) {
        let mut scratch = Scratch { replay: self, revision, own: BTreeMap::new(), changes: Vec::new() };
        let body = scratch.act(action);
        (body, scratch.changes)
    }
}

fn after(before: Option<&Kv>, change: &Change) -> Option<Kv> {
    let value = change.value.clone()?;
    Some(Kv {
        key: change.key.clone(),
        value,
        create_revision: before.map_or(change.revision, |kv| kv.create_revision),
        mod_revision: change.revision,
        version: before.map_or(1, |kv| kv.version + 1),
        lease: change.lease,
    })
}

/// The state at a revision with what one action has changed on top.
struct Scratch<'a> {
    replay: &'a Replay,
    revision: i64,
    own: BTreeMap<String, Option<Kv>>,
    changes: Vec<Change>,
}

impl Scratch<'_> {
    fn find(&self, key: &str) -> Option<Kv> {
        match self.own.get(key) {
            Some(kv) => kv.clone(),
            None => self.replay.at(key, self.revision).cloned(),
        }
    }

    fn range(&self, keys: &Keys) -> Vec<Kv> {
        let mut found: BTreeMap<String, Kv> =
            self.replay.range(keys, self.revision).into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        for (key, kv) in self.own.iter().filter(|(key, _)| keys.contains(key)) {
            match kv {
                Some(kv) => found.insert(key.clone(), kv.clone()),
                None => found.remove(key),
            };
        }
        found.into_values().collect()
    }

    fn change(&mut self, key: &str, value: Option<&str>, lease: i64) {
        let change = Change {
            revision: self.revision + 1,
            key: key.to_owned(),
            value: value.map(str::to_owned),
            lease,
        };
        let kv = after(self.find(key).as_ref(), &change);
        self.own.insert(key.to_owned(), kv);
        self.changes.push(change);
    }

    fn delete(&mut self, gone: &[Kv]) {
        for kv in gone {
            self.change(&kv.key, None, 0);
        }
    }

    fn act(&mut self, action: &Action) -> Body {
        match action {
            Action::Put { key, value, lease, prev_kv } => {
                let prev = self.find(key).filter(|_| *prev_kv);
                self.change(key, Some(value), *lease);
                Body::Put { prev }
            }
            Action::Delete { keys, prev_kv } => {
                let gone = self.range(keys);
                self.delete(&gone);
                let deleted = gone.len() as i64;
                Body::Delete { deleted, prev: if *prev_kv { gone } else { Vec::new() } }
            }
            Action::Range { keys, revision, limit, count_only, keys_only, .. } => {
                let past = *revision > 0 && *revision <= self.revision;
                let mut kvs = if past { self.replay.range(keys, *revision) } else { self.range(keys) };
                let count = kvs.len() as i64;
                let more = *limit > 0 && count > *limit && !count_only;
                if more {
                    kvs.truncate(usize::try_from(*limit).unwrap_or(usize::MAX));
                }
                if *count_only {
                    kvs.clear();
                }
                if *keys_only {
                    kvs.iter_mut().for_each(|kv| kv.value = String::new());
                }
                Body::Range { kvs, count, more }
            }
            Action::Txn { compare, success, failure } => {
                let succeeded = compare.iter().all(|compare| self.holds(compare));
                let branch = if succeeded { success } else { failure };
                Body::Txn { succeeded, bodies: branch.iter().map(|action| self.act(action)).collect() }
            }
            Action::Revoke { id } => {
                let attached: Vec<Kv> = self.range(&Keys::From(String::new()));
                let attached: Vec<Kv> = attached.into_iter().filter(|kv| kv.lease == *id).collect();
                self.delete(&attached);
                Body::Other
            }
            Action::Compact { .. } => Body::Compact,
            Action::Grant { .. } | Action::KeepAlive { .. } | Action::HashKv | Action::Other { .. } => {
                Body::Other
            }
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let found = self.find(&compare.key);
        if found.is_none() && matches!(compare.target, Target::Value(_)) {
            return false;
        }
        let kv = found.unwrap_or_default();
        let order = match &compare.target {
            Target::Version(version) => kv.version.cmp(version),
            Target::Create(revision) => kv.create_revision.cmp(revision),
            Target::Mod(revision) => kv.mod_revision.cmp(revision),
            Target::Value(value) => kv.value.cmp(value),
            Target::Lease(lease) => kv.lease.cmp(lease),
        };
        match compare.relation {
            Relation::Equal => order.is_eq(),
            Relation::Greater => order.is_gt(),
            Relation::Less => order.is_lt(),
            Relation::NotEqual => order.is_ne(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(revision: i64, key: &str, value: &str) -> Change {
        Change { revision, key: key.to_owned(), value: Some(value.to_owned()), lease: 0 }
    }

    #[test]
    fn versions_and_creations_are_derived() {
        let gone = Change { value: None, ..put(4, "a", "") };
        let replay = Replay::new(&[put(2, "a", "1"), put(3, "a", "2"), gone, put(5, "a", "3")]).unwrap();
        let at =
            |revision| replay.at("a", revision).map(|kv| (kv.create_revision, kv.version, &kv.value[..]));
        assert_eq!([at(1), at(2), at(3), at(4)], [None, Some((2, 1, "1")), Some((2, 2, "2")), None]);
        assert_eq!(at(9), Some((5, 1, "3")));
        assert_eq!(replay.between(2, 4).len(), 2);
    }

    #[test]
    fn a_transaction_sees_its_own_writes() {
        let replay = Replay::new(&[put(2, "a", "1")]).unwrap();
        let all = Action::Range {
            keys: Keys::From(String::new()),
            revision: 0,
            limit: 0,
            serializable: false,
            count_only: false,
            keys_only: false,
        };
        let one = Action::Put { key: "b".to_owned(), value: "2".to_owned(), lease: 0, prev_kv: false };
        let delete = Action::Delete { keys: Keys::One("a".to_owned()), prev_kv: true };
        let txn = Action::Txn { compare: Vec::new(), success: vec![one, delete, all], failure: Vec::new() };
        let (body, changes) = replay.evaluate(&txn, 2);
        let Body::Txn { succeeded: true, bodies } = body else { panic!("{body:?}") };
        let Body::Range { kvs, count: 1, more: false } = &bodies[2] else { panic!("{bodies:?}") };
        assert_eq!((&kvs[0].key[..], kvs[0].create_revision), ("b", 3));
        assert_eq!(changes, [put(3, "b", "2"), Change { value: None, ..put(3, "a", "") }]);
    }

    #[test]
    fn changes_out_of_order_are_refused() {
        assert_eq!(Replay::new(&[put(3, "a", "1"), put(2, "a", "2")]).unwrap_err().rule, "order of changes");
    }
}
