//! The lessor's rules one by one, and a random schedule against the promise that matters most: what
//! was renewed in time is not revoked, and nothing grows without a renewal.

use super::*;
use crate::rng::Rng;

fn at(seconds: u64) -> Time {
    Time(0) + Duration::from_secs(seconds)
}

fn lessor() -> Lessor {
    Lessor::new(2, LessorOptions::default())
}

fn primary() -> Lessor {
    let mut lessor = lessor();
    lessor.promote(Time(0));
    lessor
}

fn rows(leases: &[Lease]) -> Vec<(Bytes, Bytes)> {
    leases.iter().map(|l| (Bytes::copy_from_slice(&Lease::key(l.id)), l.encode().into())).collect()
}

#[test]
fn grant_checks_the_ttl_and_the_id() {
    let mut l = lessor();
    assert_eq!(l.grant(1, TTL_MAX + 1, at(0)), Err(Error::LeaseTtlTooLarge));
    assert_eq!(l.grant(1, TTL_MAX, at(0)).unwrap().ttl, TTL_MAX);
    assert_eq!(l.grant(1, 10, at(0)), Err(Error::LeaseExists));
    assert_eq!(l.grant(1, TTL_MAX + 1, at(0)), Err(Error::LeaseTtlTooLarge));
    assert_eq!(l.grant(2, 0, at(0)).unwrap().ttl, 2);
    assert_eq!(l.grant(3, -5, at(0)).unwrap().ttl, 2);
    assert_eq!(l.grant(-4, 60, at(0)).unwrap(), Lease { id: -4, ttl: 60, remaining_ttl: 0 });
    assert_eq!(l.granted_ttl(-5), 2);
    assert!(l.contains(-4));
    assert_eq!(l.revoke(-4), Ok(()));
    assert_eq!(l.revoke(-4), Err(Error::LeaseNotFound));
    assert!(!l.contains(-4));
    l.invariants();
}

#[test]
fn rows_survive_a_restart_with_negative_ids() {
    let leases = [
        Lease { id: i64::MIN, ttl: 10, remaining_ttl: 0 },
        Lease { id: -1, ttl: TTL_MAX, remaining_ttl: 4711 },
        Lease { id: i64::MAX, ttl: 2, remaining_ttl: 1 },
    ];
    let mut l = primary();
    l.grant(5, 10, at(0)).unwrap();
    l.load(rows(&leases)).unwrap();
    assert!(!l.is_primary() && !l.contains(5));
    for lease in leases {
        assert_eq!(l.lease(lease.id), Some(lease));
        assert_eq!(Lease::decode(&Lease::key(lease.id), &lease.encode()), Ok(lease));
    }
    l.invariants();
    let good = leases[1].encode();
    for bad in [&good[..16], &[&good[..], &[0]].concat(), &[&[9], &good[1..]].concat(), &[]] {
        assert!(Lease::decode(&Lease::key(1), bad).is_err());
    }
    assert!(Lease::decode(&[1, 2], &good).is_err());
}

#[test]
fn chosen_ids_are_positive_and_unused() {
    let mut l = lessor();
    let first = l.choose_id(7);
    assert!(first > 0);
    l.grant(first, 10, at(0)).unwrap();
    let second = l.choose_id(7);
    assert!(second > 0 && second != first);
}

#[test]
fn expiry_is_named_once_then_retried_and_never_renewed() {
    let mut l = primary();
    l.grant(1, 10, at(0)).unwrap();
    l.grant(2, 5, at(0)).unwrap();
    assert_eq!(l.leases(), [2, 1]);
    assert_eq!(l.next_deadline(), Some(at(5)));
    assert!(l.due(at(4)).is_empty());
    assert_eq!(l.renew(1, at(4)), Some(Renewal { ttl: 10, reset_checkpoint: false }));
    assert_eq!(l.time_to_live(1, at(4)), Some((10, 10)));
    assert_eq!(l.time_to_live(1, at(6)), Some((10, 8)));
    assert_eq!(l.time_to_live(3, at(6)), None);
    assert_eq!(l.due(at(5)), [2]);
    assert!(l.due(at(5)).is_empty());
    assert_eq!(l.renew(2, at(5)), None, "expired, though not revoked yet");
    assert_eq!(l.time_to_live(2, at(6)), Some((5, 0)));
    assert_eq!(l.next_deadline(), Some(at(8)));
    assert_eq!(l.due(at(8)), [2]);
    l.revoke(2).unwrap();
    assert!(l.due(at(11)).is_empty());
    assert_eq!(l.due(at(20)), [1]);
    assert_eq!(l.renew(3, at(1)), None, "unknown");
    l.invariants();
}

