//! What a run reached: which faults fired, what they did, and in which states of the code they struck.
//!
//! **Invariant:** counting changes nothing that a run does.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::fault::Fault;

/// What happens of itself, besides the faults that begin at a time: effects of the network's and the
/// disk's constant misbehaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Point {
    MessageLost,
    MessageDuplicated,
    MessageReordered,
    MessageSlow,
    MessageThrottled,
    MessageClogged,
    MessageCut,
    ClockDrifts,
    PowerLost,
    WriteNotSynced,
    SectorGarbled,
    NameLost,
    SyncFailed,
    ReadFailed,
    ReadMisdirected,
    DiskFull,
    TornTailCut,
    DamageFound,
    MemberReplaced,
    Replayed,
    SnapshotInstalled,
    OutcomeUnknown,
}

impl Point {
    /// Every one.
    pub const ALL: [Self; 22] = [
        Self::MessageLost,
        Self::MessageDuplicated,
        Self::MessageReordered,
        Self::MessageSlow,
        Self::MessageThrottled,
        Self::MessageClogged,
        Self::MessageCut,
        Self::ClockDrifts,
        Self::PowerLost,
        Self::WriteNotSynced,
        Self::SectorGarbled,
        Self::NameLost,
        Self::SyncFailed,
        Self::ReadFailed,
        Self::ReadMisdirected,
        Self::DiskFull,
        Self::TornTailCut,
        Self::DamageFound,
        Self::MemberReplaced,
        Self::Replayed,
        Self::SnapshotInstalled,
        Self::OutcomeUnknown,
    ];
}

/// What a member is in the middle of when a fault strikes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Doing {
    Leading,
    Following,
    Campaigning,
    Learning,
    Starting,
    Appending,
    Flushing,
    Compacting,
    Defragmenting,
    SendingSnapshot,
    ReceivingSnapshot,
    InstallingSnapshot,
    TransferringLeadership,
    ChangingMembership,
    ExpiringLease,
    NoSpace,
    CatchingUpWatcher,
    Reading,
}

impl Doing {
    /// Every one.
    pub const ALL: [Self; 18] = [
        Self::Leading,
        Self::Following,
        Self::Campaigning,
        Self::Learning,
        Self::Starting,
        Self::Appending,
        Self::Flushing,
        Self::Compacting,
        Self::Defragmenting,
        Self::SendingSnapshot,
        Self::ReceivingSnapshot,
        Self::InstallingSnapshot,
        Self::TransferringLeadership,
        Self::ChangingMembership,
        Self::ExpiringLease,
        Self::NoSpace,
        Self::CatchingUpWatcher,
        Self::Reading,
    ];
}

/// Why a cell can only be empty; `None` when it must be reached.
pub fn impossible(fault: Fault, doing: Doing) -> Option<&'static str> {
    match (fault, doing) {
        (fault, Doing::ChangingMembership | Doing::Learning) if fault.damages() => {
            Some("damage waits until every member is a healthy voter: else no good copy may be left")
        }
        _ => None,
    }
}

/// The counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    points: BTreeMap<Point, u64>,
    cells: BTreeMap<(Fault, Doing), u64>,
    fired: BTreeMap<Fault, u64>,
}

impl Coverage {
    /// Something happened.
    pub fn hit(&mut self, point: Point) {
        self.add(point, 1);
    }

    /// Something happened so often.
    pub fn add(&mut self, point: Point, times: u64) {
        if times > 0 {
            *self.points.entry(point).or_default() += times;
        }
    }

    /// A fault struck a member in the middle of these.
    pub fn strike(&mut self, fault: Fault, doing: &[Doing]) {
        *self.fired.entry(fault).or_default() += 1;
        for doing in doing {
            *self.cells.entry((fault, *doing)).or_default() += 1;
        }
    }

    /// Takes another run's counters in.
    pub fn merge(&mut self, other: &Self) {
        for (point, times) in &other.points {
            *self.points.entry(*point).or_default() += times;
        }
        for (cell, times) in &other.cells {
            *self.cells.entry(*cell).or_default() += times;
        }
        for (fault, times) in &other.fired {
            *self.fired.entry(*fault).or_default() += times;
        }
    }

