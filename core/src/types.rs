//! The vocabulary that every other module shares: identifiers, revisions, key ranges, key-value
//! pairs and events.
//!
//! Invariant: these are plain data. They know nothing of storage, consensus or the wire.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A member's identifier; never zero (zero means "none" wherever an etcd message carries one).
pub type MemberId = u64;
/// A cluster's identifier.
pub type ClusterId = u64;
/// A lease's identifier; zero means "no lease".
pub type LeaseId = i64;
/// A Raft term.
pub type Term = u64;
/// A Raft log index.
pub type Index = u64;

/// A point in the store's history: the main revision of a transaction and the position of one
/// change inside it. An empty store is at main revision 1; the first write is 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision {
    /// The transaction's revision, which clients see.
    pub main: i64,
    /// The change's position inside the transaction, from 0.
    pub sub: i64,
}

impl Revision {
    /// The length of [`Revision::to_bytes`].
    pub const ENCODED_LEN: usize = 16;

    /// A revision from its parts.
    pub const fn new(main: i64, sub: i64) -> Self {
        Self { main, sub }
    }

    /// Big-endian bytes, so that byte order is revision order (revisions are never negative).
    pub fn to_bytes(self) -> [u8; Self::ENCODED_LEN] {
        let mut out = [0; Self::ENCODED_LEN];
        out[..8].copy_from_slice(&self.main.to_be_bytes());
        out[8..].copy_from_slice(&self.sub.to_be_bytes());
        out
    }

    /// The inverse of [`Revision::to_bytes`]; `None` when the length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let main = i64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
        let sub = i64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?);
        (bytes.len() == Self::ENCODED_LEN).then_some(Self { main, sub })
    }
}

/// A set of keys as etcd's API names it with `key` and `range_end`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum KeyRange {
    /// Exactly one key (`range_end` empty).
    Single(Bytes),
    /// Keys in `start..end`; empty when `end <= start`.
    HalfOpen(Bytes, Bytes),
    /// Every key at or after `start` (`range_end` is one zero byte).
    From(Bytes),
}

impl KeyRange {
    /// Reads `key` and `range_end` by etcd's conventions (inventory A-KV-10).
    pub fn new(key: Bytes, range_end: Bytes) -> Self {
        if range_end.is_empty() {
            Self::Single(key)
        } else if range_end.as_ref() == [0] {
            Self::From(key)
        } else {
            Self::HalfOpen(key, range_end)
        }
    }

    /// The first key that may be in the range.
    pub fn start(&self) -> &Bytes {
        match self {
            Self::Single(key) | Self::HalfOpen(key, _) | Self::From(key) => key,
        }
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Single(only) => only.as_ref() == key,
            Self::HalfOpen(start, end) => start.as_ref() <= key && key < end.as_ref(),
            Self::From(start) => start.as_ref() <= key,
        }
    }

    /// Whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::HalfOpen(start, end) if end <= start)
    }
}

/// A key with its value and metadata, as a client sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Main revision of the creation since the last deletion.
    pub create_revision: i64,
    /// Main revision of the latest change.
    pub mod_revision: i64,
    /// Number of changes since the creation, from 1; 0 in the event of a deletion.
    pub version: i64,
    /// The value, opaque.
    pub value: Bytes,
    /// The attached lease, or 0.
    pub lease: LeaseId,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// The key was written.
    Put,
    /// The key was deleted, by request or by the end of its lease.
    Delete,
}

/// One change as a watcher sees it. For a deletion `kv` has only the key and `mod_revision`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key after the change.
    pub kv: KeyValue,
    /// The key before the change, if the watcher asked for it and it is not compacted.
    pub prev_kv: Option<KeyValue>,
}
