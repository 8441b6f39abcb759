//! Environment variables as flags.
//!
//! Every flag has a variable `ETCD_` + name in upper case. Invariants: a flag
//! and its variable together are an error even when they agree; a variable
//! nobody knows is a warning, not an error; an empty variable sets nothing.

use std::collections::BTreeMap;

use super::flags::quote;
use super::table::{FLAGS, Kind, Status};
use super::values::{Source, Values, suspicious};
use super::{ConfigError, Notice};
use crate::log::LogLevel;

/// Variables that mean something but set no flag.
const SPECIAL: [&str; 3] = ["ETCD_UNSUPPORTED_ARCH", "ETCD_VERIFY", "ETCD_CONFIG_FILE"];

/// Adds what the environment sets to `values`.
pub(super) fn apply(
    values: &mut Values,
    env: &BTreeMap<String, String>,
    notices: &mut Vec<Notice>,
) -> Result<(), ConfigError> {
    for (key, _) in env.iter().filter(|(key, _)| key.starts_with("ETCD_")) {
        if FLAGS.iter().any(|flag| values.is_set(flag.name) && flag.env() == *key) {
            return Err(ConfigError::bare(format!(
                "conflicting environment variable {} is shadowed by corresponding command-line flag \
                 (either unset environment variable or disable flag)",
                quote(key)
            )));
        }
    }
    let mut failure = None;
    let mut used = Vec::new();
    // etcd visits flags by name and reports the last failure.
    let mut flags: Vec<_> = FLAGS.iter().collect();
    flags.sort_by_key(|flag| flag.name);
    for flag in flags {
        let key = flag.env();
        let Some(value) = env.get(&key).filter(|value| !value.is_empty()) else { continue };
        if let Err(why) = flag.kind.check(value) {
            // Only the flag parser words booleans specially.
            let why = if flag.kind == Kind::Bool { "parse error".to_owned() } else { why };
            let error = ConfigError::new(format!("invalid value {} for {key}: {why}", quote(value)));
            failure = Some(suspicious(value).into_iter().fold(error, ConfigError::note));
            continue;
        }
        if flag.status == Status::Legacy {
            notices.push(Notice::warn(format!("flag \"-{}\" is no longer supported - ignoring.", flag.name)));
        }
        notices.push(Notice::new(
            LogLevel::Info,
            "recognized and used environment variable",
            &[("variable-name", &key), ("variable-value", if secret(flag.name) { "***" } else { value })],
        ));
        if let Some(hint) = suspicious(value).filter(|_| flag.name != "log-rotation-config-json") {
            notices.push(Notice::new(LogLevel::Warn, hint, &[("environment-variable", &key)]));
        }
        values.insert(flag, Source::Env(key.clone()), value.clone());
        used.push(key);
    }
    for (key, value) in env.iter().filter(|(key, _)| key.starts_with("ETCD_")) {
        if !used.contains(key) && !SPECIAL.contains(&key.as_str()) {
            let pair = format!("{key}={value}");
            notices.push(Notice::new(
                LogLevel::Warn,
                "unrecognized environment variable",
                &[("environment-variable", &pair)],
            ));
        }
    }
    failure.map_or(Ok(()), Err)
}

/// etcd logs every value; a password in a log outlives the password.
fn secret(name: &str) -> bool {
    matches!(name, "discovery-password" | "discovery-user")
}
