//! Leases: granted, renewed or left to expire, revoked.

use cairn_core::api::Request;

use super::Draw;

/// The longest TTL that is asked for, in seconds.
pub const TTL_MAX: i64 = 8;

/// A request about a lease.
pub fn request(draw: &mut Draw<'_>) -> Request {
    let known = draw.leases.len() as u64;
    if known == 0 || draw.rng.chance(1, 5) {
        let id = if draw.rng.chance(1, 2) { 0 } else { 1 + draw.rng.below(1_000_000) as i64 };
        return Request::LeaseGrant { id, ttl: 1 + draw.rng.below(TTL_MAX as u64) as i64 };
    }
    let id = draw.leases[draw.rng.below(known) as usize];
    match draw.rng.below(12) {
        0 => Request::LeaseRevoke { id },
        1 | 2 => Request::LeaseTimeToLive { id, keys: false },
        _ => Request::LeaseKeepAlive { id },
    }
}
