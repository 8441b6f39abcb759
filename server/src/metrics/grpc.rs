//! Counts of calls and messages, as a layer around every service.
//!
//! It sees what the wire sees: a call is handled when its status is known, which may be in the headers,
//! in the trailers or, if the client goes away first, never; etcd counts that as `Canceled`. Messages are
//! counted by walking the length prefixes of both bodies; nothing is copied. Methods that etcd does not
//! have are not counted, so that a client cannot make up series.
//!
//! Invariant: a call that was started is handled exactly once.

mod direct;
mod durations;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tonic::service::Routes;
use tower::{Layer, Service};

use super::text::{Counter, Histogram, Page};
use durations::Durations;

/// Services with their methods; one that is no plain call has its type behind a colon.
const SERVICES: [(&str, &str); 9] = [
    (
        "etcdserverpb.Auth",
        "AuthDisable AuthEnable AuthStatus Authenticate RoleAdd RoleDelete RoleGet RoleGrantPermission \
         RoleList RoleRevokePermission UserAdd UserChangePassword UserDelete UserGet UserGrantRole UserList \
         UserRevokeRole",
    ),
    ("etcdserverpb.Cluster", "MemberAdd MemberList MemberPromote MemberRemove MemberUpdate"),
    ("etcdserverpb.KV", "Compact DeleteRange Put Range RangeStream:server_stream Txn"),
    ("etcdserverpb.Lease", "LeaseGrant LeaseKeepAlive:bidi_stream LeaseLeases LeaseRevoke LeaseTimeToLive"),
    (
        "etcdserverpb.Maintenance",
        "Alarm Defragment Downgrade Hash HashKV MoveLeader Snapshot:server_stream Status",
    ),
    ("etcdserverpb.Watch", "Watch:bidi_stream"),
    ("grpc.health.v1.Health", "Check Watch:server_stream"),
    ("v3electionpb.Election", "Campaign Leader Observe:server_stream Proclaim Resign"),
    ("v3lockpb.Lock", "Lock Unlock"),
];

/// gRPC's codes by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const CANCELED: usize = 1;
const UNKNOWN: usize = 2;

/// Upper bounds of the durations of calls, in seconds.
const HANDLING_SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Versions that clients may name before the rest is counted as unknown.
const CLIENT_VERSIONS_MAX: usize = 32;
const UNKNOWN_VERSION: &str = "unknown";

#[derive(Debug)]
struct Method {
    service: &'static str,
    name: &'static str,
    kind: &'static str,
    request_type: Option<usize>,
    started: Counter,
    received: Counter,
    sent: Counter,
    handled: [Counter; CODES.len()],
    seconds: Option<Histogram>,
}

/// The counters of every method.
#[derive(Debug)]
pub(super) struct GrpcMetrics {
    methods: BTreeMap<String, Arc<Method>>,
    /// The same by number.
    ordered: Vec<Arc<Method>>,
    received_bytes: Counter,
    sent_bytes: Counter,
    durations: Durations,
    /// By the version that the client names and the type of the call.
    clients: RwLock<BTreeMap<String, [Counter; 2]>>,
}

impl GrpcMetrics {
    /// `extensive` adds how long calls take.
    pub(super) fn new(extensive: bool) -> Self {
        let mut methods = BTreeMap::new();
        for (service, names) in SERVICES {
            for name in names.split(' ') {
                let (name, kind) = name.split_once(':').unwrap_or((name, "unary"));
                let seconds = extensive.then(|| Histogram::new(HANDLING_SECONDS.to_vec()));
                let method = Method {
                    service,
                    name,
                    kind,
                    request_type: durations::request_type(service, name),
                    started: Counter::default(),
                    received: Counter::default(),
                    sent: Counter::default(),
                    handled: Default::default(),
                    seconds,
                };
                methods.insert(format!("/{service}/{name}"), Arc::new(method));
            }
        }
        let ordered = methods.values().cloned().collect();
        Self {
            methods,
            ordered,
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            durations: Durations::new(),
            clients: RwLock::default(),
        }
    }

