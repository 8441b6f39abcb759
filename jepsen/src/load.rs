//! Concurrent writers whose every operation is recorded.
//!
//! A writer owns a sequence of keys and shares one counter with all others; it has one operation
//! under way at a time and no value is used twice, which is what `check` relies on. After an error
//! it moves to the next member. All choices come from the seed.

use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use cairn_net::proto::etcdserverpb as pb;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Failure;
use crate::check::{COUNTER, Kind, Known, Op};
use crate::client::{Client, Outcome, kv, put_op, revision};

/// The prefix of all keys that a load touches.
pub const PREFIX: &str = "j/";

/// The members that a load may talk to; a scenario changes it while the load runs.
pub type Endpoints = Arc<RwLock<Vec<Client>>>;

/// What a load does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Writers, each with one operation under way.
    pub writers: u32,
    /// Keys of each writer; it goes around them.
    pub keys: u64,
    /// Bytes of padding in each value.
    pub value_bytes: usize,
    /// Pause of a writer between two operations.
    pub pause: Duration,
    /// Where all choices come from.
    pub seed: u64,
}

/// What the writers are told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Work,
    Hold,
    Stop,
}

/// A load that is running.
#[derive(Debug)]
pub struct Load {
    begin: Instant,
    ops: Arc<Mutex<Vec<Op>>>,
    newest_acked_start: watch::Receiver<u64>,
    mode: watch::Sender<Mode>,
    /// Writers that hold, with no operation under way.
    holding: watch::Receiver<u32>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts the writers.
    pub fn start(endpoints: &Endpoints, plan: &Plan) -> Self {
        let begin = Instant::now();
        let ops = Arc::new(Mutex::new(Vec::new()));
        let (acked, newest_acked_start) = watch::channel(0);
        let (mode, modes) = watch::channel(Mode::Work);
        let (held, holding) = watch::channel(0);
        let (acked, held) = (Arc::new(acked), Arc::new(held));
        let start_writer = |id| {
            let writer = Writer {
                id,
                plan: plan.clone(),
                endpoints: endpoints.clone(),
                chosen: id as usize,
                rng: Rng(plan.seed ^ (u64::from(id) << 32)),
                counter: None,
                begin,
                ops: ops.clone(),
                acked: acked.clone(),
                held: held.clone(),
            };
            tokio::spawn(writer.run(modes.clone()))
        };
        let tasks = (0..plan.writers).map(start_writer).collect();
        Self { begin, ops, newest_acked_start, mode, holding, tasks }
    }

    /// Now, on the clock of the history.
    pub fn now(&self) -> u64 {
        nanos(self.begin.elapsed())
    }

    /// How long after `at` an operation that began after `at` was acknowledged.
    pub async fn acked_after(&mut self, at: u64, limit: Duration) -> Option<Duration> {
        let newer = self.newest_acked_start.wait_for(|start| *start > at);
        tokio::time::timeout(limit, newer).await.ok()?.ok()?;
        Some(Duration::from_nanos(self.now() - at))
    }

    /// Lets each writer finish its operation and begin no other before [`Load::resume`].
    ///
    /// # Errors
    /// A writer does not finish within `limit`.
    pub async fn hold(&mut self, limit: Duration) -> Result<(), Failure> {
        self.mode.send_replace(Mode::Hold);
        let writers = u32::try_from(self.tasks.len()).unwrap_or(u32::MAX);
        match tokio::time::timeout(limit, self.holding.wait_for(|holding| *holding == writers)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Failure::new(format!("writers are still at work after {limit:?}"))),
        }
    }

    /// Lets the writers go on.
    pub fn resume(&self) {
        self.mode.send_replace(Mode::Work);
    }

    /// Waits until `count` more operations have ended; false when they do not within `limit`.
    pub async fn progress(&self, count: usize, limit: Duration) -> bool {
        let goal = self.count() + count;
        let deadline = Instant::now() + limit;
        while self.count() < goal {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(crate::process::POLL).await;
        }
        true
    }

    /// Operations that have ended so far.
    pub fn count(&self) -> usize {
        self.ops.lock().expect("no holder of this lock can panic").len()
    }

    /// The operations that ended last, one a line.
    pub fn tail(&self, count: usize) -> String {
        let ops = self.ops.lock().expect("no holder of this lock can panic");
        ops.iter().skip(ops.len().saturating_sub(count)).map(|op| format!("  {op}\n")).collect()
    }

    /// Lets each writer finish its operation and returns the whole history.
    pub async fn stop(&mut self) -> Vec<Op> {
        self.mode.send_replace(Mode::Stop);
        for task in self.tasks.drain(..) {
            // A writer that panicked has said so on standard error; its operations are missing then
            // and the checker sees changes that nobody wrote.
            let _ = task.await;
        }
        std::mem::take(&mut *self.ops.lock().expect("no holder of this lock can panic"))
    }
}

struct Writer {
    id: u32,
    plan: Plan,
    endpoints: Endpoints,
    chosen: usize,
    rng: Rng,
    /// The counter's latest known change, to compare with.
    counter: Option<(u64, i64)>,
    begin: Instant,
    ops: Arc<Mutex<Vec<Op>>>,
    acked: Arc<watch::Sender<u64>>,
    held: Arc<watch::Sender<u32>>,
}

