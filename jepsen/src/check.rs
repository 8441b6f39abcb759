//! Decides whether a history of operations can be explained by the cluster's own list of changes.
//!
//! The changes come from a watch since the first revision, so the order of writes is given and need
//! not be searched for: a history is linearizable when every acknowledged operation stands at its
//! revision, and revisions agree with real time. An operation of unknown outcome may be in the
//! changes or not; one that was refused must not be.
//!
//! Every write carries a value that no other write has, which is how a change names its operation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::client::Event;

/// The key that all writers count up by compare-and-swap.
pub const COUNTER: &str = "j/counter";

/// What an operation tried to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Put a value that is used once.
    Put(String),
    /// Put a value that is used once if the key's last change was at this revision.
    Swap(i64, String),
    /// Read the key, linearizably.
    Read,
}

/// What the client knows of an operation afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// A write took effect at this revision.
    Wrote(i64),
    /// At this revision, the key had this change (or none at all); also a swap that did not match.
    Saw(i64, Option<(String, i64)>),
    /// The server refused it.
    Refused(String),
    /// Nobody told.
    Unknown(String),
}

/// One operation of the history; times are nanoseconds since the load began.
#[derive(Clone, Debug)]
pub struct Op {
    /// The writer that attempted it.
    pub writer: u32,
    /// The member that it was sent to.
    pub endpoint: String,
    /// The key.
    pub key: String,
    /// What was attempted.
    pub kind: Kind,
    /// When the request was sent.
    pub start: u64,
    /// When its outcome was known.
    pub end: u64,
    /// The outcome.
    pub known: Known,
}

impl Op {
    fn value(&self) -> Option<&str> {
        match &self.kind {
            Kind::Put(value) | Kind::Swap(_, value) => Some(value),
            Kind::Read => None,
        }
    }

    fn acked_revision(&self) -> Option<i64> {
        match &self.known {
            Known::Wrote(revision) | Known::Saw(revision, _) => Some(*revision),
            Known::Refused(_) | Known::Unknown(_) => None,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (self.start as f64 / 1e6, self.end as f64 / 1e6);
        write!(f, "{start:>10.2}..{end:<10.2} ms writer {:>2} ", self.writer)?;
        // Dots pad the values; they only make a line long.
        let text = format!("{} {} {:?} -> {:?}", self.endpoint, self.key, self.kind, self.known);
        f.write_str(&text.replace("....", ""))
    }
}

/// A contradiction, with the operations around it.
#[derive(Debug)]
pub struct Violation {
    /// What cannot be explained.
    pub what: String,
    /// The history around it, one operation a line.
    pub around: String,
}

/// How much a check has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Writes that were acknowledged.
    pub wrote: usize,
    /// Reads (and swaps that did not match) that were answered.
    pub saw: usize,
    /// Operations that were refused.
    pub refused: usize,
    /// Operations whose outcome is unknown.
    pub unknown: usize,
    /// How many of the unknown ones took effect.
    pub unknown_effective: usize,
    /// Changes that the cluster tells of.
    pub events: usize,
}

/// Checks a whole history against the cluster's changes and its final state.
///
/// # Errors
/// The first contradiction found.
pub fn check(ops: &[Op], events: &[Event], state: &[Event]) -> Result<Summary, Violation> {
    let mut summary = Summary { events: events.len(), ..Summary::default() };
    let changes = Changes::new(ops, events)?;
    let mut effective = vec![None; ops.len()];
    for (index, event) in events.iter().enumerate() {
        let op = changes.writers.get(event.value.as_str());
        let op = *op.ok_or_else(|| violation(ops, None, format!("nobody wrote {event:?}")))?;
        if ops[op].key != event.key {
            return Err(violation(ops, Some(op), format!("{event:?} is not the key that was written")));
        }
        if effective[op].replace(event.revision).is_some() {
            return Err(violation(ops, Some(op), format!("written twice: {event:?}")));
        }
        if event.key == COUNTER {
            changes.counts_up(ops, op, index, event)?;
        }
    }
    for (index, op) in ops.iter().enumerate() {
        let fail = |what: String| Err(violation(ops, Some(index), what));
        match (&op.known, effective[index]) {
            (Known::Wrote(revision), Some(at)) if *revision == at => summary.wrote += 1,
            (Known::Wrote(revision), None) => {
                return fail(format!("acknowledged write lost: revision {revision}"));
            }
            (Known::Wrote(revision), Some(at)) => {
                return fail(format!("acknowledged at {revision}, done at {at}"));
            }
            (Known::Saw(..) | Known::Refused(_), Some(at)) => {
                return fail(format!("took effect at {at} although the answer says that it did not"));
            }
            (Known::Saw(revision, seen), None) => {
                summary.saw += 1;
                let there = changes.at(&op.key, *revision);
                if seen.as_ref().map(|(value, at)| (value.as_str(), *at)) != there {
                    return fail(format!(
                        "a read saw {seen:?}, but at revision {revision} there was {there:?}"
                    ));
                }
            }
            (Known::Refused(_), None) => summary.refused += 1,
            (Known::Unknown(_), at) => {
                summary.unknown += 1;
                summary.unknown_effective += usize::from(at.is_some());
            }
        }
    }
    real_time(ops, &effective)?;
    changes.final_state(ops, state)?;
    Ok(summary)
}

