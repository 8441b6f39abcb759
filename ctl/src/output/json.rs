//! JSON in the order and with the omissions of Go's encoder, which is what scripts have learned.
//!
//! A zero number, a false, an empty string or list is left out by the `opt_*` methods, as
//! `omitempty` does. Bytes are base64.

use std::fmt::Write as _;

use cairn_net::proto::etcdserverpb::ResponseHeader;
use cairn_net::proto::mvccpb::KeyValue;

/// An object under construction.
pub(crate) struct Object(String);

impl Object {
    /// An empty object.
    pub(crate) fn new() -> Self {
        Self(String::from("{"))
    }

    /// Adds a value that is JSON already.
    pub(crate) fn raw(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        let _ = write!(self.0, "\"{name}\":{value}");
        self
    }

    /// Adds a text.
    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        self.raw(name, string(value))
    }

    /// Adds a text unless it is empty.
    pub(crate) fn opt_text(self, name: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.text(name, value) }
    }

    /// Adds a number unless it is zero.
    pub(crate) fn opt_number<N: std::fmt::Display + Default + PartialEq>(self, name: &str, value: N) -> Self {
        if value == N::default() { self } else { self.raw(name, value) }
    }

    /// Adds `true`, or nothing.
    pub(crate) fn opt_bool(self, name: &str, value: bool) -> Self {
        if value { self.raw(name, true) } else { self }
    }

    /// Adds base64 unless there are no bytes.
    pub(crate) fn opt_bytes(self, name: &str, value: &[u8]) -> Self {
        if value.is_empty() { self } else { self.raw(name, bytes(value)) }
    }

    /// Adds a list unless it is empty.
    pub(crate) fn opt_list<T>(self, name: &str, items: &[T], show: impl Fn(&T) -> String) -> Self {
        if items.is_empty() { self } else { self.raw(name, list(items, show)) }
    }

    /// Adds a response header, when the message has one.
    pub(crate) fn header(self, header: &Option<ResponseHeader>) -> Self {
        match header {
            Some(h) => self.raw("header", header_object(h)),
            None => self,
        }
    }

    /// Adds the header's fields to this object itself, as Go's embedded structs do.
    pub(crate) fn embedded(self, header: &Option<ResponseHeader>) -> Self {
        match header {
            Some(h) => self
                .opt_number("cluster_id", h.cluster_id)
                .opt_number("member_id", h.member_id)
                .opt_number("revision", h.revision)
                .opt_number("raft_term", h.raft_term),
            None => self,
        }
    }

    /// The finished object.
    pub(crate) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A response header.
pub(crate) fn header_object(header: &ResponseHeader) -> String {
    Object::new().embedded(&Some(*header)).end()
}

/// A key-value pair.
pub(crate) fn kv(kv: &KeyValue) -> String {
    Object::new()
        .opt_bytes("key", &kv.key)
        .opt_number("create_revision", kv.create_revision)
        .opt_number("mod_revision", kv.mod_revision)
        .opt_number("version", kv.version)
        .opt_bytes("value", &kv.value)
        .opt_number("lease", kv.lease)
        .end()
}

/// A list.
pub(crate) fn list<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(","))
}

/// A quoted string; Go also escapes the characters that are special in HTML.
pub(crate) fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Bytes as a base64 string.
pub(crate) fn bytes(input: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::from("\"");
    for chunk in input.chunks(3) {
        let word = (0..3).fold(0u32, |word, i| (word << 8) | u32::from(*chunk.get(i).unwrap_or(&0)));
        for i in 0..4 {
            if i <= chunk.len() {
                out.push(char::from(ALPHABET[(word >> (18 - 6 * i)) as usize & 63]));
            } else {
                out.push('=');
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads() {
        assert_eq!(bytes(b"a"), "\"YQ==\"");
        assert_eq!(bytes(b"ab"), "\"YWI=\"");
        assert_eq!(bytes(b"a\xff\x00\"\\\n\t\xc3\xa9"), "\"Yf8AIlwKCcOp\"");
    }

    #[test]
    fn zero_values_are_left_out() {
        let text = Object::new().opt_number("a", 0u64).opt_text("b", "<").opt_bool("c", false).end();
        assert_eq!(text, "{\"b\":\"\\u003c\"}");
    }
}
