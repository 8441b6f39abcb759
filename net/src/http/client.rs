//! The client port's HTTP routes (inventory B-HEALTH, B-PORT-07, B-PORT-08).
//!
//! `/health` and the linearizable checks ask the member a real read, so that "healthy" means that a
//! client's request would succeed.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use cairn_core::api::{self, AlarmKind, RangeRequest};
use http::{HeaderValue, Method, StatusCode, header};
use serde::Serialize;

use super::{TEXT, error, not_found, refuse_method, respond, version};
use crate::handle::{Handle, MemberStatus};

const METRICS_TYPE: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON_UTF8: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const SERIALIZABLE_READ: &str = "serializable_read";
const LINEARIZABLE_READ: &str = "linearizable_read";
const DATA_CORRUPTION: &str = "data_corruption";
const NON_LEARNER: &str = "non_learner";

/// A probe's name and its checks.
type Probe = (&'static str, &'static [&'static str]);
const LIVEZ: Probe = ("livez", &[SERIALIZABLE_READ]);
const READYZ: Probe = ("readyz", &[DATA_CORRUPTION, SERIALIZABLE_READ, LINEARIZABLE_READ, NON_LEARNER]);

/// What a health check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthCheck {
    /// `/health` as a whole.
    Health {
        /// Its answer.
        healthy: bool,
    },
    /// One check of `/livez` or `/readyz`.
    Named {
        /// `livez` or `readyz`.
        kind: &'static str,
        /// The check.
        name: &'static str,
        /// What it found.
        healthy: bool,
    },
}

/// What the routes need.
#[derive(Clone)]
pub struct ClientHttp {
    /// The member.
    pub handle: Handle,
    /// Renders `/metrics`.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Renders `/debug/vars`.
    pub vars: Arc<dyn Fn() -> String + Send + Sync>,
    /// Hears of every health check.
    pub checked: Arc<dyn Fn(HealthCheck) + Send + Sync>,
    /// How long a health probe may take; etcd's is 5 s + 2 election timeouts.
    pub probe_timeout: Duration,
    /// `--cors`: allowed origins; none or `*` allows all.
    pub cors: Vec<String>,
    /// `--host-whitelist`: accepted `Host` names; empty or `*` accepts all.
    pub host_whitelist: Vec<String>,
}

impl std::fmt::Debug for ClientHttp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientHttp").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// All routes of the client port.
pub fn router(state: ClientHttp) -> Router {
    let state = Arc::new(state);
    health_routes()
        .route("/version", any(versions))
        .route("/debug/vars", any(debug_vars))
        .fallback(not_found)
        .layer(from_fn_with_state(state.clone(), guard))
        .with_state(state)
}

/// The routes of `--listen-metrics-urls`: metrics and health only.
pub fn metrics_router(state: ClientHttp) -> Router {
    health_routes().fallback(not_found).with_state(Arc::new(state))
}

fn health_routes() -> Router<Arc<ClientHttp>> {
    Router::new()
        .route("/metrics", any(metrics))
        .route("/health", any(health))
        .route("/livez", any(livez))
        .route("/readyz", any(readyz))
        .route("/livez/{check}", any(live_check))
        .route("/readyz/{check}", any(ready_check))
}

/// Refuses unknown hosts, then adds the CORS headers, in etcd's order.
async fn guard(State(state): State<Arc<ClientHttp>>, request: Request, next: Next) -> Response {
    let origin = match state.admit(&request) {
        Ok(origin) => origin,
        Err(refusal) => return *refusal,
    };
    let mut response = match *request.method() {
        Method::OPTIONS => Response::default(),
        _ => next.run(request).await,
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"),
        );
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("accept, content-type, authorization"),
        );
    }
    response
}

/// A `Host` without its port; an IPv6 address loses its brackets.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    host.split(':').next().unwrap_or_default()
}

async fn metrics(State(state): State<Arc<ClientHttp>>) -> Response {
    respond(StatusCode::OK, METRICS_TYPE, (state.metrics)())
}

async fn debug_vars(State(state): State<Arc<ClientHttp>>) -> Response {
    respond(StatusCode::OK, JSON_UTF8, (state.vars)())
}

async fn versions(State(state): State<Arc<ClientHttp>>, method: Method) -> Response {
    if let Some(refusal) = refuse_method(&method, false) {
        return refusal;
    }
    let cluster_version = state.handle.status().borrow().cluster_version.clone();
    version(&cluster_version)
}

type Pairs = Query<Vec<(String, String)>>;

fn given<'a>(pairs: &'a Pairs, name: &'a str) -> impl Iterator<Item = &'a str> {
    pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
}

#[derive(Serialize)]
struct Health<'a> {
    health: &'a str,
    reason: &'a str,
}

async fn health(State(state): State<Arc<ClientHttp>>, method: Method, pairs: Pairs) -> Response {
    if let Some(refusal) = refuse_method(&method, false) {
        return refusal;
    }
    let serializable = given(&pairs, "serializable").next() == Some("true");
    let excluded: Vec<&str> = given(&pairs, "exclude").collect();
    let reason = state.ill(serializable, &excluded).await;
    (state.checked)(HealthCheck::Health { healthy: reason.is_none() });
    let body = match &reason {
        None => Health { health: "true", reason: "" },
        Some(reason) => Health { health: "false", reason },
    };
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    respond(status, TEXT, serde_json::to_string(&body).expect("strings become JSON"))
}

fn alarm_name(kind: AlarmKind) -> &'static str {
    match kind {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    }
}

