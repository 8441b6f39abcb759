//! The calls that make up nearly all load, as one future each instead of a stack of layers.
//!
//! A put through tonic, axum and two layers costs a dozen boxed futures and bodies; here the request's
//! frame is decoded where it lies, and the reply is encoded once into the frame that is sent. The rules
//! are the same functions that the layers call. Whatever is out of the ordinary (compression, a message
//! in several frames, bytes that do not decode) is given back for the general path to judge, so that
//! there is one place for each refusal.
//!
//! Invariant: a request that is given back has lost nothing, and was not counted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use prost::Message;
use tonic::{Code, Status};

use super::kv::{self, RangeReply};
use super::rows::RowFrames;
use super::{GRPC_OVERHEAD_BYTES, Member, ServerInfo, guard};
use crate::convert;
use crate::handle::Handle;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};

/// A flag and a length stand before each message.
const PREFIX_BYTES: usize = 5;
const PATHS: [&str; 4] = [
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.KV/DeleteRange",
];

/// Counts calls that pass no layer.
pub trait Calls: Send + Sync {
    /// The number by which the other methods know a path.
    fn method(&self, path: &str) -> usize;
    /// A call began and its message was read.
    fn started(&self, method: usize, headers: &HeaderMap, received_bytes: usize);
    /// A message was sent.
    fn sent(&self, method: usize, bytes: usize);
    /// A call ended; `Cancelled` when its client went away first.
    fn handled(&self, method: usize, code: Code, time: Duration);
}

/// A method that is served here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Method(usize);

enum Call {
    Put(PutRequest),
    Range(RangeRequest),
    Txn(TxnRequest),
    DeleteRange(DeleteRangeRequest),
}

/// See the module. Clones share everything.
#[derive(Clone)]
pub struct Direct(Arc<Shared>);

struct Shared {
    member: Member,
    receive_bytes_max: usize,
    calls: Arc<dyn Calls>,
    /// The counter's numbers, in the order of [`PATHS`].
    numbers: [usize; PATHS.len()],
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direct").field("member", &self.0.member).finish_non_exhaustive()
    }
}

impl Direct {
    /// The short way to the member behind `handle`.
    pub fn new(handle: Handle, info: ServerInfo, calls: Arc<dyn Calls>) -> Self {
        let receive_bytes_max = info.max_request_bytes.saturating_add(GRPC_OVERHEAD_BYTES);
        let member = Member { handle, info: Arc::new(info) };
        let numbers = PATHS.map(|path| calls.method(path));
        Self(Arc::new(Shared { member, receive_bytes_max, calls, numbers }))
    }

    /// Whether the request is one for [`Direct::answer`].
    pub(crate) fn method(request: &Request<Incoming>) -> Option<Method> {
        let method = PATHS.iter().position(|path| *path == request.uri().path())?;
        let plain =
            request.method() == http::Method::POST && !request.headers().contains_key("grpc-encoding");
        plain.then_some(Method(method))
    }

    /// Runs `work`, whose requests reach the member together.
    pub(crate) fn gather(&self, work: &mut dyn FnMut()) {
        self.0.member.handle.gather(work);
    }

    /// Answers a request, or gives it back.
    pub(crate) async fn answer(
        &self,
        method: Method,
        request: Request<Incoming>,
    ) -> Result<Response<ReplyBody>, Request<axum::body::Body>> {
        let (parts, mut body) = request.into_parts();
        let started = Instant::now();
        let limit = guard::deadline(&parts.headers);
        let Some(first) = within(limit, read(&mut body, self.0.receive_bytes_max)).await else {
            return Ok(refuse(guard::deadline_exceeded()));
        };
        let decoded = match &first {
            Read::Whole(message) => decode(method, message.slice(PREFIX_BYTES..)),
            Read::Other(_) => None,
        };
        let Some(decoded) = decoded else {
            let body = Replayed { first: first.into_frames(), rest: body };
            return Err(Request::from_parts(parts, axum::body::Body::new(body)));
        };
        let received = first.len() - PREFIX_BYTES;
        let mut counted = Counted::start(&self.0, method, &parts.headers, received, started);
        let refusal = self
            .0
            .member
            .handle
            .with_status(|status| guard::refusal(status, PATHS[method.0], &parts.headers));
        let result = match refusal {
            Some(error) => Err(convert::status(error)),
            None => within(limit.map(|limit| limit.saturating_sub(started.elapsed())), self.perform(decoded))
                .await
                .unwrap_or_else(|| Err(guard::deadline_exceeded())),
        };
        Ok(match result {
            Ok(reply) => {
                counted.end(Code::Ok, Some(reply.len()));
                ReplyBody::response(reply)
            }
            Err(status) => {
                counted.end(status.code(), None);
                refuse(status)
            }
        })
    }

    async fn perform(&self, call: Call) -> Result<Reply, Status> {
        let member = &self.0.member;
        match call {
            Call::Put(put) => encode(&kv::put(member, put).await?),
            Call::Range(range) => match kv::range_in_frames(member, range).await? {
                RangeReply::Whole(response) => encode(&response),
                RangeReply::Frames(frames) => {
                    guard::sendable(frames.message_len())?;
                    Ok(Reply::Rows(frames))
                }
            },
            Call::Txn(txn) => encode(&kv::txn(member, txn).await?),
            Call::DeleteRange(delete) => encode(&kv::delete_range(member, delete).await?),
        }
    }
}

/// `None` when the time is over first.
async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        None => Some(work.await),
        Some(limit) => tokio::time::timeout(limit, work).await.ok(),
    }
}

