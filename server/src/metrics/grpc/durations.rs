//! How long requests took, of those whose durations etcd tells by names of their own, and which of the
//! calls failed that etcd counts as failures of their own kind.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::super::text::{Counter, Histogram, Page};
use super::{CANCELED, Method};

/// Requests with a name in `etcd_server_request_duration_seconds`.
const TYPES: [(&str, &str); 10] = [
    ("Range", "Range"),
    ("Put", "Put"),
    ("DeleteRange", "DeleteRange"),
    ("Txn", "Txn"),
    ("Compact", "Compaction"),
    ("LeaseGrant", "LeaseGrant"),
    ("LeaseRevoke", "LeaseRevoke"),
    ("LeaseTimeToLive", "LeaseTimeToLive"),
    ("LeaseLeases", "LeaseLeases"),
    ("Alarm", "Alarm"),
];

/// Reasons of refused promotions before the rest is counted as other.
const REASONS_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Durations {
    requests: [[Histogram; 2]; TYPES.len()],
    ranges: [Histogram; 2],
    hash: Histogram,
    hash_revision: Histogram,
    watch_failures: Counter,
    keep_alive_failures: Counter,
    promote_failures: Mutex<BTreeMap<String, Counter>>,
}

impl Durations {
    pub(super) fn new() -> Self {
        let request = || Histogram::exponential(0.0001, 2.0, 20);
        let hash = || Histogram::exponential(0.01, 2.0, 15);
        Self {
            requests: std::array::from_fn(|_| [request(), request()]),
            ranges: [request(), request()],
            hash: hash(),
            hash_revision: hash(),
            watch_failures: Counter::default(),
            keep_alive_failures: Counter::default(),
            promote_failures: Mutex::default(),
        }
    }

    /// A call was handled with that code after that time.
    pub(super) fn handled(&self, method: &Method, code: usize, took: Duration) {
        let ok = usize::from(code == 0);
        if let Some(place) = method.request_type {
            self.requests[place][ok].seconds(took);
        }
        match method.name {
            "Range" => self.ranges[ok].seconds(took),
            "Hash" => self.hash.seconds(took),
            "HashKV" => self.hash_revision.seconds(took),
            // A client that goes away is no failure.
            "Watch" if method.kind == "bidi_stream" && code > CANCELED => self.watch_failures.inc(),
            "LeaseKeepAlive" if code > CANCELED => self.keep_alive_failures.inc(),
            _ => {}
        }
    }

    /// A promotion was refused for that reason.
    pub(super) fn promotion_refused(&self, reason: &str) {
        let mut reasons = self.promote_failures.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = if reasons.len() < REASONS_MAX { reason } else { "other" };
        reasons.entry(reason.to_owned()).or_default().inc();
    }

    pub(super) fn encode(&self, page: &mut Page) {
        for ((_, kind), outcomes) in TYPES.iter().zip(&self.requests) {
            for (success, seconds) in ["false", "true"].into_iter().zip(outcomes) {
                if seconds.count() > 0 {
                    let labels = [("success", success), ("type", *kind)];
                    let help = "Response latency distribution in seconds for each type.";
                    page.histogram("etcd_server_request_duration_seconds", help, &labels, seconds);
                }
            }
        }
        for (success, seconds) in ["false", "true"].into_iter().zip(&self.ranges) {
            if seconds.count() > 0 {
                let help = "How long ranges took, in seconds.";
                let labels = [("success", success)];
                page.histogram("etcd_server_range_duration_seconds", help, &labels, seconds);
            }
        }
        let help = "How long hashes of everything took, in seconds.";
        page.histogram("etcd_mvcc_hash_duration_seconds", help, &[], &self.hash);
        let help = "How long hashes of the keys at a revision took, in seconds.";
        page.histogram("etcd_mvcc_hash_rev_duration_seconds", help, &[], &self.hash_revision);
        let streams = [("lease-keepalive", &self.keep_alive_failures), ("watch", &self.watch_failures)];
        for (api, failures) in streams.into_iter().filter(|(_, failures)| failures.value() > 0) {
            let help = "The total number of stream failures from the local server.";
            let labels = [("API", api), ("Type", "receive")];
            page.counter("etcd_network_server_stream_failures_total", help, &labels, failures);
        }
        for (reason, count) in &*self.promote_failures.lock().unwrap_or_else(PoisonError::into_inner) {
            let help = "The total number of refused promotions of learners.";
            let labels = [("Reason", reason.as_str())];
            page.counter("etcd_server_learner_promote_failures", help, &labels, count);
        }
    }
}

/// The place of a method in the durations of requests.
pub(super) fn request_type(service: &str, name: &str) -> Option<usize> {
    service
        .starts_with("etcdserverpb.")
        .then(|| TYPES.iter().position(|(method, _)| *method == name))
        .flatten()
}
