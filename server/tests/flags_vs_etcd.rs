//! Compares start errors with those of the real etcd: first line and exit code.
//!
//! Needs `etcd` 3.4 on the PATH. Without it the test passes with a note, except
//! when `CI=true`. Only command lines that etcd rejects are used, so no server
//! is left running; the data directory is a temporary one.

use std::collections::BTreeMap;
use std::process::Command;

use cairn_server::config::{Loaded, load};

/// Flags and environment of one start that must fail.
type Case = (&'static [&'static str], &'static [(&'static str, &'static str)]);

const CASES: &[Case] = &[
    (&["--foo"], &[]),
    (&["foo"], &[]),
    (&["-"], &[]),
    (&["--", "a"], &[]),
    (&["--=x"], &[]),
    (&["---x"], &[]),
    (&["--name"], &[]),
    (&["--ca-file", "x"], &[]),
    (&["--pre-vote", "false"], &[]),
    (&["--pre-vote=maybe"], &[]),
    (&["--heartbeat-interval=abc"], &[]),
    (&["--heartbeat-interval=99999999999999999999"], &[]),
    (&["--grpc-keepalive-min-time=5"], &[]),
    (&["--max-concurrent-streams=-1"], &[]),
    (&["--max-concurrent-streams=99999999999"], &[]),
    (&["--initial-cluster-state", "foo"], &[]),
    (&["--proxy", "x"], &[]),
    (&["--discovery-fallback", "x"], &[]),
    (&["--listen-client-urls", "foo"], &[]),
    (&["--listen-client-urls", "http://a"], &[]),
    (&["--listen-client-urls", "http://a:b"], &[]),
    (&["--listen-client-urls", "http://127.0.0.1:1/path"], &[]),
    (&["--listen-client-urls", "http://127.0.0.1:1 # x"], &[]),
    (&["--listen-client-urls", "\"http://127.0.0.1:1\""], &[]),
    (&["--listen-client-urls", "http://127.0.0.1:1,"], &[]),
    (&["--listen-client-urls", "http://[::1"], &[]),
    (&["--listen-client-urls", "http://a b:1"], &[]),
    (&["--listen-client-urls", "http://127.0.0.1:%31"], &[]),
    (&["--listen-client-urls", "http://127.0.0.1:1"], &[]),
    (&["--listen-client-urls", "http://foo:1", "--advertise-client-urls", "http://foo:1"], &[]),
    (&["--listen-peer-urls", "http://foo:1"], &[]),
    (&["--listen-metrics-urls", "http://foo:1"], &[]),
    (&["--advertise-client-urls", "http://:1"], &[]),
    (&["--initial-advertise-peer-urls", "http://:1"], &[]),
    (&["--cors", ":"], &[]),
    (&["--cors", "a b"], &[]),
    (&["--heartbeat-interval=0"], &[]),
    (&["--election-timeout=0"], &[]),
    (&["--election-timeout=400"], &[]),
    (&["--election-timeout=60000"], &[]),
    (&["--auto-compaction-mode=x"], &[]),
    (&["--auto-compaction-retention=x"], &[]),
    (&["--auto-compaction-retention=5x"], &[]),
    (&["--logger=foo"], &[]),
    (&["--config-file", "/nonexistent"], &[]),
    (&["--name", "b"], &[("ETCD_NAME", "a")]),
    (&[], &[("ETCD_PRE_VOTE", "maybe")]),
    (&[], &[("ETCD_HEARTBEAT_INTERVAL", "x")]),
    (&[], &[("ETCD_MAX_CONCURRENT_STREAMS", "-1")]),
    (&[], &[("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1 // x")]),
    (&[], &[("ETCD_INITIAL_CLUSTER_STATE", "foo")]),
];

/// The first line that is an error, without time, level and package.
fn first_error(stderr: &str) -> String {
    for line in stderr.lines() {
        let line = match line.split_once(" | ") {
            // "date time LEVEL | package: text"
            Some((head, rest)) if head.starts_with("20") => {
                if !head.ends_with(" E") && !head.ends_with(" C") {
                    continue;
                }
                rest.split_once(": ").map_or(rest, |(_, text)| text)
            }
            _ if line.starts_with("[WARNING]") => continue,
            _ => line,
        };
        return line.to_owned();
    }
    String::new()
}

#[test]
fn start_errors_are_those_of_etcd() {
    if Command::new("etcd").arg("--version").output().is_err() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI must have etcd on the PATH");
        println!("note: no etcd on the PATH, nothing was compared");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut differences = Vec::new();
    for (args, env) in CASES {
        let output = Command::new("etcd")
            .args(*args)
            .env_clear()
            .envs(env.iter().copied())
            .env("PATH", std::env::var("PATH").expect("a PATH"))
            .current_dir(dir.path())
            .output()
            .expect("etcd runs");
        let theirs = (output.status.code(), first_error(&String::from_utf8_lossy(&output.stderr)));
        let env: BTreeMap<String, String> =
            env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let ours =
            match load(args.iter().map(|a| (*a).to_owned()), &env, &|path| std::fs::read_to_string(path)) {
                Loaded::Exit { code, stderr, .. } => (Some(code), first_error(&stderr)),
                Loaded::Run { .. } => (None, "started".to_owned()),
            };
        if theirs != ours {
            differences.push(format!("{args:?} {env:?}\n  etcd:  {theirs:?}\n  cairn: {ours:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
