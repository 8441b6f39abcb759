//! All figures of a comparison, as tables with verdicts, and as files.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::loads::{COLUMNS, Columns, Point, Taken};
use super::others::SHARE_MAX;
use super::{Bound, CompareOptions, Figure, Machine, ROWS, Row, plot};
use crate::connection::BenchError;
use crate::report::{plain_table, right};

const SERVERS: [&str; 2] = ["etcd", "cairn"];

/// See the module.
#[derive(Clone, Debug)]
pub struct Outcome {
    machine: Machine,
    options: CompareOptions,
    /// The median of a write of 4 KiB and its fdatasync before each round, in microseconds.
    pub(super) sync_us: Vec<u64>,
    /// By row, figure and server, one a round.
    figures: BTreeMap<(&'static str, &'static str, &'static str), Vec<f64>>,
    /// By row, load and server, one a round.
    loads: BTreeMap<(&'static str, &'static str, &'static str), Vec<Columns>>,
    /// The cores that others used, by row and server, one a round.
    others: BTreeMap<(&'static str, &'static str), Vec<f64>>,
    /// Row, server and what went wrong.
    pub(super) failed: Vec<(&'static str, &'static str, String)>,
    /// Runs that were thrown away because of others.
    pub(super) repeated: usize,
    pub(super) offered: Vec<(&'static str, Vec<Point>)>,
    /// The cores that others used meanwhile.
    pub(super) offered_others: f64,
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
        Self {
            machine,
            options,
            sync_us: Vec::new(),
            figures: BTreeMap::new(),
            loads: BTreeMap::new(),
            others: BTreeMap::new(),
            failed: Vec::new(),
            repeated: 0,
            offered: Vec::new(),
            offered_others: 0.0,
        }
    }

    pub(super) fn add(&mut self, row: &Row, server: &'static str, taken: &Taken, others: f64) {
        for (figure, value) in row.figures.iter().zip(&taken.values) {
            self.figures.entry((row.name, figure.name, server)).or_default().push(*value);
        }
        for (load, columns) in &taken.loads {
            self.loads.entry((row.name, load, server)).or_default().push(*columns);
        }
        self.others.entry((row.name, server)).or_default().push(others);
    }

    pub(super) fn fail(&mut self, row: &Row, server: &'static str, error: String) {
        self.failed.push((row.name, server, error));
    }

    fn of(&self, row: &Row, figure: &Figure, server: &'static str) -> &[f64] {
        self.figures.get(&(row.name, figure.name, server)).map_or(&[], Vec::as_slice)
    }

    /// `(etcd, cairn)` medians of a figure that was measured, of etcd too if the bound is one of a ratio.
    fn medians(&self, row: &Row, figure: &Figure) -> Option<(f64, f64)> {
        let (etcd, cairn) = (self.of(row, figure, "etcd"), self.of(row, figure, "cairn"));
        let needs_etcd = matches!(figure.must, Bound::AtMost(_) | Bound::AtLeast(_));
        let missing = cairn.is_empty() || (needs_etcd && etcd.is_empty());
        (!missing).then(|| (median(etcd), median(cairn)))
    }

    fn measured(&self) -> impl Iterator<Item = (&'static Row, &'static Figure, f64, f64)> + '_ {
        ROWS.iter().flat_map(|row| row.figures.iter().map(move |figure| (row, figure))).filter_map(
            |(row, figure)| {
                let (etcd, cairn) = self.medians(row, figure)?;
                Some((row, figure, etcd, cairn))
            },
        )
    }

    /// How many of the measured figures fail what must hold, and how many runs failed.
    pub fn failures(&self) -> usize {
        let broken = self.measured().filter(|(_, figure, etcd, cairn)| !figure.must.holds(*etcd, *cairn));
        broken.count() + self.failed.len()
    }

    /// How many runs failed.
    pub fn failed_runs(&self) -> usize {
        self.failed.len()
    }

    /// Runs of both servers, and how many of them were disturbed.
    fn runs(&self, row: &Row) -> (String, String) {
        let of = |server| self.others.get(&(row.name, server)).map_or(&[][..], Vec::as_slice);
        let busy = SERVERS.iter().flat_map(|server| of(server)).filter(|others| **others > SHARE_MAX).count();
        let runs = format!("{}/{}", of("etcd").len(), of("cairn").len());
        (runs, if busy == 0 { String::new() } else { busy.to_string() })
    }

    /// The tables for people.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n\n{}\n", self.verdicts(), self.all_loads());
        for row in ROWS.iter().filter(|row| self.measured().any(|(measured, ..)| measured.name == row.name)) {
            let _ = writeln!(text, "{:12} {}", row.name, row.work);
        }
        for (row, server, error) in &self.failed {
            let _ = writeln!(text, "FAILED: {row} of {server}: {error}");
        }
        let count = |bound: fn(&Figure) -> Bound| {
            let bounds = self.measured().filter(|(_, figure, ..)| bound(figure) != Bound::Free);
            let holds: Vec<bool> =
                bounds.map(|(_, figure, etcd, cairn)| bound(figure).holds(etcd, cairn)).collect();
            format!("{} of {}", holds.iter().filter(|holds| **holds).count(), holds.len())
        };
        let Machine { date, time, commit, processor, memory_gib, kernel, versions } = &self.machine;
        let CompareOptions { rounds, duration, keys, quick, .. } = &self.options;
        let _ = write!(
            text,
            "\nmust: {} hold; aim: {} hold\n{date} {time} UTC, commit {commit}; etcd {}; Cairn {}\n{processor}, \
             {memory_gib} GiB, Linux {kernel}; a write of 4 KiB and its sync take {:?} us\nmedians of up to \
             {rounds} rounds (runs: etcd/cairn), loads of {duration:?}, {keys} keys{}; the load generator \
             shares the cores\nbusy: runs during which other processes used more than {SHARE_MAX} cores; {} \
             more were repeated for that\n",
            count(|figure| figure.must),
            count(|figure| figure.aim),
            versions[0],
            versions[1],
            self.sync_us,
            if *quick { "; QUICK: proves nothing" } else { "" },
            self.repeated,
        );
        if !self.offered.is_empty() {
            let _ =
                writeln!(text, "others used {:.2} cores while the plot was measured", self.offered_others);
        }
        text
    }

