//! `cairnctl` beside `etcdctl`: the same command lines at our server, the same outputs and exit codes.

use cairn_proptests::script::{
    Step, Until, all, await_exit, await_lines, ctl, interrupt, script, spawn, stop,
};
use cairn_proptests::transcript::compare_clients;

#[test]
fn keys() {
    let mut steps = all(&["put a 1", "put a 2 --prev-kv", "put b 3", "get a", "get '' --prefix -w json"]);
    steps.extend(all(&[
        "get '' --prefix -w fields",
        "get a b --keys-only",
        "get",
        "put",
        "del",
        "del a --prev-kv",
    ]));
    steps.extend(all(&[
        "get b --rev=2",
        "get b --rev=99",
        "compaction 4",
        "get b --rev=2",
        "compaction 4",
        "compaction",
    ]));
    steps.extend([spawn("w", "watch b --rev=4"), await_lines("w", 3), stop("w")]);
    compare_clients(&script("cairnctl_keys", steps));
}

#[test]
fn txn() {
    let txn = |stdin: &str| ctl("txn").stdin(stdin);
    let everything =
        "mod(\"a\") = \"0\"\nval(\"b\") != \"x\"\n\nput a \"x y\"\nget a\ndel b --prev-kv\n\nget a\n\n";
    let mut steps =
        vec![ctl("put b 1"), txn("\nput a 1\n\n\n"), txn("mod(\"a\") > \"0\"\n\nget a\n\nput a 2\n\n")];
    steps.push(ctl("del a"));
    for line in ["txn", "txn -w json", "txn -w fields", "txn -w protobuf", "txn -w table"] {
        steps.push(ctl("del a"));
        steps.push(ctl("put b 1"));
        steps.push(ctl(line).stdin(everything));
        steps.push(ctl(line).stdin(everything));
    }
    for wrong in ["xyz\n\n\n\n", "\nfoo\n\n\n", "\nput\n\n\n", "ver(\"a\") = \"x\"\n\n\n\n", "\n"] {
        steps.push(txn(wrong));
    }
    steps.extend([
        ctl("txn -i").stdin("create(\"none\") = \"0\"\nc(\"b\") < \"0\"\n\nput c 1\nput d 1\n\n\n"),
        ctl("txn").stdin("ver(\"c\") < \"2\"\n\nput c 1\nput c 2\n\n\n"),
        ctl("txn x"),
        ctl("get '' --prefix -w json"),
    ]);
    compare_clients(&script("cairnctl_txn", steps));
}

