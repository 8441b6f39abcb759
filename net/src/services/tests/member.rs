//! A member in a few lines: one map of keys with revisions, its history, and watchers that see it.
//! Enough of etcd's semantics for the recipes to run; everything else is answered as the test says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cairn_core::api::*;
use cairn_core::error::Error;
use cairn_core::mvcc::StoreView;
use cairn_core::types::{Event, EventKind, KeyRange, KeyValue, LeaseId};
use tokio::sync::{mpsc, oneshot, watch as cell};

use crate::handle::{Call, Handle, MemberStatus, Reply, StreamId};

/// A bound on waiting, so that a test which is wrong fails instead of hanging.
const GIVE_UP: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(super) struct State {
    pub(super) revision: i64,
    pub(super) keys: BTreeMap<Bytes, KeyValue>,
    pub(super) leases: BTreeSet<LeaseId>,
    pub(super) requests: Vec<Request>,
    pub(super) fail: Option<Error>,
    pub(super) answer: Option<ResponseBody>,
    pub(super) streams: BTreeMap<StreamId, mpsc::UnboundedSender<WatchBatch>>,
    pub(super) watchers: BTreeMap<(StreamId, i64), WatchCreateRequest>,
    pub(super) credits: u32,
    pub(super) progress: u32,
    /// Who is never answered, once somebody is to be.
    muted: Option<Vec<oneshot::Sender<Result<Reply, Error>>>>,
    history: Vec<(i64, Event)>,
}

pub(super) struct FakeMember {
    pub(super) state: Mutex<State>,
    calls: cell::Sender<u64>,
}

impl Default for FakeMember {
    fn default() -> Self {
        let state = State { revision: 1, ..State::default() };
        Self { state: Mutex::new(state), calls: cell::channel(0).0 }
    }
}

impl FakeMember {
    pub(super) fn handle(self: &Arc<Self>, status: cell::Receiver<MemberStatus>) -> Handle {
        let member = self.clone();
        let submit = move |call| {
            member.state.lock().unwrap().handle(call);
            member.calls.send_modify(|calls| *calls += 1);
            Ok(())
        };
        Handle::new(Arc::new(submit), status)
    }

    /// Waits for calls until `reached` holds.
    pub(super) async fn until(&self, reached: impl Fn(&State) -> bool) {
        let mut calls = self.calls.subscribe();
        let reached = calls.wait_for(|_| reached(&self.state.lock().unwrap()));
        tokio::time::timeout(GIVE_UP, reached).await.expect("the state is reached in time").unwrap();
    }

    /// Answers the next request with `body`.
    pub(super) fn answer(&self, body: ResponseBody) {
        self.state.lock().unwrap().answer = Some(body);
    }

    /// Fails the next request.
    pub(super) fn fail(&self, error: Error) {
        self.state.lock().unwrap().fail = Some(error);
    }

    /// Answers no request from now on.
    pub(super) fn mute(&self) {
        self.state.lock().unwrap().muted = Some(Vec::new());
    }

    pub(super) fn last_request(&self) -> Request {
        self.state.lock().unwrap().requests.last().unwrap().clone()
    }

    pub(super) fn put(&self, key: &str, value: &str) {
        self.state.lock().unwrap().put(PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..PutRequest::default()
        });
    }

    pub(super) fn delete(&self, key: &str) {
        self.state.lock().unwrap().delete(&KeyRange::Single(key.to_owned().into()));
    }

    pub(super) fn keys(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state.keys.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
    }

    pub(super) fn read(&self, request: &RangeRequest) -> RangeResponse {
        self.state.lock().unwrap().read(request)
    }
}

/// A view of a store that holds nothing.
fn empty_view() -> StoreView {
    let backend = std::sync::Arc::new(cairn_core::backend::mem::MemBackend::new());
    let options = cairn_core::mvcc::StoreOptions::default();
    cairn_core::mvcc::Store::open(backend, options).expect("an empty backend opens").view()
}

