//! From raw values to `Config`: every check that needs no data directory.
//!
//! The order of the checks is etcd's, because with two mistakes the first one
//! is reported. Errors carry etcd's text; `Values::error` adds the source.
//! Never opens a file or a socket (the default host is a parameter).

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::flags::{format_duration, parse_duration, parse_int, quote};
use super::urls::{Url, join};
use super::values::Values;
use super::{AutoCompaction, ClusterState, Config, ConfigError, Features, Notice, table};
use crate::log::{LogConfig, LogFormat, LogLevel, LogOutput, Rotation};

const ELECTION_MS_MAX: u64 = 50_000;
const QUOTA_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;
const QUOTA_RECOMMENDED_MAX: u64 = 8 * 1024 * 1024 * 1024;
const REQUEST_BYTES_RECOMMENDED_MAX: u64 = 10 * 1024 * 1024;
const RAFT_TIMEOUT_MIN: Duration = Duration::from_secs(5);
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Checks all values and builds the configuration.
pub(super) fn build(
    values: &Values,
    default_host: &dyn Fn() -> io::Result<IpAddr>,
    notices: &mut Vec<Notice>,
) -> Result<Config, ConfigError> {
    let log = log_config(values, notices)?;
    for name in ["listen-peer-urls", "listen-client-urls", "listen-client-http-urls", "listen-metrics-urls"] {
        check_bind(values, name)?;
    }
    for name in ["initial-advertise-peer-urls", "advertise-client-urls"] {
        check_advertised(values, name)?;
    }
    check_bootstrap_flags(values)?;
    let (heartbeat_ms, election_ms) = intervals(values)?;
    check_client_advertise(values)?;
    let auto_compaction = auto_compaction(values, notices)?;
    let features = features(values)?;
    let positive = values.duration("compact-hash-check-time");
    if positive.is_zero() {
        let text = format!("--compact-hash-check-time must be >0 (set to {})", format_duration(positive));
        return Err(values.error("compact-hash-check-time", text));
    }
    refuse_tls(values)?;
    check_auth_token(values)?;
    let hosts = default_hosts(values, default_host, notices);
    let name = values.str("name").to_owned();
    let data_dir = match values.str("data-dir") {
        "" => {
            let dir = format!("{name}.etcd");
            notices.push(Notice::new(
                LogLevel::Warn,
                "no data-dir provided, using default data-dir",
                &[("data-dir", &dir)],
            ));
            dir
        }
        dir => dir.to_owned(),
    };
    let config = Config {
        data_dir,
        wal_dir: Some(values.str("wal-dir")).filter(|dir| !dir.is_empty()).map(str::to_owned),
        listen_peer_urls: values.urls("listen-peer-urls"),
        listen_client_urls: values.urls("listen-client-urls"),
        listen_client_http_urls: values.urls("listen-client-http-urls"),
        listen_metrics_urls: values.urls("listen-metrics-urls"),
        initial_advertise_peer_urls: hosts.peer,
        advertise_client_urls: hosts.client,
        initial_cluster: hosts.initial_cluster,
        initial_cluster_token: values.str("initial-cluster-token").to_owned(),
        initial_cluster_state: match values.str("initial-cluster-state") {
            "existing" => ClusterState::Existing,
            _ => ClusterState::New,
        },
        strict_reconfig_check: values.bool("strict-reconfig-check"),
        force_new_cluster: values.bool("force-new-cluster"),
        max_learners: at_least_one(values, "max-learners")? as i64,
        snapshot_count: match values.uint("snapshot-count") {
            // etcd's server takes 0 as "the default".
            0 => 10_000,
            count => count,
        },
        snapshot_catchup_entries: values.uint("snapshot-catchup-entries"),
        max_snapshots: values.uint("max-snapshots"),
        max_wals: values.uint("max-wals"),
        heartbeat_ms,
        election_ms,
        initial_election_tick_advance: values.bool("initial-election-tick-advance"),
        pre_vote: values.bool("pre-vote"),
        quota_backend_bytes: quota(values, notices),
        backend_batch_interval: match values.duration("backend-batch-interval") {
            Duration::ZERO => Duration::from_millis(100),
            interval => interval,
        },
        backend_batch_limit: u64::try_from(values.int("backend-batch-limit"))
            .ok()
            .filter(|n| *n > 0)
            .unwrap_or(10_000),
        bootstrap_defrag_threshold_megabytes: values.uint("bootstrap-defrag-threshold-megabytes"),
        unsafe_no_fsync: values.bool("unsafe-no-fsync"),
        max_txn_ops: values.uint("max-txn-ops"),
        max_request_bytes: values.uint("max-request-bytes"),
        max_concurrent_streams: values.uint("max-concurrent-streams") as u32,
        grpc_keepalive_min_time: values.duration("grpc-keepalive-min-time"),
        grpc_keepalive_interval: values.duration("grpc-keepalive-interval"),
        grpc_keepalive_timeout: values.duration("grpc-keepalive-timeout"),
        socket_reuse_port: values.bool("socket-reuse-port"),
        raft_read_timeout: no_less(values, "raft-read-timeout", RAFT_TIMEOUT_MIN, notices),
        raft_write_timeout: no_less(values, "raft-write-timeout", RAFT_TIMEOUT_MIN, notices),
        auto_compaction,
        compaction_batch_limit: at_least_one(values, "compaction-batch-limit")?,
        compaction_sleep_interval: values.duration("compaction-sleep-interval"),
        watch_progress_notify_interval: no_less(
            values,
            "watch-progress-notify-interval",
            PROGRESS_INTERVAL_MIN,
            notices,
        ),
        warning_apply_duration: values.duration("warning-apply-duration"),
        warning_unary_request_duration: values.duration("warning-unary-request-duration"),
        corrupt_check_time: values.duration("corrupt-check-time"),
        compact_hash_check_time: values.duration("compact-hash-check-time"),
        downgrade_check_time: values.duration("downgrade-check-time"),
        cors: word_set(values.str("cors")),
        host_whitelist: word_set(values.str("host-whitelist")),
        bcrypt_cost: bcrypt_cost(values, notices),
        auth_token_ttl: Duration::from_secs(values.uint("auth-token-ttl")),
        metrics_extensive: values.str("metrics") == "extensive",
        features,
        log,
        name,
    };
    warn_of_limits(&config, values, notices);
    Ok(config)
}

