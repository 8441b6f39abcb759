//! A follower whose leader's process has ended does not wait for the election timeout.
//!
//! The transport tells that every connection with the leader broke and that it refuses new ones. The
//! follower then gives up the leader's lease, so that it grants others their pre-vote, and asks for
//! pre-votes itself when its turn comes. The turns follow from the term and the members alone, in
//! another order each term, and are half a heartbeat apart: that is longer than a message travels, so
//! no two ask at the same time and split the votes. Where two did all the same, because one could not
//! reach the other in its own turn, they take turns again in the term that they have split.
//!
//! Invariant: a leader that lives is not disturbed by a follower that was told wrongly. A pre-vote
//! (Raft thesis 9.6) changes no term, and members that have heard from the leader within the election
//! timeout refuse it; the leader's next heartbeat makes this member follow again.

use raft::StateRole;

use super::Node;
use crate::rng::Rng;
use crate::time::Time;
use crate::types::{MemberId, Term};

/// How often a member asks before it leaves the election to the timeout.
const ATTEMPTS_MAX: u32 = 4;

/// A leader that is gone, while its followers find another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failover {
    leader: MemberId,
    term: Term,
    at: Time,
    attempts: u32,
}

impl Node {
    pub(super) fn next_failover(&self) -> Option<Time> {
        let due = self.failover.filter(|failover| failover.term == self.raw.raft.term);
        due.map(|failover| failover.at)
    }

    pub(super) fn handle_peer_lost(&mut self, peer: MemberId) {
        self.handle_peer_unreachable(peer);
        let votes = self.voters().contains(&self.config.member_id);
        let raft = &mut self.raw.raft;
        let follows = raft.state == StateRole::Follower && raft.leader_id == peer;
        if !follows || !votes || !self.config.pre_vote {
            return;
        }
        raft.election_elapsed = raft.election_elapsed.max(raft.election_timeout());
        let term = raft.term;
        // The others are told at about the same time; what is left of the step is for those who are
        // told a little later.
        let first = self.config.heartbeat / 10;
        let at = self.now + first + self.config.heartbeat / 2 * self.turn(peer, term);
        self.failover = Some(Failover { leader: peer, term, at, attempts: 0 });
    }

    /// This member's place among the voters that are left.
    fn turn(&self, leader: MemberId, term: Term) -> u32 {
        let order = |id: MemberId| Rng::derive(self.config.cluster_id, &[term, id]).next_u64();
        let own = order(self.config.member_id);
        let before = self.voters().into_iter().filter(|id| *id != leader && order(*id) < own).count();
        u32::try_from(before).unwrap_or(u32::MAX)
    }

    pub(super) fn work_failover(&mut self) {
        self.notice_split_votes();
        let Some(failover) = self.failover else { return };
        let raft = &self.raw.raft;
        // The leader's silence is what the election timeout counts: it starts over when it speaks.
        let silent = raft.leader_id == 0
            || raft.leader_id == failover.leader && raft.election_elapsed >= raft.election_timeout();
        if raft.state == StateRole::Candidate && raft.term == failover.term + 1 {
            // Its votes are on their way.
            return;
        }
        let leads = raft.state == StateRole::Leader;
        if raft.term != failover.term || !silent || leads || failover.attempts == ATTEMPTS_MAX {
            self.failover = None;
            return;
        }
        if failover.at > self.now || self.snapshots.replacing() {
            return;
        }
        let others = u32::try_from(self.voters().len().saturating_sub(1)).unwrap_or(u32::MAX);
        let at = self.now + self.config.heartbeat / 2 * others.max(1);
        self.failover = Some(Failover { at, attempts: failover.attempts + 1, ..failover });
        // Refused while a change of the membership waits to be applied: the next attempt is due then.
        let _ = self.raw.campaign();
        self.spread_election_timeout();
    }

    /// Asks again in this member's turn, when all who are left have voted and nobody can win.
    fn notice_split_votes(&mut self) {
        let Some(failover) = self.failover else { return };
        let raft = &self.raw.raft;
        let (granted, refused, _) = raft.prs().tally_votes();
        let split = match raft.state {
            StateRole::Candidate => granted + refused + 1 >= self.voters().len(),
            // So many refused that the crate gave up.
            StateRole::Follower => raft.leader_id == 0 && raft.vote == self.config.member_id,
            StateRole::PreCandidate | StateRole::Leader => false,
        };
        if split && raft.term == failover.term + 1 {
            let turns = self.turn(failover.leader, raft.term) + 1;
            let at = self.now + self.config.heartbeat / 2 * turns;
            self.failover = Some(Failover { term: raft.term, at, ..failover });
        }
    }
}
