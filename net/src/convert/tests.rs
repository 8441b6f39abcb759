//! Requests survive the way to the wire and back, through real encoding; responses and errors carry
//! what etcd's clients look for.

use cairn_core::api::*;
use cairn_core::error::{Code as CoreCode, Error};
use cairn_core::types::KeyValue;
use prost::Message;
use tonic::Code;

use super::*;

/// Encodes and decodes, so that field numbers and types take part.
fn over_the_wire<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

fn range() -> RangeRequest {
    RangeRequest {
        key: "k".into(),
        range_end: "l".into(),
        limit: 3,
        revision: 4,
        sort_order: SortOrder::Descend,
        sort_target: SortTarget::Value,
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 5,
        max_mod_revision: 6,
        min_create_revision: 7,
        max_create_revision: 8,
    }
}

fn pair(n: i64) -> KeyValue {
    KeyValue {
        key: format!("key{n}").into(),
        create_revision: n,
        mod_revision: n + 1,
        version: n + 2,
        value: format!("value{n}").into(),
        lease: n + 3,
    }
}

#[test]
fn every_order_and_target_of_a_range_survives() {
    for sort_order in [SortOrder::None, SortOrder::Ascend, SortOrder::Descend] {
        for sort_target in
            [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value]
        {
            let request = RangeRequest { sort_order, sort_target, ..range() };
            let wire = over_the_wire(&pb::RangeRequest::from(request.clone()));
            assert_eq!(range_request(wire), Ok(request));
        }
    }
}

#[test]
fn an_unknown_order_or_target_is_an_invalid_sort_option() {
    let order = pb::RangeRequest { sort_order: 3, ..range().into() };
    assert_eq!(range_request(order), Err(Error::InvalidSortOption));
    let target = pb::RangeRequest { sort_target: -1, ..range().into() };
    assert_eq!(range_request(target), Err(Error::InvalidSortOption));
}

#[test]
fn a_transaction_survives_with_every_compare_and_every_operation() {
    let results =
        [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];
    let targets = [
        CompareTarget::Version(1),
        CompareTarget::Create(2),
        CompareTarget::Mod(3),
        CompareTarget::Value("v".into()),
        CompareTarget::Lease(-5),
    ];
    let compare: Vec<_> = results
        .into_iter()
        .flat_map(|result| targets.clone().map(|target| (result, target)))
        .map(|(result, target)| Compare { result, target, key: "k".into(), range_end: "\0".into() })
        .collect();
    let put = PutRequest {
        key: "p".into(),
        value: "v".into(),
        lease: 9,
        prev_kv: true,
        ignore_value: true,
        ignore_lease: true,
    };
    let delete = DeleteRangeRequest { key: "d".into(), range_end: "e".into(), prev_kv: true };
    let nested = TxnRequest { compare: compare.clone(), ..TxnRequest::default() };
    let txn = TxnRequest {
        compare,
        success: vec![RequestOp::Range(range()), RequestOp::Put(put)],
        failure: vec![RequestOp::DeleteRange(delete), RequestOp::Txn(nested)],
    };
    assert_eq!(txn_request(over_the_wire(&pb::TxnRequest::from(txn.clone()))), Ok(txn));
}

#[test]
fn an_operation_without_a_request_is_key_not_found_at_any_depth() {
    let empty = pb::RequestOp { request: None };
    let txn = pb::TxnRequest { success: vec![empty.clone()], ..pb::TxnRequest::default() };
    assert_eq!(txn_request(txn.clone()), Err(Error::KeyNotFound));
    let nested = pb::RequestOp { request: Some(pb::request_op::Request::RequestTxn(txn)) };
    assert_eq!(request_op(nested), Err(Error::KeyNotFound));
}

#[test]
fn a_compare_without_its_own_union_compares_with_zero() {
    let wire = pb::Compare {
        target: pb::compare::CompareTarget::Create.into(),
        target_union: Some(pb::compare::TargetUnion::Version(7)),
        ..pb::Compare::default()
    };
    assert_eq!(compare(wire).map(|compare| compare.target), Ok(CompareTarget::Create(0)));
    let wire = pb::Compare { target: pb::compare::CompareTarget::Value.into(), ..pb::Compare::default() };
    assert_eq!(compare(wire).map(|compare| compare.target), Ok(CompareTarget::Value("".into())));
    assert!(compare(pb::Compare { target: 5, ..pb::Compare::default() }).is_err());
    assert!(compare(pb::Compare { result: 4, ..pb::Compare::default() }).is_err());
}

