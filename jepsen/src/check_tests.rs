//! Each contradiction that the checker knows, in a history of a few operations.

use super::*;

fn op(start: u64, end: u64, key: &str, kind: Kind, known: Known) -> Op {
    Op { writer: 0, endpoint: "m".to_owned(), key: key.to_owned(), kind, start, end, known }
}

fn put(start: u64, end: u64, key: &str, value: &str, known: Known) -> Op {
    op(start, end, key, Kind::Put(value.to_owned()), known)
}

fn event(key: &str, value: &str, revision: i64) -> Event {
    Event { key: key.to_owned(), value: value.to_owned(), revision }
}

fn lost() -> Known {
    Known::Unknown("timeout".to_owned())
}

fn complaint(ops: &[Op], events: &[Event], state: &[Event]) -> String {
    check(ops, events, state).expect_err("this history has a contradiction").what
}

#[test]
fn a_good_history_is_summed_up() {
    let seen = Some(("1".to_owned(), 2));
    let ops = [
        put(0, 10, "a", "1", Known::Wrote(2)),
        op(11, 12, "a", Kind::Read, Known::Saw(2, seen)),
        op(11, 12, "b", Kind::Read, Known::Saw(2, None)),
        put(13, 20, "a", "2", lost()),
        put(13, 20, "a", "3", lost()),
        put(13, 20, "a", "4", Known::Refused("full".to_owned())),
    ];
    let events = [event("a", "1", 2), event("a", "3", 3)];
    let summary = check(&ops, &events, &events[1..]).unwrap();
    let expected = Summary { wrote: 1, saw: 2, refused: 1, unknown: 2, unknown_effective: 1, events: 2 };
    assert_eq!(summary, expected);
}

#[test]
fn lost_and_moved_writes_are_found() {
    let ops = [put(0, 10, "a", "1", Known::Wrote(2))];
    assert!(complaint(&ops, &[], &[]).contains("acknowledged write lost"));
    let moved = [event("a", "1", 3)];
    assert!(complaint(&ops, &moved, &moved).contains("acknowledged at 2, done at 3"));
}

#[test]
fn phantom_and_repeated_writes_are_found() {
    let ops = [put(0, 10, "a", "1", lost())];
    let phantom = [event("a", "9", 2)];
    assert!(complaint(&ops, &phantom, &phantom).contains("nobody wrote"));
    let twice = [event("a", "1", 2), event("a", "1", 3)];
    assert!(complaint(&ops, &twice, &twice[1..]).contains("written twice"));
    let other = [event("b", "1", 2)];
    assert!(complaint(&ops, &other, &other).contains("not the key"));
    let backwards = [event("a", "1", 3), event("a", "1", 2)];
    assert!(complaint(&ops, &backwards, &[]).contains("out of order"));
}

#[test]
fn a_refused_write_must_have_no_effect() {
    let ops = [put(0, 10, "a", "1", Known::Refused("full".to_owned()))];
    let events = [event("a", "1", 2)];
    assert!(complaint(&ops, &events, &events).contains("although the answer"));
}

#[test]
fn real_time_order_is_kept() {
    let ops = [put(0, 10, "a", "1", Known::Wrote(3)), put(11, 20, "b", "2", Known::Wrote(2))];
    let events = [event("b", "2", 2), event("a", "1", 3)];
    assert!(complaint(&ops, &events, &events).contains("stands at revision 2"));
    // The same revisions are fine when the two were under way together.
    let ops = [put(0, 10, "a", "1", Known::Wrote(3)), put(9, 20, "b", "2", Known::Wrote(2))];
    check(&ops, &events, &events).unwrap();
    // A write of unknown outcome cannot take effect before it was sent, either.
    let ops = [put(0, 10, "a", "1", Known::Wrote(3)), put(11, 20, "b", "2", lost())];
    assert!(complaint(&ops, &events, &events).contains("stands at revision 2"));
}

#[test]
fn stale_and_wrong_reads_are_found() {
    let stale = op(11, 12, "a", Kind::Read, Known::Saw(1, None));
    let ops = [put(0, 10, "a", "1", Known::Wrote(2)), stale];
    let events = [event("a", "1", 2)];
    assert!(complaint(&ops, &events, &events).contains("stands at revision 1"));
    let wrong = op(11, 12, "a", Kind::Read, Known::Saw(2, Some(("0".to_owned(), 2))));
    let ops = [put(0, 10, "a", "1", Known::Wrote(2)), wrong];
    assert!(complaint(&ops, &events, &events).contains("a read saw"));
}

#[test]
fn a_lost_update_of_the_counter_is_found() {
    let swap = |compared, value: &str, revision| {
        op(0, 10, COUNTER, Kind::Swap(compared, value.to_owned()), Known::Wrote(revision))
    };
    let events = [event(COUNTER, "1", 2), event(COUNTER, "2", 3)];
    check(&[swap(0, "1", 2), swap(2, "2", 3)], &events, &events[1..]).unwrap();
    let what = complaint(&[swap(0, "1", 2), swap(0, "2", 3)], &events, &events[1..]);
    assert!(what.contains("lost update"), "{what}");
}

#[test]
fn the_final_state_is_the_last_change_of_every_key() {
    let ops = [put(0, 10, "a", "1", Known::Wrote(2)), put(0, 10, "a", "2", Known::Wrote(3))];
    let events = [event("a", "1", 2), event("a", "2", 3)];
    assert!(complaint(&ops, &events, &events[..1]).contains("final state has Some"));
    assert!(complaint(&ops, &events, &[]).contains("final state has None"));
    let extra = [event("a", "2", 3), event("b", "3", 4)];
    assert!(complaint(&ops, &events, &extra).contains("never changed"));
}
