//! What lock and election share: a queue of keys under a prefix, ordered by create revision, where
//! the oldest key holds (inventory A.9). The layout is that of etcd's client recipes, so holders on
//! both sides see each other.
//!
//! A contender runs in a task of its own, so that a client that goes away can be cleaned up after at
//! any point: its key leaves the queue and the lease that was granted for it is revoked.
//!
//! Invariant: a contender deletes only a key that it created itself, recognised by its create
//! revision.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use cairn_core::api::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, Header, PutRequest, RangeRequest,
    RangeResponse, Request, RequestOp, ResponseBody, ResponseOp, SortOrder, SortTarget, TxnRequest,
    TxnResponse, WatchBatch, WatchCreateRequest, WatchFilter, WatchResponse,
};
use cairn_core::error::Error;
use cairn_core::types::{EventKind, LeaseId};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::handle::{Call, Handle, StreamId};

/// The TTL in seconds of the lease that a contender without one is given.
const SESSION_TTL: i64 = 60;
/// How often such a lease is renewed while its contender waits.
const RENEWAL: Duration = Duration::from_secs(SESSION_TTL as u64 / 3);

/// etcd reports every failure of these services as unknown, with the raw text.
pub(super) fn unknown(error: Error) -> Status {
    Status::unknown(error.to_string())
}

/// A watch stream of this member that closes itself when dropped.
#[derive(Debug)]
pub(super) struct Watcher {
    handle: Handle,
    stream: StreamId,
    responses: mpsc::UnboundedReceiver<WatchBatch>,
}

impl Watcher {
    pub(super) fn open(handle: &Handle) -> Result<Self, Error> {
        let (out, responses) = mpsc::unbounded_channel();
        let stream = handle.next_stream();
        handle.submit(Call::WatchOpen { stream, out })?;
        Ok(Self { handle: handle.clone(), stream, responses })
    }

    /// The stream's name.
    pub(super) fn stream(&self) -> StreamId {
        self.stream
    }

    pub(super) fn create(&self, request: WatchCreateRequest) -> Result<(), Error> {
        self.handle.submit(Call::WatchCreate { stream: self.stream, request })
    }

    /// Gives back the credit of so many responses.
    pub(super) fn credit(&self, responses: u32) -> Result<(), Error> {
        self.handle.submit(Call::WatchCredit { stream: self.stream, responses })
    }

    /// The next responses; `None` when the member has stopped.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<WatchBatch>> {
        self.responses.poll_recv(context)
    }

    /// The next response of a stream with one watcher; waiting for it can be given up without losing
    /// one.
    pub(super) async fn next(&mut self) -> Result<WatchResponse, Error> {
        let batch = self.responses.recv().await.ok_or(Error::Stopped)?;
        debug_assert_eq!(batch.watch_ids.len(), 1, "a recipe's stream has one watcher");
        Ok(batch.response)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // A member that has stopped has no streams.
        let _ = self.handle.submit(Call::WatchClose { stream: self.stream });
    }
}

/// A holder's key, with the header of the request that made or confirmed it.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) header: Header,
    pub(super) key: Bytes,
    pub(super) create_revision: i64,
    pub(super) lease: LeaseId,
}

/// Who wants to hold, and for what.
#[derive(Clone, Debug)]
pub(super) struct Contender {
    pub(super) name: Bytes,
    /// 0: a lease is granted for the contender and renewed while it waits.
    pub(super) lease: LeaseId,
    /// What the key holds. `None` leaves an existing key's value alone and writes an empty one.
    pub(super) value: Option<Bytes>,
    /// What to say when the key is gone by the time it would hold.
    pub(super) expired: Error,
}

/// Waits until the contender holds. When the caller gives up, the contender leaves the queue.
pub(super) async fn contend(handle: &Handle, contender: Contender) -> Result<Held, Error> {
    let (answer, held) = oneshot::channel();
    tokio::spawn(run(handle.clone(), contender, answer));
    held.await.unwrap_or(Err(Error::Stopped))
}

