//! Each rule of the store on its own, and HashKV against values that etcd 3.4.23 gave.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::api::*;
use crate::backend::mem::MemBackend;
use crate::backend::{Backend, Batch, Table};
use crate::error::Error;
use crate::rng::Rng;
use crate::types::{EventKind, KeyValue, Revision};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..PutRequest::default() }
}

fn delete(key: &str, range_end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(key), range_end: bytes(range_end), prev_kv: false }
}

fn range(key: &str, range_end: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), range_end: bytes(range_end), ..RangeRequest::default() }
}

fn all() -> RangeRequest {
    range("\0", "\0")
}

/// A store with its backend, flushed and compacted by hand.
struct Fixture {
    backend: MemBackend,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let backend = MemBackend::new();
        let store = Store::open(Arc::new(backend.clone()), StoreOptions::default()).unwrap();
        Self { backend, store }
    }

    fn put(&mut self, key: &str, value: &str) -> Outcome {
        self.store.put(&put(key, value), &|_| true).unwrap()
    }

    fn delete(&mut self, key: &str, range_end: &str) -> i64 {
        match self.store.delete_range(&delete(key, range_end)).unwrap().result {
            Ok(ResponseBody::DeleteRange(response)) => response.deleted,
            other => panic!("{other:?}"),
        }
    }

    fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        check_txn(request, 128)?;
        match self.store.txn(request, &|lease| lease == 7).unwrap().result {
            Ok(ResponseBody::Txn(response)) => Ok(response),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        }
    }

    fn range(&self, request: &RangeRequest) -> RangeResponse {
        match self.store.view().range(request, None).unwrap().unwrap() {
            Ranged::Done(response) => response,
            Ranged::TooLong => panic!("no bound was given"),
        }
    }

    fn keys(&self, request: &RangeRequest) -> Vec<String> {
        let keys = self.range(request).kvs.into_iter();
        keys.map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
    }

    fn flush(&mut self) {
        if let Some(flush) = self.store.take_flush() {
            self.backend.commit(&flush.into_batch()).unwrap();
            self.store.flushed().unwrap();
        }
    }

    fn compact(&mut self, revision: i64) {
        self.store.compact(revision).unwrap().unwrap();
        self.flush();
        let due = self.store.compaction_due().unwrap();
        self.store.compaction_started();
        let mut cursor = Some(due.start());
        while let Some(from) = cursor {
            let (batch, next) = compact_batch(&*self.backend.view().unwrap(), from, due.to, 2).unwrap();
            self.backend.commit(&batch).unwrap();
            cursor = next;
        }
        self.store.compacted(due.to).unwrap();
    }

    fn hash(&self, revision: i64) -> Result<(u32, i64), Error> {
        self.store.view().hash_kv(revision).unwrap().map(|hash| (hash.hash, hash.compact_revision))
    }
}

#[test]
fn revisions_and_versions_count_as_in_etcd() {
    let mut fixture = Fixture::new();
    assert_eq!((fixture.store.revision(), fixture.store.compact_revision()), (1, -1));
    assert_eq!(fixture.put("a", "1").changes[0].revision, Revision::new(2, 0));
    fixture.put("a", "2");
    assert_eq!(fixture.delete("a", ""), 1);
    assert_eq!(fixture.delete("a", ""), 0);
    assert_eq!(fixture.store.revision(), 4);
    let change = fixture.put("a", "3").changes.remove(0);
    assert_eq!((change.kv.create_revision, change.kv.version, change.prev), (5, 1, None));
    let old = fixture.range(&RangeRequest { revision: 3, ..range("a", "") });
    let expected = KeyValue {
        key: bytes("a"),
        create_revision: 2,
        mod_revision: 3,
        version: 2,
        value: bytes("2"),
        lease: 0,
    };
    assert_eq!(old.kvs, [expected]);
    assert_eq!(fixture.range(&RangeRequest { revision: 4, ..range("a", "") }).count, 0);
}

