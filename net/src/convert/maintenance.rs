//! Alarms and a member's status.

use cairn_core::api::{AlarmAction, AlarmKind, AlarmMember, AlarmRequest, Header, StatusResponse};
use cairn_core::error::Error;

use super::header;
use crate::proto::etcdserverpb as pb;
use pb::AlarmType;
use pb::alarm_request::AlarmAction as WireAction;

/// Reads an alarm request.
///
/// # Errors
/// An action or an alarm that the definition does not have.
pub fn alarm_request(wire: pb::AlarmRequest) -> Result<AlarmRequest, Error> {
    let action = match WireAction::try_from(wire.action) {
        Ok(WireAction::Get) => AlarmAction::Get,
        Ok(WireAction::Activate) => AlarmAction::Activate,
        Ok(WireAction::Deactivate) => AlarmAction::Deactivate,
        Err(_) => return Err(Error::Other(format!("cairn: unknown alarm action {}", wire.action))),
    };
    let alarm = match AlarmType::try_from(wire.alarm) {
        Ok(AlarmType::None) => None,
        Ok(AlarmType::Nospace) => Some(AlarmKind::NoSpace),
        Ok(AlarmType::Corrupt) => Some(AlarmKind::Corrupt),
        Err(_) => return Err(Error::Other(format!("cairn: unknown alarm {}", wire.alarm))),
    };
    Ok(AlarmRequest { action, member_id: wire.member_id, alarm })
}

impl From<AlarmRequest> for pb::AlarmRequest {
    fn from(request: AlarmRequest) -> Self {
        let action = match request.action {
            AlarmAction::Get => WireAction::Get,
            AlarmAction::Activate => WireAction::Activate,
            AlarmAction::Deactivate => WireAction::Deactivate,
        };
        Self {
            action: action.into(),
            member_id: request.member_id,
            alarm: request.alarm.map_or(AlarmType::None, alarm_type).into(),
        }
    }
}

fn alarm_type(kind: AlarmKind) -> AlarmType {
    match kind {
        AlarmKind::NoSpace => AlarmType::Nospace,
        AlarmKind::Corrupt => AlarmType::Corrupt,
    }
}

/// Active alarms towards the wire.
pub fn alarm_members(alarms: Vec<AlarmMember>) -> Vec<pb::AlarmMember> {
    alarms
        .into_iter()
        .map(|alarm| pb::AlarmMember { member_id: alarm.member_id, alarm: alarm_type(alarm.alarm).into() })
        .collect()
}

/// A member's status towards the wire; the versions are the process's, not the core's.
pub fn status_response(
    top: Header,
    status: StatusResponse,
    version: &str,
    storage_version: &str,
) -> pb::StatusResponse {
    pb::StatusResponse {
        header: Some(header(top)),
        version: version.to_owned(),
        db_size: status.db_size,
        leader: status.leader,
        raft_index: status.raft_index,
        raft_term: status.raft_term,
        raft_applied_index: status.raft_applied_index,
        errors: status.errors,
        db_size_in_use: status.db_size_in_use,
        is_learner: status.is_learner,
        storage_version: storage_version.to_owned(),
        db_size_quota: status.db_size_quota,
        downgrade_info: Some(pb::DowngradeInfo { enabled: false, target_version: String::new() }),
    }
}
