//! The log's thread: writes and syncs appends in order, several at a time when they have gathered.
//!
//! Invariant: `Appended` is reported only after the sync that covers it. A failed write or sync ends
//! the process; it is never tried again, because the kernel may have dropped the dirty pages (ATC'20).

use std::io::ErrorKind;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cairn_core::error::Fatal;
use cairn_core::node::Input;
use cairn_core::types::Index;
use cairn_core::wal::{Append, Damaged, LogEntry, Wal, WalError};
use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::{Event, Inbox};
use crate::metrics::{LogTimes, Metrics};
use crate::wal_disk::{DiskTimes, FsDisk};

/// A log that has been quiet for this long is sealed, so that damage to its end can be told from a
/// torn write.
const SEAL_AFTER: Duration = Duration::from_secs(1);

/// A sync that takes longer is worth a warning.
const SYNC_EXPECTED: Duration = Duration::from_secs(1);

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

/// Starts the thread; it ends when the sending side is dropped.
pub(crate) fn spawn(
    wal: Wal<FsDisk>,
    jobs: Receiver<LogJob>,
    events: Inbox,
    times: Arc<DiskTimes>,
    metrics: Arc<Metrics>,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("log".to_owned()).spawn(move || {
        if let Err(error) = run(wal, &jobs, &events, &times, &metrics) {
            let _ = events.send(Event::Fatal(Fatal(error.to_string())));
        }
    })
}

fn run(
    mut wal: Wal<FsDisk>,
    jobs: &Receiver<LogJob>,
    events: &Inbox,
    times: &DiskTimes,
    metrics: &Metrics,
) -> Result<(), WalError> {
    let mut sealed = true;
    // Bytes appended since the next segment was last known to be prepared.
    let mut unprepared = u64::MAX;
    loop {
        let wait = match (unprepared >= PREPARE_EVERY, sealed) {
            (true, _) => Some(PREPARE_AFTER),
            (false, false) => Some(SEAL_AFTER),
            (false, true) => None,
        };
        let job = match wait.map_or_else(|| jobs.recv().map_err(Into::into), |wait| jobs.recv_timeout(wait)) {
            Ok(job) => job,
            Err(RecvTimeoutError::Disconnected) => return wal.seal(),
            Err(RecvTimeoutError::Timeout) if unprepared >= PREPARE_EVERY => {
                if !prepare(&mut wal, events)? {
                    unprepared = 0;
                }
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {
                wal.seal()?;
                sealed = true;
                continue;
            }
        };
        let mut next = Some(job);
        while let Some(job) = next.take() {
            match job {
                LogJob::Release { index } => wal.release(index)?,
                LogJob::Repair { seq, entries } => {
                    wal.repair(&entries)?;
                    if events.send(Event::Input(Input::Appended { seq })).is_err() {
                        return wal.seal();
                    }
                }
                LogJob::Append { mut seq, mut append } => {
                    // What has gathered meanwhile shares the sync, as far as it continues this append.
                    while let Ok(job) = jobs.try_recv() {
                        match job {
                            LogJob::Append { seq: later, append: more } if continues(&append, &more) => {
                                seq = later;
                                append.entries.extend(more.entries);
                                append.hard_state = more.hard_state.or(append.hard_state);
                            }
                            other => {
                                next = Some(other);
                                break;
                            }
                        }
                    }
                    let (started, sync_before) = (Instant::now(), times.sync());
                    let stats = wal.append(&append)?;
                    let sync = times.sync() - sync_before;
                    let write = started.elapsed().saturating_sub(sync);
                    if sync > SYNC_EXPECTED {
                        tracing::warn!(
                            "took" = format!("{sync:?}"),
                            "expected-duration" = format!("{SYNC_EXPECTED:?}"),
                            "slow fdatasync"
                        );
                    }
                    metrics.wal_synced(LogTimes { write, sync }, stats.bytes);
                    sealed = false;
                    unprepared = unprepared.saturating_add(stats.bytes);
                    let appended = Event::Input(Input::Appended { seq });
                    // What waits for the disk comes first; a log at rest applies what it has written.
                    let rests = next.is_none() && jobs.is_empty();
                    let sent = if rests { events.send(appended) } else { events.send_on(appended) };
                    if sent.is_err() {
                        return wal.seal();
                    }
                }
            }
        }
    }
}

/// One step towards the next segment; true when another is due. A full disk is the node's to know.
fn prepare(wal: &mut Wal<FsDisk>, events: &Inbox) -> Result<bool, WalError> {
    match wal.prepare_next() {
        Err(WalError::Io { kind: ErrorKind::StorageFull, .. }) => {
            let _ = events.send(Event::Input(Input::StorageFull));
            Ok(false)
        }
        result => result,
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
