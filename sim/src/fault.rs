//! The kinds of faults that a seed may start at some moment, with how often each comes.

use cairn_core::rng::Rng;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Fault {
    Crash,
    CrashInDrain,
    CrashAtSync,
    CrashAll,
    RestartStorm,
    Pause,
    SlowCpu,
    ClockStep,
    ClockStrobe,
    MoveLeader,
    Partition,
    OneWay,
    NonTransitive,
    IsolateLeader,
    IsolateOne,
    Swizzle,
    Clog,
    Throttle,
    Reset,
    HalfOpen,
    SlowDisk,
    StuckDisk,
    FullDisk,
    SyncFails,
    ReadMisdirected,
    ReadFails,
    BitRot,
    WriteLost,
    WriteMisdirected,
    FileMissing,
    FileRenamedBack,
    FileTruncated,
    FileExtended,
    Rollback,
    Wipe,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 35] = [
        Self::Crash,
        Self::CrashInDrain,
        Self::CrashAtSync,
        Self::CrashAll,
        Self::RestartStorm,
        Self::Pause,
        Self::SlowCpu,
        Self::ClockStep,
        Self::ClockStrobe,
        Self::MoveLeader,
        Self::Partition,
        Self::OneWay,
        Self::NonTransitive,
        Self::IsolateLeader,
        Self::IsolateOne,
        Self::Swizzle,
        Self::Clog,
        Self::Throttle,
        Self::Reset,
        Self::HalfOpen,
        Self::SlowDisk,
        Self::StuckDisk,
        Self::FullDisk,
        Self::SyncFails,
        Self::ReadMisdirected,
        Self::ReadFails,
        Self::BitRot,
        Self::WriteLost,
        Self::WriteMisdirected,
        Self::FileMissing,
        Self::FileRenamedBack,
        Self::FileTruncated,
        Self::FileExtended,
        Self::Rollback,
        Self::Wipe,
    ];

    /// Whether it takes or spoils what was durable.
    pub fn damages(self) -> bool {
        self >= Self::ReadFails
    }

    /// Whether it needs a second member.
    fn needs_peers(self) -> bool {
        (Self::MoveLeader..=Self::HalfOpen).contains(&self)
    }
}

/// How likely each fault is, relative to the others; 0 for never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights([u64; Fault::ALL.len()]);

impl Weights {
    /// No fault at all.
    pub fn none() -> Self {
        Self([0; Fault::ALL.len()])
    }

    /// A seed's choice: some kinds often, some seldom, some not at all, so that rare combinations come
    /// up (swarm testing, Groce et al., ISSTA'12).
    pub fn draw(rng: &mut Rng, members: usize, damage: bool, clocks: bool) -> Self {
        let mut weights = Self::none();
        for fault in Fault::ALL {
            let max = match fault {
                Fault::CrashAll | Fault::RestartStorm => 2,
                _ => 6,
            };
            let drawn = if rng.chance(1, 2) { 0 } else { 1 + rng.below(max) };
            let clock = matches!(fault, Fault::ClockStep | Fault::ClockStrobe);
            let allowed =
                (!fault.needs_peers() || members > 1) && (!fault.damages() || damage) && (!clock || clocks);
            weights.0[fault as usize] = if allowed { drawn } else { 0 };
        }
        weights.0[Fault::Crash as usize] += 1;
        weights
    }

    /// A fault, as likely as its weight; `None` when all are 0.
    pub fn choose(&self, rng: &mut Rng) -> Option<Fault> {
        let total: u64 = self.0.iter().sum();
        (total > 0).then(|| Fault::ALL[crate::workload::choose(rng, &self.0)])
    }
}
