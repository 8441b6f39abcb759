//! Questions between members that are none of Raft's: how long a round trip takes.
//!
//! A question is a format byte, a kind and its arguments; what is not understood is declined with a text.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_core::node::Status;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::driver::{Inbox, Peers};
use crate::metrics::Metrics;

/// How often each peer is probed, as in etcd.
const PROBE_INTERVAL: Duration = Duration::from_secs(4);
/// How long an answer to a probe is waited for.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// [`FORMAT`] and the kind of a probe.
const PROBE: [u8; 2] = [FORMAT, 1];
const FORMAT: u8 = 1;

/// Answers a peer's question.
pub(crate) fn answer(_inbox: Inbox, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
    Box::pin(async move {
        match body.as_ref() {
            body if body == PROBE => Ok(Bytes::new()),
            _ => {
                Err("this member does not understand the question; it may be of an older version".to_owned())
            }
        }
    })
}

/// Measures round trips to every peer until it is dropped.
pub(crate) async fn probe(peers: Arc<Peers>, status: watch::Receiver<Status>, metrics: Arc<Metrics>) {
    let mut ticks = tokio::time::interval(PROBE_INTERVAL);
    loop {
        ticks.tick().await;
        let (local, members) = {
            let status = status.borrow();
            (status.member_id, status.members.iter().map(|member| member.id).collect::<Vec<_>>())
        };
        for id in members.into_iter().filter(|id| *id != local) {
            let (peers, metrics) = (peers.clone(), metrics.clone());
            tokio::spawn(async move {
                let started = Instant::now();
                let question = Bytes::from_static(&PROBE);
                // A peer that is not there is told elsewhere.
                if peers.transport().call(id, question, PROBE_TIMEOUT).await.is_ok() {
                    metrics.peer(id).round_trip.seconds(started.elapsed());
                }
            });
        }
    }
}
