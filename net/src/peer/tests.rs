//! Two members on loopback: order, restart, overflow, resumed snapshots, refused routes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cairn_core::types::MemberId;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::service::Routes;

use super::*;
use crate::listener::{Listener, ListenerOptions, Serving, SocketOptions};

#[derive(Debug, PartialEq)]
enum Event {
    Message(MemberId, Bytes),
    Unreachable(MemberId),
    Lost(MemberId),
    Connected(MemberId),
    Removed,
    Snapshot(Vec<Bytes>),
}

struct Member {
    events: mpsc::UnboundedSender<Event>,
    removed: Mutex<BTreeSet<MemberId>>,
    /// Closes the listener when this chunk is stored: a transfer that is cut in the middle.
    cut_at: Mutex<Option<(u64, Serving)>>,
    offers: Mutex<u32>,
}

struct Sink {
    member: Arc<Member>,
    runtime: Handle,
    chunks: Vec<Bytes>,
}

impl SnapshotSink for Sink {
    fn resume_at(&self) -> u64 {
        self.chunks.len() as u64
    }

    fn chunk(&mut self, seq: u64, payload: Bytes) -> Result<(), String> {
        assert_eq!(seq, self.resume_at());
        self.chunks.push(payload);
        let cut = self.member.cut_at.lock().unwrap().take_if(|(at, _)| *at == seq);
        if let Some((_, serving)) = cut {
            self.runtime.block_on(serving.shutdown(Duration::ZERO));
        }
        Ok(())
    }

    fn finish(self: Box<Self>, total_crc: u32) -> Result<(), String> {
        if crc32fast::hash(&self.chunks.concat()) != total_crc {
            return Err("bad total checksum".to_owned());
        }
        let _ = self.member.events.send(Event::Snapshot(self.chunks));
        Ok(())
    }
}

struct Shared(Arc<Member>);

impl PeerEvents for Shared {
    fn messages(&self, from: MemberId, messages: Vec<Bytes>) {
        for bytes in messages {
            let _ = self.0.events.send(Event::Message(from, bytes));
        }
    }
    fn unreachable(&self, to: MemberId) {
        let _ = self.0.events.send(Event::Unreachable(to));
    }
    fn lost(&self, peer: MemberId) {
        let _ = self.0.events.send(Event::Lost(peer));
    }
    fn connected(&self, to: MemberId) {
        let _ = self.0.events.send(Event::Connected(to));
    }
    fn removed(&self) {
        let _ = self.0.events.send(Event::Removed);
    }
    fn is_removed(&self, id: MemberId) -> bool {
        self.0.removed.lock().unwrap().contains(&id)
    }
    fn begin_snapshot(&self, _: MemberId, _: Bytes) -> Result<Box<dyn SnapshotSink>, String> {
        *self.0.offers.lock().unwrap() += 1;
        Ok(Box::new(Sink { member: self.0.clone(), runtime: Handle::current(), chunks: Vec::new() }))
    }
    fn call(&self, from: MemberId, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async move { Ok(Bytes::from([&[from as u8], &body[..]].concat())) })
    }
}

struct Site {
    member: Arc<Member>,
    events: mpsc::UnboundedReceiver<Event>,
    transport: Transport,
}

fn site_of(config: PeerConfig) -> Site {
    let (sender, events) = mpsc::unbounded_channel();
    let member = Arc::new(Member {
        events: sender,
        removed: Mutex::default(),
        cut_at: Mutex::default(),
        offers: Mutex::default(),
    });
    let transport = Transport::new(config, Arc::new(Shared(member.clone())), Handle::current());
    Site { member, events, transport }
}

fn site(id: MemberId) -> Site {
    site_of(PeerConfig::new(7, id))
}

impl Site {
    /// Serves on `url`, or on a free port, and says where.
    fn serve(&self, url: &str) -> (Serving, String) {
        let listener = Listener::bind(url, &SocketOptions::default()).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let routes = Routes::new(self.transport.service().into_server());
        let serving = listener.serve(axum::Router::new(), routes, ListenerOptions::default()).unwrap();
        (serving, url)
    }

    async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the member lives");
                if wanted(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the event came")
    }
}

const ANY: &str = "http://127.0.0.1:0";

#[tokio::test]
async fn messages_arrive_in_order_and_calls_are_answered() {
    let (mut a, mut b) = (site(1), site(2));
    let (_serving, url) = b.serve(ANY);
    // The first URL answers nothing: the next is tried.
    a.transport.set_peer(2, vec!["http://127.0.0.1:1".to_owned(), url]);
    a.until(|event| *event == Event::Connected(2)).await;
    assert!(a.transport.active_since(2).is_some());
    for number in 0..1000u32 {
        a.transport.send(2, Bytes::copy_from_slice(&number.to_be_bytes()));
    }
    for number in 0..1000u32 {
        let event = b.until(|_| true).await;
        assert_eq!(event, Event::Message(1, Bytes::copy_from_slice(&number.to_be_bytes())));
    }
    a.transport.send_urgent(2, Bytes::from_static(b"urgent"));
    b.until(|event| *event == Event::Message(1, Bytes::from_static(b"urgent"))).await;
    let answer = a.transport.call(2, Bytes::from_static(b"?"), Duration::from_secs(5)).await.unwrap();
    assert_eq!(&answer[..], [1, b'?']);
    a.transport.remove_peer(2);
    assert!(a.transport.active_since(2).is_none());
}

