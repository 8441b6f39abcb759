//! The table: what each row measures, what must hold and what is aimed at.

use std::pin::Pin;

use super::lifecycle;
use super::loads::{self, Site, Taken};
use crate::connection::BenchError;

/// The figures of one run of one server, in the order of the row's.
pub(super) type Measuring<'a> = Pin<Box<dyn Future<Output = Result<Taken, BenchError>> + Send + 'a>>;

/// A bound of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Cairn's is at most so many times etcd's.
    AtMost(f64),
    /// Cairn's is at least so many times etcd's.
    AtLeast(f64),
    /// Cairn's own figure is below this; etcd's stands beside it.
    Below(f64),
    /// Nothing is demanded: the figure is there to be known.
    Free,
}

impl Bound {
    /// Whether the bound holds.
    pub fn holds(self, etcd: f64, cairn: f64) -> bool {
        match self {
            Self::AtMost(ratio) => cairn <= etcd * ratio,
            Self::AtLeast(ratio) => cairn >= etcd * ratio,
            Self::Below(limit) => cairn < limit,
            Self::Free => true,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(ratio) => write!(f, "<= {ratio:.3}x"),
            Self::AtLeast(ratio) => write!(f, ">= {ratio:.2}x"),
            Self::Below(limit) => write!(f, "< {limit:.2}"),
            Self::Free => Ok(()),
        }
    }
}

/// A number of a row.
#[derive(Debug)]
pub struct Figure {
    /// What it is, with its unit.
    pub name: &'static str,
    /// What has to hold.
    pub must: Bound,
    /// What would be better.
    pub aim: Bound,
}

/// A row of the table.
pub struct Row {
    /// For `--rows`.
    pub name: &'static str,
    /// The work.
    pub work: &'static str,
    /// What is measured of it.
    pub figures: &'static [Figure],
    /// Takes minutes and etcd has no part in it, so it is run only when asked for and in the first round
    /// only.
    pub long: bool,
    pub(super) measure: for<'a> fn(Site<'a>) -> Measuring<'a>,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const fn at_most(name: &'static str, must: f64, aim: f64) -> Figure {
    Figure { name, must: Bound::AtMost(must), aim: Bound::AtMost(aim) }
}

const fn at_least(name: &'static str, must: f64, aim: f64) -> Figure {
    Figure { name, must: Bound::AtLeast(must), aim: Bound::AtLeast(aim) }
}

const fn below(name: &'static str, must: f64, aim: f64) -> Figure {
    Figure { name, must: Bound::Below(must), aim: Bound::Below(aim) }
}

const fn free(name: &'static str) -> Figure {
    Figure { name, must: Bound::Free, aim: Bound::Free }
}

