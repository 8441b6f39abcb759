//! The peer port's HTTP routes: `/members`, from which a joining member learns the cluster, and
//! `/version`. Raft itself is gRPC; etcd's `/raft` paths are not served.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::any;
use cairn_core::api::Member;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::{JSON, not_found, refuse_method, respond, version};
use crate::handle::Handle;

/// The header that carries the cluster's identifier, in hexadecimal.
pub(super) const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

/// A member as JSON, field by field in etcd's order; empty fields are left out.
#[derive(Serialize, Deserialize)]
pub(super) struct MemberJson {
    id: u64,
    #[serde(rename = "peerURLs", default)]
    peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    client_urls: Vec<String>,
}

impl From<Member> for MemberJson {
    fn from(member: Member) -> Self {
        let Member { id, name, peer_urls, client_urls, is_learner } = member;
        Self { id, peer_urls, is_learner, name, client_urls }
    }
}

impl From<MemberJson> for Member {
    fn from(json: MemberJson) -> Self {
        let MemberJson { id, peer_urls, is_learner, name, client_urls } = json;
        Self { id, name, peer_urls, client_urls, is_learner }
    }
}

/// All HTTP routes of the peer port.
pub fn router(handle: Handle) -> Router {
    Router::new()
        .route("/members", any(members))
        .route("/version", any(versions))
        .fallback(not_found)
        .with_state(handle)
}

async fn members(State(handle): State<Handle>, method: Method) -> Response {
    if let Some(refusal) = refuse_method(&method, false) {
        return refusal;
    }
    let status = handle.status().borrow().clone();
    let members: Vec<MemberJson> = status.members.into_iter().map(MemberJson::from).collect();
    let body = serde_json::to_string(&members).expect("members become JSON");
    let mut response = respond(StatusCode::OK, JSON, body + "\n");
    let id = HeaderValue::try_from(format!("{:x}", status.cluster_id)).expect("digits are a header value");
    response.headers_mut().insert(CLUSTER_ID, id);
    response
}

async fn versions(State(handle): State<Handle>, method: Method) -> Response {
    if let Some(refusal) = refuse_method(&method, true) {
        return refusal;
    }
    let cluster_version = handle.status().borrow().cluster_version.clone();
    version(&cluster_version)
}
