//! The scenarios: each one a set of flags and a `run` that returns its figures.
//!
//! A scenario injects faults and waits; what must hold of the data is decided by `check` alone.

mod big;
mod environment;
mod force_new;
mod grow_shrink;
mod kill_leader;
mod kill_single;
mod rotten_log;
mod watchers;
mod wiped_disk;

pub use big::Big;
pub use environment::Environment;
pub use force_new::ForceNew;
pub use grow_shrink::GrowShrink;
pub use kill_leader::KillLeader;
pub use kill_single::KillSingle;
pub use rotten_log::RottenLog;
pub use watchers::{CountEvents, Watchers};
pub use wiped_disk::WipedDisk;

use std::time::{Duration, Instant};

use crate::Failure;
use crate::client::Outcome;
use crate::process::POLL;

/// Tries again while a change of the membership is refused for the moment, until a deadline.
///
/// A strict reconfiguration check refuses while a connection is younger than five seconds, and a
/// learner is promoted only when it has caught up; both pass by themselves.
///
/// # Errors
/// It never succeeds; the last refusal is in the failure.
pub(crate) async fn insist<T, F>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Outcome<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        match attempt().await {
            Outcome::Ok(value) => return Ok(value),
            other if Instant::now() > deadline => return other.or_fail(what),
            Outcome::Refused(_) | Outcome::Unknown(_) => tokio::time::sleep(10 * POLL).await,
        }
    }
}

/// The value below which `percent` of the samples lie.
pub(crate) fn percentile(samples: &mut [Duration], percent: usize) -> Duration {
    samples.sort_unstable();
    let place = (samples.len() * percent / 100).min(samples.len().saturating_sub(1));
    samples.get(place).copied().unwrap_or_default()
}

/// Bytes as mebibytes with one digit.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Milliseconds with one digit.
pub(crate) fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
