//! Both protocols on one port, silent clients, bind errors, Unix sockets.

use std::time::Duration;

use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tonic::service::Routes;

use super::*;

fn hello() -> axum::Router {
    axum::Router::new().route("/hello", axum::routing::get(async || "world"))
}

const GET: &[u8] = b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn http1_and_grpc_share_a_port() {
    let listener = Listener::bind("http://127.0.0.1:0", &SocketOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    // A gRPC server without services answers every method, as gRPC, with "unimplemented".
    let serving = listener.serve(hello(), Routes::default(), ListenerOptions::default()).unwrap();
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(GET).await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("world"), "{answer}");

    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<axum::body::Body>();
    let grpc = Request::post(format!("http://{address}/a.B/C"))
        .header("content-type", "application/grpc+proto")
        .body(axum::body::Body::empty())
        .unwrap();
    let answer = client.request(grpc).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "12");
    let plain = Request::get(format!("http://{address}/hello")).body(axum::body::Body::empty()).unwrap();
    let answer = client.request(plain).await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (Version::HTTP_2, 200));
    serving.shutdown(Duration::from_secs(5)).await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_silent_client_is_closed() {
    let listener = Listener::bind("http://127.0.0.1:0", &SocketOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let options = ListenerOptions { header_timeout: Duration::from_millis(50), ..Default::default() };
    let _serving = listener.serve(hello(), Routes::default(), options).unwrap();
    for start in [&b""[..], b"PRI * HT", b"GET /hello HTTP/1.1\r\nHost"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(start).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "{start:?} is still open");
    }
}

#[test]
fn bind_errors_read_as_in_etcd() {
    let first = Listener::bind("http://127.0.0.1:0", &SocketOptions::default()).unwrap();
    let address = first.local_addr().unwrap();
    let error = Listener::bind(&format!("http://{address}"), &SocketOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), format!("listen tcp {address}: bind: address already in use"));
    assert!(Listener::bind("ftp://127.0.0.1:0", &SocketOptions::default()).is_err());
}

#[tokio::test]
async fn unix_sockets_serve_too() {
    let path = std::env::temp_dir().join(format!("cairn-listener-{}.sock", std::process::id()));
    let url = format!("unix://{}", path.display());
    let listener = Listener::bind(&url, &SocketOptions::default()).unwrap();
    let _serving = listener.serve(hello(), Routes::default(), ListenerOptions::default()).unwrap();
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(GET).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(answer.ends_with("world"), "{answer}");
}

#[tokio::test]
async fn an_authority_with_a_scheme_is_served() {
    let listener = Listener::bind("http://127.0.0.1:0", &SocketOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let _serving = listener.serve(hello(), Routes::default(), ListenerOptions::default()).unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The preface, empty settings, and GET /hello with an authority that enters the table; then the same
    // request out of the table.
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend_from_slice(b"\0\0\x15\x01\x05\0\0\0\x01\x82\x86\x44\x06/hello\x41\x09http://ab");
    bytes.extend_from_slice(b"\0\0\x04\x01\x05\0\0\0\x03\x82\x86\xbf\xbe");
    stream.write_all(&bytes).await.unwrap();
    let mut worlds = 0;
    while worlds < 2 {
        let mut header = [0; 9];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut header)).await;
        read.expect("two answers come in time").expect("the connection stays open");
        let [_, high, low, kind, ..] = header;
        let mut payload = vec![0; usize::from(u16::from_be_bytes([high, low]))];
        stream.read_exact(&mut payload).await.unwrap();
        assert!(![3, 7].contains(&kind), "reset or gone away: {payload:?}");
        worlds += usize::from(kind == 0 && payload == b"world");
    }
}
