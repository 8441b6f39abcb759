//! The leader's process ends, or is only believed to have ended.

use super::*;

/// A settled cluster.
fn settled(size: usize) -> (World, u64) {
    let mut world = World::new(size, |_| {});
    world.run(Duration::from_secs(4));
    let leader = world.leader().unwrap();
    world.put(leader, "a", "1").unwrap();
    (world, leader)
}

fn others(world: &World, leader: u64) -> Vec<u64> {
    world.members.keys().copied().filter(|id| *id != leader).collect()
}

#[test]
fn a_leader_that_ended_is_replaced_long_before_the_election_timeout() {
    for size in [3, 5, 7] {
        let (mut world, leader) = settled(size);
        let term = world.members[&leader].node.status().term;
        world.members.remove(&leader);
        for id in others(&world, leader) {
            world.input(id, Input::PeerLost { peer: leader });
        }
        world.run(Duration::from_millis(60) * (size as u32 - 2));
        let new = world.leader().expect("a leader well within the election timeout of a second");
        assert_eq!(world.members[&new].node.status().term, term + 1, "nobody else asked for votes");
        world.put(new, "a", "2").unwrap();
    }
}

#[test]
fn members_that_are_told_late_are_asked_again() {
    let (mut world, leader) = settled(3);
    world.members.remove(&leader);
    for id in others(&world, leader) {
        world.input(id, Input::PeerLost { peer: leader });
        world.run(Duration::from_millis(90));
    }
    world.run(Duration::from_millis(200));
    assert!(world.leader().is_some());
}

#[test]
fn a_leader_that_lives_is_not_disturbed() {
    let (mut world, leader) = settled(3);
    let term = world.members[&leader].node.status().term;
    let follower = world.follower();
    for _ in 0..20 {
        world.input(follower, Input::PeerLost { peer: leader });
        world.run(Duration::from_millis(170));
        assert_eq!(world.leader(), Some(leader));
        world.put(leader, "a", "2").unwrap();
    }
    // It cannot reach anybody: it asks in vain, and comes back without having raised the term.
    world.cut.insert(follower);
    world.input(follower, Input::PeerLost { peer: leader });
    world.run(Duration::from_secs(5));
    world.cut.clear();
    world.run(Duration::from_secs(1));
    assert_eq!(world.leader(), Some(leader));
    let statuses = world.members.values().map(|member| member.node.status());
    assert!(statuses.into_iter().all(|status| status.term == term && status.leader == leader));
}

#[test]
fn only_the_loss_of_the_leader_counts() {
    let (mut world, leader) = settled(3);
    let [first, second] = others(&world, leader)[..] else { panic!() };
    let before = world.members[&first].node.next_wakeup();
    world.input(first, Input::PeerLost { peer: second });
    world.input(leader, Input::PeerLost { peer: second });
    assert_eq!(world.members[&first].node.next_wakeup(), before);
    world.run(Duration::from_secs(2));
    assert_eq!(world.leader(), Some(leader));
}

#[test]
fn candidates_that_split_the_votes_do_not_wait_for_the_election_timeout() {
    for size in [3, 5] {
        let (mut world, leader) = settled(size);
        let term = world.members[&leader].node.status().term;
        world.members.remove(&leader);
        let left = others(&world, leader);
        for id in &left {
            world.input(*id, Input::PeerLost { peer: leader });
        }
        // All were granted their pre-votes before any of them heard of the others' candidacy.
        for id in &left {
            let raft = &mut world.members.get_mut(id).unwrap().node.raw.raft;
            raft.campaign(raft::CAMPAIGN_ELECTION);
            world.input(*id, Input::Wakeup);
        }
        world.run(Duration::from_millis(300));
        let new = world.leader().expect("a leader well within the election timeout of a second");
        assert_eq!(world.members[&new].node.status().term, term + 2);
    }
}
