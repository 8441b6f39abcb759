//! The hub: all watch streams of a member.
//!
//! It owns every stream and watcher and decides what is sent when. Each call does a bounded amount of
//! work: telling of a change is linear in the streams that get it, `work` reads one window of history.
//! The caller notifies every applied revision before it passes a store of that revision to any other
//! call, and calls `restored` first after it replaced the store by a snapshot.
//!
//! Invariant: the responses are a function of the sequence of calls (and the seed).

mod deliver;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::catch_up::Window;
use super::stream::{Part, Stream};
use super::watcher::{Groups, Interest, Watcher};
use super::{HistoryReader, WatchOptions, WatchStats};
use crate::api::{WatchBatch, WatchCreateRequest, WatchResponse};
use crate::error::{Error, Fatal};
use crate::planted::{self, Bug};
use crate::rng::Rng;
use crate::time::Time;
use crate::types::Revision;

/// The id in responses that belong to no watcher.
const NO_WATCHER: i64 = -1;

/// All watch streams of a member.
#[derive(Debug)]
pub struct WatchHub {
    options: WatchOptions,
    rng: Rng,
    /// The last revision that synced watchers have been told of.
    revision: i64,
    streams: BTreeMap<u64, Stream>,
    groups: Groups,
    /// What synced watchers are still to be sent.
    gathered: deliver::Gathered,
    /// Streams that have room and something to send from outside of `notify`, in turn.
    waiting: VecDeque<u64>,
    /// The waiting streams with unsynced watchers, by their lowest position.
    lagging: BTreeSet<(i64, u64)>,
    /// Progress ticks.
    timers: BTreeSet<(Time, u64)>,
    /// Streams whose progress request waits for a future watcher's start, by that start.
    waiting_for: BTreeSet<(i64, u64)>,
    /// Streams with queued responses, in turn.
    ready: VecDeque<u64>,
    watchers: usize,
    slow_watchers: usize,
    sent_events: u64,
}

impl WatchHub {
    /// A hub without streams.
    pub fn new(options: WatchOptions, seed: u64) -> Self {
        assert!(options.stream_credit > 0 && options.stream_bytes_max > 0, "a stream must be able to send");
        assert!(
            options.catch_up_rows_max > 0 && options.catch_up_watchers_max > 0,
            "a slice must be able to work"
        );
        Self {
            options,
            rng: Rng::derive(seed, &[0]),
            revision: 0,
            sent_events: 0,
            streams: BTreeMap::new(),
            groups: Groups::new(seed),
            gathered: deliver::Gathered::default(),
            waiting: VecDeque::new(),
            lagging: BTreeSet::new(),
            timers: BTreeSet::new(),
            waiting_for: BTreeSet::new(),
            ready: VecDeque::new(),
            watchers: 0,
            slow_watchers: 0,
        }
    }

    /// A client opened a stream. The id must not be open.
    pub fn open(&mut self, stream: u64) {
        let before = self.streams.insert(stream, Stream::default());
        assert!(before.is_none(), "watch stream {stream} is opened twice");
    }

    /// The stream ended; nothing more is sent on it. Unknown streams are ignored.
    pub fn close(&mut self, stream: u64) {
        self.deliver();
        let Some(state) = self.streams.remove(&stream) else { return };
        self.slow_watchers -= state.unsynced.len();
        self.watchers -= state.watchers.len();
        for (&id, watcher) in &state.watchers {
            self.groups.leave(watcher.group, watcher.cohort(stream), id);
        }
        if let Some(position) = state.lagging_at {
            self.lagging.remove(&(position, stream));
        }
        if let Some(at) = state.progress_at {
            self.timers.remove(&(at, stream));
        }
        if let Some(&(start, _)) = state.future.last() {
            self.waiting_for.remove(&(start, stream));
        }
        if state.waiting {
            self.waiting.retain(|&other| other != stream);
        }
        if state.ready {
            self.ready.retain(|&other| other != stream);
        }
    }

    /// Whether the transport should go on to read requests from this stream. A client that asks and
    /// does not read must be stopped by the transport's own flow control.
    pub fn accepts_requests(&self, stream: u64) -> bool {
        self.streams
            .get(&stream)
            .is_some_and(|state| state.in_flight() < 2 * self.options.stream_credit as usize)
    }

