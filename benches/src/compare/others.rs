//! What else the machine does while a server is measured: CPU time of everybody but this process and the
//! servers that it started, and what the disk writes.
//!
//! A process that ends leaves its time with the one that waits for it, so the sum over all processes of
//! their own time and their children's loses nothing, however short they live. The kernel's threads are
//! left out: they work for the servers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::process::TICKS;

/// A run during which others used more than this share of a core is not trusted.
pub(super) const SHARE_MAX: f64 = 0.15;
/// The kernel's first thread; all of its other threads are its children.
const KTHREADD: u32 = 2;
/// Bytes of what `/sys` calls a sector, whatever the device's own are.
const SECTOR: u64 = 512;

/// A reading of everybody else's CPU time.
#[derive(Debug)]
pub(super) struct Others {
    since: Instant,
    cpu: Duration,
}

impl Others {
    /// Begins to watch.
    pub(super) fn watch() -> Self {
        Self { since: Instant::now(), cpu: cpu_of_others() }
    }

    /// The cores that others have used on average since then.
    pub(super) fn share(&self) -> f64 {
        let cpu = cpu_of_others().saturating_sub(self.cpu);
        cpu.as_secs_f64() / self.since.elapsed().as_secs_f64().max(1e-3)
    }
}

fn cpu_of_others() -> Duration {
    let processes: BTreeMap<u32, Process> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            // It may end while it is looked at; then its parent has its time, or will have.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, Process::parse(&stat)?))
        })
        .collect();
    let ticks = others(&processes, std::process::id());
    Duration::from_millis(ticks * (1000 / TICKS))
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Process {
    parent: u32,
    /// User and system time, its own and that of the children that it waited for.
    ticks: u64,
}

impl Process {
    fn parse(stat: &str) -> Option<Self> {
        // The name may hold spaces and brackets; what follows the last bracket is regular.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>().unwrap_or(0)).sum();
        Some(Self { parent: fields.get(1)?.parse().ok()?, ticks })
    }
}

/// The time of all processes that are neither `own`, nor below it, nor the kernel's.
fn others(processes: &BTreeMap<u32, Process>, own: u32) -> u64 {
    let left_out = |pid: u32| {
        let mut pid = pid;
        // Parents are read one after the other, so a circle is possible, if hardly.
        for _ in 0..processes.len() {
            if pid == own || pid == KTHREADD {
                return true;
            }
            match processes.get(&pid) {
                Some(process) => pid = process.parent,
                None => return false,
            }
        }
        false
    };
    processes.iter().filter(|(pid, _)| !left_out(**pid)).map(|(_, process)| process.ticks).sum()
}

/// Bytes that the disk below `path` has been given to write, by anybody; `None` if `path` lies on no disk.
pub(super) fn disk_bytes(path: &Path) -> Option<u64> {
    let device = fs::metadata(path).ok()?.dev();
    // As glibc takes a device number apart.
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & 0xffff_ff00);
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    let sectors: u64 = stat.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_this_process_its_servers_and_the_kernel_is_not_that_of_others() {
        let stat =
            |parent: u32, ticks: u64| format!("7 (a) b) S {parent} 2 3 4 5 6 7 8 9 10 {ticks} 1 1 1 0");
        let process = |parent, ticks| Process::parse(&stat(parent, ticks)).unwrap();
        let processes = BTreeMap::from([
            (1, process(0, 10)),
            (2, process(0, 20)),
            (3, process(2, 40)),
            (50, process(1, 80)),
            (51, process(50, 160)),
            (52, process(51, 320)),
            (60, process(1, 640)),
        ]);
        // Each has three ticks more than its first field says.
        assert_eq!(others(&processes, 50), 10 + 640 + 2 * 3);
        assert_eq!(others(&processes, 99), 10 + 80 + 160 + 320 + 640 + 5 * 3);
    }

    #[test]
    fn a_place_without_a_disk_has_no_bytes() {
        assert_eq!(disk_bytes(Path::new("/proc")), None);
    }
}
