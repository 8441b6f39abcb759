//! Reads of pinned views for the services: ranges, and the store as etcd's database file.
//!
//! A file is never kept: one pass over the rows counts its pages, a second pass on a thread of its own
//! emits them into a short queue that the reader drains, so that neither memory nor disk is spent on
//! the size of the store. A reader that goes away ends the thread.
//!
//! Rows that the compact revision hides but physical compaction has not removed yet are exported too:
//! the file says which compaction is scheduled and which is finished, and etcd finishes it at start.
//!
//! Invariant: a reader gets exactly the promised number of bytes or an error, never a short file.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf as _, Bytes};
use cairn_core::api::{RangeRequest, RangeResponse};
use cairn_core::backend::Table;
use cairn_core::bolt::rows::{self, BUCKETS, LeaseRow};
use cairn_core::bolt::write::{EachRow, Plan, Rows, WriteError};
use cairn_core::cluster::{VERSION_KEY, decode_member};
use cairn_core::error::{Error, Fatal};
use cairn_core::lease::Lease;
use cairn_core::mvcc::{META_COMPACTED, Ranged, StoreView};
use cairn_core::node::{applied_position, decode_alarms};
use cairn_core::types::{KeyValue, MemberId, Revision};
use cairn_net::bulk;
use cairn_net::services::{Export, Views};
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::metrics::Metrics;

/// Bytes that the writing thread collects before it hands them over.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks that may wait for the reader.
const CHUNKS_MAX: usize = 4;

/// Stops the process.
pub type OnFatal = Arc<dyn Fn(Fatal) + Send + Sync>;

/// Reads views of the store.
#[derive(Clone)]
pub struct StoreViews {
    on_fatal: OnFatal,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for StoreViews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreViews").finish_non_exhaustive()
    }
}

impl StoreViews {
    /// `on_fatal` is told when a view cannot be read: the process must stop.
    pub fn new(on_fatal: OnFatal, metrics: Arc<Metrics>) -> Self {
        Self { on_fatal, metrics }
    }

    fn fatal(&self, fatal: Fatal) -> io::Error {
        tracing::error!(error = %fatal, "a view of the state database cannot be read");
        let error = io::Error::other(fatal.0.clone());
        (self.on_fatal)(fatal);
        error
    }
}

impl Views for StoreViews {
    fn range(&self, view: &StoreView, request: &RangeRequest) -> Result<RangeResponse, Error> {
        let _open = self.metrics.view_opened();
        match view.range(request, None) {
            Ok(Ok(Ranged::Done(response))) => Ok(response),
            // Only a bound on visited rows, and there is none, makes a range too long.
            Ok(Ok(Ranged::TooLong)) => Err(Error::TooManyRequests),
            Ok(Err(error)) => Err(error),
            Err(fatal) => {
                // The process is about to stop, and another member can answer.
                self.fatal(fatal);
                Err(Error::Stopped)
            }
        }
    }

    fn export(&self, view: StoreView) -> io::Result<Export> {
        let started = Instant::now();
        let rows = Snapshot::new(view).map_err(|fatal| self.fatal(fatal))?;
        let plan = Plan::new(&BUCKETS, &rows).map_err(|error| self.write_error(error))?;
        let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
        let views = self.clone();
        bulk::spawn("snapshot", move || {
            let _open = views.metrics.view_opened();
            match write(&plan, &rows, &sender) {
                Ok(()) => views.metrics.snapshot_streamed(started.elapsed()),
                // A reader that has gone away does not hear of it, and need not.
                Err(error) => drop(sender.blocking_send(Err(views.write_error(error)))),
            }
        })?;
        let left = plan.size();
        Ok((left, Box::new(Chunks { chunks, chunk: Bytes::new(), left })))
    }
}

impl StoreViews {
    /// A source that failed is the process's end, a sink that failed only the reader's.
    fn write_error(&self, error: WriteError) -> io::Error {
        match error {
            WriteError::Sink(_) => io::Error::new(io::ErrorKind::BrokenPipe, error.to_string()),
            _ => self.fatal(Fatal(error.to_string())),
        }
    }
}

type Chunk = io::Result<Bytes>;

/// The second pass: emits the file in chunks.
fn write(plan: &Plan, rows: &Snapshot, sender: &Sender<Chunk>) -> Result<(), WriteError> {
    let send = |chunk: Vec<u8>| {
        let sent = sender.blocking_send(Ok(chunk.into()));
        sent.map_err(|_| WriteError::Sink("the reader has gone away".to_owned()))
    };
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    plan.write(&BUCKETS, rows, &mut |bytes| {
        chunk.extend_from_slice(bytes);
        if chunk.len() < CHUNK_BYTES {
            return Ok(());
        }
        send(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK_BYTES)))
    })?;
    send(chunk)
}

