//! Decides whether a history of operations can be explained by the cluster's own list of changes.
//!
//! The judging is done by `cairn-checkers`, with the same checkers that the simulator uses; this module
//! says what the load's operations are in their terms, and shows what was near a contradiction.
//!
//! Every write carries a value that no other write has, which is how a change names its operation.

use std::collections::BTreeSet;
use std::fmt;

use cairn_checkers::history::{NEVER, Relation, Target};
use cairn_checkers::page::Page;
use cairn_checkers::{
    Action, Body, Change, Compare, Keys, Kv, Operation, Outcome, Replay, durability, revision_order,
};

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
    /// At this revision, this was the key's state (or it was not there); also a swap that did not match.
    Saw(i64, Option<Kv>),
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
    /// The whole history as a page of HTML.
    pub page: String,
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
pub fn check(ops: &[Op], events: &[Event], state: &[Kv]) -> Result<Summary, Violation> {
    let operations: Vec<Operation> = ops.iter().zip(0..).map(operation).collect();
    let changes: Vec<Change> = events.iter().map(change).collect();
    let judged = || {
        let replay = Replay::new(&changes)?;
        let effects = durability::effects(&operations, &replay)?;
        revision_order::check(&operations, &effects, &replay)?;
        durability::state(state, &replay)?;
        Ok(effects)
    };
    let effects = judged()
        .map_err(|violation| Violation { page: page(&operations, &violation), ..around(ops, &violation) })?;
    let mut summary = Summary { events: events.len(), ..Summary::default() };
    for (op, effect) in ops.iter().zip(effects) {
        match &op.known {
            Known::Wrote(_) => summary.wrote += 1,
            Known::Saw(..) => summary.saw += 1,
            Known::Refused(_) => summary.refused += 1,
            Known::Unknown(_) => {
                summary.unknown += 1;
                summary.unknown_effective += usize::from(effect.is_some());
            }
        }
    }
    Ok(summary)
}

fn change(event: &Event) -> Change {
    let Event { key, value, revision } = event.clone();
    Change { revision, key, value: Some(value), lease: 0 }
}

fn operation((op, number): (&Op, u64)) -> Operation {
    let put =
        |value: &String| Action::Put { key: op.key.clone(), value: value.clone(), lease: 0, prev_kv: false };
    let read = Action::Range {
        keys: Keys::One(op.key.clone()),
        revision: 0,
        limit: 0,
        serializable: false,
        count_only: false,
        keys_only: false,
    };
    let seen = |kv: &Option<Kv>| {
        let kvs: Vec<Kv> = kv.iter().cloned().collect();
        Body::Range { count: kvs.len() as i64, kvs, more: false }
    };
    let action = match &op.kind {
        Kind::Put(value) => put(value),
        Kind::Swap(compared, value) => Action::Txn {
            compare: vec![Compare {
                key: op.key.clone(),
                relation: Relation::Equal,
                target: Target::Mod(*compared),
            }],
            success: vec![put(value)],
            failure: vec![read],
        },
        Kind::Read => read,
    };
    let outcome = match (&op.known, &op.kind) {
        (Known::Wrote(revision), Kind::Swap(..)) => {
            let bodies = vec![Body::Put { prev: None }];
            Outcome::Ok { revision: *revision, body: Body::Txn { succeeded: true, bodies } }
        }
        (Known::Wrote(revision), _) => Outcome::Ok { revision: *revision, body: Body::Put { prev: None } },
        (Known::Saw(revision, kv), Kind::Swap(..)) => {
            let bodies = vec![seen(kv)];
            Outcome::Ok { revision: *revision, body: Body::Txn { succeeded: false, bodies } }
        }
        (Known::Saw(revision, kv), _) => Outcome::Ok { revision: *revision, body: seen(kv) },
        (Known::Refused(error), _) => Outcome::Refused { error: error.clone() },
        (Known::Unknown(why), _) => Outcome::Unknown { why: why.clone() },
    };
    let ret = if matches!(outcome, Outcome::Unknown { .. }) { NEVER } else { op.end };
    let client = u64::from(op.writer);
    // A member is named by its port.
    let member = op.endpoint.parse().unwrap_or(0);
    Operation { number, client, member, boot: 0, call: op.start, ret, action, outcome }
}

fn around(ops: &[Op], violation: &cairn_checkers::Violation) -> Violation {
    let what = violation.to_string();
    let first = violation.operations.first().and_then(|number| usize::try_from(*number).ok());
    let Some(center) = first.and_then(|at| ops.get(at)) else {
        return Violation { what, around: String::new(), page: String::new() };
    };
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
    Violation { what, around, page: String::new() }
}

/// The page that the simulator writes for a failed seed, without members' lanes.
fn page(operations: &[Operation], violation: &cairn_checkers::Violation) -> String {
    let members: BTreeSet<u64> = operations.iter().map(|op| op.member).collect();
    let members: Vec<(u64, String)> = members.into_iter().map(|port| (port, port.to_string())).collect();
    let ended = operations.iter().filter(|op| op.ret < NEVER).map(|op| op.ret).max();
    let page = Page {
        title: "Cairn: real processes".to_owned(),
        replay: "cairn-jepsen, with the seed that it printed".to_owned(),
        violation,
        failed_at: ended.unwrap_or(0),
        members: &members,
        operations,
        marks: &[],
    };
    page.html()
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
