//! Threads that work in bulk, such as a defragmentation, a whole snapshot or a range over everything,
//! beside those that answer clients.
//!
//! On a machine whose cores are all in use such a thread would otherwise run to the end of its slice of
//! a few milliseconds each time, while a write waits for its turn: even at the lowest priority, for the
//! scheduler protects a slice that has begun. So the work offers its core at each [`pause`]. That costs
//! little where nobody waits, and where somebody does, the work goes on when they are done.

use std::cell::Cell;
use std::io;
use std::thread::{self, Builder, JoinHandle, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// What is left of a core goes to the work; it never quite stops it.
const LEAST_URGENT: i32 = 19;
/// How long the work keeps a core for itself.
const SLICE: Duration = Duration::from_micros(50);

thread_local! {
    /// When this thread is to offer its core, if it works in bulk.
    static OFFER: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs work that gives way to other threads at each [`pause`], if it is not over after `grace`.
pub fn run<T>(grace: Duration, work: impl FnOnce() -> T) -> T {
    OFFER.set(Some(Instant::now() + grace));
    let result = work();
    OFFER.set(None);
    result
}

/// A place in long work where other threads may go first. On any other thread it does nothing.
pub fn pause() {
    if OFFER.get().is_some_and(|due| due <= Instant::now()) {
        thread::yield_now();
        OFFER.set(Some(Instant::now() + SLICE));
    }
}

fn step_back() {
    OFFER.set(Some(Instant::now()));
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
        assert_eq!(OFFER.get(), None, "this thread does not work in bulk");
        run(GRACE, || {
            let begun = OFFER.get();
            pause();
            assert_eq!(OFFER.get(), begun, "it is short yet");
            OFFER.set(Some(Instant::now()));
            pause();
            assert!(OFFER.get() > begun.map(|due| due - GRACE));
        });
        assert_eq!(OFFER.get(), None);
    }

    #[test]
    fn only_the_thread_itself_steps_back() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let before = priority();
        let inside = thread::scope(|scope| spawn_scoped(scope, "bulk", priority).unwrap().join().unwrap());
        assert_eq!((inside, priority()), (LEAST_URGENT, before));
    }
}
