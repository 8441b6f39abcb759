//! The two phases of a run: faults while every step is checked, then calm, in which the cluster has to
//! come to rest within bounds.

use std::collections::BTreeSet;

use cairn_core::node::Role;
use cairn_core::types::MemberId;

use crate::checker::{convergence, history};
use crate::cluster::Cluster;
use crate::options::{MS, SECOND};

/// The end of the liveness phase, from its beginning.
const LIVENESS: u64 = 90 * SECOND;
/// Rounds of elections in which there must be a leader: votes may be split, and the more often the fewer
/// members are left.
const ROUNDS: u64 = 5;
/// How soon after that all members that were healthy when the faults ended must be equal.
const EQUAL: u64 = 10 * SECOND;
/// One seed in this many is searched for linearizations, besides the faster checks.
const SEARCHED: u64 = 16;

impl Cluster {
    /// Runs a seed to its end.
    pub(crate) fn run(&mut self) {
        self.run_to(self.options.chaos);
        if self.violation.is_some() {
            return;
        }
        self.calm();
        let end = self.now + LIVENESS;
        if self.is_hopeless() {
            // What must follow is that nobody is told anything wrong, and that the disk is named.
            return self.run_to(end);
        }
        if !self.recover() || !self.converge(end) {
            return;
        }
        // Leases expire, deadlines pass, watchers catch up.
        self.run_to(self.now + 25 * SECOND);
        let end = self.now + LIVENESS;
        if self.converge(end)
            && let Err(what) = self.final_checks()
        {
            self.fail(what);
        }
        if self.violation.is_none() {
            let search = self.options.seed.is_multiple_of(SEARCHED);
            if let Err(violation) = history::check(&self.history, &self.model.replay, search)
                .and_then(|()| history::check_scripts(&self.scripts))
            {
                self.trace.record(|recorded| recorded.blamed = violation.operations.clone());
                self.fail(violation.to_string());
            }
        }
    }

    /// The bounds on recovery: a leader after a few rounds of elections, each of up to two election
    /// timeouts, and healthy members equal soon after.
    fn recover(&mut self) -> bool {
        let begin = self.now;
        let healthy: BTreeSet<MemberId> = self
            .members
            .values()
            .filter(|member| member.process.is_some() && member.damaged.is_none())
            .map(|member| member.id)
            .collect();
        let election = self.options.heartbeat.as_nanos() as u64 * self.options.election_ticks as u64;
        while !self.statuses().values().any(|status| status.role == Role::Leader) {
            // Without pre-votes, a member that is behind disturbs those who could win (seed 271).
            let rounds = if self.options.pre_vote { ROUNDS } else { 2 * ROUNDS };
            if self.now >= begin + rounds * 2 * election {
                self.fail(format!("liveness: no leader {} ms after the faults", (self.now - begin) / MS));
            }
            if self.violation.is_some() {
                return false;
            }
            self.run_to(self.now + 10 * MS);
        }
        let led = self.now;
        loop {
            let (statuses, committed) = (self.statuses(), self.committed.last());
            let leader = statuses.values().find(|status| status.role == Role::Leader);
            let listed = |id| leader.is_none_or(|leader| leader.members.iter().any(|member| member.id == id));
            let obstacle =
                convergence::obstacle(&statuses, committed, |id| healthy.contains(&id) && listed(id));
            let Some(obstacle) = obstacle else { return true };
            if self.now >= led + EQUAL {
                self.fail(format!("liveness: {obstacle}, {} s after there was a leader", EQUAL / SECOND));
            }
            if self.violation.is_some() {
                return false;
            }
            self.run_to(self.now + 50 * MS);
        }
    }

    fn converge(&mut self, end: u64) -> bool {
        let mut obstacle = None;
        while self.now < end && self.violation.is_none() {
            self.run_to(self.now + 100 * MS);
            obstacle = convergence::obstacle(&self.statuses(), self.committed.last(), |_| true);
            if obstacle.is_none() {
                return self.violation.is_none();
            }
        }
        if let Some(what) = obstacle {
            self.fail(format!("liveness: {what}"));
        }
        false
    }

    /// Whether the only copy of the data is damaged.
    fn is_hopeless(&self) -> bool {
        self.options.members == 1
            && self.members.values().any(|member| member.broken.is_some() || member.damaged.is_some())
    }
}
