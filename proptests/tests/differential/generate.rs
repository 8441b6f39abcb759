//! Random operations from a seed, over a key space so small that everything collides.

use bytes::Bytes;
use cairn_net::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
    compare::TargetUnion, request_op::Request,
};

/// One step of a differential run.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact { revision: i64, physical: bool },
    Grant { id: i64, ttl: i64 },
    Revoke(i64),
    TimeToLive { id: i64, keys: bool },
    Leases,
    HashKv(i64),
    Watch(WatchCreateRequest),
    Cancel,
    Barrier,
    Progress,
}

/// What the generator may know: the oracle's revisions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Revisions {
    pub(crate) current: i64,
    pub(crate) compacted: i64,
}

/// SplitMix64: small, and the same on every platform.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn between(&mut self, low: i64, high: i64) -> i64 {
        low + i64::try_from(self.below(u64::try_from(high - low + 1).unwrap())).unwrap()
    }
}

/// The generator: its random numbers, and the next explicit watch id.
#[derive(Debug)]
pub(crate) struct Generator {
    pub(crate) random: Random,
    next_watch_id: i64,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Generator {
        Generator { random: Random(seed), next_watch_id: 1_000 }
    }

    /// The next operation.
    pub(crate) fn op(&mut self, at: Revisions) -> Op {
        match self.random.below(1_000) {
            0..330 => Op::Put(self.put()),
            330..560 => Op::Range(self.range(at, false)),
            560..640 => Op::Delete(self.delete()),
            640..820 => Op::Txn(self.txn(at, 0)),
            820..828 => Op::Compact { revision: self.compact_revision(at), physical: self.random.chance(50) },
            828..858 => Op::Grant { id: self.lease(), ttl: self.ttl() },
            858..870 => Op::Revoke(self.lease()),
            870..890 => Op::TimeToLive { id: self.lease(), keys: self.random.chance(70) },
            890..895 => Op::Leases,
            895..925 => Op::HashKv(self.revision(at)),
            925..970 => Op::Watch(self.watch(at)),
            970..982 => Op::Cancel,
            982..994 => Op::Barrier,
            _ => Op::Progress,
        }
    }

