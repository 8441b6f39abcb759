//! The physical side of a compaction: removing the rows that can no longer be asked for.
//!
//! One pass over the history since the last compaction, in bounded batches. Every change in it says
//! which change it superseded, so that one is deleted; a tombstone goes with its index row. Changes
//! *at* the compact revision all stay, tombstones too, because a watcher may start there (etcd
//! #18089, #19179); the next compaction, which starts at that revision, collects them.
//!
//! **Invariant:** whatever is removed is invisible at and above the compact revision; the newest
//! version of a live key is never removed. Every step can be repeated, so a restart begins the pass
//! anew; what lies in the overlay above is not looked at and not needed.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::record::{IndexRow, Record, corrupt};
use super::store::{META_COMPACT_REVISION, META_COMPACTED, META_REVISION, meta_number, meta_row};
use crate::backend::{Batch, Table, View};
use crate::error::Fatal;
use crate::planted::{self, Bug};
use crate::types::Revision;

/// A physical compaction that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// The compact revision that was removed up to before, 0 if none.
    pub from: i64,
    /// The compact revision to remove up to.
    pub to: i64,
}

impl Compaction {
    /// Where the first batch begins.
    pub fn start(&self) -> Revision {
        Revision::new(self.from, 0)
    }
}

/// One batch of the compaction to `to`: looks at up to `rows_max` changes from `cursor` on. Returns
/// what to commit, and where the next batch begins unless this was the last. `view` is the backend's
/// last commit, and no other commit may come between.
///
/// # Errors
/// The backend failed, a row is corrupt, or `to` is not flushed.
pub fn compact_batch(
    view: &dyn View,
    cursor: Revision,
    to: i64,
    rows_max: usize,
) -> Result<(Batch, Option<Revision>), Fatal> {
    let flushed = meta_number(view, META_COMPACT_REVISION)?.unwrap_or(-1);
    assert!(to <= flushed, "compaction to {to} before the compact revision {flushed} is durable");
    let mut gone = BTreeMap::new();
    let mut next = None;
    let (start, end) = (cursor.to_bytes(), Revision::new(to, i64::MAX).to_bytes());
    let rows = view.range(Table::History, Bound::Included(&start), Bound::Included(&end))?;
    for (seen, row) in rows.enumerate() {
        let (key, row) = row?;
        let revision = Revision::from_bytes(&key)
            .ok_or_else(|| corrupt(Table::History, &key, "the key is no revision"))?;
        if seen >= rows_max.max(1) {
            next = Some(revision);
            if planted::on(Bug::CompactLosesLatest) && revision.main < to {
                gone.insert((Table::History, key), None);
            }
            break;
        }
        let record = Record::decode(&key, &row)?;
        if let Some(prev) = record.meta.prev.filter(|prev| prev.main < to) {
            gone.insert((Table::History, Bytes::copy_from_slice(&prev.to_bytes())), None);
        }
        let at = i64::from(planted::on(Bug::CompactLosesTombstone));
        if record.meta.tombstone && revision.main < to + at {
            gone.insert((Table::History, key), None);
            if let Some(row) = view.get(Table::Index, &record.key)?
                && IndexRow::decode(&record.key, &row)?.latest == revision
            {
                gone.insert((Table::Index, record.key), None);
            }
        }
    }
    if next.is_none() {
        let (key, value) = meta_row(META_COMPACTED, to);
        gone.insert((Table::Meta, key), value);
    }
    debug_assert!(meta_number(view, META_REVISION)?.is_some_and(|revision| to <= revision));
    let changes = gone.into_iter().map(|((table, key), value)| (table, key, value)).collect();
    Ok((Batch { changes }, next))
}
