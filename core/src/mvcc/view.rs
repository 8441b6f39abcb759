//! Reading the store at one moment: ranges, history, leases' keys and all rows.
//!
//! A [`StoreView`] is immutable, cheap to clone and may be read on any thread for any time. A read of
//! the present uses the index row alone and fetches a value only for a row that is returned; a read
//! at an old revision starts at the index row and walks the pointers to previous revisions back.
//!
//! **Invariant:** a pointer may lead nowhere only where a compaction removed a tombstone; every other
//! missing row is corruption and reported as [`Fatal`].

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use super::counts::ReadCounts;
use super::record::{IndexRow, Meta, Record, corrupt};
use super::store::{Change, META_COMPACT_REVISION, META_KEYS, META_REVISION};
use crate::api::{RangeRequest, RangeResponse};
use crate::backend::Table;
use crate::backend::overlay::OverlayView;
use crate::error::{Error, Fatal};
use crate::planted::{self, Bug};
use crate::types::{EventKind, KeyRange, KeyValue, LeaseId, Revision};

/// An immutable view of the store at one moment.
#[derive(Clone, Debug)]
pub struct StoreView {
    pub(super) rows: OverlayView,
    pub(super) revision: i64,
    pub(super) compact_revision: i64,
    pub(super) keys: i64,
    pub(super) counts: ReadCounts,
}

/// A range's answer, unless it took too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranged {
    /// The whole answer.
    Done(RangeResponse),
    /// The bound on visited rows was reached first: ask again elsewhere, without a bound.
    TooLong,
}

/// A row of the whole store.
pub type StoreRow = Result<(Table, Bytes, Bytes), Fatal>;

/// A key's version as the index tells it; the value only if the way there passed by it.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) at: Revision,
    pub(super) meta: Meta,
    pub(super) value: Option<Bytes>,
    /// The value's length, where it is known.
    pub(super) value_len: Option<u32>,
}

fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    match range {
        KeyRange::Single(key) => (Bound::Included(key), Bound::Included(key)),
        KeyRange::HalfOpen(start, end) => (Bound::Included(start), Bound::Excluded(end)),
        KeyRange::From(start) => (Bound::Included(start), Bound::Unbounded),
    }
}

impl StoreView {
    /// The revision of the last write.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The last compaction's revision; -1 if there was none.
    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// Whether a read may be pinned at `revision`; 0 or less means now.
    pub(super) fn check_revision(&self, revision: i64) -> Result<(), Error> {
        if revision > self.revision {
            Err(Error::FutureRevision)
        } else if revision > 0 && revision < self.compact_revision && !planted::on(Bug::CompactNotChecked) {
            Err(Error::Compacted)
        } else {
            Ok(())
        }
    }

    /// Where a key stands now, deleted or not.
    pub(super) fn index(&self, key: &[u8]) -> Result<Option<IndexRow>, Fatal> {
        self.rows.get(Table::Index, key)?.map(|row| IndexRow::decode(key, &row)).transpose()
    }

    fn record(&self, revision: Revision) -> Result<Option<Record>, Fatal> {
        let key = revision.to_bytes();
        self.rows.get(Table::History, &key)?.map(|row| Record::decode(&key, &row)).transpose()
    }

    /// The value of a version that the index or a live record points to.
    pub(super) fn value(&self, revision: Revision) -> Result<Bytes, Fatal> {
        match self.record(revision)? {
            Some(record) if !record.meta.tombstone => Ok(record.value),
            _ => Err(no_put(revision)),
        }
    }

    /// The key's live version at `revision`, which is not below the compact revision.
    pub(super) fn version_at(&self, row: IndexRow, revision: i64) -> Result<Option<Version>, Fatal> {
        let mut version = Version { at: row.latest, meta: row.meta, value: None, value_len: row.value_len };
        while version.at.main > revision {
            let Some(prev) = version.meta.prev else { return Ok(None) };
            let Some(record) = self.record(prev)? else {
                let creation = !version.meta.tombstone && version.meta.version == 1;
                if creation && prev.main < self.compact_revision {
                    return Ok(None);
                }
                return Err(corrupt(Table::History, &prev.to_bytes(), "a retained change is missing"));
            };
            let value_len = u32::try_from(record.value.len()).ok();
            version = Version { at: prev, meta: record.meta, value: Some(record.value), value_len };
        }
        Ok((!version.meta.tombstone).then_some(version))
    }

