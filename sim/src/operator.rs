//! The operator: changes the membership when the seed likes it, starts members that were added, stops
//! those that were removed, replaces those whose data is damaged, disarms alarms.

use cairn_core::api::{AlarmAction, AlarmRequest, Request};
use cairn_core::backend::Batch;
use cairn_core::node::{Input, Status};
use cairn_core::types::MemberId;
use cairn_core::wal::{HardState, LogStart};

use crate::atlas::Health;
use crate::cluster::Cluster;
use crate::coverage::{Doing, Point};
use crate::options::{MS, SECOND};
use crate::queue::Event;
use crate::workload::member::{Step, step};

impl Cluster {
    /// What the member knows that has come furthest. A member that was removed may be the only one to know
    /// so: the operator must not take it away before the others can do without it.
    fn newest(&self) -> Option<Status> {
        let members = self.statuses().into_values();
        let left = members.filter(|status| !status.removed_members.contains(&status.member_id));
        left.max_by_key(|status| status.applied)
    }

    /// Starts members that were added, stops those that were removed.
    pub(crate) fn reconcile(&mut self) {
        let Some(newest) = self.newest() else { return };
        for id in &newest.removed_members {
            let replaced = self.members.get(id).is_some_and(|m| m.broken.is_some() && !m.removed);
            self.coverage.add(Point::MemberReplaced, u64::from(replaced));
            if let Some(member) = self.members.get(id).filter(|member| !member.removed)
                && let Some(boot) = member.process.as_ref().map(|process| process.boot)
                && self.nemesis.chance(1, 8)
            {
                // A peer that it calls refuses it; the log need not ever tell.
                self.schedule(0, Event::Feed { member: *id, boot, input: Input::Removed });
            } else if let Some(member) = self.members.get_mut(id).filter(|member| member.process.is_none()) {
                member.removed = true;
            }
        }
        for member in &newest.members {
            if !self.members.contains_key(&member.id) && (!self.chaotic || self.nemesis.chance(1, 2)) {
                let name = format!("joined{}", self.members.len());
                let (start, hard_state) = (LogStart::default(), HardState::default());
                self.create(member.id, name, &Batch::default(), start, hard_state);
                if member.is_learner {
                    self.note_doing(member.id, Doing::Learning);
                }
            }
        }
        self.mend(&newest);
    }

    /// The operator's next step.
    pub(crate) fn operate(&mut self) {
        if !self.chaotic {
            return;
        }
        let delay = 300 * MS + self.nemesis.below(4 * SECOND);
        self.schedule(delay, Event::Operate);
        let Some(newest) = self.newest() else { return };
        let of = |learner: bool| newest.members.iter().filter(move |m| m.is_learner == learner).map(|m| m.id);
        let (voters, learners): (Vec<u64>, Vec<u64>) = (of(false).collect(), of(true).collect());
        self.next_fault += 1;
        let wanted = self.options.members;
        if let Step::Ask(request) = step(&mut self.nemesis, &voters, &learners, self.next_fault, wanted) {
            self.change_membership(request);
        }
    }

    fn change_membership(&mut self, request: Request) {
        for id in self.running() {
            self.note_doing(id, Doing::ChangingMembership);
        }
        if let Some(id) = self.any() {
            self.ask(id, request, None);
        }
    }

    /// Looks after damaged members: one that starts soundly is healthy, one that repairs its log is given
    /// time, any other is removed and a new one added in its place, as the errors advise. Disarms alarms.
    fn mend(&mut self, newest: &Status) {
        let patience = if self.chaotic { self.options.patience } else { 0 };
        let now = self.now;
        let damaged: Vec<MemberId> = self
            .members
            .values()
            .filter(|member| !member.removed && member.broken.is_none())
            .filter(|member| member.damaged.as_ref().is_some_and(|damage| now >= damage.at + patience))
            .map(|member| member.id)
            .collect();
        for id in damaged {
            let health = self.health(id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            match health {
                Health::Sound => member.damaged = None,
                Health::Repairing => {}
                Health::Unnoticed => self.crash(id),
                Health::Broken => {
                    member.broken = member.damaged.as_ref().map(|damage| damage.what.clone());
                    self.crash(id);
                }
            }
        }
        if self.options.members == 1 {
            return;
        }
        let listed = |id: &MemberId| newest.members.iter().any(|member| member.id == *id);
        let broken: Vec<MemberId> = self
            .members
            .values()
            .filter(|member| member.broken.is_some() && !member.removed)
            .map(|member| member.id)
            .collect();
        for id in &broken {
            self.mended = now;
            if listed(id) {
                self.change_membership(Request::MemberRemove { id: *id });
            }
        }
        let learner = newest.members.iter().find(|member| member.is_learner).map(|member| member.id);
        if !self.options.membership && broken.is_empty() {
            if let Some(id) = learner {
                self.mended = now;
                self.change_membership(Request::MemberPromote { id });
            } else if newest.members.len() < self.options.members {
                self.mended = now;
                self.next_fault += 1;
                let number = self.next_fault;
                let peer_urls = vec![format!("http://10.0.1.{}:{}", 1 + number % 250, 3000 + number)];
                self.change_membership(Request::MemberAdd {
                    peer_urls,
                    is_learner: true,
                    unix_seconds: number,
                });
            }
        }
        if !self.chaotic || self.nemesis.chance(1, 8) {
            for alarm in &newest.alarms {
                let request = AlarmRequest {
                    action: AlarmAction::Deactivate,
                    member_id: alarm.member_id,
                    alarm: Some(alarm.alarm),
                };
                if let Some(id) = self.any() {
                    self.ask(id, Request::Alarm(request), None);
                }
            }
        }
    }
}
