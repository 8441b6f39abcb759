//! The member's ports: bound before anything else is touched, served when there is something to serve.
//!
//! It owns the listeners and what each of them offers. Peers are served from the start, because there
//! is no quorum without them; clients once the member has published itself, as in etcd.

use std::sync::Arc;
use std::time::Duration;

use cairn_core::node::Status;
use cairn_net::connection_threads::ConnectionThreads;
use cairn_net::handle::Handle;
use cairn_net::http::client::{self, ClientHttp};
use cairn_net::http::peer;
use cairn_net::listener::{Grpc, Listener, ListenerOptions, Serving, SocketOptions};
use cairn_net::services::{self, Direct, ServerInfo};
use futures::future::join_all;
use tokio::runtime;
use tokio::sync::watch;
use tonic::service::Routes;

use crate::config::{Config, Url};
use crate::debug_vars;
use crate::driver::Peers;
use crate::metrics::Metrics;

/// How long open requests may take to end when the process stops.
const GRACE: Duration = Duration::from_secs(2);
/// gRPC's own limit of a client's pings.
const PINGS_MIN_TIME: Duration = Duration::from_secs(5 * 60);

/// Listeners by what they offer.
pub(crate) struct Ports {
    peer: Vec<Listener>,
    client: Vec<Listener>,
    http: Vec<Listener>,
    metrics: Vec<Listener>,
}

impl Ports {
    /// Binds every address of the configuration.
    pub(crate) fn bind(config: &Config) -> Result<Self, String> {
        // As Go does for every listener, addresses are taken while old connections to them linger.
        let sockets = SocketOptions { reuse_port: config.socket_reuse_port, reuse_address: true };
        let bind = |urls: &[Url]| -> Result<Vec<Listener>, String> {
            let bind = |url: &Url| Listener::bind(&url.to_string(), &sockets).map_err(|e| e.to_string());
            urls.iter().map(bind).collect()
        };
        Ok(Self {
            peer: bind(&config.listen_peer_urls)?,
            client: bind(&config.listen_client_urls)?,
            http: bind(&config.listen_client_http_urls)?,
            metrics: bind(&config.listen_metrics_urls)?,
        })
    }
}

/// What stands behind the clients' ports.
pub(crate) struct Offer {
    pub(crate) handle: Handle,
    pub(crate) info: ServerInfo,
    pub(crate) http: ClientHttp,
    pub(crate) metrics: Arc<Metrics>,
}

/// The ports, and those of them that are served.
pub(crate) struct Served {
    waiting: Option<Ports>,
    options: ListenerOptions,
    pings_min_time: Duration,
    peers: Vec<Serving>,
    clients: Vec<Serving>,
}

impl Served {
    pub(crate) fn new(ports: Ports, config: &Config) -> Self {
        let chosen = config.grpc_keepalive_min_time;
        Self {
            waiting: Some(ports),
            options: ListenerOptions {
                max_concurrent_streams: config.max_concurrent_streams,
                keepalive_interval: (!config.grpc_keepalive_interval.is_zero())
                    .then_some(config.grpc_keepalive_interval),
                keepalive_timeout: config.grpc_keepalive_timeout,
                ..ListenerOptions::default()
            },
            pings_min_time: if chosen.is_zero() { PINGS_MIN_TIME } else { chosen },
            peers: Vec::new(),
            clients: Vec::new(),
        }
    }

    /// Serves the peers' ports.
    pub(crate) fn serve_peers(&mut self, peers: &Peers, handle: &Handle) -> Result<(), String> {
        let Some(ports) = &mut self.waiting else { return Ok(()) };
        for listener in ports.peer.drain(..) {
            let routes = Routes::new(peers.transport().service().into_server());
            let pages = peer::router(handle.clone());
            self.peers.push(serve(listener, pages, routes, self.options.clone())?);
        }
        Ok(())
    }

    /// Serves the clients' ports, once; true if that was now.
    pub(crate) fn serve_clients(&mut self, offer: &Offer) -> Result<bool, String> {
        let Some(ports) = self.waiting.take() else { return Ok(false) };
        // One may be waiting for the disk.
        let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
        let threads = ConnectionThreads::start("clients", threads)
            .map_err(|error| format!("cannot start the threads of clients' connections: {error}"))?;
        let runtimes = threads.runtimes().cloned().chain([runtime::Handle::current()]);
        offer.metrics.count_tasks(runtimes);
        let options = ListenerOptions {
            keepalive_min_time: Some(self.pings_min_time),
            threads: Some(threads),
            ..self.options.clone()
        };
        let separate_http = !ports.http.is_empty();
        for listener in ports.client {
            log_serving(&listener);
            let routes = services::router(offer.handle.clone(), offer.info.clone());
            let routes = offer.metrics.grpc_layer().around(routes);
            let direct = Direct::new(offer.handle.clone(), offer.info.clone(), offer.metrics.calls());
            let pages = if separate_http { axum::Router::new() } else { client::router(offer.http.clone()) };
            let grpc = Grpc { routes, direct: Some(direct) };
            self.clients.push(serve(listener, pages, grpc, options.clone())?);
        }
        for listener in ports.http {
            let pages = client::router(offer.http.clone());
            self.clients.push(serve(listener, pages, Routes::default(), options.clone())?);
        }
        for listener in ports.metrics {
            let pages = client::metrics_router(offer.http.clone());
            self.clients.push(serve(listener, pages, Routes::default(), options.clone())?);
        }
        Ok(true)
    }

    /// Ends what clients have open, all ports at once.
    pub(crate) async fn stop_clients(&mut self) {
        self.waiting = None;
        join_all(self.clients.drain(..).map(|serving| serving.shutdown(GRACE))).await;
    }

    /// Ends what peers have open. They never close their streams themselves.
    pub(crate) async fn stop_peers(&mut self) {
        join_all(self.peers.drain(..).map(|serving| serving.shutdown(Duration::ZERO))).await;
    }
}

fn serve(
    listener: Listener,
    pages: axum::Router,
    grpc: impl Into<Grpc>,
    options: ListenerOptions,
) -> Result<Serving, String> {
    listener.serve(pages, grpc, options).map_err(|error| error.to_string())
}

fn log_serving(listener: &Listener) {
    let address = listener.local_addr().map_or_else(|| "a unix socket".to_owned(), |addr| addr.to_string());
    tracing::info!(address, "serving client traffic insecurely; this is strongly discouraged!");
}

/// The plain pages of the clients' ports.
pub(crate) fn pages(
    config: &Config,
    handle: Handle,
    metrics: Arc<Metrics>,
    status: watch::Receiver<Status>,
) -> ClientHttp {
    ClientHttp {
        handle,
        vars: Arc::new(move || debug_vars::page(&status.borrow())),
        checked: {
            let metrics = metrics.clone();
            Arc::new(move |check| metrics.health_checked(check))
        },
        metrics: Arc::new(move || metrics.encode()),
        probe_timeout: Duration::from_secs(5) + 2 * Duration::from_millis(config.election_ms),
        cors: config.cors.clone(),
        host_whitelist: config.host_whitelist.clone(),
    }
}
