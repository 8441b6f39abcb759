//! From changes to what synced watchers are sent.
//!
//! Changes are gathered until the hub is asked for anything else, so what is applied together is sent
//! together: one response a watcher, with whole revisions. The members of a group on one stream are
//! told by one message, whatever their number, unless one of them has not started yet.
//!
//! Invariant: nothing is gathered when any other call looks at watchers or streams.

use std::collections::BTreeMap;

use super::super::catch_up::Events;
use super::super::stream::Part;
use super::super::{Change, HistoryReader, event_size};
use super::WatchHub;
use crate::error::Fatal;
use crate::planted::{self, Bug};
use crate::types::Event;

/// Events are gathered up to this size.
const GATHERED_BYTES_MAX: usize = 64 << 10;

/// Events of whole revisions for synced watchers, by group.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    by_group: BTreeMap<u32, Vec<Event>>,
    bytes: usize,
}

impl WatchHub {
    /// All changes of one applied main revision, in order; revisions come in order.
    ///
    /// # Errors
    /// The store could not be read for `prev_kv`.
    pub fn notify(&mut self, changes: &[Change], store: &dyn HistoryReader) -> Result<(), Fatal> {
        let Some(main) = changes.first().map(|change| change.revision.main) else { return Ok(()) };
        assert!(changes.iter().all(|change| change.revision.main == main), "one revision at a time");
        self.revision = self.revision.max(main);
        let mut matched: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (i, change) in (0..).zip(changes) {
            self.groups
                .matching(&change.kv.key, change.kind, |group| matched.entry(group).or_default().push(i));
        }
        let mut source = Events::new(changes, store);
        for (group, hits) in matched {
            let prev_kv = self.groups.interest(group).prev_kv;
            let events = self.gathered.by_group.entry(group).or_default();
            for i in hits {
                let event = source.event(i, prev_kv)?;
                self.gathered.bytes += event_size(&event);
                events.push(event);
            }
        }
        if self.gathered.bytes >= GATHERED_BYTES_MAX {
            self.deliver();
        }
        while let Some(&(start, stream)) = self.waiting_for.first()
            && start <= main + 1
        {
            self.waiting_for.remove(&(start, stream));
            self.refresh(stream);
        }
        Ok(())
    }

    /// Sends what was gathered to the synced watchers, or lets them fall back.
    pub(super) fn deliver(&mut self) {
        let gathered = std::mem::take(&mut self.gathered);
        for (group, events) in gathered.by_group {
            self.deliver_to(group, events);
        }
    }

    fn deliver_to(&mut self, group: u32, events: Vec<Event>) {
        let (first, revision) = (events[0].kv.mod_revision, self.revision);
        let bytes_max = self.options.fragment_bytes_max;
        let whole = [Part::from(events)];
        let mut split = None;
        let mut behind = Vec::new();
        for (&(stream, fragment), cohort) in self.groups.cohorts(group) {
            let state = self.streams.get_mut(&stream).expect("a synced watcher has a stream");
            let parts: &[Part] =
                if fragment { split.get_or_insert_with(|| whole[0].split(bytes_max)) } else { &whole };
            let ids = cohort.ids();
            if let [part] = parts
                && cohort.next <= first
            {
                cohort.told = revision;
                let room = state.room(&self.options, part.bytes).min(ids.len());
                if room > 0 {
                    let told = if room == ids.len() { ids.clone() } else { ids[..room].into() };
                    state.push_part(told, revision, part, false);
                }
                behind.extend(ids[room..].iter().map(|&id| (stream, id, first)));
            } else {
                for &id in ids.iter() {
                    let has_room = state.has_room(&self.options);
                    let watcher = state.watchers.get_mut(&id).expect("a synced watcher is on its stream");
                    let from = if planted::on(Bug::WatchFutureGetsOld) { first } else { watcher.next };
                    let own = (from > first).then(|| {
                        let own = whole[0].since(from);
                        if fragment { own.split(bytes_max) } else { vec![own] }
                    });
                    let parts = own.as_deref().unwrap_or(parts);
                    if parts.iter().all(|part| part.events.is_empty()) {
                        continue;
                    }
                    if has_room {
                        watcher.next = revision + 1;
                        state.push_events(id, revision, parts);
                    } else {
                        behind.push((stream, id, from.max(first)));
                    }
                }
            }
            if !state.ready && !state.queue_is_empty() {
                state.ready = true;
                self.ready.push_back(stream);
            }
        }
        for (stream, id, position) in behind {
            self.fall_back(stream, id, position);
        }
    }
}
