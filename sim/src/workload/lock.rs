//! etcd's lock, as its clients build it: a key below a prefix, attached to a lease; the oldest key holds
//! the lock, and its creation's revision is the token that every protected write has to show.

use bytes::Bytes;
use cairn_checkers::lock::{LockEvent, Step};
use cairn_core::api::{
    Compare, CompareResult, CompareTarget, PutRequest, RangeRequest, Request, RequestOp, ResponseBody,
    TxnRequest,
};

use super::Draw;
use super::script::{Claims, Record, Script, Told};

/// Where a claim stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// A lease is to be granted.
    #[default]
    Lease,
    /// The key is to be created.
    Create,
    /// Older keys are waited for.
    Wait,
    /// It holds, and writes so many times more.
    Hold(u64),
    /// It gives the lock back.
    Release,
}

/// A client that claims what one client at a time may have: the oldest key below a prefix.
#[derive(Clone, Debug, Default)]
pub(super) struct Claim {
    stage: Stage,
    lease: i64,
    /// When the key was asked for, and the revision of its creation.
    called: u64,
    token: i64,
}

impl Claim {
    /// What to ask next.
    pub(super) fn next(&mut self, prefix: &str, draw: &mut Draw<'_>) -> Request {
        let key: Bytes = format!("{prefix}/{:x}", self.lease).into();
        let created = |revision| Compare {
            result: CompareResult::Equal,
            target: CompareTarget::Create(revision),
            key: key.clone(),
            range_end: Bytes::new(),
        };
        let get = RequestOp::Range(RangeRequest { key: key.clone(), ..RangeRequest::default() });
        match self.stage {
            Stage::Lease => Request::LeaseGrant { id: 0, ttl: 2 + draw.rng.below(4) as i64 },
            Stage::Create => {
                let (value, lease) = (draw.value(), self.lease);
                let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
                Request::Txn(TxnRequest {
                    compare: vec![created(0)],
                    success: vec![RequestOp::Put(put)],
                    failure: vec![get],
                })
            }
            Stage::Wait => {
                let (start, end) = (format!("{prefix}/").into(), format!("{prefix}0").into());
                Request::Range(RangeRequest { key: start, range_end: end, ..RangeRequest::default() })
            }
            Stage::Hold(_) => {
                let put = PutRequest {
                    key: format!("{prefix}-resource").into(),
                    value: draw.value(),
                    ..PutRequest::default()
                };
                Request::Txn(TxnRequest {
                    compare: vec![created(self.token)],
                    success: vec![RequestOp::Put(put)],
                    failure: vec![get],
                })
            }
            Stage::Release => Request::LeaseRevoke { id: self.lease },
        }
    }

    /// What became of that; `claims` are the lock's, and its holder writes so many times.
    pub(super) fn told(&mut self, told: Told<'_>, writes: u64, claims: &mut Claims) {
        let Some(Ok(response)) = told.answer else {
            // Whatever was asked may come true or not: the lease runs out by itself.
            self.stage = Stage::Lease;
            return;
        };
        let event = |token, step| LockEvent { at: told.at, client: told.client, token, step };
        self.stage = match (self.stage, &response.body) {
            (Stage::Lease, ResponseBody::LeaseGrant { id, .. }) => {
                self.lease = *id;
                Stage::Create
            }
            (Stage::Create, ResponseBody::Txn(txn)) if txn.succeeded => {
                (self.called, self.token) = (told.call, response.header.revision);
                Stage::Wait
            }
            (Stage::Wait, ResponseBody::Range(range)) => {
                let revisions = || range.kvs.iter().map(|kv| kv.create_revision);
                if !revisions().any(|revision| revision == self.token) {
                    // The lease has run out while others held the lock.
                    Stage::Lease
                } else if revisions().min() == Some(self.token) {
                    claims.push(event(self.token, Step::Granted { call: self.called }));
                    Stage::Hold(writes)
                } else {
                    Stage::Wait
                }
            }
            (Stage::Hold(left), ResponseBody::Txn(txn)) if txn.succeeded => {
                claims.accept(response.header.revision, event(self.token, Step::Accepted));
                if left > 1 { Stage::Hold(left - 1) } else { Stage::Release }
            }
            (Stage::Release, _) => {
                claims.push(event(self.token, Step::Released));
                Stage::Lease
            }
            _ => Stage::Lease,
        };
    }
}

/// A client of the lock.
#[derive(Clone, Debug, Default)]
pub struct Lock(Claim);

/// Writes under one lock.
const WRITES: u64 = 2;

impl Script for Lock {
    fn next(&mut self, draw: &mut Draw<'_>) -> Request {
        self.0.next("lock", draw)
    }

    fn told(&mut self, told: Told<'_>, record: &mut Record) {
        self.0.told(told, WRITES, &mut record.lock);
    }
}
