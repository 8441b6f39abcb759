//! Writes that were under way when their leader was lost.

use super::*;
use crate::command::{Command, CommandId};
use crate::node::peer_message::{PeerMessage, Refusal};

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

/// Hands leadership to a member that is up to date.
fn transfer(world: &mut World, from: u64, to: u64) {
    world.members.get_mut(&from).unwrap().node.raw.transfer_leader(to);
    world.input(from, Input::Wakeup);
}

/// The commands that are more than once in a member's log.
fn twice(world: &World, at: u64) -> Vec<CommandId> {
    let mut seen = BTreeSet::new();
    let entries = world.members[&at].log.entries.iter().filter(|entry| !entry.data.is_empty());
    let ids = entries.map(|entry| Command::decode(&entry.data).unwrap().id);
    ids.filter(|id| !seen.insert(*id)).collect()
}

fn learner(number: usize) -> Request {
    let peer_urls = vec![format!("http://127.0.0.1:{}", 3380 + number)];
    Request::MemberAdd { peer_urls, is_learner: true, unix_seconds: 1 }
}

/// Sim seed 70736 of 60 s: a leader that was giving its place away kept a peer's change of the membership
/// for itself, and proposed it when it led again.
#[test]
fn a_queued_change_is_never_proposed_by_another_than_who_was_asked() {
    let (mut world, leader, follower) = settled(|config| config.learners_max = 5);
    let other = world.members.keys().copied().find(|id| ![leader, follower].contains(id)).unwrap();
    for number in 0..3 {
        world.next_id += 1;
        let id = world.next_id;
        world.input(follower, Input::Request { id, request: learner(number), timeout: None });
    }
    // One is appended and two wait for it, when the leader is asked to give its place away.
    deliver_only(&mut world, follower, leader);
    transfer(&mut world, leader, other);
    world.deliver();
    world.run(Duration::from_secs(1));
    assert_eq!(world.leader(), Some(other));
    transfer(&mut world, other, leader);
    world.run(Duration::from_secs(1));
    assert_eq!(world.leader(), Some(leader));
    world.put(follower, "a", "1").unwrap();
    assert_eq!(twice(&world, leader), []);
    assert_eq!(world.members[&follower].node.status().members.len(), 6, "each is done");
}

/// Takes what a member has to say to another one, and drops all other messages.
fn take(world: &mut World, from: u64, to: u64) -> Vec<Bytes> {
    let messages = std::mem::take(&mut world.messages);
    messages.into_iter().filter(|(a, b, _)| (*a, *b) == (from, to)).map(|(_, _, message)| message).collect()
}

/// The terms of the leaders that are asked to propose something.
fn asked(messages: &[Bytes]) -> Vec<u64> {
    let term = |message: &Bytes| match PeerMessage::decode(message) {
        Some(PeerMessage::Propose { term, .. }) => Some(term),
        _ => None,
    };
    messages.iter().filter_map(term).collect()
}

fn refused(world: &World, term: u64, at: u64, seq: u64, refusal: Refusal) -> Bytes {
    let id = world.members[&at].node.command_id(seq);
    PeerMessage::ProposeRefused { term, id, refusal }.encode()
}

#[test]
fn a_late_refusal_does_not_answer_for_the_next_leader() {
    let (mut world, leader, follower) = settled(|_| {});
    let term = world.members[&leader].node.status().term;
    world.next_id += 1;
    let id = world.next_id;
    world.input(follower, Input::Request { id, request: put("a", "1"), timeout: None });
    assert_eq!(asked(&take(&mut world, follower, leader)), [term]);
    for (earlier, again) in [(term - 1, vec![]), (term, vec![term])] {
        let message = refused(&world, earlier, follower, id, Refusal::NotLeader);
        world.input(follower, Input::Peer { from: leader, message });
        assert_eq!(asked(&take(&mut world, follower, leader)), again);
    }
}

#[test]
fn what_a_leader_refused_and_may_still_append_goes_to_no_other() {
    for refusal in [Refusal::NotNow, Refusal::NotLeader] {
        let (mut world, leader, follower) = settled(|_| {});
        let other = world.members.keys().copied().find(|id| ![leader, follower].contains(id)).unwrap();
        let term = world.members[&leader].node.status().term;
        world.next_id += 1;
        let id = world.next_id;
        world.input(follower, Input::Request { id, request: put("a", "1"), timeout: None });
        world.messages.clear();
        world.cut.insert(follower);
        transfer(&mut world, leader, other);
        world.run(Duration::from_millis(50));
        assert_eq!(world.leader(), Some(other));
        world.messages.clear();
        world.now = world.now + Duration::from_millis(100);
        world.input(other, Input::Wakeup);
        let heartbeat = take(&mut world, other, follower).remove(0);
        // It hears of the refusal and of the next leader at the same time.
        let message = refused(&world, term, follower, id, refusal.clone());
        let now = world.now;
        let node = &mut world.members.get_mut(&follower).unwrap().node;
        node.handle(now, Input::Peer { from: leader, message });
        world.input(follower, Input::Peer { from: other, message: heartbeat });
        assert_eq!(world.members[&follower].node.status().term, term + 1);
        let expected = if refusal == Refusal::NotLeader { vec![term + 1] } else { vec![] };
        assert_eq!(asked(&take(&mut world, follower, other)), expected);
    }
}

/// Sim seed 271: six learners where one was allowed, because each change was judged before the ones that
/// it waited for were made.
#[test]
fn a_queued_change_is_judged_again_when_its_turn_comes() {
    for asks_leader in [false, true] {
        let (mut world, leader, follower) = settled(|_| {});
        let at = if asks_leader { leader } else { follower };
        let mut ids = Vec::new();
        for number in 0..3 {
            world.next_id += 1;
            ids.push(world.next_id);
            let request = learner(number);
            world.input(at, Input::Request { id: world.next_id, request, timeout: None });
        }
        world.deliver();
        world.run(Duration::from_millis(500));
        let answers = ids.iter().map(|id| world.replies.remove(&(at, *id)).expect("answered").err());
        let answers: Vec<_> = answers.collect();
        assert_eq!(answers, [None, Some(Error::TooManyLearners), Some(Error::TooManyLearners)]);
        assert_eq!(world.members[&leader].node.status().members.len(), 4);
    }
}

/// Sim seed 70981 of 60 s: every copy of a refusal made the follower ask again, and messages multiplied.
#[test]
fn copies_of_a_refusal_do_not_multiply_what_is_asked() {
    let (mut world, leader, follower) = settled(|_| {});
    let term = world.members[&leader].node.status().term;
    world.next_id += 1;
    let id = world.next_id;
    world.input(follower, Input::Request { id, request: put("a", "1"), timeout: None });
    world.messages.clear();
    for _ in 0..3 {
        let message = refused(&world, term, follower, id, Refusal::NotNow);
        world.input(follower, Input::Peer { from: leader, message });
        assert_eq!(asked(&take(&mut world, follower, leader)), [0; 0]);
    }
    world.now = world.now + Duration::from_millis(100);
    world.input(follower, Input::Wakeup);
    assert_eq!(asked(&take(&mut world, follower, leader)), [term]);
}
