//! The file below the engine: every block of it has a checksum, and none is read without its check.
//!
//! redb sums its pages but checks the sums only when it repairs, so a byte that went bad on the disk
//! would be served, or hide a row, or lead a walk astray. Here the file opens with a block that names
//! the format; then come groups of one block of checksums and the 1024 blocks that they are for. The
//! engine sees the groups' blocks alone, as one file. The sums are in memory too (a megabyte for each
//! gigabyte) and reach the file with the sync that the blocks wait for, before anything refers to them.
//! The engine's head is rewritten in place, so its checksum lies in the same sector. The first block
//! also tells how many blocks the file has had for sure and which head, because the engine would take
//! what is left of a file that was cut off for a smaller one, and an older head for the last one.
//!
//! **Invariant:** a read returns what was written there last, or an error that names the offset.

use std::collections::BTreeSet;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{BackendError, StorageBackend};

const BLOCK: u64 = 4096;
/// Checksums in a block of them.
const GROUP: u64 = BLOCK / 4;
/// What a file of ours begins with.
const MAGIC: [u8; 8] = *b"CAIRN-DB";
/// The layout of this file and of the rows in it; another number is another program's file.
const FORMAT: u32 = 1;
/// Where the number of blocks and that of the head stand in the first sector of the file, and their
/// checksum.
const RECORD: usize = 16;
const RECORD_LEN: usize = 20;
/// The part of the engine's first block that it uses, a sector with its checksum.
const HEAD: usize = 512;
/// Where its checksum begins, and before that its number, which each write of it raises.
const HEAD_SUM: usize = HEAD - 4;
const HEAD_DATA: usize = HEAD_SUM - 8;

/// The first failure of a file, once there is one.
pub(super) type Fault = OnceLock<String>;

/// Blocks of the engine, and the checksums of all of them.
#[derive(Debug)]
struct Sums {
    head: [u8; HEAD],
    /// Of each block; 0 for one that was never written.
    blocks: Vec<u32>,
    /// Groups whose sums are not in the file yet.
    dirty: BTreeSet<u64>,
    /// What the first block tells.
    recorded: Record,
}

/// What a file has had for sure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Record {
    blocks: u64,
    head: u64,
}

impl Record {
    fn sum(self) -> u32 {
        sum(self.blocks, &self.head.to_le_bytes())
    }
}

/// The storage as redb sees it. Without fsync it leaves syncs out: the kernel still gets every write,
/// so only the loss of the machine loses data, never that of the process.
#[derive(Debug)]
pub(super) struct Checked<S> {
    inner: S,
    /// The length of the file itself.
    len: Arc<AtomicU64>,
    fsync: bool,
    fault: Arc<Fault>,
    sums: RwLock<Sums>,
}

/// Checks the head's sector, and that it is no older than `recorded`: its last write may be lost.
fn check_head(head: &[u8; HEAD], recorded: u64) -> io::Result<()> {
    let mut expected = [0; 4];
    expected.copy_from_slice(&head[HEAD_SUM..]);
    check(0, &head[..HEAD_SUM], u32::from_le_bytes(expected))?;
    let number = number_at(head, HEAD_DATA);
    if number < recorded {
        return Err(invalid(format!(
            "the file's head at offset {} is the one of write {number}, and write {recorded} was durable",
            place(0)
        )));
    }
    Ok(())
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Where the group's block of checksums is in the file.
fn place_of_sums(group: u64) -> u64 {
    BLOCK * (1 + group * (GROUP + 1))
}

/// Where the engine's block is in the file.
fn place(block: u64) -> u64 {
    BLOCK * (2 + block + block / GROUP)
}

/// The length of a file that holds so many of the engine's blocks.
fn file_len(blocks: u64) -> u64 {
    BLOCK * (1 + blocks + blocks.div_ceil(GROUP))
}

/// Covers the block's number too, so that a block in the place of another is noticed. Never 0.
fn sum(block: u64, data: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&block.to_le_bytes());
    hasher.update(data);
    hasher.finalize().max(1)
}

fn check(block: u64, data: &[u8], expected: u32) -> io::Result<()> {
    let found = if expected == 0 && data.iter().all(|byte| *byte == 0) { 0 } else { sum(block, data) };
    if found == expected {
        return Ok(());
    }
    let offset = place(block);
    Err(invalid(format!(
        "the block at offset {offset} of the file is damaged: its checksum is {found:08x}, not {expected:08x}"
    )))
}

