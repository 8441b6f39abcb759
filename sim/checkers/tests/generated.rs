//! Histories that a sequential store made always pass, and the same histories with one thing changed
//! are refused by the checker whose rule was broken.

use cairn_checkers::history::NEVER;
use cairn_checkers::{
    Action, Body, Change, Keys, Operation, Outcome, Replay, Violation, durability, hash, monotone, register,
    revision_order, serializable,
};
use proptest::prelude::*;

/// One operation of a plan: what to do, how far the call and the return are from the moment at which it
/// takes effect, and whether the answer is lost.
#[derive(Clone, Debug)]
struct Planned {
    kind: u8,
    key: u8,
    before: u64,
    after: u64,
    lost: bool,
}

fn planned() -> impl Strategy<Value = Planned> {
    (0..10_u8, 0..3_u8, 0..400_u64, 1..400_u64, proptest::bool::weighted(0.15))
        .prop_map(|(kind, key, before, after, lost)| Planned { kind, key, before, after, lost })
}

fn range(keys: Keys, serializable: bool) -> Action {
    Action::Range { keys, revision: 0, limit: 0, serializable, count_only: false, keys_only: false }
}

fn action(number: u64, plan: &Planned) -> Action {
    let key = format!("k{}", plan.key);
    let one = Keys::One(key.clone());
    let put =
        Action::Put { key, value: format!("v{number}"), lease: 0, prev_kv: plan.before.is_multiple_of(2) };
    match plan.kind {
        0..=3 => put,
        4 => Action::Delete { keys: one, prev_kv: true },
        5 => range(Keys::From("k".to_owned()), false),
        6 => range(one, true),
        7 => {
            let compare = cairn_checkers::Compare {
                key: format!("k{}", plan.key),
                relation: cairn_checkers::history::Relation::Greater,
                target: cairn_checkers::history::Target::Version(1),
            };
            let other = Action::Put {
                key: format!("k{}", (plan.key + 1) % 3),
                value: format!("w{number}"),
                lease: 0,
                prev_kv: false,
            };
            Action::Txn {
                compare: vec![compare],
                success: vec![put, other],
                failure: vec![range(one, false)],
            }
        }
        _ => range(one, false),
    }
}

/// Runs a plan on a sequential store: one operation every 100, answered at its own revision.
fn run(plan: &[Planned]) -> (Vec<Operation>, Replay) {
    let mut replay = Replay::default();
    let mut ops = Vec::new();
    for (at, planned) in plan.iter().enumerate() {
        let number = at as u64 + 1;
        let action = action(number, planned);
        let moment = number * 100 + 1000;
        // A lost operation may have taken effect or not.
        let applied = !planned.lost || planned.before.is_multiple_of(2);
        let (body, changes) = replay.evaluate(&action, replay.revision());
        if applied {
            changes.into_iter().for_each(|change| replay.push(change).expect("changes come in order"));
        }
        let outcome = if planned.lost {
            Outcome::Unknown { why: "timeout".to_owned() }
        } else {
            Outcome::Ok { revision: replay.revision(), body }
        };
        let ret = if planned.lost { NEVER } else { moment + planned.after };
        let call = moment - planned.before;
        ops.push(Operation { number, client: number, member: 1, boot: 1, call, ret, action, outcome });
    }
    (ops, replay)
}

fn check(ops: &[Operation], replay: &Replay) -> Result<(), Violation> {
    let effects = durability::effects(ops, replay)?;
    revision_order::check(ops, &effects, replay)?;
    serializable::check(ops, replay)?;
    monotone::check(ops)?;
    hash::check(ops)?;
    Ok(())
}

/// An answered operation of a kind, if there is one: its position.
fn find(ops: &[Operation], wanted: impl Fn(&Operation) -> bool) -> Option<usize> {
    ops.iter().position(|op| matches!(op.outcome, Outcome::Ok { .. }) && wanted(op))
}

