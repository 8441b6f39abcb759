//! The nine guarantees that etcd's robustness tests name (filter, ordered, unique, atomic,
//! bookmarkable, resumable, reliable, prevKV, isCreate) against random schedules.
//!
//! Every client keeps the revision up to which it knows its watcher's history. Each response must
//! contain exactly the matching changes between that revision and the one that the response reaches,
//! which is the first seven at once; the last two compare the events with the history.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::rng::Rng;
use crate::types::{EventKind, KeyRange};

#[derive(Debug)]
struct Client {
    /// Creations without an answer, in order.
    asked: VecDeque<WatchCreateRequest>,
    watchers: BTreeMap<i64, Known>,
    /// Fragments of a response that is not complete.
    partial: Option<WatchResponse>,
    unread: u32,
    /// Ids that the client sent a cancel for. (It may meet another watcher that got the same id.)
    canceled: BTreeSet<i64>,
}

#[derive(Debug)]
struct Known {
    request: WatchCreateRequest,
    /// The first revision that the client knows nothing of.
    next: i64,
}

#[derive(Debug, Default)]
struct Seen {
    events: usize,
    fragments: usize,
    compacted: usize,
    manual: usize,
    periodic: usize,
    slow: usize,
    restored: usize,
    prev: usize,
    canceled: usize,
}

struct Model {
    seed: u64,
    rng: Rng,
    hub: WatchHub,
    store: History,
    now: Time,
    clients: BTreeMap<u64, Client>,
    streams: u64,
    seen: Seen,
    trace: Vec<(u64, WatchResponse)>,
}

const KEYS: [&str; 6] = ["a", "ab", "b", "ba", "c", "d"];

