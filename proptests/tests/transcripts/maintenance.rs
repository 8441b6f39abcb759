//! endpoint, alarm, defrag, snapshot, move-leader.

use cairn_proptests::script::{Step, Until, all, ctl, script};
use cairn_proptests::transcript::compare;

/// At an endpoint where nobody listens: what the client says beside the result is its own affair.
fn unreachable(command: &str) -> Step {
    ctl(&format!("{command} --endpoints={{SPARE_EP}} --dial-timeout=200ms --command-timeout=500ms"))
        .replace("latest balancer error.*", "<unreachable>")
}

#[test]
fn endpoint() {
    let mut steps = all(&["put a 1", "put a 2", "del a", "put b 3"]);
    steps.extend(all(&[
        "endpoint status",
        "endpoint status -w json",
        "endpoint status -w fields",
        "endpoint status -w table",
        "endpoint status --cluster",
        "endpoint health",
        "endpoint health -w json",
        "endpoint health -w table",
        "endpoint health -w fields",
        "endpoint health --cluster",
        "endpoint hashkv",
        "endpoint hashkv -w json",
        "endpoint hashkv -w fields",
        "endpoint hashkv -w table",
        "endpoint hashkv --cluster",
        "endpoint hashkv --rev=2",
        "endpoint hashkv --rev=3 -w json",
        "endpoint hashkv --rev=4",
        "endpoint hashkv --rev=5",
        "endpoint hashkv --rev=6",
        "endpoint hashkv --rev=-1",
        "compaction 3",
        "endpoint hashkv -w json",
        "endpoint hashkv --rev=2",
        "endpoint hashkv --rev=5 -w json",
        "endpoint fly",
        "endpoint",
        "version",
    ]));
    steps.push(unreachable("endpoint status"));
    steps.push(unreachable("endpoint health"));
    compare(&script("endpoint", steps));
}

#[test]
fn endpoint_of_three() {
    let mut steps = vec![Step::Lead(1), ctl("put a 1"), ctl("put b 2")];
    // The order of the answers is that of the network for some of these.
    for line in [
        "endpoint status --endpoints={EPS}",
        "endpoint status --cluster",
        "endpoint health --endpoints={EPS}",
        "endpoint health --cluster",
        "endpoint hashkv --cluster --rev=3",
        "endpoint hashkv --endpoints={EPS} --rev=3",
    ] {
        steps.push(ctl(line).sorted());
    }
    steps.extend([
        ctl("endpoint status --endpoints={EPS} -w table").sorted(),
        ctl("endpoint hashkv --endpoints={EPS} --rev=3 -w json"),
        ctl("defrag --cluster").sorted(),
        ctl("get '' --prefix --endpoints={EP2} -w fields"),
        ctl("get '' --prefix --endpoints={EP0} --consistency=s --rev=2"),
    ]);
    compare(&script("endpoint_of_three", steps).members(3));
}

#[test]
fn move_leader() {
    let steps = vec![
        Step::Lead(0),
        ctl("move-leader {ID1} --endpoints={EP2}"),
        ctl("move-leader {ID1} --endpoints={EP0}"),
        ctl("endpoint status --endpoints={EPS}").until(Until::Contains("true")),
        Step::Lead(1),
        ctl("move-leader 123abc --endpoints={EP1}"),
        ctl("move-leader xyz --endpoints={EP1}"),
        ctl("move-leader --endpoints={EP1}"),
        ctl("move-leader {ID2} --endpoints={EPS}"),
        Step::Lead(2),
        ctl("put after transfer --endpoints={EP0}"),
        ctl("get after -w json --endpoints={EP2}"),
    ];
    compare(&script("move_leader", steps).members(3));
}

#[test]
fn alarm_no_space() {
    let value = || "v".repeat(500_000);
    let steps = vec![
        ctl("alarm list"),
        ctl("alarm disarm"),
        ctl("lease grant 1000").capture("L", 0, 1),
        ctl("put small 1 --lease={L}"),
        // How many fit is the storage's own affair; that it ends is not.
        ctl("put big").stdin(value()).silent().until(Until::Failure),
        ctl("put big").stdin(value()),
        ctl("alarm list"),
        // A-GEN-01: 3.4 leaves the header out here, and its etcdctl panics on that with `-w fields`.
        ctl("alarm list -w json").replace(r#""header":\{[^}]*\},"#, ""),
        ctl("endpoint health"),
        ctl("endpoint status").replace("memberID:.*", "<errors>"),
        ctl("put small 2"),
        ctl("lease grant 10"),
        ctl("txn").stdin("\nput small 3\n\n\n"),
        ctl("txn").stdin("\nget small\n\n\n"),
        ctl("txn").stdin("\ndel none\n\n\n"),
        ctl("get small"),
        ctl("lease keep-alive {L} --once"),
        ctl("lease revoke {L}"),
        ctl("get small"),
        ctl("del big"),
        ctl("put small 4"),
        ctl("get small -w fields").silent().capture("REV", 2, 2),
        ctl("compaction {REV} --physical").replace(r"revision \d+", "revision <n>"),
        ctl("defrag"),
        ctl("put small 5"),
        ctl("alarm disarm"),
        ctl("alarm list"),
        ctl("put small 6"),
        ctl("get small"),
        ctl("alarm disarm"),
        ctl("alarm fly"),
    ];
    compare(&script("alarm_no_space", steps).flag("--quota-backend-bytes=4000000"));
}

#[test]
fn snapshot() {
    let mut steps = all(&["put s/a 1", "put s/b 2", "put s/a 3", "del s/b", "lease grant 1000"]);
    // The hash and the size are those of the storage format.
    let status = |line: &str| {
        ctl(line)
            .replace(r"(?m)^[0-9a-f]{1,8}, ", "<hash>, ")
            .replace(r#""hash":\d+"#, r#""hash":<n>"#)
            .replace(r#""totalSize":\d+"#, r#""totalSize":<n>"#)
            .replace(r#""Hash" : .*"#, r#""Hash" : <n>"#)
            .replace(r#""Size" : .*"#, r#""Size" : <n>"#)
            .replace(r"(?m)^\| [0-9a-f]{1,8} \|", "| <hash> |")
    };
    steps.extend([
        ctl("snapshot save {DIR}/s.db"),
        status("snapshot status {DIR}/s.db"),
        status("snapshot status {DIR}/s.db -w json"),
        status("snapshot status {DIR}/s.db -w fields"),
        status("snapshot status {DIR}/s.db -w table"),
        ctl("compaction 4 --physical"),
        ctl("defrag"),
        ctl("get '' --prefix -w json"),
        ctl("snapshot save {DIR}/after.db"),
        status("snapshot status {DIR}/after.db"),
        ctl("snapshot save"),
        ctl("snapshot save {DIR}/no/folder.db"),
        ctl("snapshot status {DIR}/none.db"),
        ctl("snapshot save {DIR}/two.db --endpoints={EP0},{EP0}"),
        ctl("snapshot restore {DIR}/s.db --data-dir={DIR}/restored --name=r --initial-cluster=r=http://localhost:2380 --initial-advertise-peer-urls=http://localhost:2380"),
        unreachable("defrag"),
    ]);
    compare(&script("snapshot", steps));
}
