//! The node's peers: its messages out through the transport, theirs in as events; snapshots both ways
//! as rows in chunks.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use cairn_core::backend::redb::RedbBackend;
use cairn_core::backend::{Backend, Batch, Table};
use cairn_core::mvcc::StoreView;
use cairn_core::node::Input;
use cairn_core::types::MemberId;
use cairn_net::peer::{PeerEvents, SnapshotSink, Transport};
use futures::future::BoxFuture;

use super::storage_thread::reopen_durable;
use super::{Event, Inbox, Incoming, Transfers};
use crate::backend_file::{self, BackendFile};
use crate::data_dir::DataDir;
use crate::metrics::Metrics;
use crate::peer_calls;

/// The bytes of rows in one chunk, about.
const CHUNK_BYTES: usize = 512 << 10;
/// Messages up to this size overtake bulk: heartbeats, votes, read indexes and acknowledgements.
const URGENT_BYTES_MAX: usize = 256;

/// The sending side.
pub(crate) struct Peers {
    transport: Transport,
    events: Inbox,
    metrics: Arc<Metrics>,
}

impl Peers {
    pub(crate) fn new(transport: Transport, events: Inbox, metrics: Arc<Metrics>) -> Self {
        Self { transport, events, metrics }
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    pub(super) fn send(&self, to: MemberId, message: Bytes) {
        self.metrics.peer(to).sent_bytes.add(message.len() as u64);
        if message.len() <= URGENT_BYTES_MAX {
            self.transport.send_urgent(to, message);
        } else {
            self.transport.send(to, message);
        }
    }

    pub(crate) fn set_peer(&self, id: MemberId, urls: Vec<String>) {
        self.transport.set_peer(id, urls);
    }

    pub(super) fn remove_peer(&self, id: MemberId) {
        self.transport.remove_peer(id);
    }

    pub(super) fn send_snapshot(&self, to: MemberId, header: Bytes, view: StoreView) {
        let events = self.events.clone();
        let peer = self.metrics.peer(to);
        peer.snapshot_sends.add(1);
        let started = Instant::now();
        let done = Box::new(move |result: Result<(), String>| {
            peer.snapshot_sends.add(-1);
            match &result {
                Ok(()) => {
                    peer.snapshot_send_success.inc();
                    peer.snapshot_send_seconds.seconds(started.elapsed());
                }
                Err(_) => peer.snapshot_send_failures.inc(),
            }
            if let Err(error) = &result {
                tracing::warn!("to" = super::hex(to), error, "failed to send database snapshot");
            }
            let _ = events.send(Event::Input(Input::SnapshotSent { to, ok: result.is_ok() }));
        });
        self.transport.send_snapshot(to, header, Box::new(Chunks { view, after: None, done: false }), done);
    }
}

/// A view as chunks of rows, each chunk read when it is asked for.
struct Chunks {
    view: StoreView,
    after: Option<(Table, Bytes)>,
    done: bool,
}

impl Iterator for Chunks {
    type Item = Result<Bytes, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let mut out = BytesMut::new();
        let mut last = None;
        for row in self.view.rows(self.after.take()) {
            let (table, key, value) = match row {
                Ok(row) => row,
                Err(fatal) => {
                    self.done = true;
                    return Some(Err(fatal.0));
                }
            };
            out.put_u8(table as u8);
            out.put_u32(u32::try_from(key.len()).expect("keys are shorter than a request"));
            out.put_u32(u32::try_from(value.len()).expect("values are shorter than a request"));
            out.put_slice(&key);
            out.put_slice(&value);
            last = Some((table, key));
            if out.len() >= CHUNK_BYTES {
                break;
            }
        }
        self.done = last.is_none();
        self.after = last;
        (!out.is_empty()).then(|| Ok(out.freeze()))
    }
}

