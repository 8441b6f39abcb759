//! The known differences between etcd 3.4.23 and later releases, each with its id in the feature
//! inventory, and the normalisation of what is no promise at all (ids, terms, the order of ties).
//!
//! Nothing else may differ. An entry says what 3.4.23 does, what is right, and which code allows it.

use cairn_net::proto::etcdserverpb::{
    RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse, request_op::Request,
    response_op::Response,
};
use cairn_net::proto::mvccpb::KeyValue;

/// (id, what 3.4.23 does and what is right, where it is allowed).
pub(crate) const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "A-KV-17",
        "an invalid sort order or target is ignored; since 3.6 it is InvalidArgument `invalid sort option`",
        "exceptions::invalid_sort",
    ),
    (
        "A-KV-50",
        "a tombstone exactly at the compact revision is dropped (fixed in 3.4.34), so hashes differ while \
         that is the compact revision, and a watch from it misses the deletion",
        "Run::normalise_hash, run::uncertain",
    ),
    (
        "A-M-04-EMPTY",
        "a hash while no key is alive at the compact revision depends on how far the background compaction is",
        "Run::normalise_hash",
    ),
    (
        "A-M-04-AT",
        "a hash exactly at the compact revision is refused as compacted, though that revision is readable; \
         later releases answer, because members compare hashes there",
        "Run::hash",
    ),
    ("A-M-04-NEWER", "hash_revision is a field since 3.6", "Run::normalise_hash"),
    (
        "A-W-05",
        "a watch from a negative revision is created and then cancelled as compacted; since 3.4.38 both in \
         one response with the error's text",
        "Run::watch_from_negative_revision",
    ),
    (
        "A-W-11-FUTURE",
        "a progress request is answered while a watcher of the stream starts in the future; since 3.5.22 it \
         waits (#20221), so it is not asked then",
        "Run::progress",
    ),
    (
        "A-W-12",
        "a progress request is answered while watchers are unsynced; since 3.4.25 when all are synced: \
         asked for after a barrier only, where both must answer with the same revision",
        "Run::progress",
    ),
];

/// A-KV-17: whether the request's sort options exist.
pub(crate) fn invalid_sort(request: &RangeRequest) -> bool {
    !(0..=2).contains(&request.sort_order) || !(0..=4).contains(&request.sort_target)
}

/// Ids and terms are each server's own.
pub(crate) fn header(header: &mut Option<ResponseHeader>) {
    if let Some(header) = header {
        header.cluster_id = 0;
        header.member_id = 0;
        header.raft_term = 0;
    }
}

/// Ties of a sort have no promised order (A-KV-13): brings them into the order of the keys. Where a
/// limit cuts a tie, which of the equal ones come is no promise either: only the sort value stays.
pub(crate) fn range(request: &RangeRequest, response: &mut RangeResponse) {
    header(&mut response.header);
    let target = request.sort_target;
    if target == 0 {
        return;
    }
    if request.limit > 0 {
        for pair in &mut response.kvs {
            let mut blank = KeyValue::default();
            match target {
                1 => blank.version = pair.version,
                2 => blank.create_revision = pair.create_revision,
                3 => blank.mod_revision = pair.mod_revision,
                _ => blank.value = pair.value.clone(),
            }
            *pair = blank;
        }
        return;
    }
    let sort_value = |pair: &KeyValue| match target {
        1 => pair.version,
        2 => pair.create_revision,
        3 => pair.mod_revision,
        _ => 0,
    };
    let tied =
        |a: &KeyValue, b: &KeyValue| sort_value(a) == sort_value(b) && (target != 4 || a.value == b.value);
    for run in response.kvs.chunk_by_mut(tied) {
        run.sort_by(|a, b| a.key.cmp(&b.key));
    }
}

/// The same for every range in a transaction, along the branches that were taken.
pub(crate) fn txn(request: &TxnRequest, response: &mut TxnResponse) {
    header(&mut response.header);
    let branch = if response.succeeded { &request.success } else { &request.failure };
    for (request, response) in branch.iter().zip(&mut response.responses) {
        match (&request.request, &mut response.response) {
            (Some(Request::RequestRange(request)), Some(Response::ResponseRange(response))) => {
                range(request, response);
            }
            (Some(Request::RequestTxn(request)), Some(Response::ResponseTxn(response))) => {
                txn(request, response)
            }
            _ => {}
        }
    }
}

/// Whether the executed branches of a transaction deleted something (see A-KV-50).
pub(crate) fn txn_deleted(response: &TxnResponse) -> bool {
    response.responses.iter().any(|response| match &response.response {
        Some(Response::ResponseDeleteRange(response)) => response.deleted > 0,
        Some(Response::ResponseTxn(response)) => txn_deleted(response),
        _ => false,
    })
}
