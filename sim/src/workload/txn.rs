//! Transactions: compare-and-swap, several keys at once, and read-only ones.

use cairn_core::api::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, PutRequest, RangeRequest, Request, RequestOp,
    TxnRequest,
};

use super::Draw;

/// A transaction.
pub fn txn(draw: &mut Draw<'_>) -> Request {
    if draw.rng.chance(1, 6) {
        let (key, range_end) = draw.range();
        let range = RangeRequest { key, range_end, ..RangeRequest::default() };
        let success = vec![RequestOp::Range(range)];
        return Request::Txn(TxnRequest { compare: Vec::new(), success, failure: Vec::new() });
    }
    let compare = (0..draw.rng.below(3)).map(|_| compare(draw)).collect();
    let success = ops(draw);
    let failure = ops(draw);
    Request::Txn(TxnRequest { compare, success, failure })
}

fn compare(draw: &mut Draw<'_>) -> Compare {
    let results =
        [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];
    let result = results[draw.rng.below(4) as usize];
    let revision = draw.revision - draw.rng.below(20) as i64;
    let target = match draw.rng.below(4) {
        0 => CompareTarget::Version(draw.rng.below(4) as i64),
        1 => CompareTarget::Create(revision),
        2 => CompareTarget::Mod(revision),
        _ => CompareTarget::Value(draw.value()),
    };
    Compare { result, target, key: draw.key(), range_end: bytes::Bytes::new() }
}

/// Seldom a lease, and then sometimes one that nobody was granted: the transaction has to fail as a whole.
fn lease(draw: &mut Draw<'_>) -> i64 {
    match draw.rng.below(24) {
        0 => 7,
        1 if !draw.leases.is_empty() => draw.leases[draw.rng.below(draw.leases.len() as u64) as usize],
        _ => 0,
    }
}

/// Operations that do not put a key twice or put and delete the same one.
fn ops(draw: &mut Draw<'_>) -> Vec<RequestOp> {
    let mut ops = Vec::new();
    let mut used = std::collections::BTreeSet::new();
    for _ in 0..draw.rng.below(5) {
        let key = draw.key();
        if !used.insert(key.clone()) {
            continue;
        }
        ops.push(match draw.rng.below(4) {
            0 => RequestOp::DeleteRange(DeleteRangeRequest { key, prev_kv: true, ..Default::default() }),
            1 => {
                let (key, range_end) = draw.range();
                RequestOp::Range(RangeRequest { key, range_end, ..RangeRequest::default() })
            }
            _ => {
                let (value, lease) = (draw.value(), lease(draw));
                RequestOp::Put(PutRequest { key, value, lease, ..PutRequest::default() })
            }
        });
    }
    ops
}
