//! Linearizable reads: the ReadIndex protocol (Raft thesis 6.4) with contexts of our own.
//!
//! Reads that arrive while a round is under way share the next one. The leader mints a context that
//! is never used again for each attempt; a follower asks the leader by a message of ours, never
//! through the crate (etcd #20418). A read runs once the index that its round confirmed is applied;
//! one that needs many rows runs on another thread over an immutable view.

use std::collections::BTreeMap;
use std::time::Duration;

use raft::ReadState;

use super::peer_message::{PeerMessage, ProposalKind, ReadContext};
use super::request::{Pending, Wait};
use super::{Node, NodeEvent, Output};
use crate::api::{AlarmAction, AlarmMember, Header, Request, Response, ResponseBody};
use crate::command::Op;
use crate::error::{Error, Fatal};
use crate::mvcc::{Ranged, Selected, StoreView};
use crate::planted::{self, Bug};
use crate::time::Time;
use crate::types::{Index, MemberId};

/// An unanswered attempt is repeated, with a new context, after this time.
const RETRY: Duration = Duration::from_millis(500);
/// Attempts of followers that one leader keeps waiting.
const REMOTE_MAX: usize = 1024;

#[derive(Debug)]
struct Round {
    context: ReadContext,
    local: Vec<u64>,
    remote: Vec<(MemberId, ReadContext)>,
    started: Time,
}

/// Reads by how far they have come.
#[derive(Debug, Default)]
pub(super) struct Reads {
    attempt: u64,
    local: Vec<u64>,
    remote: Vec<(MemberId, ReadContext)>,
    round: Option<Round>,
    confirmed: BTreeMap<Index, Vec<u64>>,
    pub(super) tasks: BTreeMap<u64, ReadTask>,
}

impl Reads {
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.round.as_ref().map(|round| round.started + RETRY)
    }
}

const UNBOUNDED: &str = "a range without a bound on rows always finishes";

/// A read to be run on any thread: everything it needs, and nothing that changes.
#[derive(Clone, Debug)]
pub struct ReadTask {
    header: Header,
    request: Request,
    view: StoreView,
}

impl ReadTask {
    /// If this is a range, its rows before their values are read, for whoever can begin an answer with them.
    ///
    /// # Errors
    /// As [`ReadTask::run`].
    pub fn select(&self) -> Result<Option<Result<Selected<'_>, Error>>, Fatal> {
        let Request::Range(range) = &self.request else { return Ok(None) };
        let selected = self.view.select(range, None)?;
        Ok(Some(selected.map(|selected| selected.expect(UNBOUNDED))))
    }

    /// The answer's header.
    pub fn header(&self) -> Header {
        self.header
    }

    /// Runs the read to its end.
    ///
    /// # Errors
    /// The backend cannot be read; the process must stop.
    pub fn run(&self) -> Result<Result<Response, Error>, Fatal> {
        let body = match &self.request {
            Request::Range(range) => self.view.range(range, None)?.map(|ranged| match ranged {
                Ranged::Done(response) => ResponseBody::Range(response),
                Ranged::TooLong => unreachable!("{UNBOUNDED}"),
            }),
            Request::Txn(txn) => self.view.txn(txn)?.map(ResponseBody::Txn),
            Request::HashKv { revision } => self.view.hash_kv(*revision)?.map(|hash| ResponseBody::HashKv {
                hash: hash.hash,
                compact_revision: hash.compact_revision,
                hash_revision: hash.hash_revision,
            }),
            Request::Hash => Ok(ResponseBody::Hash { hash: self.view.hash()? }),
            other => unreachable!("{other:?} is not a read that runs over a view"),
        };
        Ok(body.map(|body| Response { header: self.header, body }))
    }
}

impl Node {
    /// Queues a request that needs a read index.
    pub(super) fn read(&mut self, id: u64, pending: Pending) {
        self.requests.insert(id, pending);
        self.reads.local.push(id);
    }

