//! The raw values of one start and where each came from.
//!
//! Owns sources, defaults and the fate of flags that are aliases, have no
//! effect or are refused. Values are texts in flag syntax that have passed
//! their `Kind::check`, so the typed readers below cannot fail.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::flags::{parse_bool, parse_duration, parse_int, parse_uint, quote};
use super::table::{self, Flag, Kind, Status};
use super::urls::{self, Url};
use super::{ConfigError, Notice, gates};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A flag of this name.
    Flag(&'static str),
    /// The environment variable.
    Env(String),
    /// A key of a file.
    File(String, &'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag(name) => write!(f, "flag --{name}"),
            Source::Env(name) => write!(f, "environment variable {name}"),
            Source::File(path, key) => write!(f, "key {key} in {path}"),
        }
    }
}

/// All values that were set.
#[derive(Debug, Default)]
pub(super) struct Values {
    set: BTreeMap<&'static str, (Source, String)>,
    gates: Vec<(String, bool)>,
}

impl Values {
    pub(super) fn from_flags(set: Vec<(&'static Flag, String)>, notices: &mut Vec<Notice>) -> Values {
        let mut values = Values::default();
        for (flag, value) in set {
            if flag.status == Status::Legacy {
                let msg = format!("flag \"-{}\" is no longer supported - ignoring.", flag.name);
                notices.push(Notice::warn(msg));
            }
            values.insert(flag, Source::Flag(flag.name), value);
        }
        values
    }

    pub(super) fn insert(&mut self, flag: &'static Flag, source: Source, value: String) {
        self.set.insert(flag.name, (source, value));
    }

    /// Decides what becomes of each set flag: moves aliases to their target,
    /// warns of those without effect, refuses those that must not be ignored.
    pub(super) fn settle(&mut self, notices: &mut Vec<Notice>) -> Result<(), ConfigError> {
        let explicit = gates::parse(self.str("feature-gates")).expect("checked when it was set");
        for (name, (source, value)) in self.set.clone() {
            let flag = table::find(name).expect("only table flags are inserted");
            match flag.status {
                Status::Works | Status::Legacy => {}
                Status::NoOp(why) if same(flag, &value, flag.default) => {
                    // The default asks for nothing, except where it asks for a missing part.
                    if name == "enable-grpc-gateway" {
                        notices.push(no_effect(&source, why));
                    }
                }
                Status::NoOp(why) => notices.push(no_effect(&source, why)),
                Status::Refused(_) if same(flag, &value, flag.default) => {}
                Status::Refused(why) => return Err(refused(name, why, &source)),
                Status::Alias(target) => {
                    notices.push(Notice::warn(format!("{source} is deprecated, use --{target}")));
                    let to = table::find(target).expect("the table's test checks targets");
                    if let Some((other, theirs)) = self.set.get(target)
                        && !same(to, theirs, &value)
                    {
                        let text = format!("--{name} and --{target} are set to different values");
                        return Err(ConfigError::new(text).note(format!("set by {source} and by {other}")));
                    }
                    match to.status {
                        Status::Refused(why) if !same(to, &value, to.default) => {
                            return Err(refused(name, why, &source));
                        }
                        Status::NoOp(why) => notices.push(no_effect(&source, why)),
                        _ => {}
                    }
                    self.set.insert(target, (source, value));
                }
                Status::GateAlias(gate) => {
                    notices.push(Notice::warn(format!(
                        "{source} is deprecated, use --feature-gates={gate}={value}"
                    )));
                    if explicit.iter().any(|(other, _)| other == gate) {
                        return Err(ConfigError::new(format!(
                            "cannot specify both flags: --{name}=(true|false) and --feature-gates={gate}=(true|false) \
                             at the same time, please just use --feature-gates={gate}=(true|false)"
                        )));
                    }
                    self.gates.push((gate.to_owned(), parse_bool(&value).expect("checked when it was set")));
                }
            }
        }
        self.gates.extend(explicit);
        notices.extend(self.gates.iter().filter_map(|(gate, on)| {
            let why = gates::no_effect(gate, *on)?;
            Some(Notice::warn(format!("the feature gate {gate}={on} has no effect: {why}")))
        }));
        Ok(())
    }

    pub(super) fn gates(&self) -> &[(String, bool)] {
        &self.gates
    }

    pub(super) fn source(&self, name: &str) -> Option<&Source> {
        self.set.get(name).map(|(source, _)| source)
    }

    /// Set by a flag or a variable; etcd does not count a file as setting.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.source(name).is_some_and(|source| !matches!(source, Source::File(..)))
    }

    pub(super) fn str(&self, name: &str) -> &str {
        match self.set.get(name) {
            Some((_, value)) => value,
            None => table::find(name).expect("only table flags are read").default,
        }
    }

    pub(super) fn bool(&self, name: &str) -> bool {
        parse_bool(self.str(name)).expect("checked when it was set")
    }

    pub(super) fn uint(&self, name: &str) -> u64 {
        parse_uint(self.str(name), 64).expect("checked when it was set")
    }

    pub(super) fn int(&self, name: &str) -> i64 {
        parse_int(self.str(name)).expect("checked when it was set")
    }

    /// A negative duration is zero: for every flag both mean "off" or "at once".
    pub(super) fn duration(&self, name: &str) -> Duration {
        let nanos = parse_duration(self.str(name)).expect("checked when it was set");
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }

    pub(super) fn urls(&self, name: &str) -> Vec<Url> {
        urls::parse_list(self.str(name)).expect("checked when it was set")
    }

    /// An error about this flag, with its source and what looks odd in its value.
    pub(super) fn error(&self, name: &str, text: impl Into<String>) -> ConfigError {
        let error = ConfigError::new(text);
        match self.set.get(name) {
            Some((source, value)) => {
                let error = error.note(format!("{source} is {}", quote(value)));
                suspicious(value).into_iter().fold(error, ConfigError::note)
            }
            None => error.note(format!("--{name} has its default {}", quote(self.str(name)))),
        }
    }
}

/// Why a value probably is not what its author meant; env files are the usual cause.
pub(super) fn suspicious(value: &str) -> Option<String> {
    let has_comment = |mark: &str| {
        value.starts_with(mark) || value.contains(&format!(" {mark}")) || value.contains(&format!("\t{mark}"))
    };
    if has_comment("//") || has_comment("#") {
        Some("the value contains a comment; env files keep everything after '=': put comments on lines of their own".to_owned())
    } else if value.contains('"') || value.contains('\'') {
        Some("the value contains quotes; they are part of the value here: remove them".to_owned())
    } else if value.trim() != value {
        Some("the value begins or ends with a space: remove it".to_owned())
    } else {
        None
    }
}

fn refused(name: &str, why: &str, source: &Source) -> ConfigError {
    ConfigError::bare(format!("cairn does not support --{name} yet: {why}; remove the flag"))
        .note(format!("set by {source}"))
}

fn no_effect(source: &Source, why: &str) -> Notice {
    Notice::warn(format!("{source} has no effect: {why}"))
}

/// Whether two texts are the same value of this flag.
fn same(flag: &Flag, a: &str, b: &str) -> bool {
    match flag.kind {
        Kind::Bool => parse_bool(a) == parse_bool(b),
        Kind::Duration => parse_duration(a) == parse_duration(b),
        Kind::Uint | Kind::Uint32 => parse_uint(a, 64) == parse_uint(b, 64),
        Kind::Int | Kind::Int64 => parse_int(a) == parse_int(b),
        _ => a == b,
    }
}
