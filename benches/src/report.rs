//! What a load reports, as a table for people and JSON for programs. Times are in microseconds.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::drive::Measured;
use crate::options::{Kind, LoadOptions};
use crate::process::Usage;
use crate::watch::Watched;

/// Quantiles of the whole histogram in each half of the way to its end.
const QUANTILE_TICKS: u32 = 5;

/// A histogram in a few numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Summary {
    pub count: u64,
    pub mean: f64,
    pub min: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub p9999: u64,
    pub max: u64,
}

impl From<&Histogram<u64>> for Summary {
    fn from(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            mean: histogram.mean(),
            min: histogram.min(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max(),
        }
    }
}

/// What a process used during the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Used {
    /// User and system microseconds for each operation that succeeded.
    pub cpu_us_per_op: f64,
    /// Page cache dirtied for each operation that succeeded; see [`Usage::dirtied_bytes`].
    pub dirtied_bytes_per_op: f64,
    /// Memory at the end.
    pub rss_bytes: u64,
    /// The most memory it ever had.
    pub rss_peak_bytes: u64,
}

impl Used {
    /// The difference of two readings.
    pub fn new(before: Usage, after: Usage, operations: u64) -> Self {
        let operations = operations.max(1) as f64;
        Self {
            cpu_us_per_op: after.cpu.saturating_sub(before.cpu).as_micros() as f64 / operations,
            dirtied_bytes_per_op: after.dirtied_bytes.saturating_sub(before.dirtied_bytes) as f64
                / operations,
            rss_bytes: after.rss_bytes,
            rss_peak_bytes: after.rss_peak_bytes,
        }
    }
}

/// The result of one load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What was done.
    pub load: String,
    /// `closed` or `open`.
    #[serde(rename = "loop")]
    pub pace: &'static str,
    /// HTTP/2 connections.
    pub conns: usize,
    /// Clients.
    pub clients: usize,
    /// Operations that succeeded.
    pub operations: u64,
    /// What failed, by the error's text.
    pub errors: BTreeMap<String, u64>,
    /// How long the load took.
    pub seconds: f64,
    /// Successes a second.
    pub throughput: f64,
    /// From when an operation was due (closed loop: sent) to its reply.
    pub latency_us: Summary,
    /// From when an operation was sent to its reply.
    pub service_us: Summary,
    /// Of a closed loop: the latencies that clients would have seen too if they had gone on asking, one
    /// operation each median latency, while one was slow (the HDR histogram's correction).
    pub corrected_us: Option<Summary>,
    /// The whole histogram of `latency_us`: pairs of a quantile and the latency.
    pub latency_quantiles: Vec<(f64, u64)>,
    /// From the sending of a put to its event at a watcher.
    pub watch_us: Option<Summary>,
    /// Successes in each second.
    pub per_second: Vec<u64>,
    /// What this process used.
    pub generator: Used,
    /// What the server used.
    pub server: Option<Used>,
}

impl Report {
    /// A report of what was measured.
    pub fn new(kind: Kind, options: &LoadOptions, measured: &Measured, used: (Used, Option<Used>)) -> Self {
        let seconds = measured.elapsed.as_secs_f64();
        let latency = &measured.latency;
        let closed = options.rate.is_none() && !latency.is_empty();
        let quantiles = latency.iter_quantiles(QUANTILE_TICKS);
        Self {
            load: kind.name().to_owned(),
            pace: if options.rate.is_some() { "open" } else { "closed" },
            conns: options.conns,
            clients: options.clients,
            operations: measured.done(),
            errors: measured.errors.clone(),
            seconds,
            throughput: if seconds > 0.0 { measured.done() as f64 / seconds } else { 0.0 },
            latency_us: latency.into(),
            service_us: (&measured.service).into(),
            corrected_us: closed
                .then(|| (&latency.clone_correct(latency.value_at_quantile(0.5).max(1))).into()),
            latency_quantiles: quantiles
                .map(|at| (at.quantile_iterated_to(), at.value_iterated_to()))
                .collect(),
            watch_us: None,
            per_second: measured.per_second.clone(),
            generator: used.0,
            server: used.1,
        }
    }

    /// Adds what the watchers saw.
    pub fn add_watched(&mut self, watched: Watched) {
        self.watch_us = Some((&watched.latency).into());
        self.errors.extend(watched.errors);
    }