/// Reads a chunk back; `None` when it is not whole rows.
fn rows_of(mut chunk: Bytes) -> Option<Vec<(Table, Bytes, Option<Bytes>)>> {
    let mut rows = Vec::new();
    while chunk.has_remaining() {
        if chunk.remaining() < 9 {
            return None;
        }
        let table = *Table::ALL.get(usize::from(chunk.get_u8()))?;
        let (key, value) = (chunk.get_u32() as usize, chunk.get_u32() as usize);
        if chunk.remaining() < key + value {
            return None;
        }
        rows.push((table, chunk.split_to(key), Some(chunk.split_to(value))));
    }
    Some(rows)
}

/// Why a snapshot is not taken now.
const INSTALLING: &str = "a snapshot is being installed";

/// The receiving side.
pub(crate) struct Receiver {
    pub(crate) events: Inbox,
    pub(crate) dir: DataDir,
    pub(crate) incoming: Arc<Mutex<Transfers>>,
    pub(crate) removed: Arc<RwLock<BTreeSet<MemberId>>>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Receiver {
    fn input(&self, input: Input) {
        // The node is gone only when the process is about to be.
        let _ = self.events.send(Event::Input(input));
    }
}

impl PeerEvents for Receiver {
    /// The node handles them together, and what follows for the log is one write.
    fn messages(&self, from: MemberId, messages: Vec<Bytes>) {
        let bytes: usize = messages.iter().map(Bytes::len).sum();
        self.metrics.peer(from).received_bytes.add(bytes as u64);
        let mut messages = messages.into_iter();
        self.events.gather(&mut || {
            messages.by_ref().for_each(|message| self.input(Input::Peer { from, message }));
        });
    }

    fn receive_failed(&self, from: MemberId) {
        self.metrics.peer(from).received_failures.inc();
    }

    fn call(&self, _: MemberId, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let inbox = self.events.clone();
        peer_calls::answer(move |call| inbox.send(Event::Call(call)).is_ok(), body)
    }

    fn unreachable(&self, peer: MemberId) {
        self.metrics.peer(peer).unreachable();
        self.input(Input::PeerUnreachable { peer });
    }

    fn lost(&self, peer: MemberId) {
        tracing::warn!(
            "remote-peer-id" = super::hex(peer),
            "peer became inactive (message send to peer failed)"
        );
        self.input(Input::PeerLost { peer });
    }

    fn connected(&self, peer: MemberId) {
        tracing::info!("remote-peer-id" = super::hex(peer), "peer became active");
        self.metrics.peer(peer).connected();
        self.input(Input::PeerConnected { peer });
    }

    fn removed(&self) {
        self.input(Input::Removed);
    }

