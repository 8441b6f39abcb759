//! The way to a machine that takes events, and the turn to run it: who brings an event to a machine at
//! rest runs it.
//!
//! A call thus costs no switch to a thread of the node's own: a read is answered before its caller
//! waits for the first time, and the log's thread applies what it has made durable. Nobody ever waits
//! for the turn. Who has it works for a bounded slice; what is left then goes on in the machine's own
//! thread, so that a task of the runtime is not kept for as long as others bring events. That thread
//! also brings the wakeups.
//!
//! Invariant: at most one has the turn, and while events wait somebody has it: the count of events that
//! are not done leaves zero exactly for the one who takes it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

/// How long a bringer may be kept by what others bring meanwhile.
const SLICE_MAX: Duration = Duration::from_millis(1);
/// Events that are taken in before the outputs are carried out: the largest group commit.
const BATCH_MAX: usize = 4096;

thread_local! {
    /// The inbox for which this thread gathers events, and whether it got the turn meanwhile.
    static GATHERING: Cell<Option<(usize, bool)>> = const { Cell::new(None) };
}

/// What an inbox feeds.
pub(crate) trait Machine: Send + 'static {
    /// What it takes.
    type Event: Send + 'static;
    /// The event that is due at [`Machine::next_wakeup`].
    fn wakeup() -> Self::Event;
    /// Takes an event in.
    fn accept(&mut self, event: Self::Event);
    /// Carries out what follows from the events taken in.
    fn drain(&mut self);
    /// When to wake it if nothing else happens.
    fn next_wakeup(&self) -> Option<Instant>;
    /// Whether it has ended; it is dropped then.
    fn has_stopped(&self) -> bool;
}

/// The machine has stopped, and the event was dropped.
#[derive(Debug)]
pub(crate) struct Stopped;

/// A way to the machine; clones lead to the same one.
pub(crate) struct Inbox<M: Machine>(Arc<Shared<M>>);

struct Shared<M: Machine> {
    sender: Sender<M::Event>,
    events: Receiver<M::Event>,
    /// Events that were sent and are not done. Who makes it one has the turn until it is zero.
    undone: AtomicUsize,
    stopped: AtomicBool,
    /// Locked by who has the turn only, thus never contended.
    machine: Mutex<Option<M>>,
    own: Mutex<OwnThread>,
    wake: Condvar,
}

/// What the machine's own thread waits for.
#[derive(Debug, Default)]
struct OwnThread {
    wakeup: Option<Instant>,
    /// The turn was handed over.
    turn: bool,
    stopped: bool,
}

impl<M: Machine> Clone for Inbox<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: Machine> Inbox<M> {
    /// An inbox whose events wait until [`Inbox::start`].
    pub(crate) fn new() -> Self {
        let (sender, events) = crossbeam_channel::unbounded();
        // The first event; its turn is for the machine's own thread to take.
        let _ = sender.send(M::wakeup());
        Self(Arc::new(Shared {
            sender,
            events,
            undone: AtomicUsize::new(1),
            stopped: AtomicBool::new(false),
            machine: Mutex::new(None),
            own: Mutex::default(),
            wake: Condvar::new(),
        }))
    }

    /// Starts the machine with its thread, which ends when the machine has stopped.
    pub(crate) fn start(&self, name: &str, machine: M) -> std::io::Result<thread::JoinHandle<()>> {
        *lock(&self.0.machine) = Some(machine);
        lock(&self.0.own).turn = true;
        let shared = self.0.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || shared.run_own_thread())
    }

    /// Brings an event, and runs the machine if nobody else does.
    pub(crate) fn send(&self, event: M::Event) -> Result<(), Stopped> {
        if self.0.push(event)? {
            match GATHERING.get() {
                // The turn is taken at the end of the work.
                Some((inbox, _)) if inbox == self.address() => GATHERING.set(Some((inbox, true))),
                _ => self.0.run(Some(SLICE_MAX)),
            }
        }
        Ok(())
    }

    /// Does `work`, which must not wait: the events that it sends are handled together at its end, unless
    /// another has the turn.
    pub(crate) fn gather(&self, work: &mut dyn FnMut()) {
        let outer = GATHERING.replace(Some((self.address(), false)));
        work();
        if let Some((_, true)) = GATHERING.replace(outer) {
            self.0.run(Some(SLICE_MAX));
        }
    }

    fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Brings an event for the machine's own thread to run: the caller has something better to do.
    pub(crate) fn send_on(&self, event: M::Event) -> Result<(), Stopped> {
        if self.0.push(event)? {
            self.0.hand_over();
        }
        Ok(())
    }
}

