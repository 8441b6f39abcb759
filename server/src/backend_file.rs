//! The backend's file under redb: plain reads, writes and syncs, and two things of our own.
//!
//! It notes when the disk is full, so that the storage thread can tell a condition that passes from a
//! failure that does not; and it can be retired, after which a database that is still held by old
//! views can read but never write: a fresh one owns the file by then. The data directory's lock keeps
//! other processes out, so no lock is taken here.
//!
//! What is large is done in pieces, because the log waits for it: for the disk, so a copy is synced while
//! it is written; and for a core, so a file whose name is gone gives its space back step by step.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_core::backend::redb::RedbOptions;
use cairn_net::bulk;
use redb::StorageBackend;

use crate::data_dir::private_file;

/// What is known of a file's disk, shared by the file and those who watch over it.
#[derive(Clone, Debug, Default)]
pub struct FileState {
    full: Arc<AtomicBool>,
    retired: Arc<AtomicBool>,
    busy_nanoseconds: Arc<AtomicU64>,
}

impl FileState {
    /// Whether a write has failed for want of space.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// The time that was spent in writes and syncs.
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy_nanoseconds.load(Ordering::Relaxed))
    }

    /// No write reaches the file any more.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }
}

/// How much of a copy may wait in memory for its way to the disk: the disk is done with it before a
/// write notices.
const AHEAD_BYTES: u64 = 64 << 10;
/// How much space is given back at once: the kernel lets go of its cache meanwhile, and of its core only
/// afterwards. 16 MiB take 5 to 12 ms.
const SHRINK_BYTES: u64 = 256 << 10;

/// How a member runs the engine over such a file.
pub(crate) fn options(fsync: bool) -> RedbOptions {
    RedbOptions { fsync, pause: bulk::pause, ..RedbOptions::default() }
}

/// One open file.
#[derive(Debug)]
pub struct BackendFile {
    file: Arc<File>,
    state: FileState,
    /// In a copy: what was written and not handed to the disk.
    ahead: Option<AtomicU64>,
}

impl BackendFile {
    /// Opens or creates it, readable by its owner only.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<(Self, FileState)> {
        let state = FileState::default();
        let file = Arc::new(private_file(path)?);
        Ok((Self { file, state: state.clone(), ahead: None }, state))
    }

    /// The same for a copy of a database, which is made while a log is written.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn for_copy(path: &Path) -> io::Result<(Self, FileState)> {
        let (mut file, state) = Self::open(path)?;
        file.ahead = Some(AtomicU64::new(0));
        Ok((file, state))
    }

    fn hand_to_disk(&self, len: u64) -> io::Result<()> {
        let Some(ahead) = &self.ahead else { return Ok(()) };
        if ahead.fetch_add(len, Ordering::Relaxed) + len < AHEAD_BYTES {
            return Ok(());
        }
        ahead.store(0, Ordering::Relaxed);
        self.change(File::sync_data)
    }

    fn change(&self, change: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        if self.state.retired.load(Ordering::Relaxed) {
            return Err(io::Error::other("this file belongs to a newer handle"));
        }
        let started = Instant::now();
        let changed = change(&self.file);
        let took = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.state.busy_nanoseconds.fetch_add(took, Ordering::Relaxed);
        changed.inspect_err(|error| {
            if error.kind() == io::ErrorKind::StorageFull {
                self.state.full.store(true, Ordering::Relaxed);
            }
        })
    }
}

impl StorageBackend for BackendFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        bulk::pause();
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|file| file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(File::sync_data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        bulk::pause();
        self.change(|file| file.write_all_at(data, offset))?;
        self.hand_to_disk(data.len() as u64)
    }
}

impl Drop for BackendFile {
    /// A file that was replaced is gone with its last handle, and its space with it.
    fn drop(&mut self) {
        let unlinked = self.file.metadata().is_ok_and(|meta| meta.nlink() == 0);
        if unlinked {
            let file = self.file.clone();
            // Without a thread the space comes back all the same, in one piece.
            let _ = bulk::spawn("reclaim", move || shrink(&file));
        }
    }
}

/// Gives a file's space back in steps, each of which is over before the next begins.
fn shrink(file: &File) {
    let mut len = file.metadata().map_or(0, |meta| meta.len());
    while len > 0 {
        len = len.saturating_sub(SHRINK_BYTES);
        if file.set_len(len).and_then(|()| file.sync_all()).is_err() {
            return;
        }
        bulk::pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_whose_name_is_gone_gives_its_space_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let (file, _) = BackendFile::for_copy(&path).unwrap();
        for at in 0..3 {
            file.write(at * SHRINK_BYTES, &vec![7; 3 * AHEAD_BYTES as usize]).unwrap();
        }
        file.sync_data().unwrap();
        let (len, handle) = (file.len().unwrap(), file.file.clone());
        drop(file);
        assert_eq!(handle.metadata().unwrap().len(), len, "others may open it");
        let (file, _) = BackendFile::open(&path).unwrap();
        let mut page = vec![0; 4096];
        file.read(2 * SHRINK_BYTES, &mut page).unwrap();
        assert!(page.iter().all(|byte| *byte == 7));
        shrink(&handle);
        assert_eq!(handle.metadata().unwrap().len(), 0);
    }
}
