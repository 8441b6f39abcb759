//! The store's writer: applies puts, deletions and the end of leases, keeps the index and the leases'
//! keys in step with the history, and decides what is flushed.
//!
//! It holds no keys of its own: everything is rows in the overlay over the backend. It knows leases by
//! their number only; whether one exists is the caller's answer. It never commits: the driver takes a
//! batch and reports it back.
//!
//! **Invariant:** a request either fails and changes nothing, or makes all its changes at one main
//! revision, the one after [`Store::revision`].

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::compact::Compaction;
use super::counts::{ReadCounts, StoreCounts};
use super::record::{IndexRow, Meta, Record, corrupt};
use super::view::{StoreView, Version};
use crate::api::{DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, ResponseBody};
use crate::backend::overlay::{Flush, Overlay, Pending};
use crate::backend::{Backend, Table, View};
use crate::error::{Error, Fatal};
use crate::planted::{self, Bug};
use crate::types::{EventKind, KeyRange, KeyValue, LeaseId, Revision};

/// [`Table::Meta`]'s row for the revision of the last write: 8 bytes big-endian, as the other two.
pub const META_REVISION: &[u8] = b"revision";
/// The row for the last compaction's revision.
pub const META_COMPACT_REVISION: &[u8] = b"compact_revision";
/// The row for the number of live keys.
pub(super) const META_KEYS: &[u8] = b"keys";
/// The row for the last compaction that has removed all its rows.
pub const META_COMPACTED: &[u8] = b"compacted";

/// One change to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub revision: Revision,
    /// What.
    pub kind: EventKind,
    /// The key after the change; of a deletion only the key and the revision.
    pub kv: KeyValue,
    /// The previous live version of the key; `None` on a creation.
    pub prev: Option<Revision>,
}

/// What a request did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The reply.
    pub result: Result<ResponseBody, Error>,
    /// What was changed, all at one main revision; empty when the revision did not move.
    pub changes: Vec<Change>,
}

impl Outcome {
    pub(super) fn failed(error: Error) -> Self {
        Self { result: Err(error), changes: Vec::new() }
    }
}

/// Bounds of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Index rows that a range may visit on the core's own thread; what is longer is read elsewhere.
    pub range_inline_rows_max: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { range_inline_rows_max: 1000 }
    }
}

/// The multi-version store.
#[derive(Debug)]
pub struct Store {
    backend: Arc<dyn Backend>,
    overlay: Overlay,
    options: StoreOptions,
    revision: i64,
    pub(super) compact_revision: i64,
    /// (revision, compact revision) as the backend has them, and as the flush under way will.
    flushed: (i64, i64),
    flushing: Option<(i64, i64)>,
    pub(super) compacted: i64,
    compacting: bool,
    keys: i64,
    writes: StoreCounts,
    pub(super) reads: ReadCounts,
}

fn number(key: &[u8], row: &[u8]) -> Result<i64, Fatal> {
    let bytes = row.try_into().map_err(|_| corrupt(Table::Meta, key, "not a number of 8 bytes"))?;
    Ok(i64::from_be_bytes(bytes))
}

/// A number in [`Table::Meta`].
pub(super) fn meta_number(view: &dyn View, key: &[u8]) -> Result<Option<i64>, Fatal> {
    view.get(Table::Meta, key)?.map(|row| number(key, &row)).transpose()
}

pub(super) fn meta_row(key: &'static [u8], number: i64) -> (Bytes, Option<Bytes>) {
    (Bytes::from_static(key), Some(Bytes::copy_from_slice(&number.to_be_bytes())))
}

/// Counts the live keys of a store that was written before their number was kept.
fn live_keys(view: &dyn View) -> Result<i64, Fatal> {
    let mut keys = 0;
    for row in view.range(Table::Index, Bound::Unbounded, Bound::Unbounded)? {
        let (key, row) = row?;
        keys += i64::from(!IndexRow::decode(&key, &row)?.meta.tombstone);
    }
    Ok(keys)
}

fn lease_key(lease: LeaseId, key: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + key.len());
    out.put_i64(lease);
    out.put_slice(key);
    out.freeze()
}

/// The changes of one request as they are made.
pub(super) struct Writing {
    main: i64,
    pub(super) changes: Vec<Change>,
}

impl Writing {
    fn next(&self) -> Revision {
        Revision::new(self.main, self.changes.len() as i64)
    }
}

