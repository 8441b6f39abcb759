//! The one table of every flag.
//!
//! Parsing, environment variables, YAML keys, help text and the documents all
//! read it; no other file may name a flag that is not here (`Values` asserts it).
//! A flag of something that does not exist yet is `Refused`: starting without
//! what the operator asked for, above all TLS, would be worse than not starting.

use super::flags::{NumberError, parse_bool, parse_duration, parse_int, parse_uint};
use super::{gates, urls};

/// The grammar of a flag's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// True or false; needs `=` to be turned off.
    Bool,
    /// Unsigned, 64 bits.
    Uint,
    /// Unsigned, 32 bits; etcd reports its errors in another form.
    Uint32,
    /// Signed, 64 bits; named as Go's `int`.
    Int,
    /// Signed, 64 bits.
    Int64,
    /// A Go duration.
    Duration,
    /// Any text; what is legal is decided by validation.
    Str,
    /// Comma-separated texts; a sequence in YAML.
    StrList,
    /// One of these words.
    Enum(&'static [&'static str]),
    /// A list of URLs.
    Urls,
    /// A list of URLs or `*`.
    Origins,
    /// Feature gates.
    Gates,
    /// A flag of etcd 0.x: any text, or none, is accepted and dropped.
    Ignored,
}

/// What becomes of a flag that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It does what etcd's does.
    Works,
    /// Accepted; a warning says why it changes nothing.
    NoOp(&'static str),
    /// A value other than the default stops the start with this reason.
    Refused(&'static str),
    /// An old spelling of another flag.
    Alias(&'static str),
    /// An old spelling of a feature gate.
    GateAlias(&'static str),
    /// A flag of etcd 0.x, accepted with etcd's warning.
    Legacy,
}

/// One flag.
#[derive(Debug)]
pub struct Flag {
    /// The heading it stands under in the help text.
    pub section: &'static str,
    /// The name without dashes.
    pub name: &'static str,
    /// The value when nobody sets it, in flag syntax.
    pub default: &'static str,
    /// The grammar of its value.
    pub kind: Kind,
    /// The first etcd release that has it (3.4 stands for 3.4.23 and older).
    pub since: &'static str,
    /// What Cairn does with it.
    pub status: Status,
    /// One sentence of help.
    pub help: &'static str,
}

impl Kind {
    /// Whether the flag may stand without a value.
    pub fn stands_alone(self) -> bool {
        matches!(self, Kind::Bool | Kind::Ignored)
    }

    /// Checks a value in flag syntax; the error is the part of etcd's text
    /// that follows the flag's name.
    pub fn check(self, value: &str) -> Result<(), String> {
        let parse_error = || "parse error".to_owned();
        let number = |why: NumberError| match why {
            NumberError::Syntax => "parse error".to_owned(),
            NumberError::Range => "value out of range".to_owned(),
        };
        match self {
            Kind::Bool => parse_bool(value).map(drop).ok_or_else(parse_error),
            Kind::Uint => parse_uint(value, 64).map(drop).map_err(number),
            Kind::Uint32 => parse_uint(value, 32).map(drop).map_err(|why| {
                let why = match why {
                    NumberError::Syntax => "invalid syntax",
                    NumberError::Range => "value out of range",
                };
                format!("strconv.ParseUint: parsing {}: {why}", super::flags::quote(value))
            }),
            Kind::Int | Kind::Int64 => parse_int(value).map(drop).map_err(number),
            Kind::Duration => parse_duration(value).map(drop).map_err(|_| parse_error()),
            Kind::Enum(words) if words.contains(&value) => Ok(()),
            Kind::Enum(_) => Err("invalid value".to_owned()),
            Kind::Urls => urls::parse_list(value).map(drop),
            Kind::Origins if value == "*" => Ok(()),
            Kind::Origins => urls::parse_list(value).map(drop),
            Kind::Gates => gates::parse(value).map(drop),
            Kind::Str | Kind::StrList | Kind::Ignored => Ok(()),
        }
    }
}

impl Flag {
    /// The environment variable that sets this flag.
    pub fn env(&self) -> String {
        format!("ETCD_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// The YAML keys from the top of the file to this flag.
    pub fn yaml_path(&self) -> (Option<&'static str>, &'static str) {
        const CLIENT: [&str; 9] = [
            "cert-file",
            "key-file",
            "client-cert-auth",
            "trusted-ca-file",
            "auto-tls",
            "client-cert-file",
            "client-key-file",
            "client-crl-file",
            "client-cert-allowed-hostname",
        ];
        let name = self.name;
        if CLIENT.contains(&name) {
            let key = if name == "client-cert-allowed-hostname" { "allowed-hostname" } else { name };
            return (Some("client-transport-security"), key);
        }
        match name {
            "peer-cert-allowed-cn" => (Some("peer-transport-security"), "allowed-cn"),
            "peer-cert-allowed-hostname" => (Some("peer-transport-security"), "allowed-hostname"),
            "peer-skip-client-san-verification" => {
                (Some("peer-transport-security"), "skip-client-san-verification")
            }
            "peer-cert-file"
            | "peer-key-file"
            | "peer-client-cert-auth"
            | "peer-trusted-ca-file"
            | "peer-auto-tls"
            | "peer-client-cert-file"
            | "peer-client-key-file"
            | "peer-crl-file" => (Some("peer-transport-security"), &name["peer-".len()..]),
            "socket-reuse-port" => (Some("socket-options"), "reuse-port"),
            "socket-reuse-address" => (Some("socket-options"), "reuse-address"),
            _ => (None, name),
        }
    }
}

/// The flag of this name.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

const fn flag(
    section: &'static str,
    name: &'static str,
    default: &'static str,
    kind: Kind,
    since: &'static str,
    status: Status,
    help: &'static str,
) -> Flag {
    Flag { section, name, default, kind, since, status, help }
}

use Kind::*;
use Status::*;

/// Every flag, in the order of the help text.
#[rustfmt::skip]
pub static FLAGS: &[Flag] = &[
    // Member
    flag("Member", "name", "default", Str, "3.4", Works, "Name of this member; it must appear in --initial-cluster."),
    flag("Member", "data-dir", "", Str, "3.4", Works, "Directory of this member's data; '${name}.etcd' when empty."),
    flag("Member", "wal-dir", "", Str, "3.4", Works, "Separate directory for the write-ahead log."),
    flag("Member", "snapshot-count", "10000", Uint, "3.4", Works, "Applied entries between two raft snapshots."),
    flag("Member", "snapshot-catchup-entries", "5000", Uint, "3.6", Works, "Log entries kept after a snapshot for slow followers."),
    flag("Member", "heartbeat-interval", "100", Uint, "3.4", Works, "Milliseconds between two heartbeats of the leader."),
    flag("Member", "election-timeout", "1000", Uint, "3.4", Works, "Milliseconds without a leader before an election; at least five heartbeats."),
    flag("Member", "initial-election-tick-advance", "true", Bool, "3.4", Works, "Shorten the first election after a start."),
    flag("Member", "listen-peer-urls", "http://localhost:2380", Urls, "3.4", Works, "URLs to listen on for other members."),
    flag("Member", "listen-client-urls", "http://localhost:2379", Urls, "3.4", Works, "URLs to listen on for clients."),
    flag("Member", "listen-client-http-urls", "", Urls, "3.4.29", Works, "URLs for HTTP only; --listen-client-urls then serve gRPC only."),
    flag("Member", "max-snapshots", "5", Uint, "3.4", NoOp("there are no snapshot files to keep"), "Snapshot files to keep; 0 keeps all."),
    flag("Member", "max-wals", "5", Uint, "3.4", NoOp("log files are recycled once no restart needs them"), "Write-ahead log files to keep; 0 keeps all."),
    flag("Member", "quota-backend-bytes", "0", Int64, "3.4", Works, "Size at which writes stop; 0 is 2 GiB, negative is no limit."),
    flag("Member", "backend-bbolt-freelist-type", "map", Enum(&["array", "map"]), "3.5", NoOp("the backend has no bbolt freelist"), "Freelist type of the backend."),
    flag("Member", "backend-batch-interval", "0s", Duration, "3.4", NoOp("the backend commits in large batches, off the path of an answer"), "Longest time before the backend commits; 0 is 100ms."),
    flag("Member", "backend-batch-limit", "0", Int, "3.4", NoOp("the backend commits in large batches, off the path of an answer"), "Most operations before the backend commits; 0 is 10000."),
    flag("Member", "max-txn-ops", "128", Uint, "3.4", Works, "Most operations in one transaction."),
    flag("Member", "max-request-bytes", "1572864", Uint, "3.4", Works, "Largest client request in bytes."),
    flag("Member", "max-concurrent-streams", "4294967295", Uint32, "3.4.45", Works, "Most concurrent streams of one client connection."),
    flag("Member", "grpc-keepalive-min-time", "5s", Duration, "3.4", Works, "Shortest time a client must wait between two pings."),
    flag("Member", "grpc-keepalive-interval", "2h", Duration, "3.4", Works, "Time between two pings of the server; 0 disables them."),
    flag("Member", "grpc-keepalive-timeout", "20s", Duration, "3.4", Works, "Time without an answer before a connection is closed; 0 disables it."),
    flag("Member", "socket-reuse-port", "false", Bool, "3.5", Works, "Set SO_REUSEPORT on listeners."),
    flag("Member", "socket-reuse-address", "false", Bool, "3.5", Works, "Set SO_REUSEADDR on listeners; as in Go programs, they always have it."),
    flag("Member", "enable-grpc-gateway", "true", Bool, "3.4", NoOp("the JSON gateway is not implemented"), "Serve the JSON gateway."),
    flag("Member", "raft-read-timeout", "5s", Duration, "3.5", NoOp("peer connections have timeouts of their own"), "Read timeout of a peer connection."),
    flag("Member", "raft-write-timeout", "5s", Duration, "3.5", NoOp("peer connections have timeouts of their own"), "Write timeout of a peer connection."),
    flag("Member", "memory-mlock", "false", Bool, "3.6", NoOp("pages are not locked in memory"), "Lock the backend's pages in memory."),
    flag("Member", "max-learners", "1", Int, "3.6", Works, "Most learners in the cluster; all members must agree."),
    // Clustering
    flag("Clustering", "initial-advertise-peer-urls", "http://localhost:2380", Urls, "3.4", Works, "Peer URLs of this member as other members see them."),
    flag("Clustering", "initial-cluster", "default=http://localhost:2380", Str, "3.4", Works, "All first members as name=url, comma separated."),
    flag("Clustering", "initial-cluster-state", "new", Enum(&["new", "existing"]), "3.4", Works, "'new' to start a cluster, 'existing' to join one."),
    flag("Clustering", "initial-cluster-token", "etcd-cluster", Str, "3.4", Works, "Text that makes the IDs of this cluster unique."),
    flag("Clustering", "advertise-client-urls", "http://localhost:2379", Urls, "3.4", Works, "Client URLs of this member as clients see them."),
    flag("Clustering", "discovery", "", Str, "3.4", Refused("discovery is not implemented; list the members in --initial-cluster"), "v2 discovery URL."),
    flag("Clustering", "discovery-fallback", "exit", Enum(&["exit", "proxy"]), "3.4", NoOp("discovery is not implemented"), "What to do when discovery fails."),
    flag("Clustering", "discovery-proxy", "", Str, "3.4", Refused("discovery is not implemented; list the members in --initial-cluster"), "HTTP proxy for discovery."),
    flag("Clustering", "discovery-srv", "", Str, "3.4", Refused("discovery is not implemented; list the members in --initial-cluster"), "DNS domain whose SRV records list the members."),
    flag("Clustering", "discovery-srv-name", "", Str, "3.4", Refused("discovery is not implemented; list the members in --initial-cluster"), "Suffix of the SRV service name."),
    flag("Clustering", "discovery-token", "", Str, "3.6", Refused("discovery is not implemented; list the members in --initial-cluster"), "v3 discovery token."),
    flag("Clustering", "discovery-endpoints", "", Str, "3.6", Refused("discovery is not implemented; list the members in --initial-cluster"), "Endpoints of the v3 discovery service."),
    flag("Clustering", "discovery-dial-timeout", "2s", Duration, "3.6", Refused("discovery is not implemented; list the members in --initial-cluster"), "v3 discovery: dial timeout."),
    flag("Clustering", "discovery-request-timeout", "5s", Duration, "3.6", Refused("discovery is not implemented; list the members in --initial-cluster"), "v3 discovery: request timeout."),
    flag("Clustering", "discovery-keepalive-time", "2s", Duration, "3.6", Refused("discovery is not implemented; list the members in --initial-cluster"), "v3 discovery: keepalive time."),
    flag("Clustering", "discovery-keepalive-timeout", "6s", Duration, "3.6", Refused("discovery is not implemented; list the members in --initial-cluster"), "v3 discovery: keepalive timeout."),
    flag("Clustering", "discovery-insecure-transport", "true", Bool, "3.6", Refused("discovery is not implemented; list the members in --initial-cluster"), "v3 discovery: insecure transport."),
    flag("Clustering", "discovery-insecure-skip-tls-verify", "false", Bool, "3.6", Refused("discovery is not implemented; list the members in --initial-cluster"), "v3 discovery: insecure skip tls verify."),
    flag("Clustering", "discovery-cert", "", Str, "3.6", Refused("discovery is not implemented; list the members in --initial-cluster"), "v3 discovery: cert."),
    flag("Clustering", "discovery-key", "", Str, "3.6", Refused("discovery is not implemented; list the members in --initial-cluster"), "v3 discovery: key."),
    flag("Clustering", "discovery-cacert", "", Str, "3.6", Refused("discovery is not implemented; list the members in --initial-cluster"), "v3 discovery: cacert."),
    flag("Clustering", "discovery-user", "", Str, "3.6", Refused("discovery is not implemented; list the members in --initial-cluster"), "v3 discovery: user."),
    flag("Clustering", "discovery-password", "", Str, "3.6", Refused("discovery is not implemented; list the members in --initial-cluster"), "v3 discovery: password."),
    flag("Clustering", "strict-reconfig-check", "true", Bool, "3.4", Works, "Refuse membership changes that would lose quorum."),
    flag("Clustering", "pre-vote", "true", Bool, "3.4", Works, "Ask whether an election can be won before it starts."),
    flag("Clustering", "auto-compaction-mode", "periodic", Str, "3.4", Works, "'periodic' or 'revision'."),
    flag("Clustering", "auto-compaction-retention", "0", Str, "3.4", Works, "Hours, a duration or a number of revisions to keep; 0 disables compaction."),
    flag("Clustering", "v2-deprecation", "write-only", Enum(&["not-yet", "write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "3.5", NoOp("there is no v2 store"), "Phase of the v2 store's removal."),
    flag("Clustering", "enable-v2", "false", Bool, "3.4", Refused("the v2 API is not implemented"), "Serve the v2 API."),
    flag("Clustering", "next-cluster-version-compatible", "false", Bool, "3.4.45", NoOp("data files of the next version are always refused"), "Accept data of the next version."),
    // Security
    flag("Security", "cert-file", "", Str, "3.4", Refused("TLS is not implemented"), "Certificate for client connections."),
    flag("Security", "key-file", "", Str, "3.4", Refused("TLS is not implemented"), "Key for client connections."),
    flag("Security", "client-cert-file", "", Str, "3.5", Refused("TLS is not implemented"), "Certificate this server uses as a client."),
    flag("Security", "client-key-file", "", Str, "3.5", Refused("TLS is not implemented"), "Key this server uses as a client."),
    flag("Security", "client-cert-auth", "false", Bool, "3.4", Refused("TLS is not implemented"), "Demand certificates from clients."),
    flag("Security", "client-crl-file", "", Str, "3.4", Refused("TLS is not implemented"), "Revocation list for client certificates."),
    flag("Security", "client-cert-allowed-hostname", "", Str, "3.4", Refused("TLS is not implemented"), "Hostname that client certificates must carry."),
    flag("Security", "trusted-ca-file", "", Str, "3.4", Refused("TLS is not implemented"), "CA for client certificates."),
    flag("Security", "auto-tls", "false", Bool, "3.4", Refused("TLS is not implemented"), "Generate the client certificate."),
    flag("Security", "peer-cert-file", "", Str, "3.4", Refused("TLS is not implemented"), "Certificate for peer connections."),
    flag("Security", "peer-key-file", "", Str, "3.4", Refused("TLS is not implemented"), "Key for peer connections."),
    flag("Security", "peer-client-cert-file", "", Str, "3.5", Refused("TLS is not implemented"), "Certificate used when dialing peers."),
    flag("Security", "peer-client-key-file", "", Str, "3.5", Refused("TLS is not implemented"), "Key used when dialing peers."),
    flag("Security", "peer-client-cert-auth", "false", Bool, "3.4", Refused("TLS is not implemented"), "Demand certificates from peers."),
    flag("Security", "peer-trusted-ca-file", "", Str, "3.4", Refused("TLS is not implemented"), "CA for peer certificates."),
    flag("Security", "peer-auto-tls", "false", Bool, "3.4", Refused("TLS is not implemented"), "Generate the peer certificate."),
    flag("Security", "peer-crl-file", "", Str, "3.4", Refused("TLS is not implemented"), "Revocation list for peer certificates."),
    flag("Security", "peer-cert-allowed-cn", "", Str, "3.4", Refused("TLS is not implemented"), "Common name that peer certificates must carry."),
    flag("Security", "peer-cert-allowed-hostname", "", Str, "3.4", Refused("TLS is not implemented"), "Hostname that peer certificates must carry."),
    flag("Security", "peer-skip-client-san-verification", "false", Bool, "3.6", Refused("TLS is not implemented"), "Do not compare a peer certificate with its address."),
    flag("Security", "self-signed-cert-validity", "1", Uint, "3.5", NoOp("no certificates are generated"), "Years a generated certificate lasts."),
    flag("Security", "cipher-suites", "", Str, "3.4", Refused("TLS is not implemented"), "TLS cipher suites."),
    flag("Security", "tls-min-version", "TLS1.2", Str, "3.4.29", Refused("TLS is not implemented"), "Lowest TLS version."),
    flag("Security", "tls-max-version", "", Str, "3.4.29", Refused("TLS is not implemented"), "Highest TLS version."),
    flag("Security", "cors", "*", Origins, "3.4", Works, "Origins allowed to call from a browser; empty or * is all."),
    flag("Security", "host-whitelist", "*", Str, "3.4", Works, "Host names that HTTP requests may carry; empty or * is all."),
    // Auth
    flag("Auth", "auth-token", "simple", Str, "3.4", NoOp("authentication is not implemented"), "Kind of auth token; 'simple' is the only one."),
    flag("Auth", "bcrypt-cost", "10", Uint, "3.4", NoOp("authentication is not implemented"), "Cost of a password hash, 4 to 31."),
    flag("Auth", "auth-token-ttl", "300", Uint, "3.4", NoOp("authentication is not implemented"), "Seconds a simple token lives."),
    // Monitoring
    flag("Monitoring", "enable-pprof", "false", Bool, "3.4", NoOp("there is no Go runtime to profile"), "Serve Go profiles."),
    flag("Monitoring", "metrics", "basic", Str, "3.4", Works, "'basic', or 'extensive' for histograms of requests."),
    flag("Monitoring", "listen-metrics-urls", "", Urls, "3.4", Works, "More URLs that serve metrics and health."),
    flag("Monitoring", "enable-distributed-tracing", "false", Bool, "3.6", Refused("distributed tracing is not implemented"), "Send traces over OTLP."),
    flag("Monitoring", "distributed-tracing-address", "localhost:4317", Str, "3.6", NoOp("distributed tracing does not exist"), "Address of the trace collector."),
    flag("Monitoring", "distributed-tracing-service-name", "etcd", Str, "3.6", NoOp("distributed tracing does not exist"), "Service name in traces."),
    flag("Monitoring", "distributed-tracing-instance-id", "", Str, "3.6", NoOp("distributed tracing does not exist"), "Instance name in traces."),
    flag("Monitoring", "distributed-tracing-sampling-rate", "0", Int, "3.6", NoOp("distributed tracing does not exist"), "Traces to sample of a million."),
    flag("Monitoring", "warning-apply-duration", "100ms", Duration, "3.6", Works, "Warn when applying a request took longer."),
    flag("Monitoring", "warning-unary-request-duration", "300ms", Duration, "3.6", NoOp("slow requests are not reported"), "Warn when answering a request took longer."),
    // Logging
    flag("Logging", "logger", "zap", Str, "3.4", Works, "'zap' is the only logger."),
    flag("Logging", "log-outputs", "default", StrList, "3.4", Works, "stderr, stdout, default, systemd/journal, or file paths, comma separated."),
    flag("Logging", "log-level", "info", Str, "3.4", Works, "debug, info, warn, error, panic or fatal."),
    flag("Logging", "log-format", "json", Str, "3.6", Works, "'json' or 'console'."),
    flag("Logging", "enable-log-rotation", "false", Bool, "3.5", Works, "Rotate the log file."),
    flag("Logging", "log-rotation-config-json", "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}", Str, "3.5", Works, "Limits of log rotation: MB a file, days, files."),
    // Data checks and background work
    flag("Data checks and background work", "corrupt-check-time", "0s", Duration, "3.6", Works, "Time between two comparisons of members' data; 0 disables them."),
    flag("Data checks and background work", "compact-hash-check-time", "1m", Duration, "3.6", Works, "Time between two comparisons of compaction hashes."),
    flag("Data checks and background work", "compaction-batch-limit", "1000", Int, "3.6", Works, "Most revisions removed in one compaction step."),
    flag("Data checks and background work", "compaction-sleep-interval", "10ms", Duration, "3.6", Works, "Pause between two compaction steps."),
    flag("Data checks and background work", "watch-progress-notify-interval", "10m", Duration, "3.6", Works, "Time between two progress notices of an idle watch."),
    flag("Data checks and background work", "downgrade-check-time", "5s", Duration, "3.6", NoOp("a downgrade is always refused"), "Time between two checks of a downgrade."),
    flag("Data checks and background work", "bootstrap-defrag-threshold-megabytes", "0", Uint, "3.6", NoOp("the backend is not defragmented at start; use the defrag command"), "Free megabytes that cause a defragmentation at start; 0 disables it."),
    flag("Data checks and background work", "feature-gates", "", Gates, "3.6", Works, "Name=true or Name=false, comma separated."),
    // Unsafe
    flag("Unsafe", "force-new-cluster", "false", Bool, "3.4", Works, "Keep the data, forget all other members. Loses writes they alone have."),
    flag("Unsafe", "unsafe-no-fsync", "false", Bool, "3.4", Works, "Do not wait for disks. A crash loses data."),
    // Other
    flag("Other", "config-file", "", Str, "3.4", Works, "YAML file; when given, other flags and variables are ignored."),
    flag("Other", "version", "false", Bool, "3.4", Works, "Print versions and exit."),
    // Deprecated
    flag("Deprecated", "log-output", "", StrList, "3.4", Alias("log-outputs"), ""),
    flag("Deprecated", "debug", "false", Bool, "3.4", Works, "Use --log-level=debug."),
    flag("Deprecated", "log-package-levels", "", Str, "3.4", NoOp("levels of single packages ended with capnslog"), ""),
    flag("Deprecated", "proxy", "off", Enum(&["off", "readonly", "on"]), "3.4", Refused("the v2 proxy is not implemented"), "v2 proxy mode."),
    flag("Deprecated", "proxy-failure-wait", "5000", Uint, "3.4", NoOp("the v2 proxy does not exist"), ""),
    flag("Deprecated", "proxy-refresh-interval", "30000", Uint, "3.4", NoOp("the v2 proxy does not exist"), ""),
    flag("Deprecated", "proxy-dial-timeout", "1000", Uint, "3.4", NoOp("the v2 proxy does not exist"), ""),
    flag("Deprecated", "proxy-write-timeout", "5000", Uint, "3.4", NoOp("the v2 proxy does not exist"), ""),
    flag("Deprecated", "proxy-read-timeout", "0", Uint, "3.4", NoOp("the v2 proxy does not exist"), ""),
    flag("Deprecated", "experimental-enable-v2v3", "", Str, "3.4", Refused("the v2 API is not implemented"), "Serve the v2 API from the v3 store."),
    flag("Deprecated", "experimental-backend-bbolt-freelist-type", "array", Enum(&["array", "map"]), "3.4", Alias("backend-bbolt-freelist-type"), ""),
    flag("Deprecated", "experimental-peer-skip-client-san-verification", "false", Bool, "3.4", Alias("peer-skip-client-san-verification"), ""),
    flag("Deprecated", "experimental-corrupt-check-time", "0s", Duration, "3.4", Alias("corrupt-check-time"), ""),
    flag("Deprecated", "experimental-compaction-batch-limit", "1000", Int, "3.4", Alias("compaction-batch-limit"), ""),
    flag("Deprecated", "experimental-watch-progress-notify-interval", "10m", Duration, "3.4", Alias("watch-progress-notify-interval"), ""),
    flag("Deprecated", "experimental-warning-apply-duration", "100ms", Duration, "3.4", Alias("warning-apply-duration"), ""),
    flag("Deprecated", "experimental-enable-distributed-tracing", "false", Bool, "3.5", Alias("enable-distributed-tracing"), ""),
    flag("Deprecated", "experimental-distributed-tracing-address", "localhost:4317", Str, "3.5", Alias("distributed-tracing-address"), ""),
    flag("Deprecated", "experimental-distributed-tracing-service-name", "etcd", Str, "3.5", Alias("distributed-tracing-service-name"), ""),
    flag("Deprecated", "experimental-distributed-tracing-instance-id", "", Str, "3.5", Alias("distributed-tracing-instance-id"), ""),
    flag("Deprecated", "experimental-distributed-tracing-sampling-rate", "0", Int, "3.5", Alias("distributed-tracing-sampling-rate"), ""),
    flag("Deprecated", "experimental-downgrade-check-time", "5s", Duration, "3.5", Alias("downgrade-check-time"), ""),
    flag("Deprecated", "experimental-memory-mlock", "false", Bool, "3.5", Alias("memory-mlock"), ""),
    flag("Deprecated", "experimental-bootstrap-defrag-threshold-megabytes", "0", Uint, "3.5", Alias("bootstrap-defrag-threshold-megabytes"), ""),
    flag("Deprecated", "experimental-compact-hash-check-time", "1m", Duration, "3.5", Alias("compact-hash-check-time"), ""),
    flag("Deprecated", "experimental-compaction-sleep-interval", "10ms", Duration, "3.5", Alias("compaction-sleep-interval"), ""),
    flag("Deprecated", "experimental-snapshot-catchup-entries", "5000", Uint, "3.5", Alias("snapshot-catchup-entries"), ""),
    flag("Deprecated", "experimental-warning-unary-request-duration", "300ms", Duration, "3.6", Alias("warning-unary-request-duration"), ""),
    flag("Deprecated", "experimental-initial-corrupt-check", "false", Bool, "3.4", GateAlias("InitialCorruptCheck"), ""),
    flag("Deprecated", "experimental-enable-lease-checkpoint", "false", Bool, "3.4", GateAlias("LeaseCheckpoint"), ""),
    flag("Deprecated", "experimental-enable-lease-checkpoint-persist", "false", Bool, "3.4.45", GateAlias("LeaseCheckpointPersist"), ""),
    flag("Deprecated", "experimental-txn-mode-write-with-shared-buffer", "true", Bool, "3.5", GateAlias("TxnModeWriteWithSharedBuffer"), ""),
    flag("Deprecated", "experimental-compact-hash-check-enabled", "false", Bool, "3.5", GateAlias("CompactHashCheck"), ""),
    flag("Deprecated", "experimental-stop-grpc-service-on-defrag", "false", Bool, "3.5", GateAlias("StopGRPCServiceOnDefrag"), ""),
    flag("Deprecated", "experimental-set-member-localaddr", "false", Bool, "3.6", GateAlias("SetMemberLocalAddr"), ""),
    flag("Deprecated", "cluster-active-size", "", Ignored, "3.4", Legacy, ""),
    flag("Deprecated", "cluster-remove-delay", "", Ignored, "3.4", Legacy, ""),
    flag("Deprecated", "cluster-sync-interval", "", Ignored, "3.4", Legacy, ""),
    flag("Deprecated", "config", "", Ignored, "3.4", Legacy, ""),
    flag("Deprecated", "force", "", Ignored, "3.4", Legacy, ""),
    flag("Deprecated", "max-result-buffer", "", Ignored, "3.4", Legacy, ""),
    flag("Deprecated", "max-retry-attempts", "", Ignored, "3.4", Legacy, ""),
    flag("Deprecated", "peer-heartbeat-interval", "", Ignored, "3.4", Legacy, ""),
    flag("Deprecated", "peer-election-timeout", "", Ignored, "3.4", Legacy, ""),
    flag("Deprecated", "retry-interval", "", Ignored, "3.4", Legacy, ""),
    flag("Deprecated", "snapshot", "", Ignored, "3.4", Legacy, ""),
    flag("Deprecated", "v", "", Ignored, "3.4", Legacy, ""),
    flag("Deprecated", "vv", "", Ignored, "3.4", Legacy, ""),
    flag("Deprecated", "test.coverprofile", "", Ignored, "3.4", Legacy, ""),
    flag("Deprecated", "test.outputdir", "", Ignored, "3.4", Legacy, ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sound() {
        for (at, flag) in FLAGS.iter().enumerate() {
            assert!(FLAGS[at + 1..].iter().all(|other| other.name != flag.name), "{} twice", flag.name);
            assert_eq!(flag.kind.check(flag.default), Ok(()), "default of {}", flag.name);
            match flag.status {
                Alias(target) => assert_eq!(find(target).expect(target).kind, flag.kind, "{}", flag.name),
                GateAlias(gate) => assert_eq!(gates::parse(&format!("{gate}=true")).map(|g| g.len()), Ok(1)),
                Legacy => assert_eq!(flag.kind, Ignored),
                _ => {}
            }
        }
    }

    #[test]
    fn names_map_to_environment_and_yaml() {
        assert_eq!(find("peer-cert-file").expect("known").env(), "ETCD_PEER_CERT_FILE");
        let path = |name| find(name).expect("known").yaml_path();
        assert_eq!(path("peer-cert-file"), (Some("peer-transport-security"), "cert-file"));
        assert_eq!(path("auto-tls"), (Some("client-transport-security"), "auto-tls"));
        assert_eq!(path("socket-reuse-port"), (Some("socket-options"), "reuse-port"));
        assert_eq!(path("name"), (None, "name"));
    }

    #[test]
    fn enumerations_use_etcd_text() {
        assert_eq!(find("proxy").expect("known").kind.check("x"), Err("invalid value".to_owned()));
        assert_eq!(
            find("max-concurrent-streams").expect("known").kind.check("-1"),
            Err("strconv.ParseUint: parsing \"-1\": invalid syntax".to_owned())
        );
    }
}
