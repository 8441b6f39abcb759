//! Log entries whose bytes rotted, fetched again from other members (CTRL, FAST'18, section 3.4).
//!
//! The log still knows which entries they were, so any member's copy with the same term, index and
//! checksum is the one that is missing. Until every entry is whole and durable again this member takes
//! no part in Raft: it neither votes nor campaigns, acknowledges nothing and confirms no read, as if it
//! had not started yet. It does answer the same question of others, from what is whole.
//!
//! An entry that nobody has may never have been committed. It is left out only when a quorum of the
//! other voters lacks it and each of them is in a later term than this member has ever been in: no
//! leader that counted on this member's copy can complete a quorum without them any more. The log file
//! keeps what was left out until a leader's entry replaces it, so rot is never a reason to truncate.
//!
//! An entry that the others have applied and forgotten nobody can give. When nobody gave anything else
//! either, one that has applied it sends its state in its place. Then this member is where a start would
//! be that found this backend and this log (`recover_log`): what the state covers is needless, and what
//! follows it in the log stays if the log agrees with the state about the term there. If it does not, the
//! log has another entry in the place of a committed one, and nothing after that can ever be committed.
//!
//! Invariant: the entries that Raft starts from are the ones that this member acknowledged, or are
//! known not to be committed. In doubt it waits, and says for what.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use raft::RawNode;
use raft::Storage as _;

use super::peer_message::{PeerMessage, RepairAnswer};
use super::snapshot::{Position, recover_log};
use super::{Node, NodeEvent, Output, Recovered, quiet_logger, raft_config};
use crate::error::Fatal;
use crate::raft_log::RaftLog;
use crate::time::Time;
use crate::types::{Index, MemberId, Term};
use crate::wal::{Damaged, EntryId, LogEntry, LogStart};

/// Entries asked for at a time.
const ASK_MAX: usize = 256;
/// Bytes of entries in one answer, about.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How often an operator is reminded of an entry that nobody has.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// How long a member that has offered its state may be silent until another one is asked for it.
const OFFER_PATIENCE: Duration = Duration::from_secs(10);

/// A log that is not whole yet.
#[derive(Debug)]
pub(super) struct Repair {
    recovered: Recovered,
    missing: BTreeMap<Index, Damaged>,
    /// Voters in a later term that lack an entry.
    absent: BTreeMap<Index, BTreeSet<MemberId>>,
    entries: usize,
    bytes: usize,
    /// When the next member is asked if nothing is heard.
    due: Time,
    /// The member that was asked last.
    asked: MemberId,
    /// Answers in a row that brought nothing.
    fruitless: usize,
    /// Who can send its state instead, and when it last said so.
    offer: Option<(MemberId, Time)>,
    /// When an operator is told again.
    tell: Time,
}

impl Repair {
    pub(super) fn new(recovered: Recovered, now: Time) -> Self {
        let mut repair = Self {
            recovered: Recovered::default(),
            missing: BTreeMap::new(),
            absent: BTreeMap::new(),
            entries: 0,
            bytes: 0,
            due: now,
            asked: 0,
            fruitless: 0,
            offer: None,
            tell: now,
        };
        repair.set_log(recovered);
        repair
    }

    fn set_log(&mut self, mut recovered: Recovered) {
        let damaged = std::mem::take(&mut recovered.damaged);
        self.missing = damaged.into_iter().map(|damaged| (damaged.id.index, damaged)).collect();
        self.recovered = recovered;
    }

    /// The first entry that is missing, if the state at `applied` stands for it.
    fn covered(&self, applied: Index) -> Option<Index> {
        self.missing.keys().next().copied().filter(|first| *first <= applied)
    }

    /// Whether the state at `position` helps, and agrees with what is known to be committed.
    pub(super) fn wants(&self, position: LogStart) -> bool {
        let LogStart { index, term } = position;
        let hard_state = self.recovered.hard_state;
        self.covered(index).is_some() && (index > hard_state.commit || self.term(index) == Some(term))
    }

    fn term(&self, index: Index) -> Option<Term> {
        let place = index.checked_sub(self.recovered.log_start.index + 1)?;
        self.recovered.entries.get(usize::try_from(place).ok()?).map(|entry| entry.term)
    }

    /// The log that Raft has until the repair is done: nothing but what the backend holds.
    pub(super) fn log_meanwhile(&self, position: &Position) -> RaftLog {
        let mut hard_state = self.recovered.hard_state;
        hard_state.commit = position.applied.index;
        RaftLog::new(position.applied, Vec::new(), hard_state, position.voters.clone(), position.applied)
    }

