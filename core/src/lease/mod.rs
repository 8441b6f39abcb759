//! Leases: which exist, and when the leader must propose to revoke them.
//!
//! The replicated part is a set of [`Lease`]s that only applied commands change (`grant`, `revoke`,
//! `checkpoint`). The leader's part is when each expires; it exists between `promote` and `demote`,
//! never leaves the member and never deletes anything: it only names leases whose revocation is to be
//! proposed (etcd #15247: a deposed leader neither revokes nor renews).
//!
//! Invariant: without a renewal, the remaining time of a lease never grows, across leaders too as far
//! as checkpoints were applied (etcd PR13508); a lease that has expired never renews.

mod counts;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Fatal};
use crate::planted::{self, Bug};
use crate::time::Time;
use crate::types::LeaseId;

pub use counts::{LeaseCounts, TTL_BUCKETS};

/// The longest TTL that a client may ask for, in seconds.
pub const TTL_MAX: i64 = 9_000_000_000;

const FORMAT: u8 = 1;
const SECOND: Duration = Duration::from_secs(1);

/// The replicated part of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The lease's id; any number but 0, negative ones too.
    pub id: LeaseId,
    /// The granted TTL in seconds.
    pub ttl: i64,
    /// The last checkpoint's remaining seconds; 0 if there is none since the last renewal.
    pub remaining_ttl: i64,
}

impl Lease {
    /// The key of the lease's row in [`crate::backend::Table::Leases`].
    pub fn key(id: LeaseId) -> [u8; 8] {
        id.to_be_bytes()
    }

    /// The value of the lease's row.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend_from_slice(&self.ttl.to_be_bytes());
        out.extend_from_slice(&self.remaining_ttl.to_be_bytes());
        out
    }

    /// The inverse of [`Lease::key`] and [`Lease::encode`].
    ///
    /// # Errors
    /// The row is not one that they wrote.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, Fatal> {
        let number = |bytes: Option<&[u8]>| Some(i64::from_be_bytes(bytes?.try_into().ok()?));
        let lease = || {
            Some(Self {
                id: number(Some(key))?,
                ttl: number(value.get(1..9))?,
                remaining_ttl: number(value.get(9..))?,
            })
        };
        match (value.first(), lease()) {
            (Some(&FORMAT), Some(lease)) => Ok(lease),
            _ => Err(Fatal(format!(
                "the lease row {key:02x?} is not of format {FORMAT}: the data was damaged or written by a \
                 newer version; restore this member from a peer"
            ))),
        }
    }

    /// Seconds that the lease has left for a leader that knows nothing but the replicated part.
    fn left(&self) -> i64 {
        if self.remaining_ttl > 0 { self.remaining_ttl } else { self.ttl }
    }
}

/// The limits of a lessor; the defaults are etcd's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LessorOptions {
    /// Leases that one call of [`Lessor::due`] names.
    pub due_max: usize,
    /// Leases that [`Lessor::due`] names within any second.
    pub due_per_second_max: usize,
    /// When a lease is named again if its revocation was not applied.
    pub revoke_retry: Duration,
    /// How often a lease's remaining time is checkpointed; leases with less left than this are not.
    pub checkpoint_interval: Duration,
    /// Leases that one call of [`Lessor::checkpoints_due`] names.
    pub checkpoints_max: usize,
}

impl Default for LessorOptions {
    fn default() -> Self {
        Self {
            due_max: 500,
            due_per_second_max: 1000,
            revoke_retry: Duration::from_secs(3),
            checkpoint_interval: Duration::from_secs(300),
            checkpoints_max: 1000,
        }
    }
}

/// What a renewal did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The TTL that the lease has again, in seconds.
    pub ttl: i64,
    /// A checkpoint is in force or on its way that a later leader would count from: a checkpoint of 0
    /// must be proposed, and applied before the client is answered.
    pub reset_checkpoint: bool,
}

