//! Registers that are read, and set if they still hold what was read.

use bytes::Bytes;
use cairn_core::api::{
    Compare, CompareResult, CompareTarget, PutRequest, RangeRequest, Request, RequestOp, ResponseBody,
    TxnRequest,
};

use super::Draw;
use super::script::{Record, Script, Told};

/// The registers.
const KEYS: u64 = 3;

/// A client that compares and sets.
#[derive(Clone, Debug, Default)]
pub struct Cas {
    /// The register and what it held, once that is known.
    read: Option<(Bytes, Option<Bytes>)>,
    key: Bytes,
}

impl Script for Cas {
    fn next(&mut self, draw: &mut Draw<'_>) -> Request {
        let Some((key, value)) = self.read.take() else {
            self.key = format!("c{:02}", draw.rng.below(KEYS)).into();
            return Request::Range(RangeRequest { key: self.key.clone(), ..RangeRequest::default() });
        };
        let target = value.map_or(CompareTarget::Version(0), CompareTarget::Value);
        let compare =
            Compare { result: CompareResult::Equal, target, key: key.clone(), range_end: Bytes::new() };
        let set = PutRequest { key: key.clone(), value: draw.value(), ..PutRequest::default() };
        let get = RangeRequest { key, ..RangeRequest::default() };
        Request::Txn(TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp::Put(set)],
            failure: vec![RequestOp::Range(get)],
        })
    }

    fn told(&mut self, told: Told<'_>, _record: &mut Record) {
        if let Some(Ok(response)) = told.answer
            && let ResponseBody::Range(range) = &response.body
        {
            self.read = Some((self.key.clone(), range.kvs.first().map(|kv| kv.value.clone())));
        }
    }
}
