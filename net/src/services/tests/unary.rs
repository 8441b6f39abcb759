//! Methods with one request and one response, and the rules that hold for all of them.

use cairn_core::api::{AlarmKind, AlarmMember, Member, Request, ResponseBody};
use cairn_core::error::Error;
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;

use super::*;
use crate::proto::etcdserverpb as pb;
use crate::proto::health::HealthCheckRequest;
use crate::proto::health::health_client::HealthClient;
use pb::auth_client::AuthClient;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;

fn told<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (status.code(), status.message().to_owned())
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

#[tokio::test]
async fn a_key_is_written_read_and_deleted() {
    let served = serve().await;
    let mut kv = KvClient::new(served.channel);
    let reply = kv.put(put("a", "1")).await.unwrap().into_inner();
    let header = reply.header.unwrap();
    assert_eq!((header.cluster_id, header.member_id, header.revision, header.raft_term), (11, 22, 2, 3));

    let rows = kv.range(get("a")).await.unwrap().into_inner();
    assert_eq!((rows.count, rows.more), (1, false));
    assert_eq!((rows.kvs[0].value.as_ref(), rows.kvs[0].create_revision), (b"1".as_slice(), 2));

    let delete = pb::DeleteRangeRequest { key: "a".into(), ..Default::default() };
    assert_eq!(kv.delete_range(delete).await.unwrap().into_inner().deleted, 1);

    let ops = vec![pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put("b", "2"))) }];
    let txn = kv.txn(pb::TxnRequest { success: ops, ..Default::default() }).await.unwrap().into_inner();
    assert!(txn.succeeded && txn.responses.len() == 1);
    assert_eq!(served.member.keys(), ["b"]);

    served.member.answer(ResponseBody::Compact);
    kv.compact(pb::CompactionRequest { revision: 2, physical: true }).await.unwrap();
    assert_eq!(served.member.last_request(), Request::Compact { revision: 2, physical: true });
}

#[tokio::test]
async fn errors_reach_the_client_as_etcd_sends_them() {
    let served = serve().await;
    let mut kv = KvClient::new(served.channel.clone());
    served.member.fail(Error::Compacted);
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!(told(kv.range(get("a")).await), (Code::OutOfRange, compacted.into()));

    let unsorted = pb::RangeRequest { sort_order: 7, ..get("a") };
    let expected = (Code::InvalidArgument, "etcdserver: invalid sort option".into());
    assert_eq!(told(kv.range(unsorted).await), expected);

    let txn = pb::TxnRequest { failure: vec![pb::RequestOp { request: None }], ..Default::default() };
    let expected = (Code::InvalidArgument, "etcdserver: key not found".into());
    assert_eq!(told(kv.txn(txn).await), expected);

    // A reply to another question is a bug of the driver; it must not look like an answer.
    served.member.answer(ResponseBody::MoveLeader);
    assert_eq!(told(kv.range(get("a")).await).0, Code::Internal);
}

#[tokio::test]
async fn grpcs_own_refusals_use_grpc_gos_words() {
    let served = serve().await;
    let mut kv = KvClient::new(served.channel.clone());
    let limit = MAX_REQUEST_BYTES + 512 * 1024;
    let fits = "v".repeat(limit - 100);
    kv.put(put("k", &fits)).await.unwrap();
    let (code, text) = told(kv.put(put("k", &"v".repeat(limit))).await);
    assert_eq!(code, Code::ResourceExhausted);
    assert_eq!(text, format!("grpc: received message larger than max ({} vs. {limit})", limit + 7));

    for (path, text) in [
        ("/etcdserverpb.KV/Nope", "unknown method Nope for service etcdserverpb.KV"),
        ("/some.Thing/Nope", "unknown service some.Thing"),
    ] {
        let mut client = tonic::client::Grpc::new(served.channel.clone());
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<pb::RangeRequest, pb::RangeResponse>::default();
        let reply = client.unary(tonic::Request::new(get("a")), PathAndQuery::from_static(path), codec).await;
        assert_eq!(told(reply), (Code::Unimplemented, text.into()));
    }
}

