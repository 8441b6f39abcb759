//! Threads that work in bulk, such as a defragmentation, a whole snapshot or a range over everything,
//! beside those that answer clients.
//!
//! On a machine whose cores are all in use such a thread would otherwise run to the end of its slice of
//! a few milliseconds each time, while a write waits for its turn: even at the lowest priority, for the
//! scheduler protects a slice that has begun. So the work sleeps for a moment at each [`pause`], and goes
//! on when nobody else wants the core.
//!
//! It does not yield, nor wait in ways that do: where the work is the only thread that is ready, each
//! yield moves its virtual time ahead by a slice of its low weight, a fifth of a second. Linux 6.18 then
//! judges all others by that time, the kernel's own threads that send a flush to the disk as well, and a
//! write has been seen to wait for 116 ms. The idle class (`SCHED_IDLE`) is no way out: the disk serves it
//! last, and a write then waits for a block of inodes that such a thread is writing.

use std::cell::Cell;
use std::io;
#[cfg(target_os = "linux")]
use std::num::NonZeroU64;
use std::thread::{self, Builder, JoinHandle, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// What is left of a core goes to the work; it never quite stops it.
const LEAST_URGENT: i32 = 19;
/// How long the work keeps a core for itself.
const SLICE: Duration = Duration::from_micros(250);
/// How long it sleeps then, and the kernel may take a few microseconds more.
const REST: Duration = Duration::from_micros(10);

thread_local! {
    /// When this thread is to give way, if it works in bulk.
    static GIVE_WAY: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Whether its timers are as punctual as a short rest needs them.
    static PUNCTUAL: Cell<bool> = const { Cell::new(false) };
}

/// Runs work that gives way to other threads at each [`pause`], if it is not over after `grace`.
pub fn run<T>(grace: Duration, work: impl FnOnce() -> T) -> T {
    GIVE_WAY.set(Some(Instant::now() + grace));
    let result = work();
    GIVE_WAY.set(None);
    result
}

/// A place in long work where other threads may go first. On any other thread it does nothing.
pub fn pause() {
    if GIVE_WAY.get().is_some_and(|due| due <= Instant::now()) {
        rest();
        GIVE_WAY.set(Some(Instant::now() + SLICE));
    }
}

fn rest() {
    if !PUNCTUAL.replace(true) {
        become_punctual();
    }
    thread::sleep(REST);
}

/// Linux lets a timer be 50 us late to save a wakeup, unless a thread has asked for less.
#[cfg(target_os = "linux")]
fn become_punctual() {
    const SLACK_NANOSECONDS: NonZeroU64 = NonZeroU64::MIN;
    if let Err(error) = rustix::thread::set_current_timer_slack(Some(SLACK_NANOSECONDS)) {
        tracing::debug!(%error, "a thread rests longer than it should");
    }
}

#[cfg(not(target_os = "linux"))]
fn become_punctual() {}

fn step_back() {
    GIVE_WAY.set(Some(Instant::now()));
    // On Linux this is the thread's own; it may always be given up.
    if let Err(error) = rustix::process::setpriority_process(None, LEAST_URGENT) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

/// Starts a thread for work in bulk.
///
/// # Errors
/// The system has no room for a thread.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        step_back();
        work();
    })
}

/// The same for work that borrows.
///
/// # Errors
/// The system has no room for a thread.
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.to_owned()).spawn_scoped(scope, move || {
        step_back();
        work()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(1000);

    #[test]
    fn work_gives_way_when_it_has_become_long() {
        pause();
        assert_eq!(GIVE_WAY.get(), None, "this thread does not work in bulk");
        run(GRACE, || {
            let begun = GIVE_WAY.get();
            pause();
            assert_eq!(GIVE_WAY.get(), begun, "it is short yet");
            GIVE_WAY.set(Some(Instant::now()));
            pause();
            assert!(GIVE_WAY.get() > begun.map(|due| due - GRACE));
            #[cfg(target_os = "linux")]
            assert_eq!(rustix::thread::current_timer_slack().unwrap(), 1, "its rests are short");
        });
        assert_eq!(GIVE_WAY.get(), None);
    }

    #[test]
    fn only_the_thread_itself_steps_back() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let before = priority();
        let inside = thread::scope(|scope| spawn_scoped(scope, "bulk", priority).unwrap().join().unwrap());
        assert_eq!((inside, priority()), (LEAST_URGENT, before));
    }
}
