//! The lease service.

use cairn_core::api::{Request, ResponseBody};
use cairn_core::error::Error;
use futures::{Stream, StreamExt};
use tonic::{Request as Incoming, Response, Status, Streaming};

use super::{Member, Outgoing, expect_body, guard};
use crate::convert;
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};

/// Renewals of one stream that may be under way at once; their answers keep the requests' order.
const RENEWALS_CONCURRENT: usize = 32;

/// See the module.
#[derive(Debug)]
pub(super) struct LeaseService(pub(super) Member);

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Incoming<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let LeaseGrantRequest { id, ttl } = request.into_inner();
        let reply = self.0.request(Request::LeaseGrant { id, ttl }).await?;
        let (header, (id, ttl)) = expect_body!(reply, ResponseBody::LeaseGrant { id, ttl } => (id, ttl));
        let header = Some(convert::header(header));
        Ok(Response::new(LeaseGrantResponse { header, id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Incoming<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let reply = self.0.request(Request::LeaseRevoke { id: request.into_inner().id }).await?;
        let (header, ()) = expect_body!(reply, ResponseBody::LeaseRevoke => ());
        Ok(Response::new(LeaseRevokeResponse { header: Some(convert::header(header)) }))
    }

    type LeaseKeepAliveStream = Outgoing<LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Incoming<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (metadata, _, requests) = request.into_parts();
        Ok(self.0.streaming(&metadata, renewals(self.0.clone(), requests)))
    }

    async fn lease_time_to_live(
        &self,
        request: Incoming<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let reply = self.0.request(Request::LeaseTimeToLive { id, keys }).await?;
        let (header, (id, ttl, granted_ttl, keys)) = expect_body!(
            reply,
            ResponseBody::LeaseTimeToLive { id, ttl, granted_ttl, keys } => (id, ttl, granted_ttl, keys)
        );
        let header = Some(convert::header(header));
        Ok(Response::new(LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, keys }))
    }

    async fn lease_leases(
        &self,
        _: Incoming<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let reply = self.0.request(Request::LeaseLeases).await?;
        let (header, leases) = expect_body!(reply, ResponseBody::LeaseLeases { leases } => leases);
        let header = Some(convert::header(header));
        Ok(Response::new(LeaseLeasesResponse { header, leases: convert::leases(leases) }))
    }
}

/// One response a request, in order; the client's half-close ends it.
fn renewals(
    member: Member,
    requests: Streaming<LeaseKeepAliveRequest>,
) -> impl Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send + 'static {
    requests
        .map(move |request| {
            let member = member.clone();
            async move {
                match request {
                    Ok(request) => renew(&member, request.id).await,
                    Err(status) => Err(guard::too_large(&status).unwrap_or(status)),
                }
            }
        })
        .buffered(RENEWALS_CONCURRENT)
}

/// A lease that is unknown or has expired answers with a TTL of 0 and leaves the stream open.
async fn renew(member: &Member, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
    match member.handle.request(Request::LeaseKeepAlive { id }, None).await {
        Ok(reply) => {
            let (header, (id, ttl)) =
                expect_body!(reply, ResponseBody::LeaseKeepAlive { id, ttl } => (id, ttl));
            Ok(LeaseKeepAliveResponse { header: Some(convert::header(header)), id, ttl })
        }
        Err(Error::LeaseNotFound) => {
            Ok(LeaseKeepAliveResponse { header: Some(member.current_header().await?), id, ttl: 0 })
        }
        Err(error) => Err(convert::status(error)),
    }
}
