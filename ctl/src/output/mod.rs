//! What all commands share when they print: the formats, the header, bytes in Go's notations.
//!
//! Output is built in memory and written once, so that a reader of the pipe sees whole records.
//! Nothing here asks the server for anything.

pub(crate) mod json;
pub(crate) mod table;

use std::fmt::Write as _;
use std::io::Write as _;

use cairn_net::proto::etcdserverpb::ResponseHeader;
use cairn_net::proto::mvccpb::KeyValue;

use crate::error::{CtlError, EXIT_BAD_FEATURE, Outcome};

/// The value of `--write-out`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Lines for people and shells.
    Simple,
    /// One JSON document a response.
    Json,
    /// `"Name" : value` lines.
    Fields,
    /// The encoded response.
    Protobuf,
    /// A drawn table.
    Table,
}

impl Format {
    /// The format of a name, or etcdctl's complaint.
    pub(crate) fn named(name: &str) -> Outcome<Self> {
        match name {
            "simple" => Ok(Self::Simple),
            "json" => Ok(Self::Json),
            "fields" => Ok(Self::Fields),
            "protobuf" => Ok(Self::Protobuf),
            "table" => Ok(Self::Table),
            _ => Err(CtlError::new(EXIT_BAD_FEATURE, "unsupported output format")),
        }
    }

    /// The error of a command that cannot print in this format.
    pub(crate) fn unsupported(self) -> CtlError {
        let name = match self {
            Self::Simple => "simple",
            Self::Json => "json",
            Self::Fields => "fields",
            Self::Protobuf => "protobuf",
            Self::Table => "table",
        };
        CtlError::new(EXIT_BAD_FEATURE, format!("{name} not supported as output format"))
    }
}

/// Writes to stdout and flushes.
pub(crate) fn print(bytes: &[u8]) -> Outcome {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// Prints a text with a newline.
pub(crate) fn print_line(line: &str) -> Outcome {
    print(format!("{line}\n").as_bytes())
}

/// A key or value as `simple` shows it: raw, or each byte as `\xNN` with `--hex`.
pub(crate) fn push_bytes(out: &mut Vec<u8>, bytes: &[u8], hex: bool) {
    if hex {
        for byte in bytes {
            out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    } else {
        out.extend_from_slice(bytes);
    }
}

/// The key line and the value line of `simple`.
pub(crate) fn push_kv(out: &mut Vec<u8>, kv: &KeyValue, hex: bool, value_only: bool) {
    if !value_only {
        push_bytes(out, &kv.key, hex);
        out.push(b'\n');
    }
    push_bytes(out, &kv.value, hex);
    out.push(b'\n');
}

/// The header as `fields` shows it.
pub(crate) fn push_header(out: &mut String, header: &ResponseHeader) {
    let _ = writeln!(out, "\"ClusterID\" : {}", header.cluster_id);
    let _ = writeln!(out, "\"MemberID\" : {}", header.member_id);
    let _ = writeln!(out, "\"Revision\" : {}", header.revision);
    let _ = writeln!(out, "\"RaftTerm\" : {}", header.raft_term);
}

/// A key-value pair as `fields` shows it; `prefix` is empty or `Prev`.
pub(crate) fn push_kv_fields(out: &mut String, prefix: &str, kv: &KeyValue) {
    let _ = writeln!(out, "\"{prefix}Key\" : {}", quote(&kv.key));
    let _ = writeln!(out, "\"{prefix}CreateRevision\" : {}", kv.create_revision);
    let _ = writeln!(out, "\"{prefix}ModRevision\" : {}", kv.mod_revision);
    let _ = writeln!(out, "\"{prefix}Version\" : {}", kv.version);
    let _ = writeln!(out, "\"{prefix}Value\" : {}", quote(&kv.value));
    let _ = writeln!(out, "\"{prefix}Lease\" : {}", kv.lease);
}

/// Go's `%q`: printable UTF-8 as it is, the rest escaped, invalid bytes as `\xNN`.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\u{7}' => out.push_str("\\a"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{b}' => out.push_str("\\v"),
                c if (c as u32) < 0x20 || c == '\u{7f}' => {
                    let _ = write!(out, "\\x{:02x}", c as u32);
                }
                c if c.is_control() => {
                    let _ = write!(out, "\\u{:04x}", c as u32);
                }
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

/// A size as etcdctl shows it: decimal units, one digit below ten.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut exponent = 0;
    let mut scale = 1u64;
    while exponent + 1 < UNITS.len() && bytes / scale >= 1000 {
        scale *= 1000;
        exponent += 1;
    }
    let value = (bytes as f64 / scale as f64 * 10.0 + 0.5).floor() / 10.0;
    if value < 10.0 {
        format!("{value:.1} {}", UNITS[exponent])
    } else {
        format!("{value:.0} {}", UNITS[exponent])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_as_go_does() {
        assert_eq!(quote(b"a\xff\x00\"\\\n\t\xc3\xa9"), "\"a\\xff\\x00\\\"\\\\\\n\\t\u{e9}\"");
    }

    #[test]
    fn sizes_have_one_digit_below_ten() {
        assert_eq!(size(20_480), "20 kB");
        assert_eq!(size(32_992), "33 kB");
        assert_eq!(size(1_500), "1.5 kB");
        assert_eq!(size(9), "9 B");
    }
}
