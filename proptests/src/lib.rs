//! Properties: model against code, differential tests against a real etcd.
//!
//! The library half is a harness: it starts real server processes ([`process`]), plays a script of
//! `etcdctl` commands against them ([`script`], [`transcript`]), removes what may legitimately differ
//! ([`normalise`]) and shows what is left as a diff ([`diff`]). The tests in `tests/` are data on top.

pub mod diff;
pub mod normalise;
pub mod process;
pub mod script;
pub mod transcript;