impl Writer {
    async fn run(mut self, mut modes: watch::Receiver<Mode>) {
        let mut number = 0;
        loop {
            if *modes.borrow() == Mode::Hold {
                self.held.send_modify(|holding| *holding += 1);
                let going = modes.wait_for(|mode| *mode != Mode::Hold).await.is_ok();
                self.held.send_modify(|holding| *holding -= 1);
                if !going {
                    return;
                }
            }
            if *modes.borrow() == Mode::Stop {
                return;
            }
            number += 1;
            let client = {
                let endpoints = self.endpoints.read().expect("no holder of this lock can panic");
                endpoints[self.chosen % endpoints.len()].clone()
            };
            let start = nanos(self.begin.elapsed());
            let (key, kind, known) = self.operate(&client, number).await;
            let end = nanos(self.begin.elapsed());
            let failed = matches!(known, Known::Refused(_) | Known::Unknown(_));
            let endpoint = client.url.rsplit(':').next().unwrap_or_default().to_owned();
            let op = Op { writer: self.id, endpoint, key, kind, start, end, known };
            if matches!(op.known, Known::Wrote(_)) {
                self.acked.send_if_modified(|newest| {
                    let newer = start > *newest;
                    *newest = start.max(*newest);
                    newer
                });
            }
            self.ops.lock().expect("no holder of this lock can panic").push(op);
            if failed {
                self.chosen += 1;
                // Else all writers would spend the machine on refused connections.
                tokio::time::sleep(Duration::from_millis(5 + self.rng.below(10))).await;
            }
            if !self.plan.pause.is_zero() {
                tokio::time::sleep(self.plan.pause).await;
            }
        }
    }

    async fn operate(&mut self, client: &Client, number: u64) -> (String, Kind, Known) {
        let own = format!("{PREFIX}kv/{:03}/{:05}", self.id, number % self.plan.keys);
        let unique = format!("w{}n{number}", self.id);
        match (self.rng.below(10), self.counter) {
            (0, _) => {
                let known = read(client, &own).await;
                (own, Kind::Read, known)
            }
            (1, _) | (2, None) => {
                let known = read(client, COUNTER).await;
                self.learn_counter(&known);
                (COUNTER.to_owned(), Kind::Read, known)
            }
            (2, Some((count, at))) => {
                let value = format!("{}#{unique}", count + 1);
                let known = swap(client, at, &value).await;
                match &known {
                    Known::Wrote(revision) => self.counter = Some((count + 1, *revision)),
                    _ => self.learn_counter(&known),
                }
                (COUNTER.to_owned(), Kind::Swap(at, value), known)
            }
            _ => {
                let value = format!("{unique}{:.<1$}", "", self.plan.value_bytes);
                let known = match client.put(&own, &value).await {
                    Outcome::Ok(response) => Known::Wrote(revision(&response.header)),
                    other => not_known(other),
                };
                (own, Kind::Put(value), known)
            }
        }
    }

    fn learn_counter(&mut self, known: &Known) {
        self.counter = match known {
            Known::Saw(_, None) => Some((0, 0)),
            Known::Saw(_, Some(kv)) => {
                let count = kv.value.split('#').next().and_then(|count| count.parse().ok());
                count.map(|count| (count, kv.mod_revision))
            }
            _ => None,
        };
    }
}

async fn read(client: &Client, key: &str) -> Known {
    match client.read(key).await {
        Outcome::Ok(response) => saw(&response),
        other => not_known(other),
    }
}

/// Replaces the counter if its last change is at `compared`, else reads it, in one transaction.
async fn swap(client: &Client, compared: i64, value: &str) -> Known {
    let compare = pb::Compare {
        result: pb::compare::CompareResult::Equal.into(),
        target: pb::compare::CompareTarget::Mod.into(),
        key: COUNTER.into(),
        target_union: Some(pb::compare::TargetUnion::ModRevision(compared)),
        ..Default::default()
    };
    let read = pb::RangeRequest { key: COUNTER.into(), ..Default::default() };
    let read = pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(read)) };
    let success = vec![put_op(COUNTER, value)];
    match client.txn(pb::TxnRequest { compare: vec![compare], success, failure: vec![read] }).await {
        Outcome::Ok(response) if response.succeeded => Known::Wrote(revision(&response.header)),
        Outcome::Ok(response) => match response.responses.into_iter().next().and_then(|one| one.response) {
            Some(pb::response_op::Response::ResponseRange(mut range)) => {
                // The outer header's revision is the one of the transaction.
                range.header = response.header;
                saw(&range)
            }
            other => Known::Unknown(format!("a transaction's answer is {other:?}")),
        },
        other => not_known(other),
    }
}

fn saw(response: &pb::RangeResponse) -> Known {
    Known::Saw(revision(&response.header), response.kvs.first().map(kv))
}

fn not_known<T>(outcome: Outcome<T>) -> Known {
    match outcome {
        Outcome::Refused(error) => Known::Refused(error),
        Outcome::Unknown(error) => Known::Unknown(error),
        Outcome::Ok(_) => Known::Unknown("an answer of the wrong kind".to_owned()),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("no run lasts five hundred years")
}

/// splitmix64, so that a seed gives the same choices everywhere.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
