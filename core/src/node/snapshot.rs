//! Where the backend stands in the log, and catching up a member that the log cannot reach any more.
//!
//! A snapshot is the rows of an immutable view, sent driver to driver; Raft's message about it is only
//! the header. The receiver builds a second backend beside its own, and swaps them in one atomic step
//! when Raft has accepted the header. Only then is the log told where it begins: a crash in between
//! finds a backend that is ahead of the log, which recovery understands.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raft::eraftpb::{ConfState, Message};
use raft::{Ready, SnapshotStatus};
use serde::{Deserialize, Serialize};

use super::peer_message::{PeerMessage, RaftMessage, SnapshotPosition, Voters};
use super::{Node, NodeEvent, Output, Recovered};
use crate::backend::{Batch, Size, Table};
use crate::cluster::Cluster;
use crate::error::Fatal;
use crate::mvcc::{Store, StoreOptions, StoreView};
use crate::planted::{self, Bug};
use crate::types::{Index, MemberId, Term};
use crate::wal::{Append, LogStart};

const META_APPLIED: &[u8] = b"applied";
const META_VOTERS: &[u8] = b"voters";

/// How far the backend has come, and Raft's configuration there.
#[derive(Debug)]
pub(super) struct Position {
    pub(super) applied: LogStart,
    pub(super) voters: ConfState,
}

#[derive(Serialize, Deserialize)]
struct AppliedRow {
    index: u64,
    term: u64,
}

fn encode(value: &impl Serialize) -> Bytes {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .expect("a row always encodes into memory")
        .into()
}

fn decode<T: for<'a> Deserialize<'a>>(name: &[u8], bytes: &[u8]) -> Result<T, Fatal> {
    bincode::serde::decode_from_slice(bytes, bincode::config::standard()).map(|(value, _)| value).map_err(
        |error| Fatal(format!("the backend's row {:?} is damaged: {error}", String::from_utf8_lossy(name))),
    )
}

impl Position {
    pub(super) fn load(store: &Store) -> Result<Self, Fatal> {
        let applied = match store.get(Table::Meta, META_APPLIED)? {
            Some(row) => decode::<AppliedRow>(META_APPLIED, &row)?,
            None => AppliedRow { index: 0, term: 0 },
        };
        let voters = match store.get(Table::Meta, META_VOTERS)? {
            Some(row) => decode::<Voters>(META_VOTERS, &row)?.to_raft(),
            None => ConfState::default(),
        };
        Ok(Self { applied: LogStart { index: applied.index, term: applied.term }, voters })
    }
}

/// The index and term that a view's rows are the state of; zeroes if nothing was ever applied.
///
/// # Errors
/// The backend could not be read, or the row is damaged.
pub fn applied_position(view: &StoreView) -> Result<LogStart, Fatal> {
    for row in view.rows(Some((Table::Meta, Bytes::new()))) {
        let (_, key, value) = row?;
        if key == META_APPLIED {
            let applied = decode::<AppliedRow>(META_APPLIED, &value)?;
            return Ok(LogStart { index: applied.index, term: applied.term });
        }
    }
    Ok(LogStart { index: 0, term: 0 })
}

pub(super) fn store_position(store: &mut Store, position: LogStart) {
    let row = encode(&AppliedRow { index: position.index, term: position.term });
    store.set(Table::Meta, Bytes::from_static(META_APPLIED), Some(row));
}

pub(super) fn store_voters(store: &mut Store, voters: &ConfState) {
    let row = encode(&Voters::from_raft(voters));
    store.set(Table::Meta, Bytes::from_static(META_VOTERS), Some(row));
}

/// The first contents of the backend of a member of a new cluster: the members that the operator
/// listed, as if one log entry had added each. Every member derives the same.
pub fn bootstrap_batch(cluster: &Cluster) -> (Batch, LogStart) {
    let start = LogStart { index: cluster.members().len() as u64, term: 1 };
    let voters = Voters {
        voters: cluster.voters().map(|member| member.id).collect(),
        learners: cluster.learners().map(|member| member.id).collect(),
    };
    let applied = AppliedRow { index: start.index, term: start.term };
    let mut changes = cluster.rows();
    changes.push((Table::Meta, Bytes::from_static(META_VOTERS), Some(encode(&voters))));
    changes.push((Table::Meta, Bytes::from_static(META_APPLIED), Some(encode(&applied))));
    changes.sort();
    (Batch { changes }, start)
}

