//! Members that are removed.

use super::*;

#[test]
fn a_member_that_only_its_peers_can_tell_answers_who_asked_for_its_removal() {
    let mut world = World::new(3, |_| {});
    world.run(Duration::from_secs(4));
    let leader = world.leader().unwrap();
    let follower = world.follower();
    // It is cut off, so neither its proposal gets out nor does it hear of the removal.
    world.cut.insert(follower);
    let waiting = world.ask(follower, Request::MemberRemove { id: follower });
    let other = world.ask(follower, put("a", "1"));
    world.call(leader, Request::MemberRemove { id: follower }).unwrap();
    assert!(!world.replies.contains_key(&(follower, waiting)));

    world.input(follower, Input::Removed);
    world.input(follower, Input::Removed);
    let answer = world.replies.remove(&(follower, waiting)).expect("answered at once").unwrap();
    let ResponseBody::Members { members } = answer.body else { panic!("{answer:?}") };
    assert_eq!(members.len(), 2);
    assert!(members.iter().all(|member| member.id != follower));
    assert!(world.members[&follower].node.status().removed);
    let told = world.events.iter().filter(|event| **event == (follower, NodeEvent::RemovedSelf));
    assert_eq!(told.count(), 1, "said once");
    // Nobody knows what became of the rest.
    assert!(!world.replies.contains_key(&(follower, other)));
}

/// Sim seeds 101415 and 101976 of 60 s.
#[test]
fn a_member_that_is_left_alone_knows_so_after_a_restart() {
    let mut world = World::new(2, |_| {});
    world.run(Duration::from_secs(4));
    let (leader, follower) = (world.leader().unwrap(), world.follower());
    world.call(leader, Request::MemberRemove { id: follower }).unwrap();
    world.members.remove(&follower);
    // Nothing was flushed since.
    world.restart(leader);
    world.run(Duration::from_secs(4));
    assert_eq!(world.leader(), Some(leader), "nobody else has to vote");
    world.put(leader, "a", "1").unwrap();
}
