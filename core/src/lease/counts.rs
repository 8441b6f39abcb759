//! What happened to leases since the start of the process, for metrics.

use super::Lease;

/// Buckets of TTLs: up to 1, 2, 4, ... 2^23 seconds, and above.
pub const TTL_BUCKETS: usize = 25;

/// Numbers of this start; a restart or an installed snapshot brings leases without counting them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseCounts {
    /// Leases granted.
    pub granted: u64,
    /// Leases revoked, by a client or because they expired.
    pub revoked: u64,
    /// Renewals on this member.
    pub renewed: u64,
    /// The sum of the TTLs of the granted leases.
    pub ttl_seconds: u64,
    /// How many of these TTLs fell into each bucket.
    pub ttl_buckets: [u64; TTL_BUCKETS],
}

impl LeaseCounts {
    pub(super) fn grant(&mut self, lease: &Lease) {
        let ttl = lease.ttl.max(1).unsigned_abs();
        let bucket = (u64::BITS - (ttl - 1).leading_zeros()) as usize;
        self.granted += 1;
        self.ttl_seconds = self.ttl_seconds.saturating_add(ttl);
        self.ttl_buckets[bucket.min(TTL_BUCKETS - 1)] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_falls_into_the_first_bucket_that_holds_it() {
        let mut counts = LeaseCounts::default();
        for ttl in [1, 2, 3, 4, 5, 1 << 23, (1 << 23) + 1, i64::MAX] {
            counts.grant(&Lease { id: 1, ttl, remaining_ttl: 0 });
        }
        assert_eq!(counts.ttl_buckets[..4], [1, 1, 2, 1]);
        assert_eq!(counts.ttl_buckets[23..], [1, 2]);
        assert_eq!(counts.granted, 8);
    }
}
