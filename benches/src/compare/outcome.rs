//! All figures of a comparison, as a table with verdicts, and as files.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::loads::Point;
use super::{Bound, CompareOptions, Figure, Machine, ROWS, Row, plot};
use crate::connection::BenchError;
use crate::report::plain_table;

/// See the module.
#[derive(Clone, Debug)]
pub struct Outcome {
    machine: Machine,
    options: CompareOptions,
    /// The median of a write of 4 KiB and its fdatasync before each round, in microseconds.
    pub(super) sync_us: Vec<u64>,
    /// By row, figure and server, one a round.
    figures: BTreeMap<(&'static str, &'static str, &'static str), Vec<f64>>,
    pub(super) offered: Vec<(&'static str, Vec<Point>)>,
}

/// The middle, or the mean of the two in the middle; 0 for nothing.
pub(super) fn median(numbers: &[f64]) -> f64 {
    let mut numbers = numbers.to_vec();
    numbers.sort_by(f64::total_cmp);
    match (numbers.len() / 2, numbers.len() % 2) {
        (0, 0) => 0.0,
        (half, 0) => f64::midpoint(numbers[half - 1], numbers[half]),
        (half, _) => numbers[half],
    }
}

impl Outcome {
    pub(super) fn new(machine: Machine, options: CompareOptions) -> Self {
        Self { machine, options, sync_us: Vec::new(), figures: BTreeMap::new(), offered: Vec::new() }
    }

    pub(super) fn add(&mut self, row: &Row, server: &'static str, values: &[f64]) {
        for (figure, value) in row.figures.iter().zip(values) {
            self.figures.entry((row.name, figure.name, server)).or_default().push(*value);
        }
    }

    fn of(&self, row: &Row, figure: &Figure, server: &'static str) -> &[f64] {
        self.figures.get(&(row.name, figure.name, server)).map_or(&[], Vec::as_slice)
    }

    /// `(etcd, cairn)` medians of a figure that was measured.
    fn medians(&self, row: &Row, figure: &Figure) -> Option<(f64, f64)> {
        let cairn = self.of(row, figure, "cairn");
        (!cairn.is_empty()).then(|| (median(self.of(row, figure, "etcd")), median(cairn)))
    }

    fn measured(&self) -> impl Iterator<Item = (&'static Row, &'static Figure, f64, f64)> + '_ {
        ROWS.iter().flat_map(|row| row.figures.iter().map(move |figure| (row, figure))).filter_map(
            |(row, figure)| {
                let (etcd, cairn) = self.medians(row, figure)?;
                Some((row, figure, etcd, cairn))
            },
        )
    }

    /// How many of the measured figures fail what must hold.
    pub fn failures(&self) -> usize {
        self.measured().filter(|(_, figure, etcd, cairn)| !figure.must.holds(*etcd, *cairn)).count()
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let header =
            ["row", "figure", "etcd", "(min-max)", "cairn", "(min-max)", "ratio", "must", "", "aim", ""];
        let mut table = plain_table(&header);
        let mut before = "";
        for (row, figure, etcd, cairn) in self.measured() {
            let verdict = |bound: Bound| if bound.holds(etcd, cairn) { "yes" } else { "NO" };
            let ratio = match figure.must {
                Bound::Below(_) => "-".to_owned(),
                _ => format!("{:.2}", cairn / etcd),
            };
            table.add_row([
                if row.name == before { String::new() } else { row.name.to_owned() },
                figure.name.to_owned(),
                number(etcd),
                spread(self.of(row, figure, "etcd")),
                number(cairn),
                spread(self.of(row, figure, "cairn")),
                ratio,
                figure.must.to_string(),
                verdict(figure.must).to_owned(),
                figure.aim.to_string(),
                verdict(figure.aim).to_owned(),
            ]);
            before = row.name;
        }
        let mut text = format!("{table}\n\n");
        for row in ROWS.iter().filter(|row| self.measured().any(|(measured, ..)| measured.name == row.name)) {
            let _ = writeln!(text, "{:12} {}", row.name, row.work);
        }
        let Machine { date, commit, processor, memory_gib, kernel, versions } = &self.machine;
        let CompareOptions { rounds, duration, keys, quick, .. } = &self.options;
        let _ = write!(
            text,
            "\n{date}, commit {commit}; {}; {}\n{processor}, {memory_gib} GiB, Linux {kernel}; a write of 4 KiB \
             and its sync take {:?} us\nmedians of {rounds} rounds, loads of {duration:?}, {keys} keys{}; the \
             load generator shares the cores\n",
            versions[0],
            versions[1],
            self.sync_us,
            if *quick { "; QUICK: proves nothing" } else { "" },
        );
        text
    }

    fn json(&self) -> Value {
        let figures: Vec<Value> = self
            .measured()
            .map(|(row, figure, etcd, cairn)| {
                json!({
                    "row": row.name,
                    "work": row.work,
                    "figure": figure.name,
                    "etcd": self.of(row, figure, "etcd"),
                    "cairn": self.of(row, figure, "cairn"),
                    "must": figure.must.to_string(),
                    "must_holds": figure.must.holds(etcd, cairn),
                    "aim": figure.aim.to_string(),
                    "aim_holds": figure.aim.holds(etcd, cairn),
                })
            })
            .collect();
        json!({
            "machine": self.machine,
            "rounds": self.options.rounds,
            "seconds": self.options.duration.as_secs_f64(),
            "keys": self.options.keys,
            "quick": self.options.quick,
            "sync_us": self.sync_us,
            "figures": figures,
            "offered": self.offered,
        })
    }

    /// Writes the text, the JSON and the plot into `folder`; returns what all their names begin with.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, BenchError> {
        let stem = folder.join(format!("{}-{}", self.machine.date, self.machine.commit));
        let write = |extension: &str, text: String| {
            let path = stem.with_extension(extension);
            std::fs::write(&path, text).map_err(BenchError::io(format!("writing {}", path.display())))
        };
        std::fs::create_dir_all(folder).map_err(BenchError::io(format!("making {}", folder.display())))?;
        write("txt", self.table())?;
        write("json", format!("{:#}\n", self.json()))?;
        if !self.offered.is_empty() {
            write("svg", plot::svg(&self.offered))?;
        }
        Ok(stem)
    }
}

fn spread(numbers: &[f64]) -> String {
    let least = numbers.iter().copied().min_by(f64::total_cmp);
    match least.zip(numbers.iter().copied().max_by(f64::total_cmp)) {
        Some((least, most)) => format!("({}-{})", number(least), number(most)),
        None => String::new(),
    }
}

/// Three digits or more.
fn number(number: f64) -> String {
    match number {
        number if number < 10.0 => format!("{number:.2}"),
        number if number < 100.0 => format!("{number:.1}"),
        number => format!("{number:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), 3.0);
    }
}
