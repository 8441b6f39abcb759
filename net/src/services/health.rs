//! The standard health service. It knows one service, the whole server, under the empty name.

use futures::StreamExt;
use tokio::sync::watch as cell;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request as Incoming, Response, Status};

use super::Outgoing;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_server::Health;
use crate::proto::health::{HealthCheckRequest, HealthCheckResponse};

/// See the module.
#[derive(Debug)]
pub(super) struct HealthService(pub(super) cell::Receiver<bool>);

fn answer(serving: bool) -> HealthCheckResponse {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Incoming<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.get_ref().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(answer(*self.0.borrow())))
    }

    type WatchStream = Outgoing<HealthCheckResponse>;

    async fn watch(
        &self,
        request: Incoming<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if !request.get_ref().service.is_empty() {
            // The service may be registered later, says the protocol, so the stream stays open.
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
            let mut serving = self.0.clone();
            let stopping = async move { serving.wait_for(|serving| !serving).await.is_ok() };
            let stream = futures::stream::iter([Ok(unknown)]).chain(futures::stream::pending());
            let stream = stream.take_until(Box::pin(stopping));
            return Ok(Response::new(Box::pin(stream)));
        }
        // A member that stops does not come back, so that is the last answer.
        let serving = WatchStream::new(self.0.clone()).take_while(|serving| std::future::ready(*serving));
        let answers = serving.chain(futures::stream::iter([false])).map(|serving| Ok(answer(serving)));
        Ok(Response::new(Box::pin(answers)))
    }
}
