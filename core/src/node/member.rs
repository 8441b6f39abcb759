//! Membership: changes to it, the peers that follow from it, and this member's own attributes.

use std::collections::btree_map::Entry;
use std::time::Duration;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Message, MessageType};

use super::peer_message::ProposalKind;
use super::request::{Pending, Wait};
use super::{Node, NodeEvent, Output};
use crate::api::{Member, Request, ResponseBody};
use crate::cluster;
use crate::command::{Command, MemberChange, Op};
use crate::error::Error;
use crate::time::Time;
use crate::types::MemberId;

/// A connection counts as good for a membership change after this time (A-C-03).
const SETTLED: Duration = Duration::from_secs(5);
/// Attributes that are not in the replicated state are proposed again after this time.
const PUBLISH_RETRY: Duration = Duration::from_millis(500);
/// How long a removed member waits at most until the only voter that is left knows of it.
const LEAVE_MAX: Duration = Duration::from_secs(60);

/// Whether this member's name and client URLs have been published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Publish {
    pub(super) done: bool,
    pub(super) due: Time,
}

/// The crate's form of the membership change in an encoded command.
pub(crate) fn conf_change(command: &[u8]) -> Option<ConfChangeV2> {
    let Op::Member(change) = Command::decode(command).ok()?.op else { return None };
    raft_change(&change)
}

pub(super) fn raft_change(change: &MemberChange) -> Option<ConfChangeV2> {
    let (kind, node_id) = match change {
        MemberChange::Add(member) if member.is_learner => (ConfChangeType::AddLearnerNode, member.id),
        MemberChange::Add(member) => (ConfChangeType::AddNode, member.id),
        MemberChange::Remove(id) => (ConfChangeType::RemoveNode, *id),
        MemberChange::Promote(id) => (ConfChangeType::AddNode, *id),
        // Addresses are no business of Raft's configuration.
        MemberChange::Update(..) => return None,
    };
    let mut single = ConfChangeSingle::default();
    single.set_change_type(kind);
    single.node_id = node_id;
    let mut out = ConfChangeV2::default();
    out.set_changes(vec![single].into());
    Some(out)
}

/// The crate's bytes of the same.
pub(crate) fn conf_change_bytes(command: &[u8]) -> Bytes {
    let change = conf_change(command).unwrap_or_default();
    change.write_to_bytes().expect("a message always encodes into memory").into()
}

impl Node {
    pub(super) fn members(&self) -> Vec<Member> {
        self.cluster.members().cloned().collect()
    }

    pub(super) fn voters(&self) -> Vec<MemberId> {
        self.cluster.voters().map(|member| member.id).collect()
    }

    pub(super) fn change_membership(&mut self, id: u64, pending: Pending) {
        if matches!(pending.request, Request::MemberPromote { .. }) && !self.is_leader() {
            // Only the leader knows how far a learner has come.
            return self.forward(id, pending);
        }
        let change = match self.checked_change(&pending.request) {
            Ok(change) => change,
            Err(error) => return self.reply(id, Err(error)),
        };
        let hand_over = matches!(&change, MemberChange::Remove(member) if *member == self.config.member_id);
        let command = self.command(id, Op::Member(change));
        self.requests.insert(id, pending);
        if hand_over && self.is_leader() {
            // A removed leader would keep leading: the next one shall remove this one.
            self.resign();
        }
        let kind = match &command.op {
            Op::Member(MemberChange::Update(..)) => ProposalKind::Normal,
            _ => ProposalKind::Member,
        };
        self.propose(command.id, kind, command.encode().into());
    }

