//! Committed entries change the replicated state here, and nowhere else.
//!
//! **Invariant:** applying is a pure function of the entry and the replicated state, so that every
//! member comes to the same result, errors included (etcd #18667). The one exception is time: a lease
//! learns when its member heard of it, but expiry itself is a command.

use std::collections::BTreeSet;

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType};

use super::request::Wait;
use super::{Node, NodeEvent, applied, member, snapshot};
use crate::api::{AlarmAction, AlarmKind, AlarmMember, Request, RequestOp, ResponseBody};
use crate::backend::Table;
use crate::cluster;
use crate::command::{Command, CommandId, MemberChange, Op};
use crate::error::{Error, Fatal};
use crate::mvcc::{self, Outcome};
use crate::planted::{self, Bug};
use crate::time::Time;

type Applied = Result<ResponseBody, Error>;

impl Node {
    pub(super) fn apply_entries(&mut self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        for entry in entries {
            if let Err(fatal) = self.apply_entry(&entry) {
                return self.fail(fatal);
            }
        }
        let (index, term) = (self.applied, self.applied_term);
        self.routing.applied_term(term);
        self.raw.mut_store().applied(index, term);
        self.raw.advance_apply_to(index);
    }

    fn apply_entry(&mut self, entry: &Entry) -> Result<(), Fatal> {
        assert_eq!(entry.index, self.applied + 1, "entries are applied in order");
        self.applied = entry.index;
        self.applied_term = entry.term;
        let is_member_change = entry.get_entry_type() != EntryType::EntryNormal;
        let data = if is_member_change { &entry.context } else { &entry.data };
        // A leader's first entry is empty, and so is one that the crate put in place of a change of
        // configuration that it refused.
        if data.is_empty() {
            return Ok(());
        }
        let command = Command::decode(data).map_err(|what| {
            Fatal(format!(
                "log entry {} cannot be applied: {what}; the member's log may be damaged or written by a \
                 newer version",
                entry.index
            ))
        })?;
        let (id, place) = (command.id, applied::place(&command.op));
        let result = self.apply_command(command.op, is_member_change)?;
        if let Some(place) = place {
            self.applied_ops[place][usize::from(result.is_ok())] += 1;
        }
        self.finish_applied(id, result);
        Ok(())
    }

    fn apply_command(&mut self, op: Op, is_member_change: bool) -> Result<Applied, Fatal> {
        if let Some(error) = self.refused_by_alarm(&op) {
            return Ok(Err(error));
        }
        let lessor = &self.lessor;
        let outcome = match op {
            Op::Put(put) => self.store.put(&put, &|id| lessor.contains(id))?,
            Op::DeleteRange(delete) => self.store.delete_range(&delete)?,
            Op::Txn(mut txn) => {
                if planted::on(Bug::FollowersSkipTxnReads) && self.role != raft::StateRole::Leader {
                    txn.success.retain(|op| !matches!(op, RequestOp::Range(_)));
                    txn.failure.retain(|op| !matches!(op, RequestOp::Range(_)));
                }
                self.store.txn(&txn, &|id| lessor.contains(id))?
            }
            Op::LeaseRevoke { id } => {
                if self.lessor.revoke(id).is_err() {
                    return Ok(Err(Error::LeaseNotFound));
                }
                let outcome = if planted::on(Bug::LeaseKeepsKeys) {
                    Outcome { result: Ok(ResponseBody::LeaseRevoke), changes: Vec::new() }
                } else {
                    self.store.revoke_lease(id)?
                };
                self.store.set(Table::Leases, lease_key(id), None);
                outcome
            }
            Op::LeaseGrant { id, ttl } => return Ok(self.apply_lease_grant(id, ttl)),
            Op::LeaseCheckpoint(checkpoints) => {
                for (id, remaining) in checkpoints {
                    if let Some(lease) = self.lessor.checkpoint(id, remaining) {
                        self.store.set(Table::Leases, lease_key(id), Some(lease.encode().into()));
                    }
                }
                return Ok(Ok(ResponseBody::LeaseRevoke));
            }
            Op::Compact { revision } => return self.apply_compact(revision),
            Op::Alarm { action, member_id, alarm } => {
                return Ok(Ok(self.apply_alarm(action, AlarmMember { member_id, alarm })));
            }
            Op::Member(change) => return self.apply_member(change, is_member_change),
            Op::Publish { member, name, client_urls } => {
                return Ok(self.apply_publish(member, name, client_urls));
            }
            Op::ClusterVersion(version) => {
                if self.cluster.version().is_none() {
                    let rows = self.cluster.set_version(&version);
                    self.store_rows(rows);
                    self.event(NodeEvent::ClusterVersionSet { version });
                }
                return Ok(Ok(ResponseBody::Compact));
            }
        };
        let Outcome { result, changes } = outcome;
        if !changes.is_empty() {
            let view = self.store.view();
            self.watch.notify(&changes, &view)?;
        }
        Ok(result)
    }

