//! The backend's thread: flushes, physical compaction, defragmentation and installed snapshots, one
//! at a time and in order. None of them stops the node.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cairn_core::backend::overlay::Flush;
use cairn_core::backend::redb::{RedbBackend, RedbOptions};
use cairn_core::backend::{Backend, Batch, Table};
use cairn_core::error::Fatal;
use cairn_core::mvcc::compact_batch;
use cairn_core::node::Input;
use cairn_core::types::Revision;
use cairn_net::bulk;
use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::{Event, Inbox};
use crate::backend_file::{self, BackendFile, FileState};
use crate::data_dir::{self, DataDir};
use crate::metrics::Metrics;

/// How long to wait for space before the next try.
const FULL_RETRY: Duration = Duration::from_secs(1);
/// How soon to look again whether a replaced database can be closed.
const CLOSE_RETRY: Duration = Duration::from_millis(100);

/// Work for the backend.
#[derive(Debug)]
pub(crate) enum StorageJob {
    Flush { flush: Flush },
    Compact { from: i64, to: i64 },
    Defragment,
    Install,
    Discard,
}

/// A snapshot that is complete on disk, beside the current state.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) backend: RedbBackend,
    pub(crate) file: FileState,
}

/// Snapshots on their way in. They share one path, which is the last one's that has begun.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    pub(crate) begun: u64,
    pub(crate) complete: Option<Incoming>,
}

