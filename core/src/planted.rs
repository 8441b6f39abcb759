//! Planted bugs: mistakes that etcd, Raft implementations or file systems' users have really made, each
//! a switch at the line where the mistake would be. They prove that the simulator finds what it is for.
//!
//! Without the feature `planted`, which nothing but the simulator's own run of them turns on,
//! [`on`] is a constant false and the switches are compiled away.
//!
//! **Invariant:** at most one bug is on in a thread, and none unless [`plant`] was called there.

macro_rules! bugs {
    ($($name:ident: $what:literal;)*) => {
        /// A mistake that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $(#[doc = $what] $name,)*
        }

        impl Bug {
            /// All of them, in the order of the documentation's table.
            pub const ALL: &[Bug] = &[$(Bug::$name,)*];

            /// What is wrong, in a sentence.
            pub fn what(self) -> &'static str {
                match self {
                    $(Bug::$name => $what,)*
                }
            }
        }
    };
}

bugs! {
    AckBeforeFsync: "a follower acknowledges entries before they are durable";
    VoteNotPersisted: "a vote is given and not written (Raft 5.2)";
    TermNotPersisted: "a term without entries is not written";
    CommitOldTerm: "an entry of an earlier term is committed by counting copies (Raft 5.4.2)";
    WalWithoutSync: "the log is written and not synced (etcd 14370)";
    WalWithoutDirectorySync: "a new segment's name is not synced";
    ReleaseUnflushed: "the log forgets entries that the backend has not got yet";
    CommitWithoutQuorum: "a leader commits what it has written itself";
    ForgetVoteAnswer: "a message that was held for a sync is forgotten";
    SnapshotFailureIgnored: "a failed snapshot is never reported to Raft";
    SnapshotKeepsApplied: "after a snapshot the member goes on from its own applied index (etcd PR 13933)";
    SnapshotForgetsLeases: "leases are not loaded from a snapshot that was installed";
    JoinedAppendGap: "appends are joined although entries between them are missing";
    RemovedLeaderLeads: "a leader that was removed goes on leading";
    ReadWithoutQuorum: "a leader answers a read without asking whether it still leads";
    ReadContextReused: "a retried read index uses its context again (etcd 20418)";
    ReadBeforeApplied: "a confirmed read does not wait until its index is applied";
    ReadIndexTooLow: "a follower's read is told the leader's applied index of an earlier moment";
    FollowerReadsLocally: "a follower answers linearizable reads from what it has";
    ReadBeforeOwnTerm: "a new leader answers reads before it has committed in its term (etcd PR 21378)";
    AckBeforeCommit: "a leader answers a put when it is proposed";
    TimeoutAsRefusal: "a request without an answer is told to have been refused";
    ProposeAgain: "what the last leader did not answer is proposed again to the next";
    ProposeHidden: "what was applied unseen, in a snapshot, is proposed again to the next leader";
    DuplicateProposals: "a message with a proposal that comes twice becomes two entries";
    RefuseAccepted: "the copy of an accepted proposal is refused";
    RequestsWaitForever: "requests have no deadline";
    AppliedBehindData: "the applied index on disk is older than the data beside it (etcd 13766)";
    AppliedAheadOfData: "the applied index on disk is newer than the data beside it (etcd 13766)";
    RevisionNotFlushed: "the revision on disk is that of the flush before (etcd 14685)";
    TxnInPart: "a transaction that fails has done what came before the failure (etcd PR 18799)";
    FollowersSkipTxnReads: "followers do not look at a transaction's reads, nor at their errors (etcd 18667)";
    VersionSurvivesDelete: "a key that is created again counts its versions on";
    DeleteRangeMissesLast: "a deletion of a range leaves its last key";
    CompactLosesTombstone: "a deletion at the compact revision is removed (etcd 18089, 19179)";
    CompactLosesLatest: "a compaction that ends a batch removes the newest version of a key (etcd 17780)";
    CompactNotChecked: "reads below the compact revision are answered";
    CompactBeforeFlush: "rows are removed for a compaction that is not durable";
    AlarmNotStored: "an alarm is forgotten by a restart (etcd PR 14429)";
    MemberNotStored: "a change of membership is kept in memory only (etcd 19557)";
    LeaseNotLoaded: "a restart misses the last lease (etcd PR 14239)";
    LeaseKeepsKeys: "a revoked lease leaves its keys";
    LeaseExpiresOnPromotion: "a new leader counts leases from zero instead of their TTL";
    OldLeaderRevokes: "a member that lost leadership still ends leases (etcd 15247)";
    RenewExpired: "an expired lease is renewed while its end is under way (etcd 15247)";
    RenewRevoked: "a renewal of a lease that is gone succeeds (etcd PR 20615)";
    WatchProgressOvertakes: "a progress notification overtakes events (etcd 15220)";
    WatchReplaysAfterSnapshot: "after a snapshot watchers are sent old events again (etcd 15271)";
    WatchGapAfterSnapshot: "after a snapshot watchers miss what happened meanwhile";
    WatchFutureGetsOld: "a watcher of a future revision gets older events (etcd 20221)";
    WatchGapAfterCompaction: "a slow watcher that a compaction overtook goes on behind it (etcd 17529)";
    WatchRepeatsEvent: "a watcher that catches up is sent its last event again (etcd 17247)";
    WatchSplitsRevision: "a batch ends in the middle of a revision";
    WatchPrevWrong: "prev_kv is left out while a watcher catches up";
    WatchFilterIgnored: "a watcher's filter of deletions is ignored";
    WalCutsAtRot: "a log that rotted in its last segment is cut there (CTRL, FAST'18)";
    DefragmentLosesRows: "a defragmentation copies what was there before the last commit";
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in this thread, or takes it away.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether a bug is planted.
#[cfg(feature = "planted")]
pub fn on(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether a bug is planted: never, in a build that is not for that.
#[cfg(not(feature = "planted"))]
pub const fn on(_: Bug) -> bool {
    false
}

/// Runs something as if no bug were planted.
pub fn without<T>(run: impl FnOnce() -> T) -> T {
    #[cfg(feature = "planted")]
    let planted = PLANTED.take();
    let done = run();
    #[cfg(feature = "planted")]
    PLANTED.set(planted);
    done
}
