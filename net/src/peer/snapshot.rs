//! Sends one snapshot: an offer, checksummed chunks, and the checksum of the whole.
//!
//! The receiver acknowledges every chunk it stored. Sent but unacknowledged chunks are kept, at most
//! [`WINDOW_CHUNKS`] of them, which bounds memory, paces the sender to the receiver's disk, and lets a
//! broken transfer go on where the receiver stands without reading the source again.
//!
//! Invariant: `kept` is the gapless run of chunks before `read`, the next one to be read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::types::MemberId;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::proto::{SnapshotAck, SnapshotChunk, SnapshotData, SnapshotEnd, snapshot_chunk::Part};
use super::transport::{client, dial};
use super::{CHUNK_BYTES_MAX, PeerConfig, route};

/// Chunks in flight.
const WINDOW_CHUNKS: usize = 8;
/// Attempts in a row that may fail without one more chunk stored.
const ATTEMPTS_MAX: u32 = 8;
/// How long the receiver may take to store a chunk, and to verify the whole.
const ACK_TIMEOUT: Duration = Duration::from_secs(60);

type Report = Box<dyn FnOnce(Result<(), String>) + Send>;
type Chunks = Box<dyn Iterator<Item = Result<Bytes, String>> + Send>;

/// Reports the outcome exactly once, even when the runtime drops the task.
pub(super) struct Done(Option<Report>);

impl Done {
    pub(super) fn new(done: Report) -> Self {
        Self(Some(done))
    }

    pub(super) fn call(mut self, result: Result<(), String>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err("the transport stopped".to_owned()));
        }
    }
}

/// Why an attempt ended.
enum Failure {
    /// Another attempt may succeed.
    Retry(String),
    /// None will.
    Final(String),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let text = status.message().to_owned();
        match status.code() {
            Code::PermissionDenied | Code::FailedPrecondition | Code::Aborted | Code::InvalidArgument => {
                Self::Final(text)
            }
            _ => Self::Retry(text),
        }
    }
}

/// One snapshot on its way.
pub(super) struct Sending {
    config: Arc<PeerConfig>,
    to: MemberId,
    header: Bytes,
    chunks: Option<Chunks>,
    /// The next chunk to read from the source.
    read: u64,
    total_crc: crc32fast::Hasher,
    kept: VecDeque<SnapshotData>,
    /// Everything before is stored by the receiver.
    stored: u64,
}

impl Sending {
    pub(super) fn new(config: Arc<PeerConfig>, to: MemberId, header: Bytes, chunks: Chunks) -> Self {
        Self {
            config,
            to,
            header,
            chunks: Some(chunks),
            read: 0,
            total_crc: crc32fast::Hasher::new(),
            kept: VecDeque::new(),
            stored: 0,
        }
    }