/// Joins the recovered log and the backend's position: what to start from, and what the write-ahead
/// log must be told first.
pub(super) fn recover_log(
    recovered: Recovered,
    position: &Position,
) -> Result<(Recovered, Option<Append>), Fatal> {
    let Recovered { mut log_start, mut hard_state, mut entries, mut damaged } = recovered;
    let applied = position.applied;
    if applied.index < log_start.index {
        return Err(Fatal(format!(
            "the backend has applied {} but the log begins after {}: the backend is older than the log; \
             remove this member and add it again with an empty data directory",
            applied.index, log_start.index
        )));
    }
    let term_there = if applied.index == log_start.index {
        Some(log_start.term)
    } else {
        let offset = usize::try_from(applied.index - log_start.index - 1).unwrap_or(usize::MAX);
        entries.get(offset).map(|entry| entry.term)
    };
    let installed = term_there != Some(applied.term);
    if installed {
        // A snapshot was installed and the process ended before the log heard of it.
        entries.clear();
        damaged.clear();
        log_start = applied;
        hard_state.commit = applied.index;
    }
    hard_state.commit = hard_state.commit.max(applied.index);
    hard_state.term = hard_state.term.max(applied.term);
    let last = log_start.index + entries.len() as u64;
    if hard_state.commit > last {
        return Err(Fatal(format!(
            "the log ends at {last} but {} was committed: entries are missing; remove this member and add \
             it again with an empty data directory",
            hard_state.commit
        )));
    }
    // The backend has what these did: the log begins after them. Their bytes go with their segment.
    let needless = damaged.partition_point(|damaged| damaged.id.index <= applied.index);
    if let Some(damaged) = damaged.drain(..needless).next_back() {
        log_start = LogStart { index: damaged.id.index, term: damaged.id.term };
        entries.retain(|entry| entry.index > log_start.index);
    }
    let first = installed.then(|| Append {
        log_start: Some(log_start),
        entries: Vec::new(),
        hard_state: Some(hard_state),
    });
    Ok((Recovered { log_start, hard_state, entries, damaged }, first))
}

/// Transfers in both directions.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    next_view: u64,
    pub(super) views: BTreeMap<u64, StoreView>,
    /// Set while the driver swaps backends: nothing is appended or applied meanwhile.
    pub(super) installing: Option<Installing>,
    /// Raft hears of the applied index when this Ready is durable.
    persisting: Option<u64>,
    /// Members that are being sent the state for their repair.
    repairing: BTreeSet<MemberId>,
}

impl Snapshots {
    /// A snapshot has been accepted, and Raft has not heard that it is durable: Raft must not
    /// campaign until then.
    pub(super) fn replacing(&self) -> bool {
        self.installing.is_some() || self.persisting.is_some()
    }
}

#[derive(Debug)]
pub(super) struct Installing {
    index: u64,
    /// What Raft waits for, if it was Raft that accepted the snapshot and not a repair.
    ready: Option<Accepted>,
}

#[derive(Debug)]
struct Accepted {
    number: u64,
    append: Append,
    held: Vec<Message>,
}

impl Node {
    /// Pins the current state for a driver to read at leisure.
    pub(super) fn pin_view(&mut self) -> Result<u64, Fatal> {
        let position = self.log_start();
        store_position(&mut self.store, position);
        self.snapshots.next_view += 1;
        let view = self.snapshots.next_view;
        self.snapshots.views.insert(view, self.store.view());
        Ok(view)
    }

    /// Raft wants a snapshot sent. What is sent is the state of this moment, which covers what Raft
    /// asked for.
    pub(super) fn send_snapshot(&mut self, message: Message) {
        let to = message.to;
        let mut message = RaftMessage::new(message);
        message.snapshot = Some(SnapshotPosition {
            index: self.applied,
            term: self.applied_term,
            voters: Voters::from_raft(self.raw.store().conf_state()),
        });
        self.send_state(to, &PeerMessage::Raft(message));
    }

    fn send_state(&mut self, to: MemberId, header: &PeerMessage) {
        match self.pin_view() {
            Ok(view) => {
                self.event(NodeEvent::SnapshotSending { to, index: self.applied });
                self.emit(Output::SendSnapshot { to, view, header: header.encode() });
            }
            Err(fatal) => self.fail(fatal),
        }
    }

    /// A member whose log is damaged wants the state in place of an entry, one transfer at a time.
    pub(super) fn handle_repair_state(&mut self, from: MemberId, index: Index) {
        if self.applied < index || self.snapshots.installing.is_some() {
            return;
        }
        if self.snapshots.repairing.insert(from) {
            let (index, term) = (self.applied, self.applied_term);
            self.send_state(from, &PeerMessage::RepairSnapshot { index, term });
        }
    }

