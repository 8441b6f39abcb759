//! The server's configuration: from arguments, environment and file to one value.
//!
//! `load` is the only entry. It reads nothing by itself (the file reader and
//! the environment are passed in, the default host is asked for only when a
//! listener is on 0.0.0.0), prints nothing and never exits: it returns what to
//! print and which code to exit with.
//! Invariants: a file overrides all flags and variables; a flag and a variable
//! for the same option never mix; the first line of an error is etcd's text,
//! what Cairn adds (source, hint) stands on the lines after it.

mod bootstrap;
mod env;
mod flags;
mod gates;
mod help;
pub mod table;
mod urls;
mod validate;
mod values;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

pub use self::bootstrap::resolve_host;
pub(crate) use self::bootstrap::same_endpoints;
pub use self::flags::format_duration;
pub use self::gates::{Features, Stage};
pub use self::urls::{Url, join as join_urls, parse_list as parse_url_list};
use self::values::Values;
use crate::log::{LogConfig, LogLevel};
use crate::version;

/// What to do after the configuration was read.
#[derive(Debug)]
pub enum Loaded {
    /// Start the server.
    Run {
        /// The validated configuration.
        config: Box<Config>,
        /// What to log once the logger exists.
        notices: Vec<Notice>,
    },
    /// Print and exit.
    Exit {
        /// The exit status.
        code: i32,
        /// Text for standard output.
        stdout: String,
        /// Text for standard error.
        stderr: String,
    },
}

/// A line to log once the logger exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Its level.
    pub level: LogLevel,
    /// The message.
    pub msg: String,
    /// Names and values that follow the message.
    pub fields: Vec<(&'static str, String)>,
}

