//! Every check after every step: what a member is about to do, and what it says of itself.

use cairn_checkers::page::Kind;
use cairn_core::api::RangeRequest;
use cairn_core::command::Op as CommandOp;
use cairn_core::mvcc::{Ranged, StoreView};
use cairn_core::node::{NodeEvent, Output, Role};
use cairn_core::types::{KeyRange, MemberId};

use crate::checker::lease;
use crate::cluster::Cluster;
use crate::invariants::{committed_immutable, leader_completeness};

/// Ids at or above this are a node's own commands.
const INTERNAL_ID: u64 = 1 << 63;

impl Cluster {
    /// Checks what a member is about to do, and what it says of itself, against all others.
    pub(crate) fn observe(&mut self, id: MemberId, outputs: &[Output]) -> Result<(), String> {
        let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else {
            return Ok(());
        };
        if outputs.iter().any(|output| matches!(output, Output::Fatal(_))) {
            // It stopped in the middle of something and promises nothing any more.
            return Ok(());
        }
        let status = process.node.progress();
        for output in outputs {
            match output {
                Output::Repair { entries, .. } => process.log.repair(entries.iter().map(|(_, entry)| entry)),
                Output::InstallSnapshot => process.installing = true,
                Output::Event(NodeEvent::SnapshotInstalled { index }) => {
                    // The log was told, unless it agrees with a state that took the place of its damage.
                    process.log.keep(*index + 1, process.log.last());
                    process.installing = false;
                }
                _ => {}
            }
            let Output::Append { append, .. } = output else { continue };
            committed_immutable::appends(id, process.committed, append, &self.committed)?;
            let leads = status.role == Role::Leader;
            for entry in &append.entries {
                let own = append.entries.iter().find(|before| before.index + 1 == entry.index);
                let before = own.or_else(|| process.log.get(entry.index - 1)).map(|before| before.term);
                // A single voter may use a term again if it was lost before anybody heard of it.
                if !status.alone {
                    self.matching.appended(entry, before)?;
                }
                if leads && entry.term == status.term && !entry.data.is_empty() {
                    let command = cairn_core::command::Command::decode(&entry.data)?;
                    if matches!(command.op, CommandOp::LeaseRevoke { .. }) {
                        self.leases.decided(self.now, (entry.index, entry.term));
                    }
                }
            }
            process.log.append(append);
        }
        let process = &*process;
        if status.role == Role::Leader && self.election.leads(id, status.term)? {
            leader_completeness::elected(id, status.term, &process.log, &self.committed)?;
        }
        if process.installing {
            return self.observe_applied(id, status.applied);
        }
        let log = &process.log;
        let leads = (status.role == Role::Leader).then_some(status.term);
        self.own_term.committed(id, leads, status.committed, log)?;
        let news = self.committed.advance(id, process.committed, status.committed, log)?;
        for entry in news {
            let Some(command) = self.model.apply(&entry)? else { continue };
            let internal = command.id.seq >= INTERNAL_ID;
            self.linearizability.committed(command.id)?;
            let place = (entry.index, entry.term);
            lease::committed(&mut self.leases, self.now, place, &command.op, internal)
                .map_err(|violation| violation.to_string())?;
            if matches!(command.op, CommandOp::Member(_)) {
                self.stats.membership += 1;
                self.changed = entry.index;
            }
            let now = self.now;
            self.trace.note(&[4, entry.index, entry.term]);
            self.trace.line(now, || {
                format!(
                    "{:16} committed {}.{} {:?} {:?}",
                    "", entry.term, entry.index, command.id, command.op
                )
            });
        }
        if let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) {
            if status.committed > process.committed {
                let (now, committed) = (self.now, status.committed);
                self.trace.record(|recorded| recorded.mark(now, id, Kind::Commit, committed, ""));
            }
            process.committed = process.committed.max(status.committed);
        }
        self.observe_applied(id, status.applied)
    }

    /// The apply streams of all members are equal, and equal to the model's.
    fn observe_applied(&mut self, id: MemberId, applied: u64) -> Result<(), String> {
        let Some(process) = self.members.get_mut(&id).and_then(|member| member.process.as_mut()) else {
            return Ok(());
        };
        if process.observed == Some(applied) {
            return Ok(());
        }
        process.observed = Some(applied);
        let status = process.node.status();
        let Some(expected) = self.model.at(status.applied) else {
            return if status.applied <= self.committed.last() {
                Ok(())
            } else {
                Err(format!("{id:x} has applied {}, which is not committed", status.applied))
            };
        };
        let found = (status.revision, status.compact_revision, status.leases);
        if found != (expected.revision, expected.compact, expected.leases) {
            return Err(format!(
                "apply: {id:x} is {found:?} at index {}, expected {expected:?}",
                status.applied
            ));
        }
        let members = status.members.iter().map(|member| (member.id, member.is_learner)).collect::<Vec<_>>();
        let learners = members.iter().filter(|(_, is_learner)| *is_learner).count();
        if learners > self.options.learners_max {
            return Err(format!("apply: at {} {id:x} has {learners} learners", status.applied));
        }
        let known = self.configurations.entry(status.applied).or_insert_with(|| members.clone());
        if *known != members {
            return Err(format!("apply: at {} {id:x} has {members:x?}, others {known:x?}", status.applied));
        }
        Ok(())
    }

    /// What a member has flushed is what the committed log makes of it: its start finds every version
    /// of every key that is not compacted away, and nothing else.
    ///
    /// # Errors
    /// The engine cannot be read.
    pub(crate) fn observe_start(
        &mut self,
        id: MemberId,
        flushed: &StoreView,
        applied: u64,
    ) -> Result<Result<(), String>, String> {
        let Some(expected) = self.model.at(applied) else { return Ok(Ok(())) };
        let found = (flushed.revision(), flushed.compact_revision());
        if found != (expected.revision, expected.compact) {
            return Ok(Err(format!(
                "replay: {id:x} has flushed {found:?} at index {applied}, expected {expected:?}"
            )));
        }
        let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() };
        let rows = flushed.range(&all, None).map_err(|fatal| fatal.0)?;
        let expected = self.model.live(&KeyRange::From("\0".into()), found.0);
        match rows {
            Ok(Ranged::Done(rows)) if rows.kvs == expected => Ok(Ok(())),
            rows => {
                Ok(Err(format!("replay: {id:x} has flushed {rows:?} at {found:?}, expected {expected:?}")))
            }
        }
    }
}