    pub(super) fn handle_snapshot_sent(&mut self, to: MemberId, ok: bool) {
        if !ok && planted::on(Bug::SnapshotFailureIgnored) {
            return;
        }
        if self.snapshots.repairing.remove(&to) {
            return;
        }
        let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(to, status);
        self.spread_election_timeout();
    }

    pub(super) fn handle_snapshot_received(&mut self, from: MemberId, header: &[u8]) {
        let accepted = match PeerMessage::decode(header) {
            _ if self.snapshots.installing.is_some() => false,
            Some(PeerMessage::Raft(message)) if self.repair.is_none() => self.step_snapshot(from, message),
            Some(PeerMessage::RepairSnapshot { index, term }) => self.install_state(index, term),
            _ => false,
        };
        if !accepted {
            self.emit(Output::DiscardSnapshot);
        }
    }

    /// Takes a state in place of entries that the log misses, if it still misses them.
    fn install_state(&mut self, index: Index, term: Term) -> bool {
        let wanted = self.repair.as_ref().is_some_and(|repair| repair.wants(LogStart { index, term }));
        if wanted {
            self.snapshots.installing = Some(Installing { index, ready: None });
            self.emit(Output::InstallSnapshot);
        }
        wanted
    }

    /// Whether Raft wants the snapshot that `message` announces.
    fn step_snapshot(&mut self, from: MemberId, message: RaftMessage) -> bool {
        if message.from != from || message.to != self.config.member_id || !message.is_snapshot() {
            return false;
        }
        let Some(message) = message.into_raft() else { return false };
        let _ = self.raw.step(message);
        self.spread_election_timeout();
        self.raw.snap().is_some_and(|snapshot| !snapshot.is_empty())
    }

    /// Raft has accepted the snapshot: the driver swaps the backend, everything else waits.
    pub(super) fn install_snapshot(&mut self, mut ready: Ready, held: Vec<Message>) {
        let metadata = ready.snapshot().get_metadata().clone();
        let start = LogStart { index: metadata.index, term: metadata.term };
        self.raw.mut_store().reset(start, metadata.get_conf_state().clone());
        let entries: Vec<_> = ready.take_entries().into_iter().map(crate::raft_log::from_raft).collect();
        self.raw.mut_store().append(&entries);
        let number = ready.number();
        self.raw.advance_append_async(ready);
        let hard_state = Some(self.hard_state());
        let append = Append { log_start: Some(start), entries, hard_state };
        let ready = Some(Accepted { number, append, held });
        self.snapshots.installing = Some(Installing { index: start.index, ready });
        self.emit(Output::InstallSnapshot);
    }

    pub(super) fn handle_snapshot_installed(&mut self, size: Size) {
        let Some(installing) = self.snapshots.installing.take() else { return };
        self.size = size;
        let Installing { index, ready } = installing;
        if let Err(fatal) = self.adopt_backend(index) {
            return self.fail(fatal);
        }
        match ready {
            Some(Accepted { number, append, held }) => {
                self.snapshots.persisting = Some(number);
                self.emit_append(number, append, held);
            }
            None => {
                if let Err(fatal) = self.repair_behind_state() {
                    return self.fail(fatal);
                }
            }
        }
        self.event(NodeEvent::SnapshotInstalled { index });
    }

    fn adopt_backend(&mut self, index: u64) -> Result<(), Fatal> {
        let mut store = Store::open(self.backend.clone(), StoreOptions::default())?;
        store.count_from(&self.store);
        self.store = store;
        let position = Position::load(&self.store)?;
        if position.applied.index != index {
            return Err(Fatal(format!(
                "the installed snapshot stands at {}, its header said {index}",
                position.applied.index
            )));
        }
        if !planted::on(Bug::SnapshotKeepsApplied) {
            self.applied = position.applied.index;
        }
        self.applied_term = position.applied.term;
        self.applied_unseen(self.applied_term);
        self.flush.reset(self.applied);
        self.load_replicated_state()?;
        if planted::on(Bug::SnapshotForgetsLeases) {
            self.lessor.load([])?;
        }
        let view = self.store.view();
        self.watch.restored(&view);
        self.answer_compacted();
        Ok(())
    }

    /// Appends up to this Ready are durable.
    pub(super) fn snapshots_persisted(&mut self, number: u64) {
        if self.snapshots.persisting.take_if(|waiting| *waiting <= number).is_some() {
            self.raw.advance_apply_to(self.applied);
        }
    }
}
