//! The `raft` crate's Ready: appends and messages go out, committed entries are applied.
//!
//! A leader's messages go out at once, in parallel with its own append (Raft thesis 10.2.1). Everyone
//! else's messages acknowledge or ask on the strength of what is being appended, so they are held
//! until that append is durable. An append names every Ready that it covers; a Ready without anything
//! to persist rides on the append before it.

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::{Message, MessageType};
use raft::{Ready, StateRole};

use super::peer_message::{PeerMessage, RaftMessage};
use super::{Node, NodeEvent, Output};
use crate::planted::{self, Bug};
use crate::raft_log::from_raft;
use crate::wal::{Append, HardState, LogEntry, LogStart};

/// An append grows no further by joining when its entries hold this many bytes.
const JOIN_BYTES_MAX: usize = 1 << 20;

/// What waits for durability.
#[derive(Debug, Default)]
pub(super) struct Appends {
    /// The last append that was emitted.
    pub(super) emitted: u64,
    /// The last append that is durable.
    pub(super) durable: u64,
    /// Ready numbers with the append that each waits for, in order.
    waiting: VecDeque<(u64, u64)>,
    /// Messages with the append that they wait for, in order.
    held: VecDeque<(u64, Vec<Message>)>,
    /// The commit index shall be durable although nothing else is to be written.
    pub(super) commit_due: bool,
}

impl Node {
    pub(super) fn can_process_ready(&self) -> bool {
        !self.failed && self.snapshots.installing.is_none() && self.raw.has_ready()
    }

    pub(super) fn process_ready(&mut self) {
        while self.can_process_ready() {
            let mut ready = self.raw.ready();
            let mut messages = ready.take_messages();
            // A single voter leads as soon as it campaigns, before its new term is durable. If a
            // learner heard of entries of that term and the term were lost, the next start would use
            // it again for other entries.
            let alone = self.raw.raft.prs().conf().voters().ids().len() == 1;
            if !alone {
                self.send_messages(std::mem::take(&mut messages));
            }
            for state in ready.take_read_states() {
                self.handle_read_state(&state);
            }
            let committed = ready.take_committed_entries();
            messages.append(&mut ready.take_persisted_messages());
            let held = messages;
            if !ready.snapshot().is_empty() {
                self.install_snapshot(ready, held);
                return;
            }
            let append = self.append_of(&mut ready);
            let number = ready.number();
            self.raw.advance_append_async(ready);
            self.emit_append(number, append, held);
            self.notice_role();
            self.apply_entries(committed);
            if self.failed {
                return;
            }
            self.persist_commit();
        }
    }

    /// Makes the commit index of a change of the membership durable. A start goes by the members that are
    /// applied: one that had forgotten the removal of its last peer would wait for that one's vote for ever.
    fn persist_commit(&mut self) {
        if std::mem::take(&mut self.append.commit_due) {
            self.append.emitted += 1;
            let append = Append { hard_state: Some(self.hard_state()), ..Append::default() };
            self.emit(Output::Append { seq: self.append.emitted, append });
        }
    }

    /// Moves the new entries into the log and says what must be persisted for this Ready. A commit
    /// index alone is not worth a sync: it rides on the next append, and a restart takes the larger of
    /// it and the applied index.
    fn append_of(&mut self, ready: &mut Ready) -> Append {
        let entries: Vec<LogEntry> = ready.take_entries().into_iter().map(from_raft).collect();
        self.raw.mut_store().append(&entries);
        let must_sync = ready.must_sync() && !(planted::on(Bug::TermNotPersisted) && entries.is_empty());
        let mut hard_state = must_sync.then(|| self.hard_state());
        if planted::on(Bug::VoteNotPersisted)
            && let Some(hard_state) = &mut hard_state
        {
            hard_state.vote = 0;
        }
        Append { log_start: None, entries, hard_state }
    }

    pub(super) fn hard_state(&self) -> HardState {
        let hard_state = self.raw.raft.hard_state();
        HardState { term: hard_state.term, vote: hard_state.vote, commit: hard_state.commit }
    }

    pub(super) fn emit_append(&mut self, number: u64, append: Append, held: Vec<Message>) {
        if append != Append::default() {
            self.append.emitted += 1;
            self.emit(Output::Append { seq: self.append.emitted, append });
        }
        self.append.waiting.push_back((number, self.append.emitted));
        if planted::on(Bug::AckBeforeFsync) {
            self.send_messages(held);
        } else if !held.is_empty() {
            self.append.held.push_back((self.append.emitted, held));
        }
        self.settle_appends();
    }

