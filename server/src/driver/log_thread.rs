//! Writes and syncs the log's appends in order, several at a time when they have gathered.
//!
//! Invariant: `Appended` is reported only after the sync that covers it. A failed write or sync ends
//! the process; it is never tried again, because the kernel may have dropped the dirty pages (ATC'20).

use std::io::ErrorKind;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cairn_core::node::Input;
use cairn_core::types::Index;
use cairn_core::wal::{Append, Damaged, LogEntry, Wal, WalError};

use super::log_lane::LogLane;
use super::{Event, Inbox};
use crate::metrics::{LogTimes, Metrics};
use crate::wal_disk::{DiskTimes, FsDisk};

/// A log that has been quiet for this long is sealed, so that damage to its end can be told from a
/// torn write.
const SEAL_AFTER: Duration = Duration::from_secs(1);

/// A sync that takes longer is worth a warning.
const SYNC_EXPECTED: Duration = Duration::from_secs(1);

/// A write that takes longer costs its bringer more than the switch to the log's thread would.
const BRINGER_PATIENCE: Duration = Duration::from_millis(1);

/// Appended bytes after which the next segment is looked after again.
const PREPARE_EVERY: u64 = 1 << 20;
/// The pause in appends that is used for it.
const PREPARE_AFTER: Duration = Duration::from_millis(5);

/// Work for the log.
#[derive(Debug)]
pub(crate) enum LogJob {
    Append { seq: u64, append: Append },
    Repair { seq: u64, entries: Vec<(Damaged, LogEntry)> },
    Release { index: Index },
}

/// The node's end of the log, which is closed when it is dropped.
pub(crate) struct LogSender(LogLane);

impl LogSender {
    /// Gives it a job; `lone` if nothing else is under way.
    pub(super) fn send(&self, job: LogJob, lone: bool) {
        self.0.send(job, lone);
    }
}

impl Drop for LogSender {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Starts the thread; it ends when the sender is dropped.
pub(crate) fn spawn(
    wal: Wal<FsDisk>,
    events: Inbox,
    times: Arc<DiskTimes>,
    metrics: Arc<Metrics>,
) -> std::io::Result<(LogLane, LogSender, thread::JoinHandle<()>)> {
    let lane = LogLane::new(Writer::new(wal, times, metrics), events, BRINGER_PATIENCE);
    let runs = lane.clone();
    let thread = thread::Builder::new().name("log".to_owned()).spawn(move || runs.run())?;
    Ok((lane.clone(), LogSender(lane), thread))
}

/// The log and what is known of its end.
pub(super) struct Writer {
    wal: Wal<FsDisk>,
    times: Arc<DiskTimes>,
    metrics: Arc<Metrics>,
    sealed: bool,
    /// Bytes appended since the next segment was last known to be prepared.
    unprepared: u64,
    /// When it was last written to.
    last: Instant,
}

impl Writer {
    pub(super) fn new(wal: Wal<FsDisk>, times: Arc<DiskTimes>, metrics: Arc<Metrics>) -> Self {
        Self { wal, times, metrics, sealed: true, unprepared: u64::MAX, last: Instant::now() }
    }

    /// Does `job`, with the appends of `lane` that continue it, and tells what `Appended` reports.
    pub(super) fn work(&mut self, job: LogJob, lane: &LogLane) -> Result<Option<u64>, WalError> {
        match job {
            LogJob::Release { index } => self.wal.release(index).map(|()| None),
            LogJob::Repair { seq, entries } => self.wal.repair(&entries).map(|_| Some(seq)),
            LogJob::Append { mut seq, mut append } => {
                // What has gathered meanwhile shares the sync, as far as it continues this append.
                let joins = |append: &Append, job: &LogJob| matches!(job, LogJob::Append { append: more, .. } if continues(append, more));
                while let Some(LogJob::Append { seq: later, append: more }) =
                    lane.pop_if(|job| joins(&append, job))
                {
                    seq = later;
                    append.entries.extend(more.entries);
                    append.hard_state = more.hard_state.or(append.hard_state);
                }
                self.append(&append).map(|()| Some(seq))
            }
        }
    }

    fn append(&mut self, append: &Append) -> Result<(), WalError> {
        let (started, sync_before) = (Instant::now(), self.times.sync());
        let stats = self.wal.append(append)?;
        self.last = Instant::now();
        let sync = self.times.sync() - sync_before;
        let write = (self.last - started).saturating_sub(sync);
        if sync > SYNC_EXPECTED {
            tracing::warn!(
                "took" = format!("{sync:?}"),
                "expected-duration" = format!("{SYNC_EXPECTED:?}"),
                "slow fdatasync"
            );
        }
        self.metrics.wal_synced(LogTimes { write, sync }, stats.bytes);
        self.sealed = false;
        self.unprepared = self.unprepared.saturating_add(stats.bytes);
        Ok(())
    }

    /// How long the log must rest until [`Writer::rest`] has something to do.
    pub(super) fn pause(&self) -> Option<Duration> {
        let after = match (self.unprepared >= PREPARE_EVERY, self.sealed) {
            (true, _) => PREPARE_AFTER,
            (false, false) => SEAL_AFTER,
            (false, true) => return None,
        };
        Some(after.saturating_sub(self.last.elapsed()))
    }

    /// Uses a pause in appends.
    pub(super) fn rest(&mut self, events: &Inbox) -> Result<(), WalError> {
        let rested = self.last.elapsed();
        if self.unprepared >= PREPARE_EVERY {
            if rested >= PREPARE_AFTER {
                let more = self.prepare(events)?;
                self.unprepared = if more { self.unprepared } else { 0 };
                self.last = Instant::now();
            }
        } else if !self.sealed && rested >= SEAL_AFTER {
            self.seal()?;
        }
        Ok(())
    }

    pub(super) fn seal(&mut self) -> Result<(), WalError> {
        self.sealed = true;
        self.wal.seal()
    }

    /// One step towards the next segment; true when another is due. A full disk is the node's to know.
    fn prepare(&mut self, events: &Inbox) -> Result<bool, WalError> {
        match self.wal.prepare_next() {
            Err(WalError::Io { kind: ErrorKind::StorageFull, .. }) => {
                let _ = events.send_on(Event::Input(Input::StorageFull));
                Ok(false)
            }
            result => result,
        }
    }
}

/// Whether `more` can be written as the tail of `append`.
fn continues(append: &Append, more: &Append) -> bool {
    let follows = match (append.entries.last(), more.entries.first()) {
        (Some(last), Some(first)) => first.index == last.index + 1,
        (_, None) => true,
        (None, Some(_)) => append.log_start.is_none(),
    };
    more.log_start.is_none() && follows
}
