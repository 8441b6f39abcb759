//! The bytes of the store's rows.
//!
//! A *history* row is one change: what became of a key at a revision. An *index* row is where a key
//! stands now: its latest revision with the same metadata and the length of its value. Both open with a
//! format byte and a byte of flags; numbers are LEB128, and what is zero most of the time is left out.
//! Decoding slices the row, so a value is never copied.
//!
//! **Invariant:** decoding returns exactly what was encoded, or a [`Fatal`] that names the row.

use bytes::Bytes;

use crate::backend::Table;
use crate::error::Fatal;
use crate::types::{KeyValue, LeaseId, Revision};

/// Of a history row, and of an index row that was written before it told the value's length.
const FORMAT: u8 = 1;
/// Of an index row.
const INDEX_FORMAT: u8 = 2;
const TOMBSTONE: u8 = 1;
const PREV: u8 = 2;
const LEASE: u8 = 4;
const FLAGS: u8 = TOMBSTONE | PREV | LEASE;

/// What a row says about a key beside its value. A tombstone's numbers are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) create_revision: i64,
    pub(super) version: i64,
    pub(super) lease: LeaseId,
    pub(super) tombstone: bool,
    /// The key's previous change, a deletion included. The row there may be compacted.
    pub(super) prev: Option<Revision>,
}

impl Meta {
    /// The key's previous *live* version: none on a creation, even after an earlier deletion.
    pub(super) fn prev_live(&self) -> Option<Revision> {
        if self.tombstone || self.version > 1 { self.prev } else { None }
    }
}

/// A history row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) meta: Meta,
}

/// A history row where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordRef<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) meta: Meta,
}

/// An index row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexRow {
    pub(super) latest: Revision,
    pub(super) meta: Meta,
    /// The length of the value at the latest revision, where the row tells it.
    pub(super) value_len: Option<u32>,
}

fn put_number(out: &mut Vec<u8>, number: i64) {
    let mut rest = number as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn put_revision(out: &mut Vec<u8>, revision: Revision) {
    put_number(out, revision.main);
    put_number(out, revision.sub);
}

fn put_meta(out: &mut Vec<u8>, format: u8, meta: &Meta) {
    let flag = |on: bool, flag| if on { flag } else { 0 };
    out.push(format);
    out.push(
        flag(meta.tombstone, TOMBSTONE) | flag(meta.prev.is_some(), PREV) | flag(meta.lease != 0, LEASE),
    );
    if !meta.tombstone {
        put_number(out, meta.create_revision);
        put_number(out, meta.version);
    }
    if let Some(prev) = meta.prev {
        put_revision(out, prev);
    }
    if meta.lease != 0 {
        out.extend_from_slice(&meta.lease.to_le_bytes());
    }
}

/// Seven bits in each byte.
const NUMBER_BYTES_MAX: usize = 10;

/// What is left of a row to decode.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    #[inline]
    fn number(&mut self) -> Option<i64> {
        let mut number = 0_u64;
        for (at, byte) in self.0.iter().enumerate().take(NUMBER_BYTES_MAX) {
            number |= u64::from(byte & 0x7f) << (7 * at);
            if *byte < 0x80 {
                self.0 = &self.0[at + 1..];
                return i64::try_from(number).ok();
            }
        }
        None
    }

    fn revision(&mut self) -> Option<Revision> {
        Some(Revision::new(self.number()?, self.number()?))
    }

    /// What follows the format byte.
    fn meta(&mut self) -> Option<Meta> {
        let flags = self.byte()?;
        if flags & !FLAGS != 0 {
            return None;
        }
        let mut meta = Meta { tombstone: flags & TOMBSTONE != 0, ..Meta::default() };
        if !meta.tombstone {
            meta.create_revision = self.number()?;
            meta.version = self.number()?;
        }
        if flags & PREV != 0 {
            meta.prev = Some(self.revision()?);
        }
        if flags & LEASE != 0 {
            meta.lease = i64::from_le_bytes(self.take(8)?.try_into().ok()?);
        }
        let sound = if meta.tombstone { meta.prev.is_some() } else { meta.version > 0 };
        sound.then_some(meta)
    }
}

/// The report of a row that does not decode.
pub(super) fn corrupt(table: Table, key: &[u8], what: &str) -> Fatal {
    Fatal(format!(
        "the state database is corrupt: table {table:?}, key {}: {what}; restore the member from a snapshot, \
         or remove it from the cluster, delete its data directory and add it again",
        key.escape_ascii()
    ))
}

impl Record {
    /// A history row's bytes.
    pub(super) fn encode(key: &[u8], value: &[u8], meta: &Meta) -> Bytes {
        let mut out = Vec::with_capacity(40 + key.len() + value.len());
        put_meta(&mut out, FORMAT, meta);
        put_number(&mut out, key.len() as i64);
        out.extend_from_slice(key);
        out.extend_from_slice(value);
        Bytes::from(out)
    }

    /// The history row at `revision`.
    pub(super) fn decode(revision: &[u8], row: &Bytes) -> Result<Self, Fatal> {
        let RecordRef { key, value, meta } = RecordRef::decode(revision, row)?;
        Ok(Self { key: row.slice_ref(key), value: row.slice_ref(value), meta })
    }

