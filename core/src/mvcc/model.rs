//! The store against a naive model that keeps every state there ever was.
//!
//! Random requests, reads at old revisions, flushes that are taken, committed and reported at random
//! moments, compaction steps between them and crashes that lose everything unflushed: whatever the
//! order, the store must answer as the model does.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redb::backends::InMemoryBackend;

use super::*;
use crate::api::*;
use crate::backend::mem::MemBackend;
use crate::backend::overlay::Flush;
use crate::backend::redb::{RedbBackend, RedbOptions};
use crate::backend::{Backend, Batch, Table};
use crate::error::Error;
use crate::rng::Rng;
use crate::types::{EventKind, KeyRange, KeyValue, Revision};

type State = BTreeMap<Bytes, KeyValue>;

/// What happened, in the words of [`Change`].
#[derive(Clone, Debug)]
struct Model {
    /// By main revision; the first two are empty.
    states: Vec<State>,
    changes: Vec<Change>,
    compact_revision: i64,
}

fn lease_exists(lease: i64) -> bool {
    lease < 3
}

impl Model {
    fn new() -> Self {
        Self { states: vec![State::new(); 2], changes: Vec::new(), compact_revision: -1 }
    }

    fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    fn last_of(&self, made: &[Change], key: &Bytes) -> Option<Change> {
        self.changes.iter().chain(made).rev().find(|change| change.kv.key == *key).cloned()
    }

    fn put(
        &self,
        state: &mut State,
        made: &mut Vec<Change>,
        request: &PutRequest,
    ) -> Result<PutResponse, Error> {
        let old = state.get(&request.key).cloned();
        if request.lease != 0 && !lease_exists(request.lease) {
            return Err(Error::LeaseNotFound);
        }
        if (request.ignore_value || request.ignore_lease) && old.is_none() {
            return Err(Error::KeyNotFound);
        }
        let main = self.revision() + 1;
        let mut kv = KeyValue {
            key: request.key.clone(),
            create_revision: old.as_ref().map_or(main, |old| old.create_revision),
            mod_revision: main,
            version: old.as_ref().map_or(0, |old| old.version) + 1,
            value: request.value.clone(),
            lease: request.lease,
        };
        if let Some(old) = &old {
            if request.ignore_value {
                kv.value = old.value.clone();
            }
            if request.ignore_lease {
                kv.lease = old.lease;
            }
        }
        let prev = self.last_of(made, &kv.key).filter(|_| old.is_some()).map(|change| change.revision);
        let revision = Revision::new(main, made.len() as i64);
        made.push(Change { revision, kind: EventKind::Put, kv: kv.clone(), prev });
        state.insert(kv.key.clone(), kv);
        Ok(PutResponse { prev_kv: old.filter(|_| request.prev_kv) })
    }

    fn delete(
        &self,
        state: &mut State,
        made: &mut Vec<Change>,
        request: &DeleteRangeRequest,
    ) -> DeleteRangeResponse {
        let range = request.range();
        let main = self.revision() + 1;
        let gone: Vec<KeyValue> = state.values().filter(|kv| range.contains(&kv.key)).cloned().collect();
        for kv in &gone {
            let prev = self.last_of(made, &kv.key).map(|change| change.revision);
            state.remove(&kv.key);
            let revision = Revision::new(main, made.len() as i64);
            let kv = KeyValue { key: kv.key.clone(), mod_revision: main, ..KeyValue::default() };
            made.push(Change { revision, kind: EventKind::Delete, kv, prev });
        }
        let deleted = gone.len() as i64;
        DeleteRangeResponse { deleted, prev_kvs: if request.prev_kv { gone } else { Vec::new() } }
    }

