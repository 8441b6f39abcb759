//! What the health probes over HTTP were answered.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use cairn_net::http::client::HealthCheck;

use super::text::{Counter, Gauge, Kind, Page};

#[derive(Debug, Default)]
struct Named {
    now: Gauge,
    /// Errors, successes.
    outcomes: [Counter; 2],
}

#[derive(Debug, Default)]
pub(super) struct HealthMetrics {
    /// Failures, successes of `/health`.
    whole: [Counter; 2],
    /// By the probe's type and the check's name.
    named: Mutex<BTreeMap<(&'static str, &'static str), Named>>,
}

impl HealthMetrics {
    pub(super) fn checked(&self, check: HealthCheck) {
        match check {
            HealthCheck::Health { healthy } => self.whole[usize::from(healthy)].inc(),
            HealthCheck::Named { kind, name, healthy } => {
                let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
                let check = named.entry((kind, name)).or_default();
                check.now.set(i64::from(healthy));
                check.outcomes[usize::from(healthy)].inc();
            }
        }
    }

    pub(super) fn encode(&self, page: &mut Page) {
        let help = "The total number of health checks that failed.";
        page.counter("etcd_server_health_failures", help, &[], &self.whole[0]);
        let help = "The total number of health checks that succeeded.";
        page.counter("etcd_server_health_success", help, &[], &self.whole[1]);
        for ((kind, name), check) in &*self.named.lock().unwrap_or_else(PoisonError::into_inner) {
            let labels = [("name", *name), ("type", *kind)];
            let help = "The result of each kind of healthcheck.";
            page.sample("etcd_server_healthcheck", Kind::Gauge, help, &labels, check.now.value());
            for (status, outcome) in ["error", "success"].into_iter().zip(&check.outcomes) {
                let labels = [labels[0], ("status", status), labels[1]];
                let help = "The total number of each kind of healthcheck.";
                page.counter("etcd_server_healthchecks_total", help, &labels, outcome);
            }
        }
    }
}
