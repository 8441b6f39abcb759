//! The bytes of a segment: its header and its batches. Pure functions, little-endian throughout.
//!
//! ```text
//! segment  header | header again | batch | batch | ... | zeros, or bytes of an older segment
//!          each part starts on a sector (512 bytes) and is filled up to one
//! header   magic 8, version 4, seq 8, cluster 8, member 8, term 8, vote 8, commit 8,
//!          log start: index 8, term 8, previous segment: batches 8, chain 4, crc 4
//! batch    head | entries | trailer
//! head     magic 4, crc 4 (of what follows in the head), seq 8, number 8, chain 4, segment 4,
//!          flags 4, count 4, length 8, log start: index 8, term 8, previous term 8,
//!          term 8, vote 8, commit 8
//! entry    term 8, index 8, length 8, kind 4, crc 4 (of the entry but for this field), data
//! trailer  count x (term 8, index 8, offset 8, crc 4), term 8, vote 8, commit 8, count 4, magic 4,
//!          crc 4 (of the head and of the trailer up to here)
//! ```
//!
//! A batch's `chain` is the crc of the batch before it (of the segment's header for the first), and
//! `segment` is the crc of the segment's header, so bytes that a recycled file still holds are never
//! taken for new ones. Lengths are acted upon only after the crc that covers them agreed, so no bound
//! on the size of an entry is needed and none can make a log unreadable (etcd #14098). The trailer
//! names each entry apart from the entry itself: damage to one still tells which it was (CTRL,
//! FAST'18, section 3.3).

use bytes::{Buf, BufMut, Bytes};

use super::disk::SECTOR;
use super::{Append, EntryId, EntryKind, HardState, LogEntry, LogStart, Metadata};

/// The format that this build writes and the only one that it reads.
pub(super) const VERSION: u32 = 1;
/// Where a segment's first batch begins: after two copies of the header.
pub(super) const BATCHES_OFFSET: u64 = 2 * SECTOR;
/// The length of a segment's header; the rest of its sector is zeros.
const SEGMENT_HEADER_LEN: usize = 92;
/// The length of a batch's head.
pub(super) const HEAD_LEN: usize = 96;
pub(super) const ENTRY_HEAD_LEN: usize = 32;
const ROW_LEN: usize = 28;
const TRAILER_TAIL_LEN: usize = 36;

const SEGMENT_MAGIC: &[u8; 8] = b"CAIRNWAL";
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"CBAT");
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"CEND");

/// The batch carries [`Append::log_start`].
const FLAG_LOG_START: u32 = 1;
/// The segment is full and another one follows it.
const FLAG_END: u32 = 2;

/// Rounds up to whole sectors.
pub(super) const fn sectors(len: u64) -> u64 {
    len.next_multiple_of(SECTOR)
}

/// What a segment says about itself, written once before it gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) seq: u64,
    pub(super) metadata: Metadata,
    pub(super) hard_state: HardState,
    /// The last entry before this segment.
    pub(super) log_start: LogStart,
    /// How many batches the segment before has, the end marker not counted.
    pub(super) previous_batches: u64,
    /// The chain after the last of them.
    pub(super) previous_chain: u32,
}

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderDamage {
    Bytes,
    Version(u32),
}

impl SegmentHeader {
    /// One sector, and the crc that seeds the segment's chain.
    pub(super) fn encode(&self) -> (Vec<u8>, u32) {
        let mut out = Vec::with_capacity(SECTOR as usize);
        out.put_slice(SEGMENT_MAGIC);
        out.put_u32_le(VERSION);
        out.put_u64_le(self.seq);
        out.put_u64_le(self.metadata.cluster_id);
        out.put_u64_le(self.metadata.member_id);
        put_hard_state(&mut out, &self.hard_state);
        out.put_u64_le(self.log_start.index);
        out.put_u64_le(self.log_start.term);
        out.put_u64_le(self.previous_batches);
        out.put_u32_le(self.previous_chain);
        let crc = crc32fast::hash(&out);
        out.put_u32_le(crc);
        assert_eq!(out.len(), SEGMENT_HEADER_LEN);
        out.resize(SECTOR as usize, 0);
        (out, crc)
    }

