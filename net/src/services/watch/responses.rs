//! The responses of a watch stream as the body of its HTTP response.
//!
//! A message of the member stands for the same response to many watchers of the stream, and its events
//! are shared with other streams: they are encoded once, and what is written for each watcher is a few
//! bytes before them. The member's queue is read only when the transport takes more, so a client that
//! does not read gets no credit back.
//!
//! Invariant: each frame holds whole responses, or the rest of one that was too long to be copied.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes};
use cairn_core::api::{Header, WatchBatch};
use cairn_core::error::Error;
use cairn_core::types::Event;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::HeaderMap;
use hyper::body::{Body, Frame};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use tokio::sync::mpsc;
use tonic::Status;

use super::super::Member;
use super::super::recipe::Watcher;
use crate::convert;
use crate::proto::etcdserverpb as pb;

/// A frame is closed when it has grown to this size.
const FRAME_BYTES: usize = 64 << 10;
/// Events of this size are not copied behind the rest of their response.
const SHARED_BYTES_MIN: usize = 16 << 10;
/// A flag and a length stand before each message.
const PREFIX_BYTES: usize = 5;
/// The key of the field `watch_id`: a varint.
const WATCH_ID_KEY: u8 = 2 << 3;

/// What the task that reads the requests has to say to the body.
#[derive(Debug)]
pub(super) enum Said {
    /// It wants to read on.
    Waits,
    /// The stream ends with an error.
    Failed(Status),
}

/// See the module.
pub(super) struct Responses {
    member: Member,
    watcher: Watcher,
    said: mpsc::Receiver<Said>,
    go_on: mpsc::Sender<()>,
    /// Completes when the stream must end, with the reason.
    end: BoxFuture<'static, Error>,
    /// A message of which some watchers' responses are still to be written, and where to go on.
    begun: Option<(Written, usize)>,
    frames: VecDeque<Bytes>,
    ended: bool,
}

/// A message with what all its responses have in common.
struct Written {
    batch: WatchBatch,
    header: Vec<u8>,
    rest: Vec<u8>,
    events: Bytes,
}

impl Written {
    /// `top` is the header but for the revision, which is the watchers'.
    fn new(top: Header, batch: WatchBatch) -> Self {
        let response = &batch.response;
        let header = Some(convert::header(Header { revision: response.revision, ..top }));
        let header = pb::WatchResponse { header, ..pb::WatchResponse::default() }.encode_to_vec();
        let rest = convert::watch_response_rest(response).encode_to_vec();
        let events = response.events.encoded(encode_events);
        Self { batch, header, rest, events }
    }

    /// The most bytes that the response to one watcher takes without its events.
    fn len_max(&self) -> usize {
        PREFIX_BYTES + self.header.len() + 11 + self.rest.len()
    }

    /// Writes the response to one watcher but for its events.
    fn write(&self, watch_id: i64, frame: &mut Vec<u8>) {
        let id = watch_id as u64;
        let id_len = if id == 0 { 0 } else { 1 + encoded_len_varint(id) };
        let len = self.header.len() + id_len + self.rest.len() + self.events.len();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(len).expect("a response is smaller than 4 GiB"));
        frame.extend_from_slice(&self.header);
        if id != 0 {
            frame.put_u8(WATCH_ID_KEY);
            encode_varint(id, frame);
        }
        frame.extend_from_slice(&self.rest);
    }
}

fn encode_events(events: &[Event]) -> Bytes {
    let events = events.iter().cloned().map(convert::event).collect();
    pb::WatchResponse { events, ..pb::WatchResponse::default() }.encode_to_vec().into()
}

impl Responses {
    pub(super) fn new(
        member: Member,
        watcher: Watcher,
        said: mpsc::Receiver<Said>,
        go_on: mpsc::Sender<()>,
        end: BoxFuture<'static, Error>,
    ) -> Self {
        Self { member, watcher, said, go_on, end, begun: None, frames: VecDeque::new(), ended: false }
    }

    /// Why the stream ends now, if it does.
    fn ending(&mut self, context: &mut Context<'_>) -> Option<Status> {
        if let Poll::Ready(error) = self.end.poll_unpin(context) {
            return Some(convert::status(error));
        }
        while let Poll::Ready(Some(said)) = self.said.poll_recv(context) {
            match said {
                // There is room for it: the task waits for this one.
                Said::Waits => {
                    let _ = self.go_on.try_send(());
                }
                Said::Failed(status) => return Some(status),
            }
        }
        None
    }

