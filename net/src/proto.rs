//! The wire types, generated from `proto/` at build time: etcd's v3 packages, the standard health
//! package and, where present, Cairn's own peer package.
//!
//! Nothing here is written by hand and nothing outside `net` sees it: the rest of the system speaks
//! [`cairn_core::api`], and `convert` is the only bridge. A generated message refers to its
//! neighbours by `super::package`, so every package is a sibling module named as in the file.

#![allow(missing_docs, unreachable_pub, clippy::all)]

pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

pub mod authpb {
    tonic::include_proto!("authpb");
}

pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// Package `grpc.health.v1`; flat, because it refers to no other package.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

// Cairn's own packages, e.g. `pub mod peer { tonic::include_proto!("cairn.peer"); }`, go below this line.
