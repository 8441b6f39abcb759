//! Clients whose operations are not of the KV service: leases that are kept alive, and locks.

use cairn_net::proto::etcdserverpb::lease_client::LeaseClient;
use cairn_net::proto::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use cairn_net::proto::v3lockpb::lock_client::LockClient;
use cairn_net::proto::v3lockpb::{LockRequest, UnlockRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::connection::{BenchError, Connection};
use crate::drive::Worker;
use crate::workload::Keys;
use cairn_core::rng::Rng;

/// A client that keeps one lease alive over one stream.
#[derive(Debug)]
pub struct LeaseWorker {
    id: i64,
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    responses: Streaming<LeaseKeepAliveResponse>,
}

impl LeaseWorker {
    /// Grants the lease and opens the stream.
    ///
    /// # Errors
    /// Either failed.
    pub async fn open(channel: Connection, ttl: i64) -> Result<Self, BenchError> {
        let mut client = LeaseClient::new(channel);
        let grant = LeaseGrantRequest { ttl, id: 0 };
        let granted = client.lease_grant(grant).await.map_err(BenchError::prepare("granting a lease"))?;
        let id = granted.into_inner().id;
        let (requests, outgoing) = mpsc::channel(4);
        // etcd answers with the stream's headers only once it has something to say.
        let first = requests.send(LeaseKeepAliveRequest { id }).await;
        first.expect("the receiver is right here");
        let opened = client.lease_keep_alive(ReceiverStream::new(outgoing)).await;
        let responses = opened.map_err(BenchError::prepare("opening a keepalive stream"))?.into_inner();
        let mut worker = Self { id, requests, responses };
        worker.receive().await.map_err(BenchError::prepare("keeping a lease alive"))?;
        Ok(worker)
    }

    async fn receive(&mut self) -> Result<(), Status> {
        match self.responses.message().await? {
            Some(response) if response.ttl > 0 => Ok(()),
            Some(_) => Err(Status::not_found("the lease is gone")),
            None => Err(Status::unavailable("the keepalive stream ended")),
        }
    }
}

impl Worker for LeaseWorker {
    async fn operate(&mut self, _: u64) -> Result<(), Status> {
        let sent = self.requests.send(LeaseKeepAliveRequest { id: self.id }).await;
        sent.map_err(|_| Status::unavailable("the keepalive stream ended"))?;
        self.receive().await
    }
}

/// A client that takes locks and gives them back.
#[derive(Debug)]
pub struct LockWorker {
    locks: LockClient<Connection>,
    lease: i64,
    keys: Keys,
    rng: Rng,
}

impl LockWorker {
    /// Grants the lease that the locks belong to.
    ///
    /// # Errors
    /// It was refused.
    pub async fn open(channel: Connection, keys: Keys, rng: Rng) -> Result<Self, BenchError> {
        let grant = LeaseGrantRequest { ttl: 600, id: 0 };
        let granted = LeaseClient::new(channel.clone()).lease_grant(grant).await;
        let lease = granted.map_err(BenchError::prepare("granting a lease"))?.into_inner().id;
        Ok(Self { locks: LockClient::new(channel), lease, keys, rng })
    }
}

impl Worker for LockWorker {
    async fn operate(&mut self, operation: u64) -> Result<(), Status> {
        let name = self.keys.key(self.keys.pick(&mut self.rng, operation));
        let key = self.locks.lock(LockRequest { name, lease: self.lease }).await?.into_inner().key;
        self.locks.unlock(UnlockRequest { key }).await.map(drop)
    }
}