    fn handled(&self, method: &Method, code: usize, took: Duration) {
        method.handled[code].inc();
        if let Some(seconds) = &method.seconds {
            seconds.seconds(took);
        }
        self.durations.handled(method, code, took);
    }

    fn client_of(&self, method: &Method, headers: &HeaderMap) {
        if method.service.starts_with("etcdserverpb.") {
            let version = headers.get("client-api-version").and_then(|version| version.to_str().ok());
            self.client(version.unwrap_or(UNKNOWN_VERSION), method.kind != "unary");
        }
    }

    fn client(&self, version: &str, streams: bool) {
        let known = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = known.get(version) {
            counters[usize::from(streams)].inc();
            return;
        }
        drop(known);
        let mut known = self.clients.write().unwrap_or_else(PoisonError::into_inner);
        let version = if known.len() < CLIENT_VERSIONS_MAX { version } else { UNKNOWN_VERSION };
        known.entry(version.to_owned()).or_default()[usize::from(streams)].inc();
    }

    pub(super) fn encode(&self, page: &mut Page) {
        for method in self.methods.values() {
            let labels =
                [("grpc_method", method.name), ("grpc_service", method.service), ("grpc_type", method.kind)];
            let help = "Total number of RPCs started on the server.";
            page.counter("grpc_server_started_total", help, &labels, &method.started);
            let help = "Total number of RPC stream messages received on the server.";
            page.counter("grpc_server_msg_received_total", help, &labels, &method.received);
            let help = "Total number of gRPC stream messages sent by the server.";
            page.counter("grpc_server_msg_sent_total", help, &labels, &method.sent);
            if let Some(seconds) = &method.seconds {
                let help = "How long RPCs took until the server had handled them, in seconds.";
                page.histogram("grpc_server_handling_seconds", help, &labels, seconds);
            }
            for (code, handled) in CODES.iter().zip(&method.handled) {
                let labels = [("grpc_code", *code), labels[0], labels[1], labels[2]];
                let help = "Total number of RPCs completed on the server, regardless of success or failure.";
                page.counter("grpc_server_handled_total", help, &labels, handled);
            }
        }
        self.durations.encode(page);
        let help = "The total number of bytes received from grpc clients.";
        page.counter("etcd_network_client_grpc_received_bytes_total", help, &[], &self.received_bytes);
        let help = "The total number of bytes sent to grpc clients.";
        page.counter("etcd_network_client_grpc_sent_bytes_total", help, &[], &self.sent_bytes);
        for (version, counters) in &*self.clients.read().unwrap_or_else(PoisonError::into_inner) {
            for (kind, counter) in ["unary", "stream"].into_iter().zip(counters) {
                if counter.value() > 0 {
                    let labels = [("client_api_version", version.as_str()), ("type", kind)];
                    let help = "The total number of client requests per client version.";
                    page.counter("etcd_server_client_requests_total", help, &labels, counter);
                }
            }
        }
    }
}

/// Counts what passes through the services that it is put around.
#[derive(Clone, Debug)]
pub struct GrpcMetricsLayer {
    metrics: Arc<GrpcMetrics>,
}

impl GrpcMetricsLayer {
    pub(super) fn new(metrics: Arc<GrpcMetrics>) -> Self {
        Self { metrics }
    }

    /// Puts the layer around all of `routes`.
    pub fn around(self, mut routes: Routes) -> Routes {
        let inner = std::mem::take(routes.axum_router_mut());
        *routes.axum_router_mut() = inner.layer(self);
        routes.prepare()
    }
}

impl<S> Layer<S> for GrpcMetricsLayer {
    type Service = GrpcMetricsService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        GrpcMetricsService { inner, metrics: self.metrics.clone() }
    }
}

/// See [`GrpcMetricsLayer`].
#[derive(Clone, Debug)]
pub struct GrpcMetricsService<S> {
    inner: S,
    metrics: Arc<GrpcMetrics>,
}

