//! A [`Disk`] in memory that forgets what was not synced.
//!
//! Reads see every write at once, as through a kernel's cache. [`MemDisk::crash`] keeps, of what was
//! not synced, any subset of the sectors, of the changes of length and of the changes of names. A
//! sector is old or new, never a mixture. A sync that fails leaves the cache as it is, forgets that
//! it differs from the disk and succeeds the next time, as ext4, XFS and Btrfs do (ATC'20).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile, SECTOR};
use crate::rng::Rng;

/// A directory in memory; clones are the same directory.
#[derive(Clone, Debug, Default)]
pub struct MemDisk(Arc<Mutex<State>>);

/// A file of a [`MemDisk`].
#[derive(Clone, Debug)]
pub struct MemFile {
    disk: MemDisk,
    id: u64,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, u64>,
    names_durable: BTreeMap<String, u64>,
    renames: Vec<NameChange>,
    files: BTreeMap<u64, Data>,
    next_id: u64,
    /// How many changes still succeed; `None` for all.
    changes_left: Option<u64>,
    syncs_to_fail: u64,
    syncs: u64,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

#[derive(Clone, Default)]
struct Data {
    cached: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<u64>,
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cached, durable) = (self.cached.len(), self.durable.len());
        write!(f, "{cached} bytes, {durable} on the disk, {} sectors dirty", self.dirty.len())
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(name, id) => {
                names.insert(name.clone(), *id);
            }
            Self::Rename(from, to) => {
                if let Some(id) = names.remove(from) {
                    names.insert(to.clone(), id);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl State {
    /// Every change passes here: the power may have gone.
    fn change(&mut self) -> io::Result<()> {
        match &mut self.changes_left {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.renames.push(change);
    }

    fn id(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn data(&mut self, id: u64) -> &mut Data {
        self.files.entry(id).or_default()
    }
}

impl Data {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset as usize + bytes.len();
        if self.cached.len() < end {
            self.cached.resize(end, 0);
        }
        self.cached[offset as usize..end].copy_from_slice(bytes);
        self.dirty.extend(offset / SECTOR..(end as u64).div_ceil(SECTOR));
    }

    /// Writes one sector through to the disk.
    fn flush(&mut self, sector: u64) {
        let start = (sector * SECTOR) as usize;
        let end = (start + SECTOR as usize).min(self.cached.len());
        if start >= end {
            return;
        }
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(&self.cached[start..end]);
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.flush(sector);
        }
        self.durable.resize(self.cached.len(), 0);
    }

    fn crash(&mut self, rng: &mut Rng) {
        // Either anything goes, or the crash came near the start or the end of the write-back.
        let kept_of_eight = [0, 1, 4, 7, 8][rng.below(5) as usize];
        for sector in std::mem::take(&mut self.dirty) {
            if rng.chance(kept_of_eight, 8) {
                self.flush(sector);
            }
        }
        if rng.chance(1, 2) {
            self.durable.resize(self.cached.len(), 0);
        }
        self.cached.clone_from(&self.durable);
    }
}

impl MemDisk {
    /// An empty directory.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loses what was not synced, as `rng` decides, and lets every operation succeed again.
    pub fn crash(&self, rng: &mut Rng) {
        let mut state = self.state();
        let mut names = std::mem::take(&mut state.names_durable);
        for change in std::mem::take(&mut state.renames) {
            if rng.chance(1, 2) {
                change.apply(&mut names);
            }
        }
        state.names.clone_from(&names);
        let live: BTreeSet<u64> = names.values().copied().collect();
        state.names_durable = names;
        state.files.retain(|id, _| live.contains(id));
        for data in state.files.values_mut() {
            data.crash(rng);
        }
        state.changes_left = None;
        state.syncs_to_fail = 0;
    }

    /// Lets `changes` more writes, syncs and changes of names succeed and every later one fail, until
    /// the next [`MemDisk::crash`].
    pub fn stop_after(&self, changes: u64) {
        self.state().changes_left = Some(changes);
    }

    /// Makes the next `syncs` syncs of files fail.
    pub fn fail_syncs(&self, syncs: u64) {
        self.state().syncs_to_fail = syncs;
    }

    /// How many syncs of files succeeded so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// A file's bytes as a read sees them.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(name).and_then(|id| state.files.get(id)).map(|data| data.cached.clone())
    }

    /// Changes a file at rest: `change` is applied to the cache and to the disk.
    pub fn damage(&self, name: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut state = self.state();
        if let Some(id) = state.names.get(name).copied() {
            let data = state.data(id);
            change(&mut data.cached);
            change(&mut data.durable);
        }
    }

    /// A copy that shares nothing with this one.
    pub fn duplicate(&self) -> Self {
        let state = self.state();
        Self(Arc::new(Mutex::new(State {
            names: state.names.clone(),
            names_durable: state.names_durable.clone(),
            renames: state.renames.clone(),
            files: state.files.clone(),
            next_id: state.next_id,
            changes_left: state.changes_left,
            syncs_to_fail: state.syncs_to_fail,
            syncs: state.syncs,
        })))
    }
}

impl Disk for MemDisk {
    type File = MemFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<MemFile> {
        Ok(MemFile { disk: self.clone(), id: self.state().id(name)? })
    }

    fn create(&self, name: &str) -> io::Result<MemFile> {
        let mut state = self.state();
        state.change()?;
        let id = state.next_id;
        state.next_id += 1;
        state.files.insert(id, Data::default());
        state.change_names(NameChange::Create(name.to_owned(), id));
        Ok(MemFile { disk: self.clone(), id })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.id(from)?;
        state.change_names(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.id(name)?;
        state.change_names(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.renames.clear();
        state.names_durable = state.names.clone();
        Ok(())
    }
}

impl DiskFile for MemFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().data(self.id).cached.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.state();
        let bytes = &state.data(self.id).cached;
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_all_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let allowed = state.change();
        // The write that the power fails in has reached the cache: the crash tears it.
        state.data(self.id).write(offset, buf);
        allowed
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        state.data(self.id).cached.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        if state.syncs_to_fail > 0 {
            state.syncs_to_fail -= 1;
            state.data(self.id).dirty.clear();
            return Err(io::Error::other("input/output error"));
        }
        state.syncs += 1;
        state.data(self.id).sync();
        Ok(())
    }
}