    /// Fills frames with what the member has; an error when it has stopped.
    fn fill(&mut self, context: &mut Context<'_>) -> Result<(), Status> {
        let mut frame = Vec::new();
        let mut handed = 0;
        while frame.len() < FRAME_BYTES && self.frames.is_empty() {
            let (written, mut at) = match self.begun.take() {
                Some(begun) => begun,
                None => match self.watcher.poll_next(context) {
                    Poll::Ready(Some(batch)) => (Written::new(self.member.header(0), batch), 0),
                    Poll::Ready(None) if frame.is_empty() => return Err(convert::status(Error::Stopped)),
                    Poll::Ready(None) | Poll::Pending => break,
                },
            };
            let shared = written.events.len() >= SHARED_BYTES_MIN;
            let each = written.len_max() + if shared { 0 } else { written.events.len() };
            frame.reserve((each * (written.batch.watch_ids.len() - at)).min(FRAME_BYTES + each));
            while frame.len() < FRAME_BYTES
                && self.frames.is_empty()
                && let Some(&watch_id) = written.batch.watch_ids.get(at)
            {
                written.write(watch_id, &mut frame);
                if shared {
                    self.frames.push_back(std::mem::take(&mut frame).into());
                    self.frames.push_back(written.events.clone());
                } else {
                    frame.extend_from_slice(&written.events);
                }
                (at, handed) = (at + 1, handed + 1);
            }
            if at < written.batch.watch_ids.len() {
                self.begun = Some((written, at));
            }
        }
        if !frame.is_empty() {
            self.frames.push_back(frame.into());
        }
        if handed > 0 {
            self.watcher.credit(handed).map_err(convert::status)?;
        }
        Ok(())
    }
}

impl Body for Responses {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.frames.is_empty() && !this.ended {
            let filled = match this.ending(context) {
                Some(status) => Err(status),
                None => this.fill(context),
            };
            if let Err(status) = filled {
                this.ended = true;
                let mut trailers = HeaderMap::new();
                return Poll::Ready(Some(
                    status.add_header(&mut trailers).map(|()| Frame::trailers(trailers)),
                ));
            }
        }
        match this.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(Frame::data(frame)))),
            None if this.ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::api::WatchResponse;
    use cairn_core::types::{EventKind, KeyValue};

    use super::*;

    fn decode(mut frame: &[u8]) -> Vec<pb::WatchResponse> {
        let mut responses = Vec::new();
        while let Some((prefix, rest)) = frame.split_first_chunk::<PREFIX_BYTES>() {
            let [flag, a, b, c, d] = *prefix;
            assert_eq!(flag, 0);
            let (message, rest) = rest.split_at(u32::from_be_bytes([a, b, c, d]) as usize);
            responses.push(pb::WatchResponse::decode(message).unwrap());
            frame = rest;
        }
        responses
    }

    #[test]
    fn a_message_is_written_for_each_of_its_watchers() {
        let pair = |n: u8| KeyValue {
            key: vec![n; 3].into(),
            value: vec![n; 300].into(),
            create_revision: 4,
            mod_revision: 5 + i64::from(n),
            version: 6,
            lease: 7,
        };
        let put = Event { kind: EventKind::Put, kv: pair(1), prev_kv: Some(pair(2)) };
        let delete = Event { kind: EventKind::Delete, kv: pair(3), prev_kv: None };
        let response = WatchResponse {
            revision: 0,
            watch_id: -1,
            created: true,
            canceled: true,
            compact_revision: 5,
            cancel_reason: "why".into(),
            fragment: true,
            events: vec![put.clone(), delete.clone()].into(),
        };
        let top = Header { cluster_id: 1, member_id: 2, revision: 0, raft_term: 4 };
        let ids = [-1, 0, 1, 127, 128, i64::MAX];
        let batch = WatchBatch { watch_ids: ids.into(), response };
        let written = Written::new(top, batch);
        let mut frame = Vec::new();
        for id in ids {
            written.write(id, &mut frame);
            frame.extend_from_slice(&written.events);
        }
        let responses = decode(&frame);
        let expected = |watch_id| pb::WatchResponse {
            header: Some(convert::header(top)),
            watch_id,
            created: true,
            canceled: true,
            compact_revision: 5,
            cancel_reason: "why".into(),
            fragment: true,
            events: vec![convert::event(put.clone()), convert::event(delete.clone())],
        };
        assert_eq!(responses, ids.map(expected));
    }
}
