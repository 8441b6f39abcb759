//! One file's bytes: what the cache shows, what the platter holds, and which sectors differ.
//!
//! **Invariant:** a sector reaches the platter wholly or not at all, unless a fault says otherwise.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::ops::Range;

use cairn_core::rng::Rng;
use cairn_core::wal::SECTOR;

/// Sectors that were overwritten last, whose old contents are kept for a write that gets lost.
const HISTORY_MAX: usize = 64;

/// A file.
#[derive(Clone, Debug, Default)]
pub(super) struct FileBytes {
    cached: Vec<u8>,
    platter: Vec<u8>,
    dirty: BTreeSet<u64>,
    /// Sectors that cannot be read until they are written again.
    unreadable: BTreeSet<u64>,
    /// Sectors with what was there before, the latest last.
    history: VecDeque<(u64, Vec<u8>)>,
}

fn span(sector: u64, len: usize) -> Range<usize> {
    let start = ((sector * SECTOR) as usize).min(len);
    start..(start + SECTOR as usize).min(len)
}

impl FileBytes {
    pub(super) fn len(&self) -> u64 {
        self.cached.len() as u64
    }

    pub(super) fn cached(&self) -> &[u8] {
        &self.cached
    }

    /// Whole sectors in the file.
    pub(super) fn sectors(&self) -> u64 {
        self.len() / SECTOR
    }

    /// Fills `out`, as far as the file reaches; the number of bytes.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.cached.len());
        let len = out.len().min(self.cached.len() - start);
        let sectors = offset / SECTOR..(offset + len as u64).div_ceil(SECTOR);
        if len > 0 && self.unreadable.range(sectors).next().is_some() {
            return Err(io::Error::other("input/output error: the sector cannot be read"));
        }
        out[..len].copy_from_slice(&self.cached[start..start + len]);
        Ok(len)
    }

    /// How many bytes the file would grow by.
    pub(super) fn growth(&self, offset: u64, len: usize) -> u64 {
        (offset + len as u64).saturating_sub(self.len())
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset as usize + data.len();
        if self.cached.len() < end {
            self.cached.resize(end, 0);
        }
        self.cached[offset as usize..end].copy_from_slice(data);
        self.dirty.extend(offset / SECTOR..(end as u64).div_ceil(SECTOR));
        // A sector is written as a whole, which makes it readable again.
        if !self.unreadable.is_empty() {
            self.unreadable
                .retain(|sector| *sector < offset / SECTOR || *sector >= (end as u64).div_ceil(SECTOR));
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.cached.resize(len as usize, 0);
        self.dirty.retain(|sector| *sector * SECTOR < len);
        self.unreadable.retain(|sector| *sector * SECTOR < len);
    }

    /// Writes everything through to the platter; how many sectors that were.
    pub(super) fn sync(&mut self) -> usize {
        let dirty = std::mem::take(&mut self.dirty);
        for sector in &dirty {
            self.flush(*sector);
        }
        self.platter.resize(self.cached.len(), 0);
        dirty.len()
    }

    /// A sync that fails: the cache goes on showing what the platter never got, and the next sync has
    /// nothing to do (ATC'20).
    pub(super) fn fail_sync(&mut self) {
        self.dirty.clear();
    }

    fn flush(&mut self, sector: u64) {
        let span = span(sector, self.cached.len());
        if span.is_empty() {
            return;
        }
        if self.platter.len() < span.end {
            self.platter.resize(span.end, 0);
        }
        let old = self.platter[span.clone()].to_vec();
        if old != self.cached[span.clone()] {
            if self.history.len() == HISTORY_MAX {
                self.history.pop_front();
            }
            self.history.push_back((sector, old));
            self.platter[span.clone()].copy_from_slice(&self.cached[span]);
        }
    }

    /// The power goes. Of the sectors that wait, any subset reaches the platter; with `garble`, one of
    /// them as garbage. Returns how many were lost, and how many garbled.
    pub(super) fn power_off(&mut self, rng: &mut Rng, garble: bool) -> (u64, u64) {
        // Either anything goes, or the power went near the start or the end of the write-back.
        let kept_of_eight = [0, 1, 4, 7, 8][rng.below(5) as usize];
        let (mut lost, mut garbled) = (0, 0);
        for sector in std::mem::take(&mut self.dirty) {
            if rng.chance(kept_of_eight, 8) {
                self.flush(sector);
            } else if garble && garbled == 0 && self.differs(sector) {
                self.flush(sector);
                let span = span(sector, self.platter.len());
                self.platter[span].iter_mut().for_each(|byte| *byte = rng.next_u64() as u8);
                garbled += 1;
            } else {
                lost += u64::from(self.differs(sector));
            }
        }
        if rng.chance(1, 2) {
            self.platter.resize(self.cached.len(), 0);
        }
        self.cached.clone_from(&self.platter);
        self.history.clear();
        (lost, garbled)
    }

    /// Whether the platter does not hold what the cache shows there.
    fn differs(&self, sector: u64) -> bool {
        self.cached.get(span(sector, self.cached.len())) != self.platter.get(span(sector, self.platter.len()))
    }

    /// Changes a sector at rest; the cache forgets it.
    pub(super) fn damage(&mut self, sector: u64, change: impl FnOnce(&mut [u8])) {
        self.platter.resize(self.cached.len(), 0);
        let span = span(sector, self.platter.len());
        change(&mut self.platter[span.clone()]);
        self.cached[span.clone()].copy_from_slice(&self.platter[span]);
        self.dirty.remove(&sector);
    }

    /// Makes a sector unreadable.
    pub(super) fn hide(&mut self, sector: u64) {
        self.unreadable.insert(sector);
    }

    /// Whether every sector can be read.
    pub(super) fn is_readable(&self) -> bool {
        self.unreadable.is_empty()
    }

    /// A sector that was overwritten not long ago, and what it held before.
    pub(super) fn overwritten(&self, rng: &mut Rng) -> Option<(u64, Vec<u8>)> {
        let at = rng.below(self.history.len() as u64) as usize;
        self.history.get(at).cloned()
    }

    /// A sector that holds anything but zeros, near a random place.
    pub(super) fn used_sector(&self, rng: &mut Rng) -> Option<u64> {
        let sectors = self.sectors();
        let start = rng.below(sectors);
        (0..sectors)
            .map(|step| (start + sectors - step) % sectors)
            .find(|sector| self.cached[span(*sector, self.cached.len())].iter().any(|byte| *byte != 0))
    }

    /// A sector's bytes.
    pub(super) fn sector(&self, sector: u64) -> Vec<u8> {
        self.cached[span(sector, self.cached.len())].to_vec()
    }
}
