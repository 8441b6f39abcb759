//! Requests and answers in the plain types of `cairn-checkers`: what a run's history consists of.
//!
//! A translation and nothing else: it decides nothing, and forgets only what no checker looks at.

use bytes::Bytes;
use cairn_checkers::history::{Relation, Target};
use cairn_checkers::{Action, Body, Compare, Keys, Kv, Outcome, watch};
use cairn_core::api::{
    CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, Request, RequestOp, ResponseBody, ResponseOp, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchFilter, WatchResponse,
};
use cairn_core::types::{EventKind, KeyRange, KeyValue};

use crate::history::{Answer, is_unknown};

/// Keys and values of the workloads are text.
pub fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn keys(range: &KeyRange) -> Keys {
    match range {
        KeyRange::Single(key) => Keys::One(text(key)),
        KeyRange::HalfOpen(start, end) => Keys::Span(text(start), text(end)),
        KeyRange::From(start) => Keys::From(text(start)),
    }
}

fn kv(kv: &KeyValue) -> Kv {
    Kv {
        key: text(&kv.key),
        value: text(&kv.value),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

fn kvs(all: &[KeyValue]) -> Vec<Kv> {
    all.iter().map(kv).collect()
}

/// What was asked.
pub fn action(request: &Request) -> Action {
    match request {
        Request::Range(request) => range(request),
        Request::Put(request) => put(request),
        Request::DeleteRange(request) => delete(request),
        Request::Txn(request) => txn(request),
        Request::Compact { revision, .. } => Action::Compact { revision: *revision },
        Request::LeaseGrant { id, ttl } => Action::Grant { id: *id, ttl: *ttl },
        Request::LeaseRevoke { id } => Action::Revoke { id: *id },
        Request::LeaseKeepAlive { id } => Action::KeepAlive { id: *id },
        Request::HashKv { .. } => Action::HashKv,
        other => Action::Other { what: format!("{other:?}") },
    }
}

fn range(request: &RangeRequest) -> Action {
    let RangeRequest { revision, limit, serializable, count_only, keys_only, .. } = *request;
    Action::Range { keys: keys(&request.range()), revision, limit, serializable, count_only, keys_only }
}

fn put(request: &PutRequest) -> Action {
    let PutRequest { lease, prev_kv, .. } = *request;
    Action::Put { key: text(&request.key), value: text(&request.value), lease, prev_kv }
}

fn delete(request: &DeleteRangeRequest) -> Action {
    Action::Delete { keys: keys(&request.range()), prev_kv: request.prev_kv }
}

fn txn(request: &TxnRequest) -> Action {
    let op = |op: &RequestOp| match op {
        RequestOp::Range(request) => range(request),
        RequestOp::Put(request) => put(request),
        RequestOp::DeleteRange(request) => delete(request),
        RequestOp::Txn(request) => txn(request),
    };
    Action::Txn {
        compare: request.compare.iter().map(compare).collect(),
        success: request.success.iter().map(op).collect(),
        failure: request.failure.iter().map(op).collect(),
    }
}

fn compare(compare: &cairn_core::api::Compare) -> Compare {
    let relation = match compare.result {
        CompareResult::Equal => Relation::Equal,
        CompareResult::Greater => Relation::Greater,
        CompareResult::Less => Relation::Less,
        CompareResult::NotEqual => Relation::NotEqual,
    };
    let target = match &compare.target {
        CompareTarget::Version(version) => Target::Version(*version),
        CompareTarget::Create(revision) => Target::Create(*revision),
        CompareTarget::Mod(revision) => Target::Mod(*revision),
        CompareTarget::Value(value) => Target::Value(text(value)),
        CompareTarget::Lease(lease) => Target::Lease(*lease),
    };
    Compare { key: text(&compare.key), relation, target }
}

/// What is known of the outcome.
pub fn outcome(answer: &Answer) -> Outcome {
    match answer {
        Ok(response) => Outcome::Ok { revision: response.header.revision, body: body(&response.body) },
        Err(error) if is_unknown(error) => Outcome::Unknown { why: error.to_string() },
        Err(error) => Outcome::Refused { error: error.to_string() },
    }
}

fn body(body: &ResponseBody) -> Body {
    match body {
        ResponseBody::Range(response) => range_body(response),
        ResponseBody::Put(response) => put_body(response),
        ResponseBody::DeleteRange(response) => delete_body(response),
        ResponseBody::Txn(response) => txn_body(response),
        ResponseBody::Compact => Body::Compact,
        ResponseBody::LeaseGrant { id, ttl } | ResponseBody::LeaseKeepAlive { id, ttl } => {
            Body::Lease { id: *id, ttl: *ttl }
        }
        ResponseBody::HashKv { hash, compact_revision, hash_revision } => {
            Body::Hash { hash: *hash, revision: *hash_revision, compact_revision: *compact_revision }
        }
        _ => Body::Other,
    }
}

fn range_body(response: &RangeResponse) -> Body {
    Body::Range { kvs: kvs(&response.kvs), count: response.count, more: response.more }
}

fn put_body(response: &PutResponse) -> Body {
    Body::Put { prev: response.prev_kv.as_ref().map(kv) }
}

fn delete_body(response: &DeleteRangeResponse) -> Body {
    Body::Delete { deleted: response.deleted, prev: kvs(&response.prev_kvs) }
}

fn txn_body(response: &TxnResponse) -> Body {
    let one = |response: &ResponseOp| match response {
        ResponseOp::Range(response) => range_body(response),
        ResponseOp::Put(response) => put_body(response),
        ResponseOp::DeleteRange(response) => delete_body(response),
        ResponseOp::Txn(response) => txn_body(response),
    };
    Body::Txn { succeeded: response.succeeded, bodies: response.responses.iter().map(one).collect() }
}

/// What a watcher asks for.
pub fn watch_request(request: &WatchCreateRequest) -> watch::Request {
    watch::Request {
        keys: keys(&KeyRange::new(request.key.clone(), request.range_end.clone())),
        start: request.start_revision,
        no_put: request.filters.contains(&WatchFilter::NoPut),
        no_delete: request.filters.contains(&WatchFilter::NoDelete),
        prev_kv: request.prev_kv,
    }
}

/// What a watcher was sent.
pub fn sent(response: &WatchResponse) -> watch::Sent {
    let (revision, compact_revision) = (response.revision, response.compact_revision);
    if response.canceled {
        return watch::Sent::Canceled { revision, compact_revision };
    }
    if response.created {
        return watch::Sent::Created { revision };
    }
    if response.events.is_empty() {
        return watch::Sent::Progress { revision };
    }
    let event = |event: &cairn_core::types::Event| watch::Event {
        delete: event.kind == EventKind::Delete,
        kv: kv(&event.kv),
        prev: event.prev_kv.as_ref().map(kv),
    };
    watch::Sent::Events { revision, events: response.events.iter().map(event).collect() }
}
