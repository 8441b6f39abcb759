//! `--force-new-cluster`: a member of a cluster that is lost for good becomes a cluster of its own.
//!
//! Runs before the start, on what the log and the backend hold. It says what must be appended to the
//! log and made durable; everything else then happens as entries are applied. Nothing is taken away
//! from the data, and doing it twice changes nothing.
//!
//! Entries that are not known to be committed are kept, unlike etcd's, which forgets them. Here the
//! commit index becomes durable with the append after it, so that the last entries before a crash may
//! be acknowledged ones. A leader that is elected with this log commits them just the same.
//!
//! Invariant: the entries that are added have a term of their own, as if this member alone had elected
//! itself, so that no other member can hold others under the same index and term.

use std::sync::Arc;

use super::{Fatal, Recovered, load_cluster, snapshot};
use crate::backend::Backend;
use crate::cluster::Cluster;
use crate::command::{Command, CommandId, MemberChange, Op};
use crate::mvcc::{Store, StoreOptions};
use crate::types::MemberId;
use crate::wal::{Append, EntryKind, HardState, LogEntry, Metadata};

/// Changes `recovered` so that the member that starts from it is alone, and returns what must be
/// durable in its log before it starts.
///
/// # Errors
/// The backend cannot be read or does not belong to the log, or this member is none of its cluster.
pub fn force_new_cluster(
    ids: Metadata,
    recovered: &mut Recovered,
    backend: Arc<dyn Backend>,
) -> Result<Append, Fatal> {
    let store = Store::open(backend, StoreOptions::default())?;
    let position = snapshot::Position::load(&store)?;
    let (mut log, first) = snapshot::recover_log(std::mem::take(recovered), &position)?;
    if let Some(damaged) = log.damaged.first() {
        return Err(Fatal(damaged.error().to_string()));
    }
    let mut cluster = load_cluster(&store, ids.cluster_id)?;
    let kept = keep(&log, position.applied.index, &mut cluster, ids.member_id);
    let own = cluster.member(ids.member_id).ok_or_else(|| {
        Fatal(format!(
            "member {:x} is not a member of the cluster that its data describes: it never joined it or was \
             removed from it, so this data cannot become a new cluster",
            ids.member_id
        ))
    })?;

    let mut changes = Vec::new();
    if own.is_learner {
        // Before the voters go: a cluster without one cannot decide anything.
        changes.push(MemberChange::Promote(own.id));
    }
    changes.extend(cluster.members().filter(|m| m.id != own.id).map(|m| MemberChange::Remove(m.id)));
    let term = log.hard_state.term + 1;
    let first_index = log.log_start.index + 1 + kept as u64;
    let entries: Vec<LogEntry> =
        (first_index..).zip(changes).map(|(index, change)| entry(term, index, change)).collect();

    if !entries.is_empty() {
        log.hard_state.term = term;
        log.hard_state.vote = ids.member_id;
    }
    log.entries.truncate(kept);
    log.entries.extend(entries.iter().cloned());
    log.hard_state.commit = log.log_start.index + log.entries.len() as u64;
    let append = Append {
        log_start: first.and_then(|append| append.log_start),
        entries,
        hard_state: Some(log.hard_state),
    };
    *recovered = log;
    Ok(append)
}

/// How many entries stay: all, or those before one that removes this member and may not have been
/// decided. `cluster`, which is as of `applied`, is brought to the end of them.
fn keep(log: &Recovered, applied: u64, cluster: &mut Cluster, own: MemberId) -> usize {
    let HardState { commit, .. } = log.hard_state;
    for (place, entry) in log.entries.iter().enumerate() {
        if entry.index <= applied {
            continue;
        }
        let Ok(Command { op: Op::Member(change), .. }) = Command::decode(&entry.data) else { continue };
        if entry.index > commit && change == MemberChange::Remove(own) {
            return place;
        }
        // What is refused now was, or will be, refused when it is applied.
        let _ = cluster.apply(&change);
    }
    log.entries.len()
}

fn entry(term: u64, index: u64, change: MemberChange) -> LogEntry {
    // Nobody waits for it, so it has nobody's id.
    let command = Command { id: CommandId::default(), op: Op::Member(change) };
    LogEntry { term, index, kind: EntryKind::ConfChange, data: command.encode().into() }
}
