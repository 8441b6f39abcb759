//! The calls of a connection that its own task polls, instead of a task for each.
//!
//! With tasks, each answer wakes the connection, which writes it before the next task has its turn: a
//! write and a wake-up for each answer. Here all answers that have come are taken first and written
//! together, and what the requests of one read ask of the member reaches it as one batch.
//!
//! Invariant: only calls that mostly wait are kept here; what may work for long is a task of its own, so
//! that it delays nothing else on its connection.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::stream::{FuturesUnordered, StreamExt};

use crate::services::Direct;

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// hyper's executor of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Executor(Arc<Arrived>);

#[derive(Default)]
struct Arrived {
    keep: AtomicBool,
    calls: Mutex<Vec<Call>>,
}

impl std::fmt::Debug for Arrived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrived").field("keep", &self.keep).finish_non_exhaustive()
    }
}

impl Executor {
    /// Whether the next future is kept for the connection's task. hyper executes a call's future as soon
    /// as its service has made it, so this is said from within the service.
    pub(super) fn keep_next(&self, keep: bool) {
        self.0.keep.store(keep, Ordering::Relaxed);
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        if self.0.keep.swap(false, Ordering::Relaxed) {
            self.0.calls.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(future));
        } else {
            tokio::spawn(future);
        }
    }
}

/// The calls that an [`Executor`] keeps.
pub(super) struct Calls {
    executor: Executor,
    direct: Option<Direct>,
    running: FuturesUnordered<Call>,
}

impl Calls {
    pub(super) fn new(executor: Executor, direct: Option<Direct>) -> Self {
        Self { executor, direct, running: FuturesUnordered::new() }
    }

    /// Polls the calls and `connection`, which writes what they answer and brings new ones.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut connection: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        loop {
            self.run(cx);
            let ended = connection(cx);
            if ended.is_ready() || !self.take_in() {
                return ended;
            }
        }
    }

    fn run(&mut self, cx: &mut Context<'_>) {
        if self.running.is_empty() {
            return;
        }
        let running = &mut self.running;
        let mut poll = || while let Poll::Ready(Some(())) = running.poll_next_unpin(cx) {};
        match &self.direct {
            Some(direct) => direct.gather(&mut poll),
            None => poll(),
        }
        // What the member has answered at once.
        poll();
    }

    fn take_in(&mut self) -> bool {
        let mut arrived = self.executor.0.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let any = !arrived.is_empty();
        self.running.extend(arrived.drain(..));
        any
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper::rt::Executor as _;

    use super::*;

    #[tokio::test]
    async fn kept_calls_are_polled_with_their_connection_and_others_are_tasks() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let note = |what: &'static str| {
            let seen = seen.clone();
            async move { seen.lock().unwrap().push(what) }
        };
        let executor = Executor::default();
        let mut calls = Calls::new(executor.clone(), None);
        executor.keep_next(true);
        executor.execute(note("kept"));
        executor.execute(note("task"));
        executor.keep_next(true);
        executor.execute(note("kept too"));
        let mut polls = 0;
        poll_fn(|cx| {
            calls.poll(cx, |_| {
                polls += 1;
                seen.lock().unwrap().push("connection");
                if polls == 2 { Poll::Ready(()) } else { Poll::Pending }
            })
        })
        .await;
        assert_eq!(*seen.lock().unwrap(), ["connection", "kept", "kept too", "connection"]);
        tokio::task::yield_now().await;
        assert_eq!(seen.lock().unwrap().last(), Some(&"task"));
    }

    #[tokio::test]
    async fn an_answer_wakes_the_connection() {
        let executor = Executor::default();
        let mut calls = Calls::new(executor.clone(), None);
        let (answer, call) = tokio::sync::oneshot::channel::<()>();
        let done = Arc::new(AtomicBool::new(false));
        let sets = done.clone();
        executor.keep_next(true);
        executor.execute(async move {
            call.await.unwrap();
            sets.store(true, Ordering::Relaxed);
        });
        let connection = tokio::spawn(async move {
            poll_fn(|cx| {
                calls.poll(cx, |_| if done.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending })
            })
            .await;
        });
        tokio::task::yield_now().await;
        answer.send(()).unwrap();
        connection.await.unwrap();
    }
}