/// What a request's body began with.
enum Read {
    /// One uncompressed message with its prefix, and nothing else.
    Whole(Bytes),
    /// Anything else.
    Other(Vec<Frame<Bytes>>),
}

impl Read {
    fn len(&self) -> usize {
        match self {
            Self::Whole(message) => message.len(),
            Self::Other(_) => 0,
        }
    }

    fn into_frames(self) -> Vec<Frame<Bytes>> {
        match self {
            Self::Whole(message) => vec![Frame::data(message)],
            Self::Other(frames) => frames,
        }
    }
}

async fn read(body: &mut Incoming, bytes_max: usize) -> Read {
    let mut first = Bytes::new();
    while !body.is_end_stream() {
        match body.frame().await {
            Some(Ok(frame)) => match frame.into_data() {
                // The end of a stream may come in an empty frame of its own.
                Ok(data) if data.is_empty() => {}
                Ok(data) if first.is_empty() => first = data,
                Ok(data) => return Read::Other(vec![Frame::data(first), Frame::data(data)]),
                Err(frame) => return Read::Other(vec![Frame::data(first), frame]),
            },
            // A stream that failed fails again when it is read on.
            Some(Err(_)) => return Read::Other(vec![Frame::data(first)]),
            None => break,
        }
        if first.len() >= PREFIX_BYTES && !is_message(&first, bytes_max) {
            return Read::Other(vec![Frame::data(first)]);
        }
    }
    if is_message(&first, bytes_max) { Read::Whole(first) } else { Read::Other(vec![Frame::data(first)]) }
}

/// Whether `data` is exactly one message that may be read.
fn is_message(data: &[u8], bytes_max: usize) -> bool {
    let Some(([0, a, b, c, d], message)) = data.split_first_chunk::<PREFIX_BYTES>() else { return false };
    let len = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    len == message.len() && len <= bytes_max
}

fn decode(method: Method, message: Bytes) -> Option<Call> {
    match method.0 {
        0 => PutRequest::decode(message).map(Call::Put),
        1 => RangeRequest::decode(message).map(Call::Range),
        2 => TxnRequest::decode(message).map(Call::Txn),
        _ => DeleteRangeRequest::decode(message).map(Call::DeleteRange),
    }
    .ok()
}

/// An answer.
#[derive(Debug)]
enum Reply {
    /// A message with its prefix.
    Message(Bytes),
    /// A message whose values are still being read.
    Rows(RowFrames),
}

impl Reply {
    /// The length of the message.
    fn len(&self) -> usize {
        match self {
            Self::Message(message) => message.len() - PREFIX_BYTES,
            Self::Rows(frames) => frames.message_len(),
        }
    }

    /// The message's next bytes; `None` at its end.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, axum::Error>>> {
        match self {
            Self::Message(message) => {
                let message = Some(std::mem::take(message)).filter(|message| !message.is_empty());
                Poll::Ready(message.map(Ok))
            }
            Self::Rows(frames) => {
                frames.poll_next(context).map(|frame| Some(frame?.map_err(axum::Error::new)))
            }
        }
    }
}

/// Encodes a message with its prefix.
///
/// # Errors
/// It is longer than etcd sends.
fn encode(message: &impl Message) -> Result<Reply, Status> {
    let len = message.encoded_len();
    guard::sendable(len)?;
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + len);
    out.put_u8(0);
    out.put_u32(len as u32);
    message.encode(&mut out).expect("there is room for it");
    Ok(Reply::Message(out.freeze()))
}

fn refuse(status: Status) -> Response<ReplyBody> {
    status.into_http::<ReplyBody>()
}

/// A call that is counted as handled when it is dropped.
struct Counted<'a> {
    calls: &'a dyn Calls,
    number: usize,
    started: Instant,
    code: Code,
}

impl<'a> Counted<'a> {
    fn start(
        shared: &'a Shared,
        method: Method,
        headers: &HeaderMap,
        bytes: usize,
        started: Instant,
    ) -> Self {
        let number = shared.numbers[method.0];
        shared.calls.started(number, headers, bytes);
        Self { calls: &*shared.calls, number, started, code: Code::Cancelled }
    }

    fn end(&mut self, code: Code, sent: Option<usize>) {
        self.code = code;
        if let Some(bytes) = sent {
            self.calls.sent(self.number, bytes);
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.calls.handled(self.number, self.code, self.started.elapsed());
    }
}

/// The body of an answer: one message and the trailers, or nothing.
#[derive(Debug, Default)]
pub(crate) struct ReplyBody {
    reply: Option<Reply>,
    trailers: bool,
}

impl ReplyBody {
    fn response(reply: Reply) -> Response<Self> {
        let mut response = Response::new(Self { reply: Some(reply), trailers: true });
        let content_type = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if let Some(reply) = &mut this.reply
            && let Some(frame) = ready!(reply.poll_next(context))
        {
            return Poll::Ready(Some(frame.map(Frame::data)));
        }
        this.reply = None;
        if std::mem::take(&mut this.trailers) {
            let mut trailers = HeaderMap::with_capacity(1);
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.reply.is_none() && !self.trailers
    }

    /// Not exact: that would become a content-length, at which some clients stop before the trailers.
    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

/// A request's body from its beginning, though some of it was read.
struct Replayed {
    first: Vec<Frame<Bytes>>,
    rest: Incoming,
}

impl Body for Replayed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return Pin::new(&mut this.rest).poll_frame(context);
        }
        Poll::Ready(Some(Ok(this.first.remove(0))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.is_end_stream()
    }
}
