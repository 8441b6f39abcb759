//! The log that is written: appends, segment cuts, recycling.
//!
//! A segment's bytes are filled with zeros once; from then on they are only overwritten, in this
//! segment or in a later one that recycles the file, because a sync that changes no file metadata is
//! much cheaper. A file gets a segment's name only when its header is durable, and the name is durable
//! before the first batch is written, so a file under a segment's name always has a header.
//!
//! This module never reads what it wrote: that is `replay`'s, once, at the start.

use std::collections::VecDeque;
use std::io;

use super::codec::{self, BATCHES_OFFSET, Link, SegmentHeader, sectors};
use super::disk::{Disk, DiskFile, SECTOR};
use super::extent::Extent;
use super::replay;
use super::{Append, AppendStats, Damaged, HardState, LogEntry, Metadata, Recovered, WalError, WalOptions};
use crate::planted::{self, Bug};

/// How many released files are kept for the segments to come.
const SPARES_MAX: usize = 4;
/// How many zeros are written ahead at a time.
const GROW_BYTES: u64 = 1 << 20;
/// How many bytes an append leaves for the seal and the end marker.
const RESERVED_BYTES: u64 = 2 * SECTOR;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

const SEGMENT_SUFFIX: &str = ".wal";
const SPARE_SUFFIX: &str = ".spare";

/// A segment that is full.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) seq: u64,
    /// The highest index of the entries in it that are still part of the log.
    pub(super) index_max: u64,
}

impl Segment {
    /// Takes note that the segment holds the append, which `extent` has taken in.
    pub(super) fn hold(&mut self, append: &Append, extent: &Extent) {
        let last = extent.last.index;
        self.index_max = if append.entries.is_empty() { self.index_max.min(last) } else { last };
    }
}

/// The segment that is written.
#[derive(Debug)]
pub(super) struct Active<F> {
    pub(super) file: F,
    pub(super) segment: Segment,
    /// The file's length; bytes before it have been written once.
    pub(super) len: u64,
    /// Where the next batch goes.
    pub(super) offset: u64,
    /// What the next batch is tied to.
    pub(super) link: Link,
}

/// A file with no segment in it.
#[derive(Debug)]
struct Spare<F> {
    name: String,
    file: F,
    len: u64,
}

/// The write-ahead log of one member.
///
/// Call [`Wal::append`] for each group commit, [`Wal::seal`] when there has been nothing to append for
/// a moment, [`Wal::prepare_next`] when there is time, [`Wal::release`] when entries are no longer
/// needed. After an error of `append`, `seal` or `release` the log refuses everything.
#[derive(Debug)]
pub struct Wal<D: Disk> {
    disk: D,
    options: WalOptions,
    metadata: Metadata,
    hard_state: HardState,
    extent: Extent,
    /// Oldest first.
    full: VecDeque<Segment>,
    active: Active<D::File>,
    spares: Vec<Spare<D::File>>,
    /// The number of the next spare's name, which no file of the directory has.
    spare_number: u64,
    /// The last batch needs no successor to be told from a torn one.
    sealed: bool,
    poisoned: Option<String>,
    buf: Vec<u8>,
}

/// The name of a segment: its place in the sequence and the first index that it may hold, as etcd's.
pub(super) fn segment_name(seq: u64, first_index: u64) -> String {
    format!("{seq:016x}-{first_index:016x}{SEGMENT_SUFFIX}")
}

fn spare_name(number: u64) -> String {
    format!("{number:016x}{SPARE_SUFFIX}")
}