    /// A client asks for a watcher. Requests on unknown streams are ignored (they crossed the close).
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] if the client left `control_max` responses unread: nothing was done
    /// and the caller ends the stream.
    pub fn create(
        &mut self,
        stream: u64,
        request: &WatchCreateRequest,
        now: Time,
        store: &dyn HistoryReader,
    ) -> Result<(), Error> {
        self.deliver();
        self.saw(store);
        let revision = store.revision();
        let Some(state) = self.streams.get_mut(&stream) else { return Ok(()) };
        if state.in_flight() >= self.options.control_max {
            return Err(Error::TooManyRequests);
        }
        let interest = Interest::of(request);
        let start = request.start_revision;
        let refusal = if start < 0 {
            // etcd PR 20693: -1 passed for a position and broke the others' catching up.
            Some(Error::Compacted.to_string())
        } else if interest.range.is_empty() {
            Some("mvcc: watcher range is empty".to_owned())
        } else if request.watch_id != 0 && state.watchers.contains_key(&request.watch_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream".to_owned())
        } else {
            None
        };
        if let Some(cancel_reason) = refusal {
            self.push(
                stream,
                WatchResponse {
                    revision,
                    watch_id: NO_WATCHER,
                    created: true,
                    canceled: true,
                    cancel_reason,
                    ..WatchResponse::default()
                },
            );
            return Ok(());
        }
        let watch_id = if request.watch_id == 0 { state.assign_id() } else { request.watch_id };
        self.push(stream, WatchResponse { revision, watch_id, created: true, ..WatchResponse::default() });
        if start != 0 && start < store.compact_revision() {
            self.push(stream, compacted(watch_id, store));
            return Ok(());
        }
        let next = if start == 0 { revision + 1 } else { start };
        let synced = next > revision;
        let group = self.groups.join(interest);
        let Some(state) = self.streams.get_mut(&stream) else { return Ok(()) };
        let watcher = Watcher { group, synced, fragment: request.fragment, idle: true, next };
        state.watchers.insert(watch_id, watcher);
        self.watchers += 1;
        if synced {
            self.groups.list(group, watcher.cohort(stream), watch_id, next);
        } else {
            state.unsynced.insert((next, watch_id));
            self.slow_watchers += 1;
        }
        if next > revision + 1 {
            Self::stop_waiting_for(&mut self.waiting_for, stream, state);
            state.future.insert((next, watch_id));
        }
        if request.progress_notify {
            state.progress.insert(watch_id);
            if state.progress_at.is_none() {
                self.schedule_progress(stream, now);
            }
        }
        self.refresh(stream);
        Ok(())
    }

    /// A client cancels a watcher; an unknown one is ignored.
    pub fn cancel(&mut self, stream: u64, watch_id: i64) {
        self.deliver();
        if self.remove(stream, watch_id) {
            let revision = self.revision;
            self.push(
                stream,
                WatchResponse { revision, watch_id, canceled: true, ..WatchResponse::default() },
            );
            self.refresh(stream);
        }
    }

    /// A client asks how far all watchers of its stream are. Answered by `work` once they are all
    /// synced, after everything that is queued; requests that wait are answered together.
    pub fn request_progress(&mut self, stream: u64) {
        if let Some(state) = self.streams.get_mut(&stream) {
            state.progress_requested = true;
            self.refresh(stream);
        }
    }

    /// The transport handed that many responses of the stream to the client.
    pub fn credit(&mut self, stream: u64, responses: u32) {
        if let Some(state) = self.streams.get_mut(&stream) {
            self.sent_events += state.credit(responses) as u64;
            self.refresh(stream);
        }
    }

    /// Does a bounded slice of what is waiting: catching up, progress. True if more could be done at
    /// once; what waits for credit does not count.
    ///
    /// # Errors
    /// The store could not be read.
    pub fn work(&mut self, now: Time, store: &dyn HistoryReader) -> Result<bool, Fatal> {
        self.deliver();
        self.saw(store);
        while let Some(&(at, stream)) = self.timers.first()
            && at <= now
        {
            self.progress_tick(stream, now);
        }
        if let Some(stream) = self.waiting.pop_front() {
            let state = self.streams.get_mut(&stream).expect("a closed stream does not wait");
            state.waiting = false;
            if planted::on(Bug::WatchProgressOvertakes) {
                self.send_progress(stream);
            }
            let state = self.streams.get_mut(&stream).expect("a closed stream does not wait");
            if !state.unsynced.is_empty() {
                self.catch_up(stream, store)?;
            }
            self.send_progress(stream);
            self.refresh(stream);
        }
        Ok(!self.waiting.is_empty())
    }

    /// When `work` has something to do even if nothing else happens.
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// The next responses for the transport; streams take turns.
    pub fn poll(&mut self) -> Option<(u64, WatchBatch)> {
        self.deliver();
        let stream = self.ready.pop_front()?;
        let state = self.streams.get_mut(&stream).expect("a closed stream is not ready");
        let batch = state.pop().expect("a ready stream has a response");
        if state.queue_is_empty() {
            state.ready = false;
        } else {
            self.ready.push_back(stream);
        }
        Some((stream, batch))
    }

    /// The store was replaced by a snapshot: what happened in between was not notified. Every watcher
    /// goes on from its own position (etcd #15271, #20221); `work` cancels those that a compaction
    /// overtook.
    pub fn restored(&mut self, store: &dyn HistoryReader) {
        self.deliver();
        let (told, revision) = (self.revision, store.revision());
        let mut behind = Vec::new();
        for (&stream, state) in &self.streams {
            for (&id, watcher) in &state.watchers {
                let mut position = watcher.next.max(told + 1);
                if planted::on(Bug::WatchReplaysAfterSnapshot) {
                    position = store.compact_revision().max(2);
                }
                if planted::on(Bug::WatchGapAfterSnapshot) {
                    continue;
                }
                if watcher.synced && position <= revision {
                    behind.push((stream, id, position));
                }
            }
        }
        self.saw(store);
        for (stream, id, position) in behind {
            self.fall_back(stream, id, position);
        }
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        for stream in streams {
            self.refresh(stream);
        }
    }

    /// Counts for metrics; linear in the streams.
    pub fn stats(&self) -> WatchStats {
        WatchStats {
            streams: self.streams.len(),
            watchers: self.watchers,
            slow_watchers: self.slow_watchers,
            pending_events: self.streams.values().map(Stream::in_flight_events).sum(),
            sent_events: self.sent_events,
        }
    }

    /// Checks what must hold between calls.
    pub fn invariants(&self) {
        let mut slow = 0;
        for (&stream, state) in &self.streams {
            slow += state.unsynced.len();
            for (&id, watcher) in &state.watchers {
                assert_eq!(watcher.synced, !state.unsynced.contains(&(watcher.next, id)));
                let listed = self.groups.is_listed(watcher.group, watcher.cohort(stream), id);
                assert_eq!(watcher.synced, listed);
                assert!(watcher.synced || watcher.next <= self.revision, "an unsynced watcher is behind");
            }
            assert_eq!(state.waiting, self.waiting.contains(&stream));
            assert_eq!(state.ready, self.ready.contains(&stream));
            assert_eq!(state.ready, !state.queue_is_empty());
            assert!(state.waiting || !self.can_work(state), "a stream with work waits for its turn");
        }
        assert_eq!(slow, self.slow_watchers);
        assert_eq!(self.streams.values().map(|state| state.watchers.len()).sum::<usize>(), self.watchers);
    }

    #[cfg(test)]
    pub(super) fn groups(&self) -> &Groups {
        &self.groups
    }

    fn saw(&mut self, store: &dyn HistoryReader) {
        self.revision = self.revision.max(store.revision());
    }

    fn push(&mut self, stream: u64, response: WatchResponse) {
        if let Some(state) = self.streams.get_mut(&stream) {
            state.push(response);
            self.mark_ready(stream);
        }
    }

    fn mark_ready(&mut self, stream: u64) {
        if let Some(state) = self.streams.get_mut(&stream)
            && !state.ready
        {
            state.ready = true;
            self.ready.push_back(stream);
        }
    }

    /// A synced watcher becomes an unsynced one at `position`.
    fn fall_back(&mut self, stream: u64, watch_id: i64, position: i64) {
        let state = self.streams.get_mut(&stream).expect("a synced watcher has a stream");
        let watcher = state.watchers.get_mut(&watch_id).expect("a synced watcher is on its stream");
        (watcher.synced, watcher.next) = (false, position);
        state.unsynced.insert((position, watch_id));
        self.slow_watchers += 1;
        self.groups.unlist(watcher.group, watcher.cohort(stream), watch_id);
    }

    /// Forgets a watcher; false if there is none.
    fn remove(&mut self, stream: u64, watch_id: i64) -> bool {
        let Some(state) = self.streams.get_mut(&stream) else { return false };
        let Some(watcher) = state.watchers.remove(&watch_id) else { return false };
        self.watchers -= 1;
        if state.unsynced.remove(&(watcher.next, watch_id)) {
            self.slow_watchers -= 1;
        }
        Self::stop_waiting_for(&mut self.waiting_for, stream, state);
        state.future.retain(|&(_, id)| id != watch_id);
        state.progress.remove(&watch_id);
        state.progress_due.remove(&watch_id);
        if state.progress.is_empty()
            && let Some(at) = state.progress_at.take()
        {
            self.timers.remove(&(at, stream));
        }
        self.groups.leave(watcher.group, watcher.cohort(stream), watch_id);
        true
    }

    /// To be called before a stream's set of future watchers changes; `refresh` waits anew.
    fn stop_waiting_for(waiting_for: &mut BTreeSet<(i64, u64)>, stream: u64, state: &Stream) {
        if let Some(&(start, _)) = state.future.last() {
            waiting_for.remove(&(start, stream));
        }
    }

    fn can_work(&self, state: &Stream) -> bool {
        state.has_room(&self.options)
            && (!state.unsynced.is_empty()
                || !state.progress_due.is_empty()
                || state.progress_requested && !self.has_future(state))
    }

    fn has_future(&self, state: &Stream) -> bool {
        state.future.last().is_some_and(|&(start, _)| start > self.revision + 1)
    }

    /// Brings the hub's queues in line with what the stream can do now.
    fn refresh(&mut self, stream: u64) {
        let Some(state) = self.streams.get(&stream) else { return };
        let can_work = self.can_work(state);
        let has_future = self.has_future(state);
        let state = self.streams.get_mut(&stream).expect("it was there a moment ago");
        if can_work && !state.waiting {
            state.waiting = true;
            self.waiting.push_back(stream);
        }
        if state.progress_requested
            && has_future
            && let Some(&(start, _)) = state.future.last()
        {
            self.waiting_for.insert((start, stream));
        }
        let position = if can_work { state.unsynced.first().map(|&(next, _)| next) } else { None };
        if position != state.lagging_at {
            if let Some(old) = state.lagging_at {
                self.lagging.remove(&(old, stream));
            }
            if let Some(new) = position {
                self.lagging.insert((new, stream));
            }
            state.lagging_at = position;
        }
    }

    /// Reads one window for the stream whose turn it is and for all that are inside of it.
    fn catch_up(&mut self, stream: u64, store: &dyn HistoryReader) -> Result<(), Fatal> {
        self.cancel_compacted(stream, store);
        let Some(state) = self.streams.get_mut(&stream) else { return Ok(()) };
        if !state.has_room(&self.options) {
            return Ok(());
        }
        let position = if state.highest_next { state.unsynced.last() } else { state.unsynced.first() };
        let Some(&(from, _)) = position else { return Ok(()) };
        state.highest_next = !state.highest_next;
        let (changes, more) = store.changes(Revision::new(from, 0), self.options.catch_up_rows_max)?;
        let to = more.map_or(store.revision(), |more| more.main - 1);
        assert!(to >= from, "a window has at least one revision");
        let mut window = Window::new(&changes, to, store);
        let mut watchers_left = self.options.catch_up_watchers_max;
        let mut events_left = 8 * self.options.catch_up_rows_max;
        let others: Vec<u64> = self
            .lagging
            .range((from, 0)..=(to, u64::MAX))
            .map(|&(_, other)| other)
            .filter(|&other| other != stream)
            .take(watchers_left)
            .collect();
        for reader in std::iter::once(stream).chain(others) {
            let Some(state) = self.streams.get(&reader) else { continue };
            let inside: Vec<(i64, i64)> = state
                .unsynced
                .range((from, i64::MIN)..=(to, i64::MAX))
                .take(watchers_left)
                .copied()
                .collect();
            for (next, watch_id) in inside {
                if watchers_left == 0 || events_left == 0 {
                    break;
                }
                watchers_left -= 1;
                let Some(sent) = self.advance(reader, watch_id, next, &mut window, store)? else { break };
                events_left = events_left.saturating_sub(sent);
            }
            self.refresh(reader);
        }
        Ok(())
    }

    /// Moves an unsynced watcher through the window; how many events it was sent, `None` if there was
    /// no room.
    fn advance(
        &mut self,
        stream: u64,
        watch_id: i64,
        next: i64,
        window: &mut Window<'_>,
        store: &dyn HistoryReader,
    ) -> Result<Option<usize>, Fatal> {
        let state = self.streams.get_mut(&stream).expect("an unsynced watcher has a stream");
        if !state.has_room(&self.options) {
            return Ok(None);
        }
        let watcher = state.watchers.get_mut(&watch_id).expect("an unsynced watcher is on its stream");
        let bytes_max = self.options.fragment_bytes_max;
        let batch = window.batch(self.groups.interest(watcher.group), next, bytes_max)?;
        let sent = batch.events.len();
        let synced = batch.next > store.revision();
        (watcher.next, watcher.synced) = (batch.next, synced);
        let (group, cohort) = (watcher.group, watcher.cohort(stream));
        state.unsynced.remove(&(next, watch_id));
        if synced {
            self.slow_watchers -= 1;
            self.groups.list(group, cohort, watch_id, batch.next);
        } else {
            state.unsynced.insert((batch.next, watch_id));
        }
        if sent > 0 {
            // As far as the watcher has seen everything; etcd's answer when one batch is enough.
            let revision = batch.next - 1;
            let whole = Part::from(batch.events);
            let parts = if cohort.1 { whole.split(bytes_max) } else { vec![whole] };
            state.push_events(watch_id, revision, &parts);
            self.mark_ready(stream);
        }
        Ok(Some(sent))
    }

    /// Cancels the watchers whose position was compacted, instead of leaving a gap (etcd #17529).
    fn cancel_compacted(&mut self, stream: u64, store: &dyn HistoryReader) {
        while let Some(state) = self.streams.get(&stream)
            && let Some(&(next, watch_id)) = state.unsynced.first()
            && next < store.compact_revision()
            && !planted::on(Bug::WatchGapAfterCompaction)
            && state.has_room(&self.options)
        {
            self.remove(stream, watch_id);
            self.push(stream, compacted(watch_id, store));
        }
    }

    fn schedule_progress(&mut self, stream: u64, now: Time) {
        let interval = self.options.progress_interval;
        let jitter_max = u64::try_from(interval.as_nanos() / 10).unwrap_or(u64::MAX);
        let at = now + interval + Duration::from_nanos(self.rng.below(jitter_max));
        if let Some(state) = self.streams.get_mut(&stream) {
            state.progress_at = Some(at);
            self.timers.insert((at, stream));
        }
    }

    fn progress_tick(&mut self, stream: u64, now: Time) {
        let state = self.streams.get_mut(&stream).expect("a closed stream has no timer");
        if let Some(at) = state.progress_at.take() {
            self.timers.remove(&(at, stream));
        }
        for &id in &state.progress {
            let watcher = state.watchers.get_mut(&id).expect("a progress watcher is on its stream");
            if is_idle(&self.groups, stream, watcher) {
                state.progress_due.insert(id);
            }
            watcher.idle = true;
            if watcher.synced {
                watcher.next = watcher.next.max(self.revision + 1);
            }
        }
        self.schedule_progress(stream, now);
        self.refresh(stream);
    }

    /// Sends due progress as far as there is room.
    fn send_progress(&mut self, stream: u64) {
        let revision = self.revision;
        let Some(state) = self.streams.get_mut(&stream) else { return };
        while state.has_room(&self.options)
            && let Some(watch_id) = state.progress_due.pop_first()
        {
            // An unsynced watcher, one that has just been sent events or one that has not started has
            // nothing to be told; the next tick asks again.
            let tell = state
                .watchers
                .get(&watch_id)
                .filter(|watcher| watcher.synced && watcher.next <= revision + 1)
                .is_some_and(|watcher| is_idle(&self.groups, stream, watcher))
                || planted::on(Bug::WatchProgressOvertakes);
            if tell {
                state.push(WatchResponse { revision, watch_id, ..WatchResponse::default() });
            }
        }
        let state = &self.streams[&stream];
        // etcd #15220: only when every event up to the revision is in the queue before the answer.
        let answer = state.progress_requested
            && (state.unsynced.is_empty() || planted::on(Bug::WatchProgressOvertakes))
            && !self.has_future(state)
            && state.has_room(&self.options);
        if let Some(state) = self.streams.get_mut(&stream) {
            if answer {
                state.progress_requested = false;
                state.push(WatchResponse { revision, watch_id: NO_WATCHER, ..WatchResponse::default() });
            }
            if !state.queue_is_empty() {
                self.mark_ready(stream);
            }
        }
    }
}

/// Whether a watcher was sent no event since the last progress tick.
fn is_idle(groups: &Groups, stream: u64, watcher: &Watcher) -> bool {
    watcher.idle && (!watcher.synced || groups.told(watcher.group, watcher.cohort(stream)) < watcher.next)
}

/// etcd leaves the header's revision and the reason out here (A-W-06).
fn compacted(watch_id: i64, store: &dyn HistoryReader) -> WatchResponse {
    WatchResponse {
        watch_id,
        canceled: true,
        compact_revision: store.compact_revision(),
        ..WatchResponse::default()
    }
}