    /// Failed operations and lost events.
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The report for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}, {} loop, {} connections, {} clients: {} operations in {:.2} s, {:.0}/s, {} errors\n",
            self.load,
            self.pace,
            self.conns,
            self.clients,
            self.operations,
            self.seconds,
            self.throughput,
            self.failures()
        );
        let mut table = plain_table(&["us", "mean", "min", "p50", "p90", "p99", "p99.9", "p99.99", "max"]);
        let mut row = |name: &str, summary: &Summary| {
            let Summary { mean, min, p50, p90, p99, p999, p9999, max, .. } = *summary;
            let numbers = [min, p50, p90, p99, p999, p9999, max].map(|number| number.to_string());
            table.add_row([name.to_owned(), format!("{mean:.0}")].into_iter().chain(numbers));
        };
        row("latency", &self.latency_us);
        if self.pace == "open" {
            row("service", &self.service_us);
        }
        if let Some(corrected) = &self.corrected_us {
            row("corrected", corrected);
        }
        if let Some(watch) = &self.watch_us {
            row("watch", watch);
        }
        right(&mut table);
        text.push_str(&format!("{table}\n"));
        if let [.., _] = self.per_second[..]
            && let Some(whole) = self.per_second.get(..self.per_second.len() - 1)
            && let (Some(least), Some(most)) = (whole.iter().min(), whole.iter().max())
        {
            text.push_str(&format!("per second: least {least}, most {most}\n"));
        }
        for (name, used) in [("generator", Some(self.generator)), ("server", self.server)] {
            if let Some(used) = used {
                text.push_str(&format!(
                    "{name}: {:.1} us CPU/op, {:.0} B dirtied/op, RSS {:.1} MiB (peak {:.1})\n",
                    used.cpu_us_per_op,
                    used.dirtied_bytes_per_op,
                    mebibytes(used.rss_bytes),
                    mebibytes(used.rss_peak_bytes)
                ));
            }
        }
        for (error, count) in &self.errors {
            text.push_str(&format!("error: {count} x {error}\n"));
        }
        text
    }
}

/// Bytes in MiB.
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A table in Markdown.
pub fn plain_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header);
    table
}

/// Aligns the numbers of a finished table.
pub fn right(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::drive::{histogram, record};

    #[test]
    fn a_report_names_its_numbers() {
        let mut latency = histogram();
        for micros in 1..=1000 {
            record(&mut latency, Duration::from_micros(micros));
        }
        let measured = Measured {
            service: latency.clone(),
            latency,
            errors: BTreeMap::from([("Unavailable: x".to_owned(), 2)]),
            elapsed: Duration::from_secs(2),
            per_second: vec![600, 400],
        };
        let before = Usage::default();
        let after = Usage { cpu: Duration::from_millis(50), rss_bytes: 3 << 20, ..before };
        let server = Used::new(before, after, measured.done());
        let options = LoadOptions::default();
        let report = Report::new(Kind::Put, &options, &measured, (Used::default(), Some(server)));
        assert_eq!(report.throughput, 500.0);
        assert_eq!((report.latency_us.p50, report.latency_us.p99), (500, 990));
        let table = report.table();
        for part in ["500/s", "2 errors", "50.0 us CPU/op", "RSS 3.0 MiB", "2 x Unavailable: x", "least 600"]
        {
            assert!(table.contains(part), "{part} is not in {table}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["latency_us"]["max"], 1000);
        assert_eq!(json["loop"], "closed");
        assert_eq!(json["latency_quantiles"].as_array().unwrap().last().unwrap()[1], 1000);
    }

    #[test]
    fn a_closed_loop_is_corrected_for_what_it_did_not_ask_meanwhile() {
        let mut latency = histogram();
        for _ in 0..999 {
            record(&mut latency, Duration::from_millis(1));
        }
        record(&mut latency, Duration::from_secs(1));
        let (errors, elapsed) = (BTreeMap::new(), Duration::from_secs(2));
        let measured =
            Measured { service: latency.clone(), latency, errors, elapsed, per_second: vec![500, 500] };
        let used = || (Used::default(), None);
        let closed = Report::new(Kind::Put, &LoadOptions::default(), &measured, used());
        // One second of silence hid a thousand operations, which would have waited half of it on average.
        assert_eq!(closed.latency_us.p99, 1_000);
        let corrected = closed.corrected_us.unwrap();
        assert!((1_900..2_100).contains(&corrected.count), "{corrected:?}");
        assert!((900_000..=1_000_000).contains(&corrected.p99), "{corrected:?}");
        let open = LoadOptions { rate: Some(500.0), ..LoadOptions::default() };
        assert_eq!(Report::new(Kind::Put, &open, &measured, used()).corrected_us, None);
    }
}
