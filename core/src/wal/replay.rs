//! Reading a log back, once, when it is opened.
//!
//! Every segment but the last is vouched for by the header of the next, which counts its batches and
//! holds the chain after them: whatever does not verify there is rot. In the last segment the first
//! batch that does not verify is the end. If a batch of the same segment stands after it, that one
//! was written after this one's sync had returned, so this one is rot too; if none does, it is a torn
//! write and is cut. Nothing but the entries is kept in memory beyond one batch.
//!
//! What a crashed process had written may be in the kernel's cache and not on the disk, and after a
//! failed sync the cache calls such data clean (ATC'20). So the last batch, the only one that may be
//! in that state, is written again with the same bytes and synced before anybody acts on it.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use bytes::Bytes;

use super::codec::{
    self, BATCHES_OFFSET, Batch, BatchHead, HEAD_LEN, HeaderDamage, Link, SegmentHeader, sectors,
};
use super::disk::{Disk, DiskFile, SECTOR};
use super::extent::Extent;
use super::log::{
    Active, Segment, parse_segment_name, segment_name, segment_names, void_replaced, write_zeros,
};
use super::mend::{Hole, Mended, mend};
use super::{Damaged, EntryId, HardState, Recovered, TailReport, WalError};
use crate::planted::{self, Bug};

/// How much of a segment is looked through at a time.
const SCAN_BYTES: usize = 64 << 10;

/// A log that was read back and repaired.
#[derive(Debug)]
pub(super) struct Replayed<F> {
    pub(super) recovered: Recovered,
    pub(super) extent: Extent,
    pub(super) full: VecDeque<Segment>,
    pub(super) active: Active<F>,
    pub(super) sealed: bool,
}

/// A segment's file and what its header says.
struct Opened<F> {
    name: String,
    file: F,
    len: u64,
    header: SegmentHeader,
    crc: u32,
}

/// What stands where a batch may begin.
enum Found {
    Batch {
        raw: Bytes,
        head: BatchHead,
        batch: Batch,
    },
    /// Zeros, or what an older segment left.
    Nothing,
    /// Something of this segment; `len` when the batch's head is whole.
    Damaged {
        what: &'static str,
        entry: Option<EntryId>,
        len: Option<u64>,
    },
}

/// Whether a member that promised `before` may promise `after`.
pub(super) fn may_follow(before: &HardState, after: &HardState) -> bool {
    let vote_kept = after.term > before.term || before.vote == 0 || before.vote == after.vote;
    after.term >= before.term && after.commit >= before.commit && vote_kept
}

/// Reads the log of the directory and repairs its end.
pub(super) fn replay<D: Disk>(disk: &D, fsync: bool) -> Result<Replayed<D::File>, WalError> {
    if fsync {
        // A name that was seen must not be gone after the next crash.
        disk.sync_dir().map_err(WalError::io(".", "sync"))?;
    }
    let names = segment_names(disk).map_err(WalError::io(".", "list"))?;
    let mut segments = Vec::with_capacity(names.len());
    for name in names {
        let segment = open_segment(disk, name, fsync)?;
        check_order(segments.last(), &segment)?;
        segments.push(segment);
    }
    let first = segments.first().ok_or(WalError::Missing)?;
    let mut state = State {
        recovered: Recovered {
            metadata: first.header.metadata,
            log_start: first.header.log_start,
            hard_state: first.header.hard_state,
            ..Recovered::default()
        },
        extent: Extent::empty(first.header.log_start),
        full: VecDeque::new(),
        holes: BTreeMap::new(),
    };
    let last = segments.pop().expect("there is a first");
    for (at, segment) in segments.iter().enumerate() {
        let next = &segments.get(at + 1).unwrap_or(&last).header;
        state.read_full(segment, next, fsync)?;
    }
    drop(segments);
    state.read_last(last, fsync)
}

struct State {
    recovered: Recovered,
    extent: Extent,
    full: VecDeque<Segment>,
    /// By index; only of entries that are part of the log.
    holes: BTreeMap<u64, Damaged>,
}

