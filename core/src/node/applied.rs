//! How many commands of each kind this member has applied, for metrics.

use crate::command::Op;

/// etcd's names of the commands that are counted. A change of membership is none of them.
pub const APPLIED_OPS: [&str; 10] = [
    "Put",
    "DeleteRange",
    "Txn",
    "Compaction",
    "LeaseGrant",
    "LeaseRevoke",
    "LeaseCheckpoint",
    "Alarm",
    "ClusterVersionSet",
    "ClusterMemberAttrSet",
];

/// Commands applied since the start, by [`APPLIED_OPS`]: those that failed, those that did not.
pub type AppliedOps = [[u64; 2]; APPLIED_OPS.len()];

/// The place of a command in [`APPLIED_OPS`].
pub(super) fn place(op: &Op) -> Option<usize> {
    Some(match op {
        Op::Put(_) => 0,
        Op::DeleteRange(_) => 1,
        Op::Txn(_) => 2,
        Op::Compact { .. } => 3,
        Op::LeaseGrant { .. } => 4,
        Op::LeaseRevoke { .. } => 5,
        Op::LeaseCheckpoint(_) => 6,
        Op::Alarm { .. } => 7,
        Op::ClusterVersion(_) => 8,
        Op::Publish { .. } => 9,
        Op::Member(_) => return None,
    })
}
