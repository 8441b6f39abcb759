//! Watchers and the groups that they share.
//!
//! Watchers that ask for the same thing (range, filters, prev_kv) form one group; matching a change and
//! building its events happens once a group, whatever the number of its members. A group lists its
//! synced members only, so watchers of stalled streams cost nothing when a change is applied; those of
//! one stream are a cohort, which is told by one message.
//!
//! Invariant: a group exists as long as a watcher of any state refers to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::interval::RangeIndex;
use crate::api::{WatchCreateRequest, WatchFilter};
use crate::planted::{self, Bug};
use crate::types::{EventKind, KeyRange};

/// Names a cohort of a group: its stream, and whether its responses may be fragments.
pub(super) type CohortKey = (u64, bool);

/// What a watcher wants to see.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interest {
    pub(super) range: KeyRange,
    no_put: bool,
    no_delete: bool,
    pub(super) prev_kv: bool,
}

impl Interest {
    /// Reads a request by etcd's conventions (inventory A-W-04).
    pub(super) fn of(request: &WatchCreateRequest) -> Self {
        // Copied, because the request's bytes may be a slice of a large receive buffer.
        let key = if request.key.is_empty() { &[0][..] } else { &request.key };
        let range = KeyRange::new(Bytes::copy_from_slice(key), Bytes::copy_from_slice(&request.range_end));
        Self {
            range,
            no_put: request.filters.contains(&WatchFilter::NoPut),
            no_delete: request.filters.contains(&WatchFilter::NoDelete),
            prev_kv: request.prev_kv,
        }
    }

    /// Whether the filters let the kind through.
    pub(super) fn wants(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete || planted::on(Bug::WatchFilterIgnored),
        }
    }
}

/// One watcher. Small on purpose: a member may hold millions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watcher {
    pub(super) group: u32,
    pub(super) synced: bool,
    pub(super) fragment: bool,
    /// No event since the last progress tick, but for those that its cohort was sent since `next`.
    pub(super) idle: bool,
    /// Unsynced: the first revision that has not been sent. Synced: a revision below which nothing may
    /// be sent any more; everything from it up to the current one has been.
    pub(super) next: i64,
}

impl Watcher {
    pub(super) fn cohort(&self, stream: u64) -> CohortKey {
        (stream, self.fragment)
    }
}

/// The synced watchers of a group on one stream.
#[derive(Debug, Default)]
pub(super) struct Cohort {
    ids: BTreeSet<i64>,
    listed: Option<Arc<[i64]>>,
    /// All members have started at this revision.
    pub(super) next: i64,
    /// When all members were last sent events.
    pub(super) told: i64,
}

impl Cohort {
    /// The members, in order.
    pub(super) fn ids(&mut self) -> Arc<[i64]> {
        self.listed.get_or_insert_with(|| self.ids.iter().copied().collect()).clone()
    }
}

#[derive(Debug)]
struct Group {
    interest: Interest,
    members: usize,
    synced: BTreeMap<CohortKey, Cohort>,
}

/// All groups, found by interest and by key.
#[derive(Debug)]
pub(super) struct Groups {
    slots: Vec<Option<Group>>,
    free: Vec<u32>,
    by_interest: BTreeMap<Interest, u32>,
    index: RangeIndex,
}

impl Groups {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_interest: BTreeMap::new(),
            index: RangeIndex::new(seed),
        }
    }

    /// The group for an interest, with one more member.
    pub(super) fn join(&mut self, interest: Interest) -> u32 {
        if let Some(&id) = self.by_interest.get(&interest) {
            self.slot(id).members += 1;
            return id;
        }
        let group = Group { interest: interest.clone(), members: 1, synced: BTreeMap::new() };
        let id = if let Some(id) = self.free.pop() {
            self.slots[id as usize] = Some(group);
            id
        } else {
            self.slots.push(Some(group));
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 groups fit in memory")
        };
        self.index.insert(&interest.range, id);
        self.by_interest.insert(interest, id);
        id
    }

    /// Takes a watcher out of its group.
    pub(super) fn leave(&mut self, id: u32, cohort: CohortKey, watch_id: i64) {
        self.unlist(id, cohort, watch_id);
        let group = self.slot(id);
        group.members -= 1;
        if group.members == 0
            && let Some(group) = self.slots[id as usize].take()
        {
            self.free.push(id);
            self.index.remove(&group.interest.range, id);
            self.by_interest.remove(&group.interest);
        }
    }

    /// Lists a member as synced; it is told of changes from `next` on.
    pub(super) fn list(&mut self, id: u32, cohort: CohortKey, watch_id: i64, next: i64) {
        let cohort = self.slot(id).synced.entry(cohort).or_default();
        cohort.next = cohort.next.max(next);
        cohort.ids.insert(watch_id);
        cohort.listed = None;
    }

    /// Lists a member as synced no more.
    pub(super) fn unlist(&mut self, id: u32, key: CohortKey, watch_id: i64) {
        let group = self.slot(id);
        if let Some(cohort) = group.synced.get_mut(&key)
            && cohort.ids.remove(&watch_id)
        {
            cohort.listed = None;
            if cohort.ids.is_empty() {
                group.synced.remove(&key);
            }
        }
    }

    pub(super) fn interest(&self, id: u32) -> &Interest {
        &self.slots[id as usize].as_ref().expect("a watcher's group exists").interest
    }

    /// The synced members by stream, in order.
    pub(super) fn cohorts(&mut self, id: u32) -> impl Iterator<Item = (&CohortKey, &mut Cohort)> {
        self.slot(id).synced.iter_mut()
    }

    /// Whether a member is listed as synced.
    pub(super) fn is_listed(&self, id: u32, cohort: CohortKey, watch_id: i64) -> bool {
        self.cohort(id, cohort).is_some_and(|cohort| cohort.ids.contains(&watch_id))
    }

    /// When a cohort was last sent events as a whole; 0 if there is none.
    pub(super) fn told(&self, id: u32, cohort: CohortKey) -> i64 {
        self.cohort(id, cohort).map_or(0, |cohort| cohort.told)
    }

    /// Calls `hit` with every group that has synced members and wants this change.
    pub(super) fn matching(&self, key: &[u8], kind: EventKind, mut hit: impl FnMut(u32)) {
        self.index.stab(key, &mut |id| {
            let group = self.slots[id as usize].as_ref().expect("an indexed group exists");
            if !group.synced.is_empty() && group.interest.wants(kind) {
                hit(id);
            }
        });
    }

    /// How many groups there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_interest.len()
    }

    fn cohort(&self, id: u32, key: CohortKey) -> Option<&Cohort> {
        self.slots[id as usize].as_ref().expect("a watcher's group exists").synced.get(&key)
    }

    fn slot(&mut self, id: u32) -> &mut Group {
        self.slots[id as usize].as_mut().expect("a watcher's group exists")
    }
}