impl Store {
    /// The store in `backend`, or an empty one at revision 1. Reads a few rows, however many there are.
    ///
    /// # Errors
    /// The backend cannot be read, or its revisions do not make sense.
    pub fn open(backend: Arc<dyn Backend>, options: StoreOptions) -> Result<Self, Fatal> {
        let overlay = Overlay::new(&*backend)?;
        let read = |key, empty| Ok(meta_number(overlay.view(), key)?.unwrap_or(empty));
        let (revision, compact_revision) = (read(META_REVISION, 1)?, read(META_COMPACT_REVISION, -1)?);
        let compacted = read(META_COMPACTED, -1)?;
        if !(compacted <= compact_revision && compact_revision <= revision && revision >= 1) {
            return Err(corrupt(
                Table::Meta,
                META_REVISION,
                &format!("revision {revision}, compact revision {compact_revision}, compacted {compacted}"),
            ));
        }
        let keys = match meta_number(overlay.view(), META_KEYS)? {
            Some(keys) => keys,
            None if revision == 1 => 0,
            None => live_keys(overlay.view())?,
        };
        Ok(Self {
            backend,
            overlay,
            options,
            revision,
            compact_revision,
            flushed: (revision, compact_revision),
            flushing: None,
            compacted,
            compacting: false,
            keys,
            writes: StoreCounts::default(),
            reads: ReadCounts::default(),
        })
    }

    /// The options that the store was opened with.
    pub fn options(&self) -> StoreOptions {
        self.options
    }

    /// The revision of the last write; 1 when there was none.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision of the last compaction that has removed all its rows; -1 when there was none.
    pub fn compacted_revision(&self) -> i64 {
        self.compacted
    }

    /// The last compaction's revision; -1 when there was none.
    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// The store as it is now, for as long as it is needed.
    pub fn view(&self) -> StoreView {
        StoreView {
            rows: self.overlay.view().clone(),
            revision: self.revision,
            compact_revision: self.compact_revision,
            keys: self.keys,
            counts: self.reads.clone(),
        }
    }

    /// What was done since the store was opened.
    pub fn counts(&self) -> StoreCounts {
        let (ranges, txns) = (self.reads.ranges(), self.reads.txns());
        StoreCounts { keys: self.keys, ranges, txns, ..self.writes }
    }

    /// Goes on counting where the store that this one replaces has come to.
    pub fn count_from(&mut self, replaced: &Store) {
        (self.writes, self.reads) = (replaced.writes, replaced.reads.clone());
    }

    pub(super) fn writing(&self) -> Writing {
        Writing { main: self.revision + 1, changes: Vec::new() }
    }

    /// Ends a request: the revision moves if anything was changed.
    pub(super) fn finish(&mut self, writing: Writing, body: ResponseBody) -> Outcome {
        if !writing.changes.is_empty() {
            self.revision = writing.main;
        }
        Outcome { result: Ok(body), changes: writing.changes }
    }

    /// Applies a put.
    ///
    /// # Errors
    /// The backend failed or a row is corrupt; the client's errors are in the outcome.
    pub fn put(
        &mut self,
        request: &PutRequest,
        lease_exists: &dyn Fn(LeaseId) -> bool,
    ) -> Result<Outcome, Fatal> {
        if request.lease != 0 && !lease_exists(request.lease) {
            return Ok(Outcome::failed(Error::LeaseNotFound));
        }
        let row = self.index(&request.key)?;
        let live = row.is_some_and(|row| !row.meta.tombstone);
        if (request.ignore_value || request.ignore_lease) && !live {
            return Ok(Outcome::failed(Error::KeyNotFound));
        }
        let mut writing = self.writing();
        let response = self.write_put(request, row, &mut writing)?;
        Ok(self.finish(writing, ResponseBody::Put(response)))
    }

    /// Where a key stands, without the cost of a view.
    pub(super) fn index(&self, key: &[u8]) -> Result<Option<IndexRow>, Fatal> {
        let row = self.overlay.view().get(Table::Index, key)?;
        row.map(|row| IndexRow::decode(key, &row)).transpose()
    }

