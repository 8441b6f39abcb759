//! Ranges, puts, deletions and transactions.

use cairn_core::api::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, Header, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseOp, SortOrder, SortTarget, TxnRequest,
    TxnResponse,
};
use cairn_core::error::Error;
use cairn_core::mvcc;
use cairn_core::types::KeyValue;

use super::header;
use crate::proto::{etcdserverpb as pb, mvccpb};

use pb::compare::{CompareResult as WireResult, CompareTarget as WireTarget, TargetUnion};
use pb::range_request::{SortOrder as WireOrder, SortTarget as WireSort};
use pb::request_op::Request as WireRequest;
use pb::response_op::Response as WireResponse;

/// A key-value pair towards the wire.
pub fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

/// Reads a range request.
///
/// # Errors
/// [`Error::InvalidSortOption`] when an order or a target is not one of the definition's.
pub fn range_request(wire: pb::RangeRequest) -> Result<RangeRequest, Error> {
    let sort_order = match WireOrder::try_from(wire.sort_order) {
        Ok(WireOrder::None) => SortOrder::None,
        Ok(WireOrder::Ascend) => SortOrder::Ascend,
        Ok(WireOrder::Descend) => SortOrder::Descend,
        Err(_) => return Err(Error::InvalidSortOption),
    };
    let sort_target = match WireSort::try_from(wire.sort_target) {
        Ok(WireSort::Key) => SortTarget::Key,
        Ok(WireSort::Version) => SortTarget::Version,
        Ok(WireSort::Create) => SortTarget::Create,
        Ok(WireSort::Mod) => SortTarget::Mod,
        Ok(WireSort::Value) => SortTarget::Value,
        Err(_) => return Err(Error::InvalidSortOption),
    };
    Ok(RangeRequest {
        key: wire.key,
        range_end: wire.range_end,
        limit: wire.limit,
        revision: wire.revision,
        sort_order,
        sort_target,
        serializable: wire.serializable,
        keys_only: wire.keys_only,
        count_only: wire.count_only,
        min_mod_revision: wire.min_mod_revision,
        max_mod_revision: wire.max_mod_revision,
        min_create_revision: wire.min_create_revision,
        max_create_revision: wire.max_create_revision,
    })
}

impl From<RangeRequest> for pb::RangeRequest {
    fn from(request: RangeRequest) -> Self {
        let sort_order = match request.sort_order {
            SortOrder::None => WireOrder::None,
            SortOrder::Ascend => WireOrder::Ascend,
            SortOrder::Descend => WireOrder::Descend,
        };
        let sort_target = match request.sort_target {
            SortTarget::Key => WireSort::Key,
            SortTarget::Version => WireSort::Version,
            SortTarget::Create => WireSort::Create,
            SortTarget::Mod => WireSort::Mod,
            SortTarget::Value => WireSort::Value,
        };
        Self {
            key: request.key,
            range_end: request.range_end,
            limit: request.limit,
            revision: request.revision,
            sort_order: sort_order.into(),
            sort_target: sort_target.into(),
            serializable: request.serializable,
            keys_only: request.keys_only,
            count_only: request.count_only,
            min_mod_revision: request.min_mod_revision,
            max_mod_revision: request.max_mod_revision,
            min_create_revision: request.min_create_revision,
            max_create_revision: request.max_create_revision,
        }
    }
}

/// A range's rows towards the wire.
pub fn range_response(top: Header, response: RangeResponse) -> pb::RangeResponse {
    pb::RangeResponse {
        header: Some(header(top)),
        kvs: response.kvs.into_iter().map(key_value).collect(),
        more: response.more,
        count: response.count,
    }
}

/// Reads a put.
pub fn put_request(wire: pb::PutRequest) -> PutRequest {
    PutRequest {
        key: wire.key,
        value: wire.value,
        lease: wire.lease,
        prev_kv: wire.prev_kv,
        ignore_value: wire.ignore_value,
        ignore_lease: wire.ignore_lease,
    }
}

impl From<PutRequest> for pb::PutRequest {
    fn from(request: PutRequest) -> Self {
        Self {
            key: request.key,
            value: request.value,
            lease: request.lease,
            prev_kv: request.prev_kv,
            ignore_value: request.ignore_value,
            ignore_lease: request.ignore_lease,
        }
    }
}

/// A put's reply towards the wire.
pub fn put_response(top: Header, response: PutResponse) -> pb::PutResponse {
    pb::PutResponse { header: Some(header(top)), prev_kv: response.prev_kv.map(key_value) }
}

