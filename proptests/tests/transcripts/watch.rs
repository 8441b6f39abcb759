//! watch: from a revision, live, interactive, with a command, errors.
//!
//! A watcher gives no sign that it is registered, so live ones either start at the next revision or
//! are synchronised through a key of their own.

use cairn_proptests::script::{Step, all, await_exit, await_lines, ctl, feed, script, spawn, stop, sync};
use cairn_proptests::transcript::compare;

fn history() -> Vec<Step> {
    all(&["put w/a 1", "put w/b 1", "put w/a 2", "del w/a", "put w/a 3", "put other 1", "del w/ --prefix"])
}

#[test]
fn watch_history() {
    let mut steps = history();
    for (line, lines) in [
        ("watch w/a --rev=2", 14),
        ("watch w/a --rev=3", 11),
        ("watch w/a --rev=2 --prev-kv", 20),
        ("watch w/ --prefix --rev=1", 20),
        ("watch w/ --prefix --rev=4 --prev-kv", 19),
        ("watch w/a w/b --rev=2", 14),
        ("watch '' --prefix --rev=6", 12),
        ("watch w/a --rev=8 -w json", 1),
        ("watch w/a --rev=8 -w fields", 11),
        ("watch w/a --rev=2 --hex", 14),
    ] {
        steps.push(spawn("w", line));
        steps.push(await_lines("w", lines));
        steps.push(stop("w"));
    }
    compare(&script("watch_history", steps));
}

#[test]
fn watch_errors() {
    let mut steps = history();
    steps.push(ctl("compaction 5"));
    for line in [
        "watch",
        "watch a --prefix --rev=x",
        "watch w/a --rev=2",
        "watch w/a --rev=4",
        "watch w/a --rev=4 -w json",
        "watch w/ --prefix --rev=1 --prev-kv",
        "watch a --from-key",
        "watch z a --rev=6",
        "watch -- echo",
        "watch a b --prefix",
    ] {
        steps.push(spawn("w", line));
        steps.push(await_exit("w"));
    }
    steps.extend([
        // After the compacted revision, with previous values below it. At the revision itself 3.4.23
        // has lost the deletion (A-KV-50, #19179).
        spawn("w", "watch w/ --prefix --rev=6 --prev-kv"),
        await_lines("w", 10),
        stop("w"),
    ]);
    compare(&script("watch_errors", steps));
}

#[test]
fn watch_live() {
    compare(&script(
        "watch_live",
        vec![
            spawn("one", "watch l/a"),
            spawn("prefix", "watch l/ --prefix"),
            spawn("range", "watch l/a l/c"),
            sync("one", "l/a"),
            sync("prefix", "l/a"),
            sync("range", "l/a"),
            ctl("put l/a 1").silent(),
            ctl("put l/b 2").silent(),
            ctl("put l/c 3").silent(),
            ctl("txn").stdin("\nput l/x 1\nput l/b 5\ndel l/c\n\n\n").silent(),
            ctl("del l/ --prefix").silent(),
            ctl("put l/a end").silent(),
            ctl("put l/zz end").silent(),
            await_lines("one", 8),
            await_lines("prefix", 33),
            await_lines("range", 17),
            stop("one"),
            stop("prefix"),
            stop("range"),
        ],
    ));
}

#[test]
fn watch_from_the_future() {
    compare(&script(
        "watch_from_the_future",
        vec![
            spawn("w", "watch f --prefix --rev=4 --prev-kv"),
            spawn("x", "watch f --rev=4"),
            ctl("put f 1"),
            ctl("put f 2"),
            ctl("put f 3"),
            ctl("put f1 4"),
            ctl("del f"),
            await_lines("w", 13),
            stop("w"),
            await_lines("x", 6),
            stop("x"),
        ],
    ));
}

#[test]
fn watch_interactive() {
    compare(&script(
        "watch_interactive",
        vec![
            spawn("w", "watch -i"),
            feed("w", "watch i/a\nwatch i/p --prefix\n"),
            sync("w", "i/a"),
            sync("w", "i/p"),
            ctl("put i/a 1").silent(),
            ctl("put i/p2 1").silent(),
            ctl("put i/other 1").silent(),
            ctl("del i/p2").silent(),
            await_lines("w", 9),
            feed("w", "nonsense\n"),
            await_exit("w"),
            ctl("watch --interactive").stdin("watch\n"),
            ctl("watch --interactive").stdin("get a\n"),
            ctl("watch --interactive").stdin("watch a b c d\n"),
            ctl("watch --interactive").stdin("watch a --rev=x\n"),
            ctl("watch --interactive").stdin("progress\n"),
            ctl("watch --interactive").stdin(""),
            ctl("watch a --interactive").stdin("watch b --rev=1 --fly\n"),
        ],
    ));
}

#[test]
fn watch_runs_a_command() {
    let show =
        r#"sh -c 'echo "$ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"'"#;
    compare(&script(
        "watch_runs_a_command",
        vec![
            ctl("put x 1"),
            ctl("put x 'two words'"),
            ctl("del x"),
            spawn("w", &format!("watch x --rev=4 -- {show}")),
            await_lines("w", 4),
            ctl("put x 'live value'"),
            await_lines("w", 8),
            ctl("txn").stdin("\nput x 3\n\n\n"),
            await_lines("w", 12),
            stop("w"),
            spawn("w", "watch x --rev=6 -- false"),
            await_exit("w"),
            spawn("w", "watch x --rev=6 -- /no/such/command"),
            await_exit("w"),
        ],
    ));
}