    fn range(&self, working: &State, request: &RangeRequest) -> Result<RangeResponse, Error> {
        if request.revision > self.revision() {
            return Err(Error::FutureRevision);
        }
        if request.revision > 0 && request.revision < self.compact_revision {
            return Err(Error::Compacted);
        }
        let state = if request.revision > 0 { &self.states[request.revision as usize] } else { working };
        let range = request.range();
        let mut kvs: Vec<KeyValue> = state.values().filter(|kv| range.contains(&kv.key)).cloned().collect();
        let count = kvs.len() as i64;
        if request.count_only {
            return Ok(RangeResponse { kvs: Vec::new(), more: false, count });
        }
        let bounds = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        if request.limit > 0 && request.sort_order == SortOrder::None && bounds == [0; 4] {
            kvs.truncate(request.limit as usize + 1);
        }
        kvs.retain(|kv| {
            (bounds[0] == 0 || kv.mod_revision >= bounds[0])
                && (bounds[1] == 0 || kv.mod_revision <= bounds[1])
                && (bounds[2] == 0 || kv.create_revision >= bounds[2])
                && (bounds[3] == 0 || kv.create_revision <= bounds[3])
        });
        kvs.sort_by(|left, right| {
            let order = match request.sort_target {
                SortTarget::Key => left.key.cmp(&right.key),
                SortTarget::Version => left.version.cmp(&right.version),
                SortTarget::Create => left.create_revision.cmp(&right.create_revision),
                SortTarget::Mod => left.mod_revision.cmp(&right.mod_revision),
                SortTarget::Value => left.value.cmp(&right.value),
            };
            if request.sort_order == SortOrder::Descend { order.reverse() } else { order }
        });
        let more = request.limit > 0 && kvs.len() > request.limit as usize;
        if more {
            kvs.truncate(request.limit as usize);
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(RangeResponse { kvs, more, count })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
        let mut kvs: Vec<KeyValue> =
            self.now().values().filter(|kv| range.contains(&kv.key)).cloned().collect();
        if kvs.is_empty() {
            if matches!(compare.target, CompareTarget::Value(_)) {
                return false;
            }
            kvs.push(KeyValue::default());
        }
        kvs.iter().all(|kv| {
            let (equal, less) = match &compare.target {
                CompareTarget::Version(n) => (kv.version == *n, kv.version < *n),
                CompareTarget::Create(n) => (kv.create_revision == *n, kv.create_revision < *n),
                CompareTarget::Mod(n) => (kv.mod_revision == *n, kv.mod_revision < *n),
                CompareTarget::Lease(n) => (kv.lease == *n, kv.lease < *n),
                CompareTarget::Value(value) => (kv.value == *value, kv.value < *value),
            };
            match compare.result {
                CompareResult::Equal => equal,
                CompareResult::NotEqual => !equal,
                CompareResult::Less => less,
                CompareResult::Greater => !less && !equal,
            }
        })
    }

    fn txn(
        &self,
        state: &mut State,
        made: &mut Vec<Change>,
        request: &TxnRequest,
    ) -> Result<TxnResponse, Error> {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        let mut responses = Vec::new();
        for op in if succeeded { &request.success } else { &request.failure } {
            responses.push(match op {
                RequestOp::Range(request) => ResponseOp::Range(self.range(state, request)?),
                RequestOp::Put(request) => ResponseOp::Put(self.put(state, made, request)?),
                RequestOp::DeleteRange(request) => ResponseOp::DeleteRange(self.delete(state, made, request)),
                RequestOp::Txn(request) => ResponseOp::Txn(self.txn(state, made, request)?),
            });
        }
        Ok(TxnResponse { revision: 0, succeeded, responses })
    }

    fn commit(&mut self, state: State, made: &[Change]) {
        if !made.is_empty() {
            self.states.push(state);
            self.changes.extend_from_slice(made);
        }
    }

    /// The changes that a finished compaction keeps.
    fn retained(&self) -> Vec<&Change> {
        let live = self.states.get(self.compact_revision.max(0) as usize);
        let last = |change: &Change| {
            !self.changes.iter().any(|other| {
                other.kv.key == change.kv.key
                    && other.revision > change.revision
                    && other.revision.main <= self.compact_revision
            })
        };
        let keeps = |change: &&Change| {
            change.revision.main >= self.compact_revision
                || (last(change) && live.is_some_and(|live| live.contains_key(&change.kv.key)))
        };
        self.changes.iter().filter(keeps).collect()
    }

    /// A member that lost what was not flushed is where it was then.
    fn roll_back(&mut self, revision: i64, compact_revision: i64) {
        self.states.truncate(revision as usize + 1);
        self.changes.retain(|change| change.revision.main <= revision);
        self.compact_revision = compact_revision;
    }
}

fn any_key(rng: &mut Rng) -> Bytes {
    Bytes::from(format!("{}", (b'a' + rng.below(7) as u8) as char).repeat(1 + rng.below(2) as usize))
}

fn any_range(rng: &mut Rng) -> (Bytes, Bytes) {
    let key = any_key(rng);
    let end = match rng.below(6) {
        0 => Bytes::from_static(b"\0"),
        1 | 2 => any_key(rng),
        _ => Bytes::new(),
    };
    (if end.as_ref() == b"\0" && rng.chance(1, 3) { end.clone() } else { key }, end)
}

fn any_value(rng: &mut Rng) -> Bytes {
    Bytes::from("x".repeat(rng.below(4) as usize))
}

fn any_revision(rng: &mut Rng, model: &Model) -> i64 {
    if rng.chance(1, 2) { 0 } else { rng.below(model.revision() as u64 + 3) as i64 }
}

fn any_range_request(rng: &mut Rng, model: &Model) -> RangeRequest {
    let (key, range_end) = any_range(rng);
    let bound = |rng: &mut Rng| if rng.chance(1, 8) { any_revision(rng, model) } else { 0 };
    RangeRequest {
        key,
        range_end,
        limit: if rng.chance(1, 3) { rng.below(5) as i64 } else { 0 },
        revision: any_revision(rng, model),
        sort_order: [SortOrder::None, SortOrder::Ascend, SortOrder::Descend][rng.below(3) as usize],
        sort_target: [
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::Create,
            SortTarget::Mod,
            SortTarget::Value,
        ][rng.below(5) as usize],
        serializable: false,
        keys_only: rng.chance(1, 5),
        count_only: rng.chance(1, 8),
        min_mod_revision: bound(rng),
        max_mod_revision: bound(rng),
        min_create_revision: bound(rng),
        max_create_revision: bound(rng),
    }
}

fn any_put(rng: &mut Rng) -> PutRequest {
    let (ignore_value, ignore_lease) = (rng.chance(1, 10), rng.chance(1, 10));
    PutRequest {
        key: any_key(rng),
        value: if ignore_value { Bytes::new() } else { any_value(rng) },
        lease: if ignore_lease || rng.chance(1, 2) { 0 } else { 1 + (rng.below(21) / 10) as i64 },
        prev_kv: rng.chance(1, 3),
        ignore_value,
        ignore_lease,
    }
}

fn any_delete(rng: &mut Rng) -> DeleteRangeRequest {
    let (key, range_end) = any_range(rng);
    DeleteRangeRequest { key, range_end, prev_kv: rng.chance(1, 2) }
}

fn any_compare(rng: &mut Rng, model: &Model) -> Compare {
    let (key, range_end) = any_range(rng);
    Compare {
        result: [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual]
            [rng.below(4) as usize],
        target: match rng.below(5) {
            0 => CompareTarget::Version(rng.below(4) as i64),
            1 => CompareTarget::Create(any_revision(rng, model)),
            2 => CompareTarget::Mod(any_revision(rng, model)),
            3 => CompareTarget::Lease(rng.below(3) as i64),
            _ => CompareTarget::Value(any_value(rng)),
        },
        key,
        range_end,
    }
}

fn any_txn(rng: &mut Rng, model: &Model, depth: u32) -> TxnRequest {
    let ops = |rng: &mut Rng| -> Vec<RequestOp> {
        (0..rng.below(5))
            .map(|_| match rng.below(8) {
                0 | 1 => RequestOp::Range(any_range_request(rng, model)),
                2 => RequestOp::DeleteRange(any_delete(rng)),
                3 if depth > 0 => RequestOp::Txn(any_txn(rng, model, depth - 1)),
                _ => RequestOp::Put(any_put(rng)),
            })
            .collect()
    };
    let compare = (0..rng.below(3)).map(|_| any_compare(rng, model)).collect();
    TxnRequest { compare, success: ops(rng), failure: ops(rng) }
}

/// A transaction with several errors reports one of them; which one is another test's matter. Here it
/// counts that it fails and changes nothing.
fn same(outcome: &Outcome, expected: &Result<ResponseBody, Error>) -> bool {
    match (&outcome.result, expected) {
        (Err(_), Err(_)) => outcome.changes.is_empty(),
        (result, expected) => result == expected,
    }
}

struct Run {
    rng: Rng,
    backend: Arc<dyn Backend>,
    store: Store,
    model: Model,
    in_flight: Option<Batch>,
    /// (revision, compact revision) of the batch under way, and of the last one committed.
    taken: (i64, i64),
    durable: (i64, i64),
    compaction: Option<(Revision, i64)>,
}

impl Run {
    fn new(seed: u64, backend: Arc<dyn Backend>) -> Self {
        let store = Store::open(backend.clone(), StoreOptions::default()).unwrap();
        Self {
            rng: Rng::new(seed),
            backend,
            store,
            model: Model::new(),
            in_flight: None,
            taken: (1, -1),
            durable: (1, -1),
            compaction: None,
        }
    }

