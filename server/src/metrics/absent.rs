//! Families of etcd's that count what does not exist here: the v2 store, the gRPC proxy's cache, the
//! marshalling of a snapshot in one piece. Zero is the true number; dashboards find what they ask for.
//!
//! Whoever builds one of these features takes its families out of here.

use super::text::{Histogram, Kind, Page};

const COUNTERS: [&str; 3] = [
    "etcd_debugging_store_expires_total",
    "etcd_debugging_store_watch_requests_total",
    "etcd_grpc_proxy_events_coalescing_total",
];
const GAUGES: [&str; 5] = [
    "etcd_debugging_store_watchers",
    "etcd_grpc_proxy_cache_hits_total",
    "etcd_grpc_proxy_cache_keys_total",
    "etcd_grpc_proxy_cache_misses_total",
    "etcd_grpc_proxy_watchers_coalescing_total",
];
/// With the actions that etcd itself shows after a start.
const ACTIONS: [(&str, [&str; 2]); 2] = [
    ("etcd_debugging_store_reads_total", ["get", "getRecursive"]),
    ("etcd_debugging_store_writes_total", ["create", "set"]),
];
const HELP: &str = "Always zero: this server does not have the feature that is counted.";

pub(super) fn encode(page: &mut Page) {
    for name in COUNTERS {
        page.sample(name, Kind::Counter, HELP, &[], 0);
    }
    for name in GAUGES {
        page.sample(name, Kind::Gauge, HELP, &[], 0);
    }
    for (name, actions) in ACTIONS {
        for action in actions {
            page.sample(name, Kind::Counter, HELP, &[("action", action)], 0);
        }
    }
    let none = Histogram::exponential(0.001, 2.0, 14);
    page.histogram("etcd_debugging_snap_save_marshalling_duration_seconds", HELP, &[], &none);
    // Authentication is never enabled; its revision begins at 1.
    page.sample("etcd_debugging_auth_revision", Kind::Gauge, "The revision of the auth store.", &[], 1);
}