#[test]
fn ranges_name_keys_by_etcd_conventions() {
    let mut fixture = Fixture::new();
    for key in ["a", "aa", "ab", "b", "c"] {
        fixture.put(key, "v");
    }
    assert_eq!(fixture.keys(&range("a", "")), ["a"]);
    assert_eq!(fixture.keys(&range("a", "b")), ["a", "aa", "ab"]);
    assert_eq!(fixture.keys(&range("b", "\0")), ["b", "c"]);
    assert_eq!(fixture.keys(&all()), ["a", "aa", "ab", "b", "c"]);
    assert_eq!(fixture.keys(&range("c", "a")), Vec::<String>::new());
    assert_eq!(fixture.keys(&range("a", "a")), Vec::<String>::new());
    let limited = fixture.range(&RangeRequest { limit: 2, ..all() });
    assert_eq!((limited.kvs.len(), limited.more, limited.count), (2, true, 5));
    let exact = fixture.range(&RangeRequest { limit: 5, ..all() });
    assert_eq!((exact.kvs.len(), exact.more), (5, false));
    let counted = fixture.range(&RangeRequest { count_only: true, limit: 1, ..all() });
    assert_eq!(counted, RangeResponse { kvs: Vec::new(), more: false, count: 5 });
    let filtered =
        fixture.range(&RangeRequest { min_mod_revision: 4, max_mod_revision: 5, limit: 1, ..all() });
    assert_eq!((filtered.kvs[0].key.clone(), filtered.more, filtered.count), (bytes("ab"), true, 5));
}

#[test]
fn a_sort_target_without_an_order_sorts_what_the_limit_left() {
    let mut fixture = Fixture::new();
    for (key, value) in [("s1", "b"), ("s2", "a"), ("s3", "0"), ("s2", "1")] {
        fixture.put(key, value);
    }
    let by_value = RangeRequest { sort_target: SortTarget::Value, limit: 1, ..range("s", "t") };
    assert_eq!(fixture.keys(&by_value), ["s2"]);
    assert_eq!(fixture.keys(&RangeRequest { limit: 2, ..by_value.clone() }), ["s3", "s2"]);
    assert_eq!(fixture.keys(&RangeRequest { sort_order: SortOrder::Ascend, ..by_value.clone() }), ["s3"]);
    assert_eq!(fixture.keys(&RangeRequest { sort_order: SortOrder::Descend, ..by_value }), ["s1"]);
}

#[test]
fn revisions_of_reads_are_checked() {
    let mut fixture = Fixture::new();
    for value in ["1", "2", "3"] {
        fixture.put("a", value);
    }
    fixture.compact(3);
    let at = |revision| {
        fixture.store.view().range(&RangeRequest { revision, ..range("a", "") }, None).unwrap().map(|_| ())
    };
    assert_eq!(at(5), Err(Error::FutureRevision));
    assert_eq!(at(2), Err(Error::Compacted));
    assert_eq!([at(3), at(4), at(0), at(-1)], [Ok(()), Ok(()), Ok(()), Ok(())]);
    assert_eq!(fixture.store.compact(3).unwrap(), Err(Error::Compacted));
    assert_eq!(fixture.store.compact(5).unwrap(), Err(Error::FutureRevision));
}

#[test]
fn a_range_over_more_rows_than_allowed_is_handed_back() {
    let mut fixture = Fixture::new();
    for key in ["a", "b", "c"] {
        fixture.put(key, "v");
    }
    let view = fixture.store.view();
    assert_eq!(view.range(&all(), Some(2)).unwrap(), Ok(Ranged::TooLong));
    assert!(matches!(view.range(&all(), Some(3)).unwrap(), Ok(Ranged::Done(_))));
    assert!(matches!(view.range(&range("a", ""), Some(0)).unwrap(), Ok(Ranged::Done(_))));
}

