//! Questions about the store as a whole.

use super::{Store, StoreView};
use crate::error::Fatal;

impl Store {
    /// Whether physical compaction has not caught up with the compact revision.
    pub fn compaction_pending(&self) -> bool {
        self.compact_revision > self.compacted
    }
}

impl StoreView {
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
