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

/// Two voters, one of which has removed itself as their leader and has not told the other that this is
/// committed: both, the one that leads first.
fn removed_leader(world: &mut World) -> (u64, u64) {
    world.run(Duration::from_secs(4));
    let follower = world.follower();
    let leader = *world.members.keys().find(|id| **id != follower).expect("there are two");
    world.next_id += 1;
    let (id, request) = (world.next_id, Request::MemberRemove { id: leader });
    world.input(follower, Input::Request { id, request, timeout: None });
    while !world.members[&leader].node.status().removed {
        let (from, to, message) = world.messages.pop_front().expect("it is removed in the end");
        world.input(to, Input::Peer { from, message });
    }
    world.messages.clear();
    assert!(!world.members[&follower].node.status().removed_members.contains(&leader));
    assert!(!world.stops(leader), "the other one may need its vote");
    (leader, follower)
}

impl World {
    fn stops(&self, id: u64) -> bool {
        self.events.contains(&(id, NodeEvent::RemovedSelf))
    }
}

#[test]
fn a_leader_that_removed_itself_says_so_until_the_other_one_knows() {
    let mut world = World::new(2, |_| {});
    let (leader, follower) = removed_leader(&mut world);
    world.run(Duration::from_millis(300));
    assert!(world.members[&follower].node.status().removed_members.contains(&leader));
    world.input(leader, Input::Removed);
    assert!(world.stops(leader));
    world.members.remove(&leader);
    world.run(Duration::from_secs(4));
    world.put(follower, "a", "1").unwrap();
}

/// Sim seeds 105441 and 106643 of 60 s.
#[test]
fn a_leader_that_removed_itself_votes_for_the_other_one_until_that_one_knows() {
    let mut world = World::new(2, |_| {});
    let (leader, follower) = removed_leader(&mut world);
    // So long that the other one campaigns.
    world.cut.insert(leader);
    world.run(Duration::from_secs(10));
    assert!(!world.stops(leader));
    world.cut.clear();
    for _ in 0..400 {
        world.run(Duration::from_millis(10));
        if world.stops(leader) {
            world.members.remove(&leader);
            break;
        }
    }
    assert!(world.members[&follower].node.status().removed_members.contains(&leader));
    world.run(Duration::from_secs(4));
    world.put(follower, "a", "1").unwrap();
}

#[test]
fn a_leader_that_removed_itself_does_not_wait_for_ever() {
    let mut world = World::new(2, |_| {});
    let (leader, follower) = removed_leader(&mut world);
    world.members.remove(&follower);
    world.run(Duration::from_secs(59));
    assert!(!world.stops(leader));
    world.run(Duration::from_secs(2));
    assert!(world.stops(leader));
}