    fn entry_mut(&mut self, index: Index) -> Option<&mut LogEntry> {
        let place = index.checked_sub(self.recovered.log_start.index + 1)?;
        self.recovered.entries.get_mut(usize::try_from(place).ok()?)
    }

    /// Leaves out an entry that was never committed, and what follows it.
    fn leave_out(&mut self, index: Index) {
        assert!(index > self.recovered.hard_state.commit, "committed entries stay");
        self.recovered.entries.retain(|entry| entry.index < index);
        self.missing.split_off(&index);
    }

    /// What this member can say of an entry while its own log is not whole.
    fn answer(&self, id: EntryId) -> Option<RepairAnswer> {
        let Recovered { log_start, entries, .. } = &self.recovered;
        let place = usize::try_from(id.index.checked_sub(log_start.index + 1)?).ok()?;
        match entries.get(place) {
            Some(entry) if entry.term == id.term => {
                (!self.missing.contains_key(&id.index)).then(|| RepairAnswer::Have(entry.clone()))
            }
            _ => Some(RepairAnswer::Absent(id.index)),
        }
    }
}

impl Node {
    pub(super) fn next_repair(&self) -> Option<Time> {
        self.repair.as_ref().filter(|repair| !repair.missing.is_empty()).map(|repair| repair.due)
    }

    /// Whether entries of its log are missing, so that it takes no part in Raft yet.
    pub fn is_repairing(&self) -> bool {
        self.repair.is_some()
    }

    pub(super) fn tell_damage(&mut self) {
        let Some(repair) = &self.repair else { return };
        let events: Vec<_> = repair.missing.values().cloned().map(NodeEvent::LogEntryDamaged).collect();
        events.into_iter().for_each(|event| self.event(event));
    }

    /// Somebody more can be asked.
    pub(super) fn repair_from_anyone(&mut self) {
        if let Some(repair) = &mut self.repair {
            repair.due = self.now;
        }
    }

    /// Asks the next member that can be reached, when it is time. If none can, it may be that nobody has
    /// tried: then any may be asked.
    pub(super) fn work_repair(&mut self) {
        let now = self.now;
        let all = || self.peers.keys().copied();
        let mut peers: Vec<MemberId> = all().filter(|id| self.connected_to(*id)).collect();
        if peers.is_empty() {
            peers.extend(all());
        }
        let Some(repair) = self.repair.as_mut().filter(|repair| !repair.missing.is_empty()) else { return };
        if repair.due > now {
            return;
        }
        repair.due = now + self.config.heartbeat;
        if self.snapshots.installing.is_some() {
            return;
        }
        let next = peers.iter().find(|id| **id > repair.asked).or(peers.first());
        let Some(&next) = next else { return };
        repair.asked = next;
        let entries = repair.missing.values().take(ASK_MAX).map(|damaged| damaged.id).collect();
        self.send(next, &PeerMessage::RepairAsk { entries });
    }

    pub(super) fn handle_repair_ask(&mut self, from: MemberId, entries: Vec<EntryId>) {
        let mut bytes = 0;
        let mut answers = Vec::new();
        let mut offers = false;
        for id in entries.into_iter().take(ASK_MAX) {
            let answer = match &self.repair {
                Some(repair) => repair.answer(id),
                None => self.repair_answer(id),
            };
            if let Some(RepairAnswer::Have(entry)) = &answer {
                bytes += entry.size();
            }
            offers |= answer.is_none() && id.index <= self.applied;
            answers.extend(answer);
            if bytes >= ANSWER_BYTES_MAX {
                break;
            }
        }
        if offers {
            self.send(from, &PeerMessage::RepairOffer { applied: self.applied });
        }
        let term = self.raw.raft.term;
        self.send(from, &PeerMessage::RepairReply { term, answers });
    }

    pub(super) fn handle_repair_offer(&mut self, from: MemberId, applied: Index) {
        let now = self.now;
        let Some(repair) = &mut self.repair else { return };
        let other = repair.offer.filter(|(other, said)| *other != from && now < *said + OFFER_PATIENCE);
        if other.is_none() && repair.covered(applied).is_some() {
            repair.offer = Some((from, now));
        }
    }

    /// What this member has in an entry's place; `None` when that is not to be said for certain.
    fn repair_answer(&self, id: EntryId) -> Option<RepairAnswer> {
        let log = &self.raw.raft.raft_log;
        if id.index < self.raw.store().first() {
            return None;
        }
        if log.term(id.index) != Ok(id.term) {
            // The term that goes with the answer is a promise only when it is durable.
            return (self.append.durable == self.append.emitted).then_some(RepairAnswer::Absent(id.index));
        }
        self.raw.store().entry(id.index).map(|entry| RepairAnswer::Have(entry.clone()))
    }

