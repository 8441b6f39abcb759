//! Cairn's core: Raft, MVCC, watch, lease and membership with no IO, no clock and no threads.

pub mod api;
pub mod backend;
pub mod bolt;
pub mod cluster;
pub mod command;
pub mod error;
pub mod lease;
pub mod mvcc;
pub mod node;
pub mod planted;
mod raft_log;
pub mod rng;
pub mod time;
pub mod types;
pub mod wal;
pub mod watch;
