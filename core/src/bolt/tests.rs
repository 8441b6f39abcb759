//! Round trips, layout and damage. That etcd itself takes these files is tested in `tests/bolt_oracle.rs`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::read::{ReadError, Reader};
use super::rows::{self, LeaseRow};
use super::write::{EachRow, Plan, Rows, WriteError};
use super::*;
use crate::api::{AlarmKind, Member};
use crate::types::{KeyValue, Revision};

type Bucket = Vec<(Vec<u8>, Vec<u8>)>;

/// The length of the value in a numbered row.
type ValueLen = fn(u64) -> usize;

#[derive(Default)]
struct Memory(BTreeMap<&'static str, Bucket>);

impl Rows for Memory {
    fn for_each(&self, bucket: &str, each: &mut EachRow<'_>) -> Result<(), WriteError> {
        self.0.get(bucket).into_iter().flatten().try_for_each(|(key, value)| each(key, value))
    }
}

fn write(buckets: &[&str], rows: &dyn Rows) -> Result<Vec<u8>, WriteError> {
    let plan = Plan::new(buckets, rows)?;
    let mut file = Vec::new();
    plan.write(buckets, rows, &mut |bytes| {
        file.extend_from_slice(bytes);
        Ok(())
    })?;
    assert_eq!(plan.size(), file.len() as u64);
    Ok(file)
}

fn read(file: &[u8], bucket: &str) -> Result<Option<Bucket>, ReadError> {
    let reader = Reader::open(file)?;
    let Some(rows) = reader.bucket(bucket)? else { return Ok(None) };
    rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect::<Result<_, _>>().map(Some)
}

/// `count` rows; the length of a value is `value(i)`.
fn numbered(count: u64, value: impl Fn(u64) -> usize) -> Bucket {
    (0..count).map(|i| (i.to_be_bytes().to_vec(), vec![(i % 251) as u8; value(i)])).collect()
}

/// Ids, kinds and sizes of the data pages, in file order; fails on a gap or a thin branch.
fn check_layout(file: &[u8]) -> Vec<u16> {
    let mut kinds = Vec::new();
    let mut id = 0;
    while id * PAGE_SIZE < file.len() {
        let page = &file[id * PAGE_SIZE..];
        assert_eq!(u64::from_le_bytes(page[..8].try_into().unwrap()), id as u64);
        let flags = u16::from_le_bytes(page[8..10].try_into().unwrap());
        let count = u16::from_le_bytes(page[10..12].try_into().unwrap());
        assert!(flags != FLAG_BRANCH || count >= 2, "page {id} has {count} children");
        kinds.push(flags);
        id += 1 + u32::from_le_bytes(page[12..16].try_into().unwrap()) as usize;
    }
    assert_eq!(id * PAGE_SIZE, file.len());
    assert_eq!(kinds[..3], [FLAG_META, FLAG_META, FLAG_FREELIST]);
    kinds
}

#[test]
fn checksum_is_fnv1a() {
    assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    // The first meta page of a file that etcd 3.4.23 sent.
    let mut meta = Vec::new();
    [MAGIC, 2, 4096, 0].iter().for_each(|word| meta.extend_from_slice(&word.to_le_bytes()));
    [17, 0, u64::MAX, 18, 13].iter().for_each(|word: &u64| meta.extend_from_slice(&word.to_le_bytes()));
    assert_eq!(fnv1a(&meta), 4_987_244_474_144_419_085);
}

#[test]
fn what_is_written_is_read() {
    let shapes: [(u64, ValueLen); 8] = [
        (0, |_| 0),
        (1, |_| 0),
        (1, |_| 50_000),
        (2, |_| 4_050),
        (170, |_| 0),
        (3_000, |i| (i * 37 % 900) as usize),
        (500, |i| if i % 7 == 0 { 9_000 } else { 3 }),
        (60_000, |_| 20),
    ];
    for (count, value) in shapes {
        let bucket = numbered(count, value);
        let memory = Memory([("a", Vec::new()), ("b", bucket.clone())].into());
        let file = write(&["a", "b", "c"], &memory).unwrap();
        check_layout(&file);
        assert_eq!(Reader::open(&file[..]).unwrap().buckets().unwrap(), ["a", "b", "c"]);
        assert_eq!(read(&file, "b"), Ok(Some(bucket)), "{count}");
        assert_eq!(read(&file, "c"), Ok(Some(Vec::new())));
        assert_eq!(read(&file, "d"), Ok(None));
    }
}

#[test]
fn every_number_of_pages_makes_a_sound_tree() {
    // Long keys: three children fill a branch page, so trees are deep and carrying is frequent.
    for count in 0..90u64 {
        let key = |i: u64| [vec![b'k'; 1_400], i.to_be_bytes().to_vec()].concat();
        let bucket: Bucket = (0..count).map(|i| (key(i), vec![7; 3_000])).collect();
        let file = write(&["b"], &Memory([("b", bucket.clone())].into())).unwrap();
        let kinds = check_layout(&file);
        assert_eq!(kinds.contains(&FLAG_BRANCH), count > 1, "{count}");
        assert_eq!(read(&file, "b"), Ok(Some(bucket)), "{count}");
    }
}

#[test]
fn rows_that_make_no_file_are_refused() {
    let attempt = |bucket: Bucket| write(&["b"], &Memory([("b", bucket)].into())).map(|_| ());
    let order = |key: &[u8]| Err(WriteError::Order { bucket: "b".to_owned(), key: key.to_vec() });
    let row = |key: &str| (key.as_bytes().to_vec(), Vec::new());
    assert_eq!(attempt(vec![row("x"), row("x")]), order(b"x"));
    assert_eq!(attempt(vec![row("x"), row("w")]), order(b"w"));
    let size = |key| Err(WriteError::RowSize { bucket: "b".to_owned(), key, value: 0 });
    assert_eq!(attempt(vec![row("")]), size(0));
    assert_eq!(attempt(vec![row(&"x".repeat(32_769))]), size(32_769));
    let unsorted = write(&["b", "a"], &Memory::default()).map(|_| ());
    assert_eq!(unsorted, Err(WriteError::Order { bucket: String::new(), key: b"a".to_vec() }));
}

#[test]
fn a_source_that_changes_and_a_sink_that_fails_are_reported() {
    let before = Memory([("b", numbered(1_000, |_| 9))].into());
    let after = Memory([("b", numbered(1_200, |_| 9))].into());
    let plan = Plan::new(&["b"], &before).unwrap();
    assert_eq!(plan.write(&["b"], &after, &mut |_| Ok(())), Err(WriteError::Changed));
    let mut taken = 0;
    let result = plan.write(&["b"], &before, &mut |_| {
        taken += 1;
        if taken == 5 { Err(WriteError::Sink("gone".to_owned())) } else { Ok(()) }
    });
    assert_eq!((result, taken), (Err(WriteError::Sink("gone".to_owned())), 5));
}

#[test]
fn a_damaged_meta_page_is_survived_and_two_are_not() {
    let bucket = numbered(300, |_| 40);
    let good = write(&["b"], &Memory([("b", bucket.clone())].into())).unwrap();
    for page in [0, 1] {
        let mut file = good.clone();
        file[page * PAGE_SIZE + PAGE_HEADER + 20] ^= 1;
        assert_eq!(read(&file, "b"), Ok(Some(bucket.clone())));
    }
    let mut file = good.clone();
    file[PAGE_HEADER + 20] ^= 1;
    file[PAGE_SIZE + PAGE_HEADER + 20] ^= 1;
    let wrong = ReadError::Meta("the meta page's checksum is wrong".to_owned());
    assert_eq!(read(&file, "b"), Err(wrong));
    assert!(matches!(read(&good[..good.len() - 1], "b"), Err(ReadError::Meta(_))));
    assert!(matches!(read(&[], "b"), Err(ReadError::Meta(_))));
    assert!(matches!(read(b"#!/bin/sh\n".repeat(900).as_slice(), "b"), Err(ReadError::Meta(_))));
}

#[test]
fn corrupt_pages_are_named() {
    let good = write(&["b"], &Memory([("b", numbered(300, |_| 40))].into())).unwrap();
    let kinds = check_layout(&good);
    let branch = kinds.iter().position(|&kind| kind == FLAG_BRANCH).unwrap();
    let damage = |page: usize, at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[page * PAGE_SIZE + at..][..bytes.len()].copy_from_slice(bytes);
        match read(&file, "b") {
            Err(ReadError::Page { page, reason }) => (page as usize, reason),
            other => panic!("damage to page {page} at {at} gave {other:?}"),
        }
    };
    assert_eq!(damage(4, 0, &[9]), (4, "it says that it is page 9".to_owned()));
    assert_eq!(damage(4, 8, &[0x10]).0, 4);
    assert_eq!(damage(4, 10, &[0xff, 0xff]), (4, "65535 elements do not fit into it".to_owned()));
    assert_eq!(damage(4, 10, &[0, 0]), (branch, "a child without rows".to_owned()));
    assert_eq!(damage(4, 12, &[0xff, 0xff, 0xff, 0xff]).0, 4);
    assert_eq!(damage(4, PAGE_HEADER + 4, &[0xff, 0xff, 0xff, 0xff]).0, 4);
    assert_eq!(damage(4, PAGE_HEADER, &[1]), (4, "a bucket inside a bucket".to_owned()));
    // The second child becomes the first again, the branch itself, a meta page, a page behind the end.
    let child = PAGE_HEADER + ELEMENT + 8;
    assert_eq!(damage(branch, child, &[3]), (3, "its keys do not ascend".to_owned()));
    assert_eq!(damage(branch, child, &[branch as u8]), (3, "its keys do not ascend".to_owned()));
    assert_eq!(damage(branch, PAGE_HEADER + 8, &[branch as u8]), (branch, "the tree is too deep".to_owned()));
    assert_eq!(damage(branch, child, &[1]).0, 1);
    assert_eq!(damage(branch, child, &[250]).0, 250);
}