    fn verdicts(&self) -> comfy_table::Table {
        let mut table = plain_table(&[
            "row",
            "figure",
            "etcd",
            "(min-max)",
            "cairn",
            "(min-max)",
            "ratio",
            "must",
            "",
            "aim",
            "",
            "runs",
            "busy",
        ]);
        let mut before = "";
        for (row, figure, etcd, cairn) in self.measured() {
            let verdict = |bound: Bound| match bound {
                Bound::Free => "",
                _ if bound.holds(etcd, cairn) => "yes",
                _ => "NO",
            };
            let ratio = match figure.must {
                Bound::Below(_) => "-".to_owned(),
                _ if etcd == 0.0 => "-".to_owned(),
                _ => format!("{:.2}", cairn / etcd),
            };
            let (name, runs, busy) = match row.name == before {
                true => Default::default(),
                false => (row.name.to_owned(), self.runs(row).0, self.runs(row).1),
            };
            table.add_row([
                name,
                figure.name.to_owned(),
                if self.of(row, figure, "etcd").is_empty() { "-".to_owned() } else { number(etcd) },
                spread(self.of(row, figure, "etcd")),
                number(cairn),
                spread(self.of(row, figure, "cairn")),
                ratio,
                figure.must.to_string(),
                verdict(figure.must).to_owned(),
                figure.aim.to_string(),
                verdict(figure.aim).to_owned(),
                runs,
                busy,
            ]);
            before = row.name;
        }
        table
    }

