//! etcd's HashKV: a checksum over the history, byte for byte what etcd computes over its own rows, so
//! that the two can be compared after a migration (inventory A-M-04, E-05).
//!
//! **Invariant:** the hash depends on the logical state alone. Rows that a compaction has yet to
//! remove are left out by looking at what the key was at the compact revision.

use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use super::record::{Record, corrupt};
use super::view::StoreView;
use crate::backend::Table;
use crate::error::{Error, Fatal};
use crate::types::{KeyRange, Revision};

/// A hash with what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C of the rows.
    pub hash: u32,
    /// The compact revision; -1 if there was no compaction.
    pub compact_revision: i64,
    /// The revision up to which rows are covered.
    pub hash_revision: i64,
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(tag);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

fn put_number(out: &mut Vec<u8>, tag: u8, number: i64) {
    if number != 0 {
        out.push(tag);
        put_varint(out, number as u64);
    }
}

/// A row as etcd stores it: its key of 17 bytes (18 for a tombstone) and the protobuf of its value.
fn etcd_row(out: &mut Vec<u8>, revision: Revision, record: &Record) {
    out.clear();
    out.extend_from_slice(&revision.main.to_be_bytes());
    out.push(b'_');
    out.extend_from_slice(&revision.sub.to_be_bytes());
    if record.meta.tombstone {
        out.push(b't');
    }
    put_bytes(out, 0x0a, &record.key);
    if !record.meta.tombstone {
        put_number(out, 0x10, record.meta.create_revision);
        put_number(out, 0x18, revision.main);
        put_number(out, 0x20, record.meta.version);
        put_bytes(out, 0x2a, &record.value);
        put_number(out, 0x30, record.meta.lease);
    }
}

impl StoreView {
    /// The hash of the history up to `revision` (0 for now).
    ///
    /// # Errors
    /// The outer error is the environment's, the inner one the client's.
    pub fn hash_kv(&self, revision: i64) -> Result<Result<HashKv, Error>, Fatal> {
        if let Err(error) = self.check_revision(revision) {
            return Ok(Err(error));
        }
        let hash_revision = if revision == 0 { self.revision() } else { revision };
        if hash_revision < 0 {
            // Before all history: etcd hashes nothing.
            let (hash, compact_revision) = (crc32c::crc32c(b"key"), self.compact_revision());
            return Ok(Ok(HashKv { hash, compact_revision, hash_revision }));
        }
        let mut any_live = false;
        self.visit(&KeyRange::From(Bytes::new()), hash_revision, None, |_, _| {
            any_live = true;
            Ok(ControlFlow::Break(()))
        })?;
        let (mut hash, mut out) = (crc32c::crc32c(b"key"), Vec::new());
        let end = Revision::new(hash_revision, i64::MAX).to_bytes();
        for row in self.rows.range(Table::History, Bound::Unbounded, Bound::Included(&end))? {
            let (key, row) = row?;
            let at = Revision::from_bytes(&key)
                .ok_or_else(|| corrupt(Table::History, &key, "the key is no revision"))?;
            let record = Record::decode(&key, &row)?;
            if at.main > self.compact_revision() || self.covers(at, &record, hash_revision, any_live)? {
                etcd_row(&mut out, at, &record);
                hash = crc32c::crc32c_append(hash, &out);
            }
        }
        let compact_revision = self.compact_revision();
        Ok(Ok(HashKv { hash, compact_revision, hash_revision }))
    }

    /// Of the rows at or below the compact revision etcd covers those that are still a key's live
    /// version at the hash's revision; but if no key at all is live there, all that the compaction
    /// has kept.
    fn covers(&self, at: Revision, record: &Record, revision: i64, any_live: bool) -> Result<bool, Fatal> {
        let moment = if any_live { revision } else { self.compact_revision() };
        let Some(row) = self.index(&record.key)? else { return Ok(false) };
        Ok(self.version_at(row, moment)?.is_some_and(|version| version.at == at))
    }
}