/// The reader's side of an export.
struct Chunks {
    chunks: Receiver<Chunk>,
    chunk: Bytes,
    left: u64,
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None if self.left == 0 => return Ok(0),
                None => {
                    let what = format!("the export ended {} bytes early", self.left);
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
                }
            }
        }
        let count = out.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut out[..count]);
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other("the export is longer than was promised"))?;
        Ok(count)
    }
}

/// A view as etcd's rows. What is small is decoded once; the keys and leases are read at each pass.
struct Snapshot {
    view: StoreView,
    small: BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Snapshot {
    fn new(view: StoreView) -> Result<Self, Fatal> {
        let mut small = BTreeMap::<_, BTreeMap<_, _>>::new();
        let mut put = |bucket, key: &[u8], value: &[u8]| {
            small.entry(bucket).or_default().insert(key.to_vec(), value.to_vec());
        };
        // Authentication is never enabled; its revision begins at 1.
        put("auth", rows::AUTH_REVISION, &1_u64.to_be_bytes());
        let position = applied_position(&view)?;
        put("meta", rows::CONSISTENT_INDEX, &position.index.to_be_bytes());
        // No term: 3.4 writes none, and counts every row that it finds.
        let compaction = |to| rows::revision_key(Revision::new(to, 0), false);
        if view.compact_revision() > 0 {
            put("meta", rows::SCHEDULED_COMPACT, &compaction(view.compact_revision()));
        }
        let mut alarms = Vec::new();
        for row in view.rows(Some((Table::Members, Bytes::new()))) {
            let (table, key, value) = row?;
            match table {
                Table::Members => {
                    let member = decode_member(&value).map_err(|error| damaged(table, &key, &error))?;
                    put("members", rows::member_key(member.id).as_bytes(), &rows::encode_member(&member));
                }
                Table::Removed => {
                    let id = key.as_ref().try_into().map(MemberId::from_be_bytes);
                    let id = id.map_err(|_| damaged(table, &key, "not a member's id"))?;
                    put("members_removed", rows::member_key(id).as_bytes(), rows::REMOVED);
                }
                Table::Alarms => alarms.push((key, value)),
                Table::Meta if key == VERSION_KEY => put("cluster", rows::CLUSTER_VERSION, &value),
                Table::Meta if key == META_COMPACTED => {
                    let to = value.as_ref().try_into().map(i64::from_be_bytes);
                    let to = to.map_err(|_| damaged(table, &key, "not a revision"))?;
                    if to > 0 {
                        put("meta", rows::FINISHED_COMPACT, &compaction(to));
                    }
                }
                _ => {}
            }
        }
        for alarm in decode_alarms(&alarms)? {
            put("alarm", &rows::alarm_key(alarm.member_id, alarm.alarm), &[]);
        }
        Ok(Self { view, small })
    }
}

fn damaged(table: Table, key: &[u8], what: &str) -> Fatal {
    Fatal(format!("the state database's row {} of {table:?} is damaged: {what}", key.escape_ascii()))
}

fn source(fatal: Fatal) -> WriteError {
    WriteError::Source(fatal.0)
}

impl Rows for Snapshot {
    fn for_each(&self, bucket: &str, each: &mut EachRow<'_>) -> Result<(), WriteError> {
        match bucket {
            "key" => self.view.history().map_err(source)?.try_for_each(|row| {
                let row = row.map_err(source)?;
                let kv =
                    if row.tombstone { KeyValue { key: row.kv.key, ..KeyValue::default() } } else { row.kv };
                each(&rows::revision_key(row.revision, row.tombstone), &rows::encode_key_value(&kv))
            }),
            "lease" => {
                for row in self.view.rows(Some((Table::Leases, Bytes::new()))) {
                    let (table, key, value) = row.map_err(source)?;
                    if table != Table::Leases {
                        break;
                    }
                    let lease = Lease::decode(&key, &value).map_err(source)?;
                    let row = LeaseRow { id: lease.id, ttl: lease.ttl, remaining: lease.remaining_ttl };
                    each(&rows::lease_key(lease.id), &rows::encode_lease(row))?;
                }
                Ok(())
            }
            _ => self.small.get(bucket).into_iter().flatten().try_for_each(|(key, value)| each(key, value)),
        }
    }
}
