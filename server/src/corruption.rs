//! Compares the members' data by their hashes (`InitialCorruptCheck`, `--corrupt-check-time`,
//! `CompactHashCheck`): before a member serves, and on the leader again and again.
//!
//! Two hashes are compared only if they cover the same history after the same compaction. A member that
//! does not answer, is behind, or has compacted further is not judged: no alarm is raised by a failure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_core::api::{AlarmAction, AlarmKind, AlarmMember, AlarmRequest, Request};
use cairn_core::mvcc::StoreView;
use cairn_core::node::{Role, Status};
use cairn_core::types::MemberId;
use cairn_net::handle::Handle;
use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::driver::{Peers, hex};
use crate::peer_calls::{Hash, other_members, own_hash, peer_hash};

/// How long a member that starts tries to reach a peer that does not answer.
const REACH_TIMEOUT: Duration = Duration::from_secs(1);
const REACH_RETRY: Duration = Duration::from_millis(50);

/// What the checks need.
#[derive(Clone)]
pub(crate) struct Checks {
    pub(crate) peers: Arc<Peers>,
    pub(crate) status: watch::Receiver<Status>,
    /// How long a hash may take.
    pub(crate) timeout: Duration,
}

type Answers = Vec<(MemberId, Result<Hash, String>)>;

impl Checks {
    async fn peer_hashes(&self, revision: i64) -> Answers {
        let peers = other_members(&self.status.borrow());
        let asked = peers.into_iter().map(|id| async move {
            (id, peer_hash(self.peers.transport(), id, revision, self.timeout).await)
        });
        join_all(asked).await
    }

    /// Compares the state that this member starts from with its peers'. A cluster that starts as a whole
    /// has nobody to ask, so silence does not stop the start.
    pub(crate) async fn initial(&self, view: &StoreView) -> Result<(), String> {
        let local = hex(self.status.borrow().member_id);
        tracing::info!("local-member-id" = local, "starting initial corruption check");
        let failed = |what: String| format!("{local} failed to fetch hash ({what})");
        let own =
            view.hash_kv(0).map_err(|fatal| failed(fatal.0))?.map_err(|error| failed(error.to_string()))?;
        let deadline = Instant::now() + REACH_TIMEOUT;
        let mut answers = self.peer_hashes(own.hash_revision).await;
        while answers.iter().any(|(_, answer)| answer.is_err()) && Instant::now() < deadline {
            tokio::time::sleep(REACH_RETRY).await;
            answers = self.peer_hashes(own.hash_revision).await;
        }
        let mut mismatches = 0;
        for (id, answer) in answers {
            let peer = hex(id);
            match answer {
                Err(error) => {
                    tracing::warn!("remote-peer-id" = peer, error, "cannot fetch hash from remote peer");
                }
                Ok(theirs) if theirs.compact_revision != own.compact_revision => tracing::warn!(
                    "remote-peer-id" = peer,
                    "local-member-compact-revision" = own.compact_revision,
                    "remote-peer-compact-revision" = theirs.compact_revision,
                    "found different compact revision values from remote peer"
                ),
                Ok(theirs) if theirs.hash != own.hash => {
                    tracing::warn!(
                        "remote-peer-id" = peer,
                        "local-member-revision" = own.hash_revision,
                        "local-member-hash" = own.hash,
                        "remote-peer-hash" = theirs.hash,
                        "found different hash values from remote peer"
                    );
                    mismatches += 1;
                }
                Ok(_) => {}
            }
        }
        if mismatches > 0 {
            return Err(format!("{local} found data inconsistency with peers"));
        }
        tracing::info!("local-member-id" = local, "initial corruption checking passed; no corruption");
        Ok(())
    }

