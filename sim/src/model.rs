//! etcd's data model in the simplest form that is right: every version of every key, forever.
//!
//! The checkers feed it the committed log, each entry once and in order, and compare what clients,
//! watchers and members were told with what it says. It shares no code with the store.
//!
//! **Invariant:** it is never behind any member: an entry is applied here before the member that
//! committed it first is heard of again.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_checkers::{Change, Replay};
use cairn_core::api::{
    AlarmAction, AlarmKind, Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse,
    PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseBody, ResponseOp, TxnRequest,
    TxnResponse,
};
use cairn_core::command::{Command, CommandId, Op};
use cairn_core::error::Error;
use cairn_core::types::{KeyRange, KeyValue};
use cairn_core::wal::LogEntry;

use crate::record::text;

/// What a command did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Its place in the log.
    pub index: u64,
    /// The store's revision after it.
    pub revision: i64,
    /// Its answer; `None` where the model does not know it (membership).
    pub result: Option<Result<ResponseBody, Error>>,
}

/// The state of the replicated store at an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// The revision.
    pub revision: i64,
    /// The compact revision.
    pub compact: i64,
    /// How many leases there are.
    pub leases: usize,
}

/// The model.
#[derive(Debug)]
pub struct Model {
    /// The revision of the last change.
    pub revision: i64,
    /// The last compaction.
    pub compact: i64,
    keys: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
    /// Every change in order, as the checkers of histories want it.
    pub replay: Replay,
    /// Leases with their TTL.
    pub leases: BTreeMap<i64, i64>,
    attached: BTreeMap<i64, BTreeSet<Bytes>>,
    alarms: BTreeSet<(u64, AlarmKind)>,
    min_ttl: i64,
    base: u64,
    digests: Vec<Digest>,
    /// What each command did.
    pub results: BTreeMap<CommandId, Applied>,
    sub: i64,
}

impl Model {
    /// The state of a cluster whose log begins after `base`.
    pub fn new(base: u64, min_ttl: i64) -> Self {
        let mut model = Self {
            revision: 1,
            compact: -1,
            keys: BTreeMap::new(),
            replay: Replay::default(),
            leases: BTreeMap::new(),
            attached: BTreeMap::new(),
            alarms: BTreeSet::new(),
            min_ttl,
            base,
            digests: Vec::new(),
            results: BTreeMap::new(),
            sub: 0,
        };
        model.digests.push(model.digest());
        model
    }

    /// The last index that was applied.
    pub fn index(&self) -> u64 {
        self.base + self.digests.len() as u64 - 1
    }

    fn digest(&self) -> Digest {
        Digest { revision: self.revision, compact: self.compact, leases: self.leases.len() }
    }

    /// The state after an index.
    pub fn at(&self, index: u64) -> Option<Digest> {
        self.digests.get(usize::try_from(index.checked_sub(self.base)?).ok()?).copied()
    }

    /// Applies the next entry of the log.
    ///
    /// # Errors
    /// A command was applied before, or cannot be read.
    pub fn apply(&mut self, entry: &LogEntry) -> Result<Option<Command>, String> {
        let command = if entry.data.is_empty() {
            None
        } else {
            Some(Command::decode(&entry.data).map_err(|what| format!("entry {}: {what}", entry.index))?)
        };
        if let Some(command) = &command {
            let result = self.command(&command.op);
            let applied = Applied { index: entry.index, revision: self.revision, result };
            if let Some(before) = self.results.insert(command.id, applied) {
                return Err(format!(
                    "command {:?} is in the log twice: at {} and {}: {:?}",
                    command.id, before.index, entry.index, command.op
                ));
            }
        }
        self.digests.push(self.digest());
        Ok(command)
    }

    fn command(&mut self, op: &Op) -> Option<Result<ResponseBody, Error>> {
        let no_space = self.alarms.iter().any(|(_, kind)| *kind == AlarmKind::NoSpace);
        let grows = match op {
            Op::Put(_) | Op::LeaseGrant { .. } => true,
            Op::Txn(txn) => cairn_core::mvcc::txn_cost(txn) > 0,
            _ => false,
        };
        if grows && no_space {
            return Some(Err(Error::NoSpace));
        }
        self.sub = 0;
        let result = match op {
            Op::Put(put) => self.check_put(put).map(|()| ResponseBody::Put(self.put(put))),
            Op::DeleteRange(delete) => Ok(ResponseBody::DeleteRange(self.delete(delete))),
            Op::Txn(txn) => self.txn(txn).map(ResponseBody::Txn),
            Op::Compact { revision } => {
                if *revision <= self.compact {
                    Err(Error::Compacted)
                } else if *revision > self.revision {
                    Err(Error::FutureRevision)
                } else {
                    self.compact = *revision;
                    Ok(ResponseBody::Compact)
                }
            }
            Op::LeaseGrant { id, ttl } => self.grant(*id, *ttl),
            Op::LeaseRevoke { id } => {
                if self.leases.remove(id).is_none() {
                    Err(Error::LeaseNotFound)
                } else {
                    for key in self.attached.remove(id).unwrap_or_default() {
                        self.delete_key(&key);
                    }
                    Ok(ResponseBody::LeaseRevoke)
                }
            }
            Op::Alarm { action, member_id, alarm } => {
                match action {
                    AlarmAction::Activate => self.alarms.insert((*member_id, *alarm)),
                    AlarmAction::Deactivate => self.alarms.remove(&(*member_id, *alarm)),
                    AlarmAction::Get => false,
                };
                return None;
            }
            Op::LeaseCheckpoint(_) | Op::Member(_) | Op::Publish { .. } | Op::ClusterVersion(_) => {
                return None;
            }
        };
        if self.sub > 0 {
            self.revision += 1;
        }
        Some(result)
    }

