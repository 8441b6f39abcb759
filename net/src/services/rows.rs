//! The answer to a long range, encoded while it is sent.
//!
//! A message of megabytes would be encoded as a whole before its first byte leaves, into memory that is
//! touched for the first time. Here only its length is computed at once; the rows are written into
//! frames as the transport takes them, and let go.
//!
//! A very long answer is measured and encoded on a thread of its own: the tasks of other connections
//! would wait for their turn meanwhile.
//!
//! Invariant: the frames together are the message that `convert::range_response` is encoded to.

use std::task::{Context, Poll};
use std::vec::IntoIter;

use bytes::{BufMut, Bytes};
use cairn_core::api::{Header, RangeResponse};
use cairn_core::types::KeyValue;
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::guard;
use crate::proto::etcdserverpb as pb;
use crate::{bulk, convert};

/// Answers with fewer rows are encoded at once.
pub(super) const ROWS_MIN: usize = 256;
/// Answers with so many rows get a thread.
const BULK_ROWS_MIN: usize = 50_000;
/// Frames that such a thread is ahead of the transport.
const AHEAD_MAX: usize = 16;
/// A frame is closed when it has grown to this size.
const FRAME_BYTES: usize = 64 << 10;
/// Room for the row that closes it, unless it is a large one.
const ROW_BYTES: usize = 1 << 10;
/// A row as a field of the answer, then the fields of a row: each field's number and kind.
const ROW: u8 = 2 << 3 | 2;
const KEY: u8 = 1 << 3 | 2;
const CREATE_REVISION: u8 = 2 << 3;
const MOD_REVISION: u8 = 3 << 3;
const VERSION: u8 = 4 << 3;
const VALUE: u8 = 5 << 3 | 2;
const LEASE: u8 = 6 << 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Rows {
    /// What comes before the rows, until it is sent.
    head: Vec<u8>,
    rows: IntoIter<KeyValue>,
    tail: Vec<u8>,
    len: usize,
}

impl Rows {
    fn new(top: Header, response: RangeResponse) -> Self {
        let RangeResponse { kvs, more, count } = response;
        let header = Some(convert::header(top));
        let header = pb::RangeResponse { header, ..pb::RangeResponse::default() };
        let tail = pb::RangeResponse { more, count, ..pb::RangeResponse::default() }.encode_to_vec();
        let rows: usize = kvs.iter().map(|kv| bytes_len(row_len(kv))).sum();
        let len = header.encoded_len() + rows + tail.len();
        let mut head = Vec::new();
        head.put_u8(0);
        // A length that does not fit is refused before this is sent.
        head.put_u32(len as u32);
        header.encode(&mut head).expect("a vector grows");
        Self { head, rows: kvs.into_iter(), tail, len }
    }

    /// The length of the message.
    fn len(&self) -> usize {
        self.len
    }

    /// The next piece of the message with its prefix; `None` at the end.
    fn next_frame(&mut self) -> Option<Bytes> {
        let mut frame = std::mem::take(&mut self.head);
        if self.rows.len() > 0 {
            frame.reserve(FRAME_BYTES + ROW_BYTES);
        }
        while frame.len() < FRAME_BYTES
            && let Some(row) = self.rows.next()
        {
            let len = row_len(&row);
            frame.push(ROW);
            encode_varint(len as u64, &mut frame);
            put_row(&mut frame, &row);
        }
        if self.rows.len() == 0 {
            frame.append(&mut self.tail);
        }
        (!frame.is_empty()).then(|| frame.into())
    }
}

/// Where an answer's frames come from.
#[derive(Debug)]
pub(super) enum Frames {
    /// From the task that sends them.
    Here(Box<Rows>),
    /// From a thread.
    Bulk { len: usize, frames: mpsc::Receiver<Bytes> },
}

impl Frames {
    /// Begins to encode an answer.
    ///
    /// # Errors
    /// It is longer than etcd sends.
    pub(super) async fn start(top: Header, response: RangeResponse) -> Result<Self, Status> {
        let frames = if response.kvs.len() < BULK_ROWS_MIN {
            Self::Here(Box::new(Rows::new(top, response)))
        } else {
            Self::start_bulk(top, response).await
        };
        guard::sendable(frames.len())?;
        Ok(frames)
    }

