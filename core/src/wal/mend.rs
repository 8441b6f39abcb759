//! What can still be told of a batch that was durable and is damaged now (CTRL, FAST'18).
//!
//! A batch says everything but its data twice: the head and the trailer both hold the hard state, and
//! each entry's identity stands before the entry and in the trailer. Whatever one copy lost is taken
//! from the other. The batch after it holds the checksum of this one's head and trailer, so a copy
//! that was put together from pieces is known to be the one that was written, or is refused.
//!
//! Never guesses: an entry whose bytes are gone becomes a [`Hole`], with a checksum that only the same
//! bytes can meet. Without that checksum there is no hole and no mending.

use bytes::Bytes;

use super::codec::{
    self, Batch, BatchHead, ENTRY_HEAD_LEN, HEAD_LEN, Link, Row, decode_entry, encode_trailer, trailer_len,
};
use super::extent::Extent;
use super::{Append, EntryId, HardState, LogEntry};

/// An entry whose identity is known and whose bytes are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) id: EntryId,
    /// Where the entry is, from the start of the batch.
    pub(super) offset: u64,
    /// How long its data is.
    pub(super) data_len: u64,
    pub(super) crc: u32,
}

/// A batch with both copies of what it says of itself; the entries of its holes have no data.
#[derive(Clone, Debug)]
pub(super) struct Mended {
    pub(super) head: BatchHead,
    pub(super) batch: Batch,
    pub(super) holes: Vec<Hole>,
    /// The bytes of the head and of the trailer as they were written.
    pub(super) head_bytes: [u8; HEAD_LEN],
    pub(super) trailer_bytes: Vec<u8>,
}

/// Puts the batch at the start of `bytes` together again. `bytes` reach to the next batch; `next` is
/// the chain that the next batch holds, if it can be read. `extent` is the log before this batch.
pub(super) fn mend(bytes: &Bytes, link: &Link, next: Option<u32>, extent: &Extent) -> Option<Mended> {
    if let Some(head) = BatchHead::decode(bytes).filter(|head| head.link == *link) {
        let end = usize::try_from(head.len).ok().filter(|end| *end <= bytes.len())?;
        let batch = bytes.slice(..end);
        let (stored, _) = codec::read_trailer(&batch, head.count as usize)?;
        let rows = rows(&batch, &stored);
        // The trailer as it stands, or with the identities that stand before the entries.
        return [&stored, &rows].into_iter().find_map(|rows| {
            let (_, chain) = encode_trailer(&head.encode(), rows, &head.hard_state);
            let own = chain.to_le_bytes() == batch[end - 4..];
            (next == Some(chain) || next.is_none() && own).then(|| assemble(&batch, head, rows))?
        });
    }
    // Only an ordinary batch can be told from its end: the others say more in the head than anywhere.
    let next = next?;
    codec::possible_ends(bytes).into_iter().find_map(|(end, count)| {
        let batch = bytes.slice(..end);
        let (stored, hard_state) = codec::read_trailer(&batch, count)?;
        let first = stored.first().map(|row| row.id);
        let head = BatchHead {
            link: *link,
            flags: 0,
            count: u32::try_from(count).ok()?,
            len: end as u64,
            log_start: Default::default(),
            previous_term: previous_term(first, extent)?,
            hard_state,
        };
        let (_, chain) = encode_trailer(&head.encode(), &stored, &hard_state);
        (chain == next).then(|| assemble(&batch, head, &stored))?
    })
}

/// The rows of a trailer, taken from the entries themselves where those are whole.
fn rows(batch: &Bytes, stored: &[Row]) -> Vec<Row> {
    let end = batch.len() - trailer_len(stored.len());
    let mut at = HEAD_LEN;
    let mut rows = Vec::with_capacity(stored.len());
    for row in stored {
        match decode_entry(batch, at, end) {
            Ok((entry, next, crc)) => {
                let id = EntryId { term: entry.term, index: entry.index };
                rows.push(Row { id, offset: at as u64, crc });
                at = next;
            }
            Err(_) => {
                rows.push(*row);
                // The next one's place is in the trailer only.
                at = stored.get(rows.len()).map_or(end, |next| next.offset as usize);
            }
        }
    }
    rows
}

fn previous_term(first: Option<EntryId>, extent: &Extent) -> Option<u64> {
    let entry = first.map(|id| LogEntry { term: id.term, index: id.index, ..LogEntry::default() });
    extent.previous_term(&Append { entries: entry.into_iter().collect(), ..Append::default() })
}

/// The batch by rows that are known to be right.
fn assemble(bytes: &Bytes, head: BatchHead, rows: &[Row]) -> Option<Mended> {
    let end = bytes.len() - trailer_len(rows.len());
    let head_bytes = head.encode();
    let (trailer_bytes, chain) = encode_trailer(&head_bytes, rows, &head.hard_state);
    let (mut entries, mut holes) = (Vec::with_capacity(rows.len()), Vec::new());
    for (place, row) in rows.iter().enumerate() {
        let at = usize::try_from(row.offset).ok()?;
        let next = rows.get(place + 1).map_or(end as u64, |next| next.offset);
        let data_len = next.checked_sub(row.offset + ENTRY_HEAD_LEN as u64)?;
        let EntryId { term, index } = row.id;
        match decode_entry(bytes, at, end) {
            Ok((entry, _, crc)) if (entry.term, entry.index, crc) == (term, index, row.crc) => {
                entries.push(entry);
            }
            _ => {
                holes.push(Hole { id: row.id, offset: row.offset, data_len, crc: row.crc });
                entries.push(LogEntry { term, index, ..LogEntry::default() });
            }
        }
    }
    let hard_state: HardState = head.hard_state;
    let append = Append { log_start: head.new_log_start(), entries, hard_state: Some(hard_state) };
    Some(Mended { head, batch: Batch { append, chain }, holes, head_bytes, trailer_bytes })
}