    /// Writes a checked put over the key's present index row.
    pub(super) fn write_put(
        &mut self,
        request: &PutRequest,
        row: Option<IndexRow>,
        writing: &mut Writing,
    ) -> Result<PutResponse, Fatal> {
        let at = writing.next();
        let live = row.filter(|row| !row.meta.tombstone);
        let (create_revision, version, old_lease) = match live {
            None if planted::on(Bug::VersionSurvivesDelete) && row.is_some() => (at.main, 2, 0),
            Some(row) => (row.meta.create_revision, row.meta.version + 1, row.meta.lease),
            None => (at.main, 1, 0),
        };
        let lease = if request.ignore_lease { old_lease } else { request.lease };
        let prev_kv = match live {
            Some(row) if request.prev_kv || request.ignore_value => {
                Some(self.current(request.key.clone(), row)?)
            }
            _ => None,
        };
        let value = match &prev_kv {
            Some(prev) if request.ignore_value => prev.value.clone(),
            _ => request.value.clone(),
        };
        let meta =
            Meta { create_revision, version, lease, tombstone: false, prev: row.map(|row| row.latest) };
        self.write(&request.key, &value, at, meta);
        self.keys += i64::from(live.is_none());
        self.writes.puts += 1;
        self.writes.put_bytes += (request.key.len() + value.len()) as u64;
        if lease != old_lease {
            self.detach(old_lease, &request.key);
            if lease != 0 {
                self.overlay.set(Table::LeaseKeys, lease_key(lease, &request.key), Some(Bytes::new()));
            }
        }
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision,
            mod_revision: at.main,
            version,
            value,
            lease,
        };
        let prev = live.map(|row| row.latest);
        writing.changes.push(Change { revision: at, kind: EventKind::Put, kv, prev });
        Ok(PutResponse { prev_kv: prev_kv.filter(|_| request.prev_kv) })
    }

    fn write(&mut self, key: &Bytes, value: &[u8], at: Revision, meta: Meta) {
        let record = Record::encode(key, value, &meta);
        let row = IndexRow { latest: at, meta, value_len: u32::try_from(value.len()).ok() };
        self.overlay.set(Table::History, Bytes::copy_from_slice(&at.to_bytes()), Some(record));
        self.overlay.set(Table::Index, key.clone(), Some(row.encode()));
    }

    fn detach(&mut self, lease: LeaseId, key: &[u8]) {
        if lease != 0 {
            self.overlay.set(Table::LeaseKeys, lease_key(lease, key), None);
        }
    }

    /// A live key's present version.
    fn current(&self, key: Bytes, row: IndexRow) -> Result<KeyValue, Fatal> {
        Ok(KeyValue {
            key,
            create_revision: row.meta.create_revision,
            mod_revision: row.latest.main,
            version: row.meta.version,
            value: self.view().value(row.latest)?,
            lease: row.meta.lease,
        })
    }

    /// Applies a deletion.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn delete_range(&mut self, request: &DeleteRangeRequest) -> Result<Outcome, Fatal> {
        let mut writing = self.writing();
        let response = self.write_delete_range(request, &mut writing)?;
        Ok(self.finish(writing, ResponseBody::DeleteRange(response)))
    }

    pub(super) fn write_delete_range(
        &mut self,
        request: &DeleteRangeRequest,
        writing: &mut Writing,
    ) -> Result<DeleteRangeResponse, Fatal> {
        self.writes.deletes += 1;
        let mut found = Vec::new();
        self.live_keys(&request.range(), &mut found)?;
        if planted::on(Bug::DeleteRangeMissesLast) && found.len() > 1 {
            found.pop();
        }
        let mut response = DeleteRangeResponse { deleted: found.len() as i64, prev_kvs: Vec::new() };
        for (key, row) in found {
            if request.prev_kv {
                response.prev_kvs.push(self.current(key.clone(), row)?);
            }
            self.write_delete(key, row, writing);
        }
        Ok(response)
    }

    fn live_keys(&self, range: &KeyRange, found: &mut Vec<(Bytes, IndexRow)>) -> Result<(), Fatal> {
        self.view().visit(range, i64::MAX, None, |key, version| {
            let key = Bytes::copy_from_slice(key);
            let Version { at, meta, value_len, .. } = version;
            found.push((key, IndexRow { latest: at, meta, value_len }));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(())
    }

    fn write_delete(&mut self, key: Bytes, row: IndexRow, writing: &mut Writing) {
        let at = writing.next();
        let meta = Meta { tombstone: true, prev: Some(row.latest), ..Meta::default() };
        self.write(&key, b"", at, meta);
        self.keys -= 1;
        self.detach(row.meta.lease, &key);
        let kv = KeyValue { key, mod_revision: at.main, ..KeyValue::default() };
        writing.changes.push(Change { revision: at, kind: EventKind::Delete, kv, prev: Some(row.latest) });
    }

    /// Deletes the keys attached to a lease, in ascending order, at one revision. The lease itself is
    /// the caller's.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn revoke_lease(&mut self, lease: LeaseId) -> Result<Outcome, Fatal> {
        let mut writing = self.writing();
        let keys = self.view().lease_keys(lease)?;
        self.writes.deletes += keys.len() as u64;
        self.reads.txn(keys.len());
        for key in keys {
            match self.index(&key)? {
                Some(row) if row.meta.lease == lease => self.write_delete(key, row, &mut writing),
                _ => {
                    let row = lease_key(lease, &key);
                    return Err(corrupt(Table::LeaseKeys, &row, "the key is not attached to the lease"));
                }
            }
        }
        Ok(self.finish(writing, ResponseBody::LeaseRevoke))
    }

    /// Compacts logically: what is older than `revision` can no longer be asked for. The rows go later.
    ///
    /// # Errors
    /// The inner error is the client's.
    pub fn compact(&mut self, revision: i64) -> Result<Result<(), Error>, Fatal> {
        if revision <= self.compact_revision {
            return Ok(Err(Error::Compacted));
        }
        if revision > self.revision {
            return Ok(Err(Error::FutureRevision));
        }
        self.compact_revision = revision;
        Ok(Ok(()))
    }

    /// Writes a row of other replicated state, committed together with the store's own.
    pub fn set(&mut self, table: Table, key: Bytes, value: Option<Bytes>) {
        self.overlay.set(table, key, value);
    }

    /// Reads a row.
    ///
    /// # Errors
    /// The backend failed.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        self.overlay.view().get(table, key)
    }

    /// Reads a whole (small) table.
    ///
    /// # Errors
    /// The backend failed.
    pub fn scan(&self, table: Table) -> Result<Vec<(Bytes, Bytes)>, Fatal> {
        self.overlay.view().range(table, Bound::Unbounded, Bound::Unbounded)?.collect()
    }

    /// What waits to be flushed.
    pub fn pending(&self) -> Pending {
        self.overlay.pending()
    }

    /// Freezes what was written since the last flush, with the store's revisions, for the backend. `None` while a flush is under way or when there is nothing to write.
    pub fn take_flush(&mut self) -> Option<Flush> {
        let now = (self.revision, self.compact_revision);
        if self.flushing.is_some() || (self.overlay.pending().entries == 0 && now == self.flushed) {
            return None;
        }
        let stored = if planted::on(Bug::RevisionNotFlushed) { self.flushed.0 } else { now.0 };
        let rows = [(META_REVISION, stored), (META_COMPACT_REVISION, now.1), (META_KEYS, self.keys)];
        for (key, value) in rows.map(|(key, number)| meta_row(key, number)) {
            self.overlay.set(Table::Meta, key, value);
        }
        self.flushing = Some(now);
        self.overlay.take_flush()
    }

    /// The rows of the last [`Store::take_flush`] are durable.
    ///
    /// # Errors
    /// The backend has no readable view.
    pub fn flushed(&mut self) -> Result<(), Fatal> {
        self.flushed = self.flushing.take().expect("a flush is reported once, after it was taken");
        self.overlay.flushed(&*self.backend)
    }

    /// The rows that a compaction may remove now: its revision is flushed, and with it every row up to
    /// it, so that a restart can never bring back a revision that has lost its rows.
    pub fn compaction_due(&self) -> Option<Compaction> {
        let to = if planted::on(Bug::CompactBeforeFlush) { self.compact_revision } else { self.flushed.1 };
        (!self.compacting && to > self.compacted).then(|| Compaction { from: self.compacted.max(0), to })
    }

    /// A physical compaction runs; [`Store::compaction_due`] is silent until it is reported.
    pub fn compaction_started(&mut self) {
        self.compacting = true;
    }

    /// The physical compaction up to `to` is durable.
    ///
    /// # Errors
    /// The backend has no readable view.
    pub fn compacted(&mut self, to: i64) -> Result<(), Fatal> {
        assert!(self.compacted < to && to <= self.flushed.1, "compacted to {to}, have {self:?}");
        (self.compacted, self.compacting) = (to, false);
        self.refresh()
    }

    /// Reads go to the backend's last commit from now on, as after a defragmentation.
    ///
    /// # Errors
    /// The backend has no readable view.
    pub fn refresh(&mut self) -> Result<(), Fatal> {
        self.overlay.refresh(&*self.backend)
    }
}