#[test]
fn lease() {
    let mut steps = vec![
        ctl("lease list"),
        ctl("lease list -w json"),
        ctl("lease grant 1000").capture("L", 0, 1),
        ctl("lease grant 2000 -w json").replace(r#""ID":[^,]*"#, r#""ID":<lease>"#),
        ctl("put k v --lease={L}"),
        ctl("lease timetolive {L} --keys"),
        ctl("lease timetolive {L} --keys -w json").replace(r#""ttl":\d+"#, r#""ttl":<n>"#),
        ctl("lease timetolive {L} -w fields").replace(r#""TTL" : \d+"#, r#""TTL" : <n>"#),
    ];
    steps.extend(all(&[
        "lease grant",
        "lease grant x",
        "lease grant 9000000001",
        "lease timetolive 1234567",
        "lease timetolive 1234567 -w json",
        "lease timetolive xyz",
        "lease timetolive",
        "lease keep-alive {L} --once",
        "lease keep-alive {L} --once -w json",
        "lease keep-alive {L} --once -w fields",
        "lease keep-alive 1234567 --once",
        "lease keep-alive 1234567",
        "lease keep-alive",
        "lease revoke 1234567",
        "lease revoke",
        "lease revoke {L} -w json",
        "lease revoke {L}",
        "get k",
    ]));
    steps.extend([
        ctl("lease grant 2").capture("S", 0, 1),
        spawn("alive", "lease keep-alive {S}").collapsed(),
        await_lines("alive", 3),
        ctl("lease revoke {S}"),
        await_exit("alive"),
    ]);
    compare_clients(&script("cairnctl_lease", steps));
}

#[test]
fn members() {
    let mut steps = vec![ctl("member list"), ctl("member list -w table")];
    steps.extend(all(&[
        "member add",
        "member add x",
        "member add x http://127.0.0.1:1",
        "member add x --peer-urls={PEER0}",
        "member remove",
        "member remove xyz",
        "member remove 123abc",
        "member update 123abc --peer-urls=http://127.0.0.1:1",
        "member update {ID0}",
        "member update {ID0} --peer-urls={PEER0}",
        "member promote {ID0}",
        "member promote",
    ]));
    steps.extend([
        ctl("member add m1 --peer-urls={SPARE} --learner").capture("N", 0, 1),
        ctl("member list").sorted(),
        ctl("member promote {N}"),
        ctl("member update {N} --peer-urls=http://127.0.0.1:1,http://127.0.0.1:2 -w json"),
        ctl("member remove {N}"),
        ctl("member remove {N}"),
    ]);
    compare_clients(&script("cairnctl_members", steps));
}

#[test]
fn maintenance() {
    let mut steps = all(&["put a 1", "put a 2", "endpoint status", "endpoint health"]);
    // With the fields of later releases, which etcdctl 3.4 does not know.
    let status = ctl("endpoint status -w json").replace(r#","storageVersion".*\{\}"#, "");
    steps.push(status);
    steps.extend(all(&[
        "endpoint hashkv",
        "endpoint hashkv --rev=2 -w json",
        "endpoint hashkv -w fields",
        "endpoint hashkv -w table",
        "endpoint hashkv --rev=99",
        "endpoint hashkv --cluster",
        "alarm list",
        "alarm list -w json",
        "alarm disarm",
        "alarm list x",
        "alarm disarm x",
        "defrag",
        "defrag --cluster",
        "move-leader",
        "move-leader xyz",
        "move-leader 123abc",
        "snapshot save",
        "snapshot save {DIR}/no/folder.db",
        "snapshot save {DIR}/s.db --endpoints={EP0},{EP0}",
        "snapshot save {DIR}/s.db",
        "version",
    ]));
    compare_clients(&script("cairnctl_maintenance", steps));
}

#[test]
fn move_leader() {
    let steps = vec![
        Step::Lead(0),
        ctl("move-leader {ID1} --endpoints={EP2}"),
        ctl("move-leader {ID1} --endpoints={EPS}"),
        ctl("endpoint status --endpoints={EPS}").until(Until::Contains("true")),
    ];
    compare_clients(&script("cairnctl_move_leader", steps).members(3));
}

#[test]
fn concurrency() {
    let steps = vec![
        ctl("lock"),
        ctl("lock l -- sh -c 'test -n \"$ETCD_LOCK_KEY\" && echo at $ETCD_LOCK_REV'"),
        ctl("lock l -- sh -c 'exit 7'"),
        ctl("lock l /no/such/command"),
        ctl("lock l no-such-command"),
        spawn("first", "lock l --ttl=30"),
        await_lines("first", 1),
        spawn("second", "lock l"),
        ctl("get l/ --prefix --keys-only").until(Until::Lines(4)).replace("l/.*", "l/<lease>"),
        interrupt("first"),
        await_lines("second", 1),
        interrupt("second"),
        ctl("get l/ --prefix --keys-only"),
        ctl("elect"),
        ctl("elect e"),
        ctl("elect -l e a"),
        spawn("leader", "elect e one"),
        await_lines("leader", 2),
        spawn("listener", "elect -l e"),
        await_lines("listener", 2),
        interrupt("leader"),
        ctl("get e/ --prefix --keys-only"),
        stop("listener"),
    ];
    compare_clients(&script("cairnctl_concurrency", steps));
}
