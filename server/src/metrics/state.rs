//! What the node publishes about itself ([`Status`]), as samples.

use cairn_core::api::AlarmKind;
use cairn_core::node::{Role, Status};

use super::text::{Histogram, Kind, Page};

pub(super) fn encode(page: &mut Page, status: &Status) {
    encode_labelled(page, status);
    let one = |condition: bool| u64::from(condition);
    let count = |count: usize| count as u64;
    let mut gauge = |name, help: &str, value: u64| page.sample(name, Kind::Gauge, help, &[], value);
    gauge("etcd_server_has_leader", "Whether a leader exists.", one(status.leader != 0));
    gauge("etcd_server_is_leader", "Whether this member leads.", one(status.role == Role::Leader));
    gauge("etcd_server_is_learner", "Whether this member is a learner.", one(status.role == Role::Learner));
    gauge("etcd_server_proposals_committed_total", "The last committed index.", status.committed);
    gauge("etcd_server_proposals_applied_total", "The last applied index.", status.applied);
    gauge("etcd_server_proposals_pending", "Requests that are not answered yet.", count(status.requests));
    gauge("etcd_server_quota_backend_bytes", "The backend's quota in bytes.", status.quota_bytes);
    gauge("etcd_mvcc_db_total_size_in_bytes", "The size of the backend's file in bytes.", status.db_size);
    // 3.4's name of the same, which its dashboards use.
    let help = "The size of the backend's file in bytes.";
    gauge("etcd_debugging_mvcc_db_total_size_in_bytes", help, status.db_size);
    let help = "The part of the backend's file that is in use, in bytes.";
    gauge("etcd_mvcc_db_total_size_in_use_in_bytes", help, status.db_size_in_use);
    gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", count(status.watch_streams));
    gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", count(status.watchers));
    let help = "Watchers that are behind and catch up.";
    gauge("etcd_debugging_mvcc_slow_watcher_total", help, count(status.slow_watchers));
    let help = "Events on their way to clients.";
    gauge("etcd_debugging_mvcc_pending_events_total", help, count(status.pending_events));
    let help = "The total size of put kv pairs seen by this member.";
    gauge("etcd_debugging_mvcc_total_put_size_in_bytes", help, status.store_counts.put_bytes);
    gauge("cairn_leases", "Leases that exist.", count(status.leases));
    gauge("cairn_raft_term", "Raft's term.", status.term);
    let help = "The last index whose effects are in the backend's file.";
    gauge("cairn_backend_flushed_index", help, status.flushed);
    let mut signed = |name, help: &str, value: i64| page.sample(name, Kind::Gauge, help, &[], value);
    signed("etcd_debugging_mvcc_current_revision", "The store's revision.", status.revision);
    signed("etcd_debugging_mvcc_compact_revision", "The compact revision.", status.compact_revision);
    signed("etcd_debugging_mvcc_keys_total", "Total number of keys.", status.store_counts.keys);
    encode_counts(page, status);
}

fn encode_labelled(page: &mut Page, status: &Status) {
    let id = format!("{:x}", status.member_id);
    let labels = [("server_id", id.as_str())];
    let help = "Server or member ID in hexadecimal format.";
    page.sample("etcd_server_id", Kind::Gauge, help, &labels, 1);
    if let Some(version) = &status.cluster_version {
        // As etcd shows it, without the patch number.
        let short = version.rsplit_once('.').map_or(version.as_str(), |(short, _)| short);
        let help = "Which cluster version is running.";
        page.sample("etcd_cluster_version", Kind::Gauge, help, &[("cluster_version", short)], 1);
    }
    for alarm in &status.alarms {
        let kind = match alarm.alarm {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        };
        let member = format!("{:x}", alarm.member_id);
        let labels = [("server_id", member.as_str()), ("alarm_type", kind)];
        page.sample("etcd_debugging_server_alarms", Kind::Gauge, "Active alarms.", &labels, 1);
    }
    for member in status.members.iter().filter(|member| member.id != status.member_id) {
        let remote = format!("{:x}", member.id);
        let labels = [("Local", id.as_str()), ("Remote", &remote)];
        page.sample("etcd_network_known_peers", Kind::Gauge, "The members that are known.", &labels, 1);
    }
}

fn encode_counts(page: &mut Page, status: &Status) {
    let (store, leases) = (&status.store_counts, &status.lease_counts);
    let mut counter = |name, help: &str, value: u64| page.sample(name, Kind::Counter, help, &[], value);
    for name in ["etcd_mvcc_put_total", "etcd_debugging_mvcc_put_total"] {
        counter(name, "Total number of puts seen by this member.", store.puts);
    }
    for name in ["etcd_mvcc_delete_total", "etcd_debugging_mvcc_delete_total"] {
        counter(name, "Total number of deletes seen by this member.", store.deletes);
    }
    for name in ["etcd_mvcc_range_total", "etcd_debugging_mvcc_range_total"] {
        counter(name, "Total number of ranges seen by this member.", store.ranges);
    }
    for name in ["etcd_mvcc_txn_total", "etcd_debugging_mvcc_txn_total"] {
        counter(name, "Total number of txns seen by this member.", store.txns);
    }
    let help = "Total number of events sent by this member.";
    counter("etcd_debugging_mvcc_events_total", help, status.sent_events);
    counter("etcd_debugging_lease_granted_total", "The total number of granted leases.", leases.granted);
    counter("etcd_debugging_lease_revoked_total", "The total number of revoked leases.", leases.revoked);
    let help = "The number of renewed leases seen by the leader.";
    counter("etcd_debugging_lease_renewed_total", help, leases.renewed);
    let ttls = Histogram::exponential(1.0, 2.0, leases.ttl_buckets.len() - 1);
    ttls.load(&leases.ttl_buckets, leases.ttl_seconds as f64);
    page.histogram("etcd_debugging_lease_ttl_total", "Bucketed histogram of lease TTLs.", &[], &ttls);
}
