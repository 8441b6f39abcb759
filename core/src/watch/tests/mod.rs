//! Rules one by one; `model` checks the guarantees together under random schedules.

mod model;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::api::{WatchCreateRequest, WatchFilter, WatchResponse};
use crate::time::Time;
use crate::types::EventKind;

/// A history in memory that compacts as the store does and remembers everything for the checks.
#[derive(Clone, Debug)]
pub(super) struct History {
    /// Everything that ever happened.
    pub(super) all: Vec<Change>,
    /// What compaction left.
    kept: BTreeMap<Revision, Change>,
    pub(super) live: BTreeMap<Bytes, (Revision, KeyValue)>,
    pub(super) revision: i64,
    pub(super) compacted: i64,
}

impl History {
    pub(super) fn new() -> Self {
        Self { all: Vec::new(), kept: BTreeMap::new(), live: BTreeMap::new(), revision: 1, compacted: 0 }
    }

    /// One transaction: values to put, `None` to delete. Returns its changes (none if nothing changed).
    pub(super) fn txn(&mut self, ops: &[(&str, Option<&str>)]) -> Vec<Change> {
        let main = self.revision + 1;
        let mut changes: Vec<Change> = Vec::new();
        for &(key, value) in ops {
            let key = Bytes::copy_from_slice(key.as_bytes());
            let revision = Revision::new(main, changes.len() as i64);
            let before = self.live.get(&key).cloned();
            let prev = before.as_ref().map(|(revision, _)| *revision);
            let (kind, kv) = match value {
                Some(value) => {
                    let (create_revision, version) =
                        before.map_or((main, 1), |(_, kv)| (kv.create_revision, kv.version + 1));
                    let value = Bytes::copy_from_slice(value.as_bytes());
                    let kv = KeyValue {
                        key: key.clone(),
                        create_revision,
                        mod_revision: main,
                        version,
                        value,
                        lease: 0,
                    };
                    self.live.insert(key, (revision, kv.clone()));
                    (EventKind::Put, kv)
                }
                None if before.is_none() => continue,
                None => {
                    self.live.remove(&key);
                    (EventKind::Delete, KeyValue { key, mod_revision: main, ..KeyValue::default() })
                }
            };
            changes.push(Change { revision, kind, kv, prev });
        }
        if !changes.is_empty() {
            self.revision = main;
        }
        self.kept.extend(changes.iter().map(|change| (change.revision, change.clone())));
        self.all.extend(changes.iter().cloned());
        changes
    }

    pub(super) fn compact(&mut self, revision: i64) {
        self.compacted = revision;
        let mut latest: BTreeMap<Bytes, Revision> = BTreeMap::new();
        for change in self.kept.values().filter(|change| change.revision.main <= revision) {
            latest.insert(change.kv.key.clone(), change.revision);
        }
        self.kept.retain(|at, change| {
            at.main > revision
                || latest[&change.kv.key] == *at && (change.kind == EventKind::Put || at.main == revision)
        });
    }
}

impl HistoryReader for History {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn compact_revision(&self) -> i64 {
        self.compacted
    }

    fn changes(&self, from: Revision, rows_max: usize) -> Result<(Vec<Change>, Option<Revision>), Fatal> {
        assert!(from.main >= self.compacted, "history below the compaction is gone");
        let mut rows: Vec<Change> = Vec::new();
        for change in self.kept.range(from..).map(|(_, change)| change) {
            if rows.len() >= rows_max && rows.last().unwrap().revision.main != change.revision.main {
                return Ok((rows, Some(change.revision)));
            }
            rows.push(change.clone());
        }
        Ok((rows, None))
    }

    fn prev_kv(&self, change: &Change) -> Result<Option<KeyValue>, Fatal> {
        Ok(change.prev.and_then(|prev| self.kept.get(&prev)).map(|change| change.kv.clone()))
    }
}

fn options() -> WatchOptions {
    WatchOptions { stream_credit: 4, catch_up_rows_max: 10, ..WatchOptions::default() }
}

fn on(key: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..WatchCreateRequest::default() }
}

fn from(key: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { start_revision, ..on(key) }
}

/// A hub with its store.
struct World {
    hub: WatchHub,
    store: History,
    now: Time,
}

impl World {
    fn new(options: WatchOptions) -> Self {
        let mut hub = WatchHub::new(options, 1);
        hub.open(1);
        Self { hub, store: History::new(), now: Time(0) }
    }

    fn put(&mut self, key: &str, value: &str) {
        self.txn(&[(key, Some(value))]);
    }

