//! Questions about the store as a whole.

use std::ops::Bound;

use super::record::{Record, corrupt};
use super::{Store, StoreView};
use crate::backend::Table;
use crate::error::Fatal;
use crate::types::{KeyValue, Revision};

/// One stored change of the history: the key after it, or only the key if it was a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// Where it was made.
    pub revision: Revision,
    /// Whether it deleted the key.
    pub tombstone: bool,
    /// The key; of a deletion its name and revision.
    pub kv: KeyValue,
}

impl Store {
    /// Whether physical compaction has not caught up with the compact revision.
    pub fn compaction_pending(&self) -> bool {
        self.compact_revision > self.compacted
    }
}

impl StoreView {
    /// Every change that is still stored, in order: with those that the compact revision hides and
    /// physical compaction has not removed yet.
    ///
    /// # Errors
    /// The backend failed, at once or at any row, or a row is corrupt.
    pub fn history(&self) -> Result<impl Iterator<Item = Result<HistoryRow, Fatal>> + '_, Fatal> {
        let rows = self.rows.range(Table::History, Bound::Unbounded, Bound::Unbounded)?;
        Ok(rows.map(|row| {
            let (key, row) = row?;
            let revision = Revision::from_bytes(&key)
                .ok_or_else(|| corrupt(Table::History, &key, "the key is no revision"))?;
            let record = Record::decode(&key, &row)?;
            let tombstone = record.meta.tombstone;
            Ok(HistoryRow { revision, tombstone, kv: record.into_key_value(revision.main) })
        }))
    }

    /// A checksum of every row: equal views have equal ones.
    ///
    /// # Errors
    /// The backend could not be read.
    pub fn hash(&self) -> Result<u32, Fatal> {
        let mut hash = crc32fast::Hasher::new();
        for row in self.rows(None) {
            let (table, key, value) = row?;
            hash.update(&[table as u8]);
            hash.update(&(key.len() as u64).to_be_bytes());
            hash.update(&key);
            hash.update(&value);
        }
        Ok(hash.finalize())
    }
}
