//! Many seeds, spread over child processes: a failed assertion of the core ends its process, and a
//! seed must do the same in any of them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::cluster::run;
use crate::coverage::Coverage;
use crate::options::Options;

/// Seeds after which everything must have been reached at least once.
const COVERING: usize = 1000;
/// Seeds that one child process runs.
const BATCH: u64 = 50;

/// Which seeds to run, and how.
#[derive(Clone, Copy, Debug)]
pub struct Swarm {
    /// The first seed.
    pub start: u64,
    /// How many.
    pub seeds: u64,
    /// Child processes at a time.
    pub jobs: u64,
    /// Simulated seconds of chaos in each.
    pub seconds: u64,
}

/// What a child process said of a seed.
#[derive(Clone, Debug, Default)]
struct Outcome {
    hash: String,
    simulated: f64,
    failure: Option<String>,
    coverage: Coverage,
}

/// Runs seeds one after another and prints what [`Swarm`] reads.
pub fn batch(start: u64, seeds: u64, seconds: u64) {
    for seed in start..start + seeds {
        println!("begin {seed}");
        let report = run(Options::draw(seed, seconds));
        if let Some(what) = &report.violation {
            println!("failure {}", what.replace('\n', " | "));
        }
        println!("coverage {}", report.coverage.encode());
        println!("end {:016x} {:.1}", report.hash, report.simulated as f64 / 1e9);
    }
}

impl Swarm {
    /// Runs every seed and prints one line a failure.
    pub fn run(&self) -> ExitCode {
        let outcomes = self.outcomes(true);
        let failures = outcomes.values().filter(|outcome| outcome.failure.is_some()).count();
        let hours = outcomes.values().map(|outcome| outcome.simulated).sum::<f64>() / 3600.0;
        let mut coverage = Coverage::default();
        outcomes.values().for_each(|outcome| coverage.merge(&outcome.coverage));
        println!("{}", coverage.table());
        let holes = coverage.holes();
        let enough = outcomes.len() >= COVERING;
        if !holes.is_empty() {
            let verdict = if enough { "FAILED: never reached" } else { "not reached by so few seeds" };
            println!("{verdict}: {}", holes.join(", "));
        }
        println!("{} seeds, {failures} failures, {hours:.1} simulated hours", outcomes.len());
        ExitCode::from(u8::from(failures > 0 || enough && !holes.is_empty()))
    }

    /// Prints what each seed comes to, one a line: two builds agree when these lists are the same.
    pub fn hashes(&self) -> ExitCode {
        let outcomes = self.outcomes(false);
        for (seed, outcome) in &outcomes {
            println!("{seed} {}", outcome.hash);
        }
        ExitCode::from(u8::from(outcomes.values().any(|outcome| outcome.hash.is_empty())))
    }

    /// Runs every seed in two processes and compares what they did; `more` are run besides.
    pub fn check(&self, more: &[u64]) -> ExitCode {
        let mut differ = 0;
        let mut checked = 0;
        let alone = more.iter().map(|seed| Self { start: *seed, seeds: 1, ..*self });
        for swarm in alone.chain([*self]) {
            let [first, second] = [(); 2].map(|()| swarm.outcomes(false));
            for (seed, outcome) in &first {
                checked += 1;
                let again = second.get(seed).map(|outcome| outcome.hash.as_str()).unwrap_or_default();
                if more.contains(seed) {
                    println!("seed {seed}: {} and {again}", outcome.hash);
                }
                if outcome.hash != again || outcome.hash.is_empty() {
                    differ += 1;
                    println!("DIFFERS seed {seed}: {} and {again}", outcome.hash);
                }
            }
        }
        println!("{checked} seeds in two processes each, {differ} differ");
        ExitCode::from(u8::from(differ > 0 || checked == 0))
    }

    fn outcomes(&self, tell: bool) -> BTreeMap<u64, Outcome> {
        let next = AtomicU64::new(self.start);
        let end = self.start + self.seeds;
        let outcomes = Mutex::new(BTreeMap::new());
        let size = BATCH.min(self.seeds.div_ceil(self.jobs.max(1))).max(1);
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let first = next.fetch_add(size, Ordering::Relaxed);
                        let last = (first + size).min(end);
                        let mut at = first;
                        while at < last {
                            at = self.child(at, last - at, &mut |seed, outcome| {
                                if let Some(what) = outcome.failure.as_ref().filter(|_| tell) {
                                    self.tell(seed, what);
                                }
                                let mut all = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                                all.insert(seed, outcome);
                            });
                        }
                        if last >= end {
                            return;
                        }
                    }
                });
            }
        });
        outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, seed: u64, what: &str) {
        let short: String = what.chars().take(400).collect();
        println!("FAILED seed {seed}: {short} (replay: cargo sim {seed} --seconds {})", self.seconds);
    }

    /// One child process; returns the seed to go on with.
    fn child(&self, start: u64, seeds: u64, done: &mut dyn FnMut(u64, Outcome)) -> u64 {
        let program = std::env::current_exe().expect("the program knows where it is");
        let numbers = [("--start", start), ("--seeds", seeds), ("--seconds", self.seconds)];
        let mut command = Command::new(program);
        command.arg("batch").stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, number) in numbers {
            command.args([name, &number.to_string()]);
        }
        let mut child = command.spawn().expect("the program can start itself");
        let mut seed = start;
        let mut open: Option<Outcome> = None;
        for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
            let Ok(line) = line else { break };
            let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match word {
                "begin" => {
                    seed = rest.parse().unwrap_or(seed);
                    open = Some(Outcome::default());
                }
                "failure" => {
                    if let Some(outcome) = &mut open {
                        outcome.failure = Some(rest.to_owned());
                    }
                }
                "coverage" => {
                    if let Some(outcome) = &mut open {
                        outcome.coverage = Coverage::decode(rest);
                    }
                }
                "end" => {
                    if let Some(mut outcome) = open.take() {
                        let (hash, simulated) = rest.split_once(' ').unwrap_or((rest, "0"));
                        outcome.hash = hash.to_owned();
                        outcome.simulated = simulated.parse().unwrap_or(0.0);
                        done(seed, outcome);
                    }
                }
                _ => {}
            }
        }
        let output = child.wait_with_output();
        if let Some(mut outcome) = open {
            let text =
                output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
            let lines = text.lines().filter(|line| !line.trim().is_empty()).take(4);
            outcome.failure = Some(format!("panic: {}", lines.collect::<Vec<_>>().join(" | ")));
            done(seed, outcome);
        }
        seed + 1
    }
}
