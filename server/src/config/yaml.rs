//! The configuration file.
//!
//! Keys are flag names, a few below a section (`Flag::yaml_path`). Invariants:
//! the file stands alone, nothing of the command line or the environment is
//! mixed in; an unknown key is ignored, as etcd does; a value of the wrong type
//! is an error with etcd's text and the file's name.

use serde_yaml_ng::{Mapping, Value};

use super::ConfigError;
use super::flags::{parse_duration, quote};
use super::table::{FLAGS, Flag, Kind, Status};
use super::values::{Source, Values};

/// Reads a whole file.
pub(super) fn parse(path: &str, text: &str) -> Result<Values, ConfigError> {
    let document: Value = serde_yaml_ng::from_str(text).map_err(|error| {
        let line = error
            .location()
            .map_or(String::new(), |at| format!(" line {}, column {}", at.line(), at.column()));
        ConfigError::new(format!("error converting YAML to JSON: yaml: {error}"))
            .note(format!("in {path}{line}"))
    })?;
    let mut values = Values::default();
    let top = match document {
        Value::Null => return Ok(values),
        Value::Mapping(top) => top,
        other => {
            let text = format!(
                "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type embed.configYAML",
                type_name(&other)
            );
            return Err(ConfigError::new(text).note(format!("in {path}")));
        }
    };
    for flag in FLAGS {
        if flag.status == Status::Legacy || matches!(flag.name, "config-file" | "version") {
            continue;
        }
        let (section, key) = flag.yaml_path();
        let value = match section {
            None => lookup(&top, key),
            Some(section) => match lookup(&top, section) {
                Some(Value::Mapping(inner)) => lookup(inner, key),
                None | Some(Value::Null) => None,
                Some(other) => return Err(mismatch(&describe(other), section, "struct", path)),
            },
        };
        let Some(value) = value.filter(|value| !value.is_null()) else { continue };
        let text = convert(flag, key, value, path)?;
        if let Err(why) = flag.kind.check(&text) {
            return Err(bad_value(flag, &text, &why).note(format!("key {key} in {path} is {}", quote(&text))));
        }
        values.insert(flag, Source::File(path.to_owned(), key), text);
    }
    Ok(values)
}

/// JSON decoding in Go prefers an exact key but takes any case.
fn lookup<'a>(map: &'a Mapping, key: &str) -> Option<&'a Value> {
    map.get(key).or_else(|| {
        map.iter()
            .find(|(k, _)| k.as_str().is_some_and(|k| k.eq_ignore_ascii_case(key)))
            .map(|(_, value)| value)
    })
}

/// The value in flag syntax, or Go's complaint about its type.
fn convert(flag: &Flag, key: &str, value: &Value, path: &str) -> Result<String, ConfigError> {
    let wrong = |go_type: &str| mismatch(&describe(value), key, go_type, path);
    let scalar = match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(on) => Some(on.to_string()),
        _ => None,
    };
    match flag.kind {
        Kind::Bool => match value {
            Value::Bool(on) => Ok(on.to_string()),
            // YAML 1.1 words, which etcd's parser reads as booleans.
            Value::String(word) => match word.to_ascii_lowercase().as_str() {
                "yes" | "on" | "y" => Ok("true".to_owned()),
                "no" | "off" | "n" => Ok("false".to_owned()),
                _ => Err(wrong("bool")),
            },
            _ => Err(wrong("bool")),
        },
        Kind::Uint | Kind::Uint32 => match value {
            Value::Number(number) if number.is_u64() => Ok(number.to_string()),
            _ => Err(wrong(if flag.kind == Kind::Uint32 { "uint32" } else { "uint" })),
        },
        Kind::Int | Kind::Int64 => match value {
            Value::Number(number) if number.is_i64() => Ok(number.to_string()),
            _ => Err(wrong(if flag.kind == Kind::Int64 { "int64" } else { "int" })),
        },
        // etcd takes nanoseconds only; a text is unambiguous, so it is taken too.
        Kind::Duration => match value {
            Value::Number(number) if number.is_i64() => Ok(format!("{number}ns")),
            Value::String(text) if parse_duration(text).is_ok() => Ok(text.clone()),
            _ => Err(wrong("time.Duration")),
        },
        Kind::StrList => match value {
            Value::Sequence(items) => {
                let items: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
                items.map(|items| items.join(",")).ok_or_else(|| wrong("[]string"))
            }
            _ => Err(wrong("[]string")),
        },
        _ => scalar.ok_or_else(|| wrong("string")),
    }
}

fn bad_value(flag: &Flag, text: &str, why: &str) -> ConfigError {
    match (flag.name, flag.kind) {
        ("initial-cluster-state", _) => ConfigError::new(format!("unexpected clusterState {}", quote(text))),
        ("proxy", _) => ConfigError::bare(format!("unexpected error setting up proxyFlag: {why}")),
        ("discovery-fallback", _) => {
            ConfigError::bare(format!("unexpected error setting up discovery-fallback flag: {why}"))
        }
        // etcd's label for this one is a slip, but scripts may know it.
        ("advertise-client-urls", _) => {
            ConfigError::bare(format!("unexpected error setting up advertise-peer-urls: {why}"))
        }
        (name, Kind::Urls | Kind::Origins) => {
            ConfigError::bare(format!("unexpected error setting up {name}: {why}"))
        }
        (name, _) => ConfigError::new(format!("invalid value {} for {name}: {why}", quote(text))),
    }
}

fn mismatch(found: &str, key: &str, go_type: &str, path: &str) -> ConfigError {
    ConfigError::new(format!(
        "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go struct field \
         configYAML.{key} of type {go_type}"
    ))
    .note(format!("in {path}"))
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Sequence(_) => "array",
        Value::Mapping(_) | Value::Tagged(_) => "object",
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("number {number}"),
        other => type_name(other).to_owned(),
    }
}
