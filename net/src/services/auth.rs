//! The auth service of a cluster whose authentication is off.
//!
//! Users and roles cannot be kept yet, so no method pretends to: questions are answered truthfully
//! (auth is off, there are no users and no roles) and every change is refused as unimplemented.

use cairn_core::error::Error;
use tonic::{Request as Incoming, Response, Status};

use super::Member;
use crate::convert;
use crate::proto::etcdserverpb as pb;
use pb::auth_server::Auth;

/// The auth store's revision before its first change.
const FIRST_AUTH_REVISION: u64 = 1;

/// See the module.
#[derive(Debug)]
pub(super) struct AuthService(pub(super) Member);

fn unavailable<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("cairn: authentication is not available yet"))
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        _: Incoming<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        unavailable()
    }

    /// Turning off what is off succeeds, as in etcd.
    async fn auth_disable(
        &self,
        _: Incoming<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        Ok(Response::new(pb::AuthDisableResponse { header: Some(self.0.current_header().await?) }))
    }

    async fn auth_status(
        &self,
        _: Incoming<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let header = Some(self.0.current_header().await?);
        Ok(Response::new(pb::AuthStatusResponse {
            header,
            enabled: false,
            auth_revision: FIRST_AUTH_REVISION,
        }))
    }

    async fn authenticate(
        &self,
        _: Incoming<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        Err(convert::status(Error::AuthNotEnabled))
    }

    async fn user_add(
        &self,
        _: Incoming<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        unavailable()
    }

    async fn user_get(
        &self,
        _: Incoming<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        Err(Status::failed_precondition("etcdserver: user name not found"))
    }

    async fn user_list(
        &self,
        _: Incoming<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        let header = Some(self.0.current_header().await?);
        Ok(Response::new(pb::AuthUserListResponse { header, users: Vec::new() }))
    }

    async fn user_delete(
        &self,
        _: Incoming<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        unavailable()
    }

    async fn user_change_password(
        &self,
        _: Incoming<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        unavailable()
    }

    async fn user_grant_role(
        &self,
        _: Incoming<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        unavailable()
    }

    async fn user_revoke_role(
        &self,
        _: Incoming<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        unavailable()
    }

    async fn role_add(
        &self,
        _: Incoming<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        unavailable()
    }

    async fn role_get(
        &self,
        _: Incoming<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        Err(Status::failed_precondition("etcdserver: role name not found"))
    }

    async fn role_list(
        &self,
        _: Incoming<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        let header = Some(self.0.current_header().await?);
        Ok(Response::new(pb::AuthRoleListResponse { header, roles: Vec::new() }))
    }

    async fn role_delete(
        &self,
        _: Incoming<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        unavailable()
    }

    async fn role_grant_permission(
        &self,
        _: Incoming<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        unavailable()
    }

    async fn role_revoke_permission(
        &self,
        _: Incoming<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        unavailable()
    }
}
