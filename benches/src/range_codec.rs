//! How the answer to a load's range is decoded: its rows are counted, and not made into anything.
//!
//! The generator shares the machine's cores with the servers, and nobody looks at the rows. To make 10,000 of
//! them takes it as long as a server needs to send them, which would be counted as the server's time.

use bytes::Buf;
use cairn_net::proto::etcdserverpb::{RangeRequest, RangeResponse};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstCodec;

/// Kinds of fields.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;
/// The field that each row is, with its kind.
const ROW: u64 = 2 << 3 | LENGTH_DELIMITED;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RangeCodec;

/// Its decoder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowCounter;

impl Codec for RangeCodec {
    type Encode = RangeRequest;
    type Decode = u64;
    type Encoder = <ProstCodec<RangeRequest, RangeResponse> as Codec>::Encoder;
    type Decoder = RowCounter;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<RangeRequest, RangeResponse>::default().encoder()
    }

    fn decoder(&mut self) -> RowCounter {
        RowCounter
    }
}

impl Decoder for RowCounter {
    type Item = u64;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<u64>, Status> {
        let message = message.copy_to_bytes(message.remaining());
        rows(&message).map(Some).ok_or_else(|| Status::internal("the answer is no message"))
    }
}

/// The number of rows in a message, whose other fields are passed over; `None` when it is cut or no message.
fn rows(mut message: &[u8]) -> Option<u64> {
    let mut rows = 0;
    while !message.is_empty() {
        let field = number(&mut message)?;
        rows += u64::from(field == ROW);
        let len = match field & 7 {
            VARINT => {
                number(&mut message)?;
                0
            }
            LENGTH_DELIMITED => usize::try_from(number(&mut message)?).ok()?,
            FIXED_64 => 8,
            FIXED_32 => 4,
            _ => return None,
        };
        message = message.get(len..)?;
    }
    Some(rows)
}

/// Takes a number in base 128.
fn number(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = message.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_and_a_message_that_is_cut_is_none() {
        let row = [&b"\x12\xb1\x02\x0a\x01k\x2a\xab\x02"[..], &[0x12; 299]].concat();
        for count in [0, 1, 100] {
            let mut message = b"\x0a\x03\x18\xac\x02".to_vec();
            message.extend(row.repeat(count));
            assert_eq!(rows(&message), Some(count as u64));
            assert_eq!(rows(&message[..message.len() - 1]), None);
            message.extend_from_slice(b"\x18\x01\x20\x90\x4e");
            assert_eq!(rows(&message), Some(count as u64));
        }
        assert_eq!(rows(b"\x0b"), None, "a group is no field");
    }
}
