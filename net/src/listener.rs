//! One listening socket that serves gRPC and HTTP/1.1 side by side (inventory B-PORT-01).
//!
//! The first bytes of a connection choose HTTP/2 (prior knowledge) or HTTP/1.1; in HTTP/2 the content
//! type chooses gRPC or the plain HTTP routes. It knows nothing of what is served, but for the calls
//! that take the short way past the routes ([`Direct`]).
//!
//! Invariant: no single connection and no failing `accept` ends the listener, and a connection that
//! sends nothing is closed after [`ListenerOptions::header_timeout`].

mod authority;
mod bind;
mod calls;
mod frame;
mod hpack;
mod pings;
mod prefix;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use http::{Request, Response, Version, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
use tower::ServiceExt;

use crate::connection_threads::ConnectionThreads;
use crate::services::{Direct, Method, ReplyBody};

pub use bind::{BindError, SocketOptions};

/// How long `accept` rests after an error such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How connections are served.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// Advertised in HTTP/2 SETTINGS; etcd's `--max-concurrent-streams`.
    pub max_concurrent_streams: u32,
    /// How long an HTTP/2 connection may be idle before it is pinged.
    pub keepalive_interval: Option<Duration>,
    /// How long such a ping may stay unanswered.
    pub keepalive_timeout: Duration,
    /// The least time between two pings of an HTTP/2 client; without it they are not limited.
    pub keepalive_min_time: Option<Duration>,
    /// How long a client may take to send its first bytes, and each HTTP/1.1 header block.
    pub header_timeout: Duration,
    /// HTTP/2 flow control of one stream.
    pub stream_window_bytes: u32,
    /// HTTP/2 flow control of one connection.
    pub connection_window_bytes: u32,
    /// The largest HTTP/2 frame that is accepted.
    pub frame_bytes_max: u32,
    /// Where connections are served; without them, by the runtime that accepts them.
    pub threads: Option<ConnectionThreads>,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            max_concurrent_streams: u32::MAX,
            keepalive_interval: Some(Duration::from_secs(2 * 60 * 60)),
            keepalive_timeout: Duration::from_secs(20),
            keepalive_min_time: None,
            header_timeout: Duration::from_secs(10),
            stream_window_bytes: 2 << 20,
            connection_window_bytes: 16 << 20,
            frame_bytes_max: 64 << 10,
            threads: None,
        }
    }
}

/// The gRPC services of a port.
#[derive(Debug)]
pub struct Grpc {
    /// All of them.
    pub routes: Routes,
    /// The short way for the calls that are made most.
    pub direct: Option<Direct>,
}

impl From<Routes> for Grpc {
    fn from(routes: Routes) -> Self {
        Self { routes, direct: None }
    }
}

enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// A bound socket that does not accept yet, so that every address is claimed before any is served.
pub struct Listener {
    socket: Socket,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("local_addr", &self.local_addr()).finish()
    }
}

impl Listener {
    /// Binds the address of a listen URL: `http://host:port` or `unix://path`.
    ///
    /// # Errors
    /// The failure in the words of etcd's log.
    pub fn bind(url: &str, options: &SocketOptions) -> Result<Self, BindError> {
        Ok(Self { socket: bind::bind(url, options)? })
    }

