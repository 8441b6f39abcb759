//! Leases by interval arithmetic: a lease whose renewal was acknowledged lives at least its TTL from
//! the moment at which the renewal was asked for, as the fastest clock counts; a renewal is refused
//! only for a lease that is gone or may have expired.

use std::collections::BTreeMap;

use cairn_core::api::{Request, ResponseBody};
use cairn_core::command::Op as CommandOp;

use crate::history::{Answer, Op};

#[derive(Clone, Debug, Default)]
struct Known {
    ttl: u64,
    /// The latest moment before which no acknowledged renewal was asked for.
    renewed: u64,
    granted: Option<u64>,
    revoked: Option<u64>,
    /// When an answer about a renewal was last possibly on its way: grants and renewals so far.
    acknowledged: bool,
}

/// Every lease of a run.
#[derive(Debug, Default)]
pub struct Leases {
    known: BTreeMap<i64, Known>,
    /// When each revocation that nobody asked for was first put into a log, with what was known of
    /// the lease then: how long it must live.
    proposed: BTreeMap<(u64, u64), (u64, u64)>,
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

    /// The leader put a revocation into its log.
    pub fn proposed(&mut self, now: u64, index: u64, term: u64, id: i64) {
        let lives_until = self
            .known
            .get(&id)
            .filter(|known| known.acknowledged)
            .map_or(0, |known| known.renewed + self.lifetime(known.ttl));
        self.proposed.entry((index, term)).or_insert((now, lives_until));
    }

    /// A command was committed. `internal`: no client asked for it.
    ///
    /// # Errors
    /// A lease ends before its time.
    pub fn committed(
        &mut self,
        now: u64,
        index: u64,
        term: u64,
        op: &CommandOp,
        internal: bool,
    ) -> Result<(), String> {
        match op {
            CommandOp::LeaseGrant { id, .. } => {
                let known = self.known.entry(*id).or_default();
                if known.granted.is_none() || known.revoked.is_some() {
                    *known = Known { granted: Some(now), ..Known::default() };
                }
            }
            CommandOp::LeaseRevoke { id } => {
                if internal
                    && let Some((at, until)) = self.proposed.get(&(index, term))
                    && at < until
                {
                    return Err(format!("lease {id} was revoked at {at}, but it was renewed until {until}"));
                }
                if let Some(known) = self.known.get_mut(id) {
                    known.revoked.get_or_insert(now);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// An answer about a lease came.
    ///
    /// # Errors
    /// A renewal succeeded for a lease that was gone, or failed for one that was not.
    pub fn answered(&mut self, now: u64, op: &Op, answer: &Answer) -> Result<(), String> {
        let Ok(response) = answer else { return Ok(()) };
        match (&op.request, &response.body) {
            (Request::LeaseGrant { .. }, ResponseBody::LeaseGrant { id, ttl }) => {
                let known = self.known.entry(*id).or_default();
                known.ttl = ttl.unsigned_abs();
                known.renewed = known.renewed.max(op.invoked);
                known.acknowledged = true;
                Ok(())
            }
            (Request::LeaseKeepAlive { id }, ResponseBody::LeaseKeepAlive { ttl, .. }) if *ttl > 0 => {
                let known = self.known.entry(*id).or_default();
                if known.granted.is_none() {
                    return Err(format!("lease {id} was renewed but never granted"));
                }
                if known.revoked.is_some_and(|revoked| revoked < op.invoked) {
                    return Err(format!("lease {id} was renewed at {now} after it was revoked: {known:?}"));
                }
                known.ttl = ttl.unsigned_abs();
                known.renewed = known.renewed.max(op.invoked);
                known.acknowledged = true;
                Ok(())
            }
            (Request::LeaseKeepAlive { id }, ResponseBody::LeaseKeepAlive { .. }) => {
                let Some(known) = self.known.get(id).filter(|known| known.acknowledged) else {
                    return Ok(());
                };
                let granted = known.granted.is_some_and(|granted| granted < op.invoked);
                if granted && known.revoked.is_none() && now < known.renewed + self.lifetime(known.ttl) {
                    return Err(format!("lease {id} was not renewed at {now} though it lives: {known:?}"));
                }
                Ok(())
            }
            (Request::LeaseTimeToLive { id, .. }, ResponseBody::LeaseTimeToLive { ttl: -1, .. }) => {
                match self.known.get(id) {
                    Some(known)
                        if known.revoked.is_none()
                            && known.granted.is_some_and(|granted| granted < op.invoked)
                            && known.acknowledged =>
                    {
                        Err(format!("lease {id} was said not to exist: {known:?}"))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