    async fn start_bulk(top: Header, response: RangeResponse) -> Self {
        let (measured, len) = oneshot::channel();
        let (ready, frames) = mpsc::channel(AHEAD_MAX);
        let (hand_over, answer) = std::sync::mpsc::channel();
        let work = move || {
            let Ok((top, response)) = answer.recv() else { return };
            let mut rows = Rows::new(top, response);
            // Both ends may have gone with the client.
            let _ = measured.send(rows.len());
            while let Some(frame) = rows.next_frame() {
                if ready.blocking_send(frame).is_err() {
                    return;
                }
                bulk::pause();
            }
        };
        if let Err(error) = bulk::spawn("encode", work) {
            tracing::warn!(%error, "no thread for a long answer");
            return Self::Here(Box::new(Rows::new(top, response)));
        }
        hand_over.send((top, response)).expect("the thread waits for it");
        let len = len.await.expect("the thread measures first");
        Self::Bulk { len, frames }
    }

    /// The length of the message.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Here(rows) => rows.len(),
            Self::Bulk { len, .. } => *len,
        }
    }

    /// The next piece of the message with its prefix; `None` at the end.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match self {
            Self::Here(rows) => Poll::Ready(rows.next_frame()),
            Self::Bulk { frames, .. } => frames.poll_recv(context),
        }
    }
}

/// What a field of so many bytes takes, with its number and length.
fn bytes_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

fn row_len(kv: &KeyValue) -> usize {
    let bytes = |bytes: &Bytes| if bytes.is_empty() { 0 } else { bytes_len(bytes.len()) };
    let number = |number: i64| if number == 0 { 0 } else { 1 + encoded_len_varint(number as u64) };
    bytes(&kv.key)
        + number(kv.create_revision)
        + number(kv.mod_revision)
        + number(kv.version)
        + bytes(&kv.value)
        + number(kv.lease)
}

fn put_row(frame: &mut Vec<u8>, kv: &KeyValue) {
    put_bytes(frame, KEY, &kv.key);
    put_number(frame, CREATE_REVISION, kv.create_revision);
    put_number(frame, MOD_REVISION, kv.mod_revision);
    put_number(frame, VERSION, kv.version);
    put_bytes(frame, VALUE, &kv.value);
    put_number(frame, LEASE, kv.lease);
}

fn put_bytes(frame: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        frame.push(field);
        encode_varint(bytes.len() as u64, frame);
        frame.extend_from_slice(bytes);
    }
}

fn put_number(frame: &mut Vec<u8>, field: u8, number: i64) {
    if number != 0 {
        frame.push(field);
        encode_varint(number as u64, frame);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn answer(rows: i64, more: bool) -> RangeResponse {
        let row = |n: i64| KeyValue {
            key: format!("{n}").into(),
            create_revision: n / 3,
            mod_revision: n * 1000,
            version: n % 5,
            value: vec![7; (n * n % 4000) as usize].into(),
            lease: if n % 2 == 0 { 0 } else { -n },
        };
        RangeResponse { kvs: (0..rows).map(row).collect(), more, count: rows }
    }

    const TOP: Header = Header { cluster_id: 1, member_id: u64::MAX, revision: 3, raft_term: 0 };

    fn assert_same(frames: &[Bytes], len: usize, response: RangeResponse) {
        let expected = convert::range_response(TOP, response).encode_to_vec();
        assert_eq!(len, expected.len());
        let message = frames.concat();
        assert_eq!(message[..5], [&[0][..], &(expected.len() as u32).to_be_bytes()].concat());
        assert!(message[5..] == expected);
    }

    #[test]
    fn the_frames_are_the_encoded_answer() {
        for (rows, more) in [(0, false), (1, true), (1000, false), (1001, true)] {
            let mut encoded = Rows::new(TOP, answer(rows, more));
            let frames: Vec<_> = std::iter::from_fn(|| encoded.next_frame()).collect();
            assert_same(&frames, encoded.len(), answer(rows, more));
        }
    }

    #[tokio::test]
    async fn a_thread_makes_the_same_frames() {
        for rows in [0, 1000] {
            let mut encoded = Frames::start_bulk(TOP, answer(rows, false)).await;
            let mut frames = Vec::new();
            while let Some(frame) = poll_fn(|context| encoded.poll_next(context)).await {
                frames.push(frame);
            }
            assert_same(&frames, encoded.len(), answer(rows, false));
        }
    }
}
