//! `RangeStream`: a range in chunks, read from one pinned view (inventory A-KV-19).
//!
//! The view is taken after a read of the same consistency has passed, so a stream is as linearizable
//! as a range. Rows are read in slices that grow, because each read counts all the keys that remain,
//! and a slice is cut into chunks of about the largest request. The reading runs on a thread that may
//! block and stops when the client is gone.
//!
//! Invariant: memory per stream is a slice, a few chunks and no more, whatever the range holds. Only
//! the last chunk carries the header, `more` and `count`.

use bytes::Bytes;
use cairn_core::api::{Header, RangeRequest, RangeResponse, Request, ResponseBody, SortOrder, SortTarget};
use cairn_core::mvcc::StoreView;
use cairn_core::types::KeyValue;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Member, expect_body, mismatch};
use crate::convert;
use crate::proto::etcdserverpb::RangeStreamResponse;

/// Rows of the first slice.
const FIRST_ROWS: i64 = 10;
/// A slice of at least this size lets the next one grow no further.
const SLICE_BYTES: usize = 8 << 20;
/// Chunks that wait for a slow client.
const CHUNKS_QUEUED: usize = 2;
/// A row's encoded metadata, generously.
const ROW_OVERHEAD_BYTES: usize = 64;

type Chunk = Result<RangeStreamResponse, Status>;

/// Starts the stream.
pub(super) async fn open(
    member: &Member,
    mut range: RangeRequest,
) -> Result<impl Stream<Item = Chunk> + Send + 'static, Status> {
    let filtered = range.min_mod_revision != 0
        || range.max_mod_revision != 0
        || range.min_create_revision != 0
        || range.max_create_revision != 0;
    if range.sort_order != SortOrder::None || range.sort_target != SortTarget::Key || filtered {
        return Err(Status::unimplemented("etcdserver: range stream does not support sorting or filters"));
    }
    // One row is enough to confirm the read and to learn the revision.
    let probe = RangeRequest { limit: 1, keys_only: true, ..range.clone() };
    let reply = member.request(Request::Range(probe)).await?;
    let (header, _) = expect_body!(reply, ResponseBody::Range(rows) => rows);
    let mut reply = member.request(Request::Snapshot).await?;
    let Some(view) = reply.view.take() else { return Err(mismatch(&reply)) };
    if range.revision <= 0 {
        range.revision = header.revision;
    }
    let (chunks, out) = mpsc::channel(CHUNKS_QUEUED);
    let member = member.clone();
    tokio::task::spawn_blocking(move || {
        if let Err(status) = read(&member, &view, range, header, &chunks) {
            // A client that is gone needs no error.
            let _ = chunks.blocking_send(Err(status));
        }
    });
    Ok(ReceiverStream::new(out))
}

/// Reads the whole range and sends it; ends early when the client is gone.
fn read(
    member: &Member,
    view: &StoreView,
    range: RangeRequest,
    header: Header,
    chunks: &mpsc::Sender<Chunk>,
) -> Result<(), Status> {
    let wanted = if range.limit > 0 { range.limit } else { i64::MAX };
    let (mut sent, mut rows, mut count) = (0, FIRST_ROWS, None);
    let mut start = range.key.clone();
    loop {
        let slice = RangeRequest { key: start, limit: rows.min(wanted - sent), ..range.clone() };
        let found = member.info.views.range(view, &slice).map_err(convert::status)?;
        let count = *count.get_or_insert(found.count);
        sent += i64::try_from(found.kvs.len()).unwrap_or(i64::MAX);
        let last = range.count_only || found.kvs.is_empty() || !found.more || sent >= wanted;
        let next = found.kvs.last().map(|row| after(&row.key));
        let bytes: usize = found.kvs.iter().map(row_bytes).sum();
        let mut parts = split(found.kvs, member.info.max_request_bytes).into_iter().peekable();
        while let Some(kvs) = parts.next() {
            let (top, rest) = if last && parts.peek().is_none() {
                (header, RangeResponse { kvs, more: found.more, count })
            } else {
                (Header::default(), RangeResponse { kvs, more: false, count: 0 })
            };
            let mut response = convert::range_response(top, rest);
            if top == Header::default() {
                response.header = None;
            }
            if chunks.blocking_send(Ok(RangeStreamResponse { range_response: Some(response) })).is_err() {
                return Ok(());
            }
        }
        match next {
            Some(next) if !last => start = next,
            _ => return Ok(()),
        }
        if bytes < SLICE_BYTES {
            rows = rows.saturating_mul(4);
        } else if bytes > 2 * SLICE_BYTES {
            rows = (rows / 2).max(1);
        }
    }
}

/// The smallest key after `key`.
fn after(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

fn row_bytes(row: &KeyValue) -> usize {
    row.key.len() + row.value.len() + ROW_OVERHEAD_BYTES
}

/// Cuts rows into parts of about `bytes_max`; at least one part, and no part without a row unless
/// there is none at all.
fn split(rows: Vec<KeyValue>, bytes_max: usize) -> Vec<Vec<KeyValue>> {
    let (mut parts, mut part, mut size) = (Vec::new(), Vec::new(), 0);
    for row in rows {
        let bytes = row_bytes(&row);
        if !part.is_empty() && size + bytes > bytes_max {
            parts.push(std::mem::take(&mut part));
            size = 0;
        }
        size += bytes;
        part.push(row);
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_split_by_size_and_a_large_row_travels_alone() {
        let row = |len| KeyValue { value: vec![0; len].into(), ..KeyValue::default() };
        let sizes = |parts: Vec<Vec<KeyValue>>| parts.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(split(vec![], 1000)), [0]);
        assert_eq!(sizes(split(vec![row(400), row(400), row(5000), row(1)], 1000)), [2, 1, 1]);
    }

    #[test]
    fn the_key_after_a_key_is_the_next_one_in_byte_order() {
        assert_eq!(after(b"a").as_ref(), b"a\0");
        assert!(after(b"a").as_ref() > b"a".as_slice() && after(b"a").as_ref() < b"a\x01".as_slice());
    }
}