    /// The bound address; `None` for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(socket) => socket.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Serves `grpc` and `http` until the returned handle says otherwise. Must be called inside a
    /// runtime.
    ///
    /// # Errors
    /// When the runtime cannot register the socket.
    pub fn serve(
        self,
        http: axum::Router,
        grpc: impl Into<Grpc>,
        options: ListenerOptions,
    ) -> io::Result<Serving> {
        let (phase, phases) = watch::channel(Phase::Serving);
        let Grpc { routes, direct } = grpc.into();
        let grpc = routes.prepare().into_axum_router();
        let serve = Arc::new(Serve { http, grpc, direct, options, phases });
        match self.socket {
            Socket::Tcp(socket) => {
                let socket = TcpListener::from_std(socket)?;
                tokio::spawn(serve.accept(async move || {
                    let (stream, remote_addr) = socket.accept().await?;
                    bind::tune(&stream);
                    let info = TcpConnectInfo {
                        local_addr: stream.local_addr().ok(),
                        remote_addr: Some(remote_addr),
                    };
                    let stream = stream.into_std()?;
                    Ok((move || TcpStream::from_std(stream), info))
                }));
            }
            Socket::Unix(socket) => {
                let socket = UnixListener::from_std(socket)?;
                tokio::spawn(serve.accept(async move || {
                    let stream = socket.accept().await?.0.into_std()?;
                    let info = TcpConnectInfo { local_addr: None, remote_addr: None };
                    Ok((move || UnixStream::from_std(stream), info))
                }));
            }
        }
        Ok(Serving { phase })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    Closed,
}

/// Stops a listener; dropping it closes everything at once.
pub struct Serving {
    phase: watch::Sender<Phase>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}

impl Serving {
    /// Stops accepting, lets requests in progress finish for at most `grace`, then closes what is left.
    pub async fn shutdown(self, grace: Duration) {
        self.phase.send_replace(Phase::Draining);
        // Each connection and the accept loop hold a receiver, so "closed" means that all are gone.
        if tokio::time::timeout(grace, self.phase.closed()).await.is_err() {
            self.phase.send_replace(Phase::Closed);
            self.phase.closed().await;
        }
    }
}

struct Serve {
    http: axum::Router,
    grpc: axum::Router,
    direct: Option<Direct>,
    options: ListenerOptions,
    phases: watch::Receiver<Phase>,
}

/// Resolves when `phase` is reached or the handle is gone.
async fn reached(phases: &mut watch::Receiver<Phase>, phase: Phase) {
    let _ = phases.wait_for(|now| *now >= phase).await;
}

impl Serve {
    /// Accepts until told to end. A connection's stream is made where it is served, because it belongs to
    /// that runtime.
    async fn accept<S, O, A>(self: Arc<Self>, mut accept: A)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        O: FnOnce() -> io::Result<S> + Send + 'static,
        A: AsyncFnMut() -> io::Result<(O, TcpConnectInfo)>,
    {
        let mut phases = self.phases.clone();
        loop {
            let accepted = tokio::select! {
                () = reached(&mut phases, Phase::Draining) => return,
                accepted = accept() => accepted,
            };
            match accepted {
                Ok((open, info)) => {
                    let serve = self.clone();
                    let connection = async move {
                        match open() {
                            Ok(stream) => serve.connection(stream, info).await,
                            Err(error) => tracing::warn!(%error, "cannot serve a connection"),
                        }
                    };
                    match &self.options.threads {
                        Some(threads) => threads.serve(connection),
                        None => drop(tokio::spawn(connection)),
                    }
                }
                Err(error) => {
                    // EMFILE and its like pass when connections close; resting avoids a hot loop.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection<S>(self: Arc<Self>, stream: S, info: TcpConnectInfo)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut phases = self.phases.clone();
        let prefixed = tokio::select! {
            () = reached(&mut phases, Phase::Draining) => return,
            prefixed = tokio::time::timeout(self.options.header_timeout, prefix::read(stream)) => prefixed,
        };
        let Ok(Ok(stream)) = prefixed else { return };
        let is_http2 = stream.is_http2();
        let stream = pings::Policed::new(stream, self.options.keepalive_min_time.filter(|_| is_http2));
        let stream = authority::Repaired::new(stream, is_http2);
        let executor = calls::Executor::default();
        let service = {
            let (serve, executor) = (self.clone(), executor.clone());
            hyper::service::service_fn(move |request: Request<Incoming>| {
                let (serve, info) = (serve.clone(), info.clone());
                let is_grpc = is_grpc(&request);
                let method = serve.direct.as_ref().and(Direct::method(&request)).filter(|_| is_grpc);
                executor.keep_next(method.is_some());
                async move { serve.respond(request, is_grpc, method, info).await }
            })
        };
        let builder = self.builder(executor.clone());
        let mut calls = calls::Calls::new(executor, self.direct.clone());
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        // In a set, because that polls it only when it was woken, not with each read.
        let mut draining: FuturesUnordered<_> =
            std::iter::once(reached(&mut phases, Phase::Draining)).collect();
        let mut closing = self.phases.clone();
        let ended = tokio::select! {
            biased;
            ended = poll_fn(|cx| calls.poll(cx, |cx| connection.as_mut().poll(cx))) => ended,
            _ = draining.next() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = poll_fn(|cx| calls.poll(cx, |cx| connection.as_mut().poll(cx))) => ended,
                    () = reached(&mut closing, Phase::Closed) => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, "a connection ended early");
        }
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        is_grpc: bool,
        method: Option<Method>,
        info: TcpConnectInfo,
    ) -> Result<Response<OutBody>, Infallible> {
        let mut request = match (&self.direct, method) {
            (Some(direct), Some(method)) => match direct.answer(method, request).await {
                Ok(response) => return Ok(response.map(OutBody::Direct)),
                Err(request) => request,
            },
            _ => request.map(axum::body::Body::new),
        };
        request.extensions_mut().insert(info);
        let router = if is_grpc { self.grpc.clone() } else { self.http.clone() };
        // In a box, so that the task of a direct call needs no room for it.
        Box::pin(router.oneshot(request)).await.map(|response| response.map(OutBody::Routed))
    }

    fn builder(&self, executor: calls::Executor) -> auto::Builder<calls::Executor> {
        let options = &self.options;
        let mut builder = auto::Builder::new(executor);
        // Some tools look for Go's spelling of headers.
        builder
            .http1()
            .title_case_headers(true)
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(options.max_concurrent_streams)
            .initial_stream_window_size(options.stream_window_bytes)
            .initial_connection_window_size(options.connection_window_bytes)
            .max_frame_size(options.frame_bytes_max)
            .keep_alive_interval(options.keepalive_interval)
            .keep_alive_timeout(options.keepalive_timeout)
            // gRPC has no use for it, and etcd sends none.
            .auto_date_header(false);
        builder
    }
}

/// The body of a response.
enum OutBody {
    Direct(ReplyBody),
    Routed(axum::body::Body),
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.get_mut() {
            Self::Direct(body) => Pin::new(body).poll_frame(context),
            Self::Routed(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Direct(body) => body.is_end_stream(),
            Self::Routed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Direct(body) => body.size_hint(),
            Self::Routed(body) => body.size_hint(),
        }
    }
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2
        && request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"))
}
