//! cairnctl: Cairn's command-line client.
//!
//! Parses, runs one command on a single-threaded runtime, and turns its error into a line on stderr
//! and an exit code. Output, texts and codes are those of etcdctl 3.4; one file holds one family of
//! commands. Nothing is kept between runs.

mod alarm;
mod cli;
mod client;
mod concurrency;
mod duration;
mod endpoint;
mod error;
mod kv;
mod lease;
mod maintenance;
mod member;
mod output;
mod txn;
mod watch;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};

use crate::cli::{Cli, Command};
use crate::client::Client;
use crate::error::{CtlError, EXIT_ERROR, Outcome};

/// The etcd release whose etcdctl this program follows.
const ETCDCTL_VERSION: &str = "3.4.23";

fn main() {
    let code = match run() {
        Ok(()) => 0,
        Err(error) => {
            if !error.text.is_empty() {
                eprintln!("Error: {error}");
            }
            error.code
        }
    };
    std::process::exit(i32::from(code));
}

fn run() -> Outcome {
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    refuse_shadowed_environment(&matches)?;
    let cli =
        Cli::from_arg_matches(&matches).map_err(|error| CtlError::new(EXIT_ERROR, error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(dispatch(cli))
}

async fn dispatch(cli: Cli) -> Outcome {
    if matches!(cli.command, Command::Version) {
        return output::print_line(&format!("etcdctl version: {ETCDCTL_VERSION}\nAPI version: 3.4"));
    }
    let client = Client::new(cli.global)?;
    match cli.command {
        Command::Put(args) => kv::put(&client, args).await,
        Command::Get(args) => kv::get(&client, args).await,
        Command::Del(args) => kv::del(&client, args).await,
        Command::Compaction(args) => kv::compaction(&client, args).await,
        Command::Watch(args) => watch::watch(&client, args).await,
        Command::Member(command) => member::run(&client, command).await,
        Command::Endpoint(args) => endpoint::run(&client, args).await,
        Command::Txn(args) => txn::txn(&client, args).await,
        Command::Lease(command) => lease::run(&client, command).await,
        Command::Alarm(command) => alarm::run(&client, command).await,
        Command::Defrag(args) => maintenance::defrag(&client, args).await,
        Command::MoveLeader(words) => maintenance::move_leader(&client, words).await,
        Command::Snapshot(command) => maintenance::snapshot(&client, command).await,
        Command::Lock(args) => concurrency::lock(&client, args).await,
        Command::Elect(args) => concurrency::elect(&client, args).await,
        Command::Version => Ok(()),
    }
}

/// A flag that the environment sets as well is refused, as etcdctl does, since one of the two is
/// likely a mistake.
fn refuse_shadowed_environment(matches: &ArgMatches) -> Outcome {
    for id in [
        "endpoints",
        "write_out",
        "hex",
        "dial_timeout",
        "command_timeout",
        "keepalive_time",
        "keepalive_timeout",
    ] {
        let variable = format!("ETCDCTL_{}", id.to_uppercase());
        if matches.value_source(id) == Some(ValueSource::CommandLine)
            && std::env::var_os(&variable).is_some_and(|value| !value.is_empty())
        {
            eprintln!(
                "pkg/flags: conflicting environment variable \"{variable}\" is shadowed by corresponding \
                 command-line flag (either unset environment variable or disable flag)"
            );
            return Err(CtlError::silent(EXIT_ERROR));
        }
    }
    Ok(())
}

/// Help goes to stdout with exit code 0; a wrong flag is one line in etcdctl's words and code 1.
fn usage(error: &clap::Error) -> Outcome {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::print(error.to_string().as_bytes())
        }
        ErrorKind::UnknownArgument => {
            let flag = context(ContextKind::InvalidArg);
            let text = match flag.strip_prefix('-').filter(|rest| !rest.starts_with('-')) {
                Some(short) => {
                    format!("unknown shorthand flag: '{}' in -{short}", short.chars().next().unwrap_or('-'))
                }
                None => format!("unknown flag: {flag}"),
            };
            Err(CtlError::new(EXIT_ERROR, text))
        }
        ErrorKind::InvalidSubcommand => {
            let name = context(ContextKind::InvalidSubcommand);
            Err(CtlError::new(EXIT_ERROR, format!("unknown command \"{name}\" for \"cairnctl\"")))
        }
        _ => {
            let text = error.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
            Err(CtlError::new(EXIT_ERROR, text))
        }
    }
}
