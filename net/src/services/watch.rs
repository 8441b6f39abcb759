//! The watch service: a task a stream reads the client's requests, and the response's body is what the
//! member has for the stream.
//!
//! The member sends while the stream has credit, and the body returns a credit for each response that
//! it has handed to the transport, so a client that does not read holds a few responses and delays
//! nobody. A half-close leaves the stream open, as in etcd (a client that only listens may have
//! nothing more to say); it ends when the client is gone, or with an error.

mod responses;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use cairn_core::error::Error;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Request as Incoming, Response, Status, Streaming};
use tower::Service;

use super::recipe::Watcher;
use super::{Member, Outgoing, guard};
use crate::convert;
use crate::handle::{Call, Handle, StreamId};
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::watch_server::{Watch, WatchServer};
use crate::proto::etcdserverpb::{WatchRequest, WatchResponse};
use responses::{Responses, Said};

/// Requests that are taken from a client before the body is asked whether the transport takes its
/// responses: each may add one. From there on the transport's flow control stops the client.
const REQUESTS_UNREAD: u32 = 16;

/// See the module.
#[derive(Debug)]
struct WatchService(Member);

/// The service, with its own way of writing responses.
pub(super) fn server(member: Member, receive_bytes_max: usize) -> WithBody {
    WithBody(WatchServer::new(WatchService(member)).max_decoding_message_size(receive_bytes_max))
}

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Outgoing<WatchResponse>;

    async fn watch(
        &self,
        request: Incoming<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let watcher = Watcher::open(&self.0.handle).map_err(convert::status)?;
        let (to_body, said) = mpsc::channel(1);
        let (go_on, may_go_on) = mpsc::channel(1);
        let target = Target { handle: self.0.handle.clone(), stream: watcher.stream() };
        let end = self.0.end(&metadata).boxed();
        tokio::spawn(async move {
            tokio::select! {
                result = forward(requests, &target, &to_body, may_go_on) => {
                    if let Err(status) = result {
                        // A client that is gone needs no error.
                        let _ = to_body.send(Said::Failed(status)).await;
                    }
                }
                () = to_body.closed() => {}
            }
        });
        let body = Responses::new(self.0.clone(), watcher, said, go_on, end);
        let mut response: Response<Self::WatchStream> = Response::new(Box::pin(futures::stream::empty()));
        response.extensions_mut().insert(Prepared(Arc::new(Mutex::new(Some(body)))));
        Ok(response)
    }
}

/// The body that takes the place of the generated service's.
#[derive(Clone)]
struct Prepared(Arc<Mutex<Option<Responses>>>);

/// The generated service, but for the bodies of its responses: it would encode each by itself.
#[derive(Clone, Debug)]
pub(super) struct WithBody(WatchServer<WatchService>);

impl NamedService for WithBody {
    const NAME: &'static str = <WatchServer<WatchService> as NamedService>::NAME;
}

impl Service<http::Request<Body>> for WithBody {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.0, context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            let prepared = response.extensions_mut().remove::<Prepared>();
            let body = prepared.and_then(|body| body.0.lock().unwrap_or_else(PoisonError::into_inner).take());
            Ok(match body {
                Some(body) => response.map(|_| Body::new(body)),
                None => response,
            })
        })
    }
}

/// Where requests go.
#[derive(Debug)]
struct Target {
    handle: Handle,
    stream: StreamId,
}

impl Target {
    /// Passes one request on. A request without a union asks for nothing, as in etcd.
    fn submit(&self, request: WatchRequest) -> Result<(), Error> {
        let stream = self.stream;
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                let request = convert::watch_create_request(create);
                self.handle.submit(Call::WatchCreate { stream, request })
            }
            Some(RequestUnion::CancelRequest(cancel)) => {
                self.handle.submit(Call::WatchCancel { stream, watch_id: cancel.watch_id })
            }
            Some(RequestUnion::ProgressRequest(_)) => self.handle.submit(Call::WatchProgress { stream }),
            None => Ok(()),
        }
    }
}

/// Carries requests until the client has no more.
async fn forward(
    mut requests: Streaming<WatchRequest>,
    target: &Target,
    to_body: &mpsc::Sender<Said>,
    mut may_go_on: mpsc::Receiver<()>,
) -> Result<(), Status> {
    let mut unread = 0;
    loop {
        match requests.message().await {
            Ok(Some(request)) => target.submit(request).map_err(convert::status)?,
            Ok(None) => return Ok(()),
            Err(status) if status.code() == Code::Cancelled => {
                return Err(convert::status(Error::WatchCanceled));
            }
            Err(status) => return Err(guard::too_large(&status).unwrap_or(status)),
        }
        unread += 1;
        if unread == REQUESTS_UNREAD {
            unread = 0;
            if to_body.send(Said::Waits).await.is_err() || may_go_on.recv().await.is_none() {
                return Ok(());
            }
        }
    }
}