async fn run(handle: Handle, contender: Contender, mut answer: oneshot::Sender<Result<Held, Error>>) {
    let granted = match contender.lease {
        0 => match grant(&handle).await {
            Ok(lease) => Some(lease),
            Err(error) => {
                let _ = answer.send(Err(error));
                return;
            }
        },
        _ => None,
    };
    let lease = granted.unwrap_or(contender.lease);
    // The entry is never abandoned half way: its key must be known to be removed.
    let entered = enter(&handle, &contender, lease).await;
    let outcome = match &entered {
        Err(error) => Some(Err(error.clone())),
        Ok(entry) => tokio::select! {
            outcome = wait(&handle, &contender, entry) => Some(outcome),
            error = renew(&handle, granted, &contender) => Some(Err(error)),
            () = answer.closed() => None,
        },
    };
    let holds = match outcome {
        Some(Ok(held)) => answer.send(Ok(held)).is_ok(),
        Some(Err(error)) => {
            let _ = answer.send(Err(error));
            false
        }
        None => false,
    };
    if !holds {
        leave(&handle, granted, entered.ok()).await;
    }
}

/// A contender's place in the queue.
#[derive(Debug)]
struct Entry {
    header: Header,
    prefix: Bytes,
    key: Bytes,
    create_revision: i64,
    lease: LeaseId,
    created: bool,
}

async fn grant(handle: &Handle) -> Result<LeaseId, Error> {
    let reply = handle.request(Request::LeaseGrant { id: 0, ttl: SESSION_TTL }, None).await?;
    match reply.response.body {
        ResponseBody::LeaseGrant { id, .. } => Ok(id),
        _ => Err(unexpected()),
    }
}

/// Renews the lease that was granted for the contender; returns when it is lost.
async fn renew(handle: &Handle, granted: Option<LeaseId>, contender: &Contender) -> Error {
    let Some(id) = granted else { return std::future::pending().await };
    loop {
        tokio::time::sleep(RENEWAL).await;
        // A failed renewal may succeed a little later; a TTL of 0 is final.
        if let Ok(reply) = handle.request(Request::LeaseKeepAlive { id }, None).await
            && matches!(reply.response.body, ResponseBody::LeaseKeepAlive { ttl: ..=0, .. })
        {
            return contender.expired.clone();
        }
    }
}

/// Puts the contender's key unless its lease already has one there.
async fn enter(handle: &Handle, contender: &Contender, lease: LeaseId) -> Result<Entry, Error> {
    let prefix = prefix(&contender.name);
    let key = lease_key(&prefix, lease);
    let value = contender.value.clone().unwrap_or_default();
    let (header, txn) = txn(
        handle,
        TxnRequest {
            compare: vec![created_at(key.clone(), 0)],
            success: vec![put(key.clone(), value, lease)],
            failure: vec![RequestOp::Range(RangeRequest { key: key.clone(), ..RangeRequest::default() })],
        },
    )
    .await?;
    let mut entry =
        Entry { header, prefix, key, create_revision: header.revision, lease, created: txn.succeeded };
    if txn.succeeded {
        return Ok(entry);
    }
    let Some(ResponseOp::Range(rows)) = txn.responses.into_iter().next() else { return Err(unexpected()) };
    let Some(row) = rows.kvs.into_iter().next() else { return Err(unexpected()) };
    entry.create_revision = row.create_revision;
    if let Some(value) = &contender.value
        && *value != row.value
    {
        proclaim(handle, entry.key.clone(), entry.create_revision, lease, value.clone()).await?;
    }
    Ok(entry)
}

/// Waits until the contender's key is the oldest under its prefix, and checks that it still exists.
async fn wait(handle: &Handle, contender: &Contender, entry: &Entry) -> Result<Held, Error> {
    let held = |header| Held {
        header,
        key: entry.key.clone(),
        create_revision: entry.create_revision,
        lease: entry.lease,
    };
    let mut waited = false;
    loop {
        let (header, rows) = range(
            handle,
            RangeRequest {
                key: entry.prefix.clone(),
                range_end: prefix_end(&entry.prefix),
                limit: 1,
                sort_order: SortOrder::Descend,
                sort_target: SortTarget::Create,
                max_create_revision: entry.create_revision - 1,
                ..RangeRequest::default()
            },
        )
        .await?;
        let Some(ahead) = rows.kvs.into_iter().next() else {
            if !waited {
                return Ok(held(entry.header));
            }
            let own = RangeRequest { key: entry.key.clone(), ..RangeRequest::default() };
            let (header, rows) = range(handle, own).await?;
            let exists = rows.kvs.first().is_some_and(|row| row.create_revision == entry.create_revision);
            return if exists { Ok(held(header)) } else { Err(contender.expired.clone()) };
        };
        waited = true;
        until_deleted(handle, ahead.key, header.revision + 1).await?;
    }
}

