//! Leases by interval arithmetic (Gray and Cheriton 1989). A lease whose grant or renewal was
//! acknowledged lives at least its TTL from the moment at which that was asked for, as the fastest clock
//! counts; a renewal is refused only for a lease that is gone or may have expired; and no renewal
//! succeeds after an acknowledged end.
//!
//! Clocks drift by a bound that is given, and steps of clocks are given as they happen: both shorten the
//! life that may be demanded, never lengthen it.

use std::collections::BTreeMap;

use crate::history::Violation;

/// The rule's name.
pub const RULE: &str = "lease";

#[derive(Clone, Debug, Default)]
struct Known {
    /// Seconds.
    ttl: u64,
    /// The latest moment at which an acknowledged grant or renewal was asked for.
    renewed: u64,
    granted: Option<u64>,
    revoked: Option<u64>,
    acknowledged: bool,
    /// When the cluster decided that it is over.
    over: Option<u64>,
}

/// Every lease of a run. Times are nanoseconds of the true clock.
#[derive(Debug, Default)]
pub struct Leases {
    known: BTreeMap<i64, Known>,
    /// When each revocation that nobody asked for was decided, by the name that the caller gives it.
    decided: BTreeMap<(u64, u64), u64>,
    /// The fastest clock, in millionths above the true one.
    drift: u64,
    /// The sum of all steps.
    pub stepped: u64,
}

impl Leases {
    /// No leases yet; `drift` is that of the fastest clock in millionths.
    pub fn new(drift: u64) -> Self {
        Self { drift, ..Self::default() }
    }

    fn lifetime(&self, ttl: u64) -> u64 {
        let nanos = ttl * 1_000_000_000;
        (nanos - nanos / 1_000_000 * self.drift).saturating_sub(self.stepped)
    }

    fn fail<T>(what: String) -> Result<T, Violation> {
        Err(Violation::new(RULE, what, &[]))
    }

    /// The cluster decided by itself to end a lease; `name` is what [`Leases::revoked`] will be told.
    pub fn decided(&mut self, now: u64, name: (u64, u64)) {
        self.decided.entry(name).or_insert(now);
    }

    /// Who decided that a lease is over counted all renewals before, and granted none after: wherever
    /// the answer to one was on its way, the lease must have lived.
    fn ended_early(&self, known: &Known) -> Option<(u64, u64)> {
        let over = known.over.filter(|_| known.acknowledged)?;
        let until = known.renewed + self.lifetime(known.ttl);
        (over < until).then_some((over, until))
    }

    /// A grant took effect.
    pub fn granted(&mut self, now: u64, id: i64) {
        let known = self.known.entry(id).or_default();
        if known.granted.is_none() || known.revoked.is_some() {
            *known = Known { granted: Some(now), ..Known::default() };
        }
    }

    /// A lease ended; `decided` names the decision if no client asked for it.
    ///
    /// # Errors
    /// It ended before its time.
    pub fn revoked(&mut self, now: u64, id: i64, decided: Option<(u64, u64)>) -> Result<(), Violation> {
        let over = decided.and_then(|name| self.decided.get(&name)).copied();
        let Some(known) = self.known.get_mut(&id) else { return Ok(()) };
        if known.revoked.is_none() {
            (known.revoked, known.over) = (Some(now), over);
        }
        self.check_end(id)
    }

    fn check_end(&self, id: i64) -> Result<(), Violation> {
        match self.known.get(&id).and_then(|known| self.ended_early(known)) {
            Some((over, until)) => {
                Self::fail(format!("{id} was revoked at {over}, but it was renewed until {until}"))
            }
            None => Ok(()),
        }
    }

    /// A client was told that its lease was granted, or renewed; `call` is when it asked.
    ///
    /// # Errors
    /// The lease was gone before it asked.
    pub fn acknowledged(&mut self, call: u64, id: i64, ttl: u64) -> Result<(), Violation> {
        let Some(known) = self.known.get_mut(&id).filter(|known| known.granted.is_some()) else {
            return Self::fail(format!("{id} was renewed but never granted"));
        };
        if known.revoked.is_some_and(|revoked| revoked < call) {
            return Self::fail(format!("{id} was renewed after it was revoked: {known:?}"));
        }
        known.ttl = ttl;
        known.renewed = known.renewed.max(call);
        known.acknowledged = true;
        self.check_end(id)
    }