    pub(super) fn handle_appended(&mut self, seq: u64) {
        assert!(seq <= self.append.emitted, "append {seq} was never emitted");
        self.append.durable = self.append.durable.max(seq);
        self.settle_appends();
        self.finish_repair();
    }

    /// Acknowledges to the crate, and to peers, whatever the durable appends cover.
    fn settle_appends(&mut self) {
        let durable = self.append.durable;
        let mut number = None;
        while let Some((next, _)) = self.append.waiting.pop_front_if(|(_, seq)| *seq <= durable) {
            number = Some(next);
        }
        if let Some(number) = number {
            self.raw.on_persist_ready(number);
            self.snapshots_persisted(number);
        }
        while let Some((_, messages)) = self.append.held.pop_front_if(|(seq, _)| *seq <= durable) {
            let mut messages = messages;
            if planted::on(Bug::ForgetVoteAnswer) {
                messages.retain(|message| message.get_msg_type() != MessageType::MsgRequestVoteResponse);
            }
            self.send_messages(messages);
        }
    }

    pub(super) fn send_messages(&mut self, messages: Vec<Message>) {
        for message in join_appends(messages) {
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.send_snapshot(message);
            } else {
                let to = message.to;
                self.send(to, &PeerMessage::Raft(RaftMessage::new(message)));
            }
        }
    }

    /// Compares Raft's role, term and leader with what was last seen, and acts on the difference.
    pub(super) fn notice_role(&mut self) {
        let raft = &self.raw.raft;
        let (role, term, leader) = (raft.state, raft.term, raft.leader_id);
        if (role, term, leader) == (self.role, self.term, self.leader) {
            return;
        }
        let before = (self.role, self.term, self.leader);
        (self.role, self.term, self.leader) = (role, term, leader);
        if (role, term) != (before.0, before.1) {
            match role {
                StateRole::Follower => self.event(NodeEvent::BecameFollower { term }),
                StateRole::Candidate => self.event(NodeEvent::BecameCandidate { term }),
                StateRole::Leader => self.event(NodeEvent::BecameLeader { term }),
                StateRole::PreCandidate => {}
            }
        }
        if leader != before.2 {
            if before.2 != 0 {
                self.event(NodeEvent::LeaderLost { leader: before.2, term });
            }
            if leader != 0 {
                self.event(NodeEvent::LeaderElected { leader, term });
            }
        }
        let led_before = before.0 == StateRole::Leader;
        if led_before && (role != StateRole::Leader || term != before.1) {
            if !planted::on(Bug::OldLeaderRevokes) {
                self.lessor.demote();
            }
            self.timers.lost_leadership();
        }
        self.leader_changed(led_before, before.1);
    }

    /// Where the log begins for a member that has just installed a snapshot.
    pub(super) fn log_start(&self) -> LogStart {
        LogStart { index: self.applied, term: self.applied_term }
    }
}

/// Joins an append to the one before it for the same peer if it continues it exactly. The crate can
/// do so itself (`batch_append`), but it adds entries to an empty message without looking at the
/// index that the message stands at: after an acknowledgement in between, the follower gets a gap.
fn join_appends(messages: Vec<Message>) -> Vec<Message> {
    let mut out: Vec<Message> = Vec::with_capacity(messages.len());
    let mut last: BTreeMap<u64, usize> = BTreeMap::new();
    for mut message in messages {
        let append = message.get_msg_type() == MessageType::MsgAppend;
        if append && let Some(before) = last.get(&message.to).and_then(|at| out.get_mut(*at)) {
            let end = before.entries.last().map_or((before.index, before.log_term), |e| (e.index, e.term));
            let size: usize = before.entries.iter().map(|entry| entry.data.len()).sum();
            let joins = end == (message.index, message.log_term) || planted::on(Bug::JoinedAppendGap);
            if joins && before.term == message.term && size < JOIN_BYTES_MAX {
                let mut entries = before.take_entries().into_vec();
                entries.extend(message.take_entries());
                before.set_entries(entries.into());
                before.commit = before.commit.max(message.commit);
                continue;
            }
        }
        if append {
            last.insert(message.to, out.len());
        } else {
            // Nothing overtakes another kind of message.
            last.remove(&message.to);
        }
        out.push(message);
    }
    out
}
