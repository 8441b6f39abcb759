//! Committed state: ordered byte tables behind one small synchronous trait.
//!
//! A [`Backend`] holds what has been flushed; [`View`]s of it are immutable snapshots. The store's
//! overlay lies above and holds what has been applied but not flushed yet. Every commit is atomic and
//! carries the applied index with the data that it covers (etcd #13766), so a crash between commits
//! only means that the write-ahead log is replayed from there.
//!
//! Invariant: nothing above this module knows which engine is below it.

use std::fmt::Debug;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Fatal;

mod checked;
pub mod mem;
pub mod overlay;
pub mod redb;

/// The tables, by what their rows are. Keys order as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Revision (16 bytes, [`crate::types::Revision::to_bytes`]) to the change made there.
    History = 0,
    /// User key to its latest revision and metadata, without the value.
    Index = 1,
    /// Lease id (8 bytes big-endian) followed by a user key that is attached to it; empty values.
    LeaseKeys = 2,
    /// Lease id (8 bytes big-endian) to the lease.
    Leases = 3,
    /// Member id (8 bytes big-endian) to the member.
    Members = 4,
    /// Member ids (8 bytes big-endian) that were removed and may never return; empty values.
    Removed = 5,
    /// Active alarms.
    Alarms = 6,
    /// Named single values: applied index, term, configuration, revisions, versions.
    Meta = 7,
}

impl Table {
    /// Every table, in the order of its number.
    pub const ALL: [Table; 8] = [
        Table::History,
        Table::Index,
        Table::LeaseKeys,
        Table::Leases,
        Table::Members,
        Table::Removed,
        Table::Alarms,
        Table::Meta,
    ];

    /// Whether each row that is added comes after all rows that were there before.
    fn grows_at_its_end(self) -> bool {
        self == Table::History
    }
}

/// Changes that are committed together or not at all. `None` deletes the row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// At most one change a (table, key); in ascending order of both.
    pub changes: Vec<(Table, Bytes, Option<Bytes>)>,
}

/// Bytes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// The size of the file.
    pub total: u64,
    /// The part of it that holds data.
    pub in_use: u64,
}

/// A row, or why it cannot be read.
pub type Row = Result<(Bytes, Bytes), Fatal>;

/// What is shown rows, key and value, until it breaks.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Fatal> + 'a;

/// An immutable snapshot of the committed state. Cheap to clone through its `Arc`; holding one never
/// blocks a commit.
pub trait View: Send + Sync + Debug {
    /// One row's value.
    ///
    /// # Errors
    /// The engine could not read it; the process must stop.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Fatal>;

    /// Rows in ascending order of key.
    ///
    /// # Errors
    /// As [`View::get`], at once or at any row.
    fn range<'a>(
        &'a self,
        table: Table,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> Result<Box<dyn Iterator<Item = Row> + 'a>, Fatal>;

    /// Shows `visit` the rows of [`View::range`] where they lie, for readers of many that keep few.
    ///
    /// # Errors
    /// As [`View::range`], and what `visit` returns.
    fn scan(
        &self,
        table: Table,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fatal> {
        for row in self.range(table, start, end)? {
            let (key, value) = row?;
            if visit(&key, &value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// A place in long work over these rows where other threads may go first; see
    /// [`redb::RedbOptions::pause`].
    fn pause(&self) {}
}

/// A storage engine: atomic batches in, snapshots out.
pub trait Backend: Send + Sync + Debug {
    /// A snapshot of the last commit.
    ///
    /// # Errors
    /// The engine could not read its root.
    fn view(&self) -> Result<Arc<dyn View>, Fatal>;

    /// Makes the batch durable, atomically.
    ///
    /// # Errors
    /// The engine could not write; nothing of the batch may be assumed.
    fn commit(&self, batch: &Batch) -> Result<(), Fatal>;

    /// What the state takes on disk.
    fn size(&self) -> Size;
}
