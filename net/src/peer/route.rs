//! The route that every peer call carries in its metadata, and the check of it.
//!
//! Invariant: a call whose route was accepted comes from a member of our cluster that was not
//! removed, and means us and no earlier user of our address (etcd PR 17813).

use cairn_core::types::MemberId;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Status};

use super::{PeerConfig, PeerEvents, REMOVED_TEXT};

const CLUSTER: &str = "x-etcd-cluster-id";
const FROM: &str = "x-server-from";
const TO: &str = "x-raft-to";
const PROTOCOL: &str = "x-cairn-peer-protocol";
/// Raised by any change that an older member cannot read.
const PROTOCOL_VERSION: u64 = 1;

/// Adds the route from us to `to`.
pub(super) fn routed<T>(config: &PeerConfig, to: MemberId, body: T) -> Request<T> {
    let mut request = Request::new(body);
    let fields = [
        (CLUSTER, format!("{:x}", config.cluster_id)),
        (FROM, format!("{:x}", config.member_id)),
        (TO, format!("{to:x}")),
        (PROTOCOL, PROTOCOL_VERSION.to_string()),
    ];
    for (name, text) in fields {
        let value = MetadataValue::try_from(text).expect("digits are valid in metadata");
        request.metadata_mut().insert(name, value);
    }
    request
}

/// The sender, when the route is acceptable.
pub(super) fn check(
    config: &PeerConfig,
    events: &dyn PeerEvents,
    metadata: &MetadataMap,
) -> Result<MemberId, Status> {
    let field = |name: &str, radix| {
        metadata
            .get(name)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| u64::from_str_radix(text, radix).ok())
            .ok_or_else(|| Status::failed_precondition(format!("missing or malformed {name}")))
    };
    let protocol = field(PROTOCOL, 10)?;
    if protocol != PROTOCOL_VERSION {
        return Err(Status::failed_precondition(format!(
            "peer protocol mismatch: remote speaks {protocol}, local speaks {PROTOCOL_VERSION}"
        )));
    }
    let cluster = field(CLUSTER, 16)?;
    if cluster != config.cluster_id {
        return Err(Status::failed_precondition(format!(
            "cluster ID mismatch: remote {cluster:x}, local {:x}",
            config.cluster_id
        )));
    }
    let (from, to) = (field(FROM, 16)?, field(TO, 16)?);
    if to != config.member_id {
        return Err(Status::failed_precondition(format!(
            "member ID mismatch: message for {to:x}, local {:x}",
            config.member_id
        )));
    }
    if from == 0 || from == config.member_id {
        return Err(Status::failed_precondition(format!("member ID {from:x} cannot be the sender's")));
    }
    if events.is_removed(from) {
        return Err(removed());
    }
    Ok(from)
}

/// The refusal of a removed member.
pub(super) fn removed() -> Status {
    Status::permission_denied(REMOVED_TEXT)
}

/// Whether `status` is that refusal.
pub(super) fn says_removed(status: &Status) -> bool {
    status.code() == Code::PermissionDenied && status.message() == REMOVED_TEXT
}
