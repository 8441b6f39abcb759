//! The hunt for planted bugs: each of `cairn_core::planted` is run until a checker or an assertion finds
//! it. What is not found shows where the simulator is blind.
//!
//! Needs the feature `planted`; `cargo planted` is the alias that sets it.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use cairn_core::planted::Bug;

use crate::cluster::run;
use crate::options::Options;

/// What to hunt, and for how long.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// The bugs.
    pub bugs: Vec<Bug>,
    /// The first seed.
    pub start: u64,
    /// Seeds for each bug.
    pub seeds: u64,
    /// Bugs at a time.
    pub jobs: u64,
    /// Simulated seconds of chaos in each run.
    pub seconds: u64,
}

/// A bug that was found, or was not.
#[derive(Clone, Debug)]
struct Catch {
    bug: Bug,
    /// The seed and what was seen there.
    found: Option<(u64, String)>,
}

/// A bug by its name.
pub fn bug(name: &str) -> Option<Bug> {
    Bug::ALL.iter().copied().find(|bug| format!("{bug:?}") == name)
}

/// What a run came to with a bug in it; `None`: nothing was noticed.
pub fn violation(bug: Option<Bug>, seed: u64, seconds: u64) -> Option<String> {
    let options = Options { planted: bug, ..Options::draw(seed, seconds) };
    match catch_unwind(AssertUnwindSafe(|| run(options))) {
        Ok(report) => report.violation,
        Err(panic) => Some(assertion(panic.as_ref())),
    }
}

/// A failed assertion as a violation.
pub fn assertion(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("assertion: {}", text.unwrap_or("a panic without words"))
}

/// The checker that a violation comes from, by its words.
pub fn finder(what: &str) -> &'static str {
    const BEGINNINGS: [(&str, &str); 15] = [
        ("assertion:", "assertion"),
        ("election safety:", "election safety"),
        ("log matching:", "log matching"),
        ("leader completeness:", "leader completeness"),
        ("state machine safety:", "state machine safety"),
        ("own term commit:", "own term commit"),
        ("committed immutable:", "committed immutable"),
        ("apply:", "equal applies"),
        ("replay:", "state at start"),
        ("durability:", "durability"),
        ("liveness:", "liveness"),
        ("convergence:", "HashKV equality"),
        ("watch ", "watch"),
        ("lease:", "lease"),
        ("lock fencing:", "lock fencing"),
    ];
    const WORDS: [(&str, &str); 4] = [
        ("stops without a cause:", "unprovoked stop"),
        ("does not name what failed:", "unprovoked stop"),
        ("is in the log twice", "at most once"),
        ("and is in the log", "refusals"),
    ];
    let beginning = BEGINNINGS.iter().find(|(words, _)| what.starts_with(words));
    let head: String = what.chars().take(160).collect();
    let found = beginning.or_else(|| WORDS.iter().find(|(words, _)| head.contains(words)));
    found.map_or("linearizability", |(_, name)| name)
}

impl Hunt {
    /// Hunts, prints the table, and fails if a bug was not found.
    pub fn run(&self) -> ExitCode {
        if !cfg!(feature = "planted") {
            eprintln!("cairn-sim was built without the feature planted. Run it as `cargo planted ...`.");
            return ExitCode::from(2);
        }
        // The assertions that are found are told in the table.
        std::panic::set_hook(Box::new(|_| {}));
        let waiting = Mutex::new(VecDeque::from(self.bugs.clone()));
        let catches = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while let Some(bug) = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                        let caught = self.hunt(bug);
                        eprintln!("{}", caught.line(self.start));
                        catches.lock().unwrap_or_else(PoisonError::into_inner).push(caught);
                    }
                });
            }
        });
        let mut catches = catches.into_inner().unwrap_or_else(PoisonError::into_inner);
        catches.sort_by_key(|caught| caught.bug);
        self.print(&catches)
    }

    fn hunt(&self, bug: Bug) -> Catch {
        let mut seeds = self.start..self.start + self.seeds;
        let found = seeds.find_map(|seed| Some((seed, violation(Some(bug), seed, self.seconds)?)));
        Catch { bug, found }
    }

    fn print(&self, catches: &[Catch]) -> ExitCode {
        println!("| Bug | What is wrong | Found by | Seeds | Seen as |");
        println!("|---|---|---|---|---|");
        for caught in catches {
            println!("{}", caught.line(self.start));
        }
        let mut needed: Vec<u64> =
            catches.iter().filter_map(|caught| Some(caught.found.as_ref()?.0 - self.start + 1)).collect();
        needed.sort_unstable();
        let median = needed.get(needed.len() / 2).copied().unwrap_or(0);
        println!(
            "\n{} of {} found, median {median} seeds, most {} seeds, of {} s each",
            needed.len(),
            catches.len(),
            needed.last().unwrap_or(&0),
            self.seconds
        );
        ExitCode::from(u8::from(needed.len() < catches.len()))
    }
}

impl Catch {
    /// Its row of the table.
    fn line(&self, start: u64) -> String {
        let Self { bug, found } = self;
        let what = bug.what();
        match found {
            None => format!("| `{bug:?}` | {what} | **not found** | | |"),
            Some((seed, violation)) => {
                let seen: String = violation.lines().next().unwrap_or_default().chars().take(90).collect();
                let (seen, finder) = (seen.replace('|', "/"), finder(violation));
                format!("| `{bug:?}` | {what} | {finder} | {} | {} |", seed - start + 1, seen.trim())
            }
        }
    }
}

#[cfg(all(test, feature = "planted"))]
mod tests {
    use super::*;

    /// Bugs that a few short runs find. The whole table takes longer and stands in `sim/README.md`.
    #[test]
    fn some_bugs_are_found_at_once() {
        std::panic::set_hook(Box::new(|_| {}));
        for bug in [Bug::ReadBeforeApplied, Bug::AppliedBehindData, Bug::WatchPrevWrong, Bug::WalWithoutSync]
        {
            let hunt = Hunt { bugs: Vec::new(), start: 1, seeds: 60, jobs: 1, seconds: 20 };
            assert!(hunt.hunt(bug).found.is_some(), "{bug:?}");
        }
        assert_eq!(violation(None, 1, 5), None);
    }
}