/// The first sector of a file.
fn format_sector(told: Record) -> [u8; HEAD] {
    let mut sector = [0; HEAD];
    sector[..8].copy_from_slice(&MAGIC);
    sector[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    let record = &mut sector[RECORD..RECORD + RECORD_LEN];
    record[..8].copy_from_slice(&told.blocks.to_le_bytes());
    record[8..16].copy_from_slice(&told.head.to_le_bytes());
    record[16..].copy_from_slice(&told.sum().to_le_bytes());
    sector
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// What the first block tells; nothing where it was written before it told anything.
fn recorded(block: &[u8]) -> io::Result<Record> {
    let bytes = &block[RECORD..RECORD + RECORD_LEN];
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(Record::default());
    }
    let record = Record { blocks: number_at(bytes, 0), head: number_at(bytes, 8) };
    if bytes[16..] != record.sum().to_le_bytes() {
        return Err(invalid(format!("the file's length at offset {RECORD} of it is damaged")));
    }
    Ok(record)
}

/// Checks the first block; returns what it tells.
fn check_format<S: StorageBackend>(inner: &S) -> io::Result<Record> {
    let mut block = [0; BLOCK as usize];
    inner.read(0, &mut block)?;
    if block[..8] != MAGIC {
        return Err(invalid(format!(
            "the file is no database of this program: at offset 0 its magic number is \"{}\", not \"{}\"",
            block[..8].escape_ascii(),
            MAGIC.escape_ascii()
        )));
    }
    let mut number = [0; 4];
    number.copy_from_slice(&block[8..12]);
    let format = u32::from_le_bytes(number);
    if format != FORMAT {
        return Err(invalid(format!(
            "the file says at offset 8 that its format is {format}, and this program reads format {FORMAT} only"
        )));
    }
    recorded(&block)
}

impl<S: StorageBackend> Checked<S> {
    /// Lays itself over `inner`, which is empty or holds a file of this format. Keeps `len` at the
    /// length of the file.
    pub(super) fn new(inner: S, len: Arc<AtomicU64>, fsync: bool) -> io::Result<Self> {
        let whole = inner.len()?;
        len.store(whole, Ordering::Relaxed);
        let mut sums =
            Sums { head: [0; HEAD], blocks: Vec::new(), dirty: BTreeSet::new(), recorded: Record::default() };
        // A file may be left with the format alone by a crash when it was made.
        if whole > 0 {
            if whole < BLOCK {
                return Err(invalid(format!("the file is truncated: it has {whole} bytes")));
            }
            sums.recorded = check_format(&inner)?;
            let after = whole / BLOCK - 1;
            let blocks = after - after.div_ceil(GROUP + 1);
            if file_len(blocks) != whole {
                return Err(invalid(format!("the file is truncated: it has {whole} bytes, no whole blocks")));
            }
            if blocks < sums.recorded.blocks {
                let had = file_len(sums.recorded.blocks);
                return Err(invalid(format!("the file is truncated: it has {whole} bytes and had {had}")));
            }
            sums.blocks.reserve(blocks as usize);
            let mut bytes = [0; BLOCK as usize];
            for group in 0..blocks.div_ceil(GROUP) {
                inner.read(place_of_sums(group), &mut bytes)?;
                let count = (blocks - group * GROUP).min(GROUP) as usize;
                let (numbers, _) = bytes.as_chunks::<4>();
                sums.blocks.extend(numbers[..count].iter().map(|number| u32::from_le_bytes(*number)));
            }
            if blocks > 0 {
                inner.read(place(0), &mut sums.head)?;
                check_head(&sums.head, sums.recorded.head)?;
            }
        }
        Ok(Self { inner, len, fsync, fault: Arc::default(), sums: RwLock::new(sums) })
    }

    /// Where the first failure is noted.
    pub(super) fn fault(&self) -> Arc<Fault> {
        self.fault.clone()
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| drop(self.fault.set(error.to_string())))
    }

    fn read_sums(&self) -> RwLockReadGuard<'_, Sums> {
        self.sums.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_sums(&self) -> RwLockWriteGuard<'_, Sums> {
        self.sums.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pieces of a range that lie together in the file: first block, and bytes of the range.
    fn pieces(&self, offset: u64, len: usize) -> io::Result<Vec<(u64, std::ops::Range<usize>)>> {
        let (first, count) = (offset / BLOCK, len as u64 / BLOCK);
        if !offset.is_multiple_of(BLOCK) || !(len as u64).is_multiple_of(BLOCK) {
            return Err(invalid(format!("{len} bytes at {offset} are no whole blocks")));
        }
        if first + count > self.read_sums().blocks.len() as u64 {
            return Err(invalid(format!(
                "the file is truncated: {len} bytes at {offset} are beyond its end"
            )));
        }
        let mut pieces = Vec::with_capacity(1);
        let mut block = first;
        while block < first + count {
            let next = ((block / GROUP + 1) * GROUP).min(first + count);
            let range = ((block - first) * BLOCK) as usize..((next - first) * BLOCK) as usize;
            pieces.push((block, range));
            block = next;
        }
        Ok(pieces)
    }

    fn read_head(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset as usize + out.len();
        if end > HEAD_DATA {
            return Err(invalid(format!("{} bytes at {offset} are no part of the head", out.len())));
        }
        let mut head = [0; HEAD];
        self.inner.read(place(0), &mut head)?;
        check_head(&head, self.read_sums().recorded.head)?;
        out.copy_from_slice(&head[offset as usize..end]);
        Ok(())
    }

    fn write_head(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset as usize + data.len();
        if end > HEAD_DATA {
            return Err(invalid(format!("{} bytes at {offset} are no part of the head", data.len())));
        }
        let mut sums = self.write_sums();
        let mut head = sums.head;
        head[offset as usize..end].copy_from_slice(data);
        let number = number_at(&head, HEAD_DATA) + 1;
        head[HEAD_DATA..HEAD_SUM].copy_from_slice(&number.to_le_bytes());
        let sum = sum(0, &head[..HEAD_SUM]);
        head[HEAD_SUM..].copy_from_slice(&sum.to_le_bytes());
        self.inner.write(place(0), &head)?;
        sums.head = head;
        Ok(())
    }

    /// Puts the changed checksums into the file.
    fn write_dirty(&self) -> io::Result<()> {
        let mut sums = self.write_sums();
        let Sums { blocks, dirty, .. } = &mut *sums;
        while let Some(group) = dirty.first().copied() {
            let mut bytes = [0; BLOCK as usize];
            let rows = blocks.iter().skip((group * GROUP) as usize);
            for (out, sum) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(rows) {
                *out = sum.to_le_bytes();
            }
            self.inner.write(place_of_sums(group), &bytes)?;
            dirty.remove(&group);
        }
        Ok(())
    }

    /// Tells the file's length and its head in its first block, once they are durable. A later sync
    /// makes what is told durable in turn; until then less is told there.
    fn record(&self) -> io::Result<()> {
        let mut sums = self.write_sums();
        let now = Record { blocks: sums.blocks.len() as u64, head: number_at(&sums.head, HEAD_DATA) };
        if now != sums.recorded {
            self.inner.write(0, &format_sector(now))?;
            sums.recorded = now;
        }
        Ok(())
    }

    fn read_checked(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset < BLOCK {
            return self.read_head(offset, out);
        }
        for (first, range) in self.pieces(offset, out.len())? {
            let out = &mut out[range];
            self.inner.read(place(first), out)?;
            let sums = self.read_sums();
            for (block, data) in (first..).zip(out.chunks_exact(BLOCK as usize)) {
                check(block, data, sums.blocks.get(block as usize).copied().unwrap_or(0))?;
            }
        }
        Ok(())
    }

    fn write_summed(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset < BLOCK {
            return self.write_head(offset, data);
        }
        for (first, range) in self.pieces(offset, data.len())? {
            let data = &data[range];
            self.inner.write(place(first), data)?;
            let new: Vec<u32> =
                (first..).zip(data.chunks_exact(BLOCK as usize)).map(|(n, data)| sum(n, data)).collect();
            let mut sums = self.write_sums();
            let first = first as usize;
            let Some(old) = sums.blocks.get_mut(first..first + new.len()) else {
                return Err(invalid(format!("a write at {offset} met the end of the file")));
            };
            old.copy_from_slice(&new);
            sums.dirty.insert(first as u64 / GROUP);
        }
        Ok(())
    }

    fn resize(&self, len: u64) -> io::Result<()> {
        let mut sums = self.write_sums();
        let blocks = len / BLOCK;
        if !len.is_multiple_of(BLOCK) {
            return Err(invalid(format!("a length of {len} is no whole blocks")));
        }
        if sums.blocks.is_empty() {
            self.inner.set_len(BLOCK)?;
            self.inner.write(0, &format_sector(Record::default()))?;
        }
        if blocks < sums.recorded.blocks {
            // A crash must not leave a file that is shorter than it says.
            sums.recorded.blocks = blocks;
            self.inner.write(0, &format_sector(sums.recorded))?;
            if self.fsync {
                self.inner.sync_data()?;
            }
        }
        self.inner.set_len(file_len(blocks))?;
        sums.blocks.resize(blocks as usize, 0);
        let groups = blocks.div_ceil(GROUP);
        sums.dirty.retain(|group| *group < groups);
        self.len.store(file_len(blocks), Ordering::Relaxed);
        Ok(())
    }
}

impl<S: StorageBackend> StorageBackend for Checked<S> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.read_sums().blocks.len() as u64 * BLOCK)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.note(self.read_checked(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(self.resize(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.write_dirty();
        let synced = if self.fsync { synced.and_then(|()| self.inner.sync_data()) } else { synced };
        self.note(synced.and_then(|()| self.record()))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(self.write_summed(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        let written = self.write_dirty();
        self.inner.close().and(written)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }
}

#[cfg(test)]
mod tests;
