//! The backend's thread: flushes, physical compaction, defragmentation and installed snapshots, one
//! at a time and in order. None of them stops the node.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cairn_core::backend::redb::RedbBackend;
use cairn_core::backend::{Backend, Batch};
use cairn_core::error::Fatal;
use cairn_core::mvcc::compact_batch;
use cairn_core::node::Input;
use cairn_core::types::Revision;
use crossbeam_channel::{Receiver, Sender};

use super::Event;
use crate::data_dir::{self, DataDir};
use crate::metrics::Metrics;

/// Work for the backend.
#[derive(Debug)]
pub(crate) enum StorageJob {
    Flush { batch: Batch },
    Compact { from: i64, to: i64 },
    Defragment,
    Install,
    Discard,
}

/// A snapshot that has been received, or is being received, beside the current state.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) backend: RedbBackend,
    pub(crate) complete: bool,
}

/// What the thread works on.
pub(crate) struct Storage {
    pub(crate) backend: Arc<RedbBackend>,
    pub(crate) dir: DataDir,
    pub(crate) incoming: Arc<Mutex<Option<Incoming>>>,
    pub(crate) compaction_rows_max: usize,
    pub(crate) compaction_pause: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

/// Starts the thread; it ends when the sending side is dropped.
pub(crate) fn spawn(
    storage: Storage,
    jobs: Receiver<StorageJob>,
    events: Sender<Event>,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("storage".to_owned()).spawn(move || {
        for job in jobs {
            let event = storage.perform(job).unwrap_or_else(|fatal| Some(Event::Fatal(fatal)));
            if let Some(event) = event
                && events.send(event).is_err()
            {
                return;
            }
        }
    })
}

impl Storage {
    fn perform(&self, job: StorageJob) -> Result<Option<Event>, Fatal> {
        let input = match job {
            StorageJob::Flush { batch } => {
                let started = Instant::now();
                self.backend.commit(&batch)?;
                self.metrics.backend_committed(started.elapsed());
                Input::Flushed { size: self.backend.size() }
            }
            StorageJob::Compact { from, to } => {
                self.compact(from, to)?;
                Input::Compacted { to, size: self.backend.size() }
            }
            StorageJob::Defragment => {
                let started = Instant::now();
                let result = self.defragment();
                self.metrics.defragmented(started.elapsed());
                Input::Defragmented { result, size: self.backend.size() }
            }
            StorageJob::Install => {
                self.install()?;
                Input::SnapshotInstalled { size: self.backend.size() }
            }
            StorageJob::Discard => {
                self.discard();
                return Ok(None);
            }
        };
        Ok(Some(Event::Input(input)))
    }

    /// Physical compaction in batches, with a pause between them so that flushes of others on the
    /// same disk get their turn (etcd #19406 is about the length of the pause).
    fn compact(&self, from: i64, to: i64) -> Result<(), Fatal> {
        let started = Instant::now();
        let mut cursor = Some(Revision::new(from, 0));
        while let Some(from) = cursor {
            let view = self.backend.view()?;
            let (batch, next) = compact_batch(view.as_ref(), from, to, self.compaction_rows_max)?;
            self.backend.commit(&batch)?;
            cursor = next;
            if cursor.is_some() {
                thread::sleep(self.compaction_pause);
            }
        }
        self.metrics.compacted(started.elapsed());
        Ok(())
    }

    /// Copies what is alive into a new file and swaps it in. Writes go on in the overlay meanwhile,
    /// reads on the old file.
    fn defragment(&self) -> Result<(), String> {
        let path = self.dir.backend_with_suffix("defrag");
        let result = self.copy_and_swap(&path);
        if result.is_err() {
            let _ = fs::remove_file(&path);
        }
        result
    }

    fn copy_and_swap(&self, path: &Path) -> Result<(), String> {
        let _ = fs::remove_file(path);
        let file = data_dir::backend_file(path).map_err(|error| error.to_string())?;
        let copy = self.backend.copy_to(file).map_err(|fatal| fatal.0)?;
        self.swap(path, copy).map_err(|fatal| fatal.0)
    }

    /// Makes `path` the backend's file, atomically, and `database` its contents.
    fn swap(&self, path: &Path, database: RedbBackend) -> Result<(), Fatal> {
        let place = self.dir.backend();
        fs::rename(path, &place)
            .and_then(|()| data_dir::sync_dir(&self.dir.snap()))
            .map_err(|error| Fatal(format!("{}: cannot be replaced: {error}", place.display())))?;
        self.backend.replace(database);
        Ok(())
    }

    fn install(&self) -> Result<(), Fatal> {
        let incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner).take();
        match incoming {
            Some(Incoming { backend, complete: true }) => {
                self.swap(&self.dir.backend_with_suffix("incoming"), backend)
            }
            _ => Err(Fatal("a snapshot is to be installed but none has been received".to_owned())),
        }
    }

    fn discard(&self) {
        *self.incoming.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = fs::remove_file(self.dir.backend_with_suffix("incoming"));
    }
}
