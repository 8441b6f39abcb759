//! One watch stream: its watchers, its queue of responses and its credit.
//!
//! A response is in flight from the moment it is queued until the transport reports that it handed it
//! to the client. Events are queued only while the stream has room; answers to requests always are,
//! because their number is bounded by the requests that the hub accepts.
//!
//! Invariant: `in_flight` counts the queue and what the transport has taken but not credited.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::watcher::Watcher;
use super::{WatchOptions, event_size};
use crate::api::{WatchBatch, WatchEvents, WatchResponse};
use crate::time::Time;
use crate::types::Event;

#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) watchers: BTreeMap<i64, Watcher>,
    next_id: i64,
    /// Watchers that catch up, by position.
    pub(super) unsynced: BTreeSet<(i64, i64)>,
    /// Watchers whose start revision had not been reached when they were made.
    pub(super) future: BTreeSet<(i64, i64)>,
    /// Watchers with `progress_notify`.
    pub(super) progress: BTreeSet<i64>,
    /// Those of them that the last tick found idle and that have not been told yet.
    pub(super) progress_due: BTreeSet<i64>,
    pub(super) progress_at: Option<Time>,
    /// The client asked for progress and has no answer yet.
    pub(super) progress_requested: bool,
    /// Catch up from the highest position next, so that a watcher that is hardly behind does not wait
    /// for one that replays years.
    pub(super) highest_next: bool,
    queue: VecDeque<WatchBatch>,
    /// Responses in the queue.
    queued: usize,
    /// The messages whose responses are in flight, oldest first.
    messages: VecDeque<Message>,
    in_flight: usize,
    in_flight_bytes: usize,
    in_flight_events: usize,
    /// The stream waits for its turn to catch up.
    pub(super) waiting: bool,
    /// Where the hub has it among the lagging streams.
    pub(super) lagging_at: Option<i64>,
    /// The hub will poll this stream's queue.
    pub(super) ready: bool,
}

/// Equal responses in flight.
#[derive(Debug)]
struct Message {
    responses: usize,
    /// Of each response.
    bytes: usize,
    /// Of each response.
    events: usize,
}

/// Events that go into one response, with an estimate of their encoded size.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) events: WatchEvents,
    pub(super) bytes: usize,
}

impl From<Vec<Event>> for Part {
    fn from(events: Vec<Event>) -> Self {
        Self { bytes: events.iter().map(event_size).sum(), events: events.into() }
    }
}

impl Part {
    /// The events from a revision on.
    pub(super) fn since(&self, revision: i64) -> Self {
        self.events
            .iter()
            .filter(|event| event.kv.mod_revision >= revision)
            .cloned()
            .collect::<Vec<_>>()
            .into()
    }

    /// Parts of at most `bytes_max`, as far as no event has to be split; never none.
    pub(super) fn split(&self, bytes_max: usize) -> Vec<Self> {
        if self.bytes <= bytes_max {
            return vec![Self { events: self.events.clone(), bytes: self.bytes }];
        }
        let mut parts = vec![Vec::new()];
        let mut bytes = 0;
        for event in &self.events {
            let size = event_size(event);
            if bytes + size > bytes_max && bytes > 0 {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            parts.last_mut().expect("it started with one").push(event.clone());
        }
        parts.into_iter().map(Self::from).collect()
    }
}

impl Stream {
    /// The lowest id that the server may assign (A-W-03: upwards, skipping used ones).
    pub(super) fn assign_id(&mut self) -> i64 {
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// Whether another response may be sent of the server's own accord.
    pub(super) fn has_room(&self, options: &WatchOptions) -> bool {
        self.room(options, 1) > 0
    }

    /// How many responses of a size may be sent of the server's own accord; the last may exceed the
    /// bound of bytes.
    pub(super) fn room(&self, options: &WatchOptions, bytes: usize) -> usize {
        let bytes_left = options.stream_bytes_max.saturating_sub(self.in_flight_bytes);
        (options.stream_credit as usize).saturating_sub(self.in_flight).min(bytes_left.div_ceil(bytes.max(1)))
    }

    /// Responses in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Puts a response without events into the queue.
    pub(super) fn push(&mut self, response: WatchResponse) {
        self.push_batch(response.into(), 0);
    }

    fn push_batch(&mut self, batch: WatchBatch, bytes: usize) {
        let (responses, events) = (batch.watch_ids.len(), batch.response.events.len());
        self.messages.push_back(Message { responses, bytes, events });
        self.in_flight += responses;
        self.in_flight_bytes += responses * bytes;
        self.in_flight_events += responses * events;
        self.queued += responses;
        self.queue.push_back(batch);
    }

    pub(super) fn pop(&mut self) -> Option<WatchBatch> {
        let batch = self.queue.pop_front()?;
        self.queued -= batch.watch_ids.len();
        Some(batch)
    }

    pub(super) fn queue_is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Events in the responses in flight.
    pub(super) fn in_flight_events(&self) -> usize {
        self.in_flight_events
    }

    /// The transport handed the oldest `responses` to the client; returns how many events they held.
    pub(super) fn credit(&mut self, responses: u32) -> usize {
        // What is still queued cannot have been handed over, whatever the transport says.
        let mut left = (self.in_flight - self.queued).min(responses as usize);
        let before = self.in_flight_events;
        while left > 0 {
            let message = self.messages.front_mut().expect("responses in flight are in a message");
            let handed = message.responses.min(left);
            left -= handed;
            message.responses -= handed;
            self.in_flight -= handed;
            self.in_flight_bytes -= handed * message.bytes;
            self.in_flight_events -= handed * message.events;
            if message.responses == 0 {
                self.messages.pop_front();
            }
        }
        before - self.in_flight_events
    }

    /// Queues the events of a watcher; `parts` are what [`Part::split`] made of them.
    pub(super) fn push_events(&mut self, watch_id: i64, revision: i64, parts: &[Part]) {
        let last = parts.len() - 1;
        for (i, part) in parts.iter().enumerate() {
            // The parts follow each other at once, even beyond the credit: clients put fragments
            // together only if nothing else comes between.
            self.push_part(Arc::new([watch_id]), revision, part, i < last);
        }
        if let Some(watcher) = self.watchers.get_mut(&watch_id) {
            watcher.idle = false;
        }
    }

    /// Queues the same events for some watchers.
    pub(super) fn push_part(&mut self, watch_ids: Arc<[i64]>, revision: i64, part: &Part, fragment: bool) {
        let response = WatchResponse {
            revision,
            watch_id: watch_ids[0],
            fragment,
            events: part.events.clone(),
            ..WatchResponse::default()
        };
        self.push_batch(WatchBatch { watch_ids, response }, part.bytes);
    }
}