    fn key(&mut self) -> Bytes {
        match self.random.below(100) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"\0"),
            2..7 => Bytes::from_static(b"a/"),
            7..10 => Bytes::from_static(b"\xff"),
            10..12 => Bytes::from_static(b"a/1\0"),
            n if n < 60 => Bytes::from(format!("a/{}", self.random.below(8))),
            _ => Bytes::from(format!("b/{}", self.random.below(8))),
        }
    }

    fn range_end(&mut self, key: &Bytes) -> Bytes {
        match self.random.below(10) {
            0..4 => Bytes::new(),
            4 | 5 => prefix_end(key),
            6 => Bytes::from_static(b"\0"),
            7 => Bytes::from_static(b"b0"),
            _ => self.key(),
        }
    }

    fn value(&mut self) -> Bytes {
        match self.random.below(10) {
            0 => Bytes::new(),
            1 => Bytes::from(vec![u8::try_from(self.random.below(256)).unwrap(); 300]),
            _ => Bytes::from(format!("v{}", self.random.below(50))),
        }
    }

    fn lease(&mut self) -> i64 {
        self.random.between(1, 8)
    }

    /// Long enough that nothing expires during a run, or an error.
    fn ttl(&mut self) -> i64 {
        if self.random.chance(10) { 9_000_000_001 } else { self.random.between(10_000, 9_000_000) }
    }

    /// Now, old, compacted or future.
    fn revision(&mut self, at: Revisions) -> i64 {
        match self.random.below(20) {
            0..8 => 0,
            8 => at.current + self.random.between(1, 3),
            9 => at.compacted.max(0),
            10 => (at.compacted - self.random.between(0, 3)).max(0),
            11 => at.current,
            12 => -1,
            _ => self.random.between(at.compacted.max(1), at.current.max(at.compacted.max(1))),
        }
    }

    fn compact_revision(&mut self, at: Revisions) -> i64 {
        match self.random.below(10) {
            0 => at.compacted,
            1 => at.current + 1,
            2 => at.current,
            _ => self.random.between(at.compacted, at.current.max(at.compacted)),
        }
    }

    fn put(&mut self) -> PutRequest {
        let ignore_value = self.random.chance(6);
        let ignore_lease = self.random.chance(6);
        PutRequest {
            key: self.key(),
            value: if ignore_value && self.random.chance(90) { Bytes::new() } else { self.value() },
            lease: if self.random.chance(if ignore_lease { 5 } else { 20 }) { self.lease() } else { 0 },
            prev_kv: self.random.chance(40),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        let key = self.key();
        // Few wide deletions, or the store is always empty.
        let range_end = if self.random.chance(12) { self.range_end(&key) } else { Bytes::new() };
        DeleteRangeRequest { key, range_end, prev_kv: self.random.chance(50) }
    }

    fn range(&mut self, at: Revisions, nested: bool) -> RangeRequest {
        let key = self.key();
        let range_end = self.range_end(&key);
        let mut bound = |percent| {
            if self.random.chance(percent) { self.random.between(0, at.current + 1) } else { 0 }
        };
        let bounds = [bound(8), bound(8), bound(8), bound(8)];
        let revision = if nested && self.random.chance(70) { 0 } else { self.revision(at) };
        // Out of range now and then, where a later release answers an error (exception A-KV-17).
        let sort_order =
            if !nested && self.random.chance(1) { 7 } else { i32::try_from(self.random.below(3)).unwrap() };
        RangeRequest {
            key,
            range_end,
            limit: if self.random.chance(30) { self.random.between(-1, 6) } else { 0 },
            revision,
            sort_order,
            sort_target: if self.random.chance(50) {
                0
            } else {
                i32::try_from(self.random.below(5)).unwrap()
            },
            serializable: self.random.chance(40),
            keys_only: self.random.chance(15),
            count_only: self.random.chance(8),
            min_mod_revision: bounds[0],
            max_mod_revision: bounds[1],
            min_create_revision: bounds[2],
            max_create_revision: bounds[3],
        }
    }

    fn compare(&mut self, at: Revisions) -> Compare {
        let key = self.key();
        let range_end = if self.random.chance(30) { self.range_end(&key) } else { Bytes::new() };
        let target = i32::try_from(self.random.below(5)).unwrap();
        let revision = self.random.between(0, at.current);
        let target_union = match target {
            0 => TargetUnion::Version(self.random.between(0, 4)),
            1 => TargetUnion::CreateRevision(if self.random.chance(50) { 0 } else { revision }),
            2 => TargetUnion::ModRevision(if self.random.chance(30) { 0 } else { revision }),
            3 => TargetUnion::Value(self.value()),
            _ => TargetUnion::Lease(self.random.between(0, 8)),
        };
        // A target without its value is legal: it means zero, or the empty value.
        let target_union = (!self.random.chance(4)).then_some(target_union);
        Compare { result: i32::try_from(self.random.below(4)).unwrap(), target, key, range_end, target_union }
    }

    fn txn(&mut self, at: Revisions, depth: u64) -> TxnRequest {
        let compares = self.random.below(3);
        let (success, failure) = (self.random.below(4), self.random.below(3));
        TxnRequest {
            compare: (0..compares).map(|_| self.compare(at)).collect(),
            success: (0..success).map(|_| self.request_op(at, depth)).collect(),
            failure: (0..failure).map(|_| self.request_op(at, depth)).collect(),
        }
    }

    fn request_op(&mut self, at: Revisions, depth: u64) -> RequestOp {
        let request = match self.random.below(100) {
            0 => None,
            1..40 => Some(Request::RequestPut(self.put())),
            40..65 => Some(Request::RequestRange(self.range(at, true))),
            65..80 => Some(Request::RequestDeleteRange(self.delete())),
            _ if depth < 2 => Some(Request::RequestTxn(self.txn(at, depth + 1))),
            _ => Some(Request::RequestPut(self.put())),
        };
        RequestOp { request }
    }

    fn watch(&mut self, at: Revisions) -> WatchCreateRequest {
        let key = self.key();
        let range_end = self.range_end(&key);
        let negative = at.compacted > 0 && self.random.chance(3);
        let start_revision = match self.random.below(10) {
            _ if negative => -1,
            0..4 => 0,
            4 => at.current + self.random.between(1, 8),
            5 => (at.compacted - 1).max(0),
            6 => at.compacted.max(0),
            _ => self.random.between(at.compacted.max(1), at.current.max(at.compacted.max(1))),
        };
        let explicit = negative || self.random.chance(20);
        if explicit {
            self.next_watch_id += 1;
        }
        // An id that is in use, now and then.
        let back = if !negative && self.random.chance(20) { self.random.between(0, 5) } else { 0 };
        let filters = match self.random.below(10) {
            0 => vec![0],
            1 => vec![1],
            2 => vec![0, 1],
            _ => vec![],
        };
        WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify: self.random.chance(20),
            filters,
            prev_kv: self.random.chance(50),
            watch_id: if explicit { self.next_watch_id - back } else { 0 },
            fragment: self.random.chance(20),
        }
    }
}

/// The end of the range of all keys with that prefix.
fn prefix_end(key: &[u8]) -> Bytes {
    let mut end = key.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Bytes::from(end);
        }
    }
    Bytes::from_static(b"\0")
}