/// Every operation stands after all operations that ended before it began.
fn real_time(ops: &[Op], effective: &[Option<i64>]) -> Result<(), Violation> {
    let mut by_start: Vec<usize> = (0..ops.len()).collect();
    by_start.sort_by_key(|index| ops[*index].start);
    let mut by_end: Vec<usize> =
        (0..ops.len()).filter(|index| ops[*index].acked_revision().is_some()).collect();
    by_end.sort_by_key(|index| ops[*index].end);
    let mut ended = by_end.into_iter().peekable();
    let mut newest = (0, None);
    for index in by_start {
        while let Some(before) = ended.next_if(|before| ops[*before].end < ops[index].start) {
            newest = newest.max((ops[before].acked_revision().unwrap_or(0), Some(before)));
        }
        // A write needs a revision of its own; a read may share one.
        let (revision, least) = match (effective[index], ops[index].acked_revision()) {
            (Some(at), _) => (at, newest.0 + 1),
            (None, Some(at)) => (at, newest.0),
            (None, None) => continue,
        };
        if revision < least {
            let before = newest.1.map(|before| ops[before].to_string()).unwrap_or_default();
            let what = format!("stands at revision {revision}, yet began after this had ended: {before}");
            return Err(violation(ops, Some(index), what));
        }
    }
    Ok(())
}

struct Changes<'a> {
    writers: BTreeMap<&'a str, usize>,
    by_key: BTreeMap<&'a str, Vec<&'a Event>>,
}

impl<'a> Changes<'a> {
    fn new(ops: &'a [Op], events: &'a [Event]) -> Result<Self, Violation> {
        for pair in events.windows(2) {
            if pair[0].revision >= pair[1].revision {
                return Err(violation(ops, None, format!("events out of order: {pair:?}")));
            }
        }
        let mut writers = BTreeMap::new();
        for (index, op) in ops.iter().enumerate() {
            if let Some(value) = op.value() {
                assert!(writers.insert(value, index).is_none(), "the load used the value {value} twice");
            }
        }
        let mut by_key: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
        for event in events {
            by_key.entry(&event.key).or_default().push(event);
        }
        Ok(Self { writers, by_key })
    }

    /// The key's change that a read at `revision` has to see.
    fn at(&self, key: &str, revision: i64) -> Option<(&str, i64)> {
        let changes = self.by_key.get(key)?;
        let seen = changes.partition_point(|event| event.revision <= revision);
        let event = changes.get(seen.checked_sub(1)?)?;
        Some((&event.value, event.revision))
    }

    /// A swap has replaced exactly the change that it compared with.
    fn counts_up(&self, ops: &[Op], op: usize, index: usize, event: &Event) -> Result<(), Violation> {
        let before = self.at(COUNTER, event.revision - 1).map_or(0, |(_, revision)| revision);
        match &ops[op].kind {
            Kind::Swap(compared, _) if *compared == before => Ok(()),
            kind => {
                let what = format!("event {index}: {kind:?} took effect over revision {before}: lost update");
                Err(violation(ops, Some(op), what))
            }
        }
    }

    fn final_state(&self, ops: &[Op], state: &[Event]) -> Result<(), Violation> {
        let told: BTreeSet<&str> = state.iter().map(|event| event.key.as_str()).collect();
        for (key, changes) in &self.by_key {
            let last = changes.last().expect("a key is listed with its first change");
            let at = state.iter().position(|event| event.key == *key);
            if !told.contains(key) || at.is_none_or(|at| state[at] != **last) {
                let found = at.map(|at| &state[at]);
                let writer = self.writers.get(last.value.as_str()).copied();
                return Err(violation(ops, writer, format!("final state has {found:?} instead of {last:?}")));
            }
        }
        match state.iter().find(|event| !self.by_key.contains_key(event.key.as_str())) {
            Some(extra) => {
                Err(violation(ops, None, format!("final state has {extra:?}, which never changed")))
            }
            None => Ok(()),
        }
    }
}

fn violation(ops: &[Op], at: Option<usize>, what: String) -> Violation {
    let Some(at) = at else {
        return Violation { what, around: String::new() };
    };
    let center = &ops[at];
    let mut near: Vec<&Op> = ops.iter().collect();
    near.sort_by_key(|op| op.start.abs_diff(center.start));
    near.truncate(24);
    let mut same: Vec<&Op> = ops.iter().filter(|op| op.key == center.key).collect();
    same.sort_by_key(|op| op.start.abs_diff(center.start));
    same.truncate(12);
    let mut around = format!("the operation: {center}\n");
    for (title, mut list) in [("near it in time:", near), ("on its key:", same)] {
        list.sort_by_key(|op| op.start);
        around += title;
        around.push('\n');
        for op in list {
            around += &format!("  {op}\n");
        }
    }
    Violation { what, around }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