#[test]
fn a_watcher_and_an_alarm_survive() {
    let create = WatchCreateRequest {
        key: "a".into(),
        range_end: "b".into(),
        start_revision: -1,
        progress_notify: true,
        filters: vec![WatchFilter::NoDelete, WatchFilter::NoPut],
        prev_kv: true,
        watch_id: 7,
        fragment: true,
    };
    let mut wire = over_the_wire(&pb::WatchCreateRequest::from(create.clone()));
    wire.filters.push(9);
    assert_eq!(watch_create_request(wire), create);

    for action in [AlarmAction::Get, AlarmAction::Activate, AlarmAction::Deactivate] {
        for alarm in [None, Some(AlarmKind::NoSpace), Some(AlarmKind::Corrupt)] {
            let request = AlarmRequest { action, member_id: 3, alarm };
            assert_eq!(alarm_request(over_the_wire(&pb::AlarmRequest::from(request.clone()))), Ok(request));
        }
    }
    assert!(alarm_request(pb::AlarmRequest { action: 3, ..pb::AlarmRequest::default() }).is_err());
    assert!(alarm_request(pb::AlarmRequest { alarm: 3, ..pb::AlarmRequest::default() }).is_err());
}

#[test]
fn a_member_survives() {
    let one = Member {
        id: u64::MAX,
        name: "n".into(),
        peer_urls: vec!["http://p:1".into()],
        client_urls: vec!["http://c:1".into(), "http://c:2".into()],
        is_learner: true,
    };
    assert_eq!(Member::from(over_the_wire(&member(one.clone()))), one);
}

#[test]
fn a_transactions_inner_responses_carry_what_they_are_given() {
    let top = Header { cluster_id: 1, member_id: 2, revision: 3, raft_term: 4 };
    let response = TxnResponse {
        revision: 3,
        succeeded: true,
        responses: vec![
            ResponseOp::Range(RangeResponse { kvs: vec![pair(1)], more: true, count: 9 }),
            ResponseOp::Put(PutResponse { prev_kv: Some(pair(2)) }),
            ResponseOp::DeleteRange(DeleteRangeResponse { deleted: 2, prev_kvs: vec![pair(3), pair(4)] }),
            ResponseOp::Txn(TxnResponse { revision: 3, succeeded: true, responses: vec![] }),
        ],
    };
    let wire = over_the_wire(&txn_response(top, response));
    assert_eq!(wire.header, Some(header(top)));
    assert!(wire.succeeded);
    use pb::response_op::Response::*;
    let ops: Vec<_> = wire.responses.into_iter().map(|op| op.response.unwrap()).collect();
    let [ResponseRange(rows), ResponsePut(put), ResponseDeleteRange(deleted), ResponseTxn(txn)] =
        ops.as_slice()
    else {
        panic!("the responses changed their kinds: {ops:?}");
    };
    assert_eq!((rows.more, rows.count), (true, 9));
    assert_eq!(rows.kvs, [key_value(pair(1))]);
    assert_eq!(put.prev_kv, Some(key_value(pair(2))));
    assert_eq!(deleted.deleted, 2);
    assert_eq!(deleted.prev_kvs, [key_value(pair(3)), key_value(pair(4))]);
    assert!(txn.succeeded);
}

/// The header revisions inside a transaction, depth first; `None` for a nested transaction's own.
fn inner_revisions(responses: Vec<ResponseOp>, revision: i64) -> Vec<Option<i64>> {
    fn walk(responses: Vec<pb::ResponseOp>, out: &mut Vec<Option<i64>>) {
        use pb::response_op::Response::*;
        for op in responses {
            let header = match op.response.unwrap() {
                ResponseRange(range) => range.header,
                ResponsePut(put) => put.header,
                ResponseDeleteRange(delete) => delete.header,
                ResponseTxn(txn) => {
                    assert_eq!(txn.header, Some(pb::ResponseHeader::default()));
                    out.push(None);
                    walk(txn.responses, out);
                    continue;
                }
            };
            let header = header.unwrap();
            assert_eq!((header.cluster_id, header.member_id, header.raft_term), (0, 0, 0));
            out.push(Some(header.revision));
        }
    }
    let top = Header { cluster_id: 1, member_id: 2, revision, raft_term: 4 };
    let wire = txn_response(top, TxnResponse { revision, succeeded: true, responses });
    let mut out = Vec::new();
    walk(wire.responses, &mut out);
    out
}

#[test]
fn a_transactions_inner_headers_change_their_revision_at_the_first_change() {
    let range = || ResponseOp::Range(RangeResponse::default());
    let deleted = |deleted| ResponseOp::DeleteRange(DeleteRangeResponse { deleted, prev_kvs: vec![] });
    let put = || ResponseOp::Put(PutResponse::default());
    let txn = |responses| ResponseOp::Txn(TxnResponse { revision: 3, succeeded: true, responses });
    // The same transaction as a real etcd answered it.
    assert_eq!(
        inner_revisions(vec![range(), deleted(0), txn(vec![range(), put(), deleted(0)]), range()], 3),
        [Some(2), Some(2), None, Some(2), Some(3), Some(3), Some(3)]
    );
    assert_eq!(inner_revisions(vec![range(), deleted(1)], 3), [Some(2), Some(3)]);
    // Nothing changes: the revision is the store's throughout.
    assert_eq!(inner_revisions(vec![range(), deleted(0), txn(vec![range()])], 3)[..2], [Some(3), Some(3)]);
}

