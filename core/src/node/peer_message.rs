//! What members say to each other, and its encoding: bincode behind a version byte.
//!
//! Raft's own messages travel in a mirror of the crate's type, so that no byte of a peer ever
//! reaches a protobuf parser. Reads and proposals are routed by messages of ours, because the crate's
//! forwarding duplicates proposals and its read index can return stale reads when a request is
//! duplicated (etcd #20418): a leader mints a fresh context for every attempt.

use bytes::Bytes;
use raft::eraftpb::{ConfState, Message, MessageType, SnapshotMetadata};
use serde::{Deserialize, Serialize};

use crate::api::{Request, ResponseBody};
use crate::command::CommandId;
use crate::error::Error;
use crate::raft_log::{from_raft, to_raft};
use crate::types::{Index, MemberId, Term};
use crate::wal::{EntryId, LogEntry};

const FORMAT: u8 = 1;

/// Voters and learners, as a snapshot carries them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Voters {
    pub(crate) voters: Vec<MemberId>,
    pub(crate) learners: Vec<MemberId>,
}

impl Voters {
    pub(crate) fn from_raft(conf_state: &ConfState) -> Self {
        Self { voters: conf_state.voters.clone(), learners: conf_state.learners.clone() }
    }

    pub(crate) fn to_raft(&self) -> ConfState {
        let mut out = ConfState::default();
        out.voters = self.voters.clone();
        out.learners = self.learners.clone();
        out
    }
}

/// The snapshot that a message announces; the rows travel apart from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotPosition {
    pub(crate) index: Index,
    pub(crate) term: Term,
    pub(crate) voters: Voters,
}

/// A mirror of the crate's message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RaftMessage {
    kind: i32,
    pub(crate) from: MemberId,
    pub(crate) to: MemberId,
    term: Term,
    log_term: Term,
    index: Index,
    entries: Vec<LogEntry>,
    commit: Index,
    commit_term: Term,
    pub(crate) snapshot: Option<SnapshotPosition>,
    request_snapshot: Index,
    reject: bool,
    reject_hint: Index,
    context: Bytes,
    priority: i64,
}

impl RaftMessage {
    pub(crate) fn new(mut message: Message) -> Self {
        let snapshot = (message.get_msg_type() == MessageType::MsgSnapshot).then(|| {
            let metadata = message.get_snapshot().get_metadata();
            SnapshotPosition {
                index: metadata.index,
                term: metadata.term,
                voters: Voters::from_raft(metadata.get_conf_state()),
            }
        });
        Self {
            kind: message.get_msg_type() as i32,
            from: message.from,
            to: message.to,
            term: message.term,
            log_term: message.log_term,
            index: message.index,
            entries: message.take_entries().into_iter().map(from_raft).collect(),
            commit: message.commit,
            commit_term: message.commit_term,
            snapshot,
            request_snapshot: message.request_snapshot,
            reject: message.reject,
            reject_hint: message.reject_hint,
            context: message.context.clone(),
            priority: message.priority,
        }
    }

    /// The crate's message; `None` for a kind that no peer may send: proposals and read requests are
    /// never forwarded by the crate here, and local kinds never travel.
    pub(crate) fn into_raft(self) -> Option<Message> {
        let kind = KINDS.into_iter().find(|kind| *kind as i32 == self.kind)?;
        let mut out = Message::default();
        out.set_msg_type(kind);
        out.from = self.from;
        out.to = self.to;
        out.term = self.term;
        out.log_term = self.log_term;
        out.index = self.index;
        out.set_entries(self.entries.iter().map(to_raft).collect::<Vec<_>>().into());
        out.commit = self.commit;
        out.commit_term = self.commit_term;
        if let Some(position) = self.snapshot {
            let mut metadata = SnapshotMetadata::default();
            metadata.index = position.index;
            metadata.term = position.term;
            *metadata.mut_conf_state() = position.voters.to_raft();
            out.mut_snapshot().set_metadata(metadata);
        }
        out.request_snapshot = self.request_snapshot;
        out.reject = self.reject;
        out.reject_hint = self.reject_hint;
        out.context = self.context;
        out.priority = self.priority;
        Some(out)
    }

    /// Whether this announces a snapshot.
    pub(crate) fn is_snapshot(&self) -> bool {
        self.kind == MessageType::MsgSnapshot as i32
    }
}

const KINDS: [MessageType; 11] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// Names one attempt at a read index; never reused (etcd #20418).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ReadContext {
    pub(crate) member: MemberId,
    pub(crate) boot: u64,
    pub(crate) attempt: u64,
}

impl ReadContext {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        out.extend_from_slice(&self.member.to_be_bytes());
        out.extend_from_slice(&self.boot.to_be_bytes());
        out.extend_from_slice(&self.attempt.to_be_bytes());
        out
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Self { member: word(0)?, boot: word(8)?, attempt: word(16)? })
    }
}

/// Why a proposal was not appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    /// The leader cannot now. A copy of the message may still be appended while it leads.
    NotNow,
    /// It does not lead that term any more: the command has certainly not happened in it.
    NotLeader,
    /// The command is not allowed, and this leader appends no copy of it.
    Invalid(Error),
}

/// One message between members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PeerMessage {
    /// Raft's own.
    Raft(RaftMessage),
    /// A follower asks the leader of `term` to propose a command. A leader of another term refuses,
    /// so that one command is never appended under two leaders.
    Propose { term: Term, id: CommandId, kind: ProposalKind, data: Bytes },
    /// The leader of `term` did not append it.
    ProposeRefused { term: Term, id: CommandId, refusal: Refusal },
    /// A follower asks for a commit index that is certain to cover every write acknowledged so far.
    ReadIndex { context: ReadContext },
    /// The answer to the attempt with that context.
    ReadIndexReply { context: ReadContext, index: Index },
    /// A follower passes on a request that only the leader can answer (lease renewal and time to
    /// live, promotion).
    Forward { id: CommandId, request: Request },
    /// Its answer.
    ForwardReply { id: CommandId, result: Result<ResponseBody, Error> },
    /// A member whose log rotted asks for these entries.
    RepairAsk { entries: Vec<EntryId> },
    /// What the sender, whose durable term this is, has of them.
    RepairReply { term: Term, answers: Vec<RepairAnswer> },
    /// The sender cannot give an entry that it was asked for, and has applied what is up to this index.
    RepairOffer { applied: Index },
    /// Nobody could give the entry at this index: a member that has offered its state is asked for it.
    RepairState { index: Index },
    /// Announces the state that was asked for; the rows travel apart from it.
    RepairSnapshot { index: Index, term: Term },
}

/// What a member has in the place of an entry that another one asks for. It says nothing of an entry
/// that it has compacted, or whose bytes it has lost as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RepairAnswer {
    /// The entry.
    Have(LogEntry),
    /// None at this index, or one of another term.
    Absent(Index),
}

/// Which kind of log entry a proposal becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ProposalKind {
    Normal,
    Member,
}

impl PeerMessage {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![FORMAT];
        bincode::serde::encode_into_std_write(self, &mut out, bincode::config::standard())
            .expect("a message always encodes into memory");
        out.into()
    }

    /// `None` when the bytes are not a whole message of this format.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&format, body) = bytes.split_first()?;
        if format != FORMAT {
            return None;
        }
        let (message, used) = bincode::serde::decode_from_slice(body, bincode::config::standard()).ok()?;
        (used == body.len()).then_some(message)
    }
}
