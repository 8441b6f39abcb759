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

use cairn_proptests::script::{ctl, script};
use cairn_proptests::transcript::{expect_equal, play, ports};

/// The test of the test: one write that only one side gets is found.
#[test]
#[should_panic(expected = "1 of 3 steps differ")]
fn a_planted_write_is_found() {
    let side = cairn_proptests::process::Side::Etcd;
    let honest = script("honest", vec![ctl("put a 1").silent(), ctl("get a"), ctl("get b")]);
    let planted = script("planted", vec![ctl("put b 1").silent(), ctl("get a"), ctl("get b")]);
    let (honest, planted) = (honest, planted);
    let ports = ports(&honest);
    let first = play(side, &honest, &ports, true);
    let mut second = play(side, &planted, &ports, true);
    // Only the second read may differ in what is compared.
    second.records[1] = first.records[1].clone();
    expect_equal(&honest, &first, &second);
}
