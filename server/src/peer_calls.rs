//! Questions between members that are none of Raft's: how long a round trip takes, and the hash of the
//! keys at a revision.
//!
//! A question is a format byte, a kind and its arguments; what is not understood is declined with a text,
//! and so is what cannot be answered: nobody takes a failure for an answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use cairn_core::api::{Request, ResponseBody};
use cairn_core::node::Status;
use cairn_core::types::MemberId;
use cairn_net::handle::{Call, Handle, Reply};
use cairn_net::peer::Transport;
use futures::future::BoxFuture;
use tokio::sync::{oneshot, watch};

use crate::driver::Peers;
use crate::metrics::Metrics;

/// How often each peer is probed, as in etcd.
const PROBE_INTERVAL: Duration = Duration::from_secs(4);
/// How long an answer to a probe is waited for.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

const FORMAT: u8 = 1;
const PROBE: u8 = 1;
const HASH: u8 = 2;

/// A member's hash of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hash {
    /// Over the history up to the revision that was asked for.
    pub(crate) hash: u32,
    /// The member's compact revision.
    pub(crate) compact_revision: i64,
    /// The revision that was asked for.
    pub(crate) hash_revision: i64,
    /// The revision of the member's last write.
    pub(crate) revision: i64,
}

impl Hash {
    const BYTES: usize = 29;

    fn of(reply: &Reply) -> Option<Self> {
        match reply.response.body {
            ResponseBody::HashKv { hash, compact_revision, hash_revision } => {
                Some(Self { hash, compact_revision, hash_revision, revision: reply.response.header.revision })
            }
            _ => None,
        }
    }

    fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(Self::BYTES);
        out.put_u8(FORMAT);
        out.put_u32(self.hash);
        out.put_i64(self.compact_revision);
        out.put_i64(self.hash_revision);
        out.put_i64(self.revision);
        out.freeze()
    }

    fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.len() != Self::BYTES || bytes.get_u8() != FORMAT {
            return None;
        }
        let hash = bytes.get_u32();
        let (compact_revision, hash_revision) = (bytes.get_i64(), bytes.get_i64());
        Some(Self { hash, compact_revision, hash_revision, revision: bytes.get_i64() })
    }
}

/// Answers a peer's question; `submit` takes a call to this member, and says whether it did.
pub(crate) fn answer(
    submit: impl FnOnce(Call) -> bool + Send + 'static,
    mut body: Bytes,
) -> BoxFuture<'static, Result<Bytes, String>> {
    Box::pin(async move {
        let kind = (body.remaining() >= 2 && body.get_u8() == FORMAT).then(|| body.get_u8());
        match (kind, body.remaining()) {
            (Some(PROBE), 0) => Ok(Bytes::new()),
            (Some(HASH), 8) => {
                let request = Request::HashKv { revision: body.get_i64() };
                let (reply, answer) = oneshot::channel();
                let stopped = "this member is stopping";
                if !submit(Call::Request { request, timeout: None, in_frames: false, reply }) {
                    return Err(stopped.to_owned());
                }
                let reply = answer.await.map_err(|_| stopped)?.map_err(|error| error.to_string())?;
                Hash::of(&reply).map(Hash::encode).ok_or_else(|| "no hash was computed".to_owned())
            }
            _ => {
                Err("this member does not understand the question; it may be of an older version".to_owned())
            }
        }
    })
}

/// This member's hash up to `revision`, or to its last write if that is 0.
pub(crate) async fn own_hash(handle: &Handle, revision: i64) -> Result<Hash, String> {
    let reply =
        handle.request(Request::HashKv { revision }, None).await.map_err(|error| error.to_string())?;
    Hash::of(&reply).ok_or_else(|| "no hash was computed".to_owned())
}

/// A peer's hash up to `revision`.
pub(crate) async fn peer_hash(
    transport: &Transport,
    peer: MemberId,
    revision: i64,
    timeout: Duration,
) -> Result<Hash, String> {
    let mut question = BytesMut::from(&[FORMAT, HASH][..]);
    question.put_i64(revision);
    let answer = transport.call(peer, question.freeze(), timeout).await;
    let answer = answer.map_err(|status| status.message().to_owned())?;
    Hash::decode(answer).ok_or_else(|| "the peer's answer cannot be read".to_owned())
}

/// Measures round trips to every peer until it is dropped.
pub(crate) async fn probe(peers: Arc<Peers>, status: watch::Receiver<Status>, metrics: Arc<Metrics>) {
    let mut ticks = tokio::time::interval(PROBE_INTERVAL);
    loop {
        ticks.tick().await;
        for id in other_members(&status.borrow()) {
            let (peers, metrics) = (peers.clone(), metrics.clone());
            tokio::spawn(async move {
                let started = Instant::now();
                let question = Bytes::from_static(&[FORMAT, PROBE]);
                // A peer that is not there is told elsewhere.
                if peers.transport().call(id, question, PROBE_TIMEOUT).await.is_ok() {
                    metrics.peer(id).round_trip.seconds(started.elapsed());
                }
            });
        }
    }
}

/// All members but this one.
pub(crate) fn other_members(status: &Status) -> Vec<MemberId> {
    status.members.iter().map(|member| member.id).filter(|id| *id != status.member_id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_survives_the_wire_and_nothing_else_is_one() {
        let hash = Hash { hash: 7, compact_revision: -1, hash_revision: 12, revision: 13 };
        assert_eq!(Hash::decode(hash.encode()), Some(hash));
        assert_eq!(Hash::decode(hash.encode().slice(1..)), None);
        assert_eq!(Hash::decode(Bytes::from_static(&[0; Hash::BYTES])), None);
    }

    #[tokio::test]
    async fn what_is_not_understood_is_declined() {
        assert_eq!(answer(|_| false, Bytes::from_static(&[1, 1])).await, Ok(Bytes::new()));
        for question in [&[][..], &[1], &[1, 1, 0], &[2, 1], &[1, 9], &[1, 2, 0]] {
            assert!(answer(|_| false, Bytes::copy_from_slice(question)).await.is_err(), "{question:?}");
        }
    }
}