impl ClientHttp {
    fn now(&self) -> MemberStatus {
        self.handle.status().borrow().clone()
    }

    /// The origin to allow, if any; or the refusal of a host that is not listed.
    fn admit(&self, request: &Request) -> Result<Option<HeaderValue>, Box<Response>> {
        let text = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let host = text(header::HOST).or(request.uri().authority().map(|authority| authority.as_str()));
        let host = host_name(host.unwrap_or_default());
        let listed = |list: &[String], name: &str| list.iter().any(|entry| entry == "*" || entry == name);
        if !self.host_whitelist.is_empty() && !listed(&self.host_whitelist, host) {
            tracing::warn!(host, "refused a request: its Host is not in the whitelist");
            let text = format!("The host name {host:?} is not accepted here: add it to --host-whitelist.");
            return Err(Box::new(error(StatusCode::MISDIRECTED_REQUEST, &text)));
        }
        if self.cors.is_empty() || listed(&self.cors, "*") {
            return Ok(Some(HeaderValue::from_static("*")));
        }
        let known = text(header::ORIGIN).is_some_and(|origin| listed(&self.cors, origin));
        Ok(request.headers().get(header::ORIGIN).filter(|_| known).cloned())
    }

    /// Why the member is not healthy, in etcd's words.
    async fn ill(&self, serializable: bool, excluded: &[&str]) -> Option<Cow<'static, str>> {
        let status = self.now();
        let alarm = status.alarms.iter().map(|alarm| alarm_name(alarm.alarm));
        if let Some(name) = alarm.into_iter().find(|name| !excluded.contains(name)) {
            return Some(format!("ALARM {name}").into());
        }
        if status.leader == 0 && !serializable {
            return Some("RAFT NO LEADER".into());
        }
        self.read(serializable).await.err().map(|error| format!("RANGE ERROR:{error}").into())
    }

    /// One read of a key that need not exist. It goes to the member below the layer that checks
    /// permissions, so it works with authentication on (B-HEALTH-02).
    async fn read(&self, serializable: bool) -> Result<(), String> {
        let key = Bytes::from_static(b"health");
        let request = RangeRequest { key, limit: 1, keys_only: true, serializable, ..Default::default() };
        let probe = self.handle.request(api::Request::Range(request), Some(self.probe_timeout));
        match tokio::time::timeout(self.probe_timeout, probe).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("context deadline exceeded".to_owned()),
        }
    }

    async fn check(&self, name: &str) -> Result<(), String> {
        match name {
            SERIALIZABLE_READ => self.read(true).await,
            LINEARIZABLE_READ => self.read(false).await,
            DATA_CORRUPTION => {
                let corrupt = self.now().alarms.iter().any(|alarm| alarm.alarm == AlarmKind::Corrupt);
                if corrupt { Err("alarm activated: CORRUPT".to_owned()) } else { Ok(()) }
            }
            NON_LEARNER if self.now().is_learner => Err("not supported for learner".to_owned()),
            _ => Ok(()),
        }
    }

    /// Runs `checks` and reports as etcd (and Kubernetes before it) does.
    async fn checks(
        &self,
        probe: Probe,
        checks: &[&'static str],
        method: &Method,
        pairs: &Pairs,
    ) -> Response {
        if let Some(refusal) = refuse_method(method, false) {
            return refusal;
        }
        let excluded: Vec<&str> = given(pairs, "exclude").collect();
        let mut lines = String::new();
        let mut failed = false;
        for name in checks {
            if excluded.contains(name) {
                lines.push_str(&format!("[+]{name} excluded: ok\n"));
                continue;
            }
            let found = self.check(name).await;
            (self.checked)(HealthCheck::Named { kind: probe.0, name, healthy: found.is_ok() });
            match found {
                Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
                Err(reason) => {
                    failed = true;
                    lines.push_str(&format!("[-]{name} failed: {reason}\n"));
                }
            }
        }
        for name in excluded.iter().filter(|name| !checks.contains(name)) {
            lines
                .push_str(&format!("warn: some health checks cannot be excluded: no matches for {name:?}\n"));
        }
        if failed {
            return error(StatusCode::SERVICE_UNAVAILABLE, lines.trim_end());
        }
        let verbose = given(pairs, "verbose").next().is_some();
        respond(StatusCode::OK, TEXT, if verbose { lines + "ok\n" } else { "ok\n".to_owned() })
    }

    async fn one_check(&self, probe: Probe, name: &str, method: &Method, pairs: &Pairs) -> Response {
        match probe.1.iter().find(|known| **known == name) {
            Some(name) => self.checks(probe, &[*name], method, pairs).await,
            None => not_found().await,
        }
    }
}

async fn livez(State(state): State<Arc<ClientHttp>>, method: Method, pairs: Pairs) -> Response {
    state.checks(LIVEZ, LIVEZ.1, &method, &pairs).await
}

async fn readyz(State(state): State<Arc<ClientHttp>>, method: Method, pairs: Pairs) -> Response {
    state.checks(READYZ, READYZ.1, &method, &pairs).await
}

async fn live_check(
    State(state): State<Arc<ClientHttp>>,
    Path(name): Path<String>,
    method: Method,
    pairs: Pairs,
) -> Response {
    state.one_check(LIVEZ, &name, &method, &pairs).await
}

async fn ready_check(
    State(state): State<Arc<ClientHttp>>,
    Path(name): Path<String>,
    method: Method,
    pairs: Pairs,
) -> Response {
    state.one_check(READYZ, &name, &method, &pairs).await
}
