//! The backend's file under redb: plain reads, writes and syncs, and two things of our own.
//!
//! It notes when the disk is full, so that the storage thread can tell a condition that passes from a
//! failure that does not; and it can be retired, after which a database that is still held by old
//! views can read but never write: a fresh one owns the file by then. The data directory's lock keeps
//! other processes out, so no lock is taken here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

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

/// One open file.
#[derive(Debug)]
pub struct BackendFile {
    file: File,
    state: FileState,
}

impl BackendFile {
    /// Opens or creates it, readable by its owner only.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<(Self, FileState)> {
        let state = FileState::default();
        Ok((Self { file: private_file(path)?, state: state.clone() }, state))
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
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|file| file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(File::sync_data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(|file| file.write_all_at(data, offset))
    }
}
