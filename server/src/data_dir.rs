//! Where a member keeps what: etcd's layout (inventory E-01), with our formats in the files.
//!
//! `DATA/member/wal/*.wal` is the log, `DATA/member/snap/db` the backend, `DATA/member/lock` keeps a
//! second process out.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A member's directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir {
    root: PathBuf,
    wal: PathBuf,
}

/// The directory in use, until dropped.
#[derive(Debug)]
pub struct Locked {
    _file: File,
}

impl DataDir {
    /// The layout below `root`, with the log elsewhere if `wal` says so.
    pub fn new(root: &str, wal: Option<&str>) -> Self {
        let root = PathBuf::from(root);
        let wal = wal.map_or_else(|| root.join("member/wal"), PathBuf::from);
        Self { root, wal }
    }

    /// The whole.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The log's directory.
    pub fn wal(&self) -> &Path {
        &self.wal
    }

    /// The backend's directory.
    pub fn snap(&self) -> PathBuf {
        self.root.join("member/snap")
    }

    /// The backend's file.
    pub fn backend(&self) -> PathBuf {
        self.snap().join("db")
    }

    /// A file beside the backend's.
    pub fn backend_with_suffix(&self, suffix: &str) -> PathBuf {
        self.snap().join(format!("db.{suffix}"))
    }

    /// Creates what is missing and takes the lock.
    ///
    /// # Errors
    /// A directory cannot be made, or another process has the lock; the text names it.
    pub fn open(&self) -> Result<Locked, String> {
        if self.root.join("member").exists() && self.root.join("proxy").exists() {
            return Err("invalid datadir. Both member and proxy directories exist.".to_owned());
        }
        for dir in [self.root.clone(), self.root.join("member"), self.snap(), self.wal.clone()] {
            create_dir(&dir)
                .map_err(|error| format!("cannot create directory {}: {error}", dir.display()))?;
        }
        let path = self.root.join("member/lock");
        let file = private_file(&path).map_err(|error| format!("cannot open {}: {error}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Locked { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(format!(
                "data directory {} is in use by another process; stop it, or give this member a \
                 --data-dir of its own",
                self.root.display()
            )),
            Err(fs::TryLockError::Error(error)) => Err(format!("cannot lock {}: {error}", path.display())),
        }
    }
}

fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Opens or creates a file that only its owner can read.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Makes names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