fn log_config(values: &Values, notices: &mut Vec<Notice>) -> Result<LogConfig, ConfigError> {
    match values.str("logger") {
        "zap" => {}
        "capnslog" => return Err(values.error("logger", "--logger=capnslog is removed in v3.5")),
        other => return Err(values.error("logger", format!("unknown logger option {}", quote(other)))),
    }
    let level = match values.str("log-level") {
        _ if values.bool("debug") && values.source("log-level").is_none() => {
            notices.push(Notice::warn("--debug is deprecated, use --log-level=debug"));
            LogLevel::Debug
        }
        text => LogLevel::parse(text)
            .ok_or_else(|| values.error("log-level", format!("unrecognized level: {}", quote(text))))?,
    };
    let format = match values.str("log-format") {
        "json" => LogFormat::Json,
        "console" => LogFormat::Console,
        other => {
            let text = format!("unknown log format: {other}, supported values json, console");
            return Err(values.error("log-format", text));
        }
    };
    let names: Vec<&str> = values.str("log-outputs").split(',').collect();
    if names.contains(&"") {
        return Err(values.error("log-outputs", "open sink \"\": open : no such file or directory"));
    }
    if names.len() > 1 && names.contains(&"default") {
        return Err(values.error("log-outputs", "multi logoutput for \"default\" is not supported yet"));
    }
    let outputs: Vec<LogOutput> = names.iter().map(|name| LogOutput::parse(name)).collect();
    let rotation = match values.bool("enable-log-rotation") {
        true => Some(rotation(values, &outputs, notices)?),
        false => None,
    };
    Ok(LogConfig { level, format, outputs, rotation })
}

fn rotation(
    values: &Values,
    outputs: &[LogOutput],
    notices: &mut Vec<Notice>,
) -> Result<Rotation, ConfigError> {
    let name = "log-rotation-config-json";
    if outputs.iter().filter(|output| matches!(output, LogOutput::File(_))).count() != 1 {
        let text = "--log-outputs requires a single file path when --log-rotate-config-json is defined";
        return Err(values.error("log-outputs", text));
    }
    let json: serde_json::Value = serde_json::from_str(values.str(name))
        .map_err(|error| values.error(name, format!("improperly formatted log rotation config: {error}")))?;
    let number = |key: &str| match json.get(key) {
        None => Ok(0),
        Some(value) => value.as_u64().ok_or_else(|| {
            values
                .error(name, format!("invalid log rotation config: {key} must be a number and not negative"))
        }),
    };
    let (maxsize, maxage, maxbackups) = (number("maxsize")?, number("maxage")?, number("maxbackups")?);
    if !json.is_object() {
        return Err(values.error(name, "invalid log rotation config: not an object"));
    }
    for key in ["compress", "localtime"] {
        if json.get(key).and_then(serde_json::Value::as_bool) == Some(true) {
            notices.push(Notice::warn(format!("log rotation option {key} has no effect in cairn")));
        }
    }
    // The library etcd uses takes 0 as 100 MB.
    let size_mb = if maxsize == 0 { 100 } else { maxsize };
    Ok(Rotation {
        size_bytes_max: size_mb.saturating_mul(1024 * 1024),
        age_days_max: maxage,
        backups_max: maxbackups,
    })
}

