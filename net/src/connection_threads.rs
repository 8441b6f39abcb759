//! Threads among which connections are divided, each with a runtime of its own.
//!
//! In one runtime of several threads, who polls the sockets owns what is ready, the others take from it
//! when they have nothing left, and what is woken from outside waits until a queue is empty. Under load a
//! few connections are then served over and over while the others wait. Here each connection has its
//! thread, whose tasks take turns, and all have about the same number of connections.
//!
//! Invariant: a connection's task and those that it starts run on one thread, so none of them works for
//! long, or waits for anything but the runtime for more than a millisecond or so.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The threads; they end with the last clone. What runs there then is dropped.
#[derive(Clone, Debug)]
pub struct ConnectionThreads(Arc<Vec<One>>);

#[derive(Debug)]
struct One {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    /// Its end ends the thread.
    _running: oneshot::Sender<()>,
}

/// Counts a connection as long as it lives.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionThreads {
    /// Starts `count` of them, at least one, named `name-0` and so on.
    ///
    /// # Errors
    /// The system has no room for a thread or its descriptors.
    pub fn start(name: &str, count: usize) -> io::Result<Self> {
        let start = |number: usize| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (running, ended) = oneshot::channel();
            let one =
                One { runtime: runtime.handle().clone(), connections: Arc::default(), _running: running };
            thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                // An error: the sender is gone.
                let _: Result<(), _> = runtime.block_on(ended);
            })?;
            Ok(one)
        };
        (0..count.max(1)).map(start).collect::<io::Result<_>>().map(|threads| Self(Arc::new(threads)))
    }

    /// Serves a connection on the thread that has the fewest.
    pub fn serve(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let threads = self.0.iter();
        let Some(one) = threads.min_by_key(|one| one.connections.load(Ordering::Relaxed)) else { return };
        one.connections.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(one.connections.clone());
        one.runtime.spawn(async move {
            let _seat = seat;
            connection.await;
        });
    }

    /// The runtimes of all threads.
    pub fn runtimes(&self) -> impl Iterator<Item = &Handle> {
        self.0.iter().map(|one| &one.runtime)
    }

    /// The runtime of one thread, for whoever divides connections himself: number `n` of as many as there
    /// are, and then the first again.
    pub fn runtime(&self, n: usize) -> &Handle {
        &self.0[n % self.0.len()].runtime
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn connections_are_divided_evenly_and_a_seat_that_is_free_is_taken_first() {
        let threads = ConnectionThreads::start("divided", 3).unwrap();
        let (seen, connections) = mpsc::channel();
        let serve = || {
            let (close, closed) = oneshot::channel::<()>();
            let seen = seen.clone();
            threads.serve(async move {
                let name = thread::current().name().map(str::to_owned);
                seen.send(name.clone()).unwrap();
                let _ = closed.await;
                seen.send(name).unwrap();
            });
            (connections.recv().unwrap().unwrap(), close)
        };
        let mut open = BTreeMap::<_, Vec<_>>::new();
        for _ in 0..9 {
            let (name, close) = serve();
            open.entry(name).or_default().push(close);
        }
        assert_eq!(open.keys().collect::<Vec<_>>(), ["divided-0", "divided-1", "divided-2"]);
        assert!(open.values().all(|connections| connections.len() == 3));
        drop(open.remove("divided-1"));
        // All three have said that they end, and their seats go with their tasks.
        assert!((0..3).all(|_| connections.recv().unwrap().as_deref() == Some("divided-1")));
        while threads.0[1].connections.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
        assert!((0..3).all(|_| serve().0 == "divided-1"));
    }

    #[test]
    fn what_runs_there_ends_with_the_last_clone() {
        let threads = ConnectionThreads::start("ending", 1).unwrap();
        let (alive, dropped) = mpsc::channel::<()>();
        threads.serve(async move {
            let _alive = alive;
            std::future::pending().await
        });
        drop(threads.clone());
        assert!(dropped.try_recv() == Err(mpsc::TryRecvError::Empty));
        drop(threads);
        assert!(dropped.recv().is_err());
    }
}
