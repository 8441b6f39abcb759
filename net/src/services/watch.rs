//! The watch service: one task a stream between the client and the member.
//!
//! The member sends while the stream has credit, and the task returns a credit for each response that
//! it has handed to the transport, so a client that does not read holds a few responses and delays
//! nobody. A half-close leaves the stream open, as in etcd (a client that only listens may have
//! nothing more to say); it ends when the client is gone, or with an error.

use cairn_core::api::WatchResponse as Message;
use cairn_core::error::Error;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request as Incoming, Response, Status, Streaming};

use super::recipe::Watcher;
use super::{Member, Outgoing, guard};
use crate::convert;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::watch_server::Watch;
use crate::proto::etcdserverpb::{WatchRequest, WatchResponse};

/// Requests that are taken from a client while it leaves a response unread; from there on the
/// transport's flow control stops it, because each request may add a response.
const REQUESTS_UNREAD: u32 = 16;

/// Responses between the task and the transport, which encodes as many at once as it finds.
const RESPONSES_QUEUED: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct WatchService(pub(super) Member);

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Outgoing<WatchResponse>;

    async fn watch(
        &self,
        request: Incoming<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let watcher = Watcher::open(&self.0.handle).map_err(convert::status)?;
        let (to_client, out) = mpsc::channel(RESPONSES_QUEUED);
        let member = self.0.clone();
        tokio::spawn(async move {
            if let Err(status) = forward(&member, requests, watcher, &to_client).await {
                // A client that is gone needs no error.
                let _ = to_client.send(Err(status)).await;
            }
        });
        Ok(self.0.streaming(&metadata, ReceiverStream::new(out)))
    }
}

/// Carries requests and responses until the client is gone.
async fn forward(
    member: &Member,
    mut requests: Streaming<WatchRequest>,
    mut watcher: Watcher,
    to_client: &mpsc::Sender<Result<WatchResponse, Status>>,
) -> Result<(), Status> {
    let mut half_closed = false;
    let mut pending: Option<Message> = None;
    let mut requests_unread = 0;
    loop {
        tokio::select! {
            request = requests.message(), if !half_closed && requests_unread < REQUESTS_UNREAD => match request {
                Ok(Some(request)) => {
                    requests_unread += u32::from(pending.is_some());
                    submit(&watcher, request)?;
                }
                Ok(None) => half_closed = true,
                Err(status) if status.code() == Code::Cancelled => {
                    return Err(convert::status(Error::WatchCanceled));
                }
                Err(status) => return Err(guard::too_large(&status).unwrap_or(status)),
            },
            permit = to_client.reserve(), if pending.is_some() => {
                let Ok(permit) = permit else { return Ok(()) };
                requests_unread = 0;
                if let Some(message) = pending.take() {
                    let header = member.header(0);
                    permit.send(Ok(convert::watch_response(header, message)));
                    // One credit call, and one wake-up of the transport, for all that is ready.
                    let mut handed = 1;
                    while let Some(message) = watcher.ready() {
                        let Ok(permit) = to_client.try_reserve() else {
                            pending = Some(message);
                            break;
                        };
                        permit.send(Ok(convert::watch_response(header, message)));
                        handed += 1;
                    }
                    watcher.credit(handed).map_err(convert::status)?;
                }
            }
            response = watcher.next(), if pending.is_none() => {
                pending = Some(response.map_err(convert::status)?);
            }
            () = to_client.closed() => return Ok(()),
        }
    }
}

/// Passes one request on. A request without a union asks for nothing, as in etcd.
fn submit(watcher: &Watcher, request: WatchRequest) -> Result<(), Status> {
    match request.request_union {
        Some(RequestUnion::CreateRequest(create)) => watcher.create(convert::watch_create_request(create)),
        Some(RequestUnion::CancelRequest(cancel)) => watcher.cancel(cancel.watch_id),
        Some(RequestUnion::ProgressRequest(_)) => watcher.progress(),
        None => Ok(()),
    }
    .map_err(convert::status)
}
