//! Notices when the node's thread is late: turns that take long to apply commands, and heartbeats of a
//! leader that are due for long. It only counts and warns; nothing is decided by it.

use std::sync::Arc;
use std::time::Duration;

use cairn_core::node::{AppliedOps, Role, Status};

use crate::metrics::Metrics;

/// See the module.
pub(crate) struct Pace {
    metrics: Arc<Metrics>,
    heartbeat: Duration,
    slow_apply: Duration,
    applied: AppliedOps,
}

impl Pace {
    /// `slow_apply` is `--warning-apply-duration`.
    pub(crate) fn new(metrics: Arc<Metrics>, heartbeat: Duration, slow_apply: Duration) -> Self {
        Self { metrics, heartbeat, slow_apply, applied: AppliedOps::default() }
    }

    /// A tick comes so much later than it was due.
    pub(super) fn tick(&self, late: Duration, status: &Status) {
        if late > self.heartbeat && status.role == Role::Leader && status.members.len() > 1 {
            self.metrics.heartbeat_late();
            tracing::warn!(
                "exceeded-duration" = format!("{late:?}"),
                "heartbeat-interval" = format!("{:?}", self.heartbeat),
                "leader failed to send out heartbeat on time; took too long, leader is overloaded likely \
                 from slow disk"
            );
        }
    }

    /// A turn has applied commands up to these counts.
    pub(super) fn turn(&mut self, applied: &AppliedOps, took: Duration) {
        if *applied != self.applied {
            let slow = took > self.slow_apply;
            if slow {
                tracing::warn!(
                    "took" = format!("{took:?}"),
                    "expected-duration" = format!("{:?}", self.slow_apply),
                    "apply request took too long"
                );
            }
            self.metrics.applied(&self.applied, applied, took, slow);
            self.applied = *applied;
        }
    }
}
