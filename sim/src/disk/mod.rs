//! A member's disk, and the work that its two imaginary threads do on it: the log's and the engine's.
//!
//! Jobs are performed in order, as in the server. A crash finds the job at the head of each queue not
//! begun, in the middle, or done but not reported.

mod bytes;
mod damage;
mod device;
mod files;
mod store;

use cairn_core::backend::Batch;
use cairn_core::node::Input;
use cairn_core::rng::Rng;
use cairn_core::types::Revision;
use cairn_core::wal::{Append, Damaged, LogEntry, Wal, WalError};

pub use device::{Errors, Folder, SimDisk};
pub use files::{WalDir, WalFile};
pub use store::{DB, Engine, Incoming, Store};

/// Changes of the disk in the longest job of the log and of the engine that a crash may fall into.
const LOG_CHANGES: u64 = 7;
const STORE_CHANGES: u64 = 40;

/// Work for the log.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum LogJob {
    Append { seq: u64, append: Append },
    Repair { seq: u64, entries: Vec<(Damaged, LogEntry)> },
    Release { index: u64 },
    Seal,
    Prepare,
}

/// Work for the backend.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum StorageJob {
    Flush { batch: Batch },
    Compact { cursor: Revision, to: i64 },
    Defragment,
    Install,
    Discard,
}

/// Performs a job of the log; the input that reports it, if any. A full disk met while the next
/// segment is prepared is reported and passes.
///
/// # Errors
/// The log refuses.
pub fn perform_log(wal: &mut Wal<WalDir>, job: &LogJob) -> Result<Option<Input>, WalError> {
    Ok(match job {
        LogJob::Append { seq, append } => {
            wal.append(append)?;
            Some(Input::Appended { seq: *seq })
        }
        LogJob::Repair { seq, entries } => {
            wal.repair(entries)?;
            Some(Input::Appended { seq: *seq })
        }
        LogJob::Release { index } => {
            wal.release(*index)?;
            None
        }
        LogJob::Seal => {
            wal.seal()?;
            None
        }
        LogJob::Prepare => match wal.prepare_next() {
            Err(WalError::Io { kind: std::io::ErrorKind::StorageFull, .. }) => Some(Input::StorageFull),
            result => result.map(|_| None)?,
        },
    })
}

/// The process ends in the middle of what its log was doing; its writes are in the cache.
pub fn crash_log(disk: &SimDisk, wal: &mut Wal<WalDir>, jobs: impl Iterator<Item = LogJob>, rng: &mut Rng) {
    for job in jobs {
        match rng.below(3) {
            0 => break,
            1 => {
                disk.end_after(Some(rng.below(LOG_CHANGES)));
                let _ = perform_log(wal, &job);
                break;
            }
            _ => {
                if perform_log(wal, &job).is_err() {
                    break;
                }
            }
        }
    }
}

/// The process ends in the middle of what its engine was doing.
pub fn crash_store(
    disk: &SimDisk,
    store: &mut Store,
    job: Option<StorageJob>,
    incoming: Option<Incoming>,
    rng: &mut Rng,
) {
    let Some(job) = job else { return };
    let memory = matches!(store, Store::Memory(_));
    match rng.below(3) {
        0 => return,
        // Rows in memory know no middle.
        1 if memory => return,
        1 => disk.end_after(Some(rng.below(STORE_CHANGES))),
        _ => disk.end_after(None),
    }
    let _ = match (job, incoming) {
        (StorageJob::Flush { batch }, _) => store.commit(&batch),
        (StorageJob::Compact { cursor, to }, _) => store.compact(cursor, to, 10).map(drop),
        (StorageJob::Defragment, _) => store.defragment(),
        (StorageJob::Install, Some(incoming)) => store.install(incoming),
        _ => Ok(()),
    };
}
