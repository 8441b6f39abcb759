//! The services over a real connection, with a small member behind the handle.

mod direct;
mod etcdctl;
mod member;
mod recipes;
mod streams;
mod unary;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::api::{RangeRequest, RangeResponse};
use cairn_core::error::Error;
use cairn_core::mvcc::StoreView;
use tokio::sync::watch as cell;
use tonic::transport::{Channel, Endpoint};

use self::direct::Recorder;
use self::member::FakeMember;
use super::{Direct, Export, ServerInfo, Views};
use crate::handle::MemberStatus;
use crate::listener::{Grpc, Listener, ListenerOptions, Serving, SocketOptions};

const MAX_REQUEST_BYTES: usize = 4096;
/// A multiple of 512, without which etcd's client does not find the digest at the end.
const SNAPSHOT_BYTES: usize = 102_400;

/// A served member: the client's channel and the levers of the test.
struct Served {
    channel: Channel,
    member: Arc<FakeMember>,
    status: cell::Sender<MemberStatus>,
    serving: cell::Sender<bool>,
    calls: Arc<Recorder>,
    address: SocketAddr,
    _listening: Serving,
}

/// Reads the fake member's keys; the view itself is empty.
struct FakeViews(Arc<FakeMember>);

impl Views for FakeViews {
    fn range(&self, _: &StoreView, request: &RangeRequest) -> Result<RangeResponse, Error> {
        Ok(self.0.read(request))
    }

    fn export(&self, _: StoreView) -> std::io::Result<Export> {
        Ok((SNAPSHOT_BYTES as u64, Box::new(std::io::Cursor::new(snapshot()))))
    }
}

fn snapshot() -> Vec<u8> {
    (0..SNAPSHOT_BYTES).map(|at| (at % 251) as u8).collect()
}

fn healthy() -> MemberStatus {
    MemberStatus {
        cluster_id: 11,
        member_id: 22,
        leader: 22,
        term: 3,
        cluster_version: "3.7.0".into(),
        ..MemberStatus::default()
    }
}

/// A healthy member's services, and what stands behind them.
struct Services {
    grpc: Grpc,
    member: Arc<FakeMember>,
    status: cell::Sender<MemberStatus>,
    serving: cell::Sender<bool>,
    calls: Arc<Recorder>,
}

fn member() -> Services {
    let (status, watch_status) = cell::channel(healthy());
    let (serving, watch_serving) = cell::channel(true);
    let member = Arc::new(FakeMember::default());
    let calls = Arc::new(Recorder::default());
    let handle = member.handle(watch_status);
    let info = ServerInfo {
        api_version: "3.7.1".into(),
        storage_version: "3.7.0".into(),
        max_request_bytes: MAX_REQUEST_BYTES,
        election_timeout: Duration::from_millis(5),
        views: Arc::new(FakeViews(member.clone())),
        serving: watch_serving,
    };
    let direct = Some(Direct::new(handle.clone(), info.clone(), calls.clone()));
    let grpc = Grpc { routes: super::router(handle, info), direct };
    Services { grpc, member, status, serving, calls }
}

async fn serve() -> Served {
    let Services { grpc, member, status, serving, calls } = member();
    let listener = Listener::bind("http://127.0.0.1:0", &SocketOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let _listening = listener.serve(axum::Router::new(), grpc, ListenerOptions::default()).unwrap();
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    Served { channel, member, status, serving, calls, address, _listening }
}

/// `message` with the metadata by which a client requires a leader.
fn requiring_leader<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    request
}
