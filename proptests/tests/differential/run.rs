//! Drives both servers with the same operations and compares every answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use cairn_net::proto::etcdserverpb::{
    CompactionRequest, HashKvRequest, HashKvResponse, LeaseGrantRequest, LeaseLeasesRequest,
    LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest, WatchCancelRequest,
    WatchCreateRequest, WatchProgressRequest, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient, watch_request::RequestUnion,
};
use cairn_net::proto::mvccpb::Event;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::exceptions;
use crate::generate::{Generator, Op, Revisions};
use crate::watches::{Item, Stream};

/// How many differences are collected before a run ends.
const DIVERGENCES_MAX: usize = 5;
/// How many operations before a difference are shown.
const CONTEXT: usize = 12;
/// How many watchers live at once.
const WATCHERS_MAX: usize = 40;
/// The watcher of everything; its key range is all keys.
const SENTINEL: i64 = 0;
const DELETE: i32 = 1;

type Reply<T> = Result<T, (Code, String)>;

struct Client {
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
    watches: Stream,
}

impl Client {
    async fn connect(url: &str) -> Client {
        let channel = Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
        Client {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            lease: LeaseClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            watches: Stream::open(channel).await,
        }
    }
}

#[derive(Clone, Debug)]
struct Watcher {
    request: WatchCreateRequest,
    /// The first revision that it is told about.
    from: i64,
    /// Events of the history that it has been checked against.
    seen: usize,
    cancel_expected: bool,
    /// The current revision at its creation.
    created_at: i64,
    /// Whether it is known to have caught up with the present (it was told of something newer).
    synced: bool,
}

/// A run in progress.
pub(crate) struct Run {
    etcd: Client,
    ours: Client,
    at: Revisions,
    /// Revisions with a tombstone (see A-KV-50).
    deletions: BTreeSet<i64>,
    hash_comparable: bool,
    watchers: BTreeMap<i64, Watcher>,
    /// Ids that the server took away: whether they may be used again is no promise.
    retired: BTreeSet<i64>,
    /// Every event of etcd, as the sentinel saw it.
    history: Vec<Event>,
    barriers: u64,
    recent: VecDeque<String>,
    /// What differed, as text.
    pub(crate) divergences: Vec<String>,
    /// How many of each kind of operation succeeded on etcd.
    pub(crate) succeeded: BTreeMap<&'static str, u64>,
    number: usize,
}

async fn both<T>(
    etcd: impl Future<Output = Result<Response<T>, Status>>,
    ours: impl Future<Output = Result<Response<T>, Status>>,
) -> (Reply<T>, Reply<T>) {
    let reply = |result: Result<Response<T>, Status>| {
        result.map(Response::into_inner).map_err(|status| (status.code(), status.message().to_owned()))
    };
    let limit = Duration::from_secs(30);
    let timeout = || Err(Status::deadline_exceeded("no answer within the test's own limit"));
    let (etcd, ours) = tokio::join!(tokio::time::timeout(limit, etcd), tokio::time::timeout(limit, ours));
    (reply(etcd.unwrap_or_else(|_| timeout())), reply(ours.unwrap_or_else(|_| timeout())))
}

