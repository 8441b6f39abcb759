//! put, get, del, compaction and their errors.

use cairn_proptests::script::{all, ctl, script};
use cairn_proptests::transcript::compare;

#[test]
fn put() {
    let mut steps = all(&[
        "put a 1",
        "put a 2 --prev-kv",
        "put new v --prev-kv",
        "put a '' --prev-kv",
        "put '' v",
        "put a",
        "put",
        "put a b c",
        "put a 3 -w json",
        "put a 4 --prev-kv -w json",
        "put a 5 --prev-kv -w fields",
        "put a 6 --prev-kv -w protobuf",
        "put a 7 -w table",
        "put a 8 --hex",
        "put -- --dash 9",
        "get -- --dash",
        "put a --ignore-value",
        "put a other --ignore-value",
        "put missing --ignore-value",
        "put missing v --ignore-lease",
        "put a 10 --ignore-lease",
        "put a v --lease=123abc",
        "put a v --lease=xyz",
        "put a v --lease=0",
    ]);
    steps.push(ctl("put from-stdin").stdin("a value\nof two lines\n"));
    steps.push(ctl("get from-stdin"));
    steps.push(ctl("lease grant 600").capture("L", 0, 1));
    steps.extend(all(&[
        "put a leased --lease={L}",
        "get a -w fields",
        "put a kept --ignore-lease --prev-kv -w fields",
        "get a -w fields",
        "put a x --ignore-lease --lease={L}",
        "put a --ignore-value --lease={L}",
        "put a dropped",
        "get a -w fields",
    ]));
    compare(&script("put", steps));
}

#[test]
fn put_too_large() {
    compare(&script(
        "put_too_large",
        vec![
            ctl("put big").stdin("x".repeat(3 << 20)),
            ctl("put big").stdin("x".repeat(1_600_000)),
            ctl("put big").stdin("x".repeat(1_500_000)),
            ctl("get big -w fields --keys-only"),
            ctl("get big --print-value-only"),
            ctl("put big --prev-kv").stdin("small"),
            ctl("del big --prev-kv"),
        ],
    ));
}

/// Keys with distinct values, versions, create and modification revisions.
fn keys() -> Vec<cairn_proptests::script::Step> {
    all(&[
        "put k/b 30",
        "put k/a 40",
        "put k/c 10",
        "put k/d 20",
        "put k/a 41",
        "put k/c 11",
        "put k/c 12",
        "put l 5",
        "put z last",
        "del k/d",
        "put k/d 21",
    ])
}

#[test]
fn get() {
    let mut steps = keys();
    steps.extend(all(&[
        "get k/a",
        "get none",
        "get",
        "get ''",
        "get a b c",
        "get k/a k/c",
        "get k/c k/a",
        "get k/ --prefix",
        "get '' --prefix",
        "get l --from-key",
        "get '' --from-key",
        "get k --prefix --from-key",
        "get k/ k/z --prefix",
        "get k/ --prefix --keys-only",
        "get k/ --prefix --print-value-only",
        "get k/ --prefix --keys-only --print-value-only",
        "get k/ --prefix --limit=2",
        "get k/ --prefix --limit=2 -w json",
        "get k/ --prefix --limit=4 -w fields",
        "get k/ --prefix --limit=2 -w protobuf",
        "get k/ --prefix --limit=-1",
        "get k/ --prefix --keys-only -w json",
        "get k/a -w simple",
        "get k/a -w table",
        "get k/a -w nonsense",
        "get k/a --hex",
        "get k/a --hex -w json",
        "get k/ --prefix --consistency=s",
        "get k/ --prefix --consistency=l",
        "get k/ --prefix --consistency=x",
        "get none -w json",
        "get none -w fields",
        "get none -w protobuf",
        "get none --consistency=s -w json",
        "get k/a k/c -w fields",
    ]));
    compare(&script("get", steps));
}

