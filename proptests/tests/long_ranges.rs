//! Answers with thousands of rows are those of etcd, row by row. They go a way of their own: laid out by the
//! index, filled with values while they are sent, in another order than the keys'.

use std::collections::BTreeSet;

use bytes::Bytes;
use cairn_core::rng::Rng;
use cairn_net::proto::etcdserverpb::kv_client::KvClient;
use cairn_net::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use cairn_net::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, request_op,
};
use cairn_proptests::process::{Cluster, Ports, Side};
use tonic::transport::Channel;

const KEYS: u64 = 3_000;
const PUTS_IN_TXN: usize = 100;

/// Values from nothing to more than a frame of the answer; no two are equal but the empty ones, because
/// etcd's order of equal values is chance.
fn value(rng: &mut Rng, number: u64) -> Bytes {
    let len = match rng.below(100) {
        0 => rng.below(150_000),
        1..=5 => 0,
        _ => 8 + rng.below(500),
    };
    let mut value = vec![rng.below(256) as u8; len as usize];
    if let Some(head) = value.first_chunk_mut::<8>() {
        *head = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes();
    }
    value.into()
}

/// Writes all keys in an order that is not theirs, a third of them twice, and deletes some.
async fn fill(kv: &mut KvClient<Channel>) {
    let mut rng = Rng::new(7);
    let mut number = 0;
    while number < KEYS * 4 / 3 {
        let mut keys = BTreeSet::new();
        while keys.len() < PUTS_IN_TXN {
            keys.insert(rng.below(KEYS));
        }
        let mut puts = Vec::new();
        for key in keys {
            number += 1;
            let put = PutRequest {
                key: format!("k{key:05}").into(),
                value: value(&mut rng, number),
                ..PutRequest::default()
            };
            puts.push(RequestOp { request: Some(request_op::Request::RequestPut(put)) });
        }
        // All at once may be more than etcd takes in a request.
        for some in puts.chunks(PUTS_IN_TXN / 4) {
            let txn = TxnRequest { success: some.to_vec(), ..TxnRequest::default() };
            kv.txn(txn).await.expect("a sound transaction");
        }
    }
    let (key, range_end) = ("k01000".into(), "k01050".into());
    let deletion = DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() };
    kv.delete_range(deletion).await.expect("a sound deletion");
}

/// What both are asked, by what is special about it.
fn requests(revision: i64) -> Vec<(&'static str, RangeRequest)> {
    let all = RangeRequest { key: "k".into(), range_end: "l".into(), ..RangeRequest::default() };
    let sorted = |target: SortTarget, order: SortOrder| RangeRequest {
        sort_target: target.into(),
        sort_order: order.into(),
        ..all.clone()
    };
    vec![
        ("all", all.clone()),
        ("serializable", RangeRequest { serializable: true, ..all.clone() }),
        ("a limit", RangeRequest { limit: 1_000, ..all.clone() }),
        ("keys only", RangeRequest { keys_only: true, ..all.clone() }),
        ("an old revision", RangeRequest { revision, ..all.clone() }),
        ("a filter", RangeRequest { min_mod_revision: revision, ..all.clone() }),
        ("descending", sorted(SortTarget::Key, SortOrder::Descend)),
        ("by value", RangeRequest { limit: 1_500, ..sorted(SortTarget::Value, SortOrder::Descend) }),
    ]
}

async fn answers(side: Side) -> Vec<(&'static str, RangeResponse)> {
    let cluster = Cluster::start(side, &[Ports::free()], &[]);
    let channel = Channel::from_shared(cluster.client_url(0)).expect("a URL");
    let channel = channel.connect().await.expect("the server listens");
    let mut kv = KvClient::new(channel).max_decoding_message_size(usize::MAX);
    fill(&mut kv).await;
    let mut answers = Vec::new();
    for (what, request) in requests(100) {
        let mut answer = kv.range(request).await.expect("a sound range").into_inner();
        answer.header = None;
        answers.push((what, answer));
    }
    answers
}

#[tokio::test]
async fn long_answers_are_those_of_etcd() {
    let (etcd, ours) = (answers(Side::Etcd).await, answers(Side::Ours).await);
    for ((what, etcd), (_, ours)) in etcd.into_iter().zip(ours) {
        assert!(etcd.kvs.len() > 500, "{what}: only {} rows", etcd.kvs.len());
        assert_eq!(
            (ours.kvs.len(), ours.more, ours.count),
            (etcd.kvs.len(), etcd.more, etcd.count),
            "{what}"
        );
        for (ours, etcd) in ours.kvs.iter().zip(&etcd.kvs) {
            assert!(ours == etcd, "{what}: {:?} differs", etcd.key);
        }
    }
}
