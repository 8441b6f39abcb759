//! The same `etcdctl` scripts against etcd and against our server: equal output, errors and exit codes.
//!
//! Each test is one script, which is data; `cairn_proptests::transcript` plays and compares it. Set
//! `CAIRN_TRANSCRIPT_SHOW=1` (with `--nocapture`) to read what etcd says.

mod cairnctl;
mod cluster;
mod concurrency;
mod kv;
mod lease;
mod maintenance;
mod txn;
mod watch;

use cairn_proptests::script::{ctl, script};
use cairn_proptests::transcript::{expect_equal, play, ports};

/// The test of the test: one write that only one side gets is found.
#[test]
#[should_panic(expected = "1 of 3 steps differ")]
fn a_planted_write_is_found() {
    let side = cairn_proptests::process::Side::Etcd;
    let honest = script("honest", vec![ctl("put a 1").silent(), ctl("get a"), ctl("get b")]);
    let mut planted = honest.clone();
    planted.steps.insert(0, ctl("put b 1").silent());
    let ports = ports(&honest);
    expect_equal(&honest, &play(side, &honest, &ports, true), &play(side, &planted, &ports, true));
}