    /// Sends until the receiver has verified everything, or nothing more can be done.
    pub(super) async fn run(
        mut self,
        mut urls: watch::Receiver<Vec<String>>,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<(), String> {
        let mut failed = 0;
        let mut turn = 0;
        loop {
            let targets = urls.borrow_and_update().clone();
            let url = targets.get(turn % targets.len().max(1)).ok_or("the peer has no URL")?;
            let before = self.stored;
            let gone = async { while urls.changed().await.is_ok() {} };
            let attempt = tokio::select! {
                attempt = self.attempt(url) => attempt,
                () = gone => return Err("the peer was removed".to_owned()),
                _ = stopped.wait_for(|stopped| *stopped) => return Err("the transport stopped".to_owned()),
            };
            let reason = match attempt {
                Ok(()) => return Ok(()),
                Err(Failure::Final(reason)) => return Err(reason),
                Err(Failure::Retry(reason)) => reason,
            };
            tracing::debug!(peer = self.to, url, reason, stored = self.stored, "a snapshot transfer was cut");
            turn += 1;
            failed = if self.stored > before { 1 } else { failed + 1 };
            if failed >= ATTEMPTS_MAX {
                return Err(reason);
            }
            let pause = (self.config.backoff_min * (1 << (failed - 1))).min(self.config.backoff_max);
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&mut self, url: &str) -> Result<(), Failure> {
        let channel = dial(&self.config, url).await?;
        let (outbound, body) = mpsc::channel(1);
        let offer = SnapshotChunk { part: Some(Part::Offer(self.header.clone())) };
        outbound.send(offer).await.map_err(|_| Failure::Retry("the connection closed".to_owned()))?;
        let request = route::routed(&self.config, self.to, ReceiverStream::new(body));
        let mut client = client(channel);
        let opened = tokio::time::timeout(ACK_TIMEOUT, client.install_snapshot(request)).await;
        let mut acks = opened.map_err(|_| late())??.into_inner();
        let start = next_ack(&mut acks).await?.next_seq;
        self.acknowledge(start)?;
        let mut next = start;
        let mut ended = false;
        loop {
            // The receiver may already hold chunks that we have not read (it stored them for an
            // earlier attempt): `chunk` reads past them, because the checksum needs every byte.
            while !ended && next - self.stored < WINDOW_CHUNKS as u64 {
                let part = match self.chunk(next).await? {
                    Some(data) => Part::Data(data),
                    None => Part::End(self.end()),
                };
                ended = matches!(part, Part::End(_));
                next += u64::from(!ended);
                let sent = outbound.send(SnapshotChunk { part: Some(part) }).await;
                if sent.is_err() {
                    break;
                }
            }
            let ack = next_ack(&mut acks).await?;
            if ack.complete {
                return Ok(());
            }
            self.acknowledge(ack.next_seq)?;
        }
    }

    /// Chunk `seq`, kept until it is acknowledged; `None` past the last one.
    async fn chunk(&mut self, seq: u64) -> Result<Option<SnapshotData>, Failure> {
        let first_kept = self.read - self.kept.len() as u64;
        if let Some(data) = seq.checked_sub(first_kept).and_then(|at| self.kept.get(at as usize)) {
            return Ok(Some(data.clone()));
        }
        while self.read <= seq {
            let Some(mut chunks) = self.chunks.take() else { return Ok(None) };
            let (chunks, payload) = tokio::task::spawn_blocking(move || {
                let payload = chunks.next();
                (chunks, payload)
            })
            .await
            .map_err(|_| Failure::Final("reading the snapshot failed".to_owned()))?;
            // An iterator that ended is not asked again.
            let Some(payload) = payload else { return Ok(None) };
            self.chunks = Some(chunks);
            let payload = payload.map_err(Failure::Final)?;
            if payload.len() > CHUNK_BYTES_MAX {
                return Err(Failure::Final(format!("snapshot chunk {} is too large", self.read)));
            }
            self.total_crc.update(&payload);
            let data = SnapshotData { seq: self.read, crc: crc32fast::hash(&payload), payload };
            self.read += 1;
            if data.seq >= self.stored {
                self.kept.push_back(data);
            }
        }
        Ok(self.kept.back().cloned())
    }

    fn end(&self) -> SnapshotEnd {
        SnapshotEnd { chunks: self.read, total_crc: self.total_crc.clone().finalize() }
    }

    fn acknowledge(&mut self, next_seq: u64) -> Result<(), Failure> {
        let first_kept = self.read - self.kept.len() as u64;
        if next_seq < first_kept {
            // The receiver lost what it had acknowledged, e.g. it restarted.
            return Err(Failure::Final(format!(
                "the receiver wants chunk {next_seq}, but the earliest kept is {first_kept}"
            )));
        }
        self.stored = next_seq;
        while self.kept.front().is_some_and(|data| data.seq < next_seq) {
            self.kept.pop_front();
        }
        Ok(())
    }
}

fn late() -> Failure {
    Failure::Retry("the receiver did not answer in time".to_owned())
}

async fn next_ack(acks: &mut Streaming<SnapshotAck>) -> Result<SnapshotAck, Failure> {
    let ack = tokio::time::timeout(ACK_TIMEOUT, acks.message()).await.map_err(|_| late())??;
    ack.ok_or_else(|| Failure::Retry("the receiver closed the transfer".to_owned()))
}
