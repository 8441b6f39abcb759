//! What a comparison ran on: without it a figure means nothing.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde::Serialize;

use super::outcome::median;

/// Syncs in the disk's measurement.
const SYNCS: usize = 200;

/// The machine and the programs.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The day, UTC.
    pub date: String,
    /// The time of the day, UTC.
    pub time: String,
    /// The commit of the working directory; `-dirty` where something differs from it.
    pub commit: String,
    /// The processor, with the number of its cores.
    pub processor: String,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// The kernel.
    pub kernel: String,
    /// What the servers say of themselves.
    pub versions: [String; 2],
}

impl Machine {
    /// Looks around. What cannot be found out is told as unknown.
    pub fn look(etcd: &Path, cairn: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let model = field(&cpuinfo, "model name").unwrap_or_else(unknown);
        let memory = field(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal");
        let kib = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| unknown());
        Self {
            date: first_line(Command::new("date").args(["-u", "+%Y-%m-%d"])),
            time: first_line(Command::new("date").args(["-u", "+%H:%M"])),
            commit: first_line(Command::new("git").args([
                "describe",
                "--always",
                "--abbrev=12",
                "--dirty",
                "--exclude=*",
            ])),
            processor: format!("{model}, {cores} cores"),
            memory_gib: kib >> 20,
            kernel: kernel.trim().to_owned(),
            versions: [(etcd, "etcd Version: "), (cairn, "Cairn Version: ")].map(version),
        }
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

fn first_line(command: &mut Command) -> String {
    output(command).and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_else(unknown)
}

/// What follows the words in what a program prints of its version.
fn version((program, words): (&Path, &str)) -> String {
    let text = output(Command::new(program).arg("--version")).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(words)).map_or_else(unknown, str::to_owned)
}

/// The median of a small write with its sync, in microseconds.
pub(super) fn sync_time(parent: &Path) -> std::io::Result<u64> {
    let directory = tempfile::tempdir_in(parent)?;
    let path = directory.path().join("sync");
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let page = [7; 4096];
    // The file is written before, so that a sync has no metadata to write.
    for at in 0..SYNCS as u64 {
        file.write_all_at(&page, at * 4096)?;
    }
    file.sync_all()?;
    let mut times = Vec::with_capacity(SYNCS);
    for at in 0..SYNCS as u64 {
        let started = Instant::now();
        file.write_all_at(&page, at * 4096)?;
        file.sync_data()?;
        times.push(started.elapsed().as_micros() as f64);
    }
    Ok(median(&times) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_takes_time_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        sync_time(directory.path()).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
