//! The simulator's command line.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_sim::{Options, Report, run};

const USAGE: &str = "usage:
  cairn-sim run SEED [-v] [--seconds S]        one seed; -v prints what happens
  cairn-sim swarm [--seeds N] [--start S] [--jobs J] [--seconds S]
  cairn-sim check SEED [--seconds S]           the same seed twice: the hashes must agree";

/// Seeds that one child process runs.
const BATCH: u64 = 50;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let number =
        |name: &str, default: u64| option(name).and_then(|text| text.parse().ok()).unwrap_or(default);
    let seconds = number("--seconds", 20);
    let verbose = args.iter().any(|arg| arg == "-v");
    let seed = args.get(1).and_then(|text| text.parse::<u64>().ok());
    match (args.first().map(String::as_str), seed) {
        (Some("run"), Some(seed)) => {
            let options = Options { verbose, ..Options::draw(seed, seconds) };
            if verbose {
                println!("{options:#?}");
            }
            finish(&run(options))
        }
        (Some("check"), Some(seed)) => {
            let first = run(Options::draw(seed, seconds));
            let second = run(Options::draw(seed, seconds));
            println!("seed {seed}: {:016x} and {:016x}", first.hash, second.hash);
            ExitCode::from(u8::from(first.hash != second.hash))
        }
        (Some("batch"), Some(start)) => {
            for seed in start..start + number("--count", 1) {
                println!("begin {seed}");
                let report = run(Options::draw(seed, seconds));
                println!("end {}", summary(&report));
                if let Some(what) = &report.violation {
                    println!("failure {}", what.replace('\n', " | "));
                }
            }
            ExitCode::SUCCESS
        }
        (Some("swarm"), _) => {
            let jobs = number("--jobs", 2);
            swarm(number("--start", 0), number("--seeds", 1000), jobs, seconds)
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn summary(report: &Report) -> String {
    let s = &report.stats;
    format!(
        "seed {} hash {:016x} simulated {:.1} s revision {} operations {} answered {} messages {} elections {} \
         crashes {} snapshots {} compactions {} expired {} membership {} events {}",
        report.seed,
        report.hash,
        report.simulated as f64 / 1e9,
        report.revision,
        s.operations,
        s.answered,
        s.messages,
        s.elections,
        s.crashes,
        s.snapshots,
        s.compactions,
        s.expired,
        s.membership,
        s.events
    )
}

fn finish(report: &Report) -> ExitCode {
    println!("{}", summary(report));
    match &report.violation {
        None => ExitCode::SUCCESS,
        Some(what) => {
            println!("FAILED seed {}: {what}", report.seed);
            ExitCode::from(1)
        }
    }
}

/// Runs seeds in child processes, because a failed assertion of the core ends its process.
fn swarm(start: u64, seeds: u64, jobs: u64, seconds: u64) -> ExitCode {
    let next = AtomicU64::new(start);
    let end = start + seeds;
    let failures = AtomicU64::new(0);
    let simulated = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let first = next.fetch_add(BATCH, Ordering::Relaxed);
                    if first >= end {
                        return;
                    }
                    let last = (first + BATCH).min(end);
                    let mut at = first;
                    while at < last {
                        at = batch(at, last - at, seconds, &failures, &simulated);
                    }
                }
            });
        }
    });
    let failures = failures.load(Ordering::Relaxed);
    let hours = simulated.load(Ordering::Relaxed) as f64 / 3600.0;
    println!("{seeds} seeds, {failures} failures, {hours:.1} simulated hours");
    ExitCode::from(u8::from(failures > 0))
}

/// One child; the seed to go on with.
fn batch(start: u64, count: u64, seconds: u64, failures: &AtomicU64, simulated: &AtomicU64) -> u64 {
    let failed = |seed: u64, what: &str| {
        failures.fetch_add(1, Ordering::Relaxed);
        let short: String = what.chars().take(300).collect();
        println!(
            "FAILED seed {seed}: {short} (replay: cargo run -p cairn-sim --release -- run {seed} -v --seconds {seconds})"
        );
    };
    let program = std::env::current_exe().expect("the program knows where it is");
    let child = Command::new(program)
        .args(["batch", &start.to_string(), "--count", &count.to_string(), "--seconds", &seconds.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("the program can start itself");
    let mut seed = start;
    let mut open = false;
    for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
        let Ok(line) = line else { break };
        if let Some(rest) = line.strip_prefix("begin ") {
            seed = rest.parse().unwrap_or(seed);
            open = true;
        } else if let Some(rest) = line.strip_prefix("end ") {
            open = false;
            let time = rest.split("simulated ").nth(1).and_then(|rest| rest.split(' ').next());
            let time: f64 = time.and_then(|text| text.parse().ok()).unwrap_or(0.0);
            simulated.fetch_add(time as u64, Ordering::Relaxed);
        } else if let Some(what) = line.strip_prefix("failure ") {
            failed(seed, what);
        }
    }
    let output = child.wait_with_output();
    if open {
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
        let panic =
            text.lines().filter(|line| !line.trim().is_empty()).take(3).collect::<Vec<_>>().join(" | ");
        failed(seed, &format!("panic: {panic}"));
    }
    seed + 1
}
