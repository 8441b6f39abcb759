//! How long an event takes from the put that caused it to a watcher.
//!
//! Each value begins with the time when its put was sent, so the latency includes the put's way into
//! the server. Both ends are in this process: there is one clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_net::proto::etcdserverpb::watch_client::WatchClient;
use cairn_net::proto::etcdserverpb::watch_request::RequestUnion;
use cairn_net::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use hdrhistogram::Histogram;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::connection::{BenchError, Connection, Connections};
use crate::drive::{histogram, record};

/// How long the end of a load waits without hearing of an event before it calls the rest lost.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What the watchers saw.
#[derive(Clone, Debug)]
pub struct Watched {
    /// From the sending of a put to its event's arrival, in microseconds.
    pub latency: Histogram<u64>,
    /// Events that arrived.
    pub events: u64,
    /// What failed.
    pub errors: BTreeMap<String, u64>,
}

struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

/// The open streams; events are counted from the opening on.
#[derive(Debug)]
pub struct Watchers {
    received: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<Watched>>,
}

impl Watchers {
    /// Opens `streams` streams with `watchers` watchers each over `range`, and waits until all of them
    /// exist.
    ///
    /// # Errors
    /// A stream cannot be opened or a watcher is refused.
    pub async fn open(
        connections: &Connections,
        streams: usize,
        watchers: usize,
        range: (Bytes, Bytes),
        epoch: Instant,
    ) -> Result<Self, BenchError> {
        let received = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        for number in 0..streams {
            let stream = open(connections.of(number), watchers, &range).await?;
            let read = read(stream, received.clone(), stopped.clone(), epoch);
            tasks.push(connections.runtime(number).spawn(read));
        }
        Ok(Self { received, stop, tasks })
    }

    /// Waits for `expected` events, ends the streams and says what they saw.
    pub async fn finish(self, expected: u64) -> Watched {
        let mut last = (self.received.load(Ordering::Relaxed), Instant::now());
        while last.0 < expected && last.1.elapsed() < SILENCE_MAX {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let received = self.received.load(Ordering::Relaxed);
            if received != last.0 {
                last = (received, Instant::now());
            }
        }
        self.stop.send_replace(true);
        let mut all = Watched { latency: histogram(), events: 0, errors: BTreeMap::new() };
        for task in self.tasks {
            let one = task.await.expect("a watcher does not panic");
            all.latency.add(&one.latency).expect("all histograms have the same bounds");
            all.events += one.events;
            for (text, count) in one.errors {
                *all.errors.entry(text).or_default() += count;
            }
        }
        if all.events < expected {
            all.errors.insert("events that never arrived".to_owned(), expected - all.events);
        }
        all
    }
}

async fn open(channel: Connection, watchers: usize, range: &(Bytes, Bytes)) -> Result<Stream, BenchError> {
    let (requests, outgoing) = mpsc::channel(watchers.max(1));
    for _ in 0..watchers {
        let (key, range_end) = range.clone();
        let create = WatchCreateRequest { key, range_end, ..WatchCreateRequest::default() };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(request).await.expect("the receiver is right here");
    }
    let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    let opened = client.watch(ReceiverStream::new(outgoing)).await;
    let mut responses = opened.map_err(BenchError::prepare("opening a watch stream"))?.into_inner();
    for _ in 0..watchers {
        let response = responses.message().await.map_err(BenchError::prepare("creating a watcher"))?;
        if !response.as_ref().is_some_and(|response| response.created && !response.canceled) {
            return Err(BenchError::Options(format!("a watcher was refused: {response:?}")));
        }
    }
    Ok(Stream { requests, responses })
}

async fn read(
    mut stream: Stream,
    received: Arc<AtomicU64>,
    mut stopped: watch::Receiver<bool>,
    epoch: Instant,
) -> Watched {
    let mut watched = Watched { latency: histogram(), events: 0, errors: BTreeMap::new() };
    loop {
        let message = tokio::select! {
            message = stream.responses.message() => message,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        let response = match message {
            Ok(Some(response)) if !response.canceled => response,
            Ok(other) => {
                watched.errors.insert(format!("a watch stream ended: {other:?}"), 1);
                break;
            }
            Err(status) => {
                watched.errors.insert(format!("a watch stream failed: {status}"), 1);
                break;
            }
        };
        let now = epoch.elapsed();
        for event in &response.events {
            let sent = event.kv.as_ref().and_then(|kv| kv.value.get(..8)?.try_into().ok());
            if let Some(sent) = sent {
                let sent = Duration::from_nanos(u64::from_be_bytes(sent));
                record(&mut watched.latency, now.saturating_sub(sent));
                watched.events += 1;
            }
        }
        received.fetch_add(response.events.len() as u64, Ordering::Relaxed);
    }
    drop(stream.requests);
    watched
}