impl State {
    fn handle(&mut self, call: Call) {
        match call {
            Call::Request { request, reply, .. } => {
                self.requests.push(request.clone());
                if let Some(muted) = &mut self.muted {
                    return muted.push(reply);
                }
                let body = match (self.fail.take(), self.answer.take()) {
                    (Some(error), _) => Err(error),
                    (None, Some(body)) => Ok(body),
                    (None, None) => self.perform(request),
                };
                let header = Header { cluster_id: 11, member_id: 22, revision: self.revision, raft_term: 3 };
                let _ = reply.send(body.map(|body| {
                    let view = matches!(body, ResponseBody::Snapshot { .. }).then(empty_view);
                    Reply { response: Response { header, body }, view, frames: None }
                }));
            }
            Call::WatchOpen { stream, out } => {
                self.streams.insert(stream, out);
            }
            Call::WatchCreate { stream, request } => self.watch(stream, request),
            Call::WatchCancel { stream, watch_id } => {
                if self.watchers.remove(&(stream, watch_id)).is_some() {
                    let canceled = WatchResponse { watch_id, canceled: true, ..self.message() };
                    let _ = self.streams[&stream].send(canceled.into());
                }
            }
            Call::WatchProgress { stream } => {
                self.progress += 1;
                let _ = self.streams[&stream].send(WatchResponse { watch_id: -1, ..self.message() }.into());
            }
            Call::WatchCredit { responses, .. } => self.credits += responses,
            Call::WatchClose { stream } => {
                self.streams.remove(&stream);
                self.watchers.retain(|(of, _), _| *of != stream);
            }
        }
    }

    fn message(&self) -> WatchResponse {
        WatchResponse { revision: self.revision, ..WatchResponse::default() }
    }

    fn perform(&mut self, request: Request) -> Result<ResponseBody, Error> {
        Ok(match request {
            Request::Range(request) => ResponseBody::Range(self.read(&request)),
            Request::Put(request) => {
                self.check_lease(request.lease)?;
                let prev_kv = self.keys.get(&request.key).filter(|_| request.prev_kv).cloned();
                self.put(request);
                ResponseBody::Put(PutResponse { prev_kv })
            }
            Request::DeleteRange(request) => {
                if request.key.is_empty() {
                    return Err(Error::EmptyKey);
                }
                let deleted = self.delete(&request.range());
                ResponseBody::DeleteRange(DeleteRangeResponse { deleted, prev_kvs: Vec::new() })
            }
            Request::Txn(request) => ResponseBody::Txn(self.txn(request)?),
            Request::LeaseGrant { id, ttl } => {
                let id = if id == 0 { 0x7000 + self.leases.len() as i64 } else { id };
                self.leases.insert(id);
                ResponseBody::LeaseGrant { id, ttl }
            }
            Request::LeaseRevoke { id } => {
                self.check_lease(id)?;
                self.leases.remove(&id);
                let attached: Vec<_> = self.keys.values().filter(|kv| kv.lease == id).cloned().collect();
                for kv in attached {
                    self.delete(&KeyRange::Single(kv.key));
                }
                ResponseBody::LeaseRevoke
            }
            Request::LeaseKeepAlive { id } => {
                self.check_lease(id)?;
                ResponseBody::LeaseKeepAlive { id, ttl: 60 }
            }
            Request::Status => {
                ResponseBody::Status(StatusResponse { leader: 22, ..StatusResponse::default() })
            }
            Request::Snapshot => ResponseBody::Snapshot { view: 1 },
            other => panic!("the test must say what answers {other:?}"),
        })
    }

    fn check_lease(&self, id: LeaseId) -> Result<(), Error> {
        if id == 0 || self.leases.contains(&id) { Ok(()) } else { Err(Error::LeaseNotFound) }
    }