fn check_bind(values: &Values, name: &str) -> Result<(), ConfigError> {
    let urls = values.urls(name);
    for url in urls.iter().filter(|url| !url.is_unix() && url.host != "localhost") {
        if url.ip().is_none() {
            return Err(values.error(name, format!("expected IP in URL for binding ({url})")).note(
                "a listener needs an address: use that of an interface, or 0.0.0.0, and advertise the name instead",
            ));
        }
    }
    if let Some(url) = urls.iter().find(|url| !url.is_unix() && url.port_number().is_none()) {
        return Err(values.error(name, format!("listen tcp: address {}: invalid port", url.port)));
    }
    if urls.is_empty() && matches!(name, "listen-peer-urls" | "listen-client-urls") {
        return Err(values.error(name, format!("--{name} must not be empty")));
    }
    Ok(())
}

fn check_advertised(values: &Values, name: &str) -> Result<(), ConfigError> {
    let urls = values.urls(name);
    if let Some(url) = urls.iter().find(|url| url.host.is_empty() && !url.is_unix()) {
        let list = quote(&join(&urls));
        let text = format!("--{name} {list} must be \"host:port\" (unexpected empty host ({url}))");
        return Err(values.error(name, text));
    }
    Ok(())
}

/// Discovery is refused before this is reached, unless it is set to its default
/// explicitly; what remains is that `initial-cluster` stands alone.
fn check_bootstrap_flags(values: &Values) -> Result<(), ConfigError> {
    let discovery =
        ["discovery", "discovery-srv", "discovery-token"].iter().any(|name| !values.str(name).is_empty());
    if discovery && values.source("initial-cluster").is_some() {
        return Err(ConfigError::new(CONFLICTING_BOOTSTRAP));
    }
    Ok(())
}

/// etcd's text for a start with two ways of finding the members.
pub(super) const CONFLICTING_BOOTSTRAP: &str = "multiple discovery or bootstrap flags are set. Choose one of \
     \"initial-cluster\", \"discovery\" or \"discovery-srv\"";

fn intervals(values: &Values) -> Result<(u64, u64), ConfigError> {
    let (heartbeat, election) = (values.uint("heartbeat-interval"), values.uint("election-timeout"));
    for (name, ms) in [("heartbeat-interval", heartbeat), ("election-timeout", election)] {
        if ms == 0 {
            return Err(values.error(name, format!("--{name} must be >0 (set to 0ms)")));
        }
    }
    if heartbeat.saturating_mul(5) > election {
        let text = format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        );
        return Err(values.error("election-timeout", text));
    }
    if election > ELECTION_MS_MAX {
        let text = format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_MS_MAX}ms"
        );
        return Err(values.error("election-timeout", text));
    }
    Ok((heartbeat, election))
}

fn check_client_advertise(values: &Values) -> Result<(), ConfigError> {
    if values.is_set("listen-client-urls") && !values.is_set("advertise-client-urls") {
        return Err(ConfigError::new(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        )
        .note("When listening on specific address(es), this process must advertise URLs that clients can reach."));
    }
    Ok(())
}

fn auto_compaction(values: &Values, notices: &mut Vec<Notice>) -> Result<AutoCompaction, ConfigError> {
    let mode = values.str("auto-compaction-mode");
    if !matches!(mode, "periodic" | "revision") {
        return Err(
            values.error("auto-compaction-mode", format!("unknown auto-compaction-mode {}", quote(mode)))
        );
    }
    let text = values.str("auto-compaction-retention");
    let number = parse_int(text).ok().filter(|number| *number >= 0);
    let parse_failure = |why: String| {
        let mut error =
            values.error("auto-compaction-retention", format!("error parsing CompactionRetention: {why}"));
        error.bare = true;
        error
    };
    let nanos = match number {
        Some(_) => 0,
        None => parse_duration(text).map_err(|why| parse_failure(format!("time: {why}")))?,
    };
    if nanos < 0 {
        return Err(parse_failure(format!("negative duration {}", quote(text))));
    }
    Ok(match (mode, number) {
        ("revision", None) if nanos != 0 => {
            notices.push(Notice::warn(format!(
                "auto-compaction-retention {} is a duration but the mode is revision: it keeps {nanos} revisions",
                quote(text)
            )));
            AutoCompaction::Revision(nanos)
        }
        (_, None) if nanos == 0 => AutoCompaction::Off,
        (_, Some(0)) => AutoCompaction::Off,
        ("revision", Some(revisions)) => AutoCompaction::Revision(revisions),
        (_, Some(hours)) => {
            let hours = u64::try_from(hours).expect("negative numbers were filtered");
            AutoCompaction::Periodic(Duration::from_secs(hours.saturating_mul(3600)))
        }
        (_, None) => AutoCompaction::Periodic(Duration::from_nanos(nanos.unsigned_abs())),
    })
}

