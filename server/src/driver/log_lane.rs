//! The log's jobs in order, and who works on them.
//!
//! The log's own thread does, but for one case: who brings a lone write to a log at rest may make it
//! durable itself, because the switch to another thread and back takes as long as the write. It does so
//! after it has given the turn back, so the node lives on while the disk takes its time; and only while the
//! disk is quick, because what else the bringer serves waits meanwhile.
//!
//! Invariant: one at a time works on the log, and takes the jobs in their order; while jobs wait, somebody
//! works or the thread was woken.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use cairn_core::error::Fatal;
use cairn_core::node::Input;

use super::log_thread::{LogJob, Writer};
use super::{Event, Inbox};

thread_local! {
    /// Whether this thread is about to work on the log, once it has given the turn back.
    static OFFER: Cell<Offer> = const { Cell::new(Offer::None) };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offer {
    None,
    Made,
    Taken,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct LogLane(Arc<Shared>);

struct Shared {
    events: Inbox,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Gone once the log is closed.
    writer: Mutex<Option<Writer>>,
    /// How long a write may take to be a bringer's.
    patience: Duration,
    /// Whether the last one took longer.
    slow: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<LogJob>,
    closed: bool,
    thread: Thread,
}

/// What the log's thread does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Thread {
    #[default]
    Works,
    /// Until a job comes or its time is over.
    Waits,
    WaitsForever,
}

/// Why the log's thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    Jobs,
    Time,
    Closed,
}

impl LogLane {
    pub(super) fn new(writer: Writer, events: Inbox, patience: Duration) -> Self {
        Self(Arc::new(Shared {
            events,
            queue: Mutex::default(),
            wake: Condvar::new(),
            writer: Mutex::new(Some(writer)),
            patience,
            slow: AtomicBool::new(false),
        }))
    }

    /// Adds a job. `lone` says that nothing else is under way, so that its bringer had better do it.
    pub(super) fn send(&self, job: LogJob, lone: bool) {
        let mut queue = lock(&self.0.queue);
        let here = lone && queue.jobs.is_empty() && OFFER.get() == Offer::Made;
        queue.jobs.push_back(job);
        if here {
            OFFER.set(Offer::Taken);
        } else {
            self.wake(queue);
        }
    }

    /// Does `work`, and after it what it has sent to the log, if that is a lone write.
    pub(crate) fn offer(&self, work: impl FnOnce()) {
        if OFFER.get() != Offer::None || self.0.slow.load(Ordering::Relaxed) {
            return work();
        }
        OFFER.set(Offer::Made);
        work();
        if OFFER.replace(Offer::None) == Offer::Taken {
            self.step_here();
        }
    }

    /// No job comes any more: the log is closed after those that wait.
    pub(super) fn close(&self) {
        let mut queue = lock(&self.0.queue);
        queue.closed = true;
        self.wake(queue);
    }

    fn wake(&self, mut queue: MutexGuard<'_, Queue>) {
        if queue.thread != Thread::Works {
            queue.thread = Thread::Works;
            drop(queue);
            self.0.wake.notify_one();
        }
    }

    fn step_here(&self) {
        match self.0.writer.try_lock() {
            Ok(writer) => self.step(writer),
            Err(TryLockError::Poisoned(poisoned)) => self.step(poisoned.into_inner()),
            // Who works on the log does not necessarily see the job.
            Err(TryLockError::WouldBlock) => {}
        }
        let queue = lock(&self.0.queue);
        // A log that is not at rest any more needs to be looked after.
        if !queue.jobs.is_empty() || queue.thread == Thread::WaitsForever {
            self.wake(queue);
        }
    }

    /// Does what waits, as one group commit, and reports it when others may work on the log again.
    fn step(&self, mut slot: MutexGuard<'_, Option<Writer>>) {
        let Some(writer) = slot.as_mut() else { return };
        let started = Instant::now();
        let done = match self.pop() {
            None => return,
            Some(job) => writer.work(job, self),
        };
        self.0.slow.store(started.elapsed() > self.0.patience, Ordering::Relaxed);
        if done.is_err() {
            *slot = None;
        }
        drop(slot);
        let sent = match done {
            // What waits for the disk comes first; a log at rest applies what it has written.
            Ok(Some(seq)) => {
                let appended = Event::Input(Input::Appended { seq });
                let rests = lock(&self.0.queue).jobs.is_empty();
                if rests { self.0.events.send(appended) } else { self.0.events.send_on(appended) }
            }
            Ok(None) => Ok(()),
            Err(error) => self.0.events.send(Event::Fatal(Fatal(error.to_string()))),
        };
        if sent.is_err() {
            lock(&self.0.queue).closed = true;
        }
    }

    fn pop(&self) -> Option<LogJob> {
        lock(&self.0.queue).jobs.pop_front()
    }

