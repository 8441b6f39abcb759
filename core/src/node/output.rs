//! Everything that a node asks of its driver. Each is safe to perform as soon as it is emitted.

use bytes::Bytes;

use crate::api::{Response, WatchBatch};
use crate::backend::overlay::Flush;
use crate::error::{Error, Fatal};
use crate::types::{Index, MemberId, Term};
use crate::wal::{Append, Damaged, LogEntry};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write to the log and make it durable, in order; answer with [`super::Input::Appended`].
    Append {
        /// Counts up.
        seq: u64,
        /// What to write.
        append: Append,
    },
    /// Write these entries again, each in the place where it was damaged, and make them durable, in
    /// order with the appends; answer with [`super::Input::Appended`].
    Repair {
        /// Counts up together with those of appends.
        seq: u64,
        /// The entries.
        entries: Vec<(Damaged, LogEntry)>,
    },
    /// Send to a peer; may be lost.
    Send {
        /// The peer.
        to: MemberId,
        /// The message.
        message: Bytes,
    },
    /// Send a snapshot: the rows of a view, announced by the header. Answer with
    /// [`super::Input::SnapshotSent`].
    SendSnapshot {
        /// The peer.
        to: MemberId,
        /// To be taken with [`super::Node::take_view`].
        view: u64,
        /// Opaque; the peer's driver passes it on.
        header: Bytes,
    },
    /// Answer a client.
    Reply {
        /// The request.
        id: u64,
        /// The answer.
        result: Result<Response, Error>,
    },
    /// Answer a client by running a read on another thread: take it with
    /// [`super::Node::take_read`], run it, reply.
    StartRead {
        /// The request, and the name of the read.
        id: u64,
    },
    /// Messages of a watch stream.
    Watch {
        /// The stream.
        stream: u64,
        /// The messages.
        batch: WatchBatch,
    },
    /// End a watch stream whose client asks but does not read.
    CloseWatch {
        /// The stream.
        stream: u64,
    },
    /// Commit rows to the backend; answer with [`super::Input::Flushed`]. Never two at a time, but
    /// between the batches of a compaction if need be.
    Flush {
        /// What to commit.
        flush: Flush,
    },
    /// Compact the backend physically, in bounded batches; answer with [`super::Input::Compacted`].
    Compact {
        /// Where to begin.
        from: i64,
        /// The revision.
        to: i64,
    },
    /// Rewrite the backend's file without its holes, while everything else goes on; answer with
    /// [`super::Input::Defragmented`].
    Defragment,
    /// Replace the backend's state by the received snapshot, atomically; answer with
    /// [`super::Input::SnapshotInstalled`].
    InstallSnapshot,
    /// The received snapshot is not needed.
    DiscardSnapshot,
    /// Log entries up to this one will not be asked for by a restart.
    ReleaseLog {
        /// The last such entry.
        index: Index,
    },
    /// A peer and where it listens; replaces what was known of it.
    SetPeer {
        /// The peer.
        id: MemberId,
        /// Its peer URLs.
        urls: Vec<String>,
    },
    /// A peer is no longer a member.
    RemovePeer {
        /// The peer.
        id: MemberId,
    },
    /// Something that an operator wants to read in the log, or a metric counts.
    Event(NodeEvent),
    /// The process must stop at once, with this message.
    Fatal(Fatal),
}

/// What a node tells an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum NodeEvent {
    BecameFollower {
        term: Term,
    },
    BecameCandidate {
        term: Term,
    },
    BecameLeader {
        term: Term,
    },
    LeaderElected {
        leader: MemberId,
        term: Term,
    },
    LeaderLost {
        leader: MemberId,
        term: Term,
    },
    /// This member's attributes are in the replicated state.
    Published {
        name: String,
        client_urls: Vec<String>,
    },
    ClusterVersionSet {
        version: String,
    },
    MemberAdded {
        id: MemberId,
        peer_urls: Vec<String>,
        is_learner: bool,
    },
    MemberRemoved {
        id: MemberId,
    },
    MemberUpdated {
        id: MemberId,
        peer_urls: Vec<String>,
    },
    MemberPromoted {
        id: MemberId,
    },
    /// This member was removed: it must stop for good.
    RemovedSelf,
    AlarmRaised {
        member_id: MemberId,
        alarm: crate::api::AlarmKind,
    },
    AlarmCleared {
        member_id: MemberId,
        alarm: crate::api::AlarmKind,
    },
    CompactionScheduled {
        revision: i64,
    },
    CompactionFinished {
        revision: i64,
    },
    SnapshotInstalled {
        index: Index,
    },
    SnapshotSending {
        to: MemberId,
        index: Index,
    },
    LogCompacted {
        index: Index,
    },
    /// An entry of the log is damaged: other members are asked for it before this one takes part.
    LogEntryDamaged(Damaged),
    /// No member that answers has it.
    LogEntryNowhere(Damaged),
    /// It was never committed: a quorum of others lacks it.
    LogEntryLeftOut {
        index: Index,
        term: Term,
    },
    /// The log is whole again.
    LogRepaired {
        entries: usize,
        bytes: usize,
    },
    ProposalFailed,
    ReadIndexSlow,
    ReadIndexFailed,
    LeaseExpired {
        id: i64,
    },
}
