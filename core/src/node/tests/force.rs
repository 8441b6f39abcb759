//! One member of a lost cluster goes on alone.

use super::*;
use crate::command::{Command, CommandId, MemberChange, Op};
use crate::wal::EntryKind;

fn ids(world: &World, at: u64) -> Vec<u64> {
    world.members[&at].node.status().members.iter().map(|member| member.id).collect()
}

fn put_before_all_is_lost(world: &mut World) {
    world.run(Duration::from_secs(4));
    let leader = world.leader().unwrap();
    for i in 0..20 {
        world.put(leader, &format!("k{i}"), "v").unwrap();
    }
}

/// Every other member is gone with its disk.
fn lose_all_but(world: &mut World, survivor: u64) {
    world.members.retain(|id, _| *id == survivor);
    world.messages.clear();
}

#[test]
fn the_last_member_goes_on_with_everything() {
    // Flushed or only in the log; the leader or a follower.
    for (rest, leads) in [(0, true), (0, false), (12, true), (12, false)] {
        let mut world = World::new(3, |_| {});
        put_before_all_is_lost(&mut world);
        world.run(Duration::from_secs(rest));
        let survivor = if leads { world.leader().unwrap() } else { world.follower() };
        let lost: Vec<u64> = ids(&world, survivor).into_iter().filter(|id| *id != survivor).collect();
        lose_all_but(&mut world, survivor);

        assert_eq!(world.force(survivor).unwrap(), 2);
        world.run(Duration::from_secs(3));
        assert_eq!(world.leader(), Some(survivor));
        assert_eq!(ids(&world, survivor), [survivor]);
        assert_eq!(world.members[&survivor].node.status().removed_members, lost);
        assert_eq!(world.value(survivor, "k19").as_deref(), Some("v"));
        world.put(survivor, "after", "v").unwrap();

        // The flag may stay in a unit file: it has nothing more to do.
        assert_eq!(world.force(survivor).unwrap(), 0);
        world.run(Duration::from_secs(3));
        assert_eq!(world.value(survivor, "after").as_deref(), Some("v"));
        world.restart(survivor);
        world.run(Duration::from_secs(3));
        assert_eq!(ids(&world, survivor), [survivor]);
        assert_eq!(world.value(survivor, "after").as_deref(), Some("v"));
    }
}

#[test]
fn an_acknowledged_write_is_kept_before_its_commit_index_is_durable() {
    let mut world = World::new(3, |_| {});
    put_before_all_is_lost(&mut world);
    let leader = world.leader().unwrap();
    world.put(leader, "last", "v").unwrap();
    let log = &world.members[&leader].log;
    assert!(log.hard_state.commit < log.start.index + log.entries.len() as u64, "as after a kill -9");
    lose_all_but(&mut world, leader);
    world.force(leader).unwrap();
    world.run(Duration::from_secs(3));
    assert_eq!(world.value(leader, "last").as_deref(), Some("v"));
}

#[test]
fn a_learner_becomes_a_voter() {
    let mut world = World::new(1, |_| {});
    world.run(Duration::from_secs(6));
    let first = world.leader().unwrap();
    world.put(first, "a", "1").unwrap();
    let peer_urls = vec!["http://127.0.0.1:9999".to_owned()];
    let add = Request::MemberAdd { peer_urls, is_learner: true, unix_seconds: 1 };
    let ResponseBody::MemberAdd { member, .. } = world.call(first, add).unwrap() else { panic!() };
    world.start(member.id, Log::default(), Arc::new(MemBackend::new()));
    world.run(Duration::from_secs(3));
    lose_all_but(&mut world, member.id);
    assert_eq!(world.force(member.id).unwrap(), 2);
    world.run(Duration::from_secs(3));
    assert_eq!(world.value(member.id, "a").as_deref(), Some("1"));
    let members = world.members[&member.id].node.status().members;
    assert!(members.len() == 1 && !members[0].is_learner, "{members:?}");
}

#[test]
fn a_member_that_was_removed_is_refused() {
    let mut world = World::new(3, |_| {});
    world.run(Duration::from_secs(6));
    let removed = world.follower();
    let leader = world.leader().unwrap();
    world.call(leader, Request::MemberRemove { id: removed }).unwrap();
    // A follower hears with the next message that its removal is committed.
    world.run(Duration::from_secs(1));
    assert!(world.members[&removed].node.status().removed);
    let error = world.force(removed).unwrap_err();
    assert!(error.0.contains("was removed from it"), "{error}");
}

#[test]
fn its_own_removal_is_dropped_while_it_is_not_decided() {
    let mut world = World::new(3, |_| {});
    put_before_all_is_lost(&mut world);
    let survivor = world.follower();
    lose_all_but(&mut world, survivor);
    let log = &mut world.members.get_mut(&survivor).unwrap().log;
    let last = log.entries.last().unwrap().clone();
    for (index, change) in (last.index + 1..).zip([Some(MemberChange::Remove(survivor)), None]) {
        let op = change.map_or(Op::LeaseRevoke { id: 1 }, Op::Member);
        let data = Command { id: CommandId::default(), op }.encode().into();
        log.entries.push(LogEntry { index, term: last.term, kind: EntryKind::ConfChange, data });
    }
    assert_eq!(world.force(survivor).unwrap(), 2);
    world.run(Duration::from_secs(3));
    assert_eq!(ids(&world, survivor), [survivor]);
    assert_eq!(world.value(survivor, "k19").as_deref(), Some("v"));
}
