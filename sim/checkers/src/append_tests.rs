//! A good history, and one bad history for each anomaly.

use super::*;

fn append(key: u64, value: u64) -> Step {
    Step::Append { key, value }
}

fn read(key: u64, list: &[u64]) -> Step {
    Step::Read { key, list: list.to_vec() }
}

/// Transactions that all overlap, so that real time says nothing.
fn together(steps: &[&[Step]]) -> Vec<Txn> {
    let txn = |(number, steps): (usize, &&[Step])| Txn {
        number: number as u64,
        call: 0,
        ret: 10,
        known: Known::Committed,
        steps: steps.to_vec(),
    };
    steps.iter().enumerate().map(txn).collect()
}

fn rule(txns: &[Txn]) -> String {
    check(txns).expect_err("there is an anomaly").rule
}

#[test]
fn a_serial_history_is_fine() {
    let mut txns = together(&[
        &[append(1, 1), append(2, 1), read(1, &[1])],
        &[read(1, &[1]), append(1, 2)],
        &[read(1, &[1, 2]), read(2, &[1])],
    ]);
    assert_eq!(check(&txns), Ok(7), "ww, two wr of 1, wr of 2, and three into real time");
    for (at, txn) in txns.iter_mut().enumerate() {
        (txn.call, txn.ret) = (at as u64 * 20, at as u64 * 20 + 10);
    }
    check(&txns).unwrap();
}

#[test]
fn reads_alone_can_be_wrong() {
    let one = [append(1, 1)];
    assert_eq!(rule(&together(&[&one, &[read(1, &[1, 1])]])), "duplicate");
    assert_eq!(rule(&together(&[&one, &[read(1, &[1, 7])]])), "phantom");
    let two = [append(1, 2)];
    assert_eq!(rule(&together(&[&one, &two, &[read(1, &[1, 2])], &[read(1, &[2])]])), "incompatible order");
    assert_eq!(rule(&together(&[&[append(1, 1), append(1, 2)], &[read(1, &[1])]])), "G1b");
    let mut refused = together(&[&one, &[read(1, &[1])]]);
    refused[0].known = Known::Refused;
    assert_eq!(rule(&refused), "G1a");
    refused[0].known = Known::Unknown;
    check(&refused).unwrap();
    assert_eq!(rule(&together(&[&[append(1, 1), read(1, &[])]])), "internal");
}

#[test]
fn cycles_have_names() {
    let see = [read(1, &[1, 2]), read(2, &[2, 1])];
    let g0 = together(&[&[append(1, 1), append(2, 1)], &[append(1, 2), append(2, 2)], &see]);
    assert_eq!(rule(&g0), "G0");
    let g1c = together(&[&[append(1, 1), read(2, &[1])], &[append(2, 1), read(1, &[1])]]);
    assert_eq!(rule(&g1c), "G1c");
    let single = together(&[&[read(1, &[]), read(2, &[1])], &[append(1, 1), append(2, 1)], &[read(1, &[1])]]);
    assert_eq!(rule(&single), "G-single");
    let g2 = together(&[
        &[read(1, &[]), append(2, 1)],
        &[read(2, &[]), append(1, 1)],
        &[read(1, &[1]), read(2, &[1])],
    ]);
    assert_eq!(rule(&g2), "G2");
}

#[test]
fn stale_reads_need_real_time() {
    let mut txns = together(&[&[append(1, 1)], &[read(1, &[])], &[read(1, &[1])]]);
    check(&txns).unwrap();
    (txns[1].call, txns[1].ret) = (11, 12);
    assert_eq!(rule(&txns), "G-single-realtime");
}
