//! The same `etcdctl` scripts against etcd and against our server: equal output, errors and exit codes.
//!
//! Each test is one script, which is data; `cairn_proptests::transcript` plays and compares it. Set
//! `CAIRN_TRANSCRIPT_SHOW=1` (with `--nocapture`) to read what etcd says.

mod cluster;
mod concurrency;
mod kv;
mod lease;
mod maintenance;
mod txn;
mod watch;
