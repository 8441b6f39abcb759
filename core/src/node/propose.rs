//! The way of a command into the log: proposed here when this member leads, else routed to the
//! leader under its term.
//!
//! The refusal of a leader that has lost its term is definite, and the command goes to the next one. A
//! leader that still leads may append a copy of the message that it refused, so only that one is asked
//! again. Silence tells nothing: after a loss of leadership nobody knows. It ends when this member applies
//! an entry of a later term: terms never go down along the log (Raft 5.4), so what was proposed under an
//! earlier term and is not applied by then never will be, and it is proposed again. A snapshot hides what
//! was applied: what it may have hidden is left to its deadline. No command is ever in the log twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use raft::StateRole;

use super::peer_message::{PeerMessage, ProposalKind, Refusal};
use super::request::Wait;
use super::{Node, member};
use crate::api::{PutResponse, ResponseBody};
use crate::command::{Command, CommandId, Op};
use crate::error::Error;
use crate::planted::{self, Bug};
use crate::types::{MemberId, Term};

/// Ids at or above this are the node's own and belong to no client.
pub(super) const INTERNAL_ID: u64 = 1 << 63;
/// Recent command ids that a leader remembers for each origin, to drop duplicated messages.
const WINDOW: usize = 16_384;

#[derive(Clone, Debug)]
struct Proposal {
    id: CommandId,
    kind: ProposalKind,
    data: Bytes,
}

/// Proposals on their way.
#[derive(Debug, Default)]
pub(super) struct Routing {
    /// This member's own that wait for a leader: nobody has appended them.
    waiting: VecDeque<Proposal>,
    /// Those that were sent to the leader, in case it refuses.
    sent: BTreeMap<u64, Proposal>,
    /// Those whose leader was lost, or could not append them, with its term: nobody knows yet what
    /// becomes of them.
    unknown: BTreeMap<u64, (Term, Proposal)>,
    /// Those that may have been applied in what a snapshot replaced: nobody will ever know.
    hidden: BTreeSet<u64>,
    /// On a leader: membership changes that wait for the one in progress.
    member_queue: VecDeque<Proposal>,
    /// The last term that this member has led since it started, and the command ids that it accepted
    /// from each origin in it. Kept after it has stepped down, to tell what it never accepted.
    led: Term,
    accepted: BTreeMap<(MemberId, u64), BTreeSet<u64>>,
    next_internal: u64,
}

impl Routing {
    /// The request is over: its proposal, if it has not left yet, must not leave any more.
    pub(super) fn forget(&mut self, id: CommandId) {
        self.forget_applied(id.seq);
        self.hidden.remove(&id.seq);
        self.member_queue.retain(|proposal| proposal.id != id);
    }

    /// The command is applied: it will not have to be sent again.
    pub(super) fn forget_applied(&mut self, id: u64) {
        self.sent.remove(&id);
        self.unknown.remove(&id);
        self.waiting.retain(|proposal| proposal.id.seq != id);
    }

    /// An entry of `term` was applied: nothing that was proposed earlier can be any more.
    pub(super) fn applied_term(&mut self, term: Term) {
        let lost = self.unknown.extract_if(.., |_, (proposed, _)| *proposed < term);
        self.waiting.extend(lost.map(|(_, (_, proposal))| proposal));
    }

    pub(super) fn next_internal(&mut self) -> u64 {
        self.next_internal += 1;
        INTERNAL_ID + self.next_internal
    }

    /// The id was not appended after all: it may come again.
    fn withdraw(&mut self, id: CommandId) {
        if let Some(seen) = self.accepted.get_mut(&(id.origin, id.boot)) {
            seen.remove(&id.seq);
        }
    }

    /// Whether this member leads, or led, that term and is certain never to have accepted the id in
    /// it. Of terms that an earlier run of the process may have led, nothing is certain.
    fn never_accepted(&self, term: Term, id: CommandId) -> bool {
        let seen = self.accepted.get(&(id.origin, id.boot));
        term == self.led && seen.is_none_or(|seen| seen.len() < WINDOW && !seen.contains(&id.seq))
    }

    /// Remembers an id; false when it was seen before, or is too old to tell.
    fn accept(&mut self, id: CommandId) -> bool {
        let seen = self.accepted.entry((id.origin, id.boot)).or_default();
        if seen.len() >= WINDOW && seen.first().is_some_and(|first| id.seq < *first) {
            return false;
        }
        let new = seen.insert(id.seq);
        if seen.len() > WINDOW {
            seen.pop_first();
        }
        new
    }
}

impl Node {
    /// Whether this member has led that term since it started.
    pub(super) fn led(&self, term: Term) -> bool {
        self.routing.led == term
    }

