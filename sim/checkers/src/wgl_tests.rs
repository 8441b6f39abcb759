//! The search over a register, against every permutation of small histories.

use proptest::prelude::*;

use super::*;

/// A register that is 0 at first.
struct Register;

#[derive(Clone, Debug)]
enum Op {
    Write(u8),
    Read(u8),
}

impl Spec for Register {
    type State = u8;
    type Op = Op;

    fn initial(&self) -> u8 {
        0
    }

    fn step(&self, state: &u8, op: &Op) -> Vec<u8> {
        match op {
            Op::Write(value) => vec![*value],
            Op::Read(value) if value == state => vec![*state],
            Op::Read(_) => Vec::new(),
        }
    }
}

fn call(call: u64, ret: u64, op: Op) -> Call<Op> {
    Call { call, ret, op }
}

#[test]
fn a_stale_read_is_illegal() {
    let fine = [call(0, 10, Op::Write(1)), call(5, 15, Op::Read(0)), call(16, 17, Op::Read(1))];
    assert_eq!(search(&Register, &fine, 1000), Verdict::Linearizable(vec![1, 0, 2]));
    let stale = [call(0, 10, Op::Write(1)), call(11, 15, Op::Read(0))];
    assert_eq!(search(&Register, &stale, 1000), Verdict::Illegal(vec![0], vec![1]));
}

#[test]
fn an_unknown_write_may_come_late_or_never() {
    let unknown = call(0, NEVER, Op::Write(1));
    let late = [unknown.clone(), call(1, 2, Op::Read(0)), call(3, 4, Op::Read(1))];
    assert_eq!(search(&Register, &late, 1000), Verdict::Linearizable(vec![1, 0, 2]));
    let never = [unknown.clone(), call(1, 2, Op::Read(0))];
    assert!(matches!(search(&Register, &never, 1000), Verdict::Linearizable(_)));
    let back = [unknown, call(1, 2, Op::Read(1)), call(3, 4, Op::Read(0))];
    assert!(matches!(search(&Register, &back, 1000), Verdict::Illegal(..)));
}

#[test]
fn a_spent_budget_is_unknown() {
    let many: Vec<Call<Op>> = (0..20).map(|value| call(0, 10, Op::Write(value))).collect();
    let mut many = many;
    many.push(call(11, 12, Op::Read(99)));
    assert_eq!(search(&Register, &many, 500), Verdict::Unknown);
}

/// Whether some order of some of the operations, with all that returned, explains the answers.
fn brute(calls: &[Call<Op>], taken: &mut Vec<usize>, state: u8) -> bool {
    if (0..calls.len()).all(|at| taken.contains(&at) || calls[at].ret == NEVER) {
        return true;
    }
    (0..calls.len()).any(|at| {
        let early = |other: usize| !taken.contains(&other) && calls[other].ret < calls[at].call;
        if taken.contains(&at) || (0..calls.len()).any(early) {
            return false;
        }
        Register.step(&state, &calls[at].op).into_iter().any(|next| {
            taken.push(at);
            let found = brute(calls, taken, next);
            taken.pop();
            found
        })
    })
}

fn calls() -> impl Strategy<Value = Vec<Call<Op>>> {
    let op = prop_oneof![(1..3_u8).prop_map(Op::Write), (0..3_u8).prop_map(Op::Read)];
    let one = (0..12_u64, 1..6_u64, op, proptest::bool::weighted(0.2))
        .prop_map(|(at, long, op, lost)| call(at, if lost { NEVER } else { at + long }, op));
    proptest::collection::vec(one, 1..7)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_search_agrees_with_every_permutation(calls in calls()) {
        let expected = brute(&calls, &mut Vec::new(), 0);
        match search(&Register, &calls, 1_000_000) {
            Verdict::Linearizable(order) => {
                prop_assert!(expected);
                let mut states = vec![0];
                for at in order {
                    states = states.iter().flat_map(|state| Register.step(state, &calls[at].op)).collect();
                    prop_assert!(!states.is_empty(), "the order does not explain the answers");
                }
            }
            Verdict::Illegal(..) => prop_assert!(!expected),
            Verdict::Unknown => prop_assert!(false, "the budget is ample"),
        }
    }
}