    /// Starts the comparisons that are configured to go on.
    pub(crate) fn spawn(self, config: &Config, handle: &Handle) -> Vec<JoinHandle<()>> {
        let mut tasks = Vec::new();
        if !config.corrupt_check_time.is_zero() {
            tasks.push(tokio::spawn(self.clone().monitor(handle.clone(), config.corrupt_check_time)));
        }
        if config.features.enabled("CompactHashCheck") {
            let interval = config.compact_hash_check_time;
            tasks.push(tokio::spawn(self.monitor_compactions(handle.clone(), interval)));
        }
        tasks
    }

    fn leads(&self) -> bool {
        self.status.borrow().role == Role::Leader
    }

    /// While this member leads, compares everything at its present revision every `interval`.
    async fn monitor(self, handle: Handle, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            if self.leads()
                && let Err(error) = self.compare_now(&handle).await
            {
                tracing::warn!(error, "failed to check hash KV");
            }
        }
    }

    async fn compare_now(&self, handle: &Handle) -> Result<(), String> {
        let before = own_hash(handle, 0).await?;
        let answers = self.peer_hashes(before.hash_revision).await;
        // Whoever is still the leader now has applied all that its followers have.
        let confirmed = handle.request(Request::MemberList { linearizable: true }, None).await;
        confirmed.map_err(|error| error.to_string())?;
        let after = own_hash(handle, 0).await?;
        let checked = answers.iter().filter(|(_, answer)| answer.is_ok()).count();
        let local = self.status.borrow().member_id;
        if let Some(suspect) = suspect(local, before, after, &answers) {
            self.accuse(handle, suspect).await?;
        }
        tracing::info!("number-of-peers-checked" = checked, "finished peer corruption check");
        Ok(())
    }

    /// While this member leads, compares what each compaction has left, looking every `interval`.
    async fn monitor_compactions(self, handle: Handle, interval: Duration) {
        let mut checked = 0;
        loop {
            tokio::time::sleep(interval).await;
            let compacted = self.status.borrow().compact_revision;
            if !self.leads() || compacted <= checked {
                continue;
            }
            match self.compare_compaction(&handle, compacted).await {
                Ok(true) => checked = compacted,
                Ok(false) => {}
                Err(error) => tracing::warn!(error, "failed to check the hash of a compaction"),
            }
        }
    }

    /// Whether all members could be compared.
    async fn compare_compaction(&self, handle: &Handle, revision: i64) -> Result<bool, String> {
        let own = own_hash(handle, revision).await?;
        let answers = self.peer_hashes(revision).await;
        let (local, voters) = {
            let status = self.status.borrow();
            (status.member_id, status.members.iter().filter(|member| !member.is_learner).count())
        };
        let asked = answers.len() + 1;
        let comparable: Vec<(MemberId, u32)> = std::iter::once((local, Ok(own)))
            .chain(answers)
            .filter_map(|(id, answer)| Some((id, answer.ok()?)))
            .filter(|(_, hash)| hash.compact_revision == revision)
            .map(|(id, hash)| (id, hash.hash))
            .collect();
        for suspect in minority(&comparable, voters / 2 + 1) {
            self.accuse(handle, suspect).await?;
        }
        Ok(comparable.len() == asked)
    }

    /// Raises the alarm for a member; 0 stands for one that cannot be told.
    async fn accuse(&self, handle: &Handle, member_id: MemberId) -> Result<(), String> {
        let alarm = AlarmMember { member_id, alarm: AlarmKind::Corrupt };
        if self.status.borrow().alarms.contains(&alarm) {
            return Ok(());
        }
        let request =
            AlarmRequest { action: AlarmAction::Activate, member_id, alarm: Some(AlarmKind::Corrupt) };
        let raised = handle.request(Request::Alarm(request), None).await;
        raised.map(drop).map_err(|error| error.to_string())
    }
}