fn features(values: &Values) -> Result<Features, ConfigError> {
    let mut features = Features::default();
    features.apply(values.gates());
    if features.enabled("LeaseCheckpointPersist") && !features.enabled("LeaseCheckpoint") {
        return Err(ConfigError::new(
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ));
    }
    Ok(features)
}

/// There is no TLS yet, and no key or certificate can be set, so every TLS
/// listener fails as one without a certificate does in etcd.
fn refuse_tls(values: &Values) -> Result<(), ConfigError> {
    let unsupported = "cairn does not support https yet: TLS is not implemented; use http URLs";
    for name in ["listen-peer-urls", "listen-client-urls", "listen-client-http-urls", "listen-metrics-urls"] {
        let Some(url) = values.urls(name).into_iter().find(Url::is_tls) else { continue };
        let text = match name {
            "listen-peer-urls" => {
                format!(
                    "cannot listen on TLS for {}: KeyFile and CertFile are not presented",
                    url.host_port()
                )
            }
            "listen-metrics-urls" => {
                format!(
                    "cannot listen on TLS for {}: KeyFile and CertFile are not presented",
                    url.host_port()
                )
            }
            _ => format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
            ),
        };
        let mut error = values.error(name, text).note(unsupported);
        error.bare = true;
        return Err(error);
    }
    for name in ["initial-advertise-peer-urls", "advertise-client-urls"] {
        if let Some(url) = values.urls(name).into_iter().find(Url::is_tls) {
            let mut error = values.error(
                name,
                format!("cairn does not support {url} in --{name}: TLS is not implemented; use http URLs"),
            );
            error.bare = true;
            return Err(error);
        }
    }
    Ok(())
}

fn check_auth_token(values: &Values) -> Result<(), ConfigError> {
    let spec = values.str("auth-token");
    let mut error = match spec.split(',').next().unwrap_or("") {
        "" | "simple" => return Ok(()),
        "jwt" => values.error(
            "auth-token",
            "cairn does not support --auth-token=jwt yet: JWT tokens are not implemented; remove the flag",
        ),
        other => values
            .error("auth-token", "auth: invalid auth options")
            .note(format!("unknown token type: {other}")),
    };
    error.bare = true;
    Err(error)
}

struct Hosts {
    peer: Vec<Url>,
    client: Vec<Url>,
    initial_cluster: String,
}

/// etcd's default-host rule: a member that listens everywhere and was not told
/// what to advertise advertises the address of its default route.
fn default_hosts(
    values: &Values,
    default_host: &dyn Fn() -> io::Result<IpAddr>,
    notices: &mut Vec<Notice>,
) -> Hosts {
    let default_cluster = default_of("initial-cluster");
    let mut hosts = Hosts {
        peer: values.urls("initial-advertise-peer-urls"),
        client: values.urls("advertise-client-urls"),
        initial_cluster: values.str("initial-cluster").to_owned(),
    };
    let wants = |listen: &[Url], advertised: &[Url], default: &str| {
        listen.first().is_some_and(|url| url.host == "0.0.0.0") && join(advertised) == default
    };
    let (listen_peer, listen_client) = (values.urls("listen-peer-urls"), values.urls("listen-client-urls"));
    let peer = wants(&listen_peer, &hosts.peer, default_of("initial-advertise-peer-urls"));
    let client = wants(&listen_client, &hosts.client, default_of("advertise-client-urls"));
    let mut moved = false;
    if peer || client {
        match default_host() {
            Ok(host) => {
                let host = host.to_string();
                for (wanted, listen, advertised) in
                    [(peer, &listen_peer, &mut hosts.peer), (client, &listen_client, &mut hosts.client)]
                {
                    if wanted {
                        advertised[0].host.clone_from(&host);
                        advertised[0].port.clone_from(&listen[0].port);
                    }
                }
                moved = peer;
                notices.push(Notice::new(
                    LogLevel::Info,
                    "detected default host for advertise",
                    &[("host", &host)],
                ));
            }
            Err(error) => {
                let text = error.to_string();
                notices.push(Notice::new(
                    LogLevel::Info,
                    "failed to detect default host",
                    &[("error", &text)],
                ));
            }
        }
    }
    let name = values.str("name");
    // With the default name too when the URL was replaced: etcd leaves localhost
    // there and the start then fails on a mismatch the operator did not write.
    if hosts.initial_cluster == default_cluster && (name != default_of("name") || moved) {
        let name = if name.is_empty() { default_of("name") } else { name };
        let pairs: Vec<String> = hosts.peer.iter().map(|url| format!("{name}={url}")).collect();
        hosts.initial_cluster = pairs.join(",");
    }
    hosts
}

