//! A member's revision never decreases: while one process runs, an answer to a question that was asked
//! after another answer had come is not older than that one. A member that reloads its store (a
//! snapshot, a defragmentation) must not forget what it has already told.

use std::collections::BTreeMap;

use crate::history::{Operation, Violation};

/// The rule's name.
pub const RULE: &str = "revision never decreases";

/// Checks the answers of each start of each member.
///
/// # Errors
/// One of them went back.
pub fn check(ops: &[Operation]) -> Result<(), Violation> {
    let mut processes: BTreeMap<(u64, u64), Vec<&Operation>> = BTreeMap::new();
    for op in ops.iter().filter(|op| op.revision().is_some_and(|revision| revision > 0)) {
        processes.entry((op.member, op.boot)).or_default().push(op);
    }
    for ((member, _), answered) in processes {
        let mut by_call = answered.clone();
        by_call.sort_by_key(|op| op.call);
        let mut by_return = answered;
        by_return.sort_by_key(|op| op.ret);
        let mut ended = by_return.into_iter().peekable();
        let mut newest = (0, 0);
        for op in by_call {
            while let Some(before) = ended.next_if(|before| before.ret < op.call) {
                newest = newest.max((before.revision().unwrap_or(0), before.number));
            }
            let revision = op.revision().unwrap_or(0);
            if revision < newest.0 {
                let what = format!("{member:x} answered at {revision} after it had answered at {}", newest.0);
                return Err(Violation::new(RULE, what, &[op.number, newest.1]));
            }
        }
    }
    Ok(())
}
