//! One watch stream: its watchers, its queue of responses and its credit.
//!
//! A response is in flight from the moment it is queued until the transport reports that it handed it
//! to the client. Events are queued only while the stream has room; answers to requests always are,
//! because their number is bounded by the requests that the hub accepts.
//!
//! Invariant: `in_flight` counts the queue and what the transport has taken but not credited.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::watcher::Watcher;
use super::{WatchOptions, event_size};
use crate::api::WatchResponse;
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
    queue: VecDeque<WatchResponse>,
    /// Bytes and events of the responses in flight, oldest first.
    in_flight: VecDeque<(usize, usize)>,
    in_flight_bytes: usize,
    in_flight_events: usize,
    /// The stream waits for its turn to catch up.
    pub(super) waiting: bool,
    /// Where the hub has it among the lagging streams.
    pub(super) lagging_at: Option<i64>,
    /// The hub will poll this stream's queue.
    pub(super) ready: bool,
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
        self.in_flight.len() < options.stream_credit as usize
            && self.in_flight_bytes < options.stream_bytes_max
    }

    /// Responses in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Puts a response into the queue.
    pub(super) fn push(&mut self, response: WatchResponse) {
        let size = response.events.iter().map(event_size).sum();
        self.in_flight.push_back((size, response.events.len()));
        self.in_flight_bytes += size;
        self.in_flight_events += response.events.len();
        self.queue.push_back(response);
    }

    pub(super) fn pop(&mut self) -> Option<WatchResponse> {
        self.queue.pop_front()
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
        let taken = self.in_flight.len() - self.queue.len();
        let before = self.in_flight_events;
        for (bytes, events) in self.in_flight.drain(..taken.min(responses as usize)) {
            self.in_flight_bytes -= bytes;
            self.in_flight_events -= events;
        }
        before - self.in_flight_events
    }

    /// Queues the events of a watcher; `parts` are what [`fragments`] made of them.
    pub(super) fn push_events(&mut self, watch_id: i64, revision: i64, parts: &[Vec<Event>]) {
        let last = parts.len() - 1;
        for (i, events) in parts.iter().enumerate() {
            // The parts follow each other at once, even beyond the credit: clients put fragments
            // together only if nothing else comes between.
            self.push(WatchResponse {
                revision,
                watch_id,
                fragment: i < last,
                events: events.clone(),
                ..WatchResponse::default()
            });
        }
        if let Some(watcher) = self.watchers.get_mut(&watch_id) {
            watcher.idle = false;
        }
    }
}

/// Parts of at most `bytes_max`, as far as no event has to be split; never none.
pub(super) fn fragments(events: Vec<Event>, bytes_max: usize) -> Vec<Vec<Event>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for event in events {
        let size = event_size(&event);
        if bytes + size > bytes_max && bytes > 0 {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        parts.last_mut().expect("it started with one").push(event);
    }
    parts
}
