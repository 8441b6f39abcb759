//! Many watchers, and two clients that stop reading.
//!
//! Every stream watches every key, one watcher a key, so that each put is sent once to each stream.
//! One client of this process never reads its stream; a second one, a process of its own, is
//! stopped by a signal. The server has to bound what it keeps for them, and once they read again
//! they get every event, or are told that what they miss was compacted away.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_net::proto::etcdserverpb as pb;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::client::{Client, revision, text, watch_create};
use crate::cluster::{Cluster, EVENTUALLY};
use crate::process::{Binary, POLL, Server, signal};
use crate::scenario::{mib, ms};
use crate::{Failure, Figures};

const PREFIX: &str = "watched/";

/// The flags of `watchers`.
#[derive(Clone, Debug, clap::Args)]
pub struct Watchers {
    /// Streams, the stalled one included.
    #[arg(long, default_value_t = 100)]
    pub streams: usize,
    /// Keys, and so watchers on each stream.
    #[arg(long, default_value_t = 100)]
    pub keys: usize,
    /// Events in all.
    #[arg(long, default_value_t = 20_000)]
    pub events: usize,
    /// Bytes in each value.
    #[arg(long, default_value_t = 1_024)]
    pub value_bytes: usize,
    /// The server may grow by at most this much.
    #[arg(long, default_value_t = 512)]
    pub growth_mib: u64,
    /// Compact before the stalled clients read again, so that they may be told so.
    #[arg(long)]
    pub compact: bool,
}

impl Watchers {
    /// Runs the scenario; `own` is the `cairn-jepsen` binary, for the client that is stopped.
    ///
    /// # Errors
    /// An event is missing or out of order, or the server keeps too much.
    pub async fn run(&self, binary: &Binary, own: Option<PathBuf>) -> Result<Figures, Failure> {
        let cluster = Cluster::start(binary, 1, &[]).await?;
        let outcome = self.watch(&cluster, own).await;
        outcome.map_err(|failure| cluster.explain(failure))
    }

    async fn watch(&self, cluster: &Cluster, own: Option<PathBuf>) -> Result<Figures, Failure> {
        let url = &cluster.members[0].client_url;
        let server = &cluster.members[0];
        let mut figures = Figures::default();
        let (before, _) = server.memory();
        let seen = Arc::new(AtomicU64::new(0));
        let mut readers = Vec::new();
        for stream in 1..self.streams {
            let opened = Stream::open(&Client::new(url, EVENTUALLY), self.keys).await?;
            let (each, seen) = (self.events / self.keys, seen.clone());
            readers.push(tokio::spawn(async move {
                let reading = opened.read_all(each, &seen).await;
                reading.map_err(|failure| failure.note(format!("stream {stream}")))
            }));
        }
        let stalled = Stream::open(&Client::with_small_windows(url, EVENTUALLY), self.keys).await?;
        let mut stopped = match own {
            Some(own) => Some(StoppedClient::start(own, url, self.keys, self.events).await?),
            None => None,
        };
        let (watching, _) = server.memory();

        let begin = Instant::now();
        let last = self.put_all(url, server).await?;
        let putting = begin.elapsed();
        for reader in readers {
            let read =
                reader.await.map_err(|error| Failure::new(format!("a reader panicked: {error}")))??;
            if let Read::Compacted(at) = read {
                return Err(Failure::new(format!("a client that reads was cancelled, compacted at {at}")));
            }
        }
        let delivered = begin.elapsed();
        let (after, peak) = server.memory();
        let rate = self.events as f64 / putting.as_secs_f64();
        figures.add("watchers on streams", format!("{} on {}", self.streams * self.keys, self.streams));
        figures.add("events put", format!("{} in {} ({rate:.0}/s)", self.events, ms(putting)));
        figures.add(
            "events delivered in order",
            format!("{} in {}", seen.load(Ordering::Relaxed), ms(delivered)),
        );
        figures.add("server RSS before, with the watchers", format!("{}, {}", mib(before), mib(watching)));
        figures.add("server RSS after, peak", format!("{}, {}", mib(after), mib(peak)));

        if self.compact {
            Client::new(url, EVENTUALLY).compact(last).await.or_fail("compact")?;
        }
        let each = self.events / self.keys;
        figures.add("the client that never read", stalled.late(each, EVENTUALLY).await?);
        if let Some(stopped) = &mut stopped {
            figures.add("the client that was stopped", stopped.proceed().await?);
        }
        let growth = peak.saturating_sub(before);
        if growth > self.growth_mib << 20 {
            let what = format!("the server grew by {} (limit {} MiB)", mib(growth), self.growth_mib);
            return Err(Failure::new(what).note(figures.to_string()));
        }
        Ok(figures)
    }

