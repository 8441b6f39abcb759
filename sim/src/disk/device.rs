//! A member's disk: two folders of files, under the log and under the engine alike.
//!
//! Reads see every write at once, as through a kernel's cache. When the power goes, any subset of what
//! was not synced is lost: sectors, lengths, and names that no sync of their folder covered. A handle
//! belongs to the process that opened it and is refused after that has ended.
//!
//! **Invariant:** what was synced is there after every loss of power, unless a fault took it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_core::rng::Rng;
use cairn_core::wal::SECTOR;

use super::bytes::FileBytes;
use crate::coverage::{Coverage, Point};

/// The folders of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Folder {
    /// The log's segments.
    Wal,
    /// The engine's database.
    Snap,
}

/// A disk; clones are the same one.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Clone, Debug, Default)]
struct Names {
    now: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    changes: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

#[derive(Clone, Debug)]
pub(super) struct State {
    folders: [Names; 2],
    pub(super) files: BTreeMap<u64, FileBytes>,
    next_id: u64,
    generation: u64,
    pub(super) rng: Rng,
    /// Changes that still succeed before the process is dead; `None` for all.
    changes_left: Option<u64>,
    syncs_to_fail: u64,
    reads_to_misdirect: u64,
    capacity: Option<u64>,
    garble: bool,
    /// Errors that were given since the process began, by their kind.
    pub(super) errors: Errors,
    pub(super) coverage: Coverage,
}

/// Which errors the disk has given a process: what it may stop for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    /// A sync or a read failed, or a read brought something else.
    pub io: bool,
    /// There was no space.
    pub full: bool,
}

impl Change {
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
    fn names(&mut self, folder: Folder) -> &mut Names {
        &mut self.folders[folder as usize]
    }

