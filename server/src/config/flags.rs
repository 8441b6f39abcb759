//! The syntax of command-line flags and of their values, as Go's `flag` package has it.
//!
//! Owns: splitting arguments into (flag, value) pairs, the number, boolean and
//! duration grammars, and Go's quoting. Knows nothing of what a flag means.
//! Invariant: an accepted value is accepted by etcd too, and a rejected one is
//! rejected with etcd's text; scripts compare both.

use std::time::Duration;

use super::table::{self, Flag, Kind};

/// Why the argument list could not be parsed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SyntaxError {
    /// `-h` or `--help` was met; nothing after it was looked at.
    Help,
    /// Go's text; etcd exits with 2 after it.
    Usage(String),
}

/// The flags that were given, in order, and the first argument that is none.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) set: Vec<(&'static Flag, String)>,
    pub(super) stray: Option<String>,
}

/// Splits an argument list. Values are checked as they are met, so the first
/// error wins, as in Go.
pub(super) fn parse(args: impl Iterator<Item = String>) -> Result<Parsed, SyntaxError> {
    let mut parsed = Parsed::default();
    let mut args = args;
    while let Some(arg) = args.next() {
        if arg.len() < 2 || !arg.starts_with('-') {
            parsed.stray = Some(arg);
            break;
        }
        if arg == "--" {
            parsed.stray = args.next();
            break;
        }
        let body = arg.strip_prefix("--").unwrap_or(&arg[1..]);
        if body.is_empty() || body.starts_with('-') || body.starts_with('=') {
            return Err(SyntaxError::Usage(format!("bad flag syntax: {arg}")));
        }
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let Some(flag) = table::find(name) else {
            if name == "h" || name == "help" {
                return Err(SyntaxError::Help);
            }
            return Err(SyntaxError::Usage(format!("flag provided but not defined: -{name}")));
        };
        let value = match inline {
            Some(value) => value,
            None if flag.kind.stands_alone() => "true".to_owned(),
            None => match args.next() {
                Some(value) => value,
                None => return Err(SyntaxError::Usage(format!("flag needs an argument: -{name}"))),
            },
        };
        if let Err(why) = flag.kind.check(&value) {
            let text = match flag.kind {
                Kind::Bool => format!("invalid boolean value {} for -{name}: {why}", quote(&value)),
                _ => format!("invalid value {} for flag -{name}: {why}", quote(&value)),
            };
            return Err(SyntaxError::Usage(text));
        }
        parsed.set.push((flag, value));
    }
    Ok(parsed)
}

/// A string in Go's `%q` form.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            c if (c as u32) < 0x80 && c.is_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Several strings as Go prints a quoted list: `["a" "b"]`.
pub(super) fn quote_list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    format!("[{}]", items.into_iter().map(quote).collect::<Vec<_>>().join(" "))
}

/// Go's boolean words.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Why a number was rejected; Go tells the two apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NumberError {
    Syntax,
    Range,
}

/// An unsigned integer with Go's base prefixes (`0x`, `0o`, `0b`, leading `0`)
/// and digit separators.
pub(super) fn parse_uint(text: &str, bits: u32) -> Result<u64, NumberError> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix, prefixed) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16, true),
        [b'0', b'b', ..] => (&lower[2..], 2, true),
        [b'0', b'o', ..] => (&lower[2..], 8, true),
        [b'0', _, ..] => (&lower[1..], 8, true),
        _ => (&lower[..], 10, false),
    };
    // A separator is legal after a base prefix and between two digits.
    if digits.ends_with('_') || digits.contains("__") || (!prefixed && digits.starts_with('_')) {
        return Err(NumberError::Syntax);
    }
    let digits = digits.replace('_', "");
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(NumberError::Syntax);
    }
    let value = u64::from_str_radix(&digits, radix).map_err(|_| NumberError::Range)?;
    if bits < 64 && value >> bits != 0 { Err(NumberError::Range) } else { Ok(value) }
}

/// A signed 64-bit integer in the same grammar.
pub(super) fn parse_int(text: &str) -> Result<i64, NumberError> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let value = i128::from(parse_uint(digits, 64)?);
    i64::try_from(if negative { -value } else { value }).map_err(|_| NumberError::Range)
}