    fn write(&mut self) {
        let (mut state, mut made) = (self.model.now().clone(), Vec::new());
        let (outcome, expected) = match self.rng.below(10) {
            0..5 => {
                let request = any_put(&mut self.rng);
                let expected = self.model.put(&mut state, &mut made, &request).map(ResponseBody::Put);
                (self.store.put(&request, &lease_exists).unwrap(), expected)
            }
            5 | 6 => {
                let request = any_delete(&mut self.rng);
                let expected = self.model.delete(&mut state, &mut made, &request);
                (self.store.delete_range(&request).unwrap(), Ok(ResponseBody::DeleteRange(expected)))
            }
            7 => {
                let lease = 1 + self.rng.below(2) as i64;
                let keys: Vec<Bytes> =
                    state.values().filter(|kv| kv.lease == lease).map(|kv| kv.key.clone()).collect();
                for key in keys {
                    let request = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
                    self.model.delete(&mut state, &mut made, &request);
                }
                (self.store.revoke_lease(lease).unwrap(), Ok(ResponseBody::LeaseRevoke))
            }
            _ => {
                let request = any_txn(&mut self.rng, &self.model, 2);
                if check_txn(&request, 128).is_err() {
                    return;
                }
                let expected = self.model.txn(&mut state, &mut made, &request);
                let revision = self.model.revision() + i64::from(expected.is_ok() && !made.is_empty());
                let expected = expected.map(|mut response| {
                    fill(&mut response, revision);
                    ResponseBody::Txn(response)
                });
                (self.store.txn(&request, &lease_exists).unwrap(), expected)
            }
        };
        assert!(same(&outcome, &expected), "{outcome:?}\nexpected {expected:?}");
        if expected.is_err() {
            made.clear();
        }
        assert_eq!(outcome.changes, made);
        self.model.commit(state, &made);
    }

