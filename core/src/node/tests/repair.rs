//! Entries of the log that rotted at rest.

use super::*;

const MEMBERS: usize = 3;
const ENTRIES: usize = 4;

/// The logs of three members, each with all that was ever written, and where the four last puts are.
fn written() -> (BTreeMap<u64, Log>, Vec<u64>) {
    let mut world = World::new(MEMBERS, |_| {});
    world.run(Duration::from_secs(4));
    let leader = world.leader().unwrap();
    for i in 0..ENTRIES {
        world.put(leader, &format!("k{i}"), "value").unwrap();
    }
    world.run(Duration::from_millis(200));
    let logs: BTreeMap<u64, Log> =
        world.members.values().map(|member| (member.id, member.log.clone())).collect();
    let last = logs[&leader].entries.last().unwrap().index;
    (logs, (last + 1 - ENTRIES as u64..=last).collect())
}

/// A cluster whose members start now, with empty backends.
fn started(logs: &BTreeMap<u64, Log>) -> World {
    let mut world = World::new(MEMBERS, |_| {});
    world.members.clear();
    world.messages.clear();
    let (batch, _) = bootstrap_batch(&world.cluster);
    for (id, log) in logs {
        let backend = Arc::new(MemBackend::new());
        backend.commit(&batch).unwrap();
        world.start(*id, log.clone(), backend);
    }
    world
}

fn events(world: &World, wanted: impl Fn(&NodeEvent) -> bool) -> usize {
    world.events.iter().filter(|(_, event)| wanted(event)).count()
}

fn is_repaired(event: &NodeEvent) -> bool {
    matches!(event, NodeEvent::LogRepaired { .. })
}

#[test]
fn a_rotten_entry_is_fetched_at_once_and_alone() {
    let (mut logs, at) = written();
    let (&rotten, log) = logs.iter_mut().next().unwrap();
    log.rot(at[1]);
    let mut world = started(&logs);
    world.deliver();
    assert!(world.members[&rotten].log.damaged.is_empty(), "before any time has passed");
    assert_eq!(events(&world, |event| matches!(event, NodeEvent::LogRepaired { entries: 1, .. })), 1);
    assert!(world.bytes[&rotten] < 500, "{} bytes came to the member", world.bytes[&rotten]);
    world.run(Duration::from_secs(3));
    assert_eq!(world.value(rotten, "k1").as_deref(), Some("value"));
    assert_eq!(world.hashes().len(), 1);
}

/// Sim seed 200488 of 60 s.
#[test]
fn a_rotten_entry_is_asked_for_though_nobody_is_known_to_be_connected() {
    let (mut logs, at) = written();
    let (&rotten, log) = logs.iter_mut().next().unwrap();
    log.rot(at[1]);
    let peers: Vec<u64> = logs.keys().copied().filter(|id| *id != rotten).collect();
    let mut world = started(&logs);
    world.messages.clear();
    for peer in peers {
        world.input(rotten, Input::PeerUnreachable { peer });
    }
    // The others say nothing by themselves.
    world.now = world.now + Duration::from_millis(100);
    world.input(rotten, Input::Wakeup);
    world.deliver();
    assert_eq!(events(&world, is_repaired), 1);
}

/// CTRL, FAST'18, section 5.1: every way in which four entries rot on three members.
#[test]
fn every_recoverable_case_is_recovered_and_no_other_is_served() {
    let (logs, at) = written();
    let ids: Vec<u64> = logs.keys().copied().collect();
    let (mut recovered, mut unavailable) = (0, 0);
    for case in 0u32..1 << (MEMBERS * ENTRIES) {
        let rotten = |member: usize, entry: usize| case >> (member * ENTRIES + entry) & 1 == 1;
        let mut logs = logs.clone();
        for (member, entry) in (0..MEMBERS).flat_map(|m| (0..ENTRIES).map(move |e| (m, e))) {
            if rotten(member, entry) {
                logs.get_mut(&ids[member]).unwrap().rot(at[entry]);
            }
        }
        let lost = (0..ENTRIES).any(|entry| (0..MEMBERS).all(|member| rotten(member, entry)));
        let mut world = started(&logs);
        world.deliver();
        for _ in 0..40 {
            world.now = world.now + Duration::from_millis(100);
            for id in &ids {
                world.input(*id, Input::Wakeup);
            }
            world.deliver();
            if world.leader().is_some() {
                break;
            }
        }
        match world.leader() {
            Some(leader) => {
                assert!(!lost, "case {case:03x} was served");
                for entry in 0..ENTRIES {
                    assert_eq!(world.value(leader, &format!("k{entry}")).as_deref(), Some("value"));
                }
                assert!(world.members.values().all(|member| member.log.damaged.is_empty()));
                recovered += 1;
            }
            None => {
                assert!(lost, "case {case:03x} was not recovered");
                unavailable += 1;
            }
        }
    }
    assert_eq!((recovered, unavailable), (2401, 1695));
}