/// All rows, in the order of the table.
pub const ROWS: [Row; 17] = [
    Row {
        name: "put",
        work: "1 member, puts of 256 bytes, 100 connections / 1,000 clients",
        figures: &[
            at_most("server CPU us/put", 0.5, 1.0 / 3.0),
            at_least("puts/s", 1.6, 1.9),
            at_most("p99 us", 0.6, 0.4),
        ],
        long: false,
        measure: |site| Box::pin(loads::put(site, 1)),
    },
    Row {
        name: "put-1",
        work: "1 member, puts of 1 connection / 1 client",
        figures: &[at_least("puts/s", 1.25, 1.45)],
        long: false,
        measure: |site| Box::pin(loads::put_alone(site)),
    },
    Row {
        name: "put-3",
        work: "3 members, puts to the leader, 100 connections / 1,000 clients",
        figures: &[
            at_most("CPU us/put of all members", 0.5, 1.0 / 3.0),
            at_least("puts/s", 1.6, 2.2),
            at_most("p99 us", 0.6, 0.4),
        ],
        long: false,
        measure: |site| Box::pin(loads::put(site, 3)),
    },
    Row {
        name: "get",
        work: "linearizable gets, freshly started, 100 / 1,000",
        figures: &[at_most("server CPU us/get", 0.4, 0.25), at_least("gets/s", 1.8, 2.5)],
        long: false,
        measure: |site| Box::pin(loads::get(site)),
    },
    Row {
        name: "after-puts",
        work: "the same and txns of one put, after 100,000 puts",
        figures: &[at_least("gets/s", 3.0, 5.0), at_least("txns/s", 3.0, 5.0)],
        long: false,
        measure: |site| Box::pin(loads::after_puts(site)),
    },
    Row {
        name: "range",
        work: "range of 10,000 keys, 1 client",
        figures: &[at_most("p50 us", 1.0 / 3.0, 1.0 / 6.0)],
        long: false,
        measure: |site| Box::pin(loads::range(site)),
    },
    Row {
        name: "txn",
        work: "txns of 10 puts, 10 / 100",
        figures: &[at_least("txns/s", 2.5, 5.0)],
        long: false,
        measure: |site| Box::pin(loads::txn(site)),
    },
    Row {
        name: "stm",
        work: "STM, 2 of 1,000 keys, 10 / 100",
        figures: &[at_least("commits/s", 2.5, 5.0)],
        long: false,
        measure: |site| Box::pin(loads::stm(site)),
    },
    Row {
        name: "lease",
        work: "lease keepalive, 10 / 100",
        figures: &[at_most("server CPU us/renewal", 0.4, 0.25)],
        long: false,
        measure: |site| Box::pin(loads::lease(site)),
    },
    Row {
        name: "watch",
        work: "100 watchers, 100 puts/s",
        figures: &[at_most("put to event p99 us", 0.6, 0.4)],
        long: false,
        measure: |site| Box::pin(loads::watch(site)),
    },
    Row {
        name: "watch-many",
        work: "10,000 watchers on one key",
        figures: &[at_most("last delivery us", 1.0 / 3.0, 1.0 / 6.0)],
        long: false,
        measure: |site| Box::pin(loads::watch_many(site)),
    },
    Row {
        name: "fan-out",
        work: "1,000 watchers, 10 clients that put",
        figures: &[at_least("events per server CPU second", 2.0, 4.0)],
        long: false,
        measure: |site| Box::pin(loads::fan_out(site)),
    },
    Row {
        name: "million",
        work: "1,000,000 keys of 256 bytes (or --keys)",
        figures: &[
            at_most("RSS MiB after loading", 1.0 / 3.0, 0.125),
            at_most("RSS MiB after a restart", 1.0 / 3.0, 0.125),
            at_most("start to first get, ms", 0.1, 0.02),
            free("full snapshot, ms"),
        ],
        long: false,
        measure: |site| Box::pin(lifecycle::million(site)),
    },
    Row {
        name: "failover",
        work: "3 members, kill -9 of the leader",
        figures: &[at_most("to the next write, ms", 0.5, 0.125)],
        long: false,
        measure: |site| Box::pin(lifecycle::failover(site)),
    },
    Row {
        name: "stalls",
        work: "p99 of puts while storage works (or --keys revisions), in multiples of quiet",
        figures: &[
            below("during compaction", 2.0, 1.2),
            below("during defragment", 2.0, 1.2),
            below("during a full snapshot", 2.0, 1.2),
            free("compaction, ms"),
            free("defragment, ms"),
            free("full snapshot, ms"),
            free("quiet p99, ms"),
        ],
        long: false,
        measure: |site| Box::pin(lifecycle::stalls(site)),
    },
    Row {
        name: "ten-million",
        work: "ten times --keys against --keys",
        figures: &[below("RSS grows to", 1.25, 1.05), below("start grows to", 1.25, 1.05)],
        long: true,
        measure: |site| Box::pin(lifecycle::ten_times(site)),
    },
    Row {
        name: "scale",
        work: "server CPU per operation from 10,000 keys to ten times --keys",
        figures: &[below("put grows to", 1.4, 1.15), below("get grows to", 1.4, 1.15)],
        long: true,
        measure: |site| Box::pin(lifecycle::scale(site)),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_compare_cairn_with_etcd() {
        assert!(Bound::AtMost(0.5).holds(10.0, 5.0) && !Bound::AtMost(0.5).holds(10.0, 5.1));
        assert!(Bound::AtLeast(2.0).holds(10.0, 20.0) && !Bound::AtLeast(2.0).holds(10.0, 19.9));
        assert!(Bound::Below(2.0).holds(100.0, 1.9) && !Bound::Below(2.0).holds(0.1, 2.0));
    }
}
