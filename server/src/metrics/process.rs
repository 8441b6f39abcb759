//! What the kernel knows of this process, read from `/proc` at each scrape.
//!
//! A file that cannot be read leaves its metrics out: a wrong number is worse than none.

use std::fs;

use tokio::runtime::Handle;

use super::text::{Kind, Page};

/// The unit of times in `/proc`: Linux shows user space 100 a second on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Adds the `process_*` and `os_fd_*` families, and the tasks of `runtimes`.
pub(super) fn encode(page: &mut Page, runtimes: &[Handle]) {
    let read = |path: &str| fs::read_to_string(path).ok();
    let mut gauge = |name, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            page.sample(name, Kind::Gauge, help, &[], value);
        }
    };
    let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    let limits = read("/proc/self/limits");
    let limit = |name| limits.as_deref().and_then(|limits| soft_limit(limits, name));
    gauge("os_fd_used", "The number of used file descriptors.", open);
    gauge("process_open_fds", "Number of open file descriptors.", open);
    gauge("os_fd_limit", "The file descriptor limit.", limit("Max open files"));
    gauge("process_max_fds", "Maximum number of open file descriptors.", limit("Max open files"));
    let address_space = limit("Max address space");
    gauge("process_virtual_memory_max_bytes", "Maximum amount of virtual memory in bytes.", address_space);

    let status = read("/proc/self/status");
    let kilobytes = |name| status.as_deref().and_then(|status| field_kilobytes(status, name));
    gauge("process_resident_memory_bytes", "Resident memory size in bytes.", kilobytes("VmRSS:"));
    let threads = status.as_deref().and_then(|status| field(status, "Threads:"));
    // Dashboards ask for these two; a task is what a goroutine is.
    gauge("go_threads", "Number of OS threads.", threads);
    let tasks: usize = runtimes.iter().map(|runtime| runtime.metrics().num_alive_tasks()).sum();
    gauge("go_goroutines", "Number of the runtimes' tasks that currently exist.", Some(tasks as f64));
    gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", kilobytes("VmSize:"));

    let Some(stat) = read("/proc/self/stat").as_deref().and_then(Stat::parse) else { return };
    if let Some(boot) = read("/proc/stat").as_deref().and_then(boot_seconds) {
        let start = boot + stat.start_ticks / TICKS_PER_SECOND;
        gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            Some(start),
        );
    }
    let cpu = stat.cpu_ticks / TICKS_PER_SECOND;
    let help = "Total user and system CPU time spent in seconds.";
    page.sample("process_cpu_seconds_total", Kind::Counter, help, &[], cpu);
}

/// A soft limit of `/proc/self/limits`; -1 says that there is none, as Go's collector does.
fn soft_limit(limits: &str, name: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(-1.0),
        number => number.parse().ok(),
    }
}

/// A size of `/proc/self/status`, in bytes.
fn field_kilobytes(status: &str, name: &str) -> Option<f64> {
    field(status, name).map(|kilobytes| kilobytes * 1024.0)
}

/// A number of `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// When the machine was started, in seconds of unix time.
fn boot_seconds(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The fields of `/proc/self/stat` that are needed.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    start_ticks: f64,
}

impl Stat {
    fn parse(stat: &str) -> Option<Self> {
        // The name, in parentheses, may hold anything.
        let (_, rest) = stat.rsplit_once(") ")?;
        let field = |number: usize| rest.split(' ').nth(number - 3)?.parse::<f64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4 5 0 0 0 30 12 0 0 20 0 9 0 4711 1 2";
        assert_eq!(Stat::parse(stat), Some(Stat { cpu_ticks: 42.0, start_ticks: 4711.0 }));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn limits_and_sizes_are_read() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024   4096  files\n\
            Max address space  unlimited  unlimited bytes\n";
        assert_eq!(soft_limit(limits, "Max open files"), Some(1024.0));
        assert_eq!(soft_limit(limits, "Max address space"), Some(-1.0));
        assert_eq!(field_kilobytes("Name:\tx\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12_288.0));
        assert_eq!(boot_seconds("cpu 1\nbtime 99\n"), Some(99.0));
    }
}
