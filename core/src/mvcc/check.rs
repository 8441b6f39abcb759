//! What a request must satisfy before it is proposed, whatever the state: keys given, options that go
//! together, a transaction's size and that no branch writes a key twice.
//!
//! These rules look at the request alone, so they are checked once, by the member that the client
//! spoke to. What depends on the state (leases, missing keys, revisions) is checked at apply.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::api::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::error::Error;
use crate::types::KeyRange;

/// What the quota charges for a key beside its bytes.
const PUT_OVERHEAD: usize = 256;

fn check_key(key: &Bytes) -> Result<(), Error> {
    if key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Checks a range.
///
/// # Errors
/// etcd's, for the client.
pub fn check_range(request: &RangeRequest) -> Result<(), Error> {
    check_key(&request.key)
}

/// Checks a put.
///
/// # Errors
/// etcd's, for the client.
pub fn check_put(request: &PutRequest) -> Result<(), Error> {
    check_key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// Checks a deletion.
///
/// # Errors
/// etcd's, for the client.
pub fn check_delete_range(request: &DeleteRangeRequest) -> Result<(), Error> {
    check_key(&request.key)
}

/// Checks a transaction with everything in it. `max_txn_ops` bounds each list of the outermost one;
/// what a list leaves of it bounds those nested in it.
///
/// # Errors
/// etcd's, for the client.
pub fn check_txn(request: &TxnRequest, max_txn_ops: usize) -> Result<(), Error> {
    check_operations(request, max_txn_ops)?;
    check_duplicates(&request.success)?;
    check_duplicates(&request.failure)?;
    Ok(())
}

fn check_operations(request: &TxnRequest, budget: usize) -> Result<(), Error> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let rest = budget.checked_sub(longest).ok_or(Error::TooManyOps)?;
    request.compare.iter().try_for_each(|compare| check_key(&compare.key))?;
    request.success.iter().chain(&request.failure).try_for_each(|op| match op {
        RequestOp::Range(request) => check_range(request),
        RequestOp::Put(request) => check_put(request),
        RequestOp::DeleteRange(request) => check_delete_range(request),
        RequestOp::Txn(request) => check_operations(request, rest),
    })
}

/// What a branch writes.
#[derive(Default)]
struct Writes {
    puts: BTreeSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Writes {
    fn add_put(&mut self, key: &Bytes) -> Result<(), Error> {
        if self.deletes.iter().any(|range| range.contains(key)) || !self.puts.insert(key.clone()) {
            return Err(Error::DuplicateKey);
        }
        Ok(())
    }
}

/// Finds a key that a branch puts twice, or puts and deletes. As in etcd, a nested transaction's puts
/// are held against the deletions of its parent and of its *earlier* siblings, and a deletion without
/// an upper bound overlaps no put (3.4.23 accepts both, and applies them in order).
fn check_duplicates(ops: &[RequestOp]) -> Result<Writes, Error> {
    let mut writes = Writes::default();
    for op in ops {
        if let RequestOp::DeleteRange(request) = op {
            let range = request.range();
            if !matches!(range, KeyRange::From(_)) {
                writes.deletes.push(range);
            }
        }
    }
    for op in ops {
        if let RequestOp::Txn(request) = op {
            let success = check_duplicates(&request.success)?;
            let failure = check_duplicates(&request.failure)?;
            for key in &success.puts {
                writes.add_put(key)?;
            }
            // Only one of the two branches runs, so they may put the same key.
            for key in &failure.puts {
                if success.puts.contains(key) {
                    continue;
                }
                writes.add_put(key)?;
            }
            writes.deletes.extend(success.deletes);
            writes.deletes.extend(failure.deletes);
        }
    }
    for op in ops {
        if let RequestOp::Put(request) = op {
            writes.add_put(&request.key)?;
        }
    }
    Ok(writes)
}

/// Whether a transaction only reads: ranges and nothing else, not even a nested transaction.
pub fn is_read_only(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| matches!(op, RequestOp::Range(_)))
}

/// Whether a read-only transaction may be answered without the leader: all its ranges say so.
pub fn is_serializable(request: &TxnRequest) -> bool {
    let serializable = |op: &RequestOp| matches!(op, RequestOp::Range(range) if range.serializable);
    request.success.iter().chain(&request.failure).all(serializable)
}

/// What a put may add to the database, for the quota.
pub fn put_cost(request: &PutRequest) -> usize {
    PUT_OVERHEAD + request.key.len() + request.value.len()
}

/// What a transaction may add to the database: the dearer branch's puts, nested ones included.
pub fn txn_cost(request: &TxnRequest) -> usize {
    let branch = |ops: &[RequestOp]| -> usize {
        let cost = |op: &RequestOp| match op {
            RequestOp::Put(request) => put_cost(request),
            RequestOp::Txn(request) => txn_cost(request),
            RequestOp::Range(_) | RequestOp::DeleteRange(_) => 0,
        };
        ops.iter().map(cost).sum()
    };
    branch(&request.success).max(branch(&request.failure))
}