#[tokio::test]
async fn what_waits_for_a_peer_is_sent_though_it_is_removed_meanwhile() {
    let (mut a, mut b) = (site(1), site(2));
    let (_serving, url) = b.serve(ANY);
    for round in 0..30u8 {
        a.transport.set_peer(2, vec![url.clone()]);
        a.until(|event| *event == Event::Connected(2)).await;
        a.transport.send_urgent(2, Bytes::copy_from_slice(&[round]));
        a.transport.remove_peer(2);
        b.until(|event| *event == Event::Message(1, Bytes::copy_from_slice(&[round]))).await;
    }
}

#[tokio::test]
async fn reconnects_when_the_server_side_restarts() {
    let (mut a, mut b) = (site(1), site(2));
    let (serving, url) = b.serve(ANY);
    a.transport.set_peer(2, vec![url.clone()]);
    a.until(|event| *event == Event::Connected(2)).await;
    serving.shutdown(Duration::ZERO).await;
    a.until(|event| *event == Event::Unreachable(2)).await;
    let (_serving, _) = b.serve(&url);
    a.until(|event| *event == Event::Connected(2)).await;
    a.transport.send(2, Bytes::from_static(b"again"));
    b.until(|event| *event == Event::Message(1, Bytes::from_static(b"again"))).await;
}

#[tokio::test]
async fn a_connection_that_broke_is_redialled_at_once_whatever_the_pause_had_become() {
    let long = Duration::from_secs(600);
    let mut a = site_of(PeerConfig { backoff_min: long, backoff_max: long, ..PeerConfig::new(7, 1) });
    let b = site(2);
    a.transport.set_peer(2, vec!["http://127.0.0.1:1".to_owned()]);
    a.until(|event| *event == Event::Unreachable(2)).await;
    let (serving, url) = b.serve(ANY);
    a.transport.set_peer(2, vec![url]);
    a.until(|event| *event == Event::Connected(2)).await;
    serving.shutdown(Duration::ZERO).await;
    // It broke; and it could not be made again.
    a.until(|event| *event == Event::Unreachable(2)).await;
    a.until(|event| *event == Event::Unreachable(2)).await;
}

#[tokio::test]
async fn a_peer_that_comes_back_is_dialled_as_soon_as_it_dials() {
    let long = Duration::from_secs(600);
    let mut a = site_of(PeerConfig { backoff_min: long, backoff_max: long, ..PeerConfig::new(7, 1) });
    let b = site(2);
    let (_to_a, url_a) = a.serve(ANY);
    let (down, url_b) = b.serve(ANY);
    down.shutdown(Duration::ZERO).await;
    a.transport.set_peer(2, vec![url_b.clone()]);
    a.until(|event| *event == Event::Unreachable(2)).await;
    let (_to_b, _) = b.serve(&url_b);
    b.transport.set_peer(1, vec![url_a]);
    a.until(|event| *event == Event::Connected(2)).await;
}

#[tokio::test]
async fn a_peer_is_lost_when_nothing_connects_it_any_more() {
    let (mut a, mut b) = (site(1), site(2));
    let (from_b, url_a) = a.serve(ANY);
    let (from_a, url_b) = b.serve(ANY);
    a.transport.set_peer(2, vec![url_b]);
    b.transport.set_peer(1, vec![url_a]);
    a.until(|event| *event == Event::Connected(2)).await;
    b.until(|event| *event == Event::Connected(1)).await;

    // Our connection breaks and is refused, but the peer's stands.
    from_a.shutdown(Duration::ZERO).await;
    a.until(|event| *event == Event::Unreachable(2)).await;
    a.until(|event| *event == Event::Unreachable(2)).await;
    b.transport.send(1, Bytes::from_static(b"alive"));
    a.until(|event| match event {
        Event::Lost(_) => panic!("the peer is there"),
        event => *event == Event::Message(2, Bytes::from_static(b"alive")),
    })
    .await;
    b.transport.stop();
    a.until(|event| *event == Event::Lost(2)).await;
    from_b.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn overflow_drops_and_reports() {
    let mut a = site_of(PeerConfig { queue_messages_max: 2, ..PeerConfig::new(7, 1) });
    // Without a URL nothing is dialled, so only the full queue can say "unreachable".
    a.transport.set_peer(2, Vec::new());
    for _ in 0..2 {
        a.transport.send(2, Bytes::from_static(b"x"));
    }
    assert!(a.events.try_recv().is_err());
    a.transport.send(2, Bytes::from_static(b"x"));
    assert_eq!(a.events.try_recv().unwrap(), Event::Unreachable(2));
    let oversize = Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]);
    a.transport.send_urgent(2, oversize);
    assert_eq!(a.events.try_recv().unwrap(), Event::Unreachable(2));
}