#[tokio::test]
async fn a_learner_serves_status_and_serializable_ranges_only() {
    let served = serve().await;
    served.status.send_modify(|status| status.is_learner = true);
    let refused = (Code::FailedPrecondition, "etcdserver: rpc not supported for learner".to_owned());
    let mut kv = KvClient::new(served.channel.clone());
    assert_eq!(told(kv.put(put("a", "1")).await), refused);
    assert_eq!(told(kv.range(get("a")).await), refused);
    kv.range(pb::RangeRequest { serializable: true, ..get("a") }).await.unwrap();
    MaintenanceClient::new(served.channel.clone()).status(pb::StatusRequest {}).await.unwrap();
    let list = ClusterClient::new(served.channel).member_list(pb::MemberListRequest::default()).await;
    assert_eq!(told(list), refused);
}

#[tokio::test]
async fn a_client_that_requires_a_leader_is_refused_without_one() {
    let served = serve().await;
    let mut kv = KvClient::new(served.channel);
    kv.range(requiring_leader(get("a"))).await.unwrap();
    served.status.send_modify(|status| status.leader = 0);
    let refused = (Code::Unavailable, "etcdserver: no leader".to_owned());
    assert_eq!(told(kv.range(requiring_leader(get("a"))).await), refused);
    kv.range(get("a")).await.unwrap();
}

#[tokio::test]
async fn cluster_replies_carry_members_and_no_revision() {
    let served = serve().await;
    let mut cluster = ClusterClient::new(served.channel);
    let member = Member { id: 5, peer_urls: vec!["http://p:1".into()], ..Member::default() };
    let members = vec![member.clone()];

    served.member.answer(ResponseBody::Members { members: members.clone() });
    let list = cluster.member_list(pb::MemberListRequest { linearizable: true }).await.unwrap().into_inner();
    assert_eq!(list.header.unwrap().revision, 0);
    assert_eq!(list.members, [crate::convert::member(member.clone())]);
    assert_eq!(served.member.last_request(), Request::MemberList { linearizable: true });

    served.member.answer(ResponseBody::MemberAdd { member, members: members.clone() });
    let add = pb::MemberAddRequest { peer_ur_ls: vec!["http://p:1".into()], is_learner: true };
    let added = cluster.member_add(add).await.unwrap().into_inner();
    assert_eq!((added.member.unwrap().id, added.members.len()), (5, 1));
    let Request::MemberAdd { peer_urls, is_learner: true, unix_seconds } = served.member.last_request()
    else {
        panic!("another request went out");
    };
    assert_eq!(peer_urls, ["http://p:1"]);
    assert!(unix_seconds > 1_700_000_000);

    served.member.answer(ResponseBody::Members { members: members.clone() });
    cluster.member_update(pb::MemberUpdateRequest { id: 5, peer_ur_ls: vec!["u".into()] }).await.unwrap();
    let update = Request::MemberUpdate { id: 5, peer_urls: vec!["u".into()] };
    assert_eq!(served.member.last_request(), update);
    served.member.answer(ResponseBody::Members { members: members.clone() });
    cluster.member_promote(pb::MemberPromoteRequest { id: 5 }).await.unwrap();
    assert_eq!(served.member.last_request(), Request::MemberPromote { id: 5 });
    served.member.answer(ResponseBody::Members { members });
    cluster.member_remove(pb::MemberRemoveRequest { id: 5 }).await.unwrap();
    assert_eq!(served.member.last_request(), Request::MemberRemove { id: 5 });
}

#[tokio::test]
async fn maintenance_answers_and_refuses() {
    let served = serve().await;
    let mut maintenance = MaintenanceClient::new(served.channel);
    let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.version.as_str(), status.storage_version.as_str()), ("3.7.1", "3.7.0"));
    assert_eq!(status.leader, 22);

    let alarms = vec![AlarmMember { member_id: 9, alarm: AlarmKind::Corrupt }];
    served.member.answer(ResponseBody::Alarm { alarms });
    let reply = maintenance.alarm(pb::AlarmRequest::default()).await.unwrap().into_inner();
    assert_eq!((reply.alarms[0].member_id, reply.alarms[0].alarm()), (9, pb::AlarmType::Corrupt));

    served.member.answer(ResponseBody::HashKv { hash: 1, compact_revision: 2, hash_revision: 3 });
    let hash = maintenance.hash_kv(pb::HashKvRequest { revision: 4 }).await.unwrap().into_inner();
    assert_eq!((hash.hash, hash.compact_revision, hash.hash_revision), (1, 2, 3));
    assert_eq!(served.member.last_request(), Request::HashKv { revision: 4 });

    served.member.fail(Error::NotLeader);
    let moved = maintenance.move_leader(pb::MoveLeaderRequest { target_id: 8 }).await;
    assert_eq!(told(moved), (Code::FailedPrecondition, "etcdserver: not leader".into()));

    let downgrade = |action, version: &str| pb::DowngradeRequest { action, version: version.into() };
    for (request, code, text) in [
        (
            downgrade(0, "nonsense"),
            Code::InvalidArgument,
            "etcdserver: wrong downgrade target version format",
        ),
        (downgrade(1, "3.6"), Code::InvalidArgument, "etcdserver: invalid downgrade target version"),
        (downgrade(2, ""), Code::FailedPrecondition, "etcdserver: no inflight downgrade job"),
    ] {
        assert_eq!(told(maintenance.downgrade(request).await), (code, text.into()));
    }
}

