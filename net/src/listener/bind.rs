//! Binds the address of a listen URL and words failures as Go's net package does, because operators
//! and scripts look for those words (inventory C-VAL-16). Accepts nothing.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket as Socket2, TcpKeepalive, Type};

use super::Socket;

/// Connections that may wait for `accept`; the kernel caps it to its own limit.
const BACKLOG: i32 = 4096;
/// How long an accepted connection is idle before the kernel probes it; Go's default.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

/// Options that must be set before the socket is bound.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// `SO_REUSEADDR`; Go sets it always, so that a restart does not wait for old connections.
    pub reuse_address: bool,
    /// `SO_REUSEPORT`: several processes may share the port.
    pub reuse_port: bool,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { reuse_address: true, reuse_port: false }
    }
}

/// Why an address cannot be listened on; the text is what etcd would log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BindError(pub String);

pub(super) fn bind(url: &str, options: &SocketOptions) -> Result<Socket, BindError> {
    match url.split_once("://") {
        Some(("unix" | "unixs", path)) => bind_unix(path.trim_end_matches('/')).map(Socket::Unix),
        Some(("http" | "https", address)) => {
            bind_tcp(address.trim_end_matches('/'), options).map(Socket::Tcp)
        }
        _ => Err(BindError(format!("URL scheme must be http, https, unix, or unixs: {url}"))),
    }
}

fn bind_tcp(address: &str, options: &SocketOptions) -> Result<std::net::TcpListener, BindError> {
    // No host means every address of the machine, in both families.
    let wildcard = format!("[::]{address}");
    let target = if address.starts_with(':') { wildcard.as_str() } else { address };
    let mut found = target
        .to_socket_addrs()
        .map_err(|error| BindError(format!("listen tcp: lookup {address}: {}", reason(&error))))?
        .collect::<Vec<_>>();
    // Go prefers IPv4 when a name has both.
    found.sort_by_key(|found| found.is_ipv6());
    let address =
        *found.first().ok_or_else(|| BindError(format!("listen tcp: lookup {address}: no such host")))?;
    open_tcp(address, options)
        .map_err(|error| BindError(format!("listen tcp {address}: bind: {}", reason(&error))))
}

fn open_tcp(address: SocketAddr, options: &SocketOptions) -> io::Result<std::net::TcpListener> {
    let socket = Socket2::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(options.reuse_address)?;
    if options.reuse_port {
        SockRef::from(&socket).set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_unix(path: &str) -> Result<std::os::unix::net::UnixListener, BindError> {
    // As etcd does: whatever an earlier process left at the path goes away.
    let removed = match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    removed
        .and_then(|()| std::os::unix::net::UnixListener::bind(path))
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .map_err(|error| BindError(format!("listen unix {path}: bind: {}", reason(&error))))
}

/// The system's words without Rust's decoration, in Go's lower case.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// Latency over batching, and dead clients are noticed. A refusal of either is not worth an error.
pub(super) fn tune(stream: &tokio::net::TcpStream) {
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}
