//! `/debug/vars`: what Go's expvar shows of etcd, without the runtime's part.

use cairn_core::node::{Role, Status};
use serde_json::{Value, json};

use crate::driver::hex;

/// The page, from the node's present state.
pub(crate) fn page(status: &Status) -> String {
    let state = match status.role {
        Role::Leader => "StateLeader",
        Role::Candidate => "StateCandidate",
        Role::PreCandidate => "StatePreCandidate",
        Role::Follower | Role::Learner => "StateFollower",
    };
    let limit = std::fs::read_to_string("/proc/self/limits").ok();
    let limit = limit.as_deref().and_then(|limits| {
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    let arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let mut page = json!({
        "cmdline": arguments,
        "file_descriptor_limit": limit.map_or(Value::Null, Value::from),
        "raft.status": {
            "id": hex(status.member_id),
            "term": status.term,
            "commit": status.committed,
            "lead": hex(status.leader),
            "raftState": state,
            "applied": status.applied,
        },
    })
    .to_string();
    page.push('\n');
    page
}