#[test]
fn puts_keep_or_move_leases() {
    let mut fixture = Fixture::new();
    let exists = |lease| lease == 1 || lease == 2;
    let leased = |lease| PutRequest { lease, ..put("k", "v") };
    let store = &mut fixture.store;
    assert_eq!(store.put(&leased(9), &exists).unwrap().result, Err(Error::LeaseNotFound));
    let ignoring = PutRequest { ignore_lease: true, ..put("k", "w") };
    assert_eq!(store.put(&ignoring, &exists).unwrap().result, Err(Error::KeyNotFound));
    assert_eq!(store.revision(), 1);
    store.put(&leased(1), &exists).unwrap();
    store.put(&ignoring, &exists).unwrap();
    assert_eq!(store.view().lease_keys(1).unwrap(), ["k"]);
    let keep_value = PutRequest { ignore_value: true, prev_kv: true, ..put("k", "") };
    let outcome = store.put(&PutRequest { lease: 2, ..keep_value }, &exists).unwrap();
    assert_eq!(outcome.changes[0].kv.value, "w");
    let Ok(ResponseBody::Put(response)) = outcome.result else { panic!() };
    assert_eq!(response.prev_kv.unwrap().lease, 1);
    assert_eq!(store.view().lease_keys(1).unwrap(), Vec::<Bytes>::new());
    assert_eq!(store.view().lease_keys(2).unwrap(), ["k"]);
    store.put(&PutRequest { lease: 2, ..put("a", "v") }, &exists).unwrap();
    store.put(&put("k", "detached"), &exists).unwrap();
    store.put(&PutRequest { lease: 2, ..put("b", "v") }, &exists).unwrap();
    let outcome = store.revoke_lease(2).unwrap();
    assert_eq!(outcome.result, Ok(ResponseBody::LeaseRevoke));
    let gone: Vec<_> = outcome.changes.iter().map(|change| (change.kv.key.clone(), change.kind)).collect();
    assert_eq!(gone, [(bytes("a"), EventKind::Delete), (bytes("b"), EventKind::Delete)]);
    assert_eq!(store.revoke_lease(2).unwrap().changes, []);
    assert_eq!(fixture.keys(&all()), ["k"]);
}

fn compare(key: &str, result: CompareResult, target: CompareTarget) -> Compare {
    Compare { result, target, key: bytes(key), range_end: Bytes::new() }
}

#[test]
fn compares_follow_etcd_for_missing_keys_and_ranges() {
    let mut fixture = Fixture::new();
    fixture.put("a", "1");
    fixture.put("b", "2");
    let mut holds = |compare: Compare| {
        fixture.txn(&TxnRequest { compare: vec![compare], ..TxnRequest::default() }).unwrap().succeeded
    };
    let value = |text: &str| CompareTarget::Value(bytes(text));
    assert!(holds(compare("a", CompareResult::Equal, value("1"))));
    assert!(!holds(compare("none", CompareResult::NotEqual, value("1"))));
    assert!(holds(compare("none", CompareResult::Equal, CompareTarget::Create(0))));
    assert!(holds(compare("none", CompareResult::Less, CompareTarget::Version(1))));
    let over = |range_end: &str, compare: Compare| Compare { range_end: bytes(range_end), ..compare };
    assert!(holds(over("c", compare("a", CompareResult::Greater, CompareTarget::Mod(1)))));
    assert!(!holds(over("c", compare("a", CompareResult::Greater, CompareTarget::Mod(2)))));
    assert!(!holds(over("y", compare("x", CompareResult::NotEqual, value("1")))));
    assert!(holds(over("y", compare("x", CompareResult::Equal, CompareTarget::Lease(0)))));
}

#[test]
fn transactions_see_their_own_writes_and_share_a_revision() {
    let mut fixture = Fixture::new();
    fixture.put("a", "1");
    // The nested compare looks at the state before the transaction.
    let nested = TxnRequest {
        compare: vec![compare("b", CompareResult::Equal, CompareTarget::Version(0))],
        success: vec![RequestOp::Put(put("c", "3")), RequestOp::Range(all())],
        failure: vec![],
    };
    let request = TxnRequest {
        compare: vec![],
        success: vec![
            RequestOp::Put(put("b", "2")),
            RequestOp::Range(RangeRequest { revision: 2, ..all() }),
            RequestOp::DeleteRange(delete("a", "")),
            RequestOp::Txn(nested),
        ],
        failure: vec![],
    };
    assert!(!is_read_only(&request));
    let response = fixture.txn(&request).unwrap();
    assert_eq!((response.revision, fixture.store.revision()), (3, 3));
    let ResponseOp::Range(old) = &response.responses[1] else { panic!() };
    assert_eq!(old.kvs.len(), 1);
    let ResponseOp::Txn(nested) = &response.responses[3] else { panic!() };
    assert!(nested.succeeded && nested.revision == 3);
    let ResponseOp::Range(now) = &nested.responses[1] else { panic!() };
    let mods: Vec<_> = now.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)).collect();
    assert_eq!(mods, [(bytes("b"), 3), (bytes("c"), 3)]);
    let reads = TxnRequest { success: vec![RequestOp::Range(all())], ..TxnRequest::default() };
    assert!(is_read_only(&reads));
    let read = fixture.store.view().txn(&reads).unwrap().unwrap();
    assert_eq!(Ok(read), fixture.txn(&reads));
    assert_eq!(fixture.store.revision(), 3);
}