#[test]
fn a_deposed_leader_neither_revokes_nor_renews() {
    let mut l = primary();
    l.grant(1, 10, at(0)).unwrap();
    l.grant(2, 1000, at(0)).unwrap();
    l.demote();
    assert_eq!(l.next_deadline(), None);
    assert!(l.due(at(1000)).is_empty());
    assert!(l.checkpoints_due(at(1000)).is_empty());
    assert_eq!(l.renew(1, at(1)), None);
    l.grant(3, 10, at(1)).unwrap();
    assert_eq!(l.leases(), [1, 2, 3]);
    assert!(l.due(at(1000)).is_empty());
    l.invariants();
    l.promote(at(1000));
    l.invariants();
    assert_eq!(l.renew(1, at(1001)), Some(Renewal { ttl: 10, reset_checkpoint: false }));
    assert_eq!(l.due(at(1010)), [3]);
}

#[test]
fn expiries_pile_up_slowly_and_in_order() {
    let mut l = primary();
    for id in 1..=2500 {
        l.grant(id, 10, at(0)).unwrap();
    }
    let mut named: Vec<(Time, usize)> = Vec::new();
    let mut order = Vec::new();
    let mut now = at(10);
    while order.len() < 2500 {
        let ids = l.due(now);
        assert!(ids.len() <= 500);
        named.push((now, ids.len()));
        for &id in &ids {
            l.revoke(id).unwrap();
        }
        order.extend(ids);
        l.invariants();
        now = now + Duration::from_millis(37);
    }
    assert_eq!(order, (1..=2500).collect::<Vec<_>>());
    for (i, &(start, _)) in named.iter().enumerate() {
        let within = named[i..].iter().take_while(|(at, _)| at.since(start) < SECOND);
        assert!(within.map(|(_, count)| count).sum::<usize>() <= 1000);
    }
    // With the rate used up the deadline is when it returns, so nobody spins.
    let mut l = primary();
    for id in 1..=1500 {
        l.grant(id, 10, at(0)).unwrap();
    }
    assert_eq!((l.due(at(10)).len(), l.due(at(10)).len(), l.due(at(10)).len()), (500, 500, 0));
    assert_eq!(l.next_deadline(), Some(at(11)));
    assert_eq!(l.due(at(11)).len(), 500);
}

#[test]
fn checkpoints_survive_a_change_of_leader() {
    let mut l = primary();
    l.grant(1, 1000, at(0)).unwrap();
    l.grant(2, 300, at(0)).unwrap();
    assert_eq!(l.next_deadline(), Some(at(300)));
    assert!(l.checkpoints_due(at(299)).is_empty());
    assert_eq!(l.checkpoints_due(at(300)), [(1, 700)], "only leases longer than the interval");
    assert_eq!(l.checkpoint(1, 700), Some(Lease { id: 1, ttl: 1000, remaining_ttl: 700 }));
    assert_eq!(l.checkpoint(9, 700), None);
    assert_eq!(l.time_to_live(1, at(310)), Some((1000, 690)), "the leader's own clock goes on");
    assert_eq!(l.checkpoints_due(at(605)), [(1, 395)]);
    l.demote();
    assert_eq!(l.time_to_live(1, at(700)), Some((1000, 700)));
    l.promote(at(700));
    assert_eq!(l.time_to_live(1, at(700)), Some((1000, 700)), "not the full TTL again");
    // A renewal gives the full TTL and asks for the checkpoint to be cleared until that is applied.
    assert_eq!(l.renew(1, at(800)), Some(Renewal { ttl: 1000, reset_checkpoint: true }));
    assert_eq!(l.renew(1, at(801)), Some(Renewal { ttl: 1000, reset_checkpoint: true }));
    l.checkpoint(1, 0);
    assert_eq!(l.renew(1, at(802)), Some(Renewal { ttl: 1000, reset_checkpoint: false }));
    l.demote();
    l.promote(at(900));
    assert_eq!(l.time_to_live(1, at(900)), Some((1000, 1000)));
    assert_eq!(l.checkpoint(1, 5000).unwrap().remaining_ttl, 1000, "never above the TTL");
    l.invariants();
}

