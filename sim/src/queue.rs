//! What happens next: the heap of events, in order of time and, within a moment, of their making.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;
use cairn_core::mvcc::StoreView;
use cairn_core::node::{Input, ReadTask};
use cairn_core::types::MemberId;

/// Everything that can happen.
#[derive(Debug)]
#[allow(missing_docs)]
pub(crate) enum Event {
    Process { member: MemberId, boot: u64 },
    Wake { member: MemberId, boot: u64 },
    Feed { member: MemberId, boot: u64, input: Input },
    Deliver { from: MemberId, to: MemberId, epoch: u64, message: Bytes },
    Drip { from: MemberId, to: MemberId },
    LogDone { member: MemberId, boot: u64 },
    StorageDone { member: MemberId, boot: u64 },
    Snapshot { from: MemberId, boot: u64, to: MemberId, header: Bytes, view: Box<StoreView> },
    ReadDone { member: MemberId, boot: u64, request: u64, task: Box<ReadTask> },
    ClientNext { client: usize },
    ClientTimeout { client: usize, number: u64 },
    WatchOpen { watcher: usize },
    WatchAsk { watcher: usize },
    Fault,
    Aimed { member: MemberId },
    Provoke,
    Heal { fault: u64 },
    Resume { member: MemberId },
    Restart { member: MemberId },
    Stop { member: MemberId, boot: u64 },
    Fast { member: MemberId },
    Cut { member: MemberId, fault: u64 },
    Strobe { member: MemberId, left: u64 },
    Storm { member: MemberId, left: u64 },
    Space { member: MemberId },
    Operate,
    Reconcile,
}

/// An event's time, its turn among those of the same time, and where it waits: events are large, and
/// the heap moves what is in it.
struct Scheduled {
    at: u64,
    seq: u64,
    slot: usize,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// The heap.
#[derive(Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Scheduled>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    seq: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: u64, event: Event) {
        self.seq += 1;
        let slot = self.free.pop().unwrap_or(self.events.len());
        if slot == self.events.len() {
            self.events.push(None);
        }
        self.events[slot] = Some(event);
        self.heap.push(Reverse(Scheduled { at, seq: self.seq, slot }));
    }

    /// The time of the next event.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|next| next.0.at)
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, Event)> {
        let Reverse(next) = self.heap.pop()?;
        self.free.push(next.slot);
        Some((next.at, self.events[next.slot].take()?))
    }
}