    /// Calls `visit` for every key of the range that is live at `revision`, in ascending order, until
    /// it breaks or `rows_max` index rows were seen. Returns whether the range was finished.
    pub(super) fn visit(
        &self,
        range: &KeyRange,
        revision: i64,
        rows_max: Option<usize>,
        mut visit: impl FnMut(&[u8], Version) -> Result<ControlFlow<()>, Fatal>,
    ) -> Result<bool, Fatal> {
        if let KeyRange::Single(key) = range {
            if let Some(row) = self.index(key)?
                && let Some(version) = self.version_at(row, revision)?
            {
                let _ = visit(key, version)?;
            }
            return Ok(true);
        }
        if range.is_empty() {
            return Ok(true);
        }
        let (start, end) = bounds(range);
        let (mut seen, mut finished) = (0, true);
        self.rows.scan(Table::Index, start, end, |key, row| {
            if rows_max.is_some_and(|max| seen >= max) {
                finished = false;
                return Ok(ControlFlow::Break(()));
            }
            seen += 1;
            let row = IndexRow::decode(key, row)?;
            // Nearly every row of a long read of the present, which must not pay for the walk.
            if row.latest.main <= revision && !row.meta.tombstone {
                let IndexRow { latest: at, meta, value_len } = row;
                return visit(key, Version { at, meta, value: None, value_len });
            }
            match self.version_at(row, revision)? {
                Some(version) => visit(key, version),
                None => Ok(ControlFlow::Continue(())),
            }
        })?;
        Ok(finished)
    }

    /// Answers a range request. `rows_max` bounds the index rows that may be visited.
    ///
    /// # Errors
    /// The outer error is the environment's, the inner one the client's.
    pub fn range(
        &self,
        request: &RangeRequest,
        rows_max: Option<usize>,
    ) -> Result<Result<Ranged, Error>, Fatal> {
        Ok(match self.select(request, rows_max)? {
            Ok(Some(selected)) => Ok(Ranged::Done(selected.response()?)),
            Ok(None) => Ok(Ranged::TooLong),
            Err(error) => Err(error),
        })
    }

    /// The changes from `from` on, whole main revisions only: about `rows_max` of them, and more if
    /// the last revision has more. Also returns where to go on, if there is more. The caller sees to
    /// it that `from` is not below the compact revision.
    ///
    /// # Errors
    /// The backend failed or a row is corrupt.
    pub fn changes(&self, from: Revision, rows_max: usize) -> Result<(Vec<Change>, Option<Revision>), Fatal> {
        let mut changes: Vec<Change> = Vec::new();
        let start = from.to_bytes();
        for row in self.rows.range(Table::History, Bound::Included(&start), Bound::Unbounded)? {
            let (key, row) = row?;
            let revision = Revision::from_bytes(&key)
                .ok_or_else(|| corrupt(Table::History, &key, "the key is no revision"))?;
            if changes.len() >= rows_max
                && changes.last().is_some_and(|last| last.revision.main < revision.main)
            {
                return Ok((changes, Some(Revision::new(revision.main, 0))));
            }
            let record = Record::decode(&key, &row)?;
            changes.push(Change {
                revision,
                kind: if record.meta.tombstone { EventKind::Delete } else { EventKind::Put },
                prev: record.meta.prev_live(),
                kv: record.into_key_value(revision.main),
            });
        }
        Ok((changes, None))
    }

    /// The version that was put at `revision`; `None` if nothing was, or if it is gone. A row that is
    /// compacted but not yet removed is still found: see [`StoreView::prev_kv`].
    ///
    /// # Errors
    /// The backend failed or the row is corrupt.
    pub fn at(&self, revision: Revision) -> Result<Option<KeyValue>, Fatal> {
        let record = self.record(revision)?.filter(|record| !record.meta.tombstone);
        Ok(record.map(|record| record.into_key_value(revision.main)))
    }

