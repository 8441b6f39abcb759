//! The write-ahead log's directory on a real file system.
//!
//! It maps [`Disk`] to system calls one to one: positioned reads and writes, `fdatasync`, and a sync
//! of the directory itself, without which a crash may undo a rename (PACE, OSDI'16). It retries
//! nothing and interprets nothing; what an error means is the log's business.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_core::wal::{Disk, DiskFile};

/// One directory.
#[derive(Debug)]
pub struct FsDisk {
    path: PathBuf,
    /// Kept open: the directory is synced after each change of a name.
    directory: File,
    times: Arc<DiskTimes>,
}

/// One open file.
#[derive(Debug)]
pub struct FsFile {
    file: File,
    times: Arc<DiskTimes>,
}

/// Where the time of a directory's files goes.
#[derive(Debug, Default)]
pub struct DiskTimes {
    sync_nanoseconds: AtomicU64,
}

impl DiskTimes {
    /// The time that all syncs of files took.
    pub fn sync(&self) -> Duration {
        Duration::from_nanos(self.sync_nanoseconds.load(Ordering::Relaxed))
    }
}

impl FsDisk {
    /// The directory at `path`, created with mode 0700 when there is none; its parents must exist.
    ///
    /// # Errors
    /// It cannot be created or opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {
                if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                    File::open(parent)?.sync_all()?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let directory = File::open(path)?;
        Ok(Self { path: path.to_owned(), directory, times: Arc::default() })
    }

    /// Where the time goes; goes on counting.
    pub fn times(&self) -> Arc<DiskTimes> {
        self.times.clone()
    }

    fn file(&self, file: File) -> FsFile {
        FsFile { file, times: self.times.clone() }
    }
}

impl Disk for FsDisk {
    type File = FsFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // The log gives no file a name that is not ASCII, so such a file is not its own.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<FsFile> {
        OpenOptions::new().read(true).write(true).open(self.path.join(name)).map(|file| self.file(file))
    }

    fn create(&self, name: &str) -> io::Result<FsFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        options.open(self.path.join(name)).map(|file| self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

impl DiskFile for FsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_all_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let started = Instant::now();
        let synced = self.file.sync_data();
        let took = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.times.sync_nanoseconds.fetch_add(took, Ordering::Relaxed);
        synced
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use cairn_core::wal::{Append, HardState, LogEntry, Metadata, Wal, WalOptions};

    use super::*;

    fn append(index: u64) -> Append {
        let entry = LogEntry { term: 1, index, data: vec![index as u8; 1000].into(), ..LogEntry::default() };
        let hard_state = HardState { term: 1, vote: 2, commit: index - 1 };
        Append { entries: vec![entry], hard_state: Some(hard_state), ..Append::default() }
    }

    #[test]
    fn a_log_on_files_is_written_recycled_and_read_back() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("wal");
        let options = WalOptions { segment_bytes: 64 << 10, fsync: true };
        let metadata = Metadata { cluster_id: 3, member_id: 4 };
        let mut wal = Wal::create(FsDisk::open(&path).unwrap(), metadata, &append(1), options).unwrap();
        for index in 2..=200 {
            wal.append(&append(index)).unwrap();
            if index == 100 {
                while wal.prepare_next().unwrap() {}
                wal.release(99).unwrap();
            }
        }
        wal.seal().unwrap();
        drop(wal);

        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        let files: Vec<PathBuf> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 3 && files.iter().all(|file| mode(file) == 0o600), "{files:?}");

        let (mut wal, recovered) = Wal::open(FsDisk::open(&path).unwrap(), options).unwrap();
        assert_eq!(recovered.metadata, metadata);
        assert_eq!(recovered.hard_state, HardState { term: 1, vote: 2, commit: 199 });
        assert!((1..=99).contains(&recovered.log_start.index));
        let expected = (recovered.log_start.index + 1..=200).map(|index| append(index).entries.remove(0));
        assert!(recovered.entries.into_iter().eq(expected));
        wal.append(&append(201)).unwrap();
    }
}