    /// The inverse of [`SegmentHeader::encode`].
    pub(super) fn decode(sector: &[u8]) -> Result<(Self, u32), HeaderDamage> {
        let mut bytes = sector.get(..SEGMENT_HEADER_LEN).ok_or(HeaderDamage::Bytes)?;
        let computed = crc32fast::hash(&bytes[..SEGMENT_HEADER_LEN - 4]);
        if &bytes[..8] != SEGMENT_MAGIC {
            return Err(HeaderDamage::Bytes);
        }
        bytes.advance(8);
        let version = bytes.get_u32_le();
        let header = Self {
            seq: bytes.get_u64_le(),
            metadata: Metadata { cluster_id: bytes.get_u64_le(), member_id: bytes.get_u64_le() },
            hard_state: take_hard_state(&mut bytes),
            log_start: LogStart { index: bytes.get_u64_le(), term: bytes.get_u64_le() },
            previous_batches: bytes.get_u64_le(),
            previous_chain: bytes.get_u32_le(),
        };
        let crc = bytes.get_u32_le();
        if crc != computed {
            return Err(HeaderDamage::Bytes);
        }
        if version != VERSION {
            return Err(HeaderDamage::Version(version));
        }
        Ok((header, crc))
    }
}

/// Where a batch stands: what ties it to the bytes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) seq: u64,
    /// The crc of the segment's header.
    pub(super) segment: u32,
    /// The batch's place in the segment, from 0.
    pub(super) number: u64,
    /// The crc of the batch before.
    pub(super) chain: u32,
}

/// The fixed part at the start of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHead {
    pub(super) link: Link,
    pub(super) flags: u32,
    pub(super) count: u32,
    /// The whole batch without the filling to a sector.
    pub(super) len: u64,
    pub(super) log_start: LogStart,
    /// The term of the entry before the first of this batch.
    pub(super) previous_term: u64,
    pub(super) hard_state: HardState,
}

impl BatchHead {
    /// The head at the start of `bytes`, when its crc agrees.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = bytes.get(..HEAD_LEN)?;
        let (magic, crc) = (bytes.get_u32_le(), bytes.get_u32_le());
        if magic != BATCH_MAGIC || crc != crc32fast::hash(bytes) {
            return None;
        }
        let (seq, number) = (bytes.get_u64_le(), bytes.get_u64_le());
        let (chain, segment) = (bytes.get_u32_le(), bytes.get_u32_le());
        let head = Self {
            link: Link { seq, segment, number, chain },
            flags: bytes.get_u32_le(),
            count: bytes.get_u32_le(),
            len: bytes.get_u64_le(),
            log_start: LogStart { index: bytes.get_u64_le(), term: bytes.get_u64_le() },
            previous_term: bytes.get_u64_le(),
            hard_state: take_hard_state(&mut bytes),
        };
        let least = HEAD_LEN + TRAILER_TAIL_LEN + head.count as usize * (ENTRY_HEAD_LEN + ROW_LEN);
        (head.len >= least as u64).then_some(head)
    }

    pub(super) fn encode(&self) -> [u8; HEAD_LEN] {
        let mut out = Vec::with_capacity(HEAD_LEN);
        out.put_u32_le(BATCH_MAGIC);
        out.put_u32_le(0);
        out.put_u64_le(self.link.seq);
        out.put_u64_le(self.link.number);
        out.put_u32_le(self.link.chain);
        out.put_u32_le(self.link.segment);
        out.put_u32_le(self.flags);
        out.put_u32_le(self.count);
        out.put_u64_le(self.len);
        out.put_u64_le(self.log_start.index);
        out.put_u64_le(self.log_start.term);
        out.put_u64_le(self.previous_term);
        put_hard_state(&mut out, &self.hard_state);
        let crc = crc32fast::hash(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out.try_into().expect("the fields fill the head")
    }

    /// Where the log begins anew, if the batch says so.
    pub(super) fn new_log_start(&self) -> Option<LogStart> {
        (self.flags & FLAG_LOG_START != 0).then_some(self.log_start)
    }

    /// Whether the batch says that its segment is full.
    pub(super) fn is_end(&self) -> bool {
        self.flags & FLAG_END != 0
    }
}

/// Whether `bytes`, which hold no head whose crc agrees, look like what is left of the head that
/// `link` describes. Only for the report: stale bytes and zeros are the common case and no damage.
pub(super) fn resembles(bytes: &[u8], link: &Link) -> bool {
    let Some(mut bytes) = bytes.get(..HEAD_LEN) else { return false };
    let magic = bytes.get_u32_le() == BATCH_MAGIC;
    bytes.advance(4);
    let seq = bytes.get_u64_le() == link.seq;
    let number = bytes.get_u64_le() == link.number;
    let chain = bytes.get_u32_le() == link.chain;
    let segment = bytes.get_u32_le() == link.segment;
    [magic, seq, number, chain, segment].into_iter().filter(|same| *same).count() >= 3
}

/// A batch as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) append: Append,
    /// The chain after this batch.
    pub(super) chain: u32,
}