    /// What an active alarm forbids (A-KV-61, A-KV-63).
    fn refused_by_alarm(&self, op: &Op) -> Option<Error> {
        if self.alarms.is_empty() {
            return None;
        }
        let active = |kind| self.alarms.iter().any(|alarm| alarm.alarm == kind);
        let writes = match op {
            Op::Put(_) | Op::LeaseGrant { .. } => true,
            Op::Txn(txn) => mvcc::txn_cost(txn) > 0,
            _ => false,
        };
        let replicated = writes
            || matches!(op, Op::DeleteRange(_) | Op::Txn(_) | Op::Compact { .. } | Op::LeaseRevoke { .. });
        if replicated && active(AlarmKind::Corrupt) {
            Some(Error::Corrupt)
        } else if writes && active(AlarmKind::NoSpace) {
            Some(Error::NoSpace)
        } else {
            None
        }
    }

    fn apply_lease_grant(&mut self, id: i64, ttl: i64) -> Applied {
        let lease = self.lessor.grant(id, ttl, self.now)?;
        self.store.set(Table::Leases, lease_key(id), Some(lease.encode().into()));
        Ok(ResponseBody::LeaseGrant { id, ttl: lease.ttl })
    }

    fn apply_compact(&mut self, revision: i64) -> Result<Applied, Fatal> {
        let result = self.store.compact(revision)?;
        if result.is_ok() {
            self.flush.wanted = true;
            self.event(NodeEvent::CompactionScheduled { revision });
        }
        Ok(result.map(|()| ResponseBody::Compact))
    }

    fn apply_alarm(&mut self, action: AlarmAction, alarm: AlarmMember) -> ResponseBody {
        let AlarmMember { member_id, alarm: kind } = alarm;
        let changed = match action {
            AlarmAction::Activate => self.alarms.insert(alarm).then_some(Some(Bytes::new())),
            AlarmAction::Deactivate => self.alarms.remove(&alarm).then_some(None),
            AlarmAction::Get => None,
        };
        let mut alarms = Vec::new();
        if let Some(row) = changed {
            self.event(if row.is_some() {
                NodeEvent::AlarmRaised { member_id, alarm: kind }
            } else {
                NodeEvent::AlarmCleared { member_id, alarm: kind }
            });
            if !planted::on(Bug::AlarmNotStored) {
                self.store.set(Table::Alarms, alarm_key(alarm), row);
            }
            alarms.push(alarm);
        } else if action == AlarmAction::Activate {
            alarms.push(alarm);
        }
        ResponseBody::Alarm { alarms }
    }