fn without(changes: &[Change], revision: i64) -> Replay {
    let rest: Vec<Change> = changes.iter().filter(|change| change.revision != revision).cloned().collect();
    Replay::new(&rest).expect("the rest is in order")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_sequential_store_is_never_accused(plan in proptest::collection::vec(planned(), 1..60)) {
        let (ops, replay) = run(&plan);
        prop_assert_eq!(check(&ops, &replay), Ok(()));
        let state = replay.range(&Keys::From(String::new()), i64::MAX);
        prop_assert_eq!(durability::state(&state, &replay), Ok(()));
        let found = register::check(&ops, 200_000);
        prop_assert!(found.is_ok(), "{found:?}");
    }

    #[test]
    fn a_lost_write_is_found(plan in proptest::collection::vec(planned(), 5..60)) {
        let (ops, replay) = run(&plan);
        if let Some(at) = find(&ops, |op| matches!(op.action, Action::Put { .. })) {
            let lost = ops[at].revision().unwrap();
            let rest = without(replay.changes(), lost);
            prop_assert_eq!(check(&ops, &rest).unwrap_err().rule, durability::RULE);
            let state = rest.range(&Keys::From(String::new()), i64::MAX);
            let last = replay.range(&Keys::From(String::new()), i64::MAX);
            prop_assert_eq!(durability::state(&state, &replay).is_err(), state != last);
        }
    }

    #[test]
    fn a_wrong_read_is_found(plan in proptest::collection::vec(planned(), 5..60)) {
        let (mut ops, replay) = run(&plan);
        let seen = |op: &Operation| matches!(&op.outcome, Outcome::Ok { body: Body::Range { kvs, .. }, .. } if !kvs.is_empty());
        if let Some(at) = find(&ops, seen) {
            let rule = if ops[at].action.serializable() { serializable::RULE } else { revision_order::RULE };
            if let Outcome::Ok { body: Body::Range { kvs, .. }, .. } = &mut ops[at].outcome {
                kvs[0].value.push('x');
            }
            prop_assert_eq!(check(&ops, &replay).unwrap_err().rule, rule);
            if rule == revision_order::RULE {
                prop_assert_eq!(register::check(&ops, 200_000).unwrap_err().rule, register::RULE);
            }
        }
    }

    #[test]
    fn a_stale_read_is_found(plan in proptest::collection::vec(planned(), 10..60)) {
        let (mut ops, replay) = run(&plan);
        // The last read of one key is answered as the first revision had it, if anything came between.
        let read = |op: &Operation| matches!(&op.action, Action::Range { keys: Keys::One(_), serializable: false, .. });
        let last = ops.iter().rposition(|op| op.revision().is_some() && read(op));
        let Some(at) = last else { return Ok(()) };
        let newest = ops.iter().filter(|op| op.ret < ops[at].call && !op.action.serializable());
        let newest = newest.filter_map(Operation::revision).max().unwrap_or(0);
        if newest > 1 {
            let body = replay.evaluate(&ops[at].action, 1).0;
            ops[at].outcome = Outcome::Ok { revision: 1, body };
            let rule = check(&ops, &replay).unwrap_err().rule;
            prop_assert!([revision_order::RULE, monotone::RULE].contains(&rule.as_str()), "{}", rule);
        }
    }

    #[test]
    fn a_torn_transaction_is_found(plan in proptest::collection::vec(planned(), 5..60)) {
        let (ops, replay) = run(&plan);
        let changes = replay.changes();
        let torn = changes.windows(2).position(|pair| pair[0].revision == pair[1].revision);
        if let Some(at) = torn {
            let mut rest = changes.to_vec();
            rest.remove(at + 1);
            let rest = Replay::new(&rest).unwrap();
            prop_assert_eq!(check(&ops, &rest).unwrap_err().rule, durability::RULE);
        }
    }

    #[test]
    fn a_refused_write_that_happened_is_found(plan in proptest::collection::vec(planned(), 5..60)) {
        let (mut ops, replay) = run(&plan);
        if let Some(at) = find(&ops, |op| matches!(op.action, Action::Put { .. })) {
            ops[at].outcome = Outcome::Refused { error: "no".to_owned() };
            prop_assert_eq!(check(&ops, &replay).unwrap_err().rule, durability::RULE);
        }
    }
}

#[test]
fn different_hashes_are_found() {
    let op = |number, member, hash| Operation {
        number,
        client: 0,
        member,
        boot: 1,
        call: 1,
        ret: 2,
        action: Action::HashKv,
        outcome: Outcome::Ok { revision: 5, body: Body::Hash { hash, revision: 5, compact_revision: 2 } },
    };
    assert_eq!(hash::check(&[op(1, 1, 7), op(2, 2, 7)]), Ok(2));
    assert_eq!(hash::check(&[op(1, 1, 7), op(2, 2, 8)]).unwrap_err().operations, [2, 1]);
}

#[test]
fn a_member_that_goes_back_is_found() {
    let op = |number, boot, call, ret, revision| Operation {
        number,
        client: 0,
        member: 1,
        boot,
        call,
        ret,
        action: range(Keys::One("k".to_owned()), true),
        outcome: Outcome::Ok { revision, body: Body::Range { kvs: Vec::new(), count: 0, more: false } },
    };
    monotone::check(&[op(1, 1, 0, 9, 5), op(2, 1, 5, 10, 4), op(3, 2, 20, 21, 3)]).unwrap();
    assert_eq!(monotone::check(&[op(1, 1, 0, 9, 5), op(2, 1, 10, 11, 4)]).unwrap_err().operations, [2, 1]);
}

/// The bound that reliability asks for: a million acknowledged operations in less than five seconds.
#[test]
fn a_million_operations_are_checked_in_order() {
    let plan: Vec<Planned> = (0..1_000_000_u64)
        .map(|at| Planned {
            kind: (at % 10) as u8,
            key: (at % 3) as u8,
            before: at * 7 % 300,
            after: 1 + at * 11 % 300,
            lost: at.is_multiple_of(50),
        })
        .collect();
    let (ops, replay) = run(&plan);
    let effects = durability::effects(&ops, &replay).unwrap();
    assert!(revision_order::check(&ops, &effects, &replay).unwrap() > 800_000);
    assert!(serializable::check(&ops, &replay).unwrap() > 50_000);
}