/// A Go duration in nanoseconds (`1h30m`, `-1.5s`, `100us`, `0`), or the part
/// of Go's error after `time: `.
pub(super) fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid duration {}", quote(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale: i128 = match unit {
            "" => return Err(format!("missing unit in duration {}", quote(text))),
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            other => return Err(format!("unknown unit {} in duration {}", quote(other), quote(text))),
        };
        // Eighteen digits cannot overflow i128 after scaling; more cannot fit i64 anyway.
        let whole = whole.trim_start_matches('0');
        if whole.len() > 18 {
            return Err(invalid());
        }
        total += whole.parse::<i128>().unwrap_or(0) * scale;
        let fraction = &fraction[..fraction.len().min(18)];
        if !fraction.is_empty() {
            let value: i128 = fraction.parse().unwrap_or(0);
            total += value * scale / 10_i128.pow(fraction.len() as u32);
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// A duration as Go prints it: `1h0m0s`, `1.5s`, `100ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let decimal = |value: u128, unit: u128, name: &str| {
        let fraction = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let whole = value / unit;
        if fraction.is_empty() { format!("{whole}{name}") } else { format!("{whole}.{fraction}{name}") }
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => decimal(nanos, 1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => decimal(nanos, 1_000_000, "ms"),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_args(args: &[&str]) -> Result<Parsed, SyntaxError> {
        parse(args.iter().map(|a| (*a).to_owned()))
    }

    #[test]
    fn accepts_all_spellings_of_a_flag() {
        for args in [&["-name", "x"][..], &["--name", "x"], &["-name=x"], &["--name=x"]] {
            let parsed = parse_args(args).expect("legal");
            assert_eq!(parsed.set.len(), 1, "{args:?}");
            assert_eq!((parsed.set[0].0.name, parsed.set[0].1.as_str()), ("name", "x"));
        }
    }

    #[test]
    fn boolean_takes_no_separate_value() {
        let parsed = parse_args(&["--pre-vote", "false"]).expect("legal syntax");
        assert_eq!(parsed.set[0].1, "true");
        assert_eq!(parsed.stray.as_deref(), Some("false"));
    }

    #[test]
    fn durations_follow_go() {
        let cases: &[(&str, Result<i64, &str>)] = &[
            ("5s", Ok(5_000_000_000)),
            ("1h30m", Ok(5_400_000_000_000)),
            ("-1.5s", Ok(-1_500_000_000)),
            (".5s", Ok(500_000_000)),
            ("100us", Ok(100_000)),
            ("0", Ok(0)),
            ("5", Err("missing unit in duration \"5\"")),
            ("x", Err("invalid duration \"x\"")),
            ("5x", Err("unknown unit \"x\" in duration \"5x\"")),
            ("", Err("invalid duration \"\"")),
            ("9999999h", Err("invalid duration \"9999999h\"")),
        ];
        for (text, want) in cases {
            assert_eq!(parse_duration(text), want.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn durations_print_as_go_does() {
        for (nanos, want) in [
            (0, "0s"),
            (100_000_000, "100ms"),
            (1_500_000_000, "1.5s"),
            (600_000_000_000, "10m0s"),
            (7_200_000_000_000, "2h0m0s"),
            (1_500, "1.5\u{b5}s"),
            (1_050_000_000, "1.05s"),
        ] {
            assert_eq!(format_duration(Duration::from_nanos(nanos)), want);
        }
    }

    #[test]
    fn numbers_follow_go() {
        assert_eq!(parse_uint("0x10", 64), Ok(16));
        assert_eq!(parse_uint("010", 64), Ok(8));
        assert_eq!(parse_uint("1_000", 64), Ok(1000));
        assert_eq!(parse_uint("1__0", 64), Err(NumberError::Syntax));
        assert_eq!(parse_uint("0x_1", 64), Ok(1));
        assert_eq!(parse_uint("-1", 64), Err(NumberError::Syntax));
        assert_eq!(parse_uint("99999999999", 32), Err(NumberError::Range));
        assert_eq!(parse_int("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_int("9223372036854775808"), Err(NumberError::Range));
    }

    #[test]
    fn quoting_follows_go() {
        assert_eq!(quote("a\"b\\\n\u{1}"), "\"a\\\"b\\\\\\n\\x01\"");
        assert_eq!(quote_list(["a", "b"]), "[\"a\" \"b\"]");
    }
}