#[derive(Debug)]
struct Entry {
    lease: Lease,
    /// When it expires. Like all below, of meaning on the leader only.
    expiry: Time,
    /// When `due` looks at it: the expiry, later the retry.
    due_at: Time,
    checkpoint_at: Option<Time>,
    /// The last checkpoint that was handed out since the last renewal; any other one is stale.
    checkpointed: Option<i64>,
}

/// All leases of the cluster, and on the leader their expiry.
#[derive(Debug)]
pub struct Lessor {
    min_ttl: i64,
    options: LessorOptions,
    primary: bool,
    leases: BTreeMap<LeaseId, Entry>,
    due: BTreeSet<(Time, LeaseId)>,
    checkpoints: BTreeSet<(Time, LeaseId)>,
    /// How many leases `due` named when, within the last second.
    named: VecDeque<(Time, usize)>,
    counts: LeaseCounts,
}

impl Lessor {
    /// A lessor without leases, not primary. etcd's minimum TTL is the election timeout times 1.5,
    /// rounded up to a second.
    pub fn new(min_ttl_seconds: i64, options: LessorOptions) -> Self {
        Self {
            min_ttl: min_ttl_seconds,
            options,
            primary: false,
            leases: BTreeMap::new(),
            due: BTreeSet::new(),
            checkpoints: BTreeSet::new(),
            named: VecDeque::new(),
            counts: LeaseCounts::default(),
        }
    }

    /// Replaces all leases by the rows of a restart or a snapshot; the lessor is not primary after.
    ///
    /// # Errors
    /// A row cannot be read.
    pub fn load(&mut self, rows: impl IntoIterator<Item = (Bytes, Bytes)>) -> Result<(), Fatal> {
        self.demote();
        self.leases.clear();
        for (key, value) in rows {
            let lease = Lease::decode(&key, &value)?;
            self.leases.insert(lease.id, Entry::new(lease));
        }
        if planted::on(Bug::LeaseNotLoaded) {
            self.leases.pop_last();
        }
        Ok(())
    }

    /// An id for a grant that names none: positive and not in use.
    pub fn choose_id(&self, first: u64) -> LeaseId {
        let mut id = i64::try_from(first >> 1).expect("63 bits are a positive number").max(1);
        while self.leases.contains_key(&id) {
            id = id.checked_add(1).unwrap_or(1);
        }
        id
    }

    /// The TTL that a request for `ttl` seconds gets on this member. Proposing this one keeps the
    /// result of `grant` the same on members that are configured differently.
    pub fn granted_ttl(&self, ttl: i64) -> i64 {
        ttl.max(self.min_ttl)
    }