#[test]
fn rot_that_nobody_can_repair_ends_the_start() {
    let mut world = World::new(1, |_| {});
    world.run(Duration::from_millis(100));
    let id = world.leader().unwrap();
    world.put(id, "a", "1").unwrap();
    let Member { mut log, .. } = world.members.remove(&id).unwrap();
    let last = log.entries.last().unwrap().index;
    log.rot(last);
    let backend = Arc::new(MemBackend::new());
    backend.commit(&bootstrap_batch(&world.cluster).0).unwrap();
    let config = Config::new(id, world.cluster.id(), 9, 7);
    let error = Node::start(config, log.recovered(), backend, world.now).unwrap_err();
    assert!(
        error.0.contains(&format!("index {last}")) && error.0.contains("is damaged at offset"),
        "{error}"
    );
}

#[test]
fn what_the_backend_has_needs_no_repair() {
    let mut world = World::new(MEMBERS, |_| {});
    world.run(Duration::from_secs(4));
    let leader = world.leader().unwrap();
    world.put(leader, "a", "1").unwrap();
    world.run(Duration::from_secs(2));
    let member = world.members.get_mut(&leader).unwrap();
    let flushed = member.node.status().flushed;
    member.log.rot(flushed - 1);
    world.members.retain(|id, _| *id == leader);
    world.restart(leader);
    assert_eq!(world.members[&leader].node.status().first, flushed);
    assert_eq!(events(&world, |event| matches!(event, NodeEvent::LogEntryDamaged(_))), 0);
}

/// One member has an entry that the others never got, and it rots.
fn alone_with_an_entry(commit: bool) -> (BTreeMap<u64, Log>, u64, u64) {
    let (mut logs, _) = written();
    let (&alone, log) = logs.iter_mut().next().unwrap();
    let mut entry = log.entries.last().unwrap().clone();
    entry.index += 1;
    let index = entry.index;
    log.entries.push(entry);
    log.hard_state.commit = if commit { index } else { index - 1 };
    log.rot(index);
    (logs, alone, index)
}

#[test]
fn an_entry_that_was_never_committed_is_left_out() {
    let (logs, alone, index) = alone_with_an_entry(false);
    let mut world = started(&logs);
    world.deliver();
    assert_eq!(events(&world, is_repaired), 0, "a leader of the same term may still count on it");
    world.run(Duration::from_secs(4));
    assert_eq!(events(&world, |event| matches!(event, NodeEvent::LogEntryLeftOut { .. })), 1);
    let leader = world.leader().unwrap();
    assert_ne!(leader, alone);
    world.put(leader, "after", "1").unwrap();
    assert_eq!(world.value(alone, "after").as_deref(), Some("1"));
    assert_eq!(world.hashes().len(), 1);
    let log = &world.members[&alone].log;
    assert!(log.damaged.is_empty(), "entry {index} was replaced");
}

#[test]
fn without_a_quorum_that_lacks_it_an_entry_is_waited_for() {
    let (logs, alone, _) = alone_with_an_entry(false);
    let mut world = started(&logs);
    let gone = *logs.keys().find(|id| **id != alone).unwrap();
    world.members.remove(&gone);
    world.run(Duration::from_secs(12));
    assert_eq!(world.leader(), None, "the rotten member must not vote");
    assert!(events(&world, |event| matches!(event, NodeEvent::LogEntryNowhere(_))) >= 1);
    assert_eq!(events(&world, is_repaired), 0);
}

#[test]
fn a_committed_entry_is_never_left_out() {
    let (logs, alone, _) = alone_with_an_entry(true);
    let mut world = started(&logs);
    world.run(Duration::from_secs(12));
    assert_eq!(events(&world, is_repaired), 0);
    assert!(world.leader().is_some_and(|leader| leader != alone), "the others go on");
    assert_eq!(world.members[&alone].node.status().role, Role::Follower);
}

