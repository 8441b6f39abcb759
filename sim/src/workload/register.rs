//! Single keys: puts, deletions, and reads now, stale or at an old revision.

use cairn_core::api::{DeleteRangeRequest, PutRequest, RangeRequest, Request};

use super::Draw;

/// A put, sometimes with a lease.
pub fn put(draw: &mut Draw<'_>) -> Request {
    let (key, value) = (draw.key(), draw.value());
    let prev_kv = draw.rng.chance(1, 4);
    let lease = if !draw.leases.is_empty() && draw.rng.chance(1, 4) {
        draw.leases[draw.rng.below(draw.leases.len() as u64) as usize]
    } else {
        0
    };
    Request::Put(PutRequest { key, value, lease, prev_kv, ..PutRequest::default() })
}

/// A deletion.
pub fn delete(draw: &mut Draw<'_>) -> Request {
    let (key, range_end) = draw.range();
    let prev_kv = draw.rng.chance(1, 2);
    Request::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv })
}

/// A read of the present.
pub fn range(draw: &mut Draw<'_>, serializable: bool) -> Request {
    let (key, range_end) = draw.range();
    let limit = if draw.rng.chance(1, 4) { 1 + draw.rng.below(5) as i64 } else { 0 };
    let count_only = draw.rng.chance(1, 8);
    let keys_only = draw.rng.chance(1, 8);
    Request::Range(RangeRequest {
        key,
        range_end,
        limit,
        serializable,
        count_only,
        keys_only,
        ..RangeRequest::default()
    })
}

/// A read of the past, compacted or not, and sometimes of the future.
pub fn history(draw: &mut Draw<'_>) -> Request {
    let (key, range_end) = draw.range();
    let back = draw.rng.below(40) as i64;
    let revision = (draw.revision + 3 - back).max(1);
    let serializable = draw.rng.chance(1, 3);
    Request::Range(RangeRequest { key, range_end, revision, serializable, ..RangeRequest::default() })
}