    /// A change that is applied by itself.
    fn txn(&mut self, ops: &[(&str, Option<&str>)]) {
        self.txn_among_others(ops);
        // Any call ends the gathering; this one does nothing else.
        self.hub.close(u64::MAX);
    }

    fn txn_among_others(&mut self, ops: &[(&str, Option<&str>)]) {
        let changes = self.store.txn(ops);
        self.hub.notify(&changes, &self.store).unwrap();
    }

    fn create(&mut self, stream: u64, request: &WatchCreateRequest) {
        self.hub.create(stream, request, self.now, &self.store).unwrap();
    }

    /// Works until nothing is left to do without credit, and returns what came out for a stream.
    fn take(&mut self, stream: u64) -> Vec<WatchResponse> {
        while self.hub.work(self.now, &self.store).unwrap() {}
        self.hub.invariants();
        let mut out = Vec::new();
        while let Some((to, batch)) = self.hub.poll() {
            if to == stream {
                out.extend(batch.responses());
            }
        }
        out
    }

    /// As [`World::take`], with the client reading on.
    fn drain(&mut self, stream: u64) -> Vec<WatchResponse> {
        let mut out = Vec::new();
        loop {
            let some = self.take(stream);
            if some.is_empty() {
                return out;
            }
            self.hub.credit(stream, some.len() as u32);
            out.extend(some);
        }
    }
}

fn revisions(responses: &[WatchResponse]) -> Vec<i64> {
    responses.iter().flat_map(|response| &response.events).map(|event| event.kv.mod_revision).collect()
}

#[test]
fn created_comes_before_events_and_history_before_live() {
    let mut w = World::new(options());
    w.put("a", "1");
    w.put("a", "2");
    w.create(1, &from("a", 2));
    w.put("a", "3");
    let out = w.drain(1);
    assert_eq!(out[0], WatchResponse { revision: 3, watch_id: 0, created: true, ..Default::default() });
    assert_eq!(revisions(&out), [2, 3, 4]);
    w.put("a", "4");
    assert_eq!(revisions(&w.drain(1)), [5]);
}

