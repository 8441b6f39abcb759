//! The command line: global flags, their environment variables, and the commands' names.
//!
//! Positional arguments are collected as bytes and counted by the commands themselves, because
//! etcdctl has a text of its own for every wrong count. Boolean flags take `--flag=false` as in Go.

use std::ffi::OsString;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::{alarm, concurrency, endpoint, kv, lease, maintenance, member, txn, watch};

/// A command line client for etcd and Cairn.
#[derive(Debug, Parser)]
#[command(
    name = "cairnctl",
    infer_subcommands = true,
    args_override_self = true,
    disable_version_flag = true
)]
pub(crate) struct Cli {
    /// The flags of every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The flags of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// gRPC endpoints
    #[arg(long, global = true, env = "ETCDCTL_ENDPOINTS", value_delimiter = ',', action = ArgAction::Append,
          default_value = "127.0.0.1:2379")]
    pub(crate) endpoints: Vec<String>,
    /// set the output format (fields, json, protobuf, simple, table)
    #[arg(short = 'w', long, global = true, env = "ETCDCTL_WRITE_OUT", default_value = "simple")]
    pub(crate) write_out: String,
    /// print byte strings as hex encoded strings
    #[arg(long, global = true, env = "ETCDCTL_HEX", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    pub(crate) hex: bool,
    /// dial timeout for client connections
    #[arg(long, global = true, env = "ETCDCTL_DIAL_TIMEOUT", default_value = "2s",
          value_parser = crate::duration::parse)]
    pub(crate) dial_timeout: Duration,
    /// timeout for short running command (excluding dial timeout)
    #[arg(long, global = true, env = "ETCDCTL_COMMAND_TIMEOUT", default_value = "5s",
          value_parser = crate::duration::parse)]
    pub(crate) command_timeout: Duration,
    /// keepalive time for client connections
    #[arg(long, global = true, env = "ETCDCTL_KEEPALIVE_TIME", default_value = "2s",
          value_parser = crate::duration::parse)]
    pub(crate) keepalive_time: Duration,
    /// keepalive timeout for client connections
    #[arg(long, global = true, env = "ETCDCTL_KEEPALIVE_TIMEOUT", default_value = "6s",
          value_parser = crate::duration::parse)]
    pub(crate) keepalive_timeout: Duration,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Puts the given key into the store
    Put(kv::PutArgs),
    /// Gets the key or a range of keys
    Get(kv::GetArgs),
    /// Removes the specified key or range of keys [key, range_end)
    Del(kv::DelArgs),
    /// Compacts the event history in etcd
    Compaction(kv::CompactionArgs),
    /// Watches events stream on keys or prefixes
    Watch(watch::WatchArgs),
    /// Membership related commands
    #[command(subcommand, infer_subcommands = true)]
    Member(member::MemberCommand),
    /// Endpoint related commands
    #[command(infer_subcommands = true)]
    Endpoint(endpoint::EndpointArgs),
    /// Txn processes all the requests in one transaction
    Txn(txn::TxnArgs),
    /// Lease related commands
    #[command(subcommand, infer_subcommands = true)]
    Lease(lease::LeaseCommand),
    /// Alarm related commands
    #[command(subcommand, infer_subcommands = true)]
    Alarm(alarm::AlarmCommand),
    /// Defragments the storage of the etcd members with given endpoints
    Defrag(maintenance::DefragArgs),
    /// Transfers leadership to another etcd cluster member.
    MoveLeader(Words),
    /// Manages etcd node snapshots
    #[command(subcommand, infer_subcommands = true)]
    Snapshot(maintenance::SnapshotCommand),
    /// Acquires a named lock
    Lock(concurrency::LockArgs),
    /// Observes and participates in leader election
    Elect(concurrency::ElectArgs),
    /// Prints the version of etcdctl
    Version,
}

/// Positional arguments.
#[derive(Debug, Args)]
pub(crate) struct Words {
    /// The arguments
    pub(crate) args: Vec<OsString>,
}

impl Words {
    /// An argument's bytes.
    pub(crate) fn bytes(&self, index: usize) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt as _;
        self.args.get(index).map(|word| word.as_bytes().to_vec()).unwrap_or_default()
    }

    /// An argument as text.
    pub(crate) fn text(&self, index: usize) -> String {
        self.args.get(index).map(|word| word.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// A signed number with Go's complaint.
pub(crate) fn int64(input: &str) -> Result<i64, String> {
    parse_i64(input, 10)
}

/// A signed number of a radix with Go's complaint.
pub(crate) fn parse_i64(input: &str, radix: u32) -> Result<i64, String> {
    i64::from_str_radix(input, radix).map_err(|error| {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        crate::error::number_error("ParseInt", input, matches!(error.kind(), PosOverflow | NegOverflow))
    })
}

/// A Boolean as Go parses it.
pub(crate) fn boolean(input: &str) -> Result<bool, String> {
    match input {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(crate::error::number_error("ParseBool", input, false)),
    }
}
