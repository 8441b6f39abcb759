//! What a store was asked to do, for metrics. The numbers are of this start of the process; none of
//! them is replicated or kept, except that of the live keys.
//!
//! Reads happen on many threads over views, so theirs are atomics that all views of a store share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Operations since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// Keys that are alive.
    pub keys: i64,
    /// Puts, also those within transactions.
    pub puts: u64,
    /// Bytes of their keys and values.
    pub put_bytes: u64,
    /// Deletions, whatever they found.
    pub deletes: u64,
    /// Ranges, also those within transactions.
    pub ranges: u64,
    /// Transactions of more than one operation.
    pub txns: u64,
}

/// The part that readers count.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadCounts(Arc<[AtomicU64; 2]>);

impl ReadCounts {
    pub(super) fn range(&self) {
        self.0[0].fetch_add(1, Relaxed);
    }

    /// A transaction of so many operations; one alone is not counted.
    pub(super) fn txn(&self, operations: usize) {
        self.0[1].fetch_add(u64::from(operations > 1), Relaxed);
    }

    pub(super) fn ranges(&self) -> u64 {
        self.0[0].load(Relaxed)
    }

    pub(super) fn txns(&self) -> u64 {
        self.0[1].load(Relaxed)
    }
}