    /// The next job, if it `joins` the present one.
    pub(super) fn pop_if(&self, joins: impl FnOnce(&LogJob) -> bool) -> Option<LogJob> {
        lock(&self.0.queue).jobs.pop_front_if(|job| joins(job))
    }

    /// Waits for jobs, for at most `limit`.
    fn wait(&self, limit: Option<Duration>) -> Woken {
        let mut queue = lock(&self.0.queue);
        if queue.jobs.is_empty() && !queue.closed {
            queue.thread = if limit.is_some() { Thread::Waits } else { Thread::WaitsForever };
            let waits = |queue: &mut Queue| queue.thread != Thread::Works;
            queue = match limit {
                None => self.0.wake.wait_while(queue, waits).unwrap_or_else(PoisonError::into_inner),
                Some(limit) => {
                    let waited = self.0.wake.wait_timeout_while(queue, limit, waits);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            queue.thread = Thread::Works;
        }
        match (queue.jobs.is_empty(), queue.closed) {
            (false, _) => Woken::Jobs,
            (true, true) => Woken::Closed,
            (true, false) => Woken::Time,
        }
    }

    /// The life of the log's thread.
    pub(super) fn run(&self) {
        loop {
            let Some(limit) = lock(&self.0.writer).as_ref().map(Writer::pause) else { return };
            let woken = self.wait(limit);
            let mut slot = lock(&self.0.writer);
            let Some(writer) = slot.as_mut() else { return };
            let rested = match woken {
                Woken::Jobs => {
                    self.step(slot);
                    continue;
                }
                Woken::Time => writer.rest(&self.0.events),
                Woken::Closed => {
                    let sealed = writer.seal();
                    *slot = None;
                    sealed
                }
            };
            if let Err(error) = rested {
                *slot = None;
                let _ = self.0.events.send(Event::Fatal(Fatal(error.to_string())));
            }
        }
    }
}

/// A panic ends the process, so nobody meets a poisoned lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use cairn_core::wal::{Append, HardState, LogEntry, Metadata, Wal, WalOptions};

    use super::*;
    use crate::config::Features;
    use crate::metrics::Metrics;
    use crate::wal_disk::FsDisk;

    const OPTIONS: WalOptions = WalOptions { segment_bytes: 64 << 10, fsync: true };

    fn append(index: u64) -> Append {
        let entry = LogEntry { term: 1, index, data: vec![index as u8; 10].into(), ..LogEntry::default() };
        let hard_state = HardState { term: 1, vote: 2, commit: index - 1 };
        Append { entries: vec![entry], hard_state: Some(hard_state), ..Append::default() }
    }

    fn job(index: u64) -> LogJob {
        LogJob::Append { seq: index, append: append(index) }
    }

    /// A lane without its thread.
    fn lane(path: &Path, patience: Duration) -> LogLane {
        let disk = FsDisk::open(path).unwrap();
        let times = disk.times();
        let wal = Wal::create(disk, Metadata::default(), &append(1), OPTIONS).unwrap();
        let metrics = Arc::new(Metrics::new("3.7.1", false, &Features::default()));
        LogLane::new(Writer::new(wal, times, metrics), Inbox::new(), patience)
    }

    /// The last entry that a crash at this moment would leave.
    fn written(path: &Path) -> u64 {
        let copy = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(path).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        let (_, recovered) = Wal::open(FsDisk::open(copy.path()).unwrap(), OPTIONS).unwrap();
        recovered.entries.last().unwrap().index
    }

    #[test]
    fn what_a_slow_disk_writes_is_left_to_the_thread() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("wal");
        let lane = lane(&path, Duration::ZERO);
        lane.offer(|| lane.send(job(2), true));
        assert_eq!(written(&path), 2, "nothing is known of the disk");
        lane.offer(|| lane.send(job(3), true));
        assert_eq!(written(&path), 2, "no write is quick enough");
    }

    #[test]
    fn a_lone_write_is_done_by_who_offers_to_and_all_others_by_the_thread() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("wal");
        let lane = lane(&path, Duration::MAX);
        lane.offer(|| {
            lane.send(job(2), true);
            assert_eq!(written(&path), 1, "not before the work is done");
        });
        assert_eq!(written(&path), 2);
        lane.send(job(3), true);
        assert_eq!(written(&path), 2, "nobody has offered");
        lane.offer(|| lane.send(job(4), true));
        assert_eq!(written(&path), 2, "others wait");
        let (runs, runs_too) = (lane.clone(), lane.clone());
        let thread = std::thread::spawn(move || runs.run());
        let bringer = std::thread::spawn(move || {
            for index in 5..200 {
                runs_too.offer(|| runs_too.send(job(index), index % 3 > 0));
            }
        });
        bringer.join().unwrap();
        lane.close();
        thread.join().unwrap();
        assert_eq!(written(&path), 199);
        lane.offer(|| lane.send(job(200), true));
        assert_eq!(written(&path), 199, "it is closed");
    }
}
