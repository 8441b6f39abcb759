//! Requests that wait for an answer, and the first step of each.
//!
//! Invariant: every request that was accepted is answered exactly once: by its result, or by its
//! deadline. A timeout never means that a write did not happen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Node;
use super::peer_message::ProposalKind;
use crate::api::{AlarmAction, AlarmKind, Header, Request, Response, ResponseBody};
use crate::command::Op;
use crate::error::Error;
use crate::mvcc;
use crate::planted::{self, Bug};
use crate::time::Time;

/// What a request waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Its command is to be applied here.
    Apply,
    /// A read index, then the applied index.
    Read,
    /// The leader's answer.
    Forwarded,
    /// Physical compaction up to a revision.
    Compaction(i64),
    /// Physical compaction to be at rest, for a hash.
    Rest,
    /// The end of a defragmentation.
    Defragment,
    /// Another leader.
    Transfer(u64),
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) request: Request,
    pub(super) wait: Wait,
    pub(super) deadline: Time,
    /// The leader whose failure may be the cause of a timeout.
    pub(super) leader: u64,
}

/// All requests, by id and by deadline.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pending: BTreeMap<u64, Pending>,
    deadlines: BTreeSet<(Time, u64)>,
    /// How many wait for [`Wait::Rest`]: looked at after each apply.
    resting: usize,
}

impl Requests {
    pub(super) fn insert(&mut self, id: u64, pending: Pending) {
        self.deadlines.insert((pending.deadline, id));
        self.resting += usize::from(pending.wait == Wait::Rest);
        let before = self.pending.insert(id, pending);
        assert!(before.is_none(), "request id {id} was used twice");
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.deadlines.remove(&(pending.deadline, id));
        self.resting -= usize::from(pending.wait == Wait::Rest);
        Some(pending)
    }

    pub(super) fn get(&self, id: u64) -> Option<&Pending> {
        self.pending.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Pending> {
        self.pending.get_mut(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether a hash waits for physical compaction.
    pub(super) fn any_rests(&self) -> bool {
        self.resting > 0
    }

    /// Gives a request another deadline.
    pub(super) fn postpone(&mut self, id: u64, deadline: Time) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        self.deadlines.remove(&(pending.deadline, id));
        pending.deadline = deadline;
        self.deadlines.insert((deadline, id));
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(time, _)| *time)
    }

    pub(super) fn expired(&mut self, now: Time) -> Option<u64> {
        self.deadlines.first().filter(|(time, _)| *time <= now).map(|(_, id)| *id)
    }

    /// The ids that wait for something that `matches`.
    pub(super) fn waiting(&self, matches: impl Fn(&Wait) -> bool) -> Vec<u64> {
        self.pending.iter().filter(|(_, pending)| matches(&pending.wait)).map(|(id, _)| *id).collect()
    }

    /// The writes that wait to be applied, changes of the membership apart.
    pub(super) fn writes(&self) -> impl Iterator<Item = (u64, Op)> {
        let waiting = self.pending.iter().filter(|(_, pending)| pending.wait == Wait::Apply);
        waiting.filter_map(|(id, pending)| Some((*id, op_of(&pending.request)?)))
    }

    /// The ids of requests that are equal to this one.
    pub(super) fn asking(&self, request: &Request) -> Vec<u64> {
        self.pending.iter().filter(|(_, pending)| pending.request == *request).map(|(id, _)| *id).collect()
    }
}

impl Node {
    pub(super) fn handle_request(&mut self, id: u64, request: Request, timeout: Option<Duration>) {
        if self.requests.len() >= self.config.requests_max {
            return self.reply(id, Err(Error::TooManyRequests));
        }
        if let Err(error) = self.check_request(&request) {
            return self.reply(id, Err(error));
        }
        let limit = self.config.request_timeout();
        let deadline = self.now + timeout.map_or(limit, |timeout| timeout.min(limit));
        let pending = |wait| Pending { request: request.clone(), wait, deadline, leader: self.leader };
        match &request {
            Request::Range(range) if range.serializable => self.run_read(id, request),
            Request::Txn(txn) if mvcc::is_read_only(txn) && mvcc::is_serializable(txn) => {
                self.run_read(id, request);
            }
            Request::Txn(txn) if mvcc::is_read_only(txn) => self.read(id, pending(Wait::Read)),
            Request::Range(_)
            | Request::MemberList { linearizable: true }
            | Request::Alarm(crate::api::AlarmRequest { action: AlarmAction::Get, .. }) => {
                self.read(id, pending(Wait::Read));
            }
            Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. } => {
                let pending = pending(Wait::Read);
                if self.is_leader() { self.read(id, pending) } else { self.forward(id, pending) }
            }
            Request::Put(_)
            | Request::DeleteRange(_)
            | Request::Txn(_)
            | Request::Compact { .. }
            | Request::LeaseGrant { .. }
            | Request::LeaseRevoke { .. }
            | Request::Alarm(crate::api::AlarmRequest { alarm: Some(_), .. }) => {
                let pending = pending(Wait::Apply);
                self.write(id, pending);
            }
            // To raise or clear no alarm in particular does nothing.
            Request::Alarm(_) => self.answer(id, ResponseBody::Alarm { alarms: Vec::new() }),
            Request::MemberAdd { .. }
            | Request::MemberRemove { .. }
            | Request::MemberUpdate { .. }
            | Request::MemberPromote { .. } => {
                let pending = pending(Wait::Apply);
                self.change_membership(id, pending);
            }
            Request::MemberList { linearizable: false } => {
                let members = self.members();
                self.answer(id, ResponseBody::Members { members });
            }
            Request::LeaseLeases => {
                let leases = self.lessor.leases();
                self.answer(id, ResponseBody::LeaseLeases { leases });
            }
            Request::Status => {
                let body = ResponseBody::Status(self.status_response());
                self.answer(id, body);
            }
            Request::HashKv { .. } => {
                self.requests.insert(id, pending(Wait::Rest));
                self.run_rested_hashes();
            }
            Request::Hash => self.run_read(id, request),
            Request::Snapshot => match self.pin_view() {
                Ok(view) => self.answer(id, ResponseBody::Snapshot { view }),
                Err(fatal) => self.fail(fatal),
            },
            Request::Defragment => {
                let first = self.requests.waiting(|wait| *wait == Wait::Defragment).is_empty();
                // A file may take as long as its size demands: only the client's own limit counts.
                let deadline = timeout.map_or(Time(u64::MAX), |timeout| self.now + timeout);
                self.requests.insert(id, Pending { deadline, ..pending(Wait::Defragment) });
                if first {
                    self.flush.defragment_wanted = true;
                    self.flush.wanted = true;
                }
            }
            Request::MoveLeader { target } => self.move_leader(id, *target, pending(Wait::Transfer(*target))),
        }
    }

