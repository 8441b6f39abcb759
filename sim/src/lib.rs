//! Cairn's deterministic simulator: cluster, network, disks, workloads, checkers.
//!
//! One thread and one heap of events; everything that a run does is a function of its seed.
//! [`run`] is the entry: chaos first, with every safety check after every step, then the faults end
//! and the cluster has to recover.

mod aim;
mod atlas;
pub mod checker;
pub mod client;
pub mod cluster;
pub mod coverage;
pub mod ctrl;
pub mod disk;
pub mod driver;
pub mod fault;
pub mod history;
pub mod invariants;
mod lifecycle;
mod liveness;
pub mod model;
pub mod nemesis;
pub mod network;
mod observe;
mod operator;
pub mod options;
pub mod planted;
mod queue;
pub mod record;
pub mod recording;
pub mod report;
pub mod runtime;
pub mod shrink;
pub mod speed;
pub mod swarm;
pub mod trace;
pub mod workload;

pub use cluster::{Cluster, Report, run};
pub use options::Options;
