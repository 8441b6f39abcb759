//! Two members that hash the same revisions get the same hash (HashKV): their stores are equal, byte
//! for byte.

use std::collections::BTreeMap;

use crate::history::{Body, Operation, Outcome, Violation};

/// The rule's name.
pub const RULE: &str = "HashKV equality";

/// Compares all hashes that are of the same revision after the same compaction; how many were compared.
///
/// # Errors
/// Two of them differ.
pub fn check(ops: &[Operation]) -> Result<usize, Violation> {
    let mut known: BTreeMap<(i64, i64), (u32, u64, u64)> = BTreeMap::new();
    let mut compared = 0;
    for op in ops {
        let Outcome::Ok { body: Body::Hash { hash, revision, compact_revision }, .. } = &op.outcome else {
            continue;
        };
        compared += 1;
        let first = *known.entry((*revision, *compact_revision)).or_insert((*hash, op.member, op.number));
        if first.0 != *hash {
            let what = format!(
                "up to revision {revision} after compaction to {compact_revision}: {:08x} on {:x}, {hash:08x} \
                 on {:x}",
                first.0, first.1, op.member
            );
            return Err(Violation::new(RULE, what, &[op.number, first.2]));
        }
    }
    Ok(compared)
}
