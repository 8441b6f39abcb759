//! The simulator's command line. Decides nothing about a run: it draws options from seeds and prints.

use std::process::ExitCode;

use cairn_core::planted::Bug;
use cairn_sim::planted::{self, Hunt};
use cairn_sim::swarm::{self, Swarm};
use cairn_sim::{Options, Report, run, speed};

const USAGE: &str = "usage:
  cargo sim SEED [--seconds S] [--quiet]           one seed, with what happens in it
  cargo sim swarm [--seeds N] [--start S] [--jobs J] [--seconds S]
                                                   many seeds: one line a failure, what they reached
  cargo sim check [SEED...] [--seeds N] [--start S] [--jobs J] [--seconds S]
                                                   each seed in two processes: the hashes must agree
  cargo planted [BUG...] [--seeds N] [--start S] [--jobs J] [--seconds S]
                                                   each planted bug until it is found
  cargo sim coverage [...]                         as swarm: it fails when 1000 seeds leave a cell empty
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
    let args: Vec<String> = std::env::args().skip(1).collect();
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
    match (args.first().map(String::as_str), seed(0)) {
        (_, Some(seed)) => {
            let verbose = !args.iter().any(|arg| arg == "--quiet");
            finish(&run(Options { verbose, ..Options::draw(seed, seconds) }))
        }
        (Some("batch"), _) => {
            swarm::batch(number("--start", 1), number("--seeds", 1), seconds);
            ExitCode::SUCCESS
        }
        (Some("swarm" | "coverage"), _) => swarm(1000).run(),
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
        (Some("speed"), _) => {
            println!("{}", speed::measure(number("--seconds", 3600)));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn finish(report: &Report) -> ExitCode {
    println!("{report}");
    match &report.violation {
        None => ExitCode::SUCCESS,
        Some(what) => {
            println!("FAILED seed {}: {what}", report.seed);
            ExitCode::FAILURE
        }
    }
}