/// The member whose data contradicts the leader's, by etcd's rules; `before` and `after` are the leader's
/// own hashes around those of the others, which cover the same revision as the first.
fn suspect(local: MemberId, before: Hash, after: Hash, answers: &Answers) -> Option<MemberId> {
    let unchanged =
        (before.hash_revision, before.compact_revision) == (after.hash_revision, after.compact_revision);
    if unchanged && before.hash != after.hash {
        tracing::warn!("revision" = before.hash_revision, "found hash mismatch");
        return Some(local);
    }
    let contradicts = |theirs: &Hash| {
        if theirs.revision > after.revision {
            Some("revision from follower must be less than or equal to leader's")
        } else if theirs.compact_revision > after.compact_revision {
            Some("compact revision from follower must be less than or equal to leader's")
        } else if theirs.compact_revision == before.compact_revision && theirs.hash != before.hash {
            Some("same compact revision then hashes must match")
        } else {
            None
        }
    };
    answers.iter().find_map(|(id, answer)| {
        let theirs = answer.as_ref().ok()?;
        let why = contradicts(theirs)?;
        tracing::warn!(
            "remote-peer-id" = hex(*id),
            "revision" = before.hash_revision,
            "leader-hash" = before.hash,
            "follower-hash" = theirs.hash,
            "{why}"
        );
        Some(*id)
    })
}

/// Who differs from what a quorum agrees on; nobody in particular (0) if there is no such quorum.
fn minority(hashes: &[(MemberId, u32)], quorum: usize) -> Vec<MemberId> {
    let votes = |hash: u32| hashes.iter().filter(|(_, other)| *other == hash).count();
    let Some((_, common)) = hashes.iter().max_by_key(|(_, hash)| votes(*hash)) else { return Vec::new() };
    if votes(*common) == hashes.len() {
        return Vec::new();
    }
    tracing::error!("hashes" = format!("{hashes:x?}"), "Detected compaction hash mismatch");
    if votes(*common) < quorum {
        return vec![0];
    }
    hashes.iter().filter(|(_, hash)| hash != common).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Hash = Hash { hash: 5, compact_revision: 3, hash_revision: 10, revision: 10 };

    fn judged(theirs: Result<Hash, String>) -> Option<MemberId> {
        // The leader has gone on meanwhile.
        let after = Hash { hash: 6, hash_revision: 12, revision: 12, ..OWN };
        suspect(1, OWN, after, &vec![(2, Ok(OWN)), (3, theirs)])
    }

    #[test]
    fn only_contradictions_raise_suspicion() {
        assert_eq!(judged(Ok(OWN)), None);
        assert_eq!(judged(Err("mvcc: required revision has been compacted".to_owned())), None);
        assert_eq!(
            judged(Ok(Hash { hash: 9, compact_revision: 2, ..OWN })),
            None,
            "after another compaction"
        );
        assert_eq!(judged(Ok(Hash { hash: 9, ..OWN })), Some(3));
        assert_eq!(judged(Ok(Hash { revision: 12, ..OWN })), None);
        assert_eq!(judged(Ok(Hash { revision: 13, ..OWN })), Some(3));
        assert_eq!(judged(Ok(Hash { compact_revision: 4, ..OWN })), Some(3));
        let none = Vec::new();
        assert_eq!(suspect(1, OWN, Hash { hash: 9, ..OWN }, &none), Some(1));
        assert_eq!(suspect(1, OWN, Hash { hash: 9, compact_revision: 4, ..OWN }, &none), None);
    }

    #[test]
    fn a_quorum_tells_who_is_wrong() {
        assert_eq!(minority(&[(1, 5), (2, 5), (3, 5)], 2), [0; 0]);
        assert_eq!(minority(&[(1, 5), (2, 5), (3, 9)], 2), [3]);
        assert_eq!(minority(&[(1, 9), (2, 5), (3, 5)], 2), [1], "the leader too");
        assert_eq!(minority(&[(1, 5), (3, 9)], 2), [0], "one member did not answer");
        assert_eq!(minority(&[(1, 5)], 2), [0; 0]);
    }
}
