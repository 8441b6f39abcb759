//! A member's engine: redb on its disk, or rows in memory that survive the process.
//!
//! It does what the server's storage thread does, job by job: the file is replaced by a rename and a
//! sync of its folder, and a full disk is waited for with a database that is opened anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_core::backend::mem::MemBackend;
use cairn_core::backend::redb::{RedbBackend, RedbOptions};
use cairn_core::backend::{Backend, Batch, Size};
use cairn_core::error::Fatal;
use cairn_core::mvcc::compact_batch;
use cairn_core::types::Revision;

use super::device::{Folder, SimDisk};
use super::files::DbFile;

/// The database's name, and those of the files that may take its place.
pub const DB: &str = "db";
const INCOMING: &str = "db.incoming";
const DEFRAG: &str = "db.defrag";

/// Which engine a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Rows in memory.
    Memory,
    /// redb with so many bytes of cache.
    Redb {
        /// The cache.
        cache_bytes: usize,
    },
}

/// The engine of a running process.
#[derive(Debug)]
pub enum Store {
    /// Rows in memory.
    Memory(MemBackend),
    /// A database.
    Redb {
        /// The open database.
        backend: Arc<RedbBackend>,
        /// Retires its file.
        retired: Arc<AtomicBool>,
        /// Where its files are.
        disk: SimDisk,
        /// The process that has them open.
        generation: u64,
    },
}

/// A snapshot that has been received.
#[derive(Debug)]
pub enum Incoming {
    /// Rows in memory.
    Memory(MemBackend),
    /// A database beside the present one.
    Redb(RedbBackend, Arc<AtomicBool>),
}

fn io(doing: &str, error: &std::io::Error) -> Fatal {
    Fatal(format!("snap/db: cannot be {doing}: {error}"))
}

/// An open database, and the flag that retires its file.
type Opened = (RedbBackend, Arc<AtomicBool>);

fn open_file(disk: &SimDisk, name: &str, generation: u64, engine: Engine) -> Result<Opened, Fatal> {
    let handle = disk.open(Folder::Snap, name, generation).map_err(|error| io("opened", &error))?;
    let retired = Arc::<AtomicBool>::default();
    let file = DbFile { handle, retired: retired.clone() };
    Ok((RedbBackend::open(file, options(engine))?, retired))
}

fn create_file(disk: &SimDisk, name: &str, generation: u64) -> Result<DbFile, Fatal> {
    let handle = disk.create(Folder::Snap, name, generation).map_err(|error| io("created", &error))?;
    Ok(DbFile { handle, retired: Arc::default() })
}

fn options(engine: Engine) -> RedbOptions {
    match engine {
        Engine::Memory => RedbOptions::default(),
        Engine::Redb { cache_bytes } => RedbOptions { cache_bytes, ..RedbOptions::default() },
    }
}

