//! Leases. Most of their messages are a number or two, which the service fills in itself.

use cairn_core::types::LeaseId;

use crate::proto::etcdserverpb as pb;

/// A list of leases towards the wire.
pub fn leases(leases: Vec<LeaseId>) -> Vec<pb::LeaseStatus> {
    leases.into_iter().map(|id| pb::LeaseStatus { id }).collect()
}
