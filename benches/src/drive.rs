//! When operations start, and how long they take.
//!
//! In a closed loop a client starts its next operation when the last one has ended, so a slow server is
//! asked less often and its worst moments are measured once only (coordinated omission). In an open
//! loop operation `n` is due at `start + n / rate` whatever happens before; `latency` counts from then,
//! also for an operation that had to wait for a free client, and `service` from when it was sent.
//!
//! Invariant: an open loop's latency never leaves out the time that an operation waited to be sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tonic::Status;

/// How long an open loop goes on after its last operation was due.
const BACKLOG_MAX: Duration = Duration::from_secs(10);
/// The longest sleep of the pacer: it must not oversleep a due time by much.
const PACE_MAX: Duration = Duration::from_millis(1);

/// One client.
pub trait Worker: Send + 'static {
    /// Performs operation `number` and reads its reply.
    fn operate(&mut self, number: u64) -> impl Future<Output = Result<(), Status>> + Send;
}

/// How much, and how fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Operations at most.
    pub total: Option<u64>,
    /// Time at most.
    pub duration: Option<Duration>,
    /// Operations a second; `None` for a closed loop.
    pub rate: Option<f64>,
}

/// What was measured. Times are in microseconds.
#[derive(Clone, Debug)]
pub struct Measured {
    /// From when an operation was due (closed loop: sent) to its reply.
    pub latency: Histogram<u64>,
    /// From when an operation was sent to its reply.
    pub service: Histogram<u64>,
    /// What failed, by the error's text.
    pub errors: BTreeMap<String, u64>,
    /// From the first operation's start to the last one's reply.
    pub elapsed: Duration,
    /// Replies in each second.
    pub per_second: Vec<u64>,
}

/// An empty histogram from a microsecond to ten minutes, exact to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are sound")
}

/// Records a time in microseconds.
pub fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1));
}

impl Measured {
    fn new() -> Self {
        Self {
            latency: histogram(),
            service: histogram(),
            errors: BTreeMap::new(),
            elapsed: Duration::ZERO,
            per_second: Vec::new(),
        }
    }

    /// Operations that succeeded.
    pub fn done(&self) -> u64 {
        self.latency.len()
    }

    fn add(&mut self, other: &Measured) {
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
        self.service.add(&other.service).expect("all histograms have the same bounds");
        for (text, count) in &other.errors {
            *self.errors.entry(text.clone()).or_default() += count;
        }
        self.elapsed = self.elapsed.max(other.elapsed);
        if self.per_second.len() < other.per_second.len() {
            self.per_second.resize(other.per_second.len(), 0);
        }
        for (sum, count) in self.per_second.iter_mut().zip(&other.per_second) {
            *sum += count;
        }
    }

    fn note(&mut self, start: Instant, due: Instant, sent: Instant, result: Result<(), Status>) {
        let now = Instant::now();
        self.elapsed = now - start;
        match result {
            Ok(()) => {
                record(&mut self.latency, now.saturating_duration_since(due));
                record(&mut self.service, now - sent);
                let second = self.elapsed.as_secs() as usize;
                if self.per_second.len() <= second {
                    self.per_second.resize(second + 1, 0);
                }
                self.per_second[second] += 1;
            }
            Err(status) => {
                *self.errors.entry(format!("{:?}: {}", status.code(), status.message())).or_default() += 1;
            }
        }
    }
}

/// Hands out operations to the clients.
struct Tickets {
    start: Instant,
    next: AtomicU64,
    /// Operations in all.
    total: u64,
    deadline: Option<Instant>,
    open: Option<Open>,
}

struct Open {
    rate: f64,
    /// One permit for each operation that is due and not taken, and at the end one for each client.
    due: Semaphore,
}

impl Tickets {
    /// The next operation with the time when it was due, or `None` at the end.
    async fn take(&self) -> Option<(u64, Instant)> {
        if let Some(open) = &self.open {
            open.due.acquire().await.ok()?.forget();
        }
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.total {
            return None;
        }
        let due = match &self.open {
            Some(open) => self.start + Duration::from_secs_f64(number as f64 / open.rate),
            None => now,
        };
        Some((number, due))
    }

