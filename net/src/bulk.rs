//! Threads that work in bulk, such as a defragmentation or a whole snapshot, beside those that answer
//! clients.
//!
//! On a machine whose cores are all in use such a thread would otherwise run to the end of its slice of
//! a few milliseconds each time, while a write waits for its turn.

use std::io;
use std::thread::{self, Builder, JoinHandle, Scope, ScopedJoinHandle};

/// What is left of a core goes to the work; it never quite stops it.
const LEAST_URGENT: i32 = 19;

fn step_back() {
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

    #[test]
    fn only_the_thread_itself_steps_back() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let before = priority();
        let inside = thread::scope(|scope| spawn_scoped(scope, "bulk", priority).unwrap().join().unwrap());
        assert_eq!((inside, priority()), (LEAST_URGENT, before));
    }
}
