//! What goes to and comes from each peer, under etcd's names and label names.
//!
//! [`super::Metrics::peer`] hands out one [`PeerMetrics`] a peer; whoever carries messages keeps it, so
//! that counting takes no lock.

use super::text::{Counter, Gauge, Histogram, Page};

/// One peer's counters.
#[derive(Debug)]
pub struct PeerMetrics {
    /// Bytes of messages sent.
    pub sent_bytes: Counter,
    /// Bytes of messages received.
    pub received_bytes: Counter,
    /// Messages that could not be sent.
    pub sent_failures: Counter,
    /// Messages that could not be received.
    pub received_failures: Counter,
    /// Times that the connection was lost.
    pub disconnected: Counter,
    /// 1 while we are connected.
    pub active: Gauge,
    /// Round trips, in seconds.
    pub round_trip: Histogram,
    /// Snapshots on their way to the peer.
    pub snapshot_sends: Gauge,
    /// Snapshots sent.
    pub snapshot_send_success: Counter,
    /// Snapshots whose sending failed.
    pub snapshot_send_failures: Counter,
    /// Snapshots on their way from the peer.
    pub snapshot_receives: Gauge,
    /// Snapshots received.
    pub snapshot_receive_success: Counter,
    /// Snapshots whose receiving failed.
    pub snapshot_receive_failures: Counter,
    /// How long sending a snapshot took, in seconds.
    pub snapshot_send_seconds: Histogram,
    /// How long receiving a snapshot took, in seconds.
    pub snapshot_receive_seconds: Histogram,
}

impl PeerMetrics {
    pub(super) fn new() -> Self {
        let snapshot = || Histogram::exponential(0.1, 2.0, 10);
        Self {
            sent_bytes: Counter::default(),
            received_bytes: Counter::default(),
            sent_failures: Counter::default(),
            received_failures: Counter::default(),
            disconnected: Counter::default(),
            active: Gauge::default(),
            round_trip: Histogram::exponential(0.0001, 2.0, 16),
            snapshot_sends: Gauge::default(),
            snapshot_send_success: Counter::default(),
            snapshot_send_failures: Counter::default(),
            snapshot_receives: Gauge::default(),
            snapshot_receive_success: Counter::default(),
            snapshot_receive_failures: Counter::default(),
            snapshot_send_seconds: snapshot(),
            snapshot_receive_seconds: snapshot(),
        }
    }

    /// We are connected to the peer.
    pub fn connected(&self) {
        self.active.set(1);
    }

    /// A message to the peer was lost, and with it, if there was one, the connection.
    pub fn unreachable(&self) {
        self.sent_failures.inc();
        if self.active.value() != 0 {
            self.active.set(0);
            self.disconnected.inc();
        }
    }

    /// `local` and `remote` are member ids as operators write them.
    pub(super) fn encode(&self, page: &mut Page, local: &str, remote: &str) {
        let both = &[("Local", local), ("Remote", remote)];
        let (to, from) = (&[("To", remote)], &[("From", remote)]);
        let help = "The current number of active peer connections.";
        page.gauge("etcd_network_active_peers", help, both, &self.active);
        let help = "The total number of disconnected peers.";
        page.counter("etcd_network_disconnected_peers_total", help, both, &self.disconnected);
        let help = "The total number of bytes sent to peers.";
        page.counter("etcd_network_peer_sent_bytes_total", help, to, &self.sent_bytes);
        let help = "The total number of bytes received from peers.";
        page.counter("etcd_network_peer_received_bytes_total", help, from, &self.received_bytes);
        let help = "The total number of send failures to peers.";
        page.counter("etcd_network_peer_sent_failures_total", help, to, &self.sent_failures);
        let help = "The total number of receive failures from peers.";
        page.counter("etcd_network_peer_received_failures_total", help, from, &self.received_failures);
        let help = "Round-trip times between peers.";
        page.histogram("etcd_network_peer_round_trip_time_seconds", help, to, &self.round_trip);
        let help = "Snapshots that are being sent.";
        page.gauge("etcd_network_snapshot_send_inflights_total", help, to, &self.snapshot_sends);
        let help = "Snapshots sent.";
        page.counter("etcd_network_snapshot_send_success", help, to, &self.snapshot_send_success);
        let help = "Snapshots whose sending failed.";
        page.counter("etcd_network_snapshot_send_failures", help, to, &self.snapshot_send_failures);
        let help = "How long the sending of a snapshot took.";
        let name = "etcd_network_snapshot_send_total_duration_seconds";
        page.histogram(name, help, to, &self.snapshot_send_seconds);
        let help = "Snapshots that are being received.";
        page.gauge("etcd_network_snapshot_receive_inflights_total", help, from, &self.snapshot_receives);
        let help = "Snapshots received.";
        page.counter("etcd_network_snapshot_receive_success", help, from, &self.snapshot_receive_success);
        let help = "Snapshots whose receiving failed.";
        page.counter("etcd_network_snapshot_receive_failures", help, from, &self.snapshot_receive_failures);
        let help = "How long the receiving of a snapshot took.";
        let name = "etcd_network_snapshot_receive_total_duration_seconds";
        page.histogram(name, help, from, &self.snapshot_receive_seconds);
    }
}