#[test]
fn a_transaction_that_fails_changes_nothing() {
    let mut fixture = Fixture::new();
    fixture.put("a", "1");
    fixture.put("a", "2");
    fixture.compact(3);
    let ignoring = PutRequest { ignore_value: true, ..put("none", "") };
    let range_at = |revision| RequestOp::Range(RangeRequest { revision, ..all() });
    let failures = [
        (RequestOp::Put(PutRequest { lease: 9, ..put("z", "1") }), Error::LeaseNotFound),
        (RequestOp::Put(PutRequest { lease: 9, ..ignoring }), Error::KeyNotFound),
        // The revision that the transaction itself would make is still in the future.
        (range_at(4), Error::FutureRevision),
        (range_at(2), Error::Compacted),
    ];
    for (op, error) in failures {
        let nested = TxnRequest { success: vec![op], ..TxnRequest::default() };
        let success = vec![RequestOp::Put(put("b", "1")), RequestOp::Txn(nested)];
        let request = TxnRequest { success, ..TxnRequest::default() };
        assert_eq!(fixture.txn(&request), Err(error));
        assert_eq!((fixture.store.revision(), fixture.keys(&all())), (3, vec!["a".to_owned()]));
    }
    // The key is there before the transaction, but not when the put would need it.
    let ignoring = PutRequest { ignore_value: true, ..put("a", "") };
    let after = success(vec![RequestOp::DeleteRange(delete("a", "\0")), RequestOp::Put(ignoring)]);
    assert_eq!(fixture.txn(&after), Err(Error::KeyNotFound));
    assert_eq!(fixture.store.revision(), 3);
    // The error of a put is reported before that of an earlier range.
    let both = vec![range_at(9), RequestOp::Put(PutRequest { lease: 9, ..put("z", "1") })];
    let request = TxnRequest { success: both, ..TxnRequest::default() };
    assert_eq!(fixture.txn(&request), Err(Error::LeaseNotFound));
}

fn success(ops: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success: ops, ..TxnRequest::default() }
}

#[test]
fn requests_are_checked_before_they_are_proposed() {
    assert_eq!(check_range(&range("", "")), Err(Error::EmptyKey));
    assert_eq!(check_delete_range(&delete("", "\0")), Err(Error::EmptyKey));
    let put_with = |ignore_value, ignore_lease, lease| {
        check_put(&PutRequest { ignore_value, ignore_lease, lease, ..put("k", "v") })
    };
    assert_eq!(put_with(true, false, 0), Err(Error::ValueProvided));
    assert_eq!(put_with(false, true, 1), Err(Error::LeaseProvided));
    assert_eq!(put_with(false, true, 0), Ok(()));
    let many = |count| success((0..count).map(|_| RequestOp::Range(all())).collect());
    assert_eq!(check_txn(&many(128), 128), Ok(()));
    assert_eq!(check_txn(&many(129), 128), Err(Error::TooManyOps));
    let nested = |count| success(vec![RequestOp::Txn(many(count)), RequestOp::Range(all())]);
    assert_eq!(check_txn(&nested(126), 128), Ok(()));
    assert_eq!(check_txn(&nested(127), 128), Err(Error::TooManyOps));
    let empty = compare("", CompareResult::Equal, CompareTarget::Mod(0));
    assert_eq!(check_txn(&TxnRequest { compare: vec![empty], ..many(0) }, 128), Err(Error::EmptyKey));
    assert_eq!(check_txn(&success(vec![RequestOp::Put(put("", ""))]), 128), Err(Error::EmptyKey));
}

