//! One watch stream of one side: sends requests and sorts what comes back by watcher.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn_net::proto::etcdserverpb::{
    WatchRequest, WatchResponse, watch_client::WatchClient, watch_request::RequestUnion,
};
use cairn_net::proto::mvccpb::Event;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// How long an awaited response may take.
const AWAIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a watcher was told, without how events were grouped into responses.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    Event(Event),
    Canceled { compact_revision: i64, reason: String },
}

/// A response to a creation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Created {
    pub(crate) watch_id: i64,
    pub(crate) revision: i64,
    pub(crate) canceled: bool,
    pub(crate) reason: String,
}

/// Everything that one stream has received and nobody has taken.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) created: Vec<Created>,
    pub(crate) progress: Vec<i64>,
    pub(crate) items: BTreeMap<i64, Vec<Item>>,
    /// Broken promises of a single stream: a revision split over responses, or the stream's end.
    pub(crate) violations: Vec<String>,
    last_revision: BTreeMap<i64, i64>,
}

impl Log {
    pub(crate) fn events(&self, watch_id: i64) -> usize {
        self.items.get(&watch_id).map_or(0, Vec::len)
    }

    pub(crate) fn canceled(&self, watch_id: i64) -> bool {
        self.items.get(&watch_id).is_some_and(|items| matches!(items.last(), Some(Item::Canceled { .. })))
    }

    fn receive(&mut self, response: WatchResponse) {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        let id = response.watch_id;
        if response.created {
            let (canceled, reason) = (response.canceled, response.cancel_reason);
            self.last_revision.remove(&id);
            self.created.push(Created { watch_id: id, revision, canceled, reason });
            return;
        }
        if id == -1 {
            self.progress.push(revision);
            return;
        }
        let first = response.events.first().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
        if let Some(first) = first {
            let last = self.last_revision.get(&id).copied().unwrap_or(0);
            if first < last || (first == last && !response.fragment) {
                self.violations
                    .push(format!("watcher {id}: an event of revision {first} after those of {last}"));
            }
        }
        let items = self.items.entry(id).or_default();
        for event in response.events {
            if let Some(kv) = &event.kv {
                self.last_revision.insert(id, kv.mod_revision);
            }
            items.push(Item::Event(event));
        }
        if response.canceled {
            let (compact_revision, reason) = (response.compact_revision, response.cancel_reason);
            items.push(Item::Canceled { compact_revision, reason });
        }
    }
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    log: Arc<Mutex<Log>>,
    changed: watch::Receiver<()>,
}

impl Stream {
    pub(crate) async fn open(channel: Channel) -> Stream {
        let (requests, receiver) = mpsc::channel(16);
        let log = Arc::new(Mutex::new(Log::default()));
        let (changes, changed) = watch::channel(());
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let shared = Arc::clone(&log);
        tokio::spawn(async move {
            let end = match client.watch(ReceiverStream::new(receiver)).await {
                Err(status) => format!("the watch stream was refused: {status}"),
                Ok(responses) => {
                    let mut responses = responses.into_inner();
                    loop {
                        match responses.message().await {
                            Ok(Some(response)) => shared.lock().unwrap().receive(response),
                            end => break format!("the watch stream ended: {end:?}"),
                        }
                        changes.send_replace(());
                    }
                }
            };
            shared.lock().unwrap().violations.push(end);
            changes.send_replace(());
        });
        Stream { requests, log, changed }
    }

    pub(crate) async fn send(&self, request: RequestUnion) {
        let request = WatchRequest { request_union: Some(request) };
        self.requests.send(request).await.expect("the stream's task keeps the receiver");
    }

    /// Waits until it holds; false when it does not in time.
    pub(crate) async fn await_that(&mut self, holds: impl Fn(&Log) -> bool) -> bool {
        let waiting = async {
            while !holds(&self.log.lock().unwrap()) {
                if self.changed.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(AWAIT_TIMEOUT, waiting).await.unwrap_or(false)
    }

    pub(crate) fn log<T>(&self, read: impl FnOnce(&mut Log) -> T) -> T {
        read(&mut self.log.lock().unwrap())
    }
}
