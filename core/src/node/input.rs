//! Everything that can happen to a node.

use std::time::Duration;

use bytes::Bytes;

use crate::api::{Request, WatchCreateRequest};
use crate::backend::Size;
use crate::types::MemberId;

/// One thing that happened. A driver hands them over in the order in which it learned of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The time that [`super::Node::next_wakeup`] named has come. Spurious ones are harmless.
    Wakeup,
    /// A client's request; answered by exactly one [`super::Output::Reply`] or
    /// [`super::Output::StartRead`] with this id.
    Request {
        /// Larger than every id before it, below 2^63.
        id: u64,
        /// What to do.
        request: Request,
        /// How long the client waits, if less than the node's own limit.
        timeout: Option<Duration>,
    },
    /// A watch stream opened.
    WatchOpen {
        /// Never used before.
        stream: u64,
    },
    /// A client adds a watcher.
    WatchCreate {
        /// The stream.
        stream: u64,
        /// The watcher.
        request: WatchCreateRequest,
    },
    /// A client removes a watcher.
    WatchCancel {
        /// The stream.
        stream: u64,
        /// The watcher.
        watch_id: i64,
    },
    /// A client asks how far a stream has come.
    WatchProgress {
        /// The stream.
        stream: u64,
    },
    /// The transport took that many responses of a stream.
    WatchCredit {
        /// The stream.
        stream: u64,
        /// How many.
        responses: u32,
    },
    /// A watch stream closed.
    WatchClose {
        /// The stream.
        stream: u64,
    },
    /// Bytes of a peer, from [`super::Output::Send`] there.
    Peer {
        /// The sender, as the transport authenticated it.
        from: MemberId,
        /// The message.
        message: Bytes,
    },
    /// The connection to a peer is up.
    PeerConnected {
        /// The peer.
        peer: MemberId,
    },
    /// The connection to a peer is down, or a message to it was dropped.
    PeerUnreachable {
        /// The peer.
        peer: MemberId,
    },
    /// Every connection with a peer broke, in both directions, and it refuses new ones: its process
    /// has most likely ended.
    PeerLost {
        /// The peer.
        peer: MemberId,
    },
    /// A peer refuses this member because it was removed. That is committed, but the log need not tell:
    /// whoever leads may have removed this member before it had replicated the change to it.
    Removed,
    /// Every append and repair up to this one is durable.
    Appended {
        /// From [`super::Output::Append`] or [`super::Output::Repair`].
        seq: u64,
    },
    /// The flush in flight is committed.
    Flushed {
        /// The backend's size after it.
        size: Size,
    },
    /// Physical compaction up to a revision is committed.
    Compacted {
        /// From [`super::Output::Compact`].
        to: i64,
        /// The backend's size after it.
        size: Size,
    },
    /// The disk is full: nothing is lost, but writes must stop (NOSPACE). The backend has been opened anew
    /// if it was the backend that could not write.
    StorageFull,
    /// A defragmentation ended.
    Defragmented {
        /// Why it failed, if it did.
        result: Result<(), String>,
        /// The backend's size after it.
        size: Size,
    },
    /// A snapshot that was sent to a peer arrived there, or did not.
    SnapshotSent {
        /// The peer.
        to: MemberId,
        /// Whether the peer has it.
        ok: bool,
    },
    /// A peer's snapshot is complete and verified on disk, beside the current state.
    SnapshotReceived {
        /// The sender.
        from: MemberId,
        /// The header that came with it.
        header: Bytes,
    },
    /// The received snapshot has replaced the backend's state.
    SnapshotInstalled {
        /// The backend's size after it.
        size: Size,
    },
    /// The process is about to stop: give leadership away if possible.
    Resign,
}