#[test]
fn get_sorted() {
    let mut steps = keys();
    for by in ["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"] {
        for order in ["", " --order=ASCEND", " --order=DESCEND"] {
            // Versions tie; ties have no promised order, so only the two extremes are asked for.
            let limit = if by == "VERSION" { " --limit=1" } else { "" };
            steps.push(ctl(&format!("get k/ --prefix --sort-by={by}{order}{limit}")));
            steps.push(ctl(&format!("get k/ --prefix --sort-by={by}{order} --limit=1 -w json")));
        }
    }
    // One key of version 1 only, so that the least version is unique as well.
    steps.extend(all(&[
        "get k/ --prefix --order=DESCEND",
        "get k/ --prefix --order=DESCEND --limit=2 --keys-only",
        "get k/ --prefix --order=SIDEWAYS",
        "get k/ --prefix --sort-by=COLOUR",
        "get '' --prefix --sort-by=MODIFY --order=DESCEND --limit=3 --rev=6",
    ]));
    compare(&script("get_sorted", steps));
}

#[test]
fn get_at_revisions() {
    let mut steps = keys();
    for revision in 0..=13 {
        steps.push(ctl(&format!("get k/ --prefix --rev={revision} -w json")));
    }
    steps.extend(all(&[
        "get k/d --rev=11",
        "get k/d --rev=10",
        "get k/a --rev=-1",
        "get k/a --rev=x",
        "get k/a --rev=99 --consistency=s",
        "compaction 7",
        "get k/a --rev=6",
        "get k/a --rev=6 --consistency=s",
        "get k/a --rev=7",
        "get k/ --prefix --rev=8",
        "get none --rev=3",
    ]));
    compare(&script("get_at_revisions", steps));
}

#[test]
fn del() {
    let mut steps = keys();
    steps.extend(all(&[
        "del none",
        "del none -w json",
        "del ''",
        "del",
        "del a b c",
        "del k/a",
        "del k/a",
        "put k/a 1",
        "del k/a --prev-kv",
        "put k/a 2",
        "del k/a --prev-kv -w json",
        "put k/a 3",
        "del k/a --prev-kv -w fields",
        "put k/a 4",
        "del k/a -w protobuf",
        "put k/a 4",
        "del k/a -w table",
        "put k/a 5",
        "del k/a k/c --prev-kv",
        "del k/c k/a",
        "get '' --prefix -w json",
        "del k/ --prefix --prev-kv",
        "put m 1",
        "put n 1",
        "del n --from-key --prev-kv",
        "del k --prefix --from-key",
        "del k z --prefix",
        "get '' --prefix",
        "del '' --prefix",
        "put q 1",
        "del '' --from-key",
        "get '' --prefix -w json",
    ]));
    compare(&script("del", steps));
}

#[test]
fn compaction() {
    let mut steps = keys();
    steps.extend(all(&[
        "compaction",
        "compaction x",
        "compaction 1 2",
        "compaction 99",
        "compaction 99 --physical",
        "compaction 5",
        "compaction 5",
        "compaction 4",
        "compaction 4 --physical",
        "compaction 0",
        "compaction -- -1",
        "compaction 6 --physical",
        "compaction 7 -w json",
        "compaction 8 --physical -w fields",
        "get k/ --prefix --rev=7",
        "get k/ --prefix --rev=8",
        "get k/ --prefix",
        "compaction 12",
        "compaction 12",
        "compaction 13",
        "get '' --prefix -w json",
        "put after compaction --prev-kv",
    ]));
    compare(&script("compaction", steps));
}

#[test]
fn data_survives_a_crash() {
    use cairn_proptests::script::Step;
    let mut steps = keys();
    steps.extend(all(&["compaction 5", "del k/b"]));
    steps.push(Step::Restart(0));
    steps.extend(all(&[
        "get '' --prefix -w json",
        "get '' --prefix --rev=6 -w json",
        "get '' --prefix --rev=4 -w json",
        "compaction 5",
        "member list",
        "endpoint hashkv",
        "put after crash",
        "get after -w json",
    ]));
    compare(&script("data_survives_a_crash", steps));
}
