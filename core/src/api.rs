//! Requests and responses as the core sees them: etcd's v3 API (inventory A.1) in plain Rust types.
//!
//! `net` converts between these and protobuf; nothing here knows the wire. Field meanings are
//! etcd's unless a comment says otherwise.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{ClusterId, KeyRange, KeyValue, LeaseId, MemberId, Term};
pub use crate::watch::{WatchBatch, WatchEvents, WatchResponse};

/// The header of every response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The cluster that answered.
    pub cluster_id: ClusterId,
    /// The member that answered.
    pub member_id: MemberId,
    /// The store's revision when the request was answered; 0 where etcd leaves it out.
    pub revision: i64,
    /// The answering member's Raft term.
    pub raft_term: Term,
}

/// Order of a range's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortOrder {
    /// As the target says: ascending.
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// What a range is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortTarget {
    /// The key's bytes.
    #[default]
    Key,
    /// The version.
    Version,
    /// The create revision.
    Create,
    /// The mod revision.
    Mod,
    /// The value's bytes.
    Value,
}

/// Reads keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RangeRequest {
    pub key: Bytes,
    pub range_end: Bytes,
    pub limit: i64,
    pub revision: i64,
    pub sort_order: SortOrder,
    pub sort_target: SortTarget,
    pub serializable: bool,
    pub keys_only: bool,
    pub count_only: bool,
    pub min_mod_revision: i64,
    pub max_mod_revision: i64,
    pub min_create_revision: i64,
    pub max_create_revision: i64,
}

impl RangeRequest {
    /// The keys that the request names.
    pub fn range(&self) -> KeyRange {
        KeyRange::new(self.key.clone(), self.range_end.clone())
    }
}

/// The rows of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RangeResponse {
    pub kvs: Vec<KeyValue>,
    pub more: bool,
    pub count: i64,
}

/// Writes a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PutRequest {
    pub key: Bytes,
    pub value: Bytes,
    pub lease: LeaseId,
    pub prev_kv: bool,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

/// The reply to a put.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PutResponse {
    pub prev_kv: Option<KeyValue>,
}

/// Deletes keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DeleteRangeRequest {
    pub key: Bytes,
    pub range_end: Bytes,
    pub prev_kv: bool,
}

impl DeleteRangeRequest {
    /// The keys that the request names.
    pub fn range(&self) -> KeyRange {
        KeyRange::new(self.key.clone(), self.range_end.clone())
    }
}

/// The reply to a delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DeleteRangeResponse {
    pub deleted: i64,
    pub prev_kvs: Vec<KeyValue>,
}

/// How a compare relates the stored value to the given one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum CompareResult {
    #[default]
    Equal,
    Greater,
    Less,
    NotEqual,
}

/// What a compare looks at, with the value to compare against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum CompareTarget {
    Version(i64),
    Create(i64),
    Mod(i64),
    Value(Bytes),
    Lease(i64),
}

/// One condition of a transaction; with a `range_end`, every key of the range must satisfy it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Compare {
    pub result: CompareResult,
    pub target: CompareTarget,
    pub key: Bytes,
    pub range_end: Bytes,
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum RequestOp {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
}

/// The reply to one operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ResponseOp {
    Range(RangeResponse),
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
}

/// If all compares hold, `success`, else `failure`; atomically.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TxnRequest {
    pub compare: Vec<Compare>,
    pub success: Vec<RequestOp>,
    pub failure: Vec<RequestOp>,
}

/// The reply to a transaction. `revision` is what etcd puts into the headers of nested responses:
/// the revision of the store after the transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TxnResponse {
    pub revision: i64,
    pub succeeded: bool,
    pub responses: Vec<ResponseOp>,
}

/// What a watch stream must not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum WatchFilter {
    NoPut,
    NoDelete,
}

/// Starts a watcher on a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct WatchCreateRequest {
    pub key: Bytes,
    pub range_end: Bytes,
    pub start_revision: i64,
    pub progress_notify: bool,
    pub filters: Vec<WatchFilter>,
    pub prev_kv: bool,
    pub watch_id: i64,
    pub fragment: bool,
}

/// The two alarms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum AlarmKind {
    NoSpace,
    Corrupt,
}

/// What to do with alarms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum AlarmAction {
    Get,
    Activate,
    Deactivate,
}

/// Lists, raises or clears alarms. `alarm` of `None` means all kinds; `member_id` 0 all members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct AlarmRequest {
    pub action: AlarmAction,
    pub member_id: MemberId,
    pub alarm: Option<AlarmKind>,
}

/// An active alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct AlarmMember {
    pub member_id: MemberId,
    pub alarm: AlarmKind,
}

/// A member of the cluster, started or not (an unstarted one has no name).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Member {
    pub id: MemberId,
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

/// Everything that a driver may ask of a [`crate::node::Node`] on behalf of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Request {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact { revision: i64, physical: bool },
    LeaseGrant { id: LeaseId, ttl: i64 },
    LeaseRevoke { id: LeaseId },
    LeaseKeepAlive { id: LeaseId },
    LeaseTimeToLive { id: LeaseId, keys: bool },
    LeaseLeases,
    MemberAdd { peer_urls: Vec<String>, is_learner: bool, unix_seconds: u64 },
    MemberRemove { id: MemberId },
    MemberUpdate { id: MemberId, peer_urls: Vec<String> },
    MemberPromote { id: MemberId },
    MemberList { linearizable: bool },
    Alarm(AlarmRequest),
    Status,
    Defragment,
    HashKv { revision: i64 },
    Hash,
    MoveLeader { target: MemberId },
    Snapshot,
}

/// The body of a reply; the variant answers the request of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ResponseBody {
    Range(RangeResponse),
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact,
    LeaseGrant {
        id: LeaseId,
        ttl: i64,
    },
    LeaseRevoke,
    /// `ttl` 0: the lease does not exist or has expired.
    LeaseKeepAlive {
        id: LeaseId,
        ttl: i64,
    },
    /// `ttl` -1: the lease does not exist.
    LeaseTimeToLive {
        id: LeaseId,
        ttl: i64,
        granted_ttl: i64,
        keys: Vec<Bytes>,
    },
    LeaseLeases {
        leases: Vec<LeaseId>,
    },
    MemberAdd {
        member: Member,
        members: Vec<Member>,
    },
    /// Answers MemberRemove, MemberUpdate, MemberPromote and MemberList.
    Members {
        members: Vec<Member>,
    },
    Alarm {
        alarms: Vec<AlarmMember>,
    },
    Status(StatusResponse),
    Defragment,
    HashKv {
        hash: u32,
        compact_revision: i64,
        hash_revision: i64,
    },
    Hash {
        hash: u32,
    },
    MoveLeader,
    /// A pinned view is ready: the driver takes it with [`crate::node::Node::take_view`].
    Snapshot {
        view: u64,
    },
}

/// A reply with its header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Response {
    pub header: Header,
    pub body: ResponseBody,
}

/// A member's own view of itself (etcd's StatusResponse).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct StatusResponse {
    pub db_size: i64,
    pub db_size_in_use: i64,
    pub db_size_quota: i64,
    pub leader: MemberId,
    pub raft_index: u64,
    pub raft_term: Term,
    pub raft_applied_index: u64,
    pub errors: Vec<String>,
    pub is_learner: bool,
}
