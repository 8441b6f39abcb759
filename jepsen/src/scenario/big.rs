//! A million keys: memory, disk, restart, and small puts beside a range over everything.
//!
//! When etcd is on the path it runs the same steps in the same run, so that each figure has one to
//! stand beside. A server that is busy with a long range must still send heartbeats (the term does
//! not change) and answer small puts nearly as soon as ever (by their 99th percentile).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_net::bulk;
use cairn_net::proto::etcdserverpb as pb;
use tokio::sync::oneshot;

use crate::client::{Client, Outcome, prefix_range, put_op};
use crate::cluster::{Cluster, EVENTUALLY};
use crate::process::Binary;
use crate::scenario::{mib, ms, percentile};
use crate::{Failure, Figures};

const PREFIX: &str = "big/";

/// Operations of one transaction: etcd's own limit.
const BATCH: usize = 128;

/// Transactions under way while loading.
const LOADERS: usize = 16;

/// A load, or one range over everything, may take this long.
const LONG: Duration = Duration::from_secs(900);

/// The flags of `big`.
#[derive(Clone, Debug, clap::Args)]
pub struct Big {
    /// Keys to load.
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: usize,
    /// Bytes in each value.
    #[arg(long, default_value_t = 256)]
    pub value_bytes: usize,
    /// Members.
    #[arg(long, default_value_t = 3)]
    pub members: usize,
    /// Seconds of small puts, with and without the range.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// Concurrent small putters.
    #[arg(long, default_value_t = 4)]
    pub putters: usize,
    /// How much longer the 99th percentile of Cairn's small puts may become beside the range.
    #[arg(long, default_value_t = 2.0)]
    pub p99_ratio_max: f64,
    /// Do not run etcd beside it.
    #[arg(long)]
    pub alone: bool,
}

impl Big {
    /// Runs the scenario, on etcd as well if that is another binary.
    ///
    /// # Errors
    /// A step fails, a key is missing, or the leader changes under the range.
    pub async fn run(&self, binary: &Binary) -> Result<Figures, Failure> {
        let mut figures = self.one(binary).await?;
        if !self.alone
            && binary.cairn
            && let Some(etcd) = Binary::etcd()
        {
            figures.extend(self.one(&etcd).await?);
        }
        Ok(figures)
    }

    async fn one(&self, binary: &Binary) -> Result<Figures, Failure> {
        // One transaction is 40 kB, so etcd's default of 2 GiB would do; the quota is not the test.
        let extra = ["--quota-backend-bytes", "8589934592"];
        let mut cluster = Cluster::start(binary, self.members, &extra).await?;
        let outcome = self.steps(&mut cluster, binary).await;
        outcome.map_err(|failure| cluster.explain(failure))
    }

    async fn steps(&self, cluster: &mut Cluster, binary: &Binary) -> Result<Figures, Failure> {
        let label = binary.label();
        let mut figures = Figures::default();
        let (leader, ..) = cluster.leader(EVENTUALLY).await?;
        let begin = Instant::now();
        self.load(&cluster.members[leader].client_url).await?;
        let took = begin.elapsed();
        let rate = self.keys as f64 / took.as_secs_f64();
        figures.add(format!("{label}: {} keys loaded in", self.keys), format!("{} ({rate:.0}/s)", ms(took)));
        for place in 0..self.members {
            cluster.caught_up(place, leader, LONG).await?;
            let (resident, peak) = cluster.members[place].memory();
            let role = if place == leader { "leader" } else { "follower" };
            let disk = mib(cluster.members[place].disk_bytes());
            let memory = format!("{}, {}, {disk}", mib(resident), mib(peak));
            figures.add(format!("{label}: {role} RSS, peak, disk"), memory);
        }
        let restarted = (leader + 1) % self.members;
        for hard in [false, true] {
            let member = &mut cluster.members[restarted];
            if hard {
                member.kill();
            } else {
                member.terminate(EVENTUALLY).await?;
            }
            let begin = Instant::now();
            member.start()?;
            first_get(&member.client_url, self.keys).await?;
            let how = if hard { "SIGKILL" } else { "SIGTERM" };
            let first = format!("{label}: exec to first get after {how}");
            figures.add(first, ms(begin.elapsed()));
            member.healthy(EVENTUALLY).await?;
            cluster.caught_up(restarted, (restarted + 1) % self.members, LONG).await?;
            let (resident, _) = cluster.members[restarted].memory();
            figures.add(format!("{label}: RSS after the restart"), mib(resident));
        }
        let ratio = self.range_beside_puts(cluster, label, &mut figures).await?;
        if binary.cairn && ratio >= self.p99_ratio_max {
            let what = format!("the range makes the p99 of small puts {ratio:.2} times as long");
            return Err(Failure::new(what).note(figures.to_string()));
        }
        Ok(figures)
    }

    async fn load(&self, url: &str) -> Result<(), Failure> {
        let mut loaders = Vec::new();
        for loader in 0..LOADERS {
            let (client, plan) = (Client::new(url, EVENTUALLY), self.clone());
            loaders.push(tokio::spawn(async move {
                let batches = plan.keys.div_ceil(BATCH);
                for batch in (loader..batches).step_by(LOADERS) {
                    let keys = batch * BATCH..((batch + 1) * BATCH).min(plan.keys);
                    let put =
                        |key| put_op(&key_name(key), &format!("{key:=<width$}", width = plan.value_bytes));
                    let success: Vec<pb::RequestOp> = keys.map(put).collect();
                    let txn = pb::TxnRequest { success, ..Default::default() };
                    client.txn(txn).await.or_fail("load a batch")?;
                }
                Ok::<(), Failure>(())
            }));
        }
        for loader in loaders {
            loader.await.map_err(|error| Failure::new(format!("a loader panicked: {error}")))??;
        }
        Ok(())
    }

