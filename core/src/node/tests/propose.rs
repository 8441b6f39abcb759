//! Writes that were under way when their leader was lost.

use super::*;

/// A settled cluster, its leader and a follower.
fn settled(configure: fn(&mut Config)) -> (World, u64, u64) {
    let mut world = World::new(3, configure);
    world.run(Duration::from_secs(4));
    let (leader, follower) = (world.leader().unwrap(), world.follower());
    world.put(leader, "a", "0").unwrap();
    (world, leader, follower)
}

/// How often a key was written.
fn version(world: &mut World, at: u64, key: &str) -> i64 {
    let request = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
    match world.call(at, Request::Range(request)) {
        Ok(ResponseBody::Range(range)) => range.kvs.first().map_or(0, |kv| kv.version),
        other => panic!("{other:?}"),
    }
}

/// Hands messages on from one member to another, and drops all others.
fn deliver_only(world: &mut World, from: u64, to: u64) {
    let messages = std::mem::take(&mut world.messages);
    for (_, _, message) in messages.into_iter().filter(|(a, b, _)| (*a, *b) == (from, to)) {
        world.input(to, Input::Peer { from, message });
    }
}

#[test]
fn a_write_that_was_lost_with_its_leader_is_proposed_to_the_next() {
    let (mut world, leader, follower) = settled(|_| {});
    world.cut.insert(leader);
    let lost = world.ask(follower, put("a", "1"));
    world.run(Duration::from_millis(20));
    assert!(!world.replies.contains_key(&(follower, lost)));
    for id in world.members.keys().copied().filter(|id| *id != leader).collect::<Vec<_>>() {
        world.input(id, Input::PeerLost { peer: leader });
    }
    world.run(Duration::from_millis(200));
    assert!(world.replies.remove(&(follower, lost)).expect("answered by the next leader").is_ok());
    world.cut.clear();
    world.run(Duration::from_secs(1));
    assert_eq!(version(&mut world, leader, "a"), 2, "written once");
    assert_eq!(world.hashes().len(), 1);
}

#[test]
fn a_write_that_the_lost_leader_replicated_is_not_proposed_again() {
    let (mut world, leader, follower) = settled(|_| {});
    let other = world.members.keys().copied().find(|id| ![leader, follower].contains(id)).unwrap();
    // The leader appends it and the other follower has it, and nobody hears more of the leader.
    world.next_id += 1;
    let id = world.next_id;
    world.input(follower, Input::Request { id, request: put("a", "1"), timeout: None });
    deliver_only(&mut world, follower, leader);
    deliver_only(&mut world, leader, other);
    world.cut.insert(leader);
    world.run(Duration::from_secs(4));
    assert_eq!(world.leader(), Some(other), "only its log is up to date");
    assert!(world.replies.remove(&(follower, id)).expect("answered").is_ok());
    world.cut.clear();
    world.run(Duration::from_secs(1));
    assert_eq!(version(&mut world, leader, "a"), 2, "written once");
}

#[test]
fn what_a_leader_proposed_in_vain_is_proposed_to_the_next() {
    let (mut world, leader, follower) = settled(|_| {});
    world.cut.insert(leader);
    let lost: Vec<u64> = (1..=3).map(|value| world.ask(leader, put("a", &value.to_string()))).collect();
    world.run(Duration::from_secs(3));
    world.put(follower, "b", "1").unwrap();
    world.cut.clear();
    world.run(Duration::from_millis(500));
    for id in lost {
        assert!(world.replies.remove(&(leader, id)).expect("answered by the next leader").is_ok());
    }
    assert_eq!(version(&mut world, follower, "a"), 4, "each written once");
    assert_eq!(world.hashes().len(), 1);
}

#[test]
fn what_a_snapshot_may_hide_is_left_to_its_deadline() {
    let (mut world, leader, follower) = settled(|config| {
        config.snapshot_count = 5;
        config.catchup_entries = 2;
    });
    // Its message arrives and takes effect; then it is cut off until the log is gone.
    world.next_id += 1;
    let id = world.next_id;
    world.input(follower, Input::Request { id, request: put("a", "1"), timeout: None });
    deliver_only(&mut world, follower, leader);
    world.cut.insert(follower);
    for number in 0..30 {
        world.put(leader, "b", &number.to_string()).unwrap();
    }
    world.cut.clear();
    world.run(Duration::from_secs(1));
    let installed = |event: &(u64, NodeEvent)| matches!(event, (at, NodeEvent::SnapshotInstalled { .. }) if *at == follower);
    assert!(world.events.iter().any(installed), "caught up by a snapshot");
    assert!(!world.replies.contains_key(&(follower, id)));
    // Leaders come and go: it is never written again.
    for _ in 0..2 {
        let leader = world.leader().unwrap();
        world.cut.insert(leader);
        world.run(Duration::from_millis(2500));
        world.cut.clear();
        world.run(Duration::from_millis(200));
    }
    world.run(Duration::from_secs(3));
    let error = world.replies.remove(&(follower, id)).expect("its time is over").unwrap_err();
    assert!(matches!(error, Error::Timeout | Error::TimeoutLeaderFail), "{error:?}");
    assert_eq!(version(&mut world, follower, "a"), 2, "written once");
}