    /// A client was told at `now` that its lease is not there to be renewed.
    ///
    /// # Errors
    /// It must live.
    pub fn not_renewed(&self, now: u64, call: u64, id: i64) -> Result<(), Violation> {
        match self.living(call, id) {
            Some(known) if now < known.renewed + self.lifetime(known.ttl) => {
                Self::fail(format!("{id} was not renewed at {now} though it lives: {known:?}"))
            }
            _ => Ok(()),
        }
    }

    /// A client was told that there is no such lease.
    ///
    /// # Errors
    /// There is.
    pub fn said_gone(&self, call: u64, id: i64) -> Result<(), Violation> {
        match self.living(call, id) {
            Some(known) => Self::fail(format!("{id} was said not to exist: {known:?}")),
            None => Ok(()),
        }
    }

    fn living(&self, call: u64, id: i64) -> Option<&Known> {
        self.known.get(&id).filter(|known| {
            known.acknowledged && known.revoked.is_none() && known.granted.is_some_and(|at| at < call)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Lease 7 for ten seconds, asked for at 0 and granted at 1 ms.
    fn granted(drift: u64) -> Leases {
        let mut leases = Leases::new(drift);
        leases.granted(SECOND / 1000, 7);
        leases.acknowledged(0, 7, 10).unwrap();
        leases
    }

    #[test]
    fn a_lease_that_ends_in_time_is_fine() {
        let mut leases = granted(0);
        leases.acknowledged(5 * SECOND, 7, 10).unwrap();
        leases.decided(15 * SECOND, (3, 1));
        leases.revoked(16 * SECOND, 7, Some((3, 1))).unwrap();
        leases.not_renewed(17 * SECOND, 17 * SECOND, 7).unwrap();
        leases.said_gone(17 * SECOND, 7).unwrap();
    }

    #[test]
    fn a_lease_must_not_end_early() {
        let mut leases = granted(0);
        leases.decided(9 * SECOND, (3, 1));
        assert!(leases.revoked(16 * SECOND, 7, Some((3, 1))).unwrap_err().what.contains("renewed until"));
        // Nor may it, if the answer to a renewal comes after the decision, or even after the end.
        let mut leases = granted(0);
        leases.decided(11 * SECOND, (3, 1));
        leases.acknowledged(10 * SECOND, 7, 10).unwrap();
        assert!(leases.revoked(16 * SECOND, 7, Some((3, 1))).unwrap_err().what.contains("renewed until"));
        let mut leases = granted(0);
        leases.decided(11 * SECOND, (3, 1));
        leases.revoked(12 * SECOND, 7, Some((3, 1))).unwrap();
        assert!(leases.acknowledged(9 * SECOND, 7, 10).unwrap_err().what.contains("renewed until"));
        // A client may end its lease at any time.
        granted(0).revoked(SECOND, 7, None).unwrap();
    }

    #[test]
    fn drift_and_steps_shorten_what_may_be_demanded() {
        let mut leases = granted(100_000);
        leases.decided(9 * SECOND, (3, 1));
        leases.revoked(9 * SECOND, 7, Some((3, 1))).unwrap();
        let mut leases = granted(0);
        leases.stepped = 2 * SECOND;
        leases.decided(8 * SECOND, (3, 1));
        leases.revoked(9 * SECOND, 7, Some((3, 1))).unwrap();
    }

    #[test]
    fn a_lease_that_is_gone_is_not_renewed() {
        let mut leases = granted(0);
        leases.revoked(2 * SECOND, 7, None).unwrap();
        assert!(leases.acknowledged(3 * SECOND, 7, 10).unwrap_err().what.contains("after it was revoked"));
        leases.acknowledged(SECOND, 7, 10).unwrap();
        assert!(Leases::new(0).acknowledged(0, 8, 10).unwrap_err().what.contains("never granted"));
    }

    #[test]
    fn a_living_lease_is_renewed_and_told_of() {
        let leases = granted(0);
        assert!(leases.not_renewed(9 * SECOND, 8 * SECOND, 7).unwrap_err().what.contains("though it lives"));
        leases.not_renewed(11 * SECOND, 8 * SECOND, 7).unwrap();
        assert!(leases.said_gone(SECOND, 7).unwrap_err().what.contains("said not to exist"));
    }
}