impl State {
    /// Reads a segment that another one follows.
    fn read_full<F: DiskFile>(
        &mut self,
        opened: &Opened<F>,
        next: &SegmentHeader,
        fsync: bool,
    ) -> Result<(), WalError> {
        let mut segment = opened.segment();
        let (mut offset, mut link) = (BATCHES_OFFSET, opened.link());
        while link.number < next.previous_batches {
            let (what, entry) = match opened.batch_at(offset, &link)? {
                Found::Batch { head, batch, .. } if !head.is_end() => {
                    self.apply(&opened.name, offset, &head, &batch, &mut segment)?;
                    (offset, link) = (offset + sectors(head.len), link.after(&batch));
                    continue;
                }
                Found::Damaged { what, entry, .. } => {
                    (format!("{what}, in a segment that another one follows"), entry)
                }
                Found::Batch { .. } | Found::Nothing => {
                    let what = format!(
                        "batch {} of {} is missing, in a segment that another one follows",
                        link.number + 1,
                        next.previous_batches
                    );
                    (what, None)
                }
            };
            let last = link.number + 1 == next.previous_batches;
            let chain = last.then_some(next.previous_chain);
            (offset, link) = self
                .mend(opened, offset, &link, chain, &mut segment, fsync)?
                .ok_or_else(|| WalError::corrupt(&opened.name, offset, what, entry))?;
        }
        let same_end = link.chain == next.previous_chain
            && self.recovered.hard_state == next.hard_state
            && self.extent.last == next.log_start;
        if !same_end {
            let what = "the segment ends in another state than the one that follows begins with";
            return Err(WalError::corrupt(&opened.name, offset, what, None));
        }
        self.full.push_back(segment);
        Ok(())
    }

    /// Reads the last segment, and cuts what a crash left at its end.
    fn read_last<F: DiskFile>(mut self, opened: Opened<F>, fsync: bool) -> Result<Replayed<F>, WalError> {
        let mut segment = opened.segment();
        let (mut offset, mut link) = (BATCHES_OFFSET, opened.link());
        let mut sealed = true;
        let mut last_batch = None;
        let (what, len) = loop {
            let end = match opened.batch_at(offset, &link)? {
                Found::Batch { raw, head, batch } => {
                    if head.is_end() {
                        let missing = segment_name(opened.header.seq + 1, self.extent.last.index + 1);
                        let what = format!("the file is missing, {} says that it follows", opened.name);
                        return Err(WalError::corrupt(&missing, 0, what, None));
                    }
                    sealed = batch.append.log_start.is_none()
                        && batch.append.entries.is_empty()
                        && head.hard_state == self.recovered.hard_state;
                    self.apply(&opened.name, offset, &head, &batch, &mut segment)?;
                    last_batch = Some((offset, raw));
                    (offset, link) = (offset + sectors(head.len), link.after(&batch));
                    continue;
                }
                end => end,
            };
            let (what, entry, len) = match end {
                Found::Damaged { what, entry, len } => (Some(what), entry, len),
                Found::Nothing | Found::Batch { .. } => (None, None, None),
            };
            let scan_from = offset + len.map_or(0, sectors);
            let later = opened.later_batch(scan_from, &link)?;
            let Some((later, number)) = later.filter(|_| !planted::on(Bug::WalCutsAtRot)) else {
                break (what, len);
            };
            let what = format!(
                "{}, and batch {} at offset {later} was written after batch {} was durable",
                what.unwrap_or("a batch is missing"),
                number + 1,
                link.number + 1
            );
            (offset, link) = self
                .mend(&opened, offset, &link, None, &mut segment, fsync)?
                .ok_or_else(|| WalError::corrupt(&opened.name, offset, what, entry))?;
            // The batch that told it apart from a torn one follows it.
            last_batch = None;
        };

        let io = |op| WalError::io(&opened.name, op);
        if let Some((offset, raw)) = &last_batch {
            opened.file.write_all_at(*offset, raw).map_err(io("write"))?;
        }
        if let Some(what) = what {
            let cut = (offset + len.map_or(SECTOR, sectors)).min(opened.len);
            write_zeros(&opened.file, offset, cut).map_err(io("cut"))?;
            self.recovered.tail = TailReport::Torn { file: opened.name.clone(), offset, what };
        }
        if fsync {
            opened.file.sync_data().map_err(io("sync"))?;
        }
        let active = Active { file: opened.file, segment, len: opened.len, offset, link };
        self.recovered.damaged = self.holes.into_values().collect();
        Ok(Replayed { recovered: self.recovered, extent: self.extent, full: self.full, active, sealed })
    }

