//! What clients ask for. Each file draws the requests of one kind; this one mixes them.

pub mod append;
pub mod cas;
pub mod compact;
pub mod election;
pub mod lease;
pub mod lock;
pub mod member;
pub mod quota;
pub mod register;
pub mod script;
pub mod txn;
pub mod watch;

use bytes::Bytes;
use cairn_core::api::{AlarmAction, AlarmKind, AlarmRequest, Request};
use cairn_core::rng::Rng;

use crate::options::Options;

/// What the workloads know of the run so far.
#[derive(Debug)]
pub struct Draw<'a> {
    /// The run's options.
    pub options: &'a Options,
    /// The client's generator.
    pub rng: &'a mut Rng,
    /// Makes values unique.
    pub number: u64,
    /// The newest revision that clients know of.
    pub revision: i64,
    /// The newest acknowledged compaction.
    pub compact: i64,
    /// Leases that clients were granted.
    pub leases: &'a [i64],
    /// A member that could lead.
    pub member: u64,
}

impl Draw<'_> {
    /// A key.
    pub fn key(&mut self) -> Bytes {
        format!("k{:02}", self.rng.below(self.options.keys)).into()
    }

    /// A value that no other operation writes.
    pub fn value(&mut self) -> Bytes {
        let mut value = format!("v{}", self.number).into_bytes();
        value.resize(value.len() + self.rng.below(self.options.value_bytes) as usize, b'.');
        value.into()
    }

    /// A key and a range end: one key, some or all.
    pub fn range(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        match self.rng.below(4) {
            0 => (Bytes::from_static(b"k"), Bytes::from_static(b"l")),
            1 => {
                let end = self.key();
                (key, end)
            }
            2 => (key, Bytes::from_static(b"\0")),
            _ => (key, Bytes::new()),
        }
    }

    /// The next request.
    pub fn request(&mut self) -> Request {
        let mix = self.options.mix;
        let weights = [
            mix.put,
            mix.txn,
            mix.delete,
            mix.range,
            mix.stale,
            mix.history,
            mix.lease,
            mix.compact,
            mix.hash,
            mix.admin,
        ];
        match choose(self.rng, &weights) {
            0 => register::put(self),
            1 => txn::txn(self),
            2 => register::delete(self),
            3 => register::range(self, false),
            4 => register::range(self, true),
            5 => register::history(self),
            6 => lease::request(self),
            7 => compact::request(self),
            8 => Request::HashKv { revision: 0 },
            _ => self.admin(),
        }
    }

    fn admin(&mut self) -> Request {
        match self.rng.below(6) {
            0 => Request::MoveLeader { target: self.member },
            1 => Request::MemberList { linearizable: true },
            2 => Request::Defragment,
            3 => Request::Status,
            4 => Request::LeaseLeases,
            _ => Request::Alarm(AlarmRequest {
                action: AlarmAction::Deactivate,
                member_id: self.member,
                alarm: Some(AlarmKind::NoSpace),
            }),
        }
    }
}

/// An index, as likely as its weight.
pub fn choose(rng: &mut Rng, weights: &[u64]) -> usize {
    let mut at = rng.below(weights.iter().sum());
    for (index, weight) in weights.iter().enumerate() {
        if at < *weight {
            return index;
        }
        at -= weight;
    }
    0
}
