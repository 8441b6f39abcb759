//! What a Raft log entry carries: one replicated command, encoded with bincode behind a version byte.
//!
//! Invariant: applying a command is a pure function of the command and the replicated state, so
//! nothing here depends on a member's clock, configuration or identity.

use serde::{Deserialize, Serialize};

use crate::api::{AlarmAction, AlarmKind, DeleteRangeRequest, Member, PutRequest, TxnRequest};
use crate::types::{LeaseId, MemberId};

const FORMAT: u8 = 1;

/// Names a proposal for the member that made it: unique over members and over restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CommandId {
    /// The member that the client spoke to.
    pub origin: MemberId,
    /// That member's start: a number that no earlier start used.
    pub boot: u64,
    /// Counts up within a start.
    pub seq: u64,
}

/// A change of membership; it travels in a Raft configuration-change entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// Adds a voter or a learner.
    Add(Member),
    /// Removes a member for good: its id never returns.
    Remove(MemberId),
    /// Replaces a member's peer URLs and nothing else.
    Update(MemberId, Vec<String>),
    /// Makes a learner a voter.
    Promote(MemberId),
}

/// The kinds of command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Op {
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact {
        revision: i64,
    },
    LeaseGrant {
        id: LeaseId,
        ttl: i64,
    },
    LeaseRevoke {
        id: LeaseId,
    },
    /// Remaining seconds of leases, so that a new leader does not start them over.
    LeaseCheckpoint(Vec<(LeaseId, i64)>),
    Alarm {
        action: AlarmAction,
        member_id: MemberId,
        alarm: AlarmKind,
    },
    Member(MemberChange),
    /// A member's name and client URLs, published at each of its starts.
    Publish {
        member: MemberId,
        name: String,
        client_urls: Vec<String>,
    },
    /// The cluster's version, set once by the first leader.
    ClusterVersion(String),
}

/// A command with its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Who waits for it.
    pub id: CommandId,
    /// What to do.
    pub op: Op,
}

impl Command {
    /// The bytes of a log entry.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        bincode::serde::encode_into_std_write(self, &mut out, bincode::config::standard())
            .expect("a command always encodes into memory");
        out
    }

    /// The inverse of [`Command::encode`].
    ///
    /// # Errors
    /// An unknown format version, or bytes that are not a whole command.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (&format, body) = bytes.split_first().ok_or("an empty command")?;
        if format != FORMAT {
            return Err(format!("command format {format}, this version reads {FORMAT}"));
        }
        let (command, used) = bincode::serde::decode_from_slice(body, bincode::config::standard())
            .map_err(|error| error.to_string())?;
        if used == body.len() { Ok(command) } else { Err("bytes after the command".to_owned()) }
    }
}
