//! Rot in each copy of what a batch says, alone and together.

use super::*;

/// A sealed log of one segment: a batch of three entries between two others.
fn sealed() -> (MemDisk, String, Model, Range<usize>) {
    let appends = [
        hard_state(1, 7, 0),
        entries(1, 1..=2, 40),
        Append { entries: entries(2, 3..=5, 1200).entries, ..hard_state(2, 9, 2) },
        Append { entries: entries(2, 6..=6, 40).entries, ..hard_state(3, 8, 5) },
    ];
    let disk = MemDisk::new();
    write(&disk, WalOptions::default(), &appends).seal().unwrap();
    let name = segment_name(1, 1);
    let batch = batches(&disk.bytes(&name).unwrap())[2].clone();
    (disk, name, Model::with(&appends), batch)
}

/// Puts back every entry that is reported and opens the log again.
fn repair(disk: &MemDisk, model: &Model) -> Result<usize, WalError> {
    let (mut wal, recovered) = Wal::open(disk.clone(), WalOptions::default())?;
    let entry = |damaged: &Damaged| model.entries.iter().find(|entry| damaged.is(entry)).unwrap().clone();
    let repairs: Vec<_> = recovered.damaged.iter().map(|one| (one.clone(), entry(one))).collect();
    wal.repair(&repairs)?;
    let again = reopen(disk, WalOptions::default());
    assert!(model.matches(&again) && again.damaged.is_empty(), "{again:?}");
    Ok(repairs.len())
}

#[test]
fn one_copy_of_an_identity_is_enough() {
    let (disk, name, model, batch) = sealed();
    let (head, trailer) = (batch.start..batch.start + 96, batch.end - 36 - 3 * 28..batch.end);
    let data = batch.start + 96 + 32 + 1200 + 32 + 100;
    // Where the identities of the second entry are: before it and in the trailer.
    let before = batch.start + 96 + 32 + 1200..batch.start + 96 + 32 + 1200 + 32;
    let row = trailer.start + 28..trailer.start + 56;
    let byte = |at: usize| at..at + 1;
    for (damage, expected) in [
        (vec![head.clone()], Some(0)),
        (vec![trailer.clone()], Some(0)),
        (vec![row.clone()], Some(0)),
        (vec![before.clone()], Some(1)),
        (vec![byte(data)], Some(1)),
        (vec![byte(data), byte(data - 1200), byte(data + 1200)], Some(3)),
        (vec![head.clone(), byte(data)], Some(1)),
        (vec![head.clone(), before.clone()], Some(1)),
        // The hard state and the checksum at the end, but no identity.
        (vec![byte(data), trailer.end - 36..trailer.end], Some(1)),
        // The identity of another entry, which is whole.
        (vec![byte(data), trailer.start..trailer.start + 28], Some(1)),
        // Both copies.
        (vec![byte(data), row.clone()], None),
        (vec![before, row], None),
        (vec![head, trailer], None),
    ] {
        let copy = disk.duplicate();
        for range in &damage {
            copy.damage(&name, |bytes| bytes[range.clone()].iter_mut().for_each(|byte| *byte ^= 0x5a));
        }
        match (repair(&copy, &model), expected) {
            (Ok(count), Some(expected)) => assert_eq!(count, expected, "{damage:?}"),
            (Err(WalError::Corrupt { offset, .. }), None) => assert_eq!(offset, batch.start as u64),
            (other, _) => panic!("{damage:?}: {other:?}"),
        }
    }
}

#[test]
fn whole_sectors_are_repaired_or_refused_and_never_cut() {
    let (disk, name, model, _) = sealed();
    let end = batches(&disk.bytes(&name).unwrap()).last().unwrap().start / SECTOR as usize;
    let (mut whole, mut refused) = (0, 0);
    for fill in [0, 0xff] {
        // One sector, or two neighbours.
        for (first, len) in (0..end).flat_map(|first| [(first, 1), (first, 2)]) {
            let copy = disk.duplicate();
            let range = first * SECTOR as usize..(first + len).min(end) * SECTOR as usize;
            copy.damage(&name, |bytes| bytes[range.clone()].fill(fill));
            match repair(&copy, &model) {
                Ok(_) => whole += 1,
                Err(WalError::Corrupt { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    // Headers, and the sectors of the large batch; small batches lose all they said.
    assert!(whole >= 24 && refused > 0, "{whole} whole, {refused} refused");
}

#[test]
fn damage_to_an_entry_that_was_replaced_is_of_no_account() {
    let disk = MemDisk::new();
    let appends = [entries(1, 1..=4, 900), entries(2, 3..=3, 10)];
    write(&disk, WalOptions::default(), &appends).seal().unwrap();
    let at = |entry: usize| BATCHES_OFFSET as usize + 96 + entry * 932 + 500;
    disk.damage(&segment_name(1, 1), |bytes| bytes[at(3)] ^= 1);
    let recovered = reopen(&disk, WalOptions::default());
    assert!(Model::with(&appends).matches(&recovered) && recovered.damaged.is_empty());
    disk.damage(&segment_name(1, 1), |bytes| bytes[at(1)] ^= 1);
    assert_eq!(reopen(&disk, WalOptions::default()).damaged[0].id, EntryId { term: 1, index: 2 });
}

#[test]
fn an_entry_that_is_another_is_no_repair() {
    let (disk, name, model, batch) = sealed();
    disk.damage(&name, |bytes| bytes[batch.start + 96 + 32 + 5] ^= 1);
    let damaged = reopen(&disk, WalOptions::default()).damaged.remove(0);
    let right = model.entries[2].clone();
    assert!(damaged.is(&right));
    assert!(!damaged.is(&LogEntry { term: 3, ..right.clone() }));
    assert!(!damaged.is(&LogEntry { kind: EntryKind::ConfChange, ..right.clone() }));
    assert!(!damaged.is(&LogEntry { data: Bytes::from(vec![3; 1199]), ..right.clone() }));
    assert!(!damaged.is(&LogEntry { data: Bytes::from(vec![4; 1200]), ..right }));
}