    /// Puts all events, a few keys at a time; the last revision.
    async fn put_all(&self, url: &str, server: &Server) -> Result<i64, Failure> {
        const PUTTERS: usize = 16;
        let mut putters = Vec::new();
        for putter in 0..PUTTERS {
            let (client, plan) = (Client::new(url, EVENTUALLY), self.clone());
            putters.push(tokio::spawn(async move {
                let mut last = 0;
                for number in 1..=plan.events / plan.keys {
                    for key in (putter..plan.keys).step_by(PUTTERS) {
                        let value = format!("{number}:{:.<1$}", "", plan.value_bytes);
                        let put = client.put(&key_name(key), &value).await;
                        last = revision(&put.or_fail("put")?.header);
                    }
                }
                Ok::<i64, Failure>(last)
            }));
        }
        let mut last = 0;
        for putter in putters {
            let reached =
                putter.await.map_err(|error| Failure::new(format!("a putter panicked: {error}")))?;
            last = last.max(reached.map_err(|failure| failure.note(server.log_tail(10)))?);
        }
        Ok(last)
    }
}

fn key_name(key: usize) -> String {
    format!("{PREFIX}{key:05}")
}

/// One watch stream with a watcher for every key.
struct Stream {
    // Dropping it would end the stream.
    _requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
    keys: usize,
}

impl Stream {
    async fn open(client: &Client, keys: usize) -> Result<Self, Failure> {
        let (requests, outgoing) = mpsc::channel(keys.max(1));
        let failed = |what: String| Failure::new(format!("open a watch stream: {what}"));
        for key in 0..keys {
            let create = pb::WatchCreateRequest { key: key_name(key).into(), ..Default::default() };
            requests.send(watch_create(create)).await.map_err(|error| failed(error.to_string()))?;
        }
        let answer = client.watch().watch(ReceiverStream::new(outgoing)).await;
        let mut responses = answer.map_err(|status| failed(status.to_string()))?.into_inner();
        for _ in 0..keys {
            let response = responses.message().await.map_err(|status| failed(status.to_string()))?;
            if !response.as_ref().is_some_and(|response| response.created) {
                return Err(failed(format!("not created: {response:?}")));
            }
        }
        Ok(Self { _requests: requests, responses, keys })
    }

