//! The redb engine behind [`Backend`]: copy-on-write B-trees over storage that the driver injects.
//!
//! It owns the database and one redb table for each [`Table`], plus a counter of stored bytes that is
//! committed with the rows it counts. Nothing else in the project names redb. It opens no file and
//! starts no thread: whoever calls [`Backend::commit`] or [`RedbBackend::copy_to`] waits for the disk.
//! Its file is checked block by block (`checked`), so damage is an error and never data.
//!
//! **Invariant:** a batch is one redb transaction. A view holds the database that it reads, so that
//! replacing the database (online defragmentation) never pulls it away from under a reader.

use std::fmt::Display;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use redb::{
    AccessGuard, Builder, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, StorageBackend,
    TableDefinition, WriteTransaction,
};

use super::checked::{Checked, Fault};
use super::overlay::no_keys_between;
use super::{Backend, Batch, Row, Size, Table, View, Visit};
use crate::error::Fatal;
use crate::planted::{self, Bug};

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Rows = ReadOnlyTable<&'static [u8], &'static [u8]>;
/// A key or value where it lies, in a page of the cache.
type Guard = AccessGuard<'static, &'static [u8]>;

/// Stored bytes, so that the size in use needs no walk over the trees.
const STORED: TableDefinition<'static, (), u64> = TableDefinition::new("stored_bytes");
/// What a row costs beside its key and value: two offsets in its leaf and its share of the branches.
const ROW_OVERHEAD: u64 = 16;
/// How much [`RedbBackend::copy_to`] writes in one transaction.
const COPY_BYTES: usize = 8 << 20;

/// Rows between two pauses: a small part of a scheduler's tick.
const PAUSE_ROWS: usize = 16;

fn definition(table: Table) -> Definition {
    TableDefinition::new(match table {
        Table::History => "history",
        Table::Index => "index",
        Table::LeaseKeys => "lease_keys",
        Table::Leases => "leases",
        Table::Members => "members",
        Table::Removed => "removed",
        Table::Alarms => "alarms",
        Table::Meta => "meta",
    })
}

fn fatal(doing: &str, error: &dyn Display) -> Fatal {
    Fatal(format!(
        "the state database failed while {doing}: {error}; check the disk and the permissions of the data \
         directory, and if the database is corrupt restore the member from a snapshot, or remove it from \
         the cluster, delete its data directory and add it again"
    ))
}

/// How to run the engine.
#[derive(Clone, Copy, Debug)]
pub struct RedbOptions {
    /// Memory for cached pages.
    pub cache_bytes: usize,
    /// Whether a commit waits for the disk. Without, the loss of power may destroy the database.
    pub fsync: bool,
    /// Whether a commit also stores the allocator's state, so that opening after a crash does not
    /// walk the whole database. Costs a second sync a commit.
    pub quick_repair: bool,
    /// Called every few rows that are read or written: where a thread that has much to do lets others
    /// go first.
    pub pause: fn(),
}

impl Default for RedbOptions {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, fsync: true, quick_repair: true, pause: || {} }
    }
}

/// An open database with the counters that go with it.
#[derive(Debug)]
struct Opened {
    database: Database,
    len: Arc<AtomicU64>,
    fault: Arc<Fault>,
    stored: AtomicU64,
}

impl Opened {
    /// The report of a failure. After one the engine refuses all else without saying why, so the
    /// first is told every time.
    fn fatal(&self, doing: &str, error: &dyn Display) -> Fatal {
        self.fault.get().map_or_else(|| fatal(doing, error), |first| fatal(doing, first))
    }
}

/// The engine. Commits come from one thread at a time; views may be taken and read by any.
#[derive(Debug)]
pub struct RedbBackend {
    opened: RwLock<Arc<Opened>>,
    options: RedbOptions,
    /// Databases that were replaced. Closing one takes a while, which must not be the time of whoever
    /// happens to drop its last view.
    replaced: Mutex<Vec<Arc<Opened>>>,
    /// What was there before the last commit, where a bug is planted that wants it.
    before: Mutex<Option<Arc<dyn View>>>,
}

