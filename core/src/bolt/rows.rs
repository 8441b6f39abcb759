//! What etcd 3.4 keeps in which bucket: the encodings of keys and values, both ways.
//!
//! Values are protobuf messages (mvccpb.KeyValue, leasepb.Lease, etcdserverpb.AlarmMember), written by
//! hand because there are three small ones, and JSON for members. As in proto3, a field that is zero is
//! left out, and an unknown field is passed over.
//!
//! Invariant: `decode(encode(x)) == x`; no input makes a decoder panic.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::api::{AlarmKind, Member};
use crate::types::{KeyValue, LeaseId, MemberId, Revision};

/// Every bucket of an etcd 3.4 database, ascending. All of them must exist, even if empty.
pub const BUCKETS: [&str; 10] = [
    "alarm",
    "auth",
    "authRoles",
    "authUsers",
    "cluster",
    "key",
    "lease",
    "members",
    "members_removed",
    "meta",
];

/// Key in bucket `cluster`: the version as text, such as `3.4.0`.
pub const CLUSTER_VERSION: &[u8] = b"clusterVersion";
/// Key in bucket `meta`: the applied index, 8 bytes big-endian.
pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
/// Key in bucket `meta`: the term of the applied index, 8 bytes big-endian (3.5 and later).
pub const TERM: &[u8] = b"term";
/// Key in bucket `meta`: the compaction that was last begun, a 17-byte revision.
pub const SCHEDULED_COMPACT: &[u8] = b"scheduledCompactRev";
/// Key in bucket `meta`: the compaction that was last finished, a 17-byte revision.
pub const FINISHED_COMPACT: &[u8] = b"finishedCompactRev";
/// Key in bucket `auth`: the auth revision, 8 bytes big-endian; 1 when auth was never touched.
pub const AUTH_REVISION: &[u8] = b"authRevision";
/// The value of every row of bucket `members_removed`.
pub const REMOVED: &[u8] = b"removed";

/// Key in bucket `key`: main and sub revision, big-endian, with `_` between them, and a `t` behind a
/// deletion.
pub fn revision_key(revision: Revision, tombstone: bool) -> Vec<u8> {
    let mut key = Vec::with_capacity(18);
    key.extend_from_slice(&revision.main.to_be_bytes());
    key.push(b'_');
    key.extend_from_slice(&revision.sub.to_be_bytes());
    if tombstone {
        key.push(b't');
    }
    key
}

/// The inverse of [`revision_key`]; `None` when the bytes are no such key.
pub fn parse_revision_key(key: &[u8]) -> Option<(Revision, bool)> {
    let (revision, mark) = key.split_at_checked(17)?;
    let tombstone = match mark {
        [] => false,
        [b't'] => true,
        _ => return None,
    };
    let main = i64::from_be_bytes(revision[..8].try_into().ok()?);
    let sub = i64::from_be_bytes(revision[9..].try_into().ok()?);
    (revision[8] == b'_').then_some((Revision::new(main, sub), tombstone))
}

/// Value in bucket `key`. A deletion's value has the key alone: every other field zero.
pub fn encode_key_value(kv: &KeyValue) -> Vec<u8> {
    let mut out = Vec::with_capacity(kv.key.len() + kv.value.len() + 40);
    put_bytes(&mut out, 1, &kv.key);
    put_int(&mut out, 2, kv.create_revision);
    put_int(&mut out, 3, kv.mod_revision);
    put_int(&mut out, 4, kv.version);
    put_bytes(&mut out, 5, &kv.value);
    put_int(&mut out, 6, kv.lease);
    out
}

/// The inverse of [`encode_key_value`]; key and value share the buffer.
///
/// # Errors
/// The bytes are no protobuf message.
pub fn decode_key_value(bytes: &Bytes) -> Result<KeyValue, String> {
    let mut kv = KeyValue::default();
    fields(bytes, |field, value| match (field, value) {
        (1, Field::Bytes(key)) => kv.key = bytes.slice_ref(key),
        (2, Field::Int(n)) => kv.create_revision = n,
        (3, Field::Int(n)) => kv.mod_revision = n,
        (4, Field::Int(n)) => kv.version = n,
        (5, Field::Bytes(value)) => kv.value = bytes.slice_ref(value),
        (6, Field::Int(n)) => kv.lease = n,
        _ => {}
    })?;
    Ok(kv)
}

/// A lease as etcd stores it, in seconds; `remaining` is 0 unless leases are checkpointed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LeaseRow {
    pub id: LeaseId,
    pub ttl: i64,
    pub remaining: i64,
}

/// Key in bucket `lease`.
pub fn lease_key(id: LeaseId) -> [u8; 8] {
    id.to_be_bytes()
}

/// Value in bucket `lease`.
pub fn encode_lease(lease: LeaseRow) -> Vec<u8> {
    let mut out = Vec::new();
    put_int(&mut out, 1, lease.id);
    put_int(&mut out, 2, lease.ttl);
    put_int(&mut out, 3, lease.remaining);
    out
}