impl<M: Machine> Shared<M> {
    /// Queues an event; true if the caller now has the turn.
    fn push(&self, event: M::Event) -> Result<bool, Stopped> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(Stopped);
        }
        self.sender.send(event).map_err(|_| Stopped)?;
        Ok(self.undone.fetch_add(1, Ordering::AcqRel) == 0)
    }

    /// Runs the machine until nothing is left, or until `slice` is over.
    fn run(&self, slice: Option<Duration>) {
        let started = Instant::now();
        loop {
            // What is counted is queued, so none of these receives waits.
            let count = self.undone.load(Ordering::Acquire).min(BATCH_MAX);
            self.work(count);
            if self.undone.fetch_sub(count, Ordering::AcqRel) == count {
                return;
            }
            if slice.is_some_and(|slice| started.elapsed() >= slice) {
                return self.hand_over();
            }
        }
    }

    fn work(&self, count: usize) {
        let mut slot = lock(&self.machine);
        let Some(machine) = slot.as_mut() else {
            // These came too late, and who waits for an answer learns it from their end.
            return self.events.iter().take(count).for_each(drop);
        };
        for event in self.events.iter().take(count) {
            machine.accept(event);
        }
        machine.drain();
        let wakeup = machine.next_wakeup();
        let stopped = machine.has_stopped();
        if stopped {
            self.stopped.store(true, Ordering::Release);
            *slot = None;
        }
        let mut own = lock(&self.own);
        let earlier = wakeup.is_some_and(|next| own.wakeup.is_none_or(|known| next < known));
        own.wakeup = wakeup;
        own.stopped = stopped;
        if earlier || stopped {
            self.wake.notify_one();
        }
    }

    fn hand_over(&self) {
        lock(&self.own).turn = true;
        self.wake.notify_one();
    }

    fn run_own_thread(&self) {
        let mut own = lock(&self.own);
        while !own.stopped || own.turn {
            if std::mem::take(&mut own.turn) {
                drop(own);
                self.run(None);
                own = lock(&self.own);
                continue;
            }
            let now = Instant::now();
            own = match own.wakeup {
                None => self.wake.wait(own).unwrap_or_else(PoisonError::into_inner),
                Some(at) if at > now => {
                    self.wake.wait_timeout(own, at - now).unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    // Who has the turn says when the next one is due.
                    own.wakeup = None;
                    drop(own);
                    if let Ok(true) = self.push(M::wakeup()) {
                        self.run(None);
                    }
                    lock(&self.own)
                }
            };
        }
    }
}

/// A panic ends the process, so nobody meets a poisoned lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::mpsc;

    use super::*;

    /// Checks the order of each source and passes every number on.
    struct Counting {
        last: BTreeMap<u64, u64>,
        batch: Vec<(u64, u64)>,
        done: mpsc::Sender<(u64, u64)>,
        wakeup: Option<Instant>,
    }

    enum Event {
        Wakeup,
        Number(u64, u64),
        WakeAt(Instant),
        Stop,
    }

    impl Machine for Counting {
        type Event = Event;
        fn wakeup() -> Event {
            Event::Wakeup
        }
        fn accept(&mut self, event: Event) {
            match event {
                Event::Wakeup => {
                    if self.wakeup.take_if(|at| *at <= Instant::now()).is_some() {
                        self.batch.push((u64::MAX, 0));
                    }
                }
                Event::Number(source, number) => self.batch.push((source, number)),
                Event::WakeAt(at) => self.wakeup = Some(at),
                Event::Stop => self.last.clear(),
            }
        }
        fn drain(&mut self) {
            for (source, number) in self.batch.drain(..) {
                let last = self.last.insert(source, number);
                assert!(last.is_none_or(|last| last < number || source == u64::MAX), "{source}: {number}");
                self.done.send((source, number)).unwrap();
            }
        }
        fn next_wakeup(&self) -> Option<Instant> {
            self.wakeup
        }
        fn has_stopped(&self) -> bool {
            self.last.is_empty()
        }
    }

    fn start() -> (Inbox<Counting>, mpsc::Receiver<(u64, u64)>, thread::JoinHandle<()>) {
        let (done, results) = mpsc::channel();
        let last = BTreeMap::from([(0, 0)]);
        let inbox = Inbox::new();
        let machine = Counting { last, batch: Vec::new(), done, wakeup: None };
        let thread = inbox.start("machine", machine).unwrap();
        (inbox, results, thread)
    }

    #[test]
    fn every_event_is_done_once_and_in_the_order_of_its_source() {
        const SOURCES: u64 = 4;
        const NUMBERS: u64 = 20_000;
        let (inbox, results, own) = start();
        let sources: Vec<_> = (1..=SOURCES)
            .map(|source| {
                let inbox = inbox.clone();
                thread::spawn(move || {
                    for number in 0..NUMBERS {
                        let event = Event::Number(source, number);
                        let sent = if number % 7 == 0 { inbox.send_on(event) } else { inbox.send(event) };
                        sent.unwrap();
                    }
                })
            })
            .collect();
        for source in sources {
            source.join().unwrap();
        }
        assert_eq!(results.iter().take((SOURCES * NUMBERS) as usize).count() as u64, SOURCES * NUMBERS);
        inbox.send(Event::Stop).unwrap();
        own.join().unwrap();
        assert!(inbox.send(Event::Number(1, NUMBERS)).is_err());
        assert!(results.recv().is_err(), "the machine is dropped when it has stopped");
    }

    #[test]
    fn gathered_events_are_done_together_and_what_others_bring_meanwhile_too() {
        let (inbox, results, own) = start();
        inbox.gather(&mut || {
            inbox.send(Event::Number(1, 1)).unwrap();
            inbox.send(Event::Number(1, 2)).unwrap();
            let other = inbox.clone();
            thread::spawn(move || other.send(Event::Number(2, 1)).unwrap()).join().unwrap();
            inbox.gather(&mut || inbox.send(Event::Number(1, 3)).unwrap());
        });
        let mut done: Vec<_> = results.iter().take(4).collect();
        done.sort_unstable();
        assert_eq!(done, [(1, 1), (1, 2), (1, 3), (2, 1)]);
        inbox.send(Event::Stop).unwrap();
        own.join().unwrap();
    }

    #[test]
    fn a_wakeup_comes_when_it_is_due_though_a_later_one_was_known() {
        let (inbox, results, own) = start();
        inbox.send(Event::WakeAt(Instant::now() + Duration::from_secs(600))).unwrap();
        inbox.send(Event::WakeAt(Instant::now() + Duration::from_millis(5))).unwrap();
        assert_eq!(results.recv().unwrap(), (u64::MAX, 0));
        inbox.send(Event::Stop).unwrap();
        own.join().unwrap();
    }
}
