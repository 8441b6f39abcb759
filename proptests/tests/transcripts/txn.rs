//! txn, interactive and from a script on stdin.

use cairn_proptests::script::{Step, all, ctl, script};
use cairn_proptests::transcript::compare;

fn txn(stdin: &str) -> Step {
    ctl("txn").stdin(stdin)
}

/// A transaction with that compare and a visible result.
fn when(compare: &str) -> Step {
    txn(&format!("{compare}\n\nput result yes\n\nput result no\n\n"))
}

#[test]
fn txn_compares() {
    let mut steps = all(&["put a 5", "put a 6", "put b x"]);
    steps.push(ctl("lease grant 600").capture("L", 0, 1));
    steps.push(ctl("put c leased --lease={L}"));
    for operator in ["=", "!=", "<", ">"] {
        for (target, value) in [
            ("value(\"a\")", "\"6\""),
            ("val(\"a\")", "\"7\""),
            ("version(\"a\")", "\"2\""),
            ("ver(\"a\")", "\"3\""),
            ("create(\"a\")", "\"2\""),
            ("c(\"a\")", "\"1\""),
            ("mod(\"a\")", "\"3\""),
            ("m(\"a\")", "\"9\""),
            ("value(\"missing\")", "\"\""),
            ("version(\"missing\")", "\"0\""),
            ("create(\"missing\")", "\"0\""),
            ("mod(\"missing\")", "\"0\""),
        ] {
            steps.push(when(&format!("{target} {operator} {value}")));
        }
    }
    steps.extend([
        // etcdctl 3.4 crashes on each comparison of a lease; the differential test has them.
        when("lease(\"c\") = \"{L}\""),
        when("value(\"a\") = \"6\"\nvalue(\"b\") = \"x\""),
        when("value(\"a\") = \"6\"\nvalue(\"b\") = \"y\""),
        when(""),
        ctl("get result -w fields"),
    ]);
    compare(&script("txn_compares", steps));
}

#[test]
fn txn_operations() {
    let body = "value(\"a\") = \"1\"\n\nput a 2\nput d 1 --prev-kv\nget a\nget --prefix p/\ndel p/1 --prev-kv\nget --prefix p/\ndel none\nput a/b \"two words\"\n\nget a\n\n";
    let mut steps = all(&["put a 1", "put p/1 x", "put p/2 y"]);
    steps.extend([
        txn(body),
        txn(body),
        ctl("txn -w json").stdin("mod(\"a\") > \"0\"\n\nput a 3 --prev-kv\nget a\ndel p/2 --prev-kv\n\n\n"),
        ctl("txn -w fields").stdin("mod(\"a\") > \"0\"\n\nput a 4 --prev-kv\nget a\ndel none\n\n\n"),
        ctl("txn -w protobuf").stdin("\nput a 5\n\n\n"),
        ctl("txn -w table").stdin("\nput a 6\n\n\n"),
        ctl("txn --interactive").stdin("mod(\"a\") > \"0\"\n\nput a 7\nget a\n\nget b\n\n"),
        ctl("txn -i").stdin("mod(\"a\") < \"0\"\n\nput a 8\n\nget b\nget a\n\n"),
        txn("\n\n\n"),
        ctl("get '' --prefix -w json"),
        txn("\nget a --rev=2\nget a --limit=1\nget --keys-only --prefix \"\"\n\n\n"),
        txn("\nput only-read 0\nget a --rev=5\n\n\n"),
        ctl("get only-read"),
    ]);
    compare(&script("txn_operations", steps));
}

#[test]
fn txn_errors() {
    let many = |count: usize| (0..count).map(|number| format!("put k{number} v\n")).collect::<String>();
    let many_compares =
        |count: usize| (0..count).map(|number| format!("ver(\"k{number}\") = \"0\"\n")).collect::<String>();
    compare(&script(
        "txn_errors",
        vec![
            ctl("put a 1"),
            txn("\nput a 1\nput a 2\n\n\n"),
            txn("\nput a 1\ndel a\n\n\n"),
            txn("\ndel a\nput a 1\n\n\n"),
            txn("\ndel --prefix a\nput ab 1\n\n\n"),
            txn("\ndel a\ndel a\n\n\n"),
            txn("\n\nput x 1\nput x 2\n\n"),
            txn("version(\"a\") > \"99\"\n\nput y 1\n\nput y 2\n\n"),
            txn("\nput \"\" v\n\n\n"),
            txn("\nput a v --lease=1234567\n\n\n"),
            txn("\nput first 1\nput b --ignore-value\n\n\n"),
            ctl("get first"),
            txn("\nput second 1\nget a --rev=99\n\n\n"),
            ctl("get second"),
            txn(&format!("\n{}\n\n", many(128))),
            txn(&format!("\n{}\n\n", many(129))),
            txn(&format!("\n\n{}\n", many(129))),
            txn(&format!("{}\nput many 1\n\n\n", many_compares(129))),
            txn("nonsense\n\n\n\n"),
            txn("value(\"a\") ~ \"1\"\n\n\n\n"),
            txn("version(\"a\") = \"x\"\n\n\n\n"),
            txn("value(a) = 1\n\nget a\n\n\n"),
            txn("\nfly a\n\n\n"),
            txn("\nput a\n\n\n"),
            ctl("txn extra"),
            ctl("get '' --prefix --keys-only --limit=5"),
            ctl("compaction 3"),
            txn("\nput third 1\nget a --rev=2\n\n\n"),
            ctl("get third -w json"),
        ],
    ));
}
