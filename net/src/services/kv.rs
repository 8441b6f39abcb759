//! The KV service.

use cairn_core::api::{Request, ResponseBody};
use cairn_core::error::Error;
use tonic::{Request as Incoming, Response, Status};

use super::rows::RowFrames;
use super::{Member, Outgoing, expect_body, range_stream};
use crate::convert;
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
};

/// See the module.
#[derive(Debug)]
pub(super) struct KvService(pub(super) Member);

/// Reads a range request; a learner serves serializable ones only.
fn readable(member: &Member, wire: RangeRequest) -> Result<cairn_core::api::RangeRequest, Status> {
    let range = convert::range_request(wire).map_err(convert::status)?;
    if !range.serializable && member.handle.with_status(|status| status.is_learner) {
        return Err(convert::status(Error::NotSupportedForLearner));
    }
    Ok(range)
}

/// What answers a range.
#[derive(Debug)]
pub(super) enum RangeReply {
    Whole(RangeResponse),
    Frames(RowFrames),
}

/// Reads keys; a long answer may come in frames.
pub(super) async fn range_in_frames(member: &Member, wire: RangeRequest) -> Result<RangeReply, Status> {
    let request = Request::Range(readable(member, wire)?);
    let mut reply = member.handle.request_in_frames(request).await.map_err(convert::status)?;
    if let Some(frames) = reply.frames.take() {
        return Ok(RangeReply::Frames(frames));
    }
    let (header, rows) = expect_body!(reply, ResponseBody::Range(body) => body);
    Ok(RangeReply::Whole(convert::range_response(header, rows)))
}

/// Writes a key.
pub(super) async fn put(member: &Member, wire: PutRequest) -> Result<PutResponse, Status> {
    let reply = member.request(Request::Put(convert::put_request(wire))).await?;
    let (header, body) = expect_body!(reply, ResponseBody::Put(body) => body);
    Ok(convert::put_response(header, body))
}

/// Deletes keys.
pub(super) async fn delete_range(
    member: &Member,
    wire: DeleteRangeRequest,
) -> Result<DeleteRangeResponse, Status> {
    let reply = member.request(Request::DeleteRange(convert::delete_range_request(wire))).await?;
    let (header, body) = expect_body!(reply, ResponseBody::DeleteRange(body) => body);
    Ok(convert::delete_range_response(header, body))
}

/// Runs a transaction.
pub(super) async fn txn(member: &Member, wire: TxnRequest) -> Result<TxnResponse, Status> {
    let txn = convert::txn_request(wire).map_err(convert::status)?;
    let reply = member.request(Request::Txn(txn)).await?;
    let (header, body) = expect_body!(reply, ResponseBody::Txn(body) => body);
    Ok(convert::txn_response(header, body))
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(&self, request: Incoming<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let range = readable(&self.0, request.into_inner())?;
        let reply = self.0.request(Request::Range(range)).await?;
        let (header, rows) = expect_body!(reply, ResponseBody::Range(body) => body);
        Ok(Response::new(convert::range_response(header, rows)))
    }

    type RangeStreamStream = Outgoing<RangeStreamResponse>;

    async fn range_stream(
        &self,
        request: Incoming<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let (metadata, _, wire) = request.into_parts();
        let range = readable(&self.0, wire)?;
        let chunks = range_stream::open(&self.0, range).await?;
        Ok(self.0.streaming(&metadata, chunks))
    }

    async fn put(&self, request: Incoming<PutRequest>) -> Result<Response<PutResponse>, Status> {
        put(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn delete_range(
        &self,
        request: Incoming<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        delete_range(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn txn(&self, request: Incoming<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        txn(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn compact(
        &self,
        request: Incoming<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let CompactionRequest { revision, physical } = request.into_inner();
        let reply = self.0.request(Request::Compact { revision, physical }).await?;
        let (header, ()) = expect_body!(reply, ResponseBody::Compact => ());
        Ok(Response::new(CompactionResponse { header: Some(convert::header(header)) }))
    }
}
