//! A member's disk: the directory of its log, which forgets at a crash what was not synced, and its
//! backend, which is what the last completed commit made it.
//!
//! Jobs are performed in order by two imaginary threads, as in the server. A crash finds the job at
//! the head of each queue not begun, in the middle, or done but not reported.

use std::sync::{Mutex, PoisonError};

use cairn_core::backend::mem::MemBackend;
use cairn_core::backend::{Backend, Batch};
use cairn_core::error::Fatal;
use cairn_core::mvcc::compact_batch;
use cairn_core::node::Input;
use cairn_core::rng::Rng;
use cairn_core::types::{MemberId, Revision};
use cairn_core::wal::{Append, MemDisk, Wal, WalError};

use crate::runtime::PowerOff;

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

/// The process ends in the middle of what its log was doing; its writes are in the cache.
pub fn crash_log(disk: &MemDisk, wal: &mut Wal<MemDisk>, jobs: impl Iterator<Item = LogJob>, rng: &mut Rng) {
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
    disk.stop_after(u64::MAX);
}

/// What the loss of a machine's power does to its disk.
pub fn power_off(disk: &MemDisk, seed: u64, member: MemberId) -> PowerOff {
    let disk = disk.clone();
    let rng = Mutex::new(Rng::derive(seed, &[0xd15c, member]));
    Box::new(move || disk.crash(&mut rng.lock().unwrap_or_else(PoisonError::into_inner)))
}