impl<S, In, Out> Service<Request<In>> for GrpcMetricsService<S>
where
    S: Service<Request<Counted<In>>, Response = Response<Out>>,
    S::Future: Send + 'static,
    Out: Body + Send + 'static,
{
    type Response = Response<Counted<Out>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        let call = Call::start(&self.metrics, request.uri().path(), request.headers());
        let received = call.as_ref().map(|call| Counts::Received(call.metrics.clone(), call.method.clone()));
        let request = request.map(|body| Counted::new(body, received));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut call = call;
            let response = answer.await?;
            if let Some(code) = status(response.headers())
                && let Some(call) = call.take()
            {
                if call.method.name == "MemberPromote" && code != 0 {
                    call.metrics.durations.promotion_refused(&message(response.headers()));
                }
                call.handled(code);
            }
            Ok(response.map(|body| Counted::new(body, call.map(Counts::Sent))))
        })
    }
}

/// The status in headers or trailers, if there is one.
fn status(headers: &HeaderMap) -> Option<usize> {
    let code = headers.get("grpc-status")?.to_str().ok().and_then(|code| code.parse().ok());
    Some(code.filter(|code| *code < CODES.len()).unwrap_or(UNKNOWN))
}

/// The words of a status. Those of refusals need no escapes but for blanks.
fn message(headers: &HeaderMap) -> String {
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok());
    message.unwrap_or_default().replace("%20", " ")
}

/// A call that is counted as handled when it is dropped.
#[derive(Debug)]
struct Call {
    metrics: Arc<GrpcMetrics>,
    method: Arc<Method>,
    started: Instant,
    code: usize,
}

impl Call {
    /// `None` for methods that etcd does not have.
    fn start(metrics: &Arc<GrpcMetrics>, path: &str, headers: &HeaderMap) -> Option<Self> {
        let method = metrics.methods.get(path)?;
        method.started.inc();
        metrics.client_of(method, headers);
        let (metrics, method) = (metrics.clone(), method.clone());
        Some(Self { metrics, method, started: Instant::now(), code: CANCELED })
    }

    fn handled(mut self, code: usize) {
        self.code = code;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.metrics.handled(&self.method, self.code, self.started.elapsed());
    }
}

/// Whose messages a body carries.
#[derive(Debug)]
enum Counts {
    Received(Arc<GrpcMetrics>, Arc<Method>),
    Sent(Call),
}

impl Counts {
    fn messages(&self, messages: u64, bytes: u64) {
        match self {
            Self::Received(metrics, method) => {
                method.received.add(messages);
                metrics.received_bytes.add(bytes);
            }
            Self::Sent(call) => {
                call.method.sent.add(messages);
                call.metrics.sent_bytes.add(bytes);
            }
        }
    }
}

/// A body whose messages are counted.
#[derive(Debug)]
pub struct Counted<B> {
    body: B,
    counts: Option<Counts>,
    prefixes: Prefixes,
}

impl<B> Counted<B> {
    fn new(body: B, counts: Option<Counts>) -> Self {
        Self { body, counts, prefixes: Prefixes::default() }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let (Some(counts), Some(Ok(frame))) = (&this.counts, &frame) {
            if let Some(data) = frame.data_ref() {
                let (mut messages, mut bytes) = (0, 0);
                this.prefixes.walk(data, |len| (messages, bytes) = (messages + 1, bytes + len));
                if messages > 0 {
                    counts.messages(messages, bytes);
                }
            }
            if let Some(code) = frame.trailers_ref().and_then(status)
                && let Some(Counts::Sent(call)) = this.counts.take()
            {
                call.handled(code);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Finds the messages in a body: a flag and a length in front of each, cut anywhere by frames.
#[derive(Debug, Default)]
struct Prefixes {
    prefix: [u8; 5],
    have: usize,
    left: u64,
}

impl Prefixes {
    /// Calls `message` with the size of every message that begins in `data`.
    fn walk(&mut self, mut data: &[u8], mut message: impl FnMut(u64)) {
        while !data.is_empty() {
            if self.left > 0 {
                let skip = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len());
                self.left -= skip as u64;
                data = &data[skip..];
                continue;
            }
            self.prefix[self.have] = data[0];
            self.have += 1;
            data = &data[1..];
            if self.have == self.prefix.len() {
                let [_, a, b, c, d] = self.prefix;
                self.left = u64::from(u32::from_be_bytes([a, b, c, d]));
                self.have = 0;
                message(self.left);
            }
        }
    }
}
