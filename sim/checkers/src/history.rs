//! A history: operations with the client that asked, the times of call and return, what was asked and
//! what is known of the outcome; the cluster's list of changes; what watchers were sent; what is known
//! of leases.
//!
//! Plain data that serialises to JSON. Keys and values are text, because histories are read by people.
//!
//! **Invariant:** an outcome is known only when an answer said so. Everything else is
//! [`Outcome::Unknown`] and may have taken effect at any time after the call, or never.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The return time of an operation that never returned.
pub const NEVER: u64 = u64::MAX;

/// A key with its metadata, as a reply shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Kv {
    pub key: String,
    pub value: String,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: i64,
}

/// A set of keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Keys {
    /// Exactly one.
    One(String),
    /// From the first, before the second.
    Span(String, String),
    /// From this one to the end.
    From(String),
}

impl Keys {
    /// Whether a key is among them.
    pub fn contains(&self, key: &str) -> bool {
        match self {
            Keys::One(only) => only == key,
            Keys::Span(start, end) => start.as_str() <= key && key < end.as_str(),
            Keys::From(start) => start.as_str() <= key,
        }
    }
}

/// What a transaction compares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The version.
    Version(i64),
    /// The revision of the creation.
    Create(i64),
    /// The revision of the last change.
    Mod(i64),
    /// The value.
    Value(String),
    /// The lease.
    Lease(i64),
}

/// One condition of a transaction: the stored value stands in this relation to the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Compare {
    pub key: String,
    pub relation: Relation,
    pub target: Target,
}

/// A relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Relation {
    Equal,
    Greater,
    Less,
    NotEqual,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Action {
    Put { key: String, value: String, lease: i64, prev_kv: bool },
    Delete { keys: Keys, prev_kv: bool },
    Range { keys: Keys, revision: i64, limit: i64, serializable: bool, count_only: bool, keys_only: bool },
    Txn { compare: Vec<Compare>, success: Vec<Action>, failure: Vec<Action> },
    Compact { revision: i64 },
    Grant { id: i64, ttl: i64 },
    Revoke { id: i64 },
    KeepAlive { id: i64 },
    HashKv,
    Other { what: String },
}

impl Action {
    /// The values that it would write.
    pub fn values(&self) -> Vec<&str> {
        match self {
            Action::Put { value, .. } => vec![value],
            Action::Txn { success, failure, .. } => {
                success.iter().chain(failure).flat_map(Action::values).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether it can change keys.
    pub fn writes(&self) -> bool {
        match self {
            Action::Put { .. } | Action::Delete { .. } | Action::Revoke { .. } => true,
            Action::Txn { success, failure, .. } => success.iter().chain(failure).any(Action::writes),
            _ => false,
        }
    }

    /// Whether a member may answer it from what it has, however old.
    pub fn serializable(&self) -> bool {
        match self {
            Action::Range { serializable, .. } => *serializable,
            Action::Txn { success, failure, .. } => success.iter().chain(failure).all(Action::serializable),
            _ => false,
        }
    }
}

/// What a reply carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Body {
    Put { prev: Option<Kv> },
    Delete { deleted: i64, prev: Vec<Kv> },
    Range { kvs: Vec<Kv>, count: i64, more: bool },
    Txn { succeeded: bool, bodies: Vec<Body> },
    Compact,
    Lease { id: i64, ttl: i64 },
    Hash { hash: u32, revision: i64, compact_revision: i64 },
    Other,
}

/// What is known of an operation afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Outcome {
    /// It was answered at this revision of the store.
    Ok { revision: i64, body: Body },
    /// It was refused and has no effect.
    Refused { error: String },
    /// Nobody can say.
    Unknown { why: String },
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Operation {
    /// Names it in violations.
    pub number: u64,
    pub client: u64,
    /// The member that was asked, and which of its starts.
    pub member: u64,
    pub boot: u64,
    pub call: u64,
    /// [`NEVER`] where there was no answer.
    pub ret: u64,
    pub action: Action,
    pub outcome: Outcome,
}

impl Operation {
    /// The revision of the answer.
    pub fn revision(&self) -> Option<i64> {
        match self.outcome {
            Outcome::Ok { revision, .. } => Some(revision),
            _ => None,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (call, ret) = (self.call as f64 / 1e6, self.ret as f64 / 1e6);
        write!(f, "#{} {call:.3}..", self.number)?;
        if self.ret == NEVER {
            write!(f, "never")?;
        } else {
            write!(f, "{ret:.3} ms")?;
        }
        let text =
            format!(" client {} of {:x}: {:?} -> {:?}", self.client, self.member, self.action, self.outcome);
        // Dots pad the values of some loads; they only make a line long.
        f.write_str(&text.replace("....", ""))
    }
}

/// One change of a key, in the cluster's own order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Change {
    /// The revision of the transaction that made it.
    pub revision: i64,
    pub key: String,
    /// `None`: the key was deleted.
    pub value: Option<String>,
    pub lease: i64,
}

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct History {
    pub operations: Vec<Operation>,
    /// Every change since the first revision.
    pub changes: Vec<Change>,
}

/// A contradiction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The property that does not hold.
    pub rule: String,
    /// Why.
    pub what: String,
    /// The numbers of the operations that show it; the first is the one to look at.
    pub operations: Vec<u64>,
}

impl Violation {
    /// A contradiction that these operations show.
    pub fn new(rule: &str, what: impl Into<String>, operations: &[u64]) -> Self {
        Self { rule: rule.to_owned(), what: what.into(), operations: operations.to_vec() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}
