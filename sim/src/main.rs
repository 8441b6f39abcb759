//! The simulator's command line. Decides nothing about a run: it draws options from seeds and prints.

use std::process::ExitCode;

use cairn_core::planted::Bug;
use cairn_sim::planted::{self, Hunt};
use cairn_sim::shrink::{Kept, shrink};
use cairn_sim::swarm::{self, Swarm};
use cairn_sim::{Options, ctrl, report, speed};

const USAGE: &str = "usage:
  cargo sim SEED [--seconds S] [--quiet]           one seed, with what happens in it
  cargo sim swarm [--seeds N] [--start S] [--jobs J] [--seconds S]
                                                   many seeds: one line a failure, what they reached
  cargo sim check [SEED...] [--seeds N] [--start S] [--jobs J] [--seconds S]
                                                   each seed in two processes: the hashes must agree;
                                                   with --hashes: one line a seed, to compare two builds
  cargo sim shrink SEED [--seconds S]              leaves out faults and operations while it still fails
  cargo planted [BUG...] [--seeds N] [--start S] [--jobs J] [--seconds S]
                                                   each planted bug until it is found; one run:
  cargo planted SEED --bug BUG, cargo planted shrink SEED --bug BUG
  cargo sim coverage [...]                         as swarm: it fails when 1000 seeds leave a cell empty
  cargo sim ctrl                                   every way in which four entries rot on three members
  cargo sim speed [--seconds S]                    simulated cluster-hours in a minute of CPU";

/// Chaos in a run, where nothing else is said.
const SECONDS: u64 = 20;

fn main() -> ExitCode {
    if !cfg!(madsim) {
        eprintln!(
            "cairn-sim was built without --cfg madsim. Run it as `cargo sim ...`, whose alias sets it; a \
             RUSTFLAGS variable overrides the alias, so unset that first."
        );
        return ExitCode::from(2);
    }
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let single = |arg: Option<&String>| arg.is_some_and(|arg| arg == "shrink" || arg.parse::<u64>().is_ok());
    if args.first().is_some_and(|arg| arg == "planted") && single(args.get(1)) {
        args.remove(0);
    }
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let number =
        |name: &str, default: u64| option(name).and_then(|text| text.parse().ok()).unwrap_or(default);
    let seconds = number("--seconds", SECONDS);
    let seed = |at: usize| args.get(at).and_then(|text| text.parse::<u64>().ok());
    let swarm = |seeds: u64| Swarm {
        start: number("--start", 1),
        seeds: number("--seeds", seeds),
        jobs: number("--jobs", 2),
        seconds,
    };
    let bug = option("--bug").and_then(|name| planted::bug(name));
    let kept = || Kept::parse(option("--faults").map(String::as_str), option("--ops").map(String::as_str));
    let drawn = |seed| Options { planted: bug, kept: kept(), ..Options::draw(seed, seconds) };
    let command = |seed: u64| match bug {
        Some(bug) => format!("cargo planted {seed} --seconds {seconds} --bug {bug:?}"),
        None => format!("cargo sim {seed} --seconds {seconds}"),
    };
    match (args.first().map(String::as_str), seed(0)) {
        (_, Some(seed)) => {
            let verbose = !args.iter().any(|arg| arg == "--quiet");
            one(Options { verbose, ..drawn(seed) }, &format!("{}{}", command(seed), kept()))
        }
        (Some("shrink"), _) => match seed(1) {
            Some(seed) => shrink(drawn(seed), &command(seed)),
            None => usage(),
        },
        (Some("batch"), _) => {
            swarm::batch(number("--start", 1), number("--seeds", 1), seconds);
            ExitCode::SUCCESS
        }
        (Some("swarm" | "coverage"), _) => swarm(1000).run(),
        (Some("check"), _) if args.iter().any(|arg| arg == "--hashes") => swarm(100).hashes(),
        (Some("check"), _) => {
            let seeds: Vec<u64> = (1..args.len()).map_while(seed).collect();
            swarm(if seeds.is_empty() { 100 } else { 0 }).check(&seeds)
        }
        (Some("planted"), _) => {
            let only: Vec<_> = args.iter().filter_map(|name| planted::bug(name)).collect();
            let bugs = if only.is_empty() { Bug::ALL.to_vec() } else { only };
            let Swarm { start, seeds, jobs, seconds } = swarm(500);
            Hunt { bugs, start, seeds, jobs, seconds }.run()
        }
        (Some("ctrl"), _) => {
            let table = ctrl::run();
            println!("{table}");
            ExitCode::from(u8::from(!table.is_right()))
        }
        (Some("speed"), _) => {
            println!("{}", speed::measure(number("--seconds", 3600)));
            ExitCode::SUCCESS
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// Runs one seed; if it fails, a folder tells why.
fn one(options: Options, command: &str) -> ExitCode {
    let seed = options.seed;
    match report::record(options, command.to_owned()) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("FAILED seed {seed}: {}", failure.what());
            let folder = std::path::Path::new("target/sim-failures").join(seed.to_string());
            match failure.write(&folder) {
                Ok(page) => println!("report: {}\nreplay: {command}", page.display()),
                Err(error) => println!("no report: {}: {error}", folder.display()),
            }
            ExitCode::FAILURE
        }
    }
}
