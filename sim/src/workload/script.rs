//! Clients that ask several things in a row, each after the answer to the one before.
//!
//! **Invariant:** a script that did not hear an answer does not know the outcome, and starts over
//! without assuming any.

use std::fmt::Debug;

use cairn_checkers::append::Txn;
use cairn_checkers::lock::LockEvent;
use cairn_core::api::Request;
use cairn_core::rng::Rng;

use super::append::Append;
use super::cas::Cas;
use super::election::Election;
use super::lock::Lock;
use super::quota::Quota;
use super::{Draw, choose};
use crate::history::Answer;
use crate::options::Options;

/// What a script did, for the checkers at the end of a run.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Transactions that append to lists.
    pub appends: Vec<Txn>,
    /// What happened to the lock.
    pub lock: Claims,
    /// What happened to the leadership that clients campaign for.
    pub election: Claims,
}

/// What happened to something that one client at a time may have.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    events: Vec<LockEvent>,
    accepted: Vec<(i64, LockEvent)>,
}

impl Claims {
    /// A claim was granted or given back.
    pub fn push(&mut self, event: LockEvent) {
        self.events.push(event);
    }

    /// A write with its token was accepted at a revision: the order of answers says nothing about it.
    pub fn accept(&mut self, revision: i64, event: LockEvent) {
        self.accepted.push((revision, event));
    }

    /// Everything, writes in the order in which they took effect.
    pub fn in_order(&self) -> Vec<LockEvent> {
        let mut accepted = self.accepted.clone();
        accepted.sort_by_key(|(revision, _)| *revision);
        let accepted = accepted.into_iter().map(|(_, event)| event);
        self.events.iter().copied().chain(accepted).collect()
    }
}

/// The end of an operation as its client sees it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The client.
    pub client: u64,
    /// The operation.
    pub number: u64,
    /// When it was asked.
    pub call: u64,
    /// Now.
    pub at: u64,
    /// The answer; `None` when nobody will ever know.
    pub answer: Option<&'a Answer>,
}

/// A client's program.
pub trait Script: Debug {
    /// What it asks next.
    fn next(&mut self, draw: &mut Draw<'_>) -> Request;

    /// What became of that.
    fn told(&mut self, told: Told<'_>, record: &mut Record);
}

/// Anything, with no memory.
#[derive(Debug)]
struct Mixed;

impl Script for Mixed {
    fn next(&mut self, draw: &mut Draw<'_>) -> Request {
        draw.request()
    }

    fn told(&mut self, _told: Told<'_>, _record: &mut Record) {}
}

/// A client's program, as the seed likes.
pub fn draw(rng: &mut Rng, client: u64, options: &Options) -> Box<dyn Script> {
    let full = u64::from(options.quota_bytes.is_some_and(|bytes| bytes < 1 << 30));
    match choose(rng, &[if options.scripts { 6 } else { 1 }, 2, 2, 2, 1, 6 * full]) {
        1 if options.scripts => Box::new(Append::new(client)),
        2 if options.scripts => Box::new(Cas::default()),
        3 if options.scripts => Box::new(Lock::default()),
        4 if options.scripts => Box::new(Election::default()),
        5 => Box::new(Quota::default()),
        _ => Box::new(Mixed),
    }
}