    /// Applies a grant.
    ///
    /// # Errors
    /// The TTL is too large, or the id is in use.
    pub fn grant(&mut self, id: LeaseId, ttl: i64, now: Time) -> Result<Lease, Error> {
        if id == 0 {
            return Err(Error::LeaseNotFound);
        }
        if ttl > TTL_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(Error::LeaseExists);
        }
        let lease = Lease { id, ttl: self.granted_ttl(ttl), remaining_ttl: 0 };
        self.leases.insert(id, Entry::new(lease));
        self.counts.grant(&lease);
        if self.primary {
            self.start(id, now);
        }
        Ok(lease)
    }

    /// Applies a revocation; the caller deletes the keys.
    ///
    /// # Errors
    /// There is no such lease.
    pub fn revoke(&mut self, id: LeaseId) -> Result<(), Error> {
        self.unschedule(id);
        self.leases.remove(&id).ok_or(Error::LeaseNotFound)?;
        self.counts.revoked += 1;
        Ok(())
    }

    /// Applies a checkpoint (0 clears it) and returns the lease for its row; `None` if there is no such
    /// lease. The leader's own expiry does not change: it knows better.
    pub fn checkpoint(&mut self, id: LeaseId, remaining: i64) -> Option<Lease> {
        let entry = self.leases.get_mut(&id)?;
        // A remainder above the TTL would lengthen the lease.
        entry.lease.remaining_ttl = remaining.clamp(0, entry.lease.ttl);
        if self.primary && remaining > 0 && entry.checkpointed != Some(remaining) {
            // Proposed before the last renewal and applied after it, or overtaken by another one: a new
            // checkpoint must replace it at once.
            if let Some(at) = entry.checkpoint_at.replace(Time(0)) {
                self.checkpoints.remove(&(at, id));
            }
            self.checkpoints.insert((Time(0), id));
        }
        Some(entry.lease)
    }

    /// Whether the lease exists.
    pub fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// The lease's replicated part.
    pub fn lease(&self, id: LeaseId) -> Option<Lease> {
        self.leases.get(&id).map(|entry| entry.lease)
    }

    /// Whether this member decides about expiry.
    pub fn is_primary(&self) -> bool {
        self.primary
    }

    /// This member became leader: every lease has its checkpointed rest, or its full TTL again. That
    /// many leases expire at the same moment then is the business of `due`, which spreads them.
    pub fn promote(&mut self, now: Time) {
        self.demote();
        self.primary = true;
        let ids: Vec<LeaseId> = self.leases.keys().copied().collect();
        for id in ids {
            if planted::on(Bug::LeaseExpiresOnPromotion) {
                self.run(id, 0, now);
                continue;
            }
            self.start(id, now);
        }
    }

    /// This member is leader no more.
    pub fn demote(&mut self) {
        self.primary = false;
        self.due.clear();
        self.checkpoints.clear();
        self.named.clear();
        for entry in self.leases.values_mut() {
            (entry.checkpoint_at, entry.checkpointed) = (None, None);
        }
    }

    /// Renews a lease. `None` if it is unknown or has expired (even if it is not revoked yet), or if
    /// this member is not primary. The caller has confirmed its leadership first.
    pub fn renew(&mut self, id: LeaseId, now: Time) -> Option<Renewal> {
        let entry = self.leases.get_mut(&id).filter(|_| self.primary)?;
        if entry.expiry <= now && !planted::on(Bug::RenewExpired) {
            return None;
        }
        let lease = entry.lease;
        let reset_checkpoint = lease.remaining_ttl > 0 || entry.checkpointed.is_some();
        entry.checkpointed = None;
        self.run(id, lease.ttl, now);
        self.counts.renewed += 1;
        Some(Renewal { ttl: lease.ttl, reset_checkpoint })
    }

    /// Granted and remaining seconds. Only the primary's answer moves with time.
    pub fn time_to_live(&self, id: LeaseId, now: Time) -> Option<(i64, i64)> {
        let entry = self.leases.get(&id)?;
        let left = if self.primary { whole_seconds(entry.expiry.since(now)) } else { entry.lease.left() };
        Some((entry.lease.ttl, left))
    }

    /// What happened to leases since the start.
    pub fn counts(&self) -> LeaseCounts {
        self.counts
    }

    /// Goes on counting where another lessor has come to.
    pub fn count_from(&mut self, counts: LeaseCounts) {
        self.counts = counts;
    }

    /// How many leases there are.
    pub fn count(&self) -> usize {
        self.leases.len()
    }

    /// All leases: on the primary those that expire first come first, elsewhere by id.
    pub fn leases(&self) -> Vec<LeaseId> {
        let mut ids: Vec<LeaseId> = self.leases.keys().copied().collect();
        if self.primary {
            ids.sort_by_key(|id| (self.leases[id].expiry, *id));
        }
        ids
    }

    /// Expired leases whose revocation is to be proposed now, in order of expiry. Each is named again
    /// after a while if it still exists.
    pub fn due(&mut self, now: Time) -> Vec<LeaseId> {
        let budget = self.options.due_max.min(self.rate_left(now));
        let mut ids = Vec::new();
        while ids.len() < budget
            && let Some(&(at, id)) = self.due.first()
            && at <= now
        {
            self.due.remove(&(at, id));
            let entry = self.leases.get_mut(&id).expect("a scheduled lease exists");
            entry.due_at = now + self.options.revoke_retry;
            self.due.insert((entry.due_at, id));
            ids.push(id);
        }
        if !ids.is_empty() {
            self.named.push_back((now, ids.len()));
        }
        ids
    }

    /// Leases with their remaining seconds, to be proposed as a checkpoint now.
    pub fn checkpoints_due(&mut self, now: Time) -> Vec<(LeaseId, i64)> {
        let mut out = Vec::new();
        while out.len() < self.options.checkpoints_max
            && let Some(&(at, id)) = self.checkpoints.first()
            && at <= now
        {
            self.checkpoints.remove(&(at, id));
            let entry = self.leases.get_mut(&id).expect("a scheduled lease exists");
            entry.checkpoint_at = None;
            let left = entry.expiry.since(now);
            if left > Duration::ZERO {
                // Rounded up: a later leader must not revoke what this one promised.
                let left = whole_seconds(left + SECOND - Duration::from_nanos(1));
                entry.checkpointed = Some(left);
                out.push((id, left));
            }
            self.schedule_checkpoint(id, now);
        }
        out
    }

    /// When `due` or `checkpoints_due` has something to say.
    pub fn next_deadline(&self) -> Option<Time> {
        let named: usize = self.named.iter().map(|&(_, count)| count).sum();
        let not_before = match self.named.front() {
            Some(&(at, _)) if named >= self.options.due_per_second_max => at + SECOND,
            _ => Time(0),
        };
        let due = self.due.first().map(|&(at, _)| at.max(not_before));
        let checkpoint = self.checkpoints.first().map(|&(at, _)| at);
        due.into_iter().chain(checkpoint).min()
    }

    /// Checks what must hold between calls.
    pub fn invariants(&self) {
        assert_eq!(self.due.len(), if self.primary { self.leases.len() } else { 0 });
        for (&id, entry) in &self.leases {
            assert_eq!(entry.lease.id, id);
            assert!((0..=entry.lease.ttl.max(0)).contains(&entry.lease.remaining_ttl));
            assert_eq!(self.due.contains(&(entry.due_at, id)), self.primary);
            assert!(!self.primary || entry.due_at >= entry.expiry, "due only after the expiry");
            assert!(entry.checkpoint_at.is_none_or(|at| self.checkpoints.contains(&(at, id))));
        }
        assert_eq!(
            self.checkpoints.len(),
            self.leases.values().filter(|entry| entry.checkpoint_at.is_some()).count()
        );
    }

    fn rate_left(&mut self, now: Time) -> usize {
        while let Some(&(at, _)) = self.named.front()
            && at + SECOND <= now
        {
            self.named.pop_front();
        }
        let named: usize = self.named.iter().map(|&(_, count)| count).sum();
        self.options.due_per_second_max.saturating_sub(named)
    }

    /// Starts the clock of a lease from its replicated part.
    fn start(&mut self, id: LeaseId, now: Time) {
        let left = self.leases[&id].lease.left();
        self.run(id, left, now);
    }

    /// Lets the lease expire after `seconds`.
    fn run(&mut self, id: LeaseId, seconds: i64, now: Time) {
        self.unschedule(id);
        let entry = self.leases.get_mut(&id).expect("only existing leases run");
        entry.expiry = now + Duration::from_secs(seconds.max(0).unsigned_abs());
        entry.due_at = entry.expiry;
        self.due.insert((entry.due_at, id));
        self.schedule_checkpoint(id, now);
    }

    fn schedule_checkpoint(&mut self, id: LeaseId, now: Time) {
        let entry = self.leases.get_mut(&id).expect("only existing leases run");
        if entry.expiry.since(now) > self.options.checkpoint_interval {
            let at = now + self.options.checkpoint_interval;
            entry.checkpoint_at = Some(at);
            self.checkpoints.insert((at, id));
        }
    }

    fn unschedule(&mut self, id: LeaseId) {
        if let Some(entry) = self.leases.get_mut(&id) {
            self.due.remove(&(entry.due_at, id));
            if let Some(at) = entry.checkpoint_at.take() {
                self.checkpoints.remove(&(at, id));
            }
        }
    }
}

impl Entry {
    fn new(lease: Lease) -> Self {
        Self { lease, expiry: Time(0), due_at: Time(0), checkpoint_at: None, checkpointed: None }
    }
}

fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