/// Why a batch was refused, and which entry it was when the trailer could still tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BatchDamage {
    pub(super) what: &'static str,
    pub(super) entry: Option<EntryId>,
}

/// What [`encode_batch`] will write for the append.
pub(super) fn batch_len(append: &Append) -> u64 {
    let data: usize = append.entries.iter().map(|entry| entry.data.len()).sum();
    (HEAD_LEN + append.entries.len() * (ENTRY_HEAD_LEN + ROW_LEN) + data + TRAILER_TAIL_LEN) as u64
}

/// Appends the batch to `out`, filled up to a whole sector; returns the chain after it.
///
/// `hard_state` is what holds once the batch is durable: every batch carries it twice, so the vote
/// outlives the damage of any one sector.
pub(super) fn encode_batch(
    out: &mut Vec<u8>,
    link: &Link,
    append: &Append,
    hard_state: &HardState,
    previous_term: u64,
    end: bool,
) -> u32 {
    let start = out.len();
    let len = batch_len(append) as usize;
    let count = u32::try_from(append.entries.len()).expect("a batch has fewer than 2^32 entries");
    out.reserve(len + SECTOR as usize);

    let log_start_flag = if append.log_start.is_some() { FLAG_LOG_START } else { 0 };
    let head = BatchHead {
        link: *link,
        flags: log_start_flag | if end { FLAG_END } else { 0 },
        count,
        len: len as u64,
        log_start: append.log_start.unwrap_or_default(),
        previous_term,
        hard_state: *hard_state,
    };
    let head = head.encode();
    out.put_slice(&head);
    let mut rows = Vec::with_capacity(append.entries.len());
    for entry in &append.entries {
        let offset = (out.len() - start) as u64;
        let crc = encode_entry(out, entry);
        rows.push(Row { id: EntryId { term: entry.term, index: entry.index }, offset, crc });
    }
    let (trailer, chain) = encode_trailer(&head, &rows, hard_state);
    out.put_slice(&trailer);
    assert_eq!(out.len() - start, len);
    out.resize(start + sectors(len as u64) as usize, 0);
    chain
}

/// An entry with its head, and the checksum of both.
pub(super) fn encode_entry(out: &mut Vec<u8>, entry: &LogEntry) -> u32 {
    let at = out.len();
    out.put_u64_le(entry.term);
    out.put_u64_le(entry.index);
    out.put_u64_le(entry.data.len() as u64);
    out.put_u32_le(entry.kind as u32);
    let crc = entry_crc(&out[at..], &entry.data);
    out.put_u32_le(crc);
    out.put_slice(&entry.data);
    crc
}

/// What a batch's trailer says of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: EntryId,
    /// Where the entry is, from the start of the batch.
    pub(super) offset: u64,
    pub(super) crc: u32,
}

impl Row {
    fn take(bytes: &mut &[u8]) -> Self {
        let id = EntryId { term: bytes.get_u64_le(), index: bytes.get_u64_le() };
        Self { id, offset: bytes.get_u64_le(), crc: bytes.get_u32_le() }
    }
}

/// The trailer that goes with an encoded head, and the chain after the batch.
pub(super) fn encode_trailer(head: &[u8], rows: &[Row], hard_state: &HardState) -> (Vec<u8>, u32) {
    let mut out = Vec::with_capacity(trailer_len(rows.len()));
    for row in rows {
        out.put_u64_le(row.id.term);
        out.put_u64_le(row.id.index);
        out.put_u64_le(row.offset);
        out.put_u32_le(row.crc);
    }
    put_hard_state(&mut out, hard_state);
    out.put_u32_le(u32::try_from(rows.len()).expect("a batch has fewer than 2^32 entries"));
    out.put_u32_le(TRAILER_MAGIC);
    let chain = batch_crc(head, &out);
    out.put_u32_le(chain);
    (out, chain)
}

/// The rows and the hard state of a trailer of `count` entries that ends where `bytes` do, whether or
/// not its checksum agrees; `None` when there is no room for it.
pub(super) fn read_trailer(bytes: &[u8], count: usize) -> Option<(Vec<Row>, HardState)> {
    let start = bytes.len().checked_sub(trailer_len(count))?;
    let mut rest = &bytes[start..];
    let rows = (0..count).map(|_| Row::take(&mut rest)).collect();
    Some((rows, take_hard_state(&mut rest)))
}