    fn storage(&mut self) {
        match self.rng.below(8) {
            0 | 1 => {
                if let Some(batch) = self.store.take_flush().map(Flush::into_batch) {
                    assert!(batch.changes.is_sorted_by(|a, b| (a.0, &a.1) < (b.0, &b.1)));
                    self.taken = (self.store.revision(), self.store.compact_revision());
                    self.in_flight = Some(batch);
                }
            }
            2 | 3 => {
                if let Some(batch) = self.in_flight.take() {
                    self.backend.commit(&batch).unwrap();
                    self.durable = self.taken;
                    if self.rng.chance(1, 20) {
                        return self.crash();
                    }
                    self.store.flushed().unwrap();
                }
            }
            4..7 => self.compaction_step(),
            _ if self.rng.chance(1, 15) => self.crash(),
            _ => self.store.refresh().unwrap(),
        }
    }

    fn compaction_step(&mut self) {
        if self.compaction.is_none() {
            let Some(due) = self.store.compaction_due() else { return };
            self.store.compaction_started();
            assert_eq!(self.store.compaction_due(), None);
            self.compaction = Some((due.start(), due.to));
        }
        let Some((cursor, to)) = self.compaction else { return };
        let rows_max = 1 + self.rng.below(6) as usize;
        let view = self.backend.view().unwrap();
        let (batch, next) = compact_batch(&*view, cursor, to, rows_max).unwrap();
        self.backend.commit(&batch).unwrap();
        self.compaction = next.map(|next| (next, to));
        if next.is_none() {
            self.store.compacted(to).unwrap();
        }
    }

    fn crash(&mut self) {
        (self.in_flight, self.compaction) = (None, None);
        self.store = Store::open(self.backend.clone(), StoreOptions::default()).unwrap();
        let (revision, compact_revision) = self.durable;
        assert_eq!((self.store.revision(), self.store.compact_revision()), self.durable);
        self.model.roll_back(revision, compact_revision);
    }

    fn compact(&mut self) {
        let revision = self.rng.below(self.model.revision() as u64 + 2) as i64;
        let expected = if revision <= self.model.compact_revision {
            Err(Error::Compacted)
        } else if revision > self.model.revision() {
            Err(Error::FutureRevision)
        } else {
            self.model.compact_revision = revision;
            Ok(())
        };
        assert_eq!(self.store.compact(revision).unwrap(), expected);
    }

