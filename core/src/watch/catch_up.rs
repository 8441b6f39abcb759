//! A window of history that several unsynced watchers read together.
//!
//! The changes are read once and indexed by key, so a watcher finds its own in O(log n + hits); pairs
//! for `prev_kv` are fetched when the first watcher needs them and then shared.
//!
//! Invariant: a window holds whole main revisions, and a batch taken from it does too.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::watcher::Interest;
use super::{Change, HistoryReader, event_size};
use crate::error::Fatal;
use crate::planted::{self, Bug};
use crate::types::{Event, KeyRange, KeyValue};

/// Turns changes into events and remembers the `prev_kv`s that it fetched.
pub(super) struct Events<'a> {
    changes: &'a [Change],
    store: &'a dyn HistoryReader,
    prev: BTreeMap<u32, Option<KeyValue>>,
}

impl<'a> Events<'a> {
    pub(super) fn new(changes: &'a [Change], store: &'a dyn HistoryReader) -> Self {
        Self { changes, store, prev: BTreeMap::new() }
    }

    pub(super) fn event(&mut self, at: u32, prev_kv: bool) -> Result<Event, Fatal> {
        let change = &self.changes[at as usize];
        let prev_kv = match (prev_kv, change.prev) {
            (true, Some(_)) => match self.prev.get(&at) {
                Some(kv) => kv.clone(),
                None => {
                    let kv = self.store.prev_kv(change)?;
                    self.prev.insert(at, kv.clone());
                    kv
                }
            },
            _ => None,
        };
        Ok(Event { kind: change.kind, kv: change.kv.clone(), prev_kv })
    }
}

/// What one watcher takes from a window.
pub(super) struct Batch {
    pub(super) events: Vec<Event>,
    /// Where the watcher is afterwards.
    pub(super) next: i64,
}

pub(super) struct Window<'a> {
    changes: &'a [Change],
    /// The last main revision that the window covers.
    to: i64,
    by_key: BTreeMap<&'a Bytes, Vec<u32>>,
    events: Events<'a>,
}

impl<'a> Window<'a> {
    pub(super) fn new(changes: &'a [Change], to: i64, store: &'a dyn HistoryReader) -> Self {
        let mut by_key: BTreeMap<&Bytes, Vec<u32>> = BTreeMap::new();
        for (i, change) in (0..).zip(changes) {
            by_key.entry(&change.kv.key).or_default().push(i);
        }
        Self { changes, to, by_key, events: Events::new(changes, store) }
    }

    /// The events from `next` on that the interest asks for, up to about `bytes_max`.
    pub(super) fn batch(&mut self, interest: &Interest, next: i64, bytes_max: usize) -> Result<Batch, Fatal> {
        let again = i64::from(planted::on(Bug::WatchRepeatsEvent));
        let first = self.changes.partition_point(|change| change.revision.main < next - again);
        let mut hits: Vec<u32> = Vec::new();
        let mut take = |list: &Vec<u32>| {
            let from = list.partition_point(|&i| (i as usize) < first);
            let wanted = |i: &&u32| interest.wants(self.changes[**i as usize].kind);
            hits.extend(list[from..].iter().filter(wanted));
        };
        match &interest.range {
            KeyRange::Single(key) => self.by_key.get(key).into_iter().for_each(&mut take),
            KeyRange::HalfOpen(start, end) => {
                let bounds = (Bound::Included(start), Bound::Excluded(end));
                self.by_key.range::<Bytes, _>(bounds).map(|(_, list)| list).for_each(&mut take);
            }
            KeyRange::From(start) => {
                self.by_key.range::<Bytes, _>(start..).map(|(_, list)| list).for_each(&mut take);
            }
        }
        hits.sort_unstable();
        let mut batch = Batch { events: Vec::new(), next: self.to + 1 };
        let (mut bytes, mut main) = (0, 0);
        for i in hits {
            let change_main = self.changes[i as usize].revision.main;
            if bytes >= bytes_max && change_main != main {
                batch.next = change_main;
                break;
            }
            if planted::on(Bug::WatchSplitsRevision) && change_main == main {
                continue;
            }
            main = change_main;
            let event = self.events.event(i, interest.prev_kv && !planted::on(Bug::WatchPrevWrong))?;
            bytes += event_size(&event);
            batch.events.push(event);
        }
        Ok(batch)
    }
}