    /// Reads until every key has had `each` events, in order and with nothing left out, or until a
    /// watcher is cancelled because the events that it waits for were compacted.
    async fn read_all(mut self, each: usize, seen: &AtomicU64) -> Result<Read, Failure> {
        let mut keys: BTreeMap<String, (usize, i64)> = BTreeMap::new();
        let mut left = each * self.keys;
        while left > 0 {
            let next = tokio::time::timeout(EVENTUALLY, self.responses.message()).await;
            let next = next.map_err(|_| Failure::new(format!("{left} events did not arrive")))?;
            let response = next.map_err(|status| Failure::new(format!("watch stream: {status}")))?;
            let response = response.ok_or_else(|| Failure::new("the watch stream ended"))?;
            match (response.canceled, response.compact_revision) {
                (false, _) => {}
                // A cancel without a compact revision is a lost watcher.
                (true, 0) => return Err(Failure::new(format!("cancelled: {}", response.cancel_reason))),
                (true, compacted) => return Ok(Read::Compacted(compacted)),
            }
            for kv in response.events.iter().filter_map(|event| event.kv.as_ref()) {
                let (count, last) = keys.entry(text(&kv.key)).or_default();
                let number = text(&kv.value);
                let number = number.split(':').next().unwrap_or_default();
                if number != (*count + 1).to_string() || kv.mod_revision <= *last {
                    let key = text(&kv.key);
                    return Err(Failure::new(format!(
                        "{key}: put {number} came after {count} of revision {last}"
                    )));
                }
                (*count, *last) = (*count + 1, kv.mod_revision);
                left -= 1;
                seen.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(Read::All)
    }

    /// Starts to read after all was put: everything comes, or a cancel that says it was compacted.
    async fn late(self, each: usize, limit: Duration) -> Result<String, Failure> {
        let seen = AtomicU64::new(0);
        let reading = tokio::time::timeout(limit, self.read_all(each, &seen)).await;
        let count = seen.load(Ordering::Relaxed);
        match reading {
            Ok(Ok(Read::All)) => Ok(format!("caught up: {count} events in order")),
            Ok(Ok(Read::Compacted(at))) => Ok(format!("{count} events in order, then compacted at {at}")),
            Ok(Err(failure)) => Err(failure.note(format!("after {count} events"))),
            Err(_) => Err(Failure::new(format!("the stalled client got {count} events within {limit:?}"))),
        }
    }
}

/// How reading a stream ended.
enum Read {
    /// Every event came.
    All,
    /// A watcher was cancelled: its events up to this revision are compacted.
    Compacted(i64),
}

/// The hidden subcommand that the stopped client runs: reads all events and says how it went.
#[derive(Clone, Debug, clap::Args)]
pub struct CountEvents {
    /// The member's client address.
    #[arg(long)]
    pub url: String,
    /// Keys to watch.
    #[arg(long)]
    pub keys: usize,
    /// Events to expect.
    #[arg(long)]
    pub events: usize,
}

impl CountEvents {
    /// Reads the events; the parent process stops this one meanwhile.
    ///
    /// # Errors
    /// An event is missing or out of order.
    pub async fn run(&self) -> Result<(), Failure> {
        let stream = Stream::open(&Client::with_small_windows(&self.url, EVENTUALLY), self.keys).await?;
        println!("ready");
        println!("{}", stream.late(self.events / self.keys, 2 * EVENTUALLY).await?);
        Ok(())
    }
}

struct StoppedClient {
    process: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl StoppedClient {
    async fn start(own: PathBuf, url: &str, keys: usize, events: usize) -> Result<Self, Failure> {
        let mut command = Command::new(own);
        command.args(["count-events", "--url", url]).args(["--keys", &keys.to_string()]);
        command.args(["--events", &events.to_string()]).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let stdout = process.stdout.take().ok_or_else(|| Failure::new("the client has no output"))?;
        let mut client = Self { process, lines: BufReader::new(stdout).lines() };
        let ready = client.line().await?;
        if ready != "ready" {
            return Err(Failure::new(format!("the client said {ready:?}")));
        }
        signal(client.process.id().unwrap_or(0), "STOP");
        Ok(client)
    }

    async fn proceed(&mut self) -> Result<String, Failure> {
        signal(self.process.id().unwrap_or(0), "CONT");
        let told = self.line().await?;
        let deadline = Instant::now() + EVENTUALLY;
        while Instant::now() < deadline {
            match self.process.try_wait()? {
                Some(status) if status.success() => return Ok(told),
                Some(status) => return Err(Failure::new(format!("the stopped client ended with {status}"))),
                None => tokio::time::sleep(POLL).await,
            }
        }
        Err(Failure::new("the stopped client did not end"))
    }

    async fn line(&mut self) -> Result<String, Failure> {
        let line = tokio::time::timeout(2 * EVENTUALLY, self.lines.next_line()).await;
        let line = line.map_err(|_| Failure::new("the stopped client says nothing"))??;
        line.ok_or_else(|| Failure::new("the stopped client ended early; its reason is on standard error"))
    }
}
