//! The KV service.

use cairn_core::api::{Request, ResponseBody};
use cairn_core::error::Error;
use tonic::{Request as Incoming, Response, Status};

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

impl KvService {
    /// Reads a range request; a learner serves serializable ones only.
    fn readable(&self, wire: RangeRequest) -> Result<cairn_core::api::RangeRequest, Status> {
        let range = convert::range_request(wire).map_err(convert::status)?;
        if self.0.handle.status().borrow().is_learner && !range.serializable {
            return Err(convert::status(Error::NotSupportedForLearner));
        }
        Ok(range)
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(&self, request: Incoming<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let range = self.readable(request.into_inner())?;
        let reply = self.0.request(Request::Range(range)).await?;
        let (header, body) = expect_body!(reply, ResponseBody::Range(body) => body);
        Ok(Response::new(convert::range_response(header, body)))
    }

    type RangeStreamStream = Outgoing<RangeStreamResponse>;

    async fn range_stream(
        &self,
        request: Incoming<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let (metadata, _, wire) = request.into_parts();
        let range = self.readable(wire)?;
        let chunks = range_stream::open(&self.0, range).await?;
        Ok(self.0.streaming(&metadata, chunks))
    }

    async fn put(&self, request: Incoming<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let put = convert::put_request(request.into_inner());
        let reply = self.0.request(Request::Put(put)).await?;
        let (header, body) = expect_body!(reply, ResponseBody::Put(body) => body);
        Ok(Response::new(convert::put_response(header, body)))
    }

    async fn delete_range(
        &self,
        request: Incoming<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let delete = convert::delete_range_request(request.into_inner());
        let reply = self.0.request(Request::DeleteRange(delete)).await?;
        let (header, body) = expect_body!(reply, ResponseBody::DeleteRange(body) => body);
        Ok(Response::new(convert::delete_range_response(header, body)))
    }

    async fn txn(&self, request: Incoming<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let txn = convert::txn_request(request.into_inner()).map_err(convert::status)?;
        let reply = self.0.request(Request::Txn(txn)).await?;
        let (header, body) = expect_body!(reply, ResponseBody::Txn(body) => body);
        Ok(Response::new(convert::txn_response(header, body)))
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