    /// Everything that is measured of every load: medians, and Cairn's ratios to etcd's.
    fn all_loads(&self) -> comfy_table::Table {
        let mut table = plain_table(&[&["row", "load", ""][..], &COLUMNS[..]].concat());
        let mut keys: Vec<_> = self.loads.keys().map(|(row, load, _)| (*row, *load)).collect();
        keys.dedup();
        let position = |name: &str| ROWS.iter().position(|row| row.name == name);
        keys.sort_by_key(|(row, _)| position(row));
        for (row, load) in keys {
            let medians = SERVERS.map(|server| {
                let rounds = self.loads.get(&(row, load, server));
                std::array::from_fn::<_, { COLUMNS.len() }, _>(|column| {
                    let values: Vec<f64> =
                        rounds.into_iter().flatten().filter_map(|columns| columns[column]).collect();
                    (!values.is_empty()).then(|| median(&values))
                })
            });
            let mut line = |row: &str, load: &str, name: &str, columns: Columns, text: fn(f64) -> String| {
                let head = [row, load, name].map(str::to_owned);
                table
                    .add_row(head.into_iter().chain(columns.map(|value| value.map_or("-".to_owned(), text))));
            };
            line(row, load, "etcd", medians[0], number);
            line("", "", "cairn", medians[1], number);
            let ratios = std::array::from_fn(|column| {
                let (etcd, cairn) = medians[0][column].zip(medians[1][column])?;
                (etcd > 0.0).then(|| cairn / etcd)
            });
            line("", "", "ratio", ratios, |ratio| format!("{ratio:.2}"));
        }
        right(&mut table);
        table
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
        let loads: Vec<Value> = self
            .loads
            .iter()
            .map(|((row, load, server), rounds)| {
                let columns: BTreeMap<&str, Vec<Option<f64>>> = (COLUMNS.iter().enumerate())
                    .map(|(at, name)| (*name, rounds.iter().map(|columns| columns[at]).collect()))
                    .collect();
                json!({ "row": row, "load": load, "server": server, "columns": columns })
            })
            .collect();
        let others: Vec<Value> = self
            .others
            .iter()
            .map(|((row, server), cores)| json!({ "row": row, "server": server, "cores": cores }))
            .collect();
        let failed: Vec<Value> = self
            .failed
            .iter()
            .map(|(row, server, error)| json!({ "row": row, "server": server, "error": error }))
            .collect();
        json!({
            "machine": self.machine,
            "rounds": self.options.rounds,
            "seconds": self.options.duration.as_secs_f64(),
            "keys": self.options.keys,
            "quick": self.options.quick,
            "sync_us": self.sync_us,
            "figures": figures,
            "loads": loads,
            "others": others,
            "failed": failed,
            "repeated": self.repeated,
            "offered": self.offered,
            "offered_others": self.offered_others,
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

    fn outcome() -> Outcome {
        let machine = Machine {
            date: "2026-01-02".to_owned(),
            time: "03:04".to_owned(),
            commit: "0123456789ab".to_owned(),
            processor: "a processor, 2 cores".to_owned(),
            memory_gib: 1,
            kernel: "6".to_owned(),
            versions: ["3.4.23".to_owned(), "0.1.0".to_owned()],
        };
        let options = CompareOptions {
            etcd: PathBuf::new(),
            cairn: PathBuf::new(),
            dir: None,
            rounds: 2,
            budget: None,
            repeats: 0,
            duration: std::time::Duration::from_secs(1),
            rows: Vec::new(),
            long: false,
            keys: 10,
            quick: false,
            plot: false,
            results: None,
        };
        Outcome::new(machine, options)
    }

    fn row(name: &str) -> &'static Row {
        ROWS.iter().find(|row| row.name == name).unwrap()
    }

    #[test]
    fn a_row_that_failed_on_one_server_has_no_verdict_and_is_a_failure() {
        let mut outcome = outcome();
        outcome.fail(row("txn"), "etcd", "it did not start".to_owned());
        outcome.add(row("txn"), "cairn", &vec![9_000.0].into(), 0.0);
        outcome.add(row("stm"), "etcd", &vec![1_000.0].into(), 0.0);
        outcome.add(row("stm"), "cairn", &vec![3_000.0].into(), 0.0);
        let table = outcome.table();
        assert!(table.contains("FAILED: txn of etcd: it did not start"), "{table}");
        assert!(table.contains("must: 1 of 1 hold") && !table.contains("| txn"), "{table}");
        assert_eq!(outcome.failures(), 1);
    }

    #[test]
    fn the_tables_have_medians_ratios_and_disturbed_runs() {
        let mut outcome = outcome();
        for (round, others) in [(0.0, 0.1), (100.0, 0.3)] {
            for (server, throughput) in [("etcd", 1_000.0), ("cairn", 2_000.0)] {
                let mut columns = [None; COLUMNS.len()];
                columns[0] = Some(throughput + round);
                let values = vec![10.0, throughput + round, 5.0];
                let taken = Taken { values, loads: vec![("put", columns)] };
                outcome.add(row("put"), server, &taken, if server == "etcd" { others } else { 0.0 });
            }
        }
        let table = outcome.table();
        let line = |part: &str| table.lines().find(|line| line.contains(part)).unwrap_or_default().to_owned();
        let throughput = line("puts/s");
        for part in ["1050", "(1000-1100)", "2050", "(2000-2100)", "1.95", "yes"] {
            assert!(throughput.contains(part), "{part} is not in {throughput}");
        }
        let cells: Vec<String> = line("| put ").split('|').map(|cell| cell.trim().to_owned()).collect();
        assert_eq!(cells[12..14], ["2/2", "1"], "{cells:?}");
        let is_ratio = |line: &str| line.contains("| ratio |") && line.contains(" 1.95 ");
        assert!(table.lines().any(is_ratio), "{table}");
        assert_eq!(outcome.json()["loads"][0]["columns"]["ops/s"][1], 2_100.0);
        // CPU and p99 are as high as etcd's.
        assert_eq!(outcome.failures(), 2);
    }
}
