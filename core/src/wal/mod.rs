//! The write-ahead log: what Raft must not forget, made durable one group commit at a time.
//!
//! [`Wal`] owns the segments of one directory behind [`Disk`]. An append is one batch and one sync;
//! after a crash a batch is there wholly or not at all. Reading happens once, in [`Wal::open`].
//!
//! Invariants: what a returned append held is there after every crash, and the hard state never goes
//! back. A batch that was torn by a crash is cut; a batch that was durable and is damaged now is never
//! cut but reported, because cutting it would break a promise that peers count on (CTRL, FAST'18). The
//! two differ in that a batch is written only after the one before it was synced: damage before a
//! later batch is rot. [`Wal::seal`] gives the last batch such a successor when the member is idle.
//! Rot is mended as far as a second copy of what it hit is there; an entry whose bytes are gone but
//! whose identity is known is reported, and written again with [`Wal::repair`].
//! A failed write or sync is final: the kernel may have dropped the data and would report success the
//! next time (ATC'20), so the log refuses everything after it.

mod codec;
mod disk;
mod extent;
mod log;
mod mem_disk;
mod mend;
mod replay;
#[cfg(test)]
mod tests;

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::disk::{Disk, DiskFile, SECTOR};
pub use self::log::Wal;
pub use self::mem_disk::{MemDisk, MemFile};

/// What a member promised: Raft's persistent state but for the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term that the member has seen.
    pub term: u64,
    /// Whom it voted for in that term; 0 for nobody.
    pub vote: u64,
    /// The last index that it knows to be committed.
    pub commit: u64,
}

/// What an entry's data is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum EntryKind {
    /// A command, or nothing (a new leader's first entry).
    #[default]
    Normal = 0,
    /// A change of the membership.
    ConfChange = 1,
}

/// One entry of the Raft log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The term of the leader that created it.
    pub term: u64,
    /// Its place in the log, from 1.
    pub index: u64,
    /// What `data` is.
    pub kind: EntryKind,
    /// The log does not look into it.
    pub data: Bytes,
}

impl LogEntry {
    /// About what the entry takes in memory and on the wire, in bytes.
    pub fn size(&self) -> usize {
        self.data.len() + 32
    }
}

/// Whose log this is; fixed for its life and written into every segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The cluster.
    pub cluster_id: u64,
    /// The member.
    pub member_id: u64,
}

/// The entry that the log begins after; (0, 0) for a log that holds everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStart {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// One group commit: durable wholly or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Append {
    /// The log now begins after this entry (bootstrap, a snapshot was installed). Every entry that was
    /// appended before is void, those above the index too. Takes effect before `entries`.
    pub log_start: Option<LogStart>,
    /// Contiguous. A first index at or below the last one of the log replaces the log from there on.
    pub entries: Vec<LogEntry>,
    /// The new hard state; `None` leaves it as it is.
    pub hard_state: Option<HardState>,
}

/// What an append took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendStats {
    /// Bytes written, the filling to a sector included.
    pub bytes: u64,
}

/// How a log writes. The same log may be opened with other options each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalOptions {
    /// Where a segment ends. A single append that is larger still gets a segment of its own.
    pub segment_bytes: u64,
    /// False trades the promises for speed (etcd's `--unsafe-no-fsync`).
    pub fsync: bool,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, fsync: true }
    }
}

/// What [`Wal::open`] found at the end of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TailReport {
    /// The log ends after a whole batch.
    #[default]
    Clean,
    /// A batch whose append never returned was there in part, and was cut off.
    Torn {
        /// The last segment.
        file: String,
        /// Where the batch began.
        offset: u64,
        /// What was wrong with it.
        what: &'static str,
    },
}

/// What a log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Whose log it is; the caller compares it with its own identity.
    pub metadata: Metadata,
    /// The entry before the first of `entries`. The caller must check that it has applied and flushed
    /// that index: if not, segments are missing at the front.
    pub log_start: LogStart,
    /// The last one that was appended.
    pub hard_state: HardState,
    /// Contiguous, from `log_start.index + 1`.
    pub entries: Vec<LogEntry>,
    /// How the log ended.
    pub tail: TailReport,
    /// The entries whose bytes are gone, in order; those of `entries` have their term and index and no
    /// data. To be written again with [`Wal::repair`].
    pub damaged: Vec<Damaged>,
}