#[tokio::test]
async fn other_clusters_and_members_are_refused() {
    let b = site(2);
    let (_serving, url) = b.serve(ANY);
    for (config, to, text) in [
        (PeerConfig::new(8, 1), 2, "cluster ID mismatch"),
        (PeerConfig::new(7, 1), 3, "member ID mismatch"),
        (PeerConfig::new(7, 2), 2, "cannot be the sender's"),
    ] {
        let channel = transport::dial(&config, &url).await.unwrap();
        let request = route::routed(&config, to, futures::stream::pending());
        let status = transport::client(channel).messages(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert!(status.message().contains(text), "{status}");
    }
    let mut stranger = site_of(PeerConfig::new(8, 1));
    stranger.transport.set_peer(2, vec![url]);
    let first = stranger.until(|event| !matches!(event, Event::Message(..))).await;
    assert_eq!(first, Event::Unreachable(2));
}

#[tokio::test]
async fn a_removed_member_learns_so_even_on_an_open_stream() {
    let (mut a, b) = (site(1), site(2));
    let (_serving, url) = b.serve(ANY);
    a.transport.set_peer(2, vec![url]);
    a.until(|event| *event == Event::Connected(2)).await;
    b.member.removed.lock().unwrap().insert(1);
    a.transport.send(2, Bytes::from_static(b"x"));
    a.until(|event| *event == Event::Removed).await;
}

fn pieces(count: u8) -> Vec<Bytes> {
    (0..count).map(|number| Bytes::from(vec![number; 100_000])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_resumes_after_a_cut() {
    let (a, mut b) = (site(1), site(2));
    let (serving, url) = b.serve(ANY);
    *b.member.cut_at.lock().unwrap() = Some((13, serving));
    a.transport.set_peer(2, vec![url.clone()]);
    let (done, mut outcome) = mpsc::unbounded_channel();
    let report = Box::new(move |result| done.send(result).unwrap());
    let source = Box::new(pieces(40).into_iter().map(Ok));
    a.transport.send_snapshot(2, Bytes::from_static(b"header"), source, report);
    // The receiver comes back on the same port once its old listener is gone.
    let service = b.transport.service().into_server();
    let restart = async {
        loop {
            let cut = b.member.cut_at.lock().unwrap().is_none();
            if cut && let Ok(listener) = Listener::bind(&url, &SocketOptions::default()) {
                let http = axum::Router::new();
                return listener.serve(http, Routes::new(service), ListenerOptions::default()).unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    let _serving = tokio::time::timeout(Duration::from_secs(20), restart).await.unwrap();
    let result = tokio::time::timeout(Duration::from_secs(20), outcome.recv()).await.unwrap();
    assert_eq!(result.unwrap(), Ok(()));
    let event = b.until(|event| matches!(event, Event::Snapshot(_))).await;
    assert_eq!(event, Event::Snapshot(pieces(40)));
    assert_eq!(*b.member.offers.lock().unwrap(), 1, "the sink of the first attempt was resumed");
}

#[tokio::test]
async fn a_snapshot_goes_through_and_a_bad_source_is_reported() {
    let (a, mut b) = (site(1), site(2));
    let (_serving, url) = b.serve(ANY);
    a.transport.set_peer(2, vec![url]);
    let (done, mut outcome) = mpsc::unbounded_channel();
    for (source, expected) in [
        (pieces(20).into_iter().map(Ok).collect::<Vec<_>>(), Ok(())),
        (vec![Ok(Bytes::new()), Err("disk".to_owned())], Err("disk".to_owned())),
        (
            vec![Ok(Bytes::from(vec![0; CHUNK_BYTES_MAX + 1]))],
            Err("snapshot chunk 0 is too large".to_owned()),
        ),
    ] {
        let done = done.clone();
        let report = Box::new(move |result| done.send(result).unwrap());
        a.transport.send_snapshot(2, Bytes::from_static(b"h"), Box::new(source.into_iter()), report);
        assert_eq!(outcome.recv().await.unwrap(), expected);
    }
    let event = b.until(|event| matches!(event, Event::Snapshot(_))).await;
    assert_eq!(event, Event::Snapshot(pieces(20)));
    let nobody = Box::new(move |result| done.send(result).unwrap());
    a.transport.send_snapshot(9, Bytes::new(), Box::new(std::iter::empty()), nobody);
    assert_eq!(outcome.recv().await.unwrap(), Err("member 9 is not a peer".to_owned()));
}
