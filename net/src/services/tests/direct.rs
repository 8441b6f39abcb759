//! The short way: what it counts, and what it leaves to the general path.

use std::sync::Mutex;

use bytes::Bytes;
use http::HeaderMap;
use hyper_util::rt::TokioExecutor;
use tonic::Code;

use super::*;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::{PutRequest, RangeRequest};
use crate::services::Calls;

/// What was counted, in order.
#[derive(Debug, Default)]
pub(super) struct Recorder(Mutex<Counts>);

#[derive(Clone, Debug, Default)]
struct Counts {
    paths: Vec<String>,
    started: Vec<(String, usize)>,
    sent: Vec<usize>,
    handled: Vec<Code>,
}

impl Recorder {
    fn counts(&self) -> Counts {
        self.0.lock().unwrap().clone()
    }
}

impl Calls for Recorder {
    fn method(&self, path: &str) -> usize {
        let mut counts = self.0.lock().unwrap();
        counts.paths.push(path.to_owned());
        counts.paths.len() - 1
    }
    fn started(&self, method: usize, _: &HeaderMap, received_bytes: usize) {
        let mut counts = self.0.lock().unwrap();
        let path = counts.paths[method].clone();
        counts.started.push((path, received_bytes));
    }
    fn sent(&self, _: usize, bytes: usize) {
        self.0.lock().unwrap().sent.push(bytes);
    }
    fn handled(&self, _: usize, code: Code, _: Duration) {
        self.0.lock().unwrap().handled.push(code);
    }
}

fn put(value: usize) -> PutRequest {
    PutRequest { key: "k".into(), value: Bytes::from(vec![b'v'; value]), ..PutRequest::default() }
}

#[tokio::test]
async fn a_call_is_counted_once_with_its_bytes_and_its_code() {
    let served = serve().await;
    let mut kv = KvClient::new(served.channel.clone());
    kv.put(put(3)).await.unwrap();
    served.member.fail(Error::NoSpace);
    kv.put(put(3)).await.unwrap_err();
    let found = kv.range(RangeRequest { key: "k".into(), ..RangeRequest::default() }).await.unwrap();
    assert_eq!(found.into_inner().kvs[0].value, "vvv");
    let counts = served.calls.counts();
    let started: Vec<_> = counts.started.iter().map(|(path, bytes)| (path.as_str(), *bytes)).collect();
    let (put, range) = ("/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range");
    assert_eq!(started, [(put, 8), (put, 8), (range, 3)]);
    assert_eq!(counts.handled, [Code::Ok, Code::ResourceExhausted, Code::Ok]);
    assert_eq!(counts.sent.len(), 2);
}

#[tokio::test]
async fn a_message_in_several_frames_takes_the_general_path_unharmed() {
    let served = serve().await;
    let mut kv = KvClient::new(served.channel.clone());
    // Above the 16 KiB of a frame, below the limit of what is received.
    kv.put(put(200_000)).await.unwrap();
    let found = kv.range(RangeRequest { key: "k".into(), ..RangeRequest::default() }).await.unwrap();
    assert_eq!(found.into_inner().kvs[0].value, put(200_000).value);
    assert_eq!(served.calls.counts().started.len(), 1, "the range alone is small");
    let status = kv.put(put(MAX_REQUEST_BYTES + (512 << 10))).await.unwrap_err();
    assert!(status.message().starts_with("grpc: received message larger than max ("), "{status}");
}

#[tokio::test]
async fn a_deadline_ends_a_call_in_the_words_of_the_general_path() {
    let served = serve().await;
    served.member.mute();
    // tonic's client would watch over the deadline itself.
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<axum::body::Body>();
    let request = http::Request::post(format!("http://{}/etcdserverpb.KV/Put", served.address))
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "20m")
        .body(axum::body::Body::from(&b"\0\0\0\0\x03\x0a\x01k"[..]))
        .unwrap();
    let answer = client.request(request).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "4");
    assert_eq!(answer.headers()["grpc-message"], "context%20deadline%20exceeded");
    assert_eq!(served.calls.counts().handled, [Code::DeadlineExceeded]);
}
