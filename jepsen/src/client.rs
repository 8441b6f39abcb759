//! A client that attempts a request once and says what it knows of the outcome.
//!
//! It never retries and never moves to another member by itself: the caller chooses the endpoint.
//! [`Outcome::Refused`] is kept for errors after which a write certainly has no effect; every
//! other error is [`Outcome::Unknown`], also where a closer look could prove more.

use std::time::Duration;

use cairn_checkers::Kv;
use cairn_net::proto::etcdserverpb as pb;
use cairn_net::proto::mvccpb;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::Failure;

/// A message may be as large as a whole range of a million keys.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// What is known of a request after its only attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// The member answered.
    Ok(T),
    /// The member refused it; a write has no effect.
    Refused(String),
    /// Nobody can say whether a write takes effect, now or later.
    Unknown(String),
}

impl<T> Outcome<T> {
    /// The answer, if there is one.
    pub fn ok(self) -> Option<T> {
        match self {
            Outcome::Ok(value) => Some(value),
            Outcome::Refused(_) | Outcome::Unknown(_) => None,
        }
    }

    /// The answer, or the error as a failure of the scenario.
    ///
    /// # Errors
    /// There is no answer.
    pub fn or_fail(self, what: &str) -> Result<T, Failure> {
        match self {
            Outcome::Ok(value) => Ok(value),
            Outcome::Refused(error) => Err(Failure::new(format!("{what}: refused: {error}"))),
            Outcome::Unknown(error) => Err(Failure::new(format!("{what}: unknown outcome: {error}"))),
        }
    }
}

impl<T> From<Status> for Outcome<T> {
    fn from(status: Status) -> Self {
        let text = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
            | Code::NotFound
            | Code::ResourceExhausted => Outcome::Refused(text),
            _ => Outcome::Unknown(text),
        }
    }
}

/// A connection to one member.
#[derive(Clone, Debug)]
pub struct Client {
    /// The member's client address.
    pub url: String,
    channel: Channel,
    limit: Duration,
}

impl Client {
    /// A client of the member at `url` whose attempts end after `limit`; it connects when used.
    ///
    /// # Panics
    /// When `url` is no URL.
    pub fn new(url: &str, limit: Duration) -> Self {
        let endpoint = Endpoint::from_shared(url.to_owned()).expect("the URL was built by this crate");
        let channel = endpoint.connect_timeout(Duration::from_millis(500)).tcp_nodelay(true).connect_lazy();
        Self { url: url.to_owned(), channel, limit }
    }

    /// Like `new`, with HTTP/2 windows so small that a server soon notices a reader that stopped.
    ///
    /// # Panics
    /// When `url` is no URL.
    pub fn with_small_windows(url: &str, limit: Duration) -> Self {
        let endpoint = Endpoint::from_shared(url.to_owned()).expect("the URL was built by this crate");
        let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
        Self { url: url.to_owned(), channel: endpoint.connect_lazy(), limit }
    }

    /// The generated client of the KV service, with a large limit on messages.
    pub fn kv(&self) -> KvClient<Channel> {
        let client = KvClient::new(self.channel.clone());
        client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The generated client of the Watch service, with a large limit on messages.
    pub fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Attempts a put.
    pub async fn put(&self, key: &str, value: &str) -> Outcome<pb::PutResponse> {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        let request = pb::PutRequest { key, value, ..Default::default() };
        let mut kv = self.kv();
        self.attempt(kv.put(request)).await
    }

    /// Attempts a range.
    pub async fn range(&self, request: pb::RangeRequest) -> Outcome<pb::RangeResponse> {
        let mut kv = self.kv();
        self.attempt(kv.range(request)).await
    }

    /// Attempts a linearizable read of one key.
    pub async fn read(&self, key: &str) -> Outcome<pb::RangeResponse> {
        self.range(pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }).await
    }

    /// Attempts a transaction.
    pub async fn txn(&self, request: pb::TxnRequest) -> Outcome<pb::TxnResponse> {
        let mut kv = self.kv();
        self.attempt(kv.txn(request)).await
    }

    /// Attempts a compaction.
    pub async fn compact(&self, revision: i64) -> Outcome<pb::CompactionResponse> {
        let mut kv = self.kv();
        self.attempt(kv.compact(pb::CompactionRequest { revision, physical: true })).await
    }

