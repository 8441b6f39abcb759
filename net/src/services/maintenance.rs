//! The maintenance service: alarms, status, hashes, snapshots and the operator's commands.

use std::io::Read;

use bytes::Bytes;
use cairn_core::api::{Request, ResponseBody};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request as Incoming, Response, Status};

use super::{Export, Member, Outgoing, expect_body, mismatch};
use crate::proto::etcdserverpb::downgrade_request::DowngradeAction;
use crate::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeRequest, DowngradeResponse,
    HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest, MoveLeaderResponse,
    SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use crate::{bulk, convert};

/// What one message of a snapshot carries.
const CHUNK_BYTES: usize = 32 * 1024;
/// Messages of a snapshot that wait for a slow client.
const CHUNKS_QUEUED: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct MaintenanceService(pub(super) Member);

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(&self, request: Incoming<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let alarm = convert::alarm_request(request.into_inner()).map_err(convert::status)?;
        let reply = self.0.request(Request::Alarm(alarm)).await?;
        let (header, alarms) = expect_body!(reply, ResponseBody::Alarm { alarms } => alarms);
        let header = Some(convert::header(header));
        Ok(Response::new(AlarmResponse { header, alarms: convert::alarm_members(alarms) }))
    }

    async fn status(&self, _: Incoming<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let reply = self.0.request(Request::Status).await?;
        let (header, status) = expect_body!(reply, ResponseBody::Status(status) => status);
        let info = &self.0.info;
        Ok(Response::new(convert::status_response(header, status, &info.api_version, &info.storage_version)))
    }

    async fn defragment(
        &self,
        _: Incoming<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        let reply = self.0.request(Request::Defragment).await?;
        let (header, ()) = expect_body!(reply, ResponseBody::Defragment => ());
        Ok(Response::new(DefragmentResponse { header: Some(convert::header(header)) }))
    }

    async fn hash(&self, _: Incoming<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let reply = self.0.request(Request::Hash).await?;
        let (header, hash) = expect_body!(reply, ResponseBody::Hash { hash } => hash);
        Ok(Response::new(HashResponse { header: Some(convert::header(header)), hash }))
    }

    async fn hash_kv(&self, request: Incoming<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        let reply = self.0.request(Request::HashKv { revision: request.into_inner().revision }).await?;
        let (header, (hash, compact_revision, hash_revision)) = expect_body!(
            reply,
            ResponseBody::HashKv { hash, compact_revision, hash_revision }
                => (hash, compact_revision, hash_revision)
        );
        let header = Some(convert::header(header));
        Ok(Response::new(HashKvResponse { header, hash, compact_revision, hash_revision }))
    }

    type SnapshotStream = Outgoing<SnapshotResponse>;

    async fn snapshot(
        &self,
        request: Incoming<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let mut reply = self.0.request(Request::Snapshot).await?;
        let Some(view) = reply.view.take() else { return Err(mismatch(&reply)) };
        let (messages, out) = mpsc::channel(CHUNKS_QUEUED);
        let info = self.0.info.clone();
        let send = move || {
            let sent = match info.views.export(view) {
                Ok(export) => send_snapshot(export, &info.storage_version, &messages),
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                // A client that is gone needs no error.
                let _ = messages.blocking_send(Err(Status::unknown(format!("snapshot: {error}"))));
            }
        };
        bulk::spawn("snapshot-send", send).map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(self.0.streaming(request.metadata(), ReceiverStream::new(out)))
    }

    async fn move_leader(
        &self,
        request: Incoming<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let reply = self.0.request(Request::MoveLeader { target: request.into_inner().target_id }).await?;
        let (header, ()) = expect_body!(reply, ResponseBody::MoveLeader => ());
        Ok(Response::new(MoveLeaderResponse { header: Some(convert::header(header)) }))
    }

    async fn downgrade(
        &self,
        request: Incoming<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        let DowngradeRequest { action, version } = request.into_inner();
        let cluster_version = self.0.handle.status().borrow().cluster_version.clone();
        Err(match DowngradeAction::try_from(action) {
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) => {
                refuse_downgrade(&version, &cluster_version)
            }
            Ok(DowngradeAction::Cancel) => {
                Status::failed_precondition("etcdserver: no inflight downgrade job")
            }
            Err(_) => Status::unknown("etcdserver: unknown method"),
        })
    }
}

/// Why the cluster cannot go to `target`. The storage format has one version, so there is no target
/// that a member could run; the format of the request is judged first, as etcd does.
fn refuse_downgrade(target: &str, cluster_version: &str) -> Status {
    if !is_version(target) {
        return Status::invalid_argument("etcdserver: wrong downgrade target version format");
    }
    if cluster_version.is_empty() {
        return Status::failed_precondition("etcdserver: cluster version not found during downgrade");
    }
    Status::invalid_argument("etcdserver: invalid downgrade target version")
}

/// Whether `text` is `major.minor` or `major.minor.patch`, the patch with an optional suffix.
fn is_version(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit());
    match text.splitn(3, '.').collect::<Vec<_>>().as_slice() {
        [major, minor] => number(major) && number(minor),
        [major, minor, patch] => {
            let patch = patch.split(['-', '+']).next().unwrap_or(patch);
            number(major) && number(minor) && number(patch)
        }
        _ => false,
    }
}

/// Sends the file in chunks and then its SHA-256, with which the client checks what it saved. Ends
/// early and quietly when the client is gone.
fn send_snapshot(
    (size, mut bytes): Export,
    version: &str,
    messages: &mpsc::Sender<Result<SnapshotResponse, Status>>,
) -> std::io::Result<()> {
    let mut digest = Sha256::new();
    let mut remaining = size;
    while remaining > 0 {
        let len = usize::try_from(remaining).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let mut chunk = vec![0; len];
        bytes.read_exact(&mut chunk)?;
        digest.update(&chunk);
        remaining -= len as u64;
        if messages.blocking_send(Ok(message(chunk.into(), remaining, version))).is_err() {
            return Ok(());
        }
        bulk::pause();
    }
    let _ = messages.blocking_send(Ok(message(Bytes::copy_from_slice(&digest.finalize()), 0, version)));
    Ok(())
}

fn message(blob: Bytes, remaining_bytes: u64, version: &str) -> SnapshotResponse {
    SnapshotResponse { header: None, remaining_bytes, blob, version: version.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_downgrade_is_refused_with_etcds_words() {
        for (target, cluster, text) in [
            ("x", "3.7.0", "etcdserver: wrong downgrade target version format"),
            ("3", "3.7.0", "etcdserver: wrong downgrade target version format"),
            ("3.6", "", "etcdserver: cluster version not found during downgrade"),
            ("3.6", "3.7.0", "etcdserver: invalid downgrade target version"),
            ("3.6.1-rc.0", "3.7.0", "etcdserver: invalid downgrade target version"),
        ] {
            assert_eq!(refuse_downgrade(target, cluster).message(), text, "{target} {cluster}");
        }
    }
}