    fn read(&mut self, view: &StoreView, model: &Model) {
        let rng = &mut self.rng;
        for _ in 0..2 {
            let request = any_range_request(rng, model);
            let expected = model.range(model.now(), &request).map(Ranged::Done);
            assert_eq!(view.range(&request, None).unwrap(), expected, "{request:?}");
        }
        let from = model.compact_revision.max(0) + rng.below(4) as i64;
        let rows_max = 1 + rng.below(5) as usize;
        let mut cursor = Some(Revision::new(from, 0));
        let mut seen = Vec::new();
        while let Some(from) = cursor {
            let (changes, next) = view.changes(from, rows_max).unwrap();
            assert!(next.is_none_or(|next| next.sub == 0 && changes.len() >= rows_max));
            seen.extend(changes);
            cursor = next;
        }
        let expected: Vec<Change> =
            model.changes.iter().filter(|change| change.revision.main >= from).cloned().collect();
        assert_eq!(seen, expected, "from {from}");
        for change in &expected {
            let earlier = usize::try_from(change.revision.main - 1).unwrap();
            let before = change.prev.and_then(|_| model.states[earlier].get(&change.kv.key).cloned());
            let before = before.filter(|_| change.revision.main > model.compact_revision);
            assert_eq!(view.prev_kv(change).unwrap(), before);
        }
        for lease in 1..3 {
            let attached: Vec<Bytes> =
                model.now().values().filter(|kv| kv.lease == lease).map(|kv| kv.key.clone()).collect();
            assert_eq!(view.lease_keys(lease).unwrap(), attached);
        }
    }

    /// With everything flushed and removed, the backend holds exactly what it must.
    fn settle(&mut self) {
        if self.in_flight.is_none() {
            self.in_flight = self.store.take_flush().map(Flush::into_batch);
        }
        loop {
            if let Some(batch) = self.in_flight.take() {
                self.backend.commit(&batch).unwrap();
                self.store.flushed().unwrap();
            }
            match self.store.take_flush() {
                Some(flush) => self.in_flight = Some(flush.into_batch()),
                None => break,
            }
        }
        while self.compaction.is_some() || self.store.compaction_due().is_some() {
            self.compaction_step();
        }
        let rows = |table| -> Vec<(Bytes, Bytes)> {
            let view = self.backend.view().unwrap();
            view.range(table, Bound::Unbounded, Bound::Unbounded).unwrap().map(Result::unwrap).collect()
        };
        let retained = self.model.retained();
        let history: Vec<Revision> =
            rows(Table::History).iter().map(|(key, _)| Revision::from_bytes(key).unwrap()).collect();
        let expected: Vec<Revision> = retained.iter().map(|change| change.revision).collect();
        assert_eq!(history, expected);
        let index: BTreeSet<Bytes> = rows(Table::Index).into_iter().map(|(key, _)| key).collect();
        assert_eq!(index, retained.iter().map(|change| change.kv.key.clone()).collect());
        let leased = self.model.now().values().filter(|kv| kv.lease != 0).count();
        assert_eq!(rows(Table::LeaseKeys).len(), leased);
    }
}

fn fill(response: &mut TxnResponse, revision: i64) {
    response.revision = revision;
    for response in &mut response.responses {
        if let ResponseOp::Txn(nested) = response {
            fill(nested, revision);
        }
    }
}

fn run(seed: u64, steps: usize, backend: Arc<dyn Backend>) {
    let mut run = Run::new(seed, backend);
    let mut kept: Vec<(StoreView, Model, Option<HashKv>)> = Vec::new();
    for step in 0..steps {
        match run.rng.below(20) {
            0..11 => run.write(),
            11..18 => run.storage(),
            18 if run.rng.chance(1, 3) => run.compact(),
            _ => {
                kept.truncate(4);
                let view = run.store.view();
                let hash = view.hash_kv(0).unwrap().ok();
                kept.push((view, run.model.clone(), hash));
            }
        }
        let (view, model) = (run.store.view(), run.model.clone());
        run.read(&view, &model);
        if step % 50 == 49 {
            let hash = |run: &Run| run.store.view().hash_kv(0).unwrap().unwrap();
            let before = hash(&run);
            run.settle();
            assert_eq!(hash(&run), before, "the hash depends on flushes or on physical compaction");
            run.durable = (run.store.revision(), run.store.compact_revision());
        }
    }
    for (view, model, hash) in kept {
        run.read(&view, &model);
        assert_eq!(view.hash_kv(0).unwrap().ok(), hash);
    }
}

#[test]
fn the_store_answers_as_the_model_in_memory() {
    for seed in 0..300 {
        run(seed, 150, Arc::new(MemBackend::new()));
    }
}

#[test]
fn the_store_answers_as_the_model_on_redb() {
    for seed in 1000..1012 {
        let options = RedbOptions { cache_bytes: 1 << 20, ..RedbOptions::default() };
        run(seed, 100, Arc::new(RedbBackend::open(InMemoryBackend::new(), options).unwrap()));
    }
}
