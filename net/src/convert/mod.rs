//! The bridge between the wire's messages and the core's types.
//!
//! Requests convert both ways, because the server reads what the client and the proxies write;
//! responses convert towards the wire only. A conversion moves bytes and never copies them, adds no
//! policy and validates only what the core's types cannot express: enum numbers outside the
//! definition and oneofs that are not set.
//!
//! Invariant: `to_core(to_wire(x)) == x` for every request.

mod cluster;
mod kv;
mod lease;
mod maintenance;
mod watch;

#[cfg(test)]
mod tests;

use cairn_core::api::Header;
use cairn_core::error::Error;
use tonic::{Code, Status};

pub use self::cluster::{member, members};
pub use self::kv::{
    compare, delete_range_request, delete_range_response, key_value, put_request, put_response,
    range_request, range_response, request_op, txn_request, txn_response,
};
pub use self::lease::leases;
pub use self::maintenance::{alarm_members, alarm_request, status_response};
pub use self::watch::{event, watch_create_request, watch_response_rest};

use crate::proto::etcdserverpb as pb;

/// A response header.
pub fn header(header: Header) -> pb::ResponseHeader {
    pb::ResponseHeader {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: header.revision,
        raft_term: header.raft_term,
    }
}

/// The status that etcd would send for `error`: clients match on the text.
pub fn status(error: Error) -> Status {
    Status::new(Code::from_i32(error.code() as i32), error.to_string())
}