impl Run {
    pub(crate) async fn new(etcd: &str, ours: &str) -> Run {
        let mut run = Run {
            etcd: Client::connect(etcd).await,
            ours: Client::connect(ours).await,
            at: Revisions { current: 1, compacted: 0 },
            deletions: BTreeSet::new(),
            hash_comparable: true,
            watchers: BTreeMap::new(),
            retired: BTreeSet::new(),
            history: Vec::new(),
            barriers: 0,
            recent: VecDeque::new(),
            divergences: Vec::new(),
            succeeded: BTreeMap::new(),
            number: 0,
        };
        let everything = Bytes::from_static(b"\0");
        let sentinel = WatchCreateRequest {
            key: everything.clone(),
            range_end: everything,
            start_revision: 1,
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        run.watch(sentinel).await;
        run
    }

    /// Plays that many operations; stops early once there are too many differences.
    pub(crate) async fn play(&mut self, generator: &mut Generator, ops: usize) {
        for _ in 0..ops {
            if self.divergences.len() >= DIVERGENCES_MAX {
                return;
            }
            self.number += 1;
            let op = generator.op(self.at);
            self.recent.push_back(format!("{}: {op:?}", self.number));
            if self.recent.len() > CONTEXT {
                self.recent.pop_front();
            }
            self.apply(op, generator).await;
        }
        self.barrier().await;
    }

    /// A put that only our side sees: for the test of this test.
    pub(crate) async fn plant(&mut self, key: &'static [u8]) {
        let put = PutRequest { key: Bytes::from_static(key), ..PutRequest::default() };
        self.ours.kv.put(put).await.unwrap();
    }

    async fn apply(&mut self, op: Op, generator: &mut Generator) {
        match op {
            Op::Range(request) => self.range(request).await,
            Op::Put(request) => self.put(request).await,
            Op::Delete(request) => {
                let (mut etcd, mut ours) =
                    both(self.etcd.kv.delete_range(request.clone()), self.ours.kv.delete_range(request))
                        .await;
                for reply in [&mut etcd, &mut ours].into_iter().flatten() {
                    exceptions::header(&mut reply.header);
                }
                if let Ok(response) = &etcd {
                    let revision = response.header.as_ref().map_or(0, |header| header.revision);
                    self.wrote(revision, response.deleted > 0);
                }
                self.compare("delete", etcd, ours);
            }
            Op::Txn(request) => {
                let (mut etcd, mut ours) =
                    both(self.etcd.kv.txn(request.clone()), self.ours.kv.txn(request.clone())).await;
                for reply in [&mut etcd, &mut ours].into_iter().flatten() {
                    exceptions::txn(&request, reply);
                }
                if let Ok(response) = &etcd {
                    let revision = response.header.as_ref().map_or(0, |header| header.revision);
                    self.wrote(revision, exceptions::txn_deleted(response));
                }
                self.compare("txn", etcd, ours);
            }
            Op::Compact { revision, physical } => {
                self.compact(CompactionRequest { revision, physical }).await
            }
            Op::Grant { id, ttl } => {
                let request = LeaseGrantRequest { id, ttl };
                let (mut etcd, mut ours) =
                    both(self.etcd.lease.lease_grant(request), self.ours.lease.lease_grant(request)).await;
                for reply in [&mut etcd, &mut ours].into_iter().flatten() {
                    exceptions::header(&mut reply.header);
                }
                self.compare("grant", etcd, ours);
            }
            Op::Revoke(id) => {
                let request = LeaseRevokeRequest { id };
                let (mut etcd, mut ours) =
                    both(self.etcd.lease.lease_revoke(request), self.ours.lease.lease_revoke(request)).await;
                for reply in [&mut etcd, &mut ours].into_iter().flatten() {
                    exceptions::header(&mut reply.header);
                }
                if let Ok(response) = &etcd {
                    let revision = response.header.as_ref().map_or(0, |header| header.revision);
                    self.wrote(revision, revision > self.at.current);
                }
                self.compare("revoke", etcd, ours);
            }
            Op::TimeToLive { id, keys } => {
                let request = LeaseTimeToLiveRequest { id, keys };
                let (mut etcd, mut ours) = both(
                    self.etcd.lease.lease_time_to_live(request),
                    self.ours.lease.lease_time_to_live(request),
                )
                .await;
                for reply in [&mut etcd, &mut ours].into_iter().flatten() {
                    exceptions::header(&mut reply.header);
                    // The order of keys is that of a hash table.
                    reply.keys.sort();
                }
                if let (Ok(etcd), Ok(ours)) = (&etcd, &mut ours)
                    && (etcd.ttl - ours.ttl).abs() <= 2
                    && etcd.ttl > 0
                {
                    // The two were granted at slightly different times.
                    ours.ttl = etcd.ttl;
                }
                self.compare("time to live", etcd, ours);
            }
            Op::Leases => {
                let request = LeaseLeasesRequest {};
                let (mut etcd, mut ours) =
                    both(self.etcd.lease.lease_leases(request), self.ours.lease.lease_leases(request)).await;
                for reply in [&mut etcd, &mut ours].into_iter().flatten() {
                    exceptions::header(&mut reply.header);
                    // By expiry, which two that were granted together may share.
                    reply.leases.sort_by_key(|lease| lease.id);
                }
                self.compare("leases", etcd, ours);
            }
            Op::HashKv(revision) => self.hash(revision).await,
            Op::Watch(mut request) => {
                if self.watchers.len() >= WATCHERS_MAX {
                    return self.cancel(generator).await;
                }
                if self.retired.contains(&request.watch_id) {
                    request.watch_id = 0;
                }
                self.watch(request).await;
            }
            Op::Cancel => self.cancel(generator).await,
            Op::Barrier => self.barrier().await,
            Op::Progress => self.progress().await,
        }
    }

    /// A successful write on etcd ended at that revision.
    fn wrote(&mut self, revision: i64, deleted: bool) {
        self.at.current = self.at.current.max(revision);
        if deleted {
            self.deletions.insert(revision);
        }
    }

    fn compare<T: Debug + PartialEq>(&mut self, kind: &'static str, etcd: Reply<T>, ours: Reply<T>) {
        if etcd.is_ok() {
            *self.succeeded.entry(kind).or_default() += 1;
        }
        if etcd != ours {
            let (etcd, ours) = (format!("{etcd:#?}"), format!("{ours:#?}"));
            self.diverged(kind, &etcd, &ours);
        }
    }

    fn diverged(&mut self, what: &str, etcd: &str, ours: &str) {
        let diff = cairn_proptests::diff::lines(etcd, ours);
        let context: Vec<String> = self.recent.iter().cloned().collect();
        self.divergences.push(format!(
            "op {}: {what} (current revision {}, compacted {}); - etcd, + ours\n{diff}the operations before, and this one last:\n  {}\n",
            self.number,
            self.at.current,
            self.at.compacted,
            context.join("\n  "),
        ));
    }

    async fn range(&mut self, request: RangeRequest) {
        let (mut etcd, mut ours) =
            both(self.etcd.kv.range(request.clone()), self.ours.kv.range(request.clone())).await;
        for reply in [&mut etcd, &mut ours].into_iter().flatten() {
            exceptions::range(&request, reply);
        }
        let refused = (Code::InvalidArgument, "etcdserver: invalid sort option".to_owned());
        if exceptions::invalid_sort(&request) && ours.as_ref().err() == Some(&refused) {
            return;
        }
        self.compare("range", etcd, ours);
    }

    async fn put(&mut self, request: PutRequest) {
        let (mut etcd, mut ours) = both(self.etcd.kv.put(request.clone()), self.ours.kv.put(request)).await;
        for reply in [&mut etcd, &mut ours].into_iter().flatten() {
            exceptions::header(&mut reply.header);
        }
        if let Ok(response) = &etcd {
            self.wrote(response.header.as_ref().map_or(0, |header| header.revision), false);
        }
        self.compare("put", etcd, ours);
    }

    async fn compact(&mut self, request: CompactionRequest) {
        // Previous values and old events must have been read before they go.
        self.barrier().await;
        // A watcher that had nothing to be told may still be in the past, where the compaction would
        // overtake it or not: such a race has no right answer.
        let behind: Vec<i64> =
            self.watchers.iter().filter(|(_, watcher)| !watcher.synced).map(|(id, _)| *id).collect();
        for id in behind {
            self.cancel_watcher(id).await;
        }
        let (mut etcd, mut ours) = both(self.etcd.kv.compact(request), self.ours.kv.compact(request)).await;
        for reply in [&mut etcd, &mut ours].into_iter().flatten() {
            exceptions::header(&mut reply.header);
        }
        if etcd.is_ok() {
            self.at.compacted = request.revision;
            let everything = Bytes::from_static(b"\0");
            let alive = RangeRequest {
                key: everything.clone(),
                range_end: everything,
                revision: request.revision,
                count_only: true,
                ..RangeRequest::default()
            };
            let alive = self.etcd.kv.range(alive).await.map_or(0, |response| response.into_inner().count);
            self.hash_comparable = alive > 0 && !self.deletions.contains(&request.revision);
        }
        self.compare("compact", etcd, ours);
    }

    async fn hash(&mut self, revision: i64) {
        let request = HashKvRequest { revision };
        let (mut etcd, mut ours) =
            both(self.etcd.maintenance.hash_kv(request), self.ours.maintenance.hash_kv(request)).await;
        for reply in [&mut etcd, &mut ours].into_iter().flatten() {
            exceptions::header(&mut reply.header);
            self.normalise_hash(reply);
        }
        if revision == self.at.compacted && etcd.is_err() && ours.is_ok() {
            return; // A-M-04-AT
        }
        self.compare("hash", etcd, ours);
    }

    /// A-M-04-NEWER, A-KV-50, A-M-04-EMPTY.
    fn normalise_hash(&self, reply: &mut HashKvResponse) {
        reply.hash_revision = 0;
        if !self.hash_comparable {
            reply.hash = 0;
        }
    }

    async fn watch(&mut self, request: WatchCreateRequest) {
        if request.start_revision < 0 {
            return self.watch_from_negative_revision(request).await;
        }
        self.etcd.watches.send(RequestUnion::CreateRequest(request.clone())).await;
        self.ours.watches.send(RequestUnion::CreateRequest(request.clone())).await;
        let mut created = Vec::new();
        for client in [&mut self.etcd, &mut self.ours] {
            client.watches.await_that(|log| !log.created.is_empty()).await;
            created.push(client.watches.log(|log| std::mem::take(&mut log.created)));
        }
        if created[0] != created[1] {
            let (etcd, ours) = (format!("{:#?}", created[0]), format!("{:#?}", created[1]));
            return self.diverged("watch creation", &etcd, &ours);
        }
        let Some(created) = created[0].first().filter(|created| !created.canceled) else { return };
        *self.succeeded.entry("watch").or_default() += 1;
        let start = request.start_revision;
        let watcher = Watcher {
            from: if start == 0 { created.revision + 1 } else { start },
            seen: 0,
            cancel_expected: start > 0 && start < self.at.compacted,
            created_at: created.revision,
            synced: start == 0 || start > created.revision,
            request,
        };
        self.watchers.insert(created.watch_id, watcher);
    }

    /// A-W-05: both end cancelled; how is a matter of the release.
    async fn watch_from_negative_revision(&mut self, request: WatchCreateRequest) {
        let id = request.watch_id;
        let mut ends = Vec::new();
        for client in [&mut self.etcd, &mut self.ours] {
            client.watches.send(RequestUnion::CreateRequest(request.clone())).await;
            let refused = |created: &crate::watches::Created| created.canceled;
            let ended =
                client.watches.await_that(|log| log.created.iter().any(refused) || log.canceled(id)).await;
            client.watches.log(|log| {
                log.created.clear();
                log.items.remove(&id);
            });
            ends.push(format!("cancelled: {ended}"));
        }
        self.retired.insert(id);
        if ends[0] != ends[1] {
            self.diverged("watch from a negative revision", &ends[0].clone(), &ends[1].clone());
        }
    }

    async fn cancel(&mut self, generator: &mut Generator) {
        self.barrier().await;
        let ids: Vec<i64> = self.watchers.keys().copied().filter(|id| *id != SENTINEL).collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[usize::try_from(generator.random.below(ids.len() as u64)).unwrap()];
        self.cancel_watcher(id).await;
    }

    /// Only after a barrier, so that no event is on its way.
    async fn cancel_watcher(&mut self, id: i64) {
        self.watchers.remove(&id);
        let mut items = Vec::new();
        for client in [&mut self.etcd, &mut self.ours] {
            client.watches.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: id })).await;
            client.watches.await_that(|log| log.canceled(id)).await;
            items.push(client.watches.log(|log| log.items.remove(&id)));
        }
        *self.succeeded.entry("cancel").or_default() += 1;
        if items[0] != items[1] {
            let (etcd, ours) = (format!("{:#?}", items[0]), format!("{:#?}", items[1]));
            self.diverged("watch cancellation", &etcd, &ours);
        }
    }

    /// A-W-12: after a barrier every watcher is synced, so the answer must be the current revision.
    async fn progress(&mut self) {
        self.barrier().await;
        let now = self.at.current;
        if self.watchers.values().any(|watcher| watcher.request.start_revision > now) {
            return; // A-W-11-FUTURE
        }
        let mut answers = Vec::new();
        for client in [&mut self.etcd, &mut self.ours] {
            client.watches.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
            client.watches.await_that(|log| !log.progress.is_empty()).await;
            answers.push(client.watches.log(|log| std::mem::take(&mut log.progress)));
        }
        *self.succeeded.entry("progress").or_default() += 1;
        if answers[0] != answers[1] {
            let (etcd, ours) = (format!("{:?}", answers[0]), format!("{:?}", answers[1]));
            self.diverged("progress request", &etcd, &ours);
        }
    }

    /// Waits until every watcher on both sides has been told everything, and compares what they were told.
    async fn barrier(&mut self) {
        self.barriers += 1;
        let value = Bytes::from(self.barriers.to_string());
        let key = Bytes::from_static(b"~barrier");
        self.put(PutRequest { key: key.clone(), value: value.clone(), ..PutRequest::default() }).await;
        let arrived = |item: &Item| match item {
            Item::Event(event) => event.kv.as_ref().is_some_and(|kv| kv.key == key && kv.value == value),
            Item::Canceled { .. } => false,
        };
        for client in [&mut self.etcd, &mut self.ours] {
            client
                .watches
                .await_that(|log| {
                    // The barrier is the last write there is.
                    log.items.get(&SENTINEL).and_then(|items| items.last()).is_some_and(arrived)
                })
                .await;
        }
        let news = self.etcd.watches.log(|log| log.items.get(&SENTINEL).cloned().unwrap_or_default());
        self.history.extend(news.into_iter().filter_map(|item| match item {
            Item::Event(event) => Some(event),
            Item::Canceled { .. } => None,
        }));
        let ids: Vec<i64> = self.watchers.keys().copied().collect();
        for id in ids {
            self.check_watcher(id).await;
        }
        for (name, client) in [("etcd", &self.etcd), ("our server", &self.ours)] {
            let violations = client.watches.log(|log| std::mem::take(&mut log.violations));
            for violation in violations {
                self.divergences.push(format!("op {}: {name}: {violation}", self.number));
            }
        }
    }

    async fn check_watcher(&mut self, id: i64) {
        let watcher = self.watchers.get_mut(&id).expect("ids come from the map");
        let expected = if watcher.cancel_expected {
            1
        } else {
            let news = &self.history[watcher.seen..];
            news.iter().filter(|event| wanted(watcher, event, &self.deletions)).count()
        };
        watcher.seen = self.history.len();
        let watcher = watcher.clone();
        let mut items = Vec::new();
        for client in [&mut self.etcd, &mut self.ours] {
            client
                .watches
                .await_that(|log| {
                    log.canceled(id) || {
                        let told = log.items.get(&id).into_iter().flatten();
                        let extra = told.filter(|item| uncertain(&watcher, item, &self.deletions)).count();
                        log.events(id) - extra >= expected
                    }
                })
                .await;
            let mut told = client.watches.log(|log| log.items.remove(&id)).unwrap_or_default();
            told.retain(|item| !uncertain(&watcher, item, &self.deletions));
            items.push(told);
        }
        let newest = items[0].iter().rev().find_map(|item| match item {
            Item::Event(event) => event.kv.as_ref().map(|kv| kv.mod_revision),
            Item::Canceled { .. } => None,
        });
        if newest.is_some_and(|newest| newest > watcher.created_at)
            && let Some(watcher) = self.watchers.get_mut(&id)
        {
            watcher.synced = true;
        }
        if matches!(items[0].last(), Some(Item::Canceled { .. })) {
            self.watchers.remove(&id);
            self.retired.insert(id);
        }
        let what = format!("events of watcher {id} ({expected} expected), created by {:?}", watcher.request);
        if items[0] != items[1] {
            let (etcd, ours) = (format!("{:#?}", items[0]), format!("{:#?}", items[1]));
            self.diverged(&what, &etcd, &ours);
        } else if items[0].len() != expected {
            let (expected, told) = (format!("{expected} events"), format!("{} events", items[0].len()));
            self.diverged(&what, &expected, &told);
        }
    }
}

/// Whether the watcher must be told of the event: by range, revision and filters.
fn wanted(watcher: &Watcher, event: &Event, deletions: &BTreeSet<i64>) -> bool {
    let Some(kv) = &event.kv else { return false };
    // An empty key means the least one.
    let key: &[u8] = if watcher.request.key.is_empty() { b"\0" } else { &watcher.request.key };
    let end: &[u8] = &watcher.request.range_end;
    let inside = match end {
        [] => kv.key == key,
        [0] => *kv.key >= *key,
        end => *kv.key >= *key && *kv.key < *end,
    };
    inside
        && kv.mod_revision >= watcher.from
        && !watcher.request.filters.contains(&event.r#type)
        && !uncertain(watcher, &Item::Event(event.clone()), deletions)
}

/// A-KV-50: a deletion at the very revision from which the watcher started may have been compacted.
fn uncertain(watcher: &Watcher, item: &Item, deletions: &BTreeSet<i64>) -> bool {
    let Item::Event(event) = item else { return false };
    event.r#type == DELETE
        && watcher.request.start_revision > 0
        && deletions.contains(&watcher.request.start_revision)
        && event.kv.as_ref().is_some_and(|kv| kv.mod_revision == watcher.request.start_revision)
}