/// The inverse of [`encode_lease`].
///
/// # Errors
/// The bytes are no protobuf message.
pub fn decode_lease(bytes: &[u8]) -> Result<LeaseRow, String> {
    let mut lease = LeaseRow::default();
    fields(bytes, |field, value| match (field, value) {
        (1, Field::Int(n)) => lease.id = n,
        (2, Field::Int(n)) => lease.ttl = n,
        (3, Field::Int(n)) => lease.remaining = n,
        _ => {}
    })?;
    Ok(lease)
}

/// Key in bucket `alarm`; its value is empty.
pub fn alarm_key(member: MemberId, alarm: AlarmKind) -> Vec<u8> {
    let mut out = Vec::new();
    put_int(&mut out, 1, member.cast_signed());
    put_int(&mut out, 2, if alarm == AlarmKind::NoSpace { 1 } else { 2 });
    out
}

/// The inverse of [`alarm_key`].
///
/// # Errors
/// The bytes are no protobuf message, or the alarm is none of the two.
pub fn parse_alarm_key(key: &[u8]) -> Result<(MemberId, AlarmKind), String> {
    let (mut member, mut alarm) = (0, 0);
    fields(key, |field, value| match (field, value) {
        (1, Field::Int(n)) => member = n.cast_unsigned(),
        (2, Field::Int(n)) => alarm = n,
        _ => {}
    })?;
    match alarm {
        1 => Ok((member, AlarmKind::NoSpace)),
        2 => Ok((member, AlarmKind::Corrupt)),
        other => Err(format!("unknown alarm {other}")),
    }
}

/// Key in buckets `members` and `members_removed`: lower-case hexadecimal without leading zeros. Their
/// order is therefore not the order of ids.
pub fn member_key(id: MemberId) -> String {
    format!("{id:x}")
}

/// The inverse of [`member_key`].
pub fn parse_member_key(key: &[u8]) -> Option<MemberId> {
    MemberId::from_str_radix(std::str::from_utf8(key).ok()?, 16).ok()
}

/// A member's JSON, with etcd's names and order of fields.
#[derive(Serialize, Deserialize)]
struct MemberJson {
    id: MemberId,
    #[serde(rename = "peerURLs")]
    peer_urls: Option<Vec<String>>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    client_urls: Vec<String>,
}

/// Value in bucket `members`.
pub fn encode_member(member: &Member) -> Vec<u8> {
    let json = MemberJson {
        id: member.id,
        peer_urls: Some(member.peer_urls.clone()),
        is_learner: member.is_learner,
        name: member.name.clone(),
        client_urls: member.client_urls.clone(),
    };
    serde_json::to_vec(&json).expect("strings and numbers always encode")
}

/// The inverse of [`encode_member`].
///
/// # Errors
/// The bytes are no such JSON.
pub fn decode_member(bytes: &[u8]) -> Result<Member, String> {
    let json: MemberJson = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(Member {
        id: json.id,
        name: json.name,
        peer_urls: json.peer_urls.unwrap_or_default(),
        client_urls: json.client_urls,
        is_learner: json.is_learner,
    })
}

const WIRE_VARINT: u64 = 0;
const WIRE_FIXED64: u64 = 1;
const WIRE_BYTES: u64 = 2;
const WIRE_FIXED32: u64 = 5;

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    out.push(n.to_le_bytes()[0]);
}

fn put_int(out: &mut Vec<u8>, field: u64, n: i64) {
    if n != 0 {
        put_varint(out, field << 3 | WIRE_VARINT);
        put_varint(out, n.cast_unsigned());
    }
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_varint(out, field << 3 | WIRE_BYTES);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// A field's value, as far as these messages need it.
enum Field<'a> {
    Int(i64),
    Bytes(&'a [u8]),
    Other,
}

/// Hands the number and value of every field to `each`.
fn fields<'a>(mut bytes: &'a [u8], mut each: impl FnMut(u64, Field<'a>)) -> Result<(), String> {
    while !bytes.is_empty() {
        let tag = take_varint(&mut bytes)?;
        let value = match tag & 7 {
            WIRE_VARINT => Field::Int(take_varint(&mut bytes)?.cast_signed()),
            WIRE_BYTES => {
                let len = take_varint(&mut bytes)?;
                Field::Bytes(take(&mut bytes, len)?)
            }
            WIRE_FIXED64 => take(&mut bytes, 8).map(|_| Field::Other)?,
            WIRE_FIXED32 => take(&mut bytes, 4).map(|_| Field::Other)?,
            wire => return Err(format!("protobuf wire type {wire}")),
        };
        each(tag >> 3, value);
    }
    Ok(())
}

fn take<'a>(bytes: &mut &'a [u8], len: u64) -> Result<&'a [u8], String> {
    let split = usize::try_from(len).ok().and_then(|len| bytes.split_at_checked(len));
    let (head, rest) = split.ok_or("a protobuf field is cut off")?;
    *bytes = rest;
    Ok(head)
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(n);
        }
    }
    Err("a protobuf number is too long".to_owned())
}
