//! Plain HTTP beside gRPC: health, version and metrics on the client port, membership on the peer
//! port, and the fetch of the latter when a member joins.
//!
//! Answers have the bytes that tools of real etcd expect. Nothing here changes the cluster's state.

pub mod client;
pub mod fetch;
pub mod peer;
#[cfg(test)]
mod tests;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Serialize;

/// The etcd release whose API is served.
pub const ETCD_VERSION: &str = "3.7.1";
/// What stands for the cluster's version until the members have agreed on one.
const NOT_DECIDED: &str = "not_decided";
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

#[derive(Serialize)]
struct Versions<'a> {
    etcdserver: &'a str,
    etcdcluster: &'a str,
    storage: &'a str,
    /// Says that this is not etcd itself; its clients ignore fields that they do not know.
    cairn: &'a str,
}

fn respond(status: StatusCode, content_type: HeaderValue, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// An error in the shape of Go's `http.Error`.
fn error(status: StatusCode, text: &str) -> Response {
    let mut response = respond(status, TEXT, format!("{text}\n"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

/// The refusal of anything but GET (and HEAD where etcd's handler takes it), if it is due.
fn refuse_method(method: &Method, head: bool) -> Option<Response> {
    if method == Method::GET || (head && method == Method::HEAD) {
        return None;
    }
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(HeaderName::from_static("allow"), HeaderValue::from_static("GET"));
    Some(response)
}

fn version(cluster_version: &str) -> Response {
    let cluster = if cluster_version.is_empty() { NOT_DECIDED } else { cluster_version };
    let versions = Versions {
        etcdserver: ETCD_VERSION,
        etcdcluster: cluster,
        storage: cluster_version,
        cairn: env!("CARGO_PKG_VERSION"),
    };
    respond(StatusCode::OK, JSON, serde_json::to_string(&versions).expect("strings become JSON"))
}