    /// Asks this member for its own status.
    pub async fn status(&self) -> Outcome<pb::StatusResponse> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        self.attempt(client.status(pb::StatusRequest {})).await
    }

    /// Asks this member for the hash of its data at `revision`.
    pub async fn hash_kv(&self, revision: i64) -> Outcome<pb::HashKvResponse> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        self.attempt(client.hash_kv(pb::HashKvRequest { revision })).await
    }

    /// Attempts to disarm every alarm of every member.
    pub async fn disarm(&self) -> Outcome<()> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        let listed = match self.attempt(client.alarm(pb::AlarmRequest::default())).await {
            Outcome::Ok(listed) => listed.alarms,
            Outcome::Refused(error) => return Outcome::Refused(error),
            Outcome::Unknown(error) => return Outcome::Unknown(error),
        };
        for active in listed {
            let action = pb::alarm_request::AlarmAction::Deactivate.into();
            let request = pb::AlarmRequest { action, member_id: active.member_id, alarm: active.alarm };
            match self.attempt(client.alarm(request)).await {
                Outcome::Ok(_) => {}
                Outcome::Refused(error) => return Outcome::Refused(error),
                Outcome::Unknown(error) => return Outcome::Unknown(error),
            }
        }
        Outcome::Ok(())
    }

    /// Asks for the members of the cluster.
    pub async fn member_list(&self) -> Outcome<pb::MemberListResponse> {
        let mut client = ClusterClient::new(self.channel.clone());
        self.attempt(client.member_list(pb::MemberListRequest::default())).await
    }

    /// Attempts to add a member.
    pub async fn member_add(&self, peer_url: &str, learner: bool) -> Outcome<pb::MemberAddResponse> {
        let mut client = ClusterClient::new(self.channel.clone());
        let request = pb::MemberAddRequest { peer_ur_ls: vec![peer_url.to_owned()], is_learner: learner };
        self.attempt(client.member_add(request)).await
    }

    /// Attempts to remove a member.
    pub async fn member_remove(&self, id: u64) -> Outcome<pb::MemberRemoveResponse> {
        let mut client = ClusterClient::new(self.channel.clone());
        self.attempt(client.member_remove(pb::MemberRemoveRequest { id })).await
    }

    /// Attempts to promote a learner.
    pub async fn member_promote(&self, id: u64) -> Outcome<pb::MemberPromoteResponse> {
        let mut client = ClusterClient::new(self.channel.clone());
        self.attempt(client.member_promote(pb::MemberPromoteRequest { id })).await
    }

    async fn attempt<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Outcome<T> {
        match tokio::time::timeout(self.limit, call).await {
            Ok(Ok(response)) => Outcome::Ok(response.into_inner()),
            Ok(Err(status)) => status.into(),
            Err(_) => Outcome::Unknown(format!("no answer within {:?}", self.limit)),
        }
    }
}

/// A request for every key that starts with `prefix`, whose last byte must not be the highest.
pub fn prefix_range(prefix: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.to_owned().into(),
        range_end: prefix_end(prefix).into(),
        ..Default::default()
    }
}

/// The first key after every key with `prefix`.
pub fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// The revision of a response's header; zero when it has none.
pub fn revision(header: &Option<pb::ResponseHeader>) -> i64 {
    header.as_ref().map_or(0, |header| header.revision)
}

/// The member that answered, by its response's header.
pub fn member_id(header: &Option<pb::ResponseHeader>) -> u64 {
    header.as_ref().map_or(0, |header| header.member_id)
}

/// A put as one operation of a transaction.
pub fn put_op(key: &str, value: &str) -> pb::RequestOp {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    let put = pb::PutRequest { key, value, ..Default::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

/// A request that creates one watcher.
pub fn watch_create(create: pb::WatchCreateRequest) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) }
}

/// A key as text; the scenarios use ASCII only.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One change of one key, as a watcher or a range tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key that was put.
    pub key: String,
    /// The value that it got.
    pub value: String,
    /// The revision of the put.
    pub revision: i64,
}

impl From<&mvccpb::KeyValue> for Event {
    fn from(kv: &mvccpb::KeyValue) -> Self {
        Self { key: text(&kv.key), value: text(&kv.value), revision: kv.mod_revision }
    }
}

/// A key as an answer shows it, for the checkers.
pub fn kv(kv: &mvccpb::KeyValue) -> Kv {
    Kv {
        key: text(&kv.key),
        value: text(&kv.value),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

impl Client {
    /// Every put under `prefix` since the first revision, in order, up to revision `last`.
    ///
    /// # Errors
    /// The watcher is cancelled, or the events do not arrive within `limit`.
    pub async fn events(&self, prefix: &str, last: i64, limit: Duration) -> Result<Vec<Event>, Failure> {
        let create = watch_create(pb::WatchCreateRequest {
            key: prefix.to_owned().into(),
            range_end: prefix_end(prefix).into(),
            start_revision: 1,
            fragment: true,
            ..Default::default()
        });
        let collect = async {
            let (requests, outgoing) = tokio::sync::mpsc::channel(1);
            requests.send(create).await.map_err(|error| Failure::new(error.to_string()))?;
            let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
            let answer =
                self.watch().watch(outgoing).await.map_err(|e| Failure::new(format!("watch: {e}")))?;
            let mut answer = answer.into_inner();
            let mut events: Vec<Event> = Vec::new();
            while events.last().is_none_or(|event| event.revision < last) {
                let response = answer.message().await.map_err(|e| Failure::new(format!("watch: {e}")))?;
                let response = response.ok_or_else(|| Failure::new("the watch stream ended"))?;
                if response.canceled {
                    return Err(Failure::new(format!("watcher cancelled: {}", response.cancel_reason)));
                }
                events.extend(response.events.iter().filter_map(|e| e.kv.as_ref()).map(Event::from));
            }
            drop(requests);
            Ok(events)
        };
        let timed = tokio::time::timeout(limit, collect).await;
        timed.map_err(|_| Failure::new(format!("events up to revision {last} not seen within {limit:?}")))?
    }
}