/// Three members of which only the first entries are in nobody's memory any more; the leader.
fn compacted() -> (World, u64) {
    let mut world = World::new(MEMBERS, |config| {
        (config.catchup_entries, config.snapshot_count) = (2, 2);
    });
    world.run(Duration::from_secs(4));
    let leader = world.leader().unwrap();
    for i in 0..20 {
        world.put(leader, &format!("k{i}"), "value").unwrap();
    }
    (world, leader)
}

/// Ends a member and starts it with nothing flushed and a log in which the entry at `index` rotted.
fn start_rotten(world: &mut World, id: u64, index: u64) {
    let Some(Member { mut log, .. }) = world.members.remove(&id) else { return };
    world.messages.clear();
    log.rot(index);
    let backend = Arc::new(MemBackend::new());
    let _ = backend.commit(&bootstrap_batch(&world.cluster).0);
    world.start(id, log, backend);
}

#[test]
fn an_entry_that_all_others_have_compacted_comes_with_their_state() {
    let (mut world, leader) = compacted();
    let rotten = world.follower();
    let index = world.members[&rotten].log.entries[5].index;
    world.cut.insert(rotten);
    world.put(leader, "later", "value").unwrap();
    world.cut.clear();
    start_rotten(&mut world, rotten, index);
    world.deliver();
    assert_eq!(events(&world, is_repaired), 1, "before any time has passed");
    assert_eq!(events(&world, |event| matches!(event, NodeEvent::LogEntryNowhere(_))), 0);
    let log = &world.members[&rotten].log;
    assert!(log.start.index > index && log.damaged.is_empty(), "the log begins where the state stands");
    world.run(Duration::from_secs(3));
    assert_eq!(world.value(rotten, "k1").as_deref(), Some("value"));
    assert_eq!(world.value(rotten, "later").as_deref(), Some("value"));
    assert_eq!(world.hashes().len(), 1);
}

#[test]
fn what_follows_the_state_in_the_log_stays() {
    let (mut world, leader) = compacted();
    let index = world.members[&leader].log.entries[5].index;
    let others: Vec<u64> = world.members.keys().copied().filter(|id| *id != leader).collect();
    world.cut.extend(others);
    for i in 0..3 {
        world.ask(leader, put(&format!("tail{i}"), "value"));
    }
    world.cut.clear();
    let before = world.members[&leader].log.clone();
    start_rotten(&mut world, leader, index);
    world.deliver();
    assert_eq!(events(&world, |event| matches!(event, NodeEvent::LogRepaired { entries: 0, .. })), 1);
    for _ in 0..2 {
        let member = &world.members[&leader];
        let status = member.node.status();
        assert_eq!(status.last, before.entries.last().unwrap().index);
        assert!(status.applied < status.last && !member.node.is_repairing());
        let tail = |log: &Log| log.entries[log.entries.len() - 3..].to_vec();
        assert_eq!(tail(&member.log), tail(&before), "what it acknowledged");
        assert_eq!(member.log.hard_state, before.hard_state);
        // What is damaged stands before what the backend has.
        world.restart(leader);
    }
    world.run(Duration::from_secs(4));
    assert_eq!(world.value(leader, "k1").as_deref(), Some("value"));
    assert_eq!(world.hashes().len(), 1);
}

#[test]
fn a_tail_that_the_state_contradicts_goes() {
    let (mut world, leader) = compacted();
    let index = world.members[&leader].log.entries[5].index;
    let others: Vec<u64> = world.members.keys().copied().filter(|id| *id != leader).collect();
    world.cut.extend(others);
    for i in 0..9 {
        world.ask(leader, put(&format!("tail{i}"), "value"));
    }
    world.cut = BTreeSet::from([leader]);
    world.run(Duration::from_secs(4));
    let next = world.leader().unwrap();
    world.put(next, "other", "value").unwrap();
    let applied = world.members[&next].node.status().applied;
    assert!(world.members[&leader].log.entries.last().unwrap().index > applied);
    world.cut.clear();
    start_rotten(&mut world, leader, index);
    world.deliver();
    assert_eq!(world.members[&leader].node.status().last, applied);
    world.run(Duration::from_secs(4));
    assert_eq!(world.value(leader, "other").as_deref(), Some("value"));
    assert_eq!(world.value(leader, "tail0"), None);
    assert_eq!(world.hashes().len(), 1);
}