impl Store {
    /// The first start of a member: its database with the batch in it.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn create(
        engine: Engine,
        disk: &SimDisk,
        generation: u64,
        memory: &MemBackend,
        batch: &Batch,
    ) -> Result<(), Fatal> {
        if engine == Engine::Memory {
            return memory.commit(batch);
        }
        let backend = RedbBackend::open(create_file(disk, DB, generation)?, options(engine))?;
        backend.commit(batch)?;
        disk.sync_folder(Folder::Snap, generation).map_err(|error| io("named", &error))
    }

    /// Opens what the disk holds.
    ///
    /// # Errors
    /// It is missing, damaged or cannot be read.
    pub fn open(engine: Engine, disk: &SimDisk, generation: u64, memory: &MemBackend) -> Result<Self, Fatal> {
        if engine == Engine::Memory {
            return Ok(Self::Memory(memory.clone()));
        }
        for leftover in [INCOMING, DEFRAG] {
            let _ = disk.remove(Folder::Snap, leftover, generation);
        }
        // A name that was seen must not be gone after the next crash.
        disk.sync_folder(Folder::Snap, generation).map_err(|error| io("named", &error))?;
        let (backend, retired) = open_file(disk, DB, generation, engine)?;
        Ok(Self::Redb { backend: Arc::new(backend), retired, disk: disk.clone(), generation })
    }

    /// The engine as the node sees it.
    pub fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Self::Memory(memory) => Arc::new(memory.clone()),
            Self::Redb { backend, .. } => backend.clone(),
        }
    }

    /// Its size.
    pub fn size(&self) -> Size {
        self.backend().size()
    }

    /// Makes a batch durable.
    ///
    /// # Errors
    /// The engine failed.
    pub fn commit(&self, batch: &Batch) -> Result<(), Fatal> {
        match self {
            Self::Memory(memory) => memory.commit(batch),
            Self::Redb { backend, .. } => {
                backend.close_replaced();
                backend.commit(batch)
            }
        }
    }

    /// Opens the database anew: a failed write made the engine give the old one up.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn reopen(&mut self, engine: Engine) -> Result<(), Fatal> {
        if let Self::Redb { backend, retired, disk, generation } = self {
            retired.store(true, Ordering::Relaxed);
            let (database, newer) = open_file(disk, DB, *generation, engine)?;
            backend.replace(database);
            *retired = newer;
        }
        Ok(())
    }

    /// One step of a compaction: where the next begins, `None` when it is done.
    ///
    /// # Errors
    /// The engine failed.
    pub fn compact(&self, cursor: Revision, to: i64, rows: usize) -> Result<Option<Revision>, Fatal> {
        let view = self.backend().view()?;
        let (batch, next) = compact_batch(view.as_ref(), cursor, to, rows)?;
        self.commit(&batch)?;
        Ok(next)
    }

    /// Rewrites the database without its holes.
    ///
    /// # Errors
    /// The copy could not be made; the database is as good as before.
    pub fn defragment(&mut self) -> Result<(), Fatal> {
        let copied = self.copy();
        let swapped = copied.and_then(|copy| copy.map_or(Ok(()), |opened| self.swap(DEFRAG, opened)));
        if let (Err(_), Self::Redb { disk, generation, .. }) = (&swapped, &*self) {
            let _ = disk.remove(Folder::Snap, DEFRAG, *generation);
        }
        swapped
    }

    fn copy(&self) -> Result<Option<Opened>, Fatal> {
        let Self::Redb { backend, disk, generation, .. } = self else { return Ok(None) };
        let file = create_file(disk, DEFRAG, *generation)?;
        let retired = file.retired.clone();
        Ok(Some((backend.copy_to(file, backend.options())?, retired)))
    }

    /// Takes a snapshot's rows in, beside the present state.
    ///
    /// # Errors
    /// The disk refuses; the present state is as good as before.
    pub fn receive(&self, engine: Engine, batch: &Batch) -> Result<Incoming, Fatal> {
        match self {
            Self::Memory(_) => {
                let memory = MemBackend::new();
                memory.commit(batch)?;
                Ok(Incoming::Memory(memory))
            }
            Self::Redb { disk, generation, .. } => {
                let file = create_file(disk, INCOMING, *generation)?;
                let retired = file.retired.clone();
                let received = RedbBackend::open(file, options(engine))?;
                received.commit(batch)?;
                Ok(Incoming::Redb(received, retired))
            }
        }
    }

    /// Replaces the present state by a snapshot that was received.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn install(&mut self, incoming: Incoming) -> Result<(), Fatal> {
        match (&*self, incoming) {
            (Self::Memory(memory), Incoming::Memory(received)) => {
                memory.replace(received);
                Ok(())
            }
            (_, Incoming::Redb(received, retired)) => self.swap(INCOMING, (received, retired)),
            (Self::Redb { .. }, Incoming::Memory(_)) => {
                Err(Fatal("the snapshot was received by another engine".to_owned()))
            }
        }
    }

    /// Forgets a snapshot that was received.
    pub fn discard(&self) {
        if let Self::Redb { disk, generation, .. } = self {
            let _ = disk.remove(Folder::Snap, INCOMING, *generation);
        }
    }

    fn swap(&mut self, name: &str, (database, newer): Opened) -> Result<(), Fatal> {
        let Self::Redb { backend, retired, disk, generation } = self else { return Ok(()) };
        disk.rename(Folder::Snap, name, DB, *generation).map_err(|error| io("replaced", &error))?;
        disk.sync_folder(Folder::Snap, *generation).map_err(|error| io("named", &error))?;
        backend.replace(database);
        *retired = newer;
        Ok(())
    }
}