/// Reads a deletion.
pub fn delete_range_request(wire: pb::DeleteRangeRequest) -> DeleteRangeRequest {
    DeleteRangeRequest { key: wire.key, range_end: wire.range_end, prev_kv: wire.prev_kv }
}

impl From<DeleteRangeRequest> for pb::DeleteRangeRequest {
    fn from(request: DeleteRangeRequest) -> Self {
        Self { key: request.key, range_end: request.range_end, prev_kv: request.prev_kv }
    }
}

/// A deletion's reply towards the wire.
pub fn delete_range_response(top: Header, response: DeleteRangeResponse) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: Some(header(top)),
        deleted: response.deleted,
        prev_kvs: response.prev_kvs.into_iter().map(key_value).collect(),
    }
}

/// Reads a transaction.
///
/// # Errors
/// [`Error::KeyNotFound`] for an operation that holds none (etcd's own, odd answer), and as
/// [`range_request`] and [`compare`].
pub fn txn_request(wire: pb::TxnRequest) -> Result<TxnRequest, Error> {
    if has_empty_op(&wire) {
        return Err(first_error(&wire).unwrap_or(Error::KeyNotFound));
    }
    Ok(TxnRequest {
        compare: wire.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: wire.success.into_iter().map(request_op).collect::<Result<_, _>>()?,
        failure: wire.failure.into_iter().map(request_op).collect::<Result<_, _>>()?,
    })
}

/// Whether some operation holds none, at any depth.
fn has_empty_op(wire: &pb::TxnRequest) -> bool {
    wire.success.iter().chain(&wire.failure).any(|op| match &op.request {
        None => true,
        Some(WireRequest::RequestTxn(txn)) => has_empty_op(txn),
        Some(_) => false,
    })
}

/// What etcd complains of first in a transaction that holds an empty operation.
fn first_error(wire: &pb::TxnRequest) -> Option<Error> {
    if wire.compare.iter().any(|compare| compare.key.is_empty()) {
        return Some(Error::EmptyKey);
    }
    wire.success.iter().chain(&wire.failure).find_map(|op| match &op.request {
        None => Some(Error::KeyNotFound),
        Some(WireRequest::RequestTxn(txn)) => first_error(txn),
        Some(WireRequest::RequestRange(range)) => {
            range_request(range.clone()).and_then(|range| mvcc::check_range(&range)).err()
        }
        Some(WireRequest::RequestPut(put)) => mvcc::check_put(&put_request(put.clone())).err(),
        Some(WireRequest::RequestDeleteRange(delete)) => {
            mvcc::check_delete_range(&delete_range_request(delete.clone())).err()
        }
    })
}

impl From<TxnRequest> for pb::TxnRequest {
    fn from(request: TxnRequest) -> Self {
        Self {
            compare: request.compare.into_iter().map(Into::into).collect(),
            success: request.success.into_iter().map(Into::into).collect(),
            failure: request.failure.into_iter().map(Into::into).collect(),
        }
    }
}

/// Reads one operation of a transaction.
///
/// # Errors
/// As [`txn_request`].
pub fn request_op(wire: pb::RequestOp) -> Result<RequestOp, Error> {
    Ok(match wire.request.ok_or(Error::KeyNotFound)? {
        WireRequest::RequestRange(range) => RequestOp::Range(range_request(range)?),
        WireRequest::RequestPut(put) => RequestOp::Put(put_request(put)),
        WireRequest::RequestDeleteRange(delete) => RequestOp::DeleteRange(delete_range_request(delete)),
        WireRequest::RequestTxn(txn) => RequestOp::Txn(txn_request(txn)?),
    })
}

impl From<RequestOp> for pb::RequestOp {
    fn from(op: RequestOp) -> Self {
        let request = match op {
            RequestOp::Range(range) => WireRequest::RequestRange(range.into()),
            RequestOp::Put(put) => WireRequest::RequestPut(put.into()),
            RequestOp::DeleteRange(delete) => WireRequest::RequestDeleteRange(delete.into()),
            RequestOp::Txn(txn) => WireRequest::RequestTxn(txn.into()),
        };
        Self { request: Some(request) }
    }
}