    /// What can be said of a request before anything else is known.
    fn check_request(&self, request: &Request) -> Result<(), Error> {
        let ops_max = self.config.txn_ops_max;
        match request {
            Request::Range(range) => mvcc::check_range(range),
            Request::Put(put) => mvcc::check_put(put),
            Request::DeleteRange(delete) => mvcc::check_delete_range(delete),
            Request::Txn(txn) => mvcc::check_txn(txn, ops_max),
            Request::LeaseGrant { ttl, .. } if *ttl > crate::lease::TTL_MAX => Err(Error::LeaseTtlTooLarge),
            _ => Ok(()),
        }?;
        let corrupt = self.alarms.iter().any(|alarm| alarm.alarm == AlarmKind::Corrupt);
        let refused_when_corrupt = matches!(request, Request::Range(_) | Request::Txn(_));
        if corrupt && refused_when_corrupt { Err(Error::Corrupt) } else { Ok(()) }
    }

    /// A write: refused for want of space or because the member is far behind, else proposed.
    fn write(&mut self, id: u64, mut pending: Pending) {
        let committed = self.raw.raft.raft_log.committed;
        if committed > self.applied + 5000 {
            return self.reply(id, Err(Error::TooManyRequests));
        }
        if let Some(cost) = space_needed(&pending.request)
            && !self.has_space(cost)
        {
            self.raise_no_space();
            return self.reply(id, Err(Error::NoSpace));
        }
        if let Request::LeaseGrant { id: lease, ttl } = &mut pending.request {
            if *lease == 0 {
                *lease = self.next_lease_id();
            }
            // Decided here once, because members may differ in their least TTL.
            *ttl = self.lessor.granted_ttl(*ttl);
        }
        let Some(op) = op_of(&pending.request) else {
            return self.reply(id, Err(Error::Other("not a write".to_owned())));
        };
        let command = self.command(id, op);
        let data = command.encode();
        if data.len() > self.config.request_bytes_max {
            return self.reply(id, Err(Error::RequestTooLarge));
        }
        self.requests.insert(id, pending);
        self.propose(command.id, ProposalKind::Normal, data.into());
    }

