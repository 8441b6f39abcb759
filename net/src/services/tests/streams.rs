//! Watch, keepalive, snapshot and range streams.

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Streaming};

use super::*;
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;

type Requests = mpsc::UnboundedSender<pb::WatchRequest>;

async fn watch(served: &Served, leader: bool) -> (Requests, Streaming<pb::WatchResponse>) {
    let (requests, incoming) = mpsc::unbounded_channel();
    let mut request = tonic::Request::new(UnboundedReceiverStream::new(incoming));
    if leader {
        request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    }
    let responses = WatchClient::new(served.channel.clone()).watch(request).await.unwrap().into_inner();
    (requests, responses)
}

fn ask(requests: &Requests, union: RequestUnion) {
    requests.send(pb::WatchRequest { request_union: Some(union) }).unwrap();
}

fn create(key: &str) -> RequestUnion {
    RequestUnion::CreateRequest(pb::WatchCreateRequest { key: key.to_owned().into(), ..Default::default() })
}

async fn next<T>(responses: &mut Streaming<T>) -> T {
    responses.message().await.unwrap().expect("the stream is open")
}

#[tokio::test]
async fn a_watch_stream_creates_reports_cancels_and_returns_credit() {
    let served = serve().await;
    let (requests, mut responses) = watch(&served, false).await;
    ask(&requests, create("a"));
    let created = next(&mut responses).await;
    let header = created.header.unwrap();
    assert!(created.created);
    assert_eq!((header.cluster_id, header.member_id, header.revision, header.raft_term), (11, 22, 1, 3));

    served.member.put("a", "1");
    served.member.delete("a");
    let put = next(&mut responses).await;
    assert_eq!(put.events[0].kv.as_ref().unwrap().value.as_ref(), b"1");
    let deleted = next(&mut responses).await;
    assert_eq!(deleted.events[0].r#type(), mvccpb::event::EventType::Delete);

    ask(&requests, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    assert_eq!(next(&mut responses).await.watch_id, -1);
    ask(&requests, RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 }));
    assert!(next(&mut responses).await.canceled);
    served.member.until(|state| state.credits == 5).await;

    // The client resets the stream only when it lets go of both halves.
    drop((requests, responses));
    served.member.until(|state| state.streams.is_empty()).await;
}