#[test]
fn every_error_goes_out_with_etcds_text_and_code() {
    // The table of etcd's client library, written out again: a change on either side must show.
    for (error, code, text) in [
        (Error::EmptyKey, Code::InvalidArgument, "etcdserver: key is not provided"),
        (Error::KeyNotFound, Code::InvalidArgument, "etcdserver: key not found"),
        (Error::ValueProvided, Code::InvalidArgument, "etcdserver: value is provided"),
        (Error::LeaseProvided, Code::InvalidArgument, "etcdserver: lease is provided"),
        (Error::TooManyOps, Code::InvalidArgument, "etcdserver: too many operations in txn request"),
        (Error::DuplicateKey, Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
        (Error::InvalidSortOption, Code::InvalidArgument, "etcdserver: invalid sort option"),
        (Error::Compacted, Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
        (Error::FutureRevision, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
        (Error::NoSpace, Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        (Error::LeaseNotFound, Code::NotFound, "etcdserver: requested lease not found"),
        (Error::LeaseExists, Code::FailedPrecondition, "etcdserver: lease already exists"),
        (Error::LeaseTtlTooLarge, Code::OutOfRange, "etcdserver: too large lease TTL"),
        (Error::WatchCanceled, Code::Cancelled, "etcdserver: watch canceled"),
        (Error::MemberExists, Code::FailedPrecondition, "etcdserver: member ID already exist"),
        (Error::PeerUrlExists, Code::FailedPrecondition, "etcdserver: Peer URLs already exists"),
        (
            Error::MemberNotEnoughStarted,
            Code::FailedPrecondition,
            "etcdserver: re-configuration failed due to not enough started members",
        ),
        (Error::MemberBadUrls, Code::InvalidArgument, "etcdserver: given member URLs are invalid"),
        (Error::MemberNotFound, Code::NotFound, "etcdserver: member not found"),
        (Error::MemberNotLearner, Code::FailedPrecondition, "etcdserver: can only promote a learner member"),
        (
            Error::LearnerNotReady,
            Code::FailedPrecondition,
            "etcdserver: can only promote a learner member which is in sync with leader",
        ),
        (Error::TooManyLearners, Code::FailedPrecondition, "etcdserver: too many learner members in cluster"),
        (Error::RequestTooLarge, Code::InvalidArgument, "etcdserver: request is too large"),
        (Error::TooManyRequests, Code::ResourceExhausted, "etcdserver: too many requests"),
        (Error::AuthNotEnabled, Code::FailedPrecondition, "etcdserver: authentication is not enabled"),
        (Error::NoLeader, Code::Unavailable, "etcdserver: no leader"),
        (Error::NotLeader, Code::FailedPrecondition, "etcdserver: not leader"),
        (Error::LeaderChanged, Code::Unavailable, "etcdserver: leader changed"),
        (Error::NotCapable, Code::FailedPrecondition, "etcdserver: not capable"),
        (Error::Stopped, Code::Unavailable, "etcdserver: server stopped"),
        (Error::Timeout, Code::Unavailable, "etcdserver: request timed out"),
        (
            Error::TimeoutLeaderFail,
            Code::Unavailable,
            "etcdserver: request timed out, possibly due to previous leader failure",
        ),
        (
            Error::TimeoutConnectionLost,
            Code::Unavailable,
            "etcdserver: request timed out, possibly due to connection lost",
        ),
        (
            Error::TimeoutLeaderTransfer,
            Code::Unavailable,
            "etcdserver: request timed out, leader transfer took too long",
        ),
        (
            Error::TimeoutWaitAppliedIndex,
            Code::Unavailable,
            "etcdserver: request timed out, waiting for the applied index took too long",
        ),
        (Error::Unhealthy, Code::Unavailable, "etcdserver: unhealthy cluster"),
        (Error::Corrupt, Code::DataLoss, "etcdserver: corrupt cluster"),
        (
            Error::NotSupportedForLearner,
            Code::FailedPrecondition,
            "etcdserver: rpc not supported for learner",
        ),
        (Error::BadLeaderTransferee, Code::FailedPrecondition, "etcdserver: bad leader transferee"),
        (Error::ClusterIdMismatch, Code::FailedPrecondition, "etcdserver: cluster ID mismatch"),
        (Error::Other("as it is".into()), Code::Unknown, "as it is"),
    ] {
        let status = status(error);
        assert_eq!((status.code(), status.message()), (code, text));
    }
}

#[test]
fn code_numbers_are_grpcs() {
    for (core, grpc) in [
        (CoreCode::Canceled, Code::Cancelled),
        (CoreCode::DeadlineExceeded, Code::DeadlineExceeded),
        (CoreCode::PermissionDenied, Code::PermissionDenied),
        (CoreCode::Unimplemented, Code::Unimplemented),
        (CoreCode::Unauthenticated, Code::Unauthenticated),
    ] {
        assert_eq!(Code::from_i32(core as i32), grpc);
    }
}