    fn apply_member(&mut self, change: MemberChange, is_member_change: bool) -> Result<Applied, Fatal> {
        let conf_change = is_member_change.then(|| member::raft_change(&change)).flatten();
        let rows = match self.cluster.apply(&change) {
            Ok(rows) => rows,
            Err(error) => return Ok(Err(error)),
        };
        if !planted::on(Bug::MemberNotStored) {
            self.store_rows(rows);
        }
        if let Some(conf_change) = conf_change {
            let conf_state = self.raw.apply_conf_change(&conf_change).map_err(|error| {
                Fatal(format!("a committed membership change cannot be applied: {error}"))
            })?;
            self.raw.mut_store().set_conf_state(conf_state.clone());
            self.append.commit_due = true;
            snapshot::store_voters(&mut self.store, &conf_state);
            let leads_on = planted::on(Bug::RemovedLeaderLeads);
            if self.is_leader() && !self.voters().contains(&self.config.member_id) && !leads_on {
                // The crate would go on leading, and fail to find itself among those whose progress
                // decides what is committed.
                let term = self.raw.raft.term;
                self.raw.raft.become_follower(term, 0);
            }
            self.spread_election_timeout();
        }
        let body = match &change {
            MemberChange::Add(member) => {
                self.event(NodeEvent::MemberAdded {
                    id: member.id,
                    peer_urls: member.peer_urls.clone(),
                    is_learner: member.is_learner,
                });
                ResponseBody::MemberAdd { member: member.clone(), members: self.members() }
            }
            MemberChange::Remove(id) => {
                self.event(NodeEvent::MemberRemoved { id: *id });
                if *id == self.config.member_id {
                    self.leave();
                }
                ResponseBody::Members { members: self.members() }
            }
            MemberChange::Update(id, peer_urls) => {
                self.event(NodeEvent::MemberUpdated { id: *id, peer_urls: peer_urls.clone() });
                ResponseBody::Members { members: self.members() }
            }
            MemberChange::Promote(id) => {
                self.event(NodeEvent::MemberPromoted { id: *id });
                ResponseBody::Members { members: self.members() }
            }
        };
        self.update_peers();
        Ok(Ok(body))
    }

    fn store_rows(&mut self, rows: Vec<cluster::RowChange>) {
        for (table, key, value) in rows {
            self.store.set(table, key, value);
        }
    }

    fn apply_publish(&mut self, id: u64, name: String, client_urls: Vec<String>) -> Applied {
        let rows = self.cluster.publish(id, &name, &client_urls);
        self.store_rows(rows);
        if id == self.config.member_id && !self.publish.done {
            self.publish.done = true;
            self.publish.due = self.now;
            self.event(NodeEvent::Published { name, client_urls });
        }
        Ok(ResponseBody::Members { members: Vec::new() })
    }

    /// Answers the client whose command this was, if it spoke to this member in this run of it.
    fn finish_applied(&mut self, id: CommandId, result: Applied) {
        if id.origin != self.config.member_id || id.boot != self.config.boot {
            return;
        }
        self.routing.forget_applied(id.seq);
        let Some(pending) = self.requests.get_mut(id.seq) else { return };
        let result = match (&pending.request, result) {
            (Request::Compact { revision, physical: true }, Ok(_)) => {
                pending.wait = Wait::Compaction(*revision);
                // That takes as long as its size demands, and etcd waits for it without a limit too.
                return self.requests.postpone(id.seq, Time(u64::MAX));
            }
            (Request::LeaseKeepAlive { id }, Ok(_)) => {
                let (id, ttl) = (*id, self.lessor.lease(*id).map_or(0, |lease| lease.ttl));
                Ok(ResponseBody::LeaseKeepAlive { id, ttl })
            }
            (_, result) => result,
        };
        self.finish(id.seq, result);
    }
}

fn lease_key(id: i64) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

fn alarm_key(alarm: AlarmMember) -> Bytes {
    let mut key = alarm.member_id.to_be_bytes().to_vec();
    key.push(match alarm.alarm {
        AlarmKind::NoSpace => 1,
        AlarmKind::Corrupt => 2,
    });
    key.into()
}

/// The active alarms from the rows of [`Table::Alarms`].
///
/// # Errors
/// A row is damaged.
pub fn decode_alarms(rows: &[(Bytes, Bytes)]) -> Result<BTreeSet<AlarmMember>, Fatal> {
    rows.iter()
        .map(|(key, _)| {
            let member_id = key.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            let alarm = match key.get(8) {
                Some(1) => Some(AlarmKind::NoSpace),
                Some(2) => Some(AlarmKind::Corrupt),
                _ => None,
            };
            match (member_id, alarm) {
                (Some(member_id), Some(alarm)) => Ok(AlarmMember { member_id, alarm }),
                _ => Err(Fatal(format!("the backend's alarm row {key:?} is damaged"))),
            }
        })
        .collect()
}
