//! Watch: streams of changes, in order, without gaps and without duplicates.
//!
//! A [`WatchHub`] is told of every applied revision and hands responses to the transport. A watcher is
//! *synced* when it has been sent everything up to the current revision; then a change reaches it as it
//! is applied. A stream has credits: when they are used up its watchers fall back to a position in the
//! history and catch up from the store once credits return. So a stalled reader delays nobody and holds
//! positions and a bounded number of responses, never a growing buffer (etcd #16839, #17529).
//!
//! Nothing here writes to the store, reads a clock or knows the wire.
//!
//! Invariant: for each watcher, what has been queued is exactly the filtered history from its start
//! revision up to its position; the rest either follows or is replaced by a compacted cancel.

mod catch_up;
mod hub;
mod interval;
mod message;
mod stream;
#[cfg(test)]
mod tests;
mod watcher;

use std::time::Duration;

use crate::error::Fatal;
use crate::mvcc::StoreView;
use crate::types::{Event, KeyValue, Revision};

pub use hub::WatchHub;
pub use message::{WatchBatch, WatchEvents, WatchResponse};

pub use crate::mvcc::Change;

/// What the hub reads of the store.
pub trait HistoryReader {
    /// The current main revision.
    fn revision(&self) -> i64;

    /// The last compaction's revision; history below it is gone.
    fn compact_revision(&self) -> i64;

    /// Changes in ascending order from `from`: about `rows_max` of them, always whole main revisions
    /// and at least one if there is any. The second part is where to go on, `None` at the end.
    ///
    /// # Errors
    /// The engine could not read; the process must stop.
    fn changes(&self, from: Revision, rows_max: usize) -> Result<(Vec<Change>, Option<Revision>), Fatal>;

    /// What the key was before `change`; `None` when it was not, or when that is compacted.
    ///
    /// # Errors
    /// As [`HistoryReader::changes`].
    fn prev_kv(&self, change: &Change) -> Result<Option<KeyValue>, Fatal>;
}

impl HistoryReader for StoreView {
    fn revision(&self) -> i64 {
        StoreView::revision(self)
    }

    fn compact_revision(&self) -> i64 {
        StoreView::compact_revision(self)
    }

    fn changes(&self, from: Revision, rows_max: usize) -> Result<(Vec<Change>, Option<Revision>), Fatal> {
        StoreView::changes(self, from, rows_max)
    }

    fn prev_kv(&self, change: &Change) -> Result<Option<KeyValue>, Fatal> {
        StoreView::prev_kv(self, change)
    }
}

/// The limits of a hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchOptions {
    /// Quiet time after which a watcher with `progress_notify` is told its position; up to a tenth more.
    pub progress_interval: Duration,
    /// Responses above this estimate of their encoded size are split for watchers that allow it.
    pub fragment_bytes_max: usize,
    /// Responses of one stream that may be on their way to the client.
    pub stream_credit: u32,
    /// Bytes of one stream that may be on their way; one response may exceed it.
    pub stream_bytes_max: usize,
    /// Rows of history that one slice of catching up reads.
    pub catch_up_rows_max: usize,
    /// Watchers that one slice of catching up advances.
    pub catch_up_watchers_max: usize,
    /// Answers to creations and cancellations that a stream may owe its client; more creations than
    /// that are refused. The transport should stop reading before: see [`WatchHub::accepts_requests`].
    pub control_max: usize,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            progress_interval: Duration::from_secs(600),
            fragment_bytes_max: 2 << 20,
            stream_credit: 4096,
            stream_bytes_max: 16 << 20,
            catch_up_rows_max: 1000,
            catch_up_watchers_max: 512,
            control_max: 1 << 17,
        }
    }
}

/// Numbers for metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchStats {
    /// Open streams.
    pub streams: usize,
    /// Watchers on them.
    pub watchers: usize,
    /// Watchers that are not synced.
    pub slow_watchers: usize,
    /// Events in responses that the transport has not handed to the client yet.
    pub pending_events: usize,
    /// Events that it has.
    pub sent_events: u64,
}

/// About how many bytes the event takes in a protobuf message; never less than its payload.
fn event_size(event: &Event) -> usize {
    // Tags, lengths and five varints: rarely more than this.
    const OVERHEAD: usize = 40;
    let kv = |kv: &KeyValue| kv.key.len() + kv.value.len() + OVERHEAD;
    kv(&event.kv) + event.prev_kv.as_ref().map_or(0, kv)
}
