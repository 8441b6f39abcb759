//! The sending side of the peer transport: one task a peer keeps a connection with two message
//! streams, one a lane, so that a heartbeat never waits behind a large append.
//!
//! Nothing here blocks the caller. A message that cannot be queued is dropped, which raft tolerates,
//! and reported once an episode.
//!
//! Invariant: `connected` and `active_since` are true of a peer only while both streams are open.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_core::types::MemberId;
use futures::stream::{self, Stream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use super::contact::Contacts;
use super::proto::peer_client::PeerClient;
use super::proto::{CallRequest, MessageBatch, MessagesAck};
use super::queue::{Lane, Pushed};
use super::server::PeerService;
use super::{MESSAGE_BYTES_MAX, PeerConfig, PeerEvents, route, snapshot};

/// How long the peer may take to accept a stream on a connection that stands.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Room for many messages in flight: a stream's window, and the connection's.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// What the sending side knows of one peer.
struct Peer {
    urls: watch::Sender<Vec<String>>,
    urgent: Arc<Lane>,
    bulk: Arc<Lane>,
    link: Mutex<Option<(Instant, Channel)>>,
}

/// Sends to peers. Clones share everything.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

struct Shared {
    config: Arc<PeerConfig>,
    events: Arc<dyn PeerEvents>,
    runtime: Handle,
    peers: Mutex<BTreeMap<MemberId, Arc<Peer>>>,
    contacts: Arc<Contacts>,
    stopped: watch::Sender<bool>,
    /// One for all listeners: a cut snapshot is resumed whatever listener its sender comes back to.
    service: PeerService,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Transport {
    /// A transport without peers, whose tasks run on `runtime`.
    pub fn new(config: PeerConfig, events: Arc<dyn PeerEvents>, runtime: Handle) -> Self {
        let config = Arc::new(config);
        let stopped = watch::Sender::new(false);
        let contacts = Arc::new(Contacts::default());
        let service = PeerService::new(config.clone(), events.clone(), contacts.clone(), stopped.subscribe());
        let peers = Mutex::default();
        let shared = Shared { config, events, runtime, peers, contacts, stopped, service };
        Self { shared: Arc::new(shared) }
    }

    /// The receiving side, which ends its streams when this transport stops.
    pub fn service(&self) -> PeerService {
        self.shared.service.clone()
    }

    /// Adds a peer, or changes its URLs; they are tried in turn. We are never our own peer.
    pub fn set_peer(&self, id: MemberId, urls: Vec<String>) {
        let shared = &self.shared;
        if id == shared.config.member_id || *shared.stopped.borrow() {
            return;
        }
        let mut peers = shared.peers();
        if let Some(peer) = peers.get(&id) {
            peer.urls.send_if_modified(|known| {
                let changed = *known != urls;
                *known = urls;
                changed
            });
            return;
        }
        let lane = || Arc::new(Lane::new(shared.config.queue_messages_max, shared.config.queue_bytes_max));
        let (sender, receiver) = watch::channel(urls);
        let peer = Arc::new(Peer { urls: sender, urgent: lane(), bulk: lane(), link: Mutex::default() });
        peers.insert(id, peer.clone());
        let link = Link {
            id,
            config: shared.config.clone(),
            events: shared.events.clone(),
            contacts: shared.contacts.clone(),
            urgent: peer.urgent.clone(),
            bulk: peer.bulk.clone(),
            peer: Arc::downgrade(&peer),
        };
        shared.runtime.spawn(link.run(receiver));
    }

    /// Forgets a peer; its connection closes and what waits for it is dropped.
    pub fn remove_peer(&self, id: MemberId) {
        self.shared.peers().remove(&id);
    }

    /// Queues a message. It is dropped when the peer is unknown or too slow.
    pub fn send(&self, to: MemberId, message: Bytes) {
        self.push(to, message, |peer| &peer.bulk);
    }

    /// Queues a small message that must overtake bulk: a heartbeat, a vote, a read index.
    pub fn send_urgent(&self, to: MemberId, message: Bytes) {
        self.push(to, message, |peer| &peer.urgent);
    }

    fn push(&self, to: MemberId, message: Bytes, lane: impl Fn(&Peer) -> &Lane) {
        let Some(peer) = self.shared.peers().get(&to).cloned() else { return };
        if message.len() > MESSAGE_BYTES_MAX {
            tracing::error!(peer = to, bytes = message.len(), "dropped a message that no peer would accept");
            self.shared.events.unreachable(to);
        } else if lane(&peer).push(message) == Pushed::Overflow {
            tracing::warn!(peer = to, "the peer is too slow: dropping messages");
            self.shared.events.unreachable(to);
        }
    }

    /// Sends a snapshot on a connection of its own. `chunks` yields pieces of at most
    /// [`super::CHUNK_BYTES_MAX`] and may block; `done` is called exactly once.
    pub fn send_snapshot(
        &self,
        to: MemberId,
        header: Bytes,
        chunks: Box<dyn Iterator<Item = Result<Bytes, String>> + Send>,
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    ) {
        let done = snapshot::Done::new(done);
        let Some(peer) = self.shared.peers().get(&to).cloned() else {
            return done.call(Err(format!("member {to:x} is not a peer")));
        };
        let sending = snapshot::Sending::new(self.shared.config.clone(), to, header, chunks);
        let (urls, stopped) = (peer.urls.subscribe(), self.shared.stopped.subscribe());
        let events = self.shared.events.clone();
        self.shared.runtime.spawn(async move {
            let result = sending.run(urls, stopped).await;
            if result.as_ref().is_err_and(|reason| reason.contains(super::REMOVED_TEXT)) {
                events.removed();
            }
            done.call(result);
        });
    }

    /// Asks a connected peer and waits for its answer.
    ///
    /// # Errors
    /// The peer's refusal, or that there is no connection, or that it took too long.
    pub async fn call(&self, to: MemberId, body: Bytes, timeout: Duration) -> Result<Bytes, Status> {
        let link = self.shared.peers().get(&to).and_then(|peer| peer.link().clone());
        let (_, channel) =
            link.ok_or_else(|| Status::unavailable(format!("no connection to member {to:x}")))?;
        let request = route::routed(&self.shared.config, to, CallRequest { body });
        let mut client = client(channel);
        let answer = tokio::time::timeout(timeout, client.call(request)).await;
        let answer = answer.map_err(|_| Status::deadline_exceeded("the peer did not answer in time"))??;
        Ok(answer.into_inner().body)
    }

    /// Since when the peer is connected, if it is.
    pub fn active_since(&self, to: MemberId) -> Option<Instant> {
        let peer = self.shared.peers().get(&to).cloned()?;
        let link = peer.link();
        link.as_ref().map(|(since, _)| *since)
    }

    /// Closes every connection and ends every stream, ours and the peers' to us.
    pub fn stop(&self) {
        self.shared.stopped.send_replace(true);
        self.shared.peers().clear();
    }
}

impl Shared {
    fn peers(&self) -> std::sync::MutexGuard<'_, BTreeMap<MemberId, Arc<Peer>>> {
        self.peers.lock().expect("no code panics while it holds the peers")
    }
}

impl Peer {
    fn link(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Channel)>> {
        self.link.lock().expect("no code panics while it holds the link")
    }
}

/// The task of one peer. It holds the peer weakly: removing the peer ends the task.
struct Link {
    id: MemberId,
    config: Arc<PeerConfig>,
    events: Arc<dyn PeerEvents>,
    contacts: Arc<Contacts>,
    urgent: Arc<Lane>,
    bulk: Arc<Lane>,
    peer: std::sync::Weak<Peer>,
}

impl Link {
    async fn run(self, mut urls: watch::Receiver<Vec<String>>) {
        let mut turn = 0;
        let mut pause = Duration::ZERO;
        // When a connection that broke was last redialled at once.
        let mut redialled: Option<Instant> = None;
        let came = self.contacts.came(self.id);
        // The last reason that was logged: a dead peer is retried twice a second for days.
        let mut told = String::new();
        loop {
            let targets = urls.borrow_and_update().clone();
            if targets.is_empty() {
                if urls.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let url = &targets[turn % targets.len()];
            let opened = tokio::select! {
                opened = self.open(url) => opened,
                // Removed, or other URLs: what we dial may be wrong.
                changed = urls.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            let status = match opened {
                Ok(session) => {
                    let since = Instant::now();
                    let status = self.hold(session, since, url, &mut urls).await;
                    let Some(status) = status else { return };
                    self.contacts.broke(self.id);
                    // Redialled at once, because that is how the end of the peer's process is told from
                    // less; but no faster for ever if each connection breaks as soon as it stands.
                    if redialled.is_none_or(|last| last.elapsed() >= self.config.backoff_max) {
                        redialled = Some(Instant::now());
                        pause = Duration::ZERO;
                    }
                    status
                }
                Err(status) => {
                    turn += 1;
                    if self.contacts.refused(self.id) {
                        self.events.lost(self.id);
                    }
                    status
                }
            };
            let reason = format!("{url}: {}", status.message());
            if reason != told {
                tracing::warn!(peer = self.id, reason, "lost the peer");
                told = reason;
            }
            // What waited is stale by the time there is a connection again.
            self.urgent.clear();
            self.bulk.clear();
            self.events.unreachable(self.id);
            if route::says_removed(&status) {
                self.events.removed();
                pause = self.config.backoff_max;
            }
            if !pause.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = came.notified() => {}
                    changed = urls.changed() => if changed.is_err() { return },
                }
            }
            pause = (pause * 2).clamp(self.config.backoff_min, self.config.backoff_max);
        }
    }

    /// Dials and opens both lanes; the peer has accepted our route when this returns.
    async fn open(&self, url: &str) -> Result<Session, Status> {
        let channel = dial(&self.config, url).await?;
        let mut client = client(channel.clone());
        let mut accepted = Vec::new();
        let (open, opened) = watch::channel(());
        for lane in [&self.urgent, &self.bulk] {
            let request = route::routed(&self.config, self.id, batches(lane.clone(), opened.clone()));
            let stream = tokio::time::timeout(ACCEPT_TIMEOUT, client.messages(request)).await;
            let stream =
                stream.map_err(|_| Status::deadline_exceeded("the peer did not accept the stream"))?;
            accepted.push(stream?.into_inner());
        }
        let bulk = accepted.pop().expect("two lanes were opened");
        let urgent = accepted.pop().expect("two lanes were opened");
        Ok(Session { channel, urgent, bulk, _open: open })
    }

    /// Keeps the connection until it breaks; `None` when the peer was removed from the transport.
    async fn hold(
        &self,
        mut session: Session,
        since: Instant,
        url: &String,
        urls: &mut watch::Receiver<Vec<String>>,
    ) -> Option<Status> {
        *self.peer.upgrade()?.link() = Some((since, session.channel.clone()));
        self.contacts.opened(self.id);
        self.events.connected(self.id);
        let status = loop {
            tokio::select! {
                ended = session.urgent.message() => break end_of(ended),
                ended = session.bulk.message() => break end_of(ended),
                changed = urls.changed() => match changed {
                    Ok(()) if urls.borrow().contains(url) => {}
                    Ok(()) => break Status::cancelled("the peer has other URLs now"),
                    Err(_) => return None,
                },
            }
        };
        *self.peer.upgrade()?.link() = None;
        Some(status)
    }
}

/// An accepted connection; dropping it closes the connection.
struct Session {
    channel: Channel,
    urgent: Streaming<MessagesAck>,
    bulk: Streaming<MessagesAck>,
    /// The bodies of both requests end with it: a connection stays open as long as one of them does.
    _open: watch::Sender<()>,
}

fn end_of(ended: Result<Option<MessagesAck>, Status>) -> Status {
    ended.err().unwrap_or_else(|| Status::unavailable("the peer closed the stream"))
}

/// A lane as a request body: pulled only when the connection has room, which is the back-pressure. When
/// the session is gone, what waits is still sent: a member that was removed learns so that it was.
fn batches(lane: Arc<Lane>, open: watch::Receiver<()>) -> impl Stream<Item = MessageBatch> + Send + 'static {
    stream::unfold(Some((lane, open)), async |state| {
        let (lane, mut open) = state?;
        tokio::select! {
            messages = lane.batch() => Some((MessageBatch { messages }, Some((lane, open)))),
            // Nothing is ever sent: it fails when the session is gone.
            _ = open.changed() => lane.take().map(|messages| (MessageBatch { messages }, None)),
        }
    })
}

pub(super) fn client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX + (64 << 10))
}

/// Connects to one peer URL.
pub(super) async fn dial(config: &PeerConfig, url: &str) -> Result<Channel, Status> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|error| Status::invalid_argument(format!("bad peer URL {url}: {error}")))?
        .connect_timeout(config.dial_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    endpoint.connect().await.map_err(|error| Status::unavailable(format!("cannot dial {url}: {error}")))
}
