//! What a node tells about itself, as plain data.

use raft::StateRole;

use super::{AppliedOps, Node};
use crate::api::{AlarmKind, AlarmMember, Member, StatusResponse};
use crate::error::Error;
use crate::lease::LeaseCounts;
use crate::mvcc::StoreCounts;
use crate::time::Time;
use crate::types::{ClusterId, Index, MemberId, Term};

/// Raft's roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Role {
    Follower,
    PreCandidate,
    Candidate,
    Leader,
    Learner,
}

/// When a node wants to be woken, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wakeup {
    /// The time; it may have passed already.
    pub at: Time,
    /// The timer.
    pub reason: WakeupReason,
}

/// The timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum WakeupReason {
    Tick,
    Failover,
    Repair,
    Deadline,
    ReadRetry,
    Lease,
    Watch,
    Flush,
    Publish,
    Compaction,
}

/// A moment in the life of a node, for metrics, tools and checkers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Status {
    pub cluster_id: ClusterId,
    pub member_id: MemberId,
    pub role: Role,
    pub leader: MemberId,
    pub term: Term,
    pub first: Index,
    pub last: Index,
    pub committed: Index,
    pub applied: Index,
    pub flushed: Index,
    pub revision: i64,
    pub compact_revision: i64,
    pub requests: usize,
    pub db_size: u64,
    pub db_size_in_use: u64,
    pub quota_bytes: u64,
    pub watch_streams: usize,
    pub watchers: usize,
    pub slow_watchers: usize,
    pub pending_events: usize,
    pub sent_events: u64,
    pub leases: usize,
    pub lease_counts: LeaseCounts,
    pub store_counts: StoreCounts,
    pub published: bool,
    pub removed: bool,
    pub cluster_version: Option<String>,
    pub alarms: Vec<AlarmMember>,
    pub members: Vec<Member>,
    pub removed_members: Vec<MemberId>,
}

/// How far a node has come: the part of its status that costs nothing to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Progress {
    pub role: Role,
    pub term: Term,
    pub committed: Index,
    pub applied: Index,
    /// Whether no other member votes.
    pub alone: bool,
}

impl Node {
    /// How far it has come.
    pub fn progress(&self) -> Progress {
        Progress {
            role: self.public_role(),
            term: self.term,
            committed: self.raw.raft.raft_log.committed,
            applied: self.applied,
            alone: self.raw.raft.prs().conf().voters().ids().len() == 1,
        }
    }

    /// This moment.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let watch = self.watch.stats();
        Status {
            cluster_id: self.config.cluster_id,
            member_id: self.config.member_id,
            role: self.public_role(),
            leader: self.leader,
            term: self.term,
            first: self.raw.store().first(),
            last: raft.raft_log.last_index(),
            committed: raft.raft_log.committed,
            applied: self.applied,
            flushed: self.flush.flushed(),
            revision: self.store.revision(),
            compact_revision: self.store.compact_revision(),
            requests: self.requests.len(),
            db_size: self.size.total,
            db_size_in_use: self.size.in_use,
            quota_bytes: self.config.quota_bytes.unwrap_or(0),
            watch_streams: watch.streams,
            watchers: watch.watchers,
            slow_watchers: watch.slow_watchers,
            pending_events: watch.pending_events,
            sent_events: watch.sent_events,
            leases: self.lessor.count(),
            lease_counts: self.lessor.counts(),
            store_counts: self.store.counts(),
            published: self.publish.done,
            removed: self.removed,
            cluster_version: self.cluster.version().map(str::to_owned),
            alarms: self.alarms.iter().copied().collect(),
            members: self.members(),
            removed_members: self.cluster.removed().collect(),
        }
    }

    /// How many commands were applied since the start.
    pub fn applied_ops(&self) -> &AppliedOps {
        &self.applied_ops
    }

    fn public_role(&self) -> Role {
        match self.role {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate => Role::Candidate,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Follower if self.is_learner() => Role::Learner,
            StateRole::Follower => Role::Follower,
        }
    }

    pub(super) fn is_learner(&self) -> bool {
        self.cluster.member(self.config.member_id).is_some_and(|member| member.is_learner)
    }

    pub(super) fn status_response(&self) -> StatusResponse {
        let mut errors = Vec::new();
        if self.leader == 0 {
            errors.push(Error::NoLeader.to_string());
        }
        errors.extend(self.alarms.iter().map(|alarm| {
            let kind = match alarm.alarm {
                AlarmKind::NoSpace => "NOSPACE",
                AlarmKind::Corrupt => "CORRUPT",
            };
            format!("memberID:{} alarm:{kind} ", alarm.member_id)
        }));
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        StatusResponse {
            db_size: signed(self.size.total),
            db_size_in_use: signed(self.size.in_use),
            db_size_quota: signed(self.config.quota_bytes.unwrap_or(0)),
            leader: self.leader,
            raft_index: self.raw.raft.raft_log.committed,
            raft_term: self.term,
            raft_applied_index: self.applied,
            errors,
            is_learner: self.is_learner(),
        }
    }
}