    fn checked_change(&self, request: &Request) -> Result<MemberChange, Error> {
        let change = match request.clone() {
            Request::MemberAdd { mut peer_urls, is_learner, unix_seconds } => {
                peer_urls = cluster::check_urls(&peer_urls)?;
                let id = cluster::member_id(&peer_urls, "", Some(unix_seconds));
                MemberChange::Add(Member { id, peer_urls, is_learner, ..Member::default() })
            }
            Request::MemberRemove { id } => MemberChange::Remove(id),
            Request::MemberUpdate { id, peer_urls } => {
                // Kept in the order that was given, as etcd does here (but not when adding).
                cluster::check_urls(&peer_urls)?;
                MemberChange::Update(id, peer_urls)
            }
            Request::MemberPromote { id } => MemberChange::Promote(id),
            other => return Err(Error::Other(format!("{other:?} does not change the membership"))),
        };
        self.cluster.validate(&change, self.config.strict_reconfig, self.config.learners_max)?;
        self.check_health(&change)?;
        Ok(change)
    }

    /// Judges an encoded change again when its turn comes: others have been made since it was asked for.
    pub(super) fn recheck_change(&self, command: &[u8]) -> Result<(), Error> {
        match Command::decode(command).map(|command| command.op) {
            Ok(Op::Member(change)) => {
                self.cluster.validate(&change, self.config.strict_reconfig, self.config.learners_max)
            }
            _ => Ok(()),
        }
    }

    /// The part of the strict checks that needs to know who is alive.
    fn check_health(&self, change: &MemberChange) -> Result<(), Error> {
        if let MemberChange::Promote(id) = change {
            let leader_match = self.raw.raft.raft_log.last_index();
            let learner = self.raw.raft.prs().get(*id).map_or(0, |progress| progress.matched);
            if learner == 0 || learner * 10 < leader_match * 9 {
                return Err(Error::LearnerNotReady);
            }
        }
        let adds_voter = matches!(change, MemberChange::Add(member) if !member.is_learner);
        if self.config.strict_reconfig && adds_voter {
            let voters = self.voters();
            let settled = |id: &&MemberId| {
                **id == self.config.member_id
                    || self.connected.get(*id).is_some_and(|since| self.now.since(*since) >= SETTLED)
            };
            if voters.iter().filter(settled).count() < voters.len() / 2 + 1 {
                return Err(Error::Unhealthy);
            }
        }
        Ok(())
    }

    /// Tells the driver which peers there are and where.
    pub(super) fn update_peers(&mut self) {
        let own = self.config.member_id;
        let members = self.members();
        let gone: Vec<MemberId> =
            self.peers.keys().filter(|id| !members.iter().any(|m| m.id == **id)).copied().collect();
        for id in gone {
            self.peers.remove(&id);
            self.connected.remove(&id);
            self.emit(Output::RemovePeer { id });
        }
        for member in members.into_iter().filter(|member| member.id != own) {
            let peer = self.peers.entry(member.id).or_default();
            if *peer != member.peer_urls {
                peer.clone_from(&member.peer_urls);
                self.emit(Output::SetPeer { id: member.id, urls: member.peer_urls });
            }
        }
    }

    /// The transport, or a message that arrived, says that the peer is there. This member may not know
    /// yet that it is one: a member that joins is connected before it has heard of the membership.
    pub(super) fn handle_peer_connected(&mut self, peer: MemberId) {
        if let Entry::Vacant(place) = self.connected.entry(peer) {
            place.insert(self.now);
            self.repair_from_anyone();
        }
    }

    /// A peer says that this member was removed. Nobody replicates to it any more, so its clients that
    /// asked for this would wait in vain: etcd's leader, which removes itself, answers them too.
    pub(super) fn handle_removed(&mut self) {
        if self.removed {
            return self.left();
        }
        self.removed = true;
        self.event(NodeEvent::RemovedSelf);
        let own = self.config.member_id;
        let members: Vec<Member> =
            self.cluster.members().filter(|member| member.id != own).cloned().collect();
        for id in self.requests.asking(&Request::MemberRemove { id: own }) {
            self.finish(id, Ok(ResponseBody::Members { members: members.clone() }));
        }
    }

