//! The files of a write-ahead log as the log sees them: one directory of plain names.
//!
//! This is the log's only way out. The server implements it over `std::fs`, tests and the simulator
//! over [`super::MemDisk`]; the log never learns which one is below it.
//!
//! What the log relies on, and nothing more: data is durable once [`DiskFile::sync_data`] returned,
//! names are durable once [`Disk::sync_dir`] returned, a rename happens wholly or not at all, and a
//! sector of [`SECTOR`] bytes that is rewritten with the same bytes never changes.

use std::fmt::Debug;
use std::io;

/// The unit in which a disk is assumed to write: batches never share one.
pub const SECTOR: u64 = 512;

/// One directory.
pub trait Disk: Send + Debug {
    /// A file of this directory.
    type File: DiskFile;

    /// The names of every file, in any order.
    ///
    /// # Errors
    /// The directory cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens an existing file to read and write it.
    ///
    /// # Errors
    /// It does not exist or cannot be opened.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a new file, or an existing one after emptying it.
    ///
    /// # Errors
    /// It cannot be created.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Gives a file another name; a file that had that name is gone.
    ///
    /// # Errors
    /// There is no `from`, or the directory cannot be written.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// There is none of that name, or the directory cannot be written.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes every name that was created, changed or removed before durable.
    ///
    /// # Errors
    /// Nothing is known about which of them are durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// One open file.
#[allow(clippy::len_without_is_empty, reason = "nothing asks whether a file is empty")]
pub trait DiskFile: Send + Debug {
    /// The file's length in bytes.
    ///
    /// # Errors
    /// The file cannot be read.
    fn len(&self) -> io::Result<u64>;

    /// Reads up to `buf.len()` bytes at `offset`; 0 means the end of the file.
    ///
    /// # Errors
    /// The bytes cannot be read.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `buf` at `offset`; what lies between the end and `offset` becomes zeros.
    ///
    /// # Errors
    /// Any part of it may have been written.
    fn write_all_at(&self, offset: u64, buf: &[u8]) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// The file cannot be changed.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes every byte that was written before durable, and the length that is needed to read it.
    ///
    /// # Errors
    /// Nothing is known about what is durable, now or after another call that succeeds (fsync,
    /// ATC'20): the caller must stop.
    fn sync_data(&self) -> io::Result<()>;
}
