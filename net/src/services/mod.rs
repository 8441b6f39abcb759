//! etcd's gRPC services over [`Handle`]: convert, submit, convert back.
//!
//! Nothing here validates keys, decides or keeps state of the cluster: the core does. What belongs
//! here is the wire's own behaviour: headers, status codes, streams, size limits, and the two recipe
//! services (lock and election), which etcd also builds from puts, ranges and watches.
//!
//! [`router`] puts every service behind one [`guard`], so that no method can forget the rules that
//! hold for all of them.

mod auth;
mod cluster;
mod direct;
mod election;
mod guard;
mod health;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod range_stream;
mod recipe;
pub mod rows;
mod watch;

#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::api::{Header, RangeRequest, RangeResponse, Request};
use cairn_core::error::Error;
use cairn_core::mvcc::StoreView;
use futures::{Stream, StreamExt};
use tokio::sync::watch as cell;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Response, Status};

use crate::convert;
use crate::handle::{Handle, MemberStatus, Reply};
use crate::proto::{etcdserverpb, health as healthpb, v3electionpb, v3lockpb};

pub use direct::{Calls, Direct};
pub(crate) use direct::{Method, ReplyBody};

/// What gRPC adds to the largest request when it limits what it receives.
const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;

/// Election timeouts without a leader after which a stream that requires one ends.
const LEADERLESS_TIMEOUTS: u32 = 3;

/// The services of the client port.
const SERVICES: [&str; 9] = [
    "etcdserverpb.Auth",
    "etcdserverpb.Cluster",
    "etcdserverpb.KV",
    "etcdserverpb.Lease",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Watch",
    "grpc.health.v1.Health",
    "v3electionpb.Election",
    "v3lockpb.Lock",
];

/// The stream of a streaming response.
type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Bytes to send in a snapshot, with their number.
pub type Export = (u64, Box<dyn Read + Send>);

/// Reads pinned views. Both methods are called on threads that may block.
pub trait Views: Send + Sync {
    /// Reads keys at the revision that `request` names.
    ///
    /// # Errors
    /// The client's error, e.g. a compacted revision.
    fn range(&self, view: &StoreView, request: &RangeRequest) -> Result<RangeResponse, Error>;

    /// The view as a database file. Its size must be a multiple of 512: etcd's client takes the
    /// remainder for the digest that follows.
    ///
    /// # Errors
    /// The file could not be made or opened.
    fn export(&self, view: StoreView) -> io::Result<Export>;
}

/// What the services need to know of the process.
#[derive(Clone)]
pub struct ServerInfo {
    /// etcd's version that the API answers as, e.g. `3.7.0`.
    pub api_version: String,
    /// The storage version, e.g. `3.7.0`.
    pub storage_version: String,
    /// The largest request (`--max-request-bytes`).
    pub max_request_bytes: usize,
    /// The election timeout.
    pub election_timeout: Duration,
    /// Reads pinned views.
    pub views: Arc<dyn Views>,
    /// False once the member is stopping: the health service says so, and open streams end.
    pub serving: cell::Receiver<bool>,
}

impl std::fmt::Debug for ServerInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerInfo")
            .field("api_version", &self.api_version)
            .field("max_request_bytes", &self.max_request_bytes)
            .finish_non_exhaustive()
    }
}

/// Every service, ready to be served on the client port.
pub fn router(handle: Handle, info: ServerInfo) -> Routes {
    let receive_bytes_max = info.max_request_bytes.saturating_add(GRPC_OVERHEAD_BYTES);
    let status = handle.status();
    let serving = info.serving.clone();
    let member = Member { handle, info: Arc::new(info) };
    macro_rules! routes {
        ($($server:path => $service:expr;)*) => {
            Routes::builder()
                $(.add_service(
                    <$server>::new($service)
                        .max_decoding_message_size(receive_bytes_max)
                        .max_encoding_message_size(usize::MAX),
                ))*
                .to_owned()
                .routes()
        };
    }
    let watch = watch::server(member.clone(), receive_bytes_max);
    let mut routes = routes! {
        etcdserverpb::kv_server::KvServer<_> => kv::KvService(member.clone());
        etcdserverpb::lease_server::LeaseServer<_> => lease::LeaseService(member.clone());
        etcdserverpb::cluster_server::ClusterServer<_> => cluster::ClusterService(member.clone());
        etcdserverpb::maintenance_server::MaintenanceServer<_> => maintenance::MaintenanceService(member.clone());
        etcdserverpb::auth_server::AuthServer<_> => auth::AuthService(member.clone());
        v3lockpb::lock_server::LockServer<_> => lock::LockService(member.clone());
        v3electionpb::election_server::ElectionServer<_> => election::ElectionService(member);
        healthpb::health_server::HealthServer<_> => health::HealthService(serving);
    }
    .add_service(watch);
    let inner = std::mem::take(routes.axum_router_mut());
    *routes.axum_router_mut() = inner.layer(guard::GuardLayer::new(status));
    routes.prepare()
}

