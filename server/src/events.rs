//! What a node tells an operator, as log lines with etcd's messages (inventory C-LOG).

use cairn_core::node::NodeEvent;

use crate::driver::hex;

/// Writes one event to the log.
pub(crate) fn log(event: &NodeEvent, member_id: u64, cluster_id: u64) {
    let local = hex(member_id);
    let cluster = hex(cluster_id);
    match event {
        NodeEvent::BecameFollower { term } => tracing::info!("{local} became follower at term {term}"),
        NodeEvent::BecameCandidate { term } => {
            tracing::info!("{local} is starting a new election at term {}", term.saturating_sub(1));
            tracing::info!("{local} became candidate at term {term}");
        }
        NodeEvent::BecameLeader { term } => tracing::info!("{local} became leader at term {term}"),
        NodeEvent::LeaderElected { leader, term } => {
            tracing::info!("raft.node: {local} elected leader {} at term {term}", hex(*leader));
        }
        NodeEvent::LeaderLost { leader, term } => {
            tracing::info!("raft.node: {local} lost leader {} at term {term}", hex(*leader));
        }
        NodeEvent::Published { name, client_urls } => tracing::info!(
            "local-member-id" = local,
            "local-member-attributes" = format!("{{Name:{name} ClientURLs:[{}]}}", client_urls.join(" ")),
            "cluster-id" = cluster,
            "published local member to cluster through raft"
        ),
        NodeEvent::ClusterVersionSet { version } => {
            let short = version.rsplit_once('.').map_or(version.as_str(), |(short, _)| short);
            tracing::info!(
                "cluster-id" = cluster,
                "local-member-id" = local,
                "cluster-version" = short,
                "set initial cluster version"
            );
            tracing::info!("cluster-version" = short, "enabled capabilities for version");
        }
        NodeEvent::MemberAdded { id, peer_urls, is_learner } => tracing::info!(
            "cluster-id" = cluster,
            "local-member-id" = local,
            "added-peer-id" = hex(*id),
            "added-peer-peer-urls" = ?peer_urls,
            "added-peer-is-learner" = is_learner,
            "added member"
        ),
        NodeEvent::MemberRemoved { id } => tracing::info!(
            "cluster-id" = cluster,
            "local-member-id" = local,
            "removed-remote-peer-id" = hex(*id),
            "removed member"
        ),
        NodeEvent::MemberUpdated { id, peer_urls } => tracing::info!(
            "cluster-id" = cluster,
            "local-member-id" = local,
            "updated-remote-peer-id" = hex(*id),
            "updated-remote-peer-urls" = ?peer_urls,
            "updated member"
        ),
        NodeEvent::MemberPromoted { id } => tracing::info!(
            "cluster-id" = cluster,
            "local-member-id" = local,
            "promoted-member-id" = hex(*id),
            "promote member"
        ),
        NodeEvent::RemovedSelf => {
            tracing::warn!(
                "local-member-id" = local,
                "the member has been permanently removed from the cluster"
            );
            tracing::warn!("the data-dir used by this member must be removed.");
        }
        NodeEvent::AlarmRaised { member_id, alarm } => {
            tracing::warn!(alarm = alarm_name(*alarm), from = hex(*member_id), "alarm raised");
        }
        NodeEvent::AlarmCleared { member_id, alarm } => {
            tracing::info!(alarm = alarm_name(*alarm), from = hex(*member_id), "alarm disarmed");
        }
        NodeEvent::CompactionScheduled { revision } => {
            tracing::info!("compact-revision" = revision, "store.index: compact");
        }
        NodeEvent::CompactionFinished { revision } => {
            tracing::info!("compact-revision" = revision, "finished scheduled compaction");
        }
        NodeEvent::SnapshotInstalled { index } => {
            tracing::info!("snapshot-index" = index, "applied snapshot");
        }
        NodeEvent::SnapshotSending { to, index } => {
            tracing::info!(to = hex(*to), "snapshot-index" = index, "sending database snapshot");
        }
        NodeEvent::LogCompacted { index } => tracing::info!("compact-index" = index, "compacted Raft logs"),
        NodeEvent::ReadIndexSlow => {
            tracing::warn!("waiting for ReadIndex response took too long, retrying");
        }
        NodeEvent::LogEntryDamaged(damaged) => {
            tracing::error!(
                file = damaged.file,
                offset = damaged.offset,
                index = damaged.id.index,
                term = damaged.id.term,
                bytes = damaged.data_len,
                "an entry of the log is damaged; asking other members for it before taking part"
            );
        }
        NodeEvent::LogEntryNowhere(damaged) => {
            tracing::error!(
                file = damaged.file,
                offset = damaged.offset,
                index = damaged.id.index,
                term = damaged.id.term,
                "no member that answers has a damaged entry of the log; waiting for the others. If they \
                 are lost, remove this member and add it again with an empty data directory"
            );
        }
        NodeEvent::LogEntryLeftOut { index, term } => {
            tracing::warn!(index, term, "a damaged entry of the log was never committed; leaving it out");
        }
        NodeEvent::LogRepaired { entries, bytes } => {
            tracing::info!(entries, bytes, "repaired the log from other members");
        }
        NodeEvent::ProposalFailed | NodeEvent::ReadIndexFailed => {}
        NodeEvent::LeaseExpired { id } => tracing::debug!("lease-id" = format!("{id:x}"), "lease expired"),
    }
}

fn alarm_name(alarm: cairn_core::api::AlarmKind) -> &'static str {
    match alarm {
        cairn_core::api::AlarmKind::NoSpace => "NOSPACE",
        cairn_core::api::AlarmKind::Corrupt => "CORRUPT",
    }
}
