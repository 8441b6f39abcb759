//! Counters, gauges and histograms of atomics, and the text that Prometheus scrapes.
//!
//! etcd's names come from before OpenMetrics: it has gauges and histograms named `*_total` and counters
//! without that ending, which the `OpenMetrics` writers rename. This writes format 0.0.4, where a name is
//! what it is. Nothing here knows a metric; updates never wait and never allocate.
//!
//! Invariant: a histogram's buckets are cumulative and its count is that of the last one.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The number.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes both ways.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Replaces the number; what is larger than a gauge holds becomes the largest.
    pub fn set(&self, value: impl TryInto<i64>) {
        self.0.store(value.try_into().unwrap_or(i64::MAX), Relaxed);
    }

    /// Adds `count`, which may be negative.
    pub fn add(&self, count: i64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The number.
    pub fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// How observations spread over buckets.
#[derive(Debug)]
pub struct Histogram {
    bounds: Vec<f64>,
    /// One a bound, and one for what is above the last.
    counts: Vec<AtomicU64>,
    /// The bits of an `f64`.
    sum: AtomicU64,
}

impl Histogram {
    /// Buckets with these upper bounds, which ascend.
    pub fn new(bounds: Vec<f64>) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// `count` buckets; the first ends at `start`, each next one is `factor` times as wide.
    pub fn exponential(start: f64, factor: f64, count: usize) -> Self {
        Self::new(std::iter::successors(Some(start), |bound| Some(bound * factor)).take(count).collect())
    }

    /// Counts one observation.
    pub fn observe(&self, value: f64) {
        self.observe_many(value, 1);
    }

    /// Counts `count` observations of the same.
    pub fn observe_many(&self, value: f64, count: u64) {
        if count == 0 {
            return;
        }
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(count, Relaxed);
        let more = value * count as f64;
        let _ = self.sum.fetch_update(Relaxed, Relaxed, |bits| Some((f64::from_bits(bits) + more).to_bits()));
    }

    /// Takes over what somebody else has counted, a number a bucket.
    pub(super) fn load(&self, counts: &[u64], sum: f64) {
        assert_eq!(counts.len(), self.counts.len(), "one count a bucket");
        for (bucket, count) in self.counts.iter().zip(counts) {
            bucket.store(*count, Relaxed);
        }
        self.sum.store(sum.to_bits(), Relaxed);
    }

    /// How many observations there were.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Counts one duration in seconds.
    pub fn seconds(&self, duration: Duration) {
        self.observe(duration.as_secs_f64());
    }
}

/// Label names with their values.
pub(super) type Labels<'a> = [(&'a str, &'a str)];

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A scrape in the making: families in order of name, as etcd answers.
#[derive(Debug, Default)]
pub(super) struct Page {
    families: BTreeMap<&'static str, String>,
}

impl Page {
    /// The family's samples, begun with its header if this is the first of them.
    fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> &mut String {
        self.families
            .entry(name)
            .or_insert_with(|| format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.name()))
    }

    pub(super) fn sample(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &str,
        labels: &Labels<'_>,
        value: impl fmt::Display,
    ) {
        let out = self.family(name, kind, help);
        let _ = writeln!(out, "{name}{} {value}", Braces(labels, None));
    }

    pub(super) fn counter(&mut self, name: &'static str, help: &str, labels: &Labels<'_>, counter: &Counter) {
        self.sample(name, Kind::Counter, help, labels, counter.value());
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &str, labels: &Labels<'_>, gauge: &Gauge) {
        self.sample(name, Kind::Gauge, help, labels, gauge.value());
    }

    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        help: &str,
        labels: &Labels<'_>,
        histogram: &Histogram,
    ) {
        let out = self.family(name, Kind::Histogram, help);
        let mut count = 0;
        for (index, bucket) in histogram.counts.iter().enumerate() {
            count += bucket.load(Relaxed);
            let bound = histogram.bounds.get(index).map_or("+Inf".to_owned(), |bound| go_number(*bound));
            let _ = writeln!(out, "{name}_bucket{} {count}", Braces(labels, Some(&bound)));
        }
        let sum = f64::from_bits(histogram.sum.load(Relaxed));
        let _ = writeln!(out, "{name}_sum{} {sum}", Braces(labels, None));
        let _ = writeln!(out, "{name}_count{} {count}", Braces(labels, None));
    }

    pub(super) fn finish(self) -> String {
        self.families.into_values().collect()
    }
}

/// A number as Go's `%g` writes it, because bounds are compared as texts.
fn go_number(number: f64) -> String {
    let shortest = format!("{number:e}");
    match shortest.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>())) {
        Some((digits, Ok(exponent))) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => number.to_string(),
    }
}

/// Labels in braces, with a bucket's bound behind them; nothing if there are none.
struct Braces<'a>(&'a Labels<'a>, Option<&'a str>);

impl fmt::Display for Braces<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = self.1.map(|bound| ("le", bound));
        for (index, (name, value)) in self.0.iter().copied().chain(bound).enumerate() {
            f.write_char(if index == 0 { '{' } else { ',' })?;
            write!(f, "{name}=\"")?;
            for character in value.chars() {
                match character {
                    '\\' => f.write_str("\\\\")?,
                    '"' => f.write_str("\\\"")?,
                    '\n' => f.write_str("\\n")?,
                    other => f.write_char(other)?,
                }
            }
            f.write_char('"')?;
        }
        if self.0.is_empty() && bound.is_none() { Ok(()) } else { f.write_char('}') }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_a_scraper_reads() {
        let mut page = Page::default();
        let histogram = Histogram::exponential(0.5, 2.0, 2);
        for value in [0.5, 0.75, 9.0] {
            histogram.observe(value);
        }
        page.histogram("h", "spread", &[("To", "1f")], &histogram);
        let counter = Counter::default();
        counter.add(3);
        page.counter("a_success", "no ending", &[], &counter);
        let gauge = Gauge::default();
        gauge.set(u64::MAX);
        gauge.set(-2_i64);
        page.gauge("g_total", "a gauge", &[("x", "q\"\\\n")], &gauge);
        let expected = "# HELP a_success no ending\n# TYPE a_success counter\na_success 3\n\
            # HELP g_total a gauge\n# TYPE g_total gauge\ng_total{x=\"q\\\"\\\\\\n\"} -2\n\
            # HELP h spread\n# TYPE h histogram\n\
            h_bucket{To=\"1f\",le=\"0.5\"} 1\nh_bucket{To=\"1f\",le=\"1\"} 2\n\
            h_bucket{To=\"1f\",le=\"+Inf\"} 3\nh_sum{To=\"1f\"} 10.25\nh_count{To=\"1f\"} 3\n";
        assert_eq!(page.finish(), expected);
    }

    #[test]
    fn a_gauge_saturates_where_a_number_does_not_fit() {
        let gauge = Gauge::default();
        gauge.set(u64::MAX);
        assert_eq!(gauge.value(), i64::MAX);
    }
}