#[test]
fn a_branch_writes_a_key_once() {
    let put = |key| RequestOp::Put(put(key, "v"));
    let delete = |key, end| RequestOp::DeleteRange(delete(key, end));
    let fork = |success, failure| RequestOp::Txn(TxnRequest { compare: vec![], success, failure });
    let cases = [
        (vec![put("a"), put("a")], false),
        (vec![put("a"), put("b")], true),
        (vec![put("a"), delete("a", "")], false),
        (vec![delete("a", "c"), put("b")], false),
        (vec![delete("a", "b"), put("b")], true),
        (vec![delete("a", "c"), delete("b", "d")], true),
        (vec![delete("a", "\0"), put("b")], true),
        (vec![fork(vec![put("a")], vec![put("a")])], true),
        (vec![fork(vec![put("a")], vec![]), put("a")], false),
        (vec![put("a"), fork(vec![], vec![put("a")])], false),
        (vec![fork(vec![put("a")], vec![]), fork(vec![], vec![put("a")])], false),
        (vec![delete("a", ""), fork(vec![put("a")], vec![])], false),
        (vec![fork(vec![delete("a", "")], vec![]), put("a")], false),
        (vec![fork(vec![delete("a", "")], vec![]), fork(vec![put("a")], vec![])], false),
        (vec![fork(vec![put("a")], vec![]), fork(vec![delete("a", "")], vec![])], true),
    ];
    for (ops, allowed) in cases {
        let expected = if allowed { Ok(()) } else { Err(Error::DuplicateKey) };
        assert_eq!(check_txn(&success(ops.clone()), 128), expected, "{ops:?}");
        let failing = TxnRequest { failure: ops, ..TxnRequest::default() };
        assert_eq!(check_txn(&failing, 128), expected);
    }
}

#[test]
fn costs_are_the_dearer_branch() {
    let cheap = RequestOp::Put(put("k", "v"));
    let nested = RequestOp::Txn(success(vec![RequestOp::Put(put("key", "value"))]));
    let request = TxnRequest {
        compare: vec![],
        success: vec![cheap.clone(), RequestOp::DeleteRange(delete("a", "z"))],
        failure: vec![cheap, nested],
    };
    assert_eq!(txn_cost(&request), 258 + 264);
    assert_eq!(put_cost(&put("k", "v")), 258);
}

#[test]
fn a_tombstone_at_the_compact_revision_stays_for_watchers() {
    let mut fixture = Fixture::new();
    fixture.put("a", "1");
    fixture.delete("a", "");
    fixture.put("b", "1");
    fixture.compact(3);
    let (changes, next) = fixture.store.view().changes(Revision::new(3, 0), 10).unwrap();
    let seen: Vec<_> = changes.iter().map(|change| (change.revision.main, change.kind)).collect();
    assert_eq!((seen, next), (vec![(3, EventKind::Delete), (4, EventKind::Put)], None));
    assert_eq!(fixture.store.view().prev_kv(&changes[0]).unwrap(), None);
    assert_eq!(fixture.store.scan(Table::Index).unwrap().len(), 2);
    fixture.compact(4);
    assert_eq!(fixture.store.scan(Table::Index).unwrap().len(), 1);
    assert_eq!(fixture.store.scan(Table::History).unwrap().len(), 1);
}

#[test]
fn a_compaction_leaves_newer_versions_in_the_overlay_alone() {
    let mut fixture = Fixture::new();
    fixture.put("a", "1");
    fixture.delete("a", "");
    fixture.put("b", "1");
    fixture.store.compact(4).unwrap().unwrap();
    fixture.flush();
    fixture.put("a", "again");
    let due = fixture.store.compaction_due().unwrap();
    let (batch, next) = compact_batch(&*fixture.backend.view().unwrap(), due.start(), due.to, 100).unwrap();
    assert_eq!(next, None);
    fixture.backend.commit(&batch).unwrap();
    fixture.store.compaction_started();
    fixture.store.compacted(due.to).unwrap();
    assert_eq!(fixture.keys(&all()), ["a", "b"]);
    assert_eq!(fixture.keys(&RangeRequest { revision: 4, ..all() }), ["b"]);
    fixture.flush();
    assert_eq!(fixture.keys(&RangeRequest { revision: 4, ..all() }), ["b"]);
}