    /// Measures small puts without and with the range; returns the ratio of their p99.
    async fn range_beside_puts(
        &self,
        cluster: &Cluster,
        label: &str,
        figures: &mut Figures,
    ) -> Result<f64, Failure> {
        let (leader, id, term) = cluster.leader(EVENTUALLY).await?;
        let url = cluster.members[leader].client_url.clone();
        let mut alone = self.small_puts(&url).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let ranges = Arc::new(AtomicU64::new(0));
        let ranging = {
            let (client, stop, ranges, keys) =
                (Client::new(&url, LONG), stop.clone(), ranges.clone(), self.keys);
            apart(async move {
                let mut longest = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let request = pb::RangeRequest { serializable: true, ..prefix_range(PREFIX) };
                    let response = client.range(request).await.or_fail("the range over everything")?;
                    if response.kvs.len() != keys || response.count != keys as i64 {
                        let told = (response.kvs.len(), response.count);
                        return Err(Failure::new(format!("the range has {told:?} of {keys} keys")));
                    }
                    longest = longest.max(begin.elapsed());
                    ranges.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, Failure>(longest)
            })?
        };
        let beside = self.small_puts(&url).await;
        stop.store(true, Ordering::Relaxed);
        let longest = ranging.await.map_err(|_| Failure::new("the ranger panicked"))??;
        let mut beside = beside?;
        let counts = format!("{} and {} puts", alone.len(), beside.len());
        let (p99_alone, p99_beside) = (percentile(&mut alone, 99), percentile(&mut beside, 99));
        let (p50_alone, p50_beside) = (percentile(&mut alone, 50), percentile(&mut beside, 50));
        let ratio = p99_beside.as_secs_f64() / p99_alone.as_secs_f64().max(1e-9);
        figures.add(
            format!("{label}: put p50 alone, beside the range"),
            format!("{}, {}", ms(p50_alone), ms(p50_beside)),
        );
        let p99 = format!("{}, {} (ratio {ratio:.1}; {counts})", ms(p99_alone), ms(p99_beside));
        figures.add(format!("{label}: put p99 alone, beside the range"), p99);
        let count = ranges.load(Ordering::Relaxed);
        figures.add(format!("{label}: full ranges, longest"), format!("{count}, {}", ms(longest)));
        let (resident, peak) = cluster.members[leader].memory();
        figures.add(
            format!("{label}: leader RSS, peak after the ranges"),
            format!("{}, {}", mib(resident), mib(peak)),
        );
        let (_, id_after, term_after) = cluster.leader(EVENTUALLY).await?;
        if (id, term) != (id_after, term_after) {
            let what =
                format!("{label}: the leader changed under the range: term {term} became {term_after}");
            return Err(Failure::new(what).note(figures.to_string()));
        }
        figures.add(format!("{label}: term before and after"), format!("{term}, {term_after}"));
        Ok(ratio)
    }

    /// Latencies of small puts for some seconds.
    async fn small_puts(&self, url: &str) -> Result<Vec<Duration>, Failure> {
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let mut putters = Vec::new();
        for putter in 0..self.putters {
            let client = Client::new(url, EVENTUALLY);
            putters.push(tokio::spawn(async move {
                let mut took = Vec::new();
                while Instant::now() < end {
                    let begin = Instant::now();
                    client.put(&format!("small/{putter}"), "value").await.or_fail("a small put")?;
                    took.push(begin.elapsed());
                    // Paced, so that the puts are a probe and not the load.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Ok::<_, Failure>(took)
            }));
        }
        let mut all = Vec::new();
        for putter in putters {
            all.extend(putter.await.map_err(|error| Failure::new(format!("a putter panicked: {error}")))??);
        }
        Ok(all)
    }
}

/// Runs a client on a thread of its own, as if it were another program on another machine: what it
/// takes to decode its answers is neither the putters' nor, as far as the system allows, the server's time.
fn apart<T: Send + 'static>(
    client: impl Future<Output = T> + Send + 'static,
) -> Result<oneshot::Receiver<T>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("no runtime for a client: {error}")))?;
    let (done, result) = oneshot::channel();
    let work = move || {
        // Nobody waits for it any more when the scenario has failed.
        let _ = done.send(runtime.block_on(client));
    };
    bulk::spawn("apart", work).map_err(|error| Failure::new(format!("no thread for a client: {error}")))?;
    Ok(result)
}

fn key_name(key: usize) -> String {
    format!("{PREFIX}{key:010}")
}

/// Tries to get the last key from this member alone until it answers.
async fn first_get(url: &str, keys: usize) -> Result<(), Failure> {
    let client = Client::new(url, EVENTUALLY);
    let deadline = Instant::now() + LONG;
    while Instant::now() < deadline {
        let request =
            pb::RangeRequest { key: key_name(keys - 1).into(), serializable: true, ..Default::default() };
        if let Outcome::Ok(response) = client.range(request).await
            && response.count == 1
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Err(Failure::new(format!("no answer from {url} within {LONG:?}")))
}
