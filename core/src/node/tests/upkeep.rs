//! What is kept in memory, and for how long.

use super::*;

fn compact(revision: i64) -> Request {
    Request::Compact { revision, physical: false }
}

#[test]
fn flushes_go_on_while_a_compaction_lasts() {
    let mut world = World::new(1, |config| config.flush_entries_max = 20);
    world.run(Duration::from_millis(50));
    let id = world.leader().unwrap();
    for i in 0..8 {
        world.put(id, "a", &i.to_string()).unwrap();
    }
    world.held = Some(Vec::new());
    world.call(id, compact(5)).unwrap();
    world.run(Duration::from_secs(1));
    assert_eq!(world.held.as_ref().map(Vec::len), Some(1), "the compaction has begun");
    let before = world.flushes;
    for i in 0..200 {
        world.put(id, &format!("k{i}"), "v").unwrap();
        assert!(world.members[&id].node.store.pending().entries < 30);
    }
    assert!(world.flushes >= before + 10, "{} flushes", world.flushes - before);
    // Another compaction waits for the first.
    world.call(id, compact(100)).unwrap();
    world.run(Duration::from_secs(1));
    let first = world.held.take().unwrap();
    assert_eq!(first.len(), 1);
    world.input(id, first.into_iter().next().unwrap());
    world.run(Duration::from_secs(1));
    assert_eq!(world.value(id, "a").as_deref(), Some("7"));
    world.restart(id);
    world.run(Duration::from_secs(4));
    assert_eq!(world.value(id, "k199").as_deref(), Some("v"));
    let old = RangeRequest { key: "a".into(), revision: 50, ..RangeRequest::default() };
    assert_eq!(world.call(id, Request::Range(old)), Err(Error::Compacted));
}

#[test]
fn who_asks_for_a_physical_compaction_is_answered_however_long_it_takes() {
    let mut world = World::new(1, |_| {});
    world.run(Duration::from_millis(50));
    let id = world.leader().unwrap();
    for i in 0..8 {
        world.put(id, "a", &i.to_string()).unwrap();
    }
    world.held = Some(Vec::new());
    let waiting = world.ask(id, Request::Compact { revision: 5, physical: true });
    world.run(Duration::from_secs(60));
    assert!(!world.replies.contains_key(&(id, waiting)));
    for input in world.held.take().unwrap() {
        world.input(id, input);
    }
    let answer = world.replies.remove(&(id, waiting)).expect("answered at once");
    assert_eq!(answer.unwrap().body, ResponseBody::Compact);
}

/// Entries that a member holds in memory.
fn held(world: &World, id: u64) -> u64 {
    let log = world.members[&id].node.raw.store();
    log.last() + 1 - log.first()
}

#[test]
fn large_entries_stay_in_memory_for_those_who_lack_them_only() {
    let mut world = World::new(3, |config| {
        config.log_bytes_max = 1 << 20;
        config.log_shared_bytes_max = 16 << 10;
    });
    world.run(Duration::from_secs(4));
    let behind = world.follower();
    let leader = world.leader().unwrap();
    let value = "v".repeat(4 << 10);
    for i in 0..20 {
        world.put(leader, &format!("k{i}"), &value).unwrap();
    }
    assert!(world.members.keys().all(|id| held(&world, *id) <= 6), "all have them");
    world.cut.insert(behind);
    for i in 20..40 {
        world.put(leader, &format!("k{i}"), &value).unwrap();
    }
    assert!(held(&world, leader) >= 20, "one lacks them");
    world.cut.clear();
    world.run(Duration::from_secs(3));
    let sent = |(_, event): &(u64, NodeEvent)| matches!(event, NodeEvent::SnapshotSending { .. });
    assert!(!world.events.iter().any(sent), "the log has sufficed");
    assert_eq!(world.value(behind, "k39"), Some(value.clone()));
    assert!(held(&world, leader) <= 6);
    // There is a bound to it all the same.
    world.cut.insert(behind);
    for i in 40..400 {
        world.put(leader, &format!("k{i}"), &value).unwrap();
    }
    assert!(held(&world, leader) < 260);
    world.cut.clear();
    world.run(Duration::from_secs(5));
    assert!(world.events.iter().any(sent));
    assert_eq!(world.value(behind, "k399"), Some(value));
    assert_eq!(world.hashes().len(), 1);
}
