//! How the answer to a load's range is decoded: its rows are counted, and not made into anything.
//!
//! The generator shares the machine's cores with the servers, and nobody looks at the rows. To make 10,000 of
//! them takes it as long as a server needs to send them, which would be counted as the server's time.

use bytes::{Buf, Bytes};
use cairn_net::proto::etcdserverpb::{RangeRequest, RangeResponse};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstCodec;

/// The number of the field that each row is.
const ROW: u32 = 2;

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
        rows(message).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// The number of rows in a message; its other fields are passed over.
fn rows(mut message: Bytes) -> Result<u64, DecodeError> {
    let mut rows = 0;
    while message.has_remaining() {
        let (field, kind) = decode_key(&mut message)?;
        skip_field(kind, field, &mut message, DecodeContext::default())?;
        rows += u64::from(field == ROW && kind == WireType::LengthDelimited);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use cairn_net::proto::etcdserverpb::ResponseHeader;
    use cairn_net::proto::mvccpb::KeyValue;
    use prost::Message;

    use super::*;

    #[test]
    fn rows_are_counted_and_a_message_that_is_cut_is_none() {
        let row = KeyValue { key: "key".into(), value: vec![0x12; 300].into(), ..KeyValue::default() };
        for count in [0, 1, 100] {
            let header = Some(ResponseHeader { revision: 1 << 40, ..ResponseHeader::default() });
            let kvs = vec![row.clone(); count];
            let answer = RangeResponse { header, kvs, more: true, count: count as i64 };
            let message = Bytes::from(answer.encode_to_vec());
            assert_eq!(rows(message.clone()).unwrap(), count as u64);
            if count > 0 {
                assert!(rows(message.slice(..message.len() - 6)).is_err());
            }
        }
    }
}