    fn is_removed(&self, id: MemberId) -> bool {
        self.removed.read().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    fn begin_snapshot(&self, from: MemberId, header: Bytes) -> Result<Box<dyn SnapshotSink>, String> {
        // Whoever holds it for long is about to complete one.
        let Ok(mut transfers) = self.incoming.try_lock() else { return Err(INSTALLING.to_owned()) };
        if transfers.complete.is_some() {
            return Err(INSTALLING.to_owned());
        }
        transfers.begun += 1;
        let path = self.dir.backend_with_suffix("incoming");
        let _ = fs::remove_file(&path);
        let (file, _) =
            BackendFile::for_copy(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        // Made durable as a whole when it is complete.
        let backend = RedbBackend::open(file, backend_file::options(false)).map_err(|fatal| fatal.0)?;
        tracing::info!("from" = super::hex(from), "receiving database snapshot");
        let metrics = self.metrics.clone();
        metrics.peer(from).snapshot_receives.add(1);
        Ok(Box::new(Sink {
            number: transfers.begun,
            began: Instant::now(),
            metrics,
            complete: false,
            backend: Some(backend),
            next: 0,
            crc: 0,
            from,
            header,
            events: self.events.clone(),
            dir: self.dir.clone(),
            incoming: self.incoming.clone(),
        }))
    }
}

/// A snapshot on its way in.
struct Sink {
    number: u64,
    began: Instant,
    metrics: Arc<Metrics>,
    complete: bool,
    backend: Option<RedbBackend>,
    next: u64,
    crc: u32,
    from: MemberId,
    header: Bytes,
    events: Inbox,
    dir: DataDir,
    incoming: Arc<Mutex<Transfers>>,
}

impl SnapshotSink for Sink {
    fn resume_at(&self) -> u64 {
        self.next
    }

    fn chunk(&mut self, seq: u64, payload: Bytes) -> Result<(), String> {
        if seq != self.next {
            return Err(format!("chunk {seq} came, {} was due", self.next));
        }
        let mut hasher = crc32fast::Hasher::new_with_initial(self.crc);
        hasher.update(&payload);
        self.crc = hasher.finalize();
        let changes = rows_of(payload).ok_or("a chunk does not hold whole rows")?;
        let backend = self.backend.as_ref().ok_or("the snapshot is finished")?;
        backend.commit(&Batch { changes }).map_err(|fatal| fatal.0)?;
        self.next += 1;
        Ok(())
    }

    fn finish(mut self: Box<Self>, total_crc: u32) -> Result<(), String> {
        if self.crc != total_crc {
            return Err(format!("the snapshot's checksum is {:08x}, the sender's {total_crc:08x}", self.crc));
        }
        let backend = self.backend.take().ok_or("the snapshot is finished")?;
        drop(backend);
        let mut transfers = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        if transfers.begun != self.number {
            return Err("another snapshot has begun to come in its place".to_owned());
        }
        let path = self.dir.backend_with_suffix("incoming");
        let synced = Instant::now();
        let (backend, file) = reopen_durable(&path, true).map_err(|fatal| fatal.0)?;
        self.metrics.snapshot_saved(self.began.elapsed(), synced.elapsed());
        transfers.complete = Some(Incoming { backend, file });
        drop(transfers);
        self.complete = true;
        let input = Input::SnapshotReceived { from: self.from, header: self.header.clone() };
        self.events.send(Event::Input(input)).map_err(|_| "the member is stopping".to_owned())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let peer = self.metrics.peer(self.from);
        peer.snapshot_receives.add(-1);
        if self.complete {
            peer.snapshot_receive_success.inc();
            peer.snapshot_receive_seconds.seconds(self.began.elapsed());
        } else {
            peer.snapshot_receive_failures.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Features;

    const FROM: [MemberId; 2] = [2, 3];

    fn chunk(key: &str) -> Bytes {
        let mut chunk = BytesMut::new();
        chunk.put_u8(Table::Meta as u8);
        chunk.put_u32(u32::try_from(key.len()).expect("it is short"));
        chunk.put_u32(1);
        chunk.put_slice(key.as_bytes());
        chunk.put_slice(b"v");
        chunk.freeze()
    }

    #[test]
    fn of_two_snapshots_at_a_time_the_one_that_began_last_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::new(root.path().to_str().unwrap(), None);
        let _lock = dir.open().unwrap();
        let receiver = Receiver {
            events: Inbox::new(),
            dir,
            incoming: Arc::default(),
            removed: Arc::default(),
            metrics: Arc::new(Metrics::new("3.7.1", false, &Features::default())),
        };
        let [mut first, mut second] = FROM.map(|from| receiver.begin_snapshot(from, Bytes::new()).unwrap());
        let (of_first, of_second) = (chunk("first"), chunk("second"));
        let crc = crc32fast::hash(&of_first);
        first.chunk(0, of_first).unwrap();
        let refused = first.finish(crc).unwrap_err();
        assert_eq!(refused, "another snapshot has begun to come in its place");
        let crc = crc32fast::hash(&of_second);
        second.chunk(0, of_second).unwrap();
        second.finish(crc).unwrap();
        let complete = receiver.incoming.lock().unwrap().complete.take().unwrap();
        let rows = complete.backend.view().unwrap();
        assert!(rows.get(Table::Meta, b"second").unwrap().is_some());
        assert!(rows.get(Table::Meta, b"first").unwrap().is_none());
    }
}