/// The places at the end of `bytes`, which hold one batch and its filling, where the batch may end,
/// each with the count of entries that stands there.
pub(super) fn possible_ends(bytes: &[u8]) -> Vec<(usize, usize)> {
    let from = bytes.len().saturating_sub(SECTOR as usize) + 1;
    (from.max(HEAD_LEN + TRAILER_TAIL_LEN)..=bytes.len())
        .filter_map(|end| {
            let mut tail = &bytes[end - 12..end];
            let (count, magic) = (tail.get_u32_le(), tail.get_u32_le());
            (magic == TRAILER_MAGIC).then_some((end, count as usize))
        })
        .collect()
}

pub(super) const fn trailer_len(count: usize) -> usize {
    count * ROW_LEN + TRAILER_TAIL_LEN
}

/// The batch in `bytes`, which are exactly `head.len` long; `head` was decoded from them.
pub(super) fn decode_batch(bytes: &Bytes, head: &BatchHead) -> Result<Batch, BatchDamage> {
    let damage = |what| BatchDamage { what, entry: None };
    let count = head.count as usize;
    let trailer_len = trailer_len(count);
    assert!(bytes.len() as u64 == head.len, "the caller read the whole batch");
    let trailer_start = bytes.len() - trailer_len;
    let (body, trailer) = bytes.split_at(trailer_start);
    let (covered, crc) = trailer.split_at(trailer_len - 4);
    let chain = batch_crc(&body[..HEAD_LEN], covered);
    if crc != chain.to_le_bytes() {
        return Err(damage("the batch's trailer does not agree with its checksum"));
    }
    let (mut rows, mut tail) = covered.split_at(count * ROW_LEN);
    let hard_state = take_hard_state(&mut tail);
    if hard_state != head.hard_state || tail.get_u32_le() != head.count || tail.get_u32_le() != TRAILER_MAGIC
    {
        return Err(damage("the batch's head and trailer contradict each other"));
    }

    let mut entries = Vec::with_capacity(count);
    let mut at = HEAD_LEN;
    for _ in 0..count {
        let Row { id, offset, crc } = Row::take(&mut rows);
        let (entry, next, own_crc) =
            decode_entry(bytes, at, trailer_start).map_err(|what| BatchDamage { what, entry: Some(id) })?;
        let contiguous =
            entries.last().is_none_or(|before: &LogEntry| before.index.checked_add(1) == Some(id.index));
        let same = (entry.term, entry.index, own_crc) == (id.term, id.index, crc);
        if !same || offset != at as u64 || !contiguous {
            return Err(BatchDamage {
                what: "an entry is not the one that the trailer names",
                entry: Some(id),
            });
        }
        entries.push(entry);
        at = next;
    }
    if at != trailer_start {
        return Err(damage("the batch's entries do not fill it"));
    }
    let log_start = head.new_log_start();
    Ok(Batch { append: Append { log_start, entries, hard_state: Some(hard_state) }, chain })
}

/// The entry at `at`, where the next one starts, and its checksum, which agrees.
pub(super) fn decode_entry(
    bytes: &Bytes,
    at: usize,
    end: usize,
) -> Result<(LogEntry, usize, u32), &'static str> {
    const BROKEN: &str = "an entry does not agree with its checksum";
    let head = bytes[..end].get(at..).and_then(|rest| rest.get(..ENTRY_HEAD_LEN)).ok_or(BROKEN)?;
    let (covered, mut rest) = (&head[..ENTRY_HEAD_LEN - 4], head);
    let (term, index, len) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le());
    let (kind, crc) = (rest.get_u32_le(), rest.get_u32_le());
    let start = at + ENTRY_HEAD_LEN;
    let next = usize::try_from(len).ok().and_then(|len| start.checked_add(len)).filter(|next| *next <= end);
    let next = next.ok_or(BROKEN)?;
    if entry_crc(covered, &bytes[start..next]) != crc {
        return Err(BROKEN);
    }
    let kind = match kind {
        0 => EntryKind::Normal,
        1 => EntryKind::ConfChange,
        _ => return Err("an entry has a kind that this version does not know"),
    };
    Ok((LogEntry { term, index, kind, data: bytes.slice(start..next) }, next, crc))
}

fn entry_crc(head: &[u8], data: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(data);
    crc.finalize()
}

fn batch_crc(head: &[u8], trailer: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(trailer);
    crc.finalize()
}

fn put_hard_state(out: &mut Vec<u8>, state: &HardState) {
    out.put_u64_le(state.term);
    out.put_u64_le(state.vote);
    out.put_u64_le(state.commit);
}

fn take_hard_state(bytes: &mut &[u8]) -> HardState {
    HardState { term: bytes.get_u64_le(), vote: bytes.get_u64_le(), commit: bytes.get_u64_le() }
}
