//! What a process has used, from `/proc`.

use std::fs;
use std::io;
use std::time::Duration;

/// Ticks a second of the times in `/proc/PID/stat`: fixed by Linux's interface on the machines that
/// Cairn runs on, whatever the kernel's own rate.
pub(crate) const TICKS: u64 = 100;

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all its threads.
    pub cpu: Duration,
    /// Memory that it has now.
    pub rss_bytes: u64,
    /// The most that it ever had.
    pub rss_peak_bytes: u64,
    /// Page cache that it dirtied, in bytes. The kernel counts whole folios, which may be many times
    /// what is written to the disk: good for comparing a server with itself, not with another.
    pub dirtied_bytes: u64,
}

impl std::ops::Add for Usage {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            rss_bytes: self.rss_bytes + other.rss_bytes,
            rss_peak_bytes: self.rss_peak_bytes + other.rss_peak_bytes,
            dirtied_bytes: self.dirtied_bytes + other.dirtied_bytes,
        }
    }
}

/// Reads it.
///
/// # Errors
/// There is no such process, or it belongs to someone else.
pub fn usage(pid: u32) -> io::Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    // Without permission to read it there is nothing to report of that; the rest still counts.
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let cpu = cpu(&stat).ok_or_else(|| io::Error::other(format!("cannot read the times in {stat:?}")))?;
    Ok(Usage {
        cpu,
        rss_bytes: number(&status, "VmRSS:") << 10,
        rss_peak_bytes: number(&status, "VmHWM:") << 10,
        dirtied_bytes: number(&io, "write_bytes:"),
    })
}

fn cpu(stat: &str) -> Option<Duration> {
    // The name may hold spaces and brackets; what follows the last bracket is regular.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks()? + ticks()?) * (1000 / TICKS)))
}

fn number(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_cpu_and_memory() {
        let before = usage(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while usage(std::process::id()).unwrap().cpu <= before.cpu {
            sum = sum.wrapping_add(1);
        }
        assert!(before.rss_bytes > 0 && before.rss_peak_bytes >= before.rss_bytes, "{before:?} {sum}");
    }

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0";
        assert_eq!(cpu(stat), Some(Duration::from_millis(1750)));
    }
}
