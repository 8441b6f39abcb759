//! After the faults: one leader, every member at the same index with the same contents, every event
//! delivered, every lease that nobody renews gone.

use std::collections::BTreeMap;

use cairn_core::node::{Role, Status};

/// Why those `among` the members have not converged yet; `None` when they have.
pub fn obstacle(
    statuses: &BTreeMap<u64, Status>,
    committed: u64,
    among: impl Fn(u64) -> bool,
) -> Option<String> {
    let leaders: Vec<u64> = statuses
        .values()
        .filter(|status| status.role == Role::Leader)
        .map(|status| status.member_id)
        .collect();
    if leaders.len() != 1 {
        return Some(format!("leaders: {leaders:x?}"));
    }
    for status in statuses.values().filter(|status| among(status.member_id)) {
        if status.leader != leaders[0] {
            return Some(format!("{:x} follows {:x}", status.member_id, status.leader));
        }
        if status.applied != committed {
            return Some(format!(
                "{:x} has applied {} of {committed} (log {}..={})",
                status.member_id, status.applied, status.first, status.last
            ));
        }
        if !status.published {
            return Some(format!("{:x} is not published", status.member_id));
        }
    }
    None
}
