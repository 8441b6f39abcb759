//! How fast the whole stack is simulated: cluster-hours in a minute of CPU at 50 operations a second,
//! and what the same messages would cost over madsim's own network and tasks.

use std::fmt;

use crate::cluster::run;
use crate::options::Options;

/// Operations of all clients in a simulated second.
const OPERATIONS: u64 = 50;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    simulated_hours: f64,
    cpu_minutes: f64,
    operations: u64,
    events: u64,
    messages: u64,
    /// CPU of one message over madsim's network, in nanoseconds; `None` without madsim.
    endpoint_nanos: Option<f64>,
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.simulated_hours * 3600.0;
        let cpu = self.cpu_minutes * 60.0;
        writeln!(
            f,
            "{:.1} cluster-hours in a CPU-minute: 3 members, {:.0} operations a second, {:.1} simulated hours \
             in {cpu:.1} s of CPU",
            self.simulated_hours / self.cpu_minutes,
            self.operations as f64 / seconds,
            self.simulated_hours,
        )?;
        write!(
            f,
            "{:.2} us an event ({:.0} a simulated second), {:.0} messages a simulated second",
            cpu * 1e6 / self.events as f64,
            self.events as f64 / seconds,
            self.messages as f64 / seconds,
        )?;
        if let Some(nanos) = self.endpoint_nanos {
            let with = cpu + self.messages as f64 * nanos / 1e9;
            write!(
                f,
                "\nover madsim's network and tasks a message would cost {nanos:.0} ns more: {:.1} cluster-hours",
                self.simulated_hours / (with / 60.0)
            )?;
        }
        Ok(())
    }
}

/// Simulates so many seconds of a cluster of three without faults.
pub fn measure(seconds: u64) -> Speed {
    let before = cpu_seconds();
    let report = run(Options::steady(1, seconds, OPERATIONS));
    let cpu = cpu_seconds() - before;
    assert!(report.violation.is_none(), "{:?}", report.violation);
    Speed {
        simulated_hours: report.simulated as f64 / 3.6e12,
        cpu_minutes: cpu / 60.0,
        operations: report.stats.operations,
        events: report.stats.events,
        messages: report.stats.messages,
        endpoint_nanos: endpoint_nanos(100_000),
    }
}

/// CPU time of this process, from the kernel's own account of it.
#[allow(clippy::disallowed_methods, reason = "a run is measured from outside")]
#[allow(clippy::disallowed_types, reason = "a run is measured from outside")]
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    ticks.iter().sum::<f64>() / 100.0
}

#[cfg(not(madsim))]
fn endpoint_nanos(_messages: u64) -> Option<f64> {
    None
}

/// Two tasks on two nodes throw a message to and fro.
#[cfg(madsim)]
fn endpoint_nanos(messages: u64) -> Option<f64> {
    use madsim::net::Endpoint;

    let before = cpu_seconds();
    let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
    let address = |last: u8| std::net::SocketAddr::from(([10, 1, 0, last], 2380));
    let nodes = [1, 2].map(|last| runtime.create_node().ip(address(last).ip()).build());
    let message = [0; 200];
    let echo = nodes[1].spawn(async move {
        let endpoint = Endpoint::bind(address(2)).await?;
        let mut buffer = [0; 200];
        for _ in 0..messages / 2 {
            let (len, from) = endpoint.recv_from(1, &mut buffer).await?;
            endpoint.send_to(from, 1, &buffer[..len]).await?;
        }
        Ok::<_, std::io::Error>(())
    });
    let throw = nodes[0].spawn(async move {
        let endpoint = Endpoint::bind(address(1)).await?;
        madsim::time::sleep(std::time::Duration::from_secs(1)).await;
        let mut buffer = [0; 200];
        for _ in 0..messages / 2 {
            endpoint.send_to(address(2), 1, &message).await?;
            endpoint.recv_from(1, &mut buffer).await?;
        }
        Ok::<_, std::io::Error>(())
    });
    let done = runtime.block_on(async { (echo.await, throw.await) });
    matches!(done, (Ok(Ok(())), Ok(Ok(())))).then(|| (cpu_seconds() - before) * 1e9 / messages as f64)
}
