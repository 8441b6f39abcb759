//! Lock and election between contenders, and what they leave behind.

use tonic::Code;

use super::*;
use crate::proto::v3electionpb as el;
use crate::proto::v3lockpb as lk;
use el::election_client::ElectionClient;
use lk::lock_client::LockClient;

fn lock(lease: i64) -> lk::LockRequest {
    lk::LockRequest { name: "l".into(), lease }
}

fn campaign(lease: i64, value: &str) -> el::CampaignRequest {
    el::CampaignRequest { name: "e".into(), lease, value: value.to_owned().into() }
}

fn unknown<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> String {
    let status = result.unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    status.message().to_owned()
}

async fn with_leases() -> Served {
    let served = serve().await;
    served.member.state.lock().unwrap().leases.extend([77, 78]);
    served
}

#[tokio::test]
async fn the_second_contender_holds_the_lock_after_the_first() {
    let served = with_leases().await;
    let mut client = LockClient::new(served.channel.clone());
    let first = client.lock(lock(77)).await.unwrap().into_inner();
    assert_eq!(first.key.as_ref(), b"l/4d");
    assert_eq!(first.header.unwrap().revision, 2);
    // The same lease holds already.
    assert_eq!(client.lock(lock(77)).await.unwrap().into_inner().key, first.key);

    let mut other = client.clone();
    let second = tokio::spawn(async move { other.lock(lock(78)).await });
    served.member.until(|state| !state.watchers.is_empty()).await;
    assert!(!second.is_finished());
    client.unlock(lk::UnlockRequest { key: first.key }).await.unwrap();
    assert_eq!(second.await.unwrap().unwrap().into_inner().key.as_ref(), b"l/4e");
    assert_eq!(served.member.keys(), ["l/4e"]);
    served.member.until(|state| state.streams.is_empty()).await;
}

#[tokio::test]
async fn a_contender_that_goes_away_leaves_the_queue() {
    let served = with_leases().await;
    let mut client = LockClient::new(served.channel.clone());
    client.lock(lock(77)).await.unwrap();
    for lease in [78, 0] {
        let mut other = client.clone();
        let waiting = tokio::spawn(async move { other.lock(lock(lease)).await });
        served.member.until(|state| state.keys.len() == 2 && !state.watchers.is_empty()).await;
        waiting.abort();
        served.member.until(|state| state.keys.len() == 1 && state.watchers.is_empty()).await;
    }
    // The lease of the one without was revoked, those of the clients were not.
    assert_eq!(served.member.keys(), ["l/4d"]);
    served.member.until(|state| state.leases.iter().eq(&[77, 78])).await;
}

#[tokio::test]
async fn a_contender_whose_lease_ends_does_not_hold() {
    let served = with_leases().await;
    let mut client = LockClient::new(served.channel.clone());
    let first = client.lock(lock(77)).await.unwrap().into_inner();
    let mut other = client.clone();
    let second = tokio::spawn(async move { other.lock(lock(78)).await });
    served.member.until(|state| !state.watchers.is_empty()).await;
    served.member.delete("l/4e");
    client.unlock(lk::UnlockRequest { key: first.key }).await.unwrap();
    assert_eq!(unknown(second.await.unwrap()), "mutex: session is expired");
    assert_eq!(unknown(client.lock(lock(5)).await), "etcdserver: requested lease not found");
    let unlock = client.unlock(lk::UnlockRequest::default()).await;
    assert_eq!(unknown(unlock), "etcdserver: key is not provided");
}

#[tokio::test]
async fn a_lock_without_a_lease_is_given_one() {
    let served = serve().await;
    let mut client = LockClient::new(served.channel.clone());
    let held = client.lock(lock(0)).await.unwrap().into_inner();
    assert_eq!(held.key.as_ref(), b"l/7000");
    assert!(served.member.state.lock().unwrap().leases.contains(&0x7000));
}

#[tokio::test]
async fn a_leader_is_elected_proclaims_and_resigns() {
    let served = with_leases().await;
    let mut client = ElectionClient::new(served.channel.clone());
    let name = el::LeaderRequest { name: "e".into() };
    assert_eq!(unknown(client.leader(name.clone()).await), "election: no leader");

    let won = client.campaign(campaign(77, "v1")).await.unwrap().into_inner();
    let key = won.leader.unwrap();
    assert_eq!((key.name.as_ref(), key.key.as_ref()), (b"e".as_slice(), b"e/4d".as_slice()));
    assert_eq!((key.rev, key.lease, won.header.unwrap().revision), (2, 77, 2));
    // Campaigning again proclaims the new value under the same key.
    let again = client.campaign(campaign(77, "v2")).await.unwrap().into_inner();
    assert_eq!(again.leader.as_ref(), Some(&key));
    let leader = client.leader(name.clone()).await.unwrap().into_inner().kv.unwrap();
    assert_eq!((leader.value.as_ref(), leader.create_revision, leader.lease), (b"v2".as_slice(), 2, 77));

    let stale = el::LeaderKey { rev: 1, ..key.clone() };
    let proclaim = |leader| el::ProclaimRequest { leader, value: "v3".into() };
    assert_eq!(unknown(client.proclaim(proclaim(Some(stale.clone()))).await), "election: not leader");
    let missing = "\"leader\" field must be provided";
    assert_eq!(unknown(client.proclaim(proclaim(None)).await), missing);
    assert_eq!(unknown(client.resign(el::ResignRequest { leader: None }).await), missing);
    client.proclaim(proclaim(Some(key.clone()))).await.unwrap();

    client.resign(el::ResignRequest { leader: Some(stale) }).await.unwrap();
    assert_eq!(served.member.keys(), ["e/4d"]);
    client.resign(el::ResignRequest { leader: Some(key) }).await.unwrap();
    assert!(served.member.keys().is_empty());
}

#[tokio::test]
async fn an_observer_sees_every_leader_and_every_proclamation() {
    let served = with_leases().await;
    let mut client = ElectionClient::new(served.channel.clone());
    let mut changes = client.observe(el::LeaderRequest { name: "e".into() }).await.unwrap().into_inner();
    let first = client.campaign(campaign(77, "one")).await.unwrap().into_inner().leader;
    let proclaim = el::ProclaimRequest { leader: first.clone(), value: "two".into() };
    let mut other = client.clone();
    let second = tokio::spawn(async move { other.campaign(campaign(78, "three")).await });
    served.member.until(|state| state.keys.len() == 2).await;
    client.proclaim(proclaim).await.unwrap();
    client.resign(el::ResignRequest { leader: first }).await.unwrap();
    second.await.unwrap().unwrap();
    for value in ["one", "two", "three"] {
        let change = changes.message().await.unwrap().unwrap();
        assert_eq!(change.kv.unwrap().value, value.as_bytes());
        assert_eq!(change.header.unwrap().member_id, 22);
    }
    drop(changes);
    served.member.until(|state| state.streams.is_empty()).await;
}
