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
    applied: AppliedOps,
}

impl Pace {
    pub(crate) fn new(metrics: Arc<Metrics>, heartbeat: Duration) -> Self {
        Self { metrics, heartbeat, applied: AppliedOps::default() }
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
            self.metrics.applied(&self.applied, applied, took);
            self.applied = *applied;
        }
    }
}
