//! Replaces what may legitimately differ between two servers by stable names.
//!
//! Known texts first (addresses, member ids, captured lease ids), then patterns: times, durations,
//! sizes, versions, raft terms and indexes. Ids that nobody announced (a lock's session lease) are
//! named in the order of their appearance. A text that is equal on both sides stays equal; nothing
//! that a client could rely on may be removed here.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// (pattern, replacement), applied in this order.
static PATTERNS: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    [
        // How often the client library tries before its time is up is its own affair.
        (r#"(?m)^\{"level":"warn".*DeadlineExceeded desc = context deadline exceeded"\}\n"#, ""),
        // The client library's log lines.
        (r#""ts":("[^"]*"|[0-9.]+)"#, r#""ts":<time>"#),
        (r#"endpoint://client-[0-9a-f-]{36}"#, "endpoint://client-<uuid>"),
        (r#""took":[0-9.e-]+"#, r#""took":<duration>"#),
        (r#""took":"[^"]*""#, r#""took":<duration>"#),
        (r#""caller":"[^"]*""#, r#""caller":<place>"#),
        // Codes that later releases changed (A.3): the client library logs them, nobody reads them.
        (
            r"code = \w+ desc = (etcdserver: (rpc not supported for learner|re-configuration failed due to))",
            "code = <code> desc = $1",
        ),
        // Raft's numbers: JSON, fields, simple and table forms.
        (r#""(raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse)":\d+"#, r#""$1":<n>"#),
        (r#""(RaftTerm|RaftIndex|RaftAppliedIndex|DBSize)" : \d+"#, r#""$1" : <n>"#),
        (r"(true|false), (true|false), \d+, \d+, \d+, ", "$1, $2, <term>, <index>, <applied>, "),
        (
            r"\| +(true|false) \| +(true|false) \| +\d+ \| +\d+ \| +\d+ \|",
            "| $1 | $2 | <term> | <index> | <applied> |",
        ),
        // A crash of etcdctl itself: only its message is the same each time.
        (r"(?s)\n(\[signal [^\n]*\n)?\ngoroutine \d+ \[running\].*$", "\n<stack>\n"),
        // Printed as %16x: short ids are padded.
        (r"(?m)^(Member) +(<\w+>) (.*cluster) +(<\w+>)$", "$1 $2 $3 $4"),
        // Durations and sizes.
        (r"took = [0-9.]+(ns|\x{b5}s|ms|s)\b", "took = <duration>"),
        (r"\b\d+(\.\d+)?(ns|\x{b5}s|ms)\b", "<duration>"),
        (r"remaining\(-?\d+s\)", "remaining(<n>s)"),
        (r"\b\d+(\.\d+)? (B|kB|MB|GB)\b", "<size>"),
        // Versions: three numbers, and not the beginning or the end of an address.
        (r"(^|[^.\d])\d{1,2}\.\d+\.\d+(-[a-z]+[.0-9a-z]*)?(\+git)?\b", "$1<version>"),
    ]
    .into_iter()
    .map(|(pattern, with)| (Regex::new(pattern).expect("the table holds valid patterns"), with))
    .collect()
});

static ID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\b([0-9a-f]{13,16}|[0-9]{17,20})\b").expect("valid"));

static INITIAL_CLUSTER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"ETCD_INITIAL_CLUSTER="([^"]*)""#).expect("valid"));

/// The members of an answer as JSON.
static JSON_MEMBERS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#""members":\[\{([^{}]*(?:\},\{[^{}]*)*)\}\]"#).expect("valid"));

static TABLE: LazyLock<[(Regex, &'static str); 2]> = LazyLock::new(|| {
    [(Regex::new(r"-{2,}").expect("valid"), "--"), (Regex::new(r" {2,}").expect("valid"), " ")]
});

/// The names that one side's run has learnt.
#[derive(Clone, Debug, Default)]
pub struct Names {
    texts: Vec<(String, String)>,
    ids: BTreeMap<u64, String>,
    unannounced: usize,
}

impl Names {
    /// From now on shows `text` as `<name>`.
    pub fn text(&mut self, text: &str, name: &str) {
        self.texts.push((text.to_owned(), format!("<{name}>")));
        // Longest first: one address may be the beginning of another.
        self.texts.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    }

    /// From now on shows the id, in hex or decimal, as `<name>`.
    pub fn id(&mut self, id: u64, name: &str) {
        self.ids.insert(id, format!("<{name}>"));
    }

    /// The stable form of one output.
    pub fn apply(&mut self, output: &str) -> String {
        let mut output = output.to_owned();
        for (text, name) in &self.texts {
            output = output.replace(text, name);
        }
        let (ids, unannounced) = (&mut self.ids, &mut self.unannounced);
        output = ID
            .replace_all(&output, |found: &Captures<'_>| {
                let digits = &found[1];
                // Decimal when that is a known id or too long for hex; ids may have leading zeros.
                let decimal: Option<u64> = digits.parse().ok();
                let decimal = decimal.filter(|id| digits.len() > 16 || ids.contains_key(id));
                match decimal.or_else(|| u64::from_str_radix(digits, 16).ok()) {
                    Some(id) => ids
                        .entry(id)
                        .or_insert_with(|| {
                            *unannounced += 1;
                            format!("<id{unannounced}>")
                        })
                        .clone(),
                    None => digits.to_owned(),
                }
            })
            .into_owned();
        for (pattern, with) in PATTERNS.iter() {
            output = pattern.replace_all(&output, *with).into_owned();
        }
        output = INITIAL_CLUSTER
            .replace_all(&output, |found: &Captures<'_>| {
                // In the order of the ids, which of a member added at run time is a hash of the time.
                let mut members: Vec<&str> = found[1].split(',').collect();
                members.sort_unstable();
                format!("ETCD_INITIAL_CLUSTER=\"{}\"", members.join(","))
            })
            .into_owned();
        output = JSON_MEMBERS
            .replace_all(&output, |found: &Captures<'_>| {
                // In the order of the ids, too.
                let mut members: Vec<&str> = found[1].split("},{").collect();
                members.sort_unstable();
                format!(r#""members":[{{{}}}]"#, members.join("},{"))
            })
            .into_owned();
        if output.starts_with('+') {
            // A table: its columns are as wide as the texts before they were named.
            for (pattern, with) in TABLE.iter() {
                output = pattern.replace_all(&output, *with).into_owned();
            }
        }
        output
    }
}

/// A protobuf message as text: `field:value` with length-delimited fields in hex, and the header
/// (field 1 of every response) opened. The raft term (header field 4) is left out.
pub fn protobuf(bytes: &[u8]) -> String {
    let Some(fields) = fields(bytes) else { return format!("not protobuf: {bytes:02x?}") };
    let mut out = Vec::new();
    for (number, value) in fields {
        match value {
            Field::Bytes(header) if number == 1 => match self::fields(header) {
                Some(header) => out.extend(
                    header
                        .iter()
                        .filter(|(number, _)| *number != 4)
                        .map(|(number, value)| format!("header.{number}:{value}")),
                ),
                None => out.push(format!("1:{value}")),
            },
            value => out.push(format!("{number}:{value}")),
        }
    }
    out.join("\n") + "\n"
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl std::fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Field::Number(number) => write!(f, "{number}"),
            Field::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x} ")),
        }
    }
}

fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Field::Bytes(value)
            }
            _ => return None,
        };
        fields.push((tag >> 3, value));
    }
    Some(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ids_in_both_bases_and_leaves_other_numbers() {
        let mut names = Names::default();
        names.id(0xcce3_e65e_1bb1_0250, "m0");
        names.text("http://127.0.0.1:1", "EP0");
        let shown =
            names.apply("http://127.0.0.1:1, cce3e65e1bb10250, 3.4.23, 25 kB, true, false, 2, 5, 5, ");
        assert_eq!(shown, "<EP0>, <m0>, <version>, <size>, true, false, <term>, <index>, <applied>, ");
        assert_eq!(names.apply("14763897295316517456 1234 0250a1fb5c861e0e"), "<m0> 1234 <id1>");
        assert_eq!(names.apply("e/45a1fb81f88706"), "e/<id2>");
        assert_eq!(names.apply("127.0.0.1:5 3.4.23"), "127.0.0.1:5 <version>");
        assert_eq!(names.apply(r#"{"revision":2,"raft_term":2}"#), r#"{"revision":2,"raft_term":<n>}"#);
    }

    #[test]
    fn members_stand_in_one_order_whatever_their_ids() {
        let names = || {
            let mut names = Names::default();
            names.id(0x798f_80e0_fe55_d97d, "m0");
            names.id(0x777a_25b0_faba_a00d, "N");
            names
        };
        let m0 = r#"{"ID":8759361504086972797,"peerURLs":["a"],"clientURLs":["b"]}"#;
        let new = r#"{"ID":8609235079723130893,"peerURLs":["c","d"],"isLearner":true}"#;
        let expected = concat!(
            r#"{"members":[{"ID":<N>,"peerURLs":["c","d"],"isLearner":true},"#,
            r#"{"ID":<m0>,"peerURLs":["a"],"clientURLs":["b"]}]}"#
        );
        for members in [format!("{m0},{new}"), format!("{new},{m0}")] {
            let answer = format!(r#"{{"members":[{members}]}}"#);
            assert_eq!(names().apply(&answer), expected);
        }
        let alone = format!(r#"{{"members":[{m0}]}}"#);
        let expected = r#"{"members":[{"ID":<m0>,"peerURLs":["a"],"clientURLs":["b"]}]}"#;
        assert_eq!(names().apply(&alone), expected);
    }

    #[test]
    fn decodes_a_response_without_its_term() {
        let bytes = [0x0a, 4, 0x18, 2, 0x20, 9, 0x12, 2, 0x61, 0x62, 0x20, 1];
        assert_eq!(protobuf(&bytes), "header.3:2\n2:61 62 \n4:1\n");
        assert!(protobuf(&[0x0a, 9]).starts_with("not protobuf"));
    }
}
