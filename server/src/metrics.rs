//! Placeholder until the metrics land.
use std::time::Duration;
#[derive(Debug, Default)]
pub(crate) struct Metrics;
impl Metrics {
    pub(crate) fn new(_: bool) -> Self {
        Self
    }
    pub(crate) fn observe(&self, _: &cairn_core::node::Status) {}
    pub(crate) fn event(&self, _: &cairn_core::node::NodeEvent) {}
    pub(crate) fn encode(&self) -> String {
        String::new()
    }
    pub(crate) fn layer(&self, routes: tonic::service::Routes) -> tonic::service::Routes {
        routes
    }
    pub(crate) fn wal_synced(&self, _: Duration, _: u64) {}
    pub(crate) fn backend_committed(&self, _: Duration) {}
    pub(crate) fn defragmented(&self, _: Duration) {}
    pub(crate) fn compacted(&self, _: Duration) {}
}
