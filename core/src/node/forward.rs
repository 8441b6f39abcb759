//! Requests that only the leader can answer, passed on by a follower and answered there.
//!
//! All of them may safely be asked twice, so a change of leader simply asks the new one.

use super::peer_message::PeerMessage;
use super::propose::INTERNAL_ID;
use super::request::{Pending, Wait};
use super::{Node, Output};
use crate::api::{Request, Response, ResponseBody};
use crate::command::CommandId;
use crate::error::Error;
use crate::types::MemberId;

impl Node {
    /// Sends a request to the leader, or keeps it until there is one.
    pub(super) fn forward(&mut self, id: u64, pending: Pending) {
        let request = pending.request.clone();
        self.requests.insert(id, Pending { wait: Wait::Forwarded, leader: self.leader, ..pending });
        self.send_forward(id, request);
    }

    fn send_forward(&mut self, id: u64, request: Request) {
        let id = CommandId { origin: self.config.member_id, boot: self.config.boot, seq: id };
        self.send(self.leader, &PeerMessage::Forward { id, request });
    }

    /// After a change of leader: asks the new one, or answers here if that is this member.
    pub(super) fn forward_again(&mut self) {
        if self.leader == 0 {
            return;
        }
        for id in self.requests.waiting(|wait| *wait == Wait::Forwarded) {
            if self.is_leader() {
                if let Some(pending) = self.requests.remove(id) {
                    self.take_over(id, pending);
                }
            } else if let Some(pending) = self.requests.get_mut(id) {
                pending.leader = self.leader;
                let request = pending.request.clone();
                self.send_forward(id, request);
            }
        }
    }

    fn take_over(&mut self, id: u64, pending: Pending) {
        match pending.request {
            Request::MemberPromote { .. } => {
                self.change_membership(id, Pending { wait: Wait::Apply, ..pending });
            }
            _ => self.read(id, Pending { wait: Wait::Read, ..pending }),
        }
    }

    /// On the leader: a follower's request becomes one of this member's, whose reply goes back.
    pub(super) fn handle_forward(&mut self, from: MemberId, origin: CommandId, request: Request) {
        let allowed = matches!(
            request,
            Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. } | Request::MemberPromote { .. }
        );
        if !allowed || !self.is_leader() || origin.origin != from {
            return;
        }
        let id = self.routing.next_internal();
        self.forwarded.insert(id, origin);
        self.handle_request(id, request, None);
    }

    /// The reply to a follower's request goes to the follower.
    pub(super) fn reply_forwarded(&mut self, id: u64, result: Result<Response, Error>) {
        assert!(id >= INTERNAL_ID, "clients' ids are below the node's own");
        let Some(origin) = self.forwarded.remove(&id) else { return };
        let result = result.map(|response| response.body);
        self.send(origin.origin, &PeerMessage::ForwardReply { id: origin, result });
    }

    pub(super) fn handle_forward_reply(&mut self, id: CommandId, result: Result<ResponseBody, Error>) {
        let ours = id.origin == self.config.member_id && id.boot == self.config.boot;
        if ours && self.requests.get(id.seq).is_some_and(|pending| pending.wait == Wait::Forwarded) {
            // The leader lost its place between the request and the answer: the next one is asked.
            if result == Err(Error::LeaderChanged) || result == Err(Error::NotLeader) {
                return;
            }
            self.finish(id.seq, result);
        }
    }

    pub(super) fn emit_reply(&mut self, id: u64, result: Result<Response, Error>) {
        if id >= INTERNAL_ID {
            self.reply_forwarded(id, result);
        } else {
            self.emit(Output::Reply { id, result });
        }
    }
}
