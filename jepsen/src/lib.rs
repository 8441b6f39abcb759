//! Real server processes under faults, with checkers.
//!
//! Everything here drives a server binary from outside, over its sockets, signals and files, so the
//! same scenarios run against Cairn and against etcd itself. Nothing here links the server.
//!
//! Readiness is always polled; a sleep only paces a poll or a fault. A request is attempted once
//! and an outcome that is not known is recorded as such: a retry would hide what is being tested.

pub mod check;
pub mod client;
pub mod cluster;
pub mod failure;
pub mod load;
pub mod process;
pub mod scenario;

pub use failure::{Failure, Figures};