impl Model {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::derive(seed, &[99]);
        let options = WatchOptions {
            progress_interval: Duration::from_millis(50),
            fragment_bytes_max: 60 + rng.below(300) as usize,
            stream_credit: 1 + rng.below(8) as u32,
            stream_bytes_max: 200 + rng.below(5000) as usize,
            catch_up_rows_max: 1 + rng.below(12) as usize,
            catch_up_watchers_max: 1 + rng.below(6) as usize,
            control_max: 10_000,
        };
        Self {
            seed,
            rng,
            hub: WatchHub::new(options, seed),
            store: History::new(),
            now: Time(0),
            clients: BTreeMap::new(),
            streams: 0,
            seen: Seen::default(),
            trace: Vec::new(),
        }
    }

    fn txn(&mut self) -> Vec<Change> {
        let mut ops = Vec::new();
        let value = "v".repeat(self.rng.below(120) as usize);
        for key in KEYS {
            if self.rng.chance(1, 4) {
                ops.push((key, self.rng.chance(2, 3).then_some(value.as_str())));
            }
        }
        self.store.txn(&ops)
    }

    fn stream(&mut self) -> Option<u64> {
        let nth = self.rng.below(self.clients.len() as u64) as usize;
        self.clients.keys().nth(nth).copied()
    }

    fn create(&mut self, stream: u64) {
        let rng = &mut self.rng;
        let key = KEYS[rng.below(6) as usize];
        let range_end = match rng.below(4) {
            0 | 1 => "",
            2 => "\0",
            _ => "c",
        };
        let around = self.store.revision - 12 + rng.below(16) as i64;
        let filters = [(0, WatchFilter::NoPut), (1, WatchFilter::NoDelete)];
        let pick = rng.below(6);
        let request = WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision: if rng.chance(1, 2) { 0 } else { around },
            progress_notify: rng.chance(1, 3),
            filters: filters.into_iter().filter(|(i, _)| *i == pick).map(|(_, f)| f).collect(),
            prev_kv: rng.chance(1, 2),
            watch_id: if rng.chance(1, 4) { 1 + rng.below(5) as i64 } else { 0 },
            fragment: rng.chance(1, 2),
        };
        self.hub.create(stream, &request, self.now, &self.store).unwrap();
        self.clients.get_mut(&stream).unwrap().asked.push_back(request);
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..30 => {
                let changes = self.txn();
                self.hub.notify(&changes, &self.store).unwrap();
            }
            30..33 => {
                self.streams += 1;
                self.hub.open(self.streams);
                let client = Client {
                    asked: VecDeque::new(),
                    watchers: BTreeMap::new(),
                    partial: None,
                    unread: 0,
                    canceled: BTreeSet::new(),
                };
                self.clients.insert(self.streams, client);
            }
            33..34 => {
                if let Some(stream) = self.stream() {
                    self.hub.close(stream);
                    self.clients.remove(&stream);
                }
            }
            34..42 => {
                if let Some(stream) = self.stream() {
                    self.create(stream);
                }
            }
            42..44 => {
                if let Some(stream) = self.stream() {
                    let client = self.clients.get_mut(&stream).unwrap();
                    if let Some((&id, _)) = client.watchers.iter().next() {
                        client.canceled.insert(id);
                        self.hub.cancel(stream, id);
                    }
                }
            }
            44..48 => {
                if let Some(stream) = self.stream() {
                    self.hub.request_progress(stream);
                }
            }
            48..64 => {
                if let Some(stream) = self.stream() {
                    let client = self.clients.get_mut(&stream).unwrap();
                    let read = self.rng.below(u64::from(client.unread) + 1) as u32;
                    client.unread -= read;
                    self.hub.credit(stream, read);
                }
            }
            64..80 => {
                self.hub.work(self.now, &self.store).unwrap();
            }
            80..92 => {
                for _ in 0..self.rng.below(6) {
                    self.poll();
                }
            }
            92..97 => self.now = self.now + Duration::from_millis(self.rng.below(60)),
            97..98 => {
                let up_to = self.store.revision - self.store.compacted;
                let by = if self.rng.chance(1, 3) { self.rng.below(up_to as u64 + 1) as i64 } else { 0 };
                self.store.compact(self.store.compacted + by);
            }
            98 => {
                for _ in 0..self.rng.below(10) {
                    self.txn();
                }
                if self.rng.chance(1, 4) {
                    self.store.compact(self.store.revision - self.rng.below(2) as i64);
                }
                self.hub.restored(&self.store);
                self.seen.restored += 1;
            }
            _ => {}
        }
        self.hub.invariants();
        self.seen.slow += self.hub.stats().slow_watchers;
    }

    fn poll(&mut self) -> bool {
        let Some((stream, batch)) = self.hub.poll() else { return false };
        for response in batch.responses() {
            self.trace.push((stream, response.clone()));
            let client = self.clients.get_mut(&stream).expect("nothing is sent on a closed stream");
            client.unread += 1;
            self.receive(stream, response);
        }
        true
    }

    fn receive(&mut self, stream: u64, response: WatchResponse) {
        let context = format!("seed {} stream {stream} {response:?}", self.seed);
        let client = self.clients.get_mut(&stream).unwrap();
        if let Some(mut partial) = client.partial.take() {
            assert_eq!(partial.watch_id, response.watch_id, "nothing between fragments: {context}");
            partial.events = [&partial.events[..], &response.events].concat().into();
            partial.fragment = response.fragment;
            self.seen.fragments += 1;
            return self.complete(stream, partial, &context);
        }
        self.complete(stream, response, &context);
    }

    fn complete(&mut self, stream: u64, response: WatchResponse, context: &str) {
        let client = self.clients.get_mut(&stream).unwrap();
        if response.fragment {
            client.partial = Some(response);
            return;
        }
        let id = response.watch_id;
        if response.created {
            let request = client.asked.pop_front().expect("only what was asked for is created");
            if response.canceled {
                let duplicate = client.watchers.contains_key(&request.watch_id);
                assert!(request.start_revision < 0 || duplicate || request.range_end == "c", "{context}");
                return;
            }
            assert!(request.watch_id == 0 || request.watch_id == id, "{context}");
            let next =
                if request.start_revision == 0 { response.revision + 1 } else { request.start_revision };
            let before = client.watchers.insert(id, Known { request, next });
            assert!(before.is_none(), "an id is not given twice: {context}");
        } else if response.canceled {
            let known = client.watchers.remove(&id).expect("only a known watcher is canceled");
            if response.compact_revision != 0 {
                assert!(known.next < response.compact_revision && response.revision == 0, "{context}");
                self.seen.compacted += 1;
            } else {
                assert!(client.canceled.contains(&id), "{context}");
                self.seen.canceled += 1;
            }
        } else if id == -1 {
            self.seen.manual += 1;
            for known in client.watchers.values_mut() {
                assert!(known.next <= response.revision + 1, "progress before the start: {context}");
                assert_eq!(missing(&self.store, known, response.revision), [], "{context}");
                known.next = response.revision + 1;
            }
        } else {
            let known = client.watchers.get_mut(&id).expect("events follow the creation and precede the end");
            let want = missing(&self.store, known, response.revision);
            assert!(known.next <= response.revision + 1, "{context}");
            assert_eq!(response.events.len(), want.len(), "{context} want {want:?} {known:?}");
            for (event, change) in response.events.iter().zip(&want) {
                assert_eq!((event.kind, &event.kv), (change.kind, &change.kv), "{context}");
                let created = event.kv.create_revision == event.kv.mod_revision;
                assert_eq!(created, event.kind == EventKind::Put && change.prev.is_none(), "{context}");
                let before = change.prev.filter(|_| known.request.prev_kv);
                let Some(kv) = &event.prev_kv else {
                    assert!(before.is_none_or(|at| at.main < self.store.compacted), "{context}");
                    continue;
                };
                let before = before.expect("a pair before was asked for and exists");
                let at = self.store.all.iter().find(|change| change.revision == before).unwrap();
                assert_eq!(kv, &at.kv, "{context}");
                self.seen.prev += 1;
            }
            self.seen.events += want.len();
            self.seen.periodic += usize::from(want.is_empty());
            known.next = response.revision + 1;
        }
    }

    /// Lets every client read on until the hub has nothing left, then checks that nothing is missing.
    fn settle(&mut self) {
        loop {
            let more = self.hub.work(self.now, &self.store).unwrap();
            while self.poll() {}
            let mut read = 0;
            for (&stream, client) in &mut self.clients {
                read += client.unread;
                self.hub.credit(stream, std::mem::take(&mut client.unread));
            }
            self.hub.invariants();
            if !more && read == 0 {
                break;
            }
        }
        assert_eq!(self.hub.stats().slow_watchers, 0, "seed {}", self.seed);
        let mut watchers = 0;
        for client in self.clients.values() {
            assert!(client.asked.is_empty() && client.partial.is_none());
            for known in client.watchers.values() {
                watchers += 1;
                assert_eq!(missing(&self.store, known, self.store.revision), [], "seed {}", self.seed);
            }
        }
        assert_eq!(watchers, self.hub.stats().watchers);
    }

    fn run(mut self) -> Self {
        for round in 0..6 {
            for _ in 0..150 {
                self.step();
            }
            if round % 2 == 1 {
                self.settle();
            }
        }
        self
    }
}