    fn grant(&mut self, id: i64, ttl: i64) -> Result<ResponseBody, Error> {
        if self.leases.contains_key(&id) {
            return Err(Error::LeaseExists);
        }
        let ttl = ttl.max(self.min_ttl);
        self.leases.insert(id, ttl);
        Ok(ResponseBody::LeaseGrant { id, ttl })
    }

    /// A key's newest version, the one being written included.
    fn latest(&self, key: &[u8]) -> Option<&KeyValue> {
        self.keys.get(key)?.last()?.1.as_ref()
    }

    fn check_put(&self, put: &PutRequest) -> Result<(), Error> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Error::LeaseNotFound);
        }
        Ok(())
    }

    fn put(&mut self, put: &PutRequest) -> PutResponse {
        let main = self.revision + 1;
        let before = self.latest(&put.key).cloned();
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: before.as_ref().map_or(main, |kv| kv.create_revision),
            mod_revision: main,
            version: before.as_ref().map_or(1, |kv| kv.version + 1),
            value: put.value.clone(),
            lease: put.lease,
        };
        if let Some(old) = before.as_ref().filter(|kv| kv.lease != 0) {
            self.attached.entry(old.lease).or_default().remove(&put.key);
        }
        if put.lease != 0 {
            self.attached.entry(put.lease).or_default().insert(put.key.clone());
        }
        self.keys.entry(put.key.clone()).or_default().push((main, Some(kv.clone())));
        self.changed(main, &put.key, Some(text(&put.value)), put.lease);
        self.sub += 1;
        PutResponse { prev_kv: before.filter(|_| put.prev_kv) }
    }

    fn changed(&mut self, revision: i64, key: &Bytes, value: Option<String>, lease: i64) {
        let change = Change { revision, key: text(key), value, lease };
        self.replay.push(change).expect("the model's revision only grows");
    }

    fn delete_key(&mut self, key: &Bytes) -> Option<KeyValue> {
        let before = self.latest(key).cloned()?;
        let main = self.revision + 1;
        if before.lease != 0
            && let Some(keys) = self.attached.get_mut(&before.lease)
        {
            keys.remove(key);
        }
        self.keys.entry(key.clone()).or_default().push((main, None));
        self.changed(main, key, None, 0);
        self.sub += 1;
        Some(before)
    }

    fn delete(&mut self, delete: &DeleteRangeRequest) -> DeleteRangeResponse {
        let range = delete.range();
        let keys: Vec<Bytes> = self.keys.keys().filter(|key| range.contains(key)).cloned().collect();
        let gone: Vec<KeyValue> = keys.iter().filter_map(|key| self.delete_key(key)).collect();
        DeleteRangeResponse {
            deleted: gone.len() as i64,
            prev_kvs: if delete.prev_kv { gone } else { Vec::new() },
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let zero = KeyValue::default();
        let kv = self.latest(&compare.key);
        if kv.is_none() && matches!(compare.target, CompareTarget::Value(_)) {
            return false;
        }
        let kv = kv.unwrap_or(&zero);
        let order = match &compare.target {
            CompareTarget::Version(version) => kv.version.cmp(version),
            CompareTarget::Create(revision) => kv.create_revision.cmp(revision),
            CompareTarget::Mod(revision) => kv.mod_revision.cmp(revision),
            CompareTarget::Value(value) => kv.value.cmp(value),
            CompareTarget::Lease(lease) => kv.lease.cmp(lease),
        };
        match compare.result {
            CompareResult::Equal => order.is_eq(),
            CompareResult::Greater => order.is_gt(),
            CompareResult::Less => order.is_lt(),
            CompareResult::NotEqual => order.is_ne(),
        }
    }

    /// A transaction without nested ones.
    fn txn(&mut self, txn: &TxnRequest) -> Result<TxnResponse, Error> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        for op in ops {
            if let RequestOp::Put(put) = op {
                self.check_put(put)?;
            }
        }
        let mut responses = Vec::new();
        for op in ops {
            responses.push(match op {
                RequestOp::Put(put) => ResponseOp::Put(self.put(put)),
                RequestOp::DeleteRange(delete) => ResponseOp::DeleteRange(self.delete(delete)),
                RequestOp::Range(range) => ResponseOp::Range(self.range(range, i64::MAX)),
                RequestOp::Txn(_) => unreachable!("the workloads send no nested transactions"),
            });
        }
        Ok(TxnResponse { revision: self.revision + i64::from(self.sub > 0), succeeded, responses })
    }

    /// The answer to a read-only transaction at a revision.
    pub fn read_txn(&self, txn: &TxnRequest, at: i64) -> TxnResponse {
        let responses = txn
            .success
            .iter()
            .map(|op| match op {
                RequestOp::Range(range) => ResponseOp::Range(self.range(range, at)),
                other => unreachable!("{other:?} is not a read"),
            })
            .collect();
        TxnResponse { revision: at, succeeded: true, responses }
    }

    /// The live keys of a range at a revision.
    pub fn live(&self, range: &KeyRange, at: i64) -> Vec<KeyValue> {
        let in_range = self.keys.iter().filter(|(key, _)| range.contains(key));
        in_range
            .filter_map(|(_, versions)| versions.iter().rev().find(|(main, _)| *main <= at)?.1.clone())
            .collect()
    }

    /// The answer to a range at a revision.
    pub fn range(&self, request: &RangeRequest, at: i64) -> RangeResponse {
        let mut kvs = self.live(&request.range(), at);
        let count = kvs.len() as i64;
        if request.count_only {
            return RangeResponse { kvs: Vec::new(), more: false, count };
        }
        let more = request.limit > 0 && count > request.limit;
        if more {
            kvs.truncate(request.limit as usize);
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        RangeResponse { kvs, more, count }
    }
}
