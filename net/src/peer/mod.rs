//! The peer transport: raft messages, snapshots and calls between the members of one cluster.
//!
//! [`Transport`] is the sending side and owns one task a peer; [`PeerService`] is the receiving side
//! and is served by a [`crate::listener::Listener`]. Payloads are opaque here: the core encodes and
//! decodes them. Every stream is checked for cluster, sender and receiver before anything is read.
//!
//! Invariant: messages of one lane reach [`PeerEvents::message`] in the order of sending while one
//! connection lasts; a connection that breaks loses what was in flight and says `unreachable`.

mod contact;
mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    tonic::include_proto!("cairn.peer");
}
mod queue;
mod route;
mod server;
mod snapshot;
#[cfg(test)]
mod tests;
mod transport;

use std::time::Duration;

use bytes::Bytes;
use cairn_core::types::{ClusterId, MemberId};
use futures::future::BoxFuture;

pub use server::{PeerServer, PeerService};
pub use transport::Transport;

/// The largest message, snapshot header or call that is accepted before it is decoded.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// The largest snapshot chunk.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// What a removed member is told; etcd's words, which operators search for.
pub const REMOVED_TEXT: &str = "the member has been permanently removed from the cluster";

/// What the transport tells the member. Calls come from runtime threads and must not block.
pub trait PeerEvents: Send + Sync + 'static {
    /// Messages arrived together.
    fn messages(&self, from: MemberId, messages: Vec<Bytes>);
    /// Messages to `to` were dropped: the connection broke, could not be made, or is too slow.
    fn unreachable(&self, to: MemberId);
    /// A stream of messages of `from` broke.
    fn receive_failed(&self, from: MemberId) {
        let _ = from;
    }
    /// Every connection with the peer broke, in both directions, and it could not be reached again.
    fn lost(&self, peer: MemberId);
    /// The peer accepted our message streams.
    fn connected(&self, to: MemberId);
    /// A peer says that this member was removed from the cluster.
    fn removed(&self);
    /// Whether `id` was removed from the cluster, so that its messages are refused.
    fn is_removed(&self, id: MemberId) -> bool;
    /// A peer offers a snapshot. May touch the disk: it runs where blocking is allowed.
    ///
    /// # Errors
    /// Why the offer is declined; the sender sees the text.
    fn begin_snapshot(&self, from: MemberId, header: Bytes) -> Result<Box<dyn SnapshotSink>, String>;
    /// Answers a peer's call; without an own implementation every call is declined.
    fn call(&self, from: MemberId, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let _ = (from, body);
        Box::pin(std::future::ready(Err("calls are not served by this member".to_owned())))
    }
}

/// Receives one snapshot. All methods run where blocking is allowed. A sink outlives a broken
/// connection: the sender comes back with the same header and goes on at [`SnapshotSink::resume_at`].
/// It is dropped unfinished when the sender offers another snapshot instead.
pub trait SnapshotSink: Send {
    /// The next chunk wanted; every earlier one is stored.
    fn resume_at(&self) -> u64;
    /// Stores chunk `seq`, whose own checksum is already verified.
    ///
    /// # Errors
    /// Why it cannot; the transfer fails and the sink is dropped.
    fn chunk(&mut self, seq: u64, payload: Bytes) -> Result<(), String>;
    /// All chunks are stored; `total_crc` is the CRC-32 of all payloads in order, to be compared.
    ///
    /// # Errors
    /// Why the snapshot is not usable.
    fn finish(self: Box<Self>, total_crc: u32) -> Result<(), String>;
}

/// Who we are and how patient the transport is.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Our cluster; peers of another one are refused.
    pub cluster_id: ClusterId,
    /// This member.
    pub member_id: MemberId,
    /// Messages that wait for one peer, in each lane, before new ones are dropped.
    pub queue_messages_max: usize,
    /// Bytes that wait for one peer, in each lane, before new ones are dropped.
    pub queue_bytes_max: usize,
    /// How long a connection attempt may take.
    pub dial_timeout: Duration,
    /// The first pause between attempts; it doubles.
    pub backoff_min: Duration,
    /// The longest pause between attempts.
    pub backoff_max: Duration,
    /// How often an open connection is pinged.
    pub keepalive_interval: Duration,
    /// How long a ping may stay unanswered before the connection counts as broken.
    pub keepalive_timeout: Duration,
}

impl PeerConfig {
    /// The defaults for one member of one cluster.
    pub fn new(cluster_id: ClusterId, member_id: MemberId) -> Self {
        Self {
            cluster_id,
            member_id,
            queue_messages_max: 4096,
            queue_bytes_max: 2 * MESSAGE_BYTES_MAX,
            dial_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(500),
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(3),
        }
    }
}