/// The way to the member that every service holds.
#[derive(Clone, Debug)]
struct Member {
    handle: Handle,
    info: Arc<ServerInfo>,
}

impl Member {
    /// Submits a request; the core's error becomes the status that etcd sends.
    async fn request(&self, request: Request) -> Result<Reply, Status> {
        self.handle.request(request, None).await.map_err(convert::status)
    }

    /// A header from what the member publishes, for messages that the core does not address.
    fn header(&self, revision: i64) -> Header {
        let status = self.handle.status();
        let status = status.borrow();
        Header {
            cluster_id: status.cluster_id,
            member_id: status.member_id,
            revision,
            raft_term: status.term,
        }
    }

    /// A header with the store's current revision.
    async fn current_header(&self) -> Result<etcdserverpb::ResponseHeader, Status> {
        Ok(convert::header(self.request(Request::Status).await?.response.header))
    }

    /// Completes when a stream must end, with etcd's error: when the member stops, and, for a client that
    /// requires a leader, when there has been none for three election timeouts.
    fn end(&self, metadata: &MetadataMap) -> impl Future<Output = Error> + Send + use<> {
        let required = metadata.get(guard::REQUIRE_LEADER).is_some_and(|value| value.as_bytes() == b"true");
        let patience = required.then_some(self.info.election_timeout * LEADERLESS_TIMEOUTS);
        ended(self.info.serving.clone(), self.handle.status(), patience)
    }

    /// `stream` as a response that ends when it must.
    fn streaming<T: Send + 'static>(
        &self,
        metadata: &MetadataMap,
        stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Response<Outgoing<T>> {
        let end = self.end(metadata);
        let bounded = futures::stream::unfold(Some((Box::pin(stream), Box::pin(end))), |state| async {
            let (mut stream, mut end) = state?;
            tokio::select! {
                item = stream.next() => item.map(|item| (item, Some((stream, end)))),
                error = &mut end => Some((Err(convert::status(error)), None)),
            }
        });
        Response::new(Box::pin(bounded))
    }
}

/// Completes when an open stream must end, with the reason.
async fn ended(
    mut serving: cell::Receiver<bool>,
    status: cell::Receiver<MemberStatus>,
    patience: Option<Duration>,
) -> Error {
    let leaderless = async {
        match patience {
            Some(patience) => leader_lost(status, patience).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // The sender goes only when the process ends.
        _ = serving.wait_for(|serving| !serving) => Error::Stopped,
        () = leaderless => Error::NoLeader,
    }
}

/// Completes when the member has had no leader for the whole of `patience`.
async fn leader_lost(mut status: cell::Receiver<MemberStatus>, patience: Duration) {
    loop {
        if status.wait_for(|status| status.leader == 0).await.is_err() {
            // The member is stopping; the stream ends for that reason.
            return std::future::pending().await;
        }
        if tokio::time::timeout(patience, status.wait_for(|status| status.leader != 0)).await.is_err() {
            return;
        }
    }
}

/// A reply whose body answers another request: a bug in the driver, not the client's fault.
fn mismatch(reply: &Reply) -> Status {
    Status::internal(format!("cairn: unexpected reply {:?}", std::mem::discriminant(&reply.response.body)))
}

/// Takes the header and the expected body out of a reply, or returns from the method.
macro_rules! expect_body {
    ($reply:expr, $pattern:pat => $value:expr) => {{
        let reply = $reply;
        match reply.response.body {
            $pattern => (reply.response.header, $value),
            _ => return Err($crate::services::mismatch(&reply)),
        }
    }};
}
use expect_body;