    /// This member has applied its own removal. Of two voters, the one that is left cannot lead without this
    /// one's vote until it knows that the removal is committed: unless it leads, and said so, it may not know.
    pub(super) fn leave(&mut self) {
        if self.removed {
            return;
        }
        self.removed = true;
        if !self.follows() && self.voters().len() == 1 {
            self.leaving = Some(self.now + LEAVE_MAX);
        } else {
            self.event(NodeEvent::RemovedSelf);
        }
    }

    /// Whether another member leads: it knows that all is committed which this one applies in its term.
    fn follows(&self) -> bool {
        ![0, self.config.member_id].contains(&self.raw.raft.leader_id)
    }

    fn left(&mut self) {
        if self.leaving.take().is_some() {
            self.event(NodeEvent::RemovedSelf);
        }
    }

    /// With each tick, the leader of two voters that has removed itself says again what is committed, until
    /// the other one refuses it, or leads and has committed too.
    pub(super) fn work_leaving(&mut self) {
        let Some(until) = self.leaving else { return };
        let term = self.raw.raft.term;
        if self.now >= until || self.follows() && self.applied_term == term {
            return self.left();
        }
        if !self.led(term) {
            return;
        }
        for to in self.voters() {
            let mut message = Message::default();
            message.set_msg_type(MessageType::MsgAppend);
            (message.from, message.to, message.term) = (self.config.member_id, to, term);
            (message.index, message.log_term, message.commit) =
                (self.applied, self.applied_term, self.applied);
            self.send_messages(vec![message]);
        }
    }

    pub(super) fn handle_peer_unreachable(&mut self, peer: MemberId) {
        self.connected.remove(&peer);
        if self.peers.contains_key(&peer) {
            self.raw.report_unreachable(peer);
        }
    }

    pub(super) fn connected_to(&self, member: MemberId) -> bool {
        member == self.config.member_id || self.connected.contains_key(&member)
    }

    /// Proposes this member's attributes until they are applied, and the cluster's version once.
    pub(super) fn publish_attributes(&mut self) {
        if self.leader == 0 || self.publish.due > self.now {
            return;
        }
        let own = self.config.member_id;
        if !self.publish.done && !self.removed {
            self.publish.due = self.now + PUBLISH_RETRY;
            self.propose_internal(Op::Publish {
                member: own,
                name: self.config.name.clone(),
                client_urls: self.config.client_urls.clone(),
            });
        } else if self.is_leader() && self.cluster.version().is_none() {
            self.publish.due = self.now + PUBLISH_RETRY;
            self.propose_internal(Op::ClusterVersion(self.config.cluster_version.clone()));
        } else {
            self.publish.due = Time(u64::MAX);
        }
    }

    /// Starts a transfer for a client; answered when the target leads.
    pub(super) fn move_leader(&mut self, id: u64, target: MemberId, pending: Pending) {
        if !self.is_leader() {
            return self.reply(id, Err(Error::NotLeader));
        }
        if !self.voters().contains(&target) {
            return self.reply(id, Err(Error::BadLeaderTransferee));
        }
        let deadline = pending.deadline.min(self.now + self.config.election_timeout());
        self.requests.insert(id, Pending { deadline, ..pending });
        self.raw.transfer_leader(target);
        self.spread_election_timeout();
        self.finish_transfers();
    }

    pub(super) fn finish_transfers(&mut self) {
        let leader = self.leader;
        for id in self.requests.waiting(|wait| *wait == Wait::Transfer(leader)) {
            self.finish(id, Ok(ResponseBody::MoveLeader));
        }
    }

    /// Gives leadership to the voter that is furthest, if this member leads.
    pub(super) fn resign(&mut self) {
        if !self.is_leader() {
            return;
        }
        let own = self.config.member_id;
        let best = self
            .voters()
            .into_iter()
            .filter(|id| *id != own && self.connected_to(*id))
            .max_by_key(|id| self.raw.raft.prs().get(*id).map_or(0, |progress| progress.matched));
        if let Some(target) = best {
            self.raw.transfer_leader(target);
            self.spread_election_timeout();
        }
    }
}
