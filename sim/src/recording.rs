//! What a run did, kept for a report: the trace's lines, the marks of members' lanes, the history, and
//! the way to each member's disk. Kept outside of the run, so that it survives a failed assertion.
//!
//! **Invariant:** recording changes nothing that a run does, and a run that is not recorded pays nothing.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cairn_checkers::page::{Kind, Mark};
use cairn_checkers::{Operation, Outcome};
use cairn_core::node::NodeEvent;

use crate::disk::SimDisk;
use crate::driver::Member;
use crate::shrink::OpName;

/// Everything that was recorded.
#[derive(Default)]
#[allow(missing_docs)]
pub struct Recorded {
    pub now: u64,
    pub lines: Vec<String>,
    pub marks: Vec<Mark>,
    /// By their numbers, from 1.
    pub operations: Vec<Operation>,
    /// Ids and names.
    pub members: Vec<(u64, String)>,
    /// The names of the faults that struck and of the operations that clients asked.
    pub faults: Vec<u64>,
    pub asked: Vec<OpName>,
    /// The operations that show the violation.
    pub blamed: Vec<u64>,
    /// The disk of each member, by the member's name.
    pub disks: Vec<(String, SimDisk)>,
}

/// A handle; clones record into one.
#[derive(Clone, Default)]
pub struct Recording(Arc<Mutex<Recorded>>);

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recording")
    }
}

impl Recording {
    /// Adds to what was recorded, or reads it.
    pub fn with<T>(&self, body: impl FnOnce(&mut Recorded) -> T) -> T {
        body(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Recorded {
    /// A member that is new, and its disk.
    pub fn member(&mut self, member: &Member) {
        self.members.push((member.id, member.name.clone()));
        self.disks.push((member.name.clone(), member.disk.clone()));
    }

    /// A mark in a member's lane.
    pub fn mark(&mut self, at: u64, member: u64, kind: Kind, value: u64, text: impl Into<String>) {
        self.marks.push(Mark { at, member, kind, value, text: text.into() });
    }

    /// What a node says of itself.
    pub fn event(&mut self, at: u64, member: u64, event: &NodeEvent) {
        let (kind, value) = match event {
            NodeEvent::BecameLeader { term } => (Kind::Leader, *term),
            NodeEvent::BecameFollower { term } => (Kind::Follower, *term),
            NodeEvent::BecameCandidate { term } => (Kind::Candidate, *term),
            NodeEvent::SnapshotInstalled { index } => (Kind::Note, *index),
            NodeEvent::CompactionFinished { revision } => (Kind::Note, revision.unsigned_abs()),
            _ => return,
        };
        self.mark(at, member, kind, value, format!("{event:?}"));
    }

    /// An answer came, or will not.
    pub fn told(&mut self, number: u64, at: u64, outcome: Outcome) {
        if let Some(operation) = usize::try_from(number).ok().and_then(|at| self.operations.get_mut(at - 1)) {
            (operation.ret, operation.outcome) = (at, outcome);
        }
    }
}