/// An entry that was durable and whose bytes are damaged now, with what is still known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Which entry.
    pub id: EntryId,
    /// How long its data is.
    pub data_len: u64,
    /// The checksum that its bytes must meet.
    pub crc: u32,
    /// The segment that it is in.
    pub file: String,
    /// Where in it.
    pub offset: u64,
}

impl Damaged {
    /// What is known of `entry` once its bytes, which began there, are gone.
    pub fn of(entry: &LogEntry, file: &str, offset: u64) -> Self {
        Self {
            id: EntryId { term: entry.term, index: entry.index },
            data_len: entry.data.len() as u64,
            crc: codec::encode_entry(&mut Vec::new(), entry),
            file: file.to_owned(),
            offset,
        }
    }

    /// Whether `entry` is the one that was there, to the last bit of its checksum.
    pub fn is(&self, entry: &LogEntry) -> bool {
        Self::of(entry, &self.file, self.offset) == *self
    }

    /// The same as an error, for a member that nobody can help.
    pub fn error(&self) -> WalError {
        WalError::corrupt(&self.file, self.offset, "an entry does not agree with its checksum", Some(self.id))
    }
}

/// An entry's identity without its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryId {
    /// The entry's term.
    pub term: u64,
    /// The entry's index.
    pub index: u64,
}

/// Why the log cannot be used. Each of them ends the process: nothing can be promised without a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// The disk refused.
    #[error("write-ahead log: cannot {op} {file}: {text}; check the disk and its free space, then restart")]
    Io {
        /// The file, or `.` for the directory.
        file: String,
        /// What was tried.
        op: &'static str,
        /// The kind of the error, [`io::ErrorKind::StorageFull`] above all.
        kind: io::ErrorKind,
        /// The error in the system's words.
        text: String,
    },
    /// Something that was durable is damaged or gone.
    #[error(
        "write-ahead log: {file} is damaged at offset {offset}: {what}{}; remove this member and add it \
         again with an empty data directory; its peers hold the data (a cluster of one member must be \
         restored from a snapshot)",
        entry_text(.entry)
    )]
    Corrupt {
        /// The segment.
        file: String,
        /// Where in it.
        offset: u64,
        /// What was found.
        what: String,
        /// The first entry that is lost, when it is still known.
        entry: Option<EntryId>,
    },
    /// A segment was written by another version.
    #[error(
        "write-ahead log: {file} has format version {found}, this build reads version 1 only; run the version of Cairn that wrote it"
    )]
    Version {
        /// The segment.
        file: String,
        /// Its format version.
        found: u32,
    },
    /// [`Wal::create`] found segments.
    #[error("write-ahead log: {file} exists already; open it, or start with an empty data directory")]
    Exists {
        /// One of them.
        file: String,
    },
    /// [`Wal::open`] found no segment.
    #[error("write-ahead log: the directory holds no segment; check the path of the data directory")]
    Missing,
    /// Segments of two logs are in one directory.
    #[error(
        "write-ahead log: {file} belongs to member {:x} of cluster {:x}, the segments before it to member {:x} \
         of cluster {:x}; move the files that were copied here away",
        .found.member_id, .found.cluster_id, .expected.member_id, .expected.cluster_id
    )]
    MetadataMismatch {
        /// The first segment that differs.
        file: String,
        /// Whose the segments before it are.
        expected: Metadata,
        /// Whose this one is.
        found: Metadata,
    },
    /// An earlier failure left it unknown what is durable.
    #[error("write-ahead log: refused after an earlier failure ({cause}); restart the member")]
    Poisoned {
        /// That failure.
        cause: String,
    },
}

fn entry_text(entry: &Option<EntryId>) -> String {
    match entry {
        Some(EntryId { term, index }) => format!(" (entry at index {index}, term {term})"),
        None => String::new(),
    }
}

impl WalError {
    fn io(file: &str, op: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { file: file.to_owned(), op, kind: error.kind(), text: error.to_string() }
    }

    fn corrupt(file: &str, offset: u64, what: impl Into<String>, entry: Option<EntryId>) -> Self {
        Self::Corrupt { file: file.to_owned(), offset, what: what.into(), entry }
    }
}
