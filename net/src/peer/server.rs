//! The receiving side of the peer transport: checks routes, unpacks batches, feeds snapshot sinks.
//!
//! It never looks into a payload and never blocks a runtime thread on a disk: sinks run on the
//! blocking pool.
//!
//! Invariant: at most one transfer a sender is fed at any time; a newer offer interrupts the older.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cairn_core::types::MemberId;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::contact::Contacts;
use super::proto::peer_server::{self, Peer};
use super::proto::{
    CallRequest, CallResponse, MessageBatch, MessagesAck, SnapshotAck, SnapshotChunk, snapshot_chunk::Part,
};
use super::{MESSAGE_BYTES_MAX, PeerConfig, PeerEvents, SnapshotSink, route};

/// What protobuf adds around the largest message.
const FRAMING_BYTES: usize = 64 << 10;

/// The gRPC service to add to the peer listener's routes.
pub type PeerServer = peer_server::PeerServer<PeerService>;

/// A transfer that was cut, kept for its sender to resume.
struct Parked {
    header: Bytes,
    sink: Box<dyn SnapshotSink>,
}

/// One sender's place: the lock is held by the transfer in progress.
struct Slot {
    parked: tokio::sync::Mutex<Option<Parked>>,
    /// Counts offers; a transfer stops when it is no longer the latest.
    offers: watch::Sender<u64>,
}

/// Serves peers. Clones share everything.
#[derive(Clone)]
pub struct PeerService {
    config: Arc<PeerConfig>,
    events: Arc<dyn PeerEvents>,
    slots: Arc<Mutex<BTreeMap<MemberId, Arc<Slot>>>>,
    contacts: Arc<Contacts>,
    stopped: watch::Receiver<bool>,
}

impl std::fmt::Debug for PeerService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerService").field("config", &self.config).finish_non_exhaustive()
    }
}

impl PeerService {
    pub(super) fn new(
        config: Arc<PeerConfig>,
        events: Arc<dyn PeerEvents>,
        contacts: Arc<Contacts>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        Self { config, events, slots: Arc::default(), contacts, stopped }
    }