    /// Makes operations due at their times; runs on a thread of its own, because a runtime's timers are
    /// a millisecond coarse.
    fn pace(&self, clients: usize) {
        let Some(open) = &self.open else { return };
        let mut released = 0;
        while released < self.total {
            let elapsed = self.start.elapsed().as_secs_f64();
            let due = ((elapsed * open.rate) as u64 + 1).min(self.total);
            open.due.add_permits(usize::try_from(due - released).unwrap_or(0));
            released = due;
            let next = Duration::from_secs_f64(released as f64 / open.rate);
            std::thread::sleep(next.saturating_sub(self.start.elapsed()).min(PACE_MAX));
        }
        open.due.add_permits(clients);
    }
}

/// Runs the workers until the plan is fulfilled, worker `n` in `runtime(n)`.
pub async fn drive<'a, W: Worker>(
    workers: Vec<W>,
    runtime: impl Fn(usize) -> &'a Handle,
    plan: Plan,
) -> Measured {
    let start = Instant::now();
    let clients = workers.len();
    let (mut total, mut deadline) = (plan.total.unwrap_or(u64::MAX), plan.duration.map(|time| start + time));
    if let Some(rate) = plan.rate {
        if let Some(time) = plan.duration {
            total = total.min((time.as_secs_f64() * rate).ceil() as u64);
        }
        deadline = Some(start + Duration::from_secs_f64(total as f64 / rate) + BACKLOG_MAX);
    }
    let open = plan.rate.map(|rate| Open { rate, due: Semaphore::new(0) });
    let tickets = Arc::new(Tickets { start, next: AtomicU64::new(0), total, deadline, open });
    let tasks: Vec<_> = workers
        .into_iter()
        .enumerate()
        .map(|(number, mut worker)| {
            let tickets = tickets.clone();
            runtime(number).spawn(async move {
                let mut measured = Measured::new();
                while let Some((number, due)) = tickets.take().await {
                    let sent = Instant::now();
                    let result = worker.operate(number).await;
                    measured.note(start, due, sent, result);
                }
                measured
            })
        })
        .collect();
    let pacer = tokio::task::spawn_blocking({
        let tickets = tickets.clone();
        move || tickets.pace(clients)
    });
    let mut all = Measured::new();
    for task in tasks {
        all.add(&task.await.expect("a client does not panic"));
    }
    pacer.await.expect("the pacer does not panic");
    let unsent =
        tickets.open.as_ref().map_or(0, |_| total.saturating_sub(tickets.next.load(Ordering::Relaxed)));
    if unsent > 0 {
        all.errors.insert("not sent: the server cannot keep up with the rate".to_owned(), unsent);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Slow(Duration);

    impl Worker for Slow {
        async fn operate(&mut self, number: u64) -> Result<(), Status> {
            std::thread::sleep(self.0);
            if number == 3 { Err(Status::unavailable("three")) } else { Ok(()) }
        }
    }

    fn run(workers: Vec<Slow>, plan: Plan) -> Measured {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(drive(workers, |_| runtime.handle(), plan))
    }

    #[test]
    fn a_closed_loop_ends_after_its_total_and_counts_errors_apart() {
        let plan = Plan { total: Some(10), duration: None, rate: None };
        let measured = run(vec![Slow(Duration::ZERO), Slow(Duration::ZERO)], plan);
        assert_eq!(measured.done(), 9);
        assert_eq!(measured.errors, BTreeMap::from([("Unavailable: three".to_owned(), 1)]));
        assert_eq!(measured.per_second.iter().sum::<u64>(), 9);
    }

    #[test]
    fn an_open_loop_counts_the_time_that_operations_waited_to_be_sent() {
        // One client that needs 5 ms an operation at 1000/s: the hundredth waits about 400 ms.
        let plan = Plan { total: Some(100), duration: None, rate: Some(1000.0) };
        let measured = run(vec![Slow(Duration::from_millis(5))], plan);
        assert_eq!(measured.done(), 99);
        assert!(measured.latency.max() >= 390_000, "{}", measured.latency.max());
        assert!(measured.latency.value_at_quantile(0.5) >= 150_000);
        assert!(measured.service.value_at_quantile(0.5) < 150_000);
    }

    #[test]
    fn an_open_loop_of_some_duration_has_the_operations_of_its_rate() {
        let plan = Plan { total: None, duration: Some(Duration::from_millis(100)), rate: Some(500.0) };
        let measured = run(vec![Slow(Duration::ZERO), Slow(Duration::ZERO)], plan);
        assert_eq!(measured.done() + measured.errors.values().sum::<u64>(), 50);
        assert!(measured.elapsed >= Duration::from_millis(97), "{:?}", measured.elapsed);
    }
}