impl Notice {
    fn new(level: LogLevel, msg: impl Into<String>, fields: &[(&'static str, &str)]) -> Notice {
        let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Notice { level, msg: msg.into(), fields }
    }

    fn warn(msg: impl Into<String>) -> Notice {
        Notice::new(LogLevel::Warn, msg, &[])
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ConfigError {
    /// etcd's text.
    pub text: String,
    /// What Cairn adds, one line each.
    pub notes: Vec<String>,
    /// etcd wraps most errors in "error verifying flags, ... See 'etcd --help'."; these it prints bare.
    bare: bool,
}

impl ConfigError {
    fn new(text: impl Into<String>) -> ConfigError {
        ConfigError { text: text.into(), notes: Vec::new(), bare: false }
    }

    fn bare(text: impl Into<String>) -> ConfigError {
        ConfigError { bare: true, ..ConfigError::new(text) }
    }

    fn note(mut self, note: impl Into<String>) -> ConfigError {
        self.notes.push(note.into());
        self
    }

    fn into_exit(self) -> Loaded {
        let mut stderr = match self.bare {
            true => self.text,
            false => format!("error verifying flags, {}. See 'etcd --help'.", self.text),
        };
        stderr.push('\n');
        for note in &self.notes {
            stderr.push_str("  ");
            stderr.push_str(note);
            stderr.push('\n');
        }
        Loaded::Exit { code: 1, stdout: String::new(), stderr }
    }
}

/// Whether the cluster is to be created or joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// `new`
    New,
    /// `existing`
    Existing,
}

/// What the periodic compaction keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// No automatic compaction.
    Off,
    /// The history of this much time.
    Periodic(Duration),
    /// This many revisions.
    Revision(i64),
}

/// The validated configuration.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each field is the flag of the same name; config/table.rs describes it")]
pub struct Config {
    pub name: String,
    pub data_dir: String,
    /// `None`: below the data directory.
    pub wal_dir: Option<String>,
    pub listen_peer_urls: Vec<Url>,
    pub listen_client_urls: Vec<Url>,
    pub listen_client_http_urls: Vec<Url>,
    pub listen_metrics_urls: Vec<Url>,
    pub initial_advertise_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    /// As text: it is checked only when the member has no data yet, see
    /// [`Config::bootstrap_cluster`].
    pub initial_cluster: String,
    pub initial_cluster_token: String,
    pub initial_cluster_state: ClusterState,
    pub strict_reconfig_check: bool,
    pub force_new_cluster: bool,
    pub max_learners: i64,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    pub max_snapshots: u64,
    pub max_wals: u64,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub initial_election_tick_advance: bool,
    pub pre_vote: bool,
    /// `None` is no quota.
    pub quota_backend_bytes: Option<u64>,
    pub backend_batch_interval: Duration,
    pub backend_batch_limit: u64,
    pub bootstrap_defrag_threshold_megabytes: u64,
    pub unsafe_no_fsync: bool,
    pub max_txn_ops: u64,
    pub max_request_bytes: u64,
    pub max_concurrent_streams: u32,
    pub grpc_keepalive_min_time: Duration,
    /// Zero disables pings.
    pub grpc_keepalive_interval: Duration,
    pub grpc_keepalive_timeout: Duration,
    pub socket_reuse_port: bool,
    pub raft_read_timeout: Duration,
    pub raft_write_timeout: Duration,
    pub auto_compaction: AutoCompaction,
    pub compaction_batch_limit: u64,
    pub compaction_sleep_interval: Duration,
    pub watch_progress_notify_interval: Duration,
    pub warning_apply_duration: Duration,
    pub warning_unary_request_duration: Duration,
    /// Zero disables the check.
    pub corrupt_check_time: Duration,
    pub compact_hash_check_time: Duration,
    pub downgrade_check_time: Duration,
    /// Empty allows all.
    pub cors: Vec<String>,
    /// Empty allows all.
    pub host_whitelist: Vec<String>,
    pub bcrypt_cost: u32,
    pub auth_token_ttl: Duration,
    pub metrics_extensive: bool,
    pub features: Features,
    pub log: LogConfig,
}

/// Reads the configuration. `args` are the arguments after the program's name.
pub fn load(
    args: impl Iterator<Item = String>,
    env: &BTreeMap<String, String>,
    read_file: &dyn Fn(&str) -> io::Result<String>,
) -> Loaded {
    load_with(args, env, read_file, &default_host)
}

/// `load` with the default host as a parameter, for tests.
fn load_with(
    args: impl Iterator<Item = String>,
    env: &BTreeMap<String, String>,
    read_file: &dyn Fn(&str) -> io::Result<String>,
    default_host: &dyn Fn() -> io::Result<IpAddr>,
) -> Loaded {
    let arch = version::arch();
    if !matches!(arch, "amd64" | "arm64" | "ppc64le" | "s390x")
        && env.get("ETCD_UNSUPPORTED_ARCH").map(String::as_str) != Some(arch)
    {
        let stdout = format!("etcd on unsupported platform without ETCD_UNSUPPORTED_ARCH={arch} set\n");
        return Loaded::Exit { code: 1, stdout, stderr: String::new() };
    }
    let mut args = args.peekable();
    if let Some(command) = args.peek().filter(|arg| matches!(arg.as_str(), "gateway" | "grpc-proxy")) {
        return ConfigError::bare(format!("cairn does not support the {command} sub-command yet"))
            .into_exit();
    }
    let parsed = match flags::parse(args) {
        Ok(parsed) => parsed,
        Err(flags::SyntaxError::Help) => {
            return Loaded::Exit { code: 0, stdout: help::flags_text(), stderr: help::USAGE.to_owned() };
        }
        Err(flags::SyntaxError::Usage(text)) => {
            let stderr = format!("{text}\n{}", help::USAGE);
            return Loaded::Exit { code: 2, stdout: String::new(), stderr };
        }
    };
    if let Some(stray) = parsed.stray {
        return ConfigError::new(format!("'{stray}' is not a valid flag")).into_exit();
    }
    let mut notices = Vec::new();
    let values = Values::from_flags(parsed.set, &mut notices);
    if values.bool("version") {
        return Loaded::Exit { code: 0, stdout: version::banner(), stderr: String::new() };
    }
    match resolve(values, env, read_file, default_host, &mut notices) {
        Ok(config) => Loaded::Run { config: Box::new(config), notices },
        Err(error) => error.into_exit(),
    }
}

fn resolve(
    mut values: Values,
    env: &BTreeMap<String, String>,
    read_file: &dyn Fn(&str) -> io::Result<String>,
    default_host: &dyn Fn() -> io::Result<IpAddr>,
    notices: &mut Vec<Notice>,
) -> Result<Config, ConfigError> {
    let path = match values.str("config-file") {
        "" => env.get("ETCD_CONFIG_FILE").map_or("", String::as_str),
        path => path,
    };
    if path.is_empty() {
        env::apply(&mut values, env, notices)?;
    } else {
        notices.push(Notice::new(
            LogLevel::Info,
            "loaded server configuration, other configuration command line flags and environment variables \
             will be ignored if provided",
            &[("path", path)],
        ));
        let text = read_file(path).map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
                _ => error.to_string(),
            };
            ConfigError::new(format!("open {path}: {why}"))
        })?;
        values = yaml::parse(path, &text)?;
    }
    values.settle(notices)?;
    validate::build(&values, default_host, notices)
}

/// The address that the default route leaves from. Connecting a UDP socket
/// sends nothing; it makes the kernel choose the source address.
fn default_host() -> io::Result<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(("192.0.2.1", 9))?;
    Ok(socket.local_addr()?.ip())
}