    /// The service with its size limits, ready for `Routes::add_service`.
    pub fn into_server(self) -> PeerServer {
        PeerServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX + FRAMING_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES_MAX + FRAMING_BYTES)
    }

    fn slot(&self, from: MemberId) -> Arc<Slot> {
        let mut slots = self.slots.lock().expect("no code panics while it holds the slots");
        slots
            .entry(from)
            .or_insert_with(|| Arc::new(Slot { parked: Default::default(), offers: watch::Sender::new(0) }))
            .clone()
    }

    /// Delivers messages until the stream ends; the status says why, if the sender should know.
    async fn receive(mut self, from: MemberId, mut inbound: Streaming<MessageBatch>) -> Result<(), Status> {
        loop {
            let batch = tokio::select! {
                _ = self.stopped.wait_for(|stopped| *stopped) => return Ok(()),
                batch = inbound.next() => batch,
            };
            let batch = batch.transpose().inspect_err(|_| self.events.receive_failed(from))?;
            let Some(batch) = batch else { return Ok(()) };
            // A member may be removed while its stream is open.
            if self.events.is_removed(from) {
                return Err(route::removed());
            }
            self.events.messages(from, batch.messages);
        }
    }

    /// One attempt at a transfer; parks the sink when the connection is cut.
    async fn receive_snapshot(
        mut self,
        from: MemberId,
        mut inbound: Streaming<SnapshotChunk>,
        acks: mpsc::Sender<Result<SnapshotAck, Status>>,
    ) -> Result<(), Status> {
        let Some(Part::Offer(header)) = inbound.message().await?.and_then(|chunk| chunk.part) else {
            return Err(Status::invalid_argument("a snapshot starts with its offer"));
        };
        let slot = self.slot(from);
        slot.offers.send_modify(|offers| *offers += 1);
        let mut offers = slot.offers.subscribe();
        let ours = *offers.borrow_and_update();
        let mut place = slot.parked.lock().await;
        if *slot.offers.borrow() != ours {
            return Err(Status::aborted("a newer offer of the same sender took over"));
        }
        let mut sink = match place.take() {
            Some(parked) if parked.header == header => parked.sink,
            _ => self.begin(from, header.clone()).await?,
        };
        let first = SnapshotAck { next_seq: sink.resume_at(), complete: false };
        let mut alive = acks.send(Ok(first)).await.is_ok();
        while alive {
            let next = tokio::select! {
                _ = self.stopped.wait_for(|stopped| *stopped) => break,
                _ = offers.changed() => break,
                next = inbound.message() => next,
            };
            // A cut, clean or not: the sender comes back for the rest.
            let Ok(Some(chunk)) = next else { break };
            match chunk.part {
                Some(Part::Data(data)) => {
                    if data.seq != sink.resume_at() {
                        break;
                    }
                    if crc32fast::hash(&data.payload) != data.crc {
                        // Only this chunk is bad: the sender repeats it, not the whole snapshot.
                        *place = Some(Parked { header, sink });
                        return Err(Status::unavailable(format!(
                            "snapshot chunk {} arrived with a wrong checksum",
                            data.seq
                        )));
                    }
                    sink = store(sink, data.seq, data.payload).await?;
                    let ack = SnapshotAck { next_seq: sink.resume_at(), complete: false };
                    alive = acks.send(Ok(ack)).await.is_ok();
                }
                Some(Part::End(end)) => {
                    if end.chunks != sink.resume_at() {
                        break;
                    }
                    blocking(move || sink.finish(end.total_crc)).await?.map_err(Status::aborted)?;
                    let _ = acks.send(Ok(SnapshotAck { next_seq: end.chunks, complete: true })).await;
                    return Ok(());
                }
                _ => return Err(Status::invalid_argument("neither a chunk nor the end of a snapshot")),
            }
        }
        *place = Some(Parked { header, sink });
        Err(Status::unavailable("the snapshot transfer was interrupted"))
    }

    async fn begin(&self, from: MemberId, header: Bytes) -> Result<Box<dyn SnapshotSink>, Status> {
        let events = self.events.clone();
        blocking(move || events.begin_snapshot(from, header)).await?.map_err(Status::aborted)
    }
}

async fn store(
    mut sink: Box<dyn SnapshotSink>,
    seq: u64,
    payload: Bytes,
) -> Result<Box<dyn SnapshotSink>, Status> {
    let (sink, stored) = blocking(move || {
        let stored = sink.chunk(seq, payload);
        (sink, stored)
    })
    .await?;
    stored.map(|()| sink).map_err(Status::aborted)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Status::aborted("the snapshot's receiver failed"))
}

#[tonic::async_trait]
impl Peer for PeerService {
    type MessagesStream = BoxStream<'static, Result<MessagesAck, Status>>;
    type InstallSnapshotStream = BoxStream<'static, Result<SnapshotAck, Status>>;

    async fn messages(
        &self,
        request: Request<Streaming<MessageBatch>>,
    ) -> Result<Response<Self::MessagesStream>, Status> {
        let from = route::check(&self.config, &*self.events, request.metadata())?;
        let (end, ended) = mpsc::channel(1);
        let service = self.clone();
        // A task of its own: reading must not depend on how the response is polled.
        tokio::spawn(async move {
            service.contacts.accepted(from);
            let received = service.clone().receive(from, request.into_inner()).await;
            if service.contacts.ended(from) && !*service.stopped.borrow() {
                service.events.lost(from);
            }
            if let Err(status) = received {
                let _ = end.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(ended))))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        let from = route::check(&self.config, &*self.events, request.metadata())?;
        let (acks, acked) = mpsc::channel(4);
        let service = self.clone();
        // A task of its own: when the connection breaks it lives on to park the sink.
        tokio::spawn(async move {
            if let Err(status) = service.receive_snapshot(from, request.into_inner(), acks.clone()).await {
                let _ = acks.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(acked))))
    }

    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        let from = route::check(&self.config, &*self.events, request.metadata())?;
        let body = self.events.call(from, request.into_inner().body).await.map_err(Status::unknown)?;
        Ok(Response::new(CallResponse { body }))
    }
}