    pub(super) fn id(&self, folder: Folder, name: &str) -> io::Result<u64> {
        self.folders[folder as usize].now.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn list(&self, folder: Folder) -> Vec<String> {
        self.folders[folder as usize].now.keys().cloned().collect()
    }

    fn file(&mut self, id: u64) -> &mut FileBytes {
        self.files.entry(id).or_default()
    }

    fn change_name(&mut self, folder: Folder, change: Change) {
        let names = self.names(folder);
        change.apply(&mut names.now);
        names.changes.push(change);
    }

    /// Changes names at rest, as damage does.
    pub(super) fn damage_name(&mut self, folder: Folder, from: &str, to: Option<&str>) {
        let names = self.names(folder);
        let change = match to {
            Some(to) => Change::Rename(from.to_owned(), to.to_owned()),
            None => Change::Remove(from.to_owned()),
        };
        change.apply(&mut names.now);
        change.apply(&mut names.durable);
    }

    fn alive(&self, generation: u64) -> io::Result<()> {
        if generation == self.generation { Ok(()) } else { Err(io::Error::other("the process has ended")) }
    }

    /// Every change passes here: the process may be dying.
    fn change(&mut self, generation: u64) -> io::Result<()> {
        self.alive(generation)?;
        match &mut self.changes_left {
            Some(0) => Err(io::Error::other("the process has ended")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Bytes of the files that have a name; others go with the process that has them open.
    fn used(&self) -> u64 {
        let named = self.folders.iter().flat_map(|names| names.now.values());
        named.filter_map(|id| self.files.get(id)).map(FileBytes::len).sum()
    }

    fn room(&mut self, growth: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity.filter(|_| growth > 0) else { return Ok(()) };
        if self.used() + growth > capacity {
            self.errors.full = true;
            self.coverage.hit(Point::DiskFull);
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"));
        }
        Ok(())
    }
}

impl SimDisk {
    /// An empty disk, whose faults are drawn from `rng`.
    pub fn new(rng: Rng) -> Self {
        Self(Arc::new(Mutex::new(State {
            folders: Default::default(),
            files: BTreeMap::new(),
            next_id: 0,
            generation: 0,
            rng,
            changes_left: None,
            syncs_to_fail: 0,
            reads_to_misdirect: 0,
            capacity: None,
            garble: false,
            errors: Errors::default(),
            coverage: Coverage::default(),
        })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process begins: handles opened from now on are its own.
    pub fn begin(&self) -> u64 {
        let mut state = self.state();
        state.generation += 1;
        state.changes_left = None;
        state.errors = Errors::default();
        state.generation
    }

    /// The process ends: its handles are refused from now on.
    pub fn end(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.changes_left = None;
        state.reads_to_misdirect = 0;
        state.syncs_to_fail = 0;
        let State { folders, files, .. } = &mut *state;
        let named = |id: &u64| {
            folders.iter().any(|names| {
                let later =
                    names.changes.iter().any(|change| matches!(change, Change::Create(_, new) if new == id));
                later || names.now.values().chain(names.durable.values()).any(|there| there == id)
            })
        };
        files.retain(|id, _| named(id));
    }

    /// Lets so many more writes, syncs and changes of names succeed before the process is dead; `None`
    /// for all.
    pub fn end_after(&self, changes: Option<u64>) {
        self.state().changes_left = changes;
    }

    /// Whether the process has come to the end that [`SimDisk::end_after`] set.
    pub fn is_dead(&self) -> bool {
        self.state().changes_left == Some(0)
    }

    /// Forgets what was not synced.
    pub fn power_off(&self) {
        let mut state = self.state();
        let State { folders, files, rng, garble, coverage, .. } = &mut *state;
        for names in &mut *folders {
            let mut durable = std::mem::take(&mut names.durable);
            for change in std::mem::take(&mut names.changes) {
                if rng.chance(1, 2) {
                    change.apply(&mut durable);
                } else {
                    coverage.hit(Point::NameLost);
                }
            }
            names.now.clone_from(&durable);
            names.durable = durable;
        }
        let live: BTreeSet<u64> = folders.iter().flat_map(|names| names.now.values().copied()).collect();
        files.retain(|id, _| live.contains(id));
        // The engine's head is one sector, which it trusts a disk to write wholly or not at all.
        let log: BTreeSet<u64> = folders[Folder::Wal as usize].now.values().copied().collect();
        for (id, file) in files {
            let (lost, garbled) = file.power_off(rng, *garble && log.contains(id));
            coverage.add(Point::WriteNotSynced, lost);
            coverage.add(Point::SectorGarbled, garbled);
        }
    }

    /// Whether the power may garble a sector that is being written.
    pub fn garble(&self, garble: bool) {
        self.state().garble = garble;
    }

    /// Makes the next syncs of files fail.
    pub fn fail_syncs(&self, syncs: u64) {
        self.state().syncs_to_fail = syncs;
    }

    /// Makes the next reads bring what stands elsewhere.
    pub fn misdirect_reads(&self, reads: u64) {
        self.state().reads_to_misdirect = reads;
    }

    /// No fault of syncs and reads waits any more, and the process is not to die.
    pub fn calm(&self) {
        let mut state = self.state();
        state.syncs_to_fail = 0;
        state.reads_to_misdirect = 0;
        state.changes_left = None;
    }

    /// Goes on in the sequence of its random choices.
    pub fn draw(&self) {
        self.state().rng.next_u64();
    }

    /// Leaves `bytes` of space; `None` for no limit.
    pub fn leave_space(&self, bytes: Option<u64>) {
        let mut state = self.state();
        state.capacity = bytes.map(|bytes| state.used() + bytes);
    }

    /// The errors that the present process was given.
    pub fn errors(&self) -> Errors {
        self.state().errors
    }

    /// What has happened on this disk.
    pub fn coverage(&self) -> Coverage {
        self.state().coverage.clone()
    }

    /// Whether every sector of every file can be read, those included that nobody reads now.
    pub fn is_readable(&self) -> bool {
        self.state().files.values().all(FileBytes::is_readable)
    }

    /// The files of a folder.
    pub fn list(&self, folder: Folder) -> Vec<String> {
        self.state().list(folder)
    }

    /// A file's bytes as a read sees them.
    pub fn bytes(&self, folder: Folder, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let id = state.id(folder, name).ok()?;
        state.files.get(&id).map(|file| file.cached().to_vec())
    }

    /// A copy that shares nothing with this one.
    pub fn duplicate(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Opens a file for the process of `generation`.
    pub(super) fn open(&self, folder: Folder, name: &str, generation: u64) -> io::Result<Handle> {
        let state = self.state();
        state.alive(generation)?;
        let id = state.id(folder, name)?;
        drop(state);
        Ok(Handle { disk: self.clone(), folder, id, generation })
    }

    /// Creates a file, or empties an existing one.
    pub(super) fn create(&self, folder: Folder, name: &str, generation: u64) -> io::Result<Handle> {
        let mut state = self.state();
        state.change(generation)?;
        let id = state.next_id;
        state.next_id += 1;
        state.files.insert(id, FileBytes::default());
        state.change_name(folder, Change::Create(name.to_owned(), id));
        drop(state);
        Ok(Handle { disk: self.clone(), folder, id, generation })
    }

    pub(super) fn rename(&self, folder: Folder, from: &str, to: &str, generation: u64) -> io::Result<()> {
        let mut state = self.state();
        state.change(generation)?;
        state.id(folder, from)?;
        state.change_name(folder, Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    pub(super) fn remove(&self, folder: Folder, name: &str, generation: u64) -> io::Result<()> {
        let mut state = self.state();
        state.change(generation)?;
        state.id(folder, name)?;
        state.change_name(folder, Change::Remove(name.to_owned()));
        Ok(())
    }

    pub(super) fn sync_folder(&self, folder: Folder, generation: u64) -> io::Result<()> {
        let mut state = self.state();
        state.change(generation)?;
        let names = state.names(folder);
        names.changes.clear();
        names.durable.clone_from(&names.now);
        Ok(())
    }
}

/// An open file of one process.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    disk: SimDisk,
    folder: Folder,
    id: u64,
    generation: u64,
}

impl Handle {
    pub(super) fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.alive(self.generation)?;
        Ok(state.file(self.id).len())
    }

    /// Reads as far as the file reaches; the number of bytes.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.alive(self.generation)?;
        let mut from = offset;
        // The log is read once, at the start, and its end cannot be told from what stands elsewhere.
        if self.folder == Folder::Snap && state.reads_to_misdirect > 0 && out.len() as u64 >= SECTOR {
            let State { files, rng, .. } = &mut *state;
            let places =
                files.get(&self.id).map_or(0, |file| file.len().saturating_sub(out.len() as u64)) / SECTOR;
            let place = rng.below(places + 1) * SECTOR;
            let file = state.file(self.id);
            let mut elsewhere = vec![0; out.len()];
            let here = file.read(offset, out)?;
            if file.read(place, &mut elsewhere)? == here && elsewhere != out {
                from = place;
                state.reads_to_misdirect -= 1;
                state.errors.io = true;
                state.coverage.hit(Point::ReadMisdirected);
            }
        }
        let read = state.file(self.id).read(from, out);
        if read.is_err() {
            state.errors.io = true;
            state.coverage.hit(Point::ReadFailed);
        }
        read
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.alive(self.generation)?;
        let growth = state.file(self.id).growth(offset, data.len());
        state.room(growth)?;
        let allowed = state.change(self.generation);
        // The write in which the process dies has reached the cache.
        state.file(self.id).write(offset, data);
        allowed
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change(self.generation)?;
        let growth = len.saturating_sub(state.file(self.id).len());
        state.room(growth)?;
        state.file(self.id).set_len(len);
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change(self.generation)?;
        if state.syncs_to_fail > 0 {
            state.syncs_to_fail -= 1;
            state.errors.io = true;
            state.coverage.hit(Point::SyncFailed);
            state.file(self.id).fail_sync();
            return Err(io::Error::other("input/output error: the sync failed"));
        }
        state.file(self.id).sync();
        Ok(())
    }
}