/// Reads one condition. `target` decides what is looked at; a union that is missing, or that belongs
/// to another target, counts as the target's zero, as in etcd.
///
/// # Errors
/// An unknown target or result has no meaning that could be applied.
pub fn compare(wire: pb::Compare) -> Result<Compare, Error> {
    let result = match WireResult::try_from(wire.result) {
        Ok(WireResult::Equal) => CompareResult::Equal,
        Ok(WireResult::Greater) => CompareResult::Greater,
        Ok(WireResult::Less) => CompareResult::Less,
        Ok(WireResult::NotEqual) => CompareResult::NotEqual,
        Err(_) => return Err(Error::Other(format!("cairn: unknown compare result {}", wire.result))),
    };
    let union = wire.target_union;
    let target = match WireTarget::try_from(wire.target) {
        Ok(WireTarget::Version) => CompareTarget::Version(match union {
            Some(TargetUnion::Version(version)) => version,
            _ => 0,
        }),
        Ok(WireTarget::Create) => CompareTarget::Create(match union {
            Some(TargetUnion::CreateRevision(revision)) => revision,
            _ => 0,
        }),
        Ok(WireTarget::Mod) => CompareTarget::Mod(match union {
            Some(TargetUnion::ModRevision(revision)) => revision,
            _ => 0,
        }),
        Ok(WireTarget::Value) => CompareTarget::Value(match union {
            Some(TargetUnion::Value(value)) => value,
            _ => bytes::Bytes::new(),
        }),
        Ok(WireTarget::Lease) => CompareTarget::Lease(match union {
            Some(TargetUnion::Lease(lease)) => lease,
            _ => 0,
        }),
        Err(_) => return Err(Error::Other(format!("cairn: unknown compare target {}", wire.target))),
    };
    Ok(Compare { result, target, key: wire.key, range_end: wire.range_end })
}

impl From<Compare> for pb::Compare {
    fn from(compare: Compare) -> Self {
        let result = match compare.result {
            CompareResult::Equal => WireResult::Equal,
            CompareResult::Greater => WireResult::Greater,
            CompareResult::Less => WireResult::Less,
            CompareResult::NotEqual => WireResult::NotEqual,
        };
        let (target, union) = match compare.target {
            CompareTarget::Version(version) => (WireTarget::Version, TargetUnion::Version(version)),
            CompareTarget::Create(revision) => (WireTarget::Create, TargetUnion::CreateRevision(revision)),
            CompareTarget::Mod(revision) => (WireTarget::Mod, TargetUnion::ModRevision(revision)),
            CompareTarget::Value(value) => (WireTarget::Value, TargetUnion::Value(value)),
            CompareTarget::Lease(lease) => (WireTarget::Lease, TargetUnion::Lease(lease)),
        };
        Self {
            result: result.into(),
            target: target.into(),
            key: compare.key,
            range_end: compare.range_end,
            target_union: Some(union),
        }
    }
}

/// A transaction's reply towards the wire. The responses inside carry a header with nothing but the
/// revision that the operation saw: the one before the transaction until its first change, the
/// transaction's own from there on. The header of a nested transaction is empty.
pub fn txn_response(top: Header, response: TxnResponse) -> pb::TxnResponse {
    let mut seen = response.revision - i64::from(changes(&response.responses));
    let responses = response.responses;
    pb::TxnResponse {
        header: Some(header(top)),
        succeeded: response.succeeded,
        responses: response_ops(responses, &mut seen, response.revision),
    }
}

/// Whether any of the operations changed the store.
fn changes(responses: &[ResponseOp]) -> bool {
    responses.iter().any(|op| match op {
        ResponseOp::Range(_) => false,
        ResponseOp::Put(_) => true,
        ResponseOp::DeleteRange(delete) => delete.deleted > 0,
        ResponseOp::Txn(txn) => changes(&txn.responses),
    })
}

fn response_ops(responses: Vec<ResponseOp>, seen: &mut i64, own: i64) -> Vec<pb::ResponseOp> {
    let mut out = Vec::with_capacity(responses.len());
    for op in responses {
        if !matches!(op, ResponseOp::Txn(_)) && changes(std::slice::from_ref(&op)) {
            *seen = own;
        }
        let inner = Header { revision: *seen, ..Header::default() };
        let response = match op {
            ResponseOp::Range(range) => WireResponse::ResponseRange(range_response(inner, range)),
            ResponseOp::Put(put) => WireResponse::ResponsePut(put_response(inner, put)),
            ResponseOp::DeleteRange(delete) => {
                WireResponse::ResponseDeleteRange(delete_range_response(inner, delete))
            }
            ResponseOp::Txn(txn) => WireResponse::ResponseTxn(pb::TxnResponse {
                header: Some(pb::ResponseHeader::default()),
                succeeded: txn.succeeded,
                responses: response_ops(txn.responses, seen, own),
            }),
        };
        out.push(pb::ResponseOp { response: Some(response) });
    }
    out
}