    pub(super) fn handle_repair_reply(&mut self, from: MemberId, term: Term, answers: Vec<RepairAnswer>) {
        let voters = self.voters();
        let peers = self.peers.len();
        if self.snapshots.installing.is_some() {
            return;
        }
        let Some(repair) = &mut self.repair else { return };
        let mut repaired = Vec::new();
        let mut left_out = Vec::new();
        for answer in answers {
            match answer {
                RepairAnswer::Have(entry) => {
                    let Some(damaged) = repair.missing.get(&entry.index).filter(|one| one.is(&entry)) else {
                        continue;
                    };
                    repaired.push((damaged.clone(), entry.clone()));
                    repair.missing.remove(&entry.index);
                    repair.entries += 1;
                    repair.bytes += entry.data.len();
                    let place = repair.entry_mut(entry.index);
                    *place.expect("what is missing is in the log") = entry;
                }
                RepairAnswer::Absent(index) => {
                    let hard_state = repair.recovered.hard_state;
                    let asked = repair.missing.contains_key(&index) && voters.contains(&from);
                    if !asked || index <= hard_state.commit || term <= hard_state.term {
                        continue;
                    }
                    let absent = repair.absent.entry(index).or_default();
                    absent.insert(from);
                    if absent.len() > voters.len() / 2 {
                        left_out.push(repair.missing[&index].id);
                        repair.leave_out(index);
                    }
                }
            }
        }
        let fruitful = !repaired.is_empty() || !left_out.is_empty();
        repair.fruitless = if fruitful { 0 } else { repair.fruitless + 1 };
        let offer = repair.offer.filter(|(_, said)| self.now < *said + OFFER_PATIENCE);
        if repair.fruitless < peers {
            repair.due = self.now;
        } else if let (Some((offers, _)), Some(&index)) = (offer, repair.missing.keys().next()) {
            // While it is on its way, to ask again changes nothing.
            self.send(offers, &PeerMessage::RepairState { index });
        } else if repair.tell <= self.now {
            repair.tell = self.now + TELL_INTERVAL;
            let stuck = repair.missing.values().next().cloned();
            stuck.into_iter().for_each(|damaged| self.event(NodeEvent::LogEntryNowhere(damaged)));
        }
        for id in left_out {
            self.event(NodeEvent::LogEntryLeftOut { index: id.index, term: id.term });
        }
        if !repaired.is_empty() {
            self.append.emitted += 1;
            self.emit(Output::Repair { seq: self.append.emitted, entries: repaired });
        }
        self.finish_repair();
    }

    /// The backend is that of another member now: goes on as a start from it and the log would.
    pub(super) fn repair_behind_state(&mut self) -> Result<(), Fatal> {
        let Some(mut repair) = self.repair.take() else { return Ok(()) };
        let position = Position::load(&self.store)?;
        let damaged = std::mem::take(&mut repair.missing).into_values().collect();
        let log = Recovered { damaged, ..std::mem::take(&mut repair.recovered) };
        let (log, first_append) = recover_log(log, &position)?;
        repair.set_log(log);
        repair.offer = None;
        self.raw = self.raft_of(repair.log_meanwhile(&position))?;
        self.repair = Some(repair);
        if let Some(append) = first_append {
            self.append.emitted += 1;
            self.emit(Output::Append { seq: self.append.emitted, append });
        }
        self.finish_repair();
        Ok(())
    }

    fn raft_of(&self, log: RaftLog) -> Result<RawNode<RaftLog>, Fatal> {
        RawNode::new(&raft_config(&self.config, self.applied), log, &quiet_logger())
            .map_err(|error| Fatal(format!("the Raft state cannot be loaded: {error}")))
    }

    /// Starts Raft when every entry is whole and durable.
    pub(super) fn finish_repair(&mut self) {
        let durable = self.append.durable == self.append.emitted;
        let Some(repair) = self.repair.take_if(|repair| repair.missing.is_empty() && durable) else { return };
        if let Err(fatal) = self.start_raft(repair) {
            self.fail(fatal);
        }
    }

    fn start_raft(&mut self, repair: Repair) -> Result<(), Fatal> {
        let Recovered { log_start, hard_state, entries, .. } = repair.recovered;
        let voters = self.raw.store().conf_state().clone();
        let log = RaftLog::new(log_start, entries, hard_state, voters, self.log_start());
        assert!(log.last_index().is_ok_and(|last| last >= hard_state.commit), "committed entries are whole");
        self.raw = self.raft_of(log)?;
        self.spread_election_timeout();
        self.first_election();
        self.event(NodeEvent::LogRepaired { entries: repair.entries, bytes: repair.bytes });
        Ok(())
    }
}
