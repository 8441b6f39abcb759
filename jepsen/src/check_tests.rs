//! The load's operations reach the checkers as what they are: a history of each kind of contradiction.
//! The checkers themselves are tested where they live.

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

/// The state that changes make.
fn state(events: &[Event]) -> Vec<Kv> {
    let changes: Vec<Change> = events.iter().map(change).collect();
    Replay::new(&changes).unwrap().range(&Keys::From(String::new()), i64::MAX)
}

fn lost() -> Known {
    Known::Unknown("timeout".to_owned())
}

fn complaint(ops: &[Op], events: &[Event]) -> String {
    check(ops, events, &state(events)).expect_err("this history has a contradiction").what
}

#[test]
fn a_good_history_is_summed_up() {
    let events = [event("a", "1", 2), event("a", "3", 3)];
    let seen = state(&events[..1]).pop();
    let ops = [
        put(0, 10, "a", "1", Known::Wrote(2)),
        op(11, 12, "a", Kind::Read, Known::Saw(2, seen)),
        op(11, 12, "b", Kind::Read, Known::Saw(2, None)),
        put(13, 20, "a", "2", lost()),
        put(13, 20, "a", "3", lost()),
        put(13, 20, "a", "4", Known::Refused("full".to_owned())),
    ];
    let summary = check(&ops, &events, &state(&events)).unwrap();
    let expected = Summary { wrote: 1, saw: 2, refused: 1, unknown: 2, unknown_effective: 1, events: 2 };
    assert_eq!(summary, expected);
}

#[test]
fn lost_moved_phantom_and_repeated_writes_are_found() {
    let ops = [put(0, 10, "a", "1", Known::Wrote(2))];
    assert!(complaint(&ops, &[]).contains("acknowledged write lost"));
    assert!(check(&ops, &[], &[]).unwrap_err().page.contains("acknowledged write lost"));
    assert!(complaint(&ops, &[event("a", "1", 3)]).contains("acknowledged at 2, done at 3"));
    let ops = [put(0, 10, "a", "1", lost())];
    assert!(complaint(&ops, &[event("a", "9", 2)]).contains("nobody wrote"));
    assert!(complaint(&ops, &[event("a", "1", 2), event("a", "1", 3)]).contains("written twice"));
    assert!(complaint(&ops, &[event("b", "1", 2)]).contains("more than was asked for"));
}

#[test]
fn a_refused_write_must_have_no_effect() {
    let ops = [put(0, 10, "a", "1", Known::Refused("full".to_owned()))];
    assert!(complaint(&ops, &[event("a", "1", 2)]).contains("although it was refused"));
}

#[test]
fn real_time_order_is_kept() {
    let events = [event("b", "2", 2), event("a", "1", 3)];
    let ops = [put(0, 10, "a", "1", Known::Wrote(3)), put(11, 20, "b", "2", Known::Wrote(2))];
    assert!(complaint(&ops, &events).contains("stands at revision 2"));
    // The same revisions are fine when the two were under way together.
    let ops = [put(0, 10, "a", "1", Known::Wrote(3)), put(9, 20, "b", "2", Known::Wrote(2))];
    check(&ops, &events, &state(&events)).unwrap();
    // A write of unknown outcome cannot take effect before it was sent, either.
    let ops = [put(0, 10, "a", "1", Known::Wrote(3)), put(11, 20, "b", "2", lost())];
    assert!(complaint(&ops, &events).contains("stands at revision 2"));
}

#[test]
fn stale_and_wrong_reads_are_found() {
    let events = [event("a", "1", 2)];
    let read = |known| [put(0, 10, "a", "1", Known::Wrote(2)), op(11, 12, "a", Kind::Read, known)];
    assert!(complaint(&read(Known::Saw(1, None)), &events).contains("stands at revision 1"));
    let other = state(&[event("a", "0", 2)]).pop();
    assert!(complaint(&read(Known::Saw(2, other)), &events).contains("the answer is"));
}

#[test]
fn a_lost_update_of_the_counter_is_found() {
    let swap =
        |compared, value: &str, known| op(0, 10, COUNTER, Kind::Swap(compared, value.to_owned()), known);
    let events = [event(COUNTER, "1", 2), event(COUNTER, "2", 3)];
    let first = swap(0, "1", Known::Wrote(2));
    check(&[first.clone(), swap(2, "2", Known::Wrote(3))], &events, &state(&events)).unwrap();
    check(&[first.clone(), swap(2, "2", lost())], &events, &state(&events)).unwrap();
    let over_what_it_never_saw = swap(0, "2", Known::Wrote(3));
    assert!(complaint(&[first.clone(), over_what_it_never_saw], &events).contains("more than was asked for"));
    let saw = Known::Saw(2, state(&events[..1]).pop());
    check(&[first.clone(), swap(0, "9", saw)], &events[..1], &state(&events[..1])).unwrap();
    let saw_nothing = swap(0, "9", Known::Saw(2, None));
    assert!(complaint(&[first, saw_nothing], &events[..1]).contains("the answer is"));
}

#[test]
fn the_final_state_is_the_last_change_of_every_key() {
    let ops = [put(0, 10, "a", "1", Known::Wrote(2)), put(0, 10, "a", "2", Known::Wrote(3))];
    let events = [event("a", "1", 2), event("a", "2", 3)];
    let complaint = |kvs: &[Kv]| check(&ops, &events, kvs).unwrap_err().what;
    assert!(complaint(&state(&events[..1])).contains("final state has Some"));
    assert!(complaint(&[]).contains("final state has None"));
    let extra = [event("a", "1", 2), event("a", "2", 3), event("b", "3", 4)];
    assert!(complaint(&state(&extra)).contains("never was"));
}