    fn read(&self, request: &RangeRequest) -> RangeResponse {
        let range = request.range();
        let mut kvs: Vec<_> = self.keys.values().filter(|kv| range.contains(&kv.key)).cloned().collect();
        let count = kvs.len() as i64;
        if request.max_create_revision > 0 {
            kvs.retain(|kv| kv.create_revision <= request.max_create_revision);
        }
        if request.sort_target == SortTarget::Create {
            kvs.sort_by_key(|kv| kv.create_revision);
        }
        if request.sort_order == SortOrder::Descend {
            kvs.reverse();
        }
        let more = request.limit > 0 && kvs.len() as i64 > request.limit;
        if more {
            kvs.truncate(request.limit as usize);
        }
        RangeResponse { kvs, more, count }
    }

    /// Equality of the create revision is the one compare that the recipes use.
    fn txn(&mut self, request: TxnRequest) -> Result<TxnResponse, Error> {
        let succeeded = request.compare.iter().all(|compare| {
            let created = self.keys.get(&compare.key).map_or(0, |kv| kv.create_revision);
            compare.result == CompareResult::Equal && compare.target == CompareTarget::Create(created)
        });
        let mut responses = Vec::new();
        for op in if succeeded { request.success } else { request.failure } {
            responses.push(match op {
                RequestOp::Range(range) => ResponseOp::Range(self.read(&range)),
                RequestOp::Put(put) => {
                    self.check_lease(put.lease)?;
                    self.put(put);
                    ResponseOp::Put(PutResponse::default())
                }
                RequestOp::DeleteRange(delete) => ResponseOp::DeleteRange(DeleteRangeResponse {
                    deleted: self.delete(&delete.range()),
                    prev_kvs: Vec::new(),
                }),
                RequestOp::Txn(_) => panic!("no recipe nests transactions"),
            });
        }
        Ok(TxnResponse { revision: self.revision, succeeded, responses })
    }

    fn put(&mut self, request: PutRequest) {
        self.revision += 1;
        let kv = self.keys.entry(request.key.clone()).or_insert_with(|| KeyValue {
            key: request.key,
            create_revision: self.revision,
            ..KeyValue::default()
        });
        kv.mod_revision = self.revision;
        kv.version += 1;
        kv.value = request.value;
        kv.lease = request.lease;
        let kv = kv.clone();
        self.publish(Event { kind: EventKind::Put, kv, prev_kv: None });
    }

    fn delete(&mut self, range: &KeyRange) -> i64 {
        let keys: Vec<_> = self.keys.keys().filter(|key| range.contains(key)).cloned().collect();
        for key in &keys {
            self.keys.remove(key);
            self.revision += 1;
            let kv = KeyValue { key: key.clone(), mod_revision: self.revision, ..KeyValue::default() };
            self.publish(Event { kind: EventKind::Delete, kv, prev_kv: None });
        }
        keys.len() as i64
    }

    fn publish(&mut self, event: Event) {
        self.history.push((self.revision, event.clone()));
        for ((stream, watch_id), request) in &self.watchers {
            if KeyRange::new(request.key.clone(), request.range_end.clone()).contains(&event.kv.key) {
                let message = WatchResponse {
                    watch_id: *watch_id,
                    events: vec![event.clone()].into(),
                    ..self.message()
                };
                let _ = self.streams[stream].send(message.into());
            }
        }
    }

    fn watch(&mut self, stream: StreamId, request: WatchCreateRequest) {
        let watch_id = self.watchers.keys().filter(|(of, _)| *of == stream).count() as i64;
        let out = &self.streams[&stream];
        let _ = out.send(WatchResponse { watch_id, created: true, ..self.message() }.into());
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        for (revision, event) in &self.history {
            if request.start_revision > 0
                && *revision >= request.start_revision
                && range.contains(&event.kv.key)
            {
                let events = vec![event.clone()].into();
                let _ = out.send(WatchResponse { watch_id, events, ..self.message() }.into());
            }
        }
        self.watchers.insert((stream, watch_id), request);
    }
}
