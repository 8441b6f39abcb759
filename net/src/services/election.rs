//! The election service: the oldest key under a name is the leader's, its value what it proclaims.

use cairn_core::api::{Header, WatchCreateRequest, WatchFilter};
use cairn_core::error::Error;
use cairn_core::types::{EventKind, KeyValue};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request as Incoming, Response, Status};

use super::recipe::{self, Watcher};
use super::{Member, Outgoing};
use crate::convert;
use crate::proto::v3electionpb::election_server::Election;
use crate::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};

/// Changes that wait for a slow observer.
const CHANGES_QUEUED: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct ElectionService(pub(super) Member);

fn required(leader: Option<LeaderKey>) -> Result<LeaderKey, Status> {
    leader.ok_or_else(|| Status::unknown("\"leader\" field must be provided"))
}

fn response(header: Header, kv: KeyValue) -> LeaderResponse {
    LeaderResponse { header: Some(convert::header(header)), kv: Some(convert::key_value(kv)) }
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(
        &self,
        request: Incoming<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let CampaignRequest { name, lease, value } = request.into_inner();
        let contender = recipe::Contender {
            name: name.clone(),
            lease,
            value: Some(value),
            expired: Error::LeaseNotFound,
        };
        let held = recipe::contend(&self.0.handle, contender).await.map_err(recipe::unknown)?;
        Ok(Response::new(CampaignResponse {
            header: Some(convert::header(held.header)),
            leader: Some(LeaderKey { name, key: held.key, rev: held.create_revision, lease: held.lease }),
        }))
    }

    async fn proclaim(
        &self,
        request: Incoming<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let ProclaimRequest { leader, value } = request.into_inner();
        let leader = required(leader)?;
        let header = recipe::proclaim(&self.0.handle, leader.key, leader.rev, leader.lease, value)
            .await
            .map_err(recipe::unknown)?;
        Ok(Response::new(ProclaimResponse { header: Some(convert::header(header)) }))
    }

    async fn leader(&self, request: Incoming<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let prefix = recipe::prefix(&request.into_inner().name);
        let (header, rows) = recipe::oldest(&self.0.handle, &prefix).await.map_err(recipe::unknown)?;
        match rows.kvs.into_iter().next() {
            Some(kv) => Ok(Response::new(response(header, kv))),
            None => Err(Status::unknown("election: no leader")),
        }
    }

    type ObserveStream = Outgoing<LeaderResponse>;

    async fn observe(
        &self,
        request: Incoming<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let (changes, out) = mpsc::channel(CHANGES_QUEUED);
        let member = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                Err(error) = observe(&member, &request.name, &changes) => {
                    // An observer that is gone needs no error.
                    let _ = changes.send(Err(recipe::unknown(error))).await;
                }
                () = changes.closed() => {}
            }
        });
        Ok(self.0.streaming(&metadata, ReceiverStream::new(out)))
    }

    async fn resign(&self, request: Incoming<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let leader = required(request.into_inner().leader)?;
        let header = recipe::resign(&self.0.handle, leader.key, leader.rev).await.map_err(recipe::unknown)?;
        Ok(Response::new(ResignResponse { header: Some(convert::header(header)) }))
    }
}

type Changes = mpsc::Sender<Result<LeaderResponse, Status>>;

/// Sends the leader and each of its proclamations, then those of its successors, for ever.
async fn observe(member: &Member, name: &[u8], changes: &Changes) -> Result<(), Error> {
    let prefix = recipe::prefix(name);
    loop {
        let (header, rows) = recipe::oldest(&member.handle, &prefix).await?;
        let (header, leader) = match rows.kvs.into_iter().next() {
            Some(leader) => (header, leader),
            None => match first_put(member, &prefix, header.revision + 1).await? {
                Some(found) => found,
                None => continue,
            },
        };
        let (key, from) = (leader.key.clone(), header.revision + 1);
        if changes.send(Ok(response(header, leader))).await.is_err() {
            return Ok(());
        }
        follow(
            member,
            WatchCreateRequest { key, start_revision: from, ..WatchCreateRequest::default() },
            changes,
        )
        .await?;
    }
}

/// The first key that appears under `prefix` at or after `revision`; `None` when the history was
/// compacted away and the caller must look again.
async fn first_put(
    member: &Member,
    prefix: &bytes::Bytes,
    revision: i64,
) -> Result<Option<(Header, KeyValue)>, Error> {
    let mut watcher = Watcher::open(&member.handle)?;
    watcher.create(WatchCreateRequest {
        key: prefix.clone(),
        range_end: recipe::prefix_end(prefix),
        start_revision: revision,
        filters: vec![WatchFilter::NoDelete],
        ..WatchCreateRequest::default()
    })?;
    loop {
        let message = watcher.next().await?;
        watcher.credit(1)?;
        if recipe::canceled(&message)? {
            return Ok(None);
        }
        if let Some(event) = message.events.first() {
            // Changes after this one must be seen, so the header is as old as the key.
            return Ok(Some((member.header(event.kv.mod_revision), event.kv.clone())));
        }
    }
}

/// Sends each value of the leader's key until the key is deleted.
async fn follow(member: &Member, request: WatchCreateRequest, changes: &Changes) -> Result<(), Error> {
    let mut watcher = Watcher::open(&member.handle)?;
    watcher.create(request)?;
    loop {
        let message = watcher.next().await?;
        watcher.credit(1)?;
        if recipe::canceled(&message)? {
            return Ok(());
        }
        for event in &message.events {
            if event.kind == EventKind::Delete {
                return Ok(());
            }
            let header = member.header(message.revision);
            if changes.send(Ok(response(header, event.kv.clone()))).await.is_err() {
                return Ok(());
            }
        }
    }
}
