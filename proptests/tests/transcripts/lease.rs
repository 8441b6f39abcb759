//! lease grant, revoke, timetolive, list, keep-alive and expiry.

use cairn_proptests::script::{Step, Until, all, await_exit, await_lines, ctl, script, spawn, stop};
use cairn_proptests::transcript::compare;

#[test]
fn lease_commands() {
    let mut steps = vec![
        ctl("lease list"),
        ctl("lease grant 1000").capture("L1", 0, 1),
        ctl("lease grant 2000 -w json").replace(r#""ID":"?[^,]*"#, r#""ID":<lease>"#),
        ctl("lease grant 3000 -w fields").replace(r#""ID" : .*"#, r#""ID" : <lease>"#),
        ctl("lease list"),
        ctl("lease list -w table"),
    ];
    steps.extend(all(&[
        "lease grant",
        "lease grant x",
        "lease grant 0",
        "lease grant 1",
        "lease grant -- -5",
        "lease grant 9000000001",
        "lease grant 99999999999999999999",
        "lease grant 10 20",
        "lease timetolive {L1}",
        "lease timetolive {L1} --keys",
        "put k2 v --lease={L1}",
        "put k1 v --lease={L1}",
        "get k1 -w fields",
        "lease timetolive {L1}",
    ]));
    // The order of attached keys is that of a Go map.
    steps.push(ctl("lease timetolive {L1} --keys").replace(r"keys\(\[(k1 k2|k2 k1)\]\)", "keys([both])"));
    steps.extend([
        ctl("lease timetolive {L1} --keys -w json")
            .replace(r#""ttl":(99\d|1000),"#, r#""ttl":<n>,"#)
            .replace(r#""keys":\["azE=","azI="\]|"keys":\["azI=","azE="\]"#, r#""keys":[both]"#),
        ctl("lease timetolive {L1} -w fields").replace(r#""TTL" : (99\d|1000)"#, r#""TTL" : <n>"#),
    ]);
    steps.extend(all(&[
        "lease timetolive 1234567",
        "lease timetolive 1234567 --keys",
        "lease timetolive 1234567 -w json",
        "lease timetolive xyz",
        "lease timetolive",
        "lease keep-alive {L1} --once",
        "lease keep-alive {L1} --once -w json",
        "lease keep-alive {L1} --once -w fields",
        "lease keep-alive 1234567 --once",
        "lease keep-alive 1234567",
        "lease keep-alive xyz --once",
        "lease keep-alive",
        "put k1 detached",
    ]));
    steps.extend(all(&[
        "lease timetolive {L1} --keys",
        "lease revoke 1234567",
        "lease revoke xyz",
        "lease revoke",
        "lease revoke {L1}",
        "lease revoke {L1}",
        "lease timetolive {L1} --keys",
        "get k --prefix -w json",
        "put k3 v --lease={L1}",
        "lease fly",
    ]));
    compare(&script("lease_commands", steps));
}

#[test]
fn lease_expiry() {
    compare(&script(
        "lease_expiry",
        vec![
            ctl("lease grant 2").capture("SHORT", 0, 1),
            ctl("lease grant 2").capture("KEPT", 0, 1),
            ctl("put e/1 v --lease={SHORT}"),
            ctl("put e/2 v --lease={SHORT}"),
            ctl("put kept v --lease={KEPT}"),
            spawn("alive", "lease keep-alive {KEPT}").collapsed(),
            // All keys of a lease vanish in one revision.
            spawn("w", "watch e/ --prefix --rev=4 -w json"),
            await_lines("w", 1),
            ctl("get e/ --prefix -w json").until(Until::Contains(r#""revision":5"#)),
            ctl("get e/ --prefix --rev=4 -w json"),
            stop("w"),
            ctl("lease timetolive {SHORT}"),
            ctl("lease keep-alive {SHORT} --once"),
            ctl("lease revoke {SHORT}"),
            ctl("get kept -w fields"),
            await_lines("alive", 4),
            ctl("lease timetolive {KEPT}"),
            ctl("lease revoke {KEPT}"),
            ctl("get kept -w json"),
            await_exit("alive"),
        ],
    ));
}

#[test]
fn leases_survive_a_crash() {
    compare(&script(
        "leases_survive_a_crash",
        vec![
            ctl("lease grant 500").capture("L", 0, 1),
            ctl("put a v --lease={L}"),
            ctl("put b v --lease={L}"),
            ctl("put b v"),
            Step::Restart(0),
            ctl("lease list"),
            ctl("lease timetolive {L} --keys"),
            ctl("lease keep-alive {L} --once"),
            ctl("lease revoke {L}"),
            ctl("get '' --prefix -w json"),
        ],
    ));
}
