//! The production driver: one thread writes the log, one the backend; tokio carries gRPC and HTTP.
//! Everything meets in one [`Inbox`] of [`Event`]s, and whoever brings one to a node at rest runs it.
//!
//! The loop is the same as the simulator's: events or the wakeup come, `handle` each, drain `poll`,
//! dispatch. It decides nothing and waits for nothing.

mod dispatch;
mod inbox;
mod log_lane;
mod log_thread;
mod pace;
mod peers;
mod reads;
mod storage_thread;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_core::api::WatchBatch;
use cairn_core::error::{Error, Fatal};
use cairn_core::node::{Input, Node, NodeEvent, Status, WakeupReason};
use cairn_core::time::Time;
use cairn_core::types::MemberId;
use cairn_net::handle::{Call, Reply};
use crossbeam_channel::Sender;
use tokio::sync::{mpsc, oneshot, watch};

use inbox::Machine;
pub(crate) use inbox::Stopped;
pub(crate) use log_lane::LogLane;
pub(crate) use log_thread::{LogJob, LogSender, spawn as spawn_log};
pub(crate) use pace::Pace;
pub(crate) use peers::{Peers, Receiver};
pub(crate) use reads::ReadPool;
pub(crate) use storage_thread::{Incoming, Storage, StorageJob, Transfers, spawn as spawn_storage};

/// How often the published status is refreshed when nothing in particular happened.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);

/// The way to the node.
pub(crate) type Inbox = inbox::Inbox<Driver>;

/// Everything that reaches the node.
#[derive(Debug)]
pub(crate) enum Event {
    Call(Call),
    Input(Input),
    /// A read ended on another thread.
    ReadDone {
        id: u64,
        result: Result<Reply, Error>,
    },
    /// A thread met a failure that the process must not survive.
    Fatal(Fatal),
    /// Give leadership away, then say so.
    Resign(oneshot::Sender<()>),
    /// End the loop.
    Stop,
}

/// What the loop tells the rest of the process.
#[derive(Debug)]
pub(crate) enum Notice {
    Node(NodeEvent),
    Fatal(Fatal),
}

/// The threads and tasks that perform outputs.
pub(crate) struct Workers {
    pub(crate) log: LogSender,
    pub(crate) storage: Sender<StorageJob>,
    pub(crate) reads: ReadPool,
    pub(crate) peers: Arc<Peers>,
    pub(crate) pace: Pace,
    pub(crate) notices: mpsc::UnboundedSender<Notice>,
    pub(crate) status: watch::Sender<Status>,
}

/// Who waits for an answer.
struct Waiter {
    reply: oneshot::Sender<Result<Reply, Error>>,
    in_frames: bool,
}

/// The node with those who wait for it.
pub(crate) struct Driver {
    node: Node,
    started: Instant,
    workers: Workers,
    next_id: u64,
    waiters: HashMap<u64, Waiter>,
    streams: HashMap<u64, mpsc::UnboundedSender<WatchBatch>>,
    resigning: Option<oneshot::Sender<()>>,
    status_at: Instant,
    status_due: bool,
    stopped: bool,
}

impl Driver {
    pub(crate) fn new(node: Node, started: Instant, workers: Workers) -> Self {
        Self {
            node,
            started,
            workers,
            next_id: 0,
            waiters: HashMap::new(),
            streams: HashMap::new(),
            resigning: None,
            status_at: started,
            status_due: true,
            stopped: false,
        }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Tells how late a heartbeat is.
    fn note_pace(&self, now: Time) {
        if let Some(wakeup) = self.node.next_wakeup()
            && wakeup.reason == WakeupReason::Tick
            && wakeup.at <= now
        {
            self.workers.pace.tick(now.since(wakeup.at), &self.workers.status.borrow());
        }
    }

    fn accept_call(&mut self, now: Time, call: Call) {
        let input = match call {
            Call::Request { request, timeout, in_frames, reply } => {
                self.next_id += 1;
                self.waiters.insert(self.next_id, Waiter { reply, in_frames });
                Input::Request { id: self.next_id, request, timeout }
            }
            Call::WatchOpen { stream, out } => {
                self.streams.insert(stream, out);
                Input::WatchOpen { stream }
            }
            Call::WatchCreate { stream, request } => Input::WatchCreate { stream, request },
            Call::WatchCancel { stream, watch_id } => Input::WatchCancel { stream, watch_id },
            Call::WatchProgress { stream } => Input::WatchProgress { stream },
            Call::WatchCredit { stream, responses } => Input::WatchCredit { stream, responses },
            Call::WatchClose { stream } => {
                self.streams.remove(&stream);
                Input::WatchClose { stream }
            }
        };
        self.node.handle(now, input);
    }

    fn answer(&mut self, id: u64, result: Result<Reply, Error>) {
        // A client that has gone away no longer waits.
        if let Some(waiter) = self.waiters.remove(&id) {
            let _ = waiter.reply.send(result);
        }
    }

    fn fail(&mut self, fatal: Fatal) {
        self.stopped = true;
        let _ = self.workers.notices.send(Notice::Fatal(fatal));
    }

    fn publish_status(&mut self) {
        self.status_due = false;
        self.status_at = Instant::now();
        let status = self.node.status();
        let leads = status.leader == status.member_id;
        if !leads && let Some(done) = self.resigning.take() {
            let _ = done.send(());
        }
        self.workers.status.send_replace(status);
    }
}

impl Machine for Driver {
    type Event = Event;

    fn wakeup() -> Event {
        Event::Input(Input::Wakeup)
    }

    fn accept(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Input(input) => {
                if input == Input::Wakeup {
                    self.note_pace(now);
                }
                self.node.handle(now, input);
            }
            Event::Call(call) => self.accept_call(now, call),
            Event::ReadDone { id, result } => self.answer(id, result),
            Event::Fatal(fatal) => self.fail(fatal),
            Event::Resign(done) => {
                self.node.handle(now, Input::Resign);
                self.resigning = Some(done);
            }
            Event::Stop => self.stopped = true,
        }
    }

    fn drain(&mut self) {
        let started = Instant::now();
        while let Some(output) = self.node.poll() {
            self.dispatch(output);
        }
        self.workers.pace.turn(self.node.applied_ops(), started.elapsed());
        if self.status_due || self.status_at.elapsed() >= STATUS_INTERVAL {
            self.publish_status();
        }
    }

    fn next_wakeup(&self) -> Option<Instant> {
        self.node.next_wakeup().map(|wakeup| self.started + wakeup.at.since(Time(0)))
    }

    fn has_stopped(&self) -> bool {
        self.stopped
    }
}

/// A member's id as operators write it.
pub(crate) fn hex(id: MemberId) -> String {
    format!("{id:x}")
}
