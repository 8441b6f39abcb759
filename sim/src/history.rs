//! What clients asked and what they know of the outcome.
//!
//! An outcome is known only when an answer says so; a timeout, a crash and a lost connection all mean
//! that nobody knows.

use cairn_core::api::{Request, Response};
use cairn_core::error::Error;

/// One operation of a client.
#[derive(Clone, Debug)]
pub struct Op {
    /// The client, or `None` for the simulator's own questions.
    pub client: Option<usize>,
    /// Counts all operations of a run.
    pub number: u64,
    /// The member that was asked.
    pub member: u64,
    /// That member's start.
    pub boot: u64,
    /// The request's id there.
    pub id: u64,
    /// The request.
    pub request: Request,
    /// When it was asked.
    pub invoked: u64,
    /// The newest revision that any client had been told of by then.
    pub floor: i64,
    /// The newest compact revision that had been acknowledged by then.
    pub compact_floor: i64,
}

/// Whether an error leaves it open if the request took effect.
pub fn is_unknown(error: &Error) -> bool {
    matches!(
        error,
        Error::Timeout
            | Error::TimeoutLeaderFail
            | Error::TimeoutConnectionLost
            | Error::TimeoutLeaderTransfer
            | Error::TimeoutWaitAppliedIndex
            | Error::Stopped
            | Error::LeaderChanged
    )
}

/// What a member answered.
pub type Answer = Result<Response, Error>;
