//! Members of the cluster.

use cairn_core::api::Member;

use crate::proto::etcdserverpb as pb;

/// A member towards the wire.
pub fn member(member: Member) -> pb::Member {
    pb::Member {
        id: member.id,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    }
}

/// A list of members towards the wire.
pub fn members(members: Vec<Member>) -> Vec<pb::Member> {
    members.into_iter().map(member).collect()
}

impl From<pb::Member> for Member {
    fn from(wire: pb::Member) -> Self {
        Self {
            id: wire.id,
            name: wire.name,
            peer_urls: wire.peer_ur_ls,
            client_urls: wire.client_ur_ls,
            is_learner: wire.is_learner,
        }
    }
}