    /// What a watcher is told of the key before `change`: nothing on a creation, and nothing once the
    /// revision before the change is compacted, whether or not the row is still there (as etcd, which
    /// reads at that revision).
    ///
    /// # Errors
    /// As [`StoreView::at`].
    pub fn prev_kv(&self, change: &Change) -> Result<Option<KeyValue>, Fatal> {
        if change.revision.main <= self.compact_revision {
            return Ok(None);
        }
        // A transaction may change a key twice; what counts is the key before the transaction.
        let mut prev = change.prev;
        while let Some(at) = prev.filter(|at| at.main == change.revision.main) {
            prev = self.record(at)?.and_then(|record| record.meta.prev);
        }
        match prev {
            Some(prev) => self.at(prev),
            None => Ok(None),
        }
    }

    /// The keys attached to a lease, in ascending order.
    ///
    /// # Errors
    /// The backend failed.
    pub fn lease_keys(&self, lease: LeaseId) -> Result<Vec<Bytes>, Fatal> {
        let prefix = lease.to_be_bytes();
        let mut keys = Vec::new();
        for row in self.rows.range(Table::LeaseKeys, Bound::Included(&prefix), Bound::Unbounded)? {
            let (key, _) = row?;
            if !key.starts_with(&prefix) {
                break;
            }
            keys.push(key.slice(prefix.len()..));
        }
        Ok(keys)
    }

    /// All rows after `after` (or from the first), in order of table and key, as a member snapshot
    /// carries them: the revisions in [`Table::Meta`] are this view's own, flushed or not.
    pub fn rows(&self, after: Option<(Table, Bytes)>) -> impl Iterator<Item = StoreRow> + '_ {
        let (first, mut start) = match after {
            Some((table, key)) => (table, Bound::Excluded(key)),
            None => (Table::ALL[0], Bound::Unbounded),
        };
        Table::ALL.into_iter().filter(move |table| *table >= first).flat_map(move |table| {
            let start = std::mem::replace(&mut start, Bound::Unbounded);
            let rows: Box<dyn Iterator<Item = StoreRow> + '_> = match self.table_rows(table, &start) {
                Ok(rows) => rows,
                Err(error) => Box::new(std::iter::once(Err(error))),
            };
            rows
        })
    }

    fn table_rows(
        &self,
        table: Table,
        start: &Bound<Bytes>,
    ) -> Result<Box<dyn Iterator<Item = StoreRow> + '_>, Fatal> {
        let start = start.as_ref().map(Bytes::as_ref);
        if table != Table::Meta {
            let rows = self.rows.range(table, start, Bound::Unbounded)?;
            return Ok(Box::new(rows.map(move |row| row.map(|(key, value)| (table, key, value)))));
        }
        let mut rows = BTreeMap::new();
        for row in self.rows.range(table, Bound::Unbounded, Bound::Unbounded)? {
            let (key, value) = row?;
            rows.insert(key, value);
        }
        let number = |number: i64| Bytes::copy_from_slice(&number.to_be_bytes());
        rows.insert(Bytes::from_static(META_REVISION), number(self.revision));
        rows.insert(Bytes::from_static(META_COMPACT_REVISION), number(self.compact_revision));
        rows.insert(Bytes::from_static(META_KEYS), number(self.keys));
        let after = match start {
            Bound::Excluded(key) => Bytes::copy_from_slice(key),
            _ => Bytes::new(),
        };
        let rows = rows.into_iter().filter(move |(key, _)| *key > after);
        Ok(Box::new(rows.map(move |(key, value)| Ok((table, key, value)))))
    }
}

/// The report of an index row without its put.
pub(super) fn no_put(revision: Revision) -> Fatal {
    corrupt(Table::History, &revision.to_bytes(), "the index points here, but no put does")
}
