//! The program itself, where no server is needed: texts and exit codes are etcdctl's.

use std::process::Command;

/// Exit code, standard output and standard error.
fn cairnctl(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_cairnctl")).args(args).env_clear().output();
    let output = output.expect("the program was built");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn tells_its_version() {
    let (code, out, err) = cairnctl(&["version"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(out, "etcdctl version: 3.4.23\nAPI version: 3.4\n");
}

#[test]
fn refuses_what_it_does_not_know_and_says_what_is_missing() {
    let (code, out, err) = cairnctl(&["nonsense"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("unknown command \"nonsense\""), "{err}");

    let (code, out, err) = cairnctl(&["get"]);
    assert_eq!((code, out.as_str()), (Some(128), ""));
    assert_eq!(err, "Error: get command needs one argument as key and an optional argument as range_end\n");
}