#[tokio::test]
async fn a_half_closed_watch_stream_goes_on() {
    let served = serve().await;
    let (requests, mut responses) = watch(&served, false).await;
    ask(&requests, create("a"));
    drop(requests);
    assert!(next(&mut responses).await.created);
    served.member.put("a", "1");
    assert_eq!(next(&mut responses).await.events.len(), 1);
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_no_credit_back() {
    let served = serve().await;
    let (requests, mut responses) = watch(&served, false).await;
    ask(&requests, create("a"));
    assert!(next(&mut responses).await.created);
    // Far more than the buffers of HTTP/2 hold.
    let value = "v".repeat(64 * 1024);
    let sent = 64;
    for _ in 0..sent {
        served.member.put("a", &value);
    }
    // The stream still takes requests while its responses are stuck, and loses none of them.
    let asked = 100;
    for _ in 0..asked {
        ask(&requests, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    }
    served.member.until(|state| state.progress > 0).await;
    assert!(served.member.state.lock().unwrap().credits < sent);
    for _ in 0..sent + asked {
        next(&mut responses).await;
    }
    served.member.until(|state| state.credits == sent + asked + 1).await;
}

#[tokio::test]
async fn a_stopping_member_ends_its_watch_streams() {
    let served = serve().await;
    let (_requests, mut responses) = watch(&served, false).await;
    served.member.until(|state| state.streams.len() == 1).await;
    served.member.state.lock().unwrap().streams.clear();
    let status = responses.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: server stopped"));
}

#[tokio::test]
async fn every_stream_ends_when_the_member_stops_serving() {
    let served = serve().await;
    served.member.state.lock().unwrap().leases.insert(1);
    let (_requests, mut watched) = watch(&served, false).await;
    let (renewals, incoming) = mpsc::unbounded_channel();
    renewals.send(pb::LeaseKeepAliveRequest { id: 1 }).unwrap();
    let mut lease = LeaseClient::new(served.channel.clone());
    let incoming = UnboundedReceiverStream::new(incoming);
    let mut renewed = lease.lease_keep_alive(incoming).await.unwrap().into_inner();
    assert_eq!(next(&mut renewed).await.ttl, 60);

    served.serving.send_replace(false);
    let stopped = (Code::Unavailable, "etcdserver: server stopped".to_owned());
    let said = |status: tonic::Status| (status.code(), status.message().to_owned());
    assert_eq!(said(watched.message().await.unwrap_err()), stopped);
    assert_eq!(said(renewed.message().await.unwrap_err()), stopped);
}

#[tokio::test]
async fn a_stream_that_requires_a_leader_ends_without_one() {
    let served = serve().await;
    let (requests, mut responses) = watch(&served, true).await;
    let (others, mut indifferent) = watch(&served, false).await;
    ask(&requests, create("a"));
    assert!(next(&mut responses).await.created);
    served.status.send_modify(|status| status.leader = 0);
    let status = responses.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: no leader"));
    // Its watcher goes with it, and a stream that requires none stays.
    served.member.until(|state| state.streams.len() == 1).await;
    ask(&others, create("a"));
    assert!(next(&mut indifferent).await.created);
    let refused = WatchClient::new(served.channel.clone())
        .watch(requiring_leader(tokio_stream::empty()))
        .await
        .unwrap_err();
    assert_eq!(refused.message(), "etcdserver: no leader");
}

#[tokio::test]
async fn keepalives_are_answered_in_order_and_an_unknown_lease_with_zero() {
    let served = serve().await;
    served.member.state.lock().unwrap().leases.extend([1, 3]);
    let requests = [1, 2, 3, 1].map(|id| pb::LeaseKeepAliveRequest { id });
    let mut lease = LeaseClient::new(served.channel.clone());
    let mut responses = lease.lease_keep_alive(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut answers = Vec::new();
    while let Some(answer) = responses.message().await.unwrap() {
        assert_eq!(answer.header.unwrap().member_id, 22);
        answers.push((answer.id, answer.ttl));
    }
    assert_eq!(answers, [(1, 60), (2, 0), (3, 60), (1, 60)]);
}

#[tokio::test]
async fn a_snapshot_arrives_in_chunks_and_ends_with_its_digest() {
    let served = serve().await;
    let mut maintenance = MaintenanceClient::new(served.channel.clone());
    let mut responses = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let mut messages = Vec::new();
    while let Some(message) = responses.message().await.unwrap() {
        assert_eq!(message.version, "3.7.0");
        messages.push((message.remaining_bytes, message.blob));
    }
    let (remaining, digest) = messages.pop().unwrap();
    assert_eq!((remaining, digest.as_ref()), (0, Sha256::digest(snapshot()).as_slice()));
    let sizes: Vec<_> = messages.iter().map(|(remaining, blob)| (*remaining, blob.len())).collect();
    assert_eq!(sizes, [(69_632, 32_768), (36_864, 32_768), (4_096, 32_768), (0, 4_096)]);
    let whole: Vec<u8> = messages.iter().flat_map(|(_, blob)| blob.iter().copied()).collect();
    assert!(whole == snapshot(), "the bytes differ");
}

#[tokio::test]
async fn a_range_stream_is_the_range_in_chunks() {
    let served = serve().await;
    for n in 0..100 {
        served.member.put(&format!("k{n:03}"), &"v".repeat(200));
    }
    let mut kv = KvClient::new(served.channel.clone());
    let all =
        |limit| pb::RangeRequest { key: "k".into(), range_end: "l".into(), limit, ..Default::default() };
    for (limit, more) in [(0, false), (100, false), (57, true), (1, true)] {
        let expected = kv.range(all(limit)).await.unwrap().into_inner();
        let mut responses = kv.range_stream(all(limit)).await.unwrap().into_inner();
        let mut chunks = Vec::new();
        while let Some(chunk) = responses.message().await.unwrap() {
            chunks.push(chunk.range_response.unwrap());
        }
        let last = chunks.last().unwrap().clone();
        assert_eq!((last.header, last.more, last.count), (expected.header, more, 100));
        assert!(chunks[..chunks.len() - 1].iter().all(|chunk| chunk.header.is_none() && chunk.count == 0));
        assert!(chunks[0].kvs.len() <= 10);
        assert!(chunks.iter().all(|chunk| chunk.kvs.len() * 200 <= MAX_REQUEST_BYTES));
        let rows: Vec<_> = chunks.into_iter().flat_map(|chunk| chunk.kvs).collect();
        assert!(rows == expected.kvs, "limit {limit}: the rows differ");
    }

    let sorted = pb::RangeRequest { sort_target: 2, ..all(0) };
    assert_eq!(kv.range_stream(sorted).await.unwrap_err().code(), Code::Unimplemented);
    let none = pb::RangeRequest { key: "x".into(), ..Default::default() };
    let mut responses = kv.range_stream(none).await.unwrap().into_inner();
    let only = next(&mut responses).await.range_response.unwrap();
    assert!(only.header.is_some() && only.kvs.is_empty() && only.count == 0);
    assert!(responses.message().await.unwrap().is_none());
}
