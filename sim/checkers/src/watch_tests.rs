//! A good stream, and one bad stream for each of the nine guarantees.

use super::*;

fn change(revision: i64, key: &str, value: Option<&str>) -> Change {
    Change { revision, key: key.to_owned(), value: value.map(str::to_owned), lease: 0 }
}

/// a is put, put again and deleted; b is put with the deletion.
fn replay() -> Replay {
    let changes = [
        change(2, "a", Some("1")),
        change(3, "a", Some("2")),
        change(4, "a", None),
        change(4, "b", Some("3")),
    ];
    Replay::new(&changes).unwrap()
}

fn request(start: i64) -> Request {
    Request { keys: Keys::From(String::new()), start, no_put: false, no_delete: false, prev_kv: true }
}

fn event(replay: &Replay, revision: i64, key: &str) -> Event {
    let kv = replay.at(key, revision).cloned();
    Event {
        delete: kv.is_none(),
        kv: kv.unwrap_or(Kv { key: key.to_owned(), mod_revision: revision, ..Kv::default() }),
        prev: replay.at(key, revision - 1).cloned(),
    }
}

fn all(replay: &Replay) -> Vec<Event> {
    [(2, "a"), (3, "a"), (4, "a"), (4, "b")].map(|(revision, key)| event(replay, revision, key)).to_vec()
}

fn receive(watcher: &mut Watcher, events: &[Event]) -> Result<Verdict, Violation> {
    watcher.received(&Sent::Events { revision: 4, events: events.to_vec() }, &replay(), 4, -1)
}

fn rule(watcher: &mut Watcher, events: &[Event]) -> String {
    receive(watcher, events).expect_err("the stream breaks a guarantee").rule
}

#[test]
fn a_good_stream_is_fine_however_it_is_cut() {
    let events = all(&replay());
    for cut in [0, 1, 2, 4] {
        let mut watcher = Watcher::new(request(2));
        for part in [&events[..cut], &events[cut..]] {
            if !part.is_empty() {
                assert_eq!(receive(&mut watcher, part), Ok(Verdict::Fine));
            }
        }
        assert_eq!((watcher.missing(&replay()), watcher.events, watcher.resume()), (0, 4, 5));
    }
    let mut watcher = Watcher::new(request(0));
    assert_eq!(watcher.received(&Sent::Created { revision: 3 }, &replay(), 4, -1), Ok(Verdict::Fine));
    assert_eq!(watcher.missing(&replay()), 2);
    assert_eq!(watcher.received(&Sent::Progress { revision: 3 }, &replay(), 4, -1), Ok(Verdict::Fine));
}

#[test]
fn filter() {
    let events = all(&replay());
    let keys = Keys::One("b".to_owned());
    assert_eq!(rule(&mut Watcher::new(Request { keys, ..request(2) }), &events), "watch filter");
    assert_eq!(rule(&mut Watcher::new(Request { no_put: true, ..request(2) }), &events), "watch filter");
}

#[test]
fn ordered() {
    let mut events = all(&replay());
    events.swap(0, 1);
    // The second is missing first; sent late, it is out of order.
    assert_eq!(rule(&mut Watcher::new(request(2)), &events), "watch reliable");
    let events = all(&replay());
    let late = [events[0].clone(), events[1].clone(), events[0].clone()];
    assert_eq!(rule(&mut Watcher::new(request(2)), &late), "watch ordered");
}

#[test]
fn unique() {
    let events = all(&replay());
    let twice = [events[0].clone(), events[0].clone()];
    assert_eq!(rule(&mut Watcher::new(request(2)), &twice), "watch unique");
    let mut watcher = Watcher::new(request(2));
    receive(&mut watcher, &events[..2]).unwrap();
    assert_eq!(rule(&mut watcher, &events[1..]), "watch unique");
    let mut watcher = Watcher::new(request(2));
    let more = [&events[..], &events[3..]].concat();
    assert_eq!(rule(&mut watcher, &more), "watch unique");
}

#[test]
fn atomic() {
    assert_eq!(rule(&mut Watcher::new(request(2)), &all(&replay())[..3]), "watch atomic");
}

#[test]
fn bookmarkable() {
    let mut watcher = Watcher::new(request(2));
    let overtaking = watcher.received(&Sent::Progress { revision: 3 }, &replay(), 4, -1);
    assert_eq!(overtaking.unwrap_err().rule, "watch bookmarkable");
    let from_the_future = watcher.received(&Sent::Progress { revision: 9 }, &replay(), 4, -1);
    assert_eq!(from_the_future.unwrap_err().rule, "watch bookmarkable");
    let sent = Sent::Events { revision: 2, events: all(&replay()) };
    assert_eq!(watcher.received(&sent, &replay(), 4, -1).unwrap_err().rule, "watch bookmarkable");
}

#[test]
fn resumable() {
    assert_eq!(rule(&mut Watcher::new(request(3)), &all(&replay())), "watch resumable");
    assert_eq!(rule(&mut Watcher::new(request(0)), &all(&replay())), "watch resumable");
    let mut watcher = Watcher::new(request(4));
    let over = Sent::Canceled { revision: 4, compact_revision: 3 };
    assert_eq!(watcher.received(&over, &replay(), 4, 3).unwrap_err().rule, "watch resumable");
}

#[test]
fn reliable() {
    let events = all(&replay());
    assert_eq!(rule(&mut Watcher::new(request(2)), &events[1..]), "watch reliable");
    let mut invented = events[0].clone();
    invented.kv.value = "9".to_owned();
    assert_eq!(rule(&mut Watcher::new(request(2)), &[invented]), "watch reliable");
    let mut watcher = Watcher::new(request(2));
    let over = Sent::Canceled { revision: 4, compact_revision: 3 };
    assert_eq!(watcher.received(&over, &replay(), 4, 2).unwrap_err().rule, "watch reliable");
    assert_eq!(watcher.received(&over, &replay(), 4, 3), Ok(Verdict::Canceled));
    assert_eq!(watcher.resume(), 3);
}

#[test]
fn prev_kv() {
    let mut events = all(&replay());
    events[1].prev = None;
    assert_eq!(rule(&mut Watcher::new(request(2)), &events), "watch prevKV");
    // Below the compaction nobody can know it.
    let sent = Sent::Events { revision: 4, events: events.clone() };
    assert_eq!(Watcher::new(request(2)).received(&sent, &replay(), 4, 3), Ok(Verdict::Fine));
    let unasked = Request { prev_kv: false, ..request(2) };
    assert_eq!(rule(&mut Watcher::new(unasked), &all(&replay())), "watch prevKV");
}

#[test]
fn is_create() {
    let mut events = all(&replay());
    events[1].kv.create_revision = 3;
    events[1].kv.version = 1;
    assert_eq!(rule(&mut Watcher::new(request(2)), &events), "watch isCreate");
}