impl RedbBackend {
    /// Opens the database in `storage`, or makes one if the storage is empty.
    ///
    /// # Errors
    /// The storage cannot be read or written, or holds something that is no sound database.
    pub fn open(storage: impl StorageBackend, options: RedbOptions) -> Result<Self, Fatal> {
        let doing = "opening";
        let len = Arc::new(AtomicU64::new(0));
        let storage = Checked::new(storage, len.clone(), options.fsync).map_err(|e| fatal(doing, &e))?;
        let fault = storage.fault();
        let database = Builder::new()
            .set_cache_size(options.cache_bytes)
            .create_with_backend(storage)
            .map_err(|e| fatal(doing, &e))?;
        let opened = Arc::new(Opened { database, len, fault, stored: AtomicU64::new(0) });
        let backend = Self {
            opened: RwLock::new(opened.clone()),
            options,
            replaced: Mutex::default(),
            before: Mutex::default(),
        };
        if backend.is_new(&opened)? {
            backend.create_tables(&opened)?;
        }
        let stored = stored_bytes(&read(&opened)?).map_err(|e| opened.fatal(doing, &e))?;
        opened.stored.store(stored, Ordering::Relaxed);
        Ok(backend)
    }

    /// A database in memory, for tests and benches.
    ///
    /// # Errors
    /// As [`RedbBackend::open`].
    pub fn in_memory(options: RedbOptions) -> Result<Self, Fatal> {
        Self::open(redb::backends::InMemoryBackend::new(), options)
    }

    fn is_new(&self, opened: &Opened) -> Result<bool, Fatal> {
        let read = read(opened)?;
        let is_new = read.list_tables().map_err(|e| opened.fatal("opening", &e))?.next().is_none();
        Ok(is_new)
    }

    fn create_tables(&self, opened: &Opened) -> Result<(), Fatal> {
        self.write(opened, "creating its tables", |write| {
            for table in Table::ALL {
                write.open_table(definition(table))?;
            }
            write.open_table(STORED)?.insert((), 0)?;
            Ok(())
        })
    }

    fn opened(&self) -> Arc<Opened> {
        self.opened.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs one transaction to its durable end.
    fn write(
        &self,
        opened: &Opened,
        doing: &str,
        body: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), Fatal> {
        let run = || -> Result<(), redb::Error> {
            let mut write = opened.database.begin_write()?;
            // The first phase syncs the pages with their checksums, before the head refers to them.
            write.set_two_phase_commit(true);
            write.set_quick_repair(self.options.quick_repair);
            body(&write)?;
            Ok(write.commit()?)
        };
        run().map_err(|error| opened.fatal(doing, &error))
    }

    /// How the engine is run.
    pub fn options(&self) -> RedbOptions {
        self.options
    }

    /// Copies the last commit into fresh storage, without the holes that deletions have left. The
    /// copy is taken from one view: a batch that is committed meanwhile is missing from it, so the
    /// caller holds commits back until it has called [`RedbBackend::replace`]. The copy is run by
    /// `options`: without syncs, it is for the caller to make it durable.
    ///
    /// # Errors
    /// Either storage failed. This backend is as good as before.
    pub fn copy_to(&self, storage: impl StorageBackend, options: RedbOptions) -> Result<RedbBackend, Fatal> {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).take();
        let source = before.map_or_else(|| self.view(), Ok)?;
        let copy = RedbBackend::open(storage, options)?;
        let mut batch = Batch::default();
        let mut bytes = 0;
        for table in Table::ALL {
            for row in source.range(table, Bound::Unbounded, Bound::Unbounded)? {
                let (key, value) = row?;
                bytes += key.len() + value.len();
                batch.changes.push((table, key, Some(value)));
                if bytes >= COPY_BYTES {
                    copy.commit(&std::mem::take(&mut batch))?;
                    bytes = 0;
                }
            }
        }
        copy.commit(&batch)?;
        Ok(copy)
    }

    /// Goes on with `copy`'s database. Views of the old one stay good.
    pub fn replace(&self, copy: RedbBackend) {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *opened, copy.opened());
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner).push(old);
    }

    /// Closes the replaced databases that no view needs any more; true if there are others.
    pub fn close_replaced(&self) -> bool {
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        let (unused, used): (Vec<_>, Vec<_>) =
            replaced.drain(..).partition(|opened| Arc::strong_count(opened) == 1);
        *replaced = used;
        let more = !replaced.is_empty();
        drop(replaced);
        drop(unused);
        more
    }
}

fn read(opened: &Opened) -> Result<ReadTransaction, Fatal> {
    opened.database.begin_read().map_err(|error| opened.fatal("opening a view", &error))
}