#[tokio::test]
async fn leases_are_granted_revoked_and_described() {
    let served = serve().await;
    let mut lease = LeaseClient::new(served.channel);
    let granted = lease.lease_grant(pb::LeaseGrantRequest { id: 7, ttl: 30 }).await.unwrap().into_inner();
    assert_eq!((granted.id, granted.ttl, granted.error.as_str()), (7, 30, ""));

    let keys = vec!["k".into()];
    served.member.answer(ResponseBody::LeaseTimeToLive { id: 7, ttl: 5, granted_ttl: 30, keys });
    let request = pb::LeaseTimeToLiveRequest { id: 7, keys: true };
    let left = lease.lease_time_to_live(request).await.unwrap().into_inner();
    assert_eq!((left.ttl, left.granted_ttl, left.keys.len()), (5, 30, 1));

    served.member.answer(ResponseBody::LeaseLeases { leases: vec![7, 8] });
    let leases = lease.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap().into_inner().leases;
    assert_eq!(leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), [7, 8]);

    lease.lease_revoke(pb::LeaseRevokeRequest { id: 7 }).await.unwrap();
    let missing = (Code::NotFound, "etcdserver: requested lease not found".to_owned());
    assert_eq!(told(lease.lease_revoke(pb::LeaseRevokeRequest { id: 7 }).await), missing);
}

#[tokio::test]
async fn authentication_is_off_and_says_so() {
    let served = serve().await;
    let mut auth = AuthClient::new(served.channel);
    let status = auth.auth_status(pb::AuthStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.enabled, status.auth_revision, status.header.unwrap().revision), (false, 1, 1));
    let off = (Code::FailedPrecondition, "etcdserver: authentication is not enabled".to_owned());
    assert_eq!(told(auth.authenticate(pb::AuthenticateRequest::default()).await), off);
    let cut = (Code::Unimplemented, "cairn: authentication is not available yet".to_owned());
    assert_eq!(told(auth.auth_enable(pb::AuthEnableRequest {}).await), cut);
    assert_eq!(told(auth.user_add(pb::AuthUserAddRequest::default()).await), cut);
    auth.auth_disable(pb::AuthDisableRequest {}).await.unwrap();
    assert!(auth.user_list(pb::AuthUserListRequest {}).await.unwrap().into_inner().users.is_empty());
}

#[tokio::test]
async fn health_follows_the_switch() {
    let served = serve().await;
    let mut health = HealthClient::new(served.channel);
    let whole = HealthCheckRequest::default();
    assert_eq!(health.check(whole.clone()).await.unwrap().into_inner().status, 1);
    let mut changes = health.watch(whole.clone()).await.unwrap().into_inner();
    assert_eq!(changes.message().await.unwrap().unwrap().status, 1);
    let other = HealthCheckRequest { service: "x".into() };
    assert_eq!(told(health.check(other.clone()).await), (Code::NotFound, "unknown service".into()));
    let mut unknown = health.watch(other).await.unwrap().into_inner();
    assert_eq!(unknown.message().await.unwrap().unwrap().status, 3);

    served.serving.send_replace(false);
    assert_eq!(changes.message().await.unwrap().unwrap().status, 2);
    assert_eq!(health.check(whole).await.unwrap().into_inner().status, 2);
    // A member that stops leaves no stream open.
    assert!(changes.message().await.unwrap().is_none());
    assert!(unknown.message().await.unwrap().is_none());
}
