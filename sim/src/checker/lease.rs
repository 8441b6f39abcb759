//! Leases: what the committed log and the clients say, told to the checker of `cairn-checkers`. A
//! revocation that no client asked for is named by its place in the log.

use cairn_checkers::Violation;
use cairn_checkers::lease::Leases;
use cairn_core::api::{Request, ResponseBody};
use cairn_core::command::Op as CommandOp;

use crate::history::{Answer, Op};

/// A command was committed. `internal`: no client asked for it.
///
/// # Errors
/// A lease ends before its time.
pub fn committed(
    leases: &mut Leases,
    now: u64,
    place: (u64, u64),
    op: &CommandOp,
    internal: bool,
) -> Result<(), Violation> {
    match op {
        CommandOp::LeaseGrant { id, .. } => leases.granted(now, *id),
        CommandOp::LeaseRevoke { id } => leases.revoked(now, *id, internal.then_some(place))?,
        _ => {}
    }
    Ok(())
}

/// An answer about a lease came.
///
/// # Errors
/// A renewal succeeded for a lease that was gone, or failed for one that was not.
pub fn answered(leases: &mut Leases, now: u64, op: &Op, answer: &Answer) -> Result<(), Violation> {
    let Ok(response) = answer else { return Ok(()) };
    match (&op.request, &response.body) {
        (Request::LeaseGrant { .. }, ResponseBody::LeaseGrant { id, ttl }) => {
            leases.acknowledged(op.invoked, *id, ttl.unsigned_abs())
        }
        (Request::LeaseKeepAlive { id }, ResponseBody::LeaseKeepAlive { ttl, .. }) if *ttl > 0 => {
            leases.acknowledged(op.invoked, *id, ttl.unsigned_abs())
        }
        (Request::LeaseKeepAlive { id }, ResponseBody::LeaseKeepAlive { .. }) => {
            leases.not_renewed(now, op.invoked, *id)
        }
        (Request::LeaseTimeToLive { id, .. }, ResponseBody::LeaseTimeToLive { ttl: -1, .. }) => {
            leases.said_gone(op.invoked, *id)
        }
        _ => Ok(()),
    }
}
