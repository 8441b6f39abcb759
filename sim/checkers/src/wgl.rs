//! The full search for a linearization (Wing and Gong 1993), with Lowe's memo of configurations (*Testing
//! for Linearizability*, 2017): which operations were taken and the state that they led to.
//!
//! Nothing is assumed but the sequential specification, so it is slow where the order by revisions is
//! fast, and judges that one. An operation without a return may be taken at any time or never.
//!
//! **Invariant:** the search is bounded by a number of steps, so the same history has the same verdict
//! on every machine; a spent budget is `Unknown`.

use std::collections::BTreeSet;

use crate::history::NEVER;

/// A sequential object.
pub trait Spec {
    /// What it holds.
    type State: Clone + Ord;
    /// An operation together with its answer.
    type Op;

    /// What it holds at first.
    fn initial(&self) -> Self::State;

    /// The states after the operation, if the answer is right; more than one if it leaves that open.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Vec<Self::State>;
}

/// One operation with its times; [`NEVER`] if it did not return.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Call<O> {
    pub call: u64,
    pub ret: u64,
    pub op: O,
}

/// What the search says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The positions of the operations in an order that explains all answers.
    Linearizable(Vec<usize>),
    /// No order does. The longest attempt, and the operations that could not follow it.
    Illegal(Vec<usize>, Vec<usize>),
    /// The budget is spent.
    Unknown,
}

/// The calls and returns in the order of time, as a doubly linked list from which operations are lifted
/// while they are taken.
struct Entries {
    /// The operation, and whether this is its return.
    of: Vec<(usize, bool)>,
    next: Vec<usize>,
    prev: Vec<usize>,
    /// Where each operation's return stands; none if it has none.
    ret: Vec<Option<usize>>,
    call: Vec<usize>,
}

/// The list's head.
const HEAD: usize = 0;

impl Entries {
    fn new<O>(calls: &[Call<O>]) -> Self {
        // At one time calls come first: operations that touch overlap.
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (at, call) in calls.iter().enumerate() {
            events.push((call.call, false, at));
            if call.ret != NEVER {
                events.push((call.ret, true, at));
            }
        }
        events.sort_unstable();
        let count = events.len() + 1;
        let mut entries = Self {
            of: vec![(usize::MAX, true); 1],
            next: (1..=count).map(|next| next % count).collect(),
            prev: (0..count).map(|at| (at + count - 1) % count).collect(),
            ret: vec![None; calls.len()],
            call: vec![0; calls.len()],
        };
        for (_, is_return, op) in events {
            let at = entries.of.len();
            if is_return {
                entries.ret[op] = Some(at);
            } else {
                entries.call[op] = at;
            }
            entries.of.push((op, is_return));
        }
        entries
    }

    fn unlink(&mut self, at: usize) {
        let (prev, next) = (self.prev[at], self.next[at]);
        self.next[prev] = next;
        self.prev[next] = prev;
    }

    fn relink(&mut self, at: usize) {
        let (prev, next) = (self.prev[at], self.next[at]);
        self.next[prev] = at;
        self.prev[next] = at;
    }

    fn lift(&mut self, op: usize) {
        self.unlink(self.call[op]);
        if let Some(at) = self.ret[op] {
            self.unlink(at);
        }
    }

    fn unlift(&mut self, op: usize) {
        if let Some(at) = self.ret[op] {
            self.relink(at);
        }
        self.relink(self.call[op]);
    }
}

/// Looks for a linearization in at most `budget` steps.
pub fn search<S: Spec>(spec: &S, calls: &[Call<S::Op>], budget: u64) -> Verdict {
    let mut entries = Entries::new(calls);
    let mut required = calls.iter().filter(|call| call.ret != NEVER).count();
    let mut taken = vec![0_u64; calls.len().div_ceil(64)];
    let mut seen: BTreeSet<(Vec<u64>, S::State)> = BTreeSet::new();
    // Operations that were taken, with the state before and the successors that were not tried.
    let mut path: Vec<(usize, S::State, Vec<S::State>)> = Vec::new();
    let mut state = spec.initial();
    let mut at = entries.next[HEAD];
    let mut longest: (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut blocked = Vec::new();
    let mut steps = 0;
    while required > 0 {
        steps += 1;
        if steps > budget {
            return Verdict::Unknown;
        }
        let (op, is_return) = entries.of[at];
        if !is_return {
            let mut successors = spec.step(&state, &calls[op].op);
            taken[op / 64] |= 1 << (op % 64);
            successors.retain(|next| seen.insert((taken.clone(), next.clone())));
            if let Some(next) = successors.pop() {
                path.push((op, std::mem::replace(&mut state, next), successors));
                required -= usize::from(calls[op].ret != NEVER);
                entries.lift(op);
                at = entries.next[HEAD];
                blocked.clear();
                continue;
            }
            taken[op / 64] &= !(1 << (op % 64));
            blocked.push(op);
            at = entries.next[at];
            if at != HEAD {
                continue;
            }
        }
        // A return that has not been explained, or the end: something before was taken wrongly.
        if path.len() >= longest.0.len() {
            longest = (path.iter().map(|(op, ..)| *op).collect(), blocked.clone());
        }
        blocked.clear();
        loop {
            let Some((op, before, mut successors)) = path.pop() else {
                return Verdict::Illegal(longest.0, longest.1);
            };
            if let Some(next) = successors.pop() {
                path.push((op, before, successors));
                state = next;
                at = entries.next[HEAD];
                break;
            }
            entries.unlift(op);
            taken[op / 64] &= !(1 << (op % 64));
            required += usize::from(calls[op].ret != NEVER);
            state = before;
            at = entries.next[entries.call[op]];
            if at != HEAD {
                break;
            }
        }
    }
    Verdict::Linearizable(path.into_iter().map(|(op, ..)| op).collect())
}

#[cfg(test)]
#[path = "wgl_tests.rs"]
mod tests;
