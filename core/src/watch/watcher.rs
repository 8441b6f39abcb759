//! Watchers and the groups that they share.
//!
//! Watchers that ask for the same thing (range, filters, prev_kv) form one group; matching a change and
//! building its events happens once a group, whatever the number of its members. A group lists its
//! synced members only, so watchers of stalled streams cost nothing when a change is applied.
//!
//! Invariant: a group exists as long as a watcher of any state refers to it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::interval::RangeIndex;
use crate::api::{WatchCreateRequest, WatchFilter};
use crate::planted::{self, Bug};
use crate::types::{EventKind, KeyRange};

/// Names a watcher: its stream and its id there.
pub(super) type WatcherKey = (u64, i64);

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
    /// No event since the last progress tick.
    pub(super) idle: bool,
    /// Unsynced: the first revision that has not been sent. Synced: a revision below which nothing may
    /// be sent any more; everything from it up to the current one has been.
    pub(super) next: i64,
}

#[derive(Debug)]
struct Group {
    interest: Interest,
    members: usize,
    synced: BTreeSet<WatcherKey>,
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
        let group = Group { interest: interest.clone(), members: 1, synced: BTreeSet::new() };
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
    pub(super) fn leave(&mut self, id: u32, watcher: WatcherKey) {
        let group = self.slot(id);
        group.synced.remove(&watcher);
        group.members -= 1;
        if group.members == 0
            && let Some(group) = self.slots[id as usize].take()
        {
            self.free.push(id);
            self.index.remove(&group.interest.range, id);
            self.by_interest.remove(&group.interest);
        }
    }

    /// Lists or unlists a member as synced.
    pub(super) fn mark(&mut self, id: u32, watcher: WatcherKey, synced: bool) {
        let group = self.slot(id);
        if synced {
            group.synced.insert(watcher);
        } else {
            group.synced.remove(&watcher);
        }
    }

    pub(super) fn interest(&self, id: u32) -> &Interest {
        &self.slots[id as usize].as_ref().expect("a watcher's group exists").interest
    }

    /// The synced members, in order.
    pub(super) fn synced(&self, id: u32) -> &BTreeSet<WatcherKey> {
        &self.slots[id as usize].as_ref().expect("a matched group exists").synced
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

    fn slot(&mut self, id: u32) -> &mut Group {
        self.slots[id as usize].as_mut().expect("a watcher's group exists")
    }
}