    /// The change as a client sees it: of a deletion, the key and its revision.
    pub(super) fn into_key_value(self, mod_revision: i64) -> KeyValue {
        KeyValue {
            key: self.key,
            create_revision: self.meta.create_revision,
            mod_revision,
            version: self.meta.version,
            value: self.value,
            lease: self.meta.lease,
        }
    }
}

impl<'a> RecordRef<'a> {
    /// The history row at `revision`.
    pub(super) fn decode(revision: &[u8], row: &'a [u8]) -> Result<Self, Fatal> {
        let decode = || {
            let mut cursor = Cursor(row);
            if cursor.byte()? != FORMAT {
                return None;
            }
            let meta = cursor.meta()?;
            let key_len = usize::try_from(cursor.number()?).ok()?;
            let (key, value) = (cursor.take(key_len)?, cursor.0);
            let sound = !key.is_empty() && (!meta.tombstone || value.is_empty());
            sound.then_some(Self { key, value, meta })
        };
        decode().ok_or_else(|| corrupt(Table::History, revision, "not a change"))
    }
}

impl IndexRow {
    /// An index row's bytes.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(40);
        put_meta(&mut out, if self.value_len.is_some() { INDEX_FORMAT } else { FORMAT }, &self.meta);
        put_revision(&mut out, self.latest);
        if let Some(value_len) = self.value_len {
            put_number(&mut out, i64::from(value_len));
        }
        Bytes::from(out)
    }

    /// The index row of `key`.
    pub(super) fn decode(key: &[u8], row: &[u8]) -> Result<Self, Fatal> {
        let decode = || {
            let mut cursor = Cursor(row);
            let format = cursor.byte()?;
            let (meta, latest) = (cursor.meta()?, cursor.revision()?);
            let value_len = match format {
                FORMAT => None,
                INDEX_FORMAT => Some(u32::try_from(cursor.number()?).ok()?),
                _ => return None,
            };
            cursor.0.is_empty().then_some(Self { latest, meta, value_len })
        };
        decode().ok_or_else(|| corrupt(Table::Index, key, "not an index row"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn any_meta(rng: &mut Rng) -> Meta {
        let number = |rng: &mut Rng| (rng.next_u64() >> (1 + rng.below(63))) as i64;
        let prev = Some(Revision::new(number(rng), number(rng)));
        if rng.chance(1, 4) {
            return Meta { tombstone: true, prev, ..Meta::default() };
        }
        Meta {
            create_revision: number(rng),
            version: number(rng).max(1),
            lease: if rng.chance(1, 2) { rng.next_u64() as i64 } else { 0 },
            tombstone: false,
            prev: prev.filter(|_| rng.chance(1, 2)),
        }
    }

    #[test]
    fn rows_survive_encoding_and_torn_rows_do_not() {
        for seed in 0..2000 {
            let mut rng = Rng::new(seed);
            let value_len = rng.chance(3, 4).then(|| rng.below(1 << 21) as u32);
            let row = IndexRow { latest: Revision::new(seed as i64, 7), meta: any_meta(&mut rng), value_len };
            let bytes = row.encode();
            assert_eq!(IndexRow::decode(b"k", &bytes).unwrap(), row);
            for cut in 0..bytes.len() {
                assert!(IndexRow::decode(b"k", &bytes[..cut]).is_err());
            }
            let meta = any_meta(&mut rng);
            let value: &[u8] = if meta.tombstone { b"" } else { b"value" };
            let bytes = Record::encode(b"key", value, &meta);
            let record = Record::decode(b"r", &bytes).unwrap();
            assert_eq!((&record.key[..], &record.value[..], record.meta), (&b"key"[..], value, meta));
        }
    }

    #[test]
    fn the_report_names_the_row() {
        let error = IndexRow::decode(b"a\xff", b"\x03\x00").unwrap_err();
        assert!(error.0.contains("table Index") && error.0.contains("a\\xff"), "{error}");
        assert!(Record::decode(b"r", &Bytes::from_static(b"\x01\x08")).is_err());
    }

    /// Stored rows outlive versions of the program: these bytes may only change with [`FORMAT`].
    #[test]
    fn the_format_is_pinned() {
        let meta = Meta {
            create_revision: 300,
            version: 2,
            lease: 5,
            tombstone: false,
            prev: Some(Revision::new(301, 1)),
        };
        let record = Record::encode(b"k", b"v", &meta);
        assert_eq!(&record[..], b"\x01\x06\xac\x02\x02\xad\x02\x01\x05\0\0\0\0\0\0\0\x01kv");
        let row = IndexRow { latest: Revision::new(302, 0), meta, value_len: Some(300) };
        let bytes = b"\x02\x06\xac\x02\x02\xad\x02\x01\x05\0\0\0\0\0\0\0\xae\x02\0\xac\x02";
        assert_eq!(&row.encode()[..], bytes);
        let earlier = b"\x01\x06\xac\x02\x02\xad\x02\x01\x05\0\0\0\0\0\0\0\xae\x02\0";
        assert_eq!(IndexRow::decode(b"k", earlier).unwrap(), IndexRow { value_len: None, ..row });
    }
}