/// The inverse of [`segment_name`].
pub(super) fn parse_segment_name(name: &str) -> Option<(u64, u64)> {
    let (seq, index) = name.strip_suffix(SEGMENT_SUFFIX)?.split_once('-')?;
    let parsed = (u64::from_str_radix(seq, 16).ok()?, u64::from_str_radix(index, 16).ok()?);
    (segment_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// The names of the directory that claim to be segments, in order.
pub(super) fn segment_names<D: Disk>(disk: &D) -> io::Result<Vec<String>> {
    let mut names = disk.list()?;
    names.retain(|name| name.ends_with(SEGMENT_SUFFIX));
    names.sort_unstable();
    Ok(names)
}

/// Lowers what full segments hold to what the append leaves of them.
pub(super) fn void_replaced(full: &mut VecDeque<Segment>, append: &Append) {
    let kept = match (append.log_start, append.entries.first()) {
        (Some(start), _) => start.index,
        (None, Some(first)) => first.index - 1,
        (None, None) => return,
    };
    for segment in full {
        segment.index_max = segment.index_max.min(kept);
    }
}

impl<D: Disk> Wal<D> {
    /// Starts a log with its first append. Until this returned, the directory holds no log.
    ///
    /// # Errors
    /// [`WalError::Exists`], or the disk refused.
    ///
    /// # Panics
    /// As [`Wal::append`].
    pub fn create(
        disk: D,
        metadata: Metadata,
        first: &Append,
        options: WalOptions,
    ) -> Result<Self, WalError> {
        let names = disk.list().map_err(WalError::io(".", "list"))?;
        for name in names {
            if name.ends_with(SEGMENT_SUFFIX) {
                return Err(WalError::Exists { file: name });
            }
            // A spare of an earlier log may hold batches that this one could take for its own.
            if name.ends_with(SPARE_SUFFIX) {
                disk.remove(&name).map_err(WalError::io(&name, "remove"))?;
            }
        }
        let header = SegmentHeader {
            seq: 1,
            metadata,
            hard_state: HardState::default(),
            log_start: Default::default(),
            previous_batches: 0,
            previous_chain: 0,
        };
        let temporary = spare_name(0);
        let file = disk.create(&temporary).map_err(WalError::io(&temporary, "create"))?;
        let active = start_segment(&temporary, file, 0, &header)?;
        let mut wal = Self {
            disk,
            options,
            metadata,
            hard_state: header.hard_state,
            extent: Extent::default(),
            full: VecDeque::new(),
            active,
            spares: Vec::new(),
            spare_number: 1,
            sealed: false,
            poisoned: None,
            buf: Vec::new(),
        };
        // The name comes last: the log exists with its first append or not at all.
        wal.write_append(first)?;
        wal.name_segment(&temporary, &segment_name(1, 1))?;
        wal.active.segment.name = segment_name(1, 1);
        Ok(wal)
    }

    /// Opens a log, repairs what a crash left at its end, and returns what it holds.
    ///
    /// # Errors
    /// [`WalError::Missing`], [`WalError::Corrupt`] and what else [`WalError`] names. Nothing of the
    /// log was changed, except that a copy of what another copy said may have been restored.
    pub fn open(disk: D, options: WalOptions) -> Result<(Self, Recovered), WalError> {
        let replayed = replay::replay(&disk, options.fsync)?;
        let mut wal = Self {
            disk,
            options,
            metadata: replayed.recovered.metadata,
            hard_state: replayed.recovered.hard_state,
            extent: replayed.extent,
            full: replayed.full,
            active: replayed.active,
            spares: Vec::new(),
            spare_number: 0,
            sealed: replayed.sealed,
            poisoned: None,
            buf: Vec::new(),
        };
        let mut names = wal.disk.list().map_err(WalError::io(".", "list"))?;
        names.retain(|name| name.ends_with(SPARE_SUFFIX));
        names.sort_unstable();
        for name in names {
            let number = name.strip_suffix(SPARE_SUFFIX).and_then(|hex| u64::from_str_radix(hex, 16).ok());
            wal.spare_number = wal.spare_number.max(number.map_or(0, |number| number.saturating_add(1)));
            wal.keep_spare(name)?;
        }
        Ok((wal, replayed.recovered))
    }

    /// Whether the directory holds a log.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn exists(disk: &D) -> io::Result<bool> {
        Ok(!segment_names(disk)?.is_empty())
    }

    /// Makes one group commit durable: one write and one sync, and two more syncs and a rename when
    /// the segment is full.
    ///
    /// # Errors
    /// The disk refused, now or before; nothing of the append may be assumed and the log is poisoned.
    ///
    /// # Panics
    /// The entries are not contiguous, leave a gap after the log, or begin before it; the term or the
    /// commit index would go back, or the vote of a term would change. All of them are bugs of the
    /// caller that would make the log unreadable or break a promise.
    pub fn append(&mut self, append: &Append) -> Result<AppendStats, WalError> {
        self.guarded(|wal| wal.write_append(append))
    }

    /// Writes entries again whose bytes were damaged, in their places, and makes them durable.
    ///
    /// # Errors
    /// As [`Wal::append`].
    ///
    /// # Panics
    /// An entry is not the one that was damaged.
    pub fn repair(&mut self, repairs: &[(Damaged, LogEntry)]) -> Result<AppendStats, WalError> {
        self.guarded(|wal| {
            let mut stats = AppendStats::default();
            for (damaged, entry) in repairs {
                assert!(damaged.is(entry), "entry {} is not the one that was there", entry.index);
                let name = &damaged.file;
                wal.buf.clear();
                codec::encode_entry(&mut wal.buf, entry);
                let file = wal.disk.open(name).map_err(WalError::io(name, "open"))?;
                file.write_all_at(damaged.offset, &wal.buf).map_err(WalError::io(name, "write"))?;
                if wal.options.fsync {
                    file.sync_data().map_err(WalError::io(name, "sync"))?;
                }
                stats.bytes += wal.buf.len() as u64;
            }
            Ok(stats)
        })
    }

    /// Follows the last batch with an empty one, so that later damage to it is known to be damage
    /// and not a torn write. Does nothing when that has been done.
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn seal(&mut self) -> Result<(), WalError> {
        self.guarded(|wal| {
            if !wal.sealed {
                wal.write_batch(&Append::default(), wal.hard_state, wal.extent.last.term, false)?;
                wal.sealed = true;
            }
            Ok(())
        })
    }

    /// Gives up segments in which every entry is at or below `index`, and keeps their files for
    /// segments to come. The caller has made the state up to `index` durable elsewhere.
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn release(&mut self, index: u64) -> Result<(), WalError> {
        self.guarded(|wal| {
            while wal.full.front().is_some_and(|segment| segment.index_max <= index) {
                let segment = wal.full.pop_front().expect("the loop's condition saw it");
                let keep = wal.spares.len() < SPARES_MAX;
                let spare = wal.next_spare_name();
                if keep {
                    wal.disk.rename(&segment.name, &spare).map_err(WalError::io(&segment.name, "rename"))?;
                } else {
                    wal.disk.remove(&segment.name).map_err(WalError::io(&segment.name, "remove"))?;
                }
                // Names must go in order, or a crash could leave a gap in the sequence.
                wal.sync_dir()?;
                if keep {
                    wal.keep_spare(spare)?;
                }
            }
            Ok(())
        })
    }

    /// Does one bounded step towards having the next segment's file at full size; true when another
    /// step is needed. Without it a cut still works, and the file grows while it is written.
    ///
    /// # Errors
    /// The disk refused. The log itself is unharmed and goes on; the half-made file is forgotten.
    pub fn prepare_next(&mut self) -> Result<bool, WalError> {
        self.check_poison()?;
        if self.spares.is_empty() {
            let name = self.next_spare_name();
            let file = self.disk.create(&name).map_err(WalError::io(&name, "create"))?;
            self.spares.push(Spare { name, file, len: 0 });
        }
        let (segment_bytes, fsync) = (self.options.segment_bytes, self.options.fsync);
        let spare = &mut self.spares[0];
        if spare.len >= segment_bytes {
            return Ok(false);
        }
        let end = (spare.len + GROW_BYTES).min(segment_bytes);
        let grown = write_zeros(&spare.file, spare.len, end)
            .and_then(|()| if fsync { spare.file.sync_data() } else { Ok(()) });
        if let Err(error) = grown {
            let spare = self.spares.remove(0);
            // It may fail as well; the next open finds the file and uses what there is of it.
            let _ = self.disk.remove(&spare.name);
            return Err(WalError::io(&spare.name, "fill")(error));
        }
        spare.len = end;
        Ok(end < segment_bytes)
    }

    /// Whose log it is.
    pub fn metadata(&self) -> Metadata {
        self.metadata
    }

    fn check_poison(&self) -> Result<(), WalError> {
        match &self.poisoned {
            Some(cause) => Err(WalError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn guarded<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T, WalError>) -> Result<T, WalError> {
        self.check_poison()?;
        let result = step(self);
        if let Err(error) = &result {
            self.poisoned = Some(error.to_string());
        }
        result
    }

    fn write_append(&mut self, append: &Append) -> Result<AppendStats, WalError> {
        let hard_state = append.hard_state.unwrap_or(self.hard_state);
        self.check_append(append, &hard_state);
        let previous_term = self
            .extent
            .previous_term(append)
            .expect("an append continues or replaces the log, it leaves no gap");
        let len = sectors(codec::batch_len(append));
        let full = self.active.offset + len + RESERVED_BYTES > self.options.segment_bytes;
        if full && self.active.link.number > 0 {
            self.cut()?;
        }
        let bytes = self.write_batch(append, hard_state, previous_term, false)?;
        self.sealed = false;
        self.hard_state = hard_state;
        self.extent.apply(append, previous_term);
        void_replaced(&mut self.full, append);
        self.active.segment.hold(append, &self.extent);
        Ok(AppendStats { bytes })
    }

    fn check_append(&self, append: &Append, hard_state: &HardState) {
        let contiguous = append.entries.windows(2).all(|pair| pair[0].index + 1 == pair[1].index);
        assert!(contiguous, "the entries of an append are contiguous");
        if let (None, Some(first)) = (append.log_start, append.entries.first()) {
            let start = self.extent.start.index;
            assert!(
                first.index > start,
                "entry {} is before the log, which starts after {start}",
                first.index
            );
        }
        let before = &self.hard_state;
        assert!(
            replay::may_follow(before, hard_state),
            "the hard state would go back from {before:?} to {hard_state:?}"
        );
    }

    /// Writes a batch at the end of the active segment and syncs it.
    fn write_batch(
        &mut self,
        append: &Append,
        hard_state: HardState,
        previous_term: u64,
        end: bool,
    ) -> Result<u64, WalError> {
        let active = &mut self.active;
        self.buf.clear();
        let chain = codec::encode_batch(&mut self.buf, &active.link, append, &hard_state, previous_term, end);
        let bytes = self.buf.len() as u64;
        let next = active.offset + bytes;
        let name = &active.segment.name;
        active.file.write_all_at(active.offset, &self.buf).map_err(WalError::io(name, "write"))?;
        if next > active.len {
            let len = (next + GROW_BYTES).min(self.options.segment_bytes).max(next);
            write_zeros(&active.file, next, len).map_err(WalError::io(name, "extend"))?;
            active.len = len;
        }
        if self.options.fsync && !planted::on(Bug::WalWithoutSync) {
            active.file.sync_data().map_err(WalError::io(name, "sync"))?;
        }
        active.offset = next;
        active.link = Link { number: active.link.number + 1, chain, ..active.link };
        Ok(bytes)
    }

    /// Goes over to a new segment.
    fn cut(&mut self) -> Result<(), WalError> {
        let seq = self.active.segment.seq + 1;
        let spare = if self.spares.is_empty() {
            let name = self.next_spare_name();
            let file = self.disk.create(&name).map_err(WalError::io(&name, "create"))?;
            Spare { name, file, len: 0 }
        } else {
            self.spares.remove(0)
        };
        let header = SegmentHeader {
            seq,
            metadata: self.metadata,
            hard_state: self.hard_state,
            log_start: self.extent.last,
            previous_batches: self.active.link.number,
            previous_chain: self.active.link.chain,
        };
        let next = start_segment(&spare.name, spare.file, spare.len, &header)?;
        if self.options.fsync {
            next.file.sync_data().map_err(WalError::io(&spare.name, "sync"))?;
        }
        let name = segment_name(seq, self.extent.last.index + 1);
        self.name_segment(&spare.name, &name)?;
        // Should the new segment's file ever be lost, the end marker tells that there was one.
        self.write_batch(&Append::default(), self.hard_state, self.extent.last.term, true)?;
        let full = std::mem::replace(&mut self.active, next);
        self.active.segment.name = name;
        self.full.push_back(full.segment);
        Ok(())
    }

    fn next_spare_name(&mut self) -> String {
        self.spare_number += 1;
        spare_name(self.spare_number - 1)
    }

    fn name_segment(&self, temporary: &str, name: &str) -> Result<(), WalError> {
        self.disk.rename(temporary, name).map_err(WalError::io(temporary, "rename"))?;
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<(), WalError> {
        let fsync = self.options.fsync && !planted::on(Bug::WalWithoutDirectorySync);
        if fsync { self.disk.sync_dir().map_err(WalError::io(".", "sync")) } else { Ok(()) }
    }

    /// Takes a file in as a spare, at most as long as a segment.
    fn keep_spare(&mut self, name: String) -> Result<(), WalError> {
        if self.spares.len() >= SPARES_MAX {
            return self.disk.remove(&name).map_err(WalError::io(&name, "remove"));
        }
        let file = self.disk.open(&name).map_err(WalError::io(&name, "open"))?;
        let mut len = file.len().map_err(WalError::io(&name, "measure"))?;
        if len > self.options.segment_bytes {
            len = self.options.segment_bytes;
            file.set_len(len).map_err(WalError::io(&name, "cut"))?;
        }
        self.spares.push(Spare { name, file, len });
        Ok(())
    }
}

/// Writes both copies of a segment's header; the caller syncs.
fn start_segment<F: DiskFile>(
    name: &str,
    file: F,
    len: u64,
    header: &SegmentHeader,
) -> Result<Active<F>, WalError> {
    let (sector, crc) = header.encode();
    file.write_all_at(0, &sector.repeat(2)).map_err(WalError::io(name, "write"))?;
    Ok(Active {
        file,
        segment: Segment { name: name.to_owned(), seq: header.seq, index_max: 0 },
        len: len.max(BATCHES_OFFSET),
        offset: BATCHES_OFFSET,
        link: Link { seq: header.seq, segment: crc, number: 0, chain: crc },
    })
}

/// Fills `start..end` with zeros.
pub(super) fn write_zeros<F: DiskFile>(file: &F, mut start: u64, end: u64) -> io::Result<()> {
    while start < end {
        let len = (end - start).min(ZEROS.len() as u64);
        file.write_all_at(start, &ZEROS[..len as usize])?;
        start += len;
    }
    Ok(())
}
