//! The cluster service. Its replies carry no revision (inventory A-GEN-01).

use std::time::SystemTime;

use cairn_core::api::{Header, Request, ResponseBody};
use tonic::{Request as Incoming, Response, Status};

use super::{Member, expect_body};
use crate::convert;
use crate::proto::etcdserverpb::cluster_server::Cluster;
use crate::proto::etcdserverpb::{
    Member as WireMember, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, ResponseHeader,
};

/// See the module.
#[derive(Debug)]
pub(super) struct ClusterService(pub(super) Member);

impl ClusterService {
    /// Submits a request that is answered with the list of members.
    async fn members(&self, request: Request) -> Result<(Option<ResponseHeader>, Vec<WireMember>), Status> {
        let reply = self.0.request(request).await?;
        let (header, members) = expect_body!(reply, ResponseBody::Members { members } => members);
        Ok((without_revision(header), convert::members(members)))
    }
}

fn without_revision(header: Header) -> Option<ResponseHeader> {
    Some(convert::header(Header { revision: 0, ..header }))
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_add(
        &self,
        request: Incoming<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let MemberAddRequest { peer_ur_ls, is_learner } = request.into_inner();
        // The time makes the new member's id differ from that of an earlier one at the same URLs.
        let unix_seconds = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since_epoch| since_epoch.as_secs());
        let add = Request::MemberAdd { peer_urls: peer_ur_ls, is_learner, unix_seconds };
        let (header, (member, members)) = expect_body!(
            self.0.request(add).await?,
            ResponseBody::MemberAdd { member, members } => (member, members)
        );
        Ok(Response::new(MemberAddResponse {
            header: without_revision(header),
            member: Some(convert::member(member)),
            members: convert::members(members),
        }))
    }

    async fn member_remove(
        &self,
        request: Incoming<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let (header, members) = self.members(Request::MemberRemove { id: request.into_inner().id }).await?;
        Ok(Response::new(MemberRemoveResponse { header, members }))
    }

    async fn member_update(
        &self,
        request: Incoming<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        let (header, members) = self.members(Request::MemberUpdate { id, peer_urls: peer_ur_ls }).await?;
        Ok(Response::new(MemberUpdateResponse { header, members }))
    }

    async fn member_list(
        &self,
        request: Incoming<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let linearizable = request.into_inner().linearizable;
        let (header, members) = self.members(Request::MemberList { linearizable }).await?;
        Ok(Response::new(MemberListResponse { header, members }))
    }

    async fn member_promote(
        &self,
        request: Incoming<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let (header, members) = self.members(Request::MemberPromote { id: request.into_inner().id }).await?;
        Ok(Response::new(MemberPromoteResponse { header, members }))
    }
}