    /// Starts a round if reads wait and none is under way.
    pub(super) fn start_read_round(&mut self) {
        let reads = &mut self.reads;
        if reads.round.is_some() || (reads.local.is_empty() && reads.remote.is_empty()) {
            return;
        }
        let leads = self.role == raft::StateRole::Leader;
        if !leads {
            // They asked a member that does not lead; they will ask again.
            reads.remote.clear();
        }
        if reads.local.is_empty() && reads.remote.is_empty() || self.leader == 0 {
            return;
        }
        let early = planted::on(Bug::ReadBeforeOwnTerm) && !self.raw.raft.commit_to_current_term();
        if leads && !self.raw.raft.commit_to_current_term() && !early {
            return;
        }
        if !planted::on(Bug::ReadContextReused) || reads.attempt == 0 {
            reads.attempt += 1;
        }
        let context =
            ReadContext { member: self.config.member_id, boot: self.config.boot, attempt: reads.attempt };
        reads.round = Some(Round {
            context,
            local: std::mem::take(&mut reads.local),
            remote: std::mem::take(&mut reads.remote),
            started: self.now,
        });
        if leads && (planted::on(Bug::ReadWithoutQuorum) || early) || planted::on(Bug::FollowerReadsLocally) {
            self.confirm_round(context, self.raw.raft.raft_log.committed);
        } else if leads {
            self.raw.read_index(context.to_bytes());
            self.spread_election_timeout();
        } else {
            self.send(self.leader, &PeerMessage::ReadIndex { context });
        }
    }

    /// The crate has confirmed leadership for a context.
    pub(super) fn handle_read_state(&mut self, state: &ReadState) {
        if let Some(context) = ReadContext::from_bytes(&state.request_ctx) {
            self.confirm_round(context, state.index);
        }
    }

    fn confirm_round(&mut self, context: ReadContext, index: Index) {
        let Some(round) = self.reads.round.take_if(|round| round.context == context) else { return };
        for (from, context) in round.remote {
            let late = index.saturating_sub(2);
            let index = if planted::on(Bug::ReadIndexTooLow) { late } else { index };
            self.send(from, &PeerMessage::ReadIndexReply { context, index });
        }
        self.reads.confirmed.entry(index).or_default().extend(round.local);
    }

    pub(super) fn handle_read_index(&mut self, from: MemberId, context: ReadContext) {
        if self.is_leader() && self.reads.remote.len() < REMOTE_MAX {
            self.reads.remote.push((from, context));
        }
    }

    pub(super) fn handle_read_index_reply(&mut self, context: ReadContext, index: Index) {
        if context.member == self.config.member_id && context.boot == self.config.boot {
            self.confirm_round(context, index);
        }
    }

    /// Gives up the round under way; its reads go into the next one.
    pub(super) fn restart_reads(&mut self) {
        if let Some(round) = self.reads.round.take() {
            self.reads.local.splice(0..0, round.local);
        }
        self.reads.remote.clear();
    }