/// What the watcher must be sent so that it knows everything up to `to`.
fn missing(store: &History, known: &Known, to: i64) -> Vec<Change> {
    let range = KeyRange::new(known.request.key.clone(), known.request.range_end.clone());
    let unwanted = |kind| match kind {
        EventKind::Put => known.request.filters.contains(&WatchFilter::NoPut),
        EventKind::Delete => known.request.filters.contains(&WatchFilter::NoDelete),
    };
    store
        .all
        .iter()
        .filter(|change| (known.next..=to).contains(&change.revision.main))
        .filter(|change| range.contains(&change.kv.key) && !unwanted(change.kind))
        .cloned()
        .collect()
}

#[test]
fn nine_guarantees_hold_under_random_schedules() {
    let mut sum = Seen::default();
    for seed in 0..200 {
        let seen = Model::new(seed).run().seen;
        sum.events += seen.events;
        sum.fragments += seen.fragments;
        sum.compacted += seen.compacted;
        sum.manual += seen.manual;
        sum.periodic += seen.periodic;
        sum.slow += seen.slow;
        sum.restored += seen.restored;
        sum.prev += seen.prev;
        sum.canceled += seen.canceled;
    }
    // A schedule that exercises nothing must not pass.
    assert!(sum.events > 30_000 && sum.prev > 6_000, "{sum:?}");
    let rare = [sum.fragments, sum.compacted, sum.manual, sum.periodic, sum.slow, sum.restored, sum.canceled];
    assert!(rare.iter().all(|&count| count > 150), "{sum:?}");
}

#[test]
fn the_same_calls_give_the_same_responses() {
    for seed in 0..20 {
        assert_eq!(Model::new(seed).run().trace, Model::new(seed).run().trace);
    }
}
