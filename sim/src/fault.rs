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

    /// How often it is aimed at a rare state, relative to others: the more often, the less it comes to
    /// strike there by itself. Where there is damage at all, all others have other runs to strike in.
    fn aimed(self, damage: bool) -> u64 {
        match self {
            // It needs an older image, and seldom has one.
            Self::Rollback => 60,
            _ if self.damages() => 12,
            _ if damage => 0,
            Self::ClockStep | Self::ClockStrobe => 12,
            Self::CrashAll | Self::RestartStorm | Self::Swizzle => 4,
            _ => 1,
        }
    }

    /// Whether it needs a second member.
    fn needs_peers(self) -> bool {
        (Self::MoveLeader..=Self::HalfOpen).contains(&self)
    }
}

/// How likely each fault is, relative to the others; 0 for never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    usual: [u64; Fault::ALL.len()],
    aimed: [u64; Fault::ALL.len()],
}

impl Weights {
    /// No fault at all.
    pub fn none() -> Self {
        let none = [0; Fault::ALL.len()];
        Self { usual: none, aimed: none }
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
            if allowed {
                weights.usual[fault as usize] = drawn;
                weights.aimed[fault as usize] = fault.aimed(damage);
            }
        }
        weights.usual[Fault::Crash as usize] += 1;
        weights
    }

    /// A fault, as likely as its weight; `None` when all are 0.
    pub fn choose(&self, rng: &mut Rng) -> Option<Fault> {
        draw(rng, &self.usual)
    }

    /// A fault for a state that is rare, of a kind that seldom comes by itself.
    pub fn choose_aimed(&self, rng: &mut Rng) -> Option<Fault> {
        draw(rng, &self.aimed)
    }

    /// Damage comes aimed only.
    pub fn aim_damage(&mut self) {
        Fault::ALL
            .into_iter()
            .filter(|fault| fault.damages())
            .for_each(|fault| self.usual[fault as usize] = 0);
    }
}

fn draw(rng: &mut Rng, weights: &[u64]) -> Option<Fault> {
    let total: u64 = weights.iter().sum();
    (total > 0).then(|| Fault::ALL[crate::workload::choose(rng, weights)])
}