fn stored_bytes(read: &ReadTransaction) -> Result<u64, redb::Error> {
    Ok(read.open_table(STORED)?.get(())?.map_or(0, |bytes| bytes.value()))
}

/// Applies one table's changes; returns (bytes added, bytes removed).
fn apply(
    write: &WriteTransaction,
    table: Table,
    changes: &[(Table, Bytes, Option<Bytes>)],
    pause: fn(),
) -> Result<(u64, u64), redb::Error> {
    let mut rows = write.open_table(definition(table))?;
    let (mut added, mut removed) = (0, 0);
    for (at, (_, key, value)) in changes.iter().enumerate() {
        if at % PAUSE_ROWS == 0 {
            pause();
        }
        let size = |value: &[u8]| (key.len() + value.len()) as u64 + ROW_OVERHEAD;
        let old = match value {
            Some(value) => {
                added += size(value);
                rows.insert(key.as_ref(), value.as_ref())?
            }
            None => rows.remove(key.as_ref())?,
        };
        removed += old.map_or(0, |old| size(old.value()));
    }
    Ok((added, removed))
}

impl Backend for RedbBackend {
    fn view(&self) -> Result<Arc<dyn View>, Fatal> {
        let opened = self.opened();
        let read = read(&opened)?;
        let mut tables = Vec::with_capacity(Table::ALL.len());
        for table in Table::ALL {
            let rows = read.open_table(definition(table));
            tables.push(rows.map_err(|e| opened.fatal("opening a view", &e))?);
        }
        Ok(Arc::new(RedbView { tables, opened, pause: self.options.pause }))
    }

    fn commit(&self, batch: &Batch) -> Result<(), Fatal> {
        if batch.changes.is_empty() {
            return Ok(());
        }
        if planted::on(Bug::DefragmentLosesRows) {
            *self.before.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.view()?);
        }
        let opened = self.opened();
        let mut stored = opened.stored.load(Ordering::Relaxed);
        self.write(&opened, "committing", |write| {
            for changes in batch.changes.chunk_by(|left, right| left.0 == right.0) {
                let (added, removed) = apply(write, changes[0].0, changes, self.options.pause)?;
                stored = (stored + added).saturating_sub(removed);
            }
            write.open_table(STORED)?.insert((), stored)?;
            Ok(())
        })?;
        opened.stored.store(stored, Ordering::Relaxed);
        Ok(())
    }

    /// `in_use` counts rows, not pages: the part that a defragmentation would keep is somewhat more.
    fn size(&self) -> Size {
        let opened = self.opened();
        let total = opened.len.load(Ordering::Relaxed);
        Size { total, in_use: opened.stored.load(Ordering::Relaxed).min(total) }
    }
}

/// Where a range begins.
fn key_of(start: Bound<&[u8]>) -> &[u8] {
    match start {
        Bound::Included(key) | Bound::Excluded(key) => key,
        Bound::Unbounded => b"",
    }
}

/// A read transaction. The tables come first, so that they are dropped before their database.
struct RedbView {
    tables: Vec<Rows>,
    opened: Arc<Opened>,
    pause: fn(),
}

impl RedbView {
    /// The failure to read at or after a key.
    fn unreadable(&self, table: Table, place: &str, key: &[u8], error: &dyn Display) -> Fatal {
        self.opened.fatal(&format!("reading table {table:?}, {place} {}", key.escape_ascii()), error)
    }
}

impl std::fmt::Debug for RedbView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedbView")
    }
}