#[test]
fn ids_are_assigned_upwards_and_duplicates_refused() {
    let mut w = World::new(options());
    w.create(1, &WatchCreateRequest { watch_id: 1, ..on("a") });
    w.create(1, &on("a"));
    w.create(1, &on("a"));
    w.create(1, &WatchCreateRequest { watch_id: 2, ..on("a") });
    let out = w.drain(1);
    assert_eq!(out.iter().map(|r| r.watch_id).collect::<Vec<_>>(), [1, 0, 2, -1]);
    assert!(out[3].created && out[3].canceled);
    assert_eq!(out[3].cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
    assert_eq!(w.hub.stats().watchers, 3);
}

#[test]
fn bad_requests_are_created_and_canceled_at_once() {
    let mut w = World::new(options());
    let range = |key: &str, end: &str| WatchCreateRequest {
        range_end: Bytes::copy_from_slice(end.as_bytes()),
        ..on(key)
    };
    w.create(1, &range("b", "a"));
    w.create(1, &range("b", "b"));
    w.create(1, &from("b", -1));
    let out = w.drain(1);
    let reasons: Vec<_> = out.iter().map(|r| r.cancel_reason.as_str()).collect();
    let empty = "mvcc: watcher range is empty";
    assert_eq!(reasons, [empty, empty, "etcdserver: mvcc: required revision has been compacted"]);
    assert!(out.iter().all(|r| r.created && r.canceled && r.watch_id == -1 && r.revision == 1));
    assert_eq!(w.hub.stats().watchers, 0);
    // The empty key means the smallest one, and a zero byte as the end means no end.
    w.create(1, &range("", "\0"));
    w.create(1, &on(""));
    w.put("x", "1");
    assert_eq!(w.drain(1).iter().filter(|r| !r.events.is_empty()).count(), 1);
}

#[test]
fn compacted_start_is_created_then_canceled_and_the_compact_revision_is_accepted() {
    let mut w = World::new(options());
    for value in ["1", "2", "3"] {
        w.put("a", value);
    }
    w.store.compact(3);
    w.create(1, &from("a", 2));
    w.create(1, &from("a", 3));
    let out = w.drain(1);
    assert!(out[0].created && !out[0].canceled && out[0].revision == 4);
    let cancel = WatchResponse { watch_id: 0, canceled: true, compact_revision: 3, ..Default::default() };
    assert_eq!(out[1], cancel);
    assert!(out[2].created && out[2].watch_id == 1);
    assert_eq!(revisions(&out), [3, 4]);
}

#[test]
fn future_watcher_waits_silently_and_gets_nothing_below_its_start() {
    let mut w = World::new(options());
    w.create(1, &WatchCreateRequest { progress_notify: true, ..from("a", 4) });
    w.put("a", "1");
    w.now = w.hub.next_deadline().unwrap();
    w.hub.request_progress(1);
    assert_eq!(w.drain(1).len(), 1, "only the created response");
    w.put("a", "2");
    assert_eq!(w.drain(1)[0].watch_id, -1, "the next revision is the start, so the request is answered");
    w.put("a", "3");
    assert_eq!(revisions(&w.drain(1)), [4]);
    // The same over a snapshot that does not reach the start (etcd #20221).
    w.create(1, &from("b", 9));
    for _ in 0..2 {
        w.store.txn(&[("b", Some("x"))]);
    }
    w.hub.restored(&w.store);
    assert!(revisions(&w.drain(1)).is_empty());
    for _ in 0..3 {
        w.put("b", "y");
    }
    assert_eq!(revisions(&w.drain(1)), [9]);
}

#[test]
fn filters_drop_events_but_the_watcher_advances() {
    let mut w = World::new(options());
    w.put("a", "1");
    let request = WatchCreateRequest { filters: vec![WatchFilter::NoPut], ..from("a", 1) };
    w.create(1, &request);
    w.put("a", "2");
    w.txn(&[("a", None)]);
    let out = w.drain(1);
    assert_eq!(revisions(&out), [4]);
    let event = &out[1].events[0];
    assert_eq!((event.kind, &event.prev_kv), (EventKind::Delete, &None));
    assert_eq!(event.kv, KeyValue { key: "a".into(), mod_revision: 4, ..Default::default() });
    w.hub.request_progress(1);
    assert_eq!(w.drain(1)[0].revision, 4);
}

#[test]
fn prev_kv_is_the_pair_before_unless_compacted() {
    let mut w = World::new(options());
    let request = WatchCreateRequest { prev_kv: true, ..on("a") };
    w.create(1, &request);
    w.put("a", "1");
    w.put("a", "2");
    w.txn(&[("a", None)]);
    let out = w.drain(1);
    let prev: Vec<_> =
        out[1..].iter().map(|r| r.events[0].prev_kv.as_ref().map(|kv| kv.value.clone())).collect();
    assert_eq!(prev, [None, Some("1".into()), Some("2".into())]);
    w.store.compact(3);
    w.create(1, &WatchCreateRequest { start_revision: 3, ..request });
    let out = w.drain(1);
    assert_eq!(out[1].events[0].prev_kv, None, "revision 2 is compacted");
    assert_eq!(out[1].events[1].prev_kv.as_ref().unwrap().value, "2");
}

#[test]
fn what_is_applied_together_is_sent_together_to_those_who_have_started() {
    let mut w = World::new(WatchOptions { stream_credit: 6, ..options() });
    w.create(1, &on("a"));
    w.create(1, &from("a", 3));
    w.create(1, &from("a", 9));
    assert_eq!(w.drain(1).len(), 3);
    for key in ["a", "b", "a"] {
        w.txn_among_others(&[(key, Some("1"))]);
    }
    let events = |out: Vec<WatchResponse>| -> Vec<(i64, i64, Vec<i64>)> {
        let of = |r: &WatchResponse| (r.watch_id, r.revision, revisions(std::slice::from_ref(r)));
        out.iter().map(of).collect()
    };
    assert_eq!(events(w.drain(1)), [(0, 4, vec![2, 4]), (1, 4, vec![4])]);
    // A message to several watchers uses a credit for each; those without fall back.
    for watcher in 3..10 {
        w.create(1, &on("b"));
        assert_eq!(w.drain(1)[0].watch_id, watcher);
    }
    w.put("b", "2");
    let some = events(w.take(1));
    assert_eq!(some, (3..9).map(|id| (id, 5, vec![5])).collect::<Vec<_>>());
    assert_eq!(w.hub.stats().slow_watchers, 1);
    w.hub.credit(1, 2);
    assert_eq!(events(w.take(1)), [(9, 5, vec![5])]);
    w.hub.credit(1, 5);
    assert_eq!(w.hub.stats().pending_events, 0);
}

#[test]
fn one_revision_is_one_response_unless_fragmented() {
    let big = "x".repeat(100);
    let ops: Vec<(&str, Option<&str>)> = vec![("a", Some(&big)), ("b", Some(&big)), ("c", Some(&big))];
    let mut w = World::new(WatchOptions { fragment_bytes_max: 300, ..options() });
    w.create(1, &WatchCreateRequest { range_end: "z".into(), fragment: true, ..on("a") });
    w.create(1, &WatchCreateRequest { range_end: "z".into(), ..on("a") });
    w.txn(&ops);
    w.create(1, &WatchCreateRequest { range_end: "z".into(), fragment: true, ..from("a", 2) });
    let out = w.drain(1);
    let shape = |id: i64| -> Vec<(usize, bool)> {
        let of = |r: &&WatchResponse| r.watch_id == id && !r.created;
        out.iter().filter(of).map(|r| (r.events.len(), r.fragment)).collect()
    };
    assert_eq!(shape(0), [(2, true), (1, false)]);
    assert_eq!(shape(1), [(3, false)]);
    assert_eq!(shape(2), [(2, true), (1, false)]);
}

#[test]
fn cancel_is_last_and_unknown_ids_are_ignored() {
    let mut w = World::new(options());
    w.create(1, &on("a"));
    w.put("a", "1");
    w.hub.cancel(1, 0);
    w.hub.cancel(1, 0);
    w.hub.cancel(9, 0);
    w.put("a", "2");
    let out = w.drain(1);
    assert_eq!(out.len(), 3);
    assert_eq!(out[2], WatchResponse { revision: 2, watch_id: 0, canceled: true, ..Default::default() });
    assert_eq!(w.hub.groups().len(), 0);
}

#[test]
fn a_stalled_stream_delays_nobody_and_holds_only_its_credit() {
    let mut w = World::new(options());
    w.hub.open(2);
    w.create(1, &on("a"));
    w.create(2, &on("a"));
    let mut fast = w.take(2).len();
    w.hub.credit(2, 1);
    for i in 0..1000 {
        w.put("a", &i.to_string());
        let out = w.take(2);
        w.hub.credit(2, out.len() as u32);
        fast += out.len();
    }
    assert_eq!(fast, 1001);
    let expected =
        WatchStats { streams: 2, watchers: 2, slow_watchers: 1, pending_events: 3, sent_events: 1000 };
    assert_eq!(w.hub.stats(), expected);
    let state_before = w.take(1);
    assert!(state_before.is_empty(), "three events and the created response used up the credit");
    w.hub.credit(1, 4);
    let rest = w.drain(1);
    assert_eq!(revisions(&rest), (5..=1001).collect::<Vec<_>>());
    assert_eq!(
        w.hub.stats(),
        WatchStats { slow_watchers: 0, pending_events: 0, sent_events: 2000, ..expected }
    );
}

#[test]
fn bytes_bound_a_stream_as_credits_do() {
    let mut w = World::new(WatchOptions { stream_bytes_max: 1000, stream_credit: 100, ..options() });
    w.create(1, &on("a"));
    for _ in 0..50 {
        w.put("a", &"x".repeat(400));
    }
    assert_eq!(w.hub.stats().pending_events, 3);
    assert_eq!(revisions(&w.drain(1)).len(), 50);
}

#[test]
fn a_slow_watcher_that_a_compaction_overtakes_is_told_so() {
    let mut w = World::new(options());
    w.create(1, &on("a"));
    for i in 0..10 {
        w.put("a", &i.to_string());
    }
    let out = w.take(1);
    assert_eq!(revisions(&out), [2, 3, 4]);
    w.store.compact(8);
    w.hub.credit(1, out.len() as u32);
    let rest = w.drain(1);
    let cancel = WatchResponse { watch_id: 0, canceled: true, compact_revision: 8, ..Default::default() };
    assert_eq!(rest, [cancel]);
    assert_eq!(w.hub.stats().watchers, 0);
}

#[test]
fn a_snapshot_continues_from_the_position_or_cancels() {
    let mut w = World::new(options());
    w.create(1, &on("a"));
    w.put("a", "1");
    for i in 0..5 {
        w.store.txn(&[("a", Some(&i.to_string()))]);
    }
    w.hub.restored(&w.store);
    assert_eq!(revisions(&w.drain(1)), [2, 3, 4, 5, 6, 7]);
    for i in 0..5 {
        w.store.txn(&[("a", Some(&i.to_string()))]);
    }
    w.store.compact(10);
    w.hub.restored(&w.store);
    assert_eq!(w.drain(1)[0].compact_revision, 10);
}

#[test]
fn manual_progress_waits_for_every_watcher_and_everything_queued() {
    let mut w = World::new(options());
    w.hub.request_progress(1);
    assert_eq!(w.drain(1)[0].watch_id, -1, "no watchers, nothing to wait for");
    w.create(1, &on("a"));
    for i in 0..10 {
        w.put("a", &i.to_string());
    }
    w.hub.request_progress(1);
    w.hub.request_progress(1);
    assert!(w.take(1).iter().all(|r| r.watch_id == 0));
    w.hub.credit(1, 4);
    let rest = w.drain(1);
    assert_eq!(revisions(&rest), (5..=11).collect::<Vec<_>>());
    let answer = WatchResponse { revision: 11, watch_id: -1, ..Default::default() };
    assert_eq!(rest.iter().filter(|r| **r == answer).count(), 1);
    assert_eq!(rest.last(), Some(&answer));
}

#[test]
fn periodic_progress_goes_to_idle_synced_watchers() {
    let mut w = World::new(options());
    let notify = |key: &str| WatchCreateRequest { progress_notify: true, ..on(key) };
    w.create(1, &on("a"));
    assert_eq!(w.hub.next_deadline(), None);
    w.create(1, &notify("a"));
    w.create(1, &notify("b"));
    w.drain(1);
    let first = w.hub.next_deadline().unwrap();
    assert!((600..=660).contains(&first.since(Time(0)).as_secs()));
    w.now = Time(0) + Duration::from_secs(599);
    w.put("a", "1");
    assert_eq!(revisions(&w.drain(1)), [2, 2]);
    w.now = first;
    assert_eq!(w.drain(1), [WatchResponse { revision: 2, watch_id: 2, ..Default::default() }]);
    w.now = w.hub.next_deadline().unwrap();
    assert_eq!(w.drain(1).iter().map(|r| r.watch_id).collect::<Vec<_>>(), [1, 2]);
    // Unsynced watchers are told nothing.
    for _ in 0..5 {
        w.put("a", "2");
    }
    let out = w.take(1);
    assert_eq!(out.len(), 4);
    w.now = w.hub.next_deadline().unwrap();
    assert!(w.take(1).is_empty());
    w.hub.cancel(1, 1);
    w.hub.cancel(1, 2);
    assert_eq!(w.hub.next_deadline(), None);
}

#[test]
fn a_watcher_that_is_hardly_behind_does_not_wait_for_one_that_replays_years() {
    let mut w = World::new(WatchOptions { stream_credit: 1000, ..options() });
    for i in 0..5000 {
        w.put("a", &i.to_string());
    }
    w.hub.open(2);
    w.create(1, &from("a", 2));
    w.create(1, &from("a", 4995));
    w.create(2, &from("a", 4996));
    for _ in 0..4 {
        w.hub.work(w.now, &w.store).unwrap();
    }
    assert_eq!(w.hub.stats().slow_watchers, 1);
    assert_eq!(revisions(&w.drain(2)), (4996..=5001).collect::<Vec<_>>());
}

#[test]
fn ten_thousand_watchers_of_one_key_and_of_ten_thousand_prefixes() {
    let mut w = World::new(WatchOptions { stream_credit: 30_000, ..options() });
    for i in 0..10_000 {
        w.create(1, &on("hot"));
        let prefix =
            WatchCreateRequest { range_end: format!("p/{i:05}0").into(), ..on(&format!("p/{i:05}/")) };
        w.create(1, &prefix);
    }
    assert_eq!(w.hub.groups().len(), 10_001);
    assert_eq!(w.drain(1).len(), 20_000);
    w.put("hot", "1");
    assert_eq!(w.drain(1).len(), 10_000);
    for i in 0..10_000 {
        w.txn(&[(&format!("p/{i:05}/x"), Some("1"))]);
    }
    let out = w.drain(1);
    assert_eq!(out.iter().map(|r| (r.watch_id - 1) / 2).collect::<Vec<_>>(), (0..10_000).collect::<Vec<_>>());
    w.hub.close(1);
    assert_eq!(w.hub.stats(), WatchStats { sent_events: 20_000, ..WatchStats::default() });
    assert_eq!(w.hub.groups().len(), 0);
}

#[test]
fn a_client_that_asks_and_never_reads_is_stopped() {
    let mut w = World::new(WatchOptions { control_max: 20, ..options() });
    for _ in 0..7 {
        w.create(1, &on("a"));
    }
    assert!(w.hub.accepts_requests(1));
    w.create(1, &on("a"));
    assert!(!w.hub.accepts_requests(1));
    for _ in 8..20 {
        w.create(1, &on("a"));
    }
    let refused = w.hub.create(1, &on("a"), w.now, &w.store);
    assert_eq!(refused, Err(crate::error::Error::TooManyRequests));
    assert_eq!(w.hub.stats().watchers, 20);
}

#[test]
fn an_idle_watcher_is_small() {
    assert!(size_of::<super::watcher::Watcher>() <= 32);
}