#[test]
fn no_damaged_byte_makes_the_reader_panic() {
    let good = write(&["a", "b"], &Memory([("b", numbered(300, |_| 10))].into())).unwrap();
    let mut file = good.clone();
    let mut refused = 0;
    // Every byte of headers and first elements, a sample of the rest.
    for at in (0..good.len()).filter(|at| at % PAGE_SIZE < 80 || at % 61 == 0) {
        for flip in [0x01, 0xff] {
            file[at] ^= flip;
            refused += usize::from(read(&file, "b").is_err());
            file[at] ^= flip;
        }
    }
    assert_eq!(file, good);
    assert!(refused > 100, "only {refused} damaged files were refused");
}

#[test]
fn rows_have_the_bytes_that_etcd_stored() {
    let kv = |key: &str, value: &str, create_revision, mod_revision, version, lease| KeyValue {
        key: Bytes::copy_from_slice(key.as_bytes()),
        create_revision,
        mod_revision,
        version,
        value: Bytes::copy_from_slice(value.as_bytes()),
        lease,
    };
    for (kv, bytes) in [
        (kv("foo", "bar2", 2, 3, 2, 0), &b"\n\x03foo\x10\x02\x18\x03 \x02*\x04bar2"[..]),
        (
            kv("l1", "x", 6, 6, 1, 0x5315_a1fb_63d1_b909),
            b"\n\x02l1\x10\x06\x18\x06 \x01*\x01x0\x89\xf2\xc6\x9e\xb6\xbf\xe8\x8aS",
        ),
        (kv("gone", "", 0, 0, 0, 0), b"\n\x04gone"),
    ] {
        assert_eq!(rows::encode_key_value(&kv), bytes);
        assert_eq!(rows::decode_key_value(&Bytes::copy_from_slice(bytes)), Ok(kv));
    }

    let lease = LeaseRow { id: 0x5315_a1fb_63d1_b909, ttl: 1000, remaining: 0 };
    let bytes = b"\x08\x89\xf2\xc6\x9e\xb6\xbf\xe8\x8aS\x10\xe8\x07";
    assert_eq!(rows::encode_lease(lease), bytes);
    assert_eq!(rows::decode_lease(bytes), Ok(lease));
    assert_eq!(rows::lease_key(lease.id), [0x53, 0x15, 0xa1, 0xfb, 0x63, 0xd1, 0xb9, 0x09]);

    let member = Member {
        id: 13_049_071_153_751_544_597,
        name: "a".to_owned(),
        peer_urls: vec!["http://127.0.0.1:24380".to_owned()],
        client_urls: vec!["http://127.0.0.1:24379".to_owned()],
        is_learner: false,
    };
    let json = br#"{"id":13049071153751544597,"peerURLs":["http://127.0.0.1:24380"],"name":"a","clientURLs":["http://127.0.0.1:24379"]}"#;
    assert_eq!(rows::encode_member(&member), json);
    assert_eq!(rows::decode_member(json), Ok(member.clone()));
    assert_eq!(rows::member_key(member.id), "b5179d13d0285315");
    assert_eq!(rows::parse_member_key(b"b5179d13d0285315"), Some(member.id));
    let learner = Member { is_learner: true, name: String::new(), client_urls: vec![], ..member };
    assert_eq!(rows::decode_member(&rows::encode_member(&learner)), Ok(learner));
}

