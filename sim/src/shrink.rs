//! Makes a failing run smaller: leaves out faults and operations as long as it still fails in the same
//! way (delta debugging, Zeller and Hildebrandt 2002), and prints the command that runs what is left.
//!
//! Each fault and each operation draws from its own name, so that leaving one out does not change what
//! the others are; what follows from them may still change, which is why every step is run.
//!
//! **Invariant:** the same seed always shrinks to the same run.

use std::collections::BTreeSet;
use std::fmt;
use std::process::ExitCode;

use crate::options::Options;
use crate::planted::finder;
use crate::report::record;

/// Runs that a shrinking may take.
const RUNS_MAX: usize = 600;

/// The name of an operation: the client, and how many it has asked before.
pub type OpName = (usize, u64);

/// The faults and operations that a run has; none: all that its seed draws.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    faults: Option<BTreeSet<u64>>,
    ops: Option<BTreeSet<OpName>>,
}

impl Kept {
    /// Reads what [`Kept`] prints, from the values of `--faults` and `--ops`.
    pub fn parse(faults: Option<&str>, ops: Option<&str>) -> Self {
        let list = |text: &str| -> Vec<String> { text.split(',').map(str::to_owned).collect() };
        let fault = |text: &String| text.parse().ok();
        let op = |text: &String| {
            let (client, number) = text.split_once('.')?;
            Some((client.parse().ok()?, number.parse().ok()?))
        };
        Self {
            faults: faults.map(|text| list(text).iter().filter_map(fault).collect()),
            ops: ops.map(|text| list(text).iter().filter_map(op).collect()),
        }
    }

    /// Whether a fault happens.
    pub fn fault(&self, name: u64) -> bool {
        self.faults.as_ref().is_none_or(|kept| kept.contains(&name))
    }

    /// Whether an operation is asked.
    pub fn op(&self, name: OpName) -> bool {
        self.ops.as_ref().is_none_or(|kept| kept.contains(&name))
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |list: Vec<String>| if list.is_empty() { "none".to_owned() } else { list.join(",") };
        if let Some(faults) = &self.faults {
            write!(f, " --faults {}", or_none(faults.iter().map(u64::to_string).collect()))?;
        }
        if let Some(ops) = &self.ops {
            let ops = ops.iter().map(|(client, number)| format!("{client}.{number}"));
            write!(f, " --ops {}", or_none(ops.collect()))?;
        }
        Ok(())
    }
}

/// The smallest part of `items` that was found to be enough; `enough` is asked of parts in a fixed order.
pub fn minimize<T: Clone>(items: &[T], mut enough: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut left = items.to_vec();
    if enough(&[]) {
        return Vec::new();
    }
    let mut size = left.len().div_ceil(2);
    while size > 0 && !left.is_empty() {
        let mut at = 0;
        let mut dropped = false;
        while at < left.len() {
            let mut rest = left.clone();
            rest.drain(at..(at + size).min(left.len()));
            if enough(&rest) {
                left = rest;
                dropped = true;
            } else {
                at += size;
            }
        }
        // A step that was in vain at this size is tried again at half of it.
        size = if dropped && size == 1 { 1 } else { size / 2 };
    }
    left
}

/// A failure that is made smaller.
struct Shrink {
    options: Options,
    found: &'static str,
    runs: usize,
}

impl Shrink {
    /// Whether a run with these fails in the same way.
    fn fails(&mut self, kept: Kept) -> bool {
        self.runs += 1;
        self.runs <= RUNS_MAX
            && record(Options { kept, ..self.options.clone() }, String::new())
                .is_err_and(|failure| finder(failure.what()) == self.found)
    }
}

/// Shrinks a seed and prints the command that replays what is left; `command` is the one so far.
pub fn shrink(options: Options, command: &str) -> ExitCode {
    let Err(failure) = record(options.clone(), String::new()) else {
        println!("seed {} does not fail", options.seed);
        return ExitCode::from(2);
    };
    let (faults, ops) = failure.names();
    let (before_faults, before_ops) = (faults.len(), ops.len());
    let mut shrink = Shrink { options, found: finder(failure.what()), runs: 0 };
    let mut kept = Kept::default();
    for _ in 0..2 {
        let from: Vec<u64> = faults.iter().copied().filter(|name| kept.fault(*name)).collect();
        let with = |faults: &[u64], kept: &Kept| Kept {
            faults: Some(faults.iter().copied().collect()),
            ..kept.clone()
        };
        let left = minimize(&from, |part| shrink.fails(with(part, &kept)));
        kept = with(&left, &kept);
        let from: Vec<OpName> = ops.iter().copied().filter(|name| kept.op(*name)).collect();
        let with =
            |ops: &[OpName], kept: &Kept| Kept { ops: Some(ops.iter().copied().collect()), ..kept.clone() };
        let left = minimize(&from, |part| shrink.fails(with(part, &kept)));
        kept = with(&left, &kept);
    }
    let count = |kept: &Kept| {
        (kept.faults.as_ref().map_or(0, BTreeSet::len), kept.ops.as_ref().map_or(0, BTreeSet::len))
    };
    let (faults, ops) = count(&kept);
    println!(
        "{}: {before_faults} faults and {before_ops} operations became {faults} and {ops} in {} runs",
        shrink.found, shrink.runs
    );
    println!("{command}{kept}");
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_left() {
        let items: Vec<u64> = (0..100).collect();
        let mut asked = 0;
        let left = minimize(&items, |part| {
            asked += 1;
            [3, 57, 58].iter().all(|item| part.contains(item))
        });
        assert_eq!(left, [3, 57, 58]);
        assert!(asked < 100, "{asked} runs");
        assert!(minimize(&items, |_| true).is_empty());
        assert_eq!(minimize(&items, |part| part.len() == 100).len(), 100);
    }

    #[test]
    fn the_command_says_what_is_kept() {
        let kept = Kept::parse(Some("7,3"), Some("1.20,0.4"));
        assert_eq!(kept.to_string(), " --faults 3,7 --ops 0.4,1.20");
        assert!(kept.fault(3) && !kept.fault(4) && kept.op((1, 20)) && !kept.op((0, 20)));
        let none = Kept::parse(Some("none"), None);
        assert_eq!(none.to_string(), " --faults none");
        assert!(!none.fault(0) && none.op((5, 5)));
        assert_eq!(Kept::default().to_string(), "");
    }
}