#[test]
fn changes_come_in_whole_revisions() {
    let mut fixture = Fixture::new();
    fixture.put("a", "1");
    fixture.txn(&success(["b", "c", "d"].map(|key| RequestOp::Put(put(key, "v"))).to_vec())).unwrap();
    fixture.put("e", "1");
    let view = fixture.store.view();
    let (changes, next) = view.changes(Revision::new(2, 0), 2).unwrap();
    assert_eq!((changes.len(), next), (4, Some(Revision::new(4, 0))));
    let (changes, next) = view.changes(next.unwrap(), 2).unwrap();
    assert_eq!((changes.len(), next), (1, None));
}

#[test]
fn a_lost_row_is_reported_not_skipped() {
    let mut fixture = Fixture::new();
    fixture.put("a", "1");
    fixture.put("a", "2");
    let lost = Bytes::copy_from_slice(&Revision::new(2, 0).to_bytes());
    fixture.store.set(Table::History, lost, None);
    let request = RangeRequest { revision: 2, ..range("a", "") };
    let error = fixture.store.view().range(&request, None).unwrap_err();
    assert!(error.0.contains("table History"), "{error}");
    let newest = Bytes::copy_from_slice(&Revision::new(3, 0).to_bytes());
    fixture.store.set(Table::History, newest, None);
    assert!(fixture.store.view().range(&range("a", ""), None).is_err());
    fixture.store.set(Table::Index, bytes("a"), Some(bytes("junk")));
    assert!(fixture.store.put(&put("a", "3"), &|_| true).unwrap_err().0.contains("table Index, key a"));
}

#[test]
fn all_rows_can_be_read_in_pieces_and_make_the_same_store() {
    let mut fixture = Fixture::new();
    for key in ["a", "b", "c"] {
        fixture.put(key, "v");
        fixture.put(key, "w");
        if key != "c" {
            fixture.flush();
        }
    }
    fixture.store.compact(4).unwrap().unwrap();
    fixture.store.set(Table::Members, bytes("m"), Some(bytes("member")));
    fixture.store.set(Table::Meta, bytes("applied"), Some(bytes("1")));
    let view = fixture.store.view();
    let whole: Vec<_> = view.rows(None).map(Result::unwrap).collect();
    let mut pieces = Vec::new();
    loop {
        let after = pieces.last().map(|(table, key, _): &(Table, Bytes, Bytes)| (*table, key.clone()));
        let piece: Vec<_> = view.rows(after).take(4).map(Result::unwrap).collect();
        if piece.is_empty() {
            break;
        }
        pieces.extend(piece);
    }
    assert_eq!(pieces, whole);
    let backend = MemBackend::new();
    let changes = whole.into_iter().map(|(table, key, value)| (table, key, Some(value))).collect();
    backend.commit(&crate::backend::Batch { changes }).unwrap();
    let copy = Store::open(Arc::new(backend), StoreOptions::default()).unwrap();
    assert_eq!((copy.revision(), copy.compact_revision()), (7, 4));
    assert_eq!(copy.view().hash_kv(0), view.hash_kv(0));
    assert_eq!(copy.get(Table::Members, b"m").unwrap(), Some(bytes("member")));
}

#[test]
fn a_flush_with_nothing_but_a_compaction_is_still_a_flush() {
    let mut fixture = Fixture::new();
    assert!(fixture.store.take_flush().is_none());
    fixture.put("a", "1");
    fixture.flush();
    assert!(fixture.store.take_flush().is_none());
    fixture.store.compact(2).unwrap().unwrap();
    assert_eq!(fixture.store.compaction_due(), None);
    fixture.flush();
    assert_eq!(fixture.store.compaction_due(), Some(Compaction { from: 0, to: 2 }));
    assert!(!fixture.store.pending().flushing);
}