#[test]
fn a_checkpoint_that_a_renewal_overtook_is_taken_back() {
    let mut l = primary();
    l.grant(1, 1000, at(0)).unwrap();
    assert_eq!(l.checkpoints_due(at(300)), [(1, 700)]);
    assert_eq!(l.renew(1, at(301)), Some(Renewal { ttl: 1000, reset_checkpoint: true }));
    // The log may have them in the other order.
    l.checkpoint(1, 0);
    l.checkpoint(1, 700);
    l.invariants();
    assert_eq!(l.next_deadline(), Some(Time(0)));
    assert_eq!(l.checkpoints_due(at(302)), [(1, 999)]);
    l.checkpoint(1, 999);
    l.invariants();
    assert_eq!(l.checkpoints_due(at(400)), []);
    assert_eq!(l.checkpoints_due(at(602)), [(1, 699)]);
}

#[test]
fn checkpoints_are_bounded() {
    let mut l = primary();
    for id in 1..=2500 {
        l.grant(id, 1000, at(0)).unwrap();
    }
    let sizes: Vec<usize> = (0..4).map(|_| l.checkpoints_due(at(300)).len()).collect();
    assert_eq!(sizes, [1000, 1000, 500, 0]);
}

/// One leader after another over the same replicated leases, with every proposal applied late or never.
#[test]
fn renewed_in_time_is_never_revoked_and_nothing_grows() {
    let (mut revoked, mut grown_by_renewal, mut leaders) = (0, 0, 0);
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut l = primary();
        let mut now = Time(0);
        // For each lease: until when the clients were promised it, and the most that it may have left.
        let mut promised: BTreeMap<LeaseId, Time> = BTreeMap::new();
        let mut bound: BTreeMap<LeaseId, i64> = BTreeMap::new();
        let mut proposed: VecDeque<(LeaseId, i64)> = VecDeque::new();
        for _ in 0..400 {
            now = now + Duration::from_millis(rng.below(20_000));
            match rng.below(10) {
                0 | 1 => {
                    let id = rng.next_u64() as i64;
                    let ttl = l.grant(id, rng.below(2000) as i64, now).unwrap().ttl;
                    promised.insert(id, now + Duration::from_secs(ttl.unsigned_abs()));
                    bound.insert(id, ttl);
                }
                2 | 3 => {
                    let ids = l.leases();
                    if let Some(&id) = ids.get(rng.below(ids.len() as u64) as usize)
                        && let Some(renewal) = l.renew(id, now)
                    {
                        assert!(promised[&id] > now, "seed {seed}: an expired lease was renewed");
                        promised.insert(id, now + Duration::from_secs(renewal.ttl.unsigned_abs()));
                        bound.insert(id, renewal.ttl);
                        grown_by_renewal += 1;
                        if renewal.reset_checkpoint {
                            l.checkpoint(id, 0);
                        }
                    }
                }
                4 => proposed.extend(l.checkpoints_due(now)),
                5 => {
                    for _ in 0..rng.below(4) {
                        if let Some((id, left)) = proposed.pop_front() {
                            l.checkpoint(id, left);
                        }
                    }
                }
                6 if rng.chance(1, 5) => {
                    // What was not proposed when the leader went is lost; a stale checkpoint is not.
                    while let Some((id, left)) = proposed.pop_front() {
                        l.checkpoint(id, left);
                    }
                    for (id, left) in l.checkpoints_due(now) {
                        l.checkpoint(id, left);
                    }
                    l.invariants();
                    let all: Vec<Lease> = l.leases().iter().map(|&id| l.lease(id).unwrap()).collect();
                    l.demote();
                    assert!(l.due(now + SECOND * 100_000).is_empty());
                    l = lessor();
                    l.load(rows(&all)).unwrap();
                    l.promote(now);
                    leaders += 1;
                    // A new leader may promise more than the old one, up to the last checkpoint.
                    for lease in all {
                        let left = l.time_to_live(lease.id, now).unwrap().1;
                        let until = now + Duration::from_secs(left.unsigned_abs());
                        promised.entry(lease.id).and_modify(|at| *at = until.max(*at));
                        bound.insert(lease.id, lease.left());
                    }
                }
                _ => {
                    for id in l.due(now) {
                        assert!(promised[&id] <= now, "seed {seed}: revoked before its time");
                        if rng.chance(1, 2) {
                            l.revoke(id).unwrap();
                            revoked += 1;
                        }
                    }
                }
            }
            l.invariants();
            for id in l.leases() {
                let left = l.time_to_live(id, now).unwrap().1;
                let before = bound.insert(id, left).unwrap();
                assert!(left <= before, "seed {seed}: {before} s grew to {left} s");
            }
        }
    }
    assert!(revoked > 1000 && grown_by_renewal > 1000 && leaders > 300);
}
