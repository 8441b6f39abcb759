//! How the services reach the member: a handle that submits calls and receives replies.
//!
//! The server's driver owns the other end. Nothing here knows consensus or storage; nothing there
//! knows gRPC or HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_core::api::{Request, Response, WatchBatch, WatchCreateRequest};
use cairn_core::error::Error;
use cairn_core::mvcc::StoreView;
use tokio::sync::{mpsc, oneshot, watch};

use crate::services::rows::RowFrames;

/// Names a watch stream on this member; never reused.
pub type StreamId = u64;

/// A reply, with the pinned view that `Request::Snapshot` asked for.
#[derive(Debug)]
pub struct Reply {
    /// Header and body.
    pub response: Response,
    /// Present for `Request::Snapshot` only.
    pub view: Option<StoreView>,
    /// A long range's whole answer, instead of the body, for callers that take it so.
    pub frames: Option<RowFrames>,
}

/// What a service asks of the member.
#[derive(Debug)]
pub enum Call {
    /// One request; the driver answers exactly once, or drops the sender when it stops.
    Request {
        /// What to do.
        request: Request,
        /// How long the caller waits; `None` for the server's own limit.
        timeout: Option<Duration>,
        /// Whether a long range may be answered by [`Reply::frames`].
        in_frames: bool,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Reply, Error>>,
    },
    /// Opens a watch stream. Responses arrive on `out` while the stream has credit.
    WatchOpen {
        /// The new stream.
        stream: StreamId,
        /// Where its responses go, in order.
        out: mpsc::UnboundedSender<WatchBatch>,
    },
    /// Adds a watcher.
    WatchCreate {
        /// The stream.
        stream: StreamId,
        /// The watcher.
        request: WatchCreateRequest,
    },
    /// Removes a watcher.
    WatchCancel {
        /// The stream.
        stream: StreamId,
        /// The watcher.
        watch_id: i64,
    },
    /// Asks for a progress notification that is valid for the whole stream.
    WatchProgress {
        /// The stream.
        stream: StreamId,
    },
    /// Says that `responses` more responses were handed to the transport.
    WatchCredit {
        /// The stream.
        stream: StreamId,
        /// How many.
        responses: u32,
    },
    /// Closes a stream; its watchers go with it.
    WatchClose {
        /// The stream.
        stream: StreamId,
    },
}

/// What the member publishes about itself; watch channels, so that readers never wait for the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// The cluster.
    pub cluster_id: u64,
    /// This member.
    pub member_id: u64,
    /// The leader, or 0.
    pub leader: u64,
    /// The Raft term.
    pub term: u64,
    /// Whether this member is a learner.
    pub is_learner: bool,
    /// The cluster's version, e.g. `3.7.0`; empty while it is not decided.
    pub cluster_version: String,
    /// Whether a NOSPACE or CORRUPT alarm is active.
    pub alarms: Vec<cairn_core::api::AlarmMember>,
    /// Members, for the peer port's `/members`.
    pub members: Vec<cairn_core::api::Member>,
}

/// Runs its argument; what that submits from its thread, the member handles at its end, all at once.
pub type Gather = dyn Fn(&mut dyn FnMut()) + Send + Sync;

/// A clonable way to the member.
#[derive(Clone)]
pub struct Handle {
    submit: Arc<dyn Fn(Call) -> Result<(), Error> + Send + Sync>,
    gather: Option<Arc<Gather>>,
    status: watch::Receiver<MemberStatus>,
    next_stream: Arc<AtomicU64>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

impl Handle {
    /// A handle whose calls go to `submit`, which must not block and fails only when the member stops.
    pub fn new(
        submit: Arc<dyn Fn(Call) -> Result<(), Error> + Send + Sync>,
        status: watch::Receiver<MemberStatus>,
    ) -> Self {
        Self { submit, gather: None, status, next_stream: Arc::new(AtomicU64::new(1)) }
    }

    /// The same handle for a member that takes calls in batches.
    #[must_use]
    pub fn gathering(self, gather: Arc<Gather>) -> Self {
        Self { gather: Some(gather), ..self }
    }

    /// Runs `work`, which must not wait; what it submits may be handled together when it ends.
    pub(crate) fn gather(&self, work: &mut dyn FnMut()) {
        match &self.gather {
            Some(gather) => gather(work),
            None => work(),
        }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// Whatever the member answers; [`Error::Stopped`] when it stops first.
    pub async fn request(&self, request: Request, timeout: Option<Duration>) -> Result<Reply, Error> {
        self.ask(request, timeout, false).await
    }

    /// The same with the server's own limit, for a caller that takes a long range's answer in frames.
    ///
    /// # Errors
    /// As [`Handle::request`].
    pub(crate) async fn request_in_frames(&self, request: Request) -> Result<Reply, Error> {
        self.ask(request, None, true).await
    }

    async fn ask(
        &self,
        request: Request,
        timeout: Option<Duration>,
        in_frames: bool,
    ) -> Result<Reply, Error> {
        let (reply, answer) = oneshot::channel();
        (self.submit)(Call::Request { request, timeout, in_frames, reply })?;
        answer.await.unwrap_or(Err(Error::Stopped))
    }

    /// Submits a call that has no reply of its own.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the member has stopped.
    pub fn submit(&self, call: Call) -> Result<(), Error> {
        (self.submit)(call)
    }

    /// A stream id that was never used before.
    pub fn next_stream(&self) -> StreamId {
        self.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    /// Looks at the member's published status. `look` must not wait.
    pub(crate) fn with_status<T>(&self, look: impl FnOnce(&MemberStatus) -> T) -> T {
        look(&self.status.borrow())
    }

    /// The member's published status.
    pub fn status(&self) -> watch::Receiver<MemberStatus> {
        self.status.clone()
    }
}
