//! `cairn-bench`: loads for anything that speaks etcd's gRPC API, and a comparison of etcd with Cairn.
//!
//! Exits with 1 when a load could not be run and with 2 when operations failed.

use std::process::ExitCode;

use cairn_benches::compare::{CompareOptions, compare};
use cairn_benches::connection::BenchError;
use cairn_benches::load;
use cairn_benches::options::{Consistency, Kind, LoadOptions};
use clap::{Parser, Subcommand};

/// An operation of a load allocates often, and the system's allocator takes a seventh of the time for it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Loads for anything that speaks etcd's gRPC API.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes keys.
    Put {
        #[command(flatten)]
        load: LoadOptions,
    },
    /// Reads keys, after writing them all once.
    Range {
        #[command(flatten)]
        load: LoadOptions,
        /// Linearizable or serializable reads.
        #[arg(long, value_enum, default_value_t)]
        consistency: Consistency,
        /// Keys that one range covers.
        #[arg(long, default_value_t = 1)]
        rows: u64,
    },
    /// Runs transactions: one compare, then reads and writes.
    Txn {
        #[command(flatten)]
        load: LoadOptions,
        /// Ranges of one key in a transaction.
        #[arg(long, default_value_t = 1)]
        reads: u32,
        /// Puts in a transaction.
        #[arg(long, default_value_t = 1)]
        writes: u32,
    },
    /// Reads and writes single keys.
    Mixed {
        #[command(flatten)]
        load: LoadOptions,
        /// Linearizable or serializable reads.
        #[arg(long, value_enum, default_value_t)]
        consistency: Consistency,
        /// How many of a hundred operations read.
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(0..=100))]
        read_percent: u64,
    },
    /// Writes keys and measures how soon watchers hear of it.
    Watch {
        #[command(flatten)]
        load: LoadOptions,
        /// Watch streams.
        #[arg(long, default_value_t = 1)]
        streams: usize,
        /// Watchers on each stream, all of them over all keys.
        #[arg(long, default_value_t = 1)]
        watchers: usize,
    },
    /// Keeps one lease a client alive.
    Lease {
        #[command(flatten)]
        load: LoadOptions,
        /// The leases' time to live, in seconds.
        #[arg(long, default_value_t = 60)]
        ttl: i64,
    },
    /// Reads two keys and writes them back if neither has changed, until that succeeds.
    Stm {
        #[command(flatten)]
        load: LoadOptions,
    },
    /// Takes and gives back locks of the lock service; the keys are their names.
    Lock {
        #[command(flatten)]
        load: LoadOptions,
    },
    /// Runs etcd and Cairn in turn on the same disk and compares them; exits with 2 if a bound that must
    /// hold does not, or a run failed.
    Compare {
        #[command(flatten)]
        options: CompareOptions,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let (kind, load) = match Cli::parse().command {
        Command::Put { load } => (Kind::Put, load),
        Command::Range { load, consistency, rows } => (Kind::Range { consistency, rows }, load),
        Command::Txn { load, reads, writes } => (Kind::Txn { reads, writes }, load),
        Command::Mixed { load, consistency, read_percent } => {
            (Kind::Mixed { consistency, read_percent }, load)
        }
        Command::Watch { load, streams, watchers } => (Kind::Watch { streams, watchers }, load),
        Command::Lease { load, ttl } => (Kind::Lease { ttl }, load),
        Command::Stm { load } => (Kind::Stm, load),
        Command::Lock { load } => (Kind::Lock, load),
        Command::Compare { options } => return finish(run_comparison(&options).await),
    };
    finish(run_load(kind, &load).await)
}

fn finish(failures: Result<u64, BenchError>) -> ExitCode {
    match failures {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(2),
        Err(error) => {
            eprintln!("cairn-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run_load(kind: Kind, options: &LoadOptions) -> Result<u64, BenchError> {
    let report = load::run(kind, options).await?;
    if options.json {
        println!("{:#}", json(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(report.failures())
}

async fn run_comparison(options: &CompareOptions) -> Result<u64, BenchError> {
    let outcome = compare(options, |step| eprintln!("{step}")).await?;
    print!("{}", outcome.table());
    if let Some(folder) = &options.results {
        eprintln!("written: {}.*", outcome.write(folder)?.display());
    }
    // A quick run shows that all rows can be measured; its figures mean nothing.
    Ok(if options.quick { outcome.failed_runs() } else { outcome.failures() } as u64)
}

fn json(report: &impl serde::Serialize) -> Result<serde_json::Value, BenchError> {
    serde_json::to_value(report).map_err(|error| BenchError::io("writing JSON")(error.into()))
}
