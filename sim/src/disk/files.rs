//! The disk as its two users see it: a directory of the log, and the file below redb.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_core::wal::{Disk, DiskFile};
use redb::StorageBackend;

use super::device::{Folder, Handle, SimDisk};

/// The log's directory, open in one process.
#[derive(Clone, Debug)]
pub struct WalDir {
    disk: SimDisk,
    generation: u64,
}

impl WalDir {
    /// The directory for the process that [`SimDisk::begin`] named.
    pub fn new(disk: SimDisk, generation: u64) -> Self {
        Self { disk, generation }
    }
}

/// A segment's file.
#[derive(Debug)]
pub struct WalFile(Handle);

impl Disk for WalDir {
    type File = WalFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk.list(Folder::Wal))
    }

    fn open(&self, name: &str) -> io::Result<WalFile> {
        self.disk.open(Folder::Wal, name, self.generation).map(WalFile)
    }

    fn create(&self, name: &str) -> io::Result<WalFile> {
        self.disk.create(Folder::Wal, name, self.generation).map(WalFile)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(Folder::Wal, from, to, self.generation)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(Folder::Wal, name, self.generation)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_folder(Folder::Wal, self.generation)
    }
}

impl DiskFile for WalFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(offset, buf)
    }

    fn write_all_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.0.write(offset, buf)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }
}

/// A database's file. Once it is retired nothing is written to it: a newer handle owns the file, and
/// old views only read.
#[derive(Debug)]
pub(super) struct DbFile {
    pub(super) handle: Handle,
    pub(super) retired: Arc<AtomicBool>,
}

impl DbFile {
    fn writable(&self) -> io::Result<&Handle> {
        if self.retired.load(Ordering::Relaxed) {
            return Err(io::Error::other("this file belongs to a newer handle"));
        }
        Ok(&self.handle)
    }
}

impl StorageBackend for DbFile {
    fn len(&self) -> io::Result<u64> {
        self.handle.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.handle.read(offset, out)? == out.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable()?.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.writable()?.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writable()?.write(offset, data)
    }
}