/// The same commands were given to etcd 3.4.23 with etcdctl, and these are its hashes.
#[test]
fn hashes_are_those_of_etcd() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.hash(0), Ok((1_084_519_789, -1)));
    fixture.put("a", "1");
    assert_eq!(fixture.hash(0), Ok((2_587_454_935, -1)));
    fixture.put("a", "2");
    fixture.put("b", "x");
    fixture.delete("a", "");
    assert_eq!(fixture.hash(0), Ok((3_909_293_975, -1)));
    fixture.put("c", "");
    let lease = 0x12c8_a1fb_57cf_810a;
    fixture.store.put(&PutRequest { lease, ..put("d", "v") }, &|_| true).unwrap();
    assert_eq!(fixture.hash(0), Ok((582_380_518, -1)));
    fixture.put("a", "3");
    fixture.put("b", "y");
    fixture.delete("b", "");
    fixture.put("e", "z");
    assert_eq!(fixture.hash(0), Ok((3_994_749_909, -1)));
    fixture.compact(5);
    assert_eq!(fixture.hash(0), Ok((1_672_944_027, 5)));
    assert_eq!(fixture.hash(6), Ok((3_076_514_793, 5)));
    assert_eq!(fixture.hash(4), Err(Error::Compacted));
    assert_eq!(fixture.hash(12), Err(Error::FutureRevision));
    fixture.compact(10);
    assert_eq!(fixture.hash(0), Ok((3_528_368_576, 10)));
    fixture.store.revoke_lease(lease).unwrap();
    let ops = vec![
        RequestOp::Put(put("t1", "1")),
        RequestOp::Put(put("t2", "2")),
        RequestOp::DeleteRange(delete("a", "")),
    ];
    fixture.txn(&success(ops)).unwrap();
    assert_eq!((fixture.store.revision(), fixture.hash(0)), (13, Ok((591_149_733, 10))));
    let ops = vec![RequestOp::Put(put("t1", "1")), RequestOp::DeleteRange(delete("t0", "\0"))];
    fixture.txn(&success(ops)).unwrap();
    for (key, value) in [("s1", "b"), ("s2", "a"), ("s3", "0"), ("s2", "1")] {
        fixture.put(key, value);
    }
    assert_eq!((fixture.store.revision(), fixture.hash(0)), (18, Ok((3_427_401_126, 10))));
    assert_eq!(fixture.delete("\0", "\0"), 5);
    assert_eq!(fixture.hash(0), Ok((1_603_130_118, 10)));
    fixture.put("q", "1");
    fixture.put("q", "2");
    fixture.delete("q", "");
    assert_eq!(fixture.hash(0), Ok((1_881_221_603, 10)));
    fixture.compact(19);
    assert_eq!(fixture.hash(0), Ok((65_189_333, 19)));
    fixture.compact(21);
    assert_eq!(fixture.hash(0), Ok((2_012_309_563, 21)));
}

#[test]
fn long_answers_have_the_value_of_each_key_wherever_it_is() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut fixture = Fixture::new();
        let mut expected = BTreeMap::new();
        for step in 0..400 {
            // Few keys that change often lie together, one of many alone; some share a revision.
            let spread = [10, 40, 300][rng.below(3) as usize];
            let key = |rng: &mut Rng| format!("{:03}", rng.below(spread));
            let value = "v".repeat(rng.below(20) as usize) + &step.to_string();
            match rng.below(20) {
                0 => fixture.flush(),
                1 if rng.chance(1, 4) && fixture.store.revision() > 20 => {
                    let compacted = fixture.store.compact_revision().max(1);
                    let revision = compacted + 1 + rng.below(10) as i64;
                    if revision <= fixture.store.revision() {
                        fixture.compact(revision);
                    }
                }
                2 => {
                    let key = key(&mut rng);
                    fixture.delete(&key, "");
                    expected.remove(&bytes(&key));
                }
                3 => {
                    let keys: BTreeSet<String> = (0..12).map(|_| key(&mut rng)).collect();
                    let puts = keys.iter().map(|key| RequestOp::Put(put(key, &value))).collect();
                    fixture.txn(&TxnRequest { success: puts, ..TxnRequest::default() }).unwrap();
                    expected.extend(keys.iter().map(|key| (bytes(key), bytes(&value))));
                }
                _ => {
                    let key = key(&mut rng);
                    fixture.put(&key, &value);
                    expected.insert(bytes(&key), bytes(&value));
                }
            }
            if step % 10 == 9 {
                let found = fixture.range(&all()).kvs.into_iter().map(|kv| (kv.key, kv.value));
                assert!(found.eq(expected.clone()), "seed {seed} step {step}");
            }
        }
        let by_value = RangeRequest { sort_target: SortTarget::Value, ..all() };
        let sorted = RangeRequest { sort_order: SortOrder::Ascend, limit: 100, ..by_value };
        let mut expected: Vec<Bytes> = expected.into_values().collect();
        expected.sort();
        expected.truncate(100);
        let found = fixture.range(&sorted).kvs.into_iter().map(|kv| kv.value);
        assert!(found.eq(expected), "seed {seed}");
    }
}