    pub(super) fn retry_reads(&mut self) {
        if self.reads.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            self.event(NodeEvent::ReadIndexSlow);
            self.restart_reads();
        }
    }

    /// Runs the reads whose index is applied.
    pub(super) fn run_confirmed_reads(&mut self) {
        while let Some(entry) = self.reads.confirmed.first_entry() {
            if *entry.key() > self.applied && !planted::on(Bug::ReadBeforeApplied) {
                break;
            }
            for id in entry.remove() {
                if let Some(pending) = self.requests.remove(id) {
                    self.run_read(id, pending.request);
                }
            }
        }
    }

    /// Runs a read now: here if it is small, else on another thread.
    pub(super) fn run_read(&mut self, id: u64, request: Request) {
        if let Request::LeaseKeepAlive { id: lease } = request {
            return self.renew_lease(id, lease);
        }
        match self.try_read(&request) {
            Ok(Some(Ok(body))) => self.answer(id, body),
            Ok(Some(Err(error))) => self.reply(id, Err(error)),
            Ok(None) => {
                let task = ReadTask { header: self.header(), request, view: self.store.view() };
                self.start_task(id, task);
            }
            Err(fatal) => self.fail(fatal),
        }
    }

    fn start_task(&mut self, id: u64, task: ReadTask) {
        self.reads.tasks.insert(id, task);
        self.emit(Output::StartRead { id });
    }

    /// `None`: it needs another thread.
    fn try_read(&mut self, request: &Request) -> Result<Option<Result<ResponseBody, Error>>, Fatal> {
        let rows_max = Some(self.config.inline_rows_max);
        Ok(Some(match request {
            Request::Range(range) => match self.store.view().range(range, rows_max)? {
                Ok(Ranged::TooLong) => return Ok(None),
                Ok(Ranged::Done(response)) => Ok(ResponseBody::Range(response)),
                Err(error) => Err(error),
            },
            Request::Txn(_) | Request::Hash | Request::HashKv { .. } => return Ok(None),
            Request::MemberList { .. } => Ok(ResponseBody::Members { members: self.members() }),
            Request::Alarm(alarm) => {
                assert_eq!(alarm.action, AlarmAction::Get, "other actions are proposed");
                let wanted = |found: &&AlarmMember| {
                    (alarm.member_id == 0 || alarm.member_id == found.member_id)
                        && alarm.alarm.is_none_or(|kind| kind == found.alarm)
                };
                Ok(ResponseBody::Alarm { alarms: self.alarms.iter().filter(wanted).copied().collect() })
            }
            Request::LeaseTimeToLive { id: lease, keys } => self.lease_time_to_live(*lease, *keys)?,
            other => unreachable!("{other:?} does not wait for a read index"),
        }))
    }

    /// Renews a lease now that leadership is confirmed. If an earlier remainder is on record, the
    /// answer waits until that is replaced: the next leader would count from it.
    fn renew_lease(&mut self, id: u64, lease: i64) {
        if !self.is_leader() {
            return self.reply(id, Err(Error::LeaderChanged));
        }
        let Some(renewal) = self.lessor.renew(lease, self.now) else {
            let ttl = if planted::on(Bug::RenewRevoked) { 10 } else { 0 };
            return self.answer(id, ResponseBody::LeaseKeepAlive { id: lease, ttl });
        };
        if !renewal.reset_checkpoint {
            return self.answer(id, ResponseBody::LeaseKeepAlive { id: lease, ttl: renewal.ttl });
        }
        let request = Request::LeaseKeepAlive { id: lease };
        let deadline = self.now + self.config.request_timeout();
        self.requests.insert(id, Pending { request, wait: Wait::Apply, deadline, leader: self.leader });
        let command = self.command(id, Op::LeaseCheckpoint(vec![(lease, 0)]));
        self.propose(command.id, ProposalKind::Normal, command.encode().into());
    }

    fn lease_time_to_live(&self, lease: i64, keys: bool) -> Result<Result<ResponseBody, Error>, Fatal> {
        if !self.is_leader() {
            return Ok(Err(Error::LeaderChanged));
        }
        let Some((granted_ttl, ttl)) = self.lessor.time_to_live(lease, self.now) else {
            let keys = Vec::new();
            return Ok(Ok(ResponseBody::LeaseTimeToLive { id: lease, ttl: -1, granted_ttl: 0, keys }));
        };
        let keys = if keys { self.store.view().lease_keys(lease)? } else { Vec::new() };
        Ok(Ok(ResponseBody::LeaseTimeToLive { id: lease, ttl, granted_ttl, keys }))
    }

    /// Hashes wait for physical compaction to be at rest, so that what is stored is exactly what the
    /// compact revision keeps.
    pub(super) fn run_rested_hashes(&mut self) {
        if !self.requests.any_rests() || self.store.compaction_pending() {
            return;
        }
        for id in self.requests.waiting(|wait| *wait == Wait::Rest) {
            if let Some(pending) = self.requests.remove(id) {
                self.run_read(id, pending.request);
            }
        }
    }
}
