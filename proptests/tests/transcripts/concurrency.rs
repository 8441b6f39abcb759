//! lock, elect, make-mirror, check perf.

use cairn_proptests::script::{Step, Until, all, await_lines, ctl, interrupt, script, spawn, stop};
use cairn_proptests::transcript::{compare, compare_apart};

#[test]
fn lock() {
    let mut steps = all(&["lock", "lock name --ttl=x"]);
    steps.extend([
        ctl("lock l sh -c 'echo in $ETCD_LOCK_KEY at $ETCD_LOCK_REV'"),
        ctl("lock l false"),
        ctl("lock l sh -c 'exit 7'"),
        ctl("lock l /no/such/command"),
        ctl("get l --prefix -w json"),
        // Contention: the second waits until the first lets go.
        spawn("first", "lock l --ttl=30"),
        await_lines("first", 1),
        spawn("second", "lock l"),
        ctl("get l/ --prefix --keys-only").until(Until::Lines(4)).replace("l/.*", "l/<lease>"),
        interrupt("first"),
        await_lines("second", 1),
        ctl("get l/ --prefix --keys-only").until(Until::Lines(2)),
        interrupt("second"),
        ctl("get l/ --prefix --keys-only"),
        ctl("lease list"),
        // A holder that dies loses the lock when its lease ends.
        spawn("dead", "lock l --ttl=2"),
        await_lines("dead", 1),
        stop("dead"),
        ctl("lock l echo next"),
        ctl("get l/ --prefix --keys-only"),
    ]);
    compare(&script("lock", steps));
}

#[test]
fn elect() {
    let steps = vec![
        ctl("elect"),
        ctl("elect e a b"),
        ctl("elect -l e a"),
        spawn("first", "elect e one"),
        await_lines("first", 2),
        spawn("listener", "elect -l e"),
        await_lines("listener", 2),
        spawn("second", "elect e two"),
        ctl("get e/ --prefix --keys-only").until(Until::Lines(4)).replace("e/.*", "e/<lease>"),
        interrupt("first"),
        await_lines("second", 2),
        await_lines("listener", 4),
        interrupt("second"),
        ctl("get e/ --prefix --keys-only"),
        stop("listener"),
    ];
    compare(&script("elect", steps));
}

#[test]
fn make_mirror() {
    let source = ["put m/a 1", "put m/b 2", "put n/c 3", "put n/d 'a b'", "del m/b"];
    let mut steps = all(&["make-mirror", "make-mirror a b"]);
    steps.extend(all(&source));
    let to_mirror = |line: &str| ctl(&format!("{line} --endpoints={{MIRROR}}"));
    steps.extend([
        // Does not say when it is ready; a key written after the start shows that it follows.
        spawn("mirror", "make-mirror {MIRROR}"),
        to_mirror("get '' --prefix").until(Until::Lines(6)),
        ctl("put m/late 4"),
        to_mirror("get '' --prefix").until(Until::Lines(8)),
        ctl("txn").stdin("\nput m/late 5\nput n/more 6\ndel m/a\n\n\n"),
        to_mirror("get '' --prefix").until(Until::Contains("n/more")),
        ctl("del m/ --prefix"),
        ctl("put end 1"),
        to_mirror("get '' --prefix").until(Until::Contains("end")),
        stop("mirror"),
        spawn("renamed", "make-mirror {MIRROR} --prefix=n/ --dest-prefix=copy/"),
        to_mirror("get copy/ --prefix").until(Until::Lines(6)),
        ctl("put n/c changed"),
        to_mirror("get copy/ --prefix").until(Until::Contains("changed")),
        stop("renamed"),
        spawn("bare", "make-mirror {MIRROR} --prefix=n/ --no-dest-prefix"),
        // The last of its keys.
        to_mirror("get more").until(Until::Lines(2)),
        stop("bare"),
        to_mirror("get '' --prefix"),
    ]);
    compare(&script("make_mirror", steps).mirror());
}

/// Takes a minute. Only the shape is compared: the numbers are the machine's, and so is PASS.
#[test]
fn check_perf() {
    let verdict: Step = ctl("check perf --load=s --prefix=perf/")
        .replace(r"(?s)^.*?((PASS|FAIL): )", "$1")
        .replace(r"(PASS|FAIL): Throughput (is|too low:) .*", "Throughput <verdict>")
        .replace(
            r"(PASS|FAIL): Slowest request took .*|Slowest request took too long: .*",
            "Slowest <verdict>",
        )
        .replace(r"(PASS|FAIL): Stddev .*|Stddev too high: .*", "Stddev <verdict>")
        .replace(r"(?m)^(PASS|FAIL)$", "<verdict>")
        .exit_unchecked();
    let steps = vec![ctl("check perf --load=unknown"), verdict, ctl("get perf/ --prefix --limit=1")];
    compare_apart(&script("check_perf", steps));
}
