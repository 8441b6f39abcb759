//! Measuring: the load generator behind `cairn-bench`, and the in-memory cluster that the criterion
//! benches drive.
//!
//! The load generator speaks etcd's gRPC API and nothing else, so that one program measures etcd and
//! Cairn alike. It never reaches into a server; what it reports of one comes from `/proc`.
//!
//! Invariant: an operation counts as done only after its reply was read and was a success; everything
//! else is an error in the report, by its text.

pub mod compare;
pub mod connection;
pub mod drive;
pub mod load;
pub mod options;
pub mod process;
mod range_codec;
pub mod report;
pub mod server;
pub mod session;
pub mod size;
pub mod watch;
pub mod workload;
pub mod world;
pub mod zipf;
