//! A member's disk: the directory of its log, which forgets at a crash what was not synced, and its
//! backend, which is what the last completed commit made it.
//!
//! Jobs are performed in order by two imaginary threads, as in the server. A crash finds the job at
//! the head of each queue not begun, in the middle, or done but not reported.

use cairn_core::backend::mem::MemBackend;
use cairn_core::backend::{Backend, Batch};
use cairn_core::error::Fatal;
use cairn_core::mvcc::compact_batch;
use cairn_core::node::Input;
use cairn_core::rng::Rng;
use cairn_core::types::Revision;
use cairn_core::wal::{Append, MemDisk, Wal, WalError};

/// Work for the log.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum LogJob {
    Append { seq: u64, append: Append },
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

/// Performs a job of the log; the input that reports it, if any.
///
/// # Errors
/// The log refuses.
pub fn perform_log(wal: &mut Wal<MemDisk>, job: &LogJob) -> Result<Option<Input>, WalError> {
    Ok(match job {
        LogJob::Append { seq, append } => {
            wal.append(append)?;
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
        LogJob::Prepare => {
            wal.prepare_next()?;
            None
        }
    })
}

/// One step of a compaction: where the next begins, `None` when it is done.
///
/// # Errors
/// The backend failed.
pub fn compact_step(
    backend: &MemBackend,
    cursor: Revision,
    to: i64,
    rows: usize,
) -> Result<Option<Revision>, Fatal> {
    let view = backend.view()?;
    let (batch, next) = compact_batch(view.as_ref(), cursor, to, rows)?;
    backend.commit(&batch)?;
    Ok(next)
}

/// The power goes, or only the process: `power` decides whether the cache is lost too. `job` is what
/// the log was doing.
pub fn crash_log(
    disk: &MemDisk,
    wal: &mut Wal<MemDisk>,
    jobs: impl Iterator<Item = LogJob>,
    power: bool,
    rng: &mut Rng,
) {
    for job in jobs {
        match rng.below(3) {
            0 => break,
            1 => {
                disk.stop_after(rng.below(7));
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
    if power {
        disk.crash(rng);
    } else {
        disk.stop_after(u64::MAX);
    }
}