    /// Takes in a batch that was durable and is damaged, and restores what it says of itself; where
    /// the next one is. `chain` is what follows it when nothing in the segment does.
    fn mend<F: DiskFile>(
        &mut self,
        opened: &Opened<F>,
        offset: u64,
        link: &Link,
        chain: Option<u32>,
        segment: &mut Segment,
        fsync: bool,
    ) -> Result<Option<(u64, Link)>, WalError> {
        let next = opened.batch_after(offset + SECTOR, link)?;
        let end = match &next {
            Some((next, _)) => *next,
            None => {
                let head = BatchHead::decode(&opened.read(offset, HEAD_LEN)?);
                offset + sectors(head.filter(|head| head.link == *link).map_or(SECTOR, |head| head.len))
            }
        };
        if end > opened.len {
            return Ok(None);
        }
        let bytes = Bytes::from(opened.read(offset, (end - offset) as usize)?);
        let chain = next.map(|(_, chain)| chain).or(chain);
        let Some(mended) = mend(&bytes, link, chain, &self.extent) else { return Ok(None) };
        let Mended { head, batch, holes, head_bytes, trailer_bytes } = mended;
        self.apply(&opened.name, offset, &head, &batch, segment)?;
        for hole in holes {
            let at = offset + hole.offset;
            let Hole { id, data_len, crc, .. } = hole;
            let damaged = Damaged { id, data_len, crc, file: opened.name.clone(), offset: at };
            self.holes.insert(id.index, damaged);
        }
        let io = |op| WalError::io(&opened.name, op);
        let trailer = offset + head.len - trailer_bytes.len() as u64;
        opened.file.write_all_at(offset, &head_bytes).map_err(io("write"))?;
        opened.file.write_all_at(trailer, &trailer_bytes).map_err(io("write"))?;
        if fsync {
            opened.file.sync_data().map_err(io("sync"))?;
        }
        Ok(Some((offset + sectors(head.len), link.after(&batch))))
    }

    /// Takes a batch in as [`super::Wal::append`] did.
    fn apply(
        &mut self,
        file: &str,
        offset: u64,
        head: &BatchHead,
        batch: &Batch,
        segment: &mut Segment,
    ) -> Result<(), WalError> {
        let append = &batch.append;
        let entry = append.entries.first().map(|entry| EntryId { term: entry.term, index: entry.index });
        let corrupt = |what| WalError::corrupt(file, offset, what, entry);
        if !may_follow(&self.recovered.hard_state, &head.hard_state) {
            return Err(corrupt("the hard state goes back"));
        }
        // With the first segments released, entries may be replaced that this log never saw.
        let first = append.entries.first().map_or(u64::MAX, |entry| entry.index);
        let replaces_all = append.log_start.is_none() && first <= self.extent.start.index;
        if first == 0 || !replaces_all && self.extent.previous_term(append) != Some(head.previous_term) {
            return Err(corrupt("the batch does not continue the log"));
        }
        if append.log_start.is_some() || replaces_all {
            self.recovered.entries.clear();
            self.holes.clear();
        } else if !append.entries.is_empty() {
            self.holes.split_off(&first);
            self.recovered.entries.truncate((first - self.extent.start.index - 1) as usize);
        }
        self.recovered.entries.extend_from_slice(&append.entries);
        self.extent.apply(append, head.previous_term);
        self.recovered.log_start = self.extent.start;
        self.recovered.hard_state = head.hard_state;
        void_replaced(&mut self.full, append);
        segment.hold(append, &self.extent);
        Ok(())
    }
}

impl Link {
    fn after(&self, batch: &Batch) -> Self {
        Self { number: self.number + 1, chain: batch.chain, ..*self }
    }
}

impl<F: DiskFile> Opened<F> {
    fn segment(&self) -> Segment {
        Segment { name: self.name.clone(), seq: self.header.seq, index_max: 0 }
    }

    fn link(&self) -> Link {
        Link { seq: self.header.seq, segment: self.crc, number: 0, chain: self.crc }
    }

    fn batch_at(&self, offset: u64, link: &Link) -> Result<Found, WalError> {
        let damaged = |what| Ok(Found::Damaged { what, entry: None, len: None });
        let sector = self.read(offset, SECTOR as usize)?;
        let Some(head) = BatchHead::decode(&sector) else {
            if codec::resembles(&sector, link) {
                return damaged("a batch's head does not agree with its checksum");
            }
            return Ok(Found::Nothing);
        };
        if (head.link.seq, head.link.segment) != (link.seq, link.segment) {
            return Ok(Found::Nothing);
        }
        if head.link != *link {
            return damaged("a batch is not the one that belongs here");
        }
        if head.len > self.len.saturating_sub(offset) {
            return damaged("a batch reaches beyond the end of the file");
        }
        let raw = if head.len <= SECTOR {
            Bytes::from(sector).slice(..head.len as usize)
        } else {
            Bytes::from(self.read(offset, head.len as usize)?)
        };
        if raw.len() as u64 != head.len {
            return damaged("the file became shorter while it was read");
        }
        match codec::decode_batch(&raw, &head) {
            Ok(batch) => Ok(Found::Batch { raw, head, batch }),
            Err(damage) => Ok(Found::Damaged { what: damage.what, entry: damage.entry, len: Some(head.len) }),
        }
    }

