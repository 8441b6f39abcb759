//! The rules that hold for every method, as one layer around all services: what a learner serves,
//! requests that require a leader, the client's deadline, and grpc-go's words where tonic's own
//! refusals differ from them.
//!
//! It decides from the path and the headers alone. A range on a learner passes here, because only
//! its body says whether it is serializable; the KV service looks at that.

use std::task::{Context, Poll};
use std::time::Duration;

use cairn_core::error::Error;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tokio::sync::watch as cell;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::convert;
use crate::handle::MemberStatus;

/// Metadata by which a client asks to be refused while the member has no leader.
pub(super) const REQUIRE_LEADER: &str = "hasleader";

/// What a learner serves; of ranges only the serializable ones.
const LEARNER_METHODS: [&str; 4] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Maintenance/Snapshot",
    "/etcdserverpb.Maintenance/Status",
];

/// Wraps every service in a [`Guard`].
#[derive(Clone, Debug)]
pub(super) struct GuardLayer {
    status: cell::Receiver<MemberStatus>,
}

impl GuardLayer {
    pub(super) fn new(status: cell::Receiver<MemberStatus>) -> Self {
        Self { status }
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;
    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, status: self.status.clone() }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Guard<S> {
    inner: S,
    status: cell::Receiver<MemberStatus>,
}

impl<S, In, Out> Service<Request<In>> for Guard<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
    S::Future: Send + 'static,
    Out: Default + Send + 'static,
{
    type Response = Response<Out>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Out>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        if let Some(error) = refusal(&self.status.borrow(), request.uri().path(), request.headers()) {
            return Box::pin(async move { Ok(convert::status(error).into_http()) });
        }
        let deadline = deadline(request.headers());
        let path = request.uri().path().to_owned();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = match deadline {
                None => answer.await?,
                Some(limit) => match tokio::time::timeout(limit, answer).await {
                    Ok(response) => response?,
                    Err(_) => return Ok(deadline_exceeded().into_http()),
                },
            };
            Ok(match reworded(response.headers(), &path) {
                Some(status) => status.into_http(),
                None => response,
            })
        })
    }
}

/// How long the client waits, if it says so.
pub(super) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    headers.get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?))
}

/// What a client whose time is over is told.
pub(super) fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// Why a request is refused before any service sees it.
pub(super) fn refusal(status: &MemberStatus, path: &str, headers: &HeaderMap) -> Option<Error> {
    if status.is_learner && !LEARNER_METHODS.contains(&path) {
        return Some(Error::NotSupportedForLearner);
    }
    let required = headers.get(REQUIRE_LEADER).is_some_and(|value| value == "true");
    (required && status.leader == 0).then_some(Error::NoLeader)
}

/// Reads a `grpc-timeout`: at most eight digits and a unit.
fn timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The status that grpc-go sends where tonic itself, and not a service, refused the request.
fn reworded(headers: &HeaderMap, path: &str) -> Option<Status> {
    // Only refusals carry the status in the headers.
    headers.get("grpc-status")?;
    let status = Status::from_header_map(headers)?;
    if status.code() == Code::Unimplemented && status.message().is_empty() {
        let Some((service, method)) = path.trim_start_matches('/').split_once('/') else {
            return Some(Status::resource_exhausted(format!("malformed method name: {path:?}")));
        };
        let known = super::SERVICES.contains(&service);
        return Some(Status::unimplemented(if known {
            format!("unknown method {method} for service {service}")
        } else {
            format!("unknown service {service}")
        }));
    }
    unknown_encoding(&status).or_else(|| too_large(&status))
}

/// `status` in grpc-go's words if it says that a message is compressed.
fn unknown_encoding(status: &Status) -> Option<Status> {
    let encoding = status.message().strip_prefix("Content is compressed with `")?;
    let encoding = encoding.strip_suffix("` which isn't supported")?;
    let text = format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}");
    Some(Status::unimplemented(text))
}

/// `status` in grpc-go's words if it says that a message is larger than the server receives.
pub(super) fn too_large(status: &Status) -> Option<Status> {
    let rest = status.message().strip_prefix("Error, decoded message length too large: found ")?;
    let (found, rest) = rest.split_once(" bytes, the limit is: ")?;
    let limit = rest.strip_suffix(" bytes")?;
    (status.code() == Code::OutOfRange).then(|| {
        Status::resource_exhausted(format!("grpc: received message larger than max ({found} vs. {limit})"))
    })
}

/// The longest message that is sent, as etcd has it.
const SEND_BYTES_MAX: usize = i32::MAX as usize;

/// Judges the length of an answer before any of it is sent.
///
/// # Errors
/// It is longer than etcd sends.
pub(super) fn sendable(len: usize) -> Result<(), Status> {
    if len <= SEND_BYTES_MAX {
        return Ok(());
    }
    let text = format!("grpc: trying to send message larger than max ({len} vs. {SEND_BYTES_MAX})");
    Err(Status::resource_exhausted(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_follow_the_grpc_grammar() {
        assert_eq!(timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(timeout("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in ["", "S", "5", "5x", "123456789S", "-1S", "1\u{e9}"] {
            assert_eq!(timeout(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_answer_of_two_gibibytes_is_refused() {
        assert!(sendable(2_147_483_647).is_ok());
        let status = sendable(2_147_483_648).unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        let text = "grpc: trying to send message larger than max (2147483648 vs. 2147483647)";
        assert_eq!(status.message(), text);
    }

    #[test]
    fn tonics_own_refusals_are_in_the_words_of_grpc_go() {
        let reworded = |refusal: Status, path| {
            let refusal = refusal.into_http::<String>();
            reworded(refusal.headers(), path).map(|status| (status.code(), status.message().to_owned()))
        };
        let nameless = reworded(Status::unimplemented(""), "/nope").unwrap();
        assert_eq!(nameless, (Code::ResourceExhausted, "malformed method name: \"/nope\"".to_owned()));
        let unknown = reworded(Status::unimplemented(""), "/etcdserverpb.KV/Fly").unwrap();
        assert_eq!(unknown.1, "unknown method Fly for service etcdserverpb.KV");
        let compressed = Status::unimplemented("Content is compressed with `gzip` which isn't supported");
        let compressed = reworded(compressed, "/etcdserverpb.KV/Range").unwrap();
        assert_eq!(compressed.1, "grpc: Decompressor is not installed for grpc-encoding \"gzip\"");
        assert_eq!(reworded(Status::not_found("etcdserver: x"), "/etcdserverpb.KV/Range"), None);
    }

    #[test]
    fn a_learner_refuses_all_but_its_methods_and_the_leader_rule_needs_the_header() {
        let mut headers = HeaderMap::new();
        let learner = MemberStatus { is_learner: true, leader: 1, ..MemberStatus::default() };
        assert_eq!(refusal(&learner, "/etcdserverpb.KV/Put", &headers), Some(Error::NotSupportedForLearner));
        assert_eq!(refusal(&learner, "/etcdserverpb.Maintenance/Status", &headers), None);

        let leaderless = MemberStatus::default();
        assert_eq!(refusal(&leaderless, "/etcdserverpb.KV/Put", &headers), None);
        headers.insert(REQUIRE_LEADER, "true".parse().unwrap());
        assert_eq!(refusal(&leaderless, "/etcdserverpb.KV/Put", &headers), Some(Error::NoLeader));
    }
}