#[test]
fn a_long_answer_misses_no_value_in_silence() {
    let mut fixture = Fixture::new();
    for key in 0..20 {
        fixture.put(&format!("{key:02}"), "v");
    }
    fixture.flush();
    for lost in 2..22 {
        let row = Bytes::copy_from_slice(&Revision::new(lost, 0).to_bytes());
        let view = fixture.backend.view().unwrap();
        let value = view.get(Table::History, &row).unwrap();
        let set = |value| Batch { changes: vec![(Table::History, row.clone(), value)] };
        fixture.backend.commit(&set(None)).unwrap();
        fixture.store.refresh().unwrap();
        let error = fixture.store.view().range(&all(), None).unwrap_err();
        assert!(error.0.contains(&row.escape_ascii().to_string()), "{error}");
        fixture.backend.commit(&set(value)).unwrap();
    }
}

/// Replaces the index rows of the first `keys` keys by what `change` makes of them.
fn change_index(fixture: &mut Fixture, keys: usize, change: impl Fn(&mut record::IndexRow)) {
    let view = fixture.backend.view().unwrap();
    let mut changes = Vec::new();
    for row in view.range(Table::Index, Bound::Unbounded, Bound::Unbounded).unwrap().take(keys) {
        let (key, row) = row.unwrap();
        let mut row = record::IndexRow::decode(&key, &row).unwrap();
        change(&mut row);
        changes.push((Table::Index, key, Some(row.encode())));
    }
    fixture.backend.commit(&Batch { changes }).unwrap();
    fixture.store.refresh().unwrap();
}

#[test]
fn lengths_of_values_are_known_before_them_or_read_from_rows_of_the_earlier_format() {
    let mut fixture = Fixture::new();
    for key in 0..20 {
        fixture.put(&format!("{key:02}"), &"v".repeat(key));
    }
    fixture.flush();
    for earlier in [0, 1, 20] {
        change_index(&mut fixture, earlier, |row| row.value_len = None);
        let view = fixture.store.view();
        let mut selected = view.select(&all(), None).unwrap().unwrap().unwrap();
        selected.measure().unwrap();
        assert!((0..20).all(|row| selected.row(row).value_len == row));
        let mut seen = BTreeMap::new();
        let show = |row, value: &[u8]| {
            assert!(seen.insert(row, value.len()).is_none());
            ControlFlow::Continue(())
        };
        selected.values(show).unwrap();
        assert!(seen.into_iter().eq((0..20).map(|row| (row, row))));
    }
}

#[test]
fn an_index_that_is_wrong_about_a_value_is_reported() {
    for keys in [1, 20] {
        let mut fixture = Fixture::new();
        for key in 0..keys {
            fixture.put(&format!("{key:02}"), "value");
        }
        fixture.flush();
        change_index(&mut fixture, keys, |row| row.value_len = Some(4));
        let error = fixture.store.view().range(&all(), None).unwrap_err();
        assert!(error.0.contains("the index says 4 bytes of this value, and it has 5"), "{error}");
    }
}