    /// A batch of this segment at or after `from` that was written after the one of `link`: its
    /// offset and number.
    fn later_batch(&self, from: u64, link: &Link) -> Result<Option<(u64, u64)>, WalError> {
        let mut offset = from;
        while offset < self.len {
            let chunk = self.read(offset, SCAN_BYTES)?;
            for (at, sector) in chunk.chunks(SECTOR as usize).enumerate() {
                let later = BatchHead::decode(sector).filter(|head| {
                    head.link.seq == link.seq
                        && head.link.segment == link.segment
                        && head.link.number > link.number
                });
                if let Some(head) = later {
                    return Ok(Some((offset + at as u64 * SECTOR, head.link.number)));
                }
            }
            if chunk.len() < HEAD_LEN {
                break;
            }
            offset += chunk.len() as u64;
        }
        Ok(None)
    }

    /// The batch that comes next after the one of `link`: its offset and the chain before it.
    fn batch_after(&self, from: u64, link: &Link) -> Result<Option<(u64, u32)>, WalError> {
        let mut offset = from;
        while let Some((at, number)) = self.later_batch(offset, link)? {
            if number == link.number + 1 {
                let head = BatchHead::decode(&self.read(at, HEAD_LEN)?);
                return Ok(head.map(|head| (at, head.link.chain)));
            }
            offset = at + SECTOR;
        }
        Ok(None)
    }

    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, WalError> {
        read_up_to(&self.file, offset, len).map_err(WalError::io(&self.name, "read"))
    }
}

/// Up to `len` bytes; fewer only at the end of the file.
fn read_up_to<F: DiskFile>(file: &F, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(offset + filled as u64, &mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Opens a segment by its header, and restores a copy of the header from the other one.
fn open_segment<D: Disk>(disk: &D, name: String, fsync: bool) -> Result<Opened<D::File>, WalError> {
    let io = |op| WalError::io(&name, op);
    let Some((seq, first_index)) = parse_segment_name(&name) else {
        return Err(WalError::corrupt(&name, 0, "the file's name is not a segment's", None));
    };
    let file = disk.open(&name).map_err(io("open"))?;
    let len = file.len().map_err(io("measure"))?;
    let sectors = read_up_to(&file, 0, BATCHES_OFFSET as usize).map_err(io("read"))?;
    let (one, two) = sectors.split_at(sectors.len().min(SECTOR as usize));
    let copies = [SegmentHeader::decode(one), SegmentHeader::decode(two)];
    let (header, crc) = match copies {
        [Err(HeaderDamage::Version(found)), _] | [_, Err(HeaderDamage::Version(found))] => {
            return Err(WalError::Version { file: name, found });
        }
        [Ok(header), _] | [_, Ok(header)] => header,
        [Err(HeaderDamage::Bytes), Err(HeaderDamage::Bytes)] => {
            return Err(WalError::corrupt(&name, 0, "both copies of the segment's header are damaged", None));
        }
    };
    if header.seq != seq || header.log_start.index.checked_add(1) != Some(first_index) {
        let what = format!(
            "the header is that of segment {:x}, which starts after index {:x}",
            header.seq, header.log_start.index
        );
        return Err(WalError::corrupt(&name, 0, what, None));
    }
    if copies[0] != copies[1] {
        file.write_all_at(0, &header.encode().0.repeat(2)).map_err(io("write"))?;
        if fsync {
            file.sync_data().map_err(io("sync"))?;
        }
    }
    Ok(Opened { name, file, len: len.max(BATCHES_OFFSET), header, crc })
}

fn check_order<F>(before: Option<&Opened<F>>, segment: &Opened<F>) -> Result<(), WalError> {
    let Some(before) = before else { return Ok(()) };
    if before.header.metadata != segment.header.metadata {
        return Err(WalError::MetadataMismatch {
            file: segment.name.clone(),
            expected: before.header.metadata,
            found: segment.header.metadata,
        });
    }
    if before.header.seq.checked_add(1) != Some(segment.header.seq) {
        let what = format!("the segments between {} and this one are missing", before.name);
        return Err(WalError::corrupt(&segment.name, 0, what, None));
    }
    Ok(())
}