impl View for RedbView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        (self.pause)();
        let value = self.tables[table as usize].get(key);
        let value = value.map_err(|e| self.unreadable(table, "key", key, &e))?;
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn range<'a>(
        &'a self,
        table: Table,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> Result<Box<dyn Iterator<Item = Row> + 'a>, Fatal> {
        if no_keys_between(start, end) {
            return Ok(Box::new(std::iter::empty()));
        }
        let mut last = key_of(start).to_vec();
        let rows = self.tables[table as usize].range::<&[u8]>((start, end));
        let rows = rows.map_err(|error| self.unreadable(table, "from key", &last, &error))?;
        Ok(Box::new(rows.enumerate().map(move |(at, row)| {
            if at % PAUSE_ROWS == 0 {
                (self.pause)();
            }
            let (key, value) = row.map_err(|error| self.unreadable(table, "after key", &last, &error))?;
            last.clear();
            last.extend_from_slice(key.value());
            Ok((Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value.value())))
        })))
    }

    fn scan(
        &self,
        table: Table,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fatal> {
        if no_keys_between(start, end) {
            return Ok(());
        }
        let rows = self.tables[table as usize].range::<&[u8]>((start, end));
        let rows = rows.map_err(|error| self.unreadable(table, "from key", key_of(start), &error))?;
        let mut last: Option<Guard> = None;
        for (at, row) in rows.enumerate() {
            if at % PAUSE_ROWS == 0 {
                (self.pause)();
            }
            let (key, value) = match row {
                Ok(row) => row,
                Err(error) => {
                    let last = last.as_ref().map_or(key_of(start), |key| key.value());
                    return Err(self.unreadable(table, "after key", last, &error));
                }
            };
            if visit(key.value(), value.value())?.is_break() {
                break;
            }
            last = Some(key);
        }
        Ok(())
    }

    fn pause(&self) {
        (self.pause)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::backends::InMemoryBackend;

    fn row(table: Table, key: &str, value: Option<&str>) -> (Table, Bytes, Option<Bytes>) {
        (table, Bytes::copy_from_slice(key.as_bytes()), value.map(|v| Bytes::copy_from_slice(v.as_bytes())))
    }

    fn all(view: &dyn View) -> Vec<(Table, Bytes, Bytes)> {
        let mut rows = Vec::new();
        for table in Table::ALL {
            for row in view.range(table, Bound::Unbounded, Bound::Unbounded).unwrap() {
                let (key, value) = row.unwrap();
                rows.push((table, key, value));
            }
        }
        rows
    }

    #[test]
    fn a_view_keeps_its_moment_while_commits_go_on() {
        let backend = RedbBackend::open(InMemoryBackend::new(), RedbOptions::default()).unwrap();
        let first =
            Batch { changes: vec![row(Table::History, "a", Some("1")), row(Table::Meta, "m", Some(""))] };
        backend.commit(&first).unwrap();
        let before = backend.view().unwrap();
        let in_use = backend.size().in_use;
        backend.commit(&Batch { changes: vec![row(Table::History, "a", None)] }).unwrap();
        assert_eq!(all(&*before).len(), 2);
        assert_eq!(all(&*backend.view().unwrap()).len(), 1);
        assert_eq!(backend.size().in_use, in_use - 2 - ROW_OVERHEAD);
        assert!(backend.size().total > 0);
        let (start, end) = (Bound::Excluded(&b"z"[..]), Bound::Included(&b"a"[..]));
        assert_eq!(before.range(Table::History, start, end).unwrap().count(), 0);
    }

    #[test]
    fn a_copy_replaces_the_database_under_live_views() {
        let backend = RedbBackend::open(InMemoryBackend::new(), RedbOptions::default()).unwrap();
        let value = "v".repeat(2000);
        for step in 0..20 {
            let changes = (0..500).map(|n| row(Table::History, &format!("{step:02}{n:04}"), Some(&value)));
            backend.commit(&Batch { changes: changes.collect() }).unwrap();
        }
        let gone = (0..19).flat_map(|step| (0..500).map(move |n| format!("{step:02}{n:04}")));
        let gone: Vec<_> = gone.map(|key| row(Table::History, &key, None)).collect();
        backend.commit(&Batch { changes: gone }).unwrap();
        let old = backend.view().unwrap();
        let (expected, size) = (all(&*old), backend.size());
        let copy = backend.copy_to(InMemoryBackend::new(), RedbOptions::default()).unwrap();
        backend.replace(copy);
        assert!(backend.size().total < size.total / 4, "{:?} {size:?}", backend.size());
        assert_eq!(backend.size().in_use, size.in_use);
        backend.commit(&Batch { changes: vec![row(Table::Meta, "after", Some("1"))] }).unwrap();
        assert_eq!(all(&*old), expected);
        assert_eq!(all(&*backend.view().unwrap()).len(), expected.len() + 1);
        assert!(backend.close_replaced(), "a view needs the old one");
        drop(old);
        assert!(!backend.close_replaced());
    }

    #[test]
    fn what_is_no_database_is_refused_with_advice() {
        let storage = InMemoryBackend::new();
        storage.set_len(1 << 16).unwrap();
        storage.write(0, &[0x5a; 4096]).unwrap();
        let error = RedbBackend::open(storage, RedbOptions::default()).unwrap_err();
        assert!(error.0.contains("while opening") && error.0.contains("snapshot"), "{error}");
    }
}