    /// The counters in one line, for [`Coverage::decode`].
    pub fn encode(&self) -> String {
        let mut text = String::new();
        for point in Point::ALL {
            let _ = write!(text, "{} ", self.points.get(&point).copied().unwrap_or(0));
        }
        for fault in Fault::ALL {
            let _ = write!(text, "{} ", self.fired.get(&fault).copied().unwrap_or(0));
            for doing in Doing::ALL {
                let _ = write!(text, "{} ", self.cells.get(&(fault, doing)).copied().unwrap_or(0));
            }
        }
        text
    }

    /// What [`Coverage::encode`] wrote; nothing of what is cut off.
    pub fn decode(text: &str) -> Self {
        let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        let mut coverage = Self::default();
        for point in Point::ALL {
            coverage.add(point, next());
        }
        for fault in Fault::ALL {
            let times = next();
            if times > 0 {
                coverage.fired.insert(fault, times);
            }
            for doing in Doing::ALL {
                let times = next();
                if times > 0 {
                    coverage.cells.insert((fault, doing), times);
                }
            }
        }
        coverage
    }

    /// What must be reached and was not.
    pub fn holes(&self) -> Vec<String> {
        let points = Point::ALL.into_iter().filter(|point| !self.points.contains_key(point));
        let mut holes: Vec<String> = points.map(|point| format!("{point:?}")).collect();
        for fault in Fault::ALL {
            if !self.fired.contains_key(&fault) {
                holes.push(format!("{fault:?}"));
                continue;
            }
            for doing in Doing::ALL {
                if impossible(fault, doing).is_none() && !self.cells.contains_key(&(fault, doing)) {
                    holes.push(format!("{fault:?} while {doing:?}"));
                }
            }
        }
        holes
    }

    /// The counters as a table: a row a fault, a column a state; `-` where it cannot be.
    pub fn table(&self) -> String {
        let mut text = String::from("what happened:");
        for (at, point) in Point::ALL.into_iter().enumerate() {
            let times = self.points.get(&point).copied().unwrap_or(0);
            let _ = write!(
                text,
                "{}{:<20}{times:>9}",
                if at % 3 == 0 { "\n  " } else { "   " },
                format!("{point:?}")
            );
        }
        text.push_str("\n\nfaults by what the member was doing:\n  ");
        for (at, doing) in Doing::ALL.into_iter().enumerate() {
            let _ = write!(text, "{}{}={doing:?}", if at == 0 { "" } else { " " }, letter(at));
        }
        let _ = write!(text, "\n  {:<20}{:>8}", "", "all");
        for at in 0..Doing::ALL.len() {
            let _ = write!(text, "{:>6}", letter(at));
        }
        for fault in Fault::ALL {
            let fired = self.fired.get(&fault).copied().unwrap_or(0);
            let _ = write!(text, "\n  {:<20}{fired:>8}", format!("{fault:?}"));
            for doing in Doing::ALL {
                match self.cells.get(&(fault, doing)) {
                    None if impossible(fault, doing).is_some() => text.push_str("     -"),
                    times => {
                        let _ = write!(text, "{:>6}", times.copied().unwrap_or(0));
                    }
                }
            }
        }
        text
    }
}

fn letter(at: usize) -> char {
    char::from(b'a' + at as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_survive_their_line_of_text_and_tell_what_is_missing() {
        let mut coverage = Coverage::default();
        coverage.add(Point::DiskFull, 3);
        coverage.strike(Fault::Crash, &[Doing::Leading, Doing::Appending]);
        coverage.strike(Fault::Crash, &[]);
        let mut read = Coverage::decode(&coverage.encode());
        assert_eq!(read, coverage);
        read.merge(&coverage);
        assert_eq!(read.points[&Point::DiskFull], 6);
        assert_eq!(read.fired[&Fault::Crash], 4);
        let holes = read.holes();
        assert!(!holes.contains(&"DiskFull".to_owned()) && holes.contains(&"NameLost".to_owned()));
        assert!(!holes.contains(&"Crash while Leading".to_owned()));
        assert!(holes.contains(&"Crash while Flushing".to_owned()));
        assert!(read.table().lines().any(|line| line.trim_start().starts_with("Crash ")));
    }
}
