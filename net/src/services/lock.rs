//! The lock service: the oldest key under a name holds the lock.

use cairn_core::api::{DeleteRangeRequest, Request, ResponseBody};
use cairn_core::error::Error;
use tonic::{Request as Incoming, Response, Status};

use super::{Member, expect_body, recipe};
use crate::convert;
use crate::proto::v3lockpb::lock_server::Lock;
use crate::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};

/// See the module.
#[derive(Debug)]
pub(super) struct LockService(pub(super) Member);

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Incoming<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let LockRequest { name, lease } = request.into_inner();
        let expired = Error::Other("mutex: session is expired".to_owned());
        let contender = recipe::Contender { name, lease, value: None, expired };
        let held = recipe::contend(&self.0.handle, contender).await.map_err(recipe::unknown)?;
        Ok(Response::new(LockResponse { header: Some(convert::header(held.header)), key: held.key }))
    }

    async fn unlock(&self, request: Incoming<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let delete = DeleteRangeRequest { key: request.into_inner().key, ..DeleteRangeRequest::default() };
        let reply =
            self.0.handle.request(Request::DeleteRange(delete), None).await.map_err(recipe::unknown)?;
        let (header, _) = expect_body!(reply, ResponseBody::DeleteRange(body) => body);
        Ok(Response::new(UnlockResponse { header: Some(convert::header(header)) }))
    }
}