fn default_of(name: &str) -> &'static str {
    table::find(name).expect("only table flags are read").default
}

fn quota(values: &Values, notices: &mut Vec<Notice>) -> Option<u64> {
    match values.int("quota-backend-bytes") {
        0 => Some(QUOTA_DEFAULT),
        bytes => {
            let bytes = u64::try_from(bytes).ok()?;
            if bytes > QUOTA_RECOMMENDED_MAX {
                notices.push(Notice::new(
                    LogLevel::Warn,
                    "quota exceeds the recommended maximum value",
                    &[
                        ("quota-size-bytes", &bytes.to_string()),
                        ("quota-maximum-size-bytes", &QUOTA_RECOMMENDED_MAX.to_string()),
                    ],
                ));
            }
            Some(bytes)
        }
    }
}

fn bcrypt_cost(values: &Values, notices: &mut Vec<Notice>) -> u32 {
    match values.uint("bcrypt-cost") {
        cost @ 4..=31 => cost as u32,
        cost => {
            notices.push(Notice::new(
                LogLevel::Warn,
                "use default bcrypt cost instead of the invalid given cost",
                &[
                    ("min-cost", "4"),
                    ("max-cost", "31"),
                    ("default-cost", "10"),
                    ("given-cost", &cost.to_string()),
                ],
            ));
            10
        }
    }
}

fn no_less(values: &Values, name: &'static str, least: Duration, notices: &mut Vec<Notice>) -> Duration {
    let given = values.duration(name);
    if given >= least {
        return given;
    }
    notices.push(Notice::new(
        LogLevel::Warn,
        "value is below the minimum, using the minimum",
        &[("flag", name), ("given", &format_duration(given)), ("minimum", &format_duration(least))],
    ));
    least
}

fn at_least_one(values: &Values, name: &str) -> Result<u64, ConfigError> {
    match values.int(name) {
        number if number > 0 => Ok(number.unsigned_abs()),
        number => Err(values.error(name, format!("--{name} must be >0 (set to {number})"))),
    }
}

/// Empty or `*` means all, which is an empty list here.
fn word_set(text: &str) -> Vec<String> {
    let words: std::collections::BTreeSet<&str> =
        text.split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
    if words.contains("*") { Vec::new() } else { words.into_iter().map(str::to_owned).collect() }
}

fn warn_of_limits(config: &Config, values: &Values, notices: &mut Vec<Notice>) {
    if config.max_request_bytes > REQUEST_BYTES_RECOMMENDED_MAX {
        notices.push(Notice::new(
            LogLevel::Warn,
            "exceeded recommended request limit",
            &[
                ("max-request-bytes", &config.max_request_bytes.to_string()),
                ("recommended-request-bytes", &REQUEST_BYTES_RECOMMENDED_MAX.to_string()),
            ],
        ));
    }
    if !matches!(values.str("metrics"), "basic" | "extensive") {
        let text = format!("unknown metrics level {}, using basic", quote(values.str("metrics")));
        notices.push(Notice::warn(text));
    }
    if config.unsafe_no_fsync {
        notices.push(Notice::warn("running with --unsafe-no-fsync: a crash can lose acknowledged writes"));
    }
    if let Ok(members) = super::urls::parse_map(&config.initial_cluster)
        && !members.is_empty()
        && members.len() % 2 == 0
    {
        let count = members.len().to_string();
        notices.push(Notice::new(
            LogLevel::Warn,
            "the initial cluster has an even number of members; one fewer tolerates as many failures",
            &[("members", &count)],
        ));
    }
}