    pub(super) fn command_id(&self, seq: u64) -> CommandId {
        CommandId { origin: self.config.member_id, boot: self.config.boot, seq }
    }

    pub(super) fn command(&self, seq: u64, op: Op) -> Command {
        Command { id: self.command_id(seq), op }
    }

    /// Proposes something of the node's own. It may be lost: whoever calls this tries again later.
    pub(super) fn propose_internal(&mut self, op: Op) {
        let seq = self.routing.next_internal();
        let command = self.command(seq, op);
        let data = command.encode().into();
        let proposal = Proposal { id: command.id, kind: ProposalKind::Normal, data };
        if self.leader != 0 {
            let _ = self.route(&proposal);
        }
    }

    pub(super) fn propose(&mut self, id: CommandId, kind: ProposalKind, data: Bytes) {
        let proposal = Proposal { id, kind, data };
        if !self.route(&proposal) {
            self.routing.waiting.push_back(proposal);
        }
    }

    /// Hands a proposal to the log or to the leader; false when there is nobody to take it.
    fn route(&mut self, proposal: &Proposal) -> bool {
        if self.role == StateRole::Leader {
            return self.propose_here(proposal).is_ok();
        }
        if self.leader == 0 || self.leader == self.config.member_id {
            return false;
        }
        let Proposal { id, kind, data } = proposal.clone();
        self.send(self.leader, &PeerMessage::Propose { term: self.term, id, kind, data });
        if id.seq < INTERNAL_ID {
            self.routing.sent.insert(id.seq, proposal.clone());
            if let Some(pending) = self.requests.get_mut(id.seq) {
                pending.leader = self.leader;
            }
        }
        true
    }

    /// Appends to this leader's log. An error is definite: nothing was appended.
    fn propose_here(&mut self, proposal: &Proposal) -> Result<(), ()> {
        if self.removed {
            return Err(());
        }
        let result = match proposal.kind {
            ProposalKind::Normal => self.raw.propose(Vec::new(), proposal.data.to_vec()),
            ProposalKind::Member => {
                if self.raw.raft.has_pending_conf() {
                    self.routing.member_queue.push_back(proposal.clone());
                    return Ok(());
                }
                let Some(change) = member::conf_change(&proposal.data) else { return Err(()) };
                if let Err(error) = self.recheck_change(&proposal.data) {
                    self.refuse_change(proposal.id, error);
                    return Ok(());
                }
                self.raw.propose_conf_change(proposal.data.to_vec(), change)
            }
        };
        self.spread_election_timeout();
        if planted::on(Bug::AckBeforeCommit)
            && result.is_ok()
            && proposal.id.origin == self.config.member_id
            && let Ok(Command { op: Op::Put(_), .. }) = Command::decode(&proposal.data)
        {
            self.finish(proposal.id.seq, Ok(ResponseBody::Put(PutResponse::default())));
        }
        result.map_err(|_| ())
    }

    /// Gives waiting proposals to a leader that has appeared, and the next membership change to the
    /// log.
    pub(super) fn route_waiting(&mut self) {
        if self.leader == 0 {
            return;
        }
        if self.is_leader() && !self.raw.raft.has_pending_conf() {
            while let Some(proposal) = self.routing.member_queue.pop_front() {
                if self.propose_here(&proposal).is_err() {
                    self.give_back(proposal, self.term, Refusal::NotNow);
                }
                if self.raw.raft.has_pending_conf() {
                    break;
                }
            }
        }
        for _ in 0..self.routing.waiting.len() {
            let Some(proposal) = self.routing.waiting.pop_front() else { break };
            if !self.route(&proposal) {
                self.routing.waiting.push_front(proposal);
                break;
            }
        }
    }

    pub(super) fn handle_propose(
        &mut self,
        from: MemberId,
        term: Term,
        id: CommandId,
        kind: ProposalKind,
        data: Bytes,
    ) {
        if id.origin != from {
            return;
        }
        if !self.is_leader() || term != self.term {
            // This refusal is definite, so it must not answer the copy of a message that was accepted.
            if self.routing.never_accepted(term, id) || planted::on(Bug::RefuseAccepted) {
                self.send(from, &PeerMessage::ProposeRefused { term, id, refusal: Refusal::NotLeader });
            }
            return;
        }
        // A duplicated message must not become a second entry.
        if !self.routing.accept(id) && !planted::on(Bug::DuplicateProposals) {
            return;
        }
        let proposal = Proposal { id, kind, data };
        if self.propose_here(&proposal).is_err() {
            self.give_back(proposal, term, Refusal::NotNow);
        }
    }

