//! Asks a running cluster for its members before this member joins (inventory C-BOOT-03).
//!
//! All peers are asked at once and the first full answer wins: one that has bound its port and does not
//! serve it yet must not delay the others. Nothing is cached.

use std::time::Duration;

use bytes::Bytes;
use cairn_core::api::Member;
use cairn_core::types::ClusterId;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::peer::{CLUSTER_ID, MemberJson};

/// More than any cluster's list of members.
const BODY_BYTES_MAX: usize = 4 << 20;

/// No peer gave the members; the text is etcd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not retrieve cluster information from the given URLs")]
pub struct FetchError {
    /// What went wrong with each URL, for the log.
    pub reasons: Vec<String>,
}

/// The cluster's identifier and members, from the first of `peer_urls` that answers in `timeout`.
///
/// # Errors
/// When none does.
pub async fn fetch_members(
    peer_urls: &[String],
    timeout: Duration,
) -> Result<(ClusterId, Vec<Member>), FetchError> {
    let asked = peer_urls.iter().map(|url| async move {
        let answer = tokio::time::timeout(timeout, ask(url)).await;
        (url, answer.unwrap_or_else(|_| Err("no answer in time".to_owned())))
    });
    let mut answers: FuturesUnordered<_> = asked.collect();
    let mut reasons = Vec::new();
    while let Some((url, answer)) = answers.next().await {
        match answer {
            Ok(found) => return Ok(found),
            Err(reason) => {
                tracing::warn!(url, reason, "cannot get the cluster's members from a peer");
                reasons.push(format!("{url}: {reason}"));
            }
        }
    }
    Err(FetchError { reasons })
}

async fn ask(url: &str) -> Result<(ClusterId, Vec<Member>), String> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let request = Request::get(format!("{}/members", url.trim_end_matches('/')))
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    let response = client.request(request).await.map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        return Err(format!("unexpected status {}", response.status()));
    }
    let cluster = response.headers().get(CLUSTER_ID).and_then(|value| value.to_str().ok());
    let cluster =
        cluster.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or("the answer names no cluster")?;
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    let members: Vec<MemberJson> = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    Ok((cluster, members.into_iter().map(Member::from).collect()))
}