/// What the thread works on.
pub(crate) struct Storage {
    pub(crate) backend: Arc<RedbBackend>,
    pub(crate) file: FileState,
    pub(crate) fsync: bool,
    pub(crate) dir: DataDir,
    pub(crate) incoming: Arc<Mutex<Transfers>>,
    pub(crate) compaction_rows_max: usize,
    pub(crate) compaction_pause: Duration,
    /// What came during a compaction and has to wait for its end.
    pub(crate) put_off: Option<StorageJob>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Starts the thread; it ends when the sending side is dropped.
pub(crate) fn spawn(
    mut storage: Storage,
    jobs: Receiver<StorageJob>,
    events: Inbox,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("storage".to_owned()).spawn(move || {
        while let Some(job) = storage.next(&jobs) {
            let event =
                storage.perform(job, &jobs, &events).unwrap_or_else(|fatal| Some(Event::Fatal(fatal)));
            if let Some(event) = event
                && events.send(event).is_err()
            {
                return;
            }
        }
    })
}

impl Storage {
    /// The next job. Until it comes, databases that were replaced are closed when their last view is gone,
    /// which is mostly when the node has heard of the new one.
    fn next(&mut self, jobs: &Receiver<StorageJob>) -> Option<StorageJob> {
        if let Some(job) = self.put_off.take() {
            return Some(job);
        }
        while self.backend.close_replaced() {
            match jobs.recv_timeout(CLOSE_RETRY) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        jobs.recv().ok()
    }

    fn perform(
        &mut self,
        job: StorageJob,
        jobs: &Receiver<StorageJob>,
        events: &Inbox,
    ) -> Result<Option<Event>, Fatal> {
        let input = match job {
            StorageJob::Flush { flush } => self.flush(flush, events)?,
            StorageJob::Compact { from, to } => {
                self.compact(from, to, jobs, events)?;
                Input::Compacted { to, size: self.backend.size() }
            }
            StorageJob::Defragment => {
                let started = Instant::now();
                self.metrics.defragment_started();
                let result = self.defragment();
                self.metrics.defragmented(started.elapsed());
                Input::Defragmented { result, size: self.backend.size() }
            }
            StorageJob::Install => {
                self.metrics.snapshot_install_started();
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

    fn flush(&mut self, flush: Flush, events: &Inbox) -> Result<Input, Fatal> {
        let (started, busy) = (Instant::now(), self.file.busy());
        self.commit(&flush.into_batch(), events)?;
        let in_file = self.file.busy().saturating_sub(busy);
        self.metrics.backend_committed(started.elapsed(), in_file);
        Ok(Input::Flushed { size: self.backend.size() })
    }

    /// Commits, and waits for space if the disk is full: the node raises NOSPACE meanwhile, so that
    /// nothing but what frees space is added to what waits in memory.
    fn commit(&mut self, batch: &Batch, events: &Inbox) -> Result<(), Fatal> {
        loop {
            let Err(fatal) = self.backend.commit(batch) else { return Ok(()) };
            if !self.file.is_full() {
                return Err(fatal);
            }
            tracing::error!(
                path = %self.dir.backend().display(),
                "no space left on device: writes are refused until there is space and the alarm is disarmed"
            );
            self.reopen()?;
            let _ = events.send(Event::Input(Input::StorageFull));
            thread::sleep(FULL_RETRY);
        }
    }

    /// Opens the database anew: the engine gives one up after a failed write, while the file is sound.
    fn reopen(&mut self) -> Result<(), Fatal> {
        self.file.retire();
        self.backend.close_replaced();
        let place = self.dir.backend();
        let (file, state) =
            BackendFile::open(&place).map_err(|error| Fatal(format!("{}: {error}", place.display())))?;
        match RedbBackend::open(file, backend_file::options(self.fsync)) {
            Ok(database) => self.adopt(database, state),
            // To be tried again: the commit on the old one fails, and says the same.
            Err(_) if state.is_full() => self.file = state,
            Err(fatal) => return Err(fatal),
        }
        Ok(())
    }

    fn adopt(&mut self, database: RedbBackend, file: FileState) {
        self.backend.replace(database);
        self.file = file;
    }

    /// Physical compaction in batches, with a pause between them for others who use the disk (etcd
    /// #19406 is about the length of the pause). Flushes go on in these pauses; what else comes waits.
    fn compact(
        &mut self,
        from: i64,
        to: i64,
        jobs: &Receiver<StorageJob>,
        events: &Inbox,
    ) -> Result<(), Fatal> {
        let started = Instant::now();
        let mut cursor = Some(Revision::new(from, 0));
        while let Some(from) = cursor {
            let began = Instant::now();
            // Unlike a flush, for which memory waits, it can take its time.
            let (batch, next) = bulk::run(Duration::ZERO, || {
                let view = self.backend.view()?;
                let (batch, next) = compact_batch(view.as_ref(), from, to, self.compaction_rows_max)?;
                drop(view);
                self.commit(&batch, events)?;
                Ok((batch, next))
            })?;
            let gone = batch.changes.iter().filter(|change| change.0 == Table::History).count();
            self.metrics.compacted_batch(began.elapsed(), gone as u64);
            cursor = next;
            if cursor.is_some() {
                self.flush_within(self.compaction_pause, jobs, events)?;
            }
        }
        self.metrics.compacted(started.elapsed());
        Ok(())
    }

    /// Waits for a time, or until a flush is due, which it performs.
    fn flush_within(
        &mut self,
        pause: Duration,
        jobs: &Receiver<StorageJob>,
        events: &Inbox,
    ) -> Result<(), Fatal> {
        if self.put_off.is_some() {
            thread::sleep(pause);
            return Ok(());
        }
        match jobs.recv_timeout(pause) {
            Ok(StorageJob::Flush { flush }) => {
                let flushed = Event::Input(self.flush(flush, events)?);
                // A node that is gone wants nothing more; the loop of the thread finds out as well.
                let _ = events.send(flushed);
            }
            Ok(job) => self.put_off = Some(job),
            // Without its sender the thread ends after this job.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(pause),
            Err(RecvTimeoutError::Timeout) => {}
        }
        Ok(())
    }

    /// Copies what is alive into a new file and swaps it in. Writes go on in the overlay meanwhile,
    /// reads on the old file.
    fn defragment(&mut self) -> Result<(), String> {
        let path = self.dir.backend_with_suffix("defrag");
        let result = self.copy_and_swap(&path);
        if result.is_err() {
            let _ = fs::remove_file(&path);
        }
        result
    }

    fn copy_and_swap(&mut self, path: &Path) -> Result<(), String> {
        let _ = fs::remove_file(path);
        let (file, _) = BackendFile::for_copy(path).map_err(|error| error.to_string())?;
        let copy = || {
            let options = RedbOptions { quick_repair: false, ..backend_file::options(false) };
            drop(self.backend.copy_to(file, options)?);
            reopen_durable(path, self.fsync)
        };
        let (copy, state) = thread::scope(|scope| {
            let copy = bulk::spawn_scoped(scope, "defragment", copy).map_err(|error| error.to_string())?;
            copy.join().expect("a panic ends the process").map_err(|fatal| fatal.0)
        })?;
        self.swap(path, copy, state).map(drop).map_err(|fatal| fatal.0)
    }

    /// Makes `path` the backend's file, atomically, and `database` its contents. Returns how long it
    /// took to make that durable.
    fn swap(&mut self, path: &Path, database: RedbBackend, file: FileState) -> Result<Duration, Fatal> {
        let place = self.dir.backend();
        let failed =
            |error: std::io::Error| Fatal(format!("{}: cannot be replaced: {error}", place.display()));
        fs::rename(path, &place).map_err(failed)?;
        let renamed = Instant::now();
        data_dir::sync_dir(&self.dir.snap()).map_err(failed)?;
        self.adopt(database, file);
        Ok(renamed.elapsed())
    }

    fn install(&mut self) -> Result<(), Fatal> {
        let started = Instant::now();
        let incoming = self.incoming.clone();
        // Held until the path is free for the next one.
        let mut transfers = incoming.lock().unwrap_or_else(PoisonError::into_inner);
        match transfers.complete.take() {
            Some(Incoming { backend, file }) => {
                let sync = self.swap(&self.dir.backend_with_suffix("incoming"), backend, file)?;
                self.metrics.snapshot_placed(started.elapsed(), sync);
                Ok(())
            }
            None => Err(Fatal("a snapshot is to be installed but none has been received".to_owned())),
        }
    }

    fn discard(&self) {
        let mut transfers = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        transfers.complete = None;
        let _ = fs::remove_file(self.dir.backend_with_suffix("incoming"));
    }
}

/// Syncs a file that was written without syncs and opens it for good.
pub(super) fn reopen_durable(path: &Path, fsync: bool) -> Result<(RedbBackend, FileState), Fatal> {
    let failed = |error: std::io::Error| Fatal(format!("{}: {error}", path.display()));
    data_dir::private_file(path).and_then(|file| file.sync_all()).map_err(failed)?;
    let (file, state) = BackendFile::open(path).map_err(failed)?;
    Ok((RedbBackend::open(file, backend_file::options(fsync))?, state))
}
