//! One lane of messages that wait for a peer: bounded in number and bytes, never blocking the sender.
//!
//! Invariant: what is popped is a gapless prefix of what was pushed and not refused or cleared.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::Notify;

/// A batch is closed when it reaches this size, so that one write stays small beside a window.
const BATCH_BYTES: usize = 1 << 20;

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits for the peer.
    Queued,
    /// No room; the first refusal since the lane had room last.
    Overflow,
    /// Still no room.
    Dropped,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    overflowed: bool,
}

/// A bounded lane.
pub(super) struct Lane {
    state: Mutex<State>,
    filled: Notify,
    messages_max: usize,
    bytes_max: usize,
}

impl Lane {
    pub(super) fn new(messages_max: usize, bytes_max: usize) -> Self {
        Self { state: Mutex::default(), filled: Notify::new(), messages_max, bytes_max }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the lane")
    }

    pub(super) fn push(&self, message: Bytes) -> Pushed {
        let mut state = self.lock();
        if state.waiting.len() >= self.messages_max || state.bytes + message.len() > self.bytes_max {
            let first = !std::mem::replace(&mut state.overflowed, true);
            return if first { Pushed::Overflow } else { Pushed::Dropped };
        }
        state.bytes += message.len();
        state.waiting.push_back(message);
        drop(state);
        self.filled.notify_one();
        Pushed::Queued
    }

    /// Forgets everything that waits: after a broken connection it is stale.
    pub(super) fn clear(&self) {
        *self.lock() = State::default();
    }

    /// Waits for messages and takes as many as fit into one batch, at least one.
    pub(super) async fn batch(&self) -> Vec<Bytes> {
        loop {
            if let Some(batch) = self.take() {
                return batch;
            }
            // `notify_one` keeps a permit when nobody waits, so a push between is not missed.
            self.filled.notified().await;
        }
    }

    /// A batch of what waits already.
    pub(super) fn take(&self) -> Option<Vec<Bytes>> {
        let mut state = self.lock();
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(message) = state.waiting.front() {
            if !batch.is_empty() && bytes + message.len() > BATCH_BYTES {
                break;
            }
            bytes += message.len();
            batch.extend(state.waiting.pop_front());
        }
        if batch.is_empty() {
            return None;
        }
        state.bytes -= bytes;
        state.overflowed = false;
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refuses_beyond_its_bounds_and_keeps_order() {
        let lane = Lane::new(2, 100);
        assert_eq!(lane.push(Bytes::from_static(b"a")), Pushed::Queued);
        assert_eq!(lane.push(Bytes::from_static(b"b")), Pushed::Queued);
        assert_eq!(lane.push(Bytes::from_static(b"c")), Pushed::Overflow);
        assert_eq!(lane.push(Bytes::from_static(b"d")), Pushed::Dropped);
        assert_eq!(lane.batch().await, vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        assert_eq!(lane.push(Bytes::from(vec![0; 101])), Pushed::Overflow);
        assert_eq!(lane.push(Bytes::from(vec![0; 100])), Pushed::Queued);
        lane.clear();
        assert_eq!(lane.push(Bytes::from(vec![1; 100])), Pushed::Queued);
        assert_eq!(lane.batch().await, vec![Bytes::from(vec![1; 100])]);
    }

    #[tokio::test]
    async fn a_batch_is_bounded_but_never_empty() {
        let lane = Lane::new(10, 10 * BATCH_BYTES);
        for size in [2 * BATCH_BYTES, 1, BATCH_BYTES - 1, 1] {
            lane.push(Bytes::from(vec![0; size]));
        }
        assert_eq!(lane.batch().await.len(), 1);
        assert_eq!(lane.batch().await.len(), 2);
        assert_eq!(lane.batch().await.len(), 1);
    }
}
