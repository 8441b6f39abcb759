//! How long commands took to be applied, by kind and outcome.
//!
//! The state machine has no clock: what is measured is the turn of the node's thread that applied them,
//! shared evenly among its commands.

use std::time::Duration;

use cairn_core::node::{APPLIED_OPS, AppliedOps};

use super::text::{Counter, Histogram, Page};

#[derive(Debug)]
pub(super) struct ApplyMetrics {
    slow: Counter,
    seconds: [[Histogram; 2]; APPLIED_OPS.len()],
}

impl ApplyMetrics {
    pub(super) fn new() -> Self {
        let histogram = || Histogram::exponential(0.0001, 2.0, 20);
        let seconds = std::array::from_fn(|_| [histogram(), histogram()]);
        Self { slow: Counter::default(), seconds }
    }

    /// A turn took `took` and moved the counts on.
    pub(super) fn turn(&self, before: &AppliedOps, now: &AppliedOps, took: Duration, slow: bool) {
        let applied = |op: usize, ok: usize| now[op][ok] - before[op][ok];
        let all: u64 = (0..APPLIED_OPS.len()).map(|op| applied(op, 0) + applied(op, 1)).sum();
        if all == 0 {
            return;
        }
        if slow {
            self.slow.inc();
        }
        let share = took.as_secs_f64() / all as f64;
        for (op, outcomes) in self.seconds.iter().enumerate() {
            for (ok, seconds) in outcomes.iter().enumerate() {
                seconds.observe_many(share, applied(op, ok));
            }
        }
    }

    pub(super) fn encode(&self, page: &mut Page) {
        let help = "The total number of slow apply requests (likely overloaded from slow disk).";
        page.counter("etcd_server_slow_apply_total", help, &[], &self.slow);
        for (op, outcomes) in APPLIED_OPS.iter().zip(&self.seconds) {
            for (success, seconds) in ["false", "true"].into_iter().zip(outcomes) {
                if seconds.count() > 0 {
                    let labels = [("op", *op), ("success", success), ("version", "v3")];
                    let help = "How long commands took to be applied, in seconds.";
                    page.histogram("etcd_server_apply_duration_seconds", help, &labels, seconds);
                }
            }
        }
    }
}