    /// What the leader of `term` has not appended: its own waits, a peer's is the peer's to repeat.
    fn give_back(&mut self, proposal: Proposal, term: Term, refusal: Refusal) {
        let id = proposal.id;
        if id.origin == self.config.member_id {
            self.routing.waiting.push_back(proposal);
        } else {
            self.routing.withdraw(id);
            self.send(id.origin, &PeerMessage::ProposeRefused { term, id, refusal });
        }
    }

    /// The membership has changed since the change was asked for, and does not allow it any more.
    fn refuse_change(&mut self, id: CommandId, error: Error) {
        if id.origin == self.config.member_id {
            self.finish(id.seq, Err(error));
        } else {
            let (term, refusal) = (self.term, Refusal::Invalid(error));
            self.send(id.origin, &PeerMessage::ProposeRefused { term, id, refusal });
        }
    }

    pub(super) fn handle_propose_refused(&mut self, term: Term, id: CommandId, refusal: Refusal) {
        // A late copy of a refusal must not answer for the leader that has been asked since.
        if id != self.command_id(id.seq) || term != self.term {
            return;
        }
        let Some(proposal) = self.routing.sent.get(&id.seq).cloned() else { return };
        match refusal {
            Refusal::NotNow => {
                if !self.routing.hidden.contains(&id.seq) {
                    self.routing.sent.remove(&id.seq);
                    self.routing.unknown.insert(id.seq, (term, proposal));
                }
            }
            Refusal::NotLeader => {
                self.routing.sent.remove(&id.seq);
                self.routing.waiting.push_back(proposal);
            }
            Refusal::Invalid(error) => {
                self.routing.sent.remove(&id.seq);
                self.finish(id.seq, Err(error));
            }
        }
    }

    /// With each tick, asks a leader again that could not append, or that was lost and is back in its term:
    /// it drops what it has accepted. At once, every copy of its refusal would become another question.
    pub(super) fn ask_again(&mut self) {
        if self.leader == 0 || self.leader == self.config.member_id {
            return;
        }
        let term = self.term;
        let refused = self.routing.unknown.extract_if(.., |_, (asked, _)| *asked == term);
        let refused: Vec<Proposal> = refused.map(|(_, (_, proposal))| proposal).collect();
        for proposal in refused {
            self.route(&proposal);
        }
    }

    /// A new leader, a new term, or none: what was under way in `term` is unknown now.
    pub(super) fn leader_changed(&mut self, led_before: bool, term: Term) {
        let mut under_way: Vec<Proposal> = std::mem::take(&mut self.routing.sent).into_values().collect();
        if led_before {
            under_way.extend(self.proposed_here());
        }
        if planted::on(Bug::ProposeAgain) {
            self.routing.waiting.extend(under_way);
        } else {
            let hides = !planted::on(Bug::ProposeHidden);
            under_way.retain(|proposal| !hides || !self.routing.hidden.contains(&proposal.id.seq));
            let entries = under_way.into_iter().map(|proposal| (proposal.id.seq, (term, proposal)));
            self.routing.unknown.extend(entries);
        }
        if self.is_leader() && self.routing.led != self.term {
            self.routing.led = self.term;
            self.routing.accepted.clear();
        }
        if led_before {
            // These never reached a log.
            for proposal in std::mem::take(&mut self.routing.member_queue) {
                self.give_back(proposal, term, Refusal::NotLeader);
            }
        }
        self.restart_reads();
        self.forward_again();
        self.finish_transfers();
        self.publish.due = self.now;
    }

    /// The writes that this member proposed itself while it led. The log cannot tell, because a later
    /// leader may have replaced its end. Changes of the membership are left to their deadlines.
    fn proposed_here(&self) -> Vec<Proposal> {
        let proposal = |(id, op)| {
            let command = self.command(id, op);
            Proposal { id: command.id, kind: ProposalKind::Normal, data: command.encode().into() }
        };
        let queued = self.queued();
        let under_way = |id: &u64| !queued.contains(id) && !self.routing.unknown.contains_key(id);
        self.requests.writes().filter(|(id, _)| under_way(id)).map(proposal).collect()
    }

    fn queued(&self) -> BTreeSet<u64> {
        self.routing.waiting.iter().map(|proposal| proposal.id.seq).collect()
    }

    /// A snapshot, whose last entry is of `term`, took the place of entries that would have been applied.
    pub(super) fn applied_unseen(&mut self, term: Term) {
        if planted::on(Bug::ProposeHidden) {
            return;
        }
        self.routing.unknown.retain(|_, (proposed, _)| *proposed > term);
        let queued = self.queued();
        let known = |id: &u64| queued.contains(id) || self.routing.unknown.contains_key(id);
        let ids = self.requests.waiting(|wait| *wait == Wait::Apply);
        self.routing.hidden = ids.into_iter().filter(|id| !known(id)).collect();
    }
}