#[test]
fn keys_of_rows_round_trip() {
    let revision = Revision::new(0x0102, 3);
    let key = rows::revision_key(revision, false);
    assert_eq!(key, [0, 0, 0, 0, 0, 0, 1, 2, b'_', 0, 0, 0, 0, 0, 0, 0, 3]);
    assert_eq!(rows::parse_revision_key(&key), Some((revision, false)));
    let tombstone = rows::revision_key(revision, true);
    assert_eq!(tombstone, [&key[..], b"t"].concat());
    assert_eq!(rows::parse_revision_key(&tombstone), Some((revision, true)));
    for bad in [&key[..16], &[&key[..], b"x"].concat(), &[0; 17], &[&tombstone[..], b"t"].concat()] {
        assert_eq!(rows::parse_revision_key(bad), None);
    }
    for alarm in [AlarmKind::NoSpace, AlarmKind::Corrupt] {
        assert_eq!(rows::parse_alarm_key(&rows::alarm_key(u64::MAX - 5, alarm)), Ok((u64::MAX - 5, alarm)));
    }
    assert!(rows::parse_alarm_key(b"").is_err());
}

#[test]
fn messages_pass_over_unknown_fields_and_refuse_cut_ones() {
    // Field 9 with each wire type, then the TTL.
    let bytes = b"\x48\x01\x49\0\0\0\0\0\0\0\0\x4a\x02hi\x4d\0\0\0\0\x10\x05";
    assert_eq!(rows::decode_lease(bytes), Ok(LeaseRow { ttl: 5, ..LeaseRow::default() }));
    let negative = LeaseRow { id: -7, ttl: i64::MIN, remaining: i64::MAX };
    assert_eq!(rows::decode_lease(&rows::encode_lease(negative)), Ok(negative));
    for cut in [&b"\x08"[..], b"\x08\x80", b"\x0a\x05abc", b"\x0b", &[0x80; 11]] {
        assert!(rows::decode_lease(cut).is_err(), "{cut:x?}");
    }
}

#[test]
fn a_checksum_shows_in_the_length() {
    assert!(has_checksum(73_760));
    assert!(!has_checksum(73_728));
}