/// Waits for the deletion of `key` at or after `revision`, or for the history to be compacted away,
/// after which the caller looks again.
async fn until_deleted(handle: &Handle, key: Bytes, revision: i64) -> Result<(), Error> {
    let mut watcher = Watcher::open(handle)?;
    watcher.create(WatchCreateRequest {
        key,
        start_revision: revision,
        filters: vec![WatchFilter::NoPut],
        ..WatchCreateRequest::default()
    })?;
    loop {
        let response = watcher.next().await?;
        watcher.credit(1)?;
        if response.events.iter().any(|event| event.kind == EventKind::Delete) {
            return Ok(());
        }
        if canceled(&response)? {
            return Ok(());
        }
    }
}

/// Whether the watcher ended because its revision was compacted.
///
/// # Errors
/// It ended for any other reason.
pub(super) fn canceled(response: &WatchResponse) -> Result<bool, Error> {
    if !response.canceled {
        return Ok(false);
    }
    if response.compact_revision > 0 { Ok(true) } else { Err(Error::Other(response.cancel_reason.clone())) }
}

/// Takes a contender out of the queue. Failures are ignored: the lease ends in time.
async fn leave(handle: &Handle, granted: Option<LeaseId>, entry: Option<Entry>) {
    if let Some(id) = granted {
        let _ = handle.request(Request::LeaseRevoke { id }, None).await;
    } else if let Some(entry) = entry.filter(|entry| entry.created) {
        let _ = resign(handle, entry.key, entry.create_revision).await;
    }
}

/// Writes a holder's value, if it still holds.
///
/// # Errors
/// "election: not leader" when the key is gone or is another holder's.
pub(super) async fn proclaim(
    handle: &Handle,
    key: Bytes,
    create_revision: i64,
    lease: LeaseId,
    value: Bytes,
) -> Result<Header, Error> {
    let guarded = TxnRequest {
        compare: vec![created_at(key.clone(), create_revision)],
        success: vec![put(key, value, lease)],
        failure: Vec::new(),
    };
    let (header, txn) = txn(handle, guarded).await?;
    if txn.succeeded { Ok(header) } else { Err(Error::Other("election: not leader".to_owned())) }
}

/// Deletes a holder's key, if it is still the one that was created at `create_revision`.
pub(super) async fn resign(handle: &Handle, key: Bytes, create_revision: i64) -> Result<Header, Error> {
    let delete = DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() };
    let guarded = TxnRequest {
        compare: vec![created_at(key, create_revision)],
        success: vec![RequestOp::DeleteRange(delete)],
        failure: Vec::new(),
    };
    Ok(txn(handle, guarded).await?.0)
}

/// The oldest key under the prefix of `name`, which holds.
pub(super) async fn oldest(handle: &Handle, prefix: &Bytes) -> Result<(Header, RangeResponse), Error> {
    let request = RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend,
        sort_target: SortTarget::Create,
        ..RangeRequest::default()
    };
    range(handle, request).await
}

/// Where the keys of `name` are.
pub(super) fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The end of the range of keys with `prefix`, which ends with a slash.
pub(super) fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// The key of a lease: the prefix and the lease in hexadecimal, with a sign as Go writes it.
fn lease_key(prefix: &[u8], lease: LeaseId) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

fn created_at(key: Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal,
        target: CompareTarget::Create(revision),
        key,
        range_end: Bytes::new(),
    }
}

fn put(key: Bytes, value: Bytes, lease: LeaseId) -> RequestOp {
    RequestOp::Put(PutRequest { key, value, lease, ..PutRequest::default() })
}

async fn txn(handle: &Handle, request: TxnRequest) -> Result<(Header, TxnResponse), Error> {
    let response = handle.request(Request::Txn(request), None).await?.response;
    match response.body {
        ResponseBody::Txn(txn) => Ok((response.header, txn)),
        _ => Err(unexpected()),
    }
}

async fn range(handle: &Handle, request: RangeRequest) -> Result<(Header, RangeResponse), Error> {
    let response = handle.request(Request::Range(request), None).await?.response;
    match response.body {
        ResponseBody::Range(rows) => Ok((response.header, rows)),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> Error {
    Error::Other("cairn: a reply does not answer its request".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_as_etcds_recipes_name_them() {
        let prefix = prefix(b"el");
        assert_eq!(lease_key(&prefix, 77).as_ref(), b"el/4d");
        assert_eq!(lease_key(&prefix, 0x7133_a1fb_5a70_fe0b).as_ref(), b"el/7133a1fb5a70fe0b");
        assert_eq!(lease_key(&prefix, -77).as_ref(), b"el/-4d");
        assert_eq!(prefix_end(&prefix).as_ref(), b"el0");
    }
}