    /// An id that is not in use. As etcd's, ids of one member go up over its starts, so that the keys of
    /// lock recipes, which end in them, list in the order of the sessions.
    fn next_lease_id(&mut self) -> i64 {
        self.lease_ids += 1;
        let start = (self.config.boot / 1_000_000) & 0xff_ffff_ffff;
        let first = (self.config.member_id << 48) | ((start << 8) + self.lease_ids);
        self.lessor.choose_id(first << 1)
    }

    /// Whether `cost` more bytes fit under the quota, counting what is not flushed yet.
    fn has_space(&self, cost: u64) -> bool {
        let used = self.size.in_use + self.store.pending().bytes as u64;
        self.config.quota_bytes.is_none_or(|quota| used + cost <= quota)
    }

    pub(super) fn handle_storage_full(&mut self) {
        // The engine gives up a database after a failed write, for reads as well, and the driver has
        // opened another. Where it could not, what is cached of the old one can still be read.
        let _ = self.store.refresh();
        self.raise_no_space();
    }

    pub(super) fn raise_no_space(&mut self) {
        let member_id = self.config.member_id;
        let alarm = AlarmKind::NoSpace;
        if !self.alarms.contains(&crate::api::AlarmMember { member_id, alarm }) {
            self.propose_internal(Op::Alarm { action: AlarmAction::Activate, member_id, alarm });
        }
    }

    pub(super) fn header(&self) -> Header {
        Header {
            cluster_id: self.config.cluster_id,
            member_id: self.config.member_id,
            revision: self.store.revision(),
            raft_term: self.term,
        }
    }

    /// Answers a request that is not, or no longer, in the table.
    pub(super) fn reply(&mut self, id: u64, result: Result<Response, Error>) {
        self.emit_reply(id, result);
    }

    /// The same with the header of this moment. The replies about members carry no revision
    /// (A-GEN-01).
    pub(super) fn answer(&mut self, id: u64, body: ResponseBody) {
        let mut header = self.header();
        if matches!(body, ResponseBody::MemberAdd { .. } | ResponseBody::Members { .. }) {
            header.revision = 0;
        }
        self.reply(id, Ok(Response { header, body }));
    }

    /// Answers a waiting request, if it still waits.
    pub(super) fn finish(&mut self, id: u64, result: Result<ResponseBody, Error>) {
        if self.requests.remove(id).is_some() {
            match result {
                Ok(body) => self.answer(id, body),
                Err(error) => self.reply(id, Err(error)),
            }
        }
    }

    /// Ends the requests whose time is over.
    pub(super) fn expire_requests(&mut self) {
        if planted::on(Bug::RequestsWaitForever) {
            return;
        }
        while let Some(id) = self.requests.expired(self.now) {
            let pending = self.requests.remove(id).expect("it was just found");
            self.routing.forget(self.command_id(id));
            let error = match pending.wait {
                Wait::Transfer(_) => Error::TimeoutLeaderTransfer,
                Wait::Apply if pending.leader != self.leader => Error::TimeoutLeaderFail,
                Wait::Apply if !self.connected_to(self.leader) => Error::TimeoutConnectionLost,
                _ => Error::Timeout,
            };
            if pending.wait == Wait::Apply {
                self.event(super::NodeEvent::ProposalFailed);
            }
            let error = if planted::on(Bug::TimeoutAsRefusal) { Error::TooManyRequests } else { error };
            self.reply(id, Err(error));
        }
    }
}

/// The bytes that a request may add, if it is one that the quota governs (A-KV-60).
fn space_needed(request: &Request) -> Option<u64> {
    match request {
        Request::Put(put) => Some(mvcc::put_cost(put) as u64),
        Request::Txn(txn) => match mvcc::txn_cost(txn) {
            0 => None,
            cost => Some(cost as u64),
        },
        Request::LeaseGrant { .. } => Some(64),
        _ => None,
    }
}

fn op_of(request: &Request) -> Option<Op> {
    Some(match request.clone() {
        Request::Put(put) => Op::Put(put),
        Request::DeleteRange(delete) => Op::DeleteRange(delete),
        Request::Txn(txn) => Op::Txn(txn),
        Request::Compact { revision, .. } => Op::Compact { revision },
        Request::LeaseGrant { id, ttl } => Op::LeaseGrant { id, ttl },
        Request::LeaseRevoke { id } => Op::LeaseRevoke { id },
        Request::Alarm(alarm) => {
            Op::Alarm { action: alarm.action, member_id: alarm.member_id, alarm: alarm.alarm? }
        }
        _ => return None,
    })
}
