//! The answer to a long range, encoded while it is sent.
//!
//! A message of megabytes would be encoded as a whole before its first byte leaves, into memory that is
//! touched for the first time. Here only its length is computed at once; the rows are written into
//! frames as the transport takes them, and let go.
//!
//! Invariant: the frames together are the message that `convert::range_response` is encoded to.

use std::vec::IntoIter;

use bytes::{BufMut, Bytes};
use cairn_core::api::{Header, RangeResponse};
use cairn_core::types::KeyValue;
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::convert;
use crate::proto::etcdserverpb as pb;

/// Answers with fewer rows are encoded at once.
pub(super) const ROWS_MIN: usize = 256;
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
    pub(super) fn new(top: Header, response: RangeResponse) -> Self {
        let RangeResponse { kvs, more, count } = response;
        let header = Some(convert::header(top));
        let header = pb::RangeResponse { header, ..pb::RangeResponse::default() };
        let tail = pb::RangeResponse { more, count, ..pb::RangeResponse::default() }.encode_to_vec();
        let rows: usize = kvs.iter().map(|kv| bytes_len(row_len(kv))).sum();
        let len = header.encoded_len() + rows + tail.len();
        let mut head = Vec::new();
        head.put_u8(0);
        head.put_u32(u32::try_from(len).expect("a reply is smaller than 4 GiB"));
        header.encode(&mut head).expect("a vector grows");
        Self { head, rows: kvs.into_iter(), tail, len }
    }

    /// The length of the message.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The next piece of the message with its prefix; `None` at the end.
    pub(super) fn next_frame(&mut self) -> Option<Bytes> {
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
    use super::*;

    #[test]
    fn the_frames_are_the_encoded_answer() {
        let row = |n: i64| KeyValue {
            key: format!("{n}").into(),
            create_revision: n / 3,
            mod_revision: n * 1000,
            version: n % 5,
            value: vec![7; (n * n % 4000) as usize].into(),
            lease: if n % 2 == 0 { 0 } else { -n },
        };
        for (rows, more) in [(0, false), (1, true), (1000, false), (1001, true)] {
            let response = RangeResponse { kvs: (0..rows).map(row).collect(), more, count: rows };
            let top = Header { cluster_id: 1, member_id: u64::MAX, revision: 3, raft_term: 0 };
            let expected = convert::range_response(top, response.clone()).encode_to_vec();
            let mut encoded = Rows::new(top, response);
            assert_eq!(encoded.len(), expected.len());
            let mut message = Vec::new();
            while let Some(frame) = encoded.next_frame() {
                message.extend_from_slice(&frame);
            }
            assert_eq!(message[..5], [&[0][..], &(expected.len() as u32).to_be_bytes()].concat());
            assert!(message[5..] == expected, "{rows} rows");
        }
    }
}
