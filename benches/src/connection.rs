//! HTTP/2 connections to the servers under load, and what can go wrong before a load begins.

use std::num::NonZero;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use cairn_net::connection_threads::ConnectionThreads;
use cairn_net::proto::etcdserverpb::RangeRequest;
use cairn_net::proto::etcdserverpb::kv_client::KvClient;
use http::uri::{Authority, InvalidUri, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tonic::body::Body;
use tower::Service;

/// How much is read at once. HTTP/2 alone reads 8 KiB, 360 times for an answer with 10,000 rows.
const READ_BYTES: usize = 64 << 10;
/// How long a server may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Why a load cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The options contradict each other.
    #[error("{0}")]
    Options(String),
    /// No connection.
    #[error("cannot connect to {endpoint}: {text}; is the server running?")]
    Connect {
        /// The address.
        endpoint: String,
        /// The error.
        text: String,
    },
    /// A request that prepares the load failed.
    #[error("{doing} failed: {status}")]
    Prepare {
        /// What was tried.
        doing: &'static str,
        /// The answer.
        status: Box<tonic::Status>,
    },
    /// A server or a file of this machine.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// The error.
        source: std::io::Error,
    },
}

impl BenchError {
    /// For `map_err` on the replies of preparing requests.
    pub fn prepare(doing: &'static str) -> impl FnOnce(tonic::Status) -> Self {
        move |status| Self::Prepare { doing, status: Box::new(status) }
    }

    /// For `map_err` on system calls.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { doing: doing.into(), source }
    }
}

/// The open connections. Clients run where their connection does ([`Connections::runtime`]), in threads
/// that take their tasks in turn: an operation must not wait in the generator for others to be done twice.
#[derive(Clone, Debug)]
pub struct Connections {
    channels: Vec<Connection>,
    threads: ConnectionThreads,
}

impl Connections {
    /// Opens `count` connections, to the endpoints in turn.
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub async fn open(endpoints: &[String], count: usize) -> Result<Self, BenchError> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let threads = ConnectionThreads::start("load", count.min(cores))
            .map_err(BenchError::io("starting the threads of the connections"))?;
        let mut channels = Vec::with_capacity(count);
        for (number, endpoint) in endpoints.iter().cycle().take(count).enumerate() {
            let endpoint = endpoint.clone();
            let connecting = threads.runtime(number).spawn(async move { connect(&endpoint).await });
            channels.push(connecting.await.expect("connecting does not panic")?);
        }
        Ok(Self { channels, threads })
    }

    /// Sends a first request over each and reads the reply: in a short load at a low rate these would be
    /// the slowest ones, and the p99 would be that of a new connection.
    ///
    /// # Errors
    /// A server refuses it.
    pub async fn warm_up(&self) -> Result<(), BenchError> {
        let mut requests = JoinSet::new();
        for channel in &self.channels {
            let mut kv = KvClient::new(channel.clone());
            let key = "ready".into();
            let range = RangeRequest { key, serializable: true, ..RangeRequest::default() };
            requests.spawn(async move { kv.range(range).await.map(drop) });
        }
        while let Some(request) = requests.join_next().await {
            let answered = request.expect("a request does not panic");
            answered.map_err(BenchError::prepare("the first request of a connection"))?;
        }
        Ok(())
    }

    /// The connection of a client. It works as long as one of these connections' clones lives.
    pub fn of(&self, client: usize) -> Connection {
        self.channels[client % self.channels.len()].clone()
    }

    /// Where a client runs.
    pub fn runtime(&self, client: usize) -> &Handle {
        self.threads.runtime(client % self.channels.len())
    }
}

/// An HTTP/2 connection. Its clones send on the same one, without a task between them and it.
#[derive(Clone, Debug)]
pub struct Connection {
    requests: SendRequest<Body>,
    authority: Authority,
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        (uri.scheme, uri.authority) = (Some(Scheme::HTTP), Some(self.authority.clone()));
        *request.uri_mut() = Uri::from_parts(uri).expect("it has all parts");
        Box::pin(self.requests.send_request(request))
    }
}

/// Opens a connection that the current runtime serves.
///
/// # Errors
/// It cannot be opened.
pub async fn connect(endpoint: &str) -> Result<Connection, BenchError> {
    let failed = |text: String| BenchError::Connect { endpoint: endpoint.to_owned(), text };
    let authority = endpoint.strip_prefix("http://").unwrap_or(endpoint);
    let authority: Authority = authority.parse().map_err(|error: InvalidUri| failed(error.to_string()))?;
    let connecting = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(authority.as_str())).await;
    let stream = connecting.map_err(|elapsed| failed(elapsed.to_string()))?;
    let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    let stream = stream.map_err(|error| failed(error.to_string()))?;
    let stream = TokioIo::new(BufReader::with_capacity(READ_BYTES, stream));
    let (requests, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .handshake(stream)
        .await
        .map_err(|error| failed(with_sources(&error)))?;
    // Its end is told to each request.
    tokio::spawn(connection);
    Ok(Connection { requests, authority })
}

/// A transport error says little by itself.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
